"""A retailer's own files: what is read, and how an error names its file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from onhand.feeds.files import ERRORS_MAX, read_folder
from onhand.feeds.records import FeedError, OpeningHours

GOOD = {
    "locations.csv": (
        "location_id,kind,name,latitude,longitude,time_zone,opening_hours,lead_minutes,cut_off,daily_orders_max,"
        "daily_units_max,groups\n"
        'berlin-1,STORE,"Berlin, Mitte",52.52,13.405,Europe/Berlin,Mo-Fr 08:00-20:00; Sa 09:00-18:00,90,16:30,200,0,'
        "all-stores;berlin\n"
        "hub,WAREHOUSE,Hub,,,,,,,,,\n"
    ),
    "products.csv": "sku,name,base_unit\nMILK-1,Milk 1 l,\nRICE,Rice,GRAM\n",
    "barcodes.csv": "gtin,sku\n4006381333931,MILK-1\n",
    "prices.csv": "sku,currency,amount,price_quantity\nMILK-1,EUR,1.29,\nRICE,EUR,2.5,1000\nRICE,JPY,300,1000\n",
    "stock.csv": "location_id,sku,quantity\nberlin-1,MILK-1,12\nhub,RICE,0\n",
}


def _folder(folder: Path, **changed: str) -> Path:
    for name, text in (GOOD | {f"{stem}.csv": text for stem, text in changed.items()}).items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def _error(folder: Path) -> str:
    with pytest.raises(FeedError) as caught:
        read_folder(folder)
    return str(caught.value)


def test_a_folder_is_read_whole(tmp_path: Path) -> None:
    feed = read_folder(_folder(tmp_path))

    store, hub = feed.locations
    assert (store.name, store.latitude, store.time_zone) == ("Berlin, Mitte", 52.52, "Europe/Berlin")
    assert store.opening_hours[4:] == (OpeningHours(5, 480, 1200), OpeningHours(6, 540, 1080))
    # A store offers pickup unless it is said otherwise, a warehouse only if it is said.
    assert (store.offers_pickup, hub.offers_pickup, hub.offers_shipping) == (True, False, True)
    # What a location takes on: said, and not said, which is not the same as none.
    assert store[-4:] == (90, 16 * 60 + 30, 200, 0)
    assert hub[-4:] == (None, None, None, None)
    assert feed.groups == [("all-stores", "all-stores", ("berlin-1",)), ("berlin", "berlin", ("berlin-1",))]
    assert [product.base_unit for product in feed.products] == ["EACH", "GRAM"]
    assert feed.barcodes == [("04006381333931", "MILK-1")]
    assert feed.prices == [("MILK-1", "EUR", 129, 1), ("RICE", "EUR", 250, 1000), ("RICE", "JPY", 300, 1000)]
    assert feed.stock == [("berlin-1", "MILK-1", 12), ("hub", "RICE", 0)]
    assert feed.findings == {"read": {"locations": 2, "products": 2, "barcodes": 1, "prices": 3, "stock": 2}}


def test_a_file_may_be_absent_and_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "stock.csv").write_text("\ufefflocation_id,sku,quantity\na,b,1\n", encoding="utf-8")

    assert read_folder(tmp_path).stock == [("a", "b", 1)]


@pytest.mark.parametrize(
    ("table", "text", "where"),
    [
        ("locations", "location_id,kind,name\na,SHOP,A\n", "locations.csv:2: kind 'SHOP' is not one of"),
        ("locations", "location_id,kind,name\n-a,STORE,A\n", "locations.csv:2: location_id '-a'"),
        ("locations", "location_id,kind,name\na,STORE,\n", "locations.csv:2: name is empty"),
        ("locations", "location_id,kind,name,latitude\na,STORE,A,52\n", "locations.csv:2: latitude and longitude"),
        ("locations", "location_id,kind,name,latitude\na,STORE,A,91\n", "locations.csv:2: latitude '91'"),
        ("locations", "location_id,kind,name,latitude\na,STORE,A,nan\n", "locations.csv:2: latitude 'nan'"),
        ("locations", "location_id,kind,name,time_zone\na,STORE,A,Mars\n", "locations.csv:2: time_zone 'Mars'"),
        (
            "locations",
            "location_id,kind,name,opening_hours\na,STORE,A,Mo 20:00-08:00\n",
            "locations.csv:2: opening_hours",
        ),
        ("locations", "location_id,kind,name,opening_hours\na,STORE,A,always\n", "locations.csv:2: opening_hours"),
        ("locations", "location_id,kind,name,lead_minutes\na,STORE,A,43201\n", "locations.csv:2: lead_minutes '43201'"),
        ("locations", "location_id,kind,name,cut_off\na,STORE,A,24:00\n", "locations.csv:2: cut_off '24:00'"),
        ("locations", "location_id,kind,name,cut_off\na,STORE,A,9:30\n", "locations.csv:2: cut_off '9:30'"),
        (
            "locations",
            "location_id,kind,name,daily_orders_max\na,STORE,A,1\nb,STORE,B,-1\n",
            "locations.csv:3: daily_orders_max '-1'",
        ),
        ("locations", "location_id,kind,name,daily_units_max\na,STORE,A,x\n", "locations.csv:2: daily_units_max 'x'"),
        ("locations", "location_id,kind\na,STORE\n", "locations.csv:1: column 'name' is missing"),
        ("products", "sku,name,colour\na,A,red\n", "products.csv:1: column 'colour' is not known"),
        ("products", "sku,name,name\na,A,A\n", "products.csv:1: a column is there twice"),
        ("products", "", "products.csv:1: column 'sku' is missing"),
        ("products", "sku,name\na,A\nb,B\na,C\n", "products.csv:4: sku a are in line 2 already"),
        ("products", "sku,name\na,A,1\n", "products.csv:2: has 3 fields, the header has 2"),
        ("products", f"sku,name\na,{'A' * 257}\n", "products.csv:2: name"),
        ("products", 'sku,name\na,"A\n1"\n', "products.csv:2: name 'A\\n1' has characters that cannot be printed"),
        ("products", 'sku,name\na,"A\n', "products.csv:2: is not CSV"),
        ("barcodes", "gtin,sku\n4006381333932,a\n", "barcodes.csv:2: gtin '4006381333932' is not a GTIN"),
        ("barcodes", "gtin,sku\n123,a\n", "barcodes.csv:2: gtin '123'"),
        ("barcodes", "gtin,sku\n4006381333931,a\n04006381333931,b\n", "barcodes.csv:3: gtin 04006381333931"),
        ("prices", "sku,currency,amount\na,EUR,1.299\n", "prices.csv:2: amount 1.299 has a fraction"),
        ("prices", "sku,currency,amount\na,EUR,-1\n", "prices.csv:2: amount '-1'"),
        ("prices", "sku,currency,amount\na,EUR,1e3\n", "prices.csv:2: amount '1e3'"),
        ("prices", f"sku,currency,amount\na,EUR,{'9' * 20}\n", "prices.csv:2: amount"),
        ("prices", "sku,currency,amount\na,XYZ,1\n", "prices.csv:2: currency 'XYZ'"),
        ("prices", "sku,currency,amount,price_quantity\na,EUR,1,0\n", "prices.csv:2: price_quantity '0'"),
        ("stock", "location_id,sku,quantity\na,b,-1\n", "stock.csv:2: quantity '-1'"),
        ("stock", "location_id,sku,quantity\na,b,1.5\n", "stock.csv:2: quantity '1.5'"),
        ("stock", "location_id,sku,quantity\na,b,1\n\na,b,2\n", "stock.csv:4: location_id and sku a/b are in line 2"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_file_and_line(tmp_path: Path, table: str, text: str, where: str) -> None:
    assert _error(_folder(tmp_path, **{table: text})).startswith(where)


def test_a_file_that_is_not_utf8_is_refused_by_name(tmp_path: Path) -> None:
    (_folder(tmp_path) / "products.csv").write_bytes("sku,name\na,Käse\n".encode("latin-1"))

    assert _error(tmp_path).startswith("products.csv:")


def test_all_errors_are_shown_together_up_to_a_bound(tmp_path: Path) -> None:
    rows = "".join(f"loc,sku{number},x\n" for number in range(50))

    lines = _error(_folder(tmp_path, stock=f"location_id,sku,quantity\n{rows}")).splitlines()

    assert len(lines) == ERRORS_MAX + 1
    assert lines[0].startswith("stock.csv:2:")
    assert lines[ERRORS_MAX - 1].startswith("stock.csv:21:")


def test_a_file_of_another_name_is_refused_rather_than_passed_over(tmp_path: Path) -> None:
    (_folder(tmp_path) / "Stocks.csv").write_text("x\n")

    assert _error(tmp_path).startswith("Stocks.csv: not a file of an import")


def test_an_empty_and_an_absent_folder_are_refused(tmp_path: Path) -> None:
    assert "has none of locations.csv" in _error(tmp_path)
    assert "is not a folder" in _error(tmp_path / "absent")
