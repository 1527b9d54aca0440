"""Return authorizations in PostgreSQL, and as messages. They are locked after the order that they are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from onhand.domain.return_authorization import AuthorizationState, Awaited, state_at
from onhand.domain.return_errors import ReturnAuthorizationNotFound
from onhand.postgres import Connection
from onhand.v1 import order_pb2
from onhand.v1 import returns_pb2 as pb
from onhand.wire import channel_value, timestamp

INSERT = """
WITH authorization_ AS (
    INSERT INTO return_authorizations (return_authorization_id, rma_number, order_id, channel, expires_time, actor)
    VALUES ($1, $2, $3, $4, now() + $5::interval, $6))
INSERT INTO return_authorization_lines (return_authorization_id, line_number, sku, quantity, reason)
SELECT $1, l.line_number, l.sku, l.quantity, l.reason
  FROM unnest($7::int[], $8::text[], $9::int8[], $10::text[]) AS l (line_number, sku, quantity, reason)"""
ORDER_OF = "SELECT order_id FROM return_authorizations WHERE return_authorization_id = $1"
# The order is locked: nobody else changes it.
READ = """
SELECT state, expires_time, now() AS now FROM return_authorizations WHERE return_authorization_id = $1"""
LINES = """
SELECT line_number, sku, quantity, received_quantity, refused_quantity FROM return_authorization_lines
 WHERE return_authorization_id = $1 ORDER BY line_number"""
SET_STATE = """
UPDATE return_authorizations SET state = $3, updated_time = now() WHERE return_authorization_id = $1 AND state = $2"""
ADD_CAME = """
UPDATE return_authorization_lines l
   SET received_quantity = l.received_quantity + n.received, refused_quantity = l.refused_quantity + n.refused
  FROM unnest($2::int[], $3::int8[], $4::int8[]) AS n (line_number, received, refused)
 WHERE l.return_authorization_id = $1 AND l.line_number = n.line_number"""
INSERT_REFUSED = """
INSERT INTO return_refused_units (return_authorization_id, refusal_number, line_number, quantity, reason, location_id, actor)
SELECT $1, (SELECT count(*) FROM return_refused_units WHERE return_authorization_id = $1) + n.place, n.line_number, n.quantity,
       n.reason, $2, $3
  FROM unnest($4::int[], $5::int8[], $6::text[]) WITH ORDINALITY AS n (line_number, quantity, reason, place)"""
_WHOLE = """
SELECT a.return_authorization_id, a.rma_number, a.order_id, o.order_number, o.customer_id, a.state, a.channel, a.expires_time,
       a.created_time, a.updated_time, now() AS now,
       (SELECT json_agg(json_build_object('line_number', l.line_number, 'sku', l.sku, 'quantity', l.quantity,
            'reason', l.reason, 'received_quantity', l.received_quantity, 'refused_quantity', l.refused_quantity)
            ORDER BY l.line_number)
          FROM return_authorization_lines l WHERE l.return_authorization_id = a.return_authorization_id) AS lines,
       (SELECT json_agg(json_build_object('line_number', u.line_number, 'quantity', u.quantity, 'reason', u.reason)
            ORDER BY u.refusal_number)
          FROM return_refused_units u WHERE u.return_authorization_id = a.return_authorization_id) AS refused,
       (SELECT json_agg(r.return_id ORDER BY r.return_id) FROM returns r
         WHERE r.return_authorization_id = a.return_authorization_id) AS returns,
       (SELECT json_agg(json_build_object('manager', v.manager, 'reason', v.reason, 'overridden', v.overridden)
            ORDER BY v.override_id)
          FROM return_overrides v WHERE v.return_authorization_id = a.return_authorization_id) AS overrides
  FROM return_authorizations a JOIN orders o USING (order_id)"""
BY_ID = f"{_WHOLE} WHERE a.return_authorization_id = $1"
BY_NUMBER = f"{_WHOLE} WHERE a.rma_number = $1"
# A page, the newest first; the null of a first page is after nothing.
_BEFORE = "a.return_authorization_id < coalesce($2, 'ffffffff-ffff-ffff-ffff-ffffffffffff'::uuid)"
OF_ORDER = f"{_WHOLE} WHERE a.order_id = $1 AND {_BEFORE} ORDER BY a.return_authorization_id DESC LIMIT $3"
OF_CUSTOMER = f"""{_WHOLE} WHERE o.customer_id = $1 AND o.customer_id <> '' AND {_BEFORE}
 ORDER BY a.return_authorization_id DESC LIMIT $3"""


@dataclass(frozen=True)
class Authorization:
    """An authorization whose order is locked. `state` is as of `now`, `stored` what its row says."""

    authorization_id: UUID
    stored: AuthorizationState
    state: AuthorizationState
    expires_time: datetime
    lines: Mapping[int, Awaited]


async def insert(
    connection: Connection,
    authorization_id: UUID,
    rma_number: str,
    order_id: UUID,
    *,
    channel: str,
    days: int,
    actor: str,
    lines: Sequence[tuple[int, str, int, str]],
) -> None:
    """Writes an authorization of (line_number, sku, quantity, reason)."""
    await connection.execute(
        INSERT, authorization_id, rma_number, order_id, channel, timedelta(days=days), actor,
        *([line[n] for line in lines] for n in range(4)),
    )  # fmt: skip


async def order_of(connection: Connection, authorization_id: UUID) -> UUID:
    """Whose it is. Raises ReturnAuthorizationNotFound."""
    order_id: UUID | None = await connection.fetchval(ORDER_OF, authorization_id)
    if order_id is None:
        raise ReturnAuthorizationNotFound(str(authorization_id))
    return order_id


async def locked(connection: Connection, authorization_id: UUID) -> Authorization:
    """An authorization whose order this transaction holds."""
    row = await connection.fetchrow(READ, authorization_id)
    assert row is not None
    lines = {r["line_number"]: Awaited(*r) for r in await connection.fetch(LINES, authorization_id)}
    stored, expires_time = AuthorizationState(row["state"]), row["expires_time"]
    return Authorization(authorization_id, stored, state_at(stored, expires_time, row["now"]), expires_time, lines)


async def set_state(connection: Connection, authorization: Authorization, state: AuthorizationState) -> None:
    """Moves it from what its row says."""
    done = await connection.execute(SET_STATE, authorization.authorization_id, authorization.stored.value, state.value)
    assert done == "UPDATE 1", f"{done}: the order of the authorization is locked"


async def add_came(
    connection: Connection, authorization_id: UUID, received: Mapping[int, int], refused: Mapping[int, int]
) -> None:
    """Counts units by line as received, or as refused."""
    numbers = sorted(received.keys() | refused.keys())
    await connection.execute(
        ADD_CAME, authorization_id, numbers, [received.get(n, 0) for n in numbers], [refused.get(n, 0) for n in numbers]
    )


async def insert_refused(
    connection: Connection,
    authorization_id: UUID,
    refused: Sequence[tuple[int, int, str]],
    *,
    location_id: str,
    actor: str,
) -> None:
    """Writes (line_number, quantity, reason) of what goes back to the customer."""
    if refused:
        await connection.execute(
            INSERT_REFUSED, authorization_id, location_id, actor, *([each[n] for each in refused] for n in range(3))
        )


async def read(connection: Connection, authorization_id: UUID) -> pb.ReturnAuthorization:
    """As a message. Raises ReturnAuthorizationNotFound."""
    return found(await connection.fetchrow(BY_ID, authorization_id), str(authorization_id))


def found(row: Any, what: str) -> pb.ReturnAuthorization:
    """A row as a message. Raises ReturnAuthorizationNotFound where there is none."""
    if row is None:
        raise ReturnAuthorizationNotFound(what)
    return message(row)


def message(row: Any) -> pb.ReturnAuthorization:
    """A row of BY_ID as a message."""
    state = state_at(AuthorizationState(row["state"]), row["expires_time"], row["now"])
    return pb.ReturnAuthorization(
        return_authorization_id=str(row["return_authorization_id"]),
        rma_number=row["rma_number"],
        order_id=str(row["order_id"]),
        order_number=row["order_number"],
        customer_id=row["customer_id"],
        state=pb.ReturnAuthorizationState.Value(f"RETURN_AUTHORIZATION_STATE_{state.value}"),
        channel=channel_value(row["channel"]),
        lines=[pb.AuthorizedLine(**line) for line in row["lines"]],
        refused=[pb.RefusedLine(**line) for line in row["refused"] or ()],
        return_ids=row["returns"] or (),
        overrides=[order_pb2.ReturnOverride(**each) for each in row["overrides"] or ()],
        expires_time=timestamp(row["expires_time"]),
        created_time=timestamp(row["created_time"]),
        updated_time=timestamp(row["updated_time"]),
    )
