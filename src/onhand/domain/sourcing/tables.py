"""Tables of what sets of lines cost at least, as the search uses them: its bound, and where they say all, its answer."""

from __future__ import annotations

from collections.abc import Sequence

from onhand.domain.sourcing import cover
from onhand.domain.sourcing.assign import Problem

TABLE_LINES_MAX = 11
"""Lines that are in the tables, those that the fewest locations have: 3^11 / 2 steps at the most."""
LISTED_MAX = 100_000
"""Entries of a table that lists what each location may bring, each of its sets for itself."""


class Tables:
    """Costs of sets of lines, by how many locations may be used. Sets, here and in the search, are bits by line.

    `lines`: those that the tables know. `count`: of all. `give_up`: what it costs not to bring each of them.
    """

    def __init__(self, lines: Sequence[int], count: int, singles: cover.Singles, give_up: Sequence[int]) -> None:
        self.is_all = len(lines) == count
        self._lines = lines
        self._known: dict[int, int] = {}
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

    def _set_of(self, lines: int) -> int:
        if self.is_all:
            return lines
        if lines not in self._known:
            self._known[lines] = sum([1 << bit for bit, n in enumerate(self._lines) if lines >> n & 1])
        return self._known[lines]

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
    count, per_unit = len(problem.needs), problem.per_unit
    having = [sum([1 for at in closed if problem.stock[at][n]]) for n in range(count)]
    lines = sorted(sorted(range(count), key=having.__getitem__)[:TABLE_LINES_MAX])
    bits = [(1 << bit, n) for bit, n in enumerate(lines)]
    singles = cover.closed(
        len(lines),
        ((at, sum([bit for bit, n in bits if problem.stock[at][n]]), problem.opening[at]) for at in closed),
        nothing(problem),
    )
    dearest = [0] * count if per_unit is None else [max(column) for column in zip(*per_unit, strict=True)]
    give_up = [(problem.short - dearest[n]) * (1 if problem.splits_units else problem.needs[n]) for n in lines]
    return Tables(lines, count, singles, give_up)


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
    return Tables(lines, len(lines), singles, give_up)


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
