"""Requests that break one declared rule (protos/onhand/v1/rules.proto)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from onhand.v1 import rules_pb2

Break = Callable[[], None]


def broken(request: Message, which: int) -> tuple[Message, str]:
    """A copy with one field broken, and the path of it; `which` says which of those that can be."""
    copy = type(request)()
    copy.CopyFrom(request)
    if hasattr(copy, "request_id"):
        copy.request_id += "-wrong"
    ways = list(_ways(copy, ""))
    path, do = ways[which % len(ways)]
    do()
    return copy, path


def _ways(message: Message, prefix: str) -> Iterator[tuple[str, Break]]:
    """Every field that can be broken: what is required is left out, what has a least value gets one less."""
    for field in message.DESCRIPTOR.fields:
        rules = field.GetOptions().Extensions[rules_pb2.rules]
        path = prefix + field.name
        if rules.required:
            yield path, lambda name=field.name: message.ClearField(name)  # type: ignore[misc]
        elif rules.HasField("min") and not field.is_repeated:
            yield path, lambda name=field.name, value=rules.min - 1: setattr(message, name, value)  # type: ignore[misc]
        if field.message_type is None or field.message_type.file.package != "onhand.v1":
            continue
        yield from _nested(message, field, path)


def _nested(message: Message, field: FieldDescriptor, path: str) -> Iterator[tuple[str, Break]]:
    if field.is_repeated:
        for n, item in enumerate(getattr(message, field.name)):
            yield from _ways(item, f"{path}[{n}].")
    elif message.HasField(field.name):
        yield from _ways(getattr(message, field.name), f"{path}.")
