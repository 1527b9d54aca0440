-- A substitution that a customer agreed to by herself keeps this from going back: the older code knows no such consent.
DROP TABLE substitute_offers;
ALTER TABLE substitutions
    DROP CONSTRAINT substitutions_consent_check,
    ADD CONSTRAINT substitutions_consent_check CHECK (consent IN ('IN_PERSON', 'PHONE', 'MESSAGE', 'AT_CHECKOUT'));
