"""What becomes of each basket of a replay: decided before it begins, from the seed alone.

Of every 20 baskets in time order exactly as many as its rates say are sold at the till, picked up, shipped, abandoned; and so with
what goes another way than planned, and with what happens afterwards. Which of the 20 it is, and every smaller choice on a
basket's way, follows from seed and basket: the same seed plans the same replay, with any number of processes.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple, TypeVar

from onhand.simulate.rates import BLOCK, Rates

SPARES_MAX = 12
"""Other items of its store that a basket may be offered instead of its own."""

Value = TypeVar("Value")


class Kind(Enum):
    """What becomes of a basket."""

    SALE = "sale"
    PICKUP = "pickup"
    SHIPMENT = "shipment"
    ABANDONED = "abandoned"


class Twist(Enum):
    """What goes otherwise on the way of an order."""

    NONE = "none"
    REJECTED = "rejected"
    NO_SHOW = "no_show"
    SUBSTITUTED = "substituted"
    BACKORDERED = "backordered"
    PARTLY_TAKEN = "partly_taken"
    CHANGED = "changed"
    UNDELIVERED = "undelivered"


class After(Enum):
    """What happens once the customer has the goods."""

    NOTHING = "nothing"
    RETURNED = "returned"
    EXCHANGED = "exchanged"


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
    twist: Twist = Twist.NONE
    after: After = After.NOTHING
    has_gift_card: bool = False
    is_refilled: bool = False
    has_blind_return: bool = False
    is_counted: bool = False
    is_late: bool = False
    """The customer has it held for longer."""
    has_lost_code: bool = False
    spares: tuple[str, ...] = ()
    """Other items that its store sells."""
    backorder_limits: tuple[tuple[str, int], ...] = ()
    """(sku, units that may be promised without being there), the same for all baskets at a position."""

    @property
    def lines(self) -> tuple[Line, ...]:
        """What is bought: fuel is pumped, so it is sold at the till only."""
        if self.kind is Kind.SALE:
            return self.basket.lines
        return self.goods

    @property
    def goods(self) -> tuple[Line, ...]:
        """What can be carried, sent and brought back."""
        return tuple(line for line in self.basket.lines if not line.is_fuel)

    @property
    def fuel_lines_left_out(self) -> int:
        """How many lines an online basket lost for being fuel."""
        return len(self.basket.lines) - len(self.lines)


def plan(baskets: Sequence[Basket], seed: int, rates: Rates | None = None) -> list[Play]:
    """Decides for all baskets, which are in time order."""
    rates = rates or Rates()
    kinds: list[Kind] = []
    for start in range(0, len(baskets), BLOCK):
        kinds += _deal_kinds(baskets[start : start + BLOCK], rates, random.Random(f"{seed} kinds {start}"))
    plays = [Play(basket, kind) for basket, kind in zip(baskets, kinds, strict=True)]

    def deal(name: str, who: Iterable[int], shares: Mapping[Value, int]) -> list[tuple[int, Value]]:
        return list(_deal(list(who), shares, f"{seed} {name}"))

    of = {kind: [index for index, play in enumerate(plays) if play.kind is kind] for kind in Kind}
    kept = [index for index, play in enumerate(plays) if play.kind is not Kind.ABANDONED]
    goods = [index for index in kept if plays[index].goods]
    of_pickups = {
        Twist.REJECTED: rates.rejected_pickups,
        Twist.NO_SHOW: rates.no_shows,
        Twist.SUBSTITUTED: rates.substitutions,
        Twist.BACKORDERED: rates.backorders,
        Twist.PARTLY_TAKEN: rates.partly_taken,
        Twist.CHANGED: rates.changes,
    }
    of_shipments = {Twist.REJECTED: rates.rejected_shipments, Twist.UNDELIVERED: rates.undelivered}
    for index, twist in deal("pickups", of[Kind.PICKUP], of_pickups) + deal(
        "shipments", of[Kind.SHIPMENT], of_shipments
    ):
        plays[index] = plays[index]._replace(twist=twist)
    for index, after in deal("after", goods, {After.RETURNED: rates.returns, After.EXCHANGED: rates.exchanges}):
        plays[index] = plays[index]._replace(after=after)
    for index, _ in deal("gift cards", kept, {True: rates.gift_cards}):
        plays[index] = plays[index]._replace(has_gift_card=True)
    of_goods = [index for index in of[Kind.SALE] if plays[index].goods]
    for index, _ in deal("refills", of_goods, {True: rates.refills}):
        plays[index] = plays[index]._replace(is_refilled=True)
    for index, _ in deal("counts", of_goods, {True: rates.counts}):
        plays[index] = plays[index]._replace(is_counted=True)
    for index, _ in deal("late pickups", of[Kind.PICKUP], {True: rates.late_pickups}):
        plays[index] = plays[index]._replace(is_late=True)
    for index, _ in deal("lost codes", of[Kind.PICKUP], {True: rates.lost_codes}):
        plays[index] = plays[index]._replace(has_lost_code=True)
    for index, _ in deal("blind returns", of_goods, {True: rates.blind_returns}):
        plays[index] = plays[index]._replace(has_blind_return=True)
    return _with_limits(_with_spares(plays, seed))


def draw(seed: int, basket_id: str, what: str, choices: int) -> int:
    """A choice on a basket's way, 0 to `choices` less one: the same in every process, whatever else happens."""
    digest = hashlib.blake2b(f"{seed} {basket_id} {what}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) % choices


def _deal(who: Sequence[int], shares: Mapping[Value, int], name: str) -> Iterable[tuple[int, Value]]:
    """To every 20 exactly their shares, in an order of chance; the last block may be short, and has what fits."""
    for start in range(0, len(who), BLOCK):
        cards: list[Value | None] = [value for value, share in shares.items() for _ in range(share)]
        cards += [None] * (BLOCK - len(cards))
        random.Random(f"{name} {start}").shuffle(cards)
        for index, card in zip(who[start : start + BLOCK], cards, strict=False):
            if card is not None:
                yield index, card


def _deal_kinds(block: Sequence[Basket], rates: Rates, chance: random.Random) -> list[Kind]:
    shares = {Kind.PICKUP: rates.pickups, Kind.SHIPMENT: rates.shipments, Kind.ABANDONED: rates.abandoned}
    cards = [Kind.SALE] * (BLOCK - sum(shares.values())) + [k for k, share in shares.items() for _ in range(share)]
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


def _with_spares(plays: list[Play], seed: int) -> list[Play]:
    """Who is offered something else gets items that were sold at the same store, for money, in other baskets."""
    sold: dict[str, set[str]] = {}
    for play in plays:
        sold.setdefault(play.basket.location_id, set()).update(e.sku for e in play.goods if e.paid_minor)

    def chosen(play: Play) -> tuple[str, ...]:
        others = sold[play.basket.location_id] - {line.sku for line in play.basket.lines}
        return tuple(
            sorted(others, key=lambda sku: (draw(seed, play.basket.basket_id, f"spare {sku}", 1 << 62), sku))[
                :SPARES_MAX
            ]
        )

    return [
        play._replace(spares=chosen(play)) if play.twist is Twist.SUBSTITUTED or play.after is After.EXCHANGED else play
        for play in plays
    ]


def _with_limits(plays: list[Play]) -> list[Play]:
    """A store permits as many units without stock as all baskets together want that accept to wait."""
    wanted: Counter[tuple[str, str]] = Counter()
    for play in plays:
        if play.twist is Twist.BACKORDERED:
            for line in play.lines:
                wanted[play.basket.location_id, line.sku] += line.quantity
    return [
        play._replace(
            backorder_limits=tuple((line.sku, wanted[play.basket.location_id, line.sku]) for line in play.lines)
        )
        if play.twist is Twist.BACKORDERED
        else play
        for play in plays
    ]


def positions(plays: Iterable[Play], seed: int, count: int) -> list[tuple[str, str]]:
    """Up to `count` stock positions that the auditor follows: half of them where something goes otherwise than planned."""
    online: set[tuple[str, str]] = set()
    twisted: set[tuple[str, str]] = set()
    for play in plays:
        if play.kind is Kind.SALE and not (play.is_refilled or play.has_blind_return or play.is_counted):
            continue
        is_plain = play.twist is Twist.NONE and play.kind is not Kind.SALE
        (online if is_plain else twisted).update((play.basket.location_id, line.sku) for line in play.goods)

    def first(some: Iterable[tuple[str, str]], most: int) -> list[tuple[str, str]]:
        return sorted(some, key=lambda position: draw(seed, "/".join(position), "audited", 1 << 62))[:most]

    followed = first(twisted, count // 2)
    return followed + first((online | twisted) - set(followed), count - len(followed))
