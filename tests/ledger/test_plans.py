"""Every statement of the server uses an index where its tables are large, and reads the rows that it is about, no others."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from unittest.mock import patch
from uuid import UUID

import asyncpg
import pytest
import redis
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.latlng_pb2 import LatLng

from gateway import DECLINED_CARD, SIGNED, Gateway
from ledger.plans import Plans, constants, empty_plans, is_part, looking
from onhand.app import App
from onhand.bench.growth.seed import seed
from onhand.bench.growth.size import Size
from onhand.domain.errors import Refusal
from onhand.domain.payment import Provider
from onhand.orders.lost_stock import settle_later
from onhand.postgres import asyncpg_dsn
from onhand.redis import Unreachable
from onhand.v1 import cart_pb2, catalog_pb2, sourcing_pb2, types_pb2
from onhand.v1 import counting_pb2 as counting
from onhand.v1 import inventory_pb2 as stock
from onhand.v1 import order_pb2 as orders
from onhand.v1 import payment_pb2 as money
from onhand.v1 import receiving_pb2 as receiving
from onhand.v1 import returns_pb2 as returns
from shelf import request_id
from shop import ADDRESS, CALLER, card, dollars

SIZE = Size("plans", 30_000, 20, reservations=12_000, movements=60_000 + 9_000, sales=2_500, orders=2_000)
BARCODE = "00000000000017"
READ_MAX = 120
"""Rows that one scan reads at most: more than any call here is about, and far fewer than a location has of anything."""

SMALL = frozenset({"policy_version"})
"""Tables that stay so small that reading all of them is the cheapest."""
RESERVED_THERE = "reads the active reservations of a location for what they hold of a sku; only where something broke"
WIDE = {
    "reservations.rebuild:STOCK": "loads all that a location has",
    "reservations.rebuild:CLAIMS": "loads all that a location has",
    "reservations.inspect:PAGE": "the next 2,000 skus of a location",
    "reservations.inspect:LEVELS": "2,000 skus of a location",
    "reservations.inspect:ACTIVE": "all claims that the gate should have of a location",
    "reservations.sweep:HEADS": "the next 200 locations",
    "reservations.policy:THRESHOLDS": "the copy of all thresholds that every process has",
    "reservations.availability:LEVELS": "what active reservations leave, while the gate is away; as much as its rebuild reads",
    "reservations.decrease:UNPROMISED": "what active reservations leave, for a sale that goes past the gate",
    "ledger.shortfalls:RESERVED": RESERVED_THERE,
    "ledger.shortfalls:OLDER": RESERVED_THERE,
    "ledger.shortfalls:FREE_FOR_WAITING": RESERVED_THERE,
    "ledger.shortfalls:PROMISES": "the open work of a location, of which a count or a sale broke some",
    "inventory.future:FIGURES": "what is reserved of some skus at some locations, for a date; not what a page of a shop asks for",
    "inventory.count_rows:ADD_ALL": "all that a location has becomes the lines of a count",
    "inventory.promise:POSITION": "one position as people look at it, what is reserved of it too",
    "inventory.promise:NEAR": "stores in a band of latitude, of which it answers the nearest",
    "sourcing.candidates:_PLACES": "locations that have any of some skus, with the groups of each: what may fulfil an order",
    "sourcing.capacity:TAKEN_ON": "the work that locations took on since their midnight",
    "inventory.locations:LIST": "with a group, a page may walk over all locations",
    "inventory.locations:LIST_GROUPS": "groups with all their members",
    "inventory.locations:HOLDS": "whether a location is empty, before it is deleted",
    "orders.shortfalls:_OPEN": "a page of open shortfalls, which are few",
    "orders.board:READ": "the next events of all kinds, in commit order",
    "orders.alternatives:HAVE": "a sku at the locations that sourcing ranked, a thousand at most",
    "FROM fulfillment_orders WHERE location_id": "orders of one location in twenty: walking over the newest is cheaper",
    "FROM shortfalls JOIN fulfillment_orders USING": "orders that are short: all open shortfalls, which are few",
}
"""Statements, or parts of them, that may read more than READ_MAX rows, and why."""
GATEWAY = Gateway()
"""Pays what cards pay."""
LOSE = """
WITH lost AS (
    INSERT INTO shortfalls (shortfall_id, location_id, sku, fulfillment_order_id, line_number, quantity, open_quantity, cause,
                            reference_document, next_step)
    SELECT gen_random_uuid(), f.location_id, p.sku, fulfillment_order_id, p.line_number, 1, 1, 'LOST', '', 'CHOOSE'
      FROM fulfillment_orders f JOIN fulfillment_lines p USING (fulfillment_order_id) WHERE f.order_id = $1 LIMIT 1
    RETURNING location_id, sku)
UPDATE stock_levels s SET short = short + 1 FROM lost WHERE (s.location_id, s.sku) = (lost.location_id, lost.sku)"""
BY_THE_CLOCK = {"reservations.sweep:ROWS", "reservations.sweep:CLOSE_ORPHANS", "reservations.inspect:STATES"}
"""Of COLD, what is asked when something has lasted: on a slow machine it has."""
COLD = {
    "payments.store:CURRENCY": "one row by its order, where a checkout is refused that had authorized something",
    "ledger.invariants:_EVIDENCE": "verify reads everything",
    "ledger.revision:REVISION": "one row, at the start",
    "reservations.inspect:NOBODY_COMMITS": "one row by its key, where a sku sells all the time",
    "reservations.inspect:STATES": "rows by their keys, of claims that the gate still holds and the ledger closed",
    "reservations.inspect:COUNT": "how many positions a location has, once it was walked through",
    "reservations.reconcile:STOCK": "a whole location, for tests of a gate at rest",
    "reservations.sweep:ROWS": "rows by their keys, ten seconds after a take",
    "reservations.sweep:CLOSE_ORPHANS": "inserts by key, after a crash",
    "orders.store:INSERT_SHORTAGES": "inserts, where a sale took what was promised",
    "orders.resource:SET_ADDRESS": "one row by its key, where what was to be picked up is shipped",
    "carts:LINE_QUANTITY": "one row by its key, where a line would hold too much",
    "carts:GIVE_CART": "one row by its key, where a guest's cart becomes a customer's first",
    "catalog:READ_BARCODES": "rows by their keys; rounds of sales read them with their prices",
}
"""Statements that calls of every kind do not run here, and why they may be left out."""

# What the seed leaves out, so that no table is small. Rules of orders and shortfalls are not kept: only plans are looked at.
MORE = """
INSERT INTO locations (location_id, kind, name, latitude, longitude)
SELECT 'M' || lpad(n::text, 5, '0'), 'STORE', 'Store ' || n, 25 + n % 1000 * 0.024, -120 + n % 7
  FROM generate_series(1, 3000) AS n;
INSERT INTO location_epochs (location_id) SELECT location_id FROM locations WHERE location_id LIKE 'M%';
INSERT INTO location_delta_heads (location_id) SELECT location_id FROM locations WHERE location_id LIKE 'M%';
INSERT INTO location_groups (location_group_id, name) SELECT 'G' || n, 'Group ' || n FROM generate_series(1, 60) AS n;
INSERT INTO location_group_members SELECT 'G' || 1 + n % 60, 'M' || lpad(n::text, 5, '0') FROM generate_series(1, 3000) AS n;
INSERT INTO barcodes (gtin, sku) SELECT lpad(n::text, 14, '0'), 'S' || lpad(n::text, 6, '0') FROM generate_series(0, 1499) AS n;
INSERT INTO channel_thresholds (channel, sku, quantity)
SELECT c, sku, 1 FROM products CROSS JOIN unnest(ARRAY['PHONE', 'SOCIAL']) AS c;
INSERT INTO gate_deltas (location_id, number, lines)
SELECT 'L00000', n, '[["S000000", 0, null]]' FROM generate_series(2, 2000) AS n;
UPDATE location_delta_heads SET last_number = 2000 WHERE location_id = 'L00000';
INSERT INTO carts (cart_id, customer_id, channel, currency, state)
SELECT gen_random_uuid(), 'K' || n, 'WEB', 'USD', 'OPEN' FROM generate_series(1, 3000) AS n;
INSERT INTO cart_lines (cart_id, sku, quantity) SELECT cart_id, 'S000001', 1 FROM carts;
INSERT INTO transfers (transfer_id, from_location_id, to_location_id, state)
SELECT gen_random_uuid(), 'L00002', 'M' || lpad(n::text, 5, '0'), CASE WHEN n % 3 = 0 THEN 'IN_TRANSIT' ELSE 'RECEIVED' END
  FROM generate_series(1, 3000) AS n;
INSERT INTO transfer_lines (transfer_id, sku, dispatched) SELECT transfer_id, 'S000001', 1 FROM transfers;
INSERT INTO advance_notices (advance_notice_id, location_id, supplier, supplier_reference, expected_time, state)
SELECT gen_random_uuid(), CASE WHEN n % 300 = 0 THEN 'L00003' ELSE 'M' || lpad(n::text, 5, '0') END, 'supplier-' || n % 50,
       'N' || n, now() + n * interval '1 minute', CASE WHEN n % 3 = 0 THEN 'EXPECTED' ELSE 'CANCELLED' END
  FROM generate_series(1, 3000) AS n;
INSERT INTO advance_notice_lines (advance_notice_id, sku, expected) SELECT advance_notice_id, 'S000001', 5 FROM advance_notices;
INSERT INTO counts (count_id, location_id, scope, is_blind, state, tolerance_quantity, tolerance_percent, ledger_position,
                    started_time)
SELECT gen_random_uuid(), 'M' || lpad(n::text, 5, '0'), 'SKUS', false, CASE WHEN n % 3 = 0 THEN 'COUNTING' ELSE 'APPROVED' END,
       0, 0, 0, now() FROM generate_series(1, 3000) AS n;
INSERT INTO count_lines (count_id, sku) SELECT count_id, 'S000001' FROM counts;
INSERT INTO count_attempts (count_id, sku, attempt, counted, expected, counted_by)
SELECT count_id, sku, 1, 0, 0, '' FROM count_lines;
INSERT INTO count_variances (location_id, variance_id, count_id, sku, counted, expected, booked, counted_by, approved_by)
SELECT location_id, gen_random_uuid(), count_id, 'S000001', 0, 1, -1, '', '' FROM counts;
INSERT INTO count_tasks (count_task_id, location_id, sku, reason_code, reference_document, state, closed_time)
SELECT gen_random_uuid(), location_id, sku, 'TEST', '', CASE WHEN n % 3 = 0 THEN 'OPEN' ELSE 'DONE' END,
       CASE WHEN n % 3 > 0 THEN now() END
  FROM (SELECT *, row_number() OVER (ORDER BY sku, location_id) AS n FROM stock_levels LIMIT 3000) AS s;
INSERT INTO shortages (shortage_id, location_id, sku, quantity, reference_document)
SELECT gen_random_uuid(), location_id, sku, 1, '' FROM (SELECT * FROM stock_levels LIMIT 3000) AS s;
INSERT INTO shipments (shipment_id, fulfillment_order_id, carrier, tracking_reference)
SELECT gen_random_uuid(), fulfillment_order_id, 'UPS', '' FROM fulfillment_orders;
INSERT INTO returns (return_id, order_id, location_id, channel, refund_minor)
SELECT gen_random_uuid(), order_id, location_id, 'POS', 0 FROM fulfillment_orders WHERE kind = 'CARRY_OUT';
INSERT INTO return_lines (return_id, line_number, disposition, sku, quantity, refund_minor)
SELECT return_id, 1, 'available', 'S000001', 1, 0 FROM returns;
UPDATE returns SET customer_id = 'K' || left(return_id::text, 3), actor = 'A' || left(return_id::text, 2);
INSERT INTO return_authorizations (return_authorization_id, rma_number, order_id, channel, expires_time)
SELECT gen_random_uuid(), 'R' || row_number() OVER (), order_id, 'WEB', now() - interval '1 day' FROM returns;
INSERT INTO return_authorization_lines (return_authorization_id, line_number, sku, quantity)
SELECT return_authorization_id, 1, 'S000001', 1 FROM return_authorizations;
INSERT INTO return_refused_units (return_authorization_id, refusal_number, line_number, quantity, reason, location_id)
SELECT return_authorization_id, 1, 1, 1, 'worn', 'L00000' FROM return_authorizations;
INSERT INTO return_overrides (override_id, return_id, manager, reason, overridden)
SELECT gen_random_uuid(), return_id, 'grace', 'test', ARRAY['FINAL_SALE'] FROM returns;
INSERT INTO return_signals (signal_id, return_id, kind, subject_kind, subject, value, allowed)
SELECT gen_random_uuid(), return_id, 'REPEATED_RETURNS', 'CUSTOMER', customer_id, 2, 1 FROM returns;
INSERT INTO blind_return_days (customer_id, day, currency, returns, refund_minor)
SELECT 'K' || n, '2026-01-01', 'USD', 1, 1 FROM generate_series(1, 3000) AS n;
INSERT INTO shortfalls (shortfall_id, location_id, sku, fulfillment_order_id, line_number, quantity, open_quantity, cause,
                        reference_document, next_step)
SELECT gen_random_uuid(), f.location_id, p.sku, f.fulfillment_order_id, p.line_number, 1, (n = 0)::int, 'COUNT', '',
       CASE WHEN n = 0 THEN 'CHOOSE' ELSE 'NONE' END
  FROM fulfillment_orders f JOIN fulfillment_lines p USING (fulfillment_order_id) CROSS JOIN generate_series(0, 1) AS n
 WHERE f.kind = 'PICKUP' AND f.location_id > 'L00010' AND p.line_number = 1;
INSERT INTO substitute_offers (substitute_offer_id, order_id, fulfillment_order_id, line_number, quantity, held_quantity, sku,
                               substitute_quantity, amount_minor, price_quantity, total_minor, refund_minor, state, expires_time)
SELECT gen_random_uuid(), f.order_id, f.fulfillment_order_id, p.line_number, 1, 1, p.sku, 1, 1, 1, 1, 0, 'DECLINED', now()
  FROM fulfillment_orders f JOIN fulfillment_lines p USING (fulfillment_order_id);
INSERT INTO shortfall_ends (shortfall_id, end_number, quantity, reason, reference_document)
SELECT shortfall_id, 1, 1, 'COUNTED', '' FROM shortfalls WHERE open_quantity = 0;
INSERT INTO payment_operations (operation_id, order_id, tender_number, kind, amount_minor, currency, reason_code,
                                reference_document)
SELECT gen_random_uuid(), order_id, tender_number, 'REFUND', 1, 'USD', '', '' FROM tenders;
INSERT INTO payment_outcomes (operation_id, outcome) SELECT operation_id, 'SUCCEEDED' FROM payment_operations;
INSERT INTO gift_cards (gift_card_id, code_hash, last_characters, currency, balance_minor)
SELECT gen_random_uuid(), sha256(n::text::bytea), 'TEST', 'USD', 1 FROM generate_series(1, 3000) AS n;
INSERT INTO gift_card_movements (gift_card_id, movement_id, amount_minor, kind, reference_document)
SELECT gift_card_id, gen_random_uuid(), 1, 'ISSUE', '' FROM gift_cards;
UPDATE locations SET daily_orders_max = 1000000 WHERE location_id IN ('L00002', 'L00003');
UPDATE claims SET deadline = now() - interval '1 minute'
 WHERE claim_id IN (SELECT claim_id FROM claims WHERE state = 'active' AND location_id = 'L00009' LIMIT 20);
VACUUM ANALYZE;
"""


class Trade:
    """Calls of every kind, at locations that have a lot of everything."""

    def __init__(self, app: App) -> None:
        self.app = app
        self._handlers = [handler for service in app.services.values() for handler in service]

    async def call(self, rpc: str, request: Any, **fields: Any) -> Any:
        """An rpc's answer."""
        if "request_id" in request.DESCRIPTOR.fields_by_name and not request.request_id:
            request.request_id = request_id()
        name = re.sub(r"(?<!^)([A-Z])", r"_\1", rpc).lower()
        (handler,) = (getattr(h, name) for h in self._handlers if hasattr(h, name))
        return await handler(request, CALLER)

    async def reserve(self, *places: int, customer_id: str = "", ttl_seconds: int = 0) -> str:
        """A reservation of two lines at each of some locations."""
        baskets = [
            stock.LocationBasket(location_id=SIZE.location(n), lines=lines(*SIZE.assortment(n)[1][:2])) for n in places
        ]
        request = stock.ReserveRequest(
            channel=types_pb2.CHANNEL_WEB, baskets=baskets, customer_id=customer_id, ttl_seconds=ttl_seconds
        )
        answer: stock.ReserveResponse = await self.call("Reserve", request)
        return answer.reservation.reservation_id

    async def order(self, *places: int, kind: Any = orders.FULFILLMENT_KIND_PICKUP) -> orders.PlaceOrderResponse:
        """An order of what was reserved."""
        request = orders.PlaceOrderRequest(
            reservation_id=await self.reserve(*places, customer_id="C0000001"),
            currency_code="USD",
            fulfillments=[orders.FulfillmentChoice(location_id=SIZE.location(n), kind=kind) for n in places],
            ship_to=ADDRESS,
            tenders=card(200 * len(places)),
        )
        placed: orders.PlaceOrderResponse = await self.call("PlaceOrder", request)
        return placed

    async def go_on(self) -> None:
        """All of it."""
        for part in (
            self.stock, self.transfers, self.notices, self.counts, self.backorders, self.reservations, self.orders,
            self.returns, self.shortfalls, self.carts, self.catalog, self.places, self.lists,
            self.refusals, self.past_the_gate, self.beside,
        ):  # fmt: skip
            await part()

    async def stock(self) -> None:
        place, (milk, bread, *_) = SIZE.assortment(0)
        await self.call("ReceiveStock", stock.ReceiveStockRequest(location_id=place, lines=lines(milk, bread)))
        await self.call(
            "AdjustStock",
            stock.AdjustStockRequest(
                location_id=place, sku=milk, bucket=stock.BUCKET_AVAILABLE, quantity=-1, reason_code="TEST"
            ),
        )
        await self.call(
            "MoveStock",
            stock.MoveStockRequest(
                location_id=place,
                sku=milk,
                quantity=1,
                from_bucket=stock.BUCKET_AVAILABLE,
                to_bucket=stock.BUCKET_DAMAGED,
            ),
        )
        counted = [stock.CountedLine(sku=sku, counted_quantity=900_000) for sku in (milk, bread)]
        await self.call("CountStock", stock.CountStockRequest(location_id=place, lines=counted))
        request = stock.DispatchTransferRequest(
            from_location_id=place, to_location_id=SIZE.location(1), lines=lines(milk)
        )
        sent = (await self.call("DispatchTransfer", request)).transfer
        await self.call(
            "ReceiveTransfer", stock.ReceiveTransferRequest(transfer_id=sent.transfer_id, lines=lines(milk))
        )
        await self.call("GetTransfer", stock.GetTransferRequest(transfer_id=sent.transfer_id))
        await self.call("SetStockPolicy", stock.SetStockPolicyRequest(location_id=place, sku=milk, safety_stock=2))
        threshold = stock.SetChannelThresholdRequest(channel=types_pb2.CHANNEL_APP, sku=milk, quantity=1)
        await self.call("SetChannelThreshold", threshold)
        await self.call(
            "SetChannelThreshold", stock.SetChannelThresholdRequest(channel=types_pb2.CHANNEL_APP, sku=milk, quantity=0)
        )
        await self.call("GetStockPosition", stock.GetStockPositionRequest(location_id=place, sku=milk))

    async def backorders(self) -> None:
        place, sku = SIZE.location(10), "backordered"
        await self.call(
            "CreateProduct", catalog_pb2.CreateProductRequest(product=catalog_pb2.Product(sku=sku, name=sku))
        )
        await self.call("SetPrice", catalog_pb2.SetPriceRequest(sku=sku, amount=dollars(100)))
        policy = stock.SetStockPolicyRequest(location_id=place, sku=sku, backorder_limit=5)
        await self.call("SetStockPolicy", policy)
        await self.call("ReceiveStock", stock.ReceiveStockRequest(location_id=place, lines=lines(sku)))
        basket = [stock.LocationBasket(location_id=place, lines=lines(sku))]
        held = []
        for _ in range(3):
            request = stock.ReserveRequest(channel=types_pb2.CHANNEL_WEB, baskets=basket)
            held.append((await self.call("Reserve", request)).reservation.reservation_id)
        choice = orders.FulfillmentChoice(location_id=place, kind=orders.FULFILLMENT_KIND_PICKUP)
        placed = orders.PlaceOrderRequest(
            reservation_id=held[1],
            currency_code="USD",
            fulfillments=[choice],
            tenders=card(100),
            accepts_backorder=True,
        )
        await self.call("PlaceOrder", placed)
        await self.call("ReleaseReservation", stock.ReleaseReservationRequest(reservation_id=held[0]))
        assert await self.app.backorders.fill() == 1
        await self.call("SetStockPolicy", stock.SetStockPolicyRequest(location_id=place, sku=sku, backorder_limit=0))

    async def transfers(self) -> None:
        place, (milk, *_) = SIZE.assortment(0)
        places = {"from_location_id": place, "to_location_id": SIZE.location(1)}
        asked = stock.RequestTransferRequest(**places, lines=lines(milk))
        for answer in ("DispatchRequestedTransfer", "CancelTransfer"):
            transfer_id = (await self.call("RequestTransfer", asked)).transfer.transfer_id
            request = getattr(stock, f"{answer}Request")(transfer_id=transfer_id)
            await self.call(answer, request)
            asked.request_id = ""
        sent = (
            await self.call("DispatchTransfer", stock.DispatchTransferRequest(**places, lines=lines(milk)))
        ).transfer.transfer_id
        more = stock.ReceiveTransferRequest(transfer_id=sent, lines=lines(milk, milk), accepts_more=True)
        await self.call("ReceiveTransfer", more)
        sent = (
            await self.call("DispatchTransfer", stock.DispatchTransferRequest(**places, lines=lines(milk)))
        ).transfer.transfer_id
        await self.call("CloseTransfer", stock.CloseTransferRequest(transfer_id=sent, loss=stock.TRANSFER_LOSS_LOST))
        for is_open in (False, True):
            await self.call("ListTransfers", stock.ListTransfersRequest(location_id=place, is_open=is_open))
        await self.refused("ListTransfers", stock.ListTransfersRequest(location_id="unknown"))

    async def notices(self) -> None:
        place, (milk, bread, *_) = SIZE.assortment(3)
        tomorrow = Timestamp(seconds=int(time.time()) + 86_400)
        fields = {"location_id": place, "supplier": "dairy", "supplier_reference": "ASN-1", "expected_time": tomorrow}
        create = receiving.CreateAdvanceNoticeRequest(**fields, lines=lines(milk, bread))
        notice_id = (await self.call("CreateAdvanceNotice", create)).advance_notice.advance_notice_id
        create.request_id = request_id()
        await self.refused("CreateAdvanceNotice", create)
        update = receiving.UpdateAdvanceNoticeRequest(advance_notice_id=notice_id, lines=lines(milk))
        update.update_mask.paths.append("lines")
        await self.call("UpdateAdvanceNotice", update)
        asked = receiving.GetFutureAvailabilityRequest(
            channel=types_pb2.CHANNEL_WEB, skus=[milk, bread], location_ids=[place, SIZE.location(1)], by_time=tomorrow
        )
        await self.call("GetFutureAvailability", asked)
        await self.call("GetAdvanceNotice", receiving.GetAdvanceNoticeRequest(advance_notice_id=notice_id))
        for is_open in (False, True):
            await self.call(
                "ListAdvanceNotices", receiving.ListAdvanceNoticesRequest(location_id=place, is_open=is_open)
            )
        await self.call("ReceiveAdvanceNotice", receiving.ReceiveAdvanceNoticeRequest(advance_notice_id=notice_id))

    async def counts(self) -> None:
        place, skus = SIZE.assortment(18)
        for scope in (counting.COUNT_SCOPE_LOCATION, counting.COUNT_SCOPE_COUNT_TASKS):
            await self.maybe("StartCount", counting.StartCountRequest(location_id=place, scope=scope))
        start = counting.StartCountRequest(location_id=place, scope=counting.COUNT_SCOPE_SKUS, skus=skus[:3])
        count_id = (await self.call("StartCount", start)).count.count_id
        entries = [counting.CountEntry(sku=sku, counted_quantity=1) for sku in skus[:3]]
        await self.call("SubmitCount", counting.SubmitCountRequest(count_id=count_id, lines=entries))
        await self.call("RequestRecount", counting.RequestRecountRequest(count_id=count_id, skus=skus[:1]))
        await self.call("SubmitCount", counting.SubmitCountRequest(count_id=count_id, lines=entries[:1]))
        await self.call("RequestRecount", counting.RequestRecountRequest(count_id=count_id))
        await self.call("SubmitCount", counting.SubmitCountRequest(count_id=count_id, lines=entries))
        await self.call("GetCount", counting.GetCountRequest(count_id=count_id))
        for state in (counting.COUNT_LINE_STATE_UNSPECIFIED, counting.COUNT_LINE_STATE_COUNTED):
            await self.call("ListCountLines", counting.ListCountLinesRequest(count_id=count_id, state=state))
        for is_open in (False, True):
            await self.call("ListCounts", counting.ListCountsRequest(location_id=place, is_open=is_open))
        for some in (skus[:1], []):
            request = counting.ApproveCountRequest(count_id=count_id, skus=some, accepts_out_of_tolerance=True)
            await self.call("ApproveCount", request)
        await self.call("ListVariances", counting.ListVariancesRequest(location_id=place))
        start.request_id = request_id()
        count_id = (await self.call("StartCount", start)).count.count_id
        await self.call("CancelCount", counting.CancelCountRequest(count_id=count_id))

    async def reservations(self) -> None:
        place, skus = SIZE.assortment(2)
        asked = stock.GetAvailabilityRequest(
            channel=types_pb2.CHANNEL_WEB, skus=skus[:20], location_ids=[SIZE.location(n) for n in range(5)]
        )
        await self.call("GetAvailability", asked)
        await self.call("GetAvailability", asked)
        near = LatLng(latitude=25.5, longitude=-118)
        request = stock.FindStoresRequest(channel=types_pb2.CHANNEL_WEB, position=near, lines=lines(skus[0]))
        await self.call("FindStores", request)
        for more in ({}, {"location_ids": [place, SIZE.location(3)]}):
            preview = sourcing_pb2.PreviewSourcingRequest(
                channel=types_pb2.CHANNEL_WEB, method=orders.FULFILLMENT_KIND_SHIP, lines=lines(*skus[:5]), **more
            )
            await self.call("PreviewSourcing", preview)
        source = sourcing_pb2.SourceReservationRequest(
            channel=types_pb2.CHANNEL_WEB, method=orders.FULFILLMENT_KIND_SHIP, lines=lines(*skus[:2])
        )
        await self.call("SourceReservation", source)
        held = await self.reserve(2, 3)
        await self.call("GetReservation", stock.GetReservationRequest(reservation_id=held))
        baskets = [stock.LocationBasket(location_id=place, lines=lines(skus[5]))]
        await self.call("ChangeReservation", stock.ChangeReservationRequest(reservation_id=held, baskets=baskets))
        await self.call("ExtendReservation", stock.ExtendReservationRequest(reservation_id=held, ttl_seconds=1800))
        await self.call("ReleaseReservation", stock.ReleaseReservationRequest(reservation_id=held))
        await self.call("ListShortReservations", stock.ListShortReservationsRequest(location_id=place))

    async def orders(self) -> None:
        placed = await self.order(4, 5)
        number = placed.order.lines[0].line_number
        cancel = orders.CancelOrderLinesRequest(
            order_id=placed.order.order_id, lines=[orders.CancelLine(line_number=number, quantity=1)]
        )
        await self.call("CancelOrderLines", cancel)
        ready = await self.order(6)
        (code,) = ready.pickup_codes
        work = {"fulfillment_order_id": code.fulfillment_order_id}
        await self.call("AcceptFulfillmentOrder", orders.AcceptFulfillmentOrderRequest(**work))
        await self.call("PickFulfillmentOrder", orders.PickFulfillmentOrderRequest(**work))
        await self.call("MarkReadyForPickup", orders.MarkReadyForPickupRequest(**work))
        code = (await self.call("ResetPickupCode", orders.ResetPickupCodeRequest(**work))).pickup_code
        handed = orders.HandOverFulfillmentOrderRequest(**work, pickup_code=code.pickup_code)
        await self.call("HandOverFulfillmentOrder", handed)
        sent = (await self.order(7, kind=orders.FULFILLMENT_KIND_SHIP)).order.fulfillment_orders[0]
        work = {"fulfillment_order_id": sent.fulfillment_order_id}
        await self.call("AcceptFulfillmentOrder", orders.AcceptFulfillmentOrderRequest(**work))
        await self.call("PickFulfillmentOrder", orders.PickFulfillmentOrderRequest(**work))
        parcels = [orders.Parcel(lines=[orders.ParcelLine(line_number=n, quantity=1)]) for n in (1, 2)]
        request = orders.PackFulfillmentOrderRequest(**work, parcels=parcels)
        packed = (await self.call("PackFulfillmentOrder", request)).fulfillment_order
        left = {"carrier": "UPS", "tracking_reference": "1Z"}
        parcel = packed.shipments[0].shipment_id
        shipped = orders.ShipFulfillmentOrderRequest(**work, **left, shipment_id=parcel)
        rest = {"fulfillment_order_id": (await self.call("ShipFulfillmentOrder", shipped)).rest.fulfillment_order_id}
        await self.call("UnpickFulfillmentOrder", orders.UnpickFulfillmentOrderRequest(**rest))
        await self.call("PickFulfillmentOrder", orders.PickFulfillmentOrderRequest(**rest))
        await self.call("ShipFulfillmentOrder", orders.ShipFulfillmentOrderRequest(**rest, **left))
        await self.call("ReturnUndelivered", orders.ReturnUndeliveredRequest(**rest))
        await self.call("DeliverFulfillmentOrder", orders.DeliverFulfillmentOrderRequest(**work))
        ready = await self.order(6)
        (code,) = ready.pickup_codes
        work = {"fulfillment_order_id": code.fulfillment_order_id}
        await self.call("AcceptFulfillmentOrder", orders.AcceptFulfillmentOrderRequest(**work))
        await self.call("PickFulfillmentOrder", orders.PickFulfillmentOrderRequest(**work))
        await self.call("UnpickFulfillmentOrder", orders.UnpickFulfillmentOrderRequest(**work))
        await self.call("PickFulfillmentOrder", orders.PickFulfillmentOrderRequest(**work))
        await self.call("MarkReadyForPickup", orders.MarkReadyForPickupRequest(**work))
        await self.call("MarkArrived", orders.MarkArrivedRequest(**work, spot="4"))
        later = datetime.now(UTC) + timedelta(days=9)
        await self.call("ExtendPickupHold", orders.ExtendPickupHoldRequest(**work, hold_end_time=later))
        with suppress(Refusal):
            await self.call("MarkNoShow", orders.MarkNoShowRequest(**work, only_if_due=True))
        await self.call("MarkNoShow", orders.MarkNoShowRequest(**work))
        await self.call("PutAwayFulfillmentOrder", orders.PutAwayFulfillmentOrderRequest(**work))
        await self.app.pickups.sweep()
        messages = self.app.board.watch(SIZE.location(6), "")
        cursor = (await anext(messages)).cursor
        await messages.aclose()
        messages = self.app.board.watch(SIZE.location(6), cursor)
        await anext(messages)
        await self.order(6)
        assert (await anext(messages)).changes
        await messages.aclose()
        ready = await self.order(6)
        (code,) = ready.pickup_codes
        work = {"fulfillment_order_id": code.fulfillment_order_id}
        await self.call("AcceptFulfillmentOrder", orders.AcceptFulfillmentOrderRequest(**work))
        await self.call(
            "SubstituteLine",
            orders.SubstituteLineRequest(
                **work,
                line_number=1,
                quantity=1,
                sku=SIZE.assortment(6)[1][5],
                substitute_quantity=1,
                consent=orders.CONSENT_PHONE,
            ),
        )
        await self.offers()
        await self.call("PickFulfillmentOrder", orders.PickFulfillmentOrderRequest(**work))
        two = [orders.WorkLine(line_number=n) for n in (2, 3)]
        await self.call("MarkReadyForPickup", orders.MarkReadyForPickupRequest(**work, lines=two))
        proofs = [orders.Proof(kind=kind) for kind in (orders.PROOF_KIND_CALL_BACK, orders.PROOF_KIND_GOVERNMENT_ID)]
        identity = orders.IdentityCheck(recipient="Ada", proofs=proofs)
        handed = orders.HandOverFulfillmentOrderRequest(**work, lines=two[:1], identity=identity, cancel_rest=True)
        await self.call("HandOverFulfillmentOrder", handed)
        order = (await self.order(4)).order
        (work,) = order.fulfillment_orders
        quantities = [orders.WantedQuantity(line_number=n, quantity=q) for n, q in ((1, 0), (2, 2))]
        await self.change(order, orders.OrderChange(quantities=orders.EditQuantities(lines=quantities)))
        order = (await self.order(4)).order
        move = {"fulfillment_order_id": order.fulfillment_orders[0].fulfillment_order_id}
        turned = orders.MoveFulfillment(**move, kind=orders.FULFILLMENT_KIND_SHIP)
        await self.change(order, orders.OrderChange(move=turned))
        order = (await self.order(4)).order
        move = {"fulfillment_order_id": order.fulfillment_orders[0].fulfillment_order_id}
        elsewhere = next(
            SIZE.location(n)
            for n in range(SIZE.stocked_locations)
            if n != 4 and SIZE.assortment(n)[1] == SIZE.assortment(4)[1]
        )
        await self.change(order, orders.OrderChange(move=orders.MoveFulfillment(**move, location_id=elsewhere)))
        (work,) = (await self.order(9)).order.fulfillment_orders
        reject = [
            orders.RejectedLine(line_number=1, reason=orders.REJECT_REASON_NOT_FOUND),
            orders.RejectedLine(line_number=2, reason=orders.REJECT_REASON_CLOSED),
        ]
        request = orders.RejectFulfillmentOrderRequest(fulfillment_order_id=work.fulfillment_order_id, lines=reject)
        (short,) = (await self.call("RejectFulfillmentOrder", request)).rejected[0].shortfalls
        of_short = {"shortfall_id": short.shortfall_id}
        request = orders.ListShortfallAlternativesRequest(**of_short)
        offered = (await self.call("ListShortfallAlternatives", request)).alternatives
        assert offered
        await self.call(
            "DecideShortfall",
            orders.DecideShortfallRequest(
                **of_short,
                decision=orders.SHORTFALL_DECISION_RESOURCE,
                kind=orders.FULFILLMENT_KIND_SHIP,
                ship_to=ADDRESS,
            ),
        )
        place, skus = SIZE.assortment(8)
        sold = orders.SellRequest(
            location_id=place,
            currency_code="USD",
            lines=[orders.SaleLine(sku=skus[0], quantity=1), orders.SaleLine(barcode=BARCODE, quantity=1)],
            tenders=card(200),
        )
        sale = (await self.call("Sell", sold)).order
        back = orders.ReturnedLine(line_number=1, quantity=1, disposition=orders.DISPOSITION_AVAILABLE)
        taken = await self.call(
            "CreateReturn",
            orders.CreateReturnRequest(
                order_id=sale.order_id, location_id=place, channel=types_pb2.CHANNEL_POS, lines=[back]
            ),
        )
        await self.call("GetReturn", orders.GetReturnRequest(return_id=taken.returned.return_id))
        await self.call("GetOrder", orders.GetOrderRequest(order_id=sale.order_id))

    async def offers(self) -> None:
        """A substitute that the customer declines, and one that she accepts."""
        placed = await self.order(6)
        of_order = orders.ListSubstituteOffersRequest(order_id=placed.order.order_id)
        await self.call("ListSubstituteOffers", of_order)
        offer = orders.OfferSubstituteRequest(
            fulfillment_order_id=placed.pickup_codes[0].fulfillment_order_id,
            line_number=1,
            quantity=1,
            sku=SIZE.assortment(6)[1][5],
            substitute_quantity=1,
        )
        for rpc in ("DeclineSubstituteOffer", "AcceptSubstituteOffer"):
            offer.request_id = ""
            made = (await self.call("OfferSubstitute", offer)).substitute_offer
            answer = getattr(orders, f"{rpc}Request")(substitute_offer_id=made.substitute_offer_id)
            await self.call(rpc, answer)
        await self.call("ListSubstituteOffers", of_order)

    async def change(self, order: orders.Order, change: orders.OrderChange) -> None:
        """A change as it was previewed."""
        asked = {"order_id": order.order_id, "change": change}
        preview = await self.call("PreviewOrderChange", orders.PreviewOrderChangeRequest(**asked))
        paid = []
        if preview.charge.units:
            code = f"PLANS-CHANGE-{order.order_number}"
            await self.call("IssueGiftCard", money.IssueGiftCardRequest(code=code, amount=preview.charge))
            kind = orders.TENDER_KIND_GIFT_CARD
            paid = [orders.Tender(kind=kind, amount=preview.charge, gift_card_code=code)]
        request = orders.ApplyOrderChangeRequest(**asked, etag=preview.etag, tenders=paid)
        await self.call("ApplyOrderChange", request)

    async def returns(self) -> None:
        place, skus = SIZE.assortment(17)
        sold = orders.SellRequest(
            location_id=place,
            currency_code="USD",
            lines=[orders.SaleLine(sku=skus[0], quantity=9)],
            tenders=card(900),
            customer_id="C0000001",
        )
        sale = (await self.call("Sell", sold)).order
        for by in ({"order_id": sale.order_id}, {"order_number": sale.order_number}, {"customer_id": "C0000001"}):
            await self.call("ListReturnableLines", returns.ListReturnableLinesRequest(**by))
        announced = returns.AuthorizeReturnRequest(
            order_id=sale.order_id,
            channel=types_pb2.CHANNEL_WEB,
            lines=[returns.AnnouncedLine(line_number=1, quantity=3)],
        )
        made = (await self.call("AuthorizeReturn", announced)).return_authorization
        for by in (
            {"return_authorization_id": made.return_authorization_id},
            {"rma_number": made.rma_number},
        ):
            await self.call("GetReturnAuthorization", returns.GetReturnAuthorizationRequest(**by))
        for by in ({"order_id": sale.order_id}, {"customer_id": "C0000001"}):
            await self.call("ListReturnAuthorizations", returns.ListReturnAuthorizationsRequest(**by))
        units = orders.ReturnedLine(line_number=1, quantity=1, disposition=orders.DISPOSITION_SUPPLIER)
        worn = returns.RefusedLine(line_number=1, quantity=1, reason="worn")
        for came in ({"accepted": [units]}, {"refused": [worn]}):
            request = returns.ReceiveReturnRequest(
                return_authorization_id=made.return_authorization_id, location_id=place, **came
            )
            await self.call("ReceiveReturn", request)
        cancelled = returns.CancelReturnAuthorizationRequest(return_authorization_id=made.return_authorization_id)
        await self.call("CancelReturnAuthorization", cancelled)
        await self.call("ReturnToSupplier", returns.ReturnToSupplierRequest(location_id=place, lines=lines(skus[0])))
        exchange = returns.CreateExchangeRequest(
            order_id=sale.order_id,
            location_id=place,
            returned=[orders.ReturnedLine(line_number=1, quantity=1, disposition=orders.DISPOSITION_AVAILABLE)],
            sold=[orders.SaleLine(sku=skus[1], quantity=1)],
            currency_code="USD",
        )
        await self.call("CreateExchange", exchange)
        # So many that they are worth a look.
        manager = orders.ManagerOverride(manager="grace", reason="test")
        for n in range(4):
            brought = returns.CreateBlindReturnRequest(
                location_id=place,
                customer_id="C0000001",
                lines=[returns.BlindLine(sku=skus[0], quantity=1, disposition=orders.DISPOSITION_DAMAGED)],
                currency_code="USD",
                refund_kind=orders.TENDER_KIND_STORE_CREDIT,
                gift_card_code=f"PLANS-BLIND-{n:04}",
                override=manager,
            )
            await self.call("CreateBlindReturn", brought)
        for by in ({"customer_id": "C0000001"}, {"actor": CALLER.actor}):
            await self.call("GetReturnSignals", returns.GetReturnSignalsRequest(**by))

    async def shortfalls(self) -> None:
        place, skus = SIZE.assortment(13)
        await self.order(13)
        await self.reserve(13)
        for counted in (0, 1):
            line = stock.CountedLine(sku=skus[0], counted_quantity=counted)
            await self.call("CountStock", stock.CountStockRequest(location_id=place, lines=[line]))
        (first, *_) = (await self.call("ListShortfalls", orders.ListShortfallsRequest(location_id=place))).shortfalls
        await self.call(
            "DecideShortfall",
            orders.DecideShortfallRequest(shortfall_id=first.shortfall_id, decision=orders.SHORTFALL_DECISION_WAIT),
        )
        await self.call("ListShortReservations", stock.ListShortReservationsRequest(location_id=place))
        held = await self.reserve(14)
        place, skus = SIZE.assortment(14)
        line = stock.CountedLine(sku=skus[0], counted_quantity=1)
        await self.call("CountStock", stock.CountStockRequest(location_id=place, lines=[line]))
        await self.call("GetReservation", stock.GetReservationRequest(reservation_id=held))
        choice = orders.FulfillmentChoice(location_id=place, kind=orders.FULFILLMENT_KIND_PICKUP)
        await self.refused(
            "PlaceOrder",
            orders.PlaceOrderRequest(
                reservation_id=held, currency_code="USD", fulfillments=[choice], tenders=card(200)
            ),
        )
        await self.call("ReceiveStock", stock.ReceiveStockRequest(location_id=place, lines=lines(skus[0])))
        # Units that nobody knew of, of a position where open work waits: somebody has to count.
        place, skus = SIZE.assortment(15)
        await self.order(15)
        line = stock.CountedLine(sku=skus[0], counted_quantity=0)
        await self.call("CountStock", stock.CountStockRequest(location_id=place, lines=[line]))
        sold = orders.SellRequest(
            location_id=place,
            currency_code="USD",
            lines=[orders.SaleLine(sku=skus[0], quantity=2)],
            tenders=card(200),
        )
        await self.call("Sell", sold)

    async def places(self) -> None:
        """Locations and groups of them."""
        location = stock.Location(location_id="new", kind=stock.LOCATION_KIND_STORE, name="New")
        await self.call("CreateLocation", stock.CreateLocationRequest(location=location))
        request = stock.UpdateLocationRequest(location=location)
        request.update_mask.paths.append("name")
        await self.call("UpdateLocation", request)
        group = stock.SetLocationGroupRequest(location_group_id="G1", name="One", location_ids=["L00000", "new"])
        await self.call("SetLocationGroup", group)
        await self.call("ListLocationGroups", stock.ListLocationGroupsRequest())
        asked = stock.GetAvailabilityRequest(channel=types_pb2.CHANNEL_WEB, skus=[SIZE.sku(0)], location_group_id="G1")
        await self.call("GetAvailability", asked)
        # The first of its kind there.
        await self.call("ReceiveStock", stock.ReceiveStockRequest(location_id="new", lines=lines(SIZE.sku(0))))
        await self.call("SetLocationGroup", stock.SetLocationGroupRequest(location_group_id="G1", name="One"))
        line = stock.CountedLine(sku=SIZE.sku(0), counted_quantity=0)
        await self.call("CountStock", stock.CountStockRequest(location_id="new", lines=[line]))
        await self.call("DeleteLocation", stock.DeleteLocationRequest(location_id="new"))

    async def refusals(self) -> None:
        """What is only asked where a call is refused."""
        place = SIZE.location(1)
        await self.refused("ReceiveStock", stock.ReceiveStockRequest(location_id=place, lines=lines("unknown")))
        basket = stock.LocationBasket(location_id=place, lines=lines("unknown"))
        await self.refused("Reserve", stock.ReserveRequest(channel=types_pb2.CHANNEL_WEB, baskets=[basket]))
        held = await self.reserve(1)
        for _ in range(2):
            await self.maybe("ReleaseReservation", stock.ReleaseReservationRequest(reservation_id=held))
        for rpc, request in (
            ("ListShortfalls", orders.ListShortfallsRequest(location_id="unknown")),
            ("ListFulfillmentOrders", orders.ListFulfillmentOrdersRequest(location_id="unknown")),
            ("ListPayments", money.ListPaymentsRequest(order_id=held)),
            (
                "GetAvailability",
                stock.GetAvailabilityRequest(channel=1, skus=[SIZE.sku(0)], location_group_id="unknown"),
            ),
        ):
            await self.refused(rpc, request)

    async def past_the_gate(self) -> None:
        """A sale while the gate cannot be reached, and what is read meanwhile."""
        place, skus = SIZE.assortment(16)
        pipeline = type(self.app.connections).pipeline
        with patch.object(type(self.app.connections), "pipeline", side_effect=Unreachable("cut off")):
            sold = orders.SellRequest(
                location_id=place,
                currency_code="USD",
                lines=[orders.SaleLine(sku=skus[0], quantity=1)],
                tenders=card(100),
            )
            await self.call("Sell", sold)
            asked = stock.GetAvailabilityRequest(
                channel=types_pb2.CHANNEL_WEB, skus=skus[:20], location_ids=[SIZE.location(n) for n in range(5)]
            )
            await self.call("GetAvailability", asked)
        assert type(self.app.connections).pipeline is pipeline

    async def refused(self, rpc: str, request: Any) -> None:
        """A call that must be refused."""
        with pytest.raises(Refusal):
            await self.call(rpc, request)

    async def maybe(self, rpc: str, request: Any) -> None:
        """A call that may be refused."""
        with suppress(Refusal):
            await self.call(rpc, request)

    async def carts(self) -> None:
        skus = SIZE.assortment(0)[1]
        created = cart_pb2.CreateCartRequest(channel=types_pb2.CHANNEL_WEB, currency_code="USD", customer_id="C0000001")
        cart_id = (await self.call("CreateCart", created)).cart.cart_id
        guest = cart_pb2.CreateCartRequest(channel=types_pb2.CHANNEL_WEB, currency_code="USD")
        guest_id = (await self.call("CreateCart", guest)).cart.cart_id
        for each in (cart_id, guest_id):
            await self.call("AddCartLine", cart_pb2.AddCartLineRequest(cart_id=each, line=lines(skus[0])[0]))
        for quantity in (2, 0):
            await self.call("SetCartLine", cart_pb2.SetCartLineRequest(cart_id=cart_id, sku=skus[1], quantity=quantity))
        await self.call("ClaimCart", cart_pb2.ClaimCartRequest(cart_id=guest_id, customer_id="C0000001"))
        await self.call("GetCart", cart_pb2.GetCartRequest(cart_id=cart_id))
        await self.call("GetCustomerCart", cart_pb2.GetCustomerCartRequest(customer_id="C0000001"))
        await self.call("ListCarts", cart_pb2.ListCartsRequest(customer_id="C0000001"))
        await self.call("CreateCart", created_again(created))
        for each in skus[:2]:
            line = cart_pb2.SetCartLineRequest(cart_id=cart_id, sku=each, quantity=1)
            await self.call("SetCartLine", line)
        choice = orders.FulfillmentChoice(location_id=SIZE.location(0), kind=orders.FULFILLMENT_KIND_PICKUP)
        placed = orders.PlaceOrderRequest(
            reservation_id=await self.reserve(0, customer_id="C0000001"),
            cart_id=cart_id,
            fulfillments=[choice],
            tenders=card(200),
        )
        await self.call("PlaceOrder", placed)
        await self.refused("AddCartLine", cart_pb2.AddCartLineRequest(cart_id=cart_id, line=lines(skus[0])[0]))

    async def catalog(self) -> None:
        sku = SIZE.sku(3)
        await self.call("GetProduct", catalog_pb2.GetProductRequest(sku=sku))
        await self.call("LookUpBarcode", catalog_pb2.LookUpBarcodeRequest(gtin=BARCODE, currency_code="USD"))
        await self.call("BatchGetPrices", catalog_pb2.BatchGetPricesRequest(skus=[sku], currency_code="USD"))
        await self.call("SetPrice", catalog_pb2.SetPriceRequest(sku=sku, amount=dollars(100)))
        await self.call("SetBarcodes", catalog_pb2.SetBarcodesRequest(sku=sku, gtins=["04006381333931"]))
        await self.call("ListProducts", catalog_pb2.ListProductsRequest())
        product = catalog_pb2.Product(sku="new", name="New")
        await self.call("CreateProduct", catalog_pb2.CreateProductRequest(product=product))
        request = catalog_pb2.UpdateProductRequest(product=product)
        request.update_mask.paths.append("name")
        await self.call("UpdateProduct", request)

    async def lists(self) -> None:
        place, skus = SIZE.assortment(11)
        for more in ({}, {"sku": skus[0]}):
            await self.call("ListMovements", stock.ListMovementsRequest(location_id=place, **more))
        await self.call("ListCountTasks", stock.ListCountTasksRequest(location_id=place))
        await self.call("ListLocations", stock.ListLocationsRequest())
        await self.call("ListLocations", stock.ListLocationsRequest(location_group_id="G1"))
        await self.call("GetLocation", stock.GetLocationRequest(location_id=place))
        await self.call("ListOrders", orders.ListOrdersRequest())
        for more in (
            {"customer_id": "C0000001"},
            {"order_number": "AAAA-AAAA-AAAA"},
            {"state": orders.ORDER_STATE_OPEN},
            {"location_id": place},
            {"is_short": True},
        ):
            await self.call("ListOrders", orders.ListOrdersRequest(**more))
        await self.call("ListFulfillmentOrders", orders.ListFulfillmentOrdersRequest(location_id=place))
        await self.call("ListReturns", orders.ListReturnsRequest(location_id=place))
        await self.call("ListReturns", orders.ListReturnsRequest(customer_id="C0000001"))
        await self.call("ListShortfalls", orders.ListShortfallsRequest())
        await self.call("ListShortfalls", orders.ListShortfallsRequest(location_id=place))
        ((order_id,),) = await self.app.database.pool.fetch("SELECT order_id::text FROM returns LIMIT 1")
        await self.call("ListPayments", money.ListPaymentsRequest(order_id=order_id))
        await self.call("ListOrderEvents", orders.ListOrderEventsRequest(order_id=order_id))
        await self.call("ListOrderMovements", orders.ListOrderMovementsRequest(order_id=order_id))
        await self.gift_cards()
        await self.gateways()

    async def gateways(self) -> None:
        """Orders of carts that a gateway pays, or refuses to."""
        for method in ("pm_1", DECLINED_CARD):
            place, skus = SIZE.assortment(3)
            guest = cart_pb2.CreateCartRequest(channel=types_pb2.CHANNEL_WEB, currency_code="USD")
            cart_id = (await self.call("CreateCart", guest)).cart.cart_id
            for sku in skus[:2]:
                await self.call("SetCartLine", cart_pb2.SetCartLineRequest(cart_id=cart_id, sku=sku, quantity=1))
            request = orders.PlaceOrderRequest(
                request_id=request_id(),
                reservation_id=await self.reserve(3),
                cart_id=cart_id,
                fulfillments=[orders.FulfillmentChoice(location_id=place, kind=orders.FULFILLMENT_KIND_PICKUP)],
                tenders=[
                    orders.Tender(
                        kind=orders.TENDER_KIND_CARD,
                        amount=dollars(200),
                        payment_method=method,
                        capture_at=orders.CAPTURE_AT_FULFILLMENT,
                    )
                ],
            )
            if method == DECLINED_CARD:
                await self.refused("PlaceOrder", request)
                continue
            GATEWAY.faults = ["acts"]
            await self.refused("PlaceOrder", request)
            for reservation_id in (request.reservation_id, await self.reserve(3)):
                second = orders.PlaceOrderRequest()
                second.CopyFrom(request)
                second.request_id, second.reservation_id = request_id(), reservation_id
                await self.refused("PlaceOrder", second)
            order = (await self.call("PlaceOrder", request)).order
            hint = money.HandleWebhookRequest(
                request_id=request_id(),
                provider=money.PAYMENT_PROVIDER_STRIPE,
                body=f"{order.order_id}/1".encode(),
                signature=SIGNED,
            )
            await self.call("HandleWebhook", hint)
            cancelled = [orders.CancelLine(line_number=1, quantity=1)]
            await self.call(
                "CancelOrderLines", orders.CancelOrderLinesRequest(order_id=order.order_id, lines=cancelled)
            )
        await self.lost_stock()
        await self.app.jobs.run_due()
        await self.paid_changes()
        await self.renewals()
        await self.app.jobs.prune()
        (operation,) = await self.app.database.pool.fetchrow(
            "SELECT operation_id::text FROM payment_operations LIMIT 1"
        )
        await self.refused(
            "SettleRefund",
            money.SettleRefundRequest(operation_id=operation, settlement=money.REFUND_SETTLEMENT_BY_HAND),
        )

    async def paid_changes(self) -> None:
        """Changes that a gateway pays, or refuses to."""
        order = (await self.order(3)).order
        more = [orders.WantedQuantity(line_number=1, quantity=3)]
        asked: dict[str, Any] = {
            "order_id": order.order_id,
            "change": orders.OrderChange(quantities=orders.EditQuantities(lines=more)),
        }
        for method in (DECLINED_CARD, "pm_1"):
            preview = await self.call("PreviewOrderChange", orders.PreviewOrderChangeRequest(**asked))
            tender = orders.Tender(kind=orders.TENDER_KIND_CARD, amount=preview.charge, payment_method=method)
            request = orders.ApplyOrderChangeRequest(
                request_id=request_id(), etag=preview.etag, tenders=[tender], **asked
            )
            if method == DECLINED_CARD:
                await self.refused("ApplyOrderChange", request)
                continue
            GATEWAY.faults = ["acts"]
            await self.refused("ApplyOrderChange", request)
            await self.call("ApplyOrderChange", request)

    async def lost_stock(self) -> None:
        """An order that lacked units from the beginning, and that nobody else brings."""
        order_id = (await self.order(3)).order.order_id
        await self.app.database.pool.execute(LOSE, UUID(order_id))
        async with self.app.database.connection() as connection:
            await settle_later(connection, UUID(order_id))

    async def renewals(self) -> None:
        """What a card pays of an order whose goods leave some day, in two parts, and how it goes back."""
        place = SIZE.location(3)
        shipped = orders.FULFILLMENT_KIND_SHIP
        request = orders.PlaceOrderRequest(
            reservation_id=await self.reserve(3),
            currency_code="USD",
            fulfillments=[orders.FulfillmentChoice(location_id=place, kind=shipped)],
            ship_to=ADDRESS,
            tenders=[
                orders.Tender(
                    kind=orders.TENDER_KIND_CARD,
                    amount=dollars(200),
                    payment_method="pm_1",
                    capture_at=orders.CAPTURE_AT_FULFILLMENT,
                )
            ],
        )
        order = (await self.call("PlaceOrder", request)).order
        operation_id = await self.app.database.pool.fetchval(
            "SELECT operation_id::text FROM payment_operations WHERE order_id = $1 LIMIT 1", UUID(order.order_id)
        )
        await self.app.renewing.renew({"operation_id": operation_id}, 0)
        for _ in range(2):
            await self.app.jobs.run_due()
        (work,) = order.fulfillment_orders
        named = {"fulfillment_order_id": work.fulfillment_order_id}
        await self.call("AcceptFulfillmentOrder", orders.AcceptFulfillmentOrderRequest(**named))
        await self.call("PickFulfillmentOrder", orders.PickFulfillmentOrderRequest(**named))
        parcel = orders.ShipFulfillmentOrderRequest(**named, carrier="UPS", tracking_reference="1")
        await self.call("ShipFulfillmentOrder", parcel)
        back = orders.ReturnedLine(line_number=1, quantity=1, disposition=orders.DISPOSITION_AVAILABLE)
        await self.call(
            "CreateReturn",
            orders.CreateReturnRequest(
                order_id=order.order_id, location_id=place, channel=types_pb2.CHANNEL_POS, lines=[back]
            ),
        )
        # What goes back waits for what is taken.
        capture_id = await self.app.database.pool.fetchval(
            "SELECT operation_id FROM payment_operations WHERE order_id = $1 AND kind = 'CAPTURE'", UUID(order.order_id)
        )
        await self.app.settling.settle(capture_id)

    async def gift_cards(self) -> None:
        code, amount = "K7QF-3M9D-X2PA-88HT", dollars(500)
        issued = (await self.call("IssueGiftCard", money.IssueGiftCardRequest(code=code, amount=amount))).gift_card
        card = {"gift_card_id": issued.gift_card_id}
        await self.call("TopUpGiftCard", money.TopUpGiftCardRequest(**card, amount=amount))
        await self.call("GetGiftCard", money.GetGiftCardRequest(code=code))
        await self.call("ListGiftCardMovements", money.ListGiftCardMovementsRequest(**card))
        place, skus = SIZE.assortment(0)
        sold = orders.SellRequest(
            location_id=place,
            currency_code="USD",
            lines=[orders.SaleLine(sku=skus[0], quantity=1)],
            tenders=[orders.Tender(kind=orders.TENDER_KIND_GIFT_CARD, amount=dollars(100), gift_card_code=code)],
        )
        order = (await self.call("Sell", sold)).order
        back = orders.ReturnedLine(line_number=1, quantity=1, disposition=orders.DISPOSITION_AVAILABLE)
        await self.call(
            "CreateReturn",
            orders.CreateReturnRequest(
                order_id=order.order_id, location_id=place, channel=types_pb2.CHANNEL_POS, lines=[back]
            ),
        )

    async def beside(self) -> None:
        """What goes on beside the calls."""
        await self.app.sweeper.expire()
        await self.app.decisions.forget()
        await self.app.sweeper.close_due([SIZE.location(9)], 0.0)
        for _ in range(3):
            await self.app.sweeper.patrol()
        for _ in range(3):
            await self.app.reconciler.step()
        await self.app.rebuilder.rebuild(SIZE.location(12), is_forced=True)
        await self.app.clock.set_by(self.app.database)


def created_again(request: cart_pb2.CreateCartRequest) -> cart_pb2.CreateCartRequest:
    """The same cart asked for by another request."""
    return cart_pb2.CreateCartRequest(
        channel=request.channel, currency_code=request.currency_code, customer_id=request.customer_id
    )


def lines(*skus: str) -> list[types_pb2.BasketLine]:
    """One unit of each."""
    return [types_pb2.BasketLine(sku=sku, quantity=1) for sku in skus]


@asynccontextmanager
async def trading(dsn: str, redis_url: str, plans: Plans) -> AsyncIterator[Trade]:
    """A server process whose connections are looked at, with a gate that has some locations."""
    with patch("asyncpg.create_pool", partial(asyncpg.create_pool, connection_class=looking(plans))):
        app = await App.open(dsn, redis_url, {Provider.STRIPE: GATEWAY})
    try:
        for n in range(SIZE.stocked_locations):
            await app.rebuilder.rebuild(SIZE.location(n))
        plans.is_looking = True
        yield Trade(app)
        plans.is_looking = False
    finally:
        await app.close()


async def execute(dsn: str, script: str) -> None:
    """Statements one after the other, each its own transaction."""
    connection = await asyncpg.connect(asyncpg_dsn(dsn))
    try:
        for statement in filter(str.strip, script.split(";\n")):
            await connection.execute(statement)
    finally:
        await connection.close()


@dataclass(frozen=True)
class Seen:
    """A database with a lot of everything, and what calls of every kind did in it."""

    dsn: str
    redis_url: str
    plans: Plans


@pytest.fixture(scope="module")
def seen(new_database: Callable[[], AbstractContextManager[str]], session_redis_url: str) -> Iterator[Seen]:
    """Made once: it takes as long as all that is looked at."""
    plans = Plans()

    async def trade(dsn: str) -> None:
        await seed(dsn, SIZE)
        await execute(dsn, MORE)
        async with trading(dsn, session_redis_url, plans) as trade:
            await trade.go_on()
        await plans.look_later(dsn)

    with redis.Redis.from_url(session_redis_url) as gate:
        gate.flushall()
    with new_database() as dsn:
        asyncio.run(trade(dsn))
        yield Seen(dsn, session_redis_url, plans)


def problems(plans: Plans) -> list[str]:
    """Scans that read what a statement is not about."""
    known, found = constants(), []
    for query, scans in plans.scans.items():
        names = [name for name, text in known.items() if is_part(text, query)] or [" ".join(query.split())[:100]]
        is_wide = any(is_part(known.get(wide) or wide, query) for wide in WIDE)
        for scan in scans:
            is_end_to_end = scan.kind == "Seq Scan" and scan.table not in SMALL
            if not is_wide and (is_end_to_end or scan.rows > READ_MAX):
                found.append(f"{', '.join(names)}: {scan}")
    return sorted(set(found))


def test_every_statement_reads_by_an_index_and_only_what_it_is_about(seen: Seen) -> None:
    assert problems(seen.plans) == []


def test_every_statement_is_looked_at_or_told_to_be_cold(seen: Seen) -> None:
    known = constants()
    looked_at = {name for name, text in known.items() if any(is_part(text, query) for query in seen.plans.scans)}
    unknown = sorted(known.keys() - looked_at - COLD.keys())
    assert not unknown, f"call what runs these above, or say in COLD why they may read more: {', '.join(unknown)}"
    assert sorted(COLD.keys() - known.keys()) == [], "there is no such statement"
    assert sorted((COLD.keys() & looked_at) - BY_THE_CLOCK) == [], "it is looked at: it needs no excuse"


def test_what_may_read_more_is_run_and_does(seen: Seen) -> None:
    known = constants()
    for wide in WIDE:
        assert any(is_part(known.get(wide) or wide, query) for query in seen.plans.scans), wide
    assert sorted(wide for wide in WIDE if ":" in wide.split()[0] and wide not in known) == []


async def test_a_plan_made_while_tables_are_empty_reads_by_an_index_too(
    seen: Seen, new_database: Callable[[], AbstractContextManager[str]]
) -> None:
    # A server's connections keep the plan that they made first, and a shop opens with empty tables.
    with new_database() as dsn:  # one that nobody filled before: what was there once shows in what the planner knows
        plans = await empty_plans(dsn, seen.plans.scans)
    known, found = constants(), []
    for query, tables in plans.items():
        names = [name for name, text in known.items() if is_part(text, query)] or [" ".join(query.split())[:100]]
        if not any(is_part(known.get(wide) or wide, query) for wide in WIDE):
            found += [f"{', '.join(names)}: all of {table}" for table in tables if table not in SMALL]
    assert sorted(set(found)) == []


async def test_a_missing_index_is_noticed(seen: Seen) -> None:
    plans = Plans()
    await execute(seen.dsn, "DROP INDEX claims_reservation")
    try:
        async with trading(seen.dsn, seen.redis_url, plans) as trade:
            await trade.call(
                "ReleaseReservation", stock.ReleaseReservationRequest(reservation_id=await trade.reserve(3))
            )
    finally:
        await execute(
            seen.dsn, "CREATE INDEX claims_reservation ON claims (reservation_id) WHERE reservation_id IS NOT NULL"
        )
    assert any(line.startswith("ledger.transaction:") and "Scan of claims" in line for line in problems(plans))
