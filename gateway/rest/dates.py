"""Dates in filters. An unquoted date means a span of time, with which `=`, `<` and `>` compare.

A date means its whole day, a time the whole second that responses show, and `2 weeks ago` that whole week, all in UTC.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from gateway.rest.errors import RestError, bad_request

_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)
_AGO = re.compile(r"(\d{1,6}) +(minute|hour|day|week|month|quarter|year)s? +ago")
_THIS_OR_LAST = re.compile(r"(this|last) +(minute|hour|day|week|month|quarter|year)")
_MONTHS = {"month": 1, "quarter": 3, "year": 12}
_STEPS = {"minute": timedelta(minutes=1), "hour": timedelta(hours=1), "day": _DAY, "week": 7 * _DAY}


Clock = Callable[[], datetime]  # returns the current time in UTC


class TimeSpan(NamedTuple):
    """A span of time from `start`, inclusive, to `end`, exclusive."""

    start: datetime
    end: datetime


def parse_span(text: str, clock: Clock) -> TimeSpan:
    """The span that an unquoted date means. Calls `clock` only for relative dates. Raises RestError."""
    try:
        return _relative(text.lower(), clock) or _absolute(text)
    except (ValueError, OverflowError):
        raise invalid_date(text) from None


def parse_timestamp(text: str) -> datetime:
    """The time that a quoted date means: midnight for a day. Raises RestError."""
    try:
        return _parse(text)
    except (ValueError, OverflowError):
        raise invalid_date(text) from None


def invalid_date(text: str) -> RestError:
    """A 400 for text that is not a date."""
    return bad_request(f"Bad format for datetime: {text}")


def _absolute(text: str) -> TimeSpan:
    timestamp = _parse(text)
    if ":" not in text:
        start = timestamp.replace(hour=0, minute=0, second=0, microsecond=0)
        return TimeSpan(start, start + _DAY)
    if timestamp.microsecond or "." in text:
        return TimeSpan(timestamp, timestamp + timedelta(microseconds=1))
    return TimeSpan(timestamp, timestamp + _SECOND)


def _parse(text: str) -> datetime:
    """ISO 8601, also with a space for `T` and `UTC` for `Z`, as Ruby prints it. UTC without an offset."""
    timestamp = datetime.fromisoformat(re.sub(r" *(UTC|Z)$", "+00:00", text))
    return timestamp.replace(tzinfo=UTC) if timestamp.tzinfo is None else timestamp.astimezone(UTC)


def _relative(text: str, clock: Clock) -> TimeSpan | None:
    match text:
        case "now":
            return _unit("hour", 0, clock())
        case "today":
            return _unit("day", 0, clock())
        case "yesterday":
            return _unit("day", 1, clock())
    if found := _AGO.fullmatch(text):
        return _unit(found[2], int(found[1]), clock())
    if found := _THIS_OR_LAST.fullmatch(text):
        return _unit(found[2], int(found[1] == "last"), clock())
    return None


def _unit(unit: str, ago: int, now: datetime) -> TimeSpan:
    """The minute, hour, day, week (from Monday), month, quarter or year that is `ago` units before the current one."""
    if months := _MONTHS.get(unit):
        this = (now.year * 12 + now.month - 1) // months * months
        return TimeSpan(_month(this - ago * months), _month(this - ago * months + months))
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    starts = {
        "minute": now.replace(second=0, microsecond=0),
        "hour": now.replace(minute=0, second=0, microsecond=0),
        "day": day,
        "week": day - timedelta(days=day.weekday()),
    }
    start = starts[unit] - ago * _STEPS[unit]
    return TimeSpan(start, start + _STEPS[unit])


def _month(number: int) -> datetime:
    """The start of a month. `number` counts months from year 0."""
    return datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC)
