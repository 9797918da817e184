"""Compiles connections: their nodes and edges, their page info, and the layout of their pages."""

from gateway.models import MachineKind
from gateway.reads import sources
from gateway.reads.connections import PageNode, PageRenderer
from gateway.reads.dialects import Dialect
from gateway.reads.entities import ENTITIES, Entity
from gateway.reads.fetch_nodes import RowLayout
from gateway.reads.page_layout import PageLayout
from gateway.reads.rendering import Code
from gateway.reads.row_compiler import RowCompiler
from gateway.reads.selection import Field, Selection


class ConnectionCompiler:
    """Compiles the connections of one plan, and collects their nodes: each before those below it."""

    def __init__(self, catalog: sources.Catalog, dialect: Dialect, *, typed: bool) -> None:
        self._dialect = dialect
        self.rows = RowCompiler(catalog, dialect, typed=typed, page_node=self.page_node)
        self.nodes: list[tuple[Field, PageNode]] = []

    def page_node(self, source: sources.ToMany, field: Field, type_name: str) -> PageNode:
        """The node of a connection whose type is `type_name`."""
        entity, code, position = ENTITIES[source.noun], self.rows.code(), len(self.nodes)
        layout = PageLayout(
            RowLayout(entity), source.match, _kind(entity, type_name), counted=source.counter is not None
        )
        ((connection_type, fields),) = field.selection.items()
        items = [(item.key, self._field(connection_type, item, layout, code)) for item in fields]
        render: PageRenderer = code.function("page, related, context, cursor", code.object(connection_type, items))
        node = PageNode(layout, self._dialect, render)
        self.nodes.insert(position, (field, node))
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

    def _field(self, type_name: str, field: Field, layout: PageLayout, code: Code) -> str:
        match field.name:
            case "__typename":
                return repr(type_name)
            case "totalCount":
                layout.total = True
                return "page.total"
            case "nodes":
                layout.rows = True
                return f"[{self.rows.expression(field.selection, layout.row_layout, code)} for row in page.rows]"
            case "edges":
                layout.rows = True
                return f"[{self.edge(field.selection, layout, code)} for row in page.rows]"
            case _:
                return _page_info(field.selection, layout, code)


def _kind(entity: Entity, connection_type: str) -> MachineKind | None:
    """The kind of a connection of machines of one kind: `VmConnection`, `InstanceConnection`."""
    return entity.types.get(connection_type.removesuffix("Connection"))


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
