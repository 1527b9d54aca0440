"""The journal of reservations: many are inserted by one statement, each with its own outcome."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime
from enum import Enum
from typing import NamedTuple
from uuid import UUID

import asyncpg

from onhand.crash import step
from onhand.domain.errors import LedgerUnavailable
from onhand.ledger.claims import Claim
from onhand.postgres import RETRY_ERRORS, Database

log = logging.getLogger(__name__)


class Outcome(Enum):
    """What became of an entry."""

    JOURNALLED = "journalled"
    REQUEST_KNOWN = "request_known"  # the request had its effect before
    CLAIM_REFUSED = "claim_refused"  # the epoch moved on, or the claim was closed as an orphan: claim anew
    POLICY_CHANGED = "policy_changed"  # a channel threshold was changed: look again
    NOT_ACTIVE = "not_active"  # a change: the old reservation is not active any more


class Entry(NamedTuple):
    """One reservation to be journalled: its claims, one a location, and the answer that its request gets."""

    request_id: str
    method: str
    body_hash: bytes
    response: bytes
    reservation_id: UUID
    channel: str
    customer_id: str
    deadline: datetime
    policy_version: int
    claims: Sequence[Claim]


# The epochs are shared until the commit: no rebuild's snapshot can lie between this check and the insert. An entry is taken
# whole or not at all. `attempt` is its place in the round. What is_closed counts was an EXISTS: planned while the table was
# still small, it read all of it once a round, for as long as the connection lived.
JOURNAL = """
WITH entry AS (
    SELECT * FROM unnest($1::int8[], $2::text[], $3::text[], $4::bytea[], $5::bytea[], $6::uuid[], $7::text[], $8::text[],
                         $9::timestamptz[], $10::int8[])
        AS e (attempt, request_id, method, body_hash, response, reservation_id, channel, customer_id, deadline, policy)
), claim AS (
    SELECT * FROM ROWS FROM (unnest($11::int8[], $12::text[], $13::uuid[], $14::int8[]), jsonb_array_elements($15::jsonb))
        AS c (attempt, location_id, claim_id, epoch, lines)
), epochs AS MATERIALIZED (
    SELECT location_id, epoch FROM location_epochs
     WHERE location_id = ANY ($12) AND NOT is_closed ORDER BY location_id FOR SHARE
), standing AS (
    SELECT c.attempt, bool_and(coalesce(p.epoch = c.epoch, false)) AS is_current,
           count((SELECT k.claim_id FROM claims k WHERE k.location_id = c.location_id AND k.claim_id = c.claim_id)) > 0 AS is_closed
      FROM claim c LEFT JOIN epochs p USING (location_id) GROUP BY c.attempt
), policy AS (
    SELECT version FROM policy_version
), recorded AS (
    INSERT INTO requests (request_id, method, body_hash, response)
    SELECT e.request_id, e.method, e.body_hash, e.response
      FROM entry e JOIN standing s USING (attempt), policy p
     WHERE s.is_current AND NOT s.is_closed AND e.policy = p.version
     ORDER BY e.request_id
    ON CONFLICT DO NOTHING RETURNING request_id
), inserted AS (
    INSERT INTO claims (location_id, claim_id, reservation_id, state, channel, customer_id, lines, deadline)
    SELECT c.location_id, c.claim_id, e.reservation_id, 'active', e.channel, e.customer_id, c.lines, e.deadline
      FROM recorded r JOIN entry e USING (request_id) JOIN claim c USING (attempt)
)
SELECT CASE WHEN r.request_id IS NOT NULL THEN 'journalled'
            WHEN NOT s.is_current OR s.is_closed THEN 'claim_refused'
            WHEN e.policy <> p.version THEN 'policy_changed'
            ELSE 'request_known' END AS outcome
  FROM entry e JOIN standing s USING (attempt) LEFT JOIN recorded r USING (request_id), policy p
 ORDER BY e.attempt"""
OUTCOMES = {outcome.value: outcome for outcome in Outcome}


class Journal:
    """Writes rounds of reservations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(self, entries: Sequence[Entry]) -> list[Outcome | BaseException]:
        """Journals entries together; a request_id may stand in a round once. Raises LedgerUnavailable: outcome unknown."""
        try:
            return [*await self._write(entries)]
        except (asyncpg.UniqueViolationError, *RETRY_ERRORS) as error:
            # As when a claim was closed as an orphan while the statement ran. Nothing of the round happened: one by one.
            log.info("a round of %d is journalled one by one: %s", len(entries), error)
        except asyncpg.DataError as error:
            # Text that PostgreSQL does not take: only its own caller is to hear of it.
            log.warning("one of a round of %d cannot be journalled: %s", len(entries), error)
        outcomes: list[Outcome | BaseException] = []
        for entry in entries:
            try:
                outcomes += await self._write([entry])
            except (asyncpg.UniqueViolationError, *RETRY_ERRORS):
                outcomes.append(Outcome.CLAIM_REFUSED)
            except (asyncpg.PostgresError, LedgerUnavailable) as error:
                outcomes.append(error)
        return outcomes

    @step("ledger.journal", model=("journal",))
    async def _write(self, entries: Sequence[Entry]) -> list[Outcome]:
        claims = [(attempt, c) for attempt, e in enumerate(entries) for c in e.claims]
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                JOURNAL,
                range(len(entries)),
                [e.request_id for e in entries],
                [e.method for e in entries],
                [e.body_hash for e in entries],
                [e.response for e in entries],
                [e.reservation_id for e in entries],
                [e.channel for e in entries],
                [e.customer_id for e in entries],
                [e.deadline for e in entries],
                [e.policy_version for e in entries],
                [attempt for attempt, _ in claims],
                [c.location_id for _, c in claims],
                [c.claim_id for _, c in claims],
                [c.epoch for _, c in claims],
                [c.lines for _, c in claims],
            )
        return [OUTCOMES[row[0]] for row in rows]
