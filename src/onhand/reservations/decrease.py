"""What takes units away: a sale, a count down, damage, a transfer out. Claim first, then the commit consumes the claim."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import timedelta
from typing import NoReturn, TypeVar

from onhand.clock import LedgerClock, milliseconds
from onhand.domain.errors import GateUnavailable, InsufficientStock, LocationNotFound, Short
from onhand.domain.stock import Position
from onhand.ledger.claims import ClaimRefused
from onhand.ledger.mutation import Answer, Ledger, Mutation, is_certain
from onhand.ledger.transaction import Transaction, refuse_unknown
from onhand.reservations.claims import HINT_SECONDS, Claims, GateShort, Held, Wants
from onhand.reservations.rebuild import Rebuilder
from onhand.reservations.sweep import Sweeper
from onhand.telemetry import BYPASSES

log = logging.getLogger(__name__)

CLAIM_ATTEMPTS_MAX = 4
"""How often a decrease claims anew after the ledger refused its claim."""

# What the active reservations leave of each position.
UNPROMISED = """
SELECT p.sku, coalesce(s.available, 0) - coalesce((
           SELECT sum((line ->> 1)::int8)::int8 FROM claims c, jsonb_array_elements(c.lines) AS line
            WHERE c.location_id = $1 AND c.state = 'active' AND line ->> 0 = p.sku), 0) AS unpromised
  FROM unnest($2::text[]) AS p (sku) LEFT JOIN stock_levels s ON s.location_id = $1 AND s.sku = p.sku"""

Overdrawn = dict[Position, int]
Done = TypeVar("Done")
Work = Callable[[Transaction, Overdrawn], Awaitable[Answer]]


class Decreases:
    """Books decreases: facts, which are never refused for stock reasons, and decisions, which must pass ATP."""

    def __init__(
        self, ledger: Ledger, claims: Claims, sweeper: Sweeper, rebuilder: Rebuilder, clock: LedgerClock
    ) -> None:
        self._ledger = ledger
        self._claims = claims
        self._sweeper = sweeper
        self._rebuilder = rebuilder
        self._clock = clock

    async def fact(
        self,
        request: Mutation,
        response_type: type[Answer],
        takes: Wants | Callable[[], Awaitable[Wants]],
        work: Work[Answer],
        held: Held | None = None,
        *,
        is_reached: bool = True,
        hold: Callable[[Transaction], Awaitable[None]] | None = None,
    ) -> Answer:
        """Books what has happened in the world already. Goes on when the gate is down (a bypass).

        `held` is what was claimed for it already, if it was, and `is_reached` whether the gate answered then: another claim
        beside one that is held, or may be, would count it twice.

        `work` may raise ClaimRefused where what it finds differs from `takes`; these are then asked for anew. In a bypass
        it runs without claims, and must take what it finds. `hold` is as for a decision.
        """
        for _ in range(CLAIM_ATTEMPTS_MAX if is_reached else 0):
            wants = await takes() if callable(takes) else takes
            if held is None:
                try:
                    held = await self._take(wants, is_fact=True)
                except LocationNotFound as error:
                    return await self._first_answer(request, response_type, error)
                except GateUnavailable as error:
                    log.warning("%s goes past the gate: %s", type(request).__name__, error)
                    break
            try:
                return await self._commit(request, response_type, held, work, hold)
            except ClaimRefused:
                await self._mend(held)
                held = None
        wants = await takes() if callable(takes) else takes
        return await self._bypass(request, response_type, wants, work, hold)

    async def decision(
        self,
        request: Mutation,
        response_type: type[Answer],
        takes: Wants | Callable[[], Awaitable[Wants]],
        work: Work[Answer],
        hold: Callable[[Transaction], Awaitable[None]] | None = None,
    ) -> Answer:
        """Books what somebody decided. Raises InsufficientStock where ATP does not allow it, GateUnavailable.

        `hold` locks what the decision is about (an order), which comes before claims in the order of locking. `work` may raise
        ClaimRefused as that of a fact may.
        """

        async def commit(held: Held) -> Answer:
            return await self._commit(request, response_type, held, work, hold)

        async def first() -> Answer | None:
            return await self._ledger.find_answer(request, response_type)

        return await self.decide(takes, commit, first)

    async def decide(
        self,
        takes: Wants | Callable[[], Awaitable[Wants]],
        commit: Callable[[Held], Awaitable[Done]],
        first: Callable[[], Awaitable[Done | None]],
    ) -> Done:
        """Claims what a decision takes, and has it committed; once more where `commit` raises ClaimRefused.

        `commit` gives back what it certainly did not use. `first`: what came of an attempt before, which may hold what is short.
        """
        is_swept = False
        for _ in range(CLAIM_ATTEMPTS_MAX):
            wants = await takes() if callable(takes) else takes
            try:
                held = await self._take(wants, is_fact=False)
            except LocationNotFound:
                if (done := await first()) is None:
                    raise
                return done
            except GateShort as short:
                if (done := await first()) is not None:
                    return done
                if not is_swept and await self._close_due(short):
                    is_swept = True
                    continue
                if await self._claims.was_outdated(short):
                    continue
                await self._refuse(short.shorts)
            try:
                return await commit(held)
            except ClaimRefused:
                await self._mend(held)
        raise GateUnavailable("its epoch moved on again and again")

    async def take_facts(self, wants: Sequence[Wants]) -> list[Held | None]:
        """Claims facts for a round, each whole; None where one was not to be had at once. Raises GateUnavailable."""
        due_ms = milliseconds(self._clock.now()) + HINT_SECONDS * 1000
        return await self._claims.take_together([(each, due_ms, None) for each in wants], is_fact=True)

    async def give_back(self, held: Iterable[Held]) -> None:
        """Returns claims of facts that certainly were not booked under them."""
        await self._claims.give_back([claim for each in held for claim in each.claims])

    async def _take(self, wants: Wants, *, is_fact: bool) -> Held:
        wants = [(location_id, lines) for location_id, lines in wants if lines]
        if not wants:
            return Held([], {})
        due = self._clock.now() + timedelta(seconds=HINT_SECONDS)
        return await self._claims.take(wants, due=due, channel=None, is_fact=is_fact)

    async def _first_answer(self, request: Mutation, response_type: type[Answer], error: LocationNotFound) -> Answer:
        """The answer of a request that had its effect while its location was there; else raises the error."""
        first = await self._ledger.find_answer(request, response_type)
        if first is None:
            raise error
        return first

    async def _refuse(self, shorts: Sequence[Short]) -> NoReturn:
        """Raises LocationNotFound or SkuNotFound where the gate is short of what does not exist, else InsufficientStock."""
        async with self._ledger.read() as connection:
            await refuse_unknown(connection, [(s.location_id, s.sku) for s in shorts])
        raise InsufficientStock(tuple(shorts))

    async def _close_due(self, short: GateShort) -> bool:
        return await self._sweeper.close_due((s.location_id for s in short.shorts), short.asked)

    async def _commit(
        self,
        request: Mutation,
        response_type: type[Answer],
        held: Held,
        work: Work[Answer],
        hold: Callable[[Transaction], Awaitable[None]] | None = None,
    ) -> Answer:
        is_used = False

        async def run(transaction: Transaction) -> Answer:
            nonlocal is_used
            is_used = True
            if hold is not None:
                await hold(transaction)
            if held.claims:
                await transaction.consume(held.claims)
            return await work(transaction, held.overdrawn)

        try:
            response = await self._ledger.mutate(request, response_type, run)
        except Exception as error:
            if is_certain(error):
                await self._claims.give_back(held.claims)
            raise  # else the outcome is unknown: the claim is left to the sweeper
        if not is_used:  # a repeat: its first attempt has its own claim
            await self._claims.give_back(held.claims)
        return response

    async def _mend(self, held: Held) -> None:
        """After a claim was refused: a gate whose epoch is not the ledger's is rebuilt before claiming anew."""
        try:
            await self._claims.mend(held.claims)
        except GateUnavailable as error:
            log.warning("%s", error)

    async def _bypass(
        self,
        request: Mutation,
        response_type: type[Answer],
        wants: Wants,
        work: Work[Answer],
        hold: Callable[[Transaction], Awaitable[None]] | None,
    ) -> Answer:
        locations = [location_id for location_id, _ in wants]

        async def run(transaction: Transaction) -> Answer:
            if hold is not None:
                await hold(transaction)
            await transaction.bypass(locations)
            return await work(transaction, await _overdrawn(transaction, wants))

        response = await self._ledger.mutate(request, response_type, run)
        BYPASSES.inc()
        for location_id in locations:
            self._rebuilder.request(location_id)
        return response


async def _overdrawn(transaction: Transaction, wants: Wants) -> Overdrawn:
    """What lines take from promises, by the ledger alone: no gate was asked."""
    overdrawn: Overdrawn = {}
    for location_id, lines in wants:
        quantity: dict[str, int] = dict(lines)
        rows = await transaction.connection.fetch(UNPROMISED, location_id, list(quantity))
        for row in rows:
            beyond = quantity[row["sku"]] - max(0, row["unpromised"])
            if beyond > 0:
                overdrawn[location_id, row["sku"]] = beyond
    return overdrawn
