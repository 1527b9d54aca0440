"""PlaceOrder in rounds: what is asked for at the same time is read together, and written in one transaction.

Only what is plain goes in a round. A repeat, a refusal, and whatever else needs a second look goes its own way
(`place.place_alone`), which alone says why an order is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from onhand import carts
from onhand.caller import Caller
from onhand.carts import unless_over
from onhand.crash import step
from onhand.domain.cart import UnitPrice
from onhand.domain.errors import Refusal
from onhand.domain.order import FulfillmentKind
from onhand.domain.stock import Bucket
from onhand.ids import new_id
from onhand.ledger.claims import ConfirmedClaim
from onhand.ledger.mutation import Ledger
from onhand.orders import together
from onhand.orders.answers import fill_new_order
from onhand.orders.checkouts import Checkouts
from onhand.orders.payments import is_paid_outside, is_recorded_only
from onhand.orders.place import REASON, Checkout, check_reservation, checkout, events_of, new_order, place_alone
from onhand.orders.together import NotAsPlanned, Planned, Statement, Taking
from onhand.postgres import to_json
from onhand.reservations.combiner import Combiner
from onhand.v1 import order_pb2 as pb

log = logging.getLogger(__name__)

# A row a line of what is reserved, none for a request that is known. What is looked up for a line is looked up by its key
# whatever the planner thinks of how many there are: hence the LIMIT. `is_plain`: nothing about it needs a second look.
READ = """
SELECT w.place, c.location_id, c.claim_id, c.channel, c.customer_id, line ->> 0 AS sku, (line ->> 1)::int8 AS quantity, p.name,
       r.amount_minor, r.price_quantity, l.offers_pickup, l.offers_shipping,
       c.state = 'active' AND c.deadline > now() AND c.pinned_for IS NULL AND s.is_there
           AND l.daily_orders_max = 0 AND l.daily_units_max = 0 AS is_plain, now() AS now
  FROM unnest($1::uuid[], $2::text[], $3::text[]) WITH ORDINALITY AS w (reservation_id, currency, request_id, place)
 CROSS JOIN LATERAL (
    SELECT location_id, claim_id, channel, customer_id, lines, state, deadline, pinned_for FROM claims
     WHERE reservation_id = w.reservation_id AND state IN ('active', 'expired') OFFSET 0) AS c
 CROSS JOIN LATERAL jsonb_array_elements(c.lines) AS line
 CROSS JOIN LATERAL (SELECT name FROM products WHERE sku = line ->> 0 LIMIT 1) AS p
  LEFT JOIN LATERAL (
    SELECT amount_minor, price_quantity FROM prices WHERE sku = line ->> 0 AND currency = w.currency LIMIT 1) AS r ON true
 CROSS JOIN LATERAL (
    SELECT offers_pickup, offers_shipping, daily_orders_max, daily_units_max FROM locations
     WHERE location_id = c.location_id LIMIT 1) AS l
  LEFT JOIN LATERAL (
    SELECT available >= (line ->> 1)::int8 AND overdrawn_time IS NULL AND backorder_limit = 0 AS is_there FROM stock_levels
     WHERE location_id = c.location_id AND sku = line ->> 0 LIMIT 1) AS s ON true
 WHERE (SELECT true FROM requests q WHERE q.request_id = w.request_id) IS NULL"""
WRITE = Statement(together.PLACE)


class Placing:
    """The orders that a process places."""

    def __init__(self, ledger: Ledger, checkouts: Checkouts) -> None:
        self._ledger = ledger
        self._checkouts = checkouts
        self._rounds: Combiner[Checkout, pb.PlaceOrderResponse | None] = Combiner(
            "orders",
            self._round,
            round_items_max=together.ROUND_ITEMS_MAX,
            rounds_at_once_max=together.ROUNDS_AT_ONCE_MAX,
            linger_seconds=together.LINGER_SECONDS,
        )

    async def place_order(self, request: pb.PlaceOrderRequest, caller: Caller) -> pb.PlaceOrderResponse:
        """OrderService.PlaceOrder."""
        wanted = checkout(request, caller)
        if is_recorded_only(request.tenders):
            placed = await self._rounds.submit(wanted)
            if placed is not None:
                return placed
        return await unless_over(lambda: self._place(wanted), self._checkouts.give_up)

    async def _place(self, wanted: Checkout) -> pb.PlaceOrderResponse:
        if is_paid_outside(wanted.request.tenders):
            return await self._checkouts.place(wanted)
        return await place_alone(self._ledger, wanted)

    async def _round(self, wanted: Sequence[Checkout]) -> list[pb.PlaceOrderResponse | None]:
        """The answers; None to whom it is for itself. Raises LedgerUnavailable: the outcome is unknown of all."""
        places: dict[int, Checkout] = {}
        requests, once = set[str](), set[UUID]()
        for place, each in enumerate(wanted):
            # Of a cart, too, there is one order.
            ids = {each.reservation_id} if each.cart_id is None else {each.reservation_id, each.cart_id}
            if each.request.request_id not in requests and not ids & once:
                places[place] = each
                requests.add(each.request.request_id)
                once |= ids
        answers: list[pb.PlaceOrderResponse | None] = [None] * len(wanted)
        for _ in range(together.ATTEMPTS_MAX):
            planned = await self._plan(places)
            if not planned:
                break
            try:
                await self._write(list(planned.values()))
            except NotAsPlanned as error:
                log.info("a round of %d orders: %s", len(planned), error)
                places = {place: places[place] for place in planned}
                continue
            for place, plan in planned.items():
                answers[place] = plan.response
            await self._ledger.follow(together.settlements(planned.values()))
            break
        return answers

    async def _plan(self, places: Mapping[int, Checkout]) -> dict[int, Planned[pb.PlaceOrderResponse]]:
        """The plain orders, by their place in the round."""
        wanted = list(places.values())
        rows, open_carts = await self._read(wanted)
        of_place: dict[int, list[Any]] = {}
        for row in rows:
            of_place.setdefault(row[0], []).append(row)
        planned: dict[int, Planned[pb.PlaceOrderResponse]] = {}
        for number, (place, each) in enumerate(places.items(), 1):
            found = of_place.get(number)
            if found is None:
                continue
            try:
                plan = _planned(each, found, open_carts)
            except Refusal:
                continue  # it is said by whoever looks at it alone
            except Exception:  # of this order alone: it fails, or is mended, by itself
                log.exception("an order cannot go in a round")
                continue
            if plan is not None:
                planned[place] = plan
        return planned

    @step("ledger.read_reserved")
    async def _read(self, wanted: Sequence[Checkout]) -> tuple[Sequence[Any], Mapping[UUID, carts.OpenCart]]:
        async with self._ledger.database.connection() as connection:
            rows = await connection.fetch(
                READ,
                [each.reservation_id for each in wanted],
                [each.request.currency_code for each in wanted],
                [each.request.request_id for each in wanted],
            )
            cart_ids = [each.cart_id for each in wanted if each.cart_id is not None]
            return rows, await carts.read_open_carts(connection, cart_ids) if cart_ids else {}

    @step("ledger.place_orders", model=("confirm",))
    async def _write(self, planned: Sequence[Planned[pb.PlaceOrderResponse]]) -> None:
        """Raises NotAsPlanned."""
        columns = together.columns(planned, Bucket.ALLOCATED.value, REASON)
        async with self._ledger.database.connection() as connection:
            await WRITE.write(connection, columns)


def _planned(
    wanted: Checkout, rows: Sequence[Any], open_carts: Mapping[UUID, carts.OpenCart]
) -> Planned[pb.PlaceOrderResponse] | None:
    """The order that rows of READ make; None where it is not plain. Raises the refusals of `place.new_order`."""
    claims: dict[str, ConfirmedClaim] = {}
    prices: dict[str, UnitPrice] = {}
    names: dict[str, str] = {}
    for row in rows:
        _, location_id, claim_id, channel, customer_id, sku, quantity, name, *price, pickup, shipping, is_plain, _ = row
        kind = wanted.choices.get(location_id)
        if not is_plain or not (pickup if kind is FulfillmentKind.PICKUP else shipping):
            return None
        claim = claims.get(location_id)
        if claim is None:
            claim = claims[location_id] = ConfirmedClaim(location_id, claim_id, [], channel, customer_id)
        claim.lines.append((sku, quantity))
        names[sku] = name
        if price[0] is not None:
            prices[sku] = UnitPrice(*price)
    made_time, cart, version = rows[0][-1], None, 0
    if wanted.cart_id is not None:
        if wanted.cart_id not in open_carts:
            return None
        cart, version = open_carts[wanted.cart_id]
    held = [claims[location_id] for location_id in sorted(claims)]
    for claim in held:
        claim.lines.sort()
    check_reservation(wanted, held)
    order, pickup_codes = new_order(wanted, new_id(), held, cart, prices)
    request = wanted.request
    if not together.is_plain_text(
        request.request_id, order.customer_id, order.actor, *[tender.reference for tender in order.tenders]
    ):
        return None
    ship_to = request.ship_to if order.ship_to is not None else None
    response = pb.PlaceOrderResponse(pickup_codes=pickup_codes)
    fill_new_order(response.order, order, names, made_time, ship_to)
    return Planned(
        request,
        order,
        response,
        [Taking(claim.location_id, claim.claim_id, claim.lines) for claim in held],
        [(type, subject, location_id, to_json(data)) for type, subject, data, location_id in events_of(order)],
        made_time,
        cart_version=version,
    )
