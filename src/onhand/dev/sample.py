"""The first minutes with onhand: whether there is data, whether the server answers, and what to try."""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path

import asyncpg
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from onhand.postgres import asyncpg_dsn

SERVING_SECONDS_MAX = 60.0
"""How long a server may take to answer."""
ASK_SECONDS = 0.1

EXAMPLE = """
SELECT s.location_id, s.sku, p.name FROM stock_levels s JOIN products p USING (sku) JOIN locations l USING (location_id)
 WHERE l.kind = 'STORE' AND p.base_unit = 'EACH' AND s.available >= 5 ORDER BY s.available DESC, 1, 2 LIMIT 1"""


async def is_empty(dsn: str) -> bool:
    """Whether the ledger holds no location yet."""
    connection = await asyncpg.connect(asyncpg_dsn(dsn))
    try:
        return not await connection.fetchval("SELECT EXISTS (SELECT FROM locations)")
    finally:
        await connection.close()


async def wait_until_serving(address: str) -> None:
    """Returns when gRPC health says SERVING. Raises TimeoutError."""
    async with asyncio.timeout(SERVING_SECONDS_MAX), grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while True:
            try:
                answer = await stub.Check(health_pb2.HealthCheckRequest())
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            except grpc.aio.AioRpcError:
                pass  # it is still starting
            await asyncio.sleep(ASK_SECONDS)


async def things_to_try(dsn: str, address: str, connect: str, seconds: float, data: Path | None) -> str:
    """Four commands that work as they are printed. `address`, `connect`: where gRPC and Connect are served.

    `data` is the stack's folder where it is not the default.
    """
    connection = await asyncpg.connect(asyncpg_dsn(dsn))
    try:
        row = await connection.fetchrow(EXAMPLE)
    finally:
        await connection.close()
    edges = f"gRPC on {address} and Connect on {connect}"
    lines = [f"onhand serves {edges} after {seconds:.1f} s. Ctrl-C stops it, the data stays. Try:"]
    if row is not None:
        location, sku = row["location_id"], row["sku"]
        curl = f".venv/bin/buf curl --protocol grpc --http2-prior-knowledge http://{address}/onhand.v1.InventoryService"
        asked = f'{{"channel":"CHANNEL_WEB","skus":["{sku}"],"locationIds":["{location}"]}}'
        plain = (
            f"curl -s http://{connect}/onhand.v1.InventoryService/GetAvailability -H 'content-type: application/json'"
        )
        basket = f'{{"locationId":"{location}","lines":[{{"sku":"{sku}","quantity":2}}]}}'
        lines += [
            f"  what a store can promise of {row['name'] or sku}:",
            f"    {curl}/GetAvailability -d '{asked}'",
            "  the same over plain HTTP:",
            f"    {plain} -d '{asked}'",
            "  hold two of them for a minute (run a line above again afterwards):",
            f'    {curl}/Reserve -d \'{{"requestId":"try-\'$(date +%s)\'","channel":"CHANNEL_WEB","ttlSeconds":60,'
            f'"baskets":[{basket}]}}\'',
        ]
    where = f" --data {shlex.quote(str(data))}" if data else ""
    lines += ["  check every invariant:", f"    .venv/bin/onhand verify{where} --json"]
    return "\n".join(lines)
