"""What happened to an order, and the stock that it moved: for who has to explain it.

Both lists begin with the newest. Sequences and movement ids are drawn before their transaction commits, so what has a smaller one
may be committed later: a reader that went upwards from its last one would miss it. Who goes down from the newest finds all that was
committed when the first page was read, on that page or further down, and looks for nothing that came since. What happened to
one order stands in the order in which it happened all the same: whoever changes an order locks it before it writes an event.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from google.protobuf.struct_pb2 import Struct

from onhand.caller import Caller
from onhand.domain.errors import OrderNotFound
from onhand.ids import parse_id
from onhand.inventory.movements import MOVEMENT_ID_MAX, movement_message
from onhand.ledger.mutation import Ledger
from onhand.paging import decode_token, encode_token, fill, page_size
from onhand.postgres import Connection
from onhand.v1 import inventory_pb2 as stock_pb
from onhand.v1 import order_pb2 as pb
from onhand.wire import timestamp

SEQUENCE_MAX = 2**63 - 1
# Its returns move stock under documents of their own.
DOCUMENTS = """
SELECT 'order/' || o.order_id AS order_document,
       (SELECT array_agg('return/' || r.return_id) FROM returns r WHERE r.order_id = o.order_id) AS return_documents
  FROM orders o WHERE o.order_id = $1"""
EVENTS = """
SELECT sequence, event_id, type, subject, location_id, data, request_id, time FROM events
 WHERE data ->> 'order_id' = $1 AND sequence < $2 ORDER BY sequence DESC LIMIT $3"""
MOVEMENTS = """
SELECT location_id, movement_id, sku, quantity, from_bucket, to_bucket, reason_code, reference_document, channel, actor,
       occurred_time, recorded_time
  FROM stock_movements WHERE reference_document = ANY ($1) AND reference_document <> '' AND movement_id < $2
 ORDER BY movement_id DESC LIMIT $3"""


async def list_order_events(
    ledger: Ledger, request: pb.ListOrderEventsRequest, caller: Caller
) -> pb.ListOrderEventsResponse:
    """OrderService.ListOrderEvents."""
    size, order_id = page_size(request.page_size), parse_id("order_id", request.order_id)
    (before,) = decode_token(request, int) or (SEQUENCE_MAX,)
    async with ledger.read() as connection:
        await _documents(connection, order_id)
        rows = await connection.fetch(EVENTS, str(order_id), before, size + 1)
    events, last = fill(rows, size, _event)
    token = encode_token(request, last["sequence"]) if last else ""
    return pb.ListOrderEventsResponse(events=events, next_page_token=token)


async def list_order_movements(
    ledger: Ledger, request: pb.ListOrderMovementsRequest, caller: Caller
) -> pb.ListOrderMovementsResponse:
    """OrderService.ListOrderMovements."""
    size, order_id = page_size(request.page_size), parse_id("order_id", request.order_id)
    (before,) = decode_token(request, int) or (MOVEMENT_ID_MAX,)
    async with ledger.read() as connection:
        rows = await connection.fetch(MOVEMENTS, await _documents(connection, order_id), before, size + 1)
    movements, last = fill(rows, size, _movement)
    token = encode_token(request, last["movement_id"]) if last else ""
    return pb.ListOrderMovementsResponse(movements=movements, next_page_token=token)


async def _documents(connection: Connection, order_id: UUID) -> list[str]:
    """What an order and its returns are called in the ledger. Raises OrderNotFound."""
    row: Any = await connection.fetchrow(DOCUMENTS, order_id)
    if row is None:
        raise OrderNotFound(str(order_id))
    return [row["order_document"], *(row["return_documents"] or ())]


def _movement(row: Any) -> stock_pb.StockMovement:
    return movement_message(row["location_id"], row)


def _event(row: Any) -> pb.OrderEvent:
    data = Struct()
    data.update(row["data"])
    return pb.OrderEvent(
        event_id=str(row["event_id"]),
        type=row["type"],
        subject=row["subject"],
        location_id=row["location_id"] or "",
        actor=row["data"].get("actor") or "",
        request_id=row["request_id"] or "",
        data=data,
        event_time=timestamp(row["time"]),
    )
