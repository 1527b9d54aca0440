"""Rules of orders: what was sold, promised, handed over, paid, refunded, and taken back. States are those of onhand.domain."""

from __future__ import annotations

from onhand.domain.order import CANCELLABLE, EMPTY, HOLDING, INITIAL, LEFT, ORDER_STATES, PHASES, TRANSITIONS
from onhand.domain.shortage import NEVER_ALLOCATED, OF_STOCK
from onhand.ledger.rule import Rule, sql_list
from onhand.ledger.shortfalls import COVERED, FILLED

# Units that are still with the location, and units that the customer got or that are on their way to them.
_HELD = sql_list(state.value for state in HOLDING)
_OPEN = sql_list(state.value for state in CANCELLABLE)
_LEFT = sql_list(state.value for state in LEFT)
_OF_STOCK = sql_list(cause.value for cause in OF_STOCK)
_NEVER_ALLOCATED = sql_list(cause.value for cause in NEVER_ALLOCATED)
_EMPTY = sql_list(state.value for state in EMPTY)
_LEGAL = ", ".join(
    f"('{kind.value}', '{state.value}')"
    for kind, state in sorted(
        {*INITIAL.items(), *((kind, to) for (kind, _, _), to in TRANSITIONS.items())},
        key=lambda pair: (pair[0].value, pair[1].value),
    )
)
_PHASES = ", ".join(f"('{state.value}', '{phase.value}')" for state, phase in PHASES.items())
_ORDER_STATES = ", ".join(
    f"('{','.join(sorted(phase.value for phase in phases))}', '{state.value}')"
    for phases, state in ORDER_STATES.items()
)

# A paid order is never short in silence: `short` is open shortfalls, by promises_visible.
ALLOCATED = Rule(
    "allocated_is_promised",
    "In every location and sku `allocated` and `short` together are what its open fulfillment orders still have to bring.",
    f"""
    WITH promised AS (
        SELECT f.location_id, p.sku, sum(p.quantity - p.cancelled_quantity - p.moved_quantity)::int8 AS units
          FROM fulfillment_orders f JOIN fulfillment_lines p USING (fulfillment_order_id)
         WHERE f.state IN ({_HELD}) GROUP BY 1, 2)
    SELECT location_id, sku, coalesce(s.allocated, 0) AS allocated, coalesce(s.short, 0) AS short,
           coalesce(p.units, 0) AS promised
      FROM stock_levels s FULL JOIN promised p USING (location_id, sku)
     WHERE coalesce(s.allocated + s.short, 0) <> coalesce(p.units, 0)""",
)

ORDER_LINES = Rule(
    "order_lines",
    "An order line is its parts at the locations: fulfilled + cancelled + open = quantity, of one sku, and nothing besides.",
    f"""
    WITH part AS (
        SELECT f.order_id, p.line_number, min(p.sku) AS sku_first, max(p.sku) AS sku_last,
               sum(p.quantity - p.moved_quantity)::int8 AS quantity, sum(p.cancelled_quantity)::int8 AS cancelled,
               coalesce(sum(p.quantity - p.cancelled_quantity - p.moved_quantity) FILTER (WHERE f.state IN ({_LEFT})), 0)::int8
                   AS fulfilled,
               coalesce(sum(p.quantity - p.cancelled_quantity - p.moved_quantity) FILTER (WHERE f.state IN ({_OPEN})), 0)::int8
                   AS open
          FROM fulfillment_orders f JOIN fulfillment_lines p USING (fulfillment_order_id) GROUP BY 1, 2)
    SELECT order_id, line_number, l.sku, l.quantity, l.fulfilled_quantity, l.cancelled_quantity, p.sku_first AS part_sku,
           p.quantity AS part_quantity, p.fulfilled AS part_fulfilled, p.cancelled AS part_cancelled, p.open AS part_open
      FROM order_lines l FULL JOIN part p USING (order_id, line_number)
     WHERE (l.sku, l.sku, l.quantity, l.fulfilled_quantity, l.cancelled_quantity)
           IS DISTINCT FROM (p.sku_first, p.sku_last, p.quantity, p.fulfilled, p.cancelled)
        OR l.quantity <> l.fulfilled_quantity + l.cancelled_quantity + p.open""",
)

ORDER_STATES_DERIVED = Rule(
    "order_states",
    "An order's state is the one that follows from its fulfillment orders, of which it has at least one.",
    f"""
    WITH phase AS (
        SELECT f.order_id, string_agg(DISTINCT p.phase, ',' ORDER BY p.phase) AS phases
          FROM fulfillment_orders f JOIN (VALUES {_PHASES}) AS p (state, phase) USING (state) GROUP BY 1)
    SELECT o.order_id, o.state, d.state AS derived, phase.phases
      FROM orders o LEFT JOIN phase USING (order_id) LEFT JOIN (VALUES {_ORDER_STATES}) AS d (phases, state) USING (phases)
     WHERE d.state IS DISTINCT FROM o.state""",
)

FULFILLMENT_STATES = Rule(
    "fulfillment_states",
    "A fulfillment order is in a state that its kind can reach, has lines, nothing is left of them exactly if nobody has to bring "
    "them any more (cancelled, moved, no-show, restocked), and another of its order is where it comes from, if one is.",
    f"""
    SELECT f.fulfillment_order_id, f.order_id, f.kind, f.state, p.lines, p.left
      FROM fulfillment_orders f LEFT JOIN LATERAL (
           SELECT count(*) AS lines, coalesce(sum(quantity - cancelled_quantity - moved_quantity), 0)::int8 AS left
             FROM fulfillment_lines p WHERE p.fulfillment_order_id = f.fulfillment_order_id) AS p ON true
     WHERE (f.kind, f.state) NOT IN ({_LEGAL}) OR p.lines = 0 OR (f.state IN ({_EMPTY})) <> (p.left = 0)
        OR (f.from_fulfillment_order_id IS NOT NULL AND NOT EXISTS (
               SELECT FROM fulfillment_orders o
                WHERE o.fulfillment_order_id = f.from_fulfillment_order_id AND o.order_id = f.order_id))""",
)

SHIPMENTS = Rule(
    "shipments",
    "What is shipped left in parcels whose lines are what it has, of what is delivered each arrived, of what came back each came "
    "back, and nothing that is not picked has any.",
    """
    WITH parcel AS (
        SELECT s.fulfillment_order_id, count(*) AS parcels, count(s.shipped_time) AS shipped,
               count(s.delivered_time) AS delivered, count(s.returned_time) AS returned
          FROM shipments s GROUP BY 1),
    wrong AS (
        SELECT s.fulfillment_order_id, l.line_number, sum(l.quantity)::int8 AS packed, coalesce(p.units, 0) AS units
          FROM shipments s JOIN shipment_lines l USING (shipment_id)
          LEFT JOIN (SELECT fulfillment_order_id, line_number, quantity - cancelled_quantity - moved_quantity AS units
                       FROM fulfillment_lines) AS p USING (fulfillment_order_id, line_number)
         GROUP BY 1, 2, 4),
    content AS (
        SELECT f.fulfillment_order_id, coalesce(sum(l.quantity), 0)::int8 AS packed,
               (SELECT sum(p.quantity - p.cancelled_quantity - p.moved_quantity)::int8 FROM fulfillment_lines p
                 WHERE p.fulfillment_order_id = f.fulfillment_order_id) AS units
          FROM fulfillment_orders f LEFT JOIN shipments s USING (fulfillment_order_id)
          LEFT JOIN shipment_lines l USING (shipment_id)
         WHERE f.state IN ('SHIPPED', 'DELIVERED', 'RETURNED') GROUP BY 1)
    SELECT f.fulfillment_order_id, 'parcels of another state' AS problem, f.kind, f.state, coalesce(p.parcels, 0) AS shipments,
           coalesce(p.delivered, 0) AS delivered, NULL::int8 AS packed, NULL::int8 AS units
      FROM fulfillment_orders f LEFT JOIN parcel p USING (fulfillment_order_id)
     WHERE CASE WHEN f.state IN ('SHIPPED', 'DELIVERED', 'RETURNED')
                THEN coalesce(p.parcels, 0) = 0 OR p.shipped <> p.parcels
                WHEN f.state = 'PICKED' AND f.kind = 'SHIP' THEN coalesce(p.shipped, 0) > 0
                ELSE coalesce(p.parcels, 0) > 0 END
        OR coalesce(p.delivered, 0) <> CASE f.state WHEN 'DELIVERED' THEN p.parcels ELSE 0 END
        OR coalesce(p.returned, 0) <> CASE f.state WHEN 'RETURNED' THEN p.parcels ELSE 0 END
     UNION ALL
    SELECT fulfillment_order_id, 'more of line ' || line_number || ' is packed than it has', NULL, NULL, NULL, NULL, packed, units
      FROM wrong WHERE packed > units
     UNION ALL
    SELECT fulfillment_order_id, 'packed other units than left', NULL, NULL, NULL, NULL, packed, units
      FROM content WHERE packed <> units""",
)

# onhand.domain.money.line_total
LINE_TOTALS = Rule(
    "line_totals",
    "A line costs its price times its quantity, half a minor unit rounded up.",
    """
    SELECT order_id, line_number, quantity, amount_minor, price_quantity, total_minor FROM order_lines
     WHERE total_minor <> div(2::numeric * amount_minor * quantity + price_quantity, 2::numeric * price_quantity)""",
)

ORDER_TOTALS = Rule(
    "order_totals",
    "An order costs the sum of its lines, of which it has at least one.",
    """
    SELECT order_id, o.total_minor, l.total_minor AS lines_minor
      FROM orders o LEFT JOIN (SELECT order_id, sum(total_minor)::int8 AS total_minor FROM order_lines GROUP BY 1) AS l
           USING (order_id)
     WHERE o.total_minor IS DISTINCT FROM l.total_minor""",
)

TENDERS = Rule(
    "tenders_cover_total",
    "What was tendered for an order is what it costs, but for substitutes, which what they replace has paid for.",
    """
    SELECT order_id, o.total_minor, coalesce(t.amount_minor, 0) AS tendered_minor, coalesce(l.total_minor, 0) AS substitutes_minor
      FROM orders o LEFT JOIN (SELECT order_id, sum(amount_minor)::int8 AS amount_minor FROM tenders
                             WHERE change_id IS NULL GROUP BY 1) AS t USING (order_id)
      LEFT JOIN (SELECT order_id, sum(total_minor)::int8 AS total_minor FROM order_lines
                  WHERE substitutes_line IS NOT NULL GROUP BY 1) AS l USING (order_id)
     WHERE o.total_minor <> coalesce(t.amount_minor, 0) + coalesce(l.total_minor, 0)""",
)

# onhand.domain.returns.refund adds up to the share of all units so far, so the sum is known from their number alone.
REFUNDS = Rule(
    "refunds",
    "What was given back for a line is the share of its cancelled and returned units in what was paid for it, never more.",
    """
    WITH line AS (
        SELECT order_id, line_number, quantity, cancelled_quantity, returned_quantity, total_minor, refunded_minor,
               div(2::numeric * total_minor * (cancelled_quantity + returned_quantity) + quantity, 2::numeric * quantity) AS share
          FROM order_lines WHERE cancelled_quantity > 0 OR returned_quantity > 0 OR refunded_minor > 0),
    returned AS (
        SELECT r.order_id, l.line_number, sum(l.refund_minor)::int8 AS refund_minor
          FROM returns r JOIN return_lines l USING (return_id) GROUP BY 1, 2)
    SELECT order_id, line_number, quantity, cancelled_quantity, returned_quantity, total_minor, refunded_minor,
           share AS due_minor, coalesce(r.refund_minor, 0) AS returns_minor
      FROM line LEFT JOIN returned r USING (order_id, line_number)
     WHERE refunded_minor <> share OR refunded_minor > total_minor OR coalesce(r.refund_minor, 0) > refunded_minor
        OR (cancelled_quantity = 0 AND coalesce(r.refund_minor, 0) <> refunded_minor)""",
)

REFUNDS_PAID = Rule(
    "refunds_within_payment",
    "Refunds of an order are in sum no more than what was tendered for it; what paid for substitutes did not leave.",
    """
    SELECT l.order_id, l.refunded_minor, coalesce(t.amount_minor, 0) AS tendered_minor, l.substitutes_minor
      FROM (SELECT order_id, sum(refunded_minor)::int8 AS refunded_minor,
                   coalesce(sum(total_minor) FILTER (WHERE substitutes_line IS NOT NULL), 0)::int8 AS substitutes_minor
              FROM order_lines GROUP BY 1) AS l
      LEFT JOIN (SELECT order_id, sum(amount_minor)::int8 AS amount_minor FROM tenders WHERE change_id IS NULL GROUP BY 1) AS t
           USING (order_id)
     WHERE l.refunded_minor > coalesce(t.amount_minor, 0) + l.substitutes_minor""",
)

RETURNED = Rule(
    "returned_units",
    "What came back of an order line is the sum of its return lines, of the same sku, and no more than the customer got.",
    """
    WITH back AS (
        SELECT r.order_id, l.line_number, min(l.sku) AS sku_first, max(l.sku) AS sku_last, sum(l.quantity)::int8 AS quantity
          FROM returns r JOIN return_lines l USING (return_id) WHERE r.order_id IS NOT NULL GROUP BY 1, 2)
    SELECT order_id, line_number, l.sku, l.fulfilled_quantity, l.returned_quantity, b.sku_first AS returned_sku,
           coalesce(b.quantity, 0) AS return_lines
      FROM order_lines l FULL JOIN back b USING (order_id, line_number)
     WHERE l.returned_quantity IS DISTINCT FROM coalesce(b.quantity, 0) OR l.returned_quantity > l.fulfilled_quantity
        OR b.sku_first <> l.sku OR b.sku_last <> l.sku""",
)

RETURN_TOTALS = Rule(
    "return_totals",
    "A return gives back the sum of its lines, of which it has at least one.",
    """
    SELECT return_id, r.order_id, r.refund_minor, l.refund_minor AS lines_minor
      FROM returns r LEFT JOIN (SELECT return_id, sum(refund_minor)::int8 AS refund_minor FROM return_lines GROUP BY 1) AS l
           USING (return_id)
     WHERE r.refund_minor IS DISTINCT FROM l.refund_minor""",
)

# Only orders move units between these buckets, so a movement that belongs to none is found too.
ORDERS_MOVED = Rule(
    "orders_moved_once",
    "Units were allocated, freed and handed over exactly as the fulfillment orders say, once each; what was short when it was "
    "cancelled, rejected or moved was not there to be freed, nor was what was backordered or lost there to be allocated.",
    f"""
    WITH absent AS (
        SELECT s.fulfillment_order_id, s.line_number, sum(e.quantity)::int8 AS units
          FROM shortfalls s JOIN shortfall_ends e USING (shortfall_id)
         WHERE e.reason IN ('CANCELLED', 'REJECTED', 'RESOURCED') AND s.cause IN ({_OF_STOCK}) GROUP BY 1, 2),
    backordered AS (
        SELECT fulfillment_order_id, line_number, sum(quantity)::int8 AS units FROM shortfalls
         WHERE cause IN ({_NEVER_ALLOCATED}) GROUP BY 1, 2),
    due AS (
        SELECT 'order/' || f.order_id AS document, f.location_id, p.sku,
               coalesce(sum(p.quantity - coalesce(b.units, 0)) FILTER (WHERE f.kind <> 'CARRY_OUT'), 0)::int8 AS allocated,
               coalesce(sum(CASE WHEN f.reject_reason IS NULL THEN p.cancelled_quantity + p.moved_quantity ELSE p.quantity END
                            - coalesce(a.units, 0)) FILTER (WHERE f.kind <> 'CARRY_OUT'), 0)::int8 AS freed,
               coalesce(sum(p.quantity - p.cancelled_quantity - p.moved_quantity)
                        FILTER (WHERE f.kind <> 'CARRY_OUT' AND f.state IN ({_LEFT})), 0)::int8 AS handed_over,
               coalesce(sum(p.quantity) FILTER (WHERE f.kind = 'CARRY_OUT'), 0)::int8 AS sold
          FROM fulfillment_orders f JOIN fulfillment_lines p USING (fulfillment_order_id)
          LEFT JOIN absent a USING (fulfillment_order_id, line_number)
          LEFT JOIN backordered b USING (fulfillment_order_id, line_number) GROUP BY 1, 2, 3),
    moved AS (
        SELECT reference_document AS document, location_id, sku,
               coalesce(sum(quantity) FILTER (WHERE from_bucket = 'available' AND to_bucket = 'allocated'), 0)::int8 AS allocated,
               coalesce(sum(quantity) FILTER (WHERE from_bucket = 'allocated' AND to_bucket <> 'customer'), 0)::int8 AS freed,
               coalesce(sum(quantity) FILTER (WHERE from_bucket = 'allocated' AND to_bucket = 'customer'), 0)::int8
                   AS handed_over,
               coalesce(sum(quantity) FILTER (WHERE from_bucket = 'available' AND to_bucket = 'customer'), 0)::int8 AS sold
          FROM stock_movements
         WHERE ((from_bucket, to_bucket) IN (('available', 'allocated'), ('allocated', 'available'), ('allocated', 'customer'),
                                             ('available', 'customer'))
                OR (from_bucket, reason_code) IN (('allocated', 'REJECTED_NOT_FOUND'), ('allocated', 'REJECTED_DAMAGED'),
                                                  ('allocated', 'NO_SHOW')))
           AND reason_code NOT IN ('{COVERED}', '{FILLED}') AND reference_document NOT LIKE 'repair/%' GROUP BY 1, 2, 3)
    SELECT document, location_id, sku, coalesce(d.allocated, 0) AS allocated_due, coalesce(m.allocated, 0) AS allocated_moved,
           coalesce(d.freed, 0) AS freed_due, coalesce(m.freed, 0) AS freed_moved,
           coalesce(d.handed_over, 0) AS handed_over_due, coalesce(m.handed_over, 0) AS handed_over_moved,
           coalesce(d.sold, 0) AS sold_due, coalesce(m.sold, 0) AS sold_moved
      FROM due d FULL JOIN moved m USING (document, location_id, sku)
     WHERE (coalesce(d.allocated, 0), coalesce(d.freed, 0), coalesce(d.handed_over, 0), coalesce(d.sold, 0)) <>
           (coalesce(m.allocated, 0), coalesce(m.freed, 0), coalesce(m.handed_over, 0), coalesce(m.sold, 0))""",
)

RETURNS_MOVED = Rule(
    "returns_moved_once",
    "Units came back from customers exactly as the returns say, once each, into the bucket that was decided.",
    """
    WITH due AS (
        SELECT 'return/' || r.return_id AS document, r.location_id, l.sku,
               CASE l.disposition WHEN 'supplier' THEN 'quarantine' ELSE l.disposition END AS disposition,
               sum(l.quantity)::int8 AS units
          FROM returns r JOIN return_lines l USING (return_id) GROUP BY 1, 2, 3, 4),
    moved AS (
        SELECT reference_document AS document, location_id, sku, to_bucket AS disposition, sum(quantity)::int8 AS units
          FROM stock_movements WHERE from_bucket = 'customer' GROUP BY 1, 2, 3, 4)
    SELECT document, location_id, sku, disposition, coalesce(d.units, 0) AS returned, coalesce(m.units, 0) AS moved
      FROM due d FULL JOIN moved m USING (document, location_id, sku, disposition)
     WHERE d.units IS DISTINCT FROM m.units""",
)

CONFIRMED_CLAIMS = Rule(
    "confirmed_claims",
    "Every confirmed reservation is the order's that names it, and what it claimed is what the order's locations have to bring, "
    "but for what they took over later.",
    """
    WITH claimed AS (
        SELECT c.order_id, c.reservation_id, c.location_id, line ->> 0 AS sku, sum((line ->> 1)::int8)::int8 AS units
          FROM claims c CROSS JOIN jsonb_array_elements(c.lines) AS line WHERE c.state = 'confirmed' GROUP BY 1, 2, 3, 4),
    due AS (
        SELECT f.order_id, o.reservation_id, f.location_id, p.sku, sum(p.quantity)::int8 AS units
          FROM fulfillment_orders f JOIN fulfillment_lines p USING (fulfillment_order_id) JOIN orders o USING (order_id)
         WHERE f.kind <> 'CARRY_OUT' AND NOT p.is_taken_over GROUP BY 1, 2, 3, 4)
    SELECT order_id, reservation_id, location_id, sku, c.units AS claimed, d.units AS ordered
      FROM claimed c FULL JOIN due d USING (order_id, reservation_id, location_id, sku)
     WHERE c.units IS DISTINCT FROM d.units""",
)

CARTS = Rule(
    "ordered_carts",
    "An ordered cart and its order name each other, one each, with the same lines (but for those added later) in the same "
    "currency.",
    """
    WITH pair AS (
        SELECT c.cart_id, c.state, c.order_id AS cart_order_id, o.order_id, c.currency AS cart_currency, o.currency,
               EXISTS (SELECT FROM (SELECT sku, quantity FROM cart_lines l WHERE l.cart_id = c.cart_id) AS l
                         FULL JOIN (SELECT sku, sum(quantity) AS quantity FROM order_lines n
                                     WHERE n.order_id = o.order_id AND n.added_time IS NULL GROUP BY 1) AS n USING (sku)
                        WHERE l.quantity IS DISTINCT FROM n.quantity) AS is_different
          FROM (SELECT * FROM carts WHERE state = 'ORDERED'
                    OR cart_id IN (SELECT cart_id FROM orders WHERE cart_id IS NOT NULL)) AS c
          LEFT JOIN orders o USING (cart_id))
    SELECT cart_id, order_id, state AS cart_state, cart_order_id, cart_currency, currency,
           CASE WHEN cart_order_id IS DISTINCT FROM order_id THEN 'do not name each other'
                WHEN cart_currency <> currency THEN 'differ in currency' ELSE 'differ in lines' END AS problem
      FROM pair WHERE cart_order_id IS DISTINCT FROM order_id OR cart_currency <> currency OR is_different""",
)

# The id is what comes first in the first field of each of these answers: tag 0x0a, length 0x24, the text of a UUID.
EXACTLY_ONCE = Rule(
    "requests_once",
    "Every recorded request has its answer, and every order, return, exchange, return authorization, transfer, advance notice, "
    "count and reservation was made by exactly one of them; what is reserved for a change, by its checkout.",
    """
    WITH answered AS (
        SELECT m.kind, encode(substring(r.response FROM position('\\x0a24'::bytea IN r.response) + 2 FOR 36), 'escape') AS id,
               count(*) AS requests
          FROM requests r JOIN (VALUES ('PlaceOrderRequest', 'order'), ('SellRequest', 'order'),
               ('CreateReturnRequest', 'return'), ('ReturnUndeliveredRequest', 'return'), ('DispatchTransferRequest', 'transfer'),
               ('RequestTransferRequest', 'transfer'), ('CreateAdvanceNoticeRequest', 'advance notice'),
               ('StartCountRequest', 'count'), ('ReserveRequest', 'reservation'), ('SourceReservationRequest', 'reservation'),
               ('AuthorizeReturnRequest', 'return authorization'), ('ReceiveReturnRequest', 'return'),
               ('CreateBlindReturnRequest', 'return'), ('CreateExchangeRequest', 'exchange'))
               AS m (method, kind) USING (method)
         WHERE r.response IS NOT NULL
           -- A parcel that was refused whole is answered without a return, whose field would be the first.
           AND (method <> 'ReceiveReturnRequest' OR get_byte(r.response, 0) = 10) GROUP BY 1, 2
         UNION ALL SELECT 'reservation', reservation_id::text, 1 FROM checkouts WHERE change_of IS NOT NULL),
    made AS (
        SELECT 'order' AS kind, order_id::text AS id FROM orders WHERE order_id NOT IN (SELECT order_id FROM exchanges)
         UNION ALL SELECT 'return', return_id::text FROM returns WHERE return_id NOT IN (SELECT return_id FROM exchanges)
         UNION ALL SELECT 'exchange', exchange_id::text FROM exchanges
         UNION ALL SELECT 'return authorization', return_authorization_id::text FROM return_authorizations
         UNION ALL SELECT 'transfer', transfer_id::text FROM transfers WHERE from_transfer_id IS NULL
         UNION ALL SELECT 'advance notice', advance_notice_id::text FROM advance_notices
         UNION ALL SELECT 'count', count_id::text FROM counts
         UNION ALL SELECT DISTINCT 'reservation', reservation_id::text FROM claims WHERE reservation_id IS NOT NULL)
    SELECT kind, id, made.id IS NOT NULL AS exists, coalesce(a.requests, 0) AS requests
      FROM made FULL JOIN answered a USING (kind, id) WHERE made.id IS NULL OR a.requests IS DISTINCT FROM 1
     UNION ALL
    SELECT 'request without an answer', request_id, false, 1 FROM requests WHERE response IS NULL""",
)

EVENTS_ONCE = Rule(
    "events_once",
    "Every order and every return was told of by exactly one event, and no event tells of one that is not there.",
    """
    WITH told AS (
        SELECT subject, count(*) AS events FROM events
         WHERE type IN ('onhand.order.placed.v1', 'onhand.sale.recorded.v1', 'onhand.return.created.v1') GROUP BY 1),
    made AS (SELECT 'order/' || order_id AS subject FROM orders UNION ALL SELECT 'return/' || return_id FROM returns)
    SELECT subject, coalesce(t.events, 0) AS events, made.subject IS NOT NULL AS exists
      FROM made FULL JOIN told t USING (subject) WHERE made.subject IS NULL OR t.events IS DISTINCT FROM 1""",
)

NO_SHOWS = Rule(
    "no_shows",
    "Goods stand aside for a no-show only, until they are put away, and are among those that it brought there.",
    """
    WITH aside AS (
        SELECT 'order/' || f.order_id AS document, f.location_id, p.sku, sum(p.aside_quantity)::int8 AS units
          FROM fulfillment_orders f JOIN fulfillment_lines p USING (fulfillment_order_id)
         WHERE p.aside_quantity > 0 GROUP BY 1, 2, 3),
    moved AS (
        SELECT reference_document AS document, location_id, sku,
               coalesce(sum(quantity) FILTER (WHERE reason_code = 'NO_SHOW'), 0)::int8 AS set_aside,
               coalesce(sum(quantity) FILTER (WHERE reason_code = 'PUT_AWAY'), 0)::int8 AS put_away
          FROM stock_movements
         WHERE (reason_code, from_bucket, to_bucket) IN (('NO_SHOW', 'allocated', 'quarantine'),
               ('PUT_AWAY', 'quarantine', 'available'), ('PUT_AWAY', 'quarantine', 'damaged')) GROUP BY 1, 2, 3)
    SELECT document, location_id, sku, 'more stands aside than was brought there' AS problem, m.set_aside, m.put_away,
           coalesce(a.units, 0) AS aside
      FROM moved m FULL JOIN aside a USING (document, location_id, sku)
     WHERE coalesce(m.put_away, 0) + coalesce(a.units, 0) > coalesce(m.set_aside, 0)
     UNION ALL
    SELECT 'order/' || f.order_id, f.location_id, p.sku, 'stands aside and the work is ' || f.state, NULL, NULL, p.aside_quantity
      FROM fulfillment_orders f JOIN fulfillment_lines p USING (fulfillment_order_id)
     WHERE p.aside_quantity > 0 AND f.state <> 'NO_SHOW'""",
)

ORDER_RULES = (
    ALLOCATED,
    ORDER_LINES,
    ORDER_STATES_DERIVED,
    FULFILLMENT_STATES,
    NO_SHOWS,
    SHIPMENTS,
    LINE_TOTALS,
    ORDER_TOTALS,
    TENDERS,
    REFUNDS,
    REFUNDS_PAID,
    RETURNED,
    RETURN_TOTALS,
    ORDERS_MOVED,
    RETURNS_MOVED,
    CONFIRMED_CLAIMS,
    CARTS,
    EXACTLY_ONCE,
    EVENTS_ONCE,
)
