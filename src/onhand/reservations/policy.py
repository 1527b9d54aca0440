"""Channel thresholds: a copy in every process, used only while its version is the ledger's."""

from __future__ import annotations

import asyncio

from onhand.crash import step
from onhand.postgres import Database

VERSION = "SELECT version FROM policy_version"
THRESHOLDS = "SELECT channel, sku, quantity FROM channel_thresholds"
POS = "POS"


class Policy:
    """What each channel is kept from, by sku. The till is kept from nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._thresholds: dict[tuple[str, str], int] = {}
        self._channels: frozenset[str] = frozenset()
        self._lock = asyncio.Lock()
        self.version = 0

    def threshold(self, channel: str, sku: str) -> int:
        """Base units of a sku that are kept from a channel at every location."""
        return self._thresholds.get((channel, sku), 0)

    def keeps_from(self, channel: str) -> bool:
        """Whether anything is kept from a channel by a threshold."""
        return channel in self._channels

    async def catch_up(self) -> None:
        """Makes the copy as new as the ledger's."""
        await self.refresh(await self._version())

    async def refresh(self, version: int) -> None:
        """Makes the copy as new as `version`, or newer."""
        async with self._lock:
            if self.version >= version:
                return
            self.version, self._thresholds = await self._read()
            self._channels = frozenset(channel for channel, _ in self._thresholds)

    @step("ledger.policy_version")
    async def _version(self) -> int:
        async with self._database.connection() as connection:
            version: int = await connection.fetchval(VERSION)
        return version

    @step("ledger.policy")
    async def _read(self) -> tuple[int, dict[tuple[str, str], int]]:
        async with self._database.transaction(isolation="repeatable_read", readonly=True) as snapshot:
            version: int = await snapshot.fetchval(VERSION)
            rows = await snapshot.fetch(THRESHOLDS)
        return version, {(r["channel"], r["sku"]): r["quantity"] for r in rows}


def is_online(channel: str) -> bool:
    """Whether safety stock and thresholds are kept from a channel."""
    return channel != POS
