"""The gate's functions by themselves: what Lua, JSON and numbers could get wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping

from onhand.ids import new_id
from onhand.reservations.gate import Drop, Gate, LoadPart, NoClaim, Refused, Take, Taken, Untrusted
from reservations.stand import BREAD, MILK, NORTH, SOUTH, Stand

DUE = 4_102_444_800_000  # 2100


async def _loaded(stand: Stand, **stock: int) -> Gate:
    gate = (await stand.server()).app.gate
    assert await gate.load(NORTH, _part(7, 3, stock, {}), await gate.run_id())
    return gate


def _part(epoch: int, delta: int, stock: Mapping[str, int], floors: Mapping[str, int]) -> LoadPart:
    """A whole location."""
    encoded = [json.dumps([v for sku, n in values.items() for v in (sku, str(n))]) for values in (stock, floors)]
    return LoadPart(epoch, delta, is_first=True, is_last=True, stock=encoded[0], floors=encoded[1])


def _take(quantity: int, sku: str = MILK, location_id: str = NORTH, **fields: object) -> Take:
    return Take(location_id, new_id(), DUE, [(sku, quantity, 0)], **fields)  # type: ignore[arg-type]


async def test_takes_of_one_call_are_judged_one_after_the_other(stand: Stand) -> None:
    gate = await _loaded(stand, milk=5)
    results = await gate.take([_take(3), _take(3), _take(2), _take(1), _take(1, location_id=SOUTH)])
    assert results == [Taken(7), Refused(7, {MILK: 2}), Taken(7), Refused(7, {MILK: 0}), Untrusted()]
    assert await stand.gate_atp() == 0


async def test_nothing_of_a_take_is_taken_where_one_line_is_short(stand: Stand) -> None:
    gate = await _loaded(stand, milk=5, bread=1)
    take = Take(NORTH, new_id(), DUE, [(MILK, 5, 0), (BREAD, 2, 0), ("ghost", 1, 0)])
    assert await gate.take([take]) == [Refused(7, {BREAD: 1, "ghost": 0})]
    assert [await stand.gate_atp(sku=s) for s in (MILK, BREAD, "ghost")] == [5, 1, 0]
    assert await stand.held() == []


async def test_a_claim_that_is_sent_again_is_taken_once(stand: Stand) -> None:
    gate = await _loaded(stand, milk=5)
    take = _take(3)
    assert await gate.take([take, take]) == [Taken(7), Taken(7)]
    assert await gate.take([take]) == [Taken(7)]
    assert await stand.gate_atp() == 2


async def test_a_claim_is_dropped_once_and_what_is_not_held_changes_nothing(stand: Stand) -> None:
    gate = await _loaded(stand, milk=5)
    given, forgotten = _take(3), _take(2)
    await gate.take([given, forgotten])
    back, gone = Drop(NORTH, given.claim_id, give_back=True), Drop(NORTH, forgotten.claim_id, give_back=False)
    assert await gate.drop([back, back, gone, gone, Drop(SOUTH, new_id(), give_back=True)]) == [7, 7, 7, 7, 0]
    assert await gate.drop([Drop(NORTH, forgotten.claim_id, give_back=True)]) == [7]
    assert await stand.gate_atp() == 3
    assert await stand.held() == []


async def test_facts_take_below_zero_and_say_by_how_much(stand: Stand) -> None:
    gate = await _loaded(stand, milk=5)
    assert await gate.take([_take(3, is_fact=True), _take(4, is_fact=True), _take(1, is_fact=True)]) == [
        Taken(7),
        Taken(7, {MILK: 2}),
        Taken(7, {MILK: 1}),
    ]
    assert await gate.take([_take(1)]) == [Refused(7, {MILK: 0})]
    assert await stand.gate_atp() == -3


async def test_a_claims_own_units_count_as_free_for_its_change_alone(stand: Stand) -> None:
    gate = await _loaded(stand, milk=5)
    held = _take(4)
    await gate.take([held])
    assert await gate.take([_take(2)]) == [Refused(7, {MILK: 1})]
    assert await gate.take([_take(6, frees=held.claim_id)]) == [Refused(7, {MILK: 5})]
    assert await gate.take([_take(5, frees=held.claim_id)]) == [Taken(7)]
    assert await stand.gate_atp() == -4
    assert await gate.take([_take(1, frees=new_id())]) == [NoClaim()]
    assert await gate.drop([Drop(NORTH, held.claim_id, give_back=True)]) == [7]
    assert await stand.gate_atp() == 0


async def test_numbers_that_lua_would_print_with_an_exponent_stay_exact(stand: Stand) -> None:
    most = 2**53 - 1
    gate = await _loaded(stand, milk=most, bread=10**15)
    (read,) = await gate.read([(NORTH, [MILK, BREAD])])
    assert read == (7, [(most, 0), (10**15, 0)])
    assert await gate.take([_take(10**15 - 1, BREAD, is_fact=True)]) == [Taken(7)]
    assert await stand.gate_atp(sku=BREAD) == 1
    assert await gate.take([_take(2 * 10**13 + 1, BREAD, is_fact=True)]) == [Taken(7, {BREAD: 2 * 10**13})]
    assert sorted(await stand.redis.hvals("oh:{north}:claims")) == [
        '[["bread",20000000000001]]',
        '[["bread",999999999999999]]',
    ]
    assert await gate.take([_take(7)]) == [Taken(7)]
    assert await stand.gate_atp() == most - 7


async def test_an_empty_call_is_answered_with_nothing(stand: Stand) -> None:
    gate = await _loaded(stand, milk=5)
    assert await gate.take([]) == []
    assert await gate.read([]) == []
    assert await gate.apply([]) == []
    assert await gate.apply([(NORTH, [])]) != []
    assert await gate.drop([]) in ([], {})
    assert await gate.patrol([], 0) == []


async def test_an_empty_location_is_loaded_and_read(stand: Stand) -> None:
    gate = await _loaded(stand)
    assert await gate.read([(NORTH, [MILK])]) == [(7, [(0, 0)])]
    dump = await gate.dump(NORTH)
    assert dump is not None
    assert (dump.epoch, dump.delta, dump.atp, dump.claims) == (7, 3, {}, {})


async def test_one_call_for_hundreds_of_locations_and_thousands_of_skus(stand: Stand) -> None:
    gate = (await stand.server()).app.gate
    run_id = await gate.run_id()
    skus = [f"s{n}" for n in range(500)]
    places = [f"p{n}" for n in range(200)]
    part = _part(1, 0, dict.fromkeys(skus, 9), dict.fromkeys(skus, 2))
    for place in places[:20]:
        assert await gate.load(place, part, run_id)
    rows = await gate.read([(place, skus) for place in places])
    assert rows[:20] == [(1, [(9, 2)] * 500)] * 20
    assert rows[20:] == [None] * 180
    takes = [Take(place, new_id(), DUE, [(s, 8, 0) for s in skus[:200]], is_online=True) for place in places]
    results = await gate.take(takes)
    assert results[:20] == [Refused(1, dict.fromkeys(skus[:200], 7))] * 20
    assert results[20:] == [Untrusted()] * 180


async def test_floors_count_for_online_takes_alone(stand: Stand) -> None:
    gate = (await stand.server()).app.gate
    part = _part(7, 0, {MILK: 5}, {MILK: 3})
    assert await gate.load(NORTH, part, await gate.run_id())
    assert await gate.take([_take(3, is_online=True), _take(3)]) == [Refused(7, {MILK: 2}), Taken(7)]
    assert await gate.take([_take(1, is_online=True)]) == [Refused(7, {MILK: 0})]
