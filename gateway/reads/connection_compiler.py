"""Compiles lists: connections with their nodes, edges, page info and aggregates; bounded lists; and lists of groups."""

from collections.abc import Callable
from typing import Any, NamedTuple

from gateway.errors import TooManyItems
from gateway.models import MachineKind
from gateway.reads import sources
from gateway.reads.connections import PageNode, PageRenderer
from gateway.reads.dialects import Dialect
from gateway.reads.entities import ENTITIES, Entity
from gateway.reads.fetch_nodes import RowLayout
from gateway.reads.page_binding import FilterBinder, FixedBinder, PageBinder
from gateway.reads.page_layout import PageLayout
from gateway.reads.pages import BoundPage, Page
from gateway.reads.rendering import Code, ListRenderers
from gateway.reads.row_compiler import RowCompiler, aggregate_sql
from gateway.reads.selection import Field, FieldError, Selection
from gateway.reads.sorts import SortField, SortKey, SortOrder

PAGE_PARAMETERS = "page, related, context, cursor"  # of a renderer of pages


class Binding(NamedTuple):
    """What a plan binds for each request: under `key`, what `bind` makes of the arguments of `field`."""

    field: Field
    key: Any
    bind: sources.Bind


class ConnectionCompiler:
    """Compiles the lists of one plan, and collects its bindings: that of each list before those below it."""

    def __init__(self, catalog: sources.Catalog, dialect: Dialect, *, typed: bool) -> None:
        self._catalog = catalog
        self._dialect = dialect
        self.rows = RowCompiler(catalog, dialect, typed=typed, page_node=self.page_node, bind=self.bind)
        self.bindings: list[Binding] = []

    def bind(self, field: Field, bind: sources.Bind) -> None:
        """Adds the arguments of a field that is no list. A field that several types share is added once."""
        if all(binding.key is not field for binding in self.bindings):
            self.bindings.append(Binding(field, field, bind))

    def page_node(self, source: sources.ToMany | sources.BoundedRows, field: Field, type_name: str) -> PageNode:
        """The node of a connection whose type is `type_name`, or of a bounded list."""
        if isinstance(source, sources.BoundedRows):
            return self._list_node(source, field)
        entity, code, position = ENTITIES[source.noun], self.rows.code(), len(self.bindings)
        layout = PageLayout(
            RowLayout(entity), source.match, kind=_kind(entity, type_name), counted=source.counter is not None
        )
        ((connection_type, fields),) = field.selection.items()
        lists = ListRenderers(code)
        items = [(item.key, self._field(connection_type, item, layout, code, lists)) for item in fields]
        render: PageRenderer = code.function(PAGE_PARAMETERS, code.object(connection_type, items))
        node = PageNode(layout, self._dialect, render, lists, PageBinder(entity, self._dialect))
        self.bindings.insert(position, Binding(field, node, node.binder.bind))
        return node

    def _list_node(self, source: sources.BoundedRows, field: Field) -> PageNode:
        entity, code, position = ENTITIES[source.noun], self.rows.code(), len(self.bindings)
        layout = PageLayout(RowLayout(entity), source.match, source.where)
        item = self.rows.expression(field.selection, layout.row_layout, code)
        page = _whole_list(source.order or entity.default_order, source.bound)
        lists = ListRenderers(code)
        render = _list_renderer(source, field, lists.add(item), layout, code)
        node = PageNode(layout, self._dialect, render, lists, FixedBinder(page))
        self.bindings.insert(position, Binding(field, node, node.binder.bind))
        return node

    def groups_node(self, source: sources.GroupedRows, field: Field) -> PageNode:
        """The node of a list of groups."""
        entity, code = ENTITIES[source.noun], self.rows.code()
        layout = PageLayout(RowLayout(entity), group_by=source.by)
        ((type_name, fields),) = field.selection.items()
        for selected in fields:
            declared = self._catalog[type_name][selected.name].source if selected.name != "__typename" else None
            if isinstance(declared, sources.Column) and declared.name not in source.by:
                raise TypeError(f"{type_name}.{selected.name} is not a column that {field.name} is grouped by.")
        item = self.rows.expression(field.selection, layout.row_layout, code)
        order = source.order or tuple(SortKey(SortField(column, "text")) for column in source.by)
        page = _whole_list(order, source.bound)
        lists = ListRenderers(code)
        render = _list_renderer(source, field, lists.add(item), layout, code)
        node = PageNode(layout, self._dialect, render, lists, FilterBinder(entity, page))
        self.bindings.append(Binding(field, node, node.binder.bind))
        return node

    def edge(self, selection: Selection, layout: PageLayout, code: Code) -> str:
        """The expression of an edge around `row`."""
        ((type_name, fields),) = selection.items()
        items = []
        for field in fields:
            if field.name == "__typename":
                items.append((field.key, repr(type_name)))
            elif field.name == "cursor":
                layout.cursors = True
                items.append((field.key, "cursor(row)"))
            else:
                items.append((field.key, self.rows.expression(field.selection, layout.row_layout, code)))
        return code.object(type_name, items)

    def _field(self, type_name: str, field: Field, layout: PageLayout, code: Code, lists: ListRenderers) -> str:
        match field.name:
            case "__typename":
                return repr(type_name)
            case "totalCount":
                layout.total = True
                return "page.total"
            case "nodes":
                layout.rows = True
                return lists.add(self.rows.expression(field.selection, layout.row_layout, code))
            case "edges":
                layout.rows = True
                return lists.add(self.edge(field.selection, layout, code))
            case "pageInfo":
                return _page_info(field.selection, layout, code)
            case name:
                return self._aggregate(self._catalog[type_name][name], layout, code)

    def _aggregate(self, sourced: sources.SourcedField, layout: PageLayout, code: Code) -> str:
        assert isinstance(sourced.source, sources.Aggregate)
        position = layout.aggregate(aggregate_sql(sourced.source, self._dialect))
        return code.leaf(f"page.aggregates[{position}]", sourced.type_name, required=True)


def _kind(entity: Entity, connection_type: str) -> MachineKind | None:
    """The kind of a connection of machines of one kind: `VmConnection`, `InstanceConnection`."""
    return entity.types.get(connection_type.removesuffix("Connection"))


def _whole_list(order: SortOrder, bound: int) -> BoundPage:
    return BoundPage(Page(size=bound), order, condition=None, after=None, before=None)


def _list_renderer(
    source: sources.BoundedRows | sources.GroupedRows, field: Field, items: str, layout: PageLayout, code: Code
) -> PageRenderer:
    """Renders the rows of a page, or a FieldError if more rows follow. `items` is the expression of the list."""
    layout.rows = layout.has_next = True
    failure = code.name(_failure(source, field))
    render: PageRenderer = code.function(PAGE_PARAMETERS, f"{failure}() if page.has_next else {items}")
    return render


def _failure(source: sources.BoundedRows | sources.GroupedRows, field: Field) -> Callable[[], FieldError]:
    advice = f" {source.advice}" if isinstance(source, sources.BoundedRows) and source.advice else ""
    message = f"`{field.name}` has more than {source.bound} items, so it cannot be returned.{advice}"
    return lambda: FieldError(field, TooManyItems(message))


def _page_info(selection: Selection, layout: PageLayout, code: Code) -> str:
    ((type_name, fields),) = selection.items()
    items = []
    for field in fields:
        match field.name:
            case "__typename":
                expression = repr(type_name)
            case "hasNextPage":
                layout.has_next = layout.rows = True
                expression = "page.has_next"
            case "hasPreviousPage":
                layout.has_previous = layout.rows = True
                expression = "page.has_previous"
            case name:
                layout.cursors = layout.rows = True
                row = "page.rows[0]" if name == "startCursor" else "page.rows[-1]"
                expression = f"(cursor({row}) if page.rows else None)"
        items.append((field.key, expression))
    return code.object(type_name, items)
