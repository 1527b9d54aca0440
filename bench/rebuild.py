"""How long a location is closed while its gate is rebuilt under load, and how long an event loop is blocked meanwhile.

    .venv/bin/python bench/rebuild.py [--skus 1000 --skus 100000] [--rounds 5] [--json]

A stack of its own: PostgreSQL, Valkey, two server processes on one port, one of them this process (its event loop is watched
and its rebuilds are timed), and a client process that reserves, releases, sells and reads at that location all the while.
`forced`: the data is trusted, and loaded anew. `lost`: the gate is emptied, both servers find out, whoever is first rebuilds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import grpc
import redis.asyncio
import uvloop

from onhand.app import App
from onhand.dev.stack import DevStack
from onhand.domain.errors import GateUnavailable
from onhand.ledger.migrate import migrate
from onhand.postgres import asyncpg_dsn
from onhand.serve import reserve_port, server_processes
from onhand.v1 import inventory_pb2, inventory_pb2_grpc, order_pb2, order_pb2_grpc, types_pb2

LOCATION = "shop"
BEAT_SECONDS = 0.001
"""How often the event loop is asked whether it is free."""
SETTLE_SECONDS = 1.0
"""The pause between two rebuilds, in which the load goes on as usual."""
CALLERS = {"reserve": 8, "sell": 4, "read": 4}
"""Calls of a kind that are under way at once."""
THINK_SECONDS = 0.005
GIVE_UP_SECONDS = 30.0
"""How long a location may stay closed before the measurement goes on."""

FILL = """
INSERT INTO locations (location_id, kind, name) VALUES ('shop', 'STORE', 'Shop') ON CONFLICT DO NOTHING;
INSERT INTO location_epochs (location_id) VALUES ('shop') ON CONFLICT DO NOTHING;
INSERT INTO location_delta_heads (location_id) VALUES ('shop') ON CONFLICT DO NOTHING;
INSERT INTO products (sku, name) SELECT 'sku-' || n, 'Product ' || n FROM generate_series(1, {skus}) AS n
    ON CONFLICT DO NOTHING;
INSERT INTO prices (sku, currency, amount_minor) SELECT sku, 'USD', 100 FROM products ON CONFLICT DO NOTHING;
INSERT INTO stock_levels (location_id, sku, available, safety_stock)
SELECT 'shop', 'sku-' || n, 1000000, n % 3 FROM generate_series(1, {skus}) AS n ON CONFLICT DO NOTHING;
INSERT INTO claims (location_id, claim_id, reservation_id, state, channel, lines, deadline)
SELECT 'shop', gen_random_uuid(), gen_random_uuid(), 'active', 'WEB',
       jsonb_build_array(jsonb_build_array('sku-' || 1 + n % {skus}, 1), jsonb_build_array('sku-' || 1 + (n + 1) % {skus}, 2)),
       now() + interval '1 hour'
  FROM generate_series(1, {claims}) AS n;
ANALYZE;
"""


class Loop:
    """Watches the event loop: the longest time in which it ran nothing else, by the clock and of the processor.

    On a machine with other work on it, the second says how much of the first was this process' own doing.
    """

    def __init__(self) -> None:
        self.longest = self.longest_busy = 0.0
        self._task = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        while True:
            before, busy = time.perf_counter(), time.thread_time()
            await asyncio.sleep(BEAT_SECONDS)
            self.longest = max(self.longest, time.perf_counter() - before - BEAT_SECONDS)
            self.longest_busy = max(self.longest_busy, time.thread_time() - busy)

    def take(self) -> tuple[float, float]:
        """The longest stalls since this was last asked, in seconds."""
        longest, self.longest, self.longest_busy = (self.longest, self.longest_busy), 0.0, 0.0
        return longest

    def stop(self) -> None:
        self._task.cancel()


class Raises:
    """When this process closed the location."""

    def __init__(self, app: App) -> None:
        self.times: list[float] = []
        original = app.rebuilder._raise

        async def noted(*values: Any) -> Any:
            epoch = await original(*values)
            self.times.append(time.monotonic())
            return epoch

        app.rebuilder._raise = noted  # type: ignore[method-assign]


# ------------------------------------------------------------------------------------------------------------ the load
async def client(target: str, skus: int) -> None:
    """Says that it is ready, calls until standard input ends, then prints every call: [kind, begin, end, outcome]."""
    calls: list[tuple[str, float, float, str]] = []
    is_over = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.run_in_executor(None, sys.stdin.read).add_done_callback(lambda _: is_over.set())
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(target, options=options) for _ in range(4)]
    for channel in channels:
        await channel.channel_ready()
    print("ready", flush=True)

    async def caller(kind: str, n: int) -> None:
        inventory = inventory_pb2_grpc.InventoryServiceStub(channels[n % len(channels)])
        orders = order_pb2_grpc.OrderServiceStub(channels[n % len(channels)])
        i = n
        while not is_over.is_set():
            i += 1
            line = types_pb2.BasketLine(sku=f"sku-{1 + i % min(50, skus)}", quantity=1)
            began = time.monotonic()
            try:
                if kind == "reserve":
                    basket = inventory_pb2.LocationBasket(location_id=LOCATION, lines=[line])
                    held = await inventory.Reserve(
                        inventory_pb2.ReserveRequest(
                            request_id=str(uuid4()), channel=types_pb2.CHANNEL_WEB, baskets=[basket], ttl_seconds=600
                        ),
                        timeout=10,
                    )
                    if i % 2:
                        calls.append((kind, began, time.monotonic(), "OK"))
                        kind_now, began = "release", time.monotonic()
                        await inventory.ReleaseReservation(
                            inventory_pb2.ReleaseReservationRequest(
                                request_id=str(uuid4()), reservation_id=held.reservation.reservation_id
                            ),
                            timeout=10,
                        )
                        calls.append((kind_now, began, time.monotonic(), "OK"))
                        continue
                elif kind == "sell":
                    tender = order_pb2.Tender(kind=order_pb2.TENDER_KIND_CASH)
                    tender.amount.currency_code, tender.amount.units = "USD", 1
                    await orders.Sell(
                        order_pb2.SellRequest(
                            request_id=str(uuid4()),
                            location_id=LOCATION,
                            currency_code="USD",
                            lines=[order_pb2.SaleLine(sku=line.sku, quantity=1)],
                            tenders=[tender],
                        ),
                        timeout=10,
                    )
                else:
                    await inventory.GetAvailability(
                        inventory_pb2.GetAvailabilityRequest(
                            channel=types_pb2.CHANNEL_WEB, location_ids=[LOCATION], skus=[line.sku]
                        ),
                        timeout=10,
                    )
                outcome = "OK"
            except grpc.aio.AioRpcError as error:
                outcome = error.code().name
            calls.append((kind, began, time.monotonic(), outcome))
            await asyncio.sleep(THINK_SECONDS)

    await asyncio.gather(*(caller(kind, n) for kind, count in CALLERS.items() for n in range(count)))
    json.dump(calls, sys.stdout)


# ----------------------------------------------------------------------------------------------------------- one size
async def measure(skus: int, rounds: int, dsn: str, url: str, target: str) -> list[dict[str, Any]]:
    """Rebuilds under load; a result a way of losing trust."""
    app = await App.open(dsn, url)
    raises = Raises(app)
    connection = await asyncpg.connect(asyncpg_dsn(dsn))
    await connection.execute(FILL.format(skus=skus, claims=max(1_000, skus // 5)))
    claims = await connection.fetchval("SELECT count(*) FROM claims WHERE state = 'active'")
    await connection.close()
    server = app.server()
    app.start_loops()
    await server.start(target)
    await app.rebuilder.rebuild(LOCATION)
    gate = redis.asyncio.Redis.from_url(url)
    load = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, __file__, "--client", target, "--skus", str(skus)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert load.stdout is not None
    assert await asyncio.to_thread(load.stdout.readline) == b"ready\n"
    watch = Loop()
    await asyncio.sleep(3 * SETTLE_SECONDS)
    quiet = watch.take()
    spans: dict[str, list[tuple[float, float]]] = {"forced": [], "lost": []}
    stalls: dict[str, list[tuple[float, float]]] = {"forced": [], "lost": []}
    given_up = dict.fromkeys(spans, 0)
    for way in spans:
        for _ in range(rounds):
            watch.take()
            raises.times.clear()
            began = time.monotonic()
            if way == "lost":
                await gate.flushdb()
            given_up[way] += await _rebuilt(app, is_forced=way == "forced")
            # Closed since the first raise of this process, or since the data was gone.
            spans[way].append((raises.times[0] if way == "forced" else began, time.monotonic()))
            stalls[way].append(watch.take())
            await asyncio.sleep(SETTLE_SECONDS)
    watch.stop()
    calls = json.loads((await asyncio.to_thread(load.communicate, b""))[0])
    await server.stop()
    await app.close()
    await gate.aclose()
    return [
        {
            "skus": skus,
            "claims": claims,
            "way": way,
            "rounds": rounds,
            "given_up": given_up[way],
            "closed_ms_median": round(statistics.median(e - b for b, e in spans[way]) * 1000, 1),
            "closed_ms_max": round(max(e - b for b, e in spans[way]) * 1000, 1),
            "stall_ms_max": round(max(stalls[way])[0] * 1000, 1),
            "busy_ms_max": round(max(busy for _, busy in stalls[way]) * 1000, 1),
            "stall_ms_max_without": round(quiet[0] * 1000, 1),
            "busy_ms_max_without": round(quiet[1] * 1000, 1),
            "calls": _meanwhile(calls, spans[way]),
        }
        for way in spans
    ]


async def _rebuilt(app: App, *, is_forced: bool) -> int:
    """Rebuilds until the data is trusted, for half a minute at most. Returns how many rebuilds gave up."""
    given_up, until = 0, time.monotonic() + GIVE_UP_SECONDS
    while time.monotonic() < until:
        try:
            await app.rebuilder.rebuild(LOCATION, is_forced=is_forced and not given_up)
            header, epoch = await app.rebuilder._standing(LOCATION)
            if header.epoch == epoch:
                break
        except GateUnavailable as error:
            given_up += 1
            print(f"given up once: {error}", file=sys.stderr)
    return given_up


def _meanwhile(calls: list[list[Any]], spans: list[tuple[float, float]]) -> dict[str, Any]:
    """What became of the calls that met a closed location: how many ended within, and how long the others took at most."""
    result: dict[str, Any] = {}
    for kind in ("reserve", "release", "sell", "read"):
        met = [c for c in calls if c[0] == kind and any(c[1] < end and c[2] > begin for begin, end in spans)]
        within = [c for c in met if any(begin <= c[1] and c[2] <= end for begin, end in spans)]
        result[kind] = {
            "met": len(met),
            "ended_within": len(within),
            "ms_max": round(max((c[2] - c[1] for c in met), default=0.0) * 1000, 1),
            "failed": sum(c[3] != "OK" for c in met),
        }
    return result


def run(skus: int, rounds: int) -> list[dict[str, Any]]:
    """Measures one size on a stack of its own."""
    with ExitStack() as ended:
        folder = ended.enter_context(tempfile.TemporaryDirectory(prefix="onhand-rebuild-", ignore_cleanup_errors=True))
        stack = ended.enter_context(DevStack(Path(folder), fast=True))
        migrate(stack.postgres_dsn)
        port = ended.enter_context(reserve_port("127.0.0.1", 0)).getsockname()[1]
        others = server_processes(
            postgres_dsn=stack.postgres_dsn, redis_url=stack.redis_url, host="127.0.0.1", port=port, count=1
        )
        ended.callback(others.stop)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(measure(skus, rounds, stack.postgres_dsn, stack.redis_url, f"127.0.0.1:{port}"))


def main() -> None:
    """Prints a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skus", type=int, action="append", help="a size; 1000 and 100000 if left out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--client", metavar="TARGET", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        asyncio.run(client(options.client, options.skus[0]))
        return
    if options.one:
        print(json.dumps(run(options.skus[0], options.rounds)))
        return
    results: list[dict[str, Any]] = []
    for skus in options.skus or [1_000, 100_000]:  # each in a process of its own, as gRPC wants it
        command = [sys.executable, __file__, "--one", "--skus", str(skus), "--rounds", str(options.rounds)]
        results += json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    if options.json:
        print(json.dumps({"results": results}))
        return
    print("   skus  claims way      closed ms      max given up  stall ms   busy   else  calls that met it")
    for r in results:
        calls = ", ".join(
            f"{kind} {c['met']} ({c['ended_within']} within, {c['ms_max']} ms at most, {c['failed']} failed)"
            for kind, c in r["calls"].items()
        )
        print(
            f"{r['skus']:>7} {r['claims']:>7} {r['way']:7} {r['closed_ms_median']:>10} {r['closed_ms_max']:>8} {r['given_up']:>8} "
            f"{r['stall_ms_max']:>9} {r['busy_ms_max']:>6} {r['stall_ms_max_without']:>6}  {calls}"
        )


if __name__ == "__main__":
    main()
