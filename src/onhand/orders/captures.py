"""What leaves a location is captured of the tenders that wait for it."""

from __future__ import annotations

from collections.abc import Iterable

from onhand.domain import returns
from onhand.domain.payment import CaptureAt, Operation, plan_capture
from onhand.ledger.transaction import Transaction
from onhand.orders import store
from onhand.orders.store import LockedOrder, Part
from onhand.payments import store as money
from onhand.payments.settling import settle_later

REASON = "GOODS_LEFT"


async def capture_leaving(tx: Transaction, order: LockedOrder, units: Iterable[Part], actor: str) -> None:
    """Captures what units cost that were just added to what is fulfilled of a locked order, before any level is locked."""
    if not await tx.connection.fetchval(money.WAITS_FOR_GOODS, order.order_id):
        return
    lines = await store.lines(tx.connection, order.order_id)
    leaving: dict[int, int] = {}
    for unit in units:
        leaving[unit.line_number] = leaving.get(unit.line_number, 0) + unit.quantity
    amount_minor = sum(
        returns.refund(
            total_minor=lines[number].total_minor,
            quantity=lines[number].quantity,
            given_back=lines[number].fulfilled_quantity - quantity,
            now=quantity,
        )
        for number, quantity in leaving.items()
    )
    left = sum(line.quantity - line.fulfilled_quantity - line.cancelled_quantity for line in lines.values())
    tenders = await money.lock_tenders(tx.connection, order.order_id)
    waiting = [t.tendered for t in tenders.values() if t.capture_at is CaptureAt.FULFILLMENT]
    captures = [
        money.operation(tender.tender_number, Operation.CAPTURE, part, is_done=False)
        for tender, part in plan_capture(waiting, amount_minor, is_last=not left)
    ]
    if not captures:
        return
    await money.book(
        tx.connection,
        order.order_id,
        captures,
        currency=order.currency,
        reason_code=REASON,
        reference_document=order.document,
        actor=actor,
    )
    for capture in captures:
        await settle_later(tx.connection, capture.operation_id)
