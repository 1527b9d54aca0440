"""Advance notices: what a supplier announced, what of it arrived, and what may happen to the notice."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType

from onhand.domain.stock_work_errors import AdvanceNoticeExceeded, IllegalStep


class NoticeState(Enum):
    """How far a notice is."""

    EXPECTED = "EXPECTED"
    RECEIVING = "RECEIVING"
    RECEIVED = "RECEIVED"
    CLOSED = "CLOSED"
    CANCELLED = "CANCELLED"


class NoticeStep(Enum):
    """What somebody does to a notice."""

    UPDATE = "UPDATE"
    CANCEL = "CANCEL"
    RECEIVE = "RECEIVE"
    CLOSE = "CLOSE"


_S, _T = NoticeState, NoticeStep

TRANSITIONS: Mapping[tuple[NoticeState, NoticeStep], Collection[NoticeState]] = MappingProxyType(
    {
        (_S.EXPECTED, _T.UPDATE): (_S.EXPECTED,),
        (_S.EXPECTED, _T.CANCEL): (_S.CANCELLED,),
        (_S.EXPECTED, _T.RECEIVE): (_S.RECEIVING, _S.RECEIVED),
        (_S.EXPECTED, _T.CLOSE): (_S.CLOSED,),
        # A supplier may announce less than came already.
        (_S.RECEIVING, _T.UPDATE): (_S.RECEIVING, _S.RECEIVED),
        (_S.RECEIVING, _T.RECEIVE): (_S.RECEIVING, _S.RECEIVED),
        (_S.RECEIVING, _T.CLOSE): (_S.CLOSED,),
    }
)
"""The states that each legal step may lead to; which of them, `state_after` says. What comes later needs no notice."""

OPEN = frozenset({_S.EXPECTED, _S.RECEIVING})
"""States in which something is expected."""


@dataclass(frozen=True)
class NoticeLine:
    """Goods of one sku, in base units. `damaged` is a part of `received`."""

    sku: str
    expected: int = 0
    received: int = 0
    damaged: int = 0

    @property
    def to_come(self) -> int:
        """Units announced that have not arrived."""
        return max(0, self.expected - self.received)

    @property
    def over(self) -> int:
        """Units that arrived and were not announced."""
        return max(0, self.received - self.expected)


def check_step(document: str, state: NoticeState, step: NoticeStep) -> None:
    """Raises IllegalStep where a state does not allow a step."""
    if (state, step) not in TRANSITIONS:
        legal = [s.value for s in NoticeStep if (state, s) in TRANSITIONS]
        raise IllegalStep(document, state.value, step.value, ", ".join(legal) or "nothing")


def receive(notice_id: str, line: NoticeLine, good: int, damaged: int, *, accepts_more: bool) -> NoticeLine:
    """A line once goods of it arrived. Raises AdvanceNoticeExceeded where that is more than was announced, unless accepted."""
    if good + damaged > line.to_come and not accepts_more:
        raise AdvanceNoticeExceeded(notice_id, line.sku, line.to_come, good + damaged)
    return replace(line, received=line.received + good + damaged, damaged=line.damaged + damaged)


def announce(lines: Mapping[str, NoticeLine], expected: Mapping[str, int]) -> dict[str, NoticeLine]:
    """The lines once a supplier announces other quantities; what arrived stays, announced or not."""
    kept = {sku: replace(line, expected=0) for sku, line in lines.items() if line.received}
    return kept | {sku: replace(lines.get(sku, NoticeLine(sku)), expected=n) for sku, n in expected.items()}


def state_after(state: NoticeState, step: NoticeStep, lines: Collection[NoticeLine]) -> NoticeState:
    """The state that a legal step leads to, given what the lines are after it."""
    possible = TRANSITIONS[state, step]
    wanted = _S.RECEIVING if any(line.to_come for line in lines) else _S.RECEIVED
    return wanted if wanted in possible else next(iter(possible))
