"""Every workflow times every point that it passes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import crash.bring_back
import crash.stock_work
import crash.trade
from crash.matrix import Matrix, Scenario
from crash.stage import Stage
from crash.stock import SCENARIOS

CRASH_MATRIX = "crash_matrix"
"""The property of a test whose sum is told at the end of the session (tests/conftest.py)."""

assert crash.bring_back
assert crash.trade  # its scenarios are among them
assert crash.stock_work  # and its


@pytest.mark.timeout(600)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
async def test_a_fault_at_any_point_leaves_one_effect_and_nothing_else(
    stage: Stage, scenario: Scenario, record_property: Callable[[str, object], None]
) -> None:
    report = await Matrix(stage).run(scenario)
    record_property(CRASH_MATRIX, [scenario.workflow, report.points, report.states, report.cuts, report.stalls])
    if report.failures:
        shown = "\n".join(failure[:1500] for failure in report.failures[:20])
        pytest.fail(f"{len(report.failures)} failures:\n{shown}", pytrace=False)
