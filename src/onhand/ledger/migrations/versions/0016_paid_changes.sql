-- Changes of orders that a gateway pays: docs/decisions/0024-paid-changes.md.

-- The order that a checkout changes. Null: it is to become an order, of the id order_id; else that is an id of its own.
ALTER TABLE checkouts ADD COLUMN change_of uuid;
-- The checkout of the change that a tender is to pay for. Null: it is the order's, as it is once the change is made. What a change
-- that was refused had set aside never is.
ALTER TABLE tenders ADD COLUMN change_id uuid;
