"""OpenTelemetry tracing: spans for requests, GraphQL operations, transactions, statements and driver calls.

Imported only if tracing is enabled. The wrappers are installed once at startup, so disabled tracing costs nothing.
Spans contain statements with placeholders, never the values of parameters or GraphQL variables.
"""

import asyncio
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
from gateway.bounded_cache import BoundedCache
from gateway.graphql.execution.documents import DocumentCache
from gateway.graphql.requests import Executor, GraphQLRequest, GraphQLResponse, OperationType
from gateway.http_client.urllib3_limits import limit_urllib3
from gateway.operations.claims import Claim
from gateway.operations.commands.base import Outcome
from gateway.store.database import Database, Load, Transaction, Work
from gateway.store.statements import Query, Row, Statement
from gateway.telemetry.tracing_hooks import TracingHooks

T = TypeVar("T")

limit_urllib3()  # of the exporter

_EXPORT_TIMEOUT = 5.0  # seconds; spans that the collector has not accepted by then are dropped
_MAX_SQL_LENGTH = 4_000  # characters of a statement in a span
_MAX_REQUEST_SPANS = 10_000  # operations that are linked with their request; the oldest are dropped


@asynccontextmanager
async def open_exporter(endpoint: str) -> AsyncIterator["OpenTelemetryHooks"]:
    """Yield hooks whose spans are sent to `endpoint` by OTLP over HTTP. The SDK reads its own OTEL_… variables."""
    exporter = OTLPSpanExporter(f"{endpoint.rstrip('/')}/v1/traces", timeout=_EXPORT_TIMEOUT)
    provider = TracerProvider(resource=Resource.create({"service.name": "snapshot-gateway"}))
    provider.add_span_processor(BatchSpanProcessor(exporter))  # sends in its own thread from a bounded queue
    try:
        yield OpenTelemetryHooks(provider.get_tracer("gateway"))
    finally:
        await asyncio.to_thread(provider.shutdown)


class OpenTelemetryHooks(TracingHooks):
    """Hooks that create spans with an OpenTelemetry tracer."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._request_spans = BoundedCache[int, SpanContext](_MAX_REQUEST_SPANS)  # of the request, by operation id

    def middleware(self) -> list[Middleware]:
        return [Middleware(TracingMiddleware, self._tracer)]

    def wrap_executor(self, executor: Executor, documents: DocumentCache) -> Executor:
        return TracingExecutor(executor, documents, self._tracer)

    def wrap_database(self, database: Database) -> Database:
        return TracingDatabase(database, self._tracer)

    def record_accepted(self, outcomes: Sequence[Outcome]) -> None:
        span = get_current_span()
        ids = [outcome.operation_id for outcome in outcomes if outcome.operation_id is not None]
        if ids and span.is_recording():
            span.set_attribute("gateway.operations", [f"operation-{id}" for id in ids])
            for id in ids:
                self._request_spans.put(id, span.get_span_context())

    @contextmanager
    def operation_span(self, claim: Claim) -> Iterator[None]:
        """Start a separate trace, because the operation may run long after its request.

        The trace is linked with the span of the request if this process served it.
        """
        request_span = self._request_spans.pop(claim.row.id)
        links = [] if request_span is None else [Link(request_span)]
        attributes = {"gateway.operation": f"operation-{claim.row.id}", "gateway.provider": claim.row.provider}
        with _span(self._tracer, claim.row.kind, Context(), attributes=attributes, links=links) as span:
            yield
            if claim.final_state is not None:
                span.set_attribute("gateway.operation.state", claim.final_state)

    def driver_call_span(self, provider: str, call: str) -> AbstractContextManager[object]:
        return _span(self._tracer, f"{provider} {call}", kind=SpanKind.CLIENT)


# Exceptions are not recorded as span events, because their messages may contain values of rows.
def _span(tracer: Tracer, name: str, context: Context | None = None, **more: Any) -> AbstractContextManager[Span]:
    return tracer.start_as_current_span(name, context, record_exception=False, **more)


class TracingMiddleware:
    """Creates a span for each HTTP request, as a child of the span in its headers, if any (W3C Trace Context)."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        with _span(self._tracer, scope["method"], extract(headers), kind=SpanKind.SERVER) as span:
            span.set_attributes({"http.request.method": scope["method"], "url.path": scope["path"]})

            async def send_and_record(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    span.set_attribute("gateway.request_id", scope.get("state", {}).get("request_id", "-"))
                    if message["status"] >= 500:
                        span.set_status(Status(StatusCode.ERROR))
                await send(message)

            await self._app(scope, receive, send_and_record)


class TracingExecutor:
    """Creates a span for each query and mutation. Subscriptions have none, because they may never end."""

    def __init__(self, executor: Executor, documents: DocumentCache, tracer: Tracer) -> None:
        self._executor = executor
        self._documents = documents
        self._tracer = tracer

    async def execute(
        self, request: GraphQLRequest, caller: Caller, origin: RequestOrigin, *, queries_only: bool = False
    ) -> GraphQLResponse:
        with _span(self._tracer, "graphql") as span:
            response = await self._executor.execute(request, caller, origin, queries_only=queries_only)
            kind, name = self._documents.metric_labels(request)
            span.update_name(f"{kind} {name}")
            span.set_attributes({"graphql.operation.type": kind, "graphql.operation.name": name})
            if not response.ran:
                span.set_status(Status(StatusCode.ERROR, "refused"))
            return response

    def subscribe(self, request: GraphQLRequest, caller: Caller) -> AsyncIterator[GraphQLResponse]:
        return self._executor.subscribe(request, caller)

    async def kind(self, request: GraphQLRequest) -> OperationType | None:
        return await self._executor.kind(request)


# ---- statements


class TracingDatabase:
    """Creates spans for transactions and statements inside a recorded span.

    The polling of background loops has no such span and is not traced.
    """

    def __init__(self, database: Database, tracer: Tracer) -> None:
        self.dialect = database.dialect
        self._database = database
        self._tracer = tracer

    @property
    def statement_count(self) -> int:
        return self._database.statement_count

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
        """Pass `span` to the statements explicitly, because `work` may run in another thread, without this context."""
        context = set_span_in_context(span)
        return lambda transaction: work(_TracingTransaction(transaction, self._tracer, context))

    async def listen(self, wake: Callable[[], None]) -> None:
        await self._database.listen(wake)

    async def close(self) -> None:
        await self._database.close()


class _TracingTransaction:
    def __init__(self, transaction: Transaction, tracer: Tracer, context: Context) -> None:
        self.dialect = transaction.dialect
        self._transaction = transaction
        self._tracer = tracer
        self._context = context

    @contextmanager
    def _span(self, sql: str) -> Iterator[None]:
        attributes = {"db.system.name": self.dialect, "db.query.text": sql[:_MAX_SQL_LENGTH]}
        name = sql.split(None, 1)[0]
        with _span(self._tracer, name, self._context, kind=SpanKind.CLIENT, attributes=attributes):
            yield

    def _sql(self, statement: Statement) -> str:
        return statement.compiled(self.dialect).sql

    async def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Sequence[Any]]:
        with self._span(sql):
            return await self._transaction.rows(sql, parameters)

    async def all(self, query: Query[Row], **values: Any) -> list[Row]:
        with self._span(self._sql(query)):
            return await self._transaction.all(query, **values)

    async def first(self, query: Query[Row], **values: Any) -> Row | None:
        with self._span(self._sql(query)):
            return await self._transaction.first(query, **values)

    async def run(self, statement: Statement, **values: Any) -> int:
        with self._span(self._sql(statement)):
            return await self._transaction.run(statement, **values)

    async def run_many(self, sql: str, parameters: Sequence[Sequence[Any]]) -> None:
        with self._span(sql):
            await self._transaction.run_many(sql, parameters)

    async def pause(self, ahead: float = 0.0) -> None:
        await self._transaction.pause(ahead)
