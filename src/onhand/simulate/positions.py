"""The history of each position as calls on one integer, its ATP before floors, for `linear`.

What is certain comes from the ledger (which calls had their effect, and when they were committed), the rest from the attempts.

- A take (reservation, sale, transfer out, ...) takes effect between the begin of its first attempt and its acknowledgement; if
  it never was acknowledged, its commit: the gate has a claim before the ledger has its row.
- A give (receipt, return, cancellation, release, ...) takes effect between its commit and its acknowledgement. Not acknowledged:
  the gate may hear of it later, from a relay or a sweeper, within GIVEN_SECONDS_MAX of time without a fault.
- An expiry the same, from the commit that closed the row; the deadline allows that commit, which `once` checks.
- Where an order may wait for units (a backorder limit), the integer is what may be promised with them: so what comes in counts
  whoever gets it, what stops being waited for counts besides, and what decisions and tills see there is not judged.
- An attempt may hold units that it does not get, or does not get yet: while it runs; and where its outcome is unknown, or a fault
  may have cut off what it wanted to give back, until the sweeper finds what it left, which is past its deadline. In the gate that
  is less to promise than there is, which is permitted. More than there is never is.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onhand.simulate.directory import Directory
from onhand.simulate.effects import COVERED
from onhand.simulate.facts import CLOCK_SLACK_SECONDS, Calm, ClaimRow, Ledger, Position
from onhand.simulate.history import OK, REFUSED, UNKNOWN, Record
from onhand.simulate.linear import Hold, Move, Read
from onhand.simulate.once import RESERVES, Call, Index
from onhand.simulate.order_effects import not_there
from onhand.v1 import types_pb2

NEVER = float("inf")
COMMIT_SECONDS_MAX = 3.0
"""How long after it took its time a commit may become visible, while PostgreSQL runs."""
GIVEN_SECONDS_MAX = 15.0
"""How long after its commit the gate may hear of what nobody was told yet, faults aside."""
CLAIM_SECONDS = 60.0
"""How long a decrease may hold units that it never took: after that the sweeper looks at its claim."""
SWEPT_SECONDS_MAX = 15.0
"""How long past its deadline a claim may wait for its sweeper, faults aside."""
COUNT_UNITS_MAX = 12
"""How many units a count of this workload may take at most (it counts 3 less than it read; others may move in between)."""

UNAVAILABLE, NOT_SENT = "UNAVAILABLE", "failed to connect to all addresses"
"""What gRPC says of a call that was never sent: there was no connection. It holds nothing."""

FILL_SECONDS = 5.0
"""How long before its commit a server may hold what it gives to who waits: its claim goes first."""

_DECISIONS = (
    "AdjustStock",
    "MoveStock",
    "DispatchTransfer",
    "DispatchRequestedTransfer",
    "SubstituteLine",
    "DecideShortfall",
    "ApplyOrderChange",
)
_FACTS = ("Sell", "CreateExchange")
_SHORT = re.compile(r"(\d+) requested, (\d+) available")


@dataclass
class History:
    """What happened at one position."""

    moves: list[Move] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    holds: list[Hold] = field(default_factory=list)


@dataclass
class Floors:
    """Units kept from online promise, as the set-up set them: before the first read, and never again."""

    safety: dict[Position, int] = field(default_factory=dict)
    thresholds: dict[tuple[int, str], int] = field(default_factory=dict)
    limits: dict[Position, int] = field(default_factory=dict)
    """How many units orders may wait for."""

    @classmethod
    def of(cls, records: Sequence[Record]) -> Floors:
        """From the history."""
        floors = cls()
        for record in records:
            request = record.request
            if record.kind == "SetStockPolicy":
                floors.safety[request.location_id, request.sku] = request.safety_stock
                if request.backorder_limit:
                    floors.limits[request.location_id, request.sku] = request.backorder_limit
            elif record.kind == "SetChannelThreshold":
                floors.thresholds[request.channel, request.sku] = request.quantity
        return floors

    def kept(self, channel: int, position: Position) -> int:
        """Units that a channel is not offered at a position."""
        if channel == types_pb2.CHANNEL_POS:
            return 0
        return self.safety.get(position, 0) + self.thresholds.get((channel, position[1]), 0)


def histories(
    records: Sequence[Record], found: Index, ledger: Ledger, calm: Calm, commits: Calm, stale: list[int]
) -> dict[Position, History]:
    """The history of every position. `stale` gets the number of reads that were marked stale, which say nothing of now."""
    return _Builder(Floors.of(records), found, ledger, calm, commits).build(records, stale)


class _Builder:
    def __init__(self, floors: Floors, found: Index, ledger: Ledger, calm: Calm, commits: Calm) -> None:
        self.floors, self.found, self.ledger, self.calm, self.commits = floors, found, ledger, calm, commits
        self.positions: dict[Position, History] = defaultdict(History)
        for position, units in floors.limits.items():
            self._move(position, Move(0.0, 0.0, units, None, "a backorder limit"))
        self.settled = self._settled()

    def build(self, records: Sequence[Record], stale: list[int]) -> dict[Position, History]:
        for call in self.found.calls.values():
            if call.row is not None:
                self._effect(call)
        for claims in self.found.claims_of.values():
            for claim in claims:
                if claim.state == "expired":
                    self._expired(claim)
        for call in self.found.calls.values():
            for attempt in call.attempts:
                self._hold(call, attempt)
        stale.append(0)
        for record in records:
            if record.kind == "GetAvailability" and record.outcome == OK:
                if record.answer.is_stale:
                    stale[0] += 1
                else:
                    self._shown(record)
            elif record.outcome == REFUSED and record.reason == "INSUFFICIENT_STOCK":
                self._refused(record)
        return self.positions

    # ------------------------------------------------------------------------------------------------------- effects
    def _settled(self) -> dict[tuple[str, int], float]:
        """By (location, transaction): when an increase was in the gate for certain. Delta n is applied after n - 1 only."""
        settled: dict[tuple[str, int], float] = {}
        for location_id, deltas in self.ledger.deltas.items():
            latest = NEVER
            for _, transaction in sorted(deltas, reverse=True):
                for call in self.found.by_transaction.get(transaction, ()):
                    latest = min(latest, call.acknowledged)
                settled[location_id, transaction] = latest
        return settled

    def _given(self, location_id: str, transaction: int, commit: float, acknowledged: float) -> float:
        """When what a commit gave was in the gate at the latest."""
        late = self.calm.after(commit, GIVEN_SECONDS_MAX)
        return min(acknowledged, self.settled.get((location_id, transaction), NEVER), late)

    def _effect(self, call: Call) -> None:
        row = call.row
        assert row is not None
        taken = min(call.acknowledged, self.commits.after(row.commit, COMMIT_SECONDS_MAX))
        if call.kind in RESERVES:
            self._reserved(call, taken)
        elif call.kind == "ChangeReservation":
            self._changed(call, taken)
        elif call.kind == "ReleaseReservation":
            for claim in self.found.claims_of.get(call.request.reservation_id, ()):
                if claim.transaction == row.transaction and claim.state == "released":
                    self._give(claim, row.commit, call.acknowledged, call)
        elif call.kind == "PlaceOrder":
            self._placed(call)
        elif call.kind == "FillBackorders":
            self._filled(call)
        else:
            self._moved(call, taken)

    def _reserved(self, call: Call, taken: float) -> None:
        for basket in call.answer.reservation.baskets:
            for line in basket.lines:
                position = basket.location_id, line.sku
                need = line.quantity + self.floors.kept(call.request.channel, position)
                self._move(position, Move(call.begin, taken, -line.quantity, need, call))

    def _changed(self, call: Call, taken: float) -> None:
        """The new lines are taken beside the old ones, which count as free; then the old ones are given back."""
        assert call.row is not None
        reservation_id, channel = call.request.reservation_id, call.answer.reservation.channel
        old: dict[Position, int] = {}
        for claim in self.found.claims_of.get(reservation_id, ()):
            if claim.transaction == call.row.transaction and claim.state == "released":
                old.update({(claim.location_id, sku): quantity for sku, quantity in claim.lines})
                self._give(claim, call.row.commit, call.acknowledged, call)
        for basket in call.answer.reservation.baskets:
            for line in basket.lines:
                position = basket.location_id, line.sku
                need = line.quantity - old.get(position, 0) + self.floors.kept(channel, position)
                self._move(position, Move(call.begin, taken, -line.quantity, need, call))

    def _moved(self, call: Call, taken: float) -> None:
        assert call.row is not None
        out: dict[Position, int] = defaultdict(int)
        into: dict[Position, int] = defaultdict(int)
        for ended in call.ends:
            if ended.cause == "BACKORDER":
                into[ended.location_id, ended.sku] += ended.quantity  # as many may be waited for again
        for m in call.movements:
            if m.reason == COVERED:
                into[m.location_id, m.sku] -= m.quantity  # the gate is told of what is left
            elif m.from_bucket == "available":
                out[m.location_id, m.sku] += m.quantity
            if m.to_bucket == "available":
                into[m.location_id, m.sku] += m.quantity
        for position, units in out.items():
            need = units if call.kind in _DECISIONS and position not in self.floors.limits else None
            self._move(position, Move(call.begin, taken, -units, need, call))
        for position, units in into.items():
            if not units:
                continue
            end = self._given(position[0], call.row.transaction, call.row.commit, call.acknowledged)
            begin = max(call.begin, call.row.commit - CLOCK_SLACK_SECONDS)
            self._move(position, Move(begin, max(begin, end), units, None, call))
            self._lag(position, begin, end, units)

    def _placed(self, call: Call) -> None:
        """What leaves `available` was held by the reservation: ATP does not change, but for what was lost to possession."""
        assert call.row is not None
        for work in call.answer.order.fulfillment_orders:
            skus = {line.line_number: line.sku for line in work.lines}
            for number, units in not_there(work, "LOST").items():
                end = self._given(work.location_id, call.row.transaction, call.row.commit, call.acknowledged)
                begin = max(call.begin, call.row.commit - CLOCK_SLACK_SECONDS)
                position = work.location_id, skus[number]
                self._move(position, Move(begin, max(begin, end), units, None, call))
                self._lag(position, begin, end, units)

    def _filled(self, call: Call) -> None:
        """What leaves `available` may be waited for again: in between, less may be shown."""
        assert call.row is not None
        for m in call.movements:
            end = self._given(m.location_id, call.row.transaction, call.row.commit, NEVER)
            begin = call.row.commit - FILL_SECONDS - CLOCK_SLACK_SECONDS
            self._lag((m.location_id, m.sku), begin, end, m.quantity)

    def _give(self, claim: ClaimRow, commit: float, acknowledged: float, label: Any) -> None:
        begin = commit - CLOCK_SLACK_SECONDS
        end = max(begin, min(acknowledged, self.calm.after(commit, GIVEN_SECONDS_MAX)))
        for sku, units in claim.lines:
            position = claim.location_id, sku
            self._move(position, Move(begin, end, units, None, label))
            self._lag(position, begin, end, units)

    def _expired(self, claim: ClaimRow) -> None:
        self._give(claim, claim.commit, NEVER, claim)

    def _move(self, position: Position, move: Move) -> None:
        self.positions[position].moves.append(move)

    def _lag(self, position: Position, begin: float, end: float, units: int) -> None:
        """What the ledger has and the gate not yet may be seen in one and then not in the other."""
        self.positions[position].holds.append(Hold(begin, end, units))

    # --------------------------------------------------------------------------------------------------------- holds
    def _hold(self, call: Call, attempt: Record) -> None:
        wants, seconds = _wants(call, attempt, self.found.directory)
        if not wants or (attempt.reason == UNAVAILABLE and NOT_SENT in attempt.detail.get("message", "")):
            return
        is_broken = self.calm.is_broken(attempt.begin, attempt.end)
        is_alone = len(call.attempts) == 1 and attempt.outcome == OK and not is_broken and call.kind not in _FACTS
        end = attempt.end
        if attempt.outcome == UNKNOWN or is_broken:
            end = self.calm.after(end, seconds + SWEPT_SECONDS_MAX) if end != NEVER else NEVER
        for position, units in wants.items():
            if not units:
                continue
            history, of = self.positions[position], None
            if is_alone:
                of = next((n for n, m in enumerate(history.moves) if m.label is call and m.delta < 0), None)
            if call.kind in ("CountStock", "ApproveCount", "SourceReservation"):  # any part of it, any number of times
                history.holds += [Hold(attempt.begin, end, 1)] * units
            else:
                history.holds.append(Hold(attempt.begin, end, units, of))

    # --------------------------------------------------------------------------------------------------------- reads
    def _shown(self, record: Record) -> None:
        for place in record.answer.locations:
            for item in place.items:
                position = place.location_id, item.sku
                if position in self.floors.limits and record.request.channel == types_pb2.CHANNEL_POS:
                    continue
                kept = self.floors.kept(record.request.channel, position)
                read = Read(record.begin, record.end, item.available_to_promise, kept, (0,), record)
                self.positions[position].reads.append(read)

    def _refused(self, record: Record) -> None:
        """A refusal for stock is a read of what could be had at that moment."""
        freed = self._freed(record)
        for subject, text in record.detail.get("shorts", ()):
            location_id, _, sku = subject.partition("/")
            match = _SHORT.fullmatch(text)
            if match is None:
                continue
            position = location_id, sku
            if position in self.floors.limits and record.kind not in (*RESERVES, "ChangeReservation"):
                continue
            kept = self.floors.kept(_channel(record, self.found), position)
            choices = tuple(sorted({0, *freed.get(position, ())}))
            self.positions[position].reads.append(Read(record.begin, record.end, int(match[2]), kept, choices, record))

    def _freed(self, record: Record) -> Mapping[Position, set[int]]:
        """What a change may count as free: what its reservation held at some time."""
        freed: dict[Position, set[int]] = defaultdict(set)
        if record.kind == "ChangeReservation":
            for claim in self.found.claims_of.get(record.request.reservation_id, ()):
                for sku, quantity in claim.lines:
                    freed[claim.location_id, sku].add(quantity)
        return freed


def _channel(record: Record, found: Index) -> int:
    """Whose floors a refused call met: POS stands for none."""
    if record.kind in RESERVES:
        return int(record.request.channel)
    if record.kind == "ChangeReservation":
        for call in found.calls.values():
            held = call.answer.reservation if call.kind in RESERVES and call.answer is not None else None
            if held is not None and held.reservation_id == record.request.reservation_id:
                return int(held.channel)
    return int(types_pb2.CHANNEL_POS)


def _wants(call: Call, attempt: Record, directory: Directory) -> tuple[dict[Position, int], float]:
    """What an attempt may hold in the gate, and for how many seconds if nobody gives it back."""
    request, wants = attempt.request, defaultdict[Position, int](int)
    seconds = CLAIM_SECONDS
    if call.kind in ("Reserve", "ChangeReservation"):
        seconds = float(request.ttl_seconds) if call.kind == "Reserve" else 20.0
        for basket in request.baskets:
            for line in basket.lines:
                wants[basket.location_id, line.sku] += line.quantity
    elif call.kind == "SourceReservation":  # the servers choose, and may have tried any location before
        seconds = float(request.ttl_seconds)
        for line in request.lines:
            for place in request.location_ids or directory.locations:
                wants[place, line.sku] += line.quantity
    elif call.kind == "Sell":
        for line in request.lines:
            wants[request.location_id, line.sku] += line.quantity
    elif call.kind == "DispatchTransfer":
        for line in request.lines:
            wants[request.from_location_id, line.sku] += line.quantity
    elif call.kind == "AdjustStock" and request.quantity < 0:
        wants[request.location_id, request.sku] = -request.quantity
    elif call.kind == "MoveStock":
        wants[request.location_id, request.sku] = request.quantity
    elif call.kind == "CountStock":
        for line in request.lines:
            wants[request.location_id, line.sku] = COUNT_UNITS_MAX
    elif call.kind == "ApproveCount":
        for sku in request.skus:
            wants[directory.counts.get(request.count_id, ""), sku] = COUNT_UNITS_MAX
    else:
        wants |= directory.wanted(call.kind, request)
    return wants, seconds
