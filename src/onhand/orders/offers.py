"""Substitutes that a location offers, and the customer accepts or declines herself; and their end, if she does neither.

An offer is a question. It holds no stock and stops no step of the work, so nobody waits for an answer that does not come. What is
set out, rejected or cancelled meanwhile leaves the offer without its units, and accepting it is refused. What is accepted is done
by the code of SubstituteLine, in one transaction, with exactly the effect that was offered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from onhand.caller import ITSELF, Caller
from onhand.crash import step
from onhand.domain.cart import UnitPrice
from onhand.domain.errors import InsufficientStock, OrderNotFound, Short
from onhand.domain.order import RejectReason, Step
from onhand.domain.substitute_offer import OFFER_SECONDS, OfferState, OfferStep, after, state_at
from onhand.domain.work_errors import SubstituteOfferNotFound, SubstituteOfferOpen, SubstituteOfferOutdated
from onhand.ids import new_id, parse_id
from onhand.jobs import Jobs, NotYet, enqueue
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.orders import names
from onhand.orders.substitute import CUSTOMER, Effect, Substitute, carry_out, effect_of
from onhand.orders.work import Work, emit, lock_work
from onhand.paging import decode_token, encode_token, fill, page_size
from onhand.payments import giving_back
from onhand.postgres import Connection, Database
from onhand.reservations.claims import Wants
from onhand.reservations.decrease import Decreases, Overdrawn
from onhand.v1 import order_pb2 as pb
from onhand.wire import money_to_wire, timestamp

EXPIRE = "substitute_offer.expire"
"""The job that tells of an offer's end. Its payload is the offer's id."""

INSERT = """
INSERT INTO substitute_offers (substitute_offer_id, order_id, fulfillment_order_id, line_number, quantity, held_quantity, sku,
                               substitute_quantity, reject_reason, amount_minor, price_quantity, total_minor, refund_minor,
                               expires_time, actor)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, now() + make_interval(secs => $14::int), $15)"""
# The order is locked: nobody else closes it.
CLOSE = """
UPDATE substitute_offers SET state = $2, substitute_line = $3, closed_by = $4, updated_time = now()
 WHERE substitute_offer_id = $1 AND (state = 'OFFERED') IS TRUE"""
_OFFERS = """
SELECT s.substitute_offer_id, s.order_id, s.fulfillment_order_id, s.line_number, s.quantity, s.held_quantity, s.sku,
       s.substitute_quantity, s.reject_reason, s.amount_minor, s.price_quantity, s.total_minor, s.refund_minor, s.state,
       s.expires_time, s.substitute_line, s.created_time, s.updated_time, o.order_number, o.customer_id, o.currency,
       f.location_id, p.name, now() AS now
  FROM substitute_offers s JOIN orders o ON o.order_id = s.order_id
  JOIN fulfillment_orders f ON f.fulfillment_order_id = s.fulfillment_order_id JOIN products p ON p.sku = s.sku"""
ONE = f"{_OFFERS} WHERE s.substitute_offer_id = $1"
OF_LINE = f"""{_OFFERS}
 WHERE s.order_id = $1 AND s.fulfillment_order_id = $2 AND s.line_number = $3 AND (s.state = 'OFFERED') IS TRUE"""
# A page, the newest first; the null of a first page is after nothing.
OF_ORDER = f"""{_OFFERS} WHERE s.order_id = $1
   AND s.substitute_offer_id < coalesce($2, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
 ORDER BY s.substitute_offer_id DESC LIMIT $3"""
ORDER_EXISTS = "SELECT true FROM orders WHERE order_id = $1"


async def offer_substitute(
    ledger: Ledger, request: pb.OfferSubstituteRequest, caller: Caller
) -> pb.OfferSubstituteResponse:
    """OrderService.OfferSubstitute."""
    fulfillment_order_id = parse_id("fulfillment_order_id", request.fulfillment_order_id)
    reason = names.reject_reason("reason", request.reason) if request.reason else None
    asked = Substitute(
        request.line_number, request.quantity, request.sku, request.substitute_quantity, CUSTOMER, "", reason
    )
    seconds = request.ttl_seconds or OFFER_SECONDS

    async def work(tx: Transaction) -> pb.OfferSubstituteResponse:
        work = await lock_work(tx, fulfillment_order_id)
        return pb.OfferSubstituteResponse(substitute_offer=await _offer(tx, work, asked, seconds, caller))

    return await ledger.mutate(request, pb.OfferSubstituteResponse, work)


async def _offer(tx: Transaction, work: Work, asked: Substitute, seconds: int, caller: Caller) -> pb.SubstituteOffer:
    id, place, number = work.fulfillment.fulfillment_order_id, work.fulfillment.location_id, asked.line_number
    work.after(Step.SUBSTITUTE)
    # Not held, but there: nobody is asked about what the store has not. An item that does not exist is refused here.
    level = (await tx.lock_levels([(place, asked.sku)]))[place, asked.sku]
    effect = await effect_of(tx.connection, work, asked)
    if level.available < asked.substitute_quantity:
        raise InsufficientStock((Short(place, asked.sku, asked.substitute_quantity, level.available),))
    before: Any = await tx.connection.fetchrow(OF_LINE, work.order.order_id, id, number)
    if before is not None:
        if _state(before) is OfferState.OFFERED:
            raise SubstituteOfferOpen(str(id), number, str(before["substitute_offer_id"]))
        await _close(tx, work, before, OfferState.EXPIRED, ITSELF)
    offer_id = new_id()
    await _insert(tx, work, offer_id, asked, effect, seconds, caller)
    payload = {"substitute_offer_id": str(offer_id)}
    await enqueue(tx.connection, EXPIRE, payload, after_seconds=seconds, key=f"{EXPIRE}/{offer_id}")
    row: Any = await tx.connection.fetchrow(ONE, offer_id)
    _tell(tx, work, row, "substitute_offered", caller)
    return _message(row)


@step("ledger.offer_substitute")
async def _insert(
    tx: Transaction, work: Work, offer_id: UUID, asked: Substitute, effect: Effect, seconds: int, caller: Caller
) -> None:
    number = asked.line_number
    await tx.connection.execute(
        INSERT,
        offer_id,
        work.order.order_id,
        work.fulfillment.fulfillment_order_id,
        number,
        effect.units[number],
        work.held[number],
        asked.sku,
        asked.substitute_quantity,
        asked.reason.value if asked.reason else None,
        effect.price.amount_minor,
        effect.price.price_quantity,
        effect.total_minor,
        effect.refund_minor,
        seconds,
        caller.actor,
    )


# -------------------------------------------------------------------------------------------------------------- answers
async def accept_substitute_offer(
    ledger: Ledger, decreases: Decreases, request: pb.AcceptSubstituteOfferRequest, caller: Caller
) -> pb.AcceptSubstituteOfferResponse:
    """OrderService.AcceptSubstituteOffer."""
    offer_id = parse_id("substitute_offer_id", request.substitute_offer_id)
    held: list[tuple[Work, Any]] = []

    async def takes() -> Wants:
        async with ledger.read() as connection:
            row = await _one(connection, offer_id)
        if _state(row) is not OfferState.OFFERED:
            return []  # a repeat, or a refusal: the transaction finds out
        return [(row["location_id"], [(row["sku"], row["substitute_quantity"])])]

    async def hold(tx: Transaction) -> None:
        work, row = await _locked(tx, offer_id)
        after(_state(row), OfferStep.ACCEPT, str(offer_id))
        await giving_back.hold(tx, work.order.order_id)
        held[:] = [(work, row)]

    async def work(tx: Transaction, overdrawn: Overdrawn) -> pb.AcceptSubstituteOfferResponse:
        ((work, row),) = held
        return await _accept(tx, work, row, caller)

    return await decreases.decision(request, pb.AcceptSubstituteOfferResponse, takes, work, hold)


async def _accept(tx: Transaction, work: Work, row: Any, caller: Caller) -> pb.AcceptSubstituteOfferResponse:
    offer_id, number = row["substitute_offer_id"], row["line_number"]
    reason = RejectReason(row["reject_reason"]) if row["reject_reason"] else None
    agreed = Substitute(
        number,
        row["quantity"],
        row["sku"],
        row["substitute_quantity"],
        CUSTOMER,
        f"substitute_offer/{offer_id}",
        reason,
    )
    work.after(Step.SUBSTITUTE)
    if work.held.get(number) != row["held_quantity"]:
        raise SubstituteOfferOutdated(str(offer_id), number)
    effect = await effect_of(tx.connection, work, agreed, UnitPrice(row["amount_minor"], row["price_quantity"]))
    if (effect.total_minor, effect.refund_minor) != (row["total_minor"], row["refund_minor"]):
        raise SubstituteOfferOutdated(str(offer_id), number)
    done = await carry_out(tx, work, agreed, effect, caller)
    closed = await _close(tx, work, row, OfferState.ACCEPTED, caller, done.substitute_line_number)
    return pb.AcceptSubstituteOfferResponse(
        substitute_offer=closed,
        order=done.order,
        substitute_line_number=done.substitute_line_number,
        refund=done.refund,
    )


async def decline_substitute_offer(
    ledger: Ledger, request: pb.DeclineSubstituteOfferRequest, caller: Caller
) -> pb.DeclineSubstituteOfferResponse:
    """OrderService.DeclineSubstituteOffer."""
    offer_id = parse_id("substitute_offer_id", request.substitute_offer_id)

    async def work(tx: Transaction) -> pb.DeclineSubstituteOfferResponse:
        return pb.DeclineSubstituteOfferResponse(substitute_offer=await _end(tx, offer_id, OfferStep.DECLINE, caller))

    return await ledger.mutate(request, pb.DeclineSubstituteOfferResponse, work)


async def withdraw_substitute_offer(
    ledger: Ledger, request: pb.WithdrawSubstituteOfferRequest, caller: Caller
) -> pb.WithdrawSubstituteOfferResponse:
    """OrderService.WithdrawSubstituteOffer."""
    offer_id = parse_id("substitute_offer_id", request.substitute_offer_id)

    async def work(tx: Transaction) -> pb.WithdrawSubstituteOfferResponse:
        return pb.WithdrawSubstituteOfferResponse(substitute_offer=await _end(tx, offer_id, OfferStep.WITHDRAW, caller))

    return await ledger.mutate(request, pb.WithdrawSubstituteOfferResponse, work)


async def _end(tx: Transaction, offer_id: UUID, step: OfferStep, caller: Caller) -> pb.SubstituteOffer:
    work, row = await _locked(tx, offer_id)
    return await _close(tx, work, row, after(_state(row), step, str(offer_id)), caller)


async def _locked(tx: Transaction, offer_id: UUID) -> tuple[Work, Any]:
    """An offer, and the work that it is about, whose order is locked. Raises SubstituteOfferNotFound."""
    work = await lock_work(tx, (await _one(tx.connection, offer_id))["fulfillment_order_id"])
    return work, await _one(tx.connection, offer_id)


_TOLD = {
    OfferState.ACCEPTED: "substitute_accepted",
    OfferState.DECLINED: "substitute_declined",
    OfferState.WITHDRAWN: "substitute_withdrawn",
    OfferState.EXPIRED: "substitute_expired",
}


async def _close(
    tx: Transaction, work: Work, row: Any, state: OfferState, caller: Caller, line_number: int | None = None
) -> pb.SubstituteOffer:
    """Writes what became of an offer that stands in the ledger, and tells of it."""
    offer_id = row["substitute_offer_id"]
    done = await tx.connection.execute(CLOSE, offer_id, state.value, line_number, caller.actor)
    if done != "UPDATE 1":
        raise AssertionError(f"substitute offer {offer_id} was closed by somebody else, under the lock of its order")
    _tell(tx, work, row, _TOLD[state], caller)
    return _message(await _one(tx.connection, offer_id))


def _tell(tx: Transaction, work: Work, row: Any, what: str, caller: Caller) -> None:
    data: Mapping[str, Any] = {
        "substitute_offer_id": str(row["substitute_offer_id"]),
        "order_number": row["order_number"],
        "customer_id": row["customer_id"],
        "line_number": row["line_number"],
        "quantity": row["quantity"],
        "sku": row["sku"],
        "substitute_quantity": row["substitute_quantity"],
        "total_minor": row["total_minor"],
        "refund_minor": row["refund_minor"],
        "currency": row["currency"],
        "expires_time": row["expires_time"].isoformat(),
    }
    emit(tx, work.order, work.fulfillment, what, work.fulfillment.state, caller, data)


class OfferExpiry:
    """Tells of offers that nobody answered. They cannot be accepted from that moment on, whether a job has come to it or not."""

    def __init__(self, database: Database, jobs: Jobs) -> None:
        self._database = database
        jobs.register(EXPIRE, self._expire)

    @step("ledger.expire_offer")
    async def _expire(self, payload: Mapping[str, Any], attempts: int) -> None:
        async with self._database.transaction() as connection:
            tx = Transaction(connection)
            work, row = await _locked(tx, UUID(payload["substitute_offer_id"]))
            if row["state"] != OfferState.OFFERED.value:
                return  # answered, taken back, or told already
            if _state(row) is OfferState.OFFERED:
                raise NotYet(f"substitute offer {row['substitute_offer_id']} ends at {row['expires_time'].isoformat()}")
            await _close(tx, work, row, OfferState.EXPIRED, ITSELF)
            await tx.finish()


# ---------------------------------------------------------------------------------------------------------------- reads
async def list_substitute_offers(
    ledger: Ledger, request: pb.ListSubstituteOffersRequest, caller: Caller
) -> pb.ListSubstituteOffersResponse:
    """OrderService.ListSubstituteOffers."""
    size, order_id, key = (
        page_size(request.page_size),
        parse_id("order_id", request.order_id),
        decode_token(request, UUID),
    )
    async with ledger.read() as connection:
        rows = await connection.fetch(OF_ORDER, order_id, key[0] if key else None, size + 1)
        if not rows and not await connection.fetchval(ORDER_EXISTS, order_id):
            raise OrderNotFound(str(order_id))
    found, last = fill(rows, size, _message)
    token = encode_token(request, last["substitute_offer_id"]) if last else ""
    return pb.ListSubstituteOffersResponse(substitute_offers=found, next_page_token=token)


async def _one(connection: Connection, offer_id: UUID) -> Any:
    row = await connection.fetchrow(ONE, offer_id)
    if row is None:
        raise SubstituteOfferNotFound(str(offer_id))
    return row


def _state(row: Any) -> OfferState:
    return state_at(OfferState(row["state"]), row["expires_time"], row["now"])


def _message(row: Any) -> pb.SubstituteOffer:
    return pb.SubstituteOffer(
        substitute_offer_id=str(row["substitute_offer_id"]),
        order_id=str(row["order_id"]),
        order_number=row["order_number"],
        customer_id=row["customer_id"],
        fulfillment_order_id=str(row["fulfillment_order_id"]),
        location_id=row["location_id"],
        line_number=row["line_number"],
        quantity=row["quantity"],
        sku=row["sku"],
        name=row["name"],
        substitute_quantity=row["substitute_quantity"],
        total=money_to_wire(row["total_minor"], row["currency"]),
        refund=money_to_wire(row["refund_minor"], row["currency"]),
        reason=pb.RejectReason.Value(f"REJECT_REASON_{row['reject_reason'] or 'UNSPECIFIED'}"),
        state=pb.SubstituteOfferState.Value(f"SUBSTITUTE_OFFER_STATE_{_state(row).value}"),
        expires_time=timestamp(row["expires_time"]),
        substitute_line_number=row["substitute_line"] or 0,
        created_time=timestamp(row["created_time"]),
        updated_time=timestamp(row["updated_time"]),
    )
