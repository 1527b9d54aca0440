"""Ids: unique, in order, and read back in one form only."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest

from onhand import ids
from onhand.domain.errors import InvalidRequest


def test_ids_rise_in_the_order_in_which_they_are_made() -> None:
    made = [ids.new_id() for _ in range(20_000)]
    assert made == sorted(set(made))


def test_ids_are_of_version_7_and_tell_when_they_were_made() -> None:
    before = time.time_ns() // 1_000_000
    made = ids.new_id()
    after = time.time_ns() // 1_000_000
    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    # Earlier ids of this process may have pushed it a little ahead of the clock.
    assert before <= made.int >> 80 <= after + 1_000


def test_ids_rise_though_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first = ids.new_id()
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    assert first < ids.new_id() < ids.new_id()


def test_threads_never_make_the_same_id() -> None:
    with ThreadPoolExecutor(4) as threads:
        made = [i for batch in threads.map(lambda _: [ids.new_id() for _ in range(2_000)], range(4)) for i in batch]
    assert len(set(made)) == len(made)


def test_forked_processes_never_make_the_same_id() -> None:
    ids.new_id()
    made = [_id_of_a_forked_child() for _ in range(4)]
    assert len({*made, ids.new_id()}) == 5


@pytest.mark.parametrize("text", ["01a20079-a71b-7d58-88f1-17382d01eba0", "01A20079-A71B-7D58-88F1-17382D01EBA0"])
def test_a_canonical_id_is_read_in_either_case(text: str) -> None:
    assert ids.parse_id("cart_id", text) == UUID("01a20079a71b7d5888f117382d01eba0")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "cart-1",
        "01a20079a71b7d5888f117382d01eba0",
        "{01a20079-a71b-7d58-88f1-17382d01eba0}",
        "urn:uuid:01a20079-a71b-7d58-88f1-17382d01eba0",
        "01a20079-a71b-7d58-88f1-17382d01eba0\n",
        "01a20079-a71b-7d58-88f1-17382d01ebag",
    ],
)
def test_any_other_form_is_refused_with_the_name_of_its_field(text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        ids.parse_id("cart_id", text)
    assert [violation.field for violation in refused.value.violations] == ["cart_id"]


def _id_of_a_forked_child() -> bytes:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, ids.new_id().bytes)
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        return pipe.read()
