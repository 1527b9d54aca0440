"""What a row of the real data means, on small frames; and that the derived values are always the same."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from onhand.domain import barcode
from onhand.feeds import completejourney, derived
from onhand.feeds.records import FeedError
from onhand.feeds.weeks import Weeks, parse_weeks

MILK, FUEL, COUPON, DONATION, UNKNOWN = 101, 102, 103, 104, 999


def _products() -> Any:
    columns = [
        "product_id", "manufacturer_id", "department", "brand", "product_category", "product_type", "package_size",
    ]  # fmt: skip
    return completejourney.classify_products(
        pd.DataFrame(
            [
                (MILK, 1, "GROCERY", "Private", "FLUID MILK PRODUCTS", "FLUID MILK  WHITE ONLY", "1 GA"),
                (FUEL, 2, "MISCELLANEOUS", "Private", "COUPON/MISC ITEMS", "GASOLINE-REG UNLEADED", None),
                (COUPON, 3, "COUPON", "National", "COUPONS/STORE & MFG", "COUPONS/STORE & MFG", None),
                (DONATION, 4, "ELECT &PLUMBING", "National", "COUPON", "DONATIONS", None),
            ],
            columns=columns,
        )
    )


def _lines(*rows: tuple[int, int, float]) -> Any:
    """Lines of one basket at store 7: product, quantity, sales_value; loyalty took off 0.20 of each with a value."""
    frame = pd.DataFrame(rows, columns=["product_id", "quantity", "sales_value"])
    frame["retail_disc"] = (frame.sales_value > 0) * 0.20
    frame["coupon_match_disc"] = 0.0
    frame["store_id"], frame["basket_id"], frame["household_id"], frame["week"] = 7, 5000, 42, 2
    frame["transaction_timestamp"] = pd.Timestamp("2017-01-02 06:00:00")
    return completejourney.classify_lines(frame, _products())


@pytest.mark.parametrize(
    ("product", "quantity", "cause"),
    [
        (MILK, 1, ""),
        (MILK, 0, completejourney.ZERO_QUANTITY),
        (MILK, -1, completejourney.ABSURD_QUANTITY),
        (MILK, 1_000, ""),
        (MILK, 1_001, completejourney.ABSURD_QUANTITY),
        (FUEL, 10_000, ""),
        (FUEL, 1, completejourney.FUEL_VOLUME_UNKNOWN),
        (FUEL, 0, completejourney.ZERO_QUANTITY),
        (FUEL, 1_000_001, completejourney.ABSURD_QUANTITY),
        (COUPON, 1, completejourney.COUPON),
        (COUPON, 0, completejourney.COUPON),
        (DONATION, 1, completejourney.DONATION),
        (UNKNOWN, 1, completejourney.NOT_IN_CATALOGUE),
        (UNKNOWN, 0, completejourney.NOT_IN_CATALOGUE),
    ],
)
def test_a_line_moves_stock_or_has_one_cause(product: int, quantity: int, cause: str) -> None:
    lines = _lines((product, quantity, 1.0))

    assert lines.cause.tolist() == [cause]
    assert (lines.units.tolist()[0] > 0) == (cause == "")


def test_a_thousandth_of_a_gallon_of_fuel_is_counted_in_millilitres() -> None:
    assert _lines((FUEL, 10_000, 25.0)).units.tolist() == [37_854]


def test_the_shelf_price_adds_what_the_loyalty_card_took_off() -> None:
    lines = _lines((MILK, 2, 2.80), (FUEL, 10_000, 22.79))

    prices, findings = completejourney.shelf_prices(lines, lines, _products())

    assert sorted(prices) == [
        (str(MILK), "USD", 150, 1),
        # Ten gallons at 2.299: the nine tenths of a cent are kept.
        (str(FUEL), "USD", 2299, 37_854),
    ]
    assert findings == {"from_weeks": 2, "from_year": 0, "unpriced": 0}


def test_the_price_is_the_lower_median_so_it_was_really_asked() -> None:
    lines = _lines((MILK, 1, 0.80), (MILK, 1, 0.90), (MILK, 1, 1.80), (MILK, 1, 8.80))

    prices, _ = completejourney.shelf_prices(lines, lines, _products())

    assert [price.amount_minor for price in prices] == [110]


def test_a_product_that_the_weeks_only_give_away_is_priced_from_the_year() -> None:
    given_away = _lines((MILK, 1, 0.0))
    year = _lines((MILK, 1, 0.0), (MILK, 1, 1.29))

    prices, findings = completejourney.shelf_prices(given_away, year, _products())

    assert [price.amount_minor for price in prices] == [149]
    assert findings == {"from_weeks": 0, "from_year": 1, "unpriced": 1}


@pytest.mark.parametrize(("sold", "opening"), [(1, 1), (2, 1), (9, 8), (10, 9), (11, 9), (100, 90)])
def test_opening_stock_is_what_was_sold_less_a_tenth_and_at_least_one(sold: int, opening: int) -> None:
    stock = completejourney.opening_stock(_lines((MILK, sold, 1.0)))

    share = -(-sold // 5)
    assert stock == [
        ("store-7", str(MILK), opening),
        ("warehouse-1", str(MILK), share),
        ("warehouse-2", str(MILK), share),
    ]


def test_fuel_is_stocked_in_stores_and_not_in_warehouses() -> None:
    assert completejourney.opening_stock(_lines((FUEL, 10_000, 25.0))) == [("store-7", str(FUEL), 34_068)]


def test_a_basket_of_nothing_but_coupons_is_left_out_and_counted() -> None:
    found = completejourney.group_baskets(_lines((COUPON, 1, 1.0)))

    assert found.baskets == []
    assert (found.baskets_read, found.baskets_left_out, found.lines_left_out["coupon"]) == (1, 1, 1)


def test_a_basket_keeps_its_goods_its_store_its_household_and_its_moment() -> None:
    [basket] = completejourney.group_baskets(_lines((FUEL, 10_000, 25.0), (MILK, 2, 3.0), (COUPON, 1, 1.0))).baskets

    assert (basket.basket_id, basket.location_id, basket.customer_id) == ("5000", "store-7", "household-42")
    assert basket.time_seconds == 1_483_336_800
    assert [(line.sku, line.quantity, line.is_fuel) for line in basket.lines] == [
        ("101", 2, False),
        ("102", 37_854, True),
    ]


def test_the_real_baskets_of_a_week_come_in_time_order() -> None:
    week = completejourney.read_baskets(Weeks(1, 1))

    assert (week.lines_read, week.baskets_read) == (3_722, 382)
    times = [basket.time_seconds for basket in week.baskets]
    assert times == sorted(times)
    assert len(week.baskets) + week.baskets_left_out == week.baskets_read
    assert sum(len(basket.lines) for basket in week.baskets) + sum(week.lines_left_out.values()) == week.lines_read


def test_a_derived_gtin_is_in_the_range_for_use_in_stores_and_checks() -> None:
    gtin = derived.gtin(1082185)

    assert gtin == "02000010821853"
    assert barcode.normalize(gtin) == gtin


def test_a_store_is_always_put_into_the_same_place() -> None:
    store = derived.store(330)

    assert store == derived.store(330)
    assert (store.location_id, store.kind, store.name) == ("store-330", "STORE", "Store 330, Cincinnati")
    assert (store.latitude, store.longitude) == (39.09587, -84.62375)
    assert [hours.iso_weekday for hours in store.opening_hours] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(("text", "weeks"), [("2-4", (2, 4)), ("3", (3, 3)), (" 1 - 53 ", (1, 53)), (None, (1, 53))])
def test_weeks_are_read_as_people_write_them(text: str | None, weeks: tuple[int, int]) -> None:
    assert parse_weeks(text) == weeks


@pytest.mark.parametrize("text", ["", "0-2", "4-2", "1-54", "a", "1-2-3", "1,2", "9999"])
def test_weeks_that_are_not_in_the_data_are_refused(text: str) -> None:
    with pytest.raises(FeedError):
        parse_weeks(text)
