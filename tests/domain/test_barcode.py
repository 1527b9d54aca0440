"""Barcodes: check digits, and the one form in which they are stored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onhand.domain.barcode import check_digit, normalize
from onhand.domain.errors import BarcodeInvalid

BODIES = st.sampled_from([7, 11, 12, 13]).flatmap(
    lambda length: st.text("0123456789", min_size=length, max_size=length)
)


@pytest.mark.parametrize(
    ("scanned", "stored"),
    [
        ("96385074", "00000096385074"),  # GTIN-8
        ("036000291452", "00036000291452"),  # UPC-A
        ("0036000291452", "00036000291452"),  # the same, read as EAN-13
        ("4006381333931", "04006381333931"),
        ("10614141000415", "10614141000415"),  # GTIN-14
    ],
)
def test_a_barcode_is_stored_as_fourteen_digits_however_it_was_scanned(scanned: str, stored: str) -> None:
    assert normalize(scanned) == stored


@pytest.mark.parametrize(
    "gtin",
    [
        "",
        "4006381333932",
        "400638133393",
        "123456789",
        "ABCDEFGH",
        "4006381333931 ",
        "٤٠٠٦٣٨١٣٣٣٩٣١",
        "104006381333931",
    ],
)
def test_what_is_no_gtin_is_refused(gtin: str) -> None:
    with pytest.raises(BarcodeInvalid) as refused:
        normalize(gtin, "gtins[2]")
    assert refused.value.reason == "BARCODE_INVALID"
    assert refused.value.metadata() == {"gtin": gtin, "field": "gtins[2]"}


@given(BODIES)
def test_every_number_has_one_check_digit_that_makes_it_a_gtin(body: str) -> None:
    good = [digit for digit in "0123456789" if _is_gtin(body + digit)]
    assert good == [str(check_digit(body))]


@given(BODIES, st.data())
def test_one_misread_digit_is_always_noticed(body: str, data: st.DataObject) -> None:
    gtin = body + str(check_digit(body))
    place = data.draw(st.integers(0, len(gtin) - 1))
    misread = data.draw(st.sampled_from("0123456789".replace(gtin[place], "")))
    assert not _is_gtin(gtin[:place] + misread + gtin[place + 1 :])


def _is_gtin(text: str) -> bool:
    try:
        return normalize(text) == text.zfill(14)
    except BarcodeInvalid:
        return False
