"""Sources: where the value of a schema field comes from. `graphql/` and `rest/` declare one for each field.

The compiler reads these declarations; fields have no resolvers. Columns are written as `conditions.Frame` reads them:
`name`, `machine.name`, or an SQL expression over `{t}`. A *noun* is the name of an entity, which is also its table.

A field that is computed in Python may have arguments. Its source then has `bind`, which receives them, coerced by
GraphQL, before any statement is sent; what it returns is passed on to `compute`. `bind` raises InvalidInput for
arguments that the schema cannot exclude.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gateway.reads.selection import Arguments
from gateway.reads.sorts import SortKey

Bind = Callable[[Arguments], Any]


@dataclass(frozen=True, slots=True)
class Column:
    """A column or SQL expression of the row."""

    name: str


@dataclass(frozen=True, slots=True)
class OwnId:
    """The row's own id."""


@dataclass(frozen=True, slots=True)
class ForeignId:
    """The id of another row, whose number `column` holds. `prefix` is the id's type, as in `snapshot-3`."""

    prefix: str
    column: str


@dataclass(frozen=True, slots=True)
class Computed:
    """Computed in Python from columns by `compute(context, *values)`; with `bind`, `compute(context, bound, *values)`.

    It returns a value that is ready for JSON or, for a field with a selection, an object or a list of objects, as the
    type of the field says. Such an object is a dict of values that are ready for JSON, by field name.
    """

    columns: tuple[str, ...]
    compute: Callable[..., Any]
    bind: Bind | None = None


@dataclass(frozen=True, slots=True)
class Inline:
    """An object made of columns of the same row. Null where the column `present` is null."""

    present: str


@dataclass(frozen=True, slots=True)
class ToOne:
    """The row of `noun` whose column `match` equals this row's `column`. Null if there is none."""

    noun: str
    column: str
    match: str = "id"
    where: str = "TRUE"  # an SQL condition over `{t}` that the row must also satisfy


@dataclass(frozen=True, slots=True)
class ToMany:
    """A connection: the rows of `noun` whose column `match` equals this row's id, or, at the root, all rows.

    `counter` is a column of this row that counts them.
    """

    noun: str
    match: str | None = None
    counter: str | None = None


@dataclass(frozen=True, slots=True)
class BoundedRows:
    """A list that is no connection: the rows of `noun` that belong to this row or, at the root, all rows.

    They are in the order `order`, by default that of the entity. A list of more than `bound` rows is not truncated: the
    field fails with LIMIT_EXCEEDED, and the message ends with `advice`, a sentence that says what to do.
    """

    noun: str
    bound: int
    match: str | None = None  # the column that equals this row's id
    where: str = "TRUE"  # an SQL condition over `{t}` and, below a row, `{parent}` (its id) that the rows must satisfy
    order: tuple[SortKey, ...] = ()
    cost_rows: int | None = None  # the number of rows that the cost of a query assumes; by default `bound`
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Aggregate:
    """Computed by the database from many rows: at a connection from all that match, at a group from its rows.

    "sum": the sum of the values of `operand` that are not null, as a number of at most 2^63 - 1; 0 if there are none.
    "count": the number of rows for which the condition `operand` holds. Both operands are SQL over `{t}`.
    """

    function: Literal["sum", "count"]
    operand: str


@dataclass(frozen=True, slots=True)
class GroupedRows:
    """At the root: a list of one object for each combination of values that the columns `by` have in rows of `noun`.

    Its fields are Columns, which must be among `by`, and Aggregates. The arguments are members of the entity's filter,
    which the rows must match. The order is `order`, by default that of the values of `by`. A list of more than `bound`
    objects fails with LIMIT_EXCEEDED.
    """

    noun: str
    by: tuple[str, ...]
    bound: int
    order: tuple[SortKey, ...] = ()


@dataclass(frozen=True, slots=True)
class RowById:
    """At the root: the row that the argument `id` names, of `noun` or, if that is None, of any entity."""

    noun: str | None = None


@dataclass(frozen=True, slots=True)
class RowsByIds:
    """At the root: the rows that the argument `ids` names, in that order, with null for ids that find nothing."""


@dataclass(frozen=True, slots=True)
class ComputedRoot:
    """At the root: computed in Python by `compute(context)`, with `bind` by `compute(context, bound)`.

    It returns null, a value that is ready for JSON or, for a field with a selection, a payload or a list of payloads:
    dicts by the names that the PayloadValues and PayloadRows of its type have. A coroutine function may send statements
    in the transaction of the query, `context.transaction`, and must restrict them to what the caller may see.
    """

    compute: Callable[..., Any]
    bind: Bind | None = None
    cost: int = 1  # in addition to that of the rows that the payload refers to


@dataclass(frozen=True, slots=True)
class PayloadValue:
    """A leaf, an object or a list of objects that the resolver's payload holds under `name`."""

    name: str


@dataclass(frozen=True, slots=True)
class PayloadRow:
    """A row whose number the payload holds under `name`; if `noun` is None it holds a `Reference`."""

    noun: str | None
    name: str


@dataclass(frozen=True, slots=True)
class PayloadEdge:
    """An edge around the row whose number the payload holds under `name`. Its cursor is one of the default order."""

    noun: str
    name: str


Source = (
    Column
    | OwnId
    | ForeignId
    | Computed
    | Inline
    | ToOne
    | ToMany
    | BoundedRows
    | Aggregate
    | GroupedRows
    | RowById
    | RowsByIds
    | ComputedRoot
    | PayloadValue
    | PayloadRow
    | PayloadEdge
)


@dataclass(frozen=True, slots=True)
class SourcedField:
    """A field of the schema as the compiler sees it: its source and the name of its GraphQL type."""

    source: Source
    type_name: str
    required: bool = False  # never null
    is_list: bool = False
    enum_values: frozenset[str] | None = None  # of a type that is an enum


Catalog = Mapping[str, Mapping[str, SourcedField]]  # by type name and field name
