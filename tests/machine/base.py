"""What the rules of the state machine share: what is drawn, how it is said, and what must hold after every step."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import hypothesis.strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant

from api import dollars, lines
from machine.calls import Calls
from machine.model import CHANNELS
from machine.world import SERVERS, World
from onhand.v1 import inventory_pb2 as inventory
from onhand.v1 import types_pb2

STORES = ("north", "south", "depot")
# What is drawn often comes often, what comes first is what a failure shrinks to.
servers = st.integers(0, SERVERS - 1)
quantities = st.integers(1, 6)
places = st.sampled_from((*("north", "south") * 5, "depot", "depot", "annex", "nowhere"))
skus = st.sampled_from((*("milk", "bread") * 6, "cake"))
channels = st.sampled_from(("WEB", "APP", "POS", *CHANNELS))
customers = st.sampled_from(("", "ada", "bob"))
currencies = st.sampled_from((*("USD",) * 8, "JPY", "XXQ"))
buckets = st.sampled_from(("AVAILABLE", "DAMAGED", "QUARANTINE"))
quantities_of = st.dictionaries(skus, quantities, min_size=1, max_size=2)
# Of two locations that are not there either may be named.
baskets = st.dictionaries(places, quantities_of, min_size=1, max_size=2).filter(
    lambda b: not {"annex", "nowhere"} <= b.keys()
)
reservations: Bundle[str] = Bundle("reservations")
orders: Bundle[str] = Bundle("orders")
transfers: Bundle[str] = Bundle("transfers")
carts: Bundle[str] = Bundle("carts")


def channel_of(name: str) -> Any:
    """CHANNEL_WEB of WEB."""
    return types_pb2.Channel.Value(f"CHANNEL_{name}")


def bucket_of(name: str) -> Any:
    """BUCKET_DAMAGED of DAMAGED."""
    return inventory.Bucket.Value(f"BUCKET_{name}")


class Base(RuleBasedStateMachine):
    """What all rules share: a retailer of its own for each example."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.calls = Calls(world)
        self.model = self.calls.model
        self.is_settled = True
        self.is_killed = False

    @initialize(stock=st.lists(st.sampled_from((6, 9, 1, 0)), min_size=6, max_size=6))
    def open(self, stock: list[int]) -> None:
        """Two stores and a depot, milk and bread, some of each."""
        made: list[tuple[str, dict[str, Any]]] = [
            ("CreateLocation", {"location": self.location(place, is_pickup=place != "depot")}) for place in STORES
        ]
        for sku in ("milk", "bread"):
            made.append(("CreateProduct", {"product": {"sku": self.sku(sku), "name": sku}}))
        self.calls.call_at_once(0, made)
        made = [("SetPrice", {"sku": self.sku(s), "amount": dollars(c)}) for s, c in (("milk", 199), ("bread", 250))]
        for n, place in enumerate(STORES):
            wanted = {self.sku(sku): q for sku, q in zip(("milk", "bread"), stock[2 * n :], strict=False) if q}
            if wanted:
                made.append(("ReceiveStock", {"location_id": self.place(place), "lines": lines(wanted)}))
        self.calls.call_at_once(0, made)

    def location(self, place: str, *, is_pickup: bool) -> dict[str, Any]:
        """A store, or a depot, that ships."""
        kind = inventory.LOCATION_KIND_STORE if is_pickup else inventory.LOCATION_KIND_WAREHOUSE
        return {
            "location_id": self.place(place),
            "kind": kind,
            "name": place,
            "offers_pickup": is_pickup,
            "offers_shipping": True,
        }

    # ------------------------------------------------------------------------------------------------------ short forms
    def call(self, n: int, rpc: str, **fields: Any) -> dict[str, Any] | None:
        """See Calls.call."""
        return self.calls.call(n, rpc, **fields)

    def place(self, name: str) -> str:
        """A location's id."""
        return self.calls.name(name)

    def sku(self, name: str) -> str:
        """A sku."""
        return self.calls.name(name)

    def customer(self, name: str) -> str:
        """A customer's id; nobody's is empty."""
        return self.calls.name(name) if name else ""

    def lines(self, quantities: Mapping[str, int]) -> list[types_pb2.BasketLine]:
        """Basket lines."""
        return lines({self.sku(sku): quantity for sku, quantity in quantities.items()})

    def baskets(self, wanted: Mapping[str, Mapping[str, int]]) -> list[inventory.LocationBasket]:
        """Baskets by location."""
        return [
            inventory.LocationBasket(location_id=self.place(where), lines=self.lines(what))
            for where, what in wanted.items()
        ]

    # ------------------------------------------------------------------------------------------------- after every step
    @invariant()
    def all_say_what_the_model_says(self) -> None:
        """One view, at every server."""
        if self.is_settled:
            self.calls.compare()
        else:
            self.calls.settle()
            self.is_settled = True

    def teardown(self) -> None:
        """Every history is the model's too, and every rule of the ledger holds. A failure takes the calls along."""
        for n in range(SERVERS):
            self.world.servers[n].wire.mend()
        # Called while the failure of a step, if there is one, passes by.
        if (error := sys.exception()) is not None:
            error.add_note(self.calls.story())
            self.world.has_failed = True
            return
        if self.world.has_failed:
            return  # the failure of a step is made smaller: what passes without it is of no interest
        try:
            self.calls.compare_all()
            broken = self.world.broken_rules()
            assert not broken, broken
        except AssertionError as error:
            error.add_note(self.calls.story())
            raise
