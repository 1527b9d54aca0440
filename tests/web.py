"""onhand as its callers over plain HTTP have it: a second edge on a real port, and a client that sends any bytes."""

from __future__ import annotations

import asyncio
import base64
import json
import site
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import grpc_tools
from google.protobuf.message import Message
from google.rpc import status_pb2
from grpc_tools import protoc

from api import Api
from onhand.dev.process import free_port
from onhand.edge.http import HttpServer
from onhand.edge.server import Server

Response = TypeVar("Response", bound=Message)

ROOT = Path(__file__).parents[1]
PROTO, JSON = "application/proto", "application/json"
INVENTORY = "/onhand.v1.InventoryService/"
SECONDS_MAX = 30.0
"""How long an answer may take. No test asserts how long it took."""


@dataclass
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> Any:
        """The body as JSON."""
        assert self.headers["content-type"] == JSON, self
        return json.loads(self.body)

    def message(self, response_type: type[Response]) -> Response:
        """The body as protobuf of a call that went well."""
        assert (self.status, self.headers["content-type"]) == (200, PROTO), self
        return response_type.FromString(self.body)

    def error(self) -> dict[str, Any]:
        """The error of a call that did not."""
        assert self.status != 200, self
        error: dict[str, Any] = self.json()
        return error

    def refusal(self) -> status_pb2.Status:
        """The same as google.rpc.Status, put together from what generated clients read; without its code."""
        status = status_pb2.Status(message=self.error()["message"])
        for detail in self.error().get("details", ()):
            status.details.add(
                type_url=f"type.googleapis.com/{detail['type']}", value=base64.b64decode(detail["value"] + "==")
            )
        return status

    def reason(self) -> str:
        """The stable reason of a refusal, as a person reads it."""
        reason: str = self.error()["details"][0]["debug"]["reason"]
        return reason


class Web:
    """HTTP/1.1 by hand: one connection a request unless told otherwise."""

    def __init__(self, port: int, server: Server, edge: HttpServer) -> None:
        self.port = port
        self.server = server
        self.edge = edge

    async def send(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Reply:
        """One request."""
        given = dict(headers or {})
        if body is not None and "transfer-encoding" not in given:
            given.setdefault("content-length", str(len(body)))
        lines = [f"{method} {path} HTTP/1.1", "host: onhand", *(f"{k}: {v}" for k, v in given.items()), "", ""]
        return await self.raw("\r\n".join(lines).encode("latin-1") + (body or b""), has_body=method != "HEAD")

    async def raw(self, request: bytes, *, has_body: bool = True) -> Reply:
        """Any bytes, and what comes back."""
        async with asyncio.timeout(SECONDS_MAX), self.connection() as (reader, writer):
            writer.write(request)
            return await read_reply(reader, has_body=has_body)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A connection that stays."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.close()

    async def call(self, method: str, request: Message, **headers: str) -> Reply:
        """A call in protobuf: `Reserve`, or the whole path. Underscores in names of headers stand for hyphens."""
        return await self.post(method, request.SerializeToString(), PROTO, **headers)

    async def post(
        self, method: str, body: bytes | Mapping[str, object], content_type: str = JSON, **headers: str
    ) -> Reply:
        """A call of any bytes, or of an object as JSON."""
        path = method if method.startswith("/") else INVENTORY + method
        encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.send("POST", path, {"content-type": content_type} | named, encoded)


async def read_reply(reader: asyncio.StreamReader, *, has_body: bool = True) -> Reply:
    """One response."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) if ": " in line else (line, "") for line in head[1:] if line)
    # Names are lower case, values as they came.
    values = {
        name: next(h.split(": ", 1)[1] for h in head[1:] if h.lower().startswith(f"{name}: ")) for name in headers
    }
    length = int(values.get("content-length", "0"))
    return Reply(int(head[0].split()[1]), values, await reader.readexactly(length) if has_body else b"")


def schema(folder: Path) -> Path:
    """Everything that the protos declare, as clients of any language know it: a FileDescriptorSet."""
    image = folder / "onhand.binpb"
    protos = sorted((ROOT / "protos" / "onhand" / "v1").glob("*.proto"))
    includes = [ROOT / "protos", Path(grpc_tools.__file__).parent / "_proto", site.getsitepackages()[0]]
    named = [*map(str, protos), "google/rpc/error_details.proto"]
    assert protoc.main(["protoc", *(f"-I{path}" for path in includes), "--include_imports", f"-o{image}", *named]) == 0
    return image


@asynccontextmanager
async def second_edge(api: Api, origins: Sequence[str] = ()) -> AsyncIterator[Web]:
    """Connect on a free port, beside another gRPC server of the same handlers that is not started."""
    server = api.app.server()
    async with web_of(server, api.app.second_edge(server, "127.0.0.1", free_port(), origins)) as web:
        yield web


@asynccontextmanager
async def web_of(server: Server, edge: HttpServer) -> AsyncIterator[Web]:
    """An edge, started, and stopped with what it serves."""
    await edge.start()
    try:
        yield Web(edge.port, server, edge)
    finally:
        with patch("onhand.edge.method.DRAIN_SECONDS_MIN", 0):
            await server.calls.drain()
        await edge.stop()
