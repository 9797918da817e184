"""Cursors: a place in an order, opaque to clients. They hold the sort values, the id and a fingerprint of the order.

What comes back from a client is not trusted: its length, alphabet, shape and every value are checked.
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
from gateway.reads.sorts import Order, SortField

_LONGEST = 500_000  # characters: any text that can be sorted by fits, also one that was imported
_LARGEST = 2**63


@lru_cache(maxsize=1_024)
def fingerprint(order: Order) -> int:
    """Tells one order from another."""
    return crc32(repr([(key.field.column, key.descending, key.nulls_first) for key in order]).encode())


def encode(order_fingerprint: int, values: Sequence[Any]) -> str:
    """The cursor of a row with these sort values, as the driver gave them."""
    text = orjson.dumps((order_fingerprint, *values), default=_plain, option=_OPTIONS)
    return b2a_base64(text, newline=False).decode()


_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return timestamp_text(value)
    raise TypeError(type(value).__name__)


def decode(text: str, order: Order, dialect: Dialect, argument: str) -> list[Any]:
    """The sort values of a cursor, as the driver binds them.

    Raises InvalidInput for what is not a cursor, or not one of this order.
    """
    values = _parts(text)
    if values is None:
        raise _refused(argument, "is not a cursor")
    if values[0] != fingerprint(order):
        raise _refused(argument, "is a cursor of another sort: a cursor goes with the sort it came from")
    if len(values) != len(order) + 1:
        raise _refused(argument, "is not a cursor")
    return [_checked(value, key.field, dialect, argument) for value, key in zip(values[1:], order, strict=True)]


def _parts(text: str) -> list[Any] | None:
    if len(text) > _LONGEST:
        return None
    try:
        data = a2b_base64(text.encode("ascii"), strict_mode=True)
        values = orjson.loads(data)
    except ValueError:
        return None
    if b2a_base64(data, newline=False).decode() != text:
        return None  # bits that mean nothing
    return values if isinstance(values, list) and values else None


def _checked(value: Any, field: SortField, dialect: Dialect, argument: str) -> Any:
    if value is None and field.nullable:
        return None
    if field.kind == "text" and isinstance(value, str) and "\0" not in value:
        return value
    if field.kind == "number" and type(value) is int and -_LARGEST <= value < _LARGEST:
        return value
    if field.kind == "moment" and isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
            if timestamp_text(moment) == value:  # in any other spelling it is not ours
                return dialect.moment(moment)
        except (ValueError, OverflowError):
            pass
    raise _refused(argument, "is not a cursor")


def _refused(argument: str, reason: str) -> InvalidInput:
    return InvalidInput(f"{argument} {reason}", path=(argument,))
