"""Servers as child processes: what PostgreSQL's and Valkey's have in common."""

import contextlib
import socket
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from onhand.settings import Unusable

POLL_SECONDS = 0.02


class StackError(Unusable):
    """A server of the dev stack could not be started or stopped; the message says what to do."""


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on now. Somebody may before you do: be ready to try another."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def server_processes(folder: Path, names: Iterable[str]) -> list[psutil.Process]:
    """The live processes of a server that runs in `folder`: PostgreSQL and Valkey both make it their working folder.

    More certain than a pid file, which may name a process that has nothing to do with it by now.
    """
    wanted = tuple(names)
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name().startswith(wanted) and process.cwd() == str(folder) and is_alive(process):
                found.append(process)
    return found


def wait_until_gone(processes: Iterable[psutil.Process], *, timeout_seconds: float) -> bool:
    """Whether all of them ended in time."""
    deadline = time.monotonic() + timeout_seconds
    remaining = list(processes)
    while remaining := [process for process in remaining if is_alive(process)]:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def is_alive(process: psutil.Process) -> bool:
    """Whether it runs. A zombie does not: it only waits for its parent to take note."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def log_tail(log: Path, lines: int = 15) -> str:
    """The end of a server's log, for an error message."""
    with contextlib.suppress(OSError):
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    return "(no log)"
