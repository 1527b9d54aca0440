"""Who calls in a trial: shoppers of web and app, tills, associates. Each journey is a few calls, and may end at any of them."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from onhand.simulate.attempts import Caller, Result
from onhand.simulate.history import OK
from onhand.simulate.shop import CURRENCY, Shop, money
from onhand.v1 import inventory_pb2, order_pb2, types_pb2

TTL_SECONDS = (5, 8, 12, 20)
HOT_SHARE = 0.7
"""Of the lines that are wanted, those of a hot sku."""
LOOK_SHARE = 0.6
"""Of those who changed something, those who look at once what is shown."""
POOL_MAX = 200
"""Orders and transfers that a process remembers to go on with."""
CHANNELS = (types_pb2.CHANNEL_WEB, types_pb2.CHANNEL_APP, types_pb2.CHANNEL_WEB, types_pb2.CHANNEL_PHONE)

Item = TypeVar("Item")
Journey = Callable[["Town"], Awaitable[None]]


class Sold(NamedTuple):
    """Goods that a customer has: (line_number, units) of an order."""

    order_id: str
    lines: tuple[tuple[int, int], ...]


class Work(NamedTuple):
    """A fulfillment order that an associate can go on with, and the code that its customer has."""

    work_id: str
    order_id: str
    is_pickup: bool
    code: str
    state: str
    lines: tuple[tuple[int, int], ...]


@dataclass
class Town:
    """What the people of one client process share."""

    shop: Shop
    caller: Caller
    chance: random.Random
    name: str
    is_closing: bool = False
    work: list[Work] = field(default_factory=list)
    sold: list[Sold] = field(default_factory=list)
    transfers: list[str] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    async def lead(self, journey: Journey) -> None:
        """A journey; what breaks in it is a fault of this program, and kept."""
        try:
            await journey(self)
        except Exception as error:  # told at the end: a journey must not end in silence
            self.failures.append(error)

    def request_id(self) -> str:
        """New for each mutation."""
        return f"trial.{self.name}.{next(self._numbers)}"

    async def change(self, service: str, kind: str, request: Any) -> Result:
        """A mutation."""
        return await self.caller.mutate(service, kind, request)

    async def pause(self, seconds_max: float) -> None:
        """People think."""
        if not self.is_closing:
            await asyncio.sleep(self.chance.uniform(0, seconds_max))

    def keep(self, pool: list[Item], item: Item) -> None:
        """Remembers something to go on with."""
        if len(pool) < POOL_MAX:
            pool.append(item)

    def take(self, pool: list[Item]) -> Item | None:
        """Takes something to go on with out of a pool; None where there is nothing."""
        return pool.pop(self.chance.randrange(len(pool))) if pool else None

    def place(self) -> str:
        """A location."""
        return self.chance.choice(self.shop.locations)

    def lines(self, count_max: int = 3, quantity_max: int = 3) -> list[types_pb2.BasketLine]:
        """A basket, each sku once."""
        skus: dict[str, int] = {}
        for _ in range(self.chance.randint(1, count_max)):
            is_hot = self.chance.random() < HOT_SHARE
            sku = self.chance.choice(self.shop.hot if is_hot else self.shop.cold)
            skus[sku] = self.chance.randint(1, quantity_max)
        return [types_pb2.BasketLine(sku=sku, quantity=n) for sku, n in skus.items()]

    def tenders(self, units: Sequence[tuple[str, int]]) -> list[order_pb2.Tender]:
        """The catalog's price of what is bought."""
        total = sum(self.shop.cents[sku] * n for sku, n in units)
        return [order_pb2.Tender(kind=order_pb2.TENDER_KIND_CARD, amount=money(total))]


# --------------------------------------------------------------------------------------------------------- shoppers
async def browse(town: Town) -> None:
    """Looks at some skus, at some places or all of them."""
    chance, shop = town.chance, town.shop
    skus = list(dict.fromkeys([*chance.sample(shop.hot, 2), *(line.sku for line in town.lines())]))
    request = inventory_pb2.GetAvailabilityRequest(channel=chance.choice([*CHANNELS, types_pb2.CHANNEL_POS]), skus=skus)
    if chance.random() < 0.3:
        request.location_group_id = shop.group
    else:
        request.location_ids.extend(chance.sample(shop.locations, chance.randint(1, len(shop.locations))))
    await town.caller.read("inventory", "GetAvailability", request)


async def shop_online(town: Town) -> None:
    """Reserves at one place or two; then orders, changes, extends, gives back, or forgets it."""
    chance = town.chance
    if chance.random() < 0.5:
        await browse(town)
    places = chance.sample(town.shop.locations, 2 if chance.random() < 0.25 else 1)
    baskets = [inventory_pb2.LocationBasket(location_id=place, lines=town.lines()) for place in places]
    reserved = await town.change(
        "inventory",
        "Reserve",
        inventory_pb2.ReserveRequest(
            request_id=town.request_id(),
            channel=chance.choice(CHANNELS),
            baskets=baskets,
            ttl_seconds=chance.choice(TTL_SECONDS),
            customer_id=f"customer-{chance.randrange(50)}",
        ),
    )
    if reserved.outcome != OK:
        return
    held: inventory_pb2.Reservation = reserved.answer.reservation
    await _look(town, reserved, [b.location_id for b in held.baskets], [n.sku for b in held.baskets for n in b.lines])
    await town.pause(1.0)
    if chance.random() < 0.2:
        changed = await _change(town, held)
        if changed is None:
            return
        held = changed
    if chance.random() < 0.15:
        extend = inventory_pb2.ExtendReservationRequest(
            request_id=town.request_id(),
            reservation_id=held.reservation_id,
            ttl_seconds=chance.choice(TTL_SECONDS),
        )
        await town.change("inventory", "ExtendReservation", extend)
    end = chance.random()
    if end < 0.55:
        await _order(town, held)
    elif end < 0.8:
        released = await town.change(
            "inventory",
            "ReleaseReservation",
            inventory_pb2.ReleaseReservationRequest(request_id=town.request_id(), reservation_id=held.reservation_id),
        )
        await _look(
            town, released, [b.location_id for b in held.baskets], [n.sku for b in held.baskets for n in b.lines]
        )
    # else: abandoned, and left to expire


async def _look(town: Town, changed: Result, places: Sequence[str], skus: Sequence[str]) -> None:
    """Reads what was just changed: mostly from a server that did not do it, and so must hear of it."""
    if town.chance.random() > LOOK_SHARE:
        return
    request = inventory_pb2.GetAvailabilityRequest(
        channel=town.chance.choice([types_pb2.CHANNEL_WEB, types_pb2.CHANNEL_POS]),
        skus=list(dict.fromkeys(skus)),
        location_ids=list(dict.fromkeys(places)),
    )
    await town.caller.read("inventory", "GetAvailability", request, avoid=changed.server)


async def _change(town: Town, held: inventory_pb2.Reservation) -> inventory_pb2.Reservation | None:
    """Other quantities; None where it is not known what is held now."""
    baskets = [
        inventory_pb2.LocationBasket(location_id=b.location_id, lines=town.lines() if n else b.lines)
        for n, b in enumerate(held.baskets)
    ]
    for line in baskets[0].lines:
        line.quantity = town.chance.randint(1, 4)
    changed = await town.change(
        "inventory",
        "ChangeReservation",
        inventory_pb2.ChangeReservationRequest(
            request_id=town.request_id(), reservation_id=held.reservation_id, baskets=baskets
        ),
    )
    if changed.outcome == OK:
        return changed.answer.reservation  # type: ignore[no-any-return]
    return held if changed.reason == "INSUFFICIENT_STOCK" else None


async def _order(town: Town, held: inventory_pb2.Reservation) -> None:
    chance = town.chance
    kinds = [
        order_pb2.FULFILLMENT_KIND_SHIP if chance.random() < 0.5 else order_pb2.FULFILLMENT_KIND_PICKUP
        for _ in held.baskets
    ]
    units = [(line.sku, line.quantity) for basket in held.baskets for line in basket.lines]
    request = order_pb2.PlaceOrderRequest(
        request_id=town.request_id(),
        reservation_id=held.reservation_id,
        fulfillments=[
            order_pb2.FulfillmentChoice(location_id=basket.location_id, kind=kind)
            for basket, kind in zip(held.baskets, kinds, strict=True)
        ],
        currency_code=CURRENCY,
        tenders=town.tenders(units),
    )
    if order_pb2.FULFILLMENT_KIND_SHIP in kinds:
        request.ship_to.CopyFrom(
            order_pb2.Address(recipient="A. Customer", lines=["1 Trial Road"], locality="Town", region_code="US")
        )
    placed = await town.change("orders", "PlaceOrder", request)
    if placed.outcome != OK:
        return
    codes = {code.fulfillment_order_id: code.pickup_code for code in placed.answer.pickup_codes}
    for work in placed.answer.order.fulfillment_orders:
        lines = tuple((line.line_number, line.quantity) for line in work.lines)
        code = codes.get(work.fulfillment_order_id, "")
        is_pickup = work.kind == order_pb2.FULFILLMENT_KIND_PICKUP
        town.keep(
            town.work,
            Work(work.fulfillment_order_id, placed.answer.order.order_id, is_pickup, code, "REQUESTED", lines),
        )
    if chance.random() < 0.25:
        await _cancel(town, placed.answer.order)


async def _cancel(town: Town, order: order_pb2.Order) -> None:
    line = town.chance.choice(order.lines)
    await town.change(
        "orders",
        "CancelOrderLines",
        order_pb2.CancelOrderLinesRequest(
            request_id=town.request_id(),
            order_id=order.order_id,
            lines=[
                order_pb2.CancelLine(
                    line_number=line.line_number, quantity=town.chance.randint(1, max(1, line.quantity))
                )
            ],
        ),
    )


# ------------------------------------------------------------------------------------------------------------ tills
async def sell(town: Town) -> None:
    """Goods in hand; now and then more of them than the ledger knows."""
    chance = town.chance
    place = chance.choice(town.shop.stores)
    lines = town.lines(quantity_max=2)
    if chance.random() < 0.04:
        lines[0].quantity = 15
    sold = await town.change(
        "orders",
        "Sell",
        order_pb2.SellRequest(
            request_id=town.request_id(),
            location_id=place,
            lines=[order_pb2.SaleLine(sku=line.sku, quantity=line.quantity) for line in lines],
            currency_code=CURRENCY,
            tenders=town.tenders([(line.sku, line.quantity) for line in lines]),
        ),
    )
    if sold.outcome == OK:
        order = sold.answer.order
        town.keep(town.sold, Sold(order.order_id, tuple((n.line_number, n.quantity) for n in order.lines)))
    await _look(town, sold, [place], [line.sku for line in lines])


async def take_back(town: Town) -> None:
    """A return, at any store, of what was bought anywhere; sometimes of more than was bought."""
    sold = town.take(town.sold)
    if sold is None:
        return
    chance = town.chance
    number, quantity = chance.choice(sold.lines)
    dispositions = (order_pb2.DISPOSITION_AVAILABLE, order_pb2.DISPOSITION_AVAILABLE, order_pb2.DISPOSITION_DAMAGED)
    await town.change(
        "orders",
        "CreateReturn",
        order_pb2.CreateReturnRequest(
            request_id=town.request_id(),
            order_id=sold.order_id,
            location_id=chance.choice(town.shop.stores),
            channel=types_pb2.CHANNEL_POS,
            lines=[
                order_pb2.ReturnedLine(
                    line_number=number,
                    quantity=chance.randint(1, quantity + (chance.random() < 0.1)),
                    disposition=chance.choice(dispositions),
                )
            ],
        ),
    )
    if chance.random() < 0.5:
        town.keep(town.sold, sold)


# -------------------------------------------------------------------------------------------------------- associates
async def fulfil(town: Town) -> None:
    """Takes one piece of work some steps on."""
    work = town.take(town.work)
    while work is not None:
        kind, state = _next_step(work)
        request: Any = getattr(order_pb2, f"{kind}Request")(
            request_id=town.request_id(), fulfillment_order_id=work.work_id
        )
        if kind == "HandOverFulfillmentOrder":
            request.pickup_code = work.code
        if kind == "ShipFulfillmentOrder":
            request.carrier, request.tracking_reference = "Carrier", request.request_id
        done = await town.change("orders", kind, request)
        if done.outcome != OK:
            return  # cancelled meanwhile, or not known: somebody else's now
        if state in ("PICKED_UP", "SHIPPED"):
            answer: order_pb2.FulfillmentOrder = done.answer.fulfillment_order
            left = tuple(
                (n.line_number, n.quantity - n.cancelled_quantity)
                for n in answer.lines
                if n.quantity > n.cancelled_quantity
            )
            if left:
                town.keep(town.sold, Sold(work.order_id, left))
        if state in ("PICKED_UP", "DELIVERED"):
            return
        work = work._replace(state=state)
        if town.chance.random() < 0.3 or town.is_closing:
            town.keep(town.work, work)
            return


def _next_step(work: Work) -> tuple[str, str]:
    if work.state == "REQUESTED":
        return "AcceptFulfillmentOrder", "ACCEPTED"
    if work.state == "ACCEPTED":
        return "PickFulfillmentOrder", "PICKED"
    if work.is_pickup:
        ready = ("MarkReadyForPickup", "READY_FOR_PICKUP")
        return ready if work.state == "PICKED" else ("HandOverFulfillmentOrder", "PICKED_UP")
    return ("ShipFulfillmentOrder", "SHIPPED") if work.state == "PICKED" else ("DeliverFulfillmentOrder", "DELIVERED")


async def receive(town: Town) -> None:
    """A delivery of hot skus, which sell out, and of some others."""
    chance = town.chance
    lines = [types_pb2.BasketLine(sku=chance.choice(town.shop.hot), quantity=chance.randint(3, 8))]
    if chance.random() < 0.5:
        lines.append(types_pb2.BasketLine(sku=chance.choice(town.shop.cold), quantity=chance.randint(1, 10)))
    request_id, place = town.request_id(), town.place()
    received = await town.change(
        "inventory",
        "ReceiveStock",
        inventory_pb2.ReceiveStockRequest(
            request_id=request_id, location_id=place, lines=lines, reference_document=f"request/{request_id}"
        ),
    )
    await _look(town, received, [place], [line.sku for line in lines])


async def count(town: Town) -> None:
    """Counts a sku: as many as the ledger has, or a few more or less."""
    line, place = town.lines(1)[0], town.place()
    answer = await town.caller.read(
        "inventory",
        "GetStockPosition",
        inventory_pb2.GetStockPositionRequest(location_id=place, sku=line.sku),
    )
    if answer is None:
        return
    counted = max(0, answer.position.on_hand + town.chance.choice((-3, -2, -1, 0, 0, 1, 2, 3)))
    request_id = town.request_id()
    done = await town.change(
        "inventory",
        "CountStock",
        inventory_pb2.CountStockRequest(
            request_id=request_id,
            location_id=place,
            lines=[inventory_pb2.CountedLine(sku=line.sku, counted_quantity=counted)],
            reference_document=f"request/{request_id}",
        ),
    )
    await _look(town, done, [place], [line.sku])


async def adjust(town: Town) -> None:
    """Corrects `available` by a few units, up or down, or sets some aside as damaged."""
    chance, place = town.chance, town.place()
    line, request_id = town.lines(1)[0], town.request_id()
    reference = f"request/{request_id}"
    if chance.random() < 0.3:
        buckets = [inventory_pb2.BUCKET_AVAILABLE, inventory_pb2.BUCKET_DAMAGED]
        if chance.random() < 0.5:
            buckets.reverse()
        move = inventory_pb2.MoveStockRequest(
            request_id=request_id,
            location_id=place,
            sku=line.sku,
            quantity=1,
            from_bucket=buckets[0],
            to_bucket=buckets[1],
            reason_code="INSPECTED",
            reference_document=reference,
        )
        await town.change("inventory", "MoveStock", move)
        return
    quantity = line.quantity if chance.random() < 0.6 else -line.quantity
    adjusted = await town.change(
        "inventory",
        "AdjustStock",
        inventory_pb2.AdjustStockRequest(
            request_id=request_id,
            location_id=place,
            sku=line.sku,
            quantity=quantity,
            reason_code="CORRECTION",
            reference_document=reference,
        ),
    )
    await _look(town, adjusted, [place], [line.sku])


async def transfer(town: Town) -> None:
    """Sends units to another place, or receives what was sent, all or a part of it."""
    chance = town.chance
    known = town.take(town.transfers)
    if known is not None:
        await town.change(
            "inventory",
            "ReceiveTransfer",
            inventory_pb2.ReceiveTransferRequest(request_id=town.request_id(), transfer_id=known),
        )
        return
    origin, receiver = chance.sample(town.shop.locations, 2)
    sent = await town.change(
        "inventory",
        "DispatchTransfer",
        inventory_pb2.DispatchTransferRequest(
            request_id=town.request_id(), from_location_id=origin, to_location_id=receiver, lines=town.lines(2)
        ),
    )
    if sent.outcome == OK:
        town.keep(town.transfers, sent.answer.transfer.transfer_id)


class Person(NamedTuple):
    """A kind of journey, and how often it is made."""

    journey: Journey
    weight: float


PEOPLE = (
    Person(browse, 18),
    Person(shop_online, 26),
    Person(sell, 14),
    Person(fulfil, 12),
    Person(receive, 10),
    Person(take_back, 5),
    Person(count, 3),
    Person(adjust, 5),
    Person(transfer, 6),
)


async def final_reads(town: Town) -> None:
    """What every place shows of everything, once all is healed."""
    await asyncio.gather(
        *(
            town.caller.read(
                "inventory",
                "GetAvailability",
                inventory_pb2.GetAvailabilityRequest(channel=channel, skus=town.shop.skus, location_ids=[place]),
            )
            for place in town.shop.locations
            for channel in (types_pb2.CHANNEL_WEB, types_pb2.CHANNEL_POS)
        )
    )
