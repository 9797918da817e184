"""A request for every row of the table, on machines of the demo world, and the classification of its response."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

from gateway.models import MachineKind, OperationKind
from tests.graphql import client as graphql_client
from tests.graphql.client import execute_sql
from tests.rights.callers import CALLERS, TENANT, RoleCaller
from tests.rights.table import INSTANCE, REST, VM
from tests.serving import Served
from tests.waiting import within

ALLOWED, NOT_FOUND, FORBIDDEN, UNAUTHENTICATED = "yes", "not found", "forbidden", "401"

_MACHINES = {VM: 11, INSTANCE: 201}
_SNAPSHOTS = {VM: 4, INSTANCE: 8}
_TREES = {VM: (11, 4), INSTANCE: (9_201, 90_002)}  # a machine, and a snapshot of it that is current and has a parent
_PREFIXES = {VM: "vm", INSTANCE: "instance"}
_COLLECTIONS = {VM: "vms", INSTANCE: "instances"}
_PROVIDERS = {VM: "lab", INSTANCE: "cloud"}
_DELETES = [name for name, rule in REST.items() if "delete" in name.lower() and rule.bound]


def machine(kind: MachineKind) -> str:
    return f"{_PREFIXES[kind]}-{_MACHINES[kind]}"


def operation(kind: MachineKind, operation_kind: OperationKind = OperationKind.CREATE_SNAPSHOT) -> int:
    """The number of a failed operation."""
    return 9_000 + 10 * list(MachineKind).index(kind) + list(OperationKind).index(operation_kind)


def entry(kind: MachineKind) -> int:
    """The number of an audit entry with a machine, a snapshot and an operation."""
    return 9_500 + list(MachineKind).index(kind)


def leftover(kind: MachineKind, name: str, caller: RoleCaller) -> int:
    """The number of a snapshot left by a failed creation, or of a failed operation, for this caller and request."""
    place = _DELETES.index(name) * len(MachineKind) + list(MachineKind).index(kind)
    return 100_000 + 100 * CALLERS.index(caller) + place


def prepare(gateway: Served) -> None:
    """Adds failed operations, snapshots to delete, audit entries, and an Instance with a snapshot tree."""
    moment = "'2026-01-01T00:00:00.000000Z'"
    operations, snapshots = [], []
    for kind in MachineKind:
        failed = [(operation(kind, each), each) for each in OperationKind]
        for caller in CALLERS:
            for name in _DELETES:
                number = leftover(kind, name, caller)
                if "/tasks" in name:
                    failed.append((number, OperationKind.CREATE_SNAPSHOT))
                else:
                    snapshots.append(
                        f"({number}, '{TENANT}', {_MACHINES[kind]}, 'left', 'left', 'ERROR', FALSE, FALSE, {moment})"
                    )
        operations += [
            f"({number}, '{TENANT}', '{each}', 'FAILED', {_MACHINES[kind]}, '{kind}', 'name',"
            f" {_SNAPSHOTS[kind]}, {moment}, {moment}, 'PROVIDER_FAILED', 'no', 'token', '{{}}', TRUE, 0, 0)"
            for number, each in failed
        ]
    columns = "id, tenant, kind, state, machine_id, machine_kind, machine_name, snapshot_id, created_at, finished_at"
    more_columns = "error_code, error_message, token, wish, issued, attempt, fence"
    execute_sql(gateway, f"INSERT INTO operation ({columns}, {more_columns}) VALUES {', '.join(operations)}")
    columns = "id, tenant, machine_id, name, name_folded, state, memory, is_current, created_at"
    execute_sql(gateway, f"INSERT INTO snapshot ({columns}) VALUES {', '.join(snapshots)}")
    columns = "id, tenant, created_at, caller_roles, surface, action, outcome, machine_kind, machine_id, snapshot_id"
    entries = [
        f"({entry(kind)}, '{TENANT}', {moment}, '[]', 'GRAPHQL', 'CREATE_SNAPSHOT', 'ACCEPTED', '{kind}',"
        f" {_MACHINES[kind]}, {_SNAPSHOTS[kind]}, {operation(kind)}, 0)"
        for kind in MachineKind
    ]
    execute_sql(gateway, f"INSERT INTO audit_entry ({columns}, operation_id, repeats) VALUES {', '.join(entries)}")
    _insert_tree(gateway, moment)


def _insert_tree(gateway: Served, moment: str) -> None:
    """Inserts an Instance with a snapshot tree, of a provider that is not refreshed and so does not remove it."""
    number, current = _TREES[INSTANCE]
    columns = (
        "id, tenant, kind, name, name_folded, provider, provider_folded, provider_ref, provider_ref_folded, imported,"
        " power_state, created_at, updated_at, observed_at"
    )
    values = f"{number}, '{TENANT}', 'INSTANCE', 'm', 'm', 'file', 'file', 'r', 'r', TRUE, 'ON'"
    execute_sql(gateway, f"INSERT INTO provider (name, tenant, driver) VALUES ('file', '{TENANT}', 'none')")
    execute_sql(gateway, f"INSERT INTO machine ({columns}) VALUES ({values}, {moment}, {moment}, {moment})")
    columns = "tenant, machine_id, name, name_folded, state, memory, created_at, id, is_current, parent_id"
    values = f"'{TENANT}', {number}, 's', 's', 'READY', FALSE, {moment}"
    for own in (f"{current - 1}, FALSE, NULL", f"{current}, TRUE, {current - 1}"):
        execute_sql(gateway, f"INSERT INTO snapshot ({columns}) VALUES ({values}, {own})")


@dataclass(frozen=True)
class Probe:
    """One request. The response of an allowed caller contains `marker`."""

    method: str
    path: str
    marker: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def outcome(self, client: httpx2.Client) -> str:
        """Sends the request and classifies the response."""
        if "text/event-stream" in self.options.get("headers", {}).get("accept", ""):
            with client.stream(self.method, self.path, **self.options) as response:
                if response.status_code != 200:
                    return _outcome(response.status_code, "", self.marker)
                # The first event (an error or data), or the id from which the stream can be resumed.
                return _outcome(
                    200, next(line for line in within(response.iter_lines()) if line.startswith(("data: {", "id:"))), ""
                )
        response = client.request(self.method, self.path, **self.options)
        return _outcome(response.status_code, response.text, self.marker)


def _outcome(status: int, text: str, marker: str) -> str:
    codes = set(re.findall(r'"code":"([A-Z_]+)"', text))
    assert status < 500, text
    assert not codes & {"INTERNAL", "INTERNAL_SERVER_ERROR", "BAD_USER_INPUT", "INVALID"}, text
    if status == 401:
        return UNAUTHENTICATED
    if status == 403 or "FORBIDDEN" in codes:
        return FORBIDDEN
    if status == 404 or "NOT_FOUND" in codes or marker not in text:
        return NOT_FOUND
    return ALLOWED


# ---- GraphQL


def _graphql(query: str, marker: str, **variables: Any) -> Probe:
    return Probe("POST", "/graphql", marker, {"json": {"query": query, "variables": variables}})


def _stream(query: str, **variables: Any) -> Probe:
    json = {"query": query, "variables": variables}
    return Probe("POST", "/graphql", "", {"json": json, "headers": {"accept": "text/event-stream"}})


def _query(name: str, kind: MachineKind) -> Probe:
    ids = {"snapshot": f"snapshot-{_SNAPSHOTS[kind]}", "operation": f"operation-{operation(kind)}"}
    id_ = ids.get(name.removesuffix("s"), machine(kind))
    match name:
        case "viewer":
            return _graphql("{ viewer { name } }", '"viewer":{"name":')
        case "providers":
            return _graphql("{ providers { name } }", f'"{_PROVIDERS[kind]}"')
        case "nodes":
            return _graphql(f'{{ nodes(ids: ["{id_}"]) {{ id }} }}', f'"{id_}"')
        case "auditEntries":
            return _graphql("{ auditEntries(first: 0) { totalCount } }", '"totalCount"')
        case "vms" | "instances" | "machines" | "snapshots" | "operations":
            # The filter selects one row, so that the result does not depend on its position in the list.
            query = f'{{ {name}(filter: {{id: {{eq: "{id_}"}}}}) {{ totalCount nodes {{ id }} }} }}'
            return _graphql(query, f'"totalCount":1,"nodes":[{{"id":"{id_}"}}]')
        case _:
            return _graphql(f'{{ {name}(id: "{id_}") {{ id }} }}', f'"{id_}"')


def _relation(type_name: str, name: str, kind: MachineKind) -> Probe:
    number, snapshot = _TREES[kind]
    ids = {"Snapshot": f"snapshot-{snapshot}", "Operation": f"operation-{operation(kind)}"}
    ids["AuditEntry"] = f"audit-{entry(kind)}"
    id_ = ids.get(type_name, f"{_PREFIXES[kind]}-{number}")
    argument = "(action: DELETE)" if name == "capability" else ""
    selection = f"{name}{argument} {{ __typename }}"
    return _graphql(f'{{ node(id: "{id_}") {{ ... on {type_name} {{ {selection} }} }} }}', '"__typename"')


def _mutation(name: str, kind: MachineKind) -> Probe:
    name, _, operation_kind = name.partition(" ")
    snapshot = f"snapshot-{_SNAPSHOTS[kind]}"
    query, input_ = {
        "createSnapshot": (graphql_client.CREATE, {"machineId": machine(kind), "name": "walked"}),
        "createSnapshots": (graphql_client.CREATE_SEVERAL, {"machineIds": [machine(kind)], "name": "walked"}),
        "revertVmSnapshot": (graphql_client.REVERT, {"snapshotId": snapshot, "dryRun": True}),
        "deleteSnapshots": (graphql_client.DELETE, {"ids": [snapshot], "dryRun": True}),
        "updateSnapshot": (graphql_client.UPDATE, {"snapshotId": snapshot, "description": "walked"}),
        "refreshMachine": (graphql_client.REFRESH, {"machineId": machine(kind)}),
        "refreshProvider": (graphql_client.REFRESH_PROVIDER, {"name": _PROVIDERS[kind]}),
        "cancelOperation": (
            graphql_client.CANCEL,
            {"operationId": f"operation-{operation(kind, OperationKind(operation_kind)) if operation_kind else 0}"},
        ),
    }[name]
    return _graphql(query, f'"{name}"', input=input_)


def _subscription(name: str, kind: MachineKind) -> Probe:
    match name:
        case "operationUpdated":
            query = "subscription ($id: ID!) { operationUpdated(id: $id) { id } }"
            return _stream(query, id=f"operation-{operation(kind)}")
        case "operationsUpdated":
            query = "subscription ($id: ID!) { operationsUpdated(ids: [$id]) { id } }"
            return _stream(query, id=f"operation-{operation(kind)}")
        case "snapshotChanged":
            query = "subscription ($id: ID) { snapshotChanged(machineId: $id) { snapshotId } }"
            return _stream(query, id=machine(kind))
        case _:
            # Rows that the caller may not read cause no event. `test_authorization` tests the events; this, the access.
            return _stream(f"subscription {{ {name} {{ __typename }} }}")


# ---- REST


def _rest(name: str, kind: MachineKind, caller: RoleCaller) -> Probe:
    target, _, action = name.partition(" ")[2].partition(" ")
    method = name.partition(" ")[0]
    snapshot, task = _SNAPSHOTS[kind], operation(kind)
    if name in _DELETES:
        snapshot = task = leftover(kind, name, caller)
    path = target.replace("/snapshots/ID", f"/snapshots/{snapshot}").replace("/tasks/ID", f"/tasks/{task}")
    path = path.replace("MACHINES", _COLLECTIONS[kind]).replace("/ID", f"/{_MACHINES[kind]}")
    options: dict[str, Any] = {}
    if action == "create":
        options = {"json": {"name": "walked"}}
    elif action == "delete" and target.endswith(("snapshots", "tasks")):
        options = {"json": {"action": action, "resources": [{"id": snapshot}]}}
    elif action == "query":
        options = {"json": {"action": action, "id": task if target == "/api/tasks" else _MACHINES[kind]}}
    elif action:
        options = {"json": {"action": action}}
    if name in ("GET /api/tasks", "GET /api/MACHINES"):
        number = operation(kind) if target == "/api/tasks" else _MACHINES[kind]
        return Probe(method, path, f'{path}/{number}"', {"params": {"filter[]": f"id={number}"}})
    return Probe(method, path, "", options)


def probe_of(name: str, kind: MachineKind, caller: RoleCaller) -> Probe:
    """The request for a row of the table."""
    if "/" in name:
        return Probe("GET", name.removeprefix("GET "), "") if "/api" not in name else _rest(name, kind, caller)
    type_name, _, field_name = name.partition(".")
    if type_name not in _ROOTS:
        return _relation(type_name, field_name, kind)
    return _ROOTS[type_name](field_name, kind)


_ROOTS: Mapping[str, Callable[[str, MachineKind], Probe]] = {
    "Query": _query,
    "Mutation": _mutation,
    "Subscription": _subscription,
}
