"""The plan of faults: from the seed alone, within its bounds, every kind in its turn."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onhand.trials.faults import AGE, ALL, DELAY, LINKS, STEP, Fault, Kind, Level, plan_faults, quiet_seconds

SEEDS = range(1, 11)


def _plan(level: Level, seed: int, seconds: float, servers: int = 2) -> list[Fault]:
    return plan_faults(level, seed=seed, seconds=seconds, servers=servers, clients=servers)


def test_one_seed_gives_one_plan_and_another_seed_another() -> None:
    assert _plan(Level.BRUTAL, 7, 120) == _plan(Level.BRUTAL, 7, 120)
    assert len({tuple(_plan(Level.BRUTAL, seed, 120)) for seed in SEEDS}) == len(SEEDS)


def test_nothing_is_broken_without_faults() -> None:
    assert _plan(Level.NONE, 7, 120) == []


@given(
    st.sampled_from([Level.DEFAULT, Level.BRUTAL]),
    st.integers(0, 10_000),
    st.integers(15, 600),
    st.integers(1, 8),
)
def test_every_fault_is_mended_well_before_the_load_ends(level: Level, seed: int, seconds: int, servers: int) -> None:
    faults = _plan(level, seed, seconds, servers)

    assert faults
    assert quiet_seconds(seconds) >= 5
    assert quiet_seconds(seconds) >= seconds / 10
    # To the millisecond, as its parts are.
    assert max(fault.end for fault in faults) <= seconds - quiet_seconds(seconds) + 0.002
    assert all(fault.time > 0 and fault.seconds >= 0 for fault in faults)


@given(st.integers(0, 10_000), st.integers(1, 8))
def test_faults_at_one_place_take_turns(seed: int, servers: int) -> None:
    by_place: dict[str, list[Fault]] = {}
    for fault in _plan(Level.BRUTAL, seed, 120, servers):
        by_place.setdefault(fault.target.partition("/")[0], []).append(fault)

    for faults in by_place.values():
        assert all(before.end < after.time for before, after in pairwise(faults))


@pytest.mark.parametrize("seed", SEEDS)
def test_two_brutal_minutes_have_every_kind_and_faults_that_overlap(seed: int) -> None:
    faults = _plan(Level.BRUTAL, seed, 120)

    assert len(faults) >= 36
    assert {fault.kind for fault in faults} == set(Kind)
    assert any(before.end > after.time for before, after in pairwise(faults))


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_test_run_can_afford_is_still_some_faults_of_different_kinds(seed: int) -> None:
    faults = _plan(Level.DEFAULT, seed, 15)

    assert len(faults) >= 5
    assert len({fault.kind for fault in faults}) >= 4
    assert all(fault.seconds <= 1.5 for fault in faults)


def test_targets_and_amounts_are_what_their_kind_needs() -> None:
    faults = [fault for seed in range(50) for fault in _plan(Level.BRUTAL, seed, 120, servers=3)]

    numbers = {ALL, "0", "1", "2"}
    servers = {fault.target for fault in faults if fault.kind in (Kind.KILL_SERVER, Kind.PAUSE_SERVER)}
    assert servers == {f"server/{n}" for n in numbers}
    assert {fault.target for fault in faults if fault.kind is Kind.HOLD} == {
        f"{link}/{n}" for link in LINKS for n in numbers
    }
    assert {f.target for f in faults if f.kind is Kind.PAUSE_CLIENT} == {f"client/{n}" for n in numbers - {ALL}}
    for fault in faults:
        assert (fault.age_seconds > 0) == (fault.kind is Kind.KILL_GATE_STALE)
        assert fault.age_seconds <= AGE.most
        if fault.kind is Kind.SLOW:
            assert DELAY.least <= fault.amount <= DELAY.most
        elif fault.kind in (Kind.CLOCK_NEARER, Kind.CLOCK_FURTHER):
            assert STEP.least <= fault.amount <= STEP.most
        else:
            assert fault.amount == 0
    # Everything, and not only whole minutes of it, hits one server as well as all.
    assert Counter(fault.target.endswith(ALL) for fault in faults)[True] > 0
