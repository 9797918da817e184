"""The scalars of the schema: how they are written and what is taken for one."""

import re
from datetime import UTC, datetime
from typing import Any, NewType

import strawberry
from strawberry.types.scalar import ScalarDefinition

BigInt = NewType("BigInt", int)
Moment = NewType("Moment", datetime)

_LARGEST = 2**63 - 1
_DECIMAL = re.compile(r"-?[0-9]{1,19}")
_RFC3339 = re.compile(r"\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})")


def parse_big_int(value: Any) -> int:
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        value = int(value)
    if type(value) is not int or not -_LARGEST <= value <= _LARGEST:
        raise ValueError("a BigInt is a whole number of at most 64 bits, as a decimal string or a JSON integer")
    return value


def parse_moment(value: Any) -> datetime:
    """RFC 3339 with an offset; digits beyond microseconds are cut off."""
    if not isinstance(value, str) or not (match := _RFC3339.fullmatch(value)):
        raise ValueError("a DateTime reads like 2026-11-23T18:25:44Z, with Z or an offset")
    fraction = match[1]
    if fraction and len(fraction) > 7:
        value = value.replace(fraction, fraction[:7])
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("a DateTime names a day and time that exist") from None


def as_it_is(value: Any) -> Any:
    """The reader hands out values that are ready for JSON."""
    return value


def show_moment(value: Any) -> Any:
    """As orjson writes it: RFC 3339 with Z, and microseconds where there are any."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value


SCALARS: dict[object, ScalarDefinition] = {
    BigInt: strawberry.scalar(
        name="BigInt",
        description="A whole number of up to 64 bits. A decimal string on output; a decimal string or a JSON integer on"
        " input.",
        specified_by_url=None,
        serialize=as_it_is,
        parse_value=parse_big_int,
    ),
    Moment: strawberry.scalar(
        name="DateTime",
        description="An instant, RFC 3339, UTC with a trailing Z and up to microseconds. Input needs Z or an offset.",
        specified_by_url="https://scalars.graphql.org/andimarek/date-time.html",
        serialize=show_moment,
        parse_value=parse_moment,
    ),
}
