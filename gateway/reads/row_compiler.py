"""Compiles selections of rows: one expression per field, according to its source."""

from collections.abc import Callable, Sequence

from gateway.reads import sources
from gateway.reads.connections import PageNode
from gateway.reads.dialects import Dialect
from gateway.reads.entities import ENTITIES, Entity
from gateway.reads.fetch_nodes import RowLayout, SingleRowNode
from gateway.reads.ids import PREFIXES
from gateway.reads.relations import ToManyRelation, ToOneRelation
from gateway.reads.rendering import Code, Renderer
from gateway.reads.selection import Field, Selection

ROW_PARAMETERS = "row, related, context"  # of a renderer of rows

# Compiles a connection or a bounded list: its source, its field, and the name of its type.
CompilePage = Callable[[sources.ToMany | sources.BoundedRows, Field, str], PageNode]


class RowCompiler:
    """Compiles the rows of one plan.

    `page_node` compiles the connections and bounded lists among their fields. `bind` adds what a field makes of its
    arguments to the bindings of the plan.
    """

    def __init__(
        self,
        catalog: sources.Catalog,
        dialect: Dialect,
        *,
        typed: bool,
        page_node: CompilePage,
        bind: Callable[[Field, sources.Bind], None],
    ) -> None:
        self._catalog = catalog
        self._dialect = dialect
        self._typed = typed
        self._page_node = page_node
        self._bind = bind

    def code(self) -> Code:
        """Empty code, for a new renderer."""
        return Code(self._dialect, self._typed)

    def single_row_node(
        self, entity: Entity, selection: Selection, match: str = "id", where: str = "TRUE"
    ) -> SingleRowNode:
        """The node of a row of `entity` that the column `match` identifies."""
        layout = RowLayout(entity)
        return SingleRowNode(layout, self._renderer(selection, layout), match, where)

    def expression(self, selection: Selection, layout: RowLayout, code: Code) -> str:
        """Renders `row` according to its concrete type. It calls a renderer only if the type must be looked up."""
        types = layout.entity.types
        typed = [one for one in selection.items() if one[0] in types] if len(selection) > 1 else list(selection.items())
        if len(typed) == 1:
            return self._object(*typed[0], layout, code)
        renderers = {str(types[one[0]]): self._renderer_of_type(*one, layout) for one in typed}
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
                return _leaf(f"row[{layout.column(name)}]", sourced, code)
            case sources.OwnId():
                return f"f'{PREFIXES[type_name]}-{{row[{layout.column('id')}]}}'"
            case sources.ForeignId(prefix, column):
                value = f"row[{layout.column(column)}]"
                return f"(None if {value} is None else f'{prefix}-{{{value}}}')"
            case sources.Computed() as source:
                call = self._call(source, field, layout, code)
                return _computed_objects(call, sourced, field, code) if field.selection else call
            case sources.Aggregate() as source:
                return _leaf(f"row[{layout.column(aggregate_sql(source, self._dialect))}]", sourced, code)
            case sources.Inline(present):
                ((inner_type, fields),) = field.selection.items()
                inner = self._object(inner_type, fields, layout, code)
                return f"(None if row[{layout.column(present)}] is None else {inner})"
            case sources.ToOne() as source:
                return self._to_one(source, field, layout)
            case sources.ToMany() | sources.BoundedRows() as source:
                return self._to_many(source, field, sourced.type_name, layout)
            case _:
                raise TypeError(f"The source of {type_name}.{field.name} is invalid for a field of a row.")

    def _call(self, source: sources.Computed, field: Field, layout: RowLayout, code: Code) -> str:
        """The expression of the call that computes a field."""
        values = "".join(f", row[{layout.column(column)}]" for column in source.columns)
        bound = ""
        if source.bind is not None:
            self._bind(field, source.bind)
            bound = f", context.bound[{code.name(field)}]"
        return f"{code.name(source.compute)}(context{bound}{values})"

    def _to_one(self, source: sources.ToOne, field: Field, layout: RowLayout) -> str:
        column = layout.column(source.column)

        def make() -> ToOneRelation:
            node = self.single_row_node(ENTITIES[source.noun], field.selection, source.match, source.where)
            return ToOneRelation(node, column)

        number = layout.relation((field, source), make)
        return f"related[{number}].get(row[{column}])"

    def _to_many(
        self,
        source: sources.ToMany | sources.BoundedRows,
        field: Field,
        type_name: str,
        layout: RowLayout,
    ) -> str:
        column = layout.column("id")
        counter = source.counter if isinstance(source, sources.ToMany) else None
        counted = None if counter is None else layout.column(counter)

        def make() -> ToManyRelation:
            return ToManyRelation(self._page_node(source, field, type_name), column, counted)

        number = layout.relation((field, source), make)
        return f"related[{number}][row[{column}]]"


def aggregate_sql(source: sources.Aggregate, dialect: Dialect) -> str:
    """The expression of an aggregate, as `Frame.expression` reads it."""
    if source.function == "sum":
        return dialect.sum(source.operand)
    return f"count(*) FILTER (WHERE {source.operand})"


def _leaf(value: str, sourced: sources.SourcedField, code: Code) -> str:
    if sourced.enum_values is not None:
        return code.enum_value(value, sourced.enum_values)
    return code.leaf(value, sourced.type_name, required=sourced.required)


def _computed_objects(call: str, sourced: sources.SourcedField, field: Field, code: Code) -> str:
    """The expression of an object, or a list of objects, that `call` computes. It is null if `call` returns None."""
    ((type_name, fields),) = field.selection.items()
    items = [(item.key, repr(type_name) if item.name == "__typename" else f"item[{item.name!r}]") for item in fields]
    shown = code.object(type_name, items)
    if sourced.is_list and sourced.required:
        return f"[{shown} for item in {call}]"
    if sourced.is_list:
        parameter, shown = "items", f"[{shown} for item in items]"
    else:
        parameter = "item"
    if not sourced.required:
        shown = f"None if {parameter} is None else {shown}"
    return f"{code.name(code.function(parameter, shown))}({call})"
