"""Closing what ran past its deadline: reservations that expire, and claims in the gate that have no row (orphans)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from onhand.clock import LedgerClock, milliseconds
from onhand.crash import step
from onhand.deadline import shared_context
from onhand.postgres import Database
from onhand.redis import Unreachable
from onhand.reservations import gate
from onhand.reservations.gate import Drop, Gate, Header
from onhand.reservations.rebuild import Rebuilder
from onhand.reservations.relay import Relay, unavailable
from onhand.telemetry import EXPIRED, LOOP_ERRORS, ORPHANS_CLOSED

log = logging.getLogger(__name__)

EXPIRED_MAX = 500
"""Reservations that are expired by one statement."""
PAGES_MAX = 10
"""Pages of claims past their hint that one look takes from a location: 1,000 claims, most of them reservations to look at later."""
PATROL_LOCATIONS_MAX = 200
"""Locations whose gate is looked at by one pipeline."""

EXPIRE = """
WITH due AS (
    SELECT location_id, claim_id FROM claims
     WHERE state = 'active' AND deadline <= now() AND ($2::text IS NULL OR location_id = $2)
     ORDER BY deadline LIMIT $1 FOR UPDATE SKIP LOCKED)
UPDATE claims c SET state = 'expired', closed_time = now() FROM due
 WHERE c.location_id = due.location_id AND c.claim_id = due.claim_id RETURNING c.location_id, c.claim_id"""
ROWS = """
SELECT location_id, claim_id, state, deadline <= now() AS is_due, (extract(epoch FROM deadline) * 1000)::int8 AS due_ms
  FROM claims JOIN unnest($1::text[], $2::uuid[]) AS c (location_id, claim_id) USING (location_id, claim_id)"""
# A row closes an orphan for good: an insert of its claim that is still on its way meets it and is refused.
CLOSE_ORPHANS = """
INSERT INTO claims (location_id, claim_id, state, lines, deadline, closed_time)
SELECT location_id, claim_id, 'expired', '[]', now(), now()
  FROM unnest($1::text[], $2::uuid[]) AS c (location_id, claim_id) ORDER BY 1, 2
ON CONFLICT DO NOTHING RETURNING location_id, claim_id"""
HEADS = """
SELECT l.location_id, h.last_number FROM locations l JOIN location_delta_heads h USING (location_id)
 WHERE l.deleted_time IS NULL AND l.location_id > $1 ORDER BY l.location_id LIMIT $2"""


class Sweeper:
    """Finds what crashes and time left behind; any number may run at once."""

    def __init__(self, database: Database, gate: Gate, relay: Relay, rebuilder: Rebuilder, clock: LedgerClock) -> None:
        self._database = database
        self._gate = gate
        self._relay = relay
        self._rebuilder = rebuilder
        self._clock = clock
        self._closing: dict[str, asyncio.Task[None]] = {}
        self._freed: dict[str, float] = {}
        self._patrolled = ""

    async def expire(self, location_id: str | None = None) -> int:
        """Expires reservations past the ledger's deadline and gives their units back. Returns how many."""
        drops = await self._expire(location_id)
        if drops:
            EXPIRED.inc(len(drops))
            await self._drop(drops)
        return len(drops)

    @step("ledger.expire", model=("expire",))
    async def _expire(self, location_id: str | None) -> list[Drop]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(EXPIRE, EXPIRED_MAX, location_id)
        return [Drop(r["location_id"], r["claim_id"], give_back=True) for r in rows]

    async def close_due(self, location_ids: Iterable[str], asked: float) -> bool:
        """Expires and closes what is due at locations. Whether anything was given back there since `asked` (monotonic).

        Raises GateUnavailable, LedgerUnavailable.
        """
        wanted = sorted(set(location_ids))
        for location_id in wanted:
            await self._look(location_id)
        return any(self._freed.get(location_id, 0.0) >= asked for location_id in wanted)

    async def _look(self, location_id: str) -> None:
        """Closes what is due at a location; callers at the same time share one look."""
        task = self._closing.get(location_id)
        if task is None:
            task = asyncio.create_task(
                self._close_due(location_id), name=f"closing what is due at {location_id}", context=shared_context()
            )
            self._closing[location_id] = task
            task.add_done_callback(lambda t: self._closed(location_id, t))
        try:
            await asyncio.shield(task)
        except Unreachable as error:
            raise unavailable(error) from error

    def _closed(self, location_id: str, task: asyncio.Task[None]) -> None:
        del self._closing[location_id]
        if not task.cancelled():
            task.exception()  # whoever waits gets it, if anyone still does

    async def _close_due(self, location_id: str) -> None:
        await self.expire(location_id)
        await self._close_pages([location_id])

    async def _drop(self, drops: Sequence[Drop]) -> None:
        await self._relay.drop(drops)
        now = time.monotonic()
        self._freed.update({d.location_id: now for d in drops if d.give_back})

    async def patrol(self) -> bool:
        """Looks at the gate of the next locations: orphans, and increases that were not relayed. True at the last ones."""
        rows = await self._heads(self._patrolled)
        self._patrolled = rows[-1]["location_id"] if len(rows) == PATROL_LOCATIONS_MAX else ""
        if rows:
            headers = await self._close_pages([r["location_id"] for r in rows])
            for row, header in zip(rows, headers, strict=True):
                if header.epoch and header.delta < row["last_number"]:
                    await self._relay.catch_up(row["location_id"], row["last_number"], header.epoch)
        return self._patrolled == ""

    async def _close_pages(self, location_ids: Sequence[str]) -> list[Header]:
        """Ends claims past their hint at locations, PAGES_MAX pages of each. Returns the locations' headers."""
        found = await self._gate.patrol(location_ids, milliseconds(self._clock.now()))
        headers = [header for header, _ in found]
        for page in range(1, PAGES_MAX + 1):
            await self._close([(place, c) for place, (_, due) in zip(location_ids, found, strict=True) for c in due])
            location_ids = [
                place for place, (_, due) in zip(location_ids, found, strict=True) if len(due) >= gate.DUE_PAGE
            ]
            if not location_ids or page == PAGES_MAX:
                break
            found = await self._gate.patrol(location_ids, milliseconds(self._clock.now()))
        return headers

    async def _close(self, due: Sequence[tuple[str, UUID]]) -> None:
        """Ends claims past their hint as their rows say; those without a row are closed in the ledger first."""
        if not due:
            return
        known = await self._rows(due)
        orphans = [d for d in due if d not in known]
        closed = await self._tombstone(orphans) if orphans else []
        drops = [Drop(*orphan, give_back=True) for orphan in closed]
        reminders: list[tuple[str, UUID, int]] = []
        for (location_id, claim_id), row in known.items():
            if row["state"] == "active":
                if not row["is_due"]:  # it was extended
                    reminders.append((location_id, claim_id, row["due_ms"]))
            else:
                drops.append(Drop(location_id, claim_id, give_back=row["state"] in ("released", "expired")))
        if closed:
            ORPHANS_CLOSED.inc(len(closed))
            log.info("%d orphaned claim(s) closed", len(closed))
        if reminders:
            await self._gate.remind(reminders)
        await self._drop(drops)

    @step("ledger.heads")
    async def _heads(self, after: str) -> list[Any]:
        """The next locations with the number of their last increase."""
        async with self._database.connection() as connection:
            return await connection.fetch(HEADS, after, PATROL_LOCATIONS_MAX)

    @step("ledger.rows")
    async def _rows(self, claims: Sequence[tuple[str, UUID]]) -> dict[tuple[str, UUID], Any]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(ROWS, [c[0] for c in claims], [c[1] for c in claims])
        return {(r["location_id"], r["claim_id"]): r for r in rows}

    @step("ledger.tombstone", model=("tombstone",))
    async def _tombstone(self, orphans: Sequence[tuple[str, UUID]]) -> list[tuple[str, UUID]]:
        """Those that are closed by it; the others got their row meanwhile."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(CLOSE_ORPHANS, [o[0] for o in orphans], [o[1] for o in orphans])
        return [(r["location_id"], r["claim_id"]) for r in rows]


async def repeat(what: str, step: object, pause_seconds: float, error_pause_seconds: float = 2.0) -> None:
    """Runs `step` for ever, `pause_seconds` apart; an error is logged and tried again after a longer pause."""
    assert callable(step)
    while True:
        try:
            await step()
            await asyncio.sleep(pause_seconds)
        except asyncio.CancelledError:
            raise
        except (Unreachable, Exception) as error:
            log.warning("%s: %s: %s", what, type(error).__name__, error)
            LOOP_ERRORS.labels(what).inc()
            await asyncio.sleep(error_pause_seconds)
