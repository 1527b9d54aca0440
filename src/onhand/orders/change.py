"""PreviewOrderChange and ApplyOrderChange: one plan, made from committed rows, shown first and carried out only as it was shown."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from onhand import catalog
from onhand.caller import Caller
from onhand.crash import step
from onhand.domain import change as rules
from onhand.domain import returns
from onhand.domain.cart import UnitPrice
from onhand.domain.change import Addition, OrderedLine, Quantities
from onhand.domain.errors import FulfillmentOrderNotFound, OrderNotFound, PriceNotFound, Refusal, invalid
from onhand.domain.order import FulfillmentKind, FulfillmentPart
from onhand.domain.stock import Bucket, Movement, Position
from onhand.domain.work_errors import ChangeEmpty, ChangeOutdated
from onhand.ids import parse_id
from onhand.ledger.claims import ClaimRefused
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.orders import cancel, moving, names, payments, store
from onhand.orders.moving import Move
from onhand.orders.queries import read_order
from onhand.orders.store import Fulfillment, LockedOrder, NewTender
from onhand.orders.work import settle
from onhand.payments import gift_cards, giving_back
from onhand.payments.gift_cards import Card
from onhand.postgres import Connection
from onhand.reservations.claims import Wants
from onhand.reservations.decrease import Decreases, Overdrawn
from onhand.sourcing.capacity import hold_days, take_on
from onhand.v1 import order_pb2 as pb
from onhand.wire import money_from_wire, money_to_wire

ADD_LINE = """
WITH new_line AS (
    INSERT INTO order_lines (order_id, line_number, sku, quantity, amount_minor, price_quantity, total_minor, added_time)
    VALUES ($1, $2, $3, $4, $5, $6, $7, now())),
new_part AS (
    INSERT INTO fulfillment_lines (fulfillment_order_id, line_number, sku, quantity, is_taken_over)
    VALUES ($8, $2, $3, $4, true))
UPDATE orders SET total_minor = total_minor + $7 WHERE order_id = $1"""
ADD_TENDERS = """
INSERT INTO tenders (order_id, tender_number, kind, amount_minor, reference, provider, gift_card_id, authorized_minor,
                     captured_minor)
SELECT $1, t.n + coalesce((SELECT max(tender_number) FROM tenders WHERE order_id = $1), 0), t.kind, t.amount_minor, t.reference,
       t.provider, t.gift_card_id, CASE t.provider WHEN 'TILL' THEN t.amount_minor ELSE 0 END,
       CASE t.provider WHEN 'TILL' THEN t.amount_minor ELSE 0 END
  FROM unnest($2::text[], $3::int8[], $4::text[], $5::text[], $6::uuid[])
       WITH ORDINALITY AS t (kind, amount_minor, reference, provider, gift_card_id, n)
RETURNING tender_number"""


ByGateway = Callable[[pb.ApplyOrderChangeRequest, Caller], Awaitable[pb.ApplyOrderChangeResponse]]


@dataclass(frozen=True)
class Plan:
    """What a change does. `promised` has to be claimed."""

    order: LockedOrder
    fulfillments: Sequence[Fulfillment]
    parts: Sequence[FulfillmentPart]
    freed: Mapping[Position, int]
    promised: Mapping[Position, int]
    refund_minor: int = 0
    charge_minor: int = 0
    quantities: Quantities | None = None
    prices: Mapping[str, UnitPrice] = field(default_factory=dict)
    move: Move | None = None

    def etag(self, change: pb.OrderChange) -> str:
        """Of all that the customer agrees to, and of the order as it is. What is freed is the store's, and may change meanwhile."""
        effect = [
            str(self.order.order_id),
            self.order.version,
            change.SerializeToString(deterministic=True).hex(),
            sorted(self.promised.items()),
            self.refund_minor,
            self.charge_minor,
        ]
        return hashlib.blake2b(json.dumps(effect).encode(), digest_size=16).hexdigest()

    def wants(self) -> Wants:
        """What is to be claimed."""
        by_place: dict[str, list[tuple[str, int]]] = {}
        for (place, sku), quantity in sorted(self.promised.items()):
            by_place.setdefault(place, []).append((sku, quantity))
        return list(by_place.items())


async def preview_order_change(
    ledger: Ledger, request: pb.PreviewOrderChangeRequest, caller: Caller
) -> pb.PreviewOrderChangeResponse:
    """OrderService.PreviewOrderChange."""
    order_id = parse_id("order_id", request.order_id)
    async with ledger.read() as connection:
        plan = await plan_change(connection, await store.read_order(connection, order_id), order_id, request.change)
    currency = plan.order.currency
    return pb.PreviewOrderChangeResponse(
        stock=[
            pb.StockEffect(
                location_id=place,
                sku=sku,
                freed_quantity=plan.freed.get((place, sku), 0),
                promised_quantity=plan.promised.get((place, sku), 0),
            )
            for place, sku in sorted({*plan.freed, *plan.promised})
        ],
        refund=money_to_wire(plan.refund_minor, currency),
        charge=money_to_wire(plan.charge_minor, currency),
        etag=plan.etag(request.change),
    )


async def apply_order_change(
    ledger: Ledger, decreases: Decreases, by_gateway: ByGateway, request: pb.ApplyOrderChangeRequest, caller: Caller
) -> pb.ApplyOrderChangeResponse:
    """OrderService.ApplyOrderChange. `by_gateway` makes a change of which a gateway pays a part."""
    order_id = parse_id("order_id", request.order_id)
    if payments.is_paid_outside(request.tenders):
        return await by_gateway(request, caller)
    codes = payments.gift_cards_of(request.tenders)
    held: dict[str, LockedOrder | None] = {}
    cards: dict[bytes, Card] = {}
    wants: Wants = []

    async def takes() -> Wants:
        nonlocal wants
        wants = []
        async with ledger.read() as connection:
            order = await store.read_order(connection, order_id)
            try:
                plan = await plan_change(connection, order, order_id, request.change)
            except Refusal:
                return wants  # of a repeat, or for good: the transaction finds out
        wants = plan.wants() if plan.etag(request.change) == request.etag else []
        return wants

    async def hold(tx: Transaction) -> None:
        held["order"] = await store.lock_order(tx.connection, order_id)
        if wants:
            await hold_days(tx, [place for place, _ in wants])
        if (order := held["order"]) is None:
            return
        if request.change.HasField("quantities"):
            await giving_back.hold(tx, order_id, list(codes.values()))
        if codes:
            amounts = [(h, money_from_wire("tenders", request.tenders[n].amount)[0]) for n, h in codes.items()]
            cards.update(await gift_cards.lock_by_code(tx.connection, amounts, order.currency))

    async def work(tx: Transaction, overdrawn: Overdrawn) -> pb.ApplyOrderChangeResponse:
        plan = await plan_change(tx.connection, held["order"], order_id, request.change)
        if plan.etag(request.change) != request.etag:
            raise ChangeOutdated(str(order_id))
        tenders = payments.tenders(request.tenders, codes, plan.order.currency, plan.charge_minor)
        found = [
            t if t.gift_card is None else t._replace(gift_card_id=cards[t.gift_card].gift_card_id) for t in tenders
        ]
        return await carry_out(tx, plan, found, caller)

    return await decreases.decision(request, pb.ApplyOrderChangeResponse, takes, work, hold)


# -------------------------------------------------------------------------------------------------------------- planning
async def plan_change(
    connection: Connection,
    order: LockedOrder | None,
    order_id: UUID,
    change: pb.OrderChange,
    agreed: Mapping[str, UnitPrice] | None = None,
) -> Plan:
    """What a change does, at today's prices unless others were agreed to. Raises what refuses it, but for stock and tenders."""
    if order is None:
        raise OrderNotFound(str(order_id))
    fulfillments = await store.fulfillments(connection, order_id)
    parts = await cancel.read_parts(connection, order_id, fulfillments)
    which = change.WhichOneof("change")
    if which == "quantities":
        return await _plan_quantities(connection, order, fulfillments, parts, change.quantities, agreed)
    if which == "move":
        return await _plan_move(connection, order, fulfillments, parts, change.move)
    raise invalid("change", "must be quantities or move")


async def _plan_quantities(
    connection: Connection,
    order: LockedOrder,
    fulfillments: Sequence[Fulfillment],
    parts: Sequence[FulfillmentPart],
    asked: pb.EditQuantities,
    agreed: Mapping[str, UnitPrice] | None,
) -> Plan:
    wanted = {line.line_number: line.quantity for line in asked.lines}
    if len(wanted) < len(asked.lines):
        raise invalid("change.quantities.lines", "must name each line_number once")
    lines = await store.lines(connection, order.order_id)
    ordered = {n: OrderedLine(line.sku, line.quantity, line.cancelled_quantity) for n, line in lines.items()}
    quantities = rules.plan_quantities(str(order.order_id), ordered, parts, sorted(wanted.items()))
    if not quantities.fewer and not quantities.additions:
        raise ChangeEmpty(str(order.order_id))
    refund_minor = sum(
        returns.refund(
            total_minor=lines[n].total_minor,
            quantity=lines[n].quantity,
            given_back=lines[n].cancelled_quantity + lines[n].returned_quantity,
            now=quantity,
        )
        for n, quantity in quantities.fewer.items()
    )
    skus = {addition.sku for addition in quantities.additions}
    prices = agreed if agreed is not None else {}
    if agreed is None and skus:
        prices = await catalog.read_prices(connection, order.currency, skus)
    if missing := sorted(skus - prices.keys()):
        raise PriceNotFound(missing[0], order.currency)
    places = {str(f.fulfillment_order_id): f.location_id for f in fulfillments}
    promised = Counter[Position]()
    for addition in quantities.additions:
        promised[places[addition.fulfillment_order_id], addition.sku] += addition.quantity
    return Plan(
        order,
        fulfillments,
        parts,
        rules.freed(quantities.cancellations, parts, places),
        promised,
        refund_minor,
        sum(rules.charge(prices[a.sku], a.quantity) for a in quantities.additions),
        quantities,
        prices,
    )


async def _plan_move(
    connection: Connection,
    order: LockedOrder,
    fulfillments: Sequence[Fulfillment],
    parts: Sequence[FulfillmentPart],
    asked: pb.MoveFulfillment,
) -> Plan:
    id = parse_id("change.move.fulfillment_order_id", asked.fulfillment_order_id)
    found = [f for f in fulfillments if f.fulfillment_order_id == id]
    if not found:
        raise FulfillmentOrderNotFound(str(id))
    kind = names.fulfillment_kind("change.move.kind", asked.kind) if asked.kind else found[0].kind
    if kind is FulfillmentKind.CARRY_OUT:
        raise invalid("change.move.kind", "must be PICKUP or SHIP")
    own = [p for p in parts if p.fulfillment_order_id == str(id) and p.quantity]
    move = await moving.plan(connection, order, found[0], own, asked.location_id, kind, asked.ship_to)
    return Plan(order, fulfillments, parts, move.freed, move.promised, move=move)


# -------------------------------------------------------------------------------------------------------------- applying
async def carry_out(
    tx: Transaction,
    plan: Plan,
    tenders: Sequence[NewTender],
    caller: Caller,
    check: Callable[[], Awaitable[None]] | None = None,
) -> pb.ApplyOrderChangeResponse:
    """Makes a change of a locked order. `check` is called once levels are locked, and may refuse it."""
    order, taken = plan.order, None
    if plan.quantities is not None:
        await _change_quantities(tx, plan, plan.quantities, tenders, caller, check)
    else:
        assert plan.move is not None
        taken = await moving.carry_out(tx, plan.move, caller)
    data = {
        "order_id": str(order.order_id),
        "order_number": order.order_number,
        "customer_id": order.customer_id,
        "refund_minor": plan.refund_minor,
        "charge_minor": plan.charge_minor,
        "currency": order.currency,
        "actor": caller.actor,
    }
    tx.emit("onhand.order.changed.v1", order.document, data)
    return pb.ApplyOrderChangeResponse(
        order=await read_order(tx.connection, order.order_id),
        refund=money_to_wire(plan.refund_minor, order.currency),
        charge=money_to_wire(plan.charge_minor, order.currency),
        pickup_code=taken,
    )


async def _change_quantities(
    tx: Transaction,
    plan: Plan,
    quantities: Quantities,
    tenders: Sequence[NewTender],
    caller: Caller,
    check: Callable[[], Awaitable[None]] | None,
) -> None:
    order = plan.order
    places = {str(f.fulfillment_order_id): f.location_id for f in plan.fulfillments}
    cancelled = {(places[c.fulfillment_order_id], c.sku) for c in quantities.cancellations}
    if not tx.covers(plan.promised):
        raise ClaimRefused  # claimed for nothing, as the plan was another then: look and claim again
    if plan.promised:
        await take_on(tx, order.order_id, {place: sum(q for _, q in lines) for place, lines in plan.wants()})
    # Added first: an order of which all was cancelled, and some added, goes on.
    number = max(await store.lines(tx.connection, order.order_id))
    for n, addition in enumerate(quantities.additions, start=1):
        await add_line(tx, order, number + n, addition, plan.prices[addition.sku])
    if tenders:
        await _add_tenders(tx, order, tenders, caller)
    if quantities.cancellations:
        states = {str(f.fulfillment_order_id): f.state for f in plan.fulfillments}
        added = [
            FulfillmentPart(a.fulfillment_order_id, states[a.fulfillment_order_id], number + n, a.sku, a.quantity)
            for n, a in enumerate(quantities.additions, start=1)
        ]
        parts, fewer = [*plan.parts, *added], quantities.fewer
        await cancel.cancel_parts(tx, order, plan.fulfillments, parts, quantities.cancellations, fewer, caller)
    else:
        await settle(tx, order, plan.fulfillments, {}, caller)
    # Last, and all at once: after money, in one order.
    await tx.lock_levels({*cancelled, *plan.promised})
    if check is not None:
        await check()
    if quantities.cancellations:
        await cancel.free(tx, order, quantities.cancellations, plan.fulfillments, caller)
    await tx.post(
        [
            Movement(
                *position,
                quantity,
                Bucket.AVAILABLE,
                Bucket.ALLOCATED,
                "ORDER_CHANGED",
                order.document,
                order.channel,
                caller.actor,
            )
            for position, quantity in sorted(plan.promised.items())
        ]
    )


async def _add_tenders(tx: Transaction, order: LockedOrder, tenders: Sequence[NewTender], caller: Caller) -> None:
    """Writes what pays for a change; gift cards, which are locked, are redeemed."""
    rows = await tx.connection.fetch(
        ADD_TENDERS,
        order.order_id,
        [t.kind for t in tenders],
        [t.amount_minor for t in tenders],
        [t.reference for t in tenders],
        [t.provider.value for t in tenders],
        [t.gift_card_id for t in tenders],
    )
    numbered = list(zip(sorted(row["tender_number"] for row in rows), tenders, strict=True))
    await payments.redeem_tenders(tx, order.order_id, numbered, order.currency, caller.actor)


@step("ledger.add_line")
async def add_line(tx: Transaction, order: LockedOrder, line_number: int, addition: Addition, price: UnitPrice) -> None:
    """Writes units that the customer wants besides."""
    await tx.connection.execute(
        ADD_LINE,
        order.order_id,
        line_number,
        addition.sku,
        addition.quantity,
        price.amount_minor,
        price.price_quantity,
        rules.charge(price, addition.quantity),
        UUID(addition.fulfillment_order_id),
    )
