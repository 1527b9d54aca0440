"""What calls promise besides units: a plan that is reserved as it was asked for, and goods that wait as long as was said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from onhand.simulate.facts import CLOCK_SLACK_SECONDS, LOST, OTHER, Findings, Ledger, as_told
from onhand.v1 import order_pb2

if TYPE_CHECKING:
    from onhand.simulate.once import Call, Index


def check_promises(found: Index, ledger: Ledger, findings: Findings) -> None:
    """All of it."""
    done = sorted((call for call in found.calls.values() if call.row is not None), key=_commit)
    until: dict[str, float] = {}
    for call in done:
        if call.kind == "SourceReservation":
            _check_sourced(call, findings)
        else:
            _check_wait(call, until, ledger.wall_offset, findings)


def _commit(call: Call) -> float:
    assert call.row is not None
    return call.row.commit


def _check_sourced(call: Call, findings: Findings) -> None:
    """What is reserved is what the plan says, where it may be; all of what was asked for, or as much as is accepted."""
    findings.checked("sourced_reservations")
    request, plan, reservation = call.request, call.answer.plan, call.answer.reservation
    reserved = {basket.location_id: _units(basket.lines) for basket in reservation.baskets}
    if reserved != {parcel.location_id: _units(parcel.lines) for parcel in plan.parcels}:
        findings.add(LOST, "a plan was not reserved as it says", *call.told())
    left = _units(plan.unsourced)
    if sum(reserved.values(), left) != _units(request.lines) or (left and not request.accepts_partial):
        findings.add(
            LOST, f"{dict(left)} of what was asked for is left, and what is reserved is not the rest", *call.told()
        )
    allowed = set(request.location_ids) or reserved.keys()
    if not reserved.keys() <= allowed - set(request.excluded_location_ids):
        findings.add(OTHER, "a location was to bring something that was not to be asked", *call.told())


def _units(lines: Iterable[Any]) -> Counter[str]:
    units: Counter[str] = Counter()
    for line in lines:
        units[line.sku] += line.quantity
    return units


def _check_wait(call: Call, until: dict[str, float], wall_offset: float, findings: Findings) -> None:
    """Nobody gives goods up that wait for their customer before the last moment that was told. `until`: by fulfillment order."""
    assert call.row is not None
    if call.kind == "ExtendPickupHold":
        findings.checked("extended_holds")
        told = call.answer.fulfillment_order.hold_end_time
        # The ledger's times have microseconds.
        if told.ToMicroseconds() < call.request.hold_end_time.ToMicroseconds():
            findings.add(LOST, "goods wait for a shorter time than was asked for", *call.told())
    if call.kind == "MarkNoShow" and call.request.only_if_due:
        findings.checked("no_shows_that_were_due")
        end = until.get(call.request.fulfillment_order_id, 0.0)
        if call.row.commit + CLOCK_SLACK_SECONDS < end:
            what = f"goods were to wait for {end - call.row.commit:.3f} s more, and were given up"
            findings.add(LOST, what, *call.told(), as_told(call.row))
    for name in ("fulfillment_order", "rest"):
        work = getattr(call.answer, name, None)
        if isinstance(work, order_pb2.FulfillmentOrder) and work.HasField("hold_end_time"):
            until[work.fulfillment_order_id] = work.hold_end_time.ToNanoseconds() / 1e9 - wall_offset
