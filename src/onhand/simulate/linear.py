"""Whether calls on one integer can have happened one after the other, each at a moment between its begin and its end.

The integer is ATP before floors of one sku at one location. The search is that of Wing and Gong with Lowe's just-in-time
linearization: calls are followed in the order of their begins and ends; a call takes effect at the latest when it ends; a state
is the set of the calls under way that have taken effect, and states met before are not entered again. Reads change nothing, so
each counts as soon as it can.

What is permitted besides: a read may show less by units that a call under way, or one whose outcome was unknown, may hold in
the gate (`Hold`). Never more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

NODES_MAX = 200_000
"""States that are entered for one position before the search gives up on it."""
STATES_MAX = 4_000
"""States that are kept at one moment."""


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


class _Search:
    def __init__(self, moves: Sequence[Move], reads: Sequence[Read], holds: Sequence[Hold]) -> None:
        self.moves, self.reads = moves, reads
        self.free_holds = [_overlapping(read, [h for h in holds if h.of is None]) for read in reads]
        self.held = [_sums([h.units for h in mine]) for mine in self.free_holds]
        own = [h for h in holds if h.of is not None]
        self.own = [_overlapping(read, own) for read in reads]
        self.own_units: dict[int, int] = {h.of: h.units for h in own if h.of is not None}
        self.base = 0
        self.open_moves: set[int] = set()
        self.open_reads: set[int] = set()
        self.nodes = 0

    def value(self, done: frozenset[int]) -> int:
        return self.base + sum(self.moves[n].delta for n in done)

    def counted(self, done: frozenset[int], value: int, seen: frozenset[int]) -> frozenset[int]:
        """The reads that have counted once this value was there."""
        more = [n for n in self.open_reads - seen if self.fits(n, value, done)]
        return seen.union(more) if more else seen

    def fits(self, number: int, value: int, done: frozenset[int]) -> bool:
        held = self.held[number]
        for hold in self.own[number]:
            if hold.of in self.open_moves and hold.of not in done:
                held |= held << hold.units
        return _fits(self.reads[number], value, held)

    def choices(self, done: frozenset[int], value: int) -> list[int]:
        """The moves that may take effect next. Of those that are alike only the one that ends first."""
        first: dict[tuple[int, int | None, int], int] = {}
        for n in self.open_moves - done:
            move = self.moves[n]
            if move.need is not None and value < move.need:
                continue
            alike = move.delta, move.need, self.own_units.get(n, 0)
            if alike not in first or self.moves[first[alike]].end > move.end:
                first[alike] = n
        return list(first.values())

    def until(self, states: set[State], is_over: Any) -> set[State] | None:
        """All states reached by letting moves take effect until `is_over(state)`; None where there are too many."""
        reached: set[State] = set()
        visited: set[State] = set()
        stack = list(states)
        while stack:
            state = stack.pop()
            if state in visited:
                continue
            visited.add(state)
            self.nodes += 1
            if self.nodes > NODES_MAX:
                return None
            if is_over(state):
                reached.add(state)
                continue
            done, seen = state
            value = self.value(done)
            for n in self.choices(done, value):
                after = done | {n}
                stack.append((after, self.counted(after, value + self.moves[n].delta, seen)))
        return reached if len(reached) <= STATES_MAX else None

    def run(self) -> Verdict:
        events = sorted(
            [(m.begin, 0, 0, n) for n, m in enumerate(self.moves)]
            + [(m.end, 1, 0, n) for n, m in enumerate(self.moves)]
            + [(r.begin, 0, 1, n) for n, r in enumerate(self.reads)]
            + [(r.end, 1, 1, n) for n, r in enumerate(self.reads)]
        )
        states: set[State] = {(frozenset(), frozenset())}
        for when, is_end, is_read, n in events:
            if when == float("inf"):
                break
            if not is_end:
                (self.open_reads if is_read else self.open_moves).add(n)
                if is_read:
                    states = {(done, self.counted(done, self.value(done), seen)) for done, seen in states}
                continue
            before = states
            place = 1 if is_read else 0
            found = self.until(states, lambda state, n=n, place=place: n in state[place])
            if found is None:
                return Verdict(None, self.nodes, self.reads[n] if is_read else self.moves[n])
            if not found:
                values = sorted({self.value(done) for done, _ in before})
                return Verdict(False, self.nodes, self.reads[n] if is_read else self.moves[n], tuple(values[:20]))
            if is_read:
                self.open_reads.discard(n)
                states = {(done, seen - {n}) for done, seen in found}
            else:
                self.open_moves.discard(n)
                self.base += self.moves[n].delta
                states = {(done - {n}, seen) for done, seen in found}
        return Verdict(True, self.nodes)


def _overlapping(read: Read, holds: Sequence[Hold]) -> list[Hold]:
    return [h for h in holds if h.begin <= read.end and h.end >= read.begin]


def search(moves: Sequence[Move], reads: Sequence[Read], holds: Sequence[Hold]) -> Verdict:
    """Looks for an order in which everything is possible."""
    return _Search(moves, reads, holds).run()


class Bounds(NamedTuple):
    """A read, or a decision, that no order can explain: `low` and `high` are the least and the most that was possible."""

    call: Move | Read
    low: int
    high: int


def outside_bounds(moves: Sequence[Move], reads: Sequence[Read], holds: Sequence[Hold]) -> list[Bounds]:
    """Reads, and decisions, that are impossible whatever the order: weaker than the search, and always decided.

    The most there can have been: all that was given by the end of the call, less what was certainly taken before it began.
    """
    takes = [m for m in moves if m.delta < 0]
    gives = [m for m in moves if m.delta > 0]
    found = []
    for read in reads:
        high = _total(gives, by_begin=read.end) + _total(takes, by_end=read.begin)
        low = _total(gives, by_end=read.begin) + _total(takes, by_begin=read.end)
        low -= sum(h.units for h in _overlapping(read, holds))
        most = max(0, high + max(read.freed) - read.kept)
        least = max(0, low + min(read.freed) - read.kept)
        if not least <= read.shown <= most:
            found.append(Bounds(read, least, most))
    for move in takes:
        if move.need is None or move.end == float("inf"):
            continue
        high = _total(gives, by_begin=move.end) + _total(takes, by_end=move.begin)
        if high < move.need:
            found.append(Bounds(move, move.need, high))
    return found


def _total(moves: Sequence[Move], *, by_begin: float | None = None, by_end: float | None = None) -> int:
    """The sum of the moves that had begun by a moment, or ended before one."""
    if by_begin is not None:
        return sum(m.delta for m in moves if m.begin <= by_begin)
    assert by_end is not None
    return sum(m.delta for m in moves if m.end < by_end)
