"""How an order is paid: what a till took is recorded, a gift card redeemed with the order; see `checkouts` for gateways."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from onhand.domain import money
from onhand.domain.errors import CurrencyMismatch, TendersMismatch, invalid
from onhand.domain.payment import CaptureAt, Operation, Provider
from onhand.ledger.transaction import Transaction
from onhand.orders import names
from onhand.orders.store import NewOrder, NewTender
from onhand.payments import gift_cards
from onhand.payments import store as payments_store
from onhand.v1 import order_pb2 as pb
from onhand.wire import money_from_wire

REASON = "ORDER_PAID"
"""Of the operations that pay an order."""


def is_recorded_only(given: Iterable[pb.Tender]) -> bool:
    """Whether all of it was paid elsewhere: such an order may go in a round."""
    return not any(tender.gift_card_code or tender.payment_method for tender in given)


def is_paid_outside(given: Iterable[pb.Tender]) -> bool:
    """Whether a gateway pays any of it."""
    return any(tender.payment_method for tender in given)


def gift_cards_of(given: Sequence[pb.Tender]) -> dict[int, bytes]:
    """The hashes of the codes of gift cards, by the place of their tender. Raises `InvalidRequest`."""
    return {
        index: gift_cards.code_hash(f"tenders[{index}].gift_card_code", tender.gift_card_code)
        for index, tender in enumerate(given)
        if tender.gift_card_code
    }


def tenders(given: Sequence[pb.Tender], cards: Mapping[int, bytes], currency: str, total_minor: int) -> list[NewTender]:
    """Tenders that add up to a total. Raises `InvalidRequest`, `CurrencyMismatch`, `TendersMismatch`."""
    result = []
    for index, tender in enumerate(given):
        field = f"tenders[{index}]"
        kind = names.tender_kind(f"{field}.kind", tender.kind)
        amount_minor, tendered_currency = money_from_wire(f"{field}.amount", tender.amount)
        if amount_minor == 0:
            raise invalid(f"{field}.amount", "must be more than 0")
        if tendered_currency != currency:
            raise CurrencyMismatch(currency, tendered_currency)
        if index in cards and kind != "GIFT_CARD":
            raise invalid(f"{field}.gift_card_code", "is of a tender of kind GIFT_CARD only")
        if tender.payment_method and kind != "CARD":
            raise invalid(f"{field}.payment_method", "is of a tender of kind CARD only")
        result.append(
            NewTender(
                kind,
                amount_minor,
                tender.reference,
                cards.get(index),
                payment_method=tender.payment_method,
                capture_at=_capture_at(f"{field}.capture_at", tender),
            )
        )
    tendered_minor = money.checked(sum(tender.amount_minor for tender in result))
    if tendered_minor != total_minor:
        raise TendersMismatch(tendered_minor, total_minor, currency)
    return result


def _capture_at(field: str, tender: pb.Tender) -> CaptureAt:
    if not tender.capture_at:
        return CaptureAt.ONCE
    if not tender.payment_method:
        raise invalid(field, "is of a tender with a payment_method only: any other is captured when it is recorded")
    return names.capture_at(field, tender.capture_at)


async def with_gift_cards(tx: Transaction, order: NewOrder) -> NewOrder:
    """The order with the gift cards that it spends, locked. Raises `GiftCardNotFound`, `GiftCardShort`, `CurrencyMismatch`."""
    return order._replace(tenders=await lock_cards(tx, order.tenders, order.currency))


async def lock_cards(tx: Transaction, tenders: Sequence[NewTender], currency: str) -> list[NewTender]:
    """Tenders with the gift cards that they spend, locked. Raises `GiftCardNotFound`, `GiftCardShort`, `CurrencyMismatch`."""
    wanted = [(t.gift_card, t.amount_minor) for t in tenders if t.gift_card is not None]
    if not wanted:
        return list(tenders)
    cards = await gift_cards.lock_by_code(tx.connection, wanted, currency)
    return [t if t.gift_card is None else t._replace(gift_card_id=cards[t.gift_card].gift_card_id) for t in tenders]


async def redeem(tx: Transaction, order: NewOrder) -> None:
    """Pays with the gift cards of an order that was just written."""
    await redeem_tenders(tx, order.order_id, list(enumerate(order.tenders, 1)), order.currency, order.actor)


async def redeem_tenders(
    tx: Transaction, order_id: UUID, tenders: Iterable[tuple[int, NewTender]], currency: str, actor: str
) -> None:
    """Pays with the gift cards, which are locked, among tenders by number that were just written."""
    cards = [(n, t) for n, t in tenders if t.provider is Provider.GIFT_CARD]
    if not cards:
        return
    document, operations, movements = f"order/{order_id}", [], []
    for number, tender in cards:
        assert tender.gift_card_id is not None
        authorized = payments_store.operation(number, Operation.AUTHORIZE, tender.amount_minor, is_done=True)
        captured = payments_store.operation(number, Operation.CAPTURE, tender.amount_minor, is_done=True)
        operations += [authorized, captured]
        movements.append((tender.gift_card_id, captured.operation_id, tender.amount_minor))
    await gift_cards.redeem(tx, movements, document, actor)
    await payments_store.book(
        tx.connection,
        order_id,
        operations,
        currency=currency,
        reason_code=REASON,
        reference_document=document,
        actor=actor,
    )
