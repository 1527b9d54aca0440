"""Calls, each judged by the model: what both say must agree, and every process must show it afterwards."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

from google.protobuf.message import Message
from google.protobuf.text_format import MessageToString

from api import Refusal
from machine.later_model import Model
from machine.model import CHANNELS, Refused
from machine.plain import differences, plain
from machine.shop_model import CURRENCIES
from machine.world import SERVERS, World, request_type
from onhand.v1 import types_pb2

SETTLE_SECONDS_MAX = 20.0
"""How long what is done behind an answer (here: expiry) may take to be seen. No test asserts how long it took."""

_examples = itertools.count(1)


def snake(rpc: str) -> str:
    """PlaceOrder -> place_order."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", rpc).lower()


def said(message: Message) -> str:
    """A message in one line."""
    return MessageToString(message, as_one_line=True)


@dataclass(frozen=True)
class Acknowledged:
    """A mutation that had its effect, and the answer that every repeat of it gets."""

    rpc: str
    request: Message
    answer: Message


UNSET = ("", 0, None, False, [], "UNSPECIFIED")
"""What a field has that a call does not use."""


class Calls:
    """A retailer of its own in the world, and the model of it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.model = Model()
        self.prefix = f"m{next(_examples)}"
        self.acknowledged: list[Acknowledged] = []
        self.refused: list[tuple[str, Message]] = []
        self.record: list[str] = []
        self.is_cut = [False] * SERVERS
        self._requests = itertools.count(1)

    def name(self, what: str) -> str:
        """An id that no other example has."""
        return f"{self.prefix}-{what}"

    # ---------------------------------------------------------------------------------------------------------- asking
    def call(self, n: int, rpc: str, **fields: Any) -> dict[str, Any] | None:
        """Asks server n for something new. The answer, or None where the model foresaw the refusal."""
        return self.judge(n, rpc, self._request(rpc, fields))

    def call_at_once(self, n: int, calls: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """Asks server n for many things that do not touch each other."""
        asked = [(n, rpc, self._request(rpc, fields)) for rpc, fields in calls]
        for (_, rpc, request), outcome in zip(asked, self.world.ask_all(asked), strict=True):
            self._record(n, rpc, request, outcome)
            self._judge(n, rpc, request, outcome)

    def judge(self, n: int, rpc: str, request: Message) -> dict[str, Any] | None:
        """Asks server n, and the model."""
        return self._judge(n, rpc, request, self.ask(n, rpc, request))

    def ask(self, n: int, rpc: str, request: Message) -> Message | Refusal:
        """Asks server n, and keeps a record for a failure."""
        outcome = self.world.ask(n, rpc, request)
        self._record(n, rpc, request, outcome)
        return outcome

    def story(self) -> str:
        """The calls as they were made, and where the servers tell their side."""
        return "\n".join(["The calls:", *self.record, f"The servers' log: {self.world.log}"])

    def _request(self, rpc: str, fields: dict[str, Any]) -> Message:
        return request_type(rpc)(request_id=f"{self.prefix}-request-{next(self._requests)}", **fields)

    def _record(self, n: int, rpc: str, request: Message, outcome: Message | Refusal) -> None:
        answer = f"{outcome.reason} {outcome.message}" if isinstance(outcome, Refusal) else said(outcome)
        self.record.append(f"to {n}: {rpc} {{ {said(request)} }}\n    {answer}")

    def _judge(self, n: int, rpc: str, request: Message, outcome: Message | Refusal) -> dict[str, Any] | None:
        given = None if isinstance(outcome, Refusal) else plain(outcome)
        self.model.is_gate_reached = not self.is_cut[n]
        wanted = plain(request)
        request_id = wanted.pop("request_id")
        if rpc == "HandOverFulfillmentOrder":
            wanted["request_id"] = request_id
        judge = getattr(self.model, snake(rpc))
        unknown = wanted.keys() - signature(judge).parameters.keys()
        assert not [name for name in unknown if wanted[name] not in UNSET], f"the model of {rpc} knows no {unknown}"
        try:
            expected = judge(given, **{name: value for name, value in wanted.items() if name not in unknown})
        except Refused as due:
            self.expect_refusal(outcome, due)
            self.refused.append((rpc, request))
            return None
        assert not isinstance(outcome, Refusal), f"refused, the model allows it: {outcome}"
        assert not (wrong := differences(expected, given)), "\n".join(wrong)
        self.acknowledged.append(Acknowledged(rpc, request, outcome))
        return given

    @staticmethod
    def expect_refusal(outcome: Message | Refusal, due: Refused) -> None:
        """The refusal that the model foresaw, with all of its values."""
        assert isinstance(outcome, Refusal), f"answered, the model refuses it: {due}"
        assert outcome.reason == due.reason, f"{outcome}\nthe model: {due}"
        if due.reason == "INVALID_REQUEST":
            assert sorted(outcome.fields) == due.values["fields"], f"{outcome}\nthe model: {due}"
        elif "shorts" in due.values:
            shorts = due.values["shorts"]
            listed = {f"{place}/{sku}": f"{asked} requested, {room} available" for place, sku, asked, room in shorts}
            assert outcome.shorts == listed, f"{outcome}\nthe model: {due}"
            place, sku, asked, room = (str(value) for value in shorts[0])
            first = {"location_id": place, "sku": sku, "requested": asked, "available": room}
            assert outcome.metadata == first | {"short_lines": str(len(shorts))}, f"{outcome}\nthe model: {due}"
        elif due.reason == "GATE_UNAVAILABLE":
            assert outcome.retry_seconds is not None, outcome
        else:
            values = {key: str(value) for key, value in due.values.items()}
            assert outcome.metadata == values, f"{outcome}\nthe model: {due}"

    # --------------------------------------------------------------------------------------------------------- looking
    def compare(self) -> None:
        """Every position, every channel's ATP, every reservation, order and cart: as the model says, at every server."""
        self._look(self._views())

    def settle(self) -> None:
        """As `compare`, once what is done behind an answer is done."""
        until = time.monotonic() + SETTLE_SECONDS_MAX
        while True:
            try:
                return self.compare()
            except AssertionError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.01)

    def _look(self, views: list[tuple[int, str, dict[str, Any], Callable[[dict[str, Any]], Any], Any]]) -> None:
        requests = [(n, rpc, request_type(rpc)(**fields)) for n, rpc, fields, _, _ in views]
        answers = self.world.ask_all(requests)
        for (n, rpc, request), (_, _, _, part, expected), answer in zip(requests, views, answers, strict=True):
            assert not isinstance(answer, Refusal), f"at {n}: {rpc} {{ {said(request)} }}: {answer}"
            if wrong := differences(expected, part(plain(answer))):
                raise AssertionError(f"at {n}: {rpc} {{ {said(request)} }}:\n" + "\n".join(wrong))

    def _views(
        self, *, is_thorough: bool = False
    ) -> list[tuple[int, str, dict[str, Any], Callable[[dict[str, Any]], Any], Any]]:
        # What is looked at, and where, follows from the model alone: else leaving out a step would change the later looks,
        # and nothing would shrink.
        model, here, there = self.model, 0, 1
        places, skus = [p for p in model.places if not model.places[p].is_deleted], sorted(model.skus)
        kept_from = {channel for (channel, _), kept in model.thresholds.items() if kept}
        channels = [channel for channel in CHANNELS if is_thorough or channel in kept_from | {"WEB", "POS"}]
        views: list[Any] = []
        for n in range(SERVERS) if places and skus else ():
            for channel in channels:
                expected = [
                    {
                        "location_id": place,
                        "items": [
                            {"sku": sku, "available_to_promise": model.available_to_promise(place, sku, channel)}
                            for sku in skus
                        ],
                    }
                    for place in places
                ]
                fields = {
                    "channel": types_pb2.Channel.Value(f"CHANNEL_{channel}"),
                    "skus": skus,
                    "location_ids": places,
                }
                seen = {"locations": expected, "is_stale": False}
                views.append((n, "GetAvailability", fields, lambda a: a, seen))
        for place in places:
            for sku in skus:
                fields = {"location_id": place, "sku": sku}
                views.append((here, "GetStockPosition", fields, lambda a: a["position"], model.position(place, sku)))
        for key, things in (("reservation", model.reservations), ("order", model.orders), ("cart", model.carts)):
            for name in things:
                expected = getattr(model, key)(name)
                if key == "reservation":
                    expected["shortfalls"] = model.short_of_reservation(name)
                if key == "cart" and expected["state"] != "OPEN":
                    del expected["etag"]
                rpc = "Get" + key.capitalize()
                views.append((there, rpc, {f"{key}_id": name}, lambda a, key=key: a[key], expected))
        for name in model.transfers:
            views.append((here, "GetTransfer", {"transfer_id": name}, lambda a: a["transfer"], model.transfer(name)))
        for name, expected in model.returns.items():
            views.append((here, "GetReturn", {"return_id": name}, lambda a: a["returned"], expected))
        busy = {work.place for work in model.works.values()} | {place for place in places if model.count_tasks[place]}
        for place in places if is_thorough else sorted(busy & set(places)):
            views += self._work_views(there, place)
        if is_thorough and skus:
            views += self._catalog_views(skus)
        return views

    def _catalog_views(self, skus: list[str]) -> list[Any]:
        views: list[Any] = [
            (0, "GetProduct", {"sku": sku}, lambda a: a["product"], self.model.product(sku)) for sku in skus
        ]
        for currency in CURRENCIES:
            priced = [sku for sku in skus if (sku, currency) in self.model.prices]
            prices = [
                {"sku": sku, "amount": (amount, currency), "price_quantity": per}
                for sku in priced
                for amount, per in [self.model.prices[sku, currency]]
            ]
            expected = {"prices": prices, "missing_skus": [sku for sku in skus if sku not in priced]}
            views.append((1, "BatchGetPrices", {"skus": skus, "currency_code": currency}, lambda a: a, expected))
        return views

    def _work_views(self, n: int, place: str) -> list[Any]:
        """What a person at one location sees."""
        model = self.model
        tasks = sorted(model.count_tasks[place].values(), key=lambda task: task["sku"])
        to_do = ("REQUESTED", "ACCEPTED", "PICKED", "READY_FOR_PICKUP")
        oldest_first = sorted(model.reservations, key=lambda name: model.reservations[name].made)
        short_reservations = [s for name in oldest_first for s in model.short_of_reservation(name)]
        short_reservations = [s for s in short_reservations if s["location_id"] == place]
        short_reservations.sort(key=lambda s: s["sku"])
        orders = [
            {"order_id": name}
            for name, order in reversed(model.orders.items())
            if place in {model.works[i].place for i in order.works}
        ]
        short = [s.shown() for s in model.shortfalls if s.left and s.place == place]
        works = [model.work(i) for i, work in model.works.items() if work.place == place and work.state in to_do]
        return [
            (n, "GetLocation", {"location_id": place}, lambda a: a["location"], model.location(place)),
            (
                n,
                "ListCountTasks",
                {"location_id": place},
                lambda a: sorted(a["count_tasks"], key=lambda task: task["sku"]),
                tasks,
            ),
            (n, "ListShortfalls", {"location_id": place}, lambda a: a["shortfalls"], short),
            (n, "ListShortReservations", {"location_id": place}, lambda a: a["shortfalls"], short_reservations),
            (n, "ListOrders", {"location_id": place}, lambda a: a["orders"], orders),
            (n, "ListFulfillmentOrders", {"location_id": place}, lambda a: a["fulfillment_orders"], works),
        ]

    def compare_all(self) -> None:
        """As `compare`, and what each location shows, and every unit that ever moved there."""
        views = self._views(is_thorough=True)
        for place, movements in self.model.movements.items():
            if not self.model.places[place].is_deleted:
                newest_first = movements[::-1][:500]
                fields = {"location_id": place, "page_size": 500}
                views.append((0, "ListMovements", fields, lambda a: a["movements"], newest_first))
        self._look(views)
