"""Advance notices: what suppliers announce to a location, and what of it arrives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from onhand.caller import Caller
from onhand.domain.errors import LocationNotFound, invalid
from onhand.domain.receiving import NoticeLine, NoticeState, NoticeStep, announce, check_step, receive, state_after
from onhand.domain.stock import Bucket, Movement, sum_lines
from onhand.domain.stock_work_errors import AdvanceNoticeExceeded, AdvanceNoticeExists, AdvanceNoticeNotFound
from onhand.ids import new_id, parse_id
from onhand.inventory.counted import level_message
from onhand.inventory.transfers import IS_THERE, LAST_ID
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.paging import decode_token, encode_token, fill, page_size
from onhand.postgres import Connection
from onhand.v1 import receiving_pb2 as v1
from onhand.v1 import types_pb2
from onhand.wire import check_etag, etag, mask_paths, moment, timestamp

REASON = "NOTICE_RECEIPT"
"""The reason of movements that a notice's goods come in by."""
CHANGEABLE = ("expected_time", "lines")

_COLUMNS = """
advance_notice_id, location_id, supplier, supplier_reference, expected_time, state, reason_code, version, created_time"""
INSERT = """
INSERT INTO advance_notices (advance_notice_id, location_id, supplier, supplier_reference, expected_time, actor)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (supplier, supplier_reference) WHERE supplier_reference <> '' DO NOTHING RETURNING true"""
SAME = """
SELECT advance_notice_id FROM advance_notices WHERE supplier = $1 AND supplier_reference = $2 AND supplier_reference <> ''"""
GET = f"SELECT {_COLUMNS} FROM advance_notices WHERE advance_notice_id = $1"
LINES = """
SELECT advance_notice_id, sku, expected, received, damaged FROM advance_notice_lines
 WHERE advance_notice_id = ANY ($1) ORDER BY advance_notice_id, sku"""
SAVE_LINES = """
INSERT INTO advance_notice_lines AS l (advance_notice_id, sku, expected, received, damaged)
SELECT $1, n.* FROM unnest($2::text[], $3::int8[], $4::int8[], $5::int8[]) AS n (sku, expected, received, damaged)
ON CONFLICT (advance_notice_id, sku) DO UPDATE
   SET expected = excluded.expected, received = excluded.received, damaged = excluded.damaged"""
DROP_LINES = "DELETE FROM advance_notice_lines WHERE advance_notice_id = $1 AND NOT sku = ANY ($2)"
SET_STATE = """
UPDATE advance_notices SET state = $2, reason_code = $3, expected_time = coalesce($4, expected_time), version = version + 1,
       updated_time = now()
 WHERE advance_notice_id = $1"""
PAGE = f"""
SELECT {_COLUMNS} FROM advance_notices WHERE location_id = $1 AND advance_notice_id < $2
 ORDER BY advance_notice_id DESC LIMIT $3"""
OPEN_PAGE = f"""
SELECT {_COLUMNS} FROM advance_notices
 WHERE location_id = $1 AND state IN ('EXPECTED', 'RECEIVING') AND (expected_time, advance_notice_id) > ($2, $3)
 ORDER BY expected_time, advance_notice_id LIMIT $4"""
LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)


class Notices:
    """Advance notices of locations."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def create_advance_notice(
        self, request: v1.CreateAdvanceNoticeRequest, caller: Caller
    ) -> v1.CreateAdvanceNoticeResponse:
        """Records what a supplier announces."""
        lines = [NoticeLine(sku, expected=quantity) for sku, quantity in _summed(request.lines)]
        expected_time = moment("expected_time", request.expected_time)
        notice_id = new_id()

        async def work(transaction: Transaction) -> v1.CreateAdvanceNoticeResponse:
            connection, number = transaction.connection, (request.supplier, request.supplier_reference)
            await transaction.lock_levels([(request.location_id, line.sku) for line in lines], create=True)
            values = notice_id, request.location_id, *number, expected_time, caller.actor
            if not await connection.fetchval(INSERT, *values):
                raise AdvanceNoticeExists(*number, str(await connection.fetchval(SAME, *number)))
            await _save(connection, notice_id, lines)
            return v1.CreateAdvanceNoticeResponse(advance_notice=await _told(transaction, notice_id, "created"))

        return await self._ledger.mutate(request, v1.CreateAdvanceNoticeResponse, work)

    async def update_advance_notice(
        self, request: v1.UpdateAdvanceNoticeRequest, caller: Caller
    ) -> v1.UpdateAdvanceNoticeResponse:
        """Changes when a notice is expected, or what it brings."""
        notice_id = parse_id("advance_notice_id", request.advance_notice_id)
        paths = mask_paths(request.update_mask, CHANGEABLE)
        expected = dict(_summed(request.lines)) if "lines" in paths else None
        if expected is not None and not expected:
            raise invalid("lines", "must not be empty; CancelAdvanceNotice withdraws a notice")
        when = moment("expected_time", request.expected_time) if "expected_time" in paths else None
        if when is not None and not request.HasField("expected_time"):
            raise invalid("expected_time", "must be set")

        async def work(transaction: Transaction) -> v1.UpdateAdvanceNoticeResponse:
            connection = transaction.connection
            row, lines = await _load(connection, notice_id, is_locked=True)
            check_etag(f"advance notice {notice_id}", request.etag, row["version"])
            _check(row, NoticeStep.UPDATE)
            if expected is not None:
                lines = announce(lines, expected)
                await transaction.lock_levels([(row["location_id"], sku) for sku in expected], create=True)
                await connection.execute(DROP_LINES, notice_id, list(lines))
                await _save(connection, notice_id, list(lines.values()))
            await _step(connection, row, NoticeStep.UPDATE, lines, expected_time=when)
            return v1.UpdateAdvanceNoticeResponse(advance_notice=await _told(transaction, notice_id, "updated"))

        return await self._ledger.mutate(request, v1.UpdateAdvanceNoticeResponse, work)

    async def cancel_advance_notice(
        self, request: v1.CancelAdvanceNoticeRequest, caller: Caller
    ) -> v1.CancelAdvanceNoticeResponse:
        """Withdraws a notice of which nothing arrived yet."""
        notice_id = parse_id("advance_notice_id", request.advance_notice_id)

        async def work(transaction: Transaction) -> v1.CancelAdvanceNoticeResponse:
            row, lines = await _load(transaction.connection, notice_id, is_locked=True)
            _check(row, NoticeStep.CANCEL)
            await _step(transaction.connection, row, NoticeStep.CANCEL, lines, reason_code=request.reason_code)
            return v1.CancelAdvanceNoticeResponse(advance_notice=await _told(transaction, notice_id, "cancelled"))

        return await self._ledger.mutate(request, v1.CancelAdvanceNoticeResponse, work)

    async def close_advance_notice(
        self, request: v1.CloseAdvanceNoticeRequest, caller: Caller
    ) -> v1.CloseAdvanceNoticeResponse:
        """Says that what has not arrived does not arrive any more."""
        notice_id = parse_id("advance_notice_id", request.advance_notice_id)

        async def work(transaction: Transaction) -> v1.CloseAdvanceNoticeResponse:
            row, lines = await _load(transaction.connection, notice_id, is_locked=True)
            _check(row, NoticeStep.CLOSE)
            await _step(transaction.connection, row, NoticeStep.CLOSE, lines, reason_code=request.reason_code)
            return v1.CloseAdvanceNoticeResponse(advance_notice=await _told(transaction, notice_id, "closed"))

        return await self._ledger.mutate(request, v1.CloseAdvanceNoticeResponse, work)

    async def receive_advance_notice(
        self, request: v1.ReceiveAdvanceNoticeRequest, caller: Caller
    ) -> v1.ReceiveAdvanceNoticeResponse:
        """Books goods of a notice; orders that lack such units get them first."""
        notice_id = parse_id("advance_notice_id", request.advance_notice_id)

        async def work(transaction: Transaction) -> v1.ReceiveAdvanceNoticeResponse:
            connection = transaction.connection
            row, lines = await _load(connection, notice_id, is_locked=True)
            _check(row, NoticeStep.RECEIVE)
            arrived = _arrived(request, lines)
            received = {
                sku: receive(
                    request.advance_notice_id,
                    lines.get(sku, NoticeLine(sku)),
                    *units,
                    accepts_more=request.accepts_more,
                )
                for sku, units in arrived.items()
            }
            place = row["location_id"]
            await transaction.lock_levels([(place, sku) for sku in arrived], create=True)
            await _save(connection, notice_id, list(received.values()))
            await _step(connection, row, NoticeStep.RECEIVE, lines | received, reason_code=row["reason_code"])
            document = f"advance_notice/{notice_id}"
            after = await transaction.post(
                [
                    Movement(place, sku, n, Bucket.SUPPLIER, bucket, REASON, document, actor=caller.actor)
                    for sku, units in arrived.items()
                    for n, bucket in zip(units, (Bucket.AVAILABLE, Bucket.DAMAGED), strict=True)
                    if n
                ]
            )
            return v1.ReceiveAdvanceNoticeResponse(
                advance_notice=await _told(transaction, notice_id, "received"),
                levels=[level_message(p, after[p]) for p in sorted(after)],
            )

        return await self._ledger.mutate(request, v1.ReceiveAdvanceNoticeResponse, work)

    # -------------------------------------------------------------------------------------------------------- reads
    async def get_advance_notice(
        self, request: v1.GetAdvanceNoticeRequest, caller: Caller
    ) -> v1.GetAdvanceNoticeResponse:
        """Reads a notice."""
        async with self._ledger.read() as connection:
            row, lines = await _load(connection, parse_id("advance_notice_id", request.advance_notice_id))
        return v1.GetAdvanceNoticeResponse(advance_notice=_message(row, lines.values()))

    async def list_advance_notices(
        self, request: v1.ListAdvanceNoticesRequest, caller: Caller
    ) -> v1.ListAdvanceNoticesResponse:
        """Lists the notices of a location."""
        size = page_size(request.page_size)
        async with self._ledger.read() as connection:
            if request.is_open:
                after = decode_token(request, datetime, UUID) or (LONG_AGO, UUID(int=0))
                rows = await connection.fetch(OPEN_PAGE, request.location_id, *after, size + 1)
            else:
                (before,) = decode_token(request, UUID) or (LAST_ID,)
                rows = await connection.fetch(PAGE, request.location_id, before, size + 1)
            if not rows and not await connection.fetchval(IS_THERE, request.location_id):
                raise LocationNotFound(request.location_id)
            lines = await _lines(connection, [row["advance_notice_id"] for row in rows])

        def message(row: Any) -> v1.AdvanceNotice:
            return _message(row, lines.get(row["advance_notice_id"], {}).values())

        items, last = fill(rows, size, message)
        token = ""
        if last:
            key = UUID(str(last["advance_notice_id"]))
            token = encode_token(request, *((last["expected_time"], key) if request.is_open else (key,)))
        return v1.ListAdvanceNoticesResponse(advance_notices=items, next_page_token=token)


def _arrived(request: v1.ReceiveAdvanceNoticeRequest, lines: Mapping[str, NoticeLine]) -> dict[str, tuple[int, int]]:
    """(in order, damaged) by sku; all that is still to come, if nothing is named."""
    good, damaged = dict(_summed(request.lines)), dict(_summed(request.damaged_lines))
    if not good and not damaged:
        good = {sku: line.to_come for sku, line in lines.items() if line.to_come}
        if not good:
            first = next(iter(lines.values()))
            raise AdvanceNoticeExceeded(request.advance_notice_id, first.sku, 0, first.expected)
    return {sku: (good.get(sku, 0), damaged.get(sku, 0)) for sku in sorted(good.keys() | damaged.keys())}


def _summed(lines: Iterable[types_pb2.BasketLine]) -> list[tuple[str, int]]:
    return sum_lines((line.sku, line.quantity) for line in lines)


# -------------------------------------------------------------------------------------------------------------- the rows
async def _load(
    connection: Connection, notice_id: UUID, *, is_locked: bool = False
) -> tuple[Any, dict[str, NoticeLine]]:
    """A notice's row and lines by sku. Raises AdvanceNoticeNotFound."""
    row = await connection.fetchrow(GET + (" FOR UPDATE" if is_locked else ""), notice_id)
    if row is None:
        raise AdvanceNoticeNotFound(str(notice_id))
    return row, (await _lines(connection, [notice_id])).get(notice_id, {})


async def _lines(connection: Connection, notice_ids: Sequence[UUID]) -> dict[UUID, dict[str, NoticeLine]]:
    lines: dict[UUID, dict[str, NoticeLine]] = {}
    for row in await connection.fetch(LINES, notice_ids):
        lines.setdefault(row["advance_notice_id"], {})[row["sku"]] = NoticeLine(*tuple(row)[1:])
    return lines


async def _save(connection: Connection, notice_id: UUID, lines: Sequence[NoticeLine]) -> None:
    columns = zip(*((n.sku, n.expected, n.received, n.damaged) for n in lines), strict=True)
    await connection.execute(SAVE_LINES, notice_id, *(list(column) for column in columns))


def _check(row: Any, step: NoticeStep) -> None:
    check_step(f"advance_notice/{row['advance_notice_id']}", NoticeState(row["state"]), step)


async def _step(
    connection: Connection,
    row: Any,
    step: NoticeStep,
    lines: Mapping[str, NoticeLine],
    *,
    reason_code: str = "",
    expected_time: datetime | None = None,
) -> None:
    after = state_after(NoticeState(row["state"]), step, list(lines.values()))
    await connection.execute(SET_STATE, row["advance_notice_id"], after.value, reason_code, expected_time)


async def _told(transaction: Transaction, notice_id: UUID, what: str) -> v1.AdvanceNotice:
    """The notice as it is now, which an event tells of."""
    row, lines = await _load(transaction.connection, notice_id)
    data = {
        "advance_notice_id": str(notice_id),
        "location_id": row["location_id"],
        "supplier": row["supplier"],
        "supplier_reference": row["supplier_reference"],
        "state": row["state"],
        "expected_time": row["expected_time"].isoformat(),
        "lines": [{"sku": n.sku, "expected": n.expected, "received": n.received} for n in lines.values()],
    }
    transaction.emit(f"onhand.advance_notice.{what}.v1", f"advance_notice/{notice_id}", data, row["location_id"])
    return _message(row, lines.values())


def _message(row: Any, lines: Iterable[NoticeLine]) -> v1.AdvanceNotice:
    is_expecting = row["state"] in (NoticeState.EXPECTED.value, NoticeState.RECEIVING.value)
    is_closed = row["state"] == NoticeState.CLOSED.value
    return v1.AdvanceNotice(
        advance_notice_id=str(row["advance_notice_id"]),
        location_id=row["location_id"],
        supplier=row["supplier"],
        supplier_reference=row["supplier_reference"],
        expected_time=timestamp(row["expected_time"]),
        state=v1.AdvanceNoticeState.Value("ADVANCE_NOTICE_STATE_" + row["state"]),
        lines=[
            v1.AdvanceNoticeLine(
                sku=n.sku,
                expected_quantity=n.expected,
                received_quantity=n.received,
                damaged_quantity=n.damaged,
                open_quantity=n.to_come if is_expecting else 0,
                over_quantity=n.over,
                short_quantity=n.to_come if is_closed else 0,
            )
            for n in lines
        ],
        reason_code=row["reason_code"],
        etag=etag(row["version"]),
        created_time=timestamp(row["created_time"]),
    )
