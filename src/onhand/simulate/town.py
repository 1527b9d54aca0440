"""What the people of a trial share: the shop, what they remember to go on with, and how they call."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from onhand.simulate.attempts import Caller, Result
from onhand.simulate.shop import Shop, money
from onhand.v1 import inventory_pb2, order_pb2, types_pb2

HOT_SHARE = 0.7
"""Of the lines that are wanted, those of a hot sku."""
LOOK_SHARE = 0.6
"""Of those who changed something, those who look at once what is shown."""
POOL_MAX = 200
"""Orders and transfers that a process remembers to go on with."""

Item = TypeVar("Item")
Journey = Callable[["Town"], Awaitable[None]]


class Sold(NamedTuple):
    """Goods that a customer has: (line_number, units) of an order."""

    order_id: str
    lines: tuple[tuple[int, int], ...]


class Work(NamedTuple):
    """A fulfillment order that an associate can go on with, and the code that its customer has."""

    work_id: str
    order_id: str
    is_pickup: bool
    code: str
    state: str
    lines: tuple[tuple[int, int], ...]


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

    def tenders(self, units: Sequence[tuple[str, int]]) -> list[order_pb2.Tender]:
        """The catalog's price of what is bought."""
        total = sum(self.shop.cents[sku] * n for sku, n in units)
        return [order_pb2.Tender(kind=order_pb2.TENDER_KIND_CARD, amount=money(total))]


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
