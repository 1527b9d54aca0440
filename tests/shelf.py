"""A few products with prices, request ids, expected refusals: what tests of the catalog and of carts share."""

from __future__ import annotations

from collections.abc import Awaitable

import pytest
from google.type.money_pb2 import Money

from onhand.caller import Caller
from onhand.catalog import Catalog
from onhand.domain.errors import Refusal
from onhand.ids import new_id
from onhand.v1 import catalog_pb2

CALLER = Caller("tester", "WEB")


def request_id() -> str:
    """A new one."""
    return str(new_id())


def dollars(amount: float, currency: str = "USD") -> Money:
    """12.34 as google.type.Money."""
    cents = round(amount * 100)
    return Money(currency_code=currency, units=cents // 100, nanos=cents % 100 * 10_000_000)


async def add_product(catalog: Catalog, sku: str, price: Money | None = None, **fields: str) -> catalog_pb2.Product:
    """A product, named like its sku unless told, with a price of one unit if one is given."""
    product = catalog_pb2.Product(sku=sku, **{"name": sku, **fields})
    request = catalog_pb2.CreateProductRequest(request_id=request_id(), product=product)
    created = await catalog.create_product(request, CALLER)
    if price is not None:
        await set_price(catalog, sku, price)
    return created.product


async def set_price(catalog: Catalog, sku: str, price: Money, price_quantity: int = 1) -> catalog_pb2.Price:
    """Sets what `price_quantity` base units of a sku cost."""
    request = catalog_pb2.SetPriceRequest(request_id=request_id(), sku=sku, amount=price, price_quantity=price_quantity)
    return (await catalog.set_price(request, CALLER)).price


async def refused(reason: str, call: Awaitable[object]) -> Refusal:
    """The refusal that a call must get."""
    with pytest.raises(Refusal) as refusal:
        await call
    assert refusal.value.reason == reason
    return refusal.value
