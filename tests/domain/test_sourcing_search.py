"""The search against brute force: every choice of locations, and every way to share the lines among them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

from onhand.domain.sourcing.assign import Problem, assign
from onhand.domain.sourcing.search import LOOKS_MAX, Found, search

CASES = 200


def drawn(seed: int) -> Problem:
    """A small problem of any kind: whole or divided lines, costs of units, little room, few parcels, locations in use."""
    rng = random.Random(seed)
    lines, places = rng.randint(1, 4), rng.randint(1, 5)
    splits_units = rng.random() < 0.5
    wants = [rng.randint(1, 3) for _ in range(lines)]
    share = rng.choice((0.3, 0.6, 0.9))
    has = [[rng.randint(1, 4) if rng.random() < share else 0 for _ in wants] for _ in range(places)]
    stock = [
        [min(n, want) if splits_units else want * (n >= want) for n, want in zip(row, wants, strict=True)]
        for row in has
    ]
    there = [sum(column) for column in zip(*stock, strict=True)]
    kept = [n for n, each in enumerate(there) if each]
    needs = [min(wants[n], there[n]) for n in kept]
    stock = [[row[n] for n in kept] for row in stock]
    opened = frozenset(at for at in range(places) if rng.random() < 0.1)
    opening = [0 if at in opened else rng.choice((0, 1, rng.randint(1, 50))) for at in range(places)]
    per_unit = [[rng.randint(0, 9) for _ in kept] for _ in range(places)] if rng.random() < 0.5 else None
    room = (
        [rng.randint(0, 5) if rng.random() < 0.4 else None for _ in range(places)]
        if rng.random() < 0.5
        else [None] * places
    )
    return Problem(
        needs=needs,
        stock=stock,
        opening=opening,
        per_unit=per_unit,
        room=room,
        short=sum(opening) + 9 * sum(needs) + 1,
        splits_units=splits_units,
        more_max=rng.randint(0, places),
        opened=opened,
    )


def ways(problem: Problem, line: int) -> Iterator[tuple[int, ...]]:
    """Every way to bring a line, in part, or not at all: units by location."""
    need, places = problem.needs[line], range(len(problem.stock))
    if not problem.splits_units:
        yield (0,) * len(places)
        for at in places:
            if problem.stock[at][line] >= need:
                yield tuple(need * (at == other) for other in places)
        return
    for units in itertools.product(*(range(problem.stock[at][line] + 1) for at in places)):
        if sum(units) <= need:
            yield units


def cost_of(problem: Problem, takes: Sequence[Sequence[int]]) -> int | None:
    """What a plan costs, units by line and location; None where it is not allowed."""
    brought = [sum(taken[at] for taken in takes) for at in range(len(problem.stock))]
    if any(room is not None and units > room for units, room in zip(brought, problem.room, strict=True)):
        return None
    used = [at for at, units in enumerate(brought) if units]
    if len(set(used) - problem.opened) > problem.more_max:
        return None
    cost = sum(problem.opening[at] for at in used)
    for line, (need, taken) in enumerate(zip(problem.needs, takes, strict=True)):
        cost += (need - sum(taken)) * problem.short
        if problem.per_unit is not None:
            cost += sum(units * problem.per_unit[at][line] for at, units in enumerate(taken))
    return cost


def least(problem: Problem) -> int:
    """What the best plan costs: every plan there is."""
    return min(cost for plan in plans(problem) if (cost := cost_of(problem, plan)) is not None)


def plans(problem: Problem) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Every plan, allowed or not: units by line and location."""
    return itertools.product(*(list(ways(problem, line)) for line in range(len(problem.needs))))


def by_line(problem: Problem, found: Found) -> list[list[int]]:
    return [
        [found.takes[at][line] if at in found.takes else 0 for at in range(len(problem.stock))]
        for line in range(len(problem.needs))
    ]


def test_200_small_problems_are_solved_as_well_as_by_brute_force() -> None:
    for seed in range(CASES):
        problem = drawn(seed)
        found = search(problem)
        assert cost_of(problem, by_line(problem, found)) == found.cost, seed
        assert found.cost == found.bound == least(problem), seed


def test_what_a_location_costs_at_the_least_is_no_more_than_the_best_plan_with_it() -> None:
    for seed in range(CASES, CASES + 50):
        problem = drawn(seed)
        found = search(problem)
        best: dict[int, int] = {}
        for plan in plans(problem):
            cost = cost_of(problem, plan)
            for at in range(len(problem.stock)):
                if cost is not None and any(taken[at] for taken in plan):
                    best[at] = min(cost, best.get(at, cost))
        assert all(found.least_with[at] <= cost for at, cost in best.items()), seed


def test_units_that_are_divided_find_their_way_through_locations_with_little_room() -> None:
    problem = Problem(
        needs=[2, 2],
        stock=[[2, 2], [2, 0]],
        opening=[0, 0],
        per_unit=[[0, 0], [5, 9]],
        room=[2, None],
        short=1000,
        splits_units=True,
        more_max=2,
    )
    assigned = assign(problem, [0, 1])
    assert (assigned.cost, assigned.takes) == (10, {0: [0, 2], 1: [2, 0]})


def test_a_unit_makes_room_for_one_that_costs_less() -> None:
    problem = Problem(
        needs=[1, 2],
        stock=[[1, 2]],
        opening=[0],
        per_unit=[[9, 5]],
        room=[2],
        short=100,
        splits_units=True,
        more_max=1,
    )
    assert assign(problem, [0]).takes == {0: [0, 2]}


def large(seed: int, lines: int, places: int, *, splits_units: bool, has_costs: bool) -> Problem:
    rng = random.Random(seed)
    needs = [rng.randint(1, 3) for _ in range(lines)]
    has = [[rng.randint(1, 5) if rng.random() < 0.3 else 0 for _ in needs] for _ in range(places)]
    stock = [
        [min(n, need) if splits_units else need * (n >= need) for n, need in zip(row, needs, strict=True)]
        for row in has
    ]
    opening = [1_000_000 + rng.randint(0, 9999) for _ in stock]
    per_unit = [[rng.randint(0, 99) for _ in needs] for _ in stock] if has_costs else None
    return Problem(
        needs=[min(need, sum(column)) for need, column in zip(needs, zip(*stock, strict=True), strict=True)],
        stock=stock,
        opening=opening,
        per_unit=per_unit,
        room=[None] * places,
        short=10**12,
        splits_units=splits_units,
        more_max=6,
    )


def test_a_large_problem_ends_within_its_limit_and_its_bound_is_one() -> None:
    for splits_units, has_costs in itertools.product((False, True), repeat=2):
        problem = large(1, 24, 120, splits_units=splits_units, has_costs=has_costs)
        found = search(problem)
        assert found.looks <= LOOKS_MAX + len(problem.stock) + 1
        assert found.bound <= found.cost == cost_of(problem, by_line(problem, found))


def test_what_is_not_proven_says_so() -> None:
    problem = large(1, 24, 120, splits_units=False, has_costs=False)
    found = search(problem)
    assert found.bound < found.cost
    assert found.looks > LOOKS_MAX
