"""Comparing gate and ledger, all the time: a difference that is proved is reported and repaired."""

from __future__ import annotations

import json
import logging
import time
from uuid import UUID

from onhand import crash
from onhand.ids import new_id
from onhand.ledger.floors import FLOOR
from onhand.ledger.transaction import EMIT
from onhand.postgres import Connection, Database
from onhand.reservations.gate import Dump, Gate
from onhand.reservations.inspect import EPOCH, Difference, Inspector
from onhand.reservations.rebuild import LAST_DELTA, Rebuilder
from onhand.telemetry import DIFFERENCES

__all__ = ["Difference", "Reconciler", "compare"]

log = logging.getLogger(__name__)

LOCATIONS_PER_STEP = 5
"""Locations, or parts of large ones, that one step compares."""
LARGE_PER_STEP = 1
"""Parts of large locations among them."""
LOOKING_SHARE = 0.05
"""Of the time, what a process spends comparing at most: a location with 100,000 claims takes seconds, and its turn comes later."""
FAILURES_MAX = 3
"""How often a part may fail to be compared, or repaired, before the others get their turn."""
IN_FLIGHT_SECONDS = 30.0
"""An increase that is younger may be on its way to the gate: a patrol relays it if its process died."""

NEXT_LOCATION = """
SELECT location_id FROM locations WHERE deleted_time IS NULL AND location_id > $1 ORDER BY location_id LIMIT 1"""
STOCK = f"""
SELECT s.sku, s.available - coalesce(r.reserved, 0) AS atp, {FLOOR.format("s.")} AS floor
  FROM stock_levels s
  LEFT JOIN (SELECT line ->> 0 AS sku, sum((line ->> 1)::int8)::int8 AS reserved
               FROM claims c, jsonb_array_elements(c.lines) AS line
              WHERE c.location_id = $1 AND c.state = 'active' GROUP BY 1) r USING (sku)
 WHERE s.location_id = $1"""
CLAIMS = "SELECT claim_id FROM claims WHERE location_id = $1 AND state = 'active'"


async def compare(snapshot: Connection, dump: Dump, location_id: str) -> list[Difference] | None:
    """What differs between a dump of the gate and a snapshot, calls under way and orphans included: for a gate at rest.

    None if the ledger does not trust that dump.
    """
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
    """Walks over the locations, and through the large ones in parts."""

    def __init__(self, database: Database, gate: Gate, rebuilder: Rebuilder) -> None:
        self._database = database
        self._gate = gate
        self._rebuilder = rebuilder
        self._inspector = Inspector(database, gate)
        self._location_id = ""
        self._failures = 0
        self._sku = ""  # the last that was looked at of a large location
        self._rests_until = 0.0

    async def step_in_turn(self) -> None:
        """A step, unless the last one took so long that it is not its turn yet."""
        began = time.monotonic()
        if began < self._rests_until:
            return
        try:
            await self.step()
        finally:
            now = time.monotonic()
            self._rests_until = now + (now - began) * (1 / LOOKING_SHARE - 1)

    async def step(self) -> None:
        """Compares the next locations; ends where it began anew."""
        large = 0
        for _ in range(LOCATIONS_PER_STEP):
            location_id = self._location_id if self._sku else await self._next(self._location_id)
            if location_id is None:
                self._location_id = ""
                return
            skus = await self._part(location_id)
            # Only now: what could not be looked at is looked at again.
            self._location_id, self._sku, self._failures = location_id, skus[-1] if skus else "", 0
            large += skus is not None
            if large >= LARGE_PER_STEP:
                return

    async def _part(self, location_id: str) -> list[str] | None:
        """Looks at the next part of a location, and returns its skus. One that fails all the time is left out for this turn."""
        try:
            skus = await self._inspector.page(location_id, self._sku)
            if skus != []:
                await self._look(location_id, skus)
        except Exception:
            self._failures += 1
            if self._failures >= FAILURES_MAX:
                self._location_id, self._sku, self._failures = location_id, "", 0
            raise
        return skus

    async def differences(self, location_id: str) -> list[Difference] | None:
        """What differs now, calls under way included; None where the gate is not trusted and so promises nothing."""
        dump = await self._gate.dump(location_id)
        if dump is None:
            return None
        return await self._compare(dump, location_id)

    @crash.step("ledger.locations")
    async def _next(self, after: str) -> str | None:
        async with self._database.connection() as connection:
            location_id: str | None = await connection.fetchval(NEXT_LOCATION, after)
        return location_id

    @crash.step("ledger.compare_at_rest")
    async def _compare(self, dump: Dump, location_id: str) -> list[Difference] | None:
        async with self._database.transaction(isolation="repeatable_read", readonly=True) as snapshot:
            return await compare(snapshot, dump, location_id)

    @crash.step("ledger.difference")
    async def _record(self, location_id: str, found: list[Difference]) -> None:
        data = {"differences": [{"what": d.what, "key": d.key, "offset": d.offset} for d in found[:100]]}
        event = ([new_id()], ["onhand.gate.difference.v1"], [f"location/{location_id}"], [location_id])
        async with self._database.connection() as connection:
            await connection.execute(EMIT, *event, [json.dumps(data)], None)

    async def _look(self, location_id: str, skus: list[str] | None) -> None:
        look = await self._inspector.inspect(location_id, skus, relay_seconds=IN_FLIGHT_SECONDS)
        if look is None or not look.differences:
            return
        for difference in look.differences:
            DIFFERENCES.labels(difference.what).inc()
        log.error("gate and ledger differ at %s, rebuilding: %s", location_id, look.differences[:10])
        await self._record(location_id, look.differences)
        await self._rebuilder.rebuild(location_id, is_forced=True)
