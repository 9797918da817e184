"""The few places where the SQL of the two databases differs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import orjson

from gateway.columns import timestamp_text


class Parameters:
    """The parameters of one statement: `?1, ?2, …` or `$1, $2, …`, numbered so that fragments may come in any order."""

    def __init__(self, sign: str) -> None:
        self._sign = sign
        self.values: list[Any] = []

    def __call__(self, value: Any) -> str:
        """The placeholder for `value`."""
        self.values.append(value)
        return f"{self._sign}{len(self.values)}"


@dataclass(frozen=True, slots=True)
class PageSql:
    """The parts of a statement that fetches a page of the rows `t` of one table."""

    table: str
    joins: str
    columns: Sequence[str]
    where: str
    order: Sequence[tuple[str, str]]  # expression, and how: ("t.name", "ASC NULLS LAST")
    limit: int
    offset: int = 0

    def named(self, columns: Sequence[str]) -> tuple[str, str, str]:
        """The statement as a table called `page`, the `columns` in that table, and the order of its rows."""
        shown = [f"{column} AS c{number}" for number, column in enumerate(columns)]
        keys = [f"{expression} AS o{number}" for number, (expression, _) in enumerate(self.order)]
        return (
            self.select([*shown, *keys]),
            ", ".join(f"page.c{number}" for number in range(len(columns))),
            ", ".join(f"page.o{number} {how}" for number, (_, how) in enumerate(self.order)),
        )

    def select(self, columns: Sequence[str]) -> str:
        order = ", ".join(f"{expression} {how}" for expression, how in self.order)
        offset = f" OFFSET {self.offset}" if self.offset else ""
        return (
            f"SELECT {', '.join(columns)} FROM {self.table} t{self.joins}"
            f" WHERE {self.where} ORDER BY {order} LIMIT {self.limit}{offset}"
        )


class Dialect(Protocol):
    """How one database spells things."""

    name: str
    parent: str  # the id of the parent at hand inside `per_parent`
    number_cast: str  # after a number that a client chose, which may be larger than the column
    joins: bool  # whether one larger statement costs less than two small ones
    renderers: Mapping[str, str]  # Python source that makes a JSON-ready value of `{0}`, by kind of column

    def parameters(self) -> Parameters: ...

    def moment(self, value: datetime) -> Any:
        """An instant as the driver binds it."""
        ...

    def unindexed(self, column: str) -> str:
        """The column where no index is to be chosen for it."""
        ...

    def among(self, column: str, values: Sequence[Any], array: str, p: Parameters) -> str:
        """`column` is one of `values`, however many; `array` is PostgreSQL's type of the list."""
        ...

    def contains(self, column: str, text: str, p: Parameters) -> str: ...

    def ends_with(self, column: str, text: str, p: Parameters) -> str: ...

    def matches(self, column: str, parts: Sequence[str], p: Parameters) -> str:
        """`column` is `parts` in this order with anything between them."""
        ...

    def numbers(self, numbers: Sequence[int]) -> Any:
        """A list of numbers as the driver binds it, for the three methods below."""
        ...

    def among_numbers(self, column: str, numbers: str) -> str:
        """`column` is one of the `numbers`."""
        ...

    def per_parent(self, page: PageSql, parents: str) -> str:
        """The columns and then the parent's id, for each of the `parents` its own page, in their order."""
        ...

    def value_per_parent(self, expression: str, parents: str) -> str:
        """The parent's id and the value of `expression`, for each of the `parents`."""
        ...


def _escaped(text: str, special: str, escape: Callable[[str], str]) -> str:
    return "".join(escape(character) if character in special else character for character in text)


class Sqlite:
    """SQLite. GLOB instead of LIKE, which ignores case there."""

    name = "sqlite"
    parent = "p.value"
    number_cast = ""
    joins = False
    renderers: Mapping[str, str] = {
        "moment": "{0}.replace('.000000Z', 'Z')",
        "boolean": "{0} == 1",
    }

    def parameters(self) -> Parameters:
        return Parameters("?")

    def moment(self, value: datetime) -> Any:
        return timestamp_text(value)

    def unindexed(self, column: str) -> str:
        return f"+{column}"  # without statistics any equality looks good to it

    def among(self, column: str, values: Sequence[Any], array: str, p: Parameters) -> str:
        return f"{column} IN (SELECT value FROM json_each({p(orjson.dumps(values).decode())}))"

    def contains(self, column: str, text: str, p: Parameters) -> str:
        return f"instr({column}, {p(text)}) > 0"

    def ends_with(self, column: str, text: str, p: Parameters) -> str:
        return f"substr({column}, -{len(text)}) = {p(text)}" if text else f"{column} IS NOT NULL"

    def matches(self, column: str, parts: Sequence[str], p: Parameters) -> str:
        pattern = "*".join(_escaped(part, "*?[", lambda character: f"[{character}]") for part in parts)
        return f"{column} GLOB {p(pattern)}"

    def numbers(self, numbers: Sequence[int]) -> Any:
        return orjson.dumps(numbers).decode()

    def among_numbers(self, column: str, numbers: str) -> str:
        return f"{column} IN (SELECT value FROM json_each({numbers}))"

    def per_parent(self, page: PageSql, parents: str) -> str:
        order = ", ".join(f"{expression} {how}" for expression, how in page.order)
        return (
            f"SELECT {', '.join(page.columns)}, p.value FROM json_each({parents}) p"
            f" CROSS JOIN {page.table} t ON t.id IN ({page.select(['t.id'])}){page.joins} ORDER BY p.key, {order}"
        )

    def value_per_parent(self, expression: str, parents: str) -> str:
        return f"SELECT p.value, {expression} FROM json_each({parents}) p"


class Postgresql:
    """PostgreSQL. Instants arrive as datetimes, which orjson writes."""

    name = "postgresql"
    parent = "p.id"
    number_cast = "::bigint"
    joins = True
    renderers: Mapping[str, str] = {}

    def parameters(self) -> Parameters:
        return Parameters("$")

    def moment(self, value: datetime) -> Any:
        return value

    def unindexed(self, column: str) -> str:
        return column

    def among(self, column: str, values: Sequence[Any], array: str, p: Parameters) -> str:
        return f"{column} = ANY({p(list(values))}::{array}[])"

    def contains(self, column: str, text: str, p: Parameters) -> str:
        return f"strpos({column}, {p(text)}) > 0"

    def ends_with(self, column: str, text: str, p: Parameters) -> str:
        return f"right({column}, {len(text)}) = {p(text)}"

    def matches(self, column: str, parts: Sequence[str], p: Parameters) -> str:
        pattern = "%".join(_escaped(part, "%_\\", lambda character: f"\\{character}") for part in parts)
        return f"{column} LIKE {p(pattern)}"

    def numbers(self, numbers: Sequence[int]) -> Any:
        return list(numbers)

    def among_numbers(self, column: str, numbers: str) -> str:
        return f"{column} = ANY({numbers}::bigint[])"

    def per_parent(self, page: PageSql, parents: str) -> str:
        select, columns, order = page.named(page.columns)
        return (
            f"SELECT {columns}, p.id FROM unnest({parents}::bigint[]) WITH ORDINALITY AS p(id, n)"
            f" CROSS JOIN LATERAL ({select}) page ORDER BY p.n, {order}"
        )

    def value_per_parent(self, expression: str, parents: str) -> str:
        return f"SELECT p.id, {expression} FROM unnest({parents}::bigint[]) AS p(id)"


DIALECTS: Mapping[str, Dialect] = {"sqlite": Sqlite(), "postgresql": Postgresql()}
