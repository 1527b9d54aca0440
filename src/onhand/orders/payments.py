"""How an order is paid. Here tenders are what the caller says was authorized; they are checked and recorded.

The payment saga takes its place in `place`: see there.
"""

from __future__ import annotations

from collections.abc import Sequence

from onhand.domain import money
from onhand.domain.errors import CurrencyMismatch, TendersMismatch, invalid
from onhand.orders import names
from onhand.orders.store import NewTender
from onhand.v1 import order_pb2 as pb
from onhand.wire import money_from_wire


def tenders(given: Sequence[pb.Tender], currency: str, total_minor: int) -> list[NewTender]:
    """Tenders that add up to a total. Raises `InvalidRequest`, `CurrencyMismatch`, `TendersMismatch`."""
    result = []
    for index, tender in enumerate(given):
        field = f"tenders[{index}]"
        kind = names.tender_kind(f"{field}.kind", tender.kind)
        amount_minor, tendered_currency = money_from_wire(f"{field}.amount", tender.amount)
        if amount_minor == 0:
            raise invalid(f"{field}.amount", "must be more than 0")
        if tendered_currency != currency:
            raise CurrencyMismatch(currency, tendered_currency)
        result.append(NewTender(kind, amount_minor, tender.reference))
    tendered_minor = money.checked(sum(tender.amount_minor for tender in result))
    if tendered_minor != total_minor:
        raise TendersMismatch(tendered_minor, total_minor, currency)
    return result
