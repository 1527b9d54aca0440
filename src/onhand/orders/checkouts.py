"""What a gateway pays, an order or a change of one: prepare, pay outside of any transaction, finish once.

1. One transaction stores the checkout with an id, its prices, its tenders and the authorizations to ask for, and enqueues the job
   that finishes it. Of an order it locks the cart, and pins and extends the reservation; of a change it reserves what is added.
2. The gateway is asked, under the ids of the authorizations. Whoever asks again gets the same answer.
3. One transaction places the order, with that id, or changes the one that is there; or the checkout is refused, what it held is
   free, and what was authorized is voided by jobs.

A crash anywhere leaves a checkout that is PENDING, which a repeat of the call or the job carries on from 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from onhand.caller import Caller
from onhand.crash import step
from onhand.domain.cart import UnitPrice
from onhand.domain.errors import CartLocked, Kind, LedgerUnavailable, Refusal, RequestIdReused
from onhand.domain.lost_stock import LostStockPolicy
from onhand.domain.payment import Operation, Outcome, Provider
from onhand.domain.payment_errors import (
    CheckoutUnderWay,
    PaymentDeclined,
    PaymentPending,
    ProviderNotConfigured,
)
from onhand.ids import new_id
from onhand.jobs import Jobs, NotYet, enqueue
from onhand.ledger.claims import Settlement
from onhand.ledger.mutation import Ledger, body_hash
from onhand.ledger.transaction import Transaction
from onhand.orders import bought, payments
from onhand.orders.bought import Answer, Begun, Bought, BoughtOrder, Payable
from onhand.orders.place import Checkout
from onhand.payments import store as money
from onhand.payments.settling import FINISH, FINISH_AFTER_SECONDS, FINISH_CHANGE, Settling, settle_later
from onhand.postgres import Connection
from onhand.reservations.claims import Held
from onhand.reservations.decrease import Decreases
from onhand.v1 import order_pb2 as pb

BEGIN_ATTEMPTS_MAX = 5
"""How often a checkout is begun that met another one, which was refused meanwhile."""
REASON = "CHECKOUT_REFUSED"
"""Of voids of what was authorized for an order that was not placed, or not changed."""

BEGIN = """
INSERT INTO checkouts (order_id, request_id, body_hash, request, gift_cards, reservation_id, actor, cart_id, change_of)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT DO NOTHING RETURNING true"""
OF_REQUEST = """
SELECT order_id, body_hash FROM checkouts WHERE request_id = $1 AND state <> 'REFUSED'"""
OF_RESERVATION = "SELECT order_id FROM checkouts WHERE reservation_id = $1 AND state = 'PENDING'"
OF_CART = "SELECT order_id FROM checkouts WHERE cart_id = $1 AND cart_id IS NOT NULL AND state = 'PENDING'"
UNTIL = """
SELECT max(k.deadline) FROM claims k
 WHERE k.reservation_id = (SELECT reservation_id FROM checkouts WHERE order_id = $1)"""
AGREED = "UPDATE checkouts SET prices = $2 WHERE order_id = $1"
READ = """
SELECT c.order_id, c.request_id, c.body_hash, c.request, c.gift_cards, c.reservation_id, c.actor, c.state, c.refusal,
       c.cart_id, c.prices, c.change_of, (
    SELECT json_agg(json_build_array(p.operation_id, p.tender_number) ORDER BY p.operation_number)
      FROM payment_operations p JOIN tenders t USING (order_id, tender_number)
     WHERE p.order_id = coalesce(c.change_of, c.order_id) AND p.kind = 'AUTHORIZE'
       AND (c.change_of IS NULL OR t.change_id = c.order_id)) AS authorizations
  FROM checkouts c WHERE c.order_id = $1"""
# The state is asked for so that the index of pending checkouts does not serve.
END_PLACED = """
UPDATE checkouts SET state = 'PLACED', updated_time = now()
 WHERE order_id = $1 AND coalesce(state, '') = 'PENDING' RETURNING true"""
END_REFUSED = """
UPDATE checkouts SET state = 'REFUSED', refusal = $2, updated_time = now()
 WHERE order_id = $1 AND coalesce(state, '') = 'PENDING' RETURNING true"""
# Past the deadline a reservation is neither confirmed nor extended: nothing can come of its checkout any more.
END_OVER = """
UPDATE checkouts c SET state = 'REFUSED', refusal = $2, updated_time = now()
 WHERE order_id = $1 AND coalesce(state, '') = 'PENDING' AND (
       SELECT count(*) FROM claims k WHERE k.reservation_id = c.reservation_id
          AND coalesce(k.state, '') = 'active' AND k.deadline - now() > interval '0') = 0 RETURNING true"""
INSERT_TENDERS = """
INSERT INTO tenders (order_id, change_id, tender_number, kind, amount_minor, reference, provider, payment_method, capture_at)
SELECT $1, $9, t.* FROM unnest($2::int[], $3::text[], $4::int8[], $5::text[], $6::text[], $7::text[], $8::text[]) AS t"""
DETAIL = "SELECT detail FROM payment_outcomes WHERE operation_id = $1"


class Checkouts:
    """Orders, and changes of them, that a gateway pays."""

    def __init__(
        self, ledger: Ledger, decreases: Decreases, settling: Settling, jobs: Jobs, lost: LostStockPolicy
    ) -> None:
        self._ledger = ledger
        self._decreases = decreases
        self._settling = settling
        self._lost = lost
        for name in (FINISH, FINISH_CHANGE):
            jobs.register(name, self._finish)

    async def place(self, wanted: Checkout) -> pb.PlaceOrderResponse:
        """Places an order, paid; or says why not. Raises PaymentPending where a provider does not say."""
        return await self._pay_for(BoughtOrder(wanted, self._lost))

    async def change(self, request: pb.ApplyOrderChangeRequest, caller: Caller) -> pb.ApplyOrderChangeResponse:
        """Changes an order, paid; as `place`."""
        return await self._pay_for(bought.bought_change(self._ledger, self._decreases, request, caller))

    async def _pay_for(self, wanted: Bought[Answer]) -> Answer:
        answer = await self._ledger.find_answer(wanted.request, wanted.response_type)
        if answer is not None:
            return answer
        if not self._settling.has(Provider.STRIPE):
            raise ProviderNotConfigured(Provider.STRIPE.value)
        checkout_id, is_new = await self._begin(wanted)
        # As it was begun: by another attempt perhaps, under another reservation.
        row = await self._read(checkout_id)
        return await self._carry_on(row, wanted.as_begun(row["reservation_id"]), is_repeat=not is_new)

    async def give_up(self, order_id: UUID) -> bool:
        """Refuses a checkout that waits for its provider, if its reservation is over. Whether it is under way no more."""
        row = await self._read(order_id)
        if row["state"] != "PENDING" or await self._give_up(row, self._stored(row)):
            return True
        return bool((await self._read(order_id))["state"] != "PENDING")

    def _stored(self, row: Any) -> Bought[Any]:
        return bought.stored(row, self._ledger, self._decreases, self._lost)

    async def _finish(self, payload: Mapping[str, Any], attempts: int) -> None:
        """Brings a checkout that a crash or a silent provider left pending to its end."""
        row = await self._read(UUID(payload["order_id"]))
        if row["state"] != "PENDING":
            return
        try:
            await self._carry_on(row, self._stored(row), is_repeat=True)
        except Refusal as refusal:
            if not _is_final(refusal):
                raise NotYet(str(refusal)) from refusal

    # -------------------------------------------------------------------------------------------------------- prepare
    async def _begin(self, wanted: Bought[Answer]) -> tuple[UUID, bool]:
        """The id of the checkout, and whether this call began it. Raises what `place` of an order raises."""

        async def write(held: Held | None) -> Begun:
            return await self._ledger.again(lambda: self._begin_once(wanted, held))

        async def first() -> Begun:
            return await self._begun(wanted)

        for _ in range(BEGIN_ATTEMPTS_MAX):
            if begun := await wanted.begin(write, first):
                return begun
        raise LedgerUnavailable("other checkouts of the same began and were refused again and again")

    @step("ledger.begin_checkout", model=("pend",))
    async def _begin_once(self, wanted: Bought[Answer], held: Held | None) -> Begun:
        """As `_begin`; None where it met one that was refused meanwhile. `held`: what was claimed for it."""
        request, checkout_id, digest = wanted.request, new_id(), body_hash(wanted.request)
        stored = type(request)()
        stored.CopyFrom(request)
        for tender in stored.tenders:
            tender.gift_card_code = ""
        cards = {str(index): hashed.hex() for index, hashed in wanted.gift_cards.items()}
        async with self._ledger.database.transaction() as connection:
            is_new = await connection.fetchval(
                *(BEGIN, checkout_id, request.request_id, digest, stored.SerializeToString(), cards),
                *(wanted.reservation_id, wanted.actor, wanted.cart_id, wanted.change_of),
            )
            if not is_new:
                begun = await _of_request(connection, wanted)
                if begun is None:
                    await _refuse_second(connection, wanted)
                return begun
            tx = Transaction(connection, wanted.request.request_id)
            payable = await wanted.prepare(tx, checkout_id, held)
            prices = [[sku, p.amount_minor, p.price_quantity] for sku, p in payable.prices.items()]
            await connection.execute(AGREED, checkout_id, prices)
            await _ask_for(tx, payable, wanted.actor)
            await enqueue(
                connection,
                FINISH if wanted.change_of is None else FINISH_CHANGE,
                {"order_id": str(checkout_id)},
                after_seconds=FINISH_AFTER_SECONDS,
                key=f"{FINISH}/{checkout_id}",
            )
            await tx.finish()
        return checkout_id, True

    @step("ledger.find_checkout", model=("look_up",))
    async def _begun(self, wanted: Bought[Answer]) -> Begun:
        async with self._ledger.database.connection() as connection:
            return await _of_request(connection, wanted)

    # ----------------------------------------------------------------------------------------------------- pay, finish
    async def _carry_on(self, row: Any, wanted: Bought[Answer], *, is_repeat: bool) -> Answer:
        order_id = _order_of(row)
        if row["state"] == "PENDING":
            await self._pay(row, wanted, is_repeat=is_repeat)
        elif row["state"] == "REFUSED":
            # By whoever else was at it. A repeat is judged anew, and told why.
            raise PaymentPending(order_id, f"this attempt was refused meanwhile: {row['refusal']}")
        try:
            return await self._place(row, wanted)
        except Refusal as refusal:
            if _is_final(refusal) and not await self._abandon(row, wanted, refusal.reason):
                # Whoever else was at it has ended it meanwhile.
                raise PaymentPending(order_id, refusal.reason) from refusal
            raise

    async def _pay(self, row: Any, wanted: Bought[Answer], *, is_repeat: bool) -> None:
        order_id = _order_of(row)
        for operation_id, tender_number in row["authorizations"]:
            try:
                outcome = await self._settling.settle(UUID(operation_id), is_repeat=is_repeat)
            except NotYet as error:
                if await self._give_up(row, wanted):
                    raise wanted.over() from error
                raise PaymentPending(order_id, str(error)) from error
            if outcome is Outcome.DECLINED:
                detail = await self._detail(UUID(operation_id))
                await self._abandon(row, wanted, PaymentDeclined.reason)
                raise PaymentDeclined(order_id, tender_number, detail)

    async def _place(self, row: Any, wanted: Bought[Answer]) -> Answer:
        checkout_id, prices = row["order_id"], row["prices"]
        agreed = None if prices is None else {sku: UnitPrice(*price) for sku, *price in prices}

        async def work(tx: Transaction) -> Answer:
            if not await tx.connection.fetchval(END_PLACED, checkout_id):
                raise PaymentPending(_order_of(row), "the checkout was refused meanwhile")
            return await wanted.finish(tx, checkout_id, agreed)

        return await self._ledger.mutate(wanted.request, wanted.response_type, work, digest=row["body_hash"])

    @step("ledger.read_checkout")
    async def _read(self, checkout_id: UUID) -> Any:
        async with self._ledger.database.connection() as connection:
            return await connection.fetchrow(READ, checkout_id)

    @step("ledger.read_detail")
    async def _detail(self, operation_id: UUID) -> str:
        async with self._ledger.database.connection() as connection:
            return str(await connection.fetchval(DETAIL, operation_id))

    async def _give_up(self, row: Any, wanted: Bought[Answer]) -> bool:
        """As `_abandon`, without knowing what the provider says, where it is too late for that: it is asked before it voids."""
        return await self._abandon(row, wanted, wanted.over().reason, END_OVER)

    async def _abandon(self, row: Any, wanted: Bought[Answer], reason: str, end: str = END_REFUSED) -> bool:
        """Refuses a checkout that is pending, and has what was authorized for it voided. Whether it was this call's."""
        settlements = await self._ledger.again(lambda: self._refuse(row, wanted, reason, end))
        if settlements is None:
            return False
        await self._ledger.follow(settlements)
        return True

    @step("ledger.abandon_checkout", model=("give_up",))
    async def _refuse(self, row: Any, wanted: Bought[Answer], reason: str, end: str) -> Sequence[Settlement] | None:
        """As `_abandon`: what must follow the commit, or None."""
        checkout_id, change_of = row["order_id"], row["change_of"]
        order_id = change_of or checkout_id
        async with self._ledger.database.transaction() as connection:
            if not await connection.fetchval(end, checkout_id, reason):
                return None
            tx = Transaction(connection, row["request_id"])
            await wanted.free(tx, checkout_id)
            tenders = await money.lock_tenders(connection, order_id, change_of and checkout_id)
            voids = [
                money.operation(number, Operation.VOID, t.tendered.room_minor, is_done=False)
                for number, t in tenders.items()
                if t.tendered.room_minor and not t.tendered.payment.is_declined
            ]
            if voids:
                currency = await connection.fetchval(money.CURRENCY, order_id)
                await money.book(
                    connection,
                    order_id,
                    voids,
                    currency=currency,
                    reason_code=REASON,
                    reference_document=f"checkout/{checkout_id}",
                    actor=row["actor"],
                )
            # One that was never asked for, or is not known, is asked for, and then voided.
            for operation_id in [UUID(o) for o, _ in row["authorizations"]] + [v.operation_id for v in voids]:
                await settle_later(connection, operation_id)
            tx.emit(*wanted.refused(checkout_id, reason))
            return await tx.finish()


def _order_of(row: Any) -> str:
    """The order that a checkout is to become, or changes."""
    return str(row["change_of"] or row["order_id"])


def _is_final(refusal: Refusal) -> bool:
    """Whether it says something of the order, rather than of a ledger or provider that could not be had now."""
    return refusal.kind not in (Kind.UNAVAILABLE, Kind.EXHAUSTED)


async def _of_request(connection: Connection, wanted: Bought[Answer]) -> Begun:
    """The checkout of a request that was begun before and not refused. Raises RequestIdReused."""
    request = wanted.request
    found = await connection.fetchrow(OF_REQUEST, request.request_id)
    if found is None:
        return None
    if found["body_hash"] != body_hash(request):
        raise RequestIdReused(request.request_id, type(request).__name__)
    return found["order_id"], False


async def _refuse_second(connection: Connection, wanted: Bought[Answer]) -> None:
    """Raises CheckoutUnderWay, CartLocked: somebody else is paying, and for which order to be."""
    if order_id := await connection.fetchval(OF_RESERVATION, wanted.reservation_id):
        raise CheckoutUnderWay(str(wanted.reservation_id), str(order_id))
    if order_id := await connection.fetchval(OF_CART, wanted.cart_id):
        until = await connection.fetchval(UNTIL, order_id)
        raise CartLocked(str(wanted.cart_id), str(order_id), until.isoformat())


async def _ask_for(tx: Transaction, payable: Payable, actor: str) -> None:
    """Writes the tenders that a gateway pays, and the authorizations to ask for."""
    outside = [(n, t) for n, t in payable.tenders if t.provider.is_outside]
    await tx.connection.execute(
        INSERT_TENDERS,
        payable.order_id,
        [n for n, _ in outside],
        [t.kind for _, t in outside],
        [t.amount_minor for _, t in outside],
        [t.reference for _, t in outside],
        [t.provider.value for _, t in outside],
        [t.payment_method for _, t in outside],
        [t.capture_at.value for _, t in outside],
        payable.change_id,
    )
    await money.book(
        tx.connection,
        payable.order_id,
        [money.operation(n, Operation.AUTHORIZE, t.amount_minor, is_done=False) for n, t in outside],
        currency=payable.currency,
        reason_code=payments.REASON,
        reference_document=f"order/{payable.order_id}",
        actor=actor,
    )
