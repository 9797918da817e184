"""Where the value of a schema field comes from. `api/` declares one on each field; the compiler reads them.

Columns are spelt as `conditions.Frame` has it: `name`, `machine.name`, or an expression over `{t}`.
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
class IdOf:
    """The id of another row, held in a column; `prefix` as in `snapshot-3`."""

    prefix: str
    column: str


@dataclass(frozen=True, slots=True)
class Computed:
    """Computed in Python from columns: `compute(context, *values)`. Gives a leaf, or dicts when it has a selection."""

    columns: tuple[str, ...]
    compute: Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Inline:
    """An object made of columns of the same row; null where the column `present` is."""

    present: str


@dataclass(frozen=True, slots=True)
class One:
    """The row of `noun` whose column `match` equals this row's `column`; null when there is none."""

    noun: str
    column: str
    match: str = "id"
    where: str = "TRUE"  # SQL over `{t}` that it must also satisfy


@dataclass(frozen=True, slots=True)
class Many:
    """A connection: the rows of `noun` whose column `match` equals this row's id, or, at the root, all there are.

    `counter` is a column of this row that counts them.
    """

    noun: str
    match: str | None = None
    counter: str | None = None


@dataclass(frozen=True, slots=True)
class Lookup:
    """At the root: the row that the argument `id` names, of `noun` or, when that is None, of any."""

    noun: str | None = None


@dataclass(frozen=True, slots=True)
class Lookups:
    """At the root: the rows that the argument `ids` names, in that order, null for what names none."""


@dataclass(frozen=True, slots=True)
class Every:
    """At the root: all rows of a small table, as a list."""

    noun: str


@dataclass(frozen=True, slots=True)
class Given:
    """A value, an object or a list of objects that the resolver gives under `name`."""

    name: str


@dataclass(frozen=True, slots=True)
class GivenOne:
    """The row whose number, or `Reference` when `noun` is None, the resolver gives under `name`."""

    noun: str | None
    name: str


@dataclass(frozen=True, slots=True)
class GivenEdge:
    """An edge, with a cursor of the default order, around the row whose number the resolver gives under `name`."""

    noun: str
    name: str


Source = (
    Column | OwnId | IdOf | Computed | Inline | One | Many | Lookup | Lookups | Every | Given | GivenOne | GivenEdge
)


@dataclass(frozen=True, slots=True)
class SourcedField:
    """A field of the schema as the compiler sees it: where its value comes from, and its GraphQL type."""

    source: Source
    type_name: str
    required: bool = False  # never null


Catalog = Mapping[str, Mapping[str, SourcedField]]  # by type name and field name
