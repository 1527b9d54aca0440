"""The shop of a store of any size, as the bench's messages need it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from onhand.bench.growth.size import SMALL, Size
from onhand.bench.shapes import Shop

VARIANTS = 65_536
"""Different baskets: so many that a large store is called all over."""


@dataclass(frozen=True)
class GrownShop(Shop):
    """A seeded store: baskets are of neighbouring positions, each of which is as likely as any other."""

    size: Size = SMALL

    def location_id(self, n: int) -> str:
        """The name of a location."""
        return self.size.location(n)

    def sku(self, n: int) -> str:
        """The name of a sku."""
        return self.size.sku(n)

    def basket(self, draw: random.Random, *, is_hot: bool) -> tuple[str, Sequence[str]]:
        """A location and two skus that it has; everybody wants one of the first."""
        place, first, second = self.size.pair(0 if is_hot else draw.randrange(self.size.pairs))
        return place, [first] if is_hot else [first, second]

    def looked_at(self, draw: random.Random, *, skus: int, locations: int) -> tuple[Sequence[str], Sequence[str]]:
        """Skus of one location's assortment, or one sku at many locations."""
        if locations == 1:
            place, assortment = self.size.assortment(draw.randrange(self.size.stocked_locations))
            return draw.sample(assortment, min(skus, len(assortment))), [place]
        sku, places = self.size.places_of(draw.randrange(self.size.products), min(locations, self.size.locations))
        return [sku], places


def shop_of(size: Size) -> GrownShop:
    """The shop of a store that was seeded to a size."""
    return GrownShop(size.locations, size.products, min(VARIANTS, 16 * size.pairs), size)
