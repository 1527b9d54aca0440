"""Who is let in: calls of one kind have a budget of their own, so that a flash sale's reservations do not starve the tills.

A call beyond its budget is refused before it is decoded. What that says, and when to come back, is made once for many of them:
the cheaper a refusal, the more of the server is left for those who were let in.
"""

from __future__ import annotations

import random
import time
from collections.abc import Coroutine
from typing import Any

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from onhand.domain.errors import Overloaded
from onhand.edge.errors import RETRY_SECONDS, status_of

STORE_CALLS_MAX = 1000
"""Calls of stores under way in a process: sales, pickups, returns, goods that move, counts. The last to be refused."""
ORDER_CALLS_MAX = 500
"""Orders, cancellations, carts, and whatever else changes something."""
RESERVE_CALLS_MAX = 2000
"""Reservations that are made or changed."""
READ_CALLS_MAX = 1000
"""Reads."""
CALLS_MIN = 16
"""What a budget shrinks to at the least while its calls take too long. That of stores does not shrink."""
CALLS_AT_FIRST = 500
"""What a budget is at the start of a process."""
CALL_SECONDS_TARGET = 0.8
"""How long a call may take before fewer are let in: on a slower machine, or a busier ledger, a budget is smaller."""
SHRINK = 0.8
"""What is left of a budget when a call took too long; at most once in that time."""
WINDOW_SECONDS = 1.0
"""Over how long refused calls are set against those let in."""
RETRY_SECONDS_MAX = 30.0
"""The most that a refused caller is asked to wait."""
STATUS_SECONDS = 0.1
"""How long an encoded refusal is given again."""

STORE_METHODS = frozenset({
    "Sell", "HandOverFulfillmentOrder", "ResetPickupCode", "CreateReturn",
    "AcceptFulfillmentOrder", "PickFulfillmentOrder", "MarkReadyForPickup", "ShipFulfillmentOrder",
    "DeliverFulfillmentOrder",
    "ReceiveStock", "AdjustStock", "CountStock", "MoveStock", "DispatchTransfer", "ReceiveTransfer",
    "LookUpBarcode", "ListFulfillmentOrders", "ListCountTasks", "ListShortfalls", "DecideShortfall",
})  # fmt: skip
"""What people in a store wait for, with goods or a customer before them."""
RESERVE_METHODS = frozenset({"Reserve", "ChangeReservation"})


class Budget:
    """Calls of one kind that may be under way at once in this process: as many as are answered in good time."""

    def __init__(self, name: str, limit_max: int, limit_min: int = CALLS_MIN) -> None:
        self.name = name
        self.limit_max, self.limit_min = limit_max, limit_min
        self.limit = float(max(limit_min, min(limit_max, CALLS_AT_FIRST)))
        self.running = 0
        self._shrunk = 0.0
        self._window = 0.0
        self._refused = self._refused_before = 0
        self._admitted = self._admitted_before = 0
        self._refusal = "", b""
        self._refusal_until = 0.0

    @property
    def is_spent(self) -> bool:
        """Whether the next call is to be refused."""
        return self.running >= self.limit

    async def spend(self, call: Coroutine[Any, Any, Message]) -> Message:
        """Does the work of a call that was let in. It counts until it is over, also where nobody waits any more."""
        began = time.monotonic()
        self._turn(began)
        self._admitted += 1
        self.running += 1
        try:
            return await call
        finally:
            self._learn(began)
            self.running -= 1

    def _learn(self, began: float) -> None:
        """Lets fewer in where a call took too long, and a little more where they are quick and there is a use for it."""
        if self.running < self.limit / 2:
            return  # it is not the number of calls that makes it slow, or quick
        now = time.monotonic()
        if now - began > CALL_SECONDS_TARGET:
            if began >= self._shrunk:  # it was let in by today's limit
                self.limit = max(self.limit_min, self.limit * SHRINK)
                self._shrunk = now
        else:
            self.limit = min(self.limit_max, self.limit + 1 / self.limit)

    def refusal(self) -> tuple[str, bytes]:
        """What one more refused call is told: the message, and its google.rpc.Status, encoded."""
        now = time.monotonic()
        self._turn(now)
        self._refused += 1
        if now >= self._refusal_until:
            status = status_of(Overloaded(self.name, int(self.limit)), self.retry_seconds())
            self._refusal = status.message, status.SerializeToString()
            self._refusal_until = now + STATUS_SECONDS
        return self._refusal

    def retry_seconds(self) -> float:
        """How long a refused caller should wait: the longer, the more are refused for each that is let in.

        Drawn at random around that, so that those who were refused together do not come back together.
        """
        refused, admitted = self._refused + self._refused_before, self._admitted + self._admitted_before
        seconds = RETRY_SECONDS * (1 + refused / max(1, admitted))
        return min(RETRY_SECONDS_MAX, seconds * random.uniform(1, 1.5))

    def _turn(self, now: float) -> None:
        if now < self._window + WINDOW_SECONDS:
            return
        is_next = now < self._window + 2 * WINDOW_SECONDS
        self._refused_before, self._admitted_before = (self._refused, self._admitted) if is_next else (0, 0)
        self._refused = self._admitted = 0
        self._window = now


class Admission:
    """The budgets of a process."""

    def __init__(self) -> None:
        self.stores = Budget("store calls", STORE_CALLS_MAX, STORE_CALLS_MAX)
        self.orders = Budget("orders and other changes", ORDER_CALLS_MAX)
        self.reservations = Budget("reservations", RESERVE_CALLS_MAX)
        self.reads = Budget("reads", READ_CALLS_MAX)

    def budget(self, method: MethodDescriptor) -> Budget:
        """Whose budget a method is paid from."""
        if method.name in STORE_METHODS:
            return self.stores
        if method.name in RESERVE_METHODS:
            return self.reservations
        return self.orders if "request_id" in method.input_type.fields_by_name else self.reads
