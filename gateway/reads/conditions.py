"""Conditions: filters of GraphQL and REST, parsed, but not yet SQL.

Negation is pushed down to the comparisons, where nulls are handled. Above the comparisons there are only AND and OR,
so a comparison with null, which SQL evaluates to null, counts as false. Thus every condition is two-valued: each row
matches either a filter or its negation.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from gateway.columns import folded
from gateway.models import MachineKind
from gateway.reads.dialects import Dialect, Parameters

TRUE_SQL, FALSE_SQL = "TRUE", "FALSE"


@dataclass(slots=True)
class Frame:
    """The scope of an SQL fragment: the table's alias, the statement's parameters, and the joins that it needs.

    A column is written `name` for a column of the table itself and `machine.name` for a column of the row's machine.
    """

    dialect: Dialect
    parameters: Parameters
    kinds: Sequence[MachineKind] = tuple(MachineKind)  # of the machines that the caller may see
    alias: str = "t"
    depth: int = 0
    joined: bool = field(default=False)

    def column(self, name: str) -> str:
        """The column with its alias. Notes the join that a column of the machine needs."""
        if name.startswith("machine."):
            self.joined = True
            return f"{self.alias}m.{name.removeprefix('machine.')}"
        return f"{self.alias}.{name}"

    def expression(self, template: str) -> str:
        """A column, or SQL text over `{t}` (the table's alias), `{m}` (its machine's alias) and `{kinds}` (a list).

        Text with neither braces nor parentheses is a column.
        """
        if "{" not in template and "(" not in template:
            return self.column(template)
        self.joined = self.joined or "{m}" in template
        kinds = ", ".join(f"'{kind}'" for kind in self.kinds) or "''"
        return template.format(t=self.alias, m=f"{self.alias}m", kinds=kinds)

    def joins(self) -> str:
        """The joins that the columns used so far need."""
        return f" JOIN machine {self.alias}m ON {self.alias}m.id = {self.alias}.machine_id" if self.joined else ""

    def sibling(self) -> "Frame":
        """A frame for another part of the same statement: same parameters, separate joins."""
        return Frame(self.dialect, self.parameters, self.kinds)

    def inner(self) -> "Frame":
        """A frame for a subquery."""
        return Frame(self.dialect, self.parameters, self.kinds, f"s{self.depth + 1}", self.depth + 1)

    def of_machine(self) -> "Frame":
        """A frame for the machine of these rows. Notes the join that it needs."""
        self.joined = True
        return Frame(self.dialect, self.parameters, self.kinds, f"{self.alias}m", self.depth)


Condition = Callable[[Frame], str]  # to SQL


def match_all(_frame: Frame) -> str:
    """The condition that every row meets."""
    return TRUE_SQL


def match_none(_frame: Frame) -> str:
    """The condition that no row meets."""
    return FALSE_SQL


def all_of(conditions: Sequence[Condition]) -> Condition:
    """Every condition holds. Matches all rows without conditions."""
    return _group(conditions, " AND ", match_all)


def any_of(conditions: Sequence[Condition]) -> Condition:
    """At least one condition holds. Matches no row without conditions."""
    return _group(conditions, " OR ", match_none)


_MAX_CHAIN = 32  # operands of one chain of AND or OR


def _group(conditions: Sequence[Condition], word: str, empty: Condition) -> Condition:
    if not conditions:
        return empty
    if len(conditions) == 1:
        return conditions[0]
    return lambda frame: _joined([condition(frame) for condition in conditions], word)


def _joined(operands: list[str], word: str) -> str:
    """The operands joined by `word`, as a tree of short chains.

    SQLite parses a chain as one level per operand, and an expression may have 1,000 levels. As part of a subquery the
    same condition counts twice, so one chain of 500 operands exceeds that.
    """
    while len(operands) > _MAX_CHAIN:
        starts = range(0, len(operands), _MAX_CHAIN)
        operands = [f"({word.join(operands[start : start + _MAX_CHAIN])})" for start in starts]
    return f"({word.join(operands)})"


def compare(column: str, test: Callable[[str, Frame], str], *, nullable: bool, negated: bool) -> Condition:
    """`test` of the column. Negated, it holds for exactly the other rows, those with null included."""

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
    """The column is null."""
    return f"{column} IS NULL"


def comparison(operator: str, value: Any) -> Test:
    """`= < <= > >=` against a value. Timestamps are bound in the type that the driver requires."""

    def sql(column: str, frame: Frame) -> str:
        bound = frame.dialect.timestamp(value) if isinstance(value, datetime) else value
        return f"{column} {operator} {frame.parameters(bound)}"

    return sql


def in_list(values: Sequence[Any], array: str) -> Test:
    """The column equals one of `values`. `array` is PostgreSQL's type of its items."""
    if not values:
        return lambda _column, _frame: FALSE_SQL
    return lambda column, frame: frame.dialect.in_list(column, values, array, frame.parameters)


def contains(text: str) -> Test:
    """The column contains `text`."""
    return lambda column, frame: frame.dialect.contains(column, text, frame.parameters)


def ends_with(text: str) -> Test:
    """The column ends with `text`."""
    return lambda column, frame: frame.dialect.ends_with(column, text, frame.parameters)


def starts_with(text: str) -> Test:
    """The column starts with `text`: a range of the index instead of a pattern."""
    if not text:
        return lambda column, _frame: f"{column} IS NOT NULL"
    end = _after_prefix(text)

    def sql(column: str, frame: Frame) -> str:
        lower = f"{column} >= {frame.parameters(text)}"
        return lower if end is None else f"({lower} AND {column} < {frame.parameters(end)})"

    return sql


def matches_pattern(parts: Sequence[str]) -> Test:
    """The whole text consists of `parts` with any text between them. A single part must equal the text."""
    if len(parts) == 1:
        return comparison("=", parts[0])
    prefix = starts_with(parts[0])

    def sql(column: str, frame: Frame) -> str:
        pattern = frame.dialect.matches_pattern(column, parts, frame.parameters)
        return f"({prefix(column, frame)} AND {pattern})" if parts[0] else pattern

    return sql


def _after_prefix(prefix: str) -> str | None:
    """The smallest text, by code point, that sorts after all texts with this prefix. None if there is none."""
    while prefix:
        last = ord(prefix[-1]) + 1
        if last == 0xD800:
            last = 0xE000  # surrogates are not characters
        if last <= 0x10FFFF:
            return prefix[:-1] + chr(last)
        prefix = prefix[:-1]
    return None


def fold(text: str, ignore_case: bool) -> str:
    """The text to compare: case-folded if case is ignored."""
    return folded(text) or "" if ignore_case else text


def member_name(member: Any) -> str:
    """The name of an enum's member. GraphQL coerces it to the member; REST leaves it as text."""
    return str(member.value) if isinstance(member, Enum) else str(member)
