"""Client processes: started, listened to, and ended, whatever happens."""

from __future__ import annotations

import multiprocessing
import queue
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import SpawnProcess
from typing import Any, NamedTuple

LISTEN_SECONDS = 0.5
"""How often it is looked whether the processes live, while they have nothing to say."""
END_SECONDS_MAX = 5.0
"""How long a process that is told to end may take."""

# spawn: a forked process would share the gRPC threads and sockets of its parent.
context = multiprocessing.get_context("spawn")


class ProcessFailed(Exception):
    """A client process ended before its work; the message is its traceback, or its exit code."""


class _Done(NamedTuple):
    result: Any


class _Progress(NamedTuple):
    more: int


class _Failed(NamedTuple):
    trace: str


def run_processes(
    work: Callable[..., Any],
    arguments: Sequence[tuple[Any, ...]],
    progress: Callable[[int], None],
    started: Callable[[Sequence[int]], None] = lambda pids: None,
) -> list[Any]:
    """Runs `work(report, *arguments)` in one process for each entry, and returns their results in any order.

    `report(count)` inside a process becomes `progress(count)` here; `started` is given the process ids, in order.
    Raises ProcessFailed; no process outlives the call.
    """
    messages: multiprocessing.Queue[_Done | _Progress | _Failed] = context.Queue()
    processes = [context.Process(target=_run, args=(work, messages, each), daemon=True) for each in arguments]
    results: list[Any] = []
    with _ended(processes):
        for process in processes:
            process.start()
        started([process.pid for process in processes if process.pid is not None])
        while len(results) < len(processes):
            for message in _listen(messages, processes):
                match message:
                    case _Done(result):
                        results.append(result)
                    case _Progress(more):
                        progress(more)
                    case _Failed(trace):
                        raise ProcessFailed(trace)
        for process in processes:
            process.join(END_SECONDS_MAX)
    return results


def _run(work: Callable[..., Any], messages: Any, arguments: tuple[Any, ...]) -> None:
    try:
        messages.put(_Done(work(lambda count: messages.put(_Progress(count)), *arguments)))
    except KeyboardInterrupt:
        # Its parent was interrupted as well, and says so.
        pass
    except BaseException:
        messages.put(_Failed(traceback.format_exc()))


def _listen(messages: Any, processes: Sequence[SpawnProcess]) -> Iterator[_Done | _Progress | _Failed]:
    # Looked at before listening: what a process said before it ended is in the queue by then.
    codes = [process.exitcode for process in processes]
    try:
        yield messages.get(timeout=LISTEN_SECONDS)
    except queue.Empty:
        for code in codes:
            if code not in (None, 0):
                raise ProcessFailed(f"a client process ended with exit code {code}") from None
        if None not in codes:
            raise ProcessFailed("a client process ended without a result") from None


@contextmanager
def _ended(processes: Sequence[SpawnProcess]) -> Iterator[None]:
    try:
        yield
    finally:
        started = [process for process in processes if process.pid is not None]
        for process in started:
            if process.is_alive():
                process.terminate()
        for process in started:
            process.join(END_SECONDS_MAX)
            if process.is_alive():
                process.kill()
