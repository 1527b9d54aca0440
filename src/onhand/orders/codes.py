"""What people say and type: order numbers and pickup codes, of letters and digits that nobody mistakes for another."""

from __future__ import annotations

import hashlib
import hmac
import secrets

ALPHABET = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"
"""Without I, L, O, 0 and 1."""
ORDER_NUMBER_LENGTH = 12
"""31**12 numbers: drawn at random, so that one tells nothing of the next, and still none is met twice."""
ORDER_NUMBER_GROUP = 4
PICKUP_CODE_LENGTH = 8
"""31**8 codes, five guesses each."""
_SALT_BYTES = 16

# A random byte is a letter, each letter that of as many bytes; those left over are drawn again.
_FAIR = 256 - 256 % len(ALPHABET)
_LETTERS = bytes(ord(ALPHABET[byte % len(ALPHABET)]) for byte in range(256))
_UNFAIR = bytes(range(_FAIR, 256))
_SPARE_BYTES = 4


def new_order_number() -> str:
    """An order number, as in K7QF-3M9D-X2PA."""
    return _grouped(_draw(ORDER_NUMBER_LENGTH))


def order_number(said: str) -> str:
    """An order number as stored, from however somebody wrote it."""
    return _grouped(plain(said))


def new_pickup_code() -> str:
    """A pickup code, as in K7QF3M9D."""
    return _draw(PICKUP_CODE_LENGTH)


def plain(said: str) -> str:
    """A code without what people put into it: blanks, hyphens, small letters."""
    return "".join(character for character in said.upper() if character.isalnum())


def salted(code: str) -> tuple[bytes, bytes]:
    """A new salt, and the hash of a pickup code with it: all that is stored of the code."""
    salt = secrets.token_bytes(_SALT_BYTES)
    return salt, _hash(salt, code)


def is_right(code: str, salt: bytes | None, code_hash: bytes | None) -> bool:
    """Whether this is the code that was salted and hashed."""
    return salt is not None and code_hash is not None and hmac.compare_digest(_hash(salt, code), code_hash)


def _hash(salt: bytes, code: str) -> bytes:
    # store.COUNT_WRONG_CODE computes the same in SQL.
    return hashlib.sha256(salt + code.encode()).digest()


def _draw(length: int) -> str:
    drawn = b""
    while len(drawn) < length:
        drawn += secrets.token_bytes(length + _SPARE_BYTES).translate(_LETTERS, _UNFAIR)
    return drawn[:length].decode("ascii")


def _grouped(text: str) -> str:
    return "-".join(text[start : start + ORDER_NUMBER_GROUP] for start in range(0, len(text), ORDER_NUMBER_GROUP))
