"""The clients of Connect's authors for Node and for browsers, in every way they send a call (make test-connect)."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any
from unittest.mock import patch

from api import BREAD, MILK, NORTH, Api
from onhand.edge.connect_wire import read_by_get, seconds_of
from web import Web, schema

FOLDER = Path(__file__).parent
WAYS = 16
SECONDS_MAX = 100.0


async def calls(web: Web, scratch_dir: Path) -> dict[str, Any]:
    """What the clients got, by way of sending."""
    image = schema(scratch_dir)
    process = await asyncio.create_subprocess_exec(
        "node", "calls.mjs", f"http://127.0.0.1:{web.port}", str(image), cwd=FOLDER, stdout=subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), SECONDS_MAX)
    assert process.returncode == 0
    results: dict[str, Any] = json.loads(out)
    assert len(results) == WAYS
    return results


async def test_each_way_to_send_a_call_gets_the_same(api: Api, web: Web, scratch_dir: Path) -> None:
    with (
        patch("onhand.edge.connect.read_by_get", wraps=read_by_get) as asked_by_get,
        patch("onhand.edge.connect.seconds_of", wraps=seconds_of) as asked_with_deadline,
    ):
        results = await calls(web, scratch_dir)
    deadlines = {call.args[0] for call in asked_with_deadline.call_args_list}
    assert deadlines
    assert all(19_000 < int(milliseconds) <= 20_000 for milliseconds in deadlines)
    assert asked_by_get.call_count == sum(2 for way in results if way.endswith("get"))
    for way, result in results.items():
        assert result["sent"] == ("application/proto" if "proto" in way else "application/json"), way
        assert result["availability"] == {
            "locations": [{"locationId": NORTH, "items": [{"sku": BREAD, "availableToPromise": "10"}]}]
        }, way
        assert (result["state"], result["isRepeatTheSame"], result["stateReleased"]) == (1, True, 3), way
        short = result["short"]
        assert (short["code"], short["shorts"]) == ("FailedPrecondition", [f"{NORTH}/{MILK}"]), way
        assert short["reasons"][0][:2] == ["onhand", "INSUFFICIENT_STOCK"], way
        assert short["reasons"][0][2]["requested"] == "99", way
        assert (result["unknown"]["code"], result["unknown"]["reasons"][0][1]) == ("NotFound", "LOCATION_NOT_FOUND"), (
            way
        )
        assert (result["invalid"]["code"], result["invalid"]["reasons"][0][1]) == (
            "InvalidArgument",
            "INVALID_REQUEST",
        ), way
    assert await api.atp(NORTH, MILK) == 10
