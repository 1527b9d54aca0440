"""Refusals of stock work: transfers, advance notices, counts."""

from __future__ import annotations

from dataclasses import dataclass

from onhand.domain.errors import Kind, Refusal


@dataclass(eq=False)
class IllegalStep(Refusal):
    """A step that the state of a transfer, an advance notice or a count does not allow."""

    document: str
    state: str
    step: str
    legal_steps: str
    reason = "ILLEGAL_STEP"
    kind = Kind.PRECONDITION
    message = "{document} is {state}: {step} is not possible now; possible: {legal_steps}"


@dataclass(eq=False)
class AdvanceNoticeNotFound(Refusal):
    """No such advance notice."""

    advance_notice_id: str
    reason = "ADVANCE_NOTICE_NOT_FOUND"
    kind = Kind.NOT_FOUND
    message = "advance notice {advance_notice_id!r} is not known"


@dataclass(eq=False)
class AdvanceNoticeExists(Refusal):
    """A supplier's number was recorded before."""

    supplier: str
    supplier_reference: str
    advance_notice_id: str
    reason = "ADVANCE_NOTICE_EXISTS"
    kind = Kind.EXISTS
    message = "{supplier_reference} of {supplier} is advance notice {advance_notice_id} already; UpdateAdvanceNotice changes it"


@dataclass(eq=False)
class AdvanceNoticeExceeded(Refusal):
    """More would be received than a supplier announced."""

    advance_notice_id: str
    sku: str
    expected: int
    received: int
    reason = "ADVANCE_NOTICE_EXCEEDED"
    kind = Kind.PRECONDITION
    message = (
        "advance notice {advance_notice_id} still has {expected} of {sku} to come, {received} were to be received; "
        "accepts_more books what is there"
    )


@dataclass(eq=False)
class CountNotFound(Refusal):
    """No such count."""

    count_id: str
    reason = "COUNT_NOT_FOUND"
    kind = Kind.NOT_FOUND
    message = "count {count_id!r} is not known"


@dataclass(eq=False)
class CountLineNotFound(Refusal):
    """A count does not cover a sku."""

    count_id: str
    sku: str
    reason = "COUNT_LINE_NOT_FOUND"
    kind = Kind.NOT_FOUND
    message = "count {count_id} has no line of {sku}; a count of the whole location takes what turns up"


@dataclass(eq=False)
class NothingToCount(Refusal):
    """A location has nothing of what a count would cover."""

    location_id: str
    scope: str
    reason = "NOTHING_TO_COUNT"
    kind = Kind.PRECONDITION
    message = "location {location_id} has nothing to count for {scope}"


@dataclass(eq=False)
class CountTooLarge(Refusal):
    """A location holds more skus than one count may have."""

    location_id: str
    lines_max: int
    reason = "COUNT_TOO_LARGE"
    kind = Kind.EXHAUSTED
    message = "location {location_id} holds more than {lines_max} skus; count them in parts"


@dataclass(eq=False)
class CountOutOfTolerance(Refusal):
    """Counted lines differ by more than may be booked without a look."""

    count_id: str
    sku: str
    counted: int
    expected: int
    lines: int
    reason = "COUNT_OUT_OF_TOLERANCE"
    kind = Kind.PRECONDITION
    message = (
        "count {count_id}: {counted} of {sku} were counted, {expected} expected; {lines} lines are out of tolerance. "
        "RequestRecount, or approve them with accepts_out_of_tolerance"
    )


@dataclass(eq=False)
class CountOutdated(Refusal):
    """Somebody corrected or counted a sku after the moment that a count holds for."""

    count_id: str
    sku: str
    reason = "COUNT_OUTDATED"
    kind = Kind.PRECONDITION
    message = "{sku} was corrected or counted otherwise after it was counted for {count_id}; count it once more (RequestRecount)"


@dataclass(eq=False)
class BackordersFilled(Refusal):
    """What waits at a position is less than was to be filled: another process was faster. Nobody is told."""

    location_id: str
    sku: str
    reason = "BACKORDERS_FILLED"
    kind = Kind.PRECONDITION
    message = "fewer units of {sku} wait at {location_id} than were to be filled"
