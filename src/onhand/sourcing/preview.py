"""SourcingService."""

from __future__ import annotations

from onhand.caller import Caller
from onhand.domain.errors import invalid
from onhand.domain.order import FulfillmentKind
from onhand.sourcing.answers import plan_message
from onhand.sourcing.use import Sourcing
from onhand.v1 import order_pb2
from onhand.v1 import sourcing_pb2 as v1
from onhand.wire import channel_name, moment

METHODS: dict[int, FulfillmentKind] = {
    order_pb2.FULFILLMENT_KIND_PICKUP: FulfillmentKind.PICKUP,
    order_pb2.FULFILLMENT_KIND_SHIP: FulfillmentKind.SHIP,
}


def method_of(kind: int) -> FulfillmentKind:
    """How the customer gets what is sourced. Raises InvalidRequest."""
    method = METHODS.get(kind)
    if method is None:
        raise invalid("method", "must be FULFILLMENT_KIND_PICKUP or FULFILLMENT_KIND_SHIP")
    return method


def position_of(request: v1.PreviewSourcingRequest | v1.SourceReservationRequest) -> tuple[float, float] | None:
    """Where the customer is, if that is known."""
    return (request.position.latitude, request.position.longitude) if request.HasField("position") else None


class Preview:
    """Tells what the server would do, and does nothing."""

    def __init__(self, sourcing: Sourcing) -> None:
        self._sourcing = sourcing

    async def preview_sourcing(self, request: v1.PreviewSourcingRequest, caller: Caller) -> v1.PreviewSourcingResponse:
        """SourcingService.PreviewSourcing."""
        has_time = request.HasField("assumed_time")
        sourced = await self._sourcing.plan(
            [(line.sku, line.quantity) for line in request.lines],
            method=method_of(request.method),
            channel=channel_name(request.channel),
            position=position_of(request),
            only=request.location_ids,
            excluded=request.excluded_location_ids,
            assumed_time=moment("assumed_time", request.assumed_time) if has_time else None,
        )
        considered = sourced.plan.considered if request.with_considered else ()
        message = plan_message(sourced.plan, self._sourcing.policy.name, considered=considered)
        return v1.PreviewSourcingResponse(plan=message, is_stale=sourced.is_stale)
