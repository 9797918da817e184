"""The subscriptions of the schema: what wakes each of them, and which rows it then sends."""

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
from gateway.models import UNFINISHED, Change, OperationState
from gateway.reads.ids import parse_id
from gateway.reads.matching import matching, operation_state
from gateway.reads.sources import Given, GivenOne
from gateway.store.database import Database, Transaction

Arguments = Mapping[str, Any]


@strawberry.type(description="What can be followed, over graphql-transport-ws or server-sent events.")
class Subscription:
    operation_updated: Operation = sourced(
        GivenOne("operation", "operation"),
        "The operation at once, then each change, ending after its final state.",
        id=(ID, "The operation."),
    )
    operation_changed: Operation = sourced(
        GivenOne("operation", "operation"),
        "Each change of an operation that matches, from now on.",
        filter=(OperationFilter | None, "Only operations that match. Without one: all."),
    )
    snapshot_changed: SnapshotChange = sourced(
        Given("change"),
        "Each change of a snapshot, of one machine or of all the caller may see.",
        machine_id=(ID | None, "Only snapshots of this machine."),
    )


class Step(NamedTuple):
    """What a source sends next: chosen in the same read that then loads the rows. `last`: nothing follows."""

    given: Sequence[dict[str, Any]]
    events: Sequence[str] = ()  # the id of each, where the subscription can be taken up again
    last: bool = False


class Opened(NamedTuple):
    """The source listens; what follows comes after this event."""

    event: str


class Missed(LimitExceeded):
    """Changes are lost to this subscriber: nothing can be taken up again."""


Choose = Callable[[Transaction], Any]  # an async function of the transaction that returns a Step
Source = Callable[[ChangeFeed, Database, Caller, Arguments, Any], AsyncIterator[Choose | Opened]]

_EVENT = re.compile(r"(\d{1,18})-(\d{1,18})", re.ASCII)


async def operation_updated(
    feed: ChangeFeed, _database: Database, caller: Caller, arguments: Arguments, _after: Any
) -> AsyncIterator[Choose | Opened]:
    id_ = parse_id(arguments["id"], ("id",))

    async def choose(transaction: Transaction) -> Step:
        state = None
        if id_.noun == "operation":
            state = await operation_state(transaction, caller, id_.number)
        if state is None:
            raise NotFound(f"there is no operation {arguments['id']}")
        return Step([{"operation": id_.number}], last=OperationState(state) not in UNFINISHED)

    def wants(event: ChangeEvent) -> bool:
        return event.noun == "operation" and event.subject_id == id_.number and event.tenant == caller.tenant

    async with feed.listen(wants) as listener:
        yield choose
        while True:
            await _batch(listener)
            yield choose


async def operation_changed(
    feed: ChangeFeed, _database: Database, caller: Caller, arguments: Arguments, after: Any
) -> AsyncIterator[Choose | Opened]:
    match = matching("operation", arguments.get("filter"))

    def wants(event: ChangeEvent) -> bool:
        return event.noun == "operation" and event.tenant == caller.tenant

    async with _listening(feed, wants, after) as listener:
        if opened := _opened(listener):
            yield opened
        while True:
            # Of several changes the last: its row shows them all, and so does its id.
            changed = {event.subject_id: event for event in await _batch(listener)}
            last = sorted(changed.values(), key=lambda event: event.position)

            async def choose(transaction: Transaction, last: Sequence[ChangeEvent] = last) -> Step:
                found = set(await match(transaction, caller, [event.subject_id for event in last]))
                told = [event for event in last if event.subject_id in found]
                return Step([{"operation": event.subject_id} for event in told], _ids(told))

            yield choose


async def snapshot_changed(
    feed: ChangeFeed, database: Database, caller: Caller, arguments: Arguments, after: Any
) -> AsyncIterator[Choose | Opened]:
    text = arguments.get("machineId")
    machine = None if text is None else parse_id(text, ("machineId",)).number

    def wants(event: ChangeEvent) -> bool:
        mine = event.noun == "snapshot" and event.tenant == caller.tenant
        return mine and (machine is None or event.machine_id == machine)

    find_snapshots, find_machines = matching("snapshot", None), matching("machine", None)
    # Before anything is waited for: what happens from now on is told.
    async with _listening(feed, wants, after) as listener:
        if text is not None:
            await _known_machine(database, caller, text)
        if opened := _opened(listener):
            yield opened
        while True:
            events = await _batch(listener)

            async def choose(transaction: Transaction, events: Sequence[ChangeEvent] = events) -> Step:
                there = set(await find_snapshots(transaction, caller, [event.subject_id for event in events]))
                machines = {event.machine_id for event in events if event.machine_id is not None}
                known = set(await find_machines(transaction, caller, list(machines)))
                told = [event for event in events if _shown(event, there, known)]
                return Step([{"change": _change(event)} for event in told], _ids(told))

            yield choose


def _shown(event: ChangeEvent, there: set[int], machines: set[int]) -> bool:
    """What has since been deleted is told by its own event; a machine that was cleared away tells nothing more."""
    return (event.change == Change.DELETED or event.subject_id in there) and event.machine_id in machines


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


async def _known_machine(database: Database, caller: Caller, text: str) -> None:
    """Raises NotFound unless the caller may see a machine with this id."""
    find = matching("machine", {"id": {"eq": text}})

    async def read(transaction: Transaction) -> Sequence[int]:
        return await find(transaction, caller, [parse_id(text).number])

    if not await database.read(read, single=True):
        raise NotFound(f"there is no machine {text}")


@asynccontextmanager
async def _listening(feed: ChangeFeed, wants: Callable[[ChangeEvent], bool], after: Any) -> AsyncIterator[Listener]:
    """Listens, from after the event with the id `after` on if there is one. Raises InvalidInput and Missed."""
    position: Position | None = None
    if after is not None:
        match = _EVENT.fullmatch(after) if isinstance(after, str) else None
        if match is None:
            raise InvalidInput("`lastEventId` is not the id of an event", path=("lastEventId",))
        position = int(match[1]), int(match[2])
    try:
        async with feed.listen(wants, position) as listener:
            yield listener
    except Lagged:
        raise Missed("changes since then are no longer known: read again, then subscribe without an id") from None


def _opened(listener: Listener) -> Opened | None:
    """Nothing, if the client knows already where it is, or nothing has ever happened."""
    return Opened(_id(listener.start)) if listener.start and any(listener.start) else None


def _id(position: Position) -> str:
    return "{}-{}".format(*position)


def _ids(events: Sequence[ChangeEvent]) -> list[str]:
    return [_id(event.position) for event in events]


async def _batch(listener: Listener) -> list[ChangeEvent]:
    try:
        return await listener.batch()
    except Lagged:
        raise Missed("the subscriber fell too far behind and has missed changes: read again, then subscribe") from None


SOURCES: Mapping[str, Source] = {
    "operationUpdated": operation_updated,
    "operationChanged": operation_changed,
    "snapshotChanged": snapshot_changed,
}
