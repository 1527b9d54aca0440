"""Scenarios of returns."""

from __future__ import annotations

from google.protobuf.message import Message

from bring import (
    DAMAGED,
    MANAGER,
    SUPPLIER,
    age,
    announce,
    blind,
    blind_line,
    bring,
    bring_blind,
    brought,
    exchanged,
    expire,
    receive,
    received,
    refused_line,
    sold_line,
    units,
)  # fmt: skip
from crash.stage import Stage
from crash.stock import scenario
from crash.trade import GIFT_CARD
from onhand.v1 import order_pb2, types_pb2
from onhand.v1 import returns_pb2 as pb
from purse import issue, tender
from shelf import request_id
from shop import BREAD, MILK, NORTH, SOUTH, Shop


@scenario("CreateReturn", "past its window, by a manager")
async def _(stage: Stage, shop: Shop) -> Message:
    order = await shop.sell(NORTH, {MILK: 2}, 398)
    await age(shop, order.order_id, days=100)
    return brought(order.order_id, units(), units(1, SUPPLIER), override=MANAGER)


@scenario("CreateReturn", "past its window", refusal="RETURN_WINDOW_PASSED")
async def _(stage: Stage, shop: Shop) -> Message:
    order = await shop.sell(NORTH, {MILK: 2}, 398)
    await age(shop, order.order_id, days=100)
    return brought(order.order_id)


@scenario("ReturnToSupplier", "what was returned for it")
async def _(stage: Stage, shop: Shop) -> Message:
    order = await shop.sell(NORTH, {MILK: 2}, 398)
    await bring(shop, order.order_id, units(2, SUPPLIER))
    return pb.ReturnToSupplierRequest(
        request_id=request_id(), location_id=SOUTH, lines=[types_pb2.BasketLine(sku=MILK, quantity=1)]
    )


@scenario("AuthorizeReturn", "a part of an order")
async def _(stage: Stage, shop: Shop) -> Message:
    order = await shop.sell(NORTH, {MILK: 3}, 597)
    await announce(shop, order.order_id, {1: 1})
    return pb.AuthorizeReturnRequest(
        request_id=request_id(),
        order_id=order.order_id,
        channel=types_pb2.CHANNEL_WEB,
        lines=[pb.AnnouncedLine(line_number=1, quantity=2)],
    )


@scenario("AuthorizeReturn", "more than is left beside another", refusal="RETURN_EXCEEDED")
async def _(stage: Stage, shop: Shop) -> Message:
    order = await shop.sell(NORTH, {MILK: 3}, 597)
    await announce(shop, order.order_id, {1: 2})
    return pb.AuthorizeReturnRequest(
        request_id=request_id(),
        order_id=order.order_id,
        channel=types_pb2.CHANNEL_WEB,
        lines=[pb.AnnouncedLine(line_number=1, quantity=2)],
    )


@scenario("CancelReturnAuthorization", "of which a part came")
async def _(stage: Stage, shop: Shop) -> Message:
    order = await shop.sell(NORTH, {MILK: 3}, 597)
    announced = await announce(shop, order.order_id, {1: 3})
    await receive(shop, announced, units())
    return pb.CancelReturnAuthorizationRequest(
        request_id=request_id(), return_authorization_id=announced.return_authorization_id
    )


@scenario("ReceiveReturn", "one as new, one damaged, one refused")
async def _(stage: Stage, shop: Shop) -> Message:
    order = await shop.sell(NORTH, {MILK: 4}, 796)
    announced = await announce(shop, order.order_id, {1: 4})
    return received(announced, units(), units(1, DAMAGED), refused=[refused_line(1)])


@scenario("ReceiveReturn", "too late, and by a manager refused whole")
async def _(stage: Stage, shop: Shop) -> Message:
    order = await shop.sell(NORTH, {MILK: 1}, 199)
    announced = await announce(shop, order.order_id, {1: 1})
    await expire(shop, announced)
    return received(announced, refused=[refused_line(1)], override=MANAGER)


@scenario("jobs", "the end of an authorization of which a part came", work=lambda app: app.jobs.run_due())
async def _(stage: Stage, shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 2}, 398)
    announced = await announce(shop, order.order_id, {1: 2})
    await receive(shop, announced, units(1))
    await expire(shop, announced)
    await shop.execute("UPDATE pgqueuer SET execute_after = now() - interval '1 second'")


@scenario("ReceiveReturn", "while the gate is not reached", lost=("*",))
async def _(stage: Stage, shop: Shop) -> Message:
    order = await shop.sell(NORTH, {MILK: 2}, 398)
    return received(await announce(shop, order.order_id, {1: 2}), units(2))


@scenario("CreateBlindReturn", "onto a new gift card")
async def _(stage: Stage, shop: Shop) -> Message:
    await bring_blind(shop, blind_line())
    return blind(blind_line(2), gift_card_code=GIFT_CARD)


@scenario("CreateBlindReturn", "in cash, by a manager, where it is worth a look")
async def _(stage: Stage, shop: Shop) -> Message:
    for _ in range(2):
        await bring_blind(shop, blind_line())
    return blind(blind_line(), refund_kind=order_pb2.TENDER_KIND_CASH, gift_card_code="", override=MANAGER)


@scenario("CreateBlindReturn", "more than a customer may", refusal="BLIND_RETURN_LIMIT")
async def _(stage: Stage, shop: Shop) -> Message:
    return blind(blind_line(30))


@scenario("CreateExchange", "for dearer goods, a gift card pays the rest")
async def _(stage: Stage, shop: Shop) -> Message:
    await issue(shop, GIFT_CARD, 5000)
    order = await shop.sell(NORTH, {MILK: 2}, 398)
    paid = [tender("GIFT_CARD", 51, gift_card_code=GIFT_CARD)]
    return exchanged(order.order_id, [units(1, DAMAGED)], [sold_line(BREAD)], tenders=paid)


@scenario("CreateExchange", "for one of the same, the rest goes back")
async def _(stage: Stage, shop: Shop) -> Message:
    order = await shop.sell(NORTH, {MILK: 2}, 398)
    return exchanged(order.order_id, [units(2)], [sold_line(MILK)])


@scenario("CreateExchange", "the gate is not reached", lost=("*",))
async def _(stage: Stage, shop: Shop) -> Message:
    order = await shop.sell(NORTH, {MILK: 2}, 398)
    return exchanged(order.order_id, [units(2)], [sold_line(MILK)])


@scenario("CreateExchange", "for goods that were promised to others")
async def _(stage: Stage, shop: Shop) -> Message:
    order = await shop.sell(NORTH, {MILK: 1}, 199)
    await shop.reserve({SOUTH: {BREAD: 10}})
    return exchanged(order.order_id, [units()], [sold_line(BREAD)], tenders=[tender("CASH", 51)])


@scenario("CreateExchange", "for less than it costs", refusal="TENDERS_MISMATCH")
async def _(stage: Stage, shop: Shop) -> Message:
    order = await shop.sell(NORTH, {MILK: 1}, 199)
    return exchanged(order.order_id, [units()], [sold_line(BREAD)])
