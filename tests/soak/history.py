"""The recorded history of a run, and the model that it is checked against.

The history consists of what clients observed and of the final contents of the database and the provider. The model
replays the operations of each machine, in the order of their ids, on the machine's initial tree. Times are wall clock
seconds of one host.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

FINAL = {"SUCCEEDED", "FAILED", "CANCELED"}
_RANK = {"QUEUED": 0, "RUNNING": 1, **dict.fromkeys(FINAL, 2)}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request with an idempotency key. `operations` is None if the outcome is unknown, `refusal` the first code."""

    key: str
    kind: str
    machine: int
    started: float
    ended: float
    operations: tuple[int, ...] | None
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """A snapshot as a client read it."""

    name: str
    state: str
    current: bool
    parent: int | None
    has_provider_ref: bool
    description: str | None = None


@dataclass(frozen=True, slots=True)
class Read:
    """One read of a machine's snapshots, by id."""

    machine: int
    started: float
    ended: float
    nodes: Mapping[int, Node]
    total: int


@dataclass(frozen=True, slots=True)
class Operation:
    """The final row of an operation. Times are in seconds."""

    id: int
    kind: str
    machine: int
    snapshot: int | None
    name: str | None
    state: str
    error: str | None
    created: float
    started: float | None
    finished: float | None
    end_writes: int  # how many times the final state was written
    dispatches: int  # how many times its command was sent to the provider
    created_snapshots: int  # how many snapshots the provider created for it
    took_effect: bool  # the provider executed it; False for an update, which is no task
    attempts: int = 1
    description: str | None = None  # the new one, of an update


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree of snapshot names: the parent of each, and the current one."""

    parents: Mapping[str, str | None]
    current: str | None


@dataclass(slots=True)
class History:
    """All records of a run."""

    attempts: list[Attempt] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    events: dict[str, list[tuple[int, str]]] = field(
        default_factory=lambda: defaultdict(list)
    )  # number and state of operations, by subscriber
    operations: list[Operation] = field(default_factory=list)
    keys: dict[str, tuple[int, ...]] = field(default_factory=dict)  # the operations stored for each idempotency key
    before: dict[int, Tree] = field(default_factory=dict)  # the initial tree of each machine
    gateway: dict[int, Read] = field(default_factory=dict)  # the last read of each machine
    provider: dict[int, Tree] = field(default_factory=dict)  # the final tree of each machine at the provider


T = TypeVar("T", Attempt, Read, Operation)


def violations(history: History) -> list[str]:
    """Every way in which the history contradicts the guarantees of the gateway, as a text; empty when there is none."""
    return [
        *_keys(history),
        *_ends(history),
        *_order(history),
        *_trees(history),
        *_descriptions(history),
        *_reads(history),
        *_subscribers(history),
    ]


def _keys(history: History) -> Iterator[str]:
    """A key belongs to one request. Acknowledged operations exist, and every operation belongs to exactly one key."""
    ids = {operation.id for operation in history.operations}
    by_key = Counter(number for numbers in history.keys.values() for number in numbers)
    for number in ids ^ by_key.keys():
        yield f"operation-{number} {'has no key' if number in ids else 'is missing'}"
    yield from (f"operation-{number} has {times} keys" for number, times in by_key.items() if times > 1)
    for attempt in history.attempts:
        if attempt.operations and attempt.operations != history.keys.get(attempt.key):
            stored = history.keys.get(attempt.key)
            yield f"key {attempt.key} was answered {attempt.operations}, but {stored} is stored"
    names = Counter(operation.name for operation in history.operations if operation.kind == "CREATE_SNAPSHOT")
    yield from (f"{name} was created {times} times" for name, times in names.items() if times > 1)


def _ends(history: History) -> Iterator[str]:
    """Each operation ended once, and its command was executed at most once by the provider."""
    for operation in history.operations:
        subject = f"operation-{operation.id} ({operation.kind}, {operation.state})"
        if operation.state not in FINAL:
            yield f"{subject} has not ended"
        if operation.end_writes != 1:
            yield f"{subject} ended {operation.end_writes} times"
        if operation.dispatches > 1 or operation.created_snapshots > 1:
            times = max(operation.dispatches, operation.created_snapshots)
            yield f"{subject} was executed {times} times by the provider"
        if operation.state == "SUCCEEDED" and operation.created_snapshots != (operation.kind == "CREATE_SNAPSHOT"):
            yield f"{subject} created {operation.created_snapshots} snapshots at the provider"
        if operation.state == "FAILED" and operation.took_effect and operation.error != "OUTCOME_UNKNOWN":
            yield f"{subject} took effect"


def _order(history: History) -> Iterator[str]:
    """The operations of a machine ran one at a time, in order of acceptance. Reverts were accepted on idle machines."""
    for mine in _by_machine(history.operations).values():
        idle = 0.0  # when all preceding operations had ended
        for operation in mine:
            if (operation.started or idle) < idle:
                yield f"operation-{operation.id} started before the preceding operations had ended"
            if operation.kind == "REVERT_VM_SNAPSHOT" and operation.created < idle:
                yield f"operation-{operation.id} is a revert that was accepted on a busy machine"
            idle = max(idle, operation.finished or 9e99)
    for attempts in _by_machine(history.attempts).values():
        yield from _in_order_of_responses(attempts, history.keys)


def _in_order_of_responses(attempts: Sequence[Attempt], keys: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """An operation that was requested after the response to another has the larger number."""
    requested: dict[int, float] = {}
    answered: dict[int, float] = {}
    for attempt in attempts:
        for number in keys.get(attempt.key, ()):
            requested[number] = min(requested.get(number, 9e99), attempt.started)
            answered[number] = min(answered.get(number, 9e99), attempt.ended if attempt.operations else 9e99)
    earliest = 9e99  # response to an operation with a larger number
    for number in sorted(requested, reverse=True):
        if earliest < requested[number]:
            yield f"operation-{number} was requested after the response to an operation with a larger number"
        earliest = min(earliest, answered[number])


def _trees(history: History) -> Iterator[str]:
    """The final tree, in the gateway and at the provider, is the result of the operations on the initial tree."""
    operations = _by_machine(history.operations)
    for machine, before in history.before.items():
        expected, failed = _replay(before, operations.get(machine, []))
        read, provider = history.gateway[machine], history.provider[machine]
        names = {number: node.name for number, node in read.nodes.items()}
        shown = Tree(
            {node.name: names.get(node.parent or 0) for node in read.nodes.values() if node.has_provider_ref},
            next((node.name for node in read.nodes.values() if node.current), None),
        )
        for where, found in (("the provider", provider), ("the gateway", shown)):
            if found != expected:
                yield f"vm-{machine}: {where} has {_difference(found, expected)}"
        errors = {node.name for node in read.nodes.values() if not node.has_provider_ref}
        if errors != failed:
            yield f"vm-{machine}: the failed creates are {sorted(errors)}, not {sorted(failed)}"
        if unexpected := {node.state for node in read.nodes.values()} - {"READY", "ERROR"}:
            yield f"vm-{machine} has snapshots in the states {sorted(unexpected)}"


def _replay(before: Tree, operations: Sequence[Operation]) -> tuple[Tree, set[str]]:
    """The resulting tree, and the names of failed creates whose snapshots were not deleted."""
    parents, current, failed = dict(before.parents), before.current, set[str]()
    for operation in operations:
        name = operation.name or ""
        if operation.kind == "CREATE_SNAPSHOT" and operation.state == "FAILED" and not operation.took_effect:
            failed.add(name)
        if not (operation.state == "SUCCEEDED" or operation.took_effect):
            continue
        match operation.kind:
            case "CREATE_SNAPSHOT":
                parents[name], current = current, name
            case "REVERT_VM_SNAPSHOT":
                current = name
            case "UPDATE_SNAPSHOT":
                pass  # changes the description only
            case "DELETE_SNAPSHOT" if name in parents:
                parent_name = parents.pop(name)
                parents |= {child: parent_name for child, parent in parents.items() if parent == name}
                current = parent_name if current == name else current
            case "DELETE_SNAPSHOT":
                failed.discard(name)
            case _:
                raise AssertionError(f"The model does not know operations of kind {operation.kind}.")
    return Tree(parents, current), failed


def _difference(found: Tree, expected: Tree) -> str:
    missing = {name: parent for name, parent in expected.parents.items() if found.parents.get(name, "?") != parent}
    extra = {name: parent for name, parent in found.parents.items() if expected.parents.get(name, "?") != parent}
    return f"{extra} on {found.current} instead of {missing} on {expected.current}"


def _descriptions(history: History) -> Iterator[str]:
    """Each snapshot has the description of its last update that succeeded.

    It may also have that of an update whose outcome is unknown, or that was repeated, because the provider does not
    know the fence: a process that was frozen while it sent an update can overwrite a later one.
    """
    last: dict[int | None, str | None] = {}
    possible: dict[int | None, set[str | None]] = defaultdict(set)
    for operation in history.operations:
        if operation.kind == "UPDATE_SNAPSHOT":
            if operation.state == "SUCCEEDED":
                last[operation.snapshot] = operation.description
            if operation.attempts > 1 or operation.error == "OUTCOME_UNKNOWN":
                possible[operation.snapshot].add(operation.description)
    for read in history.gateway.values():
        for number, node in read.nodes.items():
            if node.description != last.get(number) and node.description not in possible[number]:
                yield f"snapshot-{number} has the description {node.description}, not {last.get(number)}"


def _reads(history: History) -> Iterator[str]:
    """Each read shows one consistent state with all acknowledged snapshots. Deleted snapshots do not reappear."""
    deleted = {
        operation.snapshot: operation.finished or 0.0
        for operation in history.operations
        if operation.kind == "DELETE_SNAPSHOT" and (operation.state == "SUCCEEDED" or operation.took_effect)
    }
    created = _acknowledged(history)
    for read in history.reads:
        if read.total != len(read.nodes):
            yield f"vm-{read.machine}: {read.total} counted, {len(read.nodes)} listed"
        if sum(node.current for node in read.nodes.values()) > 1:
            yield f"vm-{read.machine}: several snapshots are current"
        orphans = [key for key, node in read.nodes.items() if node.parent and node.parent not in read.nodes]
        yield from (f"snapshot-{number}: its parent is missing" for number in orphans)
        for snapshot, acknowledged in created[read.machine].items():
            if acknowledged < read.started and snapshot not in read.nodes and deleted.get(snapshot, 9e99) > read.ended:
                yield f"snapshot-{snapshot} was acknowledged, but is missing in a later read"
    for machine, mine in _by_machine(history.reads).items():
        yield from _deleted_stays_deleted(machine, mine)


def _acknowledged(history: History) -> dict[int, dict[int, float]]:
    """The time at which the create of each snapshot was first acknowledged, by machine and snapshot."""
    snapshots = {
        operation.id: operation.snapshot for operation in history.operations if operation.kind == "CREATE_SNAPSHOT"
    }
    created: dict[int, dict[int, float]] = defaultdict(dict)
    for attempt in sorted(history.attempts, key=lambda attempt: attempt.ended):
        for number in attempt.operations or ():
            if (snapshot := snapshots.get(number)) is not None:
                created[attempt.machine].setdefault(snapshot, attempt.ended)
    return created


def _deleted_stays_deleted(machine: int, reads: Sequence[Read]) -> Iterator[str]:
    """A snapshot that a read no longer shows is not shown by later reads."""
    shown: dict[int, float] = {}  # end of the first read that shows the snapshot
    gone: dict[int, float] = {}  # end of the first later read that does not
    for read in sorted(reads, key=lambda read: read.ended):
        for snapshot, since in shown.items():
            if snapshot not in read.nodes and since < read.started:
                gone.setdefault(snapshot, read.ended)
        for snapshot in read.nodes:
            shown.setdefault(snapshot, read.ended)
            if gone.get(snapshot, 9e99) < read.started:
                yield f"vm-{machine}: snapshot-{snapshot} disappeared and reappeared"


def _subscribers(history: History) -> Iterator[str]:
    """Every subscriber receives the states of each operation in order, up to its final state."""
    final = {operation.id: operation.state for operation in history.operations}
    for subscriber, events in history.events.items():
        last: dict[int, str] = {}
        for number, state in events:
            before = last.get(number, "QUEUED")
            if _RANK[state] < _RANK[before] or (before in FINAL and state != before):
                yield f"{subscriber} received operation-{number} going from {before} to {state}"
            last[number] = state
        for number, state in final.items():
            if last.get(number) != state:
                yield f"{subscriber} received operation-{number} as {last.get(number)}, but it is {state}"


def _by_machine(items: Sequence[T]) -> dict[int, list[T]]:
    grouped: dict[int, list[T]] = defaultdict(list)
    for item in items:
        grouped[item.machine].append(item)
    return grouped
