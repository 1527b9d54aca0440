"""ReturnToSupplier: units that wait in quarantine leave for where they came from."""

from __future__ import annotations

from onhand.caller import Caller
from onhand.domain.stock import Bucket, Movement, sum_lines
from onhand.ids import new_id
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.v1 import returns_pb2 as pb
from onhand.v1 import types_pb2

REASON = "RETURN_TO_SUPPLIER"


async def return_to_supplier(
    ledger: Ledger, request: pb.ReturnToSupplierRequest, caller: Caller
) -> pb.ReturnToSupplierResponse:
    """ReturnService.ReturnToSupplier."""
    lines = sum_lines((line.sku, line.quantity) for line in request.lines)

    async def work(tx: Transaction) -> pb.ReturnToSupplierResponse:
        document = f"supplier_return/{new_id()}"
        await tx.lock_levels(((request.location_id, sku) for sku, _ in lines), create=True)
        await tx.post(
            [
                Movement(
                    request.location_id, sku, quantity, Bucket.QUARANTINE, Bucket.SUPPLIER, REASON, document,
                    actor=caller.actor,
                )
                for sku, quantity in lines
            ]
        )  # fmt: skip
        tx.emit(
            "onhand.stock.returned_to_supplier.v1",
            document,
            {
                "location_id": request.location_id,
                "lines": [{"sku": sku, "quantity": quantity} for sku, quantity in lines],
                "reference_document": request.reference_document,
                "actor": caller.actor,
            },
            request.location_id,
        )
        return pb.ReturnToSupplierResponse(
            lines=[types_pb2.BasketLine(sku=sku, quantity=quantity) for sku, quantity in lines]
        )

    return await ledger.mutate(request, pb.ReturnToSupplierResponse, work)
