"""What is broken when, in a simulation: a plan made from the seed alone, before anything runs.

Faults at one target never overlap; those at different targets may, and in brutal runs mostly do.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

ALL = "all"
"""The target's number where a fault hits every server, client or link of that sort."""


class Level(Enum):
    """How much is broken."""

    NONE = "none"
    DEFAULT = "default"  # what a test run can afford
    BRUTAL = "brutal"  # one after another, overlapping


class Kind(Enum):
    """What a fault does; its value is what a report calls it."""

    KILL_SERVER = "kill_server"
    PAUSE_SERVER = "pause_server"
    PAUSE_CLIENT = "pause_client"
    KILL_GATE_KEPT = "kill_gate_kept_data"  # started again with all it had
    KILL_GATE_STALE = "kill_gate_stale_data"  # started again with what it had some seconds earlier
    KILL_GATE_EMPTY = "kill_gate_no_data"
    PAUSE_GATE = "pause_gate"
    FLUSH_GATE = "flush_gate"
    FLUSH_FUNCTIONS = "flush_gate_functions"
    KILL_LEDGER = "kill_postgres"  # the postmaster and all its children
    PAUSE_LEDGER = "pause_postgres"
    CUT = "cut"  # open connections end; new ones end at once, too
    SLOW = "slow"  # every piece of every message is late
    HOLD = "hold"  # nothing passes, and all of it arrives late, in order
    BLACK_HOLE = "black_hole"  # connections are accepted, nothing passes, and nothing of it ever arrives
    CUT_ANSWERS = "cut_answers"  # requests pass; at the answer the connection ends
    CLOCK_NEARER = "deadlines_nearer"
    CLOCK_FURTHER = "deadlines_further"


class Span(NamedTuple):
    """From and to, in seconds."""

    least: float
    most: float


LINKS = ("clients", "ledger", "gate", "payments")
"""Clients to servers, servers to PostgreSQL, to Valkey or Redis, to the gateway that charges cards."""

_LINK_KINDS = (Kind.CUT, Kind.SLOW, Kind.HOLD, Kind.BLACK_HOLE, Kind.CUT_ANSWERS)
# A gateway's answer comes late, or never, or what it did is asked for twice.
_PAYMENT_KINDS = (Kind.HOLD, Kind.BLACK_HOLE, Kind.CUT_ANSWERS)

_DECK: Sequence[tuple[Kind, str, int]] = (
    (Kind.KILL_SERVER, "server", 3),
    (Kind.PAUSE_SERVER, "server", 2),
    (Kind.PAUSE_CLIENT, "client", 1),
    (Kind.KILL_GATE_KEPT, "gate-server", 1),
    (Kind.KILL_GATE_STALE, "gate-server", 2),
    (Kind.KILL_GATE_EMPTY, "gate-server", 1),
    (Kind.PAUSE_GATE, "gate-server", 1),
    (Kind.FLUSH_GATE, "gate-server", 1),
    (Kind.FLUSH_FUNCTIONS, "gate-server", 1),
    (Kind.KILL_LEDGER, "postgres", 2),
    (Kind.PAUSE_LEDGER, "postgres", 1),
    *((kind, link, 1) for link in LINKS for kind in (_PAYMENT_KINDS if link == "payments" else _LINK_KINDS)),
    (Kind.CLOCK_NEARER, "deadlines", 1),
    (Kind.CLOCK_FURTHER, "deadlines", 1),
)
"""Each kind, where it strikes, and how many cards it has."""

# How long what it does lasts: for a kill, how long the process stays away.
_LASTS = {
    Kind.KILL_SERVER: Span(0.0, 0.0),  # started again as soon as somebody looks
    Kind.PAUSE_SERVER: Span(0.5, 8.0),
    Kind.PAUSE_CLIENT: Span(0.5, 6.0),
    Kind.KILL_GATE_KEPT: Span(0.0, 3.0),
    Kind.KILL_GATE_STALE: Span(0.0, 3.0),
    Kind.KILL_GATE_EMPTY: Span(0.0, 3.0),
    Kind.PAUSE_GATE: Span(0.3, 5.0),
    Kind.FLUSH_GATE: Span(0.0, 0.0),
    Kind.FLUSH_FUNCTIONS: Span(0.0, 0.0),
    Kind.KILL_LEDGER: Span(0.0, 3.0),
    Kind.PAUSE_LEDGER: Span(0.3, 5.0),
    Kind.CUT: Span(0.0, 3.0),
    Kind.SLOW: Span(1.0, 6.0),
    Kind.HOLD: Span(0.3, 8.0),
    Kind.BLACK_HOLE: Span(0.5, 6.0),
    Kind.CUT_ANSWERS: Span(0.5, 3.0),
    Kind.CLOCK_NEARER: Span(0.0, 0.0),
    Kind.CLOCK_FURTHER: Span(0.0, 0.0),
}
AGE = Span(1.0, 6.0)
"""How old stale data is when the gate comes back with it."""
DELAY = Span(0.02, 0.4)
"""How late every piece is on a link that is slow."""
STEP = Span(2.0, 10.0)
"""How far a step of the clock moves deadlines."""
SHARE_OF_ALL = 0.25
"""How often a fault hits all servers, or all of a link's connections, and not those of one server."""


class Pace(NamedTuple):
    """How dense the faults of a level are."""

    gap_seconds: float
    """From the begin of one fault to that of the next, on average."""
    seconds_max: float
    """The longest that anything lasts."""
    share_together: float
    """How many begin together with the one before, within TOGETHER_SECONDS."""


_PACES = {Level.DEFAULT: Pace(1.5, 1.5, 0.0), Level.BRUTAL: Pace(2.6, 8.0, 0.3)}
TOGETHER_SECONDS = 0.5
QUIET_AT_START_SECONDS = 1.0
QUIET_SHARE_AT_END = 0.1
QUIET_AT_END_SECONDS_MIN = 5.0
"""Faults are over this long before the load is, so that calls are acknowledged after the last of them."""


@dataclass(frozen=True)
class Fault:
    """One fault. `time` is seconds after the load began; it is over, and what it broke is mended, `seconds` later.

    `age_seconds`: for stale data, how long before the kill it was saved. The fault begins with the saving.
    `amount`: seconds by which a link is late, or by which deadlines move.
    """

    time: float
    kind: Kind
    target: str
    seconds: float
    age_seconds: float = 0.0
    amount: float = 0.0

    @property
    def end(self) -> float:
        """When it is over."""
        return self.time + self.age_seconds + self.seconds

    def to_json(self) -> dict[str, Any]:
        """For a report."""
        content = {"time": self.time, "kind": self.kind.value, "target": self.target, "seconds": self.seconds}
        if self.age_seconds:
            content["age_seconds"] = self.age_seconds
        if self.amount:
            content["amount"] = self.amount
        return content


def quiet_seconds(seconds: float) -> float:
    """How long before the end of a load of that length the faults are over."""
    return max(QUIET_AT_END_SECONDS_MIN, QUIET_SHARE_AT_END * seconds)


def plan_faults(level: Level, *, seed: int, seconds: float, servers: int, clients: int) -> list[Fault]:
    """The faults of a run in order of time: always the same for the same arguments."""
    if level is Level.NONE:
        return []
    pace = _PACES[level]
    chance = random.Random(f"{seed} {level.value} {seconds} {servers} {clients}")
    last = seconds - quiet_seconds(seconds)
    free_from: dict[str, float] = {}
    cards: list[tuple[Kind, str]] = []
    faults: list[Fault] = []
    count = int((last - QUIET_AT_START_SECONDS) / pace.gap_seconds)
    for n in range(count):
        begin = QUIET_AT_START_SECONDS + (n + 0.8 * chance.random()) * pace.gap_seconds
        if faults and chance.random() < pace.share_together:
            begin = faults[-1].time + TOGETHER_SECONDS * chance.random()
        if len(cards) < len(_DECK):
            more = [(kind, where) for kind, where, copies in _DECK for _ in range(copies)]
            chance.shuffle(more)
            cards += more
        # What cannot strike now, since another fault is still there, keeps its place in the deck.
        card = next((c for c in cards if free_from.get(c[1], 0.0) <= begin), None)
        if card is None:
            continue
        cards.remove(card)
        kind, where = card
        age = round(chance.uniform(*AGE), 3) if kind is Kind.KILL_GATE_STALE else 0.0
        lasts = _LASTS[kind]
        drawn = lasts.least + (lasts.most - lasts.least) * chance.random() ** 2  # more often short
        left = max(0.0, last - begin)
        age = min(age, round(left / 2, 3), pace.seconds_max)
        length = round(min(drawn, pace.seconds_max, left - age), 3)
        fault = Fault(
            time=round(begin, 3),
            kind=kind,
            target=_target(where, chance, servers=servers, clients=clients),
            seconds=length,
            age_seconds=age,
            amount=round(chance.uniform(*_amount(kind)), 3),
        )
        free_from[where] = fault.end + pace.gap_seconds / 4
        faults.append(fault)
    return faults


def _amount(kind: Kind) -> Span:
    if kind is Kind.SLOW:
        return DELAY
    return STEP if kind in (Kind.CLOCK_NEARER, Kind.CLOCK_FURTHER) else Span(0.0, 0.0)


def _target(where: str, chance: random.Random, *, servers: int, clients: int) -> str:
    """`server/0`, `gate/all` and the like; there is one PostgreSQL, one Valkey and one set of deadlines."""
    if where == "client":
        return f"client/{chance.randrange(clients)}"
    if where == "server" or where in LINKS:
        return f"{where}/{ALL if chance.random() < SHARE_OF_ALL else chance.randrange(servers)}"
    return where
