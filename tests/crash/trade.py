"""Scenarios of the catalog, of carts and of orders."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from google.protobuf.message import Message

from crash.process import GATEWAY
from crash.stage import Stage
from crash.stock import scenario
from gateway import DECLINED_CARD, SIGNED
from onhand.sourcing import SourcedReservations
from onhand.v1 import cart_pb2, catalog_pb2, inventory_pb2, payment_pb2, sourcing_pb2, types_pb2
from onhand.v1 import order_pb2 as pb
from purse import issue, payments, tender
from shelf import dollars, request_id
from shop import ADDRESS, BREAD, CALLER, DEPOT, MILK, MILK_BARCODE, NORTH, SOUTH, Shop, card, fulfillment_of, told


# ----------------------------------------------------------------------------------------------------------------- catalog
@scenario("CreateProduct", "with a name")
async def _(stage: Stage, shop: Shop) -> Message:
    product = catalog_pb2.Product(sku="tea", name="Tea")
    return catalog_pb2.CreateProductRequest(request_id=request_id(), product=product)


@scenario("UpdateProduct", "its name")
async def _(stage: Stage, shop: Shop) -> Message:
    request = catalog_pb2.UpdateProductRequest(request_id=request_id())
    request.product.sku, request.product.name = MILK, "Fresh milk"
    request.update_mask.paths.append("name")
    return request


@scenario("SetBarcodes", "another one")
async def _(stage: Stage, shop: Shop) -> Message:
    return catalog_pb2.SetBarcodesRequest(request_id=request_id(), sku=MILK, gtins=["04006381333948"[:13] + "8"])


@scenario("SetPrice", "a new one")
async def _(stage: Stage, shop: Shop) -> Message:
    return catalog_pb2.SetPriceRequest(request_id=request_id(), sku=MILK, amount=dollars(2.09))


# ------------------------------------------------------------------------------------------------------------------- carts
@scenario("CreateCart", "of a customer")
async def _(stage: Stage, shop: Shop) -> Message:
    return cart_pb2.CreateCartRequest(
        request_id=request_id(), channel=types_pb2.CHANNEL_WEB, currency_code="USD", customer_id="ada"
    )


@scenario("AddCartLine", "to a line")
async def _(stage: Stage, shop: Shop) -> Message:
    cart_id = await shop.cart({MILK: 1})
    line = types_pb2.BasketLine(sku=MILK, quantity=2)
    return cart_pb2.AddCartLineRequest(request_id=request_id(), cart_id=cart_id, line=line)


@scenario("SetCartLine", "to another quantity")
async def _(stage: Stage, shop: Shop) -> Message:
    cart_id = await shop.cart({MILK: 1})
    return cart_pb2.SetCartLineRequest(request_id=request_id(), cart_id=cart_id, sku=MILK, quantity=3)


@scenario("ClaimCart", "into the customer's own")
async def _(stage: Stage, shop: Shop) -> Message:
    await shop.cart({MILK: 1}, "ada")
    cart_id = await shop.cart({MILK: 2, BREAD: 1})
    return cart_pb2.ClaimCartRequest(request_id=request_id(), cart_id=cart_id, customer_id="ada")


# ------------------------------------------------------------------------------------------------------------------- money
GIFT_CARD = "K7QF-3M9D-X2PA-88HT"


@scenario("IssueGiftCard", "a new one")
async def _(stage: Stage, shop: Shop) -> Message:
    return payment_pb2.IssueGiftCardRequest(request_id=request_id(), code=GIFT_CARD, amount=dollars(50))


@scenario("TopUpGiftCard", "one that is there")
async def _(stage: Stage, shop: Shop) -> Message:
    card = await issue(shop, GIFT_CARD, 1000)
    return payment_pb2.TopUpGiftCardRequest(request_id=request_id(), gift_card_id=card.gift_card_id, amount=dollars(50))


# -------------------------------------------------------------------------------------------------------------------- sell
def sell(lines: Mapping[str, int], total: int) -> pb.SellRequest:
    """A sale in the north."""
    return pb.SellRequest(
        request_id=request_id(),
        location_id=NORTH,
        lines=[pb.SaleLine(sku=sku, quantity=quantity) for sku, quantity in lines.items()],
        currency_code="USD",
        tenders=card(total),
    )


@scenario("Sell", "of what is there, by barcode")
async def _(stage: Stage, shop: Shop) -> Message:
    request = sell({}, 2 * 199)
    request.lines.append(pb.SaleLine(barcode=MILK_BARCODE, quantity=2))
    return request


@scenario("Sell", "paid with a gift card", is_tight=True)
async def _(stage: Stage, shop: Shop) -> Message:
    await issue(shop, GIFT_CARD, 1000)
    request = sell({MILK: 3}, 97)
    request.tenders.append(tender("GIFT_CARD", 500, gift_card_code=GIFT_CARD))
    return request


@scenario("Sell", "tenders that do not add up", refusal="TENDERS_MISMATCH")
async def _(stage: Stage, shop: Shop) -> Message:
    return sell({MILK: 2}, 199)


@scenario("Sell", "of more than the ledger has", is_tight=True)
async def _(stage: Stage, shop: Shop) -> Message:
    return sell({MILK: 12, BREAD: 1}, 12 * 199 + 250)


@scenario("Sell", "of what was promised", is_tight=True)
async def _(stage: Stage, shop: Shop) -> Message:
    await shop.reserve({NORTH: {MILK: 9}})
    return sell({MILK: 4}, 4 * 199)


@scenario("Sell", "of what an order waits for", is_tight=True)
async def _(stage: Stage, shop: Shop) -> Message:
    await shop.place({NORTH: {MILK: 10}})
    return sell({MILK: 2, BREAD: 1}, 2 * 199 + 250)


@scenario("Sell", "of what an order waits for, the gate is not reached", lost=("*",))
async def _(stage: Stage, shop: Shop) -> Message:
    await shop.place({NORTH: {MILK: 8}})
    await shop.reserve({NORTH: {MILK: 1}})
    return sell({MILK: 4}, 4 * 199)


@scenario("Sell", "the gate is not reached", lost=("*",))
async def _(stage: Stage, shop: Shop) -> Message:
    await shop.reserve({NORTH: {MILK: 2}})
    return sell({MILK: 4, BREAD: 11}, 4 * 199 + 11 * 250)


@scenario("Sell", "the ledger left the gate's epoch")
async def _(stage: Stage, shop: Shop) -> Message:
    await stage.raise_epoch(NORTH)
    return sell({MILK: 4}, 4 * 199)


# ------------------------------------------------------------------------------------------------------------------ orders
@scenario("PlaceOrder", "picked up at one location, shipped from another, from a cart")
async def _(stage: Stage, shop: Shop) -> Message:
    cart_id = await shop.cart({MILK: 3, BREAD: 1}, "ada")
    reservation_id = await shop.reserve({NORTH: {MILK: 2}, SOUTH: {MILK: 1, BREAD: 1}}, "ada")
    kinds = {NORTH: pb.FULFILLMENT_KIND_PICKUP, SOUTH: pb.FULFILLMENT_KIND_SHIP}
    return shop.place_request(reservation_id, kinds, 3 * 199 + 250, cart_id=cart_id)


@scenario("PlaceOrder", "the last that a location takes on today")
async def _(stage: Stage, shop: Shop) -> Message:
    location = inventory_pb2.Location(location_id=NORTH, daily_orders_max=2)
    update = inventory_pb2.UpdateLocationRequest(request_id=request_id(), location=location)
    update.update_mask.paths.append("daily_orders_max")
    await shop.locations.update_location(update, CALLER)
    await shop.place({NORTH: {BREAD: 1}})
    reservation_id = await shop.reserve({NORTH: {MILK: 2}})
    return shop.place_request(reservation_id, {NORTH: pb.FULFILLMENT_KIND_PICKUP}, 2 * 199)


@scenario("PlaceOrder", "paid with a gift card")
async def _(stage: Stage, shop: Shop) -> Message:
    await issue(shop, GIFT_CARD, 1000)
    tenders = [tender("GIFT_CARD", 398, gift_card_code=GIFT_CARD)]
    reservation_id = await shop.reserve({NORTH: {MILK: 2}})
    return shop.place_request(reservation_id, {NORTH: pb.FULFILLMENT_KIND_PICKUP}, 398, tenders=tenders)


@scenario("CancelOrderLines", "of what a gift card paid")
async def _(stage: Stage, shop: Shop) -> Message:
    await issue(shop, GIFT_CARD, 1000)
    tenders = [tender("GIFT_CARD", 300, gift_card_code=GIFT_CARD), tender("CARD", 98)]
    reservation_id = await shop.reserve({NORTH: {MILK: 2}})
    request = shop.place_request(reservation_id, {NORTH: pb.FULFILLMENT_KIND_PICKUP}, 398, tenders=tenders)
    order = (await shop.orders.place_order(request, CALLER)).order
    lines = [pb.CancelLine(line_number=1, quantity=2)]
    return pb.CancelOrderLinesRequest(request_id=request_id(), order_id=order.order_id, lines=lines)


@scenario("PlaceOrder", "of a reservation that a sale was taken from", refusal="RESERVATION_SHORT")
async def _(stage: Stage, shop: Shop) -> Message:
    reservation_id = await shop.reserve({NORTH: {MILK: 9}})
    await shop.sell(NORTH, {MILK: 4}, 4 * 199)
    return shop.place_request(reservation_id, {NORTH: pb.FULFILLMENT_KIND_PICKUP}, 9 * 199)


async def placed(shop: Shop, kind: pb.FulfillmentKind.ValueType = pb.FULFILLMENT_KIND_PICKUP) -> pb.PlaceOrderResponse:
    """An order of the north."""
    return await shop.place({NORTH: {MILK: 2, BREAD: 1}}, kind)


async def work_of(shop: Shop, kind: pb.FulfillmentKind.ValueType = pb.FULFILLMENT_KIND_PICKUP) -> str:
    """The id of the north's work for it."""
    return fulfillment_of((await placed(shop, kind)).order, NORTH).fulfillment_order_id


@scenario("CancelOrderLines", "a part of each of two locations")
async def _(stage: Stage, shop: Shop) -> Message:
    order = (await shop.place({NORTH: {MILK: 2}, SOUTH: {BREAD: 2}})).order
    return pb.CancelOrderLinesRequest(
        request_id=request_id(),
        order_id=order.order_id,
        lines=[pb.CancelLine(line_number=line.line_number, quantity=1) for line in order.lines],
    )


@scenario("CancelOrderLines", "of which a part is not there")
async def _(stage: Stage, shop: Shop) -> Message:
    order = (await shop.place({NORTH: {MILK: 10}})).order
    await shop.sell(NORTH, {MILK: 2}, 2 * 199)
    return pb.CancelOrderLinesRequest(
        request_id=request_id(), order_id=order.order_id, lines=[pb.CancelLine(line_number=1, quantity=5)]
    )


async def previewed(shop: Shop, order_id: str, change: pb.OrderChange) -> pb.ApplyOrderChangeRequest:
    """A change as its customer agreed to it."""
    preview = await shop.orders.preview_order_change(
        pb.PreviewOrderChangeRequest(order_id=order_id, change=change), CALLER
    )
    charge = preview.charge.units * 100 + preview.charge.nanos // 10_000_000
    return pb.ApplyOrderChangeRequest(
        request_id=request_id(),
        order_id=order_id,
        change=change,
        etag=preview.etag,
        tenders=card(charge) if charge else [],
    )


@scenario("ApplyOrderChange", "less of one line, more of another")
async def _(stage: Stage, shop: Shop) -> Message:
    order = (await placed(shop)).order
    wanted = [pb.WantedQuantity(line_number=n, quantity=q) for n, q in ((1, 3), (2, 1))]
    return await previewed(shop, order.order_id, pb.OrderChange(quantities=pb.EditQuantities(lines=wanted)))


@scenario("ApplyOrderChange", "more, paid with a gift card", is_tight=True)
async def _(stage: Stage, shop: Shop) -> Message:
    await issue(shop, GIFT_CARD, 1000)
    order = (await placed(shop)).order
    lines = [pb.WantedQuantity(line_number=2, quantity=order.lines[1].quantity + 2)]
    request = await previewed(shop, order.order_id, pb.OrderChange(quantities=pb.EditQuantities(lines=lines)))
    request.tenders[0].CopyFrom(
        pb.Tender(kind=pb.TENDER_KIND_GIFT_CARD, amount=request.tenders[0].amount, gift_card_code=GIFT_CARD)
    )
    return request


@scenario("ApplyOrderChange", "a pickup at another store, of which a part is not there")
async def _(stage: Stage, shop: Shop) -> Message:
    order = (await shop.place({NORTH: {MILK: 4}})).order
    await shop.sell(NORTH, {MILK: 8}, 8 * 199)
    work = order.fulfillment_orders[0].fulfillment_order_id
    move = pb.MoveFulfillment(fulfillment_order_id=work, location_id=SOUTH)
    return await previewed(shop, order.order_id, pb.OrderChange(move=move))


@scenario("ApplyOrderChange", "a pickup that is sent instead")
async def _(stage: Stage, shop: Shop) -> Message:
    work, _ = await shop.ready({NORTH: {MILK: 2}})
    order_id = (await shop.orders.list_orders(pb.ListOrdersRequest(), CALLER)).orders[0].order_id
    move = pb.MoveFulfillment(fulfillment_order_id=work, kind=pb.FULFILLMENT_KIND_SHIP, ship_to=ADDRESS)
    return await previewed(shop, order_id, pb.OrderChange(move=move))


@scenario("PickFulfillmentOrder", "what was thought to be gone")
async def _(stage: Stage, shop: Shop) -> Message:
    work = fulfillment_of((await shop.place({NORTH: {MILK: 10}})).order, NORTH).fulfillment_order_id
    await shop.accept(work)
    await shop.sell(NORTH, {MILK: 2}, 2 * 199)
    return pb.PickFulfillmentOrderRequest(request_id=request_id(), fulfillment_order_id=work)


@scenario("DecideShortfall", "to wait for what comes in")
async def _(stage: Stage, shop: Shop) -> Message:
    order = (await shop.place({NORTH: {MILK: 10}})).order
    await shop.sell(NORTH, {MILK: 2}, 2 * 199)
    await shop.count(NORTH, {MILK: 8})
    (short,) = (f for work in (await shop.order(order.order_id)).fulfillment_orders for f in work.shortfalls)
    return pb.DecideShortfallRequest(
        request_id=request_id(), shortfall_id=short.shortfall_id, decision=pb.SHORTFALL_DECISION_WAIT
    )


async def rejected(shop: Shop) -> pb.Shortfall:
    """Milk that the north was asked for and does not find."""
    work = await work_of(shop)
    line = pb.RejectedLine(line_number=2, quantity=2, reason=pb.REJECT_REASON_NOT_FOUND)
    request = pb.RejectFulfillmentOrderRequest(request_id=request_id(), fulfillment_order_id=work, lines=[line])
    (part,) = (await shop.orders.reject_fulfillment_order(request, CALLER)).rejected
    return part.shortfalls[0]


@scenario("RejectFulfillmentOrder", "a part that is damaged, and one that nobody finds, also for others")
async def _(stage: Stage, shop: Shop) -> Message:
    work = fulfillment_of((await shop.place({NORTH: {MILK: 6, BREAD: 2}})).order, NORTH).fulfillment_order_id
    await shop.place({NORTH: {MILK: 4}})
    await shop.sell(NORTH, {MILK: 1}, 199)
    return pb.RejectFulfillmentOrderRequest(
        request_id=request_id(),
        fulfillment_order_id=work,
        lines=[
            pb.RejectedLine(line_number=1, quantity=1, reason=pb.REJECT_REASON_DAMAGED),
            pb.RejectedLine(line_number=2, quantity=5, reason=pb.REJECT_REASON_NOT_FOUND),
        ],
    )


@scenario("RejectFulfillmentOrder", "all of it, which others may buy")
async def _(stage: Stage, shop: Shop) -> Message:
    lines = [pb.RejectedLine(line_number=n, reason=pb.REJECT_REASON_CLOSED) for n in (1, 2)]
    return pb.RejectFulfillmentOrderRequest(
        request_id=request_id(), fulfillment_order_id=await work_of(shop), lines=lines
    )


def resource(shortfall_id: str) -> pb.DecideShortfallRequest:
    """The south brings it."""
    return pb.DecideShortfallRequest(
        request_id=request_id(),
        shortfall_id=shortfall_id,
        decision=pb.SHORTFALL_DECISION_RESOURCE,
        location_id=SOUTH,
    )


@scenario("DecideShortfall", "another location brings it")
async def _(stage: Stage, shop: Shop) -> Message:
    return resource((await rejected(shop)).shortfall_id)


# ---------------------------------------------------------------------------------------------------------------- sourcing
def source(lines: Mapping[str, int]) -> sourcing_pb2.SourceReservationRequest:
    """Where the policy says."""
    return sourcing_pb2.SourceReservationRequest(
        request_id=request_id(),
        channel=types_pb2.CHANNEL_WEB,
        method=pb.FULFILLMENT_KIND_SHIP,
        lines=[types_pb2.BasketLine(sku=sku, quantity=quantity) for sku, quantity in lines.items()],
    )


@scenario("SourceReservation", "from two locations")
async def _(stage: Stage, shop: Shop) -> Message:
    await shop.count(DEPOT, {MILK: 0, BREAD: 0})
    await shop.count(NORTH, {BREAD: 0})
    await shop.count(SOUTH, {MILK: 0})
    return source({MILK: 2, BREAD: 2})


@scenario("SourceReservation", "of more than there is", refusal="NOT_SOURCED")
async def _(stage: Stage, shop: Shop) -> Message:
    return source({MILK: 31})


@scenario("forgetting decisions", "of what became nothing", work=lambda app: app.decisions.forget())
async def _(stage: Stage, shop: Shop) -> None:
    (handler,) = (h for h in shop.handlers if isinstance(h, SourcedReservations))
    for _ in range(2):
        reservation = (await handler.source_reservation(source({MILK: 1}), CALLER)).reservation
    request = inventory_pb2.ReleaseReservationRequest(
        request_id=request_id(), reservation_id=reservation.reservation_id
    )
    await shop.promise.release_reservation(request, CALLER)
    await stage.keeper.execute("UPDATE sourcing_decisions SET look_time = now() - interval '1 hour'")


@scenario("DecideShortfall", "whom the policy chooses brings it")
async def _(stage: Stage, shop: Shop) -> Message:
    request = resource((await rejected(shop)).shortfall_id)
    request.ClearField("location_id")
    return request


@scenario("DecideShortfall", "two whom the policy chooses bring a part each")
async def _(stage: Stage, shop: Shop) -> Message:
    """By what each may take on in a day: what a crash leaves in the gate must not change whom a repeat chooses."""
    short = await rejected(shop)
    await stage.keeper.execute("UPDATE locations SET daily_units_max = 1")
    request = resource(short.shortfall_id)
    request.ClearField("location_id")
    request.kind = pb.FULFILLMENT_KIND_SHIP
    request.ship_to.CopyFrom(ADDRESS)
    return request


@scenario("DecideShortfall", "another location would bring it, and has it promised", refusal="INSUFFICIENT_STOCK")
async def _(stage: Stage, shop: Shop) -> Message:
    short = await rejected(shop)
    await shop.reserve({SOUTH: {MILK: 9}})
    return resource(short.shortfall_id)


@scenario("CancelOrderLines", "of which a part was rejected")
async def _(stage: Stage, shop: Shop) -> Message:
    short = await rejected(shop)
    lines = [pb.CancelLine(line_number=1, quantity=1), pb.CancelLine(line_number=2, quantity=1)]
    return pb.CancelOrderLinesRequest(request_id=request_id(), order_id=short.order_id, lines=lines)


@scenario("AcceptFulfillmentOrder", "a pickup")
async def _(stage: Stage, shop: Shop) -> Message:
    return pb.AcceptFulfillmentOrderRequest(request_id=request_id(), fulfillment_order_id=await work_of(shop))


@scenario("PickFulfillmentOrder", "a pickup")
async def _(stage: Stage, shop: Shop) -> Message:
    work = await work_of(shop)
    await shop.accept(work)
    return pb.PickFulfillmentOrderRequest(request_id=request_id(), fulfillment_order_id=work)


@scenario("MarkReadyForPickup", "a pickup")
async def _(stage: Stage, shop: Shop) -> Message:
    work = await work_of(shop)
    await shop.accept(work)
    await shop.pick(work)
    return pb.MarkReadyForPickupRequest(request_id=request_id(), fulfillment_order_id=work)


@scenario("HandOverFulfillmentOrder", "to who knows the code")
async def _(stage: Stage, shop: Shop) -> Message:
    work, code = await shop.ready({NORTH: {MILK: 2}})
    return pb.HandOverFulfillmentOrderRequest(request_id=request_id(), fulfillment_order_id=work, pickup_code=code)


@scenario("HandOverFulfillmentOrder", "a wrong code, counted once", refusal="PICKUP_CODE_WRONG")
async def _(stage: Stage, shop: Shop) -> Message:
    work, _ = await shop.ready({NORTH: {MILK: 2}})
    return pb.HandOverFulfillmentOrderRequest(
        request_id=request_id(), fulfillment_order_id=work, pickup_code="ZZZZZZZZ"
    )


@scenario("MarkReadyForPickup", "a part, of which a count missed some")
async def _(stage: Stage, shop: Shop) -> Message:
    work = await work_of(shop)
    await shop.accept(work)
    await shop.pick(work)
    await shop.count(NORTH, {MILK: 1})
    return pb.MarkReadyForPickupRequest(
        request_id=request_id(), fulfillment_order_id=work, lines=[pb.WorkLine(line_number=2, quantity=1)]
    )


@scenario("HandOverFulfillmentOrder", "a part, by identity, the rest cancelled")
async def _(stage: Stage, shop: Shop) -> Message:
    work, _ = await shop.ready({NORTH: {MILK: 2, BREAD: 1}})
    proofs = [pb.Proof(kind=pb.PROOF_KIND_GOVERNMENT_ID), pb.Proof(kind=pb.PROOF_KIND_CALL_BACK)]
    return pb.HandOverFulfillmentOrderRequest(
        request_id=request_id(),
        fulfillment_order_id=work,
        lines=[pb.WorkLine(line_number=2, quantity=1)],
        identity=pb.IdentityCheck(recipient="Ada", proofs=proofs),
        cancel_rest=True,
    )


def instead(work: str) -> pb.SubstituteLineRequest:
    """Bread for milk that nobody finds."""
    return pb.SubstituteLineRequest(
        request_id=request_id(),
        fulfillment_order_id=work,
        line_number=1,
        quantity=2,
        sku=BREAD,
        substitute_quantity=2,
        consent=pb.CONSENT_MESSAGE,
        reason=pb.REJECT_REASON_NOT_FOUND,
    )


@scenario("SubstituteLine", "of what is not found")
async def _(stage: Stage, shop: Shop) -> Message:
    return instead(fulfillment_of((await shop.place({NORTH: {MILK: 4}})).order, NORTH).fulfillment_order_id)


@scenario("SubstituteLine", "the ledger left the gate's epoch")
async def _(stage: Stage, shop: Shop) -> Message:
    request = instead(fulfillment_of((await shop.place({NORTH: {MILK: 4}})).order, NORTH).fulfillment_order_id)
    await stage.raise_epoch(NORTH)
    return request


def offer(work: str) -> pb.OfferSubstituteRequest:
    """Bread for milk that nobody finds, if the customer wants it."""
    return pb.OfferSubstituteRequest(
        request_id=request_id(),
        fulfillment_order_id=work,
        line_number=1,
        quantity=2,
        sku=BREAD,
        substitute_quantity=2,
        reason=pb.REJECT_REASON_NOT_FOUND,
        ttl_seconds=3 * 24 * 3600,
    )


async def offered(shop: Shop) -> dict[str, str]:
    """An answer to an offer, but for what it is."""
    work = fulfillment_of((await shop.place({NORTH: {MILK: 4}})).order, NORTH).fulfillment_order_id
    made = (await shop.orders.offer_substitute(offer(work), CALLER)).substitute_offer
    return {"request_id": request_id(), "substitute_offer_id": made.substitute_offer_id}


@scenario("OfferSubstitute", "for what is not found")
async def _(stage: Stage, shop: Shop) -> Message:
    return offer(fulfillment_of((await shop.place({NORTH: {MILK: 4}})).order, NORTH).fulfillment_order_id)


@scenario("AcceptSubstituteOffer", "for what is not found")
async def _(stage: Stage, shop: Shop) -> Message:
    return pb.AcceptSubstituteOfferRequest(**await offered(shop))


@scenario("DeclineSubstituteOffer", "which stood")
async def _(stage: Stage, shop: Shop) -> Message:
    return pb.DeclineSubstituteOfferRequest(**await offered(shop))


@scenario("WithdrawSubstituteOffer", "which stood")
async def _(stage: Stage, shop: Shop) -> Message:
    return pb.WithdrawSubstituteOfferRequest(**await offered(shop))


@scenario("jobs", "the end of an offer that nobody answered", work=lambda app: app.jobs.run_due())
async def _(stage: Stage, shop: Shop) -> None:
    await offered(shop)
    await shop.execute("UPDATE substitute_offers SET expires_time = now() - interval '1 second'")
    await shop.execute("UPDATE pgqueuer SET execute_after = now() - interval '1 second'")


@scenario("UnpickFulfillmentOrder", "a pickup that waits")
async def _(stage: Stage, shop: Shop) -> Message:
    work, _ = await shop.ready({NORTH: {MILK: 2}})
    return pb.UnpickFulfillmentOrderRequest(request_id=request_id(), fulfillment_order_id=work)


@scenario("MarkArrived", "at the curb")
async def _(stage: Stage, shop: Shop) -> Message:
    work, _ = await shop.ready({NORTH: {MILK: 2}})
    return pb.MarkArrivedRequest(request_id=request_id(), fulfillment_order_id=work, spot="4", note="red car")


@scenario("MarkNoShow", "of which a count missed a part")
async def _(stage: Stage, shop: Shop) -> Message:
    work, _ = await shop.ready({NORTH: {MILK: 4, BREAD: 1}})
    await shop.count(NORTH, {MILK: 3})
    return pb.MarkNoShowRequest(request_id=request_id(), fulfillment_order_id=work)


async def not_fetched(shop: Shop) -> str:
    """Work of the north whose goods stand aside."""
    work, _ = await shop.ready({NORTH: {MILK: 2, BREAD: 1}})
    request = pb.MarkNoShowRequest(request_id=request_id(), fulfillment_order_id=work)
    await shop.orders.mark_no_show(request, CALLER)
    return work


@scenario("PutAwayFulfillmentOrder", "one damaged, one that is not there")
async def _(stage: Stage, shop: Shop) -> Message:
    return pb.PutAwayFulfillmentOrderRequest(
        request_id=request_id(),
        fulfillment_order_id=await not_fetched(shop),
        lines=[pb.PutAwayLine(line_number=2, available_quantity=1, damaged_quantity=1)],
    )


@scenario("pickups", "one to remind of, one that nobody fetched", work=lambda app: app.pickups.sweep())
async def _(stage: Stage, shop: Shop) -> None:
    for hours in (1, -1):
        work, _ = await shop.ready({NORTH: {MILK: 2}})
        await shop.execute(
            "UPDATE fulfillment_orders SET hold_end_time = now() + make_interval(hours => $2) WHERE fulfillment_order_id = $1",
            work,
            hours,
        )


@scenario("ExtendPickupHold", "whose customer was reminded already")
async def _(stage: Stage, shop: Shop) -> Message:
    work, _ = await shop.ready({NORTH: {MILK: 2}})
    await shop.execute("UPDATE fulfillment_orders SET reminded_time = now() WHERE fulfillment_order_id = $1", work)
    later = datetime.now(UTC) + timedelta(days=9)
    return pb.ExtendPickupHoldRequest(request_id=request_id(), fulfillment_order_id=work, hold_end_time=later)


@scenario("ResetPickupCode", "of a pickup that waits")
async def _(stage: Stage, shop: Shop) -> Message:
    work, _ = await shop.ready({NORTH: {MILK: 2}})
    return pb.ResetPickupCodeRequest(request_id=request_id(), fulfillment_order_id=work)


async def shipped(shop: Shop) -> str:
    """Work of the north that is ready to leave by a carrier."""
    work = await work_of(shop, pb.FULFILLMENT_KIND_SHIP)
    await shop.accept(work)
    await shop.pick(work)
    return work


@scenario("ShipFulfillmentOrder", "with a carrier")
async def _(stage: Stage, shop: Shop) -> Message:
    return pb.ShipFulfillmentOrderRequest(
        request_id=request_id(),
        fulfillment_order_id=await shipped(shop),
        carrier="UPS",
        tracking_reference="1Z999",
    )


def packing(work: str) -> pb.PackFulfillmentOrderRequest:
    """Milk in one parcel, bread in another."""
    parcels = [pb.Parcel(lines=[pb.ParcelLine(line_number=n, quantity=q)]) for n, q in ((2, 2), (1, 1))]
    return pb.PackFulfillmentOrderRequest(request_id=request_id(), fulfillment_order_id=work, parcels=parcels)


@scenario("PackFulfillmentOrder", "in two parcels, instead of others")
async def _(stage: Stage, shop: Shop) -> Message:
    work = await shipped(shop)
    await shop.orders.pack_fulfillment_order(packing(work), CALLER)
    return packing(work)


@scenario("ShipFulfillmentOrder", "one of two parcels")
async def _(stage: Stage, shop: Shop) -> Message:
    packed = await shop.orders.pack_fulfillment_order(packing(await shipped(shop)), CALLER)
    return pb.ShipFulfillmentOrderRequest(
        request_id=request_id(),
        fulfillment_order_id=packed.fulfillment_order.fulfillment_order_id,
        carrier="UPS",
        tracking_reference="1Z999",
        shipment_id=packed.fulfillment_order.shipments[0].shipment_id,
    )


@scenario("ReturnUndelivered", "to another location, one damaged")
async def _(stage: Stage, shop: Shop) -> Message:
    work = await shipped(shop)
    await shop.ship(work)
    back = [(1, pb.DISPOSITION_AVAILABLE), (2, pb.DISPOSITION_AVAILABLE), (2, pb.DISPOSITION_DAMAGED)]
    return pb.ReturnUndeliveredRequest(
        request_id=request_id(),
        fulfillment_order_id=work,
        location_id=SOUTH,
        lines=[pb.ReturnedLine(line_number=n, quantity=1, disposition=d) for n, d in back],
    )


@scenario("DeliverFulfillmentOrder", "that was shipped")
async def _(stage: Stage, shop: Shop) -> Message:
    work = await shipped(shop)
    await shop.ship(work)
    return pb.DeliverFulfillmentOrderRequest(request_id=request_id(), fulfillment_order_id=work)


@scenario("CreateReturn", "paid by two means")
async def _(stage: Stage, shop: Shop) -> Message:
    request = sell({MILK: 3}, 297)
    request.tenders.append(tender("CASH", 300))
    order = (await shop.orders.sell(request, CALLER)).order
    return pb.CreateReturnRequest(
        request_id=request_id(),
        order_id=order.order_id,
        location_id=SOUTH,
        channel=types_pb2.CHANNEL_POS,
        lines=[pb.ReturnedLine(line_number=1, quantity=2, disposition=pb.DISPOSITION_AVAILABLE)],
    )


@scenario("CreateReturn", "elsewhere, one to sell again, one damaged")
async def _(stage: Stage, shop: Shop) -> Message:
    order = await shop.picked_up({NORTH: {MILK: 3}})
    return pb.CreateReturnRequest(
        request_id=request_id(),
        order_id=order.order_id,
        location_id=SOUTH,
        channel=types_pb2.CHANNEL_POS,
        lines=[
            pb.ReturnedLine(line_number=1, quantity=1, disposition=pb.DISPOSITION_AVAILABLE),
            pb.ReturnedLine(line_number=1, quantity=1, disposition=pb.DISPOSITION_DAMAGED),
        ],
    )


# ---------------------------------------------------------------------------------------------------------------- gateways
async def paid_by_gateway(
    shop: Shop,
    capture_at: str = "ONCE",
    kind: pb.FulfillmentKind.ValueType = pb.FULFILLMENT_KIND_PICKUP,
    method: str = "pm_1",
) -> pb.PlaceOrderRequest:
    """Two units of milk and one of bread, by a card that a gateway charges, a gift card, and what somebody took."""
    await issue(shop, GIFT_CARD, 1000)
    reservation_id = await shop.reserve({NORTH: {MILK: 2, BREAD: 1}})
    tenders = [
        tender("CARD", 400, payment_method=method, capture_at=pb.CaptureAt.Value(f"CAPTURE_AT_{capture_at}")),
        tender("GIFT_CARD", 200, gift_card_code=GIFT_CARD),
        tender("OTHER", 48),
    ]
    return shop.place_request(reservation_id, {NORTH: kind}, 648, tenders=tenders)


@scenario("PlaceOrder", "from a cart, paid by a gateway, a gift card and otherwise", is_carried_on=True)
async def _(stage: Stage, shop: Shop) -> Message:
    request = await paid_by_gateway(shop)
    request.cart_id = await shop.cart({MILK: 2, BREAD: 1})
    return request


@scenario("jobs", "a checkout of a cart that a gateway declines", work=lambda app: app.jobs.run_due())
async def _(stage: Stage, shop: Shop) -> None:
    request = await paid_by_gateway(shop, method=DECLINED_CARD)
    request.cart_id = await shop.cart({MILK: 2, BREAD: 1})
    GATEWAY.faults = ["silent"]
    assert (await told(shop.orders.place_order(request, CALLER)))[0] == "PAYMENT_PENDING"
    await stage.keeper.execute("UPDATE pgqueuer SET execute_after = now() - interval '1 hour'")


async def more_by_gateway(shop: Shop, method: str = "pm_1") -> pb.ApplyOrderChangeRequest:
    """Two loaves more, by a card that a gateway charges and a gift card."""
    await issue(shop, GIFT_CARD, 1000)
    order = (await placed(shop)).order
    (number,) = (line.line_number for line in order.lines if line.sku == BREAD)
    lines = [pb.WantedQuantity(line_number=number, quantity=3)]
    request = await previewed(shop, order.order_id, pb.OrderChange(quantities=pb.EditQuantities(lines=lines)))
    del request.tenders[:]
    request.tenders.add().CopyFrom(tender("CARD", 400, payment_method=method))
    request.tenders.add().CopyFrom(tender("GIFT_CARD", 100, gift_card_code=GIFT_CARD))
    return request


@scenario("ApplyOrderChange", "more, paid by a gateway and a gift card", is_carried_on=True)
async def _(stage: Stage, shop: Shop) -> Message:
    return await more_by_gateway(shop)


@scenario("jobs", "a change that a gateway declines", work=lambda app: app.jobs.run_due())
async def _(stage: Stage, shop: Shop) -> None:
    request = await more_by_gateway(shop, DECLINED_CARD)
    GATEWAY.faults = ["silent"]
    assert (await told(shop.orders.apply_order_change(request, CALLER)))[0] == "PAYMENT_PENDING"
    await stage.keeper.execute("UPDATE pgqueuer SET execute_after = now() - interval '1 hour'")


@scenario("AddCartLine", "to a cart whose gateway was silent until its reservation was over")
async def _(stage: Stage, shop: Shop) -> Message:
    request = await paid_by_gateway(shop)
    request.cart_id = await shop.cart({MILK: 2, BREAD: 1})
    GATEWAY.faults = ["silent"]
    assert (await told(shop.orders.place_order(request, CALLER)))[0] == "PAYMENT_PENDING"
    await stage.pass_deadline(request.reservation_id)
    await shop.app.sweeper.expire()
    line = types_pb2.BasketLine(sku=MILK, quantity=2)
    return cart_pb2.AddCartLineRequest(request_id=request_id(), cart_id=request.cart_id, line=line)


@scenario("CancelOrderLines", "of what a gateway authorized")
async def _(stage: Stage, shop: Shop) -> Message:
    order = (await shop.orders.place_order(await paid_by_gateway(shop, "FULFILLMENT"), CALLER)).order
    lines = [pb.CancelLine(line_number=line.line_number, quantity=line.quantity) for line in order.lines]
    return pb.CancelOrderLinesRequest(request_id=request_id(), order_id=order.order_id, lines=lines)


@scenario("ShipFulfillmentOrder", "captured by a gateway when it leaves")
async def _(stage: Stage, shop: Shop) -> Message:
    request = await paid_by_gateway(shop, "FULFILLMENT", pb.FULFILLMENT_KIND_SHIP)
    order = (await shop.orders.place_order(request, CALLER)).order
    work = fulfillment_of(order, NORTH).fulfillment_order_id
    await shop.accept(work)
    await shop.pick(work)
    return pb.ShipFulfillmentOrderRequest(
        request_id=request_id(), fulfillment_order_id=work, carrier="UPS", tracking_reference="1Z999"
    )


@scenario("CreateReturn", "refunded by a gateway, behind a capture that is open")
async def _(stage: Stage, shop: Shop) -> Message:
    placed = await shop.orders.place_order(await paid_by_gateway(shop), CALLER)
    (code,) = placed.pickup_codes
    for step in (shop.accept, shop.pick, shop.mark_ready):
        await step(code.fulfillment_order_id)
    await shop.hand_over(code.fulfillment_order_id, code.pickup_code)
    return pb.CreateReturnRequest(
        request_id=request_id(),
        order_id=placed.order.order_id,
        location_id=SOUTH,
        channel=types_pb2.CHANNEL_POS,
        lines=[pb.ReturnedLine(line_number=2, quantity=2, disposition=pb.DISPOSITION_AVAILABLE)],
    )


@scenario("jobs", "a capture by a gateway", work=lambda app: app.jobs.run_due())
async def _(stage: Stage, shop: Shop) -> None:
    await shop.orders.place_order(await paid_by_gateway(shop), CALLER)


@scenario(
    "jobs",
    "a checkout whose goods went meanwhile, and that another location brings",
    work=lambda app: app.jobs.run_due(),
)
async def _(stage: Stage, shop: Shop) -> None:
    await paid_and_lost(stage, shop)


@scenario("jobs", "goods of a paid order that nobody brings", work=lambda app: app.jobs.run_due())
async def _(stage: Stage, shop: Shop) -> None:
    for place in (SOUTH, DEPOT):
        await shop.sell(place, {MILK: 10}, 1990)
    await paid_and_lost(stage, shop)
    await shop.app.jobs.run_due()  # it is placed; what it lacks is looked for by another job


async def paid_and_lost(stage: Stage, shop: Shop) -> None:
    """Nobody knows yet whether it is paid, and a customer left with what it was to bring."""
    request = await paid_by_gateway(shop, kind=pb.FULFILLMENT_KIND_SHIP)
    GATEWAY.faults = ["acts"]
    assert (await told(shop.orders.place_order(request, CALLER)))[0] == "PAYMENT_PENDING"
    await shop.sell(NORTH, {MILK: 9}, 9 * 199)
    await stage.keeper.execute("UPDATE pgqueuer SET execute_after = now() - interval '1 hour'")


@scenario("jobs", "an authorization that ends before the goods leave", work=lambda app: app.jobs.run_due())
async def _(stage: Stage, shop: Shop) -> None:
    await shop.orders.place_order(await paid_by_gateway(shop, "FULFILLMENT"), CALLER)
    await stage.keeper.execute("UPDATE pgqueuer SET execute_after = now() - interval '1 hour'")


@scenario("HandleWebhook", "about a capture that is open")
async def _(stage: Stage, shop: Shop) -> Message:
    order = (await shop.orders.place_order(await paid_by_gateway(shop), CALLER)).order
    return payment_pb2.HandleWebhookRequest(
        request_id=request_id(),
        provider=payment_pb2.PAYMENT_PROVIDER_STRIPE,
        body=f"{order.order_id}/1".encode(),
        signature=SIGNED,
    )


@scenario("SettleRefund", "that a gateway declined, once more")
async def _(stage: Stage, shop: Shop) -> Message:
    placed = await shop.orders.place_order(await paid_by_gateway(shop), CALLER)
    await shop.app.jobs.run_due()
    await shop.cancel(placed.order.order_id, {1: 1, 2: 2})
    GATEWAY.faults = ["no"]
    await shop.app.jobs.run_due()
    (declined,) = [o for p in await payments(shop, placed.order.order_id) for o in p.operations if o.detail]
    return payment_pb2.SettleRefundRequest(
        request_id=request_id(),
        operation_id=declined.operation_id,
        settlement=payment_pb2.REFUND_SETTLEMENT_RETRY,
    )


@scenario("pruning the log of jobs", "of long ago", work=lambda app: app.jobs.prune())
async def _(stage: Stage, shop: Shop) -> None:
    await shop.orders.place_order(await paid_by_gateway(shop), CALLER)
    await shop.app.jobs.run_due()
    await stage.keeper.execute("UPDATE pgqueuer_log SET created = now() - interval '31 days'")
