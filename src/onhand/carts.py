"""Carts: what a customer means to buy, the same on every channel.

Whoever changes a cart or its lines updates the cart's row first, so changes of one cart come one after the other, and a cart
that was ordered or merged takes no more of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn, TypeVar
from uuid import UUID

import asyncpg

from onhand import paging, wire
from onhand.caller import Caller
from onhand.domain import cart as rules
from onhand.domain import money
from onhand.domain.cart import MAX_QUANTITY, CartLine, UnitPrice
from onhand.domain.errors import (
    AmountTooLarge,
    CartEmpty,
    CartExists,
    CartLocked,
    CartNotFound,
    CartNotOpen,
    CartOfAnotherCustomer,
    CartOrdered,
    CurrencyMismatch,
    OpenCartNotFound,
    PriceNotFound,
    QuantityTooLarge,
    SkuNotFound,
    invalid,
)
from onhand.ids import new_id, parse_id
from onhand.ledger.mutation import Answer, Ledger, Mutation
from onhand.ledger.transaction import Transaction
from onhand.postgres import Connection
from onhand.v1 import cart_pb2 as pb

CREATE_ATTEMPTS_MAX = 5
"""How often a customer's open cart is looked for or made while others make, order or merge it."""

_STATES = {pb.CART_STATE_OPEN: "OPEN", pb.CART_STATE_ORDERED: "ORDERED", pb.CART_STATE_MERGED: "MERGED"}
_STATE_VALUES = {name: value for value, name in _STATES.items()}

CREATE_CART = """
INSERT INTO carts (cart_id, customer_id, channel, currency) VALUES ($1, $2, $3, $4)
    ON CONFLICT (customer_id) WHERE state = 'OPEN' AND customer_id <> '' DO NOTHING RETURNING cart_id"""
# `customer_id <> ''`: else PostgreSQL does not see, whatever the parameter, that the index of customers' carts suffices.
OPEN_CART = "SELECT cart_id, currency FROM carts WHERE customer_id = $1 AND customer_id <> '' AND state = 'OPEN'"
# One row a line, and one with nulls for a cart without lines: one statement sees cart and lines at one moment.
_VIEW = """
SELECT c.cart_id, c.customer_id, c.channel, c.currency, c.state, c.order_id, c.merged_into, c.version, c.created_time,
       c.updated_time, c.locked_for, l.sku, l.quantity, l.added_time, p.name, r.amount_minor, r.price_quantity
  FROM carts c LEFT JOIN cart_lines l USING (cart_id) LEFT JOIN products p USING (sku)
  LEFT JOIN prices r ON r.sku = l.sku AND r.currency = c.currency"""
VIEW_CART = f"{_VIEW} WHERE c.cart_id = $1 ORDER BY l.added_time, l.sku"
VIEW_OPEN_CARTS = (
    f"{_VIEW} WHERE c.cart_id = ANY ($1::uuid[]) AND c.state = 'OPEN' AND c.locked_for IS NULL"
    " ORDER BY c.cart_id, l.added_time, l.sku"
)
VIEW_CUSTOMER_CART = f"""{_VIEW} WHERE c.customer_id = $1 AND c.customer_id <> '' AND c.state = 'OPEN'
 ORDER BY l.added_time, l.sku"""
LIST_CARTS = """
SELECT cart_id, channel, currency, state, order_id, merged_into, created_time, updated_time,
       (SELECT count(*) FROM cart_lines l WHERE l.cart_id = c.cart_id) AS line_count
  FROM carts c
 WHERE customer_id = $1 AND customer_id <> '' AND ($2::text IS NULL OR state = $2) AND ($3::uuid IS NULL OR cart_id < $3)
 ORDER BY cart_id DESC LIMIT $4"""

TOUCH_CART = """
UPDATE carts SET version = version + 1, updated_time = now() WHERE cart_id = $1 AND state = 'OPEN' AND locked_for IS NULL
RETURNING version"""
# It is locked until its checkout ends, and no longer than that one's reservation lasts.
WHY_NOT_OPEN = """
SELECT state, order_id, merged_into, locked_for, (
    SELECT max(k.deadline) FROM claims k
     WHERE k.reservation_id = (SELECT p.reservation_id FROM checkouts p WHERE p.order_id = c.locked_for)) AS locked_until
  FROM carts c WHERE cart_id = $1"""
# No row comes back if the line would hold more than a line may.
ADD_LINE = """
INSERT INTO cart_lines AS l (cart_id, sku, quantity) VALUES ($1, $2, $3)
    ON CONFLICT (cart_id, sku) DO UPDATE SET quantity = l.quantity + excluded.quantity
 WHERE l.quantity + excluded.quantity <= $4 RETURNING quantity"""
LINE_QUANTITY = "SELECT quantity FROM cart_lines WHERE cart_id = $1 AND sku = $2"
SET_LINES = """
INSERT INTO cart_lines (cart_id, sku, quantity) SELECT $1, sku, quantity FROM unnest($2::text[], $3::int8[]) AS t (sku, quantity)
    ON CONFLICT (cart_id, sku) DO UPDATE SET quantity = excluded.quantity"""
REMOVE_LINE = "DELETE FROM cart_lines WHERE cart_id = $1 AND sku = $2"

# The cart and the customer's open one, locked in the order of their ids.
LOCK_FOR_CLAIM = """
SELECT cart_id, customer_id, currency, state, locked_for FROM carts
 WHERE cart_id = $1 OR (customer_id = $2 AND customer_id <> '' AND state = 'OPEN') ORDER BY cart_id FOR UPDATE"""
GIVE_CART = """
UPDATE carts SET customer_id = $2, version = version + 1, updated_time = now()
 WHERE cart_id = $1 AND customer_id = '' AND state = 'OPEN'"""
QUANTITIES = "SELECT cart_id, sku, quantity FROM cart_lines WHERE cart_id = ANY ($1::uuid[])"
CLOSE_MERGED = """
UPDATE carts SET state = 'MERGED', merged_into = $2, version = version + 1, updated_time = now()
 WHERE cart_id = $1 AND state = 'OPEN'"""

LOCK_CART = "SELECT customer_id, channel, currency, state, locked_for FROM carts WHERE cart_id = $1 FOR UPDATE"
# A cart stays what it is while somebody pays for it, so that its etag does too.
KEEP_FOR = "UPDATE carts SET locked_for = $2 WHERE cart_id = $1"
UNLOCK = "UPDATE carts SET locked_for = NULL WHERE cart_id = $1 AND locked_for = $2"
MARK_ORDERED = """
UPDATE carts SET state = 'ORDERED', order_id = $2, locked_for = NULL, version = version + 1, updated_time = now()
 WHERE cart_id = $1 AND state = 'OPEN' RETURNING cart_id"""


@dataclass(frozen=True)
class CartForOrder:
    """An open cart, locked, whose lines all have a price."""

    cart_id: UUID
    customer_id: str
    channel: str
    currency: str
    lines: tuple[CartLine, ...]
    total_minor: int


OpenCart = tuple[CartForOrder, int]
"""With its version."""


GiveUp = Callable[[UUID], Awaitable[bool]]
"""Gives up a checkout, by its order to be, if its reservation is over. Whether it is under way no more."""
Done = TypeVar("Done")


async def unless_over(call: Callable[[], Awaitable[Done]], give_up: GiveUp) -> Done:
    """What a call comes to; once more where a cart was locked for a checkout that is over."""
    try:
        return await call()
    except _Unlocked:
        pass
    except CartLocked as locked:
        if not await give_up(UUID(locked.order_id)):
            raise
    return await call()


class _Unlocked(CartNotOpen):
    """It was locked a moment ago, and is not any more: look again."""


class Carts:
    """CartService."""

    def __init__(self, ledger: Ledger, give_up: GiveUp) -> None:
        self.ledger = ledger
        self._give_up = give_up

    async def create_cart(self, request: pb.CreateCartRequest, caller: Caller) -> pb.CreateCartResponse:
        """A new cart for a guest; for a customer the open one, made if there is none."""
        channel, currency = wire.channel_name(request.channel), request.currency_code
        money.exponent(currency)

        async def work(tx: Transaction) -> pb.CreateCartResponse:
            for _ in range(CREATE_ATTEMPTS_MAX):
                cart_id = new_id()
                row = await tx.connection.fetchrow(CREATE_CART, cart_id, request.customer_id, channel, currency)
                if row is not None:
                    data = {"cart_id": str(cart_id), "customer_id": request.customer_id, "channel": channel}
                    tx.emit("onhand.cart.created.v1", f"cart/{cart_id}", data)
                    return pb.CreateCartResponse(cart=await _view(tx.connection, cart_id))
                open_cart = await tx.connection.fetchrow(OPEN_CART, request.customer_id)
                if open_cart is None:
                    continue  # it was ordered or merged between the two statements
                if open_cart["currency"] != currency:
                    raise CartExists(request.customer_id, str(open_cart["cart_id"]), open_cart["currency"])
                return pb.CreateCartResponse(cart=await _view(tx.connection, open_cart["cart_id"]), is_existing=True)
            raise OpenCartNotFound(request.customer_id)

        return await self.ledger.mutate(request, pb.CreateCartResponse, work)

    async def get_cart(self, request: pb.GetCartRequest, caller: Caller) -> pb.GetCartResponse:
        """A cart with current prices."""
        cart_id = parse_id("cart_id", request.cart_id)
        async with self.ledger.read() as connection:
            return pb.GetCartResponse(cart=await _view(connection, cart_id))

    async def get_customer_cart(self, request: pb.GetCustomerCartRequest, caller: Caller) -> pb.GetCustomerCartResponse:
        """The open cart of a customer with current prices."""
        _check_customer(request.customer_id)
        async with self.ledger.read() as connection:
            rows = await connection.fetch(VIEW_CUSTOMER_CART, request.customer_id)
        if not rows:
            raise OpenCartNotFound(request.customer_id)
        return pb.GetCustomerCartResponse(cart=_cart(rows))

    async def list_carts(self, request: pb.ListCartsRequest, caller: Caller) -> pb.ListCartsResponse:
        """A page of all carts of a customer, newest first."""
        _check_customer(request.customer_id)
        size = paging.page_size(request.page_size)
        (before,) = paging.decode_token(request, UUID) or (None,)
        if request.state and request.state not in _STATES:
            raise invalid("state", "must be a state of CartState")
        state = _STATES.get(request.state)
        async with self.ledger.read() as connection:
            rows = await connection.fetch(LIST_CARTS, request.customer_id, state, before, size + 1)
        page, last = paging.cut(rows, size)
        return pb.ListCartsResponse(
            carts=[_summary(row) for row in page],
            next_page_token=paging.encode_token(request, last["cart_id"]) if last else "",
        )

    async def add_cart_line(self, request: pb.AddCartLineRequest, caller: Caller) -> pb.AddCartLineResponse:
        """Adds a quantity to the line of a sku."""
        cart_id = parse_id("cart_id", request.cart_id)
        sku, quantity = request.line.sku, request.line.quantity
        if not 1 <= quantity <= MAX_QUANTITY:
            raise invalid("line.quantity", f"must be 1 to {MAX_QUANTITY}")

        async def work(tx: Transaction) -> pb.AddCartLineResponse:
            await _touch(tx.connection, cart_id)
            try:
                now_held = await tx.connection.fetchval(ADD_LINE, cart_id, sku, quantity, MAX_QUANTITY)
            except asyncpg.ForeignKeyViolationError:
                raise SkuNotFound(sku) from None
            if now_held is None:
                held = await tx.connection.fetchval(LINE_QUANTITY, cart_id, sku)
                raise QuantityTooLarge(sku, held + quantity, MAX_QUANTITY)
            return pb.AddCartLineResponse(cart=await _line_was_set(tx, cart_id, sku, now_held))

        return await self._change(request, pb.AddCartLineResponse, work)

    async def set_cart_line(self, request: pb.SetCartLineRequest, caller: Caller) -> pb.SetCartLineResponse:
        """Sets the quantity of a sku; 0 removes its line."""
        cart_id = parse_id("cart_id", request.cart_id)
        if not 0 <= request.quantity <= MAX_QUANTITY:
            raise invalid("quantity", f"must be 0 to {MAX_QUANTITY}")

        async def work(tx: Transaction) -> pb.SetCartLineResponse:
            version_before = await _touch(tx.connection, cart_id)
            wire.check_etag(f"cart {cart_id}", request.etag, version_before)
            if request.quantity == 0:
                await tx.connection.execute(REMOVE_LINE, cart_id, request.sku)
            else:
                try:
                    await tx.connection.execute(SET_LINES, cart_id, [request.sku], [request.quantity])
                except asyncpg.ForeignKeyViolationError:
                    raise SkuNotFound(request.sku) from None
            return pb.SetCartLineResponse(cart=await _line_was_set(tx, cart_id, request.sku, request.quantity))

        return await self._change(request, pb.SetCartLineResponse, work)

    async def claim_cart(self, request: pb.ClaimCartRequest, caller: Caller) -> pb.ClaimCartResponse:
        """Makes a guest's cart the customer's, or adds its lines to the customer's open cart."""
        cart_id = parse_id("cart_id", request.cart_id)
        customer_id = request.customer_id
        _check_customer(customer_id)

        async def work(tx: Transaction) -> pb.ClaimCartResponse:
            for _ in range(CREATE_ATTEMPTS_MAX):
                try:
                    claimed_id = await _claim(tx.connection, cart_id, customer_id)
                except asyncpg.UniqueViolationError:
                    continue  # the customer got an open cart meanwhile: merge into that
                cart = await _view(tx.connection, claimed_id)
                data = {"cart_id": str(claimed_id), "customer_id": customer_id, "claimed_cart_id": str(cart_id)}
                tx.emit("onhand.cart.claimed.v1", f"cart/{claimed_id}", data)
                return pb.ClaimCartResponse(cart=cart)
            raise OpenCartNotFound(customer_id)

        return await self._change(request, pb.ClaimCartResponse, work)

    async def _change(
        self, request: Mutation, response_type: type[Answer], work: Callable[[Transaction], Awaitable[Answer]]
    ) -> Answer:
        return await unless_over(lambda: self.ledger.mutate(request, response_type, work), self._give_up)


async def read_cart_for_order(connection: Connection, cart_id: UUID, order_id: UUID | None = None) -> CartForOrder:
    """Locks an open cart and reads it with current prices, in a transaction that will make this order of it.

    Raises `CartNotFound`, `CartNotOpen`, `CartLocked`, `CartEmpty`, `PriceNotFound`, `AmountTooLarge`.
    """
    row = await connection.fetchrow(LOCK_CART, cart_id)
    if row is None or row["state"] != "OPEN" or row["locked_for"] not in (None, order_id):
        await _refuse_not_open(connection, cart_id)
    # Read after the lock was had, not with it: a statement that waited still sees the lines of before.
    lines = _lines(await connection.fetch(VIEW_CART, cart_id))
    if not lines:
        raise CartEmpty(str(cart_id))
    if unpriced := rules.unpriced(lines):
        raise PriceNotFound(unpriced[0], row["currency"])
    return CartForOrder(cart_id, row["customer_id"], row["channel"], row["currency"], tuple(lines), rules.total(lines))


def priced(cart: CartForOrder, agreed: Mapping[str, UnitPrice]) -> CartForOrder:
    """A cart at prices that the customer agreed to before."""
    lines = tuple(replace(line, price=agreed.get(line.sku)) for line in cart.lines)
    return replace(cart, lines=lines, total_minor=rules.total(lines))


async def keep_for(connection: Connection, cart_id: UUID, order_id: UUID) -> None:
    """Nobody but this order to be changes or orders a cart, that this transaction has locked, from now on."""
    await connection.execute(KEEP_FOR, cart_id, order_id)


async def unlock(connection: Connection, cart_id: UUID, order_id: UUID) -> None:
    """An order is not to be: its cart is as any other."""
    await connection.execute(UNLOCK, cart_id, order_id)


async def read_open_carts(connection: Connection, cart_ids: Sequence[UUID]) -> dict[UUID, OpenCart]:
    """Carts as `read_cart_for_order` reads them, but not locked: the version tells whether one is still the same.

    Those that it would refuse are absent.
    """
    of_cart: dict[UUID, list[Any]] = {}
    for row in await connection.fetch(VIEW_OPEN_CARTS, cart_ids):
        of_cart.setdefault(row["cart_id"], []).append(row)
    found: dict[UUID, OpenCart] = {}
    for cart_id, rows in of_cart.items():
        first, lines = rows[0], _lines(rows)
        if not lines or rules.unpriced(lines):
            continue
        try:
            total_minor = rules.total(lines)
        except AmountTooLarge:
            continue
        cart = CartForOrder(
            cart_id, first["customer_id"], first["channel"], first["currency"], tuple(lines), total_minor
        )
        found[cart_id] = cart, first["version"]
    return found


async def mark_ordered(connection: Connection, cart_id: UUID, order_id: UUID) -> None:
    """Closes an open cart for the order that it became. Raises `CartNotFound`, `CartNotOpen`."""
    if await connection.fetchval(MARK_ORDERED, cart_id, order_id) is None:
        await _refuse_not_open(connection, cart_id)


async def _touch(connection: Connection, cart_id: UUID) -> int:
    """Locks an open cart for a change of its lines; the version it had. Raises `CartNotFound`, `CartNotOpen`, `CartLocked`."""
    version: int | None = await connection.fetchval(TOUCH_CART, cart_id)
    if version is None:
        await _refuse_not_open(connection, cart_id)
    return version - 1


async def _refuse_not_open(connection: Connection, cart_id: UUID) -> NoReturn:
    row = await connection.fetchrow(WHY_NOT_OPEN, cart_id)
    if row is None:
        raise CartNotFound(str(cart_id))
    if row["locked_for"]:
        raise CartLocked(str(cart_id), str(row["locked_for"]), row["locked_until"].isoformat())
    if row["state"] == "OPEN":
        raise _Unlocked(str(cart_id), row["state"], "")
    if row["order_id"]:
        raise CartOrdered(str(cart_id), row["state"], f"order {row['order_id']}", str(row["order_id"]))
    raise CartNotOpen(str(cart_id), row["state"], f"cart {row['merged_into']}")


async def _line_was_set(tx: Transaction, cart_id: UUID, sku: str, quantity: int) -> pb.Cart:
    """The cart after a change of a line, if it may be so."""
    cart = await _view(tx.connection, cart_id)
    rules.check_line_count(cart.cart_id, len(cart.lines))
    data = {"cart_id": cart.cart_id, "customer_id": cart.customer_id, "sku": sku, "quantity": quantity}
    tx.emit("onhand.cart.line_set.v1", f"cart/{cart_id}", data)
    return cart


async def _claim(connection: Connection, cart_id: UUID, customer_id: str) -> UUID:
    """The customer's open cart after the claim. Raises UniqueViolationError, without effect, if one was made meanwhile."""
    rows = {row["cart_id"]: row for row in await connection.fetch(LOCK_FOR_CLAIM, cart_id, customer_id)}
    cart = rows.pop(cart_id, None)
    if cart is None or cart["state"] != "OPEN" or cart["locked_for"]:
        await _refuse_not_open(connection, cart_id)
    if cart["customer_id"] == customer_id:
        return cart_id
    if cart["customer_id"]:
        raise CartOfAnotherCustomer(str(cart_id))
    if not rows:
        async with connection.transaction():
            await connection.execute(GIVE_CART, cart_id, customer_id)
        return cart_id
    target_id: UUID
    ((target_id, target),) = rows.items()
    if target["locked_for"]:
        await _refuse_not_open(connection, target_id)
    if target["currency"] != cart["currency"]:
        raise CurrencyMismatch(target["currency"], cart["currency"])
    held: dict[UUID, dict[str, int]] = {target_id: {}, cart_id: {}}
    for row in await connection.fetch(QUANTITIES, list(held)):
        held[row["cart_id"]][row["sku"]] = row["quantity"]
    merged = rules.merged(str(target_id), held[target_id], held[cart_id])
    added = sorted(held[cart_id])
    await connection.execute(SET_LINES, target_id, added, [merged[sku] for sku in added])
    await connection.execute(CLOSE_MERGED, cart_id, target_id)
    await _touch(connection, target_id)
    return target_id


async def _view(connection: Connection, cart_id: UUID) -> pb.Cart:
    rows = await connection.fetch(VIEW_CART, cart_id)
    if not rows:
        raise CartNotFound(str(cart_id))
    return _cart(rows)


def _check_customer(customer_id: str) -> None:
    if not customer_id:
        raise invalid("customer_id", "must be given")


def _lines(rows: Sequence[asyncpg.Record]) -> list[CartLine]:
    return [
        CartLine(
            row["sku"],
            row["quantity"],
            None if row["amount_minor"] is None else UnitPrice(row["amount_minor"], row["price_quantity"]),
        )
        for row in rows
        if row["sku"] is not None
    ]


def _cart(rows: Sequence[asyncpg.Record]) -> pb.Cart:
    """The message of a cart, from the rows of a view."""
    head = rows[0]
    cart = pb.Cart(
        cart_id=str(head["cart_id"]),
        customer_id=head["customer_id"],
        channel=wire.channel_value(head["channel"]),
        currency_code=head["currency"],
        state=_STATE_VALUES[head["state"]],
        order_id=_text(head["order_id"]),
        merged_into_cart_id=_text(head["merged_into"]),
        etag=wire.etag(head["version"]),
        locked_for_order_id=_text(head["locked_for"]),
        created_time=wire.timestamp(head["created_time"]),
        updated_time=wire.timestamp(head["updated_time"]),
    )
    lines, is_open = _lines(rows), head["state"] == "OPEN"
    for line, row in zip(lines, rows, strict=False):  # a cart without lines has a row all the same
        message = cart.lines.add(
            sku=line.sku, name=row["name"], quantity=line.quantity, added_time=wire.timestamp(row["added_time"])
        )
        if is_open and line.price is not None and line.total_minor is not None:
            message.amount.CopyFrom(wire.money_to_wire(line.price.amount_minor, cart.currency_code))
            message.price_quantity = line.price.price_quantity
            message.total.CopyFrom(wire.money_to_wire(line.total_minor, cart.currency_code))
    if is_open:
        cart.total.CopyFrom(wire.money_to_wire(rules.total(lines), cart.currency_code))
        cart.unpriced_skus.extend(rules.unpriced(lines))
    return cart


def _summary(row: asyncpg.Record) -> pb.CartSummary:
    return pb.CartSummary(
        cart_id=str(row["cart_id"]),
        channel=wire.channel_value(row["channel"]),
        currency_code=row["currency"],
        state=_STATE_VALUES[row["state"]],
        line_count=row["line_count"],
        order_id=_text(row["order_id"]),
        merged_into_cart_id=_text(row["merged_into"]),
        created_time=wire.timestamp(row["created_time"]),
        updated_time=wire.timestamp(row["updated_time"]),
    )


def _text(value: UUID | None) -> str:
    return "" if value is None else str(value)
