"""`onhand replay`: real baskets in time order against a running server, from several client processes, and the audit."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from onhand.simulate import audit, plan
from onhand.simulate.audit import Findings, Position, Snapshot
from onhand.simulate.calls import CallRecord, Client, GaveUp, Refused, latencies
from onhand.simulate.journeys import Journey
from onhand.simulate.plan import Basket, Kind, Play
from onhand.simulate.processes import run_processes
from onhand.simulate.steps import Outcome, Tally, World
from onhand.v1 import inventory_pb2

AT_ONCE = 16
"""Baskets under way at the same time in one client process."""
PROCESSES_MAX = 64
CONNECT_SECONDS_MAX = 10.0
FOLLOWED_POSITIONS_MAX = 200
"""Stock positions whose every movement is compared with the answers."""
EXPIRED_CHECKED_MAX = 50
"""Reservations left to expire that are read afterwards, by each process."""
EXPIRY_SECONDS_MAX = 1.0
"""How long after its deadline a reservation may still be seen active: then its units are sellable again."""
GAVE_UP_MAX = 50
"""Baskets in one process that may be left without an answer before it stops: then the server is gone for good."""
REPORT_EVERY = 10
LOCATIONS_PAGE = 500

Progress = Callable[[int, int], None]

VARIES = (
    "Which of two baskets that want the last unit at the same moment gets it is a race. It moves baskets between "
    "orders_placed and orders_refused, shipments between store and warehouse, and with them lines, units and returns. "
    "What was planned for each basket, and how many there are of each kind, follows from the seed alone."
)


@dataclass
class Result:
    """What one client process did and saw."""

    tally: Tally = field(default_factory=Tally)
    findings: Findings = field(default_factory=Findings)
    calls: CallRecord = field(default_factory=CallRecord)


@dataclass(frozen=True)
class Assignment:
    """What a client process is to do."""

    target: str
    plays: Sequence[Play]
    followed: frozenset[Position]
    stores: tuple[str, ...]
    warehouses: tuple[str, ...]
    seed: int
    run_id: str


def run_replay(
    baskets: Sequence[Basket],
    *,
    target: str,
    processes: int,
    seed: int,
    run_id: str | None = None,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Plays the baskets, which are in time order, and returns the report. Raises GaveUp where no server answers.

    A request_id is made of run id, seed, basket and step. Every run has a new run id, so that none is taken for the
    repeat of an earlier one; the run id of an interrupted run continues it: what was done is answered, not done again.
    """
    if not 1 <= processes <= PROCESSES_MAX:
        raise ValueError(f"processes must be 1 to {PROCESSES_MAX}")
    run_id = run_id or secrets.token_hex(6)
    plays = plan.plan(baskets, seed)
    followed = plan.positions(plays, seed, FOLLOWED_POSITIONS_MAX)
    stores, warehouses, before = asyncio.run(_look_around(target, followed))
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(done, len(plays))

    started = time.monotonic()
    # Every process has baskets of all stores: they meet at the same shelves.
    results = run_processes(
        play_all,
        [
            (Assignment(target, plays[n::processes], frozenset(followed), stores, warehouses, seed, run_id),)
            for n in range(processes)
        ],
        count,
    )
    seconds = time.monotonic() - started
    whole = Result()
    for result in results:
        for name, number in result.tally.counts.items():
            whole.tally.add(name, number)
        whole.findings.merge(result.findings)
        whole.calls.merge(result.calls)
    asyncio.run(_look_back(target, before, whole))
    return _report(plays, whole, seconds=seconds, seed=seed, run_id=run_id, processes=processes, followed=len(followed))


def play_all(report: Callable[[int], None], assignment: Assignment) -> Result:
    """One client process."""
    return asyncio.run(_play_all(report, assignment))


async def _play_all(report: Callable[[int], None], assignment: Assignment) -> Result:
    result = Result()
    client = Client(assignment.target)
    result.calls = client.record
    world = World(
        client=client,
        findings=result.findings,
        tally=result.tally,
        followed=assignment.followed,
        stores=assignment.stores,
        warehouses=assignment.warehouses,
        seed=assignment.seed,
        run_id=assignment.run_id,
    )
    room = asyncio.Semaphore(AT_ONCE)
    finished = 0

    async def one(play: Play) -> None:
        nonlocal finished
        try:
            await _play(world, play)
        finally:
            room.release()
            finished += 1
            if finished % REPORT_EVERY == 0:
                report(REPORT_EVERY)

    try:
        await client.connect(CONNECT_SECONDS_MAX)
        async with asyncio.TaskGroup() as tasks:
            for play in assignment.plays:
                # In time order, as far as there is room: a basket begins when one of those under way ends.
                await room.acquire()
                if world.tally.counts.get("unknown", 0) >= GAVE_UP_MAX:
                    room.release()
                    world.tally.add("not_played")
                    continue
                tasks.create_task(one(play))
        report(len(assignment.plays) % REPORT_EVERY)
        await _see_them_expire(world)
    finally:
        await client.close()
    return result


async def _play(world: World, play: Play) -> None:
    tally = world.tally
    if play.fuel_lines_left_out:
        tally.add("lines_left_out_fuel_online", play.fuel_lines_left_out)
    try:
        outcome = await Journey(world, play).run()
    except GaveUp as gave_up:
        # Neither done nor undone for certain. A server's own error is always wrong; one that was away is not.
        tally.add("unknown")
        world.findings.check(not gave_up.is_failure, str(gave_up))
        return
    except Refused as refused:
        world.findings.check(False, f"basket {play.basket.basket_id}: {refused}")
        outcome = Outcome("refused", reason=refused.reason)
    tally.add(f"{outcome.result} {play.kind.value}")
    tally.add(outcome.result)
    if outcome.reason:
        tally.add(f"reason {outcome.reason}")
    tally.add("lines", outcome.lines)
    tally.add("units", outcome.units)
    tally.add("fuel_milliliters", outcome.fuel_milliliters)


async def _see_them_expire(world: World) -> None:
    """Reads reservations that were left alone: past its deadline none may be active."""
    inventory = world.client.stubs().inventory
    for reservation_id, expires in world.tally.left_to_expire[:EXPIRED_CHECKED_MAX]:
        await asyncio.sleep(max(0.0, expires + EXPIRY_SECONDS_MAX - time.time()))
        try:
            answer = await world.client.call(
                inventory.GetReservation, inventory_pb2.GetReservationRequest(reservation_id=reservation_id)
            )
        except (Refused, GaveUp) as error:
            world.findings.check(False, f"reservation {reservation_id}, left to expire: {error}")
            continue
        state = answer.reservation.state
        name = inventory_pb2.ReservationState.Name(state)
        world.findings.check(
            state == inventory_pb2.RESERVATION_STATE_EXPIRED,
            f"reservation {reservation_id} is {name} more than {EXPIRY_SECONDS_MAX} s past its deadline",
        )
        world.tally.add("expiries_seen")


async def _look_around(
    target: str, followed: Sequence[Position]
) -> tuple[tuple[str, ...], tuple[str, ...], dict[Position, Snapshot]]:
    """The stores, the warehouses, and the followed positions as they are before the first basket."""
    client = Client(target, channels=1)
    try:
        await client.connect(CONNECT_SECONDS_MAX)
        stores = await _locations(client, inventory_pb2.LOCATION_KIND_STORE)
        warehouses = await _locations(client, inventory_pb2.LOCATION_KIND_WAREHOUSE)
        return stores, warehouses, await audit.snapshot(client, followed)
    except Refused as refused:
        raise GaveUp(
            f"the server does not know what these baskets are of ({refused}); "
            "load it with `onhand import completejourney`"
        ) from refused
    finally:
        await client.close()


async def _locations(client: Client, kind: inventory_pb2.LocationKind.ValueType) -> tuple[str, ...]:
    found: list[str] = []
    token = ""
    while True:
        page = await client.call(
            client.stubs().inventory.ListLocations,
            inventory_pb2.ListLocationsRequest(kind=kind, page_size=LOCATIONS_PAGE, page_token=token),
        )
        found += (location.location_id for location in page.locations)
        token = page.next_page_token
        if not token:
            return tuple(sorted(found))


async def _look_back(target: str, before: dict[Position, Snapshot], whole: Result) -> None:
    is_all_known = not whole.tally.counts.get("unknown")
    client = Client(target, channels=1)
    try:
        await client.connect(CONNECT_SECONDS_MAX)
        await audit.audit(client, before, whole.findings, is_all_known=is_all_known)
    except (GaveUp, Refused) as error:
        whole.findings.check(False, f"the followed positions could not be read: {error}")
    finally:
        await client.close()


def _report(
    plays: Sequence[Play], whole: Result, *, seconds: float, seed: int, run_id: str, processes: int, followed: int
) -> dict[str, Any]:
    counts, findings = whole.tally.counts, whole.findings
    placed = counts.get("completed", 0) + counts.get("cancelled", 0)
    unknown = counts.get("unknown", 0) + counts.get("not_played", 0)
    told = placed + counts.get("refused", 0) + counts.get("abandoned", 0) + unknown
    findings.check(told == len(plays), f"{len(plays)} baskets were played, of {told} it is known what became of them")
    return {
        "baskets": len(plays),
        "orders_placed": placed,
        "orders_refused": counts.get("refused", 0),
        "orders_cancelled": counts.get("cancelled", 0),
        "abandoned": counts.get("abandoned", 0),
        "unknown": unknown,
        "sales": counts.get(f"completed {Kind.SALE.value}", 0),
        "pickups": counts.get(f"completed {Kind.PICKUP.value}", 0),
        "shipments": counts.get(f"completed {Kind.SHIPMENT.value}", 0),
        "shipped_from_store": counts.get("shipped_from_store", 0),
        "shipped_from_warehouse": counts.get("shipped_from_warehouse", 0),
        "returns": counts.get("returns", 0),
        "lines": counts.get("lines", 0),
        "units": counts.get("units", 0),
        "fuel_milliliters": counts.get("fuel_milliliters", 0),
        "returned_units": counts.get("returned_units", 0),
        "oversold_units": findings.oversold_units,
        "violations": findings.violations,
        "evidence": findings.evidence,
        "seconds": round(seconds, 3),
        "orders_per_second": round(placed / seconds, 1) if seconds else 0.0,
        "planned": {kind.value: sum(play.kind is kind for play in plays) for kind in Kind}
        | {"returns": sum(play.is_returned for play in plays)},
        "refused_by_reason": {name[7:]: n for name, n in sorted(counts.items()) if name.startswith("reason ")},
        "lines_left_out": {
            "fuel_online": counts.get("lines_left_out_fuel_online", 0),
            "unpriced_online": counts.get("lines_left_out_unpriced", 0),
        },
        "audit": {
            "answers_checked": findings.checks,
            "repeats_compared": counts.get("repeats", 0),
            "expiries_seen": counts.get("expiries_seen", 0),
            "positions_followed": followed,
        },
        "calls": latencies(whole.calls),
        "call_refusals": dict(sorted(whole.calls.refusals.items())),
        "call_retries": dict(sorted(whole.calls.retries.items())),
        "seed": seed,
        "run_id": run_id,
        "processes": processes,
        "varies": VARIES,
    }
