"""A rule of substitutes that customers were offered."""

from __future__ import annotations

from onhand.ledger.rule import Rule

OFFERS = Rule(
    "substitute_offers",
    "An offer that was accepted is a substitution that its customer agreed to herself, exactly as it was offered; and no other "
    "substitution says that she did.",
    """
    WITH accepted AS (
        SELECT order_id, substitute_line, substitute_offer_id, line_number, fulfillment_order_id, quantity, sku,
               substitute_quantity, total_minor
          FROM substitute_offers WHERE state = 'ACCEPTED'),
    done AS (
        SELECT s.order_id, s.substitute_line, s.line_number, s.fulfillment_order_id, s.quantity, l.sku,
               l.quantity AS substitute_quantity, l.total_minor
          FROM substitutions s JOIN order_lines l ON (l.order_id, l.line_number) = (s.order_id, s.substitute_line)
         WHERE s.consent = 'CUSTOMER')
    SELECT order_id, substitute_line, a.substitute_offer_id, a.sku AS offered_sku, d.sku AS got_sku,
           a.quantity AS offered_quantity, d.quantity AS replaced_quantity, a.total_minor AS offered_minor,
           d.total_minor AS charged_minor
      FROM accepted a FULL JOIN done d USING (order_id, substitute_line)
     WHERE (a.line_number, a.fulfillment_order_id, a.quantity, a.sku, a.substitute_quantity, a.total_minor)
           IS DISTINCT FROM
           (d.line_number, d.fulfillment_order_id, d.quantity, d.sku, d.substitute_quantity, d.total_minor)""",
)

OFFER_RULES = (OFFERS,)
