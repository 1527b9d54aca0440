"""One mutation of the ledger: exactly once, with its movements, events and what the gate must hear of it.

A handler calls `Ledger.mutate`. Its transaction records the request_id first, so a repeat waits for a first attempt that is
still running, and then finds its answer. What must follow the commit at the gate (increases, claims to give back) is written
with the answer, so that a repeat after a crash makes sure of it before it answers too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message

from onhand.crash import step
from onhand.deadline import lifted
from onhand.domain.errors import LedgerUnavailable, Refusal, RequestIdReused
from onhand.ledger.claims import ClaimRefused, Settlement
from onhand.ledger.transaction import Transaction
from onhand.postgres import RETRY_ERRORS, Connection, Database, NotReached

TRANSACTION_ATTEMPTS_MAX = 5
"""How often a transaction that PostgreSQL rolled back for a deadlock is run."""

RECORD_REQUEST = """
INSERT INTO requests (request_id, method, body_hash) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING true"""
FIRST_ANSWER = "SELECT method, body_hash, response, settles FROM requests WHERE request_id = $1"
KEEP_ANSWER = "UPDATE requests SET response = $2, settles = $3 WHERE request_id = $1"


class Mutation(Protocol):
    """A request message that carries its request_id."""

    request_id: str

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes: ...


Answer = TypeVar("Answer", bound=Message)
Done = TypeVar("Done")
Settle = Callable[[Sequence[Settlement]], Awaitable[None]]


def body_hash(request: Mutation) -> bytes:
    """A digest of the whole request message."""
    return hashlib.blake2b(request.SerializeToString(deterministic=True), digest_size=16).digest()


class Ledger:
    """The truth in PostgreSQL: reads, and mutations that happen exactly once."""

    def __init__(self, database: Database, settle: Settle) -> None:
        self.database = database
        self._settle = settle

    @step("ledger.read")
    def read(self) -> AbstractAsyncContextManager[Connection]:
        """A connection for queries."""
        return self.database.connection()

    async def mutate(
        self,
        request: Mutation,
        response_type: type[Answer],
        work: Callable[[Transaction], Awaitable[Answer]],
        *,
        digest: bytes | None = None,
    ) -> Answer:
        """Runs `work` in a transaction that happens once for this request_id, and returns the first answer.

        `digest`: the body_hash of the request as it came, where this one leaves something out.

        Raises RequestIdReused if the id came with another method or body; whatever `work` raises, after which nothing has
        happened; LedgerUnavailable, after which the outcome is unknown.
        """
        response, settlements = await self.again(
            lambda: self._attempt(request, response_type, work, digest or body_hash(request))
        )
        await self.follow(settlements)
        return response

    async def again(self, attempt: Callable[[], Awaitable[Done]]) -> Done:
        """What an attempt comes to, a transaction that PostgreSQL may roll back because of another. Raises LedgerUnavailable."""
        for left in reversed(range(TRANSACTION_ATTEMPTS_MAX)):
            try:
                return await attempt()
            except RETRY_ERRORS as error:
                if not left:
                    raise LedgerUnavailable(f"rolled back again and again: {error}"[:200]) from error
        raise AssertionError("unreachable")

    async def follow(self, settlements: Sequence[Settlement]) -> None:
        """What must follow a commit. Whatever fails in it, the mutation has had its effect: that is no refusal."""
        if not settlements:
            return
        try:
            with lifted():  # however late it is
                await self._settle(settlements)
        except Exception as error:
            raise LedgerUnavailable(f"committed, but not settled: {error}"[:200]) from error

    @step("ledger.mutate", model=("cancel", "write"))
    async def _attempt(
        self,
        request: Mutation,
        response_type: type[Answer],
        work: Callable[[Transaction], Awaitable[Answer]],
        digest: bytes,
    ) -> tuple[Answer, Sequence[Settlement]]:
        method = type(request).__name__
        async with self.database.transaction() as connection:
            if await connection.fetchval(RECORD_REQUEST, request.request_id, method, digest):
                transaction = Transaction(connection, request.request_id)
                response = await work(transaction)
                settlements = await transaction.finish()
                kept = [s.to_json() for s in settlements if s.raises_atp] or None
                await connection.execute(KEEP_ANSWER, request.request_id, response.SerializeToString(), kept)
                return response, settlements
            row = await connection.fetchrow(FIRST_ANSWER, request.request_id)
            return first_answer(request, digest, row, response_type)

    async def find_answer(self, request: Mutation, response_type: type[Answer]) -> Answer | None:
        """The first answer to this request_id, if it had its effect before. Raises RequestIdReused."""
        row = await self._first(request.request_id)
        if row is None:
            return None
        response, settlements = first_answer(request, body_hash(request), row, response_type)
        await self.follow(settlements)
        return response

    @step("ledger.find_answer", model=("look_up",))
    async def _first(self, request_id: str) -> Any:
        async with self.database.connection() as connection:
            return await connection.fetchrow(FIRST_ANSWER, request_id)


def first_answer(
    request: Mutation, digest: bytes, row: Any, response_type: type[Answer]
) -> tuple[Answer, list[Settlement]]:
    """Reads a stored answer, and what must be settled before it is given again. Raises RequestIdReused."""
    if row["method"] != type(request).__name__ or row["body_hash"] != digest:
        raise RequestIdReused(request.request_id, row["method"])
    return response_type.FromString(row["response"]), [Settlement.from_json(s) for s in row["settles"] or ()]


def is_certain(error: BaseException) -> bool:
    """Whether an error proves that the transaction had no effect."""
    return isinstance(error, (ClaimRefused, AssertionError, NotReached)) or (
        isinstance(error, Refusal) and error.reason != "LEDGER_UNAVAILABLE"
    )
