"""Rows of a newer version of the gateway, with kinds, states and codes that this one does not know, on both databases.

This version leaves them alone, shows them as UNKNOWN, and continues with everything else.
"""

from typing import Any

import pytest

from gateway.models import AuditAction, AuditEntry, AuditOutcome, Operation, OperationKind, OperationState, Surface
from gateway.store.database import Transaction
from gateway.store.statements import table_of
from tests.graphql.client import (
    CANCEL,
    CREATE,
    CREATE_SEVERAL,
    DELETE,
    REFRESH,
    await_final_state,
    execute_sql,
    mutate,
    provider_ref,
    tree,
)
from tests.serving import Served
from tests.waiting import at_most

OPERATIONS = """query ($filter: OperationFilter, $sort: [OperationSort!]) { operations(filter: $filter, sort: $sort) {
    totalCount nodes { id kind state isDone isCancelable error { code retryable } snapshot { id state } } } }"""
INTROSPECTING = OPERATIONS.replace("operations(filter", "__schema { queryType { name } } operations(filter")


def copy_row(gateway: Served, model: Any, original: int, **values: Any) -> int:
    """Copies a row with other values, as SQL. Returns the number of the copy."""
    names = [column.name for column in table_of(model).columns if column.name != "id"]
    expressions = ", ".join(values.get(name, name) for name in names)
    sql = (
        f"INSERT INTO {table_of(model).name} ({', '.join(names)}) SELECT {expressions} FROM {table_of(model).name}"
        f" WHERE id = {original} RETURNING id"
    )

    async def work(tx: Transaction) -> int:
        return int((await tx.rows(sql))[0][0])

    number: int = gateway.run(gateway.gateway.database.write(work))
    return number


def plant_operation(gateway: Served, machine: int, snapshot: str | None = None, **values: Any) -> str:
    """Adds a queued operation of a kind that only a newer version knows. Returns its id."""
    queued = {
        "kind": "'ARCHIVE_SNAPSHOT'",
        "state": "'QUEUED'",
        "machine_id": str(machine),
        "machine_kind": "'VM'",
        "snapshot_id": "NULL" if snapshot is None else snapshot.removeprefix("snapshot-"),
        "started_at": "NULL",
        "finished_at": "NULL",
        "token": f"'planted-{machine}'",
    }
    return f"operation-{copy_row(gateway, Operation, 1, **(queued | values))}"


def created(gateway: Served, machine: str, name: str) -> tuple[str, str]:
    """The ids of the operation and the snapshot of a create that was accepted."""
    payload = mutate(gateway, CREATE, machineId=machine, name=name)
    assert payload["errors"] == []
    return payload["operation"]["id"], payload["snapshot"]["id"]


def ready(gateway: Served, machine: str, name: str) -> str:
    """The id of a snapshot that was created."""
    operation, snapshot = created(gateway, machine, name)
    assert await_final_state(gateway, operation) == ("SUCCEEDED", None)
    return snapshot


def state_of(gateway: Served, operation: str) -> str:
    found: str = gateway.ask("query ($id: ID!) { operation(id: $id) { state } }", id=operation)["operation"]["state"]
    return found


def test_operation_of_an_unknown_kind_delays_its_own_machine_only(busy: Served) -> None:
    snapshot = ready(busy, "vm-12", "kept")
    before = tree(busy, "vm-12")
    unknown = plant_operation(busy, 12, snapshot)
    behind, _ = created(busy, "vm-12", "behind")
    for name in ("one", "two", "three"):  # a claim in between would fail if it read the operation
        ready(busy, "vm-13", name)
    assert (state_of(busy, unknown), state_of(busy, behind)) == ("QUEUED", "QUEUED")
    assert busy.http.get("/readyz").status_code == 200
    assert tree(busy, "vm-12")[: len(before)] == before
    number = unknown.removeprefix("operation-")
    execute_sql(busy, f"UPDATE operation SET state = 'SUCCEEDED', finished_at = created_at WHERE id = {number}")
    assert await_final_state(busy, behind) == ("SUCCEEDED", None)
    assert [row[:2] for row in tree(busy, "vm-12")[-2:]] == [("kept", "READY"), ("*behind", "READY")]


def test_operation_of_a_machine_of_an_unknown_kind_delays_no_other(busy: Served) -> None:
    plant_operation(busy, 14, kind="'REFRESH_MACHINE'", machine_kind="'CONTAINER'")
    ready(busy, "vm-13", "elsewhere")


@pytest.mark.parametrize("query", [OPERATIONS, INTROSPECTING])  # finished by the compiled renderer, by graphql-core
def test_unknown_values_are_listed_as_unknown(busy: Served, query: str) -> None:
    snapshot = ready(busy, "vm-15", "a")
    execute_sql(busy, f"UPDATE snapshot SET state = 'ARCHIVED' WHERE id = {snapshot.removeprefix('snapshot-')}")
    values = {"finished_at": "created_at", "state": "'EXPIRED'", "error_code": "'TOO_LATE'", "error_message": "'x'"}
    planted = [
        plant_operation(busy, 15, snapshot, state="'PAUSED'"),
        plant_operation(busy, 15, snapshot, **values),
    ]
    sort = [{"field": "ID", "direction": "DESC"}]
    known = [str(kind) for kind in OperationKind]
    filter_ = {"machineId": {"eq": "vm-15"}, "kind": {"notIn": known}}
    found = busy.ask(query, filter=filter_, sort=sort)["operations"]
    shown = {"kind": "UNKNOWN", "state": "UNKNOWN", "isCancelable": False}
    shown["snapshot"] = {"id": snapshot, "state": "UNKNOWN"}
    error = {"code": "UNKNOWN", "retryable": False}
    assert found["nodes"][:2] == [
        {"id": planted[1], **shown, "isDone": True, "error": error},
        {"id": planted[0], **shown, "isDone": False, "error": None},
    ]
    assert busy.await_operation(planted[1])["state"] == "UNKNOWN"  # the subscription completes


def test_operation_of_an_unknown_kind_cannot_be_canceled_here(busy: Served) -> None:
    operation = plant_operation(busy, 16)
    payload = mutate(busy, CANCEL, operationId=operation)
    assert payload["operation"] is None
    (error,) = payload["errors"]
    assert (error["code"], error["path"]) == ("UNSUPPORTED", ["input", "operationId"])
    assert error["message"] == (
        f"Operation '{operation}' is of a kind that this version of the gateway does not know, so it cannot be"
        " canceled here."
    )
    assert state_of(busy, operation) == "QUEUED"


def test_operation_in_an_unknown_state_cannot_be_canceled_here(busy: Served) -> None:
    operation = plant_operation(busy, 16, kind="'CREATE_SNAPSHOT'", state="'PAUSED'")
    (error,) = mutate(busy, CANCEL, operationId=operation)["errors"]
    assert (error["code"], error["message"]) == (
        "CONFLICT",
        f"Operation '{operation}' is in a state that this version of the gateway does not know.",
    )


def test_snapshot_in_an_unknown_state_costs_no_other(busy: Served) -> None:
    """It can be neither reverted to nor deleted, is sorted last, and is left alone by a refresh."""
    archived, other = ready(busy, "vm-17", "archived"), ready(busy, "vm-17", "other")
    execute_sql(busy, f"UPDATE snapshot SET state = 'ARCHIVED' WHERE id = {archived.removeprefix('snapshot-')}")
    query = "query ($id: ID!) { snapshot(id: $id) { state capabilities { action supported reason } } }"
    reason = "The snapshot is in a state that this version of the gateway does not know."
    actions = ("REVERT", "DELETE", "UPDATE")
    assert busy.ask(query, id=archived)["snapshot"] == {
        "state": "UNKNOWN",
        "capabilities": [{"action": action, "supported": False, "reason": reason} for action in actions],
    }
    # A refresh does not delete it, although its provider no longer has it.
    ref = provider_ref(busy, "vm-17")
    execute_sql(busy, f"DELETE FROM simulated_snapshot WHERE machine_ref = '{ref}' AND name = 'archived'")
    before = tree(busy, "vm-17")
    refresh = mutate(busy, REFRESH, machineId="vm-17")
    assert await_final_state(busy, refresh["operation"]["id"]) == ("SUCCEEDED", None)
    assert tree(busy, "vm-17") == before
    results = mutate(busy, DELETE, ids=[archived, other])["results"]
    assert [[(error["code"], error["message"]) for error in result["errors"]] for result in results] == [
        [("CONFLICT", reason)],
        [],
    ]
    assert await_final_state(busy, results[1]["operation"]["id"]) == ("SUCCEEDED", None)
    assert archived in [node["id"] for node in pages(busy, "vm-17", "STATE")]
    assert pages(busy, "vm-17", "STATE")[-1] == {"id": archived, "state": "UNKNOWN"}


def pages(gateway: Served, machine: str, key: str) -> list[dict[str, str]]:
    """All snapshots of a machine, sorted by `key`, read one at a time."""
    query = """query ($id: ID!, $key: SnapshotSortField!, $after: String) { vm(id: $id) {
        snapshots(sort: [{field: $key}], first: 1, after: $after) {
            nodes { id state } pageInfo { endCursor hasNextPage } } } }"""
    found, after = [], None
    for _ in at_most(1_000):
        page = gateway.ask(query, id=machine, key=key, after=after)["vm"]["snapshots"]
        found += page["nodes"]
        if not page["pageInfo"]["hasNextPage"]:
            break
        after = page["pageInfo"]["endCursor"]
    return found


def test_machine_in_an_unknown_power_state_can_be_listed_and_snapshotted(busy: Served) -> None:
    execute_sql(busy, "UPDATE machine SET power_state = 'PAUSED' WHERE id = 18")
    query = """{ machines(filter: {id: {eq: "vm-18"}}, sort: [{field: POWER_STATE}]) {
        nodes { powerState capabilities { action supported } } } }"""
    (machine,) = busy.ask(query)["machines"]["nodes"]
    assert machine["powerState"] == "UNKNOWN"
    supported = [capability["action"] for capability in machine["capabilities"] if capability["supported"]]
    assert supported == ["READ", "CREATE", "REVERT", "DELETE", "UPDATE"]
    payload = mutate(busy, CREATE_SEVERAL, machineIds=["vm-18", "vm-19"], name="both")
    assert (payload["acceptedCount"], payload["refusedCount"]) == (2, 0)


def test_audit_entries_of_a_newer_version_are_listed(busy: Served) -> None:
    ready(busy, "vm-13", "audited")
    entry = busy.ask("{ auditEntries(first: 1) { nodes { id } } }")["auditEntries"]["nodes"][0]["id"]
    values = {name: f"'{text}'" for name, text in NEWER_ENTRY.items()}
    number = copy_row(busy, AuditEntry, int(entry.rpartition("-")[2]), **values)
    query = (
        "query ($filter: AuditEntryFilter) { auditEntries(filter: $filter) { nodes { action outcome surface code } } }"
    )
    filter_ = {
        "action": {"notIn": [str(action) for action in AuditAction]},
        "outcome": {"notIn": [str(outcome) for outcome in AuditOutcome]},
        "surface": {"notIn": [str(surface) for surface in Surface]},
    }
    assert number
    assert busy.ask(query, filter=filter_)["auditEntries"]["nodes"] == [dict.fromkeys(NEWER_ENTRY, "UNKNOWN")]


NEWER_ENTRY = {"action": "PIN_SNAPSHOT", "outcome": "POSTPONED", "surface": "WEBHOOK", "code": "TOO_LATE"}


@pytest.mark.parametrize(
    ("field", "member"),
    [
        ("operations", "kind"),
        ("operations", "state"),
        ("auditEntries", "action"),
        ("auditEntries", "outcome"),
        ("auditEntries", "surface"),
        ("auditEntries", "code"),
    ],
)
@pytest.mark.parametrize("operator", ["eq", "ne", "in", "notIn"])
def test_unknown_is_no_operand(busy: Served, field: str, member: str, operator: str) -> None:
    operand, place = ("[UNKNOWN]", "[0]") if operator in ("in", "notIn") else ("UNKNOWN", "")
    message = (
        f"filter.{member}.{operator}{place}: UNKNOWN cannot be filtered by, because it is shown for every value that"
        " this version of the gateway does not know. To find these, use `notIn` with all other values."
    )
    query = f"{{ {field}(filter: {{{member}: {{{operator}: {operand}}}}}) {{ totalCount }} }}"
    assert busy.errors(query) == [("BAD_USER_INPUT", message)]
    type_ = {"operations": "OperationFilter", "auditEntries": "AuditEntryFilter"}[field]
    query = f"query ($filter: {type_}) {{ {field}(filter: $filter) {{ totalCount }} }}"
    variable: Any = ["UNKNOWN"] if place else "UNKNOWN"
    assert busy.errors(query, filter={member: {operator: variable}}) == [("BAD_USER_INPUT", message)]


def test_unknown_is_no_operand_inside_other_filters(busy: Served) -> None:
    filter_ = {"or": [{}, {"not": {"machine": {"someSnapshot": {"state": {"in": ["READY", "UNKNOWN"]}}}}}]}
    query = "query ($filter: SnapshotFilter) { snapshots(filter: $filter) { totalCount } }"
    ((code, message),) = busy.errors(query, filter=filter_)
    assert (code, message.partition(":")[0]) == (
        "BAD_USER_INPUT",
        "filter.or[1].not.machine.someSnapshot.state.in[1]",
    )


def test_unknown_power_state_is_an_operand(busy: Served) -> None:
    """The providers report it, so it is stored."""
    query = "{ machines(filter: {powerState: {eq: UNKNOWN}}) { totalCount } }"
    assert busy.ask(query) == {"machines": {"totalCount": 0}}


@pytest.mark.parametrize(
    ("values", "state", "status", "message"),
    [
        ({"state": "'PAUSED'"}, "Active", "Ok", "In process"),
        (
            {"state": "'EXPIRED'", "finished_at": "created_at"},
            "Finished",
            "Error",
            "Task did not complete successfully",
        ),
    ],
)
def test_task_of_an_unknown_kind_and_state(
    busy: Served, values: dict[str, str], state: str, status: str, message: str
) -> None:
    operation = plant_operation(busy, 20, machine_name="'a'", **values)
    task = busy.http.get(f"/api/tasks/{operation.removeprefix('operation-')}").json()
    assert task["name"] == "Unknown operation on Virtual Machine id:20 name:'a'"
    assert (task["state"], task["status"], task["message"]) == (state, status, message)


def test_known_states_are_final_by_themselves(busy: Served) -> None:
    """`finishedAt` counts only where the state is not known."""
    states = {
        state: plant_operation(busy, 21, kind="'REFRESH_MACHINE'", state=f"'{state}'")
        for state in OperationState
        if state not in ("QUEUED", "RUNNING")
    }
    for state, operation in states.items():
        query = "query ($id: ID!) { operation(id: $id) { state isDone } }"
        assert busy.ask(query, id=operation)["operation"] == {"state": state, "isDone": True}
