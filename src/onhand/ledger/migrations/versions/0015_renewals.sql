-- Authorizations that end before the goods leave. authorization_id: the operation that made the authorization which an operation is
-- of, where that is not the newest before it.
ALTER TABLE payment_operations
    DROP CONSTRAINT payment_operations_kind_check,
    ADD CONSTRAINT payment_operations_kind_check CHECK (kind IN ('AUTHORIZE', 'CAPTURE', 'VOID', 'REFUND', 'RENEW', 'RELEASE')),
    ADD COLUMN authorization_id uuid REFERENCES payment_operations,
    ADD CHECK (kind NOT IN ('RENEW', 'RELEASE') OR authorization_id IS NOT NULL);
ALTER TABLE tenders
    ADD COLUMN authorization_expires_time timestamptz,
    ADD COLUMN is_renewal_declined boolean NOT NULL DEFAULT false;
