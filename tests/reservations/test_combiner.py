"""Calls combined into rounds: each caller gets what is its own, whatever happens to the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from onhand.domain.errors import Overloaded
from onhand.reservations import combiner
from onhand.reservations.combiner import Combiner


class Rounds:
    """Doubles numbers, a round at a time, when it is let."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.began, self.go = asyncio.Event(), asyncio.Event()
        self.go.set()
        self.at_once = self.most_at_once = 0

    async def run(self, items: Sequence[int]) -> Sequence[int | BaseException]:
        """A round. -13 is bad luck for its caller, -666 for the whole round, -7 for a round's order."""
        self.seen.append(list(items))
        self.began.set()
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.go.wait()
            if -666 in items:
                raise ConnectionError("all of it")
            if -7 in items:
                return []
            return [ValueError(item) if item == -13 else item * 2 for item in items]
        finally:
            self.at_once -= 1


@pytest.fixture
def rounds(lost_errors: None) -> Rounds:
    """A round function to be combined; no task may lose its error."""
    return Rounds()


async def test_calls_that_are_ready_at_once_share_a_round_and_each_gets_its_own_result(rounds: Rounds) -> None:
    doubles: Combiner[int, int] = Combiner("doubles", rounds.run, round_items_max=100)
    assert await asyncio.gather(*(doubles.submit(n) for n in range(10))) == [n * 2 for n in range(10)]
    assert rounds.seen == [list(range(10))]


async def test_calls_that_come_while_a_round_runs_are_gathered_for_the_next(rounds: Rounds) -> None:
    doubles: Combiner[int, int] = Combiner("doubles", rounds.run, round_items_max=100)
    rounds.go.clear()
    first = asyncio.create_task(doubles.submit(1))
    await rounds.began.wait()
    later = [asyncio.create_task(doubles.submit(n)) for n in (2, 3)]
    await asyncio.sleep(0)
    assert rounds.seen == [[1]]
    rounds.go.set()
    assert await asyncio.gather(first, *later) == [2, 4, 6]
    assert rounds.seen == [[1], [2, 3]]


async def test_a_round_takes_no_more_than_its_limit_and_nobody_waits_for_ever(rounds: Rounds) -> None:
    doubles: Combiner[int, int] = Combiner("doubles", rounds.run, round_items_max=4)
    assert await asyncio.gather(*(doubles.submit(n) for n in range(11))) == [n * 2 for n in range(11)]
    assert [len(seen) for seen in rounds.seen] == [4, 4, 3]


@pytest.mark.parametrize("at_once", [1, 2, 3])
async def test_no_more_rounds_run_at_once_than_allowed(rounds: Rounds, at_once: int) -> None:
    doubles: Combiner[int, int] = Combiner("doubles", rounds.run, round_items_max=2, rounds_at_once_max=at_once)
    rounds.go.clear()
    calls = [asyncio.create_task(doubles.submit(n)) for n in range(20)]
    for _ in range(20):
        await asyncio.sleep(0)
    assert rounds.at_once == at_once
    rounds.go.set()
    assert await asyncio.gather(*calls) == [n * 2 for n in range(20)]
    assert rounds.most_at_once == at_once


async def test_an_error_of_one_item_reaches_its_caller_alone(rounds: Rounds) -> None:
    doubles: Combiner[int, int] = Combiner("doubles", rounds.run, round_items_max=100)
    results = await asyncio.gather(*(doubles.submit(n) for n in (12, -13, 14)), return_exceptions=True)
    assert [type(r) for r in results] == [int, ValueError, int]
    assert results[0] == 24
    assert results[2] == 28


async def test_an_error_of_a_round_reaches_all_its_callers_and_none_of_the_next(rounds: Rounds) -> None:
    doubles: Combiner[int, int] = Combiner("doubles", rounds.run, round_items_max=2)
    results = await asyncio.gather(*(doubles.submit(n) for n in (1, -666, 3, 4)), return_exceptions=True)
    assert [type(r) for r in results] == [ConnectionError, ConnectionError, int, int]


async def test_a_round_that_loses_a_result_is_an_error_for_all_of_it(rounds: Rounds) -> None:
    doubles: Combiner[int, int] = Combiner("doubles", rounds.run, round_items_max=100)
    results = await asyncio.gather(*(doubles.submit(n) for n in (-7, 8)), return_exceptions=True)
    assert [type(r) for r in results] == [AssertionError, AssertionError]


async def test_a_caller_that_goes_away_leaves_its_item_and_disturbs_nobody(rounds: Rounds) -> None:
    doubles: Combiner[int, int] = Combiner("doubles", rounds.run, round_items_max=100)
    calls = [asyncio.create_task(doubles.submit(n)) for n in (1, -13, 3)]
    await asyncio.sleep(0)
    calls[0].cancel()
    calls[1].cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(r) for r in results[:2]] == [asyncio.CancelledError] * 2
    assert results[2] == 6
    assert rounds.seen == [[1, -13, 3]]


async def test_a_cancelled_round_ends_its_callers_and_the_next_one_runs(rounds: Rounds) -> None:
    doubles: Combiner[int, int] = Combiner("doubles", rounds.run, round_items_max=1)
    rounds.go.clear()
    calls = [asyncio.create_task(doubles.submit(n)) for n in (1, 2)]
    await rounds.began.wait()
    (task,) = doubles._running
    task.cancel()
    rounds.go.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(r) for r in results] == [ConnectionAbortedError, int]


async def test_more_waiting_calls_than_the_limit_are_refused_as_overload(
    rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(combiner, "WAITING_MAX", 3)
    doubles: Combiner[int, int] = Combiner("doubles", rounds.run, round_items_max=100)
    results = await asyncio.gather(*(doubles.submit(n) for n in range(5)), return_exceptions=True)
    assert results[:3] == [0, 2, 4]
    assert [type(r) for r in results[3:]] == [Overloaded, Overloaded]
    assert await doubles.submit(21) == 42


# ------------------------------------------------------------------------------------------------------- lingering
FOR_EVER = 3600.0


async def test_whoever_is_alone_waits_for_nobody(rounds: Rounds) -> None:
    doubles: Combiner[int, int] = Combiner("doubles", rounds.run, round_items_max=100, linger_seconds=FOR_EVER)
    for n in range(5):
        assert await asyncio.wait_for(doubles.submit(n), 10) == n * 2
    assert rounds.seen == [[n] for n in range(5)]


async def test_a_round_that_had_company_waits_for_more_but_not_beyond_what_it_can_hold(rounds: Rounds) -> None:
    doubles: Combiner[int, int] = Combiner("doubles", rounds.run, round_items_max=8, linger_seconds=FOR_EVER)
    # Nobody was there before: these go as they are.
    await asyncio.gather(*(doubles.submit(n) for n in range(8)))
    early = [asyncio.create_task(doubles.submit(n)) for n in range(3)]
    await asyncio.sleep(0.05)
    assert len(rounds.seen) == 1
    late = [asyncio.create_task(doubles.submit(n)) for n in range(3, 8)]
    assert await asyncio.wait_for(asyncio.gather(*early, *late), 10) == [n * 2 for n in range(8)]
    assert rounds.seen[1:] == [list(range(8))]


async def test_an_item_that_is_worked_on_alone_gets_what_becomes_of_it() -> None:
    async def alone(item: int) -> int:
        await asyncio.sleep(0)
        if item < 0:
            raise ValueError(item)
        return item * 3

    async def run(items: Sequence[int]) -> Sequence[int | asyncio.Future[int]]:
        return [asyncio.ensure_future(alone(item)) if item % 2 else item for item in items]

    mixed: Combiner[int, int] = Combiner("mixed", run, round_items_max=100)
    results = await asyncio.gather(*(mixed.submit(n) for n in (2, 3, -1)), return_exceptions=True)
    assert results[:2] == [2, 9]
    assert isinstance(results[2], ValueError)


async def test_a_caller_that_goes_away_from_an_item_worked_on_alone_harms_nobody() -> None:
    go = asyncio.Event()

    async def alone(item: int) -> int:
        await go.wait()
        return item

    async def run(items: Sequence[int]) -> Sequence[asyncio.Future[int]]:
        return [asyncio.ensure_future(alone(item)) for item in items]

    waiting: Combiner[int, int] = Combiner("waiting", run, round_items_max=100)
    gone, stays = waiting.enqueue(1, None), waiting.enqueue(2, None)
    await asyncio.sleep(0.01)
    gone.cancel()
    go.set()
    assert await asyncio.wait_for(stays, 10) == 2
