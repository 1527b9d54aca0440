"""Which weeks of the data are meant: `2-4`, or `3`."""

from __future__ import annotations

import re
from typing import NamedTuple

from onhand.feeds.records import FeedError

FIRST_WEEK, LAST_WEEK = 1, 53


class Weeks(NamedTuple):
    """The weeks `first` to `last`, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"


ALL_WEEKS = Weeks(FIRST_WEEK, LAST_WEEK)


def parse_weeks(text: str | None) -> Weeks:
    """Weeks as people write them; None means all. Raises `FeedError`."""
    if text is None:
        return ALL_WEEKS
    match = re.fullmatch(r"\s*([0-9]{1,3})\s*(?:-\s*([0-9]{1,3})\s*)?", text)
    if match is None:
        raise FeedError(f"weeks {text!r} are not understood; write them as 2-4, or as 3")
    first = int(match[1])
    last = int(match[2] or match[1])
    if first > last:
        raise FeedError(f"weeks {text!r}: {first} must not exceed {last}")
    if first < FIRST_WEEK or last > LAST_WEEK:
        raise FeedError(f"weeks {text!r}: the data has weeks {FIRST_WEEK} to {LAST_WEEK}")
    return Weeks(first, last)
