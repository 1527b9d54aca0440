"""Transfers: units on their way from one location to another, from the request to the last of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from onhand.caller import Caller
from onhand.domain.errors import LocationNotFound, TransferExceeded, TransferNotFound, invalid
from onhand.domain.stock import Bucket, Movement, Position, sum_lines
from onhand.domain.transfer import (
    Arrival,
    TransferLine,
    TransferState,
    TransferStep,
    arrive,
    check_step,
    give_up,
    left_out,
    state_after,
)
from onhand.ids import new_id, parse_id
from onhand.inventory.tasks import ask_to_count
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.paging import decode_token, encode_token, fill, page_size
from onhand.postgres import Connection
from onhand.reservations.decrease import Decreases, Overdrawn
from onhand.v1 import inventory_pb2 as v1
from onhand.v1 import types_pb2
from onhand.wire import moment, timestamp

_COLUMNS = (
    "transfer_id, from_location_id, to_location_id, state, created_time, expected_time, reason_code, from_transfer_id"
)
INSERT = """
INSERT INTO transfers (transfer_id, from_location_id, to_location_id, state, expected_time, from_transfer_id)
VALUES ($1, $2, $3, $4, $5, $6)"""
GET = f"SELECT {_COLUMNS} FROM transfers WHERE transfer_id = $1"
LINES = """
SELECT transfer_id, sku, requested, dispatched, received, over, lost, returned FROM transfer_lines
 WHERE transfer_id = ANY ($1) ORDER BY transfer_id, sku"""
SAVE_LINES = """
INSERT INTO transfer_lines AS t (transfer_id, sku, requested, dispatched, received, over, lost, returned)
SELECT $1, l.* FROM unnest($2::text[], $3::int8[], $4::int8[], $5::int8[], $6::int8[], $7::int8[], $8::int8[])
            AS l (sku, requested, dispatched, received, over, lost, returned)
ON CONFLICT (transfer_id, sku) DO UPDATE
   SET dispatched = excluded.dispatched, received = excluded.received, over = excluded.over, lost = excluded.lost,
       returned = excluded.returned"""
SET_STATE = """
UPDATE transfers SET state = $2, reason_code = $3, expected_time = coalesce($4, expected_time), updated_time = now()
 WHERE transfer_id = $1"""
_PAGE = f"""
SELECT {_COLUMNS} FROM (
    (SELECT * FROM transfers WHERE $4 AND to_location_id = $1 AND transfer_id < $2 {{which}} ORDER BY transfer_id DESC LIMIT $3)
     UNION ALL
    (SELECT * FROM transfers WHERE $5 AND from_location_id = $1 AND transfer_id < $2 {{which}} ORDER BY transfer_id DESC LIMIT $3)
    ) AS t ORDER BY transfer_id DESC LIMIT $3"""
PAGE = _PAGE.format(which="")
OPEN_PAGE = _PAGE.format(which="AND state IN ('REQUESTED', 'IN_TRANSIT')")
IS_THERE = "SELECT true FROM locations WHERE location_id = $1 AND deleted_time IS NULL"
LAST_ID = UUID(int=2**128 - 1)

OVER, LOST = "TRANSFER_OVER", "TRANSFER_LOST"
"""Reasons of count tasks for the sender, and of movements adjustment -> in_transit and back."""


class _Received(NamedTuple):
    """What arrived of a sku, and how much of it in order."""

    arrival: Arrival
    good: int
    damaged: int


class Transfers:
    """Transfers between locations."""

    def __init__(self, ledger: Ledger, decreases: Decreases) -> None:
        self._ledger = ledger
        self._decreases = decreases

    # ------------------------------------------------------------------------------------------------- ask and send
    async def request_transfer(self, request: v1.RequestTransferRequest, caller: Caller) -> v1.RequestTransferResponse:
        """Asks another location for units."""
        _check_apart(request.from_location_id, request.to_location_id)
        lines = [TransferLine(sku, requested=quantity) for sku, quantity in _summed(request.lines)]
        transfer_id = new_id()

        async def work(transaction: Transaction) -> v1.RequestTransferResponse:
            places = (request.from_location_id, request.to_location_id)
            await transaction.lock_levels([(place, line.sku) for place in places for line in lines], create=True)
            state = TransferState.REQUESTED.value
            await transaction.connection.execute(INSERT, transfer_id, *places, state, None, None)
            await _save(transaction.connection, transfer_id, lines)
            return v1.RequestTransferResponse(transfer=await _told(transaction, transfer_id, "requested"))

        return await self._ledger.mutate(request, v1.RequestTransferResponse, work)

    async def dispatch_transfer(
        self, request: v1.DispatchTransferRequest, caller: Caller
    ) -> v1.DispatchTransferResponse:
        """Sends units on their way: a decision, which must not break a promise."""
        _check_apart(request.from_location_id, request.to_location_id)
        wanted, expected_time = _summed(request.lines), _expected(request)
        transfer_id = new_id()

        async def work(transaction: Transaction, overdrawn: Overdrawn) -> v1.DispatchTransferResponse:
            places = (request.from_location_id, request.to_location_id)
            await _lock_both(transaction, *places, [sku for sku, _ in wanted])
            state = TransferState.IN_TRANSIT.value
            await transaction.connection.execute(INSERT, transfer_id, *places, state, expected_time, None)
            lines = [TransferLine(sku, dispatched=quantity) for sku, quantity in wanted]
            await _send(transaction, transfer_id, request.from_location_id, lines, caller)
            return v1.DispatchTransferResponse(transfer=await _told(transaction, transfer_id, "dispatched"))

        takes = [(request.from_location_id, wanted)]
        return await self._decreases.decision(request, v1.DispatchTransferResponse, takes, work)

    async def dispatch_requested_transfer(
        self, request: v1.DispatchRequestedTransferRequest, caller: Caller
    ) -> v1.DispatchRequestedTransferResponse:
        """Sends what another location asked for, or what there is of it."""
        transfer_id, expected_time = parse_id("transfer_id", request.transfer_id), _expected(request)
        async with self._ledger.read() as connection:
            row, asked = await _load(connection, transfer_id)
        if TransferState(row["state"]) is not TransferState.REQUESTED:
            first = await self._ledger.find_answer(request, v1.DispatchRequestedTransferResponse)
            if first is not None:
                return first
            _check(row, TransferStep.DISPATCH)
        wanted = _summed(request.lines) or [(sku, line.requested) for sku, line in asked.items()]
        places = row["from_location_id"], row["to_location_id"]

        async def work(transaction: Transaction, overdrawn: Overdrawn) -> v1.DispatchRequestedTransferResponse:
            row, asked = await _load(transaction.connection, transfer_id, is_locked=True)
            _check(row, TransferStep.DISPATCH)
            await _lock_both(transaction, *places, [sku for sku, _ in wanted])
            requested = {sku: line.requested for sku, line in asked.items()}
            lines = [TransferLine(sku, requested.get(sku, 0), quantity) for sku, quantity in wanted]
            await _send(transaction, transfer_id, places[0], lines, caller)
            await _step(transaction, row, TransferStep.DISPATCH, lines, expected_time=expected_time)
            response = v1.DispatchRequestedTransferResponse(
                transfer=await _told(transaction, transfer_id, "dispatched")
            )
            if request.keeps_rest and (rest := left_out(asked.values(), dict(wanted))):
                rest_id, state = new_id(), TransferState.REQUESTED.value
                await transaction.connection.execute(INSERT, rest_id, *places, state, None, transfer_id)
                await _save(transaction.connection, rest_id, rest)
                response.rest.CopyFrom(await _told(transaction, rest_id, "requested"))
            return response

        takes = [(places[0], wanted)]
        return await self._decreases.decision(request, v1.DispatchRequestedTransferResponse, takes, work)

    async def cancel_transfer(self, request: v1.CancelTransferRequest, caller: Caller) -> v1.CancelTransferResponse:
        """Withdraws or declines a request."""
        transfer_id = parse_id("transfer_id", request.transfer_id)

        async def work(transaction: Transaction) -> v1.CancelTransferResponse:
            row, lines = await _load(transaction.connection, transfer_id, is_locked=True)
            _check(row, TransferStep.CANCEL)
            await _step(transaction, row, TransferStep.CANCEL, lines.values(), reason_code=request.reason_code)
            return v1.CancelTransferResponse(transfer=await _told(transaction, transfer_id, "cancelled"))

        return await self._ledger.mutate(request, v1.CancelTransferResponse, work)

    # --------------------------------------------------------------------------------------------- receive and close
    async def receive_transfer(self, request: v1.ReceiveTransferRequest, caller: Caller) -> v1.ReceiveTransferResponse:
        """Books units that arrived."""
        transfer_id = parse_id("transfer_id", request.transfer_id)

        async def work(transaction: Transaction) -> v1.ReceiveTransferResponse:
            connection = transaction.connection
            row, lines = await _load(connection, transfer_id, is_locked=True)
            _check(row, TransferStep.RECEIVE)
            received = _received(request, lines)
            origin, target = row["from_location_id"], row["to_location_id"]
            over = [(origin, sku) for sku, r in received.items() if r.arrival.over]
            if over and not await connection.fetchval(IS_THERE, origin):
                over = []
            await transaction.lock_levels([(target, sku) for sku in received] + over, create=True)
            await _save(connection, transfer_id, [r.arrival.line for r in received.values()])
            after = lines | {sku: r.arrival.line for sku, r in received.items()}
            await _step(transaction, row, TransferStep.RECEIVE, after.values(), reason_code=row["reason_code"])
            document = f"transfer/{transfer_id}"
            await transaction.post([m for r in received.values() for m in _arrivals(target, r, document, caller)])
            await ask_to_count(connection, over, OVER, document)
            return v1.ReceiveTransferResponse(transfer=await _told(transaction, transfer_id, "received"))

        return await self._ledger.mutate(request, v1.ReceiveTransferResponse, work)

    async def close_transfer(self, request: v1.CloseTransferRequest, caller: Caller) -> v1.CloseTransferResponse:
        """Says what became of units that do not arrive any more."""
        transfer_id = parse_id("transfer_id", request.transfer_id)
        is_back = request.loss == v1.TRANSFER_LOSS_BACK_AT_SENDER

        async def work(transaction: Transaction) -> v1.CloseTransferResponse:
            row, lines = await _load(transaction.connection, transfer_id, is_locked=True)
            _check(row, TransferStep.CLOSE)
            missing = {sku: line.on_way for sku, line in lines.items() if line.on_way}
            origin, target = row["from_location_id"], row["to_location_id"]
            await _lock_both(transaction, origin, target, list(missing))
            after = {sku: give_up(line, is_back=is_back) for sku, line in lines.items()}
            await _save(transaction.connection, transfer_id, list(after.values()))
            await _step(transaction, row, TransferStep.CLOSE, after.values(), reason_code=request.reason_code)
            document = f"transfer/{transfer_id}"
            place, to_bucket, why = (
                (origin, Bucket.AVAILABLE, "TRANSFER_BACK") if is_back else (target, Bucket.ADJUSTMENT, LOST)
            )
            await transaction.post(
                [
                    Movement(place, sku, n, Bucket.IN_TRANSIT, to_bucket, why, document, actor=caller.actor)
                    for sku, n in missing.items()
                ]
            )
            if not is_back:
                await ask_to_count(transaction.connection, [(origin, sku) for sku in missing], LOST, document)
            return v1.CloseTransferResponse(transfer=await _told(transaction, transfer_id, "closed"))

        return await self._ledger.mutate(request, v1.CloseTransferResponse, work)

    # -------------------------------------------------------------------------------------------------------- reads
    async def get_transfer(self, request: v1.GetTransferRequest, caller: Caller) -> v1.GetTransferResponse:
        """Reads a transfer."""
        async with self._ledger.read() as connection:
            row, lines = await _load(connection, parse_id("transfer_id", request.transfer_id))
        return v1.GetTransferResponse(transfer=_message(row, lines.values()))

    async def list_transfers(self, request: v1.ListTransfersRequest, caller: Caller) -> v1.ListTransfersResponse:
        """Lists transfers from and to a location, newest first."""
        size = page_size(request.page_size)
        (before,) = decode_token(request, UUID) or (LAST_ID,)
        sides = (
            request.direction != v1.TRANSFER_DIRECTION_OUTBOUND,
            request.direction != v1.TRANSFER_DIRECTION_INBOUND,
        )
        statement = OPEN_PAGE if request.is_open else PAGE
        async with self._ledger.read() as connection:
            rows = await connection.fetch(statement, request.location_id, before, size + 1, *sides)
            if not rows and not await connection.fetchval(IS_THERE, request.location_id):
                raise LocationNotFound(request.location_id)
            lines = await _lines(connection, [row["transfer_id"] for row in rows])

        def message(row: Any) -> v1.Transfer:
            return _message(row, lines.get(row["transfer_id"], {}).values())

        items, last = fill(rows, size, message)
        token = encode_token(request, UUID(str(last["transfer_id"]))) if last else ""
        return v1.ListTransfersResponse(transfers=items, next_page_token=token)


# ---------------------------------------------------------------------------------------------------------- what arrives
def _received(request: v1.ReceiveTransferRequest, lines: Mapping[str, TransferLine]) -> dict[str, _Received]:
    """What each sku's arrival is. Raises TransferExceeded where more came than is known, unless that is accepted."""
    good, damaged = dict(_summed(request.lines)), dict(_summed(request.damaged_lines))
    if not good and not damaged:
        good = {sku: line.on_way for sku, line in lines.items() if line.on_way}
        if not good:
            first = next(iter(lines.values()))
            raise TransferExceeded(request.transfer_id, first.sku, 0, first.dispatched)
    received = {}
    for sku in sorted(good.keys() | damaged.keys()):
        units = good.get(sku, 0), damaged.get(sku, 0)
        line = lines.get(sku, TransferLine(sku))
        arrival = arrive(request.transfer_id, line, sum(units), accepts_more=request.accepts_more)
        received[sku] = _Received(arrival, *units)
    return received


def _arrivals(location_id: str, received: _Received, document: str, caller: Caller) -> list[Movement]:
    """Units are on the way first, however they came there."""
    arrival = received.arrival
    ways = (
        (arrival.found, Bucket.ADJUSTMENT, Bucket.IN_TRANSIT, "TRANSFER_FOUND"),
        (arrival.over, Bucket.ADJUSTMENT, Bucket.IN_TRANSIT, OVER),
        (received.good, Bucket.IN_TRANSIT, Bucket.AVAILABLE, "TRANSFER_IN"),
        (received.damaged, Bucket.IN_TRANSIT, Bucket.DAMAGED, "TRANSFER_IN"),
    )
    return [
        Movement(location_id, arrival.line.sku, n, from_bucket, to_bucket, why, document, actor=caller.actor)
        for n, from_bucket, to_bucket, why in ways
        if n
    ]


def _summed(lines: Iterable[types_pb2.BasketLine]) -> list[tuple[str, int]]:
    return sum_lines((line.sku, line.quantity) for line in lines)


def _expected(request: v1.DispatchTransferRequest | v1.DispatchRequestedTransferRequest) -> datetime | None:
    return moment("expected_time", request.expected_time) if request.HasField("expected_time") else None


def _check_apart(origin: str, target: str) -> None:
    if origin == target:
        raise invalid("to_location_id", "must be another location than from_location_id")


# -------------------------------------------------------------------------------------------------------------- the rows
async def _load(
    connection: Connection, transfer_id: UUID, *, is_locked: bool = False
) -> tuple[Any, dict[str, TransferLine]]:
    """A transfer's row and lines by sku. Raises TransferNotFound."""
    row = await connection.fetchrow(GET + (" FOR UPDATE" if is_locked else ""), transfer_id)
    if row is None:
        raise TransferNotFound(str(transfer_id))
    return row, (await _lines(connection, [transfer_id])).get(transfer_id, {})


async def _lines(connection: Connection, transfer_ids: Sequence[UUID]) -> dict[UUID, dict[str, TransferLine]]:
    lines: dict[UUID, dict[str, TransferLine]] = {}
    for row in await connection.fetch(LINES, transfer_ids):
        lines.setdefault(row["transfer_id"], {})[row["sku"]] = TransferLine(*tuple(row)[1:])
    return lines


async def _save(connection: Connection, transfer_id: UUID, lines: Sequence[TransferLine]) -> None:
    columns = zip(
        *((n.sku, n.requested, n.dispatched, n.received, n.over, n.lost, n.returned) for n in lines), strict=True
    )
    await connection.execute(SAVE_LINES, transfer_id, *(list(column) for column in columns))


async def _lock_both(transaction: Transaction, origin: str, target: str, skus: Sequence[str]) -> None:
    # The receiving levels are made too, so that an unknown receiver is refused before anything is on its way.
    positions: list[Position] = [(place, sku) for place in (origin, target) for sku in skus]
    await transaction.lock_levels(positions, create=True)


async def _send(
    transaction: Transaction, transfer_id: UUID, origin: str, lines: Sequence[TransferLine], caller: Caller
) -> None:
    await _save(transaction.connection, transfer_id, lines)
    way, document = (Bucket.AVAILABLE, Bucket.IN_TRANSIT, "TRANSFER_OUT"), f"transfer/{transfer_id}"
    await transaction.post(
        [Movement(origin, line.sku, line.dispatched, *way, document, actor=caller.actor) for line in lines]
    )


def _check(row: Any, step: TransferStep) -> None:
    check_step(f"transfer/{row['transfer_id']}", TransferState(row["state"]), step)


async def _step(
    transaction: Transaction,
    row: Any,
    step: TransferStep,
    lines: Iterable[TransferLine],
    *,
    reason_code: str = "",
    expected_time: datetime | None = None,
) -> None:
    after = state_after(TransferState(row["state"]), step, list(lines))
    await transaction.connection.execute(SET_STATE, row["transfer_id"], after.value, reason_code, expected_time)


async def _told(transaction: Transaction, transfer_id: UUID, what: str) -> v1.Transfer:
    """The transfer as it is now, which an event tells of."""
    row, lines = await _load(transaction.connection, transfer_id)
    data = {
        "transfer_id": str(transfer_id),
        "from_location_id": row["from_location_id"],
        "to_location_id": row["to_location_id"],
        "state": row["state"],
        "reason_code": row["reason_code"],
        "lines": [
            {"sku": n.sku, "in_transit": n.on_way, "received": n.received, "over": n.over, "lost": n.lost}
            for n in lines.values()
        ],
    }
    if row["from_transfer_id"]:
        data["from_transfer_id"] = str(row["from_transfer_id"])
    transaction.emit(f"onhand.transfer.{what}.v1", f"transfer/{transfer_id}", data, row["to_location_id"])
    return _message(row, lines.values())


def _message(row: Any, lines: Iterable[TransferLine]) -> v1.Transfer:
    return v1.Transfer(
        transfer_id=str(row["transfer_id"]),
        from_location_id=row["from_location_id"],
        to_location_id=row["to_location_id"],
        state=v1.TransferState.Value("TRANSFER_STATE_" + row["state"]),
        lines=[
            v1.TransferLine(
                sku=n.sku,
                dispatched_quantity=n.dispatched,
                received_quantity=n.received,
                requested_quantity=n.requested,
                over_quantity=n.over,
                lost_quantity=n.lost,
                returned_quantity=n.returned,
                in_transit_quantity=n.on_way,
            )
            for n in lines
        ],
        created_time=timestamp(row["created_time"]),
        expected_time=timestamp(row["expected_time"]) if row["expected_time"] else None,
        reason_code=row["reason_code"],
        from_transfer_id=str(row["from_transfer_id"] or ""),
    )
