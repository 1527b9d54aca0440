"""A small retailer for load tests: three stores, two warehouses, twelve items, one pump; and baskets that shop there."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onhand.domain.barcode import check_digit
from onhand.serve import Processes
from onhand.simulate.plan import Basket, Line

STORES = ("store-1", "store-2", "store-3")
WAREHOUSES = ("warehouse-1", "warehouse-2")
SKUS = tuple(f"S{number}" for number in range(12))
FUEL = "FUEL"
OPENING = 30
"""Units of every item in every place."""


@dataclass
class Servers:
    """Where server processes answer, and what they run on."""

    target: str
    postgres_dsn: str
    redis_url: str
    processes: Processes


def gtin(sku: str) -> str:
    """The barcode of an item."""
    digits = f"02000000000{(*SKUS, FUEL).index(sku):02d}"
    return f"{digits}{check_digit(digits)}"


def write_feed(folder: Path) -> None:
    """The shop as files to import."""
    places = [*STORES, *WAREHOUSES]
    tables = {
        "locations": [
            "location_id,kind,name",
            *(f"{place},{'STORE' if place in STORES else 'WAREHOUSE'},{place}" for place in places),
        ],
        "products": ["sku,name,base_unit", *(f"{sku},Item {sku}," for sku in SKUS), f"{FUEL},Fuel,MILLILITER"],
        "barcodes": ["gtin,sku", *(f"{gtin(sku)},{sku}" for sku in (*SKUS, FUEL))],
        "prices": [
            "sku,currency,amount,price_quantity",
            *(f"{sku},USD,1.29,1" for sku in SKUS),
            f"{FUEL},USD,2.50,1000",
        ],
        "stock": ["location_id,sku,quantity", *(f"{place},{sku},{OPENING}" for place in places for sku in SKUS)],
    }
    for name, rows in tables.items():
        (folder / f"{name}.csv").write_text("\n".join(rows) + "\n")


def baskets(count: int, *, units: int = 1) -> list[Basket]:
    """Three items each, over all stores; every tenth has fuel too, which the ledger never received."""
    made = []
    for number in range(count):
        skus = [SKUS[(number + step) % len(SKUS)] for step in (0, 1, 5)]
        lines = [Line(sku, gtin(sku), units, 119 * units, False) for sku in skus]
        if number % 10 == 0:
            lines.append(Line(FUEL, gtin(FUEL), 37_854, 9_464, True))
        made.append(Basket(str(10_000 + number), STORES[number % 3], f"household-{number % 7}", tuple(lines)))
    return made


def fail_or_wait(report: Any, is_failing: bool) -> None:
    """Work of a client process, which finds it by its module and name."""
    if is_failing:
        raise LookupError("no such thing")
    signal.pause()


def kill_itself(report: Any) -> None:
    """Work of a client process that ends as if the kernel ended it."""
    os.kill(os.getpid(), signal.SIGKILL)
