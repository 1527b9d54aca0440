"""Transfers: what a store lacks is sent by another location, arrives whole, broken or short, and is booked as it came."""

from __future__ import annotations

from collections.abc import Sequence

from onhand.simulate.audit import Flow
from onhand.simulate.sourced import Sourced
from onhand.simulate.steps import basket_line
from onhand.v1 import inventory_pb2, types_pb2

LINES_MAX = 3
"""Items that a refill brings."""

Lines = Sequence[types_pb2.BasketLine]


class Refilling(Sourced):
    """Goods on their way between two locations."""

    async def refill(self) -> None:
        """A store asks for what it sold, or a warehouse sends it unasked; it comes whole, in parts, or not all of it."""
        lines = [basket_line(line.sku, line.quantity) for line in self.play.goods[:LINES_MAX]]
        await self.transfer("refill", self.store, lines, way=self.draw("refill", 3))

    async def transfer(self, step: str, place: str, lines: Lines, *, way: int = 1) -> bool:
        """Whether another location sent it all. Of three ways one is asked for first, and one does not arrive whole."""
        sender = self._sender(place)
        if not sender:
            return False
        sent = await self._ask(step, sender, place, lines) if way == 0 else await self._send(step, sender, place, lines)
        if sent is None:
            self.world.tally.add("transfers_refused")
            return False
        self.world.tally.add("transfers_dispatched")
        for line in lines:
            self.moved(sender, line.sku, Flow.SENT, line.quantity)
        if way != 2:
            await self._receive(step, sent, lines)
        elif not await self._receive_in_part(step, sent, lines):
            return False
        self.world.tally.add("transfers")
        return way != 2

    def _sender(self, place: str) -> str:
        """A warehouse, or another store where there is none."""
        others = [warehouse for warehouse in self.world.warehouses if warehouse != place]
        others = others or sorted(store for store in self.world.stores if store != place)
        return others[self.draw("sender", len(others))] if others else ""

    async def _ask(self, step: str, sender: str, place: str, lines: Lines) -> inventory_pb2.Transfer | None:
        inventory = self.stubs.inventory
        asked = await self.change(
            inventory.RequestTransfer,
            inventory_pb2.RequestTransferRequest(
                request_id=self.request_id(f"ask{step}"), from_location_id=sender, to_location_id=place, lines=lines
            ),
        )
        id = asked.transfer.transfer_id
        sent = await self.attempt(
            inventory.DispatchRequestedTransfer,
            inventory_pb2.DispatchRequestedTransferRequest(request_id=self.request_id(f"send{step}"), transfer_id=id),
            # A run that is continued may have declined it before.
            ("INSUFFICIENT_STOCK", "ILLEGAL_STEP") if self.world.is_continued else ("INSUFFICIENT_STOCK",),
        )
        if not isinstance(sent, str):
            return sent.transfer
        await self.change(
            inventory.CancelTransfer,
            inventory_pb2.CancelTransferRequest(
                request_id=self.request_id(f"decline{step}"), transfer_id=id, reason_code="NOT_THERE"
            ),
        )
        return None

    async def _send(self, step: str, sender: str, place: str, lines: Lines) -> inventory_pb2.Transfer | None:
        sent = await self.attempt(
            self.stubs.inventory.DispatchTransfer,
            inventory_pb2.DispatchTransferRequest(
                request_id=self.request_id(f"send{step}"), from_location_id=sender, to_location_id=place, lines=lines
            ),
            ("INSUFFICIENT_STOCK",),
        )
        return None if isinstance(sent, str) else sent.transfer

    async def _receive(self, step: str, sent: inventory_pb2.Transfer, lines: Lines) -> None:
        received = await self.change(
            self.stubs.inventory.ReceiveTransfer,
            inventory_pb2.ReceiveTransferRequest(
                request_id=self.request_id(f"receive{step}"), transfer_id=sent.transfer_id
            ),
        )
        is_whole = received.transfer.state == inventory_pb2.TRANSFER_STATE_RECEIVED
        self.check(is_whole, "a transfer of which all arrived is not RECEIVED")
        for line in lines:
            self.moved(sent.to_location_id, line.sku, Flow.ARRIVED, line.quantity)

    async def _receive_in_part(self, step: str, sent: inventory_pb2.Transfer, lines: Lines) -> bool:
        """A unit of the first line arrives broken, or not at all: then it is lost, or back where it came from.

        Whether anything arrived.
        """
        inventory, first, others = self.stubs.inventory, lines[0], list(lines[1:])
        fate = self.draw("fate", 3)
        rest = [basket_line(first.sku, first.quantity - 1)] if first.quantity > 1 else []
        broken = [basket_line(first.sku, 1)] if fate == 0 else []
        if arrived := rest + others + broken:
            await self.change(
                inventory.ReceiveTransfer,
                inventory_pb2.ReceiveTransferRequest(
                    request_id=self.request_id(f"receive{step}"),
                    transfer_id=sent.transfer_id,
                    lines=rest + others,
                    damaged_lines=broken,
                ),
            )
        for line in arrived:
            self.moved(sent.to_location_id, line.sku, Flow.ARRIVED, line.quantity)
        if broken:
            return True
        is_back = fate == 1
        loss = inventory_pb2.TRANSFER_LOSS_BACK_AT_SENDER if is_back else inventory_pb2.TRANSFER_LOSS_LOST
        closed = await self.change(
            inventory.CloseTransfer,
            inventory_pb2.CloseTransferRequest(
                request_id=self.request_id(f"close{step}"),
                transfer_id=sent.transfer_id,
                loss=loss,
                reason_code="NOT_ARRIVED",
            ),
        )
        on_way = sum(line.in_transit_quantity for line in closed.transfer.lines)
        self.check(on_way == 0, f"{on_way} units of a closed transfer are still on their way")
        if is_back:
            self.moved(sent.from_location_id, first.sku, Flow.ARRIVED, 1)
        return bool(arrived)
