"""Refusals as google.rpc.Status: the one place that knows transport codes."""

from __future__ import annotations

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from onhand.domain.errors import InsufficientStock, InvalidRequest, Kind, Refusal

DOMAIN = "onhand"
RETRY_SECONDS = 1
"""What RetryInfo asks a client to wait."""
DETAILS_KEY = "grpc-status-details-bin"
VIOLATIONS_MAX = 20
"""Violations that are listed; ErrorInfo and the message say more where there are more. Trailers hold 8 KiB in all."""
TEXT_LENGTH_MAX = 400
"""Characters of a message or of a value in it."""


def _clipped(text: str) -> str:
    return text if len(text) <= TEXT_LENGTH_MAX else text[: TEXT_LENGTH_MAX - 3] + "..."


CODES = {
    Kind.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Kind.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Kind.EXISTS: grpc.StatusCode.ALREADY_EXISTS,
    Kind.PRECONDITION: grpc.StatusCode.FAILED_PRECONDITION,
    Kind.CONFLICT: grpc.StatusCode.ABORTED,
    Kind.EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Kind.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
}


def status_of(refusal: Refusal) -> status_pb2.Status:
    """A refusal with its reason, its values, and what else helps its caller."""
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=refusal.reason, domain=DOMAIN, metadata=_metadata(refusal))
    ]
    if isinstance(refusal, InvalidRequest):
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(
                        field=_clipped(v.field)[:100], description=_clipped(v.description)[:150]
                    )
                    for v in refusal.violations[:VIOLATIONS_MAX]
                ]
            )
        )
    if isinstance(refusal, InsufficientStock):
        details.append(
            error_details_pb2.PreconditionFailure(
                violations=[
                    error_details_pb2.PreconditionFailure.Violation(
                        type=refusal.reason,
                        subject=f"{s.location_id}/{s.sku}",
                        description=f"{s.requested} requested, {s.available} available",
                    )
                    for s in refusal.shorts[:VIOLATIONS_MAX]
                ]
            )
        )
    if refusal.kind in (Kind.UNAVAILABLE, Kind.EXHAUSTED):
        details.append(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=RETRY_SECONDS)))
    status = status_pb2.Status(code=CODES[refusal.kind].value[0], message=_clipped(str(refusal)))
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _metadata(refusal: Refusal) -> dict[str, str]:
    return {key: _clipped(value) for key, value in refusal.metadata().items()}
