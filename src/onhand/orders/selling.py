"""Sell in rounds: what tills send at the same time is read together, taken in the gate together, and written together.

Only a plain sale goes in a round: of goods that the ledger has there and nobody was promised. All else goes its own way.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from onhand.caller import Caller
from onhand.crash import step
from onhand.domain import barcode
from onhand.domain.cart import UnitPrice
from onhand.domain.errors import BarcodeNotFound, GateUnavailable, Refusal
from onhand.domain.stock import Bucket, Position
from onhand.ids import new_id
from onhand.ledger.mutation import Ledger, is_certain
from onhand.ledger.transaction import Transaction
from onhand.orders import together
from onhand.orders.answers import fill_new_order
from onhand.orders.payments import is_recorded_only
from onhand.orders.sell import REASON, Sold, Till, event_of, new_sale, record, resolve, sold_lines, takes_of, till
from onhand.orders.together import NotAsPlanned, Planned, Statement, Taking
from onhand.postgres import to_json
from onhand.reservations.claims import Held, Wants
from onhand.reservations.combiner import Combiner
from onhand.reservations.decrease import Decreases
from onhand.v1 import order_pb2 as pb

log = logging.getLogger(__name__)

# A row a line, none for a request that is known, or where anything is missing but a price. See placing.READ.
READ = """
SELECT w.line, k.sku, p.name, r.amount_minor, r.price_quantity, s.available, e.epoch, now() AS now
  FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) WITH ORDINALITY
    AS w (request_id, location_id, currency, sku, gtin, line)
 CROSS JOIN LATERAL (
    SELECT coalesce((SELECT b.sku FROM barcodes b WHERE b.gtin = w.gtin), w.sku) AS sku OFFSET 0) AS k
 CROSS JOIN LATERAL (SELECT name FROM products WHERE sku = k.sku LIMIT 1) AS p
  LEFT JOIN LATERAL (
    SELECT amount_minor, price_quantity FROM prices WHERE sku = k.sku AND currency = w.currency LIMIT 1) AS r ON true
 CROSS JOIN LATERAL (
    SELECT available FROM stock_levels WHERE location_id = w.location_id AND sku = k.sku LIMIT 1) AS s
 CROSS JOIN LATERAL (SELECT epoch FROM location_epochs WHERE location_id = w.location_id LIMIT 1) AS e
 WHERE (SELECT true FROM requests q WHERE q.request_id = w.request_id) IS NULL"""
WRITE = Statement(together.SELL)


class _Sale(NamedTuple):
    """A plain sale as it was read."""

    till: Till
    sold: Sequence[Sold]
    takes: Wants
    planned: Planned[pb.SellResponse]


_Item = tuple[_Sale, Held]
_Alone = tuple[_Sale, Held | None]
"""A sale that is no round's, and what is claimed for it; None where the gate did not answer."""


class Selling:
    """The sales that a process records."""

    def __init__(self, ledger: Ledger, decreases: Decreases) -> None:
        self._ledger = ledger
        self._decreases = decreases
        self._rounds: Combiner[Till, pb.SellResponse | _Alone | None] = Combiner(
            "sales",
            self._round,
            round_items_max=together.ROUND_ITEMS_MAX,
            rounds_at_once_max=together.ROUNDS_AT_ONCE_MAX,
            linger_seconds=together.LINGER_SECONDS,
        )

    async def sell(self, request: pb.SellRequest, caller: Caller) -> pb.SellResponse:
        """OrderService.Sell."""
        wanted = till(request, caller)
        sold_together = await self._rounds.submit(wanted) if is_recorded_only(request.tenders) else None
        if isinstance(sold_together, pb.SellResponse):
            return sold_together
        if sold_together is not None:
            sale, held = sold_together
            return await self._record_alone(wanted, sale.sold, held, is_reached=held is not None)
        request = wanted.request
        try:
            sold = await resolve(self._ledger, request)
        except BarcodeNotFound:
            # A repeat gets its first answer, even where the barcode was taken from the product since.
            if (answer := await self._ledger.find_answer(request, pb.SellResponse)) is not None:
                return answer
            raise
        return await self._record_alone(wanted, sold, None)

    async def _record_alone(
        self, wanted: Till, sold: Sequence[Sold], held: Held | None, *, is_reached: bool = True
    ) -> pb.SellResponse:
        """By a transaction of its own, and under the claim that its round has taken already, if it has."""

        async def work(tx: Transaction, overdrawn: Mapping[Position, int]) -> pb.SellResponse:
            return await record(tx, wanted, sold, overdrawn)

        takes = takes_of(wanted.request, sold)
        return await self._decreases.fact(wanted.request, pb.SellResponse, takes, work, held, is_reached=is_reached)

    async def _round(self, tills: Sequence[Till]) -> list[pb.SellResponse | _Alone | None]:
        """The answers; what was claimed, or None, to whom it is for itself. Raises LedgerUnavailable: all outcomes are unknown."""
        sales = {n: sale for n, sale in enumerate(await self._read_round(tills)) if sale is not None}
        answers: list[pb.SellResponse | _Alone | None] = [None] * len(tills)
        try:
            taken = await self._decreases.take_facts([sale.takes for sale in sales.values()]) if sales else []
        except GateUnavailable as error:
            log.warning("%d sales go past the gate: %s", len(sales), error)
            return [(sales[n], None) if n in sales else None for n in range(len(tills))]
        held = {n: h for n, h in zip(sales, taken, strict=True) if h is not None}
        plain = {n: (sales[n], h) for n, h in held.items() if len(h.claims) == 1 and not any(h.overdrawn.values())}
        try:
            written = dict(zip(plain, await self._written(list(plain.values())), strict=True))
        except Exception as error:
            if is_certain(error):
                await self._decreases.give_back(held.values())
            raise  # else the outcome is unknown: the claims are left to the sweeper
        for n, h in held.items():
            answers[n] = written.get(n) or (sales[n], h)
        return answers

    # ------------------------------------------------------------------------------------------------------- reading
    async def _read_round(self, tills: Sequence[Till]) -> list[_Sale | None]:
        """The sales; None where one is not plain."""
        sales: list[_Sale | None] = []
        for each, rows in zip(tills, await self._read_lines(tills), strict=True):
            try:
                sales.append(None if rows is None else _planned(each, rows))
            except Refusal:
                sales.append(None)  # it is said by whoever looks at it alone
            except Exception:  # of this sale alone: it fails, or is mended, by itself
                log.exception("a sale cannot go in a round")
                sales.append(None)
        return sales

    async def _read_lines(self, tills: Sequence[Till]) -> list[list[Any] | None]:
        """The rows of READ for each, a line each in order; None where one is missing."""
        lines: list[tuple[str, str, str, str, str]] = []
        for each in tills:
            request = each.request
            shared = request.request_id, request.location_id, request.currency_code
            lines += [(*shared, line.sku, _gtin(line.barcode)) for line in request.lines]
        of_line = {row[0]: row for row in await self._read(lines)} if lines else {}
        found: list[list[Any] | None] = []
        number = 1
        for each in tills:
            end = number + len(each.request.lines)
            rows = [of_line[n] for n in range(number, end) if n in of_line]
            found.append(rows if rows and len(rows) == end - number else None)
            number = end
        return found

    @step("ledger.read_sales")
    async def _read(self, lines: Sequence[tuple[str, str, str, str, str]]) -> Sequence[Any]:
        async with self._ledger.database.connection() as connection:
            return await connection.fetch(READ, *([line[n] for line in lines] for n in range(5)))

    # ------------------------------------------------------------------------------------------------------- writing
    async def _written(self, items: Sequence[_Item]) -> list[pb.SellResponse | None]:
        """The answers; None where a sale was not written. Raises LedgerUnavailable: the outcome is unknown of all."""
        chosen: dict[int, _Item] = {}
        requests, epochs = set[str](), dict[str, int]()
        for place, (sale, held) in enumerate(items):
            request_id, claim = sale.till.request.request_id, held.claims[0]
            if request_id not in requests and epochs.setdefault(claim.location_id, claim.epoch) == claim.epoch:
                chosen[place] = sale, held
                requests.add(request_id)
        answers: list[pb.SellResponse | None] = [None] * len(items)
        for attempt in range(together.ATTEMPTS_MAX):
            if attempt:
                chosen = await self._still_plain(chosen)
            if not chosen:
                break
            planned = [_taken(sale.planned, held) for sale, held in chosen.values()]
            try:
                await self._write(planned)
            except NotAsPlanned as error:
                log.info("a round of %d sales: %s", len(planned), error)
                continue
            for place, (sale, _) in chosen.items():
                answers[place] = sale.planned.response
            await self._ledger.follow(together.settlements(planned))
            break
        return answers

    async def _still_plain(self, chosen: Mapping[int, _Item]) -> dict[int, _Item]:
        """Those that may be written together by what the ledger has now."""
        tills = [sale.till for sale, _ in chosen.values()]
        left: dict[Position, int] = {}
        plain: dict[int, _Item] = {}
        for (place, (sale, held)), rows in zip(chosen.items(), await self._read_lines(tills), strict=True):
            if rows is None or rows[0]["epoch"] != held.claims[0].epoch:
                continue
            for row in rows:
                left.setdefault((sale.till.request.location_id, row["sku"]), row["available"])
            taken = Counter({(location_id, sku): n for location_id, lines in sale.takes for sku, n in lines})
            if all(left.get(position, 0) >= quantity for position, quantity in taken.items()):
                for position, quantity in taken.items():
                    left[position] -= quantity
                plain[place] = sale, held
        return plain

    @step("ledger.record_sales", model=("consume",))
    async def _write(self, planned: Sequence[Planned[pb.SellResponse]]) -> None:
        """Raises NotAsPlanned."""
        columns = together.columns(planned, Bucket.CUSTOMER.value, REASON)
        async with self._ledger.database.connection() as connection:
            await WRITE.write(connection, columns)


def _gtin(given: str) -> str:
    """A barcode as it is stored; one that is none finds nothing, and is refused by whoever looks at it alone."""
    try:
        return barcode.normalize(given) if given else ""
    except Refusal:
        return given


def _planned(wanted: Till, rows: Sequence[Any]) -> _Sale | None:
    """The sale that rows of READ make; None where it is not plain. Raises what is wrong about its prices and tenders."""
    request = wanted.request
    skus = {line.barcode: row["sku"] for line, row in zip(request.lines, rows, strict=True) if line.barcode}
    sold = sold_lines(request, skus)
    takes = takes_of(request, sold)
    available = {row["sku"]: row["available"] for row in rows}
    if any(available[sku] < quantity for _, lines in takes for sku, quantity in lines):
        return None
    prices = {
        row["sku"]: UnitPrice(row["amount_minor"], row["price_quantity"])
        for row in rows
        if row["amount_minor"] is not None
    }
    order = new_sale(wanted, new_id(), sold, prices)
    if not together.is_plain_text(
        request.request_id, order.customer_id, order.actor, *[tender.reference for tender in order.tenders]
    ):
        return None
    made_time = rows[0]["now"]
    response = pb.SellResponse()
    fill_new_order(response.order, order, {row["sku"]: row["name"] for row in rows}, made_time)
    type, subject, data, location_id = event_of(order)
    events = [(type, subject, location_id, to_json(data))]
    planned = Planned(request, order, response, (), events, made_time, wanted.occurred)
    return _Sale(wanted, sold, takes, planned)


def _taken(planned: Planned[pb.SellResponse], held: Held) -> Planned[pb.SellResponse]:
    """A planned sale with the claim that it uses up."""
    (claim,) = held.claims
    taking = Taking(claim.location_id, claim.claim_id, claim.lines, claim.epoch, claim.channel, to_json(claim.lines))
    return Planned(
        planned.request,
        planned.order,
        planned.response,
        (taking,),
        planned.events,
        planned.made_time,
        planned.occurred_time,
    )
