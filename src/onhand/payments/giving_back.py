"""Giving money back, in the transaction that says why: a cancellation, a return."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from onhand.domain.payment import GiveBack, Operation, plan_give_back, split_refund
from onhand.ledger.transaction import Transaction
from onhand.payments import gift_cards, store
from onhand.payments.settling import settle_later
from onhand.postgres import Connection

# What was captured of each authorization, or will be, and nobody asked to refund yet. A capture is of the newest that was asked for
# before it, for it waits for that; so is what names no other. What a declined renewal was to be is of the one before.
CAPTURED_OF = """
WITH moved AS (
    SELECT p.operation_id, p.operation_number, p.kind, p.amount_minor, p.replaces, (
               SELECT u.outcome FROM payment_outcomes u WHERE u.operation_id = p.operation_id) AS outcome,
           coalesce((SELECT n.operation_number FROM payment_operations n WHERE n.operation_id = p.authorization_id),
                    p.operation_number) AS of_number
      FROM payment_operations p
     WHERE p.order_id = $1 AND p.tender_number = $2),
authorized AS (
    SELECT operation_id, operation_number, lead(operation_number) OVER (ORDER BY operation_number) AS until
      FROM moved WHERE kind IN ('AUTHORIZE', 'RENEW') AND coalesce(outcome, '') <> 'DECLINED')
SELECT a.operation_id, (coalesce(sum(m.amount_minor) FILTER (WHERE m.kind = 'CAPTURE'), 0)
                        - coalesce(sum(m.amount_minor) FILTER (WHERE m.kind = 'REFUND'), 0))::int8 AS kept_minor
  FROM authorized a LEFT JOIN moved m
    ON (m.kind = 'CAPTURE' AND coalesce(m.outcome, '') <> 'DECLINED' OR m.kind = 'REFUND' AND m.replaces IS NULL)
   AND m.of_number >= a.operation_number AND m.of_number < coalesce(a.until, m.of_number + 1)
 GROUP BY a.operation_id, a.operation_number ORDER BY a.operation_number"""


async def hold(tx: Transaction, order_id: UUID, paying: Sequence[bytes] = ()) -> None:
    """Locks what `give_back` locks, and the gift cards that pay (hashes of their codes), where claims are locked before it."""
    tenders = await store.lock_tenders(tx.connection, order_id)
    cards = sorted({card_id for t in tenders.values() if (card_id := t.gift_card_id) is not None})
    await gift_cards.hold(tx.connection, cards, paying)


async def give_back(
    tx: Transaction,
    order_id: UUID,
    amount_minor: int,
    *,
    currency: str,
    reason_code: str,
    reference_document: str,
    actor: str,
) -> None:
    """Gives back to the tenders of a locked order, before any level is locked.

    What a till or a gift card does is done with it; what a gateway has to do, a job does.
    """
    if not amount_minor:
        return
    tenders = await store.lock_tenders(tx.connection, order_id)
    plan = plan_give_back((t.tendered for t in tenders.values()), amount_minor)
    operations: list[store.NewOperation] = []
    for part in plan:
        number, outside = part.tender.tender_number, is_outside(part)
        for authorization_id, amount in await _of_authorizations(tx.connection, order_id, part, outside):
            operations.append(
                store.operation(number, part.operation, amount, is_done=not outside, authorization_id=authorization_id)
            )
    await gift_cards.refund(
        tx,
        [
            (card_id, o.operation_id, o.amount_minor)
            for o in operations
            if (card_id := tenders[o.tender_number].gift_card_id) is not None
        ],
        reference_document,
        actor,
    )
    await store.book(
        tx.connection,
        order_id,
        operations,
        currency=currency,
        reason_code=reason_code,
        reference_document=reference_document,
        actor=actor,
    )
    for operation in operations:
        if not operation.is_done:
            await settle_later(tx.connection, operation.operation_id)


async def _of_authorizations(
    connection: Connection, order_id: UUID, part: GiveBack, outside: bool
) -> list[tuple[UUID | None, int]]:
    """A part, by what it is of: one that was renewed may have been captured by several authorizations."""
    if not outside or part.operation is not Operation.REFUND:
        return [(None, part.amount_minor)]
    rows = await connection.fetch(CAPTURED_OF, order_id, part.tender.tender_number)
    if len(rows) < 2:
        return [(None, part.amount_minor)]
    return split_refund([(row["operation_id"], row["kept_minor"]) for row in rows], part.amount_minor)


def is_outside(part: GiveBack) -> bool:
    """Whether a gateway has to be asked. Not to void a part of what it authorized: the last capture leaves that out."""
    if not part.tender.provider.is_outside:
        return False
    return part.operation is Operation.REFUND or part.amount_minor == part.tender.uncaptured_minor
