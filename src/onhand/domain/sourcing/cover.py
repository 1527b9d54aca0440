"""What it costs at least to bring a set of lines, for every set of a few lines at once. A set is the bits of a number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

NOBODY = -1


class Singles(NamedTuple):
    """For every set, what the cheapest single location costs that brings all of it (`nothing` where none does), and which."""

    cost: list[int]
    who: list[int]


class Least(NamedTuple):
    """For every set, what it costs at least, and by how many locations that is done."""

    cost: list[int]
    parcels: list[int]


def closed(count: int, locations: Iterable[tuple[int, int]], nobody: int) -> list[int]:
    """For every set the least of the numbers of those, (set, number), who bring all of it, whatever of the set is taken."""
    least = [nobody] * (1 << count)
    for lines, number in locations:
        if number < least[lines]:
            least[lines] = number
    for _ in range(count):
        # Who brings a set with a line brings it without. The lowest bit goes to the top: after all of them each is in its place.
        without, with_it = least[0::2], least[1::2]
        least = [a if a < b else b for a, b in zip(without, with_it, strict=True)] + with_it
    return least


def listed(
    count: int,
    locations: Iterable[tuple[int, Sequence[int], int, Sequence[int], int | None]],
    needs: Sequence[int],
    nothing: int,
) -> Singles:
    """Of (location, the lines that it has, its opening, its cost of each line, its room): every set that it may bring."""
    cost, who = [nothing] * (1 << count), [NOBODY] * (1 << count)
    for at, lines, opening, of_line, room in locations:
        sets = [(0, opening, 0)]
        for line in lines:
            bit, more, units = 1 << line, of_line[line], needs[line]
            if room is None:
                sets += [(each | bit, so_far + more, 0) for each, so_far, _ in sets]
            else:
                sets += [
                    (each | bit, so_far + more, taken + units) for each, so_far, taken in sets if taken + units <= room
                ]
        for each, so_far, _ in sets:
            if so_far < cost[each]:
                cost[each], who[each] = so_far, at
    return Singles(cost, who)


def together(singles: Singles, give_up: Sequence[int], fewer: Least | None = None) -> Least:
    """For every set, what it costs at least to bring it; `give_up`: what it costs not to bring a line.

    By any number of locations; or, where `fewer` is what it costs by so many, by one more than that at most.
    """
    single = singles.cost
    least, parcels = [0] * len(single), [0] * len(single)
    others, others_parcels = (least, parcels) if fewer is None else fewer
    cheapest = min(single[1:], default=0)
    for lines in range(1, len(single)):
        low = lines & -lines
        rest = lines ^ low
        cost, by = least[rest] + give_up[low.bit_length() - 1], parcels[rest]
        if single[lines] < cost:
            cost, by = single[lines], 1
        # What is not brought by one takes at least two, each of which costs something.
        if cost > 2 * cheapest:
            part = rest
            while part:
                part = (part - 1) & rest
                each = single[part | low] + others[rest ^ part]
                if each < cost:
                    cost, by = each, 1 + others_parcels[rest ^ part]
        least[lines], parcels[lines] = cost, by
    return Least(least, parcels)


def nobody(give_up: Sequence[int]) -> Least:
    """The same by no location at all."""
    least = [0]
    for each in give_up:
        least += [cost + each for cost in least]
    return Least(least, [0] * len(least))


def parts(singles: Singles, give_up: Sequence[int], least: Least, fewer: Least, lines: int) -> tuple[int, int]:
    """How the least cost of a set came about: (what is brought next, by whom); by NOBODY if its one line is given up."""
    low = lines & -lines
    rest = lines ^ low
    if least.cost[lines] == least.cost[rest] + give_up[low.bit_length() - 1]:
        return low, NOBODY
    part = rest
    while singles.cost[part | low] + fewer.cost[rest ^ part] != least.cost[lines]:
        part = (part - 1) & rest
    return part | low, singles.who[part | low]
