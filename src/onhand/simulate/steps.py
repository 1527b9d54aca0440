"""What baskets do on their way: carts, reservations, orders, picking. Every answer is checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from google.protobuf.message import Message
from google.type import money_pb2

from onhand.simulate.audit import Findings, Position
from onhand.simulate.calls import Client, Refused, Request, Response, Rpc, Stubs
from onhand.simulate.plan import Line, Play, draw
from onhand.v1 import cart_pb2, catalog_pb2, inventory_pb2, order_pb2, types_pb2

CURRENCY = "USD"
RESERVATION_SECONDS = 900
"""How long a basket that will be ordered is held."""
ABANDONED_SECONDS = 2
"""How long a basket that will be left to expire is held."""
REPEATED_ONE_IN = 20
"""Of how many mutations one is sent twice, to compare the answers."""
WRONG_CODE_ONE_IN = 20
"""Of how many hand-overs one begins with a wrong pickup code."""

WRONG_CODE = "WRONG-CODE"

# What can be refused after an order was placed when goods in a customer's hand went first.
_BROKEN_PROMISES = ("ILLEGAL_TRANSITION", "BUCKET_SHORT")

Answer = TypeVar("Answer", bound=Message)


class Outcome(NamedTuple):
    """What became of a basket. `reason` says why not."""

    result: str  # completed, refused, abandoned, cancelled
    lines: int = 0
    units: int = 0
    fuel_milliliters: int = 0
    reason: str = ""


@dataclass
class Tally:
    """Counts of one process, beside its findings and calls."""

    counts: dict[str, int] = field(default_factory=dict)
    # Reservations that were left to expire, and when they do, in seconds of the epoch.
    left_to_expire: list[tuple[str, float]] = field(default_factory=list)

    def add(self, name: str, count: int = 1) -> None:
        """Counts."""
        self.counts[name] = self.counts.get(name, 0) + count


class World(NamedTuple):
    """What all baskets of a process share."""

    client: Client
    findings: Findings
    tally: Tally
    followed: frozenset[Position]
    stores: Sequence[str]
    warehouses: Sequence[str]
    seed: int
    run_id: str


class Steps:
    """One basket, and what it can do."""

    def __init__(self, world: World, play: Play) -> None:
        self.world = world
        self.play = play
        self.stubs: Stubs = world.client.stubs()
        self.store = play.basket.location_id
        self.channel = types_pb2.CHANNEL_WEB if self.draw("channel", 2) else types_pb2.CHANNEL_APP

    # ------------------------------------------------------------------------------------------------------- tools
    def draw(self, what: str, choices: int) -> int:
        """A choice that is always the same for this seed and basket."""
        return draw(self.world.seed, self.play.basket.basket_id, what, choices)

    def request_id(self, step: str) -> str:
        """The same for the same run, seed, basket and step, however often it is tried."""
        return f"replay.{self.world.run_id}.{self.world.seed}.{self.play.basket.basket_id}.{step}"

    def check(self, is_right: bool, evidence: str) -> None:
        """Counts a check of an answer; what is wrong is told with the basket it happened to."""
        self.world.findings.check(is_right, f"basket {self.play.basket.basket_id}: {evidence}")

    async def read(self, rpc: Rpc[Request, Response], request: Request) -> Response:
        """A call that changes nothing."""
        return await self.world.client.call(rpc, request)

    async def change(self, rpc: Rpc[Request, Answer], request: Request) -> Answer:
        """A mutation; one in twenty is sent a second time, and must be answered the same."""
        answer = await self.world.client.call(rpc, request)
        step = str(getattr(request, "request_id", ""))
        if self.draw(f"repeat {step.rpartition('.')[2]}", REPEATED_ONE_IN) == 0:
            again = await self.world.client.call(rpc, request)
            self.world.tally.add("repeats")
            self.check(again == answer, f"the repeat of {type(request).__name__} was answered otherwise")
        return answer

    # ------------------------------------------------------------------------------------------------------- steps
    async def browse(self) -> None:
        """Looks at what the store has, as a customer does before buying."""
        skus = [line.sku for line in self.play.lines]
        request = inventory_pb2.GetAvailabilityRequest(channel=self.channel, skus=skus, location_ids=[self.store])
        answer = await self.read(self.stubs.inventory.GetAvailability, request)
        shown = [item.sku for place in answer.locations for item in place.items]
        self.check(shown == skus, "availability was answered for other items than were asked")
        is_negative = any(item.available_to_promise < 0 for place in answer.locations for item in place.items)
        self.check(not is_negative, "less than nothing is available")

    async def fill_cart(self) -> cart_pb2.Cart:
        """A cart with the basket, read once more as the other channel sees it."""
        carts = self.stubs.carts
        # A guest's cart: a household has one open cart, and its next basket may begin before this one is ordered.
        made = await self.change(
            carts.CreateCart,
            cart_pb2.CreateCartRequest(
                request_id=self.request_id("cart"), channel=self.channel, currency_code=CURRENCY
            ),
        )
        cart = made.cart
        for number, line in enumerate(self.play.lines):
            added = await self.change(
                carts.AddCartLine,
                cart_pb2.AddCartLineRequest(
                    request_id=self.request_id(f"line{number}"),
                    cart_id=cart.cart_id,
                    line=basket_line(line.sku, line.quantity),
                ),
            )
            cart = added.cart
        shown = (await self.read(carts.GetCart, cart_pb2.GetCartRequest(cart_id=cart.cart_id))).cart
        self.check(sums_of(shown.lines) == sums_of(self.play.lines), "the cart does not hold what was put in")
        # Gone on with is what the last change answered: a run that is continued gets it again, whatever the cart is by now.
        for sku in cart.unpriced_skus:
            self.world.tally.add("lines_left_out_unpriced")
            dropped = await self.change(
                carts.SetCartLine,
                cart_pb2.SetCartLineRequest(request_id=self.request_id(f"drop{sku}"), cart_id=cart.cart_id, sku=sku),
            )
            cart = dropped.cart
        return cart

    async def priced_lines(self) -> tuple[list[types_pb2.BasketLine], int]:
        answer = await self.read(
            self.stubs.catalog.BatchGetPrices,
            catalog_pb2.BatchGetPricesRequest(skus=[line.sku for line in self.play.lines], currency_code=CURRENCY),
        )
        prices = {price.sku: price for price in answer.prices}
        self.world.tally.add("lines_left_out_unpriced", len(self.play.lines) - len(prices))
        lines, total = [], 0
        for line in self.play.lines:
            if (price := prices.get(line.sku)) is not None:
                lines.append(basket_line(line.sku, line.quantity))
                # Half a cent rounds up, once a line.
                doubled = 2 * minor_of(price.amount) * line.quantity
                total += (doubled + price.price_quantity) // (2 * price.price_quantity)
        return lines, total

    async def reserve(
        self, places: Sequence[str], lines: Sequence[types_pb2.BasketLine], ttl_seconds: int
    ) -> inventory_pb2.Reservation | str:
        """A reservation at the first place that has it all, or the reason of the last refusal."""
        reason = ""
        for place in places:
            try:
                answer = await self.change(
                    self.stubs.inventory.Reserve,
                    inventory_pb2.ReserveRequest(
                        request_id=self.request_id(f"reserve-{place}"),
                        channel=self.channel,
                        baskets=[inventory_pb2.LocationBasket(location_id=place, lines=lines)],
                        ttl_seconds=ttl_seconds,
                        customer_id=self.play.basket.customer_id,
                    ),
                )
            except Refused as refused:
                reason = refused.reason
                self.check(reason == "INSUFFICIENT_STOCK", f"a reservation was refused: {refused}")
                continue
            held = answer.reservation
            self.check(held.state == inventory_pb2.RESERVATION_STATE_ACTIVE, "a new reservation is not ACTIVE")
            is_right = len(held.baskets) == 1 and held.baskets[0].location_id == place
            self.check(
                is_right and sums_of(held.baskets[0].lines) == sums_of(lines), "a reservation holds something else"
            )
            return held
        return reason

    async def place(
        self, held: inventory_pb2.Reservation, kind: order_pb2.FulfillmentKind.ValueType, total: int, cart_id: str = ""
    ) -> order_pb2.PlaceOrderResponse | str:
        is_shipped = kind == order_pb2.FULFILLMENT_KIND_SHIP
        try:
            placed = await self.change(
                self.stubs.orders.PlaceOrder,
                order_pb2.PlaceOrderRequest(
                    request_id=self.request_id("place"),
                    reservation_id=held.reservation_id,
                    cart_id=cart_id,
                    customer_id=self.play.basket.customer_id,
                    fulfillments=[
                        order_pb2.FulfillmentChoice(location_id=basket.location_id, kind=kind)
                        for basket in held.baskets
                    ],
                    ship_to=self._address() if is_shipped else None,
                    currency_code=CURRENCY,
                    expected_total=money(total),
                    tenders=tenders_of(total),
                ),
            )
        except Refused as refused:
            # The goods may have gone to a customer who held them, or the server was away for longer than the reservation.
            is_fair = refused.reason in ("RESERVATION_SHORT", "RESERVATION_NOT_ACTIVE")
            self.check(is_fair, f"a reserved basket was refused: {refused}")
            if refused.reason == "RESERVATION_SHORT":
                await self.release(held)  # its promise is broken: what it still holds is for others
            return refused.reason
        order = placed.order
        lines = [line for basket in held.baskets for line in basket.lines]
        self.check(sums_of(order.lines) == sums_of(lines), "an order is not of what was reserved")
        self.check(minor_of(order.total) == total, f"an order of {total} cents was placed for {minor_of(order.total)}")
        return placed

    async def release(self, held: inventory_pb2.Reservation) -> None:
        """Given back before its time."""
        try:
            released = await self.change(
                self.stubs.inventory.ReleaseReservation,
                inventory_pb2.ReleaseReservationRequest(
                    request_id=self.request_id("release"), reservation_id=held.reservation_id
                ),
            )
        except Refused as refused:
            self.check(False, f"an active reservation cannot be released: {refused}")
            return
        is_closed = released.reservation.state == inventory_pb2.RESERVATION_STATE_RELEASED
        self.check(is_closed, "a released reservation is not RELEASED")

    async def pick(self, order: order_pb2.Order) -> str:
        """Accepted and picked. Answers the fulfillment order's id."""
        work = order.fulfillment_orders[0].fulfillment_order_id
        accepted = await self.change(
            self.stubs.orders.AcceptFulfillmentOrder,
            order_pb2.AcceptFulfillmentOrderRequest(request_id=self.request_id("accept"), fulfillment_order_id=work),
        )
        self.is_in(accepted.fulfillment_order, order_pb2.FULFILLMENT_STATE_ACCEPTED)
        picked = await self.change(
            self.stubs.orders.PickFulfillmentOrder,
            order_pb2.PickFulfillmentOrderRequest(request_id=self.request_id("pick"), fulfillment_order_id=work),
        )
        self.is_in(picked.fulfillment_order, order_pb2.FULFILLMENT_STATE_PICKED)
        return work

    async def try_a_wrong_code(self, work: str) -> None:
        if self.draw("wrong code", WRONG_CODE_ONE_IN):
            return
        request = order_pb2.HandOverFulfillmentOrderRequest(
            request_id=self.request_id("wrongcode"), fulfillment_order_id=work, pickup_code=WRONG_CODE
        )
        try:
            await self.world.client.call(self.stubs.orders.HandOverFulfillmentOrder, request)
        except Refused as refused:
            self.check(refused.reason == "PICKUP_CODE_WRONG", f"a wrong code was refused as {refused.reason}")
        else:
            self.check(False, "goods were handed over against a wrong code")

    async def order(self, order_id: str) -> order_pb2.Order:
        return (await self.read(self.stubs.orders.GetOrder, order_pb2.GetOrderRequest(order_id=order_id))).order

    async def broken(self, order_id: str, refused: Refused) -> Outcome:
        """A step was refused after the order was placed: right only where the order shows that its promise was broken."""
        order = await self.order(order_id)
        is_cancelled = any(line.cancelled_quantity for line in order.lines)
        self.check(is_cancelled or refused.reason in _BROKEN_PROMISES, f"after the order was placed: {refused}")
        return Outcome("cancelled", reason=refused.reason)

    def is_in(self, work: order_pb2.FulfillmentOrder, state: order_pb2.FulfillmentState.ValueType) -> None:
        name = order_pb2.FulfillmentState.Name
        self.check(work.state == state, f"a fulfillment order is {name(work.state)}, not {name(state)}")

    def _address(self) -> order_pb2.Address:
        return order_pb2.Address(
            recipient=self.play.basket.customer_id,
            lines=["1 Replay Road"],
            locality="Cincinnati",
            administrative_area="OH",
            postal_code="45202",
            region_code="US",
        )


def basket_line(sku: str, quantity: int) -> types_pb2.BasketLine:
    """One line of a basket."""
    return types_pb2.BasketLine(sku=sku, quantity=quantity)


def money(minor: int) -> money_pb2.Money:
    """Cents as money."""
    return money_pb2.Money(currency_code=CURRENCY, units=minor // 100, nanos=minor % 100 * 10_000_000)


def minor_of(amount: money_pb2.Money) -> int:
    return amount.units * 100 + amount.nanos // 10_000_000


def tenders_of(minor: int, kind: order_pb2.TenderKind.ValueType | None = None) -> list[order_pb2.Tender]:
    """What is free needs no tender."""
    return [order_pb2.Tender(kind=kind or order_pb2.TENDER_KIND_CARD, amount=money(minor))] if minor else []


def basket_lines(lines: Iterable[cart_pb2.CartLine]) -> list[types_pb2.BasketLine]:
    return [basket_line(line.sku, line.quantity) for line in lines]


def sums_of(lines: Iterable[Line | cart_pb2.CartLine | types_pb2.BasketLine | order_pb2.OrderLine]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for line in lines:
        sums[line.sku] = sums.get(line.sku, 0) + line.quantity
    return sums
