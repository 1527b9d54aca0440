"""Rules of stock: levels, movements, reservations, transfers, and what the gate is told."""

from __future__ import annotations

from onhand.domain.shortage import NEVER_ALLOCATED
from onhand.ledger.floors import ROOM
from onhand.ledger.rule import Rule, sql_list
from onhand.ledger.shortfalls import COVERED

OVERDUE_SECONDS = 60
"""How long after its deadline a reservation may still be active. Sweepers take under a second; a stopped server longer."""
SHORTAGE_LOOKBACK_SECONDS = 3600
"""How long before the oldest reservation that it breaks a shortage may have been recorded: what no process outlives."""

OPENING_STOCK = "OPENING_STOCK"
"""The reason of imported movements: they come without a numbered increase, under a raised epoch (onhand.feeds)."""

INSIDE = ("available", "allocated", "damaged", "quarantine")

_MOVED = ", ".join(
    f"sum(CASE '{b}' WHEN to_bucket THEN quantity WHEN from_bucket THEN -quantity ELSE 0 END)::int8 AS {b}"
    for b in INSIDE
)

_ROOM = ROOM.format("s.")
_BACKORDERED = f"""backordered AS (
        SELECT location_id, sku, sum(quantity)::int8 AS units FROM shortfalls
         WHERE cause IN ({sql_list(cause.value for cause in NEVER_ALLOCATED)}) GROUP BY 1, 2)"""

CONSERVATION = Rule(
    "conservation",
    "In every location and sku each bucket equals the sum of its movements, and no movement is without a level.",
    f"""
    WITH moved AS (SELECT location_id, sku, {_MOVED} FROM stock_movements GROUP BY 1, 2),
         wrong AS (
        SELECT location_id, sku, {", ".join(f"s.{b} AS level_{b}, m.{b} AS moved_{b}" for b in INSIDE)}
          FROM stock_levels s FULL JOIN moved m USING (location_id, sku)
         WHERE s.available IS NULL
            OR (s.available, s.allocated, s.damaged, s.quarantine) IS DISTINCT FROM
               (coalesce(m.available, 0), coalesce(m.allocated, 0), coalesce(m.damaged, 0), coalesce(m.quarantine, 0)))
    SELECT location_id, sku, b.bucket, b.level, b.movements
      FROM wrong CROSS JOIN LATERAL (
           VALUES {", ".join(f"('{b}', level_{b}, coalesce(moved_{b}, 0))" for b in INSIDE)}) AS b (bucket, level, movements)
     WHERE b.level IS DISTINCT FROM b.movements""",
)

NO_NEGATIVE_BUCKET = Rule(
    "no_negative_bucket",
    "No bucket of any location and sku is below zero.",
    """
    SELECT location_id, sku, available, allocated, damaged, quarantine FROM stock_levels
     WHERE least(available, allocated, damaged, quarantine) < 0""",
)

APPEND_ONLY = Rule(
    "movements_append_only",
    "The database itself refuses to update, delete or truncate movements.",
    """
    SELECT 'stock_movements' AS relation, w.wall,
           CASE WHEN t.tgname IS NULL THEN 'absent' ELSE 'disabled' END AS problem
      FROM (VALUES ('stock_movements_append_only')) AS w (wall)
      LEFT JOIN pg_trigger t ON t.tgname = w.wall AND t.tgrelid = 'stock_movements'::regclass
     WHERE t.tgname IS NULL OR t.tgenabled NOT IN ('O', 'A')""",
)

# At the oldest of a position's active reservations everything promised was there: reserve passes ATP. What is short since
# then was taken by facts, and they wrote it down.
NO_OVERSELL = Rule(
    "no_oversell",
    "Active reservations never exceed what is available and what backorder permits, but by the shortages that facts (sales in "
    "hand, counts) and lower limits recorded; orders never have more backordered than open shortfalls of that cause say.",
    f"""
    WITH reserved AS (
        SELECT c.location_id, line ->> 0 AS sku, sum((line ->> 1)::int8)::int8 AS reserved, min(c.created_time) AS since
          FROM claims c CROSS JOIN jsonb_array_elements(c.lines) AS line WHERE c.state = 'active' GROUP BY 1, 2)
    SELECT r.location_id, r.sku, coalesce(s.available, 0) AS available, r.reserved, h.units AS recorded_shortages,
           coalesce({_ROOM}, 0) AS backorder_room
      FROM reserved r LEFT JOIN stock_levels s USING (location_id, sku)
     CROSS JOIN LATERAL (
           SELECT coalesce(sum(quantity), 0)::int8 AS units FROM shortages h
            WHERE h.location_id = r.location_id AND h.sku = r.sku
              AND h.created_time >= r.since - interval '{SHORTAGE_LOOKBACK_SECONDS} seconds') AS h
     WHERE coalesce(s.available + {_ROOM}, 0) - r.reserved < -h.units
     UNION ALL
    SELECT location_id, sku, s.available, 0, 0, s.backordered - coalesce(b.units, 0)
      FROM stock_levels s FULL JOIN (
           SELECT location_id, sku, sum(open_quantity)::int8 AS units FROM shortfalls
            WHERE cause = 'BACKORDER' AND open_quantity > 0 GROUP BY 1, 2) AS b USING (location_id, sku)
     WHERE (s.backordered > 0 OR b.units > 0) AND s.backordered IS DISTINCT FROM coalesce(b.units, 0)""",
)

CLAIMS_WELL_FORMED = Rule(
    "claims_well_formed",
    "A claim names each sku once with a positive quantity; it is closed exactly if it has a closing time.",
    """
    SELECT c.location_id, c.claim_id, c.state, c.lines, c.closed_time
      FROM claims c LEFT JOIN LATERAL (
           SELECT bool_or((line ->> 1)::int8 <= 0) OR count(*) > count(DISTINCT line ->> 0) AS is_wrong, count(*) AS lines
             FROM jsonb_array_elements(c.lines) AS line) AS l ON true
     WHERE l.is_wrong OR (c.state = 'active') <> (c.closed_time IS NULL) OR (l.lines = 0 AND c.reservation_id IS NOT NULL)""",
)

CLAIMS_NOT_OVERDUE = Rule(
    "claims_not_overdue",
    f"No reservation is active more than {OVERDUE_SECONDS} seconds past its deadline: a running server expires it.",
    f"""
    SELECT location_id, claim_id, reservation_id, deadline FROM claims
     WHERE state = 'active' AND deadline < now() - interval '{OVERDUE_SECONDS} seconds'""",
)

# The claims of one basket, and of each change of it, are journalled together: they have one created_time.
RESERVATIONS_WHOLE = Rule(
    "reservations_whole",
    "A basket is held, confirmed or given up whole: its claims, one a location, never part while its deadline has not passed.",
    """
    SELECT reservation_id, created_time, count(*) AS claims, array_agg(DISTINCT state ORDER BY state) AS states,
           array_agg(location_id ORDER BY location_id) AS location_ids
      FROM claims WHERE reservation_id IS NOT NULL GROUP BY 1, 2
    HAVING count(*) > count(DISTINCT location_id) OR count(DISTINCT order_id) > 1 OR count(DISTINCT channel) > 1
        OR (count(DISTINCT state) > 1 AND bool_or(state = 'confirmed' OR (state = 'active' AND deadline > now())))
     UNION ALL
    SELECT reservation_id, min(created_time), count(*), array_agg(DISTINCT state ORDER BY state),
           array_agg(location_id ORDER BY location_id)
      FROM claims WHERE state IN ('active', 'confirmed') AND reservation_id IS NOT NULL
     GROUP BY 1 HAVING count(DISTINCT created_time) > 1""",
)

CLAIMS_USED_ONCE = Rule(
    "claims_used_once",
    "What claims took for good (confirmed, consumed) is no more than what left `available` there, and was backordered or lost.",
    f"""
    WITH used AS (
        SELECT c.location_id, line ->> 0 AS sku, sum((line ->> 1)::int8)::int8 AS units
          FROM claims c CROSS JOIN jsonb_array_elements(c.lines) AS line
         WHERE c.state IN ('confirmed', 'consumed') GROUP BY 1, 2),
    gone AS (
        SELECT location_id, sku, sum(quantity)::int8 AS units FROM stock_movements
         WHERE from_bucket = 'available' GROUP BY 1, 2),
    {_BACKORDERED}
    SELECT location_id, sku, u.units AS claimed, coalesce(g.units, 0) AS moved, coalesce(b.units, 0) AS backordered
      FROM used u LEFT JOIN gone g USING (location_id, sku) LEFT JOIN backordered b USING (location_id, sku)
     WHERE u.units > coalesce(g.units, 0) + coalesce(b.units, 0)""",
)

DELTAS_CONTIGUOUS = Rule(
    "deltas_contiguous",
    "The increases of a location are numbered from 1 to its head without a gap.",
    """
    SELECT location_id, h.last_number, coalesce(d.deltas, 0) AS deltas, d.first_number, d.greatest_number
      FROM location_delta_heads h FULL JOIN (
           SELECT location_id, count(*) AS deltas, min(number) AS first_number, max(number) AS greatest_number
             FROM gate_deltas GROUP BY 1) AS d USING (location_id)
     WHERE h.last_number IS DISTINCT FROM coalesce(d.deltas, 0) OR h.last_number IS DISTINCT FROM coalesce(d.greatest_number, 0)
        OR d.first_number <> 1""",
)

INCREASES_NUMBERED = Rule(
    "increases_numbered",
    "Every unit that came into `available` is in a numbered increase for the gate, once, but for those that orders lacked and "
    "got at once, and every claimed unit that an order was promised without its being there; opening stock came before the gate.",
    f"""
    WITH numbered AS (
        SELECT d.location_id, line ->> 0 AS sku, sum((line ->> 1)::int8)::int8 AS units
          FROM gate_deltas d CROSS JOIN jsonb_array_elements(d.lines) AS line GROUP BY 1, 2),
    moved AS (
        SELECT location_id, sku, sum(CASE WHEN to_bucket = 'available' THEN quantity ELSE -quantity END)::int8 AS units
          FROM stock_movements
         WHERE (to_bucket = 'available' OR (from_bucket = 'available' AND reason_code = '{COVERED}'))
           AND NOT (reason_code = '{OPENING_STOCK}' AND from_bucket = 'supplier' AND reference_document LIKE 'import/%')
         GROUP BY 1, 2),
    {_BACKORDERED}
    SELECT location_id, sku, coalesce(m.units, 0) AS moved, coalesce(n.units, 0) AS numbered, coalesce(b.units, 0) AS backordered
      FROM moved m FULL JOIN numbered n USING (location_id, sku) FULL JOIN backordered b USING (location_id, sku)
     WHERE coalesce(m.units, 0) + coalesce(b.units, 0) <> coalesce(n.units, 0)""",
)

LOCATIONS_KNOWN_TO_GATE = Rule(
    "locations_have_epochs",
    "Every location has an epoch and a delta head, and is closed to mutations exactly if it is deleted.",
    """
    SELECT l.location_id, l.deleted_time, e.epoch, e.is_closed, h.last_number
      FROM locations l LEFT JOIN location_epochs e USING (location_id) LEFT JOIN location_delta_heads h USING (location_id)
     WHERE e.epoch IS NULL OR e.epoch < 1 OR h.last_number IS NULL OR e.is_closed <> (l.deleted_time IS NOT NULL)""",
)

DELETED_LOCATIONS_EMPTY = Rule(
    "deleted_locations_empty",
    "A deleted location holds no stock, no active reservation, no open fulfillment order, and no transfer, advance notice or "
    "count is open there.",
    """
    SELECT l.location_id, held.what, held.units
      FROM locations l CROSS JOIN LATERAL (
           SELECT 'stock' AS what, sum(available + allocated + damaged + quarantine)::int8 AS units
             FROM stock_levels s WHERE s.location_id = l.location_id
            UNION ALL
           SELECT 'reservations', count(*) FROM claims c WHERE c.location_id = l.location_id AND c.state = 'active'
            UNION ALL
           SELECT 'fulfillment orders', count(*) FROM fulfillment_orders f WHERE f.location_id = l.location_id
              AND f.state IN ('REQUESTED', 'ACCEPTED', 'PICKED', 'READY_FOR_PICKUP')
            UNION ALL
           SELECT 'transfers', count(*) FROM transfers t
            WHERE t.state IN ('REQUESTED', 'IN_TRANSIT') AND l.location_id IN (t.from_location_id, t.to_location_id)
            UNION ALL
           SELECT 'advance notices', count(*) FROM advance_notices n
            WHERE n.location_id = l.location_id AND n.state IN ('EXPECTED', 'RECEIVING')
            UNION ALL
           SELECT 'counts', count(*) FROM counts c
            WHERE c.location_id = l.location_id AND c.state IN ('COUNTING', 'REVIEW')) AS held
     WHERE l.deleted_time IS NOT NULL AND held.units <> 0""",
)

SHORTAGES = Rule(
    "shortages",
    "A shortage or count task of a sale refers to an order that exists; a shortage was told of by an event; a position has one "
    "open count task at most.",
    """
    SELECT h.location_id, h.sku, 'shortage of no order' AS problem, h.reference_document FROM shortages h
     WHERE h.reference_document ~ '^order/[0-9a-f-]{36}$'
       AND NOT EXISTS (SELECT FROM orders o WHERE 'order/' || o.order_id = h.reference_document)
     UNION ALL
    SELECT t.location_id, t.sku, 'count task of no order', t.reference_document FROM count_tasks t
     WHERE t.reason_code = 'SOLD_BEYOND_STOCK' AND NOT EXISTS (
           SELECT FROM orders o WHERE 'order/' || o.order_id = t.reference_document)
     UNION ALL
    SELECT h.location_id, h.sku, 'shortage without an event', h.reference_document
      FROM (SELECT location_id, sku, reference_document, count(*) AS shortages FROM shortages GROUP BY 1, 2, 3) AS h
      LEFT JOIN (SELECT location_id, data ->> 'sku' AS sku, data ->> 'reference_document' AS reference_document,
                        count(*) AS events
                   FROM events WHERE type = 'onhand.stock.shortage.v1' GROUP BY 1, 2, 3) AS e
             USING (location_id, sku, reference_document)
     WHERE h.shortages > coalesce(e.events, 0)
     UNION ALL
    SELECT location_id, sku, count(*) || ' open count tasks', max(reference_document) FROM count_tasks
     WHERE state = 'OPEN' GROUP BY 1, 2 HAVING count(*) > 1
     UNION ALL
    SELECT location_id, sku, 'count task ' || state || ', closed at ' || coalesce(closed_time::text, 'no time'), reference_document
      FROM count_tasks WHERE (state = 'DONE') <> (closed_time IS NOT NULL)""",
)

STOCK_RULES = (
    CONSERVATION,
    NO_NEGATIVE_BUCKET,
    APPEND_ONLY,
    NO_OVERSELL,
    CLAIMS_WELL_FORMED,
    CLAIMS_NOT_OVERDUE,
    RESERVATIONS_WHOLE,
    CLAIMS_USED_ONCE,
    DELTAS_CONTIGUOUS,
    INCREASES_NUMBERED,
    LOCATIONS_KNOWN_TO_GATE,
    DELETED_LOCATIONS_EMPTY,
    SHORTAGES,
)
