"""The plan as every use case asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import NamedTuple

from onhand.clock import LedgerClock
from onhand.domain.order import FulfillmentKind
from onhand.domain.sourcing import Plan, Policy, Ranked, rank, source
from onhand.domain.stock import sum_lines
from onhand.ledger.mutation import Ledger
from onhand.reservations.availability import Availability
from onhand.sourcing.candidates import read_candidates


class Sourced(NamedTuple):
    """A plan, and whether the figures of stock that it was made from may be old."""

    plan: Plan
    is_stale: bool


class Sourcing:
    """Plans who fulfils what, by one policy."""

    def __init__(self, ledger: Ledger, availability: Availability, clock: LedgerClock, policy: Policy) -> None:
        self._ledger = ledger
        self._availability = availability
        self._clock = clock
        self.policy = policy
        # One plan after the other, beside the event loop: a plan takes tens of milliseconds, and calls must not wait for it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sourcing")

    async def plan(
        self,
        lines: Sequence[tuple[str, int]],
        *,
        method: FulfillmentKind,
        channel: str,
        position: tuple[float, float] | None = None,
        only: Collection[str] = (),
        excluded: Collection[str] = (),
        assumed_time: datetime | None = None,
        is_of_one: bool = False,
    ) -> Sourced:
        """Who would fulfil (sku, quantity) lines now. Reads, and holds nothing: not to be called within a mutation.

        `position`: (latitude, longitude) of the customer. `only`: these locations and no others. `excluded`: none of these, as
        those that rejected the work. `is_of_one`: one location brings all of it, or nobody does.

        Raises SkuNotFound, LocationNotFound (of `only`), LedgerUnavailable.
        """
        now = self._clock.now()
        found = await read_candidates(
            self._ledger,
            self._availability,
            sum_lines(lines),
            channel=channel,
            position=position,
            only=only,
            now=now,
        )
        policy = self.policy.of_one() if is_of_one else self.policy
        work = partial(
            source, found.lines, found.places, policy, method=method, now=assumed_time or now, excluded=excluded
        )
        plan = await asyncio.get_running_loop().run_in_executor(self._thread, work)
        return Sourced(plan, found.is_stale)

    async def rank(
        self,
        line: tuple[str, int],
        *,
        method: FulfillmentKind,
        channel: str,
        position: tuple[float, float] | None,
        excluded: Collection[str],
    ) -> list[Ranked]:
        """Who could bring (sku, quantity) whole, in the order in which `plan` with `is_of_one` would choose; then the rest.

        Reads, and holds nothing. Raises SkuNotFound, LedgerUnavailable.
        """
        now = self._clock.now()
        found = await read_candidates(
            self._ledger, self._availability, [line], channel=channel, position=position, only=(), now=now
        )
        work = partial(rank, found.lines[0], found.places, self.policy, method=method, now=now, excluded=excluded)
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
