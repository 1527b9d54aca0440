"""What units that are cancelled or come back give back of what was paid for their line."""

from __future__ import annotations

from onhand.domain.errors import ReturnExceeded


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


def check_returnable(
    *, order_id: str, line_number: int, sku: str, bought: int, fulfilled: int, returned: int, now: int
) -> None:
    """Only what the customer got and has not returned yet can come back. Raises `ReturnExceeded`."""
    if returned + now > fulfilled:
        raise ReturnExceeded(order_id, line_number, sku, now, bought, fulfilled, returned)
