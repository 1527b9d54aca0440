"""Choosing the locations that fulfil an order: from lines, places and a policy to a plan, with the reasons for it.

`plan.source` is the whole of it, a pure function. `search` is exact wherever the problem is small enough, and says how far from
the optimum it may be where it is not; docs/decisions/0016-sourcing.md says why it is our own.
"""

from onhand.domain.sourcing.hours import Schedule, ready_time
from onhand.domain.sourcing.parts import (
    Considered,
    Costs,
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
from onhand.domain.sourcing.plan import source
from onhand.domain.sourcing.policy import Policy, Rule
from onhand.domain.sourcing.rank import Ranked, rank

__all__ = [
    "Considered",
    "Costs",
    "Line",
    "Objective",
    "Parcel",
    "Place",
    "Plan",
    "Policy",
    "Ranked",
    "Rule",
    "RuleResult",
    "Schedule",
    "Split",
    "Unsourced",
    "Why",
    "rank",
    "ready_time",
    "source",
]
