"""Server processes on one port: started, watched, drained, ended."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from onhand.settings import Unusable

log = logging.getLogger(__name__)

RESTARTS_MAX = 5
"""How often a process that died is started again before the whole server gives up."""
RESTARTS_WINDOW_SECONDS = 600.0
"""Only restarts this recent count. Longer than processes take to give up a database that never answers, each time."""
END_SECONDS_MAX = 25.0
"""How long processes may take to drain before they are killed."""
GC_THRESHOLDS = (20_000, 20, 50)
"""Objects more than before, until the youngest are looked through; how often that is done until the next older are, too."""
WATCH_SECONDS = 0.2
"""How often the processes are looked after."""


class PortTakenError(Unusable):
    """Something else listens on the port."""


class DiesTooOften(Unusable):
    """What is started again whenever it dies has died too often."""


def reserve_port(host: str, port: int, *, option: str = "--port") -> socket.socket:
    """Holds a free port without listening, so that our own processes may share it and nobody else slips in between.

    `port` 0 chooses one; `option` is what to change where it cannot be had.
    Raises PortTakenError where something listens already, Unusable where nothing can.
    """
    if port:
        # Without SO_REUSEPORT: two servers that share a port without knowing would each get half of the calls.
        _bound(host, port, socket.SO_REUSEADDR, option).close()
    return _bound(host, port, socket.SO_REUSEPORT, option)


def _bound(host: str, port: int, sharing: int, option: str) -> socket.socket:
    held = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    held.setsockopt(socket.SOL_SOCKET, sharing, 1)
    try:
        held.bind((host, port))
    except OSError as error:
        held.close()
        what = f"{host}:{port} cannot be listened on ({error.strerror})"
        if error.errno == errno.EADDRINUSE:
            raise PortTakenError(f"{what}; stop what uses it, or choose another {option}") from error
        if error.errno == errno.EACCES:
            raise Unusable(f"{what}; choose a {option} above 1023") from error
        raise Unusable(f"{what}; choose another --host, one of this machine") from error
    return held


class Restarts:
    """Counts how often something was started again."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def count(self, what: str) -> None:
        """One more. Raises DiesTooOften after RESTARTS_MAX within RESTARTS_WINDOW_SECONDS."""
        now = time.monotonic()
        self._times = [t for t in self._times if now - t < RESTARTS_WINDOW_SECONDS] + [now]
        if len(self._times) > RESTARTS_MAX:
            minutes = RESTARTS_WINDOW_SECONDS / 60
            raise DiesTooOften(f"{what} died {len(self._times)} times in {minutes:.0f} minutes; see the log above")


class Processes:
    """Children that run the same command; one that dies is started again, within bounds."""

    def __init__(self, command: list[str], environment: dict[str, str], count: int) -> None:
        self._command = command
        self._environment = os.environ | environment
        self._children = [self._start() for _ in range(count)]
        self._restarts = Restarts()

    def _start(self) -> subprocess.Popen[bytes]:
        # A session of its own: the terminal's Ctrl-C reaches the parent only, which drains the children in order.
        return subprocess.Popen(self._command, env=self._environment, start_new_session=True)

    @property
    def pids(self) -> list[int]:
        """The pids of the children."""
        return [child.pid for child in self._children]

    def check(self) -> None:
        """Starts again what died. Raises DiesTooOften."""
        for n, child in enumerate(self._children):
            code = child.poll()
            if code is None:
                continue
            self._restarts.count("server processes")
            log.error("server process %d ended with %d; starting another", child.pid, code)
            self._children[n] = self._start()

    def stop(self) -> None:
        """Lets the children drain, and kills what does not end."""
        for child in self._children:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        until = time.monotonic() + END_SECONDS_MAX
        for child in self._children:
            try:
                child.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.error("server process %d does not end; killing it", child.pid)
                child.kill()
                child.wait()


def server_processes(
    *,
    postgres_dsn: str,
    redis_url: str,
    host: str,
    port: int,
    count: int,
    metrics: Mapping[str, str] = MappingProxyType({}),
    options: Sequence[str] = (),
) -> Processes:
    """Children that serve on one reserved port. `metrics`: what onhand.telemetry.exposed says of their environment.

    `options`: further ones of `onhand serve`.
    """
    command = [sys.executable, "-m", "onhand.cli", "serve", "--processes", "1", "--host", host, "--port", str(port)]
    command += options
    environment = {
        "ONHAND_POSTGRES_DSN": postgres_dsn,
        "ONHAND_REDIS_URL": redis_url,
        "ONHAND_PORT_IS_SHARED": "1",
        "ONHAND_PARENT_PID": str(os.getpid()),
        **metrics,
    }
    return Processes(command, environment, count)


async def until_stopped(check: Callable[[], None]) -> None:
    """Returns at SIGINT or SIGTERM; calls `check` all the while."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    while not stopped.is_set():
        check()
        try:
            await asyncio.wait_for(stopped.wait(), WATCH_SECONDS)
        except TimeoutError:
            continue


def collect_rarely() -> None:
    """Has Python look for cyclic garbage less often, and never among what is there from the start.

    A call leaves hardly any behind; looking for it took a tenth of a busy server's time, in pauses of fifty milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def check_parent() -> None:
    """Stops this process, drained, where its parent is gone: a killed parent leaves no servers behind."""
    parent = os.environ.get("ONHAND_PARENT_PID")
    if parent is not None and os.getppid() != int(parent):
        log.error("the parent process %s is gone; stopping", parent)
        os.kill(os.getpid(), signal.SIGTERM)
