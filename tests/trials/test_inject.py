"""How a plan of faults is carried out: what needs a part that is away waits for it, and what fails is on record."""

from __future__ import annotations

import time
from typing import Any, cast

from onhand.trials.faults import Fault, Kind
from onhand.trials.inject import Injector
from onhand.trials.world import World


class Scene:
    """Stands for the world: a PostgreSQL that is there or not, and a list of what was done."""

    def __init__(self) -> None:
        self.is_up = True
        self.done: list[str] = []

    def check(self) -> None:
        """No server ever dies here."""

    def mend(self) -> None:
        self.done.append("mend")

    def kill_postgres(self) -> int:
        self.is_up = False
        self.done.append("kill")
        return 3

    def start_postgres(self) -> None:
        self.done.append("start")
        self.is_up = True

    def sql(self, statement: str) -> str:
        if not self.is_up:
            raise ConnectionRefusedError
        self.done.append("step")
        return "UPDATE 7"


def _carry_out(scene: Scene, *faults: Fault) -> list[dict[str, Any]]:
    injector = Injector(cast(World, scene), faults)
    injector.start(time.monotonic())
    for thread in injector._threads:
        thread.join()
    injector.stop()
    assert injector.died == []
    return injector.records


def test_a_step_of_the_deadlines_waits_for_a_postgres_that_is_away() -> None:
    scene = Scene()
    kill = Fault(0.0, Kind.KILL_LEDGER, "postgres", 0.5)
    step = Fault(0.1, Kind.CLOCK_FURTHER, "deadlines", 0.0, amount=3.0)

    records = _carry_out(scene, kill, step)

    assert scene.done == ["kill", "start", "step", "mend"]
    assert [record["kind"] for record in records] == ["kill_postgres", "deadlines_further"]
    assert not [record for record in records if "error" in record]
    assert records[1]["deadlines"] == 7
    assert records[1]["begin"] >= records[0]["end"]


def test_a_fault_that_fails_is_on_record_and_the_others_go_on() -> None:
    scene = Scene()
    scene.is_up = False

    records = _carry_out(
        scene,
        Fault(0.0, Kind.CLOCK_NEARER, "deadlines", 0.0, amount=3.0),
        Fault(0.1, Kind.KILL_LEDGER, "postgres", 0.0),
    )

    assert "ConnectionRefusedError" in records[0]["error"]
    assert "error" not in records[1]
    assert scene.done == ["kill", "start", "mend"]
