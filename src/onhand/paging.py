"""Lists in pages: sizes, and opaque tokens that know which list they belong to.

A handler reads `page_size + 1` rows after the key that the token holds; `cut` tells whether there is a further page.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from google.protobuf.message import Message

from onhand.domain.errors import PageTokenInvalid, invalid

PAGE_SIZE_DEFAULT = 50
PAGE_SIZE_MAX = 500
TOKEN_LENGTH_MAX = 1_024
PAGE_BYTES_MAX = 2 * 1024 * 1024
"""A page ends early rather than be larger: gRPC clients take 4 MiB unless they are told otherwise."""
_CHECKSUM_CHARACTERS = 16

Row = TypeVar("Row")
Item = TypeVar("Item", bound=Message)
Key = str | int | datetime | UUID


def page_size(asked: int) -> int:
    """How many items a page has: 50 if 0 is asked, at most 500. Raises `InvalidRequest` for a negative one."""
    if asked < 0:
        raise invalid("page_size", "must not be negative")
    return min(asked, PAGE_SIZE_MAX) or PAGE_SIZE_DEFAULT


def cut(rows: Sequence[Row], size: int) -> tuple[Sequence[Row], Row | None]:
    """The rows of a page, and its last one if there is a further page: the key of the next page's token."""
    return (rows[:size], rows[size - 1]) if len(rows) > size else (rows, None)


def fill(rows: Sequence[Row], size: int, item_of: Callable[[Row], Item]) -> tuple[list[Item], Row | None]:
    """Like `cut`, for items that may be large: a page has one item at least, and as many more as fit into PAGE_BYTES_MAX."""
    items: list[Item] = []
    room = PAGE_BYTES_MAX
    for n, row in enumerate(rows):
        item = item_of(row)
        room -= item.ByteSize()
        if n == size or (items and room < 0):
            return items, rows[n - 1]
        items.append(item)
    return items, None


def encode_token(request: Message, *key: Key) -> str:
    """The token of the page after `key`, good for requests of the same type and filters only."""
    values = json.dumps([value if isinstance(value, (str, int)) else _text(value) for value in key])
    token = _checksum(request, values) + values
    return base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")


def decode_token(request: Message, *types: type[Key]) -> tuple[Any, ...] | None:
    """The key in the request's `page_token`, one value of each of `types`; None for the first page.

    Raises `PageTokenInvalid` for a token that is garbage, or that a list with other filters gave.
    """
    token: str = request.page_token  # type: ignore[attr-defined]  # as every list request has it
    if not token:
        return None
    if len(token) > TOKEN_LENGTH_MAX:
        raise PageTokenInvalid(token[:40] + "...")
    try:
        text = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True).decode()
        checksum, values = text[:_CHECKSUM_CHARACTERS], text[_CHECKSUM_CHARACTERS:]
        if checksum != _checksum(request, values):
            raise PageTokenInvalid(token)
        return tuple(_value(kind, value) for kind, value in zip(types, json.loads(values), strict=True))
    except (ValueError, TypeError, binascii.Error):
        raise PageTokenInvalid(token) from None


def _checksum(request: Message, values: str) -> str:
    # Whatever else the request says is a filter, so that none can be forgotten here.
    filters = type(request)()
    filters.CopyFrom(request)
    filters.ClearField("page_size")
    filters.ClearField("page_token")
    name = request.DESCRIPTOR.full_name.encode()
    body = b"\0".join((name, filters.SerializeToString(deterministic=True), values.encode()))
    return hashlib.sha256(body).hexdigest()[:_CHECKSUM_CHARACTERS]


def _text(value: datetime | UUID) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _value(kind: type[Key], value: object) -> Key:
    if kind in (datetime, UUID) and isinstance(value, str):
        return datetime.fromisoformat(value) if kind is datetime else UUID(value)
    if type(value) is kind and isinstance(value, (str, int)):
        return value
    raise TypeError(f"{value!r} is no {kind.__name__}")
