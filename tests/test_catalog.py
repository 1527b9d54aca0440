"""CatalogService on a real ledger."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.type.money_pb2 import Money

from onhand.catalog import Catalog, read_barcodes, read_prices
from onhand.domain.cart import UnitPrice
from onhand.ledger.mutation import Ledger
from onhand.v1 import catalog_pb2 as pb
from shelf import CALLER, add_product, dollars, refused, request_id, set_price

TEA = "04006381333931"
UPC = "036000291452"


@pytest.fixture
def catalog(gateless_ledger: Ledger) -> Catalog:
    return Catalog(gateless_ledger)


# ------------------------------------------------------------------------------------------------------------ products
async def test_a_product_is_read_as_it_was_created(catalog: Catalog) -> None:
    product = pb.Product(
        sku="tea-1",
        name="Green tea",
        brand="Leaf",
        department="GROCERY",
        category="TEAS",
        product_type="GREEN",
        package_size="20 CT",
        base_unit=pb.BASE_UNIT_GRAM,
        etag="ignored",
        gtins=["ignored"],
    )
    created = await catalog.create_product(pb.CreateProductRequest(request_id=request_id(), product=product), CALLER)
    read = await catalog.get_product(pb.GetProductRequest(sku="tea-1"), CALLER)
    assert read.product == created.product
    assert (read.product.name, read.product.base_unit, list(read.product.gtins)) == ("Green tea", pb.BASE_UNIT_GRAM, [])
    assert read.product.etag not in ("", "ignored")
    assert read.product.HasField("created_time")


async def test_a_product_without_a_unit_is_counted_by_the_piece(catalog: Catalog) -> None:
    assert (await add_product(catalog, "tea")).base_unit == pb.BASE_UNIT_EACH


async def test_a_sku_is_given_once(catalog: Catalog) -> None:
    await add_product(catalog, "tea")
    await refused("PRODUCT_EXISTS", add_product(catalog, "tea", name="Other tea"))
    assert (await catalog.get_product(pb.GetProductRequest(sku="tea"), CALLER)).product.name == "tea"


async def test_a_repeated_creation_gets_the_first_answer(catalog: Catalog) -> None:
    request = pb.CreateProductRequest(request_id=request_id(), product=pb.Product(sku="tea", name="Tea"))
    first, second = await asyncio.gather(
        catalog.create_product(request, CALLER), catalog.create_product(request, CALLER)
    )
    assert first == second


async def test_a_request_id_with_another_body_or_method_is_refused(catalog: Catalog) -> None:
    request = pb.CreateProductRequest(request_id=request_id(), product=pb.Product(sku="tea", name="Tea"))
    await catalog.create_product(request, CALLER)
    other_body = pb.CreateProductRequest(request_id=request.request_id, product=pb.Product(sku="cup", name="Cup"))
    await refused("REQUEST_ID_REUSED", catalog.create_product(other_body, CALLER))
    other_method = pb.SetBarcodesRequest(request_id=request.request_id, sku="tea")
    await refused("REQUEST_ID_REUSED", catalog.set_barcodes(other_method, CALLER))


async def test_a_refused_request_may_be_judged_anew(catalog: Catalog) -> None:
    request = pb.SetPriceRequest(request_id=request_id(), sku="tea", amount=dollars(1))
    await refused("SKU_NOT_FOUND", catalog.set_price(request, CALLER))
    await add_product(catalog, "tea")
    assert (await catalog.set_price(request, CALLER)).price.sku == "tea"


@pytest.mark.parametrize("name", ["", "   "])
async def test_a_product_has_a_name(catalog: Catalog, name: str) -> None:
    await refused("INVALID_REQUEST", add_product(catalog, "tea", name=name))


async def test_a_product_with_an_unknown_unit_is_refused(catalog: Catalog) -> None:
    request = pb.CreateProductRequest(request_id=request_id(), product=pb.Product(sku="tea", name="Tea"))
    request.product.base_unit = 77  # type: ignore[assignment]
    await refused("INVALID_REQUEST", catalog.create_product(request, CALLER))


async def test_the_database_refuses_a_malformed_sku_too(catalog: Catalog) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await add_product(catalog, "no sku", name="Tea")


async def test_an_update_sets_the_fields_of_its_mask_only(catalog: Catalog) -> None:
    before = await add_product(catalog, "tea", brand="Leaf", department="GROCERY")
    product = pb.Product(sku="tea", name="ignored", brand="Bush", category="TEAS", etag=before.etag)
    after = (await catalog.update_product(_update(product, "brand", "category", "department"), CALLER)).product
    assert (after.name, after.brand, after.category, after.department) == ("tea", "Bush", "TEAS", "")
    assert after.etag != before.etag
    assert (await catalog.get_product(pb.GetProductRequest(sku="tea"), CALLER)).product == after


async def test_of_two_updates_of_one_version_the_second_is_refused(catalog: Catalog) -> None:
    seen = await add_product(catalog, "tea")
    await catalog.update_product(_update(pb.Product(sku="tea", brand="A", etag=seen.etag), "brand"), CALLER)
    refusal = await refused(
        "ETAG_MISMATCH",
        catalog.update_product(_update(pb.Product(sku="tea", brand="B", etag=seen.etag), "brand"), CALLER),
    )
    now = (await catalog.get_product(pb.GetProductRequest(sku="tea"), CALLER)).product
    assert (now.brand, refusal.metadata()["current_etag"]) == ("A", now.etag)


@pytest.mark.parametrize("paths", [[], ["sku"], ["base_unit"], ["name", "gtins"], ["name; DROP TABLE products"]])
async def test_a_mask_of_what_cannot_be_changed_is_refused(catalog: Catalog, paths: list[str]) -> None:
    await add_product(catalog, "tea")
    await refused("INVALID_REQUEST", catalog.update_product(_update(pb.Product(sku="tea", name="T"), *paths), CALLER))


async def test_an_update_cannot_take_the_name_away(catalog: Catalog) -> None:
    await add_product(catalog, "tea")
    await refused("INVALID_REQUEST", catalog.update_product(_update(pb.Product(sku="tea"), "name"), CALLER))


async def test_an_unknown_sku_is_not_found(catalog: Catalog) -> None:
    await refused("SKU_NOT_FOUND", catalog.get_product(pb.GetProductRequest(sku="tea"), CALLER))
    await refused("SKU_NOT_FOUND", catalog.update_product(_update(pb.Product(sku="tea", brand="B"), "brand"), CALLER))
    await refused("SKU_NOT_FOUND", _set_barcodes(catalog, "tea", TEA))
    await refused("SKU_NOT_FOUND", set_price(catalog, "tea", dollars(1)))


async def test_pages_of_products_give_each_once_in_order(catalog: Catalog) -> None:
    for number in (3, 1, 5, 2, 4):
        await add_product(catalog, f"sku-{number}")
    request = pb.ListProductsRequest(page_size=2)
    pages = []
    while True:
        response = await catalog.list_products(request, CALLER)
        pages.append([product.sku for product in response.products])
        if not response.next_page_token:
            break
        request.page_token = response.next_page_token
    assert pages == [["sku-1", "sku-2"], ["sku-3", "sku-4"], ["sku-5"]]


@pytest.mark.parametrize(
    ("filters", "skus"),
    [
        ({}, ["cup", "mate", "tea"]),
        ({"department": "GROCERY"}, ["mate", "tea"]),
        ({"department": "GROCERY", "category": "TEAS"}, ["tea"]),
        ({"category": "TEAS"}, ["tea"]),
        ({"name_prefix": "gREEN"}, ["cup", "tea"]),
        ({"name_prefix": "green", "department": "KITCHEN"}, ["cup"]),
        ({"name_prefix": "tea"}, []),
        ({"name_prefix": "%"}, []),
        ({"name_prefix": "_"}, []),
        ({"department": "grocery"}, []),
    ],
)
async def test_a_list_has_the_products_that_meet_all_filters(
    catalog: Catalog, filters: dict[str, str], skus: list[str]
) -> None:
    await add_product(catalog, "tea", name="Green tea", department="GROCERY", category="TEAS")
    await add_product(catalog, "mate", name="Mate", department="GROCERY", category="MATE")
    await add_product(catalog, "cup", name="GREEN cup", department="KITCHEN")
    response = await catalog.list_products(pb.ListProductsRequest(**filters), CALLER)
    assert [product.sku for product in response.products] == skus


async def test_a_page_token_of_other_filters_or_garbage_is_refused(catalog: Catalog) -> None:
    for sku in ("a", "b"):
        await add_product(catalog, sku, department="GROCERY")
    first = await catalog.list_products(pb.ListProductsRequest(department="GROCERY", page_size=1), CALLER)
    for wrong in (
        pb.ListProductsRequest(department="DRUG", page_token=first.next_page_token),
        pb.ListProductsRequest(department="GROCERY", page_token="garbage"),
    ):
        await refused("PAGE_TOKEN_INVALID", catalog.list_products(wrong, CALLER))
    await refused("INVALID_REQUEST", catalog.list_products(pb.ListProductsRequest(page_size=-1), CALLER))


# ------------------------------------------------------------------------------------------------------------ barcodes
@pytest.mark.parametrize("scanned", ["036000291452", "0036000291452", "00036000291452"])
async def test_a_barcode_names_its_product_however_it_is_scanned(catalog: Catalog, scanned: str) -> None:
    await add_product(catalog, "soup", dollars(1.99))
    await _set_barcodes(catalog, "soup", UPC)
    found = await catalog.look_up_barcode(pb.LookUpBarcodeRequest(gtin=scanned, currency_code="USD"), CALLER)
    assert (found.product.sku, found.price.amount, found.price.price_quantity) == ("soup", dollars(1.99), 1)
    assert list(found.product.gtins) == ["00036000291452"]


async def test_a_barcode_answers_without_a_price_where_there_is_none(catalog: Catalog) -> None:
    await add_product(catalog, "soup", dollars(1.99))
    await _set_barcodes(catalog, "soup", UPC)
    for currency in ("", "EUR"):
        found = await catalog.look_up_barcode(pb.LookUpBarcodeRequest(gtin=UPC, currency_code=currency), CALLER)
        assert found.product.sku == "soup"
        assert not found.HasField("price")


async def test_barcodes_that_are_set_replace_those_of_before(catalog: Catalog) -> None:
    before = await add_product(catalog, "tea")
    await _set_barcodes(catalog, "tea", UPC, TEA, TEA[1:])
    product = await _set_barcodes(catalog, "tea", TEA)
    assert list(product.gtins) == [TEA]
    assert product.etag != before.etag
    await refused("BARCODE_NOT_FOUND", catalog.look_up_barcode(pb.LookUpBarcodeRequest(gtin=UPC), CALLER))
    assert list((await _set_barcodes(catalog, "tea")).gtins) == []


async def test_a_barcode_of_another_product_is_taken_and_nothing_changes(catalog: Catalog) -> None:
    await add_product(catalog, "tea")
    await add_product(catalog, "cup")
    await _set_barcodes(catalog, "tea", TEA)
    await _set_barcodes(catalog, "cup", UPC)
    refusal = await refused("BARCODE_TAKEN", _set_barcodes(catalog, "cup", TEA))
    assert refusal.metadata() == {"gtin": TEA, "sku": "tea"}
    cup = await catalog.get_product(pb.GetProductRequest(sku="cup"), CALLER)
    assert list(cup.product.gtins) == [UPC.zfill(14)]


async def test_two_products_that_want_one_barcode_at_once_do_not_both_get_it(catalog: Catalog) -> None:
    for sku in ("tea", "cup"):
        await add_product(catalog, sku)
    results = await asyncio.gather(
        _set_barcodes(catalog, "tea", TEA, UPC), _set_barcodes(catalog, "cup", UPC, TEA), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == ["BarcodeTaken", "Product"]


@pytest.mark.parametrize("gtin", ["4006381333932", "12345", "abcdefgh"])
async def test_a_barcode_with_a_wrong_check_digit_or_form_is_refused(catalog: Catalog, gtin: str) -> None:
    await add_product(catalog, "tea")
    refusal = await refused("BARCODE_INVALID", _set_barcodes(catalog, "tea", TEA, gtin))
    assert refusal.metadata() == {"gtin": gtin, "field": "gtins[1]"}
    await refused("BARCODE_INVALID", catalog.look_up_barcode(pb.LookUpBarcodeRequest(gtin=gtin), CALLER))


async def test_barcodes_for_another_version_of_the_product_are_refused(catalog: Catalog) -> None:
    seen = await add_product(catalog, "tea")
    await _set_barcodes(catalog, "tea", TEA, etag=seen.etag)
    await refused("ETAG_MISMATCH", _set_barcodes(catalog, "tea", etag=seen.etag))


async def test_barcodes_of_many_scans_are_read_at_once(catalog: Catalog, gateless_ledger: Ledger) -> None:
    for sku, gtin in (("tea", TEA), ("soup", UPC)):
        await add_product(catalog, sku)
        await _set_barcodes(catalog, sku, gtin)
    async with gateless_ledger.read() as connection:
        assert await read_barcodes(connection, [UPC, TEA]) == {UPC: "soup", TEA: "tea"}
        assert await read_barcodes(connection, []) == {}
        await refused("BARCODE_NOT_FOUND", read_barcodes(connection, [UPC, "96385074"]))


# -------------------------------------------------------------------------------------------------------------- prices
async def test_prices_of_many_skus_come_in_their_order_and_the_missing_are_listed(catalog: Catalog) -> None:
    await add_product(catalog, "tea", dollars(4.5))
    await add_product(catalog, "cup", dollars(7, "EUR"))
    await add_product(catalog, "fuel")
    await set_price(catalog, "fuel", dollars(2.63), 3785)
    response = await catalog.batch_get_prices(
        pb.BatchGetPricesRequest(skus=["fuel", "cup", "tea", "nothing", "fuel"], currency_code="USD"), CALLER
    )
    prices = [(price.sku, price.amount, price.price_quantity) for price in response.prices]
    assert prices == [("fuel", dollars(2.63), 3785), ("tea", dollars(4.5), 1)]
    assert list(response.missing_skus) == ["cup", "nothing"]


async def test_a_price_that_is_set_again_replaces_the_one_of_its_currency(
    catalog: Catalog, gateless_ledger: Ledger
) -> None:
    await add_product(catalog, "tea", dollars(4.5))
    await set_price(catalog, "tea", dollars(5, "EUR"))
    await set_price(catalog, "tea", dollars(0), 10)
    async with gateless_ledger.read() as connection:
        assert await read_prices(connection, "USD", ["tea"]) == {"tea": UnitPrice(0, 10)}
        assert await read_prices(connection, "EUR", ["tea", "cup"]) == {"tea": UnitPrice(500, 1)}


async def test_a_price_without_a_quantity_is_for_one(catalog: Catalog) -> None:
    await add_product(catalog, "tea")
    assert (await set_price(catalog, "tea", dollars(1), 0)).price_quantity == 1


@pytest.mark.parametrize(
    ("amount", "reason"),
    [
        (Money(currency_code="XYZ", units=1), "INVALID_REQUEST"),
        (Money(currency_code="USD", units=-1), "INVALID_REQUEST"),
        (Money(currency_code="USD", nanos=5_000_000), "INVALID_REQUEST"),
        (Money(currency_code="USD", units=2**62), "AMOUNT_TOO_LARGE"),
    ],
)
async def test_a_price_that_means_nothing_is_refused(catalog: Catalog, amount: Money, reason: str) -> None:
    await add_product(catalog, "tea")
    await refused(reason, set_price(catalog, "tea", amount))


@pytest.mark.parametrize("price_quantity", [-1, 2**40])
async def test_a_price_for_an_absurd_quantity_is_refused(catalog: Catalog, price_quantity: int) -> None:
    await add_product(catalog, "tea")
    await refused("INVALID_REQUEST", set_price(catalog, "tea", dollars(1), price_quantity))


async def test_prices_in_what_is_no_currency_are_refused(catalog: Catalog) -> None:
    request = pb.BatchGetPricesRequest(skus=["tea"], currency_code="ABC")
    await refused("CURRENCY_UNKNOWN", catalog.batch_get_prices(request, CALLER))
    await refused(
        "CURRENCY_UNKNOWN", catalog.look_up_barcode(pb.LookUpBarcodeRequest(gtin=UPC, currency_code="ABC"), CALLER)
    )


async def test_what_changes_in_the_catalog_is_told_once(catalog: Catalog, gateless_ledger: Ledger) -> None:
    await add_product(catalog, "tea")
    request = pb.SetPriceRequest(request_id=request_id(), sku="tea", amount=dollars(4.5))
    for _ in range(2):
        await catalog.set_price(request, CALLER)
    await refused("SKU_NOT_FOUND", set_price(catalog, "nothing", dollars(1)))
    async with gateless_ledger.read() as connection:
        events = await connection.fetch("SELECT type, subject, data FROM events ORDER BY transaction, sequence")
    assert [(event["type"], event["subject"]) for event in events] == [
        ("onhand.product.created.v1", "product/tea"),
        ("onhand.price.set.v1", "product/tea"),
    ]
    assert events[1]["data"]["amount_minor"] == 450


def _update(product: pb.Product, *paths: str) -> pb.UpdateProductRequest:
    return pb.UpdateProductRequest(request_id=request_id(), product=product, update_mask=FieldMask(paths=paths))


async def _set_barcodes(catalog: Catalog, sku: str, *gtins: str, etag: str = "") -> pb.Product:
    request = pb.SetBarcodesRequest(request_id=request_id(), sku=sku, gtins=gtins, etag=etag)
    return (await catalog.set_barcodes(request, CALLER)).product
