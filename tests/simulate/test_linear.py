"""One integer and calls on it: which histories have an order that explains them, and what is permitted besides."""

from __future__ import annotations

import itertools
import random

import pytest

from onhand.simulate.linear import Hold, Move, Read, bounds, search

START = Move(0, 1, 10)
"""Ten units come in, before everything else."""
FOREVER = float("inf")


def is_possible(moves: list[Move], reads: list[Read], holds: list[Hold] | None = None) -> bool:
    """What the search says; it never gives up on histories this small. What it permits, the bounds permit."""
    verdict = search(moves, reads, holds or [])
    assert verdict.is_possible is not None
    if verdict.is_possible:
        assert all(each.is_possible for each in bounds(moves, reads, holds or []))
    return verdict.is_possible


def test_a_read_after_an_acknowledged_take_shows_it() -> None:
    take = Move(2, 3, -4, need=4)

    assert is_possible([START, take], [Read(4, 5, 6)])
    assert not is_possible([START, take], [Read(4, 5, 10)])


def test_a_read_beside_a_take_shows_it_or_not() -> None:
    take = Move(2, 5, -4, need=4)

    assert is_possible([START, take], [Read(3, 4, 6)])
    assert is_possible([START, take], [Read(3, 4, 10)])
    assert not is_possible([START, take], [Read(3, 4, 8)])


def test_what_one_read_showed_the_next_does_not_take_back() -> None:
    take = Move(2, 9, -4, need=4)

    assert is_possible([START, take], [Read(3, 4, 10), Read(5, 6, 6)])
    assert not is_possible([START, take], [Read(3, 4, 6), Read(5, 6, 10)])


def test_two_decisions_cannot_have_the_same_unit() -> None:
    takes = [Move(2, 5, -6, need=6), Move(3, 6, -6, need=6)]

    assert not is_possible([START, *takes], [])
    assert is_possible([START, *takes, Move(2, 4, 2)], [])


def test_a_decision_that_kept_less_than_its_floor_is_impossible() -> None:
    assert is_possible([START, Move(2, 3, -6, need=10)], [])
    assert not is_possible([START, Move(2, 3, -6, need=11)], [])


def test_a_fact_takes_what_is_not_there_and_reads_show_nothing_until_it_is_mended() -> None:
    sale = Move(2, 3, -12)

    assert is_possible([START, sale], [Read(4, 5, 0)])
    assert not is_possible([START, sale], [Read(4, 5, 1)])
    assert is_possible([START, sale, Move(6, 7, 5)], [Read(8, 9, 3)])
    assert not is_possible([START, sale, Move(6, 7, 5)], [Read(8, 9, 5)])


def test_a_read_shows_what_is_left_above_its_floor() -> None:
    assert is_possible([START], [Read(2, 3, 7, kept=3), Read(2, 3, 0, kept=12)])
    assert not is_possible([START], [Read(2, 3, 8, kept=3)])


def test_what_is_held_may_be_missing_from_a_read_but_never_added_to_it() -> None:
    hold = Hold(2, 6, 4)

    assert is_possible([START], [Read(3, 4, 6), Read(3, 4, 10), Read(4, 5, 6)], [hold])
    assert not is_possible([START], [Read(3, 4, 8)], [hold])
    assert not is_possible([START], [Read(3, 4, 14)], [hold])
    assert not is_possible([START], [Read(7, 8, 6)], [hold])


def test_a_call_that_holds_its_own_units_has_not_taken_them_besides() -> None:
    take, hold = Move(2, 6, -4, need=4), Hold(2, 6, 4, of=1)

    assert is_possible([START, take], [Read(3, 4, 6)], [hold])
    assert not is_possible([START, take], [Read(3, 4, 2)], [hold])


def test_an_unknown_take_is_somewhere_before_its_end_or_never_seen() -> None:
    expiry = Move(3, FOREVER, 4)

    assert is_possible([START, Move(1, 2, -4, need=4), expiry], [Read(4, 5, 6), Read(6, 7, 10)])
    assert not is_possible([START, Move(1, 2, -4, need=4), expiry], [Read(4, 5, 10), Read(6, 7, 6)])
    assert not is_possible([START, Move(1, 2, -4, need=4), expiry], [Read(2.1, 2.5, 10)])


def test_a_refusal_for_stock_is_a_read_that_may_count_its_own_units_as_free() -> None:
    take = Move(2, 3, -8, need=8)

    assert is_possible([START, take], [Read(4, 5, 10, freed=(0, 8))])
    assert not is_possible([START, take], [Read(4, 5, 9, freed=(0, 8))])


def test_a_search_that_meets_too_much_says_that_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onhand.simulate.linear.NODES_MAX", 3)

    assert search([START, Move(2, 3, -4), Move(2, 4, -1)], [Read(2, 5, 5)], []).is_possible is None


def test_the_verdict_names_the_call_that_cannot_be_placed_and_what_was_possible() -> None:
    wrong = Read(4, 5, 9, label="wrong")

    verdict = search([START, Move(2, 3, -4)], [Read(1.5, 1.8, 10), wrong], [])

    assert (verdict.is_possible, verdict.at, verdict.values) == (False, wrong, (6,))


def test_bounds_are_what_was_certain_and_what_was_possible() -> None:
    moves = [START, Move(2, 4, -4, need=4), Move(3, 6, 5)]

    reads = [Read(1.5, 1.8, 10), Read(2.5, 3.5, 10), Read(5, 5.5, 6), Read(7, 8, 11)]
    seen = bounds(moves, reads, [Hold(5, 7.5, 2)])

    assert [(each.low, each.high) for each in seen] == [(10, 10), (6, 15), (4, 11), (9, 11), (10, 15)]
    assert all(each.is_possible for each in seen)
    assert not bounds(moves, [Read(1.5, 1.8, 11)], [])[0].is_possible
    assert not bounds(moves, [Read(7, 8, 10)], [])[0].is_possible


def _really(moves: list[Move], reads: list[Read]) -> bool:
    """By trying every order: slow, and plainly right."""
    calls: list[Move | Read] = [*moves, *reads]
    for order in itertools.permutations(calls):
        if any(b.end < a.begin for n, a in enumerate(order) for b in order[n + 1 :]):
            continue
        value, fits = 0, True
        for call in order:
            if isinstance(call, Read):
                fits = fits and max(0, value - call.kept) == call.shown
            else:
                fits = fits and (call.need is None or value >= call.need)
                value += call.delta
        if fits:
            return True
    return False


@pytest.mark.parametrize("seed", range(150))
def test_the_search_says_what_trying_every_order_says(seed: int) -> None:
    chance = random.Random(seed)
    moves, reads = [Move(0, 0.5, chance.randint(2, 4))], []
    for _ in range(chance.randint(2, 6)):
        begin = chance.randint(1, 8) + chance.random() / 10
        end = begin + chance.choice((0.5, 2, 5))
        if chance.random() < 0.5:
            reads.append(Read(begin, end, chance.randint(0, 4), chance.choice((0, 0, 1))))
        else:
            delta = chance.choice((-3, -2, -1, 1, 2))
            need = -delta if delta < 0 and chance.random() < 0.6 else None
            moves.append(Move(begin, end, delta, need))

    assert is_possible(moves, reads) == _really(moves, reads)
