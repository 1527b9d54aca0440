"""What is measured: each figure by its name, how it is called, and the echo that it is held against."""

from __future__ import annotations

from dataclasses import dataclass

from onhand.bench.load import Edge
from onhand.bench.shapes import BATCH

INVENTORY = "/onhand.v1.InventoryService"
ORDERS = "/onhand.v1.OrderService"
ECHO = "/onhand.bench.Echo"

IN_FLIGHT = (64, 256)
"""Calls at once, of all clients together, that figures are measured at unless they say otherwise."""
FEWER = IN_FLIGHT[:1]
"""Of figures for which more at once say nothing new."""


@dataclass(frozen=True)
class Figure:
    """One contender's call."""

    name: str
    kind: str
    """Of messages; see onhand.bench.shapes.drawn."""
    path: str
    echo_kind: str
    echo_path: str
    edge: Edge = Edge.GRPC
    in_flight: tuple[int, ...] = IN_FLIGHT
    items_per_call: int = 1
    """What `calls_per_second` counts: reservations of a batch."""
    is_order: bool = False
    """Whether each call uses up a reservation."""

    @property
    def is_baseline(self) -> bool:
        """Whether it runs without onhand, and without any RPC."""
        return self.name.startswith("baseline_")


def _reserve(name: str, *, kind: str = "reserve", path: str = "Reserve", **more: object) -> Figure:
    echo_kind = "reserve_hot" if kind == "reserve_hot" else "reserve"
    return Figure(name, kind, f"{INVENTORY}/{path}", echo_kind, f"{ECHO}/Reserve", **more)  # type: ignore[arg-type]


def _availability(name: str, kind: str, **more: object) -> Figure:
    return Figure(name, kind, f"{INVENTORY}/GetAvailability", kind, f"{ECHO}/GetAvailability", **more)  # type: ignore[arg-type]


def _order(kind: str, rpc: str, **more: object) -> Figure:
    return Figure(kind, kind, f"{ORDERS}/{rpc}", kind, f"{ECHO}/{rpc}", **more)  # type: ignore[arg-type]


def _baseline(kind: str) -> tuple[Figure, Figure]:
    return (
        Figure(f"baseline_{kind}", kind, "", "reserve", f"{ECHO}/Reserve", in_flight=FEWER),
        Figure(f"baseline_{kind}_hot", f"{kind}_hot", "", "reserve_hot", f"{ECHO}/Reserve", in_flight=FEWER),
    )


FIGURES = (
    _reserve("reserve", in_flight=(1, *IN_FLIGHT)),
    _reserve("reserve_hot", kind="reserve_hot"),
    # A batch's own in-flight is as many reservations: 64 such calls would be 6,400 of them.
    _reserve("reserve_batch", kind="reserve_batch", path="BatchReserve", in_flight=(4,), items_per_call=BATCH),
    _reserve("reserve_stream", path="ReserveStream", edge=Edge.STREAM),
    _reserve("reserve_connect", edge=Edge.CONNECT),
    _availability("availability_20_skus", "availability_20_skus"),
    _availability("availability_20_skus_connect", "availability_20_skus", edge=Edge.CONNECT),
    _availability("availability_50_locations", "availability_50_locations", in_flight=FEWER),
    _order("place_order", "PlaceOrder", is_order=True),
    _order("place_order_hot", "PlaceOrder", is_order=True, in_flight=FEWER),
    _order("sell", "Sell"),
    _order("sell_hot", "Sell", in_flight=FEWER),
    *_baseline("conditional_update"),
    *_baseline("conditional_update_pooled"),
    *_baseline("select_for_update"),
    *_baseline("redis_script"),
)
"""Every figure, in the order of the report."""

BY_NAME = {figure.name: figure for figure in FIGURES}
