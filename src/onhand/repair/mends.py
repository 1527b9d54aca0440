"""Mends of the ledger, one a rule: each looks again under the locks that every mutation takes, and writes what it did.

A mend is given the transaction and one violation as verify reports it, and returns what it did in words; "" where the damage
is gone meanwhile, None where it cannot know what is right.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from onhand.domain.stock import INSIDE, Bucket, Movement
from onhand.ids import new_id
from onhand.ledger.transaction import Transaction

REASON = "VERIFY_REPAIR"

Violation = Mapping[str, Any]
Mend = Callable[[Transaction, Violation, str], Awaitable[str | None]]
"""(transaction, violation, document): the document is `repair/<id>`."""

_SUMS = ", ".join(
    f"coalesce(sum(CASE '{b.value}' WHEN to_bucket THEN quantity WHEN from_bucket THEN -quantity ELSE 0 END), 0)::int8"
    f" AS {b.value}"
    for b in INSIDE
)
_BUCKETS = ", ".join(b.value for b in INSIDE)
LOCK_EPOCH = "SELECT epoch FROM location_epochs WHERE location_id = $1 FOR UPDATE"
LEVEL = f"SELECT {_BUCKETS} FROM stock_levels WHERE location_id = $1 AND sku = $2 FOR UPDATE"
MOVED = f"SELECT {_SUMS} FROM stock_movements WHERE location_id = $1 AND sku = $2"
SET_LEVEL = f"""
INSERT INTO stock_levels (location_id, sku, {_BUCKETS}) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (location_id, sku) DO UPDATE SET ({_BUCKETS}) = ($3, $4, $5, $6)"""
MOVE = """
INSERT INTO stock_movements (location_id, sku, quantity, from_bucket, to_bucket, reason_code, reference_document, actor)
VALUES ($1, $2, $3, 'adjustment', $4, $5, $6, $7)"""
TASK = """
INSERT INTO count_tasks (count_task_id, location_id, sku, reason_code, reference_document)
SELECT $1, $2, $3, $4, $5 WHERE NOT EXISTS (
       SELECT FROM count_tasks WHERE location_id = $2 AND sku = $3 AND state = 'OPEN')"""
PROMISED = """
SELECT coalesce(sum(p.quantity - p.cancelled_quantity - p.moved_quantity), 0)::int8 FROM fulfillment_orders f
  JOIN fulfillment_lines p USING (fulfillment_order_id)
 WHERE f.location_id = $1 AND p.sku = $2 AND f.state IN ('REQUESTED', 'ACCEPTED', 'PICKED', 'READY_FOR_PICKUP')"""
RESERVED = """
SELECT coalesce(sum((line ->> 1)::int8), 0)::int8 FROM claims c, jsonb_array_elements(c.lines) AS line
 WHERE c.location_id = $1 AND c.state = 'active' AND line ->> 0 = $2"""
NUMBERED = """
SELECT coalesce(sum((line ->> 1)::int8), 0)::int8 FROM gate_deltas d, jsonb_array_elements(d.lines) AS line
 WHERE d.location_id = $1 AND line ->> 0 = $2"""
KNOWN = """
SELECT l.deleted_time IS NOT NULL AS is_deleted, e.is_closed, h.last_number,
       (SELECT max(number) FROM gate_deltas d WHERE d.location_id = l.location_id) AS greatest
  FROM locations l LEFT JOIN location_epochs e USING (location_id) LEFT JOIN location_delta_heads h USING (location_id)
 WHERE l.location_id = $1"""
FILL_DELTAS = """
INSERT INTO gate_deltas (location_id, number, lines)
SELECT $1, n, '[]' FROM generate_series(1, $2::int8) AS n ON CONFLICT DO NOTHING RETURNING number"""
SET_HEAD = """
INSERT INTO location_delta_heads (location_id, last_number) VALUES ($1, $2)
ON CONFLICT (location_id) DO UPDATE SET last_number = $2"""
CLOSE_TIMES = """
UPDATE claims SET closed_time = CASE WHEN state = 'active' THEN NULL ELSE now() END
 WHERE location_id = $1 AND claim_id = $2::uuid AND (state = 'active') <> (closed_time IS NULL) RETURNING state"""
SHORTAGE = """
INSERT INTO shortages (shortage_id, location_id, sku, quantity, reference_document) VALUES ($1, $2, $3, $4, $5)"""
MARK = "UPDATE stock_levels SET overdrawn_time = now() WHERE location_id = $1 AND sku = $2"
ORDER_STATE = (
    "UPDATE orders SET state = $2, version = version + 1, updated_time = now() WHERE order_id = $1::uuid AND state = $3"
)
END_TASKS = """
UPDATE count_tasks SET closed_time = now() WHERE location_id = $1 AND sku = $2 AND state = 'DONE' AND closed_time IS NULL"""
ONE_TASK = """
UPDATE count_tasks t SET state = 'DONE', closed_time = now()
 WHERE location_id = $1 AND sku = $2 AND state = 'OPEN' AND EXISTS (
       SELECT FROM count_tasks o WHERE o.location_id = $1 AND o.sku = $2 AND o.state = 'OPEN'
          AND (o.created_time, o.count_task_id) < (t.created_time, t.count_task_id))"""
UNTOLD = """
SELECT quantity FROM shortages h WHERE location_id = $1 AND sku = $2 AND reference_document = $3 ORDER BY created_time
OFFSET (SELECT count(*) FROM events WHERE type = 'onhand.stock.shortage.v1' AND location_id = $1 AND data ->> 'sku' = $2
           AND data ->> 'reference_document' = $3)"""
WALL = """
CREATE OR REPLACE TRIGGER stock_movements_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON stock_movements
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE stock_movements ENABLE TRIGGER stock_movements_append_only;"""


def _place(violation: Violation) -> tuple[str, str]:
    return violation["location_id"], violation["sku"]


async def _is_known(tx: Transaction, location_id: str) -> bool:
    """Holds the location: nobody commits there until this transaction ends. Whether it has an epoch."""
    return await tx.connection.fetchval(LOCK_EPOCH, location_id) is not None


async def _ask_for_a_count(tx: Transaction, location_id: str, sku: str, document: str) -> None:
    await tx.connection.execute(TASK, new_id(), location_id, sku, REASON, document)


async def append_only(tx: Transaction, violation: Violation, document: str) -> str | None:
    """The wall is built again."""
    await tx.connection.execute(WALL)
    return "the database refuses to change movements again"


async def known_to_gate(tx: Transaction, violation: Violation, document: str) -> str | None:
    """Rows that a location must have; it is closed exactly if it is deleted."""
    location_id = violation["location_id"]
    row = await tx.connection.fetchrow(KNOWN, location_id)
    if row is None:
        return None
    if row["is_closed"] is None:
        await tx.connection.execute("INSERT INTO location_epochs (location_id) VALUES ($1)", location_id)
    if row["last_number"] is None:
        await tx.connection.execute(SET_HEAD, location_id, row["greatest"] or 0)
    await tx.bypass([location_id])
    await tx.connection.execute(
        "UPDATE location_epochs SET is_closed = $2 WHERE location_id = $1", location_id, row["is_deleted"]
    )
    return f"{location_id} has its epoch and delta head again, and is {'closed' if row['is_deleted'] else 'open'}"


async def conservation(tx: Transaction, violation: Violation, document: str) -> str | None:
    """The level becomes the sum of its movements. A sum below zero is no truth: there the level stays, and a movement says why."""
    location_id, sku = _place(violation)
    if not await _is_known(tx, location_id):
        return None
    row = await tx.connection.fetchrow(LEVEL, location_id, sku)
    moved = dict(await tx.connection.fetchrow(MOVED, location_id, sku) or {})
    level = dict(row) if row is not None else dict.fromkeys(moved, 0)
    if row is not None and level == moved:
        return ""
    await tx.bypass([location_id])  # the gate has the old figure
    target = {b: moved[b] if moved[b] >= 0 else max(0, level[b]) for b in moved}
    await tx.connection.execute(SET_LEVEL, location_id, sku, *(target[b.value] for b in INSIDE))
    said = [f"{b}: {level[b]} -> {n} as its movements say" for b, n in target.items() if level[b] != n]
    for bucket, units in moved.items():
        if units < 0:
            lost = target[bucket] - units
            await tx.connection.execute(MOVE, location_id, sku, lost, bucket, REASON, document, document)
            said.append(f"{bucket}: {lost} moved in from `adjustment`, for movements were lost")
    await _ask_for_a_count(tx, location_id, sku, document)
    return f"{sku} at {location_id}, {', '.join(said) or 'level made anew'}; a count is asked for"


async def allocated(tx: Transaction, violation: Violation, document: str) -> str | None:
    """Units without open work become available; units that open work lacks are taken from what nobody is promised."""
    location_id, sku = _place(violation)
    if not await _is_known(tx, location_id):
        return None
    level = (await tx.lock_levels([(location_id, sku)], create=True))[location_id, sku]
    promised = await tx.connection.fetchval(PROMISED, location_id, sku)
    excess = level.allocated + tx.short((location_id, sku)) - promised
    if excess == 0:
        return ""
    if excess > 0 and level.allocated >= excess:
        await tx.post([_movement(location_id, sku, excess, Bucket.ALLOCATED, Bucket.AVAILABLE, document)])
        return f"{sku} at {location_id}: {excess} allocated without open work, moved to `available`"
    unpromised = level.available - await tx.connection.fetchval(RESERVED, location_id, sku)
    if excess > 0 or unpromised < -excess:
        await _ask_for_a_count(tx, location_id, sku, document)
        return None
    await tx.bypass([location_id])
    await tx.post([_movement(location_id, sku, -excess, Bucket.AVAILABLE, Bucket.ALLOCATED, document)])
    return f"{sku} at {location_id}: {-excess} that open work lacked, moved from `available` to `allocated`"


def _movement(place: str, sku: str, units: int, from_bucket: Bucket, to_bucket: Bucket, document: str) -> Movement:
    return Movement(place, sku, units, from_bucket, to_bucket, REASON, document, None, document)


async def deltas(tx: Transaction, violation: Violation, document: str) -> str | None:
    """Gaps are filled with increases of nothing: the gate is rebuilt above them."""
    location_id = violation["location_id"]
    if not await _is_known(tx, location_id):
        return None
    row = await tx.connection.fetchrow(KNOWN, location_id)
    last = max(row["greatest"] or 0, row["last_number"] or 0) if row is not None else 0
    await tx.bypass([location_id])
    filled = await tx.connection.fetch(FILL_DELTAS, location_id, last)
    await tx.connection.execute(SET_HEAD, location_id, last)
    return f"increases of {location_id} are numbered from 1 to {last} again, {len(filled)} of them empty"


async def increases(tx: Transaction, violation: Violation, document: str) -> str | None:
    """What the numbers lack, or have too much, is numbered; the gate is rebuilt above it."""
    location_id, sku = _place(violation)
    if not await _is_known(tx, location_id):
        return None
    lacking = violation["moved"] - await tx.connection.fetchval(NUMBERED, location_id, sku)
    if lacking == 0:
        return ""
    await tx.bypass([location_id])
    tx.number_increase(location_id, sku, lacking)
    return f"{sku} at {location_id}: {lacking} numbered, which movements brought and no increase told"


async def closing_times(tx: Transaction, violation: Violation, document: str) -> str | None:
    """A claim's closing time follows from its state; lines that make no sense are nobody's to guess."""
    state = await tx.connection.fetchval(CLOSE_TIMES, violation["location_id"], violation["claim_id"])
    return f"claim {violation['claim_id']} is {state}, and its closing time says so now" if state else None


async def oversold(tx: Transaction, violation: Violation, document: str) -> str | None:
    """Promises that were broken in silence are recorded, so that they are seen and mended."""
    location_id, sku = _place(violation)
    if not await _is_known(tx, location_id):
        return None
    level = (await tx.lock_levels([(location_id, sku)], create=True))[location_id, sku]
    broken = await tx.connection.fetchval(RESERVED, location_id, sku) - level.available
    if broken <= 0:
        return ""
    await tx.connection.execute(MARK, location_id, sku)
    await tx.connection.execute(SHORTAGE, new_id(), location_id, sku, broken, document)
    _tell_shortage(tx, location_id, sku, broken, document)
    await _ask_for_a_count(tx, location_id, sku, document)
    return (
        f"{sku} at {location_id}: {broken} promised beyond what is there, recorded as a shortage; a count is asked for"
    )


async def unmarked(tx: Transaction, violation: Violation, document: str) -> str | None:
    """A position whose reservations are short is marked, so that they are shown."""
    if violation["problem"] != "reservations are short and it is not marked":
        return None
    location_id, sku = _place(violation)
    await tx.lock_levels([(location_id, sku)], create=True)
    await tx.connection.execute(MARK, location_id, sku)
    return f"{sku} at {location_id}: marked, for its reservations are short"


def _tell_shortage(tx: Transaction, location_id: str, sku: str, quantity: int, document: str) -> None:
    data = {"location_id": location_id, "sku": sku, "quantity": quantity, "reference_document": document}
    tx.emit("onhand.stock.shortage.v1", f"location/{location_id}", data, location_id)


async def order_state(tx: Transaction, violation: Violation, document: str) -> str | None:
    """An order's state is derived from its work."""
    order_id, state, derived = violation["order_id"], violation["state"], violation["derived"]
    if derived is None:
        return None
    await tx.connection.execute(ORDER_STATE, order_id, derived, state)
    return f"order {order_id}: {state} -> {derived}, as its fulfillment orders say"


async def shortages(tx: Transaction, violation: Violation, document: str) -> str | None:
    """Untold shortages are told, tasks that were done are closed, and one open task a position is enough."""
    (location_id, sku), problem, reference = _place(violation), violation["problem"], violation["reference_document"]
    if problem == "shortage without an event":
        for row in await tx.connection.fetch(UNTOLD, location_id, sku, reference):
            _tell_shortage(tx, location_id, sku, row["quantity"], reference)
        return f"{sku} at {location_id}: the shortage of {reference} is told of"
    if problem.startswith("count task DONE"):
        await tx.connection.execute(END_TASKS, location_id, sku)
        return f"{sku} at {location_id}: its count task is closed"
    if problem.endswith("open count tasks"):
        await tx.connection.execute(ONE_TASK, location_id, sku)
        return f"{sku} at {location_id}: one count task stays open"
    return None


MENDS: Mapping[str, Mend] = {
    "movements_append_only": append_only,
    "locations_have_epochs": known_to_gate,
    "conservation": conservation,
    "allocated_is_promised": allocated,
    "deltas_contiguous": deltas,
    "increases_numbered": increases,
    "claims_well_formed": closing_times,
    "no_oversell": oversold,
    "promises_visible": unmarked,
    "order_states": order_state,
    "shortages": shortages,
}
"""In this order: what one mends, a later one builds on."""
