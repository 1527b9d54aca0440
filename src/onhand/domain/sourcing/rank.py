"""Places for one line in the order in which a policy would choose one of them to bring all of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

from onhand.domain.order import FulfillmentKind
from onhand.domain.sourcing.choose import Candidate, Wanted, by_objective
from onhand.domain.sourcing.filters import Moment, refusals
from onhand.domain.sourcing.parts import Line, Objective, Place, Split
from onhand.domain.sourcing.plan import nearest_first
from onhand.domain.sourcing.policy import Policy, Rule

HAS_TOO_LITTLE = "has {} of {} units"
NO_ROOM = "{} units left today; {} needed"


class Ranked(NamedTuple):
    """A place, the rule that chooses it once those before it are gone (empty: none does), and why, for people."""

    place: Place
    rule: str
    detail: str
    ready_time: datetime | None


def rank(
    line: Line,
    places: Sequence[Place],
    policy: Policy,
    *,
    method: FulfillmentKind,
    now: datetime,
    excluded: Collection[str] = (),
) -> list[Ranked]:
    """All places but the excluded: the first is the one that `source` by `policy.of_one()` chooses, the next the one without it...

    Those that no rule chooses come last, the nearest first, with what the last rule that looked at them says.
    """
    moment = Moment(now)
    left = [place for place in nearest_first(places) if place.location_id not in excluded]
    ranked: list[Ranked] = []
    said: dict[str, str] = {}
    for rule in policy.rules:
        if not (rule.is_of_brand(line.brand) and rule.is_by(method)):
            continue
        refused_by, candidates, others = refusals(rule, method, moment), [], []
        for place in left:
            refused = refused_by(place, False)
            has = place.atp.get(line.sku, 0) - rule.safety_stock
            if refused is not None:
                said[place.location_id] = refused[1].format(*refused[2])
            elif has < line.quantity:
                said[place.location_id] = HAS_TOO_LITTLE.format(max(0, has), line.quantity)
            elif place.units_left is not None and place.units_left < line.quantity:
                said[place.location_id] = NO_ROOM.format(place.units_left, line.quantity)
            else:
                minutes = moment.minutes_until(moment.ready(place.schedule, has_capacity=True))
                candidates.append(Candidate(place, (has,), minutes, False))
                continue
            others.append(place)
        wanted = Wanted(
            rule=rule.name,
            lines=[line],
            objectives=rule.objectives,
            split=Split.NONE,
            parcels_max=1,
            costs=policy.costs,
        )
        values = by_objective(wanted, candidates)
        for n in sorted(range(len(candidates)), key=values.__getitem__):
            place = candidates[n].place
            ranked.append(_ranked(place, rule.name, _figures(rule, place, values[n]), moment))
        left = others
    return ranked + [_ranked(place, "", said.get(place.location_id, "no rule is for it"), moment) for place in left]


def _figures(rule: Rule, place: Place, values: Sequence[int]) -> str:
    said = []
    for objective, value in zip(rule.objectives, values, strict=True):
        is_unknown = objective is Objective.NEAREST and place.distance_metres is None
        said.append(f"{objective.value} {'unknown' if is_unknown else value}")
    return ", ".join(said)


def _ranked(place: Place, rule: str, detail: str, moment: Moment) -> Ranked:
    return Ranked(place, rule, detail, moment.ready(place.schedule, has_capacity=True))
