"""Runs GraphQL requests: documents are parsed and validated once, reads planned and loaded, the rest is graphql-core's.

A query's root fields are loaded together, on one state of the database, before graphql-core puts the answer together.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from graphql import (
    DocumentNode,
    ExecutionResult,
    FragmentDefinitionNode,
    GraphQLError,
    GraphQLResolveInfo,
    OperationDefinitionNode,
    execute,
    get_variable_values,
    parse,
    validate,
)
from graphql.execution.values import VariableValues

from gateway.access.caller import Caller
from gateway.api.mutations import HANDLERS
from gateway.api.presenting import BAD_USER_INPUT, VALIDATION_FAILED, present
from gateway.api.requests import Answer, GraphQLRequest, OperationKind
from gateway.api.schema import build_schema, catalog, executable
from gateway.api.selections import Selections
from gateway.api.subscriptions import SOURCES, Choose, Step
from gateway.errors import GatewayError
from gateway.operations.service import Operations
from gateway.reads.compiler import Compiler, Plan, UnboundArgument
from gateway.reads.dialects import DIALECTS
from gateway.reads.levels import BoundPage, Context, ManyLevel
from gateway.reads.selection import Field
from gateway.store.database import Database, Transaction
from gateway.store.feed import Feed

_MAX_TOKENS = 5_000
_KEPT_DOCUMENTS = 512
_KEPT_LENGTH = 20_000  # longer documents are not worth the memory


class RequestError(Exception):
    """The request cannot be run at all: an answer without `data`."""

    def __init__(self, errors: Sequence[GraphQLError], code: str = BAD_USER_INPUT) -> None:
        super().__init__()
        self.shown = [present(error, code) for error in errors]


@dataclass(frozen=True, slots=True)
class Prepared:
    """One operation of a valid document, with its variables."""

    document: DocumentNode
    operation: OperationDefinitionNode
    variables: VariableValues
    selections: Selections


@dataclass(frozen=True, slots=True)
class Wanted:
    """A root field, planned and with its arguments checked."""

    field: Field
    plan: Plan
    pages: Mapping[ManyLevel, BoundPage]


class GraphQLExecutor:
    """The `Executor` that the transports talk to."""

    def __init__(self, database: Database, operations: Operations, feed: Feed) -> None:
        self._database = database
        self._operations = operations
        self._feed = feed
        self._schema = executable(build_schema())
        assert self._schema.mutation_type is not None
        for name, field in self._schema.mutation_type.fields.items():
            field.resolve = self._mutation(name)
        self._compiler = Compiler(catalog(self._schema), database.dialect, typed=True)
        self._documents: OrderedDict[str, DocumentNode] = OrderedDict()

    # ---- documents

    def _document(self, query: str) -> DocumentNode:
        """The parsed and validated document. Raises RequestError."""
        document = self._documents.get(query)
        if document is not None:
            self._documents.move_to_end(query)
            return document
        try:
            document = parse(query, max_tokens=_MAX_TOKENS)
        except GraphQLError as error:
            raise RequestError([error]) from None
        if errors := validate(self._schema, document):
            raise RequestError(errors, VALIDATION_FAILED)
        if len(query) <= _KEPT_LENGTH:
            self._documents[query] = document
            if len(self._documents) > _KEPT_DOCUMENTS:
                self._documents.popitem(last=False)
        return document

    def _operation(self, request: GraphQLRequest) -> tuple[DocumentNode, OperationDefinitionNode]:
        document = self._document(request.query)
        operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
        name = request.operation_name
        if name is None:
            if len(operations) != 1:
                raise RequestError([GraphQLError("The document has several operations: name one in `operationName`.")])
            return document, operations[0]
        for operation in operations:
            if operation.name is not None and operation.name.value == name:
                return document, operation
        raise RequestError([GraphQLError(f"The document has no operation named {name!r}.")])

    def _prepare(self, request: GraphQLRequest) -> Prepared:
        document, operation = self._operation(request)
        values = get_variable_values(
            self._schema, operation.variable_definitions or (), request.variables, max_errors=20
        )
        if isinstance(values, list):
            raise RequestError(values)
        fragments = {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}
        return Prepared(document, operation, values, Selections(self._schema, fragments, values))

    # ---- queries and mutations

    def kind(self, request: GraphQLRequest) -> OperationKind | None:
        try:
            _, operation = self._operation(request)
        except RequestError:
            return None
        kind: OperationKind = operation.operation.value
        return kind

    async def execute(self, request: GraphQLRequest, caller: Caller, *, queries_only: bool = False) -> Answer:
        try:
            kind = self.kind(request)
            if queries_only and kind not in (None, "query"):
                error = GraphQLError(f"A {kind} must come by POST: only queries are served by GET.")
                return Answer(_errors([present(error)]), ran=False, refused_method=True)
            if kind == "subscription":
                raise RequestError([GraphQLError("A subscription needs a stream.")])
            prepared = self._prepare(request)
        except RequestError as error:
            return Answer(_errors(error.shown), ran=False)
        root = await self._load_query(prepared, caller) if kind == "query" else None
        result = execute(
            self._schema,
            prepared.document,
            root_value=root,
            context_value=_Request(caller, prepared),
            variable_values=request.variables,
            operation_name=request.operation_name,
        )
        return _answer(result if isinstance(result, ExecutionResult) else await result)

    async def _load_query(self, prepared: Prepared, caller: Caller) -> dict[str, Any]:
        """Every root field's value, or the exception that stands in for it, by response key."""
        root = self._schema.query_type
        assert root is not None
        values: dict[str, Any] = {}
        wanted = []
        for field in prepared.selections.roots(root, prepared.operation.selection_set):
            plan = self._compiler.root(root.name, field)
            try:
                wanted.append(Wanted(field, plan, plan.bind(prepared.variables)))
            except UnboundArgument as error:
                values[field.key] = _located(error)

        async def load(transaction: Transaction) -> None:
            for want in wanted:
                context = self._context(transaction, caller, want.pages)
                try:
                    values[want.field.key] = await want.plan.load(context, prepared.variables, _viewer(caller))
                except GatewayError as error:
                    values[want.field.key] = error

        if wanted:
            try:
                await self._database.read(load)
            except Exception as error:
                values |= {want.field.key: error for want in wanted}
        return values

    def _context(self, transaction: Transaction, caller: Caller, pages: Mapping[ManyLevel, BoundPage]) -> Context:
        dialect = DIALECTS[self._database.dialect]
        return Context(transaction, dialect, caller, self._operations.matrices, pages)

    def _mutation(self, name: str) -> Any:
        handler = HANDLERS[name]

        async def resolve(_root: None, info: GraphQLResolveInfo, **arguments: Any) -> Any:
            request: _Request = info.context
            selections, variables = request.prepared.selections, request.prepared.variables
            field = selections.field(info.parent_type, info.field_nodes)
            plan = self._compiler.given(field.selection)
            try:
                pages = plan.bind(variables)  # what is wrong in the answer's arguments is said before anything is done
            except UnboundArgument as error:
                raise _located(error) from None
            payload = await handler(self._operations, request.caller, arguments["input"])

            async def load(transaction: Transaction) -> Any:
                return await plan.load(self._context(transaction, request.caller, pages), variables, payload)

            return await self._database.read(load)

        return resolve

    # ---- subscriptions

    async def subscribe(self, request: GraphQLRequest, caller: Caller) -> AsyncIterator[Answer]:
        try:
            prepared = self._prepare(request)
            field, plan, pages = self._plan_subscription(prepared)
        except RequestError as error:
            yield Answer(_errors(error.shown), ran=False)
            return

        def load_with(choose: Choose) -> Any:
            async def load(transaction: Transaction) -> tuple[Step, list[Any]]:
                step: Step = await choose(transaction)
                context = self._context(transaction, caller, pages)
                return step, [await plan.load(context, prepared.variables, given) for given in step.given]

            return load

        source = SOURCES[field.name](self._feed, self._database, caller, field.arguments(prepared.variables))
        began = False
        try:
            async for choose in source:
                step, values = await self._database.read(load_with(choose))
                for value in values:
                    began = True
                    yield Answer(orjson.dumps({"data": value}, option=orjson.OPT_UTC_Z), ran=True)
                if step.last:
                    return
        except Exception as error:
            located = GraphQLError(str(error), nodes=[field.origin], path=[field.key], original_error=error)
            shown = {"errors": [present(located)]}
            yield Answer(orjson.dumps({"data": None, **shown} if began else shown), ran=began)
        finally:
            await source.aclose()  # type: ignore[attr-defined]

    def _plan_subscription(self, prepared: Prepared) -> tuple[Field, Plan, Mapping[ManyLevel, BoundPage]]:
        if prepared.operation.operation.value != "subscription":
            raise RequestError([GraphQLError("This is not a subscription.")])
        root = self._schema.subscription_type
        assert root is not None
        (field,) = prepared.selections.roots(root, prepared.operation.selection_set)
        plan = self._compiler.given({root.name: [field]})
        try:
            return field, plan, plan.bind(prepared.variables)
        except UnboundArgument as error:
            raise RequestError([_located(error)]) from None


@dataclass(frozen=True, slots=True)
class _Request:
    """graphql-core's context: what a mutation's resolver needs."""

    caller: Caller
    prepared: Prepared


def _viewer(caller: Caller) -> dict[str, Any]:
    return {"viewer": {"name": caller.name, "roles": list(caller.roles), "tenant": caller.tenant}}


def _located(error: UnboundArgument) -> GraphQLError:
    """The fault at the field whose argument it is, and not at the root field that cannot be loaded for it."""
    return GraphQLError(error.error.message, nodes=[error.field.origin], original_error=error)


def _answer(result: ExecutionResult) -> Answer:
    body: dict[str, Any] = {}
    if result.errors:
        body["errors"] = [present(error) for error in result.errors]
    body["data"] = result.data
    return Answer(orjson.dumps(body, option=orjson.OPT_UTC_Z), ran=True)


def _errors(shown: Sequence[Mapping[str, Any]]) -> bytes:
    return orjson.dumps({"errors": list(shown)})
