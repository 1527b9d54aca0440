"""How often each thing happens in a replay: its settings, in one place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

BLOCK = 20
"""Every rate is of so many, in time order: of each such block exactly so many, whichever they are."""


@dataclass(frozen=True)
class Rates:
    """Each is how many of 20. What is left of the baskets is sold at the till, what is left of the others goes its plain way."""

    # Of 20 baskets.
    pickups: int = 4
    shipments: int = 2
    abandoned: int = 1
    # Of 20 baskets that are not abandoned.
    gift_cards: int = 2
    """Paid with a gift card, in part or in whole."""
    # Of 20 pickups.
    rejected_pickups: int = 4
    """The store does not find a line, finds it damaged, or is closed."""
    no_shows: int = 2
    substitutions: int = 3
    """With the customer's consent."""
    backorders: int = 5
    """The customer accepts to wait for what the store lacks."""
    partly_taken: int = 1
    """The customer takes all but one line, and does not want that."""
    changes: int = 2
    """The customer wants a unit less, or more, or has it sent instead."""
    late_pickups: int = 2
    """The customer has it held for longer, however it goes on."""
    lost_codes: int = 2
    """The customer has lost the pickup code, and shows who they are."""
    # Of 20 shipments.
    rejected_shipments: int = 4
    undelivered: int = 1
    """The parcel comes back."""
    # Of 20 baskets that can be completed.
    returns: int = 1
    exchanges: int = 1
    # Of 20 sales.
    refills: int = 1
    """What was sold is sent to the store by a warehouse."""
    counts: int = 1
    """The store counts what was sold, while it goes on selling."""
    blind_returns: int = 1
    """Somebody brings goods without a proof."""

    def __post_init__(self) -> None:
        """Raises ValueError where a rate is none, or more than 20 of 20 are asked for."""
        for block in BLOCKS:
            rates = {name: int(getattr(self, name)) for name in block}
            if min(rates.values()) < 0 or sum(rates.values()) > BLOCK:
                told = ", ".join(f"{name}={rate}" for name, rate in rates.items())
                raise ValueError(f"rates are 0 or more, and {BLOCK} together at most: {told}")


BLOCKS = (
    ("pickups", "shipments", "abandoned"),
    ("gift_cards",),
    ("rejected_pickups", "no_shows", "substitutions", "backorders", "partly_taken", "changes"),
    ("late_pickups",),
    ("lost_codes",),
    ("rejected_shipments", "undelivered"),
    ("returns", "exchanges"),
    ("refills",),
    ("counts",),
    ("blind_returns",),
)
"""Rates of the same 20."""
NAMES = tuple(field.name for field in fields(Rates))


def parse_rates(settings: Iterable[str]) -> Rates:
    """The rates with some set otherwise, each as `no_shows=3`. Raises ValueError."""
    rates = Rates()
    for setting in settings:
        name, _, number = setting.partition("=")
        if name not in NAMES or not number.isdecimal():
            raise ValueError(f"--rate {setting}: say NAME=N, how many of {BLOCK}; the names are {', '.join(NAMES)}")
        rates = replace(rates, **{name: int(number)})
    return rates
