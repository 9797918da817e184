"""The subscription `machineChanged`: changes of machines and of their number of snapshots, and what stops matching."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Settings
from gateway.models import Machine
from gateway.reads.entities import MACHINE
from gateway.reads.filters import RelatedRowsFilter
from gateway.store.statements import table_of
from tests.databases import SLOW_KINDS, Databases
from tests.graphql.client import (
    CREATE,
    DELETE,
    REFRESH,
    await_final_state,
    execute_sql,
    mutate,
    provider_ref,
    set_latency,
)
from tests.graphql.subscription_clients import Bodies, Subscribe, subscribe_by_sse, subscribe_by_websocket
from tests.serving import Served, served, without_refreshes
from tests.waiting import at_most, within

CHANGED = """subscription ($filter: MachineFilter) { machineChanged(filter: $filter) {
    kind machineId deletedMachineId machine { id powerState goneAt snapshots(first: 0) { totalCount } } } }"""
FOLLOWED = """subscription ($filter: MachineFilter) { machineChanged(filter: $filter) {
    kind machineId deletedMachineId machine { id description } } }"""
MARKS = count()
REFRESHED = "UPDATE simulated_machine SET {change} WHERE ref = '{ref}'"
ON = {"powerState": {"eq": "ON"}}
MAX_MATCHES = 10_000


@pytest.fixture(scope="module", params=SLOW_KINDS)
def gateway(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Served]:
    """Each test uses other machines. They are not refreshed without a request."""
    settings = Settings(database_url=databases.new(request.param, demo=True), drain_timeout=0.1)
    with served(settings, jobs=without_refreshes) as gateway:
        set_latency(gateway, 0)
        yield gateway


@contextmanager
def subscribed(gateway: Served, filter: Any = None, event: str | None = None) -> Iterator[Bodies]:
    """Subscribes, and begins the block when it is known which machines match: the stream then has an event id."""
    body = {"query": CHANGED, "variables": {"filter": filter}, "extensions": {"lastEventId": event} if event else None}
    headers = {"accept": "text/event-stream"}
    with gateway.http.stream("POST", "/graphql", json=body, headers=headers) as response:
        lines = within(response.iter_lines())
        if event is None:
            assert next(line for line in lines if line.startswith(("id: ", "data: "))).startswith("id: ")
        yield (json.loads(line[6:]) for line in lines if line.startswith("data: {"))


def settle(gateway: Served) -> None:
    """Waits until the gateway has sent all changes so far, so that a subscription receives only later ones."""
    mark = f"mark {next(MARKS)}"
    with subscribe_by_websocket(gateway, FOLLOWED) as bodies:
        set_machine(gateway, "vm-38", description=f"'{mark}'")
        for _ in at_most(2 * MAX_MATCHES):
            if (next(bodies)["data"]["machineChanged"]["machine"] or {}).get("description") == mark:
                break


def change(bodies: Bodies) -> dict[str, Any]:
    """The next change."""
    body = next(bodies)
    assert "errors" not in body, body
    found: dict[str, Any] = body["data"]["machineChanged"]
    return found


def removed(machine: str) -> dict[str, Any]:
    return {"kind": "REMOVED", "machineId": machine, "deletedMachineId": machine, "machine": None}


def set_machine(gateway: Served, machine: str, **values: str) -> None:
    """Updates the row of a machine of the inventory. The values are SQL."""
    sets = ", ".join(f"{name} = {value}" for name, value in values.items())
    execute_sql(gateway, f"UPDATE machine SET {sets} WHERE id = {machine.partition('-')[2]}")


def refresh(gateway: Served, machine: str, change: str) -> None:
    """Changes the machine at the provider, and refreshes it."""
    execute_sql(gateway, REFRESHED.format(change=change, ref=provider_ref(gateway, machine)))
    operation = mutate(gateway, REFRESH, machineId=machine)["operation"]
    assert await_final_state(gateway, operation["id"]) == ("SUCCEEDED", None)


@pytest.mark.parametrize("subscribe", [subscribe_by_sse, subscribe_by_websocket])
def test_changes_of_a_machine(gateway: Served, subscribe: Subscribe) -> None:
    """Of its power state, of its number of snapshots, when it is gone and when it is back; not of a snapshot itself."""
    with subscribe(gateway, CHANGED, filter={"id": {"eq": "vm-11"}}) as bodies:
        snapshots = gateway.ask('{ vm(id: "vm-11") { snapshots(first: 0) { totalCount } } }')["vm"]["snapshots"]
        common = {"id": "vm-11", "goneAt": None, "snapshots": snapshots}
        for power_state in ("OFF", "ON"):
            refresh(gateway, "vm-11", f"power_state = '{power_state}'")
            assert change(bodies) == {
                "kind": "UPDATED",
                "machineId": "vm-11",
                "deletedMachineId": None,
                "machine": common | {"powerState": power_state},
            }
        created = mutate(gateway, CREATE, machineId="vm-11", name="counted")
        assert change(bodies)["machine"]["snapshots"]["totalCount"] == snapshots["totalCount"] + 1
        assert await_final_state(gateway, created["operation"]["id"]) == ("SUCCEEDED", None)
        (deleted,) = mutate(gateway, DELETE, ids=[created["snapshot"]["id"]])["results"]
        assert await_final_state(gateway, deleted["operation"]["id"]) == ("SUCCEEDED", None)
        assert change(bodies)["machine"]["snapshots"] == snapshots
        ref = provider_ref(gateway, "vm-11")
        refresh(gateway, "vm-11", "ref = 'elsewhere'")
        assert change(bodies)["machine"]["goneAt"] is not None
        execute_sql(gateway, REFRESHED.format(change=f"ref = '{ref}'", ref="elsewhere"))
        set_machine(gateway, "vm-11", gone_at="NULL")
        assert change(bodies) == {
            "kind": "UPDATED",
            "machineId": "vm-11",
            "deletedMachineId": None,
            "machine": common | {"powerState": "ON"},
        }


def test_what_is_no_change(gateway: Served) -> None:
    """A refresh that finds no change; sizes and states of snapshots."""
    settle(gateway)
    with subscribed(gateway) as bodies:
        refresh(gateway, "vm-12", "latency_ms = 0")
        set_machine(gateway, "vm-12", observed_at="updated_at", updated_at="observed_at")
        execute_sql(gateway, "UPDATE snapshot SET size_bytes = 5, state = 'ERROR' WHERE machine_id = 12")
        set_machine(gateway, "vm-13", description="'changed'")
        assert change(bodies)["machineId"] == "vm-13"


def test_what_stops_matching_and_matches_again(gateway: Served) -> None:
    filter = {"and": [ON, {"id": {"in": ["vm-14", "vm-15"]}}]}
    set_machine(gateway, "vm-14", power_state="'ON'", description="NULL")
    set_machine(gateway, "vm-15", power_state="'OFF'", description="NULL")
    settle(gateway)
    with subscribed(gateway, filter) as bodies:
        set_machine(gateway, "vm-15", description="'it does not match'")
        set_machine(gateway, "vm-14", power_state="'OFF'")
        assert change(bodies) == removed("vm-14")
        set_machine(gateway, "vm-14", description="'it still does not match'")
        set_machine(gateway, "vm-15", power_state="'ON'")
        assert (found := change(bodies)) | {"kind": "CREATED", "machineId": "vm-15"} == found
        assert found["machine"]["powerState"] == "ON"
        set_machine(gateway, "vm-15", description="'it still matches'")
        assert change(bodies)["kind"] == "UPDATED"


def test_filter_that_reads_snapshots(gateway: Served) -> None:
    """A change of a snapshot decides whether its machine matches."""
    filter = {"not": {"not": {"someSnapshot": {"name": {"eq": "decisive"}}}}}
    number = gateway.ask('{ vm(id: "vm-18") { snapshots(first: 1) { nodes { id } } } }')["vm"]["snapshots"]["nodes"]
    settle(gateway)
    rename = "UPDATE snapshot SET name = '{0}', name_folded = '{0}' WHERE id = " + number[0]["id"].partition("-")[2]
    with subscribed(gateway, filter) as bodies:
        execute_sql(gateway, rename.format("decisive"))
        assert (found := change(bodies)) | {"kind": "CREATED", "machineId": "vm-18"} == found
        execute_sql(gateway, "UPDATE snapshot SET description = 'no change of the machine' WHERE machine_id = 18")
        execute_sql(gateway, rename.format("another"))
        assert change(bodies) == removed("vm-18")


def test_filters_that_read_other_rows_read_snapshots_only() -> None:
    """Changes of other rows, on which a new filter may depend, do not reach the subscription yet."""
    related = {name for name, each in MACHINE.filters.items() if isinstance(each, RelatedRowsFilter)}
    assert related == {"someSnapshot"}


def insert_machines(gateway: Served, first: int, last: int, *, host: str = "new") -> None:
    """Inserts copies of a machine of the demo world."""
    copied = [column.name for column in table_of(Machine).c if column.name not in ("id", "host", "provider_ref")]
    columns = ", ".join(copied)
    execute_sql(
        gateway,
        f"WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i < {last})"
        f" INSERT INTO machine (id, host, provider_ref, {columns})"
        f" SELECT n.i, '{host}', 'copy-' || n.i, {columns} FROM machine, n WHERE id = 20",
    )


def delete_machine(gateway: Served, number: int) -> None:
    execute_sql(gateway, f"DELETE FROM machine WHERE id = {number}")


def test_machines_that_are_added_and_deleted(gateway: Served) -> None:
    """A subscriber whose filter never matched a machine does not learn that it was deleted."""
    settle(gateway)
    with (
        subscribed(gateway) as all_machines,
        subscribed(gateway, {"host": {"eq": "added"}}) as some,
        subscribed(gateway, {"host": {"eq": "other"}}) as others,
    ):
        insert_machines(gateway, 5_001, 5_001, host="added")
        insert_machines(gateway, 5_002, 5_002, host="other")
        for bodies, machine in ((all_machines, 5_001), (all_machines, 5_002), (some, 5_001), (others, 5_002)):
            assert (found := change(bodies)) | {"kind": "CREATED", "machineId": f"vm-{machine}"} == found
        delete_machine(gateway, 5_001)
        delete_machine(gateway, 5_002)
        assert [change(all_machines) for _ in range(2)] == [removed("vm-5001"), removed("vm-5002")]
        assert change(some) == removed("vm-5001")
        assert change(others) == removed("vm-5002")


def test_number_of_machines_that_match_is_limited(gateway: Served) -> None:
    """Only those that match a filter, when the subscription starts and later."""
    expected = {
        "message": "More than 10,000 machines match the filter. Narrow it, or subscribe without a filter.",
        "extensions": {"code": "LIMIT_EXCEEDED", "retryable": True},
    }
    filter = {"host": {"eq": "many"}}
    insert_machines(gateway, 10_001, 10_000 + MAX_MATCHES, host="many")
    settle(gateway)
    try:
        with subscribed(gateway, filter) as bodies, subscribed(gateway) as all_machines:
            set_machine(gateway, "vm-10001", description="'changed'")
            assert change(bodies)["kind"] == "UPDATED"
            insert_machines(gateway, 30_001, 30_001, host="many")
            assert change(bodies)["kind"] == "CREATED"
            (error,) = next(bodies)["errors"]
            assert {name: error[name] for name in expected} == expected
            assert next(bodies, None) is None
            assert [change(all_machines)["kind"] for _ in range(2)] == ["UPDATED", "CREATED"]
        with subscribe_by_sse(gateway, CHANGED, filter=filter) as bodies:
            (error,) = next(bodies)["errors"]
        assert {name: error[name] for name in expected} == expected
    finally:
        execute_sql(gateway, "DELETE FROM machine WHERE host = 'many'")


@pytest.mark.parametrize("subscribe", [subscribe_by_sse, subscribe_by_websocket])
@pytest.mark.parametrize(
    ("filter", "message"),
    [
        ({"powerState": {}}, "filter.powerState: An operator is missing, such as {eq: …}."),
        ({"id": {"eq": "x"}}, "filter.id.eq: 'x' is not an id."),
        (
            {"or": [{"name": {"like": "\\"}}]},
            "filter.or[0].name.like: A backslash is only allowed before `*` or another",
        ),
    ],
)
def test_invalid_filters(gateway: Served, subscribe: Subscribe, filter: Any, message: str) -> None:
    with subscribe(gateway, CHANGED, filter=filter) as bodies:
        (body,) = bodies
    (error,) = body["errors"]
    assert error["extensions"]["code"] == "BAD_USER_INPUT"
    assert error["message"].startswith(message)
    assert error["path"] == ["machineChanged"]


def test_invalid_event_id(gateway: Served) -> None:
    with subscribed(gateway, event="1-999999999") as bodies:
        (body,) = bodies
    assert body["errors"][0]["extensions"]["code"] == "LIMIT_EXCEEDED"


def test_machines_of_an_unknown_kind_are_not_sent(gateway: Served) -> None:
    """A newer version may add kinds, which this one has no type for."""
    settle(gateway)
    with subscribed(gateway) as bodies:
        insert_machines(gateway, 6_001, 6_001)
        assert change(bodies)["machineId"] == "vm-6001"
        set_machine(gateway, "vm-6001", kind="'CONTAINER'", description="'changed'")
        delete_machine(gateway, 6_001)
        set_machine(gateway, "vm-19", description="'next'")
        assert change(bodies)["machineId"] == "vm-19"


def test_missed_changes_are_sent(gateway: Served) -> None:
    """Also of what has stopped matching. What has changed and does not match is removed, whether or not it matched."""
    filter = {"and": [ON, {"id": {"in": ["vm-33", "vm-34", "vm-35", "vm-36", "vm-37"]}}]}
    for machine in ("vm-33", "vm-34", "vm-35", "vm-36"):
        set_machine(gateway, machine, power_state="'ON'")
    set_machine(gateway, "vm-37", power_state="'OFF'")
    settle(gateway)
    with subscribed(gateway, filter) as bodies:
        set_machine(gateway, "vm-33", description="'before'")
        event = next(bodies)["extensions"]["eventId"]
    set_machine(gateway, "vm-34", power_state="'OFF'")
    set_machine(gateway, "vm-35", description="'still matches'")
    set_machine(gateway, "vm-37", description="'never matched'")
    with subscribed(gateway, filter, event) as bodies:
        assert change(bodies) == removed("vm-34")
        assert (found := change(bodies)) | {"kind": "UPDATED", "machineId": "vm-35"} == found
        assert change(bodies) == removed("vm-37")
        set_machine(gateway, "vm-37", description="'known not to match'")
        set_machine(gateway, "vm-36", power_state="'OFF'")
        assert change(bodies) == removed("vm-36")


# ---- a client that applies all changes has the list

SENTINEL = "vm-7100"  # matches every filter
FILTERS = [
    None,
    {},
    *(
        {"or": [filter, {"id": {"eq": SENTINEL}}]}
        for filter in (
            ON,
            {"not": ON},
            {"or": [{"snapshotCount": {"gt": 0}}, {"goneAt": {"isNull": False}}]},
            {"someSnapshot": {"state": {"eq": "ERROR"}}},
            {"not": {"someSnapshot": {"state": {"eq": "ERROR"}}}},
            {"kind": {"eq": "VM"}, "description": {"eq": "changed"}},
        )
    ),
]
MATCHING = "query ($filter: MachineFilter) { machines(filter: $filter, first: 1000) { nodes { id description } } }"
NUMBERS = (7_001, 7_002, 7_003)
STATEMENTS = {
    "on": ["UPDATE machine SET power_state = 'ON' WHERE id = {number}"],
    "off": ["UPDATE machine SET power_state = 'OFF' WHERE id = {number}"],
    "describe": ["UPDATE machine SET description = 'changed' WHERE id = {number}"],
    "undescribe": ["UPDATE machine SET description = NULL WHERE id = {number}"],
    "gone": ["UPDATE machine SET gone_at = updated_at WHERE id = {number}"],
    "back": ["UPDATE machine SET gone_at = NULL WHERE id = {number}"],
    "add snapshot": [
        """INSERT INTO snapshot (tenant, machine_id, name, name_folded, state, memory, is_current, created_at)
        SELECT tenant, id, 's', 's', 'READY', FALSE, FALSE, created_at FROM machine WHERE id = {number}"""
    ],
    "fail snapshots": ["UPDATE snapshot SET state = 'ERROR' WHERE machine_id = {number}"],
    "delete snapshots": ["DELETE FROM snapshot WHERE machine_id = {number}"],
    "delete": ["DELETE FROM snapshot WHERE machine_id = {number}", "DELETE FROM machine WHERE id = {number}"],
}
STEPS = st.lists(st.tuples(st.sampled_from(NUMBERS), st.sampled_from([*STATEMENTS, "insert"])), max_size=6)


def apply_step(gateway: Served, number: int, step: str) -> None:
    if step == "insert":
        delete_machines(gateway, number)
        insert_machines(gateway, number, number)
    for sql in STATEMENTS.get(step, ()):
        execute_sql(gateway, sql.format(number=number))


def delete_machines(gateway: Served, *numbers: int) -> None:
    for number in numbers:
        apply_step(gateway, number, "delete")


class Follower:
    """A client that reads a list, subscribes to its changes, applies them, and reconnects."""

    def __init__(self, gateway: Served, filter: Any) -> None:
        self._gateway = gateway
        self._filter = filter
        self._event: str | None = None
        self.machines: dict[str, str | None] = {}

    def follow(self, steps: list[tuple[int, str]], name: str) -> None:
        """Connects, lets `steps` happen, and applies all changes up to that of the sentinel, which is the last one."""
        members = {"extensions": {"lastEventId": self._event}} if self._event else {}
        with subscribe_by_websocket(self._gateway, FOLLOWED, filter=self._filter, members=members) as bodies:
            if self._event is None:
                self.machines = self.read()
            for number, step in steps:
                apply_step(self._gateway, number, step)
            set_machine(self._gateway, SENTINEL, description=f"'{name}'")
            for _ in at_most(1_000):
                if self.machines.get(SENTINEL) == name:
                    break
                self._apply(next(bodies))

    def read(self) -> dict[str, str | None]:
        nodes = self._gateway.ask(MATCHING, filter=self._filter)["machines"]["nodes"]
        return {node["id"]: node["description"] for node in nodes}

    def _apply(self, body: dict[str, Any]) -> None:
        assert "errors" not in body, body
        change = body["data"]["machineChanged"]
        self._event = body["extensions"]["eventId"]
        if change["kind"] == "REMOVED":
            assert change["machine"] is None
            self.machines.pop(change["deletedMachineId"], None)
        else:
            assert change["deletedMachineId"] is None
            self.machines[change["machineId"]] = change["machine"]["description"]


@pytest.fixture(scope="module", params=SLOW_KINDS)
def quiet(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Served]:
    with served(Settings(database_url=databases.new(request.param, demo=True)), jobs=without_refreshes) as gateway:
        yield gateway


@given(filter=st.sampled_from(FILTERS), phases=st.lists(st.tuples(STEPS, STEPS), min_size=1, max_size=3))
def test_a_client_that_applies_all_changes_has_the_list(
    quiet: Served, filter: Any, phases: list[tuple[list[tuple[int, str]], list[tuple[int, str]]]]
) -> None:
    """Also if it reconnects: the first steps of each phase happen while it is disconnected."""
    delete_machines(quiet, *NUMBERS, 7_100)
    insert_machines(quiet, 7_100, 7_100)
    insert_machines(quiet, NUMBERS[0], NUMBERS[1])
    follower = Follower(quiet, filter)
    for number, (before, during) in enumerate(phases):
        for step in before:
            apply_step(quiet, *step)
        follower.follow(during, f"phase {number}")
        assert follower.machines == follower.read()
