"""From lines, places and a policy to a plan: rule after rule, each for what those before it left."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import repeat

from onhand.domain.order import FulfillmentKind
from onhand.domain.sourcing.choose import UNSOURCED, Candidate, Choice, Wanted, choose
from onhand.domain.sourcing.filters import Moment, nothing_to_give, refusals
from onhand.domain.sourcing.parts import (
    Considered,
    Line,
    Objective,
    Parcel,
    Place,
    Plan,
    RuleResult,
    Split,
    Unsourced,
    Why,
)
from onhand.domain.sourcing.policy import Policy, Rule
from onhand.domain.stock import sum_lines

NOT_TO_BE_ASKED = (Why.EXCLUDED, "is not to be asked", ())
NONE = repeat(0)
RULE_FAILED = "would be part of it, but {} of {} units are missing"


def source(
    lines: Sequence[Line],
    places: Sequence[Place],
    policy: Policy,
    *,
    method: FulfillmentKind,
    now: datetime,
    excluded: Collection[str] = (),
) -> Plan:
    """The plan for lines, a sku once, by one method. `excluded`: location_ids that must not be asked (again).

    The same arguments give the same plan: places are taken by distance, then by location_id, and of equal plans the first.
    """
    if len({line.sku for line in lines}) < len(lines):
        raise ValueError("a sku may be wanted once only")
    work = _Work(lines, places, policy, method, Moment(now), frozenset(excluded))
    for rule in policy.rules:
        work.apply(rule)
    return work.plan()


@dataclass
class _Work:
    """What is left to bring, and what was settled."""

    lines: Sequence[Line]
    places: Sequence[Place]
    policy: Policy
    method: FulfillmentKind
    moment: Moment
    excluded: frozenset[str]
    left: dict[str, int] = field(default_factory=dict)
    parcels: list[Parcel] = field(default_factory=list)
    results: list[RuleResult] = field(default_factory=list)
    considered: list[Considered] = field(default_factory=list)
    passed: list[tuple[Rule, Collection[str], Collection[str]]] = field(default_factory=list)
    """By rule: the skus that it was for, and the locations that passed its filters."""

    def __post_init__(self) -> None:
        self.left = {line.sku: line.quantity for line in self.lines}
        self.places = nearest_first(self.places)

    def apply(self, rule: Rule) -> None:
        """Brings by a rule what it can."""
        wanted = [
            replace(line, quantity=self.left[line.sku])
            for line in self.lines
            if self.left[line.sku] and rule.is_of_brand(line.brand)
        ]
        opened = {parcel.location_id for parcel in self.parcels}
        count_max = min(rule.parcels_max, self.policy.parcels_max - len(opened))
        if rule.split is Split.NONE:
            count_max = min(count_max, 1)
        why = self._why_not(rule, wanted)
        if why is not None:
            self.results.append(RuleResult(rule=rule.name, is_used=False, outcome=why))
            return
        candidates = self._candidates(rule, wanted, opened)
        self.passed.append((rule, {line.sku for line in wanted}, {each.place.location_id for each in candidates}))
        if not candidates:
            self.results.append(RuleResult(rule=rule.name, is_used=False, outcome="no location passes its filters"))
            return
        task = Wanted(
            rule=rule.name,
            lines=wanted,
            objectives=rule.objectives,
            split=rule.split,
            parcels_max=max(0, count_max),
            costs=self.policy.costs,
        )
        self._settle(rule, wanted, candidates, choose(task, candidates))

    def _why_not(self, rule: Rule, wanted: Sequence[Line]) -> str | None:
        if not rule.is_by(self.method):
            return f"is not for {self.method.value}"
        if not any(self.left.values()):
            return "not needed: nothing is left to bring"
        if not wanted:
            return "is for none of the brands that are left"
        return None

    def _candidates(self, rule: Rule, wanted: Sequence[Line], opened: set[str]) -> list[Candidate]:
        candidates, considered = [], self.considered
        skus, kept, excluded = [line.sku for line in wanted], rule.safety_stock, self.excluded
        is_timed = Objective.SOONEST_READY in rule.objectives
        refused_by = refusals(rule, self.method, self.moment)
        minutes = 0
        for place in self.places:
            location_id = place.location_id
            is_opened = location_id in opened
            refused = NOT_TO_BE_ASKED if location_id in excluded else refused_by(place, is_opened)
            if refused is None:
                has = tuple(map(place.atp.get, skus, NONE))
                if kept:
                    has = tuple([n - kept if n > kept else 0 for n in has])
                if any(has):
                    if is_timed:
                        minutes = self._minutes(place)
                    candidates.append(Candidate(place, has, minutes, is_opened))
                    continue
                refused = nothing_to_give(rule, place, wanted)
            considered.append(Considered(location_id, rule.name, *refused))
        return candidates

    def _minutes(self, place: Place) -> int:
        return self.moment.minutes_until(self.moment.ready(place.schedule, has_capacity=True))

    def _settle(self, rule: Rule, wanted: Sequence[Line], candidates: Sequence[Candidate], choice: Choice) -> None:
        missing = next(score.value for score in choice.scores if score.objective == UNSOURCED)
        is_used = bool(choice.takes) and (missing == 0 or rule.is_partial)
        total = sum(line.quantity for line in wanted)
        outcome = f"brings {total - missing} of {total} units from {len(choice.takes)} of {len(candidates)} locations"
        if choice.takes and not is_used:
            outcome += "; not taken, for it is to bring all or nothing"
        self.results.append(
            RuleResult(
                rule=rule.name,
                is_used=is_used,
                outcome=outcome,
                places=len(candidates),
                scores=choice.scores,
                is_proven_optimal=choice.is_proven_optimal,
                looks=choice.looks,
            )
        )
        self.considered += choice.considered
        for at, taken in choice.takes.items():
            place = candidates[at].place
            if not is_used:
                why = Considered(place.location_id, rule.name, Why.RULE_FAILED, RULE_FAILED, (missing, total))
                self.considered.append(why)
                continue
            brought = {line.sku: units for line, units in zip(wanted, taken, strict=True) if units}
            self._bring(rule, place, brought)

    def _bring(self, rule: Rule, place: Place, brought: dict[str, int]) -> None:
        self.parcels.append(
            Parcel(
                location_id=place.location_id,
                name=place.name,
                rule=rule.name,
                lines=brought,
                distance_metres=place.distance_metres,
                ready_time=self.moment.ready(place.schedule, has_capacity=True),
            )
        )
        for sku, units in brought.items():
            self.left[sku] -= units
        units = sum(brought.values())
        self.places = [
            each
            if each.location_id != place.location_id
            else replace(
                each,
                atp={sku: n - brought.get(sku, 0) for sku, n in each.atp.items()},
                units_left=None if each.units_left is None else each.units_left - units,
            )
            for each in self.places
        ]

    def plan(self) -> Plan:
        """What came of it."""
        return Plan(
            method=self.method,
            parcels=self._merged(),
            unsourced=[
                Unsourced(sku=sku, quantity=left, held_quantity=self._held(sku))
                for sku, left in self.left.items()
                if left
            ],
            rules=self.results,
            considered=self.considered,
        )

    def _held(self, sku: str) -> int:
        """What the locations that pass some rule have of a sku still."""
        return max(
            (
                sum(max(0, at.atp.get(sku, 0) - rule.safety_stock) for at in self.places if at.location_id in ids)
                for rule, skus, ids in self.passed
                if sku in skus
            ),
            default=0,
        )

    def _merged(self) -> list[Parcel]:
        """A location sends one parcel, by however many rules."""
        merged: dict[str, Parcel] = {}
        for parcel in self.parcels:
            before = merged.get(parcel.location_id)
            if before is None:
                merged[parcel.location_id] = parcel
                continue
            both = dict(before.lines)
            for sku, units in parcel.lines.items():
                both[sku] = both.get(sku, 0) + units
            rule = before.rule if parcel.rule in before.rule.split(" + ") else f"{before.rule} + {parcel.rule}"
            merged[parcel.location_id] = replace(before, lines=both, rule=rule)
        return list(merged.values())


def nearest_first(places: Iterable[Place]) -> list[Place]:
    """The order in which places are looked at: of equal plans the first counts."""
    return sorted(places, key=lambda p: (p.distance_metres is None, p.distance_metres or 0, p.location_id))


def wanted_lines(lines: Sequence[tuple[str, int]]) -> list[Line]:
    """Lines of a basket, a sku once, of which no more is known."""
    return [Line(sku=sku, quantity=quantity) for sku, quantity in sum_lines(lines)]
