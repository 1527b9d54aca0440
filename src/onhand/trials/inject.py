"""Carries out a plan of faults on a world, each in a thread of its own, and records what became of it."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import psutil

from onhand.trials.faults import ALL, LINKS, Fault, Kind
from onhand.trials.proxy import Mode
from onhand.trials.world import DiedByItself, World

log = logging.getLogger(__name__)

WATCH_SECONDS = 0.05
"""How often it is looked whether a server process died."""
END_SECONDS_MAX = 120.0
"""How long faults that have begun may take to be mended, a restart of everything included."""

_MODES = {
    Kind.CUT: Mode.CLOSED,
    Kind.SLOW: Mode.SLOW,
    Kind.HOLD: Mode.HELD,
    Kind.BLACK_HOLE: Mode.SILENT,
    Kind.CUT_ANSWERS: Mode.ANSWERS_CUT,
}
_PAUSES = (Kind.PAUSE_SERVER, Kind.PAUSE_CLIENT, Kind.PAUSE_GATE, Kind.PAUSE_LEDGER)

SAY_NEARER = "UPDATE claims SET deadline = deadline - interval '{} seconds' WHERE state = 'active'"
SAY_FURTHER = "UPDATE claims SET deadline = deadline + interval '{} seconds' WHERE state = 'active'"


class Injector:
    """The faults of one run. `records` has one entry for each that began, with monotonic times."""

    def __init__(self, world: World, faults: Sequence[Fault]) -> None:
        self.records: list[dict[str, Any]] = []
        self.died: list[str] = []
        """Servers that ended without being killed."""
        self._world = world
        self._faults = faults
        self._stopped = threading.Event()
        self._calm = threading.Event()
        self._targets: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._threads: list[threading.Thread] = []
        self._watch = threading.Thread(target=self._restart, name="watch over servers", daemon=True)

    def start(self, began: float) -> None:
        """Begins the watch over the servers, and the faults; their times count from `began` (monotonic)."""
        self._watch.start()
        for fault in self._faults:
            thread = threading.Thread(target=self._inject, args=(fault, began), name=fault.kind.value, daemon=True)
            self._threads.append(thread)
            thread.start()

    def finish(self) -> None:
        """Waits for faults that have begun to be mended; those that have not do not begin any more. Mends every link.

        Servers that die are started again until `stop`.
        """
        self._calm.set()
        until = time.monotonic() + END_SECONDS_MAX
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        self._world.mend()

    def stop(self) -> None:
        """Ends the watch over the servers."""
        self.finish()
        self._stopped.set()
        if self._watch.is_alive():
            self._watch.join()

    def _restart(self) -> None:
        while not self._stopped.wait(WATCH_SECONDS):
            try:
                self._world.check()
            except DiedByItself as error:
                log.error("%s", error)
                self.died.append(str(error))

    def _inject(self, fault: Fault, began: float) -> None:
        if self._calm.wait(max(0.0, began + fault.time - time.monotonic())):
            return
        # Faults of one target take turns: a restart may take longer than planned.
        where = fault.target.partition("/")[0]
        with self._targets["postgres" if where == "deadlines" else where]:  # a step needs a PostgreSQL that is there
            record = fault.to_json() | {"planned": round(began + fault.time, 3), "begin": time.monotonic()}
            self.records.append(record)
            try:
                self._strike(fault, record)
            except Exception as error:
                log.exception("fault %s at %s failed", fault.kind.value, fault.target)
                record["error"] = f"{type(error).__name__}: {error}"
            record["end"] = time.monotonic()

    def _strike(self, fault: Fault, record: dict[str, Any]) -> None:
        world = self._world
        where, _, number_text = fault.target.partition("/")
        number = None if number_text in ("", ALL) else int(number_text)
        kind = fault.kind
        if kind in _MODES:
            assert where in LINKS
            record["connections"] = world.set_link(where, number, _MODES[kind], delay_seconds=fault.amount)
            self._last(fault)
            world.set_link(where, number, Mode.OPEN)
        elif kind in _PAUSES:
            processes = _processes(world, kind, number)
            record["processes"] = world.pause(processes)
            self._last(fault)
            world.resume(processes)
        elif kind is Kind.KILL_SERVER:
            record["processes"] = world.kill_servers(number)
        elif kind is Kind.KILL_LEDGER:
            record["processes"] = world.kill_postgres()
            self._last(fault)
            world.start_postgres()
        elif kind in (Kind.FLUSH_GATE, Kind.FLUSH_FUNCTIONS):
            with world.redis() as client:
                if kind is Kind.FLUSH_GATE:
                    client.flushall()
                else:
                    client.function_flush()
        elif kind in (Kind.CLOCK_NEARER, Kind.CLOCK_FURTHER):
            statement = SAY_NEARER if kind is Kind.CLOCK_NEARER else SAY_FURTHER
            record["deadlines"] = int(world.sql(statement.format(fault.amount)).split()[-1])
        else:
            self._kill_gate(fault)

    def _kill_gate(self, fault: Fault) -> None:
        world = self._world
        dump = None
        if fault.kind is not Kind.KILL_GATE_EMPTY:
            dump = world.save_gate()
        if fault.kind is Kind.KILL_GATE_STALE:
            assert dump is not None
            dump = shutil.copyfile(dump, dump.with_name("stale.rdb"))
            self._calm.wait(fault.age_seconds)
        world.kill_gate()
        self._last(fault)
        world.start_gate(dump)

    def _last(self, fault: Fault) -> None:
        self._calm.wait(fault.seconds)


def _processes(world: World, kind: Kind, number: int | None) -> list[psutil.Process]:
    choose: dict[Kind, Callable[[], list[psutil.Process]]] = {
        Kind.PAUSE_SERVER: lambda: world.server_processes(number),
        Kind.PAUSE_CLIENT: lambda: world.client_processes(number or 0),
        Kind.PAUSE_GATE: world.gate_processes,
        Kind.PAUSE_LEDGER: world.postgres_processes,
    }
    return choose[kind]()
