"""Executes GraphQL requests: one read path for all operations, and two finishers that turn its values into a response.

Steps of a query or mutation
    1. Document cache (`documents`): the text, or the id of a persisted document, yields a `ParsedOperation`. On a miss
       the document is parsed, its size is checked, and it is validated. All later steps use the cached operation.
    2. Variables (`variables`): the values of the request are coerced to the types that the operation declares.
    3. Plans (`root_fields`): each root field is compiled to a `Plan`, which holds the SQL and the generated renderers
       of its selection (`gateway.reads.compiler`). The plans are stored with the operation. They depend on the
       variables in `@skip` and `@include`, because skipped fields are not selected, so the values of these are the key.
       Up to 16 variants of an operation are stored; further ones are compiled at every request.
    4. Bind: the arguments of all root fields and connections are checked, and the cost is computed from the page sizes
       and compared with the limit. No statement has been sent so far, so a rejected request changes nothing.
    5. Load. A query loads all root fields in one read transaction, so they show one state of the database. A mutation
       runs its root fields in document order; each calls its handler, which commits, and then loads the payload.
    6. Finish: the values of the root fields become the response.

Finishers
    The values of step 5 are complete: nested dicts by response key, filtered to what the caller may see, with
    JSON-ready leaves. What remains is to place errors, and to serialize.

    `_finish_compiled` handles almost all requests. It puts the values under `data`, sets a failed root field to null,
    or all of `data` if the field is non-null, and serializes with orjson. No code runs per field.

    `_finish_with_graphql_core` handles operations with `__schema` or `__type`, and all operations if `compiled` is
    False, which tests use. graphql-core walks the selection. Its resolvers (`schema.build.executable`) look up the
    response key in the parent's dict; the introspection fields are its own. It must know the concrete type of each
    object at an interface, so for this finisher the plans are compiled with `typed=True` and make `Record`s, which are
    dicts with a type name. For a mutation, graphql-core calls the handlers (`_mutation_resolver`), one after the other.

    Both finishers must return equal responses: tests/reads/test_compiled_equals_graphql_core.py compares them for
    generated queries, and tests/operations/test_finishers.py for mutations.

Example
    `query ($id: ID!, $n: Boolean!) { vm(id: $id) { name snapshots @include(if: $n) { totalCount } } }` is parsed at the
    first request, and compiled once for `n: true` and once for `n: false`. A request with `n: false` then takes one
    statement, and the renderer generated for this selection returns `{"name": "web-01"}`.

Errors
    A request that cannot be executed (syntax, validation, variables, cost) has a response without `data`. An error of a
    root field, or of anything loaded below it, is stored in its place in the values, and the finisher reports it. A
    `GatewayError` keeps its message and code; any other exception is logged and masked (`error_format`).

Subscriptions have one root field. Their source (`schema.subscriptions`) yields a function that chooses what to send; it
runs in the same read transaction that then loads the rows, so that an event never shows an older state than its own.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
from graphql import (
    ExecutionResult,
    GraphQLError,
    GraphQLResolveInfo,
    execute,
)
from graphql.execution.values import VariableValues

from gateway.access.caller import Caller
from gateway.access.origin import RequestOrigin
from gateway.changes.change_feed import ChangeFeed
from gateway.config import Settings
from gateway.errors import Forbidden, GatewayError, LimitExceeded, Unavailable, Unconfirmed
from gateway.graphql.error_format import RequestError, format_error, format_request_error
from gateway.graphql.execution.cost_limit import CostLimit
from gateway.graphql.execution.documents import DocumentCache, ParsedOperation
from gateway.graphql.execution.persisted_documents import PersistedDocuments
from gateway.graphql.execution.root_fields import BoundRootFields, Pages, RootField, bind, compile_root_field, located
from gateway.graphql.execution.selections import Selections
from gateway.graphql.requests import GraphQLRequest, GraphQLResponse, OperationType
from gateway.graphql.schema.build import build_schema, catalog, executable
from gateway.graphql.schema.mutations import HANDLERS, Input
from gateway.graphql.schema.subscriptions import SOURCES, Choose, Listening, MissedChanges, Step
from gateway.operations.service import Operations
from gateway.reads.compiler import Compiler, InvalidArguments, Plan
from gateway.reads.context import Context
from gateway.reads.dialects import DIALECTS
from gateway.reads.selection import Arguments, Field
from gateway.store.database import Database, Transaction
from gateway.store.retry import read_with_retry

_MAX_PLAN_VARIANTS = 16  # per operation, for different values of the variables in its conditions
_PAYLOAD_RETRY_SECONDS = 5.0  # for which the read of a payload is retried while the database is unavailable
_STREAM_RETRY_SECONDS = 60.0  # the same for a subscription that has started; before that, errors are returned at once

_PAYLOAD_LOST = (
    "The mutation was decided, but the database became unavailable before its payload could be read. Repeat the"
    " mutation with the same idempotency key, or check the machine before retrying."
)


class GraphQLExecutor:
    """The `Executor` of all transports.

    If `compiled` is False, graphql-core finishes all queries, which is slower and must return the same responses.
    """

    def __init__(
        self,
        database: Database,
        operations: Operations,
        feed: ChangeFeed,
        settings: Settings | None = None,
        persisted: PersistedDocuments | None = None,
        *,
        compiled: bool = True,
    ) -> None:
        settings = settings or Settings()
        self._database = database
        self._dialect = DIALECTS[database.dialect]
        self._operations = operations
        self._feed = feed
        self._compiled = compiled
        self._schema = executable(build_schema())
        assert self._schema.mutation_type is not None
        for name, field in self._schema.mutation_type.fields.items():
            field.resolve = self._mutation_resolver(name)
        sources = catalog(self._schema)
        self._compiler = Compiler(sources, database.dialect, typed=False)
        self._typed_compiler = Compiler(sources, database.dialect, typed=True)  # for graphql-core
        self._documents = DocumentCache(self._schema, settings, persisted or PersistedDocuments(settings))
        self._cost_limit = CostLimit(settings.max_cost)

    def kind(self, request: GraphQLRequest) -> OperationType | None:
        try:
            return self._documents.operation(request).kind
        except RequestError:
            return None

    @property
    def documents(self) -> DocumentCache:
        """The cache of parsed documents, for metrics and traces."""
        return self._documents

    async def execute(
        self, request: GraphQLRequest, caller: Caller, origin: RequestOrigin, *, queries_only: bool = False
    ) -> GraphQLResponse:
        try:
            operation = self._documents.operation(request)
            if queries_only and operation.kind != "query":
                error = GraphQLError(f"A {operation.kind} must be sent by POST. Only queries can be sent by GET.")
                return GraphQLResponse(_errors_json([format_error(error)]), ran=False, method_not_allowed=True)
            if operation.kind == "subscription":
                error = GraphQLError("A subscription requires a streaming transport.")
                return GraphQLResponse(_errors_json([format_error(error)]), ran=False)
            variables = _coerced_variables(operation, request)
            typed = operation.introspects or not self._compiled
            roots = self._root_fields(operation, variables, typed)
            bound = bind(roots, variables)
            self._cost_limit.check(bound.cost, operation.node)
        except (RequestError, GraphQLError) as error:
            return _request_error_response(error)
        extensions = self._cost_limit.extensions(request, bound.cost) if request.extensions else None
        if operation.kind == "mutation":
            mutation = _MutationRequest(caller, origin, variables, bound)
            if typed:
                return await self._finish_with_graphql_core(operation, request, mutation, None, extensions)
            return _finish_compiled(roots, await self._run_mutations(roots, mutation), extensions)
        values = await self._load_query(bound, variables, caller)
        for root in roots:
            if isinstance(refusal := values[root.field.key], Forbidden):
                await self._operations.refusals.record_read(caller, origin, root.field.name, refusal)
        if typed:
            return await self._finish_with_graphql_core(operation, request, None, values, extensions)
        return _finish_compiled(roots, values, extensions)

    # ---- plans

    def _root_fields(self, operation: ParsedOperation, variables: VariableValues, typed: bool) -> Sequence[RootField]:
        """The compiled root fields of a query or mutation, for these values of the variables in its conditions."""
        key = tuple(variables.coerced.get(name) for name in operation.conditions)
        roots: Sequence[RootField] | None = operation.plans.get(key)
        if roots is None:
            root = self._schema.get_root_type(operation.node.operation)
            assert root is not None
            compiler = self._typed_compiler if typed else self._compiler
            selections = Selections(self._schema, operation.fragments, variables)
            fields = selections.roots(root, operation.node.selection_set)
            roots = [compile_root_field(compiler, root, field) for field in fields]
            if len(operation.plans) < _MAX_PLAN_VARIANTS:
                operation.plans[key] = roots
        return roots

    # ---- queries and mutations

    async def _load_query(self, bound: BoundRootFields, variables: VariableValues, caller: Caller) -> dict[str, Any]:
        """The value of every root field, or the exception that its load raised, by response key."""
        loads, values, _ = bound

        async def load(transaction: Transaction) -> None:
            for key, plan, pages in loads:
                try:
                    values[key] = await plan.load(self._context(transaction, caller, pages), variables, _viewer(caller))
                except GatewayError as error:
                    values[key] = error

        if loads:
            try:
                alone = len(loads) == 1 and loads[0][1].is_single_statement(loads[0][2])
                await self._database.read(load, single=alone)
            except Exception as error:  # noqa: BLE001 - reported or masked and logged like any other field error
                for key, _, _ in loads:
                    values[key] = error
        return values

    async def _run_mutations(self, roots: Sequence[RootField], request: "_MutationRequest") -> dict[str, Any]:
        """The payload of each mutation, or the exception that it raised. Stops after the first exception."""
        bound = request.bound
        loads = {key: (plan, pages) for key, plan, pages in bound.loads}
        for root in roots:
            key = root.field.key
            if key in loads:
                try:
                    input_ = root.field.arguments(request.variables)["input"]
                    bound.values[key] = await self._run_mutation(root.field.name, input_, *loads[key], request)
                except Exception as error:  # noqa: BLE001 - reported or masked and logged like any other field error
                    bound.values[key] = error
            if isinstance(bound.values[key], Exception):
                break  # all payloads are non-null, so the response has no data
        return bound.values

    async def _run_mutation(
        self, name: str, input_: Input, plan: Plan, pages: Pages, request: "_MutationRequest"
    ) -> Any:
        """Runs the handler and loads its payload. Raises Unconfirmed if the payload cannot be loaded."""
        payload = await HANDLERS[name](self._operations, request.caller, request.origin, input_)

        async def load(transaction: Transaction) -> Any:
            return await plan.load(self._context(transaction, request.caller, pages), request.variables, payload)

        try:
            return await read_with_retry(
                self._database, load, _PAYLOAD_RETRY_SECONDS, single=plan.is_single_statement(pages)
            )
        except (Unavailable, LimitExceeded) as error:  # these are retryable, but a retry could repeat the mutation
            raise Unconfirmed(_PAYLOAD_LOST) from error

    def _context(self, transaction: Transaction, caller: Caller, pages: Pages) -> Context:
        return Context(transaction, self._dialect, caller, self._operations.matrices, pages)

    # ---- graphql-core

    async def _finish_with_graphql_core(
        self,
        operation: ParsedOperation,
        request: GraphQLRequest,
        context: "_MutationRequest | None",
        root_value: dict[str, Any] | None,
        extensions: Mapping[str, Any] | None,
    ) -> GraphQLResponse:
        """Lets graphql-core complete the response, from the loaded values of a query or by running a mutation."""
        result = execute(
            self._schema,
            operation.document,
            root_value=root_value,
            context_value=context,
            variable_values=request.variables,
            operation_name=request.operation_name,
            hide_suggestions=self._documents.hide_suggestions,
        )
        done = result if isinstance(result, ExecutionResult) else await result
        return _response(done.data, done.errors or (), extensions)

    def _mutation_resolver(self, name: str) -> Any:
        """The resolver of a mutation field; its context is a _MutationRequest."""

        async def resolve(_root: None, info: GraphQLResolveInfo[Any], **arguments: Any) -> Any:
            request: _MutationRequest = info.context
            if error := request.bound.values[str(info.path.key)]:
                raise error  # found by `bind`, so the handler must not run
            plan, pages = next((plan, pages) for key, plan, pages in request.bound.loads if key == info.path.key)
            return await self._run_mutation(name, arguments["input"], plan, pages, request)

        return resolve

    # ---- subscriptions

    async def subscribe(self, request: GraphQLRequest, caller: Caller) -> AsyncIterator[GraphQLResponse]:
        try:
            field, arguments, variables, plan, pages, cost_extensions = self._bind_subscription(request)
        except (RequestError, GraphQLError) as error:
            yield _request_error_response(error)
            return

        def load_with(choose: Choose) -> Any:
            async def load(transaction: Transaction) -> tuple[Step, list[Any]]:
                step: Step = await choose(transaction)
                context = self._context(transaction, caller, pages)
                return step, [await plan.load(context, variables, given) for given in step.given]

            return load

        after = request.extensions.get("lastEventId")
        source = SOURCES[field.name](self._feed, self._database, caller, arguments, after)
        has_sent, retry_seconds = False, 0.0
        try:
            async for choose in source:
                if isinstance(choose, Listening):
                    yield GraphQLResponse(b"", ran=True, event=choose.event)
                    retry_seconds = _STREAM_RETRY_SECONDS
                    continue
                step, values = await read_with_retry(self._database, load_with(choose), retry_seconds)
                retry_seconds = _STREAM_RETRY_SECONDS
                for value, event in zip(values, step.events or [None] * len(values), strict=True):
                    has_sent = True
                    extensions = cost_extensions if event is None else {**(cost_extensions or {}), "eventId": event}
                    yield GraphQLResponse(_to_json(_body(value, (), extensions)), ran=True, event=event)
                if step.last:
                    return
        except Exception as error:  # noqa: BLE001 - reported or masked and logged like any other field error
            errors = {"errors": [format_error(_at_root(error, field))]}
            event = "" if isinstance(error, MissedChanges) else None
            yield GraphQLResponse(_to_json({**errors, "data": None} if has_sent else errors), ran=has_sent, event=event)
        finally:
            await source.aclose()  # type: ignore[attr-defined]

    def _bind_subscription(self, request: GraphQLRequest) -> "_BoundSubscription":
        """Raises RequestError, and GraphQLError for a non-null argument or condition whose value is null."""
        operation = self._documents.operation(request)
        variables = _coerced_variables(operation, request)
        root = self._schema.subscription_type
        assert root is not None
        if operation.kind != "subscription":
            raise RequestError([GraphQLError("The operation is not a subscription.")])
        selections = Selections(self._schema, operation.fragments, variables)
        (field,) = selections.roots(root, operation.node.selection_set)
        plan = self._compiler.payload({root.name: [field]})
        try:
            pages = plan.bind(variables)
        except InvalidArguments as error:
            raise RequestError([located(error)]) from None
        cost = plan.cost(pages, variables)
        self._cost_limit.check(cost, operation.node)
        extensions = self._cost_limit.extensions(request, cost)
        return _BoundSubscription(field, field.arguments(variables), variables, plan, pages, extensions)


class _BoundSubscription(NamedTuple):
    """A subscription whose plan is bound, so that it can be loaded at every event."""

    field: Field
    arguments: Arguments
    variables: VariableValues
    plan: Plan
    pages: Pages
    extensions: Mapping[str, Any] | None  # of every response


@dataclass(frozen=True, slots=True)
class _MutationRequest:
    """What a mutation field needs to run; the context value of graphql-core."""

    caller: Caller
    origin: RequestOrigin
    variables: VariableValues
    bound: BoundRootFields


def _coerced_variables(operation: ParsedOperation, request: GraphQLRequest) -> VariableValues:
    """Raises RequestError with all errors of the variables."""
    values = operation.variables.bind(request.variables)
    if isinstance(values, list):
        raise RequestError(values)
    return values


def _viewer(caller: Caller) -> dict[str, Any]:
    return {"viewer": {"name": caller.name, "roles": list(caller.roles), "tenant": caller.tenant}}


def _finish_compiled(
    roots: Sequence[RootField], values: dict[str, Any], extensions: Mapping[str, Any] | None
) -> GraphQLResponse:
    """The response that graphql-core would return: a failed root field is null, or `data` is if it is non-null."""
    errors: list[GraphQLError] = []
    data: dict[str, Any] | None = values
    for root in roots:
        value = values[root.field.key]
        if isinstance(value, Exception):
            errors.append(_at_root(value, root.field))
            values[root.field.key] = None
            if root.required:
                data = None
                break  # errors of later root fields are not reported
    return _response(data, errors, extensions)


def _at_root(error: Exception, field: Field) -> GraphQLError:
    """The error with the path of the root field, and with its location unless it has one."""
    if isinstance(error, GraphQLError):
        nodes = error.nodes or [field.ast_node]
        return GraphQLError(error.message, nodes=nodes, path=[field.key], original_error=error.original_error)
    return GraphQLError(str(error), nodes=[field.ast_node], path=[field.key], original_error=error)


def _response(data: Any, errors: Sequence[GraphQLError], extensions: Mapping[str, Any] | None) -> GraphQLResponse:
    return GraphQLResponse(_to_json(_body(data, errors, extensions)), ran=True)


def _body(data: Any, errors: Sequence[GraphQLError], extensions: Mapping[str, Any] | None) -> dict[str, Any]:
    body = {"errors": [format_error(error) for error in errors], "data": data} if errors else {"data": data}
    if extensions:
        body["extensions"] = extensions
    return body


def _to_json(body: Mapping[str, Any]) -> bytes:
    return orjson.dumps(body, option=orjson.OPT_UTC_Z)


def _request_error_response(error: RequestError | GraphQLError) -> GraphQLResponse:
    """The response without `data`. The only GraphQLError here is a null value for a condition, found by compilation."""
    errors = error.formatted if isinstance(error, RequestError) else [format_request_error(error)]
    return GraphQLResponse(_errors_json(errors), ran=False)


def _errors_json(errors: Sequence[Mapping[str, Any]]) -> bytes:
    return orjson.dumps({"errors": list(errors)})
