"""Progress on stderr, for people who wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class Show(Protocol):
    """Moves the bar of a step, which appears at its first call; `total` is None until it is known."""

    def __call__(self, step: str, done: int, total: int | None, /) -> None: ...


@contextmanager
def progress_bars() -> Iterator[Show]:
    """One bar a step; taken away where the block raises, so that nothing unfinished stands above the error."""
    columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def show(step: str, done: int, total: int | None, /) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=total)
            bars.update(tasks[step], completed=done, total=total)

        try:
            yield show
        except BaseException:
            bars.live.transient = True
            raise


@contextmanager
def progress_line() -> Iterator[Callable[[str], None]]:
    """One line that says what is being done, gone afterwards."""
    with Console(stderr=True).status("") as line:
        yield line.update
