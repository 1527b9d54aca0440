"""HandOverFulfillmentOrder: to who knows the code, or shows who they are; of all of it, or of a part."""

from __future__ import annotations

import hashlib

from onhand.caller import Caller
from onhand.domain.errors import PickupCodeLocked, PickupCodeWrong, invalid
from onhand.domain.order import PICKUP_CODE_FAILURES_MAX, PROOFS_MIN, Step
from onhand.domain.work_errors import ActorRequired, ProofsMissing
from onhand.ids import parse_id
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.orders import codes, names, store
from onhand.orders.cancel import cancel_work
from onhand.orders.fulfil import part, read_rest
from onhand.orders.work import Work, advance_part
from onhand.v1 import order_pb2 as pb

INSERT_CHECK = """
INSERT INTO identity_checks (fulfillment_order_id, recipient, proofs, actor) VALUES ($1, $2, $3, $4)"""


async def hand_over_fulfillment_order(
    ledger: Ledger, request: pb.HandOverFulfillmentOrderRequest, caller: Caller
) -> pb.HandOverFulfillmentOrderResponse:
    """OrderService.HandOverFulfillmentOrder.

    A wrong code is counted in a transaction of its own before anything else: the refusal then undoes all but that.
    """
    fulfillment_order_id, lines = parse_id("fulfillment_order_id", request.fulfillment_order_id), part(request.lines)
    code = codes.plain(request.pickup_code)
    if bool(request.pickup_code) == request.HasField("identity"):
        raise invalid("pickup_code", "must be given, or identity instead of it")
    proofs = _proofs(request, caller)
    if not proofs:
        attempt = hashlib.sha256(f"{request.request_id}/{code}".encode()).digest()
        async with ledger.read() as connection:
            await store.count_wrong_code(connection, fulfillment_order_id, code, attempt, PICKUP_CODE_FAILURES_MAX)

    async def check(tx: Transaction, work: Work) -> None:
        if proofs:
            recipient = request.identity.recipient
            await tx.connection.execute(INSERT_CHECK, fulfillment_order_id, recipient, proofs, caller.actor)
        else:
            _check_code(work, code)

    async def work(tx: Transaction) -> pb.HandOverFulfillmentOrderResponse:
        done, rest = await advance_part(tx, fulfillment_order_id, Step.HAND_OVER, lines, caller, check)
        if rest is not None and request.cancel_rest:
            await cancel_work(tx, rest, caller)
        return pb.HandOverFulfillmentOrderResponse(fulfillment_order=done, rest=await read_rest(tx, rest))

    return await ledger.mutate(request, pb.HandOverFulfillmentOrderResponse, work)


def _check_code(work: Work, code: str) -> None:
    fulfillment = work.fulfillment
    id, failures = str(fulfillment.fulfillment_order_id), fulfillment.code_failures
    if failures >= PICKUP_CODE_FAILURES_MAX:
        raise PickupCodeLocked(id, failures)
    if not codes.is_right(code, fulfillment.code_salt, fulfillment.code_hash):
        raise PickupCodeWrong(id, PICKUP_CODE_FAILURES_MAX - failures)


def _proofs(request: pb.HandOverFulfillmentOrderRequest, caller: Caller) -> list[tuple[str, str]]:
    """What was shown instead of the code: [kind, what was seen of it]; of different kinds, by somebody who stands for it."""
    proofs = {
        names.proof_kind(f"identity.proofs[{n}].kind", proof.kind): proof.reference
        for n, proof in enumerate(request.identity.proofs)
    }
    if request.HasField("identity"):
        if len(proofs) < PROOFS_MIN:
            raise ProofsMissing(request.fulfillment_order_id, len(proofs), PROOFS_MIN)
        if not caller.actor:
            raise ActorRequired("HandOverFulfillmentOrder with identity")
    return list(proofs.items())
