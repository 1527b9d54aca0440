"""Operations of providers outside: asked for by a job, outside any transaction; their outcomes recorded once.

An operation is open from the commit that decides it until its outcome is recorded. Whatever crashes in between, the job asks
again under the operation's id: the provider acts once, and the outcome is recorded once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from onhand.crash import step
from onhand.domain.payment import CaptureAt, Operation, Outcome, Payment, Provider
from onhand.jobs import Jobs, NotYet, enqueue, hasten
from onhand.ledger.transaction import Transaction
from onhand.payments import store
from onhand.payments.providers import Asked, OutcomeUnknown, PaymentProvider, Said, ask
from onhand.postgres import Connection, Database

log = logging.getLogger(__name__)

SETTLE = "payment.settle"
"""The job. Its payload is the operation's id."""
RENEW = "payment.renew"
"""The job of onhand.payments.renewing. Its payload is the id of the operation that made an authorization."""
FINISH = "checkout.finish"
"""The job of onhand.orders.checkouts. Its payload is the order's id."""
FINISH_CHANGE = "checkout.finish_change"
"""The same, of a checkout that changes an order. A server from before there were such takes none of its jobs."""
FINISH_AFTER_SECONDS = 45.0
"""When that job looks after a checkout: later than any call that pays for one may take."""
AUTHORIZATION_SECONDS = 7 * 86400.0
"""How long an authorization holds where its provider does not say: Stripe's own bound for cards."""
RENEW_BEFORE_SECONDS = 86400.0
"""How long before its end an authorization is renewed: a day, for a provider that does not answer and for people."""
RENEW_PAUSE_SECONDS_MIN = 600.0
"""How long an authorization is left alone at least, however soon its provider says that it ends."""
RENEW_AGAIN_SECONDS = 6 * 3600.0
"""When a renewal that was declined is tried again, while the authorization still holds."""

# An operation waits for those of its tender that were asked for before it.
# It is of the authorization that it names, or of the one before where that is a renewal that was declined.
READ_OPERATION = """
SELECT p.operation_id, p.order_id, p.tender_number, p.kind, p.amount_minor, p.currency, p.reason_code, p.reference_document,
       p.actor, p.authorization_id, t.capture_at, t.provider, t.payment_method,
       t.amount_minor AS tender_minor, t.authorized_minor, t.captured_minor, t.voided_minor,
       t.refunded_minor, t.is_declined, u.outcome,
       (SELECT (SELECT b.provider_reference FROM payment_outcomes b WHERE b.operation_id = a.operation_id)
          FROM payment_operations a
         WHERE a.order_id = p.order_id AND a.tender_number = p.tender_number AND a.kind IN ('AUTHORIZE', 'RENEW')
           AND (SELECT b.outcome FROM payment_outcomes b WHERE b.operation_id = a.operation_id) = 'SUCCEEDED'
           AND a.operation_number < p.operation_number
           AND a.operation_number <= coalesce(
               (SELECT n.operation_number FROM payment_operations n WHERE n.operation_id = p.authorization_id), p.operation_number)
         ORDER BY a.operation_number DESC LIMIT 1) AS authorization_reference,
       EXISTS (SELECT FROM payment_operations e
                WHERE e.order_id = p.order_id AND e.tender_number = p.tender_number AND e.operation_number < p.operation_number
                  AND NOT EXISTS (SELECT FROM payment_outcomes v WHERE v.operation_id = e.operation_id)) AS is_behind
  FROM payment_operations p JOIN tenders t USING (order_id, tender_number)
  LEFT JOIN payment_outcomes u USING (operation_id)
 WHERE p.operation_id = $1"""
# Of one that has its outcome nothing is changed.
RECORD = """
WITH outcome AS (
    INSERT INTO payment_outcomes (operation_id, outcome, provider_reference, detail) VALUES ($1, $2, $3, $4)
    ON CONFLICT DO NOTHING RETURNING operation_id)
UPDATE tenders t
   SET authorized_minor = t.authorized_minor + CASE WHEN p.kind = 'AUTHORIZE' AND $2 = 'SUCCEEDED' THEN p.amount_minor ELSE 0 END,
       captured_minor = t.captured_minor + CASE WHEN p.kind = 'CAPTURE' AND $2 = 'SUCCEEDED' THEN p.amount_minor ELSE 0 END,
       voided_minor = t.voided_minor + CASE WHEN p.kind = 'VOID' AND $2 = 'SUCCEEDED' THEN p.amount_minor ELSE 0 END,
       refunded_minor = t.refunded_minor + CASE WHEN p.kind = 'REFUND' AND $2 = 'SUCCEEDED' THEN p.amount_minor ELSE 0 END,
       is_declined = t.is_declined OR p.kind = 'AUTHORIZE' AND $2 = 'DECLINED',
       authorization_expires_time = CASE WHEN p.kind IN ('AUTHORIZE', 'RENEW') AND $2 = 'SUCCEEDED'
                                         THEN coalesce($5, now() + $6) ELSE t.authorization_expires_time END,
       is_renewal_declined = CASE p.kind WHEN 'RENEW' THEN $2 = 'DECLINED' ELSE t.is_renewal_declined END
  FROM outcome JOIN payment_operations p USING (operation_id)
 WHERE (t.order_id, t.tender_number) = (p.order_id, p.tender_number)
RETURNING t.authorization_expires_time, extract(epoch FROM t.authorization_expires_time - now())::float8 AS seconds_left,
       (SELECT n.operation_id FROM payment_operations n
         WHERE n.order_id = p.order_id AND n.tender_number = p.tender_number AND n.operation_number > p.operation_number
           AND NOT EXISTS (SELECT FROM payment_outcomes v WHERE v.operation_id = n.operation_id)
         ORDER BY n.operation_number LIMIT 1) AS behind_id"""


async def settle_later(connection: Connection, operation_id: UUID) -> None:
    """Has an operation asked for once this transaction is committed."""
    await enqueue(connection, SETTLE, {"operation_id": str(operation_id)}, key=f"{SETTLE}/{operation_id}")


async def _go_on(connection: Connection, operation_id: UUID, after_id: UUID) -> None:
    """As `settle_later`, of one that waited for another: its job waits ever longer, or is held by now."""
    if not await hasten(connection, f"{SETTLE}/{operation_id}"):
        key = f"{SETTLE}/{operation_id}/after/{after_id}"
        await enqueue(connection, SETTLE, {"operation_id": str(operation_id)}, key=key)


async def renew_later(
    connection: Connection, operation_id: UUID, after_seconds: float, declined_id: UUID | None = None
) -> None:
    """Has the authorization that an operation made renewed, if it is still needed then; anew, after a declined renewal.

    The job that asked for the declined one may not be ended yet: hence another key.
    """
    await enqueue(
        connection,
        RENEW,
        {"operation_id": str(operation_id)},
        after_seconds=max(RENEW_PAUSE_SECONDS_MIN, after_seconds),
        key=f"{RENEW}/{operation_id}" + (f"/{declined_id}" if declined_id else ""),
    )


class Settling:
    """Asks providers, and writes down what they said."""

    def __init__(self, database: Database, jobs: Jobs, providers: Mapping[Provider, PaymentProvider]) -> None:
        self._database = database
        self._providers = providers
        jobs.register(SETTLE, self._settle)

    def has(self, provider: Provider) -> bool:
        """Whether this provider was configured."""
        return provider in self._providers

    async def _settle(self, payload: Mapping[str, Any], attempts: int) -> None:
        await self.settle(UUID(payload["operation_id"]), is_repeat=attempts > 0)

    async def settle(self, operation_id: UUID, *, is_repeat: bool = True) -> Outcome:
        """Brings an operation to its outcome. Raises NotYet."""
        row = await self._read(operation_id)
        if row["outcome"] is not None:
            return Outcome(row["outcome"])
        if row["is_behind"]:
            raise NotYet("an earlier operation of the same payment is open")
        asked, provider = _asked(row), self._providers.get(Provider(row["provider"]))
        if provider is None:
            raise NotYet(f"{row['provider']} is not configured in this process")
        said = _refused_here(row, asked)
        if said is None:
            try:
                said = (await self._look_up(provider, asked) if is_repeat else None) or await self._ask(provider, asked)
            except OutcomeUnknown as error:
                raise NotYet(f"{asked.kind.value} {operation_id} is not known: {error}") from error
        await self.record(operation_id, said, row)
        return said.outcome

    @step("ledger.read_operation")
    async def _read(self, operation_id: UUID) -> Any:
        async with self._database.connection() as connection:
            return await connection.fetchrow(READ_OPERATION, operation_id)

    @step("provider.ask", model=("authorize", "void"))
    async def _ask(self, provider: PaymentProvider, asked: Asked) -> Said:
        return await ask(provider, asked)

    @step("provider.look_up")
    async def _look_up(self, provider: PaymentProvider, asked: Asked) -> Said | None:
        return await provider.look_up(asked)

    @step("ledger.record_outcome")
    async def record(self, operation_id: UUID, said: Said, row: Any) -> None:
        """Writes an outcome down, with the event that tells of it; nothing, where it has one."""
        async with self._database.transaction() as connection:
            reference, detail = said.reference[:256], said.detail[:500]
            recorded = await connection.fetchrow(
                *(RECORD, operation_id, said.outcome.value, reference, detail, said.expires_time),
                timedelta(seconds=AUTHORIZATION_SECONDS),
            )
            if recorded is None:
                return
            if recorded["behind_id"] is not None:
                await _go_on(connection, recorded["behind_id"], operation_id)
            tx = Transaction(connection)
            expires = await _follow(connection, operation_id, said.outcome, row, recorded)
            if row["kind"] == Operation.VOID.value and not row["authorized_minor"]:
                return  # its authorization was declined, which was told: there is nothing to void, and nothing to do for anybody
            what = _TOLD[Operation(row["kind"])] if said.outcome is Outcome.SUCCEEDED else "declined"
            tx.emit(
                f"onhand.payment.{what}.v1",
                f"order/{row['order_id']}",
                {
                    "order_id": str(row["order_id"]),
                    "tender_number": row["tender_number"],
                    "operation_id": str(operation_id),
                    "kind": row["kind"],
                    "amount_minor": row["amount_minor"],
                    "currency": row["currency"],
                    "reason_code": row["reason_code"],
                    "reference_document": row["reference_document"],
                    "detail": detail,
                    **({"authorization_expires_time": expires.isoformat()} if expires else {}),
                },
            )
            await tx.finish()


_TOLD = {
    Operation.AUTHORIZE: "authorized",
    Operation.CAPTURE: "captured",
    Operation.VOID: "voided",
    Operation.REFUND: "refunded",
    Operation.RENEW: "renewed",
    Operation.RELEASE: "released",
}


async def _follow(
    connection: Connection, operation_id: UUID, outcome: Outcome, row: Any, recorded: Any
) -> datetime | None:
    """What follows from an authorization, and when it ends: it is renewed before that; one that it renewed is freed."""
    kind = Operation(row["kind"])
    if kind not in (Operation.AUTHORIZE, Operation.RENEW) or row["capture_at"] != CaptureAt.FULFILLMENT.value:
        return None
    expires: datetime | None = recorded["authorization_expires_time"]
    if outcome is Outcome.SUCCEEDED:
        await renew_later(connection, operation_id, recorded["seconds_left"] - RENEW_BEFORE_SECONDS)
        if kind is Operation.RENEW:
            old = store.operation(
                row["tender_number"],
                Operation.RELEASE,
                row["amount_minor"],
                is_done=False,
                authorization_id=row["authorization_id"],
            )
            await store.book(
                connection,
                row["order_id"],
                [old],
                currency=row["currency"],
                reason_code=row["reason_code"],
                reference_document=row["reference_document"],
                actor=row["actor"],
            )
            await settle_later(connection, old.operation_id)
    elif kind is Operation.RENEW and recorded["seconds_left"] > RENEW_AGAIN_SECONDS:
        await renew_later(connection, row["authorization_id"], RENEW_AGAIN_SECONDS, operation_id)
    return expires


def _payment(row: Any) -> Payment:
    return Payment(
        row["tender_minor"],
        row["authorized_minor"],
        row["captured_minor"],
        row["voided_minor"],
        row["refunded_minor"],
        row["is_declined"],
    )


def _asked(row: Any) -> Asked:
    return Asked(
        row["operation_id"],
        Operation(row["kind"]),
        row["amount_minor"],
        row["currency"],
        row["order_id"],
        row["tender_number"],
        row["payment_method"],
        row["authorization_reference"] or "",
        row["amount_minor"] == _payment(row).capturable_minor,
        row["capture_at"] == CaptureAt.FULFILLMENT.value,
    )


def _refused_here(row: Any, asked: Asked) -> Said | None:
    """A no that needs nobody to be asked: what the operation is of was declined itself."""
    payment = _payment(row)
    room = {
        Operation.AUTHORIZE: asked.amount_minor,
        # Of money that is set aside already: what moved of it meanwhile is left out, or freed.
        Operation.RENEW: asked.amount_minor,
        Operation.RELEASE: asked.amount_minor,
        Operation.CAPTURE: payment.capturable_minor,
        Operation.VOID: payment.capturable_minor,
        Operation.REFUND: payment.refundable_minor,
    }[asked.kind]
    if asked.amount_minor <= room:
        return None
    return Said(Outcome.DECLINED, "", f"{room} minor units are there, not {asked.amount_minor}")
