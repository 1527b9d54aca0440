"""`onhand simulate`: a crowd that wants the same few units of one sku at the same moment. No unit may be promised twice."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Barrier
from typing import Any, NamedTuple

from onhand.simulate.audit import Findings
from onhand.simulate.calls import CallRecord, Client, GaveUp, Refused, latencies
from onhand.simulate.processes import context, run_processes
from onhand.v1 import catalog_pb2, inventory_pb2, types_pb2

BUYERS_MAX = 100_000
CLIENT_PROCESSES_MAX = 8
CONNECT_SECONDS_MAX = 60.0
"""How long servers that were just started may take to answer."""
BARRIER_SECONDS_MAX = 60.0
"""How long the client processes wait for each other."""
CHANNELS = (types_pb2.CHANNEL_WEB, types_pb2.CHANNEL_APP)

Progress = Callable[[int, int], None]


class Buyer(NamedTuple):
    """One who wants one unit."""

    number: int
    channel: types_pb2.Channel.ValueType


@dataclass(frozen=True)
class Crowd:
    """Those of the crowd that one client process plays."""

    target: str
    run_id: str
    buyers: tuple[Buyer, ...]


@dataclass
class Answers:
    """What the buyers of one process were told."""

    reserved: dict[int, str] = field(default_factory=dict)
    refused: int = 0
    unknown: int = 0
    seconds: float = 0.0
    findings: Findings = field(default_factory=Findings)
    calls: CallRecord = field(default_factory=CallRecord)


def run_buyers(
    *,
    target: str,
    buyers: int,
    stock: int,
    processes: int,
    seed: int,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Lets `buyers` reserve one unit each, all at once, of `stock`, and audits. Raises GaveUp where no server answers.

    Brings its own location and product, named after the run, so that it can be run again against the same server.
    """
    if not 1 <= buyers <= BUYERS_MAX or stock < 0:
        raise ValueError(f"buyers must be 1 to {BUYERS_MAX:,}, stock 0 or more")
    run_id = f"{seed}-{secrets.token_hex(4)}"
    chance = random.Random(seed)
    crowd = [Buyer(number, chance.choice(CHANNELS)) for number in range(buyers)]
    chance.shuffle(crowd)
    asyncio.run(_open_shop(target, run_id, stock))
    clients = min(processes, CLIENT_PROCESSES_MAX, buyers)
    barrier = context.Barrier(clients)
    done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        progress(done, buyers)

    results: list[Answers] = run_processes(
        buy, [(barrier, Crowd(target, run_id, tuple(crowd[n::clients]))) for n in range(clients)], count
    )
    whole = Answers()
    for result in results:
        whole.reserved |= result.reserved
        whole.refused += result.refused
        whole.unknown += result.unknown
        whole.findings.merge(result.findings)
        whole.calls.merge(result.calls)
    seconds = max(result.seconds for result in results)
    asyncio.run(_audit(target, run_id, stock, buyers, whole))
    return {
        "buyers": buyers,
        "stock": stock,
        "reserved": len(whole.reserved),
        "refused": whole.refused,
        "unknown": whole.unknown,
        "oversold_units": whole.findings.oversold_units,
        "violations": whole.findings.violations,
        "evidence": whole.findings.evidence,
        "seconds": round(seconds, 3),
        "reservations_per_second": round(buyers / seconds, 1) if seconds else 0.0,
        "answers_checked": whole.findings.checks,
        "calls": latencies(whole.calls),
        "call_retries": whole.calls.retries,
        "seed": seed,
        "client_processes": clients,
    }


def buy(report: Callable[[int], None], barrier: Barrier, crowd: Crowd) -> Answers:
    """One client process: connects, waits for the others, and lets all of its buyers go."""
    return asyncio.run(_buy(report, barrier, crowd))


async def _buy(report: Callable[[int], None], barrier: Barrier, crowd: Crowd) -> Answers:
    answers = Answers()
    client = Client(crowd.target)
    answers.calls = client.record

    async def one(buyer: Buyer) -> None:
        first = await _reserve(client, crowd.run_id, buyer, answers)
        if first is not None:
            answers.reserved[buyer.number] = first.reservation_id
            state = inventory_pb2.RESERVATION_STATE_ACTIVE
            answers.findings.check(first.state == state, f"buyer {buyer.number}: a new reservation is not ACTIVE")

    async def again(buyer: Buyer) -> None:
        """Everybody asks again: a winner has the same reservation, and nobody else got one meanwhile."""
        before = answers.reserved.get(buyer.number)
        now = await _reserve(client, crowd.run_id, buyer, Answers())
        has = None if now is None else now.reservation_id
        answers.findings.check(has == before, f"buyer {buyer.number}: had {before}, the repeat was answered {has}")

    try:
        await client.connect(CONNECT_SECONDS_MAX)
        await asyncio.to_thread(barrier.wait, BARRIER_SECONDS_MAX)
        started = time.monotonic()
        await asyncio.gather(*(one(buyer) for buyer in crowd.buyers))
        answers.seconds = time.monotonic() - started
        report(len(crowd.buyers))
        await asyncio.to_thread(barrier.wait, BARRIER_SECONDS_MAX)
        # The repeats are not part of what is measured.
        client.record = CallRecord()
        if not answers.unknown:
            await asyncio.gather(*(again(buyer) for buyer in crowd.buyers))
    finally:
        await client.close()
    return answers


async def _reserve(client: Client, run_id: str, buyer: Buyer, answers: Answers) -> inventory_pb2.Reservation | None:
    request = inventory_pb2.ReserveRequest(
        request_id=f"simulate.{run_id}.{buyer.number}",
        channel=buyer.channel,
        baskets=[
            inventory_pb2.LocationBasket(
                location_id=_place(run_id), lines=[types_pb2.BasketLine(sku=_sku(run_id), quantity=1)]
            )
        ],
        customer_id=f"buyer-{buyer.number}",
    )
    try:
        return (await client.call(client.stubs().inventory.Reserve, request)).reservation
    except Refused as refused:
        answers.refused += 1
        answers.findings.check(refused.reason == "INSUFFICIENT_STOCK", f"buyer {buyer.number}: {refused}")
    except GaveUp as gave_up:
        answers.unknown += 1
        answers.findings.check(False, f"buyer {buyer.number}: {gave_up}")
    return None


async def _open_shop(target: str, run_id: str, stock: int) -> None:
    client = Client(target, channels=1)
    try:
        await client.connect(CONNECT_SECONDS_MAX)
        stubs = client.stubs()
        place, sku = _place(run_id), _sku(run_id)
        await client.call(
            stubs.inventory.CreateLocation,
            inventory_pb2.CreateLocationRequest(
                request_id=f"simulate.{run_id}.location",
                location=inventory_pb2.Location(
                    location_id=place, kind=inventory_pb2.LOCATION_KIND_STORE, name=f"Crowd {run_id}"
                ),
            ),
        )
        await client.call(
            stubs.catalog.CreateProduct,
            catalog_pb2.CreateProductRequest(
                request_id=f"simulate.{run_id}.product", product=catalog_pb2.Product(sku=sku, name=f"Hot item {run_id}")
            ),
        )
        if stock:
            await client.call(
                stubs.inventory.ReceiveStock,
                inventory_pb2.ReceiveStockRequest(
                    request_id=f"simulate.{run_id}.stock",
                    location_id=place,
                    lines=[types_pb2.BasketLine(sku=sku, quantity=stock)],
                ),
            )
    finally:
        await client.close()


async def _audit(target: str, run_id: str, stock: int, buyers: int, answers: Answers) -> None:
    check = answers.findings.check
    reserved = len(answers.reserved)
    answers.findings.oversold_units = max(0, reserved - stock)
    check(reserved <= stock, f"{reserved} units were promised, {stock} exist")
    check(len(set(answers.reserved.values())) == reserved, "two buyers were told the same reservation")
    if not answers.unknown:
        expected = min(buyers, stock)
        check(reserved == expected, f"{reserved} buyers have a reservation, {expected} could have one")
        check(reserved + answers.refused == buyers, f"{reserved} + {answers.refused} of {buyers} buyers have an answer")
    client = Client(target, channels=1)
    try:
        await client.connect(CONNECT_SECONDS_MAX)
        answer = await client.call(
            client.stubs().inventory.GetStockPosition,
            inventory_pb2.GetStockPositionRequest(location_id=_place(run_id), sku=_sku(run_id)),
        )
    finally:
        await client.close()
    position = answer.position
    check(position.available == stock, f"the ledger has {position.available} available of {stock}")
    if not answers.unknown:
        check(position.reserved == reserved, f"the ledger has {position.reserved} reserved, {reserved} were told so")
    for channel in position.channels:
        name, left = types_pb2.Channel.Name(channel.channel), stock - position.reserved
        check(channel.available_to_promise == left, f"{name} sees {channel.available_to_promise}, {left} are left")


def _place(run_id: str) -> str:
    return f"crowd-{run_id}"


def _sku(run_id: str) -> str:
    return f"hot-{run_id}"
