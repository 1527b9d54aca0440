DROP INDEX stock_movements_reference;
DROP INDEX events_order;
ALTER TABLE events DROP COLUMN request_id;
