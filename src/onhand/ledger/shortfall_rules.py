"""Rules of broken promises: nothing that somebody was promised is missing in silence."""

from __future__ import annotations

from onhand.domain.order import CANCELLABLE, HOLDING
from onhand.domain.shortage import NEVER_ALLOCATED, OF_STOCK
from onhand.ledger.floors import ROOM
from onhand.ledger.rule import Rule, sql_list
from onhand.ledger.shortfalls import COVERED, FILLED, FOUND, OPENED

_HELD = sql_list(state.value for state in HOLDING)
_OPEN = sql_list(state.value for state in CANCELLABLE)
_OF_STOCK = sql_list(cause.value for cause in OF_STOCK)
_NEVER_ALLOCATED = sql_list(cause.value for cause in NEVER_ALLOCATED)

PROMISES_VISIBLE = Rule(
    "promises_visible",
    "What open work lacks of what it has to bring is open shortfalls, in each location and sku, and no line of it lacks more than "
    "it has to bring; all that is rejected and still to be brought is one too; a "
    "position whose active reservations exceed what is available is marked as overdrawn.",
    f"""
    SELECT location_id, sku, 'lacks other than its shortfalls' AS problem, NULL::uuid AS fulfillment_order_id,
           coalesce(s.short, 0) AS units, coalesce(o.units, 0) AS shortfalls
      FROM (SELECT location_id, sku, short FROM stock_levels WHERE short > 0) AS s
      FULL JOIN (SELECT location_id, sku, sum(open_quantity)::int8 AS units FROM shortfalls
                  WHERE open_quantity > 0 AND cause IN ({_OF_STOCK}) GROUP BY 1, 2) AS o USING (location_id, sku)
     WHERE coalesce(s.short, 0) <> coalesce(o.units, 0)
     UNION ALL
    SELECT s.location_id, s.sku, 'lacks more than it has to bring', f.fulfillment_order_id,
           CASE WHEN f.state IN ({_OPEN}) THEN p.quantity - p.cancelled_quantity - p.moved_quantity ELSE 0 END,
           sum(s.open_quantity)::int8
      FROM shortfalls s JOIN fulfillment_orders f USING (fulfillment_order_id)
      JOIN fulfillment_lines p USING (fulfillment_order_id, line_number)
     GROUP BY s.location_id, s.sku, f.location_id, p.sku, f.fulfillment_order_id, f.state, p.quantity, p.cancelled_quantity,
             p.moved_quantity
    HAVING sum(s.open_quantity)
           > CASE WHEN f.state IN ({_OPEN}) THEN p.quantity - p.cancelled_quantity - p.moved_quantity ELSE 0 END
        OR (s.location_id, s.sku) <> (f.location_id, p.sku)
     UNION ALL
    SELECT f.location_id, p.sku, 'rejected, and its shortfalls do not say so', f.fulfillment_order_id,
           p.quantity - p.cancelled_quantity - p.moved_quantity, coalesce(sum(s.open_quantity), 0)::int8
      FROM fulfillment_orders f JOIN fulfillment_lines p USING (fulfillment_order_id)
      LEFT JOIN shortfalls s ON s.fulfillment_order_id = f.fulfillment_order_id AND s.line_number = p.line_number
            AND s.cause = f.reject_reason
     WHERE f.state = 'REJECTED'
     GROUP BY f.location_id, p.sku, f.fulfillment_order_id, p.line_number, p.quantity, p.cancelled_quantity, p.moved_quantity
    HAVING p.quantity - p.cancelled_quantity - p.moved_quantity <> coalesce(sum(s.open_quantity), 0)
     UNION ALL
    SELECT r.location_id, r.sku, 'reservations are short and it is not marked', NULL, r.units, coalesce(s.available, 0)
      FROM (SELECT c.location_id, line ->> 0 AS sku, sum((line ->> 1)::int8)::int8 AS units
              FROM claims c CROSS JOIN jsonb_array_elements(c.lines) AS line WHERE c.state = 'active' GROUP BY 1, 2) AS r
      LEFT JOIN stock_levels s USING (location_id, sku)
     WHERE r.units > coalesce(s.available + {ROOM.format("s.")}, 0) AND s.overdrawn_time IS NULL""",
)

SHORTFALLS_END = Rule(
    "shortfalls_end",
    "A shortfall is what it was at first less how units of it ended, each told of by an event; one that awaits a count has a "
    "count task; one that a sale caused names an order.",
    """
    WITH ended AS (SELECT shortfall_id, sum(quantity)::int8 AS units, count(*) AS ends FROM shortfall_ends GROUP BY 1),
    told AS (
        SELECT substr(subject, 11) AS shortfall_id, count(*) FILTER (WHERE type = 'onhand.shortfall.opened.v1') AS opened,
               count(*) FILTER (WHERE type = 'onhand.shortfall.resolved.v1') AS resolved
          FROM events WHERE subject LIKE 'shortfall/%' GROUP BY 1)
    SELECT s.shortfall_id, s.location_id, s.sku, s.quantity, s.open_quantity, coalesce(e.units, 0) AS ended_quantity,
           coalesce(e.ends, 0) AS ends, t.opened AS events_opened, t.resolved AS events_resolved
      FROM shortfalls s LEFT JOIN ended e USING (shortfall_id) LEFT JOIN told t ON t.shortfall_id = s.shortfall_id::text
     WHERE s.quantity - coalesce(e.units, 0) <> s.open_quantity
        OR (t.opened, t.resolved) IS DISTINCT FROM (1::int8, coalesce(e.ends, 0))
        OR (s.next_step = 'COUNT' AND NOT EXISTS (
               SELECT FROM count_tasks c WHERE c.location_id = s.location_id AND c.sku = s.sku AND c.state = 'OPEN'))
        OR (s.cause = 'SALE' AND NOT EXISTS (SELECT FROM orders o WHERE 'order/' || o.order_id = s.reference_document))""",
)

SHORTFALLS_MOVED = Rule(
    "shortfalls_moved_once",
    "Units left what is there for an order exactly as its shortfalls say, once, and came back exactly as these ended.",
    f"""
    WITH due AS (
        SELECT 'order/' || f.order_id AS document, s.location_id, s.sku,
               coalesce(sum(s.quantity) FILTER (WHERE s.cause NOT IN ({_NEVER_ALLOCATED})), 0)::int8 AS opened,
               sum(e.found)::int8 AS found, sum(e.covered)::int8 AS covered
          FROM shortfalls s JOIN fulfillment_orders f USING (fulfillment_order_id)
         CROSS JOIN LATERAL (
               SELECT coalesce(sum(quantity) FILTER (WHERE reason = 'IN_HAND'), 0) AS found,
                      coalesce(sum(quantity) FILTER (WHERE reason IN ('COUNTED', 'COVERED')), 0) AS covered
                 FROM shortfall_ends e WHERE e.shortfall_id = s.shortfall_id) AS e
         WHERE s.cause IN ({_OF_STOCK}) GROUP BY 1, 2, 3),
    moved AS (
        SELECT reference_document AS document, location_id, sku,
               coalesce(sum(quantity) FILTER (WHERE reason_code = '{OPENED}'), 0)::int8 AS opened,
               coalesce(sum(quantity) FILTER (WHERE reason_code = '{FOUND}'), 0)::int8 AS found,
               coalesce(sum(quantity) FILTER (WHERE reason_code IN ('{COVERED}', '{FILLED}')), 0)::int8 AS covered
          FROM stock_movements
         WHERE (reason_code, from_bucket, to_bucket) IN (('{OPENED}', 'allocated', 'adjustment'),
               ('{FOUND}', 'adjustment', 'allocated'), ('{COVERED}', 'available', 'allocated'),
               ('{FILLED}', 'available', 'allocated')) GROUP BY 1, 2, 3)
    SELECT document, location_id, sku, d.opened AS opened_due, m.opened AS opened_moved, d.found AS found_due,
           m.found AS found_moved, d.covered AS covered_due, m.covered AS covered_moved
      FROM due d FULL JOIN moved m USING (document, location_id, sku)
     WHERE (coalesce(d.opened, 0), coalesce(d.found, 0), coalesce(d.covered, 0)) <>
           (coalesce(m.opened, 0), coalesce(m.found, 0), coalesce(m.covered, 0))""",
)

SHORTFALL_RULES = (PROMISES_VISIBLE, SHORTFALLS_END, SHORTFALLS_MOVED)
