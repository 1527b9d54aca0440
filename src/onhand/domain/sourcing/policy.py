"""What a retailer wants of sourcing: rules in order, each with filters, objectives, and how far an order may be split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from onhand.domain.order import FulfillmentKind
from onhand.domain.sourcing.parts import Costs, Objective, Split

PARCELS_MAX = 20
"""The most parcels that a policy may allow."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Which places one step of a policy looks at, for which lines, and what it prefers. An empty filter lets all pass."""

    name: str
    methods: frozenset[FulfillmentKind] = frozenset()
    kinds: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    not_groups: frozenset[str] = frozenset()
    brands: frozenset[str] = frozenset()
    """Only lines of these brands; the others are left to later rules."""
    not_brands: frozenset[str] = frozenset()
    distance_metres_max: int | None = None
    orders_left_min: int = 1
    """Orders that a place must still be able to take on today, where its capacity is limited."""
    units_left_min: int = 1
    opens_within_minutes: int | None = None
    """It must be open, or open within so many minutes; 0: it must be open."""
    is_before_cut_off: bool = False
    """Its cut-off must not have passed."""
    ready_within_minutes: int | None = None
    safety_stock: int = 0
    """Units of each sku that are left there, beyond those that ATP leaves already."""
    objectives: tuple[Objective, ...] = (Objective.FEWEST_PARCELS, Objective.NEAREST)
    split: Split = Split.LINES
    parcels_max: int = PARCELS_MAX
    is_partial: bool = False
    """Whether a rule that cannot bring all of its lines brings what it can, and leaves the rest to later rules."""

    def is_by(self, method: FulfillmentKind) -> bool:
        """Whether it is for goods that are handed over so."""
        return not self.methods or method in self.methods

    def is_of_brand(self, brand: str) -> bool:
        """Whether it is for lines of a brand."""
        return (not self.brands or brand in self.brands) and brand not in self.not_brands


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Rules are tried in order, each for what those before it left. `parcels_max` holds for all of them together."""

    name: str
    rules: tuple[Rule, ...]
    parcels_max: int = PARCELS_MAX
    costs: Mapping[str, Costs] = field(default_factory=dict)
    """By kind of location."""

    def of_one(self) -> Policy:
        """The same wishes where one location is to bring all of it: no rule splits, or brings a part."""
        rules = (replace(rule, split=Split.NONE, parcels_max=1, is_partial=False) for rule in self.rules)
        return replace(self, rules=tuple(rules), parcels_max=1)
