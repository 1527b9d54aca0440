"""Policies of returns as files: TOML, read into a `ReturnPolicy`, or refused with what is wrong and what is allowed."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from onhand.domain.returns import BlindPolicy, ReturnPolicy, SignalPolicy
from onhand.settings import Unusable

VARIABLE = "ONHAND_RETURN_POLICY"
"""Names the file that a server goes by; onhand's own policy if it is not set."""
DAYS_MAX = 36_500
COUNT_MAX = 1_000_000_000
REFUNDS = ("STORE_CREDIT", "CASH")


class ReturnPolicyError(Unusable):
    """A policy that cannot be used: where, what, and what is allowed there."""


Read = Callable[[Any], Any]
"""Returns what a value stands for. Raises ValueError, which says what is allowed."""


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > 100:
        raise ValueError("a text of 1 to 100 characters")
    return value


def _number(least: int, most: int) -> Read:
    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"a whole number from {least} to {most}")
        return value

    return read


def _texts(value: Any) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        raise ValueError("a list of texts")
    return frozenset(value)


def _refunds(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or any(each not in REFUNDS for each in value):
        raise ValueError(f"a list of one or more of {', '.join(REFUNDS)}")
    return tuple(value)


def _by_department(value: Any) -> Mapping[str, int]:
    if not isinstance(value, dict):
        raise ValueError("a table of departments and their days")
    return {department: _number(0, DAYS_MAX)(days) for department, days in value.items()}


_days = _number(0, DAYS_MAX)
_count = _number(0, COUNT_MAX)
BLIND: Mapping[str, Read] = {
    "returns_per_day_max": _count,
    "amount_minor_max": _count,
    "amount_per_day_minor_max": _count,
    "price_days": _days,
    "refunds": _refunds,
}
SIGNALS: Mapping[str, Read] = {
    "days": _number(1, DAYS_MAX),
    "returns_max": _count,
    "receiptless_percent_max": _number(0, 100),
    "receiptless_returns_min": _number(1, COUNT_MAX),
}
FINAL_SALE: Mapping[str, Read] = {"skus": _texts, "departments": _texts}
TOP: Mapping[str, Read] = {
    "name": _text,
    "window_days": _days,
    "authorization_days": _number(1, DAYS_MAX),
    "department_window_days": _by_department,
}
TABLES: Mapping[str, Mapping[str, Read]] = {"final_sale": FINAL_SALE, "blind": BLIND, "signals": SIGNALS}


def policy_of(environment: Mapping[str, str] = os.environ) -> ReturnPolicy:
    """The policy of the file that the environment names, or onhand's own. Raises ReturnPolicyError."""
    path = environment.get(VARIABLE)
    return load_policy(Path(path) if path else None)


def load_policy(path: Path | None = None) -> ReturnPolicy:
    """The policy of a file, or onhand's own. Raises ReturnPolicyError."""
    if path is None:
        return _standard()
    try:
        return parse_policy(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ReturnPolicyError(f"{path}: is no UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise ReturnPolicyError(f"{path}: cannot be read: {error.strerror}") from error


@cache
def _standard() -> ReturnPolicy:
    return parse_policy(files(__package__).joinpath("standard.toml").read_text(encoding="utf-8"), "standard.toml")


def parse_policy(text: str, file: str) -> ReturnPolicy:
    """The policy in a text; `file`: what errors call it."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ReturnPolicyError(f"{file}: is no TOML: {error}") from error
    read = _read(file, "", {key: value for key, value in content.items() if key not in TABLES}, TOP)
    tables = {name: _read(file, name, _table(file, name, content.get(name, {})), keys) for name, keys in TABLES.items()}
    standard = ReturnPolicy()
    return ReturnPolicy(
        name=read.get("name", standard.name),
        window_days=read.get("window_days"),
        department_window_days=read.get("department_window_days", {}),
        final_sale_skus=tables["final_sale"].get("skus", frozenset()),
        final_sale_departments=tables["final_sale"].get("departments", frozenset()),
        authorization_days=read.get("authorization_days", standard.authorization_days),
        blind=BlindPolicy(**tables["blind"]),
        signals=SignalPolicy(**tables["signals"]),
    )


def _table(file: str, name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ReturnPolicyError(f"{file}: {name} = {value!r} is not allowed: a table [{name}]")
    return value


def _read(file: str, table: str, content: Mapping[str, Any], keys: Mapping[str, Read]) -> dict[str, Any]:
    where = f"{file}: [{table}] " if table else f"{file}: "
    read = {}
    for key, value in content.items():
        if key not in keys:
            raise ReturnPolicyError(f"{where}{key} is not known: {', '.join((*keys, *(() if table else TABLES)))}")
        try:
            read[key] = keys[key](value)
        except ValueError as error:
            raise ReturnPolicyError(f"{where}{key} = {value!r} is not allowed: {error}") from error
    return read
