"""Runs GraphQL requests: reads by their compiled plans, the rest by graphql-core over the same translator.

A query's root fields are loaded together, on one state of the database. What is compiled is finished here, straight
to JSON; introspection, and mutations with their order and their errors, are graphql-core's.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from graphql import (
    ExecutionResult,
    GraphQLError,
    GraphQLResolveInfo,
    execute,
    is_non_null_type,
)
from graphql.execution.values import VariableValues

from gateway.access.caller import Caller
from gateway.api.documents import Documents, Operation, RequestError
from gateway.api.mutations import HANDLERS
from gateway.api.presenting import present
from gateway.api.requests import Answer, GraphQLRequest, OperationKind
from gateway.api.schema import build_schema, catalog, executable
from gateway.api.selections import Selections
from gateway.api.subscriptions import SOURCES, Choose, Step
from gateway.errors import GatewayError
from gateway.operations.service import Operations
from gateway.reads.compiler import Compiler, Plan, UnboundArgument
from gateway.reads.connections import ManyLevel
from gateway.reads.context import Context
from gateway.reads.dialects import DIALECTS
from gateway.reads.pages import BoundPage
from gateway.reads.selection import Field
from gateway.store.database import Database, Transaction
from gateway.store.feed import Feed

_KEPT_PLANS = 16  # of one operation, for different values of its conditions

Pages = Mapping[ManyLevel, BoundPage]


@dataclass(frozen=True, slots=True)
class RootField:
    """One root field of an operation, compiled. `plan` is None for `__typename`."""

    field: Field
    plan: Plan | None
    required: bool  # its type is non-null, so without it there is no data at all


class GraphQLExecutor:
    """The `Executor` that the transports talk to.

    `compiled` off: graphql-core finishes every query, which is slower and must come to the same.
    """

    def __init__(self, database: Database, operations: Operations, feed: Feed, *, compiled: bool = True) -> None:
        self._database = database
        self._dialect = DIALECTS[database.dialect]
        self._operations = operations
        self._feed = feed
        self._compiled = compiled
        self._schema = executable(build_schema())
        assert self._schema.mutation_type is not None
        for name, field in self._schema.mutation_type.fields.items():
            field.resolve = self._mutation(name)
        sources = catalog(self._schema)
        self._plain = Compiler(sources, database.dialect, typed=False)
        self._typed = Compiler(sources, database.dialect, typed=True)
        self._documents = Documents(self._schema)

    def kind(self, request: GraphQLRequest) -> OperationKind | None:
        try:
            return self._documents.operation(request).kind
        except RequestError:
            return None

    async def execute(self, request: GraphQLRequest, caller: Caller, *, queries_only: bool = False) -> Answer:
        try:
            operation = self._documents.operation(request)
            if queries_only and operation.kind != "query":
                error = GraphQLError(f"A {operation.kind} must come by POST: only queries are served by GET.")
                return Answer(_errors([present(error)]), ran=False, refused_method=True)
            if operation.kind == "subscription":
                return Answer(_errors([present(GraphQLError("A subscription needs a stream."))]), ran=False)
            variables = _variables(operation, request)
            if operation.kind == "query":
                return await self._query(operation, request, variables, caller)
        except RequestError as error:
            return Answer(_errors(error.shown), ran=False)
        return await self._execute(operation, request, variables, caller, None)

    # ---- queries

    async def _query(
        self, operation: Operation, request: GraphQLRequest, variables: VariableValues, caller: Caller
    ) -> Answer:
        typed = operation.introspects or not self._compiled
        roots = self._roots(operation, variables, typed)
        values = await self._load(roots, variables, caller)
        if typed:
            return await self._execute(operation, request, variables, caller, values)
        return _finish(roots, values)

    def _roots(self, operation: Operation, variables: VariableValues, typed: bool) -> Sequence[RootField]:
        """The operation's root fields, compiled once for each value of its conditions."""
        key = tuple(variables.coerced.get(name) for name in operation.conditions)
        roots: Sequence[RootField] | None = operation.plans.get(key)
        if roots is None:
            root = self._schema.query_type
            assert root is not None
            compiler = self._typed if typed else self._plain
            selections = Selections(self._schema, operation.fragments, variables)
            roots = [
                RootField(
                    field,
                    None if field.name == "__typename" else compiler.root(root.name, field),
                    field.name != "__typename" and is_non_null_type(root.fields[field.name].type),
                )
                for field in selections.roots(root, operation.node.selection_set)
            ]
            if len(operation.plans) < _KEPT_PLANS:
                operation.plans[key] = roots
        return roots

    async def _load(self, roots: Sequence[RootField], variables: VariableValues, caller: Caller) -> dict[str, Any]:
        """Every root field's value, or the exception that stands in for it, by response key."""
        values: dict[str, Any] = {}
        wanted: list[tuple[str, Plan, Pages]] = []
        for root in roots:
            key = root.field.key
            if root.plan is None:
                values[key] = "Query"
                continue
            values[key] = None
            try:
                wanted.append((key, root.plan, root.plan.bind(variables)))
            except UnboundArgument as error:
                values[key] = _located(error)

        async def load(transaction: Transaction) -> None:
            for key, plan, pages in wanted:
                try:
                    values[key] = await plan.load(self._context(transaction, caller, pages), variables, _viewer(caller))
                except GatewayError as error:
                    values[key] = error

        if wanted:
            try:
                alone = len(wanted) == 1 and wanted[0][1].is_alone(wanted[0][2])
                await self._database.read(load, single=alone)
            except Exception as error:  # noqa: BLE001 - shown, or masked and logged, like any other
                for key, _, _ in wanted:
                    values[key] = error
        return values

    def _context(self, transaction: Transaction, caller: Caller, pages: Pages) -> Context:
        return Context(transaction, self._dialect, caller, self._operations.matrices, pages)

    # ---- what graphql-core executes

    async def _execute(
        self,
        operation: Operation,
        request: GraphQLRequest,
        variables: VariableValues,
        caller: Caller,
        root_value: dict[str, Any] | None,
    ) -> Answer:
        result = execute(
            self._schema,
            operation.document,
            root_value=root_value,
            context_value=_Request(caller, variables, Selections(self._schema, operation.fragments, variables)),
            variable_values=request.variables,
            operation_name=request.operation_name,
        )
        done = result if isinstance(result, ExecutionResult) else await result
        return _answer(done.data, done.errors or ())

    def _mutation(self, name: str) -> Any:
        handler = HANDLERS[name]

        async def resolve(_root: None, info: GraphQLResolveInfo[Any], **arguments: Any) -> Any:
            request: _Request = info.context
            field = request.selections.field(info.parent_type, info.field_nodes)
            plan = self._typed.given(field.selection)
            try:
                pages = plan.bind(request.variables)  # before anything is done
            except UnboundArgument as error:
                raise _located(error) from None
            payload = await handler(self._operations, request.caller, arguments["input"])

            async def load(transaction: Transaction) -> Any:
                return await plan.load(self._context(transaction, request.caller, pages), request.variables, payload)

            return await self._database.read(load)

        return resolve

    # ---- subscriptions

    async def subscribe(self, request: GraphQLRequest, caller: Caller) -> AsyncIterator[Answer]:
        try:
            operation = self._documents.operation(request)
            variables = _variables(operation, request)
            field, plan, pages = self._plan_subscription(operation, variables)
        except RequestError as error:
            yield Answer(_errors(error.shown), ran=False)
            return

        def load_with(choose: Choose) -> Any:
            async def load(transaction: Transaction) -> tuple[Step, list[Any]]:
                step: Step = await choose(transaction)
                context = self._context(transaction, caller, pages)
                return step, [await plan.load(context, variables, given) for given in step.given]

            return load

        source = SOURCES[field.name](self._feed, self._database, caller, field.arguments(variables))
        began = False
        try:
            async for choose in source:
                step, values = await self._database.read(load_with(choose))
                for value in values:
                    began = True
                    yield Answer(_json({"data": value}), ran=True)
                if step.last:
                    return
        except Exception as error:  # noqa: BLE001 - shown, or masked and logged, like any other
            located = GraphQLError(str(error), nodes=[field.origin], path=[field.key], original_error=error)
            shown = {"errors": [present(located)]}
            yield Answer(_json({**shown, "data": None} if began else shown), ran=began)
        finally:
            await source.aclose()  # type: ignore[attr-defined]

    def _plan_subscription(self, operation: Operation, variables: VariableValues) -> tuple[Field, Plan, Pages]:
        root = self._schema.subscription_type
        assert root is not None
        if operation.kind != "subscription":
            raise RequestError([GraphQLError("This is not a subscription.")])
        selections = Selections(self._schema, operation.fragments, variables)
        (field,) = selections.roots(root, operation.node.selection_set)
        plan = self._plain.given({root.name: [field]})
        try:
            return field, plan, plan.bind(variables)
        except UnboundArgument as error:
            raise RequestError([_located(error)]) from None


@dataclass(frozen=True, slots=True)
class _Request:
    """graphql-core's context: what a mutation's resolver needs."""

    caller: Caller
    variables: VariableValues
    selections: Selections


def _variables(operation: Operation, request: GraphQLRequest) -> VariableValues:
    values = operation.variables.bind(request.variables)
    if isinstance(values, list):
        raise RequestError(values)
    return values


def _viewer(caller: Caller) -> dict[str, Any]:
    return {"viewer": {"name": caller.name, "roles": list(caller.roles), "tenant": caller.tenant}}


def _located(error: UnboundArgument) -> GraphQLError:
    """The fault at the field whose argument it is, and not at the root field that cannot be loaded for it."""
    return GraphQLError(error.error.message, nodes=[error.field.origin], original_error=error)


def _finish(roots: Sequence[RootField], values: dict[str, Any]) -> Answer:
    """The answer as graphql-core would give it: a root field that failed is null, or takes all data with it."""
    errors: list[GraphQLError] = []
    data: dict[str, Any] | None = values
    for root in roots:
        value = values[root.field.key]
        if isinstance(value, Exception):
            errors.append(_at_root(value, root.field))
            values[root.field.key] = None
            if root.required:
                data = None
                break  # what else failed below is not looked at
    return _answer(data, errors)


def _at_root(error: Exception, field: Field) -> GraphQLError:
    nodes = [field.origin]
    if isinstance(error, GraphQLError):
        nodes, error = list(error.nodes or nodes), error.original_error or error
    return GraphQLError(str(error), nodes=nodes, path=[field.key], original_error=error)


def _answer(data: Any, errors: Sequence[GraphQLError]) -> Answer:
    body = {"errors": [present(error) for error in errors], "data": data} if errors else {"data": data}
    return Answer(_json(body), ran=True)


def _json(body: Mapping[str, Any]) -> bytes:
    return orjson.dumps(body, option=orjson.OPT_UTC_Z)


def _errors(shown: Sequence[Mapping[str, Any]]) -> bytes:
    return orjson.dumps({"errors": list(shown)})
