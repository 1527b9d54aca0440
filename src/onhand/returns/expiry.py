"""What the end of a return authorization's time brings: its row says so, and an event, once. A job, deferred to that moment.

Nobody has to be awake for the units to be free: wherever they are counted, the time is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from onhand.crash import step
from onhand.domain.return_authorization import OPEN, AuthorizationState
from onhand.jobs import Jobs, NotYet, enqueue
from onhand.ledger.transaction import Transaction
from onhand.orders import store
from onhand.postgres import Connection, Database
from onhand.returns import authorizations

EXPIRE = "return.expire"
"""The job. Its payload is the authorization's id."""
DAY_SECONDS = 24 * 3600.0


async def expire_later(connection: Connection, authorization_id: UUID, days: int) -> None:
    """Has the end of its time told of, once that has come."""
    payload = {"return_authorization_id": str(authorization_id)}
    await enqueue(connection, EXPIRE, payload, after_seconds=days * DAY_SECONDS, key=f"{EXPIRE}/{authorization_id}")


class Expiring:
    """Ends authorizations whose time is over."""

    def __init__(self, database: Database, jobs: Jobs) -> None:
        self._database = database
        jobs.register(EXPIRE, self._expire)

    @step("ledger.expire_return")
    async def _expire(self, payload: Mapping[str, Any], attempts: int) -> None:
        authorization_id = UUID(payload["return_authorization_id"])
        async with self._database.transaction() as connection:
            await store.lock_order(connection, await authorizations.order_of(connection, authorization_id))
            authorization = await authorizations.locked(connection, authorization_id)
            if authorization.state in OPEN:
                raise NotYet(
                    f"return authorization {authorization_id} ends at {authorization.expires_time.isoformat()}"
                )
            if authorization.stored not in OPEN:
                return  # all came, nothing is awaited, or it was told
            await authorizations.set_state(connection, authorization, AuthorizationState.EXPIRED)
            expired = await authorizations.read(connection, authorization_id)
            tx = Transaction(connection)
            tx.emit(
                "onhand.return.authorization_expired.v1",
                f"return_authorization/{authorization_id}",
                {
                    "return_authorization_id": str(authorization_id),
                    "rma_number": expired.rma_number,
                    "order_id": expired.order_id,
                    "order_number": expired.order_number,
                    "customer_id": expired.customer_id,
                    "lines": [
                        {"line_number": line.line_number, "sku": line.sku, "quantity": line.left}
                        for line in authorization.lines.values()
                        if line.left
                    ],
                },
            )
            await tx.finish()
