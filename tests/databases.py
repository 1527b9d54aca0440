"""Databases for tests: copies of a migrated one, given back as they were made, so that not every test waits for a copy."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg

import keeper
from snapshot import Rows

KEPT_BYTES_MAX = 64 * 2**20
"""One that has grown beyond it is dropped: emptying it would take longer than a new one."""
END_MILLISECONDS_MAX = 10_000
"""How long a connection that a test left behind may take to end."""

# Each change of a definition makes a new row in the catalogue. ANALYZE and VACUUM do not: they change theirs in place.
DEFINITIONS = """
SELECT array[(SELECT (count(*), sum(xmin::text::int8))::text FROM pg_class WHERE relnamespace = 'public'::regnamespace),
             (SELECT (count(*), sum(xmin::text::int8))::text FROM pg_constraint),
             (SELECT (count(*), sum(xmin::text::int8))::text FROM pg_trigger),
             (SELECT (count(*), sum(xmin::text::int8))::text FROM pg_attribute),
             (SELECT (count(*), sum(xmin::text::int8))::text FROM pg_proc),
             (SELECT (count(*), sum(xmin::text::int8))::text FROM pg_namespace),
             (SELECT count(*)::text FROM pg_db_role_setting)]"""
END_CONNECTIONS = """
SELECT count(*) FILTER (WHERE NOT pg_terminate_backend(pid, $1)) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"""


class Databases:
    """The databases of a session's server."""

    def __init__(self, dsn_of: Callable[[str], str], template: str) -> None:
        self._dsn_of, self._template = dsn_of, template
        self._numbers = itertools.count(1)
        self._free: list[_Database] = []

    @contextmanager
    def new(self) -> Iterator[str]:
        """The DSN of a database that nobody had before, dropped afterwards."""
        with database(self._dsn_of, self._name(), template=self._template) as dsn:
            yield dsn

    @contextmanager
    def lent(self) -> Iterator[str]:
        """The DSN of a database that is as the migrations leave it; a test before may have had it."""
        if not self._free:
            name = self._name()
            create(self._dsn_of, name, template=self._template)
            self._free.append(_Database(name, self._dsn_of(name)))
        lent = self._free.pop()
        is_kept = False
        try:
            yield lent.dsn
            is_kept = lent.set_back()
        finally:
            if is_kept:
                self._free.append(lent)
            else:
                self._drop(lent)

    def close(self) -> None:
        """Drops all."""
        while self._free:
            self._drop(self._free.pop())

    def _drop(self, lent: _Database) -> None:
        keeper.give_up(lent.dsn)
        drop(self._dsn_of, lent.name)

    def _name(self) -> str:
        return f"onhand_test_{os.getpid()}_{next(self._numbers)}"


class _Database:
    """One that tests have in turn."""

    def __init__(self, name: str, dsn: str) -> None:
        self.name, self.dsn = name, dsn
        keeper.keep(dsn)
        keeper.wait_on(dsn, self._remember)

    async def _remember(self, connection: Any) -> None:
        self._rows = await Rows.read(connection)
        self._definitions = await connection.fetchval(DEFINITIONS)

    def set_back(self) -> bool:
        """Makes it as it was, or says that it can't: its definitions are others, or it is too large."""
        return keeper.wait_on(self.dsn, self._set_back)

    async def _set_back(self, connection: Any) -> bool:
        if await connection.fetchval(END_CONNECTIONS, END_MILLISECONDS_MAX):
            return False
        size = await connection.fetchval("SELECT pg_database_size(current_database())")
        if size > KEPT_BYTES_MAX or await connection.fetchval(DEFINITIONS) != self._definitions:
            return False
        await self._rows.write(connection)
        return True


@contextmanager
def database(dsn_of: Callable[[str], str], name: str, *, template: str) -> Iterator[str]:
    """A database of this name as long as the block lasts; its DSN."""
    create(dsn_of, name, template=template)
    try:
        yield dsn_of(name)
    finally:
        drop(dsn_of, name)


def create(dsn_of: Callable[[str], str], name: str, *, template: str) -> None:
    """Copies a database."""
    # As files: these servers do not wait for their disk, and writing all of it to the log first takes twice as long.
    execute(dsn_of("postgres"), f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")


def drop(dsn_of: Callable[[str], str], name: str) -> None:
    """Drops a database, whoever is connected to it."""
    execute(dsn_of("postgres"), f"DROP DATABASE {name} WITH (FORCE)")


def execute(dsn: str, statement: str) -> None:
    """One statement on a connection of its own."""

    async def work() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    run(work())


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Runs what needs an event loop of its own, away from the loop that an asynchronous test has in this thread."""
    return in_thread(lambda: asyncio.run(work))


def in_thread(work: Callable[[], Any]) -> Any:
    """Runs it in a thread; its result, or its error."""
    outcome: list[Any] = []
    failure: list[BaseException] = []

    def target() -> None:
        try:
            outcome.append(work())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]
