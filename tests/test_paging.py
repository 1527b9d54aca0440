"""Pages: sizes, and tokens that belong to one list."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onhand import paging
from onhand.domain.errors import InvalidRequest, PageTokenInvalid
from onhand.ids import new_id
from onhand.v1 import cart_pb2, catalog_pb2, inventory_pb2


@pytest.mark.parametrize(("asked", "given_size"), [(0, 50), (1, 1), (500, 500), (501, 500), (2**62, 500)])
def test_a_page_size_is_coerced_to_the_maximum(asked: int, given_size: int) -> None:
    assert paging.page_size(asked) == given_size


def test_a_negative_page_size_is_refused() -> None:
    with pytest.raises(InvalidRequest) as refused:
        paging.page_size(-1)
    assert refused.value.violations[0].field == "page_size"


def test_a_page_knows_its_last_row_only_if_there_is_a_further_page() -> None:
    assert paging.cut([1, 2, 3], 2) == ([1, 2], 2)
    assert paging.cut([1, 2], 2) == ([1, 2], None)
    assert paging.cut([], 2) == ([], None)


def test_without_a_token_a_list_begins_at_the_first_page() -> None:
    assert paging.decode_token(catalog_pb2.ListProductsRequest(), str) is None


@given(st.text(max_size=64), st.integers(), st.datetimes(timezones=st.just(UTC)), st.uuids())
def test_a_token_gives_back_its_key(text: str, number: int, moment: datetime, uuid: UUID) -> None:
    request = catalog_pb2.ListProductsRequest(department="GROCERY", page_size=10)
    token = paging.encode_token(request, text, number, moment, uuid)
    if len(token) > paging.TOKEN_LENGTH_MAX:
        return
    again = catalog_pb2.ListProductsRequest(department="GROCERY", page_size=20, page_token=token)
    assert paging.decode_token(again, str, int, datetime, UUID) == (text, number, moment, uuid)


def test_a_token_of_other_filters_is_refused() -> None:
    token = paging.encode_token(catalog_pb2.ListProductsRequest(department="GROCERY"), "sku")
    for other in (
        catalog_pb2.ListProductsRequest(page_token=token),
        catalog_pb2.ListProductsRequest(department="DRUG", page_token=token),
        catalog_pb2.ListProductsRequest(department="GROCERY", category="TEA", page_token=token),
        cart_pb2.ListCartsRequest(customer_id="GROCERY", page_token=token),
    ):
        with pytest.raises(PageTokenInvalid):
            paging.decode_token(other, str)


@pytest.mark.parametrize(
    "garbage",
    [
        "x",
        "!!!!",
        "A" * 5_000,
        "é",
        base64.urlsafe_b64encode(b"\xff\xfe\xfd").decode(),
        base64.urlsafe_b64encode(b'0000000000000000["a"]').decode(),
        base64.urlsafe_b64encode(b"[" * 700).decode(),
    ],
)
def test_a_token_that_is_garbage_is_refused(garbage: str) -> None:
    with pytest.raises(PageTokenInvalid):
        paging.decode_token(catalog_pb2.ListProductsRequest(page_token=garbage), str)


@given(st.data())
def test_a_token_in_which_one_character_was_changed_is_refused(data: st.DataObject) -> None:
    request = cart_pb2.ListCartsRequest(customer_id="c1")
    token = paging.encode_token(request, new_id())
    place = data.draw(st.integers(0, len(token) - 1))
    request.page_token = token[:place] + data.draw(st.sampled_from("AZaz09")) + token[place + 1 :]
    if base64.urlsafe_b64decode(request.page_token + "==") == base64.urlsafe_b64decode(token + "=="):
        return  # the same, or only bits that base64 does not use
    with pytest.raises(PageTokenInvalid):
        paging.decode_token(request, UUID)


def test_a_page_of_large_items_ends_before_it_is_too_large_but_never_empty() -> None:
    def group(size: int) -> inventory_pb2.LocationGroup:
        return inventory_pb2.LocationGroup(name="x" * size)

    half, whole = paging.PAGE_BYTES_MAX // 2 - 100, paging.PAGE_BYTES_MAX + 1
    assert paging.fill([half, half, half], 10, group) == ([group(half)] * 2, half)
    assert paging.fill([whole, 1], 10, group) == ([group(whole)], whole)
    assert paging.fill([1, 2], 10, group) == ([group(1), group(2)], None)
    assert paging.fill([1, 2, 3], 2, group) == ([group(1), group(2)], 2)
    assert paging.fill([], 2, group) == ([], None)
