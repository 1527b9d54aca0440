"""`onhand verify`: every invariant that SQL can state, and whether the gate promises what the ledger has.

The ledger's rules are read in one snapshot. The gate has none in common with it: what differs there is proved claim by claim,
as the reconciler does it (onhand.reservations.inspect).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from onhand.domain.errors import GateUnavailable
from onhand.ledger.invariants import CHECK_SECONDS_MAX, EVIDENCE_MAX, Check, Progress, check_rules
from onhand.ledger.migrate import head_revision
from onhand.ledger.revision import REVISION
from onhand.postgres import Database
from onhand.redis import GateConnections, Unreachable
from onhand.reservations.gate import LIBRARY, Gate
from onhand.reservations.inspect import LATE_SECONDS, Difference, Inspector
from onhand.settings import Unusable

LOOKS_AT_ONCE_MAX = 4
"""Locations compared at the same time."""
PATROL_LOCATIONS_MAX = 200
"""Locations whose headers are read by one pipeline."""

EPOCHS = """
SELECT location_id, epoch FROM locations JOIN location_epochs USING (location_id) WHERE deleted_time IS NULL ORDER BY 1"""

SCHEMA_NAME, SCHEMA = "schema", "The database is at the revision that this program was made for."
GATE_NAME, GATE = (
    "gate_equals_ledger",
    "Wherever the gate is trusted it has the ledger's ATP, floors and reservations, and every increase, once calls under way "
    "are over; units of claims that await their sweeper are kept from sale.",
)


@dataclass
class GateLooks:
    """How the gate stood: `compared` + `empty` + `stale` are all locations that are not deleted."""

    locations: int = 0
    compared: int = 0
    """Trusted: loaded into this run of the server, under the ledger's epoch."""
    empty: int = 0
    """Nothing usable is loaded: rebuilt at the first call that needs it."""
    stale: int = 0
    """Loaded under an epoch that the ledger has left: promises nothing, rebuilt like an empty one."""
    unsettled: int = 0
    """Skus of which nothing can be said, because too much went on."""
    claims_awaiting_sweep: int = 0
    """Claims without an active reservation that the gate still holds, until their hint passes: their units are not sold."""

    def to_json(self) -> dict[str, int]:
        """For a report."""
        return dict(vars(self))


@dataclass(frozen=True)
class Report:
    """What `verify` found. `gate` is None where the gate was not asked or did not answer."""

    checks: Sequence[Check]
    gate: GateLooks | None
    seconds: float

    @property
    def is_ok(self) -> bool:
        """Whether every check passed."""
        return all(check.is_ok for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """One object, for people and programs."""
        return {
            "ok": self.is_ok,
            "checks": [check.to_json() for check in self.checks],
            "gate": self.gate.to_json() if self.gate else None,
            "seconds": round(self.seconds, 3),
        }


async def verify(
    postgres_dsn: str, redis_url: str | None, progress: Progress | None = None, *, evidence_max: int | None = None
) -> Report:
    """Checks the ledger, and the gate against it unless `redis_url` is None. Raises LedgerUnavailable, Unusable.

    A gate that does not answer is a check that fails, with the reason. Changes nothing; may run beside any number of servers.
    """
    began = time.perf_counter()
    database = await Database.open(
        postgres_dsn,
        pool_size=2 * LOOKS_AT_ONCE_MAX,
        statement_seconds_max=CHECK_SECONDS_MAX,
        reads_whole_tables=True,
    )
    try:
        checks, gate = [await _schema(database)], None
        if checks[0].is_ok:
            async with database.transaction(isolation="repeatable_read", readonly=True) as snapshot:
                checks += await check_rules(snapshot, progress, evidence_max)
            if redis_url is not None:
                check, gate = await _gate(database, redis_url, progress, evidence_max or EVIDENCE_MAX)
                checks.append(check)
    finally:
        await database.close()
    return Report(checks, gate, time.perf_counter() - began)


async def _schema(database: Database) -> Check:
    """Without the tables that the rules speak of there is nothing to check."""
    began, expected = time.perf_counter(), head_revision()
    async with database.connection() as connection:
        try:
            revision = await connection.fetchval(REVISION)
        except asyncpg.UndefinedTableError:
            revision = None
    violations = [] if revision == expected else [{"revision": revision, "expected": expected}]
    return Check(SCHEMA_NAME, SCHEMA, violations, len(violations), time.perf_counter() - began)


async def _gate(
    database: Database, redis_url: str, progress: Progress | None, evidence_max: int
) -> tuple[Check, GateLooks | None]:
    began = time.perf_counter()
    connections = GateConnections(redis_url, LIBRARY)
    looks: GateLooks | None = None
    try:
        await connections.check()
        comparison = _Comparison(database, Gate(connections), progress or (lambda _: None))
        violations = await comparison.run()
        looks = comparison.looks
    except (GateUnavailable, Unreachable, Unusable) as error:
        detail = error.detail if isinstance(error, GateUnavailable) else str(error)
        violations = [{"problem": "the gate does not answer, or may not be used", "detail": detail}]
    finally:
        await connections.close()
    count = len(violations)
    return Check(GATE_NAME, GATE, violations[:evidence_max], count, time.perf_counter() - began), looks


@dataclass
class _Comparison:
    """Looks at every trusted location."""

    database: Database
    gate: Gate
    progress: Progress
    looks: GateLooks = field(default_factory=GateLooks)
    _awaiting: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._inspector = Inspector(self.database, self.gate)

    async def run(self) -> list[dict[str, Any]]:
        """Differences that stay."""
        trusted, violations = await self._trusted()
        slots = asyncio.Semaphore(LOOKS_AT_ONCE_MAX)

        async def examine(location_id: str) -> None:
            found = await self._inspect(location_id, slots)
            violations.extend(vars(d) for d in found or ())
            self.looks.compared += found is not None
            self.looks.stale += found is None  # not trusted any more since its header was read
            if (self.looks.compared + self.looks.stale) % 50 == 0:
                self.progress(f"{GATE_NAME} ({self.looks.compared} of {len(trusted)} locations)")

        self.progress(f"{GATE_NAME} ({len(trusted)} locations)")
        await asyncio.gather(*(examine(location_id) for location_id in trusted))
        self.looks.claims_awaiting_sweep = self._awaiting.total()
        return sorted(violations, key=lambda v: (v["location_id"], v["what"], v["key"]))

    async def _trusted(self) -> tuple[list[str], list[dict[str, Any]]]:
        """Locations whose header is of this run and of the ledger's epoch; and headers that no ledger ever gave out."""
        async with self.database.connection() as connection:
            known = [(r["location_id"], r["epoch"]) for r in await connection.fetch(EPOCHS)]
        self.looks.locations = len(known)
        trusted, ahead = [], []
        for start in range(0, len(known), PATROL_LOCATIONS_MAX):
            page = known[start : start + PATROL_LOCATIONS_MAX]
            headers = await self.gate.patrol([location_id for location_id, _ in page], 0)
            # Read after the headers: the ledger's epoch is raised first, so it is never behind a gate that is sound.
            async with self.database.connection() as connection:
                epochs = {r["location_id"]: r["epoch"] for r in await connection.fetch(EPOCHS)}
            for (location_id, _), (header, _) in zip(page, headers, strict=True):
                epoch = epochs.get(location_id, 0)
                if header.epoch == 0:
                    self.looks.empty += 1
                elif header.epoch == epoch:
                    trusted.append(location_id)
                else:
                    self.looks.stale += 1
                    if header.epoch > epoch > 0:
                        ahead.append(vars(Difference(location_id, "epoch", "", header.epoch - epoch)))
        return trusted, ahead

    async def _inspect(self, location_id: str, slots: asyncio.Semaphore) -> list[Difference] | None:
        """What differs for certain, whatever goes on there; None where the gate is not trusted."""
        found: dict[Difference, None] = {}
        after, skus = "", None
        while True:
            async with slots:
                skus = await self._inspector.page(location_id, after)
                if skus == []:
                    return list(found)
                look = await self._inspector.inspect(location_id, skus, relay_seconds=LATE_SECONDS)
            if look is None:
                return None
            found.update(dict.fromkeys(look.differences))
            self.looks.unsettled += len(look.unsure)
            self._awaiting[location_id] = look.waiting
            if skus is None:
                return list(found)
            after = skus[-1]
