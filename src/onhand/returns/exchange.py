"""CreateExchange: goods come back and others leave, in one transaction; the difference is paid, or given back.

The new goods are in the customer's hand: that sale is never refused for stock reasons, and goes on while the gate is down.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from onhand.caller import Caller
from onhand.domain.errors import BarcodeNotFound, CurrencyMismatch
from onhand.domain.exchange import plan_carry
from onhand.domain.payment import Operation
from onhand.domain.returns import ReturnPolicy
from onhand.domain.stock import Position
from onhand.ids import new_id, parse_id
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.orders import payments, returns, sell
from onhand.orders.queries import read_return
from onhand.orders.returns import NewReturn, Wanted
from onhand.orders.sell import Sold
from onhand.payments import gift_cards
from onhand.payments import store as payments_store
from onhand.payments.giving_back import give_back
from onhand.reservations.decrease import Decreases
from onhand.v1 import order_pb2
from onhand.v1 import returns_pb2 as pb
from onhand.wire import money_to_wire

CARRIED = "EXCHANGE"
"""The reason of what leaves tenders for other goods: nobody is paid, so no gift card and no gateway hears of it."""
INSERT = "INSERT INTO exchanges (exchange_id, return_id, order_id, carried_minor) VALUES ($1, $2, $3, $4)"


@dataclass(frozen=True)
class Settled:
    """What was decided, and paid, before any stock is touched."""

    exchange_id: UUID
    new: NewReturn
    sale: order_pb2.SellRequest
    total_minor: int
    carried_minor: int


async def create_exchange(
    ledger: Ledger, decreases: Decreases, policy: ReturnPolicy, request: pb.CreateExchangeRequest, caller: Caller
) -> pb.CreateExchangeResponse:
    """ReturnService.CreateExchange."""
    order_id = parse_id("order_id", request.order_id)
    wanted = returns.wanted_lines(request.returned, "returned")
    sale = order_pb2.SellRequest(
        location_id=request.location_id,
        lines=request.sold,
        currency_code=request.currency_code,
        tenders=request.tenders,
    )
    till = sell.till(sale, caller)
    try:
        sold = await sell.resolve(ledger, sale)
    except BarcodeNotFound:
        # A repeat gets its first answer, even where the barcode was taken from the product since.
        if (answer := await ledger.find_answer(request, pb.CreateExchangeResponse)) is not None:
            return answer
        raise
    settled: list[Settled] = []

    async def hold(tx: Transaction) -> None:
        settled[:] = [await _settle(tx, policy, request, order_id, wanted, sale, sold, caller)]

    async def work(tx: Transaction, overdrawn: Mapping[Position, int]) -> pb.CreateExchangeResponse:
        (this,) = settled
        await returns.book(tx, this.new, policy)
        order = (await sell.record(tx, sell.Till(this.sale, till.actor, None), sold, overdrawn)).order
        await tx.connection.execute(
            INSERT, this.exchange_id, this.new.return_id, parse_id("order_id", order.order_id), this.carried_minor
        )
        return await _answer(tx, this, order)

    return await decreases.fact(request, pb.CreateExchangeResponse, sell.takes_of(sale, sold), work, hold=hold)


async def _settle(
    tx: Transaction,
    policy: ReturnPolicy,
    request: pb.CreateExchangeRequest,
    order_id: UUID,
    wanted: Sequence[Wanted],
    sale: order_pb2.SellRequest,
    sold: Sequence[Sold],
    caller: Caller,
) -> Settled:
    """Locks the order, its tenders and the gift cards that pay, and moves the money. Raises what refuses it."""
    order, backs, override = await returns.judge(tx, policy, order_id, wanted, returns.override_of(request))
    if order.currency != sale.currency_code:
        raise CurrencyMismatch(order.currency, sale.currency_code)
    new = NewReturn(
        new_id(), "EXCHANGE", request.location_id, sell.CHANNEL, caller.actor, order.customer_id, order.currency, backs,
        order, override=override,
    )  # fmt: skip
    total_minor = await sell.total_of(tx, order.currency, sold)
    exchange_id, carried_minor = new_id(), min(new.refund_minor, total_minor)
    await _carry(tx, new, carried_minor)
    await give_back(
        tx,
        order_id,
        new.refund_minor - carried_minor,
        currency=order.currency,
        reason_code=returns.REASON,
        reference_document=new.document,
        actor=caller.actor,
    )
    priced = order_pb2.SellRequest()
    priced.CopyFrom(sale)
    priced.customer_id = order.customer_id
    del priced.tenders[:]
    if carried_minor:
        priced.tenders.add(
            kind=order_pb2.TENDER_KIND_STORE_CREDIT,
            amount=money_to_wire(carried_minor, order.currency),
            reference=f"exchange/{exchange_id}",
        )
    priced.tenders.extend(sale.tenders)
    await _lock_gift_cards(tx, priced, total_minor)
    return Settled(exchange_id, new, priced, total_minor, carried_minor)


async def _carry(tx: Transaction, new: NewReturn, carried_minor: int) -> None:
    """Takes from the tenders of the order what pays for other goods."""
    if not carried_minor:
        return
    assert new.order is not None
    order_id = new.order.order_id
    tenders = await payments_store.lock_tenders(tx.connection, order_id)
    plan = plan_carry(str(order_id), new.currency, (t.tendered for t in tenders.values()), carried_minor)
    await payments_store.book(
        tx.connection,
        order_id,
        [payments_store.operation(tender.tender_number, Operation.REFUND, part, is_done=True) for tender, part in plan],
        currency=new.currency,
        reason_code=CARRIED,
        reference_document=new.document,
        actor=new.actor,
    )


async def _lock_gift_cards(tx: Transaction, sale: order_pb2.SellRequest, total_minor: int) -> None:
    """The cards that pay the difference, before any level is locked. Raises `TendersMismatch`, and what is wrong with them."""
    tenders = payments.tenders(sale.tenders, payments.gift_cards_of(sale.tenders), sale.currency_code, total_minor)
    cards = [(tender.gift_card, tender.amount_minor) for tender in tenders if tender.gift_card is not None]
    if cards:
        await gift_cards.lock_by_code(tx.connection, cards, sale.currency_code)


async def _answer(tx: Transaction, this: Settled, order: order_pb2.Order) -> pb.CreateExchangeResponse:
    currency, refund_minor = this.new.currency, this.new.refund_minor
    tx.emit(
        "onhand.exchange.created.v1",
        f"exchange/{this.exchange_id}",
        {
            "exchange_id": str(this.exchange_id),
            "return_id": str(this.new.return_id),
            "order_id": order.order_id,
            "carried_minor": this.carried_minor,
            "refunded_minor": refund_minor - this.carried_minor,
            "paid_minor": this.total_minor - this.carried_minor,
            "currency": currency,
            "actor": this.new.actor,
        },
        this.new.location_id,
    )
    return pb.CreateExchangeResponse(
        exchange=pb.Exchange(
            exchange_id=str(this.exchange_id),
            returned=await read_return(tx.connection, this.new.return_id),
            order=order,
            carried=money_to_wire(this.carried_minor, currency),
            refunded=money_to_wire(refund_minor - this.carried_minor, currency),
            paid=money_to_wire(this.total_minor - this.carried_minor, currency),
        )
    )
