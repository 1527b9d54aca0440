"""What calls did to the lines of orders and transfers, in the order of their commits: units, and what these give back.

Calls on one order or transfer are one after the other (its row is locked), so their commits say in which order they were.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from onhand.simulate.amounts import minor_of, share
from onhand.simulate.effects import Did
from onhand.simulate.order_effects import held
from onhand.v1 import order_pb2


class Done(Protocol):
    """A call that had its effect."""

    @property
    def request_id(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def request(self) -> Any: ...
    @property
    def answer(self) -> Any: ...


@dataclass
class Line:
    """A line of an order as the calls say; `total` in minor units."""

    sku: str
    ordered: int
    total: int
    replaces: int = 0
    fulfilled: int = 0
    cancelled: int = 0
    returned: int = 0

    def given_back(self) -> int:
        """What the units that were cancelled or returned so far give back."""
        return share(self.total, self.cancelled + self.returned, self.ordered)


@dataclass
class Accounts:
    """All orders."""

    lines: dict[str, dict[int, Line]] = field(default_factory=lambda: defaultdict(dict))
    made_by: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """By document, which is an order, a return or a transfer: the requests that it is the answer of."""
    did: dict[str, Did] = field(default_factory=dict)
    transfers: dict[str, dict[str, tuple[int, int, int]]] = field(default_factory=dict)
    """By transfer and sku: received, of these more than was sent, and given up as lost."""
    shipments: int = 0
    wrong: list[tuple[Done, str]] = field(default_factory=list)
    """Answers that say another sum than the lines do."""
    charged: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    """By order: what had to be paid for it."""

    def add(self, call: Done, did: Did) -> Did:
        """Counts a call; the next one in the order of commits. Returns what it did, with what it did to lines."""
        keep = _KEEPERS.get(call.kind)
        if keep is not None:
            did = keep(self, call, did) or did
        return did

    # ------------------------------------------------------------------------------------------------------ documents
    def order(self, call: Done, order: order_pb2.Order) -> None:
        """A new order."""
        self.made_by[order.order_id].append(call.request_id)
        for line in order.lines:
            self.lines[order.order_id][line.line_number] = Line(line.sku, line.quantity, minor_of(line.total))
        total = sum(line.total for line in self.lines[order.order_id].values())
        self.charged[order.order_id] += total
        self.check(call, "order.total", minor_of(order.total), total)

    def refund(self, order_id: str, field: str, units: Mapping[int, int]) -> int:
        """Units of lines were cancelled or returned: what they give back."""
        refund = 0
        for number, quantity in units.items():
            line = self.lines[order_id].get(number)
            if line is None or not quantity:
                continue
            before = line.given_back()
            setattr(line, field, getattr(line, field) + quantity)
            refund += line.given_back() - before
        return refund

    def check(self, call: Done, what: str, told: int, due: int) -> None:
        """What an answer says against what follows from the calls."""
        if told != due:
            self.wrong.append((call, f"{what} is {told}, by the lines it is {due}"))


def _sold(accounts: Accounts, call: Done, did: Did) -> None:
    _left_at_once(accounts, call, call.answer.order)


def _left_at_once(accounts: Accounts, call: Done, order: order_pb2.Order) -> None:
    accounts.order(call, order)
    for line in accounts.lines[order.order_id].values():
        line.fulfilled += line.ordered


def _placed(accounts: Accounts, call: Done, did: Did) -> None:
    accounts.order(call, call.answer.order)


def _cancelled(accounts: Accounts, call: Done, did: Did) -> None:
    units = _summed((line.line_number, line.quantity) for line in call.request.lines)
    due = accounts.refund(call.request.order_id, "cancelled", units)
    accounts.check(call, "refund", minor_of(call.answer.refund), due)


def _left(accounts: Accounts, call: Done, did: Did) -> None:
    work = call.answer.fulfillment_order
    for number, quantity in held(work).items():
        accounts.lines[work.order_id][number].fulfilled += quantity
    if getattr(call.request, "cancel_rest", False):
        units = {line.line_number: line.cancelled_quantity for line in call.answer.rest.lines}
        accounts.refund(work.order_id, "cancelled", units)


def _shipped(accounts: Accounts, call: Done, did: Did) -> None:
    _left(accounts, call, did)
    accounts.shipments += 1


def _not_fetched(accounts: Accounts, call: Done, did: Did) -> None:
    work = call.answer.fulfillment_order
    absent = did.absent(work.fulfillment_order_id)
    units = {line.line_number: line.aside_quantity + absent[line.line_number] for line in work.lines}
    accounts.refund(work.order_id, "cancelled", units)


def _substituted(accounts: Accounts, call: Done, did: Did) -> None:
    order, number = call.answer.order, call.answer.substitute_line_number
    due = accounts.refund(order.order_id, "cancelled", {call.request.line_number: call.request.quantity})
    line = next(line for line in order.lines if line.line_number == number)
    new = Line(call.request.sku, call.request.substitute_quantity, minor_of(line.total), call.request.line_number)
    accounts.lines[order.order_id][number] = new
    accounts.check(call, "refund", minor_of(call.answer.refund), due - new.total)


def _changed(accounts: Accounts, call: Done, did: Did) -> Did | None:
    order, lines = call.answer.order, accounts.lines[call.request.order_id]
    if call.request.change.WhichOneof("change") != "quantities":
        accounts.check(call, "charge and refund", minor_of(call.answer.charge) + minor_of(call.answer.refund), 0)
        return None
    fewer, wanted = dict[int, int](), []
    for asked in call.request.change.quantities.lines:
        now = lines[asked.line_number].ordered - lines[asked.line_number].cancelled
        if asked.quantity < now:
            fewer[asked.line_number] = now - asked.quantity
        elif asked.quantity > now:
            wanted.append((lines[asked.line_number].sku, asked.quantity - now))
    more, charge = dict[int, int](), 0
    for line in order.lines:
        if line.line_number not in lines:
            more[line.line_number] = line.quantity
            charge += minor_of(line.total)
    # What was asked for, each as a line of its own; if the answer has others, they are not what was wanted.
    for (sku, quantity), number in zip(wanted, sorted(more), strict=False):
        lines[number] = Line(sku, quantity, next(minor_of(n.total) for n in order.lines if n.line_number == number))
        more[number] = quantity
    accounts.charged[call.request.order_id] += charge
    accounts.check(call, "added lines", len(more), len(wanted))
    accounts.check(call, "charge", minor_of(call.answer.charge), charge)
    due = accounts.refund(call.request.order_id, "cancelled", fewer)
    accounts.check(call, "refund", minor_of(call.answer.refund), due)
    return did._replace(fewer=fewer, more=more)


def _returned(accounts: Accounts, call: Done, did: Did) -> None:
    if call.answer.HasField("returned"):
        _came_back(accounts, call, call.answer.returned)


def _came_back(accounts: Accounts, call: Done, returned: order_pb2.Return) -> None:
    accounts.made_by[returned.return_id].append(call.request_id)
    if returned.order_id:
        units = _summed((line.line_number, line.quantity) for line in returned.lines)
        accounts.check(call, "refund", minor_of(returned.refund), accounts.refund(returned.order_id, "returned", units))


def _exchanged(accounts: Accounts, call: Done, did: Did) -> None:
    exchange = call.answer.exchange
    _came_back(accounts, call, exchange.returned)
    _left_at_once(accounts, call, exchange.order)
    refund, total = minor_of(exchange.returned.refund), minor_of(exchange.order.total)
    told = minor_of(exchange.carried), minor_of(exchange.refunded), minor_of(exchange.paid)
    carried = min(refund, total)
    for what, has, due in zip(
        ("carried", "refunded", "paid"), told, (carried, refund - carried, total - carried), strict=True
    ):
        accounts.check(call, what, has, due)


def _sent(accounts: Accounts, call: Done, did: Did) -> None:
    accounts.made_by[call.answer.transfer.transfer_id].append(call.request_id)


def _arrived(accounts: Accounts, call: Done, did: Did) -> Did:
    transfer, came = call.answer.transfer, dict[str, tuple[int, int]]()
    before = accounts.transfers.get(transfer.transfer_id, {})
    for line in transfer.lines:
        received, over, lost = before.get(line.sku, (0, 0, 0))
        unknown = line.over_quantity - over + lost - line.lost_quantity
        if line.received_quantity > received or unknown:
            came[line.sku] = line.received_quantity - received, unknown
    _closed(accounts, call, did)
    return did._replace(came=came)


def _closed(accounts: Accounts, call: Done, did: Did) -> None:
    transfer = call.answer.transfer
    accounts.transfers[transfer.transfer_id] = {
        line.sku: (line.received_quantity, line.over_quantity, line.lost_quantity) for line in transfer.lines
    }


def _summed(units: Iterable[tuple[int, int]]) -> dict[int, int]:
    summed: dict[int, int] = {}
    for number, quantity in units:
        summed[number] = summed.get(number, 0) + quantity
    return summed


_KEEPERS: Mapping[str, Any] = {
    "PlaceOrder": _placed,
    "Sell": _sold,
    "CancelOrderLines": _cancelled,
    "HandOverFulfillmentOrder": _left,
    "ShipFulfillmentOrder": _shipped,
    "MarkNoShow": _not_fetched,
    "SubstituteLine": _substituted,
    "ApplyOrderChange": _changed,
    "CreateReturn": _returned,
    "ReturnUndelivered": _returned,
    "ReceiveReturn": _returned,
    "CreateBlindReturn": _returned,
    "CreateExchange": _exchanged,
    "DispatchTransfer": _sent,
    "RequestTransfer": _sent,
    "ReceiveTransfer": _arrived,
    "CloseTransfer": _closed,
}
