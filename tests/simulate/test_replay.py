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
from onhand.simulate.amounts import money, tenders_of
from onhand.simulate.audit import Findings, audit, snapshot
from onhand.simulate.books import Books, audit_books
from onhand.simulate.buyers import run_buyers
from onhand.simulate.calls import Client, GaveUp
from onhand.simulate.plan import Kind, Twist, plan
from onhand.simulate.processes import ProcessFailed, run_processes
from onhand.simulate.replay import run_replay
from onhand.v1 import order_pb2, payment_pb2

SEED = 7
NONE = ("violations", "money_violations", "oversold_units", "unknown")


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
        baskets(100), target=servers.target, processes=2, seed=SEED, progress=lambda done, total: seen.append(done)
    )

    assert report["evidence"] == []
    assert [report[name] for name in NONE] == [0] * len(NONE)
    plays = plan(baskets(100), SEED)
    kinds, twists = Counter(play.kind for play in plays), Counter(play.twist for play in plays)
    assert {kind: report["planned"][kind.value] for kind in Kind} == kinds
    # There is plenty of everything: nothing is refused.
    assert (report["orders_placed"], report["orders_refused"], report["abandoned"]) == (95, 0, 5)
    assert report["sales"] == 65
    assert report["no_shows"] == twists[Twist.NO_SHOW] == report["orders_cancelled"]
    assert report["substitutions"] == twists[Twist.SUBSTITUTED]
    assert report["rejected_lines"] >= twists[Twist.REJECTED]
    assert report["resourced"] > 0
    # What nobody fetched does not come back.
    assert 0 < report["returns"] <= report["planned"]["returns"]
    assert 0 < report["exchanges"] <= report["planned"]["exchanges"]
    assert report["besides"]["changed"] == twists[Twist.CHANGED]
    assert report["blind_returns"] > 0
    assert report["transfers"] > 0
    besides = report["besides"]
    counted = besides["counts"] + besides["counts_outdated"]
    assert counted == sum(play.is_counted for play in plays) >= besides["recounts"] > 0
    assert besides["held_longer"] > 0
    assert besides["handed_over_by_identity"] > 0
    assert _ledger(servers, "SELECT count(*) FROM identity_checks")[0][0] == besides["handed_over_by_identity"]
    assert report["captured"]["minor"] > report["refunded"]["minor"] > 0
    assert report["money"]["gift_cards"]["came_back"]["minor"] >= 0
    assert report["audit"]["positions_followed"] > 0
    assert report["audit"]["repeats_compared"] > 0
    assert seen[-1] == 100
    [states] = _ledger(servers, "SELECT array_agg(DISTINCT state ORDER BY state) FROM orders")
    assert states[0] == ["CANCELLED", "COMPLETED"]
    [units] = _ledger(servers, "SELECT sum(captured_minor), sum(refunded_minor) FROM tenders")
    assert tuple(units) == (report["captured"]["minor"], report["refunded"]["minor"])
    assert _ledger(servers, "SELECT FROM stock_levels WHERE allocated <> 0") == []


def test_a_shortage_refuses_orders_and_never_sales_nor_oversells(servers: Servers) -> None:
    report = run_replay(baskets(100, units=OPENING // 2), target=servers.target, processes=2, seed=SEED)

    assert report["evidence"] == []
    assert [report[name] for name in NONE] == [0] * len(NONE)
    assert report["sales"] == 65
    assert report["orders_refused"] > 0
    assert report["refused_by_reason"].keys() <= {"INSUFFICIENT_STOCK", "RESERVATION_SHORT", "NOTHING_TO_ORDER"}
    accounted = report["orders_placed"] + report["orders_refused"] + report["abandoned"]
    assert accounted == report["baskets"] == 100
    # Who accepts to wait gets all that was not there, once it comes.
    assert report["backorders_filled"] == report["besides"]["backordered"] > 0


def test_an_interrupted_run_goes_on_where_it_was_and_another_with_the_same_seed_is_a_new_one(servers: Servers) -> None:
    def interrupt(done: int, total: int) -> None:
        raise InterruptedError(f"after {done} of {total}")

    with pytest.raises(InterruptedError):
        run_replay(baskets(60), target=servers.target, processes=1, seed=SEED, run_id="once", progress=interrupt)
    first = run_replay(baskets(60), target=servers.target, processes=1, seed=SEED, run_id="once")

    assert first["evidence"] == []
    assert [first[name] for name in NONE] == [0] * len(NONE)
    orders = first["orders_placed"] + first["exchanges"]
    assert _ledger(servers, "SELECT count(*) FROM orders")[0][0] == orders
    assert _ledger(servers, "SELECT FROM stock_levels WHERE allocated <> 0") == []

    second = run_replay(baskets(60), target=servers.target, processes=1, seed=SEED)

    assert second["run_id"] != first["run_id"]
    assert _ledger(servers, "SELECT count(*) FROM orders")[0][0] == 2 * orders
    counts = ("orders_placed", "sales", "abandoned", "exchanges", "planned")
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

    report = run_replay(baskets(60), target=servers.target, processes=2, seed=SEED, progress=kill_at_a_third)

    assert len(killed) == 2
    assert report["evidence"] == []
    assert [report[name] for name in NONE] == [0] * len(NONE)
    assert report["call_retries"]
    orders = report["orders_placed"] + report["exchanges"]
    assert _ledger(servers, "SELECT count(*) FROM orders")[0][0] == orders


def test_the_auditor_sees_units_and_money_that_are_not_as_they_were_told(servers: Servers) -> None:
    position, books = (STORES[0], SKUS[0]), Books()

    async def look() -> tuple[Findings, str, str]:
        findings = Findings()
        client = Client(servers.target, channels=1)
        try:
            await client.connect(60)
            before, stubs = await snapshot(client, [position]), client.stubs()
            line = order_pb2.SaleLine(sku=SKUS[1], quantity=3, total=money(300))
            tenders = tenders_of(300)
            sale = order_pb2.SellRequest(
                request_id="a-sale-to-audit", location_id=STORES[0], lines=[line], currency_code="USD", tenders=tenders
            )
            order_id = (await client.call(stubs.orders.Sell, sale)).order.order_id
            card = payment_pb2.IssueGiftCardRequest(
                request_id="a-card-to-audit", code="A1B2C3D4E5F6", amount=money(500)
            )
            card_id = (await client.call(stubs.payments.IssueGiftCard, card)).gift_card.gift_card_id
            books.paid(order_id, tenders)
            books.cards[card_id] = 500
            await audit_books(client, books, findings, is_all_known=True)
            assert findings.evidence == []
            connection = await asyncpg.connect(servers.postgres_dsn)
            await connection.execute("UPDATE stock_levels SET available = available - 1 WHERE sku = $1", SKUS[0])
            await connection.execute("UPDATE order_lines SET refunded_minor = 7 WHERE order_id = $1", order_id)
            await connection.close()
            books.orders[order_id].paid = [(order_pb2.TENDER_KIND_CARD, 299)]
            books.cards[card_id] = 501
            await audit(client, before, findings, is_all_known=True)
            await audit_books(client, books, findings, is_all_known=True)
        finally:
            await client.close()
        return findings, order_id, card_id

    findings, order_id, card_id = asyncio.run(look())

    assert findings.evidence == [
        f"{SKUS[0]} at {STORES[0]}: available was {OPENING}, moved 0, is {OPENING - 1}",
        f"order {order_id}: line 1 of 300 cents gave back 7, its units are worth 0",
        f"order {order_id}: 0 cents were refunded, 7 were given back",
        f"order {order_id}: 300 cents are kept, the goods that the customer has cost 293",
        f"order {order_id}: 300 cents were captured, the answers say 299",
        f"gift card {card_id}: 500 cents on it, but 501 were put on it and payments changed that by 0",
    ]
    assert (findings.violations, findings.money_violations) == (1, 5)


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
