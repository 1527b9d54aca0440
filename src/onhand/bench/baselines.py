"""What a user would run instead of onhand: the stock taken by loops in one process, without any RPC, journal or idempotency.

Each takes the same baskets as `reserve` and `reserve_hot` do, from tables and keys of its own in the bench's PostgreSQL and Valkey.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from multiprocessing.connection import Connection as Pipe
from typing import Any

import asyncpg
import redis.asyncio
import uvloop
from sqlalchemy import BigInteger, MetaData, Text, select
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import AsyncAdaptedQueuePool

from onhand.bench.load import Tally, Workers
from onhand.bench.shapes import STOCK, VARIANTS, Shop, basket
from onhand.bench.stage import Stage

POSTGRES_CONNECTIONS = 64
"""Of a pool that has one for each call in flight, as many processes with pools of their own have together."""
POOLED_CONNECTIONS = 16
"""Of the pool that all calls wait for: near the best of 10, 16, 32 and 64 on two processors (decision 0011)."""
REDIS_CONNECTIONS = 64
"""Of redis-py's pool: as many as calls in flight."""
KEYS = "bench:stock:"
"""What keys of the script begin with."""

CREATE = """
CREATE SCHEMA IF NOT EXISTS bench;
CREATE TABLE IF NOT EXISTS bench.stock (
    location_id text NOT NULL, sku text NOT NULL, available bigint NOT NULL CHECK (available >= 0), PRIMARY KEY (location_id, sku)
) WITH (fillfactor = 50);
TRUNCATE bench.stock"""
INSERT = """
INSERT INTO bench.stock SELECT location_id, sku, $3 FROM unnest($1::text[]) AS location_id, unnest($2::text[]) AS sku"""
DROP = "DROP SCHEMA IF EXISTS bench CASCADE"
TAKE = """
UPDATE bench.stock SET available = available - $3 WHERE location_id = $1 AND sku = $2 AND available >= $3"""

SCRIPT = """
for n = 1, #ARGV, 2 do
    if tonumber(redis.call('HGET', KEYS[1], ARGV[n]) or '0') < tonumber(ARGV[n + 1]) then
        return 0
    end
end
for n = 1, #ARGV, 2 do
    redis.call('HINCRBY', KEYS[1], ARGV[n], -tonumber(ARGV[n + 1]))
end
return 1"""

Basket = tuple[str, list[str]]
"""A location, and the skus of which one unit each is taken there, in their order."""
Take = Callable[[Basket], Awaitable[bool]]
"""Takes a basket; whether it could."""


class Base(DeclarativeBase):
    """What SQLAlchemy maps."""

    metadata = MetaData(schema="bench")


class StockRow(Base):
    """The stock of one sku at one location."""

    __tablename__ = "stock"

    location_id: Mapped[str] = mapped_column(Text, primary_key=True)
    sku: Mapped[str] = mapped_column(Text, primary_key=True)
    available: Mapped[int] = mapped_column(BigInteger)


def conditional_update(pool: asyncpg.Pool[Any]) -> Take:
    """A transaction with one guarded UPDATE a line."""

    async def take(wanted: Basket) -> bool:
        location_id, skus = wanted
        async with pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            for sku in skus:
                if await connection.execute(TAKE, location_id, sku, 1) != "UPDATE 1":
                    await transaction.rollback()
                    return False
            await transaction.commit()
        return True

    return take


def select_for_update(sessions: async_sessionmaker[AsyncSession]) -> Take:
    """A transaction that locks and reads each row, and writes it back."""

    async def take(wanted: Basket) -> bool:
        location_id, skus = wanted
        async with sessions() as session, session.begin():
            for sku in skus:
                row = select(StockRow).where(StockRow.location_id == location_id, StockRow.sku == sku)
                stock = (await session.execute(row.with_for_update())).scalar_one()
                if stock.available < 1:
                    await session.rollback()
                    return False
                stock.available -= 1
        return True

    return take


def redis_script(client: redis.asyncio.Redis) -> Take:
    """A script that looks at every line and takes all or nothing. Nothing is written anywhere else."""
    script = client.register_script(SCRIPT)

    async def take(wanted: Basket) -> bool:
        location_id, skus = wanted
        arguments: list[str | int] = []
        for sku in skus:
            arguments += (sku, 1)
        return bool(await script(keys=[KEYS + location_id], args=arguments))

    return take


class Baselines:
    """What the process of the baselines does, order by order. Only the kind that is measured has connections."""

    def __init__(self, postgres_dsn: str, redis_url: str, shop: Shop) -> None:
        self._dsn = postgres_dsn
        self._url = redis_url
        self._shop = shop
        self._is_filled = False
        self._opened = AsyncExitStack()
        self._take: Take | None = None
        self._kind = ""
        self._is_hot = False
        self._in_flight = 0

    async def _fill(self) -> None:
        shop = self._shop
        skus = [shop.sku(n) for n in range(shop.skus)]
        locations = [shop.location_id(n) for n in range(shop.locations)]
        connection: Any = await asyncpg.connect(self._dsn)
        try:
            await connection.execute(CREATE)
            await connection.execute(INSERT, locations, skus, STOCK)
        finally:
            await connection.close()
        async with redis.asyncio.Redis.from_url(self._url) as client:
            for location_id in locations:
                await client.hset(KEYS + location_id, mapping=dict.fromkeys(skus, STOCK))
        self._is_filled = True

    async def _open(self, kind: str) -> Take:
        match kind:
            case "conditional_update" | "conditional_update_pooled":
                size = POOLED_CONNECTIONS if kind.endswith("_pooled") else POSTGRES_CONNECTIONS
                made = asyncpg.create_pool(self._dsn, min_size=size, max_size=size)
                return conditional_update(await self._opened.enter_async_context(made))
            case "select_for_update":
                engine = self._engine()
                self._opened.push_async_callback(engine.dispose)
                connections = [engine.connect() for _ in range(POSTGRES_CONNECTIONS)]
                for connection in connections:
                    await connection.start()
                for connection in connections:
                    await connection.close()  # back to the pool
                return select_for_update(async_sessionmaker(engine, expire_on_commit=False))
            case "redis_script":
                pool = redis.asyncio.BlockingConnectionPool.from_url(self._url, max_connections=REDIS_CONNECTIONS)
                client = redis.asyncio.Redis(connection_pool=pool)
                self._opened.push_async_callback(pool.disconnect)
                return redis_script(client)
        raise ValueError(f"no baseline of kind {kind}")

    def _engine(self) -> AsyncEngine:
        return create_async_engine(
            URL.create("postgresql+asyncpg"),
            async_creator=lambda: asyncpg.connect(self._dsn),
            poolclass=AsyncAdaptedQueuePool,
            pool_size=POSTGRES_CONNECTIONS,
            max_overflow=0,
        )

    async def prepare(self, wanted: tuple[str, int]) -> None:
        """Which kind is next, and how many loops."""
        if not self._is_filled:
            await self._fill()
        name, self._in_flight = wanted
        kind, self._is_hot = name.removesuffix("_hot"), name.endswith("_hot")
        if kind != self._kind:
            await self._opened.aclose()
            self._take, self._kind = await self._open(kind), kind
        gc.collect()

    async def run(self, seconds: float) -> Tally:
        """Loops that each take one basket after another."""
        take = self._take
        assert take is not None
        draw = random.Random(self._in_flight)
        # In one order everywhere: rows locked crosswise would wait for each other.
        baskets = [
            (location_id, sorted(skus))
            for location_id, skus in (basket(self._shop, draw, is_hot=self._is_hot) for _ in range(VARIANTS))
        ]
        tally, now = Tally(), time.perf_counter
        began = now()
        until = began + seconds

        async def loop() -> None:
            while (sent := now()) < until:
                took = await take(baskets[int(draw.random() * VARIANTS)])
                answered = now()
                if not took:
                    tally.refused += 1
                    continue
                tally.answered += 1
                tally.in_window += answered < until
                tally.latencies.append(answered - sent)

        await asyncio.gather(*(loop() for _ in range(self._in_flight)))
        tally.window_seconds = seconds
        return tally

    async def clear(self, _: object) -> None:
        """Disconnects, and takes away what was made."""
        await self._opened.aclose()
        self._kind = ""
        connection: Any = await asyncpg.connect(self._dsn)
        try:
            await connection.execute(DROP)
        finally:
            await connection.close()
        async with redis.asyncio.Redis.from_url(self._url) as client:
            async for key in client.scan_iter(match=KEYS + "*"):
                await client.delete(key)
        self._is_filled = False


def _baseline_process(pipe: Pipe, cpus: set[int], postgres_dsn: str, redis_url: str, shop: Shop) -> None:
    os.sched_setaffinity(0, cpus)
    gc.freeze()  # what was imported is not looked at again
    baselines = Baselines(postgres_dsn, redis_url, shop)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        while (order := pipe.recv()) is not None:
            name, argument = order
            try:
                pipe.send((None, runner.run(getattr(baselines, name)(argument))))
            except Exception:
                pipe.send((traceback.format_exc(), None))


@contextmanager
def baseline_worker(on: Stage) -> Iterator[Workers]:
    """One process, on a processor where otherwise a server runs."""
    cpus = set(sorted(on.layout.servers)[:1]) if on.layout.is_pinned else set(on.layout.servers)
    workers = Workers(_baseline_process, 1, cpus, on.postgres_dsn, on.redis_url, on.shop)
    try:
        yield workers
    finally:
        workers.close()
