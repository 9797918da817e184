"""Runs subscriptions: loads what their source selects at each event.

A change often concerns many subscriptions, which must not delay requests. So each subscription takes a turn on the
event loop (`http.load_shedding`) before it reads and before each message, and what is equal is loaded once
(`shared_loads`).
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import orjson
from graphql import GraphQLError

from gateway.access.caller import Caller
from gateway.changes.change_feed import ChangeFeed
from gateway.errors import LimitExceeded
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
from gateway.reads.selection import Field
from gateway.reads.serialization import SLICE_BYTES
from gateway.store.database import Database, Transaction
from gateway.store.retry import read_with_retry

_OF_THE_CALLER = frozenset({"idempotencyKey"})  # fields whose value depends on who asks
_MAX_STEP = 500  # changes in one step, whose rows are loaded by the same statements
_STEP_COST = 20_000  # of the messages of one step, which are in memory together
# Characters of the documents and variables of all subscriptions of a caller. They stay in memory: one of a document
# that no other subscription has takes up to 150 bytes.
_MAX_HELD = 2_000_000
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
        self._held = Counter[str]()  # characters, by the key of the caller

    async def run(self, request: GraphQLRequest, caller: Caller) -> AsyncIterator[GraphQLResponse]:
        """The responses of a subscription. If the first is a request error, it is also the last."""
        try:
            subscription = await self._binder.bind_subscription(request)
        except (RequestError, GraphQLError) as error:
            yield request_error_response(error)
            return
        field = subscription.field
        after = request.extensions.get("lastEventId")
        limit = max(1, min(_MAX_STEP, _STEP_COST // max(1, subscription.cost)))
        source = SOURCES[field.name](self._feed, self._database, caller, subscription.arguments, after, limit)
        has_sent, retry_seconds, step = False, 0.0, None
        try:
            group = _group(request, caller, subscription)
            with self._hold(caller, _size(request)), self._shared.member(group) as shared:
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

    @contextmanager
    def _hold(self, caller: Caller, size: int) -> Iterator[None]:
        """Counts the document and the variables of a subscription while the block runs. Raises LimitExceeded."""
        if self._held[caller.key] and self._held[caller.key] + size > _MAX_HELD:
            raise LimitExceeded(
                f"The documents and variables of your subscriptions have more than {_MAX_HELD} characters. End some of"
                " them, or use shorter ones."
            )
        self._held[caller.key] += size
        try:
            yield
        finally:
            self._held[caller.key] -= size
            if not self._held[caller.key]:
                del self._held[caller.key]

    async def _load(
        self, subscription: BoundSubscription, caller: Caller, choose: Choose, retry_seconds: float
    ) -> _Loaded:
        """Chooses the messages of a step and loads their values, in one transaction."""

        async def load(transaction: Transaction) -> tuple[Step, list[Any]]:
            step: Step = await choose(transaction)
            plan = subscription.plan
            context = Context(transaction, plan.dialect, caller, self._operations.rules, subscription.bound)
            return step, await plan.load(context, subscription.variables, step.given)

        step, values = await read_with_retry(self._database, load, retry_seconds)
        events: Sequence[str | None] = step.events or [None] * len(values)
        messages: list[GraphQLResponse] = []
        left = SLICE_BYTES
        for value, event in zip(values, events, strict=True):
            messages.append(_message(subscription, value, event))
            left -= len(messages[-1].body)
            if left < 0:
                await asyncio.sleep(0)
                left = SLICE_BYTES
        return _Loaded(step, messages)


def _message(subscription: BoundSubscription, value: dict[str, Any], event: str | None) -> GraphQLResponse:
    extensions = subscription.extensions
    if event is not None:
        extensions = {**(extensions or {}), "eventId": event}
    return compiled_response([subscription.field], value, extensions, event=event)


def _size(request: GraphQLRequest) -> int:
    """The characters of a request."""
    try:
        return len(request.query) + len(orjson.dumps((request.variables, request.extensions)))
    except orjson.JSONEncodeError:  # nested too deeply
        return _MAX_HELD


def _group(request: GraphQLRequest, caller: Caller, subscription: BoundSubscription) -> Hashable:
    """Equal for subscriptions whose messages about the same changes are equal: those with the same document, variables
    and extensions, of callers with the same rights, or of one caller if a field depends on who asks.
    """
    try:
        variables = orjson.dumps((request.variables, subscription.extensions), option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:  # nested too deeply
        return object()
    rights = caller.tenant, caller.rights, caller.administers
    own = caller.key if _depends_on_caller(subscription.field) else None
    return request.query, request.document_id, request.operation_name, variables, rights, own


def _depends_on_caller(field: Field) -> bool:
    """Whether the field selects what other callers with the same rights see as another value."""
    return field.name in _OF_THE_CALLER or any(
        _depends_on_caller(inner) for fields in field.selection.values() for inner in fields
    )
