"""What sourcing is about: lines that are wanted, places that may have them, and the plan with its reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import NamedTuple

from onhand.domain.order import FulfillmentKind
from onhand.domain.sourcing.hours import Schedule

ALWAYS = Schedule()
"""Open at all times, with everything ready at once."""
UNKNOWN_METRES = 20_038_000
"""What counts for the distance of a place whose position is not known: half the way around the earth."""


class Objective(Enum):
    """What makes one plan better than another. Given in order: a later one decides only where the earlier ones are equal.

    Before all of them stands that as few units as possible remain unsourced.
    """

    FEWEST_PARCELS = "fewest_parcels"
    """Locations that the plan takes from."""
    NEAREST = "nearest"
    """The sum of the parcels' distances, in metres."""
    CHEAPEST = "cheapest"
    """What the parcels cost to send, in thousandths of the currency's minor unit."""
    FULLEST_SHELF = "fullest_shelf"
    """For every unit, how much more of its sku the fullest place has than the one that it is taken from."""
    SOONEST_READY = "soonest_ready"
    """Minutes until the last parcel is ready."""


class Split(Enum):
    """What may be divided among locations."""

    NONE = "none"
    """Nothing: one location brings all that is brought."""
    LINES = "lines"
    """The order: each line comes whole from one location, or not at all."""
    UNITS = "units"
    """The units of a line too."""


class Why(Enum):
    """Why a place was left out, or was not chosen. LEFT_OUT ones are filters of a rule; the rest lost against the plan."""

    EXCLUDED = "excluded"
    METHOD = "method"
    KIND = "kind"
    GROUP = "group"
    DISTANCE = "distance"
    DISTANCE_UNKNOWN = "distance_unknown"
    CAPACITY = "capacity"
    CLOSED = "closed"
    CUT_OFF = "cut_off"
    NOT_READY = "not_ready"
    NOTHING_THERE = "nothing_there"
    SAFETY_STOCK = "safety_stock"
    LOSES = "loses"
    NO_BETTER = "no_better"
    NOT_PROVEN = "not_proven"
    RULE_FAILED = "rule_failed"


@dataclass(frozen=True, kw_only=True)
class Line:
    """What is wanted. `grams`: the weight of one base unit, 0 where it is not known."""

    sku: str
    quantity: int
    brand: str = ""
    grams: int = 0


@dataclass(frozen=True, kw_only=True)
class Place:
    """A location that may fulfil. `atp` by sku; one that it does not name is 0. None as a capacity: no limit."""

    location_id: str
    kind: str
    atp: Mapping[str, int]
    name: str = ""
    methods: frozenset[FulfillmentKind] = frozenset({FulfillmentKind.PICKUP, FulfillmentKind.SHIP})
    groups: frozenset[str] = frozenset()
    distance_metres: int | None = None
    schedule: Schedule = ALWAYS
    orders_left: int | None = None
    """Orders that it can take on today."""
    units_left: int | None = None
    """Units that it can take on today."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What it costs to send a parcel from a kind of location, in the currency's minor unit."""

    parcel_minor: int = 0
    unit_minor: int = 0
    kilogram_minor: int = 0
    kilometre_minor: int = 0


@dataclass(frozen=True, kw_only=True)
class Parcel:
    """What one location does by one rule. `ready_time` None: no hours say when."""

    location_id: str
    name: str
    rule: str
    lines: Mapping[str, int]
    distance_metres: int | None
    ready_time: datetime | None


@dataclass(frozen=True, kw_only=True)
class Unsourced:
    """Units of a line that nobody brings. `held_quantity`: what the places within a rule have of it all the same, together.

    More than 0 where splits, parcels or capacities are limited, or a rule was to bring all or nothing.
    """

    sku: str
    quantity: int
    held_quantity: int


class Considered(NamedTuple):
    """What became of a place under a rule, where it was not chosen. There are hundreds of them: words are made when asked for."""

    location_id: str
    rule: str
    why: Why
    template: str = ""
    values: tuple[object, ...] = ()

    @property
    def detail(self) -> str:
        """The figures behind it, for people."""
        return self.template.format(*self.values)


@dataclass(frozen=True, kw_only=True)
class Score:
    """How good a rule's part of the plan is. `bound`: no plan by this rule can be better."""

    objective: str
    value: int
    bound: int


@dataclass(frozen=True, kw_only=True)
class RuleResult:
    """What became of a rule. `is_used`: its parcels are in the plan."""

    rule: str
    is_used: bool
    outcome: str
    places: int = 0
    scores: Sequence[Score] = ()
    is_proven_optimal: bool = True
    looks: int = 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Who brings what, and why not others."""

    method: FulfillmentKind
    parcels: Sequence[Parcel] = ()
    unsourced: Sequence[Unsourced] = ()
    rules: Sequence[RuleResult] = ()
    considered: Sequence[Considered] = field(default_factory=tuple)

    @property
    def is_complete(self) -> bool:
        """Whether every unit is brought by somebody."""
        return not self.unsourced

    @property
    def is_proven_optimal(self) -> bool:
        """Whether no rule that was tried could have done better by its own objectives."""
        return all(result.is_proven_optimal for result in self.rules)

    @property
    def gap(self) -> float:
        """The largest share by which a rule's first unproven objective may be too high; 0 where all is proven."""
        gaps = [0.0]
        for result in self.rules:
            open_score = next((score for score in result.scores if score.value != score.bound), None)
            if open_score is not None and not result.is_proven_optimal:
                gaps.append((open_score.value - open_score.bound) / max(1, open_score.value))
        return max(gaps)

    @property
    def ready_time(self) -> datetime | None:
        """When the last parcel is ready; None where that is not known of all, or nobody brings anything."""
        times = [parcel.ready_time for parcel in self.parcels]
        known = [moment for moment in times if moment is not None]
        return max(known) if known and len(known) == len(times) else None
