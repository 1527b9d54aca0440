"""Sourcing as a use case: a policy's file, candidates from ledger and gate, and the plan that `onhand.domain.sourcing` makes."""

from onhand.sourcing.preview import Preview
from onhand.sourcing.use import Sourced, Sourcing

__all__ = ["Preview", "Sourced", "Sourcing"]
