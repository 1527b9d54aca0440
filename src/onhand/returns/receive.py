"""ReceiveReturn: announced goods came, and somebody looked at them. What is accepted gives its money back now."""

from __future__ import annotations

from onhand.caller import Caller
from onhand.domain import return_authorization as rules
from onhand.domain.errors import LocationNotFound, invalid
from onhand.domain.return_authorization import AuthorizationStep
from onhand.domain.return_errors import Overridable, ReturnAuthorizationExpired
from onhand.domain.returns import ReturnPolicy
from onhand.ids import new_id, parse_id
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.orders import returns, store
from onhand.orders.queries import read_return
from onhand.orders.returns import NewReturn, Override, units_of_lines
from onhand.orders.store import LockedOrder
from onhand.returns import authorizations
from onhand.returns.authorizations import Authorization
from onhand.v1 import returns_pb2 as pb

CHANNEL = "POS"
"""Of the movements: people in a store or a warehouse look at what came."""
LOCATION = "SELECT true FROM locations WHERE location_id = $1 AND deleted_time IS NULL"


async def receive_return(
    ledger: Ledger, policy: ReturnPolicy, request: pb.ReceiveReturnRequest, caller: Caller
) -> pb.ReceiveReturnResponse:
    """ReturnService.ReceiveReturn."""
    authorization_id = parse_id("return_authorization_id", request.return_authorization_id)
    wanted = returns.wanted_lines(request.accepted, "accepted")
    refused = [(line.line_number, line.quantity, line.reason) for line in request.refused]
    if not wanted and not refused:
        raise invalid("accepted", "give what is accepted, or what is refused")

    async def work(tx: Transaction) -> pb.ReceiveReturnResponse:
        order = await store.lock_order(tx.connection, await authorizations.order_of(tx.connection, authorization_id))
        assert order is not None, "an authorization is of an order"
        authorization = await authorizations.locked(tx.connection, authorization_id)
        accepted_units = units_of_lines((each.line_number, each.quantity) for each in wanted)
        refused_units = units_of_lines((number, quantity) for number, quantity, _ in refused)
        came = units_of_lines([*accepted_units.items(), *refused_units.items()])
        state, override = _judge(authorization, came, request)

        if wanted:
            new = await _take_back(tx, policy, request, caller, order, authorization, wanted, override)
        elif await tx.connection.fetchval(LOCATION, request.location_id) is None:
            raise LocationNotFound(request.location_id)
        elif override is not None:
            await returns.insert_override(tx, override, caller.actor, authorization_id=authorization_id)
        await authorizations.add_came(tx.connection, authorization_id, accepted_units, refused_units)
        await authorizations.insert_refused(
            tx.connection, authorization_id, refused, location_id=request.location_id, actor=caller.actor
        )
        await authorizations.set_state(tx.connection, authorization, state)
        _tell(tx, request, caller, order, authorization, state, accepted_units, refused)
        return pb.ReceiveReturnResponse(
            returned=await read_return(tx.connection, new.return_id) if wanted else None,
            return_authorization=await authorizations.read(tx.connection, authorization_id),
        )

    return await ledger.mutate(request, pb.ReceiveReturnResponse, work)


def _judge(
    authorization: Authorization, came: dict[int, int], request: pb.ReceiveReturnRequest
) -> tuple[rules.AuthorizationState, Override | None]:
    """The state afterwards, and who let pass that it came late. Raises what refuses it."""
    text = str(authorization.authorization_id)
    rules.check_receivable(authorization.state, text)
    step = rules.inspect(text, authorization.state, authorization.lines, came)
    late: list[Overridable] = []
    if step is AuthorizationStep.RECEIVE_LATE:
        late.append(ReturnAuthorizationExpired(text, authorization.expires_time.isoformat(timespec="seconds")))
    override = returns.overriding(returns.override_of(request), late)
    return rules.after(authorization.state, step, text), override


async def _take_back(
    tx: Transaction,
    policy: ReturnPolicy,
    request: pb.ReceiveReturnRequest,
    caller: Caller,
    order: LockedOrder,
    authorization: Authorization,
    wanted: list[returns.Wanted],
    override: Override | None,
) -> NewReturn:
    """The return that accepted units are. The policy was asked when they were announced."""
    lines = await store.lines(tx.connection, order.order_id)
    facts, _ = await returns.fulfilled(tx.connection, order.order_id)
    is_held = authorization.state in rules.OPEN
    own = {number: line.left for number, line in authorization.lines.items()} if is_held else {}
    asked = units_of_lines((each.line_number, each.quantity) for each in wanted)
    returns.check_lines(order.order_id, lines, facts, asked, own)
    new = NewReturn(
        new_id(), "MAIL", request.location_id, CHANNEL, caller.actor, order.customer_id, order.currency,
        returns.backs_of(lines, wanted), order, authorization.authorization_id, override,
    )  # fmt: skip
    await returns.pay_back(tx, new)
    await returns.book(tx, new, policy)
    return new


def _tell(
    tx: Transaction,
    request: pb.ReceiveReturnRequest,
    caller: Caller,
    order: LockedOrder,
    authorization: Authorization,
    state: rules.AuthorizationState,
    accepted: dict[int, int],
    refused: list[tuple[int, int, str]],
) -> None:
    tx.emit(
        "onhand.return.received.v1",
        f"return_authorization/{authorization.authorization_id}",
        {
            "return_authorization_id": str(authorization.authorization_id),
            "order_id": str(order.order_id),
            "state": state.value,
            "accepted": [{"line_number": number, "quantity": quantity} for number, quantity in accepted.items()],
            "refused": [
                {"line_number": number, "quantity": quantity, "reason": reason} for number, quantity, reason in refused
            ],
            "actor": caller.actor,
        },
        request.location_id,
    )
