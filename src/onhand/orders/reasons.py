"""Why which locations bring an order, as sourcing decided it, for whoever reads the order."""

from __future__ import annotations

from typing import Any

from google.protobuf.json_format import ParseDict

from onhand.v1 import order_pb2 as pb
from onhand.v1 import sourcing_pb2, types_pb2
from onhand.wire import timestamp_of_json

# All that was decided for an order `o`, as one json value.
DECISIONS = """(
       SELECT json_agg(json_build_object('fulfillment_order_id', d.fulfillment_order_id, 'plan', d.plan,
                                         'created_time', d.created_time) ORDER BY d.created_time, d.decision_id)
         FROM sourcing_decisions d WHERE d.document_id = ANY (ARRAY[o.reservation_id, o.order_id]))"""
# By when a fulfillment order `f` of it was to be ready, by the last decision before it came to its location.
PROMISED_TIME = """(
       SELECT p ->> 'ready_time' FROM sourcing_decisions d, jsonb_array_elements(d.plan -> 'parcels') AS p
        WHERE d.document_id = ANY (ARRAY[o.reservation_id, o.order_id]) AND p ->> 'location_id' = f.location_id
          AND d.created_time <= coalesce(f.taken_on_time, f.created_time) ORDER BY d.created_time DESC LIMIT 1)"""


def decision(value: dict[str, Any]) -> pb.SourcingDecision:
    """One of DECISIONS for the wire."""
    plan = ParseDict(value["plan"], sourcing_pb2.SourcingPlan(), ignore_unknown_fields=True)
    return pb.SourcingDecision(
        policy=plan.policy,
        decided_time=timestamp_of_json(value["created_time"]),
        fulfillment_order_id=value["fulfillment_order_id"] or "",
        parcels=[_parcel(parcel) for parcel in plan.parcels],
        unsourced=[types_pb2.BasketLine(sku=each.sku, quantity=each.quantity) for each in plan.unsourced],
        rules=[_rule(rule) for rule in plan.rules],
        passed_over=[_passed_over(each) for each in plan.considered],
        is_proven_optimal=plan.is_proven_optimal,
        gap=plan.gap,
        ready_time=plan.ready_time if plan.HasField("ready_time") else None,
    )


def _parcel(parcel: sourcing_pb2.SourcingParcel) -> pb.SourcedParcel:
    return pb.SourcedParcel(
        location_id=parcel.location_id,
        name=parcel.name,
        rule=parcel.rule,
        lines=parcel.lines,
        distance_metres=parcel.distance_metres if parcel.HasField("distance_metres") else None,
        ready_time=parcel.ready_time if parcel.HasField("ready_time") else None,
    )


def _rule(rule: sourcing_pb2.SourcingRuleResult) -> pb.SourcingRuleOutcome:
    return pb.SourcingRuleOutcome(
        rule=rule.rule,
        is_used=rule.is_used,
        outcome=rule.outcome,
        is_proven_optimal=rule.is_proven_optimal,
        scores=[pb.ObjectiveScore(objective=s.objective, value=s.value, bound=s.bound) for s in rule.scores],
    )


def _passed_over(each: sourcing_pb2.ConsideredLocation) -> pb.PassedOverLocation:
    return pb.PassedOverLocation(
        location_id=each.location_id,
        rule=each.rule,
        reason=sourcing_pb2.SourcingReason.Name(each.reason).removeprefix("SOURCING_REASON_"),
        detail=each.detail,
    )
