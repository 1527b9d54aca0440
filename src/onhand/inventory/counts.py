"""Cycle counts: begin, count, look at the differences, book them. What is sold meanwhile falsifies nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from onhand.caller import Caller
from onhand.domain.counting import CountState, CountStep, LineState, is_within
from onhand.domain.errors import LocationNotFound, invalid
from onhand.domain.stock import Level
from onhand.domain.stock_work_errors import (
    CountOutdated,
    CountOutOfTolerance,
    CountTooLarge,
    IllegalStep,
    NothingToCount,
)
from onhand.ids import new_id, parse_id
from onhand.inventory import count_rows as rows
from onhand.inventory.count_rows import Moment
from onhand.inventory.counted import book_count, missing
from onhand.inventory.stock import LEVELS
from onhand.inventory.transfers import IS_THERE, LAST_ID
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction, refuse_unknown
from onhand.paging import cut, decode_token, encode_token, page_size
from onhand.postgres import Connection
from onhand.reservations.claims import Wants
from onhand.reservations.decrease import Decreases, Overdrawn
from onhand.v1 import counting_pb2 as v1
from onhand.wire import moment, timestamp

LINES_MAX = 200_000
"""Lines in one count."""
APPROVED_MAX = 500
"""Lines that one ApproveCount books."""
CLOCK_SECONDS_MAX = 60
"""By how much the clock of whoever counts may be ahead; that much is cut off."""


class Counts:
    """Counts of locations."""

    def __init__(self, ledger: Ledger, decreases: Decreases) -> None:
        self._ledger = ledger
        self._decreases = decreases

    async def start_count(self, request: v1.StartCountRequest, caller: Caller) -> v1.StartCountResponse:
        """Begins a count of some skus, of all that a location has, or of all that somebody asked to count."""
        scope = v1.CountScope.Name(request.scope).removeprefix("COUNT_SCOPE_")
        skus = sorted(set(request.skus))
        if (request.scope == v1.COUNT_SCOPE_SKUS) != bool(skus):
            raise invalid("skus", "must be given for COUNT_SCOPE_SKUS, and for no other scope")
        count_id = new_id()

        async def work(transaction: Transaction) -> v1.StartCountResponse:
            connection, location_id = transaction.connection, request.location_id
            await transaction.hold_location(location_id)
            await refuse_unknown(connection, [(location_id, sku) for sku in skus])
            await connection.execute(
                rows.INSERT,
                count_id,
                location_id,
                scope,
                request.is_blind,
                request.tolerance_quantity,
                request.tolerance_percent,
                caller.actor,
            )
            if skus:
                tag = await connection.execute(rows.ADD_SKUS, count_id, skus)
            else:
                statement = rows.ADD_ALL if request.scope == v1.COUNT_SCOPE_LOCATION else rows.ADD_TASKS
                tag = await connection.execute(statement, count_id, location_id, LINES_MAX + 1)
            lines = rows.changed(tag)
            if not lines:
                raise NothingToCount(location_id, scope)
            if lines > LINES_MAX:
                raise CountTooLarge(location_id, LINES_MAX)
            return v1.StartCountResponse(count=await _told(transaction, count_id, "started"), lines=lines)

        return await self._ledger.mutate(request, v1.StartCountResponse, work)

    async def submit_count(self, request: v1.SubmitCountRequest, caller: Caller) -> v1.SubmitCountResponse:
        """Records what a person counted, beside what the ledger had at that moment."""
        count_id = parse_id("count_id", request.count_id)
        counted = {line.sku: line.counted_quantity for line in request.lines}
        if len(counted) < len(request.lines):
            raise invalid("lines", "a sku is counted twice")

        async def work(transaction: Transaction) -> v1.SubmitCountResponse:
            connection = transaction.connection
            row = await rows.load(connection, count_id, is_locked=True)
            rows.check(row, CountStep.SUBMIT)
            if row["scope"] == "LOCATION":
                await _add_what_turned_up(connection, row, sorted(counted))
            await rows.lines_in_state(connection, count_id, counted, CountStep.SUBMIT, LineState.TO_COUNT)
            moments = await _moments(connection, row, request.lines)
            found = await rows.since(connection, row["location_id"], row["ledger_position"], moments)
            columns = []
            for m in moments:
                ledger, last = found[m.sku]
                is_now = m.time is None and m.position is None
                within = is_within(
                    counted=counted[m.sku],
                    expected=ledger.expected,
                    tolerance_quantity=row["tolerance_quantity"],
                    tolerance_percent=row["tolerance_percent"],
                )
                columns.append((m.sku, counted[m.sku], ledger.expected, m.time, last if is_now else m.position, within))
            values = [list(column) for column in zip(*columns, strict=True)]
            await connection.execute(rows.SUBMIT, count_id, *values, caller.actor)
            await rows.settle_state(connection, count_id)
            count = await _told(transaction, count_id, "submitted", {"lines": len(columns)})
            lines = await connection.fetch(rows.OF_SKUS, count_id, sorted(counted))
            return v1.SubmitCountResponse(count=count, lines=[_line(line, _is_hidden(count)) for line in lines])

        return await self._ledger.mutate(request, v1.SubmitCountResponse, work)

    async def request_recount(self, request: v1.RequestRecountRequest, caller: Caller) -> v1.RequestRecountResponse:
        """Has lines counted once more: those named, or all that are out of tolerance."""
        count_id, skus = parse_id("count_id", request.count_id), sorted(set(request.skus))

        async def work(transaction: Transaction) -> v1.RequestRecountResponse:
            connection = transaction.connection
            rows.check(await rows.load(connection, count_id, is_locked=True), CountStep.RECOUNT)
            if skus:
                await rows.lines_in_state(connection, count_id, skus, CountStep.RECOUNT, LineState.COUNTED)
                tag = await connection.execute(rows.RECOUNT, count_id, skus)
            else:
                tag = await connection.execute(rows.RECOUNT_ALL, count_id)
            await rows.settle_state(connection, count_id)
            lines = rows.changed(tag)
            count = await _told(transaction, count_id, "recount_requested", {"lines": lines})
            return v1.RequestRecountResponse(count=count, lines=lines)

        return await self._ledger.mutate(request, v1.RequestRecountResponse, work)

    async def approve_count(self, request: v1.ApproveCountRequest, caller: Caller) -> v1.ApproveCountResponse:
        """Books counted lines: what was there then, and the goods that moved since, is what is there now."""
        count_id, skus = parse_id("count_id", request.count_id), sorted(set(request.skus))

        async def takes() -> Wants:
            async with self._ledger.read() as connection:
                row = await rows.load(connection, count_id)
                lines = await _to_approve(connection, count_id, skus)
                there = await _there_now(connection, row, lines)
                levels = {
                    r["sku"]: Level(*tuple(r)[1:])
                    for r in await connection.fetch(LEVELS, row["location_id"], list(there))
                }
            wanted = [(sku, missing(levels.get(sku, Level()), there[sku])) for sku in sorted(there)]
            return [(row["location_id"], [(sku, n) for sku, n in wanted if n])]

        async def work(transaction: Transaction, overdrawn: Overdrawn) -> v1.ApproveCountResponse:
            connection = transaction.connection
            row = await rows.load(connection, count_id, is_locked=True)
            rows.check(row, CountStep.APPROVE)
            lines = await _to_approve(connection, count_id, skus)
            if skus:
                await rows.lines_in_state(connection, count_id, skus, CountStep.APPROVE, LineState.COUNTED)
            if not lines:
                raise IllegalStep(f"count/{count_id}", row["state"], CountStep.APPROVE.value, "SUBMIT, CANCEL")
            _check_tolerance(count_id, lines, is_accepted=request.accepts_out_of_tolerance)
            place = row["location_id"]
            levels = await transaction.lock_levels([(place, line["sku"]) for line in lines], create=True)
            there = await _there_now(connection, row, lines, is_strict=True)
            results = await book_count(
                transaction,
                levels,
                {(place, sku): n for sku, n in there.items()},
                reference=f"count/{count_id}",
                caller=caller,
                overdrawn=overdrawn,
            )
            await _write_approved(connection, row, lines, {r.level.sku: r.variance_quantity for r in results}, caller)
            await rows.settle_state(connection, count_id)
            count = await _told(transaction, count_id, "approved", {"lines": len(lines)})
            return v1.ApproveCountResponse(count=count, results=results)

        return await self._decreases.fact(request, v1.ApproveCountResponse, takes, work)

    async def cancel_count(self, request: v1.CancelCountRequest, caller: Caller) -> v1.CancelCountResponse:
        """Ends a count; what was approved before stays."""
        count_id = parse_id("count_id", request.count_id)

        async def work(transaction: Transaction) -> v1.CancelCountResponse:
            connection = transaction.connection
            rows.check(await rows.load(connection, count_id, is_locked=True), CountStep.CANCEL)
            await connection.execute(rows.DROP, count_id)
            await connection.execute(rows.SET_STATE, count_id, CountState.CANCELLED.value)
            return v1.CancelCountResponse(count=await _told(transaction, count_id, "cancelled"))

        return await self._ledger.mutate(request, v1.CancelCountResponse, work)

    # -------------------------------------------------------------------------------------------------------- reads
    async def get_count(self, request: v1.GetCountRequest, caller: Caller) -> v1.GetCountResponse:
        """Reads a count and its sums."""
        count_id = parse_id("count_id", request.count_id)
        async with self._ledger.read() as connection:
            count = _message(await rows.load(connection, count_id))
            sums = await connection.fetchrow(rows.SUMMARY, count_id)
        assert sums is not None
        hidden = _is_hidden(count)
        shown = {
            k: v for k, v in sums.items() if not hidden or k in ("to_count_lines", "counted_lines", "approved_lines")
        }
        return v1.GetCountResponse(count=count, summary=v1.CountSummary(**shown))

    async def list_counts(self, request: v1.ListCountsRequest, caller: Caller) -> v1.ListCountsResponse:
        """Lists counts of a location, newest first."""
        size = page_size(request.page_size)
        (before,) = decode_token(request, UUID) or (LAST_ID,)
        statement = rows.OPEN_COUNTS if request.is_open else rows.COUNTS
        async with self._ledger.read() as connection:
            found = await connection.fetch(statement, request.location_id, before, size + 1)
            if not found and not await connection.fetchval(IS_THERE, request.location_id):
                raise LocationNotFound(request.location_id)
        page, last = cut(found, size)
        token = encode_token(request, UUID(str(last["count_id"]))) if last else ""
        return v1.ListCountsResponse(counts=[_message(row) for row in page], next_page_token=token)

    async def list_count_lines(self, request: v1.ListCountLinesRequest, caller: Caller) -> v1.ListCountLinesResponse:
        """Lists lines of a count by sku."""
        count_id, size = parse_id("count_id", request.count_id), page_size(request.page_size)
        (after,) = decode_token(request, str) or ("",)
        async with self._ledger.read() as connection:
            count = _message(await rows.load(connection, count_id))
            if request.state:
                state = v1.CountLineState.Name(request.state).removeprefix("COUNT_LINE_STATE_")
                found = await connection.fetch(rows.PAGE_IN_STATE, count_id, after, size + 1, state)
            else:
                found = await connection.fetch(rows.PAGE, count_id, after, size + 1)
        page, last = cut(found, size)
        return v1.ListCountLinesResponse(
            lines=[_line(row, _is_hidden(count)) for row in page],
            next_page_token=encode_token(request, last["sku"]) if last else "",
        )

    async def list_variances(self, request: v1.ListVariancesRequest, caller: Caller) -> v1.ListVariancesResponse:
        """Lists what counts changed at a location, newest first."""
        size = page_size(request.page_size)
        (before,) = decode_token(request, UUID) or (LAST_ID,)
        async with self._ledger.read() as connection:
            found = await connection.fetch(rows.VARIANCES, request.location_id, before, size + 1)
            if not found and not await connection.fetchval(IS_THERE, request.location_id):
                raise LocationNotFound(request.location_id)
        page, last = cut(found, size)
        token = encode_token(request, UUID(str(last["variance_id"]))) if last else ""
        return v1.ListVariancesResponse(variances=[_variance(row) for row in page], next_page_token=token)


# ------------------------------------------------------------------------------------------------------------- submitting
async def _add_what_turned_up(connection: Connection, row: Any, skus: Sequence[str]) -> None:
    """Who counts a whole location counts what nobody knew of, too."""
    known = {line["sku"] for line in await connection.fetch(rows.OF_SKUS, row["count_id"], skus)}
    new = [sku for sku in skus if sku not in known]
    if new:
        await refuse_unknown(connection, [(row["location_id"], sku) for sku in new])
        await connection.execute(rows.ADD_SKUS, row["count_id"], new)


async def _moments(connection: Connection, row: Any, lines: Sequence[v1.CountEntry]) -> list[Moment]:
    """What each line holds for. Raises InvalidRequest for what is before the count or after now."""
    standing = await connection.fetchrow(rows.NOW, row["location_id"])
    assert standing is not None
    now, last = standing
    moments = []
    for n, line in enumerate(lines):
        as_of = line.WhichOneof("as_of")
        if as_of == "counted_time":
            moments.append(Moment(line.sku, _time(f"lines[{n}].counted_time", line, row["started_time"], now)))
        elif as_of == "ledger_position":
            if not row["ledger_position"] <= line.ledger_position <= (last or 0):
                raise invalid(
                    f"lines[{n}].ledger_position", f"must be between {row['ledger_position']} and {last or 0}"
                )
            moments.append(Moment(line.sku, position=line.ledger_position))
        else:
            moments.append(Moment(line.sku))
    return moments


def _time(field: str, line: v1.CountEntry, started: datetime, now: datetime) -> datetime:
    counted = moment(field, line.counted_time)
    if counted < started:
        raise invalid(field, f"must not be before the count began, {started.isoformat()}")
    if counted > now + timedelta(seconds=CLOCK_SECONDS_MAX):
        raise invalid(field, f"must not be later than now, {now.isoformat()}")
    return min(counted, now)


# -------------------------------------------------------------------------------------------------------------- approving
async def _to_approve(connection: Connection, count_id: UUID, skus: Sequence[str]) -> list[Any]:
    """The counted lines of skus, or the next ones."""
    if not skus:
        return list(await connection.fetch(rows.NEXT_COUNTED, count_id, APPROVED_MAX))
    found = await connection.fetch(rows.OF_SKUS, count_id, skus)
    return [line for line in found if line["state"] == LineState.COUNTED.value]


def _check_tolerance(count_id: UUID, lines: Sequence[Any], *, is_accepted: bool) -> None:
    outside = [line for line in lines if not line["is_within"]]
    if outside and not is_accepted:
        first = outside[0]
        raise CountOutOfTolerance(str(count_id), first["sku"], first["counted"], first["expected"], len(outside))


async def _there_now(
    connection: Connection, row: Any, lines: Sequence[Any], *, is_strict: bool = False
) -> dict[str, int]:
    """What is there now by what was counted, by sku. Raises CountOutdated if `is_strict`."""
    if not lines:
        return {}
    moments = [Moment(line["sku"], line["as_of_time"], line["as_of_position"]) for line in lines]
    found = await rows.since(connection, row["location_id"], row["ledger_position"], moments)
    for sku, (ledger, _) in found.items():
        if ledger.is_corrected and is_strict:
            raise CountOutdated(str(row["count_id"]), sku)
    return {line["sku"]: found[line["sku"]][0].there_now(line["counted"]) for line in lines}


async def _write_approved(
    connection: Connection, row: Any, lines: Sequence[Any], booked: dict[str, int], caller: Caller
) -> None:
    skus = [line["sku"] for line in lines]
    await connection.execute(rows.APPROVE, row["count_id"], skus, [booked[sku] for sku in skus], caller.actor)
    different = [n for n in lines if n["counted"] != n["expected"] or booked[n["sku"]]]
    if different:
        await connection.execute(
            rows.REPORT,
            row["location_id"],
            row["count_id"],
            [new_id() for _ in different],
            [n["sku"] for n in different],
            [n["counted"] for n in different],
            [n["expected"] for n in different],
            [booked[n["sku"]] for n in different],
            [n["counted_by"] for n in different],
            caller.actor,
        )


# --------------------------------------------------------------------------------------------------------------- messages
async def _told(transaction: Transaction, count_id: UUID, what: str, data: dict[str, Any] | None = None) -> v1.Count:
    """The count as it is now, which an event tells of."""
    row = await rows.load(transaction.connection, count_id)
    told = {"count_id": str(count_id), "location_id": row["location_id"], "state": row["state"], **(data or {})}
    transaction.emit(f"onhand.count.{what}.v1", f"count/{count_id}", told, row["location_id"])
    return _message(row)


def _is_hidden(count: v1.Count) -> bool:
    """Whether those who count must not see what is expected."""
    return count.is_blind and count.state == v1.COUNT_STATE_COUNTING


def _message(row: Any) -> v1.Count:
    return v1.Count(
        count_id=str(row["count_id"]),
        location_id=row["location_id"],
        scope=v1.CountScope.Value("COUNT_SCOPE_" + row["scope"]),
        is_blind=row["is_blind"],
        state=v1.CountState.Value("COUNT_STATE_" + row["state"]),
        tolerance_quantity=row["tolerance_quantity"],
        tolerance_percent=row["tolerance_percent"],
        ledger_position=row["ledger_position"],
        started_time=timestamp(row["started_time"]),
    )


def _line(row: Any, is_hidden: bool) -> v1.CountLine:
    line = v1.CountLine(
        sku=row["sku"],
        state=v1.CountLineState.Value("COUNT_LINE_STATE_" + row["state"]),
        attempts=row["attempts"],
        booked_quantity=0 if is_hidden else row["booked"] or 0,
        counted_by=row["counted_by"],
    )
    if row["counted"] is not None:
        line.counted_quantity = row["counted"]
        line.as_of_time.CopyFrom(timestamp(row["as_of_time"] or row["counted_time"]))
        if not is_hidden:
            line.expected_quantity = row["expected"]
            line.variance_quantity = row["counted"] - row["expected"]
            line.is_within_tolerance = row["is_within"]
    return line


def _variance(row: Any) -> v1.Variance:
    return v1.Variance(
        count_id=str(row["count_id"]),
        sku=row["sku"],
        counted_quantity=row["counted"],
        expected_quantity=row["expected"],
        variance_quantity=row["counted"] - row["expected"],
        booked_quantity=row["booked"],
        counted_by=row["counted_by"],
        approved_by=row["approved_by"],
        approved_time=timestamp(row["approved_time"]),
    )
