ALTER TABLE fulfillment_orders DROP COLUMN ready_time;
