"""Ids: UUIDs of version 7 (RFC 9562), which sort by the time they were made, so that an index grows at its end."""

from __future__ import annotations

import os
import re
import secrets
import threading
import time
from uuid import UUID

from onhand.domain.errors import invalid

_CANONICAL = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_TAIL_BITS = 74  # what is left beside the milliseconds, the version and the variant
# Steps within a millisecond are random, so that an id tells little of the next; 2**41 such steps fit into one.
_STEP_BITS = 32


class _Sequence:
    """Milliseconds and a random tail as one number, that only rises."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def next(self) -> int:
        now = time.time_ns() // 1_000_000 << _TAIL_BITS
        with self._lock:
            if now > self._last:
                self._last = now + secrets.randbits(_TAIL_BITS)
            else:  # the same millisecond, or the clock went back: go on from the last, into the next one if need be
                self._last += 1 + secrets.randbits(_STEP_BITS)
            return self._last


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
    return UUID(int=milliseconds << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low)


def parse_id(field: str, text: str) -> UUID:
    """The id that a field of a request names, in its canonical form. Raises `InvalidRequest`."""
    if not _CANONICAL.fullmatch(text):
        raise invalid(field, "must be a UUID: 32 hexadecimal digits with hyphens")
    return UUID(text)
