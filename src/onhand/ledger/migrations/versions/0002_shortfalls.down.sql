-- Back to 0001, whose `allocated` is all that open work has to bring, there or not. Movements say so; the epochs and the gate
-- are not concerned, since nothing comes into or out of `available`.
INSERT INTO stock_movements (location_id, sku, quantity, from_bucket, to_bucket, reason_code, reference_document)
SELECT s.location_id, s.sku, sum(s.open_quantity), 'adjustment', 'allocated', 'SHORTFALLS_WITHDRAWN', 'order/' || f.order_id
  FROM shortfalls s JOIN fulfillment_orders f USING (fulfillment_order_id)
 WHERE s.open_quantity > 0 GROUP BY s.location_id, s.sku, f.order_id;
UPDATE stock_levels SET allocated = allocated + short WHERE short > 0;

DROP TABLE shortfall_ends;
DROP TABLE shortfalls;
DROP INDEX stock_levels_overdrawn;
ALTER TABLE stock_levels DROP COLUMN short, DROP COLUMN overdrawn_time;
