"""Who is let in: calls of one kind have a budget of their own, so that a flash sale's reservations do not starve the tills.

A call beyond its budget is refused before it is decoded. What that says, and when to come back, is made once for many of them:
the cheaper a refusal, the more of the server is left for those who were let in.
"""

from __future__ import annotations

import asyncio
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
CALLS_AT_FIRST = 1000
"""What a budget is at the start of a process."""
CALL_SECONDS_TARGET = 0.8
"""How long a call may take before fewer are let in: on a slower machine, or a busier ledger, a budget is smaller."""
LEARN = 0.05
"""How much a call says of what is typical."""
FORGET = 0.99
"""What is left of it with each call that is refused for it."""
SLOW_SHARE_MAX = 0.1
"""Which share of the calls may take longer: some wait for a lock, whatever the load is."""
SHRINK = 0.6
"""What is left of a budget when more did: of its limit, or of what was under way if that was less."""
WINDOW_SECONDS = 1.0
"""Over how long refused calls are set against those let in."""
RETRY_SECONDS_MAX = 30.0
"""The most that a refused caller is asked to wait."""
STATUS_SECONDS = 0.1
"""How long an encoded refusal is given again."""

STORE_METHODS = frozenset({
    "Sell", "HandOverFulfillmentOrder", "ResetPickupCode", "CreateReturn",
    "AcceptFulfillmentOrder", "PickFulfillmentOrder", "MarkReadyForPickup", "ShipFulfillmentOrder",
    "DeliverFulfillmentOrder", "RejectFulfillmentOrder",
    "UnpickFulfillmentOrder", "MarkArrived", "MarkNoShow", "PutAwayFulfillmentOrder", "SubstituteLine", "PackFulfillmentOrder",
    "OfferSubstitute", "WithdrawSubstituteOffer",
    "ReturnUndelivered", "ExtendPickupHold",
    "ReceiveStock", "AdjustStock", "CountStock", "MoveStock", "DispatchTransfer", "ReceiveTransfer",
    "RequestTransfer", "DispatchRequestedTransfer", "CancelTransfer", "CloseTransfer", "ReceiveAdvanceNotice",
    "StartCount", "SubmitCount", "RequestRecount", "ApproveCount", "CancelCount",
    "LookUpBarcode", "ListFulfillmentOrders", "ListCountTasks", "ListShortfalls", "DecideShortfall",
    "ListReturnableLines", "ReceiveReturn", "CreateBlindReturn", "CreateExchange", "ReturnToSupplier",
})  # fmt: skip
"""What people in a store wait for, with goods or a customer before them."""
RESERVE_METHODS = frozenset({"Reserve", "BatchReserve", "ReserveStream", "ChangeReservation"})


def is_mutation(method: MethodDescriptor) -> bool:
    """Whether a call changes something: it, or each of those that it carries, has a request_id."""
    return any(
        field.name == "request_id" or (field.message_type and "request_id" in field.message_type.fields_by_name)
        for field in method.input_type.fields
    )


class Budget:
    """Calls of one kind that may be under way at once in this process: as many as are answered in good time."""

    def __init__(self, name: str, limit_max: int, limit_min: int = CALLS_MIN) -> None:
        self.name = name
        self.limit_max, self.limit_min = limit_max, limit_min
        self.limit = float(max(limit_min, min(limit_max, CALLS_AT_FIRST)))
        self.running = 0
        self._shrunk = 0.0
        self._slow = self._quick = 0
        self._typical_seconds = 0.0
        self._window = 0.0
        self._refused = self._refused_before = 0
        self._admitted = self._admitted_before = 0
        self._refusal = "", b""
        self._refusal_until = 0.0

    def refuses(self, seconds_left: float) -> bool:
        """Whether a call is to be refused: the budget is spent, or so little of the call's time is left that it would be in vain.

        It has waited in gRPC then. To work for it is to let the next one wait as long, until nobody is answered in time.
        """
        if self.running >= self.limit or seconds_left <= 0:
            return True
        if self.limit_min < self.limit_max and seconds_left < min(self._typical_seconds, CALL_SECONDS_TARGET):
            self._typical_seconds *= FORGET  # or, once it was slow, nobody with little time would ever be let in again
            return True
        return False

    async def spend(self, call: Coroutine[Any, Any, Message]) -> Message:
        """Does the work of a call that was let in. It counts until it is over, also where nobody waits any more."""
        began = self.enter()
        try:
            return await call
        finally:
            self.leave(began)

    def follow(self, work: asyncio.Future[Any]) -> None:
        """Counts work that was let in, and goes on by itself, until it is over."""
        began = self.enter()
        work.add_done_callback(lambda _: self.leave(began))

    def enter(self) -> float:
        """Begins to count work that was let in; returns what `leave` is to be given."""
        began = time.monotonic()
        self._turn(began)
        self._admitted += 1
        self.running += 1
        return began

    def leave(self, began: float) -> None:
        """The work is over."""
        self._learn(began)
        self.running -= 1

    def _learn(self, began: float) -> None:
        """Lets fewer in while too many calls take too long, and a little more where they are quick and there is a use for it."""
        now = time.monotonic()
        self._typical_seconds += (now - began - self._typical_seconds) * LEARN
        if now - began <= CALL_SECONDS_TARGET:
            self._quick += 1
            if self.running >= self.limit / 2:
                self.limit = min(self.limit_max, self.limit + 1 / self.limit)
        elif began >= self._shrunk and self.running > self.limit_min:  # let in by today's limit, and not alone
            self._slow += 1
            if self._slow > SLOW_SHARE_MAX * (self._slow + self._quick):
                self.limit = max(self.limit_min, min(self.limit, self.running) * SHRINK)
                self._shrunk = now
                self._slow = self._quick = 0

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
        return self.orders if is_mutation(method) else self.reads
