"""Cursors: positions in a sort order, opaque to clients.

A cursor is Base64 of a JSON array: a fingerprint of the sort order, then the sort values, of which the id is the last.
Cursors from clients are not trusted: their length, alphabet, shape and every value are checked.
"""

from binascii import a2b_base64, b2a_base64
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any
from zlib import crc32

import orjson

from gateway.columns import timestamp_text
from gateway.errors import InvalidInput
from gateway.reads.dialects import Dialect
from gateway.reads.sorts import SortField, SortOrder

_MAX_LENGTH = 500_000  # characters: the longest text that can be sorted by fits, imported ones included
_INTEGER_LIMIT = 2**63


@lru_cache(maxsize=1_024)  # faster than BoundedCache, and enough for a pure function of a short tuple
def fingerprint(order: SortOrder) -> int:
    """A number that identifies a sort order."""
    names = [(key.field.cursor_name or key.field.column, key.descending, key.nulls_first) for key in order]
    return crc32(repr(names).encode())


def encode(order_fingerprint: int, values: Sequence[Any]) -> str:
    """The cursor of a row with these sort values, as the driver returned them."""
    text = orjson.dumps((order_fingerprint, *values), default=_plain, option=_OPTIONS)
    return b2a_base64(text, newline=False).decode()


_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return timestamp_text(value)
    raise TypeError(type(value).__name__)


def decode(text: str, order: SortOrder, dialect: Dialect, argument: str) -> list[Any]:
    """The sort values of a cursor, as the driver binds them.

    Raises InvalidInput, naming `argument`, for a malformed cursor and for a cursor of another sort order.
    """
    values = _parts(text)
    if values is None:
        raise _invalid_cursor(argument)
    if values[0] != fingerprint(order):
        raise InvalidInput(
            f"`{argument}` is a cursor of another sort. Pass the sort that the cursor came from.", path=(argument,)
        )
    if len(values) != len(order) + 1:
        raise _invalid_cursor(argument)
    return [_checked(value, key.field, dialect, argument) for value, key in zip(values[1:], order, strict=True)]


def _parts(text: str) -> list[Any] | None:
    if len(text) > _MAX_LENGTH:
        return None
    try:
        data = a2b_base64(text.encode("ascii"), strict_mode=True)
        values = orjson.loads(data)
    except ValueError:
        return None
    if b2a_base64(data, newline=False).decode() != text:
        return None  # unused bits are set
    return values if isinstance(values, list) and values else None


def _checked(value: Any, field: SortField, dialect: Dialect, argument: str) -> Any:
    if value is None and field.nullable:
        return None
    if field.kind == "text" and isinstance(value, str) and "\0" not in value:
        return value
    if field.kind == "number" and type(value) is int and -_INTEGER_LIMIT <= value < _INTEGER_LIMIT:
        return value
    if field.kind == "timestamp" and isinstance(value, str):
        try:
            timestamp = datetime.fromisoformat(value)
            if timestamp_text(timestamp) == value:  # the gateway writes no other format
                return dialect.timestamp(timestamp)
        except (ValueError, OverflowError):
            pass
    raise _invalid_cursor(argument)


def _invalid_cursor(argument: str) -> InvalidInput:
    return InvalidInput(f"`{argument}` is not a valid cursor.", path=(argument,))
