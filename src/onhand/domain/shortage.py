"""What goods in somebody's hand say of promises made to others: whose promise broke, and what is to be done about it.

Whose: the softer promise first, and of equals the youngest. A sale takes from `available` first, so it breaks reservations
before orders; among orders those whose goods nobody picked yet, for what is picked is not on the shelf any more. A count that
finds fewer breaks them in the same order, and picked ones last. So the oldest promise of a kind is the last to break.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from uuid import UUID

from onhand.domain.errors import ShortfallNotToDecide
from onhand.domain.work_errors import ShortfallNotToWaitFor


class ShortfallCause(Enum):
    """What showed that promised units are not there."""

    SALE = "SALE"
    COUNT = "COUNT"
    REJECTION = "REJECTION"
    """Somebody looked for the same item for another order, and did not find it."""
    BACKORDER = "BACKORDER"
    """Nothing broke: they were never there, and the customer agreed to wait."""
    NOT_FOUND = "NOT_FOUND"
    """The location looked for these very units. With the next two: it does not bring them, whatever comes in there."""
    DAMAGED = "DAMAGED"
    CLOSED = "CLOSED"
    LOST = "LOST"
    """Somebody left with them while the customer paid, before there was an order that they could be allocated to."""


OF_STOCK = frozenset(
    {
        ShortfallCause.SALE,
        ShortfallCause.COUNT,
        ShortfallCause.REJECTION,
        ShortfallCause.BACKORDER,
        ShortfallCause.LOST,
    }
)
"""Causes by which units are missing in stock: `short` of a level counts these, and what comes in covers them."""
NEVER_ALLOCATED = frozenset({ShortfallCause.BACKORDER, ShortfallCause.LOST})
"""Those of them by which units were missing when they were ordered: claimed, and never there."""


class ShortfallStep(Enum):
    """What is to be done next about promised units that are not there."""

    COUNT = "COUNT"
    """The goods may be there all the same: count first."""
    CHOOSE = "CHOOSE"
    """They are not there, or not brought: cancel them, have another location bring them, or decide to wait."""
    WAIT = "WAIT"
    """Somebody decided to wait for stock, which covers them when it comes."""
    NONE = "NONE"
    """Nothing: it is over."""


class ShortfallEnd(Enum):
    """How units stopped being short."""

    COUNTED = "COUNTED"
    """A count found them."""
    COVERED = "COVERED"
    """Stock arrived, or was given up by somebody else, and took their place."""
    IN_HAND = "IN_HAND"
    """Somebody picked, set out, handed over or shipped them: they were there."""
    CANCELLED = "CANCELLED"
    """The customer does not get them any more."""
    REJECTED = "REJECTED"
    """The location does not bring them: another shortfall says so."""
    RESOURCED = "RESOURCED"
    """Another location brings them."""


FIRST_STEP: Mapping[ShortfallCause, ShortfallStep] = MappingProxyType(
    {
        ShortfallCause.SALE: ShortfallStep.COUNT,
        ShortfallCause.COUNT: ShortfallStep.CHOOSE,
        ShortfallCause.REJECTION: ShortfallStep.COUNT,
        ShortfallCause.NOT_FOUND: ShortfallStep.CHOOSE,
        ShortfallCause.DAMAGED: ShortfallStep.CHOOSE,
        ShortfallCause.CLOSED: ShortfallStep.CHOOSE,
        ShortfallCause.BACKORDER: ShortfallStep.WAIT,
        ShortfallCause.LOST: ShortfallStep.CHOOSE,
    }
)


@dataclass(frozen=True)
class Promise:
    """Units of an order line that a location has for it. Ids are of UUID version 7: a greater one is a younger promise."""

    fulfillment_order_id: UUID
    line_number: int
    is_picked: bool
    quantity: int


def broken_reservations(*, overdrawn: int, found: int) -> int:
    """How many reserved units a fact took from a position, at most.

    `overdrawn` went below what active reservations left; `found` of them the ledger did not know to be available.
    """
    return max(0, overdrawn - found)


def break_promises(promises: Iterable[Promise], units: int, cause: ShortfallCause) -> list[tuple[Promise, int]]:
    """Whose units are gone, and how many: what cannot be assigned was nobody's."""
    broken = []
    on_shelf = [p for p in promises if cause is ShortfallCause.COUNT or not p.is_picked]
    youngest_first = sorted(on_shelf, key=lambda p: (p.fulfillment_order_id, p.line_number), reverse=True)
    for promise in sorted(youngest_first, key=lambda p: p.is_picked):
        if taken := min(units, promise.quantity):
            broken.append((promise, taken))
            units -= taken
    return broken


def missing_by_count(*, on_hand: int, counted: int, held: Iterable[int]) -> list[int]:
    """What a count takes from each of the buckets, the first of `held` first; in sum the difference."""
    missing, taken = max(0, on_hand - counted), []
    for units in held:
        taken.append(min(missing, units))
        missing -= taken[-1]
    return taken


def decide_to_wait(shortfall_id: str, cause: ShortfallCause, step: ShortfallStep) -> ShortfallStep:
    """The next step once somebody decided to wait.

    Raises `ShortfallNotToDecide` unless it is to be chosen, `ShortfallNotToWaitFor` where the location brings nothing.
    """
    if step is not ShortfallStep.CHOOSE:
        raise ShortfallNotToDecide(shortfall_id, step.value)
    if cause not in OF_STOCK:
        raise ShortfallNotToWaitFor(shortfall_id, cause.value)
    return ShortfallStep.WAIT


def decide_to_resource(shortfall_id: str, step: ShortfallStep) -> None:
    """Whether another location may take over. Raises `ShortfallNotToDecide` unless it is to be chosen, or waited for."""
    if step not in (ShortfallStep.CHOOSE, ShortfallStep.WAIT):
        raise ShortfallNotToDecide(shortfall_id, step.value)
