"""The small retailer of a trial: three stores and a warehouse, a few skus that everybody wants, many that few want."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from onhand.simulate.amounts import money
from onhand.simulate.attempts import Caller
from onhand.simulate.calls import GaveUp
from onhand.simulate.history import OK, History
from onhand.v1 import catalog_pb2, inventory_pb2, payment_pb2, types_pb2

STORES, HOT, COLD = 3, 3, 24
HOT_STOCK, COLD_STOCK = 8, 40
"""Units of a sku at each location at the start."""
CARDS, CARD_CENTS = 3, 20_000
"""Gift cards, and what is on each at the start: little enough for some to be spent."""
WEBHOOK_SECRET = "whsec_trial"
"""Signs what a gateway posts."""
CONNECT_SECONDS_MAX = 30.0
SET_UP_ATTEMPTS_MAX = 5

Position = tuple[str, str]


@dataclass(frozen=True)
class Shop:
    """What there is. `safety` and `thresholds` are set before the start and never changed."""

    run_id: str
    stores: tuple[str, ...]
    warehouse: str
    group: str
    hot: tuple[str, ...]
    cold: tuple[str, ...]
    cents: dict[str, int]
    safety: dict[Position, int]
    thresholds: dict[tuple[int, str], int]
    limits: dict[Position, int]
    """How many units orders may wait for."""
    hold_seconds: dict[str, int]
    """How long pickups wait for their customer, where that is not three days."""
    cards: tuple[str, ...]
    """Codes of gift cards, with which everybody pays."""

    @property
    def locations(self) -> tuple[str, ...]:
        """Every place that holds stock."""
        return (*self.stores, self.warehouse)

    @property
    def skus(self) -> tuple[str, ...]:
        """Everything that is sold."""
        return (*self.hot, *self.cold)


def plan_shop(run_id: str, seed: int) -> Shop:
    """The shop of a seed; ids carry the run, so that it can be played again on the same ledger."""
    chance = random.Random(f"{seed} shop")
    stores = tuple(f"{run_id}-store{n}" for n in range(1, STORES + 1))
    hot = tuple(f"{run_id}-hot{n}" for n in range(1, HOT + 1))
    cold = tuple(f"{run_id}-cold{n}" for n in range(1, COLD + 1))
    return Shop(
        run_id=run_id,
        stores=stores,
        warehouse=f"{run_id}-warehouse",
        group=f"{run_id}-all",
        hot=hot,
        cold=cold,
        cents={sku: chance.randrange(100, 2_000) for sku in (*hot, *cold)},
        safety={(stores[0], hot[1]): 2, (stores[1], cold[0]): 5},
        thresholds={(types_pb2.CHANNEL_APP, hot[2]): 1},
        limits={(stores[1], hot[0]): 6, (f"{run_id}-warehouse", hot[1]): 10},
        hold_seconds={stores[2]: 4},
        cards=tuple(f"TRIAL-{run_id}-{n}-{chance.getrandbits(64):016X}".upper() for n in range(CARDS)),
    )


def open_shop(*, target: str, folder: Path, run_id: str, seed: int) -> Shop:
    """Sets the shop up through the API, before any fault; the calls are in history-setup.jsonl. Raises GaveUp."""
    shop = plan_shop(run_id, seed)
    asyncio.run(_open(shop, target, folder))
    return shop


async def _open(shop: Shop, target: str, folder: Path) -> None:
    history = History(folder / "history-setup.jsonl", "setup").open()
    caller = Caller([target], history, random.Random(0))
    try:
        try:
            await caller.connect(CONNECT_SECONDS_MAX)
        except TimeoutError as error:
            raise GaveUp(f"no server answers at {target}") from error
        for step in _steps(shop):
            await asyncio.gather(*(_insist(caller, history, *call) for call in step))
    finally:
        await caller.close()
        history.close()


async def _insist(caller: Caller, history: History, service: str, kind: str, request: Message) -> None:
    op = history.next_op()
    for attempt in range(1, SET_UP_ATTEMPTS_MAX + 1):
        result = await caller.attempt(service, kind, request, op, attempt)
        if result.outcome == OK:
            return
    raise GaveUp(f"{kind} of the set-up: {result.outcome} {result.reason}")


def _steps(shop: Shop) -> list[list[tuple[str, str, Any]]]:
    """The calls of the set-up; those of a step do not depend on each other."""

    def name(what: str) -> str:
        return f"trial.{shop.run_id}.setup.{what}"

    places: list[tuple[str, str, Any]] = [
        (
            "inventory",
            "CreateLocation",
            inventory_pb2.CreateLocationRequest(
                request_id=name(place),
                location=inventory_pb2.Location(
                    location_id=place,
                    kind=inventory_pb2.LOCATION_KIND_WAREHOUSE
                    if place == shop.warehouse
                    else inventory_pb2.LOCATION_KIND_STORE,
                    name=place,
                    offers_pickup=True,
                    offers_shipping=True,
                    pickup_hold_seconds=shop.hold_seconds.get(place, 0),
                ),
            ),
        )
        for place in shop.locations
    ]
    products: list[tuple[str, str, Any]] = [
        (
            "catalog",
            "CreateProduct",
            catalog_pb2.CreateProductRequest(
                request_id=name(sku), product=catalog_pb2.Product(sku=sku, name=f"Item {sku}")
            ),
        )
        for sku in shop.skus
    ]
    group = inventory_pb2.SetLocationGroupRequest(
        request_id=name("group"), location_group_id=shop.group, name="All", location_ids=shop.locations
    )
    prices: list[tuple[str, str, Any]] = [
        (
            "catalog",
            "SetPrice",
            catalog_pb2.SetPriceRequest(
                request_id=name(f"price.{sku}"), sku=sku, amount=money(cents), price_quantity=1
            ),
        )
        for sku, cents in shop.cents.items()
    ]
    stock: list[tuple[str, str, Any]] = [
        (
            "inventory",
            "ReceiveStock",
            inventory_pb2.ReceiveStockRequest(
                request_id=name(f"stock.{place}"),
                location_id=place,
                lines=[*_basket(shop.hot, HOT_STOCK), *_basket(shop.cold, COLD_STOCK)],
                reference_document=f"request/{name(f'stock.{place}')}",
            ),
        )
        for place in shop.locations
    ]
    kept: list[tuple[str, str, Any]] = [
        (
            "inventory",
            "SetStockPolicy",
            inventory_pb2.SetStockPolicyRequest(
                request_id=name(f"safety.{place}.{sku}"),
                location_id=place,
                sku=sku,
                safety_stock=shop.safety.get((place, sku), 0),
                backorder_limit=shop.limits.get((place, sku), 0),
            ),
        )
        for place, sku in sorted({*shop.safety, *shop.limits})
    ]
    kept += [
        (
            "inventory",
            "SetChannelThreshold",
            inventory_pb2.SetChannelThresholdRequest(
                request_id=name(f"threshold.{channel}.{sku}"),
                channel=types_pb2.Channel.ValueType(channel),
                sku=sku,
                quantity=units,
            ),
        )
        for (channel, sku), units in shop.thresholds.items()
    ]
    cards: list[tuple[str, str, Any]] = [
        (
            "payments",
            "IssueGiftCard",
            payment_pb2.IssueGiftCardRequest(request_id=name(f"card.{n}"), code=code, amount=money(CARD_CENTS)),
        )
        for n, code in enumerate(shop.cards)
    ]
    return [places + products + cards, [("inventory", "SetLocationGroup", group), *prices, *stock], kept]


def _basket(skus: Sequence[str], quantity: int) -> list[types_pb2.BasketLine]:
    return [types_pb2.BasketLine(sku=sku, quantity=quantity) for sku in skus]
