"""`onhand simulate --faults`, small: real processes, killed, paused and cut off, and every promise kept all the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest

from onhand.dev.process import wait_until_gone
from onhand.trials.faulty import COUNTERS

SECONDS = 15
RUN_SECONDS_MAX = 280
END_SECONDS_MAX = 150
COMMAND = [sys.executable, "-m", "onhand.cli", "simulate", "--faults"]


def _redis_server() -> list[str]:
    """The gate that the suite was asked to run on, where it is a program."""
    wanted = os.environ.get("ONHAND_TEST_REDIS") or "valkey"
    return [] if wanted == "valkey" or "://" in wanted else ["--redis-server", wanted]


# Two processes of servers, two of clients, PostgreSQL, a gate; then a quiet time, until every claim is over.
@pytest.mark.timeout(RUN_SECONDS_MAX + 20)
def test_faults_that_a_test_run_can_afford_break_no_promise(scratch_dir: Path) -> None:
    arguments = ["default", "--seconds", str(SECONDS), "--processes", "2", "--seed", "1", "--json", *_redis_server()]
    done = subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS_MAX,
        env=os.environ | {"TMPDIR": str(scratch_dir)},
        check=False,
    )

    assert done.stdout, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert {name: report[name] for name in COUNTERS} == dict.fromkeys(COUNTERS, 0), json.dumps(report["evidence"])
    assert report["ok"], report
    assert done.returncode == 0
    assert (report["seed"], report["seconds"]) == (1, SECONDS)
    assert report["faults"] == report["faults_planned"] >= 5
    assert report["acknowledged"] > 100
    assert report["acknowledged_after_last_fault"] > 0
    assert report["refused"] > 0
    assert report["unknown"] > 0
    assert list(_folders(scratch_dir)) == []


@pytest.mark.timeout(RUN_SECONDS_MAX + 20)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_simulation_that_is_ended_in_the_middle_leaves_nothing(scratch_dir: Path, number: int) -> None:
    simulation = subprocess.Popen(
        [*COMMAND, "brutal", "--seconds", "600", "--processes", "2", "--seed", "1", *_redis_server()],
        env=os.environ | {"TMPDIR": str(scratch_dir)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_for_load(simulation, scratch_dir)
        itself = psutil.Process(simulation.pid)
        started = itself.children(recursive=True)
        assert len(started) >= 7  # the guard, PostgreSQL and its children, the gate, two servers, two clients
        # One that is paused can not end by itself.
        next(process for process in started if "serve" in process.cmdline()).suspend()

        simulation.send_signal(number)

        assert wait_until_gone([itself, *started], timeout_seconds=END_SECONDS_MAX)
    finally:
        simulation.kill()
        simulation.wait()
    _wait_for_guard(scratch_dir)


def _folders(parent: Path) -> list[Path]:
    return [path for path in parent.iterdir() if path.name.startswith("onhand-faults-")]


def _wait_for_load(simulation: subprocess.Popen[bytes], parent: Path) -> None:
    waiting = threading.Event()
    while not any((folder / "started").exists() for folder in _folders(parent)):
        assert simulation.poll() is None
        waiting.wait(0.05)


def _wait_for_guard(parent: Path) -> None:
    """Back once the folder is gone; the limit of the test ends it otherwise."""
    waiting = threading.Event()
    while _folders(parent):
        waiting.wait(0.05)
