"""Completes responses with graphql-core: operations that introspect, and all operations in tests.

graphql-core walks the selection. The resolvers of `schema.build.executable` look up the loaded values; the fields of
the mutation type get resolvers that run the mutation.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from graphql import ExecutionResult, GraphQLResolveInfo, GraphQLSchema, execute

from gateway.fair_queue import FairThread
from gateway.graphql.execution.documents import ParsedOperation
from gateway.graphql.execution.mutations import MutationRequest, MutationRunner
from gateway.graphql.execution.responses import response
from gateway.graphql.requests import GraphQLRequest, GraphQLResponse


class GraphQLCoreFinisher:
    """Completes responses with graphql-core. Sets the resolvers of the mutations of `schema`."""

    def __init__(
        self, schema: GraphQLSchema, mutations: MutationRunner, thread: FairThread, *, hide_suggestions: bool
    ) -> None:
        self._schema = schema
        self._mutations = mutations
        self._hide_suggestions = hide_suggestions
        self._thread = thread
        assert schema.mutation_type is not None
        for name, field in schema.mutation_type.fields.items():
            field.resolve = self._mutation_resolver(name)

    async def finish(
        self,
        operation: ParsedOperation,
        request: GraphQLRequest,
        extensions: Mapping[str, Any] | None,
        *,
        values: dict[str, Any] | None = None,
        mutation: MutationRequest | None = None,
    ) -> GraphQLResponse:
        """The response to a query with the loaded `values`, or to `mutation`, which is run."""
        run = partial(
            execute,
            self._schema,
            operation.document,
            root_value=values,
            context_value=mutation,
            variable_values=request.variables,
            operation_name=request.operation_name,
            hide_suggestions=self._hide_suggestions,
        )
        if mutation is None and operation.introspects:
            result = await self._thread.run(run)  # takes up to 0.2 s; everything is loaded, so a thread can do it
        else:
            result = run()
        done = result if isinstance(result, ExecutionResult) else await result
        return response(done.data, done.errors or (), extensions)

    def _mutation_resolver(self, name: str) -> Any:
        """The resolver of a mutation field; its context is a MutationRequest."""

        async def resolve(_root: None, info: GraphQLResolveInfo[Any], **arguments: Any) -> Any:
            request: MutationRequest = info.context
            key = str(info.path.key)
            if error := request.bound.values[key]:
                raise error  # found by `bind`, so the handler must not run
            return await self._mutations.run_field(request, key, name, arguments["input"])

        return resolve
