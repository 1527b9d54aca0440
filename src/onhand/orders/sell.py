"""Sell: goods in the customer's hand. Possession wins: whatever the ledger believed, the sale is recorded as it happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from onhand import catalog
from onhand.caller import Caller
from onhand.domain import money
from onhand.domain.cart import CartLine
from onhand.domain.errors import BarcodeNotFound, CurrencyMismatch, PriceNotFound, invalid
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
from onhand.reservations.decrease import Decreases
from onhand.v1 import order_pb2 as pb
from onhand.wire import moment, money_from_wire

CHANNEL = "POS"
COUNT_REASON = "SOLD_BEYOND_STOCK"


@dataclass(frozen=True)
class _Sold:
    """A line as scanned, its barcode resolved. `charged_minor`: what the till took for it, if it said so."""

    sku: str
    quantity: int
    charged_minor: int | None


async def sell(ledger: Ledger, decreases: Decreases, request: pb.SellRequest, caller: Caller) -> pb.SellResponse:
    """OrderService.Sell."""
    money.exponent(request.currency_code)
    occurred = moment("occurred_time", request.occurred_time) if request.HasField("occurred_time") else None
    try:
        sold = await _sold(ledger, request)
    except BarcodeNotFound:
        # A repeat gets its first answer, even where the barcode was taken from the product since.
        if (answer := await ledger.find_answer(request, pb.SellResponse)) is not None:
            return answer
        raise

    async def work(tx: Transaction, overdrawn: Mapping[Position, int]) -> pb.SellResponse:
        return await _record(tx, request, caller, sold, occurred, overdrawn)

    takes = [(request.location_id, sum_lines((line.sku, line.quantity) for line in sold))]
    return await decreases.fact(request, pb.SellResponse, takes, work)


async def _sold(ledger: Ledger, request: pb.SellRequest) -> list[_Sold]:
    barcodes = [line.barcode for line in request.lines if line.WhichOneof("item") == "barcode"]
    skus: dict[str, str] = {}
    if barcodes:
        async with ledger.read() as connection:
            skus = await catalog.read_barcodes(connection, barcodes)
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
        sold.append(_Sold(sku, line.quantity, charged_minor))
    return sold


async def _record(
    tx: Transaction,
    request: pb.SellRequest,
    caller: Caller,
    sold: list[_Sold],
    occurred: datetime | None,
    overdrawn: Mapping[Position, int],
) -> pb.SellResponse:
    order_id = new_id()
    document = f"order/{order_id}"
    # First of all, so that an unknown location or sku is refused as such.
    levels = await tx.lock_levels(((request.location_id, line.sku) for line in sold), create=True)
    lines = await _priced(tx, request.currency_code, sold)
    kind = FulfillmentKind.CARRY_OUT
    order = NewOrder(
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
        tenders=payments.tenders(request.tenders, request.currency_code, sum(line.total_minor for line in lines)),
        actor=caller.actor,
        placed_time=occurred,
    )
    await store.insert_order(tx.connection, order)
    movements = sale_movements(
        levels,
        [
            (request.location_id, sku, quantity)
            for sku, quantity in sum_lines((line.sku, line.quantity) for line in sold)
        ],
        reference_document=document,
        channel=CHANNEL,
        actor=caller.actor,
        occurred_time=occurred,
    )
    await tx.post(movements)
    await _mend(tx, document, levels, movements, overdrawn, caller)
    tx.emit(
        "onhand.sale.recorded.v1",
        document,
        {
            "order_id": str(order_id),
            "order_number": order.order_number,
            "customer_id": order.customer_id,
            "channel": CHANNEL,
            "currency": order.currency,
            "total_minor": order.total_minor,
            "lines": [{"line_number": n.line_number, "sku": n.sku, "quantity": n.quantity} for n in lines],
            "actor": caller.actor,
        },
        request.location_id,
    )
    return pb.SellResponse(order=await read_order(tx.connection, order_id))


async def _priced(tx: Transaction, currency: str, sold: list[_Sold]) -> list[NewLine]:
    skus = {line.sku for line in sold if line.charged_minor is None}
    prices = await catalog.read_prices(tx.connection, currency, skus) if skus else {}
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
    caller: Caller,
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
                tx, position, found[position], cause=ShortfallCause.SALE, reference=document, actor=caller.actor
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
