"""What a state of the protocol is made of, and the rules that may differ."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from model.search import replaced


@dataclass(frozen=True)
class Rules:
    """The protocol, and what it could be taken for."""

    ids: str = "fresh"  # claim id: fresh for every attempt | derived from the request id
    conflict: str = "undo"  # derived ids, on a conflict: undo | undo_if_i_took | undo_if_closed | leave
    decrease_checks_epoch: bool = True  # the commit of a decrease checks the epoch as a journal insert does
    deltas: str = "log"  # log: numbered, applied in order | set: applied ids until settled | keep: for the whole epoch
    number_locked: bool = True  # log: the number comes from a row locked until commit | from a sequence
    settle_checks_epoch: bool = True  # set, keep: settle only while the ledger is under the epoch applied under
    undo_unknown: bool = False  # undo the gate also when the outcome of the insert is unknown
    refusal_reads_ledger: bool = True  # the gate refuses: look for the request in the ledger before answering
    doubts: str = (
        "data"  # a refusal counts under the ledger's epoch: of the data that refused | of the gate now | nothing
    )
    tombstone: bool = True  # close an orphan in the ledger before giving it back
    epoch_from_gate: bool = True  # the epoch checked by the ledger is the one the gate's data had
    insert_checks_epoch: bool = True
    identity: bool = True  # a gate whose data was not loaded into this run id is not used
    raise_first: bool = True  # rebuild: raise commits, then the snapshot begins
    raise_always: bool = True  # every rebuild raises | reuse an epoch that somebody raised and nobody loaded
    load_guard: bool = True  # load only over a lower epoch
    load_once: bool = True  # the load is bound to the gate instance it was meant for (no resend elsewhere)
    load: str = "script"  # script: one atomic load | parts: begin, parts, publish | parts_unchecked
    bypass_raises: bool = True
    change: str = "both"  # change of quantity: hold both until the ledger swapped them | swap in the gate
    expire_by: str = "ledger"  # whose deadline decides an expiry: ledger | gate (which may not know an extension)
    sale: str = "claim"  # a decrease takes in the gate first | commit first with a negative delta
    overdraw: str = "gate"  # a sale under a claim knows what it broke by the gate | by the ledger's rows | by both
    found_delta: bool = True  # a `found` movement writes a delta like every other increase
    reads_check_epoch: bool = True  # a read from a gate counts only if the ledger is still under the gate's epoch
    asks_after: bool = True  # the ledger is asked for that epoch after the gate was read | beside it, in any order
    answer_checks_epoch: bool = True  # answered once applied, or given back, under the commit's epoch or a later one
    answer_waits: bool = True  # also the answer of a repeat waits until its increase is applied
    close_raises: bool = True  # deleting a location ends its epoch for good: nothing commits there after it
    ledger_counts: bool = False  # the insert also checks available - active >= quantity in the ledger
    safe_direction: bool = True  # check invariant 5 (off only to see what ledger_counts alone keeps)


class Op(NamedTuple):
    """One attempt."""

    kind: str  # reserve | sale | transfer | change | rebuild | read
    name: str
    claim: int = -1
    request: int = -1
    quantity: int = 1
    old: int = -1  # change: the claim it replaces


class Ledger(NamedTuple):
    """What PostgreSQL has committed."""

    epoch: int
    available: int
    allocated: int
    gone: int  # sold, or transferred out
    received: int
    broken: int  # promised units that sales said they took
    rows: str  # a letter a claim: - none, A active, E active and extended, C confirmed or consumed,
    #            K confirmed then cancelled, R released, X expired, T tombstone
    deltas: tuple[
        tuple[int, int], ...
    ]  # (quantity, epoch under which settled or 0; log: under which committed, -1 not yet)
    done: int  # bit a request: its decrease is committed
    released: tuple[tuple[int, int], ...] = ()  # (claim, epoch under which), where answers are looked at
    is_closed: bool = False


class Gate(NamedTuple):
    """An instance of Redis, as far as this location is in it."""

    run: int  # run id of the instance
    is_own: bool  # its data was loaded into this run
    epoch: int  # 0: empty
    atp: int
    holds: int  # bit a claim
    mark: int  # log: deltas applied; set, keep: bit a delta applied
    loading: int = 0  # load=parts: the epoch being loaded


class World(NamedTuple):
    """A state."""

    ledger: Ledger
    gates: tuple[Gate, ...]
    saved: Gate | None
    attempts: tuple[tuple[str, int, Any], ...]  # (where it is, epoch, more)
    faults: int
    increases: int
    runs: int
    answered: int = 0  # bit a delta whose commit was answered (events: V)
    returned: int = 0  # bit a claim whose release was answered (events: V)


Attempt = tuple[str, int, Any]
"""Where it is, the epoch that it goes by, and more."""
START: Attempt = ("start", 0, 0)
END: Attempt = ("end", 0, 0)
OLD = -2
"""An epoch that is not the ledger's, and never will be again."""
ACTIVE, GIVE_BACK, FORGET = "AE", "RXT", "CK"
HAD_EFFECT, LACKS_ANSWERED = 1, 2  # what makes a refusal wrong


@dataclass
class Base:
    """A scenario under rules: what is in it, and the words that its steps share."""

    p: Rules = field(default_factory=Rules)
    units: int = 1
    reserve: tuple[Any, ...] = ()  # one entry a request: (quantity, attempts)
    sale: tuple[Any, ...] = ()
    transfer: tuple[Any, ...] = ()
    change: tuple[Any, ...] = ()  # (index of the reservation replaced, new quantity, attempts)
    rebuilds: int = 0
    reads: int = 0
    increases: tuple[int, ...] = ()  # quantities
    faults: int = 0
    kinds: str = "lost stale split"
    events: str = (
        "CX"  # an active row: Confirm, Release, eXpire, Extend, K = cancel; V = answers; D = delete the location
    )

    def __post_init__(self) -> None:
        self.ops: list[Op] = []
        self.groups: list[list[range]] = []  # of requests that are alike, the attempts of each
        claims, request = 0, 0
        first: list[int] = []
        for kind in ("reserve", "sale", "transfer", "change"):
            alike: dict[Any, list[range]] = {}
            for entry in getattr(self, kind):
                *head, attempts = entry
                old, quantity = (first[head[0]], head[1]) if kind == "change" else (-1, head[0])
                if kind == "reserve":
                    first.append(claims)
                alike.setdefault(entry, []).append(range(claims, claims + attempts))
                for a in range(attempts):
                    if self.p.ids == "derived" and a:
                        claims -= 1
                    self.ops.append(Op(kind, f"{kind} r{request} attempt {a + 1}", claims, request, quantity, old))
                    claims += 1
                request += 1
            self.groups += alike.values()
        if self.p.ids == "derived" or self.change or "V" in self.events:
            self.groups = []  # where claims are not interchangeable
        if all(len(g) == 1 and len(g[0]) == 1 for g in self.groups) and self.rebuilds < 2:
            self.groups = []
        self.in_order = list(range(claims))
        self.is_checked = self.p.ids == "fresh" and self.p.insert_checks_epoch and self.p.decrease_checks_epoch
        self.quantity = [0] * claims
        self.request_of = [0] * claims
        self.soft = [False] * claims  # claims that become reservations
        for o in self.ops:
            self.quantity[o.claim], self.request_of[o.claim] = o.quantity, o.request
            self.soft[o.claim] = o.kind in ("reserve", "change")
        self.first_other = len(self.ops)
        self.ops += [Op("rebuild", f"rebuilder {i + 1}") for i in range(self.rebuilds)]
        self.ops += [Op("read", f"reader {i + 1}") for i in range(self.reads)]
        self.claims = claims

    def initial(self) -> World:
        """A gate that was just loaded from a ledger where nothing is promised."""
        u = self.units
        ledger = Ledger(1, u, 0, 0, u, 0, "-" * self.claims, (), 0)
        return World(ledger, (Gate(1, True, 1, u, 0, 0),), None, (START,) * len(self.ops), self.faults, 0, 1)

    # -------------------------------------------------------------------------------------------------- small helpers
    def active(self, L: Ledger) -> int:
        """Units that active reservations hold."""
        return sum(q for q, r in zip(self.quantity, L.rows, strict=True) if r in ACTIVE)

    def usable(self, g: Gate) -> bool:
        """Whether the scripts of a gate use its data."""
        return g.epoch > 0 and (g.is_own or not self.p.identity)

    def trusted(self, g: Gate, L: Ledger) -> bool:
        """Whether the ledger stands by a gate's data."""
        return g.epoch == L.epoch and self.usable(g)

    def row_of_request(self, L: Ledger, request: int) -> int:
        """The claim under which the request had its effect, or -1."""
        for c in range(self.claims):
            if self.request_of[c] == request and L.rows[c] not in "-T":
                return c
        return -1

    def lacks_answered(self, s: World, g: Gate) -> bool:
        """Whether a gate does not show what was answered."""
        return any(s.answered >> d & 1 and g.mark <= d for d in range(len(s.ledger.deltas))) or bool(
            g.holds & s.returned
        )

    def _stamp(self, L: Ledger) -> int:
        return L.epoch if self.p.deltas == "log" and "V" in self.events else 0

    @staticmethod
    def _row(L: Ledger, c: int, letter: str) -> str:
        return L.rows[:c] + letter + L.rows[c + 1 :]

    def _release(self, L: Ledger, c: int) -> Ledger:
        released = (*L.released, (c, L.epoch)) if "V" in self.events else ()
        return L._replace(rows=self._row(L, c, "R"), released=released)

    @staticmethod
    def _go(s: World, i: int, at: Attempt, **changes: Any) -> World:
        return s._replace(attempts=replaced(s.attempts, i, at), **changes)

    @staticmethod
    def _take(g: Gate, c: int, quantity: int) -> Gate:
        return g if g.holds >> c & 1 else g._replace(atp=g.atp - quantity, holds=g.holds | 1 << c)

    def _drop(self, g: Gate, c: int, give_back: bool) -> Gate:
        if not g.holds >> c & 1:
            return g
        return g._replace(atp=g.atp + (self.quantity[c] if give_back else 0), holds=g.holds & ~(1 << c))
