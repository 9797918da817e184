"""Mutations that are refused: code, message and path in the payload's `errors`, and the database as before."""

from typing import Any

import pytest

from tests.graphql.asking import CANCEL, CREATE, CREATE_SEVERAL, DELETE, REFRESH, REVERT, wish
from tests.graphql.refusing import IDS
from tests.serving import Served


def refusal(code: str, message: str, *path: str, conflict: str | None = None) -> dict[str, Any]:
    return {
        "code": code,
        "message": message,
        "path": ["input", *path],
        "conflict": conflict and {"id": conflict},
    }


def invalid_id(text: str, *path: str) -> dict[str, Any]:
    return refusal("INVALID", f"{text!r} is not an id: {IDS}", *path)


NAMES = [
    ("", "the name is blank; it must have 1 to 255 characters"),
    (" \t\n\u3000", "the name is blank; it must have 1 to 255 characters"),
    ("x" * 256, "the name has 256 characters; at most 255 are allowed"),
    ("a\0b", "the name contains a NUL character"),
]


@pytest.mark.parametrize(("name", "message"), NAMES, ids=lambda text: ascii(text)[:12])
@pytest.mark.parametrize("machine", ["vm-11", "instance-201", "vm-999"])
def test_names(gateway: Served, machine: str, name: str, message: str) -> None:
    assert wish(gateway, CREATE, machineId=machine, name=name) == {
        "operation": None,
        "snapshot": None,
        "snapshotEdge": None,
        "machine": None,
        "errors": [refusal("INVALID", message, "name")],
    }
    assert wish(gateway, CREATE_SEVERAL, machineIds=[machine, "vm-11"], name=name) == {
        "acceptedCount": 0,
        "refusedCount": 0,
        "results": [],
        "errors": [refusal("INVALID", message, "name")],
    }


@pytest.mark.parametrize(
    ("more", "argument", "message"),
    [
        ({"description": "x" * 4001}, "description", "the description has 4001 characters; at most 4000 are allowed"),
        ({"description": "\0"}, "description", "the description contains a NUL character"),
        ({"idempotencyKey": ""}, "idempotencyKey", "the idempotency key has 0 characters; it must have 1 to 255"),
        ({"idempotencyKey": "k" * 256}, "idempotencyKey",
         "the idempotency key has 256 characters; it must have 1 to 255"),
        ({"idempotencyKey": "\0"}, "idempotencyKey", "the idempotency key contains a NUL character"),
    ],
    ids=["long description", "NUL in description", "empty key", "long key", "NUL in key"],
)  # fmt: skip
def test_descriptions_and_keys(gateway: Served, more: dict[str, str], argument: str, message: str) -> None:
    for mutation, wished in (
        (CREATE, {"machineId": "vm-11", "name": "n"}),
        (CREATE_SEVERAL, {"machineIds": ["vm-11"], "name": "n"}),
        (REVERT, {"snapshotId": "snapshot-3"}),
        (DELETE, {"ids": ["snapshot-3"]}),
        (REFRESH, {"machineId": "vm-11"}),
    ):
        if argument == "description" and "name" not in wished:
            continue
        assert wish(gateway, mutation, **wished, **more)["errors"] == [refusal("INVALID", message, argument)]


# A text that is no id, and those of nothing or of something else.
MACHINES = [
    ("vm-x", invalid_id("vm-x", "machineId")),
    ("", invalid_id("", "machineId")),
    ("vm-999", refusal("NOT_FOUND", "there is no machine vm-999", "machineId")),
    ("vm-201", refusal("NOT_FOUND", "there is no machine vm-201", "machineId")),
    ("instance-11", refusal("NOT_FOUND", "there is no machine instance-11", "machineId")),
    ("snapshot-3", refusal("NOT_FOUND", "there is no machine snapshot-3", "machineId")),
    ("operation-1", refusal("NOT_FOUND", "there is no machine operation-1", "machineId")),
]
SNAPSHOT_IDS = [
    ("x", invalid_id("x", "snapshotId")),
    ("snapshot-", invalid_id("snapshot-", "snapshotId")),
    ("snapshot-999999", refusal("NOT_FOUND", "there is no snapshot snapshot-999999", "snapshotId")),
    ("vm-11", refusal("NOT_FOUND", "there is no snapshot vm-11", "snapshotId")),
    ("operation-1", refusal("NOT_FOUND", "there is no snapshot operation-1", "snapshotId")),
]


@pytest.mark.parametrize(("machine", "error"), MACHINES, ids=[machine or "empty" for machine, _ in MACHINES])
def test_machines(gateway: Served, machine: str, error: dict[str, Any]) -> None:
    nothing = {"operation": None, "machine": None, "errors": [error]}
    assert wish(gateway, REFRESH, machineId=machine) == nothing
    assert wish(gateway, CREATE, machineId=machine, name="n") == nothing | {"snapshot": None, "snapshotEdge": None}
    several = wish(gateway, CREATE_SEVERAL, machineIds=[machine, machine], name="n")
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
def test_snapshots(gateway: Served, snapshot: str, error: dict[str, Any], dry: bool) -> None:
    reverted = wish(gateway, REVERT, snapshotId=snapshot, dryRun=dry)
    assert reverted == {"operation": None, "vm": None, "snapshot": None, "errors": [error]}
    deleted = wish(gateway, DELETE, ids=[snapshot], dryRun=dry, withDescendants=True)
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
def test_an_instance_is_not_reverted(gateway: Served, dry: bool) -> None:
    error = refusal("UNSUPPORTED", "only Vms can be reverted to a snapshot; an Instance cannot", "snapshotId")
    reverted = wish(gateway, REVERT, snapshotId="snapshot-7", dryRun=dry)
    assert reverted == {"operation": None, "vm": None, "snapshot": None, "errors": [error]}


def test_an_instance_has_no_memory_to_keep(gateway: Served) -> None:
    error = refusal("UNSUPPORTED", "this cloud does not save the memory of instances", "machineId")
    assert wish(gateway, CREATE, machineId="instance-201", name="n", memory=True)["errors"] == [error]


@pytest.mark.parametrize("count", [0, 101])
def test_too_few_and_too_many(gateway: Served, count: int) -> None:
    for mutation, argument, more in (
        (DELETE, "ids", {}),
        (DELETE, "ids", {"dryRun": True}),
        (CREATE_SEVERAL, "machineIds", {"name": "n"}),
    ):
        ids = [f"snapshot-{number}" for number in range(count)]
        message = f"`{argument}` has {count} ids; it must have 1 to 100"
        assert wish(gateway, mutation, **{argument: ids, **more}) == {
            "acceptedCount": 0,
            "refusedCount": 0,
            "results": [],
            "errors": [refusal("INVALID", message, argument)],
        }


def test_operations_to_cancel(gateway: Served) -> None:
    for text, error in (
        ("x", invalid_id("x", "operationId")),
        ("operation-999999", refusal("NOT_FOUND", "there is no operation operation-999999", "operationId")),
        ("vm-11", refusal("NOT_FOUND", "there is no operation vm-11", "operationId")),
        ("operation-1", refusal("CONFLICT", "operation-1 has already ended: SUCCEEDED", "operationId")),
    ):
        assert wish(gateway, CANCEL, operationId=text) == {"operation": None, "errors": [error]}


@pytest.mark.parametrize(
    ("mutation", "wished", "place", "message"),
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
def test_inputs_of_a_wrong_type(
    gateway: Served, mutation: str, wished: dict[str, Any], place: str, message: str
) -> None:
    body = gateway.post(mutation, {"input": wished})
    (error,) = body["errors"]
    at = f" at {place}" if place else ""
    assert error["message"].startswith(f"Variable '$input' has invalid value{at}: ")
    assert message in error["message"]
    assert error["extensions"] == {"code": "BAD_USER_INPUT"}
    assert "data" not in body
