DROP INDEX fulfillment_orders_day;
ALTER TABLE locations
    DROP COLUMN lead_minutes, DROP COLUMN cut_off_minute, DROP COLUMN daily_orders_max, DROP COLUMN daily_units_max;
