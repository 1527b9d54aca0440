"""`onhand replay`: real baskets in time order against a running server, from several client processes, and the audit."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from google.type import latlng_pb2

from onhand.simulate import audit, plan
from onhand.simulate.audit import Position, Snapshot
from onhand.simulate.books import audit_books
from onhand.simulate.calls import Client, GaveUp, Refused
from onhand.simulate.journeys import Journey
from onhand.simulate.plan import Basket, Play
from onhand.simulate.processes import run_processes
from onhand.simulate.rates import Rates
from onhand.simulate.report import Result, Run, check_sums, report_of, together
from onhand.simulate.steps import Outcome, World
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

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Assignment:
    """What a client process is to do."""

    target: str
    plays: Sequence[Play]
    followed: frozenset[Position]
    stores: dict[str, latlng_pb2.LatLng | None]
    warehouses: tuple[str, ...]
    seed: int
    run_id: str
    is_continued: bool


def run_replay(
    baskets: Sequence[Basket],
    *,
    target: str,
    processes: int,
    seed: int,
    run_id: str | None = None,
    rates: Rates | None = None,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Plays the baskets, which are in time order, and returns the report. Raises GaveUp where no server answers.

    A request_id is made of run id, seed, basket and step. Every run has a new run id, so that none is taken for the
    repeat of an earlier one; the run id of an interrupted run continues it: what was done is answered, not done again.
    """
    if not 1 <= processes <= PROCESSES_MAX:
        raise ValueError(f"processes must be 1 to {PROCESSES_MAX}")
    is_continued, run_id, rates = run_id is not None, run_id or secrets.token_hex(6), rates or Rates()
    log.info("run %s: if it is interrupted, --run-id goes on with it", run_id)
    plays = plan.plan(baskets, seed, rates)
    followed = plan.positions(plays, seed, FOLLOWED_POSITIONS_MAX)
    stores, warehouses, before = asyncio.run(_look_around(target, followed))
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(done, len(plays))

    run = Run(plays, rates, seed, run_id, processes, is_continued, len(followed))
    common = frozenset(followed), stores, warehouses, seed, run_id, is_continued
    started = time.monotonic()
    # Every process has baskets of all stores: they meet at the same shelves.
    assigned = [(Assignment(target, plays[n::processes], *common),) for n in range(processes)]
    whole = together(run_processes(play_all, assigned, count))
    seconds = time.monotonic() - started
    is_all_known = not (is_continued or whole.tally.counts.get("unknown"))
    check_sums(whole, is_all_known=is_all_known)
    asyncio.run(_look_back(target, before, whole, is_all_known=is_all_known))
    return report_of(run, whole, seconds)


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
        books=result.books,
        stores=assignment.stores,
        warehouses=assignment.warehouses,
        seed=assignment.seed,
        run_id=assignment.run_id,
        is_continued=assignment.is_continued,
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
        is_all_known = not (world.is_continued or world.tally.counts.get("unknown"))
        try:
            await audit_books(client, world.books, world.findings, is_all_known=is_all_known)
        except (GaveUp, Refused) as error:
            world.findings.check_money(False, f"the payments could not be read: {error}")
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
) -> tuple[dict[str, latlng_pb2.LatLng | None], tuple[str, ...], dict[Position, Snapshot]]:
    """The stores and where they are, the warehouses, and the followed positions as they are before the first basket."""
    client = Client(target, channels=1)
    try:
        await client.connect(CONNECT_SECONDS_MAX)
        stores = await _locations(client, inventory_pb2.LOCATION_KIND_STORE)
        warehouses = await _locations(client, inventory_pb2.LOCATION_KIND_WAREHOUSE)
        return stores, tuple(warehouses), await audit.snapshot(client, followed)
    except Refused as refused:
        raise GaveUp(
            f"the server does not know what these baskets are of ({refused}); "
            "load it with `onhand import completejourney`"
        ) from refused
    finally:
        await client.close()


async def _locations(client: Client, kind: inventory_pb2.LocationKind.ValueType) -> dict[str, latlng_pb2.LatLng | None]:
    found: dict[str, latlng_pb2.LatLng | None] = {}
    token = ""
    while True:
        page = await client.call(
            client.stubs().inventory.ListLocations,
            inventory_pb2.ListLocationsRequest(kind=kind, page_size=LOCATIONS_PAGE, page_token=token),
        )
        for location in page.locations:
            found[location.location_id] = location.position if location.HasField("position") else None
        token = page.next_page_token
        if not token:
            return dict(sorted(found.items()))


async def _look_back(target: str, before: dict[Position, Snapshot], whole: Result, *, is_all_known: bool) -> None:
    client = Client(target, channels=1)
    try:
        await client.connect(CONNECT_SECONDS_MAX)
        await audit.audit(client, before, whole.findings, is_all_known=is_all_known)
    except (GaveUp, Refused) as error:
        whole.findings.check(False, f"the followed positions could not be read: {error}")
    finally:
        await client.close()
