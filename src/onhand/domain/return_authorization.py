"""Goods that are announced, sent and inspected: the states of a return authorization, and what an inspection does to it.

A step that TRANSITIONS does not name is illegal. EXPIRE is nobody's call: the end of its time makes an authorization EXPIRED,
whether its row says so yet or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from types import MappingProxyType

from onhand.domain.return_errors import IllegalReturnStep, ReturnAuthorizationExceeded


class AuthorizationState(Enum):
    """How far announced goods are."""

    AUTHORIZED = "AUTHORIZED"
    """The customer may send them."""
    PARTIALLY_RECEIVED = "PARTIALLY_RECEIVED"
    """Some came and were inspected."""
    RECEIVED = "RECEIVED"
    """All came, or what did not is not awaited any more. Final."""
    CANCELLED = "CANCELLED"
    """Nothing came, and nothing is awaited. Final."""
    EXPIRED = "EXPIRED"
    """Its time is over before all came. What comes now needs a manager."""


class AuthorizationStep(Enum):
    """What happens to it."""

    RECEIVE_PART = "RECEIVE_PART"
    """Units came, others are still awaited."""
    RECEIVE_REST = "RECEIVE_REST"
    """The last of its units came."""
    RECEIVE_LATE = "RECEIVE_LATE"
    """Units came after its time. Nothing is awaited afterwards."""
    CANCEL = "CANCEL"
    """What did not come is not awaited any more."""
    EXPIRE = "EXPIRE"
    """Its time is over."""


_S, _P = AuthorizationState, AuthorizationStep

TRANSITIONS: Mapping[tuple[AuthorizationState, AuthorizationStep], AuthorizationState] = MappingProxyType(
    {
        (_S.AUTHORIZED, _P.RECEIVE_PART): _S.PARTIALLY_RECEIVED,
        (_S.AUTHORIZED, _P.RECEIVE_REST): _S.RECEIVED,
        (_S.AUTHORIZED, _P.CANCEL): _S.CANCELLED,
        (_S.AUTHORIZED, _P.EXPIRE): _S.EXPIRED,
        (_S.PARTIALLY_RECEIVED, _P.RECEIVE_PART): _S.PARTIALLY_RECEIVED,
        (_S.PARTIALLY_RECEIVED, _P.RECEIVE_REST): _S.RECEIVED,
        (_S.PARTIALLY_RECEIVED, _P.CANCEL): _S.RECEIVED,
        (_S.PARTIALLY_RECEIVED, _P.EXPIRE): _S.EXPIRED,
        (_S.EXPIRED, _P.RECEIVE_LATE): _S.RECEIVED,
    }
)

OPEN = frozenset({_S.AUTHORIZED, _S.PARTIALLY_RECEIVED})
"""Their units are held against other returns."""


def state_at(stored: AuthorizationState, expires_time: datetime, now: datetime) -> AuthorizationState:
    """The state of an authorization at a moment: `stored` is what its steps made of it."""
    return TRANSITIONS[stored, _P.EXPIRE] if stored in OPEN and expires_time <= now else stored


def after(state: AuthorizationState, step: AuthorizationStep, authorization_id: str) -> AuthorizationState:
    """The state that a step leads to. Raises `IllegalReturnStep`, which names the steps that are legal."""
    try:
        return TRANSITIONS[state, step]
    except KeyError:
        legal = ", ".join(s.value for of, s in TRANSITIONS if of is state and s is not _P.EXPIRE) or "nothing"
        raise IllegalReturnStep(authorization_id, state.value, step.value, legal) from None


def check_receivable(state: AuthorizationState, authorization_id: str) -> None:
    """Raises `IllegalReturnStep` where no unit can come any more, however many they are."""
    if state not in OPEN and state is not _S.EXPIRED:
        after(state, _P.RECEIVE_REST, authorization_id)


@dataclass(frozen=True)
class Awaited:
    """Units of a line of an authorization."""

    line_number: int
    sku: str
    quantity: int
    received: int = 0
    refused: int = 0

    @property
    def left(self) -> int:
        """What did not come yet."""
        return self.quantity - self.received - self.refused


def inspect(
    authorization_id: str,
    state: AuthorizationState,
    awaited: Mapping[int, Awaited],
    came: Mapping[int, int],
) -> AuthorizationStep:
    """The step that units (by line, accepted and refused together) are. Raises `ReturnAuthorizationExceeded`."""
    for number, quantity in sorted(came.items()):
        left = awaited[number].left if number in awaited else 0
        if quantity > left:
            raise ReturnAuthorizationExceeded(authorization_id, number, quantity, left)
    if state is _S.EXPIRED:
        return _P.RECEIVE_LATE
    is_last = all(line.left == came.get(number, 0) for number, line in awaited.items())
    return _P.RECEIVE_REST if is_last else _P.RECEIVE_PART
