"""docs/journeys.md, played: each of its calls against one real server with the sample data, each answer as it is shown."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any
from unittest.mock import patch

import asyncpg
import pandas as pd
from google.protobuf import json_format

from api import Api, serving
from onhand.feeds import completejourney
from onhand.feeds.load import load
from onhand.feeds.records import no_progress
from onhand.feeds.weeks import parse_weeks
from onhand.postgres import asyncpg_dsn
from onhand.v1 import order_pb2
from walk import Values, play
from web import Web, second_edge

DOCUMENT = Path(__file__).parents[1] / "docs" / "journeys.md"
WEEKS = "1-4"
"""Those of the sample data."""
STREAM_SECONDS_MAX = 60.0


async def load_sample(dsn: str, skus: list[int]) -> None:
    """The sample data, as far as it is of these items: all of it takes a minute, and no answer would be another."""

    def read(name: str, columns: list[str] | None = None, weeks: object = None) -> Any:
        with resources.as_file(resources.files(completejourney.PACKAGE) / "data" / f"{name}.parquet") as path:
            return pd.read_parquet(path, columns=columns, filters=[("product_id", "in", skus)])

    with patch.object(completejourney, "_read", read):
        feed = completejourney.read_feed(parse_weeks(WEEKS))
    connection = await asyncpg.connect(asyncpg_dsn(dsn))
    try:
        await load(connection, feed, no_progress)
    finally:
        await connection.close()


class Reader:
    """Somebody who types what the document says."""

    def __init__(self, api: Api, web: Web) -> None:
        self._api = api
        self._web = web

    async def call(self, method: str, body: str, actor: str) -> Any:
        """`call`: JSON over Connect."""
        reply = await self._web.post(f"/onhand.v1.{method}", body.encode(), x_onhand_actor=actor)
        return reply.json()

    async def watch(self, method: str, body: str, shown: list[Any], values: Values) -> Any:
        """`watch`: a stream over gRPC, until all that is shown has come."""
        assert method == "OrderService/WatchFulfillmentOrders", "no other stream is read here"
        request = json_format.Parse(body, order_pb2.WatchFulfillmentOrdersRequest())
        stream = self._api.orders.WatchFulfillmentOrders(request)
        first, left = None, list(shown)
        async with asyncio.timeout(STREAM_SECONDS_MAX):
            async for message in stream:
                came = json_format.MessageToDict(message)
                first = first or came
                wrong = values.differences(left[0], came)
                assert not wrong, f"{method} told {came}: {wrong}"
                left.pop(0)
                if not left:
                    break
        stream.cancel()
        return first


async def test_every_call_of_the_journeys_is_answered_as_it_is_shown(database_dsn: str, redis_url: str) -> None:
    text = DOCUMENT.read_text()
    in_days = {n: (datetime.now(UTC) + timedelta(days=n)).strftime("%Y-%m-%dT%H:%M:%SZ") for n in (1, 7)}
    known = {"tomorrow": in_days[1], "next_week": in_days[7]}
    await load_sample(database_dsn, sorted({int(sku) for sku in re.findall(r'"sku": "(\d+)"', text)}))
    async with serving(database_dsn, redis_url) as api, second_edge(api) as web:
        reader = Reader(api, web)
        calls = await play(text, known, reader.call, reader.watch)
        await api.audit()
    assert calls > 100, "the document is not read as it is written"
