"""The rules of fields: each of them, what it says, and that no request of the API has one that makes no sense."""

from __future__ import annotations

import asyncio
import importlib
import itertools
import pkgutil
import re
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import grpc
import pytest
from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

import onhand.v1
from onhand.domain.errors import InvalidRequest
from onhand.edge.server import Server
from onhand.edge.validation import (
    ITEMS_MAX,
    TEXT_LENGTH_MAX,
    VALUE_LENGTH_MAX,
    VIOLATIONS_LENGTH_MAX,
    VIOLATIONS_MAX,
    RuleMisfit,
    Validator,
)
from onhand.v1 import catalog_pb2, inventory_pb2, order_pb2, rules_pb2, types_pb2

REQUEST_ID = "0198c1de-1111-7222-8333-444455556666"

_file_numbers = itertools.count(1)


def request_types() -> list[type[Message]]:
    """The requests of all services there are."""
    modules = [
        importlib.import_module(f"onhand.v1.{module.name}") for module in pkgutil.iter_modules(onhand.v1.__path__)
    ]
    return [
        message_factory.GetMessageClass(method.input_type)
        for module in modules
        if module.__name__.endswith("_pb2")
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]


API = Validator(request_types())


def violations(message: Message, validator: Validator = API) -> dict[str, str]:
    """What is wrong with a message, by field."""
    try:
        validator.check(message)
    except InvalidRequest as refusal:
        found = [(v.field, v.description) for v in refusal.violations]
    else:
        return {}
    assert len(dict(found)) == len(found) > 0, "one violation for each field"
    return dict(found)


# -------------------------------------------------------------------------------------------- messages of the test's own
def field(
    type_name: str,
    *,
    repeated: bool = False,
    optional: bool = False,
    oneof: bool = False,
    type_of: str = "",
    **rules: Any,
) -> FieldDescriptorProto:
    """A field `value` of a proto type, like `string`, with rules."""
    made = FieldDescriptorProto(
        name="value",
        number=1,
        type=FieldDescriptorProto.Type.Value(f"TYPE_{type_name.upper()}"),
        label=FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL,
        proto3_optional=optional,
    )
    if type_of:
        made.type_name = type_of
    if optional or oneof:
        made.oneof_index = 0
    made.options.Extensions[rules_pb2.rules].CopyFrom(rules_pb2.FieldRules(**rules))
    return made


def message_type(value: FieldDescriptorProto, *more: DescriptorProto, package: str = "onhand.v1") -> type[Message]:
    """A message type `Probe` with this field, in a pool of its own."""
    probe = DescriptorProto(name="Probe", field=[value])
    if value.HasField("oneof_index"):
        probe.oneof_decl.add(name="_value" if value.proto3_optional else "choice")
    probe.nested_type.extend(more)
    file = FileDescriptorProto(name=f"probe_{next(_file_numbers)}.proto", package=package, syntax="proto3")
    file.message_type.append(probe)
    known = FileDescriptorProto()
    types_pb2.DESCRIPTOR.CopyToProto(known)
    rules = FileDescriptorProto()
    rules_pb2.DESCRIPTOR.CopyToProto(rules)
    options = FileDescriptorProto()
    descriptor_pb2.DESCRIPTOR.CopyToProto(options)
    pool = DescriptorPool()
    for each in (options, rules, known):
        pool.Add(each)
    file.dependency.extend(["onhand/v1/types.proto", "google/protobuf/descriptor.proto"])
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.Probe"))


Judge = Callable[[Any], str | None]


def judge(value: FieldDescriptorProto) -> Judge:
    """Says what is wrong with a value of the field, if anything."""
    probe = message_type(value)
    validator = Validator([probe])

    def description(given_value: Any) -> str | None:
        message = probe() if given_value is None else probe(value=given_value)
        found = violations(message, validator)
        assert all(name.startswith("value") for name in found)
        return next(iter(found.values()), None)

    return description


# ------------------------------------------------------------------------------------------------------------ every rule
@pytest.mark.parametrize(
    ("value", "refused", "accepted"),
    [
        (field("string", required=True), [None, ""], ["x", " "]),
        (field("int64", required=True), [None, 0], [1, -1]),
        (field("double", required=True), [0.0], [0.5]),
        (field("bytes", required=True), [b""], [b"\x00"]),
        (field("enum", type_of=".onhand.v1.Channel", required=True), [None, 0, 7, -1], [1, 6]),
        (field("enum", type_of=".onhand.v1.Channel"), [7, -1], [None, 0, 6]),
        (field("message", type_of=".onhand.v1.BasketLine", required=True), [None], [{"sku": "a", "quantity": 1}]),
        (field("message", type_of=".onhand.v1.BasketLine"), [{}], [None, {"sku": "a", "quantity": 1}]),
        (field("string", repeated=True, required=True), [[], [""], ["a", ""]], [["a"]]),
        (field("int32", min=1), [0, -1], [1, 2**31 - 1]),
        (field("int64", max=5), [6, 2**63 - 1], [5, -(2**63)]),
        (field("int64", min=-3, max=3, required=True), [-4, 4, 0], [-3, 3]),
        (field("uint32", min=1, max=2**32 - 1), [0], [2**32 - 1]),
        (field("double", min=-1, max=1), [1.01, -1.01, float("nan"), float("inf")], [-1.0, 0.0, 1.0]),
        (field("double"), [float("nan"), float("inf"), float("-inf")], [0.0, 1e308]),
        (field("int64", repeated=True, min=1), [[1, 0]], [[], [1, 2]]),
        (field("string", max_length=3), ["abcd", "äöü€"], ["", "abc", "äöü"]),
        (
            field("string"),
            ["x" * (TEXT_LENGTH_MAX + 1)],
            ["x" * TEXT_LENGTH_MAX, "\N{SOFT HYPHEN}", "\N{NO-BREAK SPACE}"],
        ),
        (field("string"), ["a\0", "\n", "\x7f", "a\x85b", "\x1b[31m"], ["Müller & Söhne, 東京 \N{GRINNING FACE}"]),
        (field("string", repeated=True), [["a", "\0"], ["x" * 257]], [[], ["", "a"]]),
        (field("string", repeated=True, max_items=2), [["a"] * 3], [["a"] * 2]),
        (field("bool", repeated=True), [[True] * (ITEMS_MAX + 1)], [[True] * ITEMS_MAX]),
        (field("string", pattern="[A-Z]{2}"), ["de", "DEU", "DE\n", "xDE"], ["", "DE"]),
        (field("string", pattern="a|ab"), ["abc", "b"], ["a", "ab"]),
        (field("string", pattern=".*"), ["x" * 257, "a\0b"], ["x" * 256]),
        (field("string", pattern="A.*", form=rules_pb2.FORM_SKU), ["B1", "A/"], ["A1"]),
        (field("string", repeated=True, pattern="[a-z]"), [["a", ""], ["A"]], [[], ["a", "b"]]),
        (field("string", form=rules_pb2.FORM_SKU, max_length=4), ["abcde"], ["abcd"]),
        (
            field("string", form=rules_pb2.FORM_UUID),
            [
                REQUEST_ID[:-1],
                REQUEST_ID.replace("-", ""),
                f"{{{REQUEST_ID}}}",
                f"{REQUEST_ID}\n",
                "g" + REQUEST_ID[1:],
            ],
            ["", REQUEST_ID, REQUEST_ID.upper()],
        ),
        (
            field("string", form=rules_pb2.FORM_SKU),
            ["-a", "a b", "a/b", "x" * 65, "ä", "a\0", "٣"],
            ["", "a", "0", "x" * 64, "A.b_c:d-e"],
        ),
        (field("string", form=rules_pb2.FORM_LOCATION), [".a", "a:b", "x" * 65, "a\n"], ["", "store-1", "A.b_c-1"]),
        (
            field("string", form=rules_pb2.FORM_REQUEST),
            ["short-7", "x" * 129, "12345678\n", "1234 5678"],
            ["", "x" * 8, "x" * 128],
        ),
        (
            field("string", form=rules_pb2.FORM_GTIN),
            ["1234567", "1" * 15, "1234567x", "٣" * 8],
            ["", "1" * 8, "1" * 14],
        ),
        (field("string", form=rules_pb2.FORM_CURRENCY), ["eur", "EU", "EURO", "ÄÖÜ"], ["", "EUR"]),
        (field("string", optional=True, required=True), [None, ""], ["x"]),
        (field("int64", optional=True, min=1), [0], [None, 1]),
        (field("int64", oneof=True, min=1), [0], [None, 1]),
        (field("string", oneof=True, form=rules_pb2.FORM_SKU), ["a b"], [None, "", "a"]),
    ],
    ids=lambda value: re.sub(r"\s+", " ", str(value))[:60] if isinstance(value, FieldDescriptorProto) else "",
)
def test_a_rule_refuses_what_breaks_it_and_nothing_else(
    value: FieldDescriptorProto, refused: list[Any], accepted: list[Any]
) -> None:
    description = judge(value)
    for each in refused:
        assert description(each), each
    for each in accepted:
        assert description(each) is None, each


@pytest.mark.parametrize(
    ("value", "given_value", "said"),
    [
        (field("string", required=True), "", ["required"]),
        (field("int64", min=1), -7, ["at least 1", "-7"]),
        (field("int64", max=5), 99, ["at most 5", "99"]),
        (field("string", max_length=3), "abcd", ["at most 3 characters", "4", "'abcd'"]),
        (field("string", repeated=True, max_items=1), ["a", "b"], ["at most 1 items", "2"]),
        (field("string", pattern="[A-Z]+"), "abc", ["[A-Z]+", "'abc'"]),
        (field("string", form=rules_pb2.FORM_CURRENCY), "eur", ["three capital letters", "'eur'"]),
        (field("string"), "a\0b", ["control", "U+0000", r"'a\x00b'"]),
        (field("enum", type_of=".onhand.v1.Channel"), 99, ["Channel", "99"]),
    ],
    ids=str,
)
def test_a_violation_says_the_rule_and_the_value(
    value: FieldDescriptorProto, given_value: Any, said: list[str]
) -> None:
    description = judge(value)(given_value)
    assert description
    for part in said:
        assert part in description


def test_a_long_value_is_clipped() -> None:
    description = judge(field("string"))("\N{GRINNING FACE}" * 100_000)
    assert description
    assert len(description) < VALUE_LENGTH_MAX + 80


def test_a_position_is_on_the_globe() -> None:
    def found(latitude: float, longitude: float) -> set[str]:
        request = inventory_pb2.FindStoresRequest(channel=types_pb2.CHANNEL_WEB)
        request.lines.add(sku="a", quantity=1)
        request.position.latitude, request.position.longitude = latitude, longitude
        return set(violations(request))

    assert found(90, -180) == found(-90, 180) == found(0, 0) == set()
    assert found(90.1, 0) == {"position.latitude"}
    assert found(0, -180.1) == {"position.longitude"}
    assert found(float("nan"), float("inf")) == {"position.latitude", "position.longitude"}


# ------------------------------------------------------------------------------------------- rules that make no sense
@pytest.mark.parametrize(
    "value",
    [
        field("string", min=1),
        field("string", max=1),
        field("string", max_items=1),
        field("int64", max_length=1),
        field("int64", pattern="x"),
        field("int64", form=rules_pb2.FORM_SKU),
        field("bool", required=True),
        field("bytes", max_length=1),
        field("enum", type_of=".onhand.v1.Channel", min=1),
        field("message", type_of=".onhand.v1.BasketLine", max_length=1),
        field("string", oneof=True, required=True),
        field("int64", min=2, max=1),
        field("int32", max=2**31),
        field("uint64", min=-1),
        field("string", max_length=0),
        field("string", repeated=True, max_items=-1),
        field("string", pattern="["),
        field("string", form=99),
        field("message", type_of=".google.protobuf.FileOptions"),
    ],
    ids=lambda value: re.sub(r"\s+", " ", str(value))[:80],
)
def test_a_rule_that_makes_no_sense_is_told_at_the_start(value: FieldDescriptorProto) -> None:
    with pytest.raises(RuleMisfit, match=r"^onhand\.v1\.Probe\.value: "):
        Validator([message_type(value)])


def test_a_map_is_told_at_the_start() -> None:
    entry = DescriptorProto(name="ValueEntry", options=descriptor_pb2.MessageOptions(map_entry=True))
    for number, name in ((1, "key"), (2, "value")):
        entry.field.add(
            name=name, number=number, type=FieldDescriptorProto.TYPE_STRING, label=FieldDescriptorProto.LABEL_OPTIONAL
        )
    with pytest.raises(RuleMisfit, match="maps"):
        Validator([message_type(field("message", repeated=True, type_of=".onhand.v1.Probe.ValueEntry"), entry)])


def test_a_message_of_another_package_is_told_at_the_start() -> None:
    with pytest.raises(RuleMisfit, match=r"other\.Probe"):
        Validator([message_type(field("string"), package="other")])


def test_a_message_may_contain_itself() -> None:
    probe = message_type(field("message", repeated=True, max_items=1, type_of=".onhand.v1.Probe"))
    validator = Validator([probe])
    message: Any = probe()
    message.value.add().value.add().value.add()
    assert violations(message, validator) == {}
    message.value[0].value[0].value.add()
    assert set(violations(message, validator)) == {"value[0].value[0].value"}


# -------------------------------------------------------------------------------------------------------- the whole API
def test_every_request_of_every_service_is_compiled() -> None:
    assert len(request_types()) > 50
    for request_type in request_types():
        request = request_type()
        fields = request.DESCRIPTOR.fields_by_name
        if "request_id" in fields:
            assert "request_id" in violations(request), f"{request_type.__name__} has a request_id that is not required"


def test_every_text_and_list_of_every_request_is_bounded() -> None:
    for request_type in request_types():
        for each in request_type.DESCRIPTOR.fields:
            if each.type == each.TYPE_STRING:
                long = "x" * 100_000
                request = request_type(**{each.name: [long] if each.is_repeated else long})
                name = f"{each.name}[0]" if each.is_repeated else each.name
                assert name in violations(request), f"{request_type.__name__}.{each.name}"


def test_paths_lead_to_the_field() -> None:
    request = inventory_pb2.ReserveRequest(request_id=REQUEST_ID, channel=types_pb2.CHANNEL_WEB)
    for number in range(2):
        basket = request.baskets.add(location_id=f"store-{number}")
        for _ in range(4):
            basket.lines.add(sku="a", quantity=1)
    assert violations(request) == {}
    request.baskets[0].lines[3].quantity = 0
    request.baskets[1].lines[2].sku = "a b"
    request.baskets[1].location_id = ""
    assert list(violations(request)) == [
        "baskets[0].lines[3].quantity",
        "baskets[1].location_id",
        "baskets[1].lines[2].sku",
    ]

    sale = order_pb2.SellRequest(request_id=REQUEST_ID, location_id="store-1", currency_code="EUR")
    sale.lines.add(barcode="x", quantity=1)
    assert set(violations(sale)) == {"lines[0].barcode"}
    assert set(violations(catalog_pb2.BatchGetPricesRequest(skus=["a", "", "b c"], currency_code="EUR"))) == {
        "skus[1]",
        "skus[2]",
    }


TEXTS = st.one_of(st.sampled_from(["", "a", "store-1", "x" * 64, "x" * 65, "a b", "a\0", "ä"]), st.text(max_size=70))
COUNTS = st.one_of(st.sampled_from([0, 1, 10**9, 10**9 + 1, -1]), st.integers(-(2**63), 2**63 - 1))


@st.composite
def reserve_requests(draw: st.DrawFn) -> inventory_pb2.ReserveRequest:
    """Right and wrong ones."""
    request = inventory_pb2.ReserveRequest(
        request_id=draw(st.one_of(st.just(REQUEST_ID), TEXTS)),
        channel=draw(st.integers(-1, 8)),  # type: ignore[arg-type]
        ttl_seconds=draw(COUNTS),
        customer_id=draw(st.one_of(TEXTS, st.text(min_size=120, max_size=136))),
    )
    for _ in range(draw(st.integers(0, 3))):
        basket = request.baskets.add(location_id=draw(TEXTS))
        for _ in range(draw(st.integers(0, 3))):
            basket.lines.add(sku=draw(TEXTS), quantity=draw(COUNTS))
    return request


def wrong_fields(request: inventory_pb2.ReserveRequest) -> Iterator[str]:
    """The rules of a ReserveRequest again, by hand."""
    if not re.fullmatch(r"[A-Za-z0-9._:-]{8,128}", request.request_id):
        yield "request_id"
    if request.channel not in range(1, 7):
        yield "channel"
    if not request.baskets:
        yield "baskets"
    for i, basket in enumerate(request.baskets):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", basket.location_id):
            yield f"baskets[{i}].location_id"
        if not basket.lines:
            yield f"baskets[{i}].lines"
        for j, line in enumerate(basket.lines):
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}", line.sku):
                yield f"baskets[{i}].lines[{j}].sku"
            if not 1 <= line.quantity <= 10**9:
                yield f"baskets[{i}].lines[{j}].quantity"
    if not 0 <= request.ttl_seconds <= 86_400:
        yield "ttl_seconds"
    if len(request.customer_id) > 128 or any(ord(c) < 32 or 127 <= ord(c) < 160 for c in request.customer_id):
        yield "customer_id"


@given(reserve_requests())
def test_exactly_the_fields_that_break_a_rule_are_named(request: inventory_pb2.ReserveRequest) -> None:
    wrong = list(wrong_fields(request))
    found = list(violations(request))
    assert found == wrong[: len(found)]
    assert bool(found) == bool(wrong)
    assert len(found) == min(len(wrong), VIOLATIONS_MAX) or len(found) > 5  # fewer only for their length


# --------------------------------------------------------------------------------------------------------------- bounds
def worst_request() -> inventory_pb2.ReserveRequest:
    """Everything wrong, at length, with what takes most room on the wire."""
    request = inventory_pb2.ReserveRequest(request_id="\N{GRINNING FACE}" * 200)
    for _ in range(20):
        basket = request.baskets.add(location_id="\0" * 300)
        for _ in range(200):
            basket.lines.add(sku="\N{GRINNING FACE}" * 100, quantity=2**63 - 1)
    return request


def test_the_violations_are_bounded_in_number_and_length() -> None:
    request = inventory_pb2.ReserveRequest(request_id=REQUEST_ID, channel=types_pb2.CHANNEL_WEB)
    for _ in range(20):
        request.baskets.add(location_id="store-1").lines.extend([types_pb2.BasketLine(sku="a")] * 200)
    assert len(violations(request)) == VIOLATIONS_MAX
    found = violations(worst_request())
    assert 5 < len(found) < VIOLATIONS_MAX
    assert sum(len(name) + len(description) for name, description in found.items()) <= VIOLATIONS_LENGTH_MAX


async def test_the_longest_refusal_reaches_its_caller() -> None:
    class Inventory:
        def __getattr__(self, name: str) -> Any:
            return lambda request, caller: asyncio.sleep(0, inventory_pb2.ReserveResponse())

    server = Server({"onhand.v1.InventoryService": [Inventory()]})
    port = await server.start("127.0.0.1:0")
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            reserve = channel.unary_unary(
                "/onhand.v1.InventoryService/Reserve",
                request_serializer=inventory_pb2.ReserveRequest.SerializeToString,
                response_deserializer=inventory_pb2.ReserveResponse.FromString,
            )
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await reserve(worst_request())
    finally:
        with patch("onhand.edge.method.DRAIN_SECONDS_MIN", 0):
            await server.stop()
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    details = dict(refused.value.trailing_metadata() or ())["grpc-status-details-bin"]
    status = status_pb2.Status.FromString(details if isinstance(details, bytes) else details.encode())
    bad = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad) for detail in status.details)
    assert [v.field for v in bad.field_violations] == list(violations(worst_request()))
