"""What returns say about who brings them and who takes them back: counted with each return, recorded where it is worth a look."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from onhand.domain import returns as rules
from onhand.domain.returns import Counted, SignalPolicy, Subject
from onhand.ids import new_id
from onhand.ledger.transaction import Transaction

COUNTED_MAX = 100
"""The returns of somebody that are looked at, the latest."""
# This one is among them. An index each, which leave out who is not known.
COUNTED = """
SELECT 'CUSTOMER' AS subject, $1::text AS name, count(*) AS returns, count(*) FILTER (WHERE kind = 'BLIND') AS receiptless
  FROM (SELECT kind, created_time FROM returns WHERE customer_id = $1 AND customer_id <> '' ORDER BY return_id DESC LIMIT $4)
    AS r WHERE created_time > now() - $3::interval
 UNION ALL
SELECT 'ACTOR', $2::text, count(*), count(*) FILTER (WHERE kind = 'BLIND')
  FROM (SELECT kind, created_time FROM returns WHERE actor = $2 AND actor <> '' ORDER BY return_id DESC LIMIT $4)
    AS r WHERE created_time > now() - $3::interval"""
INSERT = """
INSERT INTO return_signals (signal_id, return_id, kind, subject_kind, subject, value, allowed)
SELECT s.signal_id, $1, s.kind, s.subject_kind, s.subject, s.value, s.allowed
  FROM unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::int8[], $7::int8[])
    AS s (signal_id, kind, subject_kind, subject, value, allowed)"""


async def record(
    tx: Transaction, policy: SignalPolicy, return_id: UUID, location_id: str, *, customer_id: str, actor: str
) -> None:
    """Writes and tells what the policy finds worth a look, once the return is written."""
    rows = await tx.connection.fetch(COUNTED, customer_id, actor, timedelta(days=policy.days), COUNTED_MAX)
    counted = [Counted(Subject(row["subject"]), row["name"], row["returns"], row["receiptless"]) for row in rows]
    found = [(new_id(), signal) for signal in rules.signals(policy, counted)]
    if not found:
        return
    await tx.connection.execute(
        INSERT,
        return_id,
        [signal_id for signal_id, _ in found],
        [signal.kind.value for _, signal in found],
        [signal.subject.value for _, signal in found],
        [signal.name for _, signal in found],
        [signal.value for _, signal in found],
        [signal.allowed for _, signal in found],
    )
    for signal_id, signal in found:
        tx.emit(
            "onhand.return.signal.v1",
            f"return/{return_id}",
            {
                "signal_id": str(signal_id),
                "return_id": str(return_id),
                "kind": signal.kind.value,
                "subject_kind": signal.subject.value,
                "subject": signal.name,
                "value": signal.value,
                "allowed": signal.allowed,
            },
            location_id,
        )
