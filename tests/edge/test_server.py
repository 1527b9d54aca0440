"""The server as gRPC knows it: its services, its health, deadlines, clients that go away, and errors of its own."""

from __future__ import annotations

import asyncio
import importlib
import logging
import pkgutil
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

import grpc
import pytest
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import onhand.v1
from api import (
    BREAD,
    MILK,
    NORTH,
    SOUTH,
    WEB,
    Api,
    Code,
    cancelled,
    eventually,
    invalid,
    lines,
    opened,
    refusal_of,
    refused,
    request_id,
)
from onhand.dev.valkey import EmbeddedValkey
from onhand.domain.errors import GateUnavailable, LedgerUnavailable, Overloaded
from onhand.edge.method import ACTOR_LENGTH_MAX, MESSAGE_BYTES_MAX, handler_name, kept_back
from onhand.edge.server import Server
from onhand.v1 import cart_pb2, catalog_pb2, catalog_pb2_grpc, order_pb2
from onhand.v1 import inventory_pb2 as pb

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def all_services() -> dict[str, ServiceDescriptor]:
    """Every service that the protos declare, by full name."""
    modules = [importlib.import_module(f"onhand.v1.{m.name}") for m in pkgutil.iter_modules(onhand.v1.__path__)]
    return {
        service.full_name: service
        for module in modules
        if module.__name__.endswith("_pb2")
        for service in module.DESCRIPTOR.services_by_name.values()
    }


# ------------------------------------------------------------------------------------------------- what there is to call
async def test_every_service_is_served_and_every_rpc_has_one_handler(api: Api) -> None:
    services = all_services()
    assert len(services) >= 4
    assert set(api.app.services) == set(services)
    for name, service in services.items():
        for method in service.methods:
            handlers = [o for o in api.app.services[name] if hasattr(o, handler_name(method.name))]
            assert len(handlers) == 1, method.full_name

    # No handler that no rpc calls.
    wanted = {handler_name(method.name) for service in services.values() for method in service.methods}
    for objects in api.app.services.values():
        public = {name for o in objects for name in dir(o) if not name.startswith("_") and callable(getattr(o, name))}
        assert public <= wanted


async def test_a_server_with_a_handler_missing_or_twice_does_not_start(api: Api) -> None:
    *others, last = api.app.services["onhand.v1.InventoryService"]
    for objects in (others, (*others, last, others[0])):
        with pytest.raises(AttributeError):
            Server({"onhand.v1.InventoryService": objects})


async def test_an_empty_request_is_answered_by_every_rpc_as_itself(api: Api) -> None:
    """Nothing is required of a list without a place; everything else says which field it misses."""
    for service in all_services().values():
        for method in service.methods:
            if method.client_streaming:
                continue
            call = api.channel.unary_unary(
                f"/{service.full_name}/{method.name}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=GetMessageClass(method.output_type).FromString,
            )
            request: Message = GetMessageClass(method.input_type)()
            try:
                await call(request)
            except grpc.aio.AioRpcError as error:
                refusal = refusal_of(error)
                assert (refusal.code, refusal.reason) == (Code.INVALID_ARGUMENT, "INVALID_REQUEST"), method.full_name
                assert refusal.fields
                mutates = "request_id" in method.input_type.fields_by_name
                assert ("request_id" in refusal.fields) == mutates, method.full_name
            else:
                assert method.name.startswith("List"), method.full_name


async def test_what_is_not_there_is_unimplemented(api: Api) -> None:
    for path in ("/onhand.v1.InventoryService/Nothing", "/onhand.v9.InventoryService/GetLocation", "/x/y"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await api.channel.unary_unary(path)(b"")
        assert caught.value.code() is Code.UNIMPLEMENTED


async def test_bytes_that_are_no_message_are_refused(api: Api) -> None:
    for garbage in (b"\xff\xff\xff", b"\x0a\x02\xc3\x28"):  # no field, and text that is not UTF-8
        await invalid(api.channel.unary_unary("/onhand.v1.InventoryService/GetLocation")(garbage), "request")


async def reflect(api: Api, **fields: str) -> reflection_pb2.ServerReflectionResponse:
    stub = reflection_pb2_grpc.ServerReflectionStub(api.channel)
    (answer,) = [a async for a in stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(**fields)]))]
    return answer


async def test_reflection_names_every_service_and_knows_its_files(api: Api) -> None:
    listed = await reflect(api, list_services="")
    names = {service.name for service in listed.list_services_response.service}
    expected = {*all_services(), "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    assert names == expected
    for name in expected:
        found = await reflect(api, file_containing_symbol=name)
        assert found.file_descriptor_response.file_descriptor_proto, name
    missing = await reflect(api, file_containing_symbol="onhand.v1.Nothing")
    assert missing.error_response.error_code == Code.NOT_FOUND.value[0]


async def test_health_is_told_of_the_server_and_of_each_service(api: Api) -> None:
    health = health_pb2_grpc.HealthStub(api.channel)
    for name in ("", *all_services()):
        assert (await health.Check(health_pb2.HealthCheckRequest(service=name))).status == SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health.Check(health_pb2.HealthCheckRequest(service="onhand.v1.Nothing"))
    assert caught.value.code() is Code.NOT_FOUND


# ------------------------------------------------------------------------------------------------- callers that go away
LEVEL = "SELECT FROM stock_levels WHERE location_id = $1 AND sku = $2"


def test_an_answer_comes_a_little_before_the_deadline() -> None:
    assert (kept_back(1.0), kept_back(10.0)) == (0.1, 0.25)


@pytest.mark.parametrize("how", ["cancelled", "past its deadline", "disconnected"])
async def test_a_mutation_whose_caller_goes_away_is_whole_and_known_to_its_repeat(
    api: Api, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    receipt = pb.ReceiveStockRequest(request_id=request_id(), location_id=NORTH, lines=lines({MILK: 5, BREAD: 7}))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{api.port}") as channel:
        method = channel.unary_unary(
            "/onhand.v1.InventoryService/ReceiveStock",
            request_serializer=pb.ReceiveStockRequest.SerializeToString,
            response_deserializer=pb.ReceiveStockResponse.FromString,
        )
        async with api.locked(LEVEL, NORTH, MILK):
            # The deadline is far enough for the call to reach its lock, and its answer the caller, on a slow machine too.
            monkeypatch.setattr("onhand.edge.method.kept_back", lambda seconds: seconds / 2)
            call = method(receipt, timeout=4 if how == "past its deadline" else None)
            reached = asyncio.ensure_future(api.until_waiting(1))
            await reached
            if how == "cancelled":
                await cancelled(call)
            elif how == "disconnected":
                await channel.close()
            else:
                refusal = await refused(call, Code.UNAVAILABLE, "OUTCOME_UNKNOWN")  # in time to be read
                assert refusal.retry_seconds

    repeated = await api.inventory.ReceiveStock(receipt)
    assert {level.sku: level.available for level in repeated.levels} == {MILK: 15, BREAD: 17}
    assert await api.level(NORTH, MILK) == (15, 0, 0, 0)
    assert await api.level(NORTH, BREAD) == (17, 0, 0, 0)
    assert await api.atp(NORTH, MILK) == 15


async def test_a_refused_mutation_whose_caller_went_away_had_no_effect(api: Api) -> None:
    request = pb.AdjustStockRequest(
        request_id=request_id(), location_id=NORTH, sku=MILK, bucket=pb.BUCKET_DAMAGED, quantity=-1, reason_code="GONE"
    )
    async with api.locked(LEVEL, NORTH, MILK):
        call = api.inventory.AdjustStock(request)
        await api.until_waiting(1)
        await cancelled(call)
    await eventually(lambda: api.fetch("SELECT count(*) FROM pg_locks WHERE NOT granted"), [(0,)])
    await refused(api.inventory.AdjustStock(request), Code.FAILED_PRECONDITION, "BUCKET_SHORT")
    assert await api.level(NORTH, MILK) == (10, 0, 0, 0)


async def test_a_call_whose_deadline_is_past_has_a_whole_effect_or_none(api: Api) -> None:
    receipts = [
        pb.ReceiveStockRequest(request_id=request_id(), location_id=NORTH, lines=lines({MILK: 1, BREAD: 1}))
        for _ in range(20)
    ]
    for n, receipt in enumerate(receipts):
        call = api.inventory.ReceiveStock(receipt, timeout=n * 0.0005 - 0.001)
        # RESOURCE_EXHAUSTED: it had less time left than such calls take, and was not begun.
        assert await call.code() in (Code.OK, Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED)
    await asyncio.gather(*(api.inventory.ReceiveStock(receipt) for receipt in receipts))
    assert await api.level(NORTH, MILK) == await api.level(NORTH, BREAD) == (30, 0, 0, 0)


async def test_a_stopping_server_ends_what_it_began_and_refuses_the_rest(api: Api) -> None:
    server = api.app.server()
    port = await server.start("127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        second = Api(api.app, api.server, api.dsn, channel, port)
        health = health_pb2_grpc.HealthStub(channel)
        watched = health.Watch(health_pb2.HealthCheckRequest()).__aiter__()
        assert (await anext(watched)).status == SERVING
        async with api.locked(LEVEL, NORTH, MILK):
            begun = asyncio.ensure_future(second.receive(NORTH, {MILK: 5}))
            await api.until_waiting(1)
            stopping = asyncio.ensure_future(server.stop())
            assert (await anext(watched)).status == NOT_SERVING
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await second.receive(NORTH, {BREAD: 5})
            assert caught.value.code() is Code.UNAVAILABLE
        assert [level.available for level in await begun] == [15]
        await stopping
    assert await api.level(NORTH, BREAD) == (10, 0, 0, 0)


# --------------------------------------------------------------------------------------------------------------- errors
class Broken:
    """A catalog whose handlers end in whatever a test throws."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        async def fail(request: Message, caller: object) -> Message:
            raise self._error

        return fail


@asynccontextmanager
async def broken(error: BaseException) -> AsyncIterator[Any]:
    """A server of which every call of the catalog ends in an error: a stub's methods by name."""
    server = Server({"onhand.v1.CatalogService": (Broken(error),)})
    port = await server.start("127.0.0.1:0")
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield catalog_pb2_grpc.CatalogServiceStub(channel)
    finally:
        with patch("onhand.edge.method.DRAIN_SECONDS_MIN", 0):
            await server.stop()


READ = catalog_pb2.GetProductRequest(sku="x")
MUTATION = catalog_pb2.SetPriceRequest(request_id="request-1", sku="x", amount={"currency_code": "USD", "units": 1})


async def test_an_error_of_our_own_is_logged_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    secret = "postgresql://onhand:hunter2@db/ledger"
    async with broken(ZeroDivisionError(secret)) as catalog:
        for rpc, request in ((catalog.GetProduct, READ), (catalog.SetPrice, MUTATION)):
            caplog.clear()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await rpc(request)
            assert caught.value.code() is Code.INTERNAL
            assert not re.search("hunter2|ZeroDivision|Traceback", str(caught.value))
            assert caught.value.trailing_metadata() is None or not list(caught.value.trailing_metadata() or ())
            logged = [r for r in caplog.records if r.name == "onhand.edge.method" and r.levelno >= logging.ERROR]
            assert [record.exc_info is not None and str(record.exc_info[1]) for record in logged] == [secret]


async def test_a_part_that_is_down_is_unavailable_and_says_when_to_come_back() -> None:
    for error, code, reason in (
        (LedgerUnavailable("connection refused"), Code.UNAVAILABLE, "LEDGER_UNAVAILABLE"),
        (GateUnavailable("connection refused"), Code.UNAVAILABLE, "GATE_UNAVAILABLE"),
        (Overloaded("takes", 5000), Code.RESOURCE_EXHAUSTED, "OVERLOADED"),
    ):
        async with broken(error) as catalog:
            for call in (catalog.GetProduct(READ), catalog.SetPrice(MUTATION)):
                refusal = await refused(call, code, reason)
                assert refusal.retry_seconds == 1


async def test_a_limit_that_stays_reached_does_not_ask_for_a_retry(api: Api) -> None:
    made = await api.carts.CreateCart(
        cart_pb2.CreateCartRequest(request_id=request_id(), channel=WEB, currency_code="USD")
    )
    skus = [f"sku-{n:03}" for n in range(201)]
    await api.add_products(skus)
    await api.execute(
        "INSERT INTO cart_lines (cart_id, sku, quantity) SELECT $1::text::uuid, s, 1 FROM unnest($2::text[]) AS s",
        made.cart.cart_id,
        skus[:200],
    )
    add = cart_pb2.AddCartLineRequest(request_id=request_id(), cart_id=made.cart.cart_id, line=lines({skus[200]: 1})[0])
    refusal = await refused(api.carts.AddCartLine(add), Code.RESOURCE_EXHAUSTED, "CART_FULL", lines=201, lines_max=200)
    assert refusal.retry_seconds is None


async def test_each_service_says_what_it_does_not_know(api: Api) -> None:
    missing = request_id()
    for call, reason, values in (
        (api.carts.GetCart(cart_pb2.GetCartRequest(cart_id=missing)), "CART_NOT_FOUND", {"cart_id": missing}),
        (api.orders.GetOrder(order_pb2.GetOrderRequest(order_id=missing)), "ORDER_NOT_FOUND", {"order_id": missing}),
        (
            api.orders.GetReturn(order_pb2.GetReturnRequest(return_id=missing)),
            "RETURN_NOT_FOUND",
            {"return_id": missing},
        ),
        (api.catalog.GetProduct(catalog_pb2.GetProductRequest(sku="unknown")), "SKU_NOT_FOUND", {"sku": "unknown"}),
        (
            api.orders.AcceptFulfillmentOrder(
                order_pb2.AcceptFulfillmentOrderRequest(request_id=request_id(), fulfillment_order_id=missing)
            ),
            "FULFILLMENT_ORDER_NOT_FOUND",
            {"fulfillment_order_id": missing},
        ),
        (
            api.catalog.LookUpBarcode(catalog_pb2.LookUpBarcodeRequest(gtin="4006381333948")),
            "BARCODE_NOT_FOUND",
            {"gtin": "04006381333948"},
        ),
    ):
        await refused(call, Code.NOT_FOUND, reason, **values)


async def test_text_with_a_nul_never_reaches_the_ledger(api: Api) -> None:
    await invalid(api.add_location("x", name="a\0b"), "location.name")
    await invalid(api.add_product("x\0y"), "product.sku", "product.name")
    await invalid(api.reserve({NORTH: {MILK: 1}}, customer_id="a\0"), "customer_id")
    make = cart_pb2.CreateCartRequest(request_id=request_id(), channel=WEB, currency_code="USD", customer_id="\0")
    await invalid(api.carts.CreateCart(make), "customer_id")
    await invalid(api.orders.ListOrders(order_pb2.ListOrdersRequest(order_number="a\0b")), "order_number")
    await invalid(api.catalog.ListProducts(catalog_pb2.ListProductsRequest(name_prefix="\0")), "name_prefix")


async def test_a_message_that_is_too_large_is_refused_and_the_connection_lives_on(api: Api) -> None:
    huge = pb.ReceiveStockRequest(
        request_id=request_id(), location_id=NORTH, reference_document="x" * MESSAGE_BYTES_MAX
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await api.inventory.ReceiveStock(huge)
    assert caught.value.code() is Code.RESOURCE_EXHAUSTED
    nearly = pb.ReceiveStockRequest(
        request_id=request_id(), location_id=NORTH, reference_document="x" * (MESSAGE_BYTES_MAX - 1000)
    )
    await invalid(api.inventory.ReceiveStock(nearly), "reference_document", "lines")
    assert await api.atp(NORTH, MILK) == 10


# ---------------------------------------------------------------------------------------------------------------- actor
async def test_who_acts_is_kept_on_every_movement(api: Api) -> None:
    await api.receive(NORTH, {MILK: 1}, actor="till-7/ada")
    await api.receive(NORTH, {MILK: 1}, actor="x" * (ACTOR_LENGTH_MAX + 50))
    await api.receive(NORTH, {MILK: 1})
    actors = [movement.actor for movement in await api.movements(NORTH, MILK)]
    assert actors == ["", "x" * ACTOR_LENGTH_MAX, "till-7/ada", ""]
    # A repeat by somebody else is still the first one's.
    request = pb.ReceiveStockRequest(request_id=request_id(), location_id=SOUTH, lines=lines({MILK: 1}))
    for actor in ("ada", "bob"):
        await api.inventory.ReceiveStock(request, metadata=(("x-onhand-actor", actor),))
    assert [movement.actor for movement in await api.movements(SOUTH, MILK)] == ["ada", ""]


# ------------------------------------------------------------------------------------------------------ parts that fail
async def test_without_the_gate_facts_go_on_and_promises_wait(database_dsn: str, private_redis: EmbeddedValkey) -> None:
    async with opened(database_dsn, private_redis.url) as api:
        private_redis.kill()

        refusal = await refused(api.reserve({NORTH: {MILK: 1}}), Code.UNAVAILABLE, "GATE_UNAVAILABLE")
        assert refusal.retry_seconds
        await refused(api.adjust(NORTH, MILK, -1), Code.UNAVAILABLE, "GATE_UNAVAILABLE")
        assert await api.level(NORTH, MILK) == (10, 0, 0, 0)
        (counted,) = await api.count(NORTH, {MILK: 8})
        assert counted.level.available == 8
        await api.receive(NORTH, {MILK: 5})
        assert await api.atp(NORTH, MILK) == 13  # from the ledger

        private_redis.start()
        await api.reserve({NORTH: {MILK: 13}})
        assert await api.atp(NORTH, MILK) == 0
