"""A stock movement as a message."""

from __future__ import annotations

from typing import Any

from onhand.v1 import inventory_pb2 as v1
from onhand.wire import channel_value, timestamp

MOVEMENT_ID_MAX = 2**63 - 1


def movement_message(location_id: str, row: Any) -> v1.StockMovement:
    """A row of stock_movements for the wire."""
    return v1.StockMovement(
        movement_id=row["movement_id"],
        location_id=location_id,
        sku=row["sku"],
        quantity=row["quantity"],
        from_bucket=v1.Bucket.Value("BUCKET_" + row["from_bucket"].upper()),
        to_bucket=v1.Bucket.Value("BUCKET_" + row["to_bucket"].upper()),
        reason_code=row["reason_code"],
        reference_document=row["reference_document"],
        channel=channel_value(row["channel"]),
        actor=row["actor"],
        occurred_time=timestamp(row["occurred_time"]),
        recorded_time=timestamp(row["recorded_time"]),
    )
