"""A reservation whose answer says more than a reservation: made alone, with what its caller writes beside it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from uuid import UUID

from onhand.clock import LedgerClock
from onhand.domain.errors import GateUnavailable, InsufficientStock
from onhand.ids import new_id
from onhand.ledger.claims import ClaimRefused
from onhand.ledger.mutation import Answer, Ledger, Mutation, is_certain
from onhand.ledger.transaction import Transaction
from onhand.reservations.claims import HINT_SECONDS, Claims, GateShort, Held, Wants
from onhand.reservations.policy import VERSION, Policy
from onhand.reservations.reserve import RESERVE_ATTEMPTS_MAX, TTL_SECONDS_DEFAULT, reservation_message
from onhand.reservations.sweep import Sweeper
from onhand.v1 import inventory_pb2 as v1

Beside = Callable[[Transaction, UUID, v1.Reservation], Awaitable[Answer]]
"""Writes what belongs to a reservation in the transaction that makes it, and says what its request is answered."""


class Holding:
    """Reserves as `Reservations` does: gate first, then the ledger, in a mutation of its own."""

    def __init__(self, ledger: Ledger, claims: Claims, sweeper: Sweeper, policy: Policy, clock: LedgerClock) -> None:
        self._ledger = ledger
        self._claims = claims
        self._sweeper = sweeper
        self._policy = policy
        self._clock = clock

    async def hold(
        self,
        request: Mutation,
        response_type: type[Answer],
        wants: Wants,
        beside: Beside[Answer],
        *,
        channel: str,
        customer_id: str,
        ttl_seconds: int,
    ) -> Answer:
        """Holds baskets, a location once, or nothing; once for the request, whatever its repeats would hold.

        Raises InsufficientStock, LocationNotFound, GateUnavailable.
        """
        is_swept = False
        for _ in range(RESERVE_ATTEMPTS_MAX):
            now = self._clock.now()
            deadline = now + timedelta(seconds=ttl_seconds or TTL_SECONDS_DEFAULT)
            hint = min(deadline, now + timedelta(seconds=HINT_SECONDS))
            try:
                held = await self._claims.take(wants, due=hint, channel=channel)
            except GateShort as short:
                if not is_swept and await self._sweeper.close_due((s.location_id for s in short.shorts), short.asked):
                    is_swept = True
                    continue
                if await self._claims.was_outdated(short):
                    continue
                raise InsufficientStock(short.shorts) from short
            try:
                return await self._journal(request, response_type, held, beside, customer_id, deadline)
            except ClaimRefused:
                await self._claims.mend(held.claims)
                await self._policy.catch_up()
        raise GateUnavailable("its epoch moved on again and again")

    async def _journal(
        self,
        request: Mutation,
        response_type: type[Answer],
        held: Held,
        beside: Beside[Answer],
        customer_id: str,
        deadline: datetime,
    ) -> Answer:
        """Makes claims a reservation; gives them back where they certainly are none. Raises ClaimRefused."""
        is_used = False
        reservation_id, channel = new_id(), held.claims[0].channel or ""
        wants = [(c.location_id, c.lines) for c in held.claims]
        message = reservation_message(reservation_id, "active", channel, customer_id, deadline, wants, None)

        async def work(tx: Transaction) -> Answer:
            nonlocal is_used
            is_used = True
            if await tx.connection.fetchval(VERSION) != held.policy_version:
                raise ClaimRefused
            await tx.open_reservation(reservation_id, held.claims, customer_id, deadline)
            return await beside(tx, reservation_id, message)

        try:
            answer = await self._ledger.mutate(request, response_type, work)
        except Exception as error:
            if is_certain(error):
                await self._claims.give_back(held.claims)
            raise  # else the outcome is unknown: the claims are left to the sweeper
        if not is_used:  # a repeat: its first attempt has its own claims
            await self._claims.give_back(held.claims)
        return answer
