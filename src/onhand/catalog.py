"""What is sold: products, the barcodes that name them, their prices."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import asyncpg

from onhand import paging, wire
from onhand.caller import Caller
from onhand.domain import barcode, money
from onhand.domain.cart import MAX_QUANTITY, UnitPrice
from onhand.domain.errors import (
    BarcodeNotFound,
    BarcodeTaken,
    ProductExists,
    SkuNotFound,
    invalid,
)
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.postgres import Connection
from onhand.v1 import catalog_pb2 as pb

MAX_BARCODES = 50
"""Barcodes one product may have."""
MAX_PRICES = 500
"""Skus one call may ask the prices of."""
CHANGEABLE = ("name", "brand", "department", "category", "product_type", "package_size")
"""The fields that UpdateProduct changes, columns of the same names. The base unit is not one: stock is counted in it."""

_BASE_UNITS = {
    pb.BASE_UNIT_UNSPECIFIED: "EACH",
    pb.BASE_UNIT_EACH: "EACH",
    pb.BASE_UNIT_GRAM: "GRAM",
    pb.BASE_UNIT_MILLILITER: "MILLILITER",
}
_BASE_UNIT_VALUES = {name: value for value, name in _BASE_UNITS.items()}

_COLUMNS = """p.sku, p.name, p.brand, p.department, p.category, p.product_type, p.package_size, p.base_unit, p.version,
       p.created_time, p.updated_time, ARRAY(SELECT b.gtin FROM barcodes b WHERE b.sku = p.sku ORDER BY b.gtin) AS gtins"""

CREATE_PRODUCT = f"""
INSERT INTO products AS p (sku, name, brand, department, category, product_type, package_size, base_unit)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING RETURNING {_COLUMNS}"""
UPDATE_PRODUCT = f"""
UPDATE products p SET {{assignments}}, version = version + 1, updated_time = now()
 WHERE sku = $1 RETURNING {_COLUMNS}"""
TOUCH_PRODUCT = "UPDATE products SET version = version + 1, updated_time = now() WHERE sku = $1 RETURNING version"
READ_PRODUCT = f"SELECT {_COLUMNS} FROM products p WHERE p.sku = $1"
LIST_PRODUCTS = f"""
SELECT {_COLUMNS} FROM products p
 WHERE ($1 = '' OR p.department = $1) AND ($2 = '' OR p.category = $2) AND ($3 = '' OR lower(p.name) ^@ lower($3))
   AND p.sku > $4
 ORDER BY p.sku LIMIT $5"""

REMOVE_BARCODES = "DELETE FROM barcodes WHERE sku = $1 AND gtin <> ALL ($2::text[])"
ADD_BARCODES = "INSERT INTO barcodes (gtin, sku) SELECT gtin, $1 FROM unnest($2::text[]) AS gtin ON CONFLICT DO NOTHING"
TAKEN_BARCODE = "SELECT gtin, sku FROM barcodes WHERE gtin = ANY ($2::text[]) AND sku <> $1 ORDER BY gtin LIMIT 1"
READ_BARCODES = "SELECT gtin, sku FROM barcodes WHERE gtin = ANY ($1::text[])"
# A product that has no price in the currency, or was asked for none, has nulls for it.
LOOK_UP_BARCODE = f"""
SELECT {_COLUMNS}, r.currency, r.amount_minor, r.price_quantity, r.updated_time AS price_updated_time
  FROM barcodes g JOIN products p USING (sku) LEFT JOIN prices r ON r.sku = p.sku AND r.currency = $2
 WHERE g.gtin = $1"""

# What was asked before is kept: goods that come back without a proof give the lowest of late.
SET_PRICE = """
WITH new_price AS (
    INSERT INTO prices AS r (sku, currency, amount_minor, price_quantity) VALUES ($1, $2, $3, $4)
        ON CONFLICT (sku, currency) DO UPDATE
           SET amount_minor = excluded.amount_minor, price_quantity = excluded.price_quantity, updated_time = now()
    RETURNING r.sku, r.currency, r.amount_minor, r.price_quantity, r.updated_time AS price_updated_time),
change AS (
    INSERT INTO price_changes (sku, currency, amount_minor, price_quantity)
    SELECT sku, currency, amount_minor, price_quantity FROM new_price)
SELECT sku, currency, amount_minor, price_quantity, price_updated_time FROM new_price"""
READ_PRICES = """
SELECT sku, currency, amount_minor, price_quantity, updated_time AS price_updated_time
  FROM prices WHERE sku = ANY ($1::text[]) AND currency = $2"""


class Catalog:
    """CatalogService."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    async def create_product(self, request: pb.CreateProductRequest, caller: Caller) -> pb.CreateProductResponse:
        """Adds a product."""
        product = request.product
        _check_name(product)
        if product.base_unit not in _BASE_UNITS:
            raise invalid("product.base_unit", "must be a unit of BaseUnit")

        async def work(tx: Transaction) -> pb.CreateProductResponse:
            row = await tx.connection.fetchrow(
                CREATE_PRODUCT,
                product.sku,
                *(getattr(product, field) for field in CHANGEABLE),
                _BASE_UNITS[product.base_unit],
            )
            if row is None:
                raise ProductExists(product.sku)
            tx.emit("onhand.product.created.v1", f"product/{product.sku}", {**_event_data(row), "actor": caller.actor})
            return pb.CreateProductResponse(product=_product(row))

        return await self.ledger.mutate(request, pb.CreateProductResponse, work)

    async def update_product(self, request: pb.UpdateProductRequest, caller: Caller) -> pb.UpdateProductResponse:
        """Changes the fields that the mask names."""
        product = request.product
        paths = wire.mask_paths(request.update_mask, CHANGEABLE)
        if "name" in paths:
            _check_name(product)
        assignments = ", ".join(f"{path} = ${number}" for number, path in enumerate(paths, start=2))

        async def work(tx: Transaction) -> pb.UpdateProductResponse:
            row = await tx.connection.fetchrow(
                UPDATE_PRODUCT.format(assignments=assignments), product.sku, *(getattr(product, path) for path in paths)
            )
            if row is None:
                raise SkuNotFound(product.sku)
            wire.check_etag(f"product {product.sku}", product.etag, row["version"] - 1)
            data = {**_event_data(row), "changed": paths, "actor": caller.actor}
            tx.emit("onhand.product.updated.v1", f"product/{product.sku}", data)
            return pb.UpdateProductResponse(product=_product(row))

        return await self.ledger.mutate(request, pb.UpdateProductResponse, work)

    async def get_product(self, request: pb.GetProductRequest, caller: Caller) -> pb.GetProductResponse:
        """Reads one product."""
        async with self.ledger.read() as connection:
            row = await connection.fetchrow(READ_PRODUCT, request.sku)
        if row is None:
            raise SkuNotFound(request.sku)
        return pb.GetProductResponse(product=_product(row))

    async def list_products(self, request: pb.ListProductsRequest, caller: Caller) -> pb.ListProductsResponse:
        """A page of the products that meet all filters, by sku."""
        size = paging.page_size(request.page_size)
        (after,) = paging.decode_token(request, str) or ("",)
        async with self.ledger.read() as connection:
            rows = await connection.fetch(
                LIST_PRODUCTS, request.department, request.category, request.name_prefix, after, size + 1
            )
        page, last = paging.cut(rows, size)
        return pb.ListProductsResponse(
            products=[_product(row) for row in page],
            next_page_token=paging.encode_token(request, last["sku"]) if last else "",
        )

    async def set_barcodes(self, request: pb.SetBarcodesRequest, caller: Caller) -> pb.SetBarcodesResponse:
        """Makes exactly these barcodes name a product."""
        # Sorted, so that two calls that want the same barcodes meet in one order.
        gtins = sorted({barcode.normalize(gtin, f"gtins[{i}]") for i, gtin in enumerate(request.gtins)})
        if len(gtins) > MAX_BARCODES:
            raise invalid("gtins", f"must be {MAX_BARCODES} at most")

        async def work(tx: Transaction) -> pb.SetBarcodesResponse:
            version = await tx.connection.fetchval(TOUCH_PRODUCT, request.sku)
            if version is None:
                raise SkuNotFound(request.sku)
            wire.check_etag(f"product {request.sku}", request.etag, version - 1)
            await tx.connection.execute(REMOVE_BARCODES, request.sku, gtins)
            await tx.connection.execute(ADD_BARCODES, request.sku, gtins)
            taken = await tx.connection.fetchrow(TAKEN_BARCODE, request.sku, gtins)
            if taken is not None:
                raise BarcodeTaken(taken["gtin"], taken["sku"])
            row = await tx.connection.fetchrow(READ_PRODUCT, request.sku)
            assert row is not None  # this transaction holds its lock
            data = {"sku": request.sku, "gtins": gtins, "actor": caller.actor}
            tx.emit("onhand.product.barcodes_set.v1", f"product/{request.sku}", data)
            return pb.SetBarcodesResponse(product=_product(row))

        return await self.ledger.mutate(request, pb.SetBarcodesResponse, work)

    async def look_up_barcode(self, request: pb.LookUpBarcodeRequest, caller: Caller) -> pb.LookUpBarcodeResponse:
        """The product that a barcode names, with its price."""
        gtin = barcode.normalize(request.gtin)
        if request.currency_code:
            money.exponent(request.currency_code)
        async with self.ledger.read() as connection:
            row = await connection.fetchrow(LOOK_UP_BARCODE, gtin, request.currency_code)
        if row is None:
            raise BarcodeNotFound(gtin)
        price = _price(row) if row["amount_minor"] is not None else None
        return pb.LookUpBarcodeResponse(product=_product(row), price=price)

    async def set_price(self, request: pb.SetPriceRequest, caller: Caller) -> pb.SetPriceResponse:
        """Sets the price of a product in the currency of the amount."""
        amount_minor, currency = wire.money_from_wire("amount", request.amount)
        price_quantity = request.price_quantity or 1
        if not 1 <= price_quantity <= MAX_QUANTITY:
            raise invalid("price_quantity", f"must be 1 to {MAX_QUANTITY}")

        async def work(tx: Transaction) -> pb.SetPriceResponse:
            try:
                row = await tx.connection.fetchrow(SET_PRICE, request.sku, currency, amount_minor, price_quantity)
            except asyncpg.ForeignKeyViolationError:
                raise SkuNotFound(request.sku) from None
            assert row is not None  # an upsert always returns its row
            data = {
                "sku": request.sku,
                "currency": currency,
                "amount_minor": amount_minor,
                "price_quantity": price_quantity,
                "actor": caller.actor,
            }
            tx.emit("onhand.price.set.v1", f"product/{request.sku}", data)
            return pb.SetPriceResponse(price=_price(row))

        return await self.ledger.mutate(request, pb.SetPriceResponse, work)

    async def batch_get_prices(self, request: pb.BatchGetPricesRequest, caller: Caller) -> pb.BatchGetPricesResponse:
        """The prices of many products, and which of them have none."""
        money.exponent(request.currency_code)
        skus = list(dict.fromkeys(request.skus))
        if len(skus) > MAX_PRICES:
            raise invalid("skus", f"must be {MAX_PRICES} at most")
        async with self.ledger.read() as connection:
            rows = await connection.fetch(READ_PRICES, skus, request.currency_code)
        prices = {row["sku"]: _price(row) for row in rows}
        return pb.BatchGetPricesResponse(
            prices=[prices[sku] for sku in skus if sku in prices],
            missing_skus=[sku for sku in skus if sku not in prices],
        )


async def read_prices(connection: Connection, currency: str, skus: Collection[str]) -> dict[str, UnitPrice]:
    """The prices of skus in a currency; those without one are absent."""
    rows = await connection.fetch(READ_PRICES, list(skus), currency)
    return {row["sku"]: UnitPrice(row["amount_minor"], row["price_quantity"]) for row in rows}


async def read_barcodes(connection: Connection, gtins: Iterable[str]) -> dict[str, str]:
    """The sku of each barcode, as it was given. Raises `BarcodeInvalid`, `BarcodeNotFound`."""
    normal = {gtin: barcode.normalize(gtin) for gtin in gtins}
    rows = await connection.fetch(READ_BARCODES, sorted(set(normal.values())))
    skus = {row["gtin"]: row["sku"] for row in rows}
    if unknown := [gtin for gtin, stored in normal.items() if stored not in skus]:
        raise BarcodeNotFound(unknown[0])
    return {gtin: skus[stored] for gtin, stored in normal.items()}


def _check_name(product: pb.Product) -> None:
    # Not a declared rule: an update whose mask leaves the name out need not carry one.
    if not product.name.strip():
        raise invalid("product.name", "must not be empty")


def _product(row: asyncpg.Record) -> pb.Product:
    return pb.Product(
        sku=row["sku"],
        **{field: row[field] for field in CHANGEABLE},
        base_unit=_BASE_UNIT_VALUES[row["base_unit"]],
        gtins=row["gtins"],
        etag=wire.etag(row["version"]),
        created_time=wire.timestamp(row["created_time"]),
        updated_time=wire.timestamp(row["updated_time"]),
    )


def _price(row: asyncpg.Record) -> pb.Price:
    return pb.Price(
        sku=row["sku"],
        amount=wire.money_to_wire(row["amount_minor"], row["currency"]),
        price_quantity=row["price_quantity"],
        updated_time=wire.timestamp(row["price_updated_time"]),
    )


def _event_data(row: asyncpg.Record) -> dict[str, Any]:
    return {"sku": row["sku"], **{field: row[field] for field in CHANGEABLE}, "base_unit": row["base_unit"]}
