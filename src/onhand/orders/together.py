"""Orders of one round in one ledger transaction, which is one statement: all of it happens as planned, or nothing does.

Where a row is not as it was read (a reservation expired, an epoch was raised, a level fell, a request came twice) the
statement fails, and PostgreSQL undoes it: whoever planned looks again, or lets each order go its own way (Ledger.mutate).
Locks are taken in the order of onhand.ledger.transaction. Each part asks for the rows of the part before it, because
PostgreSQL promises no order of the parts of WITH; what locks nothing that others want is written after the answer to that.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, NamedTuple
from uuid import UUID

import asyncpg

from onhand.domain.stock import Position
from onhand.ids import new_id
from onhand.ledger.claims import Settlement
from onhand.ledger.mutation import Answer, Mutation, body_hash
from onhand.orders.store import NewOrder
from onhand.postgres import UNAVAILABLE_ERRORS, Connection, to_json

ROUND_ITEMS_MAX = 64
"""Orders in one transaction: more of them would hold their levels longer, and hardly cost less each."""
ROUNDS_AT_ONCE_MAX = 3
"""Rounds of a kind that a process has under way: while PostgreSQL writes one, the next is planned."""
LINGER_SECONDS = 0.002
"""How long a round waits for further orders where there was company lately."""
ATTEMPTS_MAX = 2
"""How often a round is planned and written before each of its orders goes its own way."""

_REQUEST = """
WITH request AS (
    INSERT INTO requests (request_id, method, body_hash, response)
    SELECT r.request_id, {method}, r.body_hash, r.response
      FROM unnest({request_id}, {body_hash}, {response}) AS r (request_id, body_hash, response)
     ORDER BY r.request_id ON CONFLICT DO NOTHING RETURNING true
)"""
_ORDERS = """new_orders AS (
    INSERT INTO orders (order_id, order_number, customer_id, channel, currency, state, total_minor, cart_id, reservation_id,
                        ship_to, actor, placed_time, created_time, updated_time)
    SELECT o.order_id, o.order_number, o.customer_id, o.channel, o.currency, o.state, o.total_minor, o.cart_id,
           o.reservation_id, o.ship_to::jsonb, o.actor, o.placed_time, o.made_time, o.made_time
      FROM unnest({order_id}, {order_number}, {customer_id}, {order_channel}, {currency}, {order_state}, {order_minor},
                  {cart_id}, {reservation_id}, {ship_to}, {order_actor}, {placed_time}, {made_time})
        AS o (order_id, order_number, customer_id, channel, currency, state, total_minor, cart_id, reservation_id, ship_to,
              actor, placed_time, made_time)
), new_lines AS (
    INSERT INTO order_lines (order_id, line_number, sku, quantity, amount_minor, price_quantity, total_minor,
                             fulfilled_quantity)
    SELECT * FROM unnest({line_order}, {line_number}, {line_sku}, {line_quantity}, {amount_minor}, {price_quantity},
                         {line_minor}, {fulfilled_quantity})
), new_work AS (
    INSERT INTO fulfillment_orders (fulfillment_order_id, order_id, location_id, kind, state, pickup_code_salt,
                                    pickup_code_hash, created_time, updated_time)
    SELECT f.fulfillment_order_id, f.order_id, f.location_id, f.kind, f.state, f.salt, f.hash, f.made_time, f.made_time
      FROM unnest({work_id}, {work_order}, {work_location}, {work_kind}, {work_state}, {salt}, {code_hash},
                  {work_time}) AS f (fulfillment_order_id, order_id, location_id, kind, state, salt, hash, made_time)
), new_parts AS (
    INSERT INTO fulfillment_lines (fulfillment_order_id, line_number, sku, quantity)
    SELECT * FROM unnest({part_work}, {part_line}, {part_sku}, {part_quantity})
), new_tenders AS (
    INSERT INTO tenders (order_id, tender_number, kind, amount_minor, reference, authorized_minor, captured_minor)
    SELECT t.order_id, t.tender_number, t.kind, t.minor, t.reference, t.minor, t.minor
      FROM unnest({tender_order}, {tender_number}, {tender_kind}, {tender_minor}, {tender_reference})
        AS t (order_id, tender_number, kind, minor, reference)
), new_movements AS (
    INSERT INTO stock_movements (location_id, sku, quantity, from_bucket, to_bucket, reason_code, reference_document,
                                 channel, actor, occurred_time)
    SELECT m.location_id, m.sku, m.quantity, 'available', {to_bucket}, {reason_code}, 'order/' || m.order_id, m.channel,
           m.actor, least(m.occurred_time, now())
      FROM unnest({moved_location}, {moved_sku}, {moved_quantity}, {moved_order}, {moved_channel}, {moved_actor},
                  {moved_time}) AS m (location_id, sku, quantity, order_id, channel, actor, occurred_time)
), new_events AS (
    INSERT INTO events (event_id, type, subject, location_id, data, request_id)
    SELECT e.event_id, e.type, e.subject, e.location_id, e.data::jsonb, e.request_id
      FROM unnest({event_id}, {event_type}, {subject}, {event_location}, {data}, {event_request})
        AS e (event_id, type, subject, location_id, data, request_id)
)
SELECT CASE WHEN (SELECT count(*) FROM taken) = cardinality({sku}) THEN 0
            ELSE ('not as planned: ' || (SELECT count(*) FROM taken) || ' levels')::int END"""
# The end fails where a row is missing, for that text is no number.

# The claims are still active, the carts still what was read; the locations are not deleted; nobody took what they hold. State
# and deadline are asked for so that no index of active claims serves: there may be many more than when it was analyzed.
PLACE = f"""{_REQUEST}, claim AS (
    UPDATE claims c SET state = 'confirmed', order_id = n.order_id, closed_time = now()
      FROM unnest({{claim_reservation}}, {{claim_id}}, {{claim_order}}) AS n (reservation_id, claim_id, order_id)
     WHERE (SELECT count(*) FROM request) = cardinality({{request_id}})
       AND c.reservation_id = ANY ({{reservation_id}}) AND c.reservation_id = n.reservation_id AND c.claim_id = n.claim_id
       AND coalesce(c.state, '') = 'active' AND c.deadline - now() > interval '0' AND c.pinned_for IS NULL
    RETURNING true
), cart AS (
    UPDATE carts c SET state = 'ORDERED', order_id = n.order_id, version = c.version + 1, updated_time = now()
      FROM unnest({{closed_cart}}, {{cart_version}}, {{cart_order}}) AS n (cart_id, version, order_id)
     WHERE (SELECT count(*) FROM claim) = cardinality({{claim_id}})
       AND c.cart_id = n.cart_id AND c.version = n.version AND c.state = 'OPEN' AND c.locked_for IS NULL
    RETURNING true
), epochs AS MATERIALIZED (
    SELECT location_id FROM location_epochs
     WHERE (SELECT count(*) FROM claim) = cardinality({{claim_id}})
       AND (SELECT count(*) FROM cart) = cardinality({{closed_cart}})
       AND location_id = ANY ({{location}}) AND NOT is_closed ORDER BY location_id FOR SHARE
), level AS MATERIALIZED (
    SELECT s.location_id, s.sku
      FROM unnest({{location_id}}, {{sku}}, {{quantity}}) AS n (location_id, sku, quantity)
      JOIN stock_levels s USING (location_id, sku)
     WHERE (SELECT count(*) FROM epochs) = cardinality({{location}})
       AND s.available >= n.quantity AND s.overdrawn_time IS NULL
     ORDER BY s.location_id, s.sku FOR UPDATE OF s
), taken AS (
    UPDATE stock_levels s SET available = s.available - n.quantity, allocated = s.allocated + n.quantity
      FROM unnest({{location_id}}, {{sku}}, {{quantity}}) AS n (location_id, sku, quantity)
     WHERE (SELECT count(*) FROM level) = cardinality({{sku}}) AND s.location_id = n.location_id AND s.sku = n.sku
    RETURNING true
), {_ORDERS}"""
# The epochs are those of the claims, and shared until the commit: see onhand.reservations.journal.
SELL = f"""{_REQUEST}, epochs AS MATERIALIZED (
    SELECT e.location_id
      FROM unnest({{location}}, {{epoch}}) AS n (location_id, epoch) JOIN location_epochs e USING (location_id)
     WHERE (SELECT count(*) FROM request) = cardinality({{request_id}}) AND e.epoch = n.epoch AND NOT e.is_closed
     ORDER BY e.location_id FOR SHARE OF e
), claim AS (
    INSERT INTO claims (location_id, claim_id, state, channel, lines, deadline, closed_time)
    SELECT c.location_id, c.claim_id, 'consumed', c.channel, c.lines::jsonb, now(), now()
      FROM unnest({{claim_location}}, {{claim_id}}, {{claim_channel}}, {{claim_lines}})
        AS c (location_id, claim_id, channel, lines)
     WHERE (SELECT count(*) FROM epochs) = cardinality({{location}})
    ON CONFLICT DO NOTHING RETURNING true
), level AS MATERIALIZED (
    SELECT s.location_id, s.sku
      FROM unnest({{location_id}}, {{sku}}, {{quantity}}) AS n (location_id, sku, quantity)
      JOIN stock_levels s USING (location_id, sku)
     WHERE (SELECT count(*) FROM claim) = cardinality({{claim_id}}) AND s.available >= n.quantity
     ORDER BY s.location_id, s.sku FOR UPDATE OF s
), taken AS (
    UPDATE stock_levels s SET available = s.available - n.quantity
      FROM unnest({{location_id}}, {{sku}}, {{quantity}}) AS n (location_id, sku, quantity)
     WHERE (SELECT count(*) FROM level) = cardinality({{sku}}) AND s.location_id = n.location_id AND s.sku = n.sku
    RETURNING true
), {_ORDERS}"""

_SEPARATOR, _NULL = "\x1f", "\x1e"
_CONTROL = re.compile(r"[\x00-\x1f]")
_TEXTS, _UUIDS, _INTS, _LONGS, _BYTES, _TIMES = "text[]", "uuid[]", "int4[]", "int8[]", "bytea[]", "timestamptz[]"
_TYPES = {
    **dict.fromkeys(("method", "to_bucket", "reason_code"), "text"),
    **dict.fromkeys(("body_hash", "response", "salt", "code_hash"), _BYTES),
    **dict.fromkeys(("placed_time", "made_time", "work_time", "moved_time"), _TIMES),
    **dict.fromkeys(("line_number", "part_line", "tender_number"), _INTS),
    **dict.fromkeys(
        ("cart_version", "epoch", "quantity", "order_minor", "line_quantity", "amount_minor", "price_quantity"), _LONGS
    ),
    **dict.fromkeys(("line_minor", "fulfilled_quantity", "part_quantity", "tender_minor", "moved_quantity"), _LONGS),
    **dict.fromkeys(
        ("claim_id", "claim_order", "claim_reservation", "closed_cart", "cart_order", "order_id", "cart_id"), _UUIDS
    ),
    **dict.fromkeys(("reservation_id", "line_order", "work_id", "work_order", "part_work"), _UUIDS),
    **dict.fromkeys(("tender_order", "moved_order", "event_id"), _UUIDS),
}
"""Of the columns that are no lists of texts."""
_JOINED = frozenset((_TEXTS, _UUIDS, _INTS, _LONGS))


class NotAsPlanned(Exception):
    """The statement of a round failed: for certain, nothing of it happened."""


class Statement:
    """SQL whose parameters are columns by name.

    Texts, numbers and ids are sent as one text a column, which PostgreSQL takes apart: asyncpg looks at every element of an
    array several times, in Python, to learn whether it is an array too.
    """

    def __init__(self, text: str) -> None:
        names: dict[str, int] = {}

        def numbered(match: re.Match[str]) -> str:
            name = match[1]
            type = _TYPES.get(name, _TEXTS)
            parameter = f"${names.setdefault(name, len(names) + 1)}"
            if type not in _JOINED:
                return f"{parameter}::{type}"
            return f"(string_to_array({parameter}::text, E'\\x1f', E'\\x1e'))[2:]::{type}"

        self._text = re.sub(r"\{(\w+)\}", numbered, text)
        self._columns = [(name, _TYPES.get(name, _TEXTS) in _JOINED) for name in names]

    async def write(self, connection: Connection, columns: Mapping[str, Any]) -> None:
        """Raises NotAsPlanned; LedgerUnavailable comes from the connection, and leaves the outcome unknown."""
        values = [_joined(columns[name]) if is_joined else columns[name] for name, is_joined in self._columns]
        try:
            await connection.fetchval(self._text, *values)
        except asyncpg.PostgresError as error:
            if isinstance(error, UNAVAILABLE_ERRORS):
                raise
            raise NotAsPlanned(str(error)) from error


def _joined(column: Sequence[object]) -> str:
    """Each element with a separator before it, so that none and one that is empty are told apart."""
    joined = "".join([f"{_SEPARATOR}{_NULL if element is None else element}" for element in column])
    if joined.count(_SEPARATOR) != len(column):
        raise NotAsPlanned("a text holds a separator")
    return joined


def is_plain_text(*texts: str) -> bool:
    """Whether texts hold nothing that cannot go in a round: no control characters, as the separators are."""
    return all(text.isprintable() or not _CONTROL.search(text) for text in texts)


class Taking(NamedTuple):
    """A claim whose units leave `available`. `epoch`, `channel` and `encoded_lines` are of one that is yet to be recorded."""

    location_id: str
    claim_id: UUID
    lines: Sequence[tuple[str, int]]
    epoch: int = 0
    channel: str | None = None
    encoded_lines: str = "[]"


@dataclass(frozen=True)
class Planned(Generic[Answer]):
    """An order that is to be written, with everything that belongs to it. `events` are (type, subject, location, JSON).

    `made_time` is when it is recorded, by the ledger's clock as its reader found it.
    """

    request: Mutation
    order: NewOrder
    response: Answer
    claims: Sequence[Taking]
    events: Sequence[tuple[str, str, str | None, str]]
    made_time: datetime
    occurred_time: datetime | None = None
    cart_version: int = 0


def taken_by(planned: Iterable[Planned[Any]]) -> Counter[Position]:
    """The units that orders take, by position."""
    taken: Counter[Position] = Counter()
    for each in planned:
        for claim in each.claims:
            for sku, quantity in claim.lines:
                taken[claim.location_id, sku] += quantity
    return taken


def settlements(planned: Iterable[Planned[Any]]) -> list[Settlement]:
    """What the gate is to hear of once they are committed: their units are out of `available`."""
    by_location: dict[str, Settlement] = {}
    for each in planned:
        for claim in each.claims:
            found = by_location.get(claim.location_id)
            if found is None:
                found = by_location[claim.location_id] = Settlement(claim.location_id)
            found.forget.append(claim.claim_id)
    return list(by_location.values())


def columns(planned: Sequence[Planned[Any]], to_bucket: str, reason_code: str) -> dict[str, Any]:
    """What a round writes, in one list a column."""
    orders = [p.order for p in planned]
    claims = [(c, p.order) for p in planned for c in p.claims]
    carts = [(p.order, p.cart_version) for p in planned if p.order.cart_id is not None]
    lines = [(line, o.order_id) for o in orders for line in o.lines]
    work = [(f, p) for p in planned for f in p.order.fulfillments]
    parts = [(*part, f.fulfillment_order_id) for f, _ in work for part in f.parts]
    tenders = [(t, n, o.order_id) for o in orders for n, t in enumerate(o.tenders, 1)]
    moved = [(c.location_id, sku, quantity, p) for p in planned for c in p.claims for sku, quantity in c.lines]
    events = [(*event, p.request.request_id) for p in planned for event in p.events]
    levels = sorted(taken_by(planned).items())
    epochs = sorted({c.location_id: c.epoch for c, _ in claims}.items())
    return {
        "method": type(planned[0].request).__name__,
        "to_bucket": to_bucket,
        "reason_code": reason_code,
        "request_id": [p.request.request_id for p in planned],
        "body_hash": [body_hash(p.request) for p in planned],
        "response": [p.response.SerializeToString() for p in planned],
        "claim_location": [c.location_id for c, _ in claims],
        "claim_id": [c.claim_id for c, _ in claims],
        "claim_order": [o.order_id for _, o in claims],
        "claim_reservation": [o.reservation_id for _, o in claims],
        "claim_channel": [c.channel for c, _ in claims],
        "claim_lines": [c.encoded_lines for c, _ in claims],
        "closed_cart": [o.cart_id for o, _ in carts],
        "cart_version": [version for _, version in carts],
        "cart_order": [o.order_id for o, _ in carts],
        "location": [location_id for location_id, _ in epochs],
        "epoch": [epoch for _, epoch in epochs],
        "location_id": [position[0] for position, _ in levels],
        "sku": [position[1] for position, _ in levels],
        "quantity": [quantity for _, quantity in levels],
        "order_id": [o.order_id for o in orders],
        "order_number": [o.order_number for o in orders],
        "customer_id": [o.customer_id for o in orders],
        "order_channel": [o.channel for o in orders],
        "currency": [o.currency for o in orders],
        "order_state": [o.state.value for o in orders],
        "order_minor": [o.total_minor for o in orders],
        "cart_id": [o.cart_id for o in orders],
        "reservation_id": [o.reservation_id for o in orders],
        "ship_to": [None if o.ship_to is None else to_json(o.ship_to) for o in orders],
        "order_actor": [o.actor for o in orders],
        "placed_time": [min(p.order.placed_time or p.made_time, p.made_time) for p in planned],
        "made_time": [p.made_time for p in planned],
        "line_order": [order_id for _, order_id in lines],
        "line_number": [line.line_number for line, _ in lines],
        "line_sku": [line.sku for line, _ in lines],
        "line_quantity": [line.quantity for line, _ in lines],
        "amount_minor": [line.amount_minor for line, _ in lines],
        "price_quantity": [line.price_quantity for line, _ in lines],
        "line_minor": [line.total_minor for line, _ in lines],
        "fulfilled_quantity": [line.quantity if to_bucket == "customer" else 0 for line, _ in lines],
        "work_id": [f.fulfillment_order_id for f, _ in work],
        "work_order": [p.order.order_id for _, p in work],
        "work_time": [p.made_time for _, p in work],
        "work_location": [f.location_id for f, _ in work],
        "work_kind": [f.kind.value for f, _ in work],
        "work_state": [f.state.value for f, _ in work],
        "salt": [f.code_salt for f, _ in work],
        "code_hash": [f.code_hash for f, _ in work],
        "part_work": [part[3] for part in parts],
        "part_line": [part[0] for part in parts],
        "part_sku": [part[1] for part in parts],
        "part_quantity": [part[2] for part in parts],
        "tender_order": [order_id for _, _, order_id in tenders],
        "tender_number": [number for _, number, _ in tenders],
        "tender_kind": [tender.kind for tender, _, _ in tenders],
        "tender_minor": [tender.amount_minor for tender, _, _ in tenders],
        "tender_reference": [tender.reference for tender, _, _ in tenders],
        "moved_location": [m[0] for m in moved],
        "moved_sku": [m[1] for m in moved],
        "moved_quantity": [m[2] for m in moved],
        "moved_order": [m[3].order.order_id for m in moved],
        "moved_channel": [m[3].order.channel for m in moved],
        "moved_actor": [m[3].order.actor for m in moved],
        "moved_time": [m[3].occurred_time for m in moved],
        "event_id": [new_id() for _ in events],
        "event_type": [event[0] for event in events],
        "subject": [event[1] for event in events],
        "event_location": [event[2] for event in events],
        "data": [event[3] for event in events],
        "event_request": [event[4] for event in events],
    }
