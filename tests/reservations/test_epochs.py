"""Which data of the gate may be believed: epochs, runs of the server, and rebuilding under load."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio

from onhand.dev.process import free_port
from onhand.dev.valkey import EmbeddedValkey, default_binary
from onhand.reservations.gate import LoadPart
from reservations.stand import BREAD, MILK, NORTH, SOUTH, Line, Server, Stand, key, outcomes, reason


@pytest.fixture
async def private_stand(lost_errors: None, shared_dsn: str, private_redis: EmbeddedValkey) -> AsyncIterator[Stand]:
    """A stand whose gate may be killed."""
    stand = Stand(shared_dsn, private_redis.url)
    try:
        await stand.open()
        yield stand
    finally:
        await stand.close()


async def _is_trusted(stand: Stand, server: Server, location_id: str = NORTH) -> bool:
    dump = await server.app.gate.dump(location_id)
    return dump is not None and dump.epoch == await stand.epoch(location_id)


# ------------------------------------------------------------------------------------------------------------ epochs
async def test_an_insert_under_an_old_epoch_is_refused_and_claims_anew(stand: Stand) -> None:
    """Mutant "journal without the epoch": two buyers, one unit, and a rebuild that knows of neither take."""
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 1})
    pause = server.pause_journal()
    call = asyncio.create_task(server.reserve({NORTH: {MILK: 1}}))
    await pause.reached.wait()
    await other.app.rebuilder.rebuild(NORTH, is_forced=True)
    await other.reserve({NORTH: {MILK: 1}})
    pause.go.set()
    assert await reason(call) == "INSUFFICIENT_STOCK"
    assert await stand.states() == ["active"]
    await stand.audit()


async def test_the_epoch_that_counts_is_the_one_of_the_data_that_was_taken_from(stand: Stand) -> None:
    """Mutant "epoch taken from the ledger, not the gate": the ledger's was raised before the take, the gate not yet loaded."""
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 1})
    load = other.pause_snapshot()
    rebuild = asyncio.create_task(other.app.rebuilder.rebuild(NORTH, is_forced=True))
    await load.reached.wait()  # raised, and its snapshot is read
    pause = server.pause_journal()
    call = asyncio.create_task(server.reserve({NORTH: {MILK: 1}}))  # from data that is to be replaced
    await pause.reached.wait()
    load.go.set()
    await rebuild
    await other.reserve({NORTH: {MILK: 1}})
    pause.go.set()
    assert await reason(call) == "INSUFFICIENT_STOCK"
    await stand.audit()


async def test_the_epoch_is_raised_before_the_snapshot_begins(stand: Stand) -> None:
    """Mutant "snapshot begins before the raise commits"."""
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 1})
    epoch = await stand.epoch()
    load = other.pause_snapshot()
    rebuild = asyncio.create_task(other.app.rebuilder.rebuild(NORTH, is_forced=True))
    await load.reached.wait()
    assert await stand.epoch() == epoch + 1
    # What is journalled now comes under the new epoch, or not at all: the data to be loaded does not know it.
    pause = server.pause_journal()
    call = asyncio.create_task(server.reserve({NORTH: {MILK: 1}}))
    await pause.reached.wait()
    pause.go.set()
    for _ in range(20):
        await asyncio.sleep(0)
    assert await stand.states() == []
    load.go.set()
    await rebuild
    await call
    await stand.audit()


async def test_a_rebuild_waits_for_the_journal_that_shares_the_epoch(stand: Stand) -> None:
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 1})
    async with stand.pool.acquire() as connection:
        journalling = connection.transaction()
        await journalling.start()
        await connection.execute("SELECT FROM location_epochs WHERE location_id = $1 FOR SHARE", NORTH)
        await connection.execute(
            "INSERT INTO claims (location_id, claim_id, reservation_id, state, channel, lines, deadline)"
            " VALUES ($1, gen_random_uuid(), gen_random_uuid(), 'active', 'WEB', '[[\"milk\", 1]]', now() + interval '1 h')",
            NORTH,
        )
        rebuild = asyncio.create_task(server.app.rebuilder.rebuild(NORTH, is_forced=True))
        await stand.waits_for_lock("UPDATE location_epochs")
        await journalling.commit()
    await rebuild
    assert await stand.gate_atp() == 0
    await stand.audit()


async def test_a_raise_is_not_starved_by_journals_that_share_the_epoch_without_pause(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 10_000})
    is_over = False
    rounds = 0

    async def buyer() -> None:
        nonlocal rounds
        while not is_over:
            await server.reserve({NORTH: {MILK: 1}})
            rounds += 1

    buyers = [asyncio.create_task(buyer()) for _ in range(20)]
    line = Line(other.app)
    line.cut()
    for _ in range(3):
        await other.sell(NORTH, {MILK: 1})
    is_over = True
    await asyncio.gather(*buyers)
    assert rounds > 0
    line.mend()
    await stand.audit()


async def test_a_read_counts_only_under_the_ledgers_epoch(stand: Stand) -> None:
    """Mutant "read does not compare epochs"."""
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    await stand.redis.hset(key(NORTH, "stock"), MILK, 99)
    assert await server.atp(NORTH) == 99  # believed: the epochs are the same
    await stand.raise_epoch()
    assert await server.atp(NORTH) == 5
    await server.quiet()
    assert await _is_trusted(stand, server)
    await stand.audit()


async def test_the_epoch_is_asked_after_the_read_of_the_gate_began(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    gate_read = asyncio.Event()
    original = server.app.availability._epochs

    async def later(location_ids: set[str]) -> dict[str, int]:
        await gate_read.wait()
        return await original(location_ids)

    server.app.availability._epochs = later  # type: ignore[method-assign]
    call = asyncio.create_task(server.atp(NORTH))
    line = Line(other.app)
    line.cut()
    await other.sell(NORTH, {MILK: 2})  # past the gate, and answered, while the read is under way
    gate_read.set()
    assert await call == 3
    line.mend()


async def test_an_epoch_of_the_gate_above_the_ledgers_is_overtaken(stand: Stand) -> None:
    """A ledger that was set back (a backup) never meets its own epochs again in a gate that was not."""
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    for _ in range(5):
        await server.app.rebuilder.rebuild(NORTH, is_forced=True)
    held = await stand.epoch()
    await stand.execute("UPDATE location_epochs SET epoch = 1")
    await server.reserve({NORTH: {MILK: 1}})
    assert await stand.epoch() > held
    await stand.audit()


# ---------------------------------------------------------------------------------------------------------- rebuilds
async def test_a_load_comes_only_over_a_lower_epoch(stand: Stand) -> None:
    """Mutant "load sent again, not guarded"."""
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    load = server.pause_snapshot()
    slow = asyncio.create_task(server.app.rebuilder.rebuild(NORTH, is_forced=True))
    await load.reached.wait()
    await other.app.rebuilder.rebuild(NORTH, is_forced=True)
    await other.reserve({NORTH: {MILK: 5}})
    load.go.set()
    await slow
    assert await other.atp(NORTH) == 0
    await stand.audit()


async def test_a_load_is_for_the_run_that_it_was_read_for(private_stand: Stand, private_redis: EmbeddedValkey) -> None:
    """Mutant "load sent again to a restarted gate"."""
    stand = private_stand
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    load = server.pause_snapshot()
    slow = asyncio.create_task(server.app.rebuilder.rebuild(NORTH, is_forced=True))
    await load.reached.wait()
    run_id = await other.app.gate.run_id()
    private_redis.kill()
    private_redis.start()
    await asyncio.gather(server.app.gate.run_id(), other.app.gate.run_id(), return_exceptions=True)
    assert await other.app.gate.run_id() != run_id
    assert not await other.app.gate.load(NORTH, _part(99, first=True, last=True, milk=99), run_id)
    epoch = await stand.epoch()
    load.go.set()
    await slow
    assert await stand.epoch() == epoch + 1  # what it had read was thrown away
    assert await other.atp(NORTH) == 5
    await stand.audit()


def _part(epoch: int, *, first: bool = False, last: bool = False, **stock: int) -> LoadPart:
    encoded = json.dumps([value for sku, n in stock.items() for value in (sku, str(n))])
    return LoadPart(epoch, 0, is_first=first, is_last=last, stock=encoded)


async def test_parts_of_two_loads_never_mix(stand: Stand) -> None:
    """Mutant "parts of two loads mix"."""
    server = await stand.server()
    gate = server.app.gate
    run_id = await gate.run_id()
    assert await gate.load(NORTH, _part(5, first=True, milk=5), run_id)
    assert await gate.dump(NORTH) is None  # closed until it is whole
    assert await gate.load(NORTH, _part(6, first=True, milk=6), run_id)
    assert not await gate.load(NORTH, _part(5, bread=5), run_id)
    assert not await gate.load(NORTH, _part(5, last=True), run_id)
    assert not await gate.load(NORTH, _part(5, first=True, milk=5), run_id)
    assert await gate.load(NORTH, _part(6, last=True, bread=6), run_id)
    dump = await gate.dump(NORTH)
    assert dump is not None
    assert (dump.epoch, dump.atp) == (6, {MILK: 6, BREAD: 6})
    assert not await gate.load(NORTH, _part(6, last=True, bread=9), run_id)
    assert not await gate.load(NORTH, _part(6, first=True, last=True, bread=9), run_id)
    assert not await gate.load(NORTH, _part(7, first=True, last=True, bread=9), "another run")


async def test_a_load_in_parts_survives_a_flush_between_two_of_them(stand: Stand) -> None:
    server = await stand.server()
    gate = server.app.gate
    run_id = await gate.run_id()
    assert await gate.load(NORTH, _part(5, first=True, milk=5), run_id)
    await stand.redis.flushall()
    assert not await gate.load(NORTH, _part(5, last=True, bread=5), run_id)
    assert await gate.dump(NORTH) is None


async def test_a_location_larger_than_a_part_is_loaded_whole(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onhand.reservations.rebuild.PART_ROWS_MAX", 7)
    server = await stand.server()
    skus = [f"s{n}" for n in range(40)]
    await stand.execute("INSERT INTO products (sku, name) SELECT s, s FROM unnest($1::text[]) AS s", skus)
    await stand.stocked(NORTH, dict.fromkeys(skus, 3))
    for sku in skus[::2]:
        await server.reserve({NORTH: {sku: 2}})
    await server.app.rebuilder.rebuild(NORTH, is_forced=True)
    found, _ = await server.app.availability.atp([NORTH], skus, "WEB")
    assert found[NORTH] == [1, 3] * 20
    await stand.audit()


async def test_rebuilders_of_many_servers_come_to_an_end_under_load(stand: Stand) -> None:
    servers = [await stand.server() for _ in range(3)]
    await stand.stocked(NORTH, {MILK: 30})
    answers, reasons = await outcomes(
        [servers[n % 3].reserve({NORTH: {MILK: 1}}) for n in range(30)]
        + [server.app.rebuilder.rebuild(NORTH, is_forced=True) for server in servers]
        + [servers[n % 3].sell(NORTH, {MILK: 1}) for n in range(6)]
    )
    # A reservation may give up on an epoch that moves on and on; its client repeats it.
    assert set(reasons) <= {"GATE_UNAVAILABLE", "INSUFFICIENT_STOCK"}
    for server in servers:
        await server.quiet()
    await stand.pass_all_hints()
    await stand.sweep()
    broken = sum(sum(a.values()) for a in answers if isinstance(a, dict))
    await stand.audit(broken=broken)


async def test_callers_of_a_server_share_one_rebuild_of_a_location(stand: Stand) -> None:
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 50})
    epoch = await stand.epoch()
    await stand.redis.flushall()
    await asyncio.gather(*(server.reserve({NORTH: {MILK: 1}}) for _ in range(50)))
    assert await stand.epoch() == epoch + 1


# ------------------------------------------------------------------------------------------------- a gate that forgets
async def test_nothing_is_lost_with_the_gates_data(stand: Stand) -> None:
    server, other = await stand.server(), await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    kept = [(await server.reserve({NORTH: {MILK: 1}})).reservation_id for _ in range(3)]
    await stand.redis.flushall()
    assert await other.atp(NORTH) == 2
    assert await other.confirm(kept[0]) == {NORTH: {MILK: 1}}
    await server.release(kept[1])
    assert await other.atp(NORTH) == 3
    await stand.redis.flushall()
    assert await reason(server.reserve({NORTH: {MILK: 4}})) == "INSUFFICIENT_STOCK"
    await server.reserve({NORTH: {MILK: 3}})
    await stand.audit()


async def test_the_functions_come_back_by_themselves(stand: Stand) -> None:
    servers = [await stand.server() for _ in range(2)]
    await stand.stocked(NORTH, {MILK: 50})
    await stand.redis.execute_command("FUNCTION", "FLUSH", "SYNC")
    answers, reasons = await outcomes([servers[n % 2].reserve({NORTH: {MILK: 1}}) for n in range(20)])
    assert (len(answers), reasons) == (20, [])
    await stand.redis.execute_command("FUNCTION", "FLUSH", "SYNC")
    assert await servers[0].atp(NORTH) == 30
    await stand.redis.execute_command("FUNCTION", "FLUSH", "SYNC")
    await servers[1].receive(NORTH, {MILK: 1})
    await stand.redis.execute_command("FUNCTION", "FLUSH", "SYNC")
    await servers[0].app.rebuilder.rebuild(NORTH, is_forced=True)
    await stand.audit()


async def test_data_of_another_run_is_not_trusted_however_whole_it_looks(stand: Stand) -> None:
    """Mutant "gate identity not checked": a replica that was promoted, or a snapshot that was restored."""
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 5})
    header = await stand.redis.hgetall(key(NORTH, "stock"))
    await server.reserve({NORTH: {MILK: 5}})
    await stand.redis.hset(key(NORTH, "stock"), mapping={**header, "#run": "f" * 40})
    assert await stand.gate_atp() == 5
    assert await reason(server.reserve({NORTH: {MILK: 1}})) == "INSUFFICIENT_STOCK"
    await stand.audit()


async def test_a_server_that_restarts_with_its_old_data_is_not_trusted(
    lost_errors: None, shared_dsn: str, scratch_dir: Path
) -> None:
    port, folder = free_port(), scratch_dir / "valkey"
    folder.mkdir()
    command = [str(default_binary()), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    command += ["--maxmemory-policy", "noeviction"]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    process = start()
    stand = Stand(shared_dsn, f"redis://127.0.0.1:{port}/0")
    try:
        await stand.open()
        server = await stand.server()
        await stand.stocked(NORTH, {MILK: 5})
        await stand.redis.save()
        await server.reserve({NORTH: {MILK: 5}})  # which the saved data does not know
        process.kill()
        process.wait()
        process = start()
        await _until_it_answers(stand)
        assert await stand.gate_atp() == 5
        assert await server.atp(NORTH) == 0
        await server.quiet()
        other = await stand.server()
        assert await reason(other.reserve({NORTH: {MILK: 1}})) == "INSUFFICIENT_STOCK"
        await stand.audit()
    finally:
        await stand.close()
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


async def _until_it_answers(stand: Stand) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                await stand.redis.ping()
                return
            except redis.exceptions.RedisError:
                await asyncio.sleep(0.02)


async def test_a_primary_that_was_a_replica_meanwhile_is_not_trusted_though_it_never_stopped(
    lost_errors: None, shared_dsn: str
) -> None:
    """Fail over and back: the first server has its old run, but the data of a replica that lagged behind."""
    first, second = EmbeddedValkey(None), EmbeddedValkey(None)
    first.start()
    second.start()
    stand = Stand(shared_dsn, first.url)
    replica = redis.asyncio.Redis.from_url(second.url, decode_responses=True)
    try:
        await stand.open()
        for each in (stand.redis, replica):
            await each.config_set("repl-diskless-sync-delay", 0)
        await replica.replicaof("127.0.0.1", first.port)
        await _until_linked(replica)
        server, other = await stand.server(), await stand.server()
        await stand.stocked(NORTH, {MILK: 5})
        await stand.redis.wait(1, 5000)
        await replica.replicaof("NO", "ONE")  # the link breaks: what follows never reaches it
        await server.reserve({NORTH: {MILK: 5}})
        await stand.redis.replicaof("127.0.0.1", second.port)  # fail over
        await _until_linked(stand.redis)
        await stand.redis.replicaof("NO", "ONE")  # and back, with nothing asked of this location in between
        assert await stand.gate_atp() == 5
        assert await server.atp(NORTH) == 0
        # The connection that was open all the time notices; whoever opens one is not fooled either.
        assert await reason(other.reserve({NORTH: {MILK: 1}})) in ("GATE_UNAVAILABLE", "INSUFFICIENT_STOCK")
        for asked in (server, other, await stand.server()):
            assert await reason(asked.reserve({NORTH: {MILK: 1}})) == "INSUFFICIENT_STOCK"
        await stand.audit()
    finally:
        await replica.aclose()
        await stand.close()
        first.stop()
        second.stop()


async def _until_linked(replica: redis.asyncio.Redis) -> None:
    async with asyncio.timeout(60):
        while True:
            if (await replica.info("replication")).get("master_link_status") == "up":
                return
            await asyncio.sleep(0.02)


async def test_a_replica_is_no_gate(lost_errors: None, shared_dsn: str) -> None:
    first, second = EmbeddedValkey(None), EmbeddedValkey(None)
    first.start()
    second.start()
    stand = Stand(shared_dsn, first.url)
    try:
        await stand.open()
        server = await stand.server()
        await stand.stocked(NORTH, {MILK: 5})
        await stand.redis.replicaof("127.0.0.1", second.port)
        assert await reason(server.reserve({NORTH: {MILK: 1}})) == "GATE_UNAVAILABLE"
        assert await server.atp(NORTH) == 5
        await server.sell(NORTH, {MILK: 2})
        assert await server.atp(NORTH) == 3
        await server.quiet()
    finally:
        await stand.close()
        first.stop()
        second.stop()


async def test_after_a_restart_of_the_gate_one_call_notices_and_no_other(
    private_stand: Stand, private_redis: EmbeddedValkey
) -> None:
    stand = private_stand
    server = await stand.server()
    await stand.stocked(NORTH, {MILK: 50})
    await stand.stocked(SOUTH, {MILK: 50})
    await asyncio.gather(*(server.app.gate.run_id() for _ in range(8)))  # as many connections as there may be
    private_redis.kill()
    private_redis.start()
    _, reasons = await outcomes([server.reserve({NORTH: {MILK: 1}})])
    assert set(reasons) <= {"GATE_UNAVAILABLE"}
    for _ in range(8):
        await server.reserve({NORTH: {MILK: 1}})
    await server.quiet()
    await stand.pass_all_hints()
    await stand.sweep()
    await stand.audit()
