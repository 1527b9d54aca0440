"""What shops do: catalog, carts, orders, the work for them, sales at the till, returns."""

from __future__ import annotations

import time
from typing import Any

import hypothesis.strategies as st
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money
from hypothesis.stateful import multiple, rule

from machine.base import (
    Base,
    carts,
    channel_of,
    channels,
    currencies,
    customers,
    orders,
    places,
    quantities,
    quantities_of,
    reservations,
    servers,
    skus,
)
from machine.order_model import STEP_TO, WAYS
from machine.shop_model import check_digit
from machine.shortfall_model import AT_LOCATION
from onhand.v1 import order_pb2 as pb

MISSING = "11111111-1111-7111-8111-111111111111"
ADDRESS = pb.Address(recipient="Ada", lines=["1 Main St"], locality="Springfield", region_code="US")
RPCS = {
    "ACCEPT": "AcceptFulfillmentOrder",
    "PICK": "PickFulfillmentOrder",
    "MARK_READY": "MarkReadyForPickup",
    "HAND_OVER": "HandOverFulfillmentOrder",
    "SHIP": "ShipFulfillmentOrder",
    "DELIVER": "DeliverFulfillmentOrder",
}

etags = st.sampled_from(("none", "none", "right", "old"))
kinds = st.sampled_from(("PICKUP", "PICKUP", "SHIP"))
parts = st.integers(0, 1)
line_numbers = st.sampled_from((1, 1, 1, 2, 2, 3))
flaws = st.sampled_from(
    (*("none",) * 12, "tenders", "expected", "customer", "choice", "address", "carry_out", "unknown", "split")
)


def money(minor: int, currency: str) -> Money:
    """An amount on the wire."""
    if currency == "JPY":
        return Money(currency_code=currency, units=minor)
    return Money(currency_code=currency, units=minor // 100, nanos=minor % 100 * 10_000_000)


class Catalog(Base):
    """Products, barcodes, prices."""

    def gtin(self, k: int) -> str:
        """A barcode of this example's; 3: one with a wrong digit."""
        digits = f"{int(self.calls.prefix[1:]):09d}{k % 3:03d}"
        return digits + str((check_digit(digits) + (k == 3)) % 10)

    @rule(
        n=servers,
        do=st.sampled_from(("create", "update", "barcodes", "barcodes")),
        sku=skus,
        text=st.sampled_from(("a", "b", "")),
        which=st.sets(st.sampled_from((0, 0, 1, 1, 2, 3)), max_size=2),
        etag=etags,
    )
    def manage_product(self, n: int, do: str, sku: str, text: str, which: set[int], etag: str) -> None:
        name = self.sku(sku)
        known = self.model.products.get(name)
        given = {"none": "", "right": known.etag if known else "v1", "old": "v0"}[etag]
        if do == "create":
            self.call(n, "CreateProduct", product={"sku": name, "name": text})
        elif do == "update":
            product = {"sku": name, "brand": text, "etag": given}
            self.call(n, "UpdateProduct", product=product, update_mask={"paths": ["brand"]})
        else:
            self.call(n, "SetBarcodes", sku=name, gtins=[self.gtin(k) for k in sorted(which)], etag=given)

    @rule(
        n=servers,
        sku=skus,
        minor=st.sampled_from((199, 100, 0)),
        currency=st.sampled_from(("USD", "USD", "JPY")),
        per=st.sampled_from((1, 0, 3)),
    )
    def set_price(self, n: int, sku: str, minor: int, currency: str, per: int) -> None:
        self.call(n, "SetPrice", sku=self.sku(sku), amount=money(minor, currency), price_quantity=per)


class Carts(Base):
    """What customers mean to buy."""

    @rule(target=carts, n=servers, customer=customers, channel=channels, currency=currencies)
    def create_cart(self, n: int, customer: str, channel: str, currency: str) -> Any:
        fields = {"customer_id": self.customer(customer), "channel": channel_of(channel), "currency_code": currency}
        made = self.call(n, "CreateCart", **fields)
        return made["cart"]["cart_id"] if made and not made["is_existing"] else multiple()

    @rule(n=servers, cart=carts, sku=skus, quantity=st.one_of(quantities, st.just(999_999_999)))
    def add(self, n: int, cart: str, sku: str, quantity: int) -> None:
        self.call(n, "AddCartLine", cart_id=cart, line={"sku": self.sku(sku), "quantity": quantity})

    @rule(n=servers, cart=carts, sku=skus, quantity=st.integers(0, 6), etag=st.sampled_from(("none", "right", "old")))
    def set_line(self, n: int, cart: str, sku: str, quantity: int, etag: str) -> None:
        given = {"none": "", "right": self.model.carts[cart].etag, "old": "v0"}[etag]
        self.call(n, "SetCartLine", cart_id=cart, sku=self.sku(sku), quantity=quantity, etag=given)

    @rule(n=servers, cart=carts, customer=st.sampled_from(("ada", "bob")))
    def claim(self, n: int, cart: str, customer: str) -> None:
        self.call(n, "ClaimCart", cart_id=cart, customer_id=self.customer(customer))


class Orders(Base):
    """From a reservation to the customer, and back."""

    def cost(self, wanted: dict[str, int], currency: str) -> int:
        """What it costs, in minor units; 1 where something has no price."""
        if any((sku, currency) not in self.model.prices for sku in wanted):
            return 1
        return sum(self.model.cost(sku, quantity, currency) for sku, quantity in wanted.items())

    def tenders(self, minor: int, currency: str, *, is_split: bool = False) -> list[pb.Tender]:
        """How it is paid: by card, or by card and in cash."""
        first = minor // 2 if is_split and minor > 1 else minor
        means = [(pb.TENDER_KIND_CARD, first), (pb.TENDER_KIND_CASH, minor - first)]
        return [pb.Tender(kind=kind, amount=money(part, currency)) for kind, part in means if part]

    def place_order(self, n: int, reservation: str, cart: str, kind: str, currency: str, flaw: str) -> Any:
        """PlaceOrder for all that a reservation holds; `flaw` is what is wrong with it."""
        baskets = self.model.reservations[reservation].baskets
        wanted: dict[str, int] = {}
        for held in baskets.values():
            for sku, quantity in held.items():
                wanted[sku] = wanted.get(sku, 0) + quantity
        used = self.model.carts[cart].currency if cart else currency
        minor = self.cost(wanted, used)
        chosen = (
            pb.FULFILLMENT_KIND_CARRY_OUT
            if flaw == "carry_out"
            else pb.FulfillmentKind.Value(f"FULFILLMENT_KIND_{kind}")
        )
        choices = [pb.FulfillmentChoice(location_id=place, kind=chosen) for place in baskets]
        if flaw == "choice":
            choices.append(pb.FulfillmentChoice(location_id=self.place("nowhere"), kind=chosen))
        placed = self.call(
            n,
            "PlaceOrder",
            reservation_id=MISSING if flaw == "unknown" else reservation,
            cart_id=cart,
            fulfillments=choices,
            ship_to=ADDRESS if kind == "SHIP" and flaw != "address" else None,
            customer_id=self.customer("bob") if flaw == "customer" else "",
            currency_code="" if cart and flaw != "currency" else currency,
            expected_total=money(minor + (flaw == "expected"), used) if used != "XXQ" else None,
            tenders=self.tenders(minor + (flaw == "tenders"), used, is_split=flaw == "split"),
        )
        return placed["order"]["order_id"] if placed else multiple()

    @rule(target=orders, n=servers, reservation=reservations, kind=kinds, currency=currencies, flaw=flaws)
    def order(self, n: int, reservation: str, kind: str, currency: str, flaw: str) -> Any:
        return self.place_order(n, reservation, "", kind, currency, flaw)

    @rule(target=orders, n=servers, place=places, other=places, what=quantities_of, kind=kinds, channel=channels)
    def buy(self, n: int, place: str, other: str, what: dict[str, int], kind: str, channel: str) -> Any:
        """Reserve and order, from one location or two."""
        baskets = self.baskets({place: what} | ({other: {"milk": 1}} if other in ("south", "depot") else {}))
        held = self.call(n, "Reserve", channel=channel_of(channel), baskets=baskets)
        if held is None:
            return multiple()
        return self.place_order(n, held["reservation"]["reservation_id"], "", kind, "USD", "none")

    @rule(
        target=orders,
        n=servers,
        cart=carts,
        place=places,
        kind=kinds,
        flaw=st.sampled_from(("none", "none", "changed")),
    )
    def check_out(self, n: int, cart: str, place: str, kind: str, flaw: str) -> Any:
        """Reserve what a cart holds, and order it."""
        inside = self.model.carts[cart]
        wanted = {sku: min(quantity, 6) for sku, quantity in inside.lines.items()} or {self.sku("milk"): 1}
        if flaw == "changed":
            wanted[min(wanted)] += 1
        basket = {"location_id": self.place(place), "lines": [{"sku": s, "quantity": q} for s, q in wanted.items()]}
        fields = {"channel": channel_of(inside.channel), "baskets": [basket], "customer_id": inside.customer_id}
        held = self.call(n, "Reserve", **fields)
        if held is None:
            return multiple()
        return self.place_order(n, held["reservation"]["reservation_id"], cart, kind, "USD", flaw)

    @rule(
        target=orders,
        n=servers,
        place=places,
        what=quantities_of,
        how=st.sampled_from((*("sku",) * 4, "barcode", "charged", "twice", "unpaid", "foreign")),
        currency=currencies,
    )
    def sell(self, n: int, place: str, what: dict[str, int], how: str, currency: str) -> Any:
        """Goods in the hand, as scanned."""
        wanted = {self.sku(sku): quantity for sku, quantity in what.items()}
        minor, scanned = self.cost(wanted, currency), []
        for sku, quantity in wanted.items():
            known = self.model.products.get(sku)
            gtins = known.gtins if known else []
            named = {"barcode": gtins[0] if gtins else "40063815"} if how == "barcode" else {"sku": sku}
            scanned.append(pb.SaleLine(**named, quantity=quantity))
        if how in ("charged", "foreign") and currency != "XXQ":
            for line in scanned:
                line.total.CopyFrom(money(70, currency if how == "charged" else "JPY"))
            minor = 70 * len(scanned)
        elif how == "twice":
            scanned, minor = scanned * 2, minor * 2
        tenders = self.tenders(minor - (how == "unpaid"), currency)
        fields = {"location_id": self.place(place), "lines": scanned, "currency_code": currency, "tenders": tenders}
        sold = self.call(n, "Sell", **fields)
        return sold["order"]["order_id"] if sold else multiple()

    # -------------------------------------------------------------------------------------------------------- the work
    def work_of(self, order: str, part: int) -> str:
        """One of an order's fulfillment orders."""
        works = self.model.orders[order].works
        return works[part % len(works)]

    def step(self, n: int, work: str, step: str) -> None:
        """A step, with the right code."""
        fields: dict[str, Any] = {}
        if step == "SHIP":
            fields = {"carrier": "UPS", "tracking_reference": "1Z"}
            for parcel in self.model.works[work].parcels[:1]:
                fields["shipment_id"] = parcel.get("shipment_id", "")
        elif step == "HAND_OVER":
            fields = {"pickup_code": self.model.works[work].code or "NONE"}
        self.call(n, RPCS[step], fulfillment_order_id=work, **fields)

    @rule(n=servers, order=orders, part=parts, steps=st.integers(1, 4))
    def work_on(self, n: int, order: str, part: int, steps: int) -> None:
        """The next steps of a location's work, as far as they go."""
        work = self.work_of(order, part)
        for _ in range(steps):
            known = self.model.works[work]
            if known.state not in WAYS[known.kind][:-1] or known.failures >= 5:
                return
            self.step(n, work, STEP_TO[WAYS[known.kind][WAYS[known.kind].index(known.state) + 1]])

    @rule(n=servers, order=orders, part=parts, step=st.sampled_from(sorted(RPCS)))
    def take_step(self, n: int, order: str, part: int, step: str) -> None:
        """Any step, possible now or not."""
        self.step(n, self.work_of(order, part), step)

    @rule(
        n=servers, order=orders, part=parts, codes=st.lists(st.sampled_from(("WRONG", "FALSE")), min_size=1, max_size=5)
    )
    def guess_code(self, n: int, order: str, part: int, codes: list[str]) -> None:
        """Somebody does not know the code."""
        for code in codes:
            self.call(n, "HandOverFulfillmentOrder", fulfillment_order_id=self.work_of(order, part), pickup_code=code)

    @rule(
        n=servers,
        order=orders,
        part=parts,
        is_picked=st.sampled_from((True, True, False)),
        how=st.sampled_from(("one", "one", "two", "more than there is")),
        is_sent=st.booleans(),
    )
    def pack(self, n: int, order: str, part: int, is_picked: bool, how: str, is_sent: bool) -> None:
        """Into a parcel, or some units into one each; then it leaves, as far as that is clear."""
        work = self.work_of(order, part)
        known = self.model.works[work]
        if is_picked and known.kind == "SHIP" and known.state in WAYS["SHIP"][:2]:
            self.work_on(n, order, part, 2 - WAYS["SHIP"].index(known.state))
        lines = [
            {"line_number": number, "quantity": (quantity - cancelled or 1) + (how == "more than there is")}
            for number, (quantity, cancelled) in known.lines.items()
        ]
        units = [{"lines": [{"line_number": number, "quantity": 1}]} for number in known.lines for _ in range(2)]
        parcels = units if how == "two" else [{"lines": lines}]
        self.call(n, "PackFulfillmentOrder", fulfillment_order_id=work, parcels=parcels)
        if is_sent:
            self.step(n, work, "SHIP")

    @rule(
        n=servers,
        order=orders,
        part=parts,
        is_ready=st.booleans(),
        days=st.lists(st.integers(1, 20), min_size=1, max_size=2),
    )
    def hold_longer(self, n: int, order: str, part: int, is_ready: bool, days: list[int]) -> None:
        """The customer comes later; or sooner, which changes nothing."""
        work = self.work_of(order, part)
        if is_ready and self.model.works[work].state in WAYS["PICKUP"][:3]:
            self.work_on(n, order, part, 3 - WAYS["PICKUP"].index(self.model.works[work].state))
        for later in days:
            until = Timestamp(seconds=int(time.time()) + later * 24 * 3600)
            self.call(n, "ExtendPickupHold", fulfillment_order_id=work, hold_end_time=until)

    @rule(n=servers, order=orders, part=parts, do=st.sampled_from(("UnpickFulfillmentOrder", "MarkArrived")))
    def wait(self, n: int, order: str, part: int, do: str) -> None:
        """The goods go back for a while, or their customer is outside."""
        fields = {"spot": "7", "note": "a van"} if do == "MarkArrived" else {}
        self.call(n, do, fulfillment_order_id=self.work_of(order, part), **fields)

    @rule(
        n=servers,
        order=orders,
        part=parts,
        is_ready=st.sampled_from((True, True, False)),
        put=st.sampled_from(((), (1, 0), (0, 1), (0, 0), (7, 0), None)),
    )
    def do_not_come(self, n: int, order: str, part: int, is_ready: bool, put: tuple[int, ...] | None) -> None:
        """Nobody fetches it; then it is put away: all, one unit on the shelf or damaged, none, too many, or not yet."""
        work = self.work_of(order, part)
        if is_ready and self.model.works[work].state in WAYS["PICKUP"][:3]:
            self.work_on(n, order, part, 3 - WAYS["PICKUP"].index(self.model.works[work].state))
        self.call(n, "MarkNoShow", fulfillment_order_id=work)
        if put is not None:
            number = min(self.model.works[work].lines)
            lines = (
                [pb.PutAwayLine(line_number=number, available_quantity=put[0], damaged_quantity=put[1])] if put else []
            )
            self.call(n, "PutAwayFulfillmentOrder", fulfillment_order_id=work, lines=lines)

    @rule(n=servers, order=orders, part=parts)
    def reset_code(self, n: int, order: str, part: int) -> None:
        self.call(n, "ResetPickupCode", fulfillment_order_id=self.work_of(order, part))

    @rule(
        n=servers,
        order=orders,
        part=parts,
        units=st.dictionaries(
            st.tuples(line_numbers, st.sampled_from(("NOT_FOUND", "NOT_FOUND", "DAMAGED", "CLOSED"))),
            st.sampled_from((0, 1, 1, 2, 7)),
            min_size=1,
            max_size=2,
        ),
    )
    def reject(self, n: int, order: str, part: int, units: dict[tuple[int, str], int]) -> None:
        """The location does not bring it, or some of it; 0: all that is left of a line."""
        lines = [
            {"line_number": number, "quantity": quantity, "reason": pb.RejectReason.Value(f"REJECT_REASON_{reason}")}
            for (number, reason), quantity in units.items()
        ]
        self.call(n, "RejectFulfillmentOrder", fulfillment_order_id=self.work_of(order, part), lines=lines)

    @rule(
        n=servers,
        order=orders,
        part=parts,
        number=line_numbers,
        quantity=st.sampled_from((0, 1, 1, 2, 7)),
        sku=skus,
        other=st.integers(1, 3),
        reason=st.sampled_from(("UNSPECIFIED", "NOT_FOUND", "DAMAGED", "CLOSED")),
        is_stocked=st.booleans(),
    )
    def substitute(
        self,
        n: int,
        order: str,
        part: int,
        number: int,
        quantity: int,
        sku: str,
        other: int,
        reason: str,
        is_stocked: bool,
    ) -> None:
        """The customer agrees to another item; of some somebody has just brought enough."""
        work = self.work_of(order, part)
        if is_stocked:
            lines = self.lines({sku: other})
            self.call(n, "ReceiveStock", location_id=self.model.works[work].place, lines=lines)
        self.call(
            n,
            "SubstituteLine",
            fulfillment_order_id=work,
            line_number=number,
            quantity=quantity,
            sku=self.sku(sku),
            substitute_quantity=other,
            consent=pb.CONSENT_PHONE,
            reason=pb.RejectReason.Value(f"REJECT_REASON_{reason}"),
        )

    @rule(
        n=servers,
        order=orders,
        part=parts,
        is_sent=st.sampled_from((True, True, False)),
        place=st.sampled_from(("", "", "south", "nowhere")),
        became=st.sampled_from(("", "", "AVAILABLE", "DAMAGED", "less")),
    )
    def bring_back(self, n: int, order: str, part: int, is_sent: bool, place: str, became: str) -> None:
        """The carrier could not deliver it; or brings only some of it back, which is refused."""
        work = self.work_of(order, part)
        known = self.model.works[work]
        if is_sent and known.kind == "SHIP" and known.state in WAYS["SHIP"][:3]:
            self.work_on(n, order, part, 3 - WAYS["SHIP"].index(known.state))
        condition = pb.Disposition.Value(f"DISPOSITION_{became if became not in ('', 'less') else 'AVAILABLE'}")
        lines = [
            {"line_number": number, "quantity": quantity - cancelled, "disposition": condition}
            for number, (quantity, cancelled) in known.lines.items()
            if became and quantity > cancelled
        ]
        fields = {"location_id": self.place(place) if place else "", "lines": lines[: len(lines) - (became == "less")]}
        self.call(n, "ReturnUndelivered", fulfillment_order_id=work, **fields)

    @rule(
        target=orders,
        n=servers,
        place=st.sampled_from(("north", "south")),
        what=quantities_of,
        how=st.sampled_from(("no show", "put away", "damaged", "not found", "closed", "undelivered", "turned back")),
        steps=st.integers(0, 2),
        less=st.integers(0, 1),
    )
    def buy_in_vain(self, n: int, place: str, what: dict[str, int], how: str, steps: int, less: int) -> Any:
        """An order that goes wrong: nobody comes, the location does not bring it, the carrier brings it back."""
        is_sent = how in ("undelivered", "turned back")
        order = self.buy(n, place, place, what, "SHIP" if is_sent else "PICKUP", "WEB")
        if not isinstance(order, str):
            return order
        number, quantity = 1, self.model.orders[order].lines[0].quantity
        if how in ("no show", "put away"):
            self.do_not_come(n, order, 0, True, () if how == "put away" else (less, 0))
        elif is_sent:
            self.bring_back(n, order, 0, True, "" if how == "undelivered" else "south", "" if less else "DAMAGED")
        else:
            if steps:
                self.work_on(n, order, 0, steps)
            reason = how.upper().replace(" ", "_")
            self.reject(n, order, 0, {(number, reason): max(1, quantity - less)})
        return order

    # ------------------------------------------------------------------------------------------------- broken promises
    @rule(n=servers, place=places, which=st.integers(0, 2), decision=st.sampled_from(("WAIT", "WAIT", "RESOURCE")))
    def decide_shortfall(self, n: int, place: str, which: int, decision: str) -> None:
        """What becomes of units that are not there; of none that onhand knows, if none are."""
        short = [s for s in self.model.shortfalls if s.left and s.place == self.place(place)]
        shortfall_id = MISSING
        if short:
            request = pb.ListShortfallsRequest(location_id=self.place(place))
            listed = self.calls.ask(n, "ListShortfalls", request).shortfalls  # type: ignore[union-attr]
            which %= len(short)
            shortfall_id = short[which].shortfall_id = listed[which].shortfall_id
        chosen = pb.ShortfallDecision.Value(f"SHORTFALL_DECISION_{decision}")
        named = self.place(place) if decision == "RESOURCE" else ""
        self.call(n, "DecideShortfall", shortfall_id=shortfall_id, decision=chosen, location_id=named)

    @rule(n=servers, place=places, sku=skus, sold=quantities)
    def sell_what_is_promised(self, n: int, place: str, sku: str, sold: int) -> None:
        """More than is free."""
        free = self.model.shelves[self.place(place), self.sku(sku)].held["AVAILABLE"]
        if free <= 9:
            self.sell(n, place, {sku: free + sold}, "charged", "USD")

    # ----------------------------------------------------------------------------------------------------- giving back
    @rule(n=servers, order=orders, units=st.dictionaries(line_numbers, quantities, min_size=1, max_size=2))
    def cancel(self, n: int, order: str, units: dict[int, int]) -> None:
        cancelled = [{"line_number": number, "quantity": quantity} for number, quantity in units.items()]
        self.call(n, "CancelOrderLines", order_id=order, lines=cancelled)

    @rule(
        n=servers,
        order=orders,
        place=places,
        channel=channels,
        units=st.dictionaries(
            st.tuples(line_numbers, st.sampled_from(("AVAILABLE", "DAMAGED", "QUARANTINE"))),
            st.sampled_from((1, 1, 1, 2, 3, 6)),
            min_size=1,
            max_size=2,
        ),
    )
    def take_back(self, n: int, order: str, place: str, channel: str, units: dict[tuple[int, str], int]) -> None:
        """Goods come back, in this condition or that."""
        back = [
            {"line_number": number, "quantity": quantity, "disposition": pb.Disposition.Value(f"DISPOSITION_{became}")}
            for (number, became), quantity in units.items()
        ]
        fields = {"location_id": self.place(place), "channel": channel_of(channel), "lines": back}
        self.call(n, "CreateReturn", order_id=order, **fields)

    @rule(n=servers, order=orders, back=st.booleans(), part=parts)
    def bring_to_the_end(self, n: int, order: str, back: bool, part: int) -> None:
        """Every step that is left, and everything back or cancelled."""
        for work in self.model.orders[order].works:
            if back:
                self.work_on(n, order, self.model.orders[order].works.index(work), 4)
        for number, line in enumerate(self.model.orders[order].lines, 1):
            if left := line.fulfilled - line.returned:
                self.take_back(n, order, "south", "POS", {(number, "AVAILABLE"): left})
            elif all(self.model.works[w].state in AT_LOCATION for w in self.model.orders[order].works):
                self.cancel(n, order, {number: line.quantity - line.cancelled or 1})
