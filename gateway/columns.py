"""Column types: timestamps, text that sorts by code point, case-folded text, and 64-bit numbers. Which texts fit.

A column whose name ends in `_folded` holds the Unicode case folding of another column. The gateway writes it, so that
`ignoreCase` gives the same results on both databases.
"""

import re
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, Dialect, Integer, String, TypeDecorator
from sqlalchemy.types import TypeEngine


def now() -> datetime:
    """The current time, in UTC, with microseconds."""
    return datetime.now(UTC)


def timestamp_text(moment: datetime) -> str:
    """The text that SQLite stores: `2026-11-23T18:25:44.000000Z`. Its width is fixed, so it sorts by time."""
    moment = moment.astimezone(UTC).replace(tzinfo=None)
    return moment.isoformat(timespec="microseconds") + "Z"


class UtcDateTime(TypeDecorator[datetime]):
    """A timestamp. TIMESTAMPTZ on PostgreSQL, fixed-width RFC 3339 text on SQLite, timezone-aware in Python.

    Binding a datetime without a timezone raises ValueError.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(String(27))
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("A datetime for the database requires a timezone.")
        return timestamp_text(value) if dialect.name == "sqlite" else value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None or isinstance(value, datetime):
            return value
        return datetime.fromisoformat(value)


class Text(TypeDecorator[str]):
    """Text that compares by code point: binary on SQLite, COLLATE "C" on PostgreSQL."""

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(String(collation="C") if dialect.name == "postgresql" else String())


# AUTOINCREMENT on SQLite requires the type INTEGER, which has 64 bits there.
Number = BigInteger().with_variant(Integer(), "sqlite")


# Characters that a text in the database cannot have: NUL on PostgreSQL, and unpaired surrogates, which UTF-8 excludes.
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def storable(text: str, longest: int) -> str:
    """The first `longest` characters of a text from outside, with U+FFFD for those that no database stores."""
    return UNSTORABLE.sub("\ufffd", text[:longest])


MAX_NAME_LENGTH = 255  # characters, for callers, roles and tenants


def is_name(text: str) -> bool:
    """Whether `text` is a valid name of a caller, role or tenant: 1 to 255 printable characters.

    With longer ones, an index entry of PostgreSQL could exceed its limit of 2,704 bytes.
    """
    return 1 <= len(text) <= MAX_NAME_LENGTH and text.isprintable()


FOLDED = "_folded"  # suffix of the column that holds the case folding of another


def folded(value: str | None) -> str | None:
    """The case folding that `ignoreCase` compares."""
    return None if value is None else value.casefold()
