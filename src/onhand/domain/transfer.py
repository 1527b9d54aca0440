"""Transfers between two locations: what may happen to one, and where each of its units is.

Of a line, dispatched + over units have been on their way; they were received, lost, or came back to the sender, or still are.
`over` are units that arrived and were not known to be sent. What was lost and arrives all the same was not lost.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType

from onhand.domain.errors import TransferExceeded
from onhand.domain.stock_work_errors import IllegalStep


class TransferState(Enum):
    """How far a transfer is."""

    REQUESTED = "REQUESTED"
    IN_TRANSIT = "IN_TRANSIT"
    RECEIVED = "RECEIVED"
    CLOSED = "CLOSED"
    CANCELLED = "CANCELLED"


class TransferStep(Enum):
    """What somebody does to a transfer."""

    DISPATCH = "DISPATCH"
    CANCEL = "CANCEL"
    RECEIVE = "RECEIVE"
    CLOSE = "CLOSE"


_S, _T = TransferState, TransferStep

TRANSITIONS: Mapping[tuple[TransferState, TransferStep], Collection[TransferState]] = MappingProxyType(
    {
        (_S.REQUESTED, _T.DISPATCH): (_S.IN_TRANSIT,),
        (_S.REQUESTED, _T.CANCEL): (_S.CANCELLED,),
        (_S.IN_TRANSIT, _T.RECEIVE): (_S.IN_TRANSIT, _S.RECEIVED),
        (_S.IN_TRANSIT, _T.CLOSE): (_S.CLOSED,),
        # One more box, after all of it was there.
        (_S.RECEIVED, _T.RECEIVE): (_S.RECEIVED,),
        # What was lost is found: all of it, or some.
        (_S.CLOSED, _T.RECEIVE): (_S.CLOSED, _S.RECEIVED),
    }
)
"""The states that each legal step may lead to; which of them, `state_after` says."""

OPEN = frozenset({_S.REQUESTED, _S.IN_TRANSIT})
"""States in which somebody still has to do something."""


@dataclass(frozen=True)
class TransferLine:
    """Units of one sku, in base units."""

    sku: str
    requested: int = 0
    dispatched: int = 0
    received: int = 0
    over: int = 0
    lost: int = 0
    returned: int = 0

    @property
    def on_way(self) -> int:
        """Units that are between the two locations."""
        return self.dispatched + self.over - self.received - self.lost - self.returned


@dataclass(frozen=True)
class Arrival:
    """What units that arrived are: sent, given up as lost before, or not known to be sent."""

    line: TransferLine
    found: int
    over: int


def check_step(document: str, state: TransferState, step: TransferStep) -> None:
    """Raises IllegalStep where a state does not allow a step."""
    if (state, step) not in TRANSITIONS:
        legal = [s.value for s in TransferStep if (state, s) in TRANSITIONS]
        raise IllegalStep(document, state.value, step.value, ", ".join(legal) or "nothing")


def arrive(transfer_id: str, line: TransferLine, quantity: int, *, accepts_more: bool) -> Arrival:
    """A line once units of it arrived. Raises TransferExceeded where more come than are known, unless that is accepted."""
    found = min(max(0, quantity - line.on_way), line.lost)
    over = max(0, quantity - line.on_way - found)
    if over and not accepts_more:
        raise TransferExceeded(transfer_id, line.sku, line.on_way + line.lost, quantity)
    after = replace(line, received=line.received + quantity, over=line.over + over, lost=line.lost - found)
    return Arrival(after, found, over)


def left_out(asked: Iterable[TransferLine], sent: Mapping[str, int]) -> list[TransferLine]:
    """What of a request is still to follow, once so many units by sku were sent."""
    rest = {line.sku: line.requested - sent.get(line.sku, 0) for line in asked}
    return [TransferLine(sku, requested=quantity) for sku, quantity in rest.items() if quantity > 0]


def give_up(line: TransferLine, *, is_back: bool) -> TransferLine:
    """A line whose units on their way do not arrive any more: they are back at the sender, or lost."""
    if is_back:
        return replace(line, returned=line.returned + line.on_way)
    return replace(line, lost=line.lost + line.on_way)


def state_after(state: TransferState, step: TransferStep, lines: Collection[TransferLine]) -> TransferState:
    """The state that a legal step leads to, given what the lines are after it."""
    wanted = _S.IN_TRANSIT if any(line.on_way for line in lines) else _S.RECEIVED
    if any(line.lost or line.returned for line in lines):
        wanted = _S.CLOSED
    possible = TRANSITIONS[state, step]
    return wanted if wanted in possible else next(iter(possible))
