ALTER TABLE transfers DROP COLUMN from_transfer_id;
