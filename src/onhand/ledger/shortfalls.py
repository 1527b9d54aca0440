"""Units that somebody was promised and that are not there: whose, since when, and how it ended.

Of orders they are rows, and `allocated` + open shortfalls = what open work has to bring. Of reservations they are worked out
whenever they are asked for: of a position that a fact overdrew (it is marked, and only these are looked at) the oldest active
reservation has its units first, and what `available` does not reach is short.

A shortfall, a mark and a level's `short` change only under the lock of that level, which comes after every lock of an order:
so whoever breaks a promise reads other orders without a lock, and whoever has the goods in hand looks again under it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from onhand.crash import step
from onhand.domain.order import HOLDING, FulfillmentState
from onhand.domain.shortage import (
    FIRST_STEP,
    OF_STOCK,
    Promise,
    ShortfallCause,
    ShortfallEnd,
    ShortfallStep,
    break_promises,
)
from onhand.domain.stock import Bucket, Level, Movement, Position
from onhand.ids import new_id
from onhand.ledger.floors import ROOM
from onhand.ledger.rule import sql_list
from onhand.postgres import Connection

if TYPE_CHECKING:
    from onhand.ledger.transaction import Transaction

OPENED, FOUND, COVERED = "SHORTFALL_OPENED", "SHORTFALL_FOUND", "SHORTFALL_COVERED"
"""The reasons of movements: allocated -> adjustment, adjustment -> allocated, available -> allocated."""
FILLED = "BACKORDER_FILLED"
"""As COVERED, with units that were there and claimed for it, so that the gate heard of them."""
MARK_SECONDS = 3600
"""How long a position stays marked: a reservation may have been on its way into the journal, but no process outlives this."""

PICKED = frozenset({FulfillmentState.PICKED, FulfillmentState.READY_FOR_PICKUP})
"""States of work whose goods are off the shelf and still at the location."""

# What open work has at a position, besides what is short already.
PROMISES = f"""
SELECT f.fulfillment_order_id, p.line_number, f.state IN ({sql_list(s.value for s in PICKED)}) AS is_picked,
       (p.quantity - p.cancelled_quantity - p.moved_quantity - coalesce((
           SELECT sum(open_quantity) FROM shortfalls s
            WHERE s.fulfillment_order_id = f.fulfillment_order_id AND s.line_number = p.line_number), 0))::int8 AS quantity
  FROM fulfillment_orders f JOIN fulfillment_lines p USING (fulfillment_order_id)
 WHERE f.location_id = $1 AND p.sku = $2 AND f.state IN ({sql_list(s.value for s in HOLDING)})
   AND f.fulfillment_order_id <> $3"""
NOBODY = UUID(int=0)
OPEN = """
INSERT INTO shortfalls (shortfall_id, location_id, sku, fulfillment_order_id, line_number, quantity, open_quantity, cause,
                        reference_document, next_step)
SELECT n.shortfall_id, $5, $6, n.fulfillment_order_id, n.line_number, n.quantity, n.quantity, $7, $8, $9
  FROM unnest($1::uuid[], $2::uuid[], $3::int[], $4::int8[]) AS n (shortfall_id, fulfillment_order_id, line_number, quantity)"""
ADD_SHORT = """
UPDATE stock_levels SET short = short + $3, backordered = backordered + $4 WHERE location_id = $1 AND sku = $2"""

_SHORTFALLS = """
SELECT s.shortfall_id, s.location_id, s.sku, s.fulfillment_order_id, s.line_number, s.open_quantity, s.next_step, f.order_id,
       o.order_number, o.customer_id, s.cause
  FROM shortfalls s JOIN fulfillment_orders f USING (fulfillment_order_id) JOIN orders o USING (order_id)"""
# The oldest promise is mended first: ids are of UUID version 7.
OF_IDS = f"{_SHORTFALLS} WHERE s.shortfall_id = ANY ($1) ORDER BY s.shortfall_id"
# What a location rejected is not covered by what comes in there.
AT = f"""{_SHORTFALLS} WHERE s.location_id = $1 AND s.sku = $2 AND s.open_quantity > 0
   AND s.cause IN ({sql_list(c.value for c in OF_STOCK)})
 ORDER BY s.fulfillment_order_id, s.line_number, s.shortfall_id"""
OF_WORK = f"""{_SHORTFALLS} WHERE s.fulfillment_order_id = ANY ($1) AND s.open_quantity > 0
 ORDER BY s.fulfillment_order_id, s.line_number, s.shortfall_id"""
END = """
WITH ended AS (
    UPDATE shortfalls s SET open_quantity = s.open_quantity - n.quantity, updated_time = now(),
           next_step = CASE WHEN s.open_quantity = n.quantity THEN 'NONE' ELSE s.next_step END
      FROM unnest($1::uuid[], $2::int8[]) AS n (shortfall_id, quantity) WHERE s.shortfall_id = n.shortfall_id
    RETURNING s.shortfall_id, n.quantity)
INSERT INTO shortfall_ends (shortfall_id, end_number, quantity, reason, reference_document)
SELECT e.shortfall_id, 1 + (SELECT count(*) FROM shortfall_ends b WHERE b.shortfall_id = e.shortfall_id), e.quantity, $3, $4
  FROM ended e"""
# Shortfalls of a part that goes its own way go with it: what is left behind was there.
FOLLOW = """
UPDATE shortfalls SET fulfillment_order_id = $2, updated_time = now()
 WHERE fulfillment_order_id = $1 AND line_number = ANY ($3) AND open_quantity > 0"""
SET_STEP = """
UPDATE shortfalls SET next_step = $3, updated_time = now() WHERE shortfall_id = ANY ($1) AND next_step = $2"""
WAITING_FOR_COUNT = """
SELECT shortfall_id FROM shortfalls
 WHERE location_id = $1 AND sku = ANY ($2) AND open_quantity > 0 AND next_step = 'COUNT' ORDER BY shortfall_id"""

_ROOM = ROOM.format("s.")
MARK = """
UPDATE stock_levels SET overdrawn_time = now()
 WHERE (location_id, sku) IN (SELECT * FROM unnest($1::text[], $2::text[]))"""
# Active ones past their deadline count here too: they are still in what may not be sold.
UNMARK = f"""
UPDATE stock_levels s SET overdrawn_time = NULL
  FROM unnest($1::text[], $2::text[]) AS n (location_id, sku)
 WHERE s.location_id = n.location_id AND s.sku = n.sku AND s.overdrawn_time < now() - interval '{MARK_SECONDS} seconds'
   AND s.available + {_ROOM} >= (
       SELECT coalesce(sum((line ->> 1)::int8), 0) FROM claims c CROSS JOIN jsonb_array_elements(c.lines) AS line
        WHERE c.location_id = s.location_id AND c.state = 'active' AND line ->> 0 = s.sku)"""
# Reserved lines at marked positions, the oldest first. `available`: what may be promised;
# `upto`: what they and those before them need.
RESERVED = f"""
SELECT c.location_id, line ->> 0 AS sku, c.created_time, c.claim_id, c.reservation_id, c.deadline,
       s.available + {_ROOM} AS available,
       (line ->> 1)::int8 AS quantity,
       (sum((line ->> 1)::int8) OVER (PARTITION BY c.location_id, line ->> 0 ORDER BY c.created_time, c.claim_id))::int8 AS upto
  FROM stock_levels s JOIN claims c ON c.location_id = s.location_id AND c.state = 'active' AND c.deadline > now()
 CROSS JOIN LATERAL jsonb_array_elements(c.lines) AS line
 WHERE s.overdrawn_time IS NOT NULL AND line ->> 0 = s.sku"""
_IS_TO_COUNT = """
       EXISTS (SELECT FROM count_tasks t
                WHERE t.location_id = r.location_id AND t.sku = r.sku AND t.state = 'OPEN') AS is_to_count"""
# $3: what was available before.
BROKEN_RESERVATIONS = f"""
WITH reserved AS ({RESERVED} AND (s.location_id, s.sku) IN (SELECT * FROM unnest($1::text[], $2::text[])))
SELECT r.reservation_id, r.location_id, r.sku, r.quantity, least(r.quantity, r.upto - r.available) AS short_quantity
  FROM reserved r JOIN unnest($1::text[], $2::text[], $3::int8[]) AS b (location_id, sku, available) USING (location_id, sku)
 WHERE r.upto > r.available
   AND least(r.quantity, r.upto - r.available) > least(r.quantity, greatest(0, r.upto - b.available))
 ORDER BY r.location_id, r.sku, r.created_time, r.claim_id"""
# $1: a location, or ''. $2 to $5: after which line.
SHORT_RESERVATIONS = f"""
WITH reserved AS ({RESERVED} AND ($1 = '' OR s.location_id = $1))
SELECT r.*, least(r.quantity, r.upto - r.available) AS short_quantity, {_IS_TO_COUNT}
  FROM reserved r
 WHERE r.upto > r.available AND (r.location_id, r.sku, r.created_time, r.claim_id) > ($2, $3, $4, $5)
 ORDER BY r.location_id, r.sku, r.created_time, r.claim_id LIMIT $6"""
SHORT_OF_RESERVATION = f"""
WITH reserved AS ({RESERVED} AND (s.location_id, s.sku) IN (
    SELECT o.location_id, of ->> 0 FROM claims o CROSS JOIN jsonb_array_elements(o.lines) AS of
     WHERE o.reservation_id = $1 AND o.state = 'active'))
SELECT r.*, least(r.quantity, r.upto - r.available) AS short_quantity, {_IS_TO_COUNT}
  FROM reserved r WHERE r.reservation_id = $1 AND r.upto > r.available
 ORDER BY r.location_id, r.sku"""
# What reservations older than a claim need of its positions.
OLDER = """
SELECT w.location_id, w.sku, sum((line ->> 1)::int8)::int8 AS units
  FROM unnest($1::text[], $2::text[], $3::uuid[]) AS w (location_id, sku, claim_id)
  JOIN claims own USING (location_id, claim_id)
  JOIN claims c ON c.location_id = w.location_id AND c.state = 'active' AND c.deadline > now()
   AND (c.created_time, c.claim_id) < (own.created_time, own.claim_id)
 CROSS JOIN LATERAL jsonb_array_elements(c.lines) AS line
 WHERE line ->> 0 = w.sku GROUP BY 1, 2"""

# Open backorders with when they were reserved: that is how long somebody waits.
_WAITING = """
  FROM shortfalls s JOIN fulfillment_orders f USING (fulfillment_order_id) JOIN orders o USING (order_id)
  JOIN claims b ON b.reservation_id = o.reservation_id AND b.location_id = s.location_id AND b.state = 'confirmed'
 WHERE s.open_quantity > 0 AND s.cause = 'BACKORDER'"""
# What orders that were reserved before a claim still wait for.
WAITING_BEFORE = f"""
SELECT w.location_id, w.sku, v.units
  FROM unnest($1::text[], $2::text[], $3::uuid[]) AS w (location_id, sku, claim_id) JOIN claims own USING (location_id, claim_id)
 CROSS JOIN LATERAL (
       SELECT coalesce(sum(s.open_quantity), 0)::int8 AS units {_WAITING}
          AND s.location_id = w.location_id AND s.sku = w.sku AND b.created_time < own.created_time) AS v"""
# What is there of a position beyond what reservations hold that are older than who waits longest there.
FREE_FOR_WAITING = f"""
SELECT least(l.available - coalesce((
           SELECT sum((line ->> 1)::int8) FROM claims c CROSS JOIN jsonb_array_elements(c.lines) AS line
            WHERE c.location_id = $1 AND c.state = 'active' AND line ->> 0 = $2 AND c.created_time < (
                  SELECT min(b.created_time) {_WAITING} AND s.location_id = $1 AND s.sku = $2)), 0), l.backordered)::int8
  FROM stock_levels l WHERE l.location_id = $1 AND l.sku = $2"""


@dataclass(frozen=True)
class Open:
    """An open shortfall, read under the lock of its level, so that nobody else changes it."""

    shortfall_id: UUID
    location_id: str
    sku: str
    fulfillment_order_id: UUID
    line_number: int
    quantity: int
    next_step: ShortfallStep
    order_id: UUID
    order_number: str
    customer_id: str
    cause: ShortfallCause

    @property
    def position(self) -> Position:
        """Where it is short, and of what."""
        return self.location_id, self.sku

    def movement(self, quantity: int, from_bucket: Bucket, to_bucket: Bucket, reason_code: str, actor: str) -> Movement:
        """Units of it on their way into or out of `allocated`."""
        document = f"order/{self.order_id}"
        return Movement(*self.position, quantity, from_bucket, to_bucket, reason_code, document, actor=actor)


# -------------------------------------------------------------------------------------------------------------- orders
@step("ledger.open_shortfalls")
async def open_shortfalls(
    tx: Transaction,
    position: Position,
    units: int,
    *,
    cause: ShortfallCause,
    reference: str,
    actor: str,
    besides: UUID = NOBODY,
) -> int:
    """Decides whose units of a locked position are gone, and writes it down. Returns how many were anybody's.

    `besides`: a fulfillment order whose units are known to be there.
    """
    rows = await tx.connection.fetch(PROMISES, *position, besides)
    broken = break_promises([Promise(*row) for row in rows if row["quantity"] > 0], units, cause)
    if not broken:
        return 0
    ids, first_step = [new_id() for _ in broken], FIRST_STEP[cause]
    await tx.connection.execute(
        OPEN,
        ids,
        [promise.fulfillment_order_id for promise, _ in broken],
        [promise.line_number for promise, _ in broken],
        [quantity for _, quantity in broken],
        *position,
        cause.value,
        reference,
        first_step.value,
    )
    opened = _open(await tx.connection.fetch(OF_IDS, ids))
    total = sum(s.quantity for s in opened)
    await tx.add_short(position, total)
    await tx.post([s.movement(s.quantity, Bucket.ALLOCATED, Bucket.ADJUSTMENT, OPENED, actor) for s in opened])
    for shortfall in opened:
        _emit(tx, "opened", shortfall, {"reference_document": reference})
    return total


@step("ledger.open_rejected")
async def open_rejected(
    tx: Transaction,
    fulfillment_order_id: UUID,
    lines: Sequence[tuple[int, Position, int]],
    *,
    cause: ShortfallCause,
    reference: str,
) -> None:
    """Writes down what a location does not bring: (line_number, position, units) of work that it rejected, levels locked."""
    ids = []
    for line_number, position, units in lines:
        ids.append(new_id())
        await tx.connection.execute(
            OPEN,
            [ids[-1]],
            [fulfillment_order_id],
            [line_number],
            [units],
            *position,
            cause.value,
            reference,
            FIRST_STEP[cause].value,
        )
    for shortfall in _open(await tx.connection.fetch(OF_IDS, ids)):
        _emit(tx, "opened", shortfall, {"cause": cause.value, "reference_document": reference})


@step("ledger.open_backorders")
async def open_backorders(
    tx: Transaction,
    position: Position,
    promises: Sequence[Promise],
    reference: str,
    cause: ShortfallCause = ShortfallCause.BACKORDER,
    first_step: ShortfallStep = FIRST_STEP[ShortfallCause.BACKORDER],
) -> None:
    """Promises claimed units of a locked position that are not there: they wait for what comes in, first come first served."""
    ids, units = [new_id() for _ in promises], sum(promise.quantity for promise in promises)
    await tx.connection.execute(
        OPEN,
        ids,
        [promise.fulfillment_order_id for promise in promises],
        [promise.line_number for promise in promises],
        [promise.quantity for promise in promises],
        *position,
        cause.value,
        reference,
        first_step.value,
    )
    await tx.add_short(position, units, units if cause is ShortfallCause.BACKORDER else 0)
    tx.owe(position, units)
    for shortfall in _open(await tx.connection.fetch(OF_IDS, ids)):
        _emit(tx, "opened", shortfall, {"cause": cause.value, "reference_document": reference})


async def cover(tx: Transaction, grown: Mapping[Position, tuple[int, Movement]]) -> list[Movement]:
    """Ends shortfalls with units that came into `available`, and returns the movements that take them from there.

    `grown`: by how much it grew, and the movement by which. The caller books them within the same increase.
    """
    return await _take(tx, grown, COVERED)


@step("ledger.fill_backorders")
async def fill(tx: Transaction, position: Position, units: int) -> None:
    """Gives claimed units of `available` to those who wait longest for them at a locked position."""
    by = Movement(*position, units, Bucket.AVAILABLE, Bucket.ALLOCATED, FILLED, "backorders")
    await tx.post(await _take(tx, {position: (units, by)}, FILLED))


async def _take(tx: Transaction, grown: Mapping[Position, tuple[int, Movement]], why: str) -> list[Movement]:
    """Ends shortfalls, the oldest promise's first, with units of `available`; the movements that take them from there."""
    movements: list[Movement] = []
    for position, (units, by) in sorted(grown.items()):
        ends: list[tuple[Open, int]] = []
        for shortfall in _open(await tx.connection.fetch(AT, *position)):
            if taken := min(units, shortfall.quantity):
                ends.append((shortfall, taken))
                units -= taken
        reason = ShortfallEnd.COUNTED if by.reason_code == "COUNT" else ShortfallEnd.COVERED
        await _end(tx, ends, reason, by.reference_document)
        way = Bucket.AVAILABLE, Bucket.ALLOCATED, why
        movements += [s.movement(n, *way, by.actor) for s, n in ends]
    return movements


@step("ledger.end_shortfalls")
async def found_in_hand(tx: Transaction, fulfillment_order_id: UUID, reference: str, actor: str) -> None:
    """Somebody has the goods of a fulfillment order in hand, whose levels are locked: what was short of it was there."""
    found = _open(await tx.connection.fetch(OF_WORK, [fulfillment_order_id]))
    await _end(tx, [(s, s.quantity) for s in found], ShortfallEnd.IN_HAND, reference)
    await tx.post([s.movement(s.quantity, Bucket.ADJUSTMENT, Bucket.ALLOCATED, FOUND, actor) for s in found])


@step("ledger.end_shortfalls_of_lines")
async def give_up(
    tx: Transaction, units: Sequence[tuple[UUID, int, int]], reason: ShortfallEnd, reference: str
) -> Mapping[tuple[UUID, int], int]:
    """Ends what is short of (fulfillment_order_id, line_number, quantity) units that go, whose levels are locked.

    Returns how many of each were not there, by (fulfillment_order_id, line_number).
    """
    ends = await _first_of(tx, units)
    await _end(tx, ends, reason, reference)
    absent = Counter[tuple[UUID, int]]()
    for shortfall, quantity in ends:
        absent[shortfall.fulfillment_order_id, shortfall.line_number] += quantity
    return absent


@step("ledger.end_shortfalls_in_part")
async def found_in_part(tx: Transaction, units: Sequence[tuple[UUID, int, int]], reference: str, actor: str) -> None:
    """As `found_in_hand`, of (fulfillment_order_id, line_number, quantity): so many were there after all."""
    found = await _first_of(tx, units)
    await _end(tx, found, ShortfallEnd.IN_HAND, reference)
    await tx.post([s.movement(n, Bucket.ADJUSTMENT, Bucket.ALLOCATED, FOUND, actor) for s, n in found])


@step("ledger.end_shortfall")
async def end_one(tx: Transaction, shortfall_id: UUID, reason: ShortfallEnd, reference: str) -> None:
    """Ends a shortfall whose level is locked."""
    (shortfall,) = _open(await tx.connection.fetch(OF_IDS, [shortfall_id]))
    await _end(tx, [(shortfall, shortfall.quantity)], reason, reference)


async def _first_of(tx: Transaction, units: Sequence[tuple[UUID, int, int]]) -> list[tuple[Open, int]]:
    """The oldest open shortfalls of lines, for at most so many units of each."""
    left = {(work, line): quantity for work, line, quantity in units}
    taken = []
    for shortfall in _open(await tx.connection.fetch(OF_WORK, [work for work, _, _ in units])):
        key = shortfall.fulfillment_order_id, shortfall.line_number
        if n := min(left.get(key, 0), shortfall.quantity):
            taken.append((shortfall, n))
            left[key] -= n
    return taken


@step("ledger.follow_shortfalls")
async def follow(tx: Transaction, old: UUID, new: UUID, lines: Sequence[int]) -> None:
    """What is short of lines of a fulfillment order is short of another one, of the same location, that has their units now."""
    await tx.connection.execute(FOLLOW, old, new, lines)


async def short_of_lines(
    connection: Connection, fulfillment_order_ids: Sequence[UUID]
) -> Mapping[tuple[UUID, int], int]:
    """How many units are short, by (fulfillment_order_id, line_number); without a lock it may change at once."""
    short = Counter[tuple[UUID, int]]()
    for shortfall in _open(await connection.fetch(OF_WORK, fulfillment_order_ids)):
        short[shortfall.fulfillment_order_id, shortfall.line_number] += shortfall.quantity
    return short


@step("ledger.counted_shortfalls")
async def counted(tx: Transaction, positions: Iterable[Position]) -> None:
    """Positions of one location, locked, were counted: what is still short there is not there."""
    short = [p for p in positions if tx.short(p)]
    if short:
        rows = await tx.connection.fetch(WAITING_FOR_COUNT, short[0][0], [sku for _, sku in short])
        await set_step(tx, [row["shortfall_id"] for row in rows], ShortfallStep.COUNT, ShortfallStep.CHOOSE)


@step("ledger.step_shortfalls")
async def set_step(tx: Transaction, ids: Sequence[UUID], old: ShortfallStep, new: ShortfallStep) -> None:
    """Takes shortfalls, whose levels are locked, to their next step."""
    if ids:
        await tx.connection.execute(SET_STEP, ids, old.value, new.value)
        for shortfall in _open(await tx.connection.fetch(OF_IDS, ids)):
            _emit(tx, "next_step", shortfall, {})


async def _end(tx: Transaction, ends: Sequence[tuple[Open, int]], reason: ShortfallEnd, reference: str) -> None:
    if not ends:
        return
    await tx.connection.execute(END, [s.shortfall_id for s, _ in ends], [n for _, n in ends], reason.value, reference)
    for shortfall, quantity in ends:
        if shortfall.cause in OF_STOCK:
            is_backorder = shortfall.cause is ShortfallCause.BACKORDER
            await tx.add_short(shortfall.position, -quantity, -quantity if is_backorder else 0)
    after = {s.shortfall_id: s for s in _open(await tx.connection.fetch(OF_IDS, [s.shortfall_id for s, _ in ends]))}
    for shortfall, quantity in ends:
        data = {"quantity": quantity, "reason": reason.value, "reference_document": reference}
        _emit(tx, "resolved", after[shortfall.shortfall_id], data)


def _open(rows: Iterable[Any]) -> list[Open]:
    return [
        Open(
            r[0],
            r[1],
            r[2],
            r[3],
            r[4],
            r[5],
            ShortfallStep(r["next_step"]),
            r["order_id"],
            r["order_number"],
            r["customer_id"],
            ShortfallCause(r["cause"]),
        )
        for r in rows
    ]


def _emit(tx: Transaction, what: str, shortfall: Open, data: Mapping[str, Any]) -> None:
    tx.emit(
        f"onhand.shortfall.{what}.v1",
        f"shortfall/{shortfall.shortfall_id}",
        {
            "shortfall_id": str(shortfall.shortfall_id),
            "order_id": str(shortfall.order_id),
            "order_number": shortfall.order_number,
            "customer_id": shortfall.customer_id,
            "fulfillment_order_id": str(shortfall.fulfillment_order_id),
            "line_number": shortfall.line_number,
            "location_id": shortfall.location_id,
            "sku": shortfall.sku,
            "open_quantity": shortfall.quantity,
            "next_step": shortfall.next_step.value,
            "cause": shortfall.cause.value,
            **data,
        },
        shortfall.location_id,
    )


# -------------------------------------------------------------------------------------------------------- reservations
@step("ledger.mark_overdrawn")
async def mark_overdrawn(tx: Transaction, before: Mapping[Position, Level]) -> None:
    """A fact took reserved units of locked positions, which held `before`: from now on it is asked who is short there."""
    columns = [p[0] for p in before], [p[1] for p in before]
    await tx.connection.execute(MARK, *columns)
    promised = [level.available + tx.policy(position).room for position, level in before.items()]
    for row in await tx.connection.fetch(BROKEN_RESERVATIONS, *columns, promised):
        data = {**dict(row), "reservation_id": str(row["reservation_id"])}
        tx.emit("onhand.reservation.short.v1", f"reservation/{row['reservation_id']}", data, row["location_id"])


async def unmark(connection: Connection, positions: Sequence[Position]) -> None:
    """Forgets marks of locked positions where nothing is short any more, and nothing can be on its way to be."""
    await connection.execute(UNMARK, [p[0] for p in positions], [p[1] for p in positions])


@step("ledger.older_reservations")
async def needed_by_older(connection: Connection, reserved: Sequence[tuple[str, str, UUID]]) -> Mapping[Position, int]:
    """What reservations older than a claim need there, active ones and backordered ones, for (location_id, sku, claim_id)."""
    columns = [[line[n] for line in reserved] for n in range(3)]
    needed = Counter({(r["location_id"], r["sku"]): r["units"] for r in await connection.fetch(OLDER, *columns)})
    for row in await connection.fetch(WAITING_BEFORE, *columns):
        needed[row["location_id"], row["sku"]] += row["units"]
    return needed
