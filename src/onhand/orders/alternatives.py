"""What can be offered instead of units that are short: who could bring them, as the policy would choose, and money."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onhand.caller import Caller
from onhand.domain import returns
from onhand.domain.errors import invalid
from onhand.domain.order import FulfillmentKind
from onhand.domain.sourcing import Ranked
from onhand.ids import parse_id
from onhand.ledger.mutation import Ledger
from onhand.orders import names, store
from onhand.orders.resource import position_of, read_excluded, read_short
from onhand.paging import cut, decode_token, encode_token, page_size
from onhand.sourcing import Sourcing
from onhand.v1 import order_pb2 as pb
from onhand.wire import money_to_wire, timestamp

HAVE = """
SELECT s.location_id, s.available - s.safety_stock AS spare, l.offers_pickup, l.offers_shipping
  FROM stock_levels s JOIN locations l USING (location_id)
 WHERE s.sku = $1 AND s.location_id = ANY ($2) AND l.deleted_time IS NULL AND (l.offers_pickup OR l.offers_shipping)"""


@dataclass(frozen=True)
class _Alternative:
    """`number`: where it stands among all that are ranked."""

    number: int
    ranked: Ranked
    level: Any


async def list_shortfall_alternatives(
    ledger: Ledger, sourcing: Sourcing, request: pb.ListShortfallAlternativesRequest, caller: Caller
) -> pb.ListShortfallAlternativesResponse:
    """OrderService.ListShortfallAlternatives."""
    size, after = page_size(request.page_size), decode_token(request, int, str)
    shortfall_id = parse_id("shortfall_id", request.shortfall_id)
    kind = names.fulfillment_kind("kind", request.kind) if request.kind else None
    if kind is FulfillmentKind.CARRY_OUT:
        raise invalid("kind", "must be PICKUP or SHIP")
    async with ledger.read() as connection:
        short = await read_short(connection, shortfall_id)
        excluded = await read_excluded(connection, short)
        line = (await store.lines(connection, short["order_id"]))[short["line_number"]]
    quantity = short["open_quantity"]
    found = await _found(ledger, sourcing, short, kind, excluded) if quantity else []
    refund_minor = returns.refund(
        total_minor=line.total_minor,
        quantity=line.quantity,
        given_back=line.cancelled_quantity + line.returned_quantity,
        now=quantity,
    )
    page, last = cut(_after(found, after), size)
    return pb.ListShortfallAlternativesResponse(
        alternatives=[_message(each) for each in page],
        refund=money_to_wire(refund_minor, short["currency"]),
        next_page_token=encode_token(request, last.number, last.level["location_id"]) if last else "",
    )


async def _found(
    ledger: Ledger, sourcing: Sourcing, short: Any, kind: FulfillmentKind | None, excluded: set[str]
) -> list[_Alternative]:
    """Whoever the policy would choose, and who has all of it besides."""
    ranked = await sourcing.rank(
        (short["sku"], short["open_quantity"]),
        method=kind or FulfillmentKind(short["kind"]),
        channel=short["channel"],
        position=position_of(short),
        excluded=excluded,
    )
    async with ledger.read() as connection:
        rows = await connection.fetch(HAVE, short["sku"], [each.place.location_id for each in ranked])
    levels = {row["location_id"]: row for row in rows}
    found = []
    for number, each in enumerate(ranked):
        level = levels.get(each.place.location_id)
        if level is not None and (each.rule or level["spare"] >= short["open_quantity"]):
            found.append(_Alternative(number, each, level))
    return found


def _after(found: list[_Alternative], after: tuple[Any, ...] | None) -> list[_Alternative]:
    """What comes after the last of the page before, wherever it stands by now."""
    if after is None:
        return found
    number, location_id = after
    for n, each in enumerate(found):
        if each.level["location_id"] == location_id:
            return found[n + 1 :]
    return [each for each in found if each.number >= number]


def _message(each: _Alternative) -> pb.ShortfallAlternative:
    ready_time = each.ranked.ready_time
    return pb.ShortfallAlternative(
        location_id=each.level["location_id"],
        available_quantity=each.level["spare"],
        offers_pickup=each.level["offers_pickup"],
        offers_shipping=each.level["offers_shipping"],
        rule=each.ranked.rule,
        detail=each.ranked.detail,
        distance_metres=each.ranked.place.distance_metres,
        ready_time=None if ready_time is None else timestamp(ready_time),
    )
