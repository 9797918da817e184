"""Renderers: generated Python functions that turn database rows into JSON-ready values.

The compiler writes one expression for a selection, and `Code.function` compiles it to a function. The selection is
not interpreted for each row: the expression is a dict display with the response keys as literals and the row's
columns as tuple indexes.

There are three calling conventions. Parameters are positional.

`render(row, related, context)`: a row of an entity.
    * `row` is the tuple that the driver returned. The positions of its columns (`RowLayout.column`) are constants of
      the generated code. Rows may have more columns, always after those of the layout: a SingleRowNode appends its
      key, and a PageNode the sort columns that cursors need, the parent's id, or the page's metadata.
    * `related` holds a mapping for each relation of the row's layout, in the order of `RowLayout.relations`. That of a
      to-one relation has rendered rows by key, without rows that do not exist or that the caller may not see: the
      code calls `get`, so such a field is null. That of a to-many relation has a rendered connection or list for every
      row, or the FieldError of a list that exceeds its bound.
    * `context` is the request's Context. Computed fields receive it as their first argument, and then what was bound
      to them: `v0(context, context.bound[v1], row[2])`.

`render(page, related, context, cursor)`: a connection, a bounded list, or a list of groups.
    * `page` is a LoadedPage, whose rows are trimmed to the page's size and in the order of the response. It has the
      aggregates in the order of `PageLayout.aggregates`.
    * `related` is that of the page's rows. Their expression is written into the list comprehension over `page.rows`,
      because a call per row costs more. Only rows of several types are rendered by a call, of the renderer of the
      row's kind: `v0[row[2]](row, related, context)`.
    * `cursor(row)` makes a row's cursor. It is a parameter because it depends on the request's sort order.

`render(payload, parts, context)`: a payload, which is a dict that a resolver or the function of a root field returns.
    * `parts` holds the rendered nested payloads and the rendered rows that the payload refers to, by the numbers that
      PayloadShape assigned.

The query

    { vms(first: 2) { nodes { id name currentSnapshot { name } snapshots(first: 1) { totalCount nodes { name } } } } }

(`compiler` shows its statements) is rendered by these functions, the last of which renders the root field:

    def render(row, related, context):
        return {'name': row[0]}

    def render(page, related, context, cursor):
        return {'totalCount': page.total, 'nodes': [{'name': row[0]} for row in page.rows]}

    def render(page, related, context, cursor):
        return {'nodes': [{'id': f'vm-{row[0]}', 'name': row[1], 'currentSnapshot': related[0].get(row[0]),
                           'snapshots': related[1][row[0]]} for row in page.rows]}

For page.rows = [(11, 'web-01', 3), (12, 'web-02', 1)] and

    related = [{11: {'name': 'b'}}, {11: {'totalCount': 3, 'nodes': [{'name': 'b'}]},
                                     12: {'totalCount': 1, 'nodes': [{'name': 'z'}]}}]

the last one returns

    {'nodes': [{'id': 'vm-11', 'name': 'web-01', 'currentSnapshot': {'name': 'b'},
                'snapshots': {'totalCount': 3, 'nodes': [{'name': 'b'}]}},
               {'id': 'vm-12', 'name': 'web-02', 'currentSnapshot': None,
                'snapshots': {'totalCount': 1, 'nodes': [{'name': 'z'}]}}]}

A page of more than `SLICE_ROWS` rows is rendered in slices, between which other requests run. The same expression of a
row is then compiled a second time, by `ListRenderers`, to a function of the rows of a slice. The renderer of the page
uses the result if there is one: the list above is in fact

    'nodes': (page.lists[0] if page.lists else [{'name': row[0]} for row in page.rows])

Objects that cannot be written as literals, such as the function of a computed field, are globals of the generated
function, named `v0`, `v1` and so on (`Code.name`).

Invariants:

* The source contains text of the gateway's own and GraphQL names, which are letters, digits and underscores. Names are
  written by `repr`. Argument values do not get into it.
* A renderer runs no SQL and does not wait: everything it needs is loaded before it is called.
* Values are dicts, lists, strings, numbers, booleans and None, and on PostgreSQL also timezone-aware datetimes, which
  orjson writes. BigInt is written as a string. Only a FieldError cannot be written, so that the finisher notices it.
* A stored value that is none of the values of the leaf's enum, because a newer version stored it, is rendered as
  UNKNOWN, so that it does not cost the list that its row is in.
* The expression of a leaf depends on the type and the dialect (`Dialect.leaf_templates`), because the drivers return
  different types. A field that the schema declares non-null is not tested for None.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from gateway.models import UNKNOWN
from gateway.reads.dialects import Dialect

SLICE_ROWS = 100  # that are rendered without a pause; a row of a few fields takes 1 us, a wide one up to 300 us

Renderer = Callable[[Any, Sequence[Any], Any], Any]


class Record(dict[str, Any]):
    """An object with its GraphQL type's name, by which graphql-core resolves interfaces."""

    __slots__ = ("type_name",)

    def __init__(self, type_name: str, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.type_name = type_name


class _EnumValues(dict[str | None, str | None]):
    """Maps the values of an enum to themselves, null to null, and any other text to UNKNOWN."""

    def __init__(self, values: Collection[str]) -> None:
        super().__init__({None: None} | {value: value for value in values})

    def __missing__(self, value: str | None) -> str:
        return UNKNOWN


@dataclass(slots=True)
class Code:
    """Source text under construction, and the objects that it refers to by name."""

    dialect: Dialect
    typed: bool  # objects are Records
    names: dict[str, Any] = field(default_factory=dict)

    def name(self, value: Any) -> str:
        """A new name for `value` in the source."""
        name = f"v{len(self.names)}"
        self.names[name] = value
        return name

    def function(self, parameters: str, expression: str) -> Any:
        """Compiles the function of `parameters` that returns `expression`.

        Both must consist of text from the gateway's own code and of GraphQL names.
        """
        scope = dict(self.names)
        exec(f"def render({parameters}):\n    return {expression}", scope)  # noqa: S102
        return scope["render"]

    def object(self, type_name: str, items: Sequence[tuple[str, str]]) -> str:
        """The expression of an object: a dict display of response keys and expressions, or a Record made of it."""
        values = "{" + ", ".join(f"{key!r}: {expression}" for key, expression in items) + "}"
        return f"{self.name(Record)}({type_name!r}, {values})" if self.typed else values

    def enum_value(self, value: str, values: Collection[str]) -> str:
        """The expression of a leaf of an enum type with these values. `value` is the expression of its column."""
        return f"{self.name(_EnumValues(values))}[{value}]"

    def leaf(self, value: str, type_name: str, *, required: bool) -> str:
        """The expression of a leaf of this GraphQL type. `value` is the expression of its column.

        A `required` value is never None.
        """
        if type_name == "BigInt":
            template: str | None = "f'{{{0}}}'"
        else:
            template = self.dialect.leaf_templates.get(
                {"DateTime": "timestamp", "Boolean": "boolean"}.get(type_name, "")
            )
        if template is None:
            return value
        return template.format(value) if required else f"(None if {value} is None else {template.format(value)})"


class ListRenderers:
    """The lists of a page: the expression of each, and a function that renders a slice of it.

    The functions are compiled when the first large page is rendered.
    """

    def __init__(self, code: Code) -> None:
        self._code = code
        self._rows: list[str] = []

    def add(self, row: str) -> str:
        """Adds a list with the expression of a row. Returns that of the list, for the renderer of the page."""
        self._rows.append(row)
        return f"(page.lists[{len(self._rows) - 1}] if page.lists else [{row} for row in page.rows])"

    @cached_property
    def functions(self) -> Sequence[Callable[[Sequence[Any], Sequence[Any], Any, Callable[[Any], str]], list[Any]]]:
        """A function for each list, in the order in which they were added."""
        return [self._code.function("rows, related, context, cursor", f"[{row} for row in rows]") for row in self._rows]
