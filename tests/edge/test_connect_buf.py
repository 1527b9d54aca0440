"""Connect as buf curl speaks it, over HTTP/1.1 and over HTTP/2."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from api import MILK, NORTH, Api, request_id
from web import Web, schema

BUF = Path(sys.executable).with_name("buf")
SECONDS_MAX = 200.0


@pytest.mark.parametrize("options", [(), ("--http2-prior-knowledge",)], ids=["HTTP/1.1", "HTTP/2"])
async def test_buf_curl_gets_answers_and_refusals(
    api: Api, web: Web, scratch_dir: Path, options: tuple[str, ...]
) -> None:
    image = schema(scratch_dir)

    async def curl(method: str, **request: object) -> tuple[int, dict[str, Any]]:
        url = f"http://127.0.0.1:{web.port}/onhand.v1.{method}"
        process = await asyncio.create_subprocess_exec(
            *(
                str(BUF),
                "curl",
                "--protocol",
                "connect",
                *options,
                "--schema",
                str(image),
                url,
                "-d",
                json.dumps(request),
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"HOME": str(scratch_dir)},
        )
        out, err = await asyncio.wait_for(process.communicate(), SECONDS_MAX)
        text = (out or err).decode()
        assert text.startswith("{"), f"{method}: {text}"
        return int(process.returncode or 0), json.loads(text)

    basket = {"locationId": NORTH, "lines": [{"sku": MILK, "quantity": 4}]}
    reserve = {"requestId": request_id(), "channel": "CHANNEL_WEB", "baskets": [basket]}
    code, made = await curl("InventoryService/Reserve", **reserve)
    assert (code, made["reservation"]["state"]) == (0, "RESERVATION_STATE_ACTIVE")
    code, found = await curl(
        "InventoryService/GetAvailability", channel="CHANNEL_WEB", skus=[MILK], locationIds=[NORTH]
    )
    assert (code, found["locations"][0]["items"]) == (0, [{"sku": MILK, "availableToPromise": "6"}])

    basket["lines"] = [{"sku": MILK, "quantity": 7}]
    code, refusal = await curl("InventoryService/Reserve", **reserve | {"requestId": request_id()})
    assert code != 0
    assert refusal["code"] == "failed_precondition"
    assert [detail["type"] for detail in refusal["details"]] == [
        "google.rpc.ErrorInfo",
        "google.rpc.PreconditionFailure",
    ]
    code, refusal = await curl("CartService/GetCustomerCart", customerId="nobody")
    assert code != 0
    assert refusal["code"] == "not_found"
