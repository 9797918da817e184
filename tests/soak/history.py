"""What clients saw and what the database holds in the end, and the model that both must agree with.

Per machine, the operations in the order of their ids are replayed on the tree that there was; times are wall clock,
of one host.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

FINAL = {"SUCCEEDED", "FAILED", "CANCELED"}
_RANK = {"QUEUED": 0, "RUNNING": 1, **dict.fromkeys(FINAL, 2)}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request with a key. `operations` is None when its outcome is unknown; `refusal` is the first code."""

    key: str
    kind: str
    machine: int
    begun: float
    ended: float
    operations: tuple[int, ...] | None
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """A snapshot as it was read."""

    name: str
    state: str
    current: bool
    parent: int | None
    made: bool  # it has a provider's reference


@dataclass(frozen=True, slots=True)
class Read:
    """One machine's snapshots, by id."""

    machine: int
    begun: float
    ended: float
    nodes: Mapping[int, Node]
    total: int


@dataclass(frozen=True, slots=True)
class Operation:
    """A row, as it is in the end. Times are seconds; `task` is what the provider says of its token."""

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
    ends: int  # how often it was written that it has ended
    begun: int  # how often its work was handed to the provider
    made: int  # how often the provider made a snapshot for it
    happened: bool  # the provider did it


@dataclass(frozen=True, slots=True)
class Tree:
    """Names: each with the name of its parent, and the current one."""

    parents: Mapping[str, str | None]
    current: str | None


@dataclass(slots=True)
class History:
    """Everything that is known about a run."""

    attempts: list[Attempt] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    seen: dict[str, list[tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))  # by subscriber
    operations: list[Operation] = field(default_factory=list)
    keys: dict[str, tuple[int, ...]] = field(default_factory=dict)  # what each key has been answered
    before: dict[int, Tree] = field(default_factory=dict)
    gateway: dict[int, Read] = field(default_factory=dict)  # the last read of each machine
    provider: dict[int, Tree] = field(default_factory=dict)


T = TypeVar("T", Attempt, Read, Operation)


def violations(history: History) -> list[str]:
    """What cannot have happened in a gateway that keeps its word."""
    return [
        *_keys(history),
        *_ends(history),
        *_order(history),
        *_trees(history),
        *_reads(history),
        *_subscribers(history),
    ]


def _keys(history: History) -> Iterator[str]:
    """A key is one request; what was acknowledged is there; nothing is there that nobody asked for."""
    ids = {operation.id for operation in history.operations}
    asked = Counter(number for numbers in history.keys.values() for number in numbers)
    for number in ids ^ asked.keys():
        yield f"operation-{number} is {'of no key' if number in ids else 'gone'}"
    yield from (f"operation-{number} is of {times} keys" for number, times in asked.items() if times > 1)
    for attempt in history.attempts:
        if attempt.operations and attempt.operations != history.keys.get(attempt.key):
            kept = history.keys.get(attempt.key)
            yield f"key {attempt.key} was answered {attempt.operations}, and is kept as {kept}"
    names = Counter(operation.name for operation in history.operations if operation.kind == "CREATE_SNAPSHOT")
    yield from (f"{name} was created {times} times" for name, times in names.items() if times > 1)


def _ends(history: History) -> Iterator[str]:
    """Each operation ends once, and the provider was asked once."""
    for operation in history.operations:
        what = f"operation-{operation.id} ({operation.kind}, {operation.state})"
        if operation.state not in FINAL:
            yield f"{what} has not ended"
        if operation.ends != 1:
            yield f"{what} ended {operation.ends} times"
        if operation.begun > 1 or operation.made > 1:
            yield f"{what} was done {max(operation.begun, operation.made)} times on the provider"
        if operation.state == "SUCCEEDED" and operation.made != (operation.kind == "CREATE_SNAPSHOT"):
            yield f"{what} made {operation.made} snapshots on the provider"
        if operation.state == "FAILED" and operation.happened and operation.error != "OUTCOME_UNKNOWN":
            yield f"{what} happened"


def _order(history: History) -> Iterator[str]:
    """One at a time per machine, in the order in which they were accepted; reverts find an idle machine."""
    for mine in _by_machine(history.operations).values():
        idle = 0.0  # when all before had ended
        for operation in mine:
            if (operation.started or idle) < idle:
                yield f"operation-{operation.id} began before those before it had ended"
            if operation.kind == "REVERT_VM_SNAPSHOT" and operation.created < idle:
                yield f"operation-{operation.id} is a revert that was accepted on a busy machine"
            idle = max(idle, operation.finished or 9e99)
    for attempts in _by_machine(history.attempts).values():
        yield from _as_answered(attempts, history.keys)


def _as_answered(attempts: Sequence[Attempt], keys: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """What is asked for after something was answered comes after it."""
    asked: dict[int, float] = {}
    answered: dict[int, float] = {}
    for attempt in attempts:
        for number in keys.get(attempt.key, ()):
            asked[number] = min(asked.get(number, 9e99), attempt.begun)
            answered[number] = min(answered.get(number, 9e99), attempt.ended if attempt.operations else 9e99)
    earliest = 9e99  # answer to one that comes later
    for number in sorted(asked, reverse=True):
        if earliest < asked[number]:
            yield f"operation-{number} was asked for after one that comes later was answered"
        earliest = min(earliest, answered[number])


def _trees(history: History) -> Iterator[str]:
    """The tree is what the operations make of the one before, on both sides, and the counter counts it."""
    operations = _by_machine(history.operations)
    for machine, before in history.before.items():
        expected, failed = _replayed(before, operations.get(machine, []))
        read, provider = history.gateway[machine], history.provider[machine]
        names = {number: node.name for number, node in read.nodes.items()}
        shown = Tree(
            {node.name: names.get(node.parent or 0) for node in read.nodes.values() if node.made},
            next((node.name for node in read.nodes.values() if node.current), None),
        )
        for where, found in (("the provider", provider), ("the gateway", shown)):
            if found != expected:
                yield f"vm-{machine}: {where} has {_difference(found, expected)}"
        errors = {node.name for node in read.nodes.values() if not node.made}
        if errors != failed:
            yield f"vm-{machine}: what could not be made is {sorted(errors)}, not {sorted(failed)}"
        if odd := {node.state for node in read.nodes.values()} - {"READY", "ERROR"}:
            yield f"vm-{machine} has snapshots that are {sorted(odd)}"


def _replayed(before: Tree, operations: Sequence[Operation]) -> tuple[Tree, set[str]]:
    """The tree afterwards, and the names of the creates that failed and were not deleted."""
    parents, current, failed = dict(before.parents), before.current, set[str]()
    for operation in operations:
        name = operation.name or ""
        if operation.kind == "CREATE_SNAPSHOT" and operation.state == "FAILED" and not operation.happened:
            failed.add(name)
        if not (operation.state == "SUCCEEDED" or operation.happened):
            continue
        if operation.kind == "CREATE_SNAPSHOT":
            parents[name], current = current, name
        elif operation.kind == "REVERT_VM_SNAPSHOT":
            current = name
        elif name in parents:
            heir = parents.pop(name)
            parents |= {child: heir for child, parent in parents.items() if parent == name}
            current = heir if current == name else current
        else:
            failed.discard(name)
    return Tree(parents, current), failed


def _difference(found: Tree, expected: Tree) -> str:
    lacks = {name: parent for name, parent in expected.parents.items() if found.parents.get(name, "?") != parent}
    more = {name: parent for name, parent in found.parents.items() if expected.parents.get(name, "?") != parent}
    return f"{more} on {found.current} instead of {lacks} on {expected.current}"


def _reads(history: History) -> Iterator[str]:
    """Each shows one state; what was acknowledged shows; what is gone stays gone."""
    deleted = {
        operation.snapshot: operation.finished or 0.0
        for operation in history.operations
        if operation.kind == "DELETE_SNAPSHOT" and (operation.state == "SUCCEEDED" or operation.happened)
    }
    created = _acknowledged(history)
    for read in history.reads:
        if read.total != len(read.nodes):
            yield f"vm-{read.machine}: {read.total} counted, {len(read.nodes)} listed"
        if sum(node.current for node in read.nodes.values()) > 1:
            yield f"vm-{read.machine}: several are current"
        orphans = [key for key, node in read.nodes.items() if node.parent and node.parent not in read.nodes]
        yield from (f"snapshot-{number}: its parent was not there" for number in orphans)
        for snapshot, acknowledged in created[read.machine].items():
            if acknowledged < read.begun and snapshot not in read.nodes and deleted.get(snapshot, 9e99) > read.ended:
                yield f"snapshot-{snapshot} was acknowledged, and not there when it was read"
    for machine, mine in _by_machine(history.reads).items():
        yield from _gone_for_good(machine, mine)


def _acknowledged(history: History) -> dict[int, dict[int, float]]:
    """By machine and snapshot, when its create was first acknowledged."""
    snapshots = {
        operation.id: operation.snapshot for operation in history.operations if operation.kind == "CREATE_SNAPSHOT"
    }
    created: dict[int, dict[int, float]] = defaultdict(dict)
    for attempt in sorted(history.attempts, key=lambda attempt: attempt.ended):
        for number in attempt.operations or ():
            if (snapshot := snapshots.get(number)) is not None:
                created[attempt.machine].setdefault(snapshot, attempt.ended)
    return created


def _gone_for_good(machine: int, reads: Sequence[Read]) -> Iterator[str]:
    """A read that lacks a snapshot, after one that showed it, is followed by none that shows it again."""
    shown: dict[int, float] = {}  # when a read that shows it was first over
    gone: dict[int, float] = {}  # when a read that lacks it, begun after that, was first over
    for read in sorted(reads, key=lambda read: read.ended):
        for snapshot, since in shown.items():
            if snapshot not in read.nodes and since < read.begun:
                gone.setdefault(snapshot, read.ended)
        for snapshot in read.nodes:
            shown.setdefault(snapshot, read.ended)
            if gone.get(snapshot, 9e99) < read.begun:
                yield f"vm-{machine}: snapshot-{snapshot} was gone and came back"


def _subscribers(history: History) -> Iterator[str]:
    """Every subscriber sees each operation move on, never back, and end as it ended."""
    final = {operation.id: operation.state for operation in history.operations}
    for who, seen in history.seen.items():
        last: dict[int, str] = {}
        for number, state in seen:
            before = last.get(number, "QUEUED")
            if _RANK[state] < _RANK[before] or (before in FINAL and state != before):
                yield f"{who} saw operation-{number} go from {before} to {state}"
            last[number] = state
        for number, state in final.items():
            if last.get(number) != state:
                yield f"{who} saw operation-{number} as {last.get(number)}, and it is {state}"


def _by_machine(items: Sequence[T]) -> dict[int, list[T]]:
    grouped: dict[int, list[T]] = defaultdict(list)
    for item in items:
        grouped[item.machine].append(item)
    return grouped
