"""Attributes and associations of ManageIQ classes: where their values come from, and how they are filtered and shown.

Columns and expressions are written as `reads.conditions.Frame` reads them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from gateway.columns import FOLDED
from gateway.models import MachineKind
from gateway.reads.conditions import Condition, Frame
from gateway.reads.context import Context
from gateway.reads.sources import Column, Computed, Source, SourcedField

Kind = Literal["text", "integer", "boolean", "timestamp", "id", "opaque"]


@dataclass(slots=True)
class RestContext(Context):
    """A read context with the URL that links begin with: `https://gateway.example/api` or `…/api/v4.4.0`."""

    base: str = ""
    collection: str | None = None  # of machines in links, if it is not that of their kind

    def machine_path(self, id: int | None, kind: str) -> str:
        """The path of a machine below `base`."""
        collection = "vms" if kind == MachineKind.VM else "instances"
        return f"{self.collection or collection}/{id}"

    def machine_url(self, id: int | None, kind: str) -> str:
        """The URL of a machine."""
        return f"{self.base}/{self.machine_path(id, kind)}"


def format_id(_context: Context, number: int | None) -> str | None:
    """An id as responses show it: its number as a string."""
    return None if number is None else str(number)


def format_timestamp(_context: Context, timestamp: datetime | str | None) -> str | None:
    """A time as responses show it: UTC, whole seconds, `Z`. SQLite stores it as text."""
    if timestamp is None:
        return None
    if isinstance(timestamp, str):
        return timestamp[:19] + "Z"
    return timestamp.strftime("%Y-%m-%dT%H:%M:%SZ")


_TYPES = {"text": "String", "integer": "Int", "boolean": "Boolean"}


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute. An `opaque` one cannot be filtered or sorted by.

    A `virtual` one is shown only if it is named, and so is an `unknown` one: the gateway has no value for it.
    """

    kind: Kind
    column: str = ""
    nullable: bool = False
    folded_column: str | None = None  # what `ignore_case` sorts by; None if it cannot be ignored
    virtual: bool = False
    unknown: bool = False
    source: Source | None = None  # if the value is not that of the column

    @property
    def is_shown(self) -> bool:
        """Whether it is shown without being named."""
        return not (self.virtual or self.unknown)

    @property
    def sourced_field(self) -> SourcedField:
        """The attribute as a field for the compiler."""
        if self.source is not None:
            return SourcedField(self.source, "String")
        match self.kind:
            case "id":
                return SourcedField(Computed((self.column,), format_id), "ID")
            case "timestamp":
                return SourcedField(Computed((self.column,), format_timestamp), "DateTime")
            case _:
                return SourcedField(Column(self.column), _TYPES[self.kind])


Attributes = Mapping[str, Attribute]


def text(column: str, *, nullable: bool = False, folds: bool = True, virtual: bool = False) -> Attribute:
    """A text column. `folds`: it has a case-folded column."""
    return Attribute("text", column, nullable, folded_column=column + FOLDED if folds else None, virtual=virtual)


def enum_text(expression: str, *, virtual: bool = False) -> Attribute:
    """A text with a fixed set of values, all in the same case."""
    return Attribute("text", expression, folded_column=expression, virtual=virtual)


def number(column: str, *, nullable: bool = False, virtual: bool = False) -> Attribute:
    """A number column, cast because a client may compare it with a number that is larger than the column's type."""
    return Attribute("integer", f"CAST({_qualified(column)} AS bigint)", nullable, virtual=virtual)


def timestamp(column: str, *, nullable: bool = False, virtual: bool = False) -> Attribute:
    """A timestamp column."""
    return Attribute("timestamp", column, nullable, virtual=virtual)


def id_of(column: str, *, nullable: bool = False) -> Attribute:
    """A column that holds an id."""
    return Attribute("id", column, nullable)


def boolean(expression: str, *, virtual: bool = False) -> Attribute:
    """A boolean column or expression."""
    return Attribute("boolean", expression, virtual=virtual)


def constant_text(value: str) -> Attribute:
    """The same text for every row. Filters apply to it. `value` must not come from a client."""
    sql = f"CASE WHEN {{t}}.id IS NOT NULL THEN '{value}' END"
    return Attribute("text", sql, folded_column=sql, source=Computed((), lambda _context: value))


def always_null() -> Attribute:
    """An attribute of ManageIQ's that is null for every row, because the gateway does not store it."""
    sql = "CASE WHEN {t}.id IS NULL THEN '' END"
    return Attribute("text", sql, nullable=True, folded_column=sql, source=Computed((), lambda _context: None))


_NULLS: Mapping[Kind, str] = {"text": "''", "integer": "{t}.id", "id": "{t}.id", "timestamp": "{t}.created_at"}


def unknown(kind: Kind, *, virtual: bool) -> Attribute:
    """An attribute that only ManageIQ knows: null for every row. Filters and sorts have the types of `kind`."""
    sql = f"CASE WHEN {{t}}.id IS NULL THEN {_NULLS.get(kind, 'TRUE')} END"
    folded = sql if kind == "text" else None
    source = Computed((), lambda _context: None)
    return Attribute(kind, sql, True, folded_column=folded, virtual=virtual, unknown=True, source=source)


def unknown_association(value: Any) -> Attribute:
    """An association that only ManageIQ knows: `value` is null, or an empty list."""
    return Attribute("opaque", virtual=True, unknown=True, source=Computed((), lambda _context: value))


def opaque(columns: tuple[str, ...], compute: Callable[..., Any]) -> Attribute:
    """A value computed in Python, which cannot be filtered or sorted by."""
    return Attribute("opaque", source=Computed(columns, compute))


def _qualified(column: str) -> str:
    """The column as an expression over `{t}`."""
    return column if "{t}" in column else f"{{t}}.{column}"


# ---- associations: turn a condition on the associated row into a condition on the row it belongs to

ConditionScope = Callable[[Condition], Condition]


def same_row(condition: Condition) -> Condition:
    """For an association whose values are columns of the same row."""
    return condition


def of_machine(condition: Condition) -> Condition:
    """For the machine that a row belongs to. Every such row has one."""

    return lambda frame: condition(frame.of_machine())


def exists(noun: str, on: str) -> ConditionScope:
    """For at least one row of `noun`. `on` is SQL that joins its alias `{s}` to the row `{t}`."""

    def scope(condition: Condition) -> Condition:
        def sql(frame: Frame) -> str:
            inner = frame.inner()
            where = condition(inner)
            on_sql = on.format(s=inner.alias, t=frame.alias)
            return f"EXISTS (SELECT 1 FROM {noun} {inner.alias}{inner.joins()} WHERE {on_sql} AND {where})"

        return sql

    return scope


@dataclass(frozen=True, slots=True, kw_only=True)
class Association:
    """An association, as in `host.name`. `types` are the concrete types of the rows that `source` gives."""

    class_name: str
    noun: str
    attributes: Callable[[], Attributes]
    source: Source
    types: tuple[str, ...]
    scope: ConditionScope = field(default=same_row)
