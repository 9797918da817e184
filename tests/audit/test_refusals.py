"""Every refused change has its audit entry and changes nothing else. Reads and dry runs have one only if forbidden."""

from typing import Any

import pytest

from tests.audit.world import CallerClient, entries, entries_of_last_request
from tests.graphql.client import CANCEL, CREATE, DELETE, REFRESH, REFRESH_PROVIDER, REVERT, UPDATE, dump
from tests.serving import Served

WEB = "vm-11 web-01"
BASE = "snapshot-3 test-base"

REFUSED_MUTATIONS: list[tuple[str, dict[str, Any], tuple[Any, ...]]] = [
    (CREATE, {"machineId": "vm-11", "name": " "}, ("CREATE_SNAPSHOT", "INVALID", WEB, None)),
    (CREATE, {"machineId": "vm-999", "name": "x"}, ("CREATE_SNAPSHOT", "NOT_FOUND", "vm-999", None)),
    (CREATE, {"machineId": "vm-201", "name": "x"}, ("CREATE_SNAPSHOT", "NOT_FOUND", "vm-201", None)),
    (CREATE, {"machineId": "snapshot-3", "name": "x"}, ("CREATE_SNAPSHOT", "NOT_FOUND", None, None)),
    (REVERT, {"snapshotId": "snapshot-99999"}, ("REVERT_VM_SNAPSHOT", "NOT_FOUND", None, "snapshot-99999")),
    (REVERT, {"snapshotId": "nonsense"}, ("REVERT_VM_SNAPSHOT", "INVALID", None, None)),
    (DELETE, {"ids": []}, ("DELETE_SNAPSHOT", "INVALID", None, None)),
    (DELETE, {"ids": ["snapshot-99999"], "dryRun": True}, ()),
    (UPDATE, {"snapshotId": "snapshot-3"}, ("UPDATE_SNAPSHOT", "INVALID", WEB, BASE)),
    (UPDATE, {"snapshotId": "nonsense", "name": "x"}, ("UPDATE_SNAPSHOT", "INVALID", None, None)),
    (REFRESH, {"machineId": "instance-999"}, ("REFRESH_MACHINE", "NOT_FOUND", "instance-999", None)),
    (REFRESH_PROVIDER, {"name": "nowhere"}, ("REFRESH_PROVIDER", "NOT_FOUND", None, None)),
    (CANCEL, {"operationId": "operation-99999"}, ("CANCEL_OPERATION", "NOT_FOUND", None, None)),
]


@pytest.mark.parametrize(
    ("mutation", "arguments", "expected"), REFUSED_MUTATIONS, ids=[str(case[1]) for case in REFUSED_MUTATIONS]
)
def test_a_refused_mutation(
    gateway: Served,
    admin: CallerClient,
    operator: CallerClient,
    mutation: str,
    arguments: Any,
    expected: tuple[Any, ...],
) -> None:
    before = dump(gateway)
    payload = operator.mutate(mutation, **arguments)
    assert dump(gateway) == before
    found = entries(admin, filter={"requestId": {"eq": operator.request_id}})
    if not expected:
        assert found == []
        return
    ((action, outcome, code, machine, snapshot, _),) = entries_of_last_request(admin, operator)
    assert (action, code, machine, snapshot) == expected
    assert outcome == "REFUSED"
    (error,) = payload["errors"] or payload["results"][0]["errors"]
    assert (found[0]["code"], found[0]["message"]) == (error["code"], error["message"])


def test_all_or_nothing(gateway: Served, admin: CallerClient, operator: CallerClient) -> None:
    before = dump(gateway)
    operator.mutate(DELETE, ids=["snapshot-3", "snapshot-99999"], allOrNothing=True)
    assert dump(gateway) == before
    assert entries_of_last_request(admin, operator) == [
        ("DELETE_SNAPSHOT", "REFUSED", "ABORTED", WEB, BASE, None),
        ("DELETE_SNAPSHOT", "REFUSED", "NOT_FOUND", None, "snapshot-99999", None),
    ]


def test_forbidden_mutations_and_dry_runs(gateway: Served, admin: CallerClient, viewer: CallerClient) -> None:
    before = dump(gateway)
    for mutation, arguments, action in (
        (CREATE, {"machineId": "vm-11", "name": "x"}, "CREATE_SNAPSHOT"),
        (REVERT, {"snapshotId": "snapshot-3"}, "REVERT_VM_SNAPSHOT"),
        (DELETE, {"ids": ["snapshot-3"]}, "DELETE_SNAPSHOT"),
        (REVERT, {"snapshotId": "snapshot-3", "dryRun": True}, "READ"),
        (DELETE, {"ids": ["snapshot-3"], "dryRun": True}, "READ"),
        (UPDATE, {"snapshotId": "snapshot-3", "name": "x"}, "UPDATE_SNAPSHOT"),
        (REFRESH, {"machineId": "vm-11"}, "REFRESH_MACHINE"),
    ):
        viewer.mutate(mutation, **arguments)
        snapshot = BASE if "snapshot" in str(arguments) else None
        assert entries_of_last_request(admin, viewer) == [(action, "REFUSED", "FORBIDDEN", WEB, snapshot, None)]
    assert dump(gateway) == before


def test_rest(
    gateway: Served, admin: CallerClient, operator: CallerClient, viewer: CallerClient, unprivileged: CallerClient
) -> None:
    before = dump(gateway)
    one, several = "/vms/11/snapshots/3", "/vms/11/snapshots"
    for caller, method, path, body, expected in (
        (viewer, "POST", one, {"action": "revert"}, ("REVERT_VM_SNAPSHOT", "FORBIDDEN", WEB, BASE)),
        (viewer, "DELETE", one, None, ("DELETE_SNAPSHOT", "FORBIDDEN", WEB, BASE)),
        (viewer, "POST", several, {"name": "x"}, ("CREATE_SNAPSHOT", "FORBIDDEN", WEB, None)),
        (unprivileged, "GET", "/vms/11", None, ("READ", "FORBIDDEN", WEB, None)),
        (unprivileged, "GET", one, None, ("READ", "FORBIDDEN", WEB, BASE)),
        (operator, "POST", "/vms/999/snapshots", {"name": "x"}, ("CREATE_SNAPSHOT", "NOT_FOUND", "vm-999", None)),
        (operator, "DELETE", "/vms/11/snapshots/99", None, ("DELETE_SNAPSHOT", "NOT_FOUND", WEB, "snapshot-99")),
        (operator, "POST", several, {"name": ["x"]}, ("CREATE_SNAPSHOT", "INVALID", WEB, None)),
    ):
        status, _ = caller.rest(method, path, body)
        assert status in (400, 403, 404)
        ((action, outcome, code, machine, snapshot, _),) = entries_of_last_request(admin, caller)
        assert (action, code, machine, snapshot) == expected, path
        assert outcome == "REFUSED"
    for method, path, body, expected_status in (
        ("GET", "/vms/999", None, 404),  # a read that is not forbidden
        ("POST", one, {"action": "rename"}, 400),  # not a valid command
        ("GET", "/vms?filter[]=x", None, 400),
    ):
        assert operator.rest(method, path, body)[0] == expected_status
        assert entries_of_last_request(admin, operator) == []
    assert dump(gateway) == before


def test_unauthenticated_requests(gateway: Served, admin: CallerClient, anonymous: CallerClient) -> None:
    """The entries have the address and the surface, but nothing of the credentials."""
    for surface, send in (
        ("GRAPHQL", lambda: anonymous.post("{ vms { totalCount } }")),
        ("REST", lambda: anonymous.rest("GET", "/vms", authorization="Bearer s3cret")),
    ):
        send()
        (entry,) = entries(admin, filter={"requestId": {"eq": anonymous.request_id}})
        del entry["id"], entry["createdAt"]
        nothing = ("callerName", "callerKey", "machineId", "machineName", "snapshotId", "snapshotName", "operationId")
        assert entry == {
            "action": "LOG_IN",
            "outcome": "REFUSED",
            "code": "UNAUTHENTICATED",
            "message": "Invalid credentials",
            "repeats": 0,
            "callerRoles": [],
            "address": "127.0.0.1",
            "surface": surface,
            "requestId": anonymous.request_id,
            "subject": None,
            **dict.fromkeys(nothing),
        }
