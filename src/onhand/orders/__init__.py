"""Orders, from placing to hand-over; sales at the till; returns anywhere."""

from __future__ import annotations

from functools import partial

from onhand.domain.returns import ReturnPolicy
from onhand.ledger.mutation import Ledger
from onhand.orders import (
    alternatives,
    cancel,
    change,
    decide,
    fulfil,
    hand_over,
    history,
    offers,
    queries,
    reject,
    returns,
    ship,
    shortfalls,
    substitute,
    waiting,
)
from onhand.orders.checkouts import Checkouts
from onhand.orders.placing import Placing
from onhand.orders.selling import Selling
from onhand.reservations.decrease import Decreases
from onhand.sourcing import Sourcing


class Orders:
    """OrderService: a handler for each rpc, of its name."""

    def __init__(
        self,
        ledger: Ledger,
        decreases: Decreases,
        checkouts: Checkouts,
        sourcing: Sourcing,
        return_policy: ReturnPolicy,
    ) -> None:
        self.place_order = Placing(ledger, checkouts).place_order
        self.sell = Selling(ledger, decreases).sell
        self.get_order = partial(queries.get_order, ledger)
        self.list_orders = partial(queries.list_orders, ledger)
        self.list_order_events = partial(history.list_order_events, ledger)
        self.list_order_movements = partial(history.list_order_movements, ledger)
        self.cancel_order_lines = partial(cancel.cancel_order_lines, ledger)
        self.preview_order_change = partial(change.preview_order_change, ledger)
        self.apply_order_change = partial(change.apply_order_change, ledger, decreases, checkouts.change)
        self.accept_fulfillment_order = partial(fulfil.accept_fulfillment_order, ledger)
        self.pick_fulfillment_order = partial(fulfil.pick_fulfillment_order, ledger)
        self.mark_ready_for_pickup = partial(fulfil.mark_ready_for_pickup, ledger)
        self.substitute_line = partial(substitute.substitute_line, ledger, decreases)
        self.offer_substitute = partial(offers.offer_substitute, ledger)
        self.accept_substitute_offer = partial(offers.accept_substitute_offer, ledger, decreases)
        self.decline_substitute_offer = partial(offers.decline_substitute_offer, ledger)
        self.withdraw_substitute_offer = partial(offers.withdraw_substitute_offer, ledger)
        self.list_substitute_offers = partial(offers.list_substitute_offers, ledger)
        self.unpick_fulfillment_order = partial(fulfil.unpick_fulfillment_order, ledger)
        self.mark_arrived = partial(waiting.mark_arrived, ledger)
        self.extend_pickup_hold = partial(waiting.extend_pickup_hold, ledger)
        self.mark_no_show = partial(waiting.mark_no_show, ledger)
        self.put_away_fulfillment_order = partial(waiting.put_away_fulfillment_order, ledger)
        self.hand_over_fulfillment_order = partial(hand_over.hand_over_fulfillment_order, ledger)
        self.reset_pickup_code = partial(fulfil.reset_pickup_code, ledger)
        self.pack_fulfillment_order = partial(ship.pack_fulfillment_order, ledger)
        self.return_undelivered = partial(ship.return_undelivered, ledger)
        self.ship_fulfillment_order = partial(ship.ship_fulfillment_order, ledger)
        self.deliver_fulfillment_order = partial(ship.deliver_fulfillment_order, ledger)
        self.list_shortfalls = partial(shortfalls.list_shortfalls, ledger)
        self.decide_shortfall = partial(decide.decide_shortfall, ledger, decreases, sourcing)
        self.list_shortfall_alternatives = partial(alternatives.list_shortfall_alternatives, ledger, sourcing)
        self.reject_fulfillment_order = partial(reject.reject_fulfillment_order, ledger)
        self.list_fulfillment_orders = partial(queries.list_fulfillment_orders, ledger)
        self.create_return = partial(returns.create_return, ledger, return_policy)
        self.get_return = partial(queries.get_return, ledger)
        self.list_returns = partial(queries.list_returns, ledger)
