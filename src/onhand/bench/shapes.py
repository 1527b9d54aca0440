"""The messages of the bench: what is sold where, and one call after another of a kind, encoded in a few microseconds."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

from google.type.money_pb2 import Money

from onhand.v1 import inventory_pb2, order_pb2, types_pb2

LOCATIONS = 50
SKUS = 50
STOCK = 500_000_000
"""Units of each sku at each location: more than any run sells."""
VARIANTS = 1024
"""Different baskets that are drawn from, encoded beforehand."""
TTL_SECONDS = 3600
"""How long reservations hold: none expires while it is measured."""
VARIANTS_KEPT_MAX = 8
"""Kinds whose messages a process keeps."""
BATCH = 100
"""Reservations in a BatchReserve."""
LINES = 2
"""Lines of a basket that is spread."""
AVAILABILITY_SKUS = 20
AVAILABILITY_LOCATIONS = 50
REQUEST_ID_LENGTH = 32

Draw = Callable[[], bytes | None]
"""The next call's message, None where there is nothing left to call."""


@dataclass(frozen=True)
class Shop:
    """What is sold where. Each sku lies at each location, and costs one dollar."""

    locations: int = LOCATIONS
    skus: int = SKUS
    variants: int = VARIANTS

    def location_id(self, n: int) -> str:
        """The name of a location."""
        return f"store-{n:04}"

    def sku(self, n: int) -> str:
        """The name of a sku."""
        return f"sku-{n:06}"

    def basket(self, draw: random.Random, *, is_hot: bool) -> tuple[str, Sequence[str]]:
        """A location and the skus that are wanted there: LINES anywhere, or the one that everybody wants."""
        if is_hot:
            return self.location_id(0), [self.sku(0)]
        skus = draw.sample(range(self.skus), LINES)
        return self.location_id(draw.randrange(self.locations)), [self.sku(n) for n in skus]

    def looked_at(self, draw: random.Random, *, skus: int, locations: int) -> tuple[Sequence[str], Sequence[str]]:
        """So many skus and locations, or all that there are, of which somebody wants to know what can be had."""
        chosen = draw.sample(range(self.skus), min(skus, self.skus))
        places = draw.sample(range(self.locations), min(locations, self.locations))
        return [self.sku(n) for n in chosen], [self.location_id(n) for n in places]


@dataclass(frozen=True)
class Reserved:
    """A reservation that may become an order."""

    reservation_id: str
    location_id: str
    units: int


def basket(shop: Shop, draw: random.Random, *, is_hot: bool) -> tuple[str, Sequence[str]]:
    """A location and the skus that are wanted there."""
    return shop.basket(draw, is_hot=is_hot)


def reserve_request(shop: Shop, draw: random.Random, *, is_hot: bool) -> bytes:
    """All but the request_id of a ReserveRequest."""
    location_id, skus = basket(shop, draw, is_hot=is_hot)
    lines = [types_pb2.BasketLine(sku=sku, quantity=1) for sku in skus]
    return inventory_pb2.ReserveRequest(
        channel=types_pb2.CHANNEL_WEB,
        ttl_seconds=TTL_SECONDS,
        baskets=[inventory_pb2.LocationBasket(location_id=location_id, lines=lines)],
    ).SerializeToString()


def sell_request(shop: Shop, draw: random.Random, *, is_hot: bool) -> bytes:
    """All but the request_id of a SellRequest."""
    location_id, skus = basket(shop, draw, is_hot=is_hot)
    return order_pb2.SellRequest(
        location_id=location_id,
        currency_code="USD",
        lines=[order_pb2.SaleLine(sku=sku, quantity=1) for sku in skus],
        tenders=[order_pb2.Tender(kind=order_pb2.TENDER_KIND_CASH, amount=dollars(len(skus)))],
    ).SerializeToString()


def dollars(units: int) -> Money:
    """An amount."""
    return Money(currency_code="USD", units=units)


def place_request(location_id: str, units: int) -> bytes:
    """All but the request_id and the reservation_id of a PlaceOrderRequest for pickup."""
    card = order_pb2.Tender(kind=order_pb2.TENDER_KIND_CARD, reference="auth-1", amount=dollars(units))
    pickup = order_pb2.FulfillmentChoice(location_id=location_id, kind=order_pb2.FULFILLMENT_KIND_PICKUP)
    return order_pb2.PlaceOrderRequest(currency_code="USD", fulfillments=[pickup], tenders=[card]).SerializeToString()


def availability_request(shop: Shop, draw: random.Random, *, skus: int, locations: int) -> bytes:
    """A GetAvailabilityRequest."""
    wanted, places = shop.looked_at(draw, skus=skus, locations=locations)
    return inventory_pb2.GetAvailabilityRequest(
        channel=types_pb2.CHANNEL_WEB, skus=wanted, location_ids=places
    ).SerializeToString()


def _with_request_ids(draw: random.Random, tails: Sequence[bytes]) -> Callable[[], bytes]:
    """Messages whose field 1 is a request_id that is never drawn twice, whatever the seed."""
    bits, choice, count = random.Random().getrandbits, draw.random, len(tails)
    opening = bytes((0x0A, REQUEST_ID_LENGTH))
    return lambda: opening + b"%032x" % bits(128) + tails[int(choice() * count)]


def _batches(one: Callable[[], bytes]) -> Callable[[], bytes]:
    def batch() -> bytes:
        parts = []
        for _ in range(BATCH):
            message = one()
            parts.append(b"\x0a" + _varint(len(message)))
            parts.append(message)
        return b"".join(parts)

    return batch


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _orders(reserved: list[Reserved], *, is_echo: bool, shop: Shop) -> Draw:
    tails: dict[tuple[str, int], bytes] = {}
    bits = random.Random().getrandbits
    opening = bytes((0x0A, REQUEST_ID_LENGTH))

    def order() -> bytes | None:
        if is_echo:
            taken = Reserved("01a200a7-909a-784c-a8fa-bb44ae56dd1a", shop.location_id(0), LINES)
        elif reserved:
            taken = reserved.pop()
        else:
            return None
        tail = tails.get((taken.location_id, taken.units))
        if tail is None:
            tail = tails[taken.location_id, taken.units] = place_request(taken.location_id, taken.units)
        encoded_id = taken.reservation_id.encode()
        return opening + b"%032x" % bits(128) + b"\x12" + bytes((len(encoded_id),)) + encoded_id + tail

    return order


@lru_cache(maxsize=VARIANTS_KEPT_MAX)
def _variants(kind: str, shop: Shop) -> Sequence[bytes]:
    """Messages of a kind, or what follows their request_id: the same in every process, each of another basket."""
    draw = random.Random(kind)
    is_hot = kind.endswith("_hot")
    make: Callable[[], bytes]
    match kind.removesuffix("_hot"):
        case "reserve":
            make = partial(reserve_request, shop, draw, is_hot=is_hot)
        case "sell":
            make = partial(sell_request, shop, draw, is_hot=is_hot)
        case "availability_20_skus":
            make = partial(availability_request, shop, draw, skus=AVAILABILITY_SKUS, locations=1)
        case "availability_50_locations":
            make = partial(availability_request, shop, draw, skus=1, locations=AVAILABILITY_LOCATIONS)
        case _:
            raise ValueError(f"no messages of kind {kind}")
    return [make() for _ in range(1 if is_hot else shop.variants)]


def drawn(kind: str, shop: Shop, seed: int, reserved: list[Reserved], *, is_echo: bool = False) -> Draw:
    """What draws messages of a kind: the name of a figure without `baseline` and without its edge.

    Orders are of `reserved`, which is used up; those of an echo name no real reservation.
    """
    draw = random.Random(seed)
    match kind.removesuffix("_hot"):
        case "place_order":
            return _orders(reserved, is_echo=is_echo, shop=shop)
        case "reserve_batch":
            return _batches(_with_request_ids(draw, _variants(kind.replace("_batch", ""), shop)))
        case "reserve" | "sell":
            return _with_request_ids(draw, _variants(kind, shop))
    encoded = _variants(kind, shop)
    return lambda: draw.choice(encoded)
