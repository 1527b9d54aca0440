"""What servers do without a call: requests that they make of themselves, by their ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from onhand.simulate.facts import EndRow, RequestRow
from onhand.simulate.history import message_type
from onhand.v1 import order_pb2

NO_SHOW, LOST_STOCK = "no-show:", "lost-stock/"
FILL = "FillBackorders"
"""Waiting orders get what became free: its ids say nothing, its method does."""


def kind_by_itself(row: RequestRow) -> str:
    """The kind of such a request; empty for one that somebody has to have made."""
    if row.method == FILL:
        return FILL
    return row.method.removesuffix("Request") if row.request_id.startswith((NO_SHOW, LOST_STOCK)) else ""


def request_by_itself(row: RequestRow, kind: str, ends: Sequence[EndRow]) -> tuple[Any, Any]:
    """What was asked and answered, as messages of the API; None of what is none."""
    if kind == FILL:
        return None, None
    answer: Any = message_type(kind, "Response").FromString(row.response)
    if row.request_id.startswith(NO_SHOW):
        work = row.request_id.split(":")[1]
        request: Any = order_pb2.MarkNoShowRequest(fulfillment_order_id=work, only_if_due=True)
    elif kind == "DecideShortfall":
        _, shortfall_id, *rest = row.request_id.split("/")
        request = order_pb2.DecideShortfallRequest(
            shortfall_id=shortfall_id, decision=order_pb2.SHORTFALL_DECISION_RESOURCE
        )
        if rest == ["wait"]:
            request.decision = order_pb2.SHORTFALL_DECISION_WAIT
    else:  # what is still short of an order is cancelled
        request = order_pb2.CancelOrderLinesRequest(order_id=answer.order.order_id)
        units = Counter[int]()
        for end in ends:
            units[end.line_number] += end.quantity
        for number, quantity in sorted(units.items()):
            request.lines.add(line_number=number, quantity=quantity)
    request.request_id = row.request_id
    return request, answer
