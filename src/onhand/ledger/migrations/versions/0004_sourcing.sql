-- What sourcing asks of a location: how fast it works, and how much it takes on in a day of its own zone (0: any number).
ALTER TABLE locations
    ADD COLUMN lead_minutes     bigint NOT NULL DEFAULT 0 CHECK (lead_minutes BETWEEN 0 AND 43200),
    ADD COLUMN cut_off_minute   bigint NOT NULL DEFAULT 0 CHECK (cut_off_minute BETWEEN 0 AND 1439),
    ADD COLUMN daily_orders_max bigint NOT NULL DEFAULT 0 CHECK (daily_orders_max BETWEEN 0 AND 1000000),
    ADD COLUMN daily_units_max  bigint NOT NULL DEFAULT 0 CHECK (daily_units_max BETWEEN 0 AND 1000000000);

-- Work that came to a location since its midnight. Sales at the till are no work that was taken on.
CREATE INDEX fulfillment_orders_day ON fulfillment_orders (location_id, created_time) WHERE kind <> 'CARRY_OUT';
