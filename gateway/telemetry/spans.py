"""What traces are made with, where nobody wants any: everything stays as it is. `tracing` does the same and more."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from importlib import import_module

from starlette.middleware import Middleware

from gateway.api.documents import Documents
from gateway.api.requests import Executor
from gateway.config import Settings
from gateway.errors import StartupError
from gateway.operations.claims import Claim
from gateway.operations.service import Outcome
from gateway.store.database import Database


class Spans:
    """No traces."""

    def middleware(self) -> list[Middleware]:
        """What every request passes first."""
        return []

    def executor(self, executor: Executor, documents: Documents) -> Executor:
        """The executor, looked at."""
        return executor

    def database(self, database: Database) -> Database:
        """The database, looked at."""
        return database

    def accepted(self, outcomes: Sequence[Outcome]) -> None:
        """The present request has asked for these."""

    def operation(self, claim: Claim) -> AbstractContextManager[object]:
        """Around the work on an operation."""
        return nullcontext()

    def call(self, provider: str, call: str) -> AbstractContextManager[object]:
        """Around one call of a provider."""
        return nullcontext()


@asynccontextmanager
async def opened_spans(settings: Settings) -> AsyncIterator[Spans]:
    """Traces, if they are wanted: their libraries are an extra, and loaded only then. Raises StartupError."""
    if not settings.traces_endpoint:
        yield Spans()
        return
    try:
        tracing = import_module("gateway.telemetry.tracing")
    except ImportError:
        raise StartupError("traces need the extra: pip install 'snapshot-gateway[telemetry]'") from None
    async with tracing.traced(settings.traces_endpoint) as spans:
        yield spans
