"""What comes back: what it gives back of what was paid, and what the retailer's policy has to say.

Times are aware datetimes; amounts are minor units of the currency that the goods were paid in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum

from onhand.domain import money
from onhand.domain.errors import Refusal, ReturnExceeded
from onhand.domain.return_errors import (
    BlindRefundNotAllowed,
    BlindReturnLimit,
    FinalSale,
    Overridable,
    ReturnWindowPassed,
)

TO_SUPPLIER = "supplier"
"""The disposition of units that wait in `quarantine` for their supplier."""


# ------------------------------------------------------------------------------------------------------------- refunds
def refund(*, total_minor: int, quantity: int, given_back: int, now: int) -> int:
    """What `now` units give back of a line of `quantity` units that cost `total_minor`, `given_back` units before them.

    Each unit's share, in minor units. The share of the first n units is rounded once, and these units get what it grows
    by: so the refunds of any sequence of returns and cancellations are at most half a minor unit away from pro rata at
    every point, never add up to more than was paid, and to exactly that when every unit is back.
    """
    if not 0 <= given_back <= given_back + now <= quantity or quantity < 1 or total_minor < 0:
        raise ValueError(f"{now} after {given_back} of {quantity} units for {total_minor}")
    return _share(total_minor, given_back + now, quantity) - _share(total_minor, given_back, quantity)


def _share(total_minor: int, units: int, quantity: int) -> int:
    """The share of `units` units, half a minor unit rounded up: whole for all of them, and never falling."""
    return (2 * total_minor * units + quantity) // (2 * quantity)


def lowest_refund(prices: Iterable[tuple[int, int]], quantity: int) -> int | None:
    """What `quantity` units cost at the lowest of (amount_minor, price_quantity) prices; None without any."""
    totals = [money.line_total(amount_minor, price_quantity, quantity) for amount_minor, price_quantity in prices]
    return min(totals, default=None)


def check_returnable(
    *,
    order_id: str,
    line_number: int,
    sku: str,
    bought: int,
    fulfilled: int,
    returned: int,
    now: int,
    authorized: int = 0,
) -> None:
    """Only what the customer got, has not returned yet and may not send back already can come back. Raises `ReturnExceeded`."""
    if returned + authorized + now > fulfilled:
        raise ReturnExceeded(order_id, line_number, sku, now, bought, fulfilled, returned, authorized)


# -------------------------------------------------------------------------------------------------------------- policy
@dataclass(frozen=True)
class BlindPolicy:
    """What is taken back without a proof that it was sold here. Amounts are minor units of whatever currency is refunded."""

    returns_per_day_max: int = 2
    """By one customer, in a day of the store's own time zone."""
    amount_minor_max: int = 5_000
    """Of one return."""
    amount_per_day_minor_max: int = 10_000
    price_days: int = 30
    """For how long a price that is not asked any more, or a sale, counts as recent."""
    refunds: tuple[str, ...] = ("STORE_CREDIT",)
    """STORE_CREDIT (a gift card), CASH."""


@dataclass(frozen=True)
class SignalPolicy:
    """From where on returns are worth a look. Nothing is refused for it."""

    days: int = 30
    """Over how long returns are counted."""
    returns_max: int = 5
    """By one customer."""
    receiptless_percent_max: int = 20
    """Of the returns of one customer, or of one actor who takes them back."""
    receiptless_returns_min: int = 3
    """So many without a proof make a rate of it."""


@dataclass(frozen=True)
class ReturnPolicy:
    """What a retailer takes back. `window_days` None: for ever."""

    name: str = "standard"
    window_days: int | None = 90
    department_window_days: Mapping[str, int] = field(default_factory=dict)
    final_sale_skus: frozenset[str] = frozenset()
    final_sale_departments: frozenset[str] = frozenset()
    authorization_days: int = 30
    """How long goods that are announced may be on their way."""
    blind: BlindPolicy = BlindPolicy()
    signals: SignalPolicy = SignalPolicy()

    def is_final_sale(self, sku: str, department: str) -> bool:
        """Whether it was sold for good."""
        return sku in self.final_sale_skus or department in self.final_sale_departments

    def window_end(self, department: str, fulfilled_time: datetime) -> datetime | None:
        """The last moment at which it may come back; None: there is none."""
        days = self.window_of(department)
        return None if days is None else fulfilled_time + timedelta(days=days)

    def window_of(self, department: str) -> int | None:
        """How many days it may be with the customer."""
        return self.department_window_days.get(department, self.window_days)


@dataclass(frozen=True)
class Fulfilled:
    """What the policy asks of an order line: `fulfilled_time` is of the last of its units; None while there is none."""

    line_number: int
    sku: str
    department: str
    fulfilled_time: datetime | None
    authorized: int = 0
    """Units of it that somebody announced, and that may still come."""


def policy_refusals(
    policy: ReturnPolicy, order_id: str, lines: Iterable[Fulfilled], now: datetime
) -> list[Overridable]:
    """Why the policy takes units of these lines not back, each once, in order of lines."""
    refusals: list[Overridable] = []
    for line in lines:
        if policy.is_final_sale(line.sku, line.department):
            refusals.append(FinalSale(line.sku))
        days = policy.window_of(line.department)
        if days is None or line.fulfilled_time is None:
            continue
        if now > line.fulfilled_time + timedelta(days=days):
            at = line.fulfilled_time.isoformat(timespec="seconds")
            refusals.append(ReturnWindowPassed(order_id, line.line_number, line.sku, at, days))
    return refusals


# ------------------------------------------------------------------------------------------------------------- signals
class Subject(Enum):
    """Whose returns are counted."""

    CUSTOMER = "CUSTOMER"
    ACTOR = "ACTOR"
    """Who takes them back."""


class SignalKind(Enum):
    """What is worth a look."""

    REPEATED_RETURNS = "REPEATED_RETURNS"
    """`value` returns, within the policy's days."""
    RECEIPTLESS_RATE = "RECEIPTLESS_RATE"
    """`value` percent of them without a proof."""


@dataclass(frozen=True)
class Counted:
    """The recent returns of somebody, this one among them."""

    subject: Subject
    name: str
    returns: int
    receiptless: int


@dataclass(frozen=True)
class Signal:
    """What is beyond what the policy allows."""

    kind: SignalKind
    subject: Subject
    name: str
    value: int
    allowed: int


def signals(policy: SignalPolicy, counted: Iterable[Counted]) -> list[Signal]:
    """What these counts are worth a look for."""
    found = []
    for each in counted:
        if each.subject is Subject.CUSTOMER and each.returns > policy.returns_max:
            found.append(Signal(SignalKind.REPEATED_RETURNS, each.subject, each.name, each.returns, policy.returns_max))
        percent = 100 * each.receiptless // max(1, each.returns)
        if each.receiptless >= policy.receiptless_returns_min and percent > policy.receiptless_percent_max:
            allowed = policy.receiptless_percent_max
            found.append(Signal(SignalKind.RECEIPTLESS_RATE, each.subject, each.name, percent, allowed))
    return found


# --------------------------------------------------------------------------------------------------------------- blind
def blind_refusals(
    policy: BlindPolicy, customer_id: str, *, refund_kind: str, refund_minor: int, day_returns: int, day_minor: int
) -> list[Overridable]:
    """Why nothing is refunded without a proof: `day_returns` and `day_minor` are the customer's of the day, this among them."""
    refusals: list[Overridable] = []
    for limit, value, allowed in (
        ("returns of a day", day_returns, policy.returns_per_day_max),
        ("minor units of a return", refund_minor, policy.amount_minor_max),
        ("minor units of a day", day_minor, policy.amount_per_day_minor_max),
    ):
        if value > allowed:
            refusals.append(BlindReturnLimit(limit, value, allowed, customer_id))
    if refund_kind not in policy.refunds:
        refusals.append(BlindRefundNotAllowed(refund_kind, ", ".join(policy.refunds)))
    return refusals


def overridden(refusals: Sequence[Refusal], *, is_overridden: bool) -> list[str]:
    """The reasons that a manager lets pass, each once. Raises the first refusal if nobody does."""
    if refusals and not is_overridden:
        raise refusals[0]
    return list(dict.fromkeys(refusal.reason for refusal in refusals))
