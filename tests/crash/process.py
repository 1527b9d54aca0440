"""A server process that dies, or loses a connection, at a point that a test chose; and the points that a call passes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from asyncpg.pool import PoolConnectionProxy
from google.protobuf.message import Message

from gateway import Gateway
from onhand.app import App
from onhand.crash import Step, under_way, watched
from onhand.domain.errors import LedgerUnavailable, Refusal
from onhand.domain.lost_stock import LostStockPolicy
from onhand.domain.payment import Provider
from onhand.payments.providers import OutcomeUnknown
from onhand.postgres import Connection, Database, NotReached
from onhand.redis import Command, GateConnections, Unreachable

QUIET_SECONDS_MAX = 30.0
"""How long a call may take with all that goes on behind its answer."""


class Fault(Enum):
    """What happens at a point."""

    CRASH = "crash"  # the process is gone: nothing of it reaches gate or ledger any more
    STALL = "stall"  # it stands still until the test lets it go on, and knows nothing of what happened meanwhile
    CUT = "cut"  # its connection is gone: it does not learn whether what it sent had an effect, and goes on


@dataclass(frozen=True)
class Point:
    """Before or after the n-th time of a step; or within it, after its k-th statement or gate command."""

    step: str
    time: int
    where: str  # before | after | statement | command
    k: int = 0

    def __str__(self) -> str:
        return (
            f"{self.where}{f' {self.k} of' if self.k else ''} {self.step}{f' ({self.time})' if self.time > 1 else ''}"
        )


@dataclass(frozen=True)
class Passed:
    """A point that was passed. `within` are the steps of the transaction; `is_open`: it was not committed then."""

    point: Point
    within: tuple[str, ...] = ()
    is_open: bool = False

    @property
    def step(self) -> tuple[str, int]:
        """The outermost step, and the how-manieth of its name."""
        return self.point.step, self.point.time


@dataclass(frozen=True)
class Outcome:
    """What a client saw of a call, if it saw anything."""

    answer: Message | None = None
    reason: str = ""
    is_dead: bool = False


GATEWAY = Gateway()
"""The gateway of all processes."""
PROCESS: ContextVar[Process | None] = ContextVar("the process whose code this is", default=None)
# A load of the gate goes on within a snapshot of the ledger: each side has its own step under way.
_OUTER: dict[str, ContextVar[tuple[str, int]]] = {
    side: ContextVar(f"the step under way at the {side}, and the how-manieth of its name", default=("", 0))
    for side in ("gate", "ledger", "provider")
}


def _side(step: Step) -> str:
    return step.name.partition(".")[0]


class Process:
    """One server process on connections of its own."""

    def __init__(self, database: Database, connections: GateConnections) -> None:
        lost = LostStockPolicy(is_resourced=True)
        providers = {Provider.STRIPE: GATEWAY}
        self.app = App(_Mortal(database, self), _Wire(connections, self), providers, lost_stock=lost)
        self.lost: frozenset[str] = frozenset()
        """Gate functions whose calls do not get through."""
        self.target: Point | None = None
        self.fault = Fault.CRASH
        self.is_hit = self.is_dead = False
        self.trace: list[Passed] = []
        self.outside: list[str] = []
        """What was sent to gate or ledger outside every step."""
        self.told: dict[str, Message] = {}
        """By request_id, of calls that carry many: what a client was told of one of them."""
        self.held: set[Connection] = set()
        self.stalled, self.go = asyncio.Event(), asyncio.Event()
        self._died = asyncio.Event()
        self._times: Counter[str] = Counter()
        self._statements: Counter[tuple[str, int]] = Counter()

    def aim(self, point: Point, fault: Fault) -> None:
        """Chooses where it dies or is cut off."""
        self.target, self.fault = point, fault

    async def run(self, work: Callable[[App], Awaitable[Any]]) -> Outcome:
        """Does something in this process, and all that follows behind the answer; or dies meanwhile."""
        others = asyncio.all_tasks()

        async def alone() -> Any:
            PROCESS.set(self)
            return await work(self.app)

        call = asyncio.create_task(alone())
        dead = asyncio.create_task(self._died.wait())
        others |= {dead}
        async with asyncio.timeout(QUIET_SECONDS_MAX):
            while not self._died.is_set() and (busy := asyncio.all_tasks() - others):
                await asyncio.wait({*busy, dead}, return_when=asyncio.FIRST_COMPLETED)
            dead.cancel()
            is_answered = call.done() and not call.cancelled()
            while busy := asyncio.all_tasks() - others:
                for task in busy:
                    task.cancel()
                for task in (await asyncio.wait(busy))[0]:
                    task.cancelled() or task.exception()  # whoever is dead complains of nothing
        if not is_answered:
            return Outcome(is_dead=True)
        error = call.exception()
        if self.is_dead and error is not None and not isinstance(error, Refusal):
            return Outcome(is_dead=True)  # another part of it met a connection that had died with it
        if isinstance(error, Refusal):
            return Outcome(None, error.reason, self.is_dead)
        if isinstance(error, Unreachable):  # of a loop, which logs it and tries again
            return Outcome(None, "UNREACHABLE", self.is_dead)
        answer = call.result()
        return Outcome(answer if isinstance(answer, Message) else None, "", self.is_dead)

    # -------------------------------------------------------------------------------------------------- what it passes
    async def begins(self, step: Step) -> None:
        """A step that is no part of another is about to begin."""
        await self.live()
        self._times[step.name] += 1
        outer = _OUTER[_side(step)]
        outer.set((step.name, self._times[step.name]))
        await self._pass(Passed(Point(*outer.get(), "before")))

    async def ended(self, step: Step) -> None:
        """It ended without an error."""
        await self.live()
        await self._pass(Passed(Point(*_OUTER[_side(step)].get(), "after")))

    async def executed(self, connection: Connection, query: str) -> None:
        """A statement was executed."""
        within = tuple(step.name for step in under_way())
        if not within:
            self.outside.append(query)
            return
        outer = _OUTER["ledger"].get()
        self._statements[outer] += 1
        passed = Passed(Point(*outer, "statement", self._statements[outer]), within, connection.is_in_transaction())
        await self._pass(passed, connection)

    async def _pass(self, passed: Passed, connection: Connection | None = None) -> None:
        self.trace.append(passed)
        if passed.point != self.target:
            return
        if self.fault is Fault.CRASH:
            await self._die()
        self.is_hit = True
        if self.fault is Fault.STALL:
            self.stalled.set()
            await self.go.wait()
        elif connection is not None:
            connection.terminate()
        elif passed.point.step.startswith("gate."):
            raise Unreachable("the connection is gone")
        elif passed.point.step.startswith("provider."):
            raise OutcomeUnknown("the connection is gone")
        else:
            raise (NotReached if passed.point.where == "before" else LedgerUnavailable)("the connection is gone")

    async def _die(self) -> None:
        self.is_hit = self.is_dead = True
        for connection in self.held:
            connection.terminate()
        self._died.set()
        await asyncio.Event().wait()

    async def live(self) -> None:
        if self.is_dead:
            raise asyncio.CancelledError

    async def send(
        self, connections: GateConnections, build: Callable[[str], Sequence[Command]], **named: Any
    ) -> list[Any]:
        """A pipeline to the gate, of which a part may be all that arrives."""
        await self.live()
        if not under_way():
            self.outside.append(str(build("")))
        outer, sent, is_lost = _OUTER["gate"].get(), 0, False

        def counted(run_id: str) -> Sequence[Command]:
            nonlocal sent, is_lost
            commands = build(run_id)
            sent = len(commands)
            names = {
                str(c[1]).removeprefix("onhand_3_") if str(c[0]).startswith("FCALL") else str(c[0]) for c in commands
            }
            if self.lost & names or "*" in self.lost:
                is_lost = True
                return [("PING",)]
            is_here = self.target is not None and (self.target.step, self.target.time) == outer
            return commands[: self.target.k] if is_here and self.target and self.target.where == "command" else commands

        replies = await connections.pipeline(counted, **named)
        if is_lost:
            raise Unreachable("the gate is not reached")
        for k in range(1, sent):
            await self._pass(Passed(Point(*outer, "command", k), tuple(step.name for step in under_way())))
        return replies


class _Mortal(Database):
    """The ledger's connections of a process, which end with it; underneath all processes share some."""

    def __init__(self, database: Database, process: Process) -> None:
        self._database = database
        self._process = process

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        await self._process.live()
        async with self._database.connection() as connection:
            self._process.held.add(connection)
            try:
                yield connection
            finally:
                self._process.held.discard(connection)


class _Wire(GateConnections):
    """The gate's connections of a process, which end with it; underneath all processes share some."""

    def __init__(self, connections: GateConnections, process: Process) -> None:
        self._connections = connections
        self._process = process

    async def pipeline(self, build: Callable[[str], Sequence[Command]], **named: Any) -> list[Any]:
        return await self._process.send(self._connections, build, **named)


@dataclass
class _Router:
    """Tells each process of its own outermost steps."""

    replaced: list[tuple[str, Any]] = field(default_factory=list)

    async def before(self, step: Step) -> None:
        process = PROCESS.get()
        if process is not None and _side(step) not in map(_side, under_way()):
            await process.begins(step)

    async def after(self, step: Step) -> None:
        process = PROCESS.get()
        if process is not None and _side(step) not in map(_side, under_way()):
            await process.ended(step)


@contextmanager
def observed() -> Iterator[None]:
    """Processes learn of their steps and statements, until the block ends."""
    names = ("execute", "executemany", "fetch", "fetchrow", "fetchval")
    originals = {name: getattr(PoolConnectionProxy, name) for name in names}

    def observing(original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def call(self: Connection, query: str, *values: Any, **named: Any) -> Any:
            result = await original(self, query, *values, **named)
            if (process := PROCESS.get()) is not None:
                await process.executed(self, query)
            return result

        return call

    try:
        for name, original in originals.items():
            setattr(PoolConnectionProxy, name, observing(original))
        with watched(_Router()):
            yield
    finally:
        for name, original in originals.items():
            setattr(PoolConnectionProxy, name, original)
