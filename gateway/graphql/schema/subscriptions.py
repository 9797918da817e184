"""The subscriptions of the schema.

For each subscription a source listens to the change feed and yields a `Choice` for each batch of changes. Its function
`choose` is called by the executor in a read transaction; it selects the rows to send, and the executor loads them in
the same transaction. A message therefore shows the present state of its row. Several changes of one operation or
machine may result in one message; of a snapshot, each change is sent.

`choose` may be called again when its read failed. It is not called at all if another subscription with the same
document, variables and rights has made an equal choice. So it changes no state: what the source needs to continue is in
the `Step`, which the executor sends back to it.

`operationChanged`, `snapshotChanged` and `machineChanged` can be resumed: every message carries an event id, and a
client that reconnects with `extensions.lastEventId` receives the changes after that event, or the error
`LIMIT_EXCEEDED` if they are no longer stored. `operationUpdated` and `operationsUpdated` start with the present state
and therefore need no event id.

`machineChanged` with a filter keeps the numbers of the machines that match, 10,000 at most, so that it can report that
one does not match any more. It reads them when it starts, and does not know what matched before: when the client read
its list, or when it disconnected. Therefore a machine that was changed in the meantime and does not match is reported
as removed, whether or not the client knew it.
"""

import re
from array import array
from bisect import bisect_left
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Hashable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import strawberry
from strawberry import ID

from gateway.access.caller import Caller
from gateway.changes.change_feed import ChangeFeed, Listener
from gateway.changes.outbox import ChangeEvent, IsWanted, Lagged, Position, newest_position
from gateway.errors import InvalidInput, LimitExceeded, NotFound
from gateway.graphql.schema.enums import MachineChangeKind
from gateway.graphql.schema.fields import sourced
from gateway.graphql.schema.filters import MachineFilter, OperationFilter
from gateway.graphql.schema.payloads import MachineChange, SnapshotChange
from gateway.graphql.schema.types import Operation
from gateway.models import Change, MachineKind
from gateway.operations.commands.base import check_count
from gateway.reads.filters import invalid_filter
from gateway.reads.ids import machine_id, parse_id
from gateway.reads.matching import FoundMachine, MachineMatcher, ended_operations, row_matcher
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
    operations_updated: Operation = sourced(
        PayloadRow("operation", "operation"),
        "The current state of each of several operations, then each change. Completes after the last one has ended.",
        ids=(list[ID], "The ids of the operations, 1 to 100, each once."),
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
    machine_changed: MachineChange = sourced(
        PayloadValue("change"),
        "Each change of the machines that match, of their number of snapshots, and of whether they match, from the time"
        " of the subscription or after the event id in the request extension `lastEventId`. An update of `observedAt`"
        " or `updatedAt` alone is no change. With a filter, at most 10,000 machines may match.",
        filter=(
            MachineFilter | None,
            "Return only machines that match, or that no longer match. All match if it is omitted or `{}`.",
        ),
    )


class Step(NamedTuple):
    """The messages to send next, selected in the transaction that then loads their rows."""

    given: Sequence[dict[str, Any]]  # one per message: the payloads that the sources `Payload…` of the fields refer to
    events: Sequence[str] = ()  # the event id of each message, if the subscription can be resumed
    last: bool = False  # the subscription completes after this step
    found: Any = None  # what the source needs to know of it


class Listening(NamedTuple):
    """Reports that the source listens, and the event id after which it started."""

    event: str


class MissedChanges(LimitExceeded):
    """Changes were lost for this subscriber, so that the subscription cannot be resumed."""


Choose = Callable[[Transaction], Any]  # an async function of the transaction that returns a Step


class Choice(NamedTuple):
    """The next step. Sources with equal arguments, and callers with equal rights, share the step of equal choices.

    `key` is all that `choose` depends on besides the arguments, the rights and the database. It contains the position
    of a change, so that a step is only shared by those that know of no later change. None: the step is not shared.
    """

    choose: Choose
    key: Hashable | None


Events = AsyncGenerator[Choice | Listening, Step | None]  # is sent the Step of each Choice
# The last two arguments are the extension `lastEventId`, and the number of changes after which a step ends: all of its
# messages are in memory together.
Source = Callable[[ChangeFeed, Database, Caller, Arguments, Any, int], Events]

_EVENT = re.compile(r"(\d{1,18})-(\d{1,18})", re.ASCII)


async def operations_updated(
    feed: ChangeFeed, _database: Database, caller: Caller, arguments: Arguments, _after: Any, limit: int
) -> Events:
    """The source of `operationUpdated` and `operationsUpdated`. Raises InvalidInput, NotFound and MissedChanges."""
    unfinished = _operations(arguments)  # by number, with the id that the client gave
    changed = frozenset(unfinished)
    newest: Position | None = None  # None: the present state, which changes of another subscription do not show

    def is_wanted(event: ChangeEvent) -> bool:
        return event.subject_id in unfinished and event.tenant == caller.tenant

    async def choose(transaction: Transaction) -> Step:
        ended: Mapping[int, bool] = await ended_operations(transaction, caller, list(unfinished))
        for number, text in unfinished.items():
            if number not in ended:
                raise NotFound(f"Operation '{text}' was not found.")
        sent = [number for number in unfinished if number in changed or ended[number]]
        return Step([{"operation": number} for number in sent], last=all(ended.values()), found=ended)

    async with feed.listen(["operation"], is_wanted) as listener:
        while True:
            step = yield Choice(choose, newest and (newest, tuple(unfinished), changed))
            assert step is not None
            unfinished = {number: text for number, text in unfinished.items() if not step.found[number]}
            events = await _batch(listener, limit)
            changed, newest = frozenset(event.subject_id for event in events), events[-1].position


def _operations(arguments: Arguments) -> dict[int, str]:
    """The ids of the argument `id` or `ids`, by number. Raises InvalidInput, and NotFound for ids of other types."""
    if "id" in arguments:
        texts, parsed = [arguments["id"]], [parse_id(arguments["id"], ("id",))]
    else:
        texts, parsed = arguments["ids"], []
        check_count(texts, "ids")
        for place, text in enumerate(texts):
            try:
                parsed.append(parse_id(text))
            except InvalidInput as error:
                raise invalid_filter(("ids", place), error.message) from None
            if parsed[-1] in parsed[:-1]:
                raise invalid_filter(("ids", place), f"'{text}' is repeated.")
    for id_, text in zip(parsed, texts, strict=True):
        if id_.noun != "operation":
            raise NotFound(f"Operation '{text}' was not found.")
    return {id_.number: text for id_, text in zip(parsed, texts, strict=True)}


async def operation_changed(
    feed: ChangeFeed, _database: Database, caller: Caller, arguments: Arguments, after: Any, limit: int
) -> Events:
    """The source of `operationChanged`. Raises InvalidInput and MissedChanges."""
    match = row_matcher("operation", arguments.get("filter"))

    def is_wanted(event: ChangeEvent) -> bool:
        return event.tenant == caller.tenant

    async with _listening(feed, ["operation"], is_wanted, after) as listener:
        if start := _start(listener):
            yield start
        while True:
            # Only the last of several changes of an operation is sent: its row and its event id cover all of them.
            events = await _batch(listener, limit)
            changed = {event.subject_id: event for event in events}
            last = sorted(changed.values(), key=lambda event: event.position)

            async def choose(transaction: Transaction, last: Sequence[ChangeEvent] = last) -> Step:
                found = set(await match(transaction, caller, [event.subject_id for event in last]))
                sent = [event for event in last if event.subject_id in found]
                return Step([{"operation": event.subject_id} for event in sent], _ids(sent))

            yield Choice(choose, _range(events))


async def snapshot_changed(
    feed: ChangeFeed, database: Database, caller: Caller, arguments: Arguments, after: Any, limit: int
) -> Events:
    """The source of `snapshotChanged`. Raises InvalidInput, NotFound and MissedChanges."""
    text = arguments.get("machineId")
    machine = None if text is None else parse_id(text, ("machineId",)).number

    def is_wanted(event: ChangeEvent) -> bool:
        return event.tenant == caller.tenant and (machine is None or event.machine_id == machine)

    find_snapshots, find_machines = row_matcher("snapshot", None), row_matcher("machine", None)
    # Listens before the machine is looked up, so that no change is missed in between.
    async with _listening(feed, ["snapshot"], is_wanted, after) as listener:
        if text is not None:
            await _check_machine(database, caller, text)
        if start := _start(listener):
            yield start
        while True:
            events = await _batch(listener, limit)

            async def choose(transaction: Transaction, events: Sequence[ChangeEvent] = events) -> Step:
                existing = set(await find_snapshots(transaction, caller, [event.subject_id for event in events]))
                machines = {event.machine_id for event in events if event.machine_id is not None}
                known = set(await find_machines(transaction, caller, list(machines)))
                sent = [event for event in events if _is_sent(event, existing, known)]
                return Step([{"change": _change(event)} for event in sent], _ids(sent))

            yield Choice(choose, _range(events))


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


# ---- machines

_MAX_MATCHES = 10_000  # machines that may match the filter of a subscription


class _Matches:
    """The numbers of the machines that match: 8 bytes each, 80 kB per subscription at most.

    `numbers` are in order. They were read after all changes up to the position `newest`, and possibly before some.
    """

    def __init__(self, numbers: Iterable[int], newest: Position) -> None:
        self._numbers = array("q", numbers)
        self._newest = newest
        self._check()

    def known(self, number: int, event: ChangeEvent) -> bool | None:
        """Whether the machine matched before this event of it. None: unknown, as the numbers may include the change."""
        return None if event.position <= self._newest else self._has(number, bisect_left(self._numbers, number))

    def set(self, number: int, matches: bool) -> None:
        """Adds or removes a machine. Raises LimitExceeded if there are too many."""
        place = bisect_left(self._numbers, number)
        known = self._has(number, place)
        if known and not matches:
            del self._numbers[place]
        elif matches and not known:
            self._numbers.insert(place, number)
            self._check()

    def _has(self, number: int, place: int) -> bool:
        return place < len(self._numbers) and self._numbers[place] == number

    def _check(self) -> None:
        if len(self._numbers) > _MAX_MATCHES:
            raise LimitExceeded(
                f"More than {_MAX_MATCHES:,} machines match the filter. Narrow it, or subscribe without a filter.",
                path=("filter",),
            )


class _MachineChange(NamedTuple):
    """A message of `machineChanged`. `position` is that of the last event of the machine."""

    kind: MachineChangeKind
    machine_kind: MachineKind
    number: int
    position: Position

    @property
    def is_removal(self) -> bool:
        return self.kind is MachineChangeKind.REMOVED

    @property
    def payload(self) -> dict[str, Any]:
        """The value of the PayloadValue `change`."""
        public_id = machine_id(self.machine_kind, self.number)
        return {
            "kind": self.kind,
            "machineId": public_id,
            "machine": None if self.is_removal else self.number,
            "deletedMachineId": public_id if self.is_removal else None,
        }


async def machine_changed(
    feed: ChangeFeed, database: Database, caller: Caller, arguments: Arguments, after: Any, limit: int
) -> Events:
    """The source of `machineChanged`. Raises InvalidInput, LimitExceeded and MissedChanges."""
    matcher = MachineMatcher(arguments.get("filter"))
    matches: _Matches | None = None  # not kept without a filter
    events: Mapping[int, Sequence[ChangeEvent]] = {}  # of one step
    known: Mapping[int, bool | None] = {}  # whether their machines matched before

    def is_wanted(event: ChangeEvent) -> bool:
        counts = event.noun == "machine" or event.change != Change.UPDATED
        return event.tenant == caller.tenant and (counts or matcher.reads_snapshots)

    async def choose(transaction: Transaction) -> Step:
        found = await matcher.find(transaction, caller, list(events))
        possible = (
            _machine_change(number, mine, found.get(number), known[number], caller) for number, mine in events.items()
        )
        changes = [change for change in possible if change is not None]
        ids = [_id(change.position) for change in changes]
        return Step([{"change": change.payload} for change in changes], ids, found=changes)

    async with _listening(feed, ["machine", "snapshot"], is_wanted, after) as listener:
        if matcher.selects:
            matches = await _read_matches(database, caller, matcher)
        if start := _start(listener):
            yield start
        while True:
            batch = await _batch(listener, limit)
            events = _by_machine(batch)
            known = {
                number: True if matches is None else matches.known(number, mine[0]) for number, mine in events.items()
            }
            step = yield Choice(choose, (_range(batch), tuple(known.values())))
            if matches is not None:
                assert step is not None
                for change in step.found:
                    matches.set(change.number, not change.is_removal)


async def _read_matches(database: Database, caller: Caller, matcher: MachineMatcher) -> _Matches:
    """The machines that match now. Raises LimitExceeded."""

    async def read(transaction: Transaction) -> _Matches:
        newest = await newest_position(transaction)
        return _Matches(await matcher.all(transaction, caller, _MAX_MATCHES + 1), newest)

    return await database.read(read)


def _by_machine(events: Sequence[ChangeEvent]) -> Mapping[int, Sequence[ChangeEvent]]:
    """The events of each machine, in the order of the machines' last events."""
    found: dict[int, list[ChangeEvent]] = {}
    for event in events:
        if event.machine_id is not None:
            mine = found[event.machine_id] = found.pop(event.machine_id, [])
            mine.append(event)
    return found


def _machine_change(
    number: int, events: Sequence[ChangeEvent], found: FoundMachine | None, known: bool | None, caller: Caller
) -> _MachineChange | None:
    """What to send about a machine after these events of it and of its snapshots.

    `found`: the machine, unless it was deleted since or the caller may not see it. `known`: whether it matched before,
    always true without a filter; None if that is unknown.
    """
    own = [event for event in events if event.noun == "machine"]
    position = events[-1].position
    if found is None:
        deleted = own[-1] if own and own[-1].change == Change.DELETED else None
        if deleted is None or deleted.machine_kind not in caller.readable_kinds or known is False:
            return None  # or its DELETED follows
        return _MachineChange(MachineChangeKind.REMOVED, deleted.machine_kind, number, position)
    if not found.matches:
        return None if known is False else _MachineChange(MachineChangeKind.REMOVED, found.kind, number, position)
    if known is False or any(event.change == Change.CREATED for event in own):
        return _MachineChange(MachineChangeKind.CREATED, found.kind, number, position)
    if known and all(event.noun == "snapshot" and event.change == Change.UPDATED for event in events):
        return None  # the filter reads snapshots, but the machine still matches
    return _MachineChange(MachineChangeKind.UPDATED, found.kind, number, position)


# ---- listening


@asynccontextmanager
async def _listening(
    feed: ChangeFeed, nouns: Collection[str], is_wanted: IsWanted, after: Any
) -> AsyncIterator[Listener]:
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
        async with feed.listen(nouns, is_wanted, position) as listener:
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


def _range(events: Sequence[ChangeEvent]) -> Hashable:
    """Identifies successive events that one listener wanted, among those that equal listeners wanted."""
    return events[0].position, events[-1].position, len(events)


async def _batch(listener: Listener, limit: int) -> list[ChangeEvent]:
    """Waits for the next events, at most `limit`. Raises MissedChanges."""
    try:
        return await listener.batch(limit)
    except Lagged:
        raise MissedChanges(
            "The subscriber was too slow and has missed changes. Reload the data and subscribe again."
        ) from None


SOURCES: Mapping[str, Source] = {
    "operationUpdated": operations_updated,
    "operationsUpdated": operations_updated,
    "operationChanged": operation_changed,
    "snapshotChanged": snapshot_changed,
    "machineChanged": machine_changed,
}
