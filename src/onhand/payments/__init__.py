"""The money of orders: what was authorized, captured, given back, and by whom."""

from __future__ import annotations

from functools import partial

from onhand.ledger.mutation import Ledger
from onhand.payments import queries


class Payments:
    """PaymentService: a handler for each rpc, of its name."""

    def __init__(self, ledger: Ledger) -> None:
        self.get_payment = partial(queries.get_payment, ledger)
        self.list_payments = partial(queries.list_payments, ledger)
