"""What checking a request costs: the generated functions beside three other ways. Prints microseconds a check.

    .venv/bin/python bench/validation.py [--protovalidate FOLDER]

For protovalidate, FOLDER needs a version of it that works on google.protobuf, and the schema of its rules, which its wheel
lacks and which the npm package @bufbuild/protovalidate has (package/dist/esm/gen/buf/validate/validate_pb.js):

    pip install --target FOLDER protovalidate==1.2.0 && cp .../validate_pb.js FOLDER/

A figure is the least mean of several rounds, in processor time, so that a busy machine disturbs it little. All ways must
accept the request, and refuse it with its last line broken.
"""

from __future__ import annotations

import argparse
import base64
import importlib
import re
import sys
import time
import timeit
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from onhand.domain.errors import InvalidRequest, invalid
from onhand.edge.validation import Validator
from onhand.v1 import inventory_pb2, rules_pb2, types_pb2

ROUNDS = 7
ROUND_SECONDS = 0.3
SHAPES = ((1, 2), (20, 10))
"""Baskets, and lines in each."""

Check = Callable[[Any], None]

FORMS = {
    rules_pb2.FORM_REQUEST: r"[A-Za-z0-9._:-]{8,128}",
    rules_pb2.FORM_LOCATION: r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
    rules_pb2.FORM_SKU: r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}",
}


def reserve_request(baskets: int, lines: int) -> inventory_pb2.ReserveRequest:
    """A request as a shop makes it, right in every field."""
    request = inventory_pb2.ReserveRequest(
        request_id="0198c1de-1111-7222-8333-444455556666",
        channel=types_pb2.CHANNEL_WEB,
        ttl_seconds=900,
        customer_id="customer-0012345",
    )
    for b in range(baskets):
        basket = request.baskets.add(location_id=f"store-{b:03d}")
        for n in range(lines):
            basket.lines.add(sku=f"sku-{b:03d}{n:05d}", quantity=1 + n)
    return request


# ------------------------------------------------------------------------------------------------------------- by hand
REQUEST_ID = re.compile(FORMS[rules_pb2.FORM_REQUEST])
LOCATION_ID = re.compile(FORMS[rules_pb2.FORM_LOCATION])
SKU = re.compile(FORMS[rules_pb2.FORM_SKU])


def by_hand(request: inventory_pb2.ReserveRequest) -> None:
    """The rules of a ReserveRequest as one would write them into its handler; ends at the first that is broken."""
    if not REQUEST_ID.fullmatch(request.request_id):
        raise invalid("request_id", "must be a request_id")
    if not 1 <= request.channel <= 6:
        raise invalid("channel", "must be a channel")
    if not 1 <= len(request.baskets) <= 20:
        raise invalid("baskets", "must be 1 to 20")
    for b, basket in enumerate(request.baskets):
        if not LOCATION_ID.fullmatch(basket.location_id):
            raise invalid(f"baskets[{b}].location_id", "must be a location")
        if not 1 <= len(basket.lines) <= 200:
            raise invalid(f"baskets[{b}].lines", "must be 1 to 200")
        for n, line in enumerate(basket.lines):
            if not SKU.fullmatch(line.sku):
                raise invalid(f"baskets[{b}].lines[{n}].sku", "must be a sku")
            if not 1 <= line.quantity <= 1_000_000_000:
                raise invalid(f"baskets[{b}].lines[{n}].quantity", "must be 1 to 1000000000")
    if not 0 <= request.ttl_seconds <= 86_400:
        raise invalid("ttl_seconds", "must be 0 to 86400")
    if len(request.customer_id) > 128 or not request.customer_id.isprintable():
        raise invalid("customer_id", "must have at most 128 printable characters")


# ------------------------------------------------------------------------------------------------------------ closures
def closures(descriptor: Any) -> Callable[[Any], bool]:
    """The same rules as functions made of functions, without generated source. Knows what a ReserveRequest needs."""

    def of_field(field: Any) -> Callable[[Any], bool]:
        rules = field.GetOptions().Extensions[rules_pb2.rules]
        name = field.name
        if field.is_repeated:
            item = closures(field.message_type)
            smallest, largest = int(rules.required), rules.max_items
            return lambda m: smallest <= len(getattr(m, name)) <= largest and all(map(item, getattr(m, name)))
        if field.type == field.TYPE_ENUM:
            known = frozenset(field.enum_type.values_by_number) - {0}
            return lambda m: getattr(m, name) in known
        if field.type == field.TYPE_STRING and rules.form:
            match = re.compile(FORMS[rules.form]).fullmatch
            return lambda m: match(getattr(m, name)) is not None
        if field.type == field.TYPE_STRING:
            length_max = rules.max_length
            return lambda m: len(getattr(m, name)) <= length_max and getattr(m, name).isprintable()
        least, most = rules.min, rules.max
        return lambda m: least <= getattr(m, name) <= most

    checks = tuple(of_field(field) for field in descriptor.fields)

    def check(message: Any) -> bool:
        return all(each(message) for each in checks)

    return check


def by_closures() -> Check:
    """Closures that raise, without saying what is wrong."""
    is_right = closures(inventory_pb2.ReserveRequest.DESCRIPTOR)

    def check(request: Any) -> None:
        if not is_right(request):
            raise InvalidRequest(())

    return check


# -------------------------------------------------------------------------------------------------------- protovalidate
def by_protovalidate(folder: Path) -> tuple[Check, type[Any]]:
    """protovalidate, and a ReserveRequest with its options in place of ours."""
    sys.path.append(str(folder))
    validate_pb2 = load_validate_schema(folder / "validate_pb.js")
    protovalidate = importlib.import_module("protovalidate")
    file = descriptor_pb2.FileDescriptorProto(name="bench/reserve.proto", package="onhand.bench", syntax="proto3")
    file.dependency.append("buf/validate/validate.proto")
    for source in (types_pb2.BasketLine, inventory_pb2.LocationBasket, inventory_pb2.ReserveRequest):
        message = file.message_type.add()
        source.DESCRIPTOR.CopyToProto(message)
        for field in message.field:
            rules = field.options.Extensions[rules_pb2.rules]
            field.options.Clear()
            if field.type_name:
                field.type_name = field.type_name.replace("onhand.v1", "onhand.bench")
            translate(rules, field, field.options.Extensions[validate_pb2.field])
    types_pb2.Channel.DESCRIPTOR.CopyToProto(file.enum_type.add())
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    request_type = message_factory.GetMessageClass(pool.FindMessageTypeByName("onhand.bench.ReserveRequest"))
    return protovalidate.Validator().validate, request_type


def load_validate_schema(script: Path) -> Any:
    """buf.validate.validate_pb2, from the schema in the npm package."""
    found = re.search(r'fileDesc\("([^"]+)"', script.read_text())
    if found is None:
        raise SystemExit(f"{script}: no schema in it")
    file = descriptor_pb2.FileDescriptorProto.FromString(base64.b64decode(found[1] + "=" * (-len(found[1]) % 4)))
    wanted = ("descriptor", "duration", "field_mask", "timestamp")
    for name in wanted:
        importlib.import_module(f"google.protobuf.{name}_pb2")
    file.dependency[:] = [f"google/protobuf/{name}.proto" for name in wanted]
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    descriptor = pool.FindFileByName(file.name)
    module = types.ModuleType("buf.validate.validate_pb2")
    for name, message in descriptor.message_types_by_name.items():
        setattr(module, name, message_factory.GetMessageClass(message))
    for name, extension in descriptor.extensions_by_name.items():
        setattr(module, name, extension)
    for enum in descriptor.enum_types_by_name.values():
        for value in enum.values:
            setattr(module, value.name, value.number)
    for name in ("buf", "buf.validate"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["buf.validate"].validate_pb2 = module  # type: ignore[attr-defined]
    sys.modules["buf.validate.validate_pb2"] = module
    return module


def translate(rules: rules_pb2.FieldRules, field: descriptor_pb2.FieldDescriptorProto, target: Any) -> None:
    """Our rules as those of protovalidate, which are as strict: a form by its pattern."""
    if field.label == field.LABEL_REPEATED:
        target.repeated.min_items = int(rules.required)
        target.repeated.max_items = rules.max_items
    elif field.type == field.TYPE_ENUM:
        target.enum.defined_only = True
        target.enum.not_in.append(0)
    elif field.type == field.TYPE_STRING and rules.form:
        target.string.pattern = f"^{FORMS[rules.form]}$"
    elif field.type == field.TYPE_STRING:
        target.string.max_len = rules.max_length
        target.string.pattern = r"^[^\x00-\x1f\x7f-\x{9f}]*$"
    else:
        target.int64.gte, target.int64.lte = rules.min, rules.max


# ------------------------------------------------------------------------------------------------------------ measuring
def microseconds(check: Check, request: Any) -> float:
    """The least mean of the rounds."""
    check(request)
    timer = timeit.Timer(lambda: check(request), timer=time.process_time)
    once = max(timer.timeit(5) / 5, 1e-6)
    number = max(1, int(ROUND_SECONDS / once))
    return min(timer.repeat(ROUNDS, number)) / number * 1e6


def refuses(check: Check, request: Any) -> bool:
    """Whether a request with a wrong last line is refused."""
    broken = type(request).FromString(request.SerializeToString())
    broken.baskets[-1].lines[-1].quantity = 0
    try:
        check(broken)
    except Exception as refusal:
        return type(refusal).__name__ in ("InvalidRequest", "ValidationError")
    return False


def main() -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protovalidate", type=Path, metavar="FOLDER")
    folder = parser.parse_args().protovalidate
    ways: list[tuple[str, Check, type[Any]]] = [
        ("generated source (onhand)", Validator([inventory_pb2.ReserveRequest]).check, inventory_pb2.ReserveRequest),
        ("by hand", by_hand, inventory_pb2.ReserveRequest),
        ("closures", by_closures(), inventory_pb2.ReserveRequest),
    ]
    if folder is not None:
        ways.append(("protovalidate", *by_protovalidate(folder)))
    print(f"{'microseconds a check':28}" + "".join(f"{b:>5} x {n:<2} lines" for b, n in SHAPES))
    for name, check, request_type in ways:
        figures = []
        for baskets, lines in SHAPES:
            request = request_type.FromString(reserve_request(baskets, lines).SerializeToString())
            if not refuses(check, request):
                raise SystemExit(f"{name}: a request with a wrong line was not refused as it should be")
            figures.append(microseconds(check, request))
        print(f"{name:28}" + "".join(f"{figure:16.1f}" for figure in figures))


if __name__ == "__main__":
    main()
