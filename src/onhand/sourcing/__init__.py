"""Sourcing as a use case: a policy's file, candidates from ledger and gate, and the plan that `onhand.domain.sourcing` makes."""

from onhand.sourcing.decisions import Decisions
from onhand.sourcing.preview import Preview
from onhand.sourcing.reservation import SourcedReservations
from onhand.sourcing.use import Sourced, Sourcing

__all__ = ["Decisions", "Preview", "Sourced", "SourcedReservations", "Sourcing"]
