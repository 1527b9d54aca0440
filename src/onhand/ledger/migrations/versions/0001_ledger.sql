-- The ledger: the truth about stock, and the orders that run against it.
-- Keys are natural and textual (location_id, sku): the hot path looks nothing up, and the rows read by themselves.
-- Tables of stock are keyed by location_id first, so that they can be distributed by it.

-- ------------------------------------------------------------------------------------------------ locations, catalog
CREATE TABLE locations (
    location_id    text PRIMARY KEY CHECK (location_id ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
    kind           text NOT NULL CHECK (kind IN ('STORE', 'WAREHOUSE', 'VIRTUAL')),
    name           text NOT NULL,
    latitude       double precision CHECK (latitude BETWEEN -90 AND 90),
    longitude      double precision CHECK (longitude BETWEEN -180 AND 180),
    time_zone      text NOT NULL DEFAULT 'UTC',
    opening_hours  jsonb NOT NULL DEFAULT '[]',
    offers_pickup  boolean NOT NULL DEFAULT true,
    offers_shipping boolean NOT NULL DEFAULT true,
    version        bigint NOT NULL DEFAULT 1,
    created_time   timestamptz NOT NULL DEFAULT now(),
    updated_time   timestamptz NOT NULL DEFAULT now(),
    deleted_time   timestamptz,
    CHECK ((latitude IS NULL) = (longitude IS NULL))
);

CREATE TABLE location_groups (
    location_group_id text PRIMARY KEY CHECK (location_group_id ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$'),
    name              text NOT NULL,
    version           bigint NOT NULL DEFAULT 1,
    created_time      timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE location_group_members (
    location_group_id text NOT NULL REFERENCES location_groups ON DELETE CASCADE,
    location_id       text NOT NULL REFERENCES locations,
    PRIMARY KEY (location_group_id, location_id)
);
CREATE INDEX location_group_members_location ON location_group_members (location_id);

CREATE TABLE products (
    sku           text PRIMARY KEY CHECK (sku ~ '^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$'),
    name          text NOT NULL,
    brand         text NOT NULL DEFAULT '',
    department    text NOT NULL DEFAULT '',
    category      text NOT NULL DEFAULT '',
    product_type  text NOT NULL DEFAULT '',
    package_size  text NOT NULL DEFAULT '',
    base_unit     text NOT NULL DEFAULT 'EACH' CHECK (base_unit IN ('EACH', 'GRAM', 'MILLILITER')),
    version       bigint NOT NULL DEFAULT 1,
    created_time  timestamptz NOT NULL DEFAULT now(),
    updated_time  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX products_department ON products (department, category, sku);
CREATE INDEX products_name ON products (lower(name) text_pattern_ops);

-- gtin: 14 digits, shorter ones with zeros before them (onhand.domain.barcode): scanners differ in how many they give.
CREATE TABLE barcodes (
    gtin text PRIMARY KEY CHECK (gtin ~ '^[0-9]{14}$'),
    sku  text NOT NULL REFERENCES products
);
CREATE INDEX barcodes_sku ON barcodes (sku);

-- amount_minor buys price_quantity base units: 263 cents for 3785 ml of fuel.
CREATE TABLE prices (
    sku            text NOT NULL REFERENCES products,
    currency       text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    amount_minor   bigint NOT NULL CHECK (amount_minor >= 0),
    price_quantity bigint NOT NULL DEFAULT 1 CHECK (price_quantity > 0),
    updated_time   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (sku, currency)
);

-- ------------------------------------------------------------------------------------------------------------- stock
CREATE TABLE stock_levels (
    location_id     text NOT NULL REFERENCES locations,
    sku             text NOT NULL REFERENCES products,
    available       bigint NOT NULL DEFAULT 0 CHECK (available >= 0),
    allocated       bigint NOT NULL DEFAULT 0 CHECK (allocated >= 0),
    damaged         bigint NOT NULL DEFAULT 0 CHECK (damaged >= 0),
    quarantine      bigint NOT NULL DEFAULT 0 CHECK (quarantine >= 0),
    safety_stock    bigint NOT NULL DEFAULT 0 CHECK (safety_stock >= 0),
    PRIMARY KEY (location_id, sku)
) WITH (fillfactor = 80);
CREATE INDEX stock_levels_sku ON stock_levels (sku);

CREATE TABLE stock_movements (
    location_id        text NOT NULL,
    movement_id        bigint GENERATED ALWAYS AS IDENTITY,
    sku                text NOT NULL,
    quantity           bigint NOT NULL CHECK (quantity > 0),
    from_bucket        text NOT NULL,
    to_bucket          text NOT NULL,
    reason_code        text NOT NULL,
    reference_document text NOT NULL DEFAULT '',
    channel            text,
    actor              text NOT NULL DEFAULT '',
    occurred_time      timestamptz NOT NULL DEFAULT now(),
    recorded_time      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (location_id, movement_id),
    FOREIGN KEY (location_id, sku) REFERENCES stock_levels,
    CHECK (from_bucket <> to_bucket),
    CHECK (from_bucket IN ('available', 'allocated', 'damaged', 'quarantine', 'in_transit', 'supplier', 'customer', 'adjustment')),
    CHECK (to_bucket IN ('available', 'allocated', 'damaged', 'quarantine', 'in_transit', 'supplier', 'customer', 'adjustment')),
    CHECK (from_bucket IN ('available', 'allocated', 'damaged', 'quarantine')
           OR to_bucket IN ('available', 'allocated', 'damaged', 'quarantine'))
);
CREATE INDEX stock_movements_sku ON stock_movements (location_id, sku, movement_id);
CREATE INDEX stock_movements_reference ON stock_movements (reference_document) WHERE reference_document <> '';

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused; correct it with a further row', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER stock_movements_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON stock_movements
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE channel_thresholds (
    channel  text NOT NULL CHECK (channel IN ('WEB', 'APP', 'PHONE', 'SOCIAL', 'MARKETPLACE')),
    sku      text NOT NULL REFERENCES products,
    quantity bigint NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (channel, sku)
);

-- One row: the version that a process's copy of the channel thresholds must have to be used.
CREATE TABLE policy_version (
    version bigint NOT NULL,
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row)
);
INSERT INTO policy_version (version) VALUES (1);

CREATE TABLE transfers (
    transfer_id      uuid PRIMARY KEY,
    from_location_id text NOT NULL REFERENCES locations,
    to_location_id   text NOT NULL REFERENCES locations,
    state            text NOT NULL CHECK (state IN ('IN_TRANSIT', 'RECEIVED')),
    created_time     timestamptz NOT NULL DEFAULT now(),
    updated_time     timestamptz NOT NULL DEFAULT now(),
    CHECK (from_location_id <> to_location_id)
);
CREATE INDEX transfers_to ON transfers (to_location_id, transfer_id) WHERE state = 'IN_TRANSIT';
CREATE INDEX transfers_from ON transfers (from_location_id, transfer_id) WHERE state = 'IN_TRANSIT';

CREATE TABLE transfer_lines (
    transfer_id uuid NOT NULL REFERENCES transfers,
    sku         text NOT NULL REFERENCES products,
    dispatched  bigint NOT NULL CHECK (dispatched > 0),
    received    bigint NOT NULL DEFAULT 0 CHECK (received >= 0),
    PRIMARY KEY (transfer_id, sku),
    CHECK (received <= dispatched)
);

-- Work for a person: what possession or a count showed to be different from the ledger.
CREATE TABLE count_tasks (
    count_task_id      uuid PRIMARY KEY,
    location_id        text NOT NULL REFERENCES locations,
    sku                text NOT NULL REFERENCES products,
    reason_code        text NOT NULL,
    reference_document text NOT NULL,
    state              text NOT NULL DEFAULT 'OPEN' CHECK (state IN ('OPEN', 'DONE')),
    created_time       timestamptz NOT NULL DEFAULT now(),
    closed_time        timestamptz
);
CREATE INDEX count_tasks_open ON count_tasks (location_id, sku) WHERE state = 'OPEN';

-- Units that a fact (a sale in hand, a count) took although they were promised: how much of the promises is broken.
CREATE TABLE shortages (
    shortage_id        uuid PRIMARY KEY,
    location_id        text NOT NULL REFERENCES locations,
    sku                text NOT NULL REFERENCES products,
    quantity           bigint NOT NULL CHECK (quantity > 0),
    reference_document text NOT NULL,
    created_time       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX shortages_position ON shortages (location_id, sku);

-- ------------------------------------------------------------------------------------- what gate and ledger agree on
-- Not tied to the location's own row, and never deleted: an epoch must never be used twice.
CREATE TABLE location_epochs (
    location_id text PRIMARY KEY,
    epoch       bigint NOT NULL DEFAULT 1,
    is_closed   boolean NOT NULL DEFAULT false  -- the location is deleted: no mutation may touch it any more
) WITH (fillfactor = 50);

CREATE TABLE location_delta_heads (
    location_id text PRIMARY KEY,
    last_number bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- What raises ATP at a location, or sets a floor there, numbered in commit order. lines: [[sku, quantity, floor|null], ...]
CREATE TABLE gate_deltas (
    location_id  text NOT NULL,
    number       bigint NOT NULL,
    lines        jsonb NOT NULL,
    created_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (location_id, number)
);

-- The journal: a row a claim. lines: [[sku, quantity], ...], a sku once.
-- reservation_id groups the claims of one basket, one a location; null where the claim never was a reservation
-- (a decrease: consumed; a closed orphan: expired).
CREATE TABLE claims (
    location_id    text NOT NULL,
    claim_id       uuid NOT NULL,
    reservation_id uuid,
    state          text NOT NULL CHECK (state IN ('active', 'confirmed', 'released', 'expired', 'consumed')),
    channel        text,
    customer_id    text NOT NULL DEFAULT '',
    lines          jsonb NOT NULL,
    deadline       timestamptz NOT NULL,
    order_id       uuid,
    created_time   timestamptz NOT NULL DEFAULT now(),
    closed_time    timestamptz,
    PRIMARY KEY (location_id, claim_id),
    CHECK (state IN ('expired', 'consumed') OR reservation_id IS NOT NULL),
    CHECK ((state = 'confirmed') = (order_id IS NOT NULL))
);
CREATE INDEX claims_reservation ON claims (reservation_id) WHERE reservation_id IS NOT NULL;
CREATE INDEX claims_due ON claims (deadline) WHERE state = 'active';
CREATE INDEX claims_active ON claims (location_id) WHERE state = 'active';

-- Exactly once: the first answer of every mutation. settles: what its repeat must see applied to the gate first,
-- [[location_id, delta number, epoch], ...].
CREATE TABLE requests (
    request_id   text PRIMARY KEY,
    method       text NOT NULL,
    body_hash    bytea NOT NULL,
    response     bytea,
    settles      jsonb,
    created_time timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX requests_created ON requests USING brin (created_time);

-- CloudEvents, written in the transaction that they tell of. A reader pages by (transaction, sequence) below
-- pg_snapshot_xmin(pg_current_snapshot()): a sequence alone is not commit order.
CREATE TABLE events (
    transaction xid8 NOT NULL DEFAULT pg_current_xact_id(),
    sequence    bigint GENERATED ALWAYS AS IDENTITY,
    event_id    uuid NOT NULL,
    type        text NOT NULL,
    subject     text NOT NULL,
    location_id text,
    data        jsonb NOT NULL,
    time        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (transaction, sequence)
);

-- -------------------------------------------------------------------------------------------------- carts and orders
CREATE TABLE carts (
    cart_id      uuid PRIMARY KEY,
    customer_id  text NOT NULL DEFAULT '',
    channel      text NOT NULL,
    currency     text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    state        text NOT NULL DEFAULT 'OPEN' CHECK (state IN ('OPEN', 'ORDERED', 'MERGED')),
    order_id     uuid,
    merged_into  uuid REFERENCES carts,
    version      bigint NOT NULL DEFAULT 1,
    created_time timestamptz NOT NULL DEFAULT now(),
    updated_time timestamptz NOT NULL DEFAULT now(),
    CHECK ((state = 'ORDERED') = (order_id IS NOT NULL)),
    CHECK ((state = 'MERGED') = (merged_into IS NOT NULL))
);
CREATE INDEX carts_customer ON carts (customer_id, cart_id) WHERE customer_id <> '';
CREATE UNIQUE INDEX carts_one_open ON carts (customer_id) WHERE state = 'OPEN' AND customer_id <> '';

CREATE TABLE cart_lines (
    cart_id    uuid NOT NULL REFERENCES carts ON DELETE CASCADE,
    sku        text NOT NULL REFERENCES products,
    quantity   bigint NOT NULL CHECK (quantity BETWEEN 1 AND 1000000000),
    added_time timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (cart_id, sku)
);

CREATE TABLE orders (
    order_id       uuid PRIMARY KEY,
    order_number   text NOT NULL UNIQUE,
    customer_id    text NOT NULL DEFAULT '',
    channel        text NOT NULL,
    currency       text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    state          text NOT NULL CHECK (state IN ('OPEN', 'COMPLETED', 'CANCELLED')),
    total_minor    bigint NOT NULL CHECK (total_minor >= 0),
    cart_id        uuid REFERENCES carts,
    reservation_id uuid,
    ship_to        jsonb,
    actor          text NOT NULL DEFAULT '',
    version        bigint NOT NULL DEFAULT 1,
    placed_time    timestamptz NOT NULL,
    created_time   timestamptz NOT NULL DEFAULT now(),
    updated_time   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX orders_customer ON orders (customer_id, order_id) WHERE customer_id <> '';
CREATE INDEX orders_open ON orders (order_id) WHERE state = 'OPEN';

CREATE TABLE order_lines (
    order_id           uuid NOT NULL REFERENCES orders,
    line_number        int NOT NULL CHECK (line_number > 0),
    sku                text NOT NULL REFERENCES products,
    quantity           bigint NOT NULL CHECK (quantity > 0),
    amount_minor       bigint NOT NULL CHECK (amount_minor >= 0),
    price_quantity     bigint NOT NULL CHECK (price_quantity > 0),
    total_minor        bigint NOT NULL CHECK (total_minor >= 0),
    fulfilled_quantity bigint NOT NULL DEFAULT 0 CHECK (fulfilled_quantity >= 0),
    cancelled_quantity bigint NOT NULL DEFAULT 0 CHECK (cancelled_quantity >= 0),
    returned_quantity  bigint NOT NULL DEFAULT 0 CHECK (returned_quantity >= 0),
    refunded_minor     bigint NOT NULL DEFAULT 0 CHECK (refunded_minor >= 0),
    PRIMARY KEY (order_id, line_number),
    CHECK (fulfilled_quantity + cancelled_quantity <= quantity),
    CHECK (returned_quantity <= fulfilled_quantity),
    CHECK (refunded_minor <= total_minor)
);

CREATE TABLE fulfillment_orders (
    fulfillment_order_id uuid PRIMARY KEY,
    order_id             uuid NOT NULL REFERENCES orders,
    location_id          text NOT NULL REFERENCES locations,
    kind                 text NOT NULL CHECK (kind IN ('PICKUP', 'SHIP', 'CARRY_OUT')),
    state                text NOT NULL CHECK (state IN ('REQUESTED', 'ACCEPTED', 'PICKED', 'READY_FOR_PICKUP',
                             'PICKED_UP', 'SHIPPED', 'DELIVERED', 'CANCELLED')),
    pickup_code_salt     bytea,
    pickup_code_hash     bytea,
    pickup_code_failures int NOT NULL DEFAULT 0,
    -- The last wrong attempt, a hash of its request and code: its repeat is not counted again.
    pickup_code_attempt  bytea,
    version              bigint NOT NULL DEFAULT 1,
    created_time         timestamptz NOT NULL DEFAULT now(),
    updated_time         timestamptz NOT NULL DEFAULT now(),
    CHECK ((kind = 'PICKUP') = (pickup_code_hash IS NOT NULL))
);
CREATE INDEX fulfillment_orders_order ON fulfillment_orders (order_id);
CREATE INDEX fulfillment_orders_location ON fulfillment_orders (location_id, order_id);
CREATE INDEX fulfillment_orders_queue ON fulfillment_orders (location_id, fulfillment_order_id)
    WHERE state IN ('REQUESTED', 'ACCEPTED', 'PICKED', 'READY_FOR_PICKUP');

CREATE TABLE fulfillment_lines (
    fulfillment_order_id uuid NOT NULL REFERENCES fulfillment_orders,
    line_number          int NOT NULL,
    sku                  text NOT NULL REFERENCES products,
    quantity             bigint NOT NULL CHECK (quantity > 0),
    cancelled_quantity   bigint NOT NULL DEFAULT 0 CHECK (cancelled_quantity >= 0),
    PRIMARY KEY (fulfillment_order_id, line_number),
    CHECK (cancelled_quantity <= quantity)
);

CREATE TABLE shipments (
    shipment_id          uuid PRIMARY KEY,
    fulfillment_order_id uuid NOT NULL REFERENCES fulfillment_orders,
    carrier              text NOT NULL,
    tracking_reference   text NOT NULL,
    shipped_time         timestamptz NOT NULL DEFAULT now(),
    delivered_time       timestamptz
);
CREATE INDEX shipments_fulfillment_order ON shipments (fulfillment_order_id);

CREATE TABLE tenders (
    order_id      uuid NOT NULL REFERENCES orders,
    tender_number int NOT NULL CHECK (tender_number > 0),
    kind          text NOT NULL CHECK (kind IN ('CASH', 'CARD', 'GIFT_CARD', 'STORE_CREDIT', 'OTHER')),
    amount_minor  bigint NOT NULL CHECK (amount_minor > 0),
    reference     text NOT NULL DEFAULT '',
    created_time  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (order_id, tender_number)
);

CREATE TABLE returns (
    return_id    uuid PRIMARY KEY,
    order_id     uuid NOT NULL REFERENCES orders,
    location_id  text NOT NULL REFERENCES locations,
    channel      text NOT NULL,
    refund_minor bigint NOT NULL CHECK (refund_minor >= 0),
    actor        text NOT NULL DEFAULT '',
    created_time timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX returns_order ON returns (order_id);
CREATE INDEX returns_location ON returns (location_id, return_id);

CREATE TABLE return_lines (
    return_id    uuid NOT NULL REFERENCES returns,
    line_number  int NOT NULL,
    disposition  text NOT NULL CHECK (disposition IN ('available', 'damaged', 'quarantine')),
    sku          text NOT NULL REFERENCES products,
    quantity     bigint NOT NULL CHECK (quantity > 0),
    reason_code  text NOT NULL DEFAULT '',
    refund_minor bigint NOT NULL CHECK (refund_minor >= 0),
    PRIMARY KEY (return_id, line_number, disposition)
);
