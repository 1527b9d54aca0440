"""Reservations and stock work: every workflow times every point that it passes."""

from __future__ import annotations

import pytest

import crash.stock
from crash.matrix import Hit, Scenario
from crash.stock import scenarios_of


@pytest.mark.timeout(600)
@pytest.mark.parametrize("scenario", scenarios_of(crash.stock), ids=str)
async def test_a_fault_at_any_point_leaves_one_effect_and_nothing_else(hit: Hit, scenario: Scenario) -> None:
    await hit(scenario)
