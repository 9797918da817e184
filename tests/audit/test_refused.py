"""Every refusal leaves its entry, and nothing else; what only asks leaves one when it is forbidden."""

from typing import Any

import pytest

from tests.audit.world import As, entries, record
from tests.graphql.asking import CANCEL, CREATE, DELETE, REFRESH, REVERT, dump
from tests.serving import Served

WEB = "vm-11 web-01"
BASE = "snapshot-3 test-base"

WISHES: list[tuple[str, dict[str, Any], tuple[Any, ...]]] = [
    (CREATE, {"machineId": "vm-11", "name": " "}, ("CREATE_SNAPSHOT", "INVALID", WEB, None)),
    (CREATE, {"machineId": "vm-999", "name": "x"}, ("CREATE_SNAPSHOT", "NOT_FOUND", "vm-999", None)),
    (CREATE, {"machineId": "vm-201", "name": "x"}, ("CREATE_SNAPSHOT", "NOT_FOUND", "vm-201", None)),
    (CREATE, {"machineId": "snapshot-3", "name": "x"}, ("CREATE_SNAPSHOT", "NOT_FOUND", None, None)),
    (REVERT, {"snapshotId": "snapshot-99999"}, ("REVERT_VM_SNAPSHOT", "NOT_FOUND", None, "snapshot-99999")),
    (REVERT, {"snapshotId": "nonsense"}, ("REVERT_VM_SNAPSHOT", "INVALID", None, None)),
    (DELETE, {"ids": []}, ("DELETE_SNAPSHOT", "INVALID", None, None)),
    (DELETE, {"ids": ["snapshot-99999"], "dryRun": True}, ()),
    (REFRESH, {"machineId": "instance-999"}, ("REFRESH_MACHINE", "NOT_FOUND", "instance-999", None)),
    (CANCEL, {"operationId": "operation-99999"}, ("CANCEL_OPERATION", "NOT_FOUND", None, None)),
]


@pytest.mark.parametrize(("mutation", "given", "expected"), WISHES, ids=[str(wish[1]) for wish in WISHES])
def test_a_wish_that_is_refused(
    gateway: Served, admin: As, operator: As, mutation: str, given: Any, expected: tuple[Any, ...]
) -> None:
    before = dump(gateway)
    payload = operator.wish(mutation, **given)
    assert dump(gateway) == before
    found = entries(admin, filter={"requestId": {"eq": operator.request_id}})
    if not expected:
        assert found == []
        return
    ((action, outcome, code, machine, snapshot, _),) = record(admin, operator)
    assert (action, code, machine, snapshot) == expected
    assert outcome == "REFUSED"
    (error,) = payload["errors"] or payload["results"][0]["errors"]
    assert (found[0]["code"], found[0]["message"]) == (error["code"], error["message"])


def test_all_or_nothing(gateway: Served, admin: As, operator: As) -> None:
    before = dump(gateway)
    operator.wish(DELETE, ids=["snapshot-3", "snapshot-99999"], allOrNothing=True)
    assert dump(gateway) == before
    assert record(admin, operator) == [
        ("DELETE_SNAPSHOT", "REFUSED", "ABORTED", WEB, BASE, None),
        ("DELETE_SNAPSHOT", "REFUSED", "NOT_FOUND", None, "snapshot-99999", None),
    ]


def test_what_the_caller_may_not(gateway: Served, admin: As, viewer: As) -> None:
    before = dump(gateway)
    for mutation, given, action in (
        (CREATE, {"machineId": "vm-11", "name": "x"}, "CREATE_SNAPSHOT"),
        (REVERT, {"snapshotId": "snapshot-3"}, "REVERT_VM_SNAPSHOT"),
        (DELETE, {"ids": ["snapshot-3"]}, "DELETE_SNAPSHOT"),
        (REVERT, {"snapshotId": "snapshot-3", "dryRun": True}, "READ"),
        (DELETE, {"ids": ["snapshot-3"], "dryRun": True}, "READ"),
        (REFRESH, {"machineId": "vm-11"}, "REFRESH_MACHINE"),
    ):
        viewer.wish(mutation, **given)
        snapshot = BASE if "snapshot" in str(given) else None
        assert record(admin, viewer) == [(action, "REFUSED", "FORBIDDEN", WEB, snapshot, None)]
    assert dump(gateway) == before


def test_rest(gateway: Served, admin: As, operator: As, viewer: As, blind: As) -> None:
    before = dump(gateway)
    one, several = "/vms/11/snapshots/3", "/vms/11/snapshots"
    for caller, method, path, body, expected in (
        (viewer, "POST", one, {"action": "revert"}, ("REVERT_VM_SNAPSHOT", "FORBIDDEN", WEB, BASE)),
        (viewer, "DELETE", one, None, ("DELETE_SNAPSHOT", "FORBIDDEN", WEB, BASE)),
        (viewer, "POST", several, {"name": "x"}, ("CREATE_SNAPSHOT", "FORBIDDEN", WEB, None)),
        (blind, "GET", "/vms/11", None, ("READ", "FORBIDDEN", WEB, None)),
        (blind, "GET", one, None, ("READ", "FORBIDDEN", WEB, BASE)),
        (operator, "POST", "/vms/999/snapshots", {"name": "x"}, ("CREATE_SNAPSHOT", "NOT_FOUND", "vm-999", None)),
        (operator, "DELETE", "/vms/11/snapshots/99", None, ("DELETE_SNAPSHOT", "NOT_FOUND", WEB, "snapshot-99")),
        (operator, "POST", several, {"name": ["x"]}, ("CREATE_SNAPSHOT", "INVALID", WEB, None)),
    ):
        status, _ = caller.rest(method, path, body)
        assert status in (400, 403, 404)
        ((action, outcome, code, machine, snapshot, _),) = record(admin, caller)
        assert (action, code, machine, snapshot) == expected, path
        assert outcome == "REFUSED"
    for method, path, body, about in (
        ("GET", "/vms/999", None, 404),  # nothing there to be seen: a question, and not a forbidden one
        ("POST", one, {"action": "rename"}, 400),  # no wish at all
        ("GET", "/vms?filter[]=x", None, 400),
    ):
        assert operator.rest(method, path, body)[0] == about
        assert record(admin, operator) == []
    assert dump(gateway) == before


def test_nobody(gateway: Served, admin: As, nobody: As) -> None:
    """The entries say from where and by which surface, and nothing of what was sent."""
    for surface, send in (
        ("GRAPHQL", lambda: nobody.post("{ vms { totalCount } }")),
        ("REST", lambda: nobody.rest("GET", "/vms", authorization="Bearer s3cret")),
    ):
        send()
        (entry,) = entries(admin, filter={"requestId": {"eq": nobody.request_id}})
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
            "requestId": nobody.request_id,
            "subject": None,
            **dict.fromkeys(nothing),
        }
