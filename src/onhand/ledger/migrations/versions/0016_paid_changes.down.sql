-- A change that is being paid for, or that was refused, keeps this from going back: the older code would take its tender for the order's.
ALTER TABLE tenders ADD CONSTRAINT tenders_of_before CHECK (change_id IS NULL);
ALTER TABLE checkouts ADD CONSTRAINT checkouts_of_before CHECK (change_of IS NULL OR state <> 'PENDING');
DELETE FROM checkouts WHERE change_of IS NOT NULL;
ALTER TABLE tenders
    DROP CONSTRAINT tenders_of_before,
    DROP COLUMN change_id;
ALTER TABLE checkouts
    DROP CONSTRAINT checkouts_of_before,
    DROP COLUMN change_of;
