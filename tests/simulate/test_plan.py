"""What a replay decides beforehand: exact shares, the same for the same seed, whatever is asked of fuel."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from onhand.simulate.plan import Basket, Kind, Line, draw, plan, positions

GOODS = Line("101", "02000000001016", 1, 129, False)
FUEL = Line("102", "02000000001023", 37_854, 2_500, True)


def _baskets(*lines: tuple[Line, ...]) -> list[Basket]:
    return [Basket(str(number), "store-1", "household-1", each) for number, each in enumerate(lines)]


def test_of_every_20_baskets_13_are_sold_4_picked_up_2_shipped_and_1_abandoned() -> None:
    plays = plan(_baskets(*[(GOODS,)] * 200), seed=7)

    for start in range(0, 200, 20):
        kinds = Counter(play.kind for play in plays[start : start + 20])
        assert kinds == {Kind.SALE: 13, Kind.PICKUP: 4, Kind.SHIPMENT: 2, Kind.ABANDONED: 1}


def test_of_every_20_baskets_that_can_be_completed_one_is_returned() -> None:
    plays = plan(_baskets(*[(GOODS,)] * 400), seed=7)

    completable = [play for play in plays if play.kind is not Kind.ABANDONED]
    assert len(completable) == 380
    for start in range(0, 380, 20):
        assert sum(play.is_returned for play in completable[start : start + 20]) == 1


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
        if play.is_returned:
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
