"""Changes of orders that a gateway pays: authorized first, made once and as they were agreed to; or voided, and nothing changed."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import patch

import pytest

from broken import broken_rules
from gateway import DECLINED_CARD, SIGNED, Gateway
from onhand.domain.payment import Operation
from onhand.domain.stock import Level
from onhand.ledger.mutation import Ledger
from onhand.postgres import NotReached
from onhand.v1 import inventory_pb2
from onhand.v1 import order_pb2 as orders
from onhand.v1 import payment_pb2 as pb
from purse import by_gateway, days_pass, do_jobs, issue, jobs, operations, payments, purse, state, tender
from shelf import request_id
from shop import BREAD, CALLER, MILK, NORTH, Shop, card, cents, told

CODE = "K7QF-3M9D-X2PA-88HT"


async def ordered(shop: Shop, capture_at: str = "ONCE") -> orders.Order:
    """Two units of milk, by a card."""
    order = (await shop.orders.place_order(await by_gateway(shop, capture_at=capture_at), CALLER)).order
    await do_jobs(shop)
    return order


async def more(
    shop: Shop, order: orders.Order, quantity: int = 5, *tenders: orders.Tender, **fields: Any
) -> orders.ApplyOrderChangeRequest:
    """So many units of milk instead, by a card if nothing else is said: as it was previewed."""
    lines = [orders.WantedQuantity(line_number=1, quantity=quantity)]
    change = orders.OrderChange(quantities=orders.EditQuantities(lines=lines))
    asked = orders.PreviewOrderChangeRequest(order_id=order.order_id, change=change)
    shown = await shop.orders.preview_order_change(asked, CALLER)
    paid = tenders or [tender("CARD", cents(shown.charge), payment_method="pm_2", **fields)]
    return orders.ApplyOrderChangeRequest(
        request_id=request_id(), order_id=order.order_id, change=change, etag=shown.etag, tenders=paid
    )


async def apply(shop: Shop, request: orders.ApplyOrderChangeRequest) -> orders.Order:
    """ApplyOrderChange."""
    return (await shop.orders.apply_order_change(request, CALLER)).order


async def as_it_was(shop: Shop, gateway: Gateway, order: orders.Order, available: int = 8) -> None:
    """Nothing is changed, held or set aside."""
    await do_jobs(shop)
    now = await shop.order(order.order_id)
    assert (list(now.lines), list(now.tenders), now.total) == (list(order.lines), list(order.tenders), order.total)
    assert await shop.fetch("SELECT count(*) FROM claims WHERE state = 'active'") == [(0,)]
    assert await shop.level(NORTH, MILK) == Level(available=available, allocated=2)
    assert await shop.atp(NORTH, MILK) == available
    _, *others = gateway.books.payments.values()
    assert [(p.captured_minor, p.capturable_minor) for p in others] == [(0, 0)] * len(others)


async def refusals(shop: Shop) -> list[tuple[str, str]]:
    """(order, reason) of what customers have to be told."""
    query = "SELECT data ->> 'order_id', data ->> 'reason' FROM events WHERE type = 'onhand.order.change_refused.v1'"
    return [tuple(row) for row in await shop.fetch(query)]  # type: ignore[misc]


async def test_what_is_added_is_authorized_reserved_meanwhile_and_charged_once(shop: Shop, gateway: Gateway) -> None:
    order = await ordered(shop)
    request = await more(shop, order, 10)  # all that is left: a repeat finds it held, by itself
    gateway.faults = ["silent"]
    reason, values = await told(apply(shop, request))
    assert (reason, values["order_id"]) == ("PAYMENT_PENDING", order.order_id)
    assert (await shop.order(order.order_id)).total == order.total
    assert (await shop.atp(NORTH, MILK), await shop.level(NORTH, MILK)) == (0, Level(available=8, allocated=2))
    assert [(state(p), p.is_of_unmade_change) for p in await payments(shop, order.order_id)] == [
        ("CAPTURED", False),
        ("PENDING", True),
    ]
    assert await broken_rules(shop) == []
    await shop.execute("UPDATE prices SET amount_minor = 250 WHERE sku = 'milk'")  # they agreed to another

    done = await shop.orders.apply_order_change(request, CALLER)
    assert await shop.orders.apply_order_change(request, CALLER) == done
    assert [(line.quantity, cents(line.total)) for line in done.order.lines] == [(2, 398), (8, 1592)]
    assert [cents(t.amount) for t in done.order.tenders] == [398, 1592]
    await do_jobs(shop)
    _, second = await payments(shop, order.order_id)
    assert (state(second), second.is_of_unmade_change) == ("CAPTURED", False)
    assert operations(second) == [("AUTHORIZE", "SUCCEEDED", 1592), ("CAPTURE", "SUCCEEDED", 1592)]
    assert [p.captured_minor for p in gateway.books.payments.values()] == [398, 1592]
    assert (await shop.atp(NORTH, MILK), await shop.level(NORTH, MILK)) == (0, Level(allocated=10))
    await shop.cancel(order.order_id, {1: 2, 2: 8})
    await do_jobs(shop)
    assert [cents(p.refunded) for p in await payments(shop, order.order_id)] == [398, 1592]
    request.tenders[0].payment_method = "pm_3"
    assert (await told(apply(shop, request)))[0] == "REQUEST_ID_REUSED"


@pytest.mark.parametrize("fault", ["silent", "acts"])
async def test_a_change_that_nobody_comes_back_to_is_made_by_its_job(shop: Shop, gateway: Gateway, fault: str) -> None:
    order = await ordered(shop)
    request = await more(shop, order)
    gateway.faults = [fault] * 3
    assert (await told(apply(shop, request)))[0] == "PAYMENT_PENDING"
    body = f"{order.order_id}/2".encode()
    hint = pb.HandleWebhookRequest(
        request_id=request_id(), provider=pb.PAYMENT_PROVIDER_STRIPE, body=body, signature=SIGNED
    )
    (handler,) = (h for h in shop.handlers if hasattr(h, "handle_webhook"))
    await handler.handle_webhook(hint, CALLER)  # type: ignore[attr-defined]
    assert await shop.fetch("SELECT count(*) FROM pgqueuer WHERE entrypoint = 'checkout.finish_change'") == [(2,)]
    await do_jobs(shop)
    assert cents((await shop.order(order.order_id)).total) == 5 * 199
    assert cents((await apply(shop, request)).total) == 5 * 199
    assert [p.captured_minor for p in gateway.books.payments.values()] == [398, 597]


async def test_a_declined_card_changes_nothing_and_other_means_may_pay(shop: Shop, gateway: Gateway) -> None:
    order = await ordered(shop)
    request = await more(shop, order, 5, tender("CARD", 597, payment_method=DECLINED_CARD))
    reason, values = await told(apply(shop, request))
    assert (reason, values["order_id"], values["tender_number"]) == ("PAYMENT_DECLINED", order.order_id, "2")
    assert await shop.atp(NORTH, MILK) == 8  # at once
    await as_it_was(shop, gateway, order)
    assert await refusals(shop) == [(order.order_id, "PAYMENT_DECLINED")]
    assert [p.is_of_unmade_change for p in await payments(shop, order.order_id)] == [False, True]
    request.tenders[0].payment_method = "pm_2"  # a refusal had no effect: its request may come with other means
    assert cents((await apply(shop, request)).total) == 5 * 199


@pytest.mark.parametrize("is_repeated", [True, False], ids=["repeated", "by its job"])
@pytest.mark.parametrize(
    ("what", "reason", "available"),
    [("accepted", "CHANGE_OUTDATED", 8), ("sold", "INSUFFICIENT_STOCK", 1), ("late", "CHANGE_OUTDATED", 8)],
)
async def test_what_can_not_be_changed_any_more_is_voided(
    shop: Shop, gateway: Gateway, what: str, reason: str, available: int, is_repeated: bool
) -> None:
    order = await ordered(shop)
    request = await more(shop, order)
    gateway.faults = ["acts"]
    assert (await told(apply(shop, request)))[0] == "PAYMENT_PENDING"
    if what == "accepted":
        await shop.accept(order.fulfillment_orders[0].fulfillment_order_id)
    elif what == "sold":
        await shop.sell(NORTH, {MILK: 7}, 7 * 199)
    else:
        await shop.execute("UPDATE claims SET deadline = now() - interval '1 second' WHERE state = 'active'")
        await shop.app.sweeper.expire()
    if is_repeated:
        assert (await told(apply(shop, request)))[0] == reason
    await as_it_was(shop, gateway, order, available)
    assert await refusals(shop) == [(order.order_id, reason)]
    assert [cents(p.voided) for p in await payments(shop, order.order_id)] == [0, 597]


async def test_a_silent_gateway_keeps_units_no_longer_than_their_reservation(shop: Shop, gateway: Gateway) -> None:
    order = await ordered(shop)
    request = await more(shop, order, 5, tender("CARD", 597, payment_method=DECLINED_CARD))
    gateway.faults = ["silent"] * 2
    assert (await told(apply(shop, request)))[0] == "PAYMENT_PENDING"
    await shop.execute("UPDATE claims SET deadline = now() - interval '1 second' WHERE state = 'active'")
    assert (await told(apply(shop, request)))[0] == "CHANGE_OUTDATED"
    assert await shop.atp(NORTH, MILK) == 8
    await as_it_was(shop, gateway, order)  # what it says at last is no, so there is nothing to void, and nothing owed
    _, second = await payments(shop, order.order_id)
    assert operations(second) == [("AUTHORIZE", "DECLINED", 597), ("VOID", "DECLINED", 597)]
    assert (state(second), cents(second.owed)) == ("DECLINED", 0)
    declined = "SELECT data ->> 'kind' FROM events WHERE type = 'onhand.payment.declined.v1'"
    assert await shop.fetch(declined) == [("AUTHORIZE",)]
    by_hand = pb.SettleRefundRequest(
        request_id=request_id(),
        operation_id=second.operations[1].operation_id,
        settlement=pb.REFUND_SETTLEMENT_BY_HAND,
    )
    assert (await told(purse(shop).settle_refund(by_hand, CALLER)))[0] == "OPERATION_NOT_DECLINED"


async def test_of_two_changes_that_are_paid_at_once_one_is_made(shop: Shop, gateway: Gateway) -> None:
    order = await ordered(shop)
    requests = [await more(shop, order, n) for n in (3, 4)]
    results = await asyncio.gather(*(apply(shop, r) for r in [*requests, *requests]), return_exceptions=True)
    made = {cents(r.total) for r in results if isinstance(r, orders.Order)}
    assert len(made) == 1
    assert {getattr(r, "reason", "") for r in results} <= {"", "CHANGE_OUTDATED", "PAYMENT_PENDING"}
    await do_jobs(shop)
    assert {cents((await shop.order(order.order_id)).total)} == made
    assert sum(p.captured_minor for p in gateway.books.payments.values()) == made.pop()


async def test_what_is_set_aside_for_a_change_is_not_the_order_s_until_it_is_made(shop: Shop, gateway: Gateway) -> None:
    order = await ordered(shop, "FULFILLMENT")
    request = await more(shop, order, 3, capture_at=orders.CAPTURE_AT_FULFILLMENT)
    with patch.object(Ledger, "mutate", side_effect=NotReached("no connection")):
        await told(apply(shop, request))
    _, second = await payments(shop, order.order_id)
    assert (state(second), second.is_of_unmade_change) == ("AUTHORIZED", True)
    assert await broken_rules(shop) == []
    await hand_over(shop, order)  # all of it, so that all that waits for it is captured
    await do_jobs(shop)
    await days_pass(shop)
    assert await jobs(shop) == []
    first, second = await payments(shop, order.order_id)
    assert (state(first), operations(second)) == (
        "CAPTURED",
        [("AUTHORIZE", "SUCCEEDED", 199), ("VOID", "SUCCEEDED", 199)],
    )
    assert await refusals(shop) == [(order.order_id, "LINE_NOT_TO_RAISE")]

    other = await ordered(shop, "FULFILLMENT")
    await hand_over(shop, await apply(shop, await more(shop, other, 3, capture_at=orders.CAPTURE_AT_FULFILLMENT)))
    await do_jobs(shop)
    assert [cents(p.captured) for p in await payments(shop, other.order_id)] == [398, 199]


async def hand_over(shop: Shop, order: orders.Order) -> None:
    """All of an order is fetched."""
    work = order.fulfillment_orders[0].fulfillment_order_id
    for step in (shop.accept, shop.pick, shop.mark_ready):
        await step(work)
    await shop.hand_over(work, await shop.reset_code(work))


async def test_a_change_that_is_being_paid_for_is_the_order_s_share_of_a_day(shop: Shop, gateway: Gateway) -> None:
    location = inventory_pb2.Location(location_id=NORTH, daily_orders_max=2, daily_units_max=6)
    update = inventory_pb2.UpdateLocationRequest(request_id=request_id(), location=location)
    update.update_mask.paths.extend(("daily_orders_max", "daily_units_max"))
    await shop.locations.update_location(update, CALLER)
    order = await ordered(shop)
    request = await more(shop, order)
    gateway.faults = ["silent"]
    assert (await told(apply(shop, request)))[0] == "PAYMENT_PENDING"
    assert (await told(shop.place({NORTH: {BREAD: 2}})))[0] == "LOCATION_AT_CAPACITY"  # its units count
    await shop.place({NORTH: {BREAD: 1}})  # and it is no other order
    assert cents((await apply(shop, request)).total) == 5 * 199


async def test_a_card_a_gift_card_and_the_till_pay_a_change_that_gives_something_back(
    shop: Shop, gateway: Gateway
) -> None:
    await issue(shop, CODE, 500)
    reservation_id = await shop.reserve({NORTH: {MILK: 2, BREAD: 2}})
    request = shop.place_request(reservation_id, {NORTH: orders.FULFILLMENT_KIND_PICKUP}, 898, tenders=card(898))
    order = (await shop.orders.place_order(request, CALLER)).order
    numbers = {line.sku: line.line_number for line in order.lines}
    wanted = [(numbers[MILK], 6), (numbers[BREAD], 1)]
    lines = [orders.WantedQuantity(line_number=n, quantity=q) for n, q in wanted]
    change = orders.OrderChange(quantities=orders.EditQuantities(lines=lines))
    asked = orders.PreviewOrderChangeRequest(order_id=order.order_id, change=change)
    shown = await shop.orders.preview_order_change(asked, CALLER)
    paid = [tender("GIFT_CARD", 300, gift_card_code=CODE), tender("CARD", 400, payment_method="pm_2"), *card(96)]
    made: dict[str, Any] = {"order_id": order.order_id, "change": change, "etag": shown.etag}
    wrong = orders.ApplyOrderChangeRequest(request_id=request_id(), tenders=paid[:2], **made)
    assert (await told(apply(shop, wrong)))[0] == "TENDERS_MISMATCH"
    assert gateway.questions == []
    assert await shop.atp(NORTH, MILK) == 8
    call = orders.ApplyOrderChangeRequest(request_id=request_id(), tenders=paid, **made)
    gateway.faults = ["acts"]
    assert (await told(apply(shop, call)))[0] == "PAYMENT_PENDING"
    ((stored,),) = await shop.fetch("SELECT request FROM checkouts")
    assert CODE.encode() not in stored
    done = await shop.orders.apply_order_change(call, CALLER)
    assert (cents(done.charge), cents(done.refund)) == (796, 250)
    assert cents(done.order.total) == sum(cents(t.amount) for t in done.order.tenders) == 898 + 796
    assert await shop.fetch("SELECT balance_minor FROM gift_cards") == [(450,)]  # it got what bread had cost
    await do_jobs(shop)
    assert [k for w, k in gateway.questions if w != "look_up"] == [Operation.AUTHORIZE, Operation.CAPTURE]
