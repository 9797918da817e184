"""What traces are made with, where nobody wants any: everything stays as it is. `tracing` does the same and more."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from starlette.middleware import Middleware

from gateway.graphql.execution.documents import Documents
from gateway.graphql.requests import Executor
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
