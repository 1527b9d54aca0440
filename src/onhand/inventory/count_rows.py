"""The rows of counts, and what the ledger recorded of a sku since it was counted."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from onhand.domain.counting import RECORD_ONLY, CountState, CountStep, LineState, Since, check_step, state_of
from onhand.domain.stock_work_errors import CountLineNotFound, CountNotFound, IllegalStep
from onhand.ledger.rule import sql_list
from onhand.postgres import Connection

POSITION_MAX = 2**63 - 1

_COLUMNS = """
count_id, location_id, scope, is_blind, state, tolerance_quantity, tolerance_percent, ledger_position, started_time"""
# The position and the time are read after all that this statement sees: what it does not see happens later.
INSERT = """
INSERT INTO counts (count_id, location_id, scope, is_blind, tolerance_quantity, tolerance_percent, actor, ledger_position,
                    started_time)
SELECT $1, $2, $3, $4, $5, $6, $7, coalesce((SELECT max(movement_id) FROM stock_movements WHERE location_id = $2), 0),
       clock_timestamp()"""
GET = f"SELECT {_COLUMNS} FROM counts WHERE count_id = $1"
SET_STATE = "UPDATE counts SET state = $2, updated_time = now() WHERE count_id = $1 AND state <> $2"
NOW = "SELECT clock_timestamp(), (SELECT max(movement_id) FROM stock_movements WHERE location_id = $1)"
HAS = """
SELECT EXISTS (SELECT FROM count_lines WHERE count_id = $1 AND state = 'TO_COUNT') AS has_to_count,
       EXISTS (SELECT FROM count_lines WHERE count_id = $1 AND state = 'COUNTED') AS has_counted"""

ADD_SKUS = "INSERT INTO count_lines (count_id, sku) SELECT $1, unnest($2::text[])"
ADD_TASKS = """
INSERT INTO count_lines (count_id, sku)
SELECT $1, sku FROM count_tasks WHERE location_id = $2 AND state = 'OPEN' GROUP BY sku ORDER BY sku LIMIT $3"""
ADD_ALL = """
INSERT INTO count_lines (count_id, sku)
SELECT $1, sku FROM (
    SELECT sku FROM stock_levels WHERE location_id = $2 AND available + allocated + damaged + quarantine + short > 0
     UNION SELECT sku FROM count_tasks WHERE location_id = $2 AND state = 'OPEN') AS s
 ORDER BY sku LIMIT $3"""

_LINE = """
sku, state, attempts, counted, expected, as_of_time, as_of_position, is_within, counted_by, counted_time, booked"""
OF_SKUS = f"SELECT {_LINE} FROM count_lines WHERE count_id = $1 AND sku = ANY ($2) ORDER BY sku"
NEXT_COUNTED = f"""
SELECT {_LINE} FROM count_lines WHERE count_id = $1 AND state = 'COUNTED' ORDER BY sku LIMIT $2"""
PAGE = f"SELECT {_LINE} FROM count_lines WHERE count_id = $1 AND sku > $2 ORDER BY sku LIMIT $3"
PAGE_IN_STATE = f"""
SELECT {_LINE} FROM count_lines WHERE count_id = $1 AND state = $4 AND sku > $2 ORDER BY sku LIMIT $3"""
SUBMIT = """
WITH n AS (
    SELECT * FROM unnest($2::text[], $3::int8[], $4::int8[], $5::timestamptz[], $6::int8[], $7::bool[])
               AS n (sku, counted, expected, as_of_time, as_of_position, is_within)),
changed AS (
    UPDATE count_lines l
       SET state = 'COUNTED', attempts = attempts + 1, counted = n.counted, expected = n.expected, as_of_time = n.as_of_time,
           as_of_position = n.as_of_position, is_within = n.is_within, counted_by = $8, counted_time = now()
      FROM n WHERE l.count_id = $1 AND l.sku = n.sku AND l.state = 'TO_COUNT'
    RETURNING l.count_id, l.sku, l.attempts, l.counted, l.expected, l.as_of_time, l.as_of_position, l.counted_by)
INSERT INTO count_attempts (count_id, sku, attempt, counted, expected, as_of_time, as_of_position, counted_by)
SELECT * FROM changed"""
RECOUNT = """
UPDATE count_lines SET state = 'TO_COUNT' WHERE count_id = $1 AND sku = ANY ($2) AND state = 'COUNTED'"""
RECOUNT_ALL = """
UPDATE count_lines SET state = 'TO_COUNT' WHERE count_id = $1 AND state = 'COUNTED' AND NOT is_within"""
APPROVE = """
UPDATE count_lines l SET state = 'APPROVED', booked = n.booked, approved_by = $4, approved_time = now()
  FROM unnest($2::text[], $3::int8[]) AS n (sku, booked)
 WHERE l.count_id = $1 AND l.sku = n.sku AND l.state = 'COUNTED'"""
REPORT = """
INSERT INTO count_variances (location_id, variance_id, count_id, sku, counted, expected, booked, counted_by, approved_by)
SELECT $1, n.variance_id, $2, n.sku, n.counted, n.expected, n.booked, n.counted_by, $9
  FROM unnest($3::uuid[], $4::text[], $5::int8[], $6::int8[], $7::int8[], $8::text[])
       AS n (variance_id, sku, counted, expected, booked, counted_by)"""
DROP = "UPDATE count_lines SET state = 'DROPPED' WHERE count_id = $1 AND state IN ('TO_COUNT', 'COUNTED')"
SUMMARY = """
SELECT count(*) FILTER (WHERE state = 'TO_COUNT') AS to_count_lines, count(*) FILTER (WHERE state = 'COUNTED') AS counted_lines,
       count(*) FILTER (WHERE state = 'APPROVED') AS approved_lines,
       count(*) FILTER (WHERE is_counted AND counted <> expected) AS different_lines,
       count(*) FILTER (WHERE is_counted AND NOT is_within) AS out_of_tolerance_lines,
       coalesce(sum(counted - expected) FILTER (WHERE is_counted AND counted > expected), 0)::int8 AS over_quantity,
       coalesce(sum(expected - counted) FILTER (WHERE is_counted AND counted < expected), 0)::int8 AS missing_quantity,
       count(*) FILTER (WHERE attempts > 1) AS recounted_lines
  FROM (SELECT *, state IN ('COUNTED', 'APPROVED') AS is_counted FROM count_lines WHERE count_id = $1) AS l"""
COUNTS = f"SELECT {_COLUMNS} FROM counts WHERE location_id = $1 AND count_id < $2 ORDER BY count_id DESC LIMIT $3"
OPEN_COUNTS = f"""
SELECT {_COLUMNS} FROM counts
 WHERE location_id = $1 AND count_id < $2 AND state IN ('COUNTING', 'REVIEW') ORDER BY count_id DESC LIMIT $3"""
VARIANCES = """
SELECT variance_id, count_id, sku, counted, expected, booked, counted_by, approved_by, approved_time FROM count_variances
 WHERE location_id = $1 AND variance_id < $2 ORDER BY variance_id DESC LIMIT $3"""

_INSIDE = sql_list(("available", "allocated", "damaged", "quarantine"))
# In one statement, so that a level and its movements are of one moment. A sku's movements have rising ids in the order of their
# commits, for each is made under the lock of its level. $3: only later than this; $4: only after this movement.
SINCE = f"""
SELECT w.sku, coalesce(s.available + s.allocated + s.damaged + s.quarantine, 0) AS on_hand,
       coalesce(m.recorded, 0) AS recorded, coalesce(m.moved, 0) AS moved, coalesce(m.is_corrected, false) AS is_corrected,
       coalesce((SELECT max(movement_id) FROM stock_movements l WHERE l.location_id = $1 AND l.sku = w.sku), 0) AS position
  FROM unnest($2::text[], $3::timestamptz[], $4::int8[]) AS w (sku, since_time, since_position)
  LEFT JOIN stock_levels s ON s.location_id = $1 AND s.sku = w.sku
  LEFT JOIN LATERAL (
       SELECT sum(units)::int8 AS recorded, (sum(units) FILTER (WHERE NOT is_adjustment))::int8 AS moved,
              bool_or(is_adjustment AND units <> 0 AND reason_code NOT IN ({sql_list(RECORD_ONLY)})) AS is_corrected
         FROM (SELECT reason_code, 'adjustment' IN (from_bucket, to_bucket) AS is_adjustment,
                      CASE WHEN to_bucket IN ({_INSIDE}) THEN quantity ELSE 0 END
                      - CASE WHEN from_bucket IN ({_INSIDE}) THEN quantity ELSE 0 END AS units
                 FROM stock_movements
                WHERE location_id = $1 AND sku = w.sku AND movement_id > w.since_position
                  AND (w.since_time IS NULL OR occurred_time > w.since_time)) AS v) AS m ON true
 ORDER BY w.sku"""


@dataclass(frozen=True)
class Moment:
    """What a count of a sku holds for: a time, or else a movement. `None` for both: now."""

    sku: str
    time: datetime | None = None
    position: int | None = None


async def load(connection: Connection, count_id: UUID, *, is_locked: bool = False) -> Any:
    """A count's row. Raises CountNotFound."""
    row = await connection.fetchrow(GET + (" FOR UPDATE" if is_locked else ""), count_id)
    if row is None:
        raise CountNotFound(str(count_id))
    return row


def check(row: Any, step: CountStep) -> None:
    """Raises IllegalStep where the state of a count does not allow a step."""
    check_step(f"count/{row['count_id']}", CountState(row["state"]), step)


async def lines_in_state(
    connection: Connection, count_id: UUID, skus: Collection[str], step: CountStep, needed: LineState
) -> list[Any]:
    """The lines of skus. Raises CountLineNotFound, and IllegalStep where one is not in the state that a step needs."""
    rows = await connection.fetch(OF_SKUS, count_id, sorted(skus))
    for sku in sorted(set(skus) - {row["sku"] for row in rows}):
        raise CountLineNotFound(str(count_id), sku)
    for row in rows:
        if row["state"] != needed.value:
            raise IllegalStep(
                f"count/{count_id}/line/{row['sku']}", row["state"], step.value, f"{step.value} of {needed.value}"
            )
    return list(rows)


async def since(
    connection: Connection, location_id: str, first_position: int, moments: Sequence[Moment]
) -> dict[str, tuple[Since, int]]:
    """What the ledger has of each sku and recorded since a moment of a count, and the last movement of the sku.

    `first_position`: of the count. What happened later than a time in it was recorded after that.
    """
    positions = [
        first_position if m.time is not None else POSITION_MAX if m.position is None else m.position for m in moments
    ]
    rows = await connection.fetch(SINCE, location_id, [m.sku for m in moments], [m.time for m in moments], positions)
    return {r["sku"]: (Since(r["on_hand"], r["recorded"], r["moved"], r["is_corrected"]), r["position"]) for r in rows}


async def settle_state(connection: Connection, count_id: UUID) -> None:
    """Makes a count's state what its lines say."""
    row = await connection.fetchrow(HAS, count_id)
    assert row is not None
    state = state_of(has_to_count=row["has_to_count"], has_counted=row["has_counted"])
    await connection.execute(SET_STATE, count_id, state.value)


def changed(command_tag: str) -> int:
    """How many rows a statement wrote."""
    return int(command_tag.rsplit(" ", 1)[-1])
