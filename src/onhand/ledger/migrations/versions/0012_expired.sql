-- An authorization is EXPIRED by its time; its row says so once a job has told of it.
ALTER TABLE return_authorizations
    DROP CONSTRAINT return_authorizations_state_check,
    ADD CONSTRAINT return_authorizations_state_check
        CHECK (state IN ('AUTHORIZED', 'PARTIALLY_RECEIVED', 'RECEIVED', 'CANCELLED', 'EXPIRED'));
