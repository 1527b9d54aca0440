"""CartService on a real ledger."""

from __future__ import annotations

import asyncio
from uuid import UUID

import asyncpg
import pytest

from onhand.carts import Carts, mark_ordered, read_cart_for_order
from onhand.catalog import Catalog
from onhand.domain.cart import MAX_CART_LINES, MAX_QUANTITY, CartLine, UnitPrice
from onhand.ids import new_id
from onhand.ledger.mutation import Ledger
from onhand.postgres import Connection
from onhand.v1 import cart_pb2 as pb
from onhand.v1 import types_pb2
from shelf import CALLER, add_product, dollars, refused, request_id, set_price

WEB, APP = types_pb2.CHANNEL_WEB, types_pb2.CHANNEL_APP


@pytest.fixture
def catalog(gateless_ledger: Ledger) -> Catalog:
    return Catalog(gateless_ledger)


@pytest.fixture
async def carts(gateless_ledger: Ledger, catalog: Catalog) -> Carts:
    """Carts of a shop that sells tea at 4.50, cups at 7.00, and fuel at 2.63 for 3785 ml; a mug has no price."""
    await add_product(catalog, "tea", dollars(4.5), name="Green tea")
    await add_product(catalog, "cup", dollars(7))
    await add_product(catalog, "fuel")
    await set_price(catalog, "fuel", dollars(2.63), 3785)
    await add_product(catalog, "mug")

    async def give_up(order_id: UUID) -> bool:
        return False

    return Carts(gateless_ledger, give_up)


# ----------------------------------------------------------------------------------------------------- making, reading
async def test_a_cart_made_on_the_web_is_seen_in_the_app(carts: Carts) -> None:
    made = await _create(carts, "ann", channel=WEB)
    filled = await _add(carts, made.cart_id, "tea", 2)
    seen = await carts.get_customer_cart(pb.GetCustomerCartRequest(customer_id="ann"), CALLER)
    assert seen.cart == filled
    assert (seen.cart.cart_id, seen.cart.channel, seen.cart.customer_id) == (made.cart_id, WEB, "ann")


async def test_a_customer_who_makes_a_cart_again_gets_the_open_one(carts: Carts) -> None:
    made = await _create(carts, "ann", channel=WEB)
    request = pb.CreateCartRequest(request_id=request_id(), customer_id="ann", channel=APP, currency_code="USD")
    again = await carts.create_cart(request, CALLER)
    assert again.is_existing
    assert again.cart == made


async def test_two_devices_that_make_a_cart_at_once_get_the_same(carts: Carts) -> None:
    made = await asyncio.gather(*(_create(carts, "ann") for _ in range(8)))
    assert len({cart.cart_id for cart in made}) == 1


async def test_every_guest_gets_a_cart_of_their_own(carts: Carts) -> None:
    assert (await _create(carts)).cart_id != (await _create(carts)).cart_id


async def test_a_customer_has_no_second_open_cart_in_another_currency(carts: Carts) -> None:
    made = await _create(carts, "ann", currency="USD")
    refusal = await refused("CART_EXISTS", _create(carts, "ann", currency="EUR"))
    assert refusal.metadata() == {"customer_id": "ann", "cart_id": made.cart_id, "currency": "USD"}


async def test_the_database_refuses_a_second_open_cart_too(carts: Carts) -> None:
    await _create(carts, "ann")
    async with carts.ledger.read() as connection:
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute(
                "INSERT INTO carts (cart_id, customer_id, channel, currency) VALUES ($1, 'ann', 'WEB', 'USD')", new_id()
            )


async def test_a_cart_without_a_channel_or_a_currency_is_refused(carts: Carts) -> None:
    await refused("INVALID_REQUEST", _create(carts, channel=types_pb2.CHANNEL_UNSPECIFIED))
    await refused("CURRENCY_UNKNOWN", _create(carts, currency="ABC"))
    await refused("CURRENCY_UNKNOWN", _create(carts, currency=""))


async def test_an_empty_cart_costs_nothing(carts: Carts) -> None:
    made = await _create(carts)
    assert (list(made.lines), made.total, made.state) == ([], dollars(0), pb.CART_STATE_OPEN)
    assert await _get(carts, made.cart_id) == made


async def test_a_cart_that_does_not_exist_is_not_found(carts: Carts) -> None:
    unknown = str(new_id())
    await refused("CART_NOT_FOUND", _get(carts, unknown))
    await refused("CART_NOT_FOUND", _add(carts, unknown, "tea", 1))
    await refused("CART_NOT_FOUND", _set(carts, unknown, "tea", 1))
    await refused("CART_NOT_FOUND", _claim(carts, unknown, "ann"))


@pytest.mark.parametrize("cart_id", ["", "cart-1", "01a20079a71b7d5888f117382d01eba0", "' OR 1=1 --"])
async def test_a_malformed_cart_id_is_refused(carts: Carts, cart_id: str) -> None:
    for call in (
        _get(carts, cart_id),
        _add(carts, cart_id, "tea", 1),
        _set(carts, cart_id, "tea", 1),
        _claim(carts, cart_id, "ann"),
    ):
        refusal = await refused("INVALID_REQUEST", call)
        assert "cart_id" in str(refusal)


async def test_a_customer_without_an_open_cart_has_none_to_read(carts: Carts) -> None:
    await _create(carts)  # a guest's is no customer's
    await refused("OPEN_CART_NOT_FOUND", carts.get_customer_cart(pb.GetCustomerCartRequest(customer_id="ann"), CALLER))
    await refused("INVALID_REQUEST", carts.get_customer_cart(pb.GetCustomerCartRequest(), CALLER))


async def test_a_customers_carts_are_listed_newest_first_in_pages(carts: Carts) -> None:
    ordered = [await _ordered_cart(carts, "ann") for _ in range(2)]
    open_cart = await _create(carts, "ann")
    await _create(carts, "bob")
    request = pb.ListCartsRequest(customer_id="ann", page_size=2)
    first = await carts.list_carts(request, CALLER)
    request.page_token = first.next_page_token
    second = await carts.list_carts(request, CALLER)
    listed = [(cart.cart_id, cart.state, cart.line_count) for cart in [*first.carts, *second.carts]]
    assert listed == [
        (open_cart.cart_id, pb.CART_STATE_OPEN, 0),
        (ordered[1], pb.CART_STATE_ORDERED, 1),
        (ordered[0], pb.CART_STATE_ORDERED, 1),
    ]
    assert second.next_page_token == ""
    only = await carts.list_carts(pb.ListCartsRequest(customer_id="ann", state=pb.CART_STATE_OPEN), CALLER)
    assert [cart.cart_id for cart in only.carts] == [open_cart.cart_id]


async def test_a_page_token_of_another_customer_or_garbage_is_refused(carts: Carts) -> None:
    await _ordered_cart(carts, "ann")
    await _create(carts, "ann")
    first = await carts.list_carts(pb.ListCartsRequest(customer_id="ann", page_size=1), CALLER)
    for wrong in (
        pb.ListCartsRequest(customer_id="bob", page_token=first.next_page_token),
        pb.ListCartsRequest(customer_id="ann", state=pb.CART_STATE_OPEN, page_token=first.next_page_token),
        pb.ListCartsRequest(customer_id="ann", page_token="garbage"),
    ):
        await refused("PAGE_TOKEN_INVALID", carts.list_carts(wrong, CALLER))


async def test_a_list_of_nobodys_carts_or_of_no_state_is_refused(carts: Carts) -> None:
    await refused("INVALID_REQUEST", carts.list_carts(pb.ListCartsRequest(), CALLER))
    await refused("INVALID_REQUEST", carts.list_carts(pb.ListCartsRequest(customer_id="ann", page_size=-1), CALLER))
    wrong_state = pb.ListCartsRequest(customer_id="ann")
    wrong_state.state = 9  # type: ignore[assignment]
    await refused("INVALID_REQUEST", carts.list_carts(wrong_state, CALLER))


# --------------------------------------------------------------------------------------------------------------- lines
async def test_a_cart_shows_names_prices_line_totals_and_the_total(carts: Carts) -> None:
    cart_id = (await _create(carts)).cart_id
    await _add(carts, cart_id, "tea", 3)
    cart = await _add(carts, cart_id, "fuel", 10_000)
    assert [
        (line.sku, line.name, line.quantity, line.amount, line.price_quantity, line.total) for line in cart.lines
    ] == [
        ("tea", "Green tea", 3, dollars(4.5), 1, dollars(13.5)),
        ("fuel", "fuel", 10_000, dollars(2.63), 3785, dollars(6.95)),
    ]
    assert cart.total == dollars(20.45)
    assert await _get(carts, cart_id) == cart


async def test_a_cart_has_the_price_of_the_moment_it_is_read(carts: Carts, catalog: Catalog) -> None:
    cart = await _add(carts, (await _create(carts)).cart_id, "tea", 2)
    await set_price(catalog, "tea", dollars(5))
    now = await _get(carts, cart.cart_id)
    assert (now.total, now.etag) == (dollars(10), cart.etag)


async def test_a_line_without_a_price_in_the_carts_currency_is_said_so_and_not_in_the_total(carts: Carts) -> None:
    cart_id = (await _create(carts)).cart_id
    await _add(carts, cart_id, "tea", 1)
    cart = await _add(carts, cart_id, "mug", 2)
    assert (list(cart.unpriced_skus), cart.total) == (["mug"], dollars(4.5))
    assert not cart.lines[1].HasField("amount")
    assert not cart.lines[1].HasField("total")
    in_euros = await _add(carts, (await _create(carts, currency="EUR")).cart_id, "tea", 1)
    assert (list(in_euros.unpriced_skus), in_euros.total) == (["tea"], dollars(0, "EUR"))


async def test_a_sku_that_is_added_again_adds_to_its_line(carts: Carts) -> None:
    cart_id = (await _create(carts)).cart_id
    before = await _add(carts, cart_id, "tea", 2)
    after = await _add(carts, cart_id, "tea", 3)
    assert _quantities(after) == {"tea": 5}
    assert after.etag != before.etag


async def test_two_devices_that_add_at_once_both_count(carts: Carts) -> None:
    cart_id = (await _create(carts, "ann")).cart_id
    await asyncio.gather(*(_add(carts, cart_id, sku, 1) for sku in ("tea", "cup") * 5))
    assert _quantities(await _get(carts, cart_id)) == {"tea": 5, "cup": 5}


async def test_an_addition_that_is_repeated_counts_once_and_gets_the_first_answer(carts: Carts) -> None:
    cart_id = (await _create(carts)).cart_id
    request = pb.AddCartLineRequest(
        request_id=request_id(), cart_id=cart_id, line=types_pb2.BasketLine(sku="tea", quantity=2)
    )
    first = await carts.add_cart_line(request, CALLER)
    await _add(carts, cart_id, "tea", 1)
    again = await carts.add_cart_line(request, CALLER)
    assert again == first
    assert _quantities(await _get(carts, cart_id)) == {"tea": 3}
    request.line.quantity = 9
    await refused("REQUEST_ID_REUSED", carts.add_cart_line(request, CALLER))


async def test_a_quantity_is_set_and_zero_removes_the_line(carts: Carts) -> None:
    cart_id = (await _create(carts)).cart_id
    await _add(carts, cart_id, "tea", 2)
    assert _quantities(await _set(carts, cart_id, "tea", 7)) == {"tea": 7}
    assert _quantities(await _set(carts, cart_id, "cup", 1)) == {"tea": 7, "cup": 1}
    assert _quantities(await _set(carts, cart_id, "tea", 0)) == {"cup": 1}
    assert _quantities(await _set(carts, cart_id, "tea", 0)) == {"cup": 1}


async def test_what_another_device_changed_meanwhile_is_not_overwritten(carts: Carts) -> None:
    cart_id = (await _create(carts, "ann")).cart_id
    seen = await _add(carts, cart_id, "tea", 2)
    await _set(carts, cart_id, "tea", 5, etag=seen.etag)
    refusal = await refused("ETAG_MISMATCH", _set(carts, cart_id, "tea", 1, etag=seen.etag))
    now = await _get(carts, cart_id)
    assert _quantities(now) == {"tea": 5}
    assert refusal.metadata()["current_etag"] == now.etag
    assert _quantities(await _set(carts, cart_id, "tea", 1, etag=now.etag)) == {"tea": 1}


@pytest.mark.parametrize("quantity", [0, -1, MAX_QUANTITY + 1, 2**63 - 1])
async def test_nothing_less_than_nothing_and_absurdly_much_cannot_be_added(carts: Carts, quantity: int) -> None:
    cart_id = (await _create(carts)).cart_id
    await refused("INVALID_REQUEST", _add(carts, cart_id, "tea", quantity))
    assert _quantities(await _get(carts, cart_id)) == {}


@pytest.mark.parametrize("quantity", [-1, MAX_QUANTITY + 1, -(2**63)])
async def test_less_than_nothing_and_absurdly_much_cannot_be_set(carts: Carts, quantity: int) -> None:
    cart_id = (await _create(carts)).cart_id
    await refused("INVALID_REQUEST", _set(carts, cart_id, "tea", quantity))


@pytest.mark.parametrize("quantity", [0, -1, MAX_QUANTITY + 1])
async def test_the_database_refuses_such_a_line_too(carts: Carts, quantity: int) -> None:
    cart_id = (await _create(carts)).cart_id
    async with carts.ledger.read() as connection:
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute(
                "INSERT INTO cart_lines (cart_id, sku, quantity) VALUES ($1, 'tea', $2)", UUID(cart_id), quantity
            )


async def test_a_line_does_not_grow_beyond_its_limit(carts: Carts) -> None:
    cart_id = (await _create(carts)).cart_id
    await _add(carts, cart_id, "mug", MAX_QUANTITY)
    refusal = await refused("QUANTITY_TOO_LARGE", _add(carts, cart_id, "mug", 1))
    assert refusal.metadata() == {"sku": "mug", "quantity": "1000000001", "quantity_max": "1000000000"}
    assert _quantities(await _get(carts, cart_id)) == {"mug": MAX_QUANTITY}


async def test_a_cart_whose_cost_is_beyond_what_is_kept_is_refused(carts: Carts, catalog: Catalog) -> None:
    await set_price(catalog, "mug", dollars(100_000))
    cart_id = (await _create(carts)).cart_id
    await refused("AMOUNT_TOO_LARGE", _add(carts, cart_id, "mug", MAX_QUANTITY))
    assert _quantities(await _get(carts, cart_id)) == {}


async def test_an_unknown_sku_cannot_be_put_into_a_cart(carts: Carts) -> None:
    cart_id = (await _create(carts)).cart_id
    await refused("SKU_NOT_FOUND", _add(carts, cart_id, "nothing", 1))
    await refused("SKU_NOT_FOUND", _set(carts, cart_id, "nothing", 1))
    assert _quantities(await _get(carts, cart_id)) == {}


async def test_a_cart_has_two_hundred_lines_at_most(carts: Carts) -> None:
    cart_id = (await _create(carts)).cart_id
    await _fill(carts, cart_id, MAX_CART_LINES)
    assert _quantities(await _add(carts, cart_id, "bulk-1", 1))["bulk-1"] == 2
    for call in (_add(carts, cart_id, "tea", 1), _set(carts, cart_id, "tea", 1)):
        refusal = await refused("CART_FULL", call)
        assert refusal.metadata() == {"cart_id": cart_id, "lines": "201", "lines_max": "200"}
    await _set(carts, cart_id, "bulk-1", 0)
    assert len((await _add(carts, cart_id, "tea", 1)).lines) == MAX_CART_LINES


# ------------------------------------------------------------------------------------------------------------ claiming
async def test_a_guests_cart_becomes_the_customers(carts: Carts) -> None:
    guest = await _add(carts, (await _create(carts)).cart_id, "tea", 2)
    claimed = await _claim(carts, guest.cart_id, "ann")
    assert (claimed.cart_id, claimed.customer_id, _quantities(claimed)) == (guest.cart_id, "ann", {"tea": 2})
    assert claimed.etag != guest.etag
    seen = await carts.get_customer_cart(pb.GetCustomerCartRequest(customer_id="ann"), CALLER)
    assert seen.cart == claimed


async def test_a_guests_lines_are_added_to_the_cart_that_the_customer_has(carts: Carts) -> None:
    own_id = (await _create(carts, "ann")).cart_id
    await _add(carts, own_id, "tea", 1)
    guest_id = (await _create(carts)).cart_id
    await _add(carts, guest_id, "tea", 2)
    await _add(carts, guest_id, "cup", 3)
    claimed = await _claim(carts, guest_id, "ann")
    assert (claimed.cart_id, _quantities(claimed)) == (own_id, {"tea": 3, "cup": 3})
    guest = await _get(carts, guest_id)
    assert (guest.state, guest.merged_into_cart_id) == (pb.CART_STATE_MERGED, own_id)
    assert not guest.HasField("total")
    refusal = await refused("CART_NOT_OPEN", _add(carts, guest_id, "tea", 1))
    assert refusal.metadata() == {"cart_id": guest_id, "state": "MERGED", "successor": f"cart {own_id}"}


async def test_a_claim_that_is_repeated_adds_the_lines_once(carts: Carts) -> None:
    await _create(carts, "ann")
    guest_id = (await _create(carts)).cart_id
    await _add(carts, guest_id, "tea", 2)
    request = pb.ClaimCartRequest(request_id=request_id(), cart_id=guest_id, customer_id="ann")
    first, second = await asyncio.gather(carts.claim_cart(request, CALLER), carts.claim_cart(request, CALLER))
    assert first == second
    assert _quantities(first.cart) == {"tea": 2}
    await refused("CART_NOT_OPEN", _claim(carts, guest_id, "ann"))


async def test_a_cart_that_is_the_customers_already_is_answered_as_it_is(carts: Carts) -> None:
    made = await _create(carts, "ann")
    assert await _claim(carts, made.cart_id, "ann") == made


async def test_a_cart_of_another_customer_cannot_be_claimed(carts: Carts) -> None:
    made = await _create(carts, "ann")
    await refused("CART_OF_ANOTHER_CUSTOMER", _claim(carts, made.cart_id, "bob"))
    await refused("INVALID_REQUEST", _claim(carts, made.cart_id, ""))


async def test_carts_of_two_currencies_do_not_merge(carts: Carts) -> None:
    await _create(carts, "ann", currency="USD")
    guest_id = (await _create(carts, currency="EUR")).cart_id
    refusal = await refused("CURRENCY_MISMATCH", _claim(carts, guest_id, "ann"))
    assert refusal.metadata() == {"expected": "USD", "given": "EUR"}
    assert (await _get(carts, guest_id)).state == pb.CART_STATE_OPEN


async def test_carts_that_would_be_too_full_together_do_not_merge(carts: Carts) -> None:
    own_id = (await _create(carts, "ann")).cart_id
    await _fill(carts, own_id, MAX_CART_LINES)
    guest_id = (await _create(carts)).cart_id
    await _add(carts, guest_id, "tea", 1)
    await refused("CART_FULL", _claim(carts, guest_id, "ann"))
    await _set(carts, own_id, "bulk-1", 0)
    assert len((await _claim(carts, guest_id, "ann")).lines) == MAX_CART_LINES


async def test_two_guest_carts_claimed_at_once_end_in_one(carts: Carts) -> None:
    guests = []
    for sku in ("tea", "cup", "tea"):
        guests.append((await _add(carts, (await _create(carts)).cart_id, sku, 1)).cart_id)
    await asyncio.gather(*(_claim(carts, guest_id, "ann") for guest_id in guests), _create(carts, "ann"))
    seen = await carts.get_customer_cart(pb.GetCustomerCartRequest(customer_id="ann"), CALLER)
    assert _quantities(seen.cart) == {"tea": 2, "cup": 1}


# ------------------------------------------------------------------------------------------------------------ ordering
async def test_a_cart_is_read_for_an_order_with_its_prices(carts: Carts) -> None:
    cart_id = UUID((await _create(carts, "ann", channel=APP)).cart_id)
    await _add(carts, str(cart_id), "tea", 2)
    await _add(carts, str(cart_id), "fuel", 10_000)
    async with carts.ledger.database.transaction() as connection:
        cart = await read_cart_for_order(connection, cart_id)
    assert (cart.cart_id, cart.customer_id, cart.channel, cart.currency) == (cart_id, "ann", "APP", "USD")
    assert cart.lines == (CartLine("tea", 2, UnitPrice(450, 1)), CartLine("fuel", 10_000, UnitPrice(263, 3785)))
    assert cart.total_minor == 900 + 695


async def test_a_cart_that_cannot_be_ordered_says_why(carts: Carts) -> None:
    empty, unpriced = UUID((await _create(carts)).cart_id), UUID((await _create(carts)).cart_id)
    await _add(carts, str(unpriced), "mug", 1)
    ordered = UUID(await _ordered_cart(carts, "ann"))
    async with carts.ledger.database.transaction() as connection:
        await refused("CART_EMPTY", read_cart_for_order(connection, empty))
        refusal = await refused("PRICE_NOT_FOUND", read_cart_for_order(connection, unpriced))
        assert refusal.metadata() == {"sku": "mug", "currency": "USD"}
        await refused("CART_NOT_OPEN", read_cart_for_order(connection, ordered))
        await refused("CART_NOT_OPEN", mark_ordered(connection, ordered, new_id()))
        await refused("CART_NOT_FOUND", read_cart_for_order(connection, new_id()))
        await refused("CART_NOT_FOUND", mark_ordered(connection, new_id(), new_id()))


async def test_an_ordered_cart_takes_no_change_and_names_its_order(carts: Carts) -> None:
    cart_id = await _ordered_cart(carts, "ann")
    cart = await _get(carts, cart_id)
    assert (cart.state, bool(cart.order_id), _quantities(cart)) == (pb.CART_STATE_ORDERED, True, {"tea": 1})
    assert not cart.HasField("total")
    for call in (_add(carts, cart_id, "tea", 1), _set(carts, cart_id, "tea", 0), _claim(carts, cart_id, "ann")):
        refusal = await refused("CART_NOT_OPEN", call)
        assert refusal.metadata()["successor"] == f"order {cart.order_id}"
    assert (await _create(carts, "ann")).cart_id != cart_id


async def test_a_line_that_is_added_while_the_cart_is_ordered_comes_too_late(carts: Carts) -> None:
    cart_id = UUID((await _create(carts, "ann")).cart_id)
    await _add(carts, str(cart_id), "tea", 1)
    async with carts.ledger.database.transaction() as ordering:
        cart = await read_cart_for_order(ordering, cart_id)
        adding = asyncio.create_task(_add(carts, str(cart_id), "cup", 1))
        await _until_one_waits_for_a_lock(carts)
        await mark_ordered(ordering, cart_id, new_id())
    assert [line.sku for line in cart.lines] == ["tea"]
    await refused("CART_NOT_OPEN", adding)
    assert _quantities(await _get(carts, str(cart_id))) == {"tea": 1}


async def test_an_order_that_waited_for_a_change_sees_it(carts: Carts) -> None:
    cart_id = UUID((await _create(carts, "ann")).cart_id)
    await _add(carts, str(cart_id), "tea", 1)

    async def order() -> list[str]:
        async with carts.ledger.database.transaction() as connection:
            return [line.sku for line in (await read_cart_for_order(connection, cart_id)).lines]

    async with carts.ledger.database.transaction() as changing:
        await changing.execute("UPDATE carts SET version = version + 1 WHERE cart_id = $1", cart_id)
        ordering = asyncio.create_task(order())
        await _until_one_waits_for_a_lock(carts)
        await changing.execute("INSERT INTO cart_lines (cart_id, sku, quantity) VALUES ($1, 'cup', 1)", cart_id)
    assert await ordering == ["tea", "cup"]


async def test_what_changes_in_a_cart_is_told_once(carts: Carts) -> None:
    async with carts.ledger.read() as connection:
        before = await connection.fetchval("SELECT count(*) FROM events")
    cart_id = (await _create(carts)).cart_id
    await _add(carts, cart_id, "tea", 2)
    await refused("SKU_NOT_FOUND", _add(carts, cart_id, "nothing", 1))
    await _claim(carts, cart_id, "ann")
    await _create(carts, "ann")
    async with carts.ledger.read() as connection:
        events = await connection.fetch(
            "SELECT type, subject, data FROM events ORDER BY transaction, sequence OFFSET $1", before
        )
    assert [event["type"] for event in events] == [
        "onhand.cart.created.v1",
        "onhand.cart.line_set.v1",
        "onhand.cart.claimed.v1",
    ]
    assert {event["subject"] for event in events} == {f"cart/{cart_id}"}
    assert events[1]["data"] == {"cart_id": cart_id, "customer_id": "", "sku": "tea", "quantity": 2}


def _quantities(cart: pb.Cart) -> dict[str, int]:
    return {line.sku: line.quantity for line in cart.lines}


async def _create(
    carts: Carts, customer_id: str = "", *, channel: types_pb2.Channel.ValueType = WEB, currency: str = "USD"
) -> pb.Cart:
    request = pb.CreateCartRequest(
        request_id=request_id(), customer_id=customer_id, channel=channel, currency_code=currency
    )
    return (await carts.create_cart(request, CALLER)).cart


async def _get(carts: Carts, cart_id: str) -> pb.Cart:
    return (await carts.get_cart(pb.GetCartRequest(cart_id=cart_id), CALLER)).cart


async def _add(carts: Carts, cart_id: str, sku: str, quantity: int) -> pb.Cart:
    line = types_pb2.BasketLine(sku=sku, quantity=quantity)
    request = pb.AddCartLineRequest(request_id=request_id(), cart_id=cart_id, line=line)
    return (await carts.add_cart_line(request, CALLER)).cart


async def _set(carts: Carts, cart_id: str, sku: str, quantity: int, *, etag: str = "") -> pb.Cart:
    request = pb.SetCartLineRequest(request_id=request_id(), cart_id=cart_id, sku=sku, quantity=quantity, etag=etag)
    return (await carts.set_cart_line(request, CALLER)).cart


async def _claim(carts: Carts, cart_id: str, customer_id: str) -> pb.Cart:
    request = pb.ClaimCartRequest(request_id=request_id(), cart_id=cart_id, customer_id=customer_id)
    return (await carts.claim_cart(request, CALLER)).cart


async def _ordered_cart(carts: Carts, customer_id: str) -> str:
    """The id of a cart with one tea that became an order."""
    cart_id = (await _create(carts, customer_id)).cart_id
    await _add(carts, cart_id, "tea", 1)
    async with carts.ledger.database.transaction() as connection:
        await read_cart_for_order(connection, UUID(cart_id))
        await mark_ordered(connection, UUID(cart_id), new_id())
    return cart_id


async def _fill(carts: Carts, cart_id: str, lines: int) -> None:
    """Puts so many new products into a cart, past the service: it would be slow."""
    async with carts.ledger.read() as connection:
        await connection.execute(
            "INSERT INTO products (sku, name) SELECT 'bulk-' || n, 'bulk' FROM generate_series(1, $1) n", lines
        )
        await connection.execute(
            "INSERT INTO cart_lines (cart_id, sku, quantity) SELECT $1, 'bulk-' || n, 1 FROM generate_series(1, $2) n",
            UUID(cart_id),
            lines,
        )


async def _until_one_waits_for_a_lock(carts: Carts) -> None:
    async def is_waiting(connection: Connection) -> bool:
        return bool(
            await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        )

    async with carts.ledger.read() as connection, asyncio.timeout(60):
        while not await is_waiting(connection):
            pass
