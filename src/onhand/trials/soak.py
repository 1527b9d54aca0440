"""`make soak`: brutal runs one after another, for as long as asked, until one breaks a promise; it says how to repeat that one."""

from __future__ import annotations

import itertools
import json
import logging
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from onhand.progress import progress_bars
from onhand.settings import Unusable
from onhand.simulate.calls import GaveUp
from onhand.simulate.processes import ProcessFailed
from onhand.trials import Level, simulate_faults
from onhand.trials.faulty import COUNTERS

EVIDENCE_SHOWN_MAX = 10
"""How much of the evidence is printed; report.json, in the folder that is kept, has all of it."""


def parse_seeds(text: str) -> Iterable[int]:
    """`3`, `1-10`, or `1-` for all from 1 on. Raises ValueError."""
    first, dash, last = text.partition("-")
    if not dash:
        return [int(first)]
    return range(int(first), int(last) + 1) if last else itertools.count(int(first))


def soak(
    seeds: Annotated[str, typer.Option(help="A-B, A- without an end, or one.")] = "1-",
    seconds: Annotated[float, typer.Option(min=10, help="How long each run is.")] = 120,
    minutes: Annotated[float, typer.Option(min=0, help="No run begins after these; 0 for no end.")] = 0,
    processes: Annotated[int, typer.Option(min=1, max=64, help="Server processes, and as many of clients.")] = 2,
    redis_server: Annotated[str | None, typer.Option(help="Program of the gate; the embedded Valkey if not.")] = None,
) -> None:
    """Run after run, each with the next seed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    program = shutil.which(redis_server) if redis_server else None
    if redis_server and program is None:
        raise typer.BadParameter(f"{redis_server}: there is no such program")
    try:
        chosen = parse_seeds(seeds)
    except ValueError as error:
        raise typer.BadParameter(f"seeds {seeds}: 3, 1-10 or 1- are some") from error
    until = time.monotonic() + minutes * 60 if minutes else float("inf")
    runs = 0
    for seed in chosen:
        if time.monotonic() > until:
            break
        report = _run(seed, seconds=seconds, processes=processes, program=program)
        runs += 1
        if report is None or not report["ok"]:
            command = ["onhand", "simulate", "--faults", "brutal", "--seconds", f"{seconds:g}"]
            command += ["--processes", str(processes), "--seed", str(seed), "--json"]
            command += ["--redis-server", redis_server] if redis_server else []
            typer.echo(f"Repeat it: .venv/bin/{shlex.join(command)}")
            raise typer.Exit(1)
    typer.echo(f"{runs} runs, no promise broken")


def _run(seed: int, *, seconds: float, processes: int, program: str | None) -> dict[str, Any] | None:
    """One run, and what is said of it; None where it could not be finished."""
    try:
        with progress_bars() as show:
            report = simulate_faults(
                Level.BRUTAL,
                seconds=seconds,
                processes=processes,
                seed=seed,
                redis_server=Path(program) if program else None,
                show=show,
            )
    except (GaveUp, ProcessFailed, Unusable) as error:
        typer.echo(f"seed {seed}: {error}")
        return None
    figures = ("faults", "acknowledged", "refused", "unknown", *COUNTERS, "acknowledged_after_last_fault")
    typer.echo(f"seed {seed}: " + ", ".join(f"{name} {report[name]}" for name in figures))
    if not report["ok"]:
        for entry in report["evidence"][:EVIDENCE_SHOWN_MAX]:
            typer.echo(f"  {json.dumps(entry)}")
        typer.echo(f"Kept: {report['kept']} (report.json, the calls, the servers' logs, the databases' files)")
    return report


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    try:
        typer.run(soak)
    except KeyboardInterrupt:
        sys.exit(130)
