"""What may happen to an order: the steps of the work that a location does for it, and what they say of the whole.

An order's state follows from its fulfillment orders and is never set by itself. A step that TRANSITIONS does not name
is illegal; there is no other rule. A fulfillment order is in one state as a whole: units that go another way than the rest (a
part is rejected, ready, handed over, sent) become a fulfillment order of their own first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from onhand.domain.errors import CancelExceeded, IllegalTransition, OrderLineNotFound
from onhand.domain.work_errors import FulfillmentLineExceeded


class FulfillmentKind(Enum):
    """How a customer gets the goods."""

    PICKUP = "PICKUP"
    SHIP = "SHIP"
    CARRY_OUT = "CARRY_OUT"


class FulfillmentState(Enum):
    """How far a location's work for an order is."""

    REQUESTED = "REQUESTED"
    ACCEPTED = "ACCEPTED"
    PICKED = "PICKED"
    READY_FOR_PICKUP = "READY_FOR_PICKUP"
    PICKED_UP = "PICKED_UP"
    SHIPPED = "SHIPPED"
    DELIVERED = "DELIVERED"
    CANCELLED = "CANCELLED"
    REJECTED = "REJECTED"
    """The location does not bring it: nobody does, until another is chosen or it is cancelled."""
    MOVED = "MOVED"
    """Others bring it now."""
    NO_SHOW = "NO_SHOW"
    """The customer did not come in time and gets the money back; the goods stand aside."""
    RESTOCKED = "RESTOCKED"
    """They were put away."""
    RETURNED = "RETURNED"
    """The carrier brought the parcel back."""


class OrderState(Enum):
    """The state of a whole order."""

    OPEN = "OPEN"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"


class Step(Enum):
    """What somebody does to a fulfillment order."""

    ACCEPT = "ACCEPT"
    PICK = "PICK"
    MARK_READY = "MARK_READY"
    RESET_CODE = "RESET_CODE"
    HAND_OVER = "HAND_OVER"
    SHIP = "SHIP"
    DELIVER = "DELIVER"
    CANCEL = "CANCEL"
    """Of its last open unit. Cancelling fewer changes quantities and no state, and is legal wherever this is."""
    MOVE = "MOVE"
    """Of its last open unit to another location, or another way to the customer. Of fewer: as with CANCEL."""
    REJECT = "REJECT"
    UNPICK = "UNPICK"
    SUBSTITUTE = "SUBSTITUTE"
    ARRIVE = "ARRIVE"
    NO_SHOW = "NO_SHOW"
    PUT_AWAY = "PUT_AWAY"
    PACK = "PACK"
    RETURN = "RETURN"
    EXTEND_HOLD = "EXTEND_HOLD"


_PICKUP, _SHIP = FulfillmentKind.PICKUP, FulfillmentKind.SHIP
_S = FulfillmentState

TRANSITIONS: Mapping[tuple[FulfillmentKind, FulfillmentState, Step], FulfillmentState] = MappingProxyType(
    {
        (_PICKUP, _S.REQUESTED, Step.ACCEPT): _S.ACCEPTED,
        (_PICKUP, _S.REQUESTED, Step.REJECT): _S.REJECTED,
        (_PICKUP, _S.REQUESTED, Step.SUBSTITUTE): _S.REQUESTED,
        (_PICKUP, _S.REQUESTED, Step.ARRIVE): _S.REQUESTED,
        (_PICKUP, _S.REQUESTED, Step.RESET_CODE): _S.REQUESTED,
        (_PICKUP, _S.REQUESTED, Step.MOVE): _S.MOVED,
        (_PICKUP, _S.REQUESTED, Step.CANCEL): _S.CANCELLED,
        (_PICKUP, _S.ACCEPTED, Step.PICK): _S.PICKED,
        (_PICKUP, _S.ACCEPTED, Step.REJECT): _S.REJECTED,
        (_PICKUP, _S.ACCEPTED, Step.SUBSTITUTE): _S.ACCEPTED,
        (_PICKUP, _S.ACCEPTED, Step.ARRIVE): _S.ACCEPTED,
        (_PICKUP, _S.ACCEPTED, Step.RESET_CODE): _S.ACCEPTED,
        (_PICKUP, _S.ACCEPTED, Step.MOVE): _S.MOVED,
        (_PICKUP, _S.ACCEPTED, Step.CANCEL): _S.CANCELLED,
        (_PICKUP, _S.PICKED, Step.MARK_READY): _S.READY_FOR_PICKUP,
        (_PICKUP, _S.PICKED, Step.UNPICK): _S.ACCEPTED,
        (_PICKUP, _S.PICKED, Step.REJECT): _S.REJECTED,
        (_PICKUP, _S.PICKED, Step.SUBSTITUTE): _S.PICKED,
        (_PICKUP, _S.PICKED, Step.ARRIVE): _S.PICKED,
        (_PICKUP, _S.PICKED, Step.RESET_CODE): _S.PICKED,
        (_PICKUP, _S.PICKED, Step.MOVE): _S.MOVED,
        (_PICKUP, _S.PICKED, Step.CANCEL): _S.CANCELLED,
        (_PICKUP, _S.READY_FOR_PICKUP, Step.HAND_OVER): _S.PICKED_UP,
        (_PICKUP, _S.READY_FOR_PICKUP, Step.UNPICK): _S.ACCEPTED,
        (_PICKUP, _S.READY_FOR_PICKUP, Step.NO_SHOW): _S.NO_SHOW,
        (_PICKUP, _S.READY_FOR_PICKUP, Step.EXTEND_HOLD): _S.READY_FOR_PICKUP,
        (_PICKUP, _S.READY_FOR_PICKUP, Step.REJECT): _S.REJECTED,
        (_PICKUP, _S.READY_FOR_PICKUP, Step.ARRIVE): _S.READY_FOR_PICKUP,
        (_PICKUP, _S.READY_FOR_PICKUP, Step.RESET_CODE): _S.READY_FOR_PICKUP,
        (_PICKUP, _S.READY_FOR_PICKUP, Step.MOVE): _S.MOVED,
        (_PICKUP, _S.READY_FOR_PICKUP, Step.CANCEL): _S.CANCELLED,
        (_PICKUP, _S.REJECTED, Step.MOVE): _S.MOVED,
        (_PICKUP, _S.REJECTED, Step.CANCEL): _S.CANCELLED,
        (_PICKUP, _S.NO_SHOW, Step.PUT_AWAY): _S.RESTOCKED,
        (_SHIP, _S.REQUESTED, Step.ACCEPT): _S.ACCEPTED,
        (_SHIP, _S.REQUESTED, Step.REJECT): _S.REJECTED,
        (_SHIP, _S.REQUESTED, Step.SUBSTITUTE): _S.REQUESTED,
        (_SHIP, _S.REQUESTED, Step.MOVE): _S.MOVED,
        (_SHIP, _S.REQUESTED, Step.CANCEL): _S.CANCELLED,
        (_SHIP, _S.ACCEPTED, Step.PICK): _S.PICKED,
        (_SHIP, _S.ACCEPTED, Step.REJECT): _S.REJECTED,
        (_SHIP, _S.ACCEPTED, Step.SUBSTITUTE): _S.ACCEPTED,
        (_SHIP, _S.ACCEPTED, Step.MOVE): _S.MOVED,
        (_SHIP, _S.ACCEPTED, Step.CANCEL): _S.CANCELLED,
        (_SHIP, _S.PICKED, Step.PACK): _S.PICKED,
        (_SHIP, _S.PICKED, Step.SHIP): _S.SHIPPED,
        (_SHIP, _S.PICKED, Step.UNPICK): _S.ACCEPTED,
        (_SHIP, _S.PICKED, Step.REJECT): _S.REJECTED,
        (_SHIP, _S.PICKED, Step.SUBSTITUTE): _S.PICKED,
        (_SHIP, _S.PICKED, Step.MOVE): _S.MOVED,
        (_SHIP, _S.PICKED, Step.CANCEL): _S.CANCELLED,
        (_SHIP, _S.SHIPPED, Step.DELIVER): _S.DELIVERED,
        (_SHIP, _S.SHIPPED, Step.RETURN): _S.RETURNED,
        (_SHIP, _S.REJECTED, Step.MOVE): _S.MOVED,
        (_SHIP, _S.REJECTED, Step.CANCEL): _S.CANCELLED,
    }
)

INITIAL: Mapping[FulfillmentKind, FulfillmentState] = MappingProxyType(
    {
        FulfillmentKind.PICKUP: FulfillmentState.REQUESTED,
        FulfillmentKind.SHIP: FulfillmentState.REQUESTED,
        # The customer holds the goods when the sale is recorded.
        FulfillmentKind.CARRY_OUT: FulfillmentState.PICKED_UP,
    }
)


class Phase(Enum):
    """What a fulfillment order's state means for the order."""

    OPEN = "OPEN"
    DONE = "DONE"
    CANCELLED = "CANCELLED"
    """The customer gets nothing by it (any more)."""


PHASES: Mapping[FulfillmentState, Phase] = MappingProxyType(
    {
        FulfillmentState.REQUESTED: Phase.OPEN,
        FulfillmentState.ACCEPTED: Phase.OPEN,
        FulfillmentState.PICKED: Phase.OPEN,
        FulfillmentState.READY_FOR_PICKUP: Phase.OPEN,
        FulfillmentState.SHIPPED: Phase.OPEN,
        FulfillmentState.PICKED_UP: Phase.DONE,
        FulfillmentState.DELIVERED: Phase.DONE,
        FulfillmentState.CANCELLED: Phase.CANCELLED,
        FulfillmentState.REJECTED: Phase.OPEN,
        FulfillmentState.MOVED: Phase.CANCELLED,
        FulfillmentState.NO_SHOW: Phase.CANCELLED,
        FulfillmentState.RESTOCKED: Phase.CANCELLED,
        FulfillmentState.RETURNED: Phase.DONE,
    }
)

ORDER_STATES: Mapping[frozenset[Phase], OrderState] = MappingProxyType(
    {
        frozenset({Phase.OPEN}): OrderState.OPEN,
        frozenset({Phase.OPEN, Phase.DONE}): OrderState.OPEN,
        frozenset({Phase.OPEN, Phase.CANCELLED}): OrderState.OPEN,
        frozenset({Phase.OPEN, Phase.DONE, Phase.CANCELLED}): OrderState.OPEN,
        frozenset({Phase.DONE}): OrderState.COMPLETED,
        frozenset({Phase.DONE, Phase.CANCELLED}): OrderState.COMPLETED,
        frozenset({Phase.CANCELLED}): OrderState.CANCELLED,
    }
)

PICKUP_CODE_FAILURES_MAX = 5
"""How often a pickup code may be given wrong; then none is accepted until it is reset."""

PROOFS_MIN = 2
"""How many different proofs stand for a lost pickup code."""

# How far each state is, for choosing what to cancel: work that nobody began costs least to undo.
_PROGRESS = {state: index for index, state in enumerate(FulfillmentState)}

CANCELLABLE = frozenset(state for _, state, step in TRANSITIONS if step is Step.CANCEL)
"""States in which units are still to be brought, whoever does."""
HOLDING = CANCELLABLE - {FulfillmentState.REJECTED}
"""States in which a fulfillment order's units are still `allocated` at its location."""
LEFT = frozenset(
    {
        FulfillmentState.PICKED_UP,
        FulfillmentState.SHIPPED,
        FulfillmentState.DELIVERED,
        FulfillmentState.RETURNED,
    }
)
"""States in which the customer got the units, or they were on their way to them."""
EMPTY = frozenset(state for state, phase in PHASES.items() if phase is Phase.CANCELLED)
"""States of fulfillment orders that have nothing (left) to bring: each of their units was cancelled, or is brought by others."""


class RejectReason(Enum):
    """Why a location does not bring units."""

    NOT_FOUND = "NOT_FOUND"
    """They are not where they should be, nor anywhere else there: counted off."""
    DAMAGED = "DAMAGED"
    """They are there, and cannot be given to a customer."""
    CLOSED = "CLOSED"
    """They are there, and nobody can do it: they may be sold to others."""


def after(kind: FulfillmentKind, state: FulfillmentState, step: Step, fulfillment_order_id: str) -> FulfillmentState:
    """The state that a step leads to. Raises `IllegalTransition`, which names the steps that are legal."""
    try:
        return TRANSITIONS[kind, state, step]
    except KeyError:
        legal = ", ".join(s.value for k, from_state, s in TRANSITIONS if (k, from_state) == (kind, state)) or "nothing"
        raise IllegalTransition(fulfillment_order_id, kind.value, state.value, step.value, legal) from None


def order_state(states: Iterable[FulfillmentState]) -> OrderState:
    """The state of an order whose fulfillment orders (at least one) are in these states."""
    return ORDER_STATES[frozenset(PHASES[state] for state in states)]


@dataclass(frozen=True)
class FulfillmentPart:
    """The part of an order line that one fulfillment order works on.

    `quantity` leaves out what was cancelled or moved; `short` of it is not there, or rejected.
    """

    fulfillment_order_id: str
    state: FulfillmentState
    line_number: int
    sku: str
    quantity: int
    short: int = 0


@dataclass(frozen=True)
class Cancellation:
    """Units that one fulfillment order does not have to bring any more."""

    fulfillment_order_id: str
    line_number: int
    sku: str
    quantity: int


def plan_cancellation(
    order_id: str, parts: Sequence[FulfillmentPart], wanted: Iterable[tuple[int, int]]
) -> list[Cancellation]:
    """What to cancel where for (line_number, quantity) pairs, each line once: what is short, then the work least far.

    Raises `OrderLineNotFound`, and `CancelExceeded` where more is wanted than is still with the location.
    """
    plan: list[Cancellation] = []
    for line_number, quantity in wanted:
        of_line = [part for part in parts if part.line_number == line_number]
        if not of_line:
            raise OrderLineNotFound(order_id, line_number)
        open_parts = [part for part in of_line if part.state in CANCELLABLE]
        open_quantity = sum(part.quantity for part in open_parts)
        if quantity > open_quantity:
            raise CancelExceeded(order_id, line_number, of_line[0].sku, quantity, open_quantity)
        ordered = sorted(open_parts, key=lambda p: (_PROGRESS[p.state], p.fulfillment_order_id))
        short = {part.fulfillment_order_id: min(part.short, part.quantity) for part in ordered}
        for part in ordered:
            short[part.fulfillment_order_id] = min(short[part.fulfillment_order_id], quantity)
            quantity -= short[part.fulfillment_order_id]
        for part in ordered:
            taken = min(part.quantity - short[part.fulfillment_order_id], quantity)
            quantity -= taken
            if taken := taken + short[part.fulfillment_order_id]:
                plan.append(Cancellation(part.fulfillment_order_id, line_number, part.sku, taken))
    return plan


def check_parts(
    fulfillment_order_id: str, step: Step, held: Mapping[int, int], wanted: Iterable[tuple[int, int]]
) -> dict[int, int]:
    """The units of a step on a part of a fulfillment order, by line; a quantity of 0 stands for the whole line, no lines for all.

    Raises `FulfillmentLineExceeded` where it has fewer.
    """
    asked = dict(wanted)
    units = {number: quantity or held.get(number, 0) for number, quantity in asked.items()}
    for number, quantity in units.items():
        if not 0 < quantity <= held.get(number, 0):
            raise FulfillmentLineExceeded(fulfillment_order_id, step.value, number, quantity, held.get(number, 0))
    return units or {number: quantity for number, quantity in held.items() if quantity}
