"""`onhand simulate --faults`: clients that buy, sell, count and move goods while everything under them is broken, and the audit.

A run: a stack of its own; a load of some seconds with the faults of the plan; everything mended; a closing phase without faults;
quiet; then every recorded call is held against the ledger, and the ledger and the gate against their own invariants.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread
from typing import Any, Protocol

import asyncpg

from onhand.settings import Unusable
from onhand.simulate.processes import context
from onhand.simulate.shop import open_shop
from onhand.simulate.workload import run_workload
from onhand.trials.audit import audit
from onhand.trials.faults import Level, plan_faults
from onhand.trials.inject import Injector
from onhand.trials.world import World
from onhand.verify import Report, verify

COUNTERS = (
    "oversold_units",
    "lost_acknowledged",
    "duplicate_effects",
    "leaked_units",
    "stale_reads",
    "violations",
)
"""What must be 0, each."""
HEALED_SECONDS_MAX = 120.0
"""How long the clients wait, at the end of the load, until everything is mended."""
QUIET_SECONDS_MAX = 150.0
"""How long reservations may take to be over and claims to be swept: the longest deadline, a step of the clock, and a while."""
QUIET_PAUSE_SECONDS = 1.0
ACTIVE = """
SELECT (SELECT count(*) FROM claims WHERE state = 'active') + (SELECT count(*) FROM checkouts WHERE state = 'PENDING')
     + (SELECT count(*) FROM pgqueuer WHERE status IN ('queued', 'picked') AND entrypoint = 'lost_stock.settle')
     + (SELECT count(*) FROM payment_operations p
         WHERE NOT EXISTS (SELECT FROM payment_outcomes u WHERE u.operation_id = p.operation_id))"""
# A reservation that somebody pays for is kept for a quarter of an hour, and a job that fails waits longer each time.
HELD_NO_LONGER = """
UPDATE claims SET deadline = now() + interval '2 s'
 WHERE state = 'active' AND deadline > now() + interval '2 s'
   AND reservation_id NOT IN (SELECT reservation_id FROM checkouts WHERE state = 'PENDING')"""
# Not what is days away: an authorization that is renewed before its end would be renewed again and again. What is tried every
# second, because it waits for what a process that was cut off took, is no nearer to being held for a person.
NOT_LATER = """
UPDATE pgqueuer SET execute_after = now(), attempts = least(attempts, 1)
 WHERE status = 'queued' AND execute_after > now() AND execute_after < now() + interval '1 day'"""
START_POLL_SECONDS = 0.02
"""How often it is looked whether the clients have begun."""
TICK_SECONDS = 0.25
"""How often the bar of the load moves."""


class Show(Protocol):
    """Moves the bar of a step."""

    def __call__(self, step: str, done: int, total: int | None, /) -> None: ...


def _show_nothing(step: str, done: int, total: int | None, /) -> None:
    pass


def simulate_faults(
    level: Level,
    *,
    seconds: float,
    processes: int,
    seed: int,
    redis_server: Path | None = None,
    show: Show = _show_nothing,
) -> dict[str, Any]:
    """One run with `processes` servers and as many client processes. `ok` says whether every promise was kept.

    The folder of a run that broke one is kept, with everything in it; the report says where (`kept`). Raises GaveUp,
    ProcessFailed, StackError, Unusable.
    """
    faults = plan_faults(level, seed=seed, seconds=seconds, servers=processes, clients=processes)
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="onhand-faults-"))
    folder.chmod(0o755)  # as root, PostgreSQL runs as another user
    is_kept = False
    try:
        with ExitStack() as ended:
            show("start", 0, None)
            world = ended.enter_context(World(folder, servers=processes, redis_server=redis_server))
            injector = Injector(world, faults)
            ended.callback(injector.stop)
            shop = open_shop(target=world.targets[0], folder=folder, run_id=f"faults-{seed}", seed=seed)
            show("start", 1, 1)
            counts = _load(
                world, injector, shop, seed=seed, seconds=seconds, processes=processes, folder=folder, show=show
            )
            show("quiet", 0, None)
            looked = _until_quiet(world)
            show("quiet", 1, 1)
            show("audit", 0, None)
            histories = sorted(folder.glob("history-*.jsonl"))
            report = audit(
                histories=histories,
                postgres_dsn=world.postgres_dsn,
                redis_url=world.redis_url,
                faults=injector.records,
                gateway=world.stripe.books(),
            )
            report["violations"] += len(world.stripe.wrong)
            report["evidence"] += [{"gateway": wrong} for wrong in world.stripe.wrong]
            show("audit", 1, 1)
        judge(report, looked, injected=injector.records, died=injector.died, planned=len(faults), histories=histories)
        is_kept = not report["ok"]
    finally:
        if not is_kept:
            shutil.rmtree(folder, ignore_errors=True)
    report = {
        "seed": seed,
        "seconds": seconds,
        **report,
        "level": level.value,
        "processes": processes,
        "redis_server": str(redis_server) if redis_server else "valkey",
        "calls": counts,
        "wall_seconds": round(time.monotonic() - began, 1),
    }
    if is_kept:
        report["kept"] = str(folder)
        (folder / "report.json").write_text(json.dumps(report, indent=2), encoding="utf-8")
    return report


def _load(
    world: World,
    injector: Injector,
    shop: Any,
    *,
    seed: int,
    seconds: float,
    processes: int,
    folder: Path,
    show: Show,
) -> dict[str, Any]:
    """The clients' work, with the faults beside it; back when both are over and everything is mended."""
    healed = context.Event()
    is_over = Event()
    failure: list[BaseException] = []

    def mend() -> None:
        """Lets the faults begin when the load does, and mends everything at its end."""
        while not (folder / "started").exists():
            if is_over.wait(START_POLL_SECONDS):
                return

        def check() -> None:
            if is_over.is_set():
                raise Unusable("the clients ended before everything was mended")

        began = time.monotonic()
        injector.start(began)
        while (passed := time.monotonic() - began) < seconds and not is_over.wait(TICK_SECONDS):
            show("load", int(passed), int(seconds))
        show("load", int(seconds), int(seconds))
        try:
            injector.finish()
            world.wait_until_ready(check)
        except BaseException as error:
            failure.append(error)
        healed.set()

    mending = Thread(target=mend, name="mending", daemon=True)
    mending.start()
    try:
        counts = run_workload(
            shop=shop,
            targets=world.targets,
            seed=seed,
            seconds=seconds,
            processes=processes,
            folder=folder,
            healed=healed,
            healed_seconds_max=HEALED_SECONDS_MAX,
            started=world.watch_clients,
        )
    finally:
        is_over.set()
        mending.join()
    if failure:
        raise failure[0]
    return counts


def _until_quiet(world: World) -> Report:
    """Waits until everything is over and the gate holds what the ledger has; then, or after a while, the last look."""
    found: list[Report] = []

    def is_quiet() -> bool:
        if asyncio.run(active(world.postgres_dsn)):
            return False
        looked = asyncio.run(verify(world.postgres_dsn, world.redis_url))
        found[:] = [looked]
        return looked.is_ok and looked.gate is not None and not looked.gate.claims_awaiting_sweep

    until_over(world, is_quiet)
    return found[0] if found else asyncio.run(verify(world.postgres_dsn, world.redis_url))


def until_over(world: World, is_over: Callable[[], bool]) -> None:
    """Waits until it is, for QUIET_SECONDS_MAX at most. Nobody calls any more, so what is to be done later is done now."""
    until = time.monotonic() + QUIET_SECONDS_MAX
    while True:
        world.sql(NOT_LATER)
        world.sql(HELD_NO_LONGER)
        if is_over() or time.monotonic() > until:
            return
        time.sleep(QUIET_PAUSE_SECONDS)


async def active(dsn: str) -> int:
    """Reservations that are held, and orders and refunds of which a gateway has not said yet what became of them."""
    connection = await asyncpg.connect(dsn)
    try:
        count: int = await connection.fetchval(ACTIVE)
        return count
    finally:
        await connection.close()


def judge(
    report: dict[str, Any],
    looked: Report,
    *,
    injected: Sequence[dict[str, Any]],
    died: Sequence[str],
    planned: int,
    histories: Sequence[Path],
) -> None:
    """Adds to the audit's report what `verify` says, what was injected, and `ok`: whether all of it is well."""
    evidence: list[Any] = report.setdefault("evidence", [])
    failed = [check.to_json() for check in looked.checks if not check.is_ok]
    evidence += [{"verify": check} for check in failed]
    evidence += [{"server": message} for message in died]
    report["violations"] += len(failed) + len(died)
    done = [record for record in injected if "error" not in record]
    last = max((record["end"] for record in injected), default=0.0)
    report["faults"] = len(done)
    report["faults_planned"] = planned
    report["faults_by_kind"] = dict(sorted(Counter(record["kind"] for record in done).items()))
    report["injected"] = list(injected)
    report["acknowledged_after_last_fault"] = _acknowledged_since(histories, last)
    report["verify"] = {"checks": len(looked.checks), "failed": failed, "gate": looked.gate and looked.gate.to_json()}
    report["ok"] = (
        not any(report[counter] for counter in COUNTERS)
        and len(done) == planned
        and report["acknowledged_after_last_fault"] > 0
    )


def _acknowledged_since(histories: Sequence[Path], moment: float) -> int:
    """How many calls began after this moment (monotonic) and were acknowledged."""
    count = 0
    for history in histories:
        for line in history.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            count += entry.get("outcome") == "ok" and entry["begin"] > moment
    return count
