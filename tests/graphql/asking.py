"""What the tests of the API share: the whole database as text, and the mutations with everything they answer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
from sqlmodel import SQLModel

from gateway.store.database import Transaction
from tests.serving import Served

REFUSAL = "errors { code message path conflict { id } }"
OPERATION = "operation { id kind state snapshotId }"
SNAPSHOT = "snapshot { id name state }"

CREATE = (
    "mutation ($input: CreateSnapshotInput!) { createSnapshot(input: $input) {"
    f" {OPERATION} {SNAPSHOT} snapshotEdge {{ cursor node {{ id }} }} machine {{ id }} {REFUSAL} }} }}"
)
CREATE_SEVERAL = (
    "mutation ($input: CreateSnapshotsInput!) { createSnapshots(input: $input) { acceptedCount refusedCount"
    f" results {{ machineId {OPERATION} {SNAPSHOT} {REFUSAL} }} {REFUSAL} }} }}"
)
REVERT = (
    "mutation ($input: RevertVmSnapshotInput!) { revertVmSnapshot(input: $input) {"
    f" {OPERATION} vm {{ id }} {SNAPSHOT} {REFUSAL} }} }}"
)
DELETE = (
    "mutation ($input: DeleteSnapshotsInput!) { deleteSnapshots(input: $input) { acceptedCount refusedCount"
    f" results {{ snapshotId isDescendant {OPERATION} {SNAPSHOT} {REFUSAL} }} {REFUSAL} }} }}"
)
REFRESH = (
    "mutation ($input: RefreshMachineInput!) { refreshMachine(input: $input) {"
    f" {OPERATION} machine {{ id }} {REFUSAL} }} }}"
)
CANCEL = f"mutation ($input: CancelOperationInput!) {{ cancelOperation(input: $input) {{ {OPERATION} {REFUSAL} }} }}"

TREE = (
    "query ($id: ID!) { node(id: $id) { ... on Machine { currentSnapshot { id } snapshots(sort: [{field: ID}])"
    " { totalCount nodes { id name state isCurrent parent { id } } } } } }"
)

Tree = list[tuple[str, str, str | None]]


def wish(gateway: Served, mutation: str, **given: Any) -> Any:
    """The payload that a mutation answers with."""
    (payload,) = gateway.ask(mutation, input=given).values()
    return payload


def tree(gateway: Served, machine: str) -> Tree:
    """Name, state and parent's id of each snapshot of a machine, by id; `*` before the name of the current one."""
    found = gateway.ask(TREE, id=machine)["node"]
    nodes = found["snapshots"]["nodes"]
    assert found["snapshots"]["totalCount"] == len(nodes)
    assert [node["id"] for node in nodes if node["isCurrent"]] == (
        [found["currentSnapshot"]["id"]] if found["currentSnapshot"] else []
    )
    return [
        ("*" * node["isCurrent"] + node["name"], node["state"], node["parent"] and node["parent"]["id"])
        for node in nodes
    ]


def dump(gateway: Served, *without: str) -> dict[str, list[str]]:
    """Every row of every table, as text, `without` some tables; and without `observed_at`, which a refresh changes.

    The record of who did what is left out: it grows with what is refused.
    """

    async def read(tx: Transaction) -> dict[str, list[str]]:
        found = {}
        for name, table in SQLModel.metadata.tables.items():
            if name in ("audit_entry", *without):
                continue
            columns = ", ".join(column.name for column in table.columns if column.name != "observed_at")
            found[name] = sorted(repr(tuple(row)) for row in await tx.rows(f"SELECT {columns} FROM {name}"))
        return found

    found: dict[str, list[str]] = gateway.run(gateway.gateway.database.read(read))
    return found


def execute(gateway: Served, sql: str) -> None:
    """Changes the database behind the gateway's back."""
    gateway.run(gateway.gateway.database.write(lambda tx: tx.rows(sql)))


def latency(gateway: Served, milliseconds: int) -> None:
    """How long work on each simulated machine takes from now on."""
    execute(gateway, f"UPDATE simulated_machine SET latency_ms = {milliseconds}")


def reference(gateway: Served, machine: str) -> str:
    """The provider's name for a machine."""
    query = "query ($id: ID!) { node(id: $id) { ... on Machine { providerRef } } }"
    found: str = gateway.ask(query, id=machine)["node"]["providerRef"]
    return found


@contextmanager
def held(gateway: Served, machine: str) -> Iterator[None]:
    """Work on the machine does not end before this is left."""
    ref = reference(gateway, machine)
    execute(gateway, f"UPDATE simulated_machine SET latency_ms = 600000 WHERE ref = '{ref}'")
    yield
    execute(gateway, f"UPDATE simulated_machine SET latency_ms = 0 WHERE ref = '{ref}'")
    execute(gateway, f"UPDATE simulated_task SET done_at = started_at WHERE machine_ref = '{ref}'")


def follow(gateway: Served, query: str, **variables: Any) -> Iterator[dict[str, Any]]:
    """What a subscription sends over server-sent events, until it ends or is no longer iterated."""
    body = {"query": query, "variables": variables}
    with gateway.http.stream("POST", "/graphql", json=body, headers={"accept": "text/event-stream"}) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                yield orjson.loads(line.removeprefix("data: "))


def await_work(gateway: Served, operation: str) -> None:
    """Waits until the provider is at it."""
    query = "subscription ($id: ID!) { operationUpdated(id: $id) { state phase } }"
    for body in follow(gateway, query, id=operation):
        if body["data"]["operationUpdated"] == {"state": "RUNNING", "phase": "Copying the disks"}:
            return
    raise AssertionError(f"{operation} has ended")


def ended(gateway: Served, operation: str) -> tuple[str, Any]:
    """State and error's code of an operation that has come to its end."""
    last = gateway.await_operation(operation)
    return last["state"], last["error"] and last["error"]["code"]
