"""CreateReturn: what the customer got comes back, at any location, and is on hand there. And what every return is made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from onhand.caller import Caller
from onhand.domain import returns as rules
from onhand.domain.errors import OrderLineNotFound, OrderNotFound, invalid
from onhand.domain.order import LEFT
from onhand.domain.return_errors import Overridable
from onhand.domain.returns import Fulfilled, ReturnPolicy
from onhand.domain.stock import Bucket, Movement
from onhand.ids import new_id, parse_id
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.orders import names, return_signals, store
from onhand.orders.queries import read_return
from onhand.orders.store import Line, LockedOrder
from onhand.payments.giving_back import give_back
from onhand.postgres import Connection
from onhand.v1 import order_pb2 as pb
from onhand.wire import channel_name

REASON = "RETURN"
"""Of the movements of a return, and of the money that goes back for it."""

_LEFT = ", ".join(f"'{state.value}'" for state in sorted(LEFT, key=lambda state: state.value))
# Of an order line `l` of an order `o`. What was sold at a till counts from then, whenever the till could say so.
FULFILLED_TIME = f"""(
    SELECT max(CASE f.kind WHEN 'CARRY_OUT' THEN o.placed_time ELSE f.updated_time END)
      FROM fulfillment_orders f JOIN fulfillment_lines p USING (fulfillment_order_id)
     WHERE f.order_id = l.order_id AND p.line_number = l.line_number AND f.state IN ({_LEFT}))"""
# Units of it that were announced, did not come yet, and may still come.
AUTHORIZED = """(
    SELECT coalesce(sum(w.quantity - w.received_quantity - w.refused_quantity), 0)::int8
      FROM return_authorizations a JOIN return_authorization_lines w USING (return_authorization_id)
     WHERE a.order_id = l.order_id AND w.line_number = l.line_number
       AND a.state IN ('AUTHORIZED', 'PARTIALLY_RECEIVED') AND a.expires_time > now())"""
FULFILLED = f"""
SELECT l.line_number, l.sku, p.department, {FULFILLED_TIME} AS fulfilled_time, {AUTHORIZED} AS authorized, now() AS now
  FROM orders o JOIN order_lines l USING (order_id) JOIN products p USING (sku) WHERE o.order_id = $1 ORDER BY 1"""
INSERT_OVERRIDE = """
INSERT INTO return_overrides (override_id, return_id, return_authorization_id, manager, reason, overridden, actor)
VALUES ($1, $2, $3, $4, $5, $6, $7)"""


class Wanted(NamedTuple):
    """Units of an order line that somebody brings, in one condition. `disposition`: a bucket, or returns.TO_SUPPLIER."""

    line_number: int
    disposition: str
    quantity: int
    reason: str


class Back(NamedTuple):
    """Units that come back in one condition, and what they give back. In the order of store.insert_return."""

    line_number: int
    disposition: str
    sku: str
    quantity: int
    reason: str
    refund_minor: int

    @property
    def bucket(self) -> Bucket:
        """Where they are then."""
        return Bucket.QUARANTINE if self.disposition == rules.TO_SUPPLIER else Bucket(self.disposition)


@dataclass(frozen=True)
class Override:
    """Who let pass which refusals of the policy, and why."""

    manager: str
    reason: str
    overridden: Sequence[str]


@dataclass(frozen=True)
class NewReturn:
    """A return that is made. Without an order it is a blind one, of this customer and in this currency."""

    return_id: UUID
    kind: str
    location_id: str
    channel: str
    actor: str
    customer_id: str
    currency: str
    backs: Sequence[Back]
    order: LockedOrder | None = None
    authorization_id: UUID | None = None
    override: Override | None = None

    @property
    def refund_minor(self) -> int:
        """What it gives back."""
        return sum(back.refund_minor for back in self.backs)

    @property
    def document(self) -> str:
        """What its movements and its money refer to."""
        return f"return/{self.return_id}"


async def create_return(
    ledger: Ledger, policy: ReturnPolicy, request: pb.CreateReturnRequest, caller: Caller
) -> pb.CreateReturnResponse:
    """OrderService.CreateReturn."""
    order_id = parse_id("order_id", request.order_id)
    channel = channel_name(request.channel)
    wanted = wanted_lines(request.lines)

    async def work(tx: Transaction) -> pb.CreateReturnResponse:
        return await create(tx, request, order_id, channel, wanted, caller, policy)

    return await ledger.mutate(request, pb.CreateReturnResponse, work)


async def create(
    tx: Transaction,
    request: pb.CreateReturnRequest,
    order_id: UUID,
    channel: str,
    wanted: Sequence[Wanted],
    caller: Caller,
    policy: ReturnPolicy | None = None,
) -> pb.CreateReturnResponse:
    """Takes units of an order back. Without a policy nothing but the order's own figures has a say in it."""
    order, backs, override = await judge(tx, policy, order_id, wanted, override_of(request))
    new = NewReturn(
        new_id(), "COUNTER", request.location_id, channel, caller.actor, order.customer_id, order.currency, backs, order,
        override=override,
    )  # fmt: skip
    await pay_back(tx, new)
    await book(tx, new, policy)
    return pb.CreateReturnResponse(returned=await read_return(tx.connection, new.return_id))


# ------------------------------------------------------------------------------------------------- what was asked for
def wanted_lines(given: Iterable[pb.ReturnedLine], field: str = "lines") -> list[Wanted]:
    """Raises `InvalidRequest` for a line that comes twice with the same disposition."""
    wanted: dict[tuple[int, str], Wanted] = {}
    for index, line in enumerate(given):
        key = line.line_number, names.disposition(f"{field}[{index}].disposition", line.disposition)
        if key in wanted:
            raise invalid(f"{field}[{index}]", f"line {line.line_number} is given twice with the same disposition")
        wanted[key] = Wanted(*key, line.quantity, line.reason)
    return list(wanted.values())


class Overriding(NamedTuple):
    """A manager who would let pass whatever the policy refuses."""

    manager: str
    reason: str


def override_of(request: object) -> Overriding | None:
    """The manager of a request, if it names one."""
    if not request.HasField("override"):  # type: ignore[attr-defined]  # a message that has one
        return None
    return Overriding(request.override.manager, request.override.reason)  # type: ignore[attr-defined]


def overriding(given: Overriding | None, refusals: Sequence[Overridable]) -> Override | None:
    """What is recorded of a manager; None where nothing had to be let pass. Raises the first refusal where nobody lets it."""
    overridden = rules.overridden(refusals, is_overridden=given is not None)
    return Override(given.manager, given.reason, overridden) if given is not None and overridden else None


# ------------------------------------------------------------------------------------------------------ what is decided
async def judge(
    tx: Transaction, policy: ReturnPolicy | None, order_id: UUID, wanted: Sequence[Wanted], manager: Overriding | None
) -> tuple[LockedOrder, list[Back], Override | None]:
    """Locks an order and decides whether these units of it may come back, and for what. Raises what refuses them."""
    order = await store.lock_order(tx.connection, order_id)
    if order is None:
        raise OrderNotFound(str(order_id))
    lines = await store.lines(tx.connection, order_id)
    facts, now = await fulfilled(tx.connection, order_id)
    asked = units_of_lines((each.line_number, each.quantity) for each in wanted)
    check_lines(order_id, lines, facts, asked)
    override = None
    if policy is not None:
        refusals = rules.policy_refusals(policy, str(order_id), (facts[number] for number in sorted(asked)), now)
        override = overriding(manager, refusals)
    return order, backs_of(lines, wanted), override


async def fulfilled(connection: Connection, order_id: UUID) -> tuple[dict[int, Fulfilled], datetime]:
    """What the policy asks of the lines of an order, and the ledger's time. The order is locked, and there."""
    rows = await connection.fetch(FULFILLED, order_id)
    return {row["line_number"]: Fulfilled(*tuple(row)[:5]) for row in rows}, rows[0]["now"]


def units_of_lines(units: Iterable[tuple[int, int]]) -> dict[int, int]:
    """The units of each line, whatever their condition."""
    asked: dict[int, int] = {}
    for line_number, quantity in units:
        asked[line_number] = asked.get(line_number, 0) + quantity
    return asked


def check_lines(
    order_id: UUID,
    lines: Mapping[int, Line],
    facts: Mapping[int, Fulfilled],
    asked: Mapping[int, int],
    own: Mapping[int, int] | None = None,
) -> None:
    """Raises OrderLineNotFound, ReturnExceeded. `own`: units of lines that were announced for this very return."""
    for number, quantity in asked.items():
        if number not in lines:
            raise OrderLineNotFound(str(order_id), number)
        line = lines[number]
        rules.check_returnable(
            order_id=str(order_id),
            line_number=number,
            sku=line.sku,
            bought=line.quantity,
            fulfilled=line.fulfilled_quantity,
            returned=line.returned_quantity,
            authorized=max(0, facts[number].authorized - (own or {}).get(number, 0)),
            now=quantity,
        )


def backs_of(lines: Mapping[int, Line], wanted: Sequence[Wanted]) -> list[Back]:
    """The same units with what each gives back, in the order in which they are given."""
    backs: list[Back] = []
    before: dict[int, int] = {}
    for number, disposition, quantity, reason in wanted:
        line, earlier = lines[number], before.get(number, 0)
        before[number] = earlier + quantity
        refund_minor = rules.refund(
            total_minor=line.total_minor,
            quantity=line.quantity,
            given_back=line.cancelled_quantity + line.returned_quantity + earlier,
            now=quantity,
        )
        backs.append(Back(number, disposition, line.sku, quantity, reason, refund_minor))
    return backs


# ------------------------------------------------------------------------------------------------------ what is written
async def pay_back(tx: Transaction, new: NewReturn) -> None:
    """Gives back what a return of an order is worth to the tenders of that order, before any level is locked."""
    assert new.order is not None
    await give_back(
        tx,
        new.order.order_id,
        new.refund_minor,
        currency=new.currency,
        reason_code=REASON,
        reference_document=new.document,
        actor=new.actor,
    )


async def book(tx: Transaction, new: NewReturn, policy: ReturnPolicy | None) -> None:
    """Writes a return: its rows, its movements, its events. Its order is locked, and its money is given back."""
    # Before the return is written, so that a location that is not known is refused as such.
    await tx.lock_levels(((new.location_id, back.sku) for back in new.backs), create=True)
    await store.insert_return(
        tx.connection,
        new.return_id,
        None if new.order is None else new.order.order_id,
        location_id=new.location_id,
        channel=new.channel,
        refund_minor=new.refund_minor,
        actor=new.actor,
        units=new.backs,
        kind=new.kind,
        customer_id=new.customer_id,
        currency=new.currency if new.order is None else None,
        authorization_id=new.authorization_id,
    )
    if new.order is not None:
        units = units_of_lines((back.line_number, back.quantity) for back in new.backs)
        refunds = units_of_lines((back.line_number, back.refund_minor) for back in new.backs)
        returned = [(number, quantity, refunds[number]) for number, quantity in units.items()]
        await store.add_returned(tx.connection, new.order.order_id, returned)
        await store.set_order_state(tx.connection, new.order, new.order.state)
    if new.override is not None:
        await insert_override(tx, new.override, new.actor, return_id=new.return_id)
    await tx.post(
        [
            Movement(
                new.location_id, back.sku, back.quantity, Bucket.CUSTOMER, back.bucket, REASON, new.document,
                new.channel, new.actor,
            )
            for back in new.backs
        ]
    )  # fmt: skip
    _tell(tx, new)
    if policy is not None:
        await return_signals.record(
            tx, policy.signals, new.return_id, new.location_id, customer_id=new.customer_id, actor=new.actor
        )


async def insert_override(
    tx: Transaction,
    override: Override,
    actor: str,
    *,
    return_id: UUID | None = None,
    authorization_id: UUID | None = None,
) -> None:
    """Writes who let a return, or an authorization, pass."""
    await tx.connection.execute(
        INSERT_OVERRIDE, new_id(), return_id, authorization_id, override.manager, override.reason,
        list(override.overridden), actor,
    )  # fmt: skip


def _tell(tx: Transaction, new: NewReturn) -> None:
    tx.emit(
        "onhand.return.created.v1",
        new.document,
        {
            "return_id": str(new.return_id),
            "kind": new.kind,
            "order_id": "" if new.order is None else str(new.order.order_id),
            "order_number": "" if new.order is None else new.order.order_number,
            "customer_id": new.customer_id,
            "channel": new.channel,
            "lines": [
                {
                    "line_number": back.line_number,
                    "sku": back.sku,
                    "quantity": back.quantity,
                    "disposition": back.disposition,
                    "reason": back.reason,
                    "refund_minor": back.refund_minor,
                }
                for back in new.backs
            ],
            "refund_minor": new.refund_minor,
            "currency": new.currency,
            "override": None
            if new.override is None
            else {
                "manager": new.override.manager,
                "reason": new.override.reason,
                "overridden": list(new.override.overridden),
            },
            "actor": new.actor,
        },
        new.location_id,
    )
