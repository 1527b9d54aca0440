"""One cart and one reservation make one order, however many devices complete them, and whoever pays by which means."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from unittest.mock import AsyncMock, patch

import pytest

from broken import until_waiting
from gateway import DECLINED_CARD, Gateway
from onhand.crash import Step, watched
from onhand.v1 import cart_pb2, inventory_pb2, types_pb2
from onhand.v1 import order_pb2 as orders
from purse import do_jobs, tender
from shelf import request_id
from shop import BREAD, CALLER, MILK, NORTH, Shop, card, cents, dollars, told

PICKUP = orders.FULFILLMENT_KIND_PICKUP
BY_CARD, BY_GATEWAY = "recorded", "gateway"


class Interleaved:
    """Does something once, right before or after the first step of a name."""

    def __init__(self, where: str, name: str, work: Callable[[], Awaitable[Any]]) -> None:
        self._where, self._name, self._work = where, name, work
        self.is_done = False

    async def before(self, step: Step) -> None:
        await self._at("before", step)

    async def after(self, step: Step) -> None:
        await self._at("after", step)

    async def _at(self, where: str, step: Step) -> None:
        if (where, step.name, self.is_done) == (self._where, self._name, False):
            self.is_done = True
            await self._work()


async def checkout(
    shop: Shop, cart_id: str, how: str = BY_GATEWAY, reservation_id: str = "", **fields: Any
) -> orders.PlaceOrderRequest:
    """A device's call: two units of milk, by a reservation of its own unless one is given."""
    held = reservation_id or await shop.reserve({NORTH: {MILK: 2}})
    tenders = card(398) if how == BY_CARD else [tender("CARD", 398, payment_method="pm_1")]
    return shop.place_request(held, {NORTH: PICKUP}, 398, **{"tenders": tenders, "cart_id": cart_id, **fields})


async def place(shop: Shop, request: orders.PlaceOrderRequest) -> orders.Order:
    """PlaceOrder."""
    return (await shop.orders.place_order(request, CALLER)).order


async def refused(call: Awaitable[Any]) -> tuple[str, str]:
    """The reason of a refusal, and the order that it names."""
    reason, values = await told(call)
    return reason, values.get("order_id", "")


def touching(shop: Shop, cart_id: str, reservation_id: str) -> Mapping[str, Callable[[], Awaitable[Any]]]:
    """What else somebody may want to do with a cart and its reservation."""
    ids: dict[str, Any] = {"request_id": request_id(), "cart_id": cart_id}
    held: dict[str, Any] = {"request_id": request_id(), "reservation_id": reservation_id}
    line = types_pb2.BasketLine(sku=BREAD, quantity=1)
    basket = inventory_pb2.LocationBasket(location_id=NORTH, lines=[line])
    change = inventory_pb2.ChangeReservationRequest(**held, baskets=[basket])
    held["request_id"] = request_id()
    return {
        "add": lambda: shop.carts.add_cart_line(cart_pb2.AddCartLineRequest(**ids, line=line), CALLER),
        "set": lambda: shop.carts.set_cart_line(cart_pb2.SetCartLineRequest(**ids, sku=MILK), CALLER),
        "claim": lambda: shop.carts.claim_cart(cart_pb2.ClaimCartRequest(**ids, customer_id="ada"), CALLER),
        "change": lambda: shop.promise.change_reservation(change, CALLER),
        "release": lambda: shop.promise.release_reservation(inventory_pb2.ReleaseReservationRequest(**held), CALLER),
    }


async def test_while_a_gateway_is_asked_the_cart_is_locked_and_the_reservation_pinned(
    shop: Shop, gateway: Gateway
) -> None:
    cart_id = await shop.cart({MILK: 2})
    first = await checkout(shop, cart_id)
    gateway.faults = ["silent"]
    reason, to_be = await refused(place(shop, first))
    assert reason == "PAYMENT_PENDING"
    cart = (await shop.carts.get_cart(cart_pb2.GetCartRequest(cart_id=cart_id), CALLER)).cart
    assert cart.locked_for_order_id == to_be
    outcomes = {what: await refused(call()) for what, call in touching(shop, cart_id, first.reservation_id).items()}
    assert outcomes == {
        **dict.fromkeys(("add", "set", "claim"), ("CART_LOCKED", to_be)),
        **dict.fromkeys(("change", "release"), ("CHECKOUT_UNDER_WAY", to_be)),
    }
    own = [await checkout(shop, cart_id, how) for how in (BY_CARD, BY_GATEWAY)]
    assert [await refused(place(shop, r)) for r in own] == [("CART_LOCKED", to_be)] * 2
    same = [await checkout(shop, "", how, first.reservation_id) for how in (BY_CARD, BY_GATEWAY)]
    assert [await refused(place(shop, r)) for r in same] == [("CHECKOUT_UNDER_WAY", to_be)] * 2
    extend = inventory_pb2.ExtendReservationRequest(request_id=request_id(), reservation_id=first.reservation_id)
    await shop.promise.extend_reservation(extend, CALLER)

    assert (await place(shop, first)).order_id == to_be
    assert [await refused(place(shop, r)) for r in own] == [("CART_NOT_OPEN", to_be)] * 2
    assert [await refused(place(shop, r)) for r in same] == [("RESERVATION_NOT_ACTIVE", to_be)] * 2
    change = touching(shop, cart_id, first.reservation_id)["change"]
    assert await refused(change()) == ("RESERVATION_NOT_ACTIVE", to_be)
    await do_jobs(shop)
    assert [p.captured_minor for p in gateway.books.payments.values()] == [398]


async def over(shop: Shop) -> None:
    """The time of every reservation is over."""
    await shop.execute("UPDATE claims SET deadline = now() - interval '1 second' WHERE state = 'active'")


async def settled(shop: Shop, gateway: Gateway, totals: list[int]) -> None:
    """In the end there are these orders, each charged once, nothing else is set aside, and no cart is locked."""
    await do_jobs(shop)
    await shop.app.sweeper.expire()
    assert await shop.fetch("SELECT total_minor::int FROM orders") == [(minor,) for minor in totals]
    found = [(p.captured_minor, p.capturable_minor) for p in gateway.books.payments.values()]
    assert [pair for pair in found if any(pair)] == [(minor, 0) for minor in totals]
    assert await shop.fetch("SELECT count(*) FROM carts WHERE locked_for IS NOT NULL") == [(0,)]


@pytest.mark.parametrize("fault", ["silent", "acts"])
@pytest.mark.parametrize("who", ["add", "set", "claim", "order", "repeat", "job"])
async def test_a_cart_goes_on_once_its_reservation_is_over(shop: Shop, gateway: Gateway, fault: str, who: str) -> None:
    cart_id = await shop.cart({MILK: 2})
    request = await checkout(shop, cart_id)
    gateway.faults = [fault] * 3
    assert (await refused(place(shop, request)))[0] == "PAYMENT_PENDING"
    ((deadline,),) = await shop.fetch("SELECT deadline FROM claims WHERE state = 'active'")
    touch = touching(shop, cart_id, request.reservation_id)
    reason, values = await told(touch["add"]())
    assert (reason, values["until"]) == ("CART_LOCKED", deadline.isoformat())
    own = await checkout(shop, cart_id)
    assert (await told(place(shop, own)))[1]["until"] == deadline.isoformat()
    await shop.execute(
        "UPDATE claims SET deadline = now() - interval '1 second' WHERE reservation_id = $1", request.reservation_id
    )
    gateway.faults = ["silent"] * 2  # to whoever asks it once more
    with patch.object(gateway, "look_up", AsyncMock(return_value=None)):
        if who == "order":
            gateway.faults = []
            assert (await place(shop, own)).order_id
        elif who == "repeat":
            assert (await refused(place(shop, request)))[0] == "RESERVATION_NOT_ACTIVE"
        elif who == "job":
            await shop.execute("UPDATE pgqueuer SET execute_after = now() - interval '1 hour'")
            await shop.app.jobs.run_due()
        else:
            await touch[who]()
    assert await shop.fetch("SELECT refusal FROM checkouts WHERE state = 'REFUSED'") == [("RESERVATION_NOT_ACTIVE",)]
    if who != "order":
        assert (
            await shop.carts.get_cart(cart_pb2.GetCartRequest(cart_id=cart_id), CALLER)
        ).cart.locked_for_order_id == ""
    await settled(shop, gateway, [398] if who == "order" else [])
    assert (await refused(place(shop, request)))[0] in ("CART_NOT_OPEN", "CART_CHANGED", "RESERVATION_NOT_ACTIVE")


@pytest.mark.parametrize("step", ["provider.ask", "ledger.record_outcome"])
async def test_what_a_gateway_says_after_its_cart_went_on_is_voided(shop: Shop, gateway: Gateway, step: str) -> None:
    cart_id = await shop.cart({MILK: 2})
    request = await checkout(shop, cart_id)

    async def go_on() -> None:
        await over(shop)
        await touching(shop, cart_id, "")["add"]()

    with watched(Interleaved("after", step, go_on)):
        assert (await refused(place(shop, request)))[0] == "PAYMENT_PENDING"
    assert (await refused(place(shop, request)))[0] == "RESERVATION_NOT_ACTIVE"
    await settled(shop, gateway, [])
    assert [p.voided_minor for p in gateway.books.payments.values()] == [398]


@pytest.mark.parametrize("is_over", [True, False], ids=["it is too late", "in the last moment"])
async def test_whoever_gives_a_checkout_up_and_whoever_places_it_wait_for_each_other(
    shop: Shop, gateway: Gateway, is_over: bool
) -> None:
    """The reservation ends while the order is being placed: for the one that gives up it is over, for the other one perhaps."""
    cart_id = await shop.cart({MILK: 2})
    request = await checkout(shop, cart_id)
    others: list[asyncio.Task[Any]] = []

    async def end() -> None:
        seconds = "- interval '1 hour'" if is_over else ""
        await shop.execute(f"UPDATE claims SET deadline = clock_timestamp() {seconds} WHERE state = 'active'")
        others.append(asyncio.create_task(touching(shop, cart_id, "")["add"]()))
        await until_waiting(shop, others)

    with watched(Interleaved("before", "ledger.confirm", end)):
        answer = await asyncio.gather(place(shop, request), return_exceptions=True)
    (other,) = await asyncio.gather(*others, return_exceptions=True)
    if is_over:
        assert [getattr(a, "reason", "") for a in answer] == ["PAYMENT_PENDING"]
        assert not isinstance(other, BaseException)
    else:
        assert (other.reason, other.metadata()["order_id"]) == ("CART_NOT_OPEN", answer[0].order_id)
    await settled(shop, gateway, [] if is_over else [398])


async def test_what_was_kept_for_a_checkout_is_free_once_it_is_refused(shop: Shop, gateway: Gateway) -> None:
    cart_id = await shop.cart({MILK: 2})
    first = await checkout(shop, cart_id, tenders=[tender("CARD", 398, payment_method=DECLINED_CARD)])
    assert (await refused(place(shop, first)))[0] == "PAYMENT_DECLINED"
    line = types_pb2.BasketLine(sku=MILK, quantity=1)
    add = cart_pb2.AddCartLineRequest(request_id=request_id(), cart_id=cart_id, line=line)
    assert not (await shop.carts.add_cart_line(add, CALLER)).cart.locked_for_order_id
    basket = inventory_pb2.LocationBasket(location_id=NORTH, lines=[types_pb2.BasketLine(sku=MILK, quantity=3)])
    await shop.promise.change_reservation(
        inventory_pb2.ChangeReservationRequest(
            request_id=request_id(), reservation_id=first.reservation_id, baskets=[basket]
        ),
        CALLER,
    )
    again = await checkout(shop, cart_id, reservation_id=first.reservation_id, tenders=card(597))
    assert cents((await place(shop, again)).total) == 597


async def test_the_customer_pays_the_prices_that_were_agreed_to(shop: Shop, gateway: Gateway) -> None:
    cart_id = await shop.cart({MILK: 2})
    request = await checkout(shop, cart_id, expected_total=dollars(398))
    gateway.faults = ["silent"]
    assert (await refused(place(shop, request)))[0] == "PAYMENT_PENDING"
    await shop.execute("UPDATE prices SET amount_minor = 250 WHERE sku = 'milk'")
    assert cents((await place(shop, request)).total) == 398


@pytest.mark.parametrize("how", [BY_CARD, BY_GATEWAY])
async def test_a_cart_that_costs_something_else_has_changed(shop: Shop, how: str) -> None:
    cart_id = await shop.cart({MILK: 2})
    reason, values = await told(place(shop, await checkout(shop, cart_id, how, expected_total=dollars(397))))
    assert (reason, values["expected_minor"], values["total_minor"]) == ("CART_CHANGED", "397", "398")
    assert (await told(place(shop, await checkout(shop, "", how, expected_total=dollars(397)))))[0] == "TOTAL_CHANGED"


@pytest.mark.parametrize("second", [BY_CARD, BY_GATEWAY])
@pytest.mark.parametrize(
    ("first", "where", "step"),
    [
        (BY_CARD, "before", "ledger.place_orders"),
        (BY_GATEWAY, "before", "ledger.begin_checkout"),
        (BY_GATEWAY, "after", "ledger.begin_checkout"),
        (BY_GATEWAY, "after", "provider.ask"),
    ],
)
@pytest.mark.parametrize("is_own", [True, False], ids=["own reservation", "same reservation"])
async def test_two_devices_that_complete_one_cart_get_one_order(
    shop: Shop, gateway: Gateway, first: str, second: str, where: str, step: str, is_own: bool
) -> None:
    cart_id = await shop.cart({MILK: 2})
    a = await checkout(shop, cart_id, first)
    b = await checkout(shop, cart_id, second, "" if is_own else a.reservation_id)
    outcomes: list[Any] = []

    async def attempt(request: orders.PlaceOrderRequest) -> None:
        try:
            outcomes.append((await place(shop, request)).order_id)
        except Exception as error:
            outcomes.append(error)

    with watched(Interleaved(where, step, lambda: attempt(b))):
        await attempt(a)
    ((placed,),) = await shop.fetch("SELECT order_id::text FROM orders")
    (refusal,) = (o for o in outcomes if o != placed)
    assert refusal.reason in ("CART_LOCKED", "CART_NOT_OPEN", "CHECKOUT_UNDER_WAY", "RESERVATION_NOT_ACTIVE")
    assert refusal.metadata()["order_id"] == placed
    await do_jobs(shop)
    by_gateway = (first if outcomes.index(placed) == 1 else second) == BY_GATEWAY
    assert [p.captured_minor for p in gateway.books.payments.values()] == [398] * by_gateway
    assert await shop.fetch("SELECT sum(amount_minor)::int FROM tenders JOIN orders USING (order_id)") == [(398,)]


@pytest.mark.parametrize("what", ["add", "set", "claim", "change", "release"])
async def test_whoever_changes_what_is_being_paid_for_comes_first_or_is_refused(
    shop: Shop, gateway: Gateway, what: str
) -> None:
    cart_id = await shop.cart({MILK: 2})
    request = await checkout(shop, cart_id)
    step = "ledger.release" if what == "release" else "ledger.mutate"
    gateway.faults = ["silent"]

    async def begin() -> None:
        assert (await refused(place(shop, request)))[0] == "PAYMENT_PENDING"

    with watched(Interleaved("before", step, begin)):
        reason, to_be = await refused(touching(shop, cart_id, request.reservation_id)[what]())
    assert reason == ("CHECKOUT_UNDER_WAY" if what in ("change", "release") else "CART_LOCKED")
    assert (await place(shop, request)).order_id == to_be
