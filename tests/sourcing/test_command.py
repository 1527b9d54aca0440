"""`onhand source`, as a person and as a program run it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from api import BREAD, DEPOT, MILK, NORTH, SOUTH, Api
from onhand import cli
from onhand.settings import Unusable
from onhand.sourcing.command import parse_line, parse_near, parse_time

POLICY = """
name = "stores only"
[[rules]]
name = "stores"
kinds = ["STORE"]
split = "units"
objectives = ["nearest"]
partial = true
"""


async def run(api: Api, redis_url: str, *arguments: str, **environment: str) -> tuple[int, str, str]:
    """The exit code, stdout and stderr of the command, in a thread of its own."""
    command = ["source", "--postgres", api.dsn, "--redis", redis_url, *arguments]

    def invoke() -> tuple[int, str, str]:
        result = CliRunner().invoke(cli.app, command, env=environment)
        if isinstance(result.exception, Unusable):  # `main` says it like this
            return 1, result.stdout, f"onhand: {result.exception}\n"
        return result.exit_code, result.stdout, result.stderr

    return await asyncio.to_thread(invoke)


async def planned(api: Api, redis_url: str, *arguments: str, **environment: str) -> dict[str, Any]:
    code, out, err = await run(api, redis_url, *arguments, "--json", **environment)
    assert code == 0, err
    report: dict[str, Any] = json.loads(out)
    return report


async def test_a_program_gets_one_object(api: Api, redis_url: str) -> None:
    asked = ("--line", f"{MILK}=2", "--line", f"{BREAD}=1", "--near", "47.37,8.54", "--json")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "onhand.cli", "source", "--postgres", api.dsn, "--redis", redis_url, *asked),
        stdout=asyncio.subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if not name.startswith("ONHAND_")},
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    report = json.loads(out)
    (parcel,) = report["parcels"]
    assert (parcel["location_id"], parcel["lines"], parcel["distance_metres"]) == (DEPOT, {MILK: 2, BREAD: 1}, None)
    assert (report["ok"], report["is_complete"], report["is_proven_optimal"], report["gap"]) == (True, True, True, 0)
    assert (report["policy"], report["method"], report["is_stale"]) == ("standard", "SHIP", False)
    assert "considered" not in report
    assert [rule["is_used"] for rule in report["rules"]] == [False, False, True, False, False]


async def test_a_person_reads_the_plan_and_why_others_are_not_in_it(api: Api, redis_url: str) -> None:
    code, out, err = await run(
        api, redis_url, "--line", f"{MILK}=2", "--method", "PICKUP", "--near", "47.37,8.54", "--explain"
    )
    assert (code, err) == (0, "")
    assert "PICKUP of 2 units in 1 line, by policy standard: 1 parcel\n" in out
    assert f"  1. {NORTH}, 0.0 km, ready by " in out
    assert f"     {MILK} x 2\n" in out
    assert "  * pickup near by: brings 2 of 2 units from 1 of 1 locations\n" in out
    assert "unsourced 0, nearest 0, soonest_ready 0; nothing is better" in out
    assert f"    distance: 1 location\n      {SOUTH}  1" in out
    assert f"    method: 1 location\n      {DEPOT}  offers no PICKUP\n" in out


async def test_what_nobody_brings_is_told_and_is_no_error(api: Api, redis_url: str) -> None:
    code, out, _ = await run(api, redis_url, "--line", f"{MILK}=31")
    assert code == 0
    assert "3 parcels, not complete" in out
    assert f"  missing: {MILK} x 1\n" in out


async def test_a_policy_is_named_by_an_option_or_by_the_environment(api: Api, redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "ours.toml").write_text(POLICY)
    line = ("--line", f"{MILK}=12", "--near", "46.0,8.95")
    for options, environment in (
        (("--policy", str(tmp_path / "ours.toml")), {}),
        ((), {"ONHAND_SOURCING_POLICY": str(tmp_path / "ours.toml")}),
    ):
        report = await planned(api, redis_url, *line, *options, **environment)
        assert report["policy"] == "stores only"
        assert {each["location_id"]: each["lines"][MILK] for each in report["parcels"]} == {SOUTH: 10, NORTH: 2}
    report = await planned(
        api, redis_url, *line, "--policy", str(tmp_path / "ours.toml"), "--exclude", SOUTH, "--explain"
    )
    assert [each["location_id"] for each in report["parcels"]] == [NORTH]
    assert {"location_id": SOUTH, "rule": "stores", "why": "excluded", "detail": "is not to be asked"} in report[
        "considered"
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--line", "milk"), "--line milk: must be SKU=QUANTITY, as 995242=2, the quantity 1 to 1000000000"),
        (("--line", "milk=1", "--near", "north"), "--near north: must be LATITUDE,LONGITUDE"),
        (("--line", "milk=1", "--at", "noon"), "--at noon: must be a time with its offset"),
        (("--line", "milk=1", "--policy", "nowhere.toml"), "nowhere.toml: cannot be read"),
        (("--line", "nothing=1"), "nothing"),
        (("--line", "milk=1", "--only", "nowhere"), "nowhere"),
    ],
)
async def test_what_cannot_be_asked_is_told_in_a_line(
    api: Api, redis_url: str, arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = await run(api, redis_url, *arguments)
    assert (code, out) == (1, "")
    assert err.startswith("onhand: ")
    assert err.count("\n") == 1
    assert said in err


async def test_without_the_gate_it_plans_by_the_ledger(api: Api) -> None:
    report = await planned(api, "redis://127.0.0.1:1", "--line", f"{MILK}=2")
    assert [each["location_id"] for each in report["parcels"]] == [DEPOT]


@pytest.mark.parametrize("text", ["=1", "milk=0", "milk=-1", "milk=1.5", "milk=1000000001", "milk="])
def test_a_line_is_a_sku_and_a_quantity(text: str) -> None:
    with pytest.raises(Unusable):
        parse_line(text)


def test_what_is_asked_is_read() -> None:
    assert parse_line("a=b=3") == ("a=b", 3)
    assert parse_near(" -39.1, 84 ") == (-39.1, 84.0)
    assert parse_time("2026-11-22T16:30:00-05:00").isoformat() == "2026-11-22T16:30:00-05:00"
    for text in ("91,0", "0,181", "0", "0,0,0", "x,y"):
        with pytest.raises(Unusable):
            parse_near(text)
    with pytest.raises(Unusable):
        parse_time("2026-11-22T16:30:00")
