"""Returns beyond the counter: found, announced, received, blind, exchanged; and what they say about who brings them."""

from __future__ import annotations

from functools import partial

from onhand.domain.returns import ReturnPolicy
from onhand.ledger.mutation import Ledger
from onhand.reservations.decrease import Decreases
from onhand.returns import authorize, blind, exchange, find, receive, signals, to_supplier


class Returns:
    """ReturnService: a handler for each rpc, of its name."""

    def __init__(self, ledger: Ledger, decreases: Decreases, policy: ReturnPolicy) -> None:
        self.list_returnable_lines = partial(find.list_returnable_lines, ledger, policy)
        self.authorize_return = partial(authorize.authorize_return, ledger, policy)
        self.cancel_return_authorization = partial(authorize.cancel_return_authorization, ledger)
        self.get_return_authorization = partial(authorize.get_return_authorization, ledger)
        self.list_return_authorizations = partial(authorize.list_return_authorizations, ledger)
        self.receive_return = partial(receive.receive_return, ledger, policy)
        self.create_blind_return = partial(blind.create_blind_return, ledger, policy)
        self.create_exchange = partial(exchange.create_exchange, ledger, decreases, policy)
        self.get_return_signals = partial(signals.get_return_signals, ledger, policy)
        self.return_to_supplier = partial(to_supplier.return_to_supplier, ledger)
