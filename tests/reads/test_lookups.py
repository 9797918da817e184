"""`machine(id:)`, `capability(action:)`, `viewer { rights }` and the bound of `providers`, on the demo data."""

from collections.abc import Mapping, Sequence
from typing import Any

import httpx2
import pytest

from gateway.access.roles import ADMINISTRATION, RIGHTS_BY_NAME, Roles
from gateway.access.tokens import NewToken, create_token
from gateway.config import Settings
from gateway.models import SnapshotAction
from tests.databases import Databases
from tests.graphql.client import execute_sql
from tests.serving import Served, served

MACHINE_IDS = ("vm-11", "vm-12", "vm-40", "instance-201", "instance-205")


# ---- machine(id:)


def test_a_machine_is_found_by_its_id(demo: Served) -> None:
    fields = "__typename id name ... on Vm { host } ... on Instance { flavor } snapshots { totalCount }"
    for id_ in MACHINE_IDS:
        query = (
            f"query ($id: ID!) {{ machine(id: $id) {{ {fields} }} node(id: $id) {{ ... on Machine {{ {fields} }} }} }}"
        )
        found = demo.ask(query, id=id_)
        assert found["machine"]["id"] == id_
        assert found["machine"] == found["node"]


@pytest.mark.parametrize("id_", ["snapshot-3", "operation-1", "vm-999999", "instance-11", "vm-201"])
def test_an_id_that_is_not_of_a_machine_finds_nothing(server: Served, id_: str) -> None:
    assert server.ask("query ($id: ID!) { machine(id: $id) { id } }", id=id_) == {"machine": None}


@pytest.mark.parametrize("id_", ["", "11", "vm-", "vm-011", "machine-11", "vm-11 "])
def test_a_malformed_id_is_refused_as_that_of_a_vm_is(server: Served, id_: str) -> None:
    errors = server.errors("query ($id: ID!) { machine(id: $id) { id } }", id=id_)
    assert errors == server.errors("query ($id: ID!) { vm(id: $id) { id } }", id=id_)
    assert [code for code, _ in errors] == ["BAD_USER_INPUT"]


# ---- providers


def test_more_than_a_thousand_providers_are_an_error(demo: Served) -> None:
    def insert(numbers: range) -> None:
        values = ", ".join(f"('p-{number:04}', 'default', 'none')" for number in numbers)
        execute_sql(demo, f"INSERT INTO provider (name, tenant, driver) VALUES {values}")

    query = "{ viewer { name } providers { name } }"
    existing = [provider["name"] for provider in demo.ask(query)["providers"]]
    insert(range(1_000 - len(existing)))
    found = [provider["name"] for provider in demo.ask(query)["providers"]]
    assert found == sorted([*existing, *(f"p-{number:04}" for number in range(1_000 - len(existing)))])
    insert(range(1_000, 1_001))
    assert demo.post(query) == {
        "errors": [
            {
                "message": "`providers` has more than 1000 items, so it cannot be returned.",
                "locations": [{"line": 1, "column": 19}],
                "path": ["providers"],
                "extensions": {"code": "LIMIT_EXCEEDED"},
            }
        ],
        "data": None,
    }


# ---- capability(action:)


def _capabilities(gateway: Served, ids: Sequence[str]) -> list[dict[str, Any]]:
    """The objects with these ids: their `capabilities`, and `capability` under the name of each action."""
    actions = " ".join(
        f"{action}: capability(action: {action}) {{ action supported reason }}" for action in SnapshotAction
    )
    query = f"""query ($ids: [ID!]!) {{ nodes(ids: $ids) {{
        ... on Machine {{ id capabilities {{ action supported reason }} {actions} }}
        ... on Snapshot {{ id capabilities {{ action supported reason }} {actions} }} }} }}"""
    found: list[dict[str, Any]] = gateway.ask(query, ids=ids)["nodes"]
    return found


def test_a_capability_of_a_machine_is_one_of_its_capabilities(demo: Served) -> None:
    for machine in _capabilities(demo, MACHINE_IDS):
        assert machine["capabilities"] == [machine[action] for action in SnapshotAction]


def test_a_capability_of_a_snapshot_is_one_of_its_capabilities_or_not_supported(demo: Served) -> None:
    listed_snapshots = demo.ask("{ snapshots(first: 100) { nodes { id } } }")["snapshots"]["nodes"]
    for snapshot in _capabilities(demo, [node["id"] for node in listed_snapshots]):
        listed = {capability["action"]: capability for capability in snapshot["capabilities"]}
        assert {"REVERT", "DELETE"} <= listed.keys()
        assert not {"READ", "CREATE", "CREATE_WITH_MEMORY"} & listed.keys()
        for action in SnapshotAction:
            reason = (
                f"{action} is an action on a machine, not on a snapshot. See `capability` of the snapshot's machine."
            )
            other = {"action": action, "supported": False, "reason": reason}
            assert snapshot[action] == listed.get(action, other)


def test_the_action_may_be_a_variable(server: Served) -> None:
    query = """query ($action: SnapshotAction!) { vm(id: "vm-11") { capability(action: $action) { action }
        snapshots(first: 1) { nodes { capability(action: $action) { action supported } } } } }"""
    assert server.ask(query, action="DELETE") == {
        "vm": {
            "capability": {"action": "DELETE"},
            "snapshots": {"nodes": [{"capability": {"action": "DELETE", "supported": True}}]},
        }
    }
    ((code, message),) = server.errors(query, action="EAT")
    assert code == "BAD_USER_INPUT"
    assert "EAT" in message
    ((code, _),) = server.errors('{ vm(id: "vm-11") { capability { action } } }')
    assert code == "GRAPHQL_VALIDATION_FAILED"


def test_an_action_that_may_be_null_is_refused_when_it_is(server: Served) -> None:
    query = 'query ($action: SnapshotAction = READ) { vm(id: "vm-11") { capability(action: $action) { supported } } }'
    assert server.ask(query) == {"vm": {"capability": {"supported": True}}}
    body = server.post(query, {"action": None})
    assert body["data"] == {"vm": None}
    assert [error["extensions"]["code"] for error in body["errors"]] == ["BAD_USER_INPUT"]


# ---- viewer { rights }


def test_the_local_caller_has_all_rights(server: Served) -> None:
    assert server.ask("{ viewer { rights } }") == {"viewer": {"rights": sorted([*RIGHTS_BY_NAME, ADMINISTRATION])}}


def test_rights_are_those_of_all_roles(databases: Databases) -> None:
    custom = 'backup = ["vm:create", "vm:read"]\nauditor = ["administration"]\nnothing = []'
    settings = Settings(database_url=databases.new("sqlite", demo=True), roles=custom)
    rights: Mapping[tuple[str, ...], list[str]] = {
        ("viewer",): ["instance:read", "vm:read"],
        ("backup",): ["vm:create", "vm:read"],
        ("viewer", "backup", "auditor"): ["administration", "instance:read", "vm:create", "vm:read"],
        ("nothing",): [],
        ("admin",): sorted([*RIGHTS_BY_NAME, ADMINISTRATION]),
    }
    with served(settings) as gateway:
        for roles, expected in rights.items():
            new = NewToken(" ".join(roles), roles, "default")
            token = gateway.run(create_token(gateway.gateway.database, Roles.read(custom), new))
            response = httpx2.post(
                f"{gateway.url}/graphql",
                json={"query": "{ viewer { roles rights } }"},
                headers={"authorization": f"Bearer {token}"},
                verify=False,
            )
            assert response.json() == {"data": {"viewer": {"roles": sorted(roles), "rights": expected}}}
