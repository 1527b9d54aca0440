"""Orders that a gateway pays: authorized outside any transaction, placed once, or voided; whatever the gateway does meanwhile."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from unittest.mock import AsyncMock, patch
from uuid import UUID

import pytest

from gateway import DECLINED_CARD, SIGNED, Gateway
from onhand.domain.errors import LedgerUnavailable, Overloaded, Refusal
from onhand.domain.payment import Operation, Outcome
from onhand.domain.stock import Level
from onhand.jobs import ATTEMPTS_MAX
from onhand.ledger.mutation import Ledger
from onhand.postgres import NotReached
from onhand.v1 import order_pb2 as orders
from onhand.v1 import payment_pb2 as pb
from purse import back, by_gateway, do_jobs, issue, jobs, operations, payments, purse, sale, state, tender
from shelf import request_id
from shop import CALLER, MILK, NORTH, SOUTH, Shop, cents, fulfillment_of, told

CODE = "K7QF-3M9D-X2PA-88HT"
AUTHORIZE, CAPTURE, VOID, REFUND = Operation.AUTHORIZE, Operation.CAPTURE, Operation.VOID, Operation.REFUND


async def place(shop: Shop, request: orders.PlaceOrderRequest) -> orders.Order:
    """PlaceOrder."""
    return (await shop.orders.place_order(request, CALLER)).order


async def webhook(shop: Shop, order_id: str, signature: str = SIGNED) -> int:
    """The gateway posts something about the first tender of an order. How many operations are to be looked at then."""
    (handler,) = (h for h in shop.handlers if hasattr(h, "handle_webhook"))
    request = pb.HandleWebhookRequest(
        request_id=request_id(), provider=pb.PAYMENT_PROVIDER_STRIPE, body=f"{order_id}/1".encode(), signature=signature
    )
    await handler.handle_webhook(request, CALLER)  # type: ignore[attr-defined]
    return len(await shop.fetch("SELECT FROM pgqueuer WHERE dedupe_key LIKE 'payment.settle/hint/%'"))


async def test_an_order_is_authorized_placed_and_captured(shop: Shop, gateway: Gateway) -> None:
    order = await place(shop, await by_gateway(shop))
    assert order.state == orders.ORDER_STATE_OPEN
    assert [(t.kind, t.payment_method) for t in order.tenders] == [(orders.TENDER_KIND_CARD, "")]
    (payment,) = await payments(shop, order.order_id)
    assert (state(payment), operations(payment)) == (
        "AUTHORIZED",
        [("AUTHORIZE", "SUCCEEDED", 398), ("CAPTURE", "OPEN", 398)],
    )
    await do_jobs(shop)
    (payment,) = await payments(shop, order.order_id)
    assert state(payment) == "CAPTURED"
    assert all(o.provider_reference for o in payment.operations)
    assert gateway.questions == [("authorize", AUTHORIZE), ("capture", CAPTURE)]
    events = await shop.fetch(
        "SELECT type FROM events WHERE type LIKE 'onhand.payment.%' ORDER BY transaction, sequence"
    )
    assert events == [("onhand.payment.authorized.v1",), ("onhand.payment.captured.v1",)]


async def test_a_repeat_asks_for_nothing_and_gets_the_first_answer(shop: Shop, gateway: Gateway) -> None:
    request = await by_gateway(shop)
    first = await shop.orders.place_order(request, CALLER)
    assert await shop.orders.place_order(request, CALLER) == first
    assert len(gateway.questions) == 1
    request.customer_id = "somebody else"
    assert (await told(shop.orders.place_order(request, CALLER)))[0] == "REQUEST_ID_REUSED"


async def test_two_devices_that_pay_for_one_reservation_get_one_order(shop: Shop, gateway: Gateway) -> None:
    first = await by_gateway(shop)
    second = orders.PlaceOrderRequest()
    second.CopyFrom(first)
    second.request_id = "another-device"
    outcomes = await asyncio.gather(
        *(shop.orders.place_order(r, CALLER) for r in (first, second, first, second)), return_exceptions=True
    )
    placed = {o.order.order_id for o in outcomes if isinstance(o, orders.PlaceOrderResponse)}
    assert len(placed) == 1
    assert {getattr(o, "reason", "") for o in outcomes} <= {
        "",
        "CHECKOUT_UNDER_WAY",
        "PAYMENT_PENDING",
        "RESERVATION_NOT_ACTIVE",
    }
    assert await shop.fetch("SELECT count(*) FROM orders") == [(1,)]
    await do_jobs(shop)
    assert sum(p.captured_minor for p in gateway.books.payments.values()) == 398


async def test_a_declined_card_orders_nothing_and_other_means_may_pay(shop: Shop, gateway: Gateway) -> None:
    request = await by_gateway(shop, tender("CARD", 398, payment_method=DECLINED_CARD))
    reason, values = await told(shop.orders.place_order(request, CALLER))
    assert (reason, values["tender_number"], values["detail"]) == ("PAYMENT_DECLINED", "1", "insufficient_funds")
    assert await shop.fetch("SELECT count(*) FROM orders") == [(0,)]
    assert await shop.level(NORTH, MILK) == Level(available=10)
    request.tenders[0].payment_method = "pm_2"  # a refusal had no effect: its request may come with other means
    order = await place(shop, request)
    assert cents(order.total) == 398


async def test_where_one_card_is_declined_what_the_other_set_aside_is_freed(shop: Shop, gateway: Gateway) -> None:
    card = await issue(shop, CODE, 100)
    tenders = [
        tender("CARD", 150, payment_method="pm_1"),
        tender("CARD", 148, payment_method=DECLINED_CARD),
        tender("GIFT_CARD", 100, gift_card_code=CODE),
    ]
    assert (await told(shop.orders.place_order(await by_gateway(shop, *tenders), CALLER)))[0] == "PAYMENT_DECLINED"
    await do_jobs(shop)
    assert [(p.authorized_minor, p.voided_minor) for p in gateway.books.payments.values()] == [(150, 150)]
    assert await shop.fetch("SELECT balance_minor FROM gift_cards") == [(100,)]
    assert cents(card.balance) == 100


async def test_a_gift_card_and_a_gateway_pay_one_order(shop: Shop) -> None:
    await issue(shop, CODE, 100)
    tenders = [tender("GIFT_CARD", 100, gift_card_code=CODE), tender("CARD", 298, payment_method="pm_1")]
    order = await place(shop, await by_gateway(shop, *tenders))
    await do_jobs(shop)
    assert [(state(p), cents(p.captured)) for p in await payments(shop, order.order_id)] == [
        ("CAPTURED", 100),
        ("CAPTURED", 298),
    ]
    assert await shop.fetch("SELECT balance_minor FROM gift_cards") == [(0,)]
    (stored,) = await shop.fetch("SELECT request FROM checkouts")
    assert CODE.encode() not in stored[0]


@pytest.mark.parametrize("fault", ["silent", "acts"])
async def test_an_answer_that_never_came_is_asked_for_again_by_the_repeat(
    shop: Shop, gateway: Gateway, fault: str
) -> None:
    request = await by_gateway(shop)
    gateway.faults = [fault]
    assert (await told(shop.orders.place_order(request, CALLER)))[0] == "PAYMENT_PENDING"
    assert (await place(shop, request)).order_id
    await do_jobs(shop)
    assert [p.captured_minor for p in gateway.books.payments.values()] == [398]


@pytest.mark.parametrize("fault", ["silent", "acts"])
async def test_a_checkout_that_nobody_comes_back_to_is_finished_by_its_job(
    shop: Shop, gateway: Gateway, fault: str
) -> None:
    request = await by_gateway(shop)
    gateway.faults = [fault, fault, fault]
    assert (await told(shop.orders.place_order(request, CALLER)))[0] == "PAYMENT_PENDING"
    await do_jobs(shop)
    (found,) = await shop.fetch("SELECT order_id::text FROM orders")
    assert (await place(shop, request)).order_id == found[0]


async def test_an_answer_that_comes_after_the_job_has_asked_too_changes_nothing(shop: Shop, gateway: Gateway) -> None:
    request = await by_gateway(shop)
    gateway.faults = ["acts"]
    assert (await told(shop.orders.place_order(request, CALLER)))[0] == "PAYMENT_PENDING"
    await asyncio.gather(do_jobs(shop), place(shop, request))
    assert await shop.fetch("SELECT count(*) FROM orders") == [(1,)]
    assert [p.authorized_minor for p in gateway.books.payments.values()] == [398]


async def test_stock_that_went_while_the_customer_paid_is_not_charged_for(shop: Shop, gateway: Gateway) -> None:
    request = await by_gateway(shop, quantity=9)
    gateway.faults = ["acts"]
    assert (await told(shop.orders.place_order(request, CALLER)))[0] == "PAYMENT_PENDING"
    await shop.sell(NORTH, {MILK: 4}, 4 * 199)
    assert (await told(shop.orders.place_order(request, CALLER)))[0] == "RESERVATION_SHORT"
    await do_jobs(shop)
    assert [(p.captured_minor, p.capturable_minor) for p in gateway.books.payments.values()] == [(0, 0)]
    assert await shop.fetch("SELECT state, refusal FROM checkouts") == [("REFUSED", "RESERVATION_SHORT")]


@pytest.mark.parametrize("error", [NotReached("no connection"), LedgerUnavailable("lost"), Overloaded("orders", 1)])
async def test_a_paid_order_is_not_given_up_because_the_ledger_could_not_be_had(
    shop: Shop, gateway: Gateway, error: Refusal
) -> None:
    request = await by_gateway(shop)
    with patch.object(Ledger, "mutate", side_effect=error):
        assert (await told(shop.orders.place_order(request, CALLER)))[0] == error.reason
    assert await shop.fetch("SELECT state FROM checkouts") == [("PENDING",)]
    await do_jobs(shop)
    assert await shop.fetch("SELECT count(*) FROM orders") == [(1,)]
    assert [p.captured_minor for p in gateway.books.payments.values()] == [398]


async def test_a_cart_that_changed_while_the_customer_paid_is_not_charged_for(shop: Shop, gateway: Gateway) -> None:
    cart_id = await shop.cart({MILK: 2})
    request = await by_gateway(shop)
    request.cart_id = cart_id
    gateway.faults = ["acts"]
    assert (await told(shop.orders.place_order(request, CALLER)))[0] == "PAYMENT_PENDING"
    await shop.execute("UPDATE cart_lines SET quantity = 3")
    await do_jobs(shop)  # the job finds out, with nobody there to be told
    assert await shop.fetch("SELECT state, refusal FROM checkouts") == [("REFUSED", "CART_CHANGED")]
    assert await shop.fetch("SELECT data ->> 'reason' FROM events WHERE type = 'onhand.checkout.refused.v1'") == [
        ("CART_CHANGED",)
    ]
    assert [p.capturable_minor for p in gateway.books.payments.values()] == [0]
    await shop.execute("UPDATE cart_lines SET quantity = 2")


async def test_what_is_wrong_with_an_order_is_said_before_anybody_pays(shop: Shop, gateway: Gateway) -> None:
    request = await by_gateway(shop, tender("CARD", 397, payment_method="pm_1"))
    assert (await told(shop.orders.place_order(request, CALLER)))[0] == "TENDERS_MISMATCH"
    request = await by_gateway(shop, tender("CASH", 398, payment_method="pm_1"))
    assert (await told(shop.orders.place_order(request, CALLER)))[0] == "INVALID_REQUEST"
    request = await by_gateway(shop, tender("CARD", 398, capture_at=orders.CAPTURE_AT_FULFILLMENT))
    assert (await told(shop.orders.place_order(request, CALLER)))[0] == "INVALID_REQUEST"
    assert (await told(shop.orders.sell(sale(2, tender("CARD", 398, payment_method="pm_1")), CALLER)))[
        0
    ] == "INVALID_REQUEST"
    assert gateway.questions == []
    assert await shop.fetch("SELECT count(*) FROM checkouts") == [(0,)]


async def test_a_reservation_is_kept_while_somebody_pays_for_it(shop: Shop, gateway: Gateway) -> None:
    request = await by_gateway(shop)
    await shop.execute("UPDATE claims SET deadline = now() + interval '5 seconds' WHERE state = 'active'")
    gateway.faults = ["silent"]
    assert (await told(shop.orders.place_order(request, CALLER)))[0] == "PAYMENT_PENDING"
    ((left,),) = await shop.fetch("SELECT deadline - now() FROM claims WHERE state = 'active'")
    assert left > timedelta(minutes=14)


# ------------------------------------------------------------------------------------------------------------ capturing
async def test_what_waits_for_the_goods_is_captured_as_they_leave_and_the_rest_with_the_last(
    shop: Shop, gateway: Gateway
) -> None:
    reservation_id = await shop.reserve({NORTH: {MILK: 2}, SOUTH: {MILK: 1}})
    when = orders.CAPTURE_AT_FULFILLMENT
    request = shop.place_request(
        reservation_id,
        dict.fromkeys((NORTH, SOUTH), orders.FULFILLMENT_KIND_SHIP),
        597,
        tenders=[
            tender("CARD", 300, payment_method="pm_1", capture_at=when),
            tender("CARD", 297, payment_method="pm_2", capture_at=when),
        ],
    )
    order = await place(shop, request)
    await do_jobs(shop)
    assert [state(p) for p in await payments(shop, order.order_id)] == ["AUTHORIZED", "AUTHORIZED"]
    for place_, captured in ((SOUTH, [199, 0]), (NORTH, [300, 297])):
        work = fulfillment_of(order, place_).fulfillment_order_id
        for step in (shop.accept, shop.pick, shop.ship):
            await step(work)
        await do_jobs(shop)
        assert [cents(p.captured) for p in await payments(shop, order.order_id)] == captured


async def test_what_is_cancelled_before_it_left_was_never_taken(shop: Shop, gateway: Gateway) -> None:
    order = await place(shop, await by_gateway(shop, quantity=3, capture_at="FULFILLMENT"))
    await shop.cancel(order.order_id, {1: 1})
    await do_jobs(shop)
    (payment,) = await payments(shop, order.order_id)
    assert (state(payment), cents(payment.voided)) == ("AUTHORIZED", 199)
    assert [k for _, k in gateway.questions] == [AUTHORIZE]  # a part is left out of the last capture; nobody is asked
    await shop.cancel(order.order_id, {1: 2})
    await do_jobs(shop)
    (payment,) = await payments(shop, order.order_id)
    assert (state(payment), cents(payment.owed)) == ("VOIDED", 0)
    assert [k for _, k in gateway.questions] == [AUTHORIZE, VOID]


async def test_a_part_is_captured_and_frees_what_was_cancelled(shop: Shop, gateway: Gateway) -> None:
    order = await place(shop, await by_gateway(shop, quantity=3, capture_at="FULFILLMENT"))
    await shop.cancel(order.order_id, {1: 1})
    work = fulfillment_of(order, NORTH).fulfillment_order_id
    for step in (shop.accept, shop.pick, shop.mark_ready):
        await step(work)
    await shop.hand_over(work, await shop.reset_code(work))
    await do_jobs(shop)
    (payment,) = await payments(shop, order.order_id)
    assert (state(payment), cents(payment.captured), cents(payment.voided)) == ("CAPTURED", 398, 199)
    await shop.take_back(order.order_id, SOUTH, back(2))
    await do_jobs(shop)
    assert [state(p) for p in await payments(shop, order.order_id)] == ["REFUNDED"]


@pytest.mark.parametrize("fault", ["silent", "acts"])
async def test_a_refund_whose_answer_was_lost_is_made_once(shop: Shop, gateway: Gateway, fault: str) -> None:
    order = await place(shop, await by_gateway(shop))
    await do_jobs(shop)
    gateway.faults = [fault, fault]
    await shop.cancel(order.order_id, {1: 1})
    await shop.app.jobs.run_due()
    (payment,) = await payments(shop, order.order_id)
    assert (cents(payment.refunded), cents(payment.owed)) == (0, 199)
    await do_jobs(shop)
    assert [p.refunded_minor for p in gateway.books.payments.values()] == [199]
    assert [cents(p.refunded) for p in await payments(shop, order.order_id)] == [199]


async def test_a_refund_waits_for_the_capture_before_it(shop: Shop, gateway: Gateway) -> None:
    order = await place(shop, await by_gateway(shop))
    await shop.cancel(order.order_id, {1: 2})
    gateway.faults = ["silent"]
    await do_jobs(shop)
    (payment,) = await payments(shop, order.order_id)
    assert operations(payment) == [
        ("AUTHORIZE", "SUCCEEDED", 398), ("CAPTURE", "SUCCEEDED", 398), ("REFUND", "SUCCEEDED", 398),
    ]  # fmt: skip
    assert [k for w, k in gateway.questions if w != "look_up"] == [AUTHORIZE, CAPTURE, CAPTURE, REFUND]


async def test_what_waited_in_vain_is_asked_for_once_what_it_waited_for_is_known(shop: Shop, gateway: Gateway) -> None:
    order = await place(shop, await by_gateway(shop))
    await shop.cancel(order.order_id, {1: 2})
    gateway.faults = ["silent"] * ATTEMPTS_MAX
    await do_jobs(shop)
    assert [(status, attempts) for _, status, attempts in await jobs(shop)] == [("failed", ATTEMPTS_MAX - 1)] * 2
    (payment,) = await payments(shop, order.order_id)
    _, capture, refund = payment.operations
    assert await shop.app.settling.settle(UUID(capture.operation_id)) is Outcome.SUCCEEDED
    await do_jobs(shop)
    (payment,) = await payments(shop, order.order_id)
    assert operations(payment)[2] == ("REFUND", "SUCCEEDED", 398)
    assert payment.operations[2].operation_id == refund.operation_id


async def test_a_job_that_never_succeeds_is_held_for_a_person(shop: Shop, gateway: Gateway) -> None:
    order = await place(shop, await by_gateway(shop))
    gateway.faults = ["silent"] * ATTEMPTS_MAX
    await do_jobs(shop)
    assert ("payment.settle", "failed", ATTEMPTS_MAX - 1) in await jobs(shop)
    # The provider answers again, and says so: what is open is looked at, whatever became of its job.
    assert await webhook(shop, order.order_id) == 1
    await do_jobs(shop)
    assert [state(p) for p in await payments(shop, order.order_id)] == ["CAPTURED"]


async def test_a_checkout_whose_job_is_held_is_finished_once_the_provider_is_back(shop: Shop, gateway: Gateway) -> None:
    request = await by_gateway(shop)
    gateway.faults = ["acts"] + ["silent"] * ATTEMPTS_MAX
    with patch.object(gateway, "look_up", AsyncMock(return_value=None)):
        reason, values = await told(place(shop, request))
        await do_jobs(shop)
    assert (reason, await jobs(shop)) == ("PAYMENT_PENDING", [("checkout.finish", "failed", ATTEMPTS_MAX - 1)])
    await webhook(shop, values["order_id"])
    await do_jobs(shop)
    assert [state(p) for p in await payments(shop, values["order_id"])] == ["CAPTURED"]


# -------------------------------------------------------------------------------------------------------------- webhooks
async def test_webhooks_may_come_early_late_twice_or_about_nothing(shop: Shop, gateway: Gateway) -> None:
    order = await place(shop, await by_gateway(shop))
    assert [await webhook(shop, order.order_id) for _ in range(3)] == [1, 1, 1]
    await do_jobs(shop)
    assert await webhook(shop, order.order_id) == 0
    assert await webhook(shop, "00000000-0000-0000-0000-000000000000") == 0
    assert await jobs(shop) == []
    assert [p.captured_minor for p in gateway.books.payments.values()] == [398]


async def test_a_webhook_that_its_provider_did_not_sign_is_refused(shop: Shop) -> None:
    order = await place(shop, await by_gateway(shop))
    assert await told(webhook(shop, order.order_id, "forged")) == ("WEBHOOK_SIGNATURE_WRONG", {"provider": "STRIPE"})


# ------------------------------------------------------------------------------------------------- what is declined to go back
async def owed(shop: Shop, gateway: Gateway) -> pb.PaymentOperation:
    """A refund of 199 that the gateway declined."""
    order = await place(shop, await by_gateway(shop))
    await do_jobs(shop)
    await shop.cancel(order.order_id, {1: 1})
    gateway.faults = ["no"]
    await do_jobs(shop)
    (payment,) = await payments(shop, order.order_id)
    assert (cents(payment.owed), operations(payment)[-1]) == (199, ("REFUND", "DECLINED", 199))
    assert payment.operations[-1].detail == "account_closed"
    return payment.operations[-1]


async def settled(shop: Shop, operation_id: str, how: str, id: str = "") -> pb.Payment:
    """SettleRefund."""
    request = pb.SettleRefundRequest(
        request_id=id or request_id(),
        operation_id=operation_id,
        settlement=pb.RefundSettlement.Value(f"REFUND_SETTLEMENT_{how}"),
        reference="receipt 7",
    )
    return (await purse(shop).settle_refund(request, CALLER)).payment


async def test_what_was_declined_is_asked_for_once_more(shop: Shop, gateway: Gateway) -> None:
    declined = await owed(shop, gateway)
    payment = await settled(shop, declined.operation_id, "RETRY", "settlement-1")
    assert await settled(shop, declined.operation_id, "RETRY", "settlement-1") == payment
    await do_jobs(shop)
    (payment,) = await payments(shop, payment.order_id)
    assert (cents(payment.refunded), cents(payment.owed), payment.operations[-1].replaces) == (
        199,
        0,
        declined.operation_id,
    )


async def test_what_was_declined_is_paid_out_by_hand_once(shop: Shop, gateway: Gateway) -> None:
    declined = await owed(shop, gateway)
    payment = await settled(shop, declined.operation_id, "BY_HAND")
    assert (cents(payment.refunded), cents(payment.owed)) == (199, 0)
    assert payment.operations[-1].provider_reference == "receipt 7"
    assert (await told(settled(shop, declined.operation_id, "BY_HAND")))[0] == "OPERATION_NOT_DECLINED"
    assert [p.refunded_minor for p in gateway.books.payments.values()] == [0]


async def test_what_was_declined_twice_can_still_be_paid_out(shop: Shop, gateway: Gateway) -> None:
    first = await owed(shop, gateway)
    again = (await settled(shop, first.operation_id, "RETRY")).operations[-1]
    gateway.faults = ["no"]
    await do_jobs(shop)
    assert (await told(settled(shop, first.operation_id, "BY_HAND")))[0] == "OPERATION_NOT_DECLINED"
    assert cents((await settled(shop, again.operation_id, "BY_HAND")).owed) == 0


async def test_only_what_was_declined_to_go_back_is_settled(shop: Shop, gateway: Gateway) -> None:
    order = await place(shop, await by_gateway(shop))
    (payment,) = await payments(shop, order.order_id)
    for operation in payment.operations:
        assert (await told(settled(shop, operation.operation_id, "BY_HAND")))[0] == "OPERATION_NOT_DECLINED"
    missing = "00000000-0000-0000-0000-000000000000"
    assert (await told(settled(shop, missing, "BY_HAND")))[0] == "OPERATION_NOT_FOUND"
