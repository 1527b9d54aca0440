"""When a run with faults counts as passed: nothing broken, everything planned was injected, and calls went on afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from onhand.ledger.invariants import Check
from onhand.trials.faulty import COUNTERS, judge
from onhand.trials.soak import parse_seeds
from onhand.verify import Report

FAULTS = [{"kind": "cut", "begin": 1.0, "end": 3.0}, {"kind": "flush_gate", "begin": 2.0, "end": 2.5}]
HELD = Check("conservation", "It holds.", [], 0, 0.1)
FAILED = Check("conservation", "It holds.", [{"sku": "1"}], 1, 0.1)


def _judged(tmp_path: Path, *, checks: Any = (HELD,), audited: Any = None, **changed: Any) -> dict[str, Any]:
    history = tmp_path / "history-0.jsonl"
    calls = changed.pop("calls", [(2.9, "ok"), (3.1, "ok"), (3.2, "refused"), (3.3, "unknown")])
    lines = [{"begin": begin} for begin, _ in calls] + [{"begin": b, "outcome": o, "end": b + 1} for b, o in calls]
    history.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    report = dict.fromkeys(COUNTERS, 0) | {"evidence": []} | (audited or {})
    given = {"injected": FAULTS, "died": [], "planned": len(FAULTS)} | changed
    judge(report, Report(list(checks), None, 0.1), histories=[history], **given)
    return report


def test_a_run_passes_that_broke_nothing_and_went_on_after_its_last_fault(tmp_path: Path) -> None:
    report = _judged(tmp_path)

    assert report["ok"]
    assert (report["faults"], report["faults_planned"]) == (2, 2)
    assert report["faults_by_kind"] == {"cut": 1, "flush_gate": 1}
    # Only what began after the last fault was over, and was acknowledged.
    assert report["acknowledged_after_last_fault"] == 1
    assert report["evidence"] == []


@pytest.mark.parametrize("counter", COUNTERS)
def test_one_broken_promise_of_any_sort_fails_a_run(tmp_path: Path, counter: str) -> None:
    assert not _judged(tmp_path, audited={counter: 1})["ok"]


def test_a_check_of_verify_that_fails_is_a_violation_with_its_evidence(tmp_path: Path) -> None:
    report = _judged(tmp_path, checks=[HELD, FAILED])

    assert not report["ok"]
    assert report["violations"] == 1
    assert report["evidence"] == [{"verify": FAILED.to_json()}]


def test_a_server_that_ended_by_itself_is_a_violation(tmp_path: Path) -> None:
    report = _judged(tmp_path, died=["server 0 ended with 1 by itself"])

    assert not report["ok"]
    assert report["violations"] == 1


def test_a_fault_that_could_not_be_injected_fails_a_run(tmp_path: Path) -> None:
    report = _judged(tmp_path, injected=[FAULTS[0], FAULTS[1] | {"error": "StackError"}])

    assert (report["faults"], report["ok"]) == (1, False)


def test_a_fault_that_never_began_fails_a_run(tmp_path: Path) -> None:
    assert not _judged(tmp_path, injected=FAULTS[:1])["ok"]


def test_a_run_in_which_nothing_was_acknowledged_after_the_last_fault_fails(tmp_path: Path) -> None:
    assert not _judged(tmp_path, calls=[(2.9, "ok"), (3.5, "refused")])["ok"]


def test_seeds_are_one_or_a_range_or_go_on_without_an_end() -> None:
    assert list(parse_seeds("7")) == [7]
    assert list(parse_seeds("3-5")) == [3, 4, 5]
    endless = iter(parse_seeds("9-"))
    assert [next(endless) for _ in range(3)] == [9, 10, 11]
