"""SourcingService.SourceReservation: a plan, and a reservation of what it says, in one ledger transaction.

The plan holds nothing, so what it counts on may go before its units are claimed: then nothing was done, and it is planned anew.
Whatever an attempt left behind are claims without a row, as of any reservation that was not journalled.
"""

from __future__ import annotations

from uuid import UUID

from onhand.caller import Caller
from onhand.domain.errors import InsufficientStock, LocationNotFound
from onhand.domain.sourcing import Plan
from onhand.domain.sourcing_errors import NotSourced
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.reservations.holding import Holding
from onhand.sourcing.decisions import keep_reservation, kept_message
from onhand.sourcing.preview import method_of, position_of
from onhand.sourcing.use import Sourcing
from onhand.v1 import inventory_pb2
from onhand.v1 import sourcing_pb2 as v1
from onhand.wire import channel_name

PLANS_MAX = 4
"""How often a call plans, where stock went between plan and reservation."""


class SourcedReservations:
    """Reserves where the policy says."""

    def __init__(self, ledger: Ledger, holding: Holding, sourcing: Sourcing) -> None:
        self._ledger = ledger
        self._holding = holding
        self._sourcing = sourcing

    async def source_reservation(
        self, request: v1.SourceReservationRequest, caller: Caller
    ) -> v1.SourceReservationResponse:
        """SourcingService.SourceReservation."""
        method = method_of(request.method)
        for attempt in range(1, PLANS_MAX + 1):
            first = await self._ledger.find_answer(request, v1.SourceReservationResponse)
            if first is not None:
                return first
            plan, _ = await self._sourcing.plan(
                [(line.sku, line.quantity) for line in request.lines],
                method=method,
                channel=channel_name(request.channel),
                position=position_of(request),
                only=request.location_ids,
                excluded=request.excluded_location_ids,
            )
            if plan.unsourced and not (plan.parcels and request.accepts_partial):
                # Its first attempt may hold what is missing.
                first = await self._ledger.find_answer(request, v1.SourceReservationResponse)
                if first is not None:
                    return first
                raise NotSourced(self._sourcing.policy.name, tuple(plan.unsourced))
            try:
                return await self._reserve(request, plan)
            except (InsufficientStock, LocationNotFound):
                if attempt < PLANS_MAX:
                    continue
                first = await self._ledger.find_answer(request, v1.SourceReservationResponse)
                if first is not None:
                    return first
                raise
        raise AssertionError("not reached")

    async def _reserve(self, request: v1.SourceReservationRequest, plan: Plan) -> v1.SourceReservationResponse:
        message = kept_message(plan, self._sourcing.policy.name)

        async def beside(
            tx: Transaction, reservation_id: UUID, reservation: inventory_pb2.Reservation
        ) -> v1.SourceReservationResponse:
            await keep_reservation(tx, reservation_id, message)
            return v1.SourceReservationResponse(reservation=reservation, plan=message)

        return await self._holding.hold(
            request,
            v1.SourceReservationResponse,
            sorted((parcel.location_id, sorted(parcel.lines.items())) for parcel in plan.parcels),
            beside,
            channel=channel_name(request.channel),
            customer_id=request.customer_id,
            ttl_seconds=request.ttl_seconds,
        )
