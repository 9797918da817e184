"""Runs subscriptions: loads what their source selects at each event.

A change often concerns many subscriptions, which must not delay requests. So each subscription takes a turn on the
event loop (`http.load_shedding`) before it reads and before each message, and what is equal is loaded once
(`shared_loads`).
"""

from collections.abc import AsyncIterator, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import orjson
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
from gateway.graphql.execution.shared_loads import SharedLoads
from gateway.graphql.requests import GraphQLRequest, GraphQLResponse
from gateway.graphql.schema.subscriptions import SOURCES, Choose, Listening, MissedChanges, Step
from gateway.http.load_shedding import LoopTurns
from gateway.operations.service import Operations
from gateway.reads.context import Context
from gateway.store.database import Database, Transaction
from gateway.store.retry import read_with_retry

_LOADED_AT_ONCE = 500  # messages whose rows are loaded by the same statements
_RETRY_SECONDS = 60.0  # for which the reads of a started subscription are retried; before that, errors end it at once


class _Loaded(NamedTuple):
    """A step, and the responses that it sends."""

    step: Step
    responses: Sequence[GraphQLResponse]


class SubscriptionRunner:
    """Runs subscriptions."""

    def __init__(
        self, database: Database, operations: Operations, feed: ChangeFeed, binder: RequestBinder, turns: LoopTurns
    ) -> None:
        self._database = database
        self._operations = operations
        self._feed = feed
        self._binder = binder
        self._turns = turns
        self._shared = SharedLoads[_Loaded]()

    async def run(self, request: GraphQLRequest, caller: Caller) -> AsyncIterator[GraphQLResponse]:
        """The responses of a subscription. If the first is a request error, it is also the last."""
        try:
            subscription = await self._binder.bind_subscription(request)
        except (RequestError, GraphQLError) as error:
            yield request_error_response(error)
            return
        field = subscription.field
        after = request.extensions.get("lastEventId")
        source = SOURCES[field.name](self._feed, self._database, caller, subscription.arguments, after)
        has_sent, retry_seconds, step = False, 0.0, None
        try:
            with self._shared.member(_group(request, caller, subscription.extensions)) as shared:
                while True:
                    choice = await source.asend(step)
                    step = None
                    if isinstance(choice, Listening):
                        yield GraphQLResponse(b"", ran=True, event=choice.event)
                        retry_seconds = _RETRY_SECONDS
                        continue
                    await self._turns.take()
                    load = partial(self._load, subscription, caller, choice.choose, retry_seconds)
                    step, responses = await shared.load(choice.key, load)
                    retry_seconds = _RETRY_SECONDS
                    for message in responses:
                        await self._turns.take()
                        has_sent = True
                        yield message
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
            await source.aclose()

    async def _load(
        self, subscription: BoundSubscription, caller: Caller, choose: Choose, retry_seconds: float
    ) -> _Loaded:
        """Chooses the messages of a step and loads their values, in one transaction."""

        async def load(transaction: Transaction) -> tuple[Step, list[Any]]:
            step: Step = await choose(transaction)
            plan = subscription.plan
            context = Context(transaction, plan.dialect, caller, self._operations.matrices, subscription.bound)
            values: list[Any] = []
            for start in range(0, len(step.given), _LOADED_AT_ONCE):
                given = step.given[start : start + _LOADED_AT_ONCE]
                values += await plan.load(context, subscription.variables, given)
            return step, values

        step, values = await read_with_retry(self._database, load, retry_seconds)
        events: Sequence[str | None] = step.events or [None] * len(values)
        return _Loaded(
            step, [_message(subscription, value, event) for value, event in zip(values, events, strict=True)]
        )


def _message(subscription: BoundSubscription, value: dict[str, Any], event: str | None) -> GraphQLResponse:
    extensions = subscription.extensions
    if event is not None:
        extensions = {**(extensions or {}), "eventId": event}
    return compiled_response([subscription.field], value, extensions, event=event)


def _group(request: GraphQLRequest, caller: Caller, extensions: Mapping[str, Any] | None) -> Hashable:
    """Equal for subscriptions whose messages about the same changes are equal: those with the same document, variables
    and extensions, of callers with the same rights.
    """
    try:
        variables = orjson.dumps((request.variables, extensions), option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:  # nested too deeply
        return object()
    rights = caller.tenant, caller.rights, caller.administers
    return request.query, request.document_id, request.operation_name, variables, rights
