"""Binds requests: from the text and variables of a request to compiled plans with checked arguments.

A request that cannot be bound has sent no statement and changed nothing.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from graphql import GraphQLError, GraphQLSchema
from graphql.execution.values import VariableValues

from gateway.errors import RequestTooLarge
from gateway.fair_queue import FairThread
from gateway.graphql.error_format import LIMIT_EXCEEDED, RequestError
from gateway.graphql.execution.cost_limit import INTROSPECTION_FACTOR, CostLimit
from gateway.graphql.execution.documents import DocumentCache, ParsedOperation, Plans
from gateway.graphql.execution.root_fields import BoundRootFields, RootField, bind, compile_root_field, located
from gateway.graphql.execution.selections import Selections
from gateway.graphql.requests import GraphQLRequest
from gateway.graphql.schema.build import catalog
from gateway.reads.argument_budget import ArgumentBudget
from gateway.reads.compiler import Compiler, Plan
from gateway.reads.context import Bound
from gateway.reads.cost import total_cost
from gateway.reads.selection import Arguments, Field, FieldError


class BoundSubscription(NamedTuple):
    """A subscription whose plan is bound, so that it can be loaded at every event."""

    field: Field
    arguments: Arguments
    variables: VariableValues
    plan: Plan
    bound: Bound
    cost: int  # of the responses that may be sent at once
    extensions: Mapping[str, Any] | None  # of every response


class RequestBinder:
    """Binds the requests of one schema, for the dialect of one database."""

    def __init__(
        self,
        schema: GraphQLSchema,
        dialect: str,
        documents: DocumentCache,
        cost_limit: CostLimit,
        thread: FairThread,
    ) -> None:
        self._schema = schema
        self._documents = documents
        self._thread = thread
        self._cost_limit = cost_limit
        sources = catalog(schema)
        self._compiler = Compiler(sources, dialect, typed=False)
        self._typed_compiler = Compiler(sources, dialect, typed=True)  # for graphql-core

    async def bind(self, operation: ParsedOperation, request: GraphQLRequest, *, typed: bool) -> BoundRootFields:
        """The root fields of a query or mutation.

        Raises RequestError, and GraphQLError for a condition whose value is null.
        """
        variables = _coerced_variables(operation, request)
        try:
            bound = bind(await self._root_fields(operation, variables, typed), variables)
        except RequestTooLarge as error:
            raise RequestError([GraphQLError(error.message, operation.node)], LIMIT_EXCEEDED) from None
        if operation.introspects:
            bound = bound._replace(cost=INTROSPECTION_FACTOR * bound.cost)
        self._cost_limit.check(bound.cost, operation.node)
        return bound

    async def bind_subscription(self, request: GraphQLRequest) -> BoundSubscription:
        """Raises RequestError, and GraphQLError for a non-null argument or condition whose value is null."""
        operation = await self._documents.operation(request)
        variables = _coerced_variables(operation, request)
        if operation.kind != "subscription":
            raise RequestError([GraphQLError("The operation is not a subscription.")])
        (root,) = await self._root_fields(operation, variables, typed=False)
        field, plan = root.field, root.plan
        assert plan is not None  # validation refuses `__typename` at the root of a subscription
        try:
            bound = plan.bind(variables, ArgumentBudget())
        except FieldError as error:
            raise RequestError([located(error)]) from None
        except RequestTooLarge as error:
            raise RequestError([GraphQLError(error.message, operation.node)], LIMIT_EXCEEDED) from None
        arguments = field.arguments(variables)
        first = len(arguments.get("ids", "1"))  # `operationsUpdated` sends a response for each at once
        cost = total_cost(first * plan.cost(bound, variables), first * plan.size(bound, variables))
        self._cost_limit.check(cost, operation.node)
        return BoundSubscription(
            field=field,
            arguments=arguments,
            variables=variables,
            plan=plan,
            bound=bound,
            cost=cost,
            extensions=self._cost_limit.extensions(request, cost),
        )

    async def _root_fields(
        self, operation: ParsedOperation, variables: VariableValues, typed: bool
    ) -> Sequence[RootField]:
        """The compiled root fields of an operation, for these values of the variables in its conditions."""
        key = tuple(variables.coerced.get(name) for name in operation.conditions)
        if (plans := operation.plans.get(key)) is None:
            compile_plans = partial(self._compile, operation, variables, typed)
            plans = compile_plans() if operation.is_short else await self._thread.run(compile_plans)
            if operation.uses > 1:
                operation.plans.put(key, plans)
        return plans.roots

    def _compile(self, operation: ParsedOperation, variables: VariableValues, typed: bool) -> Plans:
        root = self._schema.get_root_type(operation.node.operation)
        assert root is not None
        compiler = self._typed_compiler if typed else self._compiler
        selections = Selections(self._schema, operation.fragments, variables)
        fields = selections.roots(root, operation.node.selection_set)
        return Plans([compile_root_field(compiler, root, field) for field in fields], operation.fields)


def _coerced_variables(operation: ParsedOperation, request: GraphQLRequest) -> VariableValues:
    """Raises RequestError with all errors of the variables."""
    values = operation.variables.bind(request.variables)
    if isinstance(values, list):
        raise RequestError(values)
    return values
