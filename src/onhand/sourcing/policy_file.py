"""Sourcing policies as files: TOML, read into a `Policy`, or refused with what is wrong and what is allowed."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from onhand.domain.order import FulfillmentKind
from onhand.domain.sourcing import Costs, Objective, Policy, Rule, Split
from onhand.domain.sourcing.hours import DAYS_MAX
from onhand.domain.sourcing.parts import UNKNOWN_METRES
from onhand.domain.sourcing.policy import PARCELS_MAX
from onhand.domain.stock import MAX_QUANTITY
from onhand.settings import Unusable

VARIABLE = "ONHAND_SOURCING_POLICY"
"""Names the file that a server and `onhand source` go by; onhand's own policy if it is not set."""
RULES_MAX = 50
MINUTES_MAX = DAYS_MAX * 24 * 60
MINOR_MAX = 1_000_000_000
METHODS = ("PICKUP", "SHIP")
KINDS = ("STORE", "WAREHOUSE", "VIRTUAL")


class PolicyFileError(Unusable):
    """A policy that cannot be used: where, what, and what is allowed there."""


@dataclass(frozen=True)
class _Place:
    """Where in a file something stands."""

    file: str
    table: str = ""

    def refuse(self, key: str, value: object, allowed: str) -> PolicyFileError:
        """The error of one value."""
        where = f"{self.table}: {key}" if self.table else key
        return PolicyFileError(f"{self.file}: {where} = {value!r} is not allowed: {allowed}")


Read = Callable[[_Place, str, Any], Any]


def _text(place: _Place, key: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > 100:
        raise place.refuse(key, value, "a text of 1 to 100 characters")
    return value


def _texts(place: _Place, key: str, value: Any) -> frozenset[str]:
    if not isinstance(value, list) or not value or not all(isinstance(each, str) and each for each in value):
        raise place.refuse(key, value, "a list of one text or more")
    return frozenset(value)


def _flag(place: _Place, key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise place.refuse(key, value, "true or false")
    return value


def _number(least: int, most: int) -> Read:
    def read(place: _Place, key: str, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise place.refuse(key, value, f"a whole number from {least} to {most}")
        return value

    return read


def _one_of(type_: type[Enum]) -> Read:
    names = [str(each.value) for each in type_]

    def read(place: _Place, key: str, value: Any) -> Enum:
        if value not in names:
            raise place.refuse(key, value, f"one of {', '.join(names)}")
        return type_(value)

    return read


def _names(names: tuple[str, ...]) -> Read:
    def read(place: _Place, key: str, value: Any) -> list[str]:
        if not isinstance(value, list) or not value or not all(each in names for each in value):
            raise place.refuse(key, value, f"a list of one or more of {', '.join(names)}")
        if len(set(value)) < len(value):
            raise place.refuse(key, value, "each of them once")
        return list(value)

    return read


_objective_names = _names(tuple(each.value for each in Objective))


def _objectives(place: _Place, key: str, value: Any) -> tuple[Objective, ...]:
    return tuple(Objective(each) for each in _objective_names(place, key, value))


def _methods(place: _Place, key: str, value: Any) -> frozenset[FulfillmentKind]:
    return frozenset(FulfillmentKind(each) for each in _names(METHODS)(place, key, value))


def _kinds(place: _Place, key: str, value: Any) -> frozenset[str]:
    return frozenset(_names(KINDS)(place, key, value))


RULE: Mapping[str, tuple[str, Read]] = {
    "name": ("name", _text),
    "methods": ("methods", _methods),
    "kinds": ("kinds", _kinds),
    "groups": ("groups", _texts),
    "not_groups": ("not_groups", _texts),
    "brands": ("brands", _texts),
    "not_brands": ("not_brands", _texts),
    "distance_metres_max": ("distance_metres_max", _number(0, UNKNOWN_METRES)),
    "orders_left_min": ("orders_left_min", _number(1, MAX_QUANTITY)),
    "units_left_min": ("units_left_min", _number(1, MAX_QUANTITY)),
    "opens_within_minutes": ("opens_within_minutes", _number(0, MINUTES_MAX)),
    "before_cut_off": ("is_before_cut_off", _flag),
    "ready_within_minutes": ("ready_within_minutes", _number(1, MINUTES_MAX)),
    "safety_stock": ("safety_stock", _number(0, MAX_QUANTITY)),
    "objectives": ("objectives", _objectives),
    "split": ("split", _one_of(Split)),
    "parcels_max": ("parcels_max", _number(1, PARCELS_MAX)),
    "partial": ("is_partial", _flag),
}
"""Keys of a rule: the field of `Rule` that each fills, and how it is read."""
COSTS: Mapping[str, Read] = dict.fromkeys(
    ("parcel_minor", "unit_minor", "kilogram_minor", "kilometre_minor"), _number(0, MINOR_MAX)
)
TOP = ("name", "parcels_max", "costs", "rules")


def load_policy(path: Path | None = None) -> Policy:
    """The policy of a file, or onhand's own. Raises PolicyFileError."""
    if path is None:
        return _standard()
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PolicyFileError(f"{path}: is no UTF-8 text ({error.reason} at byte {error.start})") from error
    except OSError as error:
        raise PolicyFileError(f"{path}: cannot be read: {error.strerror}") from error
    return parse_policy(text, str(path))


@cache
def _standard() -> Policy:
    return parse_policy(files(__package__).joinpath("standard.toml").read_text(encoding="utf-8"), "standard.toml")


def parse_policy(text: str, file: str) -> Policy:
    """The policy in a text; `file`: what errors call it."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyFileError(f"{file}: is no TOML: {error}") from error
    top = _Place(file)
    _known(top, content, TOP)
    rules = content.get("rules")
    if not isinstance(rules, list) or not 1 <= len(rules) <= RULES_MAX or not all(isinstance(r, dict) for r in rules):
        raise top.refuse("rules", rules, f"1 to {RULES_MAX} tables [[rules]]")
    read: dict[str, Rule] = {}
    for n, table in enumerate(rules, 1):
        rule = _rule(_Place(file, f"[[rules]] {n}"), table)
        if rule.name in read:
            raise _Place(file, f"[[rules]] {n}").refuse("name", rule.name, "a name that no other rule has")
        read[rule.name] = rule
    return Policy(
        name=_text(top, "name", content.get("name")),
        rules=tuple(read.values()),
        parcels_max=_number(1, PARCELS_MAX)(top, "parcels_max", content.get("parcels_max", PARCELS_MAX)),
        costs=_costs(top, content.get("costs", {})),
    )


def _rule(place: _Place, table: dict[str, Any]) -> Rule:
    name = _text(place, "name", table.get("name"))
    place = _Place(place.file, f'{place.table} "{name}"')
    _known(place, table, RULE)
    fields = {field: read(place, key, table[key]) for key, (field, read) in RULE.items() if key in table}
    for yes, no in (("groups", "not_groups"), ("brands", "not_brands")):
        if both := fields.get(yes, frozenset()) & fields.get(no, frozenset()):
            raise place.refuse(no, sorted(both), f"what {yes} does not name")
    if fields.get("split") is Split.NONE and fields.get("parcels_max", 1) > 1:
        raise place.refuse("parcels_max", fields["parcels_max"], '1, or left out, where split is "none"')
    return Rule(**fields)


def _costs(top: _Place, tables: Any) -> dict[str, Costs]:
    if not isinstance(tables, dict):
        raise top.refuse("costs", tables, f"tables [costs.KIND], of {', '.join(KINDS)}")
    costs = {}
    for kind, table in tables.items():
        place = _Place(top.file, f"[costs.{kind}]")
        if kind not in KINDS:
            raise top.refuse("costs", kind, f"one of {', '.join(KINDS)}")
        if not isinstance(table, dict):
            raise top.refuse(f"costs.{kind}", table, "a table")
        _known(place, table, COSTS)
        costs[kind] = Costs(**{key: COSTS[key](place, key, value) for key, value in table.items()})
    return costs


def _known(place: _Place, table: Mapping[str, Any], keys: Mapping[str, Any] | tuple[str, ...]) -> None:
    for key, value in table.items():
        if key not in keys:
            near = difflib.get_close_matches(key, keys, 1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise place.refuse(key, value, f"{meant}there is no such key; there are {', '.join(keys)}")
