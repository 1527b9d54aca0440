"""Refusals: every one of them is documented as it is given."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from onhand.domain.errors import Refusal
from onhand.edge.errors import CODES

API = Path(__file__).parents[2] / "docs" / "api.md"


def refusals(parent: type[Refusal] = Refusal) -> Iterator[type[Refusal]]:
    for child in parent.__subclasses__():
        if child.__module__.startswith("onhand."):  # tests have some of their own, perhaps in the same process
            yield child
            yield from refusals(child)


def test_every_reason_is_documented_with_its_code() -> None:
    given = {(refusal.reason, CODES[refusal.kind].name) for refusal in refusals()}
    documented = set(re.findall(r"^\| `([A-Z_]+)` \| ([A-Z_]+) \|", API.read_text(encoding="utf-8"), re.M))
    assert documented == given
