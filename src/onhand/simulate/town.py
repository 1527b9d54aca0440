"""What the people of a trial share: the shop, what they remember to go on with, and how they call."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from onhand.simulate.amounts import money
from onhand.simulate.attempts import Caller, Result
from onhand.simulate.order_effects import held
from onhand.simulate.shop import Shop
from onhand.v1 import inventory_pb2, order_pb2, returns_pb2, types_pb2

HOT_SHARE = 0.7
"""Of the lines that are wanted, those of a hot sku."""
LOOK_SHARE = 0.6
"""Of those who changed something, those who look at once what is shown."""
GIFT_CARD_SHARE = 0.15
"""Of those who pay, those who pay a part with a gift card."""
GATEWAY_SHARE = 0.4
"""Of those who pay the rest of an online order, those whose card a gateway charges."""
POOL_MAX = 200
"""Orders and transfers that a process remembers to go on with."""

Item = TypeVar("Item")
Journey = Callable[["Town"], Awaitable[None]]


class Sold(NamedTuple):
    """Goods that a customer has: (line_number, units) of an order."""

    order_id: str
    lines: tuple[tuple[int, int], ...]


class Work(NamedTuple):
    """A fulfillment order that an associate can go on with, as it was answered last, and the code that its customer has."""

    answer: order_pb2.FulfillmentOrder
    code: str

    @property
    def id(self) -> str:
        """Its fulfillment_order_id."""
        return self.answer.fulfillment_order_id

    @property
    def is_pickup(self) -> bool:
        """Whether its customer fetches it."""
        return self.answer.kind == order_pb2.FULFILLMENT_KIND_PICKUP

    @property
    def lines(self) -> list[tuple[int, str, int]]:
        """(line_number, sku, units) that it has to bring, or brought."""
        units = held(self.answer)
        return [(n.line_number, n.sku, units[n.line_number]) for n in self.answer.lines if n.line_number in units]


@dataclass
class Town:
    """What the people of one client process share."""

    shop: Shop
    caller: Caller
    chance: random.Random
    name: str
    is_closing: bool = False
    work: list[Work] = field(default_factory=list)
    sold: list[Sold] = field(default_factory=list)
    transfers: list[str] = field(default_factory=list)
    shorts: list[order_pb2.Shortfall] = field(default_factory=list)
    orders: list[str] = field(default_factory=list)
    asked: list[inventory_pb2.Transfer] = field(default_factory=list)
    parcels: list[returns_pb2.ReturnAuthorization] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    async def lead(self, journey: Journey) -> None:
        """A journey; what breaks in it is a fault of this program, and kept."""
        try:
            await journey(self)
        except Exception as error:  # told at the end: a journey must not end in silence
            self.failures.append(error)

    def request_id(self) -> str:
        """New for each mutation."""
        return f"trial.{self.name}.{next(self._numbers)}"

    async def change(self, service: str, kind: str, request: Any) -> Result:
        """A mutation."""
        return await self.caller.mutate(service, kind, request)

    async def pause(self, seconds_max: float) -> None:
        """People think."""
        if not self.is_closing:
            await asyncio.sleep(self.chance.uniform(0, seconds_max))

    def keep(self, pool: list[Item], item: Item) -> None:
        """Remembers something to go on with."""
        if len(pool) < POOL_MAX:
            pool.append(item)

    def take(self, pool: list[Item]) -> Item | None:
        """Takes something to go on with out of a pool; None where there is nothing."""
        return pool.pop(self.chance.randrange(len(pool))) if pool else None

    def place(self) -> str:
        """A location."""
        return self.chance.choice(self.shop.locations)

    def lines(self, count_max: int = 3, quantity_max: int = 3) -> list[types_pb2.BasketLine]:
        """A basket, each sku once."""
        skus: dict[str, int] = {}
        for _ in range(self.chance.randint(1, count_max)):
            is_hot = self.chance.random() < HOT_SHARE
            sku = self.chance.choice(self.shop.hot if is_hot else self.shop.cold)
            skus[sku] = self.chance.randint(1, quantity_max)
        return [types_pb2.BasketLine(sku=sku, quantity=n) for sku, n in skus.items()]

    def tenders(
        self, units: Sequence[tuple[str, int]], less: int = 0, *, is_online: bool = False
    ) -> list[order_pb2.Tender]:
        """The catalog's price of what is bought; a part of it by a gift card that others pay with, too.

        Where `is_online`, a gateway may be asked to charge the card: at once, or as goods leave.
        """
        total = max(0, sum(self.shop.cents[sku] * n for sku, n in units) - less)
        found = []
        if total > 1 and self.chance.random() < GIFT_CARD_SHARE:
            part = self.chance.randint(1, total)
            card = order_pb2.Tender(kind=order_pb2.TENDER_KIND_GIFT_CARD, amount=money(part))
            card.gift_card_code = self.chance.choice(self.shop.cards)
            found.append(card)
            total -= part
        if total:
            kind = self.chance.choice((order_pb2.TENDER_KIND_CARD, order_pb2.TENDER_KIND_CASH))
            found.append(order_pb2.Tender(kind=kind, amount=money(total)))
            if is_online and self.chance.random() < GATEWAY_SHARE:
                found[-1].kind = order_pb2.TENDER_KIND_CARD
                found[-1].payment_method = "pm_declined" if self.chance.random() < 0.08 else "pm_card"
                found[-1].capture_at = self.chance.choice((order_pb2.CAPTURE_AT_ONCE, order_pb2.CAPTURE_AT_FULFILLMENT))
        return found

    def keep_work(self, order: order_pb2.Order, codes: Iterable[order_pb2.PickupCode] = ()) -> None:
        """Remembers the work for a new order."""
        known = {code.fulfillment_order_id: code.pickup_code for code in codes}
        for work in order.fulfillment_orders:
            self.keep(self.work, Work(work, known.get(work.fulfillment_order_id, "")))
        self.keep(self.orders, order.order_id)

    def keep_sold(self, order: order_pb2.Order) -> None:
        """Remembers what a customer left with."""
        self.keep(self.sold, Sold(order.order_id, tuple((n.line_number, n.quantity) for n in order.lines)))


async def look(town: Town, changed: Result, places: Sequence[str], skus: Sequence[str]) -> None:
    """Reads what was just changed: mostly from a server that did not do it, and so must hear of it."""
    if town.chance.random() > LOOK_SHARE:
        return
    request = inventory_pb2.GetAvailabilityRequest(
        channel=town.chance.choice([types_pb2.CHANNEL_WEB, types_pb2.CHANNEL_POS]),
        skus=list(dict.fromkeys(skus)),
        location_ids=list(dict.fromkeys(places)),
    )
    await town.caller.read("inventory", "GetAvailability", request, avoid=changed.server)
