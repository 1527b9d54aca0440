"""Units that orders were promised and that are not there: the list of what is open, and what somebody decides about it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from onhand.caller import Caller
from onhand.domain.errors import LocationNotFound, ShortfallNotFound
from onhand.domain.shortage import ShortfallCause, ShortfallStep, decide_to_wait
from onhand.ids import parse_id
from onhand.ledger import shortfalls
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.orders import names
from onhand.paging import decode_token, encode_token, fill, page_size
from onhand.postgres import Connection
from onhand.v1 import order_pb2 as pb
from onhand.v1 import types_pb2
from onhand.wire import timestamp_of_json

# A shortfall `s` as one json value, without its order.
SHORTFALL = """json_build_object(
    'shortfall_id', s.shortfall_id, 'fulfillment_order_id', s.fulfillment_order_id, 'line_number', s.line_number,
    'location_id', s.location_id, 'sku', s.sku, 'quantity', s.quantity, 'open_quantity', s.open_quantity, 'cause', s.cause,
    'reference_document', s.reference_document, 'next_step', s.next_step, 'created_time', s.created_time,
    'updated_time', s.updated_time,
    'ends', (SELECT json_agg(json_build_object('quantity', e.quantity, 'reason', e.reason,
                 'reference_document', e.reference_document, 'ended_time', e.ended_time) ORDER BY e.end_number)
               FROM shortfall_ends e WHERE e.shortfall_id = s.shortfall_id))"""
_SHORTFALLS = f"""
SELECT s.shortfall_id, o.order_id, o.order_number, o.customer_id, {SHORTFALL} AS shortfall
  FROM shortfalls s JOIN fulfillment_orders f USING (fulfillment_order_id) JOIN orders o USING (order_id)"""
_OPEN = f"""{_SHORTFALLS} WHERE s.open_quantity > 0 AND ($1 = '' OR s.location_id = $1)
   AND ($2 = '' OR s.next_step = $2) AND s.shortfall_id > $3 ORDER BY s.shortfall_id LIMIT $4"""
_ONE = f"{_SHORTFALLS} WHERE s.shortfall_id = $1"
_POSITION = "SELECT location_id, sku FROM shortfalls WHERE shortfall_id = $1"
_LOCATION_EXISTS = "SELECT EXISTS (SELECT FROM locations WHERE location_id = $1)"


async def list_shortfalls(
    ledger: Ledger, request: pb.ListShortfallsRequest, caller: Caller
) -> pb.ListShortfallsResponse:
    """OrderService.ListShortfalls."""
    size, after = page_size(request.page_size), decode_token(request, UUID)
    step = names.shortfall_step("next_step", request.next_step).value if request.next_step else ""
    async with ledger.read() as connection:
        rows = await connection.fetch(_OPEN, request.location_id, step, after[0] if after else UUID(int=0), size + 1)
        if not rows and request.location_id and not await connection.fetchval(_LOCATION_EXISTS, request.location_id):
            raise LocationNotFound(request.location_id)
    found, last = fill(rows, size, _listed)
    return pb.ListShortfallsResponse(
        shortfalls=found, next_page_token=encode_token(request, last["shortfall_id"]) if last else ""
    )


async def wait_for_shortfall(
    ledger: Ledger, request: pb.DecideShortfallRequest, caller: Caller
) -> pb.DecideShortfallResponse:
    """OrderService.DecideShortfall, WAIT."""
    shortfall_id = parse_id("shortfall_id", request.shortfall_id)

    async def work(tx: Transaction) -> pb.DecideShortfallResponse:
        position = await tx.connection.fetchrow(_POSITION, shortfall_id)
        if position is None:
            raise ShortfallNotFound(str(shortfall_id))
        await tx.lock_levels([(position["location_id"], position["sku"])])
        row = (await _one(tx.connection, shortfall_id))["shortfall"]
        now = ShortfallStep(row["next_step"])
        then = decide_to_wait(str(shortfall_id), ShortfallCause(row["cause"]), now)
        await shortfalls.set_step(tx, [shortfall_id], now, then)
        return pb.DecideShortfallResponse(shortfall=await listed(tx.connection, shortfall_id))

    return await ledger.mutate(request, pb.DecideShortfallResponse, work)


async def listed(connection: Connection, shortfall_id: UUID) -> pb.Shortfall:
    """A shortfall that is there, as it is now."""
    return _listed(await _one(connection, shortfall_id))


async def _one(connection: Connection, shortfall_id: UUID) -> Any:
    return await connection.fetchrow(_ONE, shortfall_id)


def _listed(row: Any) -> pb.Shortfall:
    return message(row["shortfall"], str(row["order_id"]), row["order_number"], row["customer_id"])


def message(value: dict[str, Any], order_id: str, order_number: str, customer_id: str) -> pb.Shortfall:
    """A SHORTFALL of an order for the wire."""
    return pb.Shortfall(
        shortfall_id=value["shortfall_id"],
        order_id=order_id,
        order_number=order_number,
        customer_id=customer_id,
        fulfillment_order_id=value["fulfillment_order_id"],
        line_number=value["line_number"],
        location_id=value["location_id"],
        sku=value["sku"],
        quantity=value["quantity"],
        open_quantity=value["open_quantity"],
        cause=pb.ShortfallCause.Value(f"SHORTFALL_CAUSE_{value['cause']}"),
        reference_document=value["reference_document"],
        next_step=types_pb2.ShortfallStep.Value(f"SHORTFALL_STEP_{value['next_step']}"),
        ends=[
            pb.ShortfallEnd(
                quantity=end["quantity"],
                reason=pb.ShortfallEndReason.Value(f"SHORTFALL_END_REASON_{end['reason']}"),
                reference_document=end["reference_document"],
                ended_time=timestamp_of_json(end["ended_time"]),
            )
            for end in value["ends"] or ()
        ],
        created_time=timestamp_of_json(value["created_time"]),
        updated_time=timestamp_of_json(value["updated_time"]),
    )
