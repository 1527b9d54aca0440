"""SubstituteLine: a customer agrees to get another item of the same location, which never costs more."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from onhand import catalog
from onhand.caller import Caller
from onhand.crash import step
from onhand.domain import money, returns
from onhand.domain import order as rules
from onhand.domain.cart import UnitPrice
from onhand.domain.errors import FulfillmentOrderNotFound, OrderLineNotFound, PriceNotFound, invalid
from onhand.domain.order import RejectReason, Step
from onhand.domain.shortage import ShortfallEnd
from onhand.domain.stock import Bucket, Movement
from onhand.domain.work_errors import SubstituteSame
from onhand.ids import parse_id
from onhand.ledger import shortfalls
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.orders import names, store
from onhand.orders.cancel import give_back
from onhand.orders.queries import read_order
from onhand.orders.reject import look_again, take_out
from onhand.orders.work import Work, emit, lock_work, settle
from onhand.payments import giving_back
from onhand.postgres import Connection
from onhand.reservations.claims import Wants
from onhand.reservations.decrease import Decreases, Overdrawn
from onhand.v1 import order_pb2 as pb
from onhand.wire import money_to_wire

LOCATION = "SELECT location_id FROM fulfillment_orders WHERE fulfillment_order_id = $1"
# The substitute is paid by what the replaced units would give back: that part stays with the tenders.
ADD_LINE = """
WITH new_line AS (
    INSERT INTO order_lines (order_id, line_number, sku, quantity, amount_minor, price_quantity, total_minor, added_time,
                             substitutes_line)
    VALUES ($1, $2, $3, $4, $5, $6, $7, now(), $8)),
new_part AS (
    INSERT INTO fulfillment_lines (fulfillment_order_id, line_number, sku, quantity, is_taken_over)
    VALUES ($9, $2, $3, $4, true)),
agreed AS (
    INSERT INTO substitutions (order_id, line_number, substitute_line, fulfillment_order_id, quantity, consent,
                               consent_reference, actor)
    VALUES ($1, $8, $2, $9, $10, $11, $12, $13))
UPDATE orders SET total_minor = total_minor + $7 WHERE order_id = $1"""


CUSTOMER = pb.Consent.Name(pb.CONSENT_CUSTOMER).removeprefix("CONSENT_")
"""The consent of an offer that she accepted herself."""


@dataclass(frozen=True)
class Substitute:
    """What a customer agreed to."""

    line_number: int
    quantity: int
    sku: str
    substitute_quantity: int
    consent: str
    consent_reference: str
    reason: RejectReason | None


@dataclass(frozen=True)
class Effect:
    """What a substitution does: the units that it replaces, what they give back, and what the substitute costs of that."""

    sku: str
    units: dict[int, int]
    new_number: int
    price: UnitPrice
    full_minor: int
    given_minor: int

    @property
    def total_minor(self) -> int:
        """What is charged for the substitute: never more than what it replaces."""
        return min(self.full_minor, self.given_minor)

    @property
    def refund_minor(self) -> int:
        """What the customer gets back."""
        return self.given_minor - self.total_minor


async def effect_of(connection: Connection, work: Work, agreed: Substitute, price: UnitPrice | None = None) -> Effect:
    """What a substitution would do now, at the catalog's price or at one that was agreed to. The order is locked.

    Raises IllegalTransition, OrderLineNotFound, FulfillmentLineExceeded, SubstituteSame, PriceNotFound.
    """
    order, number = work.order, agreed.line_number
    work.after(Step.SUBSTITUTE)
    lines = await store.lines(connection, order.order_id)
    if number not in lines:
        raise OrderLineNotFound(str(order.order_id), number)
    id, line = work.fulfillment.fulfillment_order_id, lines[number]
    units = rules.check_parts(str(id), Step.SUBSTITUTE, work.held, [(number, agreed.quantity)])
    if agreed.sku == line.sku:
        raise SubstituteSame(agreed.sku)
    if price is None:
        price = (await catalog.read_prices(connection, order.currency, [agreed.sku])).get(agreed.sku)
    if price is None:
        raise PriceNotFound(agreed.sku, order.currency)
    given_minor = returns.refund(
        total_minor=line.total_minor,
        quantity=line.quantity,
        given_back=line.cancelled_quantity + line.returned_quantity,
        now=units[number],
    )
    full_minor = money.line_total(price.amount_minor, price.price_quantity, agreed.substitute_quantity)
    return Effect(line.sku, units, max(lines) + 1, price, full_minor, given_minor)


async def substitute_line(
    ledger: Ledger, decreases: Decreases, request: pb.SubstituteLineRequest, caller: Caller
) -> pb.SubstituteLineResponse:
    """OrderService.SubstituteLine."""
    fulfillment_order_id = parse_id("fulfillment_order_id", request.fulfillment_order_id)
    if request.consent == pb.CONSENT_CUSTOMER:
        raise invalid("consent", "CONSENT_CUSTOMER is the customer's own: she accepts an offer (OfferSubstitute)")
    agreed = Substitute(
        request.line_number,
        request.quantity,
        request.sku,
        request.substitute_quantity,
        names.consent("consent", request.consent),
        request.consent_reference,
        names.reject_reason("reason", request.reason) if request.reason else None,
    )
    held: dict[str, Work] = {}

    async def takes() -> Wants:
        async with ledger.read() as connection:
            location_id = await connection.fetchval(LOCATION, fulfillment_order_id)
        if location_id is None:
            raise FulfillmentOrderNotFound(str(fulfillment_order_id))
        return [(location_id, [(agreed.sku, agreed.substitute_quantity)])]

    async def hold(tx: Transaction) -> None:
        held["work"] = await lock_work(tx, fulfillment_order_id)
        await giving_back.hold(tx, held["work"].order.order_id)

    async def work(tx: Transaction, overdrawn: Overdrawn) -> pb.SubstituteLineResponse:
        effect = await effect_of(tx.connection, held["work"], agreed)
        return await carry_out(tx, held["work"], agreed, effect, caller)

    return await decreases.decision(request, pb.SubstituteLineResponse, takes, work, hold)


async def carry_out(
    tx: Transaction, work: Work, agreed: Substitute, effect: Effect, caller: Caller
) -> pb.SubstituteLineResponse:
    """Does what `effect_of` said under the lock of the order. The substitute's units were claimed."""
    order, place, number = work.order, work.fulfillment.location_id, agreed.line_number
    id, units, new_number, price = work.fulfillment.fulfillment_order_id, effect.units, effect.new_number, effect.price
    refund_minor, total_minor = await give_back(
        tx, order, units, "SUBSTITUTED", caller, lambda refund_minor: min(effect.full_minor, refund_minor)
    )
    if total_minor < effect.full_minor:  # kept as a price for the whole quantity, which is exact
        price = UnitPrice(total_minor, agreed.substitute_quantity)
    await store.unpack(tx.connection, [work.fulfillment])
    await store.cancel_parts(tx.connection, [(id, number, units[number])])
    await write_substitute(tx, work, agreed, new_number, price, total_minor, units[number], caller)
    await settle(tx, order, work.fulfillments, {}, caller)
    data = {"line_number": number, "substitute_line_number": new_number, "sku": agreed.sku, "consent": agreed.consent}
    emit(tx, order, work.fulfillment, "substituted", work.fulfillment.state, caller, data)

    await tx.lock_levels([(place, effect.sku), (place, agreed.sku)])
    await _take_out(tx, work, agreed.reason, units, caller)
    bought = Movement(
        place,
        agreed.sku,
        agreed.substitute_quantity,
        Bucket.AVAILABLE,
        Bucket.ALLOCATED,
        "SUBSTITUTE",
        order.document,
        order.channel,
        caller.actor,
    )
    await tx.post([bought])
    return pb.SubstituteLineResponse(
        order=await read_order(tx.connection, order.order_id),
        substitute_line_number=new_number,
        refund=money_to_wire(refund_minor - total_minor, order.currency),
    )


@step("ledger.substitute")
async def write_substitute(
    tx: Transaction,
    work: Work,
    agreed: Substitute,
    new_number: int,
    price: UnitPrice,
    total_minor: int,
    replaced: int,
    caller: Caller,
) -> None:
    """Writes the line that a substitute is, and what pays for it."""
    await tx.connection.execute(
        ADD_LINE,
        work.order.order_id,
        new_number,
        agreed.sku,
        agreed.substitute_quantity,
        price.amount_minor,
        price.price_quantity,
        total_minor,
        agreed.line_number,
        work.fulfillment.fulfillment_order_id,
        replaced,
        agreed.consent,
        agreed.consent_reference,
        caller.actor,
    )


async def _take_out(
    tx: Transaction, work: Work, reason: RejectReason | None, units: dict[int, int], caller: Caller
) -> None:
    """What becomes of the replaced units, whose levels are locked."""
    if reason is not None:
        await take_out(tx, work, reason, units, caller)
        if reason is RejectReason.NOT_FOUND:
            await look_again(tx, work, work.positions(units), caller)
        return
    id: UUID = work.fulfillment.fulfillment_order_id
    going = [(id, number, quantity) for number, quantity in units.items()]
    absent = {}
    if any(tx.short(position) for position in work.positions(units)):
        absent = dict(await shortfalls.give_up(tx, going, ShortfallEnd.CANCELLED, work.order.document))
    await tx.post(
        [
            work.movement(number, there, Bucket.AVAILABLE, "SUBSTITUTED", caller.actor)
            for _, number, quantity in going
            if (there := quantity - absent.get((id, number), 0))
        ]
    )
