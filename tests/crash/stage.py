"""A ledger and a gate that are set back before each case, and the audit of what a case left behind."""

from __future__ import annotations

import json
import re
import uuid
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import redis.asyncio
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from crash.many import carried
from crash.process import GATEWAY, Process
from onhand.ledger.invariants import RULES
from onhand.postgres import Database, asyncpg_dsn
from onhand.redis import GateConnections
from onhand.reservations.gate import LIBRARY, Gate
from shop import DEPOT, NORTH, SOUTH, Shop

Mark = tuple[int, int]
"""How many rows a table has, and the sum of the transactions that wrote them: the same, so nobody wrote in between."""
LOCATIONS = (NORTH, SOUTH, DEPOT)
PROCESS_CONNECTIONS_MAX = 12

TABLES = """
SELECT c.relname, array_agg(quote_ident(a.attname) ORDER BY a.attnum)
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname <> 'alembic_version'
 GROUP BY 1 ORDER BY 1"""
# What differs between two runs of the same call: ids, numbers drawn at random, and (a time) when it was.
VOLATILE = {
    "transaction", "sequence", "event_id", "movement_id", "body_hash", "settles", "etag", "order_number", "operation_number",
    "pickup_code", "pickup_code_salt", "pickup_code_hash", "pickup_code_attempt", "id", "job_id", "queue_manager_id", "rma_number",
    "created", "updated", "heartbeat", "execute_after", "payload",  # of jobs
    "change_number",
}  # fmt: skip
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
DUE_SOON = "(execute_after < now() + interval '1 day' OR status = 'picked' OR attempts > 0)"
"""Of jobs: others are for days to come."""
LEDGER = """
SELECT e.location_id, e.epoch, h.last_number,
       (SELECT json_object_agg(s.sku, json_build_array(s.available,
               s.safety_stock - greatest(0, s.backorder_limit - s.backordered))) FROM stock_levels s
         WHERE s.location_id = e.location_id) AS levels,
       (SELECT json_agg(json_build_array(c.claim_id, c.state, c.lines, c.reservation_id IS NULL)) FROM claims c
         WHERE c.location_id = e.location_id) AS claims
  FROM location_epochs e JOIN location_delta_heads h USING (location_id)"""


@dataclass
class Look:
    """What the gate promises beside what the ledger has, at one location that is trusted."""

    unsafe: list[str] = field(default_factory=list)
    """Promised in the gate, absent in the ledger; or promised in the ledger and not kept in the gate."""
    behind: list[str] = field(default_factory=list)
    """Kept from sale though nothing explains it: an increase that is missing, a claim that was closed long ago."""
    orphans: list[str] = field(default_factory=list)
    """Claims that no attempt will ever journal or consume; their units wait for the sweeper."""
    ended: list[str] = field(default_factory=list)
    """Claims that were closed in the ledger and are still held."""


class Stage:
    """Everything that outlives a process."""

    def __init__(self, dsn: str, url: str, kept: dict[str, dict[bytes, bytes]]) -> None:
        self.dsn, self.url, self._kept = dsn, url, kept
        self._marks: dict[str, dict[str, Mark]] = {}

    async def open(self) -> None:
        """Connects, empties both, and makes copies of the tables."""
        self.database = await Database.open(self.dsn, pool_size=PROCESS_CONNECTIONS_MAX)
        self.connections = GateConnections(self.url, LIBRARY)
        self.redis: Any = redis.asyncio.Redis.from_url(self.url)
        self.keeper: Any = await asyncpg.connect(asyncpg_dsn(self.dsn))
        await self.keeper.execute("SET session_replication_role = replica")  # past triggers and references
        self._run_id = await Gate(self.connections).run_id()
        self._tables = {name: columns for name, columns in await self.keeper.fetch(TABLES)}
        self._audit = await self.keeper.prepare(
            " UNION ALL ".join(f"SELECT '{r.name}' AS rule, to_jsonb(v)::text AS row FROM ({r.query}) v" for r in RULES)
        )
        self._rows = await self.keeper.prepare(
            " UNION ALL ".join(f"SELECT '{t}' AS name, to_jsonb(t)::text AS row FROM {t} t" for t in self._tables)
        )
        self._ledger = await self.keeper.prepare(LEDGER)
        self._marked = await self.keeper.prepare(
            " UNION ALL ".join(
                f"SELECT '{t}', count(*), coalesce(sum(xmin::text::int8), 0) FROM {t}" for t in self._tables
            )
        )
        if "base" not in self._kept:
            await self.furnish()
            await self.keep("base")

    async def close(self) -> None:
        """Ends the connections."""
        await self.keeper.close()
        await self.redis.aclose()
        await self.connections.close()
        await self.database.close()

    async def process(self) -> Process:
        """A server process that has just started; its loops are steps that a test takes."""
        process = Process(self.database, self.connections)
        await process.app.prepare()
        return process

    async def furnish(self) -> None:
        """Three locations with ten units of milk and of bread, known to the gate."""
        process = await self.process()
        await process.run(lambda app: Shop(app).open())
        for location_id in LOCATIONS:
            await process.run(lambda app, place=location_id: app.rebuilder.rebuild(place))

    # ------------------------------------------------------------------------------------------------ set back and kept
    async def keep(self, name: str) -> None:
        """Remembers everything as it is now."""
        await self.keeper.execute(f"CREATE SCHEMA IF NOT EXISTS {name}")
        for table in self._tables:
            await self.keeper.execute(f"CREATE TABLE IF NOT EXISTS {name}.{table} (LIKE {table})")
        await self._copy("public", name, self._tables)
        self._marks[name] = await self._marks_now()
        GATEWAY.keep(name)
        keys = await self.redis.keys()
        self._kept[name] = {key: await self.redis.dump(key) for key in keys}

    async def set_back(self, name: str) -> None:
        """Makes everything as it was then."""
        marks, now = self._marks.setdefault(name, {}), await self._marks_now()
        changed = [table for table in self._tables if now[table] != marks.get(table)]
        xid = await self._copy(name, "public", changed)
        for table in changed:
            if table not in marks:
                marks[table] = await self.keeper.fetchval(f"SELECT count(*) FROM {name}.{table}"), 0
            marks[table] = marks[table][0], marks[table][0] * xid
        GATEWAY.set_back(name)
        async with self.redis.pipeline(transaction=False) as pipeline:
            pipeline.flushall()
            for key, value in self._kept[name].items():
                pipeline.restore(key, 0, value)
            await pipeline.execute()

    async def _copy(self, source: str, target: str, tables: Collection[str]) -> int:
        """Makes tables in one schema as they are in another; the id of the transaction that did."""
        delete = ", ".join(f"d{n} AS (DELETE FROM {target}.{t})" for n, t in enumerate(tables))
        insert = ", ".join(
            f"i{n} AS (INSERT INTO {target}.{t} ({', '.join(self._tables[t])}) OVERRIDING SYSTEM VALUE"
            f" SELECT {', '.join(self._tables[t])} FROM {source}.{t})"
            for n, t in enumerate(tables)
        )
        if not tables:
            return 0
        async with self.keeper.transaction():
            await self.keeper.fetch(f"WITH {delete} SELECT 1")
            xid: int = await self.keeper.fetchval(f"WITH {insert} SELECT pg_current_xact_id()::text::int8")
        return xid

    async def _marks_now(self) -> dict[str, Mark]:
        return {table: (count, int(xids)) for table, count, xids in await self._marked.fetch()}

    async def pass_deadline(self, reservation_id: str) -> None:
        """The time of a reservation is over: in the ledger, and in the gate's hint."""
        await self.keeper.execute(
            "UPDATE claims SET deadline = clock_timestamp() - interval '1 second' WHERE reservation_id = $1",
            uuid.UUID(reservation_id),
        )
        await self.pass_hints()

    async def raise_epoch(self, location_id: str) -> None:
        """As a bypass does, or a rebuilder that stalls."""
        await self.keeper.execute("UPDATE location_epochs SET epoch = epoch + 1 WHERE location_id = $1", location_id)

    async def pass_hints(self) -> None:
        """So much time has passed that the sweeper looks at every claim that the gate holds, and every job of today is due."""
        await self.keeper.execute(
            "UPDATE pgqueuer SET heartbeat = now() - interval '1 hour', execute_after = now() - interval '1 hour'"
            f" WHERE {DUE_SOON}"
        )
        for location_id in LOCATIONS:
            due = "oh:{" + location_id + "}:due"
            for claim_id in await self.redis.zrange(due, 0, -1):
                await self.redis.zadd(due, {claim_id: 1})

    # ----------------------------------------------------------------------------------------------------- what is there
    async def digest(self) -> Counter[str]:
        """The ledger without what differs between two runs of one call, and without what the gate alone needs of it."""
        found: Counter[str] = Counter()
        for table, text in await self._rows.fetch():
            row = json.loads(text)
            if table in ("location_epochs", "pgqueuer_log"):  # anybody may raise one; how often a job was tried
                continue
            if (
                table == "claims" and row["reservation_id"] is None
            ):  # a closed orphan; a decrease, which a bypass has none of
                continue
            if table == "requests":
                row["response"] = row["response"] is not None
            if table == "pgqueuer":  # that of days later: when exactly does not matter
                row = {"entrypoint": row["entrypoint"], "is_queued": row["status"] == "queued"}
            if row.get("type") == "onhand.gate.difference.v1":  # a report, not an effect
                found["events of differences"] = 1
                continue
            found[f"{table} {UUID.sub('<id>', json.dumps(_lasting(row), sort_keys=True))}"] += 1
        return found

    async def state(self) -> tuple[object, ...]:
        """All that a new process can find in ledger and gate; ids and times do not count."""
        rows = sorted(_nameless(text) for _, text in await self._rows.fetch())
        keys = sorted(await self.redis.keys())
        async with self.redis.pipeline(transaction=False) as pipeline:
            for key in keys:
                _ = pipeline.zcard(key) if key.endswith(b":due") else pipeline.hgetall(key)
            found = await pipeline.execute()
        hashes = [
            sorted(found.values()) if key.endswith(b":claims") else found
            for key, found in zip(keys, found, strict=True)
        ]
        return (tuple(rows), tuple(zip(keys, map(repr, hashes), strict=True)))

    async def violations(self) -> list[str]:
        """Rows that break a rule of `onhand verify`, and where the gateway did otherwise than the ledger says."""
        broken = [f"{rule}: {row}" for rule, row in await self._audit.fetch()]
        return broken + await GATEWAY.differences(self.keeper.fetch)

    async def waiting_jobs(self) -> int:
        """How many jobs are to be done, now or later."""
        found: int = await self.keeper.fetchval(f"SELECT count(*) FROM pgqueuer WHERE {DUE_SOON}")
        return found

    async def answered(self, request_id: str) -> bytes | None:
        """The first answer of a request, if it had its effect."""
        answer: bytes | None = await self.keeper.fetchval(
            "SELECT response FROM requests WHERE request_id = $1", request_id
        )
        return answer

    async def first_answers(self, request: Any) -> dict[str, bytes]:
        """The same of those of a call's requests that had their effect."""
        ids = [each.request_id for each in carried(request)] if request is not None else []
        return {id: answer for id in ids if (answer := await self.answered(id)) is not None}

    async def look(self) -> dict[str, Look]:
        """Gate beside ledger, wherever the ledger trusts the gate."""
        keys = [f"oh:{{{place}}}:{part}" for place in LOCATIONS for part in ("stock", "floors", "claims")]
        async with self.redis.pipeline(transaction=True) as pipeline:
            for key in keys:
                pipeline.hgetall(key)
            for place in LOCATIONS:
                pipeline.zrange(f"oh:{{{place}}}:due", 0, -1)
            *hashes, due_north, due_south, due_depot = await pipeline.execute()
        due = dict(zip(LOCATIONS, (due_north, due_south, due_depot), strict=True))
        looks = {}
        for row in await self._ledger.fetch():
            if (place := row["location_id"]) not in LOCATIONS:
                continue
            stock, floors, claims = (_text(h) for h in hashes[3 * LOCATIONS.index(place) :][:3])
            if stock.get("#run") == self._run_id and int(stock["#epoch"]) == row["epoch"]:
                looks[place] = _look(row, stock, floors, claims, {c.decode() for c in due[place]})
        return looks


def _nameless(text: str) -> str:
    """A row without ids and times, but with whether there is one."""
    row = json.loads(text)
    row["response"] = bool(row.get("response"))
    return UUID.sub("<id>", json.dumps(_lasting(row), sort_keys=True))


def _look(
    row: Any, stock: Mapping[str, str], floors: Mapping[str, str], claims: Mapping[str, str], due: set[str]
) -> Look:
    look = Look()
    want = {sku: available for sku, (available, _) in json.loads(row["levels"] or "{}").items()}
    have = Counter({sku: int(n) for sku, n in stock.items() if not sku.startswith("#")})
    states = {}
    for claim_id, state, lines, is_no_reservation in json.loads(row["claims"] or "[]"):
        states[claim_id] = state, is_no_reservation
        if state == "active":
            for sku, quantity in lines:
                want[sku] -= quantity
            if claim_id not in claims:
                look.unsafe.append(f"claim {claim_id} is not held")
    for claim_id, lines in claims.items():
        state, is_no_reservation = states.get(claim_id, ("", True))
        if state in ("", "expired") and is_no_reservation:
            look.orphans.append(claim_id)
            for sku, quantity in json.loads(lines):
                have[sku] += quantity
        elif state != "active":
            look.ended.append(f"{claim_id} {state}")
            if state in ("released", "expired"):
                look.behind.append(f"claim {claim_id}, {state}, was not given back")
                for sku, quantity in json.loads(lines):
                    have[sku] += quantity
    if claims.keys() != due:
        look.behind.append(f"claims {claims.keys() ^ due} are not in the hints, or only there")
    for sku in want.keys() | have.keys():
        if have[sku] != want.get(sku, 0):
            (look.unsafe if have[sku] > want.get(sku, 0) else look.behind).append(
                f"{sku}: {have[sku]} in the gate, {want.get(sku, 0)} in the ledger"
            )
    for sku, (_, floor) in json.loads(row["levels"] or "{}").items():
        if int(floors.get(sku, 0)) != floor:
            look.behind.append(f"{sku}: floor {floors.get(sku, 0)} in the gate, {floor} in the ledger")
    if int(stock["#delta"]) != row["last_number"]:
        look.behind.append(f"delta {stock['#delta']} of {row['last_number']}")
    return look


def _text(flat: Mapping[bytes, bytes]) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in flat.items()}


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        lasting = {key: _lasting(each) for key, each in value.items() if key not in VOLATILE}
        return {key: bool(each) if key.endswith(("time", "deadline")) else each for key, each in lasting.items()}
    if isinstance(value, list):
        return [_lasting(each) for each in value]
    return value


def meaning(answer: Message | None) -> str:
    """An answer without what differs between two runs of one call."""
    if answer is None:
        return ""
    fields = _lasting(MessageToDict(answer, preserving_proto_field_name=True))
    return UUID.sub("<id>", json.dumps(fields, sort_keys=True))
