"""How large a store is, and what it has where: arithmetic alone, so that calls find their way in a store of any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

BLOCKS_MAX = 100
"""How many different assortments locations have at most; those with the same one stock the same skus."""
LOCATIONS_MIN = 50
"""Locations of a store at least, so that one sku can be asked for at 50; those beyond `stocked_locations` have no stock."""
OPENING_UNITS = 1_000_000
"""Units of every position in the beginning."""
PRICE_MINOR = 100
CURRENCY = "USD"


@dataclass(frozen=True)
class Size:
    """What a store holds. `positions` are spread evenly; `movements` are those of stock, sales and orders together."""

    name: str
    positions: int
    stocked_locations: int
    reservations: int
    movements: int
    sales: int
    orders: int

    def __post_init__(self) -> None:
        if self.positions % (2 * self.stocked_locations):
            raise ValueError("every location must have the same, even number of positions")
        if self.stock_movements < self.positions:
            raise ValueError("every position needs an opening movement")

    @property
    def skus_per_location(self) -> int:
        """Positions of one location."""
        return self.positions // self.stocked_locations

    @property
    def blocks(self) -> int:
        """Different assortments: location n has the one of n modulo this."""
        return min(BLOCKS_MAX, max(1, self.stocked_locations // (2 * LOCATIONS_MIN)))

    @property
    def products(self) -> int:
        """Skus of the catalog."""
        return self.blocks * self.skus_per_location

    @property
    def locations(self) -> int:
        """Locations in all, those without stock too."""
        return max(self.stocked_locations, LOCATIONS_MIN)

    @property
    def stock_movements(self) -> int:
        """Movements besides those of sales and orders, which have two lines each."""
        return self.movements - 2 * (self.sales + self.orders)

    def location(self, n: int) -> str:
        """The id of location n, from 0."""
        return f"L{n:05d}"

    def sku(self, n: int) -> str:
        """Sku n of the catalog, from 0."""
        return f"S{n:06d}"

    def position(self, n: int) -> tuple[str, str]:
        """Where position n is, and of what; 2n and 2n + 1 are at the same location."""
        place, shelf = divmod(n, self.skus_per_location)
        return self.location(place), self.sku(place % self.blocks * self.skus_per_location + shelf)

    def pair(self, n: int) -> tuple[str, str, str]:
        """Pair n of positions: a location and two of its skus."""
        (place, first), (_, second) = self.position(2 * n), self.position(2 * n + 1)
        return place, first, second

    @property
    def pairs(self) -> int:
        """How many pairs of positions there are."""
        return self.positions // 2

    def assortment(self, n: int) -> tuple[str, Sequence[str]]:
        """Location n and its skus."""
        first = n % self.blocks * self.skus_per_location
        return self.location(n), [self.sku(first + i) for i in range(self.skus_per_location)]

    def places_of(self, n: int, count: int) -> tuple[str, Sequence[str]]:
        """Sku n and `count` locations: those that stock it first, then others."""
        block = n // self.skus_per_location
        holders = range(block, self.stocked_locations, self.blocks)
        others = (place for place in range(self.locations) if place >= self.stocked_locations or place not in holders)
        places = [*holders[:count], *(next(others) for _ in range(count - len(holders[:count])))]
        return self.sku(n), [self.location(place) for place in places]


SMALL = Size("small", 1_000, 10, 1_000, 5_000 + 800, 200, 200)
MIDDLE = Size("middle", 100_000, 10, 30_000, 500_000 + 80_000, 20_000, 20_000)
LARGE = Size("large", 2_000_000, 10_000, 1_000_000, 10_000_000, 200_000, 100_000)
SIZES = (SMALL, MIDDLE, LARGE)
