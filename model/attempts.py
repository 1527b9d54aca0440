"""What the attempts of requests do, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from model.search import Step, Transition, replaced
from model.world import (
    ACTIVE,
    END,
    GIVE_BACK,
    HAD_EFFECT,
    LACKS_ANSWERED,
    START,
    Attempt,
    Base,
    Gate,
    Ledger,
    Op,
    World,
)


class Attempts(Base):
    """Reserve, change, sell, transfer, read, rebuild."""

    def _ask(self, s: World, i: int, o: Op, forced: bool = False) -> Iterator[Transition]:
        """Step 1 of every decrease and reservation: take in the gate, under a claim id."""
        for n, g in enumerate(s.gates):
            if not self.usable(g):
                continue
            epoch = g.epoch if self.p.epoch_from_gate else s.ledger.epoch
            own, room = bool(g.holds >> o.claim & 1), g.atp
            if o.kind == "change":
                if not g.holds >> o.old & 1:
                    continue  # the code looks at the reservation again
                room += self.quantity[o.old]  # its own reservation does not count against it
            if own or forced or room >= o.quantity:
                h = self._take(g, o.claim, o.quantity)
                if o.kind == "change" and self.p.change == "swap":
                    h = self._drop(h, o.old, True)
                more = min(o.quantity, max(0, -h.atp)) if forced else int(not own)
                yield (
                    Step.TAKE,
                    f"{o.name}: gate {g.run} takes {o.quantity}, {'already its own' if own else 'new'}"
                    f" (epoch {epoch}, atp {h.atp})",
                    self._go(s, i, ("held", epoch, more), gates=replaced(s.gates, n, h)),
                )
                continue
            # What is asked after a refusal only reads; it matters where the refusal would be wrong.
            wrong = HAD_EFFECT * (self.row_of_request(s.ledger, o.request) >= 0)
            wrong |= LACKS_ANSWERED * self.lacks_answered(s, g)
            at = ("refused", g.epoch, wrong) if wrong else END
            yield Step.TAKE, f"{o.name}: gate {g.run} refuses (epoch {g.epoch}, atp {g.atp})", self._go(s, i, at)

    def _refused(self, s: World, i: int, o: Op, t: Attempt) -> Iterator[Transition]:
        """Step 2 of a refusal: the ledger is asked for the request, then whether it trusts the data that refused."""
        _, epoch, wrong = t
        if wrong & HAD_EFFECT:
            if self.p.refusal_reads_ledger:
                yield Step.LOOK_UP, f"{o.name}: the ledger has the request, gives the first answer", self._go(s, i, END)
            else:
                yield (
                    Step.LOOK_UP,
                    f"{o.name}: refused",
                    "EXACTLY ONCE: refused, though the request had its effect before",
                )
            return
        epochs = {"data": [epoch], "gate": [g.epoch for g in s.gates if self.usable(g)], "nothing": [s.ledger.epoch]}
        for believed in epochs[self.p.doubts]:
            if believed == s.ledger.epoch:
                yield Step.DOUBT, f"{o.name}: refused", "ONE VIEW: refused by data that lacks an answered increase"
            else:
                yield Step.DOUBT, f"{o.name}: the data that refused is outdated, asks again", self._go(s, i, START)

    def _undo(self, s: World, i: int, o: Op, t: Attempt) -> Iterator[Transition]:
        for n, g in enumerate(s.gates):
            if self.usable(g) and (g.epoch == t[1] or self.p.ids != "derived"):
                after = replaced(s.gates, n, self._drop(g, o.claim, True))
                yield Step.UNDO, f"{o.name}: undoes its take in gate {g.run}", self._go(s, i, END, gates=after)

    def _journal(self, s: World, i: int, o: Op, t: Attempt) -> Iterator[Transition]:
        """Step 2 of a reservation: one insert; for a change the old row is released in the same transaction."""
        L, p, c = s.ledger, self.p, o.claim
        step = Step.SWAP if o.kind == "change" else Step.JOURNAL
        undo = ("undo", t[1], t[2])

        def refused(why: str) -> Transition:
            return step, f"{o.name}: ledger refuses ({why})", self._go(s, i, undo)

        if p.insert_checks_epoch and (t[1] != L.epoch or L.is_closed):
            yield refused(f"epoch {t[1]}, ledger {'closed' if L.is_closed else L.epoch}")
        elif L.rows[c] != "-":
            if p.ids == "fresh":
                yield refused("claim closed")
            else:
                act = {
                    "undo": True,
                    "leave": False,
                    "undo_if_i_took": bool(t[2]),
                    "undo_if_closed": L.rows[c] in GIVE_BACK,
                }[p.conflict]
                text = f"{o.name}: insert conflicts with its row ({L.rows[c]}), gives the first answer"
                yield step, text, self._go(s, i, undo if act else END)
        elif self.row_of_request(L, o.request) >= 0:
            yield step, f"{o.name}: insert conflicts on the request id, gives the first answer", self._go(s, i, undo)
        elif o.kind == "change" and L.rows[o.old] not in ACTIVE:
            yield refused("the old reservation is not active")
        elif p.ledger_counts and L.available - self.active(L) < o.quantity:
            yield refused("counts too few")
        else:
            M = L._replace(rows=self._row(L, c, "A"))
            if o.kind == "change":
                M = self._release(M, o.old)
            yield step, f"{o.name}: ledger journals it active, acknowledged", self._go(s, i, END, ledger=M)
            if p.undo_unknown:
                yield step, f"{o.name}: ledger journals it active, the answer is lost", self._go(s, i, undo, ledger=M)

    def do_reserve(self, s: World, i: int, o: Op, t: Attempt) -> Iterator[Transition]:
        """Reserve; also change, which holds the old claim until the ledger swapped them."""
        if t[0] == "start":
            if o.kind != "change" or s.ledger.rows[o.old] in ACTIVE:
                yield from self._ask(s, i, o)
        elif t[0] == "held":
            yield from self._journal(s, i, o, t)
        elif t[0] == "refused":
            yield from self._refused(s, i, o, t)
        else:
            yield from self._undo(s, i, o, t)

    do_change = do_reserve

    def _consume(self, L: Ledger, o: Op, overdrawn: int, **changes: Any) -> Ledger:
        """The ledger transaction of a decrease. What a sale lacks is `found` first, and breaks no reservation."""
        found = max(0, o.quantity - L.available)
        deltas = (*L.deltas, (found, self._stamp(L))) if found and self.p.found_delta else L.deltas
        return L._replace(
            available=L.available + found - o.quantity,
            gone=L.gone + o.quantity,
            received=L.received + found,
            deltas=deltas,
            done=L.done | 1 << o.request,
            broken=L.broken + max(0, overdrawn - found),
            **changes,
        )

    def _beyond(self, L: Ledger, o: Op) -> int:
        """What a sale takes from promises, by the ledger's rows."""
        return max(0, o.quantity - max(0, L.available - self.active(L)))

    def do_sale(self, s: World, i: int, o: Op, t: Attempt) -> Iterator[Transition]:
        """A fact: takes regardless; goes past a gate that it cannot have, and raises the epoch in that commit."""
        L, p, c = s.ledger, self.p, o.claim
        done = L.done >> o.request & 1
        if t[0] == "undo":
            yield from self._undo(s, i, o, t)
            return
        if p.sale == "delta":
            if not done:
                M = self._consume(L, o, self._beyond(L, o))
                M = M._replace(deltas=(*M.deltas, (-o.quantity, self._stamp(L))))
                yield Step.CONSUME, f"{o.name}: commits first", self._go(s, i, END, ledger=M)
            return
        if t[0] == "start":
            yield from self._ask(s, i, o, forced=True)
        elif done:
            text = f"{o.name}: the request is committed, gives the first answer"
            yield Step.CONSUME, text, self._go(s, i, END if L.rows[c] == "C" else ("undo", t[1], t[2]))
        elif L.rows[c] != "-" and p.ids == "derived":
            why = "POSSESSION WINS: a sale in hand is refused, its id was closed as an orphan"
            yield Step.CONSUME, f"{o.name}: commit conflicts with the tombstone", why
        elif L.rows[c] != "-" or L.is_closed or (p.decrease_checks_epoch and t[1] != L.epoch):
            yield Step.CONSUME, f"{o.name}: ledger refuses the claim", self._go(s, i, ("undo", t[1], t[2]))
        else:
            over = {"gate": t[2], "ledger": self._beyond(L, o), "both": max(t[2], self._beyond(L, o))}[p.overdraw]
            M = self._consume(L, o, over, rows=self._row(L, c, "C"))
            yield Step.CONSUME, f"{o.name}: ledger commits under epoch {L.epoch}", self._go(s, i, END, ledger=M)
        if not done and not L.is_closed:
            M = self._consume(L, o, self._beyond(L, o), epoch=L.epoch + (1 if p.bypass_raises else 0))
            yield Step.BYPASS, f"{o.name}: gate unreachable or outdated, commits past it", self._go(s, i, END, ledger=M)

    def do_transfer(self, s: World, i: int, o: Op, t: Attempt) -> Iterator[Transition]:
        """A decision: must pass ATP, and does not go past the gate."""
        L, c = s.ledger, o.claim
        undo = ("undo", t[1], t[2])
        if t[0] == "start":
            yield from self._ask(s, i, o)
        elif t[0] == "undo":
            yield from self._undo(s, i, o, t)
        elif t[0] == "refused":
            yield from self._refused(s, i, o, t)
        elif L.rows[c] == "C" and self.p.ids == "derived":
            yield Step.CONSUME, f"{o.name}: already committed", self._go(s, i, END)
        elif (
            L.done >> o.request & 1
            or L.rows[c] != "-"
            or L.is_closed
            or L.available < o.quantity
            or (self.p.ledger_counts and L.available - self.active(L) < o.quantity)
            or (self.p.decrease_checks_epoch and t[1] != L.epoch)
        ):
            yield Step.CONSUME, f"{o.name}: ledger refuses the commit", self._go(s, i, undo)
        else:
            M = self._consume(L, o, 0, rows=self._row(L, c, "C"))
            yield Step.CONSUME, f"{o.name}: ledger commits under epoch {L.epoch}", self._go(s, i, END, ledger=M)

    def do_read(self, s: World, i: int, o: Op, t: Attempt) -> Iterator[Transition]:
        """A read of ATP. `best`: the most that was free in the ledger at any moment of the read."""
        at, epoch, more = t
        if at == "start" and not self.p.asks_after:
            best = self._free(s.ledger)
            yield (
                Step.ASK,
                f"{o.name}: the ledger's epoch is {s.ledger.epoch}",
                self._go(s, i, ("asked", s.ledger.epoch, best)),
            )
        for g in s.gates if at in ("start", "asked") else ():
            if not self.usable(g):
                continue
            value, best = max(0, g.atp), max(self._free(s.ledger), more if at == "asked" else 0)
            text = f"{o.name}: gate {g.run} has {g.atp} under epoch {g.epoch}"
            if at == "start":
                yield Step.READ, text, self._go(s, i, ("seen", g.epoch, (value, best)))
            elif g.epoch == epoch:
                yield Step.READ, text, self._shown(value, best) or self._go(s, i, END)
        if at == "seen":
            value, best = more[0], max(more[1], self._free(s.ledger))
            is_shown = epoch == s.ledger.epoch or not self.p.reads_check_epoch
            bad = self._shown(value, best) if is_shown else None
            yield Step.ASK, f"{o.name}: the ledger's epoch is {s.ledger.epoch}", bad or self._go(s, i, END)

    def _free(self, L: Ledger) -> int:
        return max(0, L.available - self.active(L))

    @staticmethod
    def _shown(value: int, best: int) -> str | None:
        return f"ONE VIEW: a read shows {value}, there never were more than {best}" if value > best else None

    def do_rebuild(self, s: World, i: int, o: Op, t: Attempt) -> Iterator[Transition]:
        """Note the run, raise, only then begin the snapshot; load it once, into that run, over a lower epoch only."""
        L, p = s.ledger, self.p
        at, epoch, more = t
        if at == "start":
            for g in s.gates:
                if L.is_closed:
                    continue
                if p.raise_first:
                    M = self._raised(s)
                    text = f"{o.name}: meets gate {g.run}, epoch is {M.epoch} now"
                    yield Step.RAISE, text, self._go(s, i, ("raised", M.epoch, g.run), ledger=M)
                else:
                    seen = ("read", 0, (g.run, self._snapshot(L)))
                    yield Step.SNAPSHOT, f"{o.name}: reads its snapshot first", self._go(s, i, seen)
        elif at == "read":
            M = self._raised(s)
            text = f"{o.name}: raises the epoch to {M.epoch}"
            yield Step.RAISE, text, self._go(s, i, ("load", M.epoch, more), ledger=M)
        elif at == "raised":
            snapshot = self._snapshot(L)
            text = f"{o.name}: reads its snapshot (atp {snapshot[0]})"
            yield Step.SNAPSHOT, text, self._go(s, i, ("load", epoch, (more, snapshot)))
        else:
            for n, g in enumerate(s.gates):
                if g.run == more[0] or not p.load_once:
                    yield from self._load(s, i, o, t, n, g)

    def _raised(self, s: World) -> Ledger:
        if not self.p.raise_always and all(g.epoch != s.ledger.epoch for g in s.gates):
            return s.ledger
        return s.ledger._replace(epoch=s.ledger.epoch + 1)

    def _snapshot(self, L: Ledger) -> tuple[int, int, int]:
        """ATP, claims held, and how far the deltas are in it."""
        committed = [n + 1 for n, (_, x) in enumerate(L.deltas) if x >= 0]
        if self.p.deltas != "log":
            mark = sum(1 << d for d, (_, settled) in enumerate(L.deltas) if not settled)
        else:
            mark = len(committed) if self.p.number_locked else max(committed, default=0)
        holds = sum(1 << c for c in range(self.claims) if L.rows[c] in ACTIVE)
        return L.available - self.active(L), holds, mark

    def _load(self, s: World, i: int, o: Op, t: Attempt, n: int, g: Gate) -> Iterator[Transition]:
        p = self.p
        at, epoch, more = t
        run, (atp, holds, mark) = more

        def put(where: str, h: Gate) -> World:
            return self._go(s, i, END if where == "end" else (where, epoch, more), gates=replaced(s.gates, n, h))

        if p.load == "script":
            if g.epoch < epoch or not p.load_guard:
                h = Gate(g.run, True, epoch, atp, holds, mark)
                text = f"{o.name}: loads gate {g.run} under epoch {epoch} (atp {atp})"
                yield Step.LOAD, text, put("end" if p.load_once else at, h)
            else:
                yield Step.LOAD, f"{o.name}: load refused (epoch)", put("end", g)
        elif at == "load":
            text = f"{o.name}: begins to load gate {g.run} under epoch {epoch}"
            is_ok = epoch > max(g.epoch, g.loading)
            yield Step.BEGIN, text, put("part 1", g._replace(epoch=0, loading=epoch)) if is_ok else put("end", g)
        elif g.loading != epoch and p.load == "parts":
            yield Step.PART, f"{o.name}: {at} refused", put("end", g)
        elif at == "part 1":
            yield Step.PART, f"{o.name}: loads part 1 (atp {atp})", put("part 2", g._replace(atp=atp, mark=mark))
        elif at == "part 2":
            yield Step.PART, f"{o.name}: loads part 2 (holds)", put("publish", g._replace(holds=holds))
        elif epoch > g.epoch:
            h = g._replace(epoch=epoch, is_own=g.run == run, loading=0)
            yield Step.PUBLISH, f"{o.name}: publishes epoch {epoch}", put("end", h)
