-- An authorization that was renewed keeps this from going back: the older code would capture of the one that is freed.
ALTER TABLE payment_operations
    DROP CONSTRAINT payment_operations_kind_check,
    ADD CONSTRAINT payment_operations_kind_check CHECK (kind IN ('AUTHORIZE', 'CAPTURE', 'VOID', 'REFUND')),
    DROP COLUMN authorization_id;
ALTER TABLE tenders
    DROP COLUMN is_renewal_declined,
    DROP COLUMN authorization_expires_time;
