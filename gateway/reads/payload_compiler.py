"""Compiles payloads, and the rows of several entities that payloads and root fields refer to."""

from gateway.reads import cursors, sources
from gateway.reads.connection_compiler import ConnectionCompiler
from gateway.reads.entities import ENTITIES, Entity
from gateway.reads.fetch_nodes import RowLayout, SingleRowNode
from gateway.reads.page_layout import PageLayout
from gateway.reads.payload_shapes import MultiEntityNode, PayloadShape
from gateway.reads.rendering import Renderer
from gateway.reads.row_compiler import ROW_PARAMETERS
from gateway.reads.selection import Field, Selection
from gateway.reads.sorts import with_id_key


class PayloadCompiler:
    """Compiles the payloads of one plan. `connections` compiles the rows that they refer to."""

    def __init__(self, catalog: sources.Catalog, connections: ConnectionCompiler) -> None:
        self._catalog = catalog
        self._connections = connections
        self._rows = connections.rows

    def multi_entity_node(self, selection: Selection) -> MultiEntityNode:
        """The node of rows of every entity that has a type in the selection."""
        nodes = {}
        for entity in ENTITIES.values():
            selected = {type_name: fields for type_name, fields in selection.items() if type_name in entity.types}
            if selected:
                nodes[entity.noun] = self._rows.single_row_node(entity, selected, entity.key)
        return MultiEntityNode(nodes)

    def payload_shape(self, selection: Selection) -> PayloadShape:
        """The shape of a payload."""
        ((type_name, fields),) = selection.items()
        shape, code = PayloadShape(), self._rows.code()
        items = [(field.key, self._field(type_name, field, shape)) for field in fields]
        shape.render = code.function("payload, parts, context", code.object(type_name, items))
        return shape

    def _field(self, type_name: str, field: Field, shape: PayloadShape) -> str:
        if field.name == "__typename":
            return repr(type_name)
        match self._catalog[type_name][field.name].source:
            case sources.PayloadValue(name) if not field.selection:
                return f"payload[{name!r}]"
            case sources.PayloadValue(name):
                return shape.nested(name, self.payload_shape(field.selection))
            case sources.PayloadRow(noun, name):
                return shape.reference(name, noun, self.multi_entity_node(field.selection))
            case sources.PayloadEdge(noun, name):
                return shape.reference(name, noun, MultiEntityNode({noun: self._edge_node(ENTITIES[noun], field)}))
            case _:
                raise TypeError(f"The source of {type_name}.{field.name} is invalid for a field of a payload.")

    def _edge_node(self, entity: Entity, field: Field) -> SingleRowNode:
        layout, code = RowLayout(entity), self._rows.code()
        order = with_id_key(entity.default_sort)
        edge = self._connections.edge(field.selection, PageLayout(layout), code)
        values = "".join(f"row[{layout.column(key.field.column)}], " for key in order)
        code.names["encode"], code.names["order"] = cursors.encode, cursors.fingerprint(order)
        code.names["edge"] = code.function("row, related, context, cursor", edge)
        render: Renderer = code.function(
            ROW_PARAMETERS, f"edge(row, related, context, lambda row: encode(order, ({values})))"
        )
        return SingleRowNode(layout, render)
