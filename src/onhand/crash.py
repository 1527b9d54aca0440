"""Crash points: every step that reaches the gate or the ledger has a name, before and after which a process may be made to die.

`step` only registers: a process in production runs the very functions that are written. `watched` puts a wrapper in the place
of each step, for tests; `ONHAND_CRASH_AT` does it for a server process, which kills itself at the point that it names.
"""

from __future__ import annotations

import functools
import inspect
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from onhand.settings import Unusable

VARIABLE = "ONHAND_CRASH_AT"
"""<step>:<before|after>[:n], the n-th time (the first, unless told) that the process comes there."""

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Step:
    """A coroutine function, or one that returns an asynchronous context, that makes one gate call or one ledger transaction.

    Or a part of such a transaction. `model` names the steps of the executable specification (model/protocol.py) that it stands
    for; none where the model leaves out what it does.
    """

    name: str
    model: tuple[str, ...]
    module: str
    qualname: str

    def owner(self) -> tuple[Any, str]:
        """What holds the function, and under which name."""
        owner: Any = sys.modules[self.module]
        *path, attribute = self.qualname.split(".")
        for part in path:
            owner = getattr(owner, part)
        return owner, attribute


STEPS: dict[str, Step] = {}
"""Every step of the modules that are imported, by name."""

_here: ContextVar[tuple[Step, ...]] = ContextVar("steps that are under way", default=())


def step(name: str, *, model: tuple[str, ...] = ()) -> Callable[[Function], Function]:
    """Registers a function as a step, and returns it unchanged. It must be called through the class or module that holds it."""

    def register(function: Function) -> Function:
        found = Step(name, model, function.__module__, function.__qualname__)
        if STEPS.setdefault(name, found) != found:
            raise AssertionError(f"{name} is {STEPS[name].qualname} already")
        return function

    return register


def under_way() -> tuple[Step, ...]:
    """The steps that the calling task is in, the outermost first; known only while steps are watched."""
    return _here.get()


class Watcher(Protocol):
    """Is told of every step. May stop it there, for ever, or raise."""

    async def before(self, step: Step) -> None:
        """The step is about to begin."""

    async def after(self, step: Step) -> None:
        """The step ended without an error."""


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Has every step tell the watcher, until the block ends. What was bound to a step before does not know of it."""
    replaced: list[tuple[Any, str, Any]] = []
    try:
        for each in STEPS.values():
            owner, attribute = each.owner()
            original = vars(owner)[attribute]
            replaced.append((owner, attribute, original))
            setattr(owner, attribute, _stepping(each, original, watcher))
        yield
    finally:
        for owner, attribute, original in replaced:
            setattr(owner, attribute, original)


def _stepping(step: Step, original: Callable[..., Any], watcher: Watcher) -> Callable[..., Any]:
    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def call(*values: Any, **named: Any) -> Any:
            await watcher.before(step)
            token = _here.set((*_here.get(), step))
            try:
                result = await original(*values, **named)
            finally:
                _here.reset(token)
            await watcher.after(step)
            return result

        return call

    @asynccontextmanager
    async def enter(*values: Any, **named: Any) -> AsyncIterator[Any]:
        await watcher.before(step)
        token = _here.set((*_here.get(), step))
        try:
            async with original(*values, **named) as value:
                yield value
        finally:
            _here.reset(token)
        await watcher.after(step)

    return functools.wraps(original)(enter)


class _Killer:
    """Kills this process at one point."""

    def __init__(self, name: str, where: str, count: int) -> None:
        self._name, self._where, self._left = name, where, count

    async def before(self, step: Step) -> None:
        self._pass(step, "before")

    async def after(self, step: Step) -> None:
        self._pass(step, "after")

    def _pass(self, step: Step, where: str) -> None:
        if (step.name, where) == (self._name, self._where):
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def armed(environment: Mapping[str, str]) -> Iterator[None]:
    """Around all that a server process does. Raises Unusable where ONHAND_CRASH_AT names no point."""
    text = environment.get(VARIABLE)
    if not text:
        yield
        return
    name, _, rest = text.partition(":")
    where, _, count = rest.partition(":")
    if name not in STEPS or where not in ("before", "after") or not (count or "1").isdecimal() or count == "0":
        raise Unusable(
            f"{VARIABLE} is {text!r}: give <step>:<before|after>[:n] with a step of {', '.join(sorted(STEPS))}"
        )
    with watched(_Killer(name, where, int(count or 1))):
        yield
