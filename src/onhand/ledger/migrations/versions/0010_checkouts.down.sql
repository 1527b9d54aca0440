-- What the older code cannot read keeps this from going back.
ALTER TABLE shortfalls
    DROP CONSTRAINT shortfalls_cause_check,
    ADD CONSTRAINT shortfalls_cause_check
        CHECK (cause IN ('SALE', 'COUNT', 'BACKORDER', 'REJECTION', 'NOT_FOUND', 'DAMAGED', 'CLOSED'));
ALTER TABLE checkouts ADD CONSTRAINT checkouts_of_before CHECK (state <> 'PENDING');
ALTER TABLE checkouts
    DROP CONSTRAINT checkouts_of_before,
    DROP COLUMN prices,
    DROP COLUMN cart_id;
ALTER TABLE claims DROP COLUMN pinned_for;
ALTER TABLE carts DROP COLUMN locked_for;
