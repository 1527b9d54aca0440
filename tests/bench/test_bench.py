"""The command as a whole, tiny: what its report holds, and that the invariants hold after it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from onhand.bench.figures import FIGURES
from onhand.bench.load import BenchError, Client, Edge, Load, Tally, refuse_refusals
from onhand.bench.report import page
from onhand.bench.shapes import Shop
from onhand.bench.sourcing import POLICIES, measure, problem
from onhand.bench.stage import HOST, Stage, stage
from onhand.bench.table import table

NAMES = {
    "reserve",
    "reserve_hot",
    "reserve_batch",
    "reserve_stream",
    "reserve_connect",
    "availability_20_skus",
    "availability_20_skus_connect",
    "availability_50_locations",
    "place_order",
    "place_order_hot",
    "sell",
    "sell_hot",
    *(
        f"baseline_{what}{hot}"
        for what in ("conditional_update", "conditional_update_pooled", "select_for_update", "redis_script")
        for hot in ("", "_hot")
    ),
}
SMALL = Shop(locations=3, skus=5, variants=16)
INVENTORY = "/onhand.v1.InventoryService"


@pytest.fixture(scope="module")
def on() -> Iterator[Stage]:
    """A small shop that is served."""
    with stage(has_fsync=False, shop=SMALL) as small:
        yield small


def load(on: Stage, kind: str, path: str, edge: Edge = Edge.GRPC, orders: int = 0, shop: Shop = SMALL) -> Load:
    port = on.connect_port if edge is Edge.CONNECT else on.port
    return Load(kind, path, edge, HOST, port, 4, shop, seed=1, orders=orders)


def called(wanted: Load) -> Tally:
    """What becomes of a moment's calls."""

    async def call() -> Tally:
        client = Client()
        await client.prepare(wanted)
        return await client.run(0.1)

    return asyncio.run(call())


@pytest.mark.parametrize(
    ("kind", "path", "edge", "orders"),
    [
        ("reserve", f"{INVENTORY}/Reserve", Edge.GRPC, 0),
        ("reserve", f"{INVENTORY}/Reserve", Edge.CONNECT, 0),
        ("reserve", f"{INVENTORY}/ReserveStream", Edge.STREAM, 0),
        ("reserve_batch", f"{INVENTORY}/BatchReserve", Edge.GRPC, 0),
        ("place_order", "/onhand.v1.OrderService/PlaceOrder", Edge.GRPC, 100),
    ],
)
def test_the_clients_calls_are_answered(on: Stage, kind: str, path: str, edge: Edge, orders: int) -> None:
    tally = called(load(on, kind, path, edge, orders))
    assert tally.refused == 0
    assert tally.answered == len(tally.latencies) > 0


@pytest.mark.parametrize("edge", Edge)
def test_a_refused_call_is_not_counted_as_answered(on: Stage, edge: Edge) -> None:
    path = f"{INVENTORY}/{'ReserveStream' if edge is Edge.STREAM else 'Reserve'}"
    elsewhere = Shop(locations=2, skus=70, variants=1)  # what the shop has not
    hot = load(on, "reserve", path, edge, shop=elsewhere)
    tally = called(hot)
    assert (tally.answered, len(tally.latencies)) == (0, 0)
    assert tally.refused > 0
    with pytest.raises(BenchError, match="were refused"):
        refuse_refusals(tally, "reserve")


def test_a_batch_whose_reservations_are_refused_is_refused(on: Stage) -> None:
    elsewhere = Shop(locations=2, skus=70, variants=1)
    with pytest.raises(BenchError, match="refused"):
        called(load(on, "place_order", "/onhand.v1.OrderService/PlaceOrder", orders=10, shop=elsewhere))


def test_a_tiny_run_has_every_figure_and_leaves_every_invariant_whole() -> None:
    command = [sys.executable, "-m", "onhand.cli", "bench", "--json", "--no-fsync", "--alternations", "1"]
    done = subprocess.run(
        [*command, "--seconds", "0.1", "--in-flight", "8"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["verify"]["ok"]
    assert {figure["name"] for figure in report["figures"]} == NAMES == {figure.name for figure in FIGURES}
    assert report["machine"]["fsync"] is False
    assert report["echo"]["calls_per_second"] > 0
    for figure in report["figures"]:
        assert (figure["in_flight"], figure["processes"]) == (8, 1)
        for name in ("calls_per_second", "ratio_to_echo", "p50_ms", "p99_ms"):
            assert figure[name] > 0, (figure["name"], name)
        assert figure["cpu_ms_per_call"].keys() >= {"server", "postgres", "valkey"}
    reserve = report["figures"][0]["cpu_ms_per_call"]
    assert min(reserve["server"], reserve["postgres"], reserve["valkey"], reserve["client"]) > 0
    sourcing = report["sourcing"]
    assert (sourcing["lines"], sourcing["locations"]) == (10, 457)
    assert sourcing["median_ms"] > 0
    assert {policy["policy"] for policy in sourcing["policies"]} == set(POLICIES)
    assert "a sourcing plan with reasons, 10 lines, 457 locations" in table(report)
    assert all(name in table(report) for name in NAMES)
    assert all(name in page(report) for name in NAMES)


def test_the_page_says_what_the_report_does_and_ends_with_the_notes() -> None:
    report = json.loads((Path(__file__).parent / "report.json").read_text())
    written = page(report, "## What did not pay\n\nA cache.\n")
    assert written.endswith("## What did not pay\n\nA cache.\n")
    assert "| reserve, of echo | >= 0.75 | 0.80 | yes |" in written
    assert "| reserve_hot, of echo | >= 0.85 | 0.60 | no |" in written
    assert "| reserve_hot, over the conditional UPDATE on one row | >= 3 | 4.00 | yes |" in written
    assert "| a lone reserve, ms over the echo's p50 | <= 2.5 | 2.25 | yes |" in written
    assert "| a sourcing plan, ms | <= 20 | 12.50 | yes |" in written
    assert "| all of them | 12.5 | 30.0 | 98% | 2.0% |" in written
    assert "| reserve | 64 | 2,400 | 0.80 (0.70 to 0.90) |" in written
    assert "fsync on" in written
    assert "the server is what saturates" in written
    assert "| server, beyond the echo | 100 |" in written
    assert written.count("```mermaid") == 4
    assert "| reserve | large | 2,000 | 0.72 | 0.90 |" in written
    assert "| large | postgres | 900 | 300 | 25 |" in written


def test_a_sourcing_plan_is_measured_on_problems_that_need_several_parcels() -> None:
    assert problem(1) == problem(1)
    lines, places = problem(1)
    assert (len(lines), len(places)) == (10, 457)
    plans = measure(lambda *_: None, plans=2)
    assert plans["plans"] == 2 * len(POLICIES)
    assert 0 < plans["median_ms"] <= plans["p99_ms"]
    assert 0 <= plans["share_proven_optimal"] <= 1
