"""Orders and returns as messages: reads for the lists, and what every command answers with."""

from __future__ import annotations

from collections import Counter
from typing import Any
from uuid import UUID

from google.protobuf.json_format import ParseDict
from google.protobuf.timestamp_pb2 import Timestamp

from onhand.caller import Caller
from onhand.domain.errors import FulfillmentOrderNotFound, LocationNotFound, OrderNotFound, ReturnNotFound
from onhand.domain.order import HOLDING, PICKUP_CODE_FAILURES_MAX, FulfillmentState
from onhand.ids import parse_id
from onhand.ledger.mutation import Ledger
from onhand.orders import codes, names, shortfalls
from onhand.orders.reasons import DECISIONS, PROMISED_TIME, decision
from onhand.orders.shortfalls import SHORTFALL
from onhand.paging import decode_token, encode_token, fill, page_size
from onhand.postgres import Connection
from onhand.v1 import order_pb2 as pb
from onhand.wire import channel_value, money_to_wire, timestamp, timestamp_of_json

# A fulfillment order `f` of an order `o` as one json value.
_FULFILLMENT = f"""json_build_object(
    'fulfillment_order_id', f.fulfillment_order_id, 'order_id', f.order_id, 'location_id', f.location_id, 'kind', f.kind,
    'state', f.state, 'failures', f.pickup_code_failures, 'created_time', f.created_time, 'updated_time', f.updated_time,
    'from_id', f.from_fulfillment_order_id, 'reject_reason', f.reject_reason, 'hold_end_time', f.hold_end_time,
    'arrived_time', f.arrived_time, 'arrival_spot', f.arrival_spot, 'arrival_note', f.arrival_note,
    'promised_ready_time', {PROMISED_TIME},
    'lines', (SELECT json_agg(json_build_object('line_number', fl.line_number, 'sku', fl.sku, 'name', p.name,
                  'quantity', fl.quantity, 'cancelled_quantity', fl.cancelled_quantity, 'moved_quantity', fl.moved_quantity,
                  'aside_quantity', fl.aside_quantity)
                  ORDER BY fl.line_number)
                FROM fulfillment_lines fl JOIN products p USING (sku)
               WHERE fl.fulfillment_order_id = f.fulfillment_order_id AND fl.quantity > 0),
    'shipments', (SELECT json_agg(json_build_object('shipment_id', s.shipment_id, 'carrier', s.carrier,
                  'tracking_reference', s.tracking_reference, 'packed_time', s.packed_time,
                  'shipped_time', s.shipped_time, 'delivered_time', s.delivered_time, 'returned_time', s.returned_time,
                  'lines', (SELECT json_agg(json_build_object('line_number', sl.line_number, 'quantity', sl.quantity)
                              ORDER BY sl.line_number) FROM shipment_lines sl WHERE sl.shipment_id = s.shipment_id))
                  ORDER BY s.shipment_id)
                FROM shipments s WHERE s.fulfillment_order_id = f.fulfillment_order_id),
    'shortfalls', (SELECT json_agg({SHORTFALL} ORDER BY s.shortfall_id)
                FROM shortfalls s WHERE s.fulfillment_order_id = f.fulfillment_order_id))"""
_COLUMNS = f"""o.order_id, o.order_number, o.customer_id, o.channel, o.currency, o.state, o.total_minor, o.cart_id,
       o.reservation_id, o.ship_to, o.placed_time, o.created_time, o.updated_time,
       (SELECT json_agg(json_build_object('line_number', l.line_number, 'sku', l.sku, 'name', p.name,
            'quantity', l.quantity, 'fulfilled_quantity', l.fulfilled_quantity,
            'cancelled_quantity', l.cancelled_quantity, 'returned_quantity', l.returned_quantity,
            'amount_minor', l.amount_minor, 'price_quantity', l.price_quantity, 'total_minor', l.total_minor,
            'refunded_minor', l.refunded_minor, 'substitutes_line', l.substitutes_line) ORDER BY l.line_number)
          FROM order_lines l JOIN products p USING (sku) WHERE l.order_id = o.order_id) AS lines,
       (SELECT json_agg({_FULFILLMENT} ORDER BY f.fulfillment_order_id)
          FROM fulfillment_orders f WHERE f.order_id = o.order_id) AS fulfillments,
       (SELECT json_agg(json_build_object('kind', t.kind, 'amount_minor', t.amount_minor, 'reference', t.reference)
                        ORDER BY t.tender_number)
          FROM tenders t WHERE t.order_id = o.order_id AND t.change_id IS NULL) AS tenders"""
_ORDERS = f"SELECT {_COLUMNS} FROM orders o"
_WITH_REASONS = f"SELECT {_COLUMNS}, {DECISIONS} AS decisions FROM orders o WHERE o.order_id = $1"
_RETURNS = """
SELECT r.return_id, r.order_id, o.order_number, r.location_id, r.channel, r.refund_minor,
       coalesce(r.currency, o.currency) AS currency, r.created_time, r.kind, r.customer_id, r.return_authorization_id,
       (SELECT json_build_object('manager', v.manager, 'reason', v.reason, 'overridden', v.overridden)
          FROM return_overrides v WHERE v.return_id = r.return_id) AS override,
       (SELECT json_agg(json_build_object('line_number', l.line_number, 'disposition', l.disposition, 'sku', l.sku,
            'quantity', l.quantity, 'reason', l.reason_code, 'refund_minor', l.refund_minor)
            ORDER BY l.line_number, l.disposition)
          FROM return_lines l WHERE l.return_id = r.return_id) AS lines
  FROM returns r LEFT JOIN orders o USING (order_id)"""
_FULFILLMENTS = (
    f"SELECT o.order_number, o.customer_id, {_FULFILLMENT} AS fulfillment"
    " FROM fulfillment_orders f JOIN orders o USING (order_id)"
)
# The index of customers leaves out orders without one; whatever the parameter, PostgreSQL then sees that it suffices.
_OF_CUSTOMER = "o.customer_id = $? AND o.customer_id <> ''"
_LOCATION_EXISTS = "SELECT EXISTS (SELECT FROM locations WHERE location_id = $1)"

TO_DO = tuple(s for s in FulfillmentState if s in HOLDING)
"""The states of work that a location still has before it. The index fulfillment_orders_queue is of these."""


class _Filters:
    """The conditions of a list, and their values by position."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._conditions: list[str] = []

    def add(self, condition: str, value: Any) -> None:
        """Adds a condition in which `$?` stands for the value."""
        self.values.append(value)
        self._conditions.append(condition.replace("$?", f"${len(self.values)}"))

    def require(self, condition: str) -> None:
        """Adds a condition that has no value."""
        self._conditions.append(condition)

    def where(self) -> str:
        """The WHERE clause, if there is any condition."""
        return " WHERE " + " AND ".join(self._conditions) if self._conditions else ""


async def read_order(connection: Connection, order_id: UUID) -> pb.Order:
    """An order, whole. Raises OrderNotFound."""
    row = await connection.fetchrow(f"{_ORDERS} WHERE o.order_id = $1", order_id)
    if row is None:
        raise OrderNotFound(str(order_id))
    return _order(row)


async def read_fulfillment_order(connection: Connection, fulfillment_order_id: UUID) -> pb.FulfillmentOrder:
    """A fulfillment order. Raises FulfillmentOrderNotFound."""
    row = await connection.fetchrow(f"{_FULFILLMENTS} WHERE f.fulfillment_order_id = $1", fulfillment_order_id)
    if row is None:
        raise FulfillmentOrderNotFound(str(fulfillment_order_id))
    return _listed_fulfillment(row)


async def read_return(connection: Connection, return_id: UUID) -> pb.Return:
    """A return. Raises ReturnNotFound."""
    row = await connection.fetchrow(f"{_RETURNS} WHERE r.return_id = $1", return_id)
    if row is None:
        raise ReturnNotFound(str(return_id))
    return _return(row)


async def get_order(ledger: Ledger, request: pb.GetOrderRequest, caller: Caller) -> pb.GetOrderResponse:
    """OrderService.GetOrder."""
    order_id = parse_id("order_id", request.order_id)
    async with ledger.read() as connection:
        row = await connection.fetchrow(_WITH_REASONS, order_id)
    if row is None:
        raise OrderNotFound(str(order_id))
    order = _order(row)
    order.sourcing_decisions.extend(decision(value) for value in row["decisions"] or ())
    return pb.GetOrderResponse(order=order)


async def get_return(ledger: Ledger, request: pb.GetReturnRequest, caller: Caller) -> pb.GetReturnResponse:
    """OrderService.GetReturn."""
    async with ledger.read() as connection:
        return pb.GetReturnResponse(returned=await read_return(connection, parse_id("return_id", request.return_id)))


async def list_orders(ledger: Ledger, request: pb.ListOrdersRequest, caller: Caller) -> pb.ListOrdersResponse:
    """OrderService.ListOrders."""
    size, after, filters = page_size(request.page_size), decode_token(request, UUID), _Filters()
    if request.customer_id:
        filters.add(_OF_CUSTOMER, request.customer_id)
    if request.order_number:
        filters.add("o.order_number = $?", codes.order_number(request.order_number))
    if request.state:
        # Written out, not as a parameter: PostgreSQL then sees that the index of open orders suffices.
        filters.require(f"o.state = '{names.order_state('state', request.state).value}'")
    if request.location_id:
        filters.add(
            "o.order_id IN (SELECT order_id FROM fulfillment_orders WHERE location_id = $?)", request.location_id
        )
    if request.is_short:
        filters.require(
            "o.order_id IN (SELECT order_id FROM shortfalls JOIN fulfillment_orders USING (fulfillment_order_id)"
            " WHERE open_quantity > 0)"
        )
    if after:
        filters.add("o.order_id < $?", after[0])
    async with ledger.read() as connection:
        query = f"{_ORDERS}{filters.where()} ORDER BY o.order_id DESC LIMIT {size + 1}"
        orders, last = fill(await connection.fetch(query, *filters.values), size, _order)
    token = encode_token(request, last["order_id"]) if last else ""
    return pb.ListOrdersResponse(orders=orders, next_page_token=token)


async def list_fulfillment_orders(
    ledger: Ledger, request: pb.ListFulfillmentOrdersRequest, caller: Caller
) -> pb.ListFulfillmentOrdersResponse:
    """OrderService.ListFulfillmentOrders."""
    size, after, filters = page_size(request.page_size), decode_token(request, UUID), _Filters()
    filters.add("f.location_id = $?", request.location_id)
    states = [names.fulfillment_state(f"states[{i}]", s) for i, s in enumerate(request.states)] or list(TO_DO)
    # Written out, not as a parameter: PostgreSQL then sees that the index of what is to do suffices.
    filters_of_state = " AND f.state IN ({})".format(", ".join(f"'{s.value}'" for s in states))
    if request.kind:
        filters.add("f.kind = $?", names.fulfillment_kind("kind", request.kind).value)
    if after:
        filters.add("f.fulfillment_order_id > $?", after[0])
    async with ledger.read() as connection:
        query = f"{_FULFILLMENTS}{filters.where()}{filters_of_state} ORDER BY f.fulfillment_order_id LIMIT {size + 1}"
        found = await connection.fetch(query, *filters.values)
        if not found and not await connection.fetchval(_LOCATION_EXISTS, request.location_id):
            raise LocationNotFound(request.location_id)
    fulfillment_orders, last = fill(found, size, _listed_fulfillment)
    token = encode_token(request, UUID(last["fulfillment"]["fulfillment_order_id"])) if last else ""
    return pb.ListFulfillmentOrdersResponse(fulfillment_orders=fulfillment_orders, next_page_token=token)


async def list_returns(ledger: Ledger, request: pb.ListReturnsRequest, caller: Caller) -> pb.ListReturnsResponse:
    """OrderService.ListReturns."""
    size, after, filters = page_size(request.page_size), decode_token(request, UUID), _Filters()
    if request.order_id:
        filters.add("r.order_id = $?", parse_id("order_id", request.order_id))
    if request.location_id:
        filters.add("r.location_id = $?", request.location_id)
    if request.customer_id:
        filters.add("r.customer_id = $? AND r.customer_id <> ''", request.customer_id)
    if after:
        filters.add("r.return_id < $?", after[0])
    async with ledger.read() as connection:
        query = f"{_RETURNS}{filters.where()} ORDER BY r.return_id DESC LIMIT {size + 1}"
        returns, last = fill(await connection.fetch(query, *filters.values), size, _return)
    token = encode_token(request, last["return_id"]) if last else ""
    return pb.ListReturnsResponse(returns=returns, next_page_token=token)


# ------------------------------------------------------------------------------------------------------ rows to messages
def _listed_fulfillment(row: Any) -> pb.FulfillmentOrder:
    return _fulfillment(row["fulfillment"], row["order_number"], row["customer_id"])


def _order(row: Any) -> pb.Order:
    currency, short = row["currency"], Counter[int]()
    for work in row["fulfillments"]:
        short.update(_short_of_lines(work))
    order = pb.Order(
        order_id=str(row["order_id"]),
        order_number=row["order_number"],
        customer_id=row["customer_id"],
        channel=channel_value(row["channel"]),
        state=pb.OrderState.Value(f"ORDER_STATE_{row['state']}"),
        total=money_to_wire(row["total_minor"], currency),
        refunded=money_to_wire(sum(line["refunded_minor"] for line in row["lines"]), currency),
        cart_id=str(row["cart_id"] or ""),
        reservation_id=str(row["reservation_id"] or ""),
        placed_time=timestamp(row["placed_time"]),
        created_time=timestamp(row["created_time"]),
        updated_time=timestamp(row["updated_time"]),
        lines=[
            pb.OrderLine(
                line_number=line["line_number"],
                sku=line["sku"],
                name=line["name"],
                quantity=line["quantity"],
                fulfilled_quantity=line["fulfilled_quantity"],
                cancelled_quantity=line["cancelled_quantity"],
                returned_quantity=line["returned_quantity"],
                price=money_to_wire(line["amount_minor"], currency),
                price_quantity=line["price_quantity"],
                total=money_to_wire(line["total_minor"], currency),
                refunded=money_to_wire(line["refunded_minor"], currency),
                short_quantity=short[line["line_number"]],
                substitutes_line_number=line["substitutes_line"] or 0,
            )
            for line in row["lines"]
        ],
        fulfillment_orders=[
            _fulfillment(value, row["order_number"], row["customer_id"]) for value in row["fulfillments"]
        ],
        tenders=[
            pb.Tender(
                kind=pb.TenderKind.Value(f"TENDER_KIND_{tender['kind']}"),
                amount=money_to_wire(tender["amount_minor"], currency),
                reference=tender["reference"],
            )
            for tender in row["tenders"] or ()
        ],
    )
    if row["ship_to"]:
        ParseDict(row["ship_to"], order.ship_to)
    return order


def _short_of_lines(work: dict[str, Any]) -> Counter[int]:
    """How many units of a fulfillment order are short, by line."""
    short = Counter[int]()
    for shortfall in work["shortfalls"] or ():
        short[shortfall["line_number"]] += shortfall["open_quantity"]
    return short


def _fulfillment(value: dict[str, Any], order_number: str, customer_id: str) -> pb.FulfillmentOrder:
    short = _short_of_lines(value)
    return pb.FulfillmentOrder(
        fulfillment_order_id=value["fulfillment_order_id"],
        order_id=value["order_id"],
        order_number=order_number,
        location_id=value["location_id"],
        kind=pb.FulfillmentKind.Value(f"FULFILLMENT_KIND_{value['kind']}"),
        state=pb.FulfillmentState.Value(f"FULFILLMENT_STATE_{value['state']}"),
        lines=[pb.FulfillmentLine(**line, short_quantity=short[line["line_number"]]) for line in value["lines"] or ()],
        shipments=[
            pb.Shipment(
                shipment_id=shipment["shipment_id"],
                carrier=shipment["carrier"],
                tracking_reference=shipment["tracking_reference"],
                shipped_time=_time_or_none(shipment["shipped_time"]),
                delivered_time=_time_or_none(shipment["delivered_time"]),
                lines=[pb.WorkLine(**line) for line in shipment["lines"] or ()],
                packed_time=timestamp_of_json(shipment["packed_time"]),
                returned_time=_time_or_none(shipment["returned_time"]),
            )
            for shipment in value["shipments"] or ()
        ],
        is_pickup_locked=value["failures"] >= PICKUP_CODE_FAILURES_MAX,
        created_time=timestamp_of_json(value["created_time"]),
        updated_time=timestamp_of_json(value["updated_time"]),
        from_fulfillment_order_id=value["from_id"] or "",
        hold_end_time=_time_or_none(value["hold_end_time"]),
        arrival=_arrival(value),
        promised_ready_time=_time_or_none(value["promised_ready_time"]),
        reject_reason=pb.RejectReason.Value(f"REJECT_REASON_{value['reject_reason'] or 'UNSPECIFIED'}"),
        shortfalls=[
            shortfalls.message(shortfall, value["order_id"], order_number, customer_id)
            for shortfall in value["shortfalls"] or ()
        ],
    )


def _arrival(value: dict[str, Any]) -> pb.Arrival | None:
    if value["arrived_time"] is None:
        return None
    return pb.Arrival(
        spot=value["arrival_spot"], note=value["arrival_note"], arrived_time=timestamp_of_json(value["arrived_time"])
    )


def _return(row: Any) -> pb.Return:
    return pb.Return(
        return_id=str(row["return_id"]),
        order_id=str(row["order_id"] or ""),
        order_number=row["order_number"] or "",
        location_id=row["location_id"],
        channel=channel_value(row["channel"]),
        refund=money_to_wire(row["refund_minor"], row["currency"]),
        created_time=timestamp(row["created_time"]),
        kind=pb.ReturnKind.Value(f"RETURN_KIND_{row['kind']}"),
        customer_id=row["customer_id"],
        override=pb.ReturnOverride(**row["override"]) if row["override"] else None,
        return_authorization_id=str(row["return_authorization_id"] or ""),
        lines=[
            pb.ReturnLine(
                line_number=line["line_number"],
                sku=line["sku"],
                quantity=line["quantity"],
                disposition=pb.Disposition.Value(f"DISPOSITION_{line['disposition'].upper()}"),
                reason=line["reason"],
                refund=money_to_wire(line["refund_minor"], row["currency"]),
            )
            for line in row["lines"]
        ],
    )


def _time_or_none(text: str | None) -> Timestamp | None:
    return timestamp_of_json(text) if text else None
