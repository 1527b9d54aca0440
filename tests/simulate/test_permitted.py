"""What an audit must let pass: histories that look wrong and are not, each beside one like it that is.

The shop here is one sku at one location with ten units, received at second 1.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

from google.protobuf.message import Message

from onhand.simulate.facts import (
    DUPLICATE,
    LOST,
    OTHER,
    STALE,
    ClaimRow,
    Findings,
    Ledger,
    LevelRow,
    MovementRow,
    OrderRow,
    RequestRow,
)
from onhand.simulate.history import OK, REFUSED, UNKNOWN, Record
from onhand.simulate.judge import judge
from onhand.v1 import inventory_pb2, order_pb2, types_pb2

PLACE, SKU = "store", "sku"


class Story:
    """A history and its ledger, told call by call."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.requests: list[RequestRow] = []
        self.movements: list[MovementRow] = []
        self.claims: list[ClaimRow] = []
        self.orders: list[OrderRow] = []
        self.levels: Counter[str] = Counter()
        self.deltas: list[tuple[int, int]] = []
        self.faults: list[tuple[float, float]] = []
        self.ledger_faults: list[tuple[float, float]] = []
        self.receive("receive", 10, attempts=[(1, 2, OK)], commit=1.5)

    def _attempts(
        self, kind: str, request: Any, answer: Message | None, attempts: list[tuple[float, float, str]], **more: Any
    ) -> None:
        op = len(self.records) + 1
        for n, (begin, end, outcome) in enumerate(attempts, 1):
            self.records.append(
                Record(
                    op, "0", kind, getattr(request, "request_id", ""), n, begin, end, "server", outcome,
                    more.get("reason", ""), more.get("detail", {}), request, answer if outcome == OK else None,
                )
            )  # fmt: skip

    def _committed(self, request: Any, answer: Message, commit: float) -> int:
        transaction = 100 + len(self.requests)
        self.requests.append(
            RequestRow(request.request_id, type(request).__name__, answer.SerializeToString(), transaction, commit)
        )
        return transaction

    def _move(self, transaction: int, units: int, way: str, reason: str, commit: float) -> None:
        from_bucket, to_bucket = way.split(">")
        self.movements.append(
            MovementRow(
                PLACE, len(self.movements) + 1, SKU, units, from_bucket, to_bucket, reason, "", transaction, commit
            )
        )
        self.levels[from_bucket] -= units
        self.levels[to_bucket] += units

    def receive(
        self, request_id: str, units: int, *, attempts: list[tuple[float, float, str]], commit: float | None
    ) -> None:
        """A receipt; `commit` None: it had no effect."""
        request = inventory_pb2.ReceiveStockRequest(
            request_id=request_id, location_id=PLACE, lines=[types_pb2.BasketLine(sku=SKU, quantity=units)]
        )
        answer = inventory_pb2.ReceiveStockResponse(levels=[inventory_pb2.StockLevel(location_id=PLACE, sku=SKU)])
        if commit is not None:
            transaction = self._committed(request, answer, commit)
            self._move(transaction, units, "supplier>available", "RECEIPT", commit)
            self.deltas.append((len(self.deltas) + 1, transaction))
        self._attempts("ReceiveStock", request, answer, attempts)

    def sell(
        self, request_id: str, units: int, *, attempts: list[tuple[float, float, str]], commit: float | None
    ) -> None:
        """A sale at the till."""
        request = order_pb2.SellRequest(
            request_id=request_id, location_id=PLACE, lines=[order_pb2.SaleLine(sku=SKU, quantity=units)]
        )
        line = order_pb2.OrderLine(line_number=1, sku=SKU, quantity=units)
        answer = order_pb2.SellResponse(order=order_pb2.Order(order_id=f"order of {request_id}", lines=[line]))
        if commit is not None:
            transaction = self._committed(request, answer, commit)
            self._move(transaction, units, "available>customer", "SALE", commit)
            self.orders.append(OrderRow(answer.order.order_id, "", ((1, SKU, units, units, 0, 0),)))
        self._attempts("Sell", request, answer, attempts)

    def reserve(
        self,
        request_id: str,
        units: int,
        *,
        attempts: list[tuple[float, float, str]],
        commit: float | None,
        closed: tuple[str, float] = ("", 0),
        short: int | None = None,
    ) -> None:
        """A reservation of 5 seconds; `closed`: ("expired", when). `short`: it was refused, so many were there."""
        basket = inventory_pb2.LocationBasket(location_id=PLACE, lines=[types_pb2.BasketLine(sku=SKU, quantity=units)])
        request = inventory_pb2.ReserveRequest(
            request_id=request_id, channel=types_pb2.CHANNEL_WEB, baskets=[basket], ttl_seconds=5
        )
        held = inventory_pb2.Reservation(reservation_id=f"reservation of {request_id}", baskets=[basket])
        answer = inventory_pb2.ReserveResponse(reservation=held)
        if commit is not None:
            transaction = self._committed(request, answer, commit)
            state, when = closed
            self.claims.append(
                ClaimRow(
                    PLACE, request_id, held.reservation_id, state or "active", ((SKU, units),), commit + 5, commit, "",
                    900 + len(self.claims) if state else transaction, when or commit,
                )
            )  # fmt: skip
        more: dict[str, Any] = {}
        if short is not None:
            shorts = [[f"{PLACE}/{SKU}", f"{units} requested, {short} available"]]
            more = {"reason": "INSUFFICIENT_STOCK", "detail": {"shorts": shorts}}
        self._attempts("Reserve", request, answer, attempts, **more)

    def read(self, begin: float, end: float, shown: int) -> None:
        """What the till was shown."""
        request = inventory_pb2.GetAvailabilityRequest(channel=types_pb2.CHANNEL_POS, skus=[SKU], location_ids=[PLACE])
        item = inventory_pb2.BasketAvailability(sku=SKU, available_to_promise=shown)
        place = inventory_pb2.LocationAvailability(location_id=PLACE, items=[item])
        answer = inventory_pb2.GetAvailabilityResponse(locations=[place])
        self._attempts("GetAvailability", request, answer, [(begin, end, OK)])

    def judged(self) -> Findings:
        """What the auditor says."""
        level = LevelRow(PLACE, SKU, self.levels["available"], self.levels["allocated"], 0, 0)
        ledger = Ledger(
            self.requests, self.movements, self.claims, self.orders, [level], [], [], 0, {PLACE: self.deltas}
        )
        return judge(sorted(self.records, key=lambda r: r.begin), ledger, self.faults, self.ledger_faults)[0]

    def counters(self) -> set[str]:
        """The counters that are not 0."""
        return {name for name, count in self.judged().counts.items() if count}


def test_an_unknown_sale_may_have_happened_and_is_seen_from_its_commit_on() -> None:
    story = Story()
    story.sell("sale", 3, attempts=[(5, 6, UNKNOWN)], commit=5.5)
    story.read(20, 21, 7)
    assert story.counters() == set()

    story.read(22, 23, 10)
    assert story.counters() == {STALE}


def test_a_commit_may_wait_to_be_seen_only_while_the_ledger_itself_is_broken() -> None:
    story = Story()
    story.sell("sale", 3, attempts=[(5, 6, UNKNOWN)], commit=5.5)
    story.read(12, 13, 10)
    assert story.counters() == {STALE}

    story.faults.append((5.6, 14))
    assert story.counters() == {STALE}

    story.ledger_faults.append((5.6, 14))
    assert story.counters() == set()


def test_an_unknown_sale_may_never_have_happened_and_may_hold_its_units_until_it_is_swept() -> None:
    story = Story()
    story.sell("sale", 3, attempts=[(5, 6, UNKNOWN)], commit=None)
    story.read(20, 21, 10)
    story.read(22, 23, 7)
    assert story.counters() == set()

    story.read(200, 201, 7)
    assert story.counters() == {STALE}


def test_an_unknown_sale_happens_once_at_most() -> None:
    story = Story()
    story.sell("sale", 3, attempts=[(5, 6, UNKNOWN), (7, 8, UNKNOWN)], commit=5.5)
    story.read(200, 201, 7)
    assert story.counters() == set()

    again = story.movements[-1]._replace(movement_id=99, transaction=999)
    story.movements.append(again)
    assert DUPLICATE in story.counters()


def test_an_unknown_receipt_may_be_relayed_late_but_not_after_a_later_one_was_acknowledged() -> None:
    story = Story()
    story.receive("late", 4, attempts=[(5, 6, UNKNOWN)], commit=5.5)
    story.read(7, 8, 10)
    story.read(30, 31, 14)
    assert story.counters() == set()

    story.receive("later", 1, attempts=[(8.5, 9, OK)], commit=8.7)
    story.records = [r for r in story.records if r.begin != 30]
    story.read(10, 11, 11)
    assert story.counters() == {STALE}


def test_a_receipt_cannot_be_seen_before_it_was_committed() -> None:
    story = Story()
    story.receive("more", 4, attempts=[(5, 9, OK)], commit=8)
    story.read(8.5, 8.6, 14)
    assert story.counters() == set()

    story.read(6, 7, 14)
    assert story.counters() == {STALE}


def test_an_attempt_that_was_still_on_its_way_may_have_its_effect_after_another_was_refused() -> None:
    story = Story()
    story.sell("all", 10, attempts=[(3, 4, OK)], commit=3.5)
    story.reserve("mine", 2, attempts=[(5, 6, UNKNOWN)], commit=9.0, closed=("expired", 14.1))
    # It was refused at 7; at 8 units came, and the first attempt, paused until then, got them.
    story.reserve("mine", 2, attempts=[(7, 7.5, REFUSED)], commit=None, short=0)
    story.records[-1] = dataclasses.replace(story.records[-1], op=story.records[-2].op, attempt=2)
    story.receive("more", 2, attempts=[(8, 8.5, OK)], commit=8.2)
    assert story.counters() == set()

    early = story.requests[2]._replace(commit=6.5)
    assert early.request_id == "mine"
    story.requests[2] = early
    assert DUPLICATE in story.counters()


def test_a_refusal_is_justified_by_what_others_may_have_held_for_a_while() -> None:
    story = Story()
    story.reserve("lost", 8, attempts=[(5, 6, UNKNOWN)], commit=None)
    story.reserve("other", 5, attempts=[(7, 8, REFUSED)], commit=None, short=2)
    assert story.counters() == set()

    story = Story()
    story.reserve("other", 5, attempts=[(7, 8, REFUSED)], commit=None, short=2)
    assert story.counters() == {OTHER}


def test_an_expired_reservation_is_given_back_after_its_row_was_closed_and_not_before() -> None:
    story = Story()
    story.reserve("mine", 4, attempts=[(3, 4, OK)], commit=3.5, closed=("expired", 9.0))
    story.read(5, 6, 6)
    story.read(9.1, 9.2, 6)
    story.read(9.5, 9.6, 10)
    assert story.counters() == set()

    story.read(8, 8.5, 10)
    assert story.counters() == {STALE}


def test_an_expired_reservation_that_is_never_given_back_is_found() -> None:
    story = Story()
    story.reserve("mine", 4, attempts=[(3, 4, OK)], commit=3.5, closed=("expired", 9.0))
    story.read(100, 101, 6)
    assert story.counters() == {STALE}

    # While something is broken all the time, nobody can give it back.
    story.faults.append((9.5, 100))
    assert story.counters() == set()


def test_a_fault_may_cut_off_what_an_acknowledged_call_wanted_to_give_back() -> None:
    story = Story()
    story.reserve("mine", 4, attempts=[(3, 4, OK)], commit=3.5, closed=("expired", 30.0))
    story.read(5, 6, 2)
    assert story.counters() == {STALE}

    story.faults.append((3.2, 3.6))
    assert story.counters() == set()


def test_an_effect_without_any_attempt_that_may_have_made_it_is_found() -> None:
    story = Story()
    story.reserve("mine", 4, attempts=[(3, 4, REFUSED)], commit=3.5, closed=("expired", 9.0), short=3)
    assert OTHER in story.counters()


def test_what_was_acknowledged_and_is_nowhere_is_lost() -> None:
    story = Story()
    story.sell("sale", 3, attempts=[(5, 6, OK)], commit=None)
    assert LOST in story.counters()
