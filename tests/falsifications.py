"""Falsifications of a real run: each changes the record of the clients or the rows of the ledger as a bug would have."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from onhand.simulate.facts import DUPLICATE, LEAKED, LOST, OTHER, OVERSOLD, STALE, Ledger
from onhand.simulate.history import OK, REFUSED, Record


class Run(NamedTuple):
    """What an audit is given."""

    records: list[Record]
    ledger: Ledger


Falsify = Callable[[Run], Run]
FALSIFICATIONS: list[tuple[str, Falsify]] = []


def falsification(counter: str) -> Callable[[Falsify], Falsify]:
    """A bug that is to be found, and by which counter."""

    def register(falsify: Falsify) -> Falsify:
        FALSIFICATIONS.append((counter, falsify))
        return falsify

    return register


def rows(run: Run, name: str, rows: Sequence[Any]) -> Run:
    return run._replace(ledger=dataclasses.replace(run.ledger, **{name: list(rows)}))


def _first(run: Run, kind: str, outcome: str = OK, **wanted: Any) -> Record:
    return next(
        r
        for r in run.records
        if (r.kind, r.outcome) == (kind, outcome)
        and not r.request_id.startswith("trial.judge.setup")
        and all(getattr(r, name) == value for name, value in wanted.items())
    )


def instead(run: Run, record: Record, **changes: Any) -> Run:
    changed = dataclasses.replace(record, **changes)
    return run._replace(records=[changed if r is record else r for r in run.records])


def _request(run: Run, record: Record) -> Any:
    return next(row for row in run.ledger.requests if row.request_id == record.request_id)


def copy_of(message: Any) -> Any:
    made = type(message)()
    made.CopyFrom(message)
    return made


@falsification(LOST)
def a_movement_of_an_acknowledged_sale_is_missing(run: Run) -> Run:
    sale = _request(run, _first(run, "Sell")).transaction
    gone = next(m for m in run.ledger.movements if m.transaction == sale)
    return rows(run, "movements", [m for m in run.ledger.movements if m is not gone])


@falsification(LOST)
def an_acknowledged_request_is_missing(run: Run) -> Run:
    row = _request(run, _first(run, "Reserve"))
    return rows(run, "requests", [r for r in run.ledger.requests if r is not row])


@falsification(LOST)
def the_ledger_keeps_another_answer_than_was_given(run: Run) -> Run:
    row, other = _request(run, _first(run, "ReceiveStock")), copy_of(_first(run, "ReceiveStock").answer)
    other.levels[0].available += 1
    response = other.SerializeToString()
    return rows(run, "requests", [r._replace(response=response) if r is row else r for r in run.ledger.requests])


@falsification(DUPLICATE)
def a_receipt_is_booked_twice_by_one_request(run: Run) -> Run:
    receipt = _request(run, _first(run, "ReceiveStock")).transaction
    twice = next(m for m in run.ledger.movements if m.transaction == receipt)
    return rows(run, "movements", [*run.ledger.movements, twice._replace(movement_id=10**9)])


@falsification(DUPLICATE)
def a_receipt_is_booked_again_in_a_transaction_of_its_own(run: Run) -> Run:
    receipt = _request(run, _first(run, "ReceiveStock")).transaction
    twice = next(m for m in run.ledger.movements if m.transaction == receipt)
    return rows(run, "movements", [*run.ledger.movements, twice._replace(movement_id=10**9, transaction=10**9)])


@falsification(DUPLICATE)
def a_request_is_recorded_that_nobody_made(run: Run) -> Run:
    row = _request(run, _first(run, "Sell"))
    return rows(run, "requests", [*run.ledger.requests, row._replace(request_id="nobody", transaction=10**9)])


@falsification(DUPLICATE)
def an_order_exists_twice(run: Run) -> Run:
    order = run.ledger.orders[0]
    return rows(run, "orders", [*run.ledger.orders, order._replace(order_id="another")])


@falsification(LOST)
def an_order_that_was_answered_is_missing(run: Run) -> Run:
    return rows(run, "orders", run.ledger.orders[1:])


@falsification(DUPLICATE)
def more_of_an_order_is_handed_over_than_anybody_did(run: Run) -> Run:
    order = next(o for o in run.ledger.orders if o.lines[0][3] == 0)
    number, sku, quantity, _, cancelled, returned = order.lines[0]
    more = order._replace(lines=((number, sku, quantity, 1, cancelled, returned), *order.lines[1:]))
    return rows(run, "orders", [more if o is order else o for o in run.ledger.orders])


@falsification(LOST)
def a_return_that_was_answered_is_missing(run: Run) -> Run:
    return rows(run, "returns", run.ledger.returns[1:])


@falsification(LOST)
def a_claim_of_an_acknowledged_reservation_is_missing(run: Run) -> Run:
    held = _first(run, "Reserve").answer.reservation.reservation_id
    return rows(run, "claims", [c for c in run.ledger.claims if c.reservation_id != held])


@falsification(DUPLICATE)
def a_reservation_holds_its_units_twice(run: Run) -> Run:
    held = _first(run, "Reserve").answer.reservation.reservation_id
    claim = next(c for c in run.ledger.claims if c.reservation_id == held)
    return rows(run, "claims", [*run.ledger.claims, claim._replace(claim_id="another")])


@falsification(LEAKED)
def a_reservation_never_ends(run: Run) -> Run:
    claim = next(c for c in run.ledger.claims if c.reservation_id)
    return rows(run, "claims", [c._replace(state="active") if c is claim else c for c in run.ledger.claims])


@falsification(LOST)
def a_reservation_expires_before_its_deadline(run: Run) -> Run:
    claim = next(c for c in run.ledger.claims if c.state == "expired" and c.reservation_id)
    early = claim._replace(deadline=claim.commit + 5)
    return rows(run, "claims", [early if c is claim else c for c in run.ledger.claims])


@falsification(LOST)
def an_order_was_placed_and_its_reservation_expired(run: Run) -> Run:
    claim = next(c for c in run.ledger.claims if c.state == "confirmed")
    other = claim._replace(state="expired", order_id="")
    return rows(run, "claims", [other if c.reservation_id == claim.reservation_id else c for c in run.ledger.claims])


@falsification(OTHER)
def a_claim_is_consumed_for_more_than_left(run: Run) -> Run:
    claim = next(c for c in run.ledger.claims if c.state == "consumed")
    sku, quantity = claim.lines[0]
    more = claim._replace(lines=((sku, quantity + 1), *claim.lines[1:]))
    return rows(run, "claims", [more if c is claim else c for c in run.ledger.claims])


@falsification(OTHER)
def a_level_is_not_the_sum_of_its_movements(run: Run) -> Run:
    level = run.ledger.levels[0]
    other = level._replace(available=level.available + 1)
    return rows(run, "levels", [other if n is level else n for n in run.ledger.levels])


@falsification(OVERSOLD)
def a_bucket_falls_below_nothing(run: Run) -> Run:
    last = max(run.ledger.movements, key=lambda m: m.movement_id)
    below = last._replace(movement_id=10**9, from_bucket="damaged", to_bucket="adjustment", quantity=10**6)
    return rows(run, "movements", [*run.ledger.movements, below])


@falsification(DUPLICATE)
def a_repeat_is_answered_otherwise(run: Run) -> Run:
    record = _first(run, "Sell")
    other = copy_of(record.answer)
    other.order.order_number = "ANOTHER"
    again = dataclasses.replace(record, attempt=99, begin=record.end + 1, end=record.end + 2, answer=other)
    return run._replace(records=[*run.records, again])


@falsification(DUPLICATE)
def the_repeat_of_an_effect_is_refused(run: Run) -> Run:
    record = _first(run, "PlaceOrder")
    again = dataclasses.replace(
        record, attempt=99, begin=record.end + 1, end=record.end + 2, outcome=REFUSED, answer=None,
        reason="RESERVATION_NOT_ACTIVE",
    )  # fmt: skip
    return run._replace(records=[*run.records, again])


@falsification(OTHER)
def a_refused_call_had_its_effect(run: Run) -> Run:
    attempts = Counter(r.request_id for r in run.records)
    record = next(
        r
        for r in run.records
        if r.kind == "ReceiveStock" and attempts[r.request_id] == 1 and not r.request_id.startswith("trial.judge.setup")
    )
    return instead(run, record, outcome=REFUSED, reason="INSUFFICIENT_STOCK", answer=None)


@falsification(OTHER)
def a_call_is_refused_because_its_reservation_is_over_which_it_is_not(run: Run) -> Run:
    held = next(c for c in run.ledger.claims if c.state == "confirmed")
    record = next(r for r in run.records if r.kind == "Reserve" and r.outcome == OK)
    request = copy_of(_first(run, "ReleaseReservation").request)
    request.request_id, request.reservation_id = "trial.judge.refused", held.reservation_id
    begin = held.created + 0.01
    refused = dataclasses.replace(
        record, op=10**6, kind="ReleaseReservation", request_id=request.request_id, begin=begin, end=begin + 0.001,
        outcome=REFUSED, reason="RESERVATION_NOT_ACTIVE", request=request, answer=None,
    )  # fmt: skip
    # Long before it was ordered.
    later = held._replace(commit=held.commit + 60, deadline=held.deadline + 60)
    return rows(
        run._replace(records=[*run.records, refused]),
        "claims",
        [later if c is held else c for c in run.ledger.claims if c.reservation_id != held.reservation_id or c is held],
    )


@falsification(OTHER)
def a_reservation_is_refused_for_stock_that_is_there(run: Run) -> Run:
    record = _first(run, "Reserve", REFUSED, reason="INSUFFICIENT_STOCK")
    subject, _ = record.detail["shorts"][0]
    other = dict(record.detail, shorts=[[subject, "100001 requested, 100000 available"]])
    return instead(run, record, detail=other)


@falsification(OTHER)
def a_refusal_has_no_reason_that_a_call_can_have(run: Run) -> Run:
    return instead(run, _first(run, "Reserve", REFUSED), reason="RESERVATION_NOT_FOUND")


@falsification(OVERSOLD)
def a_reservation_takes_what_does_not_exist(run: Run) -> Run:
    """Everything of it fits together, ledger and answers: only there never were as many units."""
    record = _first(run, "Reserve")
    return _with_quantity(run, record, 10**4)


def _with_quantity(run: Run, record: Record, quantity: int) -> Run:
    request, answer, row = copy_of(record.request), copy_of(record.answer), _request(run, record)
    held = answer.reservation
    was = held.baskets[0].lines[0].quantity
    sku, place = held.baskets[0].lines[0].sku, held.baskets[0].location_id
    for message in (request, held):
        for basket in message.baskets:
            for line in basket.lines:
                if (basket.location_id, line.sku) == (place, sku):
                    line.quantity = quantity
    run = run._replace(
        records=[
            dataclasses.replace(r, request=request, answer=answer if r.outcome == OK else r.answer)
            if r.request_id == record.request_id
            else r
            for r in run.records
        ]
    )
    run = rows(
        run,
        "requests",
        [r._replace(response=answer.SerializeToString()) if r is row else r for r in run.ledger.requests],
    )

    def held_otherwise(lines: Any) -> Any:
        return tuple((s, quantity if (s, n) == (sku, was) else n) for s, n in lines)

    return rows(
        run,
        "claims",
        [
            c._replace(lines=held_otherwise(c.lines))
            if c.reservation_id == held.reservation_id and c.location_id == place
            else c
            for c in run.ledger.claims
        ],
    )


def final_reads(run: Run) -> list[Record]:
    """What everybody was shown of everything, when nobody called any more."""
    reads = [r for r in run.records if (r.kind, r.outcome) == ("GetAvailability", OK) and len(r.request.skus) > 20]
    return [r for r in reads if not r.answer.is_stale]


def _shown_otherwise(run: Run, shown: Callable[[int], int]) -> Run:
    """The last of these reads: what expired has been given back by then. Of it the position with most units."""
    record = max(final_reads(run), key=lambda each: each.begin)
    answer = copy_of(record.answer)
    item = max(answer.locations[0].items, key=lambda i: int(i.available_to_promise))
    item.available_to_promise = shown(item.available_to_promise)
    return instead(run, record, answer=answer)


@falsification(STALE)
def a_read_shows_one_more_than_there_is(run: Run) -> Run:
    return _shown_otherwise(run, lambda units: units + 1)


@falsification(STALE)
def a_read_shows_nothing_where_there_is_much(run: Run) -> Run:
    # One unit less may be right: a call whose outcome is unknown can hold a few for a while.
    return _shown_otherwise(run, lambda _: 0)


@falsification(STALE)
def a_read_shows_more_than_there_ever_was(run: Run) -> Run:
    receipt = _first(run, "ReceiveStock")
    line = receipt.request.lines[0]
    template = final_reads(run)[0]
    answer, request = copy_of(template.answer), copy_of(template.request)
    answer.locations[0].location_id = receipt.request.location_id
    del answer.locations[0].items[1:]
    answer.locations[0].items[0].sku = line.sku
    answer.locations[0].items[0].available_to_promise = 10**6
    late = dataclasses.replace(
        template, op=10**6, begin=receipt.end + 0.001, end=receipt.end + 0.002, request=request, answer=answer
    )
    return run._replace(records=[*run.records, late])


@falsification(OTHER)
def an_effect_was_committed_before_its_call(run: Run) -> Run:
    row = _request(run, _first(run, "Sell"))
    early = row._replace(commit=row.commit - 60)
    return rows(run, "requests", [early if r is row else r for r in run.ledger.requests])


@falsification(LOST)
def units_stop_being_short_without_a_reason(run: Run) -> Run:
    level, sale = run.ledger.levels[0], _request(run, _first(run, "Sell")).transaction
    template = next(m for m in run.ledger.movements if m.transaction == sale)
    broken = template._replace(
        sku=level.sku, from_bucket="allocated", to_bucket="adjustment", reason="SHORTFALL_OPENED", movement_id=10**9
    )
    return rows(run, "movements", [*run.ledger.movements, broken])
