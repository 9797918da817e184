"""Runs subscriptions: loads what their source selects at each event."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from graphql import GraphQLError

from gateway.access.caller import Caller
from gateway.changes.change_feed import ChangeFeed
from gateway.graphql.error_format import RequestError, format_error
from gateway.graphql.execution.request_binding import BoundSubscription, RequestBinder
from gateway.graphql.execution.responses import (
    compiled_response,
    error_at_root,
    errors_response,
    request_error_response,
    response,
)
from gateway.graphql.requests import GraphQLRequest, GraphQLResponse
from gateway.graphql.schema.subscriptions import SOURCES, Choose, Listening, MissedChanges, Step
from gateway.operations.service import Operations
from gateway.reads.context import Context
from gateway.store.database import Database, Transaction
from gateway.store.retry import read_with_retry

_LOADED_AT_ONCE = 500  # messages whose rows are loaded by the same statements
_RETRY_SECONDS = 60.0  # for which the reads of a started subscription are retried; before that, errors end it at once


class SubscriptionRunner:
    """Runs subscriptions."""

    def __init__(self, database: Database, operations: Operations, feed: ChangeFeed, binder: RequestBinder) -> None:
        self._database = database
        self._operations = operations
        self._feed = feed
        self._binder = binder

    async def run(self, request: GraphQLRequest, caller: Caller) -> AsyncIterator[GraphQLResponse]:
        """The responses of a subscription. If the first is a request error, it is also the last."""
        try:
            subscription = self._binder.bind_subscription(request)
        except (RequestError, GraphQLError) as error:
            yield request_error_response(error)
            return
        field, cost_extensions = subscription.field, subscription.extensions
        after = request.extensions.get("lastEventId")
        source = SOURCES[field.name](self._feed, self._database, caller, subscription.arguments, after)
        has_sent, retry_seconds = False, 0.0
        try:
            async for choose in source:
                if isinstance(choose, Listening):
                    yield GraphQLResponse(b"", ran=True, event=choose.event)
                    retry_seconds = _RETRY_SECONDS
                    continue
                step, values = await read_with_retry(
                    self._database, self._loader(subscription, caller, choose), retry_seconds
                )
                retry_seconds = _RETRY_SECONDS
                events: Sequence[str | None] = step.events or [None] * len(values)
                for value, event in zip(values, events, strict=True):
                    has_sent = True
                    extensions = cost_extensions if event is None else {**(cost_extensions or {}), "eventId": event}
                    yield compiled_response([field], value, extensions, event=event)
                if step.last:
                    return
        except Exception as error:  # noqa: BLE001 - reported or masked and logged like any other field error
            located = error_at_root(error, field)
            event = "" if isinstance(error, MissedChanges) else None
            if has_sent:
                yield response(None, [located], None, event=event)
            else:
                yield errors_response([format_error(located)], event=event)
        finally:
            await source.aclose()  # type: ignore[attr-defined]

    def _loader(
        self, subscription: BoundSubscription, caller: Caller, choose: Choose
    ) -> Callable[[Transaction], Awaitable[tuple[Step, list[Any]]]]:
        """The work that chooses the messages of a step and loads their values, in one transaction."""

        async def load(transaction: Transaction) -> tuple[Step, list[Any]]:
            step: Step = await choose(transaction)
            plan = subscription.plan
            context = Context(transaction, plan.dialect, caller, self._operations.matrices, subscription.bound)
            values: list[Any] = []
            for start in range(0, len(step.given), _LOADED_AT_ONCE):
                given = step.given[start : start + _LOADED_AT_ONCE]
                values += await plan.load(context, subscription.variables, given)
            return step, values

        return load
