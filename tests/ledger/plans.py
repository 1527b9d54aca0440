"""Looking at the plans of the statements that the code itself runs, with the values that it runs them with."""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

import onhand
from onhand.postgres import BY_INDEX, asyncpg_dsn

LOOKS_MAX = 2
"""Executions of one statement that are looked at: its later ones have the same plans."""
MODES = ("force_custom_plan", "force_generic_plan")

PARAMETER_TYPES = "SELECT parameter_types::text[] FROM pg_prepared_statements WHERE name = 'look'"

_STATEMENT = re.compile(r"\b(SELECT|INSERT INTO|UPDATE|DELETE FROM)\b")
_PACKAGES = ("ledger", "reservations", "orders", "inventory", "payments", "returns", "sourcing")
_MODULES = ("carts", "catalog", "clock", "jobs")


@dataclass(frozen=True)
class Scan:
    """How a plan reads a table: `rows` were read in all, those that a filter removed too."""

    mode: str
    kind: str
    table: str
    index: str
    rows: float

    def __str__(self) -> str:
        by = f" by {self.index}" if self.index else ""
        return f"{self.kind} of {self.table}{by}: {self.rows:.0f} rows ({self.mode})"


@dataclass
class Plans:
    """What was run, and how PostgreSQL read for it."""

    scans: dict[str, list[Scan]] = field(default_factory=dict)
    looks: Counter[str] = field(default_factory=Counter)
    later: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    is_looking: bool = False

    async def look_later(self, dsn: str) -> None:
        """Explains what cursors were opened for."""
        connection: Any = await asyncpg.connect(asyncpg_dsn(dsn), connection_class=looking(self))
        try:
            self.is_looking = True
            for query, values in self.later:
                await self.look(connection, query, values, connection.raw)
        finally:
            self.is_looking = False
            await connection.close()

    async def look(self, connection: Any, query: str, values: Sequence[Any], raw: Callable[..., Any]) -> None:
        """Explains a statement by running it, and takes back what it did."""
        if not self.is_looking or not _STATEMENT.search(query) or self.looks[query] >= LOOKS_MAX:
            return
        self.looks[query] += 1
        is_within = connection.is_in_transaction()
        await raw(f"PREPARE look AS {query}")
        types = await connection.explained(PARAMETER_TYPES)
        given = [
            json.dumps(v) if t in ("json", "jsonb") and v is not None else v for v, t in zip(values, types, strict=True)
        ]
        called = f"look ({', '.join(map(literal, given))})" if given else "look"
        for mode in MODES:
            await raw("SAVEPOINT look" if is_within else "BEGIN")
            try:
                await raw(f"SET LOCAL plan_cache_mode = {mode}")
                await raw(
                    "SET LOCAL enable_seqscan = off"
                )  # it is cheap here, and not where tables are as large as they get
                found = await connection.explained(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) EXECUTE {called}")
            finally:
                await raw("ROLLBACK TO look" if is_within else "ROLLBACK")
            (plan,) = json.loads(found) if isinstance(found, str) else found
            self.scans.setdefault(query, []).extend(_scans(plan["Plan"], mode))
        await raw("DEALLOCATE look")


def looking(plans: Plans) -> type[asyncpg.Connection]:
    """Connections that look at every statement before they run it."""

    class Looking(asyncpg.Connection):  # type: ignore[type-arg]
        async def raw(self, statement: str) -> Any:
            return await super().execute(statement)

        async def explained(self, statement: str) -> Any:
            return await super().fetchval(statement)

        async def fetch(self, query: str, *values: Any, **more: Any) -> Any:
            await plans.look(self, query, values, self.raw)
            return await super().fetch(query, *values, **more)

        async def fetchrow(self, query: str, *values: Any, **more: Any) -> Any:
            await plans.look(self, query, values, self.raw)
            return await super().fetchrow(query, *values, **more)

        async def fetchval(self, query: str, *values: Any, **more: Any) -> Any:
            await plans.look(self, query, values, self.raw)
            return await super().fetchval(query, *values, **more)

        async def execute(self, query: str, *values: Any, **more: Any) -> Any:
            await plans.look(self, query, values, self.raw)
            return await super().execute(query, *values, **more)

        def cursor(self, query: str, *values: Any, **more: Any) -> Any:
            if plans.is_looking:
                plans.later.append((query, values))
            return super().cursor(query, *values, **more)

    return Looking


def literal(value: Any) -> str:
    """A value as SQL takes it, its type left to the statement."""
    return "NULL" if value is None else "'" + _text(value).replace("'", "''") + "'"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, (bytes, memoryview)):
        return "\\x" + bytes(value).hex()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "{" + ",".join(_element(each) for each in value) + "}"
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return f"{value.total_seconds()} seconds"
    assert isinstance(value, (str, int, float, UUID)), value
    return str(value)


def _element(value: Any) -> str:
    if value is None:
        return "NULL"
    return '"' + _text(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _scans(node: Mapping[str, Any], mode: str) -> Iterator[Scan]:
    table = node.get("Relation Name")
    if table and node["Node Type"].endswith("Scan"):
        removed = sum(node.get(f"Rows Removed by {why}", 0) for why in ("Filter", "Index Recheck"))
        read = (node["Actual Rows"] + removed) * node["Actual Loops"]
        index = node.get("Index Name") or next(
            (p["Index Name"] for p in node.get("Plans", ()) if "Index Name" in p), ""
        )
        yield Scan(mode, node["Node Type"], table, index, read)
    for part in node.get("Plans", ()):
        yield from _scans(part, mode)


async def empty_plans(dsn: str, queries: Iterable[str]) -> dict[str, list[str]]:
    """The tables that each statement reads to their end, by the plans that a server makes in this database."""
    connection = await asyncpg.connect(asyncpg_dsn(dsn), server_settings=BY_INDEX)
    try:
        found = {}
        for query in queries:
            await connection.execute(f"PREPARE look AS {query}")
            values = ", ".join("NULL" for _ in await connection.fetchval(PARAMETER_TYPES))
            called = f"look ({values})" if values else "look"
            (plan,) = json.loads(await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE {called}"))
            await connection.execute("DEALLOCATE look")
            found[query] = [*_read_whole(plan["Plan"])]
        return found
    finally:
        await connection.close()


def _read_whole(node: Mapping[str, Any], is_page: bool = False) -> Iterator[str]:
    is_page = is_page or node["Node Type"] == "Limit"
    kind, table = node["Node Type"], node.get("Relation Name") or node.get("Index Name")
    if table and kind.endswith("Scan") and kind != "Bitmap Heap Scan" and "Index Cond" not in node and not is_page:
        yield table
    for part in node.get("Plans", ()):
        yield from _read_whole(part, is_page)


# ----------------------------------------------------------------------------------------------------- what there is
def constants() -> dict[str, str]:
    """Every SQL text that a module of the server holds under a name, as `module:NAME`; parts of statements too."""
    found: dict[str, str] = {}
    root = Path(onhand.__file__).parent
    files = [path for package in _PACKAGES for path in sorted((root / package).glob("*.py"))]
    for path in [*files, *(root / f"{name}.py" for name in _MODULES)]:
        name = path.relative_to(root).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        if name.endswith("_rules"):
            continue  # of `onhand verify`, which reads all there is
        module = importlib.import_module(f"onhand.{name}")
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                value = vars(module)[node.targets[0].id]
                if isinstance(value, str) and _STATEMENT.search(value):
                    found[f"{name}:{node.targets[0].id}"] = value
    return found


def is_part(text: str, query: str) -> bool:
    """Whether a text that a module holds is in a statement; what stands for names in it may be anything."""
    literal_parts = re.split(r"\{+\w+\}+", text.strip())
    return re.search(".+?".join(map(re.escape, literal_parts)), query, re.DOTALL) is not None
