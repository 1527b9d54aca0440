"""`onhand source`: what a policy would do with given lines, on the ledger and gate as they are. It changes nothing."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from onhand.clock import LedgerClock
from onhand.domain.order import FulfillmentKind
from onhand.domain.sourcing import Considered, Parcel, Policy
from onhand.ledger.claims import Settlement
from onhand.ledger.mutation import Ledger
from onhand.ledger.revision import check_revision
from onhand.postgres import Database
from onhand.redis import GateConnections
from onhand.reservations.availability import Availability
from onhand.reservations.gate import LIBRARY, Gate
from onhand.reservations.policy import Policy as Thresholds
from onhand.reservations.rebuild import Rebuilder
from onhand.settings import Unusable
from onhand.sourcing.use import Sourced, Sourcing

SHOWN_MAX = 8
"""Locations that are listed for one reason; of the others it is said how many there are."""
QUANTITY_MAX = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked. `near`: (latitude, longitude)."""

    lines: Sequence[tuple[str, int]]
    method: FulfillmentKind
    channel: str
    near: tuple[float, float] | None = None
    only: Collection[str] = ()
    excluded: Collection[str] = ()
    assumed_time: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came of it."""

    question: Question
    policy: Policy
    sourced: Sourced
    seconds: float


def parse_line(text: str) -> tuple[str, int]:
    """SKU=QUANTITY. Raises Unusable."""
    sku, separator, quantity = text.rpartition("=")
    if not separator or not sku or not quantity.isdecimal() or not 1 <= int(quantity) <= QUANTITY_MAX:
        raise Unusable(f"--line {text}: must be SKU=QUANTITY, as 995242=2, the quantity 1 to {QUANTITY_MAX}")
    return sku, int(quantity)


def parse_near(text: str) -> tuple[float, float]:
    """LATITUDE,LONGITUDE. Raises Unusable."""
    found = re.fullmatch(r"\s*(-?\d+(?:\.\d+)?)\s*,\s*(-?\d+(?:\.\d+)?)\s*", text)
    if found is None or not (abs(latitude := float(found[1])) <= 90 and abs(longitude := float(found[2])) <= 180):
        raise Unusable(f"--near {text}: must be LATITUDE,LONGITUDE in degrees, as 39.10,-84.51")
    return latitude, longitude


def parse_time(text: str) -> datetime:
    """A time of ISO 8601 with its offset. Raises Unusable."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise Unusable(f"--at {text}: must be a time with its offset, as 2026-11-22T16:30:00-05:00")
    return moment


class _Reader(Rebuilder):
    """Whoever only reads leaves the gate's data to the servers."""

    def request(self, location_id: str) -> None:
        """Does nothing: the figures come from the ledger."""


async def simulate(postgres_dsn: str, redis_url: str, policy: Policy, question: Question) -> Answer:
    """Plans it, once. Raises SkuNotFound, LocationNotFound, LedgerUnavailable, Unusable."""

    async def settle(settlements: Sequence[Settlement]) -> None:
        raise AssertionError(f"a simulation changes nothing, and not {settlements}")

    database = await Database.open(postgres_dsn, pool_size=4)
    connections = GateConnections(redis_url, LIBRARY)
    gate = Gate(connections)
    rebuilder = _Reader(database, gate)
    try:
        await check_revision(database)
        thresholds, clock = Thresholds(database), LedgerClock()
        await thresholds.refresh(1)
        await clock.set_by(database)
        sourcing = Sourcing(
            Ledger(database, settle), Availability(database, gate, rebuilder, thresholds), clock, policy
        )
        began = time.perf_counter()
        sourced = await sourcing.plan(
            question.lines,
            method=question.method,
            channel=question.channel,
            position=question.near,
            only=question.only,
            excluded=question.excluded,
            assumed_time=question.assumed_time,
        )
        return Answer(question=question, policy=policy, sourced=sourced, seconds=time.perf_counter() - began)
    finally:
        await rebuilder.close()
        await connections.close()
        await database.close()


# --------------------------------------------------------------------------------------------------------- for programs
def as_json(answer: Answer, *, is_explained: bool) -> dict[str, Any]:
    """One object."""
    plan = answer.sourced.plan
    report: dict[str, Any] = {
        "ok": True,
        "policy": answer.policy.name,
        "method": plan.method.value,
        "is_complete": plan.is_complete,
        "is_stale": answer.sourced.is_stale,
        "ready_time": _iso(plan.ready_time),
        "parcels": [
            {
                "location_id": parcel.location_id,
                "name": parcel.name,
                "rule": parcel.rule,
                "distance_metres": parcel.distance_metres,
                "ready_time": _iso(parcel.ready_time),
                "lines": dict(parcel.lines),
            }
            for parcel in plan.parcels
        ],
        "unsourced": [vars(each) for each in plan.unsourced],
        "rules": [
            {
                "rule": result.rule,
                "is_used": result.is_used,
                "outcome": result.outcome,
                "candidates": result.places,
                "scores": [vars(score) for score in result.scores],
                "is_proven_optimal": result.is_proven_optimal,
            }
            for result in plan.rules
        ],
        "is_proven_optimal": plan.is_proven_optimal,
        "gap": round(plan.gap, 6),
        "seconds": round(answer.seconds, 4),
    }
    if is_explained:
        report["considered"] = [
            {"location_id": each.location_id, "rule": each.rule, "why": each.why.value, "detail": each.detail}
            for each in plan.considered
        ]
    return report


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")


# ----------------------------------------------------------------------------------------------------------- for people
def as_text(answer: Answer, *, is_explained: bool) -> str:
    """What a person wants to know, the plan first."""
    return "\n".join(_told(answer, is_explained=is_explained))


def _told(answer: Answer, *, is_explained: bool) -> Iterator[str]:
    plan, question = answer.sourced.plan, answer.question
    units = sum(quantity for _, quantity in question.lines)
    count = len(plan.parcels)
    head = f"{plan.method.value} of {units} {_counted('unit', units)} in {len(question.lines)} "
    head += f"{_counted('line', len(question.lines))}, by policy {answer.policy.name}: "
    head += f"{count} {_counted('parcel', count)}" if count else "nobody brings any of it"
    yield head + ("" if plan.is_complete or not count else ", not complete")
    if answer.sourced.is_stale:
        yield "The ledger could not be asked: these figures of stock may be old."
    for n, parcel in enumerate(plan.parcels, 1):
        yield from _parcel(n, parcel)
    for each in plan.unsourced:
        held = f"; {each.held_quantity} are there, which the rules do not bring" if each.held_quantity else ""
        yield f"  missing: {each.sku} x {each.quantity}{held}"
    if plan.ready_time is not None:
        yield f"Ready by {_clock(plan.ready_time)}."
    yield from ("", "Rules, in their order")
    for result in plan.rules:
        yield f"  {'*' if result.is_used else ' '} {result.rule}: {result.outcome}"
        if result.scores:
            proven = "nothing is better" if result.is_proven_optimal else "not proven: the least possible in brackets"
            scores = (
                f"{score.objective} {score.value}" + ("" if result.is_proven_optimal else f" ({score.bound})")
                for score in result.scores
            )
            yield f"      {', '.join(scores)}; {proven}"
    if is_explained:
        yield from _explained(plan.considered)
    yield f"\nPlanned in {1000 * answer.seconds:.0f} ms" + (
        "" if plan.is_proven_optimal else f"; at most {plan.gap:.1%} from the best plan"
    )


def _parcel(n: int, parcel: Parcel) -> Iterator[str]:
    way = "" if parcel.distance_metres is None else f", {parcel.distance_metres / 1000:.1f} km"
    ready = "" if parcel.ready_time is None else f", ready by {_clock(parcel.ready_time)}"
    name = f" ({parcel.name})" if parcel.name and parcel.name != parcel.location_id else ""
    yield f"  {n}. {parcel.location_id}{name}{way}{ready}: rule {parcel.rule}"
    yield "     " + ", ".join(f"{sku} x {units}" for sku, units in parcel.lines.items())


def _explained(considered: Sequence[Considered]) -> Iterator[str]:
    """By rule and reason; few of each."""
    ranks = {rule: n for n, rule in enumerate(dict.fromkeys(each.rule for each in considered))}
    order = sorted(considered, key=lambda each: (ranks[each.rule], each.why.value))  # nearest first, as they came
    yield from ("", "Not chosen")
    for rule, of_rule in groupby(order, key=lambda each: each.rule):
        yield f"  by {rule}"
        for why, found in groupby(of_rule, key=lambda each: each.why):
            places = list(found)
            yield f"    {why.value}: {len(places)} {_counted('location', len(places))}"
            yield from (f"      {each.location_id}  {each.detail}".rstrip() for each in places[:SHOWN_MAX])
            if len(places) > SHOWN_MAX:
                yield f"      and {len(places) - SHOWN_MAX} more"


def _clock(moment: datetime) -> str:
    return moment.strftime("%a %d %b %H:%M UTC")


def _counted(word: str, count: int) -> str:
    return word if count == 1 else word + "s"
