"""The model of orders, sales at the till and returns. See model.py for how to read it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from machine.model import Fields, Refused, given_id, invalid, summed
from machine.shop_model import Cart, Money, Shop, gtin14, must_know_currency, rounded
from machine.shortfall_model import AT_LOCATION, Work

# How the work for an order goes (design, section 5), and what each step is called.
WAYS = {
    "PICKUP": ("REQUESTED", "ACCEPTED", "PICKED", "READY_FOR_PICKUP", "PICKED_UP"),
    "SHIP": ("REQUESTED", "ACCEPTED", "PICKED", "SHIPPED", "DELIVERED"),
    "CARRY_OUT": ("PICKED_UP",),
}
STEP_TO = {
    "ACCEPTED": "ACCEPT",
    "PICKED": "PICK",
    "READY_FOR_PICKUP": "MARK_READY",
    "PICKED_UP": "HAND_OVER",
    "SHIPPED": "SHIP",
    "DELIVERED": "DELIVER",
}
DONE = ("PICKED_UP", "DELIVERED", "RETURNED")
CANCELLED = {"CANCELLED", "NO_SHOW", "RESTOCKED"}
"""The customer does not get these units any more."""
CANCELLABLE = (*AT_LOCATION, "REJECTED")
CODE_FAILURES_MAX = 5


def plain_code(said: str) -> str:
    """Case, blanks and hyphens do not matter."""
    return "".join(c for c in said.upper() if c.isalnum())


@dataclass
class OrderLine:
    """An item of an order."""

    sku: str
    quantity: int
    price: int
    per: int
    total: int
    fulfilled: int = 0
    cancelled: int = 0
    returned: int = 0
    refunded: int = 0

    def give_back(self, units: int) -> int:
        """What the next units to be cancelled or returned give back: each unit's share, exact for the whole line."""
        before = self.cancelled + self.returned
        refund = rounded(Fraction(self.total * (before + units), self.quantity)) - rounded(
            Fraction(self.total * before, self.quantity)
        )
        self.refunded += refund
        return refund


@dataclass
class Order:
    """An order."""

    channel: str
    customer_id: str
    currency: str
    lines: list[OrderLine]
    works: list[str]
    tenders: list[Fields]
    cart_id: str = ""
    reservation_id: str = ""
    ship_to: Any = None


class Model(Shop):
    """All of onhand."""

    def __init__(self) -> None:
        super().__init__()
        self.orders: dict[str, Order] = {}
        self.returns: dict[str, Fields] = {}

    # ------------------------------------------------------------------------------------------------- orders: placing
    def place_order(
        self,
        given: Any,
        reservation_id: str,
        cart_id: str,
        fulfillments: list[Fields],
        ship_to: Any,
        customer_id: str,
        currency_code: str,
        expected_total: Money | None,
        tenders: list[Fields],
    ) -> Fields:
        """An active reservation becomes an order: its units are allocated, all of them or none."""
        kinds = self._kinds(fulfillments, ship_to)
        if not cart_id and not currency_code:
            raise invalid("currency_code")
        if currency_code:
            must_know_currency(currency_code)
        reservation = self.must_be_active(reservation_id)
        places = sorted(reservation.baskets)
        if places != sorted(kinds):
            raise Refused(
                "FULFILLMENT_CHOICE_MISMATCH",
                reservation_id=reservation_id,
                reserved=", ".join(places),
                chosen=", ".join(sorted(kinds)),
            )
        customer = customer_id or reservation.customer_id
        if reservation.customer_id not in ("", customer):
            raise Refused("RESERVATION_OF_ANOTHER_CUSTOMER", reservation_id=reservation_id)
        wanted = summed([{"sku": s, "quantity": n} for lines in reservation.baskets.values() for s, n in lines.items()])
        currency = currency_code
        if cart_id:
            cart = self._cart_for_order(cart_id)
            customer = customer or cart.customer_id
            if cart.customer_id not in ("", customer):
                raise Refused("CART_OF_ANOTHER_CUSTOMER", cart_id=cart_id)
            if currency_code not in ("", cart.currency):
                raise Refused("CURRENCY_MISMATCH", expected=cart.currency, given=currency_code)
            for sku in sorted(cart.lines | wanted):
                in_cart, held = cart.lines.get(sku, 0), wanted.get(sku, 0)
                if in_cart != held:
                    raise Refused("CART_CHANGED", cart_id=cart_id, sku=sku, in_cart=in_cart, reserved=held)
            wanted, currency = cart.lines, cart.currency
        lines = []
        for sku, n in wanted.items():
            cost = self.cost(sku, n, currency)
            lines.append(OrderLine(sku, n, *self.prices[sku, currency], cost))
        total = sum(line.total for line in lines)
        if expected_total is not None and expected_total[1] != currency:
            raise Refused("CURRENCY_MISMATCH", expected=currency, given=expected_total[1])
        if expected_total is not None and expected_total[0] != total:
            reason, named = ("CART_CHANGED", {"cart_id": cart_id}) if cart_id else ("TOTAL_CHANGED", {})
            raise Refused(reason, **named, expected_minor=expected_total[0], total_minor=total, currency=currency)
        must_be_paid(tenders, total, currency)
        for place in places:
            offers = (
                self.places[place].offers_pickup if kinds[place] == "PICKUP" else self.places[place].offers_shipping
            )
            if not offers:
                raise Refused("FULFILLMENT_NOT_OFFERED", location_id=place, fulfillment_kind=kinds[place])
        shorts = []
        for place in places:
            for sku, n in sorted(reservation.baskets[place].items()):  # older reservations have their units first
                left = self.shelves[place, sku].held["AVAILABLE"] - self.needed_by_older(reservation_id, place, sku)
                if left < n:
                    shorts.append((place, sku, n, max(0, left)))
        if shorts:
            raise Refused("RESERVATION_SHORT", shorts=shorts)

        order_id = given_id(given, "order", "order_id")
        number_of = {line.sku: number for number, line in enumerate(lines, 1)}
        works = []
        codes = {code["fulfillment_order_id"]: code for code in (given or {}).get("pickup_codes", [])}
        for n, place in enumerate(places):
            work_id = given_id(given, "order", "fulfillment_orders", n, "fulfillment_order_id")
            parts = {number_of[sku]: [n, 0] for sku, n in reservation.baskets[place].items()}
            code = codes.get(work_id, {}).get("pickup_code", "")
            named = {number_of[sku]: sku for sku in reservation.baskets[place]}
            lines_of = dict(sorted(parts.items()))
            self.works[work_id] = Work(order_id, place, kinds[place], lines_of, named, "REQUESTED", code)
            works.append(work_id)
            for sku, units in sorted(reservation.baskets[place].items()):
                document = f"order/{order_id}"
                self.move(place, sku, units, "AVAILABLE", "ALLOCATED", "ORDER_PLACED", document, reservation.channel)
        reservation.state, reservation.order_id = "CONFIRMED", order_id
        if cart_id:
            cart.state, cart.order_id, cart.etag = "ORDERED", order_id, "closed"
        self.orders[order_id] = Order(
            reservation.channel, customer, currency, lines, works, tenders, cart_id, reservation_id, ship_to
        )
        pickups = [i for i in works if self.works[i].kind == "PICKUP"]
        return {
            "order": self.order(order_id),
            "pickup_codes": [{"fulfillment_order_id": i, "location_id": self.works[i].place} for i in pickups],
        }

    def _kinds(self, fulfillments: list[Fields], ship_to: Any) -> dict[str, str]:
        kinds: dict[str, str] = {}
        for n, choice in enumerate(fulfillments):
            if choice["kind"] == "CARRY_OUT":
                raise invalid(f"fulfillments[{n}].kind")
            if choice["location_id"] in kinds:
                raise invalid(f"fulfillments[{n}].location_id")
            kinds[choice["location_id"]] = choice["kind"]
        if "SHIP" in kinds.values() and ship_to is None:
            raise invalid("ship_to")
        return kinds

    def _cart_for_order(self, cart_id: str) -> Cart:
        cart = self.must_be_open(cart_id)
        if not cart.lines:
            raise Refused("CART_EMPTY", cart_id=cart_id)
        for sku, n in cart.lines.items():
            self.cost(sku, n, cart.currency)
        return cart

    def sell(
        self,
        given: Any,
        location_id: str,
        lines: list[Fields],
        currency_code: str,
        tenders: list[Fields],
        customer_id: str,
        occurred_time: Any,
    ) -> Fields:
        """Goods in the customer's hand: never refused for stock reasons."""
        must_know_currency(currency_code)
        skus = [line["sku"] or self._named_by(line["barcode"]) for line in lines]
        for line in lines:
            if line["total"] is not None and line["total"][1] != currency_code:
                raise Refused("CURRENCY_MISMATCH", expected=currency_code, given=line["total"][1])
        self.must_know_place(location_id)
        self.must_know_sku(skus)
        sold = []
        for sku, line in zip(skus, lines, strict=True):
            if line["total"] is None:
                cost = self.cost(sku, line["quantity"], currency_code)
                sold.append(OrderLine(sku, line["quantity"], *self.prices[sku, currency_code], cost))
            else:  # what the till charged, for the whole quantity
                sold.append(OrderLine(sku, line["quantity"], line["total"][0], line["quantity"], line["total"][0]))
            sold[-1].fulfilled = line["quantity"]
        must_be_paid(tenders, sum(line.total for line in sold), currency_code)

        order_id = given_id(given, "order", "order_id")
        document, beyond = f"order/{order_id}", {}
        for sku, quantity in summed([{"sku": line.sku, "quantity": line.quantity} for line in sold]).items():
            found = max(0, quantity - self.shelves[location_id, sku].held["AVAILABLE"])
            if found or self.overdrawn(location_id, sku, quantity):
                beyond[sku] = found
            self.move(location_id, sku, found, "ADJUSTMENT", "AVAILABLE", "FOUND_AT_SALE", document, "POS")
            self.move(location_id, sku, quantity, "AVAILABLE", "CUSTOMER", "SALE", document, "POS")
        for sku, found in beyond.items():  # what was found may well have been put aside for somebody
            self.break_orders(location_id, sku, found, "SALE", document)
            task = {"sku": sku, "reason_code": "SOLD_BEYOND_STOCK", "reference_document": document}
            self.count_tasks[location_id].setdefault(sku, task)
        work_id = given_id(given, "order", "fulfillment_orders", 0, "fulfillment_order_id")
        parts = {number: [line.quantity, 0] for number, line in enumerate(sold, 1)}
        named = {number: line.sku for number, line in enumerate(sold, 1)}
        self.works[work_id] = Work(order_id, location_id, "CARRY_OUT", parts, named, "PICKED_UP")
        self.orders[order_id] = Order("POS", customer_id, currency_code, sold, [work_id], tenders)
        return {"order": self.order(order_id)}

    def _named_by(self, gtin: str) -> str:
        wanted = gtin14(gtin, "gtin")
        for sku, product in self.products.items():
            if wanted in product.gtins:
                return sku
        raise Refused("BARCODE_NOT_FOUND", gtin=gtin)

    # --------------------------------------------------------------------------------------------- orders: what is seen
    def order(self, order_id: str) -> Fields:
        """Order. Its state follows from its fulfillment orders."""
        order = self.orders[order_id]
        states = {self.works[i].state for i in order.works}
        state = "COMPLETED" if states <= {*DONE, *CANCELLED} else "OPEN"
        state = "CANCELLED" if states <= CANCELLED else state
        money = [
            {
                "line_number": number,
                "sku": line.sku,
                "quantity": line.quantity,
                "fulfilled_quantity": line.fulfilled,
                "cancelled_quantity": line.cancelled,
                "returned_quantity": line.returned,
                "price": (line.price, order.currency),
                "price_quantity": line.per,
                "total": (line.total, order.currency),
                "refunded": (line.refunded, order.currency),
                "short_quantity": sum(s.left for i in order.works for s in self.short_of(i, number)),
            }
            for number, line in enumerate(order.lines, 1)
        ]
        return {
            "order_id": order_id,
            "customer_id": order.customer_id,
            "channel": order.channel,
            "state": state,
            "lines": money,
            "fulfillment_orders": [self.work(i) for i in order.works],
            "tenders": order.tenders,
            "total": (sum(line.total for line in order.lines), order.currency),
            "refunded": (sum(line.refunded for line in order.lines), order.currency),
            "ship_to": order.ship_to,
            "cart_id": order.cart_id,
            "reservation_id": order.reservation_id,
        }

    def work(self, work_id: str) -> Fields:
        """FulfillmentOrder."""
        work = self.works[work_id]
        return {
            "fulfillment_order_id": work_id,
            "order_id": work.order_id,
            "location_id": work.place,
            "kind": work.kind,
            "state": work.state,
            "lines": [
                {
                    "line_number": number,
                    "sku": work.skus[number],
                    "quantity": quantity,
                    "cancelled_quantity": cancelled,
                    "short_quantity": sum(s.left for s in self.short_of(work_id, number)),
                    "aside_quantity": work.aside.get(number, 0),
                }
                for number, (quantity, cancelled) in work.lines.items()
                if quantity
            ],
            "shipments": work.parcels,
            "arrival": work.arrival,
            "reject_reason": work.reason,
            "is_pickup_locked": work.failures >= CODE_FAILURES_MAX,
            "shortfalls": [s.shown() for s in self.shortfalls if s.work_id == work_id],
        }

    def open_works(self, place: str) -> int:
        """How many fulfillment orders a location has still to do."""
        return sum(w.place == place and w.state in CANCELLABLE for w in self.works.values())

    # -------------------------------------------------------------------------------------------------- orders: the work
    def must_allow(self, work_id: str, step: str) -> Work:
        """The table of section 5: a step leads to the next state of its way; before the goods leave, codes are reset."""
        if work_id not in self.works:
            raise Refused("FULFILLMENT_ORDER_NOT_FOUND", fulfillment_order_id=work_id)
        work = self.works[work_id]
        legal = []
        if work.state in WAYS[work.kind]:
            legal += [STEP_TO[state] for state in WAYS[work.kind][WAYS[work.kind].index(work.state) + 1 :]][:1]
        # Steps that are not played here are named by refusals all the same.
        if work.state in ("PICKED", "READY_FOR_PICKUP"):
            legal += ["UNPICK"]
        if work.state == "READY_FOR_PICKUP":
            legal += ["NO_SHOW", "EXTEND_HOLD"]
        if work.state == "REJECTED":
            legal += ["MOVE", "CANCEL"]
        if work.state == "NO_SHOW":
            legal += ["PUT_AWAY"]
        if work.state == "SHIPPED":
            legal += ["RETURN"]
        if work.state in AT_LOCATION:
            legal += ["REJECT"] if work.state == "READY_FOR_PICKUP" else ["REJECT", "SUBSTITUTE"]
            legal += ["ARRIVE", "RESET_CODE"] if work.kind == "PICKUP" else []
            legal += ["MOVE", "CANCEL"]
        if (work.kind, work.state) == ("SHIP", "PICKED"):
            legal.insert(0, "PACK")
        if step not in legal:
            raise Refused(
                "ILLEGAL_TRANSITION",
                fulfillment_order_id=work_id,
                fulfillment_kind=work.kind,
                state=work.state,
                step=step,
                legal_steps=", ".join(legal) or "nothing",
            )
        return work

    def _advance(self, work_id: str, step: str) -> Fields:
        work = self.must_allow(work_id, step)
        work.state = WAYS[work.kind][WAYS[work.kind].index(work.state) + 1]
        if step in ("PICK", "MARK_READY", "HAND_OVER", "SHIP"):
            self.hold(work_id)
        if step in ("HAND_OVER", "SHIP"):
            order, leaving = self.orders[work.order_id], []
            for number, (quantity, cancelled) in work.lines.items():
                order.lines[number - 1].fulfilled += quantity - cancelled
                leaving.append({"sku": order.lines[number - 1].sku, "quantity": quantity - cancelled})
            for sku, units in summed(leaving).items():
                document = f"order/{work.order_id}"
                self.move(work.place, sku, units, "ALLOCATED", "CUSTOMER", work.state, document, order.channel)
        return {"fulfillment_order": self.work(work_id)}

    def accept_fulfillment_order(self, given: Any, fulfillment_order_id: str) -> Fields:
        """REQUESTED -> ACCEPTED."""
        return self._advance(fulfillment_order_id, "ACCEPT")

    def pick_fulfillment_order(self, given: Any, fulfillment_order_id: str) -> Fields:
        """ACCEPTED -> PICKED."""
        return self._advance(fulfillment_order_id, "PICK")

    def mark_ready_for_pickup(self, given: Any, fulfillment_order_id: str) -> Fields:
        """PICKED -> READY_FOR_PICKUP."""
        return self._advance(fulfillment_order_id, "MARK_READY")

    def deliver_fulfillment_order(self, given: Any, fulfillment_order_id: str) -> Fields:
        """SHIPPED -> DELIVERED."""
        return self._advance(fulfillment_order_id, "DELIVER")

    def ship_fulfillment_order(
        self, given: Any, fulfillment_order_id: str, carrier: str, tracking_reference: str, shipment_id: str
    ) -> Fields:
        """PICKED -> SHIPPED, in a parcel: in the one that all of it is packed in, if it is packed."""
        work = self.must_allow(fulfillment_order_id, "SHIP")
        if work.parcels and not shipment_id:
            raise Refused("PARCEL_NOT_NAMED", fulfillment_order_id=fulfillment_order_id, parcels=len(work.parcels))
        work.parcels = [{"carrier": carrier, "tracking_reference": tracking_reference}]
        if shipment_id:
            work.parcels[0]["shipment_id"] = shipment_id
        return self._advance(fulfillment_order_id, "SHIP")

    def hand_over_fulfillment_order(
        self, given: Any, fulfillment_order_id: str, pickup_code: str, request_id: str
    ) -> Fields:
        """READY_FOR_PICKUP -> PICKED_UP, against the code. A wrong one is counted once for each request."""
        work, said = self.must_allow(fulfillment_order_id, "HAND_OVER"), plain_code(pickup_code)
        if said != work.code and work.failures < CODE_FAILURES_MAX and (request_id, said) not in work.attempts:
            work.failures += 1
            work.attempts.add((request_id, said))
        if work.failures >= CODE_FAILURES_MAX:
            raise Refused("PICKUP_CODE_LOCKED", fulfillment_order_id=fulfillment_order_id, failures=CODE_FAILURES_MAX)
        if said != work.code:
            left = CODE_FAILURES_MAX - work.failures
            raise Refused("PICKUP_CODE_WRONG", fulfillment_order_id=fulfillment_order_id, attempts_left=left)
        return self._advance(fulfillment_order_id, "HAND_OVER")

    def reset_pickup_code(self, given: Any, fulfillment_order_id: str) -> Fields:
        """Another code; the old one is void."""
        work = self.must_allow(fulfillment_order_id, "RESET_CODE")
        code = given_id(given, "pickup_code", "pickup_code")
        assert code != work.code, "the same code again"
        work.code, work.failures = code, 0
        work.attempts.clear()
        return {"pickup_code": {"fulfillment_order_id": fulfillment_order_id, "location_id": work.place}}

    # ------------------------------------------------------------------------------------------------ orders: giving back
    def decide_shortfall(self, given: Any, shortfall_id: str, decision: str, location_id: str) -> Fields:
        """What was counted and is not there is waited for; the location that lacks it is not asked to take it over."""
        found = [s for s in self.shortfalls if s.shortfall_id == shortfall_id]
        if not found:
            raise Refused("SHORTFALL_NOT_FOUND", shortfall_id=shortfall_id)
        if decision == "RESOURCE":
            if not found[0].left:
                raise Refused("SHORTFALL_NOT_TO_DECIDE", shortfall_id=shortfall_id, next_step=found[0].next_step)
            raise Refused("LOCATION_EXCLUDED", fulfillment_order_id=found[0].work_id, location_id=location_id)
        if found[0].next_step != "CHOOSE":
            raise Refused("SHORTFALL_NOT_TO_DECIDE", shortfall_id=shortfall_id, next_step=found[0].next_step)
        found[0].next_step = "WAIT"
        return {"shortfall": found[0].shown()}

    def must_know_order(self, order_id: str) -> Order:
        """An order."""
        if order_id not in self.orders:
            raise Refused("ORDER_NOT_FOUND", order_id=order_id)
        return self.orders[order_id]

    def cancel_order_lines(self, given: Any, order_id: str, lines: list[Fields]) -> Fields:
        """Units that are still with a location, the work that is least far first; they can be sold again at once."""
        wanted = {line["line_number"]: line["quantity"] for line in lines}
        if len(wanted) < len(lines):
            raise invalid("lines")
        order = self.must_know_order(order_id)
        plan = []
        for number, quantity in wanted.items():
            if not 1 <= number <= len(order.lines):
                raise Refused("ORDER_LINE_NOT_FOUND", order_id=order_id, line_number=number)
            of_line = [i for i in order.works if number in self.works[i].lines and self.works[i].state in CANCELLABLE]
            there = {i: self.works[i].lines[number][0] - self.works[i].lines[number][1] for i in of_line}
            if quantity > sum(there.values()):
                raise Refused(
                    "CANCEL_EXCEEDED",
                    order_id=order_id,
                    line_number=number,
                    sku=order.lines[number - 1].sku,
                    requested=quantity,
                    cancellable=sum(there.values()),
                )
            least_far = sorted(of_line, key=lambda i: CANCELLABLE.index(self.works[i].state))
            short = {i: sum(s.left for s in self.short_of(i, number)) for i in least_far}
            units = dict.fromkeys(least_far, 0)
            for most in (short, there):  # what is short first
                for i in least_far:
                    taken = min(quantity, most[i] - units[i])
                    units[i], quantity = units[i] + taken, quantity - taken
            plan += [(i, number, n) for i, n in units.items() if n]
        refund = 0
        for number, quantity in wanted.items():
            refund += order.lines[number - 1].give_back(quantity)
            order.lines[number - 1].cancelled += quantity
        absent = [self.give_up(i, number, n) for i, number, n in plan]
        grown: dict[tuple[str, str], int] = {}
        for (i, number, n), gone in zip(plan, absent, strict=True):
            work = self.works[i]
            work.lines[number][1] += n
            work.parcels = []
            place, sku, document = work.place, work.skus[number], f"order/{order_id}"
            self.move(place, sku, n - gone, "ALLOCATED", "AVAILABLE", "ORDER_CANCELLED", document, order.channel)
            grown[place, sku] = grown.get((place, sku), 0) + n - gone
            if all(quantity == cancelled for quantity, cancelled in work.lines.values()):
                work.state = "CANCELLED"
        self.cover(grown, "ORDER_CANCELLED", f"order/{order_id}")
        return {"order": self.order(order_id), "refund": (refund, order.currency)}

    def create_return(self, given: Any, order_id: str, location_id: str, channel: str, lines: list[Fields]) -> Fields:
        """What the customer got comes back, anywhere."""
        for n, line in enumerate(lines):
            if any(
                (line["line_number"], line["disposition"]) == (x["line_number"], x["disposition"]) for x in lines[:n]
            ):
                raise invalid(f"lines[{n}]")
        order = self.must_know_order(order_id)
        asked: dict[int, int] = {}
        for line in lines:
            asked[line["line_number"]] = asked.get(line["line_number"], 0) + line["quantity"]
        for number, quantity in asked.items():
            if not 1 <= number <= len(order.lines):
                raise Refused("ORDER_LINE_NOT_FOUND", order_id=order_id, line_number=number)
            of = order.lines[number - 1]
            if of.returned + quantity > of.fulfilled:
                raise Refused(
                    "RETURN_EXCEEDED",
                    order_id=order_id,
                    line_number=number,
                    sku=of.sku,
                    requested=quantity,
                    bought=of.quantity,
                    fulfilled=of.fulfilled,
                    returned=of.returned,
                    authorized=0,
                )
        self.must_know_place(location_id)
        return_id = given_id(given, "returned", "return_id")
        back = []
        grown: dict[tuple[str, str], int] = {}
        for line in lines:
            of = order.lines[line["line_number"] - 1]
            refund = of.give_back(line["quantity"])
            of.returned += line["quantity"]
            document = f"return/{return_id}"
            self.move(
                location_id, of.sku, line["quantity"], "CUSTOMER", line["disposition"], "RETURN", document, channel
            )
            if line["disposition"] == "AVAILABLE":
                grown[location_id, of.sku] = grown.get((location_id, of.sku), 0) + line["quantity"]
            back.append(line | {"sku": of.sku, "refund": (refund, order.currency)})
        self.cover(grown, "RETURN", f"return/{return_id}")
        self.returns[return_id] = {
            "return_id": return_id,
            "order_id": order_id,
            "location_id": location_id,
            "channel": channel,
            "lines": sorted(back, key=lambda line: (line["line_number"], line["disposition"])),
            "refund": (sum(line["refund"][0] for line in back), order.currency),
            "kind": "COUNTER",
            "customer_id": order.customer_id,
            "override": None,
        }
        return {"returned": self.returns[return_id]}


def must_be_paid(tenders: list[Fields], total: int, currency: str) -> None:
    """Tenders add up to the total exactly, in its currency."""
    for n, tender in enumerate(tenders):
        if tender["amount"][0] == 0:
            raise invalid(f"tenders[{n}].amount")
        if tender["amount"][1] != currency:
            raise Refused("CURRENCY_MISMATCH", expected=currency, given=tender["amount"][1])
    tendered = sum(tender["amount"][0] for tender in tenders)
    if tendered != total:
        raise Refused("TENDERS_MISMATCH", tendered_minor=tendered, total_minor=total, currency=currency)
