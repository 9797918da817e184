"""Sources that are declared on a schema: bounded lists, computed objects and roots, and groups, with exact results."""

from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from gateway.access.caller import ALL_RIGHTS, Caller
from gateway.access.origin import RequestOrigin
from gateway.changes.change_feed import ChangeFeed
from gateway.config import Settings
from gateway.graphql.execution.executor import GraphQLExecutor
from gateway.graphql.requests import GraphQLRequest
from gateway.http.load_shedding import LoopTurns
from gateway.models import MachineKind, SnapshotState, Surface
from gateway.operations.audit_refusals import RefusalLog
from gateway.operations.service import Operations
from tests.databases import SLOW_KINDS, Databases
from tests.reads.declared_sources import ADVICE, BOUND, FEW, declared_schema
from tests.reads.reference_model import ReferenceModel
from tests.reads.world import Row, World, populate
from tests.serving import Served, served

Json = dict[str, Any]

EVERYTHING = Caller("ann", "default")
VMS_ONLY = Caller("bob", "default", rights=frozenset(right for right in ALL_RIGHTS if right[1] is MachineKind.VM))
COST = {"cost": True}
SCHEMA = declared_schema()


class DeclaredGateway:
    """A gateway with the rows of a World, whose GraphQL schema is that of `declared_sources`."""

    def __init__(self, served_gateway: Served) -> None:
        self._served = served_gateway
        self.database = served_gateway.gateway.database
        self.world: World = populate(served_gateway)
        operations = Operations(
            self.database, {}, Settings(), wake=lambda: None, refusals=RefusalLog(self.database, "default")
        )
        self._executors = [
            GraphQLExecutor(
                self.database, operations, ChangeFeed(self.database), LoopTurns(), compiled=compiled, schema=SCHEMA
            )
            for compiled in (True, False)
        ]

    def post(self, query: str, *, caller: Caller = EVERYTHING, extensions: Any = None, **variables: Any) -> Json:
        """The response, which is the same from both finishers."""
        request = GraphQLRequest(query, None, variables, extensions or {})
        left, right = (
            orjson.loads(self._served.run(executor.execute(request, caller, RequestOrigin(Surface.GRAPHQL))).body)
            for executor in self._executors
        )
        assert left == right
        found: Json = left
        return found

    def ask(self, query: str, *, caller: Caller = EVERYTHING, **variables: Any) -> Any:
        """The data of a response without errors."""
        body = self.post(query, caller=caller, **variables)
        assert "errors" not in body, body
        return body["data"]

    def statement_count(self, query: str) -> int:
        """The minimum of several runs, because the worker and the feed send some too."""
        counts = []
        for _ in range(8):
            before = self.database.statement_count
            self.ask(query)
            counts.append(self.database.statement_count - before)
        return min(counts) // len(self._executors)

    def below(self, machine: Row) -> list[Row]:
        """The snapshots of a machine, newest first."""
        own = [row for row in self.world.snapshots if row["machine"] is machine]
        return sorted(own, key=lambda row: (row["created_at"], row["number"]), reverse=True)

    def current(self, machine: Row) -> Row | None:
        """The current snapshot of a machine."""
        return next((row for row in self.below(machine) if row["is_current"]), None)


@pytest.fixture(scope="module", params=SLOW_KINDS)
def gateway(request: pytest.FixtureRequest, databases: Databases) -> Iterator[DeclaredGateway]:
    with served(Settings(database_url=databases.new(request.param), keep_gone=1e9)) as gateway:
        yield DeclaredGateway(gateway)


def over(name: str, bound: int, path: list[str | int], place: tuple[int, int], advice: str = "") -> Json:
    """The error of a list that has more items than its bound."""
    message = f"`{name}` has more than {bound} items, so it cannot be returned.{advice}"
    location = [{"line": place[0], "column": place[1]}]
    return {"message": message, "locations": location, "path": path, "extensions": {"code": "LIMIT_EXCEEDED"}}


def machines(gateway: DeclaredGateway) -> list[Row]:
    """The machines in the order of `allMachines`."""
    return sorted(gateway.world.machines, key=lambda row: (row["power_state"].value, row["number"]))


# ---- bounded lists


def test_a_list_at_its_bound_is_complete_and_ordered(gateway: DeclaredGateway) -> None:
    found = gateway.ask("{ allMachines { __typename name kind } }")["allMachines"]
    assert found == [
        {"__typename": "InspectedMachine", "name": row["name"], "kind": row["kind"]} for row in machines(gateway)
    ]


def test_a_list_over_its_bound_fails_as_a_whole(gateway: DeclaredGateway) -> None:
    assert gateway.post("{ someMachines { name } viewer { name } }") == {
        "errors": [over("someMachines", 7, ["someMachines"], (1, 3))],
        "data": {"someMachines": None, "viewer": {"name": "ann"}},
    }
    assert gateway.post("{ viewer { name } tooManyMachines { name } }") == {
        "errors": [over("tooManyMachines", 7, ["tooManyMachines"], (1, 19))],
        "data": None,
    }


def test_rows_that_the_caller_may_not_see_do_not_count(gateway: DeclaredGateway) -> None:
    visible = [row for row in machines(gateway) if row["kind"] is MachineKind.VM]
    found = gateway.ask("{ tooManyMachines { name } allMachines { name } }", caller=VMS_ONLY)
    assert sorted(row["name"] for row in found["tooManyMachines"]) == sorted(row["name"] for row in visible)
    assert found["allMachines"] == [{"name": row["name"]} for row in visible]


def test_only_the_list_that_is_over_its_bound_is_null(gateway: DeclaredGateway) -> None:
    expected, errors = [], []
    for place, machine in enumerate(machines(gateway)):
        rows = gateway.below(machine)
        fits = len(rows) <= BOUND
        expected.append({"someSnapshots": [{"id": row["id"]} for row in rows] if fits else None})
        if not fits:
            errors.append(over("someSnapshots", BOUND, ["allMachines", place, "someSnapshots"], (1, 17)))
    assert 0 < len(errors) < len(expected)
    body = gateway.post("{ allMachines { someSnapshots { id } } }")
    assert body == {"errors": errors, "data": {"allMachines": expected}}


def test_null_takes_the_place_of_the_nearest_value_that_may_be_null(gateway: DeclaredGateway) -> None:
    """`InspectedSnapshot.followers` is non-null, and `InspectedMachine.current` is not."""
    expected: list[Json] = []
    errors = []
    for place, machine in enumerate(machines(gateway)):
        current = gateway.current(machine)
        shown = None
        if current is not None:
            count = sum(row["parent_id"] == current["number"] for row in gateway.world.snapshots)
            if count <= FEW:
                shown = {"x": [{"__typename": "InspectedSnapshot"}] * count}
            else:
                errors.append(over("followers", FEW, ["allMachines", place, "current", "x"], (3, 5), f" {ADVICE}"))
        expected.append({"current": shown})
    assert 0 < len(errors) < sum(gateway.current(machine) is not None for machine in gateway.world.machines)
    body = gateway.post("{ allMachines { current {\n  # below\n    x: followers { __typename } } } }")
    assert body == {"errors": errors, "data": {"allMachines": expected}}


def test_a_list_without_a_place_for_null_costs_the_response_its_data(gateway: DeclaredGateway) -> None:
    place = next(n for n, row in enumerate(machines(gateway)) if len(gateway.below(row)) > BOUND)
    body = gateway.post("{ allMachines { snapshots { name } } }")
    assert body == {"errors": [over("snapshots", BOUND, ["allMachines", place, "snapshots"], (1, 17))], "data": None}


def test_a_list_by_a_condition_and_in_an_order_of_its_own(gateway: DeclaredGateway) -> None:
    for caller in (EVERYTHING, VMS_ONLY):
        found = gateway.ask("{ allMachines { current { twins { createdAt machine { id } } } } }", caller=caller)
        visible = [row for row in machines(gateway) if row["kind"] in caller.readable_kinds]
        for machine, shown in zip(visible, found["allMachines"], strict=True):
            current = gateway.current(machine)
            if current is None:
                assert shown == {"current": None}
                continue
            twins = [
                row
                for row in gateway.world.snapshots
                if row["machine"]["kind"] in caller.readable_kinds
                and (row["name"] == current["name"] or row["parent_id"] == current["number"])
            ]
            twins.sort(key=lambda row: row["number"])
            twins.sort(key=lambda row: str(row["machine"]["name"]), reverse=True)
            assert [twin["machine"]["id"] for twin in shown["current"]["twins"]] == [
                row["machine"]["id"] for row in twins
            ]


@pytest.mark.parametrize(
    ("query", "count"),
    [
        ("{ allMachines { name } }", 1),
        ("{ machines { nodes { id } } allMachines { current { name } } }", 3),
        ("{ allMachines { current { twins { name machine { name } } } } }", 4),
        ("{ snapshotCounts { count } }", 1),
        ("{ simulations(count: 3) { snapshotCount } }", 0),
        ("{ simulations(count: 3) { machine { name } } }", 1),
        ('{ simulate(machineId: "vm-2", count: 3) { machine { name } steps { at } } }', 2),
    ],
)
def test_statement_count(gateway: DeclaredGateway, query: str, count: int) -> None:
    assert gateway.statement_count(query) == count


@pytest.mark.parametrize(
    ("query", "cost"),
    [
        ("{ allMachines { name } }", 1 + 8),
        ("{ allMachines { someSnapshots { machine { id } } } }", 1 + 8 * (1 + 1 + BOUND * (1 + 1))),
        ("{ allMachines { current { labels(count: 3) { text } } } }", 1 + 8 * (1 + 1)),
        ("{ snapshotCounts { count } }", 1 + 10 + 10),
        ('{ simulate(machineId: "vm-2", count: 1) { steps { at } machine { name } } }', 5 + 1),
        ('{ echo(text: "x") }', 1),
    ],
)
def test_cost(gateway: DeclaredGateway, query: str, cost: int) -> None:
    assert gateway.post(query, extensions=COST)["extensions"]["cost"]["requested"] == cost


def test_an_error_has_the_locations_of_all_selections_of_its_field(gateway: DeclaredGateway) -> None:
    query = '{ someMachines { name } vm(id: "x") { id } someMachines { kind } vm(id: "x") { name } }'
    errors = gateway.post(query)["errors"]
    assert [(error["path"], [place["column"] for place in error["locations"]]) for error in errors] == [
        (["someMachines"], [3, 44]),
        (["vm"], [25, 66]),
    ]


# ---- computed


def test_computed_values_with_arguments(gateway: DeclaredGateway) -> None:
    query = """query ($count: Int!, $prefix: String) { allMachines { current {
        name labels(count: $count) { t: text number __typename } one: labels(count: 1) { text }
        label(prefix: $prefix) { text } letters(count: 2) } } }"""
    for count, prefix in ((2, "p-"), (0, None)):
        found = gateway.ask(query, count=count, prefix=prefix)["allMachines"]
        for machine, shown in zip(machines(gateway), found, strict=True):
            row = gateway.current(machine)
            if row is None:
                assert shown == {"current": None}
                continue
            name, size = row["name"], row["size_bytes"]
            number = None if size is None else size % 100
            assert shown["current"] == {
                "name": name,
                "labels": [{"t": f"{name} {n}", "number": number, "__typename": "Label"} for n in range(count)],
                "one": [{"text": f"{name} 0"}],
                "label": None if size is None else {"text": f"{prefix}{name}"},
                "letters": list(name[:2]),
            }


def test_invalid_arguments_are_refused_before_any_statement(gateway: DeclaredGateway) -> None:
    query = "query ($n: Int!) { viewer { name } allMachines { current { labels(count: $n) { text } } } }"
    before = gateway.database.statement_count
    body = gateway.post(query, n=4)
    assert body["errors"] == [
        {
            "message": "`count` must be between 0 and 3, not 4.",
            "locations": [{"line": 1, "column": 60}],
            "path": ["allMachines"],
            "extensions": {"code": "BAD_USER_INPUT"},
        }
    ]
    assert gateway.database.statement_count - before < 10  # those of the worker and the feed
    (error,) = gateway.post('{ simulate(machineId: "x", count: 1) { snapshotCount } }')["errors"]
    assert error["extensions"] == {"code": "BAD_USER_INPUT"}
    assert error["path"] == ["simulate"]


def test_a_root_computed_in_the_transaction_of_the_query(gateway: DeclaredGateway) -> None:
    query = """query ($id: ID!) { simulate(machineId: $id, count: 2) {
        machine { id } snapshotCount steps { at kept } last { at } } }"""
    for row in gateway.world.machines:
        for caller in (EVERYTHING, VMS_ONLY):
            sees = caller is EVERYTHING or row["kind"] is MachineKind.VM
            count = len(gateway.below(row)) if sees else 0
            assert gateway.ask(query, caller=caller, id=row["id"])["simulate"] == {
                "machine": {"id": row["id"]} if sees else None,
                "snapshotCount": count,
                "steps": [{"at": 0, "kept": []}, {"at": 1, "kept": [f"{count}-0"]}],
                "last": {"at": 1},
            }


def test_computed_roots_that_are_lists_leaves_or_null(gateway: DeclaredGateway) -> None:
    found = gateway.ask('{ simulations(count: 2) { machine { id } steps { at } last { at } } a: echo(text: "x") echo }')
    first, second = (row["id"] for row in gateway.world.machines[:2])
    assert found == {
        "simulations": [{"machine": {"id": id_}, "steps": [], "last": None} for id_ in (first, second)],
        "a": ["ann", "x"],
        "echo": None,
    }


# ---- groups

COUNTS = """query ($machine: MachineFilter, $name: StringFilter) { snapshotCounts(machine: $machine, name: $name) {
    state memory count namedCount totalBytes } }"""


@pytest.mark.parametrize("caller", [EVERYTHING, VMS_ONLY], ids=["everything", "vms only"])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"machine": {}, "name": None},
        {"machine": {"not": {"name": {"eq": "web"}}}},
        {"name": {"contains": "t"}, "machine": {"powerState": {"ne": "ON"}}},
        {"name": {"in": []}},
    ],
)
def test_groups_count_what_matches_and_is_visible(gateway: DeclaredGateway, arguments: Json, caller: Caller) -> None:
    model = ReferenceModel(gateway.world.snapshots)
    given = {name: value for name, value in arguments.items() if value is not None}
    rows = [
        row
        for row in gateway.world.snapshots
        if model.snapshot(row, given) and row["machine"]["kind"] in caller.readable_kinds
    ]
    expected = []
    for state in reversed(SnapshotState):
        for memory in (False, True):
            group = [row for row in rows if row["state"] is state and row["memory"] is memory]
            total = min(sum(row["size_bytes"] or 0 for row in group), 2**63 - 1)
            counts = {"count": len(group), "namedCount": sum(row["name"] != "" for row in group)}
            if group:
                expected.append({"state": state.value, "memory": memory, **counts, "totalBytes": str(total)})
    assert gateway.ask(COUNTS, caller=caller, **arguments)["snapshotCounts"] == expected


def test_groups_are_ordered_and_bounded(gateway: DeclaredGateway) -> None:
    states = sorted({row["power_state"].value for row in gateway.world.machines})
    assert [row["powerState"] for row in gateway.ask("{ powerCounts { powerState } }")["powerCounts"]] == states
    assert gateway.post("{ tooManyCounts { count } powerCounts { __typename } }") == {
        "errors": [over("tooManyCounts", 9, ["tooManyCounts"], (1, 3))],
        "data": {"tooManyCounts": None, "powerCounts": [{"__typename": "PowerCount"}] * len(states)},
    }


def test_an_invalid_filter_of_groups_is_refused_with_its_path(gateway: DeclaredGateway) -> None:
    (error,) = gateway.post(COUNTS, machine={"name": {}})["errors"]
    assert error["message"].startswith("machine.name: An operator is missing")
    assert error["path"] == ["snapshotCounts"]
    assert error["extensions"] == {"code": "BAD_USER_INPUT"}
