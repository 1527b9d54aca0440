"""Reservations: reserve, change, extend, release. Gate first, then the journal, then the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from onhand.clock import LedgerClock, milliseconds
from onhand.deadline import set_until
from onhand.domain.errors import (
    GateUnavailable,
    InsufficientStock,
    LedgerUnavailable,
    LocationNotFound,
    ReservationNotActive,
    ReservationNotFound,
    ReservationOrdered,
    Short,
    SkuNotFound,
    invalid,
)
from onhand.domain.payment_errors import CheckoutUnderWay
from onhand.domain.stock import MAX_QUANTITY, sum_lines
from onhand.ids import new_id, parse_id
from onhand.ledger.claims import Claim, ClaimRefused
from onhand.ledger.mutation import Answer, Ledger, Mutation, body_hash, is_certain
from onhand.ledger.transaction import Transaction
from onhand.reservations.claims import HINT_SECONDS, ClaimGone, Claims, GateShort, Held, Wants
from onhand.reservations.combiner import Combiner
from onhand.reservations.gate import Reminder
from onhand.reservations.journal import Entry, Journal, Outcome
from onhand.reservations.policy import VERSION, Policy
from onhand.reservations.sweep import Sweeper
from onhand.v1 import inventory_pb2 as v1
from onhand.v1 import types_pb2
from onhand.wire import channel_name, channel_value, timestamp

TTL_SECONDS_DEFAULT = 900
"""How long a reservation holds if its caller does not say."""
RESERVE_ATTEMPTS_MAX = 4
"""How often a reservation claims anew after the ledger refused its claim."""
ROUND_ITEMS_MAX = 200
"""Reservations in one round."""
ROUNDS_MAX = 3
"""Rounds that a process has under way at once."""
LINGER_SECONDS = 0.002
"""How long a round waits for further reservations where there was company lately."""
KNOWN_SKUS_MAX = 100_000
"""Skus that a process remembers to exist; a product is never deleted."""

# A change inserts the new claims of a reservation together: the youngest rows are what it holds, or held last.
RESERVATION = """
SELECT location_id, claim_id, lines, channel, customer_id, deadline, order_id, pinned_for,
       CASE WHEN state = 'active' AND deadline <= now() THEN 'expired' ELSE state END AS state
  FROM claims c WHERE reservation_id = $1
   AND created_time = (SELECT max(created_time) FROM claims WHERE reservation_id = $1)
 ORDER BY location_id"""
UNKNOWN_SKU = """
SELECT s.sku FROM unnest($1::text[]) AS s (sku) WHERE NOT EXISTS (SELECT FROM products p WHERE p.sku = s.sku)
 ORDER BY 1 LIMIT 1"""

STATES = {
    "active": v1.RESERVATION_STATE_ACTIVE,
    "confirmed": v1.RESERVATION_STATE_CONFIRMED,
    "released": v1.RESERVATION_STATE_RELEASED,
    "expired": v1.RESERVATION_STATE_EXPIRED,
    "consumed": v1.RESERVATION_STATE_CONFIRMED,  # by a change of an order
}


@dataclass(frozen=True)
class Standing:
    """A reservation as the ledger has it."""

    reservation_id: UUID
    state: str
    channel: str
    customer_id: str
    deadline: datetime
    order_id: UUID | None
    pinned_for: UUID | None
    claims: dict[str, UUID]
    wants: Wants

    def message(self) -> v1.Reservation:
        """For the wire."""
        return reservation_message(
            self.reservation_id, self.state, self.channel, self.customer_id, self.deadline, self.wants, self.order_id
        )


class _Wanted(NamedTuple):
    """A call to Reserve, its lines summed. `until`: when it must be answered (time.monotonic())."""

    request: v1.ReserveRequest
    wants: list[tuple[str, list[tuple[str, int]]]]
    channel: str
    ttl_seconds: int
    until: float | None


class _End:
    """A deadline, as the ledger, the gate and the wire have it."""

    def __init__(self, moment: datetime) -> None:
        self.moment = moment
        self.milliseconds = milliseconds(moment)
        self.wire = timestamp(moment)


class Reservations:
    """The reservations of the inventory."""

    def __init__(
        self, ledger: Ledger, claims: Claims, journal: Journal, sweeper: Sweeper, policy: Policy, clock: LedgerClock
    ) -> None:
        self._ledger = ledger
        self._claims = claims
        self._sweeper = sweeper
        self._policy = policy
        self._clock = clock
        self._known_skus: set[str] = set()
        # The sweeper need not look at what is journalled until its deadline. The next round says so; if none follows, it looks.
        self._reminders: list[Reminder] = []
        self._alone: set[asyncio.Task[v1.ReserveResponse]] = set()
        self._journal = journal
        self._rounds: Combiner[_Wanted, v1.ReserveResponse] = Combiner(
            "reservations",
            self._round,
            round_items_max=ROUND_ITEMS_MAX,
            rounds_at_once_max=ROUNDS_MAX,
            linger_seconds=LINGER_SECONDS,
        )
        self._entries: Combiner[Entry, Outcome] = Combiner(
            "journal", self._write, round_items_max=ROUND_ITEMS_MAX, rounds_at_once_max=ROUNDS_MAX
        )

    async def _write(self, entries: Sequence[Entry]) -> list[Outcome | BaseException]:
        """A round. Two attempts of one request go into it one after the other: the second finds the first."""
        first: dict[str, Entry] = {}
        for entry in entries:
            first.setdefault(entry.request_id, entry)
        outcome = dict(zip(first, await self._journal.write(list(first.values())), strict=True))
        outcomes: list[Outcome | BaseException] = []
        for entry in entries:
            if first[entry.request_id] is entry:
                outcomes.append(outcome[entry.request_id])
                continue
            try:
                outcomes += await self._journal.write([entry])
            except Exception as error:  # its own: the others of the round have their outcome
                outcomes.append(error)
        return outcomes

    # ----------------------------------------------------------------------------------------------------- reserve
    def reserve(self, request: v1.ReserveRequest, until: float | None = None) -> asyncio.Future[v1.ReserveResponse]:
        """Holds a basket until its deadline; survives any crash once it is answered. `until`: of the call, monotonic.

        What can be had at once is taken in one script call and journalled by one statement for all calls of a round. Whatever
        else becomes of a call (short, asked before, met by a rebuild) is found out for it alone.
        """
        wants = wants_of(request.baskets)
        ttl_seconds = request.ttl_seconds or TTL_SECONDS_DEFAULT
        return self._rounds.enqueue(_Wanted(request, wants, channel_name(request.channel), ttl_seconds, until), until)

    async def _round(
        self, wanted: Sequence[_Wanted]
    ) -> list[v1.ReserveResponse | BaseException | asyncio.Future[v1.ReserveResponse]]:
        now = self._clock.now()
        latest_ms = milliseconds(now) + HINT_SECONDS * 1000
        ends = {seconds: _End(now + timedelta(seconds=seconds)) for seconds in {w.ttl_seconds for w in wanted}}
        baskets = [(w.wants, min(ends[w.ttl_seconds].milliseconds, latest_ms), w.channel) for w in wanted]
        results: list[Any] = [None] * len(wanted)
        entries: list[Entry] = []
        entered: list[tuple[int, Held, v1.ReserveResponse]] = []
        reminders, self._reminders = self._reminders, []
        for n, held in enumerate(await self._claims.take_together(baskets, reminders)):
            if held is not None:
                entry, answer = self._entry(wanted[n], ends[wanted[n].ttl_seconds], held)
                entries.append(entry)
                entered.append((n, held, answer))
        outcomes = await self._journalled_together(entries, [held for _, held, _ in entered])
        for (n, held, answer), outcome in zip(entered, outcomes, strict=True):
            if outcome is Outcome.JOURNALLED:
                results[n] = answer
                due_ms = ends[wanted[n].ttl_seconds].milliseconds
                if due_ms > latest_ms:
                    self._reminders += [(c.location_id, c.claim_id, due_ms) for c in held.claims]
            elif isinstance(outcome, BaseException):
                results[n] = outcome
        return [self._begin_alone(w) if r is None else r for w, r in zip(wanted, results, strict=True)]

    async def _journalled_together(
        self, entries: Sequence[Entry], held: Sequence[Held]
    ) -> Sequence[Outcome | BaseException]:
        """What became of entries; the claims of those that certainly are not journalled are given back."""
        if not entries:
            return []
        try:
            outcomes: Sequence[Outcome | BaseException] = await self._write(entries)
        except Exception as error:
            outcomes = [error] * len(entries)
        useless = [
            claim
            for outcome, h in zip(outcomes, held, strict=True)
            if outcome is not Outcome.JOURNALLED and (isinstance(outcome, Outcome) or is_certain(outcome))
            for claim in h.claims
        ]
        await self._claims.give_back(useless)
        return outcomes

    def _begin_alone(self, wanted: _Wanted) -> asyncio.Future[v1.ReserveResponse]:
        task = asyncio.create_task(self._reserve_alone(wanted))
        self._alone.add(task)
        task.add_done_callback(self._alone.discard)
        return task

    async def _reserve_alone(self, wanted: _Wanted) -> v1.ReserveResponse:
        set_until(wanted.until)
        request, wants, channel = wanted.request, wanted.wants, wanted.channel
        is_swept = False
        for _ in range(RESERVE_ATTEMPTS_MAX):
            deadline = self._clock.now() + timedelta(seconds=wanted.ttl_seconds)
            try:
                held = await self._claims.take(wants, due=self._hint(deadline), channel=channel)
            except LocationNotFound:
                # It may have been there when the first attempt was made.
                known = await self._ledger.find_answer(request, v1.ReserveResponse)
                if known is None:
                    raise
                return known
            except GateShort as short:
                # The first attempt of this request may have won what this one misses.
                known = await self._ledger.find_answer(request, v1.ReserveResponse)
                if known is not None:
                    return known
                if not is_swept and await self._close_due(short):
                    is_swept = True
                    continue
                if await self._claims.was_outdated(short) or await self._is_outdated(short, channel):
                    continue
                await self._refuse(short.shorts)
            entry, answer = self._entry(wanted, _End(deadline), held)
            outcome = await self._journalled(entry, held)
            if outcome is Outcome.JOURNALLED:
                return answer
            if outcome is Outcome.REQUEST_KNOWN:
                known = await self._ledger.find_answer(request, v1.ReserveResponse)
                if known is None:
                    raise LedgerUnavailable("the request is recorded, its answer was not found")
                return known
            if outcome is Outcome.POLICY_CHANGED:
                await self._policy.catch_up()
            else:
                await self._claims.mend(held.claims)
        raise GateUnavailable("its epoch moved on again and again")

    def _hint(self, deadline: datetime) -> datetime:
        """When the sweeper looks at a new claim; if it was journalled by then, it looks again at the deadline."""
        return min(deadline, self._clock.now() + timedelta(seconds=HINT_SECONDS))

    @staticmethod
    def _entry(wanted: _Wanted, end: _End, held: Held) -> tuple[Entry, v1.ReserveResponse]:
        """What is journalled of a reservation, and what its caller is told."""
        request, reservation_id = wanted.request, new_id()
        reservation = v1.Reservation(
            reservation_id=str(reservation_id),
            state=v1.RESERVATION_STATE_ACTIVE,
            baskets=_baskets(wanted.wants),
            channel=request.channel,
            customer_id=request.customer_id,
            expire_time=end.wire,
        )
        answer = v1.ReserveResponse(reservation=reservation)
        entry = Entry(
            request.request_id,
            "ReserveRequest",
            body_hash(request),
            answer.SerializeToString(),
            reservation_id,
            wanted.channel,
            request.customer_id,
            end.moment,
            held.policy_version,
            held.claims,
        )
        return entry, answer

    async def _journalled(self, entry: Entry, held: Held) -> Outcome:
        try:
            outcome = await self._entries.submit(entry)
        except Exception as error:
            if is_certain(error):
                await self._claims.give_back(held.claims)
            raise  # else the outcome is unknown: the claim is left to the sweeper
        if outcome is not Outcome.JOURNALLED:
            await self._claims.give_back(held.claims)
        return outcome

    async def _close_due(self, short: GateShort) -> bool:
        return await self._sweeper.close_due((s.location_id for s in short.shorts), short.asked)

    async def _is_outdated(self, short: GateShort, channel: str) -> bool:
        """Whether a threshold that this refusal went by may have been lifted by another process."""
        if any(self._policy.threshold(channel, s.sku) for s in short.shorts):
            await self._policy.catch_up()
        return self._policy.version != short.policy_version

    async def _refuse(self, shorts: Sequence[Short]) -> None:
        unsure = {s.sku for s in shorts} - self._known_skus
        if unsure:
            async with self._ledger.read() as connection:
                unknown = await connection.fetchval(UNKNOWN_SKU, sorted(unsure))
            if unknown is not None:
                raise SkuNotFound(unknown)
            if len(self._known_skus) + len(unsure) > KNOWN_SKUS_MAX:
                self._known_skus.clear()
            self._known_skus |= unsure
        raise InsufficientStock(tuple(shorts))

    # ------------------------------------------------------------------------------------------------------ change
    async def standing(self, reservation_id: UUID) -> Standing:
        """A reservation as it is now. Raises ReservationNotFound."""
        async with self._ledger.read() as connection:
            rows = await connection.fetch(RESERVATION, reservation_id)
        return _standing(reservation_id, rows)

    async def change(self, request: v1.ChangeReservationRequest) -> v1.ChangeReservationResponse:
        """Swaps what a reservation holds: both are held until the ledger has swapped them."""
        wants = wants_of(request.baskets)
        reservation_id = parse_id("reservation_id", request.reservation_id)
        is_swept = False
        for _ in range(RESERVE_ATTEMPTS_MAX):
            old = await self.standing(reservation_id)
            if old.state != "active" or old.pinned_for is not None:
                return await self._first_or(request, v1.ChangeReservationResponse, old)
            try:
                held = await self._claims.take(
                    wants, due=self._hint(old.deadline), channel=old.channel, frees=old.claims
                )
            except ClaimGone:
                continue  # expired or changed meanwhile: look again
            except LocationNotFound:
                # It may have been there when the first attempt was made.
                known = await self._ledger.find_answer(request, v1.ChangeReservationResponse)
                if known is None:
                    raise
                return known
            except GateShort as short:
                known = await self._ledger.find_answer(request, v1.ChangeReservationResponse)
                if known is not None:
                    return known
                if not is_swept and await self._close_due(short):
                    is_swept = True
                    continue
                if await self._claims.was_outdated(short) or await self._is_outdated(short, old.channel):
                    continue
                await self._refuse(short.shorts)
            try:
                return await self._swap(request, old, held)
            except ClaimRefused:
                await self._policy.catch_up()
                await self._claims.mend(held.claims)
        raise GateUnavailable("the reservation was changed again and again")

    async def _first_or(self, request: Mutation, response_type: type[Answer], old: Standing) -> Answer:
        known = await self._ledger.find_answer(request, response_type)
        if known is not None:
            return known
        if old.order_id is not None:
            raise ReservationOrdered(str(old.reservation_id), old.state.upper(), str(old.order_id))
        if old.state != "active":
            raise ReservationNotActive(str(old.reservation_id), old.state.upper())
        raise CheckoutUnderWay(str(old.reservation_id), str(old.pinned_for))

    async def _swap(
        self, request: v1.ChangeReservationRequest, old: Standing, held: Held
    ) -> v1.ChangeReservationResponse:
        is_used = False
        wants = [(c.location_id, c.lines) for c in held.claims]

        async def work(transaction: Transaction) -> v1.ChangeReservationResponse:
            nonlocal is_used
            is_used = True
            if await transaction.connection.fetchval(VERSION) != held.policy_version:
                raise ClaimRefused
            await transaction.replace_claims(old.reservation_id, old.claims, held.claims)
            message = reservation_message(
                old.reservation_id, "active", old.channel, old.customer_id, old.deadline, wants, None
            )
            return v1.ChangeReservationResponse(reservation=message)

        try:
            response = await self._ledger.mutate(request, v1.ChangeReservationResponse, work)
        except Exception as error:
            if is_certain(error):
                await self._claims.give_back(held.claims)
            raise
        if not is_used:
            await self._claims.give_back(held.claims)
        return response

    # --------------------------------------------------------------------------------------------- extend, release
    async def extend(self, request: v1.ExtendReservationRequest) -> v1.ExtendReservationResponse:
        """Moves the deadline in the ledger; the gate's hint follows when the sweeper meets it."""
        reservation_id = parse_id("reservation_id", request.reservation_id)
        deadline = self._clock.now() + timedelta(seconds=request.ttl_seconds or TTL_SECONDS_DEFAULT)

        async def work(transaction: Transaction) -> v1.ExtendReservationResponse:
            await transaction.extend_reservation(reservation_id, deadline)
            rows = await transaction.connection.fetch(RESERVATION, reservation_id)
            return v1.ExtendReservationResponse(reservation=_standing(reservation_id, rows).message())

        return await self._ledger.mutate(request, v1.ExtendReservationResponse, work)

    async def release(self, request: v1.ReleaseReservationRequest) -> v1.ReleaseReservationResponse:
        """Gives back what a reservation holds."""
        reservation_id = parse_id("reservation_id", request.reservation_id)

        async def work(transaction: Transaction) -> v1.ReleaseReservationResponse:
            await transaction.release_reservation(reservation_id)
            rows = await transaction.connection.fetch(RESERVATION, reservation_id)
            return v1.ReleaseReservationResponse(reservation=_standing(reservation_id, rows).message())

        return await self._ledger.mutate(request, v1.ReleaseReservationResponse, work)


def wants_of(baskets: Sequence[v1.LocationBasket]) -> list[tuple[str, list[tuple[str, int]]]]:
    """The baskets by location, each sku once. Raises InvalidRequest for a location named twice or an absurd sum."""
    wants: dict[str, list[tuple[str, int]]] = {}
    for n, basket in enumerate(baskets):
        if basket.location_id in wants:
            raise invalid(f"baskets[{n}].location_id", f"{basket.location_id!r} is named twice")
        lines = sum_lines((line.sku, line.quantity) for line in basket.lines)
        for sku, quantity in lines:
            if quantity > MAX_QUANTITY:
                raise invalid(f"baskets[{n}].lines", f"{quantity} of {sku!r} in sum is more than {MAX_QUANTITY}")
        wants[basket.location_id] = lines
    return sorted(wants.items())


def _baskets(wants: Wants) -> Iterator[v1.LocationBasket]:
    for location_id, lines in wants:
        yield v1.LocationBasket(
            location_id=location_id, lines=[types_pb2.BasketLine(sku=s, quantity=q) for s, q in lines]
        )


def _standing(reservation_id: UUID, rows: Sequence[Any]) -> Standing:
    if not rows:
        raise ReservationNotFound(str(reservation_id))
    first = rows[0]
    return Standing(
        reservation_id,
        first["state"],
        first["channel"],
        first["customer_id"],
        first["deadline"],
        first["order_id"],
        first["pinned_for"],
        {r["location_id"]: r["claim_id"] for r in rows},
        [(r["location_id"], [(s, q) for s, q in r["lines"]]) for r in rows],
    )


def reservation_message(
    reservation_id: UUID,
    state: str,
    channel: str,
    customer_id: str,
    deadline: datetime,
    wants: Sequence[tuple[str, Sequence[tuple[str, int]]]],
    order_id: UUID | None,
) -> v1.Reservation:
    """A reservation for the wire."""
    return v1.Reservation(
        reservation_id=str(reservation_id),
        state=STATES[state],
        baskets=_baskets(wants),
        channel=channel_value(channel),
        customer_id=customer_id,
        expire_time=timestamp(deadline),
        order_id=str(order_id) if order_id else "",
    )


__all__ = ["Claim", "Reservations", "Standing", "wants_of"]
