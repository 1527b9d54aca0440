"""Money in PostgreSQL: every statement about tenders and their operations, and nothing that decides.

Tenders are locked after the order that they are of, and before gift cards, epochs, claims and levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from onhand.domain.payment import CaptureAt, Operation, Payment, Provider, Tendered
from onhand.ids import new_id
from onhand.postgres import Connection

LOCK_TENDERS = """
SELECT tender_number, kind, provider, capture_at, gift_card_id, amount_minor, authorized_minor, captured_minor, voided_minor,
       refunded_minor, is_declined, given_back_minor
  FROM tenders WHERE order_id = $1 AND change_id IS NOT DISTINCT FROM $2 ORDER BY tender_number FOR UPDATE"""
CURRENCY = "SELECT currency FROM payment_operations WHERE order_id = $1 LIMIT 1"
WAITS_FOR_GOODS = "SELECT true FROM tenders WHERE order_id = $1 AND capture_at = 'FULFILLMENT' LIMIT 1"
# A statement of its own, after the lock: what others ended while this one waited for it is seen.
OPEN = """
SELECT o.tender_number, o.kind, sum(o.amount_minor)::int8 AS amount_minor FROM payment_operations o
 WHERE o.order_id = $1 AND NOT EXISTS (SELECT FROM payment_outcomes u WHERE u.operation_id = o.operation_id) GROUP BY 1, 2"""
# Operations, the outcomes of those that have one, and the sums of their tenders, which constraints keep within each other.
BOOK = """
WITH asked AS (
    SELECT * FROM unnest($2::uuid[], $3::int[], $4::text[], $5::int8[], $9::bool[], $11::uuid[], $12::text[], $13::uuid[])
        WITH ORDINALITY
        AS o (operation_id, tender_number, kind, amount_minor, is_done, replaces, reference, authorization_id, place)),
operation AS (
    INSERT INTO payment_operations (operation_id, order_id, tender_number, kind, amount_minor, currency, reason_code,
                                    reference_document, actor, replaces, authorization_id)
    SELECT operation_id, $1, tender_number, kind, amount_minor, $6, $7, $8, $10, replaces, authorization_id FROM asked
     ORDER BY place),
outcome AS (
    INSERT INTO payment_outcomes (operation_id, outcome, provider_reference)
    SELECT operation_id, 'SUCCEEDED', reference FROM asked WHERE is_done),
sums AS (
    SELECT tender_number, coalesce(sum(amount_minor) FILTER (WHERE kind = 'AUTHORIZE' AND is_done), 0)::int8 AS authorized,
           coalesce(sum(amount_minor) FILTER (WHERE kind = 'CAPTURE' AND is_done), 0)::int8 AS captured,
           coalesce(sum(amount_minor) FILTER (WHERE kind = 'VOID' AND is_done), 0)::int8 AS voided,
           coalesce(sum(amount_minor) FILTER (WHERE kind = 'REFUND' AND is_done), 0)::int8 AS refunded,
           coalesce(sum(amount_minor) FILTER (WHERE kind IN ('VOID', 'REFUND') AND replaces IS NULL), 0)::int8
               AS given_back
      FROM asked GROUP BY 1)
UPDATE tenders t
   SET authorized_minor = t.authorized_minor + s.authorized, captured_minor = t.captured_minor + s.captured,
       voided_minor = t.voided_minor + s.voided, refunded_minor = t.refunded_minor + s.refunded,
       given_back_minor = t.given_back_minor + s.given_back
  FROM sums s WHERE t.order_id = $1 AND t.tender_number = s.tender_number"""


@dataclass(frozen=True)
class LockedTender:
    """A tender whose row this transaction holds."""

    tendered: Tendered
    capture_at: CaptureAt
    gift_card_id: UUID | None


@dataclass(frozen=True)
class NewOperation:
    """An operation to be written. `is_done`: it has succeeded in this very transaction.

    `authorization_id`: the operation that made the authorization it is of; the newest before it, if not said.
    """

    tender_number: int
    kind: Operation
    amount_minor: int
    is_done: bool
    operation_id: UUID
    replaces: UUID | None = None
    reference: str = ""
    authorization_id: UUID | None = None


def operation(
    tender_number: int,
    kind: Operation,
    amount_minor: int,
    *,
    is_done: bool,
    replaces: UUID | None = None,
    reference: str = "",
    authorization_id: UUID | None = None,
) -> NewOperation:
    """A new one. `reference`: what is written on the receipt of one that was done by hand."""
    return NewOperation(tender_number, kind, amount_minor, is_done, new_id(), replaces, reference, authorization_id)


async def lock_tenders(
    connection: Connection, order_id: UUID, change_id: UUID | None = None
) -> dict[int, LockedTender]:
    """Locks the tenders of an order, by number; or those that are to pay for a change of it, which are none of its own."""
    rows = await connection.fetch(LOCK_TENDERS, order_id, change_id)
    open_minor: dict[tuple[int, str], int] = {}
    if any(row["provider"] != Provider.TILL.value for row in rows):
        open_minor = {
            (r["tender_number"], r["kind"]): r["amount_minor"] for r in await connection.fetch(OPEN, order_id)
        }
    return {row["tender_number"]: _locked(row, open_minor) for row in rows}


def payment_of(row: Any) -> Payment:
    """The sums of a tender's row."""
    return Payment(
        row["amount_minor"],
        row["authorized_minor"],
        row["captured_minor"],
        row["voided_minor"],
        row["refunded_minor"],
        row["is_declined"],
    )


def _locked(row: Any, open_minor: dict[tuple[int, str], int]) -> LockedTender:
    number = row["tender_number"]
    tendered = Tendered(
        number,
        row["kind"],
        Provider(row["provider"]),
        payment_of(row),
        row["given_back_minor"],
        open_minor.get((number, Operation.CAPTURE.value), 0),
        open_minor.get((number, Operation.VOID.value), 0),
    )
    return LockedTender(tendered, CaptureAt(row["capture_at"]), row["gift_card_id"])


async def book(
    connection: Connection,
    order_id: UUID,
    operations: Sequence[NewOperation],
    *,
    currency: str,
    reason_code: str,
    reference_document: str,
    actor: str,
) -> None:
    """Writes operations of tenders that are locked."""
    await connection.execute(
        BOOK,
        order_id,
        [o.operation_id for o in operations],
        [o.tender_number for o in operations],
        [o.kind.value for o in operations],
        [o.amount_minor for o in operations],
        currency,
        reason_code,
        reference_document,
        [o.is_done for o in operations],
        actor,
        [o.replaces for o in operations],
        [o.reference for o in operations],
        [o.authorization_id for o in operations],
    )
