"""Payments as messages."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from onhand.caller import Caller
from onhand.domain.errors import OrderNotFound
from onhand.domain.payment_errors import PaymentNotFound
from onhand.ids import parse_id
from onhand.ledger.mutation import Ledger
from onhand.paging import decode_token, encode_token, fill, page_size
from onhand.payments.store import payment_of
from onhand.postgres import Connection
from onhand.v1 import order_pb2
from onhand.v1 import payment_pb2 as pb
from onhand.wire import money_to_wire, timestamp, timestamp_of_json

# The operations of a tender are what happened to one order: few.
PAYMENTS = """
SELECT t.order_id, t.tender_number, t.kind, t.reference, t.provider, t.capture_at, t.gift_card_id, t.amount_minor,
       t.authorized_minor, t.captured_minor, t.voided_minor, t.refunded_minor, t.given_back_minor, t.is_declined, t.created_time,
       t.authorization_expires_time, t.is_renewal_declined, t.change_id, o.currency, (
    SELECT json_agg(json_build_object('operation_id', p.operation_id, 'kind', p.kind, 'amount_minor', p.amount_minor,
               'reason_code', p.reason_code, 'reference_document', p.reference_document, 'actor', p.actor,
               'created_time', p.created_time, 'outcome', u.outcome, 'provider_reference', u.provider_reference,
               'detail', u.detail, 'ended_time', u.ended_time,
               'replaces', p.replaces) ORDER BY p.operation_number)
      FROM payment_operations p LEFT JOIN payment_outcomes u USING (operation_id)
     WHERE p.order_id = t.order_id AND p.tender_number = t.tender_number) AS operations
  FROM tenders t JOIN orders o USING (order_id)
 WHERE t.order_id = $1 AND t.tender_number > $2 ORDER BY t.tender_number LIMIT $3"""
ORDER_EXISTS = "SELECT true FROM orders WHERE order_id = $1"


async def get_payment(ledger: Ledger, request: pb.GetPaymentRequest, caller: Caller) -> pb.GetPaymentResponse:
    """PaymentService.GetPayment."""
    order_id = parse_id("order_id", request.order_id)
    async with ledger.read() as connection:
        return pb.GetPaymentResponse(payment=await read_payment(connection, order_id, request.tender_number))


async def read_payment(connection: Connection, order_id: UUID, tender_number: int) -> pb.Payment:
    """A payment. Raises PaymentNotFound."""
    rows = await connection.fetch(PAYMENTS, order_id, tender_number - 1, 1)
    if not rows or rows[0]["tender_number"] != tender_number:
        raise PaymentNotFound(str(order_id), tender_number)
    return payment_message(rows[0])


async def list_payments(ledger: Ledger, request: pb.ListPaymentsRequest, caller: Caller) -> pb.ListPaymentsResponse:
    """PaymentService.ListPayments."""
    order_id = parse_id("order_id", request.order_id)
    size, after = page_size(request.page_size), decode_token(request, int)
    async with ledger.read() as connection:
        rows = await connection.fetch(PAYMENTS, order_id, after[0] if after else 0, size + 1)
        if not rows and not await connection.fetchval(ORDER_EXISTS, order_id):
            raise OrderNotFound(str(order_id))
    payments, last = fill(rows, size, payment_message)
    token = encode_token(request, last["tender_number"]) if last else ""
    return pb.ListPaymentsResponse(payments=payments, next_page_token=token)


def payment_message(row: Any) -> pb.Payment:
    """A tender with what became of its money."""
    currency, payment = row["currency"], payment_of(row)
    # What was to be voided before anybody knew that its authorization was declined is owed to nobody.
    given_back_minor = min(row["given_back_minor"], payment.authorized_minor)
    message = pb.Payment(
        order_id=str(row["order_id"]),
        tender_number=row["tender_number"],
        kind=order_pb2.TenderKind.Value(f"TENDER_KIND_{row['kind']}"),
        reference=row["reference"],
        provider=pb.PaymentProvider.Value(f"PAYMENT_PROVIDER_{row['provider']}"),
        state=pb.PaymentState.Value(f"PAYMENT_STATE_{payment.state.value}"),
        amount=money_to_wire(payment.amount_minor, currency),
        authorized=money_to_wire(payment.authorized_minor, currency),
        captured=money_to_wire(payment.captured_minor, currency),
        voided=money_to_wire(payment.voided_minor, currency),
        refunded=money_to_wire(payment.refunded_minor, currency),
        owed=money_to_wire(given_back_minor - payment.voided_minor - payment.refunded_minor, currency),
        gift_card_id=str(row["gift_card_id"] or ""),
        operations=[_operation(value, currency) for value in row["operations"] or ()],
        created_time=timestamp(row["created_time"]),
        capture_at=order_pb2.CaptureAt.Value(f"CAPTURE_AT_{row['capture_at']}"),
        is_of_unmade_change=row["change_id"] is not None,
    )
    if payment.capturable_minor and row["authorization_expires_time"]:
        message.authorization_expire_time.CopyFrom(timestamp(row["authorization_expires_time"]))
        message.is_renewal_declined = row["is_renewal_declined"]
    return message


def _operation(value: dict[str, Any], currency: str) -> pb.PaymentOperation:
    message = pb.PaymentOperation(
        operation_id=value["operation_id"],
        kind=pb.PaymentOperationKind.Value(f"PAYMENT_OPERATION_KIND_{value['kind']}"),
        state=pb.PaymentOperationState.Value(f"PAYMENT_OPERATION_STATE_{value['outcome'] or 'OPEN'}"),
        amount=money_to_wire(value["amount_minor"], currency),
        reason_code=value["reason_code"],
        reference_document=value["reference_document"],
        actor=value["actor"],
        provider_reference=value["provider_reference"] or "",
        detail=value["detail"] or "",
        replaces=value["replaces"] or "",
        created_time=timestamp_of_json(value["created_time"]),
    )
    if value["ended_time"]:
        message.ended_time.CopyFrom(timestamp_of_json(value["ended_time"]))
    return message
