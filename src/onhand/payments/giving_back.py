"""Giving money back, in the transaction that says why: a cancellation, a return."""

from __future__ import annotations

from uuid import UUID

from onhand.domain.payment import GiveBack, Operation, plan_give_back
from onhand.ledger.transaction import Transaction
from onhand.payments import gift_cards, store
from onhand.payments.settling import settle_later


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
    operations = [
        store.operation(part.tender.tender_number, part.operation, part.amount_minor, is_done=not is_outside(part))
        for part in plan
    ]
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


def is_outside(part: GiveBack) -> bool:
    """Whether a gateway has to be asked. Not to void a part of what it authorized: the last capture leaves that out."""
    if not part.tender.provider.is_outside:
        return False
    return part.operation is Operation.REFUND or part.amount_minor == part.tender.uncaptured_minor
