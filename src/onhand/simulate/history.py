"""The record of a trial: every attempt of every call, with its times and its outcome, one JSON line each.

A line is written when an attempt begins and when it ends, and flushed: an attempt that only began has an unknown outcome.
Times are time.monotonic() seconds, one clock for all processes of a machine.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from google.protobuf.message import Message

from onhand.v1 import (
    cart_pb2,
    catalog_pb2,
    counting_pb2,
    inventory_pb2,
    order_pb2,
    payment_pb2,
    receiving_pb2,
    returns_pb2,
    sourcing_pb2,
)

OK, REFUSED, UNKNOWN = "ok", "refused", "unknown"
NEVER = float("inf")
"""The end of an attempt whose client process did not live to see it."""

_MODULES = (
    inventory_pb2, order_pb2, catalog_pb2, cart_pb2, returns_pb2, payment_pb2, receiving_pb2, counting_pb2, sourcing_pb2
)  # fmt: skip


@dataclass(frozen=True)
class Record:
    """One attempt of a call. `detail` is ErrorInfo's metadata and `shorts` of a refusal; `answer` is None unless it is OK."""

    op: int
    process: str
    kind: str
    request_id: str
    attempt: int
    begin: float
    end: float
    target: str
    outcome: str
    reason: str
    detail: dict[str, Any]
    request: Any
    answer: Any

    def told(self) -> dict[str, Any]:
        """As evidence: short, for a person."""
        return {
            "call": f"{self.process}/{self.op}.{self.attempt} {self.kind}",
            "request_id": self.request_id,
            "begin": round(self.begin, 4),
            "end": round(self.end, 4) if self.end != NEVER else None,
            "target": self.target,
            "outcome": f"{self.outcome} {self.reason}".strip(),
            "request": _short(self.request),
            "answer": _short(self.answer),
        }


@dataclass
class History:
    """Writes the attempts of one process."""

    path: Path
    process: str
    _file: TextIO | None = None
    _ops: int = 0
    counts: dict[str, int] = field(default_factory=dict)

    def open(self) -> History:
        """Ready to write; an older file of the same name is continued."""
        self._file = self.path.open("a", encoding="utf-8")
        return self

    def close(self) -> None:
        """Ends the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def next_op(self) -> int:
        """A number for a call; its attempts share it."""
        self._ops += 1
        return self._ops

    def begin(self, op: int, kind: str, request: Message, attempt: int, begin: float, target: str) -> dict[str, Any]:
        """Writes that an attempt begins; the value is for `end`."""
        line: dict[str, Any] = {
            "op": op,
            "process": self.process,
            "kind": kind,
            "request_id": getattr(request, "request_id", ""),
            "attempt": attempt,
            "begin": begin,
            "target": target,
            "request": base64.b64encode(request.SerializeToString(deterministic=True)).decode(),
        }
        self._write(line)
        return line

    def end(
        self,
        begun: dict[str, Any],
        end: float,
        outcome: str,
        *,
        reason: str = "",
        detail: dict[str, Any] | None = None,
        answer: Message | None = None,
    ) -> None:
        """Writes how an attempt ended."""
        self.counts[outcome] = self.counts.get(outcome, 0) + 1
        encoded = None if answer is None else base64.b64encode(answer.SerializeToString()).decode()
        self._write(
            {**begun, "end": end, "outcome": outcome, "reason": reason, "detail": detail or {}, "answer": encoded}
        )

    def _write(self, line: dict[str, Any]) -> None:
        if self._file is None:
            return  # the process is ending: what is still under way stays without an end
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")
        self._file.flush()


def message_type(kind: str, suffix: str) -> type[Message]:
    """The class of a kind's Request or Response."""
    for module in _MODULES:
        found = getattr(module, kind + suffix, None)
        if found is not None:
            return found  # type: ignore[no-any-return]
    raise ValueError(f"no message {kind}{suffix}")


def read_history(paths: Iterable[Path]) -> list[Record]:
    """All attempts, by their begin. A last line that was cut off is left out."""
    found: dict[tuple[str, int, int], Record] = {}
    for path in paths:
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            found[line["process"], line["op"], line["attempt"]] = _record(line)
    return sorted(found.values(), key=lambda r: r.begin)


def _record(line: dict[str, Any]) -> Record:
    kind, answer = line["kind"], line.get("answer")
    return Record(
        op=line["op"],
        process=line["process"],
        kind=kind,
        request_id=line["request_id"],
        attempt=line["attempt"],
        begin=line["begin"],
        end=line.get("end", NEVER),
        target=line["target"],
        outcome=line.get("outcome", UNKNOWN),
        reason=line.get("reason", ""),
        detail=line.get("detail", {}),
        request=message_type(kind, "Request").FromString(base64.b64decode(line["request"])),
        answer=None if answer is None else message_type(kind, "Response").FromString(base64.b64decode(answer)),
    )


def _short(message: Any, length: int = 400) -> str:
    text = "" if message is None else " ".join(str(message).split())
    return text if len(text) <= length else text[:length] + "..."


def by_request(records: Sequence[Record]) -> dict[str, list[Record]]:
    """The attempts of every mutation, in the order of their begin."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        if record.request_id:
            groups.setdefault(record.request_id, []).append(record)
    return groups
