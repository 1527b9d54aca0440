"""One repair: verify, mend, verify again. Safe beside running servers, and may be repeated."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from google.protobuf.struct_pb2 import Struct

from onhand.clock import LedgerClock
from onhand.domain.errors import GateUnavailable, LocationNotFound, Refusal
from onhand.ids import new_id
from onhand.ledger.invariants import Progress
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.postgres import Database
from onhand.redis import GateConnections, Unreachable
from onhand.repair.advice import next_step
from onhand.repair.mends import MENDS, REASON, Mend, Violation
from onhand.reservations.gate import LIBRARY, Gate
from onhand.reservations.rebuild import Rebuilder
from onhand.reservations.relay import Relay
from onhand.reservations.sweep import Sweeper
from onhand.verify import GATE_NAME, Report, verify

log = logging.getLogger(__name__)

ROUNDS_MAX = 4
"""How often it is verified and mended: one mend may bring to light what another one mends."""
VIOLATIONS_MAX = 10_000
"""Violations of one rule that one round mends."""
EVENT = "onhand.verify.repaired.v1"
OVERDUE = "claims_not_overdue"


@dataclass
class _Request:
    """One mend, as the ledger records what happens once."""

    request_id: str
    body: str

    def SerializeToString(self, *, deterministic: bool = True) -> bytes:
        """The body."""
        return self.body.encode()


@dataclass
class RepairReport:
    """`done`: what was mended, in words, by rule. `left`: what verify still finds, with the next step."""

    document: str
    before: Report
    after: Report | None = None
    done: list[dict[str, str]] = field(default_factory=list)

    @property
    def left(self) -> list[dict[str, Any]]:
        """What was not mended."""
        report = self.after or self.before
        return [
            {"rule": c.name, "count": c.count, "violations": list(c.violations)[:20], "next_step": next_step(c.name)}
            for c in report.checks
            if not c.is_ok
        ]

    def to_json(self) -> dict[str, Any]:
        """One object, for people and programs."""
        return {
            "ok": not self.left,
            "repair": self.document if self.done else None,
            "found": {c.name: c.count for c in self.before.checks if not c.is_ok},
            "done": self.done,
            "left": self.left,
        }


async def repair(
    postgres_dsn: str,
    redis_url: str,
    *,
    may_begin: Callable[[Report], bool] = lambda _: True,
    progress: Progress | None = None,
) -> RepairReport:
    """Mends what can be mended; `may_begin` is shown what was found first. Raises LedgerUnavailable, Unusable."""
    found = await verify(postgres_dsn, redis_url, progress, evidence_max=VIOLATIONS_MAX)
    report = RepairReport(f"repair/{new_id()}", found)
    if found.is_ok or not may_begin(found):
        return report
    database = await Database.open(postgres_dsn, reads_whole_tables=True)
    connections = GateConnections(redis_url, LIBRARY)
    try:
        worker = _Worker(database, Gate(connections), report)
        for _ in range(ROUNDS_MAX):
            before = len(report.done)
            await worker.mend(found)
            if len(report.done) == before:
                break
            found = report.after = await verify(postgres_dsn, redis_url, progress, evidence_max=VIOLATIONS_MAX)
            if found.is_ok:
                break
    finally:
        await connections.close()
        await database.close()
    return report


class _Worker:
    """What mends are made with: the same locks, requests and relays as the servers'."""

    def __init__(self, database: Database, gate: Gate, report: RepairReport) -> None:
        self._rebuilder = Rebuilder(database, gate)
        self._relay = Relay(database, gate, self._rebuilder)
        self._ledger = Ledger(database, self._relay.settle)
        self._sweeper = Sweeper(database, gate, self._relay, self._rebuilder, LedgerClock())
        self._report = report
        self._count = 0

    async def mend(self, found: Report) -> None:
        """One round."""
        checks = {c.name: c for c in found.checks if not c.is_ok}
        # Units follow their order: where an order's own movements do not fit, nobody knows where its units are.
        unclear = (
            {(v["location_id"], v["sku"]) for v in checks["orders_moved_once"].violations}
            if ("orders_moved_once" in checks)
            else set()
        )
        touched: set[str] = set()
        for rule, mend in MENDS.items():
            for violation in checks[rule].violations if rule in checks else ():
                if rule == "allocated_is_promised" and (violation["location_id"], violation["sku"]) in unclear:
                    continue
                if await self._mend(rule, mend, violation) and violation.get("location_id"):
                    touched.add(violation["location_id"])
        if OVERDUE in checks:
            while closed := await self._sweeper.expire():
                self._say(OVERDUE, f"{closed} claim(s) of reservations past their deadline expired")
        await self._mend_gate(checks[GATE_NAME].violations if GATE_NAME in checks else (), touched)

    async def _mend(self, rule: str, mend: Mend, violation: Violation) -> bool:
        self._count += 1
        said: str | None = None

        async def work(tx: Transaction) -> Struct:
            nonlocal said
            said = await mend(tx, violation, self._report.document)
            if said:
                data = {"rule": rule, "done": said, "violation": _plain(violation)}
                tx.emit(EVENT, self._report.document, data, violation.get("location_id"))
            return Struct()

        request = _Request(f"{self._report.document}/{self._count}", json.dumps([rule, _plain(violation)]))
        try:
            await self._ledger.mutate(request, Struct, work)
        except Refusal as refusal:
            if said is None or refusal.reason == "LEDGER_UNAVAILABLE":
                raise
            log.warning("%s: not mended: %s", rule, refusal)
            return False
        if said:
            self._say(rule, said)
        return bool(said)

    async def _mend_gate(self, violations: Any, touched: set[str]) -> None:
        """Locations that differ are loaded anew; those whose epoch a mend raised are loaded too."""
        differing: dict[str, list[str]] = {}
        for v in violations:
            if "location_id" in v:
                differing.setdefault(v["location_id"], []).append(f"{v['what']} {v['key']} {v['offset']:+d}".strip())
        for location_id in sorted(differing.keys() | touched):
            try:
                await self._rebuilder.rebuild(location_id, is_forced=location_id in differing)
            except (GateUnavailable, LocationNotFound, Unreachable) as error:
                log.warning("%s is rebuilt when a call needs it: %s", location_id, error)
                continue
            if location_id in differing:
                said = f"{location_id} loaded anew, where the gate differed: {', '.join(differing[location_id][:10])}"
                await self._mend(GATE_NAME, _told(said), {"location_id": location_id})

    def _say(self, rule: str, said: str) -> None:
        log.info("%s: %s", rule, said)
        self._report.done.append({"rule": rule, "done": said})


def _told(said: str) -> Mend:
    async def mend(tx: Transaction, violation: Violation, document: str) -> str:
        return said

    return mend


def _plain(violation: Violation) -> dict[str, Any]:
    return {k: str(v) if isinstance(v, UUID) else v for k, v in violation.items()}


__all__ = ["EVENT", "REASON", "RepairReport", "repair"]
