"""A plan as messages."""

from __future__ import annotations

from collections.abc import Iterable

from onhand.domain.sourcing import Considered, Parcel, Plan, RuleResult
from onhand.v1 import sourcing_pb2 as v1
from onhand.v1 import types_pb2
from onhand.wire import timestamp


def plan_message(plan: Plan, policy: str, *, considered: Iterable[Considered]) -> v1.SourcingPlan:
    """The plan, with why some were not chosen."""
    return v1.SourcingPlan(
        policy=policy,
        parcels=[_parcel(parcel) for parcel in plan.parcels],
        unsourced=[
            v1.UnsourcedLine(sku=each.sku, quantity=each.quantity, held_quantity=each.held_quantity)
            for each in plan.unsourced
        ],
        rules=[_result(result) for result in plan.rules],
        considered=[
            v1.ConsideredLocation(
                location_id=each.location_id,
                rule=each.rule,
                reason=v1.SourcingReason.Value(f"SOURCING_REASON_{each.why.name}"),
                detail=each.detail,
            )
            for each in considered
        ],
        is_proven_optimal=plan.is_proven_optimal,
        gap=plan.gap,
        ready_time=None if plan.ready_time is None else timestamp(plan.ready_time),
    )


def _parcel(parcel: Parcel) -> v1.SourcingParcel:
    return v1.SourcingParcel(
        location_id=parcel.location_id,
        name=parcel.name,
        rule=parcel.rule,
        lines=[types_pb2.BasketLine(sku=sku, quantity=units) for sku, units in parcel.lines.items()],
        distance_metres=parcel.distance_metres,
        ready_time=None if parcel.ready_time is None else timestamp(parcel.ready_time),
    )


def _result(result: RuleResult) -> v1.SourcingRuleResult:
    return v1.SourcingRuleResult(
        rule=result.rule,
        is_used=result.is_used,
        outcome=result.outcome,
        candidates=result.places,
        scores=[
            v1.SourcingScore(objective=score.objective, value=score.value, bound=score.bound) for score in result.scores
        ],
        is_proven_optimal=result.is_proven_optimal,
    )
