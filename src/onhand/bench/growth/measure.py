"""Figures of growth: the same calls on stores of several sizes, and what each process holds in memory there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import grpc
import psutil
import redis

from onhand.bench.figures import BY_NAME
from onhand.bench.growth.seed import seed
from onhand.bench.growth.shop import shop_of
from onhand.bench.growth.size import SIZES, Size
from onhand.bench.load import BenchError, clients
from onhand.bench.run import Bench, Wanted, alternate, told
from onhand.bench.stage import Stage, stage, used
from onhand.progress import Show
from onhand.v1 import inventory_pb2, inventory_pb2_grpc, types_pb2
from onhand.verify import verify

NAMES = ("reserve", "availability_20_skus", "availability_50_locations", "place_order", "sell")
"""What is measured at each size."""
IN_FLIGHT = 64
"""Calls at once."""
ASKED_AT_ONCE = 500
"""Locations that one call asks for, so that the server loads them into the gate."""
LOAD_PAUSE_SECONDS = 0.5
"""How often it is asked whether the gate is loaded."""
LOAD_SECONDS_MAX = 600.0
"""How long the gate may take to be loaded with all locations."""
IDLE_SECONDS = 10.0
"""How long it is watched what a server does while nobody calls."""


def grow(wanted: Wanted, show: Show, sizes: Sequence[Size] = SIZES) -> dict[str, Any]:
    """Every size on a stack of its own, audited at the end, and beside the first of them. Raises BenchError and StackError."""
    grown = [_of_size(size, wanted, show) for size in sizes]
    return {
        "sizes": grown,
        "beside_the_first": beside_the_first(grown),
        "ok": all(store["verify"]["ok"] for store in grown),
    }


def _of_size(size: Size, wanted: Wanted, show: Show) -> dict[str, Any]:
    def step(name: str, done: int, total: int | None) -> None:
        show(f"{size.name}: {name}", done, total)

    seeded = 0.0

    def fill(dsn: str) -> None:
        nonlocal seeded
        step("seed", 0, 1)
        seeded = asyncio.run(seed(dsn, size))
        step("seed", 1, 1)

    with stage(
        processes=wanted.processes,
        is_pinned=wanted.is_pinned,
        has_fsync=wanted.has_fsync,
        shop=shop_of(size),
        has_stock=False,
        prepare=fill,
    ) as on:
        loaded = asyncio.run(_load_gate(on, size, step))
        idle = _idle(on, min(IDLE_SECONDS, wanted.seconds))
        figures = [BY_NAME[name] for name in wanted.names if name in NAMES]
        with clients(set(on.layout.rest)) as load:
            measurements = [(figure, n) for figure in figures for n in wanted.in_flight or (IN_FLIGHT,)]
            series = alternate(Bench(on, load, None), measurements, wanted.seconds, wanted.alternations, step)
        memory = {name: memory_mb(roots) for name, roots in on.roots.items()}
        step("verify", 0, 1)
        audit = asyncio.run(verify(on.postgres_dsn, on.redis_url)).to_json()
        step("verify", 1, 1)
    return {
        "size": asdict(size) | {"locations": size.locations, "products": size.products},
        "seed_seconds": round(seeded, 1),
        "gate_load": loaded,
        "idle_cpu_share": idle,
        "figures": [told(each, wanted.processes) for each in series],
        "memory_mb": memory,
        "verify": {
            "ok": audit["ok"],
            "seconds": audit["seconds"],
            "failed": [c for c in audit["checks"] if not c["ok"]],
        },
    }


def beside_the_first(grown: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each figure and size: calls a second and the servers' processor time a call, as parts of those of the first size.

    Calls are compared as ratios to each size's own echo, since the sizes are measured one after the other.
    """
    first = {(f["name"], f["in_flight"]): f for f in grown[0]["figures"]}
    compared = []
    for store in grown:
        for figure in store["figures"]:
            base = first[figure["name"], figure["in_flight"]]
            cpu = {
                name: round(ms / base["cpu_ms_per_call"][name], 3) if base["cpu_ms_per_call"][name] else None
                for name, ms in figure["cpu_ms_per_call"].items()
            }
            compared.append(
                {
                    "name": figure["name"],
                    "in_flight": figure["in_flight"],
                    "size": store["size"]["name"],
                    "ratio_of_first": round(figure["ratio_to_echo"] / base["ratio_to_echo"], 3),
                    "cpu_of_first": cpu,
                }
            )
    return compared


async def _load_gate(on: Stage, size: Size, step: Show) -> dict[str, Any]:
    """Asks for every location, so that the servers themselves load it into the gate, until all are there."""
    began, before = time.perf_counter(), on.clocks()
    locations = [size.location(n) for n in range(size.locations)]
    pages = [locations[at : at + ASKED_AT_ONCE] for at in range(0, len(locations), ASKED_AT_ONCE)]
    async with grpc.aio.insecure_channel(on.target) as channel:
        inventory = inventory_pb2_grpc.InventoryServiceStub(channel)
        for page in pages:
            request = inventory_pb2.GetAvailabilityRequest(
                channel=types_pb2.CHANNEL_WEB, skus=[size.sku(0)], location_ids=page
            )
            await inventory.GetAvailability(request, wait_for_ready=True, timeout=30)
    with redis.Redis.from_url(on.redis_url) as gate:
        while True:
            pipeline = gate.pipeline(transaction=False)
            for location_id in locations:
                pipeline.hexists(f"oh:{{{location_id}}}:stock", "#epoch")
            loaded = sum(pipeline.execute())
            step("load the gate", loaded, len(locations))
            if loaded == len(locations):
                break
            if time.perf_counter() - began > LOAD_SECONDS_MAX:
                raise BenchError(f"only {loaded} of {len(locations)} locations were loaded into the gate")
            await asyncio.sleep(LOAD_PAUSE_SECONDS)
    cpu = {name: round(seconds, 2) for name, seconds in used(before, on.clocks()).items()}
    return {"seconds": round(time.perf_counter() - began, 1), "cpu_seconds": cpu}


def _idle(on: Stage, seconds: float) -> dict[str, float]:
    """What each had of a processor while nobody called: the loops that run beside the calls."""
    before, began = on.clocks(), time.perf_counter()
    time.sleep(seconds)
    took = time.perf_counter() - began
    return {name: round(cpu / took, 4) for name, cpu in used(before, on.clocks()).items()}


def memory_mb(roots: Sequence[int]) -> dict[str, float]:
    """Megabytes of processes and their children: `total` counts pages that they share once (PSS), `shared` is that part.

    `largest` is the resident size (RSS) of the largest of them. PostgreSQL's shared part is what was touched of shared_buffers.
    """
    total = own = largest = 0.0
    for process in _family(roots):
        with suppress(psutil.NoSuchProcess):
            info = process.memory_full_info()
            total += getattr(info, "pss", info.uss) / 1e6
            own += info.uss / 1e6
            largest = max(largest, info.rss / 1e6)
    return {
        "total": round(total, 1),
        "shared": round(total - own, 1),
        "largest": round(largest, 1),
        "processes": len(list(_family(roots))),
    }


def _family(roots: Sequence[int]) -> Iterator[psutil.Process]:
    for root in roots:
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(root)
            yield from (process, *process.children(recursive=True))
