"""Mutations with invalid input return code, message and path in `errors` and leave the database unchanged."""

from typing import Any

import pytest

from tests.graphql.client import CANCEL, CREATE, CREATE_SEVERAL, DELETE, REFRESH, REVERT, mutate
from tests.graphql.error_assertions import IDS
from tests.serving import Served


def refusal(code: str, message: str, *path: str, conflict: str | None = None) -> dict[str, Any]:
    return {
        "code": code,
        "message": message,
        "path": ["input", *path],
        "conflict": conflict and {"id": conflict},
    }


def invalid_id(text: str, *path: str) -> dict[str, Any]:
    return refusal("INVALID", f"{text!r} is not an id. {IDS}", *path)


NAMES = [
    ("", "The name is blank. It must have 1 to 255 characters."),
    (" \t\n\u3000", "The name is blank. It must have 1 to 255 characters."),
    ("x" * 256, "The name has 256 characters; at most 255 are allowed."),
    ("a\0b", "The name contains a NUL character."),
]


@pytest.mark.parametrize(("name", "message"), NAMES, ids=lambda text: ascii(text)[:12])
@pytest.mark.parametrize("machine", ["vm-11", "instance-201", "vm-999"])
def test_invalid_names(gateway: Served, machine: str, name: str, message: str) -> None:
    assert mutate(gateway, CREATE, machineId=machine, name=name) == {
        "operation": None,
        "snapshot": None,
        "snapshotEdge": None,
        "machine": None,
        "errors": [refusal("INVALID", message, "name")],
    }
    assert mutate(gateway, CREATE_SEVERAL, machineIds=[machine, "vm-11"], name=name) == {
        "acceptedCount": 0,
        "refusedCount": 0,
        "results": [],
        "errors": [refusal("INVALID", message, "name")],
    }


@pytest.mark.parametrize(
    ("more", "argument", "message"),
    [
        ({"description": "x" * 4001}, "description", "The description has 4001 characters; at most 4000 are allowed."),
        ({"description": "\0"}, "description", "The description contains a NUL character."),
        ({"idempotencyKey": ""}, "idempotencyKey", "The idempotency key has 0 characters; it must have 1 to 255."),
        ({"idempotencyKey": "k" * 256}, "idempotencyKey",
         "The idempotency key has 256 characters; it must have 1 to 255."),
        ({"idempotencyKey": "\0"}, "idempotencyKey", "The idempotency key contains a NUL character."),
    ],
    ids=["long description", "NUL in description", "empty key", "long key", "NUL in key"],
)  # fmt: skip
def test_invalid_descriptions_and_idempotency_keys(
    gateway: Served, more: dict[str, str], argument: str, message: str
) -> None:
    for mutation, arguments in (
        (CREATE, {"machineId": "vm-11", "name": "n"}),
        (CREATE_SEVERAL, {"machineIds": ["vm-11"], "name": "n"}),
        (REVERT, {"snapshotId": "snapshot-3"}),
        (DELETE, {"ids": ["snapshot-3"]}),
        (REFRESH, {"machineId": "vm-11"}),
    ):
        if argument == "description" and "name" not in arguments:
            continue
        assert mutate(gateway, mutation, **arguments, **more)["errors"] == [refusal("INVALID", message, argument)]


# Malformed ids, ids of missing rows, and ids of other types.
MACHINES = [
    ("vm-x", invalid_id("vm-x", "machineId")),
    ("", invalid_id("", "machineId")),
    ("vm-999", refusal("NOT_FOUND", "Machine 'vm-999' was not found.", "machineId")),
    ("vm-201", refusal("NOT_FOUND", "Machine 'vm-201' was not found.", "machineId")),
    ("instance-11", refusal("NOT_FOUND", "Machine 'instance-11' was not found.", "machineId")),
    ("snapshot-3", refusal("NOT_FOUND", "Machine 'snapshot-3' was not found.", "machineId")),
    ("operation-1", refusal("NOT_FOUND", "Machine 'operation-1' was not found.", "machineId")),
]
SNAPSHOT_IDS = [
    ("x", invalid_id("x", "snapshotId")),
    ("snapshot-", invalid_id("snapshot-", "snapshotId")),
    ("snapshot-999999", refusal("NOT_FOUND", "Snapshot 'snapshot-999999' was not found.", "snapshotId")),
    ("vm-11", refusal("NOT_FOUND", "Snapshot 'vm-11' was not found.", "snapshotId")),
    ("operation-1", refusal("NOT_FOUND", "Snapshot 'operation-1' was not found.", "snapshotId")),
]


@pytest.mark.parametrize(("machine", "error"), MACHINES, ids=[machine or "empty" for machine, _ in MACHINES])
def test_invalid_machine_ids(gateway: Served, machine: str, error: dict[str, Any]) -> None:
    nothing = {"operation": None, "machine": None, "errors": [error]}
    assert mutate(gateway, REFRESH, machineId=machine) == nothing
    assert mutate(gateway, CREATE, machineId=machine, name="n") == nothing | {"snapshot": None, "snapshotEdge": None}
    several = mutate(gateway, CREATE_SEVERAL, machineIds=[machine, machine], name="n")
    at = [error | {"path": ["input", "machineIds", str(place)]} for place in range(2)]
    assert several == {
        "acceptedCount": 0,
        "refusedCount": 2,
        "results": [
            {"machineId": machine, "operation": None, "snapshot": None, "errors": [each]} for each in at
        ],
        "errors": [],
    }  # fmt: skip


@pytest.mark.parametrize(("snapshot", "error"), SNAPSHOT_IDS, ids=[snapshot for snapshot, _ in SNAPSHOT_IDS])
@pytest.mark.parametrize("dry", [False, True], ids=["", "dry"])
def test_invalid_snapshot_ids(gateway: Served, snapshot: str, error: dict[str, Any], dry: bool) -> None:
    reverted = mutate(gateway, REVERT, snapshotId=snapshot, dryRun=dry)
    assert reverted == {"operation": None, "vm": None, "snapshot": None, "errors": [error]}
    deleted = mutate(gateway, DELETE, ids=[snapshot], dryRun=dry, withDescendants=True)
    assert deleted == {
        "acceptedCount": 0,
        "refusedCount": 1,
        "results": [
            {
                "snapshotId": snapshot,
                "isDescendant": False,
                "operation": None,
                "snapshot": None,
                "errors": [error | {"path": ["input", "ids", "0"]}],
            }
        ],
        "errors": [],
    }


@pytest.mark.parametrize("dry", [False, True], ids=["", "dry"])
def test_reverting_an_instance_is_refused(gateway: Served, dry: bool) -> None:
    error = refusal("UNSUPPORTED", "Only Vms can be reverted to a snapshot, not Instances.", "snapshotId")
    reverted = mutate(gateway, REVERT, snapshotId="snapshot-7", dryRun=dry)
    assert reverted == {"operation": None, "vm": None, "snapshot": None, "errors": [error]}


def test_snapshot_with_memory_of_an_instance_is_refused(gateway: Served) -> None:
    error = refusal("UNSUPPORTED", "This cloud does not save the memory of instances.", "machineId")
    assert mutate(gateway, CREATE, machineId="instance-201", name="n", memory=True)["errors"] == [error]


@pytest.mark.parametrize("count", [0, 101])
def test_number_of_ids_is_limited(gateway: Served, count: int) -> None:
    for mutation, argument, more in (
        (DELETE, "ids", {}),
        (DELETE, "ids", {"dryRun": True}),
        (CREATE_SEVERAL, "machineIds", {"name": "n"}),
    ):
        ids = [f"snapshot-{number}" for number in range(count)]
        message = f"Argument {argument!r} has {count} ids; it must have 1 to 100."
        assert mutate(gateway, mutation, **{argument: ids, **more}) == {
            "acceptedCount": 0,
            "refusedCount": 0,
            "results": [],
            "errors": [refusal("INVALID", message, argument)],
        }


def test_invalid_operation_ids(gateway: Served) -> None:
    for text, error in (
        ("x", invalid_id("x", "operationId")),
        ("operation-999999", refusal("NOT_FOUND", "Operation 'operation-999999' was not found.", "operationId")),
        ("vm-11", refusal("NOT_FOUND", "Operation 'vm-11' was not found.", "operationId")),
        (
            "operation-1",
            refusal("CONFLICT", "Operation 'operation-1' has already ended in state SUCCEEDED.", "operationId"),
        ),
    ):
        assert mutate(gateway, CANCEL, operationId=text) == {"operation": None, "errors": [error]}


@pytest.mark.parametrize(
    ("mutation", "arguments", "place", "message"),
    [
        (CREATE, {"machineId": "vm-11"}, "", "to include required field 'name'"),
        (CREATE, {"machineId": "vm-11", "name": None}, ".name", "Expected value of non-null type 'String!'"),
        (CREATE, {"machineId": "vm-11", "name": 5}, ".name", "String cannot represent a non string value: 5"),
        (CREATE, {"machineId": "vm-11", "name": "n", "memory": None}, ".memory", "non-null type 'Boolean!'"),
        (CREATE, {"machineId": "vm-11", "name": "n", "nope": 1}, "", "unknown field 'nope'"),
        (DELETE, {"ids": None}, ".ids", "Expected value of non-null type '[ID!]!'"),
        (DELETE, {"ids": [None]}, ".ids[0]", "Expected value of non-null type 'ID!'"),
        (REVERT, {}, "", "to include required field 'snapshotId'"),
    ],
)
def test_input_of_wrong_type_is_refused(
    gateway: Served, mutation: str, arguments: dict[str, Any], place: str, message: str
) -> None:
    body = gateway.post(mutation, {"input": arguments})
    (error,) = body["errors"]
    at = f" at {place}" if place else ""
    assert error["message"].startswith(f"Variable '$input' has invalid value{at}: ")
    assert message in error["message"]
    assert error["extensions"] == {"code": "BAD_USER_INPUT"}
    assert "data" not in body
