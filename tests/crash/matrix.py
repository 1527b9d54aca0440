"""A workflow times every point that it passes: the fault, the repeat or the recovery, the audit."""

from __future__ import annotations

import asyncio
import itertools
import os
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from google.protobuf.message import Message

from crash.many import CALLER, CARRIERS, each_of, reserve_many
from crash.process import PROCESS, Fault, Outcome, Passed, Point, Process
from crash.stage import LOCATIONS, Look, Stage, meaning
from onhand.app import App
from onhand.edge.method import handler_name
from shop import BREAD, MILK, NORTH, Shop

IS_WHOLE = os.environ.get("ONHAND_CRASH_MATRIX") == "whole"
"""Every statement within a transaction, and all that others may do while it stands still (`make crash-matrix`). Otherwise the
first and the last of its statements, which PostgreSQL takes back alike, and of what others may do one after the other."""
LATE_LOOPS = frozenset(("reconciling", "setting the clock"))
LOAD = "gate.load"
JOBS_IN_TURN_MAX = 8
"""How many rounds of jobs follow what happened."""

Call = Callable[[App], Awaitable[Any]]
Prepare = Callable[[Stage, Shop], Awaitable[Message | None]]


@dataclass(frozen=True)
class Scenario:
    """A way through a workflow: what leads up to it, and the call, or the step of a loop, that is hit by faults."""

    workflow: str
    how: str
    prepare: Prepare
    work: Call | None = None
    """A step of a loop; else the rpc `workflow` is called with the message that `prepare` returns."""
    lost: frozenset[str] = frozenset()
    """Gate functions that the first process does not reach."""
    refusal: str = ""
    """The reason that the call ends in, if it is to be refused."""
    is_carried_on: bool = False
    """Once it has begun, jobs bring it to its end."""
    is_tight: bool = False
    """Units that a first attempt took, and never used, are missed by a second until they are swept."""

    def __str__(self) -> str:
        return f"{self.workflow}: {self.how}"


Hit = Callable[[Scenario], Awaitable[None]]
"""Runs one with every fault at every point."""


@dataclass(frozen=True)
class Case:
    """A fault at a point, and what happens first then."""

    passed: Passed
    fault: Fault
    is_repeated_first: bool

    def __str__(self) -> str:
        inner = f" in {self.passed.within[-1]}" if len(self.passed.within) > 1 else ""
        then = "repeat, loops" if self.is_repeated_first else "loops, repeat"
        return f"{self.fault.value} {self.passed.point}{inner}; {then}"


@dataclass
class Report:
    """What became of a scenario."""

    scenario: Scenario
    points: int = 0
    """Where it was crashed."""
    states: int = 0
    """Different ones that gate and ledger were left in: each was recovered from, in every order of what follows."""
    cuts: int = 0
    """Where it lost a connection and went on."""
    stalls: int = 0
    """How often it stood still before a step that changes something, while others went on."""
    failures: list[str] = field(default_factory=list)


def caller_of(scenario: Scenario, request: Message | None) -> Call:
    """The call as a client makes it, again and again the same."""
    if scenario.work is not None:
        return scenario.work

    async def call(app: App) -> Any:
        if isinstance(request, CARRIERS):
            process = PROCESS.get()
            assert process is not None
            return await reserve_many(app, request, process.told)
        name = handler_name(scenario.workflow)
        (handler,) = (h for service in app.services.values() for h in service if hasattr(h, name))
        return await getattr(handler, name)(request, CALLER)

    return call


async def loops(app: App) -> None:
    """What a server does beside the calls, once; and reads, which bring back what nobody trusts.

    Not what repairs a difference that is there for seconds: there should be none.
    """
    for name, step, _ in app.loops():
        if name not in LATE_LOOPS:
            await step()
    found, is_stale = await app.availability.atp(LOCATIONS, [MILK, BREAD], "POS")
    assert not is_stale
    assert found


async def _receive(app: App) -> None:
    await Shop(app).receive(NORTH, {MILK: 3, BREAD: 1})


async def _receive_and_reserve(app: App) -> None:
    await _receive(app)
    await Shop(app).reserve({NORTH: {MILK: 1, BREAD: 2}})


async def recover(stage: Stage, server: Process) -> None:
    """What a server does beside the calls, until the last deadline of what is under way now has passed."""
    await _clean(server, loops)
    await stage.pass_hints()
    await _clean(server, loops)
    for _ in range(JOBS_IN_TURN_MAX):  # one may ask for another
        if not await stage.waiting_jobs():
            return
        await stage.pass_hints()
        await _clean(server, loops)
    raise AssertionError("jobs without an end")


async def _clean(server: Process, work: Call) -> Outcome:
    server.lost = frozenset()
    outcome = await server.run(work)
    assert not outcome.is_dead
    assert not outcome.reason, outcome.reason
    return outcome


def points_of(trace: Sequence[Passed]) -> list[Passed]:
    """Where a fault makes a difference of its own: not between the last statement, committed by itself, and its step's end."""
    last = Counter(passed.step for passed in trace if passed.point.where == "statement")
    found = [p for p in trace if p.point.where != "statement" or p.is_open or p.point.k < last[p.step]]
    if IS_WHOLE:
        return found
    open_in = [p.step if p.is_open and p.point.where == "statement" else None for p in found]
    around = zip(found, [None, *open_in], open_in, [*open_in[1:], None], strict=False)
    return [p for p, before, here, after in around if here is None or not before == here == after]


class Matrix:
    """Runs the cases of scenarios on a stage."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    async def run(self, scenario: Scenario) -> Report:
        """Every point of a scenario, with every fault."""
        stage, report = self.stage, Report(scenario)
        await stage.set_back("base")
        request = await self._prepare(scenario)
        await stage.keep("scene")
        call = caller_of(scenario, request)

        await recover(stage, await stage.process())
        before = await stage.digest()
        await stage.set_back("scene")
        plain = await stage.process()
        plain.lost = scenario.lost
        outcome = await plain.run(call)
        assert outcome.reason == scenario.refusal, outcome
        assert not plain.outside, plain.outside
        await audit_answered(stage, outcome)
        await audit_told(stage, plain)
        if scenario.work is None:
            await audit_tidy(stage)
        trace = list(plain.trace)
        await recover(stage, plain)
        after = await stage.digest()
        await audit_quiet(stage)
        await audit_rules(stage)

        had = await stage.first_answers(request)
        run = _Run(stage, scenario, request, call, outcome, before, after, frozenset(had))
        await run.crashes(points_of(trace), report)
        await run.cuts(points_of(trace), report)
        await run.stalls(points_of(trace), report)
        return report

    async def _prepare(self, scenario: Scenario) -> Message | None:
        request: list[Message | None] = []

        async def prepare(app: App) -> None:
            request.append(await scenario.prepare(self.stage, Shop(app)))

        await (await self.stage.process()).run(prepare)
        return request[0]


@dataclass(frozen=True)
class _Run:
    """The cases of one scenario, and what an undisturbed run of it came to."""

    stage: Stage
    scenario: Scenario
    request: Any
    call: Call
    plain: Outcome
    before: Counter[str]
    after: Counter[str]
    answered: frozenset[str]
    """Requests that had their effect."""
    _states: dict[Point, object] = field(default_factory=dict)

    async def crashes(self, points: Sequence[Passed], report: Report) -> None:
        """Dies at every point. Gate and ledger are all that outlives it: what follows is the same for the same state of them."""
        met: set[tuple[object, ...]] = set()
        orders = (True, False) if self.scenario.work is None else (True,)
        for passed in points:
            report.points += 1
            with self._reported(report, f"crash {passed.point}"):
                victim, seen = await self._hit(passed.point, Fault.CRASH)
                state = (seen.answer is not None, await self.stage.state())
                self._states[passed.point] = state
                if state in met:
                    continue
                met.add(state)
                report.states += 1
            for is_repeated_first in orders:
                case = Case(passed, Fault.CRASH, is_repeated_first)
                with self._reported(report, str(case)):
                    if is_repeated_first is not orders[0]:
                        victim, seen = await self._hit(passed.point, Fault.CRASH)
                    await self._follow(case, victim, seen)

    async def cuts(self, points: Sequence[Passed], report: Report) -> None:
        """Loses the connection before every step, after every one that changes anything, and between the parts of a load."""
        began: dict[tuple[str, int], object] = {}
        for passed in points:
            point, state = passed.point, self._states.get(passed.point)
            if point.where == "before":
                began[passed.step] = state
                if point.time > 1 and state == self._states.get(replace(point, where="after")):
                    continue  # one more of many reads
            elif passed.is_open or state == began[passed.step]:
                continue
            case = Case(passed, Fault.CUT, True)
            report.cuts += 1
            with self._reported(report, str(case)):
                await self._follow(case, *await self._hit(point, Fault.CUT))

    async def stalls(self, points: Sequence[Passed], report: Report) -> None:
        """Stands still before every step that changes something, while others sweep, rebuild, or do what it was asked for."""
        others = (self._sweep, self._rebuild, self._do_the_same)
        turns = itertools.cycle(others)
        for _ in range(zlib.crc32(str(self.scenario).encode()) % len(others)):
            next(turns)
        for passed in points:
            point = passed.point
            after = self._states.get(replace(point, where="after"))
            if point.where != "before" or after in (None, self._states[point]):
                continue
            for meanwhile in others if IS_WHOLE else (next(turns),):
                report.stalls += 1
                with self._reported(report, f"stall {point}; {meanwhile.__name__.strip('_')}"):
                    await self._stall(point, meanwhile)
            if point.step == LOAD:
                for trade, is_last_step in ((_receive, False), (_receive_and_reserve, True)):
                    report.stalls += 1
                    with self._reported(report, f"stall {point}; {trade.__name__.strip('_')}"):
                        await self._trade_within(point, trade, is_last_step)

    async def _trade_within(self, point: Point, trade: Call, is_last_step: bool) -> None:
        """Stands still in a rebuild while others trade there, so that it comes too late; perhaps dies after one more step."""
        stage = self.stage
        await stage.set_back("scene")
        server = await stage.process()
        async with self._standing(point) as (victim, _):
            assert not (await server.run(trade)).reason
            await audit_answered(stage, Outcome())
            if is_last_step:
                victim.aim(replace(point, where="after"), Fault.CRASH)
        await audit_answered(stage, Outcome())
        await recover(stage, server)
        await audit_quiet(stage)
        await audit_rules(stage)

    async def _sweep(self, server: Process) -> Outcome:
        await recover(self.stage, server)
        return Outcome()

    async def _rebuild(self, server: Process) -> Outcome:
        for place in LOCATIONS:
            await server.run(lambda app, place=place: app.rebuilder.rebuild(place, is_forced=True))  # type: ignore[misc]
        return Outcome()

    async def _do_the_same(self, server: Process) -> Outcome:
        return await server.run(self.call)

    async def _stall(self, point: Point, meanwhile: Callable[[Process], Awaitable[Outcome]]) -> None:
        stage = self.stage
        await stage.set_back("scene")
        server = await stage.process()
        async with self._standing(point) as (victim, end):
            other = await meanwhile(server)
            for place, look in (await stage.look()).items():
                assert not look.unsafe, f"while it stood still, {place}: {look}"
        (seen,) = end
        for place, look in (await stage.look()).items():
            assert not look.unsafe, f"when it went on, {place}: {look}"
        if seen.answer is not None and other.answer is not None:
            assert seen.answer == other.answer, "two answers to one request"
        answered = await self._had_effect()
        if seen.answer is not None or other.answer is not None:
            assert answered, "answered without an effect"
            await audit_answered(stage, seen)
        for process in (victim, server):
            await audit_told(stage, process)
        await recover(stage, server)
        await audit_quiet(stage)
        # Not where one attempt may have met what the other held; and a loop may have found nothing left to do.
        if not self.scenario.is_tight and self.request is not None:
            if self.scenario.is_carried_on:
                answered = await self._had_effect()
            await self._check_state(answered)
            await self._repeat(server, seen, answered)
            await recover(stage, server)
            await self._check_state(None)
            await audit_quiet(stage)
        await audit_rules(stage)

    @asynccontextmanager
    async def _standing(self, point: Point) -> AsyncIterator[tuple[Process, list[Outcome]]]:
        """A process stands still at a point while the block runs, then goes on: the list has its outcome then."""
        victim = await self.stage.process()
        victim.lost = self.scenario.lost
        victim.aim(point, Fault.STALL)
        standing = asyncio.create_task(victim.run(self.call))
        await asyncio.wait(
            {standing, reached := asyncio.create_task(victim.stalled.wait())}, return_when="FIRST_COMPLETED"
        )
        reached.cancel()
        end: list[Outcome] = []
        try:
            assert victim.is_hit, "the point was not reached"
            yield victim, end
        finally:
            victim.go.set()
            end.append(await standing)

    @contextmanager
    def _reported(self, report: Report, what: str) -> Iterator[None]:
        try:
            yield
        except AssertionError as error:
            report.failures.append(f"{what}: {error}")

    async def _hit(self, point: Point, fault: Fault) -> tuple[Process, Outcome]:
        await self.stage.set_back("scene")
        victim = await self.stage.process()
        victim.lost = self.scenario.lost
        victim.aim(point, fault)
        seen = await victim.run(self.call)
        assert victim.is_hit, "the point was not reached"
        await audit_told(self.stage, victim)
        return victim, seen

    async def _follow(self, case: Case, victim: Process, seen: Outcome) -> None:
        """What follows a fault: the repeat of the call, and what servers do by themselves. Raises AssertionError."""
        stage = self.stage
        for place, look in (await stage.look()).items():
            assert not look.unsafe, f"right after it, {place}: {look}"
        if seen.answer is not None:
            assert meaning(seen.answer) == meaning(self.plain.answer), "the answer of a call that was hit"
        answered = await self._had_effect()
        server = victim if case.fault is Fault.CUT else await stage.process()
        if not case.is_repeated_first:
            await recover(stage, server)
            if self.scenario.is_carried_on:
                answered = await self._had_effect()
            await self._check_state(answered)
            await audit_quiet(stage)
            await self._repeat(server, seen, answered)
            if await stage.waiting_jobs():
                await recover(stage, server)
        else:
            if (
                self.scenario.is_tight
                and answered.keys() < self.answered
                and any(look.orphans for look in (await stage.look()).values())
            ):
                await self._try_in_vain(server)
                return
            await self._repeat(server, seen, answered)
            await recover(stage, server)
        await self._check_state(None)
        await audit_quiet(stage)
        await audit_rules(stage)

    async def _try_in_vain(self, server: Process) -> None:
        """A repeat that an orphan is in the way of: refused, or it breaks what is kept for nobody. Safe all the same."""
        again = await server.run(self.call)
        for place, look in (await self.stage.look()).items():
            assert not look.unsafe, f"after the repeat, {place}: {look}"
        await recover(self.stage, server)
        if again.reason:
            await self._repeat(server, again, {})
            await self._check_state(None)
        await audit_quiet(self.stage)
        await audit_rules(self.stage)

    async def _had_effect(self) -> dict[str, bytes]:
        return await self.stage.first_answers(self.request)

    async def _check_state(self, answered: Mapping[str, bytes] | None) -> None:
        """What has had its effect is in the ledger, and nothing else; None: all of it has."""
        found = await self.stage.digest()
        if answered and answered.keys() < self.answered:  # of many: some rows of each
            assert not (found - (self.before | self.after)), f"too much {dict(found - (self.before | self.after))}"
            assert not ((self.before & self.after) - found), f"missing {dict((self.before & self.after) - found)}"
            return
        wanted = self.after if answered is None or answered else self.before
        if self.scenario.refusal and not answered and found == self.after:
            return  # a refusal that is counted, as of a wrong code
        assert found == wanted, (
            f"the ledger is not as after {1 if wanted is self.after else 0} effects: too much {dict(found - wanted)},"
            f" missing {dict(wanted - found)}"
        )

    async def _repeat(self, server: Process, seen: Outcome, answered: Mapping[str, bytes]) -> None:
        server.lost = frozenset()
        again = await server.run(self.call)
        assert not again.is_dead
        assert again.reason == self.scenario.refusal, f"the repeat is refused: {again.reason}"
        if self.request is None:
            return
        await audit_told(self.stage, server)
        if again.answer is not None:
            for request_id, answer in each_of(self.request, again.answer):
                if request_id in answered:
                    assert answer == type(answer).FromString(answered[request_id]), "not the first answer"
            assert seen.answer in (None, again.answer), "not the answer that was given"
            assert meaning(again.answer) == meaning(self.plain.answer), "the answer of the repeat"
        await audit_answered(self.stage, again)


async def audit_told(stage: Stage, process: Process) -> None:
    """What clients were told of some of many is in the ledger, whatever became of the others."""
    for request_id, answer in process.told.items():
        first = await stage.answered(request_id)
        assert first is not None, f"told of {request_id}, which had no effect: {answer}"
        assert answer == type(answer).FromString(first), f"told otherwise than by the first answer: {answer}"


async def audit_answered(stage: Stage, outcome: Outcome) -> None:
    """Right after an answer: what it says is seen, and no more is promised than there is."""
    for place, look in (await stage.look()).items():
        assert not look.unsafe, f"after the answer, {place}: {look}"
        assert outcome.reason or not look.behind, f"answered and not seen, {place}: {look}"


async def audit_tidy(stage: Stage) -> None:
    """An undisturbed call leaves nothing to be swept."""
    for place, look in (await stage.look()).items():
        assert look == Look(), f"after an undisturbed call, {place}: {look}"


async def audit_quiet(stage: Stage) -> None:
    """All is over: gate and ledger are the same everywhere, and no claim is left."""
    looks = await stage.look()
    assert looks.keys() == set(LOCATIONS), f"only {sorted(looks)} are trusted"
    for place, look in looks.items():
        assert look == Look(), f"when all was over, {place}: {look}"


async def audit_rules(stage: Stage) -> None:
    """What `onhand verify` checks in the ledger."""
    assert (violations := await stage.violations()) == [], violations
