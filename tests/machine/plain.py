"""Messages as plain values, and what one must say of another."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

DIGITS = {"JPY": 0}
"""Digits after the point, where they are not 2."""


def plain(message: Message) -> dict[str, Any]:
    """Every field: messages as dicts (None if not set), enums by their bare names, times in microseconds."""
    return {field.name: _value(message, field) for field in message.DESCRIPTOR.fields}


def _value(message: Message, field: FieldDescriptor) -> Any:
    value = getattr(message, field.name)
    if field.is_repeated:
        return [_item(field, item) for item in value]
    if field.message_type is not None and not message.HasField(field.name):
        return None
    return _item(field, value)


def _item(field: FieldDescriptor, value: Any) -> Any:
    if field.enum_type is not None:
        names = [v.name for v in field.enum_type.values]
        prefix = names[0].removesuffix("UNSPECIFIED")
        return field.enum_type.values_by_number[value].name.removeprefix(prefix)
    if field.message_type is None:
        return value
    if field.message_type.full_name == "google.type.Money":
        digits = DIGITS.get(value.currency_code, 2)
        return value.units * 10**digits + value.nanos // 10 ** (9 - digits), value.currency_code
    if field.message_type.full_name == "google.protobuf.Timestamp":
        return value.seconds * 1_000_000 + value.nanos // 1000
    if field.message_type.full_name == "google.protobuf.FieldMask":
        return list(value.paths)
    return plain(value)


def differences(expected: Any, found: Any, where: str = "") -> list[str]:
    """Where `found` says something else than what is expected of it; what nothing is expected of may say anything."""
    if isinstance(expected, dict) and isinstance(found, dict):
        return [d for key, value in expected.items() for d in differences(value, found.get(key), f"{where}.{key}")]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = enumerate(zip(expected, found, strict=True))
        return [d for n, (e, f) in pairs for d in differences(e, f, f"{where}[{n}]")]
    return [] if expected == found else [f"{where.lstrip('.')}: {found!r}, the model says {expected!r}"]
