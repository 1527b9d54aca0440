"""Refusals of sourcing, and of what locations take on in a day: see onhand.domain.errors."""

from __future__ import annotations

from dataclasses import dataclass

from onhand.domain.errors import Kind, Refusal
from onhand.domain.sourcing import Unsourced


@dataclass(eq=False)
class ResourcingNotOffered(Refusal):
    """Nobody may and can take over what is short, by the policy."""

    shortfall_id: str
    sku: str
    quantity: int
    policy: str
    reason = "RESOURCING_NOT_OFFERED"
    kind = Kind.PRECONDITION
    message = (
        "by policy {policy!r} nobody brings {quantity} of {sku} for shortfall {shortfall_id}: give location_id "
        "(ListShortfallAlternatives), or another kind, or CancelOrderLines"
    )


@dataclass(eq=False)
class NotSourced(Refusal):
    """Lines that no plan brings; nothing was reserved."""

    policy: str
    unsourced: tuple[Unsourced, ...]
    reason = "NOT_SOURCED"
    kind = Kind.PRECONDITION

    def __str__(self) -> str:
        lines = "; ".join(f"{u.quantity} of {u.sku} ({u.held_quantity} are there)" for u in self.unsourced)
        return (
            f"by policy {self.policy!r} nobody brings {lines}: ask for less, allow a part (accepts_partial), "
            "or see why in PreviewSourcing"
        )

    def metadata(self) -> dict[str, str]:
        """The first line; all of them are violations of the precondition."""
        first = self.unsourced[0]
        return {
            "policy": self.policy,
            "sku": first.sku,
            "quantity": str(first.quantity),
            "held_quantity": str(first.held_quantity),
            "unsourced_lines": str(len(self.unsourced)),
        }


@dataclass(eq=False)
class LocationAtCapacity(Refusal):
    """A location takes on no more of today's work. `capacity`: orders or units; `next_day_time`: when its next day begins."""

    location_id: str
    capacity: str
    daily_max: int
    taken: int
    requested: int
    next_day_time: str
    reason = "LOCATION_AT_CAPACITY"
    kind = Kind.PRECONDITION
    message = (
        "location {location_id!r} takes on {daily_max} {capacity} a day and has {taken} of today: {requested} more are too many; "
        "have another location bring it, or ask again after {next_day_time}"
    )
