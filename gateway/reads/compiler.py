"""From a selection and the schema's sources to a plan: levels, links and generated renderers.

A plan holds for every request with the same selection; see `levels` for what happens when it runs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.errors import InvalidInput
from gateway.models import MachineKind
from gateway.reads import cursors, sources
from gateway.reads.connections import ManyLevel, Wanted
from gateway.reads.context import Pages
from gateway.reads.cost import Price, Pricing
from gateway.reads.dialects import DIALECTS, Dialect
from gateway.reads.entities import ENTITIES, Entity
from gateway.reads.fetch_nodes import EveryLevel, OneLevel, Rows
from gateway.reads.ids import PREFIXES
from gateway.reads.pages import BoundPage
from gateway.reads.payload_shapes import NodeLevels, PayloadShape
from gateway.reads.relations import ManyLink, OneLink
from gateway.reads.rendering import Code, Record, Renderer, literal
from gateway.reads.roots import Root, every_root, given_root, lookup_root, lookups_root, many_root
from gateway.reads.selection import Field, Selection, Variables
from gateway.reads.sorts import complete


class UnboundArgument(Exception):
    """The arguments of `field` cannot be taken; `error` says why."""

    def __init__(self, field: Field, error: InvalidInput) -> None:
        super().__init__(error.message)
        self.field = field
        self.error = error


IsAlone = Callable[[Pages], bool]  # whether a plan makes one statement at most


def _never_alone(_pages: Pages) -> bool:
    return False


@dataclass(slots=True)
class Plan:
    """One root field, or the selection of something given, compiled."""

    load: Root
    connections: Sequence[tuple[Field, ManyLevel]]
    dialect: Dialect
    price: Price
    is_alone: IsAlone

    def bind(self, variables: Variables) -> Mapping[ManyLevel, BoundPage]:
        """Checks every argument before any statement is sent. Raises UnboundArgument."""
        pages = {}
        for connection, level in self.connections:
            try:
                pages[level] = level.bind(connection.arguments(variables), self.dialect)
            except InvalidInput as error:
                raise UnboundArgument(connection, error) from None
        return pages


class Compiler:
    """Compiles selections against a catalog, for one database.

    `typed`: objects are Records, which graphql-core needs at interfaces; otherwise plain dicts.
    """

    def __init__(self, catalog: sources.Catalog, dialect: str, *, typed: bool) -> None:
        self.catalog = catalog
        self.dialect = DIALECTS[dialect]
        self.typed = typed

    def root(self, parent_type: str, field: Field) -> Plan:
        """The plan of a root field, whose source is a Many, Lookup, Lookups, Every or Given."""
        compilation = _Compilation(self)
        load, is_alone = self._root(compilation, parent_type, field)
        return compilation.plan(load, compilation.pricing().field(parent_type, field), is_alone)

    def _root(self, compilation: "_Compilation", parent_type: str, field: Field) -> tuple[Root, IsAlone]:
        origin = self.catalog[parent_type][field.name]
        source = origin.source
        match source:
            case sources.Many():
                level = compilation.many(source, field, origin.type_name)
                return many_root(level), lambda pages: level.is_alone(pages[level], self.dialect)
            case sources.Lookup():
                nodes = compilation.nodes(field.selection)
                return lookup_root(nodes, field, source.noun), nodes.is_alone
            case sources.Lookups():
                return lookups_root(compilation.nodes(field.selection), field), _never_alone
            case sources.Every():
                return every_root(compilation.every(ENTITIES[source.noun], field.selection)), _never_alone
            case sources.Given():
                shape = compilation.given(field.selection)
                return given_root(shape, source.name), shape.is_alone
            case _:
                raise TypeError(f"{parent_type}.{field.name} cannot stand at the root")

    def given(self, selection: Selection) -> Plan:
        """The plan of an object that a resolver gives as a dict; run it with `PayloadShape.load`'s values."""
        compilation = _Compilation(self)
        shape = compilation.given(selection)
        load = given_root(shape, None)
        return compilation.plan(load, compilation.pricing().selection(selection), shape.is_alone)


class _Compilation:
    """The making of one plan."""

    def __init__(self, compiler: Compiler) -> None:
        self._catalog = compiler.catalog
        self._typed = compiler.typed
        self._dialect = compiler.dialect
        self.connections: list[tuple[Field, ManyLevel]] = []

    def plan(self, load: Root, price: Price, is_alone: IsAlone) -> Plan:
        return Plan(load, self.connections, self._dialect, price, is_alone)

    def pricing(self) -> Pricing:
        return Pricing(self._catalog, dict(self.connections))

    def _code(self) -> Code:
        return Code(self._dialect)

    def _object(self, type_name: str, items: Sequence[tuple[str, str]], code: Code) -> str:
        display = literal(items)
        return f"{code.name(Record)}({type_name!r}, {display})" if self._typed else display

    # ---- rows of an entity

    def renderer(self, entity: Entity, selection: Selection, rows: Rows) -> Renderer:
        """Renders one row of `entity` by its concrete type."""
        code = self._code()
        render: Renderer = code.function("r, L, c", self._row(entity, selection, rows, code))
        return render

    def _row(self, entity: Entity, selection: Selection, rows: Rows, code: Code) -> str:
        """The expression that renders the row `r`: written out where its type is known, for a call costs more."""
        kinds = {
            entity.types[type_name]: (type_name, fields)
            for type_name, fields in selection.items()
            if type_name in entity.types
        }
        if not entity.kinded or len(kinds) == 1:
            return self._row_object(*next(iter(kinds.values())), rows, code)
        renderers = {str(kind): self._row_renderer(*typed, rows) for kind, typed in kinds.items()}
        return f"{code.name(renderers)}[r[{rows.column('kind')}]](r, L, c)"

    def _row_renderer(self, type_name: str, fields: Sequence[Field], rows: Rows) -> Renderer:
        code = self._code()
        render: Renderer = code.function("r, L, c", self._row_object(type_name, fields, rows, code))
        return render

    def _row_object(self, type_name: str, fields: Sequence[Field], rows: Rows, code: Code) -> str:
        items = [(field.key, self._row_field(type_name, field, rows, code)) for field in fields]
        return self._object(type_name, items, code)

    def _row_field(self, type_name: str, field: Field, rows: Rows, code: Code) -> str:
        if field.name == "__typename":
            return repr(type_name)
        origin = self._catalog[type_name][field.name]
        match origin.source:
            case sources.Column(name):
                return code.leaf(f"r[{rows.column(name)}]", origin.type_name, required=origin.required)
            case sources.OwnId():
                return f"f'{PREFIXES[type_name]}-{{r[{rows.column('id')}]}}'"
            case sources.IdOf(prefix, column):
                value = f"r[{rows.column(column)}]"
                return f"(None if {value} is None else f'{prefix}-{{{value}}}')"
            case sources.Computed(columns, compute):
                values = "".join(f", r[{rows.column(column)}]" for column in columns)
                call = f"{code.name(compute)}(c{values})"
                return self._computed_list(call, field, code) if field.selection else call
            case sources.Inline(present):
                ((inner_type, fields),) = field.selection.items()
                inner = self._row_object(inner_type, fields, rows, code)
                return f"(None if r[{rows.column(present)}] is None else {inner})"
            case sources.One() as source:
                return self._one(source, field, rows)
            case sources.Many() as source:
                return self._many(source, field, origin.type_name, rows)
            case _:
                raise TypeError(f"{type_name}.{field.name} cannot come from a row")

    def _computed_list(self, call: str, field: Field, code: Code) -> str:
        ((type_name, fields),) = field.selection.items()
        items = [(item.key, repr(type_name) if item.name == "__typename" else f"x[{item.name!r}]") for item in fields]
        return f"[{self._object(type_name, items, code)} for x in {call}]"

    def _one(self, source: sources.One, field: Field, rows: Rows) -> str:
        column = rows.column(source.column)

        def make() -> OneLink:
            return OneLink(self.one(ENTITIES[source.noun], field.selection, source.match, source.where), column)

        number = rows.link((field, source), make)
        return f"L[{number}].get(r[{column}])"

    def _many(self, source: sources.Many, field: Field, type_name: str, rows: Rows) -> str:
        column = rows.column("id")
        counter = None if source.counter is None else rows.column(source.counter)
        joins = self._dialect.joins

        def make() -> ManyLink:
            return ManyLink(self.many(source, field, type_name), column, counter, joins)

        number = rows.link((field, source), make)
        return f"L[{number}][r[{column}]]"

    def one(self, entity: Entity, selection: Selection, match: str = "id", where: str = "TRUE") -> OneLevel:
        rows = Rows()
        level = OneLevel(entity, rows, match, where)
        level.render = self.renderer(entity, selection, rows)
        return level

    def every(self, entity: Entity, selection: Selection) -> EveryLevel:
        rows = Rows()
        return EveryLevel(entity, rows, self.renderer(entity, selection, rows))

    # ---- connections

    def many(self, source: sources.Many, field: Field, type_name: str) -> ManyLevel:
        entity = ENTITIES[source.noun]
        wanted, rows, code = Wanted(), Rows(), self._code()
        level = ManyLevel(entity, rows, wanted, source.match, self._kind(entity, type_name))
        self.connections.append((field, level))
        ((connection_type, fields),) = field.selection.items()
        items = [
            (item.key, self._connection_field(connection_type, item, entity, rows, wanted, code)) for item in fields
        ]
        level.render = code.function("p, L, c, cursor", self._object(connection_type, items, code))
        return level

    @staticmethod
    def _kind(entity: Entity, connection_type: str) -> MachineKind | None:
        """`VmConnection` and `InstanceConnection` hold machines of one kind."""
        return entity.types.get(connection_type.removesuffix("Connection"))

    def _connection_field(
        self, type_name: str, field: Field, entity: Entity, rows: Rows, wanted: Wanted, code: Code
    ) -> str:
        match field.name:
            case "__typename":
                return repr(type_name)
            case "totalCount":
                wanted.total = True
                return "p.total"
            case "nodes":
                wanted.rows = True
                return f"[{self._row(entity, field.selection, rows, code)} for r in p.rows]"
            case "edges":
                wanted.rows = True
                edge = self._edge(field.selection, entity, rows, wanted, code)
                return f"[{edge} for r in p.rows]"
            case _:
                return self._page_info(field.selection, wanted, code)

    def _edge(self, selection: Selection, entity: Entity, rows: Rows, wanted: Wanted, code: Code) -> str:
        ((type_name, fields),) = selection.items()
        items = []
        for field in fields:
            if field.name == "__typename":
                items.append((field.key, repr(type_name)))
            elif field.name == "cursor":
                wanted.cursors = True
                items.append((field.key, "cursor(r)"))
            else:
                items.append((field.key, self._row(entity, field.selection, rows, code)))
        return self._object(type_name, items, code)

    def _page_info(self, selection: Selection, wanted: Wanted, code: Code) -> str:
        ((type_name, fields),) = selection.items()
        items = []
        for field in fields:
            match field.name:
                case "__typename":
                    expression = repr(type_name)
                case "hasNextPage":
                    wanted.next = wanted.rows = True
                    expression = "p.has_next"
                case "hasPreviousPage":
                    wanted.previous = wanted.rows = True
                    expression = "p.has_previous"
                case name:
                    wanted.cursors = wanted.rows = True
                    row = "p.rows[0]" if name == "startCursor" else "p.rows[-1]"
                    expression = f"(cursor({row}) if p.rows else None)"
            items.append((field.key, expression))
        return self._object(type_name, items, code)

    # ---- what a resolver gives

    def nodes(self, selection: Selection) -> NodeLevels:
        """Levels for rows of any noun whose types are selected."""
        levels = {}
        for entity in ENTITIES.values():
            mine = {type_name: fields for type_name, fields in selection.items() if type_name in entity.types}
            if mine:
                levels[entity.noun] = self.one(entity, mine)
        return NodeLevels(levels)

    def given(self, selection: Selection) -> PayloadShape:
        """The shape of a dict that a resolver gives."""
        ((type_name, fields),) = selection.items()
        shape, code = PayloadShape(), self._code()
        items = [(field.key, self._given_field(type_name, field, shape)) for field in fields]
        shape.render = code.function("x, S, c", self._object(type_name, items, code))
        return shape

    def _given_field(self, type_name: str, field: Field, shape: PayloadShape) -> str:
        if field.name == "__typename":
            return repr(type_name)
        match self._catalog[type_name][field.name].source:
            case sources.Given(name) if not field.selection:
                return f"x[{name!r}]"
            case sources.Given(name):
                return shape.nested(name, self.given(field.selection))
            case sources.GivenOne(noun, name):
                return shape.reference(name, noun, self.nodes(field.selection))
            case sources.GivenEdge(noun, name):
                return shape.reference(name, noun, NodeLevels({noun: self._edge_level(ENTITIES[noun], field)}))
            case _:
                raise TypeError(f"{type_name}.{field.name} cannot be given")

    def _edge_level(self, entity: Entity, field: Field) -> OneLevel:
        rows, code = Rows(), self._code()
        order = complete(entity.default)
        edge = self._edge(field.selection, entity, rows, Wanted(), code)
        values = "".join(f"r[{rows.column(key.field.column)}], " for key in order)
        code.names["encode"], code.names["order"] = cursors.encode, cursors.fingerprint(order)
        inner: Callable[..., Any] = code.function("r, L, c, cursor", edge)
        code.names["edge"] = inner
        render: Renderer = code.function("r, L, c", f"edge(r, L, c, lambda r: encode(order, ({values})))")
        return OneLevel(entity, rows, render=render)
