"""Looks on while others work: requests, drivers and operations are counted and timed, and slow requests are logged."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.access.caller import Caller
from gateway.access.origin import RequestOrigin
from gateway.drivers.base import (
    Canceled,
    CreateCommand,
    DeleteCommand,
    Driver,
    DriverCommand,
    Matrix,
    Recovery,
    ReportedMachine,
    ReportedSnapshot,
    ReportedSnapshots,
    RevertCommand,
    Work,
)
from gateway.errors import GatewayError
from gateway.graphql.execution.executor import GraphQLExecutor
from gateway.graphql.requests import Answer, GraphQLRequest, OperationKind
from gateway.models import MachineKind
from gateway.operations.claims import Claim
from gateway.telemetry.metrics import Measures
from gateway.telemetry.spans import Spans

log = logging.getLogger(__name__)

T = TypeVar("T")

_MOST_NAMES = 200  # of operations that are told apart
_FAILED = b'{"errors":'  # how an answer with errors begins
_LOOP = 0.25  # seconds between two looks at the loop


class ObservedExecutor:
    """An `Executor` that counts and times what another one does for a transport."""

    def __init__(self, executor: GraphQLExecutor, transport: str, measures: Measures, slow: float) -> None:
        self._executor = executor
        self._documents = executor.documents
        self._transport = transport
        self._requests = measures.requests
        self._duration = measures.duration
        self._slow = slow

    async def execute(
        self, request: GraphQLRequest, caller: Caller, origin: RequestOrigin, *, queries_only: bool = False
    ) -> Answer:
        begun = time.perf_counter()
        answer = await self._executor.execute(request, caller, origin, queries_only=queries_only)
        took = time.perf_counter() - begun
        kind, name = self._documents.label(request)
        outcome = "refused" if not answer.ran else "error" if answer.body.startswith(_FAILED) else "ok"
        self._requests.add((self._transport, kind, outcome))
        if (name,) not in self._duration and len(self._duration) >= _MOST_NAMES:
            name = "other"
        self._duration.observe((name,), took)
        if took > self._slow:
            log.warning("a %s took %.1f seconds: %s", kind, took, name)
        return answer

    def subscribe(self, request: GraphQLRequest, caller: Caller) -> AsyncIterator[Answer]:
        """Counted as begun."""
        self._requests.add((self._transport, "subscription", "ok"))
        return self._executor.subscribe(request, caller)

    def kind(self, request: GraphQLRequest) -> OperationKind | None:
        return self._executor.kind(request)


class ObservedRest:
    """Middleware of the REST routes."""

    def __init__(self, app: ASGIApp, measures: Measures) -> None:
        self._app = app
        self._measures = measures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = time.perf_counter()

        async def send_and_count(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._measures.requests.add(("rest", _kind(scope["method"]), _outcome(message["status"])))
                self._measures.duration.observe(("REST",), time.perf_counter() - begun)
            await send(message)

        await self._app(scope, receive, send_and_count)


class LoggedRequests:
    """Middleware that logs every request: its path, never what it asks."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = time.perf_counter()
        status = 0

        async def send_and_see(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, send_and_see)
        finally:
            took = (time.perf_counter() - begun) * 1_000
            method = scope.get("method", "WEBSOCKET")
            log.info("%s %s %s in %.1f ms", method, ascii(scope["path"])[1:-1], status or "-", took)


def _kind(method: str) -> str:
    return "query" if method in ("GET", "HEAD", "OPTIONS") else "mutation"


def _outcome(status: int) -> str:
    return "ok" if status < 400 else "refused" if status < 500 else "error"


class ObservedDriver(Driver):
    """Times every call of a provider."""

    def __init__(self, provider: str, driver: Driver, measures: Measures, spans: Spans) -> None:
        self.name = driver.name
        self._provider = provider
        self._driver = driver
        self._measures = measures
        self._spans = spans

    def matrix(self, kind: MachineKind) -> Matrix:
        return self._driver.matrix(kind)

    async def machines(self) -> Sequence[ReportedMachine]:
        return await self._call("machines", self._driver.machines())

    def hints(self) -> AsyncIterator[str] | None:
        return self._driver.hints()

    async def machine(self, machine_ref: str) -> ReportedMachine:
        return await self._call("machine", self._driver.machine(machine_ref))

    async def snapshots(self, machine_ref: str) -> ReportedSnapshots:
        return await self._call("snapshots", self._driver.snapshots(machine_ref))

    async def create(self, work: Work, wish: CreateCommand) -> ReportedSnapshot:
        return await self._call("create", self._driver.create(work, wish))

    async def revert(self, work: Work, wish: RevertCommand) -> None:
        await self._call("revert", self._driver.revert(work, wish))

    async def delete(self, work: Work, wish: DeleteCommand) -> None:
        await self._call("delete", self._driver.delete(work, wish))

    async def recover(self, work: Work, wish: DriverCommand) -> ReportedSnapshot | Recovery:
        return await self._call("recover", self._driver.recover(work, wish))

    async def health(self) -> None:
        await self._call("health", self._driver.health())

    async def close(self) -> None:
        await self._driver.close()

    async def _call(self, call: str, answer: Awaitable[T]) -> T:
        begun = time.perf_counter()
        try:
            with self._spans.call(self._provider, call):
                return await answer
        except (Exception, asyncio.CancelledError) as error:
            self._measures.driver_errors.add((self._provider, call, _code(error)))
            raise
        finally:
            self._measures.driver_seconds.observe((self._provider, call), time.perf_counter() - begun)


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
def observed_work(measures: Measures, spans: Spans, claim: Claim) -> Iterator[None]:
    """Around the work on an operation."""
    try:
        with spans.operation(claim):
            yield
    finally:
        if claim.ended_as is not None:
            measures.finished.add((claim.row.kind, claim.ended_as))


async def watch_loop(measures: Measures) -> None:
    """Measures how late this loop is, until it is cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _LOOP
        await asyncio.sleep(_LOOP)
        measures.loop_lag.observe((), max(0.0, loop.time() - due))
