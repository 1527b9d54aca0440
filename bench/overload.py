"""What a server acknowledges beyond the load that saturates it: `.venv/bin/python bench/overload.py [--json] [--seconds S]`.

A stack of its own: PostgreSQL, Valkey and one server process on one half of the processors, client processes on the other, so
that the clients take nothing from the servers (`--no-pin` leaves it to the system). First closed loops of growing size find the
most that is acknowledged in a second (the peak). Then each step offers a multiple of it, once by as many closed-loop clients
(each waits for its answer, and for the RetryInfo of a refusal), once by an open loop (calls come when they come, whatever became
of those before, and nobody backs off).

The load is a flash sale: of ten calls seven reserve and three read availability. Beside it tills sell, as many in every step;
they are not to notice. Latencies are of acknowledged calls, as clients see them. A step whose clients could not keep up with
their plan says so (`late`); what the server process and PostgreSQL got of a processor is told (`cpu`, `pg`): where these are far
below 100% in sum at the peak, something else ran on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import queue
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psutil
import uvloop
from google.rpc import error_details_pb2, status_pb2
from google.type.money_pb2 import Money

from onhand.dev.stack import DevStack
from onhand.ids import new_id
from onhand.ledger.migrate import migrate
from onhand.serve import reserve_port, server_processes
from onhand.v1 import catalog_pb2, catalog_pb2_grpc, inventory_pb2, inventory_pb2_grpc, order_pb2, types_pb2

LOCATIONS = 20
SKUS = 20
STOCK = 50_000_000
CLIENT_PROCESSES = 2
CHANNELS = 4
"""Connections of a client process."""
CALL_SECONDS = 2.0
"""The deadline of every call."""
TTL_SECONDS = 30
STEPS = (0.5, 1.0, 2.0, 3.0, 4.0)
CALIBRATION = (8, 32, 64, 128)
"""Closed-loop clients that are tried to find the peak."""
KINDS = ("reserve", "read", "sell")
CROWD = (("reserve", 7), ("read", 3))
TILLS_PER_SECOND = 10.0
"""Sales of all tills together."""
PATHS = {
    "reserve": "/onhand.v1.InventoryService/Reserve",
    "read": "/onhand.v1.InventoryService/GetAvailability",
    "sell": "/onhand.v1.OrderService/Sell",
}


# ------------------------------------------------------------------------------------------------------------ one client
@dataclass
class Tally:
    """What became of the calls of one client process in one step."""

    latencies: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    sent: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    retry_seconds: list[float] = field(default_factory=list)
    late_seconds: float = 0.0


def request_of(kind: str, draw: random.Random) -> bytes:
    """A call of a kind, encoded."""
    location_id, sku = f"store-{draw.randrange(LOCATIONS):03}", f"sku-{draw.randrange(SKUS):03}"
    lines = [types_pb2.BasketLine(sku=sku, quantity=1)]
    if kind == "reserve":
        return inventory_pb2.ReserveRequest(
            request_id=str(new_id()),
            channel=types_pb2.CHANNEL_WEB,
            ttl_seconds=TTL_SECONDS,
            baskets=[inventory_pb2.LocationBasket(location_id=location_id, lines=lines)],
        ).SerializeToString()
    if kind == "read":
        return inventory_pb2.GetAvailabilityRequest(
            channel=types_pb2.CHANNEL_WEB, skus=[sku], location_ids=[location_id]
        ).SerializeToString()
    price = Money(currency_code="USD", units=1)
    return order_pb2.SellRequest(
        request_id=str(new_id()),
        location_id=location_id,
        currency_code="USD",
        lines=[order_pb2.SaleLine(sku=sku, quantity=1)],
        tenders=[order_pb2.Tender(kind=order_pb2.TENDER_KIND_CASH, amount=price)],
    ).SerializeToString()


def retry_seconds_of(error: grpc.aio.AioRpcError) -> float | None:
    """What RetryInfo says, None where there is none."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            info = error_details_pb2.RetryInfo()
            for detail in status_pb2.Status.FromString(value).details:
                if detail.Unpack(info):
                    return info.retry_delay.ToMilliseconds() / 1000
    return None


class Client:
    """Connections, and the calls made over them."""

    def __init__(self, target: str, seed: int) -> None:
        self._draw = random.Random(seed)
        self._channels = [
            grpc.aio.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(CHANNELS)
        ]
        self._calls = [{k: c.unary_unary(path) for k, path in PATHS.items()} for c in self._channels]
        self.tally = Tally()

    def draw(self, kind: str | None = None) -> tuple[str, bytes]:
        """The next call of the crowd, or one of a kind."""
        kind = kind or self._draw.choices([k for k, _ in CROWD], [weight for _, weight in CROWD])[0]
        return kind, request_of(kind, self._draw)

    async def call(self, kind: str, request: bytes) -> float | None:
        """Makes one call and counts what became of it. Returns RetryInfo's seconds where it is to be repeated."""
        tally = self.tally
        tally.sent[kind] += 1
        began = time.perf_counter()
        try:
            await self._draw.choice(self._calls)[kind](request, timeout=CALL_SECONDS)
        except grpc.aio.AioRpcError as error:
            retry = retry_seconds_of(error)
            code = error.code()
            name = "shed" if code is grpc.StatusCode.RESOURCE_EXHAUSTED else code.name.lower()
            tally.outcomes[kind, name if retry is not None or name != "shed" else "shed by gRPC"] += 1
            if retry is not None:
                tally.retry_seconds.append(retry)
            return retry if retry is not None else 1.0
        tally.outcomes[kind, "ok"] += 1
        tally.latencies[kind].append(time.perf_counter() - began)
        return None

    async def closed(self, clients: int, seconds: float) -> None:
        """Clients that each wait for their answer; who is refused waits as long as RetryInfo says, then repeats."""
        until = time.monotonic() + seconds

        async def client() -> None:
            # Not all at once, or every step would begin with a burst that no shop sees.
            await asyncio.sleep(self._draw.random() * min(1.0, seconds / 4))
            while time.monotonic() < until:
                kind, request = self.draw()
                while (retry := await self.call(kind, request)) is not None:
                    if time.monotonic() + retry >= until:
                        return
                    await asyncio.sleep(retry)

        await asyncio.gather(*(client() for _ in range(clients)))

    async def open(self, per_second: float, seconds: float, kind: str | None = None) -> None:
        """Calls at a rate, whatever becomes of them."""
        calls: set[asyncio.Task[Any]] = set()
        began = time.monotonic()
        planned = 0
        while (now := time.monotonic() - began) < seconds:
            due = int(now * per_second)
            self.tally.late_seconds = max(self.tally.late_seconds, (due - planned) / per_second)
            for _ in range(due - planned):
                task = asyncio.create_task(self.call(*self.draw(kind)))
                calls.add(task)
                task.add_done_callback(calls.discard)
            planned = due
            await asyncio.sleep(0.002)
        while calls:
            await asyncio.wait(calls)

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


def client_process(target: str, seed: int, cpus: set[int], orders: Any, tallies: Any) -> None:
    """Does what the orders say, until there are no more."""
    os.sched_setaffinity(0, cpus)

    async def run() -> None:
        client = Client(target, seed)
        while (order := await asyncio.to_thread(orders.get)) is not None:
            how, size, seconds = order
            client.tally = Tally()
            crowd = client.closed(size, seconds) if how == "closed" else client.open(size, seconds)
            await asyncio.gather(crowd, client.open(TILLS_PER_SECOND / CLIENT_PROCESSES, seconds, "sell"))
            tallies.put(client.tally)
        await client.close()

    uvloop.run(run())


# ------------------------------------------------------------------------------------------------------------- the curve
class Crowd:
    """The client processes."""

    def __init__(self, target: str, seed: int, cpus: set[int], measured: dict[str, list[int]]) -> None:
        self._measured = measured
        context = multiprocessing.get_context("spawn")
        self._tallies: Any = context.Queue()
        self._orders = [context.Queue() for _ in range(CLIENT_PROCESSES)]
        self._processes = [
            context.Process(target=client_process, args=(target, seed + n, cpus, orders, self._tallies), daemon=True)
            for n, orders in enumerate(self._orders)
        ]
        for process in self._processes:
            process.start()

    def run(self, how: str, size: float, seconds: float) -> dict[str, Any]:
        """One step: `size` clients, or calls a second, of all processes together."""
        before = {name: cpu_seconds(pids) for name, pids in self._measured.items()}
        for n, orders in enumerate(self._orders):
            share = size / CLIENT_PROCESSES
            orders.put((how, int(share) + (n < size % CLIENT_PROCESSES) if how == "closed" else share, seconds))
        tallies: list[Tally] = []
        while len(tallies) < CLIENT_PROCESSES:
            try:
                tallies.append(self._tallies.get(timeout=1))
            except queue.Empty:
                if not all(p.is_alive() for p in self._processes):
                    raise SystemExit("a client process died") from None
        row = summed(how, size, seconds, tallies)
        used = {name: cpu_seconds(pids) - before[name] for name, pids in self._measured.items()}
        return row | {"cpu_share": {name: round(n / seconds, 2) for name, n in used.items()}}

    def close(self) -> None:
        for orders in self._orders:
            orders.put(None)
        for process in self._processes:
            process.join(5)


def processes_of(servers: list[int], stack: DevStack) -> dict[str, list[int]]:
    """Whose processor time is told."""
    return {"server": servers, "postgres": [stack.postgres.pid or 0], "valkey": [stack.valkey.pid or 0]}


def cpu_seconds(pids: list[int]) -> float:
    """Of processes and their children; what ended meanwhile is counted with its parent."""
    total = 0.0
    for pid in pids:
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += (
                    times.user
                    + times.system
                    + (times.children_user + times.children_system if process.pid == pid else 0)
                )
    return total


def summed(how: str, size: float, seconds: float, tallies: list[Tally]) -> dict[str, Any]:
    """The figures of a step."""
    outcomes = sum((t.outcomes for t in tallies), Counter[tuple[str, str]]())
    latencies = {kind: sorted(x for t in tallies for x in t.latencies[kind]) for kind in KINDS}
    together = sorted(x for kind in KINDS for x in latencies[kind])
    retries = [x for t in tallies for x in t.retry_seconds]
    by_outcome: Counter[str] = Counter()
    for (_, outcome), n in outcomes.items():
        by_outcome[outcome] += n
    return {
        "loop": how,
        "size": round(size, 1),
        "sent_per_second": round(sum(sum(t.sent.values()) for t in tallies) / seconds, 1),
        "acknowledged_per_second": round(len(together) / seconds, 1),
        "acknowledged_share": {
            kind: round(len(latencies[kind]) / max(1, sum(t.sent[kind] for t in tallies)), 3) for kind in KINDS
        },
        "p50_ms": percentile(together, 0.5),
        "p99_ms": percentile(together, 0.99),
        "sell_p99_ms": percentile(latencies["sell"], 0.99),
        "outcomes": dict(by_outcome.most_common()),
        "retry_seconds_mean": round(sum(retries) / len(retries), 2) if retries else None,
        "late_ms": round(1000 * max(t.late_seconds for t in tallies)),
    }


def percentile(ordered: list[float], share: float) -> float | None:
    """Milliseconds."""
    return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1) if ordered else None


async def stock(target: str) -> None:
    """The shop: locations, products with a price, and more of each than any run can sell."""
    async with grpc.aio.insecure_channel(target) as channel:
        inventory = inventory_pb2_grpc.InventoryServiceStub(channel)
        catalog = catalog_pb2_grpc.CatalogServiceStub(channel)
        for n in range(SKUS):
            product = catalog_pb2.Product(sku=f"sku-{n:03}", name=f"Sku {n}")
            await catalog.CreateProduct(
                catalog_pb2.CreateProductRequest(request_id=str(new_id()), product=product), wait_for_ready=True
            )
            price = catalog_pb2.SetPriceRequest(request_id=str(new_id()), sku=product.sku)
            price.amount.CopyFrom(Money(currency_code="USD", units=1))
            await catalog.SetPrice(price)
        lines = [types_pb2.BasketLine(sku=f"sku-{n:03}", quantity=STOCK) for n in range(SKUS)]
        for n in range(LOCATIONS):
            location = inventory_pb2.Location(
                location_id=f"store-{n:03}",
                name=f"Store {n}",
                kind=inventory_pb2.LOCATION_KIND_STORE,
                offers_pickup=True,
            )
            await inventory.CreateLocation(
                inventory_pb2.CreateLocationRequest(request_id=str(new_id()), location=location)
            )
            await inventory.ReceiveStock(
                inventory_pb2.ReceiveStockRequest(
                    request_id=str(new_id()), location_id=location.location_id, lines=lines
                )
            )


def measure(seconds: float, seed: int, steps: tuple[float, ...], is_pinned: bool, report: Any) -> dict[str, Any]:
    """Runs all of it."""
    cpus = sorted(os.sched_getaffinity(0))
    half = max(1, len(cpus) // 2)
    server_cpus, client_cpus = (set(cpus[:half]), set(cpus[half:] or cpus)) if is_pinned else (set(cpus), set(cpus))
    with ExitStack() as ended:
        os.sched_setaffinity(0, server_cpus)  # what is started now inherits it
        folder = ended.enter_context(tempfile.TemporaryDirectory(prefix="onhand-bench-", ignore_cleanup_errors=True))
        stack = ended.enter_context(DevStack(Path(folder), fast=True))
        migrate(stack.postgres_dsn)
        held = ended.enter_context(reserve_port("127.0.0.1", 0))
        port = held.getsockname()[1]
        children = server_processes(
            postgres_dsn=stack.postgres_dsn, redis_url=stack.redis_url, host="127.0.0.1", port=port, count=1
        )
        ended.callback(children.stop)
        target = f"127.0.0.1:{port}"
        asyncio.run(stock(target))
        crowd = Crowd(target, seed, client_cpus, processes_of(children.pids, stack))
        ended.callback(crowd.close)
        crowd.run("closed", 8, 1.0)  # warm
        calibration = []
        for n in CALIBRATION:
            calibration.append(crowd.run("closed", n, seconds / 2))
            report("calibrate", calibration[-1])
        best = max(calibration, key=lambda row: row["acknowledged_per_second"])
        # As few clients as nearly do it: those of the peak itself may be far more than saturate.
        saturating = next(
            row for row in calibration if row["acknowledged_per_second"] >= 0.95 * best["acknowledged_per_second"]
        )
        rows = []
        for how, unit in (("closed", saturating["size"]), ("open", best["acknowledged_per_second"])):
            for step in steps:
                row = {"step": step} | crowd.run(how, max(1, unit * step), seconds)
                rows.append(row)
                report(f"{step:.1f}x", row)
    # Of closed loops: an open one that nobody backs off from may be answered more, but cheaper calls.
    closed = [row for row in rows if row["loop"] == "closed"]
    peak = max(row["acknowledged_per_second"] for row in (*calibration, *closed))
    last = {how: next(r for r in reversed(rows) if r["loop"] == how) for how in ("closed", "open")}
    kept = {how: round(row["acknowledged_per_second"] / peak, 3) for how, row in last.items()}
    return {
        "seed": seed,
        "seconds_per_step": seconds,
        "load_average": round(os.getloadavg()[0], 2),
        "peak_per_second": peak,
        "saturating_clients": saturating["size"],
        "kept_at_the_last_step": kept,
        "p99_ms_at_the_last_step": {how: row["p99_ms"] for how, row in last.items()},
        "ok": all(share > 0.8 for share in kept.values()),
        "calibration": calibration,
        "curve": rows,
    }


def line(name: str, row: dict[str, Any]) -> str:
    """A row of the table."""
    share = row["acknowledged_share"]
    outcomes = ", ".join(f"{k} {n}" for k, n in row["outcomes"].items())
    return (
        f"{row['loop']:>6} {name:>9} {row['size']:>8} {row['sent_per_second']:>8} {row['acknowledged_per_second']:>8}"
        f" {share['reserve']:>8.0%} {share['read']:>5.0%} {share['sell']:>5.0%} {row['p50_ms'] or 0:>7} {row['p99_ms'] or 0:>7}"
        f" {row['sell_p99_ms'] or 0:>8} {row['retry_seconds_mean'] or 0:>6} {row['late_ms']:>5}"
        f" {row['cpu_share']['server']:>5.0%} {row['cpu_share']['postgres']:>5.0%}  {outcomes}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each step (default 4)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=lambda s: tuple(float(x) for x in s.split(",")), default=STEPS)
    parser.add_argument("--pin", action=argparse.BooleanOptionalAction, default=True, help="processors for each side")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    chosen = parser.parse_args()
    out = sys.stderr if chosen.json else sys.stdout
    print(
        "  loop      step     size   sent/s    ack/s  reserve  read  sell  p50 ms  p99 ms sell p99  retry  late"
        "   cpu    pg  outcomes",
        file=out,
    )
    found = measure(
        chosen.seconds,
        chosen.seed,
        chosen.steps,
        chosen.pin,
        lambda name, row: print(line(name, row), file=out, flush=True),
    )
    if chosen.json:
        print(json.dumps(found))
    else:
        print({k: v for k, v in found.items() if k not in ("calibration", "curve")})
    raise SystemExit(0 if found["ok"] else 1)


if __name__ == "__main__":
    main()
