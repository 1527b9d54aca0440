"""The clients of a trial: processes full of shoppers, tills and associates, at a steady rate, whatever happens to the servers."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from onhand.simulate.attempts import Caller
from onhand.simulate.calls import GaveUp
from onhand.simulate.history import History
from onhand.simulate.people import PEOPLE, final_reads
from onhand.simulate.processes import run_processes
from onhand.simulate.shop import Shop
from onhand.simulate.town import Town

PEOPLE_PER_SECOND = 34.0
"""Journeys that begin each second, over all client processes; one makes about three calls."""
PEOPLE_AT_ONCE_MAX = 90
"""Journeys that a client process has under way; one more than these is not begun."""
CONNECT_SECONDS_MAX = 30.0
ENDING_SECONDS_MAX = 25.0
"""How long journeys and late repeats may take to end once the load is over; what is left is cut off and stays unknown."""
UNKNOWN_REPEATED_AT_THE_END = 0.6
"""The share of calls let go that is repeated when everything is healed; the others never are."""
PROGRESS_SECONDS = 0.5


@dataclass(frozen=True)
class Crew:
    """One client process."""

    number: int
    processes: int
    shop: Shop
    targets: tuple[str, ...]
    seed: int
    seconds: float
    folder: Path
    healed_seconds_max: float


def run_workload(
    *,
    shop: Shop,
    targets: Sequence[str],
    seed: int,
    seconds: float,
    processes: int,
    folder: Path,
    healed: Event,
    healed_seconds_max: float = 120.0,
    progress: Callable[[int], None] = lambda more: None,
    started: Callable[[Sequence[int]], None] = lambda pids: None,
) -> dict[str, int]:
    """Load for `seconds`; then waits for `healed`, repeats some of what is unknown, and reads everything once more.

    `started` is given the process ids; <folder>/started is written when the load begins. Returns how many attempts ended how.
    Raises ProcessFailed.
    """
    crews = [
        Crew(n, processes, shop, tuple(targets), seed, seconds, folder, healed_seconds_max) for n in range(processes)
    ]
    counts: dict[str, int] = {}
    for result in run_processes(play, [(healed, crew) for crew in crews], progress, started):
        for name, count in result.items():
            counts[name] = counts.get(name, 0) + count
    return {**counts, "attempts": sum(counts.values())}


def play(report: Callable[[int], None], healed: Event, crew: Crew) -> dict[str, int]:
    """One client process from its first call to its last."""
    return asyncio.run(_play(report, healed, crew))


async def _play(report: Callable[[int], None], healed: Event, crew: Crew) -> dict[str, int]:
    history = History(crew.folder / f"history-{crew.number}.jsonl", str(crew.number)).open()
    chance = random.Random(f"{crew.seed} crew {crew.number}")
    caller = Caller(crew.targets, history, chance)
    town = Town(crew.shop, caller, chance, f"{crew.shop.run_id}.{crew.number}")
    ticking = asyncio.create_task(_tick(report, history))
    try:
        try:
            await caller.connect(CONNECT_SECONDS_MAX)
        except TimeoutError as error:
            raise GaveUp("a server does not answer before the first fault") from error
        (crew.folder / "started").touch()
        people = await _load(crew, town, chance)
        ending = time.monotonic() + ENDING_SECONDS_MAX
        town.is_closing = True
        if people:
            await asyncio.wait(people, timeout=ENDING_SECONDS_MAX)
        for task in people:
            task.cancel()
        await asyncio.gather(*people, return_exceptions=True)
        with contextlib.suppress(TimeoutError):  # what is still to be repeated then never is
            await asyncio.wait_for(caller.finish_later(), max(1.0, ending - time.monotonic()))
        if not await asyncio.to_thread(healed.wait, crew.healed_seconds_max):
            raise GaveUp(f"nothing was healed within {crew.healed_seconds_max:.0f} s")
        await caller.repeat_at_the_end(UNKNOWN_REPEATED_AT_THE_END)
        await final_reads(town)
    finally:
        ticking.cancel()
        await caller.close()
        history.close()
    if town.failures:
        raise RuntimeError(f"a journey broke: {town.failures[0]!r}") from town.failures[0]
    return history.counts


async def _load(crew: Crew, town: Town, chance: random.Random) -> set[asyncio.Task[Any]]:
    """Begins journeys at a steady rate; those that are still under way at the end are returned."""
    people: set[asyncio.Task[Any]] = set()
    began = due = time.monotonic()
    while due < began + crew.seconds:
        due += chance.expovariate(PEOPLE_PER_SECOND / crew.processes)
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        journey = chance.choices([p.journey for p in PEOPLE], [p.weight for p in PEOPLE])[0]
        if len(people) < PEOPLE_AT_ONCE_MAX:
            task = asyncio.create_task(town.lead(journey))
            people.add(task)
            task.add_done_callback(people.discard)
    return people


async def _tick(report: Callable[[int], None], history: History) -> None:
    told = 0
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        done = sum(history.counts.values())
        report(done - told)
        told = done
