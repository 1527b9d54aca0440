"""Gift cards: a balance in a little ledger of its own. Their codes are hashed; whoever reads the tables cannot spend.

Whoever issues a card draws its code, or prints it: an answer that held it would be stored for repeats.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from onhand.caller import Caller
from onhand.domain import money
from onhand.domain.errors import CurrencyMismatch, invalid
from onhand.domain.payment_errors import GiftCardExists, GiftCardNotFound, GiftCardShort
from onhand.ids import new_id, parse_id
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.paging import decode_token, encode_token, fill, page_size
from onhand.postgres import Connection
from onhand.v1 import payment_pb2 as pb
from onhand.wire import money_from_wire, money_to_wire, timestamp

CODE_LENGTH_MIN = 12
"""Letters and digits of a code: drawn at random from 31 of them, 10**17 codes."""
CODE_LENGTH_MAX = 64
SHOWN_CHARACTERS = 4
"""The end of a code, which is kept so that people can tell their cards apart."""

ISSUE = """
WITH card AS (
    INSERT INTO gift_cards (gift_card_id, code_hash, last_characters, currency, balance_minor) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (code_hash) DO NOTHING RETURNING *),
moved AS (
    INSERT INTO gift_card_movements (gift_card_id, movement_id, amount_minor, kind, reference_document, actor)
    SELECT gift_card_id, $6, balance_minor, 'ISSUE', $7, $8 FROM card)
SELECT gift_card_id, last_characters, currency, balance_minor, created_time, updated_time FROM card"""
CARD = """
SELECT gift_card_id, last_characters, currency, balance_minor, created_time, updated_time FROM gift_cards
 WHERE gift_card_id = $1"""
CARD_BY_CODE = """
SELECT gift_card_id, last_characters, currency, balance_minor, created_time, updated_time FROM gift_cards
 WHERE code_hash = $1"""
LOCK_BY_CODE = """
SELECT gift_card_id, code_hash, currency, balance_minor FROM gift_cards WHERE code_hash = ANY ($1)
 ORDER BY gift_card_id FOR UPDATE"""
# Those that pay and those that get money back, in one order for all.
HOLD_CARDS = """
SELECT FROM gift_cards WHERE gift_card_id = ANY ($1) OR code_hash = ANY ($2) ORDER BY gift_card_id FOR UPDATE"""
LOCK_CARDS = "SELECT currency FROM gift_cards WHERE gift_card_id = ANY ($1) ORDER BY gift_card_id FOR UPDATE"
# A constraint keeps balances from falling below zero.
MOVE = """
WITH moved AS (
    INSERT INTO gift_card_movements (gift_card_id, movement_id, amount_minor, kind, reference_document, actor)
    SELECT m.gift_card_id, m.movement_id, m.amount_minor, $4, $5, $6
      FROM unnest($1::uuid[], $2::uuid[], $3::int8[]) AS m (gift_card_id, movement_id, amount_minor)),
sums AS (
    SELECT gift_card_id, sum(amount_minor)::int8 AS amount_minor FROM unnest($1::uuid[], $3::int8[])
        AS m (gift_card_id, amount_minor) GROUP BY 1)
UPDATE gift_cards g SET balance_minor = g.balance_minor + s.amount_minor, updated_time = now()
  FROM sums s WHERE g.gift_card_id = s.gift_card_id"""
MOVEMENTS = """
SELECT m.movement_id, m.amount_minor, m.kind, m.reference_document, m.actor, m.created_time, g.currency
  FROM gift_card_movements m JOIN gift_cards g USING (gift_card_id)
 WHERE m.gift_card_id = $1 AND m.movement_id < coalesce($2, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
 ORDER BY m.movement_id DESC LIMIT $3"""


@dataclass(frozen=True)
class Card:
    """A gift card whose row this transaction holds."""

    gift_card_id: UUID
    balance_minor: int


def code_hash(field: str, said: str) -> bytes:
    """What is kept of a code, however somebody wrote it. Raises `InvalidRequest`."""
    code = _plain(said)
    if not CODE_LENGTH_MIN <= len(code) <= CODE_LENGTH_MAX:
        raise invalid(field, f"must have {CODE_LENGTH_MIN} to {CODE_LENGTH_MAX} letters and digits, drawn at random")
    return hashlib.sha256(b"onhand gift card " + code.encode()).digest()


def _plain(said: str) -> str:
    return "".join(character for character in said.upper() if character.isascii() and character.isalnum())


# ------------------------------------------------------------------------------------------------------------ commands
async def issue_gift_card(ledger: Ledger, request: pb.IssueGiftCardRequest, caller: Caller) -> pb.IssueGiftCardResponse:
    """PaymentService.IssueGiftCard."""
    hashed, shown = code_hash("code", request.code), _plain(request.code)[-SHOWN_CHARACTERS:]
    amount_minor, currency = _amount(request)

    async def work(tx: Transaction) -> pb.IssueGiftCardResponse:
        card_id = new_id()
        row = await tx.connection.fetchrow(
            ISSUE, card_id, hashed, shown, currency, amount_minor, new_id(), request.reference_document, caller.actor
        )
        if row is None:
            raise GiftCardExists(shown)
        _tell(tx, "issued", row, amount_minor, request.reference_document, caller)
        return pb.IssueGiftCardResponse(gift_card=_message(row))

    return await ledger.mutate(request, pb.IssueGiftCardResponse, work)


async def top_up_gift_card(
    ledger: Ledger, request: pb.TopUpGiftCardRequest, caller: Caller
) -> pb.TopUpGiftCardResponse:
    """PaymentService.TopUpGiftCard."""
    card_id = parse_id("gift_card_id", request.gift_card_id)
    amount_minor, currency = _amount(request)

    async def work(tx: Transaction) -> pb.TopUpGiftCardResponse:
        card = await tx.connection.fetchrow(LOCK_CARDS, [card_id])
        if card is None:
            raise GiftCardNotFound(str(card_id))
        if card["currency"] != currency:
            raise CurrencyMismatch(card["currency"], currency)
        await _move(tx, [(card_id, new_id(), amount_minor)], "TOP_UP", request.reference_document, caller.actor)
        row: Any = await tx.connection.fetchrow(CARD, card_id)
        money.checked(row["balance_minor"])
        _tell(tx, "topped_up", row, amount_minor, request.reference_document, caller)
        return pb.TopUpGiftCardResponse(gift_card=_message(row))

    return await ledger.mutate(request, pb.TopUpGiftCardResponse, work)


async def get_gift_card(ledger: Ledger, request: pb.GetGiftCardRequest, caller: Caller) -> pb.GetGiftCardResponse:
    """PaymentService.GetGiftCard."""
    if bool(request.gift_card_id) == bool(request.code):
        raise invalid("gift_card_id", "either it or the code must be given")
    async with ledger.read() as connection:
        if request.code:
            row = await connection.fetchrow(CARD_BY_CODE, code_hash("code", request.code))
        else:
            row = await connection.fetchrow(CARD, parse_id("gift_card_id", request.gift_card_id))
    if row is None:
        raise GiftCardNotFound(request.gift_card_id or f"ending in {_plain(request.code)[-SHOWN_CHARACTERS:]}")
    return pb.GetGiftCardResponse(gift_card=_message(row))


async def list_gift_card_movements(
    ledger: Ledger, request: pb.ListGiftCardMovementsRequest, caller: Caller
) -> pb.ListGiftCardMovementsResponse:
    """PaymentService.ListGiftCardMovements."""
    card_id = parse_id("gift_card_id", request.gift_card_id)
    size, after = page_size(request.page_size), decode_token(request, UUID)
    async with ledger.read() as connection:
        rows = await connection.fetch(MOVEMENTS, card_id, after[0] if after else None, size + 1)
        if not rows and not await connection.fetchrow(CARD, card_id):
            raise GiftCardNotFound(str(card_id))
    movements, last = fill(rows, size, _movement)
    token = encode_token(request, last["movement_id"]) if last else ""
    return pb.ListGiftCardMovementsResponse(movements=movements, next_page_token=token)


# ---------------------------------------------------------------------------------------------------- within an order
async def lock_by_code(connection: Connection, wanted: Sequence[tuple[bytes, int]], currency: str) -> dict[bytes, Card]:
    """Locks the cards of (hash of the code, amount) pairs. Raises `GiftCardNotFound`, `GiftCardShort`, `CurrencyMismatch`."""
    rows = await connection.fetch(LOCK_BY_CODE, [hashed for hashed, _ in wanted])
    cards = {bytes(row["code_hash"]): row for row in rows}
    asked: dict[bytes, int] = {}
    for hashed, amount_minor in wanted:
        asked[hashed] = asked.get(hashed, 0) + amount_minor
    for hashed, amount_minor in asked.items():
        card = cards.get(hashed)
        if card is None:
            raise GiftCardNotFound("of this code")
        if card["currency"] != currency:
            raise CurrencyMismatch(currency, card["currency"])
        if card["balance_minor"] < amount_minor:
            raise GiftCardShort(str(card["gift_card_id"]), amount_minor, card["balance_minor"], currency)
    return {hashed: Card(row["gift_card_id"], row["balance_minor"]) for hashed, row in cards.items()}


async def hold(connection: Connection, card_ids: Sequence[UUID], hashes: Sequence[bytes]) -> None:
    """Locks cards by ids and by hashes of codes, where one call both takes from some and puts back onto others."""
    if card_ids or hashes:
        await connection.execute(HOLD_CARDS, card_ids, hashes)


async def redeem(
    tx: Transaction, movements: Sequence[tuple[UUID, UUID, int]], reference_document: str, actor: str
) -> None:
    """Takes (gift_card_id, operation_id, amount) from cards that are locked."""
    await _move(tx, [(c, o, -amount_minor) for c, o, amount_minor in movements], "REDEEM", reference_document, actor)


async def refund(
    tx: Transaction, movements: Sequence[tuple[UUID, UUID, int]], reference_document: str, actor: str
) -> None:
    """Puts (gift_card_id, operation_id, amount) back onto cards, whose order is locked."""
    if movements:
        await tx.connection.fetch(LOCK_CARDS, [card_id for card_id, _, _ in movements])
        await _move(tx, movements, "REFUND", reference_document, actor)


async def _move(
    tx: Transaction, movements: Sequence[tuple[UUID, UUID, int]], kind: str, reference_document: str, actor: str
) -> None:
    await tx.connection.execute(
        MOVE,
        [card_id for card_id, _, _ in movements],
        [movement_id for _, movement_id, _ in movements],
        [amount_minor for _, _, amount_minor in movements],
        kind,
        reference_document,
        actor,
    )


# ------------------------------------------------------------------------------------------------------------ messages
def _amount(request: pb.IssueGiftCardRequest | pb.TopUpGiftCardRequest) -> tuple[int, str]:
    amount_minor, currency = money_from_wire("amount", request.amount)
    if amount_minor == 0:
        raise invalid("amount", "must be more than 0")
    return amount_minor, currency


def _tell(tx: Transaction, what: str, row: Any, amount_minor: int, document: str, caller: Caller) -> None:
    card_id = str(row["gift_card_id"])
    tx.emit(
        f"onhand.gift_card.{what}.v1",
        f"gift_card/{card_id}",
        {
            "gift_card_id": card_id,
            "amount_minor": amount_minor,
            "balance_minor": row["balance_minor"],
            "currency": row["currency"],
            "reference_document": document,
            "actor": caller.actor,
        },
    )


def _message(row: Any) -> pb.GiftCard:
    return pb.GiftCard(
        gift_card_id=str(row["gift_card_id"]),
        last_characters=row["last_characters"],
        balance=money_to_wire(row["balance_minor"], row["currency"]),
        created_time=timestamp(row["created_time"]),
        updated_time=timestamp(row["updated_time"]),
    )


def _movement(row: Any) -> pb.GiftCardMovement:
    return pb.GiftCardMovement(
        movement_id=str(row["movement_id"]),
        kind=pb.GiftCardMovementKind.Value(f"GIFT_CARD_MOVEMENT_KIND_{row['kind']}"),
        amount=money_to_wire(row["amount_minor"], row["currency"]),
        reference_document=row["reference_document"],
        actor=row["actor"],
        created_time=timestamp(row["created_time"]),
    )
