"""Who brings orders in a trial: associates that find the goods or do not, customers who come or do not, parcels and carriers."""

from __future__ import annotations

import time
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from onhand.simulate.history import OK
from onhand.simulate.order_effects import held
from onhand.simulate.town import Sold, Town, Work
from onhand.v1 import order_pb2 as pb
from onhand.v1 import types_pb2

REJECTED_SHARE, SUBSTITUTED_SHARE, UNPICKED_SHARE = 0.12, 0.08, 0.06
"""Of the work that is looked at: where goods are not to be had, others are given instead, or they are put back."""
NO_SHOW_SHARE, PART_SHARE, PACKED_SHARE, UNDELIVERED_SHARE = 0.15, 0.2, 0.3, 0.15
"""Of pickups that wait: nobody comes, or takes a part only. Of shipments: packed into parcels first, brought back."""
LATER_SHARE, LATER_SECONDS = 0.2, (1.0, 12.0)
"""Of pickups that wait: the customer comes later, so much from now at the latest; in some stores longer than they would wait."""
REASONS = (pb.REJECT_REASON_NOT_FOUND, pb.REJECT_REASON_DAMAGED, pb.REJECT_REASON_CLOSED)
ON_ITS_WAY = (pb.FULFILLMENT_STATE_REQUESTED, pb.FULFILLMENT_STATE_ACCEPTED, pb.FULFILLMENT_STATE_PICKED)

ADDRESS = pb.Address(recipient="A. Customer", lines=["1 Trial Road"], locality="Town", region_code="US")


async def fulfil(town: Town) -> None:
    """Takes one piece of work some steps on."""
    work = town.take(town.work)
    while work is not None:
        work = await _step(town, work)
        if work is not None and (town.chance.random() < 0.3 or town.is_closing):
            town.keep(town.work, work)
            return


async def _step(town: Town, work: Work) -> Work | None:
    """The work after its next step; None where it is over, or somebody else's now."""
    chance, state = town.chance, work.answer.state
    if not work.lines:
        return None
    if state in ON_ITS_WAY:
        draw = chance.random()
        if draw < REJECTED_SHARE:
            return await _reject(town, work)
        if draw < REJECTED_SHARE + SUBSTITUTED_SHARE:
            return await _substitute(town, work)
    if state == pb.FULFILLMENT_STATE_REQUESTED:
        return await _plain(town, work, "AcceptFulfillmentOrder")
    if state == pb.FULFILLMENT_STATE_ACCEPTED:
        return await _plain(town, work, "PickFulfillmentOrder")
    if state == pb.FULFILLMENT_STATE_PICKED:
        if chance.random() < UNPICKED_SHARE:
            return await _plain(town, work, "UnpickFulfillmentOrder")
        return await (_make_ready(town, work) if work.is_pickup else _ship(town, work))
    if state == pb.FULFILLMENT_STATE_READY_FOR_PICKUP:
        return await _waiting(town, work)
    if state == pb.FULFILLMENT_STATE_SHIPPED:
        return await _arrive(town, work)
    if state == pb.FULFILLMENT_STATE_NO_SHOW:
        await _put_away(town, work)
    return None


async def _call(town: Town, work: Work, kind: str, **fields: Any) -> Any:
    """The answer of a step; None where there is none."""
    request = getattr(pb, f"{kind}Request")(request_id=town.request_id(), fulfillment_order_id=work.id, **fields)
    return (await town.change("orders", kind, request)).answer


async def _plain(town: Town, work: Work, kind: str) -> Work | None:
    answer = await _call(town, work, kind)
    return None if answer is None else work._replace(answer=answer.fulfillment_order)


def _part(town: Town, work: Work) -> list[tuple[int, int]]:
    """(line_number, units) of a part of it, or of all."""
    number, _, quantity = town.chance.choice(work.lines)
    return [(number, town.chance.randint(1, quantity))]


# ------------------------------------------------------------------------------------------------------------ in the store
async def _reject(town: Town, work: Work) -> Work | None:
    """Some of it is not brought, for one reason or two; what becomes of that is another's to decide."""
    lines = [
        pb.RejectedLine(line_number=number, quantity=quantity, reason=town.chance.choice(REASONS))
        for number, quantity in _part(town, work)
    ]
    others = [line for line in work.lines if line[0] != lines[0].line_number]
    if others and town.chance.random() < 0.4:
        number, _, quantity = town.chance.choice(others)
        lines.append(pb.RejectedLine(line_number=number, quantity=quantity, reason=town.chance.choice(REASONS)))
    answer = await _call(town, work, "RejectFulfillmentOrder", lines=lines)
    if answer is None:
        return None
    for part in answer.rejected:
        for short in part.shortfalls:
            if short.open_quantity and short.next_step:
                town.keep(town.shorts, short)
    left = answer.fulfillment_order
    return work._replace(answer=left) if left.state != pb.FULFILLMENT_STATE_REJECTED else None


async def _substitute(town: Town, work: Work) -> Work | None:
    """The customer agrees to another item: because there is none of the first, or because they like it better."""
    chance = town.chance
    number, sku, quantity = chance.choice(work.lines)
    units = chance.randint(1, quantity)
    other = chance.choice([each for each in (*town.shop.hot, *town.shop.cold) if each != sku])
    answer = await _call(
        town,
        work,
        "SubstituteLine",
        line_number=number,
        quantity=units,
        sku=other,
        substitute_quantity=chance.randint(1, units),
        consent=chance.choice((pb.CONSENT_IN_PERSON, pb.CONSENT_PHONE)),
        reason=chance.choice((pb.REJECT_REASON_UNSPECIFIED, *REASONS)),
    )
    if answer is None:
        return work
    (now,) = (w for w in answer.order.fulfillment_orders if w.fulfillment_order_id == work.id)
    return work._replace(answer=now)


async def _make_ready(town: Town, work: Work) -> Work | None:
    lines = []
    if town.chance.random() < PART_SHARE:
        lines = [pb.WorkLine(line_number=number, quantity=quantity) for number, quantity in _part(town, work)]
    answer = await _call(town, work, "MarkReadyForPickup", lines=lines)
    if answer is None:
        return None
    if answer.HasField("rest"):
        town.keep(town.work, work._replace(answer=answer.rest))
    return work._replace(answer=answer.fulfillment_order)


# ------------------------------------------------------------------------------------------------------------ the customer
async def _waiting(town: Town, work: Work) -> Work | None:
    """The customer comes, tells so from the parking lot, takes a part, or never comes."""
    draw = town.chance.random()
    if draw < NO_SHOW_SHARE:
        return await _plain(town, work, "MarkNoShow")
    if draw < NO_SHOW_SHARE + 0.1:
        answer = await _call(town, work, "MarkArrived", spot="7", note="a blue car")
        if answer is None:
            return None
        work = work._replace(answer=answer.fulfillment_order)
    elif draw < NO_SHOW_SHARE + 0.15:
        return await _plain(town, work, "UnpickFulfillmentOrder")
    elif draw < NO_SHOW_SHARE + 0.15 + LATER_SHARE:
        answer = await _call(town, work, "ExtendPickupHold", hold_end_time=_later(town))
        return None if answer is None else work._replace(answer=answer.fulfillment_order)
    fields: dict[str, Any] = {"pickup_code": work.code}
    if town.chance.random() < PART_SHARE:
        fields["lines"] = [pb.WorkLine(line_number=n, quantity=quantity) for n, quantity in _part(town, work)]
        fields["cancel_rest"] = town.chance.random() < 0.5
    answer = await _call(town, work, "HandOverFulfillmentOrder", **fields)
    if answer is None:
        return None
    _keep_sold(town, answer.fulfillment_order)
    if answer.HasField("rest"):
        town.keep(town.work, work._replace(answer=answer.rest))
    return None


def _later(town: Town) -> Timestamp:
    moment = Timestamp()
    # The ledger keeps microseconds.
    moment.FromMicroseconds(time.time_ns() // 1000 + int(town.chance.uniform(*LATER_SECONDS) * 1e6))
    return moment


async def _put_away(town: Town, work: Work) -> None:
    """What nobody fetched goes back to the shelf, but for what is broken, or not to be found."""
    lines = []
    for line in work.answer.lines:
        if line.aside_quantity:
            good = town.chance.randint(0, line.aside_quantity)
            damaged = town.chance.randint(0, line.aside_quantity - good)
            lines.append(
                pb.PutAwayLine(line_number=line.line_number, available_quantity=good, damaged_quantity=damaged)
            )
    if lines:
        await _call(town, work, "PutAwayFulfillmentOrder", lines=lines)


def _keep_sold(town: Town, work: pb.FulfillmentOrder) -> None:
    if left := held(work):
        town.keep(town.sold, Sold(work.order_id, tuple(left.items())))


# ------------------------------------------------------------------------------------------------------------- parcels
async def _ship(town: Town, work: Work) -> Work | None:
    fields: dict[str, Any] = {"carrier": "Carrier", "tracking_reference": town.request_id()}
    if len(work.lines) > 1 and town.chance.random() < PACKED_SHARE:
        parcels = [pb.Parcel(lines=[pb.ParcelLine(line_number=n, quantity=q)]) for n, _, q in work.lines]
        packed = await _call(town, work, "PackFulfillmentOrder", parcels=parcels)
        if packed is None:
            return None
        fields["shipment_id"] = town.chance.choice(packed.fulfillment_order.shipments).shipment_id
    elif town.chance.random() < PART_SHARE:
        fields["lines"] = [pb.WorkLine(line_number=n, quantity=quantity) for n, quantity in _part(town, work)]
    elif open_parcels := [s for s in work.answer.shipments if not s.HasField("shipped_time")]:
        fields["shipment_id"] = open_parcels[0].shipment_id
    answer = await _call(town, work, "ShipFulfillmentOrder", **fields)
    if answer is None:
        return None
    if answer.HasField("rest"):
        town.keep(town.work, work._replace(answer=answer.rest))
    return work._replace(answer=answer.fulfillment_order)


async def _arrive(town: Town, work: Work) -> Work | None:
    """The carrier delivers a parcel, or brings it back."""
    if town.chance.random() >= UNDELIVERED_SHARE:
        if await _call(town, work, "DeliverFulfillmentOrder") is not None:
            _keep_sold(town, work.answer)
        return None
    lines = []
    if town.chance.random() < 0.5:
        conditions = pb.DISPOSITION_AVAILABLE, pb.DISPOSITION_DAMAGED
        lines = [
            pb.ReturnedLine(line_number=n, quantity=quantity, disposition=town.chance.choice(conditions))
            for n, _, quantity in work.lines
        ]
    await _call(town, work, "ReturnUndelivered", lines=lines, location_id=town.place())
    return None


# ------------------------------------------------------------------------------------------------- what nobody brings
async def mend(town: Town) -> None:
    """A promise that nobody keeps: another location takes it over, or the customer gets the money back, or waits."""
    chance = town.chance
    short = town.take(town.shorts)
    if short is None:
        request = pb.ListShortfallsRequest(location_id=town.place(), next_step=types_pb2.SHORTFALL_STEP_CHOOSE)
        found = await town.caller.read("orders", "ListShortfalls", request)
        if found is None or not found.shortfalls:
            return
        short = chance.choice(found.shortfalls)
    if chance.random() < 0.25:
        cancel = pb.CancelOrderLinesRequest(request_id=town.request_id(), order_id=short.order_id)
        cancel.lines.add(line_number=short.line_number, quantity=chance.randint(1, short.open_quantity))
        await town.change("orders", "CancelOrderLines", cancel)
        return
    decide = pb.DecideShortfallRequest(
        request_id=town.request_id(), shortfall_id=short.shortfall_id, decision=pb.SHORTFALL_DECISION_RESOURCE
    )
    if chance.random() < 0.1:
        decide.decision = pb.SHORTFALL_DECISION_WAIT
    else:
        others = [place for place in town.shop.locations if place != short.location_id]
        decide.location_id = chance.choice(others) if chance.random() < 0.7 else ""  # the servers' policy chooses
        decide.kind = chance.choice((pb.FULFILLMENT_KIND_UNSPECIFIED, pb.FULFILLMENT_KIND_SHIP))
        decide.ship_to.CopyFrom(ADDRESS)
    decided = await town.change("orders", "DecideShortfall", decide)
    if decided.outcome == OK and decided.answer.HasField("fulfillment_order"):
        answer = decided.answer
        codes = {
            code.fulfillment_order_id: code.pickup_code for code in (answer.pickup_code, *answer.further_pickup_codes)
        }
        for work in (answer.fulfillment_order, *answer.further_fulfillment_orders):
            town.keep(town.work, Work(work, codes.get(work.fulfillment_order_id, "")))
    elif decided.reason == "INSUFFICIENT_STOCK":
        town.keep(town.shorts, short)
