"""Rules of money: sums of tenders against their operations, orders against their tenders, gift cards against their movements."""

from __future__ import annotations

from onhand.ledger.rule import Rule

PAYMENT_SUMS = Rule(
    "payment_sums",
    "The sums of a tender are those of its operations that succeeded; what a till took is there without one.",
    """
    WITH done AS (
        SELECT order_id, tender_number,
               coalesce(sum(amount_minor) FILTER (WHERE kind = 'AUTHORIZE' AND outcome = 'SUCCEEDED'), 0)::int8 AS authorized,
               coalesce(sum(amount_minor) FILTER (WHERE kind = 'CAPTURE' AND outcome = 'SUCCEEDED'), 0)::int8 AS captured,
               coalesce(sum(amount_minor) FILTER (WHERE kind = 'VOID' AND outcome = 'SUCCEEDED'), 0)::int8 AS voided,
               coalesce(sum(amount_minor) FILTER (WHERE kind = 'REFUND' AND outcome = 'SUCCEEDED'), 0)::int8 AS refunded,
               coalesce(sum(amount_minor) FILTER (WHERE kind IN ('VOID', 'REFUND') AND replaces IS NULL), 0)::int8 AS given_back,
               coalesce(bool_or(kind = 'AUTHORIZE' AND outcome = 'DECLINED'), false) AS is_declined
          FROM payment_operations LEFT JOIN payment_outcomes USING (operation_id) GROUP BY 1, 2),
    due AS (
        SELECT order_id, tender_number, t.provider, t.authorized_minor, t.captured_minor, t.voided_minor, t.refunded_minor,
               t.given_back_minor, t.is_declined,
               CASE provider WHEN 'TILL' THEN amount_minor ELSE 0 END + coalesce(d.authorized, 0) AS authorized_due,
               CASE provider WHEN 'TILL' THEN amount_minor ELSE 0 END + coalesce(d.captured, 0) AS captured_due,
               coalesce(d.voided, 0) AS voided_due, coalesce(d.refunded, 0) AS refunded_due,
               coalesce(d.given_back, 0) AS given_back_due, coalesce(d.is_declined, false) AS declined_due
          FROM tenders t LEFT JOIN done d USING (order_id, tender_number))
    SELECT * FROM due
     WHERE (authorized_minor, captured_minor, voided_minor, refunded_minor, given_back_minor, is_declined)
           IS DISTINCT FROM (authorized_due, captured_due, voided_due, refunded_due, given_back_due, declined_due)""",
)

MONEY_KEPT = Rule(
    "money_kept",
    "What the tenders of an order give back is what its lines give back, but for what that paid: substitutes.",
    """
    SELECT order_id, l.refunded_minor, l.substitutes_minor, coalesce(t.given_back_minor, 0) AS given_back_minor
      FROM (SELECT order_id, sum(refunded_minor)::int8 AS refunded_minor,
                   coalesce(sum(total_minor) FILTER (WHERE substitutes_line IS NOT NULL), 0)::int8 AS substitutes_minor
              FROM order_lines GROUP BY 1) AS l
      LEFT JOIN (SELECT order_id, sum(given_back_minor)::int8 AS given_back_minor FROM tenders
                  WHERE change_id IS NULL GROUP BY 1) AS t USING (order_id)
     WHERE l.refunded_minor - l.substitutes_minor <> coalesce(t.given_back_minor, 0)""",
)

# A provider that said no, or did not answer yet, leaves something to be done: the payment shows it as owed.
CAPTURED = Rule(
    "captured_is_refunded_or_kept",
    "Of each tender of an order, captured = refunded + kept, once the goods have left and nothing is open or was declined.",
    """
    SELECT order_id, t.tender_number, t.captured_minor, t.refunded_minor, t.amount_minor - t.given_back_minor AS kept_minor
      FROM tenders t JOIN orders o USING (order_id)
     WHERE t.captured_minor - t.refunded_minor <> t.amount_minor - t.given_back_minor AND t.change_id IS NULL
       AND NOT (t.capture_at = 'FULFILLMENT' AND o.state = 'OPEN')
       AND NOT EXISTS (
           SELECT FROM payment_operations p LEFT JOIN payment_outcomes u USING (operation_id)
            WHERE p.order_id = t.order_id AND p.tender_number = t.tender_number AND u.outcome IS DISTINCT FROM 'SUCCEEDED'
              AND p.kind NOT IN ('RENEW', 'RELEASE')
              AND NOT EXISTS (SELECT FROM payment_operations r WHERE r.replaces = p.operation_id))""",
)

TENDERS_OF = Rule(
    "tenders_belong",
    "Every tender is an order's, or of a checkout that is no order yet or never, or of a change of an order that is not made; and "
    "every operation a tender's.",
    """
    SELECT order_id, tender_number, 'no order' AS fault FROM tenders t
     WHERE change_id IS NULL AND NOT EXISTS (SELECT FROM orders o WHERE o.order_id = t.order_id)
       AND NOT EXISTS (SELECT FROM checkouts c WHERE c.order_id = t.order_id AND c.state <> 'PLACED')
     UNION ALL
    SELECT order_id, tender_number, 'no change' FROM tenders t
     WHERE change_id IS NOT NULL AND NOT EXISTS (
           SELECT FROM checkouts c
            WHERE c.order_id = t.change_id AND c.change_of = t.order_id AND c.state <> 'PLACED')
     UNION ALL
    SELECT order_id, tender_number, 'no tender' FROM payment_operations p
     WHERE NOT EXISTS (SELECT FROM tenders t WHERE (t.order_id, t.tender_number) = (p.order_id, p.tender_number))""",
)

CHECKOUTS = Rule(
    "checkouts_end",
    "A checkout that was placed is an order, any other is none; one of a change is of an order that is there; of one that "
    "was refused nothing is set aside or captured.",
    """
    SELECT c.order_id, c.state, o.order_id IS NOT NULL AS is_order, t.minor AS held_minor
      FROM checkouts c LEFT JOIN orders o USING (order_id) LEFT JOIN LATERAL (
           SELECT coalesce(sum(authorized_minor - voided_minor), 0)::int8 AS minor FROM tenders t
            WHERE t.order_id = coalesce(c.change_of, c.order_id) AND (c.change_of IS NULL OR t.change_id = c.order_id)
              AND NOT EXISTS (
                  SELECT FROM payment_operations p LEFT JOIN payment_outcomes u USING (operation_id)
                   WHERE p.order_id = t.order_id AND p.tender_number = t.tender_number AND p.kind = 'VOID'
                     AND u.outcome IS DISTINCT FROM 'SUCCEEDED')) AS t ON true
     WHERE (c.state = 'REFUSED' AND t.minor <> 0) OR CASE WHEN c.change_of IS NULL
               THEN (c.state = 'PLACED') <> (o.order_id IS NOT NULL)
               ELSE o.order_id IS NOT NULL OR NOT EXISTS (SELECT FROM orders n WHERE n.order_id = c.change_of) END""",
)

CHECKOUTS_KEEP = Rule(
    "checkouts_keep",
    "What a checkout that is under way pays for is kept for it, and nothing is kept for one that has ended.",
    """
    SELECT 'cart ' || cart_id AS what, locked_for AS order_id, 'nobody pays for it' AS problem FROM carts c
     WHERE locked_for IS NOT NULL AND NOT EXISTS (
           SELECT FROM checkouts p WHERE p.order_id = c.locked_for AND p.cart_id = c.cart_id AND p.state = 'PENDING')
     UNION ALL
    SELECT 'reservation ' || reservation_id, pinned_for, 'nobody pays for it' FROM claims c
     WHERE c.state = 'active' AND pinned_for IS NOT NULL AND NOT EXISTS (
           SELECT FROM checkouts p
            WHERE p.order_id = c.pinned_for AND p.reservation_id = c.reservation_id AND p.state = 'PENDING')
     UNION ALL
    SELECT 'cart ' || p.cart_id, p.order_id, 'others may change it' FROM checkouts p JOIN carts c USING (cart_id)
     WHERE p.state = 'PENDING' AND c.locked_for IS DISTINCT FROM p.order_id""",
)

RENEWALS = Rule(
    "renewals",
    "An authorization that another one took the place of is freed, once, and no other one is.",
    """
    WITH renewed AS (
        SELECT order_id, tender_number, authorization_id, count(*) AS renewals
          FROM payment_operations JOIN payment_outcomes USING (operation_id)
         WHERE kind = 'RENEW' AND outcome = 'SUCCEEDED' GROUP BY 1, 2, 3),
    released AS (
        SELECT order_id, tender_number, authorization_id, count(*) AS releases
          FROM payment_operations WHERE kind = 'RELEASE' GROUP BY 1, 2, 3)
    SELECT order_id, tender_number, authorization_id, coalesce(renewals, 0) AS renewals, coalesce(releases, 0) AS releases
      FROM renewed FULL JOIN released USING (order_id, tender_number, authorization_id)
     WHERE (renewals, releases) IS DISTINCT FROM (1::int8, 1::int8)""",
)

GIFT_CARDS = Rule(
    "gift_card_balances",
    "What is on a gift card is the sum of its movements.",
    """
    SELECT gift_card_id, g.balance_minor, coalesce(m.amount_minor, 0) AS moved_minor
      FROM gift_cards g FULL JOIN (
           SELECT gift_card_id, sum(amount_minor)::int8 AS amount_minor FROM gift_card_movements GROUP BY 1) AS m
           USING (gift_card_id)
     WHERE g.balance_minor IS DISTINCT FROM coalesce(m.amount_minor, 0)""",
)

GIFT_CARDS_SPENT = Rule(
    "gift_cards_spent_once",
    "What left a gift card was captured for its tender, and what came back to it was refunded, once each; what paid for "
    "other goods by an exchange did not come back.",
    """
    WITH due AS (
        SELECT p.operation_id, t.gift_card_id, CASE p.kind WHEN 'CAPTURE' THEN -p.amount_minor ELSE p.amount_minor END AS minor
          FROM payment_operations p JOIN tenders t USING (order_id, tender_number)
         WHERE t.provider = 'GIFT_CARD' AND p.kind IN ('CAPTURE', 'REFUND') AND p.reason_code <> 'EXCHANGE'),
    moved AS (
        SELECT movement_id AS operation_id, gift_card_id, amount_minor AS minor FROM gift_card_movements
         WHERE kind IN ('REDEEM', 'REFUND'))
    SELECT operation_id, coalesce(d.gift_card_id, m.gift_card_id) AS gift_card_id, coalesce(d.minor, 0) AS due_minor,
           coalesce(m.minor, 0) AS moved_minor
      FROM due d FULL JOIN moved m USING (operation_id, gift_card_id) WHERE d.minor IS DISTINCT FROM m.minor""",
)

PAYMENT_RULES = (
    PAYMENT_SUMS,
    MONEY_KEPT,
    CAPTURED,
    TENDERS_OF,
    CHECKOUTS,
    CHECKOUTS_KEEP,
    RENEWALS,
    GIFT_CARDS,
    GIFT_CARDS_SPENT,
)
