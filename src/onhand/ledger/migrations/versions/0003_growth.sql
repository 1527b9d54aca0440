-- What a store of 10,000 locations and 10,000,000 movements showed: docs/decisions/0013-growth.md.

-- Stores near a point are found without looking at all of them.
CREATE INDEX locations_near ON locations (latitude)
    WHERE deleted_time IS NULL AND kind = 'STORE' AND offers_pickup AND latitude IS NOT NULL;

-- A page of what is to count at a location, in its order. Where nothing else is asked, the planner walked over all tasks by id.
CREATE INDEX count_tasks_queue ON count_tasks (location_id, count_task_id) WHERE state = 'OPEN';

-- Nothing ever looked for a movement by its document; a fifth of what a booking wrote to the log was for it.
DROP INDEX stock_movements_reference;
