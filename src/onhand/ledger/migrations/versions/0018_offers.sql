-- A substitute that a location offers, and the customer accepts or declines herself. It holds no stock and stops no step: it is a
-- question with an end. held_quantity: what the location had of the line then; where it has another number, somebody decided
-- otherwise meanwhile. total_minor, refund_minor: what she agrees to, and gets exactly, or nothing is done.
ALTER TABLE substitutions
    DROP CONSTRAINT substitutions_consent_check,
    ADD CONSTRAINT substitutions_consent_check
        CHECK (consent IN ('IN_PERSON', 'PHONE', 'MESSAGE', 'AT_CHECKOUT', 'CUSTOMER'));
CREATE TABLE substitute_offers (
    substitute_offer_id  uuid PRIMARY KEY,
    order_id             uuid NOT NULL REFERENCES orders,
    fulfillment_order_id uuid NOT NULL REFERENCES fulfillment_orders,
    line_number          int NOT NULL,
    quantity             bigint NOT NULL CHECK (quantity > 0),
    held_quantity        bigint NOT NULL CHECK (held_quantity >= quantity),
    sku                  text NOT NULL REFERENCES products,
    substitute_quantity  bigint NOT NULL CHECK (substitute_quantity > 0),
    reject_reason        text CHECK (reject_reason IN ('NOT_FOUND', 'DAMAGED', 'CLOSED')),
    amount_minor         bigint NOT NULL CHECK (amount_minor >= 0),
    price_quantity       bigint NOT NULL CHECK (price_quantity > 0),
    total_minor          bigint NOT NULL CHECK (total_minor >= 0),
    refund_minor         bigint NOT NULL CHECK (refund_minor >= 0),
    state                text NOT NULL DEFAULT 'OFFERED'
        CHECK (state IN ('OFFERED', 'ACCEPTED', 'DECLINED', 'WITHDRAWN', 'EXPIRED')),
    expires_time         timestamptz NOT NULL,
    substitute_line      int,
    actor                text NOT NULL DEFAULT '',
    closed_by            text NOT NULL DEFAULT '',
    created_time         timestamptz NOT NULL DEFAULT now(),
    updated_time         timestamptz NOT NULL DEFAULT now(),
    CHECK ((state = 'ACCEPTED') = (substitute_line IS NOT NULL)),
    UNIQUE (order_id, substitute_line),
    FOREIGN KEY (order_id, line_number) REFERENCES order_lines,
    FOREIGN KEY (order_id, substitute_line) REFERENCES substitutions (order_id, substitute_line)
);
CREATE INDEX substitute_offers_order ON substitute_offers (order_id, substitute_offer_id);
CREATE UNIQUE INDEX substitute_offers_one_open ON substitute_offers (fulfillment_order_id, line_number) WHERE state = 'OFFERED';
