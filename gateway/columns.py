"""Column types and what goes with them: instants, text that sorts by code point, folded twins, 64-bit numbers.

Columns that end in `_folded` hold the Unicode case folding of their twin, written by the gateway, so that
`ignoreCase` means the same on both databases.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import BigInteger, DateTime, Dialect, Integer, String, TypeDecorator
from sqlalchemy.types import TypeEngine


def now() -> datetime:
    """The present, UTC, with microseconds."""
    return datetime.now(UTC)


def timestamp_text(moment: datetime) -> str:
    """The fixed-width text that SQLite stores, so that text order is time order: `2026-11-23T18:25:44.000000Z`."""
    moment = moment.astimezone(UTC).replace(tzinfo=None)
    return moment.isoformat(timespec="microseconds") + "Z"


class UtcDateTime(TypeDecorator[datetime]):
    """An instant. TIMESTAMPTZ on PostgreSQL, fixed-width RFC 3339 text on SQLite; always timezone-aware in Python."""

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
            raise ValueError("a naive datetime has no place in the database")
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


# AUTOINCREMENT on SQLite wants the very type INTEGER, which there is 64 bits wide.
Number = BigInteger().with_variant(Integer(), "sqlite")


FOLDED = "_folded"  # ends the name of a column that holds the folding of its twin


def folded(value: str | None) -> str | None:
    """The case folding that `ignoreCase` compares."""
    return None if value is None else value.casefold()
