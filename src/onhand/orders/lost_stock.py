"""What a paid order lacks from the beginning: a job looks for another location; where none brings it, the policy says what then."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from onhand.caller import ITSELF
from onhand.crash import step
from onhand.domain import order as rules
from onhand.domain.errors import (
    FulfillmentNotOffered,
    InsufficientStock,
    Refusal,
    ShortfallNotToDecide,
)
from onhand.domain.lost_stock import LostStockPolicy, Otherwise
from onhand.domain.order import FulfillmentKind
from onhand.domain.shortage import ShortfallStep
from onhand.domain.sourcing_errors import LocationAtCapacity, ResourcingNotOffered
from onhand.jobs import Jobs, NotYet, enqueue
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.orders import cancel, store
from onhand.orders.queries import read_order
from onhand.orders.resource import resource_by_policy
from onhand.orders.shortfalls import wait_for_shortfall
from onhand.postgres import Connection
from onhand.reservations.decrease import Decreases
from onhand.sourcing import Sourcing
from onhand.v1 import order_pb2 as pb
from onhand.wire import money_to_wire

SETTLE = "lost_stock.settle"
"""The job. Its payload is the order's id."""

OPEN_OF_ORDER = """
SELECT s.shortfall_id, s.line_number, s.open_quantity, s.next_step, f.kind
  FROM fulfillment_orders f JOIN shortfalls s USING (fulfillment_order_id)
 WHERE f.order_id = $1 AND s.cause = 'LOST' AND s.open_quantity > 0 ORDER BY s.shortfall_id"""
CANCELLED = """
SELECT coalesce(sum(quantity), 0)::int8 FROM shortfall_ends WHERE shortfall_id = ANY ($1) AND reason = 'CANCELLED'"""
LACKED = """
SELECT fulfillment_order_id::text, line_number, sum(open_quantity)::int8 FROM shortfalls
 WHERE shortfall_id = ANY ($1) GROUP BY 1, 2"""

Resourcing = Callable[[UUID, FulfillmentKind, str], Awaitable[bool]]
"""Has another location bring a shortfall, once for a request_id. Whether one does."""


async def settle_later(connection: Connection, order_id: UUID) -> None:
    """Has a job look after what an order lacks, once this transaction is committed."""
    await enqueue(connection, SETTLE, {"order_id": str(order_id)}, key=f"{SETTLE}/{order_id}")


class ByPolicy:
    """Resourcing: what is sent is brought by the location that the sourcing policy chooses.

    A pickup is not moved without its customer.
    """

    def __init__(self, ledger: Ledger, decreases: Decreases, sourcing: Sourcing) -> None:
        self._ledger = ledger
        self._decreases = decreases
        self._sourcing = sourcing

    async def __call__(self, shortfall_id: UUID, kind: FulfillmentKind, request_id: str) -> bool:
        if kind is not FulfillmentKind.SHIP:
            return False
        try:
            await resource_by_policy(
                self._ledger, self._decreases, self._sourcing, shortfall_id, request_id=request_id, caller=ITSELF
            )
        except (ResourcingNotOffered, InsufficientStock, FulfillmentNotOffered, LocationAtCapacity):
            return False
        return True


class LostStock:
    """Looks after orders that were placed short. A second run finds nothing open, or the answers of the first."""

    def __init__(self, ledger: Ledger, jobs: Jobs, policy: LostStockPolicy, resourcing: Resourcing) -> None:
        self._ledger = ledger
        self._resourcing = resourcing
        self.policy = policy
        jobs.register(SETTLE, self._settle)

    async def _settle(self, payload: Mapping[str, Any], attempts: int) -> None:
        order_id = UUID(payload["order_id"])
        left = []
        for row in await self._open(order_id):
            request_id = f"lost-stock/{row['shortfall_id']}"
            try:
                if not await self._resourcing(row["shortfall_id"], FulfillmentKind(row["kind"]), request_id):
                    left.append(row)
            except ShortfallNotToDecide:
                continue  # it was covered, or a person was faster
        if not left:
            return
        if self.policy.otherwise is Otherwise.BACKORDER:
            await self._wait(left)
        else:
            await self._cancel(order_id, left)

    @step("ledger.read_lost")
    async def _open(self, order_id: UUID) -> Sequence[Any]:
        async with self._ledger.database.connection() as connection:
            return await connection.fetch(OPEN_OF_ORDER, order_id)

    async def _wait(self, left: Sequence[Any]) -> None:
        for row in left:
            if row["next_step"] != ShortfallStep.CHOOSE.value:
                continue
            request = pb.DecideShortfallRequest(
                request_id=f"lost-stock/{row['shortfall_id']}/wait",
                shortfall_id=str(row["shortfall_id"]),
                decision=pb.SHORTFALL_DECISION_WAIT,
            )
            try:
                await wait_for_shortfall(self._ledger, request, ITSELF)
            except ShortfallNotToDecide:
                continue

    async def _cancel(self, order_id: UUID, left: Sequence[Any]) -> None:
        """Cancels what is still short of them, and gives back what was paid for it."""
        units: dict[int, int] = {}
        for row in left:
            units[row["line_number"]] = units.get(row["line_number"], 0) + row["open_quantity"]
        request = pb.CancelOrderLinesRequest(
            request_id=f"lost-stock/{left[0]['shortfall_id']}/cancel",
            order_id=str(order_id),
            lines=[pb.CancelLine(line_number=n, quantity=q) for n, q in sorted(units.items())],
        )
        ids = [row["shortfall_id"] for row in left]

        async def work(tx: Transaction) -> pb.CancelOrderLinesResponse:
            order = await store.lock_order(tx.connection, order_id)
            assert order is not None
            fulfillments = await store.fulfillments(tx.connection, order_id)
            parts = await cancel.read_parts(tx.connection, order_id, fulfillments)
            # What was lost, and nothing else that the same lines lack. Whoever cancels more of it waits for the order's lock.
            lacked = {(work, number): quantity for work, number, quantity in await tx.connection.fetch(LACKED, ids)}
            parts = [replace(p, short=lacked.get((p.fulfillment_order_id, p.line_number), 0)) for p in parts]
            cancelled_before = await tx.connection.fetchval(CANCELLED, ids)
            plan = rules.plan_cancellation(str(order_id), parts, units.items())
            refund_minor = await cancel.cancel_parts(
                tx, order, fulfillments, parts, plan, units, ITSELF, reason_code="LOST_STOCK"
            )
            await cancel.free(tx, order, plan, fulfillments, ITSELF)
            # Their levels are locked by now. What came in meanwhile covered them: that is no loss, so look again.
            if await tx.connection.fetchval(CANCELLED, ids) - cancelled_before != sum(units.values()):
                raise NotYet("some of it is not short any more")
            return pb.CancelOrderLinesResponse(
                order=await read_order(tx.connection, order_id), refund=money_to_wire(refund_minor, order.currency)
            )

        try:
            await self._ledger.mutate(request, pb.CancelOrderLinesResponse, work)
        except Refusal as refusal:
            # What was cancelled or taken on by a person meanwhile is another number: look again.
            raise NotYet(str(refusal)) from refusal
