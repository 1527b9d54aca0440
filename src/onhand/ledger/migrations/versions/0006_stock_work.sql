-- What a store does with its stock: transfers to their end, goods that suppliers announce, counts while the store is open.

-- --------------------------------------------------------------------------------------------------------- transfers
-- Units are lost on the way, or found there: neither location has them then, and the receiver's ledger says so.
ALTER TABLE stock_movements DROP CONSTRAINT stock_movements_check1;
ALTER TABLE stock_movements ADD CONSTRAINT stock_movements_touch_stock CHECK (
    from_bucket IN ('available', 'allocated', 'damaged', 'quarantine')
    OR to_bucket IN ('available', 'allocated', 'damaged', 'quarantine')
    OR (from_bucket, to_bucket) IN (('in_transit', 'adjustment'), ('adjustment', 'in_transit')));

ALTER TABLE transfers DROP CONSTRAINT transfers_state_check;
ALTER TABLE transfers ADD CONSTRAINT transfers_state_check
    CHECK (state IN ('REQUESTED', 'IN_TRANSIT', 'RECEIVED', 'CLOSED', 'CANCELLED'));
ALTER TABLE transfers
    ADD COLUMN expected_time timestamptz,
    ADD COLUMN reason_code text NOT NULL DEFAULT '';

-- On their way: dispatched + over - received - lost - returned. over: received, and not known to be sent.
ALTER TABLE transfer_lines DROP CONSTRAINT transfer_lines_dispatched_check, DROP CONSTRAINT transfer_lines_check;
ALTER TABLE transfer_lines
    ADD COLUMN requested bigint NOT NULL DEFAULT 0 CHECK (requested >= 0),
    ADD COLUMN over bigint NOT NULL DEFAULT 0 CHECK (over >= 0),
    ADD COLUMN lost bigint NOT NULL DEFAULT 0 CHECK (lost >= 0),
    ADD COLUMN returned bigint NOT NULL DEFAULT 0 CHECK (returned >= 0),
    ADD CONSTRAINT transfer_lines_dispatched_check CHECK (dispatched >= 0),
    ADD CONSTRAINT transfer_lines_about_something CHECK (requested + dispatched + over > 0),
    ADD CONSTRAINT transfer_lines_on_way CHECK (over <= received AND received + lost + returned <= dispatched + over);

-- What is open is asked for all the time, and stays few; what ever was, by pages.
DROP INDEX transfers_to;
DROP INDEX transfers_from;
CREATE INDEX transfers_to ON transfers (to_location_id, transfer_id);
CREATE INDEX transfers_from ON transfers (from_location_id, transfer_id);
CREATE INDEX transfers_open_to ON transfers (to_location_id, transfer_id) WHERE state IN ('REQUESTED', 'IN_TRANSIT');
CREATE INDEX transfers_open_from ON transfers (from_location_id, transfer_id) WHERE state IN ('REQUESTED', 'IN_TRANSIT');

-- -------------------------------------------------------------------------------------------------------- backorders
-- Units beyond what is there that orders may be promised, and that they were: open shortfalls of cause BACKORDER, a part of
-- `short`. The gate's floor is safety_stock - greatest(0, backorder_limit - backordered) (onhand.ledger.floors).
ALTER TABLE stock_levels
    ADD COLUMN backorder_limit bigint NOT NULL DEFAULT 0 CHECK (backorder_limit >= 0),
    ADD COLUMN backordered bigint NOT NULL DEFAULT 0,
    ADD CONSTRAINT stock_levels_backordered_check CHECK (backordered BETWEEN 0 AND short);
-- Where backorders wait. Nothing about `available`: an index that names it would make every change of a level a change of it.
CREATE INDEX stock_levels_backordered ON stock_levels (location_id, sku) WHERE backordered > 0;
ALTER TABLE shortfalls DROP CONSTRAINT shortfalls_cause_check;
ALTER TABLE shortfalls ADD CONSTRAINT shortfalls_cause_check CHECK (cause IN ('SALE', 'COUNT', 'BACKORDER'));

-- --------------------------------------------------------------------------------------------------- advance notices
CREATE TABLE advance_notices (
    advance_notice_id  uuid PRIMARY KEY,
    location_id        text NOT NULL REFERENCES locations,
    supplier           text NOT NULL CHECK (supplier <> ''),
    supplier_reference text NOT NULL DEFAULT '',
    expected_time      timestamptz NOT NULL,
    state              text NOT NULL DEFAULT 'EXPECTED'
                       CHECK (state IN ('EXPECTED', 'RECEIVING', 'RECEIVED', 'CLOSED', 'CANCELLED')),
    reason_code        text NOT NULL DEFAULT '',
    actor              text NOT NULL DEFAULT '',
    version            bigint NOT NULL DEFAULT 1,
    created_time       timestamptz NOT NULL DEFAULT now(),
    updated_time       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX advance_notices_location ON advance_notices (location_id, advance_notice_id);
CREATE INDEX advance_notices_open ON advance_notices (location_id, expected_time, advance_notice_id)
    WHERE state IN ('EXPECTED', 'RECEIVING');
CREATE UNIQUE INDEX advance_notices_once ON advance_notices (supplier, supplier_reference) WHERE supplier_reference <> '';

CREATE TABLE advance_notice_lines (
    advance_notice_id uuid NOT NULL REFERENCES advance_notices,
    sku               text NOT NULL REFERENCES products,
    expected          bigint NOT NULL CHECK (expected >= 0),
    received          bigint NOT NULL DEFAULT 0 CHECK (received >= 0),
    damaged           bigint NOT NULL DEFAULT 0 CHECK (damaged BETWEEN 0 AND received),
    PRIMARY KEY (advance_notice_id, sku),
    CHECK (expected + received > 0)
);

-- ------------------------------------------------------------------------------------------------------------ counts
CREATE TABLE counts (
    count_id           uuid PRIMARY KEY,
    location_id        text NOT NULL REFERENCES locations,
    scope              text NOT NULL CHECK (scope IN ('SKUS', 'LOCATION', 'COUNT_TASKS')),
    is_blind           boolean NOT NULL,
    state              text NOT NULL DEFAULT 'COUNTING' CHECK (state IN ('COUNTING', 'REVIEW', 'APPROVED', 'CANCELLED')),
    tolerance_quantity bigint NOT NULL CHECK (tolerance_quantity >= 0),
    tolerance_percent  bigint NOT NULL CHECK (tolerance_percent BETWEEN 0 AND 100),
    -- The last movement of the location that the count began after: nothing before it is ever added to what was counted.
    ledger_position    bigint NOT NULL,
    actor              text NOT NULL DEFAULT '',
    started_time       timestamptz NOT NULL,
    updated_time       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX counts_location ON counts (location_id, count_id);
CREATE INDEX counts_open ON counts (location_id, count_id) WHERE state IN ('COUNTING', 'REVIEW');

-- What was counted holds for as_of_time, or, where that is null, for as_of_position (a movement of the location).
CREATE TABLE count_lines (
    count_id        uuid NOT NULL REFERENCES counts,
    sku             text NOT NULL REFERENCES products,
    state           text NOT NULL DEFAULT 'TO_COUNT' CHECK (state IN ('TO_COUNT', 'COUNTED', 'APPROVED', 'DROPPED')),
    attempts        int NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    counted         bigint CHECK (counted >= 0),
    expected        bigint,
    as_of_time      timestamptz,
    as_of_position  bigint,
    is_within       boolean,
    counted_by      text NOT NULL DEFAULT '',
    counted_time    timestamptz,
    booked          bigint,
    approved_by     text NOT NULL DEFAULT '',
    approved_time   timestamptz,
    PRIMARY KEY (count_id, sku),
    CHECK ((counted IS NULL) = (expected IS NULL) AND (counted IS NULL) = (is_within IS NULL)),
    CHECK ((counted IS NULL) = (as_of_time IS NULL AND as_of_position IS NULL)),
    CHECK (state NOT IN ('COUNTED', 'APPROVED') OR counted IS NOT NULL),
    CHECK ((state = 'APPROVED') = (booked IS NOT NULL) AND (state = 'APPROVED') = (approved_time IS NOT NULL))
) WITH (fillfactor = 80);
CREATE INDEX count_lines_state ON count_lines (count_id, state, sku);

-- Every attempt at a line, whatever became of it.
CREATE TABLE count_attempts (
    count_id       uuid NOT NULL,
    sku            text NOT NULL,
    attempt        int NOT NULL CHECK (attempt > 0),
    counted        bigint NOT NULL,
    expected       bigint NOT NULL,
    as_of_time     timestamptz,
    as_of_position bigint,
    counted_by     text NOT NULL,
    recorded_time  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (count_id, sku, attempt),
    FOREIGN KEY (count_id, sku) REFERENCES count_lines
);
CREATE TRIGGER count_attempts_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON count_attempts
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- The variance report: what counts changed at a location, the newest first. Rows of it are written once and never change.
CREATE TABLE count_variances (
    location_id   text NOT NULL,
    variance_id   uuid NOT NULL,
    count_id      uuid NOT NULL,
    sku           text NOT NULL,
    counted       bigint NOT NULL,
    expected      bigint NOT NULL,
    booked        bigint NOT NULL,
    counted_by    text NOT NULL,
    approved_by   text NOT NULL,
    approved_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (location_id, variance_id),
    FOREIGN KEY (count_id, sku) REFERENCES count_lines
);
CREATE TRIGGER count_variances_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON count_variances
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
