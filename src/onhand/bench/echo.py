"""The ceiling: handlers that do nothing, in the same server process, with requests and answers of the real types and shapes.

Each decodes its request, builds an answer of the size and shape of the real one, and encodes it. What onhand adds to that
(admission, validation, deadlines, the gate, the journal) is what the bench measures.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import Message

from onhand.v1 import inventory_pb2, order_pb2

SERVICE = "onhand.bench.Echo"

# Of the length that real ones have.
_ID = "01a200a7-909a-784c-a8fa-bb44ae56dd1a"
_NUMBER = "R6YS-KRWZ-JX4C"
_CODE = "YHMDTKQT"
_SECONDS = 1_800_000_000
_NANOS = 254_747_000


def reserve(request: inventory_pb2.ReserveRequest) -> inventory_pb2.ReserveResponse:
    """The reservation of the request."""
    response = inventory_pb2.ReserveResponse()
    reservation = response.reservation
    reservation.reservation_id = _ID
    reservation.state = inventory_pb2.RESERVATION_STATE_ACTIVE
    reservation.baskets.extend(request.baskets)
    reservation.channel = request.channel
    reservation.customer_id = request.customer_id
    reservation.expire_time.seconds = _SECONDS
    reservation.expire_time.nanos = _NANOS
    return response


def get_availability(request: inventory_pb2.GetAvailabilityRequest) -> inventory_pb2.GetAvailabilityResponse:
    """As many locations and items as were asked for."""
    response = inventory_pb2.GetAvailabilityResponse()
    for location_id in request.location_ids:
        location = response.locations.add(location_id=location_id)
        for sku in request.skus:
            location.items.add(sku=sku, available_to_promise=49_999_999)
    return response


def place_order(request: order_pb2.PlaceOrderRequest) -> order_pb2.PlaceOrderResponse:
    """An order of two lines, as the bench places them, with its pickup code."""
    response = order_pb2.PlaceOrderResponse()
    place = request.fulfillments[0]
    _fill(response.order, place.location_id, place.kind, (("sku-001", 1), ("sku-002", 1)))
    response.order.reservation_id = request.reservation_id
    response.order.tenders.extend(request.tenders)
    response.pickup_codes.add(fulfillment_order_id=_ID, location_id=place.location_id, pickup_code=_CODE)
    return response


def sell(request: order_pb2.SellRequest) -> order_pb2.SellResponse:
    """The sale as an order."""
    response = order_pb2.SellResponse()
    lines = [(line.sku, line.quantity) for line in request.lines]
    _fill(response.order, request.location_id, order_pb2.FULFILLMENT_KIND_CARRY_OUT, lines)
    response.order.tenders.extend(request.tenders)
    return response


def _fill(order: order_pb2.Order, location_id: str, kind: Any, lines: Any) -> None:
    order.order_id, order.order_number = _ID, _NUMBER
    order.state = order_pb2.ORDER_STATE_OPEN
    part = order.fulfillment_orders.add(
        fulfillment_order_id=_ID, order_id=_ID, order_number=_NUMBER, location_id=location_id, kind=kind
    )
    part.state = order_pb2.FULFILLMENT_STATE_REQUESTED
    for number, (sku, quantity) in enumerate(lines, 1):
        line = order.lines.add(line_number=number, sku=sku, name=sku, quantity=quantity, price_quantity=1)
        line.price.currency_code = line.total.currency_code = "USD"
        line.price.units = line.total.units = 1
        part.lines.add(line_number=number, sku=sku, name=sku, quantity=quantity)
    order.total.currency_code = "USD"
    order.total.units = len(lines)
    for time in (order.placed_time, order.created_time, order.updated_time, part.created_time, part.updated_time):
        time.seconds, time.nanos = _SECONDS, _NANOS


def _handler(answer: Callable[[Any], Message], request_type: type[Message]) -> grpc.RpcMethodHandler[Any, Any]:
    async def handle(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Message:
        return answer(request)

    behaviour: Callable[..., Awaitable[Message]] = handle
    return grpc.unary_unary_rpc_method_handler(
        behaviour,
        request_deserializer=request_type.FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )


def methods() -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    """The handlers by the names of their rpcs, which are those of onhand."""
    return {
        "Reserve": _handler(reserve, inventory_pb2.ReserveRequest),
        "GetAvailability": _handler(get_availability, inventory_pb2.GetAvailabilityRequest),
        "PlaceOrder": _handler(place_order, order_pb2.PlaceOrderRequest),
        "Sell": _handler(sell, order_pb2.SellRequest),
    }


def handlers() -> grpc.GenericRpcHandler[Any, Any]:
    """The service, for a server that takes further handlers."""
    return grpc.method_handlers_generic_handler(SERVICE, methods())
