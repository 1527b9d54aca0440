"""Replays and crowds against real server processes: what is counted, what survives a kill, and what the auditor sees.

These tests are plain functions: a replay has event loops of its own, in this process and in its clients.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from typing import Any

import asyncpg
import pytest

from load_shop import OPENING, SKUS, STORES, Servers, baskets, fail_or_wait, kill_itself
from onhand.simulate.audit import Findings, audit, snapshot
from onhand.simulate.buyers import run_buyers
from onhand.simulate.calls import Client, GaveUp
from onhand.simulate.plan import Kind, plan
from onhand.simulate.processes import ProcessFailed, run_processes
from onhand.simulate.replay import run_replay

SEED = 7


def _ledger(servers: Servers, query: str) -> list[Any]:
    async def fetch() -> list[Any]:
        connection = await asyncpg.connect(servers.postgres_dsn)
        try:
            return list(await connection.fetch(query))
        finally:
            await connection.close()

    return asyncio.run(fetch())


def test_every_basket_of_a_replay_has_an_outcome_and_the_ledger_agrees(servers: Servers) -> None:
    seen: list[int] = []

    report = run_replay(
        baskets(60), target=servers.target, processes=2, seed=SEED, progress=lambda done, total: seen.append(done)
    )

    assert report["evidence"] == []
    assert (report["violations"], report["oversold_units"], report["unknown"]) == (0, 0, 0)
    kinds = Counter(play.kind for play in plan(baskets(60), SEED))
    assert report["planned"] == {kind.value: kinds[kind] for kind in Kind} | {"returns": report["planned"]["returns"]}
    # There is plenty of everything: nothing is refused.
    assert (report["orders_placed"], report["orders_refused"], report["abandoned"]) == (57, 0, 3)
    assert (report["sales"], report["pickups"], report["shipments"]) == (39, 12, 6)
    assert report["returns"] == report["planned"]["returns"]
    assert report["audit"]["positions_followed"] > 0
    assert report["audit"]["repeats_compared"] > 0
    assert seen[-1] == 60
    [orders] = _ledger(servers, "SELECT count(*) FILTER (WHERE state = 'COMPLETED') AS done, count(*) FROM orders")
    assert tuple(orders) == (57, 57)
    [units] = _ledger(servers, "SELECT sum(fulfilled_quantity) FROM order_lines WHERE sku <> 'FUEL'")
    assert units[0] == report["units"]
    assert _ledger(servers, "SELECT FROM stock_levels WHERE allocated <> 0") == []


def test_a_shortage_refuses_orders_and_never_sales_nor_oversells(servers: Servers) -> None:
    report = run_replay(baskets(60, units=OPENING // 2), target=servers.target, processes=2, seed=SEED)

    assert report["evidence"] == []
    assert (report["violations"], report["oversold_units"], report["unknown"]) == (0, 0, 0)
    assert report["sales"] == 39
    assert report["orders_refused"] > 0
    assert report["refused_by_reason"].keys() <= {"INSUFFICIENT_STOCK", "RESERVATION_SHORT"}
    accounted = report["orders_placed"] + report["orders_refused"] + report["abandoned"]
    assert accounted == report["baskets"] == 60


def test_a_second_run_with_the_same_seed_is_a_new_one_and_one_with_its_run_id_does_nothing_twice(
    servers: Servers,
) -> None:
    first = run_replay(baskets(20), target=servers.target, processes=1, seed=SEED)
    again = run_replay(baskets(20), target=servers.target, processes=1, seed=SEED, run_id=first["run_id"])
    assert _ledger(servers, "SELECT count(*) FROM orders")[0][0] == first["orders_placed"] == again["orders_placed"]

    second = run_replay(baskets(20), target=servers.target, processes=1, seed=SEED)

    assert second["run_id"] != first["run_id"]
    assert _ledger(servers, "SELECT count(*) FROM orders")[0][0] == 2 * first["orders_placed"]
    counts = ("orders_placed", "sales", "pickups", "shipments", "abandoned", "returns", "lines", "units", "planned")
    assert [second[name] for name in counts] == [first[name] for name in counts]


def test_a_replay_outlives_servers_that_are_killed_and_started_again(servers: Servers) -> None:
    killed: list[int] = []

    def kill_at_a_third(done: int, total: int) -> None:
        if not killed and done >= total // 3:
            killed.extend(servers.processes.pids)
            for pid in killed:
                os.kill(pid, signal.SIGKILL)
                # Gone, before it is looked whether it must be started again.
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            servers.processes.check()

    report = run_replay(baskets(120), target=servers.target, processes=2, seed=SEED, progress=kill_at_a_third)

    assert len(killed) == 2
    assert report["evidence"] == []
    assert (report["violations"], report["oversold_units"], report["unknown"]) == (0, 0, 0)
    assert report["call_retries"]
    assert _ledger(servers, "SELECT count(*) FROM orders")[0][0] == report["orders_placed"]


def test_the_auditor_sees_a_unit_that_vanished_without_a_movement(servers: Servers) -> None:
    position = (STORES[0], SKUS[0])

    async def look() -> Findings:
        findings = Findings()
        client = Client(servers.target, channels=1)
        try:
            await client.connect(60)
            before = await snapshot(client, [position])
            connection = await asyncpg.connect(servers.postgres_dsn)
            await connection.execute("UPDATE stock_levels SET available = available - 1 WHERE sku = $1", SKUS[0])
            await connection.close()
            await audit(client, before, findings, is_all_known=True)
        finally:
            await client.close()
        return findings

    findings = asyncio.run(look())

    assert findings.evidence == [f"{SKUS[0]} at {STORES[0]}: available was {OPENING}, moved 0, is {OPENING - 1}"]


def test_of_a_crowd_as_many_win_as_there_are_units(servers: Servers) -> None:
    report = run_buyers(target=servers.target, buyers=40, stock=15, processes=2, seed=1)

    assert report["evidence"] == []
    expected = {"buyers": 40, "stock": 15, "reserved": 15, "refused": 25, "oversold_units": 0, "violations": 0}
    assert {name: report[name] for name in expected} == expected
    nothing = run_buyers(target=servers.target, buyers=5, stock=0, processes=2, seed=1)
    assert (nothing["reserved"], nothing["refused"], nothing["violations"]) == (0, 5, 0)


def test_a_server_that_is_not_there_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onhand.simulate.replay.CONNECT_SECONDS_MAX", 0.2)

    with pytest.raises(GaveUp, match="onhand dev"):
        run_replay(baskets(1), target="127.0.0.1:1", processes=1, seed=SEED)


def test_a_client_process_that_fails_ends_the_others_and_tells_why() -> None:
    with pytest.raises(ProcessFailed, match="no such thing"):
        run_processes(fail_or_wait, [(True,), (False,)], lambda count: None)


def test_a_killed_client_process_is_noticed() -> None:
    with pytest.raises(ProcessFailed, match="exit code -9"):
        run_processes(kill_itself, [()], lambda count: None)
