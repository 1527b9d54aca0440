"""What a feed holds, whatever it was read from: rows in the ledger's own words, checked by whoever reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class OpeningHours(NamedTuple):
    """One opening on one day of the week (1 Monday to 7 Sunday), in minutes after midnight of the location's zone."""

    iso_weekday: int
    open_minute: int
    close_minute: int


class LocationRow(NamedTuple):
    """A place that holds stock."""

    location_id: str
    kind: str
    name: str
    latitude: float | None
    longitude: float | None
    time_zone: str
    opening_hours: tuple[OpeningHours, ...]
    offers_pickup: bool
    offers_shipping: bool
    # What it takes on, and how fast: None leaves what is there, 0 takes it away.
    lead_minutes: int | None = None
    cut_off_minute: int | None = None
    daily_orders_max: int | None = None
    daily_units_max: int | None = None


class GroupRow(NamedTuple):
    """A named set of locations."""

    location_group_id: str
    name: str
    location_ids: tuple[str, ...]


class ProductRow(NamedTuple):
    """A sellable item."""

    sku: str
    name: str
    brand: str
    department: str
    category: str
    product_type: str
    package_size: str
    base_unit: str


class BarcodeRow(NamedTuple):
    """A GTIN and the sku it means."""

    gtin: str
    sku: str


class PriceRow(NamedTuple):
    """`amount_minor` buys `price_quantity` base units."""

    sku: str
    currency: str
    amount_minor: int
    price_quantity: int


class StockRow(NamedTuple):
    """Opening stock of one sku at one location, in base units; 0 or more."""

    location_id: str
    sku: str
    quantity: int


def _nowhere(table: str, index: int) -> str:
    return f"{table}, row {index + 1}"


@dataclass(frozen=True)
class Feed:
    """Everything one import brings. `where(table, index)` names the place that a row came from, for error messages."""

    source: str
    locations: Sequence[LocationRow] = ()
    groups: Sequence[GroupRow] = ()
    products: Sequence[ProductRow] = ()
    barcodes: Sequence[BarcodeRow] = ()
    prices: Sequence[PriceRow] = ()
    stock: Sequence[StockRow] = ()
    where: Callable[[str, int], str] = _nowhere
    # What was read, found strange and left out, by name: goes into the report as it is.
    findings: dict[str, Any] = field(default_factory=dict)


class FeedError(Exception):
    """An import that was refused; nothing of it was written. The message says where, what and what to do."""


# progress(step, done, total): called often; total is at least 1.
Progress = Callable[[str, int, int], None]


def no_progress(step: str, done: int, total: int) -> None:
    """For callers that show none."""
