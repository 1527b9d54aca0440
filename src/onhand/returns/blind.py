"""CreateBlindReturn: goods that nobody can prove to be bought here, for the lowest recent price, within the policy's limits."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import NamedTuple

from onhand import catalog
from onhand.caller import Caller
from onhand.domain import money
from onhand.domain import returns as rules
from onhand.domain.errors import LocationNotFound, PriceNotFound, SkuNotFound, invalid
from onhand.domain.return_errors import FinalSale, Overridable
from onhand.domain.returns import ReturnPolicy
from onhand.ids import new_id
from onhand.ledger.mutation import Ledger
from onhand.ledger.transaction import Transaction
from onhand.orders import names, returns
from onhand.orders.queries import read_return
from onhand.orders.returns import Back, NewReturn
from onhand.payments import store_credit
from onhand.v1 import returns_pb2 as pb

CHANNEL = "POS"
"""Of the movements: goods without a proof come over a counter."""
SALES_MAX, CHANGES_MAX = 100, 100
"""The latest sales of an item, and changes of its price, that are looked at for the lowest."""
PRODUCTS = "SELECT sku, department FROM products WHERE sku = ANY ($1::text[])"
# What was asked for it of late (a price counts until another was set), and what it was sold for, where a till charged something
# else. What was given away says nothing of what somebody paid.
RECENT_PRICES = """
SELECT w.sku, p.amount_minor, p.price_quantity FROM unnest($1::text[]) AS w (sku)
 CROSS JOIN LATERAL (SELECT amount_minor, price_quantity, lag(set_time) OVER (ORDER BY change_number DESC) AS replaced_time
                       FROM (SELECT * FROM price_changes WHERE sku = w.sku AND currency = $2
                              ORDER BY change_number DESC LIMIT $5) AS c
                    ) AS p WHERE p.replaced_time IS NULL OR p.replaced_time > now() - $3::interval
 UNION ALL
SELECT w.sku, s.amount_minor, s.price_quantity FROM unnest($1::text[]) AS w (sku)
 CROSS JOIN LATERAL (SELECT order_id, amount_minor, price_quantity FROM order_lines
                      WHERE sku = w.sku ORDER BY order_id DESC LIMIT $4) AS s
 CROSS JOIN LATERAL (SELECT currency, placed_time FROM orders WHERE order_id = s.order_id LIMIT 1) AS o
 WHERE o.currency = $2 AND o.placed_time > now() - $3::interval AND s.amount_minor > 0"""
# The row stays locked: what the same customer brings elsewhere at the same moment is counted after this.
COUNT_DAY = """
INSERT INTO blind_return_days (customer_id, day, currency, returns, refund_minor)
SELECT $1, (now() AT TIME ZONE l.time_zone)::date, $3, 1, $4 FROM locations l
 WHERE l.location_id = $2 AND l.deleted_time IS NULL
    ON CONFLICT (customer_id, day, currency) DO UPDATE
   SET returns = blind_return_days.returns + 1, refund_minor = blind_return_days.refund_minor + EXCLUDED.refund_minor
RETURNING day, returns, refund_minor"""
INSERT = """
INSERT INTO blind_returns (return_id, day, refund_kind, gift_card_id, movement_id) VALUES ($1, $2, $3, $4, $5)"""


class Brought(NamedTuple):
    """Units that somebody brings, their barcode resolved."""

    sku: str
    quantity: int
    disposition: str
    reason: str


async def create_blind_return(
    ledger: Ledger, policy: ReturnPolicy, request: pb.CreateBlindReturnRequest, caller: Caller
) -> pb.CreateBlindReturnResponse:
    """ReturnService.CreateBlindReturn."""
    money.exponent(request.currency_code)
    refund_kind = names.tender_kind("refund_kind", request.refund_kind)
    card = None
    if refund_kind == "STORE_CREDIT":
        card = store_credit.credit_card(request.gift_card_id, request.gift_card_code)
    elif refund_kind != "CASH":
        raise invalid("refund_kind", "must be TENDER_KIND_STORE_CREDIT or TENDER_KIND_CASH")
    elif request.gift_card_id or request.gift_card_code:
        raise invalid("gift_card_id", "is for TENDER_KIND_STORE_CREDIT only")

    async def work(tx: Transaction) -> pb.CreateBlindReturnResponse:
        brought = await _resolve(tx, request)
        refusals = await _final_sales(tx, policy, brought)
        return_id, backs = new_id(), await _priced(tx, policy, request.currency_code, brought)
        refund_minor = money.checked(sum(back.refund_minor for back in backs))
        day, limits = await _count_day(tx, policy, request, refund_kind, refund_minor)
        override = returns.overriding(returns.override_of(request), [*refusals, *limits])
        new = NewReturn(
            return_id, "BLIND", request.location_id, CHANNEL, caller.actor, request.customer_id, request.currency_code,
            backs, override=override,
        )  # fmt: skip
        card_id = movement_id = None
        if card is not None and refund_minor:
            card_id, movement_id = await store_credit.grant(
                tx, card, refund_minor, new.currency, new.document, caller.actor
            )
        await returns.book(tx, new, policy)
        await tx.connection.execute(INSERT, return_id, day, refund_kind, card_id, movement_id)
        return pb.CreateBlindReturnResponse(
            returned=await read_return(tx.connection, return_id),
            refund_kind=request.refund_kind,
            gift_card_id=str(card_id or ""),
        )

    return await ledger.mutate(request, pb.CreateBlindReturnResponse, work)


async def _resolve(tx: Transaction, request: pb.CreateBlindReturnRequest) -> list[Brought]:
    barcodes = [line.barcode for line in request.lines if line.WhichOneof("item") == "barcode"]
    skus = await catalog.read_barcodes(tx.connection, barcodes) if barcodes else {}
    brought = []
    for index, line in enumerate(request.lines):
        sku = line.sku or skus.get(line.barcode, "")
        if not sku:
            raise invalid(f"lines[{index}]", "must name a sku or a barcode")
        disposition = names.disposition(f"lines[{index}].disposition", line.disposition)
        brought.append(Brought(sku, line.quantity, disposition, line.reason))
    return brought


async def _priced(tx: Transaction, policy: ReturnPolicy, currency: str, brought: Sequence[Brought]) -> list[Back]:
    """What each gives back. Raises PriceNotFound for what never had a price in this currency."""
    rows = await tx.connection.fetch(
        RECENT_PRICES,
        sorted({each.sku for each in brought}),
        currency,
        timedelta(days=policy.blind.price_days),
        SALES_MAX,
        CHANGES_MAX,
    )
    prices: dict[str, list[tuple[int, int]]] = {}
    for row in rows:
        prices.setdefault(row["sku"], []).append((row["amount_minor"], row["price_quantity"]))
    backs = []
    for number, (sku, quantity, disposition, reason) in enumerate(brought, 1):
        refund_minor = rules.lowest_refund(prices.get(sku, ()), quantity)
        if refund_minor is None:
            raise PriceNotFound(sku, currency)
        backs.append(Back(number, disposition, sku, quantity, reason, refund_minor))
    return backs


async def _final_sales(tx: Transaction, policy: ReturnPolicy, brought: Sequence[Brought]) -> list[Overridable]:
    rows = await tx.connection.fetch(PRODUCTS, sorted({each.sku for each in brought}))
    departments: dict[str, str] = {row["sku"]: row["department"] for row in rows}
    if unknown := [each.sku for each in brought if each.sku not in departments]:
        raise SkuNotFound(unknown[0])
    return [FinalSale(sku) for sku in departments if policy.is_final_sale(sku, departments[sku])]


async def _count_day(
    tx: Transaction, policy: ReturnPolicy, request: pb.CreateBlindReturnRequest, refund_kind: str, refund_minor: int
) -> tuple[date, list[Overridable]]:
    """Counts it for the customer's day, and says which limits that is beyond. Raises LocationNotFound."""
    row = await tx.connection.fetchrow(
        COUNT_DAY, request.customer_id, request.location_id, request.currency_code, refund_minor
    )
    if row is None:
        raise LocationNotFound(request.location_id)
    return row["day"], rules.blind_refusals(
        policy.blind,
        request.customer_id,
        refund_kind=refund_kind,
        refund_minor=refund_minor,
        day_returns=row["returns"],
        day_minor=row["refund_minor"],
    )
