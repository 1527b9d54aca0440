"""What can be promised: read from the gate, and counted only if the ledger, asked meanwhile, has the same epoch.

Reads of a process are combined: one script call and one query a round, side by side.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple

from onhand import deadline
from onhand.crash import step
from onhand.domain.errors import LedgerUnavailable, LocationNotFound
from onhand.ledger.floors import FLOOR
from onhand.postgres import Database
from onhand.redis import Unreachable
from onhand.reservations.combiner import Combiner
from onhand.reservations.gate import Gate
from onhand.reservations.policy import Policy, is_online
from onhand.reservations.rebuild import Rebuilder

log = logging.getLogger(__name__)

READS_MAX = 200
"""Reads in one round."""
ROUNDS_MAX = 3
"""Rounds of reads that a process has under way at once."""
LINGER_SECONDS = 0.002
"""How long a round waits for further reads where there was company lately."""
LEDGER_SECONDS_MAX = 0.75
"""How long a round waits for the ledger's epochs before what the gate said is given, marked stale."""

EPOCHS = """
SELECT e.location_id, e.epoch, p.version
  FROM policy_version p LEFT JOIN (
       SELECT location_id, epoch FROM location_epochs JOIN locations USING (location_id)
        WHERE location_id = ANY ($1) AND deleted_time IS NULL) e ON true"""
# Used where the gate cannot be: levels less what the active reservations hold, past their deadline or not, as in the gate.
LEVELS = f"""
WITH wanted AS (SELECT * FROM unnest($1::text[], $2::text[]) AS w (location_id, sku)),
reserved AS (
    SELECT c.location_id, line ->> 0 AS sku, sum((line ->> 1)::int8)::int8 AS quantity
      FROM claims c, jsonb_array_elements(c.lines) AS line
     WHERE c.state = 'active' AND c.location_id = ANY ($3) GROUP BY 1, 2)
SELECT w.location_id, w.sku, coalesce(s.available, 0) - coalesce(r.quantity, 0) AS atp,
       coalesce({FLOOR.format("s.")}, 0) AS floor
  FROM wanted w LEFT JOIN stock_levels s USING (location_id, sku) LEFT JOIN reserved r USING (location_id, sku)"""


class Seen(NamedTuple):
    """(ATP before floors, safety stock) by location, in the order of the skus. `is_stale`: the ledger did not answer."""

    rows: dict[str, list[tuple[int, int]]]
    is_stale: bool


Promised = dict[str, list[int]]
"""What can be promised, by location, in the order of the skus."""
Finish = Callable[[Promised, bool], Any]
"""Makes an answer of what can be promised, and of whether that may be old."""


class Read(NamedTuple):
    """What is asked: skus, each once, at locations, each once; by which channel, and what becomes of it."""

    location_ids: Sequence[str]
    skus: Sequence[str]
    channel: str
    finish: Finish


class Availability:
    """Reads of ATP."""

    def __init__(self, database: Database, gate: Gate, rebuilder: Rebuilder, policy: Policy) -> None:
        self._database = database
        self._gate = gate
        self._rebuilder = rebuilder
        self._policy = policy
        self._late: set[asyncio.Task[dict[str, int]]] = set()
        self._reads: Combiner[Read, Any] = Combiner(
            "reads",
            self._round,
            round_items_max=READS_MAX,
            rounds_at_once_max=ROUNDS_MAX,
            linger_seconds=LINGER_SECONDS,
        )

    async def atp(self, location_ids: Sequence[str], skus: Sequence[str], channel: str) -> tuple[Promised, bool]:
        """What a channel can be promised: by location, in the order of the skus; and whether that may be old.

        Raises LocationNotFound, LedgerUnavailable (neither gate nor ledger answered).
        """
        found: tuple[Promised, bool] = await self.ask(location_ids, skus, channel, _as_they_are, deadline.until())
        return found

    def ask(
        self, location_ids: Sequence[str], skus: Sequence[str], channel: str, finish: Finish, until: float | None
    ) -> asyncio.Future[Any]:
        """The same, given to `finish` in the round; `until`: of the call, monotonic."""
        return self._reads.enqueue(Read(location_ids, skus, channel, finish), until)

    async def _round(self, reads: Sequence[Read]) -> list[Any]:
        return [
            seen if isinstance(seen, BaseException) else read.finish(self._promised(read, seen), seen.is_stale)
            for read, seen in zip(reads, await self._look(reads), strict=True)
        ]

    def _promised(self, read: Read, seen: Seen) -> Promised:
        """The same figures as `onhand.domain.stock.atp` gives, where nothing is reserved besides."""
        if not is_online(read.channel):
            return {at: [max(0, n) for n, _ in seen.rows[at]] for at in read.location_ids}
        if not self._policy.keeps_from(read.channel):
            return {at: [max(0, n - floor) for n, floor in seen.rows[at]] for at in read.location_ids}
        kept = [self._policy.threshold(read.channel, sku) for sku in read.skus]
        return {
            at: [max(0, n - floor - k) for (n, floor), k in zip(seen.rows[at], kept, strict=True)]
            for at in read.location_ids
        }

    async def _look(self, reads: Sequence[Read]) -> list[Seen | BaseException]:
        wanted = [(location_id, read.skus) for read in reads for location_id in read.location_ids]
        locations = {location_id for location_id, _ in wanted}
        # One after the other: an epoch that was asked for before the gate was read may be over by then, and the old data
        # show an increase without the sale that went past it.
        (from_gate,) = await asyncio.gather(self._gate.read(wanted), return_exceptions=True)
        (from_ledger,) = await asyncio.gather(self._soon(self._epochs(locations)), return_exceptions=True)
        if isinstance(from_ledger, BaseException):
            return self._stale(reads, from_gate, from_ledger)
        if isinstance(from_gate, BaseException):
            if not isinstance(from_gate, Unreachable):
                raise from_gate
            log.warning("reading from the ledger: %s", from_gate)
        epochs = from_ledger
        rows: list[list[tuple[int, int]] | None] = []
        for n, (location_id, _) in enumerate(wanted):
            answer = None if isinstance(from_gate, BaseException) else from_gate[n]
            is_current = answer is not None and answer[0] == epochs.get(location_id)
            rows.append(answer[1] if answer is not None and is_current else None)
            if not is_current and location_id in epochs and not isinstance(from_gate, BaseException):
                self._rebuilder.request(location_id)
        missing = [wanted[n] for n, row in enumerate(rows) if row is None and wanted[n][0] in epochs]
        fallback = await self._levels(missing) if missing else {}
        return _by_read(reads, wanted, rows, fallback, epochs)

    async def _soon(self, epochs: Coroutine[Any, Any, dict[str, int]]) -> dict[str, int]:
        """What the ledger says, if it says it soon. Its answer is not waited for then, but its connection is left in peace."""
        task = asyncio.create_task(epochs)
        self._late.add(task)
        task.add_done_callback(self._ended)
        try:
            async with deadline.patience(LEDGER_SECONDS_MAX):
                return await asyncio.shield(task)
        except TimeoutError as error:
            raise LedgerUnavailable(f"nothing for {LEDGER_SECONDS_MAX} s") from error

    def _ended(self, task: asyncio.Task[dict[str, int]]) -> None:
        self._late.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits still, has it

    @staticmethod
    def _stale(
        reads: Sequence[Read],
        from_gate: Sequence[tuple[int, list[tuple[int, int]]] | None] | BaseException,
        error: BaseException,
    ) -> list[Seen | BaseException]:
        """The ledger is down: what the gate knows is better than nothing, if it has all of it."""
        if not isinstance(error, LedgerUnavailable):
            raise error
        if isinstance(from_gate, BaseException):
            raise error
        answers = iter(from_gate)
        result: list[Seen | BaseException] = []
        for read in reads:
            rows = {location_id: next(answers) for location_id in read.location_ids}
            known = {location_id: row[1] for location_id, row in rows.items() if row is not None}
            result.append(Seen(known, True) if len(known) == len(rows) else error)
        return result

    async def _epochs(self, location_ids: set[str]) -> dict[str, int]:
        rows = await self._fetch_epochs(list(location_ids))
        if rows[0]["version"] != self._policy.version:
            await self._policy.refresh(rows[0]["version"])
        return {r["location_id"]: r["epoch"] for r in rows if r["location_id"] is not None}

    @step("ledger.epochs", model=("ask",))
    async def _fetch_epochs(self, location_ids: list[str]) -> list[Any]:
        async with self._database.connection() as connection:
            return await connection.fetch(EPOCHS, location_ids)

    @step("ledger.levels")
    async def _levels(self, wanted: Sequence[tuple[str, Sequence[str]]]) -> dict[tuple[str, str], tuple[int, int]]:
        pairs = sorted({(location_id, sku) for location_id, skus in wanted for sku in skus})
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                LEVELS, [p[0] for p in pairs], [p[1] for p in pairs], list({p[0] for p in pairs})
            )
        return {(r["location_id"], r["sku"]): (r["atp"], r["floor"]) for r in rows}


def _as_they_are(promised: Promised, is_stale: bool) -> tuple[Promised, bool]:
    return promised, is_stale


def _by_read(
    reads: Sequence[Read],
    wanted: Sequence[tuple[str, Sequence[str]]],
    rows: Sequence[list[tuple[int, int]] | None],
    fallback: dict[tuple[str, str], tuple[int, int]],
    epochs: dict[str, int],
) -> list[Seen | BaseException]:
    result: list[Seen | BaseException] = []
    n = 0
    for read in reads:
        seen: dict[str, list[tuple[int, int]]] = {}
        unknown: str | None = None
        for location_id in read.location_ids:
            row = rows[n]
            if location_id not in epochs:
                unknown = unknown or location_id
            elif row is None:
                seen[location_id] = [fallback[location_id, sku] for sku in wanted[n][1]]
            else:
                seen[location_id] = row
            n += 1
        result.append(Seen(seen, False) if unknown is None else LocationNotFound(unknown))
    return result
