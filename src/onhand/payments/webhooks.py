"""What gateways post. It says which payment to look at, and nothing of it is taken for what has happened."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from onhand.caller import Caller
from onhand.domain.errors import invalid
from onhand.domain.payment import Provider
from onhand.domain.payment_errors import ProviderNotConfigured
from onhand.jobs import enqueue
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.payments.providers import PaymentProvider
from onhand.payments.settling import FINISH, FINISH_AFTER_SECONDS, FINISH_CHANGE, SETTLE
from onhand.v1 import payment_pb2 as pb

OPEN_OF_TENDER = """
SELECT p.operation_id FROM payment_operations p
 WHERE p.order_id = $1 AND p.tender_number = $2
   AND NOT EXISTS (SELECT FROM payment_outcomes u WHERE u.operation_id = p.operation_id) ORDER BY p.operation_number"""

# The state is asked for so that the index of pending checkouts does not serve.
PAYS_FOR = """
SELECT c.order_id, c.change_of FROM checkouts c
 WHERE c.order_id = coalesce((SELECT t.change_id FROM tenders t WHERE t.order_id = $1 AND t.tender_number = $2), $1)
   AND coalesce(c.state, '') = 'PENDING'"""


class Webhooks:
    """PaymentService.HandleWebhook."""

    def __init__(self, ledger: Ledger, providers: Mapping[Provider, PaymentProvider]) -> None:
        self._ledger = ledger
        self._providers = providers

    async def handle_webhook(self, request: pb.HandleWebhookRequest, caller: Caller) -> pb.HandleWebhookResponse:
        """Has the open operations of the payment that it is about looked at now."""
        name = pb.PaymentProvider.Name(request.provider) if request.provider in pb.PaymentProvider.values() else ""
        try:
            kind = Provider(name.removeprefix("PAYMENT_PROVIDER_"))
        except ValueError:
            raise invalid("provider", "must be a provider") from None
        provider = self._providers.get(kind)
        if provider is None:
            raise ProviderNotConfigured(kind.value)
        found = provider.read_webhook(request.body, request.signature)

        async def work(tx: Transaction) -> pb.HandleWebhookResponse:
            if found:
                await _look_at(tx, *found)
            return pb.HandleWebhookResponse()

        return await self._ledger.mutate(request, pb.HandleWebhookResponse, work)


async def _look_at(tx: Transaction, order_id: UUID, tender_number: int) -> None:
    for row in await tx.connection.fetch(OPEN_OF_TENDER, order_id, tender_number):
        operation_id = str(row["operation_id"])
        # Beside the job that waits for its next try, of which there is one.
        await enqueue(tx.connection, SETTLE, {"operation_id": operation_id}, key=f"{SETTLE}/hint/{operation_id}")
    if checkout := await tx.connection.fetchrow(PAYS_FOR, order_id, tender_number):
        # Nor does what is authorized wait for ever to be an order, or more of one, or void.
        await enqueue(
            tx.connection,
            FINISH if checkout["change_of"] is None else FINISH_CHANGE,
            {"order_id": str(checkout["order_id"])},
            after_seconds=FINISH_AFTER_SECONDS,
            key=f"{FINISH}/hint/{checkout['order_id']}",
        )
