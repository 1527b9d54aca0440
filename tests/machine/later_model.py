"""The model of work that does not go its way: put back, never fetched, put away, rejected, brought back. See model.py."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from machine import transfer_model
from machine.model import Fields, Refused, given_id, invalid, summed
from machine.order_model import OrderLine
from machine.shortfall_model import Shortfall

SUBSTITUTED = {"UNSPECIFIED": "SUBSTITUTED", "CLOSED": "REJECTED_CLOSED"}
"""Why goods that were replaced are on the shelf again."""


class Model(transfer_model.Model):
    """All of onhand."""

    def unpick_fulfillment_order(self, given: Any, fulfillment_order_id: str) -> Fields:
        """PICKED or READY_FOR_PICKUP -> ACCEPTED: the goods stay promised."""
        work = self.must_allow(fulfillment_order_id, "UNPICK")
        work.state, work.parcels, work.waits_until = "ACCEPTED", [], 0
        return {"fulfillment_order": self.work(fulfillment_order_id)}

    def mark_arrived(self, given: Any, fulfillment_order_id: str, spot: str, note: str) -> Fields:
        """The customer is there: nothing else changes."""
        work = self.must_allow(fulfillment_order_id, "ARRIVE")
        work.arrival = {"spot": spot, "note": note}
        return {"fulfillment_order": self.work(fulfillment_order_id)}

    def extend_pickup_hold(self, given: Any, fulfillment_order_id: str, hold_end_time: int) -> Fields:
        """READY_FOR_PICKUP for longer, never for a shorter time: how long the location waits by itself, only onhand knows."""
        work = self.must_allow(fulfillment_order_id, "EXTEND_HOLD")
        told = given_id(given, "fulfillment_order", "hold_end_time")
        assert given is None or told >= max(hold_end_time, work.waits_until), (told, hold_end_time, work.waits_until)
        if told != "?" and work.waits_until:
            assert told == max(hold_end_time, work.waits_until), (told, hold_end_time, work.waits_until)
        work.waits_until = told
        return {"fulfillment_order": self.work(fulfillment_order_id)}

    def pack_fulfillment_order(self, given: Any, fulfillment_order_id: str, parcels: list[Fields]) -> Fields:
        """What is picked is put into parcels, which it leaves in; packed anew, it is in these only."""
        packed = dict[int, int]()
        for index, parcel in enumerate(parcels):
            numbers = [line["line_number"] for line in parcel["lines"]]
            if len(set(numbers)) < len(numbers):
                raise invalid(f"parcels[{index}].lines")
            for line in parcel["lines"]:
                packed[line["line_number"]] = packed.get(line["line_number"], 0) + line["quantity"]
        work, held = self.must_allow(fulfillment_order_id, "PACK"), self._held(fulfillment_order_id)
        for number, quantity in packed.items():
            if quantity > held.get(number, 0):
                raise Refused(
                    "FULFILLMENT_LINE_EXCEEDED",
                    fulfillment_order_id=fulfillment_order_id,
                    step="PACK",
                    line_number=number,
                    requested=quantity,
                    there=held.get(number, 0),
                )
        work.parcels = [{"carrier": "", "tracking_reference": ""} for _ in parcels]
        if given is not None and len(parcels) == 1 and packed == held:
            work.parcels[0]["shipment_id"] = given_id(given, "fulfillment_order", "shipments", 0, "shipment_id")
        return {"fulfillment_order": self.work(fulfillment_order_id)}

    def return_to_supplier(self, given: Any, location_id: str, lines: list[Fields], reference_document: str) -> Fields:
        """quarantine -> supplier, each sku once."""
        total = summed(lines)
        self.must_know_place(location_id)
        self.must_know_sku(total)
        self._must_hold(location_id, list(total.items()))
        for sku, quantity in total.items():
            self.move(location_id, sku, quantity, "QUARANTINE", "SUPPLIER", "RETURN_TO_SUPPLIER", "")
            del self.movements[location_id][-1]["reference_document"]  # only onhand knows which return it was
        return {"lines": [{"sku": sku, "quantity": quantity} for sku, quantity in total.items()]}

    def mark_no_show(self, given: Any, fulfillment_order_id: str) -> Fields:
        """READY_FOR_PICKUP -> NO_SHOW: the money goes back, the goods stand aside."""
        work = self.must_allow(fulfillment_order_id, "NO_SHOW")
        order, document = self.orders[work.order_id], f"order/{work.order_id}"
        for number, (quantity, cancelled) in work.lines.items():
            if left := quantity - cancelled:
                order.lines[number - 1].give_back(left)
                order.lines[number - 1].cancelled += left
                there = left - self.give_up(fulfillment_order_id, number, left)
                work.lines[number][1] += left
                work.aside[number] = there
                self.move(
                    work.place, work.skus[number], there, "ALLOCATED", "QUARANTINE", "NO_SHOW", document, order.channel
                )
        work.state = "NO_SHOW"
        return {"fulfillment_order": self.work(fulfillment_order_id)}

    def put_away_fulfillment_order(self, given: Any, fulfillment_order_id: str, lines: list[Fields]) -> Fields:
        """NO_SHOW -> RESTOCKED: back on the shelf, or damaged; what is not named is to be counted."""
        asked = {line["line_number"]: (line["available_quantity"], line["damaged_quantity"]) for line in lines}
        if len(asked) < len(lines):
            raise invalid("lines")
        work = self.must_allow(fulfillment_order_id, "PUT_AWAY")
        aside = {number: units for number, units in work.aside.items() if units}
        put = asked or {number: (units, 0) for number, units in aside.items()}
        for number, units in put.items():
            if sum(units) > aside.get(number, 0):
                raise Refused(
                    "FULFILLMENT_LINE_EXCEEDED",
                    fulfillment_order_id=fulfillment_order_id,
                    step="PUT_AWAY",
                    line_number=number,
                    requested=sum(units),
                    there=aside.get(number, 0),
                )
        document, grown = f"order/{work.order_id}", dict[tuple[str, str], int]()
        wanted = [(work.skus[number], units) for number, units in sorted(put.items()) if sum(units)]
        self._must_hold(work.place, [(sku, sum(units)) for sku, units in wanted])
        for sku, units in wanted:
            for quantity, bucket in zip(units, ("AVAILABLE", "DAMAGED"), strict=True):
                self.move(work.place, sku, quantity, "QUARANTINE", bucket, "PUT_AWAY", document)
            if units[0]:
                grown[work.place, sku] = units[0]
        self.cover(grown, "PUT_AWAY", document)
        for number, units in aside.items():
            if sum(put.get(number, (0, 0))) < units:
                sku = work.skus[number]
                task = {"sku": sku, "reason_code": "NOT_PUT_AWAY", "reference_document": document}
                self.count_tasks[work.place].setdefault(sku, task)
        work.aside.clear()
        work.state = "RESTOCKED"
        return {"fulfillment_order": self.work(fulfillment_order_id)}

    def _must_hold(self, place: str, wanted: list[tuple[str, int]]) -> None:
        """Somebody may have taken units out of quarantine since."""
        for sku, quantity in wanted:
            there = self.shelves[place, sku].held["QUARANTINE"]
            if there < quantity:
                raise Refused(
                    "BUCKET_SHORT", location_id=place, sku=sku, bucket="quarantine", requested=quantity, held=there
                )

    # ------------------------------------------------------------------------------------------------ what is not brought
    def reject_fulfillment_order(self, given: Any, fulfillment_order_id: str, lines: list[Fields]) -> Fields:
        """To REJECTED, all of it or a part: the units leave `allocated`, and are a need of the order that somebody sees."""
        asked: dict[str, dict[int, int]] = {}
        for index, line in enumerate(lines):
            of_reason = asked.setdefault(line["reason"], {})
            if line["line_number"] in of_reason:
                raise invalid(f"lines[{index}]")
            of_reason[line["line_number"]] = line["quantity"]
        work = self.must_allow(fulfillment_order_id, "REJECT")
        wanted = self._wanted(fulfillment_order_id, asked)
        document, rejected, missing = f"order/{work.order_id}", [], set()
        work.parcels = []
        for n, (reason, units) in enumerate(wanted.items()):
            grown = {
                (work.place, work.skus[number]): self._take_out(fulfillment_order_id, reason, number, quantity)
                for number, quantity in sorted(units.items())
            }
            self.cover(grown if reason == "CLOSED" else {}, "REJECTED_CLOSED", document)
            part_id = fulfillment_order_id
            if units != self._held(fulfillment_order_id):
                part_id = given_id(given, "rejected", n, "fulfillment_order_id")
                named = {number: work.skus[number] for number in sorted(units)}
                parts = {number: [units[number], 0] for number in sorted(units)}
                self.works[part_id] = replace(work, lines=parts, skus=named, attempts=set(work.attempts), parcels=[])
                self.orders[work.order_id].works.append(part_id)
                for number, quantity in units.items():
                    work.lines[number][0] -= quantity
            self.works[part_id].state, self.works[part_id].reason = "REJECTED", reason
            rejected.append((part_id, reason, units))
        for part_id, reason, units in rejected:
            for number, quantity in sorted(units.items()):
                at = work.place, work.skus[number]
                self.shortfalls.append(Shortfall(part_id, number, *at, quantity, quantity, reason, document, "CHOOSE"))
                missing |= {at} if reason == "NOT_FOUND" else set()
        self._look_again(fulfillment_order_id, missing, document)
        return {
            "fulfillment_order": self.work(fulfillment_order_id),
            "rejected": [self.work(part_id) for part_id, _, _ in rejected],
        }

    def substitute_line(
        self,
        given: Any,
        fulfillment_order_id: str,
        line_number: int,
        quantity: int,
        sku: str,
        substitute_quantity: int,
        consent: str,
        reason: str,
    ) -> Fields:
        """Another item of the location instead of units of a line: never for more than these give back."""
        if fulfillment_order_id not in self.works:
            raise Refused("FULFILLMENT_ORDER_NOT_FOUND", fulfillment_order_id=fulfillment_order_id)
        place = self.works[fulfillment_order_id].place
        self.must_promise({place: {sku: substitute_quantity}})
        work = self.must_allow(fulfillment_order_id, "SUBSTITUTE")
        order, document = self.orders[work.order_id], f"order/{work.order_id}"
        if line_number > len(order.lines):
            raise Refused("ORDER_LINE_NOT_FOUND", order_id=work.order_id, line_number=line_number)
        there = self._held(fulfillment_order_id).get(line_number, 0)
        units = quantity or there
        if not 0 < units <= there:
            raise Refused(
                "FULFILLMENT_LINE_EXCEEDED",
                fulfillment_order_id=fulfillment_order_id,
                step="SUBSTITUTE",
                line_number=line_number,
                requested=units,
                there=there,
            )
        old = order.lines[line_number - 1]
        if sku == old.sku:
            raise Refused("SUBSTITUTE_SAME", sku=sku)
        full = self.cost(sku, substitute_quantity, order.currency)
        worth = old.give_back(units)
        total = min(full, worth)
        price = self.prices[sku, order.currency] if total == full else (total, substitute_quantity)
        grown = {(place, old.sku): self._take_out(fulfillment_order_id, reason, line_number, units)}
        old.cancelled += units
        work.lines[line_number][1] += units
        work.parcels = []
        order.lines.append(OrderLine(sku, substitute_quantity, *price, total))
        number = len(order.lines)
        work.lines[number], work.skus[number] = [substitute_quantity, 0], sku
        self.cover(grown if reason in ("UNSPECIFIED", "CLOSED") else {}, SUBSTITUTED.get(reason, ""), document)
        if reason == "NOT_FOUND":
            self._look_again(fulfillment_order_id, {(place, old.sku)}, document)
        self.move(place, sku, substitute_quantity, "AVAILABLE", "ALLOCATED", "SUBSTITUTE", document, order.channel)
        refund = worth - total, order.currency
        return {"order": self.order(work.order_id), "substitute_line_number": number, "refund": refund}

    def _held(self, work_id: str) -> dict[int, int]:
        lines = self.works[work_id].lines.items()
        return {number: quantity - cancelled for number, (quantity, cancelled) in lines if quantity > cancelled}

    def _wanted(self, work_id: str, asked: dict[str, dict[int, int]]) -> dict[str, dict[int, int]]:
        """Units by reason and line; 0 stands for all that is left of a line."""
        held, wanted = self._held(work_id), dict[str, dict[int, int]]()
        for reason, lines in asked.items():
            wanted[reason] = {number: quantity or held.get(number, 0) for number, quantity in lines.items()}
            for number, quantity in wanted[reason].items():
                if not 0 < quantity <= held.get(number, 0):
                    raise Refused(
                        "FULFILLMENT_LINE_EXCEEDED",
                        fulfillment_order_id=work_id,
                        step="REJECT",
                        line_number=number,
                        requested=quantity,
                        there=held.get(number, 0),
                    )
            held = {number: quantity - wanted[reason].get(number, 0) for number, quantity in held.items()}
        return wanted

    def _take_out(self, work_id: str, reason: str, number: int, quantity: int) -> int:
        """Units leave `allocated`: what was short is what nobody found; what is damaged was there. Returns how many left."""
        work, short = self.works[work_id], sum(s.left for s in self.short_of(work_id, number))
        document, there = f"order/{work.order_id}", quantity
        if reason == "DAMAGED":
            self._find(work_id, number, quantity - (self._held(work_id)[number] - short))
        else:
            there -= self.give_up(work_id, number, quantity, "CANCELLED" if reason == "UNSPECIFIED" else "REJECTED")
        bucket = {"NOT_FOUND": "ADJUSTMENT", "DAMAGED": "DAMAGED"}.get(reason, "AVAILABLE")
        channel, why = self.orders[work.order_id].channel, SUBSTITUTED.get(reason, f"REJECTED_{reason}")
        self.move(work.place, work.skus[number], there, "ALLOCATED", bucket, why, document, channel)
        return there

    def _look_again(self, work_id: str, missing: set[tuple[str, str]], document: str) -> None:
        """What somebody did not find is to be counted; where nothing but promises is left, others of it are doubted."""
        for place, sku in sorted(missing):
            task = {"sku": sku, "reason_code": "REJECTED_NOT_FOUND", "reference_document": document}
            self.count_tasks[place].setdefault(sku, task)
            held = self.shelves[place, sku].held
            if not held["AVAILABLE"] and held["ALLOCATED"]:
                self.break_orders(place, sku, held["ALLOCATED"], "REJECTION", document, work_id)

    def _find(self, work_id: str, number: int, units: int) -> None:
        """So many of a line's short units were there after all."""
        for shortfall in self.short_of(work_id, number):
            if (taken := min(units, shortfall.left)) > 0:
                units -= taken
                order = f"order/{self.works[work_id].order_id}"
                shortfall.end(taken, "IN_HAND", order)
                way = "ADJUSTMENT", "ALLOCATED", "SHORTFALL_FOUND"
                self.move(shortfall.place, shortfall.sku, taken, *way, order)

    def return_undelivered(
        self, given: Any, fulfillment_order_id: str, location_id: str, lines: list[Fields]
    ) -> Fields:
        """SHIPPED -> RETURNED: all that was in the parcel is back, as a return."""
        seen = set[tuple[int, str]]()
        for n, line in enumerate(lines):
            if (key := (line["line_number"], line["disposition"])) in seen:
                raise invalid(f"lines[{n}]")
            seen.add(key)
        work = self.must_allow(fulfillment_order_id, "RETURN")
        held = self._held(fulfillment_order_id)
        back = lines or [
            {"line_number": number, "disposition": "QUARANTINE", "quantity": quantity, "reason": "UNDELIVERED"}
            for number, quantity in held.items()
        ]
        came = dict.fromkeys(held, 0)
        for line in back:
            came[line["line_number"]] = came.get(line["line_number"], 0) + line["quantity"]
        for number in sorted(came):
            if came[number] != held.get(number, 0):
                raise Refused(
                    "PARCEL_INCOMPLETE",
                    fulfillment_order_id=fulfillment_order_id,
                    line_number=number,
                    came_back=came[number],
                    shipped=held.get(number, 0),
                )
        channel = self.orders[work.order_id].channel
        made = self.create_return(given, work.order_id, location_id or work.place, channel, back)
        work.state = "RETURNED"
        return made | {"fulfillment_order": self.work(fulfillment_order_id)}
