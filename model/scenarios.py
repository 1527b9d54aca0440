"""What is searched: scenarios in which the protocol holds, mutants of it that are caught, variants of it that hold too.

A scenario is what may happen at most: requests and their attempts, rebuilders, increases, faults of the gate. Retries, crashes
and late messages are in all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Rule = Mapping[str, Any]
Case = tuple[Rule, Mapping[str, Any]]
"""The rules that differ, and the scenario."""


def _of(**values: Any) -> dict[str, Any]:
    return values


LS = "lost stale"
SCENARIOS: Mapping[str, Mapping[str, Any]] = {
    "two buyers, one unit, retries": _of(reserve=((1, 2), (1, 2))),
    "two buyers, a gate fault, two rebuilders": _of(reserve=((1, 1), (1, 1)), rebuilds=2, faults=1),
    "retry across a rebuild": _of(reserve=((1, 2),), rebuilds=2, faults=1),
    "sale with a retry against a reservation": _of(reserve=((1, 1),), sale=((1, 2),), rebuilds=1),
    "sale against a reservation, a fault": _of(reserve=((1, 1),), sale=((1, 1),), rebuilds=1, faults=1, kinds="stale"),
    "sale, increase, reservation": _of(reserve=((1, 1),), sale=((1, 1),), increases=(1,), rebuilds=1),
    "sales of what the ledger lacks": _of(units=0, sale=((1, 2),), increases=(1,), rebuilds=1, events=""),
    "sales of what is promised": _of(reserve=((1, 1),), sale=((1, 1), (1, 1))),
    "transfer with a retry against a reservation": _of(
        reserve=((1, 1),), transfer=((1, 2),), rebuilds=1, faults=1, kinds=LS
    ),
    "transfer, sale, reservation": _of(transfer=((1, 1),), sale=((1, 1),), reserve=((1, 1),), rebuilds=1, events="C"),
    "increases across rebuilds": _of(
        units=0, reserve=((1, 1),), increases=(1, 2), rebuilds=2, faults=1, kinds="lost", events="X"
    ),
    "increases are seen once answered": _of(units=0, increases=(1, 1), rebuilds=2, faults=1, kinds=LS, events="V"),
    "releases are seen once answered": _of(reserve=((1, 2),), rebuilds=1, faults=1, kinds=LS, events="RV"),
    "nobody is refused by data that lacks what was answered": _of(
        units=0, reserve=((1, 1),), increases=(1,), rebuilds=1, faults=1, kinds=LS, events="V"
    ),
    "reads beside a release and a sale": _of(
        units=2, reserve=((1, 1),), sale=((2, 1),), reads=1, rebuilds=1, events="RX"
    ),
    "cancel and sell again": _of(reserve=((1, 1), (1, 1)), rebuilds=1, faults=1, events="CKX"),
    "change of quantity: more": _of(units=2, reserve=((1, 1), (1, 1)), change=((0, 2, 1),), rebuilds=1),
    "change of quantity: less": _of(units=2, reserve=((2, 1), (1, 1)), change=((0, 1, 1),), rebuilds=1),
    "change of quantity, with a retry": _of(units=2, reserve=((1, 1),), change=((0, 2, 2),), rebuilds=1, events="CXV"),
    "extend": _of(reserve=((1, 1),), rebuilds=1, faults=1, events="CREX"),
    "a location is deleted": _of(reserve=((1, 1),), sale=((1, 1),), increases=(1,), rebuilds=1, events="CXD"),
}
FULL: Mapping[str, Mapping[str, Any]] = {  # a minute or two each
    "two buyers, two gate faults, two rebuilders": _of(reserve=((1, 1), (1, 1)), rebuilds=2, faults=2),
    "three buyers, two units": _of(units=2, reserve=((1, 1), (1, 1), (1, 1)), rebuilds=1, faults=1),
    "sale, increase, reservation with a retry": _of(reserve=((1, 2),), sale=((1, 1),), increases=(1,), rebuilds=1),
    "sales of what the ledger lacks, and an increase": _of(
        units=0, sale=((1, 2), (2, 1)), increases=(1,), rebuilds=1, events=""
    ),
    "transfer, sale, reservation, a stale gate": _of(
        transfer=((1, 1),), sale=((1, 1),), reserve=((1, 1),), rebuilds=1, faults=1, kinds="stale", events="C"
    ),
    "change of quantity: more, a stale gate": _of(
        units=2, reserve=((1, 1), (1, 1)), change=((0, 2, 1),), rebuilds=1, faults=1, kinds="stale"
    ),
    "increases across rebuilds, any fault": _of(
        units=0, reserve=((1, 1),), increases=(1, 2), rebuilds=2, faults=1, events="X"
    ),
    "sale with a retry against a reservation, any fault": _of(reserve=((1, 1),), sale=((1, 2),), rebuilds=1, faults=1),
    "sale, increase, reservation with a retry, a fault": _of(
        reserve=((1, 2),), sale=((1, 1),), increases=(1,), rebuilds=1, faults=1, kinds=LS
    ),
    "transfer, sale, reservation, any fault": _of(
        transfer=((1, 1),), sale=((1, 1),), reserve=((1, 1),), rebuilds=1, faults=1, events="CX"
    ),
    "increases across two faults": _of(units=0, reserve=((1, 1),), increases=(1, 2), rebuilds=2, faults=2, events="X"),
    "increases are seen once answered, any fault": _of(units=0, increases=(1, 1), rebuilds=2, faults=1, events="V"),
    "change of quantity: more, any fault": _of(
        units=2, reserve=((1, 1), (1, 1)), change=((0, 2, 1),), rebuilds=1, faults=1
    ),
}
DEEP: Mapping[str, Mapping[str, Any]] = {  # minutes each, some GiB
    "sale with a retry, two rebuilders": _of(reserve=((1, 1),), sale=((1, 2),), rebuilds=2, faults=1, kinds=LS),
    "transfer with a retry, two rebuilders": _of(reserve=((1, 1),), transfer=((1, 2),), rebuilds=2, faults=1),
    "two buyers with retries, a fault": _of(reserve=((1, 2), (1, 2)), rebuilds=1, faults=1),
}

ONE, TWO = _of(reserve=((1, 1),)), _of(reserve=((1, 1), (1, 1)), events="")
RETRY, RETRY2 = _of(reserve=((1, 2),)), _of(units=2, reserve=((1, 2),))
SALE = _of(sale=((1, 1),), events="")
GROW, SHRINK = SCENARIOS["change of quantity: more"], SCENARIOS["change of quantity: less"]
ANSWERED = _of(units=0, increases=(1,), rebuilds=1, events="V")
MUTANTS: Mapping[
    str, Case
] = {  # each must be caught; docs/decisions/0009-model.md says by which test the code's own is
    "repeat undoes the gate": (_of(ids="derived"), RETRY),
    "repeat undoes the gate if it took": (_of(ids="derived", conflict="undo_if_i_took"), RETRY),
    "repeat undoes the gate if the row is closed": (_of(ids="derived", conflict="undo_if_closed"), RETRY2),
    "repeat leaves the gate": (_of(ids="derived", conflict="leave"), RETRY2),
    "sale whose id was closed as an orphan": (_of(ids="derived", conflict="leave"), SALE),
    "decrease commits without the epoch": (_of(decrease_checks_epoch=False), _of(**SALE, rebuilds=1)),
    "applied ids are dropped once settled": (_of(deltas="set"), _of(units=0, increases=(1,), events="")),
    "settled though the epoch moved on": (
        _of(deltas="keep", settle_checks_epoch=False),
        _of(units=0, increases=(1,), rebuilds=1, events=""),
    ),
    "delta numbers from a sequence": (_of(number_locked=False), _of(units=0, increases=(1, 1), events="")),
    "undo on an unknown outcome": (_of(undo_unknown=True), ONE),
    "refusal does not ask the ledger": (_of(refusal_reads_ledger=False), RETRY),
    "refusal is not doubted": (_of(doubts="nothing"), dict(ANSWERED, reserve=((1, 1),))),
    "refusal is doubted by the gate's epoch of another moment": (_of(doubts="gate"), dict(ANSWERED, reserve=((1, 1),))),
    "orphan given back without a tombstone": (_of(tombstone=False), ONE),
    "epoch taken from the ledger, not the gate": (_of(epoch_from_gate=False), _of(**TWO, rebuilds=1)),
    "journal without the epoch": (_of(insert_checks_epoch=False), _of(**TWO, rebuilds=1)),
    "gate identity not checked": (_of(identity=False), _of(**TWO, faults=1)),
    "snapshot begins before the raise commits": (_of(raise_first=False), _of(**TWO, rebuilds=1)),
    "rebuild without a raise": (_of(raise_always=False), _of(**TWO, rebuilds=1, faults=1)),
    "load sent again to a restarted gate": (_of(load_once=False), _of(**TWO, rebuilds=1, faults=1)),
    "load sent again, not guarded": (_of(load_once=False, load_guard=False), _of(**TWO, rebuilds=1)),
    "parts of two loads mix": (_of(load="parts_unchecked"), _of(**TWO, rebuilds=2)),
    "bypass without a raise": (_of(bypass_raises=False), SALE),
    "read does not compare epochs": (_of(reads_check_epoch=False), SALE),
    "ledger's epoch is asked beside the read": (
        _of(asks_after=False),
        _of(units=2, reserve=((1, 1),), sale=((2, 1),), reads=1, events="R"),
    ),
    "increase answered after an outdated gate took it": (_of(answer_checks_epoch=False), ANSWERED),
    "release answered after an outdated gate took it": (
        _of(answer_checks_epoch=False),
        _of(**ONE, rebuilds=1) | _of(events="RV"),
    ),
    "repeat of an increase does not wait for the gate": (_of(answer_waits=False), ANSWERED),
    "change of quantity swaps in the gate, more": (_of(change="swap"), GROW),
    "change of quantity swaps in the gate, less": (_of(change="swap"), SHRINK),
    "gate's deadline decides an expiry": (_of(expire_by="gate"), dict(ONE, events="EX")),
    "decrease as a negative delta": (_of(sale="delta"), SALE),
    "found without a delta": (_of(found_delta=False), dict(SALE, units=0)),
    "broken promise looked for in the ledger only": (_of(overdraw="ledger"), dict(ONE, sale=((1, 1),))),
    "location deleted, its epoch goes on": (
        _of(close_raises=False, insert_checks_epoch=False),
        dict(ONE, sale=((1, 1),), events="D"),
    ),
}
NO_EPOCHS = _of(
    ledger_counts=True,
    safe_direction=False,
    insert_checks_epoch=False,
    decrease_checks_epoch=False,
    identity=False,
    tombstone=False,
    bypass_raises=False,
    reads_check_epoch=False,
    raise_first=False,
    overdraw="both",
)
# Each must hold. The code loads in parts; elsewhere a load is one script, for a location that is closed is as good as none.
VARIANTS: Mapping[str, Case] = {
    "load in parts": (_of(load="parts"), _of(**TWO, rebuilds=2)),
    "load in parts, a fault": (_of(load="parts"), _of(**TWO, rebuilds=1, faults=1, kinds=LS)),
    "no load guard": (_of(load_guard=False), _of(**ONE, rebuilds=2, faults=1)),
    "applied ids kept for the whole epoch": (
        _of(deltas="keep"),
        _of(units=0, increases=(1, 1), rebuilds=2, events="X"),
    ),
    "ledger counts, no epochs: reservations": (NO_EPOCHS, _of(reserve=((1, 2), (1, 1)))),
    "ledger counts, no epochs: decreases": (NO_EPOCHS, dict(ONE, transfer=((1, 1),), sale=((1, 1),), events="CX")),
}

# ---------------------------------------------------------------------------------------------------- baskets and groups
SKU, TWO_SKUS = ((0, 1),), ((0, 1), (1, 1))
HERE, BOTH = ((0, TWO_SKUS),), ((0, SKU), (1, SKU))
GROUPS: Mapping[str, Mapping[str, Any]] = {
    "basket of two skus, one left of each": _of(
        stock=((1, 1),), requests=((HERE, 2), (((0, ((1, 1),)),), 1)), rebuilds=(0,), faults=1, events="CREX"
    ),
    "basket with one sku twice": _of(
        stock=((2, 1),), requests=((((0, ((0, 1), (0, 1))),), 1), (HERE, 1)), rebuilds=(0,)
    ),
    "two locations, with a retry": _of(stock=((1,), (1,)), requests=((BOTH, 2),), rebuilds=(0,), faults=1),
    "two locations, two buyers": _of(stock=((1,), (1,)), requests=((BOTH, 1), (BOTH, 1)), rebuilds=(1,), events="X"),
    "two locations, extended and half expired": _of(
        stock=((1,), (1,)), requests=((BOTH, 1),), rebuilds=(0, 1), events="CREX"
    ),
    "two locations, and one of them": _of(
        stock=((1,), (1,)), requests=((BOTH, 1), (((0, SKU),), 1)), rebuilds=(0, 1), faults=1, events="C"
    ),
}
GROUP_MUTANTS: Mapping[str, Case] = {
    "one epoch of a group that fits is enough": (
        _of(all_epochs=False),
        _of(stock=((1,), (1,)), requests=((BOTH, 1), (BOTH, 1)), rebuilds=(0,), events=""),
    ),
    "a claim of a group that was closed is left out": (
        _of(all_open=False),
        _of(stock=((1,), (1,)), requests=((BOTH, 1),)),
    ),
    "a group is journalled location by location": (_of(at_once=False), _of(stock=((1,), (1,)), requests=((BOTH, 1),))),
    "what is left of a half-expired reservation is confirmed": (
        _of(whole_only=False),
        _of(stock=((1,), (1,)), requests=((BOTH, 1),)),
    ),
    "what is left of a half-expired reservation is extended": (
        _of(whole_only=False),
        _of(stock=((1,), (1,)), requests=((BOTH, 1),), events="EX"),
    ),
    "lines before a short one stay taken": (_of(whole_lines=False), _of(stock=((1, 0),), requests=((HERE, 1),))),
    "lines of one sku are judged one by one": (
        _of(sums_lines=False),
        _of(stock=((1, 0),), requests=((((0, ((0, 1), (0, 1))),), 1),)),
    ),
}

# ---------------------------------------------------------------------------------------------------------------- payment
PAYMENTS: Mapping[str, Mapping[str, Any]] = {
    "payment: two attempts and two jobs": _of(attempts=2, jobs=2),
    "payment: the extension runs out all the same": _of(attempts=2, jobs=2, events="NRSL"),
    "payment: three attempts, a job": _of(attempts=3, jobs=1),
    "payment: what a sale took is a shortfall": _of(attempts=2, jobs=2, keeps_short=True),
}
PAYMENT_MUTANTS: Mapping[str, Case] = {
    "payment: a key for each attempt": (_of(key="attempt"), _of(attempts=2, jobs=0)),
    "payment: the bank is asked before the order is stored": (_of(order_first=False), _of(attempts=1, jobs=0)),
    "payment: the reservation is not extended": (_of(extends=False), _of(attempts=1, jobs=0)),
    "payment: the reservation is not pinned": (_of(pins=False), _of(attempts=1, jobs=0)),
    "payment: voided without asking": (_of(asks_before_voiding=False), _of(attempts=1, jobs=1, events="NRSL")),
    "payment: voided before it is given up": (_of(gives_up_before_voiding=False), _of(attempts=1, jobs=1)),
}
