"""Whatever is done in whatever order: after each step the gate, the ledger and a model of a few lines say the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from reservations.stand import BREAD, EAST, MILK, NORTH, SOUTH, Line, Server, Stand, reason, request_id

PLACES, SKUS = (NORTH, SOUTH), (MILK, BREAD)
places, skus, quantities = st.sampled_from(PLACES), st.sampled_from(SKUS), st.integers(1, 6)
baskets = st.dictionaries(places, st.dictionaries(skus, quantities, min_size=1), min_size=1)
servers = st.integers(0, 1)
RESET = """
TRUNCATE stock_levels, stock_movements, claims, requests, gate_deltas, count_tasks, shortages, transfers, transfer_lines,
         channel_thresholds, events CASCADE"""


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Hypothesis is not asynchronous: the machine's steps run in a loop of their own."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def open_stand(loop: asyncio.AbstractEventLoop, database_dsn: str, redis_url: str) -> Iterator[Stand]:
    """A stand in that loop, with two servers."""
    stand = Stand(database_dsn, redis_url)

    async def begin() -> None:
        await stand.open()
        await stand.execute("ALTER TABLE stock_movements DISABLE TRIGGER stock_movements_append_only")
        await stand.execute("ALTER TABLE shortfall_ends DISABLE TRIGGER shortfall_ends_append_only")
        for _ in range(2):
            await stand.server()

    loop.run_until_complete(begin())
    try:
        yield stand
    finally:
        loop.run_until_complete(stand.close())


def machine_of(stand: Stand, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> type[RuleBasedStateMachine]:
    """The machine, bound to a stand."""
    wires = [Line(server.app) for server in stand.servers]

    class Machine(RuleBasedStateMachine):
        """available, allocated: by position. held: baskets of active reservations by id."""

        reservations: Bundle[str] = Bundle("reservations")

        @initialize(stock=st.dictionaries(st.tuples(places, skus), st.integers(1, 12)))
        def open(self, stock: dict[tuple[str, str], int]) -> None:
            """An empty ledger, an empty gate, and some stock."""
            self.available = {(p, s): 0 for p in PLACES for s in SKUS}
            self.allocated = dict(self.available)
            self.floor = dict(self.available)
            self.threshold = dict.fromkeys(SKUS, 0)
            self.held: dict[str, dict[str, dict[str, int]]] = {}
            self.ended: dict[str, str] = {}
            run(self._reset())
            for (place, sku), quantity in stock.items():
                self.receive(0, place, sku, quantity)

        async def _reset(self) -> None:
            await stand.execute(RESET)
            await stand.execute("UPDATE location_delta_heads SET last_number = 0")
            await stand.execute("UPDATE policy_version SET version = version + 1")
            await stand.redis.flushall()

        def server(self, n: int) -> Server:
            """One of the two."""
            return stand.servers[n]

        def reserved(self, place: str, sku: str) -> int:
            """What active reservations hold of a position."""
            return sum(basket.get(place, {}).get(sku, 0) for basket in self.held.values())

        def atp(self, place: str, sku: str, *, online: bool) -> int:
            """Before it is floored at 0."""
            kept = self.floor[place, sku] + self.threshold[sku] if online else 0
            return self.available[place, sku] - self.reserved(place, sku) - kept

        def expect(self, allowed: bool, call: Coroutine[Any, Any, Any], why: str) -> Any:
            """The answer where the model allows it, else None after the refusal that is due."""
            if allowed:
                return run(call) or True
            assert run(reason(call)) == why
            return None

        # ----------------------------------------------------------------------------------------------- reservations
        @rule(target=reservations, n=servers, basket=baskets, channel=st.sampled_from(("WEB", "POS")))
        def reserve(self, n: int, basket: dict[str, dict[str, int]], channel: str) -> Any:
            fits = all(
                self.atp(place, sku, online=channel == "WEB") >= quantity
                for place, lines in basket.items()
                for sku, quantity in lines.items()
            )
            same = request_id()
            held = self.expect(fits, self.server(n).reserve(basket, same, channel), "INSUFFICIENT_STOCK")
            if held is None:
                return multiple()
            self.held[held.reservation_id] = basket
            assert run(self.server(1 - n).reserve(basket, same, channel)) == held
            return held.reservation_id

        @rule(n=servers, held=reservations, basket=baskets)
        def change(self, n: int, held: str, basket: dict[str, dict[str, int]]) -> None:
            if held not in self.held:
                self.expect(False, self.server(n).change(held, basket), "RESERVATION_NOT_ACTIVE")
                return
            online = run(self.server(n).get(held)).channel == 1
            old = self.held[held]
            fits = all(
                self.atp(place, sku, online=online) + old.get(place, {}).get(sku, 0) >= quantity
                for place, lines in basket.items()
                for sku, quantity in lines.items()
            )
            if self.expect(fits, self.server(n).change(held, basket), "INSUFFICIENT_STOCK"):
                self.held[held] = basket

        @rule(n=servers, held=reservations)
        def extend(self, n: int, held: str) -> None:
            self.expect(held in self.held, self.server(n).extend(held, 7200), "RESERVATION_NOT_ACTIVE")

        @rule(n=servers, held=reservations)
        def release(self, n: int, held: str) -> None:
            if self.expect(held in self.held, self.server(n).release(held), "RESERVATION_NOT_ACTIVE"):
                del self.held[held]

        @rule(n=servers, held=reservations)
        def expire(self, n: int, held: str) -> None:
            run(stand.pass_deadline(held))
            run(stand.sweep(self.server(n)))
            self.held.pop(held, None)

        @rule(n=servers, held=consumes(reservations))
        def confirm(self, n: int, held: str) -> None:
            basket = self.held.get(held)
            if basket is None:
                self.expect(False, self.server(n).confirm(held), "RESERVATION_NOT_ACTIVE")
                return
            # A sale may have taken what was promised: then the order cannot be placed, and the promise stays broken.
            whole = all(
                self.available[place, sku] >= quantity
                for place, lines in basket.items()
                for sku, quantity in lines.items()
            )
            if self.expect(whole, self.server(n).confirm(held), "BUCKET_SHORT"):
                del self.held[held]
                for place, lines in basket.items():
                    for sku, quantity in lines.items():
                        self.available[place, sku] -= quantity
                        self.allocated[place, sku] += quantity

        # ------------------------------------------------------------------------------------------------------ stock
        @rule(n=servers, place=places, sku=skus, quantity=quantities)
        def receive(self, n: int, place: str, sku: str, quantity: int) -> None:
            run(self.server(n).receive(place, {sku: quantity}))
            self.available[place, sku] += quantity

        @rule(n=servers, place=places, lines=st.dictionaries(skus, quantities, min_size=1), is_cut=st.booleans())
        def sell(self, n: int, place: str, lines: dict[str, int], is_cut: bool) -> None:
            """With a gate, or past it."""
            if is_cut:
                wires[n].cut()
            broken = run(self.server(n).sell(place, lines))
            wires[n].mend()
            for sku, quantity in lines.items():
                beyond = quantity - max(0, self.available[place, sku] - self.reserved(place, sku))
                assert broken.get((place, sku), 0) == max(0, min(quantity, beyond))
                self.available[place, sku] = max(0, self.available[place, sku] - quantity)

        @rule(n=servers, place=places, sku=skus, quantity=quantities)
        def transfer(self, n: int, place: str, sku: str, quantity: int) -> None:
            fits = self.atp(place, sku, online=False) >= quantity
            if self.expect(fits, self.server(n).transfer(place, EAST, {sku: quantity}), "INSUFFICIENT_STOCK"):
                self.available[place, sku] -= quantity

        @rule(n=servers, place=places, sku=skus, counted=st.integers(0, 15))
        def count(self, n: int, place: str, sku: str, counted: int) -> None:
            run(self.server(n).count(place, {sku: counted}))
            change = counted - self.available[place, sku] - self.allocated[place, sku]
            self.available[place, sku] += max(change, -self.available[place, sku])

        @rule(n=servers, place=places, sku=skus, quantity=quantities)
        def cancel(self, n: int, place: str, sku: str, quantity: int) -> None:
            quantity = min(quantity, self.allocated[place, sku])
            if quantity:
                run(self.server(n).cancel(place, {sku: quantity}))
                self.allocated[place, sku] -= quantity
                self.available[place, sku] += quantity

        # --------------------------------------------------------------------------------------------------- policies
        @rule(n=servers, place=places, sku=skus, quantity=st.integers(0, 4))
        def set_safety_stock(self, n: int, place: str, sku: str, quantity: int) -> None:
            run(self.server(n).set_safety_stock(place, sku, quantity))
            self.floor[place, sku] = quantity

        @rule(n=servers, sku=skus, quantity=st.integers(0, 4))
        def set_threshold(self, n: int, sku: str, quantity: int) -> None:
            run(self.server(n).set_threshold("WEB", sku, quantity))
            self.threshold[sku] = quantity

        # ----------------------------------------------------------------------------------------------------- faults
        @rule()
        def lose_the_gate(self) -> None:
            run(stand.redis.flushall())

        @rule(place=places)
        def raise_the_epoch(self, place: str) -> None:
            run(stand.raise_epoch(place))

        @rule(n=servers, basket=baskets)
        def take_without_an_answer(self, n: int, basket: dict[str, dict[str, int]]) -> None:
            """An orphan, which the sweeper ends."""
            wires[n].unanswered.add("take")
            assert run(reason(self.server(n).reserve(basket))) == "GATE_UNAVAILABLE"
            wires[n].mend()
            run(stand.pass_all_hints())
            run(stand.sweep(self.server(1 - n)))

        # -------------------------------------------------------------------------------------------------- what holds
        @invariant()
        def all_say_the_same(self) -> None:
            run(self._compare())

        async def _compare(self) -> None:
            await stand.assert_safe()
            for server in stand.servers:
                await server.quiet()
                for place in PLACES:
                    assert await server.app.reconciler.differences(place) in ([], None)
                    for channel, online in (("POS", False), ("WEB", True)):
                        found, is_stale = await server.app.availability.atp([place], SKUS, channel)
                        assert not is_stale
                        assert found[place] == [max(0, self.atp(place, sku, online=online)) for sku in SKUS]
            levels = {
                (p, s): (a, b)
                for p, s, a, b in await stand.fetch(
                    "SELECT location_id, sku, available, allocated FROM stock_levels WHERE location_id <> $1", EAST
                )
            }
            for position, available in self.available.items():
                assert levels.get(position, (0, 0)) == (available, self.allocated[position])

    return Machine


def test_gate_ledger_and_model_agree_after_every_step(open_stand: Stand, loop: asyncio.AbstractEventLoop) -> None:
    run_state_machine_as_test(
        machine_of(open_stand, loop.run_until_complete),
        settings=settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
