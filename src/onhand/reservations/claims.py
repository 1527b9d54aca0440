"""Claiming units in the gate: whatever takes from ATP comes through here, under a claim id that is new for each attempt."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from onhand.clock import milliseconds
from onhand.domain.errors import GateUnavailable, Short
from onhand.domain.stock import Position
from onhand.ids import new_id
from onhand.ledger.claims import Claim
from onhand.redis import Unreachable
from onhand.reservations.combiner import Combiner
from onhand.reservations.gate import Drop, Gate, NoClaim, Refused, Reminder, Take, Taken, TakeResult, Untrusted
from onhand.reservations.policy import Policy, is_online
from onhand.reservations.rebuild import Rebuilder
from onhand.reservations.relay import Relay, unavailable

HINT_SECONDS = 10
"""How long after a take the sweeper looks at its claim: by then it has a row, or its caller was answered that nothing is known.

Longer than a statement may take (onhand.postgres), for a commit that comes later is refused and has to claim anew.
"""
TAKES_MAX = 200
"""Claims in one script call."""
TAKE_ATTEMPTS_MAX = 4
"""How often a take meets an untrusted gate, and has it rebuilt, before it is given up."""

Lines = Sequence[tuple[str, int]]
Wants = Sequence[tuple[str, Lines]]
"""(location_id, lines); a location once, a sku once in it."""

Basket = tuple[Wants, int, str | None]
"""What one reservation is to hold; milliseconds since 1970 of its claims' hint; its channel, None for what is no reservation."""


class GateShort(Exception):
    """The gate refuses lines for lack of stock; nothing is held. It was asked at `asked` (monotonic).

    `epochs` are of the data that refused, by location.
    """

    def __init__(self, shorts: Sequence[Short], epochs: Mapping[str, int], policy_version: int, asked: float) -> None:
        super().__init__(shorts)
        self.shorts = tuple(shorts)
        self.epochs = epochs
        self.policy_version = policy_version
        self.asked = asked


class ClaimGone(Exception):
    """The claim that was to be changed is not held any more; nothing is held anew."""


@dataclass(frozen=True)
class Held:
    """Claims that the gate holds, all of a basket; `overdrawn` is what facts took below zero.

    `policy_version` is of the thresholds that they were taken by: the process may have learnt of newer ones since.
    """

    claims: list[Claim]
    overdrawn: dict[Position, int]
    policy_version: int = 0


class Claims:
    """Takes baskets in the gate, all their locations or none; combines what is asked at the same time."""

    def __init__(self, gate: Gate, rebuilder: Rebuilder, relay: Relay, policy: Policy) -> None:
        self._gate = gate
        self._rebuilder = rebuilder
        self._relay = relay
        self._policy = policy
        self._takes: Combiner[Take, TakeResult] = Combiner("takes", self._take_round, round_items_max=TAKES_MAX)

    async def _take_round(self, takes: Sequence[Take]) -> Sequence[TakeResult]:
        return await self._gate.take(takes)

    async def take(
        self,
        wants: Wants,
        *,
        due: datetime,
        channel: str | None,
        is_fact: bool = False,
        frees: Mapping[str, UUID] | None = None,
    ) -> Held:
        """Takes every line of every location. Raises GateShort, ClaimGone, GateUnavailable, LocationNotFound."""
        for _ in range(TAKE_ATTEMPTS_MAX):
            version, asked = self._policy.version, time.monotonic()
            takes = [self._take(location_id, lines, due, channel, is_fact, frees or {}) for location_id, lines in wants]
            results = await asyncio.gather(*(self._takes.submit(t) for t in takes), return_exceptions=True)
            held = self._held(takes, results, channel, version)
            if len(held.claims) == len(takes):
                return held
            await self.give_back(held.claims)
            await self._mend(takes, results, version, asked)
        raise GateUnavailable("its data was replaced again and again")

    async def take_together(
        self, baskets: Sequence[Basket], reminders: Sequence[Reminder] = (), *, is_fact: bool = False
    ) -> list[Held | None]:
        """Takes baskets in one script call, each whole; None where one was not to be had at once, and nothing of it is held.

        `reminders` are of other claims, and go along.

        Raises GateUnavailable, after which what was taken is left to the sweeper.
        """
        version, threshold = self._policy.version, self._policy.threshold
        takes: list[Take] = []
        for wants, due_ms, channel in baskets:
            online = channel is not None and is_online(channel) and not is_fact
            for location_id, lines in wants:
                kept = [(sku, n, threshold(channel, sku) if online and channel else 0) for sku, n in lines]
                takes.append(Take(location_id, new_id(), due_ms, kept, is_fact, online))
        try:
            results = await self._gate.take(takes, reminders)
        except Unreachable as error:
            raise unavailable(error) from error
        held: list[Held | None] = []
        useless: list[Claim] = []
        at = 0
        for wants, _, channel in baskets:
            claims = []
            overdrawn: dict[Position, int] = {}
            for location_id, lines in wants:
                result = results[at]
                if isinstance(result, Taken):
                    claims.append(Claim(location_id, takes[at].claim_id, result.epoch, [*lines], channel))
                    overdrawn.update({(location_id, sku): n for sku, n in result.overdrawn.items()})
                at += 1
            if len(claims) == len(wants):
                held.append(Held(claims, overdrawn, version))
            else:
                useless += claims
                held.append(None)
        await self.give_back(useless)
        return held

    def _take(
        self,
        location_id: str,
        lines: Lines,
        due: datetime,
        channel: str | None,
        is_fact: bool,
        frees: Mapping[str, UUID],
    ) -> Take:
        is_kept_from = channel is not None and is_online(channel) and not is_fact
        threshold = self._policy.threshold
        return Take(
            location_id,
            new_id(),
            milliseconds(due),
            [(sku, quantity, threshold(channel, sku) if is_kept_from and channel else 0) for sku, quantity in lines],
            is_fact,
            is_kept_from,
            frees.get(location_id),
        )

    @staticmethod
    def _held(
        takes: Sequence[Take], results: Sequence[TakeResult | BaseException], channel: str | None, policy_version: int
    ) -> Held:
        held = Held([], {}, policy_version)
        for take, result in zip(takes, results, strict=True):
            if isinstance(result, Taken):
                lines = [(sku, quantity) for sku, quantity, _ in take.lines]
                held.claims.append(Claim(take.location_id, take.claim_id, result.epoch, lines, channel))
                held.overdrawn.update({(take.location_id, sku): n for sku, n in result.overdrawn.items()})
        return held

    async def _mend(
        self,
        takes: Sequence[Take],
        results: Sequence[TakeResult | BaseException],
        policy_version: int,
        asked: float,
    ) -> None:
        shorts: list[Short] = []
        epochs: dict[str, int] = {}
        for take, result in zip(takes, results, strict=True):
            if isinstance(result, Unreachable):
                raise unavailable(result)
            if isinstance(result, BaseException):
                raise result
            if isinstance(result, Refused):
                epochs[take.location_id] = result.epoch
                shorts += [
                    Short(take.location_id, sku, quantity, result.available[sku])
                    for sku, quantity, _ in take.lines
                    if sku in result.available
                ]
            if isinstance(result, NoClaim):
                raise ClaimGone
        untrusted = [t.location_id for t, r in zip(takes, results, strict=True) if isinstance(r, Untrusted)]
        if untrusted:
            await asyncio.gather(*(self._rebuilder.rebuild(location_id) for location_id in untrusted))
        elif shorts:
            raise GateShort(shorts, epochs, policy_version, asked)

    async def was_outdated(self, short: GateShort) -> bool:
        """Whether a refusal came from data that the ledger does not trust any more; it is rebuilt then, so ask again.

        A location's epoch is raised where an increase did not reach the gate: the old data knows nothing of it.
        """
        # By the epoch of the data that refused, for others may have had the location rebuilt since.
        outdated = [
            location_id
            for location_id, epoch in sorted(short.epochs.items())
            if not await self._rebuilder.is_current(location_id, epoch)
        ]
        await asyncio.gather(*(self._rebuilder.rebuild(location_id) for location_id in outdated))
        return bool(outdated)

    async def give_back(self, claims: Sequence[Claim]) -> None:
        """Returns claims that the ledger refused for certain, or never saw. What a gate that is down misses, the sweeper does."""
        if claims:
            await self._relay.drop([Drop(c.location_id, c.claim_id, give_back=True) for c in claims])

    async def mend(self, claims: Sequence[Claim]) -> None:
        """Has locations rebuilt whose epoch is not the ledger's; leaves the others alone."""
        await asyncio.gather(*(self._rebuilder.rebuild(location_id) for location_id in {c.location_id for c in claims}))
