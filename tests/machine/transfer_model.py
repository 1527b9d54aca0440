"""The model of transfers: asked for, sent, received bit by bit, lost or back. See model.py for how to read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from machine import order_model
from machine.model import Fields, Lines, Refused, given_id, invalid, summed

STEPS = {
    "REQUESTED": ("DISPATCH", "CANCEL"),
    "IN_TRANSIT": ("RECEIVE", "CLOSE"),
    "RECEIVED": ("RECEIVE",),
    "CLOSED": ("RECEIVE",),
    "CANCELLED": (),
}
OPEN = ("REQUESTED", "IN_TRANSIT")


@dataclass
class Line:
    """Units of a sku."""

    requested: int = 0
    sent: int = 0
    got: int = 0
    lost: int = 0
    back: int = 0

    @property
    def on_way(self) -> int:
        """Units between the two locations."""
        return self.sent - self.got - self.lost - self.back


@dataclass
class Transfer:
    """Units on their way, or asked for."""

    origin: str
    destination: str
    state: str
    lines: dict[str, Line]
    reason: str = ""


class Model(order_model.Model):
    """Orders, and transfers."""

    def inbound(self, place: str, sku: str) -> int:
        """What transfers bring."""
        to_here = [t for t in self.transfers.values() if t.destination == place and t.state == "IN_TRANSIT"]
        return sum(t.lines[sku].on_way for t in to_here if sku in t.lines)

    def open_transfers(self, place: str) -> int:
        """Those of which somebody still has to do something."""
        return sum(place in (t.origin, t.destination) and t.state in OPEN for t in self.transfers.values())

    def transfer(self, transfer_id: str) -> Fields:
        """Transfer."""
        transfer = self.transfers[transfer_id]
        return {
            "transfer_id": transfer_id,
            "from_location_id": transfer.origin,
            "to_location_id": transfer.destination,
            "state": transfer.state,
            "reason_code": transfer.reason,
            "lines": [
                {
                    "sku": sku,
                    "requested_quantity": line.requested,
                    "dispatched_quantity": line.sent,
                    "received_quantity": line.got,
                    "over_quantity": 0,
                    "lost_quantity": line.lost,
                    "returned_quantity": line.back,
                    "in_transit_quantity": line.on_way,
                }
                for sku, line in sorted(transfer.lines.items())
            ],
        }

    def _must_allow_transfer(self, transfer_id: str, step: str) -> Transfer:
        if transfer_id not in self.transfers:
            raise Refused("TRANSFER_NOT_FOUND", transfer_id=transfer_id)
        transfer: Transfer = self.transfers[transfer_id]
        if step not in STEPS[transfer.state]:
            raise Refused(
                "ILLEGAL_STEP",
                document=f"transfer/{transfer_id}",
                state=transfer.state,
                step=step,
                legal_steps=", ".join(STEPS[transfer.state]) or "nothing",
            )
        return transfer

    def _send(self, transfer_id: str, total: dict[str, int]) -> None:
        transfer = self.transfers[transfer_id]
        for sku, quantity in total.items():
            transfer.lines.setdefault(sku, Line()).sent = quantity
            document = f"transfer/{transfer_id}"
            self.move(transfer.origin, sku, quantity, "AVAILABLE", "IN_TRANSIT", "TRANSFER_OUT", document)
        transfer.state = "IN_TRANSIT"

    # ------------------------------------------------------------------------------------------------------- ask and send
    def request_transfer(self, given: Any, from_location_id: str, to_location_id: str, lines: Lines) -> Fields:
        """Asks for units: nothing moves."""
        if from_location_id == to_location_id:
            raise invalid("to_location_id")
        total = summed(lines)
        for place in sorted((from_location_id, to_location_id)):
            self.must_know_place(place)
            self.must_know_sku(total)
        transfer_id = given_id(given, "transfer", "transfer_id")
        asked = {sku: Line(requested=quantity) for sku, quantity in total.items()}
        self.transfers[transfer_id] = Transfer(from_location_id, to_location_id, "REQUESTED", asked)
        return {"transfer": self.transfer(transfer_id)}

    def dispatch_transfer(self, given: Any, from_location_id: str, to_location_id: str, lines: Lines) -> Fields:
        """available -> in_transit: a decision."""
        if from_location_id == to_location_id:
            raise invalid("to_location_id")
        total = summed(lines)
        self.must_promise({from_location_id: total})
        self.must_know_place(to_location_id)
        transfer_id = given_id(given, "transfer", "transfer_id")
        self.transfers[transfer_id] = Transfer(from_location_id, to_location_id, "IN_TRANSIT", {})
        self._send(transfer_id, total)
        return {"transfer": self.transfer(transfer_id)}

    def dispatch_requested_transfer(self, given: Any, transfer_id: str, lines: Lines) -> Fields:
        """REQUESTED -> IN_TRANSIT: what was asked for, or what there is."""
        transfer = self._must_allow_transfer(transfer_id, "DISPATCH")
        total = summed(lines) or {sku: line.requested for sku, line in sorted(transfer.lines.items())}
        self.must_promise({transfer.origin: total})
        self._send(transfer_id, total)
        return {"transfer": self.transfer(transfer_id)}

    def cancel_transfer(self, given: Any, transfer_id: str, reason_code: str) -> Fields:
        """REQUESTED -> CANCELLED."""
        transfer = self._must_allow_transfer(transfer_id, "CANCEL")
        transfer.state, transfer.reason = "CANCELLED", reason_code
        return {"transfer": self.transfer(transfer_id)}

    # -------------------------------------------------------------------------------------------------- receive and close
    def receive_transfer(self, given: Any, transfer_id: str, lines: Lines) -> Fields:
        """in_transit -> available, never more than is known to be on its way, or was lost. No lines: all on its way."""
        transfer = self._must_allow_transfer(transfer_id, "RECEIVE")
        wanted = summed(lines) or {sku: n.on_way for sku, n in sorted(transfer.lines.items()) if n.on_way}
        if not wanted:
            sku = min(transfer.lines)
            sent = transfer.lines[sku].sent
            raise Refused("TRANSFER_EXCEEDED", transfer_id=transfer_id, sku=sku, in_transit=0, received=sent)
        for sku, quantity in wanted.items():
            line = transfer.lines.get(sku, Line())
            there = line.on_way + line.lost
            if quantity > there:
                raise Refused(
                    "TRANSFER_EXCEEDED", transfer_id=transfer_id, sku=sku, in_transit=there, received=quantity
                )
        self.must_know_place(transfer.destination)
        for sku, quantity in wanted.items():
            line, place, document = transfer.lines[sku], transfer.destination, f"transfer/{transfer_id}"
            found = max(0, quantity - line.on_way)
            line.lost -= found
            line.got += quantity
            self.move(place, sku, found, "ADJUSTMENT", "IN_TRANSIT", "TRANSFER_FOUND", document)
            self.move(place, sku, quantity, "IN_TRANSIT", "AVAILABLE", "TRANSFER_IN", document)
        if not any(line.on_way or line.lost or line.back for line in transfer.lines.values()):
            transfer.state = "RECEIVED"
        grown = {(transfer.destination, sku): quantity for sku, quantity in wanted.items()}
        self.cover(grown, "TRANSFER_IN", f"transfer/{transfer_id}")
        return {"transfer": self.transfer(transfer_id)}

    def close_transfer(self, given: Any, transfer_id: str, loss: str, reason_code: str) -> Fields:
        """IN_TRANSIT -> CLOSED: what is on its way is lost, or back at its sender."""
        transfer = self._must_allow_transfer(transfer_id, "CLOSE")
        document, grown = f"transfer/{transfer_id}", dict[tuple[str, str], int]()
        for sku, line in sorted(transfer.lines.items()):
            units = line.on_way
            if not units:
                continue
            if loss == "BACK_AT_SENDER":
                line.back += units
                self.move(transfer.origin, sku, units, "IN_TRANSIT", "AVAILABLE", "TRANSFER_BACK", document)
                grown[transfer.origin, sku] = units
            else:
                line.lost += units
                self.move(transfer.destination, sku, units, "IN_TRANSIT", "ADJUSTMENT", "TRANSFER_LOST", document)
                task = {"sku": sku, "reason_code": "TRANSFER_LOST", "reference_document": document}
                self.count_tasks[transfer.origin].setdefault(sku, task)
        transfer.state, transfer.reason = "CLOSED", reason_code
        self.cover(grown, "TRANSFER_BACK", document)
        return {"transfer": self.transfer(transfer_id)}
