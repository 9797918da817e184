"""The record is for administrators of the tenant, in the language of all lists, and nothing can edit it."""

from graphql import build_schema

from gateway.graphql.schema.build import print_sdl
from tests.audit.world import ENTRIES, As, entries, record
from tests.graphql.asking import REVERT
from tests.serving import Served

NODE = 'query ($id: ID!) { node(id: $id) { id ... on AuditEntry { action } } nodes(ids: [$id, "vm-11"]) { id } }'


def test_others_are_refused(gateway: Served, admin: As, operator: As, viewer: As) -> None:
    (id_, *_) = [node["id"] for node in _some(admin, operator)]
    for caller in (operator, viewer):
        body = caller.post(ENTRIES)
        (error,) = body["errors"]
        assert (error["extensions"]["code"], error["path"]) == ("FORBIDDEN", ["auditEntries"])
        assert error["message"] == "only administrators may read the record of who did what"
        assert body["data"] is None
        assert record(admin, caller) == [("READ", "REFUSED", "FORBIDDEN", None, None, None)]
        (entry,) = entries(admin, filter={"requestId": {"eq": caller.request_id}})
        assert entry["subject"] == "auditEntries"
        caller.post("{ alias: auditEntries { totalCount } }")
        (entry,) = entries(admin, filter={"requestId": {"eq": caller.request_id}})
        assert entry["subject"] == "auditEntries"
        # Nobody but administrators learns that there is such an entry.
        assert caller.post(NODE, id=id_)["data"] == {"node": None, "nodes": [None, {"id": "vm-11"}]}


def test_an_administrator_of_another_tenant_sees_nothing(admin: As, operator: As, stranger: As) -> None:
    (id_, *_) = [node["id"] for node in _some(admin, operator)]
    assert entries(stranger) == []
    assert stranger.post(NODE, id=id_)["data"] == {"node": None, "nodes": [None, None]}
    # What a stranger is refused is of their own tenant's record, and names nothing of the other's.
    stranger.wish(REVERT, snapshotId="snapshot-3")
    assert record(stranger, stranger) == [("REVERT_VM_SNAPSHOT", "REFUSED", "NOT_FOUND", None, "snapshot-3", None)]
    assert record(admin, stranger) == []


def test_entries_are_nodes(admin: As, operator: As) -> None:
    (entry, *_) = _some(admin, operator)
    assert admin.post(NODE, id=entry["id"])["data"] == {
        "node": {"id": entry["id"], "action": "REVERT_VM_SNAPSHOT"},
        "nodes": [{"id": entry["id"]}, {"id": "vm-11"}],
    }
    assert admin.post(NODE, id="audit-999999999")["data"]["node"] is None


def test_filters_and_their_opposites(admin: As, operator: As, viewer: As) -> None:
    _some(admin, operator)
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


def test_pages(admin: As, operator: As) -> None:
    """The newest first, and each once."""
    _some(admin, operator)
    wanted = sorted(entries(admin), key=lambda node: (node["createdAt"], int(node["id"][6:])), reverse=True)
    seen, after, more = [], None, True
    while more:
        page = admin.post(ENTRIES, first=3, after=after)["data"]["auditEntries"]
        seen += [node["id"] for node in page["nodes"]]
        after, more = page["pageInfo"]["endCursor"], page["pageInfo"]["hasNextPage"]
    assert seen == [node["id"] for node in wanted]


def test_nothing_in_the_schema_edits_it() -> None:
    schema = build_schema(print_sdl())
    assert schema.mutation_type is not None
    for field in schema.mutation_type.fields.values():
        assert "audit" not in str(field.type).lower()
        for argument in field.args.values():
            assert "audit" not in str(argument.type).lower()


def _some(admin: As, operator: As) -> list[dict[str, object]]:
    """What a refused revert leaves."""
    operator.wish(REVERT, snapshotId="snapshot-99998")
    return entries(admin, filter={"requestId": {"eq": operator.request_id}})
