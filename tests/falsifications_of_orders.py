"""Falsifications of what orders, returns and stock work do to stock and money: one of each kind, and each sum of money."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from falsifications import FALSIFICATIONS, Falsify, Run, copy_of, falsification, rows
from onhand.simulate.facts import DUPLICATE, LOST, OTHER, GatewayRow, MovementRow
from onhand.simulate.history import OK, Record
from onhand.v1 import order_pb2

KINDS = (
    "RejectFulfillmentOrder",
    "DecideShortfall",
    "SubstituteLine",
    "HandOverFulfillmentOrder",
    "ShipFulfillmentOrder",
    "CreateReturn",
    "CreateExchange",
    "ReceiveTransfer",
    "ReceiveAdvanceNotice",
    "ApproveCount",
)
"""Workflows of which a run this short has some that move goods."""


def _moved_by(run: Run, kind: str) -> MovementRow:
    """A movement of a call of this kind: its own, none that follows others."""
    ids = {r.request_id for r in run.records if (r.kind, r.outcome) == (kind, OK)}
    transactions = {row.transaction for row in run.ledger.requests if row.request_id in ids}
    return next(
        m
        for m in run.ledger.movements
        if m.transaction in transactions and not m.reason.startswith(("SHORTFALL_", "FOUND_"))
    )


def _is_missing(kind: str) -> Falsify:
    def falsify(run: Run) -> Run:
        gone = _moved_by(run, kind)
        return rows(run, "movements", [m for m in run.ledger.movements if m is not gone])

    falsify.__name__ = f"a_movement_of_{kind}_is_missing"
    return falsify


def _is_there_twice(kind: str) -> Falsify:
    def falsify(run: Run) -> Run:
        twice = _moved_by(run, kind)._replace(movement_id=10**9)
        return rows(run, "movements", [*run.ledger.movements, twice])

    falsify.__name__ = f"a_movement_of_{kind}_is_there_twice"
    return falsify


FALSIFICATIONS.extend((LOST, _is_missing(kind)) for kind in KINDS)
FALSIFICATIONS.extend((DUPLICATE, _is_there_twice(kind)) for kind in KINDS)


def _changed(run: Run, name: str, is_wanted: Callable[[Any], bool], **changes: Callable[[Any], Any]) -> Run:
    """The first row that is wanted, otherwise."""
    every = list(getattr(run.ledger, name))
    place = next(n for n, row in enumerate(every) if is_wanted(row))
    every[place] = every[place]._replace(**{field: change(every[place]) for field, change in changes.items()})
    return rows(run, name, every)


# -------------------------------------------------------------------------------------------------------------- shortfalls
@falsification(DUPLICATE)
def units_stop_being_short_by_no_call(run: Run) -> Run:
    return rows(run, "ends", [*run.ledger.ends, run.ledger.ends[0]._replace(transaction=10**9)])


@falsification(DUPLICATE)
def units_of_a_substitution_are_absent_that_moved(run: Run) -> Run:
    """As if they had been short: then there were less to take out."""
    record = next(r for r in run.records if (r.kind, r.outcome) == ("SubstituteLine", OK))
    row = next(row for row in run.ledger.requests if row.request_id == record.request_id)
    end = run.ledger.ends[0]._replace(
        transaction=row.transaction,
        fulfillment_order_id=record.request.fulfillment_order_id,
        line_number=record.request.line_number,
        quantity=1,
        reason="CANCELLED",
    )
    return rows(run, "ends", [*run.ledger.ends, end])


@falsification(LOST)
def a_take_over_ends_less_than_it_promises(run: Run) -> Run:
    ids = {r.request_id for r in run.records if (r.kind, r.outcome) == ("DecideShortfall", OK)}
    transactions = {row.transaction for row in run.ledger.requests if row.request_id in ids}
    end = next(e for e in run.ledger.ends if e.transaction in transactions)
    return _changed(run, "ends", lambda e: e is end, quantity=lambda e: e.quantity + 1)


# --------------------------------------------------------------------------------------------------------------- promises
@falsification(LOST)
def a_plan_brings_less_than_was_asked_for(run: Run) -> Run:
    """As if the servers had read less of it."""
    record = next(r for r in run.records if (r.kind, r.outcome) == ("SourceReservation", OK))
    request = copy_of(record.request)
    request.lines[0].quantity += 1
    return _asked(run, record, request)


@falsification(OTHER)
def a_plan_has_a_location_bring_it_that_was_not_to_be_asked(run: Run) -> Run:
    record = next(r for r in run.records if (r.kind, r.outcome) == ("SourceReservation", OK))
    request = copy_of(record.request)
    request.excluded_location_ids.append(record.answer.reservation.baskets[0].location_id)
    return _asked(run, record, request)


@falsification(LOST)
def goods_wait_for_a_shorter_time_than_was_asked_for(run: Run) -> Run:
    record = next(r for r in run.records if (r.kind, r.outcome) == ("ExtendPickupHold", OK))
    request = copy_of(record.request)
    request.hold_end_time.seconds += 4 * 24 * 3600
    return _asked(run, record, request)


@falsification(LOST)
def goods_are_given_up_that_were_to_wait(run: Run) -> Run:
    record = next(
        r
        for r in run.records
        if (r.kind, r.outcome) == ("MarkReadyForPickup", OK) and "store1" in r.answer.fulfillment_order.location_id
    )
    row = next(row for row in run.ledger.requests if row.request_id == record.request_id)
    given_up = order_pb2.MarkNoShowResponse(fulfillment_order=record.answer.fulfillment_order)
    for line in given_up.fulfillment_order.lines:
        line.cancelled_quantity = line.quantity - line.moved_quantity
    by_itself = row._replace(
        request_id=f"no-show:{record.request.fulfillment_order_id}:early",
        method="MarkNoShowRequest",
        response=given_up.SerializeToString(),
        transaction=10**9,
        commit=row.commit + 0.001,
    )
    return rows(run, "requests", [*run.ledger.requests, by_itself])


def _asked(run: Run, record: Record, request: Any) -> Run:
    """As if all attempts of a call had asked for something else."""
    others = [dataclasses.replace(r, request=request) if r.request_id == record.request_id else r for r in run.records]
    return run._replace(records=others)


# ------------------------------------------------------------------------------------------------------------------ money
@falsification(DUPLICATE)
def a_line_gives_back_more_than_its_units_cost(run: Run) -> Run:
    return _changed(run, "money", lambda row: row.refunded > 0, refunded=lambda row: row.refunded + 1)


@falsification(LOST)
def a_cancellation_gives_nothing_back(run: Run) -> Run:
    return _changed(run, "money", lambda row: row.refunded > 0, refunded=lambda row: 0)


@falsification(LOST)
def an_order_is_paid_with_less_than_it_costs(run: Run) -> Run:
    return _changed(run, "tenders", lambda t: t.provider == "TILL", amount=lambda t: t.amount - 1)


@falsification(OTHER)
def a_tender_keeps_what_was_given_back(run: Run) -> Run:
    return _changed(
        run, "tenders", lambda t: t.provider == "TILL" and t.refunded > 0, refunded=lambda t: t.refunded - 1
    )


@falsification(DUPLICATE)
def somebody_paid_for_no_order(run: Run) -> Run:
    tender = next(t for t in run.ledger.tenders if t.provider == "TILL")
    return rows(run, "tenders", [*run.ledger.tenders, tender._replace(order_id="none")])


@falsification(DUPLICATE)
def a_gift_card_pays_without_becoming_less(run: Run) -> Run:
    card = next(t.gift_card_id for t in run.ledger.tenders if t.gift_card_id)
    return _with_balances(run, {card: run.ledger.balances[card] + 1})


@falsification(LOST)
def a_gift_card_is_spent_that_nobody_paid_with(run: Run) -> Run:
    card = next(iter(run.ledger.balances))
    return _with_balances(run, {card: run.ledger.balances[card] - 1})


@falsification(DUPLICATE)
def a_gateway_charges_a_card_twice(run: Run) -> Run:
    payment = next(row for row in run.ledger.gateway if row.captured)
    return rows(run, "gateway", [*run.ledger.gateway, payment])


@falsification(LOST)
def a_gateway_never_did_what_the_ledger_says(run: Run) -> Run:
    return _changed(run, "gateway", lambda row: row.captured > 0, captured=lambda row: row.captured - 1)


@falsification(DUPLICATE)
def a_gateway_sets_money_aside_for_nobody(run: Run) -> Run:
    return rows(run, "gateway", [*run.ledger.gateway, GatewayRow("none", 1, 100, 0, 0, 100)])


def _with_balances(run: Run, balances: dict[str, int]) -> Run:
    return run._replace(ledger=dataclasses.replace(run.ledger, balances={**run.ledger.balances, **balances}))
