"""Every refusal onhand gives, one class each: typed fields, a stable reason, and a message that says what to do next.

A refusal had no effect. Transport codes are not known here: `edge.errors` maps a `Kind` to one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum
from typing import ClassVar


class Kind(Enum):
    """What sort of refusal it is, and so what its caller can do about it."""

    INVALID = "invalid"  # the request can never succeed: correct it
    NOT_FOUND = "not_found"  # it names something that does not exist
    EXISTS = "exists"  # it would make something that is there already
    PRECONDITION = "precondition"  # the state of things does not allow it now
    CONFLICT = "conflict"  # somebody changed it meanwhile: read again, then repeat
    EXHAUSTED = "exhausted"  # a limit is reached
    UNAVAILABLE = "unavailable"  # a part is down: repeat later, with the same request_id


@dataclass(frozen=True)
class Short:
    """A line that cannot be had: `available` is what could be promised, in base units."""

    location_id: str
    sku: str
    requested: int
    available: int


@dataclass(eq=False)
class Refusal(Exception):
    """A request that is refused. `message` is a template over the class's own fields.

    Not frozen, and so none of its subclasses: contextlib writes the traceback of what passes through it.
    """

    reason: ClassVar[str]
    kind: ClassVar[Kind]
    message: ClassVar[str]

    def __str__(self) -> str:
        return self.message.format(**{f.name: getattr(self, f.name) for f in fields(self)})

    def metadata(self) -> dict[str, str]:
        """Every value of the message, by name."""
        return {
            f.name: str(getattr(self, f.name)) for f in fields(self) if not isinstance(getattr(self, f.name), tuple)
        }

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), tuple(getattr(self, f.name) for f in fields(self))


# ------------------------------------------------------------------------------------------------------------ any call
@dataclass(frozen=True)
class FieldViolation:
    """One field of a request that breaks a declared rule. `field` is its path, as in `lines[0].quantity`."""

    field: str
    description: str


@dataclass(eq=False)
class InvalidRequest(Refusal):
    """Fields break their declared rules."""

    violations: tuple[FieldViolation, ...]
    reason = "INVALID_REQUEST"
    kind = Kind.INVALID

    def __str__(self) -> str:
        return "; ".join(f"{v.field}: {v.description}" for v in self.violations)


def invalid(field: str, description: str) -> InvalidRequest:
    """An `InvalidRequest` of one field."""
    return InvalidRequest((FieldViolation(field, description),))


@dataclass(eq=False)
class RequestIdReused(Refusal):
    """A request_id came again with another body or method."""

    request_id: str
    method: str
    reason = "REQUEST_ID_REUSED"
    kind = Kind.INVALID
    message = (
        "request_id {request_id} was used before by {method} with another body; use a new request_id for a new request"
    )


@dataclass(eq=False)
class PageTokenInvalid(Refusal):
    """A page token was not given by this list, or was given for other filters."""

    page_token: str
    reason = "PAGE_TOKEN_INVALID"
    kind = Kind.INVALID
    message = "page_token {page_token!r} does not belong to this list; start again without one"


@dataclass(eq=False)
class EtagMismatch(Refusal):
    """Somebody else changed the thing since it was read."""

    resource: str
    etag: str
    current_etag: str
    reason = "ETAG_MISMATCH"
    kind = Kind.CONFLICT
    message = "{resource} was changed by somebody else: etag {etag} is now {current_etag}; read it again, then repeat"


@dataclass(eq=False)
class LedgerUnavailable(Refusal):
    """PostgreSQL did not answer."""

    detail: str
    reason = "LEDGER_UNAVAILABLE"
    kind = Kind.UNAVAILABLE
    message = "the ledger does not answer ({detail}); repeat with the same request_id"


@dataclass(eq=False)
class GateUnavailable(Refusal):
    """Redis/Valkey did not answer, or its data could not be trusted in time."""

    detail: str
    reason = "GATE_UNAVAILABLE"
    kind = Kind.UNAVAILABLE
    message = "the gate does not answer ({detail}); repeat with the same request_id"


@dataclass(eq=False)
class ServerStopping(Refusal):
    """The server process is being stopped; others take its place."""

    reason = "SERVER_STOPPING"
    kind = Kind.UNAVAILABLE
    message = "this server is stopping; repeat with the same request_id"


@dataclass(eq=False)
class OutcomeUnknown(Refusal):
    """A mutation was not over shortly before its deadline. It goes on to its end."""

    reason = "OUTCOME_UNKNOWN"
    kind = Kind.UNAVAILABLE
    message = (
        "this was not over before its deadline, and goes on; repeat with the same request_id to learn what became of it"
    )


@dataclass(eq=False)
class NotInTime(Refusal):
    """A read was not answered before its deadline."""

    reason = "NOT_IN_TIME"
    kind = Kind.UNAVAILABLE
    message = "this could not be read before the deadline; repeat, with more time where that was short"


@dataclass(eq=False)
class Overloaded(Refusal):
    """A bounded queue is full. `retry_seconds` (RetryInfo) grows with the overload."""

    queue: str
    limit: int
    reason = "OVERLOADED"
    kind = Kind.EXHAUSTED
    message = "more than {queue} can take (limit {limit}); repeat later with the same request_id"


# ------------------------------------------------------------------------------------------------ locations and stock
@dataclass(eq=False)
class LocationNotFound(Refusal):
    """No such location."""

    location_id: str
    reason = "LOCATION_NOT_FOUND"
    kind = Kind.NOT_FOUND
    message = "location {location_id!r} is not known; ListLocations shows those that are"


@dataclass(eq=False)
class LocationExists(Refusal):
    """The id of a location is taken, perhaps by a deleted one."""

    location_id: str
    reason = "LOCATION_EXISTS"
    kind = Kind.EXISTS
    message = "location {location_id!r} exists, or existed, already; choose another location_id"


@dataclass(eq=False)
class LocationGroupNotFound(Refusal):
    """No such location group."""

    location_group_id: str
    reason = "LOCATION_GROUP_NOT_FOUND"
    kind = Kind.NOT_FOUND
    message = "location group {location_group_id!r} is not known"


@dataclass(eq=False)
class LocationInUse(Refusal):
    """A location that still holds something cannot be deleted."""

    location_id: str
    units: int
    reservations: int
    open_fulfillment_orders: int
    open_transfers: int
    open_advance_notices: int
    open_counts: int
    reason = "LOCATION_IN_USE"
    kind = Kind.PRECONDITION
    message = (
        "location {location_id!r} still holds {units} units, {reservations} active reservations, "
        "{open_fulfillment_orders} open fulfillment orders, {open_transfers} open transfers, "
        "{open_advance_notices} open advance notices and {open_counts} open counts; clear them first"
    )


@dataclass(eq=False)
class SkuNotFound(Refusal):
    """No such product."""

    sku: str
    reason = "SKU_NOT_FOUND"
    kind = Kind.NOT_FOUND
    message = "sku {sku!r} is not in the catalog"


@dataclass(eq=False)
class InsufficientStock(Refusal):
    """The lines that cannot be had; nothing was taken."""

    shorts: tuple[Short, ...]
    reason = "INSUFFICIENT_STOCK"
    kind = Kind.PRECONDITION

    def __str__(self) -> str:
        return "; ".join(
            f"{s.sku} at {s.location_id}: {s.requested} requested, {s.available} available" for s in self.shorts
        )

    def metadata(self) -> dict[str, str]:
        """The first short line; all of them are violations of the precondition."""
        first = self.shorts[0]
        return {
            "location_id": first.location_id,
            "sku": first.sku,
            "requested": str(first.requested),
            "available": str(first.available),
            "short_lines": str(len(self.shorts)),
        }


@dataclass(eq=False)
class BucketShort(Refusal):
    """A bucket holds less than a movement would take from it."""

    location_id: str
    sku: str
    bucket: str
    requested: int
    held: int
    reason = "BUCKET_SHORT"
    kind = Kind.PRECONDITION
    message = "{location_id} holds {held} {bucket} of {sku}, {requested} were to be moved"


# --------------------------------------------------------------------------------------------------------- reservations
@dataclass(eq=False)
class ReservationNotFound(Refusal):
    """No such reservation."""

    reservation_id: str
    reason = "RESERVATION_NOT_FOUND"
    kind = Kind.NOT_FOUND
    message = "reservation {reservation_id!r} is not known"


@dataclass(eq=False)
class ReservationNotActive(Refusal):
    """A reservation that is confirmed, released or expired cannot be changed any more."""

    reservation_id: str
    state: str
    reason = "RESERVATION_NOT_ACTIVE"
    kind = Kind.PRECONDITION
    message = "reservation {reservation_id} is {state}; reserve anew"


@dataclass(eq=False)
class ReservationOrdered(ReservationNotActive):
    """What a reservation held was ordered, by whoever came first."""

    order_id: str
    message = "reservation {reservation_id} is {state}: it became order {order_id}; read that"


# ----------------------------------------------------------------------------------------------------------- transfers
@dataclass(eq=False)
class TransferNotFound(Refusal):
    """No such transfer."""

    transfer_id: str
    reason = "TRANSFER_NOT_FOUND"
    kind = Kind.NOT_FOUND
    message = "transfer {transfer_id!r} is not known"


@dataclass(eq=False)
class TransferExceeded(Refusal):
    """More would be received than is on its way."""

    transfer_id: str
    sku: str
    in_transit: int
    received: int
    reason = "TRANSFER_EXCEEDED"
    kind = Kind.PRECONDITION
    message = "transfer {transfer_id} has {in_transit} of {sku} on its way, {received} were to be received"


# -------------------------------------------------------------------------------------------------- catalog and carts
@dataclass(eq=False)
class CurrencyUnknown(Refusal):
    """No active ISO 4217 currency has this code."""

    currency: str
    reason = "CURRENCY_UNKNOWN"
    kind = Kind.INVALID
    message = "{currency!r} is no active ISO 4217 currency code"


@dataclass(eq=False)
class AmountTooLarge(Refusal):
    """An amount of money, or the cost of a quantity, is beyond what is kept."""

    amount_minor: int
    amount_minor_max: int
    reason = "AMOUNT_TOO_LARGE"
    kind = Kind.INVALID
    message = "an amount of {amount_minor} minor units is more than the {amount_minor_max} that one may have"


@dataclass(eq=False)
class ProductExists(Refusal):
    """The sku of a new product is taken."""

    sku: str
    reason = "PRODUCT_EXISTS"
    kind = Kind.EXISTS
    message = "sku {sku!r} is in the catalog already; UpdateProduct changes it"


@dataclass(eq=False)
class BarcodeInvalid(Refusal):
    """The last digit of a GTIN does not follow from the others, or their number is none that a GTIN has."""

    gtin: str
    field: str
    reason = "BARCODE_INVALID"
    kind = Kind.INVALID
    message = "{field}: {gtin!r} is no GTIN: 8, 12, 13 or 14 digits, the last of which checks the others; scan it again"


@dataclass(eq=False)
class BarcodeTaken(Refusal):
    """A barcode names another sku already."""

    gtin: str
    sku: str
    reason = "BARCODE_TAKEN"
    kind = Kind.EXISTS
    message = "barcode {gtin} names sku {sku!r} already; take it from there first"


@dataclass(eq=False)
class BarcodeNotFound(Refusal):
    """No product has this barcode."""

    gtin: str
    reason = "BARCODE_NOT_FOUND"
    kind = Kind.NOT_FOUND
    message = "barcode {gtin} names no product; SetBarcodes makes it name one"


@dataclass(eq=False)
class PriceNotFound(Refusal):
    """A sku has no price in a currency, so it cannot be sold in it."""

    sku: str
    currency: str
    reason = "PRICE_NOT_FOUND"
    kind = Kind.PRECONDITION
    message = "sku {sku!r} has no price in {currency}; SetPrice gives it one"


@dataclass(eq=False)
class CartNotFound(Refusal):
    """No such cart."""

    cart_id: str
    reason = "CART_NOT_FOUND"
    kind = Kind.NOT_FOUND
    message = "cart {cart_id!r} is not known"


@dataclass(eq=False)
class OpenCartNotFound(Refusal):
    """A customer has no open cart."""

    customer_id: str
    reason = "OPEN_CART_NOT_FOUND"
    kind = Kind.NOT_FOUND
    message = "customer {customer_id!r} has no open cart; CreateCart makes one"


@dataclass(eq=False)
class CartExists(Refusal):
    """A customer has an open cart of another currency."""

    customer_id: str
    cart_id: str
    currency: str
    reason = "CART_EXISTS"
    kind = Kind.EXISTS
    message = "customer {customer_id!r} has an open cart {cart_id} in {currency}; a customer has one, in one currency"


@dataclass(eq=False)
class CartNotOpen(Refusal):
    """A cart that was ordered, or merged into another, cannot be changed or ordered any more."""

    cart_id: str
    state: str
    successor: str
    reason = "CART_NOT_OPEN"
    kind = Kind.PRECONDITION
    message = "cart {cart_id} is {state}, see {successor}; go on with an open cart"


@dataclass(eq=False)
class CartOrdered(CartNotOpen):
    """A cart was ordered, by whoever came first."""

    order_id: str
    message = "cart {cart_id} is {state}: it became order {order_id}; read that, or go on with an open cart"


@dataclass(eq=False)
class CartLocked(Refusal):
    """Somebody pays for a cart: until that has ended, or its reservation has, nobody else changes, claims or orders it."""

    cart_id: str
    order_id: str
    until: str
    reason = "CART_LOCKED"
    kind = Kind.PRECONDITION
    message = (
        "cart {cart_id} is being paid for, to become order {order_id}; wait for the outcome, until {until} at most"
    )


@dataclass(eq=False)
class CartOfAnotherCustomer(Refusal):
    """A cart belongs to another customer."""

    cart_id: str
    reason = "CART_OF_ANOTHER_CUSTOMER"
    kind = Kind.PRECONDITION
    message = "cart {cart_id} belongs to another customer"


@dataclass(eq=False)
class CartEmpty(Refusal):
    """A cart without lines cannot be ordered."""

    cart_id: str
    reason = "CART_EMPTY"
    kind = Kind.PRECONDITION
    message = "cart {cart_id} has no lines; add one first"


@dataclass(eq=False)
class CurrencyMismatch(Refusal):
    """Two amounts or carts that belong together have different currencies."""

    expected: str
    given: str
    reason = "CURRENCY_MISMATCH"
    kind = Kind.PRECONDITION
    message = "the currency is {expected} here, not {given}"


@dataclass(eq=False)
class CartFull(Refusal):
    """A cart would have more lines than a cart may have."""

    cart_id: str
    lines: int
    lines_max: int
    reason = "CART_FULL"
    kind = Kind.EXHAUSTED
    message = "cart {cart_id} would have {lines} lines, {lines_max} are the most"


@dataclass(eq=False)
class QuantityTooLarge(Refusal):
    """A line would hold more than a line may hold."""

    sku: str
    quantity: int
    quantity_max: int
    reason = "QUANTITY_TOO_LARGE"
    kind = Kind.PRECONDITION
    message = "a line would have {quantity} of {sku!r}, {quantity_max} are the most"


# --------------------------------------------------------------------------------------------------- orders, returns
@dataclass(eq=False)
class OrderNotFound(Refusal):
    """No such order."""

    order_id: str
    reason = "ORDER_NOT_FOUND"
    kind = Kind.NOT_FOUND
    message = "order {order_id!r} is not known; ListOrders finds one by its number or customer"


@dataclass(eq=False)
class OrderLineNotFound(Refusal):
    """An order has no line of this number."""

    order_id: str
    line_number: int
    reason = "ORDER_LINE_NOT_FOUND"
    kind = Kind.NOT_FOUND
    message = "order {order_id} has no line {line_number}"


@dataclass(eq=False)
class FulfillmentOrderNotFound(Refusal):
    """No such fulfillment order."""

    fulfillment_order_id: str
    reason = "FULFILLMENT_ORDER_NOT_FOUND"
    kind = Kind.NOT_FOUND
    message = "fulfillment order {fulfillment_order_id!r} is not known"


@dataclass(eq=False)
class ReturnNotFound(Refusal):
    """No such return."""

    return_id: str
    reason = "RETURN_NOT_FOUND"
    kind = Kind.NOT_FOUND
    message = "return {return_id!r} is not known"


@dataclass(eq=False)
class ReservationShort(InsufficientStock):
    """Possession took units that a reservation held. The reservation is as it was; nothing was ordered."""

    reason = "RESERVATION_SHORT"


@dataclass(eq=False)
class ShortfallNotFound(Refusal):
    """No such shortfall."""

    shortfall_id: str
    reason = "SHORTFALL_NOT_FOUND"
    kind = Kind.NOT_FOUND
    message = "shortfall {shortfall_id} does not exist; ListShortfalls has those that are open"


@dataclass(eq=False)
class ShortfallNotToDecide(Refusal):
    """A shortfall that must be counted first, that was decided, or that is over."""

    shortfall_id: str
    next_step: str
    reason = "SHORTFALL_NOT_TO_DECIDE"
    kind = Kind.PRECONDITION
    message = "the next step of shortfall {shortfall_id} is {next_step}: only CHOOSE can be decided; COUNT asks for CountStock"


@dataclass(eq=False)
class ReservationOfAnotherCustomer(Refusal):
    """A reservation was made for another customer."""

    reservation_id: str
    reason = "RESERVATION_OF_ANOTHER_CUSTOMER"
    kind = Kind.PRECONDITION
    message = "reservation {reservation_id} was made for another customer"


@dataclass(eq=False)
class FulfillmentChoiceMismatch(Refusal):
    """The locations that a customer chose pickup or shipping for are not those of the reservation."""

    reservation_id: str
    reserved: str
    chosen: str
    reason = "FULFILLMENT_CHOICE_MISMATCH"
    kind = Kind.INVALID
    message = "reservation {reservation_id} is at {reserved}, fulfillments were chosen for {chosen}; give one for each"


@dataclass(eq=False)
class FulfillmentNotOffered(Refusal):
    """A location does not hand over, or does not ship."""

    location_id: str
    fulfillment_kind: str
    reason = "FULFILLMENT_NOT_OFFERED"
    kind = Kind.PRECONDITION
    message = "location {location_id!r} does not offer {fulfillment_kind}"


@dataclass(eq=False)
class CartChanged(Refusal):
    """A cart does not hold what the reservation made from it holds."""

    cart_id: str
    sku: str
    in_cart: int
    reserved: int
    reason = "CART_CHANGED"
    kind = Kind.PRECONDITION
    message = (
        "cart {cart_id} holds {in_cart} of {sku}, the reservation {reserved}; "
        "change the reservation to what the cart holds"
    )


@dataclass(eq=False)
class CartTotalChanged(Refusal):
    """A cart costs something else than the customer agreed to."""

    cart_id: str
    expected_minor: int
    total_minor: int
    currency: str
    reason = "CART_CHANGED"
    kind = Kind.PRECONDITION
    message = (
        "cart {cart_id} costs {total_minor} minor units of {currency}, not {expected_minor}; show it to the customer"
    )


@dataclass(eq=False)
class TotalChanged(Refusal):
    """Prices of what is ordered without a cart changed since the customer agreed to a total."""

    expected_minor: int
    total_minor: int
    currency: str
    reason = "TOTAL_CHANGED"
    kind = Kind.PRECONDITION
    message = "the total is {total_minor} minor units of {currency}, not {expected_minor}; show it to the customer"


@dataclass(eq=False)
class TendersMismatch(Refusal):
    """What is tendered is not what the order costs."""

    tendered_minor: int
    total_minor: int
    currency: str
    reason = "TENDERS_MISMATCH"
    kind = Kind.PRECONDITION
    message = (
        "the tenders add up to {tendered_minor} minor units of {currency}, the total is {total_minor}; "
        "they must be equal, change deducted"
    )


@dataclass(eq=False)
class IllegalTransition(Refusal):
    """A step that the state of a fulfillment order does not allow."""

    fulfillment_order_id: str
    fulfillment_kind: str
    state: str
    step: str
    legal_steps: str
    reason = "ILLEGAL_TRANSITION"
    kind = Kind.PRECONDITION
    message = (
        "fulfillment order {fulfillment_order_id} ({fulfillment_kind}) is {state}: {step} is not possible now; "
        "possible: {legal_steps}"
    )


@dataclass(eq=False)
class PickupCodeWrong(Refusal):
    """The pickup code is another one."""

    fulfillment_order_id: str
    attempts_left: int
    reason = "PICKUP_CODE_WRONG"
    kind = Kind.PRECONDITION
    message = (
        "this is not the pickup code of fulfillment order {fulfillment_order_id}; {attempts_left} attempts are left"
    )


@dataclass(eq=False)
class PickupCodeLocked(Refusal):
    """The pickup code was given wrong too often; no code is accepted any more."""

    fulfillment_order_id: str
    failures: int
    reason = "PICKUP_CODE_LOCKED"
    kind = Kind.PRECONDITION
    message = (
        "the pickup code of fulfillment order {fulfillment_order_id} was given wrong {failures} times and is locked; "
        "customer support gives a new one with ResetPickupCode"
    )


@dataclass(eq=False)
class CancelExceeded(Refusal):
    """More units would be cancelled than can still be."""

    order_id: str
    line_number: int
    sku: str
    requested: int
    cancellable: int
    reason = "CANCEL_EXCEEDED"
    kind = Kind.PRECONDITION
    message = (
        "of {sku} in line {line_number} of order {order_id}, {cancellable} units can be cancelled, not {requested}; "
        "the others were cancelled, handed over or shipped: those come back by CreateReturn"
    )


@dataclass(eq=False)
class ReturnExceeded(Refusal):
    """More units would come back than the customer has."""

    order_id: str
    line_number: int
    sku: str
    requested: int
    bought: int
    fulfilled: int
    returned: int
    authorized: int = 0
    reason = "RETURN_EXCEEDED"
    kind = Kind.PRECONDITION
    message = (
        "{requested} of {sku} in line {line_number} of order {order_id} can not come back: "
        "{bought} were bought, {fulfilled} handed over or shipped, {returned} returned already, {authorized} announced"
    )
