"""What a change of an order does, worked out before it is made: the same plan is shown, agreed to, and then carried out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from onhand.domain import money
from onhand.domain.cart import UnitPrice
from onhand.domain.errors import OrderLineNotFound
from onhand.domain.order import Cancellation, FulfillmentPart, FulfillmentState, plan_cancellation
from onhand.domain.stock import Position
from onhand.domain.work_errors import LineNotToRaise

RAISABLE = (FulfillmentState.REQUESTED, FulfillmentState.ACCEPTED)
"""States of work to which units may be added: nobody has picked it yet."""


@dataclass(frozen=True)
class OrderedLine:
    """A line as far as a change looks at it."""

    sku: str
    quantity: int
    cancelled_quantity: int


@dataclass(frozen=True)
class Addition:
    """Units that a fulfillment order brings besides, as a line of their own."""

    line_number: int
    fulfillment_order_id: str
    sku: str
    quantity: int


@dataclass(frozen=True)
class Quantities:
    """Other quantities of lines: what is cancelled (`fewer`, by line, and where), and what is added."""

    fewer: Mapping[int, int]
    cancellations: Sequence[Cancellation]
    additions: Sequence[Addition]


def plan_quantities(
    order_id: str,
    lines: Mapping[int, OrderedLine],
    parts: Sequence[FulfillmentPart],
    wanted: Iterable[tuple[int, int]],
) -> Quantities:
    """What (line_number, quantity) pairs, each line once, make of an order: cancelled units do not count as wanted.

    Raises `OrderLineNotFound`, `CancelExceeded`, `LineNotToRaise`. More units are brought by the work that is least far.
    """
    fewer: dict[int, int] = {}
    additions: list[Addition] = []
    for number, quantity in wanted:
        if number not in lines:
            raise OrderLineNotFound(order_id, number)
        now = lines[number].quantity - lines[number].cancelled_quantity
        if quantity < now:
            fewer[number] = now - quantity
        elif quantity > now:
            able = [p for p in parts if p.line_number == number and p.state in RAISABLE and p.quantity]
            if not able:
                raise LineNotToRaise(order_id, number)
            first = min(able, key=lambda p: (RAISABLE.index(p.state), p.fulfillment_order_id))
            additions.append(Addition(number, first.fulfillment_order_id, lines[number].sku, quantity - now))
    return Quantities(fewer, plan_cancellation(order_id, parts, fewer.items()), additions)


def freed(
    cancellations: Iterable[Cancellation], parts: Iterable[FulfillmentPart], places: Mapping[str, str]
) -> Counter[Position]:
    """Units that can be sold again, by position: short ones cannot, and they are cancelled first."""
    short = {(p.fulfillment_order_id, p.line_number): p.short for p in parts}
    units = Counter[Position]()
    for c in cancellations:
        units[places[c.fulfillment_order_id], c.sku] += max(
            0, c.quantity - short.get((c.fulfillment_order_id, c.line_number), 0)
        )
    return +units


def charge(price: UnitPrice, quantity: int) -> int:
    """What added units cost, in minor units."""
    return money.line_total(price.amount_minor, price.price_quantity, quantity)
