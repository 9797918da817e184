"""What an attribute and an association of a ManageIQ class are: where the value comes from, and how it is shown.

Columns and expressions are spelt as `reads.conditions.Frame` has them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from gateway.columns import FOLDED
from gateway.reads.conditions import Condition, Frame
from gateway.reads.context import Context
from gateway.reads.sources import Column, Computed, Source, SourcedField

Kind = Literal["text", "integer", "boolean", "moment", "id", "opaque"]


@dataclass(slots=True)
class RestContext(Context):
    """A request, and where its answer's links begin: `https://gateway.example/api`, or `…/api/v4.4.0`."""

    base: str = ""


def shown_id(_context: Context, number: int | None) -> str | None:
    return None if number is None else str(number)


def shown_moment(_context: Context, moment: datetime | str | None) -> str | None:
    """UTC, seconds, `Z`. SQLite has it as text already."""
    if moment is None:
        return None
    if isinstance(moment, str):
        return moment[:19] + "Z"
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


_TYPES = {"text": "String", "integer": "Int", "boolean": "Boolean"}


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute. `virtual` ones are shown only when they are named; `opaque` ones can only be shown."""

    kind: Kind
    column: str = ""
    nullable: bool = False
    folded: str | None = None  # what `ignore_case` compares; None where it cannot
    virtual: bool = False
    shown: Source | None = None  # unless the column shows itself

    @property
    def origin(self) -> SourcedField:
        if self.shown is not None:
            return SourcedField(self.shown, "String")
        match self.kind:
            case "id":
                return SourcedField(Computed((self.column,), shown_id), "String")
            case "moment":
                return SourcedField(Computed((self.column,), shown_moment), "String")
            case _:
                return SourcedField(Column(self.column), _TYPES[self.kind])


Attributes = Mapping[str, Attribute]


def text(column: str, *, nullable: bool = False, folds: bool = True) -> Attribute:
    """A text column; `folds` when it has a folded twin."""
    return Attribute("text", column, nullable, folded=column + FOLDED if folds else None)


def word(expression: str) -> Attribute:
    """A text of few values, all in one case."""
    return Attribute("text", expression, folded=expression)


def number(column: str, *, nullable: bool = False, virtual: bool = False) -> Attribute:
    """Cast, for a client may compare it with a number that is larger than the column."""
    return Attribute("integer", f"CAST({expression(column)} AS bigint)", nullable, virtual=virtual)


def moment(column: str, *, nullable: bool = False, virtual: bool = False) -> Attribute:
    return Attribute("moment", column, nullable, virtual=virtual)


def id_of(column: str, *, nullable: bool = False) -> Attribute:
    return Attribute("id", column, nullable)


def flag(expression: str) -> Attribute:
    return Attribute("boolean", expression)


def fixed_text(value: str) -> Attribute:
    """The same for every row; it can be filtered by all the same. `value` is ours."""
    sql = f"CASE WHEN {{t}}.id IS NOT NULL THEN '{value}' END"
    return Attribute("text", sql, folded=sql, shown=Computed((), lambda _context: value))


def no_text() -> Attribute:
    """What the gateway does not know of any row."""
    sql = "CASE WHEN {t}.id IS NULL THEN '' END"
    return Attribute("text", sql, nullable=True, folded=sql, shown=Computed((), lambda _context: None))


def opaque(columns: tuple[str, ...], compute: Callable[..., Any]) -> Attribute:
    return Attribute("opaque", shown=Computed(columns, compute))


def expression(column: str) -> str:
    return column if "{t}" in column else f"{{t}}.{column}"


# ---- associations: a condition on the associated row, as a condition on the row it belongs to

Scope = Callable[[Condition], Condition]


def same_row(condition: Condition) -> Condition:
    return condition


def of_machine(condition: Condition) -> Condition:
    """On the machine that a row belongs to; there always is one."""

    return lambda frame: condition(frame.of_machine())


def some(noun: str, link: str) -> Scope:
    """On at least one row of `noun`; `link` ties its alias `{s}` to the row `{t}`."""

    def scope(condition: Condition) -> Condition:
        def sql(frame: Frame) -> str:
            inner = frame.inner()
            where = condition(inner)
            tie = link.format(s=inner.alias, t=frame.alias)
            return f"EXISTS (SELECT 1 FROM {noun} {inner.alias}{inner.joins()} WHERE {tie} AND {where})"

        return sql

    return scope


@dataclass(frozen=True, slots=True)
class Association:
    """What `rel.name` leads to. `types` are the concrete types that `source` gives, and their catalogs."""

    class_name: str
    noun: str
    attributes: Callable[[], Attributes]
    source: Source
    types: tuple[str, ...]
    scope: Scope = field(default=same_row)
