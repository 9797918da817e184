"""Parsing of dates in filters: each means a span of time."""

from datetime import UTC, datetime

import pytest

from gateway.rest.dates import parse_span
from gateway.rest.errors import RestError

NOW = datetime(2026, 3, 11, 15, 45, 30, 5, UTC)  # a Wednesday


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2017-01-11", "2017-01-11T00:00", "2017-01-12T00:00"),
        ("20170111", "2017-01-11T00:00", "2017-01-12T00:00"),
        ("2017-01-11T10:20", "2017-01-11T10:20:00", "2017-01-11T10:20:01"),
        ("2017-01-11 10:20:30 UTC", "2017-01-11T10:20:30", "2017-01-11T10:20:31"),
        ("2017-01-11T10:20:30Z", "2017-01-11T10:20:30", "2017-01-11T10:20:31"),
        ("2017-01-11T10:20:30-02:00", "2017-01-11T12:20:30", "2017-01-11T12:20:31"),
        ("2017-01-11T10:20:30.25Z", "2017-01-11T10:20:30.25", "2017-01-11T10:20:30.250001"),
        ("now", "2026-03-11T15:00", "2026-03-11T16:00"),
        ("Today", "2026-03-11T00:00", "2026-03-12T00:00"),
        ("yesterday", "2026-03-10T00:00", "2026-03-11T00:00"),
        ("5 minutes ago", "2026-03-11T15:40", "2026-03-11T15:41"),
        ("1 hour ago", "2026-03-11T14:00", "2026-03-11T15:00"),
        ("30 Days Ago", "2026-02-09T00:00", "2026-02-10T00:00"),
        ("2 weeks ago", "2026-02-23T00:00", "2026-03-02T00:00"),
        ("this week", "2026-03-09T00:00", "2026-03-16T00:00"),
        ("last month", "2026-02-01T00:00", "2026-03-01T00:00"),
        ("this quarter", "2026-01-01T00:00", "2026-04-01T00:00"),
        ("1 quarter ago", "2025-10-01T00:00", "2026-01-01T00:00"),
        ("last year", "2025-01-01T00:00", "2026-01-01T00:00"),
        ("0 years ago", "2026-01-01T00:00", "2027-01-01T00:00"),
    ],
)
def test_spans(text: str, start: str, end: str) -> None:
    found = parse_span(text, lambda: NOW)
    assert [moment.replace(tzinfo=None) for moment in found] == [datetime.fromisoformat(text) for text in (start, end)]


@pytest.mark.parametrize(
    "text", ["", "soon", "2017-02-30", "30 days", "9999-12-31", "3000 years ago", "last fortnight"]
)
def test_invalid_dates(text: str) -> None:
    with pytest.raises(RestError) as refused:
        parse_span(text, lambda: NOW)
    assert refused.value.message == f"Bad format for datetime: {text}"
