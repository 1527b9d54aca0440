-- Every price that was set. prices has the newest of each.
CREATE TABLE price_changes (
    sku            text NOT NULL REFERENCES products,
    currency       text NOT NULL,
    change_number  bigint GENERATED ALWAYS AS IDENTITY,
    amount_minor   bigint NOT NULL CHECK (amount_minor >= 0),
    price_quantity bigint NOT NULL CHECK (price_quantity > 0),
    set_time       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (sku, currency, change_number)
);
INSERT INTO price_changes (sku, currency, amount_minor, price_quantity, set_time)
SELECT sku, currency, amount_minor, price_quantity, updated_time FROM prices ORDER BY sku, currency;
CREATE TRIGGER price_changes_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON price_changes
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
