"""What a store of a size consists of, as a few large statements.

Everything follows from numbers: position p is at location p / skus per location; the n-th reservation, sale and order is of one
pair of neighbouring positions, spread so that those made one after the other are far apart. Answers of requests are those that
the server would have given, with their ids laid over.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from google.protobuf.message import Message

from onhand.bench.growth.size import CURRENCY, OPENING_UNITS, PRICE_MINOR, Size
from onhand.v1 import inventory_pb2, order_pb2, types_pb2
from onhand.wire import money_to_wire, timestamp

RECEIPT_UNITS = 12
"""Units of every position that came in by a numbered increase."""
DEADLINE_DAYS = 30
"""How far away the deadlines of reservations are: none expires while anything is measured."""
SPREAD = 0.6180339887
"""Neighbours in time are this part of all pairs apart."""
CUSTOMERS = 50_000
"""Customers that reservations, sales and orders are of."""

# As long as what is laid over them.
PLACE = "#PLACE"
SKUS = ("#SKU..1", "#SKU..2")
CUSTOMER = "#CUSTOM."
NUMBER = "#ORDER.NUMBER."
RESERVATION, ORDER, WORK = (f"{mark:.<36}" for mark in ("#RESERVATION", "#ORDER.ID", "#WORK"))


def fill(size: Size, now: datetime) -> Sequence[tuple[str, str]]:
    """The statements that fill an empty ledger, each with what it makes."""
    s = _Rows(size, now)
    rounds, rest = divmod(size.stock_movements, size.positions)
    statements = [
        ("locations", s.locations()),
        ("products", s.products()),
        ("levels", s.levels(rounds, rest)),
        ("movements: opening stock", s.moved(OPENING_UNITS, "supplier", "available", "OPENING_STOCK", "'import/seed'")),
    ]
    if rounds >= 2:
        statements += [
            ("movements: receipts", s.moved(RECEIPT_UNITS, "supplier", "available", "RECEIPT", "'receipt/seed'")),
            ("increases", s.increases()),
        ]
    if rounds >= 3:
        statements.append(("movements: damage", s.moved(1, "available", "damaged", "DAMAGED", "''")))
    if rounds >= 4:
        statements.append(("movements: write-offs", s.moved(1, "damaged", "adjustment", "WRITTEN_OFF", "''")))
    for number in range(4, rounds):
        statements.append((f"movements: count {number - 3}", s.moved(1, "available", "adjustment", "COUNT", "''")))
    if rest:
        statements.append(
            ("movements: last count", s.moved(1, "available", "adjustment", "COUNT", "''", f"p < {rest}"))
        )
    return [*statements, *s.reserved(), *s.sold(), *s.ordered()]


class _Rows:
    """SQL of a size: expressions of a position `p`, and of `n`, the number of a reservation, sale or order."""

    def __init__(self, size: Size, now: datetime) -> None:
        self.size = size
        self.now_ms = int(now.timestamp() * 1000)
        self.now = now
        self.deadline = now + timedelta(days=DEADLINE_DAYS)
        pairs = size.pairs
        self._step = next(k for k in range(max(1, int(pairs * SPREAD)), pairs + 2) if math.gcd(k, pairs) == 1)

    # -------------------------------------------------------------------------------------------------- names of things
    def location(self, p: str) -> str:
        return f"('L' || lpad((({p}) / {self.size.skus_per_location})::text, 5, '0'))"

    def sku(self, p: str) -> str:
        per, blocks = self.size.skus_per_location, self.size.blocks
        return f"('S' || lpad(((({p}) / {per}) % {blocks} * {per} + ({p}) % {per})::text, 6, '0'))"

    def pair(self, n: str) -> str:
        return f"((({n})::int8 * {self._step}) % {self.size.pairs})"

    def taken(self, p: str, count: int) -> str:
        """How many of `count` reservations, sales or orders are of the pair of a position."""
        whole, rest = divmod(count, self.size.pairs)
        if not rest:
            return str(whole)
        inverse = pow(self._step, -1, self.size.pairs) if self.size.pairs > 1 else 0
        return f"({whole} + ((({p}) / 2)::int8 * {inverse} % {self.size.pairs} < {rest})::int)"

    def id(self, kind: str, n: str) -> str:
        """A UUID as the server makes them, growing with n. `kind`: three hexadecimal digits."""
        return f"(lpad(to_hex({self.now_ms} - 86400000 + ({n})), 12, '0') || '7{kind}8' || lpad(to_hex({n}), 15, '0'))::uuid"

    def customer(self, n: str) -> str:
        return f"('C' || lpad((({n})::int8 * 7919 % {CUSTOMERS})::text, 7, '0'))"

    def number(self, kind: str, n: str) -> str:
        """A number that people say, another for every n: an odd factor permutes what 48 bits can say."""
        letters = f"translate(lpad(to_hex((({n})::int8 * 2 + {kind}) * 8589934609 % 281474976710656), 12, '0'),"
        letters += " '0123456789abcdef', 'ABCDEFGHJKMNPQRS')"
        return f"regexp_replace({letters}, '^(....)(....)(....)$', '\\1-\\2-\\3')"

    def lines(self) -> str:
        return "jsonb_build_array(jsonb_build_array(a.sku, 1), jsonb_build_array(b.sku, 1))"

    def of_each(self, count: int) -> str:
        """FROM: every n below count with its location and its two skus."""
        pair = self.pair("n")
        return f"""generate_series(0, {count - 1}) AS n
 CROSS JOIN LATERAL (SELECT {self.location(f"2 * {pair}")} AS location_id) AS l
 CROSS JOIN LATERAL (SELECT {self.sku(f"2 * {pair}")} AS sku) AS a
 CROSS JOIN LATERAL (SELECT {self.sku(f"2 * {pair} + 1")} AS sku) AS b"""

    # ------------------------------------------------------------------------------------------------- places and stock
    def locations(self) -> str:
        return f"""
WITH made AS (
    INSERT INTO locations (location_id, kind, name, latitude, longitude)
    SELECT 'L' || lpad(n::text, 5, '0'), 'STORE', 'Store ' || n, 25 + n % 1000 * 0.024, -120 + n / 1000 * 5 + n % 7 * 0.1
      FROM generate_series(0, {self.size.locations - 1}) AS n RETURNING location_id),
heads AS (INSERT INTO location_delta_heads (location_id) SELECT location_id FROM made)
INSERT INTO location_epochs (location_id) SELECT location_id FROM made"""

    def products(self) -> str:
        return f"""
WITH made AS (
    INSERT INTO products (sku, name, department, category)
    SELECT 'S' || lpad(n::text, 6, '0'), 'Item ' || n, 'Department ' || n % 20, 'Category ' || n % 300
      FROM generate_series(0, {self.size.products - 1}) AS n RETURNING sku)
INSERT INTO prices (sku, currency, amount_minor) SELECT sku, '{CURRENCY}', {PRICE_MINOR} FROM made"""

    def levels(self, rounds: int, rest: int) -> str:
        size = self.size
        units = OPENING_UNITS + (RECEIPT_UNITS if rounds >= 2 else 0) - (rounds >= 3) - max(0, rounds - 4)
        taken = f"{self.taken('p', size.sales)} - {self.taken('p', size.orders)} - (p < {rest})::int"
        return f"""
INSERT INTO stock_levels (location_id, sku, available, allocated, damaged)
SELECT {self.location("p")}, {self.sku("p")}, {units} - {taken}, {self.taken("p", size.orders)}, {int(rounds == 3)}
  FROM generate_series(0, {size.positions - 1}) AS p"""

    def moved(self, units: int, source: str, target: str, reason: str, document: str, where: str = "true") -> str:
        return f"""
INSERT INTO stock_movements (location_id, sku, quantity, from_bucket, to_bucket, reason_code, reference_document, actor)
SELECT {self.location("p")}, {self.sku("p")}, {units}, '{source}', '{target}', '{reason}', {document}, 'seed'
  FROM generate_series(0, {self.size.positions - 1}) AS p WHERE {where}"""

    def increases(self) -> str:
        return f"""
WITH made AS (
    INSERT INTO gate_deltas (location_id, number, lines)
    SELECT {self.location("p")}, 1, jsonb_agg(jsonb_build_array({self.sku("p")}, {RECEIPT_UNITS}, NULL) ORDER BY p)
      FROM generate_series(0, {self.size.positions - 1}) AS p GROUP BY 1 RETURNING location_id)
UPDATE location_delta_heads h SET last_number = 1 FROM made WHERE h.location_id = made.location_id"""

    # -------------------------------------------------------------------------------------- reservations, sales, orders
    def requests(self, what: str, method: str, count: int, answer: str) -> str:
        return f"""
INSERT INTO requests (request_id, method, body_hash, response)
SELECT md5('{what}' || n)::uuid::text, '{method}', decode(md5(n::text), 'hex'), {answer} FROM {self.of_each(count)}"""

    def reservation(self) -> Message:
        line = [types_pb2.BasketLine(sku=sku, quantity=1) for sku in SKUS]
        return inventory_pb2.ReserveResponse(
            reservation=inventory_pb2.Reservation(
                reservation_id=RESERVATION,
                state=inventory_pb2.RESERVATION_STATE_ACTIVE,
                baskets=[inventory_pb2.LocationBasket(location_id=PLACE, lines=line)],
                channel=types_pb2.CHANNEL_WEB,
                customer_id=CUSTOMER,
                expire_time=timestamp(self.deadline),
            )
        )

    def reserved(self) -> list[tuple[str, str]]:
        """Active reservations, as Reserve leaves them."""
        count = self.size.reservations
        if not count:
            return []
        reservation_id = self.id("0a1", "n")
        answer = laid_over(self.reservation(), self._marks(reservation_id=reservation_id))
        claims = f"""
INSERT INTO claims (location_id, claim_id, reservation_id, state, channel, customer_id, lines, deadline)
SELECT l.location_id, {self.id("0a0", "n")}, {reservation_id}, 'active', 'WEB', {self.customer("n")}, {self.lines()},
       '{self.deadline.isoformat()}'
  FROM {self.of_each(count)}"""
        return [
            ("active reservations", claims),
            ("their requests", self.requests("reserve", "ReserveRequest", count, answer)),
        ]

    def order(self, *, is_sale: bool) -> order_pb2.Order:
        state = order_pb2.FULFILLMENT_STATE_PICKED_UP if is_sale else order_pb2.FULFILLMENT_STATE_REQUESTED
        price = money_to_wire(PRICE_MINOR, CURRENCY)
        skus = list(enumerate(SKUS, 1))
        return order_pb2.Order(
            order_id=ORDER,
            order_number=NUMBER,
            customer_id=CUSTOMER,
            channel=types_pb2.CHANNEL_POS if is_sale else types_pb2.CHANNEL_WEB,
            state=order_pb2.ORDER_STATE_COMPLETED if is_sale else order_pb2.ORDER_STATE_OPEN,
            lines=[
                order_pb2.OrderLine(
                    line_number=n,
                    sku=sku,
                    quantity=1,
                    fulfilled_quantity=int(is_sale),
                    price=price,
                    price_quantity=1,
                    total=price,
                )
                for n, sku in skus
            ],
            fulfillment_orders=[
                order_pb2.FulfillmentOrder(
                    fulfillment_order_id=WORK,
                    order_id=ORDER,
                    order_number=NUMBER,
                    location_id=PLACE,
                    kind=order_pb2.FULFILLMENT_KIND_CARRY_OUT if is_sale else order_pb2.FULFILLMENT_KIND_PICKUP,
                    state=state,
                    lines=[order_pb2.FulfillmentLine(line_number=n, sku=sku, quantity=1) for n, sku in skus],
                )
            ],
            tenders=[
                order_pb2.Tender(kind=order_pb2.TENDER_KIND_CARD, amount=money_to_wire(2 * PRICE_MINOR, CURRENCY))
            ],
            total=money_to_wire(2 * PRICE_MINOR, CURRENCY),
            reservation_id="" if is_sale else RESERVATION,
            placed_time=timestamp(self.now),
            created_time=timestamp(self.now),
            updated_time=timestamp(self.now),
        )

    def sold(self) -> list[tuple[str, str]]:
        """Sales at the till, each with the claim that it consumed."""
        count = self.size.sales
        if not count:
            return []
        claims = f"""
INSERT INTO claims (location_id, claim_id, state, lines, deadline, closed_time)
SELECT l.location_id, {self.id("0b0", "n")}, 'consumed', {self.lines()}, now(), now() FROM {self.of_each(count)}"""
        answer = laid_over(
            order_pb2.SellResponse(order=self.order(is_sale=True)), self._marks(*self._order_ids(is_sale=True))
        )
        return [
            ("sales: claims", claims),
            *self._orders(count, is_sale=True),
            ("sales: requests", self.requests("sell", "SellRequest", count, answer)),
        ]

    def ordered(self) -> list[tuple[str, str]]:
        """Orders to be picked up, each with the reservation that it confirmed."""
        count = self.size.orders
        if not count:
            return []
        order_id, _, _, _, reservation_id = self._order_ids(is_sale=False)
        claims = f"""
INSERT INTO claims (location_id, claim_id, reservation_id, state, channel, customer_id, lines, deadline, order_id, closed_time)
SELECT l.location_id, {self.id("0c0", "n")}, {reservation_id}, 'confirmed', 'WEB', {self.customer("n")}, {self.lines()}, now(),
       {order_id}, now()
  FROM {self.of_each(count)}"""
        marks = self._marks(*self._order_ids(is_sale=False))
        placed = laid_over(order_pb2.PlaceOrderResponse(order=self.order(is_sale=False)), marks)
        return [
            ("orders: claims", claims),
            *self._orders(count, is_sale=False),
            ("orders: requests", self.requests("place", "PlaceOrderRequest", count, placed)),
            (
                "orders: requests of their reservations",
                self.requests("order", "ReserveRequest", count, laid_over(self.reservation(), marks)),
            ),
        ]

    def _order_ids(self, *, is_sale: bool) -> tuple[str, str, str, str, str]:
        """Expressions of order id, order number, fulfillment order id, customer, reservation id."""
        kind = "0b" if is_sale else "0c"
        reservation_id = "NULL::uuid" if is_sale else self.id("0c3", "n")
        number = self.number(str(int(is_sale)), "n")
        return self.id(kind + "1", "n"), number, self.id(kind + "2", "n"), self.customer("n"), reservation_id

    def _orders(self, count: int, *, is_sale: bool) -> list[tuple[str, str]]:
        order_id, number, work_id, customer, reservation_id = self._order_ids(is_sale=is_sale)
        of_each = self.of_each(count)
        what = "sales" if is_sale else "orders"
        state, channel, reason = ("COMPLETED", "POS", "SALE") if is_sale else ("OPEN", "WEB", "ORDER_PLACED")
        kind, work_state, code = (
            ("CARRY_OUT", "PICKED_UP", "NULL")
            if is_sale
            else ("PICKUP", "REQUESTED", "sha256(convert_to(n::text, 'UTF8'))")
        )
        bucket, event = ("customer", "onhand.sale.recorded.v1") if is_sale else ("allocated", "onhand.order.placed.v1")
        two = "CROSS JOIN LATERAL (VALUES (1, a.sku), (2, b.sku)) AS line (number, sku)"
        location = "l.location_id" if is_sale else "NULL"
        return [
            (
                what,
                f"""
INSERT INTO orders (order_id, order_number, customer_id, channel, currency, state, total_minor, reservation_id, actor, placed_time)
SELECT {order_id}, {number}, {customer}, '{channel}', '{CURRENCY}', '{state}', {2 * PRICE_MINOR}, {reservation_id}, 'seed', now()
  FROM {of_each}""",
            ),
            (
                f"{what}: lines",
                f"""
INSERT INTO order_lines (order_id, line_number, sku, quantity, amount_minor, price_quantity, total_minor, fulfilled_quantity)
SELECT {order_id}, line.number, line.sku, 1, {PRICE_MINOR}, 1, {PRICE_MINOR}, {int(is_sale)} FROM {of_each} {two}""",
            ),
            (
                f"{what}: work",
                f"""
INSERT INTO fulfillment_orders (fulfillment_order_id, order_id, location_id, kind, state, pickup_code_salt, pickup_code_hash)
SELECT {work_id}, {order_id}, l.location_id, '{kind}', '{work_state}', {code}, {code} FROM {of_each}""",
            ),
            (
                f"{what}: lines of work",
                f"""
INSERT INTO fulfillment_lines (fulfillment_order_id, line_number, sku, quantity)
SELECT {work_id}, line.number, line.sku, 1 FROM {of_each} {two}""",
            ),
            (
                f"{what}: tenders",
                f"""
INSERT INTO tenders (order_id, tender_number, kind, amount_minor, authorized_minor, captured_minor)
SELECT {order_id}, 1, 'CARD', {2 * PRICE_MINOR}, {2 * PRICE_MINOR}, {2 * PRICE_MINOR} FROM generate_series(0, {count - 1}) AS n""",
            ),
            (
                f"{what}: events",
                f"""
INSERT INTO events (event_id, type, subject, location_id, data)
SELECT gen_random_uuid(), '{event}', 'order/' || {order_id}, {location},
       jsonb_build_object('order_id', {order_id}, 'customer_id', {customer}, 'channel', '{channel}',
                          'total_minor', {2 * PRICE_MINOR})
  FROM {of_each}""",
            ),
            (
                f"{what}: movements",
                f"""
INSERT INTO stock_movements (location_id, sku, quantity, from_bucket, to_bucket, reason_code, reference_document, channel, actor)
SELECT l.location_id, line.sku, 1, 'available', '{bucket}', '{reason}', 'order/' || {order_id}, '{channel}', 'seed'
  FROM {of_each} {two}""",
            ),
        ]

    def _marks(
        self, order_id: str = "", number: str = "", work_id: str = "", customer: str = "", reservation_id: str = ""
    ) -> Mapping[str, str]:
        return {
            ORDER: f"{order_id}::text",
            NUMBER: number,
            WORK: f"{work_id}::text",
            CUSTOMER: customer or self.customer("n"),
            RESERVATION: f"{reservation_id}::text",
            PLACE: "l.location_id",
            SKUS[0]: "a.sku",
            SKUS[1]: "b.sku",
        }


def laid_over(message: Message, marks: Mapping[str, str]) -> str:
    """An SQL expression of a message's bytes, with text expressions in the place of marks of the same length."""
    parts: list[str | bytes] = [message.SerializeToString()]
    for mark, expression in marks.items():
        split: list[str | bytes] = []
        for part in parts:
            if isinstance(part, str):
                split.append(part)
                continue
            for n, piece in enumerate(part.split(mark.encode())):
                split += [f"convert_to({expression}, 'UTF8')", piece] if n else [piece]
        parts = split
    return " || ".join(part if isinstance(part, str) else f"'\\x{part.hex()}'::bytea" for part in parts if part)
