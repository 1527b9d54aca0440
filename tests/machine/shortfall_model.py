"""The model of broken promises: units that somebody was promised and that are not there. See model.py for how to read it.

Goods in somebody's hand, or a count, are facts. What they say of promises made to others: the softer promise breaks first
(reservations, then orders not picked yet, then picked ones by a count only), and of equals the youngest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ON_SHELF, PICKED = ("REQUESTED", "ACCEPTED"), ("PICKED", "READY_FOR_PICKUP")
AT_LOCATION = (*ON_SHELF, *PICKED)
"""The units are still there, allocated; in this order work is cancelled."""


REJECTED = ("NOT_FOUND", "DAMAGED", "CLOSED")
"""Why a location does not bring units."""


@dataclass
class Work:
    """A fulfillment order; lines: line number -> [quantity, cancelled]."""

    order_id: str
    place: str
    kind: str
    lines: dict[int, list[int]]
    skus: dict[int, str]
    state: str
    code: str = ""
    failures: int = 0
    attempts: set[tuple[str, str]] = field(default_factory=set)
    parcels: list[dict[str, Any]] = field(default_factory=list)
    waits_until: int = 0
    """Until when it is held for its customer at least, in microseconds; 0 where nobody asked for it."""
    arrival: dict[str, str] | None = None
    reason: str = "UNSPECIFIED"
    """Why its location rejected it."""
    aside: dict[int, int] = field(default_factory=dict)
    """Units of lines that nobody fetched, and that are still to be put away."""


@dataclass
class Shortfall:
    """Units of one line of a work that are not there."""

    work_id: str
    line: int
    place: str
    sku: str
    quantity: int
    left: int
    cause: str
    document: str
    next_step: str
    ends: list[dict[str, Any]] = field(default_factory=list)
    shortfall_id: str = "?"

    def end(self, units: int, reason: str, document: str) -> None:
        """Units that are short no more."""
        self.left -= units
        self.ends.append({"quantity": units, "reason": reason, "reference_document": document})
        if not self.left:
            self.next_step = "NONE"

    def shown(self) -> dict[str, Any]:
        """Shortfall, as far as it is not the order's."""
        return {
            "fulfillment_order_id": self.work_id,
            "line_number": self.line,
            "location_id": self.place,
            "sku": self.sku,
            "quantity": self.quantity,
            "open_quantity": self.left,
            "cause": self.cause,
            "reference_document": self.document,
            "next_step": self.next_step,
            "ends": self.ends,
        }


class Shortfalls:
    """What orders and reservations lack. Work and shortfalls are kept in the order in which they were made."""

    move: Any
    shelves: Any
    reservations: Any
    count_tasks: Any

    def __init__(self) -> None:
        self.works: dict[str, Work] = {}
        self.shortfalls: list[Shortfall] = []

    # --------------------------------------------------------------------------------------------------------- orders
    def short_at(self, place: str, sku: str) -> list[Shortfall]:
        """Open ones of a position, the oldest promise first; what a location rejected, nothing that comes in there mends."""
        age = list(self.works)
        found = [s for s in self.shortfalls if s.left and (s.place, s.sku) == (place, sku) and s.cause not in REJECTED]
        return sorted(found, key=lambda s: (age.index(s.work_id), s.line))

    def short_of(self, work_id: str, line: int | None = None) -> list[Shortfall]:
        """Open ones of a work, or of one of its lines."""
        return [s for s in self.shortfalls if s.left and s.work_id == work_id and line in (None, s.line)]

    def break_orders(self, place: str, sku: str, units: int, cause: str, document: str, besides: str = "") -> int:
        """A fact says that units are gone: whose? What is nobody's broke no promise. Returns how many were somebody's."""
        broken = 0
        for states in (ON_SHELF, PICKED) if cause == "COUNT" else (ON_SHELF,):
            for work_id, work in reversed(list(self.works.items())):
                for line in sorted(work.lines, reverse=True):
                    if (work.place, work.skus[line]) != (place, sku) or work.state not in states or work_id == besides:
                        continue
                    there = (
                        work.lines[line][0] - work.lines[line][1] - sum(s.left for s in self.short_of(work_id, line))
                    )
                    taken = min(units - broken, there)
                    if taken <= 0:
                        continue
                    step = "CHOOSE" if cause == "COUNT" else "COUNT"
                    self.shortfalls.append(Shortfall(work_id, line, place, sku, taken, taken, cause, document, step))
                    order = f"order/{work.order_id}"
                    self.move(place, sku, taken, "ALLOCATED", "ADJUSTMENT", "SHORTFALL_OPENED", order)
                    broken += taken
        return broken

    def cover(self, grown: Mapping[tuple[str, str], int], why: str, document: str) -> None:
        """Units that came into `available` go to orders that lack them, before anybody else."""
        for (place, sku), units in sorted(grown.items()):
            for shortfall in self.short_at(place, sku):
                taken = min(units, shortfall.left)
                if taken:
                    units -= taken
                    shortfall.end(taken, "COUNTED" if why == "COUNT" else "COVERED", document)
                    order = f"order/{self.works[shortfall.work_id].order_id}"
                    self.move(place, sku, taken, "AVAILABLE", "ALLOCATED", "SHORTFALL_COVERED", order)

    def hold(self, work_id: str) -> None:
        """Somebody has the goods in hand: they were there."""
        order = f"order/{self.works[work_id].order_id}"
        for shortfall in self.short_of(work_id):
            units = shortfall.left
            shortfall.end(units, "IN_HAND", order)
            self.move(shortfall.place, shortfall.sku, units, "ADJUSTMENT", "ALLOCATED", "SHORTFALL_FOUND", order)

    def give_up(self, work_id: str, line: int, units: int, reason: str = "CANCELLED") -> int:
        """Units that go and are not there are short no more. Returns how many these were."""
        absent = 0
        for shortfall in self.short_of(work_id, line):
            taken = min(units - absent, shortfall.left)
            if taken:
                shortfall.end(taken, reason, f"order/{self.works[work_id].order_id}")
                absent += taken
        return absent

    def counted(self, place: str, sku: str) -> None:
        """What is short after a count is not there."""
        for shortfall in self.short_at(place, sku):
            if shortfall.next_step == "COUNT":
                shortfall.next_step = "CHOOSE"

    # --------------------------------------------------------------------------------------------------- reservations
    def needed_by_older(self, reservation_id: str, place: str, sku: str) -> int:
        """What active reservations made before this one hold of a position."""
        made = self.reservations[reservation_id].made
        return sum(
            r.baskets.get(place, {}).get(sku, 0)
            for r in self.reservations.values()
            if r.state == "ACTIVE" and r.made < made
        )

    def short_of_reservation(self, reservation_id: str) -> list[dict[str, Any]]:
        """ReservationShortfalls: of a position the oldest reservation has its units first."""
        found = []
        reservation = self.reservations[reservation_id]
        for place, lines in sorted(reservation.baskets.items()) if reservation.state == "ACTIVE" else ():
            for sku, quantity in sorted(lines.items()):
                left = self.shelves[place, sku].held["AVAILABLE"] - self.needed_by_older(reservation_id, place, sku)
                if left < quantity:
                    found.append(
                        {
                            "reservation_id": reservation_id,
                            "location_id": place,
                            "sku": sku,
                            "quantity": quantity,
                            "short_quantity": min(quantity, quantity - left),
                            "next_step": "COUNT" if sku in self.count_tasks[place] else "CHOOSE",
                        }
                    )
        return found
