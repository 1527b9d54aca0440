-- Until here whoever paid for a cart found out at the end whether it was still the same: docs/decisions/0023-checkouts.md.

-- The order to be of the checkout that pays for it now. Nobody else changes or orders it meanwhile.
ALTER TABLE carts ADD COLUMN locked_for uuid;
ALTER TABLE claims ADD COLUMN pinned_for uuid;

-- The cart, where there is one; and what each sku costs, [[sku, amount_minor, price_quantity], ...], as the customer agreed to
-- it. Null: begun before this, and priced when it is placed.
ALTER TABLE checkouts
    ADD COLUMN cart_id uuid,
    ADD COLUMN prices  jsonb;
CREATE UNIQUE INDEX checkouts_cart ON checkouts (cart_id) WHERE state = 'PENDING' AND cart_id IS NOT NULL;

-- A paid order of which units went before it was placed.
ALTER TABLE shortfalls
    DROP CONSTRAINT shortfalls_cause_check,
    ADD CONSTRAINT shortfalls_cause_check
        CHECK (cause IN ('SALE', 'COUNT', 'BACKORDER', 'REJECTION', 'NOT_FOUND', 'DAMAGED', 'CLOSED', 'LOST'));
