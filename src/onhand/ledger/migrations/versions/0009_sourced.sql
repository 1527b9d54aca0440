-- Until here sourcing was asked, and nobody kept what it said: docs/decisions/0022-sourcing-wired.md.

-- Why which locations bring what. document_id: the reservation that was made by it, or the order of which a location took units
-- over by it, as the work fulfillment_order_id.
CREATE TABLE sourcing_decisions (
    decision_id          uuid PRIMARY KEY,
    document_id          uuid NOT NULL,
    fulfillment_order_id uuid UNIQUE REFERENCES fulfillment_orders,
    -- An onhand.v1.SourcingPlan in protobuf's JSON.
    plan                 jsonb NOT NULL,
    -- When it is looked what became of the reservation; null: it is kept, for an order came of it.
    look_time            timestamptz CHECK (look_time IS NULL OR fulfillment_order_id IS NULL),
    created_time         timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX sourcing_decisions_document ON sourcing_decisions (document_id, created_time);
CREATE UNIQUE INDEX sourcing_decisions_reservation ON sourcing_decisions (document_id) WHERE fulfillment_order_id IS NULL;
CREATE INDEX sourcing_decisions_look ON sourcing_decisions (look_time) WHERE look_time IS NOT NULL;

-- Work that was split off counts for the day on which the location took on the whole; null: that is created_time.
ALTER TABLE fulfillment_orders ADD COLUMN taken_on_time timestamptz CHECK (taken_on_time <= created_time);
