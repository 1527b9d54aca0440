"""Who buys in a trial: shoppers of web and app, and tills. Each journey is a few calls, and may end at any of them."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from typing import NamedTuple

from onhand.simulate.aftersales import bring_without_proof, change_order, exchange, send_back, take_back, to_supplier
from onhand.simulate.amounts import CURRENCY
from onhand.simulate.associates import adjust, announce, count, count_open_store, receive, transfer
from onhand.simulate.fulfilment import ADDRESS, fulfil, mend
from onhand.simulate.history import OK
from onhand.simulate.shop import WEBHOOK_SECRET
from onhand.simulate.town import Journey, Town, look
from onhand.v1 import inventory_pb2, order_pb2, payment_pb2, sourcing_pb2, types_pb2

TOGETHER_SHARE = 0.15
"""Of those who reserve online, those whose shop does so for several at once, in one call or by a stream."""
SOURCED_SHARE = 0.2
"""Of the others, those to whom the servers say who brings it."""
TTL_SECONDS = (5, 8, 12, 20)
KINDS = (order_pb2.FULFILLMENT_KIND_PICKUP, order_pb2.FULFILLMENT_KIND_SHIP)
CHANNELS = (types_pb2.CHANNEL_WEB, types_pb2.CHANNEL_APP, types_pb2.CHANNEL_WEB, types_pb2.CHANNEL_PHONE)


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
    wanted = [_wish(town) for _ in range(chance.randint(2, 4) if chance.random() < TOGETHER_SHARE else 1)]
    method = None
    if len(wanted) == 1 and chance.random() < SOURCED_SHARE:
        method = chance.choice(KINDS)
        reserved = await town.change("sourcing", "SourceReservation", _sourced(town, method))
    elif len(wanted) == 1:
        reserved = await town.change("inventory", "Reserve", wanted[0])
    else:  # for several people; this is one of them
        reserved = chance.choice(await town.caller.reserve_many(wanted))
    if reserved.outcome != OK:
        return
    held: inventory_pb2.Reservation = reserved.answer.reservation
    await look(town, reserved, [b.location_id for b in held.baskets], [n.sku for b in held.baskets for n in b.lines])
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
        await _order(town, held, method)
    elif end < 0.8:
        released = await town.change(
            "inventory",
            "ReleaseReservation",
            inventory_pb2.ReleaseReservationRequest(request_id=town.request_id(), reservation_id=held.reservation_id),
        )
        await look(
            town, released, [b.location_id for b in held.baskets], [n.sku for b in held.baskets for n in b.lines]
        )
    # else: abandoned, and left to expire


def _wish(town: Town) -> inventory_pb2.ReserveRequest:
    """What somebody wants to have kept, at one place or two."""
    chance = town.chance
    places = chance.sample(town.shop.locations, 2 if chance.random() < 0.25 else 1)
    return inventory_pb2.ReserveRequest(
        request_id=town.request_id(),
        channel=chance.choice(CHANNELS),
        baskets=[inventory_pb2.LocationBasket(location_id=place, lines=town.lines()) for place in places],
        ttl_seconds=chance.choice(TTL_SECONDS),
        customer_id=f"customer-{chance.randrange(50)}",
    )


def _sourced(town: Town, method: order_pb2.FulfillmentKind.ValueType) -> sourcing_pb2.SourceReservationRequest:
    """The same, from wherever it comes; or from one of some stores; or from anywhere but there."""
    chance = town.chance
    request = sourcing_pb2.SourceReservationRequest(
        request_id=town.request_id(),
        channel=chance.choice(CHANNELS),
        method=method,
        lines=town.lines(quantity_max=5),
        accepts_partial=chance.random() < 0.3,
        ttl_seconds=chance.choice(TTL_SECONDS),
        customer_id=f"customer-{chance.randrange(50)}",
    )
    some = chance.sample(town.shop.locations, 2)
    match chance.randrange(4):
        case 0:
            request.location_ids.extend(some)
        case 1:
            request.excluded_location_ids.extend(some)
    return request


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


async def _order(
    town: Town, held: inventory_pb2.Reservation, method: order_pb2.FulfillmentKind.ValueType | None
) -> None:
    """Orders what is held; all of it by the method that it was planned for, if it was."""
    chance = town.chance
    kinds = [method or chance.choice(KINDS) for _ in held.baskets]
    units = [(line.sku, line.quantity) for basket in held.baskets for line in basket.lines]
    request = order_pb2.PlaceOrderRequest(
        request_id=town.request_id(),
        reservation_id=held.reservation_id,
        fulfillments=[
            order_pb2.FulfillmentChoice(location_id=basket.location_id, kind=kind)
            for basket, kind in zip(held.baskets, kinds, strict=True)
        ],
        currency_code=CURRENCY,
        tenders=town.tenders(units, is_online=True),
        accepts_backorder=chance.random() < 0.7,
    )
    if order_pb2.FULFILLMENT_KIND_SHIP in kinds:
        request.ship_to.CopyFrom(ADDRESS)
    placed = await town.change("orders", "PlaceOrder", request)
    if placed.outcome != OK:
        return
    await post_webhooks(town, placed.answer.order)
    town.keep_work(placed.answer.order, placed.answer.pickup_codes)
    if chance.random() < 0.25:
        await _cancel(town, placed.answer.order)


async def post_webhooks(town: Town, order: order_pb2.Order) -> None:
    """What a gateway posts of what it did: never, once, or twice, and late. Nobody believes it; it is a reason to look."""
    for number, tender in enumerate(order.tenders, 1):
        if tender.kind != order_pb2.TENDER_KIND_CARD:
            continue
        for _ in range(town.chance.choice((0, 1, 2))):
            await town.pause(0.5)
            about = {"metadata": {"order_id": order.order_id, "tender_number": str(number)}}
            body = json.dumps({"type": "payment_intent.succeeded", "data": {"object": about}}).encode()
            when = int(time.time())
            digest = hmac.new(WEBHOOK_SECRET.encode(), b"%d." % when + body, hashlib.sha256).hexdigest()
            await town.change(
                "payments",
                "HandleWebhook",
                payment_pb2.HandleWebhookRequest(
                    request_id=town.request_id(),
                    provider=payment_pb2.PAYMENT_PROVIDER_STRIPE,
                    body=body,
                    signature=f"t={when},v1={digest}",
                ),
            )


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
        town.keep_sold(sold.answer.order)
    await look(town, sold, [place], [line.sku for line in lines])


class Person(NamedTuple):
    """A kind of journey, and how often it is made."""

    journey: Journey
    weight: float


PEOPLE = (
    Person(browse, 14),
    Person(shop_online, 26),
    Person(sell, 10),
    Person(fulfil, 26),
    Person(mend, 7),
    Person(change_order, 5),
    Person(receive, 7),
    Person(take_back, 4),
    Person(exchange, 5),
    Person(send_back, 4),
    Person(bring_without_proof, 2),
    Person(to_supplier, 1),
    Person(count, 2),
    Person(count_open_store, 3),
    Person(adjust, 4),
    Person(transfer, 7),
    Person(announce, 5),
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
