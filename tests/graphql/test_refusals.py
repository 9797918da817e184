"""What is refused for what else goes on, and that `capabilities` say so before anybody asks."""

from typing import Any

import pytest

from tests.graphql.asking import (
    CREATE,
    CREATE_SEVERAL,
    DELETE,
    REVERT,
    await_work,
    dump,
    ended,
    execute,
    held,
    reference,
    tree,
    wish,
)
from tests.serving import Served

SUCCEEDED = ("SUCCEEDED", None)
READY = "READY"


def test_a_failed_create_leaves_an_error_that_can_be_deleted(busy: Served) -> None:
    ref = reference(busy, "vm-37")
    fault = '{"on": "create", "kind": "refuse", "message": "no space", "times": 1}'
    execute(busy, f"UPDATE simulated_machine SET fault = '{fault}' WHERE ref = '{ref}'")
    payload = wish(busy, CREATE, machineId="vm-37", name="doomed")
    assert ended(busy, payload["operation"]["id"]) == ("FAILED", "PROVIDER_FAILED")
    assert tree(busy, "vm-37") == [("doomed", "ERROR", None)]
    snapshot = payload["snapshot"]["id"]
    before = dump(busy)
    (error,) = wish(busy, REVERT, snapshotId=snapshot)["errors"]
    message = "the snapshot was never made: its creation failed; it can only be deleted"
    assert (error["code"], error["message"]) == ("UNSUPPORTED", message)
    assert dump(busy) == before
    (result,) = wish(busy, DELETE, ids=[snapshot])["results"]
    assert ended(busy, result["operation"]["id"]) == SUCCEEDED
    assert tree(busy, "vm-37") == []


def test_what_is_busy_is_refused_and_says_with_what(busy: Served) -> None:
    with held(busy, "vm-36"):
        payload = wish(busy, CREATE, machineId="vm-36", name="first")
        operation, snapshot = payload["operation"]["id"], payload["snapshot"]["id"]
        await_work(busy, operation)
        moving = ("operation", "event")  # a heartbeat and progress go on
        before = dump(busy, *moving)
        creating = f"the snapshot is still being created: {operation}"
        for mutation, wished, path, message in (
            (REVERT, {"snapshotId": "snapshot-419"}, ["snapshotId"], f"vm-36 has unfinished work: {operation}"),
            (REVERT, {"snapshotId": snapshot}, ["snapshotId"], creating),
            (DELETE, {"ids": ["x", snapshot]}, ["ids", "1"], creating),
        ):
            answer = wish(busy, mutation, **wished)
            (error,) = answer["results"][1]["errors"] if mutation is DELETE else answer["errors"]
            assert error == {
                "code": "CONFLICT",
                "message": message,
                "path": ["input", *path],
                "conflict": {"id": operation},
            }
        assert dump(busy, *moving) == before
        deleting = wish(busy, DELETE, ids=["snapshot-423"])["results"][0]["operation"]
        assert deleting["state"] == "QUEUED"
        (result,) = wish(busy, DELETE, ids=["snapshot-423"])["results"]
        assert result["errors"][0]["message"] == f"the snapshot is being deleted: {deleting['id']}"
    assert ended(busy, operation) == SUCCEEDED
    assert ended(busy, deleting["id"]) == SUCCEEDED


CAPABILITIES = """{
    machines(first: 1000) { nodes { id capabilities { action supported reason } } }
    snapshots(first: 1000) { nodes { id machine { id } capabilities { action supported reason } } }
}"""


def dry_runs(gateway: Served, ids: list[str]) -> tuple[list[Any], list[Any]]:
    """The errors of reverting to each, and of deleting each; nothing is done."""
    reverts, deletes = [], []
    for start in range(0, len(ids), 100):
        some = ids[start : start + 100]
        wishes = [f'r{n}: revertVmSnapshot(input: {{snapshotId: "{id_}", dryRun: true}}) {{ errors {{ message }} }}'
                  for n, id_ in enumerate(some)]  # fmt: skip
        reverts += [payload["errors"] for payload in gateway.ask("mutation {" + " ".join(wishes) + "}").values()]
        deletes += [result["errors"] for result in wish(gateway, DELETE, ids=some, dryRun=True)["results"]]
    return reverts, deletes


def test_capabilities_agree_with_refusals(gateway: Served) -> None:
    """Every snapshot's, by a dry run, and every refusal of memory."""
    found = gateway.ask(CAPABILITIES)
    before = dump(gateway)
    counts = {"REVERT": 0, "DELETE": 0, "CREATE_WITH_MEMORY": 0}
    snapshots = found["snapshots"]["nodes"]
    reverts, deletes = dry_runs(gateway, [node["id"] for node in snapshots])
    for node, revert, delete in zip(snapshots, reverts, deletes, strict=True):
        said = {row["action"]: (row["supported"], row["reason"]) for row in node["capabilities"]}
        assert list(said) == ["REVERT", "DELETE"]
        for action, errors in (("REVERT", revert), ("DELETE", delete)):
            assert said[action] == ((False, errors[0]["message"]) if errors else (True, None))
            counts[action] += not errors
    for node in found["machines"]["nodes"]:
        said = {row["action"]: (row["supported"], row["reason"]) for row in node["capabilities"]}
        assert list(said) == ["READ", "CREATE", "CREATE_WITH_MEMORY", "REVERT", "DELETE"]
        supported, reason = said["CREATE_WITH_MEMORY"]
        if not supported:
            (error,) = wish(gateway, CREATE, machineId=node["id"], name="n", memory=True)["errors"]
            assert error == {
                "code": "UNSUPPORTED",
                "message": reason,
                "path": ["input", "machineId"],
                "conflict": None,
            }
        counts["CREATE_WITH_MEMORY"] += supported
    assert counts["REVERT"] < counts["DELETE"] == len(found["snapshots"]["nodes"])
    assert 0 < counts["CREATE_WITH_MEMORY"] < len(found["machines"]["nodes"])
    assert dump(gateway) == before


@pytest.mark.parametrize(
    ("machine", "snapshot", "sql", "message"),
    [
        (
            "vm-39",
            "snapshot-438",
            "UPDATE machine SET gone_at = '2026-01-01T00:00:00.000000Z' WHERE id = 39",
            "the machine is gone: its provider no longer reports it",
        ),
        (
            "vm-40",
            "snapshot-448",
            "UPDATE machine SET provider = 'old' WHERE id = 40",
            "no driver is configured for provider 'old', so the machine can only be read",
        ),
    ],
    ids=["gone", "imported"],
)
def test_what_can_only_be_read(busy: Served, machine: str, snapshot: str, sql: str, message: str) -> None:
    provider = "INSERT INTO provider (name, tenant, driver) VALUES ('old', 'default', 'none')"
    execute(busy, f"{provider} ON CONFLICT DO NOTHING")
    execute(busy, sql)
    before = dump(busy)
    refusals = [
        *wish(busy, CREATE, machineId=machine, name="n")["errors"],
        *wish(busy, CREATE_SEVERAL, machineIds=[machine], name="n")["results"][0]["errors"],
        *wish(busy, REVERT, snapshotId=snapshot)["errors"],
        *wish(busy, DELETE, ids=[snapshot], withDescendants=True)["results"][0]["errors"],
    ]
    assert [(error["code"], error["message"], error["path"]) for error in refusals] == [
        ("UNSUPPORTED", message, ["input", *path])
        for path in (["machineId"], ["machineIds", "0"], ["snapshotId"], ["ids", "0"])
    ]
    assert dump(busy) == before
    assert len(tree(busy, machine)) == 10
