DROP TABLE substitutions;
DROP TABLE identity_checks;
DROP TABLE shipment_lines;
ALTER TABLE shipments
    DROP COLUMN returned_time,
    DROP COLUMN packed_time,
    ALTER COLUMN shipped_time SET DEFAULT now(),
    ALTER COLUMN shipped_time SET NOT NULL;
ALTER TABLE shortfall_ends
    DROP CONSTRAINT shortfall_ends_reason_check,
    ADD CONSTRAINT shortfall_ends_reason_check CHECK (reason IN ('COUNTED', 'COVERED', 'IN_HAND', 'CANCELLED'));
ALTER TABLE shortfalls
    DROP CONSTRAINT shortfalls_cause_check,
    ADD CONSTRAINT shortfalls_cause_check CHECK (cause IN ('SALE', 'COUNT', 'BACKORDER'));
ALTER TABLE order_lines DROP COLUMN substitutes_line, DROP COLUMN added_time;
ALTER TABLE fulfillment_lines
    DROP CONSTRAINT fulfillment_lines_quantity_check,
    DROP CONSTRAINT fulfillment_lines_check,
    DROP COLUMN is_taken_over,
    DROP COLUMN aside_quantity,
    DROP COLUMN moved_quantity,
    ADD CONSTRAINT fulfillment_lines_quantity_check CHECK (quantity > 0),
    ADD CONSTRAINT fulfillment_lines_check CHECK (cancelled_quantity <= quantity);
DROP INDEX fulfillment_orders_waiting;
DROP INDEX fulfillment_orders_to_remind;
ALTER TABLE fulfillment_orders
    DROP CONSTRAINT fulfillment_orders_rejected_check,
    DROP CONSTRAINT fulfillment_orders_state_check,
    ADD CONSTRAINT fulfillment_orders_state_check CHECK (state IN (
        'REQUESTED', 'ACCEPTED', 'PICKED', 'READY_FOR_PICKUP', 'PICKED_UP', 'SHIPPED', 'DELIVERED', 'CANCELLED')),
    DROP COLUMN arrival_note,
    DROP COLUMN arrival_spot,
    DROP COLUMN arrived_time,
    DROP COLUMN reminded_time,
    DROP COLUMN hold_end_time,
    DROP COLUMN reject_reason,
    DROP COLUMN from_fulfillment_order_id;
ALTER TABLE locations DROP COLUMN pickup_hold_seconds;
