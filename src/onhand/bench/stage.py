"""What is measured on: a stack of its own with a shop in it, servers and clients on processors of their own, and their clocks."""

from __future__ import annotations

import asyncio
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import psutil

from onhand.bench.load import BenchError
from onhand.bench.shapes import STOCK, Shop, dollars
from onhand.dev.stack import DevStack
from onhand.ids import new_id
from onhand.ledger.migrate import migrate
from onhand.serve import Processes, reserve_port, server_processes
from onhand.v1 import catalog_pb2, catalog_pb2_grpc, inventory_pb2, inventory_pb2_grpc, types_pb2

HOST = "127.0.0.1"
START_SECONDS_MAX = 60.0
"""How long the servers may take until they answer."""
SETUP_LINES_MAX = 100
"""Skus that one call of the set-up receives."""
VERSIONS = ("grpcio", "protobuf", "uvloop", "asyncpg", "redis", "sqlalchemy")
"""Packages whose versions the report tells."""


@dataclass(frozen=True)
class Layout:
    """Which processors are whose."""

    servers: frozenset[int]
    rest: frozenset[int]
    is_pinned: bool

    def told(self) -> str:
        """For the report."""
        if not self.is_pinned:
            return "nothing is pinned"
        of = {name: ", ".join(map(str, sorted(cpus))) for name, cpus in (("s", self.servers), ("r", self.rest))}
        return f"server processes on processor {of['s']}; PostgreSQL, Valkey and clients on {of['r']}"


def layout(processes: int, *, is_pinned: bool = True) -> Layout:
    """One processor for each server process, the others for the rest; nothing is pinned where that leaves none."""
    cpus = sorted(os.sched_getaffinity(0))
    if not is_pinned or processes >= len(cpus):
        return Layout(frozenset(cpus), frozenset(cpus), False)
    return Layout(frozenset(cpus[:processes]), frozenset(cpus[processes:]), True)


@dataclass
class Stage:
    """Where the measured things are."""

    layout: Layout
    shop: Shop
    postgres_dsn: str
    redis_url: str
    port: int
    connect_port: int
    processes: int
    roots: dict[str, list[int]]
    """Processes by the name they are told under; their children count with them."""
    has_fsync: bool
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> str:
        """Where gRPC is answered."""
        return f"{HOST}:{self.port}"

    def clocks(self) -> dict[str, dict[int, float]]:
        """Seconds of processor time that each process has had, by name and process."""
        return {name: {pid: cpu for root in roots for pid, cpu in _clocks(root)} for name, roots in self.roots.items()}

    def clocks_of(self, pids: Sequence[int]) -> dict[int, float]:
        """The same, of processes that are not the stage's own."""
        return {pid: cpu for root in pids for pid, cpu in _clocks(root)}

    def memory_mb(self) -> dict[str, float]:
        """Megabytes that each has to itself (USS), of all its processes together."""
        return {name: round(sum(map(_memory_mb, roots)), 1) for name, roots in self.roots.items()}

    def machine(self) -> dict[str, Any]:
        """What it runs on."""
        return {
            "processors": os.cpu_count(),
            "processor": _processor(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "versions": {name: version(name) for name in VERSIONS},
            "layout": self.layout.told(),
            "server_processes": self.processes,
            "fsync": self.has_fsync,
            "load_average": round(os.getloadavg()[0], 2),
            **self.notes,
        }


def used(before: Mapping[str, Mapping[int, float]], after: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    """Processor seconds between two readings, by name. What a process had that ended meanwhile is not known."""
    return {
        name: sum(cpu - before.get(name, {}).get(pid, 0.0) for pid, cpu in clocks.items())
        for name, clocks in after.items()
    }


def _family(root: int) -> list[int]:
    """A process and all below it, as far as they live."""
    found = [root]
    for pid in found:  # grows meanwhile
        with suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


def _clocks(root: int) -> Iterator[tuple[int, float]]:
    for pid in _family(root):
        with suppress(OSError):
            # The clock of another process with all its threads, to the nanosecond (clock_getcpuclockid(3)).
            yield pid, time.clock_gettime(~pid << 3 | 2)


def _memory_mb(root: int) -> float:
    total = 0
    for pid in _family(root):
        with suppress(psutil.NoSuchProcess):
            total += psutil.Process(pid).memory_full_info().uss
    return total / 1e6


def _processor() -> str:
    with suppress(OSError), open("/proc/cpuinfo") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


@contextmanager
def stage(
    *,
    processes: int = 1,
    is_pinned: bool = True,
    has_fsync: bool = True,
    shop: Shop | None = None,
    has_stock: bool = True,
    prepare: Callable[[str], None] | None = None,
) -> Iterator[Stage]:
    """A stack and servers with an echo, and the shop in them unless another fills it; all ended and gone at the end.

    `prepare` is given the address of the ledger before any server runs on it.
    """
    where = layout(processes, is_pinned=is_pinned)
    shop = shop or Shop()
    before = os.sched_getaffinity(0)
    with ExitStack() as ended:
        ended.callback(os.sched_setaffinity, 0, before)
        os.sched_setaffinity(0, where.rest)  # what is started now inherits it
        folder = ended.enter_context(tempfile.TemporaryDirectory(prefix="onhand-bench-", ignore_cleanup_errors=True))
        stack = ended.enter_context(DevStack(Path(folder), fast=not has_fsync))
        migrate(stack.postgres_dsn)
        if prepare is not None:
            prepare(stack.postgres_dsn)
        held = ended.enter_context(reserve_port(HOST, 0))
        port = held.getsockname()[1]
        held_connect = ended.enter_context(reserve_port(HOST, 0))
        connect_port = held_connect.getsockname()[1]
        children = _servers(where, stack, port, connect_port, processes)
        ended.callback(children.stop)
        found = Stage(
            layout=where,
            shop=shop,
            postgres_dsn=stack.postgres_dsn,
            redis_url=stack.redis_url,
            port=port,
            connect_port=connect_port,
            processes=processes,
            roots={
                "server": children.pids,
                "postgres": [stack.postgres.pid or 0],
                "valkey": [stack.valkey.pid or 0],
            },
            has_fsync=has_fsync,
        )
        asyncio.run(_fill(found.target, shop if has_stock else None))
        yield found
        if dead := [pid for pid in children.pids if not psutil.pid_exists(pid)]:
            raise BenchError(f"server processes {dead} died")


def _servers(where: Layout, stack: DevStack, port: int, connect_port: int, processes: int) -> Processes:
    os.sched_setaffinity(0, where.servers)
    try:
        return server_processes(
            postgres_dsn=stack.postgres_dsn,
            redis_url=stack.redis_url,
            host=HOST,
            port=port,
            count=processes,
            options=("--echo", "--connect-port", str(connect_port)),
        )
    finally:
        os.sched_setaffinity(0, where.rest)


async def _fill(target: str, shop: Shop | None) -> None:
    async with grpc.aio.insecure_channel(target) as channel:
        inventory = inventory_pb2_grpc.InventoryServiceStub(channel)
        await inventory.ListLocations(
            inventory_pb2.ListLocationsRequest(), wait_for_ready=True, timeout=START_SECONDS_MAX
        )
        if shop is None:
            return
        catalog = catalog_pb2_grpc.CatalogServiceStub(channel)
        for n in range(shop.skus):
            product = catalog_pb2.Product(sku=shop.sku(n), name=f"Sku {n}")
            await catalog.CreateProduct(catalog_pb2.CreateProductRequest(request_id=str(new_id()), product=product))
            price = catalog_pb2.SetPriceRequest(request_id=str(new_id()), sku=product.sku, amount=dollars(1))
            await catalog.SetPrice(price)
        lines = [types_pb2.BasketLine(sku=shop.sku(n), quantity=STOCK) for n in range(shop.skus)]
        for n in range(shop.locations):
            location = inventory_pb2.Location(
                location_id=shop.location_id(n),
                name=f"Store {n}",
                kind=inventory_pb2.LOCATION_KIND_STORE,
                offers_pickup=True,
                offers_shipping=True,
            )
            await inventory.CreateLocation(
                inventory_pb2.CreateLocationRequest(request_id=str(new_id()), location=location)
            )
            for at in range(0, len(lines), SETUP_LINES_MAX):
                await inventory.ReceiveStock(
                    inventory_pb2.ReceiveStockRequest(
                        request_id=str(new_id()),
                        location_id=location.location_id,
                        lines=lines[at : at + SETUP_LINES_MAX],
                    )
                )
