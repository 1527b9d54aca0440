"""States that nothing can tell apart from here on are one state: this is what makes the search fit into a test run.

runs      Named by their place: only "the same instance" matters. A load meant for a run that is gone is over.
epochs    Named by their order: only which is lower, and which is the ledger's, matters.
claims    Interchangeable attempts of a request, and requests that are alike, are put in one order. A claim that is over and
          that no gate can bring back has one of two letters: had an effect, or not.
totals    What left `available` for good is taken off what was received.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from model.world import END, OLD, Attempt, Gate, Ledger, World

if TYPE_CHECKING:
    from model.protocol import Model

UNDO: Attempt = ("undo", 0, 0)
WITH_SNAPSHOT = frozenset({"read", "load", "part 1", "part 2", "publish"})
"""Where a rebuilder is when it carries (run, (atp, holds, mark))."""


def canonical(m: Model, s: World) -> World:
    """One state for all that are alike."""
    ledger, gates, saved, attempts, faults, increases, _, answered, returned = s
    epoch, available, allocated, gone, received, broken, rows, deltas, done, released, is_closed = ledger
    attempts = _attempts(m, attempts, epoch, gates)
    gates = tuple([g if g.run == n else g._replace(run=n) for n, g in enumerate(gates, 1)])
    if not faults:
        saved = None
    elif saved is not None and saved.run:
        saved = saved._replace(run=0, is_own=False)
    if answered:
        deltas = tuple([(q, 0 if answered >> d & 1 else x) for d, (q, x) in enumerate(deltas)])
    if returned:
        released = tuple([(c, 0 if returned >> c & 1 else x) for c, x in released])

    # Claims that are over.
    alive = returned
    for g in gates:
        alive |= g.holds
    if saved is not None:
        alive |= saved.holds
    for i, (at, _, more) in enumerate(attempts):
        if i < m.first_other:
            if at != "end":
                alive |= 1 << m.ops[i].claim
        elif at in WITH_SNAPSHOT:
            alive |= more[1][1]
    letters = []
    allocated_now = promised = 0
    for c, row in enumerate(rows):
        if row == "C":
            if m.soft[c] and "K" in m.events:
                allocated_now += m.quantity[c]
            elif not alive >> c & 1:
                row = "X"
        elif row in "AE":
            promised += m.quantity[c]
        elif not alive >> c & 1:
            row = "T" if row in "-T" else "X"
        elif m.soft[c]:
            promised += m.quantity[c]
        letters.append(row)
    rows = "".join(letters)

    # Epochs by rank. 0 (empty), -1 (not committed) and OLD stay.
    epochs = {epoch}
    for g in gates:
        epochs.add(g.epoch)
        epochs.add(g.loading)
    if saved is not None:
        epochs.add(saved.epoch)
        epochs.add(saved.loading)
    for t in attempts:
        epochs.add(t[1])
    for _, x in deltas:
        epochs.add(x)
    for _, x in released:
        epochs.add(x)
    ranked = sorted([e for e in epochs if e > 0])
    if epoch != len(ranked):
        rank = {0: 0, -1: -1, OLD: OLD}
        for n, e in enumerate(ranked, 1):
            rank[e] = n
        epoch = rank[epoch]
        gates = tuple([g._replace(epoch=rank[g.epoch], loading=rank[g.loading]) for g in gates])
        if saved is not None:
            saved = saved._replace(epoch=rank[saved.epoch], loading=rank[saved.loading])
        attempts = tuple([(at, rank[e], more) for at, e, more in attempts])
        deltas = tuple([(q, rank[x]) for q, x in deltas])
        released = tuple([(c, rank[x]) for c, x in released])

    if m.groups:
        rows, gates, saved, attempts, done = _ordered(m, rows, gates, saved, attempts, done)
    received += allocated_now - gone - allocated
    broken = min(broken, promised)
    ledger = Ledger(epoch, available, allocated_now, 0, received, broken, rows, deltas, done, released, is_closed)
    return World(ledger, gates, saved, attempts, faults, increases, len(gates), answered, returned)


def _attempts(m: Model, attempts: tuple[Attempt, ...], now: int, gates: tuple[Gate, ...]) -> tuple[Attempt, ...]:
    p, result = m.p, []
    for i, t in enumerate(attempts):
        at, epoch, more = t
        if at == "end" or at == "start":
            pass
        elif at == "undo":
            if p.ids == "fresh":
                t = UNDO
        elif at == "held":
            if m.is_checked:
                if epoch != now:
                    t = ("held", OLD, 0)
                elif more and m.ops[i].kind != "sale":
                    t = ("held", epoch, 0)
        elif at == "refused":
            if epoch != now and p.doubts == "data":
                t = ("refused", OLD, more)
        elif at == "seen":
            if epoch != now and p.reads_check_epoch:
                t = END
        elif at == "raised":
            t = ("raised", epoch, _place(more, gates))
            if not t[2] and p.load_once:
                t = END
        elif at in WITH_SNAPSHOT:
            place = _place(more[0], gates)
            if p.load_once and (not place or (at == "load" and p.load_guard and _is_late(epoch, gates[place - 1]))):
                t = END
            elif place != more[0]:
                t = (at, epoch, (place, more[1]))
        result.append(t)
    return tuple(result)


def _place(run: int, gates: tuple[Gate, ...]) -> int:
    for n, g in enumerate(gates, 1):
        if g.run == run:
            return n
    return 0


def _is_late(epoch: int, g: Gate) -> bool:
    """Whether a load will be refused: what a run was loaded with only grows."""
    return epoch <= g.epoch or epoch <= g.loading


def _ordered(m: Model, rows: str, gates: Any, saved: Any, attempts: Any, done: int) -> Any:
    """Attempts that are alike, and requests that are alike, in one order."""
    first_other = m.first_other
    others = attempts[first_other:]
    if m.rebuilds == 2 and others[1] < others[0]:
        others = (others[1], others[0])
        attempts = attempts[:first_other] + others
    holders = [g.holds for g in gates]
    if saved is not None:
        holders.append(saved.holds)
    for t in others:
        if t[0] in WITH_SNAPSHOT:
            holders.append(t[2][1][1])
    keys = []
    for c, row in enumerate(rows):
        bits = 0
        for h in holders:
            bits = bits << 1 | (h >> c & 1)
        keys.append((attempts[c], row, bits))
    order = m.in_order.copy()
    for group in m.groups:
        requests = []
        for claims in group:
            inner = list(claims)
            if len(inner) > 1:
                inner.sort(key=keys.__getitem__)
            requests.append(inner)
        if len(requests) > 1:
            requests.sort(key=lambda inner: [done >> m.request_of[inner[0]] & 1, [keys[c] for c in inner]])
        slots = [c for claims in group for c in claims]
        for slot, c in zip(slots, [c for inner in requests for c in inner], strict=True):
            order[slot] = c
    if order == m.in_order:
        return rows, gates, saved, attempts, done

    def moved(bits: int) -> int:
        result = 0
        for new, old in enumerate(order):
            result |= (bits >> old & 1) << new
        return result

    def reloaded(t: Attempt) -> Attempt:
        if t[0] not in WITH_SNAPSHOT:
            return t
        atp, holds, mark = t[2][1]
        return t[0], t[1], (t[2][0], (atp, moved(holds), mark))

    moved_done = 0
    for new, old in enumerate(order):
        moved_done |= (done >> m.request_of[old] & 1) << m.request_of[new]
    return (
        "".join([rows[c] for c in order]),
        tuple([g._replace(holds=moved(g.holds)) for g in gates]),
        None if saved is None else saved._replace(holds=moved(saved.holds)),
        (*[attempts[c] for c in order], *[reloaded(t) for t in others]),
        moved_done,
    )
