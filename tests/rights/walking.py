"""Asking for everything in the table, of machines of the demo world, and what comes of it in one word."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx2

from gateway.models import MachineKind, OperationKind
from tests.graphql import asking
from tests.rights.callers import CALLERS, TENANT, Asking
from tests.rights.table import INSTANCE, REST, VM
from tests.serving import Served

YES, NOT_THERE, FORBIDDEN, UNKNOWN = "yes", "not there", "forbidden", "401"

_MACHINES = {VM: 11, INSTANCE: 201}
_SNAPSHOTS = {VM: 4, INSTANCE: 8}
_TREES = {VM: (11, 4), INSTANCE: (9_201, 90_002)}  # a machine, and a snapshot of it that is current and has a parent
_PREFIXES = {VM: "vm", INSTANCE: "instance"}
_COLLECTIONS = {VM: "vms", INSTANCE: "instances"}
_PROVIDERS = {VM: "lab", INSTANCE: "cloud"}
_DELETES = [name for name, rule in REST.items() if "delete" in name.lower() and rule.bound]


def machine(kind: MachineKind) -> str:
    return f"{_PREFIXES[kind]}-{_MACHINES[kind]}"


def operation(kind: MachineKind, work: OperationKind = OperationKind.CREATE_SNAPSHOT) -> int:
    """One that has failed."""
    return 9_000 + 10 * list(MachineKind).index(kind) + list(OperationKind).index(work)


def entry(kind: MachineKind) -> int:
    """One of the record, about a machine, a snapshot and an operation."""
    return 9_500 + list(MachineKind).index(kind)


def leftover(kind: MachineKind, name: str, caller: Asking) -> int:
    """What a failed create has left, for this caller to delete by this request."""
    place = _DELETES.index(name) * len(MachineKind) + list(MachineKind).index(kind)
    return 100_000 + 100 * CALLERS.index(caller) + place


def prepare(gateway: Served) -> None:
    """Adds what the walk needs: work that has failed, things to delete, and an Instance with a tree."""
    moment = "'2026-01-01T00:00:00.000000Z'"
    operations, snapshots = [], []
    for kind in MachineKind:
        operations += [
            f"({operation(kind, work)}, '{TENANT}', '{work}', 'FAILED', {_MACHINES[kind]}, '{kind}', 'name',"
            f" {_SNAPSHOTS[kind]}, {moment}, {moment}, 'PROVIDER_FAILED', 'no', 'token', '{{}}', TRUE, 0, 0)"
            for work in OperationKind
        ]
        snapshots += [
            f"({leftover(kind, name, caller)}, '{TENANT}', {_MACHINES[kind]}, 'left', 'left', 'ERROR', FALSE, FALSE,"
            f" {moment})"
            for caller in CALLERS
            for name in _DELETES
        ]
    about = "id, tenant, kind, state, machine_id, machine_kind, machine_name, snapshot_id, created_at, finished_at"
    rest = "error_code, error_message, token, wish, issued, attempt, fence"
    asking.execute(gateway, f"INSERT INTO operation ({about}, {rest}) VALUES {', '.join(operations)}")
    about = "id, tenant, machine_id, name, name_folded, state, memory, is_current, created_at"
    asking.execute(gateway, f"INSERT INTO snapshot ({about}) VALUES {', '.join(snapshots)}")
    about = "id, tenant, created_at, caller_roles, surface, action, outcome, machine_kind, machine_id, snapshot_id"
    entries = [
        f"({entry(kind)}, '{TENANT}', {moment}, '[]', 'GRAPHQL', 'CREATE_SNAPSHOT', 'ACCEPTED', '{kind}',"
        f" {_MACHINES[kind]}, {_SNAPSHOTS[kind]}, {operation(kind)}, 0)"
        for kind in MachineKind
    ]
    asking.execute(gateway, f"INSERT INTO audit_entry ({about}, operation_id, repeats) VALUES {', '.join(entries)}")
    _plant_tree(gateway, moment)


def _plant_tree(gateway: Served, moment: str) -> None:
    """An Instance with a tree, which no provider of the demo world has and so takes away again."""
    number, current = _TREES[INSTANCE]
    columns = (
        "id, tenant, kind, name, name_folded, provider, provider_folded, provider_ref, provider_ref_folded, imported,"
        " power_state, created_at, updated_at, observed_at"
    )
    values = f"{number}, '{TENANT}', 'INSTANCE', 'm', 'm', 'file', 'file', 'r', 'r', TRUE, 'ON'"
    asking.execute(gateway, f"INSERT INTO provider (name, tenant, driver) VALUES ('file', '{TENANT}', 'none')")
    asking.execute(gateway, f"INSERT INTO machine ({columns}) VALUES ({values}, {moment}, {moment}, {moment})")
    columns = "tenant, machine_id, name, name_folded, state, memory, created_at, id, is_current, parent_id"
    values = f"'{TENANT}', {number}, 's', 's', 'READY', FALSE, {moment}"
    for own in (f"{current - 1}, FALSE, NULL", f"{current}, TRUE, {current - 1}"):
        asking.execute(gateway, f"INSERT INTO snapshot ({columns}) VALUES ({values}, {own})")


@dataclass(frozen=True)
class Ask:
    """One request. Whoever may send it finds `mark` in the answer, in whatever else stands there."""

    method: str
    path: str
    mark: str
    more: Mapping[str, Any] = field(default_factory=dict)

    def outcome(self, client: httpx2.Client) -> str:
        if "text/event-stream" in self.more.get("headers", {}).get("accept", ""):
            with client.stream(self.method, self.path, **self.more) as answer:
                if answer.status_code != 200:
                    return _word(answer.status_code, "", self.mark)
                # What it has been refused with, or is told first, or where it could be taken up again.
                return _word(200, next(line for line in answer.iter_lines() if line.startswith(("data: {", "id:"))), "")
        answer = client.request(self.method, self.path, **self.more)
        return _word(answer.status_code, answer.text, self.mark)


def _word(status: int, text: str, mark: str) -> str:
    codes = set(re.findall(r'"code":"([A-Z_]+)"', text))
    assert status < 500, text
    assert not codes & {"INTERNAL", "INTERNAL_SERVER_ERROR", "BAD_USER_INPUT", "INVALID"}, text
    if status == 401:
        return UNKNOWN
    if status == 403 or "FORBIDDEN" in codes:
        return FORBIDDEN
    if status == 404 or "NOT_FOUND" in codes or mark not in text:
        return NOT_THERE
    return YES


# ---- GraphQL


def _graphql(query: str, mark: str, **variables: Any) -> Ask:
    return Ask("POST", "/graphql", mark, {"json": {"query": query, "variables": variables}})


def _stream(query: str, **variables: Any) -> Ask:
    json = {"query": query, "variables": variables}
    return Ask("POST", "/graphql", "", {"json": json, "headers": {"accept": "text/event-stream"}})


def _query(name: str, kind: MachineKind) -> Ask:
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
            # All of one kind, so that what is seen does not hang on where it stands.
            query = f'{{ {name}(filter: {{id: {{eq: "{id_}"}}}}) {{ totalCount nodes {{ id }} }} }}'
            return _graphql(query, f'"totalCount":1,"nodes":[{{"id":"{id_}"}}]')
        case _:
            return _graphql(f'{{ {name}(id: "{id_}") {{ id }} }}', f'"{id_}"')


def _relation(type_name: str, name: str, kind: MachineKind) -> Ask:
    number, snapshot = _TREES[kind]
    ids = {"Snapshot": f"snapshot-{snapshot}", "Operation": f"operation-{operation(kind)}"}
    ids["AuditEntry"] = f"audit-{entry(kind)}"
    id_ = ids.get(type_name, f"{_PREFIXES[kind]}-{number}")
    return _graphql(f'{{ node(id: "{id_}") {{ ... on {type_name} {{ {name} {{ __typename }} }} }} }}', '"__typename"')


def _mutation(name: str, kind: MachineKind) -> Ask:
    name, _, work = name.partition(" ")
    snapshot = f"snapshot-{_SNAPSHOTS[kind]}"
    query, wish = {
        "createSnapshot": (asking.CREATE, {"machineId": machine(kind), "name": "walked"}),
        "createSnapshots": (asking.CREATE_SEVERAL, {"machineIds": [machine(kind)], "name": "walked"}),
        "revertVmSnapshot": (asking.REVERT, {"snapshotId": snapshot, "dryRun": True}),
        "deleteSnapshots": (asking.DELETE, {"ids": [snapshot], "dryRun": True}),
        "refreshMachine": (asking.REFRESH, {"machineId": machine(kind)}),
        "cancelOperation": (
            asking.CANCEL,
            {"operationId": f"operation-{operation(kind, OperationKind(work)) if work else 0}"},
        ),
    }[name]
    return _graphql(query, f'"{name}"', input=wish)


def _subscription(name: str, kind: MachineKind) -> Ask:
    match name:
        case "operationUpdated":
            query = "subscription ($id: ID!) { operationUpdated(id: $id) { id } }"
            return _stream(query, id=f"operation-{operation(kind)}")
        case "snapshotChanged":
            query = "subscription ($id: ID) { snapshotChanged(machineId: $id) { snapshotId } }"
            return _stream(query, id=machine(kind))
        case _:
            # It says nothing of what is not there, so `test_who_may` follows it by itself: here, that it is served.
            return _stream("subscription { operationChanged { id } }")


# ---- REST


def _rest(name: str, kind: MachineKind, caller: Asking) -> Ask:
    target, _, action = name.partition(" ")[2].partition(" ")
    method = name.partition(" ")[0]
    snapshot = leftover(kind, name, caller) if name in _DELETES else _SNAPSHOTS[kind]
    path = target.replace("/snapshots/ID", f"/snapshots/{snapshot}").replace("/tasks/ID", f"/tasks/{operation(kind)}")
    path = path.replace("MACHINES", _COLLECTIONS[kind]).replace("/ID", f"/{_MACHINES[kind]}")
    more: dict[str, Any] = {}
    if action == "create":
        more = {"json": {"name": "walked"}}
    elif action == "delete" and target.endswith("snapshots"):
        more = {"json": {"action": action, "resources": [{"id": snapshot}]}}
    elif action:
        more = {"json": {"action": action}}
    if name in ("GET /api/tasks", "GET /api/MACHINES"):
        number = operation(kind) if target == "/api/tasks" else _MACHINES[kind]
        return Ask(method, path, f'{path}/{number}"', {"params": {"filter[]": f"id={number}"}})
    return Ask(method, path, "", more)


def ask(name: str, kind: MachineKind, caller: Asking) -> Ask:
    """The request for a row of the table."""
    if "/" in name:
        return Ask("GET", name.removeprefix("GET "), "") if "/api" not in name else _rest(name, kind, caller)
    type_name, _, field_name = name.partition(".")
    if type_name not in _ROOTS:
        return _relation(type_name, field_name, kind)
    return _ROOTS[type_name](field_name, kind)


_ROOTS: Mapping[str, Callable[[str, MachineKind], Ask]] = {
    "Query": _query,
    "Mutation": _mutation,
    "Subscription": _subscription,
}
