"""PlaceOrder paid by a gateway: prepare, pay outside of any transaction, finish once.

1. One transaction stores the checkout with the order's id, its prices, its tenders and the authorizations to ask for, locks the
   cart, pins and extends the reservation, and enqueues the job that finishes it.
2. The gateway is asked, under the ids of the authorizations. Whoever asks again gets the same answer.
3. One transaction places the order, with that id; or the checkout is refused, what it held is free, and what was authorized is
   voided by jobs.

A crash anywhere leaves a checkout that is PENDING, which a repeat of the call or the job carries on from 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from onhand import carts
from onhand.caller import Caller
from onhand.crash import step
from onhand.domain.cart import UnitPrice
from onhand.domain.errors import CartLocked, Kind, LedgerUnavailable, Refusal, RequestIdReused
from onhand.domain.lost_stock import LostStockPolicy
from onhand.domain.payment import CaptureAt, Operation, Outcome, Provider
from onhand.domain.payment_errors import (
    CheckoutUnderWay,
    PaymentDeclined,
    PaymentPending,
    ProviderNotConfigured,
)
from onhand.ids import new_id
from onhand.jobs import Jobs, NotYet, enqueue
from onhand.ledger.mutation import Ledger, body_hash
from onhand.ledger.transaction import Transaction
from onhand.orders import lost_stock, payments, place
from onhand.orders.place import Checkout
from onhand.orders.store import NewOrder
from onhand.payments import store as money
from onhand.payments.settling import FINISH, FINISH_AFTER_SECONDS, Settling, settle_later
from onhand.postgres import Connection
from onhand.v1 import order_pb2 as pb

HELD_SECONDS = 900.0
"""How long a reservation is kept at least, once somebody pays for it."""
BEGIN_ATTEMPTS_MAX = 5
"""How often a checkout is begun that met another one, which was refused meanwhile."""
REASON = "CHECKOUT_REFUSED"
"""Of voids of what was authorized for an order that was not placed."""

BEGIN = """
INSERT INTO checkouts (order_id, request_id, body_hash, request, gift_cards, reservation_id, actor, cart_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING RETURNING true"""
OF_REQUEST = """
SELECT order_id, body_hash FROM checkouts WHERE request_id = $1 AND state <> 'REFUSED'"""
OF_RESERVATION = "SELECT order_id FROM checkouts WHERE reservation_id = $1 AND state = 'PENDING'"
OF_CART = "SELECT order_id FROM checkouts WHERE cart_id = $1 AND cart_id IS NOT NULL AND state = 'PENDING'"
AGREED = "UPDATE checkouts SET prices = $2 WHERE order_id = $1"
READ = """
SELECT c.order_id, c.request_id, c.body_hash, c.request, c.gift_cards, c.reservation_id, c.actor, c.state, c.refusal,
       c.cart_id, c.prices, (
    SELECT json_agg(json_build_array(p.operation_id, p.tender_number) ORDER BY p.operation_number)
      FROM payment_operations p WHERE p.order_id = c.order_id AND p.kind = 'AUTHORIZE') AS authorizations
  FROM checkouts c WHERE c.order_id = $1"""
# The state is asked for so that the index of pending checkouts does not serve.
END = """
UPDATE checkouts SET state = $2, refusal = $3, updated_time = now()
 WHERE order_id = $1 AND coalesce(state, '') = 'PENDING' RETURNING true"""
INSERT_TENDERS = """
INSERT INTO tenders (order_id, tender_number, kind, amount_minor, reference, provider, payment_method, capture_at)
SELECT $1, t.* FROM unnest($2::int[], $3::text[], $4::int8[], $5::text[], $6::text[], $7::text[], $8::text[]) AS t"""
DETAIL = "SELECT detail FROM payment_outcomes WHERE operation_id = $1"


class Checkouts:
    """Orders that a gateway pays."""

    def __init__(self, ledger: Ledger, settling: Settling, jobs: Jobs, lost: LostStockPolicy) -> None:
        self._ledger = ledger
        self._settling = settling
        self._lost = lost
        jobs.register(FINISH, self._finish)

    async def place(self, wanted: Checkout) -> pb.PlaceOrderResponse:
        """Places an order, paid; or says why not. Raises PaymentPending where a provider does not say."""
        answer = await self._ledger.find_answer(wanted.request, pb.PlaceOrderResponse)
        if answer is not None:
            return answer
        if not self._settling.has(Provider.STRIPE):
            raise ProviderNotConfigured(Provider.STRIPE.value)
        order_id, is_new = await self._begin(wanted)
        return await self._carry_on(order_id, is_repeat=not is_new)

    async def _finish(self, payload: Mapping[str, Any], attempts: int) -> None:
        """Brings a checkout that a crash or a silent provider left pending to its end."""
        order_id = UUID(payload["order_id"])
        if (await self._read(order_id))["state"] != "PENDING":
            return
        try:
            await self._carry_on(order_id, is_repeat=True)
        except Refusal as refusal:
            if not _is_final(refusal):
                raise NotYet(str(refusal)) from refusal

    # -------------------------------------------------------------------------------------------------------- prepare
    async def _begin(self, wanted: Checkout) -> tuple[UUID, bool]:
        """The id of the order to be, and whether this call began it. Raises what `place` of an order raises."""
        for _ in range(BEGIN_ATTEMPTS_MAX):
            if begun := await self._begin_once(wanted):
                return begun
        raise LedgerUnavailable("other checkouts of the same began and were refused again and again")

    @step("ledger.begin_checkout", model=("pend",))
    async def _begin_once(self, wanted: Checkout) -> tuple[UUID, bool] | None:
        """As `_begin`; None where it met one that was refused meanwhile."""
        request, order_id, digest = wanted.request, new_id(), body_hash(wanted.request)
        stored = pb.PlaceOrderRequest()
        stored.CopyFrom(request)
        for tender in stored.tenders:
            tender.gift_card_code = ""
        cards = {str(index): hashed.hex() for index, hashed in wanted.gift_cards.items()}
        async with self._ledger.database.transaction() as connection:
            is_new = await connection.fetchval(
                *(BEGIN, order_id, request.request_id, digest, stored.SerializeToString(), cards),
                *(wanted.reservation_id, wanted.actor, wanted.cart_id),
            )
            if not is_new:
                found = await connection.fetchrow(OF_REQUEST, request.request_id)
                if found is None:
                    await _refuse_second(connection, wanted)
                    return None
                if found["body_hash"] != digest:
                    raise RequestIdReused(request.request_id, type(request).__name__)
                return found["order_id"], False
            tx = Transaction(connection)
            order = await _prepared(tx, wanted, order_id)
            prices = [[line.sku, line.amount_minor, line.price_quantity] for line in order.lines]
            await connection.execute(AGREED, order_id, prices)
            await _ask_for(tx, order)
            await enqueue(
                connection,
                FINISH,
                {"order_id": str(order_id)},
                after_seconds=FINISH_AFTER_SECONDS,
                key=f"{FINISH}/{order_id}",
            )
            await tx.finish()
        return order_id, True

    # ----------------------------------------------------------------------------------------------------- pay, finish
    async def _carry_on(self, order_id: UUID, *, is_repeat: bool) -> pb.PlaceOrderResponse:
        row = await self._read(order_id)
        wanted = _stored(row)
        if row["state"] == "PENDING":
            await self._pay(order_id, row["authorizations"], is_repeat=is_repeat)
        elif row["state"] == "REFUSED":
            # By whoever else was at it. A repeat is judged anew, and told why.
            raise PaymentPending(str(order_id), f"this attempt was refused meanwhile: {row['refusal']}")
        try:
            return await self._place(order_id, wanted, row["body_hash"], row["prices"])
        except Refusal as refusal:
            if _is_final(refusal) and not await self._abandon(order_id, refusal.reason):
                # Whoever else was at it has ended it meanwhile.
                raise PaymentPending(str(order_id), refusal.reason) from refusal
            raise

    async def _pay(self, order_id: UUID, authorizations: Sequence[Any], *, is_repeat: bool) -> None:
        for operation_id, tender_number in authorizations:
            try:
                outcome = await self._settling.settle(UUID(operation_id), is_repeat=is_repeat)
            except NotYet as error:
                raise PaymentPending(str(order_id), str(error)) from error
            if outcome is Outcome.DECLINED:
                detail = await self._detail(UUID(operation_id))
                await self._abandon(order_id, PaymentDeclined.reason)
                raise PaymentDeclined(str(order_id), tender_number, detail)

    async def _place(self, order_id: UUID, wanted: Checkout, digest: bytes, prices: Any) -> pb.PlaceOrderResponse:
        agreed = None if prices is None else {sku: UnitPrice(*price) for sku, *price in prices}

        async def work(tx: Transaction) -> pb.PlaceOrderResponse:
            if not await tx.connection.fetchval(END, order_id, "PLACED", ""):
                raise PaymentPending(str(order_id), "the checkout was refused meanwhile")
            placed = await place.place(tx, wanted, order_id, _capture_at_once, agreed, self._lost)
            if self._lost.is_resourced and _is_short(placed.order):
                await lost_stock.settle_later(tx.connection, order_id)
            return placed

        return await self._ledger.mutate(wanted.request, pb.PlaceOrderResponse, work, digest=digest)

    @step("ledger.read_checkout")
    async def _read(self, order_id: UUID) -> Any:
        async with self._ledger.database.connection() as connection:
            return await connection.fetchrow(READ, order_id)

    @step("ledger.read_detail")
    async def _detail(self, operation_id: UUID) -> str:
        async with self._ledger.database.connection() as connection:
            return str(await connection.fetchval(DETAIL, operation_id))

    @step("ledger.abandon_checkout", model=("give_up",))
    async def _abandon(self, order_id: UUID, reason: str) -> bool:
        """Refuses a checkout that is pending, and has what was authorized for it voided. Whether it was this call's."""
        async with self._ledger.database.transaction() as connection:
            if not await connection.fetchval(END, order_id, "REFUSED", reason):
                return False
            row: Any = await connection.fetchrow(READ, order_id)
            tx = Transaction(connection)
            await tx.unpin_reservation(row["reservation_id"], order_id)
            if row["cart_id"] is not None:
                await carts.unlock(connection, row["cart_id"], order_id)
            tenders = await money.lock_tenders(connection, order_id)
            voids = [
                money.operation(number, Operation.VOID, t.tendered.payment.amount_minor, is_done=False)
                for number, t in tenders.items()
                if not t.tendered.payment.is_declined
            ]
            if voids:
                currency = await connection.fetchval(money.CURRENCY, order_id)
                await money.book(
                    connection,
                    order_id,
                    voids,
                    currency=currency,
                    reason_code=REASON,
                    reference_document=f"checkout/{order_id}",
                    actor=row["actor"],
                )
            # One that was never asked for, or is not known, is asked for, and then voided.
            for operation_id in [UUID(o) for o, _ in row["authorizations"]] + [v.operation_id for v in voids]:
                await settle_later(connection, operation_id)
            tx.emit(
                "onhand.checkout.refused.v1",
                f"checkout/{order_id}",
                {
                    "order_id": str(order_id),
                    "reservation_id": str(row["reservation_id"]),
                    "reason": reason,
                    "actor": row["actor"],
                },
            )
            await tx.finish()
        return True


def _is_short(order: pb.Order) -> bool:
    """Whether units of it were lost before it was placed."""
    return any(s.cause == pb.SHORTFALL_CAUSE_LOST for f in order.fulfillment_orders for s in f.shortfalls)


def _is_final(refusal: Refusal) -> bool:
    """Whether it says something of the order, rather than of a ledger or provider that could not be had now."""
    return refusal.kind not in (Kind.UNAVAILABLE, Kind.EXHAUSTED)


async def _refuse_second(connection: Connection, wanted: Checkout) -> None:
    """Raises CheckoutUnderWay, CartLocked: somebody else is paying, and for which order to be."""
    if order_id := await connection.fetchval(OF_RESERVATION, wanted.reservation_id):
        raise CheckoutUnderWay(str(wanted.reservation_id), str(order_id))
    if order_id := await connection.fetchval(OF_CART, wanted.cart_id):
        raise CartLocked(str(wanted.cart_id), str(order_id))


async def _prepared(tx: Transaction, wanted: Checkout, order_id: UUID) -> NewOrder:
    """The order as it would be placed now; its reservation and its cart are kept for it for as long as paying takes."""
    now = await tx.connection.fetchval("SELECT now()")
    claims = await tx.pin_reservation(wanted.reservation_id, now + timedelta(seconds=HELD_SECONDS), order_id)
    order, _ = await place.priced(tx, wanted, order_id, claims)
    if wanted.cart_id is not None:
        await carts.keep_for(tx.connection, wanted.cart_id, order_id)
    return order


async def _ask_for(tx: Transaction, order: NewOrder) -> None:
    """Writes the tenders that a gateway pays, and the authorizations to ask for."""
    outside = [(n, t) for n, t in enumerate(order.tenders, 1) if t.provider.is_outside]
    await tx.connection.execute(
        INSERT_TENDERS,
        order.order_id,
        [n for n, _ in outside],
        [t.kind for _, t in outside],
        [t.amount_minor for _, t in outside],
        [t.reference for _, t in outside],
        [t.provider.value for _, t in outside],
        [t.payment_method for _, t in outside],
        [t.capture_at.value for _, t in outside],
    )
    await money.book(
        tx.connection,
        order.order_id,
        [money.operation(n, Operation.AUTHORIZE, t.amount_minor, is_done=False) for n, t in outside],
        currency=order.currency,
        reason_code=payments.REASON,
        reference_document=f"order/{order.order_id}",
        actor=order.actor,
    )


async def _capture_at_once(tx: Transaction, order: NewOrder) -> None:
    captures = [
        money.operation(n, Operation.CAPTURE, t.amount_minor, is_done=False)
        for n, t in enumerate(order.tenders, 1)
        if t.provider.is_outside and t.capture_at is CaptureAt.ONCE
    ]
    if not captures:
        return
    await money.book(
        tx.connection,
        order.order_id,
        captures,
        currency=order.currency,
        reason_code=payments.REASON,
        reference_document=f"order/{order.order_id}",
        actor=order.actor,
    )
    for capture in captures:
        await settle_later(tx.connection, capture.operation_id)


def _stored(row: Any) -> Checkout:
    """What a checkout was asked for."""
    request = pb.PlaceOrderRequest.FromString(row["request"])
    wanted = place.checkout(request, Caller(row["actor"], None))
    return replace(wanted, gift_cards={int(index): bytes.fromhex(h) for index, h in row["gift_cards"].items()})
