"""The executable specification, at the size that fits into a test run: `make model` searches the larger ones too."""

from __future__ import annotations

from collections.abc import Hashable

import pytest

from model.protocol import Model
from model.runs import RUNS, Run
from model.search import ABSTRACTED, STEPS, Step, search
from model.world import Rules, World
from onhand import app, crash

TESTED = [run for run in RUNS if run.size == "test"]


@pytest.mark.parametrize("run", [r for r in TESTED if not r.is_mutant], ids=lambda run: run.name)
def test_every_interleaving_keeps_every_rule(run: Run) -> None:
    found = search(run.model())
    assert found.broken is None, "\n".join([found.broken or "", *(f"[{step}] {text}" for step, text in found.trace)])
    assert found.is_complete


@pytest.mark.parametrize("run", [r for r in TESTED if r.is_mutant], ids=lambda run: run.name)
def test_every_mutant_is_caught_and_the_way_there_is_told(run: Run) -> None:
    found = search(run.model())
    assert found.broken
    # The trace leads from the beginning to what is broken, by steps that the model has.
    model, state = run.model(), run.model().initial()
    for step, text in found.trace:
        state = next(after for s, words, after in model.steps(state) if (s, words) == (step, text))
    assert found.broken in (state, model.broken(state) if not isinstance(state, str) else None)


def test_there_is_a_transition_for_every_step_that_the_model_does_not_leave_out() -> None:
    taken = set().union(*(search(run.model(), states_max=100).steps for run in TESTED))
    assert taken == set(Step) - ABSTRACTED


def test_every_crash_point_names_steps_of_the_model() -> None:
    assert app.App  # its import registers every step
    named = {name: set(step.model) for name, step in crash.STEPS.items()}
    assert named
    assert {name: steps - set(STEPS) for name, steps in named.items() if steps - set(STEPS)} == {}
    # The other way round: the world, and a load at one go.
    assert set(STEPS) - set().union(*named.values()) == {Step.FAULT, Step.LOAD}


SMALL = {
    "two buyers": {"reserve": ((1, 1), (1, 1)), "rebuilds": 1},
    "a retry, two rebuilders": {"reserve": ((1, 2),), "rebuilds": 2, "events": "X"},
    "a sale, an increase": {"reserve": ((1, 1),), "sale": ((1, 1),), "increases": (1,), "events": "CX"},
    "a fault": {"reserve": ((1, 1),), "rebuilds": 1, "faults": 1, "events": "CREX"},
    "answers": {"units": 0, "increases": (1,), "rebuilds": 1, "faults": 1, "kinds": "lost stale", "events": "V"},
}


@pytest.mark.parametrize("name", SMALL)
def test_states_that_are_taken_for_one_have_one_future(name: str) -> None:
    """From a state and from its canonical one the same canonical states are reached, and the same rules are broken."""
    model = Model(Rules(), **SMALL[name])  # type: ignore[arg-type]
    seen, frontier = {model.initial()}, [model.initial()]
    while frontier and len(seen) < 1_000:
        state = frontier.pop()
        alike = model.canonical(state)
        assert model.canonical(alike) == alike
        assert _next(model, state) == _next(model, alike)
        assert (model.broken(state) is None) == (model.broken(alike) is None)
        for _, _, after in model.steps(state):
            if after not in seen:
                seen.add(after)
                frontier.append(after)
    assert len(seen) > 100


def _next(model: Model, state: World) -> set[Hashable]:
    """Where one may come to from here; a load that will be refused, and is not waited for, leads nowhere."""
    return {model.canonical(after) for _, _, after in model.steps(state)} - {model.canonical(state)}
