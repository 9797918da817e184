"""Conditions: what a filter, of GraphQL or of REST, becomes before it is SQL.

A condition is made with its negation already pushed down to the comparisons, where a null can be dealt with: above
them are only AND and OR, so a comparison with null, which is null, counts as false, and every condition is two-valued.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from gateway.columns import folded
from gateway.models import MachineKind
from gateway.reads.dialects import Dialect, Parameters

EVERYTHING_SQL, NOTHING_SQL = "TRUE", "FALSE"


@dataclass(slots=True)
class Frame:
    """The rows that a condition is about: the aliases in scope, the statement's parameters, and the joins it needs.

    A column is spelt `name` for a column of the table itself or `machine.name` for one of its machine's.
    """

    dialect: Dialect
    parameters: Parameters
    kinds: Sequence[MachineKind] = tuple(MachineKind)  # of machines that the caller may see
    alias: str = "t"
    depth: int = 0
    joined: bool = field(default=False)

    def column(self, name: str) -> str:
        if name.startswith("machine."):
            self.joined = True
            return f"{self.alias}m.{name.removeprefix('machine.')}"
        return f"{self.alias}.{name}"

    def expression(self, template: str) -> str:
        """A column, or SQL text over `{t}`, the table's alias, `{m}`, that of its machine, and `{kinds}`, a list."""
        if "{" not in template:
            return self.column(template)
        self.joined = self.joined or "{m}" in template
        kinds = ", ".join(f"'{kind}'" for kind in self.kinds) or "''"
        return template.format(t=self.alias, m=f"{self.alias}m", kinds=kinds)

    def joins(self) -> str:
        """The joins that the columns mentioned so far need."""
        return f" JOIN machine {self.alias}m ON {self.alias}m.id = {self.alias}.machine_id" if self.joined else ""

    def beside(self) -> "Frame":
        """A frame for another part of the same statement."""
        return Frame(self.dialect, self.parameters, self.kinds)

    def inner(self) -> "Frame":
        """A frame for a subquery inside this one."""
        return Frame(self.dialect, self.parameters, self.kinds, f"s{self.depth + 1}", self.depth + 1)

    def of_machine(self) -> "Frame":
        """A frame for the machine of these rows, which is joined."""
        self.joined = True
        return Frame(self.dialect, self.parameters, self.kinds, f"{self.alias}m", self.depth)


Condition = Callable[[Frame], str]  # to SQL


def everything(_frame: Frame) -> str:
    return EVERYTHING_SQL


def nothing(_frame: Frame) -> str:
    return NOTHING_SQL


def all_of(conditions: Sequence[Condition]) -> Condition:
    return _group(conditions, " AND ", everything)


def any_of(conditions: Sequence[Condition]) -> Condition:
    return _group(conditions, " OR ", nothing)


def _group(conditions: Sequence[Condition], word: str, empty: Condition) -> Condition:
    if not conditions:
        return empty
    if len(conditions) == 1:
        return conditions[0]
    return lambda frame: "(" + word.join(condition(frame) for condition in conditions) + ")"


def compare(column: str, test: Callable[[str, Frame], str], *, nullable: bool, negated: bool) -> Condition:
    """`test` of the column; negated, it holds exactly where it did not, nulls included."""

    def sql(frame: Frame) -> str:
        target = frame.expression(column)
        positive = test(target, frame)
        if not negated:
            return positive
        return f"(NOT ({positive}) OR {target} IS NULL)" if nullable else f"NOT ({positive})"

    return sql


# ---- tests of one column, for `compare`

Test = Callable[[str, Frame], str]


def is_null(column: str, _frame: Frame) -> str:
    return f"{column} IS NULL"


def relation(operator: str, value: Any) -> Test:
    """`= < <= > >=` against a value; instants are bound as the database wants them."""

    def sql(column: str, frame: Frame) -> str:
        bound = frame.dialect.moment(value) if isinstance(value, datetime) else value
        return f"{column} {operator} {frame.parameters(bound)}"

    return sql


def among(values: Sequence[Any], array: str) -> Test:
    if not values:
        return lambda _column, _frame: NOTHING_SQL
    return lambda column, frame: frame.dialect.among(column, values, array, frame.parameters)


def contains(text: str) -> Test:
    return lambda column, frame: frame.dialect.contains(column, text, frame.parameters)


def ends_with(text: str) -> Test:
    return lambda column, frame: frame.dialect.ends_with(column, text, frame.parameters)


def starts_with(text: str) -> Test:
    """A range of the index instead of a pattern."""
    if not text:
        return lambda column, _frame: f"{column} IS NOT NULL"
    end = _after_prefix(text)

    def sql(column: str, frame: Frame) -> str:
        lower = f"{column} >= {frame.parameters(text)}"
        return lower if end is None else f"({lower} AND {column} < {frame.parameters(end)})"

    return sql


def matches(parts: Sequence[str]) -> Test:
    """The whole text is `parts` with anything between them; one part alone is equality."""
    if len(parts) == 1:
        return relation("=", parts[0])
    prefix = starts_with(parts[0])

    def sql(column: str, frame: Frame) -> str:
        pattern = frame.dialect.matches(column, parts, frame.parameters)
        return f"({prefix(column, frame)} AND {pattern})" if parts[0] else pattern

    return sql


def _after_prefix(prefix: str) -> str | None:
    """The least text greater than everything that starts with `prefix`, by code point; None when there is none."""
    while prefix:
        last = ord(prefix[-1]) + 1
        if last == 0xD800:
            last = 0xE000  # surrogates are not characters
        if last <= 0x10FFFF:
            return prefix[:-1] + chr(last)
        prefix = prefix[:-1]
    return None


def fold(text: str, ignore_case: bool) -> str:
    return folded(text) or "" if ignore_case else text


def member_name(member: Any) -> str:
    """The name of an enum's member, which GraphQL coerces to the member and other surfaces leave as text."""
    return str(member.value) if isinstance(member, Enum) else str(member)
