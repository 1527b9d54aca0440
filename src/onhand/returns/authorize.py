"""AuthorizeReturn and CancelReturnAuthorization: goods that a customer may send back, and the lists of them."""

from __future__ import annotations

from uuid import UUID

from onhand.caller import Caller
from onhand.domain import return_authorization as rules
from onhand.domain import returns as policies
from onhand.domain.errors import OrderNotFound, invalid
from onhand.domain.return_authorization import AuthorizationStep
from onhand.domain.returns import ReturnPolicy
from onhand.ids import new_id, parse_id
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.orders import codes, store
from onhand.orders.returns import check_lines, fulfilled, insert_override, override_of, overriding
from onhand.paging import decode_token, encode_token, fill, page_size
from onhand.returns import authorizations
from onhand.returns.expiry import expire_later
from onhand.v1 import returns_pb2 as pb
from onhand.wire import channel_name


async def authorize_return(
    ledger: Ledger, policy: ReturnPolicy, request: pb.AuthorizeReturnRequest, caller: Caller
) -> pb.AuthorizeReturnResponse:
    """ReturnService.AuthorizeReturn."""
    order_id, channel = parse_id("order_id", request.order_id), channel_name(request.channel)
    asked = {line.line_number: line.quantity for line in request.lines}
    if len(asked) < len(request.lines):
        raise invalid("lines", "a line is given twice")

    async def work(tx: Transaction) -> pb.AuthorizeReturnResponse:
        order = await store.lock_order(tx.connection, order_id)
        if order is None:
            raise OrderNotFound(str(order_id))
        lines = await store.lines(tx.connection, order_id)
        facts, now = await fulfilled(tx.connection, order_id)
        check_lines(order_id, lines, facts, asked)
        refusals = policies.policy_refusals(policy, str(order_id), (facts[number] for number in sorted(asked)), now)
        override = overriding(override_of(request), refusals)
        authorization_id, rma_number = new_id(), codes.new_order_number()
        await authorizations.insert(
            tx.connection,
            authorization_id,
            rma_number,
            order_id,
            channel=channel,
            days=policy.authorization_days,
            actor=caller.actor,
            lines=[(n.line_number, lines[n.line_number].sku, n.quantity, n.reason) for n in request.lines],
        )
        await expire_later(tx.connection, authorization_id, policy.authorization_days)
        if override is not None:
            await insert_override(tx, override, caller.actor, authorization_id=authorization_id)
        tx.emit(
            "onhand.return.authorized.v1",
            f"return_authorization/{authorization_id}",
            {
                "return_authorization_id": str(authorization_id),
                "rma_number": rma_number,
                "order_id": str(order_id),
                "order_number": order.order_number,
                "customer_id": order.customer_id,
                "lines": [
                    {"line_number": n, "sku": lines[n].sku, "quantity": quantity} for n, quantity in asked.items()
                ],
                "overridden": [] if override is None else list(override.overridden),
                "actor": caller.actor,
            },
        )
        return pb.AuthorizeReturnResponse(
            return_authorization=await authorizations.read(tx.connection, authorization_id)
        )

    return await ledger.mutate(request, pb.AuthorizeReturnResponse, work)


async def cancel_return_authorization(
    ledger: Ledger, request: pb.CancelReturnAuthorizationRequest, caller: Caller
) -> pb.CancelReturnAuthorizationResponse:
    """ReturnService.CancelReturnAuthorization."""
    authorization_id = parse_id("return_authorization_id", request.return_authorization_id)

    async def work(tx: Transaction) -> pb.CancelReturnAuthorizationResponse:
        order_id = await authorizations.order_of(tx.connection, authorization_id)
        await store.lock_order(tx.connection, order_id)
        authorization = await authorizations.locked(tx.connection, authorization_id)
        state = rules.after(authorization.state, AuthorizationStep.CANCEL, str(authorization_id))
        await authorizations.set_state(tx.connection, authorization, state)
        tx.emit(
            "onhand.return.authorization_cancelled.v1",
            f"return_authorization/{authorization_id}",
            {
                "return_authorization_id": str(authorization_id),
                "order_id": str(order_id),
                "state": state.value,
                "lines": [
                    {"line_number": line.line_number, "sku": line.sku, "quantity": line.left}
                    for line in authorization.lines.values()
                    if line.left
                ],
                "actor": caller.actor,
            },
        )
        return pb.CancelReturnAuthorizationResponse(
            return_authorization=await authorizations.read(tx.connection, authorization_id)
        )

    return await ledger.mutate(request, pb.CancelReturnAuthorizationResponse, work)


async def get_return_authorization(
    ledger: Ledger, request: pb.GetReturnAuthorizationRequest, caller: Caller
) -> pb.GetReturnAuthorizationResponse:
    """ReturnService.GetReturnAuthorization."""
    if bool(request.return_authorization_id) == bool(request.rma_number):
        raise invalid("return_authorization_id", "give either it or the rma_number")
    async with ledger.read() as connection:
        if request.rma_number:
            number = codes.order_number(request.rma_number)
            found = authorizations.found(await connection.fetchrow(authorizations.BY_NUMBER, number), number)
        else:
            authorization_id = parse_id("return_authorization_id", request.return_authorization_id)
            found = await authorizations.read(connection, authorization_id)
    return pb.GetReturnAuthorizationResponse(return_authorization=found)


async def list_return_authorizations(
    ledger: Ledger, request: pb.ListReturnAuthorizationsRequest, caller: Caller
) -> pb.ListReturnAuthorizationsResponse:
    """ReturnService.ListReturnAuthorizations."""
    if bool(request.order_id) == bool(request.customer_id):
        raise invalid("order_id", "give either it or the customer_id")
    size, after = page_size(request.page_size), decode_token(request, UUID) or (None,)
    async with ledger.read() as connection:
        if request.order_id:
            order_id = parse_id("order_id", request.order_id)
            rows = await connection.fetch(authorizations.OF_ORDER, order_id, *after, size + 1)
        else:
            rows = await connection.fetch(authorizations.OF_CUSTOMER, request.customer_id, *after, size + 1)
    found, last = fill(rows, size, authorizations.message)
    token = encode_token(request, last["return_authorization_id"]) if last else ""
    return pb.ListReturnAuthorizationsResponse(return_authorizations=found, next_page_token=token)
