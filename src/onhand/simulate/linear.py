"""Whether calls on one integer can have happened one after the other, each at a moment between its begin and its end.

The integer is ATP before floors of one sku at one location. The search is that of Wing and Gong with Lowe's just-in-time
linearization: calls are followed in the order of their begins and ends; a call takes effect at the latest when it ends; a state
is the set of the calls under way that have taken effect, and states met before are not entered again. Reads change nothing, so
each counts as soon as it can.

What is permitted besides: a read may show less by units that a call under way, or one whose outcome was unknown, may hold in
the gate (`Hold`). Never more.
"""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

NODES_MAX = 60_000
"""States that are entered for one position before the search gives up on it."""


@dataclass(frozen=True)
class Move:
    """What changes the integer. `need`: a decision, possible only where the integer is at least this before."""

    begin: float
    end: float
    delta: int
    need: int | None = None
    label: Any = None


@dataclass(frozen=True)
class Read:
    """What shows max(0, integer + freed - kept) for one `freed` of those given."""

    begin: float
    end: float
    shown: int
    kept: int = 0
    freed: tuple[int, ...] = (0,)
    label: Any = None


@dataclass(frozen=True)
class Hold:
    """Units that may be, or not be, taken in the gate by a call between two moments.

    `of` is the index of the call's own move, where the hold cannot be beside that move: it is its beginning.
    """

    begin: float
    end: float
    units: int
    of: int | None = None


class Verdict(NamedTuple):
    """`is_possible` is None where the search gave up; `at` is the call that cannot be placed, `values` what was possible then."""

    is_possible: bool | None
    nodes: int
    at: Move | Read | None = None
    values: tuple[int, ...] = ()


def _fits(read: Read, value: int, held: int) -> bool:
    """Whether a read can show what it showed; `held` has bit n set if n units may be held besides."""
    for freed in read.freed:
        room = value + freed - read.kept
        if read.shown == 0:
            if room <= 0 or held >> room:
                return True
        elif room >= read.shown and held >> (room - read.shown) & 1:
            return True
    return False


def _sums(units: Sequence[int]) -> int:
    sums = 1
    for n in units:
        sums |= sums << n
    return sums


State = tuple[frozenset[int], frozenset[int]]
"""Moves under way that have taken effect, and reads under way that have counted."""


class _Event(NamedTuple):
    """A begin or an end. What is under way then, and the sum of what has ended, follow from the times alone."""

    is_end: bool
    is_read: bool
    number: int
    moves: frozenset[int]
    reads: frozenset[int]
    base: int


class _GaveUp(Exception):
    pass


class _Search:
    def __init__(self, moves: Sequence[Move], reads: Sequence[Read], holds: Sequence[Hold]) -> None:
        self.moves, self.reads = moves, reads
        free = [h for h in holds if h.of is None]
        self.held = [_sums([h.units for h in mine]) for mine in _overlapping(reads, free)]
        own = [h for h in holds if h.of is not None]
        self.own = _overlapping(reads, own)
        self.own_units: dict[int, int] = {h.of: h.units for h in own if h.of is not None}
        self.events = self._events()
        self.nodes = 0

    def _events(self) -> list[_Event]:
        times = [(m.begin, 0, 0, n) for n, m in enumerate(self.moves)]
        times += [(m.end, 1, 0, n) for n, m in enumerate(self.moves)]
        times += [(r.begin, 0, 1, n) for n, r in enumerate(self.reads)]
        times += [(r.end, 1, 1, n) for n, r in enumerate(self.reads)]
        moves: frozenset[int] = frozenset()
        reads: frozenset[int] = frozenset()
        base, events = 0, []
        for when, is_end, is_read, n in sorted(times):
            if when == float("inf"):
                break
            if not is_end:
                moves, reads = (moves, reads | {n}) if is_read else (moves | {n}, reads)
            events.append(_Event(bool(is_end), bool(is_read), n, moves, reads, base))
            if is_end:
                moves, reads = (moves, reads - {n}) if is_read else (moves - {n}, reads)
                base += 0 if is_read else self.moves[n].delta
        return events

    def value(self, event: _Event, done: frozenset[int]) -> int:
        return event.base + sum(self.moves[n].delta for n in done)

    def counted(self, event: _Event, done: frozenset[int], value: int, seen: frozenset[int]) -> frozenset[int]:
        """The reads that have counted once this value was there."""
        more = [n for n in event.reads - seen if self.fits(event, n, value, done)]
        return seen.union(more) if more else seen

    def fits(self, event: _Event, number: int, value: int, done: frozenset[int]) -> bool:
        held = self.held[number]
        for hold in self.own[number]:
            if hold.of in event.moves and hold.of not in done:
                held |= held << hold.units
        return _fits(self.reads[number], value, held)

    def choices(self, event: _Event, done: frozenset[int], value: int) -> list[int]:
        """The moves that may take effect next, those that end first before others; of those that are alike only the first."""
        first: dict[tuple[int, int | None, int], int] = {}
        for n in event.moves - done:
            move = self.moves[n]
            if move.need is not None and value < move.need:
                continue
            alike = move.delta, move.need, self.own_units.get(n, 0)
            if alike not in first or self.moves[first[alike]].end > move.end:
                first[alike] = n
        return sorted(first.values(), key=lambda n: self.moves[n].end)

    def after(self, event: _Event, state: State) -> Iterator[State]:
        """The states that can follow an event, those first that are near to what it asks for, with few moves."""
        done, seen = state
        if not event.is_end:
            yield (done, self.counted(event, done, self.value(event, done), seen)) if event.is_read else state
            return
        n, visited, order = event.number, {state}, itertools.count()
        waiting = [(0, 0, state)]
        while waiting:
            _, _, (done, seen) = heapq.heappop(waiting)
            self.nodes += 1
            if self.nodes > NODES_MAX:
                raise _GaveUp
            if n in (seen if event.is_read else done):
                yield (done, seen - {n}) if event.is_read else (done - {n}, seen)
                continue
            value = self.value(event, done)
            for move in self.choices(event, done, value):
                next_done, next_value = done | {move}, value + self.moves[move].delta
                found = next_done, self.counted(event, next_done, next_value, seen)
                if found not in visited:
                    visited.add(found)
                    far = 2 * self.missing(event, next_value, found) + len(next_done)
                    heapq.heappush(waiting, (far, next(order), found))

    def missing(self, event: _Event, value: int, state: State) -> int:
        """By how many units a value is off what the end of an event needs: a guess, which only orders what is tried."""
        if event.number in state[1 if event.is_read else 0]:
            return 0
        if event.is_read:
            read = self.reads[event.number]
            return abs(read.shown + read.kept - read.freed[-1] - value)
        need = self.moves[event.number].need
        return 0 if need is None else max(0, need - value)

    def run(self) -> Verdict:
        """Depth first: where an order exists, it is mostly the first that is tried."""
        entered: set[tuple[int, State]] = set()
        deepest, values = 0, set[int]()
        path: list[Iterator[State]] = [iter([(frozenset[int](), frozenset[int]())])]
        try:
            while path:
                state = next(path[-1], None)
                if state is None:
                    path.pop()
                    continue
                depth = len(path) - 1
                if depth == len(self.events):
                    return Verdict(True, self.nodes)
                if (depth, state) in entered:
                    continue
                entered.add((depth, state))
                event = self.events[depth]
                if depth > deepest:
                    deepest, values = depth, set()
                if depth == deepest:
                    values.add(self.value(event, state[0]))
                path.append(self.after(event, state))
        except _GaveUp:
            return Verdict(None, self.nodes, self._call(deepest))
        return Verdict(False, self.nodes, self._call(deepest), tuple(sorted(values)[:20]))

    def _call(self, depth: int) -> Move | Read | None:
        if depth >= len(self.events):
            return None
        event = self.events[depth]
        return self.reads[event.number] if event.is_read else self.moves[event.number]


def _overlapping(reads: Sequence[Read], holds: Sequence[Hold]) -> list[list[Hold]]:
    """For each read the holds that may have been there during it."""
    waiting = sorted(holds, key=lambda h: h.begin)
    begins = [h.begin for h in waiting]
    found: list[list[Hold]] = [[] for _ in reads]
    active: list[Hold] = []
    begun = 0
    for n in sorted(range(len(reads)), key=lambda n: reads[n].begin):
        read = reads[n]
        now = bisect_right(begins, read.begin)
        active = [h for h in (*active, *waiting[begun:now]) if h.end >= read.begin]
        begun = now
        found[n] = [*active, *waiting[now : bisect_right(begins, read.end)]]
    return found


def search(moves: Sequence[Move], reads: Sequence[Read], holds: Sequence[Hold]) -> Verdict:
    """Looks for an order in which everything is possible."""
    return _Search(moves, reads, holds).run()


class Bounds(NamedTuple):
    """What a read can have shown, or a decision can have found, whatever the order of the calls."""

    call: Move | Read
    low: int
    high: int

    @property
    def is_possible(self) -> bool:
        """Whether the call is within them."""
        if isinstance(self.call, Read):
            return self.low <= self.call.shown <= self.high
        return self.call.need is None or self.call.need <= self.high


def bounds(moves: Sequence[Move], reads: Sequence[Read], holds: Sequence[Hold]) -> list[Bounds]:
    """Of every read and every decision that ended: weaker than the search, and always decided.

    The most there can have been: all that was given by the end of the call, less what was certainly taken before it began.
    """
    takes, gives = _Totals([m for m in moves if m.delta < 0]), _Totals([m for m in moves if m.delta > 0])
    found = []
    for read, held in zip(reads, _overlapping(reads, holds), strict=True):
        high = gives.begun(read.end) + takes.ended(read.begin)
        low = gives.ended(read.begin) + takes.begun(read.end)
        low -= sum(h.units for h in held)
        most = max(0, high + max(read.freed) - read.kept)
        found.append(Bounds(read, max(0, low + min(read.freed) - read.kept), most))
    for move in moves:
        if move.delta < 0 and move.need is not None and move.end != float("inf"):
            low = gives.ended(move.begin) + takes.begun(move.end) - move.delta
            found.append(Bounds(move, low, gives.begun(move.end) + takes.ended(move.begin)))
    return found


class _Totals:
    """Sums of moves by time."""

    def __init__(self, moves: Sequence[Move]) -> None:
        begins, ends = sorted((m.begin, m.delta) for m in moves), sorted((m.end, m.delta) for m in moves)
        self._begins, self._ends = [begin for begin, _ in begins], [end for end, _ in ends]
        self._by_begin = [0, *itertools.accumulate(delta for _, delta in begins)]
        self._by_end = [0, *itertools.accumulate(delta for _, delta in ends)]

    def begun(self, moment: float) -> int:
        """Of those that had begun by a moment."""
        return self._by_begin[bisect_right(self._begins, moment)]

    def ended(self, moment: float) -> int:
        """Of those that had ended before a moment."""
        return self._by_end[bisect_left(self._ends, moment)]
