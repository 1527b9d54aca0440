"""What has to happen outside the ledger, as jobs in PostgreSQL: written by the transaction that decides it, done by any process.

The queue is pgqueuer's (docs/decisions/0018-jobs.md): its tables, and its statements for enqueueing, claiming, retrying and
holding. A job may run twice, after a crash or a time-out, so a handler does what it does under an id that makes that harmless.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any
from uuid import uuid4

from pgqueuer.domain.models import Job
from pgqueuer.domain.types import QueueEntrypoint, QueueManagerId
from pgqueuer.ports.repository import EntrypointExecutionParameter
from pgqueuer.queries import Queries

from onhand.crash import step
from onhand.domain.errors import Refusal
from onhand.postgres import Connection, Database
from onhand.telemetry import JOBS_ENDED

log = logging.getLogger(__name__)

JOBS_AT_ONCE_MAX = 16
"""Jobs that a process takes at a time, and does side by side."""
JOB_SECONDS_MAX = 30.0
"""How long one may take; then it is ended, and tried again."""
SILENT_SECONDS_MAX = 60.0
"""When a job is taken from a process that took it and is not heard of: twice what it may take."""
ATTEMPTS_MAX = 13
"""How often it is tried; then it is held, for a person to look at."""
PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 2.0, 3600.0
"""How long until the next try: twice as long each time. The twelve between the tries take more than two hours."""

LOG_DAYS = 30
"""How long it is kept what became of jobs."""
PRUNED_MAX = 5000
"""Rows of that log that one look removes."""

PRUNE = """
DELETE FROM pgqueuer_log
 WHERE id IN (SELECT id FROM pgqueuer_log WHERE created < now() - make_interval(days => $1) ORDER BY created LIMIT $2)"""

# One that is being tried waits again by itself, unless that was the last time.
HASTEN = """
WITH waiting AS (UPDATE pgqueuer SET execute_after = now() WHERE dedupe_key = $1 AND status = 'queued' RETURNING true)
SELECT EXISTS (SELECT FROM waiting)
    OR EXISTS (SELECT FROM pgqueuer WHERE dedupe_key = $1 AND status = 'picked' AND attempts + 1 < $2)"""

Handler = Callable[[Mapping[str, Any], int], Awaitable[None]]
"""Is given what was enqueued, and how often it was tried before."""


class NotYet(Exception):
    """It cannot be done now, or nobody knows whether it was: try again."""


class _Driver:
    """A connection as pgqueuer's queries use one."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def fetch(self, query: str, *values: object) -> list[dict[str, object]]:
        return [dict(row) for row in await self._connection.fetch(query, *values)]

    async def execute(self, query: str, *values: object) -> str:
        return str(await self._connection.execute(query, *values))


def _queries(connection: Connection) -> Queries:
    return Queries(_Driver(connection))  # type: ignore[arg-type]  # what it listens with is not used


async def enqueue(
    connection: Connection, name: str, payload: Mapping[str, Any], *, after_seconds: float = 0.0, key: str | None = None
) -> None:
    """Writes a job, done once the transaction is committed. Of the same `key` one waits at a time."""
    await _queries(connection).enqueue(
        name,
        json.dumps(payload).encode(),
        execute_after=timedelta(seconds=after_seconds),
        dedupe_key=key,
        on_conflict="skip",
    )


async def hasten(connection: Connection, key: str) -> bool:
    """Has the job of this key tried again once the transaction is committed. False: none waits for that, it is held or gone."""
    return bool(await connection.fetchval(HASTEN, key, ATTEMPTS_MAX))


class Jobs:
    """Does the jobs that are due; any number may run at once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._handlers: dict[str, Handler] = {}
        self._id = QueueManagerId(uuid4())

    def register(self, name: str, handler: Handler) -> None:
        """Who does jobs of this name."""
        self._handlers[name] = handler

    async def run_due(self) -> int:
        """Does what is due, JOBS_AT_ONCE_MAX at most. Returns how many."""
        jobs = await self._take()
        await asyncio.gather(*(self._run(job) for job in jobs))
        return len(jobs)

    async def _run(self, job: Job) -> None:
        try:
            async with asyncio.timeout(JOB_SECONDS_MAX):
                await self._handlers[job.entrypoint](json.loads(job.payload or b"{}"), job.attempts)
        except (NotYet, Refusal, TimeoutError) as error:
            await self._again(job, error)
        except Exception as error:
            log.exception("job %s of %s failed", job.id, job.entrypoint)
            await self._again(job, error)
        else:
            await self._end(job, "successful")
            JOBS_ENDED.labels(job.entrypoint, "successful").inc()

    async def _again(self, job: Job, error: Exception) -> None:
        if job.attempts + 1 >= ATTEMPTS_MAX:
            log.error("job %s of %s is held after %d attempts: %s", job.id, job.entrypoint, ATTEMPTS_MAX, error)
            await self._end(job, "failed")
            JOBS_ENDED.labels(job.entrypoint, "held").inc()
            return
        pause = min(PAUSE_SECONDS_MIN * 2**job.attempts, PAUSE_SECONDS_MAX)
        log.info("job %s of %s again in %.0f s: %s", job.id, job.entrypoint, pause, error)
        await self._retry(job, pause)
        JOBS_ENDED.labels(job.entrypoint, "again").inc()

    @step("ledger.prune_jobs")
    async def prune(self) -> None:
        """Forgets what became of jobs long ago."""
        async with self._database.connection() as connection:
            await connection.execute(PRUNE, LOG_DAYS, PRUNED_MAX)

    # ------------------------------------------------------------------------------------------------------ the queue
    @step("ledger.take_jobs")
    async def _take(self) -> list[Job]:
        names = {QueueEntrypoint(name): EntrypointExecutionParameter(concurrency_limit=0) for name in self._handlers}
        async with self._database.connection() as connection:
            return await _queries(connection).dequeue(
                batch_size=JOBS_AT_ONCE_MAX,
                entrypoints=names,
                queue_manager_id=self._id,
                global_concurrency_limit=None,
                heartbeat_timeout=timedelta(seconds=SILENT_SECONDS_MAX),
            )

    @step("ledger.end_job")
    async def _end(self, job: Job, status: Any) -> None:
        async with self._database.connection() as connection:
            await _queries(connection).log_jobs([(job, status, None)])

    @step("ledger.retry_job")
    async def _retry(self, job: Job, pause_seconds: float) -> None:
        async with self._database.connection() as connection:
            await _queries(connection).retry_job(job, timedelta(seconds=pause_seconds), None)
