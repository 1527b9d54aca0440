"""Tables of what sets of lines cost at least, as the search uses them: its bound, and where they say all, its answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import compress
from typing import NamedTuple

from onhand.domain.sourcing import cover
from onhand.domain.sourcing.assign import Problem

TABLE_LINES_MAX = 11
"""Lines that are in the tables, those that the fewest locations have."""
LISTED_MAX = 100_000
"""Entries of a table that lists what each location may bring, each of its sets for itself."""


class Tables(ABC):
    """What sets of lines cost at least, by how many locations may be used. Sets, here and in the search, are bits by line.

    `lines`: those that the tables know, of `count` lines.
    """

    def __init__(self, lines: Sequence[int], count: int) -> None:
        self.is_all = len(lines) == count
        self._lines = lines
        self._everything = (1 << len(lines)) - 1
        self._is_in_order = all(bit == n for bit, n in enumerate(lines))
        self._known: dict[int, int] = {}

    @abstractmethod
    def least(self, count: int, lines: int) -> int:
        """What a set costs at least, by so many locations."""

    @abstractmethod
    def locations(self, count: int, lines: int) -> list[int]:
        """Who brings a set at the least cost, by so many locations."""

    def _set_of(self, lines: int) -> int:
        if self._is_in_order:
            return lines & self._everything
        if lines not in self._known:
            self._known[lines] = sum([1 << bit for bit, n in enumerate(self._lines) if lines >> n & 1])
        return self._known[lines]


class _Way(NamedTuple):
    """How a set is brought at the least cost: by so many locations, of which `at` (NOBODY: it is given up) leaves `rest`."""

    cost: int
    parcels: int
    at: int
    rest: int


class Covers(Tables):
    """Where only openings cost anything, so that who is used brings all that it has. Worked out for the sets that are asked for.

    Of a set its rarest line is brought by somebody (or given up): those who have it are tried, the cheapest first, and what
    they leave is a smaller set. Who has no more than another that costs less is never tried.
    """

    def __init__(
        self,
        lines: Sequence[int],
        count: int,
        having: Sequence[tuple[int, int, int]],
        give_up: Sequence[int],
        nothing: int,
    ) -> None:
        """`lines`: the rarest first. `having`: (location, the set that it has, its opening)."""
        super().__init__(lines, count)
        self._give_up = {1 << bit: each for bit, each in enumerate(give_up)}
        # Cost and location as one number: the cheapest first, and of those that cost the same the first.
        shift = max(at for at, _, _ in having).bit_length()
        numbers = [(lines, cost << shift | at) for at, lines, cost in having]
        least = cover.closed(len(lines), numbers, nothing << shift)
        self._single = [number >> shift for number in least]
        self._who = [number & (1 << shift) - 1 for number in least]
        self._cheapest = self._single[0]
        self._of_line: dict[int, list[tuple[int, int, int]]] = {1 << bit: [] for bit in range(len(lines))}
        for (at, has, cost), (_, number) in zip(having, numbers, strict=True):
            if least[has] == number:
                for bit, those in self._of_line.items():
                    if has & bit:
                        those.append((cost, ~has, at))
        for those in self._of_line.values():
            those.sort()
        self._any: list[_Way | None] = [_Way(0, 0, cover.NOBODY, 0), *[None] * self._everything]
        self._layers: dict[tuple[int, int], _Way] = {}

    def least(self, count: int, lines: int) -> int:
        """What a set costs at least, by so many locations."""
        return self._way(max(0, count), self._set_of(lines)).cost

    def locations(self, count: int, lines: int) -> list[int]:
        """Who brings a set at the least cost, by so many locations."""
        found, left = [], self._set_of(lines)
        while left:
            way = self._way(count, left)
            if way.at != cover.NOBODY:
                found.append(way.at)
                count -= 1
            left = way.rest
        return found

    def _way(self, count: int, lines: int) -> _Way:
        """How so many locations bring a set: as any number would, where that needs no more."""
        way = self._any[lines]
        if way is None:
            way = self._any[lines] = self._work_out(lines, None)
        if way.parcels <= count:
            return way
        layered = self._layers.get((count, lines))
        if layered is None:
            layered = self._layers[count, lines] = self._work_out(lines, count)
        return layered

    def _work_out(self, lines: int, count: int | None) -> _Way:
        rarest = lines & -lines
        given_up = self._give_up[rarest]
        best, parcels, who, left = self._single[lines], 1, self._who[lines], 0
        if count == 0 or best >= given_up:
            way = self._then(count, lines ^ rarest)
            if count == 0 or given_up + way.cost < best:
                best, parcels, who, left = given_up + way.cost, way.parcels, cover.NOBODY, lines ^ rarest
        if count == 0:
            return _Way(best, parcels, who, left)
        fewer = None if count is None else count - 1
        single, every, one = self._single, self._any, self._cheapest
        two = one + one
        for cost, others, at in self._of_line[rarest]:
            if cost + one >= best:
                break  # what one does not bring all of takes another
            rest = lines & others
            alone = single[rest]
            if cost + (alone if alone < two else two) < best:
                # The way itself where it is known: most of them are.
                known = every[rest] if fewer is None else None
                way = self._then(fewer, rest) if known is None else known
                if cost + way[0] < best:
                    best, parcels, who, left = cost + way[0], 1 + way[1], at, rest
        return _Way(best, parcels, who, left)

    def _then(self, count: int | None, lines: int) -> _Way:
        if count is not None:
            return self._way(count, lines)
        way = self._any[lines]
        if way is None:
            way = self._any[lines] = self._work_out(lines, None)
        return way


class Listed(Tables):
    """Where units cost something too: every division of every set, from what each set costs by one location.

    `give_up`: what it costs not to bring each of the lines.
    """

    def __init__(self, lines: Sequence[int], count: int, singles: cover.Singles, give_up: Sequence[int]) -> None:
        super().__init__(lines, count)
        self._singles, self._give_up = singles, give_up
        self._any = cover.together(singles, give_up)
        self._layers = [cover.nobody(give_up)]

    def least(self, count: int, lines: int) -> int:
        """What a set costs at least, by so many locations."""
        known = self._set_of(lines)
        return self._table(count, known).cost[known]

    def locations(self, count: int, lines: int) -> list[int]:
        """Who brings a set at the least cost, by so many locations."""
        found, left = [], self._set_of(lines)
        while left:
            least = self._table(count, left)
            fewer = least if least is self._any else self._layers[count - 1]
            part, who = cover.parts(self._singles, self._give_up, least, fewer, left)
            if who != cover.NOBODY:
                found.append(who)
                count -= 1
            left ^= part
        return found

    def _table(self, count: int, lines: int) -> cover.Least:
        """The table that knows what a set costs by so many locations: that for any number, where it needs no more."""
        count = max(0, count)
        if self._any.parcels[lines] <= count:
            return self._any
        while len(self._layers) <= count:
            self._layers.append(cover.together(self._singles, self._give_up, self._layers[-1]))
        return self._layers[count]


def touching(problem: Problem, closed: Sequence[int]) -> Tables:
    """Openings alone. A location that has any unit of a line counts as if it had all of it: right for whole lines, else a bound.

    What units cost comes on top, and is not paid for what is given up: of a line that may be divided, one unit.
    """
    count, per_unit, stock = len(problem.needs), problem.per_unit, problem.stock
    columns = list(zip(*[stock[at] for at in closed], strict=True))
    lacking = [column.count(0) for column in columns]
    lines = sorted(range(count), key=lambda n: -lacking[n])[:TABLE_LINES_MAX]
    bits = [1 << bit for bit in range(len(lines))]
    if lines == list(range(count)):
        sets = [sum(compress(bits, stock[at])) for at in closed]
    else:
        sets = [sum(compress(bits, row)) for row in zip(*[columns[n] for n in lines], strict=True)]
    dearest = [0] * count if per_unit is None else [max(column) for column in zip(*per_unit, strict=True)]
    give_up = [(problem.short - dearest[n]) * (1 if problem.splits_units else problem.needs[n]) for n in lines]
    having = list(zip(closed, sets, map(problem.opening.__getitem__, closed), strict=True))
    return Covers(lines, count, having, give_up, nothing(problem))


def listing(problem: Problem, closed: Sequence[int], fills: Sequence[int], most: int) -> Tables | None:
    """With what units cost, and no more than a location has room for: what each may bring is listed, set by set.

    Where units may be divided it is a bound: a line counts as brought by the cheapest of those that bring it, and its other
    units cost as much at least. What no plan does that costs `most` or less is left out. None where that is too much.
    """
    lines = range(len(problem.needs))
    if len(lines) > TABLE_LINES_MAX:
        return None
    costs = [_costs(problem, n) for n in lines]
    rows: list[tuple[int, Sequence[int], int, Sequence[int], int | None]] = []
    entries = 0
    for at in closed:
        spare = most - sum(fills) - problem.opening[at]
        of_line = [cost.get(at, 0) for cost in costs]
        may_bring = [n for n in lines if problem.stock[at][n] and of_line[n] - fills[n] <= spare]
        rows.append((at, may_bring, problem.opening[at], of_line, None if problem.splits_units else problem.room[at]))
        entries += 1 << len(may_bring)
    if entries > LISTED_MAX:
        return None
    singles = cover.listed(len(lines), rows, problem.needs, nothing(problem))
    give_up = [problem.short * (1 if problem.splits_units else need) for need in problem.needs]
    return Listed(lines, len(lines), singles, give_up)


def nothing(problem: Problem) -> int:
    """More than any plan costs."""
    return problem.short * (sum(problem.needs) + 1)


def _costs(problem: Problem, line: int) -> dict[int, int]:
    """What a line costs at least, by location, if that is the cheapest of those that bring it; {} where units cost nothing."""
    per_unit, need = problem.per_unit, problem.needs[line]
    if per_unit is None:
        return {}
    having = [at for at in range(len(problem.stock)) if problem.stock[at][line]]
    if not problem.splits_units or need == 1:
        return {at: need * per_unit[at][line] for at in having}
    having.sort(key=lambda at: -per_unit[at][line])
    costs: dict[int, int] = {}
    dearer: list[tuple[int, int]] = []
    for at in having:  # the dearest first
        dearer.append((per_unit[at][line], problem.stock[at][line]))
        cost, left = 0, need
        for each, stock in reversed(dearer):
            taken = min(left, stock)
            cost, left = cost + taken * each, left - taken
            if not left:
                break
        costs[at] = cost  # what is missing is short, which costs more
    return costs
