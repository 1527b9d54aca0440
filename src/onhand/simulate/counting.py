"""Cycle counts: a store counts what it just sold while it goes on selling; what differs is counted again, and booked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from google.protobuf.message import Message

from onhand.simulate.audit import Flow
from onhand.simulate.calls import Request, Rpc
from onhand.simulate.refilling import Refilling
from onhand.simulate.steps import digest
from onhand.v1 import counting_pb2, inventory_pb2

SKUS_MAX = 3
"""Items of a count."""
DIFFERS_ONE_IN = 8
"""Of how many items somebody counts a unit more than is known; and of how many a unit less."""

Answer = TypeVar("Answer", bound=Message)


class Counting(Refilling):
    """The shelves of a store, counted while it is open."""

    async def count(self) -> None:
        """Counts some items, has those counted again that are not as they should be, and books the count."""
        skus = [line.sku for line in self.play.goods[:SKUS_MAX]]
        request = counting_pb2.StartCountRequest(
            request_id=self.request_id("count"),
            location_id=self.store,
            scope=counting_pb2.COUNT_SCOPE_SKUS,
            skus=skus,
            is_blind=self.draw("blind", 2) == 0,
        )
        count_id = (await self.change(self.stubs.counts.StartCount, request)).count.count_id
        await self._submit("submit", count_id, skus)
        refusal = await self._approve(count_id, skus, is_seen=False)
        if refusal in ("COUNT_OUT_OF_TOLERANCE", "ILLEGAL_STEP"):
            again = counting_pb2.RequestRecountRequest(
                request_id=self.request_id("recount"), count_id=count_id, skus=skus
            )
            await self._try(self.stubs.counts.RequestRecount, again)
            await self._submit("resubmit", count_id, skus)
            refusal = await self._approve(count_id, skus, is_seen=True)
            self.world.tally.add("recounts")
        if refusal == "COUNT_OUTDATED":  # another count of the same was booked meanwhile
            cancel = counting_pb2.CancelCountRequest(request_id=self.request_id("uncount"), count_id=count_id)
            await self._try(self.stubs.counts.CancelCount, cancel)
            self.world.tally.add("counts_outdated")
        elif not refusal:
            self.world.tally.add("counts")

    async def _try(self, rpc: Rpc[Request, Answer], request: Request, *fair: str) -> Answer | str:
        """A step; a run that is continued may have taken it before, or one after it."""
        return await self.attempt(rpc, request, (*fair, "ILLEGAL_STEP") if self.world.is_continued else fair)

    async def _submit(self, step: str, count_id: str, skus: Sequence[str]) -> None:
        """What somebody sees on the shelf: what the ledger knows of, but for a unit."""
        lines = []
        for sku in skus:
            position = inventory_pb2.GetStockPositionRequest(location_id=self.store, sku=sku)
            on_hand = (await self.read(self.stubs.inventory.GetStockPosition, position)).position.on_hand
            differs = self.draw(f"counted {sku}", DIFFERS_ONE_IN)
            seen = max(0, on_hand + (1 if differs == 0 else -1 if differs == 1 else 0))
            lines.append(counting_pb2.CountEntry(sku=sku, counted_quantity=seen))
        request = counting_pb2.SubmitCountRequest(count_id=count_id, lines=lines)
        # A run that is continued may see something else than the one before it did.
        request.request_id = self.request_id(f"{step}-{digest(request)}")
        submitted = await self._try(self.stubs.counts.SubmitCount, request)
        if isinstance(submitted, str):
            return
        self.check(
            {e.sku: e.counted_quantity for e in submitted.lines} == {e.sku: e.counted_quantity for e in lines},
            "a count keeps something else than was counted",
        )

    async def _approve(self, count_id: str, skus: Sequence[str], *, is_seen: bool) -> str:
        """Books it: what differs, only once somebody has seen that. The reason, if it is not booked."""
        approved = await self._try(
            self.stubs.counts.ApproveCount,
            counting_pb2.ApproveCountRequest(
                request_id=self.request_id("approveseen" if is_seen else "approve"),
                count_id=count_id,
                skus=skus,
                accepts_out_of_tolerance=is_seen,
            ),
            "COUNT_OUTDATED",
            *(() if is_seen else ("COUNT_OUT_OF_TOLERANCE",)),
        )
        if isinstance(approved, str):
            return approved
        for result in approved.results:
            is_booked = is_seen or not result.variance_quantity
            self.check(is_booked, f"a difference of {result.variance_quantity} was booked that nobody saw")
            self.moved(self.store, result.level.sku, Flow.FOUND, max(0, result.variance_quantity))
        state = approved.count.state
        self.check(state == counting_pb2.COUNT_STATE_APPROVED, "a count of which all is booked is not APPROVED")
        return ""
