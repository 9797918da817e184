"""Helpers for tests of the GraphQL API: documents of all mutations, database dumps, and control of the simulator."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
from sqlmodel import SQLModel

from gateway.store.database import Transaction
from tests.serving import Served
from tests.waiting import within

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
UPDATE = (
    "mutation ($input: UpdateSnapshotInput!) { updateSnapshot(input: $input) {"
    f" {OPERATION} {SNAPSHOT} {REFUSAL} }} }}"
)
REFRESH = (
    "mutation ($input: RefreshMachineInput!) { refreshMachine(input: $input) {"
    f" {OPERATION} machine {{ id }} {REFUSAL} }} }}"
)
REFRESH_PROVIDER = (
    "mutation ($input: RefreshProviderInput!) { refreshProvider(input: $input) {"
    f" provider {{ name driver observedAt problem }} {REFUSAL} }} }}"
)
CANCEL = f"mutation ($input: CancelOperationInput!) {{ cancelOperation(input: $input) {{ {OPERATION} {REFUSAL} }} }}"

TREE = (
    "query ($id: ID!) { node(id: $id) { ... on Machine { currentSnapshot { id } snapshots(sort: [{field: ID}])"
    " { totalCount nodes { id name state isCurrent parent { id } } } } } }"
)

Tree = list[tuple[str, str, str | None]]


def mutate(gateway: Served, mutation: str, **arguments: Any) -> Any:
    """Executes a mutation and returns its payload."""
    (payload,) = gateway.ask(mutation, input=arguments).values()
    return payload


def tree(gateway: Served, machine: str) -> Tree:
    """Name, state and parent id of each snapshot of a machine, ordered by id. `*` marks the name of the current one."""
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
    """All rows of all tables as text, except the tables `without`, and except `observed_at`, which a refresh changes.

    Excluded are the audit log, because refusals add entries to it, and what jobs write periodically.
    """

    async def read(tx: Transaction) -> dict[str, list[str]]:
        found = {}
        for name, table in SQLModel.metadata.tables.items():
            if name in ("audit_entry", "job_lease", "process", *without):
                continue
            columns = ", ".join(column.name for column in table.columns if column.name != "observed_at")
            found[name] = sorted(repr(tuple(row)) for row in await tx.rows(f"SELECT {columns} FROM {name}"))
        return found

    found: dict[str, list[str]] = gateway.run(gateway.gateway.database.read(read))
    return found


def execute_sql(gateway: Served, sql: str) -> None:
    """Executes SQL directly on the gateway's database."""
    gateway.run(gateway.gateway.database.write(lambda tx: tx.rows(sql)))


def set_latency(gateway: Served, milliseconds: int) -> None:
    """Sets the duration of future work on all simulated machines."""
    execute_sql(gateway, f"UPDATE simulated_machine SET latency_ms = {milliseconds}")


def provider_ref(gateway: Served, machine: str) -> str:
    """The provider's identifier of a machine."""
    query = "query ($id: ID!) { node(id: $id) { ... on Machine { providerRef } } }"
    found: str = gateway.ask(query, id=machine)["node"]["providerRef"]
    return found


@contextmanager
def stalled(gateway: Served, machine: str) -> Iterator[None]:
    """Within the block, work on the simulated machine does not finish; it finishes when the block ends."""
    ref = provider_ref(gateway, machine)
    execute_sql(gateway, f"UPDATE simulated_machine SET latency_ms = 600000 WHERE ref = '{ref}'")
    yield
    execute_sql(gateway, f"UPDATE simulated_machine SET latency_ms = 0 WHERE ref = '{ref}'")
    execute_sql(gateway, f"UPDATE simulated_task SET done_at = started_at WHERE machine_ref = '{ref}'")


def subscribe(gateway: Served, query: str, **variables: Any) -> Iterator[dict[str, Any]]:
    """Yields the responses of a subscription over server-sent events."""
    body = {"query": query, "variables": variables}
    with gateway.http.stream("POST", "/graphql", json=body, headers={"accept": "text/event-stream"}) as response:
        for line in within(response.iter_lines()):
            if line.startswith("data: {"):
                yield orjson.loads(line.removeprefix("data: "))


def await_running(gateway: Served, operation: str) -> None:
    """Waits until the provider executes the operation."""
    query = "subscription ($id: ID!) { operationUpdated(id: $id) { state phase } }"
    for body in subscribe(gateway, query, id=operation):
        if body["data"]["operationUpdated"] == {"state": "RUNNING", "phase": "Copying the disks"}:
            return
    raise AssertionError(f"{operation} ended before it was seen running")


def await_final_state(gateway: Served, operation: str) -> tuple[str, Any]:
    """Waits for the end of an operation and returns its state and error code."""
    last = gateway.await_operation(operation)
    return last["state"], last["error"] and last["error"]["code"]
