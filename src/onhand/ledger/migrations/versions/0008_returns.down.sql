ALTER TABLE returns ADD CONSTRAINT returns_of_before CHECK (kind = 'COUNTER');
ALTER TABLE return_lines
    DROP CONSTRAINT return_lines_disposition_check,
    ADD CONSTRAINT return_lines_disposition_check CHECK (disposition IN ('available', 'damaged', 'quarantine'));
DROP TABLE return_signals;
DROP TABLE exchanges;
DROP INDEX order_lines_sku;
DROP TABLE blind_returns;
DROP TABLE blind_return_days;
DROP TABLE return_overrides;
DROP INDEX returns_customer;
DROP INDEX returns_actor;
ALTER TABLE returns
    DROP COLUMN return_authorization_id,
    DROP COLUMN currency,
    DROP COLUMN customer_id,
    DROP COLUMN kind,
    ALTER COLUMN order_id SET NOT NULL;
DROP TABLE return_refused_units;
DROP TABLE return_authorization_lines;
DROP TABLE return_authorizations;
