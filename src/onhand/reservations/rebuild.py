"""Rebuilding the gate's data of a location from the ledger, while everything goes on.

Order matters (model: "snapshot begins before the raise commits"): note the gate's run, raise the ledger's epoch, commit; only
then begin the snapshot. Every claim journalled under the old epoch is in it, and none can follow.

The location is closed from the raise to the published load. So rows come from a cursor as text that the gate takes as it is,
the next part is read while the gate takes the last one, and no step holds the event loop, or the gate, for long. Whoever meets
a load of another process that is getting on waits for it: a raise of their own would make it worthless.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar

from onhand.crash import step
from onhand.deadline import patience, seconds_left, shared_context
from onhand.domain.errors import GateUnavailable, LocationNotFound
from onhand.ledger.floors import FLOOR
from onhand.postgres import Connection, Database
from onhand.redis import Unreachable
from onhand.reservations.gate import Gate, Header, LoadPart
from onhand.telemetry import CLOSED_SECONDS, REBUILDS

log = logging.getLogger(__name__)

First = TypeVar("First")
Second = TypeVar("Second")

PART_ROWS_MAX = 2_000
"""Stock rows or claims in one part of a load."""
REBUILD_ATTEMPTS_MAX = 5
"""How often a rebuilder tries again after it met a younger load, another run or no gate."""
BACK_OFF_SECONDS = 0.02
"""The first pause between two attempts; doubled each time, so that rebuilders do not chase each other."""
REBUILDS_AT_ONCE_MAX = 4
"""Locations that one process rebuilds at the same time."""
WAIT_SECONDS_MAX = 5.0
"""How long a call waits for a rebuild at most, if its deadline is not sooner."""
LOOK_SECONDS = 0.02
"""How often it is looked how far a load of another process has got."""
STALL_SECONDS = 2.0
"""How long another process may take over one part before it is taken for dead: a part takes a few milliseconds."""

EPOCH = "SELECT epoch FROM location_epochs WHERE location_id = $1"
# Above the gate's own epoch too, should the ledger have been set back.
RAISE = """
UPDATE location_epochs e SET epoch = greatest(e.epoch, $2) + 1
  FROM locations l WHERE e.location_id = $1 AND l.location_id = e.location_id AND l.deleted_time IS NULL
RETURNING e.epoch"""
_FLOOR = FLOOR.format("s.")
# As text that the gate takes: a sku needs no quoting in JSON, its form is checked by the table.
STOCK = f"""
SELECT format('"%s","%s"', s.sku, s.available - coalesce(r.reserved, 0)) AS stock,
       CASE WHEN {_FLOOR} <> 0 THEN format('"%s","%s"', s.sku, {_FLOOR}) END AS floor
  FROM stock_levels s
  LEFT JOIN (SELECT line ->> 0 AS sku, sum((line ->> 1)::int8)::int8 AS reserved
               FROM claims c, jsonb_array_elements(c.lines) AS line
              WHERE c.location_id = $1 AND c.state = 'active' GROUP BY 1) r USING (sku)
 WHERE s.location_id = $1"""
CLAIMS = """
SELECT format('"%s",%s', claim_id, to_json(lines::text)) AS claim,
       format('"%s","%s"', (extract(epoch FROM deadline) * 1000)::int8, claim_id) AS due
  FROM claims WHERE location_id = $1 AND state = 'active'"""
LAST_DELTA = "SELECT last_number FROM location_delta_heads WHERE location_id = $1"


class Rebuilder:
    """Rebuilds locations on demand; callers that want the same location at once share one rebuild."""

    def __init__(self, database: Database, gate: Gate) -> None:
        self._database = database
        self._gate = gate
        self._running: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(REBUILDS_AT_ONCE_MAX)

    async def rebuild(self, location_id: str, *, is_forced: bool = False) -> None:
        """Makes the gate's data of a location trusted, unless it is already; `is_forced` loads it anew all the same.

        Waits until the deadline of its call, WAIT_SECONDS_MAX at most; the rebuild goes on. Raises LocationNotFound,
        GateUnavailable, LedgerUnavailable.
        """
        task = self._start(location_id, is_forced)
        try:
            async with patience(max(0.0, seconds_left(WAIT_SECONDS_MAX))):
                await asyncio.shield(task)
        except TimeoutError as error:
            raise GateUnavailable(f"location {location_id} is being rebuilt") from error

    def request(self, location_id: str) -> None:
        """Starts a rebuild without waiting for it."""
        self._start(location_id, False)

    def _start(self, location_id: str, is_forced: bool) -> asyncio.Task[None]:
        task = self._running.get(location_id)
        if task is None:
            task = asyncio.create_task(
                self._rebuild(location_id, is_forced), name=f"rebuild of {location_id}", context=shared_context()
            )
            self._running[location_id] = task
            task.add_done_callback(lambda t: self._ended(location_id, t))
        return task

    def _ended(self, location_id: str, task: asyncio.Task[None]) -> None:
        del self._running[location_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            REBUILDS.labels("failed").inc()
            log.warning("rebuild of %s failed: %s", location_id, error)

    async def close(self) -> None:
        """Ends the rebuilds that run."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _rebuild(self, location_id: str, is_forced: bool) -> None:
        async with self._slots:
            detail = ""
            for attempt in range(REBUILD_ATTEMPTS_MAX):
                try:
                    if not is_forced and await self._is_done_by_another(location_id):
                        return
                    if await self._try(location_id):
                        return
                    detail = "another rebuild was faster"
                    is_forced = False  # what overtook this one read the ledger later still
                except Unreachable as error:
                    detail = str(error)
                await asyncio.sleep(BACK_OFF_SECONDS * 2**attempt)
            raise GateUnavailable(detail)

    async def is_current(self, location_id: str, epoch: int) -> bool:
        """Whether the ledger still has the epoch of data that was used before. Raises LedgerUnavailable."""
        return await self._epoch(location_id) == epoch

    async def _standing(self, location_id: str) -> tuple[Header, int]:
        """The gate's header, and the ledger's epoch (0: no such location), asked after it."""
        ((header, _),) = await self._gate.patrol([location_id], 0)
        return header, await self._epoch(location_id) or 0

    async def _is_done_by_another(self, location_id: str) -> bool:
        """Waits while another process' load gets on. Whether the gate's data is trusted then."""
        seen: tuple[int, int] | None = None
        since = time.monotonic()
        while True:
            header, epoch = await self._standing(location_id)
            if header.epoch != 0 and header.epoch == epoch:
                return True
            if header.loading == 0 or header.loading < epoch:
                return False  # there is none, or one that nobody would trust
            if seen != (header.loading, header.loaded):
                seen, since = (header.loading, header.loaded), time.monotonic()
            elif time.monotonic() - since > STALL_SECONDS:
                log.warning("a load of %s got stuck after %d part(s); taking its place", location_id, header.loaded)
                return False
            await asyncio.sleep(LOOK_SECONDS)

    @step("ledger.epoch", model=("doubt",))
    async def _epoch(self, location_id: str) -> int | None:
        async with self._database.connection() as connection:
            epoch: int | None = await connection.fetchval(EPOCH, location_id)
        return epoch

    async def _try(self, location_id: str) -> bool:
        run_id = await self._gate.run_id()
        ((header, _),) = await self._gate.patrol([location_id], 0)
        epoch = await self._raise(location_id, header.epoch)
        if epoch is None:
            raise LocationNotFound(location_id)
        began = time.monotonic()
        count = 0
        async with self._snapshot() as snapshot, aclosing(_parts(snapshot, location_id, epoch)) as parts:
            part = await anext(parts, None)
            while part is not None:
                is_taken, part = await _both(self._gate.load(location_id, part, run_id), anext(parts, None))
                if not is_taken:
                    REBUILDS.labels("overtaken").inc()
                    return False
                count += 1
        closed = time.monotonic() - began
        REBUILDS.labels("published").inc()
        CLOSED_SECONDS.observe(closed)
        log.debug("gate rebuilt: %s, epoch %d, %d part(s), closed for %.3f s", location_id, epoch, count, closed)
        return True

    @step("ledger.raise_for_rebuild", model=("raise",))
    async def _raise(self, location_id: str, above: int) -> int | None:
        async with self._database.connection() as connection:
            epoch: int | None = await connection.fetchval(RAISE, location_id, above)
        return epoch

    @step("ledger.snapshot", model=("snapshot",))
    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[Connection]:
        async with self._database.transaction(isolation="repeatable_read", readonly=True) as snapshot:
            yield snapshot


async def _parts(snapshot: Connection, location_id: str, epoch: int) -> AsyncGenerator[LoadPart, None]:
    """First a part without rows, which closes the location and tells others of the load; last one that publishes it."""
    delta = await snapshot.fetchval(LAST_DELTA, location_id) or 0
    yield LoadPart(epoch, delta, is_first=True)
    cursor = await snapshot.cursor(STOCK, location_id)
    while rows := await cursor.fetch(PART_ROWS_MAX):
        floors = [r["floor"] for r in rows if r["floor"] is not None]
        yield LoadPart(epoch, delta, stock=_array(r["stock"] for r in rows), floors=_array(floors))
    cursor = await snapshot.cursor(CLAIMS, location_id)
    while rows := await cursor.fetch(PART_ROWS_MAX):
        yield LoadPart(epoch, delta, claims=_array(r["claim"] for r in rows), due=_array(r["due"] for r in rows))
    yield LoadPart(epoch, delta, is_last=True)


def _array(values: Iterable[str]) -> str:
    return f"[{','.join(values)}]"


async def _both(first: Awaitable[First], second: Awaitable[Second]) -> tuple[First, Second]:
    """Does both at the same time, and both to their end: what one leaves half done would be met by whoever comes next."""
    results = await asyncio.gather(first, second, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results  # type: ignore[return-value]
