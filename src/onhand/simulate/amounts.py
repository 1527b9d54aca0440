"""Amounts of the currency that is played with: as cents, on the wire, and what units of a line give back."""

from __future__ import annotations

from google.type import money_pb2

from onhand.v1 import order_pb2

CURRENCY = "USD"


def money(minor: int) -> money_pb2.Money:
    """Cents as money."""
    return money_pb2.Money(currency_code=CURRENCY, units=minor // 100, nanos=minor % 100 * 10_000_000)


def minor_of(amount: money_pb2.Money) -> int:
    """Money as cents."""
    return amount.units * 100 + amount.nanos // 10_000_000


def tenders_of(minor: int, kind: order_pb2.TenderKind.ValueType | None = None) -> list[order_pb2.Tender]:
    """What is free needs no tender."""
    return [order_pb2.Tender(kind=kind or order_pb2.TENDER_KIND_CARD, amount=money(minor))] if minor else []


def share(total_minor: int, units: int, quantity: int) -> int:
    """What the first `units` of `quantity` units that cost so much give back: pro rata, half a cent rounded up."""
    return (2 * total_minor * units + quantity) // (2 * quantity)


def line_refund(line: order_pb2.OrderLine, before: int, units: int) -> int:
    """What so many units of a line give back, after `before` that gave back already."""
    total = minor_of(line.total)
    return share(total, before + units, line.quantity) - share(total, before, line.quantity)
