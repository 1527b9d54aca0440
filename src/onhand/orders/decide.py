"""DecideShortfall: what becomes of units that are short."""

from __future__ import annotations

from onhand.caller import Caller
from onhand.domain.errors import invalid
from onhand.ledger.mutation import Ledger
from onhand.orders.resource import resource_shortfall
from onhand.orders.shortfalls import wait_for_shortfall
from onhand.reservations.decrease import Decreases
from onhand.sourcing import Sourcing
from onhand.v1 import order_pb2 as pb


async def decide_shortfall(
    ledger: Ledger, decreases: Decreases, sourcing: Sourcing, request: pb.DecideShortfallRequest, caller: Caller
) -> pb.DecideShortfallResponse:
    """OrderService.DecideShortfall."""
    if request.decision == pb.SHORTFALL_DECISION_WAIT:
        return await wait_for_shortfall(ledger, request, caller)
    if request.decision == pb.SHORTFALL_DECISION_RESOURCE:
        return await resource_shortfall(ledger, decreases, sourcing, request, caller)
    raise invalid("decision", "must be WAIT or RESOURCE")
