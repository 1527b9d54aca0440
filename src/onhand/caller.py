"""Who calls, as a handler knows them."""

from __future__ import annotations

from typing import NamedTuple


class Caller(NamedTuple):
    """Who calls, through which channel ('POS', or None if not said), and until when: time.monotonic(), or None."""

    actor: str
    channel: str | None = None
    deadline: float | None = None


ITSELF = Caller("onhand")
"""A server, in what it does without being asked."""
