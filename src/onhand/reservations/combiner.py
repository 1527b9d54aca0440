"""Concurrent calls combined into rounds: while one round runs, the next gathers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from onhand import deadline
from onhand.domain.errors import Overloaded

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

WAITING_MAX = 5_000
"""Calls that may wait for a round; one more is refused with OVERLOADED. The edge lets far fewer of them in at once."""

HALF_MIN = 16
"""Items from which on half of those here are enough for a round: the other half is worked on meanwhile by somebody else."""
USUAL_MIN = 1.5
"""Items of a round, about, from which on rounds linger."""
BUSY_SECONDS_MAX = 0.008
"""How long it goes on lingering while the process is busy with other calls, for which there is no better use of that time."""
BUSY_SHARE = 0.75
"""Of the time, from which on a process is busy."""
LEARN = 0.2
"""How much a round says of what is usual."""


class Combiner(Generic[Item, Result]):
    """Gathers items and gives them to `run_round` together; each caller gets its own result or error.

    `run_round` returns a result for each item, in order, where an exception stands for that item's error, and a future for
    an item that is worked on alone; if it raises, every caller of the round gets that error. A caller that goes away leaves
    its item in the round, but an item whose round comes after its caller's deadline is refused without being sent, unless
    `keeps_late`.

    Rounds linger for further items only where several callers were there at once lately: whoever is alone waits for nobody.
    """

    def __init__(
        self,
        name: str,
        run_round: Callable[[Sequence[Item]], Awaitable[Sequence[Result | BaseException | asyncio.Future[Result]]]],
        *,
        round_items_max: int,
        rounds_at_once_max: int = 1,
        linger_seconds: float = 0.0,
        keeps_late: bool = False,
    ) -> None:
        self.name = name
        self._run_round = run_round
        self._round_items_max = round_items_max
        self._rounds_at_once_max = rounds_at_once_max
        self._linger_seconds = linger_seconds
        self._waker: asyncio.Future[None] | None = None
        self._usual = 1.0
        self._is_gathering = False
        self._keeps_late = keeps_late
        self._waiting: deque[tuple[Item, asyncio.Future[Result], float | None]] = deque()
        self._running_items = 0
        self._running: set[asyncio.Task[None]] = set()

    async def submit(self, item: Item) -> Result:
        """Takes part in the next round. Raises Overloaded, or what the round says of this item."""
        return await self.enqueue(item, deadline.until())

    def enqueue(self, item: Item, until: float | None) -> asyncio.Future[Result]:
        """The same without waiting; `until`: the caller's deadline (time.monotonic()), or None. Raises Overloaded."""
        if len(self._waiting) >= WAITING_MAX:
            raise Overloaded(self.name, WAITING_MAX)
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future, None if self._keeps_late else until))
        if self._waker is not None and len(self._waiting) >= self._enough():
            _wake(self._waker)
        self._start_rounds()
        return future

    def _start_rounds(self) -> None:
        # One round at a time gathers; those before it are at work.
        if not self._waiting or self._is_gathering or len(self._running) >= self._rounds_at_once_max:
            return
        self._is_gathering = True
        task = asyncio.create_task(self._round(), name=f"{self.name} round", context=deadline.shared_context())
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._start_rounds()

    def _enough(self) -> int:
        """Items that make a round worth it. All in one would be the cheapest, and let process, gate and ledger take turns."""
        return min(self._round_items_max, max(HALF_MIN, (len(self._waiting) + self._running_items + 1) // 2))

    def _batch(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        now, enough = time.monotonic(), self._enough()
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        while self._waiting and len(batch) < enough:
            item, future, until = self._waiting.popleft()
            if until is None or now < until:
                batch.append((item, future))
            elif not future.done():
                future.set_exception(Overloaded(self.name, WAITING_MAX))
        return batch

    async def _linger(self) -> None:
        """Waits for further items, if the rounds lately had company."""
        # One turn of the event loop, so that calls which are ready now share this round.
        await asyncio.sleep(0)
        if not self._linger_seconds or self._usual < USUAL_MIN:
            return
        began = time.monotonic()
        while len(self._waiting) < self._enough():
            moment, worked = time.monotonic(), time.process_time()
            await self._sleep(self._linger_seconds)
            now = time.monotonic()
            is_busy = time.process_time() - worked > BUSY_SHARE * (now - moment)
            if not is_busy or now - began > BUSY_SECONDS_MAX:
                return

    async def _sleep(self, seconds: float) -> None:
        """Until so many wait that the round is full, at most `seconds`."""
        if len(self._waiting) >= self._enough():
            return
        loop = asyncio.get_running_loop()
        self._waker = waker = loop.create_future()
        timer = loop.call_later(seconds, _wake, waker)
        try:
            await waker
        finally:
            self._waker = None
            timer.cancel()

    async def _round(self) -> None:
        try:
            await self._linger()
        finally:
            self._is_gathering = False
        batch = self._batch()
        self._start_rounds()
        if not batch:
            return
        self._usual += (len(batch) - self._usual) * LEARN
        self._running_items += len(batch)
        try:
            results = await self._run_round([item for item, _ in batch])
            if len(results) != len(batch):
                raise AssertionError(f"round of {self.name} gave {len(results)} results for {len(batch)} items")
        except BaseException as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error if isinstance(error, Exception) else ConnectionAbortedError(str(error)))
            if not isinstance(error, Exception):
                raise
            return
        finally:
            self._running_items -= len(batch)
        for (_, future), result in zip(batch, results, strict=True):
            _give(future, result)


def _give(future: asyncio.Future[Result], result: Result | BaseException | asyncio.Future[Result]) -> None:
    """Tells a caller what became of its item, if it waits still."""
    if isinstance(result, asyncio.Future):
        result.add_done_callback(lambda done: _pass_on(done, future))
    elif future.done():
        return
    elif isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)


def _pass_on(done: asyncio.Future[Result], future: asyncio.Future[Result]) -> None:
    error = ConnectionAbortedError("the server stops") if done.cancelled() else done.exception()
    if not future.done():
        _give(future, done.result() if error is None else error)


def _wake(sleeping: asyncio.Future[None]) -> None:
    if not sleeping.done():
        sleeping.set_result(None)
