"""Until when the work of a call is worth beginning. It travels with the call, and not into work that others share."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

_until: contextvars.ContextVar[float | None] = contextvars.ContextVar("until", default=None)


def until() -> float | None:
    """When the call that this code works for will have been answered (time.monotonic()); None: nobody waits."""
    return _until.get()


def set_until(moment: float | None) -> None:
    """Says it for this task, and for the tasks that it starts."""
    _until.set(moment)


def seconds_left(at_most: float) -> float:
    """Seconds until then, 0 or less where it is past, `at_most` where it is later or nobody waits."""
    moment = _until.get()
    return at_most if moment is None else min(at_most, moment - time.monotonic())


@contextmanager
def lifted() -> Iterator[None]:
    """Around what must come to its end, however late: what follows a commit."""
    token = _until.set(None)
    try:
        yield
    finally:
        _until.reset(token)


def shared_context() -> contextvars.Context:
    """For a task that works for several calls: it ends with none of them."""
    context = contextvars.copy_context()
    context.run(_until.set, None)
    return context


@asynccontextmanager
async def patience(seconds: float) -> AsyncIterator[None]:
    """Raises TimeoutError after `seconds`, waited in two halves.

    A process that was stopped, or got no processor, finds its time over when it wakes up, and the answer not yet read: the
    second half is for that.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as timer:
        first = loop.call_later(seconds / 2, lambda: timer.reschedule(loop.time() + seconds / 2))
        try:
            yield
        finally:
            first.cancel()
