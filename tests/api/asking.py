"""What the tests of the API share: the whole database as text, and the mutations with everything they answer."""

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


def wish(gateway: Served, mutation: str, **input: Any) -> Any:
    """The payload that a mutation answers with."""
    (payload,) = gateway.ask(mutation, input=input).values()
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


def dump(gateway: Served) -> dict[str, list[str]]:
    """Every row of every table, as text. Without `observed_at`, which changes with every refresh."""

    async def read(tx: Transaction) -> dict[str, list[str]]:
        found = {}
        for name, table in SQLModel.metadata.tables.items():
            columns = ", ".join(column.name for column in table.columns if column.name != "observed_at")
            found[name] = sorted(repr(tuple(row)) for row in await tx.rows(f"SELECT {columns} FROM {name}"))
        return found

    found: dict[str, list[str]] = gateway.run(gateway.gateway.database.read(read))
    return found


def latency(gateway: Served, milliseconds: int, fault: dict[str, Any] | None = None) -> None:
    """How long work on each simulated machine takes from now on, and the fault of each."""

    async def work(tx: Transaction) -> None:
        text = "NULL" if fault is None else f"'{orjson.dumps(fault).decode()}'"
        await tx.rows(f"UPDATE simulated_machine SET latency_ms = {milliseconds}, fault = {text}")

    gateway.run(gateway.gateway.database.write(work))
