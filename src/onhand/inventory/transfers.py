"""Transfers: units on their way from one location to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from onhand.caller import Caller
from onhand.domain.errors import TransferExceeded, TransferNotFound, invalid
from onhand.domain.stock import Bucket, Movement, sum_lines
from onhand.ids import new_id, parse_id
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.postgres import Connection
from onhand.reservations.decrease import Decreases, Overdrawn
from onhand.v1 import inventory_pb2 as v1
from onhand.wire import timestamp

INSERT = """
INSERT INTO transfers (transfer_id, from_location_id, to_location_id, state) VALUES ($1, $2, $3, 'IN_TRANSIT')"""
INSERT_LINES = """
INSERT INTO transfer_lines (transfer_id, sku, dispatched)
SELECT $1, l.sku, l.quantity FROM unnest($2::text[], $3::int8[]) AS l (sku, quantity)"""
GET = """
SELECT transfer_id, from_location_id, to_location_id, state, created_time FROM transfers WHERE transfer_id = $1"""
LINES = "SELECT sku, dispatched, received FROM transfer_lines WHERE transfer_id = $1 ORDER BY sku"
RECEIVE = """
UPDATE transfer_lines t SET received = received + l.quantity
  FROM unnest($2::text[], $3::int8[]) AS l (sku, quantity)
 WHERE t.transfer_id = $1 AND t.sku = l.sku"""
CLOSE = """
UPDATE transfers SET updated_time = now(),
       state = CASE WHEN EXISTS (SELECT FROM transfer_lines WHERE transfer_id = $1 AND received < dispatched)
                    THEN 'IN_TRANSIT' ELSE 'RECEIVED' END
 WHERE transfer_id = $1"""


class Transfers:
    """Transfers between locations."""

    def __init__(self, ledger: Ledger, decreases: Decreases) -> None:
        self._ledger = ledger
        self._decreases = decreases

    async def dispatch_transfer(
        self, request: v1.DispatchTransferRequest, caller: Caller
    ) -> v1.DispatchTransferResponse:
        """Sends units on their way: a decision, which must not break a promise."""
        if request.from_location_id == request.to_location_id:
            raise invalid("to_location_id", "must be another location than from_location_id")
        lines = sum_lines((line.sku, line.quantity) for line in request.lines)
        transfer_id = new_id()

        async def work(transaction: Transaction, overdrawn: Overdrawn) -> v1.DispatchTransferResponse:
            origin = [(request.from_location_id, sku) for sku, _ in lines]
            # The receiving levels are made now, so that an unknown receiver is refused before anything is on its way.
            await transaction.lock_levels(origin + [(request.to_location_id, sku) for sku, _ in lines], create=True)
            columns = [sku for sku, _ in lines], [quantity for _, quantity in lines]
            await transaction.connection.execute(INSERT, transfer_id, request.from_location_id, request.to_location_id)
            await transaction.connection.execute(INSERT_LINES, transfer_id, *columns)
            await transaction.post(
                [
                    Movement(
                        request.from_location_id,
                        sku,
                        quantity,
                        Bucket.AVAILABLE,
                        Bucket.IN_TRANSIT,
                        "TRANSFER_OUT",
                        f"transfer/{transfer_id}",
                        actor=caller.actor,
                    )
                    for sku, quantity in lines
                ]
            )
            return v1.DispatchTransferResponse(transfer=await _read(transaction.connection, transfer_id))

        takes = [(request.from_location_id, lines)]
        return await self._decreases.decision(request, v1.DispatchTransferResponse, takes, work)

    async def receive_transfer(self, request: v1.ReceiveTransferRequest, caller: Caller) -> v1.ReceiveTransferResponse:
        """Books units that arrived."""
        transfer_id = parse_id("transfer_id", request.transfer_id)

        async def work(transaction: Transaction) -> v1.ReceiveTransferResponse:
            connection = transaction.connection
            transfer = await connection.fetchrow(GET + " FOR UPDATE", transfer_id)
            if transfer is None:
                raise TransferNotFound(request.transfer_id)
            rows = await connection.fetch(LINES, transfer_id)
            lines = _arrived(request, rows)
            to_location_id = transfer["to_location_id"]
            await transaction.lock_levels([(to_location_id, sku) for sku, _ in lines], create=True)
            await connection.execute(RECEIVE, transfer_id, [s for s, _ in lines], [q for _, q in lines])
            await connection.execute(CLOSE, transfer_id)
            await transaction.post(
                [
                    Movement(
                        to_location_id,
                        sku,
                        quantity,
                        Bucket.IN_TRANSIT,
                        Bucket.AVAILABLE,
                        "TRANSFER_IN",
                        f"transfer/{transfer_id}",
                        actor=caller.actor,
                    )
                    for sku, quantity in lines
                ]
            )
            return v1.ReceiveTransferResponse(transfer=await _read(connection, transfer_id))

        return await self._ledger.mutate(request, v1.ReceiveTransferResponse, work)

    async def get_transfer(self, request: v1.GetTransferRequest, caller: Caller) -> v1.GetTransferResponse:
        """Reads a transfer."""
        async with self._ledger.read() as connection:
            transfer = await _read(connection, parse_id("transfer_id", request.transfer_id))
        return v1.GetTransferResponse(transfer=transfer)


def _arrived(request: v1.ReceiveTransferRequest, rows: Sequence[Any]) -> list[tuple[str, int]]:
    """What is to be received. Raises TransferExceeded where it is more than is on its way."""
    on_way = {r["sku"]: r["dispatched"] - r["received"] for r in rows}
    if not request.lines:
        lines = [(sku, n) for sku, n in on_way.items() if n]
        if not lines:
            first = rows[0]
            raise TransferExceeded(request.transfer_id, first["sku"], 0, first["dispatched"])
        return lines
    lines = sum_lines((line.sku, line.quantity) for line in request.lines)
    for sku, quantity in lines:
        if quantity > on_way.get(sku, 0):
            raise TransferExceeded(request.transfer_id, sku, on_way.get(sku, 0), quantity)
    return lines


async def _read(connection: Connection, transfer_id: UUID) -> v1.Transfer:
    row = await connection.fetchrow(GET, transfer_id)
    if row is None:
        raise TransferNotFound(str(transfer_id))
    return v1.Transfer(
        transfer_id=str(row["transfer_id"]),
        from_location_id=row["from_location_id"],
        to_location_id=row["to_location_id"],
        state=v1.TransferState.Value("TRANSFER_STATE_" + row["state"]),
        lines=[
            v1.TransferLine(sku=r["sku"], dispatched_quantity=r["dispatched"], received_quantity=r["received"])
            for r in await connection.fetch(LINES, transfer_id)
        ],
        created_time=timestamp(row["created_time"]),
    )
