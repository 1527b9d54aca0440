"""Typed calls of the gate's functions (gate.lua). Many locations and entries go into one script call.

Raises `Unreachable` where the outcome is unknown; `Untrusted` data is an answer, not an error: the caller rebuilds it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, NamedTuple, TypeGuard
from uuid import UUID

from redis.exceptions import ResponseError

from onhand.crash import step
from onhand.redis import LARGE_SECONDS_MAX, Command, GateConnections, Unreachable

LIBRARY = files(__package__).joinpath("gate.lua").read_text()
PREFIX = "onhand_3_"
"""Of the functions' names. Another meaning of an argument is another number: servers of both versions may run at once."""
DUMP_ROWS_MAX = 500
"""Claims of a dump that are read before others get their turn of the event loop."""
DUE_PAGE = 100
"""Claims past their hint that are read from one location at once."""


class Take(NamedTuple):
    """One claim to be made at one location. `lines` are (sku, quantity, channel threshold), a sku once."""

    location_id: str
    claim_id: UUID
    due_ms: int
    lines: Sequence[tuple[str, int, int]]
    is_fact: bool = False
    is_online: bool = False
    frees: UUID | None = None


@dataclass(frozen=True)
class Taken:
    """The claim is held, in data of this epoch; `overdrawn` is what a fact took below zero, by sku."""

    epoch: int
    overdrawn: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Refused:
    """Nothing was taken: what each short sku could promise."""

    epoch: int
    available: dict[str, int]


@dataclass(frozen=True)
class Untrusted:
    """The location's data is absent, or was not loaded into this run of the server."""


@dataclass(frozen=True)
class NoClaim:
    """The claim whose units should count as free is not held."""


TakeResult = Taken | Refused | Untrusted | NoClaim


@dataclass(frozen=True)
class Drop:
    """A claim whose row is closed: given back (released, expired) or forgotten (confirmed, consumed)."""

    location_id: str
    claim_id: UUID
    give_back: bool


Reminder = tuple[str, UUID, int]
"""Location, claim, and the milliseconds since 1970 after which the sweeper is to look at it again."""


@dataclass(frozen=True)
class Delta:
    """Increases of one commit at a location: (sku, quantity, new floor or None)."""

    number: int
    lines: Sequence[tuple[str, int, int | None]]


@dataclass(frozen=True)
class Header:
    """What a location's data is: 0 where it cannot be used. `loading`: the epoch of a load under way, in `loaded` parts so far."""

    epoch: int
    delta: int
    loading: int = 0
    loaded: int = 0


@dataclass(frozen=True)
class Dump:
    """Everything the gate holds of a location, at one moment."""

    epoch: int
    delta: int
    atp: dict[str, int]
    floors: dict[str, int]
    claims: dict[UUID, list[tuple[str, int]]]
    due_ms: dict[UUID, int]


@dataclass(frozen=True)
class LoadPart:
    """A part of a load, in JSON arrays of strings as the gate takes them: whoever reads them needs no eye for each value.

    stock: sku, ATP before floors, ...; floors: sku, floor, ...; claims: id, lines as JSON, ...; due: milliseconds, id, ...
    """

    epoch: int
    delta: int
    is_first: bool = False
    is_last: bool = False
    stock: str = "[]"
    floors: str = "[]"
    claims: str = "[]"
    due: str = "[]"


_encode = json.JSONEncoder(separators=(",", ":")).encode


def _keys(location_id: str) -> tuple[str, str, str, str]:
    tag = "oh:{" + location_id + "}:"
    return tag + "stock", tag + "floors", tag + "claims", tag + "due"


def _call(
    function: str, run_id: str, location_ids: Sequence[str], argument: Any, *encoded: str, read: bool = False
) -> Command:
    keys = [key for location_id in location_ids for key in _keys(location_id)]
    packed = _encode(argument)
    return ["FCALL_RO" if read else "FCALL", PREFIX + function, len(keys), *keys, run_id, packed, *encoded]


def _checked(reply: Any) -> Any:
    if isinstance(reply, ResponseError):
        raise Unreachable(str(reply)) from reply
    return reply


def _pairs(flat: Sequence[bytes]) -> dict[str, bytes]:
    return {key.decode(): value for key, value in zip(flat[::2], flat[1::2], strict=True)}


class Gate:
    """One gate: a Redis or Valkey server with the function library."""

    def __init__(self, connections: GateConnections) -> None:
        self.connections = connections

    async def _one(self, function: str, location_ids: Sequence[str], argument: Any, *, read: bool = False) -> Any:
        (reply,) = await self.connections.pipeline(
            lambda run_id: [_call(function, run_id, location_ids, argument, read=read)]
        )
        return _checked(reply)

    @step("gate.take", model=("take",))
    async def take(self, takes: Sequence[Take], reminders: Sequence[Reminder] = ()) -> list[TakeResult]:
        """Makes claims, each whole or not at all; and sets when the sweeper is to look at others again."""
        place: dict[str, int] = {}
        entries: list[list[Any]] = []
        for t in takes:
            kind = "fact" if t.is_fact else "online" if t.is_online else "till"
            entry = [place.setdefault(t.location_id, len(place) + 1), str(t.claim_id), t.due_ms, kind, t.lines]
            if t.frees is not None:
                entry.append(str(t.frees))
            entries.append(entry)
        hints = [(place.setdefault(loc, len(place) + 1), str(claim), due_ms) for loc, claim, due_ms in reminders]
        command = self._take_command(list(place), _encode(entries), _encode(hints))
        (reply,) = await self.connections.pipeline(command)
        results = json.loads(_checked(reply))
        taken = {r: Taken(r) for r in set(filter(_is_epoch, results))}
        return [taken[r] if _is_epoch(r) else _take_result(r) for r in results]

    @staticmethod
    def _take_command(location_ids: Sequence[str], entries: str, hints: str) -> Callable[[str], list[Command]]:
        keys = [key for location_id in location_ids for key in _keys(location_id)]
        return lambda run_id: [["FCALL", PREFIX + "take", len(keys), *keys, run_id, entries, hints]]

    @step("gate.drop", model=("undo", "give_back", "forget"))
    async def drop(self, drops: Sequence[Drop]) -> list[int]:
        """Ends claims. Returns the epoch of each one's location, 0 where its data cannot be used."""
        place: dict[str, int] = {}
        entries = [
            {
                "location": place.setdefault(d.location_id, len(place) + 1),
                "claim": str(d.claim_id),
                "give_back": d.give_back,
            }
            for d in drops
        ]
        epochs: list[int] = json.loads(await self._one("drop", list(place), entries))
        return epochs

    @step("gate.apply", model=("apply",))
    async def apply(self, deltas: Sequence[tuple[str, Sequence[Delta]]]) -> list[Header]:
        """Applies increases in order, once. Returns for each location what it has now."""
        entries = [
            {"location": n, "deltas": [[d.number, d.lines] for d in of_location]}
            for n, (_, of_location) in enumerate(deltas, 1)
        ]
        rows = json.loads(await self._one("apply", [location_id for location_id, _ in deltas], entries))
        return [Header(epoch, number) for epoch, number in rows]

    @step("gate.read", model=("read",))
    async def read(self, wanted: Sequence[tuple[str, Sequence[str]]]) -> list[tuple[int, list[tuple[int, int]]] | None]:
        """For each (location, skus) the epoch and each sku's (ATP before floors, floor); None where it cannot be used."""
        place: dict[str, int] = {}
        lists: dict[int, int] = {}  # locations of one read share the list of their skus
        pairs: list[int] = []
        for location_id, skus in wanted:
            pairs.append(place.setdefault(location_id, len(place) + 1))
            pairs.append(lists.setdefault(id(skus), len(lists) + 1))
        by_id = {id(skus): skus for _, skus in wanted}
        packed = _encode(([by_id[each] for each in lists], pairs))
        keys = [key for location_id in place for key in _keys(location_id)[:2]]
        command: list[str | int] = ["FCALL_RO", PREFIX + "read", len(keys), *keys]
        (reply,) = await self.connections.pipeline(lambda run_id: [[*command, run_id, packed]])
        return _levels(wanted, _checked(reply))

    @step("gate.load", model=("begin", "part", "publish"))
    async def load(self, location_id: str, part: LoadPart, run_id: str) -> bool:
        """Loads a part of a location into the run that `run_id` names. False if a younger load, or another run, was met."""
        header = {"epoch": part.epoch, "delta": part.delta, "is_first": part.is_first, "is_last": part.is_last}
        encoded = (part.stock, part.floors, part.claims, part.due)

        def build(actual: str) -> list[Command]:
            return [_call("load", actual, [location_id], header, *encoded) if actual == run_id else ("PING",)]

        (reply,) = await self.connections.pipeline(build)
        return bool(_checked(reply) == 1)

    @step("gate.run_id")
    async def run_id(self) -> str:
        """The run id of the server that answers now."""
        seen: list[str] = []

        def build(actual: str) -> list[Command]:
            seen.append(actual)
            return [("PING",)]

        _checked((await self.connections.pipeline(build))[0])
        return seen[0]

    @step("gate.patrol", model=("read",))
    async def patrol(self, location_ids: Sequence[str], now_ms: int) -> list[tuple[Header, list[UUID]]]:
        """For each location its header and claims whose hint has passed, at most DUE_PAGE each."""
        run_seen = ""

        def build(run_id: str) -> list[Command]:
            nonlocal run_seen
            run_seen = run_id
            commands: list[Command] = []
            for location_id in location_ids:
                stock, _, _, due = _keys(location_id)
                commands.append(("HMGET", stock, "#run", "#epoch", "#delta", "#loading_run", "#loading", "#loaded"))
                commands.append(("ZRANGEBYSCORE", due, "-inf", now_ms, "LIMIT", 0, DUE_PAGE))
            return commands

        replies = [_checked(r) for r in await self.connections.pipeline(build)]
        result: list[tuple[Header, list[UUID]]] = []
        for (run, epoch, delta, loading_run, loading, loaded), due in zip(replies[::2], replies[1::2], strict=True):
            is_usable = run is not None and run.decode() == run_seen and epoch is not None
            is_loading = loading_run is not None and loading_run.decode() == run_seen
            header = Header(
                int(epoch) if is_usable else 0,
                int(delta or 0) if is_usable else 0,
                int(loading or 0) if is_loading else 0,
                int(loaded or 0) if is_loading else 0,
            )
            result.append((header, [UUID(c.decode()) for c in due] if is_usable else []))
        return result

    @step("gate.remind")
    async def remind(self, hints: Sequence[Reminder]) -> None:
        """Sets when the sweeper is to look at claims again."""
        of_location: dict[str, list[str | int]] = {}
        for location_id, claim_id, due_ms in hints:
            of_location.setdefault(location_id, []).extend((due_ms, str(claim_id)))
        await self.connections.pipeline(
            lambda _: [("ZADD", _keys(loc)[3], "XX", *pairs) for loc, pairs in of_location.items()]
        )

    @step("gate.size")
    async def size(self, location_id: str) -> int:
        """How many skus a location has, about: its header counts too."""
        (reply,) = await self.connections.pipeline(lambda _: [("HLEN", _keys(location_id)[0])])
        return int(_checked(reply))

    @step("gate.dump")
    async def dump(self, location_id: str, skus: Sequence[str] | None = None) -> Dump | None:
        """A location, or of its skus only these, with all claims; None where its data cannot be used."""
        (reply,) = await self.connections.pipeline(
            lambda run_id: [_call("dump", run_id, [location_id], skus, read=True)], seconds_max=LARGE_SECONDS_MAX
        )
        reply = _checked(reply)
        if reply[0] is None:
            return None
        stock, floors, due = _pairs(reply[2]), _pairs(reply[3]), _pairs(reply[5])
        claims: dict[UUID, list[tuple[str, int]]] = {}
        for n, (claim_id, lines) in enumerate(zip(reply[4][::2], reply[4][1::2], strict=True)):
            claims[UUID(claim_id.decode())] = [(s, int(q)) for s, q in json.loads(lines)]
            if n % DUMP_ROWS_MAX == 0:
                await asyncio.sleep(0)
        return Dump(
            epoch=reply[0],
            delta=reply[1],
            atp={sku: int(value) for sku, value in stock.items() if not sku.startswith("#")},
            floors={sku: int(value) for sku, value in floors.items()},
            claims=claims,
            due_ms={UUID(claim_id): int(float(ms)) for claim_id, ms in due.items()},
        )


def _levels(
    wanted: Sequence[tuple[str, Sequence[str]]], reply: Sequence[bytes | None]
) -> list[tuple[int, list[tuple[int, int]]] | None]:
    """The rows of a read."""
    rows: list[tuple[int, list[tuple[int, int]]] | None] = []
    at = 0
    for _, skus in wanted:
        epoch = reply[at]
        at += 1
        if epoch is None:
            rows.append(None)
            continue
        end = at + 2 * len(skus)
        atps, floors = reply[at:end:2], reply[at + 1 : end : 2]
        rows.append((int(epoch), [(int(n or 0), int(floor or 0)) for n, floor in zip(atps, floors, strict=True)]))
        at = end
    return rows


def _is_epoch(result: int | dict[str, Any]) -> TypeGuard[int]:
    return isinstance(result, int)


def _take_result(value: dict[str, Any]) -> TakeResult:
    if "refused" in value:
        return Refused(value["epoch"], {sku: int(n) for sku, n in value["refused"]})
    if "epoch" in value:
        return Taken(value["epoch"], {sku: int(n) for sku, n in value.get("overdrawn", ())})
    return NoClaim() if "no_claim" in value else Untrusted()
