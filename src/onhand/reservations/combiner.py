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


class Combiner(Generic[Item, Result]):
    """Gathers items and gives them to `run_round` together; each caller gets its own result or error.

    `run_round` returns a result for each item, in order, where an exception stands for that item's error; if it raises,
    every caller of the round gets that error. A caller that goes away leaves its item in the round, but an item whose
    round comes after its caller's deadline is refused without being sent, unless `keeps_late`.
    """

    def __init__(
        self,
        name: str,
        run_round: Callable[[Sequence[Item]], Awaitable[Sequence[Result | BaseException]]],
        *,
        round_items_max: int,
        rounds_at_once_max: int = 1,
        keeps_late: bool = False,
    ) -> None:
        self.name = name
        self._run_round = run_round
        self._round_items_max = round_items_max
        self._rounds_at_once_max = rounds_at_once_max
        self._keeps_late = keeps_late
        self._waiting: deque[tuple[Item, asyncio.Future[Result], float | None]] = deque()
        self._running: set[asyncio.Task[None]] = set()

    async def submit(self, item: Item) -> Result:
        """Takes part in the next round. Raises Overloaded, or what the round says of this item."""
        if len(self._waiting) >= WAITING_MAX:
            raise Overloaded(self.name, WAITING_MAX)
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future, None if self._keeps_late else deadline.until()))
        self._start_rounds()
        return await future

    def _start_rounds(self) -> None:
        while self._waiting and len(self._running) < self._rounds_at_once_max:
            task = asyncio.create_task(self._round(), name=f"{self.name} round", context=deadline.shared_context())
            self._running.add(task)
            task.add_done_callback(self._ended)
            if len(self._running) < self._rounds_at_once_max:
                break  # one new round gathers what this turn of the loop brings

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._start_rounds()

    def _batch(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        now = time.monotonic()
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        while self._waiting and len(batch) < self._round_items_max:
            item, future, until = self._waiting.popleft()
            if until is None or now < until:
                batch.append((item, future))
            elif not future.done():
                future.set_exception(Overloaded(self.name, WAITING_MAX))
        return batch

    async def _round(self) -> None:
        # One turn of the event loop, so that calls which are ready now share this round.
        await asyncio.sleep(0)
        batch = self._batch()
        if not batch:
            return
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
        for (_, future), result in zip(batch, results, strict=True):
            if future.done():
                continue
            if isinstance(result, BaseException):
                future.set_exception(result)
            else:
                future.set_result(result)
