"""Baskets: several skus at one location (one script, all lines or none), several locations (one reservation, a claim at each).

Each location has a gate and an epoch of its own. The takes of a basket go out at once and come back in any order; where one
location refuses, the others are given back. One transaction journals all claims under all epochs, or none. A reservation is
confirmed, released and extended as a whole. It expires claim by claim, for a sweep has a bound: so half of it may have expired.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from model.search import State, Step, Transition, replaced

Lines = tuple[tuple[int, int], ...]
"""(sku, quantity)"""
Basket = tuple[tuple[int, Lines], ...]
"""(location, lines)"""


@dataclass(frozen=True)
class GroupRules:
    """What could be got wrong."""

    all_epochs: bool = True  # the journal compares the epoch of every claim | one that fits is enough
    all_open: bool = (
        True  # a claim that was closed as an orphan refuses all | it is left out, the others are journalled
    )
    at_once: bool = True  # all claims are journalled by one transaction | by one each
    whole_only: bool = True  # what is left of a half-expired reservation is neither confirmed nor extended
    whole_lines: bool = True  # a location takes all lines or none | the lines before a short one stay taken
    sums_lines: bool = True  # lines of one sku are judged by their sum | one by one


class Place(NamedTuple):
    """A location, in the ledger and in its gate."""

    epoch: int
    available: tuple[int, ...]  # by sku
    allocated: tuple[int, ...]
    gate_epoch: int  # 0: nothing that can be used
    atp: tuple[int, ...]
    holds: int  # bit an attempt


class Shop(NamedTuple):
    """A state."""

    places: tuple[Place, ...]
    rows: tuple[str, ...]  # an attempt's claims, a letter a location: see model/world.py
    attempts: tuple[
        tuple[str, tuple[int, ...]], ...
    ]  # where it is, and the epoch that it took under at each: -1 refused
    rebuilds: tuple[tuple[Any, ...], ...]
    faults: int


ACTIVE = "AE"


class GroupModel:
    """A scenario: stock by location and sku, requests (basket, attempts), the locations that somebody rebuilds."""

    def __init__(
        self,
        stock: tuple[tuple[int, ...], ...],
        requests: tuple[tuple[Basket, int], ...],
        rebuilds: tuple[int, ...] = (),
        faults: int = 0,
        events: str = "CX",
        rules: GroupRules | None = None,
    ) -> None:
        self.p = rules or GroupRules()
        self.stock, self.rebuilt, self.faults, self.events = stock, rebuilds, faults, events
        self.baskets: list[Basket] = []
        self.request_of: list[int] = []
        for r, (basket, attempts) in enumerate(requests):
            self.baskets += [basket] * attempts
            self.request_of += [r] * attempts
        # By attempt and location: what it needs of each sku there.
        self.needs = [[self._sums(lines) for _, lines in basket] for basket in self.baskets]

    def _sums(self, lines: Lines) -> tuple[int, ...]:
        return tuple(sum(q for s, q in lines if s == sku) for sku in range(len(self.stock[0])))

    def initial(self) -> Shop:
        """Nothing is promised anywhere."""
        none = (0,) * len(self.stock[0])
        places = tuple(Place(1, units, none, 1, units, 0) for units in self.stock)
        rows = tuple("-" * len(basket) for basket in self.baskets)
        attempts = tuple(("take", (0,) * len(basket)) for basket in self.baskets)
        return Shop(places, rows, attempts, (("start", 0, ()),) * len(self.rebuilt), self.faults)

    def canonical(self, s: State) -> Hashable:
        """Every state for itself: there are few."""
        found: Hashable = s
        return found

    # ------------------------------------------------------------------------------------------------------ attempts
    def steps(self, s: Shop) -> Iterator[Transition]:
        """Whatever may happen next."""
        for i, (at, epochs) in enumerate(s.attempts):
            if at == "take":
                yield from self._take(s, i, epochs)
            elif at == "journal":
                yield from self._journal(s, i, epochs)
            elif at == "undo":
                yield from self._undo(s, i, epochs)
        for i, rows in enumerate(s.rows):
            yield from self._row_events(s, i, rows)
        for r in range(len(self.rebuilt)):
            yield from self._rebuild(s, r)
        for n, place in enumerate(s.places):
            if s.faults and place.gate_epoch:
                empty = place._replace(gate_epoch=0, atp=(0,) * len(place.atp), holds=0)
                after = s._replace(places=replaced(s.places, n, empty), faults=s.faults - 1)
                yield Step.FAULT, f"the gate of location {n} loses everything", after

    def _take(self, s: Shop, i: int, epochs: tuple[int, ...]) -> Iterator[Transition]:
        for k, (n, lines) in enumerate(self.baskets[i]):
            place = s.places[n]
            if epochs[k] or not place.gate_epoch:
                continue
            if self.p.sums_lines:
                short = [sku for sku, need in enumerate(self.needs[i][k]) if place.atp[sku] < need]
            else:
                short = [sku for sku, quantity in lines if place.atp[sku] < quantity]
            if short:
                if not self.p.whole_lines:
                    kept = tuple(
                        have - (need if sku < short[0] else 0)
                        for sku, (have, need) in enumerate(zip(place.atp, self.needs[i][k], strict=True))
                    )
                    place = place._replace(atp=kept)
                text = f"attempt {i}: location {n} refuses"
                yield Step.TAKE, text, self._asked(s, i, replaced(epochs, k, -1), n, place)
                continue
            atp = tuple(have - need for have, need in zip(place.atp, self.needs[i][k], strict=True))
            place = place._replace(atp=atp, holds=place.holds | 1 << i)
            text = f"attempt {i}: location {n} takes {lines} (epoch {place.gate_epoch}, atp {atp})"
            yield Step.TAKE, text, self._asked(s, i, replaced(epochs, k, place.gate_epoch), n, place)

    def _asked(self, s: Shop, i: int, epochs: tuple[int, ...], n: int, place: Place) -> Shop:
        at = "take" if 0 in epochs else "undo" if -1 in epochs else "journal"
        return s._replace(attempts=replaced(s.attempts, i, (at, epochs)), places=replaced(s.places, n, place))

    def _undo(self, s: Shop, i: int, epochs: tuple[int, ...]) -> Iterator[Transition]:
        for k, (n, _) in enumerate(self.baskets[i]):
            if epochs[k] > 0:
                left = replaced(epochs, k, -1)
                at = "undo" if any(e > 0 for e in left) else "end"
                after = s._replace(attempts=replaced(s.attempts, i, (at, left)))
                yield Step.UNDO, f"attempt {i}: gives back at location {n}", self._dropped(after, i, k, n, True)

    def _dropped(self, s: Shop, i: int, k: int, n: int, is_back: bool) -> Shop:
        place = s.places[n]
        if not place.gate_epoch or not place.holds >> i & 1:
            return s
        atp = place.atp
        if is_back:
            atp = tuple(have + need for have, need in zip(atp, self.needs[i][k], strict=True))
        return s._replace(places=replaced(s.places, n, place._replace(atp=atp, holds=place.holds & ~(1 << i))))

    def _journal(self, s: Shop, i: int, epochs: tuple[int, ...]) -> Iterator[Transition]:
        rows = s.rows[i]
        fits = [s.places[n].epoch == epochs[k] for k, (n, _) in enumerate(self.baskets[i])]
        is_known = any(
            self.request_of[j] == self.request_of[i] and set(s.rows[j]) - set("-T")
            for j in range(len(s.rows))
            if j != i
        )
        is_closed = any(row != "-" for row in rows) if self.p.all_open else all(row != "-" for row in rows)
        if is_known or is_closed or not (all(fits) if self.p.all_epochs else any(fits)):
            after = s._replace(attempts=replaced(s.attempts, i, ("undo", epochs)))
            yield Step.JOURNAL, f"attempt {i}: ledger refuses (known {is_known}, epochs {fits}, rows {rows})", after
            return
        ends = replaced(s.attempts, i, ("end", epochs))
        if self.p.at_once:
            active = "".join("A" if row == "-" else row for row in rows)
            after = s._replace(rows=replaced(s.rows, i, active), attempts=ends)
        else:
            first = rows.replace("-", "A", 1)
            after = s._replace(rows=replaced(s.rows, i, first), attempts=s.attempts if "-" in first else ends)
        yield Step.JOURNAL, f"attempt {i}: ledger journals {after.rows[i]}, acknowledged", after

    # ---------------------------------------------------------------------------------------------------------- events
    def _row_events(self, s: Shop, i: int, rows: str) -> Iterator[Transition]:
        left = [row for row in rows if row in ACTIVE]
        if left and (len(left) == len(rows) or not self.p.whole_only):
            yield from self._as_a_whole(s, i, rows)
        for k, (n, _) in enumerate(self.baskets[i]):
            row, place = rows[k], s.places[n]
            one = f"claim of attempt {i} at location {n}"

            def to(letter: str, k: int = k) -> Shop:
                return s._replace(rows=replaced(s.rows, i, rows[:k] + letter + rows[k + 1 :]))

            if row == "A" and "X" in self.events:
                yield Step.EXPIRE, f"{one} expires", to("X")
            if row == "-" and place.holds >> i & 1:
                yield Step.TOMBSTONE, f"sweeper closes the orphaned {one}", to("T")
            if row in "RXTC" and place.gate_epoch and place.holds >> i & 1:
                step = Step.FORGET if row == "C" else Step.GIVE_BACK
                yield step, f"gate: {step} {one}", self._dropped(s, i, k, n, row != "C")

    def _as_a_whole(self, s: Shop, i: int, rows: str) -> Iterator[Transition]:
        def to(letter: str) -> tuple[str, ...]:
            return replaced(s.rows, i, "".join(letter if row in ACTIVE else row for row in rows))

        if "C" in self.events:
            places = list(s.places)
            for k, (n, _) in enumerate(self.baskets[i]):
                if rows[k] in ACTIVE:
                    place, needs = places[n], self.needs[i][k]
                    available = tuple(a - need for a, need in zip(place.available, needs, strict=True))
                    allocated = tuple(a + need for a, need in zip(place.allocated, needs, strict=True))
                    places[n] = place._replace(available=available, allocated=allocated)
            if all(have >= 0 for place in places for have in place.available):
                after = s._replace(rows=to("C"), places=tuple(places))
                yield Step.CONFIRM, f"reservation of attempt {i} is confirmed", after
        if "R" in self.events:
            yield Step.RELEASE, f"reservation of attempt {i} is released", s._replace(rows=to("R"))
        if "E" in self.events and "A" in rows:
            yield Step.EXTEND, f"reservation of attempt {i} is extended", s._replace(rows=to("E"))

    def _rebuild(self, s: Shop, r: int) -> Iterator[Transition]:
        at, epoch, snapshot = s.rebuilds[r]
        n = self.rebuilt[r]
        place = s.places[n]

        def go(*to: Any, **changes: Any) -> Shop:
            after = s._replace(rebuilds=replaced(s.rebuilds, r, to))
            return after._replace(places=replaced(s.places, n, place._replace(**changes))) if changes else after

        if at == "start":
            text = f"location {n}: epoch raised to {place.epoch + 1}"
            yield Step.RAISE, text, go("raised", place.epoch + 1, (), epoch=place.epoch + 1)
        elif at == "raised":
            yield Step.SNAPSHOT, f"location {n}: snapshot", go("read", epoch, (self._free(s, n), self._held(s, n)))
        elif at == "read" and epoch > place.gate_epoch:
            atp, holds = snapshot
            yield Step.LOAD, f"location {n}: loaded", go("end", 0, (), gate_epoch=epoch, atp=atp, holds=holds)

    def _free(self, s: Shop, n: int) -> tuple[int, ...]:
        free = list(s.places[n].available)
        for i, basket in enumerate(self.baskets):
            for k, (place, _) in enumerate(basket):
                if place == n and s.rows[i][k] in ACTIVE:
                    free = [a - b for a, b in zip(free, self.needs[i][k], strict=True)]
        return tuple(free)

    def _held(self, s: Shop, n: int) -> int:
        return sum(
            1 << i
            for i, basket in enumerate(self.baskets)
            for k, (place, _) in enumerate(basket)
            if place == n and s.rows[i][k] in ACTIVE
        )

    # ------------------------------------------------------------------------------------------------------ invariants
    def broken(self, s: Shop) -> str | None:
        """The rule that a state breaks."""
        effects = [self.request_of[i] for i, rows in enumerate(s.rows) if set(rows) - set("-T")]
        if len(effects) != len(set(effects)):
            return "EXACTLY ONCE: two effects of one request"
        for rows in s.rows:
            letters = set(rows)
            if len(letters - set("-T")) and letters & set("-T"):
                return f"KEPT PROMISE: a reservation is journalled in part ({rows})"
            if letters & set("CER") and len(letters) > 1:
                return f"KEPT PROMISE: a reservation is confirmed, extended or released in part ({rows})"
        for n, place in enumerate(s.places):
            free = self._free(s, n)
            if min(free) < 0:
                return f"NO OVERSELL, KEPT PROMISE: location {n} has {place.available}, and {free} are left of them"
            if place.gate_epoch == place.epoch:
                if any(a > f for a, f in zip(place.atp, free, strict=True)):
                    return f"SAFE DIRECTION: the gate of location {n} promises {place.atp}, ledger has {free}"
                if why := self._recover(s, n, place, free):
                    return why
        return None

    def _recover(self, s: Shop, n: int, place: Place, free: tuple[int, ...]) -> str | None:
        """All processes die here; sweeper and relay then run to the end."""
        atp = list(place.atp)
        for i, basket in enumerate(self.baskets):
            for k, (where, _) in enumerate(basket):
                row, is_held = s.rows[i][k], place.holds >> i & 1
                if where == n and is_held and row in "-RXT":
                    atp = [a + b for a, b in zip(atp, self.needs[i][k], strict=True)]
                if where == n and not is_held and row in ACTIVE:
                    return f"LEAK: an active claim has no hold in the gate of location {n}"
        return None if tuple(atp) == free else f"LEAK: after recovery location {n} has {atp}, ledger has {free}"
