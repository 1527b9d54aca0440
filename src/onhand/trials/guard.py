"""Ends what a simulation started if the simulation itself is killed: no process and no folder is left behind.

The guard is a process of its own. It reads one line for each process that begins (`+pid`), ends (`-pid`), and for the folder
(`folder PATH`); the end of its input without a `done` before it means that whoever wrote is gone.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

END_SECONDS_MAX = 10.0
"""How long killed processes may take to be gone before their folder is removed all the same."""


class Guard:
    """The simulation's side: tells the guard what there is to end."""

    def __init__(self, folder: Path) -> None:
        # A session of its own: the terminal's Ctrl-C must not end it before what it guards.
        # By its file: as a module it would first import all that its package brings.
        self._process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, start_new_session=True)
        self._tell(f"folder {folder}")

    def watch(self, pid: int | None) -> None:
        """This process, and every child it may have, must not outlive the simulation."""
        if pid is not None:
            self._tell(f"+{pid}")

    def release(self, pid: int | None) -> None:
        """This process has ended, and its number may be somebody else's soon."""
        if pid is not None:
            self._tell(f"-{pid}")

    def close(self) -> None:
        """All was ended in order; the guard ends, and touches nothing."""
        self._tell("done")
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(END_SECONDS_MAX)

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        # One write of one line: threads that tell at once do not mix.
        os.write(self._process.stdin.fileno(), line.encode() + b"\n")


def guard(lines: Iterable[str]) -> None:
    """Reads until the input ends, and then ends what is left of it, unless all was `done`."""
    folder: Path | None = None
    watched: dict[int, psutil.Process] = {}
    for line in lines:
        word = line.rstrip("\n")
        if word == "done":
            return
        if word.startswith("folder "):
            folder = Path(word.removeprefix("folder "))
        elif word.startswith("+"):
            try:
                watched[int(word)] = psutil.Process(int(word))
            except psutil.NoSuchProcess:
                continue
        elif word.startswith("-"):
            watched.pop(-int(word), None)
    end(watched.values())
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def end(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL to each and to its children; back when they are gone, or after END_SECONDS_MAX."""
    doomed: list[psutil.Process] = []
    for process in processes:
        try:
            # psutil knows a process by its start, so that a number given anew is not taken for it.
            if process.is_running():
                doomed += [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    until = time.monotonic() + END_SECONDS_MAX
    for process in doomed:
        try:
            process.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(doomed, timeout=max(0.0, until - time.monotonic()))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    guard(sys.stdin)
