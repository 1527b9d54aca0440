"""Between what messages carry and what handlers compute with: money, times, channels, etags, masks."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

from onhand.domain import money
from onhand.domain.errors import EtagMismatch, FieldViolation, InvalidRequest, invalid
from onhand.v1 import types_pb2

_NANOS_PER_UNIT = 1_000_000_000
_CHANNEL_NAMES: dict[int, str] = {
    value: name.removeprefix("CHANNEL_") for name, value in types_pb2.Channel.items() if value != 0
}


def money_to_wire(amount_minor: int, currency: str) -> Money:
    """Minor units as google.type.Money."""
    scale = 10 ** money.exponent(currency)
    units, rest = divmod(abs(amount_minor), scale)
    sign = -1 if amount_minor < 0 else 1
    return Money(currency_code=currency, units=sign * units, nanos=sign * rest * (_NANOS_PER_UNIT // scale))


def money_from_wire(field: str, value: Money) -> tuple[int, str]:
    """Minor units and currency of an amount that is not negative.

    Raises `InvalidRequest` for an unknown currency, an amount below zero or one with a part of a minor unit, and
    `AmountTooLarge`.
    """
    currency = value.currency_code
    if currency not in money.EXPONENTS:
        raise invalid(f"{field}.currency_code", f"{currency!r} is no active ISO 4217 currency code")
    if value.units < 0 or value.nanos < 0:
        raise invalid(field, "must not be negative")
    if value.nanos >= _NANOS_PER_UNIT:
        raise invalid(f"{field}.nanos", "must be less than 1000000000")
    scale = 10 ** money.exponent(currency)
    rest, part = divmod(value.nanos, _NANOS_PER_UNIT // scale)
    if part:
        raise invalid(f"{field}.nanos", f"{currency} has {money.exponent(currency)} digits after the point, not more")
    return money.checked(value.units * scale + rest), currency


def timestamp(moment: datetime) -> Timestamp:
    """An aware datetime as a Timestamp."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone")
    wire = Timestamp()
    wire.FromDatetime(moment)
    return wire


def timestamp_of_json(text: str) -> Timestamp:
    """A time of the ledger as its JSON has it."""
    return timestamp(datetime.fromisoformat(text))


def moment(field: str, value: Timestamp) -> datetime:
    """A Timestamp as a UTC datetime. Raises `InvalidRequest` for one outside the years 1 to 9999."""
    try:
        return value.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise invalid(field, "must be a time in the years 1 to 9999") from None


def channel_name(channel: int, field: str = "channel") -> str:
    """A Channel as stored: 'WEB'. Raises `InvalidRequest` for UNSPECIFIED and for numbers that are none."""
    try:
        return _CHANNEL_NAMES[channel]
    except KeyError:
        raise invalid(
            field, "must be one of " + ", ".join(f"CHANNEL_{name}" for name in _CHANNEL_NAMES.values())
        ) from None


def channel_value(name: str | None) -> types_pb2.Channel.ValueType:
    """A stored channel as the enum; None is UNSPECIFIED."""
    return types_pb2.CHANNEL_UNSPECIFIED if name is None else types_pb2.Channel.Value(f"CHANNEL_{name}")


def etag(version: int) -> str:
    """The etag of a row's version."""
    return f"v{version}"


def check_etag(resource: str, given: str, version: int) -> None:
    """Refuse a change that was made for another version than this; an empty etag is for any. Raises `EtagMismatch`."""
    if given and given != etag(version):
        raise EtagMismatch(resource, given, etag(version))


def mask_paths(mask: FieldMask, changeable: Collection[str], field: str = "update_mask") -> list[str]:
    """The fields to change, each once. Raises `InvalidRequest` for an empty mask and for a path not in `changeable`."""
    paths = list(dict.fromkeys(mask.paths))
    if not paths:
        raise invalid(field, "must name the fields to change: " + ", ".join(changeable))
    if unknown := [path for path in paths if path not in changeable]:
        raise InvalidRequest(
            tuple(
                FieldViolation(field, f"{path!r} cannot be changed; these can: " + ", ".join(changeable))
                for path in unknown
            )
        )
    return paths
