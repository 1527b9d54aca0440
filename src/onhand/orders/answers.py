"""A new order as a message, from what is written of it: exactly what GetOrder reads afterwards (onhand.orders.queries)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache

from onhand.domain.order import FulfillmentKind, FulfillmentState, OrderState
from onhand.orders.store import NewOrder
from onhand.v1 import order_pb2 as pb
from onhand.wire import channel_value, money_to_wire, timestamp

AMOUNTS_MAX = 4096
"""Amounts that are kept as messages."""
MOMENTS_MAX = 16
"""Times that are kept as messages: the orders of a round are made at the same."""

_KINDS = {kind: pb.FulfillmentKind.Value(f"FULFILLMENT_KIND_{kind.value}") for kind in FulfillmentKind}
_STATES = {state: pb.FulfillmentState.Value(f"FULFILLMENT_STATE_{state.value}") for state in FulfillmentState}
_ORDER_STATES = {state: pb.OrderState.Value(f"ORDER_STATE_{state.value}") for state in OrderState}
_TENDERS = {name.removeprefix("TENDER_KIND_"): value for name, value in pb.TenderKind.items()}


# Kept, never changed: they are copied into answers.
_money = lru_cache(AMOUNTS_MAX)(money_to_wire)
_moment = lru_cache(MOMENTS_MAX)(timestamp)


def fill_new_order(
    message: pb.Order, order: NewOrder, names: Mapping[str, str], made: datetime, ship_to: pb.Address | None = None
) -> None:
    """Fills an empty message. `names` are of the products, by sku; `made` is when the order is recorded.

    In place, part by part: a part that is made by itself and handed over is copied, which takes twice as long.
    """
    currency, order_id, moment = order.currency, str(order.order_id), _moment(made)
    nothing, is_completed = _money(0, currency), order.state is OrderState.COMPLETED
    message.order_id = order_id
    message.order_number = order.order_number
    message.customer_id = order.customer_id
    message.channel = channel_value(order.channel)
    message.state = _ORDER_STATES[order.state]
    for line in order.lines:
        message.lines.add(
            line_number=line.line_number,
            sku=line.sku,
            name=names[line.sku],
            quantity=line.quantity,
            fulfilled_quantity=line.quantity if is_completed else 0,
            price=_money(line.amount_minor, currency),
            price_quantity=line.price_quantity,
            total=_money(line.total_minor, currency),
            refunded=nothing,
        )
    for work in order.fulfillments:
        of_work = message.fulfillment_orders.add(
            fulfillment_order_id=str(work.fulfillment_order_id),
            order_id=order_id,
            order_number=order.order_number,
            location_id=work.location_id,
            kind=_KINDS[work.kind],
            state=_STATES[work.state],
            created_time=moment,
            updated_time=moment,
        )
        for number, sku, quantity in sorted(work.parts):
            of_work.lines.add(line_number=number, sku=sku, name=names[sku], quantity=quantity)
    for tender in order.tenders:
        amount = _money(tender.amount_minor, currency)
        message.tenders.add(kind=_TENDERS[tender.kind], amount=amount, reference=tender.reference)
    message.total.CopyFrom(_money(order.total_minor, currency))
    message.refunded.CopyFrom(nothing)
    if order.cart_id is not None:
        message.cart_id = str(order.cart_id)
    if order.reservation_id is not None:
        message.reservation_id = str(order.reservation_id)
    message.placed_time.CopyFrom(moment if order.placed_time is None else timestamp(min(order.placed_time, made)))
    message.created_time.CopyFrom(moment)
    message.updated_time.CopyFrom(moment)
    if ship_to is not None:
        message.ship_to.CopyFrom(ship_to)
        message.ship_to.DiscardUnknownFields()
