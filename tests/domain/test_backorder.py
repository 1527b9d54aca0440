"""How far promises may go: a position whose every step keeps what backorder permits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from onhand.domain.stock import Policy, atp


def test_the_floor_is_safety_stock_less_what_backorder_still_permits() -> None:
    for policy, room, floor in (
        (Policy(), 0, 0),
        (Policy(3), 0, 3),
        (Policy(3, 5), 5, -2),
        (Policy(0, 5, 2), 3, -3),
        (Policy(2, 5, 5), 0, 2),
        (Policy(2, 1, 5), 0, 2),  # the limit was lowered: units that are there are not withheld for it
    ):
        assert (policy.room, policy.floor) == (room, floor)


@given(
    st.integers(0, 20),
    st.integers(0, 10),
    st.lists(st.tuples(st.sampled_from(["order", "receipt", "cancel"]), st.integers(1, 8))),
)
def test_what_may_be_promised_falls_by_what_is_ordered_and_rises_by_what_comes(
    available: int, limit: int, steps: list[tuple[str, int]]
) -> None:
    """With available + room in the place of available, a position with backorder behaves as one without."""
    policy = Policy(backorder_limit=limit)
    promised, there = available + limit, available
    for what, n in steps:
        if what == "order" and n <= promised:
            owed = max(0, n - available)
            available, policy = available - (n - owed), policy._replace(backordered=policy.backordered + owed)
            promised -= n
        elif what == "receipt":
            covered = min(n, policy.backordered)
            available, policy = available + n - covered, policy._replace(backordered=policy.backordered - covered)
            promised, there = promised + n, there + n
        elif what == "cancel" and n <= policy.backordered:
            policy = policy._replace(backordered=policy.backordered - n)
            promised += n
        shown = atp(available=available, reserved=0, floor=policy.floor, channel_threshold=0)
        assert shown == available + policy.room == promised
        assert 0 <= policy.backordered <= limit
        assert available == 0 or policy.backordered == 0
