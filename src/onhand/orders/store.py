"""Orders, fulfillment orders and returns in PostgreSQL: every statement of this use case, and nothing that decides.

An order's rows are locked by the row of the order itself, before anything else of it is read; stock levels come after.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from onhand.crash import step
from onhand.domain.order import FulfillmentKind, FulfillmentState, OrderState, RejectReason
from onhand.domain.payment import CaptureAt, Provider
from onhand.postgres import Connection

# One statement, one round trip: an order with everything that belongs to it. Foreign keys are checked at its end.
INSERT_ORDER = """
WITH new_order AS (
    INSERT INTO orders (order_id, order_number, customer_id, channel, currency, state, total_minor, cart_id, reservation_id,
                        ship_to, actor, placed_time)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, least($12::timestamptz, now()))),
new_lines AS (
    INSERT INTO order_lines (order_id, line_number, sku, quantity, amount_minor, price_quantity, total_minor,
                             fulfilled_quantity)
    SELECT $1, l.line_number, l.sku, l.quantity, l.amount_minor, l.price_quantity, l.total_minor, l.fulfilled_quantity
      FROM unnest($13::int[], $14::text[], $15::int8[], $16::int8[], $17::int8[], $18::int8[], $19::int8[])
           AS l (line_number, sku, quantity, amount_minor, price_quantity, total_minor, fulfilled_quantity)),
new_fulfillments AS (
    INSERT INTO fulfillment_orders (fulfillment_order_id, order_id, location_id, kind, state, pickup_code_salt,
                                    pickup_code_hash)
    SELECT f.fulfillment_order_id, $1, f.location_id, f.kind, f.state, f.salt, f.hash
      FROM unnest($20::uuid[], $21::text[], $22::text[], $23::text[], $24::bytea[], $25::bytea[])
           AS f (fulfillment_order_id, location_id, kind, state, salt, hash)),
new_parts AS (
    INSERT INTO fulfillment_lines (fulfillment_order_id, line_number, sku, quantity)
    SELECT p.fulfillment_order_id, p.line_number, p.sku, p.quantity
      FROM unnest($26::uuid[], $27::int[], $28::text[], $29::int8[]) AS p (fulfillment_order_id, line_number, sku, quantity))
INSERT INTO tenders (order_id, tender_number, kind, amount_minor, reference, provider, gift_card_id, authorized_minor,
                     captured_minor)
SELECT $1, t.tender_number, t.kind, t.amount_minor, t.reference, t.provider, t.gift_card_id, t.recorded_minor, t.recorded_minor
  FROM unnest($30::text[], $31::int8[], $32::text[], $33::text[], $34::uuid[], $35::int8[]) WITH ORDINALITY
    AS t (kind, amount_minor, reference, provider, gift_card_id, recorded_minor, tender_number)
 WHERE NOT t.provider = ANY ($36)"""

NOT_OFFERED = """
SELECT c.location_id, c.kind
  FROM unnest($1::text[], $2::text[]) AS c (location_id, kind) JOIN locations l USING (location_id)
 WHERE NOT CASE c.kind WHEN 'PICKUP' THEN l.offers_pickup ELSE l.offers_shipping END ORDER BY 1 LIMIT 1"""

ORDER = """
SELECT order_id, order_number, customer_id, channel, currency, state, version, ship_to IS NOT NULL AS has_address
  FROM orders WHERE order_id = $1"""
LOCK_ORDER = f"{ORDER} FOR UPDATE"
LOCK_ORDER_OF = """
SELECT order_id, order_number, customer_id, channel, currency, state, version, ship_to IS NOT NULL AS has_address
  FROM orders
 WHERE order_id = (SELECT order_id FROM fulfillment_orders WHERE fulfillment_order_id = $1) FOR UPDATE"""
FULFILLMENTS = """
SELECT fulfillment_order_id, location_id, kind, state, pickup_code_salt, pickup_code_hash, pickup_code_failures,
       reject_reason
  FROM fulfillment_orders WHERE order_id = $1 ORDER BY fulfillment_order_id"""
PARTS = """
SELECT p.fulfillment_order_id, p.line_number, p.sku, p.quantity - p.cancelled_quantity - p.moved_quantity AS quantity
  FROM fulfillment_orders f JOIN fulfillment_lines p USING (fulfillment_order_id)
 WHERE f.order_id = $1 ORDER BY p.fulfillment_order_id, p.line_number"""
LINES = """
SELECT line_number, sku, quantity, total_minor, fulfilled_quantity, cancelled_quantity, returned_quantity
  FROM order_lines WHERE order_id = $1 ORDER BY line_number"""

# Guarded by the state that was read: a row count of 0 is a bug in the locking, never a race lost in silence.
SET_STATES = """
UPDATE fulfillment_orders f SET state = n.new_state, version = version + 1, updated_time = now()
  FROM unnest($1::uuid[], $2::text[], $3::text[]) AS n (fulfillment_order_id, old_state, new_state)
 WHERE f.fulfillment_order_id = n.fulfillment_order_id AND f.state = n.old_state"""
SET_ORDER_STATE = """
UPDATE orders SET state = $3, version = version + 1, updated_time = now() WHERE order_id = $1 AND state = $2"""
ADD_FULFILLED = """
UPDATE order_lines l SET fulfilled_quantity = l.fulfilled_quantity + n.quantity
  FROM unnest($2::int[], $3::int8[]) AS n (line_number, quantity)
 WHERE l.order_id = $1 AND l.line_number = n.line_number"""
ADD_CANCELLED = """
UPDATE order_lines l SET cancelled_quantity = l.cancelled_quantity + n.quantity, refunded_minor = l.refunded_minor + n.refund_minor
  FROM unnest($2::int[], $3::int8[], $4::int8[]) AS n (line_number, quantity, refund_minor)
 WHERE l.order_id = $1 AND l.line_number = n.line_number"""
ADD_RETURNED = """
UPDATE order_lines l SET returned_quantity = l.returned_quantity + n.quantity, refunded_minor = l.refunded_minor + n.refund_minor
  FROM unnest($2::int[], $3::int8[], $4::int8[]) AS n (line_number, quantity, refund_minor)
 WHERE l.order_id = $1 AND l.line_number = n.line_number"""
CANCEL_PARTS = """
UPDATE fulfillment_lines p SET cancelled_quantity = p.cancelled_quantity + n.quantity
  FROM unnest($1::uuid[], $2::int[], $3::int8[]) AS n (fulfillment_order_id, line_number, quantity)
 WHERE p.fulfillment_order_id = n.fulfillment_order_id AND p.line_number = n.line_number"""

# One statement, so that wrong codes that come at once are counted one after the other. A right code is not counted. The
# attempts that were counted since the last reset, PICKUP_CODE_FAILURES_MAX at most, stand one behind the other.
# IS TRUE, for the index of pickups that wait is not to be read for one of them: while there are few, that looks as cheap.
COUNT_WRONG_CODE = """
UPDATE fulfillment_orders SET pickup_code_failures = pickup_code_failures + 1, updated_time = now(),
       pickup_code_attempt = coalesce(pickup_code_attempt, ''::bytea) || $3::bytea
 WHERE fulfillment_order_id = $1 AND kind = 'PICKUP' AND (state = 'READY_FOR_PICKUP') IS TRUE AND pickup_code_failures < $4
   AND pickup_code_hash <> sha256(pickup_code_salt || convert_to($2, 'UTF8'))
   AND position($3::bytea in coalesce(pickup_code_attempt, ''::bytea)) = 0
RETURNING pickup_code_failures"""
SET_CODE = """
UPDATE fulfillment_orders SET pickup_code_salt = $2, pickup_code_hash = $3, pickup_code_failures = 0,
       pickup_code_attempt = NULL, version = version + 1, updated_time = now()
 WHERE fulfillment_order_id = $1 AND kind = 'PICKUP'"""

# Parcels that did not leave: what is in them is not as it was any more.
UNPACK = """
WITH gone AS (
    DELETE FROM shipment_lines l USING shipments s
     WHERE l.shipment_id = s.shipment_id AND s.fulfillment_order_id = ANY ($1) AND s.shipped_time IS NULL)
DELETE FROM shipments WHERE fulfillment_order_id = ANY ($1) AND shipped_time IS NULL"""

INSERT_RETURN = """
WITH new_return AS (
    INSERT INTO returns (return_id, order_id, location_id, channel, refund_minor, actor, kind, customer_id, currency,
                         return_authorization_id)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10))
INSERT INTO return_lines (return_id, line_number, disposition, sku, quantity, reason_code, refund_minor)
SELECT $1, l.line_number, l.disposition, l.sku, l.quantity, l.reason, l.refund_minor
  FROM unnest($11::int[], $12::text[], $13::text[], $14::int8[], $15::text[], $16::int8[])
       AS l (line_number, disposition, sku, quantity, reason, refund_minor)"""

INSERT_SHORTAGES = """
INSERT INTO shortages (shortage_id, location_id, sku, quantity, reference_document)
SELECT n.shortage_id, n.location_id, n.sku, n.quantity, $5
  FROM unnest($1::uuid[], $2::text[], $3::text[], $4::int8[]) AS n (shortage_id, location_id, sku, quantity)"""
# The level of the position is locked by the caller, so two cannot both find none.
OPEN_COUNT_TASKS = """
INSERT INTO count_tasks (count_task_id, location_id, sku, reason_code, reference_document)
SELECT n.count_task_id, n.location_id, n.sku, $4, $5
  FROM unnest($1::uuid[], $2::text[], $3::text[]) AS n (count_task_id, location_id, sku)
 WHERE (SELECT true FROM count_tasks t WHERE t.location_id = n.location_id AND t.sku = n.sku AND t.state = 'OPEN' LIMIT 1)
       IS NULL"""


class NewLine(NamedTuple):
    """A line of an order that is made. `amount_minor` buys `price_quantity` base units."""

    line_number: int
    sku: str
    quantity: int
    amount_minor: int
    price_quantity: int
    total_minor: int


class NewFulfillment(NamedTuple):
    """The work for one location of an order that is made; parts are (line_number, sku, quantity)."""

    fulfillment_order_id: UUID
    location_id: str
    kind: FulfillmentKind
    state: FulfillmentState
    parts: Sequence[tuple[int, str, int]]
    code_salt: bytes | None = None
    code_hash: bytes | None = None


class NewTender(NamedTuple):
    """A means of payment, its amount in the order's currency. `gift_card`: the hash of the code of one that is spent here."""

    kind: str
    amount_minor: int
    reference: str
    gift_card: bytes | None = None
    gift_card_id: UUID | None = None
    payment_method: str = ""
    capture_at: CaptureAt = CaptureAt.ONCE

    @property
    def provider(self) -> Provider:
        """Who moves its money."""
        if self.payment_method:
            return Provider.STRIPE
        return Provider.TILL if self.gift_card is None else Provider.GIFT_CARD


class NewOrder(NamedTuple):
    """An order that is made."""

    order_id: UUID
    order_number: str
    customer_id: str
    channel: str
    currency: str
    state: OrderState
    lines: Sequence[NewLine]
    fulfillments: Sequence[NewFulfillment]
    tenders: Sequence[NewTender]
    actor: str
    cart_id: UUID | None = None
    reservation_id: UUID | None = None
    ship_to: dict[str, Any] | None = None
    placed_time: datetime | None = None

    @property
    def total_minor(self) -> int:
        """What it costs."""
        return sum(line.total_minor for line in self.lines)


@dataclass(frozen=True)
class LockedOrder:
    """An order whose row this transaction holds."""

    order_id: UUID
    order_number: str
    customer_id: str
    channel: str
    currency: str
    state: OrderState
    version: int
    has_address: bool

    @property
    def document(self) -> str:
        """What its movements and events refer to."""
        return f"order/{self.order_id}"


@dataclass(frozen=True)
class Fulfillment:
    """A fulfillment order as a command needs it."""

    fulfillment_order_id: UUID
    location_id: str
    kind: FulfillmentKind
    state: FulfillmentState
    code_salt: bytes | None
    code_hash: bytes | None
    code_failures: int
    reject_reason: RejectReason | None = None


@dataclass(frozen=True)
class Part:
    """What a fulfillment order still has to bring of a line, or brought: cancelled and moved units are left out."""

    fulfillment_order_id: UUID
    line_number: int
    sku: str
    quantity: int


@dataclass(frozen=True)
class Line:
    """An order line as a command needs it."""

    line_number: int
    sku: str
    quantity: int
    total_minor: int
    fulfilled_quantity: int
    cancelled_quantity: int
    returned_quantity: int


# Their tenders are there before the order is: see onhand.orders.checkouts.
_OUTSIDE = [provider.value for provider in Provider if provider.is_outside]


async def insert_order(connection: Connection, order: NewOrder) -> None:
    """Writes an order whole. What is PICKED_UP from the start counts as fulfilled."""
    handed_over = {
        (line_number): quantity
        for f in order.fulfillments
        if f.state is FulfillmentState.PICKED_UP
        for line_number, _, quantity in f.parts
    }
    parts = [(f.fulfillment_order_id, *part) for f in order.fulfillments for part in f.parts]
    await connection.execute(
        INSERT_ORDER,
        order.order_id,
        order.order_number,
        order.customer_id,
        order.channel,
        order.currency,
        order.state.value,
        order.total_minor,
        order.cart_id,
        order.reservation_id,
        order.ship_to,
        order.actor,
        order.placed_time,
        [line.line_number for line in order.lines],
        [line.sku for line in order.lines],
        [line.quantity for line in order.lines],
        [line.amount_minor for line in order.lines],
        [line.price_quantity for line in order.lines],
        [line.total_minor for line in order.lines],
        [handed_over.get(line.line_number, 0) for line in order.lines],
        [f.fulfillment_order_id for f in order.fulfillments],
        [f.location_id for f in order.fulfillments],
        [f.kind.value for f in order.fulfillments],
        [f.state.value for f in order.fulfillments],
        [f.code_salt for f in order.fulfillments],
        [f.code_hash for f in order.fulfillments],
        [part[0] for part in parts],
        [part[1] for part in parts],
        [part[2] for part in parts],
        [part[3] for part in parts],
        [tender.kind for tender in order.tenders],
        [tender.amount_minor for tender in order.tenders],
        [tender.reference for tender in order.tenders],
        [tender.provider.value for tender in order.tenders],
        [tender.gift_card_id for tender in order.tenders],
        [tender.amount_minor if tender.provider is Provider.TILL else 0 for tender in order.tenders],
        _OUTSIDE,
    )


async def not_offered(connection: Connection, choices: Iterable[tuple[str, FulfillmentKind]]) -> tuple[str, str] | None:
    """The first location that does not offer what was chosen for it, and that kind."""
    pairs = list(choices)
    row = await connection.fetchrow(NOT_OFFERED, [p[0] for p in pairs], [p[1].value for p in pairs])
    return (row["location_id"], row["kind"]) if row else None


async def read_order(connection: Connection, order_id: UUID) -> LockedOrder | None:
    """As `lock_order`, without the lock: it may change at once."""
    return _locked(await connection.fetchrow(ORDER, order_id))


async def lock_order(connection: Connection, order_id: UUID) -> LockedOrder | None:
    """Locks an order and all that belongs to it."""
    return _locked(await connection.fetchrow(LOCK_ORDER, order_id))


async def lock_order_of(connection: Connection, fulfillment_order_id: UUID) -> LockedOrder | None:
    """Locks the order that a fulfillment order is for."""
    return _locked(await connection.fetchrow(LOCK_ORDER_OF, fulfillment_order_id))


def _locked(row: Any) -> LockedOrder | None:
    return (
        None if row is None else LockedOrder(row[0], row[1], row[2], row[3], row[4], OrderState(row[5]), row[6], row[7])
    )


async def fulfillments(connection: Connection, order_id: UUID) -> list[Fulfillment]:
    """The fulfillment orders of an order, the first made first."""
    rows = await connection.fetch(FULFILLMENTS, order_id)
    return [
        Fulfillment(
            r[0],
            r[1],
            FulfillmentKind(r[2]),
            FulfillmentState(r[3]),
            r[4],
            r[5],
            r[6],
            RejectReason(r[7]) if r[7] else None,
        )
        for r in rows
    ]


async def parts(connection: Connection, order_id: UUID) -> list[Part]:
    """What the fulfillment orders of an order are to bring."""
    return [Part(*row) for row in await connection.fetch(PARTS, order_id)]


async def lines(connection: Connection, order_id: UUID) -> dict[int, Line]:
    """The lines of an order, by number."""
    return {row["line_number"]: Line(*row) for row in await connection.fetch(LINES, order_id)}


async def set_states(connection: Connection, changes: Sequence[tuple[Fulfillment, FulfillmentState]]) -> None:
    """Moves fulfillment orders, whose order is locked, from the states they were read in."""
    if not changes:
        return
    done = await connection.execute(
        SET_STATES,
        [f.fulfillment_order_id for f, _ in changes],
        [f.state.value for f, _ in changes],
        [state.value for _, state in changes],
    )
    _expect(done, len(changes), "fulfillment orders")


async def set_order_state(connection: Connection, order: LockedOrder, state: OrderState) -> None:
    """Writes that an order changed, and the state it has now."""
    done = await connection.execute(SET_ORDER_STATE, order.order_id, order.state.value, state.value)
    _expect(done, 1, "orders")


async def add_fulfilled(connection: Connection, order_id: UUID, units: Sequence[Part]) -> None:
    """Counts units as with the customer."""
    await connection.execute(ADD_FULFILLED, order_id, [u.line_number for u in units], [u.quantity for u in units])


async def add_cancelled(connection: Connection, order_id: UUID, units: Sequence[tuple[int, int, int]]) -> None:
    """Counts (line_number, quantity, refund_minor) as cancelled, each line once."""
    await connection.execute(ADD_CANCELLED, order_id, *_columns(units, 3))


async def add_returned(connection: Connection, order_id: UUID, units: Sequence[tuple[int, int, int]]) -> None:
    """Counts (line_number, quantity, refund_minor) as returned, each line once."""
    await connection.execute(ADD_RETURNED, order_id, *_columns(units, 3))


async def cancel_parts(connection: Connection, units: Sequence[tuple[UUID, int, int]]) -> None:
    """Takes (fulfillment_order_id, line_number, quantity) from what locations have to bring."""
    await connection.execute(CANCEL_PARTS, *_columns(units, 3))


@step("ledger.count_wrong_code")
async def count_wrong_code(
    connection: Connection, fulfillment_order_id: UUID, code: str, attempt: bytes, failures_max: int
) -> None:
    """Counts a code as a failure if it is wrong, and `attempt` was not counted before. Commits by itself."""
    await connection.execute(COUNT_WRONG_CODE, fulfillment_order_id, code, attempt, failures_max)


async def set_code(connection: Connection, fulfillment_order_id: UUID, salt: bytes, code_hash: bytes) -> None:
    """Gives a pickup a new code, and its failures back."""
    _expect(await connection.execute(SET_CODE, fulfillment_order_id, salt, code_hash), 1, "fulfillment orders")


async def unpack(connection: Connection, fulfillments: Iterable[Fulfillment]) -> None:
    """Forgets the parcels of those that are packed, before what they have to bring changes."""
    packed = [
        f.fulfillment_order_id
        for f in fulfillments
        if (f.kind, f.state) == (FulfillmentKind.SHIP, FulfillmentState.PICKED)
    ]
    if packed:
        await connection.execute(UNPACK, packed)


async def insert_return(
    connection: Connection,
    return_id: UUID,
    order_id: UUID | None,
    *,
    location_id: str,
    channel: str,
    refund_minor: int,
    actor: str,
    units: Sequence[tuple[int, str, str, int, str, int]],
    kind: str,
    customer_id: str,
    currency: str | None = None,
    authorization_id: UUID | None = None,
) -> None:
    """Writes a return of (line_number, disposition, sku, quantity, reason, refund_minor)."""
    await connection.execute(
        INSERT_RETURN, return_id, order_id, location_id, channel, refund_minor, actor, kind, customer_id, currency,
        authorization_id, *_columns(units, 6),
    )  # fmt: skip


async def insert_shortages(
    connection: Connection, broken: Sequence[tuple[UUID, str, str, int]], reference_document: str
) -> None:
    """Writes (shortage_id, location_id, sku, units) of promises that a fact broke."""
    if broken:
        await connection.execute(INSERT_SHORTAGES, *_columns(broken, 4), reference_document)


async def open_count_tasks(
    connection: Connection, positions: Sequence[tuple[UUID, str, str]], reason_code: str, reference_document: str
) -> None:
    """Asks for a count of each (count_task_id, location_id, sku) that none is asked for yet."""
    await connection.execute(OPEN_COUNT_TASKS, *_columns(positions, 3), reason_code, reference_document)


def _columns(rows: Sequence[tuple[Any, ...]], count: int) -> list[list[Any]]:
    return [[row[index] for row in rows] for index in range(count)]


def _expect(command_tag: str, count: int, what: str) -> None:
    changed = int(command_tag.rsplit(" ", 1)[-1])
    if changed != count:
        raise AssertionError(f"{changed} {what} changed, {count} were locked for it")
