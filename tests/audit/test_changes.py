"""Every change causes exactly its audit entries, over each surface. Each test uses machines of its own."""

import json
from typing import Any

from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.audit.world import CallerClient, entries, entries_of_last_request
from tests.graphql.client import (
    CANCEL,
    CREATE,
    CREATE_SEVERAL,
    DELETE,
    REFRESH,
    REVERT,
    await_final_state,
    await_running,
    stalled,
)
from tests.serving import Served

SUCCEEDED = ("SUCCEEDED", None)


def test_create(gateway: Served, admin: CallerClient, operator: CallerClient) -> None:
    payload = operator.mutate(CREATE, machineId="vm-11", name="on record", idempotencyKey="once")
    operation, snapshot = payload["operation"]["id"], payload["snapshot"]["id"]
    assert await_final_state(gateway, operation) == SUCCEEDED
    subject = ("vm-11 web-01", f"{snapshot} on record", operation)
    created = [
        ("CREATE_SNAPSHOT", "ACCEPTED", None, *subject),
        ("CREATE_SNAPSHOT", "SUCCEEDED", None, *subject),
    ]
    assert entries_of_last_request(admin, operator) == created
    first = operator.request_id
    assert operator.mutate(CREATE, machineId="vm-11", name="on record", idempotencyKey="once")["errors"] == []
    assert entries_of_last_request(admin, operator) == []  # an idempotent replay has no entries
    accepted, succeeded = entries(admin, filter={"operationId": {"eq": operation}})
    shown = {name: accepted[name] for name in ("callerName", "callerKey", "callerRoles", "surface", "requestId")}
    assert shown == {
        "callerName": "oskar",
        "callerKey": "t-2",
        "callerRoles": ["operator"],
        "surface": "GRAPHQL",
        "requestId": first,
    }
    assert (accepted["address"], accepted["message"], accepted["repeats"]) == ("127.0.0.1", None, 0)
    different = {"id", "createdAt", "outcome"}
    assert {k: v for k, v in succeeded.items() if k not in different} == {
        k: v for k, v in accepted.items() if k not in different
    }
    times = "query ($id: ID!) { operation(id: $id) { finishedAt } }"
    assert succeeded["createdAt"] == gateway.ask(times, id=operation)["operation"]["finishedAt"]


def test_revert(gateway: Served, admin: CallerClient, operator: CallerClient) -> None:
    operation = operator.mutate(REVERT, snapshotId="snapshot-347")["operation"]["id"]
    assert await_final_state(gateway, operation) == SUCCEEDED
    found = entries(admin, filter={"action": {"eq": "REVERT_VM_SNAPSHOT"}, "machineId": {"eq": "vm-24"}})
    assert [(node["callerName"], node["outcome"], node["operationId"]) for node in found] == [
        ("oskar", "ACCEPTED", operation),
        ("oskar", "SUCCEEDED", operation),
    ]


def test_names_are_kept_after_deletion(gateway: Served, admin: CallerClient, operator: CallerClient) -> None:
    """The entries of a deleted snapshot and of a deleted operation still have their names and ids."""
    payload = operator.mutate(DELETE, ids=["snapshot-7"])
    operation = payload["results"][0]["operation"]["id"]
    assert await_final_state(gateway, operation) == SUCCEEDED
    name = entries_of_last_request(admin, operator)[0][4]
    assert name.startswith("snapshot-7 ")
    subject = ("instance-201 api-01", name, operation)
    gone = [("DELETE_SNAPSHOT", "ACCEPTED", None, *subject), ("DELETE_SNAPSHOT", "SUCCEEDED", None, *subject)]
    assert entries_of_last_request(admin, operator) == gone
    gateway.run(
        gateway.gateway.database.write(lambda tx: tx.rows(f"DELETE FROM operation WHERE id = {operation[10:]}"))
    )
    assert entries_of_last_request(admin, operator) == gone
    links = (
        "query ($id: ID!) { node(id: $id) { ... on AuditEntry { machine { id } snapshot { id } operation { id } } } }"
    )
    id_ = entries(admin, filter={"requestId": {"eq": operator.request_id}})[0]["id"]
    node = admin.post(links, id=id_)["data"]["node"]
    assert node == {"machine": {"id": "instance-201"}, "snapshot": None, "operation": None}


def test_delete_several(gateway: Served, admin: CallerClient, operator: CallerClient) -> None:
    """One entry per snapshot, including descendants, also if the input names one twice."""
    made = [_created(gateway, operator, "vm-21", name) for name in ("one", "two", "three")]
    payload = operator.mutate(DELETE, ids=[made[0], made[1], made[0], "snapshot-99999"], withDescendants=True)
    results = payload["results"]
    by_snapshot = {result["snapshotId"]: result["operation"]["id"] for result in results if result["operation"]}
    assert list(by_snapshot) == made
    for operation in by_snapshot.values():
        assert await_final_state(gateway, operation) == SUCCEEDED
    vm = "vm-21 " + gateway.ask('{ vm(id: "vm-21") { name } }')["vm"]["name"]
    names = dict(zip(made, ("one", "two", "three"), strict=True))
    accepted = [
        ("DELETE_SNAPSHOT", "ACCEPTED", None, vm, f"{snapshot} {names[snapshot]}", by_snapshot[snapshot])
        for snapshot in sorted(made, key=lambda id_: int(by_snapshot[id_][10:]))
    ]
    refused = ("DELETE_SNAPSHOT", "REFUSED", "NOT_FOUND", None, "snapshot-99999", None)
    found = entries_of_last_request(admin, operator)
    assert [*found[:3], found[3]] == [*accepted, refused]
    assert sorted(found[4:]) == sorted((entry[0], "SUCCEEDED", *entry[2:]) for entry in accepted)


def test_create_several(gateway: Served, admin: CallerClient, operator: CallerClient) -> None:
    payload = operator.mutate(
        CREATE_SEVERAL, machineIds=["vm-19", "vm-999", "vm-19", "instance-202", "x"], name="fleet"
    )
    results = payload["results"]
    for result in results:
        if result["operation"]:
            assert await_final_state(gateway, result["operation"]["id"]) == SUCCEEDED
    found = entries_of_last_request(admin, operator)
    assert [(entry[1], entry[2], entry[3] and entry[3].split()[0]) for entry in found[:4]] == [
        ("ACCEPTED", None, "vm-19"),
        ("ACCEPTED", None, "instance-202"),
        ("REFUSED", "NOT_FOUND", "vm-999"),
        ("REFUSED", "INVALID", None),
    ]
    assert sorted(entry[5] for entry in found[4:]) == sorted(entry[5] for entry in found[:2])


def test_refresh_and_cancel(gateway: Served, admin: CallerClient, operator: CallerClient) -> None:
    operation = operator.mutate(REFRESH, machineId="vm-33")["operation"]["id"]
    assert await_final_state(gateway, operation) == SUCCEEDED
    vm = "vm-33 " + gateway.ask('{ vm(id: "vm-33") { name } }')["vm"]["name"]
    assert entries_of_last_request(admin, operator) == [
        ("REFRESH_MACHINE", "ACCEPTED", None, vm, None, operation),
        ("REFRESH_MACHINE", "SUCCEEDED", None, vm, None, operation),
    ]
    with stalled(gateway, "vm-34"):
        running = operator.mutate(CREATE, machineId="vm-34", name="running")["operation"]["id"]
        await_running(gateway, running)
        queued = operator.mutate(CREATE, machineId="vm-34", name="queued")["operation"]["id"]
        operator.mutate(CANCEL, operationId=queued)
        ((action, outcome, code, machine, snapshot, target),) = entries_of_last_request(admin, operator)
        assert (action, outcome, code, target) == ("CANCEL_OPERATION", "ACCEPTED", None, queued)
        assert (machine.split()[0], snapshot.split()[1]) == ("vm-34", "queued")
        operator.mutate(CANCEL, operationId=running)
        assert [entry[:3] for entry in entries_of_last_request(admin, operator)] == [
            ("CANCEL_OPERATION", "ACCEPTED", None)
        ]
        assert await_final_state(gateway, running) == ("CANCELED", None)
    for operation, caller in ((queued, "oskar"), (running, "oskar")):
        history = entries(admin, filter={"operationId": {"eq": operation}})
        assert sorted((node["action"], node["outcome"], node["callerName"]) for node in history) == [
            ("CANCEL_OPERATION", "ACCEPTED", caller),
            ("CREATE_SNAPSHOT", "ACCEPTED", caller),
            ("CREATE_SNAPSHOT", "CANCELED", caller),
        ]
    operator.mutate(CANCEL, operationId=running)
    ((*refused, _, target),) = entries_of_last_request(admin, operator)
    assert (refused[:3], refused[3].split()[0], target) == (
        ["CANCEL_OPERATION", "REFUSED", "CONFLICT"],
        "vm-34",
        running,
    )


def test_a_failed_operation(gateway: Served, admin: CallerClient, operator: CallerClient) -> None:
    fault = '{"on": "create", "kind": "refuse", "message": "the disk is full", "times": 1}'
    _inject_fault(gateway, "vm-22", fault)
    operation = operator.mutate(CREATE, machineId="vm-22", name="never")["operation"]["id"]
    assert await_final_state(gateway, operation) == ("FAILED", "PROVIDER_FAILED")
    accepted, failed = entries(admin, filter={"operationId": {"eq": operation}})
    assert (accepted["outcome"], accepted["code"]) == ("ACCEPTED", None)
    assert (failed["outcome"], failed["code"], failed["callerName"]) == ("FAILED", "PROVIDER_FAILED", "oskar")
    error = gateway.ask("query ($id: ID!) { operation(id: $id) { error { message } } }", id=operation)
    assert failed["message"] == error["operation"]["error"]["message"]


def test_rest(gateway: Served, admin: CallerClient, operator: CallerClient) -> None:
    status, body = operator.rest("POST", "/vms/25/snapshots", {"resources": [{"name": "a"}, {}, {"name": "b"}]})
    made = [result for result in body["results"] if result["success"]]
    for result in made:
        assert await_final_state(gateway, f"operation-{result['task_id']}") == SUCCEEDED
    found = entries_of_last_request(admin, operator)
    assert status == 200
    assert [(entry[:3], entry[4] and entry[4].split()[1]) for entry in found] == [
        (("CREATE_SNAPSHOT", "ACCEPTED", None), "a"),
        (("CREATE_SNAPSHOT", "REFUSED", "INVALID"), None),
        (("CREATE_SNAPSHOT", "ACCEPTED", None), "b"),
        (("CREATE_SNAPSHOT", "SUCCEEDED", None), "a"),
        (("CREATE_SNAPSHOT", "SUCCEEDED", None), "b"),
    ]
    assert {entry[3].split()[0] for entry in found} == {"vm-25"}
    a, b = (result["snapshot_id"] for result in made)
    path = f"/vms/25/snapshots/{a}"
    for method, body, action in (
        ("POST", {"action": "revert"}, "REVERT_VM_SNAPSHOT"),
        ("DELETE", None, "DELETE_SNAPSHOT"),
    ):
        operator.rest(method, path, body)
        operation = entries_of_last_request(admin, operator)[0][5]
        assert await_final_state(gateway, operation) == SUCCEEDED
        assert [(entry[:2], entry[4].split()[0]) for entry in entries_of_last_request(admin, operator)] == [
            ((action, "ACCEPTED"), f"snapshot-{a}"),
            ((action, "SUCCEEDED"), f"snapshot-{a}"),
        ]
    operator.rest("POST", "/vms/25/snapshots", {"action": "delete", "resources": [{"id": b}, {"id": 99999}]})
    found = entries_of_last_request(admin, operator)
    assert [entry[:3] for entry in found[:2]] == [
        ("DELETE_SNAPSHOT", "ACCEPTED", None),
        ("DELETE_SNAPSHOT", "REFUSED", "NOT_FOUND"),
    ]
    surfaces = entries(admin, filter={"requestId": {"eq": operator.request_id}})
    assert {node["surface"] for node in surfaces} == {"REST"}


def _created(gateway: Served, caller: CallerClient, machine: str, name: str) -> str:
    payload: Any = caller.mutate(CREATE, machineId=machine, name=name)
    assert await_final_state(gateway, payload["operation"]["id"]) == SUCCEEDED
    snapshot: str = payload["snapshot"]["id"]
    return snapshot


def _inject_fault(gateway: Served, machine: str, fault: str) -> None:
    query = "query ($id: ID!) { node(id: $id) { ... on Machine { providerRef } } }"
    ref = gateway.ask(query, id=machine)["node"]["providerRef"]
    sql = f"UPDATE simulated_machine SET fault = '{fault}' WHERE ref = '{ref}'"
    gateway.run(gateway.gateway.database.write(lambda tx: tx.rows(sql)))


def test_websocket(gateway: Served, admin: CallerClient) -> None:
    """The origin of every operation of a connection is that of its handshake."""
    address = gateway.url.replace("http", "ws", 1) + "/graphql"
    headers = {"x-request-id": "a-handshake"}
    payload = {"query": CREATE, "variables": {"input": {"machineId": "vm-999", "name": "x"}}}
    with connect(address, subprotocols=[Subprotocol("graphql-transport-ws")], additional_headers=headers) as socket:
        socket.send('{"type": "connection_init"}')
        assert "connection_ack" in socket.recv()
        socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": payload}))
        assert "NOT_FOUND" in socket.recv()
    (entry,) = entries(admin, filter={"requestId": {"eq": "a-handshake"}})
    shown = tuple(entry[name] for name in ("callerName", "surface", "address", "action", "code", "machineId"))
    assert shown == ("local", "GRAPHQL", "127.0.0.1", "CREATE_SNAPSHOT", "NOT_FOUND", "vm-999")
