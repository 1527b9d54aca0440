"""What may happen at any moment: rows end, messages arrive, increases come, the gate fails."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from model.search import Step, Transition, replaced
from model.world import ACTIVE, GIVE_BACK, Base, Gate, World


class Events(Base):
    """What no attempt does."""

    def _row_events(self, s: World) -> Iterator[Transition]:
        L, p = s.ledger, self.p
        for c, row in enumerate(L.rows):
            q, name = self.quantity[c], f"claim {c} of r{self.request_of[c]}"
            if row in ACTIVE and self.soft[c]:
                if "C" in self.events and L.available >= q:
                    M = L._replace(rows=self._row(L, c, "C"), available=L.available - q, allocated=L.allocated + q)
                    yield Step.CONFIRM, f"{name} is confirmed in the ledger", s._replace(ledger=M)
                if "R" in self.events:
                    yield Step.RELEASE, f"{name} is released in the ledger", s._replace(ledger=self._release(L, c))
                if "E" in self.events and row == "A":
                    M = L._replace(rows=self._row(L, c, "E"))
                    yield Step.EXTEND, f"{name} is extended in the ledger", s._replace(ledger=M)
                if "X" in self.events and row == "A":
                    M = L._replace(rows=self._row(L, c, "X"))
                    yield Step.EXPIRE, f"{name} is expired in the ledger", s._replace(ledger=M)
                elif "X" in self.events and p.expire_by == "gate":
                    text = f"{name}: sweeper expires it by the gate's old deadline"
                    yield Step.EXPIRE, text, "KEPT PROMISE: an extended reservation is expired"
            elif row == "C" and self.soft[c] and "K" in self.events:
                M = L._replace(
                    rows=self._row(L, c, "K"),
                    available=L.available + q,
                    allocated=L.allocated - q,
                    deltas=(*L.deltas, (q, self._stamp(L))),
                )
                yield Step.CANCEL, f"order of {name} is cancelled", s._replace(ledger=M)
            elif row == "-" and self._may_be_orphan(s, c):
                if p.tombstone:
                    M = L._replace(rows=self._row(L, c, "T"))
                    yield Step.TOMBSTONE, f"sweeper closes orphan {name} in the ledger", s._replace(ledger=M)
                    continue
                for n, g in enumerate(s.gates):
                    if g.holds >> c & 1 and self.usable(g):
                        after = s._replace(gates=replaced(s.gates, n, self._drop(g, c, True)))
                        yield Step.GIVE_BACK, f"sweeper gives back orphan {name}", after

    def _may_be_orphan(self, s: World, c: int) -> bool:
        if any(g.holds >> c & 1 for g in s.gates):
            return True
        return any(t[0] == "held" and o.claim == c for o, t in zip(self.ops, s.attempts, strict=True))

    def _gate_events(self, s: World) -> Iterator[Transition]:
        L = s.ledger
        for n, g in enumerate(s.gates):
            if not self.usable(g):
                continue
            for c, row in enumerate(L.rows):
                if g.holds >> c & 1 and row in "RXTCK":
                    is_back = row in GIVE_BACK
                    text = f"gate {g.run} {'gives back' if is_back else 'forgets'} claim {c} of r{self.request_of[c]}"
                    after = s._replace(gates=replaced(s.gates, n, self._drop(g, c, is_back)))
                    yield Step.GIVE_BACK if is_back else Step.FORGET, text, after
            if self.p.deltas != "log":
                yield from self._applied_ids(s, n, g)
                continue
            for d in range(g.mark, len(L.deltas)):  # the next one that a reader of the ledger sees
                if L.deltas[d][1] >= 0:
                    h = g._replace(atp=g.atp + L.deltas[d][0], mark=d + 1)
                    yield (
                        Step.APPLY,
                        f"delta {d + 1} is applied to gate {g.run}",
                        s._replace(gates=replaced(s.gates, n, h)),
                    )
                    break

    def _applied_ids(self, s: World, n: int, g: Gate) -> Iterator[Transition]:
        """Deltas without an order: the gate keeps the ids of those applied, the ledger says which are settled."""
        L, p = s.ledger, self.p
        for d, (q, settled) in enumerate(L.deltas):
            has = g.mark >> d & 1
            if not has and (not settled or g.epoch <= settled):  # read while unsettled, maybe long ago
                late = ", by a process that read it before it was settled" if settled else ""
                h = g._replace(atp=g.atp + q, mark=g.mark | 1 << d)
                text = f"delta {d + 1} is applied to gate {g.run} (epoch {g.epoch}){late}"
                yield Step.APPLY, text, s._replace(gates=replaced(s.gates, n, h))
            if has and not settled and (g.epoch == L.epoch or not p.settle_checks_epoch):
                M = L._replace(deltas=replaced(L.deltas, d, (q, L.epoch)))
                yield Step.ANSWER, f"delta {d + 1} is settled in the ledger", s._replace(ledger=M)
            if has and settled and p.deltas == "set":
                h = g._replace(mark=g.mark & ~(1 << d))
                text = f"gate {g.run} drops the settled id of delta {d + 1}"
                yield Step.APPLY, text, s._replace(gates=replaced(s.gates, n, h))

    def _increases(self, s: World) -> Iterator[Transition]:
        L = s.ledger
        if s.increases < len(self.increases) and not L.is_closed:
            q = self.increases[s.increases]
            if self.p.number_locked:
                yield Step.INCREASE, f"increase of {q} commits with its delta", self._increased(s, q, L.deltas)
            else:
                M = L._replace(deltas=(*L.deltas, (q, -1)))
                text = f"increase of {q} draws number {len(L.deltas) + 1}"
                yield Step.INCREASE, text, s._replace(increases=s.increases + 1, ledger=M)
        for d, (q, x) in enumerate(L.deltas):
            if x < 0:
                after = self._increased(s, q, L.deltas[:d], L.deltas[d + 1 :])._replace(increases=s.increases)
                yield Step.INCREASE, f"increase of {q} commits with delta {d + 1}", after

    def _increased(self, s: World, q: int, before: tuple[Any, ...], behind: tuple[Any, ...] = ()) -> World:
        L = s.ledger
        deltas = (*before, (q, self._stamp(L)), *behind)
        M = L._replace(available=L.available + q, received=L.received + q, deltas=deltas)
        return s._replace(increases=s.increases + 1, ledger=M)

    def _answers(self, s: World) -> Iterator[Transition]:
        """A commit that raised ATP is answered, also to a repeat: every reader sees it, or trusts no gate before a rebuild."""
        L = s.ledger
        waiting = [
            (f"delta {d + 1}", x, lambda g, d=d: g.mark > d, s._replace(answered=s.answered | 1 << d))
            for d, (_, x) in enumerate(L.deltas)
            if not s.answered >> d & 1
        ] + [
            (f"release of claim {c}", x, lambda g, c=c: not g.holds >> c & 1, s._replace(returned=s.returned | 1 << c))
            for c, x in L.released
            if not s.returned >> c & 1
        ]
        for name, x, has, after in waiting:
            if not self.p.answer_waits or any(
                self.usable(g) and has(g) and (g.epoch >= x or not self.p.answer_checks_epoch) for g in s.gates
            ):
                yield Step.ANSWER, f"{name} is in the gate, its commit is answered", after
            M = L._replace(epoch=L.epoch + 1)
            yield Step.RAISE, f"{name} finds no gate: epoch raised, its commit is answered", after._replace(ledger=M)

    def _faults(self, s: World) -> Iterator[Transition]:
        if not s.faults:
            return
        if s.saved is None and ("stale" in self.kinds or "split" in self.kinds):
            for g in s.gates:
                text = f"(gate {g.run} as it is now is what a restart or a replica will have)"
                yield Step.FAULT, text, s._replace(saved=g)
        new = s.runs + 1
        for n, g in enumerate(s.gates):
            if "lost" in self.kinds:
                gates = replaced(s.gates, n, Gate(new, False, 0, 0, 0, 0))
                yield Step.FAULT, f"gate {g.run} restarts empty as run {new}", self._fault(s, gates)
            if "stale" in self.kinds and s.saved:
                gates = replaced(s.gates, n, s.saved._replace(run=new, is_own=False))
                yield Step.FAULT, f"gate {g.run} restarts with its older state as run {new}", self._fault(s, gates)
        if "split" in self.kinds and len(s.gates) == 1 and s.saved:
            gates = (*s.gates, s.saved._replace(run=new, is_own=False))
            text = f"split brain: run {new} serves the older state, run {s.gates[0].run} lives on"
            yield Step.FAULT, text, self._fault(s, gates)

    @staticmethod
    def _fault(s: World, gates: tuple[Gate, ...]) -> World:
        return s._replace(gates=gates, faults=s.faults - 1, runs=s.runs + 1)

    def _deletion(self, s: World) -> Iterator[Transition]:
        L = s.ledger
        if "D" in self.events and not L.is_closed and not L.available and not L.allocated and not self.active(L):
            M = L._replace(is_closed=True, epoch=L.epoch + 1) if self.p.close_raises else L._replace(is_closed=True)
            yield Step.CLOSE, "the location holds nothing and is deleted", s._replace(ledger=M)
