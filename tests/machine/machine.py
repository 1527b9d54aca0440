"""The state machine: what clients, stores and bad luck may do next. Draws are few and small, so that a failure shrinks well."""

from __future__ import annotations

import time
from typing import Any, TypeVar

import hypothesis.strategies as st
from google.protobuf.message import Message
from hypothesis.stateful import multiple, precondition, rule

from api import Refusal
from machine.base import (
    STORES,
    Base,
    baskets,
    bucket_of,
    buckets,
    channel_of,
    channels,
    customers,
    places,
    quantities,
    quantities_of,
    reservations,
    servers,
    skus,
    transfers,
)
from machine.breaking import broken
from machine.calls import Acknowledged
from machine.shop_rules import Carts, Catalog, Orders, etags
from onhand.v1 import inventory_pb2 as inventory

EXPIRE = """
UPDATE claims SET deadline = clock_timestamp() - interval '1 second' WHERE reservation_id = $1::text::uuid AND state = 'active'
RETURNING location_id, claim_id, (extract(epoch FROM deadline) * 1000000)::int8 AS deadline"""
RAISE = "UPDATE location_epochs SET epoch = epoch + 1 WHERE location_id = $1"

Thing = TypeVar("Thing")


Thing = TypeVar("Thing")


class Stock(Base):
    """The work of a store."""

    @rule(n=servers, place=places, what=quantities_of)
    def receive(self, n: int, place: str, what: dict[str, int]) -> None:
        self.call(n, "ReceiveStock", location_id=self.place(place), lines=self.lines(what), reference_document="po/1")

    @rule(n=servers, place=places, sku=skus, bucket=buckets, quantity=st.integers(-6, 6).filter(bool))
    def adjust(self, n: int, place: str, sku: str, bucket: str, quantity: int) -> None:
        self.call(
            n,
            "AdjustStock",
            location_id=self.place(place),
            sku=self.sku(sku),
            bucket=bucket_of(bucket),
            quantity=quantity,
            reason_code="CORRECTION",
        )

    @rule(n=servers, place=places, sku=skus, quantity=quantities, origin=buckets, destination=buckets)
    def move(self, n: int, place: str, sku: str, quantity: int, origin: str, destination: str) -> None:
        self.call(
            n,
            "MoveStock",
            location_id=self.place(place),
            sku=self.sku(sku),
            quantity=quantity,
            from_bucket=bucket_of(origin),
            to_bucket=bucket_of(destination),
            reason_code="INSPECTED",
        )

    @rule(n=servers, place=places, what=quantities_of, is_there=st.booleans())
    def return_to_supplier(self, n: int, place: str, what: dict[str, int], is_there: bool) -> None:
        """Goods that wait for it; or that do not."""
        if is_there:
            for sku, quantity in what.items():
                self.adjust(n, place, sku, "QUARANTINE", quantity)
        self.call(n, "ReturnToSupplier", location_id=self.place(place), lines=self.lines(what))

    @rule(n=servers, place=places, counted=st.dictionaries(skus, st.integers(0, 12), min_size=1, max_size=2))
    def count(self, n: int, place: str, counted: dict[str, int]) -> None:
        sheet = [{"sku": self.sku(sku), "counted_quantity": quantity} for sku, quantity in counted.items()]
        self.call(n, "CountStock", location_id=self.place(place), lines=sheet, reference_document="sheet/1")

    @rule(target=transfers, n=servers, origin=places, destination=places, what=quantities_of)
    def dispatch(self, n: int, origin: str, destination: str, what: dict[str, int]) -> Any:
        fields = {"from_location_id": self.place(origin), "to_location_id": self.place(destination)}
        sent = self.call(n, "DispatchTransfer", **fields, lines=self.lines(what))
        return sent["transfer"]["transfer_id"] if sent else multiple()

    @rule(
        target=transfers,
        n=servers,
        ends=st.sampled_from((("north", "south"), ("south", "depot"))),
        sku=skus,
        quantity=quantities,
        received=st.lists(st.integers(0, 3), max_size=3),
    )
    def transfer(self, n: int, ends: tuple[str, str], sku: str, quantity: int, received: list[int]) -> Any:
        """Units on their way, which arrive bit by bit; 0: all the rest."""
        fields = {"from_location_id": self.place(ends[0]), "to_location_id": self.place(ends[1])}
        sent = self.call(n, "DispatchTransfer", **fields, lines=self.lines({sku: quantity}))
        if not sent:
            return multiple()
        for units in received:
            self.arrive(n, sent["transfer"]["transfer_id"], {sku: units} if units else {})
        return sent["transfer"]["transfer_id"]

    @rule(n=servers, transfer=transfers, what=st.one_of(st.just({}), quantities_of))
    def arrive(self, n: int, transfer: str, what: dict[str, int]) -> None:
        self.call(n, "ReceiveTransfer", transfer_id=transfer, lines=self.lines(what))

    @rule(target=transfers, n=servers, origin=places, destination=places, what=quantities_of, at_once=st.booleans())
    def ask_for(self, n: int, origin: str, destination: str, what: dict[str, int], at_once: bool) -> Any:
        """A location asks another one, which sends all of it at once, or nothing yet."""
        fields = {"from_location_id": self.place(origin), "to_location_id": self.place(destination)}
        asked = self.call(n, "RequestTransfer", **fields, lines=self.lines(what))
        if not asked:
            return multiple()
        if at_once:
            self.call(n, "DispatchRequestedTransfer", transfer_id=asked["transfer"]["transfer_id"])
        return asked["transfer"]["transfer_id"]

    @rule(
        target=transfers,
        n=servers,
        ends=st.sampled_from((("north", "south"), ("south", "depot"))),
        quantity=st.integers(1, 3),
        what=st.sampled_from(("nothing", "lost", "back")),
        later=st.integers(0, 2),
    )
    def ask_in_vain(self, n: int, ends: tuple[str, str], quantity: int, what: str, later: int) -> Any:
        """Units that were asked for do not arrive."""
        asked = self.ask_for(n, ends[0], ends[1], {"milk": quantity}, what != "nothing")
        if isinstance(asked, str):
            self.give_up_transfer(n, asked, what, later)
        return asked

    @rule(n=servers, transfer=transfers, what=st.one_of(st.just({}), quantities_of))
    def send_what_was_asked_for(self, n: int, transfer: str, what: dict[str, int]) -> None:
        self.call(n, "DispatchRequestedTransfer", transfer_id=transfer, lines=self.lines(what))

    @rule(n=servers, transfer=transfers, what=st.sampled_from(("nothing", "lost", "back")), later=st.integers(0, 2))
    def give_up_transfer(self, n: int, transfer: str, what: str, later: int) -> None:
        """It is not sent, or does not arrive; some of what was lost may turn up all the same."""
        if what == "nothing":
            self.call(n, "CancelTransfer", transfer_id=transfer, reason_code="NOT_NEEDED")
            return
        losses = {"lost": inventory.TRANSFER_LOSS_LOST, "back": inventory.TRANSFER_LOSS_BACK_AT_SENDER}
        self.call(n, "CloseTransfer", transfer_id=transfer, loss=losses[what], reason_code="NOT_ON_TRUCK")
        if later:
            self.arrive(n, transfer, {"milk": later})

    @rule(n=servers, place=places, sku=skus, kept=st.integers(0, 4))
    def keep_safety_stock(self, n: int, place: str, sku: str, kept: int) -> None:
        self.call(n, "SetStockPolicy", location_id=self.place(place), sku=self.sku(sku), safety_stock=kept)

    @rule(n=servers, channel=channels, sku=skus, kept=st.integers(0, 4))
    def keep_from_channel(self, n: int, channel: str, sku: str, kept: int) -> None:
        self.call(n, "SetChannelThreshold", channel=channel_of(channel), sku=self.sku(sku), quantity=kept)


class Locations(Base):
    """Stores open, change, close, and are grouped."""

    @rule(
        n=servers,
        do=st.sampled_from(("open", "change", "close", "group")),
        place=places,
        offers=st.booleans(),
        etag=etags,
    )
    def manage_location(self, n: int, do: str, place: str, offers: bool, etag: str) -> None:
        name = self.place(place)
        if do == "open":
            location = self.location(place if place != "nowhere" else "annex", is_pickup=offers)
            self.call(n, "CreateLocation", location=location)
        elif do == "change":
            current = self.model.places[name].etag if name in self.model.places else "v1"
            given = {"none": "", "right": current, "old": "v0"}[etag]
            location = {"location_id": name, "offers_pickup": offers, "etag": given}
            self.call(n, "UpdateLocation", location=location, update_mask={"paths": ["offers_pickup"]})
        elif do == "close":
            self.call(n, "DeleteLocation", location_id=name)
        else:
            members = sorted({name, self.place("north")} if offers else {name})
            group = self.calls.name("group")
            self.call(n, "SetLocationGroup", location_group_id=group, name="ours", location_ids=members)


class Reservations(Orders):
    """Baskets that are held."""

    @rule(target=reservations, n=servers, wanted=baskets, channel=channels, customer=customers)
    def reserve(self, n: int, wanted: dict[str, dict[str, int]], channel: str, customer: str) -> Any:
        fields = {"channel": channel_of(channel), "baskets": self.baskets(wanted)}
        fields["customer_id"] = self.customer(customer)
        held = self.call(n, "Reserve", **fields)
        return held["reservation"]["reservation_id"] if held else multiple()

    @rule(target=reservations, n=servers, place=places, sku=skus, quantity=quantities, channel=channels)
    def reserve_one(self, n: int, place: str, sku: str, quantity: int, channel: str) -> Any:
        """The basket of most."""
        return self.reserve(n, {place: {sku: quantity}}, channel, "")

    @rule(n=servers, reservation=reservations, wanted=baskets)
    def change(self, n: int, reservation: str, wanted: dict[str, dict[str, int]]) -> None:
        self.call(n, "ChangeReservation", reservation_id=reservation, baskets=self.baskets(wanted))

    @rule(n=servers, reservation=reservations, ttl=st.sampled_from((0, 60, 7200)))
    def extend(self, n: int, reservation: str, ttl: int) -> None:
        before, began = self.model.reservations[reservation].expire_time, time.time()
        extended = self.call(n, "ExtendReservation", reservation_id=reservation, ttl_seconds=ttl)
        if extended:
            proposed = extended["reservation"]["expire_time"] / 1e6 - (ttl or 900)
            is_later = began - 1 <= proposed <= time.time() + 1
            assert is_later or extended["reservation"]["expire_time"] == before, (proposed, began, before)

    @rule(n=servers, reservation=reservations)
    def release(self, n: int, reservation: str) -> None:
        self.call(n, "ReleaseReservation", reservation_id=reservation)

    @rule(
        n=servers, reservation=reservations, then=st.sampled_from(("nothing", "extend", "release", "change", "order"))
    )
    def run_out(self, n: int, reservation: str, then: str) -> None:
        """The ledger's clock passes the deadline: from that moment it is nobody's, swept or not."""
        self.calls.record.append(f"the deadline of {reservation} passes")
        for row in self.world.fetch(EXPIRE, reservation):
            self.world.redis.zadd(f"oh:{{{row['location_id']}}}:due", {str(row["claim_id"]): 1}, xx=True)
            self.model.pass_deadline(reservation, row["deadline"])
            self.is_settled = False
        if then == "extend":
            self.call(n, "ExtendReservation", reservation_id=reservation)
        elif then == "release":
            self.release(n, reservation)
        elif then == "change":
            self.change(n, reservation, {"north": {"milk": 1}})
        elif then == "order":
            self.place_order(n, reservation, "", "PICKUP", "USD", "none")
        if not self.is_settled:  # a decision meanwhile may still be refused for units that the sweeper is giving back
            self.all_say_what_the_model_says()

    @rule(n=servers, place=st.sampled_from(("north", "south")), sku=skus, quantity=quantities)
    def order_too_late(self, n: int, place: str, sku: str, quantity: int) -> None:
        """Reserved, and forgotten for a while."""
        held = self.call(n, "Reserve", channel=channel_of("WEB"), baskets=self.baskets({place: {sku: quantity}}))
        if held:
            self.run_out(n, held["reservation"]["reservation_id"], "order")

    @rule(n=servers, reservation=reservations, quantity=st.integers(1, 9))
    def change_quantity(self, n: int, reservation: str, quantity: int) -> None:
        """More or less of the same: what is held counts as free."""
        places = self.model.reservations[reservation].baskets
        baskets = [
            {"location_id": place, "lines": [{"sku": sku, "quantity": quantity} for sku in held]}
            for place, held in places.items()
        ]
        self.call(n, "ChangeReservation", reservation_id=reservation, baskets=baskets)


class Repeats(Base):
    """Calls that come again, come wrong, or come with an id that was used."""

    def recent(self, things: list[Thing], which: int) -> Thing:
        """0: the last one."""
        return things[-1 - which % len(things)]

    @precondition(lambda self: self.calls.acknowledged)
    @rule(n=servers, which=st.integers(0, 30))
    def repeat(self, n: int, which: int) -> None:
        """The first answer, whatever happened since."""
        first = self.recent(self.calls.acknowledged, which)
        again = self.calls.ask(n, first.rpc, first.request)
        if self.calls.is_cut[n] and isinstance(again, Refusal) and again.reason == "GATE_UNAVAILABLE":
            return  # it was not looked up: the caller is to repeat it
        assert again == first.answer, f"another answer than the first: {first.answer}"

    @precondition(lambda self: self.calls.refused)
    @rule(n=servers, which=st.integers(0, 10))
    def repeat_what_was_refused(self, n: int, which: int) -> None:
        """A refusal had no effect: its repeat is judged anew."""
        self.calls.judge(n, *self.recent(self.calls.refused, which))

    @precondition(lambda self: self.calls.acknowledged)
    @rule(n=servers, which=st.integers(0, 30), other=st.integers(0, 30))
    def reuse(self, n: int, which: int, other: int) -> None:
        """The id of one call with the body of another."""
        first = self.recent(self.calls.acknowledged, which)
        second: Acknowledged = self.recent(self.calls.acknowledged, other)
        request: Message = type(second.request)()
        request.CopyFrom(second.request)
        request.request_id = first.request.request_id  # type: ignore[attr-defined]
        if request == first.request:
            return
        outcome = self.calls.ask(n, second.rpc, request)
        assert isinstance(outcome, Refusal), "answered under an id that was used"
        if self.calls.is_cut[n] and outcome.reason == "GATE_UNAVAILABLE":
            return
        assert outcome.reason == "REQUEST_ID_REUSED", outcome
        assert outcome.metadata == {
            "request_id": first.request.request_id,  # type: ignore[attr-defined]
            "method": type(first.request).__name__,
        }

    @precondition(lambda self: self.calls.acknowledged)
    @rule(n=servers, which=st.integers(0, 30), what=st.integers(0, 9))
    def ask_wrongly(self, n: int, which: int, what: int) -> None:
        """A field breaks its declared rule: refused before anything is looked at."""
        first = self.recent(self.calls.acknowledged, which)
        request, path = broken(first.request, what)
        outcome = self.calls.ask(n, first.rpc, request)
        assert isinstance(outcome, Refusal), f"{path} is accepted"
        assert (outcome.reason, list(outcome.fields)) == ("INVALID_REQUEST", [path]), outcome


class Faults(Stock, Orders):
    """What must change nothing that anybody sees."""

    @rule(
        what=st.sampled_from(("gate emptied", "functions flushed", "epoch raised", "cut", "mended", "killed")),
        n=servers,
    )
    def fault(self, what: str, n: int) -> None:
        self.calls.record.append(f"at {n}: {what}")
        if what == "gate emptied":
            self.world.redis.flushall()
        elif what == "functions flushed":
            self.world.redis.function_flush()
        elif what == "epoch raised":
            self.world.fetch(RAISE, self.place(STORES[n]))
        elif what == "killed":
            if not self.is_killed:  # once an example: a process takes a second to start
                self.is_killed = True
                self.world.kill(n)
                self.calls.is_cut[n] = False
        elif what == "cut":
            self.cut(n)
        else:
            self.mend(n)

    def cut(self, n: int) -> None:
        """A server does not reach the gate any more."""
        self.world.servers[n].wire.cut()
        self.calls.is_cut[n] = True

    def mend(self, n: int) -> None:
        """It does again."""
        self.world.servers[n].wire.mend()
        self.calls.is_cut[n] = False

    @rule(
        n=servers,
        do=st.sampled_from(("sell", "sell", "count", "receive")),
        place=st.sampled_from(("north", "south")),
        sku=skus,
        quantity=quantities,
    )
    def go_past_the_gate(self, n: int, do: str, place: str, sku: str, quantity: int) -> None:
        """Stores go on where the gate is out of reach; once it is back, it knows."""
        self.calls.record.append(f"{n} is cut off the gate")
        self.cut(n)
        if do == "sell":
            self.sell(n, place, {sku: quantity}, "sku", "USD")
        elif do == "count":
            self.count(n, place, {sku: quantity - 1})
        else:
            self.receive(n, place, {sku: quantity})
        self.mend(n)


class Machine(Locations, Reservations, Catalog, Carts, Repeats, Faults):
    """All of it."""
