"""Rebuilding the gate's data of a location from the ledger, while everything goes on.

Order matters (model: "snapshot begins before the raise commits"): note the gate's run, raise the ledger's epoch, commit; only
then begin the snapshot. Every claim journalled under the old epoch is in it, and none can follow.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from onhand.crash import step
from onhand.deadline import shared_context
from onhand.domain.errors import GateUnavailable, LocationNotFound
from onhand.postgres import Connection, Database
from onhand.redis import Unreachable
from onhand.reservations.gate import Gate, LoadPart

log = logging.getLogger(__name__)

PART_ROWS_MAX = 2_000
"""Stock rows or claims in one part of a load."""
REBUILD_ATTEMPTS_MAX = 5
"""How often a rebuilder tries again after it met a younger load, another run or no gate."""
BACK_OFF_SECONDS = 0.02
"""The first pause between two attempts; doubled each time, so that rebuilders do not chase each other."""
REBUILDS_AT_ONCE_MAX = 4
"""Locations that one process rebuilds at the same time."""

EPOCH = "SELECT epoch FROM location_epochs WHERE location_id = $1"
# Above the gate's own epoch too, should the ledger have been set back.
RAISE = """
UPDATE location_epochs e SET epoch = greatest(e.epoch, $2) + 1
  FROM locations l WHERE e.location_id = $1 AND l.location_id = e.location_id AND l.deleted_time IS NULL
RETURNING e.epoch"""
STOCK = """
SELECT s.sku, s.available - coalesce(r.reserved, 0) AS atp, s.safety_stock AS floor
  FROM stock_levels s
  LEFT JOIN (SELECT line ->> 0 AS sku, sum((line ->> 1)::int8)::int8 AS reserved
               FROM claims c, jsonb_array_elements(c.lines) AS line
              WHERE c.location_id = $1 AND c.state = 'active' GROUP BY 1) r USING (sku)
 WHERE s.location_id = $1"""
CLAIMS = """
SELECT claim_id, (extract(epoch FROM deadline) * 1000)::int8 AS due_ms, lines
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

        Raises LocationNotFound, GateUnavailable, LedgerUnavailable.
        """
        await asyncio.shield(self._start(location_id, is_forced))

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
                    if not is_forced and await self.is_trusted(location_id):
                        return
                    if await self._try(location_id):
                        return
                    detail = "another rebuild was faster"
                except Unreachable as error:
                    detail = str(error)
                await asyncio.sleep(BACK_OFF_SECONDS * 2**attempt)
            raise GateUnavailable(detail)

    async def is_trusted(self, location_id: str) -> bool:
        """Whether the gate's data of a location is of the ledger's epoch. Raises Unreachable, LedgerUnavailable."""
        ((header, _),) = await self._gate.patrol([location_id], 0)
        return header.epoch != 0 and header.epoch == await self._epoch(location_id)

    @step("ledger.epoch")
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
        parts = await self._snapshot(location_id, epoch)
        is_loaded = await self._gate.load(location_id, parts, run_id)
        if is_loaded:
            log.debug("gate rebuilt: location %s, epoch %d, %d part(s)", location_id, epoch, len(parts))
        return is_loaded

    @step("ledger.raise_for_rebuild", model=("raise",))
    async def _raise(self, location_id: str, above: int) -> int | None:
        async with self._database.connection() as connection:
            epoch: int | None = await connection.fetchval(RAISE, location_id, above)
        return epoch

    @step("ledger.snapshot", model=("snapshot",))
    async def _snapshot(self, location_id: str, epoch: int) -> Sequence[LoadPart]:
        async with self._database.transaction(isolation="repeatable_read", readonly=True) as snapshot:
            return await _parts(snapshot, location_id, epoch)


async def _parts(snapshot: Connection, location_id: str, epoch: int) -> Sequence[LoadPart]:
    stock = [(r["sku"], r["atp"], r["floor"]) for r in await snapshot.fetch(STOCK, location_id)]
    claims = [
        (r["claim_id"], r["due_ms"], [(s, q) for s, q in r["lines"]]) for r in await snapshot.fetch(CLAIMS, location_id)
    ]
    delta = await snapshot.fetchval(LAST_DELTA, location_id) or 0
    count = max(1, -(-max(len(stock), len(claims)) // PART_ROWS_MAX))
    return [
        LoadPart(
            epoch,
            delta,
            is_first=n == 0,
            is_last=n == count - 1,
            stock=stock[n * PART_ROWS_MAX : (n + 1) * PART_ROWS_MAX],
            claims=claims[n * PART_ROWS_MAX : (n + 1) * PART_ROWS_MAX],
        )
        for n in range(count)
    ]
