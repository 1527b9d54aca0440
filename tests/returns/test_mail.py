"""Goods that are announced, sent and inspected."""

from __future__ import annotations

import asyncio
from typing import Any

from bring import (
    DAMAGED,
    MANAGER,
    age,
    announce,
    bring,
    desk,
    expire,
    receive,
    refused_line,
    returnable,
    run_expiry,
    state_of,
    units,
)  # fmt: skip
from onhand.domain.stock import Level
from onhand.ids import new_id
from onhand.v1 import returns_pb2 as pb
from purse import refunded
from shop import BREAD, CALLER, DEPOT, MILK, NORTH, Shop, cents, refused, told


async def test_announced_goods_come_and_give_their_money_back(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 3}, 597)
    announced = await announce(shop, order.order_id, {1: 2})
    assert (state_of(announced), announced.order_number) == ("AUTHORIZED", order.order_number)
    assert announced.expires_time.seconds - announced.created_time.seconds == 30 * 86_400
    assert await refunded(shop, order.order_id) == [0]
    answer = await receive(shop, announced, units(2))
    assert (state_of(answer.return_authorization), cents(answer.returned.refund)) == ("RECEIVED", 398)
    assert answer.returned.return_authorization_id == announced.return_authorization_id
    assert list(answer.return_authorization.return_ids) == [answer.returned.return_id]
    assert await refunded(shop, order.order_id) == [398]
    assert await shop.level(DEPOT, MILK) == Level(available=12)
    assert (await shop.order(order.order_id)).lines[0].returned_quantity == 2


async def test_units_that_are_announced_count_as_returned(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 3}, 597)
    await announce(shop, order.order_id, {1: 2})
    reason, values = await told(bring(shop, order.order_id, units(2)))
    assert (reason, values["authorized"], values["returned"]) == ("RETURN_EXCEEDED", "2", "0")
    assert (await told(announce(shop, order.order_id, {1: 2})))[0] == "RETURN_EXCEEDED"
    (line,) = await returnable(shop, order_id=order.order_id)
    assert (line.authorized_quantity, line.returnable_quantity) == (2, 1)
    await bring(shop, order.order_id, units(1))
    assert await returnable(shop, order_id=order.order_id) == []


async def test_units_that_nobody_awaits_any_more_may_be_brought(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 2}, 398)
    announced = await announce(shop, order.order_id, {1: 2})
    request = pb.CancelReturnAuthorizationRequest(
        request_id=str(new_id()), return_authorization_id=announced.return_authorization_id
    )
    first, again = [await desk(shop).cancel_return_authorization(request, CALLER) for _ in range(2)]
    assert first == again
    assert state_of(first.return_authorization) == "CANCELLED"
    await bring(shop, order.order_id, units(2))
    reason, values = await told(receive(shop, announced, units(1)))
    assert (reason, values["state"], values["legal_steps"]) == ("ILLEGAL_RETURN_STEP", "CANCELLED", "nothing")


async def test_units_whose_time_is_over_may_be_brought(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 2}, 398)
    announced = await announce(shop, order.order_id, {1: 2})
    await expire(shop, announced)
    assert state_of(await read(shop, announced)) == "EXPIRED"
    await bring(shop, order.order_id, units(2))
    # They are not there twice, whoever lets it pass.
    assert (await refused(receive(shop, announced, units(1), override=MANAGER))).reason == "RETURN_EXCEEDED"


async def test_the_end_of_an_authorization_is_told_once_with_what_did_not_come(shop: Shop) -> None:
    told_of = (
        "SELECT data -> 'rma_number', data -> 'lines' FROM events WHERE type = 'onhand.return.authorization_expired.v1'"
    )
    order = await shop.sell(NORTH, {MILK: 3, BREAD: 2}, 3 * 199 + 2 * 250)
    part, whole = [await announce(shop, order.order_id, {n: 2}) for n in (1, 2)]
    await receive(shop, whole, units(2, number=2))
    await receive(shop, part, units(1))
    ((due,),) = await shop.fetch("SELECT count(*) FROM pgqueuer WHERE execute_after > now() + interval '29 days'")
    assert due == 2
    for announced in (part, whole):
        await expire(shop, announced)
    await asyncio.gather(*(run_expiry(shop) for _ in range(3)))
    ((number, lines),) = await shop.fetch(told_of)
    assert (number, [(line["line_number"], line["quantity"]) for line in lines]) == (part.rma_number, [(1, 1)])
    assert [state_of(await read(shop, a)) for a in (part, whole)] == ["EXPIRED", "RECEIVED"]
    assert await shop.fetch("SELECT FROM pgqueuer") == []
    # What comes all the same needs a manager, as before it was told.
    assert (await refused(receive(shop, part, units(1)))).reason == "RETURN_AUTHORIZATION_EXPIRED"
    late = await receive(shop, part, units(1), override=MANAGER)
    assert state_of(late.return_authorization) == "RECEIVED"


async def test_an_authorization_is_not_ended_before_its_time(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 1}, 199)
    announced = await announce(shop, order.order_id, {1: 1})
    await run_expiry(shop)
    assert state_of(await read(shop, announced)) == "AUTHORIZED"
    assert [row for row in await shop.events("onhand.return") if "expired" in row[0]] == []
    ((attempts,),) = await shop.fetch("SELECT attempts FROM pgqueuer")
    assert attempts == 1


async def read(shop: Shop, announced: pb.ReturnAuthorization, **by: Any) -> pb.ReturnAuthorization:
    """It as it is now."""
    by = by or {"return_authorization_id": announced.return_authorization_id}
    return (
        await desk(shop).get_return_authorization(pb.GetReturnAuthorizationRequest(**by), CALLER)
    ).return_authorization


async def test_what_comes_late_needs_a_manager_and_ends_it(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 3}, 597)
    announced = await announce(shop, order.order_id, {1: 2})
    await expire(shop, announced)
    assert (await refused(receive(shop, announced, units(1)))).reason == "RETURN_AUTHORIZATION_EXPIRED"
    answer = await receive(shop, announced, units(1), override=MANAGER)
    assert list(answer.returned.override.overridden) == ["RETURN_AUTHORIZATION_EXPIRED"]
    assert state_of(answer.return_authorization) == "RECEIVED"
    assert (await refused(receive(shop, announced, units(1), override=MANAGER))).reason == "ILLEGAL_RETURN_STEP"
    await bring(shop, order.order_id, units(2))


async def test_fewer_come_some_damaged_some_refused(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 6}, 1194)
    announced = await announce(shop, order.order_id, {1: 5})
    first = await receive(shop, announced, units(1), units(1, DAMAGED), refused=[refused_line(1, "opened")])
    assert state_of(first.return_authorization) == "PARTIALLY_RECEIVED"
    (line,) = first.return_authorization.lines
    assert (line.quantity, line.received_quantity, line.refused_quantity) == (5, 2, 1)
    assert cents(first.returned.refund) == 398
    assert await shop.level(DEPOT, MILK) == Level(available=11, damaged=1)
    # Three of six are free: one that was never announced and the refused one; two are still on their way.
    (free,) = await returnable(shop, order_id=order.order_id)
    assert (free.authorized_quantity, free.returnable_quantity) == (2, 2)
    reason, values = await told(receive(shop, announced, units(3)))
    assert (reason, values["awaited"]) == ("RETURN_AUTHORIZATION_EXCEEDED", "2")
    last = await receive(shop, announced, units(1), refused=[refused_line(1, "worn")])
    assert state_of(last.return_authorization) == "RECEIVED"
    assert [(r.quantity, r.reason) for r in last.return_authorization.refused] == [(1, "opened"), (1, "worn")]
    assert len(last.return_authorization.return_ids) == 2


async def test_a_parcel_that_is_refused_whole_moves_nothing(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 1}, 199)
    announced = await announce(shop, order.order_id, {1: 1})
    answer = await receive(shop, announced, refused=[refused_line(1, "another item")])
    assert (answer.HasField("returned"), state_of(answer.return_authorization)) == (False, "RECEIVED")
    assert await shop.level(DEPOT, MILK) == Level(available=10)
    assert await refunded(shop, order.order_id) == [0]
    await bring(shop, order.order_id)


async def test_a_late_parcel_that_is_refused_whole_says_who_let_it_pass(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 1}, 199)
    announced = await announce(shop, order.order_id, {1: 1})
    await expire(shop, announced)
    answer = await receive(shop, announced, refused=[refused_line(1, "worn")], override=MANAGER)
    (override,) = answer.return_authorization.overrides
    assert (override.manager, list(override.overridden)) == ("grace", ["RETURN_AUTHORIZATION_EXPIRED"])


async def test_the_window_is_judged_when_goods_are_announced(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 2}, 398)
    await age(shop, order.order_id, days=89, hours=23)
    announced = await announce(shop, order.order_id, {1: 1})
    await age(shop, order.order_id, days=20)
    await receive(shop, announced, units(1))
    assert (await told(announce(shop, order.order_id, {1: 1})))[0] == "RETURN_WINDOW_PASSED"
    allowed = await announce(shop, order.order_id, {1: 1}, override=MANAGER)
    assert [list(o.overridden) for o in allowed.overrides] == [["RETURN_WINDOW_PASSED"]]


async def test_a_repeat_is_one_receipt(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 2}, 398)
    announced = await announce(shop, order.order_id, {1: 2})
    answers = [await receive(shop, announced, units(1), request_id="parcel-number-1") for _ in range(2)]
    assert answers[0] == answers[1]
    assert await shop.level(DEPOT, MILK) == Level(available=11)


async def test_the_same_units_come_once_however_they_come(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 4}, 796)
    announced = await announce(shop, order.order_id, {1: 2})
    calls = [receive(shop, announced, units(1)) for _ in range(4)] + [bring(shop, order.order_id) for _ in range(4)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(not isinstance(result, BaseException) for result in results) == 4
    reasons = {getattr(r, "reason", r) for r in results if isinstance(r, BaseException)}
    assert reasons == {"RETURN_EXCEEDED", "ILLEGAL_RETURN_STEP"}
    assert (await shop.order(order.order_id)).lines[0].returned_quantity == 4


async def test_they_are_found_by_order_by_customer_and_by_the_number_on_the_parcel(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 3, BREAD: 1}, 847)
    await shop.execute("UPDATE orders SET customer_id = 'ada'")
    made = [await announce(shop, order.order_id, {1: 1}) for _ in range(3)]
    for field in ({"order_id": order.order_id}, {"customer_id": "ada"}):
        found, token = [], ""
        while True:
            request = pb.ListReturnAuthorizationsRequest(**field, page_size=2, page_token=token)
            page = await desk(shop).list_return_authorizations(request, CALLER)
            found += list(page.return_authorizations)
            if not (token := page.next_page_token):
                break
        assert [each.return_authorization_id for each in found] == [
            each.return_authorization_id for each in reversed(made)
        ]
    assert (await read(shop, made[0], rma_number=made[0].rma_number.lower())).customer_id == "ada"
    for by in ({"rma_number": "AAAA-BBBB-CCCC"}, {"return_authorization_id": str(new_id())}):
        assert (await told(read(shop, made[0], **by)))[0] == "RETURN_AUTHORIZATION_NOT_FOUND"


async def test_what_can_not_be_meant_is_refused(shop: Shop) -> None:
    order = await shop.sell(NORTH, {MILK: 1}, 199)
    announced = await announce(shop, order.order_id, {1: 1})
    nobody = pb.ReturnAuthorization(return_authorization_id=str(new_id()))
    for call, reason in (
        (announce(shop, str(new_id()), {1: 1}), "ORDER_NOT_FOUND"),
        (announce(shop, order.order_id, {2: 1}), "ORDER_LINE_NOT_FOUND"),
        (receive(shop, announced), "INVALID_REQUEST"),
        (receive(shop, announced, units(1), location_id="nowhere"), "LOCATION_NOT_FOUND"),
        (receive(shop, announced, refused=[refused_line(1)], location_id="nowhere"), "LOCATION_NOT_FOUND"),
        (receive(shop, nobody, units(1)), "RETURN_AUTHORIZATION_NOT_FOUND"),
        (receive(shop, announced, units(1, number=2)), "RETURN_AUTHORIZATION_EXCEEDED"),
    ):
        assert (await refused(call)).reason == reason
