"""Counts while the store is open: what was counted holds for a moment, and what moved since then is added.

Goods move physically from and to suppliers, customers and other locations. What only corrected the record meanwhile (units found
at a sale, units found short) is no goods: the count knows better. So what is there now is what was counted plus the goods that
moved since, whatever the ledger believed at either time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from onhand.domain.stock_work_errors import IllegalStep

RECORD_ONLY = frozenset({"FOUND_AT_SALE", "SHORTFALL_OPENED", "SHORTFALL_FOUND"})
"""Reasons of corrections that onhand makes by itself and that say nothing of goods. Any other makes a count outdated."""


class CountState(Enum):
    """How far a count is; it follows from its lines, but for one that was cancelled."""

    COUNTING = "COUNTING"
    REVIEW = "REVIEW"
    APPROVED = "APPROVED"
    CANCELLED = "CANCELLED"


class LineState(Enum):
    """How far a line of a count is."""

    TO_COUNT = "TO_COUNT"
    COUNTED = "COUNTED"
    APPROVED = "APPROVED"
    DROPPED = "DROPPED"


class CountStep(Enum):
    """What somebody does to a count."""

    SUBMIT = "SUBMIT"
    RECOUNT = "RECOUNT"
    APPROVE = "APPROVE"
    CANCEL = "CANCEL"


_S, _T, _L = CountState, CountStep, LineState

TRANSITIONS: Mapping[tuple[CountState, CountStep], Collection[CountState]] = MappingProxyType(
    {
        (_S.COUNTING, _T.SUBMIT): (_S.COUNTING, _S.REVIEW),
        (_S.COUNTING, _T.RECOUNT): (_S.COUNTING,),
        (_S.COUNTING, _T.APPROVE): (_S.COUNTING,),
        (_S.COUNTING, _T.CANCEL): (_S.CANCELLED,),
        (_S.REVIEW, _T.SUBMIT): (_S.REVIEW,),  # of a sku that turned up
        (_S.REVIEW, _T.RECOUNT): (_S.COUNTING, _S.REVIEW),
        (_S.REVIEW, _T.APPROVE): (_S.REVIEW, _S.APPROVED),
        (_S.REVIEW, _T.CANCEL): (_S.CANCELLED,),
    }
)
"""The states that each legal step may lead to; which of them, `state_of` says."""

LINE_STEPS: Mapping[tuple[LineState, CountStep], LineState] = MappingProxyType(
    {
        (_L.TO_COUNT, _T.SUBMIT): _L.COUNTED,
        (_L.COUNTED, _T.RECOUNT): _L.TO_COUNT,
        (_L.COUNTED, _T.APPROVE): _L.APPROVED,
        (_L.TO_COUNT, _T.CANCEL): _L.DROPPED,
        (_L.COUNTED, _T.CANCEL): _L.DROPPED,
    }
)
"""What each step does to a line. What is approved is booked, and stays."""


@dataclass(frozen=True)
class Since:
    """What the ledger has of a sku, and what it recorded since a moment, in base units."""

    on_hand: int
    recorded: int
    """By how much on_hand changed since."""
    moved: int
    """What of that were goods: in less out."""
    is_corrected: bool = False
    """Whether somebody corrected or counted it since."""

    @property
    def expected(self) -> int:
        """What the ledger had at that moment, as far as it knows now."""
        return self.on_hand - self.recorded

    def there_now(self, counted: int) -> int:
        """What is there now, if `counted` was there at that moment."""
        return max(0, counted + self.moved)


def check_step(document: str, state: CountState, step: CountStep) -> None:
    """Raises IllegalStep where a state does not allow a step."""
    if (state, step) not in TRANSITIONS:
        legal = [s.value for s in CountStep if (state, s) in TRANSITIONS]
        raise IllegalStep(document, state.value, step.value, ", ".join(legal) or "nothing")


def state_of(*, has_to_count: bool, has_counted: bool) -> CountState:
    """The state of a count that was not cancelled, by its lines."""
    if has_to_count:
        return _S.COUNTING
    return _S.REVIEW if has_counted else _S.APPROVED


def is_within(*, counted: int, expected: int, tolerance_quantity: int, tolerance_percent: int) -> bool:
    """Whether a difference may be booked without a look: in units, or in hundredths of what was expected."""
    difference = abs(counted - expected)
    return difference <= tolerance_quantity or 100 * difference <= tolerance_percent * max(0, expected)
