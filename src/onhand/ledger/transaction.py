"""A running mutation: claims, stock, events, and what the gate must hear of once it is committed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from onhand.crash import step
from onhand.domain.errors import (
    LedgerUnavailable,
    LocationNotFound,
    ReservationNotActive,
    ReservationNotFound,
    ReservationOrdered,
    SkuNotFound,
)
from onhand.domain.payment_errors import CheckoutUnderWay
from onhand.domain.stock import Bucket, Level, Movement, Policy, Position, apply_movements
from onhand.ids import new_id
from onhand.ledger import shortfalls
from onhand.ledger.claims import Claim, ClaimRefused, ConfirmedClaim, Lines, Settlement
from onhand.postgres import Connection, to_json

RESERVATION_ATTEMPTS_MAX = 5
"""How often a reservation is updated whose claims were swapped (a change) between the look and the update."""

# A process that reads these rows sees the newest committed epoch even where it had to wait for the lock.
SHARE_EPOCHS = """
SELECT location_id, epoch FROM location_epochs WHERE location_id = ANY ($1) AND NOT is_closed ORDER BY location_id FOR SHARE"""
CLOSE_LOCATION = "UPDATE location_epochs SET epoch = epoch + 1, is_closed = true WHERE location_id = $1"
RAISE_EPOCHS = """
UPDATE location_epochs e SET epoch = e.epoch + 1
  FROM (SELECT location_id FROM location_epochs WHERE location_id = ANY ($1) ORDER BY location_id FOR UPDATE) locked
 WHERE e.location_id = locked.location_id RETURNING e.location_id, e.epoch"""

CREATE_LEVELS = """
INSERT INTO stock_levels (location_id, sku)
SELECT p.location_id, p.sku FROM unnest($1::text[], $2::text[]) AS p (location_id, sku)
  JOIN locations l USING (location_id) JOIN products USING (sku) WHERE l.deleted_time IS NULL
 ORDER BY 1, 2 ON CONFLICT DO NOTHING"""
# Epochs before levels, as everywhere: whoever raises an epoch waits here for nobody who waits for a level. $3: all of the
# levels or none, so that whoever makes the absent ones first holds none that comes after them in the order of locking.
LOCK_LEVELS = """
WITH epochs AS MATERIALIZED (
    SELECT location_id, epoch FROM location_epochs
     WHERE location_id = ANY ($1) AND NOT is_closed ORDER BY location_id FOR SHARE),
present AS (
    SELECT count(*) AS levels FROM stock_levels JOIN unnest($1::text[], $2::text[]) AS p (location_id, sku)
     USING (location_id, sku))
SELECT s.location_id, s.sku, s.available, s.allocated, s.damaged, s.quarantine, e.epoch, s.short,
       s.overdrawn_time IS NOT NULL AS is_overdrawn, s.safety_stock, s.backorder_limit, s.backordered
  FROM epochs e JOIN unnest($1::text[], $2::text[]) AS p (location_id, sku) USING (location_id)
  JOIN stock_levels s USING (location_id, sku)
 WHERE NOT $3 OR (SELECT levels FROM present) = cardinality($1)
 ORDER BY s.location_id, s.sku FOR UPDATE OF s"""
MISSING = """
SELECT p.location_id, p.sku, l.location_id IS NULL AS no_location, q.sku IS NULL AS no_sku
  FROM unnest($1::text[], $2::text[]) AS p (location_id, sku)
  LEFT JOIN locations l ON l.location_id = p.location_id AND l.deleted_time IS NULL
  LEFT JOIN products q ON q.sku = p.sku
 WHERE l.location_id IS NULL OR q.sku IS NULL ORDER BY 1, 2 LIMIT 1"""

POST = """
WITH level AS (
    UPDATE stock_levels s
       SET available = n.available, allocated = n.allocated, damaged = n.damaged, quarantine = n.quarantine
      FROM unnest($1::text[], $2::text[], $3::int8[], $4::int8[], $5::int8[], $6::int8[])
           AS n (location_id, sku, available, allocated, damaged, quarantine)
     WHERE s.location_id = n.location_id AND s.sku = n.sku)
INSERT INTO stock_movements (location_id, sku, quantity, from_bucket, to_bucket, reason_code, reference_document, channel,
                             actor, occurred_time)
SELECT m.location_id, m.sku, m.quantity, m.from_bucket, m.to_bucket, m.reason_code, m.reference_document, m.channel,
       m.actor, least(m.occurred_time, now())
  FROM unnest($7::text[], $8::text[], $9::int8[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[],
              $15::text[], $16::timestamptz[])
       AS m (location_id, sku, quantity, from_bucket, to_bucket, reason_code, reference_document, channel, actor,
             occurred_time)"""

# The row is locked until the commit, so the numbers of a location are in commit order.
NUMBER_DELTAS = """
WITH locked AS (SELECT location_id FROM location_delta_heads WHERE location_id = ANY ($1) ORDER BY location_id FOR UPDATE),
     head AS (UPDATE location_delta_heads h SET last_number = last_number + 1 FROM locked
               WHERE h.location_id = locked.location_id RETURNING h.location_id, h.last_number)
INSERT INTO gate_deltas (location_id, number, lines)
SELECT head.location_id, head.last_number, d.lines::jsonb
  FROM unnest($1::text[], $2::text[]) AS d (location_id, lines) JOIN head USING (location_id)
RETURNING location_id, number"""

# `whole`: how many claims should have been updated. The sweeper may have expired some of them since this transaction began.
# A claim that is pinned is the checkout's that pays for it, and nobody else's. State and deadline are asked for so that no index of
# active claims serves: planned while there are few, it would read all of them for ever.
WHOLE = """(SELECT count(*) FROM claims o WHERE o.reservation_id = $1 AND o.state IN ('active', 'expired')) AS whole"""
CONFIRM = f"""
UPDATE claims SET state = 'confirmed', order_id = $2, closed_time = now()
 WHERE reservation_id = $1 AND coalesce(state, '') = 'active' AND deadline - now() > interval '0'
   AND coalesce(pinned_for, $2) = $2
RETURNING location_id, claim_id, lines, channel, customer_id, {WHOLE}"""
RELEASE = f"""
UPDATE claims SET state = 'released', closed_time = now()
 WHERE reservation_id = $1 AND coalesce(state, '') = 'active' AND deadline - now() > interval '0'
   AND pinned_for IS NULL RETURNING location_id, claim_id, {WHOLE}"""
EXTEND = f"""
UPDATE claims SET deadline = greatest(deadline, $2)
 WHERE reservation_id = $1 AND coalesce(state, '') = 'active' AND deadline - now() > interval '0' RETURNING claim_id, {WHOLE}"""
PIN = f"""
UPDATE claims SET deadline = greatest(deadline, $2), pinned_for = $3
 WHERE reservation_id = $1 AND coalesce(state, '') = 'active' AND deadline - now() > interval '0'
   AND pinned_for IS NULL RETURNING location_id, claim_id, lines, channel, customer_id, {WHOLE}"""
# Of what a checkout holds by itself, and nobody else knows: used up as a decision's claim is, or given back, also when it is late.
USE = f"""
UPDATE claims SET state = 'consumed', closed_time = now()
 WHERE reservation_id = $1 AND coalesce(state, '') = 'active' AND deadline - now() > interval '0' AND pinned_for = $2
RETURNING location_id, claim_id, lines, channel, customer_id, {WHOLE}"""
DROP = """
UPDATE claims SET state = 'released', closed_time = now()
 WHERE reservation_id = $1 AND coalesce(state, '') = 'active' AND pinned_for = $2 RETURNING location_id, claim_id"""
UNPIN = "UPDATE claims SET pinned_for = NULL WHERE reservation_id = $1 AND coalesce(state, '') = 'active' AND pinned_for = $2"
REPLACE = """
INSERT INTO claims (location_id, claim_id, reservation_id, state, channel, customer_id, lines, deadline)
SELECT c.location_id, c.claim_id, $1, 'active', old.channel, old.customer_id, c.lines::jsonb, old.deadline
  FROM unnest($3::text[], $4::uuid[], $5::text[]) AS c (location_id, claim_id, lines),
       (SELECT channel, customer_id, deadline FROM claims WHERE reservation_id = $1 AND claim_id = $2) AS old
ON CONFLICT DO NOTHING RETURNING claim_id"""
# The newest row of each location says what became of a reservation: a change closes the older ones.
WHY_NOT_ACTIVE = """
SELECT CASE WHEN state = 'active' AND deadline <= now() THEN 'expired' ELSE state END AS state, order_id, pinned_for
  FROM claims WHERE reservation_id = $1 ORDER BY (state = 'confirmed') DESC, created_time DESC LIMIT 1"""
OPEN = """
INSERT INTO claims (location_id, claim_id, reservation_id, state, channel, customer_id, lines, deadline)
SELECT c.location_id, c.claim_id, $1, 'active', c.channel, $2, c.lines::jsonb, $3
  FROM unnest($4::text[], $5::uuid[], $6::text[], $7::text[]) AS c (location_id, claim_id, channel, lines)
ON CONFLICT DO NOTHING RETURNING claim_id"""
CONSUME = """
INSERT INTO claims (location_id, claim_id, state, channel, lines, deadline, closed_time)
SELECT c.location_id, c.claim_id, 'consumed', c.channel, c.lines::jsonb, now(), now()
  FROM unnest($1::text[], $2::uuid[], $3::text[], $4::text[]) AS c (location_id, claim_id, channel, lines)
ON CONFLICT DO NOTHING RETURNING claim_id"""
EMIT = """
INSERT INTO events (event_id, type, subject, location_id, data, request_id)
SELECT e.event_id, e.type, e.subject, e.location_id, e.data::jsonb, $6
  FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[]) AS e (event_id, type, subject, location_id, data)"""


class Transaction:
    """A running mutation. Locks are taken in one order: request, epochs, claims, levels, delta heads."""

    def __init__(self, connection: Connection, request_id: str | None = None) -> None:
        self.connection = connection
        self._request_id = request_id
        self._epochs: dict[str, int] = {}
        self._levels: dict[Position, Level] = {}
        self._short: dict[Position, int] = {}
        self._overdrawn: set[Position] = set()
        self._policies: dict[Position, Policy] = {}
        self._settlements: dict[str, Settlement] = {}
        self._increases: dict[str, list[tuple[str, int, int | None]]] = {}
        self._uncovered: dict[Position, int] = {}
        self._bypassed: set[str] = set()
        self._events: list[tuple[UUID, str, str, str | None, str]] = []

    def _settlement(self, location_id: str) -> Settlement:
        return self._settlements.setdefault(location_id, Settlement(location_id))

    def _cover(self, location_id: str, lines: Lines) -> None:
        for sku, quantity in lines:
            self._uncovered[location_id, sku] = self._uncovered.get((location_id, sku), 0) - quantity

    # ------------------------------------------------------------------------------------------------------ claims
    @step("ledger.consume", model=("consume",))
    async def consume(self, claims: Sequence[Claim]) -> None:
        """Uses up claims of this attempt: what they took in the gate may leave `available` here. Raises ClaimRefused."""
        await self._journal(CONSUME, claims)
        for c in claims:
            self._settlement(c.location_id).forget.append(c.claim_id)
            self._cover(c.location_id, c.lines)

    @step("ledger.open_reservation", model=("journal",))
    async def open_reservation(
        self, reservation_id: UUID, claims: Sequence[Claim], customer_id: str, deadline: datetime
    ) -> None:
        """Journals claims of this attempt as an active reservation. Raises ClaimRefused."""
        await self._journal(OPEN, claims, reservation_id, customer_id, deadline)

    async def _journal(self, statement: str, claims: Sequence[Claim], *values: object) -> None:
        """Writes claims of this attempt in one order for all, under the epochs that they were taken in. Raises ClaimRefused."""
        epochs = await self._share_epochs({c.location_id for c in claims})
        if any(epochs.get(c.location_id) != c.epoch for c in claims):
            raise ClaimRefused
        ordered = sorted(claims, key=lambda c: (c.location_id, c.claim_id))
        rows = await self.connection.fetch(
            statement,
            *values,
            [c.location_id for c in ordered],
            [c.claim_id for c in ordered],
            [c.channel for c in ordered],
            [to_json(c.lines) for c in ordered],
        )
        if len(rows) != len(claims):
            raise ClaimRefused

    @step("ledger.bypass", model=("bypass",))
    async def bypass(self, location_ids: Iterable[str]) -> None:
        """Lets units leave `available` without a claim: the epoch is raised in this commit, so no gate is trusted after."""
        rows = await self.connection.fetch(RAISE_EPOCHS, sorted(location_ids))
        self._epochs.update({r["location_id"]: r["epoch"] for r in rows})
        self._bypassed.update(location_ids)

    def covers(self, wanted: Mapping[Position, int]) -> bool:
        """Whether exactly these units may leave `available` under the claims consumed so far, or by a bypass."""
        return all(p[0] in self._bypassed or self._uncovered.get(p, 0) == -n for p, n in wanted.items())

    @step("ledger.close_location", model=("close",))
    async def close_location(self, location_id: str) -> None:
        """Waits for the mutations of a location that are under way, and refuses all that follow."""
        await self.connection.execute(CLOSE_LOCATION, location_id)

    @step("ledger.confirm", model=("confirm", "place"))
    async def confirm_reservation(self, reservation_id: UUID, order_id: UUID) -> list[ConfirmedClaim]:
        """Makes an active reservation the order's, everywhere.

        Raises ReservationNotFound, ReservationNotActive, CheckoutUnderWay.
        """
        confirmed = _held(await self._update_reservation(CONFIRM, reservation_id, order_id))
        for c in confirmed:
            self._settlement(c.location_id).forget.append(c.claim_id)
            self._cover(c.location_id, c.lines)
        return confirmed

    @step("ledger.pin", model=("extend",))
    async def pin_reservation(self, reservation_id: UUID, deadline: datetime, order_id: UUID) -> list[ConfirmedClaim]:
        """Keeps an active reservation for an order to be, and until a deadline at least; what it holds.

        Raises ReservationNotFound, ReservationNotActive, CheckoutUnderWay.
        """
        return _held(await self._update_reservation(PIN, reservation_id, deadline, order_id))

    @step("ledger.unpin")
    async def unpin_reservation(self, reservation_id: UUID, order_id: UUID) -> None:
        """An order is not to be: its reservation is anybody's again who knows it."""
        await self.connection.execute(UNPIN, reservation_id, order_id)

    @step("ledger.use", model=("confirm", "place"))
    async def use_reservation(self, reservation_id: UUID, pinned_for: UUID) -> list[ConfirmedClaim]:
        """Uses up a reservation that is pinned, everywhere: its units may leave `available`. Empty where its time is over."""
        rows = await self.connection.fetch(USE, reservation_id, pinned_for)
        if not rows or len(rows) < rows[0]["whole"]:
            return []
        used = _held(rows)
        for c in used:
            self._settlement(c.location_id).forget.append(c.claim_id)
            self._cover(c.location_id, c.lines)
        return used

    @step("ledger.drop", model=("release",))
    async def drop_reservation(self, reservation_id: UUID, pinned_for: UUID) -> None:
        """Gives back what is left of a reservation that is pinned."""
        for row in await self.connection.fetch(DROP, reservation_id, pinned_for):
            self._settlement(row["location_id"]).give_back.append(row["claim_id"])

    @step("ledger.release", model=("release",))
    async def release_reservation(self, reservation_id: UUID) -> None:
        """Gives an active reservation back, everywhere.

        Raises ReservationNotFound, ReservationNotActive, CheckoutUnderWay.
        """
        for row in await self._update_reservation(RELEASE, reservation_id):
            self._settlement(row["location_id"]).give_back.append(row["claim_id"])

    @step("ledger.extend", model=("extend",))
    async def extend_reservation(self, reservation_id: UUID, deadline: datetime) -> None:
        """Moves the deadline of an active reservation. Raises ReservationNotFound, ReservationNotActive."""
        await self._update_reservation(EXTEND, reservation_id, deadline)

    async def _update_reservation(self, statement: str, reservation_id: UUID, *values: object) -> Sequence[Any]:
        """Updates all active claims of a reservation. Raises ReservationNotFound, ReservationNotActive, CheckoutUnderWay."""
        for _ in range(RESERVATION_ATTEMPTS_MAX):
            rows = await self.connection.fetch(statement, reservation_id, *values)
            if rows:
                if len(rows) < rows[0]["whole"]:
                    raise ReservationNotActive(str(reservation_id), "EXPIRED")
                return rows
            row = await self.connection.fetchrow(WHY_NOT_ACTIVE, reservation_id)
            if row is None:
                raise ReservationNotFound(str(reservation_id))
            if row["state"] == "confirmed":
                raise ReservationOrdered(str(reservation_id), "CONFIRMED", str(row["order_id"]))
            if row["state"] != "active":
                raise ReservationNotActive(str(reservation_id), row["state"].upper())
            if row["pinned_for"] is not None:
                raise CheckoutUnderWay(str(reservation_id), str(row["pinned_for"]))
            # A change was committed meanwhile: look at its claims.
        raise LedgerUnavailable("the reservation was changed again and again")

    @step("ledger.swap", model=("swap",))
    async def replace_claims(self, reservation_id: UUID, old: Mapping[str, UUID], new: Sequence[Claim]) -> None:
        """Swaps the claims of an active reservation, keeping its id and deadline. Raises ClaimRefused."""
        epochs = await self._share_epochs({c.location_id for c in new})
        if any(epochs.get(c.location_id) != c.epoch for c in new):
            raise ClaimRefused
        rows = await self.connection.fetch(RELEASE, reservation_id)
        if {r["location_id"]: r["claim_id"] for r in rows} != old:
            raise ClaimRefused  # changed, confirmed or expired meanwhile: look again
        ordered = sorted(new, key=lambda c: (c.location_id, c.claim_id))
        inserted = await self.connection.fetch(
            REPLACE,
            reservation_id,
            rows[0]["claim_id"],
            [c.location_id for c in ordered],
            [c.claim_id for c in ordered],
            [to_json(c.lines) for c in ordered],
        )
        if len(inserted) != len(new):
            raise ClaimRefused
        for location_id, claim_id in old.items():
            self._settlement(location_id).give_back.append(claim_id)

    # ------------------------------------------------------------------------------------------------------- stock
    @step("ledger.hold_location")
    async def hold_location(self, location_id: str) -> None:
        """Makes sure that a location is there until this transaction ends. Raises LocationNotFound."""
        if location_id not in await self._share_epochs([location_id]):
            raise LocationNotFound(location_id)

    @step("ledger.lock")
    async def lock_levels(self, positions: Iterable[Position], *, create: bool = False) -> dict[Position, Level]:
        """Locks stock levels, in order, and returns them. Absent ones are made if `create`, else they count as empty.

        Raises LocationNotFound and SkuNotFound. An absent level that is not made cannot be posted to.
        """
        wanted = sorted(set(positions))
        columns = [p[0] for p in wanted], [p[1] for p in wanted]
        rows = await self.connection.fetch(LOCK_LEVELS, *columns, create)
        if len(rows) < len(wanted):
            await refuse_unknown(self.connection, wanted)
            if create:
                await self.connection.execute(CREATE_LEVELS, *columns)
                rows = await self.connection.fetch(LOCK_LEVELS, *columns, create)
        found = {(r["location_id"], r["sku"]): Level(*tuple(r)[2:6]) for r in rows}
        self._epochs.update({r["location_id"]: r["epoch"] for r in rows})
        self._levels.update(found)
        self._short.update({(r["location_id"], r["sku"]): r["short"] for r in rows})
        self._overdrawn.update((r["location_id"], r["sku"]) for r in rows if r["is_overdrawn"])
        self._policies.update(
            {
                (r["location_id"], r["sku"]): Policy(r["safety_stock"], r["backorder_limit"], r["backordered"])
                for r in rows
            }
        )
        return {p: found.get(p, Level()) for p in wanted}

    def level(self, position: Position) -> Level:
        """A level that was locked before, as it is now."""
        return self._levels[position]

    def short(self, position: Position) -> int:
        """Units of a locked position that orders were promised and that are not there."""
        return self._short.get(position, 0)

    def is_overdrawn(self, position: Position) -> bool:
        """Whether reservations of a locked position may be short."""
        return position in self._overdrawn

    def policy(self, position: Position) -> Policy:
        """How far promises may go at a locked position."""
        return self._policies.get(position, Policy())

    async def add_short(self, position: Position, units: int, backordered: int = 0) -> None:
        """Keeps a level's `short` beside its shortfalls, and the gate's floor beside those of them that are backorders."""
        await self.connection.execute(shortfalls.ADD_SHORT, *position, units, backordered)
        self._short[position] += units
        if backordered:
            before = self.policy(position)
            self._policies[position] = before._replace(backordered=before.backordered + backordered)
            self.set_floor(*position, self.policy(position).floor)

    def owe(self, position: Position, units: int) -> None:
        """Claimed units of a position are promised and not there: nothing leaves `available` for them.

        The gate gets them back: of a backorder in the delta that raises its floor by as many, so that what it may promise stays
        what it was; of what was lost because it is below what the ledger has by as many.
        """
        self._uncovered[position] = self._uncovered.get(position, 0) + units
        self._increases.setdefault(position[0], []).append((position[1], units, None))

    @step("ledger.post")
    async def post(self, movements: Sequence[Movement]) -> dict[Position, Level]:
        """Books movements on levels locked before, and returns the levels after. Raises BucketShort.

        What comes into `available` becomes a numbered delta for the gate; what leaves it must be covered by claims that
        this transaction consumed or confirmed. Units that orders lack are taken from what comes in, before the gate hears.
        """
        if not movements:
            return {}
        touched = {(m.location_id, m.sku) for m in movements}
        before = {p: self._levels[p] for p in touched}
        after = apply_movements(before, movements)
        grown = [p for p in touched if after[p].available > before[p].available]
        covering: list[Movement] = []
        if any(self.short(p) for p in grown):
            covering = await self._cover_shortfalls(
                {p: after[p].available - before[p].available for p in grown}, movements
            )
            after = apply_movements(after, covering)
        for m in movements:
            if m.to_bucket is Bucket.AVAILABLE:
                self._increases.setdefault(m.location_id, []).append((m.sku, m.quantity, None))
            if m.from_bucket is Bucket.AVAILABLE:
                self._uncovered[m.location_id, m.sku] = self._uncovered.get((m.location_id, m.sku), 0) + m.quantity
        movements, changed = [*movements, *covering], sorted(after.items())
        await self.connection.execute(
            POST,
            [p[0] for p, _ in changed],
            [p[1] for p, _ in changed],
            [n.available for _, n in changed],
            [n.allocated for _, n in changed],
            [n.damaged for _, n in changed],
            [n.quarantine for _, n in changed],
            [m.location_id for m in movements],
            [m.sku for m in movements],
            [m.quantity for m in movements],
            [m.from_bucket.value for m in movements],
            [m.to_bucket.value for m in movements],
            [m.reason_code for m in movements],
            [m.reference_document for m in movements],
            [m.channel for m in movements],
            [m.actor for m in movements],
            [m.occurred_time for m in movements],
        )
        self._levels.update(after)
        if marked := [p for p in grown if self.is_overdrawn(p)]:
            await shortfalls.unmark(self.connection, marked)
        return after

    async def _cover_shortfalls(self, grown: Mapping[Position, int], movements: Sequence[Movement]) -> list[Movement]:
        """Gives orders what they lack of units that came in; the gate is told of what is left."""
        by = {(m.location_id, m.sku): m for m in reversed(movements) if m.to_bucket is Bucket.AVAILABLE}
        covering = await shortfalls.cover(self, {p: (n, by[p]) for p, n in grown.items() if self.short(p)})
        for m in covering:
            self._increases.setdefault(m.location_id, []).append((m.sku, -m.quantity, None))
        return covering

    def set_floor(self, location_id: str, sku: str, floor: int) -> None:
        """Tells the gate how many units of a position are kept from online promise."""
        self._increases.setdefault(location_id, []).append((sku, 0, floor))

    def number_increase(self, location_id: str, sku: str, quantity: int) -> None:
        """Numbers what movements of before brought and no increase told of; under a raised epoch, so no gate applies it."""
        self._increases.setdefault(location_id, []).append((sku, quantity, None))

    # -------------------------------------------------------------------------------------------------- the commit
    def emit(self, type: str, subject: str, data: dict[str, Any], location_id: str | None = None) -> None:
        """Records an event (CloudEvents type, subject, data) that is published with this transaction."""
        self._events.append((new_id(), type, subject, location_id, to_json(data)))

    async def _share_epochs(self, location_ids: Iterable[str]) -> dict[str, int]:
        """The epochs of locations, which stay what they are until this transaction ends; a deleted one is absent."""
        unknown = sorted(set(location_ids) - self._epochs.keys())
        if unknown:
            rows = await self.connection.fetch(SHARE_EPOCHS, unknown)
            self._epochs.update({r["location_id"]: r["epoch"] for r in rows})
        return self._epochs

    @step("ledger.number", model=("increase",))
    async def finish(self) -> list[Settlement]:
        """Writes what must follow the commit, and returns it."""
        uncovered = {p: q for p, q in self._uncovered.items() if q and p[0] not in self._bypassed}
        if uncovered:
            raise AssertionError(
                f"units leave `available` without a claim in the gate, or a claim is left over: {uncovered}"
            )
        if self._events:
            columns = [list(column) for column in zip(*self._events, strict=True)]
            await self.connection.execute(EMIT, *columns, self._request_id)
        waiting = sorted({s.location_id for s in self._settlements.values() if s.give_back} | set(self._increases))
        if waiting:
            # Shared until the commit: no snapshot of a rebuild can lie between this epoch and the increase.
            epochs = await self._share_epochs(waiting)
            for location_id in waiting:
                if location_id not in epochs:
                    raise LocationNotFound(location_id)
                self._settlement(location_id).epoch = epochs[location_id]
        if self._increases:
            items = sorted(self._increases.items())
            rows = await self.connection.fetch(
                NUMBER_DELTAS, [i[0] for i in items], [to_json(_merged(i[1])) for i in items]
            )
            for row in rows:
                self._settlement(row["location_id"]).number = row["number"]
        return list(self._settlements.values())


def _held(rows: Sequence[Any]) -> list[ConfirmedClaim]:
    """What claims hold, by location."""
    found = [
        ConfirmedClaim(r["location_id"], r["claim_id"], [(s, q) for s, q in r["lines"]], r["channel"], r["customer_id"])
        for r in rows
    ]
    return sorted(found, key=lambda c: c.location_id)


def _merged(lines: list[tuple[str, int, int | None]]) -> list[tuple[str, int, int | None]]:
    """The lines of a delta, a sku once."""
    merged: dict[str, tuple[int, int | None]] = {}
    for sku, quantity, floor in lines:
        before, floor_before = merged.get(sku, (0, None))
        merged[sku] = before + quantity, floor_before if floor is None else floor
    return [(sku, quantity, floor) for sku, (quantity, floor) in sorted(merged.items())]


async def refuse_unknown(connection: Connection, positions: Sequence[Position]) -> None:
    """Raises LocationNotFound or SkuNotFound for the first position, in order, whose location or sku does not exist."""
    wanted = sorted(positions)
    missing = await connection.fetchrow(MISSING, [p[0] for p in wanted], [p[1] for p in wanted])
    if missing is not None:
        if missing["no_location"]:
            raise LocationNotFound(missing["location_id"])
        raise SkuNotFound(missing["sku"])
