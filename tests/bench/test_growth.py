"""Stores of any size are whole: every rule holds, and the servers' own answers are what requests were given."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from onhand.bench.growth.measure import beside_the_first, grow
from onhand.bench.growth.seed import seed
from onhand.bench.growth.size import SIZES, Size
from onhand.bench.run import Wanted
from onhand.postgres import asyncpg_dsn
from onhand.v1 import inventory_pb2, order_pb2
from onhand.verify import verify

TINY = Size("tiny", positions=40, stocked_locations=2, reservations=33, movements=295, sales=9, orders=5)
ODD = Size("odd", positions=1200, stocked_locations=200, reservations=700, movements=1200 * 2 + 88, sales=44, orders=0)


@pytest.mark.parametrize("size", [TINY, ODD], ids=lambda size: size.name)
async def test_a_seeded_store_has_what_its_size_says_and_holds_every_rule(database_dsn: str, size: Size) -> None:
    await seed(database_dsn, size)

    report = await verify(database_dsn, None)
    assert [(c.name, c.violations) for c in report.checks if not c.is_ok] == []
    connection = await asyncpg.connect(asyncpg_dsn(database_dsn))
    try:
        assert tuple(
            await connection.fetchrow(
                "SELECT (SELECT count(*) FROM stock_levels), (SELECT count(*) FROM stock_movements),"
                " (SELECT count(*) FROM claims WHERE state = 'active'), (SELECT count(*) FROM orders WHERE state = 'OPEN')"
            )
        ) == (size.positions, size.movements, size.reservations, size.orders)
        for n in (0, 1, size.positions - 1):
            found = "SELECT available FROM stock_levels WHERE (location_id, sku) = ($1, $2)"
            assert await connection.fetchval(found, *size.position(n)) is not None
        place, skus = size.assortment(size.stocked_locations - 1)
        found = "SELECT array_agg(sku ORDER BY sku) FROM stock_levels WHERE location_id = $1"
        assert await connection.fetchval(found, place) == skus
        sku, places = size.places_of(0, 50)
        known = "SELECT count(*) FROM locations WHERE location_id = ANY ($1)"
        assert await connection.fetchval(known, places) == 50
        held = "SELECT count(*) FROM stock_levels WHERE sku = $1 AND location_id = ANY ($2)"
        assert await connection.fetchval(held, sku, places) == min(50, size.stocked_locations // size.blocks)
    finally:
        await connection.close()


async def test_the_answers_of_seeded_requests_are_those_of_a_server(database_dsn: str) -> None:
    await seed(database_dsn, TINY)

    connection = await asyncpg.connect(asyncpg_dsn(database_dsn))
    try:
        for row in await connection.fetch("SELECT response FROM requests WHERE method = 'ReserveRequest'"):
            reservation = inventory_pb2.ReserveResponse.FromString(row["response"]).reservation
            (basket,) = reservation.baskets
            claim = await connection.fetchrow(
                "SELECT location_id, customer_id, lines::text FROM claims WHERE reservation_id = $1",
                reservation.reservation_id,
            )
            lines = "[{}]".format(", ".join(f'["{line.sku}", {line.quantity}]' for line in basket.lines))
            assert tuple(claim) == (basket.location_id, reservation.customer_id, lines)
        for method, response in (
            ("SellRequest", order_pb2.SellResponse),
            ("PlaceOrderRequest", order_pb2.PlaceOrderResponse),
        ):
            for row in await connection.fetch("SELECT response FROM requests WHERE method = $1", method):
                order = response.FromString(row["response"]).order
                known = await connection.fetchrow(
                    "SELECT order_number, customer_id, coalesce(reservation_id::text, '') FROM orders WHERE order_id = $1",
                    order.order_id,
                )
                assert tuple(known) == (order.order_number, order.customer_id, order.reservation_id)
    finally:
        await connection.close()


async def test_only_an_empty_ledger_is_filled(database_dsn: str) -> None:
    await seed(database_dsn, TINY)
    with pytest.raises(ValueError, match="empty"):
        await seed(database_dsn, TINY)


def test_the_sizes_that_are_measured_can_be_made() -> None:
    large = SIZES[-1]
    assert (large.positions, large.stocked_locations, large.reservations, large.movements) == (
        2_000_000,
        10_000,
        1_000_000,
        10_000_000,
    )
    with pytest.raises(ValueError, match="even number"):
        Size("uneven", positions=6, stocked_locations=2, reservations=0, movements=6, sales=0, orders=0)
    with pytest.raises(ValueError, match="opening movement"):
        Size("short", positions=4, stocked_locations=2, reservations=0, movements=5, sales=1, orders=0)


def test_calls_are_measured_on_a_store_of_a_size() -> None:
    steps: list[str] = []
    names = ("reserve", "sell")
    wanted = Wanted(seconds=0.4, alternations=1, names=names, in_flight=(4,), is_pinned=False, has_fsync=False)

    grown = grow(wanted, lambda step, done, total: steps.append(step), [ODD])

    (store,) = grown["sizes"]
    assert grown["ok"]
    assert store["size"]["positions"] == ODD.positions
    assert tuple(figure["name"] for figure in store["figures"]) == names
    assert all(store["memory_mb"][name]["total"] > 0 for name in ("server", "postgres", "valkey"))
    assert "odd: load the gate" in steps
    assert [row["ratio_of_first"] for row in grown["beside_the_first"]] == [1.0, 1.0]


def test_sizes_are_compared_by_their_own_echoes() -> None:
    def store(name: str, ratio: float, server_ms: float) -> dict[str, Any]:
        cpu = {"server": server_ms, "valkey": 0.0}
        figure = {"name": "reserve", "in_flight": 64, "ratio_to_echo": ratio, "cpu_ms_per_call": cpu}
        return {"size": {"name": name}, "figures": [figure]}

    assert [
        (row["size"], row["ratio_of_first"], row["cpu_of_first"])
        for row in beside_the_first([store("small", 0.8, 0.5), store("large", 0.72, 0.55)])
    ] == [("small", 1.0, {"server": 1.0, "valkey": None}), ("large", 0.9, {"server": 1.1, "valkey": None})]
