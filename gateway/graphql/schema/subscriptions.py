"""The subscriptions of the schema.

For each subscription a source listens to the change feed and yields steps. A step is an async function that the
executor calls in a read transaction; it selects the rows to send, and the executor loads them in the same transaction.
A message therefore shows the present state of its row. Several changes of one operation may result in one message;
of a snapshot, each change is sent.

`operationChanged` and `snapshotChanged` can be resumed: every message carries an event id, and a client that
reconnects with `extensions.lastEventId` receives the changes after that event, or the error `LIMIT_EXCEEDED` if they
are no longer stored. `operationUpdated` starts with the present state and therefore needs no event id.
"""

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import strawberry
from strawberry import ID

from gateway.access.caller import Caller
from gateway.changes.change_feed import ChangeEvent, ChangeFeed, Lagged, Listener, Position
from gateway.errors import InvalidInput, LimitExceeded, NotFound
from gateway.graphql.schema.fields import sourced
from gateway.graphql.schema.filters import OperationFilter
from gateway.graphql.schema.payloads import SnapshotChange
from gateway.graphql.schema.types import Operation
from gateway.models import Change
from gateway.reads.ids import parse_id
from gateway.reads.matching import has_ended, row_matcher
from gateway.reads.sources import PayloadRow, PayloadValue
from gateway.store.database import Database, Transaction

Arguments = Mapping[str, Any]


@strawberry.type(
    description="The subscription root. Transports: WebSocket (graphql-transport-ws) and server-sent events."
)
class Subscription:
    operation_updated: Operation = sourced(
        PayloadRow("operation", "operation"),
        "The current state of an operation, then each change. Completes after the final state.",
        id=(ID, "The id of the operation."),
    )
    operation_changed: Operation = sourced(
        PayloadRow("operation", "operation"),
        "Each change of the operations that match, from the time of the subscription or after the event id in the"
        " request extension `lastEventId`.",
        filter=(OperationFilter | None, "Return only operations that match. All match if omitted."),
    )
    snapshot_changed: SnapshotChange = sourced(
        PayloadValue("change"),
        "Each change of a snapshot, of one machine or of all machines that the caller can see, from the time of the"
        " subscription or after the event id in the request extension `lastEventId`.",
        machine_id=(ID | None, "Return only snapshots of the machine with this id."),
    )


class Step(NamedTuple):
    """The messages to send next, selected in the transaction that then loads their rows."""

    given: Sequence[dict[str, Any]]  # one per message: the payloads that the sources `Payload…` of the fields refer to
    events: Sequence[str] = ()  # the event id of each message, if the subscription can be resumed
    last: bool = False  # the subscription completes after this step


class Listening(NamedTuple):
    """Reports that the source listens, and the event id after which it started."""

    event: str


class MissedChanges(LimitExceeded):
    """Changes were lost for this subscriber, so that the subscription cannot be resumed."""


Choose = Callable[[Transaction], Any]  # an async function of the transaction that returns a Step
Source = Callable[[ChangeFeed, Database, Caller, Arguments, Any], AsyncIterator[Choose | Listening]]

_EVENT = re.compile(r"(\d{1,18})-(\d{1,18})", re.ASCII)


async def operation_updated(
    feed: ChangeFeed, _database: Database, caller: Caller, arguments: Arguments, _after: Any
) -> AsyncIterator[Choose | Listening]:
    """The source of `operationUpdated`. Raises InvalidInput and, at a step, NotFound."""
    id_ = parse_id(arguments["id"], ("id",))

    async def choose(transaction: Transaction) -> Step:
        ended = None
        if id_.noun == "operation":
            ended = await has_ended(transaction, caller, id_.number)
        if ended is None:
            raise NotFound(f"Operation '{arguments['id']}' was not found.")
        return Step([{"operation": id_.number}], last=ended)

    def is_wanted(event: ChangeEvent) -> bool:
        return event.noun == "operation" and event.subject_id == id_.number and event.tenant == caller.tenant

    async with feed.listen(is_wanted) as listener:
        yield choose
        while True:
            await _batch(listener)
            yield choose


async def operation_changed(
    feed: ChangeFeed, _database: Database, caller: Caller, arguments: Arguments, after: Any
) -> AsyncIterator[Choose | Listening]:
    """The source of `operationChanged`. Raises InvalidInput and MissedChanges."""
    match = row_matcher("operation", arguments.get("filter"))

    def is_wanted(event: ChangeEvent) -> bool:
        return event.noun == "operation" and event.tenant == caller.tenant

    async with _listening(feed, is_wanted, after) as listener:
        if start := _start(listener):
            yield start
        while True:
            # Only the last of several changes of an operation is sent: its row and its event id cover all of them.
            changed = {event.subject_id: event for event in await _batch(listener)}
            last = sorted(changed.values(), key=lambda event: event.position)

            async def choose(transaction: Transaction, last: Sequence[ChangeEvent] = last) -> Step:
                found = set(await match(transaction, caller, [event.subject_id for event in last]))
                sent = [event for event in last if event.subject_id in found]
                return Step([{"operation": event.subject_id} for event in sent], _ids(sent))

            yield choose


async def snapshot_changed(
    feed: ChangeFeed, database: Database, caller: Caller, arguments: Arguments, after: Any
) -> AsyncIterator[Choose | Listening]:
    """The source of `snapshotChanged`. Raises InvalidInput, NotFound and MissedChanges."""
    text = arguments.get("machineId")
    machine = None if text is None else parse_id(text, ("machineId",)).number

    def is_wanted(event: ChangeEvent) -> bool:
        mine = event.noun == "snapshot" and event.tenant == caller.tenant
        return mine and (machine is None or event.machine_id == machine)

    find_snapshots, find_machines = row_matcher("snapshot", None), row_matcher("machine", None)
    # Listens before the machine is looked up, so that no change is missed in between.
    async with _listening(feed, is_wanted, after) as listener:
        if text is not None:
            await _check_machine(database, caller, text)
        if start := _start(listener):
            yield start
        while True:
            events = await _batch(listener)

            async def choose(transaction: Transaction, events: Sequence[ChangeEvent] = events) -> Step:
                existing = set(await find_snapshots(transaction, caller, [event.subject_id for event in events]))
                machines = {event.machine_id for event in events if event.machine_id is not None}
                known = set(await find_machines(transaction, caller, list(machines)))
                sent = [event for event in events if _is_sent(event, existing, known)]
                return Step([{"change": _change(event)} for event in sent], _ids(sent))

            yield choose


def _is_sent(event: ChangeEvent, snapshots: set[int], machines: set[int]) -> bool:
    """Whether to send the event, given the snapshots and machines that still exist and that the caller can see.

    A snapshot that has since been deleted has a DELETED event of its own. Events of a removed machine are not sent.
    """
    return (event.change == Change.DELETED or event.subject_id in snapshots) and event.machine_id in machines


def _change(event: ChangeEvent) -> dict[str, Any]:
    deleted = event.change == Change.DELETED
    snapshot_id = f"snapshot-{event.subject_id}"
    return {
        "kind": event.change,
        "snapshotId": snapshot_id,
        "machine": event.machine_id,
        "snapshot": None if deleted else event.subject_id,
        "deletedSnapshotId": snapshot_id if deleted else None,
    }


async def _check_machine(database: Database, caller: Caller, text: str) -> None:
    """Raises NotFound unless a machine with this id exists that the caller can see."""
    find = row_matcher("machine", {"id": {"eq": text}})

    async def read(transaction: Transaction) -> Sequence[int]:
        return await find(transaction, caller, [parse_id(text).number])

    if not await database.read(read, single=True):
        raise NotFound(f"Machine '{text}' was not found.")


@asynccontextmanager
async def _listening(feed: ChangeFeed, is_wanted: Callable[[ChangeEvent], bool], after: Any) -> AsyncIterator[Listener]:
    """Listens to the feed, after the event id `after` if it is given. Raises InvalidInput and MissedChanges."""
    position: Position | None = None
    if after is not None:
        match = _EVENT.fullmatch(after) if isinstance(after, str) else None
        if match is None:
            raise InvalidInput(
                "The extension `lastEventId` must be an event id that the gateway has sent.", path=("lastEventId",)
            )
        position = int(match[1]), int(match[2])
    try:
        async with feed.listen(is_wanted, position) as listener:
            yield listener
    except Lagged:
        raise MissedChanges(
            "Changes after the event `lastEventId` are no longer stored. Reload the data and subscribe without it."
        ) from None


def _start(listener: Listener) -> Listening | None:
    """The position at which the listener started; None if the client resumed, or if there are no events yet."""
    return Listening(_id(listener.start)) if listener.start and any(listener.start) else None


def _id(position: Position) -> str:
    return "{}-{}".format(*position)


def _ids(events: Sequence[ChangeEvent]) -> list[str]:
    return [_id(event.position) for event in events]


async def _batch(listener: Listener) -> list[ChangeEvent]:
    """Waits for the next events. Raises MissedChanges."""
    try:
        return await listener.batch()
    except Lagged:
        raise MissedChanges(
            "The subscriber was too slow and has missed changes. Reload the data and subscribe again."
        ) from None


SOURCES: Mapping[str, Source] = {
    "operationUpdated": operation_updated,
    "operationChanged": operation_changed,
    "snapshotChanged": snapshot_changed,
}
