"""What baskets do on their way: carts, reservations, orders, picking. Every answer is checked."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from google.protobuf.message import Message
from google.type import latlng_pb2

from onhand.simulate.amounts import CURRENCY, minor_of, money, tenders_of
from onhand.simulate.audit import Findings, Flow, Position
from onhand.simulate.books import Books
from onhand.simulate.calls import Client, Refused, Request, Response, Rpc, Stubs
from onhand.simulate.plan import Line, Play, draw
from onhand.v1 import cart_pb2, catalog_pb2, inventory_pb2, order_pb2, payment_pb2, types_pb2

RESERVATION_SECONDS = 900
"""How long a basket that will be ordered is held."""
ABANDONED_SECONDS = 2
"""How long a basket that will be left to expire is held."""
REPEATED_ONE_IN = 20
"""Of how many mutations one is sent twice, to compare the answers."""
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
    books: Books
    stores: Mapping[str, latlng_pb2.LatLng | None]
    """Where each is, as far as anybody knows."""
    warehouses: Sequence[str]
    seed: int
    run_id: str
    is_continued: bool
    """Whether an interrupted run goes on: what it did already is found, not done again."""


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

    async def change(self, rpc: Rpc[Request, Answer], request: Request, actor: str = "") -> Answer:
        """A mutation; one in twenty is sent a second time, and must be answered the same. `actor`: who does it."""
        answer = await self.world.client.call(rpc, request, actor)
        # Of a step's name what follows a hyphen is of this run only.
        step = str(getattr(request, "request_id", "")).rpartition(".")[2].partition("-")[0]
        if self.draw(f"repeat {step}", REPEATED_ONE_IN) == 0:
            again = await self.world.client.call(rpc, request, actor)
            self.world.tally.add("repeats")
            self.check(again == answer, f"the repeat of {type(request).__name__} was answered otherwise")
        return answer

    async def attempt(self, rpc: Rpc[Request, Answer], request: Request, fair: Collection[str]) -> Answer | str:
        """A mutation that a race may refuse for one of these reasons: then that. Raises Refused for any other."""
        try:
            return await self.change(rpc, request)
        except Refused as refused:
            if refused.reason not in fair:
                raise
            return refused.reason

    def moved(self, location_id: str, sku: str, flow: Flow, units: int) -> None:
        """Takes note of what an answer says of units of a position that the auditor follows."""
        if units and (location_id, sku) in self.world.followed:
            self.world.findings.move((location_id, sku), flow, units)

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

    async def prices(self, skus: Iterable[str]) -> dict[str, catalog_pb2.Price]:
        """The prices of those that have one."""
        answer = await self.read(
            self.stubs.catalog.BatchGetPrices,
            catalog_pb2.BatchGetPricesRequest(skus=list(skus), currency_code=CURRENCY),
        )
        return {price.sku: price for price in answer.prices}

    async def reserve(
        self, baskets: Sequence[inventory_pb2.LocationBasket], ttl_seconds: int, step: str = "reserve"
    ) -> inventory_pb2.Reservation | str:
        """A reservation of all the baskets, or the reason why there is none."""
        answer = await self.attempt(
            self.stubs.inventory.Reserve,
            inventory_pb2.ReserveRequest(
                request_id=self.request_id(step),
                channel=self.channel,
                baskets=baskets,
                ttl_seconds=ttl_seconds,
                customer_id=self.play.basket.customer_id,
            ),
            ("INSUFFICIENT_STOCK",),
        )
        if isinstance(answer, str):
            return answer
        held = answer.reservation
        self.check(held.state == inventory_pb2.RESERVATION_STATE_ACTIVE, "a new reservation is not ACTIVE")
        is_right = {b.location_id: sums_of(b.lines) for b in held.baskets} == {
            b.location_id: sums_of(b.lines) for b in baskets
        }
        self.check(is_right, "a reservation holds something else")
        return held

    async def tenders(self, minor: int, kind: order_pb2.TenderKind.ValueType | None = None) -> list[order_pb2.Tender]:
        """How so many cents are paid: of some a half, or all, with a gift card that was given to the customer."""
        if not minor or not self.play.has_gift_card:
            return tenders_of(minor, kind)
        is_enough = self.draw("gift card", 2) == 0
        on_it = minor + 500 if is_enough else (minor + 1) // 2
        step = f"giftcard-{on_it}"
        code = self.card_code(step)
        issued = await self.change(
            self.stubs.payments.IssueGiftCard,
            payment_pb2.IssueGiftCardRequest(
                request_id=self.request_id(step),
                code=code,
                amount=money(on_it),
                reference_document=f"replay/{self.play.basket.basket_id}",
            ),
        )
        self.world.books.cards[issued.gift_card.gift_card_id] = on_it
        spent = min(minor, on_it)
        card = order_pb2.Tender(kind=order_pb2.TENDER_KIND_GIFT_CARD, amount=money(spent), gift_card_code=code)
        return [card, *tenders_of(minor - spent, kind)]

    def card_code(self, step: str) -> str:
        """The code of a gift card: of this run, the same whenever the step is tried again."""
        return hashlib.sha256(self.request_id(step).encode()).hexdigest()[:24]

    async def place(
        self,
        held: inventory_pb2.Reservation,
        kind: order_pb2.FulfillmentKind.ValueType,
        total: int,
        tenders: Sequence[order_pb2.Tender],
        cart_id: str = "",
        *,
        accepts_backorder: bool = False,
    ) -> order_pb2.PlaceOrderResponse | str:
        """The order of a reservation, or the reason why there is none."""
        is_shipped = kind == order_pb2.FULFILLMENT_KIND_SHIP
        # The goods may have gone to a customer who held them, or the server was away for longer than the reservation.
        placed = await self.attempt(
            self.stubs.orders.PlaceOrder,
            order_pb2.PlaceOrderRequest(
                request_id=self.request_id("place"),
                reservation_id=held.reservation_id,
                cart_id=cart_id,
                customer_id=self.play.basket.customer_id,
                fulfillments=[
                    order_pb2.FulfillmentChoice(location_id=basket.location_id, kind=kind) for basket in held.baskets
                ],
                ship_to=self.address() if is_shipped else None,
                currency_code=CURRENCY,
                expected_total=money(total),
                tenders=tenders,
                accepts_backorder=accepts_backorder,
            ),
            ("RESERVATION_SHORT", "RESERVATION_NOT_ACTIVE"),
        )
        if isinstance(placed, str):
            if placed == "RESERVATION_SHORT":
                await self.release(held)  # its promise is broken: what it still holds is for others
            return placed
        order = placed.order
        lines = [line for basket in held.baskets for line in basket.lines]
        self.check(sums_of(order.lines) == sums_of(lines), "an order is not of what was reserved")
        self.check(minor_of(order.total) == total, f"an order of {total} cents was placed for {minor_of(order.total)}")
        self.world.books.paid(order.order_id, tenders)
        return placed

    async def release(self, held: inventory_pb2.Reservation) -> None:
        """Given back before its time."""
        try:
            released = await self.change(
                self.stubs.inventory.ReleaseReservation,
                inventory_pb2.ReleaseReservationRequest(
                    request_id=self.request_id(f"release-{held.reservation_id}"), reservation_id=held.reservation_id
                ),
            )
        except Refused as refused:
            self.check(False, f"an active reservation cannot be released: {refused}")
            return
        is_closed = released.reservation.state == inventory_pb2.RESERVATION_STATE_RELEASED
        self.check(is_closed, "a released reservation is not RELEASED")

    async def order(self, order_id: str) -> order_pb2.Order:
        """The order as it is now."""
        return (await self.read(self.stubs.orders.GetOrder, order_pb2.GetOrderRequest(order_id=order_id))).order

    def is_in(self, work: order_pb2.FulfillmentOrder, state: order_pb2.FulfillmentState.ValueType) -> None:
        name = order_pb2.FulfillmentState.Name
        self.check(work.state == state, f"a fulfillment order is {name(work.state)}, not {name(state)}")

    def address(self) -> order_pb2.Address:
        """Where the customer has things sent; the second line says what for."""
        return order_pb2.Address(
            recipient=self.play.basket.customer_id,
            lines=["1 Replay Road", self.request_id("parcel")],
            locality="Cincinnati",
            administrative_area="OH",
            postal_code="45202",
            region_code="US",
        )


def basket_line(sku: str, quantity: int) -> types_pb2.BasketLine:
    """One line of a basket."""
    return types_pb2.BasketLine(sku=sku, quantity=quantity)


def basket_lines(lines: Iterable[cart_pb2.CartLine]) -> list[types_pb2.BasketLine]:
    """What a cart holds."""
    return [basket_line(line.sku, line.quantity) for line in lines]


def sums_of(lines: Iterable[Line | cart_pb2.CartLine | types_pb2.BasketLine | order_pb2.OrderLine]) -> dict[str, int]:
    """How many base units of each sku."""
    sums: dict[str, int] = {}
    for line in lines:
        sums[line.sku] = sums.get(line.sku, 0) + line.quantity
    return sums


def digest(message: Message) -> str:
    """Some characters that stand for a message: a step that asks for something else is another step."""
    return hashlib.blake2b(message.SerializeToString(deterministic=True), digest_size=6).hexdigest()
