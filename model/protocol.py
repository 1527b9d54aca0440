"""The protocol between the gate (Redis) and the ledger (PostgreSQL) at one location, for one sku.

  attempt   One execution of a request by one server process, under a claim id of its own. A call of the code that claims anew,
            and a call that is repeated, are further attempts of the request, at any time, also while the first is stalled.
  messages  What a row in a final state permits (forget, give back) and what a committed delta permits (apply) stays
            permitted for ever, so these are steps that anyone may take at any time, again and again, however late.
  time      Nondeterministic: any active reservation may expire at any moment, unless it has been extended.
  gate      May at any moment lose everything, restart with an older state, or split in two (both reachable by all).
            `saved` is the older state: the gate as it was at any earlier moment. A new instance has a new run id, which
            stands for the code's run id *and* replication id: a fail-over and back is a restart with an older state.
  bypass    A sale may at any moment find the gate unreachable. A rebuilder may start at any moment, on any gate, for any
            reason (an untrusted gate met, a settlement not reached, a difference to repair); it need not.

What is checked in every reachable state: see `broken` (safety) and `recover` (no permanent leak). The switches in `Rules`
(model/world.py) default to the protocol as it is; a mutant turns one back to another reading of the design.

What the code has and this has not, and why it may be left out
  rounds          Many takes in one script, many rows in one insert: fewer interleavings than one by one.
  hints           When the sweeper looks at a claim: here at any time.
  attempts_max    A call gives up at some time: an attempt that is never scheduled again.
  body hashes     A request with another body is refused before anything is done.
  thresholds      A claim judged by an old policy version is refused by the ledger like one of an old epoch, and undone.
  safety stock    A floor under ATP, in the same deltas as increases: a reservation asks for more, nothing else changes.
  relay in two    Reading deltas, applying them later: a delta never changes, and is applied by its number only.
  greatest(...)   A raise also goes over the gate's own epoch: only a ledger that was set back (a backup) has a lower one.
  shortfalls      An increase counts for what is left after it covered them.
  lost raises     A PostgreSQL failover that loses a committed raise: the ledger's standby is synchronous.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from model.attempts import Attempts
from model.canonical import canonical
from model.events import Events
from model.search import State, Transition, replaced
from model.world import ACTIVE, World


class Model(Attempts, Events):
    """A scenario under rules: what may happen next, and what must hold."""

    def steps(self, s: World) -> Iterator[Transition]:
        """Whatever may happen next."""
        for transition in self._steps(s):
            after = transition[2]
            if self.reads and not isinstance(after, str) and after.ledger is not s.ledger:
                transition = (*transition[:2], self._watched(after))
            yield transition

    def _steps(self, s: World) -> Iterator[Transition]:
        for i, (o, t) in enumerate(zip(self.ops, s.attempts, strict=True)):
            if t[0] != "end":
                yield from getattr(self, "do_" + o.kind)(s, i, o, t)
        yield from self._row_events(s)
        yield from self._gate_events(s)
        if self.increases:
            yield from self._increases(s)
        if "V" in self.events:
            yield from self._answers(s)
        yield from self._deletion(s)
        yield from self._faults(s)

    def _watched(self, s: World) -> World:
        """Readers under way see the ledger move."""
        free, attempts = self._free(s.ledger), s.attempts
        for i, (at, epoch, more) in enumerate(attempts):
            if at == "seen":
                attempts = replaced(attempts, i, (at, epoch, (more[0], max(more[1], free))))
            elif at == "asked":
                attempts = replaced(attempts, i, (at, epoch, max(more, free)))
        return s._replace(attempts=attempts)

    # ------------------------------------------------------------------------------------------------------ invariants
    def broken(self, s: World) -> str | None:
        """The rule of docs/architecture.md that a state breaks."""
        L = s.ledger
        if min(L.available, L.allocated, L.gone) < 0:
            return "CONSERVATION: a bucket is negative"
        if L.available + L.allocated + L.gone != L.received:
            return "CONSERVATION: units appear or vanish"
        active = self.active(L)
        free = L.available - active
        if free < -L.broken:
            return (
                f"NO OVERSELL, KEPT PROMISE: active reservations {active} > available {L.available} (+ {L.broken} told)"
            )
        if L.is_closed and (L.available or L.allocated or active):
            return "KEPT PROMISE: units are booked or promised at a deleted location"
        effects = [self.request_of[c] for c in range(self.claims) if L.rows[c] not in "-T"]
        if len(effects) != len(set(effects)):
            return "EXACTLY ONCE: two effects of one request"
        for g in s.gates:
            if self.trusted(g, L) and g.atp > free and self.p.safe_direction:
                return f"SAFE DIRECTION: trusted gate {g.run} promises {g.atp}, ledger has {free}"
            shown = self.trusted(g, L) if self.p.reads_check_epoch else self.usable(g)
            if shown and self.p.safe_direction and g.atp > free:
                return f"ONE VIEW: a read from gate {g.run} shows {g.atp}, ledger has {free}"
            if shown and (s.answered or s.returned) and self.lacks_answered(s, g):
                return f"ONE VIEW: a read from gate {g.run} lacks an answered increase"
        return self.recover(s)

    def recover(self, s: World) -> str | None:
        """All processes die here; sweeper and relay then run to the end. A gate nobody trusts is rebuilt: clean."""
        L = s.ledger
        for g in s.gates:
            if not self.trusted(g, L):
                continue
            atp, held = g.atp, 0
            for c, row in enumerate(L.rows):
                if g.holds >> c & 1:
                    if row in ACTIVE:
                        held |= 1 << c
                    elif row in "-RXT":
                        atp += self.quantity[c]
                elif row in ACTIVE and self.p.safe_direction:
                    return f"LEAK: an active reservation has no hold in trusted gate {g.run}"
            if self.p.deltas == "log":
                atp += sum(q for q, x in L.deltas[g.mark :] if x >= 0)
            else:
                atp += sum(q for d, (q, settled) in enumerate(L.deltas) if not settled and not g.mark >> d & 1)
            want = L.available - self.active(L)
            if atp != want and (self.p.safe_direction or atp < want):
                return f"LEAK: after recovery gate {g.run} has {atp}, ledger has {want}"
        return None

    def canonical(self, s: State) -> Hashable:
        """One state for all that nothing can tell apart from here on."""
        return canonical(self, s)
