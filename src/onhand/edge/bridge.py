"""gRPC without trailers, as Envoy's reverse bridge brings it over HTTP/1.1 (`envoy.filters.http.grpc_http1_reverse_bridge`).

The bridge adds `grpc-status: 0` behind a body. A refusal is an answer without a body: the headers that say it pass through as
they are, and a gRPC client takes them as the whole of the answer, details included.
"""

from __future__ import annotations

import base64
from functools import lru_cache
from typing import Final
from urllib.parse import quote

import grpc
from google.protobuf.message import Message
from google.rpc import status_pb2

from onhand.edge.connect_wire import (
    STATUSES_MAX,
    Answer,
    Decode,
    Headers,
    Servable,
    Unreadable,
    uncompressed,
    unreadable,
)
from onhand.edge.errors import DETAILS_KEY

CONTENT_TYPE = "application/grpc"
FRAME_BYTES: Final = 5
"""Before each message: whether it is compressed, and its length."""
TIMEOUT_DIGITS_MAX = 8
"""Digits of grpc-timeout, as gRPC has it."""
UNIT_SECONDS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_HEADERS: Headers = [("content-type", CONTENT_TYPE)]


class Bridged:
    """Protobuf, framed."""

    def decoder(self, method: Servable) -> Decode | None:
        """As the method reads it."""
        return None

    def answer(self, message: Message) -> Answer:
        """A response message."""
        encoded = message.SerializeToString()
        return Answer(200, _HEADERS, b"\0" + len(encoded).to_bytes(4) + encoded)

    def refusal(self, status: status_pb2.Status) -> Answer:
        """A refusal."""
        return refusal_of(status.SerializeToString())

    def refusal_at_once(self, encoded_status: bytes) -> Answer:
        """A refusal for want of room, the same one for many calls."""
        return _kept(encoded_status)

    def unreadable(self, wrong: Unreadable) -> Answer:
        """What is no call."""
        return Answer(200, [*_HEADERS, *_status_headers(wrong.code.value[0], wrong.message)], b"")


def refusal_of(encoded_status: bytes) -> Answer:
    """An answer without a body, of which the headers say what gRPC says behind one."""
    status = status_pb2.Status.FromString(encoded_status)
    details = base64.b64encode(encoded_status).rstrip(b"=").decode("ascii")
    return Answer(200, [*_HEADERS, *_status_headers(status.code, status.message), (DETAILS_KEY, details)], b"")


_kept = lru_cache(STATUSES_MAX)(refusal_of)


def _status_headers(code: int, message: str) -> Headers:
    return [("grpc-status", str(code)), ("grpc-message", quote(message, safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}~"))]


def unframed(body: bytes, compression: str | None) -> bytes:
    """The one message of a body. Raises Unreadable."""
    if len(body) < FRAME_BYTES or len(body) != FRAME_BYTES + int.from_bytes(body[1:FRAME_BYTES]) or body[0] > 1:
        raise unreadable("the body is not one message of gRPC")
    message = body[FRAME_BYTES:]
    return uncompressed(compression or "identity", message) if body[0] else message


def seconds_of(timeout: str | None) -> float | None:
    """What grpc-timeout gives a call, in seconds; None: it has no deadline. Raises Unreadable."""
    if timeout is None:
        return None
    digits, unit = timeout[:-1], UNIT_SECONDS.get(timeout[-1:])
    if unit is None or not (digits.isascii() and digits.isdigit() and len(digits) <= TIMEOUT_DIGITS_MAX):
        raise Unreadable(grpc.StatusCode.INTERNAL, "grpc-timeout is a number and its unit")
    return int(digits) * unit


BRIDGED = Bridged()
