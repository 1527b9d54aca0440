"""WatchFulfillmentOrders: what happens to the work of a location, in commit order, from a cursor on.

Events are read by (transaction, sequence) below the oldest transaction that still runs: what is read once is complete, nothing
can be committed behind it. One poll serves all who watch in this process; who comes with an older cursor reads by itself until
it has caught up.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from onhand.crash import step
from onhand.domain.errors import LedgerUnavailable, LocationNotFound, Overloaded, Refusal, invalid
from onhand.domain.work_errors import CursorTooOld
from onhand.ledger.mutation import Ledger
from onhand.v1 import order_pb2 as pb
from onhand.wire import timestamp

log = logging.getLogger(__name__)

WATCHERS_MAX = 500
"""Streams of one process."""
POLL_SECONDS = 0.5
"""How long a change may wait to be read."""
IDLE_SECONDS = 10.0
"""How long a stream is silent before it gets a checkpoint."""
READ_MAX = 2000
"""Events of any kind that are read at once."""
BATCH_MAX = 500
"""Changes of one message at most."""
BEHIND_MAX = 5000
"""Changes that may wait for a slow reader; then it catches up by itself."""
CURSOR_SECONDS_MAX = 24 * 3600
"""How old what comes next after a cursor may be."""
TYPES = "onhand.fulfillment_order."

LOCATION_EXISTS = "SELECT EXISTS (SELECT FROM locations WHERE location_id = $1)"
NOW = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text"
# Whether a cursor can be gone on from: not one of another ledger, nor one after which too much has happened.
USABLE = """
SELECT $1::text::xid8 <= pg_snapshot_xmin(pg_current_snapshot()) AND coalesce((
           SELECT time >= now() - make_interval(secs => $3::int) FROM events
            WHERE (transaction, sequence) > ($1::text::xid8, $2::int8) ORDER BY transaction, sequence LIMIT 1), true)"""
# At least one row, with where what was read ends. $3: a location, or '' for all; what it leaves out is read all the same.
READ = f"""
WITH x AS MATERIALIZED (SELECT pg_snapshot_xmin(pg_current_snapshot()) AS until),
scanned AS MATERIALIZED (
    SELECT transaction, sequence, event_id, type, location_id, data, time FROM events
     WHERE (transaction, sequence) > ($1::text::xid8, $2::int8) AND transaction < (SELECT until FROM x)
     ORDER BY transaction, sequence LIMIT $4),
tail AS (
    SELECT transaction, sequence, (SELECT count(*) FROM scanned) AS events
      FROM scanned ORDER BY transaction DESC, sequence DESC LIMIT 1)
SELECT x.until::text AS until, t.transaction::text AS last_transaction, t.sequence AS last_sequence, t.events,
       e.transaction::text AS transaction, e.sequence, e.event_id, e.type, e.location_id, e.data, e.time
  FROM x LEFT JOIN tail t ON true
  LEFT JOIN scanned e ON starts_with(e.type, '{TYPES}') AND ($3 = '' OR e.location_id = $3)
 ORDER BY e.transaction, e.sequence"""


class Position(NamedTuple):
    """After an event, in commit order; sequence 0: before all events of a transaction."""

    transaction: int
    sequence: int

    def cursor(self) -> str:
        """As it is given to who watches."""
        return base64.urlsafe_b64encode(f"{self.transaction}.{self.sequence}".encode()).decode()


def position_of(cursor: str) -> Position:
    """The inverse of `cursor`. Raises InvalidRequest."""
    try:
        transaction, _, sequence = base64.b64decode(cursor, altchars=b"-_", validate=True).decode().partition(".")
        found = Position(int(transaction), int(sequence))
    except (binascii.Error, ValueError):
        raise invalid("cursor", "is none that this server gave") from None
    if min(found) < 0 or max(found) >= 2**63:
        raise invalid("cursor", "is none that this server gave")
    return found


class _Read(NamedTuple):
    """Changes with their positions and locations, and where what was read ends."""

    changes: Sequence[tuple[Position, str, pb.FulfillmentOrderChange]]
    end: Position
    is_all: bool


@dataclass
class _Watcher:
    location_id: str
    at: Position
    """What its reader was given, or has waiting, ends here."""
    waiting: deque[pb.FulfillmentOrderChange] = field(default_factory=deque)
    something: asyncio.Event = field(default_factory=asyncio.Event)
    is_behind: bool = False
    error: Refusal | None = None


class Board:
    """All who watch in this process."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._watchers: list[_Watcher] = []
        self._streams = 0
        self._at = Position(0, 0)
        self._polling: asyncio.Task[None] | None = None

    async def watch(self, location_id: str, cursor: str) -> AsyncGenerator[pb.WatchFulfillmentOrdersResponse, None]:
        """A checkpoint at once, then what happens from there on, for ever.

        Raises LocationNotFound, InvalidRequest, CursorTooOld, Overloaded, LedgerUnavailable.
        """
        if self._streams >= WATCHERS_MAX:
            raise Overloaded("watchers", WATCHERS_MAX)
        self._streams += 1
        try:
            watcher = _Watcher(location_id, await self._begin(location_id, cursor))
            yield _message([], watcher.at)
            pending: list[pb.FulfillmentOrderChange] = []
            while True:
                read = await self._read(watcher.at, location_id)
                watcher.at = read.end
                pending += [change for _, _, change in read.changes]
                if read.is_all:
                    self._start(read.end)
                    if watcher.at >= self._at:
                        async with aclosing(self._follow(watcher, pending)) as messages:
                            async for message in messages:
                                yield message
                        pending = []
                elif len(pending) >= BATCH_MAX:
                    for message in _messages(pending, read.end):
                        yield message
                    pending = []
        finally:
            self._streams -= 1

    async def _follow(
        self, watcher: _Watcher, pending: Sequence[pb.FulfillmentOrderChange]
    ) -> AsyncGenerator[pb.WatchFulfillmentOrdersResponse, None]:
        """What is pending, and then what the poll brings, until it brings too much. The watcher has caught up with it."""
        watcher.is_behind, watcher.error = False, None
        given = watcher.at
        self._watchers.append(watcher)
        try:
            for message in _messages(pending, given):
                yield message
            while not watcher.is_behind:
                try:
                    async with asyncio.timeout(IDLE_SECONDS):
                        await watcher.something.wait()
                except TimeoutError:
                    given = watcher.at
                    yield _message([], given)
                    continue
                watcher.something.clear()
                if watcher.error is not None:
                    raise watcher.error
                if watcher.is_behind:
                    break
                changes, given = list(watcher.waiting), watcher.at
                watcher.waiting.clear()
                for message in _messages(changes, given):
                    yield message
        finally:
            self._watchers.remove(watcher)
        watcher.waiting.clear()
        watcher.at = given

    # ---------------------------------------------------------------------------------------------------------- polling
    def _start(self, at: Position) -> None:
        """Begins to poll, from where somebody has caught up with all there is."""
        if self._polling is None:
            self._at = at
            self._polling = asyncio.create_task(self._poll(), name="polling events")

    async def _poll(self) -> None:
        error: Refusal = LedgerUnavailable("events cannot be read")
        try:
            while self._streams:
                await asyncio.sleep(POLL_SECONDS)
                read = await self._read(self._at, "")
                self._give(read)
                self._at = read.end
        except Refusal as refusal:
            error = refusal
        except Exception:
            log.exception("polling events")
        finally:
            self._polling = None
            for watcher in self._watchers:  # they come again with their cursor
                watcher.error = error
                watcher.something.set()

    def _give(self, read: _Read) -> None:
        for watcher in self._watchers:
            own = [c for at, place, c in read.changes if place == watcher.location_id and at > watcher.at]
            if own and not watcher.is_behind:
                if len(watcher.waiting) + len(own) > BEHIND_MAX:
                    watcher.is_behind = True
                watcher.waiting.extend(own)
                watcher.something.set()
            if not watcher.is_behind:
                watcher.at = max(watcher.at, read.end)

    async def close(self) -> None:
        """Ends the poll."""
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.gather(self._polling, return_exceptions=True)

    # ---------------------------------------------------------------------------------------------------------- reading
    @step("ledger.begin_watch")
    async def _begin(self, location_id: str, cursor: str) -> Position:
        """Where to go on from: the cursor, or now."""
        at = position_of(cursor) if cursor else None
        async with self._ledger.database.connection() as connection:
            if not await connection.fetchval(LOCATION_EXISTS, location_id):
                raise LocationNotFound(location_id)
            if at is None:
                return Position(int(await connection.fetchval(NOW)), 0)
            if not await connection.fetchval(USABLE, str(at.transaction), at.sequence, CURSOR_SECONDS_MAX):
                raise CursorTooOld(cursor)
        return at

    @step("ledger.read_events")
    async def _read(self, after: Position, location_id: str) -> _Read:
        """What happened next, as far as READ_MAX events go."""
        async with self._ledger.database.connection() as connection:
            rows = await connection.fetch(READ, str(after.transaction), after.sequence, location_id, READ_MAX)
        found = [row for row in rows if row["sequence"] is not None]
        changes = [(Position(int(r["transaction"]), r["sequence"]), r["location_id"], _change(r)) for r in found]
        first = rows[0]
        if first["events"] == READ_MAX:
            return _Read(changes, Position(int(first["last_transaction"]), first["last_sequence"]), False)
        return _Read(changes, max(after, Position(int(first["until"]), 0)), True)


def _messages(
    changes: Sequence[pb.FulfillmentOrderChange], at: Position
) -> Iterator[pb.WatchFulfillmentOrdersResponse]:
    """Changes up to a position, BATCH_MAX a message. Those before the last have no cursor: who breaks off there gets them again."""
    for n in range(0, len(changes), BATCH_MAX):
        is_last = n + BATCH_MAX >= len(changes)
        yield _message(changes[n : n + BATCH_MAX], at if is_last else None)


def _message(changes: Sequence[pb.FulfillmentOrderChange], at: Position | None) -> pb.WatchFulfillmentOrdersResponse:
    return pb.WatchFulfillmentOrdersResponse(changes=changes, cursor=at.cursor() if at else "")


def _change(row: Any) -> pb.FulfillmentOrderChange:
    data = row["data"]
    return pb.FulfillmentOrderChange(
        event_id=str(row["event_id"]),
        type=row["type"],
        fulfillment_order_id=data["fulfillment_order_id"],
        order_id=data["order_id"],
        state=pb.FulfillmentState.Value(f"FULFILLMENT_STATE_{data.get('state', 'UNSPECIFIED')}"),
        event_time=timestamp(row["time"]),
    )
