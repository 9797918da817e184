"""The points at which the gateway can be traced. Here they do nothing; `tracing` implements them with OpenTelemetry."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from starlette.middleware import Middleware

from gateway.graphql.execution.documents import DocumentCache
from gateway.graphql.requests import Executor
from gateway.operations.claims import Claim
from gateway.operations.commands.base import Outcome
from gateway.store.database import Database


class TracingHooks:
    """The hooks while tracing is disabled: each returns its argument or does nothing."""

    def middleware(self) -> list[Middleware]:
        """Return the middleware to install before all other."""
        return []

    def wrap_executor(self, executor: Executor, documents: DocumentCache) -> Executor:
        """Return an executor that traces what it executes."""
        return executor

    def wrap_database(self, database: Database) -> Database:
        """Return a database that traces its transactions and statements."""
        return database

    def record_accepted(self, outcomes: Sequence[Outcome]) -> None:
        """Record that the current request has created these operations."""

    def operation_span(self, claim: Claim) -> AbstractContextManager[object]:
        """Return the span of the execution of an operation."""
        return nullcontext()

    def driver_call_span(self, provider: str, call: str) -> AbstractContextManager[object]:
        """Return the span of one driver call."""
        return nullcontext()
