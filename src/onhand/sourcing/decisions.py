"""The reasons that are kept: why which locations bring what, for the orders that came of it.

Those of a reservation that no order came of are forgotten once it is over.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from google.protobuf.json_format import MessageToDict

from onhand.crash import step
from onhand.domain.sourcing import Considered, Plan
from onhand.ids import new_id
from onhand.ledger.transaction import Transaction
from onhand.postgres import Database
from onhand.sourcing.answers import plan_message
from onhand.v1 import sourcing_pb2 as v1

CONSIDERED_MAX = 50
"""Locations that were not chosen of which it is kept why: those that the rules of the plan looked at, the nearest first."""

KEEP = """
INSERT INTO sourcing_decisions (decision_id, document_id, fulfillment_order_id, plan)
VALUES ($1, $2, $3, $4)"""


KEEP_RESERVATION = """
INSERT INTO sourcing_decisions (decision_id, document_id, plan, look_time)
VALUES ($1, $2, $3, now() + make_interval(secs => $4))"""
LOOK_SECONDS = 86_400.0
"""When it is looked what became of a reservation, and looked again while it is active."""
LOOKED_MAX = 5000
"""Decisions that one look is about."""
# An ended reservation never becomes active again.
LOOK = """
WITH due AS MATERIALIZED (
    SELECT decision_id, document_id FROM sourcing_decisions
     WHERE look_time < now() ORDER BY look_time LIMIT $1 FOR UPDATE SKIP LOCKED),
became AS MATERIALIZED (
    SELECT decision_id, (
        SELECT CASE WHEN bool_or(c.state = 'confirmed') THEN 'ordered' WHEN bool_or(c.state = 'active') THEN 'active' END
          FROM claims c WHERE c.reservation_id = due.document_id) AS state FROM due),
forgotten AS (
    DELETE FROM sourcing_decisions d USING became b WHERE d.decision_id = b.decision_id AND b.state IS NULL)
UPDATE sourcing_decisions d SET look_time = CASE b.state WHEN 'active' THEN now() + make_interval(secs => $2) END
  FROM became b WHERE d.decision_id = b.decision_id AND b.state IS NOT NULL"""


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


@step("ledger.keep_sourced")
async def keep_reservation(tx: Transaction, reservation_id: UUID, plan: v1.SourcingPlan) -> None:
    """Keeps why a reservation is where it is."""
    await tx.connection.execute(KEEP_RESERVATION, new_id(), reservation_id, _json(plan), LOOK_SECONDS)


class Decisions:
    """What is kept, as time passes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @step("ledger.forget_decisions")
    async def forget(self) -> None:
        """Forgets those of reservations that are over and became no order."""
        async with self._database.connection() as connection:
            await connection.execute(LOOK, LOOKED_MAX, LOOK_SECONDS)


def _json(plan: v1.SourcingPlan) -> dict[str, Any]:
    return MessageToDict(plan, preserving_proto_field_name=True)
