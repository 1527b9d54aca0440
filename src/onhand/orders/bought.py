"""What somebody pays for by a gateway: an order, or more of one that is there. `checkouts` does what is the same of both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar
from uuid import UUID

from google.protobuf.message import Message

from onhand import carts
from onhand.caller import Caller
from onhand.domain.cart import UnitPrice
from onhand.domain.errors import InsufficientStock, Refusal, ReservationNotActive, Short
from onhand.domain.lost_stock import LostStockPolicy
from onhand.domain.payment import CaptureAt, Operation
from onhand.domain.work_errors import ChangeOutdated
from onhand.ids import new_id, parse_id
from onhand.ledger import shortfalls
from onhand.ledger.claims import ClaimRefused, ConfirmedClaim
from onhand.ledger.mutation import Ledger, is_certain
from onhand.ledger.transaction import Transaction
from onhand.orders import change, lost_stock, payments, place, store
from onhand.orders.change import Plan
from onhand.orders.store import LockedOrder, NewOrder, NewTender
from onhand.payments import giving_back
from onhand.payments import store as money
from onhand.payments.settling import settle_later
from onhand.postgres import Connection
from onhand.reservations.claims import Held, Wants
from onhand.reservations.decrease import Decreases
from onhand.sourcing.capacity import hold_days, take_on
from onhand.v1 import order_pb2 as pb

HELD_SECONDS = 900.0
"""How long a reservation is kept at least, once somebody pays for it."""

Prices = Mapping[str, UnitPrice]
Begun = tuple[UUID, bool] | None
Answer = TypeVar("Answer", bound=Message, covariant=True)

LAST_TENDER = "SELECT coalesce(max(tender_number), 0) FROM tenders WHERE order_id = $1"
TAKE_OVER = """
UPDATE tenders SET change_id = NULL WHERE order_id = $1 AND change_id = $2 RETURNING tender_number, amount_minor, capture_at"""


class Payable(NamedTuple):
    """What is to be paid, as it was agreed to: whose tenders (by number), and what each sku costs."""

    order_id: UUID
    change_id: UUID | None
    currency: str
    tenders: Sequence[tuple[int, NewTender]]
    prices: Prices


class Bought(Protocol[Answer]):
    """What a checkout of an id is for."""

    @property
    def request(self) -> Any:
        """The call, with its tenders."""

    @property
    def response_type(self) -> type[Answer]:
        """Of its answer."""

    @property
    def actor(self) -> str:
        """Who called."""

    @property
    def gift_cards(self) -> Mapping[int, bytes]:
        """Hashes of the codes of gift cards, by the place of their tender."""

    @property
    def reservation_id(self) -> UUID:
        """What holds the units."""

    @property
    def cart_id(self) -> UUID | None:
        """What is locked meanwhile."""

    @property
    def change_of(self) -> UUID | None:
        """The order that it changes; None where it is to be one."""

    def as_begun(self, reservation_id: UUID) -> Bought[Answer]:
        """The same, under the reservation that an attempt before has made, if one has."""

    async def begin(
        self, write: Callable[[Held | None], Awaitable[Begun]], first: Callable[[], Awaitable[Begun]]
    ) -> Begun:
        """Has the checkout written, after what it has to claim. `first`: one of the same request that was begun before."""

    async def prepare(self, tx: Transaction, checkout_id: UUID, held: Held | None) -> Payable:
        """What it costs now; what it needs is kept for it from here on, for as long as paying takes."""

    async def finish(self, tx: Transaction, checkout_id: UUID, agreed: Prices | None) -> Answer:
        """Places or changes the order, of which all is authorized. Raises what refuses it."""

    async def free(self, tx: Transaction, checkout_id: UUID) -> None:
        """What was kept for it is free again: it is not to be."""

    def over(self) -> Refusal:
        """Why nothing comes of it once its reservation is over."""

    def refused(self, checkout_id: UUID, reason: str) -> tuple[str, str, dict[str, Any]]:
        """The event that tells its customer so."""


# ---------------------------------------------------------------------------------------------------------------- orders
@dataclass(frozen=True)
class BoughtOrder:
    """An order. The id of its checkout becomes its own."""

    wanted: place.Checkout
    lost: LostStockPolicy
    response_type: type[pb.PlaceOrderResponse] = pb.PlaceOrderResponse
    change_of: UUID | None = None

    @property
    def request(self) -> pb.PlaceOrderRequest:
        return self.wanted.request

    @property
    def actor(self) -> str:
        return self.wanted.actor

    @property
    def gift_cards(self) -> Mapping[int, bytes]:
        return self.wanted.gift_cards

    @property
    def reservation_id(self) -> UUID:
        return self.wanted.reservation_id

    @property
    def cart_id(self) -> UUID | None:
        return self.wanted.cart_id

    def as_begun(self, reservation_id: UUID) -> BoughtOrder:
        return self

    async def begin(
        self, write: Callable[[Held | None], Awaitable[Begun]], first: Callable[[], Awaitable[Begun]]
    ) -> Begun:
        return await write(None)

    async def prepare(self, tx: Transaction, checkout_id: UUID, held: Held | None) -> Payable:
        claims = await tx.pin_reservation(self.reservation_id, await _held_until(tx), checkout_id)
        order, _ = await place.priced(tx, self.wanted, checkout_id, claims)
        if self.cart_id is not None:
            await carts.keep_for(tx.connection, self.cart_id, checkout_id)
        prices = {line.sku: UnitPrice(line.amount_minor, line.price_quantity) for line in order.lines}
        return Payable(checkout_id, None, order.currency, list(enumerate(order.tenders, 1)), prices)

    async def finish(self, tx: Transaction, checkout_id: UUID, agreed: Prices | None) -> pb.PlaceOrderResponse:
        placed = await place.place(tx, self.wanted, checkout_id, _capture_at_once, agreed, self.lost)
        is_short = any(
            s.cause == pb.SHORTFALL_CAUSE_LOST for f in placed.order.fulfillment_orders for s in f.shortfalls
        )
        if self.lost.is_resourced and is_short:
            await lost_stock.settle_later(tx.connection, checkout_id)
        return placed

    async def free(self, tx: Transaction, checkout_id: UUID) -> None:
        await tx.unpin_reservation(self.reservation_id, checkout_id)
        if self.cart_id is not None:
            await carts.unlock(tx.connection, self.cart_id, checkout_id)

    def over(self) -> Refusal:
        return ReservationNotActive(str(self.reservation_id), "EXPIRED")

    def refused(self, checkout_id: UUID, reason: str) -> tuple[str, str, dict[str, Any]]:
        data = {
            "order_id": str(checkout_id),
            "reservation_id": str(self.reservation_id),
            "reason": reason,
            "actor": self.actor,
        }
        return "onhand.checkout.refused.v1", f"checkout/{checkout_id}", data


async def _held_until(tx: Transaction) -> Any:
    return await tx.connection.fetchval("SELECT now()") + timedelta(seconds=HELD_SECONDS)


async def _capture_at_once(tx: Transaction, order: NewOrder) -> None:
    captures = [
        (n, t.amount_minor)
        for n, t in enumerate(order.tenders, 1)
        if t.provider.is_outside and t.capture_at is CaptureAt.ONCE
    ]
    await _capture(tx, order.order_id, captures, order.currency, order.actor)


async def _capture(
    tx: Transaction, order_id: UUID, tenders: Sequence[tuple[int, int]], currency: str, actor: str
) -> None:
    """Has the amounts of tenders captured by a job."""
    captures = [money.operation(n, Operation.CAPTURE, amount_minor, is_done=False) for n, amount_minor in tenders]
    if not captures:
        return
    await money.book(
        tx.connection,
        order_id,
        captures,
        currency=currency,
        reason_code=payments.REASON,
        reference_document=f"order/{order_id}",
        actor=actor,
    )
    for capture in captures:
        await settle_later(tx.connection, capture.operation_id)


# --------------------------------------------------------------------------------------------------------------- changes
@dataclass(frozen=True)
class BoughtChange:
    """A change of an order that costs more. The added units are reserved for it, which nobody else knows of."""

    ledger: Ledger
    decreases: Decreases
    request: pb.ApplyOrderChangeRequest
    actor: str
    gift_cards: Mapping[int, bytes]
    order_id: UUID
    reservation_id: UUID
    cart_id: UUID | None = None
    response_type: type[pb.ApplyOrderChangeResponse] = pb.ApplyOrderChangeResponse

    @property
    def change_of(self) -> UUID:
        return self.order_id

    def as_begun(self, reservation_id: UUID) -> BoughtChange:
        return replace(self, reservation_id=reservation_id)

    async def begin(
        self, write: Callable[[Held | None], Awaitable[Begun]], first: Callable[[], Awaitable[Begun]]
    ) -> Begun:
        async def takes() -> Wants:
            async with self.ledger.read() as connection:
                order = await store.read_order(connection, self.order_id)
                try:
                    plan = await change.plan_change(connection, order, self.order_id, self.request.change)
                except Refusal:
                    return []  # of a repeat, or for good: the transaction finds out
            return plan.wants() if plan.etag(self.request.change) == self.request.etag else []

        async def commit(held: Held) -> Begun:
            try:
                begun = await write(held)
            except Exception as error:
                if is_certain(error):
                    await self.decreases.give_back([held])
                raise  # else the outcome is unknown: the claims are left to the sweeper
            if begun is None or not begun[1]:
                await self.decreases.give_back([held])
            return begun

        return await self.decreases.decide(takes, commit, first)

    async def prepare(self, tx: Transaction, checkout_id: UUID, held: Held | None) -> Payable:
        claims = [] if held is None else held.claims
        order = await store.lock_order(tx.connection, self.order_id)
        await hold_days(tx, [c.location_id for c in claims])
        plan = await self._plan(tx.connection, order, None)
        tenders = await self._tenders(tx, plan)
        if plan.wants() != sorted((c.location_id, c.lines) for c in claims):
            raise ClaimRefused  # claimed for nothing, as the plan was another then: look and claim again
        await take_on(tx, self.order_id, {c.location_id: sum(q for _, q in c.lines) for c in claims})
        last = await tx.connection.fetchval(LAST_TENDER, self.order_id)
        until, own = await _held_until(tx), [c._replace(channel=plan.order.channel) for c in claims]
        await tx.open_reservation(self.reservation_id, own, plan.order.customer_id, until)
        await tx.pin_reservation(self.reservation_id, until, checkout_id)
        outside = [t for t in tenders if t.provider.is_outside]
        return Payable(self.order_id, checkout_id, plan.order.currency, list(enumerate(outside, last + 1)), plan.prices)

    async def finish(self, tx: Transaction, checkout_id: UUID, agreed: Prices | None) -> pb.ApplyOrderChangeResponse:
        order = await store.lock_order(tx.connection, self.order_id)
        plan = await self._plan(tx.connection, order, agreed)
        await hold_days(tx, [location_id for location_id, _ in plan.wants()])
        taken = await tx.connection.fetch(TAKE_OVER, self.order_id, checkout_id)
        at_once = [(r["tender_number"], r["amount_minor"]) for r in taken if r["capture_at"] == CaptureAt.ONCE.value]
        await _capture(tx, self.order_id, sorted(at_once), plan.order.currency, self.actor)
        await giving_back.hold(tx, self.order_id, list(self.gift_cards.values()))
        tenders = [t for t in await self._tenders(tx, plan) if not t.provider.is_outside]
        claims = await tx.use_reservation(self.reservation_id, checkout_id)
        if not claims:
            raise self.over()
        check = partial(_check_there, tx, claims)
        return await change.carry_out(tx, plan, tenders, Caller(self.actor, None), check)

    async def free(self, tx: Transaction, checkout_id: UUID) -> None:
        await tx.drop_reservation(self.reservation_id, checkout_id)

    def over(self) -> Refusal:
        return ChangeOutdated(str(self.order_id))

    def refused(self, checkout_id: UUID, reason: str) -> tuple[str, str, dict[str, Any]]:
        data = {
            "order_id": str(self.order_id),
            "request_id": self.request.request_id,
            "reason": reason,
            "actor": self.actor,
        }
        return "onhand.order.change_refused.v1", f"order/{self.order_id}", data

    async def _plan(self, connection: Connection, order: LockedOrder | None, agreed: Prices | None) -> Plan:
        plan = await change.plan_change(connection, order, self.order_id, self.request.change, agreed)
        if plan.etag(self.request.change) != self.request.etag:
            raise ChangeOutdated(str(self.order_id))
        return plan

    async def _tenders(self, tx: Transaction, plan: Plan) -> list[NewTender]:
        """What pays, with the gift cards that are spent, locked."""
        currency = plan.order.currency
        tenders = payments.tenders(self.request.tenders, self.gift_cards, currency, plan.charge_minor)
        return await payments.lock_cards(tx, tenders, currency)


async def _check_there(tx: Transaction, claims: Sequence[ConfirmedClaim]) -> None:
    """Raises InsufficientStock where goods in somebody's hand went first of what was reserved. Its levels are locked.

    Where they did, older reservations have what is left before this one.
    """
    held = [(c.location_id, sku, c.claim_id, quantity) for c in claims for sku, quantity in c.lines]
    overdrawn = [
        (p, sku, id) for p, sku, id, _ in held if tx.is_overdrawn((p, sku)) or tx.policy((p, sku)).backorder_limit
    ]
    needed = await shortfalls.needed_by_older(tx.connection, overdrawn) if overdrawn else {}
    left = {(p, sku): max(0, tx.level((p, sku)).available - needed.get((p, sku), 0)) for p, sku, _, _ in held}
    if shorts := [Short(p, sku, quantity, left[p, sku]) for p, sku, _, quantity in held if left[p, sku] < quantity]:
        raise InsufficientStock(tuple(shorts))


# ----------------------------------------------------------------------------------------------------------------- stored
def bought_change(
    ledger: Ledger, decreases: Decreases, request: pb.ApplyOrderChangeRequest, caller: Caller
) -> BoughtChange:
    """What a call asks for. Raises `InvalidRequest`."""
    order_id, cards = parse_id("order_id", request.order_id), payments.gift_cards_of(request.tenders)
    return BoughtChange(ledger, decreases, request, caller.actor, cards, order_id, new_id())


def stored(row: Any, ledger: Ledger, decreases: Decreases, lost: LostStockPolicy) -> BoughtOrder | BoughtChange:
    """What a stored checkout was asked for."""
    cards = {int(index): bytes.fromhex(h) for index, h in row["gift_cards"].items()}
    caller = Caller(row["actor"], None)
    if row["change_of"] is None:
        request = pb.PlaceOrderRequest.FromString(row["request"])
        return BoughtOrder(replace(place.checkout(request, caller), gift_cards=cards), lost)
    changed = bought_change(ledger, decreases, pb.ApplyOrderChangeRequest.FromString(row["request"]), caller)
    return replace(changed, gift_cards=cards, reservation_id=row["reservation_id"])
