"""What an audit reads from the ledger, in one snapshot, as plain values with the clients' clock."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

from onhand.postgres import Connection
from onhand.simulate.facts import (
    ClaimRow,
    EndRow,
    Ledger,
    LevelRow,
    MoneyRow,
    MovementRow,
    OrderRow,
    RequestRow,
    TenderRow,
)

# A row's xmin is the transaction that wrote it last. That of a request is the one that had its effect: `pg_xact_commit_timestamp`
# is when it was committed. Append-only rows keep theirs, so xmin says which movements belong to which request, by itself.
REQUESTS = """
SELECT request_id, method, response, xmin::text::int8 AS transaction, pg_xact_commit_timestamp(xmin) AS committed
  FROM requests ORDER BY created_time"""
MOVEMENTS = """
SELECT location_id, movement_id, sku, quantity, from_bucket, to_bucket, reason_code, reference_document,
       xmin::text::int8 AS transaction, pg_xact_commit_timestamp(xmin) AS committed
  FROM stock_movements ORDER BY location_id, movement_id"""
CLAIMS = """
SELECT location_id, claim_id::text, coalesce(reservation_id::text, '') AS reservation_id, state, lines, deadline, created_time,
       coalesce(order_id::text, '') AS order_id, xmin::text::int8 AS transaction,
       pg_xact_commit_timestamp(xmin) AS committed
  FROM claims ORDER BY created_time, location_id, claim_id"""
ORDERS = "SELECT order_id::text, coalesce(reservation_id::text, '') AS reservation_id FROM orders ORDER BY order_id"
ORDER_LINES = """
SELECT order_id::text, line_number, sku, quantity, fulfilled_quantity, cancelled_quantity, returned_quantity
  FROM order_lines ORDER BY order_id, line_number"""
LEVELS = """
SELECT location_id, sku, available, allocated, damaged, quarantine, coalesce((to_jsonb(l) ->> 'short')::int8, 0) AS short
  FROM stock_levels l ORDER BY location_id, sku"""
# Ends of shortfalls are append-only, too.
ENDS = """
SELECT s.location_id, s.sku, s.fulfillment_order_id::text, f.order_id::text, s.line_number, s.cause, e.quantity, e.reason,
       e.xmin::text::int8
  FROM shortfall_ends e JOIN shortfalls s USING (shortfall_id) JOIN fulfillment_orders f USING (fulfillment_order_id)
 ORDER BY s.shortfall_id, e.end_number"""
WAITING = """
SELECT location_id, sku, sum(quantity)::int8 AS units FROM shortfalls WHERE cause = 'BACKORDER' GROUP BY 1, 2"""
MONEY = """
SELECT order_id::text, line_number, total_minor, refunded_minor, coalesce(substitutes_line, 0) FROM order_lines ORDER BY 1, 2"""
TENDERS = """
SELECT order_id::text, tender_number, provider, amount_minor, authorized_minor, captured_minor, voided_minor, refunded_minor,
       given_back_minor, coalesce((SELECT sum(p.amount_minor) FROM payment_operations p
            WHERE p.order_id = t.order_id AND p.tender_number = t.tender_number AND p.reason_code = 'EXCHANGE'), 0)::int8,
       coalesce(gift_card_id::text, '')
  FROM tenders t ORDER BY 1, 2"""
BALANCES = "SELECT gift_card_id::text, balance_minor FROM gift_cards"
RETURNS = "SELECT return_id::text FROM returns"
TRANSFERS = "SELECT transfer_id::text FROM transfers"
SHIPMENTS = "SELECT count(*) FROM shipments WHERE shipped_time IS NOT NULL"  # a parcel that is packed is none yet
DELTAS = """
SELECT location_id, number, xmin::text::int8 AS transaction FROM gate_deltas ORDER BY location_id, number"""


async def read_ledger(connection: Connection) -> Ledger:
    """Everything, from one snapshot. Needs track_commit_timestamp."""
    # The wall clock that PostgreSQL stamps commits with, and the one that clients time their calls by, on one machine.
    offset = time.time() - time.monotonic()

    def moment(value: Any) -> float:
        return float(value.timestamp()) - offset

    lines: dict[str, list[tuple[int, str, int, int, int, int]]] = defaultdict(list)
    for row in await connection.fetch(ORDER_LINES):
        lines[row["order_id"]].append(tuple(row)[1:])
    deltas: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for row in await connection.fetch(DELTAS):
        deltas[row["location_id"]].append((row["number"], row["transaction"]))
    return Ledger(
        requests=[
            RequestRow(r["request_id"], r["method"], r["response"] or b"", r["transaction"], moment(r["committed"]))
            for r in await connection.fetch(REQUESTS)
        ],
        movements=[
            MovementRow._make((*tuple(r)[:9], moment(r["committed"]))) for r in await connection.fetch(MOVEMENTS)
        ],
        claims=[
            ClaimRow(
                r["location_id"],
                r["claim_id"],
                r["reservation_id"],
                r["state"],
                tuple((sku, quantity) for sku, quantity in r["lines"]),
                moment(r["deadline"]),
                moment(r["created_time"]),
                r["order_id"],
                r["transaction"],
                moment(r["committed"]),
            )
            for r in await connection.fetch(CLAIMS)
        ],
        orders=[
            OrderRow(r["order_id"], r["reservation_id"], tuple(lines[r["order_id"]]))
            for r in await connection.fetch(ORDERS)
        ],
        levels=[LevelRow(*r) for r in await connection.fetch(LEVELS)],
        returns=[r[0] for r in await connection.fetch(RETURNS)],
        transfers=[r[0] for r in await connection.fetch(TRANSFERS)],
        shipments=await connection.fetchval(SHIPMENTS),
        deltas=deltas,
        ends=[EndRow(*r) for r in await connection.fetch(ENDS)],
        waiting={(r["location_id"], r["sku"]): r["units"] for r in await connection.fetch(WAITING)},
        money=[MoneyRow(*r) for r in await connection.fetch(MONEY)],
        tenders=[TenderRow(*r) for r in await connection.fetch(TENDERS)],
        balances={r[0]: r[1] for r in await connection.fetch(BALANCES)},
        wall_offset=offset,
    )
