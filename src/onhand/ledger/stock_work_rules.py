"""Rules of stock work: transfers, advance notices and counts, beside the movements that they made."""

from __future__ import annotations

from onhand.ledger.rule import Rule

TRANSFERS = Rule(
    "transfers",
    "What a transfer dispatched left its origin; each of its units came in at its destination, came back, was lost, or is on its "
    "way, as its movements say; its state is what its lines say; and what it left out to follow was left out.",
    """
    WITH moved AS (
        SELECT substr(reference_document, 10) AS transfer_id, sku,
               coalesce(sum(quantity) FILTER (WHERE from_bucket = 'available'), 0)::int8 AS units_out,
               coalesce(sum(quantity) FILTER (WHERE to_bucket IN ('available', 'damaged') AND reason_code = 'TRANSFER_IN'), 0)::int8
                   AS units_in,
               coalesce(sum(quantity) FILTER (WHERE reason_code = 'TRANSFER_BACK'), 0)::int8 AS units_back,
               coalesce(sum(quantity) FILTER (WHERE reason_code = 'TRANSFER_OVER'), 0)::int8 AS units_over,
               coalesce(sum(CASE reason_code WHEN 'TRANSFER_LOST' THEN quantity WHEN 'TRANSFER_FOUND' THEN -quantity END), 0)::int8
                   AS units_lost,
               coalesce(sum(CASE 'in_transit' WHEN to_bucket THEN quantity ELSE -quantity END), 0)::int8 AS units_on_way,
               min(location_id) FILTER (WHERE is_origin) AS origin_first,
               max(location_id) FILTER (WHERE is_origin) AS origin_last,
               min(location_id) FILTER (WHERE NOT is_origin) AS destination_first,
               max(location_id) FILTER (WHERE NOT is_origin) AS destination_last
          FROM (SELECT *, from_bucket = 'available' OR reason_code = 'TRANSFER_BACK' AS is_origin FROM stock_movements
                 WHERE 'in_transit' IN (from_bucket, to_bucket)) AS m GROUP BY 1, 2),
    line AS (
        SELECT t.transfer_id::text AS transfer_id, l.sku, l.dispatched, l.received, l.over, l.lost, l.returned,
               l.dispatched + l.over - l.received - l.lost - l.returned AS on_way,
               t.from_location_id, t.to_location_id, t.state, t.from_transfer_id, l.requested,
               CASE WHEN NOT bool_or(l.dispatched + l.over > 0) OVER w THEN ARRAY['REQUESTED', 'CANCELLED']
                    WHEN bool_or(l.dispatched + l.over > l.received + l.lost + l.returned) OVER w THEN ARRAY['IN_TRANSIT']
                    WHEN bool_or(l.lost + l.returned > 0) OVER w THEN ARRAY['CLOSED']
                    ELSE ARRAY['RECEIVED'] END AS states
          FROM transfers t LEFT JOIN transfer_lines l USING (transfer_id) WINDOW w AS (PARTITION BY t.transfer_id))
    SELECT transfer_id, sku, l.state, l.dispatched, m.units_out, l.received, m.units_in, l.over, m.units_over, l.lost, m.units_lost,
           l.returned, m.units_back, l.on_way, m.units_on_way, l.from_location_id, m.origin_first, l.to_location_id,
           m.destination_first
      FROM line l FULL JOIN moved m USING (transfer_id, sku)
     WHERE (coalesce(l.dispatched, 0), coalesce(l.received, 0), coalesce(l.over, 0), coalesce(l.lost, 0), coalesce(l.returned, 0),
            coalesce(l.on_way, 0)) IS DISTINCT FROM
           (coalesce(m.units_out, 0), coalesce(m.units_in, 0), coalesce(m.units_over, 0), coalesce(m.units_lost, 0),
            coalesce(m.units_back, 0), coalesce(m.units_on_way, 0))
        OR coalesce(m.origin_first <> l.from_location_id OR m.origin_last <> l.from_location_id, false)
        OR coalesce(m.destination_first <> l.to_location_id OR m.destination_last <> l.to_location_id, false)
        OR (l.state = ANY (l.states)) IS FALSE OR (l.transfer_id IS NOT NULL AND l.sku IS NULL)
        OR (l.from_transfer_id IS NOT NULL AND l.requested > 0
            AND (SELECT f.requested - f.dispatched FROM transfer_lines f
                  WHERE (f.transfer_id, f.sku) = (l.from_transfer_id, l.sku)) IS DISTINCT FROM l.requested)""",
)

ADVANCE_NOTICES = Rule(
    "advance_notices",
    "What a notice says was received came in from the supplier at its location, once, and its state is what its lines say.",
    """
    WITH moved AS (
        SELECT substr(reference_document, 16) AS advance_notice_id, sku, sum(quantity)::int8 AS units_in,
               coalesce(sum(quantity) FILTER (WHERE to_bucket = 'damaged'), 0)::int8 AS units_damaged,
               min(location_id) AS location_first, max(location_id) AS location_last
          FROM stock_movements WHERE from_bucket = 'supplier' AND reason_code = 'NOTICE_RECEIPT' GROUP BY 1, 2),
    line AS (
        SELECT n.advance_notice_id::text AS advance_notice_id, n.location_id, n.state, l.sku, l.expected, l.received, l.damaged,
               CASE WHEN NOT bool_or(l.received > 0) OVER w THEN ARRAY['EXPECTED', 'CLOSED', 'CANCELLED']
                    WHEN bool_or(l.received < l.expected) OVER w THEN ARRAY['RECEIVING', 'CLOSED']
                    ELSE ARRAY['RECEIVED'] END AS states
          FROM advance_notices n LEFT JOIN advance_notice_lines l USING (advance_notice_id)
        WINDOW w AS (PARTITION BY n.advance_notice_id))
    SELECT advance_notice_id, sku, l.state, l.expected, l.received, m.units_in, l.damaged, m.units_damaged, l.location_id,
           m.location_first
      FROM line l FULL JOIN moved m USING (advance_notice_id, sku)
     WHERE (coalesce(l.received, 0), coalesce(l.damaged, 0)) <> (coalesce(m.units_in, 0), coalesce(m.units_damaged, 0))
        OR coalesce(m.location_first <> l.location_id OR m.location_last <> l.location_id, false)
        OR (l.state = ANY (l.states)) IS FALSE OR (l.advance_notice_id IS NOT NULL AND l.sku IS NULL)""",
)

COUNTS = Rule(
    "counts",
    "A line of a count was booked exactly if it is approved: what its movements and the shortfalls that it opened changed is what "
    "it says; every attempt at it is kept; and the state of a count is what its lines say.",
    """
    WITH lines AS (
        SELECT c.count_id, c.location_id, c.state AS count_state, l.*,
               CASE WHEN bool_or(l.state = 'DROPPED') OVER w THEN 'CANCELLED'
                    WHEN bool_or(l.state = 'TO_COUNT') OVER w THEN 'COUNTING'
                    WHEN bool_or(l.state = 'COUNTED') OVER w THEN 'REVIEW' ELSE 'APPROVED' END AS due_state
          FROM counts c LEFT JOIN (SELECT count_id AS of_count, sku, state, attempts, counted, booked FROM count_lines) AS l
               ON l.of_count = c.count_id WINDOW w AS (PARTITION BY c.count_id)),
    moved AS (
        SELECT location_id, reference_document, sku,
               sum(CASE 'adjustment' WHEN from_bucket THEN quantity ELSE -quantity END)::int8 AS units
          FROM stock_movements WHERE reason_code = 'COUNT' AND reference_document LIKE 'count/%' GROUP BY 1, 2, 3),
    shorted AS (
        SELECT location_id, reference_document, sku, sum(quantity)::int8 AS units
          FROM shortfalls WHERE cause = 'COUNT' AND reference_document LIKE 'count/%' GROUP BY 1, 2, 3),
    tried AS (SELECT count_id, sku, count(*) AS attempts, max(attempt) AS last_attempt FROM count_attempts GROUP BY 1, 2),
    reported AS (SELECT count_id, sku, count(*) AS reports, sum(booked)::int8 AS units FROM count_variances GROUP BY 1, 2)
    SELECT l.count_id, l.sku, l.count_state, l.due_state, l.state, l.booked, coalesce(m.units, 0) AS moved,
           coalesce(s.units, 0) AS short, l.attempts, coalesce(t.attempts, 0) AS attempts_kept, coalesce(r.units, 0) AS reported
      FROM lines l
      LEFT JOIN moved m ON (m.location_id, m.reference_document, m.sku) = (l.location_id, 'count/' || l.count_id, l.sku)
      LEFT JOIN shorted s ON (s.location_id, s.reference_document, s.sku) = (l.location_id, 'count/' || l.count_id, l.sku)
      LEFT JOIN tried t ON (t.count_id, t.sku) = (l.count_id, l.sku)
      LEFT JOIN reported r ON (r.count_id, r.sku) = (l.count_id, l.sku)
     WHERE l.sku IS NULL OR l.count_state <> l.due_state
        OR coalesce(l.booked, 0) <> coalesce(m.units, 0) - coalesce(s.units, 0)
        OR l.attempts <> coalesce(t.attempts, 0) OR l.attempts <> coalesce(t.last_attempt, 0)
        OR coalesce(l.booked, 0) <> coalesce(r.units, 0) OR coalesce(r.reports, 0) > 1""",
)

STOCK_WORK_RULES = (TRANSFERS, ADVANCE_NOTICES, COUNTS)
