"""Mutations that are refused because of the state of the machine, and their agreement with `capabilities`."""

from typing import Any

import pytest

from tests.graphql.client import (
    CREATE,
    CREATE_SEVERAL,
    DELETE,
    REVERT,
    await_final_state,
    await_running,
    dump,
    execute_sql,
    mutate,
    provider_ref,
    stalled,
    tree,
)
from tests.serving import Served

SUCCEEDED = ("SUCCEEDED", None)
READY = "READY"


def test_failed_create_leaves_an_error_snapshot_that_can_be_deleted(busy: Served) -> None:
    ref = provider_ref(busy, "vm-37")
    fault = '{"on": "create", "kind": "refuse", "message": "no space", "times": 1}'
    execute_sql(busy, f"UPDATE simulated_machine SET fault = '{fault}' WHERE ref = '{ref}'")
    payload = mutate(busy, CREATE, machineId="vm-37", name="doomed")
    assert await_final_state(busy, payload["operation"]["id"]) == ("FAILED", "PROVIDER_FAILED")
    assert tree(busy, "vm-37") == [("doomed", "ERROR", None)]
    snapshot = payload["snapshot"]["id"]
    before = dump(busy)
    (error,) = mutate(busy, REVERT, snapshotId=snapshot)["errors"]
    message = "The snapshot was never created, because its creation failed. It can only be deleted."
    assert (error["code"], error["message"]) == ("UNSUPPORTED", message)
    assert dump(busy) == before
    (result,) = mutate(busy, DELETE, ids=[snapshot])["results"]
    assert await_final_state(busy, result["operation"]["id"]) == SUCCEEDED
    assert tree(busy, "vm-37") == []


def test_failed_creates_are_cleared_in_one_request(busy: Served) -> None:
    """Without a call of the provider, which does not answer meanwhile, and of a machine that it has lost."""
    refs = [provider_ref(busy, machine) for machine in ("vm-34", "vm-35")]
    machines = ", ".join(f"'{ref}'" for ref in refs)
    set_fault = f"UPDATE simulated_machine SET fault = '%s' WHERE ref IN ({machines})"
    execute_sql(busy, set_fault % '{"on": "create", "kind": "refuse"}')
    for machine in ("vm-34", "vm-34", "vm-35"):
        operation = mutate(busy, CREATE, machineId=machine, name="doomed")["operation"]["id"]
        assert await_final_state(busy, operation) == ("FAILED", "PROVIDER_FAILED")
    execute_sql(busy, set_fault % '{"on": "any", "kind": "unavailable"}')
    execute_sql(busy, "UPDATE machine SET gone_at = '2099-01-01T00:00:00.000000Z' WHERE id = 35")
    failed = '{ snapshots(filter: {state: {eq: ERROR}, name: {eq: "doomed"}}) { nodes { id } } }'
    ids = [node["id"] for node in busy.ask(failed)["snapshots"]["nodes"]]
    payload = mutate(busy, DELETE, ids=ids)
    assert (payload["acceptedCount"], payload["refusedCount"]) == (3, 0)
    for result in payload["results"]:
        assert await_final_state(busy, result["operation"]["id"]) == SUCCEEDED
    assert busy.ask(failed)["snapshots"]["nodes"] == []
    # In this order: a refresh that follows the failures must find nothing to change, whenever it comes.
    execute_sql(busy, "UPDATE machine SET gone_at = NULL WHERE id = 35")
    execute_sql(busy, f"UPDATE simulated_machine SET fault = NULL WHERE ref IN ({machines})")


def test_conflict_references_the_unfinished_operation(busy: Served) -> None:
    with stalled(busy, "vm-36"):
        payload = mutate(busy, CREATE, machineId="vm-36", name="first")
        operation, snapshot = payload["operation"]["id"], payload["snapshot"]["id"]
        await_running(busy, operation)
        changing = ("operation", "event")  # heartbeats and progress continue
        before = dump(busy, *changing)
        creating = f"The snapshot is still being created. Wait for {operation}."
        for mutation, arguments, path, message in (
            (
                REVERT,
                {"snapshotId": "snapshot-419"},
                ["snapshotId"],
                f"Machine 'vm-36' has an unfinished operation: {operation}.",
            ),
            (REVERT, {"snapshotId": snapshot}, ["snapshotId"], creating),
            (DELETE, {"ids": ["x", snapshot]}, ["ids", "1"], creating),
        ):
            answer = mutate(busy, mutation, **arguments)
            (error,) = answer["results"][1]["errors"] if mutation is DELETE else answer["errors"]
            assert error == {
                "code": "CONFLICT",
                "message": message,
                "path": ["input", *path],
                "conflict": {"id": operation},
            }
        assert dump(busy, *changing) == before
        deleting = mutate(busy, DELETE, ids=["snapshot-423"])["results"][0]["operation"]
        assert deleting["state"] == "QUEUED"
        (result,) = mutate(busy, DELETE, ids=["snapshot-423"])["results"]
        assert result["errors"][0]["message"] == f"The snapshot is being deleted. Wait for {deleting['id']}."
    assert await_final_state(busy, operation) == SUCCEEDED
    assert await_final_state(busy, deleting["id"]) == SUCCEEDED


CAPABILITIES = """{
    machines(first: 1000) { nodes { id capabilities { action supported reason } } }
    snapshots(first: 1000) { nodes { id machine { id } capabilities { action supported reason } } }
}"""


def dry_runs(gateway: Served, ids: list[str]) -> tuple[list[Any], list[Any]]:
    """The errors of dry runs of reverting to and deleting each snapshot."""
    reverts, deletes = [], []
    for start in range(0, len(ids), 100):
        some = ids[start : start + 100]
        mutations = [f'r{n}: revertVmSnapshot(input: {{snapshotId: "{id_}", dryRun: true}}) {{ errors {{ message }} }}'
                  for n, id_ in enumerate(some)]  # fmt: skip
        reverts += [payload["errors"] for payload in gateway.ask("mutation {" + " ".join(mutations) + "}").values()]
        deletes += [result["errors"] for result in mutate(gateway, DELETE, ids=some, dryRun=True)["results"]]
    return reverts, deletes


def test_capabilities_agree_with_refusals(gateway: Served) -> None:
    """Compares the capabilities of all snapshots with dry runs, and all refusals of memory."""
    found = gateway.ask(CAPABILITIES)
    before = dump(gateway)
    counts = {"REVERT": 0, "DELETE": 0, "CREATE_WITH_MEMORY": 0}
    snapshots = found["snapshots"]["nodes"]
    reverts, deletes = dry_runs(gateway, [node["id"] for node in snapshots])
    for node, revert, delete in zip(snapshots, reverts, deletes, strict=True):
        capabilities = {row["action"]: (row["supported"], row["reason"]) for row in node["capabilities"]}
        assert list(capabilities) == ["REVERT", "DELETE", "UPDATE"]
        assert capabilities["UPDATE"] == (True, None)
        for action, errors in (("REVERT", revert), ("DELETE", delete)):
            assert capabilities[action] == ((False, errors[0]["message"]) if errors else (True, None))
            counts[action] += not errors
    for node in found["machines"]["nodes"]:
        capabilities = {row["action"]: (row["supported"], row["reason"]) for row in node["capabilities"]}
        assert list(capabilities) == ["READ", "CREATE", "CREATE_WITH_MEMORY", "REVERT", "DELETE", "UPDATE"]
        supported, reason = capabilities["CREATE_WITH_MEMORY"]
        if not supported:
            (error,) = mutate(gateway, CREATE, machineId=node["id"], name="n", memory=True)["errors"]
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
            "UPDATE machine SET gone_at = '2099-01-01T00:00:00.000000Z' WHERE id = 39",
            "The machine is gone: its provider no longer reports it.",
        ),
        (
            "vm-40",
            "snapshot-448",
            "UPDATE machine SET provider = 'old' WHERE id = 40",
            "No driver is configured for provider 'old', so the machine can only be read.",
        ),
    ],
    ids=["gone", "imported"],
)
def test_changes_of_a_read_only_machine_are_refused(
    busy: Served, machine: str, snapshot: str, sql: str, message: str
) -> None:
    provider = "INSERT INTO provider (name, tenant, driver) VALUES ('old', 'default', 'none')"
    execute_sql(busy, f"{provider} ON CONFLICT DO NOTHING")
    execute_sql(busy, sql)
    before = dump(busy)
    refusals = [
        *mutate(busy, CREATE, machineId=machine, name="n")["errors"],
        *mutate(busy, CREATE_SEVERAL, machineIds=[machine], name="n")["results"][0]["errors"],
        *mutate(busy, REVERT, snapshotId=snapshot)["errors"],
        *mutate(busy, DELETE, ids=[snapshot], withDescendants=True)["results"][0]["errors"],
    ]
    assert [(error["code"], error["message"], error["path"]) for error in refusals] == [
        ("UNSUPPORTED", message, ["input", *path])
        for path in (["machineId"], ["machineIds", "0"], ["snapshotId"], ["ids", "0"])
    ]
    assert dump(busy) == before
    assert len(tree(busy, machine)) == 10
