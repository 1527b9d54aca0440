"""Claims as the ledger sees them, and what must reach the gate when they are closed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID

Lines = list[tuple[str, int]]


class ClaimRefused(Exception):
    """The ledger refused a claim for certain: its epoch is not the ledger's, or it was closed. Claim anew."""


class Claim(NamedTuple):
    """Units taken in the gate under an id, and the epoch that the gate had then."""

    location_id: str
    claim_id: UUID
    epoch: int
    lines: Lines
    channel: str | None = None


@dataclass(frozen=True)
class ConfirmedClaim:
    """What a reservation held at one location, now promised to an order."""

    location_id: str
    claim_id: UUID
    lines: Lines
    channel: str
    customer_id: str


@dataclass
class Settlement:
    """What the gate of one location must hear after a commit, made under `epoch`.

    `number` is the last delta; `give_back` and `forget` are closed claims. Until the increases in it are applied under
    that epoch or a later one, the mutation is not answered.
    """

    location_id: str
    epoch: int = 0
    number: int = 0
    give_back: list[UUID] = field(default_factory=list)
    forget: list[UUID] = field(default_factory=list)

    @property
    def raises_atp(self) -> bool:
        """Whether a reader could miss something until this is settled."""
        return bool(self.number or self.give_back)

    def to_json(self) -> dict[str, Any]:
        """What a repeat must make sure of."""
        return {
            "location_id": self.location_id,
            "epoch": self.epoch,
            "number": self.number,
            "give_back": [str(c) for c in self.give_back],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Settlement:
        """The inverse of `to_json`."""
        return cls(value["location_id"], value["epoch"], value["number"], [UUID(c) for c in value["give_back"]])
