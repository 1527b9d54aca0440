"""One rule's choice: objectives in order become one number a plan, and the search's numbers become scores and reasons again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from onhand.domain.sourcing.assign import Problem
from onhand.domain.sourcing.parts import UNKNOWN_METRES, Considered, Costs, Line, Objective, Place, Score, Split, Why
from onhand.domain.sourcing.search import Found, search

UNSOURCED = "unsourced"
"""The score that comes before all objectives: units that nobody brings."""


class Candidate(NamedTuple):
    """A place that passed a rule's filters. `has`: what it may give of each line. `ready_minutes`: until it is ready."""

    place: Place
    has: tuple[int, ...]
    ready_minutes: int
    is_opened: bool
    """It brings something already, by a rule before."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What one rule is to choose for."""

    rule: str
    lines: Sequence[Line]
    objectives: Sequence[Objective]
    split: Split
    parcels_max: int
    costs: Mapping[str, Costs]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """`takes`: units by line, by candidate."""

    takes: dict[int, list[int]]
    scores: Sequence[Score]
    is_proven_optimal: bool
    looks: int
    considered: Sequence[Considered]


def choose(wanted: Wanted, candidates: Sequence[Candidate]) -> Choice:
    """The best plan by the objectives, in their order."""
    if Objective.SOONEST_READY not in wanted.objectives:
        chosen = _Numbers(wanted, candidates, wanted.objectives).solve()
        return chosen.choice(None)
    # How late the last parcel is, is no sum. The earliest time by which what comes before it is still as good as it gets:
    # then only places that are ready by then count, and it decides no more.
    at = wanted.objectives.index(Objective.SOONEST_READY)
    before, after = wanted.objectives[:at], wanted.objectives[at + 1 :]
    shelves = _shelves(candidates, len(wanted.lines))
    first = _Numbers(wanted, candidates, before, shelves=shelves).solve(with_reasons=False)
    minutes, is_proven = _soonest(wanted, candidates, before, first, shelves)
    in_time = [n for n, each in enumerate(candidates) if each.ready_minutes <= minutes]
    rest = _Numbers(wanted, [candidates[n] for n in in_time], (*before, *after), shelves=shelves).solve()
    return rest.choice(_Ready(candidates, in_time, len(before), minutes, is_proven))


def by_objective(wanted: Wanted, candidates: Sequence[Candidate]) -> list[list[int]]:
    """How good each candidate would be, all by itself and with room for all of it, by each of the objectives."""
    numbers = _Numbers(wanted, candidates, wanted.objectives, keeps_alike=True)
    rows = []
    for objective in wanted.objectives:
        if objective is Objective.SOONEST_READY:
            rows.append([each.ready_minutes for each in candidates])
            continue
        costs, of_units = numbers.openings(objective), numbers.units(objective)
        if of_units is not None:
            brought = [sum(map(int.__mul__, numbers.needs, row)) for row in of_units]
            costs = list(map(int.__add__, costs, brought))
        rows.append(costs)
    return [list(row) for row in zip(*rows, strict=True)]


def _soonest(
    wanted: Wanted,
    candidates: Sequence[Candidate],
    before: Sequence[Objective],
    first: _Solved,
    shelves: Sequence[int],
) -> tuple[int, bool]:
    """The minutes within which a plan is still as good by what comes before, and whether no fewer would do."""
    most = max((candidates[n].ready_minutes for n in first.found.takes), default=0)
    # Whatever line the best plan brings, somebody who has it must be ready.
    brought = [n for n in range(len(wanted.lines)) if any(taken[n] for taken in first.found.takes.values())]
    least = max((min(each.ready_minutes for each in candidates if each.has[n]) for n in brought), default=0)
    times = sorted({each.ready_minutes for each in candidates if least <= each.ready_minutes <= most})
    low, high, is_proven = 0, len(times) - 1, first.is_proven
    probe = 0  # the least is mostly right
    while low < high:
        within = [each for each in candidates if each.ready_minutes <= times[probe]]
        # Counted as the first was, so that the two can be compared.
        numbers = _Numbers(wanted, within, before, keeps_alike=not first.numbers.alike, shelves=shelves)
        solved = numbers.solve(with_reasons=False)
        if solved.values == first.values:
            high = probe
        else:
            low = probe + 1
            is_proven = is_proven and solved.is_proven
        probe = (low + high) // 2
    return (times[low] if times else 0), is_proven


@dataclass(frozen=True)
class _Ready:
    """What was settled about times before the rest was solved."""

    candidates: Sequence[Candidate]
    in_time: Sequence[int]
    position: int
    minutes: int
    is_proven: bool


class _Numbers:
    """Objectives as one whole number: each weighs more than all that come after it together."""

    def __init__(
        self,
        wanted: Wanted,
        candidates: Sequence[Candidate],
        objectives: Sequence[Objective],
        *,
        keeps_alike: bool = False,
        shelves: Sequence[int] | None = None,
    ) -> None:
        """`shelves`: what the fullest has of each line, where that is not among these candidates only."""
        self.wanted, self.candidates, self.objectives = wanted, candidates, objectives
        self._keeps_alike, self._shelves = keeps_alike, shelves
        wants = [line.quantity for line in wanted.lines]
        columns: list[list[int]] = [[] for _ in wants]
        for n, (want, column) in enumerate(
            zip(wants, zip(*[each.has for each in candidates], strict=True), strict=False)
        ):
            if wanted.split is Split.UNITS:
                columns[n] = [has if has < want else want for has in column]
            else:
                columns[n] = [want if has >= want else 0 for has in column]
        self.needs = [min(want, sum(column)) for want, column in zip(wants, columns, strict=True)]
        self.missing = sum(wants) - sum(self.needs)
        # What nobody could bring is no question for the search. The rarest come first, where the search begins.
        lacking = [column.count(0) for column in columns]
        self.lines = sorted((n for n, need in enumerate(self.needs) if need), key=lambda n: -lacking[n])
        self.stock = list(zip(*[columns[n] for n in self.lines], strict=True)) or [()] * len(candidates)
        self.alike: dict[Objective, list[int]] = {}
        openings = [self.openings(objective) for objective in objectives]
        units = [self.units(objective) for objective in objectives]
        self.weights = [1] * len(objectives)
        weight = 1
        for n in range(len(objectives) - 1, -1, -1):
            self.weights[n] = weight
            of_units = units[n]
            most = sum(openings[n])
            if of_units is not None:
                most += sum(
                    need * max(column) for need, column in zip(self.needs, zip(*of_units, strict=True), strict=False)
                )
            weight *= most + 1
        self.short = weight
        self.opening = [sum(map(int.__mul__, self.weights, costs)) for costs in zip(*openings, strict=True)] or [
            0
        ] * len(candidates)
        self.per_unit = self._summed(units)

    def _summed(self, units: Sequence[list[list[int]] | None]) -> list[list[int]] | None:
        weighted = [(weight, rows) for weight, rows in zip(self.weights, units, strict=True) if rows is not None]
        if not weighted:
            return None
        weight, rows = weighted[0]
        summed = [[weight * each for each in row] for row in rows]
        for weight, rows in weighted[1:]:
            summed = [[a + weight * b for a, b in zip(*both, strict=True)] for both in zip(summed, rows, strict=True)]
        return summed

    def openings(self, objective: Objective) -> list[int]:
        """What it costs by an objective to use each place at all. Nothing where a parcel comes from there already."""
        candidates = self.candidates
        match objective:
            case Objective.FEWEST_PARCELS:
                return [0 if each.is_opened else 1 for each in candidates]
            case Objective.NEAREST:
                return [0 if each.is_opened else _metres(each.place) for each in candidates]
            case Objective.CHEAPEST:
                of_kind = self.wanted.costs
                costs = [of_kind.get(each.place.kind, NO_COSTS) for each in candidates]
                return [
                    0 if each.is_opened else 1000 * cost.parcel_minor + cost.kilometre_minor * _metres(each.place)
                    for each, cost in zip(candidates, costs, strict=True)
                ]
            case _:
                return [0] * len(candidates)

    def units(self, objective: Objective) -> list[list[int]] | None:
        """What each unit costs by an objective; None: nothing."""
        if objective is Objective.CHEAPEST:
            grams = [line.grams for line in self.wanted.lines]
            by_kind = {}
            for kind in {each.place.kind for each in self.candidates}:
                costs = self.wanted.costs.get(kind, NO_COSTS)
                by_kind[kind] = [1000 * costs.unit_minor + costs.kilogram_minor * each for each in grams]
            rows = list(by_kind.values())
            if not self._keeps_alike and all(row == rows[0] for row in rows):
                # What a unit costs from everywhere alike decides nothing, as long as all units are brought.
                self.alike[objective] = rows[0] if rows else []
                return None
            return [by_kind[each.place.kind] for each in self.candidates]
        if objective is Objective.FULLEST_SHELF:
            fullest = self._shelves or _shelves(self.candidates, len(self.needs))
            return [list(map(int.__sub__, fullest, each.has)) for each in self.candidates]
        return None

    def solve(self, *, with_reasons: bool = True) -> _Solved:
        """Searches. `with_reasons`: works out what a plan with each location would cost, too."""
        opened = frozenset([n for n, each in enumerate(self.candidates) if each.is_opened])
        lines = self.lines
        problem = Problem(
            needs=[self.needs[n] for n in lines],
            stock=self.stock,
            opening=self.opening,
            per_unit=None if self.per_unit is None else [[row[n] for n in lines] for row in self.per_unit],
            room=[each.place.units_left for each in self.candidates],
            short=self.short,
            splits_units=self.wanted.split is Split.UNITS,
            more_max=self.wanted.parcels_max,
            opened=opened,
        )
        found = search(problem, with_least=with_reasons)
        if self.alike and found.cost >= self.short:  # it decides which of them are not
            alike = _Numbers(self.wanted, self.candidates, self.objectives, keeps_alike=True, shelves=self._shelves)
            return alike.solve(with_reasons=with_reasons)
        in_order: list[tuple[int, list[int]]] = []
        for at, taken in found.takes.items():
            brought = dict(zip(lines, taken, strict=True))
            in_order.append((at, [brought.get(n, 0) for n in range(len(self.needs))]))
        in_order.sort(key=lambda each: list(map(bool, each[1])), reverse=True)  # whoever brings the first line first
        return _Solved(self, found._replace(takes=dict(in_order)))

    def values(self, cost: int) -> list[int]:
        """A cost as what it is by each objective, units that nobody brings first."""
        short, cost = divmod(cost, self.short)
        found = [self.missing + short]
        for weight in self.weights:
            each, cost = divmod(cost, weight)
            found.append(each)
        return found


def _shelves(candidates: Sequence[Candidate], lines: int) -> list[int]:
    """What the fullest of them has of each line."""
    return [max((each.has[n] for each in candidates), default=0) for n in range(lines)]


def _metres(place: Place) -> int:
    metres = place.distance_metres
    return UNKNOWN_METRES if metres is None else metres


NO_COSTS = Costs()
LOSES = "{}: {} with it at the least; the plan {}; has {} of {} lines"


@dataclass
class _Solved:
    """What the search found, in the words of the rule."""

    numbers: _Numbers
    found: Found

    @property
    def is_proven(self) -> bool:
        return self.found.bound >= self.found.cost

    @property
    def values(self) -> list[int]:
        return self.numbers.values(self.found.cost)

    def choice(self, ready: _Ready | None) -> Choice:
        """The outcome, over all candidates where only those that were in time were searched."""
        numbers = self.numbers
        names = [UNSOURCED, *(objective.value for objective in numbers.objectives)]
        values, bounds = self.values, numbers.values(self.found.bound)
        # Where an objective may still be better, nothing is known of those after it.
        known = next((n for n, (a, b) in enumerate(zip(values, bounds, strict=True)) if a != b), len(bounds))
        bounds[known + 1 :] = [0] * len(bounds[known + 1 :])
        considered = self._considered(names, values)
        for objective, row in numbers.alike.items():
            brought = (map(int.__mul__, row, taken) for taken in self.found.takes.values())
            more = sum(map(sum, brought))
            n = names.index(objective.value)
            values[n], bounds[n] = values[n] + more, bounds[n] + more
        scores = [Score(objective=n, value=v, bound=b) for n, v, b in zip(names, values, bounds, strict=True)]
        takes, is_proven = self.found.takes, self.is_proven
        if ready is not None:
            position = ready.position + 1
            actual = max((numbers.candidates[n].ready_minutes for n in takes), default=0)
            bound = actual if ready.is_proven else 0
            scores.insert(position, Score(objective=Objective.SOONEST_READY.value, value=actual, bound=bound))
            takes = {ready.in_time[n]: taken for n, taken in takes.items()}
            is_proven = is_proven and ready.is_proven
            considered += [
                Considered(
                    each.place.location_id,
                    numbers.wanted.rule,
                    Why.LOSES,
                    "{}: ready in {} min; the plan in {}",
                    (Objective.SOONEST_READY.value, each.ready_minutes, ready.minutes),
                )
                for each in ready.candidates
                if each.ready_minutes > ready.minutes
            ]
        return Choice(
            takes=takes,
            scores=scores,
            is_proven_optimal=is_proven,
            looks=self.found.looks,
            considered=considered,
        )

    def _considered(self, names: Sequence[str], values: Sequence[int]) -> list[Considered]:
        """Why each of those that were searched is not in the plan: where any plan with it loses at the least."""
        numbers, found, rule = self.numbers, self.found, self.numbers.wanted.rule
        considered = []
        otherwise = Why.NO_BETTER if self.is_proven else Why.NOT_PROVEN
        cost, takes, count = found.cost, found.takes, len(numbers.needs)
        missing = count - len(numbers.lines)
        weights = (numbers.short, *numbers.weights)
        by = [(name, weight, cost // weight, value) for name, weight, value in zip(names, weights, values, strict=True)]
        for at, (candidate, least, stock) in enumerate(
            zip(numbers.candidates, found.least_with, numbers.stock, strict=True)
        ):
            if at in takes:
                continue
            location_id = candidate.place.location_id
            if least <= cost:
                considered.append(Considered(location_id, rule, otherwise))
                continue
            for name, weight, whole, value in by:  # noqa: B007
                if (with_it := least // weight) != whole:
                    break
            had = count - missing - stock.count(0)
            figures = name, value + with_it - whole, value, had, count
            considered.append(Considered(location_id, rule, Why.LOSES, LOSES, figures))
        return considered
