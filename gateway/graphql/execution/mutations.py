"""Runs mutations: the handler of each root field, which commits, and then the read of its payload."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from gateway.access.caller import Caller
from gateway.access.origin import RequestOrigin
from gateway.errors import LimitExceeded, Unavailable, Unconfirmed
from gateway.fair_queue import CLAIM
from gateway.graphql.execution.root_fields import BoundRootFields
from gateway.graphql.schema.mutations import HANDLERS, Input
from gateway.operations.service import Operations
from gateway.reads.context import Context
from gateway.store.database import Database, Transaction
from gateway.store.retry import read_with_retry

_PAYLOAD_RETRY_SECONDS = 5.0  # for which the read of a payload is retried while the database is unavailable

_PAYLOAD_LOST = (
    "The mutation was decided, but the database became unavailable before its payload could be read. Repeat the"
    " mutation with the same idempotency key, or check the machine before retrying."
)


@dataclass(frozen=True, slots=True)
class MutationRequest:
    """What a mutation field needs to run; the context value of graphql-core."""

    caller: Caller
    origin: RequestOrigin
    bound: BoundRootFields


class MutationRunner:
    """Runs the root fields of mutations."""

    def __init__(self, database: Database, operations: Operations) -> None:
        self._database = database
        self._operations = operations

    async def run(self, request: MutationRequest) -> dict[str, Any]:
        """The payload of each root field, or the exception that it raised. Stops after the first exception."""
        roots, variables, loads, values, _ = request.bound
        for root in roots:
            key = root.field.key
            if key in loads:
                try:
                    input_ = root.field.arguments(variables)["input"]
                    values[key] = await self.run_field(request, key, root.field.name, input_)
                except Exception as error:  # noqa: BLE001 - reported or masked and logged like any other field error
                    values[key] = error
            if isinstance(values[key], Exception):
                break  # all payloads are non-null, so the response has no data
        return values

    async def run_field(self, request: MutationRequest, key: str, name: str, input_: Input) -> Any:
        """Runs the handler of the mutation `name` and loads its payload, for the root field with this response key.

        Raises Unconfirmed if the payload cannot be loaded.
        """
        caller, bound = request.caller, request.bound
        plan, pages = bound.loads[key]
        payload = await HANDLERS[name](self._operations, caller, request.origin, input_)

        async def load(transaction: Transaction) -> Any:
            context = Context(transaction, plan.dialect, caller, self._operations.rules, pages)
            return (await plan.load(context, bound.variables, [payload]))[0]

        try:
            with _never_refused():
                return await read_with_retry(
                    self._database, load, _PAYLOAD_RETRY_SECONDS, single=plan.is_single_statement(pages)
                )
        except (Unavailable, LimitExceeded) as error:  # these are retryable, but a retry could repeat the mutation
            raise Unconfirmed(_PAYLOAD_LOST) from error


@contextmanager
def _never_refused() -> Iterator[None]:
    """Lets reads of the running task wait for a slot of the caller as streams do, without limit.

    The mutation is decided, so the caller must learn the outcome, however much of its share it uses by other reads.
    """
    claim = CLAIM.get()
    token = CLAIM.set(claim and claim._replace(stream=True))
    try:
        yield
    finally:
        CLAIM.reset(token)
