"""What must reach the gate after a commit: numbered increases, and claims that were closed.

Anyone may relay, late or twice: a delta is applied once and in order, a claim that is not held changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from onhand.crash import step
from onhand.deadline import shared_context
from onhand.domain.errors import GateUnavailable, Refusal
from onhand.ledger.claims import Settlement
from onhand.ledger.transaction import RAISE_EPOCHS
from onhand.postgres import Database
from onhand.redis import Unreachable
from onhand.reservations.combiner import Combiner
from onhand.reservations.gate import Delta, Drop, Gate
from onhand.reservations.rebuild import Rebuilder

log = logging.getLogger(__name__)

DELTAS_MAX = 500
"""Increases that are read and applied at once."""
RELAY_ROUNDS_MAX = 20
"""How often a relay reads on before it gives up on a gate that lags."""
DROPS_MAX = 500
"""Closed claims in one script call."""

DELTAS_AFTER = """
SELECT number, lines FROM gate_deltas WHERE location_id = $1 AND number > $2 ORDER BY number LIMIT $3"""


class Relay:
    """Brings commits to the gate, and answers for invariant 6: what was acknowledged is seen."""

    def __init__(self, database: Database, gate: Gate, rebuilder: Rebuilder) -> None:
        self._database = database
        self._gate = gate
        self._rebuilder = rebuilder
        self._drops: Combiner[Drop, int] = Combiner(
            "drops", self._drop_round, round_items_max=DROPS_MAX, keeps_late=True
        )
        self._background: set[asyncio.Task[None]] = set()

    async def _drop_round(self, drops: Sequence[Drop]) -> Sequence[int]:
        return await self._gate.drop(drops)

    async def settle(self, settlements: Sequence[Settlement]) -> None:
        """Makes sure that the gate has what a commit raised, or that no reader trusts a gate without it.

        What only has to be forgotten is done behind the answer: ATP does not change by it.
        """
        for s in settlements:
            if s.forget:
                self.forget_later([Drop(s.location_id, c, give_back=False) for c in s.forget])
        await asyncio.gather(*(self._settle_one(s) for s in settlements if s.raises_atp))

    async def _settle_one(self, s: Settlement) -> None:
        try:
            is_settled = await self._reached(s)
            if not is_settled:
                # Closed for a rebuild, or waiting for one: a raise would make that begin anew, again and again under load.
                await self._rebuilder.rebuild(s.location_id)
                is_settled = await self._reached(s)
        except (Unreachable, Refusal) as error:
            log.warning("gate not reached for location %s: %s", s.location_id, error)
            is_settled = False
        if not is_settled:
            # No reader may trust the gate until somebody rebuilt it from what is committed now.
            await self._raise(s.location_id)
            self._rebuilder.request(s.location_id)

    @step("ledger.raise", model=("answer",))
    async def _raise(self, location_id: str) -> None:
        async with self._database.connection() as connection:
            await connection.fetch(RAISE_EPOCHS, [location_id])

    async def _reached(self, s: Settlement) -> bool:
        if s.give_back:
            epochs = await asyncio.gather(
                *(self._drops.submit(Drop(s.location_id, c, give_back=True)) for c in s.give_back)
            )
            if min(epochs) < s.epoch:
                return False
        return not s.number or await self.catch_up(s.location_id, s.number, s.epoch)

    async def catch_up(self, location_id: str, number: int, epoch: int) -> bool:
        """Applies a location's increases up to `number`. False unless the gate has them under `epoch` or a later one."""
        ((header, _),) = await self._gate.patrol([location_id], 0)
        for _ in range(RELAY_ROUNDS_MAX):
            if header.epoch < max(epoch, 1):
                return False
            if header.delta >= number:
                return True
            (header,) = await self._gate.apply([(location_id, await self._deltas_after(location_id, header.delta))])
        return False

    @step("ledger.deltas")
    async def _deltas_after(self, location_id: str, number: int) -> list[Delta]:
        async with self._database.connection() as connection:
            rows = await connection.fetch(DELTAS_AFTER, location_id, number, DELTAS_MAX)
        return [Delta(r["number"], [tuple(line) for line in r["lines"]]) for r in rows]

    def forget_later(self, drops: Sequence[Drop]) -> None:
        """Forgets claims whose units left `available`. What is lost here, the sweeper finds."""
        self._later(drops)

    def _later(self, drops: Sequence[Drop]) -> None:
        task = asyncio.create_task(self._drop_all(drops), context=shared_context())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def drop(self, drops: Sequence[Drop]) -> None:
        """Ends closed claims now; a gate that is not reached has it done by the sweeper."""
        await self._drop_all(drops)

    async def _drop_all(self, drops: Sequence[Drop]) -> None:
        try:
            await asyncio.gather(*(self._drops.submit(d) for d in drops))
        except (Unreachable, Refusal) as error:
            log.warning("claims are left to the sweeper: %s", error)

    async def close(self) -> None:
        """Waits for what still has to be forgotten."""
        if self._background:
            await asyncio.wait(self._background, timeout=2)


def unavailable(error: Unreachable) -> GateUnavailable:
    """The refusal for a gate that did not answer."""
    return GateUnavailable(str(error))
