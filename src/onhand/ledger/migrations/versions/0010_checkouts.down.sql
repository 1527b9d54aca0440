ALTER TABLE checkouts ADD CONSTRAINT checkouts_of_before CHECK (state <> 'PENDING');
ALTER TABLE checkouts
    DROP CONSTRAINT checkouts_of_before,
    DROP COLUMN prices,
    DROP COLUMN cart_id;
ALTER TABLE claims DROP COLUMN pinned_for;
ALTER TABLE carts DROP COLUMN locked_for;
