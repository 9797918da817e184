"""Measures requests, driver calls and operations, and logs slow requests, with wrappers around the measured parts."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import TypeVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.access.caller import Caller
from gateway.access.origin import RequestOrigin
from gateway.drivers.base import (
    Canceled,
    Driver,
    DriverCommand,
    Matrix,
    RecoverableCommand,
    Recovery,
    ReportedMachine,
    ReportedSnapshot,
    ReportedSnapshots,
    Work,
)
from gateway.errors import GatewayError
from gateway.graphql.execution.executor import GraphQLExecutor
from gateway.graphql.requests import GraphQLRequest, GraphQLResponse, OperationType
from gateway.models import MachineKind
from gateway.operations.claims import Claim
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.tracing_hooks import TracingHooks

log = logging.getLogger(__name__)

T = TypeVar("T")

_MAX_OPERATION_NAMES = 200  # label values for names of GraphQL operations, which clients choose
_ERROR_PREFIX = b'{"errors":'  # the start of a response with errors at its top level
_LAG_INTERVAL = 0.25  # seconds between two measurements of the event loop


class InstrumentedExecutor:
    """An `Executor` that counts and times the requests of one transport, and logs those slower than `slow` seconds."""

    def __init__(self, executor: GraphQLExecutor, transport: str, metrics: Metrics, slow: float) -> None:
        self._executor = executor
        self._documents = executor.documents
        self._transport = transport
        self._requests = metrics.requests
        self._duration = metrics.duration
        self._slow = slow

    async def execute(
        self, request: GraphQLRequest, caller: Caller, origin: RequestOrigin, *, queries_only: bool = False
    ) -> GraphQLResponse:
        started = time.perf_counter()
        response = await self._executor.execute(request, caller, origin, queries_only=queries_only)
        took = time.perf_counter() - started
        kind, name = self._documents.metric_labels(request)
        outcome = "refused" if not response.ran else "error" if response.body.startswith(_ERROR_PREFIX) else "ok"
        self._requests.add((self._transport, kind, outcome))
        if (name,) not in self._duration and len(self._duration) >= _MAX_OPERATION_NAMES:
            name = "other"
        self._duration.observe((name,), took)
        if took > self._slow:
            log.warning("Slow GraphQL %s name=%s took %.1f s", kind, name, took)
        return response

    def subscribe(self, request: GraphQLRequest, caller: Caller) -> AsyncIterator[GraphQLResponse]:
        """Count the subscription when it starts. Its duration is not measured."""
        self._requests.add((self._transport, "subscription", "ok"))
        return self._executor.subscribe(request, caller)

    async def kind(self, request: GraphQLRequest) -> OperationType | None:
        return await self._executor.kind(request)


class InstrumentedRest:
    """Middleware that counts and times REST requests."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()

        async def send_and_count(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.add(("rest", _kind(scope["method"]), _outcome(message["status"])))
                self._metrics.duration.observe(("REST",), time.perf_counter() - started)
            await send(message)

        await self._app(scope, receive, send_and_count)


def count_shed(metrics: Metrics, scope: Scope) -> None:
    """Count a request that load shedding has rejected before it reached its API, as that API would have done."""
    status, segment = HTTPStatus.SERVICE_UNAVAILABLE.value, scope["path"].split("/")[1]
    if segment == "graphql":
        metrics.refused.add((str(status),))
    elif segment == "api":
        metrics.requests.add(("rest", _kind(scope["method"]), _outcome(status)))


class RequestLogMiddleware:
    """Middleware that logs the method, path, status and duration of every request, but no query string or body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        status = 0

        async def send_and_record_status(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, send_and_record_status)
        finally:
            took = (time.perf_counter() - started) * 1_000
            method = scope.get("method", "WEBSOCKET")
            log.info("%s %s %s in %.1f ms", method, ascii(scope["path"])[1:-1], status or "-", took)


def _kind(method: str) -> str:
    return "query" if method in ("GET", "HEAD", "OPTIONS") else "mutation"


def _outcome(status: int) -> str:
    return "ok" if status < 400 else "refused" if status < 500 else "error"


class InstrumentedDriver(Driver):
    """A wrapper that times the calls of a driver and counts those that failed."""

    def __init__(self, provider: str, driver: Driver, metrics: Metrics, tracing: TracingHooks) -> None:
        self.name = driver.name
        self._provider = provider
        self._driver = driver
        self._metrics = metrics
        self._tracing = tracing

    def matrix(self, kind: MachineKind) -> Matrix:
        return self._driver.matrix(kind)

    async def machines(self) -> Sequence[ReportedMachine]:
        return await self._call("machines", self._driver.machines())

    def change_hints(self) -> AsyncIterator[str] | None:
        return self._driver.change_hints()

    async def machine(self, machine_ref: str) -> ReportedMachine:
        return await self._call("machine", self._driver.machine(machine_ref))

    async def snapshots(self, machine_ref: str) -> ReportedSnapshots:
        return await self._call("snapshots", self._driver.snapshots(machine_ref))

    async def run(self, work: Work, command: DriverCommand) -> ReportedSnapshot | None:
        return await self._call(command.call, self._driver.run(work, command))

    async def recover(self, work: Work, command: RecoverableCommand) -> ReportedSnapshot | Recovery:
        return await self._call("recover", self._driver.recover(work, command))

    async def health(self) -> None:
        await self._call("health", self._driver.health())

    async def close(self) -> None:
        await self._driver.close()

    async def _call(self, call: str, result: Awaitable[T]) -> T:
        started = time.perf_counter()
        try:
            with self._tracing.driver_call_span(self._provider, call):
                return await result
        except (Exception, asyncio.CancelledError) as error:
            self._metrics.driver_errors.add((self._provider, call, _code(error)))
            raise
        finally:
            self._metrics.driver_seconds.observe((self._provider, call), time.perf_counter() - started)


def _code(error: BaseException) -> str:
    match error:
        case GatewayError():
            return error.code
        case Canceled():
            return "CANCELED"
        case asyncio.CancelledError():
            return "GIVEN_UP"
    return "INTERNAL"


@contextmanager
def instrumented_operation(metrics: Metrics, tracing: TracingHooks, claim: Claim) -> Iterator[None]:
    """Trace the execution of an operation and count its final state."""
    try:
        with tracing.operation_span(claim):
            yield
    finally:
        if claim.final_state is not None:
            metrics.finished.add((claim.row.kind, claim.final_state))


async def measure_loop_lag(metrics: Metrics) -> None:
    """Measure the delay of the event loop until the task is canceled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _LAG_INTERVAL
        await asyncio.sleep(_LAG_INTERVAL)
        metrics.loop_lag.observe((), max(0.0, loop.time() - due))
