"""Units that wait for their supplier leave once, and only what is there."""

from __future__ import annotations

from bring import DAMAGED, QUARANTINE, SUPPLIER, bring, desk, units
from onhand.domain.stock import Level
from onhand.v1 import returns_pb2 as pb
from onhand.v1 import types_pb2
from shelf import request_id
from shop import CALLER, MILK, NORTH, SOUTH, Shop, told


def sent(quantity: int, place: str = SOUTH, sku: str = MILK) -> pb.ReturnToSupplierRequest:
    """Milk that goes back to the dairy."""
    return pb.ReturnToSupplierRequest(
        request_id=request_id(),
        location_id=place,
        lines=[types_pb2.BasketLine(sku=sku, quantity=quantity)],
        reference_document="claim 7",
    )


async def test_what_waits_in_quarantine_leaves(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 4}, 796)
    await bring(shop, order.order_id, units(2, SUPPLIER), units(1, QUARANTINE), units(1, DAMAGED))
    request = sent(2)
    first, again = [await desk(shop).return_to_supplier(request, CALLER) for _ in range(2)]
    assert first == again
    assert await shop.level(SOUTH, MILK) == Level(available=10, damaged=1, quarantine=1)
    moved = await shop.fetch(
        "SELECT quantity, from_bucket, to_bucket, actor FROM stock_movements WHERE reason_code = 'RETURN_TO_SUPPLIER'"
    )
    assert moved == [(2, "quarantine", "supplier", "tester")]
    assert await shop.events("onhand.stock.returned") == [("onhand.stock.returned_to_supplier.v1", SOUTH)]


async def test_no_more_leaves_than_waits(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 1}, 199)
    await bring(shop, order.order_id, units(1, SUPPLIER))
    reason, values = await told(desk(shop).return_to_supplier(sent(2), CALLER))
    assert (reason, values["bucket"], values["held"]) == ("BUCKET_SHORT", "quarantine", "1")
    for request, expected in ((sent(1, "nowhere"), "LOCATION_NOT_FOUND"), (sent(1, sku="none"), "SKU_NOT_FOUND")):
        assert (await told(desk(shop).return_to_supplier(request, CALLER)))[0] == expected
