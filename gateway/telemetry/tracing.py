"""OpenTelemetry traces: a span for each request, and in it for what is run, each statement, each call of a provider.

Loaded only when somebody wants traces. What wraps is put around the parts once, so nothing is asked when it is off.
Statements are told as they are sent, with placeholders for every value; variables are not.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any, TypeVar

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    get_current_span,
    set_span_in_context,
)
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.access.caller import Caller
from gateway.access.origin import RequestOrigin
from gateway.graphql.execution.documents import Documents
from gateway.graphql.requests import Answer, Executor, GraphQLRequest, OperationKind
from gateway.operations.claims import Claim
from gateway.operations.service import Outcome
from gateway.store.database import Database, Load, Transaction, Work
from gateway.store.statements import Statement
from gateway.telemetry.spans import Spans

T = TypeVar("T")

_EXPORT_SECONDS = 5.0  # that a collector may take; spans that it does not take are dropped
_LONGEST_SQL = 4_000
_ORIGINS = 10_000  # operations whose requests are remembered


@asynccontextmanager
async def traced(endpoint: str) -> AsyncIterator["Tracing"]:
    """What makes spans that are sent to `endpoint` by OTLP over HTTP. OTEL_… variables of the SDK are heeded."""
    exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=_EXPORT_SECONDS)
    provider = TracerProvider(resource=Resource.create({"service.name": "snapshot-gateway"}))
    provider.add_span_processor(BatchSpanProcessor(exporter))  # its queue is bounded, and its own thread sends
    try:
        yield Tracing(provider.get_tracer("gateway"))
    finally:
        await asyncio.to_thread(provider.shutdown)


class Tracing(Spans):
    """Spans, as the tracer makes them."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._origins: OrderedDict[int, SpanContext] = OrderedDict()  # by operation, the request that asked for it

    def middleware(self) -> list[Middleware]:
        return [Middleware(TracedRequests, self._tracer)]

    def executor(self, executor: Executor, documents: Documents) -> Executor:
        return TracedExecutor(executor, documents, self._tracer)

    def database(self, database: Database) -> Database:
        return TracedDatabase(database, self._tracer)

    def accepted(self, outcomes: Sequence[Outcome]) -> None:
        span = get_current_span()
        ids = [outcome.operation_id for outcome in outcomes if outcome.operation_id is not None]
        if ids and span.is_recording():
            span.set_attribute("gateway.operations", [f"operation-{id}" for id in ids])
            self._origins.update((id, span.get_span_context()) for id in ids)
            while len(self._origins) > _ORIGINS:
                self._origins.popitem(last=False)

    @contextmanager
    def operation(self, claim: Claim) -> Iterator[None]:
        """A trace of its own, for it may come long after its request; linked with that if it came to this process."""
        origin = self._origins.pop(claim.row.id, None)
        links = [] if origin is None else [Link(origin)]
        attributes = {"gateway.operation": f"operation-{claim.row.id}", "gateway.provider": claim.row.provider}
        with _span(self._tracer, claim.row.kind, Context(), attributes=attributes, links=links) as span:
            yield
            if claim.ended_as is not None:
                span.set_attribute("gateway.operation.state", claim.ended_as)

    def call(self, provider: str, call: str) -> AbstractContextManager[object]:
        return _span(self._tracer, f"{provider} {call}", kind=SpanKind.CLIENT)


# What an exception says may hold values of rows, so its class has to do.
def _span(tracer: Tracer, name: str, context: Context | None = None, **more: Any) -> AbstractContextManager[Span]:
    return tracer.start_as_current_span(name, context, record_exception=False, **more)


class TracedRequests:
    """Middleware: a span for each HTTP request, below the caller's own (W3C Trace Context)."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        with _span(self._tracer, scope["method"], extract(sent), kind=SpanKind.SERVER) as span:
            span.set_attributes({"http.request.method": scope["method"], "url.path": scope["path"]})

            async def send_and_tell(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    span.set_attribute("gateway.request_id", scope.get("state", {}).get("request_id", "-"))
                    if message["status"] >= 500:
                        span.set_status(Status(StatusCode.ERROR))
                await send(message)

            await self._app(scope, receive, send_and_tell)


class TracedExecutor:
    """An `Executor` with a span for each query and mutation. Streams have none: they have no end to wait for."""

    def __init__(self, executor: Executor, documents: Documents, tracer: Tracer) -> None:
        self._executor = executor
        self._documents = documents
        self._tracer = tracer

    async def execute(
        self, request: GraphQLRequest, caller: Caller, origin: RequestOrigin, *, queries_only: bool = False
    ) -> Answer:
        with _span(self._tracer, "graphql") as span:
            answer = await self._executor.execute(request, caller, origin, queries_only=queries_only)
            kind, name = self._documents.label(request)
            span.update_name(f"{kind} {name}")
            span.set_attributes({"graphql.operation.type": kind, "graphql.operation.name": name})
            if not answer.ran:
                span.set_status(Status(StatusCode.ERROR, "refused"))
            return answer

    def subscribe(self, request: GraphQLRequest, caller: Caller) -> AsyncIterator[Answer]:
        return self._executor.subscribe(request, caller)

    def kind(self, request: GraphQLRequest) -> OperationKind | None:
        return self._executor.kind(request)


# ---- statements


class TracedDatabase:
    """A `Database` whose work has spans, where there is one that it belongs to: loops that only look have none."""

    def __init__(self, database: Database, tracer: Tracer) -> None:
        self.dialect = database.dialect
        self._database = database
        self._tracer = tracer

    @property
    def statements(self) -> int:
        return self._database.statements

    @property
    def load(self) -> Mapping[str, Load]:
        return self._database.load

    async def read(self, work: Work[T], *, single: bool = False) -> T:
        if not get_current_span().is_recording():
            return await self._database.read(work, single=single)
        with _span(self._tracer, "read") as span:
            return await self._database.read(self._within(span, work), single=single)

    async def write(self, work: Work[T]) -> T:
        if not get_current_span().is_recording():
            return await self._database.write(work)
        with _span(self._tracer, "write") as span:
            return await self._database.write(self._within(span, work))

    def _within(self, span: Span, work: Work[T]) -> Work[T]:
        """The work may be done in another thread, which knows of no span."""
        context = set_span_in_context(span)
        return lambda transaction: work(_TracedTransaction(transaction, self._tracer, context))

    async def listen(self, wake: Callable[[], None]) -> None:
        await self._database.listen(wake)

    async def close(self) -> None:
        await self._database.close()


class _TracedTransaction:
    def __init__(self, transaction: Transaction, tracer: Tracer, context: Context) -> None:
        self.dialect = transaction.dialect
        self._transaction = transaction
        self._tracer = tracer
        self._context = context

    @contextmanager
    def _span(self, sql: str) -> Iterator[None]:
        attributes = {"db.system.name": self.dialect, "db.query.text": sql[:_LONGEST_SQL]}
        name = sql.split(None, 1)[0]
        with _span(self._tracer, name, self._context, kind=SpanKind.CLIENT, attributes=attributes):
            yield

    def _sql(self, statement: Statement) -> str:
        return statement.compiled(self.dialect).sql

    async def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Sequence[Any]]:
        with self._span(sql):
            return await self._transaction.rows(sql, parameters)

    async def all(self, statement: Statement, **values: Any) -> list[Any]:
        with self._span(self._sql(statement)):
            return await self._transaction.all(statement, **values)

    async def first(self, statement: Statement, **values: Any) -> Any:
        with self._span(self._sql(statement)):
            return await self._transaction.first(statement, **values)

    async def run(self, statement: Statement, **values: Any) -> int:
        with self._span(self._sql(statement)):
            return await self._transaction.run(statement, **values)

    async def run_many(self, sql: str, parameters: Sequence[Sequence[Any]]) -> None:
        with self._span(sql):
            await self._transaction.run_many(sql, parameters)
