"""A new order as a message, from what is written of it: exactly what GetOrder reads afterwards (onhand.orders.queries)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from onhand.domain.order import FulfillmentKind, FulfillmentState, OrderState
from onhand.orders.store import NewOrder
from onhand.v1 import order_pb2 as pb
from onhand.wire import channel_value, money_to_wire, timestamp

_KINDS = {kind: pb.FulfillmentKind.Value(f"FULFILLMENT_KIND_{kind.value}") for kind in FulfillmentKind}
_STATES = {state: pb.FulfillmentState.Value(f"FULFILLMENT_STATE_{state.value}") for state in FulfillmentState}
_ORDER_STATES = {state: pb.OrderState.Value(f"ORDER_STATE_{state.value}") for state in OrderState}
_TENDERS = {name.removeprefix("TENDER_KIND_"): value for name, value in pb.TenderKind.items()}


def new_order_message(
    order: NewOrder, names: Mapping[str, str], made: datetime, ship_to: pb.Address | None = None
) -> pb.Order:
    """`names` are of the products, by sku; `made` is when the order is recorded."""
    currency, order_id, moment = order.currency, str(order.order_id), timestamp(made)
    nothing, is_completed = money_to_wire(0, currency), order.state is OrderState.COMPLETED
    message = pb.Order(
        order_id=order_id,
        order_number=order.order_number,
        customer_id=order.customer_id,
        channel=channel_value(order.channel),
        state=_ORDER_STATES[order.state],
        lines=[
            pb.OrderLine(
                line_number=line.line_number,
                sku=line.sku,
                name=names[line.sku],
                quantity=line.quantity,
                fulfilled_quantity=line.quantity if is_completed else 0,
                price=money_to_wire(line.amount_minor, currency),
                price_quantity=line.price_quantity,
                total=money_to_wire(line.total_minor, currency),
                refunded=nothing,
            )
            for line in order.lines
        ],
        fulfillment_orders=[
            pb.FulfillmentOrder(
                fulfillment_order_id=str(work.fulfillment_order_id),
                order_id=order_id,
                order_number=order.order_number,
                location_id=work.location_id,
                kind=_KINDS[work.kind],
                state=_STATES[work.state],
                lines=[
                    pb.FulfillmentLine(line_number=number, sku=sku, name=names[sku], quantity=quantity)
                    for number, sku, quantity in sorted(work.parts)
                ],
                created_time=moment,
                updated_time=moment,
            )
            for work in order.fulfillments
        ],
        tenders=[
            pb.Tender(
                kind=_TENDERS[tender.kind],
                amount=money_to_wire(tender.amount_minor, currency),
                reference=tender.reference,
            )
            for tender in order.tenders
        ],
        total=money_to_wire(order.total_minor, currency),
        refunded=nothing,
        cart_id="" if order.cart_id is None else str(order.cart_id),
        reservation_id="" if order.reservation_id is None else str(order.reservation_id),
        placed_time=moment if order.placed_time is None else timestamp(min(order.placed_time, made)),
        created_time=moment,
        updated_time=moment,
    )
    if ship_to is not None:
        message.ship_to.CopyFrom(ship_to)
        message.ship_to.DiscardUnknownFields()
    return message
