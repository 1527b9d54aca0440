"""A client for load: HTTP/2 with prior knowledge, where a call costs some 20 us. Decision 0011 says why it is our own.

It speaks as much of RFC 9113 as a server needs to serve it: flow control both ways, SETTINGS and PING answered, RST_STREAM and
GOAWAY heeded. It never decodes a header: whether a call was answered shows in its frames. Of gRPC, DATA before the end is an
answer and its absence a refusal; of Connect, the first header is :status, and 200 one fixed byte.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
STREAM_WINDOW_BYTES = 4 * 1024 * 1024
"""How much of one answer a server may send before it is told to go on."""
CONNECTION_WINDOW_BYTES = 64 * 1024 * 1024
"""The same, of all answers of a connection."""
SERVER_WINDOW_BYTES = 65_535
"""What a server takes before it says otherwise (RFC 9113, 6.9.2)."""
FRAME_BYTES = 16_384
"""The largest frame that a server takes before it says otherwise, and that we take."""
STREAMS_MAX = 2**31 - 1
"""Calls at once on a connection, before a server says otherwise."""
ENTRY_BYTES = 32
"""What an entry of a table of headers costs beside its text (RFC 7541, 4.1)."""
RETURNED_MAX = 10_000
"""Calls of a connection that are made again because the server had no room for them, after which they count as refused."""
HELLO_SECONDS_MAX = 10.0
"""How long a server may take to say its SETTINGS."""

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20
SETTING_TABLE, SETTING_PUSH, SETTING_STREAMS, SETTING_WINDOW, SETTING_FRAME = 1, 2, 3, 4, 5
REFUSED_STREAM = 7
STATUS_200 = 0x88
"""The first byte of a header block that begins with `:status: 200` (RFC 7541, appendix A, entry 8)."""

FRAME = struct.Struct(">HBBBL")
"""Length (high 16 and low 8 bits), type, flags, stream."""
LONG = struct.Struct(">L")
SETTING = struct.Struct(">HL")
PREFIX = struct.Struct(">BL")
"""What gRPC puts before each message: whether it is compressed, and its length."""

Answered = Callable[[float, bytes | None], None]
"""Given the token of a call and its answer, None where it was refused."""


class ConnectionEnded(Exception):
    """The server closed a connection on which calls were under way, or refuses new ones."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return FRAME.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def _string(text: str) -> bytes:
    encoded = text.encode("ascii")
    if len(encoded) > 126:
        raise ValueError(f"longer than a length of one byte can say: {text}")
    return bytes((len(encoded),)) + encoded


@dataclass(frozen=True)
class Head:
    """The headers of every call of a connection: the first call teaches them to the server, later ones name them by number."""

    path: str
    content_type: str
    more: tuple[tuple[str, str], ...] = ()
    is_grpc: bool = True
    _fields: tuple[tuple[str, str], ...] = field(init=False)

    def __post_init__(self) -> None:
        fields = ((":path", self.path), (":authority", "onhand"), ("content-type", self.content_type))
        object.__setattr__(self, "_fields", (*fields, ("user-agent", "onhand-bench"), *self.more))

    @property
    def table_bytes(self) -> int:
        """What a server has to keep of them."""
        return sum(len(name) + len(value) + ENTRY_BYTES for name, value in self._fields)

    def block(self, *, is_first: bool, has_table: bool = True) -> bytes:
        """A header block (RFC 7541). Without a table the headers are spelt out each time."""
        block = bytearray((0x83, 0x86))  # :method: POST, :scheme: http
        for n, (name, value) in enumerate(self._fields):
            if has_table and not is_first:
                block.append(0x80 | 62 + len(self._fields) - 1 - n)  # the newest entry is 62
            else:
                block.append(0x40 if has_table else 0x00)
                block += _string(name) + _string(value)
        return bytes(block)


def grpc_head(path: str, seconds: int | None) -> Head:
    """The headers of gRPC calls, with a deadline unless it is None."""
    deadline = (("grpc-timeout", f"{seconds}S"),) if seconds is not None else ()
    return Head(path, "application/grpc", (("te", "trailers"), *deadline))


def connect_head(path: str, seconds: int) -> Head:
    """The headers of unary Connect calls with a deadline."""
    more = (("connect-protocol-version", "1"), ("connect-timeout-ms", str(1000 * seconds)))
    return Head(path, "application/proto", more, is_grpc=False)


@dataclass
class _Outgoing:
    """What a stream has still to send, and may."""

    window: int
    waiting: bytearray = field(default_factory=bytearray)
    is_last: bool = False


class Connection(asyncio.Protocol):
    """Calls of one method over one connection. Nothing is sent before `flush`, or the end of a round of answers."""

    def __init__(
        self,
        head: Head,
        answered: Answered,
        *,
        stream_window_bytes: int = STREAM_WINDOW_BYTES,
        connection_window_bytes: int = CONNECTION_WINDOW_BYTES,
    ) -> None:
        self._head = head
        self.answered = answered
        self._stream_window = stream_window_bytes
        self._connection_window = connection_window_bytes
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self.refusal = b""
        """The header block of the last refusal, as it came."""
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._out: list[bytes] = []
        self._next = 1
        self._is_going = False
        # what the server allows
        self._window = SERVER_WINDOW_BYTES
        self._window_of_new = SERVER_WINDOW_BYTES
        self._frame_max = FRAME_BYTES
        self._streams_max = STREAMS_MAX
        self._outgoing: dict[int, _Outgoing] = {}
        self._queued: deque[tuple[bytes, float]] = deque()
        # what is under way
        self._asked: dict[int, tuple[bytes, float]] = {}
        self._returned = 0
        self._bodies: dict[int, bytes] = {}
        self._heard: dict[int, Callable[[bytes | None], None]] = {}
        self._unread: dict[int, bytearray] = {}
        self._received: dict[int, int] = {}
        self._accepted: set[int] = set()
        self._consumed = 0
        self._set_blocks(has_table=True)

    def _set_blocks(self, *, has_table: bool) -> None:
        self._first = self._head.block(is_first=True, has_table=has_table)
        self._later = self._head.block(is_first=False, has_table=has_table)
        size = len(self._later)
        self._opening = FRAME.pack(size >> 8, size & 0xFF, HEADERS, END_HEADERS, 0)[:5]
        self._grpc_call = struct.Struct(f">5sL{size}sHBBBLBL")
        self._plain_call = struct.Struct(f">5sL{size}sHBBBL")

    # -------------------------------------------------------------------------------------------------------- sending
    def call(self, body: bytes, token: float) -> None:
        """Begins a unary call; `answered` is given the token with what became of it. Raises ConnectionEnded."""
        if self._is_going:
            raise ConnectionEnded("the server takes no more calls on this connection")
        if len(self._asked) >= self._streams_max:
            self._queued.append((body, token))
            return
        stream, size = self._next, len(body)
        self._asked[stream] = (body, token)
        sent = size + 5 if self._head.is_grpc else size
        if stream == 1 or sent > self._frame_max or sent > self._window or sent > self._window_of_new or self._outgoing:
            self._open(stream)
            self._send(stream, PREFIX.pack(0, size) + body if self._head.is_grpc else body, is_last=True)
            return
        self._next = stream + 2
        self._window -= sent
        high, low = sent >> 8, sent & 0xFF
        if self._head.is_grpc:
            head = self._grpc_call.pack(
                self._opening, stream, self._later, high, low, DATA, END_STREAM, stream, 0, size
            )
        else:
            head = self._plain_call.pack(self._opening, stream, self._later, high, low, DATA, END_STREAM, stream)
        self._out.append(head)
        self._out.append(body)

    def open_stream(self, heard: Callable[[bytes | None], None]) -> int:
        """Begins a bidirectional gRPC stream; `heard` is given each message of the server, then None at its end."""
        stream = self._next
        self._open(stream)
        self._heard[stream] = heard
        self._unread[stream] = bytearray()
        self._received[stream] = 0
        return stream

    def send(self, stream: int, message: bytes) -> None:
        """Sends a message on an open stream."""
        self._send(stream, PREFIX.pack(0, len(message)) + message, is_last=False)

    def finish(self, stream: int) -> None:
        """Says that no more messages come on an open stream."""
        self._send(stream, b"", is_last=True)

    def flush(self) -> None:
        """Sends what was said since."""
        for stream in list(self._outgoing):
            self._pump(stream)
        if self._out and self._transport is not None:
            self._transport.write(b"".join(self._out))
            self._out.clear()

    def close(self) -> None:
        """Ends the connection, whatever is under way."""
        if self._transport is not None:
            self._transport.close()

    def _open(self, stream: int) -> None:
        self._next = stream + 2
        self._out.append(frame(HEADERS, END_HEADERS, stream, self._first if stream == 1 else self._later))

    def _send(self, stream: int, data: bytes, *, is_last: bool) -> None:
        outgoing = self._outgoing.get(stream)
        if outgoing is None:
            outgoing = self._outgoing[stream] = _Outgoing(self._window_of_new)
        outgoing.waiting += data
        outgoing.is_last = is_last

    def _pump(self, stream: int) -> None:
        outgoing = self._outgoing[stream]
        while outgoing.waiting:
            size = min(len(outgoing.waiting), outgoing.window, self._window, self._frame_max)
            if size <= 0:
                return
            chunk = bytes(outgoing.waiting[:size])
            del outgoing.waiting[:size]
            outgoing.window -= size
            self._window -= size
            ends = outgoing.is_last and not outgoing.waiting
            self._out.append(frame(DATA, END_STREAM if ends else 0, stream, chunk))
            if ends:
                del self._outgoing[stream]
                return
        if outgoing.is_last:
            self._out.append(frame(DATA, END_STREAM, stream))
            del self._outgoing[stream]

    # ------------------------------------------------------------------------------------------------------ receiving
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        self._transport = transport
        settings = ((SETTING_PUSH, 0), (SETTING_WINDOW, self._stream_window), (SETTING_FRAME, FRAME_BYTES))
        more = LONG.pack(self._connection_window - SERVER_WINDOW_BYTES)
        transport.write(
            PREFACE
            + frame(SETTINGS, 0, 0, b"".join(SETTING.pack(*setting) for setting in settings))
            + frame(WINDOW_UPDATE, 0, 0, more)
        )

    def connection_lost(self, error: Exception | None) -> None:
        why = ConnectionEnded(f"the connection was closed ({error or 'by the server'})")
        for waiting in (self.ready, self.lost):
            if not waiting.done():
                waiting.set_exception(why)
                waiting.exception()  # whoever wants it has it

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        size, at = len(data), 0
        while size - at >= 9:
            high, low, kind, flags, stream = FRAME.unpack_from(data, at)
            begin = at + 9
            end = begin + (high << 8 | low)
            if end > size:
                break
            at = end
            if kind == DATA:
                self._data(stream, flags, data, begin, end)
            elif kind == HEADERS:
                self._headers(stream, flags, data, begin, end)
            else:
                self._control(kind, flags, stream, data[begin:end])
        self._rest = data[at:]
        if self._consumed > self._connection_window // 2:
            self._out.append(frame(WINDOW_UPDATE, 0, 0, LONG.pack(self._consumed)))
            self._consumed = 0
        self.flush()

    def _data(self, stream: int, flags: int, data: bytes, begin: int, end: int) -> None:
        self._consumed += end - begin
        size = end - begin
        if flags & PADDED:
            end -= data[begin]
            begin += 1
        if stream in self._heard:
            self._listen(stream, data[begin:end], size)
        elif stream in self._bodies:
            self._bodies[stream] += data[begin:end]
            if not flags & END_STREAM and size:
                self._out.append(frame(WINDOW_UPDATE, 0, stream, LONG.pack(size)))
        else:
            self._bodies[stream] = data[begin:end]
        if flags & END_STREAM:
            self._end(stream)

    def _listen(self, stream: int, chunk: bytes, size: int) -> None:
        unread, heard = self._unread[stream], self._heard[stream]
        unread += chunk
        at = 0
        while len(unread) - at >= 5:
            end = at + 5 + LONG.unpack_from(unread, at + 1)[0]
            if end > len(unread):
                break
            heard(bytes(unread[at + 5 : end]))
            at = end
        del unread[:at]
        self._received[stream] += size
        if self._received[stream] > self._stream_window // 2:
            self._out.append(frame(WINDOW_UPDATE, 0, stream, LONG.pack(self._received[stream])))
            self._received[stream] = 0

    def _headers(self, stream: int, flags: int, data: bytes, begin: int, end: int) -> None:
        is_grpc = self._head.is_grpc
        if flags & END_STREAM and is_grpc:
            if stream not in self._bodies:
                self.refusal = data[begin:end]
            self._end(stream)
            return
        if not is_grpc:
            at = begin + (1 if flags & PADDED else 0) + (5 if flags & PRIORITY else 0)
            while at < end and data[at] & 0xE0 == 0x20:  # the size of the table changes
                at += 1
            if data[at] == STATUS_200:
                self._accepted.add(stream)
            else:
                self.refusal = data[at:end]
            if flags & END_STREAM:
                self._end(stream)

    def _end(self, stream: int) -> None:
        heard = self._heard.pop(stream, None)
        if heard is not None:
            self._unread.pop(stream)
            self._outgoing.pop(stream, None)
            heard(None)
            return
        body = self._bodies.pop(stream, None)
        if self._head.is_grpc:
            message = body[5:] if body is not None else None
        else:
            message = body or b""
            if stream in self._accepted:
                self._accepted.discard(stream)
            else:
                self.refusal += message
                message = None
        self._settle(stream, message)

    def _settle(self, stream: int, message: bytes | None) -> None:
        if self._outgoing:
            self._outgoing.pop(stream, None)
        asked = self._asked.pop(stream, None)
        if self._queued and len(self._asked) < self._streams_max:
            self.call(*self._queued.popleft())
        if asked is not None:
            self.answered(asked[1], message)

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == WINDOW_UPDATE:
            (more,) = LONG.unpack(payload)
            if stream == 0:
                self._window += more
            elif stream in self._outgoing:
                self._outgoing[stream].window += more
        elif kind == PING and not flags & ACK:
            self._out.append(frame(PING, ACK, 0, payload))
        elif kind == SETTINGS and not flags & ACK:
            self._settings([SETTING.unpack_from(payload, at) for at in range(0, len(payload), SETTING.size)])
            self._out.append(frame(SETTINGS, ACK, 0))
            if not self.ready.done():
                self.ready.set_result(None)
        elif kind == RST_STREAM:
            self._reset(stream, payload)
        elif kind == GOAWAY:
            self._is_going = True

    def _reset(self, stream: int, payload: bytes) -> None:
        self._bodies.pop(stream, None)
        asked = self._asked.get(stream)
        if LONG.unpack(payload)[0] == REFUSED_STREAM and asked is not None and self._returned < RETURNED_MAX:
            # Untouched (RFC 9113, 8.7): the server counts a call that has just ended as under way. Later, then.
            self._returned += 1
            del self._asked[stream]
            self._queued.append(asked)
            if not self._asked:
                self.call(*self._queued.popleft())
            return
        self.refusal = b"RST_STREAM " + payload
        if stream in self._heard:
            self._end(stream)
        else:
            self._settle(stream, None)

    def _settings(self, settings: Sequence[tuple[int, int]]) -> None:
        for name, value in settings:
            if name == SETTING_STREAMS:
                self._streams_max = value
            elif name == SETTING_FRAME:
                self._frame_max = value
            elif name == SETTING_WINDOW:
                for outgoing in self._outgoing.values():
                    outgoing.window += value - self._window_of_new
                self._window_of_new = value
            elif name == SETTING_TABLE and value < self._head.table_bytes:
                if self._next > 1:
                    raise ConnectionEnded("the server forgets headers that calls under way were to name")
                self._set_blocks(has_table=False)


async def connect(host: str, port: int, head: Head, answered: Answered, **windows: int) -> Connection:
    """A connection to a server that speaks HTTP/2 at once. Raises OSError, ConnectionEnded, TimeoutError.

    `windows`: stream_window_bytes and connection_window_bytes of Connection.
    """
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(head, answered, **windows), host, port)
    async with asyncio.timeout(HELLO_SECONDS_MAX):
        await connection.ready
    return connection
