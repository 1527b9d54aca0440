"""What tests of money do again and again."""

from __future__ import annotations

from typing import Any

from onhand.payments import Payments
from onhand.v1 import order_pb2 as orders
from onhand.v1 import payment_pb2 as pb
from shelf import request_id
from shop import CALLER, MILK, NORTH, Shop, cents, dollars

RESTOCK = orders.DISPOSITION_AVAILABLE


def purse(shop: Shop) -> Payments:
    """PaymentService."""
    (found,) = (handler for handler in shop.handlers if isinstance(handler, Payments))
    return found


def tender(kind: str, amount: int, **fields: Any) -> orders.Tender:
    """A tender in cents."""
    return orders.Tender(kind=orders.TenderKind.Value(f"TENDER_KIND_{kind}"), amount=dollars(amount), **fields)


async def issue(shop: Shop, code: str, amount: int) -> pb.GiftCard:
    """A gift card with some cents on it."""
    request = pb.IssueGiftCardRequest(request_id=request_id(), code=code, amount=dollars(amount))
    return (await purse(shop).issue_gift_card(request, CALLER)).gift_card


def sale(quantity: int, *tenders: orders.Tender) -> orders.SellRequest:
    """Milk at the till of the north."""
    return orders.SellRequest(
        request_id=request_id(),
        location_id=NORTH,
        lines=[orders.SaleLine(sku=MILK, quantity=quantity)],
        currency_code="USD",
        tenders=tenders,
    )


async def sold(shop: Shop, quantity: int, *tenders: orders.Tender) -> orders.Order:
    """A sale of it."""
    return (await shop.orders.sell(sale(quantity, *tenders), CALLER)).order


def back(quantity: int) -> orders.ReturnedLine:
    """Units of the first line that come back."""
    return orders.ReturnedLine(line_number=1, quantity=quantity, disposition=RESTOCK)


async def payments(shop: Shop, order_id: str) -> list[pb.Payment]:
    """The payments of an order."""
    request = pb.ListPaymentsRequest(order_id=order_id)
    return list((await purse(shop).list_payments(request, CALLER)).payments)


async def refunded(shop: Shop, order_id: str) -> list[int]:
    """What each tender gave back, in cents."""
    return [cents(payment.refunded) for payment in await payments(shop, order_id)]


def state(payment: pb.Payment) -> str:
    """Its name."""
    return pb.PaymentState.Name(payment.state).removeprefix("PAYMENT_STATE_")


def operations(payment: pb.Payment) -> list[tuple[str, str, int]]:
    """(kind, state, cents) of what was asked, oldest first."""
    return [
        (
            pb.PaymentOperationKind.Name(o.kind).removeprefix("PAYMENT_OPERATION_KIND_"),
            pb.PaymentOperationState.Name(o.state).removeprefix("PAYMENT_OPERATION_STATE_"),
            cents(o.amount),
        )
        for o in payment.operations
    ]


async def do_jobs(shop: Shop) -> None:
    """All that are due, and those that wait for their next try, until none is left but what is held and what is days away."""
    while await shop.fetch("SELECT FROM pgqueuer WHERE status <> 'failed' AND entrypoint <> 'payment.renew'"):
        await shop.execute(
            "UPDATE pgqueuer SET execute_after = now() - interval '1 hour' WHERE entrypoint <> 'payment.renew'"
        )
        await shop.app.jobs.run_due()


async def days_pass(shop: Shop) -> None:
    """So many that what is set aside and was not captured has to be renewed."""
    await shop.execute(
        "UPDATE pgqueuer SET execute_after = now() - interval '1 hour' WHERE entrypoint = 'payment.renew'"
    )
    await shop.app.jobs.run_due()


async def jobs(shop: Shop) -> list[tuple[str, str, int]]:
    """(name, state, attempts) of what is in the queue."""
    return [
        tuple(row) for row in await shop.fetch("SELECT entrypoint, status::text, attempts FROM pgqueuer ORDER BY id")
    ]  # type: ignore[misc]


async def by_gateway(
    shop: Shop,
    *tenders: orders.Tender,
    kind: orders.FulfillmentKind.ValueType = orders.FULFILLMENT_KIND_PICKUP,
    quantity: int = 2,
    capture_at: str = "ONCE",
) -> orders.PlaceOrderRequest:
    """An order of milk, by tenders, or by one card that a gateway charges."""
    reservation_id = await shop.reserve({NORTH: {MILK: quantity}})
    when = orders.CaptureAt.Value(f"CAPTURE_AT_{capture_at}")
    wanted = tenders or [tender("CARD", quantity * 199, payment_method="pm_1", capture_at=when)]
    return shop.place_request(reservation_id, {NORTH: kind}, quantity * 199, tenders=wanted)
