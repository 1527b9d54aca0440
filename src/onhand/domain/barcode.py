"""GTIN barcodes, by the GS1 General Specifications (sections 3.2 and 7.9)."""

from __future__ import annotations

import re

from onhand.domain.errors import BarcodeInvalid

GTIN_LENGTH = 14
# GTIN-8, UPC-A, EAN-13, GTIN-14.
_FORMS = re.compile(r"[0-9]{8}|[0-9]{12,14}", re.ASCII)


def check_digit(digits: str) -> int:
    """The digit that completes a GTIN: weights 3, 1, 3... from the right bring the sum to a multiple of ten."""
    weighted = (int(digit) * (1 if place % 2 else 3) for place, digit in enumerate(reversed(digits)))
    return -sum(weighted) % 10


def normalize(gtin: str, field: str = "gtin") -> str:
    """A GTIN as it is stored: 14 digits, zeros before a shorter one, for scanners differ in how many they give.

    Raises `BarcodeInvalid`.
    """
    if not _FORMS.fullmatch(gtin) or int(gtin[-1]) != check_digit(gtin[:-1]):
        raise BarcodeInvalid(gtin, field)
    return gtin.zfill(GTIN_LENGTH)
