"""Store credit that the retailer grants: onto a new gift card, or onto one that the customer has."""

from __future__ import annotations

from typing import Any, NamedTuple
from uuid import UUID

from onhand.domain import money
from onhand.domain.errors import CurrencyMismatch, invalid
from onhand.domain.payment_errors import GiftCardExists, GiftCardNotFound
from onhand.ids import new_id, parse_id
from onhand.ledger.transaction import Transaction
from onhand.payments.gift_cards import CARD, ISSUE, LOCK_CARDS, MOVE, SHOWN_CHARACTERS, code_hash


class CreditCard(NamedTuple):
    """Where credit goes: a card that is there, or a new one with this code's hash."""

    gift_card_id: UUID | None
    hashed: bytes = b""
    shown: str = ""


def credit_card(gift_card_id: str, code: str) -> CreditCard:
    """Reads a request's gift_card_id or gift_card_code. Raises `InvalidRequest`."""
    if bool(gift_card_id) == bool(code):
        raise invalid("gift_card_code", "give either it, of a new card, or the gift_card_id of one that is there")
    if gift_card_id:
        return CreditCard(parse_id("gift_card_id", gift_card_id))
    plain = "".join(character for character in code.upper() if character.isascii() and character.isalnum())
    return CreditCard(None, code_hash("gift_card_code", code), plain[-SHOWN_CHARACTERS:])


async def grant(
    tx: Transaction, card: CreditCard, amount_minor: int, currency: str, reference_document: str, actor: str
) -> tuple[UUID, UUID]:
    """Puts an amount above 0 onto it; returns the card's id and the movement's.

    Raises GiftCardExists, GiftCardNotFound, CurrencyMismatch.
    """
    movement_id = new_id()
    row: Any
    if card.gift_card_id is None:
        card_id, what = new_id(), "issued"
        row = await tx.connection.fetchrow(
            ISSUE, card_id, card.hashed, card.shown, currency, amount_minor, movement_id, reference_document, actor
        )
        if row is None:
            raise GiftCardExists(card.shown)
    else:
        card_id, what = card.gift_card_id, "topped_up"
        held = await tx.connection.fetchrow(LOCK_CARDS, [card_id])
        if held is None:
            raise GiftCardNotFound(str(card_id))
        if held["currency"] != currency:
            raise CurrencyMismatch(held["currency"], currency)
        await tx.connection.execute(MOVE, [card_id], [movement_id], [amount_minor], "TOP_UP", reference_document, actor)
        row = await tx.connection.fetchrow(CARD, card_id)
        money.checked(row["balance_minor"])
    tx.emit(
        f"onhand.gift_card.{what}.v1",
        f"gift_card/{card_id}",
        {
            "gift_card_id": str(card_id),
            "amount_minor": amount_minor,
            "balance_minor": row["balance_minor"],
            "currency": currency,
            "reference_document": reference_document,
            "actor": actor,
        },
    )
    return card_id, movement_id
