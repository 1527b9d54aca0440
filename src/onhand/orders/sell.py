"""Sell: goods in the customer's hand. Possession wins: whatever the ledger believed, the sale is recorded as it happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from onhand import catalog
from onhand.caller import Caller
from onhand.domain import money
from onhand.domain.cart import CartLine, UnitPrice
from onhand.domain.errors import CurrencyMismatch, PriceNotFound, invalid
from onhand.domain.order import INITIAL, FulfillmentKind, OrderState
from onhand.domain.shortage import ShortfallCause, broken_reservations
from onhand.domain.stock import Bucket, Level, Movement, Position, sale_movements, sum_lines
from onhand.ids import new_id
from onhand.ledger import shortfalls
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.orders import codes, payments, store
from onhand.orders.queries import read_order
from onhand.orders.store import NewFulfillment, NewLine, NewOrder
from onhand.reservations.claims import Wants
from onhand.v1 import order_pb2 as pb
from onhand.wire import moment, money_from_wire

CHANNEL = "POS"
REASON = "SALE"
"""Of the movements of a sale (onhand.domain.stock)."""
COUNT_REASON = "SOLD_BEYOND_STOCK"


@dataclass(frozen=True)
class Sold:
    """A line as scanned, its barcode resolved. `charged_minor`: what the till took for it, if it said so."""

    sku: str
    quantity: int
    charged_minor: int | None


@dataclass(frozen=True)
class Till:
    """What a till sends, as far as it can be read without the ledger."""

    request: pb.SellRequest
    actor: str
    occurred: datetime | None


def till(request: pb.SellRequest, caller: Caller) -> Till:
    """Raises `InvalidRequest`, `CurrencyUnknown`."""
    money.exponent(request.currency_code)
    if payments.is_paid_outside(request.tenders):
        raise invalid("tenders", "must not have a payment_method: what a till takes it has taken already")
    occurred = moment("occurred_time", request.occurred_time) if request.HasField("occurred_time") else None
    return Till(request, caller.actor, occurred)


async def resolve(ledger: Ledger, request: pb.SellRequest) -> list[Sold]:
    """The lines of a sale. Raises what `sold_lines` does, `BarcodeInvalid`, `BarcodeNotFound`."""
    barcodes = [line.barcode for line in request.lines if line.WhichOneof("item") == "barcode"]
    skus: dict[str, str] = {}
    if barcodes:
        async with ledger.read() as connection:
            skus = await catalog.read_barcodes(connection, barcodes)
    return sold_lines(request, skus)


def sold_lines(request: pb.SellRequest, skus: Mapping[str, str]) -> list[Sold]:
    """The lines of a sale; `skus` are of its barcodes. Raises `InvalidRequest`, `CurrencyMismatch`."""
    sold = []
    for index, line in enumerate(request.lines):
        sku = line.sku or skus.get(line.barcode, "")
        if not sku:
            raise invalid(f"lines[{index}]", "must name a sku or a barcode")
        charged_minor = None
        if line.HasField("total"):
            charged_minor, currency = money_from_wire(f"lines[{index}].total", line.total)
            if currency != request.currency_code:
                raise CurrencyMismatch(request.currency_code, currency)
        sold.append(Sold(sku, line.quantity, charged_minor))
    return sold


def takes_of(request: pb.SellRequest, sold: Sequence[Sold]) -> Wants:
    """What a sale takes from its location."""
    return [(request.location_id, sum_lines((line.sku, line.quantity) for line in sold))]


def new_sale(wanted: Till, order_id: UUID, sold: Sequence[Sold], prices: Mapping[str, UnitPrice]) -> NewOrder:
    """The order that a sale is. Raises `PriceNotFound`, `AmountTooLarge`, and what is wrong about its tenders."""
    request, kind = wanted.request, FulfillmentKind.CARRY_OUT
    lines = _priced(request.currency_code, sold, prices)
    return NewOrder(
        order_id=order_id,
        order_number=codes.new_order_number(),
        customer_id=request.customer_id,
        channel=CHANNEL,
        currency=request.currency_code,
        state=OrderState.COMPLETED,
        lines=lines,
        fulfillments=[
            NewFulfillment(
                new_id(),
                request.location_id,
                kind,
                INITIAL[kind],
                [(line.line_number, line.sku, line.quantity) for line in lines],
            )
        ],
        tenders=payments.tenders(
            request.tenders,
            payments.gift_cards_of(request.tenders),
            request.currency_code,
            sum(line.total_minor for line in lines),
        ),
        actor=wanted.actor,
        placed_time=wanted.occurred,
    )


def event_of(order: NewOrder) -> tuple[str, str, dict[str, Any], str | None]:
    """What is told of a sale: (type, subject, data, location)."""
    return (
        "onhand.sale.recorded.v1",
        f"order/{order.order_id}",
        {
            "order_id": str(order.order_id),
            "order_number": order.order_number,
            "customer_id": order.customer_id,
            "channel": CHANNEL,
            "currency": order.currency,
            "total_minor": order.total_minor,
            "lines": [{"line_number": n.line_number, "sku": n.sku, "quantity": n.quantity} for n in order.lines],
            "actor": order.actor,
        },
        order.fulfillments[0].location_id,
    )


async def record(
    tx: Transaction, wanted: Till, sold: Sequence[Sold], overdrawn: Mapping[Position, int]
) -> pb.SellResponse:
    """Records a sale in a transaction of its own."""
    request, order_id = wanted.request, new_id()
    document = f"order/{order_id}"
    if payments.is_recorded_only(request.tenders):
        # First of all, so that an unknown location or sku is refused as such.
        levels, order = await _lock(tx, request, sold), await _priced_sale(tx, wanted, order_id, sold)
    else:  # gift cards are locked before levels
        order = await payments.with_gift_cards(tx, await _priced_sale(tx, wanted, order_id, sold))
        levels = await _lock(tx, request, sold)
    await store.insert_order(tx.connection, order)
    await payments.redeem(tx, order)
    movements = sale_movements(
        levels,
        [(location_id, sku, quantity) for location_id, lines in takes_of(request, sold) for sku, quantity in lines],
        reference_document=document,
        channel=CHANNEL,
        actor=wanted.actor,
        occurred_time=wanted.occurred,
    )
    await tx.post(movements)
    await _mend(tx, document, levels, movements, overdrawn, wanted.actor)
    tx.emit(*event_of(order))
    return pb.SellResponse(order=await read_order(tx.connection, order_id))


async def _lock(tx: Transaction, request: pb.SellRequest, sold: Sequence[Sold]) -> dict[Position, Level]:
    return await tx.lock_levels(((request.location_id, line.sku) for line in sold), create=True)


async def total_of(tx: Transaction, currency: str, sold: Sequence[Sold]) -> int:
    """What goods cost, by the catalog or as they were charged. Raises `PriceNotFound`, `AmountTooLarge`."""
    return sum(line.total_minor for line in _priced(currency, sold, await _prices(tx, currency, sold)))


async def _priced_sale(tx: Transaction, wanted: Till, order_id: UUID, sold: Sequence[Sold]) -> NewOrder:
    return new_sale(wanted, order_id, sold, await _prices(tx, wanted.request.currency_code, sold))


async def _prices(tx: Transaction, currency: str, sold: Sequence[Sold]) -> dict[str, UnitPrice]:
    unpriced = {line.sku for line in sold if line.charged_minor is None}
    return await catalog.read_prices(tx.connection, currency, unpriced) if unpriced else {}


def _priced(currency: str, sold: Sequence[Sold], prices: Mapping[str, UnitPrice]) -> list[NewLine]:
    lines = []
    for number, line in enumerate(sold, start=1):
        if line.charged_minor is not None:
            # Kept as a price for the whole quantity, which is exact.
            lines.append(
                NewLine(number, line.sku, line.quantity, line.charged_minor, line.quantity, line.charged_minor)
            )
            continue
        price = prices.get(line.sku)
        total_minor = CartLine(line.sku, line.quantity, price).total_minor
        if price is None or total_minor is None:
            raise PriceNotFound(line.sku, currency)
        lines.append(NewLine(number, line.sku, line.quantity, price.amount_minor, price.price_quantity, total_minor))
    return lines


async def _mend(
    tx: Transaction,
    document: str,
    levels: Mapping[Position, Level],
    movements: list[Movement],
    overdrawn: Mapping[Position, int],
    actor: str,
) -> None:
    """Asks for a count where the ledger was wrong or the gate overdrawn, and writes down whose promises broke."""
    found = {(m.location_id, m.sku): m.quantity for m in movements if m.from_bucket is Bucket.ADJUSTMENT}
    wrong = sorted(found.keys() | {position for position, units in overdrawn.items() if units > 0})
    if not wrong:
        return
    reserved = {p: broken_reservations(overdrawn=overdrawn.get(p, 0), found=found.get(p, 0)) for p in wrong}
    if any(reserved.values()):
        await shortfalls.mark_overdrawn(tx, {p: levels[p] for p in wrong if reserved[p]})
    broken = reserved.copy()
    for position in wrong:
        # What was found may well have been put aside for somebody.
        if found.get(position) and levels[position].allocated:
            broken[position] += await shortfalls.open_shortfalls(
                tx, position, found[position], cause=ShortfallCause.SALE, reference=document, actor=actor
            )
    await store.open_count_tasks(tx.connection, [(new_id(), *p) for p in wrong], COUNT_REASON, document)
    await store.insert_shortages(tx.connection, [(new_id(), *p, broken[p]) for p in wrong if broken[p]], document)
    for position in wrong:
        location_id, sku = position
        tx.emit(
            "onhand.stock.shortage.v1",
            f"location/{location_id}/sku/{sku}",
            {
                "location_id": location_id,
                "sku": sku,
                "reference_document": document,
                "overdrawn": overdrawn.get(position, 0),
                "found": found.get(position, 0),
                "quantity": broken[position],
            },
            location_id,
        )
