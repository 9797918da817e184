"""Sources: where the value of a schema field comes from. `graphql/` and `rest/` declare one for each field.

The compiler reads these declarations; fields have no resolvers. Columns are written as `conditions.Frame` reads them:
`name`, `machine.name`, or an SQL expression over `{t}`. A *noun* is the name of an entity, which is also its table.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


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
    """Computed in Python from columns by `compute(context, *values)`.

    It returns a leaf or, for a field with a selection, a sequence of dicts by field name.
    """

    columns: tuple[str, ...]
    compute: Callable[..., Any]


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
class RowById:
    """At the root: the row that the argument `id` names, of `noun` or, if that is None, of any entity."""

    noun: str | None = None


@dataclass(frozen=True, slots=True)
class RowsByIds:
    """At the root: the rows that the argument `ids` names, in that order, with null for ids that find nothing."""


@dataclass(frozen=True, slots=True)
class AllRows:
    """At the root: all rows of a small table, as a list."""

    noun: str


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
    | RowById
    | RowsByIds
    | AllRows
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
    enum_values: frozenset[str] | None = None  # of a type that is an enum


Catalog = Mapping[str, Mapping[str, SourcedField]]  # by type name and field name
