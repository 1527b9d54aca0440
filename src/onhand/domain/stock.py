"""Buckets, movements and levels: what may become of a unit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import NamedTuple

from onhand.domain.errors import BucketShort

MAX_QUANTITY = 1_000_000_000
"""The most base units in one line: sums of a thousand of them stay exact in Lua, which counts in doubles."""

Position = tuple[str, str]
"""(location_id, sku)"""


class Bucket(Enum):
    """Where a unit is."""

    AVAILABLE = "available"
    ALLOCATED = "allocated"
    DAMAGED = "damaged"
    QUARANTINE = "quarantine"
    IN_TRANSIT = "in_transit"
    SUPPLIER = "supplier"
    CUSTOMER = "customer"
    ADJUSTMENT = "adjustment"

    @property
    def is_inside(self) -> bool:
        """Whether a unit here is on hand at a location."""
        return self in INSIDE


INSIDE = (Bucket.AVAILABLE, Bucket.ALLOCATED, Bucket.DAMAGED, Bucket.QUARANTINE)


@dataclass(frozen=True)
class Level:
    """What a location holds of a sku, in base units."""

    available: int = 0
    allocated: int = 0
    damaged: int = 0
    quarantine: int = 0

    @property
    def on_hand(self) -> int:
        """What a person can count."""
        return self.available + self.allocated + self.damaged + self.quarantine

    def held(self, bucket: Bucket) -> int:
        """Units in a bucket inside the location."""
        quantity: int = getattr(self, bucket.value)
        return quantity


@dataclass(frozen=True)
class Movement:
    """A positive quantity from one bucket to another, with why. `occurred_time` None means: as it is recorded."""

    location_id: str
    sku: str
    quantity: int
    from_bucket: Bucket
    to_bucket: Bucket
    reason_code: str
    reference_document: str = ""
    channel: str | None = None
    actor: str = ""
    occurred_time: datetime | None = None


def sum_lines(lines: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """Lines with every sku once, its quantities summed, in order of sku."""
    total: dict[str, int] = {}
    for sku, quantity in lines:
        total[sku] = total.get(sku, 0) + quantity
    return sorted(total.items())


def apply_movements(levels: Mapping[Position, Level], movements: Sequence[Movement]) -> dict[Position, Level]:
    """The levels after the movements, taken in order. Raises BucketShort where one would take more than is held."""
    after = {key: [level.available, level.allocated, level.damaged, level.quarantine] for key, level in levels.items()}
    for m in movements:
        row = after[m.location_id, m.sku]
        if m.from_bucket.is_inside:
            index = INSIDE.index(m.from_bucket)
            if row[index] < m.quantity:
                raise BucketShort(m.location_id, m.sku, m.from_bucket.value, m.quantity, row[index])
            row[index] -= m.quantity
        if m.to_bucket.is_inside:
            row[INSIDE.index(m.to_bucket)] += m.quantity
    return {key: Level(*row) for key, row in after.items()}


def sale_movements(
    levels: Mapping[Position, Level],
    lines: Iterable[tuple[str, str, int]],
    *,
    reference_document: str,
    channel: str | None,
    actor: str,
    occurred_time: datetime | None = None,
) -> list[Movement]:
    """What a sale of goods in hand does to (location_id, sku, quantity) lines.

    Possession wins: what the ledger lacks is `found` first, so the sale is always recorded truthfully. The goods were in
    the customer's hand, so they existed.
    """
    movements: list[Movement] = []
    remaining = {key: level.available for key, level in levels.items()}
    for location_id, sku, quantity in lines:
        lacking = max(0, quantity - remaining[location_id, sku])
        shared = (reference_document, channel, actor, occurred_time)
        if lacking:
            movements.append(
                Movement(location_id, sku, lacking, Bucket.ADJUSTMENT, Bucket.AVAILABLE, "FOUND_AT_SALE", *shared)
            )
        movements.append(Movement(location_id, sku, quantity, Bucket.AVAILABLE, Bucket.CUSTOMER, "SALE", *shared))
        remaining[location_id, sku] += lacking - quantity
    return movements


class Policy(NamedTuple):
    """How far promises may go at a position. `backordered` of `backorder_limit` units beyond what is there are promised."""

    safety_stock: int = 0
    backorder_limit: int = 0
    backordered: int = 0

    @property
    def room(self) -> int:
        """Units beyond what is there that may still be promised."""
        return max(0, self.backorder_limit - self.backordered)

    @property
    def floor(self) -> int:
        """What ATP may not fall below by a promise; negative where backorder permits it."""
        return self.safety_stock - self.room


def atp(*, available: int, reserved: int, floor: int, channel_threshold: int) -> int:
    """Available to promise, as it is shown: never negative. Design, section 2. `floor`: safety stock less backorder room."""
    return max(0, available - reserved - floor - channel_threshold)
