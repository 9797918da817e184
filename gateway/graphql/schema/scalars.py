"""The custom scalars of the schema: serialization and input parsing."""

import re
from datetime import UTC, datetime
from typing import Any, NewType

import strawberry
from strawberry.types.scalar import ScalarDefinition

BigInt = NewType("BigInt", int)
Moment = NewType("Moment", datetime)

_BIG_INTS = range(-(2**63), 2**63)
_DECIMAL = re.compile(r"-?[0-9]{1,19}")
_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})")


def parse_big_int(value: Any) -> int:
    """Accepts a decimal string or an integer from -2^63 to 2^63 - 1. Raises ValueError."""
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        value = int(value)
    if type(value) is not int or value not in _BIG_INTS:
        raise ValueError("A BigInt must be an integer of at most 64 bits, as a decimal string or a JSON integer.")
    return value


def parse_moment(value: Any) -> datetime:
    """Accepts RFC 3339 with `Z` or an offset. Digits beyond microseconds are truncated. Raises ValueError."""
    if not isinstance(value, str) or not (match := _RFC3339.fullmatch(value)):
        raise ValueError("A DateTime must be in RFC 3339 format with Z or an offset, such as 2026-11-23T18:25:44Z.")
    fraction = match[1]
    if fraction and len(fraction) > 7:
        value = value.replace(fraction, fraction[:7])
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("A DateTime must be an existing date and time.") from None


def serialize_unchanged(value: Any) -> Any:
    """Returns the value unchanged: the read compiler produces values that are ready for JSON."""
    return value


def serialize_moment(value: Any) -> Any:
    """RFC 3339 with `Z`, and with microseconds unless they are 0, in the same format as orjson."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value


SCALARS: dict[object, ScalarDefinition] = {
    BigInt: strawberry.scalar(
        name="BigInt",
        description="A signed 64-bit integer. Output: a decimal string. Input: a decimal string or a JSON integer.",
        specified_by_url=None,
        serialize=serialize_unchanged,
        parse_value=parse_big_int,
    ),
    Moment: strawberry.scalar(
        name="DateTime",
        description="A point in time in RFC 3339 format. Output: UTC with a trailing Z and up to microsecond precision."
        " Input: requires Z or an offset.",
        specified_by_url=None,  # the known specifications of this name demand exactly three digits of a second
        serialize=serialize_moment,
        parse_value=parse_moment,
    ),
}
