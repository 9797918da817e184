"""Executes GraphQL requests: one read path for all operations, and two finishers that turn its values into a response.

Steps of a query or mutation
    1. Document cache (`documents`): the text, or the id of a persisted document, yields a `ParsedOperation`. On a miss
       the document is parsed, its size is checked, and it is validated. All later steps use the cached operation.
    2. Variables (`variables`): the values of the request are coerced to the types that the operation declares.
    3. Plans (`request_binding`, `root_fields`): each root field is compiled to a `Plan`, which holds the SQL and the
       generated renderers of its selection (`gateway.reads.compiler`). The plans are stored with the operation. They
       depend on the variables in `@skip` and `@include`, because skipped fields are not selected, so the values of
       these are the key. The variants of all operations share one cache, which is limited by their fields.
    4. Bind (`request_binding`, `root_fields`): the arguments of all root fields and connections are checked, and the
       cost is computed from the page sizes and compared with the limit (`cost_limit`). No statement has been sent so
       far, so a rejected request changes nothing.
    5. Load. A query (`queries`) loads all root fields in one read transaction, so they show one state of the database.
       A mutation (`mutations`) runs its root fields in document order; each calls its handler, which commits, and then
       loads the payload.
    6. Finish (`responses`, `graphql_core`): the values of the root fields become the response.

Finishers
    The values of step 5 are complete: nested dicts by response key, filtered to what the caller may see, with
    JSON-ready leaves. What remains is to place errors, and to serialize.

    `responses.compiled_response` handles almost all requests. It puts the values under `data` and serializes with
    orjson. No code runs per field, unless a field failed: then `field_errors` replaces its value by null. What may be
    large is serialized in slices by `responses.sliced_response`, so that other requests need not wait for it.

    `graphql_core.GraphQLCoreFinisher` handles operations with `__schema` or `__type`, and all operations if `compiled`
    is False, which tests use. graphql-core walks the selection. Its resolvers (`schema.build.executable`) look up the
    response key in the parent's dict; the introspection fields are its own. It must know the concrete type of each
    object at an interface, so for this finisher the plans are compiled with `typed=True` and make `Record`s, which are
    dicts with a type name. For a mutation, graphql-core calls the handlers (`MutationRunner.run_field`), one after the
    other.

    Both finishers must return equal responses: tests/reads/test_compiled_equals_graphql_core.py compares them for
    generated queries, and tests/operations/test_finishers.py for mutations.

Example
    `query ($id: ID!, $n: Boolean!) { vm(id: $id) { name snapshots @include(if: $n) { totalCount } } }` is parsed at the
    first request, and compiled once for `n: true` and once for `n: false`. A request with `n: false` then takes one
    statement, and the renderer generated for this selection returns `{"name": "web-01"}`.

Errors
    A request that cannot be executed (syntax, validation, variables, cost) has a response without `data`. An error of a
    root field, or of anything loaded below it, is stored in the place of the root field in the values, and the finisher
    reports it. A list below a root field that exceeds its bound is stored in its own place, as a `FieldError`. A
    `GatewayError` keeps its message and code; any other exception is logged and masked (`error_format`).

Subscriptions (`subscriptions`) have one root field. Their source (`schema.subscriptions`) yields a function that
chooses what to send; it runs in the same read transaction that then loads the rows, so that an event never shows an
older state than its own.
"""

from collections.abc import AsyncIterator

from graphql import GraphQLError, GraphQLSchema

from gateway.access.caller import Caller
from gateway.access.origin import RequestOrigin
from gateway.changes.change_feed import ChangeFeed
from gateway.config import Settings
from gateway.fair_queue import FairThread
from gateway.graphql.error_format import RequestError
from gateway.graphql.execution.cost_limit import CostLimit
from gateway.graphql.execution.documents import DocumentCache
from gateway.graphql.execution.graphql_core import GraphQLCoreFinisher
from gateway.graphql.execution.mutations import MutationRequest, MutationRunner
from gateway.graphql.execution.persisted_documents import PersistedDocuments
from gateway.graphql.execution.queries import QueryLoader
from gateway.graphql.execution.request_binding import RequestBinder
from gateway.graphql.execution.responses import compiled_response, request_error_response, sliced_response
from gateway.graphql.execution.subscriptions import SubscriptionRunner
from gateway.graphql.requests import GraphQLRequest, GraphQLResponse, OperationType
from gateway.graphql.schema.build import executable_schema
from gateway.http.load_shedding import LoopTurns
from gateway.operations.service import Operations
from gateway.reads.cost import SMALL_COST
from gateway.store.database import Database


class GraphQLExecutor:
    """The `Executor` of all transports.

    If `compiled` is False, graphql-core finishes all queries, which is slower and must return the same responses.
    `schema` is what `schema.build.executable` returns, by default for the schema of the gateway.
    """

    def __init__(
        self,
        database: Database,
        operations: Operations,
        feed: ChangeFeed,
        turns: LoopTurns,
        settings: Settings | None = None,
        persisted: PersistedDocuments | None = None,
        *,
        compiled: bool = True,
        schema: GraphQLSchema | None = None,
    ) -> None:
        settings = settings or Settings()
        schema = schema or executable_schema()
        self._compiled = compiled
        thread = FairThread()
        self._documents = DocumentCache(schema, settings, persisted or PersistedDocuments(settings), thread)
        self._cost_limit = CostLimit(settings.max_cost)
        self._binder = RequestBinder(schema, database.dialect, self._documents, self._cost_limit, thread)
        self._queries = QueryLoader(database, operations)
        self._mutations = MutationRunner(database, operations)
        self._subscriptions = SubscriptionRunner(database, operations, feed, self._binder, turns)
        self._graphql_core = GraphQLCoreFinisher(
            schema, self._mutations, thread, hide_suggestions=self._documents.hide_suggestions
        )

    async def kind(self, request: GraphQLRequest) -> OperationType | None:
        try:
            return await self._documents.kind(request)
        except RequestError:
            return None

    @property
    def documents(self) -> DocumentCache:
        """The cache of parsed documents, for metrics and traces."""
        return self._documents

    async def execute(
        self, request: GraphQLRequest, caller: Caller, origin: RequestOrigin, *, queries_only: bool = False
    ) -> GraphQLResponse:
        if not self._documents.is_new(request):
            return await self._execute(request, caller, origin, queries_only=queries_only)
        async with self._documents.slots.hold():
            return await self._execute(request, caller, origin, queries_only=queries_only)

    def subscribe(self, request: GraphQLRequest, caller: Caller) -> AsyncIterator[GraphQLResponse]:
        return self._subscriptions.run(request, caller)

    async def _execute(
        self, request: GraphQLRequest, caller: Caller, origin: RequestOrigin, *, queries_only: bool
    ) -> GraphQLResponse:
        try:
            operation = await self._documents.operation(request)
            if queries_only and operation.kind != "query":
                error = GraphQLError(f"A {operation.kind} must be sent by POST. Only queries can be sent by GET.")
                return request_error_response(error, method_not_allowed=True)
            if operation.kind == "subscription":
                return request_error_response(GraphQLError("A subscription requires a streaming transport."))
            typed = operation.introspects or not self._compiled
            bound = await self._binder.bind(operation, request, typed=typed)
        except (RequestError, GraphQLError) as error:
            return request_error_response(error)
        extensions = self._cost_limit.extensions(request, bound.cost) if request.extensions else None
        fields = [root.field for root in bound.roots]
        if operation.kind == "mutation":
            mutation = MutationRequest(caller, origin, bound)
            if typed:
                return await self._graphql_core.finish(operation, request, extensions, mutation=mutation)
            values = await self._mutations.run(mutation)
        else:
            values = await self._queries.load(bound, caller, origin)
            if typed:
                return await self._graphql_core.finish(operation, request, extensions, values=values)
        if bound.cost > SMALL_COST:
            return await sliced_response(fields, values, extensions)
        return compiled_response(fields, values, extensions)
