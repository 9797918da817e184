"""A small schema for testing the transports without the gateway's own schema and database."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

import orjson
from graphql import (
    DocumentNode,
    ExecutionResult,
    GraphQLError,
    GraphQLSchema,
    build_schema,
    execute,
    get_operation_ast,
    parse,
    subscribe,
    validate,
)
from starlette.types import Scope

from gateway.access.caller import Caller, local_caller
from gateway.access.origin import RequestOrigin
from gateway.errors import Forbidden, Unauthenticated, Unavailable
from gateway.graphql.requests import GraphQLRequest, GraphQLResponse, OperationType
from tests.waiting import at_most

SDL = """
type Query { hello(name: String = "world"): String!  wait: String  bug: String }
type Mutation { touch: Int!  slowTouch: Int! }
type Subscription { count(to: Int!): Int!  never: Int!  flood(size: Int!): String!  failing: Int! }
"""


class World:
    """The executor of the tests, with its observable state.

    `touched` counts completed mutations, `opened` those that have started, `closed` closed endless subscriptions.
    Resolvers that block wait for `released`.
    """

    def __init__(self) -> None:
        self.touched = 0
        self.opened = 0
        self.closed = asyncio.Semaphore(0)
        self.released = asyncio.Event()
        self.schema = _schema(self)

    async def execute(
        self, request: GraphQLRequest, caller: Caller, origin: RequestOrigin, *, queries_only: bool = False
    ) -> GraphQLResponse:
        if "bug" in request.query:
            raise RuntimeError("secret at /etc/passwd")
        if queries_only and await self.kind(request) in {"mutation", "subscription"}:
            return GraphQLResponse(
                _errors("Only queries can be sent by GET.", "BAD_USER_INPUT"), ran=False, method_not_allowed=True
            )
        document = self._prepare(request)
        if isinstance(document, GraphQLResponse):
            return document
        result = execute(
            self.schema, document, variable_values=request.variables, operation_name=request.operation_name
        )
        if not isinstance(result, ExecutionResult):
            result = await result
        return _response(result)

    async def subscribe(self, request: GraphQLRequest, caller: Caller) -> AsyncIterator[GraphQLResponse]:
        document = self._prepare(request)
        if isinstance(document, GraphQLResponse):
            yield document
            return
        results = subscribe(
            self.schema, document, variable_values=request.variables, operation_name=request.operation_name
        )
        if not isinstance(results, AsyncIterator | ExecutionResult):
            results = await results
        if isinstance(results, ExecutionResult):
            yield _response(results)
            return
        async with aclosing(results) as stream:  # type: ignore[type-var]
            async for result in stream:
                if result.errors and "failing" in request.query:
                    raise RuntimeError("secret at /etc/passwd")
                yield _response(result)

    async def kind(self, request: GraphQLRequest) -> OperationType | None:
        try:
            operation = get_operation_ast(parse(request.query), request.operation_name)
        except GraphQLError:
            return None
        return operation.operation.value if operation else None

    def _prepare(self, request: GraphQLRequest) -> DocumentNode | GraphQLResponse:
        try:
            document = parse(request.query)
        except GraphQLError as error:
            return GraphQLResponse(_errors(error.message, "GRAPHQL_PARSE_FAILED"), ran=False)
        if errors := validate(self.schema, document):
            return GraphQLResponse(_errors(errors[0].message, "GRAPHQL_VALIDATION_FAILED"), ran=False)
        return document


async def authenticate(scope: Scope, payload: Mapping[str, Any]) -> Caller:
    """Accepts all callers, except for the credentials `wrong` (401), `banned` (403), `waiting` (503) and `failing`."""
    credentials = payload.get("authorization") or dict(scope["headers"]).get(b"authorization", b"").decode()
    if credentials == "wrong":
        raise Unauthenticated("The token is not valid.")
    if credentials == "banned":
        raise Forbidden("Access is denied.")
    if credentials == "failing":
        raise ValueError("a bug")
    if credentials == "waiting":
        raise Unavailable("The database cannot be reached.")
    return local_caller("default")


def _schema(world: World) -> GraphQLSchema:
    schema = build_schema(SDL)
    _resolve(schema, "Query", hello=lambda _, __, name: f"hello {name}", wait=_blocking_query(world))
    _resolve(schema, "Mutation", touch=_mutation(world), slowTouch=_blocking_mutation(world))
    streams = {"count": _count, "never": _never(world), "flood": _flood(world), "failing": _failing}
    _resolve(schema, "Subscription", **dict.fromkeys(streams, lambda value, *_, **__: value))
    for name, source in streams.items():
        schema.type_map["Subscription"].fields[name].subscribe = source  # type: ignore[attr-defined]
    return schema


def _blocking_query(world: World) -> Any:
    async def wait(*_: Any) -> str:
        await world.released.wait()
        return "released"

    return wait


def _mutation(world: World) -> Any:
    def touch(*_: Any) -> int:
        world.touched += 1
        return world.touched

    return touch


def _blocking_mutation(world: World) -> Any:
    async def slow_touch(*_: Any) -> int:
        world.opened += 1
        await world.released.wait()
        world.touched += 1
        return world.touched

    return slow_touch


async def _count(_: Any, __: Any, to: int) -> AsyncIterator[int]:
    for number in range(1, to + 1):
        yield number


def _never(world: World) -> Any:
    async def never(*_: Any) -> AsyncIterator[int]:
        try:
            await asyncio.get_running_loop().create_future()
            yield 0
        finally:
            world.closed.release()

    return never


def _flood(world: World) -> Any:
    async def flood(_: Any, __: Any, size: int) -> AsyncIterator[str]:
        try:
            for _ in at_most(100_000):
                yield "x" * size
        finally:
            world.closed.release()

    return flood


async def _failing(*_: Any) -> AsyncIterator[int]:
    yield 1
    raise RuntimeError("secret at /etc/passwd")


def _resolve(schema: GraphQLSchema, type_name: str, **resolvers: Any) -> None:
    for name, resolver in resolvers.items():
        schema.type_map[type_name].fields[name].resolve = resolver  # type: ignore[attr-defined]


def _response(result: ExecutionResult) -> GraphQLResponse:
    if result.data is None and result.errors and all(error.path is None for error in result.errors):
        return GraphQLResponse(_errors(result.errors[0].message, "BAD_USER_INPUT"), ran=False)
    return GraphQLResponse(orjson.dumps(result.formatted), ran=True)


def _errors(message: str, code: str) -> bytes:
    return orjson.dumps({"errors": [{"message": message, "extensions": {"code": code}}]})
