-- Possession wins, and whose promise it broke is written down: until here a shortage named a position, not an order.

-- short: units promised to orders that are not there: open work still has to bring allocated + short.
-- overdrawn_time: when a fact last took units that reservations held; where it is null none of them is short.
ALTER TABLE stock_levels
    ADD COLUMN short bigint NOT NULL DEFAULT 0 CHECK (short >= 0),
    ADD COLUMN overdrawn_time timestamptz;
CREATE INDEX stock_levels_overdrawn ON stock_levels (location_id, sku) WHERE overdrawn_time IS NOT NULL;

-- Units of a fulfillment line that a fact showed not to be there. Changed only under the lock of their stock level.
-- No key to orders: its rows are locked for update before levels, and this one is written after.
CREATE TABLE shortfalls (
    shortfall_id         uuid PRIMARY KEY,
    location_id          text NOT NULL,
    sku                  text NOT NULL,
    fulfillment_order_id uuid NOT NULL,
    line_number          int NOT NULL,
    quantity             bigint NOT NULL CHECK (quantity > 0),
    open_quantity        bigint NOT NULL,
    cause                text NOT NULL CHECK (cause IN ('SALE', 'COUNT')),
    reference_document   text NOT NULL,
    next_step            text NOT NULL CHECK (next_step IN ('COUNT', 'CHOOSE', 'WAIT', 'NONE')),
    created_time         timestamptz NOT NULL DEFAULT now(),
    updated_time         timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (location_id, sku) REFERENCES stock_levels,
    FOREIGN KEY (fulfillment_order_id, line_number) REFERENCES fulfillment_lines,
    CHECK (open_quantity BETWEEN 0 AND quantity),
    CHECK ((open_quantity = 0) = (next_step = 'NONE'))
);
CREATE INDEX shortfalls_open ON shortfalls (shortfall_id) WHERE open_quantity > 0;
CREATE INDEX shortfalls_open_at ON shortfalls (location_id, sku, shortfall_id) WHERE open_quantity > 0;
CREATE INDEX shortfalls_of_work ON shortfalls (fulfillment_order_id);

-- How units stopped being short: quantity = open_quantity + the sum of these.
CREATE TABLE shortfall_ends (
    shortfall_id       uuid NOT NULL REFERENCES shortfalls,
    end_number         int NOT NULL CHECK (end_number > 0),
    quantity           bigint NOT NULL CHECK (quantity > 0),
    reason             text NOT NULL CHECK (reason IN ('COUNTED', 'COVERED', 'IN_HAND', 'CANCELLED')),
    reference_document text NOT NULL,
    ended_time         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (shortfall_id, end_number)
);
CREATE TRIGGER shortfall_ends_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON shortfall_ends
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- What is short by reservations now is known from the rows.
UPDATE stock_levels s SET overdrawn_time = now()
  FROM (SELECT c.location_id, line ->> 0 AS sku, sum((line ->> 1)::int8) AS reserved
          FROM claims c CROSS JOIN jsonb_array_elements(c.lines) AS line WHERE c.state = 'active' GROUP BY 1, 2) AS r
 WHERE s.location_id = r.location_id AND s.sku = r.sku AND r.reserved > s.available;

-- What is short by orders is not: `allocated` kept units that a count missed. So nothing is guessed, and a person is asked to
-- count where a shortage was recorded and orders still wait; the count opens what shortfalls there are.
INSERT INTO count_tasks (count_task_id, location_id, sku, reason_code, reference_document)
SELECT gen_random_uuid(), h.location_id, h.sku, 'SHORTAGE_BEFORE_SHORTFALLS', max(h.reference_document)
  FROM shortages h JOIN stock_levels s USING (location_id, sku)
 WHERE s.allocated > 0
   AND NOT EXISTS (SELECT FROM count_tasks t
                    WHERE t.location_id = h.location_id AND t.sku = h.sku AND t.state = 'OPEN')
 GROUP BY h.location_id, h.sku;
