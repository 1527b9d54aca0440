"""Write a feed into the ledger: one transaction, everything or nothing.

Catalogue rows (locations, groups, products, barcodes, prices) are brought to what the feed says, so that they can be
loaded again and again. Opening stock is a fact that happens once: movements supplier -> available, refused over a
position that has movements already. A server may be running: its gate must not be trusted where stock came in without a
gate delta, so the epoch of every location touched is raised in the same transaction, and the gate loads those anew.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import asyncpg

from onhand.feeds.records import Feed, FeedError, Progress

OPENING_STOCK = "OPENING_STOCK"
COPY_ROWS = 10_000
# How many rows at fault an error message shows.
ERRORS_SHOWN = 5

# Any constant will do; two imports at once take turns, so that neither meets the other's half.
_LOCK_IMPORTS = "SELECT pg_advisory_xact_lock(7306349016)"

_STAGES = {
    "locations": (
        "location_id text, kind text, name text, latitude float8, longitude float8, time_zone text, "
        "opening_hours text, offers_pickup boolean, offers_shipping boolean, "
        "lead_minutes bigint, cut_off_minute bigint, daily_orders_max bigint, daily_units_max bigint"
    ),
    "groups": "location_group_id text, name text",
    "members": "location_group_id text, location_id text",
    "products": (
        "sku text, name text, brand text, department text, category text, product_type text, package_size text, "
        "base_unit text"
    ),
    "barcodes": "gtin text, sku text",
    "prices": "sku text, currency text, amount_minor bigint, price_quantity bigint",
    "stock": "location_id text, sku text, quantity bigint",
}

# Each answers one row: how many were new, how many were changed. What is as the feed says is not touched.
_UPSERT = """
WITH done AS (
    INSERT INTO {table} AS old ({columns}) SELECT {values} FROM stage_{stage} ORDER BY {key}
    ON CONFLICT ({key}) DO UPDATE SET ({assigned}{stamps}) = ROW ({excluded}{stamped})
    WHERE ({old}) IS DISTINCT FROM ({excluded})
    RETURNING (xmax = 0) AS is_new
) SELECT count(*) FILTER (WHERE is_new) AS added, count(*) FILTER (WHERE NOT is_new) AS changed FROM done
"""
_WORK = ("lead_minutes", "cut_off_minute", "daily_orders_max", "daily_units_max")
# What a feed does not say of a location's work stays as it is.
_KEEP_WORK = f"""
UPDATE stage_locations s SET {
    ", ".join(
        f"{name} = coalesce(s.{name}, (SELECT l.{name} FROM locations l WHERE l.location_id = s.location_id), 0)"
        for name in _WORK
    )
}"""
# A feed says a group's members whole: what it leaves out, leaves the group.
_SHRINKING_GROUPS = """
SELECT location_group_id, had, has FROM
    (SELECT location_group_id, count(*) AS had FROM location_group_members GROUP BY 1) old
    JOIN (SELECT location_group_id, count(location_id) AS has
            FROM stage_groups LEFT JOIN stage_members USING (location_group_id) GROUP BY 1) new USING (location_group_id)
WHERE has < had ORDER BY 1
"""
_SET_GROUPS = """
WITH gone AS (
    DELETE FROM location_group_members m USING stage_groups g
    WHERE m.location_group_id = g.location_group_id AND NOT EXISTS (
        SELECT FROM stage_members s WHERE (s.location_group_id, s.location_id) = (m.location_group_id, m.location_id))
)
INSERT INTO location_group_members (location_group_id, location_id)
SELECT location_group_id, location_id FROM stage_members ON CONFLICT DO NOTHING
"""

# After the prices: who set one meanwhile was waited for.
_PRICE_CHANGES = """
INSERT INTO price_changes (sku, currency, amount_minor, price_quantity)
SELECT p.sku, p.currency, p.amount_minor, p.price_quantity FROM stage_prices s JOIN prices p USING (sku, currency)
  LEFT JOIN LATERAL (SELECT amount_minor, price_quantity FROM price_changes
                      WHERE sku = s.sku AND currency = s.currency ORDER BY change_number DESC LIMIT 1) c ON true
 WHERE (c.amount_minor, c.price_quantity) IS DISTINCT FROM (p.amount_minor, p.price_quantity) ORDER BY s.row_number
"""
# Locked, so that nobody deletes a location while stock comes in. A deleted one keeps its row: its id is not used again.
_DELETED_LOCATIONS = """
SELECT s.row_number, s.location_id FROM stage_locations s
JOIN (SELECT location_id, deleted_time FROM locations FOR SHARE) l USING (location_id)
WHERE l.deleted_time IS NOT NULL ORDER BY s.row_number
"""
_UNKNOWN_SKUS = """
SELECT row_number, sku FROM stage_{stage} s
WHERE NOT EXISTS (SELECT FROM products p WHERE p.sku = s.sku) ORDER BY row_number
"""
_UNKNOWN_LOCATIONS = """
SELECT row_number, location_id FROM stage_{stage} s
WHERE NOT EXISTS (SELECT FROM locations l WHERE l.location_id = s.location_id AND l.deleted_time IS NULL)
ORDER BY row_number
"""
_BASE_UNIT_CHANGED = """
SELECT s.row_number, s.sku FROM stage_products s JOIN products p USING (sku)
WHERE p.base_unit <> s.base_unit AND EXISTS (SELECT FROM stock_levels l WHERE l.sku = s.sku) ORDER BY s.row_number
"""
_STOCKED_ALREADY = """
SELECT s.row_number, s.location_id, s.sku FROM stage_stock s
WHERE EXISTS (SELECT FROM stock_movements m WHERE (m.location_id, m.sku) = (s.location_id, s.sku)) ORDER BY s.row_number
"""

# Every location has these two rows, for as long as there is a ledger.
_NEW_EPOCHS = """
INSERT INTO location_epochs (location_id) SELECT location_id FROM stage_locations ORDER BY 1 ON CONFLICT DO NOTHING
"""
_NEW_DELTA_HEADS = """
INSERT INTO location_delta_heads (location_id) SELECT location_id FROM stage_locations ORDER BY 1 ON CONFLICT DO NOTHING
"""
# Locks the rows: from here to the commit no claim and no increase at these locations gets an epoch.
_RAISE_EPOCHS = """
INSERT INTO location_epochs AS old (location_id) SELECT DISTINCT location_id FROM stage_stock ORDER BY 1
ON CONFLICT (location_id) DO UPDATE SET epoch = old.epoch + 1
"""
_LEVELS = """
INSERT INTO stock_levels AS old (location_id, sku, available)
SELECT location_id, sku, quantity FROM stage_stock ORDER BY location_id, sku
ON CONFLICT (location_id, sku) DO UPDATE SET available = old.available + excluded.available
"""
_MOVEMENTS = """
INSERT INTO stock_movements
    (location_id, sku, quantity, from_bucket, to_bucket, reason_code, reference_document, actor, occurred_time)
SELECT location_id, sku, quantity, 'supplier', 'available', $1, $2, 'import', $3
FROM stage_stock WHERE quantity > 0 ORDER BY location_id, sku
"""
_STOCK_TOTALS = """
SELECT count(*) FILTER (WHERE l.kind = 'STORE') AS store_positions,
       count(*) FILTER (WHERE l.kind <> 'STORE') AS other_positions,
       coalesce(sum(s.quantity) FILTER (WHERE p.base_unit = 'EACH'), 0)::bigint AS units_each,
       coalesce(sum(s.quantity) FILTER (WHERE p.base_unit = 'GRAM'), 0)::bigint AS units_gram,
       coalesce(sum(s.quantity) FILTER (WHERE p.base_unit = 'MILLILITER'), 0)::bigint AS units_milliliter
FROM stage_stock s JOIN locations l USING (location_id) JOIN products p USING (sku)
"""
# Statistics of before so many rows came in would lead the planner astray until autovacuum comes by.
_ANALYZE = "ANALYZE locations, products, barcodes, prices, stock_levels, stock_movements"

_Connection = Any  # asyncpg's connection: its stubs make the record type a parameter of everything


async def load(connection: _Connection, feed: Feed, progress: Progress) -> dict[str, Any]:
    """Write the feed in one transaction, and answer what was added and changed. Raises `FeedError`: nothing is written."""
    async with connection.transaction():
        await connection.execute(_LOCK_IMPORTS)
        await _stage(connection, feed, progress)
        steps: list[tuple[str, Callable[[], Awaitable[Any]]]] = [
            ("catalogue", lambda: _load_catalogue(connection, feed)),
            ("stock", lambda: _load_stock(connection, feed)),
        ]
        loaded: dict[str, Any] = {}
        for index, (name, step) in enumerate(steps):
            progress("writing", index, len(steps) + 1)
            loaded[name] = await step()
        progress("writing", len(steps), len(steps) + 1)
    await connection.execute(_ANALYZE)
    progress("writing", len(steps) + 1, len(steps) + 1)
    return {**loaded["catalogue"], **loaded["stock"]}


async def _stage(connection: _Connection, feed: Feed, progress: Progress) -> None:
    """Copy all rows into temporary tables, each with its number in the feed."""
    rows: dict[str, Iterable[Sequence[Any]]] = {
        "locations": ((*row[:6], json.dumps(row.opening_hours), *row[7:]) for row in feed.locations),
        "groups": (row[:2] for row in feed.groups),
        "members": ((row.location_group_id, member) for row in feed.groups for member in row.location_ids),
        "products": feed.products,
        "barcodes": feed.barcodes,
        "prices": feed.prices,
        "stock": feed.stock,
    }
    total = max(1, sum(map(len, (feed.locations, feed.products, feed.barcodes, feed.prices, feed.stock))))
    done = 0
    for stage, columns in _STAGES.items():
        await connection.execute(f"CREATE TEMP TABLE stage_{stage} (row_number int, {columns}) ON COMMIT DROP")
        batch: list[tuple[Any, ...]] = []
        for number, row in enumerate(rows[stage]):
            batch.append((number, *row))
            if len(batch) == COPY_ROWS:
                await connection.copy_records_to_table(f"stage_{stage}", records=batch)
                done += len(batch)
                progress("copying", min(done, total), total)
                batch = []
        await connection.copy_records_to_table(f"stage_{stage}", records=batch)
        done += len(batch)
        progress("copying", min(done, total), total)
        await connection.execute(f"ANALYZE stage_{stage}")


async def _load_catalogue(connection: _Connection, feed: Feed) -> dict[str, Any]:
    await _refuse_rows(
        connection, feed, "locations", _DELETED_LOCATIONS,
        "location {location_id!r} was deleted, and an id is never used again; choose another",
    )  # fmt: skip
    await _refuse_rows(
        connection, feed, "products", _BASE_UNIT_CHANGED,
        "sku {sku!r} has stock in another base_unit, which cannot be changed; give the product a new sku",
    )  # fmt: skip
    await connection.execute(_KEEP_WORK)
    loaded: dict[str, Any] = {
        "locations": await _upsert(
            connection, "locations", "locations", ["location_id"],
            ["kind", "name", "latitude", "longitude", "time_zone", "opening_hours", "offers_pickup", "offers_shipping",
             *_WORK],
            stamps={"version": "old.version + 1", "updated_time": "now()"},
        ),
        "location_groups": await _upsert(
            connection, "location_groups", "groups", ["location_group_id"], ["name"],
            stamps={"version": "old.version + 1"},
        ),
    }  # fmt: skip
    loaded["location_groups_shrunk"] = [
        {"location_group_id": row["location_group_id"], "locations_before": row["had"], "locations": row["has"]}
        for row in await connection.fetch(_SHRINKING_GROUPS)
    ]
    await connection.execute(_SET_GROUPS)
    loaded["products"] = await _upsert(
        connection, "products", "products", ["sku"],
        ["name", "brand", "department", "category", "product_type", "package_size", "base_unit"],
        stamps={"version": "old.version + 1", "updated_time": "now()"},
    )  # fmt: skip
    for stage in ("barcodes", "prices"):
        await _refuse_rows(
            connection,
            feed,
            stage,
            _UNKNOWN_SKUS.format(stage=stage),
            "sku {sku!r} is neither in this feed nor in the catalog",
        )
    loaded["barcodes"] = await _upsert(connection, "barcodes", "barcodes", ["gtin"], ["sku"])
    loaded["prices"] = await _upsert(
        connection,
        "prices",
        "prices",
        ["sku", "currency"],
        ["amount_minor", "price_quantity"],
        stamps={"updated_time": "now()"},
    )
    await connection.execute(_PRICE_CHANGES)
    await connection.execute(_NEW_EPOCHS)
    await connection.execute(_NEW_DELTA_HEADS)
    return loaded


async def _upsert(
    connection: _Connection,
    table: str,
    stage: str,
    key: list[str],
    columns: list[str],
    stamps: dict[str, str] | None = None,
) -> dict[str, int]:
    names = [*key, *columns]
    stamps = stamps or {}
    statement = _UPSERT.format(
        table=table,
        stage=stage,
        key=", ".join(key),
        columns=", ".join(names),
        values=", ".join(f"{name}::jsonb" if name == "opening_hours" else name for name in names),
        assigned=", ".join(columns),
        stamps="".join(f", {name}" for name in stamps),
        excluded=", ".join(f"excluded.{name}" for name in columns),
        stamped="".join(f", {value}" for value in stamps.values()),
        old=", ".join(f"old.{name}" for name in columns),
    )
    row = await connection.fetchrow(statement)
    return {"added": row["added"], "changed": row["changed"]}


async def _load_stock(connection: _Connection, feed: Feed) -> dict[str, Any]:
    await _refuse_rows(
        connection, feed, "stock", _UNKNOWN_LOCATIONS.format(stage="stock"),
        "location {location_id!r} is neither in this feed nor in the ledger",
    )  # fmt: skip
    await _refuse_rows(
        connection,
        feed,
        "stock",
        _UNKNOWN_SKUS.format(stage="stock"),
        "sku {sku!r} is neither in this feed nor in the catalog",
    )
    await connection.execute(_RAISE_EPOCHS)
    await _refuse_rows(
        connection, feed, "stock", _STOCKED_ALREADY,
        "{sku} at {location_id} has movements already, and opening stock is loaded once; load the catalogue alone "
        "(--no-stock), and correct stock by receipts and counts",
    )  # fmt: skip
    await connection.execute(_LEVELS)
    await connection.execute(_MOVEMENTS, OPENING_STOCK, f"import/{uuid.uuid4()}", datetime.now(UTC))
    totals = await connection.fetchrow(_STOCK_TOTALS)
    return {"stock_positions": len(feed.stock), **dict(totals)}


async def _refuse_rows(connection: _Connection, feed: Feed, stage: str, query: str, message: str) -> None:
    rows: list[asyncpg.Record] = await connection.fetch(query)
    if not rows:
        return
    lines = [f"{feed.where(stage, row['row_number'])}: {message.format(**dict(row))}" for row in rows[:ERRORS_SHOWN]]
    if len(rows) > ERRORS_SHOWN:
        lines.append(f"and {len(rows) - ERRORS_SHOWN} more like these")
    raise FeedError("\n".join(lines))
