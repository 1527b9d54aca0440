"""Ids: UUIDs of version 7 (RFC 9562), which sort by the time they were made, so that an index grows at its end."""

from __future__ import annotations

import os
import re
import secrets
import struct
import threading
import time
from collections.abc import Iterator
from uuid import UUID

from asyncpg.pgproto.pgproto import UUID as QuickUUID  # the same, made and printed in C

from onhand.domain.errors import invalid

_CANONICAL = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_TAIL_BITS = 74  # what is left beside the milliseconds, the version and the variant
# Steps within a millisecond are random, so that an id tells little of the next; 2**41 such steps fit into one.
_STEP_BITS = 32
_STEPS_AT_ONCE = 1024


class _Sequence:
    """Milliseconds and a random tail as one number, that only rises."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0
        self._steps: Iterator[int] = iter(())

    def next(self) -> int:
        now = time.time_ns() // 1_000_000 << _TAIL_BITS
        with self._lock:
            if now > self._last:
                self._last = now + secrets.randbits(_TAIL_BITS)
            else:  # the same millisecond, or the clock went back: go on from the last, into the next one if need be
                self._last += 1 + self._step()
            return self._last

    def _step(self) -> int:
        for step in self._steps:
            return step
        # One call of the system for many of them.
        size = _STEPS_AT_ONCE * _STEP_BITS // 8
        self._steps = iter(struct.unpack(f"{_STEPS_AT_ONCE}I", os.urandom(size)))
        return next(self._steps)


_sequence = _Sequence()


def _start_anew() -> None:
    # A forked child must not go on from its parent's number beside its siblings.
    global _sequence
    _sequence = _Sequence()


os.register_at_fork(after_in_child=_start_anew)


def new_id() -> UUID:
    """A new id, greater than all that this process made before."""
    number = _sequence.next()
    milliseconds, tail = number >> _TAIL_BITS, number & ((1 << _TAIL_BITS) - 1)
    high, low = tail >> 62, tail & ((1 << 62) - 1)
    return QuickUUID((milliseconds << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low).to_bytes(16))


def parse_id(field: str, text: str) -> UUID:
    """The id that a field of a request names, in its canonical form. Raises `InvalidRequest`."""
    if not _CANONICAL.fullmatch(text):
        raise invalid(field, "must be a UUID: 32 hexadecimal digits with hyphens")
    return UUID(text)
