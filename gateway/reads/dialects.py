"""Dialects: where the SQL of SQLite and PostgreSQL differs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import orjson

from gateway.columns import timestamp_text


class Parameters:
    """The parameters of one statement: `?1, ?2, …` or `$1, $2, …`. Numbers let fragments be joined in any order."""

    def __init__(self, sign: str) -> None:
        self._sign = sign
        self.values: list[Any] = []

    def __call__(self, value: Any) -> str:
        """Adds a parameter and returns its placeholder."""
        self.values.append(value)
        return f"{self._sign}{len(self.values)}"


@dataclass(frozen=True, slots=True)
class PageSql:
    """The parts of a statement that fetches a page of the rows `t` of one table."""

    table: str
    joins: str
    columns: Sequence[str]
    where: str
    order: Sequence[tuple[str, str]]  # expression and direction: ("t.name", "ASC NULLS LAST")
    limit: int
    offset: int = 0
    group_by: Sequence[str] = ()

    def as_subquery(self, columns: Sequence[str]) -> tuple[str, str, str]:
        """The statement with named columns, for use as a subquery `page`; `columns` in that subquery; its ORDER BY."""
        shown = [f"{column} AS c{number}" for number, column in enumerate(columns)]
        keys = [f"{expression} AS o{number}" for number, (expression, _) in enumerate(self.order)]
        return (
            self.select([*shown, *keys]),
            ", ".join(f"page.c{number}" for number in range(len(columns))),
            ", ".join(f"page.o{number} {how}" for number, (_, how) in enumerate(self.order)),
        )

    def select(self, columns: Sequence[str]) -> str:
        """The statement, selecting `columns`."""
        order = ", ".join(f"{expression} {how}" for expression, how in self.order)
        group = f" GROUP BY {', '.join(self.group_by)}" if self.group_by else ""
        offset = f" OFFSET {self.offset}" if self.offset else ""
        return (
            f"SELECT {', '.join(columns)} FROM {self.table} t{self.joins}"
            f" WHERE {self.where}{group} ORDER BY {order} LIMIT {self.limit}{offset}"
        )


class Dialect(Protocol):
    """The SQL of one database."""

    name: str
    parent_id: str  # the expression of the parent's id inside `page_per_parent` and `value_per_parent`
    bigint_cast: str  # follows a number from a client, which may be larger than the column's type
    prefers_joins: bool  # whether one larger statement costs less than two small ones
    leaf_templates: Mapping[str, str]  # Python source that makes a JSON-ready value of `{0}`, by type of leaf

    def parameters(self) -> Parameters:
        """Parameters for a new statement."""
        ...

    def timestamp(self, value: datetime) -> Any:
        """The value that the driver binds for a timestamp."""
        ...

    def without_index(self, column: str) -> str:
        """The column, written so that the planner does not use an index on it."""
        ...

    def in_list(self, column: str, values: Sequence[Any], array: str, p: Parameters) -> str:
        """`column` equals one of `values`, as one parameter. `array` is PostgreSQL's type of its items."""
        ...

    def contains(self, column: str, text: str, p: Parameters) -> str:
        """`column` contains `text`."""
        ...

    def ends_with(self, column: str, text: str, p: Parameters) -> str:
        """`column` ends with `text`."""
        ...

    def matches_pattern(self, column: str, parts: Sequence[str], p: Parameters) -> str:
        """`column` consists of `parts` in this order with any text between them."""
        ...

    def sum(self, column: str) -> str:
        """The sum of a column of whole numbers: 0 without values, and at most 2^63 - 1."""
        ...

    def number_list(self, numbers: Sequence[int]) -> Any:
        """The value that the driver binds for a list of numbers, as a parameter of the three methods below."""
        ...

    def in_numbers(self, column: str, numbers: str) -> str:
        """`column` equals one of the `numbers`, a placeholder."""
        ...

    def page_per_parent(self, page: PageSql, parents: str) -> str:
        """Selects a page for each of the `parents` (a placeholder), in their order: its columns and the parent's id."""
        ...

    def value_per_parent(self, expression: str, parents: str) -> str:
        """Selects each parent's id and the value of `expression` for it."""
        ...


_LARGEST = 2**63 - 1


def _escaped(text: str, special: str, escape: Callable[[str], str]) -> str:
    return "".join(escape(character) if character in special else character for character in text)


class Sqlite:
    """SQLite. Patterns use GLOB, because its LIKE ignores case."""

    name = "sqlite"
    parent_id = "p.value"
    bigint_cast = ""
    prefers_joins = False
    leaf_templates: Mapping[str, str] = {
        "timestamp": "{0}.replace('.000000Z', 'Z')",
        "boolean": "{0} == 1",
    }

    def parameters(self) -> Parameters:
        return Parameters("?")

    def timestamp(self, value: datetime) -> Any:
        return timestamp_text(value)

    def without_index(self, column: str) -> str:
        return f"+{column}"  # without statistics SQLite prefers any equality, also one that most rows meet

    def in_list(self, column: str, values: Sequence[Any], array: str, p: Parameters) -> str:
        return f"{column} IN (SELECT value FROM json_each({p(orjson.dumps(values).decode())}))"

    def contains(self, column: str, text: str, p: Parameters) -> str:
        return f"instr({column}, {p(text)}) > 0"

    def ends_with(self, column: str, text: str, p: Parameters) -> str:
        return f"substr({column}, -{len(text)}) = {p(text)}" if text else f"{column} IS NOT NULL"

    def matches_pattern(self, column: str, parts: Sequence[str], p: Parameters) -> str:
        pattern = "*".join(_escaped(part, "*?[", lambda character: f"[{character}]") for part in parts)
        return f"{column} GLOB {p(pattern)}"

    def sum(self, column: str) -> str:
        # sum() fails beyond 64 bits, so the halves are added separately. Beyond 64 bits their combination is a REAL.
        halves = f"sum({column} >> 32) * 4294967296 + sum({column} & 4294967295)"
        return f"coalesce(min({halves}, {_LARGEST}), 0)"

    def number_list(self, numbers: Sequence[int]) -> Any:
        return orjson.dumps(numbers).decode()

    def in_numbers(self, column: str, numbers: str) -> str:
        return f"{column} IN (SELECT value FROM json_each({numbers}))"

    def page_per_parent(self, page: PageSql, parents: str) -> str:
        order = ", ".join(f"{expression} {how}" for expression, how in page.order)
        return (
            f"SELECT {', '.join(page.columns)}, p.value FROM json_each({parents}) p"
            f" CROSS JOIN {page.table} t ON t.id IN ({page.select(['t.id'])}){page.joins} ORDER BY p.key, {order}"
        )

    def value_per_parent(self, expression: str, parents: str) -> str:
        return f"SELECT p.value, {expression} FROM json_each({parents}) p"


class Postgresql:
    """PostgreSQL. Its driver returns timestamps as datetimes, which orjson writes."""

    name = "postgresql"
    parent_id = "p.id"
    bigint_cast = "::bigint"
    prefers_joins = True
    leaf_templates: Mapping[str, str] = {}

    def parameters(self) -> Parameters:
        return Parameters("$")

    def timestamp(self, value: datetime) -> Any:
        return value

    def without_index(self, column: str) -> str:
        return column

    def in_list(self, column: str, values: Sequence[Any], array: str, p: Parameters) -> str:
        return f"{column} = ANY({p(list(values))}::{array}[])"

    def contains(self, column: str, text: str, p: Parameters) -> str:
        return f"strpos({column}, {p(text)}) > 0"

    def ends_with(self, column: str, text: str, p: Parameters) -> str:
        return f"right({column}, {len(text)}) = {p(text)}"

    def matches_pattern(self, column: str, parts: Sequence[str], p: Parameters) -> str:
        pattern = "%".join(_escaped(part, "%_\\", lambda character: f"\\{character}") for part in parts)
        return f"{column} LIKE {p(pattern)}"

    def sum(self, column: str) -> str:
        return f"least(coalesce(sum({column}), 0), {_LARGEST})::bigint"  # the sum of bigints is a numeric

    def number_list(self, numbers: Sequence[int]) -> Any:
        return list(numbers)

    def in_numbers(self, column: str, numbers: str) -> str:
        return f"{column} = ANY({numbers}::bigint[])"

    def page_per_parent(self, page: PageSql, parents: str) -> str:
        select, columns, order = page.as_subquery(page.columns)
        return (
            f"SELECT {columns}, p.id FROM unnest({parents}::bigint[]) WITH ORDINALITY AS p(id, n)"
            f" CROSS JOIN LATERAL ({select}) page ORDER BY p.n, {order}"
        )

    def value_per_parent(self, expression: str, parents: str) -> str:
        return f"SELECT p.id, {expression} FROM unnest({parents}::bigint[]) AS p(id)"


DIALECTS: Mapping[str, Dialect] = {"sqlite": Sqlite(), "postgresql": Postgresql()}
