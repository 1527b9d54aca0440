"""Authorizations that end before the goods leave: set aside anew a day before, by a job, and the first one freed then.

A renewal is an operation like any other: asked for under its id, recorded once. Captures, voids and refunds that are asked for
meanwhile wait for it, and are of whichever authorization is the newest then, so nothing is captured twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from onhand.caller import ITSELF
from onhand.crash import step
from onhand.domain.payment import Operation
from onhand.jobs import Jobs, NotYet
from onhand.payments import store
from onhand.payments.settling import RENEW, settle_later
from onhand.postgres import Database

REASON = "AUTHORIZATION_ENDS"

RENEWED = """
SELECT p.order_id, p.tender_number, p.currency, p.reference_document, t.change_id
  FROM payment_operations p JOIN tenders t USING (order_id, tender_number) WHERE p.operation_id = $1"""
# Under the lock of its tender: whether it is still the newest authorization, and nobody is renewing it.
IS_NEWEST = """
SELECT count(*) = 0 FROM payment_operations a
 WHERE a.order_id = $1 AND a.tender_number = $2 AND a.kind IN ('AUTHORIZE', 'RENEW')
   AND a.operation_number > (SELECT operation_number FROM payment_operations WHERE operation_id = $3)
   AND coalesce((SELECT u.outcome FROM payment_outcomes u WHERE u.operation_id = a.operation_id), '') <> 'DECLINED'"""

# Of an order that is placed; what is left of its money when nothing is left to leave, nobody will capture.
WAITS_FOR_GOODS = """
SELECT coalesce(bool_or(quantity > fulfilled_quantity + cancelled_quantity), true) FROM order_lines WHERE order_id = $1"""


class Renewing:
    """Renews what has to be."""

    def __init__(self, database: Database, jobs: Jobs) -> None:
        self._database = database
        jobs.register(RENEW, self.renew)

    @step("ledger.renew_authorization")
    async def renew(self, payload: Mapping[str, Any], attempts: int) -> None:
        """Asks for another authorization of what one still has to pay; nothing, where it has not, or another one does.

        Raises NotYet where it is not known what that is.
        """
        operation_id = UUID(payload["operation_id"])
        async with self._database.transaction() as connection:
            row: Any = await connection.fetchrow(RENEWED, operation_id)
            order_id, number = row["order_id"], row["tender_number"]
            locked = (await store.lock_tenders(connection, order_id, row["change_id"])).get(number)
            if locked is None:
                raise NotYet(f"the change that tender {number} of order {order_id} pays for was made just now")
            tender = locked.tendered
            if not (
                tender.uncaptured_minor
                and await connection.fetchval(IS_NEWEST, order_id, number, operation_id)
                and await connection.fetchval(WAITS_FOR_GOODS, order_id)
            ):
                return
            if tender.capturing_minor:
                # If that is declined, there is more to set aside.
                raise NotYet(f"a capture of tender {number} of order {order_id} is open")
            renewal = store.operation(
                number, Operation.RENEW, tender.uncaptured_minor, is_done=False, authorization_id=operation_id
            )
            await store.book(
                connection,
                order_id,
                [renewal],
                currency=row["currency"],
                reason_code=REASON,
                reference_document=row["reference_document"],
                actor=ITSELF.actor,
            )
            await settle_later(connection, renewal.operation_id)
