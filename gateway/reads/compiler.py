"""The read compiler: makes a plan from a selection and the sources that the schema declares for its fields.

A plan is compiled once per selection and serves all requests that select the same. It consists of

* *fetch nodes* (`fetch_nodes`, `connections`), each of which loads the rows of one level of the selection: a
  SingleRowNode one row per key, a PageNode one page per parent, an AllRowsNode all rows of a small table. In
  `payload_shapes`, a MultiEntityNode loads rows of several entities by id, and a PayloadShape holds what belongs to
  the payloads of resolvers;
* *relations* (`relations`), which lead from the rows of one node to another node;
* *renderers* (`rendering`), generated Python functions that make JSON-ready values from the rows.

Compilation walks the selection from the root. Each field becomes one expression of a renderer, according to its
source: a Column asks the node's RowLayout for the position of its column, and thereby adds the column to the SELECT; a
ToOne or ToMany adds a relation, whose node is compiled first. When a node's renderer is complete, so is its layout.

Example. The query

    { vms(first: 2) { nodes { id name currentSnapshot { name } snapshots(first: 1) { totalCount nodes { name } } } } }

becomes this plan:

    PageNode machine                     columns id, name, snapshot_count
      0: ToOneRelation by id         ->  SingleRowNode snapshot by machine_id, columns name
      1: ToManyRelation by id        ->  PageNode snapshot by machine_id, columns name

and three statements, one for each node, however many machines the page has. On SQLite, for machines 11 and 12:

    SELECT t.id, t.name, t.snapshot_count FROM machine t
        WHERE t.tenant = ?1 AND t.kind = 'VM' ORDER BY t.name ASC, t.id ASC LIMIT 2
        -- ["default"]

    SELECT t.name, t.machine_id FROM snapshot t
        WHERE t.machine_id IN (SELECT value FROM json_each(?1)) AND t.tenant = ?2 AND t.is_current
        -- ["[11,12]", "default"]

    SELECT t.name, p.value FROM json_each(?2) p CROSS JOIN snapshot t ON t.id IN (
            SELECT t.id FROM snapshot t WHERE +t.tenant = ?1 AND t.machine_id = p.value
            ORDER BY t.created_at DESC, t.id DESC LIMIT 1)
        ORDER BY p.key, t.created_at DESC, t.id DESC
        -- ["default", "[11,12]"]

The last column of the second and third statement is the key by which the relation assigns the rows to machines.
`totalCount` takes no statement, because the machine's column `snapshot_count`, the relation's counter, has the number.
`rendering` shows the renderers of this plan.

On PostgreSQL, where one larger statement costs less than two small ones, a single row and the page of its only
relation are loaded together (`RelationJoin`). `{ vm(id: "vm-11") { name snapshots(first: 1) { nodes { name } } } }`
takes one statement:

    SELECT t.name, t.id, t.snapshot_count, t.id, page.* FROM machine t LEFT JOIN (
            SELECT t.id AS c0, t.name AS c1, t.created_at AS o0, t.id AS o1 FROM snapshot t
            WHERE t.tenant = $4 AND t.machine_id = $3 ORDER BY t.created_at DESC, t.id DESC LIMIT 1) page ON TRUE
        WHERE t.id = $1 AND t.tenant = $2 AND t.kind = 'VM' AND TRUE ORDER BY page.o0 DESC, page.o1 DESC
        -- [11, "default", 11, "default"]

A request uses a plan in two steps. `Plan.bind` checks the arguments of all connections and returns a BoundPage for
each. `Plan.load` runs the statements from the root down and calls the renderers from the leaves up. The text of a
statement depends only on its *shape*: which kinds of machines the caller may see, and the limit, direction, offset,
sort and filter of the page. Each node caches a StatementTemplate for each shape, with bind variables in place of the
tenant, the keys and the cursors. Equal filters of a connection share one cached Condition, so they share templates.

Invariants:

* A plan depends on the selection, the dialect and `typed`, and not on callers or arguments. `@skip` and `@include` are
  already applied to a selection: the executor compiles a plan for each combination of their values.
* The number of statements depends on the selection and the arguments, and not on the number of rows: at most one per
  node for all parents, and for a PageNode one more for each kind of metadata (see `connections`). A MultiEntityNode
  sends one for each entity and kind of machine. tests/graphql/test_statement_counts.py counts them.
* No statement runs before all arguments are checked: `bind` raises InvalidArguments for the first invalid one.
* Every statement restricts the rows of its entity to those that the caller may see (`Entity.visible`). Joined machines
  and subqueries only read rows that belong to them. Fields contribute columns, not statements, so none can omit this.
* Values from clients reach SQL as parameters. Only checked integers become part of its text: LIMIT, OFFSET, and the
  length of a text. No value from a client reaches the generated Python source.
* A Field that several concrete types share, as a field of an interface, is compiled once, into one relation of the
  shared RowLayout. So one statement loads it for all types.
* All statements of `Plan.load` run in the transaction of its Context, so a response shows one state of the database.
* The result is the one that graphql-core computes. tests/reads compares them for random queries.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.errors import InvalidInput
from gateway.models import MachineKind
from gateway.reads import cursors, sources
from gateway.reads.connections import PageFields, PageNode
from gateway.reads.context import Pages
from gateway.reads.cost import CostCompiler, CostFunction
from gateway.reads.dialects import DIALECTS, Dialect
from gateway.reads.entities import ENTITIES, Entity
from gateway.reads.fetch_nodes import AllRowsNode, RowLayout, SingleRowNode
from gateway.reads.ids import PREFIXES
from gateway.reads.pages import BoundPage
from gateway.reads.payload_shapes import MultiEntityNode, PayloadShape
from gateway.reads.relations import ToManyRelation, ToOneRelation
from gateway.reads.rendering import Code, Record, Renderer, object_literal
from gateway.reads.roots import RootLoader, all_rows_root, page_root, payload_root, row_by_id_root, rows_by_ids_root
from gateway.reads.selection import Field, Selection, Variables
from gateway.reads.sorts import with_id_key


class InvalidArguments(Exception):
    """The arguments of `field` are invalid. `error` has the reason."""

    def __init__(self, field: Field, error: InvalidInput) -> None:
        super().__init__(error.message)
        self.field = field
        self.error = error


_ROW_PARAMETERS = "row, related, context"  # of a renderer of rows

IsSingleStatement = Callable[[Pages], bool]  # whether a plan sends one statement at most


def _several_statements(_pages: Pages) -> bool:
    return False


@dataclass(slots=True)
class Plan:
    """A compiled root field, or the compiled selection of a payload."""

    load: RootLoader
    connections: Sequence[tuple[Field, PageNode]]
    dialect: Dialect
    cost: CostFunction
    is_single_statement: IsSingleStatement

    def bind(self, variables: Variables) -> Mapping[PageNode, BoundPage]:
        """Checks the arguments of all connections, before any statement is sent. Raises InvalidArguments."""
        pages = {}
        for connection, node in self.connections:
            try:
                pages[node] = node.bind(connection.arguments(variables), self.dialect)
            except InvalidInput as error:
                raise InvalidArguments(connection, error) from None
        return pages


class Compiler:
    """Compiles selections against a catalog, for one dialect.

    With `typed`, objects are Records, which graphql-core needs to resolve interfaces. Otherwise they are plain dicts.
    """

    def __init__(self, catalog: sources.Catalog, dialect: str, *, typed: bool) -> None:
        self.catalog = catalog
        self.dialect = DIALECTS[dialect]
        self.typed = typed

    def root(self, parent_type: str, field: Field) -> Plan:
        """The plan of a root field. Its source is a ToMany, RowById, RowsByIds, AllRows or PayloadValue."""
        compilation = _Compilation(self)
        load, is_single_statement = self._root(compilation, parent_type, field)
        return compilation.plan(load, compilation.costs().field(parent_type, field), is_single_statement)

    def _root(
        self, compilation: "_Compilation", parent_type: str, field: Field
    ) -> tuple[RootLoader, IsSingleStatement]:
        sourced = self.catalog[parent_type][field.name]
        source = sourced.source
        match source:
            case sources.ToMany():
                page_node = compilation.page_node(source, field, sourced.type_name)
                return (
                    page_root(page_node),
                    lambda pages: page_node.is_single_statement(pages[page_node], self.dialect),
                )
            case sources.RowById():
                node = compilation.multi_entity_node(field.selection)
                return row_by_id_root(node, field, source.noun), node.is_single_statement
            case sources.RowsByIds():
                node = compilation.multi_entity_node(field.selection)
                return rows_by_ids_root(node, field), _several_statements
            case sources.AllRows():
                all_rows = compilation.all_rows_node(ENTITIES[source.noun], field.selection)
                return all_rows_root(all_rows), _several_statements
            case sources.PayloadValue():
                shape = compilation.payload_shape(field.selection)
                return payload_root(shape, source.name), shape.is_single_statement
            case _:
                raise TypeError(f"The source of {parent_type}.{field.name} is invalid for a root field.")

    def payload(self, selection: Selection) -> Plan:
        """The plan of a payload. `load` receives the payload as its third argument."""
        compilation = _Compilation(self)
        shape = compilation.payload_shape(selection)
        load = payload_root(shape, None)
        return compilation.plan(load, compilation.costs().selection(selection), shape.is_single_statement)


class _Compilation:
    """Compiles one plan."""

    def __init__(self, compiler: Compiler) -> None:
        self._catalog = compiler.catalog
        self._typed = compiler.typed
        self._dialect = compiler.dialect
        self.connections: list[tuple[Field, PageNode]] = []

    def plan(self, load: RootLoader, cost: CostFunction, is_single_statement: IsSingleStatement) -> Plan:
        return Plan(load, self.connections, self._dialect, cost, is_single_statement)

    def costs(self) -> CostCompiler:
        """Complete once every connection is compiled."""
        return CostCompiler(self._catalog, dict(self.connections))

    def _code(self) -> Code:
        return Code(self._dialect)

    def _object(self, type_name: str, items: Sequence[tuple[str, str]], code: Code) -> str:
        values = object_literal(items)
        return f"{code.name(Record)}({type_name!r}, {values})" if self._typed else values

    # ---- rows of an entity

    def renderer(self, entity: Entity, selection: Selection, layout: RowLayout) -> Renderer:
        """Renders one row of `entity` according to its concrete type."""
        code = self._code()
        render: Renderer = code.function(_ROW_PARAMETERS, self._row(entity, selection, layout, code))
        return render

    def _row(self, entity: Entity, selection: Selection, layout: RowLayout, code: Code) -> str:
        """The expression that renders `row`. It calls a renderer only if the row's type must be looked up."""
        kinds = {
            entity.types[type_name]: (type_name, fields)
            for type_name, fields in selection.items()
            if type_name in entity.types
        }
        if not entity.has_kinds or len(kinds) == 1:
            return self._row_object(*next(iter(kinds.values())), layout, code)
        renderers = {str(kind): self._row_renderer(*typed, layout) for kind, typed in kinds.items()}
        return f"{code.name(renderers)}[row[{layout.column('kind')}]](row, related, context)"

    def _row_renderer(self, type_name: str, fields: Sequence[Field], layout: RowLayout) -> Renderer:
        code = self._code()
        render: Renderer = code.function(_ROW_PARAMETERS, self._row_object(type_name, fields, layout, code))
        return render

    def _row_object(self, type_name: str, fields: Sequence[Field], layout: RowLayout, code: Code) -> str:
        items = [(field.key, self._row_field(type_name, field, layout, code)) for field in fields]
        return self._object(type_name, items, code)

    def _row_field(self, type_name: str, field: Field, layout: RowLayout, code: Code) -> str:
        if field.name == "__typename":
            return repr(type_name)
        sourced = self._catalog[type_name][field.name]
        match sourced.source:
            case sources.Column(name):
                return code.leaf(f"row[{layout.column(name)}]", sourced.type_name, required=sourced.required)
            case sources.OwnId():
                return f"f'{PREFIXES[type_name]}-{{row[{layout.column('id')}]}}'"
            case sources.ForeignId(prefix, column):
                value = f"row[{layout.column(column)}]"
                return f"(None if {value} is None else f'{prefix}-{{{value}}}')"
            case sources.Computed(columns, compute):
                values = "".join(f", row[{layout.column(column)}]" for column in columns)
                call = f"{code.name(compute)}(context{values})"
                return self._computed_list(call, field, code) if field.selection else call
            case sources.Inline(present):
                ((inner_type, fields),) = field.selection.items()
                inner = self._row_object(inner_type, fields, layout, code)
                return f"(None if row[{layout.column(present)}] is None else {inner})"
            case sources.ToOne() as source:
                return self._to_one(source, field, layout)
            case sources.ToMany() as source:
                return self._to_many(source, field, sourced.type_name, layout)
            case _:
                raise TypeError(f"The source of {type_name}.{field.name} is invalid for a field of a row.")

    def _computed_list(self, call: str, field: Field, code: Code) -> str:
        ((type_name, fields),) = field.selection.items()
        items = [
            (item.key, repr(type_name) if item.name == "__typename" else f"item[{item.name!r}]") for item in fields
        ]
        return f"[{self._object(type_name, items, code)} for item in {call}]"

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
        prefers_joins = self._dialect.prefers_joins

        def make() -> ToManyRelation:
            return ToManyRelation(self.page_node(source, field, type_name), column, counter, prefers_joins)

        number = layout.relation((field, source), make)
        return f"related[{number}][row[{column}]]"

    def single_row_node(
        self, entity: Entity, selection: Selection, match: str = "id", where: str = "TRUE"
    ) -> SingleRowNode:
        """The node of a row of `entity` that the column `match` identifies."""
        layout = RowLayout()
        node = SingleRowNode(entity, layout, match, where)
        node.render = self.renderer(entity, selection, layout)
        return node

    def all_rows_node(self, entity: Entity, selection: Selection) -> AllRowsNode:
        """The node of all rows of `entity`."""
        layout = RowLayout()
        return AllRowsNode(entity, layout, self.renderer(entity, selection, layout))

    # ---- connections

    def page_node(self, source: sources.ToMany, field: Field, type_name: str) -> PageNode:
        """The node of a connection whose type is `type_name`."""
        entity = ENTITIES[source.noun]
        page_fields, layout, code = PageFields(), RowLayout(), self._code()
        node = PageNode(entity, layout, page_fields, source.match, self._kind(entity, type_name))
        self.connections.append((field, node))
        ((connection_type, fields),) = field.selection.items()
        items = [
            (item.key, self._connection_field(connection_type, item, entity, layout, page_fields, code))
            for item in fields
        ]
        node.render = code.function("page, related, context, cursor", self._object(connection_type, items, code))
        return node

    @staticmethod
    def _kind(entity: Entity, connection_type: str) -> MachineKind | None:
        """The kind of a connection of machines of one kind: `VmConnection`, `InstanceConnection`."""
        return entity.types.get(connection_type.removesuffix("Connection"))

    def _connection_field(
        self, type_name: str, field: Field, entity: Entity, layout: RowLayout, page_fields: PageFields, code: Code
    ) -> str:
        match field.name:
            case "__typename":
                return repr(type_name)
            case "totalCount":
                page_fields.total = True
                return "page.total"
            case "nodes":
                page_fields.rows = True
                return f"[{self._row(entity, field.selection, layout, code)} for row in page.rows]"
            case "edges":
                page_fields.rows = True
                edge = self._edge(field.selection, entity, layout, page_fields, code)
                return f"[{edge} for row in page.rows]"
            case _:
                return self._page_info(field.selection, page_fields, code)

    def _edge(
        self, selection: Selection, entity: Entity, layout: RowLayout, page_fields: PageFields, code: Code
    ) -> str:
        ((type_name, fields),) = selection.items()
        items = []
        for field in fields:
            if field.name == "__typename":
                items.append((field.key, repr(type_name)))
            elif field.name == "cursor":
                page_fields.cursors = True
                items.append((field.key, "cursor(row)"))
            else:
                items.append((field.key, self._row(entity, field.selection, layout, code)))
        return self._object(type_name, items, code)

    def _page_info(self, selection: Selection, page_fields: PageFields, code: Code) -> str:
        ((type_name, fields),) = selection.items()
        items = []
        for field in fields:
            match field.name:
                case "__typename":
                    expression = repr(type_name)
                case "hasNextPage":
                    page_fields.has_next = page_fields.rows = True
                    expression = "page.has_next"
                case "hasPreviousPage":
                    page_fields.has_previous = page_fields.rows = True
                    expression = "page.has_previous"
                case name:
                    page_fields.cursors = page_fields.rows = True
                    row = "page.rows[0]" if name == "startCursor" else "page.rows[-1]"
                    expression = f"(cursor({row}) if page.rows else None)"
            items.append((field.key, expression))
        return self._object(type_name, items, code)

    # ---- payloads

    def multi_entity_node(self, selection: Selection) -> MultiEntityNode:
        """The node of rows of every entity that has a type in the selection."""
        nodes = {}
        for entity in ENTITIES.values():
            selected = {type_name: fields for type_name, fields in selection.items() if type_name in entity.types}
            if selected:
                nodes[entity.noun] = self.single_row_node(entity, selected)
        return MultiEntityNode(nodes)

    def payload_shape(self, selection: Selection) -> PayloadShape:
        """The shape of a payload."""
        ((type_name, fields),) = selection.items()
        shape, code = PayloadShape(), self._code()
        items = [(field.key, self._payload_field(type_name, field, shape)) for field in fields]
        shape.render = code.function("payload, parts, context", self._object(type_name, items, code))
        return shape

    def _payload_field(self, type_name: str, field: Field, shape: PayloadShape) -> str:
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
        layout, code = RowLayout(), self._code()
        order = with_id_key(entity.default_sort)
        edge = self._edge(field.selection, entity, layout, PageFields(), code)
        values = "".join(f"row[{layout.column(key.field.column)}], " for key in order)
        code.names["encode"], code.names["order"] = cursors.encode, cursors.fingerprint(order)
        inner: Callable[..., Any] = code.function("row, related, context, cursor", edge)
        code.names["edge"] = inner
        render: Renderer = code.function(
            _ROW_PARAMETERS, f"edge(row, related, context, lambda row: encode(order, ({values})))"
        )
        return SingleRowNode(entity, layout, render=render)
