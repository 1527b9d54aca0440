"""What a replay decides beforehand: exact shares, the same for the same seed, whatever is asked of fuel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onhand.simulate.plan import After, Basket, Kind, Line, Play, Twist, draw, plan, positions
from onhand.simulate.rates import Rates, parse_rates

GOODS = Line("101", "02000000001016", 1, 129, False)
FUEL = Line("102", "02000000001023", 37_854, 2_500, True)


def _baskets(*lines: tuple[Line, ...]) -> list[Basket]:
    return [Basket(str(number), "store-1", "household-1", each) for number, each in enumerate(lines)]


def test_of_every_20_baskets_13_are_sold_4_picked_up_2_shipped_and_1_abandoned() -> None:
    plays = plan(_baskets(*[(GOODS,)] * 200), seed=7)

    for start in range(0, 200, 20):
        kinds = Counter(play.kind for play in plays[start : start + 20])
        assert kinds == {Kind.SALE: 13, Kind.PICKUP: 4, Kind.SHIPMENT: 2, Kind.ABANDONED: 1}


def test_of_every_20_of_a_kind_as_many_go_another_way_as_the_rates_say() -> None:
    rates = Rates(rejected_pickups=6, no_shows=1, returns=2)
    plays = plan(_baskets(*[(GOODS,)] * 400), seed=7, rates=rates)

    def blocks(*kinds: Kind) -> Iterator[list[Play]]:
        of_kind = [play for play in plays if play.kind in kinds]
        yield from (of_kind[start : start + 20] for start in range(0, len(of_kind) - 19, 20))

    for block in blocks(Kind.PICKUP):
        twists = Counter(play.twist for play in block)
        assert twists == {
            Twist.NONE: 2, Twist.REJECTED: 6, Twist.NO_SHOW: 1, Twist.SUBSTITUTED: 3, Twist.BACKORDERED: 5,
            Twist.PARTLY_TAKEN: 1, Twist.CHANGED: 2,
        }  # fmt: skip
        assert sum(bool(play.backorder_limits) for play in block) == 5
        assert (sum(play.is_late for play in block), sum(play.has_lost_code for play in block)) == (2, 2)
    for block in blocks(Kind.SHIPMENT):
        assert Counter(play.twist for play in block) == {Twist.NONE: 15, Twist.REJECTED: 4, Twist.UNDELIVERED: 1}
    for block in blocks(Kind.SALE):
        assert (sum(play.is_refilled for play in block), sum(play.has_blind_return for play in block)) == (1, 1)
        assert sum(play.is_counted for play in block) == 1
    for block in blocks(Kind.SALE, Kind.PICKUP, Kind.SHIPMENT):
        assert Counter(play.after for play in block) == {After.NOTHING: 17, After.RETURNED: 2, After.EXCHANGED: 1}
        assert sum(play.has_gift_card for play in block) == 2


def test_rates_are_set_by_name_and_more_than_20_of_20_are_refused() -> None:
    assert parse_rates(["no_shows=3", "returns=0"]) == Rates(no_shows=3, returns=0)
    for settings in (["no_show=3"], ["no_shows"], ["no_shows=-1"], ["pickups=18"], ["backorders=11"]):
        with pytest.raises(ValueError, match=r"NAME=N|at most"):
            parse_rates(settings)


def test_the_same_seed_plans_the_same_and_another_seed_otherwise() -> None:
    baskets = _baskets(*[(GOODS,)] * 100)

    assert plan(baskets, seed=7) == plan(baskets, seed=7)
    assert plan(baskets, seed=7) != plan(baskets, seed=8)
    assert draw(7, "31198892591", "channel", 1_000_000) == draw(7, "31198892591", "channel", 1_000_000)


@given(st.lists(st.sampled_from([(GOODS,), (FUEL,), (GOODS, FUEL)]), max_size=70), st.integers(0, 5))
def test_fuel_is_sold_at_the_till_only_and_nobody_brings_it_back(lines: list[tuple[Line, ...]], seed: int) -> None:
    plays = plan(_baskets(*lines), seed=seed)

    assert [play.basket.lines for play in plays] == lines
    for play in plays:
        if play.kind is not Kind.SALE:
            assert play.lines
            assert not any(line.is_fuel for line in play.lines)
        assert play.fuel_lines_left_out == len(play.basket.lines) - len(play.lines)
        if play.after is not After.NOTHING or play.is_refilled or play.has_blind_return:
            assert any(not line.is_fuel for line in play.lines)


@given(st.integers(0, 13), st.integers(0, 5))
def test_baskets_of_nothing_but_fuel_leave_the_shares_as_they_are(fuel: int, seed: int) -> None:
    plays = plan(_baskets(*[(FUEL,)] * fuel, *[(GOODS,)] * (20 - fuel)), seed=seed)

    kinds = Counter(play.kind for play in plays)
    assert kinds == {Kind.SALE: 13, Kind.PICKUP: 4, Kind.SHIPMENT: 2, Kind.ABANDONED: 1}


def test_the_followed_positions_are_those_that_online_baskets_ask_for() -> None:
    plays = plan(_baskets(*[(GOODS, FUEL)] * 20), seed=7)

    assert positions(plays, 7, 10) == [("store-1", "101")]
    assert positions(plays, 7, 0) == []
