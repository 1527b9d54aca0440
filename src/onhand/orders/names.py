"""Between the enums of the protos and those of the domain, which have the same names."""

from __future__ import annotations

from enum import Enum
from functools import cache
from typing import Any, TypeVar

from onhand.domain.errors import invalid
from onhand.domain.order import FulfillmentKind, FulfillmentState, OrderState, RejectReason
from onhand.domain.payment import CaptureAt
from onhand.domain.shortage import ShortfallStep
from onhand.v1 import order_pb2 as pb
from onhand.v1 import types_pb2

Named = TypeVar("Named", bound=Enum)


def fulfillment_kind(field: str, value: int) -> FulfillmentKind:
    """Raises `InvalidRequest` for UNSPECIFIED and for numbers that are none; so do the others."""
    return _named(pb.FulfillmentKind, "FULFILLMENT_KIND_", FulfillmentKind, field, value)


def fulfillment_state(field: str, value: int) -> FulfillmentState:
    """The domain's state."""
    return _named(pb.FulfillmentState, "FULFILLMENT_STATE_", FulfillmentState, field, value)


def order_state(field: str, value: int) -> OrderState:
    """The domain's state."""
    return _named(pb.OrderState, "ORDER_STATE_", OrderState, field, value)


def reject_reason(field: str, value: int) -> RejectReason:
    """The domain's reason."""
    return _named(pb.RejectReason, "REJECT_REASON_", RejectReason, field, value)


def shortfall_step(field: str, value: int) -> ShortfallStep:
    """The domain's step."""
    return _named(types_pb2.ShortfallStep, "SHORTFALL_STEP_", ShortfallStep, field, value)


def proof_kind(field: str, value: int) -> str:
    """A kind of proof, as stored."""
    return _name(pb.ProofKind, "PROOF_KIND_", field, value)


def consent(field: str, value: int) -> str:
    """How a customer agreed, as stored."""
    return _name(pb.Consent, "CONSENT_", field, value)


def tender_kind(field: str, value: int) -> str:
    """A kind of tender, as stored."""
    return _name(pb.TenderKind, "TENDER_KIND_", field, value)


def capture_at(field: str, value: int) -> CaptureAt:
    """The domain's moment."""
    return _named(pb.CaptureAt, "CAPTURE_AT_", CaptureAt, field, value)


def disposition(field: str, value: int) -> str:
    """What becomes of a returned unit, as stored: a bucket, or returns.TO_SUPPLIER."""
    return _name(pb.Disposition, "DISPOSITION_", field, value).lower()


def _named(wire: Any, prefix: str, domain: type[Named], field: str, value: int) -> Named:
    return domain(_name(wire, prefix, field, value))


def _name(wire: Any, prefix: str, field: str, value: int) -> str:
    names = _names(wire)
    if value not in names:
        raise invalid(field, "must be one of " + ", ".join(names.values()))
    return names[value].removeprefix(prefix)


@cache
def _names(wire: Any) -> dict[int, str]:
    return {number: name for name, number in wire.items() if number}
