"""The commands as a person or a supervisor runs them: processes, signals, ports, and what cannot be reached."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch
from urllib.parse import urlsplit

import asyncpg
import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from api import BREAD, MILK, NORTH, Api, lines, opened, request_id, serving
from onhand import serve
from onhand.dev.process import free_port
from onhand.dev.valkey import EmbeddedValkey
from onhand.v1 import inventory_pb2

COMMAND = [sys.executable, "-m", "onhand.cli"]
# The same command with little patience, or with much.
HASTY = [
    sys.executable,
    "-c",
    "import os, onhand.app as app; app.START_ATTEMPTS_MAX = int(os.environ['ATTEMPTS']); app.START_PAUSE_SECONDS = 0.05;"
    "import onhand.postgres; onhand.postgres.CONNECT_SECONDS_MAX = float(os.environ.get('CONNECT', '5'));"
    "from onhand.cli import main; main()",
]
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("ONHAND_", "PYTHON"))}
SECONDS_MAX = 200.0
"""How long a command may take to do what it must. No test asserts how long it took."""


class Running:
    """A command that runs, and what it wrote."""

    def __init__(self, process: psutil.Popen, log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def text(self) -> str:
        return self._log.read_text()

    def until(self, look: Callable[[], object], what: str) -> None:
        """Waits until something is so."""
        deadline = time.monotonic() + SECONDS_MAX
        while not look():
            assert time.monotonic() < deadline, f"{what} never came:\n{self.text}"
            time.sleep(0.02)

    def until_said(self, pattern: str) -> re.Match[str]:
        """Waits until it wrote something. Fails at once where it ended without."""
        self.until(lambda: re.search(pattern, self.text) or self.process.poll() is not None, pattern)
        found = re.search(pattern, self.text)
        assert found, f"ended with {self.process.poll()} without saying {pattern!r}:\n{self.text}"
        return found

    def end(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal, and returns the exit code."""
        self.process.send_signal(number)
        return int(self.process.wait(SECONDS_MAX))

    def children(self) -> list[psutil.Process]:
        """The server processes of a parent."""
        return [child for child in self.process.children() if child.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def run(scratch_dir: Path) -> Iterator[Callable[..., Running]]:
    """Starts a command; what is left of it and its children afterwards is killed."""
    started: list[Running] = []

    def start(*arguments: str, command: list[str] = COMMAND, **environment: str) -> Running:
        log = scratch_dir / f"{len(started)}.log"
        with log.open("wb") as file:
            process = psutil.Popen(
                [*command, *arguments],
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=scratch_dir,
                env=ENVIRONMENT | environment,
            )
        started.append(Running(process, log))
        return started[-1]

    yield start
    for running in started:
        family = [running.process]
        if running.process.is_running():
            family += running.process.children(recursive=True)
        for process in family:
            if process.is_running():
                process.kill()
        running.process.wait()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[health_pb2_grpc.HealthStub]:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 100)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield health_pb2_grpc.HealthStub(channel)


async def is_serving(port: int) -> bool:
    async with connected(port) as health:
        answer = await health.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=SECONDS_MAX)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


# ---------------------------------------------------------------------------------------------------------------- serve
async def test_serve_answers_until_it_is_told_to_stop_and_ends_what_it_began(
    database_dsn: str, redis_url: str, run: Callable[..., Running]
) -> None:
    async with opened(database_dsn, redis_url) as api:
        server = run("serve", "--port", "0", ONHAND_POSTGRES_DSN=database_dsn, ONHAND_REDIS_URL=redis_url)
        port = int(server.until_said(r"serving on 127\.0\.0\.1:(\d+)")[1])
        assert await is_serving(port)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            other = Api(api.app, api.server, database_dsn, channel, port)
            async with api.locked("SELECT FROM stock_levels WHERE location_id = $1", NORTH):
                receipt = asyncio.ensure_future(other.receive(NORTH, {MILK: 5}))
                await api.until_waiting(1)
                server.process.send_signal(signal.SIGTERM)
                await asyncio.to_thread(server.until_said, "draining")
            assert [level.available for level in await receipt] == [15]
        assert await asyncio.to_thread(server.process.wait, SECONDS_MAX) == 0
        assert not is_listening(port)
        assert "Traceback" not in server.text
        assert await api.atp(NORTH, MILK) == 15  # the other server sees it


async def test_several_processes_share_a_port_are_replaced_and_end_together(
    database_dsn: str, redis_url: str, run: Callable[..., Running]
) -> None:
    port = free_port()
    addresses = ("--postgres", database_dsn, "--redis", redis_url)
    server = run("serve", "--processes", "2", "--port", str(port), *addresses)
    await asyncio.to_thread(server.until, lambda: server.text.count("serving on") == 2, "two servers")
    first = server.children()
    assert len(first) == 2
    assert await is_serving(port)

    first[0].kill()
    await asyncio.to_thread(server.until, lambda: server.text.count("serving on") == 3, "a third server")
    second = server.children()
    assert len(second) == 2
    assert first[1] in second
    assert first[0] not in second
    # Every process answers: each connection is one of theirs.
    assert all([await is_serving(port) for _ in range(10)])

    assert await asyncio.to_thread(server.end) == 0
    assert not [child for child in (*first, *second) if child.is_running()]
    assert not is_listening(port)


def is_healthy(port: int) -> bool:
    """Whether Connect serves there, on a new connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS_MAX)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        return (answer.status, answer.read()) == (200, b"SERVING\n")
    finally:
        connection.close()


async def test_connect_is_served_beside_grpc_by_each_process_and_drained_with_it(
    database_dsn: str, redis_url: str, run: Callable[..., Running]
) -> None:
    async with opened(database_dsn, redis_url) as api:
        addresses = ("--postgres", database_dsn, "--redis", redis_url)
        server = run(
            "serve", "--processes", "2", "--port", "0", "--host", "localhost", "--connect-port", "0", *addresses
        )
        await asyncio.to_thread(server.until, lambda: server.text.count("serving on") == 2, "two servers")
        ports = set(re.findall(r"serving Connect on localhost:(\d+)", server.text))
        assert len(ports) == 1
        port = int(ports.pop())
        assert all([await asyncio.to_thread(is_healthy, port) for _ in range(10)])

        # A call that is under way when its process is told to stop is answered.
        receipt = inventory_pb2.ReceiveStockRequest(
            request_id=request_id(), location_id=NORTH, lines=lines({MILK: 5})
        ).SerializeToString()

        def receive() -> int:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS_MAX)
            headers = {"content-type": "application/proto"}
            connection.request("POST", "/onhand.v1.InventoryService/ReceiveStock", receipt, headers)
            return connection.getresponse().status

        async with api.locked("SELECT FROM stock_levels WHERE location_id = $1 AND sku = $2", NORTH, MILK):
            begun = asyncio.create_task(asyncio.to_thread(receive))
            await api.until_waiting(1)
            server.process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(server.until, lambda: server.text.count("draining") == 2, "two draining servers")
        assert await begun == 200
        assert await asyncio.to_thread(server.process.wait, SECONDS_MAX) == 0
        assert "Traceback" not in server.text
        assert not is_listening(port)
        assert await api.level(NORTH, MILK) == (15, 0, 0, 0)


async def test_a_killed_parent_leaves_no_servers_behind(
    database_dsn: str, redis_url: str, run: Callable[..., Running]
) -> None:
    port = free_port()
    addresses = ("--postgres", database_dsn, "--redis", redis_url)
    server = run("serve", "--processes", "2", "--port", str(port), *addresses)
    await asyncio.to_thread(server.until, lambda: server.text.count("serving on") == 2, "two servers")
    children = server.children()
    assert len(children) == 2

    assert await asyncio.to_thread(server.end, signal.SIGKILL) == -signal.SIGKILL

    gone, alive = await asyncio.to_thread(psutil.wait_procs, children, SECONDS_MAX)
    assert (len(gone), alive) == (2, [])
    assert not is_listening(port)


def test_servers_that_never_come_up_are_given_up_however_slowly_they_fail() -> None:
    clock = iter(range(0, 100_000, 30))  # as long as a start waits for its database
    failing = [sys.executable, "-c", "raise SystemExit(1)"]
    processes = serve.Processes(failing, {}, 2)

    def watch() -> None:
        for _ in range(serve.RESTARTS_MAX + 1):
            for child in processes._children:
                child.wait(SECONDS_MAX)
            processes.check()

    try:
        clock_of_serve = SimpleNamespace(monotonic=lambda: float(next(clock)))
        with patch.object(serve, "time", clock_of_serve), pytest.raises(serve.DiesTooOften):
            watch()
    finally:
        processes.stop()


# ---------------------------------------------------------------------------------------------- what cannot be reached
def test_a_database_that_is_not_there_is_named_asked_again_and_given_up(
    redis_url: str, run: Callable[..., Running]
) -> None:
    dsn = f"postgresql://onhand:hunter2@127.0.0.1:{free_port()}/ledger"
    address = dsn.rpartition("@")[2].partition("/")[0]
    server = run("serve", "--port", "0", "--postgres", dsn, "--redis", redis_url, command=HASTY, ATTEMPTS="4")
    assert server.process.wait(SECONDS_MAX) == 1
    assert server.text.count(f"PostgreSQL at {address} does not answer") == 3
    last = server.text.strip().splitlines()[-1]
    assert last.startswith("onhand: ")
    assert address in last
    assert "hunter2" not in server.text
    assert "Traceback" not in server.text


def test_a_database_that_accepts_and_never_answers_is_given_up_too(redis_url: str, run: Callable[..., Running]) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        dsn = f"postgresql://onhand@127.0.0.1:{deaf.getsockname()[1]}/ledger?sslmode=disable"
        server = run(
            "serve", "--port", "0", "--postgres", dsn, "--redis", redis_url, command=HASTY, ATTEMPTS="2", CONNECT="0.5"
        )
        assert server.process.wait(SECONDS_MAX) == 1
        assert f"127.0.0.1:{deaf.getsockname()[1]}" in server.text
        assert "Traceback" not in server.text


async def test_a_gate_that_is_not_there_is_named_and_waited_for(
    database_dsn: str, private_redis: EmbeddedValkey, run: Callable[..., Running]
) -> None:
    url = private_redis.url
    address = url.rpartition("/")[0].rpartition("/")[2] if url.count("/") > 2 else url.rpartition("/")[2]
    private_redis.kill()
    arguments = ("serve", "--port", "0", "--postgres", database_dsn, "--redis", url)
    hasty = run(*arguments, command=HASTY, ATTEMPTS="2")
    patient = run(*arguments, command=HASTY, ATTEMPTS="10000")
    assert await asyncio.to_thread(hasty.process.wait, SECONDS_MAX) == 1
    assert f"Redis/Valkey at {address}" in hasty.text.strip().splitlines()[-1]
    assert "Traceback" not in hasty.text
    await asyncio.to_thread(patient.until_said, f"Redis/Valkey at {re.escape(address)} does not answer")
    private_redis.start()
    port = int((await asyncio.to_thread(patient.until_said, r"serving on 127\.0\.0\.1:(\d+)"))[1])
    assert await is_serving(port)
    assert await asyncio.to_thread(patient.end, signal.SIGINT) == 0


def test_what_serve_cannot_work_with_is_said_at_once(
    empty_database_dsn: str, redis_url: str, run: Callable[..., Running]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        both = ("--postgres", empty_database_dsn, "--redis", redis_url)
        nowhere = urlsplit(empty_database_dsn)._replace(path="/nowhere").geturl()
        deaf = f"postgresql://onhand@127.0.0.1:{free_port()}/ledger"
        tries = {
            "no tables": (run("serve", "--port", "0", *both), "onhand migrate"),
            "no tables for two": (run("serve", "--port", "0", "--processes", "2", *both), "onhand migrate"),
            "no database": (run("serve", "--port", "0", "--postgres", nowhere, "--redis", redis_url), "does not exist"),
            "no scheme of PostgreSQL": (run("serve", "--port", "0", "--postgres", "db", "--redis", redis_url), "DSN"),
            "no scheme": (
                run("serve", "--port", "0", "--postgres", empty_database_dsn, "--redis", "localhost:6379"),
                "redis://",
            ),
            "no addresses": (run("serve", "--port", "0"), "onhand dev"),
            "taken": (run("serve", "--port", port, *both), f"127.0.0.1:{port}"),
            "taken by two": (run("serve", "--port", port, "--processes", "2", *both), f"127.0.0.1:{port}"),
            "taken beside it": (run("serve", "--port", "0", "--connect-port", port, *both), "another --connect-port"),
            "taken from dev": (run("dev", "--port", port), f"127.0.0.1:{port}"),
            "no such host": (run("serve", "--port", "0", "--host", "192.0.2.1", *both), "--host"),
            "nothing to migrate": (run("migrate", "--postgres", deaf), deaf.rpartition("@")[2].partition("/")[0]),
            "nothing to verify": (run("verify", "--postgres", deaf, "--redis", redis_url), "does not answer"),
            "no folder": (run("dev", "--port", "0", "--data", "/dev/null/here"), "/dev/null/here"),
            "no weeks": (run("replay", "--weeks", "5-2"), "5 must not exceed 2"),
        }
        for what, (server, said) in tries.items():
            assert server.process.wait(SECONDS_MAX) == 1, what
            assert said in server.text, f"{what}: {server.text}"
            assert "Traceback" not in server.text, f"{what}: {server.text}"
            assert "request_id" not in server.text, f"{what}: {server.text}"


async def test_a_ledger_at_another_revision_is_not_served(
    database_dsn: str, redis_url: str, run: Callable[..., Running]
) -> None:
    connection = await asyncpg.connect(database_dsn)
    for revision, said in (("0000", "onhand migrate"), ("9999", "newer")):
        await connection.execute("UPDATE alembic_version SET version_num = $1", revision)
        server = run("serve", "--port", "0", "--postgres", database_dsn, "--redis", redis_url)
        assert await asyncio.to_thread(server.process.wait, SECONDS_MAX) == 1
        assert server.text.startswith("onhand: ")
        assert said in server.text
    await connection.close()


def test_dev_told_to_stop_while_it_loads_its_data_leaves_nothing_behind(
    scratch_dir: Path, run: Callable[..., Running]
) -> None:
    server = run("dev", "--port", "0", "--data", "data")
    server.until_said("loading sample data")
    stack = server.children()
    assert len(stack) == 2
    written = json.loads((scratch_dir / "data" / "dev.json").read_text())
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+", written[edge]) for edge in ("server", "connect"))

    assert server.end() != -signal.SIGTERM

    assert not [process for process in stack if process.is_running()]
    assert not (scratch_dir / "data" / "dev.json").exists()
    assert "Traceback" not in server.text


def test_migrate_says_where_it_came_from_and_may_be_repeated(
    empty_database_dsn: str, run: Callable[..., Running]
) -> None:
    for before in ("empty", r"\w+"):
        migration = run("migrate", "--postgres", empty_database_dsn)
        assert migration.process.wait(SECONDS_MAX) == 0, migration.text
        assert re.search(rf"ledger: {before} -> \w+", migration.text)


# ------------------------------------------------------------------------------------------------------------- buf curl
async def test_buf_curl_reaches_each_service_through_reflection(
    database_dsn: str, redis_url: str, scratch_dir: Path
) -> None:
    buf = Path(sys.executable).with_name("buf")
    async with serving(database_dsn, redis_url) as api:
        await api.open()

        async def curl(method: str, **request: object) -> tuple[int, dict[str, object]]:
            process = await asyncio.create_subprocess_exec(
                str(buf),
                "curl",
                "--protocol",
                "grpc",
                "--http2-prior-knowledge",
                f"http://127.0.0.1:{api.port}/onhand.v1.{method}",
                "-d",
                json.dumps(request),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=os.environ | {"HOME": str(scratch_dir)},
            )
            out, err = await asyncio.wait_for(process.communicate(), SECONDS_MAX)
            text = (out or err).decode()
            assert text.startswith("{"), f"{method}: {text}"
            return int(process.returncode or 0), json.loads(text)

        code, found = await curl(
            "InventoryService/GetAvailability", channel="CHANNEL_WEB", skus=[MILK], locationIds=[NORTH]
        )
        assert (code, found) == (
            0,
            {"locations": [{"locationId": NORTH, "items": [{"sku": MILK, "availableToPromise": "10"}]}]},
        )
        code, product = await curl("CatalogService/LookUpBarcode", gtin="4006381333931", currencyCode="USD")
        assert code == 0
        assert product["price"]["amount"] == {"currencyCode": "USD", "units": "1", "nanos": 990000000}  # type: ignore[index]
        code, cart = await curl(
            "CartService/CreateCart", requestId="curl-0001", channel="CHANNEL_APP", currencyCode="USD"
        )
        assert code == 0
        assert cart["cart"]["state"] == "CART_STATE_OPEN"  # type: ignore[index]
        code, sold = await curl(
            "OrderService/Sell",
            requestId="curl-0002",
            locationId=NORTH,
            currencyCode="USD",
            lines=[{"sku": BREAD, "quantity": 1}],
            tenders=[{"kind": "TENDER_KIND_CASH", "amount": {"currencyCode": "USD", "units": 2, "nanos": 500000000}}],
        )
        assert code == 0
        assert sold["order"]["state"] == "ORDER_STATE_COMPLETED"  # type: ignore[index]
        # A refusal with its details is readable too.
        code, refusal = await curl("OrderService/GetOrder", orderId="01990000-0000-7000-8000-000000000000")
        assert code != 0
        assert refusal["code"] == "not_found"
        assert refusal["details"][0]["type"] == "google.rpc.ErrorInfo"  # type: ignore[index]
