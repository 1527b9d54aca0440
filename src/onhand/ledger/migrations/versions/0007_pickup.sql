-- A fulfillment order is in one state as a whole. Units that go another way than the rest become one of their own, which names
-- the one that it came from: docs/decisions/0020-pickup-life.md.

-- How long a pickup waits for its customer; null: as long as anywhere (onhand.orders.waiting).
ALTER TABLE locations ADD COLUMN pickup_hold_seconds int CHECK (pickup_hold_seconds > 0);

ALTER TABLE fulfillment_orders
    DROP CONSTRAINT fulfillment_orders_state_check,
    ADD CONSTRAINT fulfillment_orders_state_check CHECK (state IN (
        'REQUESTED', 'ACCEPTED', 'PICKED', 'READY_FOR_PICKUP', 'PICKED_UP', 'SHIPPED', 'DELIVERED', 'CANCELLED', 'REJECTED',
        'MOVED', 'NO_SHOW', 'RESTOCKED', 'RETURNED')),
    ADD COLUMN from_fulfillment_order_id uuid,
    -- Set for good where the location rejected its units: they left `allocated` then.
    ADD COLUMN reject_reason text CHECK (reject_reason IN ('NOT_FOUND', 'DAMAGED', 'CLOSED')),
    ADD COLUMN hold_end_time timestamptz,
    ADD COLUMN reminded_time timestamptz,
    ADD COLUMN arrived_time timestamptz,
    ADD COLUMN arrival_spot text NOT NULL DEFAULT '',
    ADD COLUMN arrival_note text NOT NULL DEFAULT '',
    ADD CONSTRAINT fulfillment_orders_rejected_check CHECK (state <> 'REJECTED' OR reject_reason IS NOT NULL);
CREATE INDEX fulfillment_orders_waiting ON fulfillment_orders (hold_end_time) WHERE state = 'READY_FOR_PICKUP';
CREATE INDEX fulfillment_orders_to_remind ON fulfillment_orders (hold_end_time)
    WHERE state = 'READY_FOR_PICKUP' AND reminded_time IS NULL;

-- moved_quantity: units that other fulfillment orders of the order bring instead (of what went to one of the same location, the
-- quantity itself is less: 0 where all of a line did). is_taken_over: claimed later, not by the order's reservation.
-- aside_quantity: cancelled units of a no-show that still stand where the customer would have got them, in `quarantine`.
ALTER TABLE fulfillment_lines
    DROP CONSTRAINT fulfillment_lines_quantity_check,
    DROP CONSTRAINT fulfillment_lines_check,
    ADD COLUMN moved_quantity bigint NOT NULL DEFAULT 0 CHECK (moved_quantity >= 0),
    ADD COLUMN is_taken_over boolean NOT NULL DEFAULT false,
    ADD COLUMN aside_quantity bigint NOT NULL DEFAULT 0,
    ADD CONSTRAINT fulfillment_lines_aside_check CHECK (aside_quantity BETWEEN 0 AND cancelled_quantity),
    ADD CONSTRAINT fulfillment_lines_quantity_check CHECK (quantity >= 0),
    ADD CONSTRAINT fulfillment_lines_check CHECK (cancelled_quantity + moved_quantity <= quantity);

-- Lines that came after the order was placed: a substitute names the line whose units it replaces.
ALTER TABLE order_lines
    ADD COLUMN added_time timestamptz,
    ADD COLUMN substitutes_line int,
    ADD CONSTRAINT order_lines_substitute_check CHECK (substitutes_line IS NULL OR added_time IS NOT NULL),
    ADD FOREIGN KEY (order_id, substitutes_line) REFERENCES order_lines (order_id, line_number);

ALTER TABLE shortfalls
    DROP CONSTRAINT shortfalls_cause_check,
    ADD CONSTRAINT shortfalls_cause_check
        CHECK (cause IN ('SALE', 'COUNT', 'BACKORDER', 'REJECTION', 'NOT_FOUND', 'DAMAGED', 'CLOSED'));
ALTER TABLE shortfall_ends
    DROP CONSTRAINT shortfall_ends_reason_check,
    ADD CONSTRAINT shortfall_ends_reason_check
        CHECK (reason IN ('COUNTED', 'COVERED', 'IN_HAND', 'CANCELLED', 'REJECTED', 'RESOURCED'));

-- A parcel is packed, leaves, and arrives or comes back.
ALTER TABLE shipments
    ALTER COLUMN shipped_time DROP NOT NULL,
    ALTER COLUMN shipped_time DROP DEFAULT,
    ADD COLUMN packed_time timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN returned_time timestamptz,
    ADD CHECK (shipped_time IS NOT NULL OR (delivered_time IS NULL AND returned_time IS NULL)),
    ADD CHECK (delivered_time IS NULL OR returned_time IS NULL);
UPDATE shipments SET packed_time = shipped_time;
CREATE TABLE shipment_lines (
    shipment_id uuid NOT NULL REFERENCES shipments,
    line_number int NOT NULL,
    quantity    bigint NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (shipment_id, line_number)
);
INSERT INTO shipment_lines (shipment_id, line_number, quantity)
SELECT s.shipment_id, p.line_number, p.quantity - p.cancelled_quantity
  FROM shipments s JOIN fulfillment_lines p USING (fulfillment_order_id) WHERE p.quantity > p.cancelled_quantity;

-- Who was given goods without their code, and what they showed: proofs [[kind, what was seen of it], ...].
CREATE TABLE identity_checks (
    fulfillment_order_id uuid PRIMARY KEY REFERENCES fulfillment_orders,
    recipient            text NOT NULL,
    proofs               jsonb NOT NULL,
    actor                text NOT NULL,
    checked_time         timestamptz NOT NULL DEFAULT now()
);

-- What a customer agreed to get instead.
CREATE TABLE substitutions (
    order_id             uuid NOT NULL,
    line_number          int NOT NULL,
    substitute_line      int NOT NULL,
    fulfillment_order_id uuid NOT NULL REFERENCES fulfillment_orders,
    quantity             bigint NOT NULL CHECK (quantity > 0),
    consent              text NOT NULL CHECK (consent IN ('IN_PERSON', 'PHONE', 'MESSAGE', 'AT_CHECKOUT')),
    consent_reference    text NOT NULL DEFAULT '',
    actor                text NOT NULL DEFAULT '',
    created_time         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (order_id, substitute_line),
    FOREIGN KEY (order_id, line_number) REFERENCES order_lines,
    FOREIGN KEY (order_id, substitute_line) REFERENCES order_lines
);
