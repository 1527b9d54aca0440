"""Real server processes that kill themselves in the middle of a call; another one answers its repeat."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc

from crash.matrix import audit_quiet, audit_rules, recover
from crash.stage import Stage
from crash.stock import receive, reserve
from crash.trade import sell
from onhand.serve import reserve_port
from onhand.v1 import inventory_pb2, order_pb2
from shop import MILK, NORTH

SECONDS_MAX = 200.0
"""How long a server may take to start, and a call to be answered, on a machine that has much else to do."""
RPCS = {
    method.input_type.full_name: (f"/{service.full_name}/{method.name}", GetMessageClass(method.output_type))
    for file in (inventory_pb2, order_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


@contextmanager
def server(stage: Stage, crash_at: str = "") -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server process, and its address."""
    with reserve_port("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "onhand.cli", "serve", "--host", "127.0.0.1", "--port", str(port)],
            env=os.environ
            | {
                "ONHAND_POSTGRES_DSN": stage.dsn,
                "ONHAND_REDIS_URL": stage.url,
                "ONHAND_PORT_IS_SHARED": "1",
                "ONHAND_CRASH_AT": crash_at,
            },
        )
        try:
            yield f"127.0.0.1:{port}", process
        finally:
            process.kill()
            process.wait()


async def call(channel: grpc.aio.Channel, request: Message) -> Message:
    """Calls the rpc that takes such a request."""
    path, answer = RPCS[request.DESCRIPTOR.full_name]
    rpc = channel.unary_unary(
        path, request_serializer=lambda m: m.SerializeToString(), response_deserializer=answer.FromString
    )
    found: Message = await rpc(request, timeout=SECONDS_MAX)
    return found


@pytest.mark.timeout(600)
async def test_what_a_killed_server_began_another_ends_once(stage: Stage) -> None:
    await stage.set_back("base")
    killed: list[tuple[str, Message]] = [
        ("gate.take:after", reserve({NORTH: {MILK: 1}})),
        ("ledger.journal:after", reserve({NORTH: {MILK: 1}})),
        ("ledger.record_sales:after", sell({MILK: 1}, 199)),
        ("ledger.mutate:after", receive()),
    ]
    async with AsyncExitStack() as stack:
        victims = [stack.enter_context(server(stage, point)) for point, _ in killed]
        survivor, _ = stack.enter_context(server(stage))
        channels = {}
        for address in (survivor, *(address for address, _ in victims)):
            channels[address] = await stack.enter_async_context(grpc.aio.insecure_channel(address))
            health = health_pb2_grpc.HealthStub(channels[address])
            await health.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS_MAX, wait_for_ready=True)

        for (address, process), (point, request) in zip(victims, killed, strict=True):
            with pytest.raises(grpc.aio.AioRpcError) as died:
                await call(channels[address], request)
            assert died.value.code() is grpc.StatusCode.UNAVAILABLE, point
            assert process.wait(SECONDS_MAX) == -signal.SIGKILL, point
            first = await stage.answered(request.request_id)  # type: ignore[attr-defined]
            assert (first is None) == (point == "gate.take:after"), point
            again = await call(channels[survivor], request)
            assert first is None or again == type(again).FromString(first), point
            assert await call(channels[survivor], request) == again, point

    await recover(stage, await stage.process())
    await audit_quiet(stage)
    await audit_rules(stage)
    rows = await stage.keeper.fetch(
        "SELECT available FROM stock_levels WHERE location_id = $1 AND sku = $2", NORTH, MILK
    )
    assert [r["available"] for r in rows] == [10 - 1 + 3]
    states = await stage.keeper.fetch("SELECT state FROM claims WHERE reservation_id IS NOT NULL")
    assert [r["state"] for r in states] == ["active", "active"]
