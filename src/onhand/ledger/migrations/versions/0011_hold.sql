-- Since when it waits for its customer, while or once it did.
ALTER TABLE fulfillment_orders ADD COLUMN ready_time timestamptz;
UPDATE fulfillment_orders SET ready_time = updated_time WHERE hold_end_time IS NOT NULL;
