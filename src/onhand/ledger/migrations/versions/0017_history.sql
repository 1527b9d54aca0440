-- What happened to an order, and the stock that it moved, are asked for by its id: OrderService.ListOrderEvents, ListOrderMovements.
-- Both indexes are made by one pass over their table while nobody writes to it; what is written to them afterwards is an entry for
-- each event of an order and each movement that names a document. docs/decisions/0013-growth.md has what that costs. Who has so many
-- rows that it takes too long makes them CONCURRENTLY before, as they stand here.
-- In the order in which whoever trades meanwhile locks them: movements before events.
CREATE INDEX IF NOT EXISTS stock_movements_reference ON stock_movements (reference_document) WHERE reference_document <> '';
CREATE INDEX IF NOT EXISTS events_order ON events ((data ->> 'order_id')) WHERE data ->> 'order_id' IS NOT NULL;
ALTER TABLE events ADD COLUMN request_id text;
