UPDATE return_authorizations a
   SET state = CASE WHEN (SELECT sum(received_quantity + refused_quantity) FROM return_authorization_lines l
                           WHERE l.return_authorization_id = a.return_authorization_id) > 0
                    THEN 'PARTIALLY_RECEIVED' ELSE 'AUTHORIZED' END
 WHERE state = 'EXPIRED';
ALTER TABLE return_authorizations
    DROP CONSTRAINT return_authorizations_state_check,
    ADD CONSTRAINT return_authorizations_state_check
        CHECK (state IN ('AUTHORIZED', 'PARTIALLY_RECEIVED', 'RECEIVED', 'CANCELLED'));
DELETE FROM pgqueuer WHERE entrypoint = 'return.expire';
