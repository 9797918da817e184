"""Dates as filters write them: each means a span of time, so that `=`, `<` and `>` mean something for all of them.

A date is its whole day, an instant the whole second that answers show, `2 weeks ago` that whole week, all of it UTC.
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


Clock = Callable[[], datetime]  # the present, UTC


class Span(NamedTuple):
    """A stretch of time: `start` belongs to it, `end` does not."""

    start: datetime
    end: datetime


def span(text: str, clock: Clock) -> Span:
    """What an unquoted date means. `clock` is asked only where that depends on it. Raises RestError."""
    try:
        return _relative(text.lower(), clock) or _absolute(text)
    except (ValueError, OverflowError):
        raise bad_date(text) from None


def instant(text: str) -> datetime:
    """What a quoted date means: a moment, midnight for a day. Raises RestError."""
    try:
        return _parsed(text)
    except (ValueError, OverflowError):
        raise bad_date(text) from None


def bad_date(text: str) -> RestError:
    return bad_request(f"Bad format for datetime: {text}")


def _absolute(text: str) -> Span:
    moment = _parsed(text)
    if ":" not in text:
        start = moment.replace(hour=0, minute=0, second=0, microsecond=0)
        return Span(start, start + _DAY)
    if moment.microsecond or "." in text:
        return Span(moment, moment + timedelta(microseconds=1))
    return Span(moment, moment + _SECOND)


def _parsed(text: str) -> datetime:
    """ISO 8601, with a space for `T` and `UTC` for `Z` as Ruby prints it; without an offset UTC."""
    moment = datetime.fromisoformat(re.sub(r" *(UTC|Z)$", "+00:00", text))
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _relative(text: str, clock: Clock) -> Span | None:
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


def _unit(unit: str, ago: int, now: datetime) -> Span:
    """The whole minute, hour, day, week (from Monday), month, quarter or year so many before the present one."""
    if months := _MONTHS.get(unit):
        this = (now.year * 12 + now.month - 1) // months * months
        return Span(_month(this - ago * months), _month(this - ago * months + months))
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    starts = {
        "minute": now.replace(second=0, microsecond=0),
        "hour": now.replace(minute=0, second=0, microsecond=0),
        "day": day,
        "week": day - timedelta(days=day.weekday()),
    }
    start = starts[unit] - ago * _STEPS[unit]
    return Span(start, start + _STEPS[unit])


def _month(number: int) -> datetime:
    """The first moment of a month, counted from year 0."""
    return datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC)
