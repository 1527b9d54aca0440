"""Refusals of sourcing, and of what locations take on in a day: see onhand.domain.errors."""

from __future__ import annotations

from dataclasses import dataclass

from onhand.domain.errors import Kind, Refusal


@dataclass(eq=False)
class ResourcingNotOffered(Refusal):
    """No location may and can take over what is short, by the policy."""

    shortfall_id: str
    sku: str
    quantity: int
    policy: str
    reason = "RESOURCING_NOT_OFFERED"
    kind = Kind.PRECONDITION
    message = (
        "by policy {policy!r} no location brings {quantity} of {sku} for shortfall {shortfall_id}: give location_id "
        "(ListShortfallAlternatives), or another kind, or CancelOrderLines"
    )
