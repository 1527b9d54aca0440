"""One clock for all processes: the ledger's."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from onhand.crash import step
from onhand.postgres import Database


class LedgerClock:
    """The ledger's time, carried on by this machine's monotonic clock, so that a wrong wall clock here does no harm.

    Deadlines are judged by the ledger alone; this clock only proposes them, a few milliseconds off at most.
    """

    def __init__(self) -> None:
        self._anchor = datetime.now(UTC)
        self._anchor_monotonic = time.monotonic()

    @step("ledger.clock")
    async def set_by(self, database: Database) -> None:
        """Asks the ledger for its time."""
        async with database.connection() as connection:
            before = time.monotonic()
            now: datetime = await connection.fetchval("SELECT clock_timestamp()")
            after = time.monotonic()
        self._anchor, self._anchor_monotonic = now, (before + after) / 2

    def now(self) -> datetime:
        """The ledger's time, about."""
        return self._anchor + timedelta(seconds=time.monotonic() - self._anchor_monotonic)


def milliseconds(moment: datetime) -> int:
    """Milliseconds since 1970."""
    return int(moment.timestamp() * 1000)
