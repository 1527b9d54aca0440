-- Until here a tender was what somebody said of it, and what went back was known by order line only.

-- The sums of a payment, kept beside its operations as stock levels are beside movements. What a TILL says has happened: its
-- tender is authorized and captured by being there, without an operation.
ALTER TABLE tenders
    ADD COLUMN provider         text NOT NULL DEFAULT 'TILL' CHECK (provider IN ('TILL', 'GIFT_CARD', 'STRIPE')),
    ADD COLUMN capture_at       text NOT NULL DEFAULT 'ONCE' CHECK (capture_at IN ('ONCE', 'FULFILLMENT')),
    ADD COLUMN gift_card_id     uuid,
    -- What a gateway knows the customer's card by.
    ADD COLUMN payment_method   text NOT NULL DEFAULT '',
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

-- An order that is being paid by a gateway: it becomes an order, with this id, once the gateway has said yes. `request` is
-- the PlaceOrderRequest without what spends.
CREATE TABLE checkouts (
    order_id       uuid PRIMARY KEY,
    request_id     text NOT NULL,
    body_hash      bytea NOT NULL,
    request        bytea NOT NULL,
    gift_cards     jsonb NOT NULL DEFAULT '{}',
    reservation_id uuid NOT NULL,
    actor          text NOT NULL DEFAULT '',
    state          text NOT NULL DEFAULT 'PENDING' CHECK (state IN ('PENDING', 'PLACED', 'REFUSED')),
    refusal        text NOT NULL DEFAULT '',
    created_time   timestamptz NOT NULL DEFAULT now(),
    updated_time   timestamptz NOT NULL DEFAULT now(),
    CHECK ((state = 'REFUSED') = (refusal <> ''))
);
-- A refused one leaves its request free to be judged anew, and its reservation to be ordered by another way.
CREATE UNIQUE INDEX checkouts_request ON checkouts (request_id) WHERE state <> 'REFUSED';
CREATE UNIQUE INDEX checkouts_reservation ON checkouts (reservation_id) WHERE state = 'PENDING';

-- What was asked of a provider. Its id is the key by which the provider knows it again.
CREATE TABLE payment_operations (
    operation_id       uuid PRIMARY KEY,
    -- Those of a tender are asked for in this order: they are written under its lock.
    operation_number   bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    order_id           uuid NOT NULL,
    tender_number      int NOT NULL,
    kind               text NOT NULL CHECK (kind IN ('AUTHORIZE', 'CAPTURE', 'VOID', 'REFUND')),
    amount_minor       bigint NOT NULL CHECK (amount_minor > 0),
    currency           text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    reason_code        text NOT NULL,
    reference_document text NOT NULL,
    actor              text NOT NULL DEFAULT '',
    -- One that gave nothing back because the provider said no: this one does it instead, once.
    replaces           uuid UNIQUE REFERENCES payment_operations,
    created_time       timestamptz NOT NULL DEFAULT now(),
    CHECK (replaces IS NULL OR kind IN ('VOID', 'REFUND')),
    FOREIGN KEY (order_id, tender_number) REFERENCES tenders
);
CREATE INDEX payment_operations_tender ON payment_operations (order_id, tender_number, operation_number);
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

-- pgqueuer 1.6.0 as it installs itself (`pgq install --dry-run`), without its trigger: jobs are looked for every second, and a
-- NOTIFY would have commits wait for each other.
CREATE TYPE pgqueuer_status AS ENUM ('queued', 'picked', 'successful', 'exception', 'canceled', 'deleted', 'failed');

CREATE TABLE pgqueuer (
    id bigserial NOT NULL PRIMARY KEY,
    priority integer NOT NULL,
    queue_manager_id uuid,
    created timestamp with time zone NOT NULL DEFAULT now(),
    updated timestamp with time zone NOT NULL DEFAULT now(),
    heartbeat timestamp with time zone NOT NULL DEFAULT now(),
    execute_after timestamp with time zone NOT NULL DEFAULT now(),
    status pgqueuer_status NOT NULL,
    entrypoint text NOT NULL,
    dedupe_key text,
    payload bytea,
    headers jsonb,
    attempts integer NOT NULL DEFAULT 0,
    slot bigint
);

CREATE TABLE pgqueuer_log (
    id bigint GENERATED BY DEFAULT AS IDENTITY NOT NULL PRIMARY KEY,
    created timestamp with time zone NOT NULL DEFAULT now(),
    job_id bigint NOT NULL,
    status pgqueuer_status NOT NULL,
    priority integer NOT NULL,
    entrypoint text NOT NULL,
    traceback jsonb,
    aggregated boolean DEFAULT false
);

CREATE TABLE pgqueuer_schedules (
    id bigserial NOT NULL PRIMARY KEY,
    expression text NOT NULL,
    entrypoint text NOT NULL,
    heartbeat timestamp with time zone NOT NULL DEFAULT now(),
    created timestamp with time zone NOT NULL DEFAULT now(),
    updated timestamp with time zone NOT NULL DEFAULT now(),
    next_run timestamp with time zone NOT NULL DEFAULT now(),
    last_run timestamp with time zone,
    status pgqueuer_status DEFAULT 'queued'::pgqueuer_status,
    UNIQUE (expression, entrypoint)
);

CREATE TABLE pgqueuer_statistics (
    id bigserial NOT NULL PRIMARY KEY,
    created timestamp with time zone NOT NULL DEFAULT date_trunc('sec'::text, now()),
    count bigint NOT NULL,
    priority integer NOT NULL,
    status pgqueuer_status NOT NULL,
    entrypoint text NOT NULL
);

CREATE INDEX pgqueuer_ep_ea_idx ON pgqueuer USING btree (entrypoint, execute_after) WHERE (status = 'queued'::pgqueuer_status);

CREATE INDEX pgqueuer_ep_prio_id_idx ON pgqueuer USING btree (entrypoint, priority DESC, id) WHERE (status = 'queued'::pgqueuer_status);

CREATE INDEX pgqueuer_log_created ON pgqueuer_log USING btree (created);

CREATE INDEX pgqueuer_log_job_id_status ON pgqueuer_log USING btree (job_id, created DESC);

CREATE INDEX pgqueuer_log_not_aggregated ON pgqueuer_log USING btree ((1)) WHERE (NOT aggregated);

CREATE INDEX pgqueuer_log_status ON pgqueuer_log USING btree (status);

CREATE INDEX pgqueuer_picked_heartbeat_idx ON pgqueuer USING btree (heartbeat) WHERE (status = 'picked'::pgqueuer_status);

CREATE UNIQUE INDEX pgqueuer_picked_slot_idx ON pgqueuer USING btree (entrypoint, slot) WHERE ((status = 'picked'::pgqueuer_status) AND (slot IS NOT NULL));

CREATE INDEX pgqueuer_priority_id_id1_idx ON pgqueuer USING btree (priority, id DESC) INCLUDE (id) WHERE (status = 'queued'::pgqueuer_status);

CREATE INDEX pgqueuer_queue_manager_id_idx ON pgqueuer USING btree (queue_manager_id) WHERE (queue_manager_id IS NOT NULL);

CREATE UNIQUE INDEX pgqueuer_statistics_unique_count ON pgqueuer_statistics USING btree (priority, date_trunc('sec'::text, timezone('UTC'::text, created)), status, entrypoint);

CREATE UNIQUE INDEX pgqueuer_unique_dedupe_key ON pgqueuer USING btree (dedupe_key) WHERE ((status = ANY (ARRAY['queued'::pgqueuer_status, 'picked'::pgqueuer_status])) AND (dedupe_key IS NOT NULL));

CREATE INDEX pgqueuer_updated_id_id1_idx ON pgqueuer USING btree (updated, id DESC) INCLUDE (id) WHERE (status = 'picked'::pgqueuer_status);
