"""Who comes back in a trial: customers who return, exchange, send back, or change what they ordered."""

from __future__ import annotations

from onhand.simulate.amounts import CURRENCY, line_refund, minor_of, money
from onhand.simulate.fulfilment import ADDRESS, ON_ITS_WAY
from onhand.simulate.history import OK
from onhand.simulate.town import Town, Work, look
from onhand.v1 import order_pb2, returns_pb2, types_pb2

CONDITIONS = (
    order_pb2.DISPOSITION_AVAILABLE,
    order_pb2.DISPOSITION_AVAILABLE,
    order_pb2.DISPOSITION_DAMAGED,
    order_pb2.DISPOSITION_SUPPLIER,
)
MOVABLE = (
    order_pb2.FULFILLMENT_STATE_REQUESTED,
    order_pb2.FULFILLMENT_STATE_ACCEPTED,
    order_pb2.FULFILLMENT_STATE_READY_FOR_PICKUP,
    order_pb2.FULFILLMENT_STATE_REJECTED,
)
CUSTOMERS = 50
"""People who bring goods without a proof."""


async def take_back(town: Town) -> None:
    """A return, at any store, of what was bought anywhere; sometimes of more than was bought."""
    sold = town.take(town.sold)
    if sold is None:
        return
    chance = town.chance
    number, quantity = chance.choice(sold.lines)
    request = order_pb2.CreateReturnRequest(
        request_id=town.request_id(),
        order_id=sold.order_id,
        location_id=chance.choice(town.shop.stores),
        channel=types_pb2.CHANNEL_POS,
    )
    units = chance.randint(1, quantity + (chance.random() < 0.1))
    request.lines.add(line_number=number, quantity=units, disposition=chance.choice(CONDITIONS))
    await town.change("orders", "CreateReturn", request)
    if chance.random() < 0.5:
        town.keep(town.sold, sold)


async def exchange(town: Town) -> None:
    """Goods for others, at any store: dearer or cheaper ones, or the same again."""
    sold = town.take(town.sold)
    if sold is None:
        return
    chance = town.chance
    found = await town.caller.read("orders", "GetOrder", order_pb2.GetOrderRequest(order_id=sold.order_id))
    if found is None:
        return
    lines = {line.line_number: line for line in found.order.lines}
    number, quantity = chance.choice(sold.lines)
    units, place = chance.randint(1, quantity), chance.choice(town.shop.stores)
    wanted = town.lines(1, quantity_max=2)
    if chance.random() < 0.3:
        wanted[0].sku = lines[number].sku
    request = returns_pb2.CreateExchangeRequest(
        request_id=town.request_id(), order_id=sold.order_id, location_id=place, currency_code=CURRENCY
    )
    request.returned.add(line_number=number, quantity=units, disposition=chance.choice(CONDITIONS))
    request.sold.extend(order_pb2.SaleLine(sku=line.sku, quantity=line.quantity) for line in wanted)
    old = lines[number]
    # If nobody brings any of it back in between.
    refund = line_refund(old, old.cancelled_quantity + old.returned_quantity, units)
    request.tenders.extend(town.tenders([(line.sku, line.quantity) for line in wanted], refund))
    done = await town.change("returns", "CreateExchange", request)
    if done.outcome == OK:
        town.keep_sold(done.answer.exchange.order)
    await look(town, done, [place], [line.sku for line in wanted])


async def send_back(town: Town) -> None:
    """By mail: announced, and inspected when it came, or not awaited any more. Somebody may return it elsewhere meanwhile."""
    chance = town.chance
    known = town.take(town.parcels)
    if known is None:
        sold = town.take(town.sold)
        if sold is None:
            return
        number, quantity = chance.choice(sold.lines)
        announce = returns_pb2.AuthorizeReturnRequest(
            request_id=town.request_id(), order_id=sold.order_id, channel=types_pb2.CHANNEL_WEB
        )
        announce.lines.add(line_number=number, quantity=chance.randint(1, quantity))
        made = await town.change("returns", "AuthorizeReturn", announce)
        if made.outcome == OK:
            town.keep(town.parcels, made.answer.return_authorization)
        if chance.random() < 0.5:
            town.keep(town.sold, sold)
        return
    id = known.return_authorization_id
    if chance.random() < 0.15:
        cancel = returns_pb2.CancelReturnAuthorizationRequest(request_id=town.request_id(), return_authorization_id=id)
        await town.change("returns", "CancelReturnAuthorization", cancel)
        return
    line = known.lines[0]
    left = line.quantity - line.received_quantity - line.refused_quantity
    came = returns_pb2.ReceiveReturnRequest(
        request_id=town.request_id(), return_authorization_id=id, location_id=town.place()
    )
    good = chance.randint(0, left)
    if good:
        came.accepted.add(line_number=line.line_number, quantity=good, disposition=chance.choice(CONDITIONS))
    if left - good and (not good or chance.random() < 0.5):
        came.refused.add(line_number=line.line_number, quantity=left - good, reason="worn")
    done = await town.change("returns", "ReceiveReturn", came)
    expecting = returns_pb2.RETURN_AUTHORIZATION_STATE_PARTIALLY_RECEIVED
    if done.outcome == OK and done.answer.return_authorization.state == expecting:
        town.keep(town.parcels, done.answer.return_authorization)


async def bring_without_proof(town: Town) -> None:
    """No receipt: onto a gift card, within the limits of a day."""
    chance = town.chance
    request = returns_pb2.CreateBlindReturnRequest(
        request_id=town.request_id(),
        location_id=chance.choice(town.shop.stores),
        customer_id=f"nobody-{chance.randrange(CUSTOMERS)}",
        currency_code=CURRENCY,
        refund_kind=order_pb2.TENDER_KIND_STORE_CREDIT,
        gift_card_code=f"CREDIT-{town.request_id()}-{chance.getrandbits(64):016X}",
    )
    for line in town.lines(2, quantity_max=1):
        request.lines.add(sku=line.sku, quantity=line.quantity, disposition=chance.choice(CONDITIONS))
    if chance.random() < 0.3:
        request.override.manager, request.override.reason = "manager", "a regular"
    await town.change("returns", "CreateBlindReturn", request)


async def to_supplier(town: Town) -> None:
    """Units out of quarantine go back to their supplier: those that are there."""
    request = returns_pb2.ReturnToSupplierRequest(request_id=town.request_id(), location_id=town.place())
    request.lines.extend(town.lines(1, quantity_max=2))
    await town.change("returns", "ReturnToSupplier", request)


async def change_order(town: Town) -> None:
    """Other quantities, another store, or a shipment instead: previewed, and applied if it still is as it was."""
    chance = town.chance
    known = town.take(town.orders)
    if known is None:
        return
    found = await town.caller.read("orders", "GetOrder", order_pb2.GetOrderRequest(order_id=known))
    if found is None:
        return
    change = order_pb2.OrderChange()
    works = [w for w in found.order.fulfillment_orders if w.state in MOVABLE]
    if works and chance.random() < 0.5:
        work = chance.choice(works)
        change.move.fulfillment_order_id = work.fulfillment_order_id
        change.move.location_id = chance.choice(("", *town.shop.locations))
        change.move.kind = chance.choice((order_pb2.FULFILLMENT_KIND_PICKUP, order_pb2.FULFILLMENT_KIND_SHIP))
        change.move.ship_to.CopyFrom(ADDRESS)
    else:
        for line in chance.sample(list(found.order.lines), min(2, len(found.order.lines))):
            now = line.quantity - line.cancelled_quantity
            wanted = max(0, now + chance.choice((-2, -1, 1)))
            if wanted != now:
                change.quantities.lines.add(line_number=line.line_number, quantity=wanted)
        if not change.quantities.lines:
            return
    preview = order_pb2.PreviewOrderChangeRequest(order_id=known, change=change)
    shown = await town.caller.read("orders", "PreviewOrderChange", preview)
    if shown is None:
        return
    apply = order_pb2.ApplyOrderChangeRequest(
        request_id=town.request_id(), order_id=known, change=change, etag=shown.etag
    )
    charge = minor_of(shown.charge)
    if charge:
        apply.tenders.add(kind=order_pb2.TENDER_KIND_CARD, amount=money(charge))
    applied = await town.change("orders", "ApplyOrderChange", apply)
    if applied.outcome != OK:
        return
    town.keep(town.orders, known)
    if change.HasField("move"):
        old = change.move.fulfillment_order_id
        for work in applied.answer.order.fulfillment_orders:
            if work.from_fulfillment_order_id == old and work.state in ON_ITS_WAY:
                town.keep(town.work, Work(work, applied.answer.pickup_code.pickup_code))
