"""What becomes of each basket of a replay: decided before it begins, from the seed alone.

Of every 20 baskets in time order exactly 13 are sold at the till, 4 are reserved and picked up, 2 are shipped, 1 is reserved and
abandoned; of every 20 of those that can be completed one is returned. Which of the 20 it is, and every smaller choice on a
basket's way, follows from seed and basket: the same seed plans the same replay, with any number of processes.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple

BLOCK = 20


class Kind(Enum):
    """What becomes of a basket."""

    SALE = "sale"
    PICKUP = "pickup"
    SHIPMENT = "shipment"
    ABANDONED = "abandoned"


SHARES = {Kind.SALE: 13, Kind.PICKUP: 4, Kind.SHIPMENT: 2, Kind.ABANDONED: 1}


class Line(NamedTuple):
    """What a basket took of one sku: base units, and what the real till charged for them."""

    sku: str
    gtin: str
    quantity: int
    paid_minor: int
    is_fuel: bool


class Basket(NamedTuple):
    """One real visit to a till."""

    basket_id: str
    location_id: str
    customer_id: str
    lines: tuple[Line, ...]


class Play(NamedTuple):
    """A basket and what becomes of it."""

    basket: Basket
    kind: Kind
    is_returned: bool

    @property
    def lines(self) -> tuple[Line, ...]:
        """What is bought: fuel is pumped, so it is sold at the till only."""
        if self.kind is Kind.SALE:
            return self.basket.lines
        return tuple(line for line in self.basket.lines if not line.is_fuel)

    @property
    def fuel_lines_left_out(self) -> int:
        """How many lines an online basket lost for being fuel."""
        return len(self.basket.lines) - len(self.lines)


def plan(baskets: Sequence[Basket], seed: int) -> list[Play]:
    """Decides for all baskets, which are in time order."""
    kinds: list[Kind] = []
    for start in range(0, len(baskets), BLOCK):
        kinds += _deal(baskets[start : start + BLOCK], random.Random(f"{seed} kinds {start}"))
    completable = [
        index
        for index, (basket, kind) in enumerate(zip(baskets, kinds, strict=True))
        if kind is not Kind.ABANDONED and not _is_fuel_only(basket)
    ]
    returned: set[int] = set()
    for start in range(0, len(completable), BLOCK):
        # The last block may be short; then it has a return as often as it has its place.
        place = random.Random(f"{seed} returns {start}").randrange(BLOCK)
        returned.update(completable[start + place : start + place + 1])
    return [
        Play(basket, kind, index in returned) for index, (basket, kind) in enumerate(zip(baskets, kinds, strict=True))
    ]


def draw(seed: int, basket_id: str, what: str, choices: int) -> int:
    """A number from 0 to choices - 1 that is always the same for the same seed, basket and purpose."""
    digest = hashlib.blake2b(f"{seed}/{basket_id}/{what}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) % choices


def _deal(block: Sequence[Basket], chance: random.Random) -> list[Kind]:
    cards = [kind for kind, share in SHARES.items() for _ in range(share)]
    chance.shuffle(cards)
    kinds = cards[: len(block)]
    # A basket of nothing but fuel can only be a sale: it changes places with a sale of goods.
    for index in _indexes(block, kinds, is_fuel_only=True, is_sale=False):
        for other in _indexes(block, kinds, is_fuel_only=False, is_sale=True)[:1]:
            kinds[other] = kinds[index]
        kinds[index] = Kind.SALE
    return kinds


def _indexes(block: Sequence[Basket], kinds: Sequence[Kind], *, is_fuel_only: bool, is_sale: bool) -> list[int]:
    return [
        index
        for index, basket in enumerate(block)
        if _is_fuel_only(basket) == is_fuel_only and (kinds[index] is Kind.SALE) == is_sale
    ]


def _is_fuel_only(basket: Basket) -> bool:
    return all(line.is_fuel for line in basket.lines)


def positions(plays: Iterable[Play], seed: int, count: int) -> list[tuple[str, str]]:
    """Up to `count` stock positions that online baskets ask for: those that the auditor follows."""
    wanted = {
        (play.basket.location_id, line.sku) for play in plays if play.kind is not Kind.SALE for line in play.lines
    }
    return sorted(wanted, key=lambda position: draw(seed, "/".join(position), "audited", 1 << 62))[:count]
