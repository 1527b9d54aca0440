"""`onhand verify --repair`: what can be known is mended, in movements and recorded; the rest is left, with its next step."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest
import redis
from typer.testing import CliRunner

from onhand import cli
from onhand.ledger import invariants
from onhand.repair import RepairReport, repair
from onhand.repair.advice import NEXT_STEPS
from onhand.repair.mends import MENDS, REASON
from onhand.reservations.gate import Drop
from onhand.verify import GATE_NAME, SCHEMA_NAME
from shop import BREAD, DEPOT, FUEL, MILK, NORTH, SOUTH
from test_verify import DAMAGES, Day, _key, _orphan, day, failed, move  # noqa: F401

# What is known to be right, by rule and title of tests/test_verify.py's damages, and what levels are then.
MENDED: dict[tuple[str, str], dict[tuple[str, str], tuple[int, int]]] = {
    ("conservation", "level"): {(SOUTH, MILK): (10, 0)},
    ("conservation", "movement"): {(NORTH, MILK): (6, 2)},
    ("conservation", "lost movement"): {(DEPOT, BREAD): (0, 4)},
    ("conservation", "movements without a level"): {(NORTH, FUEL): (0, 0)},
    ("movements_append_only", "disabled"): {},
    ("movements_append_only", "dropped"): {},
    ("no_oversell", "more than the shortage"): {},
    ("claims_well_formed", "closed and active"): {},
    ("claims_not_overdue", ""): {},
    ("deltas_contiguous", "gap"): {},
    ("deltas_contiguous", "head"): {},
    ("increases_numbered", ""): {},
    ("locations_have_epochs", "no head"): {},
    ("locations_have_epochs", "deleted and open"): {},
    ("allocated_is_promised", "stock"): {(NORTH, MILK): (7, 2)},
    ("order_states", ""): {},
    ("shortages", "silent shortage"): {},
    ("shortages", "two count tasks"): {},
    ("shortages", "count task without an end"): {},
}


AVAILABLE = "SELECT available FROM stock_levels WHERE location_id = $1 AND sku = $2"


async def _repair(day: Day) -> RepairReport:  # noqa: F811
    return await repair(day.dsn, day.redis_url)


async def _is_mended(day: Day, report: RepairReport) -> None:  # noqa: F811
    """Nothing is left, all of it is recorded, and a second repair finds nothing to do."""
    assert report.left == [], report.done
    assert failed((await day.verify()).checks) == {}
    written = json.loads(json.dumps(report.to_json()))
    assert written["ok"] is True
    assert written["done"]
    told = await day.shop.fetch("SELECT data ->> 'done' FROM events WHERE subject = $1", report.document)
    swept = {d["done"] for d in report.done if d["rule"] == "claims_not_overdue"}
    assert sorted(done for (done,) in told) == sorted({d["done"] for d in report.done} - swept)
    again = await _repair(day)
    assert (again.done, again.left) == ([], [])
    assert again.to_json()["repair"] is None


@pytest.mark.parametrize(("rule", "title"), MENDED, ids=lambda text: text or "-")
async def test_a_damage_that_can_be_known_is_mended_by_movements_and_recorded(
    day: Day,  # noqa: F811
    rule: str,
    title: str,
) -> None:
    (damage,) = (d for d in DAMAGES if (d.rule, d.title) == (rule, title))
    await day.damage(*damage.statements)
    before = await day.shop.fetch("SELECT count(*) FROM stock_movements WHERE reason_code <> $1", REASON)
    report = await _repair(day)
    assert rule in {d["rule"] for d in report.done}
    await _is_mended(day, report)
    assert await day.shop.fetch("SELECT count(*) FROM stock_movements WHERE reason_code <> $1", REASON) == before
    rows = await day.shop.fetch("SELECT location_id, sku, available, allocated FROM stock_levels")
    levels = {(place, sku): (available, allocated) for place, sku, available, allocated in rows}
    assert MENDED[rule, title].items() <= levels.items()


async def test_units_of_no_order_move_back_by_a_movement_that_says_so(day: Day) -> None:  # noqa: F811
    await day.damage(
        "UPDATE stock_levels SET allocated = allocated + 2 WHERE location_id = '{south}' AND sku = '{milk}'",
        """INSERT INTO stock_movements (location_id, sku, quantity, from_bucket, to_bucket, reason_code)
           VALUES ('{south}', '{milk}', 2, 'adjustment', 'allocated', 'X')""",
    )
    ((before,),) = await day.shop.fetch(AVAILABLE, SOUTH, MILK)
    report = await _repair(day)
    await _is_mended(day, report)
    rows = await day.shop.fetch(
        "SELECT location_id, sku, quantity, from_bucket, to_bucket, reason_code, actor FROM stock_movements"
        " WHERE reference_document = $1",
        report.document,
    )
    assert [tuple(row) for row in rows] == [(SOUTH, MILK, 2, "allocated", "available", REASON, report.document)]
    assert await day.shop.fetch(AVAILABLE, SOUTH, MILK) == [(before + 2,)]


async def test_units_that_open_work_lacks_are_taken_from_what_nobody_is_promised(day: Day) -> None:  # noqa: F811
    await day.damage(
        "UPDATE stock_levels SET allocated = 0, available = available + 2 WHERE location_id = '{north}' AND sku = '{milk}'",
        move(2, "allocated", "adjustment"),
        move(2, "adjustment", "available"),
    )
    report = await _repair(day)
    await _is_mended(day, report)
    rows = await day.shop.fetch(
        "SELECT sku, quantity, from_bucket, to_bucket FROM stock_movements WHERE reference_document = $1",
        report.document,
    )
    assert [tuple(row) for row in rows] == [(MILK, 2, "available", "allocated")]


async def test_where_an_orders_own_movements_do_not_fit_its_units_are_left_alone(day: Day) -> None:  # noqa: F811
    """Who says that it was picked up may be right: to free its units would sell them twice."""
    (damage,) = (d for d in DAMAGES if (d.rule, d.title) == ("allocated_is_promised", "work"))
    await day.damage(*damage.statements)
    report = await _repair(day)
    assert report.done == []
    assert {left["rule"] for left in report.left} == {"allocated_is_promised", "order_lines", "orders_moved_once"}
    assert all(left["next_step"] for left in report.left)
    assert await day.shop.fetch("SELECT FROM stock_movements WHERE reason_code = $1", REASON) == []


async def test_what_nobody_can_know_is_left_with_its_next_step_and_the_rest_is_mended(day: Day) -> None:  # noqa: F811
    unknowable = [
        d
        for d in DAMAGES
        if (d.rule, d.title) in (("tenders_cover_total", ""), ("transfers", "state"), ("shipments", "no parcel"))
    ]
    await day.damage(*(statement for d in unknowable for statement in d.statements))
    await day.damage(
        "UPDATE stock_levels SET available = available + 1 WHERE location_id = '{south}' AND sku = '{milk}'"
    )
    report = await _repair(day)
    assert {d["rule"] for d in report.done} == {"conservation", GATE_NAME}  # the gate did not know of the unit either
    assert {left["rule"]: left["next_step"] for left in report.left} == {d.rule: NEXT_STEPS[d.rule] for d in unknowable}
    assert report.to_json()["ok"] is False
    again = await _repair(day)
    assert again.done == []
    assert len(again.left) == 3


@pytest.mark.parametrize("what", ["atp", "lost promise", "orphan"])
async def test_a_gate_that_differs_is_loaded_anew(day: Day, what: str) -> None:  # noqa: F811
    with redis.Redis.from_url(day.redis_url) as client:
        if what == "atp":
            client.hincrby(_key(SOUTH, "stock"), MILK, 3)
        elif what == "orphan":
            claim_id = await _orphan(day, due_seconds=600)
            client.zrem(_key(SOUTH, "due"), str(claim_id))
        else:
            (((claim_id,),)) = await day.shop.fetch(
                "SELECT claim_id FROM claims WHERE reservation_id = $1", UUID(day.ids["broken"])
            )
            await day.shop.app.gate.drop([Drop(NORTH, claim_id, give_back=True)])
    report = await _repair(day)
    assert {d["rule"] for d in report.done} == {GATE_NAME}
    await _is_mended(day, report)


async def test_repairing_beside_running_servers_disturbs_no_call(day: Day) -> None:  # noqa: F811
    is_over = asyncio.Event()
    calls = 0

    async def trade() -> None:
        nonlocal calls
        while not is_over.is_set():
            await day.shop.receive(SOUTH, {MILK: 2})
            await day.shop.sell(SOUTH, {MILK: 1}, 199)
            await day.shop.reserve({SOUTH: {MILK: 1}})
            calls += 1

    trading = asyncio.create_task(trade())
    try:
        await day.damage(
            "UPDATE stock_levels SET available = available + 5 WHERE location_id = '{south}' AND sku = '{milk}'",
            "UPDATE stock_levels SET allocated = allocated + 1 WHERE location_id = '{south}' AND sku = '{bread}'",
        )
        report = await _repair(day)
    finally:
        is_over.set()
        await trading
    assert {d["rule"] for d in report.done} >= {"conservation"}
    assert calls > 0
    assert failed((await day.verify()).checks) == {}


async def test_nothing_is_done_where_it_may_not_begin(day: Day) -> None:  # noqa: F811
    await day.damage(
        "UPDATE stock_levels SET available = available + 1 WHERE location_id = '{south}' AND sku = '{milk}'"
    )
    shown: list[Any] = []

    def refuse(found: Any) -> bool:
        shown.append(found)
        return False

    report = await repair(day.dsn, day.redis_url, may_begin=refuse)
    assert (len(shown), report.done) == (1, [])
    assert [left["rule"] for left in report.left] == ["conservation", GATE_NAME]


def test_every_rule_is_mended_or_has_a_next_step_of_its_own() -> None:
    rules = {rule.name for rule in invariants.RULES} | {SCHEMA_NAME, GATE_NAME}
    assert MENDS.keys() <= rules
    assert NEXT_STEPS.keys() <= rules
    assert rules - NEXT_STEPS.keys() - MENDS.keys() <= {"claims_not_overdue", "shortfalls_end", "shortfalls_moved_once"}


async def test_the_command_asks_on_a_terminal_and_prints_what_it_did(
    day: Day,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await day.damage(
        "UPDATE stock_levels SET available = available + 1 WHERE location_id = '{south}' AND sku = '{milk}'"
    )
    monkeypatch.setattr(cli, "_is_terminal", lambda: True)
    command = ["verify", "--repair", "--json", "--postgres", day.dsn, "--redis", day.redis_url]

    def invoke(*more: str, answer: str = "") -> tuple[int, dict[str, Any]]:
        result = CliRunner().invoke(cli.app, [*command, *more], input=answer)
        return result.exit_code, json.loads(result.stdout.splitlines()[-1])

    code, report = await asyncio.to_thread(invoke, answer="n\n")
    assert (code, report["ok"], report["done"]) == (1, False, [])
    code, report = await asyncio.to_thread(invoke, answer="y\n")
    assert (code, report["ok"], report["left"]) == (0, True, [])
    assert "conservation" in {d["rule"] for d in report["done"]}
    assert report["repair"].startswith("repair/")
    code, report = await asyncio.to_thread(invoke, "--yes")
    assert (code, report["ok"], report["done"]) == (0, True, [])
