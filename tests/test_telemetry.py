"""The page of metrics: whole, of all processes, and documented."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from prometheus_client import REGISTRY

from api import opened
from onhand import telemetry
from onhand.dev.process import free_port
from onhand.settings import Unusable
from onhand.v1 import inventory_pb2 as pb
from onhand.v1 import inventory_pb2_grpc
from shop import NORTH
from test_commands import Running, run  # noqa: F401

DOCUMENT = Path(__file__).parents[1] / "docs" / "metrics.md"


def _page(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        return str(answer.read().decode())


def _calls(page: str, method: str, code: str) -> int:
    found = re.search(
        rf'^onhand_call_seconds_count{{code="{code}",method="onhand\.v1\.InventoryService\.{method}"}} (\S+)$',
        page,
        re.M,
    )
    return int(float(found[1])) if found else 0


async def _ask(port: int, location_id: str) -> str:
    """One call on a connection of its own, so that any of the processes may get it."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        try:
            await inventory_pb2_grpc.InventoryServiceStub(channel).GetLocation(
                pb.GetLocationRequest(location_id=location_id), wait_for_ready=True
            )
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return "OK"


async def test_one_page_counts_the_calls_of_all_processes_also_of_those_that_died(
    database_dsn: str,
    redis_url: str,
    run: Callable[..., Running],  # noqa: F811
) -> None:
    async with opened(database_dsn, redis_url):
        port = free_port()
        addresses = ("--postgres", database_dsn, "--redis", redis_url)
        server = run("serve", "--processes", "2", "--port", str(port), "--metrics-port", "0", *addresses)
        metrics = int((await asyncio.to_thread(server.until_said, r"metrics on http://127\.0\.0\.1:(\d+)/metrics"))[1])
        await asyncio.to_thread(server.until, lambda: server.text.count("serving on") == 2, "two servers")
        assert [await _ask(port, NORTH) for _ in range(12)] == ["OK"] * 12
        assert [await _ask(port, "nowhere") for _ in range(3)] == ["NOT_FOUND"] * 3
        server.children()[0].kill()
        await asyncio.to_thread(server.until, lambda: server.text.count("serving on") == 3, "a third server")
        assert await _ask(port, NORTH) == "OK"
        page = await asyncio.to_thread(_page, metrics)
        assert (_calls(page, "GetLocation", "OK"), _calls(page, "GetLocation", "NOT_FOUND")) == (13, 3)
        assert 'onhand_refusals_total{reason="LOCATION_NOT_FOUND"} 3.0' in page
        assert await asyncio.to_thread(server.end) == 0


def test_a_port_that_is_taken_is_said_in_a_line() -> None:
    with telemetry.exposed("127.0.0.1", 0, is_alone=True) as environment:
        assert environment == {}
    port = free_port()
    with telemetry.exposed("127.0.0.1", port, is_alone=False) as environment:
        assert environment.keys() == {telemetry.FOLDER}
        assert _page(port) == ""  # no server has counted anything yet
        with pytest.raises(Unusable, match="--metrics-port"), telemetry.exposed("127.0.0.1", port, is_alone=True):
            pass


def test_every_metric_is_documented_and_nothing_else_is() -> None:
    names = {
        metric.name + ("_total" if metric.type == "counter" else "")
        for metric in REGISTRY.collect()
        if metric.name.startswith("onhand_")
    }
    documented = set(re.findall(r"^\| `(onhand_\w+)", DOCUMENT.read_text(), re.M))
    assert documented == names
