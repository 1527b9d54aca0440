"""Connect as HTTP knows it: the same calls, refusals and drain as over gRPC, and whatever else may be sent to a port."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from unittest.mock import patch
from urllib.parse import quote, urlencode

import grpc
import pytest
from google.protobuf import descriptor_pool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_status import rpc_status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api import APP, BREAD, MILK, NORTH, WEB, Api, eventually, lines, request_id
from onhand.dev.process import free_port
from onhand.domain.errors import InvalidRequest
from onhand.edge import connect, connect_wire
from onhand.edge.connect import Connect, has_no_side_effects
from onhand.edge.http import HttpServer
from onhand.edge.method import MESSAGE_BYTES_MAX, is_mutation
from onhand.edge.server import Server
from onhand.v1 import inventory_pb2 as pb
from web import INVENTORY, JSON, PROTO, SECONDS_MAX, Reply, Web, read_reply, second_edge, web_of

AVAILABILITY = pb.GetAvailabilityRequest(channel=WEB, skus=[MILK, BREAD], location_ids=[NORTH])
AVAILABILITY_JSON = {"channel": "CHANNEL_WEB", "skus": [MILK, BREAD], "locationIds": [NORTH]}
UNKNOWN_LOCATION = pb.GetLocationRequest(location_id="nowhere")


def reserve(quantities: dict[str, int], given_id: str = "", location_id: str = NORTH) -> pb.ReserveRequest:
    basket = pb.LocationBasket(location_id=location_id, lines=lines(quantities))
    return pb.ReserveRequest(request_id=given_id or request_id(), channel=APP, baskets=[basket])


def by_get(method: str, **fields: str) -> str:
    return f"{INVENTORY}{method}?{urlencode(fields)}"


def base64url(message: Message) -> str:
    return base64.urlsafe_b64encode(message.SerializeToString()).rstrip(b"=").decode()


# ------------------------------------------------------------------------------------------------------- calls that go well
async def test_an_answer_is_the_same_in_protobuf_in_json_and_over_grpc(api: Api, web: Web) -> None:
    expected = await api.inventory.GetAvailability(AVAILABILITY)
    assert (await web.call("GetAvailability", AVAILABILITY)).message(pb.GetAvailabilityResponse) == expected

    reply = await web.post("GetAvailability", AVAILABILITY_JSON)
    assert (reply.status, reply.json()) == (200, {
        "locations": [{"locationId": NORTH, "items": [
            {"sku": MILK, "availableToPromise": "10"}, {"sku": BREAD, "availableToPromise": "10"}]}]
    })  # fmt: skip
    # Names of fields as the proto has them are understood too, as is a charset.
    reply = await web.post(
        "GetAvailability",
        {"channel": "CHANNEL_WEB", "skus": [MILK, BREAD], "location_ids": [NORTH]},
        "application/json; charset=utf-8",
    )
    assert reply.status == 200


async def test_what_is_done_over_one_edge_is_seen_over_the_other_at_once(api: Api, web: Web) -> None:
    made = (await web.call("Reserve", reserve({MILK: 3}))).message(pb.ReserveResponse).reservation
    assert await api.atp(NORTH, MILK) == 7
    assert (
        await api.inventory.GetReservation(pb.GetReservationRequest(reservation_id=made.reservation_id))
    ).reservation

    await api.release(made.reservation_id)
    seen = (await web.call("GetAvailability", AVAILABILITY)).message(pb.GetAvailabilityResponse)
    assert [item.available_to_promise for item in seen.locations[0].items] == [10, 10]


async def test_a_request_repeated_over_another_edge_has_one_effect_and_gets_the_first_answer(
    api: Api, web: Web
) -> None:
    request = reserve({MILK: 2})
    over_json = {
        "requestId": request.request_id,
        "channel": "CHANNEL_APP",
        "baskets": [{"locationId": NORTH, "lines": [{"sku": MILK, "quantity": "2"}]}],
    }
    first = (await web.post("Reserve", over_json)).json()["reservation"]["reservationId"]
    second = (await api.inventory.Reserve(request)).reservation.reservation_id
    third = (await web.call("Reserve", request)).message(pb.ReserveResponse).reservation.reservation_id
    assert first == second == third
    assert await api.atp(NORTH, MILK) == 8

    other = reserve({MILK: 1}, request.request_id)
    assert (await web.call("Reserve", other)).reason() == "REQUEST_ID_REUSED"


async def test_who_acts_is_kept(api: Api, web: Web) -> None:
    request = pb.ReceiveStockRequest(request_id=request_id(), location_id=NORTH, lines=lines({MILK: 1}))
    assert (await web.call("ReceiveStock", request, x_onhand_actor="anna" + "x" * 200)).status == 200
    found = await api.inventory.ListMovements(pb.ListMovementsRequest(location_id=NORTH, sku=MILK, page_size=1))
    assert found.movements[0].actor == ("anna" + "x" * 200)[:128]


async def test_a_connection_carries_many_calls(api: Api, web: Web) -> None:
    body = AVAILABILITY.SerializeToString()
    head = f"POST {INVENTORY}GetAvailability HTTP/1.1\r\nhost: a\r\ncontent-type: {PROTO}\r\ncontent-length: {len(body)}\r\n\r\n"
    async with web.connection() as (reader, writer), asyncio.timeout(SECONDS_MAX):
        for _ in range(3):
            writer.write(head.encode() + body)
            assert (await read_reply(reader)).status == 200


async def test_a_compressed_or_chunked_request_is_read(api: Api, web: Web) -> None:
    encoded = AVAILABILITY.SerializeToString()
    replies = [
        await web.post("GetAvailability", gzip.compress(encoded), PROTO, content_encoding="gzip"),
        await web.post("GetAvailability", encoded, PROTO, content_encoding="identity"),
        await web.post(
            "GetAvailability", b"3\r\n" + encoded[:3] + b"\r\n%x\r\n" % len(encoded[3:]) + encoded[3:] + b"\r\n0\r\n\r\n",
            PROTO, transfer_encoding="chunked",
        ),
    ]  # fmt: skip
    expected = await api.inventory.GetAvailability(AVAILABILITY)
    assert [reply.message(pb.GetAvailabilityResponse) for reply in replies] == [expected] * 3


# ---------------------------------------------------------------------------------------------------------- reads by GET
async def test_a_read_may_be_asked_for_by_get_and_is_kept_by_no_cache(api: Api, web: Web) -> None:
    expected = await api.inventory.GetAvailability(AVAILABILITY)
    encoded = AVAILABILITY.SerializeToString()
    for path in (
        by_get("GetAvailability", connect="v1", encoding="proto", base64="1", message=base64url(AVAILABILITY)),
        by_get("GetAvailability", encoding="proto", base64="1", message=base64.urlsafe_b64encode(encoded).decode()),
        f"{INVENTORY}GetAvailability?encoding=proto&message={quote(encoded)}",
        by_get(
            "GetAvailability", encoding="proto", base64="1", compression="gzip",
            message=base64.urlsafe_b64encode(gzip.compress(encoded)).decode(),
        ),
    ):  # fmt: skip
        reply = await web.send("GET", path)
        assert reply.message(pb.GetAvailabilityResponse) == expected, path
        assert reply.headers["cache-control"] == "no-store"

    reply = await web.send("GET", by_get("GetAvailability", encoding="json", message=json.dumps(AVAILABILITY_JSON)))
    assert reply.json()["locations"][0]["items"][0] == {"sku": MILK, "availableToPromise": "10"}
    reply = await web.send("GET", by_get("GetLocation", encoding="json", message='{"locationId":"nowhere"}'))
    assert (reply.status, reply.reason(), reply.headers["cache-control"]) == (404, "LOCATION_NOT_FOUND", "no-store")


async def test_a_get_that_cannot_be_read_says_why(web: Web) -> None:
    empty = {"encoding": "json", "message": "{}"}
    for fields, status, words in (
        ({"message": "{}"}, 415, "encoding"),
        ({"encoding": "xml", "message": "{}"}, 415, "encoding"),
        ({"encoding": "json"}, 400, "message"),
        (empty | {"connect": "v2"}, 400, "v1"),
        (empty | {"base64": "2"}, 400, "base64"),
        (empty | {"base64": "1", "message": "{}"}, 400, "base64"),
        (empty | {"base64": "1", "message": "a"}, 400, "base64"),
        (empty | {"compression": "br"}, 501, "br"),
        (empty | {"compression": "gzip"}, 400, "gzip"),
        (empty | {f"p{n}": "" for n in range(30)}, 400, "parameters"),
    ):
        reply = await web.send("GET", by_get("GetLocation", **fields))
        assert reply.status == status, fields
        assert words in reply.error()["message"]


async def test_what_changes_something_is_not_done_by_get(api: Api, web: Web) -> None:
    path = by_get("Reserve", encoding="proto", base64="1", message=base64url(reserve({MILK: 1})))
    for method, target, allowed in (
        ("GET", path, "POST"),
        ("PUT", f"{INVENTORY}Reserve", "POST"),
        ("DELETE", f"{INVENTORY}GetLocation", "GET, POST"),
        ("OPTIONS", f"{INVENTORY}GetLocation", "GET, POST"),
    ):
        reply = await web.send(method, target)
        assert (reply.status, reply.headers["allow"]) == (405, allowed), method
    assert await api.atp(NORTH, MILK) == 10


async def test_exactly_the_calls_that_change_nothing_are_declared_so(api: Api) -> None:
    pool = descriptor_pool.Default()
    for service in api.app.services:
        for method in pool.FindServiceByName(service).methods:
            assert has_no_side_effects(method) != (is_mutation(method)), method.full_name


# --------------------------------------------------------------------------------------------------------------- refusals
async def test_a_refusal_is_the_same_over_both_edges(api: Api, web: Web) -> None:
    wrong = reserve({})
    wrong.baskets[0].lines.add(quantity=-1)
    for method, request, status, code in (
        ("Reserve", reserve({MILK: 11, BREAD: 12}), 400, "failed_precondition"),
        ("Reserve", reserve({MILK: 1}, location_id="nowhere"), 404, "not_found"),
        ("Reserve", wrong, 400, "invalid_argument"),
        ("GetLocation", UNKNOWN_LOCATION, 404, "not_found"),
        ("ListLocations", pb.ListLocationsRequest(page_token="x"), 400, "invalid_argument"),
        (
            "CreateLocation",
            pb.CreateLocationRequest(
                request_id=request_id(),
                location=pb.Location(location_id=NORTH, kind=pb.LOCATION_KIND_STORE, name="again"),
            ),
            409,
            "already_exists",
        ),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(api.inventory, method)(request)
        expected = rpc_status.from_call(caught.value)
        assert expected is not None
        reply = await web.call(method, request)
        assert (reply.status, reply.error()["code"]) == (status, code), method
        assert expected.details
        expected.code = 0
        assert reply.refusal() == expected, method
        assert reply.reason() in str(expected.details[0].value)


async def test_every_call_answers_an_empty_request_as_over_grpc(api: Api, web: Web) -> None:
    pool = descriptor_pool.Default()
    for service in api.app.services:
        for method in pool.FindServiceByName(service).methods:
            if method.client_streaming or method.server_streaming:
                continue
            path = f"/{service}/{method.name}"
            call = api.channel.unary_unary(path)
            replies = [await web.post(path, b"", PROTO), await web.post(path, {})]
            try:
                encoded = await call(b"")
            except grpc.aio.AioRpcError as error:
                expected = rpc_status.from_call(error)
                assert expected is not None
                expected.code = 0
                assert [reply.refusal() for reply in replies] == [expected] * 2, path
            else:
                assert replies[0].message(GetMessageClass(method.output_type)).SerializeToString() == encoded, path
                assert replies[1].status == 200


async def test_what_is_not_there_is_said_with_404(web: Web) -> None:
    for path in ("/onhand.v1.InventoryService/Nothing", "/onhand.v9.InventoryService/GetLocation", "/", "/x/y", "//"):
        for content_type in (PROTO, JSON):
            reply = await web.post(path, b"", content_type)
            assert (reply.status, reply.error()["code"]) == (404, "unimplemented"), path
    reply = await web.post("ReserveStream", b"", "application/connect+proto")
    assert reply.status == 404
    assert "gRPC" in reply.error()["message"]


async def test_what_is_no_call_is_refused(web: Web) -> None:
    encoded = UNKNOWN_LOCATION.SerializeToString()
    bomb = gzip.compress(b"\0" * (MESSAGE_BYTES_MAX + 1))
    for body, content_type, headers, status, code in (
        (encoded, "application/connect+proto", {}, 415, "invalid_argument"),
        (encoded, "text/plain", {}, 415, "invalid_argument"),
        (encoded, "", {}, 415, "invalid_argument"),
        (b"{}", "application/json; charset=utf-16", {}, 415, "invalid_argument"),
        (encoded, PROTO, {"connect_protocol_version": "2"}, 400, "invalid_argument"),
        (encoded, PROTO, {"connect_timeout_ms": "soon"}, 400, "invalid_argument"),
        (encoded, PROTO, {"connect_timeout_ms": "-1"}, 400, "invalid_argument"),
        (encoded, PROTO, {"connect_timeout_ms": "12345678901"}, 400, "invalid_argument"),
        (encoded, PROTO, {"content_encoding": "br"}, 501, "unimplemented"),
        (encoded, PROTO, {"content_encoding": "gzip"}, 400, "invalid_argument"),
        (gzip.compress(encoded)[:-4], PROTO, {"content_encoding": "gzip"}, 400, "invalid_argument"),
        (gzip.compress(encoded) + b"more", PROTO, {"content_encoding": "gzip"}, 400, "invalid_argument"),
        (bomb, PROTO, {"content_encoding": "gzip"}, 429, "resource_exhausted"),
    ):
        reply = await web.post("GetLocation", body, content_type, **headers)  # type: ignore[arg-type]
        assert (reply.status, reply.error()["code"]) == (status, code), (content_type, headers)
    assert "accept-post" in (await web.post("GetLocation", encoded, "text/plain")).headers


async def test_a_request_too_large_is_refused_before_it_is_read(web: Web) -> None:
    head = f"POST {INVENTORY}GetLocation HTTP/1.1\r\nhost: a\r\ncontent-type: {PROTO}\r\n"
    told = await web.raw(f"{head}content-length: {MESSAGE_BYTES_MAX + 1}\r\n\r\n".encode())
    chunk = b"10000\r\n" + b"\0" * 0x10000 + b"\r\n"
    untold = await web.raw(
        f"{head}transfer-encoding: chunked\r\n\r\n".encode() + chunk * (MESSAGE_BYTES_MAX // 0x10000 + 1)
    )
    for reply in (told, untold):
        assert (reply.status, reply.error()["code"]) == (429, "resource_exhausted")


async def test_bytes_that_are_no_request_are_refused_as_over_grpc(web: Web) -> None:
    for body, content_type in (
        (b"\xff\xff\xff", PROTO),
        (b"\x0a\x02\xc3\x28", PROTO),  # text that is not UTF-8
        (b"", JSON),
        (b"{", JSON),
        (b"[]", JSON),
        (b'"x"', JSON),
        (b"\xff\xfe", JSON),
        (b'{"locationId":1}', JSON),
        (b'{"locationId":"a","locationId":"b"}', JSON),
        (b'{"locationID":"a"}', JSON),  # a field that there is not, perhaps one misspelt
        (b'{"locationId":"\\ud800"}', JSON),
        (b"[" * 100_000, JSON),
        (b'{"a":' * 100_000, JSON),
    ):
        reply = await web.post("GetLocation", body, content_type)
        assert (reply.status, reply.reason()) == (400, "INVALID_REQUEST"), (body[:40], reply)
        assert [v["field"] for v in reply.error()["details"][1]["debug"]["fieldViolations"]] == ["request"], body[:40]
    assert "locationID" in (await web.post("GetLocation", {"locationID": "a"})).error()["message"]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_json_of_any_shape_is_read_or_refused(data: st.DataObject) -> None:
    """Whatever the library raises of a field's value: nothing of it is an error of the server's own."""

    class Named:
        request_type: type[Message]

    pool = descriptor_pool.Default()
    services = [pool.FindServiceByName(f"onhand.v1.{n}Service") for n in ("Inventory", "Order", "Cart", "Catalog")]
    method = data.draw(st.sampled_from([m for service in services for m in service.methods]))
    Named.request_type = GetMessageClass(method.input_type)
    names = [field.json_name for field in method.input_type.fields]
    text = json.dumps(data.draw(st.dictionaries(st.sampled_from(names), JSON_VALUES, max_size=3)))
    decode = connect_wire.JSON.decoder(Named())  # type: ignore[arg-type]
    assert decode is not None
    with contextlib.suppress(InvalidRequest):
        assert isinstance(decode(text.encode()), Named.request_type)


async def test_an_error_of_our_own_is_logged_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            async def fail(request: Message, caller: object) -> Message:
                raise ZeroDivisionError("hunter2")

            return fail

    server = Server({"onhand.v1.CatalogService": (Broken(),)})
    edge = HttpServer(Connect(server.methods, server.calls).__rsgi__, "127.0.0.1", free_port())
    async with web_of(server, edge) as web:
        reply = await web.post("/onhand.v1.CatalogService/GetProduct", {"sku": "x"})
    assert (reply.status, reply.error()["code"]) == (500, "internal")
    assert b"hunter2" not in reply.body
    assert [str(r.exc_info[1]) for r in caplog.records if r.levelno >= logging.ERROR and r.exc_info] == ["hunter2"]


async def test_a_spent_budget_refuses_at_once_and_says_when_to_come_back(api: Api, web: Web) -> None:
    web.server.admission.reads.limit = 0
    for reply in (
        await web.call("GetAvailability", AVAILABILITY),
        await web.post("GetAvailability", b"no JSON at all"),
        await web.post("GetAvailability", {}),
    ):
        assert (reply.status, reply.error()["code"], reply.reason()) == (429, "resource_exhausted", "OVERLOADED")
        assert reply.error()["details"][1]["type"] == "google.rpc.RetryInfo"
    # Health, and other kinds of calls, are not concerned.
    assert (await web.send("GET", "/healthz")).status == 200
    assert (await web.call("Reserve", reserve({MILK: 1}))).status == 200


# -------------------------------------------------------------------------------------------------------------- deadlines
LEVEL = "SELECT FROM stock_levels WHERE location_id = $1 AND sku = $2"


async def test_a_call_is_answered_before_its_deadline_and_a_mutation_goes_on(api: Api, web: Web) -> None:
    request = pb.ReceiveStockRequest(request_id=request_id(), location_id=NORTH, lines=lines({MILK: 5}))
    # Long before it, however slow the machine is.
    early = patch.multiple("onhand.edge.method", ANSWER_SECONDS_MAX=2.0, ANSWER_SHARE=0.5)
    async with api.locked(LEVEL, NORTH, MILK):
        with early:
            reply = await web.call("ReceiveStock", request, connect_timeout_ms="3000")
        assert (reply.status, reply.error()["code"], reply.reason()) == (503, "unavailable", "OUTCOME_UNKNOWN")
    assert (await web.call("ReceiveStock", request)).status == 200
    assert await api.level(NORTH, MILK) == (15, 0, 0, 0)

    async with api.locked_table("locations"):
        with early:
            reply = await web.call("GetLocation", pb.GetLocationRequest(location_id=NORTH), connect_timeout_ms="3000")
        assert (reply.status, reply.reason()) == (503, "NOT_IN_TIME")


async def test_a_request_that_does_not_come_whole_before_its_deadline_is_given_up(web: Web) -> None:
    head = f"POST {INVENTORY}GetLocation HTTP/1.1\r\nhost: a\r\ncontent-type: {PROTO}\r\nconnect-timeout-ms: 200\r\n"
    for rest in ("content-length: 10\r\n\r\nabc", "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"):
        reply = await web.raw((head + rest).encode())
        assert (reply.status, reply.error()["code"]) == (504, "deadline_exceeded")


async def test_a_caller_that_goes_away_leaves_a_mutation_to_its_end(api: Api, web: Web) -> None:
    body = pb.ReceiveStockRequest(
        request_id=request_id(), location_id=NORTH, lines=lines({MILK: 5})
    ).SerializeToString()
    head = f"POST {INVENTORY}ReceiveStock HTTP/1.1\r\nhost: a\r\ncontent-type: {PROTO}\r\ncontent-length: {len(body)}\r\n\r\n"
    async with api.locked(LEVEL, NORTH, MILK), web.connection() as (_, writer):
        writer.write(head.encode() + body)
        await api.until_waiting(1)
        writer.close()
        await writer.wait_closed()
    await web.server.calls.drain()
    assert await api.level(NORTH, MILK) == (15, 0, 0, 0)


# ----------------------------------------------------------------------------------------------------------- health, drain
async def health(web: Web, service: str = "") -> Reply:
    return await web.post("/grpc.health.v1.Health/Check", {"service": service})


def health_of(web: Web) -> Callable[[], Awaitable[str]]:
    async def look() -> str:
        status: str = (await health(web)).json()["status"]
        return status

    return look


async def test_health_is_told_of_the_server_and_of_each_service(api: Api, web: Web) -> None:
    for name in ("", *api.app.services):
        assert (await health(web, name)).json() == {"status": "SERVING"}
    assert (await health(web, "onhand.v1.Nothing")).error()["code"] == "not_found"
    reply = await web.call("/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest())
    assert reply.message(health_pb2.HealthCheckResponse).status == health_pb2.HealthCheckResponse.SERVING
    assert (await web.post("/grpc.health.v1.Health/Check", b"\xff", PROTO)).status == 400
    reply = await web.send("GET", "/healthz")
    assert (reply.status, reply.body) == (200, b"SERVING\n")
    assert (await web.send("HEAD", "/healthz")).status == 200


async def test_a_stopping_server_ends_what_it_began_and_refuses_the_rest(api: Api) -> None:
    server = api.app.server()
    edge = api.app.second_edge(server, "127.0.0.1", free_port())
    await server.start("127.0.0.1:0")
    await edge.start()
    web = Web(edge.port, server, edge)
    receipt = pb.ReceiveStockRequest(request_id=request_id(), location_id=NORTH, lines=lines({MILK: 5}))
    late = pb.ReceiveStockRequest(request_id=request_id(), location_id=NORTH, lines=lines({BREAD: 5}))
    async with api.locked(LEVEL, NORTH, MILK):
        begun = asyncio.ensure_future(web.call("ReceiveStock", receipt))
        await api.until_waiting(1)
        stopping = asyncio.ensure_future(server.stop())
        await eventually(health_of(web), "NOT_SERVING")
        reply = await web.call("ReceiveStock", late)
        assert (reply.status, reply.reason(), reply.headers["connection"]) == (503, "SERVER_STOPPING", "close")
        reply = await web.send("GET", "/healthz")
        assert (reply.status, reply.body) == (503, b"NOT_SERVING\n")
        assert (await health(web)).json() == {"status": "NOT_SERVING"}
    assert (await begun).status == 200
    await stopping
    edge.check()
    await edge.stop()
    with pytest.raises(ConnectionRefusedError):
        await web.send("GET", "/healthz")
    with pytest.raises(RuntimeError):
        edge.check()
    assert await api.level(NORTH, BREAD) == (10, 0, 0, 0)
    assert await api.level(NORTH, MILK) == (15, 0, 0, 0)


# ---------------------------------------------------------------------------------------------------------------- browsers
SHOP = {"origin": "https://shop.example"}
ASKED = {"access-control-request-method": "POST", "access-control-request-headers": "content-type"}
CALL = {"content-type": JSON}


async def test_pages_of_given_origins_may_call_and_others_may_not(api: Api) -> None:
    path, body = f"{INVENTORY}GetAvailability", json.dumps(AVAILABILITY_JSON).encode()
    async with second_edge(api, ["https://shop.example"]) as web:
        reply = await web.send("OPTIONS", path, SHOP | ASKED)
        assert (reply.status, reply.body) == (204, b"")
        assert reply.headers["access-control-allow-origin"] == "https://shop.example"
        assert {"GET", "POST"} == set(reply.headers["access-control-allow-methods"].split(", "))
        for name in ("content-type", "connect-protocol-version", "connect-timeout-ms", "x-onhand-actor"):
            assert name in reply.headers["access-control-allow-headers"]

        reply = await web.send("POST", path, SHOP | CALL, body)
        assert (reply.headers["access-control-allow-origin"], reply.headers["vary"]) == (SHOP["origin"], "origin")
        refused = await web.send("POST", path, SHOP | CALL, b"{}")  # a page must be able to read a refusal too
        assert refused.headers["access-control-allow-origin"] == SHOP["origin"]

        for headers in (CALL, CALL | {"origin": "https://other.example"}):
            reply = await web.send("POST", path, headers, body)
            assert "access-control-allow-origin" not in reply.headers
            assert reply.headers["vary"] == "origin"
    async with second_edge(api, [connect.ANY_ORIGIN]) as web:
        reply = await web.send("POST", path, SHOP | CALL, body)
        assert reply.headers["access-control-allow-origin"] == "*"
    async with second_edge(api) as web:
        reply = await web.send("POST", path, SHOP | CALL, body)
        assert not [name for name in reply.headers if name.startswith("access-control")]
