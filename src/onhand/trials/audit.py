"""The audit of a trial: its recorded calls against the ledger and the gate, once everything is over. Reads only."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onhand.postgres import Database
from onhand.redis import GateConnections, Unreachable
from onhand.reservations.gate import LIBRARY, Gate
from onhand.reservations.reconcile import Difference, compare
from onhand.simulate.facts import LEAKED, Findings, GatewayRow, Ledger
from onhand.simulate.history import OK, read_history
from onhand.simulate.judge import judge, outcomes
from onhand.trials.ledger_rows import read_ledger

LOCATIONS = "SELECT location_id FROM locations WHERE deleted_time IS NULL ORDER BY 1"


def audit(
    *,
    histories: Sequence[Path],
    postgres_dsn: str,
    redis_url: str,
    faults: Sequence[Mapping[str, Any]],
    gateway: Sequence[GatewayRow] = (),
) -> dict[str, Any]:
    """What the clients were told, against what is there: the counters of findings, with their evidence. Changes nothing.

    `faults` have begin and end in monotonic seconds. Raises LedgerUnavailable and GateUnavailable.
    """
    records = read_history(histories)
    ledger, differences = asyncio.run(_read(postgres_dsn, redis_url))
    ledger = dataclasses.replace(ledger, gateway=gateway)
    of_ledger = [fault for fault in faults if "postgres" in fault["kind"]]
    findings, looked = judge(records, ledger, _times(faults), _times(of_ledger))
    _check_gate(differences, findings)
    return {
        **outcomes(records),
        **findings.counts,
        "evidence": findings.evidence,
        "audited": looked,
        "last_acknowledged": max((r.end for r in records if r.outcome == OK and r.request_id), default=0.0),
    }


def _times(faults: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    return [(fault["begin"], float("inf") if fault.get("end") is None else fault["end"]) for fault in faults]


async def _read(postgres_dsn: str, redis_url: str) -> tuple[Ledger, list[Difference]]:
    database = await Database.open(postgres_dsn, pool_size=2, reads_whole_tables=True)
    connections = GateConnections(redis_url, LIBRARY)
    try:
        differences: list[Difference] = []
        async with database.transaction(isolation="repeatable_read", readonly=True) as snapshot:
            ledger = await read_ledger(snapshot)
            gate = Gate(connections)
            for row in await snapshot.fetch(LOCATIONS):
                try:
                    dump = await gate.dump(row["location_id"])
                except Unreachable:
                    continue  # `verify` says so
                # A gate that is not trusted promises nothing: it is rebuilt at the next call.
                differences += (await compare(snapshot, dump, row["location_id"]) or []) if dump is not None else []
        return ledger, differences
    finally:
        await connections.close()
        await database.close()


def _check_gate(differences: Sequence[Difference], findings: Findings) -> None:
    """Once nobody calls any more, the gate has what the ledger has, to the unit."""
    for d in differences:
        findings.add(LEAKED, f"gate - ledger = {d.offset} ({d.what} {d.key}) at {d.location_id}", units=abs(d.offset))
