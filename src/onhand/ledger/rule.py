"""One rule of the ledger, and the words that rules share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """`query` returns the rows that break the statement, at least two columns each, the most telling first."""

    name: str
    statement: str
    query: str


def sql_list(words: Iterable[str]) -> str:
    """'A', 'B': a list of plain words for IN (...)."""
    return ", ".join(f"'{word}'" for word in sorted(words))
