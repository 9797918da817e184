"""Random requests, some of which have ids and cursors of rows that their caller may not read.

Strategies are cached, because Hypothesis analyzes each new one, which takes longer than the requests of a test.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

from graphql import GraphQLField
from hypothesis import strategies as st

from gateway.graphql.schema.build import executable_schema
from gateway.models import MachineKind, OperationKind, OperationState, Provider
from tests.reads import strategies as reads
from tests.reads.queries import Queries
from tests.rest.strategies import machine_pairs, requests, snapshot_pairs
from tests.rights.world import World

Json = dict[str, Any]
Requests = st.SearchStrategy[tuple[str, str, Json]]  # method, path and the rest of a REST request

SCHEMA = executable_schema()

SORTS = {
    "SnapshotSort": ["ID", "NAME", "DESCRIPTION", "STATE", "SIZE_BYTES", "CREATED_AT", "MACHINE_NAME"],
    "MachineSort": ["ID", "NAME", "POWER_STATE", "CREATED_AT", "UPDATED_AT", "SNAPSHOT_COUNT"],
    "OperationSort": ["ID", "CREATED_AT", "FINISHED_AT"],
}
TEXTS = {"NAME", "DESCRIPTION", "MACHINE_NAME"}


class GuessingQueries(Queries):
    """Random queries with ids and cursors of all rows, also of those that the caller may not read."""

    def __init__(self, world: World, cursors: Sequence[str], seed: int) -> None:
        super().__init__(
            SCHEMA, [id_ for noun in ("machines", "snapshots", "operations") for id_ in world.ids(noun)], seed
        )
        self._cursors = cursors

    def _field(self, name: str, field: GraphQLField, depth: int) -> str:
        # A gateway with the readable data alone grants all rights, so its `viewer` has others.
        return "__typename" if name == "rights" else super()._field(name, field, depth)

    def _argument(self, name: str, type_: str) -> str:
        if name in ("after", "before") and self._chance(0.8):
            return self._variable("String", self._random.choice(self._cursors))
        return super()._argument(name, type_)


@cache
def pages(noun: str, world: World) -> st.SearchStrategy[Json]:
    """Filter, sort and page of a list of machines, snapshots or operations, without cursors."""
    snapshot, machine = reads.filters(world.ids("snapshots"), world.ids("machines"))
    filters = {"MachineSort": machine, "SnapshotSort": snapshot, "OperationSort": _operation_filters(world)}
    size = st.integers(0, 30)
    return st.fixed_dictionaries(
        {"filter": filters[noun], "sort": reads.sorts(SORTS[noun], TEXTS)},
        optional={"first": size, "offset": st.integers(0, 20)},
    ) | st.fixed_dictionaries({"filter": filters[noun], "sort": reads.sorts(SORTS[noun], TEXTS), "last": size})


def _operation_filters(world: World) -> st.SearchStrategy[Json]:
    known = world.ids("operations")
    kinds, states = (st.sampled_from([str(one) for one in enum]) for enum in (OperationKind, OperationState))
    members: dict[str, st.SearchStrategy[Any]] = {
        "id": reads.identifiers(known),
        "kind": st.fixed_dictionaries({"in": st.lists(kinds, max_size=3)}),
        "state": st.fixed_dictionaries({"ne": states}),
        "createdAt": reads.moments,
        "finishedAt": reads.moments,
        "requestedBy": reads.strings,
        "machineId": reads.identifiers(world.ids("machines")),
        "snapshotId": reads.identifiers(world.ids("snapshots")),
    }
    leaves = st.fixed_dictionaries({}, optional=members)
    return leaves | leaves.map(lambda value: {"not": value})


# ---- mutations: no machine has a driver, so all of them are refused, some with NOT_FOUND


@cache
def mutations(world: World) -> st.SearchStrategy[tuple[str, Json]]:
    """The name of a mutation and its input."""
    machine, snapshot = st.sampled_from(world.ids("machines")), st.sampled_from(world.ids("snapshots"))
    operation = st.sampled_from(world.ids("operations"))
    provider = st.sampled_from([*(row.values["name"] for row in world.rows if row.table is Provider), "acme-empty"])
    new = {"name": st.just("new"), "memory": st.booleans()}
    key = {"idempotencyKey": st.sampled_from(["k1", "k2"])}
    flags = {name: st.booleans() for name in ("withDescendants", "allOrNothing", "dryRun")}
    inputs: dict[str, st.SearchStrategy[Json]] = {
        "createSnapshot": st.fixed_dictionaries({"machineId": machine, **new}, optional=key),
        "createSnapshots": st.fixed_dictionaries(
            {"machineIds": st.lists(machine, min_size=1, max_size=5), **new}, optional=key
        ),
        "revertVmSnapshot": st.fixed_dictionaries({"snapshotId": snapshot, "dryRun": st.booleans()}, optional=key),
        "deleteSnapshots": st.fixed_dictionaries(
            {"ids": st.lists(snapshot, min_size=1, max_size=5), **flags}, optional=key
        ),
        "updateSnapshot": st.fixed_dictionaries(
            {"snapshotId": snapshot}, optional=key | {"name": st.just("new"), "description": st.none()}
        ),
        "refreshMachine": st.fixed_dictionaries({"machineId": machine}, optional=key),
        "refreshProvider": st.fixed_dictionaries({"name": provider}),
        "cancelOperation": st.fixed_dictionaries({"operationId": operation}),
    }
    assert SCHEMA.mutation_type is not None
    assert set(inputs) == set(SCHEMA.mutation_type.fields)
    return st.one_of(*(st.tuples(st.just(name), input_) for name, input_ in inputs.items()))


# ---- REST

KINDS = {"vms": MachineKind.VM, "instances": MachineKind.INSTANCE}

_TASK_FILTERS = ["state=Finished", "status!=Error", "name='*'", "userid=~/a/i", "identifier>5", "pct_complete<100"]


@st.composite
def _lists(
    draw: st.DrawFn, pairs: Any, sorts: Sequence[str], attribute_names: Sequence[str], embedded: Sequence[str]
) -> Json:
    """The query parameters of a list."""
    query: Json = {"filter[]": draw(st.just([]) | pairs)}
    keys = draw(st.lists(st.sampled_from(sorts), max_size=2, unique=True))
    if keys:
        query |= {"sort_by": ",".join(keys), "sort_order": draw(st.sampled_from(["asc", "desc"]))}
    if draw(st.booleans()):
        query |= {"limit": draw(st.integers(0, 10)), "offset": draw(st.integers(0, 20))}
    query |= draw(_shape(attribute_names, embedded))
    if draw(st.booleans()):
        query["hide"] = "resources"
    return query


def _shape(attribute_names: Sequence[str], embedded: Sequence[str]) -> st.SearchStrategy[Json]:
    expand = st.sampled_from(["resources", ",".join(["resources", *embedded])])
    attributes = st.lists(st.sampled_from(attribute_names), max_size=3, unique=True).map(",".join)
    return st.fixed_dictionaries({}, optional={"expand": expand, "attributes": attributes})


_MACHINE_ATTRIBUTES = [
    "name",
    "v_total_snapshots",
    "v_snapshot_newest_name",
    "ext_management_system",
    "ems_ref",
    "actions",
]
_SNAPSHOT_ATTRIBUTES = [
    "name",
    "parent_uid",
    "parent_id",
    "vm_or_template",
    "parent.name",
    "vm_or_template.name",
    "actions",
]
_SORTS = ["name", "id", "created_on"]


@cache
def rest_requests(world: World) -> Requests:
    """Requests for lists, single resources and actions, with ids of all rows."""
    pairs = snapshot_pairs([row["id"] for row in world.snapshots[:20]])
    snapshot_filters = requests(pairs).map(lambda found: found[0])
    machine_filters = requests(machine_pairs(pairs)).map(lambda found: found[0])
    machines = _lists(machine_filters, [*_SORTS, "v_total_snapshots"], _MACHINE_ATTRIBUTES, ["snapshots"])
    snapshots = _lists(snapshot_filters, [*_SORTS, "total_size"], _SNAPSHOT_ATTRIBUTES, [])
    task_filters = st.lists(st.sampled_from(_TASK_FILTERS), min_size=1, max_size=2)
    tasks = _lists(task_filters, ["id", "name", "created_on", "message"], ["name", "message", "context_data"], [])
    collection = st.sampled_from(["vms", "instances"])
    machine = st.sampled_from([row["id"] for row in world.machines])
    snapshot = st.sampled_from([row["id"] for row in world.snapshots])
    task = st.sampled_from([row["id"] for row in world.operations])

    def get(path: st.SearchStrategy[str], query: st.SearchStrategy[Json]) -> Requests:
        return st.tuples(st.just("GET"), path, query.map(lambda found: {"params": found}))

    one = st.builds("/{}/{}".format, collection, machine)
    list_ = st.builds("/{}/{}/snapshots".format, collection, machine)
    # A snapshot under its own machine, or under any machine.
    own = st.builds(lambda name, row: f"/{name}/{row['machine_id']}/snapshots/{row['id']}", collection,
                    st.sampled_from(world.snapshots))  # fmt: skip
    resource = own | st.builds("/{}/{}/snapshots/{}".format, collection, machine, snapshot)
    return st.one_of(
        get(collection.map("/{}".format), machines),
        get(st.just("/tasks"), tasks),
        get(one, _shape(_MACHINE_ATTRIBUTES, ["snapshots"])),
        get(list_, snapshots),
        get(resource, _shape(_SNAPSHOT_ATTRIBUTES, [])),
        get(st.builds("/tasks/{}".format, task), st.just({})),
        st.tuples(st.just("OPTIONS"), list_, st.just({})),
        st.tuples(st.just("POST"), list_, st.just({"json": {"name": "new"}})),
        st.tuples(st.just("POST"), list_, _bulk(snapshot)),
        st.tuples(st.just("POST"), resource, st.sampled_from(["revert", "delete"]).map(_action)),
        st.tuples(st.just("DELETE"), resource, st.just({})),
    )


def _action(name: str) -> Json:
    return {"json": {"action": name}}


def _bulk(snapshot: st.SearchStrategy[int]) -> st.SearchStrategy[Json]:
    items = st.lists(snapshot.map(lambda number: {"id": number}), min_size=1, max_size=4)
    return items.map(lambda found: {"json": {"action": "delete", "resources": found}})
