"""Jobs: written with what decides them, done once by any process, tried again with pauses, held at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any

import pytest

from onhand.jobs import ATTEMPTS_MAX, JOBS_AT_ONCE_MAX, PAUSE_SECONDS_MAX, Jobs, NotYet, enqueue
from onhand.postgres import Database

ECHO = "test.echo"


class Desk:
    """A database with a job of the test's own, and who does it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.done: list[tuple[Any, int]] = []
        self.error: Exception | None = None
        self.jobs = self.another()

    def another(self) -> Jobs:
        """One more process that does these jobs."""
        jobs = Jobs(self.database)
        jobs.register(ECHO, self._echo)
        return jobs

    async def _echo(self, payload: Mapping[str, Any], attempts: int) -> None:
        self.done.append((payload["n"], attempts))
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error

    async def ask(self, n: int, **named: Any) -> None:
        """Enqueues one."""
        async with self.database.transaction() as connection:
            await enqueue(connection, ECHO, {"n": n}, **named)

    async def queue(self) -> list[tuple[Any, ...]]:
        """(status, attempts, seconds until it is due) of what waits."""
        async with self.database.connection() as connection:
            rows = await connection.fetch(
                "SELECT status::text, attempts, execute_after - updated FROM pgqueuer ORDER BY id"
            )
        return [(status, attempts, after / timedelta(seconds=1)) for status, attempts, after in rows]

    async def let_pass(self, interval: str) -> None:
        """So much time is over."""
        async with self.database.connection() as connection:
            await connection.execute(
                "UPDATE pgqueuer SET execute_after = execute_after - $1::text::interval,"
                " heartbeat = heartbeat - $1::text::interval",
                interval,
            )


@pytest.fixture
async def desk(database_dsn: str) -> AsyncIterator[Desk]:
    database = await Database.open(database_dsn)
    yield Desk(database)
    await database.close()


async def test_a_job_is_done_once_whoever_does_it(desk: Desk) -> None:
    for n in range(40):
        await desk.ask(n)
    while await desk.queue():
        await asyncio.gather(*(each.run_due() for each in (desk.jobs, desk.another(), desk.another())))
    assert sorted(desk.done) == [(n, 0) for n in range(40)]
    assert await desk.jobs.run_due() == 0


async def test_a_process_takes_no_more_than_it_may(desk: Desk) -> None:
    for n in range(JOBS_AT_ONCE_MAX + 1):
        await desk.ask(n)
    assert [await desk.jobs.run_due() for _ in range(2)] == [JOBS_AT_ONCE_MAX, 1]


async def test_what_is_rolled_back_asked_for_nothing(desk: Desk) -> None:
    async def change_of_mind() -> None:
        async with desk.database.transaction() as connection:
            await enqueue(connection, ECHO, {"n": 1})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await change_of_mind()
    assert await desk.jobs.run_due() == 0


async def test_a_job_for_later_waits(desk: Desk) -> None:
    await desk.ask(1, after_seconds=60.0)
    assert await desk.jobs.run_due() == 0
    await desk.let_pass("61 seconds")
    assert await desk.jobs.run_due() == 1


async def test_of_one_key_one_job_waits(desk: Desk) -> None:
    for n in range(3):
        await desk.ask(n, key="same")
    assert await desk.jobs.run_due() == 1
    await desk.ask(3, key="same")
    assert await desk.jobs.run_due() == 1
    assert desk.done == [(0, 0), (3, 0)]


async def test_a_job_that_fails_is_tried_again_after_longer_and_longer_pauses_and_then_held(desk: Desk) -> None:
    await desk.ask(1)
    desk.error = NotYet("the provider is silent")
    pauses = []
    for n in range(ATTEMPTS_MAX - 1):
        await desk.jobs.run_due()
        ((status, attempts, pause),) = await desk.queue()
        assert (status, attempts) == ("queued", n + 1)
        assert await desk.jobs.run_due() == 0
        pauses.append(round(pause))
        await desk.let_pass("1 day")
    assert pauses == [min(2 * 2**n, PAUSE_SECONDS_MAX) for n in range(ATTEMPTS_MAX - 1)]
    await desk.jobs.run_due()
    assert [row[0] for row in await desk.queue()] == ["failed"]
    await desk.let_pass("1 day")
    assert await desk.jobs.run_due() == 0
    assert [attempts for _, attempts in desk.done] == list(range(ATTEMPTS_MAX))


async def test_an_error_of_our_own_does_not_stop_the_others(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.error = RuntimeError("a bug")
    for n in range(3):
        await desk.ask(n)
    assert await desk.jobs.run_due() == 3
    assert [row[:2] for row in await desk.queue()] == [("queued", 1)] * 3
    assert "a bug" in caplog.text


async def test_a_job_of_a_process_that_died_is_done_by_another_once_it_is_silent(desk: Desk) -> None:
    await desk.ask(1)
    assert len(await desk.jobs._take()) == 1  # and dies
    assert await desk.another().run_due() == 0
    await desk.let_pass("61 seconds")
    assert await desk.another().run_due() == 1
    assert await desk.queue() == []


async def test_what_became_of_jobs_long_ago_is_forgotten(desk: Desk) -> None:
    for days in (0, 29, 31):
        await desk.ask(days)
        await desk.jobs.run_due()
        async with desk.database.connection() as connection:
            await connection.execute(
                "UPDATE pgqueuer_log SET created = now() - make_interval(days => $1)"
                " WHERE job_id = (SELECT max(job_id) FROM pgqueuer_log)",
                days,
            )
    await desk.jobs.prune()
    async with desk.database.connection() as connection:
        assert await connection.fetchval("SELECT count(DISTINCT job_id) FROM pgqueuer_log") == 2
