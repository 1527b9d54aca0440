"""What a sourcing plan takes: ten lines, as many stores as the real data has, by policies of several kinds; no server, no stack."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from onhand.domain.order import FulfillmentKind
from onhand.domain.sourcing import Line, Objective, Place, Plan, Policy, Rule, Schedule, Split, source
from onhand.progress import Show
from onhand.sourcing.policy_file import load_policy

LINES, LOCATIONS = 10, 457
PLANS = 50
"""Different problems that each policy plans."""
MEDIAN_MS_MAX = 20.0
"""What a plan with its reasons may take, in the median."""
NOW = datetime(2026, 11, 20, 15, tzinfo=UTC)
ZONES = ("America/New_York", "America/Chicago", "America/Denver")
HOURS = ((360, 1440), (420, 1380), (0, 1440))

_NEAR = (Objective.FEWEST_PARCELS, Objective.NEAREST)
POLICIES: Mapping[str, Policy] = {
    "whole_lines": Policy(name="whole_lines", rules=(Rule(name="any", objectives=_NEAR, is_partial=True),)),
    "divided_lines": Policy(
        name="divided_lines", rules=(Rule(name="any", objectives=_NEAR, split=Split.UNITS, is_partial=True),)
    ),
    "soonest_ready": Policy(
        name="soonest_ready",
        rules=(Rule(name="any", objectives=(Objective.SOONEST_READY, *_NEAR), is_partial=True),),
    ),
    "standard": load_policy(),
}
"""What is planned by: rules that look at all locations at once; and onhand's own policy, of several rules."""


def problem(seed: int, lines: int = LINES, locations: int = LOCATIONS) -> tuple[list[Line], list[Place]]:
    """Lines that some stores have: each sku is at a share of them that is its own, one in fifty to nine in ten."""
    rng = random.Random(seed)
    wanted = [Line(sku=f"S{n}", quantity=rng.randint(1, 3), grams=rng.randint(50, 2000)) for n in range(lines)]
    shares = [rng.choice((0.02, 0.1, 0.3, 0.5, 0.7, 0.9)) for _ in wanted]
    places = []
    for n in range(locations):
        opens, closes = rng.choice(HOURS)
        hours = tuple((day, opens, closes) for day in range(1, 8))
        places.append(
            Place(
                location_id=f"store-{n}",
                kind="WAREHOUSE" if n < 2 else "STORE",
                name=f"Store {n}",
                distance_metres=rng.randint(100, 900_000),
                atp={
                    line.sku: rng.randint(1, 12)
                    for line, share in zip(wanted, shares, strict=True)
                    if rng.random() < share
                },
                schedule=Schedule(hours, rng.choice(ZONES), rng.choice((60, 120, 240))),
                orders_left=rng.choice((None, 0, 5, 40)),
            )
        )
    return wanted, places


def measure(show: Show, plans: int = PLANS, seed: int = 1) -> dict[str, Any]:
    """The report's entry."""
    problems = [problem(seed + n) for n in range(plans)]
    total, found = plans * len(POLICIES), []
    everything: list[tuple[float, Plan]] = []
    for name, policy in POLICIES.items():
        timed = []
        for n, (lines, places) in enumerate(problems):
            show("sourcing", len(everything) + n, total)
            began = time.perf_counter()
            plan = source(lines, places, policy, method=FulfillmentKind.SHIP, now=NOW + timedelta(minutes=n))
            timed.append((1000 * (time.perf_counter() - began), plan))
        everything += timed
        found.append({"policy": name, **_told(timed)})
    show("sourcing", total, total)
    return {
        "lines": LINES,
        "locations": LOCATIONS,
        "plans": len(everything),
        "median_ms_max": MEDIAN_MS_MAX,
        **_told(everything),
        "policies": found,
    }


def _told(timed: Sequence[tuple[float, Plan]]) -> dict[str, float]:
    ordered = sorted(ms for ms, _ in timed)
    return {
        "median_ms": round(statistics.median(ordered), 2),
        "p99_ms": round(ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 2),
        "gap_max": round(max(plan.gap for _, plan in timed), 4),
        "share_proven_optimal": round(sum(plan.is_proven_optimal for _, plan in timed) / len(timed), 4),
    }
