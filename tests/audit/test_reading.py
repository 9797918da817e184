"""Administrators of a tenant read its audit log with filters, sorts and pages; no field of the API changes it."""

import pytest
from graphql import build_schema

from gateway.graphql.schema.build import print_sdl
from tests.audit.world import (
    AUDITOR,
    ENTRIES,
    INSTANCE_ADMIN,
    VM_ADMIN,
    CallerClient,
    entries,
    entries_of_last_request,
)
from tests.graphql.client import CREATE, REVERT, await_final_state
from tests.serving import Served
from tests.waiting import at_most

NODE = 'query ($id: ID!) { node(id: $id) { id ... on AuditEntry { action } } nodes(ids: [$id, "vm-11"]) { id } }'


def test_other_callers_are_refused(
    gateway: Served, admin: CallerClient, operator: CallerClient, viewer: CallerClient
) -> None:
    (id_, *_) = [node["id"] for node in _cause_refusal(admin, operator)]
    for caller in (operator, viewer):
        body = caller.post(ENTRIES)
        (error,) = body["errors"]
        assert (error["extensions"]["code"], error["path"]) == ("FORBIDDEN", ["auditEntries"])
        assert error["message"] == "Only administrators may read the audit log."
        assert body["data"] is None
        assert entries_of_last_request(admin, caller) == [("READ", "REFUSED", "FORBIDDEN", None, None, None)]
        (entry,) = entries(admin, filter={"requestId": {"eq": caller.request_id}})
        assert entry["subject"] == "auditEntries"
        caller.post("{ alias: auditEntries { totalCount } }")
        (entry,) = entries(admin, filter={"requestId": {"eq": caller.request_id}})
        assert entry["subject"] == "auditEntries"
        # The response does not disclose to other callers that the entry exists.
        assert caller.post(NODE, id=id_)["data"] == {"node": None, "nodes": [None, {"id": "vm-11"}]}


def test_an_administrator_of_another_tenant_finds_no_entries(
    admin: CallerClient, operator: CallerClient, other_tenant_admin: CallerClient
) -> None:
    (id_, *_) = [node["id"] for node in _cause_refusal(admin, operator)]
    assert entries(other_tenant_admin) == []
    assert other_tenant_admin.post(NODE, id=id_)["data"] == {"node": None, "nodes": [None, None]}
    # A refusal of another tenant's caller is recorded for that tenant, without names of this one.
    other_tenant_admin.mutate(REVERT, snapshotId="snapshot-3")
    assert entries_of_last_request(other_tenant_admin, other_tenant_admin) == [
        ("REVERT_VM_SNAPSHOT", "REFUSED", "NOT_FOUND", None, "snapshot-3", None)
    ]
    assert entries_of_last_request(admin, other_tenant_admin) == []


def test_entries_about_machines_follow_the_read_rights(
    gateway: Served, admin: CallerClient, operator: CallerClient, anonymous: CallerClient
) -> None:
    """An administrator finds the entries about machines of readable kinds and those about no machine, and no others.

    No filter or count discloses the others. Refusals over REST are about machines too.
    """
    made = operator.mutate(CREATE, machineId="instance-201", name="secret of an instance")
    await_final_state(gateway, made["operation"]["id"])
    operator.rest("DELETE", "/instances/201/snapshots/999999")
    operator.mutate(CREATE, machineId="vm-11", name=" ")
    operator.mutate(REVERT, snapshotId="snapshot-99998")
    anonymous.post(ENTRIES)
    everything = entries(admin)
    kinds = [(node["machineId"] or "").rpartition("-")[0] for node in everything]
    assert {"", "vm", "instance"} == {*kinds}
    for caller, readable in ((VM_ADMIN, ("vm",)), (INSTANCE_ADMIN, ("instance",)), (AUDITOR, ())):
        client = CallerClient(gateway, caller)
        expected = [node for node, kind in zip(everything, kinds, strict=True) if kind in ("", *readable)]
        assert entries(client) == expected, caller.name
        for node in everything:
            shown = client.post(NODE, id=node["id"])["data"]["node"]
            assert (shown is not None) is (node in expected)
        hidden = [node for node in everything if node not in expected]
        assert hidden
        for condition in (
            {"snapshotName": {"eq": "secret of an instance"}},
            {"machineName": {"isNull": False}},
            {"machineId": {"eq": "instance-201"}},
            {"not": {"machineId": {"eq": "vm-11"}}},
            {"operationId": {"eq": made["operation"]["id"]}},
            {"createdAt": {"gte": "2026-01-01T00:00:00Z"}},
        ):
            wanted = [node for node in entries(admin, filter=condition) if node not in hidden]
            assert entries(client, filter=condition) == wanted, condition


@pytest.mark.parametrize("text", ["\0", "a" * 4_001])
@pytest.mark.parametrize("member", ["callerKey", "address", "requestId", "machineName", "snapshotName", "subject"])
def test_texts_that_the_database_cannot_hold(admin: CallerClient, member: str, text: str) -> None:
    for condition, path in (({"eq": text}, "eq"), ({"in": ["a", text]}, "in[1]"), ({"notIn": [text]}, "notIn[0]")):
        (error,) = admin.post(ENTRIES, filter={member: condition})["errors"]
        assert error["extensions"]["code"] == "BAD_USER_INPUT"
        assert error["message"].startswith(f"filter.{member}.{path}: A text m")


def test_entries_are_nodes(admin: CallerClient, operator: CallerClient) -> None:
    (entry, *_) = _cause_refusal(admin, operator)
    assert admin.post(NODE, id=entry["id"])["data"] == {
        "node": {"id": entry["id"], "action": "REVERT_VM_SNAPSHOT"},
        "nodes": [{"id": entry["id"]}, {"id": "vm-11"}],
    }
    assert admin.post(NODE, id="audit-999999999")["data"]["node"] is None


def test_filters_and_their_negations(admin: CallerClient, operator: CallerClient, viewer: CallerClient) -> None:
    _cause_refusal(admin, operator)
    viewer.post(ENTRIES)
    everything = [node["id"] for node in entries(admin)]
    for condition, found in (
        ({"action": {"eq": "REVERT_VM_SNAPSHOT"}}, lambda node: node["action"] == "REVERT_VM_SNAPSHOT"),
        ({"outcome": {"in": ["REFUSED"]}}, lambda node: node["outcome"] == "REFUSED"),
        ({"code": {"eq": "NOT_FOUND"}}, lambda node: node["code"] == "NOT_FOUND"),
        ({"code": {"isNull": True}}, lambda node: node["code"] is None),
        ({"callerName": {"like": "VE*", "ignoreCase": True}}, lambda node: node["callerName"] == "vera"),
        ({"callerKey": {"eq": "t-2"}}, lambda node: node["callerKey"] == "t-2"),
        ({"address": {"ne": "127.0.0.1"}}, lambda node: node["address"] != "127.0.0.1"),
        ({"surface": {"eq": "GRAPHQL"}}, lambda node: node["surface"] == "GRAPHQL"),
        ({"snapshotId": {"eq": "snapshot-99998"}}, lambda node: node["snapshotId"] == "snapshot-99998"),
        ({"machineName": {"isNull": False}}, lambda node: node["machineName"] is not None),
        ({"subject": {"eq": "auditEntries"}}, lambda node: node["subject"] == "auditEntries"),
        ({"machineId": {"eq": "vm-11"}}, lambda node: node["machineId"] == "vm-11"),
    ):
        wanted = [node["id"] for node in entries(admin) if found(node)]
        assert [node["id"] for node in entries(admin, filter=condition)] == wanted, condition
        others = [node["id"] for node in entries(admin, filter={"not": condition})]
        assert others == [id_ for id_ in everything if id_ not in wanted], condition


def test_pages(admin: CallerClient, operator: CallerClient) -> None:
    """The newest entries are first, and every entry is returned once."""
    _cause_refusal(admin, operator)
    wanted = sorted(entries(admin), key=lambda node: (node["createdAt"], int(node["id"][6:])), reverse=True)
    seen, after = [], None
    for _ in at_most(100):
        page = admin.post(ENTRIES, first=3, after=after)["data"]["auditEntries"]
        seen += [node["id"] for node in page["nodes"]]
        after = page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"]:
            break
    assert seen == [node["id"] for node in wanted]


def test_no_mutation_changes_the_audit_log() -> None:
    schema = build_schema(print_sdl())
    assert schema.mutation_type is not None
    for field in schema.mutation_type.fields.values():
        assert "audit" not in str(field.type).lower()
        for argument in field.args.values():
            assert "audit" not in str(argument.type).lower()


def _cause_refusal(admin: CallerClient, operator: CallerClient) -> list[dict[str, object]]:
    """Causes a refused revert and returns its entries."""
    operator.mutate(REVERT, snapshotId="snapshot-99998")
    return entries(admin, filter={"requestId": {"eq": operator.request_id}})
