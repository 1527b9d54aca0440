"""GetReturnSignals: what is known of who brings goods back, and of who takes them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from onhand.caller import Caller
from onhand.domain.errors import invalid
from onhand.domain.returns import ReturnPolicy, Subject
from onhand.ledger.mutation import Ledger
from onhand.orders.return_signals import COUNTED, COUNTED_MAX
from onhand.paging import decode_token, encode_token, fill, page_size
from onhand.v1 import returns_pb2 as pb
from onhand.wire import timestamp

# A page, the newest first; the null of a first page is after nothing.
SIGNALS = """
SELECT signal_id, return_id, kind, value, allowed, created_time FROM return_signals
 WHERE subject_kind = $1 AND subject = $2
   AND signal_id < coalesce($3, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid) ORDER BY signal_id DESC LIMIT $4"""
# Of the same returns as COUNTED. What a manager let pass when goods were announced counts with what came of it.
_OVERRIDDEN = """coalesce((SELECT true FROM return_overrides v WHERE v.return_id = r.return_id LIMIT 1), (
    SELECT true FROM return_overrides v WHERE v.return_authorization_id = r.return_authorization_id LIMIT 1))"""
_OF = "SELECT return_id, return_authorization_id, created_time FROM returns"
OVERRIDDEN_OF_CUSTOMER = f"""
SELECT count({_OVERRIDDEN}) FROM ({_OF} WHERE customer_id = $1 AND customer_id <> ''
                                   ORDER BY return_id DESC LIMIT $3) AS r WHERE r.created_time > now() - $2::interval"""
OVERRIDDEN_OF_ACTOR = f"""
SELECT count({_OVERRIDDEN}) FROM ({_OF} WHERE actor = $1 AND actor <> ''
                                   ORDER BY return_id DESC LIMIT $3) AS r WHERE r.created_time > now() - $2::interval"""


async def get_return_signals(
    ledger: Ledger, policy: ReturnPolicy, request: pb.GetReturnSignalsRequest, caller: Caller
) -> pb.GetReturnSignalsResponse:
    """ReturnService.GetReturnSignals."""
    if bool(request.customer_id) == bool(request.actor):
        raise invalid("customer_id", "give either it or the actor")
    subject = Subject.CUSTOMER if request.customer_id else Subject.ACTOR
    name, query = (
        (request.customer_id, OVERRIDDEN_OF_CUSTOMER) if request.customer_id else (request.actor, OVERRIDDEN_OF_ACTOR)
    )
    size, after = page_size(request.page_size), decode_token(request, UUID) or (None,)
    days = timedelta(days=policy.signals.days)
    async with ledger.read() as connection:
        counted = await connection.fetch(COUNTED, request.customer_id, request.actor, days, COUNTED_MAX)
        overridden = await connection.fetchval(query, name, days, COUNTED_MAX)
        rows = await connection.fetch(SIGNALS, subject.value, name, *after, size + 1)
    (of_subject,) = (row for row in counted if row["subject"] == subject.value)
    found, last = fill(rows, size, _signal)
    return pb.GetReturnSignalsResponse(
        days=policy.signals.days,
        return_count=of_subject["returns"],
        receiptless_count=of_subject["receiptless"],
        overridden_count=overridden,
        signals=found,
        next_page_token=encode_token(request, last["signal_id"]) if last else "",
    )


def _signal(row: Any) -> pb.ReturnSignal:
    return pb.ReturnSignal(
        signal_id=str(row["signal_id"]),
        return_id=str(row["return_id"]),
        kind=pb.ReturnSignalKind.Value(f"RETURN_SIGNAL_KIND_{row['kind']}"),
        value=row["value"],
        allowed=row["allowed"],
        created_time=timestamp(row["created_time"]),
    )
