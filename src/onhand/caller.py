"""Who calls, as a handler knows them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Caller:
    """Who calls, through which channel ('POS', or None if not said), and until when: time.monotonic(), or None."""

    actor: str
    channel: str | None = None
    deadline: float | None = None
