"""What goods in somebody's hand say of promises made to others."""

from __future__ import annotations

from onhand.domain.stock import Level


def broken_promises(before: Level, *, overdrawn: int, found: int) -> int:
    """How many promised units a fact took from a position, at most: the work of whoever mends them.

    `overdrawn` went below what active reservations left; `found` of them the ledger did not know to be available, so
    they broke no reservation. But where it has units allocated to orders, a person may well have taken those.
    """
    return max(0, overdrawn - found) + min(found, before.allocated)
