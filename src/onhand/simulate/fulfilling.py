"""The work for an order, from the first location that is asked to the last customer who came, or did not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from onhand.simulate.amounts import line_refund, minor_of
from onhand.simulate.audit import Flow
from onhand.simulate.calls import Refused
from onhand.simulate.plan import Twist
from onhand.simulate.sending import (
    ACCEPTED,
    CANCELLED,
    NO_SHOW,
    OVER,
    PICKED,
    PICKED_UP,
    READY,
    REJECTED,
    REQUESTED,
    RESTOCKED,
    Sending,
    Work,
    given_up,
    open_units,
)
from onhand.simulate.steps import digest
from onhand.v1 import inventory_pb2, order_pb2

ROUNDS_MAX = 12
"""How often an order's work is looked at until nothing of it is open."""
WRONG_CODE = "WRONG-CODE"
WRONG_CODE_ONE_IN = 20
"""Of how many hand-overs one begins with a wrong pickup code."""
CURBSIDE_ONE_IN = 4
"""Of how many customers one waits outside."""
MISSING_ONE_IN = 2
"""Of how many lines that seem to be short one is not there."""
LATER_SECONDS = 2 * 24 * 3600
"""How much longer a customer has something held."""
ASSOCIATE = "associate/replay"
"""Who hands over, and saw the proofs."""

_REASONS = (
    order_pb2.REJECT_REASON_NOT_FOUND,
    order_pb2.REJECT_REASON_NOT_FOUND,
    order_pb2.REJECT_REASON_DAMAGED,
    order_pb2.REJECT_REASON_CLOSED,
)
_PROOFS = (
    order_pb2.PROOF_KIND_GOVERNMENT_ID,
    order_pb2.PROOF_KIND_PAYMENT_CARD,
    order_pb2.PROOF_KIND_ORDER_CONFIRMATION,
    order_pb2.PROOF_KIND_LOYALTY_ACCOUNT,
    order_pb2.PROOF_KIND_CALL_BACK,
)
_CONSENTS = (order_pb2.CONSENT_PHONE, order_pb2.CONSENT_MESSAGE, order_pb2.CONSENT_AT_CHECKOUT)


class Fulfilling(Sending):
    """An order that somebody works for. Every step goes by the state that the order is in."""

    async def fulfil(self, order: order_pb2.Order, codes: Iterable[order_pb2.PickupCode] = ()) -> order_pb2.Order:
        """Does what is to be done for an order until nothing of it is open, and answers how it is then."""
        self.codes = {code.fulfillment_order_id: code.pickup_code for code in codes}
        self.is_twisted = False
        if self.play.twist is Twist.BACKORDERED:
            order = await self.wait_for_supply(order.order_id)
        elif self.world.is_continued:
            order = await self.order(order.order_id)
        elif self.play.twist is Twist.CHANGED:
            order = await self.change_order(order)
        for _ in range(ROUNDS_MAX):
            to_do = [work for work in order.fulfillment_orders if work.state not in OVER]
            if not to_do:
                break
            for work in to_do:
                await self._go_on(order, work)
            order = await self.order(order.order_id)
        else:
            self.check(False, f"after {ROUNDS_MAX} rounds there is still work for order {order.order_id}")
        return order

    async def _go_on(self, order: order_pb2.Order, work: Work) -> None:
        is_first = work.fulfillment_order_id == order.fulfillment_orders[0].fulfillment_order_id
        if work.state == REJECTED:
            return await self.mend(order, work)
        if work.state == NO_SHOW:
            return await self._put_away(work)
        if work.state == REQUESTED:
            work = await self._accept(work)
        if work.state == ACCEPTED:
            if is_first:
                work = await self._twist(order, work)
            if work.state != REJECTED:
                work = await self._reject_missing(work)
            if work.state == REJECTED:
                return None
            work = await self._pick(work)
        if work.kind == order_pb2.FULFILLMENT_KIND_PICKUP:
            await self._hand_out(order, work, is_first=is_first)
        else:
            await self.send(order, work, is_first=is_first)
        return None

    # ------------------------------------------------------------------------------------------------ in the store
    async def _accept(self, work: Work) -> Work:
        accepted = await self.change(
            self.stubs.orders.AcceptFulfillmentOrder,
            order_pb2.AcceptFulfillmentOrderRequest(
                request_id=self.step_of("accept", work), fulfillment_order_id=work.fulfillment_order_id
            ),
        )
        self.is_in(accepted.fulfillment_order, ACCEPTED)
        return accepted.fulfillment_order

    async def _pick(self, work: Work) -> Work:
        picked = await self.change(
            self.stubs.orders.PickFulfillmentOrder,
            order_pb2.PickFulfillmentOrderRequest(
                request_id=self.step_of("pick", work), fulfillment_order_id=work.fulfillment_order_id
            ),
        )
        self.is_in(picked.fulfillment_order, PICKED)
        is_there = not any(line.short_quantity for line in picked.fulfillment_order.lines)
        self.check(is_there, "what is picked is still short")
        return picked.fulfillment_order

    async def _twist(self, order: order_pb2.Order, work: Work) -> Work:
        """What was planned to go otherwise, once."""
        if self.is_twisted:
            return work
        self.is_twisted = True
        lines = [line for line in work.lines if open_units(line)]
        if not lines:
            return work
        line = lines[self.draw("twisted line", len(lines))]
        if self.play.twist is Twist.REJECTED and not any(each.reject_reason for each in order.fulfillment_orders):
            reason = _REASONS[self.draw("reject reason", len(_REASONS))]
            if reason == order_pb2.REJECT_REASON_CLOSED:
                return await self._reject(work, {each.line_number: open_units(each) for each in lines}, reason)
            units = 1 + self.draw("rejected units", open_units(line))
            return await self._reject(work, {line.line_number: units}, reason)
        if self.play.twist is Twist.SUBSTITUTED and not any(each.substitutes_line_number for each in order.lines):
            return await self._substitute(order, work, line)
        return work

    async def _reject_missing(self, work: Work) -> Work:
        """Of what others took, or did not find, a half is not there; the other half is, and gets picked."""
        missing = {
            line.line_number: line.short_quantity
            for line in work.lines
            if line.short_quantity and self.draw(f"missing {line.sku}", MISSING_ONE_IN) == 0
        }
        if not missing:
            return work
        self.world.tally.add("missing_lines", len(missing))
        return await self._reject(work, missing, order_pb2.REJECT_REASON_NOT_FOUND, "missing")

    async def _reject(
        self, work: Work, units: Mapping[int, int], reason: order_pb2.RejectReason.ValueType, step: str = "reject"
    ) -> Work:
        request = order_pb2.RejectFulfillmentOrderRequest(
            fulfillment_order_id=work.fulfillment_order_id,
            lines=[
                order_pb2.RejectedLine(line_number=number, quantity=count, reason=reason)
                for number, count in sorted(units.items())
            ],
        )
        request.request_id = f"{self.step_of(step, work)}-{digest(request)}"
        answer = await self.change(self.stubs.orders.RejectFulfillmentOrder, request)
        rejected = {line.line_number: open_units(line) for part in answer.rejected for line in part.lines}
        self.check(rejected == dict(units), f"{rejected} was rejected, not {dict(units)}")
        for part in answer.rejected:
            self.is_in(part, REJECTED)
        after = {part.fulfillment_order_id: part for part in (answer.fulfillment_order, *answer.rejected)}
        self._took_out(work, after.values(), units)
        return answer.fulfillment_order

    def _took_out(self, before: Work, after: Iterable[Work], units: Mapping[int, int]) -> None:
        """Rejected units left the bucket of promised ones, but for those that were short there already."""
        was, now = given_up([before]), given_up(after)
        for line in before.lines:
            if count := units.get(line.line_number, 0):
                absent = now.get(line.line_number, 0) - was.get(line.line_number, 0)
                self.moved(before.location_id, line.sku, Flow.REJECTED, count - absent)

    async def _substitute(self, order: order_pb2.Order, work: Work, line: order_pb2.FulfillmentLine) -> Work:
        """The store offers other items that it has, and the customer agrees to the first that is still there."""
        spares = await self._spares()
        reason = (order_pb2.REJECT_REASON_UNSPECIFIED, *_REASONS)[self.draw("substituted for", 1 + len(_REASONS))]
        of_order = {each.line_number: each for each in order.lines}
        for sku in spares:
            answer = await self.attempt(
                self.stubs.orders.SubstituteLine,
                order_pb2.SubstituteLineRequest(
                    request_id=self.step_of("substitute", work) + f"-{sku}",
                    fulfillment_order_id=work.fulfillment_order_id,
                    line_number=line.line_number,
                    sku=sku,
                    substitute_quantity=1,
                    consent=_CONSENTS[self.draw("consent", len(_CONSENTS))],
                    consent_reference=f"replay/{self.play.basket.basket_id}",
                    reason=reason,
                ),
                ("INSUFFICIENT_STOCK",),
            )
            if isinstance(answer, str):
                continue
            old, units = of_order[line.line_number], open_units(line)
            [new] = [e for e in answer.order.lines if e.line_number == answer.substitute_line_number]
            worth, cost, told = (
                line_refund(old, old.cancelled_quantity, units),
                minor_of(new.total),
                minor_of(answer.refund),
            )
            self.check(new.substitutes_line_number == line.line_number, "a substitute does not say what it replaces")
            self.check(cost <= worth and told == worth - cost, f"{told} cents back of {worth} for what costs {cost}")
            self.world.books.refunded(order.order_id, told)
            self.moved(work.location_id, sku, Flow.SUBSTITUTED, 1)
            [after] = [
                e for e in answer.order.fulfillment_orders if e.fulfillment_order_id == work.fulfillment_order_id
            ]
            if reason:
                self._took_out(work, [after], {line.line_number: units})
            return after
        self.world.tally.add("nothing_to_substitute")
        return work

    async def _spares(self) -> list[str]:
        """Items of the store that it can promise, and that have a price."""
        if not self.play.spares:
            return []
        shown = await self.read(
            self.stubs.inventory.GetAvailability,
            inventory_pb2.GetAvailabilityRequest(
                channel=self.channel, skus=list(self.play.spares), location_ids=[self.store]
            ),
        )
        has = {item.sku for place in shown.locations for item in place.items if item.available_to_promise > 0}
        prices = await self.prices(self.play.spares)
        return [sku for sku in self.play.spares if sku in has and sku in prices]

    # ---------------------------------------------------------------------------------------------- to the customer
    async def _hand_out(self, order: order_pb2.Order, work: Work, *, is_first: bool) -> None:
        orders, id = self.stubs.orders, work.fulfillment_order_id
        if work.state == PICKED:
            ready = await self.change(
                orders.MarkReadyForPickup,
                order_pb2.MarkReadyForPickupRequest(request_id=self.step_of("ready", work), fulfillment_order_id=id),
            )
            work = ready.fulfillment_order
            self.is_in(work, READY)
        if self.play.is_late:
            work = await self._hold_longer(work)
        if is_first and self.play.twist is Twist.NO_SHOW:
            return await self._no_show(order, work)
        if self.draw("curbside", CURBSIDE_ONE_IN) == 0:
            request_id = self.step_of("arrived", work)
            request = order_pb2.MarkArrivedRequest(request_id=request_id, fulfillment_order_id=id, spot="7")
            await self.change(orders.MarkArrived, request)
        await self._try_a_wrong_code(work)
        taken = [line for line in work.lines if open_units(line)]
        is_part = is_first and self.play.twist is Twist.PARTLY_TAKEN and len(taken) > 1
        if is_part:
            unwanted = self.draw("unwanted line", len(taken))
            taken = taken[:unwanted] + taken[unwanted + 1 :]
            self.world.books.gave_up(order.order_id)
        handover = order_pb2.HandOverFulfillmentOrderRequest(
            request_id=self.step_of("handover", work),
            fulfillment_order_id=id,
            lines=[order_pb2.WorkLine(line_number=line.line_number) for line in taken] if is_part else [],
            cancel_rest=is_part,
        )
        if self.play.has_lost_code:
            handover.identity.CopyFrom(self._identity())
            self.world.tally.add("handed_over_by_identity")
        else:
            handover.pickup_code = await self._code(work)
        handed = await self.change(orders.HandOverFulfillmentOrder, handover, ASSOCIATE)
        self.is_in(handed.fulfillment_order, PICKED_UP)
        if is_part:
            self.is_in(handed.rest, CANCELLED)
            self.world.tally.add("partly_taken")
        return None

    async def _hold_longer(self, work: Work) -> Work:
        """The customer comes some days later than the store would wait."""
        request = order_pb2.ExtendPickupHoldRequest(
            fulfillment_order_id=work.fulfillment_order_id, hold_end_time=work.hold_end_time
        )
        request.hold_end_time.seconds += LATER_SECONDS
        # Where a run goes on that had it held for longer before, that is a further time.
        request.request_id = f"{self.step_of('later', work)}-{digest(request)}"
        extended = await self.change(self.stubs.orders.ExtendPickupHold, request)
        held = extended.fulfillment_order
        self.is_in(held, READY)
        self.check(held.hold_end_time == request.hold_end_time, "what was to be held for longer is not")
        self.world.tally.add("held_longer")
        return held

    def _identity(self) -> order_pb2.IdentityCheck:
        """Two of the proofs that a customer may have along."""
        first = self.draw("proof", len(_PROOFS))
        kinds = _PROOFS[first], _PROOFS[(first + 1 + self.draw("other proof", len(_PROOFS) - 1)) % len(_PROOFS)]
        proofs = [order_pb2.Proof(kind=kind, reference="1234") for kind in kinds]
        return order_pb2.IdentityCheck(recipient=self.play.basket.customer_id, proofs=proofs)

    async def _code(self, work: Work) -> str:
        """What the customer was told, here or for the work that it was split off from; else the customer asks anew."""
        for id in (work.fulfillment_order_id, work.from_fulfillment_order_id):
            if id in self.codes:
                return self.codes[id]
        reset = await self.change(
            self.stubs.orders.ResetPickupCode,
            order_pb2.ResetPickupCodeRequest(
                request_id=self.step_of("reset", work), fulfillment_order_id=work.fulfillment_order_id
            ),
        )
        return reset.pickup_code.pickup_code

    async def _try_a_wrong_code(self, work: Work) -> None:
        if self.draw("wrong code", WRONG_CODE_ONE_IN):
            return
        request = order_pb2.HandOverFulfillmentOrderRequest(
            request_id=self.step_of("wrongcode", work),
            fulfillment_order_id=work.fulfillment_order_id,
            pickup_code=WRONG_CODE,
        )
        try:
            await self.world.client.call(self.stubs.orders.HandOverFulfillmentOrder, request)
        except Refused as refused:
            self.check(refused.reason == "PICKUP_CODE_WRONG", f"a wrong code was refused as {refused.reason}")
        else:
            self.check(False, "goods were handed over against a wrong code")

    async def _no_show(self, order: order_pb2.Order, work: Work) -> None:
        self.world.books.gave_up(order.order_id)
        marked = await self.change(
            self.stubs.orders.MarkNoShow,
            order_pb2.MarkNoShowRequest(
                request_id=self.step_of("noshow", work), fulfillment_order_id=work.fulfillment_order_id
            ),
        )
        aside = marked.fulfillment_order
        self.is_in(aside, NO_SHOW)
        for line in aside.lines:
            self.moved(work.location_id, line.sku, Flow.SET_ASIDE, line.aside_quantity)
        await self._put_away(aside)

    async def _put_away(self, work: Work) -> None:
        """Back on the shelf; a unit of the first line may be broken."""
        aside = [line for line in work.lines if line.aside_quantity]
        is_broken = self.draw("broken", 4) == 0
        lines = [
            order_pb2.PutAwayLine(
                line_number=line.line_number,
                available_quantity=line.aside_quantity - (is_broken and line is aside[0]),
                damaged_quantity=int(is_broken and line is aside[0]),
            )
            for line in aside
        ]
        put = await self.change(
            self.stubs.orders.PutAwayFulfillmentOrder,
            order_pb2.PutAwayFulfillmentOrderRequest(
                request_id=self.step_of("putaway", work), fulfillment_order_id=work.fulfillment_order_id, lines=lines
            ),
        )
        self.is_in(put.fulfillment_order, RESTOCKED)
        for line in aside:
            self.moved(work.location_id, line.sku, Flow.PUT_AWAY, line.aside_quantity)
