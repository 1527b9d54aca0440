"""The best choice of locations, exactly where the problem is small enough; otherwise the best found, and a bound.

Choosing locations that cost something to open, for lines that cost something to bring, is facility location with few customers
and many facilities. So: all plans of one location first; then, where whole lines are brought, dynamic programming over sets of
lines, which is exact; else branch and bound over locations, with those tables as its bound, until LOOKS_MAX.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from operator import add, lt
from typing import NamedTuple

from onhand.domain.sourcing.assign import Assigned, Problem, assign
from onhand.domain.sourcing.tables import Tables, listing, nothing, touching

LOOKS_MAX = 5_000
"""Locations that branch and bound looks at, over all its nodes."""


class Found(NamedTuple):
    """`takes[location][line]`, at `cost`; no plan costs less than `bound`, and none with a location less than `least_with` it."""

    takes: dict[int, list[int]]
    cost: int
    bound: int
    least_with: list[int]
    looks: int


def search(problem: Problem, *, with_least: bool = True) -> Found:
    """The best plan, or the best found. `least_with` is empty without `with_least`."""
    return _Search(problem, with_least).run()


class _Search:
    def __init__(self, problem: Problem, with_least: bool) -> None:
        self._problem, self._with_least = problem, with_least
        self._needs, self._stock = problem.needs, problem.stock
        self._bits = [1 << n for n in range(len(self._needs))]
        self._everything = sum(self._bits)
        self._opened = sorted(problem.opened)
        self._units = list(map(sum, self._stock))
        self._closed = [at for at, units in enumerate(self._units) if units and at not in problem.opened]
        self._held = tuple(sum(self._stock[at][n] for at in self._opened) for n in range(len(self._needs)))
        self._is_limited = any(
            [room is not None and room < units for room, units in zip(problem.room, self._units, strict=True)]
        )
        self._there = list(map(sum, zip(*self._stock, strict=True))) or [0] * len(self._needs)
        self._fills = [self._fill(n) for n in range(len(self._needs))]
        self._base = sum(self._fills)
        self._best = Assigned(0, {})
        self._best_cost = nothing(problem)
        self._looks = 0
        self._touching: Tables | None = None
        self._listing: Tables | None = None

    def _fill(self, line: int) -> int:
        """What the units of a line cost at least, openings and rooms left aside."""
        cost, need, per_unit = 0, self._needs[line], self._problem.per_unit
        if per_unit is None:
            return max(0, need - self._there[line]) * self._problem.short
        for each, stock in sorted((per_unit[at][line], row[line]) for at, row in enumerate(self._stock) if row[line]):
            taken = min(need, stock)
            cost, need = cost + taken * each, need - taken
            if not need:
                break
        return cost + need * self._problem.short

    def run(self) -> Found:
        """All of it."""
        problem = self._problem
        self._try(self._opened)
        if problem.more_max < 1 or not self._closed:
            return self._found(self._best_cost)
        self._try_each()
        two = sum(sorted(problem.opening[at] for at in self._closed)[:2])
        if problem.more_max == 1 or len(self._closed) == 1 or self._best_cost <= self._base + two:
            return self._found(self._best_cost)  # whatever uses two more costs more
        unmet = self._unmet(self._held)
        if not self._with_least and not any(problem.opening):
            self._try_fullest(unmet)
            if self._best_cost == self._base:
                return self._found(self._best_cost)  # nothing is missing, and nothing costs anything
        self._touching = touching(problem, self._closed)
        self._try([*self._opened, *sorted(set(self._touching.locations(problem.more_max, unmet)))])
        if not self._touching.is_all and not self._opened:
            self._try_greedily()
        bound = self._bound(problem.more_max, self._held, 0)
        is_costly = problem.per_unit is not None or self._is_limited
        if bound < self._best_cost and is_costly and not self._opened:
            self._listing = listing(problem, self._closed, self._fills, self._best_cost)
            if self._listing is None:
                self._try_greedily()  # the less the best plan costs, the less there is to list
                self._listing = listing(problem, self._closed, self._fills, self._best_cost)
            if self._listing is not None:
                self._try(sorted(set(self._listing.locations(problem.more_max, unmet))))
                bound = self._bound(problem.more_max, self._held, 0)
        if bound < self._best_cost and self._branch(list(self._opened), self._held, set(), 0, 0):
            bound = self._best_cost
        return self._found(min(bound, self._best_cost))

    def _try(self, used: Sequence[int]) -> Assigned:
        """Takes a plan if it is better."""
        assigned = assign(self._problem, used)
        # What brings nothing is not opened.
        cost = assigned.cost + sum([self._problem.opening[at] for at in assigned.takes])
        if cost < self._best_cost:
            self._best, self._best_cost = assigned, cost
        return assigned

    def _try_each(self) -> None:
        """All plans with one location more."""
        problem, per_unit = self._problem, self._problem.per_unit
        if self._opened or self._is_limited:
            for at in self._closed:
                self._try([*self._opened, at])
            return
        total = sum(self._needs)
        costs = [problem.opening[at] + (total - self._units[at]) * problem.short for at in self._closed]
        if per_unit is not None:
            for n, at in enumerate(self._closed):
                costs[n] += sum(map(int.__mul__, per_unit[at], self._stock[at]))
        self._try([self._closed[costs.index(min(costs))]])

    def _try_fullest(self, unmet: int) -> None:
        """Adds the location that brings most of the lines that are missing, while there is one."""
        sets = [sum(compress(self._bits, self._stock[at])) for at in self._closed]
        used = list(self._opened)
        for _ in range(self._problem.more_max):
            helps = [(lines & unmet).bit_count() for lines in sets]
            most = max(helps)
            if not most:
                break
            n = helps.index(most)
            used.append(self._closed[n])
            unmet &= ~sets[n]
        self._try(used)

    def _try_greedily(self) -> None:
        """Adds the location that makes the plan cheapest, as long as one does."""
        used: list[int] = []
        while len(used) < self._problem.more_max:
            before, best, chosen = self._best_cost, None, None
            for at in self._closed:
                if at in used:
                    continue
                assigned = assign(self._problem, [*used, at])
                cost = assigned.cost + sum([self._problem.opening[at] for at in assigned.takes])
                if best is None or cost < best:
                    best, chosen = cost, at
            if chosen is None or best is None:
                return
            used.append(chosen)
            self._try(used)
            if used[1:] and best >= before:
                return

    def _unmet(self, held: Sequence[int]) -> int:
        """The lines of which too little is held, as bits."""
        return sum(compress(self._bits, map(lt, held, self._needs)))

    # --------------------------------------------------------------------------------------------------------- the bound
    def _bound(self, count: int, held: Sequence[int], done: int) -> int:
        """What it costs at least to bring all but what is done, by so many locations more; openings of those used aside."""
        tables = self._touching
        assert tables is not None
        fills = self._base
        if done and fills:
            fills -= sum([fill for bit, fill in zip(self._bits, self._fills, strict=True) if done & bit])
        bound = fills + tables.least(count, self._unmet(held) & ~done)
        if self._listing is None:
            return bound
        unheld = sum([bit for bit, has in zip(self._bits, held, strict=True) if not has]) & ~done
        fills -= sum([fill for bit, fill in zip(self._bits, self._fills, strict=True) if unheld & bit])
        return max(bound, fills + self._listing.least(count, unheld))

    def _found(self, bound: int) -> Found:
        least_with = self._least_with() if self._with_least else []
        return Found(self._best.takes, self._best_cost, bound, least_with, self._looks)

    def _least_with(self) -> list[int]:
        """For each location what any plan that uses it costs at the least."""
        problem, tables = self._problem, self._touching
        if tables is not None and not self._opened:
            bits, needs, base, more = self._bits, self._needs, self._base, problem.more_max - 1
            left = [sum(compress(bits, map(lt, row, needs))) for row in self._stock]
            others = {lines: base + tables.least(more, lines) for lines in set(left)}
            return list(map(add, problem.opening, map(others.__getitem__, left)))
        cheapest = sorted((problem.opening[at], at) for at in self._closed)[:2]
        least = []
        for at, stock in enumerate(self._stock):
            is_more = at not in problem.opened
            more = problem.more_max - is_more
            held = (
                list(map(int.__add__, self._held, stock))
                if is_more and self._opened
                else stock
                if is_more
                else self._held
            )
            unmet = self._unmet(held)
            cost = problem.opening[at]
            if tables is not None:
                cost += self._base + tables.least(more, unmet)
            elif more < 1:
                short = sum(max(0, need - n) for need, n in zip(self._needs, held, strict=True))
                cost += max(self._base, short * problem.short)
            else:
                cost += self._base
                if unmet and len(cheapest) == 2:
                    cost += cheapest[cheapest[0][1] == at][0]
            least.append(cost)
        return least

    # ------------------------------------------------------------------------------------------------ branch and bound
    def _branch(self, used: list[int], held: Sequence[int], barred: set[int], done: int, given_up: int) -> bool:
        """Looks at every plan that uses these and none of the barred. False where it ended at LOOKS_MAX.

        `held`: what the used ones have of each line. `done`: lines that nothing helps any more, as bits; what their missing units
        cost is `given_up`.
        """
        problem = self._problem
        self._try(used)
        left = problem.more_max - (len(used) - len(self._opened))
        if left < 1:
            return True
        unmet = self._unmet(held) & ~done
        opening = given_up + sum(problem.opening[at] for at in used)
        if opening + self._bound(left, held, done) >= self._best_cost:
            return True
        found = self._to_help(used, barred, unmet, done)
        if found is None:
            return True
        line, helpers = found
        self._looks += len(helpers) + 1
        if self._looks > LOOKS_MAX:
            return False
        children, newly = [], []
        for at in helpers:
            then = list(map(int.__add__, held, self._stock[at]))
            bound = opening + problem.opening[at] + self._bound(left - 1, then, done)
            if bound < self._best_cost:
                children.append((bound, at, then))
            else:
                barred.add(at)
                newly.append(at)
        children.sort()
        is_done = True
        for _, at, then in children:
            if not self._branch([*used, at], then, barred, done, given_up):
                is_done = False
                break
            barred.add(at)
            newly.append(at)
        if is_done:
            short = max(0, self._needs[line] - held[line]) * problem.short
            is_done = self._branch(used, held, barred, done | 1 << line, given_up + short)
        barred.difference_update(newly)
        return is_done

    def _to_help(self, used: Sequence[int], barred: set[int], unmet: int, done: int) -> tuple[int, list[int]] | None:
        """A line, and the locations that may still be opened for it: of those that lack units the one with the fewest."""
        free = [at for at in self._closed if at not in used and at not in barred]
        if unmet:
            having = ((n, [at for at in free if self._stock[at][n]]) for n in range(len(self._needs)) if unmet >> n & 1)
            return min(having, key=lambda each: len(each[1]))
        per_unit = self._problem.per_unit
        for n in range(len(self._needs)):
            if done >> n & 1:
                continue
            helpers: list[int] = []
            if self._is_limited:  # whoever takes something of a full one makes room there
                helpers = free
            elif per_unit is not None:
                dearest = max((per_unit[at][n] for at in used if self._stock[at][n]), default=0)
                helpers = [at for at in free if self._stock[at][n] and per_unit[at][n] < dearest]
            if helpers:
                return n, helpers
        return None
