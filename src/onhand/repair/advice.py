"""What a person does about what cannot be mended here, by rule."""

from __future__ import annotations

_ORDER = "Look at the order and its documents (console, GetOrder, ListMovements), and bring it to its end by hand."
_MONEY = "Compare with the payment provider and correct it there; nothing here knows what was really paid."
_RESTORE = "Rows are missing or were changed past the database's walls: compare with a backup of before."

NEXT_STEPS = {
    "schema": "Run `onhand migrate` with the version of this program, then verify again.",
    "conservation": "Count the position: onhand verify --repair sets levels by movements, and a count sets both by the shelf.",
    "no_negative_bucket": "Count the position (CountStock): a bucket below zero has lost a movement.",
    "allocated_is_promised": "Its order's movements do not fit either: mend the order first, then verify again. "
    + "Where units are missing, count the position.",
    "claims_well_formed": "Release the reservation, or let it expire.",
    "reservations_whole": "Release the reservation, tell its customer, and let them order again.",
    "claims_used_once": _RESTORE,
    "transfers": "Compare the transfer with what was sent and received; correct stock by a count at both locations.",
    "advance_notices": "Compare the notice with what the supplier delivered; count the position where they differ.",
    "counts": "Count the position: a count sets it by the shelf, whatever this one booked.",
    "deltas_contiguous": _RESTORE,
    "deleted_locations_empty": "Move what the location holds elsewhere, or take back its deletion in the database.",
    "shortages": _RESTORE,
    "order_lines": _ORDER,
    "fulfillment_states": _ORDER,
    "shipments": _ORDER,
    "no_shows": _ORDER,
    "line_totals": _MONEY,
    "order_totals": _MONEY,
    "tenders_cover_total": _MONEY,
    "refunds": _MONEY,
    "refunds_within_payment": _MONEY,
    "payment_sums": _MONEY,
    "money_kept": _MONEY,
    "captured_is_refunded_or_kept": _MONEY,
    "tenders_belong": _RESTORE,
    "checkouts_end": _MONEY,
    "checkouts_keep": "Read what became of that checkout; then set locked_for of the cart, or pinned_for of the claims, "
    + "to NULL in the database.",
    "renewals": _MONEY,
    "gift_card_balances": _RESTORE,
    "gift_cards_spent_once": _RESTORE,
    "substitute_offers": _ORDER + " Ask the customer what she agreed to.",
    "returns_held_once": _ORDER,
    "return_authorizations": _ORDER,
    "blind_returns_paid_once": _MONEY,
    "exchanges_settled": _MONEY,
    "returned_units": _ORDER,
    "return_totals": _MONEY,
    "orders_moved_once": _ORDER + " Count the position afterwards.",
    "returns_moved_once": "Look at the return; count the position it came back to.",
    "confirmed_claims": _ORDER,
    "ordered_carts": _ORDER,
    "requests_once": _RESTORE,
    "events_once": "Tell whoever reads the event feed; " + _RESTORE[0].lower() + _RESTORE[1:],
    "gate_equals_ledger": "Is Redis/Valkey up, with maxmemory-policy noeviction? Then repair again.",
}
OTHERWISE = "Nothing here knows what is right: " + _RESTORE


def next_step(rule: str) -> str:
    """In a sentence."""
    return NEXT_STEPS.get(rule, OTHERWISE)
