"""How Connect writes a call: encodings, deadlines, compression, queries, refusals (connectrpc.com/docs/protocol, unary calls).

What is not a call at all, or one that cannot be read, is an `Unreadable`: it becomes an answer like any other refusal.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qsl

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.message import Message
from google.rpc import status_pb2

from onhand.domain.errors import Overloaded, Refusal, invalid
from onhand.edge.errors import CODES
from onhand.edge.method import MESSAGE_BYTES_MAX

TIMEOUT_DIGITS_MAX = 10
"""Digits of Connect-Timeout-Ms, as the protocol has it."""
QUERY_FIELDS_MAX = 20
"""Parameters of a read by GET; the protocol has five."""
STATUSES_MAX = 64
"""Refusals made once for many calls, of which the answer is kept."""

HTTP_STATUS = {
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.UNAUTHENTICATED: 401,
}
"""The HTTP status of each code."""
_NAMES = {code: "canceled" if code is grpc.StatusCode.CANCELLED else code.name.lower() for code in HTTP_STATUS}
_CODES = {code.value[0]: code for code in HTTP_STATUS}

PROTO_TYPE, JSON_TYPE = "application/proto", "application/json"

Headers = list[tuple[str, str]]
_PROTO_HEADERS: Headers = [("content-type", PROTO_TYPE)]
_JSON_HEADERS: Headers = [("content-type", JSON_TYPE)]
Decode = Callable[[bytes], Message]


class Answer(NamedTuple):
    """What goes back: an HTTP status, headers, a body."""

    status: int
    headers: Headers
    body: bytes


class Unreadable(Exception):
    """What came is no call that is served here. `http_status`: where it is not the code's own."""

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        http_status: int | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.http_status = http_status
        self.headers = headers


def unreadable(message: str) -> Unreadable:
    """A call that breaks a rule of the protocol."""
    return Unreadable(grpc.StatusCode.INVALID_ARGUMENT, message)


class Servable(Protocol):
    """What may be called: a `Method`, or what looks like one."""

    @property
    def request_type(self) -> type[Message]:
        """What it takes."""

    async def answer(self, encoded: bytes, actor: str, seconds: float | None, decode: Decode | None = None) -> Message:
        """Answers one call, as `Method.answer` does."""

    def status(self, refusal: Refusal) -> status_pb2.Status:
        """A refusal as its caller is told of it."""


class Encoding(Protocol):
    """How a request is read and its answer written."""

    def decoder(self, method: Servable) -> Decode | None:
        """Reads a request, raises Refusal; None: it is protobuf as the method reads it."""

    def answer(self, message: Message) -> Answer:
        """A response message."""

    def refusal(self, status: status_pb2.Status) -> Answer:
        """A refusal."""

    def refusal_at_once(self, encoded_status: bytes) -> Answer:
        """A refusal for want of room, the same one for many calls."""

    def unreadable(self, wrong: Unreadable) -> Answer:
        """What is no call."""


# --------------------------------------------------------------------------------------------------------------- refusals


def error(code: grpc.StatusCode, message: str, details: list[dict[str, Any]] | None = None) -> bytes:
    """A refusal's body, in JSON whatever the call was in."""
    body: dict[str, Any] = {"code": _NAMES[code], "message": message}
    if details:
        body["details"] = details
    return _text(body)


def _text(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode("ascii")


def error_of(status: status_pb2.Status) -> Answer:
    """A refusal with its details: each encoded, as generated clients read it, and written out for people."""
    code = _CODES[status.code]
    details = []
    for packed in status.details:
        name = packed.type_url.rpartition("/")[2]
        detail = message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(name))()
        packed.Unpack(detail)
        details.append({
            "type": name,
            "value": base64.b64encode(packed.value).rstrip(b"=").decode("ascii"),
            "debug": json_format.MessageToDict(detail),
        })  # fmt: skip
    return Answer(HTTP_STATUS[code], _JSON_HEADERS, error(code, status.message, details))


@lru_cache(STATUSES_MAX)
def error_at_once(encoded_status: bytes) -> Answer:
    """The same refusal for many calls."""
    return error_of(status_pb2.Status.FromString(encoded_status))


class _Connect:
    """What all encodings of Connect share: their refusals, which are JSON."""

    def refusal(self, status: status_pb2.Status) -> Answer:
        """A refusal."""
        return error_of(status)

    def refusal_at_once(self, encoded_status: bytes) -> Answer:
        """A refusal for want of room, the same one for many calls."""
        return error_at_once(encoded_status)

    def unreadable(self, wrong: Unreadable) -> Answer:
        """What is no call."""
        status = wrong.http_status or HTTP_STATUS[wrong.code]
        return Answer(status, [*_JSON_HEADERS, *wrong.headers], error(wrong.code, wrong.message))


# -------------------------------------------------------------------------------------------------------------- encodings
class Proto(_Connect):
    """Protobuf."""

    def decoder(self, method: Servable) -> Decode | None:
        """As the method reads it."""
        return None

    def answer(self, message: Message) -> Answer:
        """A response message."""
        return Answer(200, _PROTO_HEADERS, message.SerializeToString())


class Json(_Connect):
    """Protobuf's JSON. A field that the request does not have is refused, for it may be one misspelt."""

    def decoder(self, method: Servable) -> Decode | None:
        """Reads UTF-8 text; raises InvalidRequest that says what is wrong."""

        def decode(encoded: bytes) -> Message:
            request = method.request_type()
            name = request.DESCRIPTOR.full_name
            if not encoded.lstrip().startswith(b"{"):  # the library takes a list for an empty object
                raise invalid("request", f"is no {name} in JSON: it is no object")
            try:
                json_format.Parse(encoded, request)
            except json_format.ParseError as wrong:
                raise invalid("request", f"is no {name} in JSON: {wrong}") from None
            except (ValueError, TypeError, AttributeError, RecursionError):
                # What the library does not expect: bytes that are no text, braces without end.
                raise invalid("request", f"is no {name} in JSON") from None
            return request

        return decode

    def answer(self, message: Message) -> Answer:
        """A response message, without the fields that have their zero value."""
        return Answer(200, _JSON_HEADERS, _text(json_format.MessageToDict(message)))


PROTO, JSON = Proto(), Json()
_BY_TYPE: dict[str, Encoding] = {PROTO_TYPE: PROTO, JSON_TYPE: JSON}
_BY_NAME: dict[str, Encoding] = {"proto": PROTO, "json": JSON}


def encoding_of(content_type: str | None) -> Encoding:
    """The encoding that a content type names. Raises Unreadable."""
    found = _BY_TYPE.get(content_type or "")
    if found is None:
        media_type, _, parameters = (content_type or "").partition(";")
        found = _BY_TYPE.get(media_type.strip().lower())
        if found is None or parameters.strip().lower() not in ("", "charset=utf-8", 'charset="utf-8"'):
            raise Unreadable(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"content-type {content_type} is not served; send {' or '.join(_BY_TYPE)}",
                http_status=415,
                headers=(("accept-post", ", ".join(_BY_TYPE)),),
            )
    return found


def uncompressed(name: str | None, content: bytes) -> bytes:
    """What a Content-Encoding hides. Raises Unreadable."""
    if not name or name == "identity":
        return content
    if name != "gzip":
        raise Unreadable(grpc.StatusCode.UNIMPLEMENTED, f"compression {name} is not served; send gzip or identity")
    unzip = zlib.decompressobj(wbits=31)
    try:
        found = unzip.decompress(content, MESSAGE_BYTES_MAX + 1)
    except zlib.error:
        raise unreadable("the request is not what gzip makes") from None
    if len(found) > MESSAGE_BYTES_MAX:
        raise too_large()
    if not unzip.eof or unzip.unused_data:
        raise unreadable("the request is not what gzip makes")
    return found


def too_large() -> Unreadable:
    """A request beyond MESSAGE_BYTES_MAX."""
    code = CODES[Overloaded.kind]
    return Unreadable(code, f"a request has at most {MESSAGE_BYTES_MAX} bytes")


def seconds_of(timeout_ms: str | None) -> float | None:
    """What Connect-Timeout-Ms gives a call, in seconds; None: it has no deadline. Raises Unreadable."""
    if timeout_ms is None:
        return None
    if not (timeout_ms.isascii() and timeout_ms.isdigit() and len(timeout_ms) <= TIMEOUT_DIGITS_MAX):
        raise unreadable(f"connect-timeout-ms is a number of at most {TIMEOUT_DIGITS_MAX} digits")
    return int(timeout_ms) / 1000


def read_by_get(query: str) -> tuple[Encoding, bytes]:
    """The encoding and the request that the query of a read carries. Raises Unreadable."""
    try:
        # Percent-encoded bytes, which may be no text.
        fields = dict(parse_qsl(query, keep_blank_values=True, encoding="latin-1", max_num_fields=QUERY_FIELDS_MAX))
    except ValueError:
        raise unreadable(f"the query has more than {QUERY_FIELDS_MAX} parameters") from None
    if fields.get("connect", "v1") != "v1":
        raise unreadable("connect is v1")
    encoding = _BY_NAME.get(fields.get("encoding", ""))
    if encoding is None:
        raise Unreadable(grpc.StatusCode.INVALID_ARGUMENT, f"encoding is {' or '.join(_BY_NAME)}", http_status=415)
    if "message" not in fields:
        raise unreadable("message is missing; it may be empty")
    message = fields["message"].encode("latin-1")
    is_base64 = fields.get("base64", "0")
    if is_base64 not in ("0", "1"):
        raise unreadable("base64 is 1, or left out")
    if is_base64 == "1":
        try:
            padded = message.rstrip(b"=") + b"=" * (-len(message.rstrip(b"=")) % 4)
            message = base64.b64decode(padded, altchars=b"-_", validate=True)
        except binascii.Error:
            raise unreadable("message is not base64 in its alphabet for URLs") from None
    return encoding, uncompressed(fields.get("compression"), message)
