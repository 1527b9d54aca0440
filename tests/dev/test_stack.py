"""The dev stack, against what happens to it: stops, kills, parents that die, deep folders, foreign users' tools."""

import json
import os
import signal
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
import redis

from onhand.dev.postgres import EmbeddedPostgres, has_tls
from onhand.dev.process import server_processes
from onhand.dev.stack import DevStack, StackError
from onhand.dev.valkey import EmbeddedValkey
from onhand.settings import NoDevStackError, read_dev_stack


async def value(dsn: str, statement: str, **arguments: Any) -> Any:
    connection = await asyncpg.connect(dsn, **arguments)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_postgres_keeps_its_data_over_a_stop(private_postgres: EmbeddedPostgres) -> None:
    await value(private_postgres.dsn(), "CREATE TABLE kept AS SELECT 7 AS n")

    private_postgres.stop()
    assert private_postgres.pid is None
    private_postgres.start()

    assert await value(private_postgres.dsn(), "SELECT n FROM kept") == 7


async def test_postgres_recovers_what_was_committed_before_a_sigkill(private_postgres: EmbeddedPostgres) -> None:
    await value(private_postgres.dsn(), "CREATE TABLE kept AS SELECT 7 AS n")
    busy = await asyncpg.connect(private_postgres.dsn())
    first = private_postgres.pid

    private_postgres.kill()
    private_postgres.start()

    assert private_postgres.pid != first
    assert await value(private_postgres.dsn(), "SELECT n FROM kept") == 7
    busy.terminate()


async def test_postgres_starts_where_only_its_postmaster_was_killed_from_outside(
    private_postgres: EmbeddedPostgres,
) -> None:
    pid = private_postgres.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    psutil.Process(pid).wait()

    private_postgres.start()

    assert await value(private_postgres.dsn(), "SELECT 1") == 1


async def test_postgres_starts_though_its_pid_file_names_an_unrelated_process(
    private_postgres: EmbeddedPostgres,
) -> None:
    private_postgres.stop()
    stale = f"{os.getpid()}\n{private_postgres.data_dir}\n0\n5432\n\n\n0 0\nready\n"
    (private_postgres.data_dir / "postmaster.pid").write_text(stale)

    private_postgres.start()

    assert await value(private_postgres.dsn(), "SELECT 1") == 1


async def test_postgres_starts_anew_after_an_initdb_cut_short(scratch_dir: Path) -> None:
    unfinished = scratch_dir / "data.unfinished"
    unfinished.mkdir()
    (unfinished / "PG_VERSION").write_text("18\n")
    server = EmbeddedPostgres(scratch_dir / "data", fast=True)

    server.start()

    try:
        assert await value(server.dsn(), "SELECT 1") == 1
    finally:
        server.stop()


async def test_postgres_runs_in_a_folder_too_deep_or_too_odd_for_a_socket(scratch_dir: Path) -> None:
    server = EmbeddedPostgres(scratch_dir / ("deep" * 20) / "it's, 100%" / "data", fast=True)
    server.start()
    try:
        assert await value(server.dsn(), "SELECT 1") == 1
    finally:
        server.stop()


def test_postgres_refuses_the_data_of_another_version(scratch_dir: Path) -> None:
    (scratch_dir / "data").mkdir()
    (scratch_dir / "data" / "PG_VERSION").write_text("9\n")

    with pytest.raises(StackError):
        EmbeddedPostgres(scratch_dir / "data").start()


async def test_postgres_is_durable_unless_told_otherwise(scratch_dir: Path) -> None:
    server = EmbeddedPostgres(scratch_dir / "data")
    server.start()
    try:
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            assert await value(server.dsn(), f"SHOW {setting}") == "on"
        assert await value(server.dsn(), "SHOW timezone") == "UTC"
    finally:
        server.stop()


async def test_tcp_asks_for_the_password(scratch_dir: Path) -> None:
    server = EmbeddedPostgres(scratch_dir / "data", tcp_port=0, fast=True)
    server.start()
    try:
        assert await value(server.dsn(), "SELECT 1") == 1
        with pytest.raises(asyncpg.InvalidPasswordError):
            await value(server.dsn(), "SELECT 1", password="guessed")
    finally:
        server.stop()


async def test_tls_encrypts_and_admits_nobody_without_it(scratch_dir: Path, tls_postgres_bin: Path) -> None:
    server = EmbeddedPostgres(scratch_dir / "data", tcp_port=0, tls=True, fast=True, bin_dir=tls_postgres_bin)
    server.start()
    try:
        context = ssl.create_default_context(cafile=str(server.data_dir / "server.crt"))
        encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        assert await value(server.dsn(), encrypted) is True
        assert await value(server.dsn(), encrypted, ssl=context) is True
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
            await value(server.dsn(), "SELECT 1", ssl=False)
    finally:
        server.stop()


def test_tls_is_refused_by_programs_without_it(scratch_dir: Path) -> None:
    server = EmbeddedPostgres(scratch_dir / "data", tcp_port=0, tls=True, fast=True)
    if has_tls(server.bin_dir):
        pytest.skip("this embedded PostgreSQL has TLS")
    with pytest.raises(StackError):
        server.start()


def test_valkey_keeps_its_address_but_no_key_over_a_kill(private_redis: EmbeddedValkey) -> None:
    url = private_redis.url
    redis.Redis.from_url(url).set("key", "value")

    private_redis.kill()
    assert private_redis.pid is None
    private_redis.start()

    assert private_redis.url == url
    assert redis.Redis.from_url(url).get("key") is None


def test_valkey_evicts_and_saves_nothing(private_redis: EmbeddedValkey) -> None:
    client = redis.Redis.from_url(private_redis.url, decode_responses=True)
    settings = client.config_get("maxmemory-policy", "save", "appendonly")
    assert settings == {"maxmemory-policy": "noeviction", "save": "", "appendonly": "no"}


def test_valkey_refuses_a_port_in_use(private_redis: EmbeddedValkey) -> None:
    second = EmbeddedValkey(None, port=private_redis.port)
    try:
        with pytest.raises(StackError):
            second.start()
        assert redis.Redis.from_url(private_redis.url).ping()
    finally:
        second.stop()


async def test_the_stack_tells_other_commands_where_it_runs_and_only_while_it_does(scratch_dir: Path) -> None:
    with DevStack(scratch_dir / "stack", fast=True) as stack:
        dsn, url, _ = read_dev_stack(stack.folder)
        assert await value(dsn, "SELECT current_database()") == "onhand"
        assert redis.Redis.from_url(url).ping()

    with pytest.raises(NoDevStackError):
        read_dev_stack(stack.folder)


def test_a_folder_is_refused_while_another_process_runs_its_stack(scratch_dir: Path) -> None:
    with DevStack(scratch_dir, fast=True) as stack:
        other = DevStack(scratch_dir, fast=True)
        with pytest.raises(StackError):
            other.start()
        assert stack.postgres.pid is not None
        assert read_dev_stack(scratch_dir) == (stack.postgres_dsn, stack.redis_url, None)


async def test_what_dies_is_started_again_postgres_with_its_data_valkey_at_its_port(scratch_dir: Path) -> None:
    with DevStack(scratch_dir, fast=True) as stack:
        addresses = read_dev_stack(scratch_dir)
        await value(stack.postgres_dsn, "CREATE TABLE kept AS SELECT 7 AS n")
        for pid in (stack.postgres.pid, stack.valkey.pid):
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            psutil.Process(pid).wait()

        stack.check()

        assert read_dev_stack(scratch_dir) == addresses
        assert await value(stack.postgres_dsn, "SELECT n FROM kept") == 7
        assert redis.Redis.from_url(stack.redis_url).ping()


PARENT = """
import sys, time
from pathlib import Path
from onhand.dev.stack import DevStack
stack = DevStack(Path(sys.argv[1]), fast=True)
stack.start()
print("started", flush=True)
time.sleep(600)
"""


async def test_a_stack_left_by_a_killed_parent_is_taken_over(scratch_dir: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(scratch_dir)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "started\n"
        left = json.loads((scratch_dir / "dev.json").read_text())["pids"]
        await value(read_dev_stack(scratch_dir)[0], "CREATE TABLE kept AS SELECT 7 AS n")
        parent.kill()
    assert psutil.pid_exists(left["postgres"])

    with DevStack(scratch_dir, fast=True) as stack:
        assert stack.postgres.pid != left["postgres"]
        assert await value(stack.postgres_dsn, "SELECT n FROM kept") == 7
        assert redis.Redis.from_url(stack.redis_url).ping()

    for folder in (stack.postgres.data_dir, stack.valkey.data_dir):
        assert server_processes(folder, ["postgres", "valkey", "redis"]) == []


def test_the_children_do_not_hear_the_terminals_interrupt(scratch_dir: Path) -> None:
    with DevStack(scratch_dir, fast=True) as stack:
        for pid in (stack.postgres.pid, stack.valkey.pid):
            assert pid is not None
            assert os.getsid(pid) == pid
