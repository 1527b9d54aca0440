"""What a simulation breaks: PostgreSQL, Valkey or Redis, server processes, and a proxy on every link between them.

    clients -> proxy -> server n -> proxy -> PostgreSQL
                                 -> proxy -> Valkey or Redis
                                 -> proxy -> a local Stripe

Every server has proxies of its own, so that one of them can lose a part that the others still reach.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis import Redis

from onhand.dev.postgres import EmbeddedPostgres
from onhand.dev.process import log_tail
from onhand.dev.stack import DATABASE
from onhand.dev.valkey import EmbeddedValkey
from onhand.ledger.migrate import migrate
from onhand.serve import reserve_port
from onhand.settings import Unusable
from onhand.simulate.shop import WEBHOOK_SECRET
from onhand.trials.guard import Guard, end
from onhand.trials.proxy import Mode, Proxy, ProxyThread
from onhand.trials.stripe import API_KEY, open_stripe

log = logging.getLogger(__name__)

READY_SECONDS_MAX = 60.0
"""How long a server may take to serve once everything it needs is there."""
READY_PAUSE_SECONDS = 0.1
DRAIN_SECONDS_MAX = 15.0
"""How long servers may take to end when they are told to."""
CONTROL_SECONDS_MAX = 10.0
"""How long PostgreSQL and the gate may take to do what a fault asks of them."""

# On top of a stack that is thrown away. A process killed within a write may leave half a page; commit times are evidence.
POSTGRES_SETTINGS = {"full_page_writes": "on", "synchronous_commit": "on", "track_commit_timestamp": "on"}


class DiedByItself(Unusable):
    """A server process ended though nobody killed it; the message ends with its log."""


@dataclass
class _Server:
    """One server process, its port, and the proxies that lead to and from it."""

    number: int
    held: socket.socket
    links: dict[str, Proxy]
    environment: dict[str, str]
    log: Path
    target: str
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0

    @property
    def port(self) -> int:
        """Where it serves itself, without a proxy."""
        port: int = self.held.getsockname()[1]
        return port


class World:
    """Everything that runs; whatever is started here is ended here, and by the guard if this process is killed."""

    def __init__(self, folder: Path, *, servers: int, redis_server: Path | None = None) -> None:
        self.folder = folder
        self.postgres = EmbeddedPostgres(folder / "postgres", tcp_port=0, fast=True)
        self.gate = EmbeddedValkey(folder / "gate", binary=redis_server)
        self._count = servers
        self._ended = ExitStack()
        self._lock = threading.RLock()
        """Around what starts and ends processes: faults and the watch over them are different threads."""
        self._is_stopping = False
        self._paused: set[psutil.Process] = set()
        self.servers: list[_Server] = []
        self.clients: Sequence[int] = ()
        """Process ids of the clients, once they run."""

    # ------------------------------------------------------------------------------------------------- begin and end
    def __enter__(self) -> World:
        try:
            self._start()
        except BaseException:
            self._ended.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.close()

    def _start(self) -> None:
        self.guard = Guard(self.folder)
        self._ended.callback(self.guard.close)
        self._ended.callback(self.postgres.stop)
        self.postgres.start()
        self.guard.watch(self.postgres.pid)
        self.postgres.create_database(DATABASE)
        for name, value in POSTGRES_SETTINGS.items():
            self.sql(f"ALTER SYSTEM SET {name} = {value}")
        migrate(self.postgres_dsn)
        self.postgres.stop()
        self.start_postgres()
        self._ended.callback(self.gate.stop)
        self.gate.start()
        self.guard.watch(self.gate.pid)
        self._proxies = self._ended.enter_context(ProxyThread())
        self.stripe, stripe = self._proxies.run(open_stripe())
        self._ended.callback(stripe.close)
        self._ended.callback(self._stop_servers)
        for number in range(self._count):
            server = self._make_server(number)
            self.servers.append(server)
            self._launch(server)
        self._ended.callback(self._let_go)
        self.wait_until_ready(self.check)

    def _make_server(self, number: int) -> _Server:
        held = self._ended.enter_context(reserve_port("127.0.0.1", 0))
        links: dict[str, Proxy] = {}
        ports: dict[str, int] = {}
        for link, port in (
            ("clients", held.getsockname()[1]),
            ("ledger", urlsplit(self.postgres_dsn).port or 0),
            ("gate", self.gate.port),
            ("payments", urlsplit(self.stripe.url).port or 0),
        ):
            links[link], ports[link] = self._proxies.add(port)
        environment = os.environ | {
            "ONHAND_POSTGRES_DSN": _with_port(self.postgres_dsn, ports["ledger"]),
            "ONHAND_REDIS_URL": _with_port(self.gate.url, ports["gate"]),
            "ONHAND_STRIPE_KEY": API_KEY,
            "ONHAND_STRIPE_URL": _with_port(self.stripe.url, ports["payments"]),
            "ONHAND_STRIPE_WEBHOOK_SECRET": WEBHOOK_SECRET,
            # The way with most to do: sourcing is asked first, and what nobody brings is cancelled.
            "ONHAND_LOST_STOCK_POLICY": "resource,void",
            "ONHAND_PORT_IS_SHARED": "1",
            "ONHAND_PARENT_PID": str(os.getpid()),
        }
        log_file = self.folder / f"server-{number}.log"
        return _Server(number, held, links, environment, log_file, f"127.0.0.1:{ports['clients']}")

    def _launch(self, server: _Server) -> None:
        command = [sys.executable, "-m", "onhand.cli", "serve", "--processes", "1", "--port", str(server.port)]
        with server.log.open("ab") as output:
            # A session of its own: the terminal's Ctrl-C reaches this process only, which ends the others in order.
            server.process = subprocess.Popen(
                command, env=server.environment, start_new_session=True, stdout=output, stderr=output
            )
        server.starts += 1
        self.guard.watch(server.process.pid)

    def _stop_servers(self) -> None:
        with self._lock:
            self._is_stopping = True
        running = [s.process for s in self.servers if s.process is not None and s.process.poll() is None]
        for process in running:
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)  # whoever paused it
        until = time.monotonic() + DRAIN_SECONDS_MAX
        for process in running:
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.error("server process %d does not end; killing it", process.pid)
                process.kill()
                process.wait()
            self.guard.release(process.pid)

    def _let_go(self) -> None:
        """Nothing is paused and no link is broken while things are ended."""
        self.resume(list(self._paused))
        self.mend()

    # ------------------------------------------------------------------------------------------------- where it is
    @property
    def targets(self) -> list[str]:
        """Where clients find each server: its proxy."""
        return [server.target for server in self.servers]

    @property
    def postgres_dsn(self) -> str:
        """The ledger, without a proxy."""
        return self.postgres.dsn(DATABASE)

    @property
    def redis_url(self) -> str:
        """The gate, without a proxy."""
        return self.gate.url

    def sql(self, statement: str) -> str:
        """Runs one statement, past every proxy; returns its status."""

        async def execute() -> str:
            connection = await asyncpg.connect(self.postgres_dsn, timeout=CONTROL_SECONDS_MAX)
            try:
                status: str = await connection.execute(statement, timeout=CONTROL_SECONDS_MAX)
                return status
            finally:
                await connection.close()

        return asyncio.run(execute())

    @contextlib.contextmanager
    def redis(self) -> Iterator[Redis]:
        """A connection to the gate, past every proxy."""
        client = Redis.from_url(self.redis_url, socket_timeout=CONTROL_SECONDS_MAX)
        try:
            yield client
        finally:
            client.close()

    # ------------------------------------------------------------------------------------------------- processes
    def check(self) -> None:
        """Starts again every server that died. Raises DiedByItself where nobody killed it."""
        with self._lock:
            if self._is_stopping:
                return
            for server in self.servers:
                assert server.process is not None
                code = server.process.poll()
                if code is None:
                    continue
                self.guard.release(server.process.pid)
                self._launch(server)
                if code != -signal.SIGKILL:
                    what = f"server {server.number} ended with {code} by itself"
                    raise DiedByItself(f"{what}. Its log, {server.log}, ends:\n{log_tail(server.log)}")

    def kill_servers(self, number: int | None) -> int:
        """SIGKILL to one server or to all, and starts them again at once. Returns how many were killed."""
        count = 0
        with self._lock:
            for server in self._chosen(number):
                if server.process is not None and server.process.poll() is None:
                    server.process.kill()
                    server.process.wait()
                    count += 1
            self.check()
        return count

    def _chosen(self, number: int | None) -> Sequence[_Server]:
        return self.servers if number is None else [self.servers[number]]

    def server_processes(self, number: int | None) -> list[psutil.Process]:
        """The process of one server, or of all."""
        with self._lock:
            running = [s.process for s in self._chosen(number) if s.process is not None]
            return _existing([process.pid for process in running if process.poll() is None])

    def postgres_processes(self) -> list[psutil.Process]:
        """The postmaster first, then its children."""
        pid = self.postgres.pid
        found = _existing([pid] if pid is not None else [])
        return found + [child for process in found for child in process.children(recursive=True)]

    def gate_processes(self) -> list[psutil.Process]:
        """The process of Valkey or Redis."""
        pid = self.gate.pid
        return _existing([pid] if pid is not None else [])

    def client_processes(self, number: int) -> list[psutil.Process]:
        """One client process, once it runs."""
        return _existing(self.clients[number : number + 1])

    def watch_clients(self, pids: Sequence[int]) -> None:
        """From now on faults may concern these processes."""
        self.clients = pids
        for pid in pids:
            self.guard.watch(pid)

    def pause(self, processes: Sequence[psutil.Process]) -> int:
        """SIGSTOP. Returns how many were stopped."""
        count = 0
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
                self._paused.add(process)
                count += 1
        return count

    def resume(self, processes: Sequence[psutil.Process]) -> None:
        """SIGCONT."""
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()
            self._paused.discard(process)

    def kill_postgres(self) -> int:
        """SIGKILL to the postmaster and to all its children. Returns how many."""
        processes = self.postgres_processes()
        end(processes[:1])
        self.postgres.kill()  # already dead: takes note of it
        return len(processes)

    def start_postgres(self) -> None:
        """Starts it again with its data, at its port."""
        self.postgres.start()
        self.guard.watch(self.postgres.pid)

    def kill_gate(self) -> None:
        """SIGKILL to Valkey or Redis."""
        self.guard.release(self.gate.pid)
        self.gate.kill()

    def start_gate(self, dump: Path | None) -> None:
        """Starts it again at its port, with the data of this dump, or with none."""
        kept = self.gate.data_dir / "dump.rdb"
        if dump is None:
            kept.unlink(missing_ok=True)
        elif dump != kept:
            kept.write_bytes(dump.read_bytes())
        self.gate.start()
        self.guard.watch(self.gate.pid)
        kept.unlink(missing_ok=True)

    def save_gate(self) -> Path:
        """Has the gate write all that it holds now. Returns the file."""
        with self.redis() as client:
            client.save()
        return self.gate.data_dir / "dump.rdb"

    # ------------------------------------------------------------------------------------------------- links
    def set_link(self, link: str, number: int | None, mode: Mode, *, delay_seconds: float = 0.0) -> int:
        """Breaks or mends a link of one server, or of all. Returns how many open connections are concerned."""
        return sum(
            self._proxies.set(server.links[link], mode, delay_seconds=delay_seconds) for server in self._chosen(number)
        )

    def mend(self) -> None:
        """Every link passes everything again."""
        for server in self.servers:
            for proxy in server.links.values():
                if proxy.mode is not Mode.OPEN:
                    self._proxies.set(proxy, Mode.OPEN)

    def wait_until_ready(self, check: Callable[[], None] = lambda: None) -> None:
        """Back once every server serves; calls `check` all the while. Raises Unusable after READY_SECONDS_MAX."""
        until = time.monotonic() + READY_SECONDS_MAX
        waiting = list(self.servers)
        while waiting := [server for server in waiting if not _is_serving(server.target)]:
            check()
            if time.monotonic() > until:
                server = waiting[0]
                what = f"server {server.number} does not serve {READY_SECONDS_MAX:.0f} s after everything was mended"
                raise Unusable(f"{what}. Its log, {server.log}, ends:\n{log_tail(server.log)}")
            time.sleep(READY_PAUSE_SECONDS)


def _with_port(address: str, port: int) -> str:
    parts = urlsplit(address)
    return urlunsplit(parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{port}"))


def _existing(pids: Sequence[int]) -> list[psutil.Process]:
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid))
    return found


def _is_serving(target: str) -> bool:
    request = health_pb2.HealthCheckRequest(service="")
    with grpc.insecure_channel(target) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=1.0)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
