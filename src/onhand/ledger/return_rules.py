"""Rules of returns beyond the counter: what is announced, what came of it, what was paid without a proof, what was exchanged."""

from __future__ import annotations

from onhand.ledger.rule import Rule

RETURNS_HELD = Rule(
    "returns_held_once",
    "What came back of an order line and what may still come by open authorizations is no more than the customer got.",
    """
    WITH held AS (
        SELECT a.order_id, w.line_number, sum(w.quantity - w.received_quantity - w.refused_quantity)::int8 AS units
          FROM return_authorizations a JOIN return_authorization_lines w USING (return_authorization_id)
         WHERE a.state IN ('AUTHORIZED', 'PARTIALLY_RECEIVED') AND a.expires_time > now() GROUP BY 1, 2)
    SELECT order_id, line_number, l.fulfilled_quantity, l.returned_quantity, h.units AS held
      FROM held h LEFT JOIN order_lines l USING (order_id, line_number)
     WHERE l.order_id IS NULL OR l.returned_quantity + h.units > l.fulfilled_quantity""",
)

AUTHORIZATIONS = Rule(
    "return_authorizations",
    "What came of an authorization is the sum of its returns, what was refused is written down, and its state says what is left.",
    """
    WITH came AS (
        SELECT r.return_authorization_id, l.line_number, sum(l.quantity)::int8 AS units
          FROM returns r JOIN return_lines l USING (return_id) WHERE r.return_authorization_id IS NOT NULL GROUP BY 1, 2),
    refused AS (
        SELECT return_authorization_id, line_number, sum(quantity)::int8 AS units FROM return_refused_units GROUP BY 1, 2),
    whole AS (
        SELECT return_authorization_id, sum(received_quantity + refused_quantity)::int8 AS came,
               sum(quantity - received_quantity - refused_quantity)::int8 AS left_units
          FROM return_authorization_lines GROUP BY 1)
    SELECT return_authorization_id, line_number, w.received_quantity, coalesce(c.units, 0) AS returned, w.refused_quantity,
           coalesce(u.units, 0) AS refused, '' AS state
      FROM return_authorization_lines w FULL JOIN came c USING (return_authorization_id, line_number)
      LEFT JOIN refused u USING (return_authorization_id, line_number)
     WHERE (w.received_quantity, w.refused_quantity) IS DISTINCT FROM (coalesce(c.units, 0), coalesce(u.units, 0))
     UNION ALL
    SELECT return_authorization_id, 0, w.came, 0, w.left_units, 0, a.state
      FROM return_authorizations a LEFT JOIN whole w USING (return_authorization_id)
     WHERE NOT CASE a.state WHEN 'AUTHORIZED' THEN w.came = 0 WHEN 'PARTIALLY_RECEIVED' THEN w.came > 0 AND w.left_units > 0
                            WHEN 'CANCELLED' THEN w.came = 0 WHEN 'EXPIRED' THEN w.left_units > 0 ELSE w.came > 0 END
        OR w.return_authorization_id IS NULL""",
)

BLIND_RETURNS = Rule(
    "blind_returns_paid_once",
    "Every return without a proof was paid once, as its day counts it: as cash, or onto a gift card by a movement of that amount.",
    """
    WITH paid AS (
        SELECT r.return_id, r.customer_id, r.currency, r.refund_minor, b.day, b.refund_kind, b.return_id IS NOT NULL AS is_blind,
               coalesce(m.amount_minor, 0) AS moved_minor, r.kind
          FROM returns r FULL JOIN blind_returns b USING (return_id)
          LEFT JOIN gift_card_movements m ON m.gift_card_id = b.gift_card_id AND m.movement_id = b.movement_id
         WHERE r.kind = 'BLIND' OR b.return_id IS NOT NULL),
    days AS (
        SELECT customer_id, day, currency, count(*) AS returns, sum(refund_minor)::int8 AS refund_minor FROM paid GROUP BY 1, 2, 3)
    SELECT return_id::text AS what, refund_kind, refund_minor, moved_minor FROM paid
     WHERE NOT is_blind OR kind IS DISTINCT FROM 'BLIND'
        OR moved_minor <> CASE refund_kind WHEN 'CASH' THEN 0 ELSE refund_minor END
     UNION ALL
    SELECT customer_id || ' on ' || day, 'day', coalesce(p.refund_minor, 0), coalesce(d.refund_minor, 0)
      FROM days p FULL JOIN blind_return_days d USING (customer_id, day, currency)
     WHERE (p.returns, p.refund_minor) IS DISTINCT FROM (d.returns, d.refund_minor)""",
)

EXCHANGES = Rule(
    "exchanges_settled",
    "What an exchange carried over left the tenders of the one order and is a tender of the other; what it did not was given back.",
    """
    WITH given AS (
        SELECT reference_document, coalesce(sum(amount_minor) FILTER (WHERE reason_code = 'EXCHANGE'), 0)::int8 AS carried_minor,
               coalesce(sum(amount_minor) FILTER (WHERE reason_code <> 'EXCHANGE'), 0)::int8 AS back_minor
          FROM payment_operations
         WHERE kind IN ('VOID', 'REFUND') AND replaces IS NULL AND reference_document LIKE 'return/%' GROUP BY 1),
    whole AS (
        SELECT e.exchange_id, e.carried_minor, r.kind, r.refund_minor, coalesce(g.carried_minor, 0) AS taken_minor,
               coalesce(g.back_minor, 0) AS back_minor,
               (SELECT coalesce(sum(t.amount_minor), 0)::int8 FROM tenders t
                 WHERE t.order_id = e.order_id AND t.reference = 'exchange/' || e.exchange_id) AS tendered_minor
          FROM exchanges e JOIN returns r USING (return_id) LEFT JOIN given g ON g.reference_document = 'return/' || r.return_id)
    SELECT exchange_id::text, kind, carried_minor, taken_minor, tendered_minor, back_minor, refund_minor FROM whole
     WHERE kind <> 'EXCHANGE' OR carried_minor <> taken_minor OR carried_minor <> tendered_minor
        OR carried_minor + back_minor <> refund_minor
     UNION ALL
    SELECT return_id::text, 'return of no exchange', 0, 0, 0, 0, refund_minor FROM returns
     WHERE kind = 'EXCHANGE' AND return_id NOT IN (SELECT return_id FROM exchanges)
     UNION ALL
    SELECT p.operation_id::text, 'carried by no exchange', p.amount_minor, 0, 0, 0, 0 FROM payment_operations p
     WHERE p.reason_code = 'EXCHANGE'
       AND NOT EXISTS (SELECT FROM exchanges e WHERE 'return/' || e.return_id = p.reference_document)""",
)

RETURN_RULES = (RETURNS_HELD, AUTHORIZATIONS, BLIND_RETURNS, EXCHANGES)
