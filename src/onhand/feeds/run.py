"""`onhand import`: from a feed to the ledger, with a report."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import asyncpg

from onhand.domain.errors import LedgerUnavailable
from onhand.feeds import completejourney, files
from onhand.feeds.load import load
from onhand.feeds.records import Feed, FeedError, Progress, no_progress
from onhand.feeds.weeks import parse_weeks
from onhand.postgres import asyncpg_dsn, connecting, not_answering

COMPLETEJOURNEY = "completejourney"
CONNECT_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class ImportReport:
    """What an import read, found strange, left out and wrote."""

    source: str
    findings: dict[str, Any]
    loaded: dict[str, Any]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """One object for `--json`."""
        return asdict(self) | {"ok": True, "seconds": round(self.seconds, 3)}


async def run_import(
    dsn: str, source: str, weeks: str | None = None, progress: Progress = no_progress, *, with_stock: bool = True
) -> ImportReport:
    """Load `completejourney` (all its weeks, or those asked for) or a folder of CSV files. Raises `FeedError`, Unusable.

    Everything or nothing. Repeatable for the catalogue; opening stock is refused where a position has movements.
    """
    started = time.monotonic()
    # pandas computes for seconds: in a thread, so that whoever shares this event loop goes on.
    feed = await asyncio.to_thread(_read, source, weeks, progress)
    if not with_stock:
        feed = Feed(**{**vars(feed), "stock": ()})
    try:
        with connecting(dsn):
            connection = await asyncpg.connect(
                asyncpg_dsn(dsn),
                timeout=CONNECT_TIMEOUT_SECONDS,
                server_settings={"application_name": "onhand import", "jit": "off"},
            )
    except LedgerUnavailable as error:
        raise FeedError(not_answering(dsn, error)) from error
    try:
        loaded = await load(connection, feed, progress)
    except asyncpg.UndefinedTableError as error:
        raise FeedError("the database has no ledger yet; run `onhand migrate` first") from error
    finally:
        await connection.close()
    return ImportReport(feed.source, feed.findings, loaded, time.monotonic() - started)


def _read(source: str, weeks: str | None, progress: Progress) -> Feed:
    if source == COMPLETEJOURNEY:
        return completejourney.read_feed(parse_weeks(weeks), progress)
    if weeks is not None:
        raise FeedError("--weeks belongs to completejourney; a folder is imported whole")
    return files.read_folder(Path(source), progress)
