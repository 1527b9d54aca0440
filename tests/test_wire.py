"""What messages carry: money, times, channels, etags, masks."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money
from hypothesis import given
from hypothesis import strategies as st

from onhand import wire
from onhand.domain.errors import AmountTooLarge, EtagMismatch, InvalidRequest
from onhand.domain.money import AMOUNT_MINOR_MAX, EXPONENTS
from onhand.v1 import types_pb2


@given(st.integers(0, AMOUNT_MINOR_MAX), st.sampled_from(sorted(EXPONENTS)))
def test_money_comes_back_from_the_wire_as_it_went(amount_minor: int, currency: str) -> None:
    assert wire.money_from_wire("amount", wire.money_to_wire(amount_minor, currency)) == (amount_minor, currency)


def test_units_and_nanos_of_a_negative_amount_are_both_negative() -> None:
    assert wire.money_to_wire(-1999, "USD") == Money(currency_code="USD", units=-19, nanos=-990_000_000)


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (Money(), "amount.currency_code"),
        (Money(currency_code="usd", units=1), "amount.currency_code"),
        (Money(currency_code="USD", units=-1), "amount"),
        (Money(currency_code="USD", nanos=-10_000_000), "amount"),
        (Money(currency_code="USD", nanos=1_000_000_000), "amount.nanos"),
        (Money(currency_code="USD", nanos=1_000_000), "amount.nanos"),
        (Money(currency_code="JPY", nanos=10_000_000), "amount.nanos"),
    ],
)
def test_money_that_means_nothing_is_refused_by_its_field(value: Money, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        wire.money_from_wire("amount", value)
    assert [violation.field for violation in refused.value.violations] == [field]


def test_money_beyond_the_limit_is_refused() -> None:
    with pytest.raises(AmountTooLarge):
        wire.money_from_wire("amount", Money(currency_code="USD", units=2**63 - 1))


def test_a_moment_comes_back_from_the_wire_as_it_went() -> None:
    moment = datetime(2026, 2, 28, 23, 59, 59, 123456, tzinfo=UTC)
    assert wire.moment("time", wire.timestamp(moment)) == moment


def test_a_moment_without_a_zone_is_a_programming_error() -> None:
    with pytest.raises(ValueError):
        wire.timestamp(datetime(2026, 1, 1))  # noqa: DTZ001


@pytest.mark.parametrize("wrong", [Timestamp(seconds=2**62), Timestamp(seconds=1, nanos=-1), Timestamp(nanos=2**30)])
def test_a_timestamp_outside_the_calendar_is_refused(wrong: Timestamp) -> None:
    with pytest.raises(InvalidRequest):
        wire.moment("occurred_time", wrong)


def test_every_channel_has_a_name_in_storage() -> None:
    for value in types_pb2.Channel.values():
        if value != types_pb2.CHANNEL_UNSPECIFIED:
            assert wire.channel_value(wire.channel_name(value)) == value
    assert wire.channel_name(types_pb2.CHANNEL_POS) == "POS"
    assert wire.channel_value(None) == types_pb2.CHANNEL_UNSPECIFIED


@pytest.mark.parametrize("number", [0, 7, 99, -1])
def test_a_number_that_is_no_channel_is_refused(number: int) -> None:
    with pytest.raises(InvalidRequest):
        wire.channel_name(number)


def test_an_etag_of_another_version_is_refused_and_none_is_accepted() -> None:
    wire.check_etag("cart 1", "", 3)
    wire.check_etag("cart 1", wire.etag(3), 3)
    with pytest.raises(EtagMismatch) as refused:
        wire.check_etag("cart 1", wire.etag(2), 3)
    assert refused.value.metadata() == {"resource": "cart 1", "etag": wire.etag(2), "current_etag": wire.etag(3)}


def test_a_mask_names_each_field_once() -> None:
    assert wire.mask_paths(FieldMask(paths=["name", "brand", "name"]), ("name", "brand")) == ["name", "brand"]


@pytest.mark.parametrize("paths", [[], ["*"], ["price"], ["name", "sku"], ["name.first"], [""]])
def test_a_mask_that_names_nothing_or_what_cannot_be_changed_is_refused(paths: list[str]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        wire.mask_paths(FieldMask(paths=paths), ("name", "brand"))
    assert {violation.field for violation in refused.value.violations} == {"update_mask"}
