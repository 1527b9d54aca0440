ALTER TABLE fulfillment_orders DROP COLUMN taken_on_time;
DROP TABLE sourcing_decisions;
