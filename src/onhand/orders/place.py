"""PlaceOrder: a reservation becomes an order, in one ledger transaction: its own, or that of a round (`placing`).

Where a gateway pays, `checkouts` stands around `place`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from google.protobuf.json_format import MessageToDict

from onhand import carts, catalog
from onhand.caller import Caller
from onhand.domain import money
from onhand.domain.cart import CartLine, UnitPrice
from onhand.domain.errors import (
    CartChanged,
    CartOfAnotherCustomer,
    CartTotalChanged,
    CurrencyMismatch,
    FulfillmentChoiceMismatch,
    FulfillmentNotOffered,
    PriceNotFound,
    ReservationOfAnotherCustomer,
    ReservationShort,
    Short,
    TotalChanged,
    invalid,
)
from onhand.domain.lost_stock import LostStockPolicy
from onhand.domain.order import INITIAL, FulfillmentKind, OrderState
from onhand.domain.shortage import FIRST_STEP, Promise, ShortfallCause
from onhand.domain.stock import Bucket, Movement, Position, sum_lines
from onhand.ids import new_id, parse_id
from onhand.ledger import shortfalls
from onhand.ledger.claims import ConfirmedClaim
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.orders import codes, names, payments, store
from onhand.orders.queries import read_order
from onhand.orders.store import NewFulfillment, NewLine, NewOrder
from onhand.sourcing.capacity import take_on
from onhand.v1 import order_pb2 as pb
from onhand.wire import money_from_wire

REASON = "ORDER_PLACED"
"""Of the movements that promise units to an order."""


@dataclass(frozen=True)
class Checkout:
    """What a request asks for, as far as it can be read without the ledger."""

    request: pb.PlaceOrderRequest
    actor: str
    reservation_id: UUID
    cart_id: UUID | None
    choices: dict[str, FulfillmentKind]
    gift_cards: Mapping[int, bytes]


def checkout(request: pb.PlaceOrderRequest, caller: Caller) -> Checkout:
    """Raises `InvalidRequest`, `CurrencyUnknown`."""
    reservation_id = parse_id("reservation_id", request.reservation_id)
    cart_id = parse_id("cart_id", request.cart_id) if request.cart_id else None
    choices = _choices(request)
    if cart_id is None and not request.currency_code:
        raise invalid("currency_code", "must be given where there is no cart")
    if request.currency_code:
        money.exponent(request.currency_code)
    cards = payments.gift_cards_of(request.tenders)
    return Checkout(request, caller.actor, reservation_id, cart_id, choices, cards)


async def place_alone(ledger: Ledger, wanted: Checkout) -> pb.PlaceOrderResponse:
    """Places an order in a transaction of its own, and says why it is refused."""

    async def work(tx: Transaction) -> pb.PlaceOrderResponse:
        return await place(tx, wanted, new_id())

    return await ledger.mutate(wanted.request, pb.PlaceOrderResponse, work)


async def place(
    tx: Transaction,
    wanted: Checkout,
    order_id: UUID,
    capture: Callable[[Transaction, NewOrder], Awaitable[None]] | None = None,
    agreed: Mapping[str, UnitPrice] | None = None,
    lost: LostStockPolicy | None = None,
) -> pb.PlaceOrderResponse:
    """Places an order, whatever a gateway pays of it authorized before; and says why it is refused.

    `capture` is called once it is written, before levels are locked. `agreed`: what skus cost, where that was settled before.
    `lost`: what becomes of it where goods in somebody's hand went first; without, nothing is ordered.
    """
    claims = await tx.confirm_reservation(wanted.reservation_id, order_id)
    order, pickup_codes = await priced(tx, wanted, order_id, claims, agreed)
    await store.insert_order(tx.connection, order)
    await payments.redeem(tx, order)
    if capture is not None:
        await capture(tx, order)
    if wanted.cart_id is not None:
        await carts.mark_ordered(tx.connection, wanted.cart_id, order_id)
    for event in events_of(order):
        tx.emit(*event)
    placed = await read_order(tx.connection, order_id)
    # Last, for the levels of a hot sku are locked from here to the commit.
    if await _allocate(tx, claims, order, wanted, lost or LostStockPolicy()):
        placed = await read_order(tx.connection, order_id)
    return pb.PlaceOrderResponse(order=placed, pickup_codes=pickup_codes)


async def priced(
    tx: Transaction,
    wanted: Checkout,
    order_id: UUID,
    claims: Sequence[ConfirmedClaim],
    agreed: Mapping[str, UnitPrice] | None = None,
) -> tuple[NewOrder, list[pb.PickupCode]]:
    """The order that claims become, at today's prices unless others were agreed to; its cart and its gift cards are locked."""
    check_reservation(wanted, claims)
    prices = agreed
    if wanted.cart_id is not None:
        cart = await carts.read_cart_for_order(tx.connection, wanted.cart_id, order_id)
        if agreed is not None:
            cart = carts.priced(cart, agreed)
    else:
        cart = None
        if prices is None:
            prices = await catalog.read_prices(tx.connection, wanted.request.currency_code, reserved(claims))
    order, pickup_codes = new_order(wanted, order_id, claims, cart, prices or {})
    if refused := await store.not_offered(tx.connection, wanted.choices.items()):
        raise FulfillmentNotOffered(*refused)
    await take_on(tx, order_id, units_at(claims))
    return await payments.with_gift_cards(tx, order), pickup_codes


def check_reservation(wanted: Checkout, claims: Sequence[ConfirmedClaim]) -> None:
    """Raises `FulfillmentChoiceMismatch`, `ReservationOfAnotherCustomer`."""
    places = sorted(claim.location_id for claim in claims)
    if places != sorted(wanted.choices):
        raise FulfillmentChoiceMismatch(
            str(wanted.reservation_id), ", ".join(places), ", ".join(sorted(wanted.choices))
        )
    if claims[0].customer_id and wanted.request.customer_id not in ("", claims[0].customer_id):
        raise ReservationOfAnotherCustomer(str(wanted.reservation_id))


def new_order(
    wanted: Checkout,
    order_id: UUID,
    claims: Sequence[ConfirmedClaim],
    cart: carts.CartForOrder | None,
    prices: Mapping[str, UnitPrice],
) -> tuple[NewOrder, list[pb.PickupCode]]:
    """The order that a reservation, checked before, becomes; `prices` are used where there is no cart.

    Raises `CartOfAnotherCustomer`, `CurrencyMismatch`, `CartChanged`, `CartTotalChanged`, `PriceNotFound`, `TotalChanged`,
    `TendersMismatch`.
    """
    request, held = wanted.request, reserved(claims)
    customer_id = request.customer_id or claims[0].customer_id
    priced: Sequence[CartLine]
    if cart is None:
        currency = request.currency_code
        priced = [CartLine(sku, quantity, prices.get(sku)) for sku, quantity in held.items()]
    else:
        customer_id = customer_id or cart.customer_id
        if cart.customer_id not in ("", customer_id):
            raise CartOfAnotherCustomer(str(cart.cart_id))
        if request.currency_code not in ("", cart.currency):
            raise CurrencyMismatch(cart.currency, request.currency_code)
        _check_cart(cart, held)
        currency, priced = cart.currency, cart.lines
    lines = [_line(number, line, currency) for number, line in enumerate(priced, start=1)]
    total_minor = money.checked(sum(line.total_minor for line in lines))
    _check_total(request, total_minor, currency)
    tenders = payments.tenders(request.tenders, wanted.gift_cards, currency, total_minor)
    number_of = {line.sku: line.line_number for line in lines}
    pickup_codes: list[pb.PickupCode] = []
    order = NewOrder(
        order_id=order_id,
        order_number=codes.new_order_number(),
        customer_id=customer_id,
        channel=claims[0].channel,
        currency=currency,
        state=OrderState.OPEN,
        lines=lines,
        fulfillments=[
            _fulfillment(claim, wanted.choices[claim.location_id], number_of, pickup_codes) for claim in claims
        ],
        tenders=tenders,
        actor=wanted.actor,
        cart_id=wanted.cart_id,
        reservation_id=wanted.reservation_id,
        ship_to=MessageToDict(request.ship_to, preserving_proto_field_name=True)
        if request.HasField("ship_to")
        else None,
    )
    return order, pickup_codes


def reserved(claims: Iterable[ConfirmedClaim]) -> dict[str, int]:
    """The units that claims hold, by sku."""
    return dict(sum_lines(line for claim in claims for line in claim.lines))


def units_at(claims: Iterable[ConfirmedClaim]) -> dict[str, int]:
    """The units that claims hold, by location."""
    return {claim.location_id: sum(quantity for _, quantity in claim.lines) for claim in claims}


def _choices(request: pb.PlaceOrderRequest) -> dict[str, FulfillmentKind]:
    choices: dict[str, FulfillmentKind] = {}
    for index, choice in enumerate(request.fulfillments):
        kind = names.fulfillment_kind(f"fulfillments[{index}].kind", choice.kind)
        if kind is FulfillmentKind.CARRY_OUT:
            raise invalid(f"fulfillments[{index}].kind", "must be PICKUP or SHIP; Sell records what is carried out")
        if choice.location_id in choices:
            raise invalid(f"fulfillments[{index}].location_id", f"{choice.location_id} is given twice")
        choices[choice.location_id] = kind
    if FulfillmentKind.SHIP in choices.values() and not request.HasField("ship_to"):
        raise invalid("ship_to", "must be given where anything is shipped")
    return choices


def _check_cart(cart: carts.CartForOrder, reserved: dict[str, int]) -> None:
    in_cart = {line.sku: line.quantity for line in cart.lines}
    for sku in sorted(in_cart.keys() | reserved.keys()):
        if in_cart.get(sku, 0) != reserved.get(sku, 0):
            raise CartChanged(str(cart.cart_id), sku, in_cart.get(sku, 0), reserved.get(sku, 0))


def _check_total(request: pb.PlaceOrderRequest, total_minor: int, currency: str) -> None:
    if not request.HasField("expected_total"):
        return
    expected_minor, expected_currency = money_from_wire("expected_total", request.expected_total)
    if expected_currency != currency:
        raise CurrencyMismatch(currency, expected_currency)
    if expected_minor != total_minor:
        if request.cart_id:
            raise CartTotalChanged(request.cart_id, expected_minor, total_minor, currency)
        raise TotalChanged(expected_minor, total_minor, currency)


def _line(number: int, line: CartLine, currency: str) -> NewLine:
    price, total_minor = line.price, line.total_minor
    if price is None or total_minor is None:
        raise PriceNotFound(line.sku, currency)
    return NewLine(number, line.sku, line.quantity, price.amount_minor, price.price_quantity, total_minor)


async def _allocate(
    tx: Transaction, claims: Sequence[ConfirmedClaim], order: NewOrder, wanted: Checkout, lost: LostStockPolicy
) -> bool:
    """Promises the claimed units; whether some are not there and wait for what comes in (a backorder).

    Goods in a customer's hand may have gone first: then nothing is ordered, unless the policy for what is lost has it so. Where
    they did, or where backorder is permitted, older reservations have what is left before this one.
    """
    document = f"order/{order.order_id}"
    units = [(claim, sku, quantity) for claim in claims for sku, quantity in claim.lines]
    levels = await tx.lock_levels((claim.location_id, sku) for claim, sku, _ in units)
    left = {position: level.available for position, level in levels.items()}
    overdrawn = [
        (claim.location_id, sku, claim.claim_id)
        for claim, sku, _ in units
        if tx.is_overdrawn((claim.location_id, sku)) or tx.policy((claim.location_id, sku)).backorder_limit
    ]
    if overdrawn:
        for position, needed in (await shortfalls.needed_by_older(tx.connection, overdrawn)).items():
            left[position] = max(0, left[position] - needed)
    owed = {
        (claim.location_id, sku): quantity - left[claim.location_id, sku]
        for claim, sku, quantity in units
        if left[claim.location_id, sku] < quantity
    }
    beyond = {p for p, rest in owed.items() if not (wanted.request.accepts_backorder and rest <= tx.policy(p).room)}
    shorts = tuple(
        Short(claim.location_id, sku, quantity, left[claim.location_id, sku])
        for claim, sku, quantity in units
        if (claim.location_id, sku) in beyond
    )
    if shorts and not lost.is_placed:
        raise ReservationShort(shorts)
    await tx.post(
        [
            Movement(
                claim.location_id,
                sku,
                there,
                Bucket.AVAILABLE,
                Bucket.ALLOCATED,
                REASON,
                document,
                claim.channel,
                wanted.actor,
            )
            for claim, sku, quantity in units
            if (there := quantity - owed.get((claim.location_id, sku), 0))
        ]
    )
    await _promise_absent(tx, order, owed, beyond, lost)
    return bool(owed)


async def _promise_absent(
    tx: Transaction, order: NewOrder, owed: Mapping[Position, int], beyond: Collection[Position], lost: LostStockPolicy
) -> None:
    """Writes down what a new order lacks: what its customer waits for, and what was lost (`beyond`)."""
    missing = []
    for fulfillment in order.fulfillments:
        for line_number, sku, _ in fulfillment.parts:
            position = fulfillment.location_id, sku
            if not (rest := owed.get(position, 0)):
                continue
            cause, first_step = ShortfallCause.BACKORDER, FIRST_STEP[ShortfallCause.BACKORDER]
            if position in beyond:
                cause, first_step = ShortfallCause.LOST, lost.first_step
                missing.append({"line_number": line_number, "location_id": position[0], "sku": sku, "quantity": rest})
            promise = Promise(fulfillment.fulfillment_order_id, line_number, False, rest)
            await shortfalls.open_backorders(tx, position, [promise], f"order/{order.order_id}", cause, first_step)
    if missing:
        data = {
            "order_id": str(order.order_id),
            "order_number": order.order_number,
            "customer_id": order.customer_id,
            "lines": missing,
            "policy": str(lost),
            "actor": order.actor,
        }
        tx.emit("onhand.order.lost_stock.v1", f"order/{order.order_id}", data)


def _fulfillment(
    claim: ConfirmedClaim, kind: FulfillmentKind, number_of: dict[str, int], pickup_codes: list[pb.PickupCode]
) -> NewFulfillment:
    """The work for one location; a pickup's code is added to the list, and only its hash is kept."""
    fulfillment_order_id, salt, code_hash = new_id(), None, None
    if kind is FulfillmentKind.PICKUP:
        code = codes.new_pickup_code()
        salt, code_hash = codes.salted(code)
        pickup_codes.append(
            pb.PickupCode(
                fulfillment_order_id=str(fulfillment_order_id), location_id=claim.location_id, pickup_code=code
            )
        )
    parts = [(number_of[sku], sku, quantity) for sku, quantity in claim.lines]
    return NewFulfillment(fulfillment_order_id, claim.location_id, kind, INITIAL[kind], parts, salt, code_hash)


def events_of(order: NewOrder) -> list[tuple[str, str, dict[str, Any], str | None]]:
    """What is told of a new order: (type, subject, data, location)."""
    events: list[tuple[str, str, dict[str, Any], str | None]] = [
        (
            "onhand.order.placed.v1",
            f"order/{order.order_id}",
            {
                "order_id": str(order.order_id),
                "order_number": order.order_number,
                "customer_id": order.customer_id,
                "channel": order.channel,
                "currency": order.currency,
                "total_minor": order.total_minor,
                "lines": [{"line_number": n.line_number, "sku": n.sku, "quantity": n.quantity} for n in order.lines],
                "actor": order.actor,
            },
            None,
        )
    ]
    for fulfillment in order.fulfillments:
        events.append(
            (
                "onhand.fulfillment_order.requested.v1",
                f"fulfillment_order/{fulfillment.fulfillment_order_id}",
                {
                    "fulfillment_order_id": str(fulfillment.fulfillment_order_id),
                    "order_id": str(order.order_id),
                    "kind": fulfillment.kind.value,
                    "lines": [{"line_number": n, "sku": sku, "quantity": q} for n, sku, q in fulfillment.parts],
                },
                fulfillment.location_id,
            )
        )
    return events
