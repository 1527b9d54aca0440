"""Who brings how much once it is settled which locations are used: the cheapest way, exactly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

NOBODY = -1


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Numbers only: locations and lines are positions in lists. Costs are 0 or more; the least sum of them is wanted.

    `stock[location][line]` is at most the need. Without `splits_units` it is the need or 0, and each line comes whole from one
    location or not at all.
    """

    needs: Sequence[int]
    stock: Sequence[Sequence[int]]
    opening: Sequence[int]
    """What it costs to use a location at all; nothing for one that is `opened`."""
    per_unit: Sequence[Sequence[int]] | None
    """What a unit costs, [location][line]; None: nothing."""
    room: Sequence[int | None]
    """Units that a location can take on; None: any number."""
    short: int
    """What a unit costs that nobody brings: more than all the rest together."""
    splits_units: bool
    more_max: int
    """How many locations may be used beyond those opened."""
    opened: frozenset[int] = frozenset()


class Assigned(NamedTuple):
    """`takes[location][line]`: only locations that bring something. `cost`: of units alone, missing ones too."""

    cost: int
    takes: dict[int, list[int]]


def assign(problem: Problem, used: Sequence[int]) -> Assigned:
    """The cheapest assignment to the locations that are used."""
    simple = _by_line(problem, used)
    if all((room := problem.room[at]) is None or sum(taken) <= room for at, taken in simple.takes.items()):
        return simple
    return (_Flow if problem.splits_units else _Packing)(problem, used).best()


def _by_line(problem: Problem, used: Sequence[int]) -> Assigned:
    """Each line for itself, from where a unit is cheapest: right where no location's room is exceeded by it."""
    takes: dict[int, list[int]] = {}
    cost, per_unit = 0, problem.per_unit
    for line, need in enumerate(problem.needs):
        order = used if per_unit is None else sorted(used, key=lambda at: per_unit[at][line])
        for at in order:
            taken = min(need, problem.stock[at][line])
            if taken:
                takes.setdefault(at, [0] * len(problem.needs))[line] = taken
                cost += taken * per_unit[at][line] if per_unit is not None else 0
                need -= taken
                if not need:
                    break
        cost += need * problem.short
    return Assigned(cost, takes)


class _Flow:
    """Units that may be divided and locations with limited room: successive cheapest paths (Ahuja, Magnanti, Orlin, 9.7).

    NOBODY is a location like any other: it has room for every unit, and takes it at the cost of one that is missing.
    """

    def __init__(self, problem: Problem, used: Sequence[int]) -> None:
        self._problem = problem
        self._lines = range(len(problem.needs))
        self._used = [*used, NOBODY]
        self._takes = {at: [0] * len(problem.needs) for at in self._used}
        self._room = {at: _room(problem, at) for at in used} | {NOBODY: sum(problem.needs)}

    def best(self) -> Assigned:
        """The cheapest of all ways."""
        cost = 0
        for line, need in enumerate(self._problem.needs):
            while need:
                units, each = self._push(line, need)
                need, cost = need - units, cost + units * each
        return Assigned(cost, {at: taken for at, taken in self._takes.items() if at != NOBODY and any(taken)})

    def _push(self, line: int, need: int) -> tuple[int, int]:
        """Brings units of a line by the cheapest chain: a location hands units of other lines on, to make room for them."""
        takes = self._takes
        best = {at: self._unit(at, line) for at in self._used if self._stock(at, line) > takes[at][line]}
        came: dict[int, tuple[int, int] | None] = dict.fromkeys(best)
        is_changed = True
        while is_changed:
            is_changed = False
            for at, other, to in self._hand_ons(list(best)):
                through = best[at] - self._unit(at, other) + self._unit(to, other)
                if to not in best or through < best[to]:
                    best[to], came[to], is_changed = through, (at, other), True
        end = at = min((at for at in best if self._room[at]), key=best.__getitem__)
        units, path = min(need, self._room[end]), []
        while (step := came[at]) is not None:
            before, other = step
            path.append((before, at, other))
            units = min(units, takes[before][other], self._stock(at, other) - takes[at][other])
            at = before
        units = min(units, self._stock(at, line) - takes[at][line])
        takes[at][line] += units
        for before, after, other in path:
            takes[before][other] -= units
            takes[after][other] += units
        self._room[end] -= units
        return units, best[end]

    def _hand_ons(self, reached: Sequence[int]) -> Iterator[tuple[int, int, int]]:
        """(location, line of which it has units, another location that could take one of them)."""
        for at in reached:
            for other in self._lines:
                if self._takes[at][other]:
                    for to in self._used:
                        if to != at and self._stock(to, other) > self._takes[to][other]:
                            yield at, other, to

    def _unit(self, at: int, line: int) -> int:
        per_unit = self._problem.per_unit
        return self._problem.short if at == NOBODY else 0 if per_unit is None else per_unit[at][line]

    def _stock(self, at: int, line: int) -> int:
        return self._problem.needs[line] if at == NOBODY else self._problem.stock[at][line]


class _Packing:
    """Whole lines and locations with limited room: all ways, the dearest lines first, cut where the rest cannot pay."""

    def __init__(self, problem: Problem, used: Sequence[int]) -> None:
        self._problem = problem
        self._used = used
        self._order = sorted(range(len(problem.needs)), key=lambda line: -problem.needs[line])
        self._least = [0] * (len(self._order) + 1)
        for n in range(len(self._order) - 1, -1, -1):
            self._least[n] = self._least[n + 1] + min(
                self._cost(at, self._order[n]) for at in (*used, None) if self._can(at, self._order[n])
            )
        self._cheapest = sum(problem.needs) * problem.short + 1
        self._chosen: list[int | None] = []

    def best(self) -> Assigned:
        """The best of all ways."""
        self._go_on(0, 0, {at: _room(self._problem, at) for at in self._used}, [])
        takes: dict[int, list[int]] = {}
        for line, at in zip(self._order, self._chosen, strict=True):
            if at is not None:
                takes.setdefault(at, [0] * len(self._order))[line] = self._problem.needs[line]
        return Assigned(self._cheapest, takes)

    def _can(self, at: int | None, line: int) -> bool:
        return at is None or self._problem.stock[at][line] >= self._problem.needs[line]

    def _cost(self, at: int | None, line: int) -> int:
        per_unit = self._problem.per_unit
        each = self._problem.short if at is None else per_unit[at][line] if per_unit is not None else 0
        return each * self._problem.needs[line]

    def _go_on(self, n: int, cost: int, room: dict[int, int], chosen: list[int | None]) -> None:
        if cost + self._least[n] >= self._cheapest:
            return
        if n == len(self._order):
            self._cheapest, self._chosen = cost, list(chosen)
            return
        line = self._order[n]
        need = self._problem.needs[line]
        fitting: list[int | None] = [at for at in self._used if self._can(at, line) and room[at] >= need]
        for at in [*sorted(fitting, key=lambda at: self._cost(at, line)), None]:
            left = room if at is None else room | {at: room[at] - need}
            self._go_on(n + 1, cost + self._cost(at, line), left, [*chosen, at])


def _room(problem: Problem, at: int) -> int:
    room = problem.room[at]
    return sum(problem.needs) if room is None else room
