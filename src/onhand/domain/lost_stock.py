"""What becomes of a paid order whose units somebody walked out with while its customer paid: the retailer's policy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from onhand.domain.shortage import ShortfallStep


class Otherwise(Enum):
    """What is done where nobody else brings what is missing."""

    BACKORDER = "backorder"
    """It is ordered all the same, and waits for what comes in next."""
    VOID = "void"
    """Nothing is ordered, or what was is cancelled: the customer pays nothing for it."""


@dataclass(frozen=True)
class LostStockPolicy:
    """`is_resourced`: another location is looked for first."""

    is_resourced: bool = False
    otherwise: Otherwise = Otherwise.VOID

    @property
    def is_placed(self) -> bool:
        """Whether an order of which units are missing is placed."""
        return self.is_resourced or self.otherwise is Otherwise.BACKORDER

    @property
    def first_step(self) -> ShortfallStep:
        """What is to be done about the missing units of a placed order."""
        return ShortfallStep.CHOOSE if self.is_resourced else ShortfallStep.WAIT

    def __str__(self) -> str:
        return f"{'resource,' if self.is_resourced else ''}{self.otherwise.value}"


POLICIES = {str(policy): policy for policy in (LostStockPolicy(r, o) for r in (True, False) for o in Otherwise)}
"""All there are, by what a setting says."""
