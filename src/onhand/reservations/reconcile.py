"""Comparing gate and ledger, all the time: a difference that outlives what is in flight is reported and repaired."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from onhand import crash
from onhand.ids import new_id
from onhand.ledger.transaction import EMIT
from onhand.postgres import Connection, Database
from onhand.reservations.gate import Dump, Gate
from onhand.reservations.rebuild import LAST_DELTA, Rebuilder

log = logging.getLogger(__name__)

LOCATIONS_PER_STEP = 5
"""Locations compared by one step, beside those under suspicion."""
IN_FLIGHT_SECONDS = 5.0
"""A difference younger than this may be a call under way."""

NEXT_LOCATIONS = """
SELECT location_id FROM locations WHERE deleted_time IS NULL AND location_id > $1 ORDER BY location_id LIMIT $2"""
EPOCH = "SELECT epoch FROM location_epochs WHERE location_id = $1"
STOCK = """
SELECT s.sku, s.available - coalesce(r.reserved, 0) AS atp, s.safety_stock AS floor
  FROM stock_levels s
  LEFT JOIN (SELECT line ->> 0 AS sku, sum((line ->> 1)::int8)::int8 AS reserved
               FROM claims c, jsonb_array_elements(c.lines) AS line
              WHERE c.location_id = $1 AND c.state = 'active' GROUP BY 1) r USING (sku)
 WHERE s.location_id = $1"""
CLAIMS = "SELECT claim_id FROM claims WHERE location_id = $1 AND state = 'active'"


@dataclass(frozen=True)
class Difference:
    """Something the gate has otherwise than the ledger: `offset` is gate minus ledger, in base units or claims."""

    location_id: str
    what: str  # atp | floor | claim | delta
    key: str
    offset: int


async def compare(snapshot: Connection, dump: Dump, location_id: str) -> list[Difference] | None:
    """What differs between a dump of the gate and the ledger; None if the ledger does not trust that dump."""
    if await snapshot.fetchval(EPOCH, location_id) != dump.epoch:
        return None
    differences: list[Difference] = []
    last_delta = await snapshot.fetchval(LAST_DELTA, location_id) or 0
    if dump.delta != last_delta:
        differences.append(Difference(location_id, "delta", "", dump.delta - last_delta))
    seen: set[str] = set()
    for row in await snapshot.fetch(STOCK, location_id):
        seen.add(row["sku"])
        for what, have, want in (
            ("atp", dump.atp.get(row["sku"], 0), row["atp"]),
            ("floor", dump.floors.get(row["sku"], 0), row["floor"]),
        ):
            if have != want:
                differences.append(Difference(location_id, what, row["sku"], have - want))
    differences += [Difference(location_id, "atp", s, n) for s, n in dump.atp.items() if n and s not in seen]
    active: set[UUID] = {row["claim_id"] for row in await snapshot.fetch(CLAIMS, location_id)}
    differences += [Difference(location_id, "claim", str(c), 1) for c in dump.claims.keys() - active]
    differences += [Difference(location_id, "claim", str(c), -1) for c in active - dump.claims.keys()]
    return differences


class Reconciler:
    """Walks over the locations, and keeps an eye on those that differed."""

    def __init__(self, database: Database, gate: Gate, rebuilder: Rebuilder) -> None:
        self._database = database
        self._gate = gate
        self._rebuilder = rebuilder
        self._last = ""
        self._suspicions: dict[str, dict[Difference, float]] = {}

    async def step(self) -> None:
        """Compares the next locations."""
        rows = await self._next(self._last)
        self._last = rows[-1]["location_id"] if len(rows) == LOCATIONS_PER_STEP else ""
        for location_id in {r["location_id"] for r in rows} | set(self._suspicions):
            await self._look(location_id)

    async def differences(self, location_id: str) -> list[Difference] | None:
        """What differs now, calls under way included; None where the gate is not trusted and so promises nothing."""
        dump = await self._gate.dump(location_id)
        if dump is None:
            return None
        return await self._compare(dump, location_id)

    @crash.step("ledger.locations")
    async def _next(self, after: str) -> list[Any]:
        async with self._database.connection() as connection:
            return await connection.fetch(NEXT_LOCATIONS, after, LOCATIONS_PER_STEP)

    @crash.step("ledger.compare")
    async def _compare(self, dump: Dump, location_id: str) -> list[Difference] | None:
        async with self._database.transaction(isolation="repeatable_read", readonly=True) as snapshot:
            return await compare(snapshot, dump, location_id)

    @crash.step("ledger.difference")
    async def _record(self, location_id: str, lasting: list[Difference]) -> None:
        data = {"differences": [{"what": d.what, "key": d.key, "offset": d.offset} for d in lasting[:100]]}
        event = ([new_id()], ["onhand.gate.difference.v1"], [f"location/{location_id}"], [location_id])
        async with self._database.connection() as connection:
            await connection.execute(EMIT, *event, [json.dumps(data)])

    async def _look(self, location_id: str) -> None:
        found = await self.differences(location_id)
        if not found:
            self._suspicions.pop(location_id, None)
            return
        now = time.monotonic()
        before = self._suspicions.get(location_id, {})
        self._suspicions[location_id] = {d: before.get(d, now) for d in found}
        lasting = [d for d in found if now - before.get(d, now) > IN_FLIGHT_SECONDS]
        if lasting:
            await self._repair(location_id, lasting)

    async def _repair(self, location_id: str, lasting: list[Difference]) -> None:
        log.error("gate and ledger differ at %s, rebuilding: %s", location_id, lasting[:10])
        await self._record(location_id, lasting)
        await self._rebuilder.rebuild(location_id, is_forced=True)
        del self._suspicions[location_id]
