"""ListReturnableLines: what may come back, by order, receipt or customer."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from onhand.caller import Caller
from onhand.domain import returns as rules
from onhand.domain.errors import OrderNotFound, invalid
from onhand.domain.returns import Fulfilled, ReturnPolicy
from onhand.ids import parse_id
from onhand.ledger.mutation import Ledger
from onhand.orders import codes
from onhand.orders.returns import AUTHORIZED, FULFILLED_TIME
from onhand.paging import decode_token, encode_token, fill, page_size
from onhand.v1 import returns_pb2 as pb
from onhand.wire import money_to_wire, timestamp

_RETURNABLE = f"""
SELECT l.order_id, l.line_number, o.order_number, o.currency, l.sku, p.name, p.department, l.quantity, l.total_minor,
       l.fulfilled_quantity, l.cancelled_quantity, l.returned_quantity, k.authorized, {FULFILLED_TIME} AS fulfilled_time,
       now() AS now
  FROM orders o JOIN order_lines l USING (order_id) JOIN products p USING (sku)
 CROSS JOIN LATERAL (SELECT {AUTHORIZED} AS authorized) AS k
 WHERE l.fulfilled_quantity > l.returned_quantity + k.authorized"""
_PAGE = "ORDER BY o.order_id DESC, l.line_number LIMIT"
# After (order, line), the newest order first. The null of a first page is after nothing.
OF_ORDER = f"{_RETURNABLE} AND o.order_id = $1 AND l.line_number > coalesce($2, 0) {_PAGE} $3"
OF_CUSTOMER = f"""{_RETURNABLE} AND o.customer_id = $1 AND o.customer_id <> ''
   AND o.order_id <= coalesce($2, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)
   AND (o.order_id < coalesce($2, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid) OR l.line_number > $3) {_PAGE} $4"""
BY_ID = "SELECT order_id FROM orders WHERE order_id = $1"
BY_NUMBER = "SELECT order_id FROM orders WHERE order_number = $1"


async def list_returnable_lines(
    ledger: Ledger, policy: ReturnPolicy, request: pb.ListReturnableLinesRequest, caller: Caller
) -> pb.ListReturnableLinesResponse:
    """ReturnService.ListReturnableLines."""
    if sum(map(bool, (request.order_id, request.order_number, request.customer_id))) != 1:
        raise invalid("order_id", "give either it, or an order_number, or a customer_id")
    size, after = page_size(request.page_size), decode_token(request, UUID, int) or (None, None)
    async with ledger.read() as connection:
        if request.customer_id:
            rows = await connection.fetch(OF_CUSTOMER, request.customer_id, *after, size + 1)
        else:
            if request.order_id:
                order_id = await connection.fetchval(BY_ID, parse_id("order_id", request.order_id))
            else:
                order_id = await connection.fetchval(BY_NUMBER, codes.order_number(request.order_number))
            if order_id is None:
                raise OrderNotFound(request.order_id or request.order_number)
            rows = await connection.fetch(OF_ORDER, order_id, after[1], size + 1)
    lines, last = fill(rows, size, lambda row: _line(policy, row))
    token = encode_token(request, last["order_id"], last["line_number"]) if last else ""
    return pb.ListReturnableLinesResponse(lines=lines, next_page_token=token)


def _line(policy: ReturnPolicy, row: Any) -> pb.ReturnableLine:
    order_id = str(row["order_id"])
    returnable = row["fulfilled_quantity"] - row["returned_quantity"] - row["authorized"]
    refund_minor = rules.refund(
        total_minor=row["total_minor"],
        quantity=row["quantity"],
        given_back=row["cancelled_quantity"] + row["returned_quantity"],
        now=returnable,
    )
    fact = Fulfilled(row["line_number"], row["sku"], row["department"], row["fulfilled_time"])
    window_end = policy.window_end(row["department"], row["fulfilled_time"])
    return pb.ReturnableLine(
        order_id=order_id,
        order_number=row["order_number"],
        line_number=row["line_number"],
        sku=row["sku"],
        name=row["name"],
        fulfilled_quantity=row["fulfilled_quantity"],
        returned_quantity=row["returned_quantity"],
        authorized_quantity=row["authorized"],
        returnable_quantity=returnable,
        refund=money_to_wire(refund_minor, row["currency"]),
        fulfilled_time=timestamp(row["fulfilled_time"]),
        window_end_time=None if window_end is None else timestamp(window_end),
        refusals=[refusal.reason for refusal in rules.policy_refusals(policy, order_id, [fact], row["now"])],
    )
