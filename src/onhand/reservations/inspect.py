"""Proving that the gate differs from the ledger, while calls go on and without stopping any of them.

What the gate has of a sku, ATP and held claims together, changes by two things only: a numbered increase is applied, or a claim
is forgotten whose row the ledger closed for good (confirmed, consumed). Taking and giving back move units between the two. So
    ATP + claims held + increases not applied yet - claims held that the ledger closed for good = available
at every moment under one epoch, whatever is in flight, orphans included.

The gate is dumped between two snapshots of the ledger. Measured by the earlier one, claims that were closed and forgotten since
make the gate look poorer; by the later one, claims that were taken and closed since make the ledger look poorer, the gate
richer. What really differs lies between the two: above zero in the first, or below zero in the second, is proof. Where both
leave it open, on a sku that sells all the time, the ledger is asked for a moment in which nothing of the location commits.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from onhand import crash
from onhand.ledger.floors import FLOOR
from onhand.postgres import Connection, Database
from onhand.reservations.gate import Dump, Gate

LATE_SECONDS = 60
"""How long past its hint the gate may still hold a claim that the ledger closed: by then every sweeper has met it."""
SKUS_MAX = 2_000
"""Skus of one look: neither the gate nor an event loop is held up for longer than by a large call."""
ROWS_MAX = 1_000
"""Claims that are summed up before others get their turn of the event loop."""
LOOKS_MAX = 3
"""Looks at a sku that sells all the time before commits of its location wait for one more, some milliseconds."""

HEADER_FIELDS = 3
"""What the gate's hash of a location has besides skus."""

EPOCH = "SELECT epoch FROM location_epochs WHERE location_id = $1"
# Whoever commits to this location holds the row shared: this waits for them, and they wait for this.
NOBODY_COMMITS = "SELECT epoch FROM location_epochs WHERE location_id = $1 FOR UPDATE"
HEAD = """
SELECT e.epoch, coalesce(h.last_number, 0) AS last_number, (extract(epoch FROM clock_timestamp()) * 1000)::int8 AS now_ms
  FROM location_epochs e LEFT JOIN location_delta_heads h USING (location_id) WHERE e.location_id = $1"""
LEVELS = f"""
SELECT sku, available, {FLOOR.format("")} AS floor FROM stock_levels
 WHERE location_id = $1 AND ($2::text[] IS NULL OR sku = ANY ($2))"""
ACTIVE = "SELECT claim_id FROM claims WHERE location_id = $1 AND state = 'active'"
STATES = "SELECT claim_id, state, lines FROM claims WHERE location_id = $1 AND claim_id = ANY ($2)"
DELTAS = """
SELECT number, lines, (extract(epoch FROM created_time) * 1000)::int8 AS created_ms FROM gate_deltas
 WHERE location_id = $1 AND number > $2 AND number <= $3 ORDER BY number"""
COUNT = "SELECT count(*) FROM stock_levels WHERE location_id = $1"
PAGE = "SELECT sku FROM stock_levels WHERE location_id = $1 AND sku > $2 ORDER BY sku LIMIT $3"

CLOSED_FOR_GOOD = ("confirmed", "consumed")


@dataclass(frozen=True)
class Difference:
    """Something the gate has otherwise than the ledger: `offset` is gate minus ledger, in base units or claims."""

    location_id: str
    what: str  # atp | floor | claim | delta
    key: str
    offset: int


@dataclass(frozen=True)
class Look:
    """What one look proved. `unsure`: skus of which too much was sold meanwhile.

    `waiting`: claims without an active reservation that the gate holds until a sweeper meets them; their units are kept.
    """

    differences: list[Difference]
    unsure: list[str]
    waiting: int


@dataclass
class _Moment:
    """A location in one snapshot of the ledger."""

    connection: Connection
    location_id: str
    epoch: int = 0
    last_number: int = 0
    now_ms: int = 0
    levels: dict[str, tuple[int, int]] = field(default_factory=dict)
    active: set[UUID] = field(default_factory=set)
    closed: dict[UUID, Any] = field(default_factory=dict)

    async def begin(self) -> None:
        """Its first statement: what is committed later is not in it."""
        row = await self.connection.fetchrow(HEAD, self.location_id)
        if row is not None:
            self.epoch, self.last_number, self.now_ms = row["epoch"], row["last_number"], row["now_ms"]

    async def read(self, skus: Sequence[str] | None) -> None:
        """Levels and active claims."""
        rows = await self.connection.fetch(LEVELS, self.location_id, skus)
        self.levels = {r["sku"]: (r["available"], r["floor"]) for r in rows}
        self.active = {r["claim_id"] for r in await self.connection.fetch(ACTIVE, self.location_id)}

    async def ask(self, claim_ids: Iterable[UUID]) -> None:
        """What became of claims that are not active."""
        wanted = [c for c in claim_ids if c not in self.active]
        if wanted:
            rows = await self.connection.fetch(STATES, self.location_id, wanted)
            self.closed = {r["claim_id"]: r for r in rows}

    def has_taken(self, claim_id: UUID) -> bool:
        """Whether a claim's units left `available` for good."""
        row = self.closed.get(claim_id)
        return row is not None and row["state"] in CLOSED_FOR_GOOD


class Inspector:
    """Looks at locations."""

    def __init__(self, database: Database, gate: Gate) -> None:
        self._database = database
        self._gate = gate

    async def inspect(
        self, location_id: str, skus: Sequence[str] | None = None, *, relay_seconds: float
    ) -> Look | None:
        """Looks until all of it is proved, or found right. `skus`: only these; an increase may be on its way so long.

        None where the gate's data is not trusted, and so promises nothing. Raises Unreachable, LedgerUnavailable.
        """
        look = await self._look(location_id, skus, relay_seconds)
        for n in range(1, LOOKS_MAX + 1):
            if look is None or look.differences or not look.unsure:
                break
            waiting = look.waiting
            again = self._look if n < LOOKS_MAX else self._look_alone
            found = await again(location_id, look.unsure, relay_seconds)
            look = None if found is None else Look(found.differences, found.unsure, waiting)
        return look

    async def page(self, location_id: str, after: str) -> list[str] | None:
        """The next skus of a location that is too large for one look, [] after the last; None: look at the whole of it.

        That is also what is left to do where the gate has skus that the ledger has not.
        """
        rows = await self._page(location_id, after)
        if not after:
            return None if len(rows) < SKUS_MAX else rows
        if not rows and await self._gate.size(location_id) > await self._count(location_id) + HEADER_FIELDS:
            return None
        return rows

    @crash.step("ledger.page")
    async def _page(self, location_id: str, after: str) -> list[str]:
        async with self._database.connection() as connection:
            return [r["sku"] for r in await connection.fetch(PAGE, location_id, after, SKUS_MAX)]

    @crash.step("ledger.size")
    async def _count(self, location_id: str) -> int:
        async with self._database.connection() as connection:
            count: int = await connection.fetchval(COUNT, location_id)
        return count

    @crash.step("ledger.compare")
    async def _look(self, location_id: str, skus: Sequence[str] | None, relay_seconds: float) -> Look | None:
        async with self._snapshot(location_id) as before:
            await before.read(skus)
            dump = await self._gate.dump(location_id, skus)
            if dump is None or dump.epoch != before.epoch:
                return None
            await before.ask(dump.claims)
        async with self._snapshot(location_id) as after:
            if after.epoch != dump.epoch:
                return None
            await after.read(skus)
            return await _judge(dump, before, after, skus, relay_seconds)

    @crash.step("ledger.compare_alone")
    async def _look_alone(self, location_id: str, skus: Sequence[str] | None, relay_seconds: float) -> Look | None:
        """While nothing of the location commits, both snapshots are one, and every answer is exact."""
        async with AsyncExitStack() as stack:
            async with self._database.transaction() as holder:
                await holder.fetchval(NOBODY_COMMITS, location_id)
                moment = await stack.enter_async_context(self._snapshot(location_id))
                dump = await self._gate.dump(location_id, skus)
            if dump is None or dump.epoch != moment.epoch:
                return None
            await moment.read(skus)
            return await _judge(dump, moment, moment, skus, relay_seconds)

    @asynccontextmanager
    async def _snapshot(self, location_id: str) -> AsyncIterator[_Moment]:
        async with self._database.transaction(isolation="repeatable_read", readonly=True) as connection:
            moment = _Moment(connection, location_id)
            await moment.begin()
            yield moment


async def _judge(dump: Dump, before: _Moment, after: _Moment, skus: Sequence[str] | None, relay_seconds: float) -> Look:
    place = before.location_id
    missing = [c for c in before.active - dump.claims.keys() if c in after.active]
    await after.ask(dump.claims)
    lost = await after.connection.fetch(STATES, place, missing) if missing else []
    low = min(dump.delta, before.last_number)
    deltas = await after.connection.fetch(DELTAS, place, low, max(after.last_number, dump.delta))
    differences = [Difference(place, "claim", str(c), -1) for c in sorted(missing)]
    waiting = 0
    for claim_id in dump.claims.keys() - before.active - after.active:
        due_ms = dump.due_ms.get(claim_id)
        is_lost = due_ms is None or due_ms < after.now_ms - LATE_SECONDS * 1000
        differences += [Difference(place, "claim", str(claim_id), 1)] if is_lost else []
        waiting += not is_lost
    unapplied = [d for d in deltas if d["number"] > dump.delta]
    is_late = any(d["created_ms"] < after.now_ms - relay_seconds * 1000 for d in unapplied)
    if dump.delta > after.last_number or is_late:
        differences.append(Difference(place, "delta", "", dump.delta - after.last_number))

    scope = set(skus) if skus is not None else dump.atp.keys() | before.levels.keys() | after.levels.keys()
    held: Counter[str] = Counter()
    for n, lines in enumerate(dump.claims.values()):
        for sku, quantity in lines:
            held[sku] += quantity
        if n % ROWS_MAX == 0:
            await asyncio.sleep(0)
    offered: Counter[str] = Counter()  # units that lost claims should hold
    for row in lost:
        offered.update({sku: quantity for sku, quantity in row["lines"]})
    floors_pending = {sku for d in unapplied for sku, _, floor in d["lines"] if floor is not None}
    least, most = _offsets(dump, before, deltas, held), _offsets(dump, after, deltas, held)
    unsure = []
    for sku in sorted(scope):
        low_offset, high_offset = least(sku) + offered[sku], most(sku) + offered[sku]
        if low_offset > 0 or high_offset < 0:
            differences.append(Difference(place, "atp", sku, low_offset if low_offset > 0 else high_offset))
        elif low_offset != high_offset:
            unsure.append(sku)
        floor = after.levels.get(sku, (0, 0))[1]
        if sku not in floors_pending and dump.floors.get(sku, 0) != floor:
            differences.append(Difference(place, "floor", sku, dump.floors.get(sku, 0) - floor))
    return Look(differences, unsure, waiting)


def _offsets(dump: Dump, moment: _Moment, deltas: Sequence[Any], held: Counter[str]) -> Any:
    """A function of the sku: what the gate has more than the ledger had at a moment, as far as is known."""
    explained: Counter[str] = Counter()
    for delta in deltas:
        is_applied, is_known = delta["number"] <= dump.delta, delta["number"] <= moment.last_number
        if is_applied != is_known:
            for sku, quantity, _ in delta["lines"]:
                explained[sku] += quantity if is_known else -quantity
    for claim_id, lines in dump.claims.items():
        if moment.has_taken(claim_id):
            explained.subtract(dict(lines))

    def offset(sku: str) -> int:
        return dump.atp.get(sku, 0) + held[sku] + explained[sku] - moment.levels.get(sku, (0, 0))[0]

    return offset
