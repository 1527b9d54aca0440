"""What is asked of whoever moves money outside the ledger.

Every call may be made again, after a crash or a time-out: the operation's id is the key by which a provider knows it, and does
it once. What is not known for certain is `OutcomeUnknown`, and never taken for a no.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from onhand.domain.payment import Operation, Outcome


@dataclass(frozen=True)
class Asked:
    """One operation. `authorization`: what the provider called the authorization that it is of; empty for that itself.

    `is_last`: of captures, that nothing more of the authorization will be captured. `is_kept`: of authorizations, that the goods
    leave later, so that it may have to be renewed with nobody there to be asked.
    """

    operation_id: UUID
    kind: Operation
    amount_minor: int
    currency: str
    order_id: UUID
    tender_number: int
    payment_method: str = ""
    authorization: str = ""
    is_last: bool = True
    is_kept: bool = False


@dataclass(frozen=True)
class Said:
    """What became of it, for certain. `reference`: what the provider calls it; `detail`: why it said no.

    `expires_time`: of authorizations, when it ends, where the provider says so.
    """

    outcome: Outcome
    reference: str = ""
    detail: str = ""
    expires_time: datetime | None = None


class OutcomeUnknown(Exception):
    """The provider may have acted, or not: it did not answer, or could not say."""


class PaymentProvider(Protocol):
    """A gateway. All but `look_up` act once for an operation's id. Each may raise OutcomeUnknown."""

    async def authorize(self, asked: Asked) -> Said:
        """Sets the amount aside."""

    async def renew(self, asked: Asked) -> Said:
        """Sets the amount aside anew, by the means of `authorization`, which stays as it is."""

    async def capture(self, asked: Asked) -> Said:
        """Takes the amount of what is set aside."""

    async def void(self, asked: Asked) -> Said:
        """Frees all that is set aside and not captured."""

    async def refund(self, asked: Asked) -> Said:
        """Gives the amount back."""

    async def look_up(self, asked: Asked) -> Said | None:
        """What became of an operation that was asked before; None where the provider knows nothing of it."""

    async def close(self) -> None:
        """Ends the connections."""

    def read_webhook(self, body: bytes, signature: str) -> tuple[UUID, int] | None:
        """The payment (order_id, tender_number) that a webhook is about, if it is one of ours. Raises WebhookSignatureWrong."""


async def ask(provider: PaymentProvider, asked: Asked) -> Said:
    """Asks for an operation of any kind."""
    if asked.kind is Operation.AUTHORIZE:
        return await provider.authorize(asked)
    if asked.kind is Operation.RENEW:
        return await provider.renew(asked)
    if asked.kind is Operation.CAPTURE:
        return await provider.capture(asked)
    if asked.kind in (Operation.VOID, Operation.RELEASE):
        return await provider.void(asked)
    return await provider.refund(asked)
