"""Count tasks: what somebody has to look at, because goods showed that the ledger may be wrong."""

from __future__ import annotations

from collections.abc import Iterable

from onhand.domain.stock import Position
from onhand.ids import new_id
from onhand.postgres import Connection

OPEN_TASKS = """
INSERT INTO count_tasks (count_task_id, location_id, sku, reason_code, reference_document)
SELECT n.count_task_id, n.location_id, n.sku, $4, $5
  FROM unnest($1::uuid[], $2::text[], $3::text[]) AS n (count_task_id, location_id, sku)
 WHERE (SELECT true FROM count_tasks t WHERE t.location_id = n.location_id AND t.sku = n.sku AND t.state = 'OPEN' LIMIT 1)
       IS NULL"""
CLOSE_TASKS = """
UPDATE count_tasks SET state = 'DONE', closed_time = now() WHERE location_id = $1 AND sku = ANY ($2) AND state = 'OPEN'"""


async def ask_to_count(
    connection: Connection, positions: Iterable[Position], reason_code: str, reference_document: str
) -> None:
    """Asks for a count of positions, whose levels are locked, where none is asked for yet."""
    wanted = sorted(set(positions))
    if wanted:
        columns = [new_id() for _ in wanted], [place for place, _ in wanted], [sku for _, sku in wanted]
        await connection.execute(OPEN_TASKS, *columns, reason_code, reference_document)
