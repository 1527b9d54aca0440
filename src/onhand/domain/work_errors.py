"""Refusals of the work that locations do for an order, and of changes to it: see onhand.domain.errors."""

from __future__ import annotations

from dataclasses import dataclass

from onhand.domain.errors import Kind, Refusal


@dataclass(eq=False)
class FulfillmentLineExceeded(Refusal):
    """A step on more units of a line than a fulfillment order has."""

    fulfillment_order_id: str
    step: str
    line_number: int
    requested: int
    there: int
    reason = "FULFILLMENT_LINE_EXCEEDED"
    kind = Kind.PRECONDITION
    message = (
        "{step} of {requested} units of line {line_number}: fulfillment order {fulfillment_order_id} has {there}; "
        "look at its lines again"
    )


@dataclass(eq=False)
class LocationExcluded(Refusal):
    """Units would be taken over by a location that does not bring them."""

    fulfillment_order_id: str
    location_id: str
    reason = "LOCATION_EXCLUDED"
    kind = Kind.PRECONDITION
    message = "location {location_id!r} rejected or lacks what fulfillment order {fulfillment_order_id} is to bring: choose another"


@dataclass(eq=False)
class ShipToMissing(Refusal):
    """Something is to be shipped, and it is not known where to."""

    order_id: str
    reason = "SHIP_TO_MISSING"
    kind = Kind.INVALID
    message = "order {order_id} has no address: give ship_to to have anything of it shipped"


@dataclass(eq=False)
class ShortfallNotToWaitFor(Refusal):
    """Nothing that comes in ends a shortfall of what a location rejected."""

    shortfall_id: str
    cause: str
    reason = "SHORTFALL_NOT_TO_WAIT_FOR"
    kind = Kind.PRECONDITION
    message = (
        "shortfall {shortfall_id} was rejected ({cause}), no stock there ends it: RESOURCE it, or CancelOrderLines"
    )


@dataclass(eq=False)
class PickupStillHeld(Refusal):
    """A pickup waits for its customer until later."""

    fulfillment_order_id: str
    hold_end_time: str
    reason = "PICKUP_STILL_HELD"
    kind = Kind.PRECONDITION
    message = "fulfillment order {fulfillment_order_id} is held for its customer until {hold_end_time}"


@dataclass(eq=False)
class HoldTooLong(Refusal):
    """A pickup would wait for its customer for too long."""

    fulfillment_order_id: str
    hold_end_time: str
    latest_time: str
    reason = "HOLD_TOO_LONG"
    kind = Kind.PRECONDITION
    message = (
        "fulfillment order {fulfillment_order_id} is held until {latest_time} at the latest, not until {hold_end_time}"
    )


@dataclass(eq=False)
class ProofsMissing(Refusal):
    """Too few different proofs of who somebody is."""

    fulfillment_order_id: str
    given: int
    required: int
    reason = "PROOFS_MISSING"
    kind = Kind.PRECONDITION
    message = "{given} kinds of proof for fulfillment order {fulfillment_order_id}; {required} stand for its code"


@dataclass(eq=False)
class ActorRequired(Refusal):
    """What somebody has to answer for was asked for by nobody."""

    call: str
    reason = "ACTOR_REQUIRED"
    kind = Kind.INVALID
    message = "{call} is answered for by a person: name them in x-onhand-actor"


@dataclass(eq=False)
class SubstituteSame(Refusal):
    """An item would be replaced by itself."""

    sku: str
    reason = "SUBSTITUTE_SAME"
    kind = Kind.INVALID
    message = "{sku} is what was ordered: a substitute is another item"


@dataclass(eq=False)
class CursorTooOld(Refusal):
    """A watch cannot go on from a cursor: too much happened since, or it is of another ledger."""

    cursor: str
    reason = "CURSOR_TOO_OLD"
    kind = Kind.PRECONDITION
    message = (
        "cursor {cursor} is too old to go on from: watch without one, and list anew what its first message has passed"
    )


@dataclass(eq=False)
class ParcelNotFound(Refusal):
    """A parcel that a fulfillment order does not have, or that left already."""

    shipment_id: str
    fulfillment_order_id: str
    reason = "PARCEL_NOT_FOUND"
    kind = Kind.NOT_FOUND
    message = "fulfillment order {fulfillment_order_id} has no packed parcel {shipment_id}"


@dataclass(eq=False)
class ParcelNotNamed(Refusal):
    """What is packed leaves parcel by parcel."""

    fulfillment_order_id: str
    parcels: int
    reason = "PARCEL_NOT_NAMED"
    kind = Kind.PRECONDITION
    message = "fulfillment order {fulfillment_order_id} is packed in {parcels} parcels: name the shipment_id of the one that leaves"


@dataclass(eq=False)
class ParcelIncomplete(Refusal):
    """A parcel comes back whole, or what of it came back is returned by its customer."""

    fulfillment_order_id: str
    line_number: int
    came_back: int
    shipped: int
    reason = "PARCEL_INCOMPLETE"
    kind = Kind.PRECONDITION
    message = (
        "of line {line_number} {shipped} units left with fulfillment order {fulfillment_order_id}, {came_back} came back; "
        "say of each unit what becomes of it"
    )


@dataclass(eq=False)
class ChangeOutdated(Refusal):
    """A change is not what was previewed any more."""

    order_id: str
    reason = "CHANGE_OUTDATED"
    kind = Kind.CONFLICT
    message = "order {order_id}, or a price, has changed since the preview: preview the change again"


@dataclass(eq=False)
class ChangeEmpty(Refusal):
    """A change that changes nothing."""

    order_id: str
    reason = "CHANGE_EMPTY"
    kind = Kind.PRECONDITION
    message = "order {order_id} is that way already"


@dataclass(eq=False)
class LineNotToRaise(Refusal):
    """Nobody brings a line who could still bring more of it."""

    order_id: str
    line_number: int
    reason = "LINE_NOT_TO_RAISE"
    kind = Kind.PRECONDITION
    message = "nobody who brings line {line_number} of order {order_id} can still bring more of it: place another order"


@dataclass(eq=False)
class SubstituteOfferNotFound(Refusal):
    """No such offer."""

    substitute_offer_id: str
    reason = "SUBSTITUTE_OFFER_NOT_FOUND"
    kind = Kind.NOT_FOUND
    message = "there is no substitute offer {substitute_offer_id}"


@dataclass(eq=False)
class SubstituteOfferClosed(Refusal):
    """An answer to an offer that does not stand any more."""

    substitute_offer_id: str
    state: str
    step: str
    reason = "SUBSTITUTE_OFFER_CLOSED"
    kind = Kind.PRECONDITION
    message = "substitute offer {substitute_offer_id} is {state}: {step} is not possible any more"


@dataclass(eq=False)
class SubstituteOfferOpen(Refusal):
    """Something is offered instead of a line while another offer for it stands."""

    fulfillment_order_id: str
    line_number: int
    substitute_offer_id: str
    reason = "SUBSTITUTE_OFFER_OPEN"
    kind = Kind.PRECONDITION
    message = (
        "the customer is asked already about line {line_number} of fulfillment order {fulfillment_order_id}: "
        "withdraw substitute offer {substitute_offer_id} first"
    )


@dataclass(eq=False)
class SubstituteOfferOutdated(Refusal):
    """What was offered cannot be given any more as it was offered."""

    substitute_offer_id: str
    line_number: int
    reason = "SUBSTITUTE_OFFER_OUTDATED"
    kind = Kind.CONFLICT
    message = (
        "line {line_number} is not as it was when substitute offer {substitute_offer_id} was made: nothing was substituted; "
        "look at the order again"
    )
