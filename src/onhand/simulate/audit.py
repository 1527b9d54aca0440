"""The auditor of a replay: checks every answer as it comes, and followed positions against their movements at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, TypeVar

from onhand.simulate.calls import Client, GaveUp
from onhand.v1 import inventory_pb2

EVIDENCE_MAX = 20
"""How many violations are described; all are counted."""
READS_AT_ONCE = 16
SNAPSHOT_TRIES_MAX = 20
"""How often a position is read anew because something moved there meanwhile."""
MOVEMENTS_PAGE = 500
MOVEMENT_PAGES_MAX = 40

Position = tuple[str, str]
Result = TypeVar("Result")

_BUCKETS = {
    inventory_pb2.BUCKET_AVAILABLE: "available",
    inventory_pb2.BUCKET_ALLOCATED: "allocated",
    inventory_pb2.BUCKET_DAMAGED: "damaged",
    inventory_pb2.BUCKET_QUARANTINE: "quarantine",
}


class Flow(Enum):
    """What the answers say of units of a position, and the movements have to say too."""

    LEFT = "left with customers"
    CAME_BACK = "came back from customers"
    RECEIVED = "came from suppliers"
    SENT = "were sent to other locations"
    ARRIVED = "arrived from other locations"
    REJECTED = "were rejected"
    SET_ASIDE = "nobody fetched"
    PUT_AWAY = "were put away"
    TAKEN_OVER = "were taken over"
    SUBSTITUTED = "were given as substitutes"
    FOUND = "were found by counts"


def flow_of(movement: inventory_pb2.StockMovement) -> Flow | None:
    """What a movement is; None where no answer speaks of it: what is found, promised, short, or covered."""
    if (
        movement.from_bucket == inventory_pb2.BUCKET_IN_TRANSIT
        and movement.to_bucket == inventory_pb2.BUCKET_ADJUSTMENT
    ):
        return None  # lost on its way: it was never here
    of_bucket = {
        (True, inventory_pb2.BUCKET_CUSTOMER): Flow.LEFT,
        (False, inventory_pb2.BUCKET_CUSTOMER): Flow.CAME_BACK,
        (False, inventory_pb2.BUCKET_SUPPLIER): Flow.RECEIVED,
        (True, inventory_pb2.BUCKET_IN_TRANSIT): Flow.SENT,
        (False, inventory_pb2.BUCKET_IN_TRANSIT): Flow.ARRIVED,
    }
    for is_to, bucket in ((True, movement.to_bucket), (False, movement.from_bucket)):
        if (flow := of_bucket.get((is_to, bucket))) is not None:
            return flow
    if movement.reason_code == "COUNT":
        # Less breaks promises first, if it must: how many units of those, no answer says.
        return Flow.FOUND if movement.from_bucket == inventory_pb2.BUCKET_ADJUSTMENT else None
    if movement.reason_code.startswith("REJECTED_"):
        return Flow.REJECTED
    return {
        "NO_SHOW": Flow.SET_ASIDE,
        "PUT_AWAY": Flow.PUT_AWAY,
        "ORDER_RESOURCED": Flow.TAKEN_OVER,
        "SUBSTITUTE": Flow.SUBSTITUTED,
    }.get(movement.reason_code)


@dataclass
class Findings:
    """What one process saw: violations with their evidence, and what happened to units of the followed positions."""

    checks: int = 0
    violations: int = 0
    money_violations: int = 0
    oversold_units: int = 0
    evidence: list[str] = field(default_factory=list)
    moved: dict[tuple[Position, Flow], int] = field(default_factory=dict)

    def check(self, is_right: bool, evidence: str) -> None:
        """Counts a check, and a violation with what it was, if it is one."""
        self.violations += self._is_wrong(is_right, evidence)

    def check_money(self, is_right: bool, evidence: str) -> None:
        """As `check`, of money."""
        self.money_violations += self._is_wrong(is_right, evidence)

    def _is_wrong(self, is_right: bool, evidence: str) -> bool:
        self.checks += 1
        if not is_right and len(self.evidence) < EVIDENCE_MAX:
            self.evidence.append(evidence)
        return not is_right

    def move(self, position: Position, flow: Flow, units: int) -> None:
        """An answer says that units of a position went this way."""
        self.moved[position, flow] = self.moved.get((position, flow), 0) + units

    def merge(self, other: Findings) -> None:
        """Adds what another process saw."""
        self.checks += other.checks
        self.violations += other.violations
        self.money_violations += other.money_violations
        self.oversold_units += other.oversold_units
        self.evidence = (self.evidence + other.evidence)[:EVIDENCE_MAX]
        for (position, flow), units in other.moved.items():
            self.move(position, flow, units)


class Snapshot(NamedTuple):
    """One position at one moment, and its newest movement then."""

    position: inventory_pb2.StockPosition
    movement_id: int


async def snapshot(client: Client, positions: Sequence[Position]) -> dict[Position, Snapshot]:
    """Reads positions and where their movements end."""

    async def read(position: Position) -> Snapshot:
        inventory = client.stubs().inventory
        location_id, sku = position

        async def newest() -> int:
            request = inventory_pb2.ListMovementsRequest(location_id=location_id, sku=sku, page_size=1)
            page = await client.call(inventory.ListMovements, request)
            return max((each.movement_id for each in page.movements), default=0)

        movement_id = await newest()
        for _ in range(SNAPSHOT_TRIES_MAX):
            answer = await client.call(
                inventory.GetStockPosition, inventory_pb2.GetStockPositionRequest(location_id=location_id, sku=sku)
            )
            # What an interrupted run had asked for last may still happen between the two.
            before, movement_id = movement_id, await newest()
            if movement_id == before:
                return Snapshot(answer.position, movement_id)
        raise GaveUp(f"{sku} at {location_id} does not stand still: does somebody else sell there?")

    return dict(zip(positions, await _bounded(read, positions), strict=True))


async def audit(client: Client, before: dict[Position, Snapshot], findings: Findings, *, is_all_known: bool) -> None:
    """Compares each followed position with its movements since, and these with what the clients were answered.

    Nobody else may have sold there meanwhile. Where the outcome of some basket is unknown (`is_all_known` false) the
    clients' own sums are left out.
    """

    async def examine(position: Position) -> None:
        inventory = client.stubs().inventory
        location_id, sku = position
        place = f"{sku} at {location_id}"
        movements = await _movements_since(client, position, before[position].movement_id)
        answer = await client.call(
            inventory.GetStockPosition, inventory_pb2.GetStockPositionRequest(location_id=location_id, sku=sku)
        )
        now, then = answer.position, before[position].position
        for bucket, name in _BUCKETS.items():
            moved = sum(
                each.quantity * ((each.to_bucket == bucket) - (each.from_bucket == bucket)) for each in movements
            )
            was, has = getattr(then, name), getattr(now, name)
            findings.check(has >= 0, f"{place}: {name} is {has}")
            findings.check(was + moved == has, f"{place}: {name} was {was}, moved {moved}, is {has}")
            findings.oversold_units += max(0, -has)
        on_hand = now.available + now.allocated + now.damaged + now.quarantine
        findings.check(now.on_hand == on_hand, f"{place}: on_hand is {now.on_hand}, its buckets add up to {on_hand}")
        offered = now.available + max(0, now.backorder_limit - now.backordered_quantity)
        findings.check(now.reserved <= offered, f"{place}: {now.reserved} are reserved, {offered} may be promised")
        findings.oversold_units += max(0, now.reserved - offered)
        if not is_all_known:
            return
        went = dict.fromkeys(Flow, 0)
        for each in movements:
            if (flow := flow_of(each)) is not None:
                went[flow] += each.quantity
        for flow, units in went.items():
            told = findings.moved.get((position, flow), 0)
            findings.check(told == units, f"{place}: the answers say that {told} {flow.value}, the movements {units}")

    await _bounded(examine, list(before))


async def _movements_since(client: Client, position: Position, movement_id: int) -> list[inventory_pb2.StockMovement]:
    inventory = client.stubs().inventory
    found: list[inventory_pb2.StockMovement] = []
    token = ""
    for _ in range(MOVEMENT_PAGES_MAX):
        page = await client.call(
            inventory.ListMovements,
            inventory_pb2.ListMovementsRequest(
                location_id=position[0], sku=position[1], page_size=MOVEMENTS_PAGE, page_token=token
            ),
        )
        found += (each for each in page.movements if each.movement_id > movement_id)
        token = page.next_page_token
        if not token or any(each.movement_id <= movement_id for each in page.movements):
            return found
    raise RuntimeError(f"{position} has more than {MOVEMENT_PAGES_MAX * MOVEMENTS_PAGE} movements since the start")


async def _bounded(work: Callable[[Position], Awaitable[Result]], items: Iterable[Position]) -> list[Result]:
    """All results, in order, READS_AT_ONCE at a time."""
    limit = asyncio.Semaphore(READS_AT_ONCE)

    async def one(item: Position) -> Result:
        async with limit:
            return await work(item)

    return await asyncio.gather(*(one(item) for item in items))
