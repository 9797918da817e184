"""The workloads: documents, variables that differ per request so that no response is cached, and expected responses.

W1 one machine by id with its 20 newest snapshots: 8 fields each, and `pageInfo`. W1b the same with `totalCount`.
W2 50 machines with 10 snapshots each. W3 a page of 20 after a cursor, nine tenths into the largest machine. W4 one
machine's snapshots whose name has a prefix, by name, ignoring case. W5 createSnapshot. W6 deleteSnapshots of
100. W7 1,000 snapshots in one page.
"""

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.bench import world
from tests.bench.data import Size
from tests.bench.load import without_errors

CONTRACT = "contract"  # the gateway's names, which all systems but one share
POSTGRAPHILE = "postgraphile"

FIRST_MACHINE = 100_000  # first id of tests/make_dump.py; that machine is the largest
_VARIETY = 200
_PREFIXES = ("before-upgrade", "test", "nightly", "test-restore", "Before", "Über", "wip", "release")
_DELETED = 100


@dataclass(frozen=True, slots=True)
class Cursors:
    """Cursors of one system: after pages of 50 machines by name, and in the largest machine, newest first."""

    machines: Sequence[str]
    deep: Sequence[str]
    every_thousand: Sequence[str]


Variables = dict[str, Any]
Inputs = Callable[[str, Size, Cursors], Sequence[Variables]]


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of request. `burst`: number of writes that may be sent before they are undone; 0 for a read."""

    name: str
    about: str
    connections: int
    documents: Mapping[str, str]
    inputs: Inputs
    good: Callable[[bytes], bool] = without_errors
    burst: int = 0
    rows: int = 1  # rows that one write records, by table

    def bodies(self, dialect: str, size: Size, cursors: Cursors) -> list[bytes]:
        query = self.documents[dialect]
        return [
            json.dumps({"query": query, "variables": variables}, separators=(",", ":")).encode()
            for variables in self.inputs(dialect, size, cursors)
        ]


# ---- documents. Aliases give PostGraphile's the shape of the contract, so that responses can be compared.

_FIELDS = {
    CONTRACT: "id name description state memory isCurrent sizeBytes createdAt",
    POSTGRAPHILE: "id: rowId name description state memory isCurrent sizeBytes createdAt",
}
_PAGE = "pageInfo { hasNextPage hasPreviousPage startCursor endCursor }"


def _of_machine(arguments: str, *, declared: str = "", more: str = "", postgraphile: str = "") -> dict[str, str]:
    """One machine with a page of its snapshots; `postgraphile`: the arguments as PostGraphile requires them."""
    page = f"{_PAGE} {more}"
    postgraphile = postgraphile or f"{arguments}, orderBy: [CREATED_AT_DESC]"
    return {
        CONTRACT: f"query ($id: ID!{declared}) {{ vm(id: $id) {{ id name"
        f" snapshots({arguments}) {{ nodes {{ {_FIELDS[CONTRACT]} }} {page} }} }} }}",
        POSTGRAPHILE: f"query ($id: BigInt!{declared.replace('$after: String', '$after: Cursor')})"
        " { vm: machineByRowId(rowId: $id) { id: rowId name"
        f" snapshots: snapshotsByMachineId({postgraphile}) {{ nodes {{ {_FIELDS[POSTGRAPHILE]} }} {page} }} }} }}",
    }


_MANY = {
    CONTRACT: "query ($after: String) { vms(first: 50, after: $after) { nodes { id name"
    f" snapshots(first: 10) {{ nodes {{ {_FIELDS[CONTRACT]} }} {_PAGE} }} }} {_PAGE} }} }}",
    POSTGRAPHILE: "query ($after: Cursor)"
    " { vms: allMachines(first: 50, after: $after, orderBy: [NAME_ASC]) { nodes { id: rowId name snapshots:"
    " snapshotsByMachineId(first: 10, orderBy: [CREATED_AT_DESC])"
    f" {{ nodes {{ {_FIELDS[POSTGRAPHILE]} }} {_PAGE} }} }} {_PAGE} }} }}",
}

_CREATE = {
    CONTRACT: "mutation ($input: CreateSnapshotInput!) { createSnapshot(input: $input)"
    " { snapshot { id name state } operation { id state } errors { code message } } }",
    POSTGRAPHILE: "mutation ($input: BenchCreateSnapshotInput!) { createSnapshot: benchCreateSnapshot(input: $input)"
    " { operation: result { id: rowId state snapshotId snapshotName } } }",
}

_DELETE = {
    CONTRACT: "mutation ($input: DeleteSnapshotsInput!) { deleteSnapshots(input: $input)"
    " { acceptedCount refusedCount results { snapshotId operation { id state } errors { code message } } } }",
    POSTGRAPHILE: "mutation ($input: BenchDeleteSnapshotsInput!) { deleteSnapshots: benchDeleteSnapshots(input: $input)"
    " { results: result { snapshotId id: rowId state } } }",
}

WALK_MACHINES = {
    CONTRACT: "query ($after: String) { page: vms(first: 50, after: $after) { pageInfo { endCursor } } }",
    POSTGRAPHILE: "query ($after: Cursor)"
    " { page: allMachines(first: 50, after: $after, orderBy: [NAME_ASC]) { pageInfo { endCursor } } }",
}
WALK_SNAPSHOTS = {
    CONTRACT: "query ($id: ID!, $first: Int!, $after: String) { vm(id: $id)"
    " { page: snapshots(first: $first, after: $after) { pageInfo { endCursor } } } }",
    POSTGRAPHILE: "query ($id: BigInt!, $first: Int!, $after: Cursor) { vm: machineByRowId(rowId: $id) { page:"
    " snapshotsByMachineId(first: $first, after: $after, orderBy: [CREATED_AT_DESC]) { pageInfo { endCursor } } } }",
}


# ---- variables


def machine_id(dialect: str, number: int) -> str:
    return str(number) if dialect == POSTGRAPHILE else f"vm-{number}"


def _snapshot_id(dialect: str, number: int) -> str:
    return str(number) if dialect == POSTGRAPHILE else f"snapshot-{number}"


def _some_machines(size: Size) -> list[int]:
    small_ones = range(FIRST_MACHINE + 1, FIRST_MACHINE + size.machines)
    return random.Random(3).sample(small_ones, min(_VARIETY, len(small_ones)))


def _machines(dialect: str, size: Size, _: Cursors) -> list[Variables]:
    return [{"id": machine_id(dialect, number)} for number in _some_machines(size)]


def _pages_of_machines(_dialect: str, _size: Size, cursors: Cursors) -> list[Variables]:
    return [{"after": cursor} for cursor in cursors.machines]


def _deep(dialect: str, _: Size, cursors: Cursors) -> list[Variables]:
    return [{"id": machine_id(dialect, FIRST_MACHINE), "after": cursor} for cursor in cursors.deep]


def _thousands(dialect: str, _: Size, cursors: Cursors) -> list[Variables]:
    return [{"id": machine_id(dialect, FIRST_MACHINE), "after": cursor} for cursor in cursors.every_thousand]


def _prefixes(dialect: str, size: Size, _: Cursors) -> list[Variables]:
    return [
        {"id": machine_id(dialect, number), "prefix": _PREFIXES[place % len(_PREFIXES)]}
        for place, number in enumerate(_some_machines(size))
    ]


def _creates(dialect: str, _size: Size, _cursors: Cursors) -> list[Variables]:
    machines = world.CREATED_ON
    return [
        {"input": {"machineId": machine_id(dialect, machines[place % len(machines)]), "name": f"bench {place}"}}
        for place in range(CREATE_BURST)
    ]


def _deletes(dialect: str, _size: Size, _cursors: Cursors) -> list[Variables]:
    """Ten snapshots of each of ten machines; consecutive requests have no machine in common."""
    machines = world.DELETED_ON
    groups = [machines[start : start + 10] for start in range(0, len(machines), 10)]
    slots = len(world.deletable(machines[0])) // 10
    return [
        {"input": {"ids": [_snapshot_id(dialect, id) for machine in group for id in _slot(machine, slot)]}}
        for slot in range(slots)
        for group in groups
    ]


def _slot(machine: int, slot: int) -> range:
    return world.deletable(machine)[slot * 10 : slot * 10 + 10]


CREATE_BURST = 8_000  # within the default limits of 100 unfinished operations per machine and 10,000 in total
DELETE_BURST = 90

_QUEUED = re.compile(rb'"state": ?"QUEUED"')


def _created(body: bytes) -> bool:
    return without_errors(body) and _QUEUED.search(body) is not None


def _deleted(body: bytes) -> bool:
    return without_errors(body) and len(_QUEUED.findall(body)) == _DELETED


_AFTER = ", $after: String"

WORKLOADS: Mapping[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload("W1", "one machine, 20 snapshots", 32, _of_machine("first: 20"), _machines),
        Workload("W1b", "W1 with totalCount", 32, _of_machine("first: 20", more="totalCount"), _machines),
        Workload("W2", "50 machines x 10 snapshots", 8, _MANY, _pages_of_machines),
        Workload("W3", "a page deep down", 32, _of_machine("first: 20, after: $after", declared=_AFTER), _deep),
        Workload(
            "W4",
            "name prefix, sorted without case",
            32,
            _of_machine(
                "first: 20, filter: {name: {startsWith: $prefix}}, sort: [{field: NAME, ignoreCase: true}]",
                declared=", $prefix: String!",
                postgraphile="first: 20, filter: {name: {startsWith: $prefix}}, orderBy: [NAME_FOLDED_ASC]",
            ),
            _prefixes,
        ),
        Workload("W5", "createSnapshot", 32, _CREATE, _creates, _created, CREATE_BURST),
        Workload("W6", "deleteSnapshots of 100", 8, _DELETE, _deletes, _deleted, DELETE_BURST, _DELETED),
        Workload("W7", "1,000 snapshots", 8, _of_machine("first: 1000, after: $after", declared=_AFTER), _thousands),
    )
}


# ---- responses


# PostGraphile returns false for `hasPreviousPage` of a page after a cursor, as the Relay specification allows.
_MAY_DIFFER = {"startCursor", "endCursor", "hasPreviousPage"}


def canonical(body: bytes) -> Any:
    """A response without values that may differ: cursors, the form of ids and of times."""
    return _plain(json.loads(body)["data"])


def _plain(value: Any, key: str = "") -> Any:
    match value:
        case dict():
            return {name: _plain(member, name) for name, member in value.items() if name not in _MAY_DIFFER}
        case list():
            return [_plain(member) for member in value]
        case str() if key == "id":
            return int(value.rpartition("-")[2])
        case str() if key == "createdAt":
            return re.sub(r"(\.0+)?(Z|\+00:00)$", "Z", value)
    return value


def differences(left: Any, right: Any, path: str = "data") -> Iterator[str]:
    """The paths at which two canonical responses differ."""
    if isinstance(left, dict) and isinstance(right, dict) and left.keys() == right.keys():
        for name in left:
            yield from differences(left[name], right[name], f"{path}.{name}")
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for number, (one, other) in enumerate(zip(left, right, strict=True)):
            yield from differences(one, other, f"{path}[{number}]")
    elif left != right:
        yield f"{path}: {str(left)[:200]} and {str(right)[:200]}"
