-- Until here a return was of an order, at a counter, at once: docs/decisions/0021-returns.md.

-- Units that a customer may send back (an RMA). They are held against other returns while it is open and not past its end.
CREATE TABLE return_authorizations (
    return_authorization_id uuid PRIMARY KEY,
    -- What is written on the parcel.
    rma_number   text NOT NULL UNIQUE,
    order_id     uuid NOT NULL REFERENCES orders,
    -- EXPIRED is none of them: the end of its time makes it so.
    state        text NOT NULL DEFAULT 'AUTHORIZED'
                 CHECK (state IN ('AUTHORIZED', 'PARTIALLY_RECEIVED', 'RECEIVED', 'CANCELLED')),
    channel      text NOT NULL,
    expires_time timestamptz NOT NULL,
    actor        text NOT NULL DEFAULT '',
    created_time timestamptz NOT NULL DEFAULT now(),
    updated_time timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX return_authorizations_order ON return_authorizations (order_id, return_authorization_id);
CREATE TABLE return_authorization_lines (
    return_authorization_id uuid NOT NULL REFERENCES return_authorizations,
    line_number       int NOT NULL,
    sku               text NOT NULL REFERENCES products,
    quantity          bigint NOT NULL CHECK (quantity > 0),
    reason            text NOT NULL DEFAULT '',
    received_quantity bigint NOT NULL DEFAULT 0 CHECK (received_quantity >= 0),
    refused_quantity  bigint NOT NULL DEFAULT 0 CHECK (refused_quantity >= 0),
    PRIMARY KEY (return_authorization_id, line_number),
    CHECK (received_quantity + refused_quantity <= quantity)
);
-- What an inspection did not accept, and goes back to the customer.
CREATE TABLE return_refused_units (
    return_authorization_id uuid NOT NULL,
    refusal_number int NOT NULL CHECK (refusal_number > 0),
    line_number    int NOT NULL,
    quantity       bigint NOT NULL CHECK (quantity > 0),
    reason         text NOT NULL,
    location_id    text NOT NULL REFERENCES locations,
    actor          text NOT NULL DEFAULT '',
    created_time   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (return_authorization_id, refusal_number),
    FOREIGN KEY (return_authorization_id, line_number) REFERENCES return_authorization_lines
);

-- A blind return names no order, so it names its currency. customer_id: whose order it was, or who brought the goods.
ALTER TABLE returns
    ALTER COLUMN order_id DROP NOT NULL,
    ADD COLUMN kind text NOT NULL DEFAULT 'COUNTER' CHECK (kind IN ('COUNTER', 'MAIL', 'BLIND', 'EXCHANGE')),
    ADD COLUMN customer_id text NOT NULL DEFAULT '',
    ADD COLUMN currency text CHECK (currency ~ '^[A-Z]{3}$'),
    ADD COLUMN return_authorization_id uuid REFERENCES return_authorizations,
    ADD CHECK ((kind = 'BLIND') = (order_id IS NULL)),
    ADD CHECK ((kind = 'BLIND') = (currency IS NOT NULL)),
    ADD CHECK ((kind = 'MAIL') = (return_authorization_id IS NOT NULL));
UPDATE returns r SET customer_id = o.customer_id FROM orders o WHERE o.order_id = r.order_id AND o.customer_id <> '';
CREATE INDEX returns_customer ON returns (customer_id, return_id) WHERE customer_id <> '';
CREATE INDEX returns_actor ON returns (actor, return_id) WHERE actor <> '';
CREATE INDEX returns_authorization ON returns (return_authorization_id) WHERE return_authorization_id IS NOT NULL;

-- supplier: they wait in `quarantine` until they are sent there.
ALTER TABLE return_lines
    DROP CONSTRAINT return_lines_disposition_check,
    ADD CONSTRAINT return_lines_disposition_check CHECK (disposition IN ('available', 'damaged', 'quarantine', 'supplier'));

-- What the policy refused and a manager let pass.
CREATE TABLE return_overrides (
    override_id             uuid PRIMARY KEY,
    return_id               uuid REFERENCES returns,
    return_authorization_id uuid REFERENCES return_authorizations,
    manager                 text NOT NULL CHECK (manager <> ''),
    reason                  text NOT NULL CHECK (reason <> ''),
    overridden              text[] NOT NULL CHECK (cardinality(overridden) > 0),
    actor                   text NOT NULL DEFAULT '',
    created_time            timestamptz NOT NULL DEFAULT now(),
    CHECK (num_nonnulls(return_id, return_authorization_id) = 1)
);
CREATE INDEX return_overrides_return ON return_overrides (return_id) WHERE return_id IS NOT NULL;
CREATE INDEX return_overrides_authorization ON return_overrides (return_authorization_id)
    WHERE return_authorization_id IS NOT NULL;
CREATE TRIGGER return_overrides_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON return_overrides
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- What a customer brought without a proof, by day of the store's zone: the limits are judged by this row, under its lock.
CREATE TABLE blind_return_days (
    customer_id  text NOT NULL CHECK (customer_id <> ''),
    day          date NOT NULL,
    currency     text NOT NULL,
    returns      bigint NOT NULL CHECK (returns > 0),
    refund_minor bigint NOT NULL CHECK (refund_minor >= 0),
    PRIMARY KEY (customer_id, day, currency)
);
CREATE TABLE blind_returns (
    return_id    uuid PRIMARY KEY REFERENCES returns,
    day          date NOT NULL,
    refund_kind  text NOT NULL CHECK (refund_kind IN ('STORE_CREDIT', 'CASH')),
    -- The card that the store credit is on, and its movement; none where nothing was worth anything.
    gift_card_id uuid,
    movement_id  uuid,
    CHECK ((gift_card_id IS NULL) = (movement_id IS NULL)),
    CHECK (refund_kind = 'STORE_CREDIT' OR gift_card_id IS NULL),
    FOREIGN KEY (gift_card_id, movement_id) REFERENCES gift_card_movements
);
-- The lowest recent price of what nobody has a receipt for.
CREATE INDEX order_lines_sku ON order_lines (sku, order_id);

-- A return and a sale in one: carried_minor of what was paid for the one pays for the other.
CREATE TABLE exchanges (
    exchange_id   uuid PRIMARY KEY,
    return_id     uuid NOT NULL UNIQUE REFERENCES returns,
    order_id      uuid NOT NULL UNIQUE REFERENCES orders,
    carried_minor bigint NOT NULL CHECK (carried_minor >= 0),
    created_time  timestamptz NOT NULL DEFAULT now()
);

-- What is worth a look: value was beyond allowed when the return was made.
CREATE TABLE return_signals (
    signal_id    uuid PRIMARY KEY,
    return_id    uuid NOT NULL REFERENCES returns,
    kind         text NOT NULL CHECK (kind IN ('REPEATED_RETURNS', 'RECEIPTLESS_RATE')),
    subject_kind text NOT NULL CHECK (subject_kind IN ('CUSTOMER', 'ACTOR')),
    subject      text NOT NULL CHECK (subject <> ''),
    value        bigint NOT NULL,
    allowed      bigint NOT NULL,
    created_time timestamptz NOT NULL DEFAULT now(),
    CHECK (value > allowed)
);
CREATE INDEX return_signals_subject ON return_signals (subject_kind, subject, signal_id);
