"""Backorders beside units that are there: an older reservation had them, and ended without an order.

What comes in covers backorders by itself (onhand.ledger.shortfalls). Here it is looked for what became free otherwise.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from google.protobuf.empty_pb2 import Empty

from onhand.crash import step
from onhand.domain.stock import Position
from onhand.domain.stock_work_errors import BackordersFilled
from onhand.ids import new_id
from onhand.ledger import shortfalls
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.reservations.decrease import Decreases, Overdrawn

log = logging.getLogger(__name__)

POSITIONS_MAX = 50
"""Positions that one look fills."""

# Few have anything backordered.
WAITING = """
SELECT location_id, sku FROM stock_levels WHERE backordered > 0 AND available > 0 ORDER BY 1, 2 LIMIT $1"""


@dataclass
class FillBackorders:
    """A mutation that nobody asked for: recorded like those that somebody did."""

    position: Position
    quantity: int
    request_id: str = field(default_factory=lambda: str(new_id()))

    def SerializeToString(self, *, deterministic: bool = True) -> bytes:
        """What it is about."""
        return f"{self.position} {self.quantity}".encode()


class Backorders:
    """Fills what waits with what became free."""

    def __init__(self, ledger: Ledger, decreases: Decreases) -> None:
        self._ledger = ledger
        self._decreases = decreases

    async def fill(self) -> int:
        """Fills what waits, the oldest first, and returns how many units that took."""
        filled = 0
        for position, units in await self._look():
            try:
                await self._fill(FillBackorders(position, units))
                filled += units
            except BackordersFilled:
                log.debug("somebody was faster at %s", position)
        return filled

    @step("ledger.look_for_backorders")
    async def _look(self) -> list[tuple[Position, int]]:
        """What waits beside units that no older reservation holds, and how many of them."""
        found = []
        async with self._ledger.database.connection() as connection:
            for place, sku in await connection.fetch(WAITING, POSITIONS_MAX):
                units = await connection.fetchval(shortfalls.FREE_FOR_WAITING, place, sku)
                if units > 0:
                    found.append(((place, sku), units))
        return found

    async def _fill(self, wanted: FillBackorders) -> None:
        async def work(transaction: Transaction, overdrawn: Overdrawn) -> Empty:
            level = (await transaction.lock_levels([wanted.position]))[wanted.position]
            if min(level.available, transaction.policy(wanted.position).backordered) < wanted.quantity:
                raise BackordersFilled(*wanted.position)  # or what was there is gone, since it was looked at
            await shortfalls.fill(transaction, wanted.position, wanted.quantity)
            return Empty()

        # A fact: what younger reservations hold becomes room for a backorder of theirs, as much as leaves `available`.
        place, sku = wanted.position
        await self._decreases.fact(wanted, Empty, [(place, [(sku, wanted.quantity)])], work)
