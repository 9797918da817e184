"""The read compiler: makes a plan from a selection and the sources that the schema declares for its fields.

A plan is compiled once per selection and serves all requests that select the same. It consists of

* *fetch nodes* (`fetch_nodes`, `connections`), each of which loads the rows of one level of the selection: a
  SingleRowNode one row per key, a PageNode one page per parent, which is also how bounded lists and lists of groups are
  loaded. In `payload_shapes`, a MultiEntityNode loads rows of several entities by id, and a PayloadShape holds what
  belongs to the payloads of resolvers and of computed roots;
* *relations* (`relations`), which lead from the rows of one node to another node;
* *renderers* (`rendering`), generated Python functions that make JSON-ready values from the rows.

Compilation walks the selection from the root: `row_compiler` compiles rows, `connection_compiler` connections, and
`payload_compiler` payloads. Each field becomes one expression of a renderer, according to its source: a Column asks
the node's RowLayout for the position of its column, and thereby adds the column to the SELECT; a ToOne, ToMany or
BoundedRows adds a relation, whose node is compiled first. When a renderer is complete, so is the layout, and the node
is made of both.

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

A request uses a plan in two steps. `Plan.bind` checks all arguments. It returns a BoundPage for each connection and
list, and for each computed field what its source makes of its arguments. `Plan.load` runs the statements from the root
down and calls the renderers from the leaves up. The text of a statement depends only on its *shape*: which kinds of
machines the caller may see, and the limit, direction, offset, sort and filter of the page. Each node caches a
StatementTemplate for each shape, with bind variables in place of the tenant, the keys and the cursors. Equal filters of
a connection share one cached Condition, so they share templates.

Invariants:

* A plan depends on the selection, the dialect and `typed`, and not on callers or arguments. `@skip` and `@include` are
  already applied to a selection: the executor compiles a plan for each combination of their values.
* The number of statements depends on the selection and the arguments, and not on the number of rows: at most one per
  node for all parents, and for a PageNode one more for each kind of metadata (see `connections`). A MultiEntityNode
  sends one for each entity and kind of machine, and a computed root those of its function.
  tests/graphql/test_statement_counts.py counts them.
* No statement runs before all arguments are checked: `bind` raises a FieldError for the first invalid one.
* A list that exceeds its bound is a FieldError in its place in the values. It costs the other fields nothing here; what
  null takes the place of is decided where the response is finished.
* Every statement restricts the rows of its entity to those that the caller may see (`Entity.visible`). Joined machines
  and subqueries only read rows that belong to them. Fields contribute columns, not statements, so none can omit this.
* Values from clients reach SQL as parameters. Only checked integers become part of its text: LIMIT, OFFSET, and the
  length of a text. No value from a client reaches the generated Python source.
* A Field that several concrete types share, as a field of an interface, is compiled once, into one relation of the
  shared RowLayout. So one statement loads it for all types.
* All statements of `Plan.load` run in the transaction of its Context, so a response shows one state of the database.
* The result is the one that graphql-core computes. tests/reads compares them for random queries.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any

from gateway.errors import InvalidInput
from gateway.reads import sources
from gateway.reads.argument_budget import ArgumentBudget
from gateway.reads.connection_compiler import Binding, ConnectionCompiler
from gateway.reads.connections import PageNode
from gateway.reads.context import Bound
from gateway.reads.cost import CostCompiler, CostFunction, SizeCompiler
from gateway.reads.dialects import DIALECTS, Dialect
from gateway.reads.payload_compiler import PayloadCompiler
from gateway.reads.payload_shapes import PayloadShape
from gateway.reads.roots import (
    RootLoader,
    computed_root,
    page_root,
    payload_root,
    row_by_id_root,
    rows_by_ids_root,
)
from gateway.reads.selection import Field, FieldError, Selection, Variables

IsSingleStatement = Callable[[Bound], bool]  # whether a plan sends one statement at most


def _several_statements(_bound: Bound) -> bool:
    return False


@dataclass(slots=True)
class Plan:
    """A compiled root field, or the compiled selection of a payload."""

    load: RootLoader
    bindings: Sequence[Binding]
    dialect: Dialect
    cost: CostFunction  # the number of objects
    size: CostFunction  # of the response, in bytes
    is_single_statement: IsSingleStatement

    def bind(self, variables: Variables, budget: ArgumentBudget) -> Bound:
        """Checks all arguments, before any statement is sent. Raises FieldError for the first that are invalid.

        Raises RequestTooLarge if there is more in them than the rest of `budget`.
        """
        bound: dict[Any, Any] = {}
        for field, key, bind in self.bindings:
            arguments = field.arguments(variables)
            budget.spend(arguments)
            try:
                bound[key] = bind(arguments)
            except InvalidInput as error:
                raise FieldError(field, error) from None
        return bound


class Compiler:
    """Compiles selections against a catalog, for one dialect.

    With `typed`, objects are Records, which graphql-core needs to resolve interfaces. Otherwise they are plain dicts.
    """

    def __init__(self, catalog: sources.Catalog, dialect: str, *, typed: bool) -> None:
        self.catalog = catalog
        self.dialect = DIALECTS[dialect]
        self.typed = typed

    def root(self, parent_type: str, field: Field) -> Plan:
        """The plan of a root field. Its source is one of those that `sources` describes as being at the root."""
        connections = self._connections()
        load, is_single_statement = self._root(connections, parent_type, field)
        cost, size = (costs.field(parent_type, field) for costs in self._costs(connections))
        return Plan(load, connections.bindings, self.dialect, cost, size, is_single_statement)

    def payload(self, selection: Selection) -> Plan:
        """The plan of a payload. `load` receives a list of payloads as its third argument, and returns a list."""
        connections = self._connections()
        shape = PayloadCompiler(self.catalog, connections).payload_shape(selection)
        cost, size = (costs.selection(selection) for costs in self._costs(connections))
        return Plan(payload_root(shape), connections.bindings, self.dialect, cost, size, shape.is_single_statement)

    def _root(
        self, connections: ConnectionCompiler, parent_type: str, field: Field
    ) -> tuple[RootLoader, IsSingleStatement]:
        sourced = self.catalog[parent_type][field.name]
        source, payloads = sourced.source, PayloadCompiler(self.catalog, connections)
        match source:
            case sources.ToMany() | sources.BoundedRows():
                return _page_root(connections.page_node(source, field, sourced.type_name))
            case sources.GroupedRows():
                return _page_root(connections.groups_node(source, field))
            case sources.RowById():
                node = payloads.multi_entity_node(field.selection)
                return row_by_id_root(node, field, source.noun), node.is_single_statement
            case sources.RowsByIds():
                node = payloads.multi_entity_node(field.selection)
                return rows_by_ids_root(node, field), _several_statements
            case sources.ComputedRoot():
                if source.bind is not None:
                    connections.bind(field, source.bind)
                computed = payloads.payload_shape(field.selection) if field.selection else None
                return computed_root(source, field, computed), _computed_is_single(sourced, source, computed)
            case _:
                raise TypeError(f"The source of {parent_type}.{field.name} is invalid for a root field.")

    def _connections(self) -> ConnectionCompiler:
        return ConnectionCompiler(self.catalog, self.dialect, typed=self.typed)

    def _costs(self, connections: ConnectionCompiler) -> Sequence[CostCompiler]:
        """The compilers of `Plan.cost` and `Plan.size`. Complete once every list is compiled."""
        nodes = {binding.field: binding.key for binding in connections.bindings}
        return CostCompiler(self.catalog, nodes), SizeCompiler(self.catalog, nodes)


def _page_root(node: PageNode) -> tuple[RootLoader, IsSingleStatement]:
    return page_root(node), lambda bound: node.is_single_statement(bound[node])


def _computed_is_single(
    sourced: sources.SourcedField, source: sources.ComputedRoot, shape: PayloadShape | None
) -> IsSingleStatement:
    """Whether a computed root sends one statement at most: its function sends none, and its payload takes one."""
    if iscoroutinefunction(source.compute):
        return _several_statements
    if shape is None:
        return lambda _bound: True
    return (lambda _bound: shape.max_statements() <= 1) if sourced.is_list else shape.is_single_statement
