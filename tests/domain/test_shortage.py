"""Which promises goods in hand broke."""

from __future__ import annotations

import pytest

from onhand.domain.shortage import broken_promises
from onhand.domain.stock import Level


@pytest.mark.parametrize(
    ("before", "overdrawn", "found", "broken"),
    [
        (Level(available=5), 0, 0, 0),  # a sale that nobody minds
        (Level(available=2), 1, 0, 1),  # two reserved, one of them sold
        (Level(available=2), 3, 1, 2),  # two reserved, three sold: the third was nobody's
        (Level(), 4, 4, 0),  # nothing known, nothing promised
        (Level(allocated=1), 1, 1, 1),  # the one that waits for its customer may be the one that was sold
        (Level(allocated=1), 3, 3, 1),
        (Level(available=1, allocated=2), 3, 2, 3),
    ],
)
def test_a_fact_breaks_reservations_first_and_then_perhaps_orders(
    before: Level, overdrawn: int, found: int, broken: int
) -> None:
    assert broken_promises(before, overdrawn=overdrawn, found=found) == broken
