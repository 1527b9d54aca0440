"""What an audit compares: rows of the ledger as plain values, and what it finds. All times are monotonic seconds."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

Position = tuple[str, str]
Lines = tuple[tuple[str, int], ...]

CLOCK_SLACK_SECONDS = 0.1
"""How far a commit's time, by the ledger's wall clock, may be from the monotonic clock of the clients."""

OVERSOLD, LOST, DUPLICATE, LEAKED, STALE, OTHER = (
    "oversold_units",
    "lost_acknowledged",
    "duplicate_effects",
    "leaked_units",
    "stale_reads",
    "violations",
)


class RequestRow(NamedTuple):
    """A request that had its effect. `commit` is when its transaction took its commit time, just before it was visible."""

    request_id: str
    method: str
    response: bytes
    transaction: int
    commit: float


class MovementRow(NamedTuple):
    """A movement, in the order of its position's commits by movement_id."""

    location_id: str
    movement_id: int
    sku: str
    quantity: int
    from_bucket: str
    to_bucket: str
    reason: str
    reference: str
    transaction: int
    commit: float


class ClaimRow(NamedTuple):
    """A claim. `commit` is of the transaction that last changed the row: the one that closed it, or made it."""

    location_id: str
    claim_id: str
    reservation_id: str
    state: str
    lines: Lines
    deadline: float
    created: float
    order_id: str
    transaction: int
    commit: float


class OrderRow(NamedTuple):
    """An order with its lines: (line_number, sku, quantity, fulfilled, cancelled, returned)."""

    order_id: str
    reservation_id: str
    lines: tuple[tuple[int, str, int, int, int, int], ...]


class LevelRow(NamedTuple):
    """A stock level. `short`: units promised to orders that were found gone."""

    location_id: str
    sku: str
    available: int
    allocated: int
    damaged: int
    quarantine: int
    short: int = 0


class EndRow(NamedTuple):
    """Units that stopped being short: of which part of an order, what had shown them to be, and how it ended."""

    location_id: str
    sku: str
    fulfillment_order_id: str
    order_id: str
    line_number: int
    cause: str
    quantity: int
    reason: str
    transaction: int


class MoneyRow(NamedTuple):
    """What a line of an order cost and gave back, in minor units. `replaces`: the line that it is a substitute of, or 0."""

    order_id: str
    line_number: int
    total: int
    refunded: int
    replaces: int


class TenderRow(NamedTuple):
    """A tender of an order, or of a checkout, in minor units. `carried`: what of `given_back` paid for other goods."""

    order_id: str
    number: int
    provider: str
    amount: int
    authorized: int
    captured: int
    voided: int
    refunded: int
    given_back: int
    carried: int
    gift_card_id: str


class GatewayRow(NamedTuple):
    """What a gateway did for a tender, by its own books, in minor units."""

    order_id: str
    number: int
    authorized: int
    captured: int
    refunded: int
    capturable: int


@dataclass(frozen=True)
class Ledger:
    """All that an audit reads, from one moment after everything was over."""

    requests: Sequence[RequestRow]
    movements: Sequence[MovementRow]
    claims: Sequence[ClaimRow]
    orders: Sequence[OrderRow]
    levels: Sequence[LevelRow]
    returns: Sequence[str]
    transfers: Sequence[str]
    shipments: int
    deltas: Mapping[str, Sequence[tuple[int, int]]]
    """By location: (number, transaction) of its increases."""
    ends: Sequence[EndRow] = ()
    waiting: Mapping[Position, int] = field(default_factory=dict)
    """Units that orders agreed to wait for, as their shortfalls began."""
    money: Sequence[MoneyRow] = ()
    tenders: Sequence[TenderRow] = ()
    balances: Mapping[str, int] = field(default_factory=dict)
    """By gift card, in minor units."""
    gateway: Sequence[GatewayRow] = ()
    wall_offset: float = 0.0
    """What the wall clock says when the clients' is at 0, for times that answers tell."""


class Calm:
    """When nothing was broken: how much later something is, if only the time without a fault counts."""

    def __init__(self, faults: Iterable[tuple[float, float]], signs: Iterable[tuple[float, float]] = ()) -> None:
        """`signs`: times at which something seems to be broken, though nobody broke it then."""
        self._faults = _merged(faults)
        self._begins = [begin for begin, _ in self._faults]
        self._signs = _merged([*self._faults, *signs])
        self._ends = [end for _, end in self._signs]

    def after(self, begin: float, seconds: float) -> float:
        """The moment at which so many seconds without a fault have passed since `begin`."""
        now, left = begin, seconds
        # Merged spans end in the order of their begins.
        first = bisect_right(self._ends, begin)
        for fault_begin, fault_end in islice(self._signs, first, None):
            if fault_begin - now >= left:
                break
            left -= max(0.0, fault_begin - now)
            now = max(now, fault_end)
        return now + left

    def is_broken(self, begin: float, end: float) -> bool:
        """Whether any fault touches the time between."""
        place = bisect_right(self._begins, end)
        return place > 0 and self._faults[place - 1][1] >= begin


def _merged(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    merged: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(merged[-1][1], end)
        else:
            merged.append((begin, end))
    return merged


COUNTERS = (OVERSOLD, LOST, DUPLICATE, LEAKED, STALE, OTHER)
EVIDENCE_MAX = 10
"""Findings of a counter that are described; all are counted."""


def _zeros() -> dict[str, int]:
    return dict.fromkeys(COUNTERS, 0)


@dataclass
class Findings:
    """What is wrong, by counter, with the evidence of the first of each."""

    counts: dict[str, int] = field(default_factory=_zeros)
    evidence: list[dict[str, Any]] = field(default_factory=list)
    checks: dict[str, int] = field(default_factory=dict)

    def add(self, counter: str, what: str, *evidence: Any, units: int = 1) -> None:
        """Something is wrong."""
        self.counts[counter] += units
        if sum(each["counter"] == counter for each in self.evidence) < EVIDENCE_MAX:
            self.evidence.append({"counter": counter, "what": what, "evidence": list(evidence)})

    def checked(self, what: str, count: int = 1) -> None:
        """Counts what was looked at, so that an audit of nothing is seen to be one."""
        self.checks[what] = self.checks.get(what, 0) + count


def as_told(row: NamedTuple) -> dict[str, Any]:
    """A row as evidence."""
    return {
        name: value.hex()[:40] if isinstance(value, bytes) else round(value, 4) if isinstance(value, float) else value
        for name, value in row._asdict().items()
    }
