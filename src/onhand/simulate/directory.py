"""What the answers of a trial say of things by their ids: where work is done, what is short, what a change was to promise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from onhand.v1 import counting_pb2, inventory_pb2, order_pb2, receiving_pb2, returns_pb2

Units = dict[tuple[str, str], int]
"""By (location_id, sku)."""


@dataclass
class Directory:
    """By id, from every answer that named it."""

    places: dict[str, str] = field(default_factory=dict)
    """The location of a fulfillment order."""
    orders: dict[str, str] = field(default_factory=dict)
    """The order of a fulfillment order, of a shortfall, of a return authorization."""
    shorts: dict[str, order_pb2.Shortfall] = field(default_factory=dict)
    """A shortfall as it was answered."""
    promises: dict[str, Units] = field(default_factory=dict)
    """By etag: what a change of an order was to promise, as it was previewed."""
    transfers: dict[str, tuple[str, dict[str, int]]] = field(default_factory=dict)
    """The sender of a transfer, and what was asked of it."""
    coming: dict[tuple[str, str], int] = field(default_factory=dict)
    """By transfer or advance notice, and sku: how many units were sent, or announced."""
    counts: dict[str, str] = field(default_factory=dict)
    """The location of a count."""
    locations: set[str] = field(default_factory=set)
    """All that there are."""

    @classmethod
    def of(cls, answers: Iterable[Any]) -> Directory:
        """From all of them: what a client was told, and what the ledger keeps as told."""
        directory = cls()
        for answer in answers:
            directory._look(answer)
        return directory

    def _look(self, message: Any) -> None:
        if isinstance(message, order_pb2.FulfillmentOrder):
            self.places[message.fulfillment_order_id] = message.location_id
            self.orders[message.fulfillment_order_id] = message.order_id
        elif isinstance(message, order_pb2.Shortfall):
            self.shorts[message.shortfall_id] = message
            self.orders[message.shortfall_id] = message.order_id
        elif isinstance(message, order_pb2.PreviewOrderChangeResponse):
            self.promises[message.etag] = {(s.location_id, s.sku): s.promised_quantity for s in message.stock}
        elif isinstance(message, inventory_pb2.Transfer):
            asked = {line.sku: line.requested_quantity for line in message.lines}
            self.transfers[message.transfer_id] = message.from_location_id, asked
            for line in message.lines:
                self._comes(message.transfer_id, line.sku, line.dispatched_quantity)
        elif isinstance(message, receiving_pb2.AdvanceNotice):
            for notice_line in message.lines:
                self._comes(message.advance_notice_id, notice_line.sku, notice_line.expected_quantity)
        elif isinstance(message, returns_pb2.ReturnAuthorization):
            self.orders[message.return_authorization_id] = message.order_id
        elif isinstance(message, inventory_pb2.Location):
            self.locations.add(message.location_id)
        elif isinstance(message, counting_pb2.Count):
            self.counts[message.count_id] = message.location_id
        for descriptor, value in message.ListFields():
            if descriptor.message_type is None:
                continue
            for part in value if descriptor.is_repeated else (value,):
                if hasattr(part, "ListFields"):
                    self._look(part)

    def _comes(self, id: str, sku: str, units: int) -> None:
        self.coming[id, sku] = max(units, self.coming.get((id, sku), 0))

    def wanted(self, kind: str, request: Any) -> Units:
        """What a decision or an exchange takes from what may be promised, as far as its request says it."""
        if kind == "SubstituteLine":
            place = self.places.get(request.fulfillment_order_id, "")
            return {(place, request.sku): request.substitute_quantity}
        if kind == "DecideShortfall":
            short = self.shorts.get(request.shortfall_id, order_pb2.Shortfall())
            # Where nobody is named, the server chooses: it may have asked any location.
            chosen = [request.location_id] if request.location_id else sorted(set(self.places.values()))
            return {(place, short.sku): short.quantity for place in chosen}
        if kind == "ApplyOrderChange":
            return dict(self.promises.get(request.etag, {}))
        if kind == "DispatchRequestedTransfer":
            place, asked = self.transfers.get(request.transfer_id, ("", {}))
            sent = {line.sku: line.quantity for line in request.lines} or asked
            return {(place, sku): n for sku, n in sent.items()}
        units: Units = {}
        for line in request.sold if kind == "CreateExchange" else ():
            units[request.location_id, line.sku] = units.get((request.location_id, line.sku), 0) + line.quantity
        return units
