"""Explicit-state search: every interleaving of a model's steps, breadth first, so that a trace printed is a shortest one.

What is a step. One gate script is atomic; one ledger transaction is atomic. Between any two steps anything may happen.
A crash is an attempt that is never scheduled again, a stall one that is not scheduled for a while, a lost answer a crash right
after the step: none of them needs a step of its own. Models check in every reachable state what would be left if all
processes died there.
"""

from __future__ import annotations

import gc
from collections.abc import Hashable, Iterator
from enum import StrEnum
from typing import Any, Protocol, TypeVar


class Step(StrEnum):
    """What a transition is an instance of. The crash points of the code name these."""

    # An attempt of a request, at the gate and in the ledger.
    TAKE = "take"  # claims units in the gate, or is refused there
    LOOK_UP = "look_up"  # after a refusal: has the request had its effect?
    DOUBT = "doubt"  # after a refusal: was the data that refused of the ledger's epoch?
    UNDO = "undo"  # gives back a claim that the ledger refused for certain
    JOURNAL = "journal"  # the reservation's row
    SWAP = "swap"  # a change: the old rows released, the new ones inserted
    CONSUME = "consume"  # a decrease, under its claim
    BYPASS = "bypass"  # a decrease past the gate, with a raise in it
    # The row decides.
    CONFIRM = "confirm"
    RELEASE = "release"
    EXTEND = "extend"
    EXPIRE = "expire"
    TOMBSTONE = "tombstone"  # an orphan is closed in the ledger
    GIVE_BACK = "give_back"
    FORGET = "forget"
    # What adds units.
    INCREASE = "increase"
    CANCEL = "cancel"  # an order's units are free again
    APPLY = "apply"
    ANSWER = "answer"  # an increase or a release is answered, for every reader sees it
    # Which data of the gate may be believed.
    RAISE = "raise"
    SNAPSHOT = "snapshot"
    LOAD = "load"  # of one part
    BEGIN = "begin"
    PART = "part"
    PUBLISH = "publish"
    READ = "read"  # looks at the gate
    ASK = "ask"  # looks at the ledger's epoch
    CLOSE = "close"  # the location is deleted
    # Payment in between.
    PEND = "pend"  # the order is stored, its reservation extended
    AUTHORIZE = "authorize"  # the outside call
    PLACE = "place"  # the confirming transaction
    GIVE_UP = "give_up"  # the order will not be placed
    VOID = "void"  # the outside call that takes it back
    # The world: no crash point stands for it.
    FAULT = "fault"
    # A ledger transaction that moves nothing into or out of `available` (a cart, a price, a pick). No model has it.
    WRITE = "write"


STEPS: tuple[str, ...] = tuple(Step)
ABSTRACTED = frozenset({Step.WRITE})
"""Steps of the code that no model has a transition for: they cannot touch what the protocol keeps."""

State = Any
Transition = tuple[Step, str, "State | str"]
"""What step, in words, and the state after it; or, instead of a state, the rule that the step itself breaks."""


class Searchable(Protocol):
    """A model: where it begins, what may happen, what must hold."""

    def initial(self) -> State: ...

    def steps(self, s: State) -> Iterator[Transition]: ...

    def broken(self, s: State) -> str | None:
        """The rule that a state breaks."""

    def canonical(self, s: State) -> Hashable:
        """The same for states that nothing can tell apart from here on. Also a state: the search goes on from it."""


Item = TypeVar("Item")


def replaced(items: tuple[Item, ...], i: int, value: Item) -> tuple[Item, ...]:
    """The tuple with another value at `i`."""
    return (*items[:i], value, *items[i + 1 :])


class Found:
    """What a search came to. `trace` is (step, words) from the beginning to the violation."""

    def __init__(self, states: int, is_complete: bool, broken: str | None, trace: list[tuple[Step, str]]) -> None:
        self.states = states
        self.is_complete = is_complete
        self.broken = broken
        self.trace = trace
        self.steps: set[Step] = set()


def search(model: Searchable, states_max: int = 6_000_000) -> Found:
    """Breadth first, until a rule is broken, everything was seen, or more than `states_max` states were."""
    was_enabled = gc.isenabled()
    gc.disable()  # millions of tuples, and not one cycle
    try:
        return _search(model, states_max)
    finally:
        if was_enabled:
            gc.enable()


def _search(model: Searchable, states_max: int) -> Found:
    start = model.canonical(model.initial())
    number: dict[Hashable, int] = {start: 0}
    parents, frontier = [0], [start]
    seen: set[Step] = set()
    known: set[Hashable] = set()  # states as they came, so that most are made canonical once
    steps, broken, canonical = model.steps, model.broken, model.canonical

    def found(why: str | None, last: int, is_complete: bool, final: list[tuple[Step, str]]) -> Found:
        trace: list[tuple[Step, str]] = []
        if why:
            trace, state = _replay(model, _path(number, parents, last))
            trace += final
            why = why if final else model.broken(state)  # in the words of the state as it is
        result = Found(len(number), is_complete, why, trace)
        result.steps = seen
        return result

    while frontier:
        following = []
        for state in frontier:
            n = number[state]
            for step, text, after in steps(state):
                seen.add(step)
                if isinstance(after, str):
                    return found(after, n, False, [(step, text)])
                if after in known:
                    continue
                known.add(after)
                after = canonical(after)
                if after in number:
                    continue
                number[after] = len(parents)
                parents.append(n)
                if why := broken(after):
                    return found(why, number[after], False, [])
                following.append(after)
        if len(number) > states_max:
            return found(None, 0, False, [])
        frontier = following
    return found(None, 0, True, [])


def _path(number: dict[Hashable, int], parents: list[int], last: int) -> list[Hashable]:
    states = list(number)
    path = [states[last]]
    while last:
        last = parents[last]
        path.append(states[last])
    return path[::-1]


def _replay(model: Searchable, path: list[Hashable]) -> tuple[list[tuple[Step, str]], State]:
    """The same way through states as they are, with runs and epochs that a reader can follow; and where it ends."""
    state = model.initial()
    trace: list[tuple[Step, str]] = []
    for wanted in path[1:]:
        step, text, state = next(
            (step, text, after)
            for step, text, after in model.steps(state)
            if not isinstance(after, str) and model.canonical(after) == wanted
        )
        trace.append((step, text))
    return trace, state
