"""A retailer's own folder of CSV files: locations, products, barcodes, prices, stock. Errors by file and line.

UTF-8, a comma, double quotes, a header line. Columns may stand in any order; a column that is not known is refused,
since a misspelt one would be lost silently. Any of the files may be absent. docs/real-data.md lists the columns.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from onhand.domain import barcode, money
from onhand.domain.errors import Refusal
from onhand.feeds.records import (
    BarcodeRow,
    Feed,
    FeedError,
    GroupRow,
    LocationRow,
    OpeningHours,
    PriceRow,
    ProductRow,
    Progress,
    StockRow,
    no_progress,
)

# Reading goes on after an error, to show them together, up to this many.
ERRORS_MAX = 20
QUANTITY_MAX = 1_000_000_000
# As Location of the API has them.
LEAD_MINUTES_MAX, DAILY_ORDERS_MAX = 43_200, 1_000_000

_LOCATION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SKU = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_DAYS = ("Mo", "Tu", "We", "Th", "Fr", "Sa", "Su")
_HOURS = re.compile(r"(Mo|Tu|We|Th|Fr|Sa|Su)(?:-(Mo|Tu|We|Th|Fr|Sa|Su))? ([0-9]{2}):([0-9]{2})-([0-9]{2}):([0-9]{2})")
_KINDS = ("STORE", "WAREHOUSE", "VIRTUAL")
_BASE_UNITS = ("EACH", "GRAM", "MILLILITER")


class _Bad(Exception):
    """A value that cannot be meant; the message says what is expected."""


class _Column(NamedTuple):
    """How a column is read. Without a default it must be there, and must not be empty."""

    parse: Callable[[str], Any]
    default: Any = None
    is_required: bool = False


class _Table(NamedTuple):
    """A file: its columns, and the columns that no two rows may agree in."""

    columns: dict[str, _Column]
    key: tuple[str, ...]


def _text(max_length: int) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if len(value) > max_length:
            raise _Bad(f"has {len(value)} characters, {max_length} are allowed")
        if not value.isprintable():
            raise _Bad("has characters that cannot be printed")
        return value

    return parse


def _form(pattern: re.Pattern[str], what: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if pattern.fullmatch(value) is None:
            raise _Bad(f"is not {what}")
        return value

    return parse


def _one_of(*values: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in values:
            raise _Bad(f"is not one of {', '.join(values)}")
        return value

    return parse


def _number(low: float, high: float) -> Callable[[str], float]:
    def parse(value: str) -> float:
        if re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", value) is None or not low <= float(value) <= high:
            raise _Bad(f"is not a number from {low:g} to {high:g}")
        return float(value)

    return parse


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        if re.fullmatch(r"[0-9]{1,18}", value) is None or not low <= int(value) <= high:
            raise _Bad(f"is not a whole number from {low:,} to {high:,}")
        return int(value)

    return parse


def _boolean(value: str) -> bool:
    return _one_of("true", "false")(value) == "true"


def _time_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError) as error:
        raise _Bad("is not an IANA time zone, as in America/New_York") from error
    return value


def _opening_hours(value: str) -> tuple[OpeningHours, ...]:
    hours = []
    for part in filter(None, (each.strip() for each in value.split(";"))):
        match = _HOURS.fullmatch(part)
        if match is None:
            raise _Bad("is not opening hours, as in Mo-Fr 08:00-20:00; Sa 09:00-18:00")
        first, last = _DAYS.index(match[1]), _DAYS.index(match[2] or match[1])
        opens, closes = int(match[3]) * 60 + int(match[4]), int(match[5]) * 60 + int(match[6])
        if last < first or int(match[4]) > 59 or int(match[6]) > 59 or not opens < closes <= 1440:
            raise _Bad(f"has {part!r}, which ends before it begins, or is no time of day")
        hours += [OpeningHours(day + 1, opens, closes) for day in range(first, last + 1)]
    return tuple(hours)


def _time_of_day(value: str) -> int:
    match = re.fullmatch(r"([0-9]{2}):([0-9]{2})", value)
    if match is None or int(match[1]) > 23 or int(match[2]) > 59:
        raise _Bad("is not a time of day, as in 16:30")
    return int(match[1]) * 60 + int(match[2])


def _group_ids(value: str) -> tuple[str, ...]:
    parse = _form(_LOCATION_ID, "a list of location group ids with ; between them")
    return tuple(dict.fromkeys(parse(each.strip()) for each in value.split(";") if each.strip()))


def _gtin(value: str) -> str:
    try:
        return barcode.normalize(value)
    except Refusal as error:
        raise _Bad("is not a GTIN of 8, 12, 13 or 14 digits with their check digit") from error


def _currency(value: str) -> str:
    try:
        money.exponent(value)
    except Refusal as error:
        raise _Bad("is not an ISO 4217 currency code, as in USD") from error
    return value


def _amount(value: str) -> Decimal:
    try:
        amount = Decimal(value)
    except InvalidOperation:
        amount = Decimal(-1)
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value) is None or amount < 0:
        raise _Bad("is not an amount of money, as in 2.49")
    return amount


_ID = _Column(
    _form(_LOCATION_ID, "a location_id: 1 to 64 of A-Z a-z 0-9 . _ -, first a letter or digit"), is_required=True
)
_SKU_COLUMN = _Column(_form(_SKU, "a sku: 1 to 64 of A-Z a-z 0-9 . _ : -, first a letter or digit"), is_required=True)
_TABLES = {
    "locations": _Table(
        {
            "location_id": _ID,
            "kind": _Column(_one_of(*_KINDS), is_required=True),
            "name": _Column(_text(256), is_required=True),
            "latitude": _Column(_number(-90, 90)),
            "longitude": _Column(_number(-180, 180)),
            "time_zone": _Column(_time_zone, "UTC"),
            "opening_hours": _Column(_opening_hours, ()),
            "offers_pickup": _Column(_boolean),
            "offers_shipping": _Column(_boolean, True),
            "lead_minutes": _Column(_integer(0, LEAD_MINUTES_MAX)),
            "cut_off": _Column(_time_of_day),
            "daily_orders_max": _Column(_integer(0, DAILY_ORDERS_MAX)),
            "daily_units_max": _Column(_integer(0, QUANTITY_MAX)),
            "groups": _Column(_group_ids, ()),
        },
        key=("location_id",),
    ),
    "products": _Table(
        {
            "sku": _SKU_COLUMN,
            "name": _Column(_text(256), is_required=True),
            "brand": _Column(_text(128), ""),
            "department": _Column(_text(128), ""),
            "category": _Column(_text(128), ""),
            "product_type": _Column(_text(128), ""),
            "package_size": _Column(_text(64), ""),
            "base_unit": _Column(_one_of(*_BASE_UNITS), "EACH"),
        },
        key=("sku",),
    ),
    "barcodes": _Table({"gtin": _Column(_gtin, is_required=True), "sku": _SKU_COLUMN}, key=("gtin",)),
    "prices": _Table(
        {
            "sku": _SKU_COLUMN,
            "currency": _Column(_currency, is_required=True),
            "amount": _Column(_amount, is_required=True),
            "price_quantity": _Column(_integer(1, QUANTITY_MAX), 1),
        },
        key=("sku", "currency"),
    ),
    "stock": _Table(
        {"location_id": _ID, "sku": _SKU_COLUMN, "quantity": _Column(_integer(0, QUANTITY_MAX), is_required=True)},
        key=("location_id", "sku"),
    ),
}


class _Errors:
    """What is wrong, in order, up to a bound."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def add(self, where: str, message: str) -> None:
        self.messages.append(f"{where}: {message}")
        if len(self.messages) == ERRORS_MAX:
            self.messages.append(f"there may be more: reading stopped at {ERRORS_MAX} errors")
            self.raise_any()

    def raise_any(self) -> None:
        if self.messages:
            raise FeedError("\n".join(self.messages))


class _Rows(NamedTuple):
    """A file's rows, and the line that each begins at."""

    rows: list[dict[str, Any]]
    lines: list[int]


def read_folder(folder: Path, progress: Progress = no_progress) -> Feed:
    """Reads every file of the folder. Raises `FeedError` that names file and line of all errors, or of the first 20."""
    if not folder.is_dir():
        raise FeedError(f"{folder} is not a folder; give one with {_file_names()}, or the word completejourney")
    found = {path.stem: path for path in sorted(folder.glob("*.csv"))}
    for name, path in found.items():
        if name not in _TABLES:
            raise FeedError(f"{path.name}: not a file of an import, which are {_file_names()}; move or rename it")
    if not found:
        raise FeedError(f"{folder} has none of {_file_names()}")
    errors = _Errors()
    tables: dict[str, _Rows] = {}
    for index, name in enumerate(_TABLES):
        progress("reading", index, len(_TABLES))
        tables[name] = _read_table(found[name], _TABLES[name], errors) if name in found else _Rows([], [])
    feed = _to_feed(folder, tables, errors)
    errors.raise_any()
    progress("reading", len(_TABLES), len(_TABLES))
    return feed


def _to_feed(folder: Path, tables: dict[str, _Rows], errors: _Errors) -> Feed:
    def where(table: str, index: int) -> str:
        # Groups come from a column of locations.csv and cannot be wrong by themselves.
        return f"{table}.csv:{tables[table].lines[index]}"

    locations: list[LocationRow] = []
    groups: dict[str, list[str]] = {}
    for index, row in enumerate(tables["locations"].rows):
        if (row["latitude"] is None) != (row["longitude"] is None):
            errors.add(where("locations", index), "latitude and longitude go together: give both or neither")
        pickup = row["kind"] == "STORE" if row["offers_pickup"] is None else row["offers_pickup"]
        row = {**row, "offers_pickup": pickup, "cut_off_minute": row["cut_off"]}
        locations.append(LocationRow(*(row[name] for name in LocationRow._fields)))
        for group in row["groups"]:
            groups.setdefault(group, []).append(row["location_id"])
    prices = []
    for index, row in enumerate(tables["prices"].rows):
        minor = row["amount"] * 10 ** money.exponent(row["currency"])
        if minor != int(minor):
            errors.add(
                where("prices", index),
                f"amount {row['amount']} has a fraction of the smallest unit of {row['currency']}",
            )
        elif minor > money.AMOUNT_MINOR_MAX:
            errors.add(where("prices", index), f"amount {row['amount']} is more than any price can be")
        else:
            prices.append(PriceRow(row["sku"], row["currency"], int(minor), row["price_quantity"]))
    return Feed(
        source=str(folder),
        locations=locations,
        groups=[GroupRow(group, group, tuple(ids)) for group, ids in groups.items()],
        products=[ProductRow(**row) for row in tables["products"].rows],
        barcodes=[BarcodeRow(**row) for row in tables["barcodes"].rows],
        prices=prices,
        stock=[StockRow(**row) for row in tables["stock"].rows],
        where=where,
        findings={"read": {name: len(table.rows) for name, table in tables.items()}},
    )


def _read_table(path: Path, table: _Table, errors: _Errors) -> _Rows:
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    seen: dict[tuple[Any, ...], int] = {}
    # A byte order mark, as spreadsheets write it, is no part of the first column's name.
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        line = 1
        try:
            header = next(reader, [])
            if not _is_header_right(path, header, table, errors):
                return _Rows([], [])
            line = reader.line_num + 1
            for fields in reader:
                where, begins_at, line = f"{path.name}:{line}", line, reader.line_num + 1
                row = _read_row(where, header, fields, table, errors) if fields else None
                if row is None:
                    continue
                key = tuple(row[name] for name in table.key)
                if key in seen:
                    errors.add(where, f"{' and '.join(table.key)} {'/'.join(key)} are in line {seen[key]} already")
                    continue
                seen[key] = begins_at
                rows.append(row)
                lines.append(begins_at)
        except UnicodeDecodeError as error:
            errors.add(
                f"{path.name}:{line}",
                f"is not UTF-8 from here or a little further on ({error.reason}); save it as UTF-8",
            )
        except csv.Error as error:
            errors.add(f"{path.name}:{line}", f"is not CSV: {error}")
    return _Rows(rows, lines)


def _is_header_right(path: Path, header: list[str], table: _Table, errors: _Errors) -> bool:
    known = list(table.columns)
    unknown = [name for name in header if name not in known]
    missing = [name for name, column in table.columns.items() if column.is_required and name not in header]
    if unknown:
        errors.add(f"{path.name}:1", f"column {unknown[0]!r} is not known; known are {', '.join(known)}")
    elif len(set(header)) != len(header):
        errors.add(f"{path.name}:1", "a column is there twice")
    elif missing:
        errors.add(f"{path.name}:1", f"column {missing[0]!r} is missing")
    else:
        return True
    return False


def _read_row(
    where: str, header: list[str], fields: list[str], table: _Table, errors: _Errors
) -> dict[str, Any] | None:
    if len(fields) != len(header):
        errors.add(where, f"has {len(fields)} fields, the header has {len(header)}")
        return None
    given = dict(zip(header, (field.strip() for field in fields), strict=True))
    row: dict[str, Any] = {}
    for name, column in table.columns.items():
        value = given.get(name, "")
        if value == "":
            if column.is_required:
                errors.add(where, f"{name} is empty")
                return None
            row[name] = column.default
            continue
        try:
            row[name] = column.parse(value)
        except _Bad as bad:
            errors.add(where, f"{name} {value[:80]!r} {bad}")
            return None
    return row


def _file_names() -> str:
    return ", ".join(f"{name}.csv" for name in _TABLES)
