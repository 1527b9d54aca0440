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
        error_details_pb2.ErrorInfo(reason=refusal.reason, domain=DOMAIN, metadata=refusal.metadata())
    ]
    if isinstance(refusal, InvalidRequest):
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
                    for v in refusal.violations
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
                    for s in refusal.shorts
                ]
            )
        )
    if refusal.kind in (Kind.UNAVAILABLE, Kind.EXHAUSTED):
        details.append(error_details_pb2.RetryInfo(retry_delay=Duration(seconds=RETRY_SECONDS)))
    status = status_pb2.Status(code=CODES[refusal.kind].value[0], message=str(refusal))
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status
