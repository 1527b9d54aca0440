"""Stock work at one location: receive, adjust, count, move between buckets, and the list of what happened."""

from __future__ import annotations

from uuid import UUID

from onhand.caller import Caller
from onhand.domain.errors import BucketShort, LocationNotFound, invalid
from onhand.domain.stock import Bucket, Level, Movement, Position, sum_lines
from onhand.inventory.counted import book_count, level_message, missing
from onhand.inventory.movements import MOVEMENT_ID_MAX, movement_message
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.paging import cut, decode_token, encode_token, page_size
from onhand.reservations.claims import Wants
from onhand.reservations.decrease import Decreases, Overdrawn
from onhand.v1 import inventory_pb2 as v1
from onhand.wire import timestamp

_MOVEMENTS = """
SELECT movement_id, sku, quantity, from_bucket, to_bucket, reason_code, reference_document, channel, actor, occurred_time,
       recorded_time
  FROM stock_movements WHERE location_id = $1 AND movement_id < $2"""
# Two statements: a plan for both would walk over all movements of a location in search of one sku's.
MOVEMENTS = f"{_MOVEMENTS} ORDER BY movement_id DESC LIMIT $3"
MOVEMENTS_OF_SKU = f"{_MOVEMENTS} AND sku = $4 ORDER BY movement_id DESC LIMIT $3"
COUNT_TASKS = """
SELECT count_task_id, sku, reason_code, reference_document, created_time FROM count_tasks
 WHERE location_id = $1 AND state = 'OPEN' AND count_task_id > $2 ORDER BY count_task_id LIMIT $3"""
LOCATION = "SELECT true FROM locations WHERE location_id = $1 AND deleted_time IS NULL"
LEVELS = """
SELECT sku, available, allocated, damaged, quarantine FROM stock_levels WHERE location_id = $1 AND sku = ANY ($2)"""

BUCKETS: dict[int, Bucket] = {
    v1.BUCKET_AVAILABLE: Bucket.AVAILABLE,
    v1.BUCKET_DAMAGED: Bucket.DAMAGED,
    v1.BUCKET_QUARANTINE: Bucket.QUARANTINE,
}


class Stock:
    """Stock work of a location."""

    def __init__(self, ledger: Ledger, decreases: Decreases) -> None:
        self._ledger = ledger
        self._decreases = decreases

    async def receive_stock(self, request: v1.ReceiveStockRequest, caller: Caller) -> v1.ReceiveStockResponse:
        """Books goods from a supplier."""
        lines = sum_lines((line.sku, line.quantity) for line in request.lines)

        async def work(transaction: Transaction) -> v1.ReceiveStockResponse:
            await transaction.lock_levels([(request.location_id, sku) for sku, _ in lines], create=True)
            after = await transaction.post(
                [
                    Movement(
                        request.location_id,
                        sku,
                        quantity,
                        Bucket.SUPPLIER,
                        Bucket.AVAILABLE,
                        "RECEIPT",
                        request.reference_document,
                        actor=caller.actor,
                    )
                    for sku, quantity in lines
                ]
            )
            return v1.ReceiveStockResponse(levels=[level_message(p, after[p]) for p in sorted(after)])

        return await self._ledger.mutate(request, v1.ReceiveStockResponse, work)

    async def adjust_stock(self, request: v1.AdjustStockRequest, caller: Caller) -> v1.AdjustStockResponse:
        """Corrects a bucket by a signed quantity."""
        bucket = _bucket("bucket", request.bucket) if request.bucket else Bucket.AVAILABLE
        position = (request.location_id, request.sku)
        from_bucket, to_bucket = (Bucket.ADJUSTMENT, bucket) if request.quantity > 0 else (bucket, Bucket.ADJUSTMENT)
        movement = Movement(
            *position,
            abs(request.quantity),
            from_bucket,
            to_bucket,
            request.reason_code,
            request.reference_document,
            actor=caller.actor,
        )

        async def work(transaction: Transaction, overdrawn: Overdrawn) -> v1.AdjustStockResponse:
            await self._lock(transaction, position, is_new=request.quantity > 0, movement=movement)
            after = await transaction.post([movement])
            return v1.AdjustStockResponse(level=level_message(position, after[position]))

        return await self._decreases.decision(request, v1.AdjustStockResponse, _takes(movement), work)

    async def move_stock(self, request: v1.MoveStockRequest, caller: Caller) -> v1.MoveStockResponse:
        """Moves units between buckets of a location."""
        from_bucket = _bucket("from_bucket", request.from_bucket)
        to_bucket = _bucket("to_bucket", request.to_bucket)
        if from_bucket is to_bucket:
            raise invalid("to_bucket", "must be another bucket than from_bucket")
        position = (request.location_id, request.sku)
        movement = Movement(
            *position,
            request.quantity,
            from_bucket,
            to_bucket,
            request.reason_code,
            request.reference_document,
            actor=caller.actor,
        )

        async def work(transaction: Transaction, overdrawn: Overdrawn) -> v1.MoveStockResponse:
            await self._lock(transaction, position, is_new=False, movement=movement)
            after = await transaction.post([movement])
            return v1.MoveStockResponse(level=level_message(position, after[position]))

        return await self._decreases.decision(request, v1.MoveStockResponse, _takes(movement), work)

    @staticmethod
    async def _lock(transaction: Transaction, position: Position, *, is_new: bool, movement: Movement) -> None:
        levels = await transaction.lock_levels([position], create=is_new)
        held = levels[position].held(movement.from_bucket) if movement.from_bucket.is_inside else 0
        if movement.from_bucket.is_inside and held < movement.quantity:
            raise BucketShort(*position, movement.from_bucket.value, movement.quantity, held)

    # ------------------------------------------------------------------------------------------------------- count
    async def count_stock(self, request: v1.CountStockRequest, caller: Caller) -> v1.CountStockResponse:
        """Books the difference between what was counted and on_hand. A count is a fact."""
        counted = {line.sku: line.counted_quantity for line in request.lines}
        if len(counted) < len(request.lines):
            raise invalid("lines", "a sku is counted twice")
        location_id, skus = request.location_id, sorted(counted)

        async def takes() -> Wants:
            async with self._ledger.read() as connection:
                rows = await connection.fetch(LEVELS, location_id, skus)
            levels = {r["sku"]: Level(*tuple(r)[1:]) for r in rows}
            lines = [(sku, missing(levels.get(sku, Level()), counted[sku])) for sku in skus]
            return [(location_id, [(sku, n) for sku, n in lines if n])]

        async def work(transaction: Transaction, overdrawn: Overdrawn) -> v1.CountStockResponse:
            levels = await transaction.lock_levels([(location_id, sku) for sku in skus], create=True)
            results = await book_count(
                transaction,
                levels,
                {p: counted[p[1]] for p in levels},
                reference=request.reference_document,
                caller=caller,
                overdrawn=overdrawn,
            )
            return v1.CountStockResponse(results=results)

        return await self._decreases.fact(request, v1.CountStockResponse, takes, work)

    # ------------------------------------------------------------------------------------------------------- lists
    async def list_movements(self, request: v1.ListMovementsRequest, caller: Caller) -> v1.ListMovementsResponse:
        """Lists movements, newest first."""
        size = page_size(request.page_size)
        (before,) = decode_token(request, int) or (MOVEMENT_ID_MAX,)
        async with self._ledger.read() as connection:
            if request.sku:
                rows = await connection.fetch(MOVEMENTS_OF_SKU, request.location_id, before, size + 1, request.sku)
            else:
                rows = await connection.fetch(MOVEMENTS, request.location_id, before, size + 1)
            if not rows and not await connection.fetchval(LOCATION, request.location_id):
                raise LocationNotFound(request.location_id)
        page, last = cut(rows, size)
        return v1.ListMovementsResponse(
            movements=[movement_message(request.location_id, r) for r in page],
            next_page_token=encode_token(request, last["movement_id"]) if last else "",
        )

    async def list_count_tasks(self, request: v1.ListCountTasksRequest, caller: Caller) -> v1.ListCountTasksResponse:
        """Lists open count tasks, oldest first."""
        size = page_size(request.page_size)
        (after,) = decode_token(request, UUID) or (UUID(int=0),)
        async with self._ledger.read() as connection:
            rows = await connection.fetch(COUNT_TASKS, request.location_id, after, size + 1)
            if not rows and not await connection.fetchval(LOCATION, request.location_id):
                raise LocationNotFound(request.location_id)
        page, last = cut(rows, size)
        return v1.ListCountTasksResponse(
            count_tasks=[
                v1.CountTask(
                    count_task_id=str(r["count_task_id"]),
                    location_id=request.location_id,
                    sku=r["sku"],
                    reason_code=r["reason_code"],
                    reference_document=r["reference_document"],
                    created_time=timestamp(r["created_time"]),
                )
                for r in page
            ],
            next_page_token=encode_token(request, UUID(str(last["count_task_id"]))) if last else "",
        )


def _takes(movement: Movement) -> Wants:
    """What has to be claimed before a movement: units that leave `available`."""
    if movement.from_bucket is not Bucket.AVAILABLE:
        return []
    return [(movement.location_id, [(movement.sku, movement.quantity)])]


def _bucket(field: str, value: int) -> Bucket:
    if value not in BUCKETS:
        raise invalid(field, "must be BUCKET_AVAILABLE, BUCKET_DAMAGED or BUCKET_QUARANTINE")
    return BUCKETS[value]
