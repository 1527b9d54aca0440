"""What the real data lacks and a retailer has: places, opening hours, barcodes, warehouses. Every value is invented.

Each is a pure function of the store's or product's own number, so that every import, on every machine, gives the same.
"""

from __future__ import annotations

import hashlib
import math
from typing import NamedTuple

from onhand.domain.barcode import check_digit
from onhand.feeds.records import GroupRow, LocationRow, OpeningHours

# How far from the middle of its metropolitan area a store is put at most.
SCATTER_METRES = 25_000
_METRES_PER_DEGREE = 111_320


class Metro(NamedTuple):
    """A metropolitan area: where stores are put."""

    metro_id: str
    name: str
    latitude: float
    longitude: float
    time_zone: str


# The data's weeks begin at 05:00 UTC and its stores are emptiest at 08:00 UTC: Eastern time. These are metropolitan
# areas of that zone in which American supermarket chains of this size are at home. Nothing says where the stores are.
METROS = (
    Metro("cincinnati", "Cincinnati", 39.1031, -84.5120, "America/New_York"),
    Metro("columbus", "Columbus", 39.9612, -82.9988, "America/New_York"),
    Metro("dayton", "Dayton", 39.7589, -84.1916, "America/New_York"),
    Metro("toledo", "Toledo", 41.6528, -83.5379, "America/New_York"),
    Metro("detroit", "Detroit", 42.3314, -83.0458, "America/Detroit"),
    Metro("indianapolis", "Indianapolis", 39.7684, -86.1581, "America/Indiana/Indianapolis"),
    Metro("louisville", "Louisville", 38.2527, -85.7585, "America/Kentucky/Louisville"),
    Metro("lexington", "Lexington", 38.0406, -84.5037, "America/New_York"),
    Metro("knoxville", "Knoxville", 35.9606, -83.9207, "America/New_York"),
    Metro("atlanta", "Atlanta", 33.7490, -84.3880, "America/New_York"),
    Metro("charleston", "Charleston, West Virginia", 38.3498, -81.6326, "America/New_York"),
    Metro("richmond", "Richmond", 37.5407, -77.4360, "America/New_York"),
)

# Open, close in minutes after midnight: half the stores 6 to 24, a third 7 to 23, a sixth around the clock.
_STORE_HOURS = ((360, 1440), (360, 1440), (360, 1440), (420, 1380), (420, 1380), (0, 1440))
_WAREHOUSE_HOURS = (0, 1440)

WAREHOUSES = (
    LocationRow(
        "warehouse-1", "WAREHOUSE", "Warehouse 1, Cincinnati", 39.2620, -84.4480, "America/New_York", (), False, True
    ),
    LocationRow(
        "warehouse-2", "WAREHOUSE", "Warehouse 2, Atlanta", 33.6410, -84.4330, "America/New_York", (), False, True
    ),
)


def store_id(number: int) -> str:
    """The location_id of a store of the data."""
    return f"store-{number}"


def store(number: int) -> LocationRow:
    """A store, put into a metropolitan area by its number: evenly over a disc around the middle."""
    digest = hashlib.sha256(f"store {number}".encode()).digest()
    metro = METROS[digest[0] % len(METROS)]
    angle = 2 * math.pi * int.from_bytes(digest[1:5]) / 2**32
    metres = SCATTER_METRES * math.sqrt(int.from_bytes(digest[5:9]) / 2**32)
    latitude = metro.latitude + metres * math.cos(angle) / _METRES_PER_DEGREE
    longitude = metro.longitude + metres * math.sin(angle) / (
        _METRES_PER_DEGREE * math.cos(math.radians(metro.latitude))
    )
    return LocationRow(
        location_id=store_id(number),
        kind="STORE",
        name=f"Store {number}, {metro.name}",
        latitude=round(latitude, 5),
        longitude=round(longitude, 5),
        time_zone=metro.time_zone,
        opening_hours=every_day(*_STORE_HOURS[digest[9] % len(_STORE_HOURS)]),
        offers_pickup=True,
        offers_shipping=True,
    )


def metro_of(number: int) -> Metro:
    """The metropolitan area a store is put into."""
    return METROS[hashlib.sha256(f"store {number}".encode()).digest()[0] % len(METROS)]


def warehouses() -> list[LocationRow]:
    """The warehouses: they ship, around the clock, and hand nothing to customers."""
    return [row._replace(opening_hours=every_day(*_WAREHOUSE_HOURS)) for row in WAREHOUSES]


def groups(numbers: list[int]) -> list[GroupRow]:
    """all-stores, all-warehouses, and one group a metropolitan area."""
    members: dict[Metro, list[str]] = {}
    for number in numbers:
        members.setdefault(metro_of(number), []).append(store_id(number))
    return [
        GroupRow("all-stores", "All stores", tuple(store_id(number) for number in numbers)),
        GroupRow("all-warehouses", "All warehouses", tuple(row.location_id for row in WAREHOUSES)),
        *(GroupRow(f"metro-{metro.metro_id}", metro.name, tuple(ids)) for metro, ids in sorted(members.items())),
    ]


def every_day(open_minute: int, close_minute: int) -> tuple[OpeningHours, ...]:
    """The same hours on all seven days."""
    return tuple(OpeningHours(day, open_minute, close_minute) for day in range(1, 8))


def gtin(product_id: int) -> str:
    """A GTIN-13 that begins with 20, written with 14 digits, as the ledger has all of them.

    GS1 leaves the prefixes 20 to 29 to each retailer for use inside its own stores.
    """
    digits = f"020{product_id:010d}"
    if len(digits) != 13:
        raise ValueError(f"product {product_id} does not fit a GTIN-13")
    return f"{digits}{check_digit(digits)}"
