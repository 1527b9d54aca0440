"""One database and one gate for all cases, set back before each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager

import pytest
import uvloop

from crash.matrix import Hit, Matrix, Scenario
from crash.process import observed
from crash.stage import Stage
from onhand.reservations import rebuild, reconcile

CRASH_MATRIX = "crash_matrix"
"""The property of a test whose sum is told at the end of the session (tests/conftest.py)."""


@pytest.fixture(scope="package")
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    """The loop that servers have."""
    return uvloop.EventLoopPolicy()


@pytest.fixture(scope="package")
def kept() -> dict[str, dict[bytes, bytes]]:
    """What the gate held when the shop was furnished; the ledger keeps copies of its tables itself."""
    return {}


@pytest.fixture(scope="package")
def furnished_dsn(new_database: Callable[[], AbstractContextManager[str]]) -> Iterator[str]:
    """One database for all tests here: to furnish one for each would take longer than most of them."""
    with new_database() as dsn:
        yield dsn


@pytest.fixture
async def stage(
    furnished_dsn: str, redis_url: str, kept: dict[str, dict[bytes, bytes]], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Stage]:
    """Three locations with ten units of milk and of bread each; what happens in processes is observed.

    Loads come in small parts, nobody waits before trying again, and a difference counts as lasting at once.
    """
    monkeypatch.setattr(rebuild, "PART_ROWS_MAX", 2)
    for name in ("BACK_OFF_SECONDS", "STALL_SECONDS", "LOOK_SECONDS"):
        monkeypatch.setattr(rebuild, name, 0.0)
    monkeypatch.setattr(reconcile, "IN_FLIGHT_SECONDS", -1.0)
    stage = Stage(furnished_dsn, redis_url, kept)
    with observed():
        try:
            await stage.open()
            yield stage
        finally:
            await stage.close()


@pytest.fixture
def hit(stage: Stage, record_property: Callable[[str, object], None]) -> Hit:
    """Runs a scenario with every fault at every point, and fails with what was broken."""

    async def hit(scenario: Scenario) -> None:
        report = await Matrix(stage).run(scenario)
        record_property(CRASH_MATRIX, [scenario.workflow, report.points, report.states, report.cuts, report.stalls])
        if report.failures:
            shown = "\n".join(failure[:1500] for failure in report.failures[:20])
            pytest.fail(f"{len(report.failures)} failures:\n{shown}", pytrace=False)

    return hit
