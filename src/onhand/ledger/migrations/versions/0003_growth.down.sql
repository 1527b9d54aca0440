CREATE INDEX stock_movements_reference ON stock_movements (reference_document) WHERE reference_document <> '';
DROP INDEX count_tasks_queue;
DROP INDEX locations_near;
