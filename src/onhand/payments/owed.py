"""SettleRefund: what a provider declined to give back is given back all the same, once."""

from __future__ import annotations

from uuid import UUID

from onhand.caller import Caller
from onhand.domain.errors import invalid
from onhand.domain.payment import Operation, Outcome
from onhand.domain.payment_errors import OperationNotDeclined, OperationNotFound
from onhand.ids import parse_id
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.payments import store
from onhand.payments.queries import read_payment
from onhand.payments.settling import settle_later
from onhand.v1 import payment_pb2 as pb

BY_HAND = "PAID_OUT_BY_HAND"
RETRIED = "ASKED_AGAIN"

OPERATION = """
SELECT p.order_id, p.tender_number, p.kind, p.amount_minor, p.currency, p.reference_document, p.authorization_id, u.outcome,
       EXISTS (SELECT FROM payment_operations r WHERE r.replaces = p.operation_id) AS is_replaced,
       t.change_id, t.authorized_minor
  FROM payment_operations p JOIN tenders t USING (order_id, tender_number) LEFT JOIN payment_outcomes u USING (operation_id)
 WHERE p.operation_id = $1"""


async def settle_refund(ledger: Ledger, request: pb.SettleRefundRequest, caller: Caller) -> pb.SettleRefundResponse:
    """PaymentService.SettleRefund."""
    operation_id = parse_id("operation_id", request.operation_id)
    if request.settlement not in (pb.REFUND_SETTLEMENT_RETRY, pb.REFUND_SETTLEMENT_BY_HAND):
        raise invalid("settlement", "must be RETRY or BY_HAND")
    is_by_hand = request.settlement == pb.REFUND_SETTLEMENT_BY_HAND

    async def work(tx: Transaction) -> pb.SettleRefundResponse:
        return await _settle(tx, operation_id, request.reference, caller.actor, is_by_hand=is_by_hand)

    return await ledger.mutate(request, pb.SettleRefundResponse, work)


async def _settle(
    tx: Transaction, operation_id: UUID, reference: str, actor: str, *, is_by_hand: bool
) -> pb.SettleRefundResponse:
    found = await tx.connection.fetchrow(OPERATION, operation_id)
    if found is None:
        raise OperationNotFound(str(operation_id))
    order_id, number = found["order_id"], found["tender_number"]
    await store.lock_tenders(tx.connection, order_id, found["change_id"])
    row = await tx.connection.fetchrow(OPERATION, operation_id)  # as it is under the lock
    assert row is not None
    kind = Operation(row["kind"])
    if kind not in (Operation.VOID, Operation.REFUND) or row["outcome"] != Outcome.DECLINED.value or row["is_replaced"]:
        state = "replaced already" if row["is_replaced"] else row["outcome"] or "OPEN"
        raise OperationNotDeclined(str(operation_id), kind.value, state)
    if not row["authorized_minor"]:
        raise OperationNotDeclined(str(operation_id), kind.value, "of nothing, as its authorization was declined")
    operation = store.operation(
        number,
        kind,
        row["amount_minor"],
        is_done=is_by_hand,
        replaces=operation_id,
        reference=reference,
        authorization_id=row["authorization_id"],
    )
    await store.book(
        tx.connection,
        order_id,
        [operation],
        currency=row["currency"],
        reason_code=BY_HAND if is_by_hand else RETRIED,
        reference_document=row["reference_document"],
        actor=actor,
    )
    if not is_by_hand:
        await settle_later(tx.connection, operation.operation_id)
    return pb.SettleRefundResponse(payment=await read_payment(tx.connection, order_id, number))
