"""The audit itself: history and ledger in, findings out. Does nothing else, so that it can be tried on made-up histories."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from onhand.simulate.facts import LEAKED, OTHER, OVERSOLD, STALE, Calm, Findings, Ledger, Position, as_told
from onhand.simulate.history import OK, REFUSED, UNKNOWN, Record
from onhand.simulate.linear import Move, Read, bounds, search
from onhand.simulate.once import Call, check_once, index
from onhand.simulate.positions import History, histories
from onhand.simulate.refusals import check_refusals

UNKNOWN_SECONDS_MAX = 10.0
"""For how long an unknown call is a sign that something is broken: a client process may never have seen its end."""
NEIGHBOURS_MAX = 12
"""Calls around an impossible one that are shown with it."""


def judge(
    records: Sequence[Record],
    ledger: Ledger,
    faults: Sequence[tuple[float, float]],
    ledger_faults: Sequence[tuple[float, float]] = (),
) -> tuple[Findings, dict[str, Any]]:
    """Everything. `faults` are the times at which something was broken, `ledger_faults` those of PostgreSQL itself.

    Returns the findings, and what was looked at.
    """
    # A server that was killed is away for longer than the fault: calm is also that no call was without an answer.
    unknown = [(r.begin, min(r.end, r.begin + UNKNOWN_SECONDS_MAX)) for r in records if r.outcome == UNKNOWN]
    findings, calm = Findings(), Calm(faults, unknown)
    found = index(records, ledger)
    check_once(found, ledger, findings)
    check_refusals(records, found, ledger, findings)
    _check_levels(ledger, findings)
    stale: list[int] = []
    exact, bounded, nodes = 0, 0, 0
    for position, history in sorted(histories(records, found, ledger, calm, Calm(ledger_faults), stale).items()):
        impossible = _check_bounds(position, history, findings)
        if not history.reads and not any(m.need is not None for m in history.moves):
            continue
        verdict = search(history.moves, history.reads, history.holds)
        nodes += verdict.nodes
        exact += verdict.is_possible is not None
        bounded += verdict.is_possible is None
        if verdict.is_possible is False and not impossible:
            assert verdict.at is not None
            what = f"no order of the calls explains this one; possible then: {list(verdict.values)}"
            _add(position, history, verdict.at, what, findings)
        findings.checked("reads", len(history.reads))
    looked = {
        **findings.checks,
        "stale_marked_reads": sum(stale),
        "positions_decided_exactly": exact,
        "positions_decided_by_bounds": bounded,
        "search_nodes": nodes,
    }
    return findings, looked


def outcomes(records: Sequence[Record]) -> dict[str, int]:
    """Attempts of mutations by outcome."""
    count = {OK: 0, REFUSED: 0, UNKNOWN: 0}
    for record in records:
        if record.request_id:
            count[record.outcome] += 1
    return {"acknowledged": count[OK], "refused": count[REFUSED], "unknown": count[UNKNOWN]}


def _check_bounds(position: Position, history: History, findings: Findings) -> bool:
    """Adds what no order can explain; whether there is any. Counts the reads of which only one value was possible."""
    every = bounds(history.moves, history.reads, history.holds)
    outside = [each for each in every if not each.is_possible]
    for each in outside:
        what = f"possible was {each.low} to {each.high} whatever the order of the calls"
        _add(position, history, each.call, what, findings, units=_units(each.call, each.high))
    for each in every:
        if isinstance(each.call, Read):
            findings.checked("reads_of_one_possible_value", each.low == each.high)
            findings.checked("reads_at_their_upper_bound", each.call.shown == each.high)
    return bool(outside)


def _units(call: Move | Read, high: int) -> int:
    return max(1, (call.need or 0) - high) if isinstance(call, Move) else 1


def _add(
    position: Position, history: History, call: Move | Read, what: str, findings: Findings, units: int = 1
) -> None:
    """A read that shows what cannot be is stale; a refusal without a reason is a violation; a take of what is not is oversold."""
    where = f"{position[1]} at {position[0]}: "
    label = call.label
    if isinstance(call, Move):
        counter = OVERSOLD
        where += (
            f"took {-call.delta}, for which {call.need} had to be there: " if call.delta < 0 else f"{call.delta:+}: "
        )
        if call.need is None:
            counter = STALE
    else:
        is_refusal = isinstance(label, Record) and label.outcome == REFUSED
        counter = OTHER if is_refusal else STALE
        where += f"{'refused with' if is_refusal else 'showed'} {call.shown} (kept {call.kept}): "
    every: list[Move | Read] = [*history.moves, *history.reads]
    near = [each for each in every if each is not call and each.begin <= call.end and each.end >= call.begin]
    findings.add(counter, where + what, _told(call), *map(_told, near[:NEIGHBOURS_MAX]), units=units)


def _told(call: Any) -> Any:
    label = call.label
    told: Any = None
    if isinstance(label, Record):
        told = label.told()
    elif isinstance(label, Call):
        told = [r.told() for r in label.attempts]
    elif label is not None:
        told = as_told(label) if hasattr(label, "_asdict") else str(label)
    times = {"begin": round(call.begin, 4), "end": round(call.end, 4)}
    if isinstance(call, Move):
        return {"move": call.delta, "need": call.need, **times, "of": told}
    return {"read": call.shown, "kept": call.kept, **times, "of": told}


def _check_levels(ledger: Ledger, findings: Findings) -> None:
    """Every level is the sum of its movements, which never took what was not there; nothing is held once all is over."""
    buckets: dict[tuple[str, str, str], int] = defaultdict(int)
    for m in sorted(ledger.movements, key=lambda m: (m.location_id, m.sku, m.movement_id)):
        for bucket, change in ((m.from_bucket, -m.quantity), (m.to_bucket, m.quantity)):
            key = m.location_id, m.sku, bucket
            buckets[key] += change
            if buckets[key] < 0 and bucket in ("available", "allocated", "damaged", "quarantine"):
                findings.add(OVERSOLD, f"{bucket} fell to {buckets[key]}", as_told(m), units=-buckets[key])
    for level in ledger.levels:
        findings.checked("levels")
        for bucket in ("available", "allocated", "damaged", "quarantine"):
            moved, has = buckets[level.location_id, level.sku, bucket], getattr(level, bucket)
            if moved != has:
                findings.add(OTHER, f"{bucket} is {has}, its movements add up to {moved}", as_told(level))
    for claim in ledger.claims:
        if claim.state == "active":
            units = sum(quantity for _, quantity in claim.lines)
            findings.add(LEAKED, "a reservation is still active, and everybody is gone", as_told(claim), units=units)
