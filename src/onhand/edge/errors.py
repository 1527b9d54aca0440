"""Refusals as google.rpc.Status: the one place that knows transport codes."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TypeVar

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from onhand.domain.errors import InsufficientStock, InvalidRequest, Kind, Overloaded, Refusal
from onhand.domain.sourcing_errors import NotSourced

Violation = TypeVar("Violation", bound=Message)

DOMAIN = "onhand"
RETRY_SECONDS = 1.0
"""What RetryInfo asks a client to wait, at least."""
DETAILS_KEY = "grpc-status-details-bin"
VIOLATIONS_MAX = 20
"""Violations that are listed; ErrorInfo and the message say more where there are more."""
VIOLATIONS_BYTES_MAX = 4000
"""What they may take together. Trailers hold 8 KiB in all, and carry the details as base64."""
TEXT_BYTES_MAX = 400
"""Bytes of a message or of a value in it, which travels percent-encoded too."""


def _clipped(text: str, bytes_max: int = TEXT_BYTES_MAX) -> str:
    encoded = text.encode()
    return text if len(encoded) <= bytes_max else encoded[: bytes_max - 3].decode(errors="ignore") + "..."


def _listed(violations: Iterable[Violation]) -> list[Violation]:
    listed: list[Violation] = []
    room = VIOLATIONS_BYTES_MAX
    for violation in islice(violations, VIOLATIONS_MAX):
        room -= violation.ByteSize()
        if room < 0:
            break
        listed.append(violation)
    return listed


CODES = {
    Kind.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Kind.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Kind.EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Kind.PRECONDITION: grpc.StatusCode.FAILED_PRECONDITION,
    Kind.CONFLICT: grpc.StatusCode.ABORTED,
    Kind.EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Kind.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
}


def status_of(refusal: Refusal, retry_seconds: float = RETRY_SECONDS) -> status_pb2.Status:
    """A refusal with its reason, its values, and what else helps its caller."""
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=refusal.reason, domain=DOMAIN, metadata=_metadata(refusal))
    ]
    if isinstance(refusal, InvalidRequest):
        details.append(
            error_details_pb2.BadRequest(
                field_violations=_listed(
                    error_details_pb2.BadRequest.FieldViolation(
                        field=_clipped(v.field, 100), description=_clipped(v.description)
                    )
                    for v in refusal.violations
                )
            )
        )
    if lines := _lines(refusal):
        details.append(
            error_details_pb2.PreconditionFailure(
                violations=_listed(
                    error_details_pb2.PreconditionFailure.Violation(
                        type=refusal.reason, subject=subject, description=description
                    )
                    for subject, description in lines
                )
            )
        )
    if refusal.kind is Kind.UNAVAILABLE or isinstance(refusal, Overloaded):  # a full cart stays full
        delay = Duration()
        delay.FromMilliseconds(round(retry_seconds * 1000))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=CODES[refusal.kind].value[0], message=_clipped(str(refusal)))
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _lines(refusal: Refusal) -> list[tuple[str, str]]:
    """The lines that cannot be had: (subject, description)."""
    if isinstance(refusal, InsufficientStock):
        return [
            (f"{s.location_id}/{s.sku}", f"{s.requested} requested, {s.available} available") for s in refusal.shorts
        ]
    if isinstance(refusal, NotSourced):
        return [(u.sku, f"{u.quantity} that nobody brings, {u.held_quantity} are there") for u in refusal.unsourced]
    return []


def _metadata(refusal: Refusal) -> dict[str, str]:
    return {key: _clipped(value) for key, value in refusal.metadata().items()}
