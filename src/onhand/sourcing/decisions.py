"""The reasons that are kept: why which locations bring what, for the orders that came of it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from google.protobuf.json_format import MessageToDict

from onhand.crash import step
from onhand.domain.sourcing import Considered, Plan
from onhand.ids import new_id
from onhand.ledger.transaction import Transaction
from onhand.sourcing.answers import plan_message
from onhand.v1 import sourcing_pb2 as v1

CONSIDERED_MAX = 50
"""Locations that were not chosen of which it is kept why: those that the rules of the plan looked at, the nearest first."""

KEEP = """
INSERT INTO sourcing_decisions (decision_id, document_id, fulfillment_order_id, plan)
VALUES ($1, $2, $3, $4)"""


def kept_message(plan: Plan, policy: str) -> v1.SourcingPlan:
    """A plan as it is kept: with the reasons of some that were not chosen."""
    return plan_message(plan, policy, considered=_nearest(plan))


def _nearest(plan: Plan) -> list[Considered]:
    used = {result.rule for result in plan.rules if result.is_used}
    return [each for each in plan.considered if each.rule in used][:CONSIDERED_MAX]


@step("ledger.keep_decision")
async def keep_take_over(tx: Transaction, order_id: UUID, fulfillment_order_id: UUID, plan: Plan, policy: str) -> None:
    """Keeps why a location took over units of an order."""
    await tx.connection.execute(KEEP, new_id(), order_id, fulfillment_order_id, _json(kept_message(plan, policy)))


def _json(plan: v1.SourcingPlan) -> dict[str, Any]:
    return MessageToDict(plan, preserving_proto_field_name=True)
