"""Runs GraphQL requests: reads by their compiled plans, the rest by graphql-core over the same translator.

A query's root fields are loaded together, on one state of the database. What is compiled is finished here, straight
to JSON; introspection is graphql-core's.
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
from gateway.graphql.error_format import RequestError, present, refused
from gateway.graphql.execution.costs import Costs
from gateway.graphql.execution.documents import Documents, Operation
from gateway.graphql.execution.persisted_documents import PersistedDocuments
from gateway.graphql.execution.root_fields import Bound, Pages, RootField, bind, located, root_field
from gateway.graphql.execution.selections import Selections
from gateway.graphql.requests import Answer, GraphQLRequest, OperationKind
from gateway.graphql.schema.build import build_schema, catalog, executable
from gateway.graphql.schema.mutations import HANDLERS, Input
from gateway.graphql.schema.subscriptions import SOURCES, Choose, Missed, Opened, Step
from gateway.operations.service import Operations
from gateway.reads.compiler import Compiler, Plan, UnboundArgument
from gateway.reads.context import Context
from gateway.reads.dialects import DIALECTS
from gateway.reads.selection import Arguments, Field
from gateway.store.database import Database, Transaction
from gateway.store.retry import read_patiently

_KEPT_PLANS = 16  # of one operation, for different values of its conditions
_ANSWER_PATIENCE = 5.0  # seconds that what was done waits for a database that is away, to be told
_STREAM_PATIENCE = 60.0  # seconds that a stream waits for it; one that has sent nothing says so at once

_ANSWER_LOST = (
    "this was decided, but the database went away before the answer could be read: repeat it with the same idempotency"
    " key, or look before you ask again"
)


class GraphQLExecutor:
    """The `Executor` that the transports talk to.

    `compiled` off: graphql-core finishes every query, which is slower and must come to the same.
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
            field.resolve = self._mutation(name)
        sources = catalog(self._schema)
        self._plain = Compiler(sources, database.dialect, typed=False)
        self._typed = Compiler(sources, database.dialect, typed=True)
        self._documents = Documents(self._schema, settings, persisted or PersistedDocuments(settings))
        self._costs = Costs(settings.max_cost)

    def kind(self, request: GraphQLRequest) -> OperationKind | None:
        try:
            return self._documents.operation(request).kind
        except RequestError:
            return None

    @property
    def documents(self) -> Documents:
        """What is kept of the requests so far."""
        return self._documents

    async def execute(
        self, request: GraphQLRequest, caller: Caller, origin: RequestOrigin, *, queries_only: bool = False
    ) -> Answer:
        try:
            operation = self._documents.operation(request)
            if queries_only and operation.kind != "query":
                error = GraphQLError(f"A {operation.kind} must come by POST: only queries are served by GET.")
                return Answer(_errors([present(error)]), ran=False, refused_method=True)
            if operation.kind == "subscription":
                return Answer(_errors([present(GraphQLError("A subscription needs a stream."))]), ran=False)
            variables = _variables(operation, request)
            typed = operation.introspects or not self._compiled
            roots = self._roots(operation, variables, typed)
            bound = bind(roots, variables)
            self._costs.check(bound.cost, operation.node)
        except (RequestError, GraphQLError) as error:
            return _refusal(error)
        more = self._costs.told(request, bound.cost) if request.extensions else None
        if operation.kind == "mutation":
            asked = _Request(caller, origin, variables, bound)
            if typed:
                return await self._execute(operation, request, asked, None, more)
            return _finish(roots, await self._change(roots, asked), more)
        values = await self._load(bound, variables, caller)
        for root in roots:
            if isinstance(refusal := values[root.field.key], Forbidden):
                await self._operations.refusals.read(caller, origin, root.field.name, refusal)
        if typed:
            return await self._execute(operation, request, None, values, more)
        return _finish(roots, values, more)

    # ---- what queries and mutations have in common

    def _roots(self, operation: Operation, variables: VariableValues, typed: bool) -> Sequence[RootField]:
        """The root fields of a query or a mutation, compiled once for each value of its conditions."""
        key = tuple(variables.coerced.get(name) for name in operation.conditions)
        roots: Sequence[RootField] | None = operation.plans.get(key)
        if roots is None:
            root = self._schema.get_root_type(operation.node.operation)
            assert root is not None
            compiler = self._typed if typed else self._plain
            selections = Selections(self._schema, operation.fragments, variables)
            fields = selections.roots(root, operation.node.selection_set)
            roots = [root_field(compiler, root, field) for field in fields]
            if len(operation.plans) < _KEPT_PLANS:
                operation.plans[key] = roots
        return roots

    async def _load(self, bound: Bound, variables: VariableValues, caller: Caller) -> dict[str, Any]:
        """Every root field's value, or the exception that stands in for it, by response key."""
        wanted, values, _ = bound

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

    async def _change(self, roots: Sequence[RootField], request: "_Request") -> dict[str, Any]:
        """Each mutation's payload, or the exception that stands in for it, in their order, up to one that fails."""
        bound = request.bound
        wanted = {key: (plan, pages) for key, plan, pages in bound.wanted}
        for root in roots:
            key = root.field.key
            if key in wanted:
                try:
                    wish = root.field.arguments(request.variables)["input"]
                    bound.values[key] = await self._changed(root.field.name, wish, *wanted[key], request)
                except Exception as error:  # noqa: BLE001 - shown, or masked and logged, like any other
                    bound.values[key] = error
            if isinstance(bound.values[key], Exception):
                break  # no payload may be null, so there will be no data
        return bound.values

    async def _changed(self, name: str, wish: Input, plan: Plan, pages: Pages, request: "_Request") -> Any:
        payload = await HANDLERS[name](self._operations, request.caller, request.origin, wish)

        async def load(transaction: Transaction) -> Any:
            return await plan.load(self._context(transaction, request.caller, pages), request.variables, payload)

        try:
            return await read_patiently(self._database, load, _ANSWER_PATIENCE, single=plan.is_alone(pages))
        except (Unavailable, LimitExceeded) as error:  # retryable, but to ask again might do it again
            raise Unconfirmed(_ANSWER_LOST) from error

    def _context(self, transaction: Transaction, caller: Caller, pages: Pages) -> Context:
        return Context(transaction, self._dialect, caller, self._operations.matrices, pages)

    # ---- what graphql-core executes

    async def _execute(
        self,
        operation: Operation,
        request: GraphQLRequest,
        context: "_Request | None",
        root_value: dict[str, Any] | None,
        more: Mapping[str, Any] | None,
    ) -> Answer:
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
        return _answer(done.data, done.errors or (), more)

    def _mutation(self, name: str) -> Any:
        async def resolve(_root: None, info: GraphQLResolveInfo[Any], **arguments: Any) -> Any:
            request: _Request = info.context
            if fault := request.bound.values[str(info.path.key)]:
                raise fault  # before anything is done
            plan, pages = next((plan, pages) for key, plan, pages in request.bound.wanted if key == info.path.key)
            return await self._changed(name, arguments["input"], plan, pages, request)

        return resolve

    # ---- subscriptions

    async def subscribe(self, request: GraphQLRequest, caller: Caller) -> AsyncIterator[Answer]:
        try:
            field, arguments, variables, plan, pages, more = self._subscription(request)
        except (RequestError, GraphQLError) as error:
            yield _refusal(error)
            return

        def load_with(choose: Choose) -> Any:
            async def load(transaction: Transaction) -> tuple[Step, list[Any]]:
                step: Step = await choose(transaction)
                context = self._context(transaction, caller, pages)
                return step, [await plan.load(context, variables, given) for given in step.given]

            return load

        after = request.extensions.get("lastEventId")
        source = SOURCES[field.name](self._feed, self._database, caller, arguments, after)
        began, patience = False, 0.0
        try:
            async for choose in source:
                if isinstance(choose, Opened):
                    yield Answer(b"", ran=True, event=choose.event)
                    patience = _STREAM_PATIENCE
                    continue
                step, values = await read_patiently(self._database, load_with(choose), patience)
                patience = _STREAM_PATIENCE
                for value, event in zip(values, step.events or [None] * len(values), strict=True):
                    began = True
                    told = more if event is None else {**(more or {}), "eventId": event}
                    yield Answer(_json(_body(value, (), told)), ran=True, event=event)
                if step.last:
                    return
        except Exception as error:  # noqa: BLE001 - shown, or masked and logged, like any other
            shown = {"errors": [present(_at_root(error, field))]}
            event = "" if isinstance(error, Missed) else None
            yield Answer(_json({**shown, "data": None} if began else shown), ran=began, event=event)
        finally:
            await source.aclose()  # type: ignore[attr-defined]

    def _subscription(self, request: GraphQLRequest) -> "_Subscription":
        """Raises RequestError, and GraphQLError for an argument or a condition that is null."""
        operation = self._documents.operation(request)
        variables = _variables(operation, request)
        root = self._schema.subscription_type
        assert root is not None
        if operation.kind != "subscription":
            raise RequestError([GraphQLError("This is not a subscription.")])
        selections = Selections(self._schema, operation.fragments, variables)
        (field,) = selections.roots(root, operation.node.selection_set)
        plan = self._plain.given({root.name: [field]})
        try:
            pages = plan.bind(variables)
        except UnboundArgument as error:
            raise RequestError([located(error)]) from None
        cost = plan.price(pages, variables)
        self._costs.check(cost, operation.node)
        more = self._costs.told(request, cost)
        return _Subscription(field, field.arguments(variables), variables, plan, pages, more)


class _Subscription(NamedTuple):
    """What is followed, ready to be loaded as often as it changes."""

    field: Field
    arguments: Arguments
    variables: VariableValues
    plan: Plan
    pages: Pages
    more: Mapping[str, Any] | None  # the extensions of every answer


@dataclass(frozen=True, slots=True)
class _Request:
    """graphql-core's context: what a mutation's resolver needs."""

    caller: Caller
    origin: RequestOrigin
    variables: VariableValues
    bound: Bound


def _variables(operation: Operation, request: GraphQLRequest) -> VariableValues:
    values = operation.variables.bind(request.variables)
    if isinstance(values, list):
        raise RequestError(values)
    return values


def _viewer(caller: Caller) -> dict[str, Any]:
    return {"viewer": {"name": caller.name, "roles": list(caller.roles), "tenant": caller.tenant}}


def _finish(roots: Sequence[RootField], values: dict[str, Any], more: Mapping[str, Any] | None) -> Answer:
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
    return _answer(data, errors, more)


def _at_root(error: Exception, field: Field) -> GraphQLError:
    if isinstance(error, GraphQLError):
        nodes = error.nodes or [field.origin]
        return GraphQLError(error.message, nodes=nodes, path=[field.key], original_error=error.original_error)
    return GraphQLError(str(error), nodes=[field.origin], path=[field.key], original_error=error)


def _answer(data: Any, errors: Sequence[GraphQLError], more: Mapping[str, Any] | None) -> Answer:
    return Answer(_json(_body(data, errors, more)), ran=True)


def _body(data: Any, errors: Sequence[GraphQLError], more: Mapping[str, Any] | None) -> dict[str, Any]:
    body = {"errors": [present(error) for error in errors], "data": data} if errors else {"data": data}
    if more:
        body["extensions"] = more
    return body


def _json(body: Mapping[str, Any]) -> bytes:
    return orjson.dumps(body, option=orjson.OPT_UTC_Z)


def _refusal(error: RequestError | GraphQLError) -> Answer:
    """A GraphQLError that comes here is a condition that is null: nothing else is left to be found so late."""
    return Answer(_errors(error.shown if isinstance(error, RequestError) else [refused(error)]), ran=False)


def _errors(shown: Sequence[Mapping[str, Any]]) -> bytes:
    return orjson.dumps({"errors": list(shown)})
