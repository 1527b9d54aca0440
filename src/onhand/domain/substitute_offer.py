"""A substitute that a location offers to a customer: its states, and what ends it.

A step that TRANSITIONS does not name is illegal. EXPIRE is nobody's call: the end of its time makes an offer EXPIRED, whether its
row says so yet or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from types import MappingProxyType

from onhand.domain.work_errors import SubstituteOfferClosed

OFFER_SECONDS = 1800
"""How long an offer stands if nobody says: somebody stands at a shelf."""


class OfferState(Enum):
    """What became of an offer."""

    OFFERED = "OFFERED"
    """The customer may answer."""
    ACCEPTED = "ACCEPTED"
    """She agreed, and the substitute is a line of her order. Final."""
    DECLINED = "DECLINED"
    """She does not want it. Final."""
    WITHDRAWN = "WITHDRAWN"
    """The location took it back. Final."""
    EXPIRED = "EXPIRED"
    """She did not answer in time. Final."""


class OfferStep(Enum):
    """What happens to an offer."""

    ACCEPT = "ACCEPT"
    """The customer agrees."""
    DECLINE = "DECLINE"
    """The customer does not."""
    WITHDRAW = "WITHDRAW"
    """The location found the item after all, or has no substitute any more."""
    EXPIRE = "EXPIRE"
    """Its time is over."""


TRANSITIONS: Mapping[tuple[OfferState, OfferStep], OfferState] = MappingProxyType(
    {
        (OfferState.OFFERED, OfferStep.ACCEPT): OfferState.ACCEPTED,
        (OfferState.OFFERED, OfferStep.DECLINE): OfferState.DECLINED,
        (OfferState.OFFERED, OfferStep.WITHDRAW): OfferState.WITHDRAWN,
        (OfferState.OFFERED, OfferStep.EXPIRE): OfferState.EXPIRED,
    }
)


def state_at(stored: OfferState, expires_time: datetime, now: datetime) -> OfferState:
    """The state of an offer at a moment: `stored` is what its steps made of it."""
    return TRANSITIONS[stored, OfferStep.EXPIRE] if stored is OfferState.OFFERED and expires_time <= now else stored


def after(state: OfferState, step: OfferStep, offer_id: str) -> OfferState:
    """The state that a step leads to. Raises `SubstituteOfferClosed`."""
    try:
        return TRANSITIONS[state, step]
    except KeyError:
        raise SubstituteOfferClosed(offer_id, state.value, step.value) from None
