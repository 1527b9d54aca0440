-- Until here a tender was what somebody said of it, and what went back was known by order line only.

-- The sums of a payment, kept beside its operations as stock levels are beside movements. What a TILL says has happened: its
-- tender is authorized and captured by being there, without an operation.
ALTER TABLE tenders
    ADD COLUMN provider         text NOT NULL DEFAULT 'TILL' CHECK (provider IN ('TILL', 'GIFT_CARD', 'STRIPE')),
    ADD COLUMN capture_at       text NOT NULL DEFAULT 'ONCE' CHECK (capture_at IN ('ONCE', 'FULFILLMENT')),
    ADD COLUMN gift_card_id     uuid,
    ADD COLUMN is_declined      boolean NOT NULL DEFAULT false,
    ADD COLUMN authorized_minor bigint NOT NULL DEFAULT 0,
    ADD COLUMN captured_minor   bigint NOT NULL DEFAULT 0,
    ADD COLUMN voided_minor     bigint NOT NULL DEFAULT 0,
    ADD COLUMN refunded_minor   bigint NOT NULL DEFAULT 0,
    -- Asked to be given back, whether it has arrived or not: voided_minor + refunded_minor + what is open or declined.
    ADD COLUMN given_back_minor bigint NOT NULL DEFAULT 0;
UPDATE tenders SET authorized_minor = amount_minor, captured_minor = amount_minor;
ALTER TABLE tenders
    ADD CHECK (authorized_minor BETWEEN 0 AND amount_minor),
    ADD CHECK (captured_minor >= 0 AND voided_minor >= 0 AND captured_minor + voided_minor <= authorized_minor),
    ADD CHECK (refunded_minor BETWEEN 0 AND captured_minor),
    ADD CHECK (given_back_minor BETWEEN voided_minor + refunded_minor AND amount_minor),
    ADD CHECK (NOT is_declined OR authorized_minor = 0),
    ADD CHECK ((provider = 'GIFT_CARD') = (gift_card_id IS NOT NULL)),
    -- A checkout pays before there is an order; onhand verify looks for tenders of neither.
    DROP CONSTRAINT tenders_order_id_fkey;

CREATE FUNCTION refuse_other_money() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'what a tender is for never changes' USING ERRCODE = 'restrict_violation';
END
$$;
CREATE TRIGGER tenders_amount BEFORE UPDATE OF order_id, tender_number, kind, amount_minor, provider, gift_card_id ON tenders
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_other_money();

-- What was asked of a provider. Its id is the key by which the provider knows it again.
CREATE TABLE payment_operations (
    operation_id       uuid PRIMARY KEY,
    order_id           uuid NOT NULL,
    tender_number      int NOT NULL,
    kind               text NOT NULL CHECK (kind IN ('AUTHORIZE', 'CAPTURE', 'VOID', 'REFUND')),
    amount_minor       bigint NOT NULL CHECK (amount_minor > 0),
    currency           text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    reason_code        text NOT NULL,
    reference_document text NOT NULL,
    actor              text NOT NULL DEFAULT '',
    created_time       timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (order_id, tender_number) REFERENCES tenders
);
CREATE INDEX payment_operations_tender ON payment_operations (order_id, tender_number, operation_id);
CREATE TRIGGER payment_operations_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON payment_operations
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- What became of it, once that is certain: one outcome each, for ever.
CREATE TABLE payment_outcomes (
    operation_id       uuid PRIMARY KEY REFERENCES payment_operations,
    outcome            text NOT NULL CHECK (outcome IN ('SUCCEEDED', 'DECLINED')),
    provider_reference text NOT NULL DEFAULT '',
    detail             text NOT NULL DEFAULT '',
    ended_time         timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER payment_outcomes_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON payment_outcomes
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Only a hash of the code: whoever reads this table cannot spend.
CREATE TABLE gift_cards (
    gift_card_id    uuid PRIMARY KEY,
    code_hash       bytea NOT NULL UNIQUE,
    last_characters text NOT NULL,
    currency        text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    balance_minor   bigint NOT NULL CHECK (balance_minor >= 0),
    created_time    timestamptz NOT NULL DEFAULT now(),
    updated_time    timestamptz NOT NULL DEFAULT now()
);
ALTER TABLE tenders ADD FOREIGN KEY (gift_card_id) REFERENCES gift_cards;

-- Positive: onto the card.
CREATE TABLE gift_card_movements (
    gift_card_id       uuid NOT NULL REFERENCES gift_cards,
    movement_id        uuid NOT NULL,
    amount_minor       bigint NOT NULL CHECK (amount_minor <> 0),
    kind               text NOT NULL CHECK (kind IN ('ISSUE', 'TOP_UP', 'REDEEM', 'REFUND')),
    reference_document text NOT NULL,
    actor              text NOT NULL DEFAULT '',
    created_time       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (gift_card_id, movement_id),
    CHECK ((amount_minor < 0) = (kind = 'REDEEM'))
);
CREATE TRIGGER gift_card_movements_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON gift_card_movements
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- What went back before is known by order line. It is taken to have gone where it would go now (onhand.domain.payment).
CREATE TEMPORARY TABLE gone_back ON COMMIT DROP AS
WITH owed AS (SELECT order_id, sum(refunded_minor)::int8 AS minor FROM order_lines GROUP BY 1 HAVING sum(refunded_minor) > 0),
bears AS (
    SELECT order_id, t.tender_number, t.amount_minor, o.minor,
           coalesce(sum(t.amount_minor) OVER (
               PARTITION BY order_id
               ORDER BY array_position('{GIFT_CARD,STORE_CREDIT,CARD,OTHER,CASH}', t.kind), t.tender_number
               ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0)::int8 AS before
      FROM tenders t JOIN owed o USING (order_id))
SELECT gen_random_uuid() AS operation_id, order_id, tender_number,
       least(amount_minor, greatest(0, minor - before)) AS amount_minor FROM bears WHERE minor > before;
INSERT INTO payment_operations (operation_id, order_id, tender_number, kind, amount_minor, currency, reason_code,
                                reference_document)
SELECT operation_id, order_id, tender_number, 'REFUND', amount_minor, currency, 'BEFORE_PAYMENTS', 'order/' || order_id
  FROM gone_back JOIN orders USING (order_id);
INSERT INTO payment_outcomes (operation_id, outcome) SELECT operation_id, 'SUCCEEDED' FROM gone_back;
UPDATE tenders t SET refunded_minor = g.amount_minor, given_back_minor = g.amount_minor
  FROM gone_back g WHERE (t.order_id, t.tender_number) = (g.order_id, g.tender_number);
