"""`Operation.idempotencyKey`: the sender of a mutation recognizes its operation, and no other caller sees the key."""

from contextlib import ExitStack
from typing import Any

import pytest

from tests.access.clients import bearer, create_token, graphql
from tests.graphql.client import set_latency
from tests.graphql.subscription_clients import subscribe_by_sse
from tests.serving import Served

OPERATION = "query ($id: ID!) { operation(id: $id) { idempotencyKey } }"
CHANGES = "subscription { operationChanged { state idempotencyKey } }"
FIELDS = "operation { id idempotencyKey } errors { message }"


def send(gateway: Served, token: str, query: str, **variables: Any) -> Any:
    response = gateway.http.post("/graphql", json={"query": query, "variables": variables}, headers=bearer(token))
    body = response.json()
    assert "errors" not in body, body
    (data,) = body["data"].values()
    return data


def mutate(gateway: Served, token: str, name: str, /, **arguments: Any) -> Any:
    """Executes a mutation with one operation, and returns the operation."""
    type_ = name[0].upper() + name[1:]
    query = f"mutation ($input: {type_}Input!) {{ {name}(input: $input) {{ {FIELDS} }} }}"
    payload = send(gateway, token, query, input=arguments)
    assert payload["errors"] == []
    return payload["operation"]


def key_of(gateway: Served, token: str, operation: str) -> str | None:
    found: str | None = send(gateway, token, OPERATION, id=operation)["idempotencyKey"]
    return found


def test_only_the_sender_sees_the_key(gateway: Served, url: str, token: str) -> None:
    set_latency(gateway, 0)
    other = create_token(url, "other")
    with ExitStack() as stack:
        # The two callers have equal rights and subscribe with equal documents, which share what they load.
        first, second = (
            stack.enter_context(subscribe_by_sse(gateway, CHANGES, headers=bearer(each))) for each in (token, other)
        )
        operation = mutate(gateway, token, "createSnapshot", machineId="vm-11", name="n", idempotencyKey="form 7")
        seen, hidden = (next(body for body in bodies)["data"]["operationChanged"] for bodies in (first, second))
    assert operation["idempotencyKey"] == seen["idempotencyKey"] == "form 7"
    assert hidden["idempotencyKey"] is None
    assert (key_of(gateway, token, operation["id"]), key_of(gateway, other, operation["id"])) == ("form 7", None)
    replay = mutate(gateway, token, "createSnapshot", machineId="vm-11", name="n", idempotencyKey="form 7")
    assert replay == operation


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # nothing here depends on the database
def test_every_mutation_that_starts_an_operation_keeps_its_key(gateway: Served, url: str) -> None:
    admin = create_token(url, "keeper", role="admin")
    set_latency(gateway, 0)
    for name, arguments in (
        ("createSnapshot", {"machineId": "vm-11", "name": "n"}),
        ("refreshMachine", {"machineId": "vm-12"}),
        ("updateSnapshot", {"snapshotId": "snapshot-8", "description": "d"}),
    ):
        operation = mutate(gateway, admin, name, **arguments, idempotencyKey=f"key of {name}")
        assert operation["idempotencyKey"] == f"key of {name}"
        assert mutate(gateway, admin, name, **arguments)["idempotencyKey"] is None
    delete = (
        f"mutation ($input: DeleteSnapshotsInput!) {{ deleteSnapshots(input: $input) {{ results {{ {FIELDS} }} }} }}"
    )
    results = send(gateway, admin, delete, input={"ids": ["snapshot-3", "snapshot-4"], "idempotencyKey": "both"})
    assert [result["operation"]["idempotencyKey"] for result in results["results"]] == ["both", "both"]


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
def test_without_users_every_request_has_the_same_caller(open_gateway: Served) -> None:
    set_latency(open_gateway, 0)
    field = 'createSnapshot(input: {machineId: "vm-11", name: "n", idempotencyKey: "k"})'
    body = graphql(open_gateway, query=f"mutation {{ {field} {{ {FIELDS} }} }}").json()
    assert body["data"]["createSnapshot"]["operation"]["idempotencyKey"] == "k"
