"""Compiles selections of rows: one expression per field, according to its source."""

from collections.abc import Callable, Sequence

from gateway.reads import sources
from gateway.reads.connections import PageNode
from gateway.reads.dialects import Dialect
from gateway.reads.entities import ENTITIES, Entity
from gateway.reads.fetch_nodes import AllRowsNode, RowLayout, SingleRowNode
from gateway.reads.ids import PREFIXES
from gateway.reads.relations import ToManyRelation, ToOneRelation
from gateway.reads.rendering import Code, Renderer
from gateway.reads.selection import Field, Selection

ROW_PARAMETERS = "row, related, context"  # of a renderer of rows

# Compiles a connection: its source, its field, and the name of its type.
CompilePage = Callable[[sources.ToMany, Field, str], PageNode]


class RowCompiler:
    """Compiles the rows of one plan. `page_node` compiles the connections among their fields."""

    def __init__(self, catalog: sources.Catalog, dialect: Dialect, *, typed: bool, page_node: CompilePage) -> None:
        self._catalog = catalog
        self._dialect = dialect
        self._typed = typed
        self._page_node = page_node

    def code(self) -> Code:
        """Empty code, for a new renderer."""
        return Code(self._dialect, self._typed)

    def single_row_node(
        self, entity: Entity, selection: Selection, match: str = "id", where: str = "TRUE"
    ) -> SingleRowNode:
        """The node of a row of `entity` that the column `match` identifies."""
        layout = RowLayout(entity)
        return SingleRowNode(layout, self._renderer(selection, layout), match, where)

    def all_rows_node(self, entity: Entity, selection: Selection) -> AllRowsNode:
        """The node of all rows of `entity`."""
        layout = RowLayout(entity)
        return AllRowsNode(layout, self._renderer(selection, layout))

    def expression(self, selection: Selection, layout: RowLayout, code: Code) -> str:
        """Renders `row` according to its concrete type. It calls a renderer only if the type must be looked up."""
        entity = layout.entity
        kinds = {
            entity.types[type_name]: (type_name, fields)
            for type_name, fields in selection.items()
            if type_name in entity.types
        }
        if not entity.has_kinds or len(kinds) == 1:
            return self._object(*next(iter(kinds.values())), layout, code)
        renderers = {str(kind): self._renderer_of_type(*typed, layout) for kind, typed in kinds.items()}
        return f"{code.name(renderers)}[row[{layout.column('kind')}]](row, related, context)"

    def _renderer(self, selection: Selection, layout: RowLayout) -> Renderer:
        code = self.code()
        render: Renderer = code.function(ROW_PARAMETERS, self.expression(selection, layout, code))
        return render

    def _renderer_of_type(self, type_name: str, fields: Sequence[Field], layout: RowLayout) -> Renderer:
        code = self.code()
        render: Renderer = code.function(ROW_PARAMETERS, self._object(type_name, fields, layout, code))
        return render

    def _object(self, type_name: str, fields: Sequence[Field], layout: RowLayout, code: Code) -> str:
        return code.object(type_name, [(field.key, self._field(type_name, field, layout, code)) for field in fields])

    def _field(self, type_name: str, field: Field, layout: RowLayout, code: Code) -> str:
        if field.name == "__typename":
            return repr(type_name)
        sourced = self._catalog[type_name][field.name]
        match sourced.source:
            case sources.Column(name):
                value = f"row[{layout.column(name)}]"
                if sourced.enum_values is not None:
                    return code.enum_value(value, sourced.enum_values)
                return code.leaf(value, sourced.type_name, required=sourced.required)
            case sources.OwnId():
                return f"f'{PREFIXES[type_name]}-{{row[{layout.column('id')}]}}'"
            case sources.ForeignId(prefix, column):
                value = f"row[{layout.column(column)}]"
                return f"(None if {value} is None else f'{prefix}-{{{value}}}')"
            case sources.Computed(columns, compute):
                values = "".join(f", row[{layout.column(column)}]" for column in columns)
                call = f"{code.name(compute)}(context{values})"
                return _computed_list(call, field, code) if field.selection else call
            case sources.Inline(present):
                ((inner_type, fields),) = field.selection.items()
                inner = self._object(inner_type, fields, layout, code)
                return f"(None if row[{layout.column(present)}] is None else {inner})"
            case sources.ToOne() as source:
                return self._to_one(source, field, layout)
            case sources.ToMany() as source:
                return self._to_many(source, field, sourced.type_name, layout)
            case _:
                raise TypeError(f"The source of {type_name}.{field.name} is invalid for a field of a row.")

    def _to_one(self, source: sources.ToOne, field: Field, layout: RowLayout) -> str:
        column = layout.column(source.column)

        def make() -> ToOneRelation:
            node = self.single_row_node(ENTITIES[source.noun], field.selection, source.match, source.where)
            return ToOneRelation(node, column)

        number = layout.relation((field, source), make)
        return f"related[{number}].get(row[{column}])"

    def _to_many(self, source: sources.ToMany, field: Field, type_name: str, layout: RowLayout) -> str:
        column = layout.column("id")
        counter = None if source.counter is None else layout.column(source.counter)

        def make() -> ToManyRelation:
            return ToManyRelation(self._page_node(source, field, type_name), column, counter)

        number = layout.relation((field, source), make)
        return f"related[{number}][row[{column}]]"


def _computed_list(call: str, field: Field, code: Code) -> str:
    ((type_name, fields),) = field.selection.items()
    items = [(item.key, repr(type_name) if item.name == "__typename" else f"item[{item.name!r}]") for item in fields]
    return f"[{code.object(type_name, items)} for item in {call}]"
