"""What tests of returns do again and again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from onhand.returns import Returns
from onhand.v1 import order_pb2 as pb
from onhand.v1 import returns_pb2 as returns
from onhand.v1 import types_pb2
from shelf import request_id
from shop import CALLER, DEPOT, MILK, SOUTH, Shop

AVAILABLE, DAMAGED = pb.DISPOSITION_AVAILABLE, pb.DISPOSITION_DAMAGED
QUARANTINE, SUPPLIER = pb.DISPOSITION_QUARANTINE, pb.DISPOSITION_SUPPLIER
MANAGER = pb.ManagerOverride(manager="grace", reason="a regular")


def units(
    quantity: int = 1, disposition: pb.Disposition.ValueType = AVAILABLE, number: int = 1, reason: str = ""
) -> pb.ReturnedLine:
    """Units of a line that come back."""
    return pb.ReturnedLine(line_number=number, quantity=quantity, disposition=disposition, reason=reason)


def brought(order_id: str, *lines: pb.ReturnedLine, **fields: Any) -> pb.CreateReturnRequest:
    """A return at a till in the south."""
    return pb.CreateReturnRequest(
        **{
            "request_id": request_id(),
            "order_id": order_id,
            "location_id": SOUTH,
            "channel": types_pb2.CHANNEL_POS,
            "lines": lines or [units()],
            **fields,
        }
    )


async def bring(shop: Shop, order_id: str, *lines: pb.ReturnedLine, **fields: Any) -> pb.Return:
    """The return that it makes."""
    return (await shop.orders.create_return(brought(order_id, *lines, **fields), CALLER)).returned


async def age(shop: Shop, order_id: str, **past: float) -> None:
    """An order was handed over so long ago."""
    await shop.execute(
        "UPDATE orders SET placed_time = placed_time - $2::interval WHERE order_id = $1",
        UUID(order_id),
        timedelta(**past),
    )
    await shop.execute(
        "UPDATE fulfillment_orders SET updated_time = updated_time - $2::interval WHERE order_id = $1",
        UUID(order_id),
        timedelta(**past),
    )


def desk(shop: Shop) -> Returns:
    """ReturnService."""
    (found,) = (handler for handler in shop.handlers if isinstance(handler, Returns))
    return found


async def returnable(shop: Shop, **fields: Any) -> list[returns.ReturnableLine]:
    """What may come back."""
    request = returns.ListReturnableLinesRequest(**fields)
    return list((await desk(shop).list_returnable_lines(request, CALLER)).lines)


async def announce(shop: Shop, order_id: str, lines: Mapping[int, int], **fields: Any) -> returns.ReturnAuthorization:
    """Units of lines that a customer may send back."""
    request = returns.AuthorizeReturnRequest(
        request_id=request_id(),
        order_id=order_id,
        channel=types_pb2.CHANNEL_WEB,
        lines=[returns.AnnouncedLine(line_number=number, quantity=quantity) for number, quantity in lines.items()],
        **fields,
    )
    return (await desk(shop).authorize_return(request, CALLER)).return_authorization


def received(
    announced: returns.ReturnAuthorization, *lines: pb.ReturnedLine, **fields: Any
) -> returns.ReceiveReturnRequest:
    """A parcel at the depot."""
    return returns.ReceiveReturnRequest(
        **{
            "request_id": request_id(),
            "return_authorization_id": announced.return_authorization_id,
            "location_id": DEPOT,
            "accepted": lines,
            **fields,
        }
    )


async def receive(
    shop: Shop, announced: returns.ReturnAuthorization, *lines: pb.ReturnedLine, **fields: Any
) -> returns.ReceiveReturnResponse:
    """What becomes of it."""
    return await desk(shop).receive_return(received(announced, *lines, **fields), CALLER)


def refused_line(quantity: int, reason: str = "worn") -> returns.RefusedLine:
    """Units of the first line that go back to the customer."""
    return returns.RefusedLine(line_number=1, quantity=quantity, reason=reason)


async def expire(shop: Shop, announced: returns.ReturnAuthorization) -> None:
    """Its time is over."""
    await shop.execute(
        "UPDATE return_authorizations SET expires_time = now() - interval '1 second' WHERE return_authorization_id = $1",
        UUID(announced.return_authorization_id),
    )


async def run_expiry(shop: Shop) -> None:
    """The jobs that tell of ends of authorizations are due, and done."""
    await shop.execute(
        "UPDATE pgqueuer SET execute_after = now() - interval '1 second' WHERE entrypoint = 'return.expire'"
    )
    await shop.app.jobs.run_due()


def state_of(announced: returns.ReturnAuthorization) -> str:
    """Its name."""
    name = returns.ReturnAuthorizationState.Name(announced.state)
    return name.removeprefix("RETURN_AUTHORIZATION_STATE_")


def blind_line(quantity: int = 1, **fields: Any) -> returns.BlindLine:
    """Milk that somebody brings without a proof."""
    return returns.BlindLine(**{"sku": MILK, "quantity": quantity, "disposition": AVAILABLE, **fields})


def blind(*lines: returns.BlindLine, **fields: Any) -> returns.CreateBlindReturnRequest:
    """Ada brings it to the south, for a new gift card."""
    if "gift_card_id" not in fields:
        fields.setdefault("gift_card_code", request_id())
    return returns.CreateBlindReturnRequest(
        **{
            "request_id": request_id(),
            "location_id": SOUTH,
            "customer_id": "ada",
            "lines": lines,
            "currency_code": "USD",
            "refund_kind": pb.TENDER_KIND_STORE_CREDIT,
            **fields,
        }
    )


async def bring_blind(shop: Shop, *lines: returns.BlindLine, **fields: Any) -> returns.CreateBlindReturnResponse:
    """What she gets for it."""
    return await desk(shop).create_blind_return(blind(*lines, **fields), CALLER)


def sold_line(sku: str, quantity: int = 1) -> pb.SaleLine:
    """Goods that leave."""
    return pb.SaleLine(sku=sku, quantity=quantity)


def exchanged(
    of: str, back: Sequence[pb.ReturnedLine], goods: Sequence[pb.SaleLine], **fields: Any
) -> returns.CreateExchangeRequest:
    """Units of an order for others, in the south."""
    return returns.CreateExchangeRequest(
        **{
            "request_id": request_id(),
            "order_id": of,
            "location_id": SOUTH,
            "returned": back,
            "sold": goods,
            "currency_code": "USD",
            **fields,
        }
    )


async def exchange(
    shop: Shop, of: str, back: Sequence[pb.ReturnedLine], goods: Sequence[pb.SaleLine], **fields: Any
) -> returns.Exchange:
    """The exchange that it makes."""
    return (await desk(shop).create_exchange(exchanged(of, back, goods, **fields), CALLER)).exchange


async def signals(shop: Shop, **fields: Any) -> returns.GetReturnSignalsResponse:
    """What is known of somebody."""
    return await desk(shop).get_return_signals(returns.GetReturnSignalsRequest(**fields), CALLER)
