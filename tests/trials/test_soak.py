"""`make soak` goes from seed to seed until one breaks a promise, and says how to repeat that one."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from onhand.settings import Unusable
from onhand.trials import soak as soak_module
from onhand.trials.faulty import COUNTERS

command = typer.Typer()
command.command()(soak_module.soak)


def _report(seed: int, **changed: Any) -> dict[str, Any]:
    figures = ("faults", "acknowledged", "refused", "unknown", *COUNTERS, "acknowledged_after_last_fault")
    return dict.fromkeys(figures, 0) | {"seed": seed, "ok": True, "evidence": []} | changed


def _soak(monkeypatch: pytest.MonkeyPatch, outcomes: dict[int, Any], *arguments: str) -> tuple[Any, list[int]]:
    played: list[int] = []

    def simulate(level: Any, *, seed: int, **_: Any) -> dict[str, Any]:
        played.append(seed)
        outcome = outcomes.get(seed, {})
        if isinstance(outcome, Exception):
            raise outcome
        return _report(seed, **outcome)

    monkeypatch.setattr(soak_module, "simulate_faults", simulate)
    return CliRunner().invoke(command, list(arguments)), played


def test_every_seed_is_played_while_no_promise_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    done, played = _soak(monkeypatch, {}, "--seeds", "4-6")

    assert (done.exit_code, played) == (0, [4, 5, 6])
    assert "3 runs, no promise broken" in done.output


def test_the_first_broken_promise_ends_it_with_the_evidence_and_how_to_repeat_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = {"ok": False, "oversold_units": 2, "evidence": [{"counter": "oversold_units"}], "kept": "kept-folder"}
    arguments = ("--seeds", "4-", "--seconds", "60", "--processes", "3", "--redis-server", "sh")

    done, played = _soak(monkeypatch, {6: broken}, *arguments)

    assert (done.exit_code, played) == (1, [4, 5, 6])
    assert '{"counter": "oversold_units"}' in done.output
    assert "kept-folder" in done.output
    again = "simulate --faults brutal --seconds 60 --processes 3 --seed 6 --json --redis-server sh"
    assert f"Repeat it: .venv/bin/onhand {again}" in done.output


def test_a_run_that_cannot_be_finished_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    done, played = _soak(monkeypatch, {1: Unusable("server 0 does not serve")}, "--seeds", "1-3")

    assert (done.exit_code, played) == (1, [1])
    assert "server 0 does not serve" in done.output
    assert "--seed 1" in done.output


@pytest.mark.parametrize("arguments", [("--seeds", "some"), ("--redis-server", "there-is-no-such-program")])
def test_what_cannot_be_meant_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    done, played = _soak(monkeypatch, {}, *arguments)

    assert (done.exit_code, played) == (2, [])
