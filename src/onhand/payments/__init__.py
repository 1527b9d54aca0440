"""The money of orders: what was authorized, captured, given back, and by whom."""

from __future__ import annotations

from functools import partial

from onhand.ledger.mutation import Ledger
from onhand.payments import gift_cards, owed, queries


class Payments:
    """PaymentService: a handler for each rpc, of its name."""

    def __init__(self, ledger: Ledger) -> None:
        self.get_payment = partial(queries.get_payment, ledger)
        self.list_payments = partial(queries.list_payments, ledger)
        self.settle_refund = partial(owed.settle_refund, ledger)
        self.issue_gift_card = partial(gift_cards.issue_gift_card, ledger)
        self.top_up_gift_card = partial(gift_cards.top_up_gift_card, ledger)
        self.get_gift_card = partial(gift_cards.get_gift_card, ledger)
        self.list_gift_card_movements = partial(gift_cards.list_gift_card_movements, ledger)
