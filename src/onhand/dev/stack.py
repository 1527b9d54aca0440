"""The dev stack: PostgreSQL and Valkey under one folder, for one parent at a time."""

import contextlib
import fcntl
import json
import logging
import os
from pathlib import Path
from typing import TextIO

from onhand.dev.postgres import EmbeddedPostgres
from onhand.dev.process import StackError, free_port
from onhand.dev.valkey import EmbeddedValkey
from onhand.serve import Restarts

__all__ = ["DATABASE", "DevStack", "EmbeddedPostgres", "EmbeddedValkey", "StackError", "free_port"]

log = logging.getLogger(__name__)

DATABASE = "onhand"


class DevStack:
    """Both servers, and `dev.json` beside their data, which tells other commands where they are while they run."""

    def __init__(
        self, folder: Path, *, server: str | None = None, connect: str | None = None, fast: bool = False
    ) -> None:
        """`server`, `connect`: host:port where onhand will serve gRPC and Connect.

        `fast`: for stacks that are thrown away; see EmbeddedPostgres."""
        self.folder = folder.resolve()
        self.server = server
        self.connect = connect
        self.postgres = EmbeddedPostgres(self.folder / "postgres", fast=fast)
        self.valkey = EmbeddedValkey(self.folder / "valkey")
        self._lock: TextIO | None = None
        self._restarts = Restarts()

    @property
    def postgres_dsn(self) -> str:
        """The address of the onhand database."""
        return self.postgres.dsn(DATABASE)

    @property
    def redis_url(self) -> str:
        """The address of Valkey; it is another one after every start."""
        return self.valkey.url

    def start(self) -> None:
        """Start both, create the database if absent, then write dev.json; all of it or nothing.

        Raises StackError where another live process holds the folder. What a killed one left is taken over.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._hold()
        except OSError as error:
            raise StackError(
                f"{self.folder} cannot be written ({error.strerror}): give another data folder."
            ) from error
        try:
            self.postgres.start()
            self.valkey.start()
            self.postgres.create_database(DATABASE)
            self._publish()
        except BaseException:
            self.stop()
            raise

    def check(self) -> None:
        """Start again what died: PostgreSQL with its data, Valkey empty, at its port. Raises DiesTooOften, StackError."""
        for name, server in (("PostgreSQL", self.postgres), ("Valkey", self.valkey)):
            if server.pid is None:
                self._restarts.count(name)
                log.error("%s ended, its log is %s; starting it again", name, server.log)
                server.start()
                self._publish()

    def stop(self) -> None:
        """Take dev.json away, then stop Valkey, then PostgreSQL; without effect where nothing runs."""
        with contextlib.ExitStack() as steps:  # last in, first out; a failing step does not keep the others from it
            steps.callback(self._let_go)
            steps.callback(self.postgres.stop)
            steps.callback(self.valkey.stop)
            if self._lock is not None:
                self._file().unlink(missing_ok=True)

    def __enter__(self) -> "DevStack":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _file(self) -> Path:
        return self.folder / "dev.json"

    def _publish(self) -> None:
        content = {
            "postgres_dsn": self.postgres_dsn,
            "redis_url": self.redis_url,
            "server": self.server,
            "connect": self.connect,
            "pids": {"parent": os.getpid(), "postgres": self.postgres.pid, "valkey": self.valkey.pid},
        }
        unfinished = self._file().with_suffix(".unfinished")
        unfinished.write_text(json.dumps(content, indent=2) + "\n")
        unfinished.replace(self._file())

    def _hold(self) -> None:
        if self._lock is not None:
            return
        # The kernel frees the lock when its holder dies, however it dies.
        lock = (self.folder / "lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read().strip()
            lock.close()
            raise StackError(
                f"Process {holder} runs a stack in {self.folder}: stop it, or give another data folder."
            ) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        self._lock = lock

    def _let_go(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()
