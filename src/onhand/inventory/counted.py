"""Booking what a person counted: a fact. What is missing was promised to somebody, or to nobody; what is too much was found."""

from __future__ import annotations

from collections.abc import Mapping

from onhand.caller import Caller
from onhand.domain.shortage import ShortfallCause, missing_by_count
from onhand.domain.stock import Bucket, Level, Movement, Position
from onhand.ids import new_id
from onhand.inventory.tasks import CLOSE_TASKS
from onhand.ledger import shortfalls
from onhand.ledger.claims import ClaimRefused
from onhand.ledger.transaction import Transaction
from onhand.reservations.decrease import Overdrawn
from onhand.v1 import inventory_pb2 as v1

RECORD_SHORTAGE = """
INSERT INTO shortages (shortage_id, location_id, sku, quantity, reference_document) VALUES ($1, $2, $3, $4, $5)"""

COUNTED_OFF = (Bucket.AVAILABLE, Bucket.ALLOCATED, Bucket.DAMAGED, Bucket.QUARANTINE)
"""Where units are missing from that a count did not find, the first first: a promise is doubted rather than kept in silence."""


async def book_count(
    transaction: Transaction,
    levels: Mapping[Position, Level],
    counted: Mapping[Position, int],
    *,
    reference: str,
    caller: Caller,
    overdrawn: Overdrawn,
) -> list[v1.CountResult]:
    """Makes on_hand of locked positions of one location what was counted, and closes their count tasks.

    Raises ClaimRefused where what has to leave `available` is not what was claimed for it.
    """
    if not transaction.covers({p: missing(level, counted[p]) for p, level in levels.items()}):
        raise ClaimRefused  # stock moved since it was looked at: look and claim again
    await transaction.post(
        [m for p, level in levels.items() for m in _movements(p, level, counted[p], reference, caller)]
    )
    reserved = {p: levels[p] for p in levels if overdrawn.get(p)}
    if reserved:
        await shortfalls.mark_overdrawn(transaction, reserved)
    results = []
    for position, level in sorted(levels.items()):
        broken = overdrawn.get(position, 0)
        if promised := _taken(level, counted[position])[1]:
            broken += await shortfalls.open_shortfalls(
                transaction,
                position,
                promised,
                cause=ShortfallCause.COUNT,
                reference=reference,
                actor=caller.actor,
            )
        if broken:
            await record_shortage(transaction, position, broken, reference)
        results.append(
            v1.CountResult(
                level=level_message(position, transaction.level(position)),
                expected_quantity=level.on_hand,
                variance_quantity=counted[position] - level.on_hand,
                short_quantity=broken,
            )
        )
    await shortfalls.counted(transaction, levels)
    for location_id in {p[0] for p in levels}:
        await transaction.connection.execute(CLOSE_TASKS, location_id, [p[1] for p in levels])
    return results


async def record_shortage(transaction: Transaction, position: Position, quantity: int, reference: str) -> None:
    """Makes broken promises visible: units that a fact took although they were promised."""
    await transaction.connection.execute(RECORD_SHORTAGE, new_id(), *position, quantity, reference)
    data = {"location_id": position[0], "sku": position[1], "quantity": quantity, "reference_document": reference}
    transaction.emit("onhand.stock.shortage.v1", f"location/{position[0]}/sku/{position[1]}", data, position[0])


def level_message(position: Position, level: Level) -> v1.StockLevel:
    """A level for the wire."""
    return v1.StockLevel(
        location_id=position[0],
        sku=position[1],
        available=level.available,
        allocated=level.allocated,
        damaged=level.damaged,
        quarantine=level.quarantine,
    )


def missing(level: Level, counted: int) -> int:
    """How many units a count takes from `available`: no more than are there."""
    return _taken(level, counted)[0]


def _taken(level: Level, counted: int) -> list[int]:
    """What a count takes from each of COUNTED_OFF."""
    held = [level.held(bucket) for bucket in COUNTED_OFF]
    return missing_by_count(on_hand=level.on_hand, counted=counted, held=held)


def _movements(position: Position, level: Level, counted: int, reference: str, caller: Caller) -> list[Movement]:
    """What a count books, but for units of orders: their shortfalls book those."""
    if counted > level.on_hand:
        found = counted - level.on_hand
        return [Movement(*position, found, Bucket.ADJUSTMENT, Bucket.AVAILABLE, "COUNT", reference, actor=caller.actor)]
    return [
        Movement(*position, taken, bucket, Bucket.ADJUSTMENT, "COUNT", reference, actor=caller.actor)
        for bucket, taken in zip(COUNTED_OFF, _taken(level, counted), strict=True)
        if taken and bucket is not Bucket.ALLOCATED
    ]
