"""Every field of the schema and every route, requested by every caller, responds as `table.py` states."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import httpx2
import pytest
from graphql import GraphQLInterfaceType, get_named_type, is_leaf_type

from gateway.access.tokens import NewToken, create_token
from gateway.config import Settings
from gateway.graphql.schema.build import executable_schema
from gateway.models import MachineKind, SnapshotAction
from gateway.rest.classes import COLLECTIONS
from tests.databases import KINDS, Databases
from tests.graphql.client import execute_sql, set_latency
from tests.graphql.subscription_clients import subscribe_by_sse
from tests.rights.callers import (
    ANONYMOUS,
    BUILT_IN,
    CALLERS,
    CUSTOM_ROLES,
    OTHER_TENANT_ADMIN,
    ROLES,
    TENANT,
    WITHOUT_RIGHTS,
    RoleCaller,
)
from tests.rights.probes import (
    ALLOWED,
    FORBIDDEN,
    NOT_FOUND,
    UNAUTHENTICATED,
    machine,
    operation,
    prepare,
    probe_of,
)
from tests.rights.table import GRAPHQL, PAGES, REST, TABLE, Rule
from tests.rules.markdown import ROOT, table
from tests.serving import Served, http_client, served

Outcomes = Mapping[tuple[str, MachineKind, str], str]  # by row, kind and caller

SCHEMA = executable_schema()


# The callers of the default run. The others have single rights, and rights with `read`: 2,400 requests more.
FEW_CALLERS = [ANONYMOUS, *BUILT_IN, WITHOUT_RIGHTS, OTHER_TENANT_ADMIN]


class ProbedGateway(NamedTuple):
    """A gateway, its callers, a client of each, and the outcome of every request."""

    gateway: Served
    callers: Sequence[RoleCaller]
    clients: Mapping[str, httpx2.Client]
    outcomes: Outcomes


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("sqlite", FEW_CALLERS), id="sqlite"),
        *(pytest.param((kind, CALLERS), id=f"{kind}, all callers", marks=pytest.mark.thorough) for kind in KINDS),
    ],
)
def probed(request: pytest.FixtureRequest, databases: Databases) -> Iterator[ProbedGateway]:
    """The demo world, after every caller has sent every request once."""
    kind, callers = request.param
    settings = Settings(
        database_url=databases.new(kind, demo=True),
        roles=CUSTOM_ROLES,
        drain_timeout=0.01,
        keep_operations=1e9,
    )
    with served(settings) as gateway, ExitStack() as stack:
        set_latency(gateway, 0)
        prepare(gateway)
        clients = {}
        for caller in callers:
            headers = {}
            if caller is not ANONYMOUS:
                new = NewToken(caller.name, caller.roles, caller.tenant)
                creation = create_token(gateway.gateway.database, ROLES, new)
                headers = {"authorization": f"Bearer {gateway.run(creation)}"}
            clients[caller.name] = stack.enter_context(http_client(gateway.url, headers=headers))
        yield ProbedGateway(gateway, callers, clients, _send_all(callers, clients))


def _send_all(callers: Sequence[RoleCaller], clients: Mapping[str, httpx2.Client]) -> Outcomes:
    return {
        (name, kind, caller.name): probe_of(name, kind, caller).outcome(clients[caller.name])
        for name, rule in TABLE.items()
        for kind in rule.kinds
        for caller in callers
        if name not in _TESTED_BY_EVENTS or caller is ANONYMOUS
    }


_MACHINES = {MachineKind.VM: 12, MachineKind.INSTANCE: 202}  # that no request of the table changes
_OF_MACHINES = str([f"{kind.lower()}-{number}" for kind, number in _MACHINES.items()]).replace("'", '"')
# The subscriptions that a caller without events cannot distinguish from an idle one: the query, which selects an id,
# and the id of the event of each kind.
_TESTED_BY_EVENTS: Mapping[str, tuple[str, Callable[[MachineKind], str]]] = {
    "Subscription.operationChanged": (
        "subscription { operationChanged(filter: {state: {eq: FAILED}}) { id } }",
        lambda kind: f"operation-{operation(kind)}",
    ),
    "Subscription.machineChanged": (
        f"subscription {{ machineChanged(filter: {{id: {{in: {_OF_MACHINES}}}}}) {{ id: machineId }} }}",
        lambda kind: f"{kind.lower()}-{_MACHINES[kind]}",
    ),
}


def expected(rule: Rule, kind: MachineKind, caller: RoleCaller) -> str:
    """The outcome that the rule requires for a caller."""
    if rule.public:
        return ALLOWED
    if caller is ANONYMOUS:
        return UNAUTHENTICATED
    can_read = caller.tenant == TENANT and (SnapshotAction.READ, kind) in caller.rights
    if rule.administers and not caller.administers:
        return NOT_FOUND if rule.bound else FORBIDDEN
    needed = rule.actions or ([SnapshotAction.READ] if rule.bound else [])
    lacks = bool(needed) and not any((action, kind) in caller.rights for action in needed)
    if lacks and (rule.forbidden_first or can_read):
        return FORBIDDEN
    return NOT_FOUND if rule.bound and not can_read else ALLOWED


def test_all_outcomes_are_those_of_the_table(probed: ProbedGateway) -> None:
    wrong = {
        (name, str(kind), caller.name): (found, wanted)
        for name, rule in TABLE.items()
        for kind in rule.kinds
        for caller in probed.callers
        if (found := probed.outcomes.get((name, kind, caller.name))) is not None
        if found != (wanted := expected(rule, kind, caller))
    }
    assert wrong == {}


# ---- the table is complete


def test_every_field_has_a_row() -> None:
    """Every field of the root types, and every field of a node type that leads to other rows."""
    roots = [SCHEMA.query_type, SCHEMA.mutation_type, SCHEMA.subscription_type]
    fields = {f"{root.name}.{name}" for root in roots if root is not None for name in root.fields}
    node = SCHEMA.type_map["Node"]
    assert isinstance(node, GraphQLInterfaceType)
    for type_ in SCHEMA.get_possible_types(node):
        relations = (name for name, field in type_.fields.items() if not is_leaf_type(get_named_type(field.type)))
        fields |= {f"{type_.name}.{name}" for name in relations}
    assert {name.partition(" ")[0] for name in GRAPHQL} == fields


def test_every_route_has_a_row(probed: ProbedGateway) -> None:
    """Every combination of method, path and action that REST does not reject as unknown has a row."""
    admin = probed.clients["admin"]
    paths = {path: path for path in ("/api", "/api/auth", "/api/ping", "/api/product_info")}
    for class_ in COLLECTIONS.values():
        name = f"/api/{class_.collection if class_.kind is None else 'MACHINES'}"
        at = f"/api/{class_.collection}"
        paths |= {f"{at}": name, f"{at}/0": f"{name}/ID"}
        for inner in class_.subcollections:
            paths |= {f"{at}/0/{inner}": f"{name}/ID/{inner}", f"{at}/0/{inner}/0": f"{name}/ID/{inner}/ID"}
    found = set()
    for path, name in paths.items():
        for method in ("GET", "DELETE", "OPTIONS", "PUT", "PATCH"):
            if not _is_no_route(admin.request(method, path)):
                found.add(f"{method} {name}")
        for action in ("create", "delete", "revert", "edit", "query"):
            if not _is_no_route(admin.post(path, json={"action": action})):
                found.add(f"POST {name}" if path == "/api/auth" else f"POST {name} {action}")
    assert found == set(REST)


def _is_no_route(response: httpx2.Response) -> bool:
    return response.status_code >= 400 and response.json()["error"]["message"].startswith(
        ("No route matches", "Unsupported Action", "Unsupported Collection")
    )


def test_every_page_has_a_row(probed: ProbedGateway) -> None:
    paths = {getattr(route, "path", "") for route in probed.gateway.gateway.app.routes}
    assert paths - {"/graphql", "/api", "/api/{path:path}"} == {name.removeprefix("GET ") for name in PAGES}


# ---- capabilities, messages and subscriptions

CAPABILITIES = "query ($id: ID!) { node(id: $id) { ... on Machine { capabilities { action supported reason } } } }"


def test_capabilities_agree_with_the_outcomes(probed: ProbedGateway) -> None:
    mutations = {
        "CREATE": "createSnapshot",
        "REVERT": "revertVmSnapshot",
        "DELETE": "deleteSnapshots",
        "UPDATE": "updateSnapshot",
    }
    for caller in probed.callers:
        for kind in MachineKind:
            if probed.outcomes["Query.node", kind, caller.name] != ALLOWED:
                continue
            body = {"query": CAPABILITIES, "variables": {"id": machine(kind)}}
            rows = probed.clients[caller.name].post("/graphql", json=body).json()["data"]["node"]["capabilities"]
            supported = {row["action"]: row["supported"] for row in rows}
            required = {
                row["action"]: row["reason"].removesuffix(".").rpartition(" ")[2]
                for row in rows
                if not row["supported"]
            }
            for action, mutation in mutations.items():
                outcome = probed.outcomes.get((f"Mutation.{mutation}", kind, caller.name))
                assert supported[action] is (outcome == ALLOWED), (caller.name, kind, action)
                if outcome == FORBIDDEN:
                    assert required[action] == f"{kind.lower()}:{action.lower()}"


def test_a_refusal_names_the_right(probed: ProbedGateway) -> None:
    viewer = probed.clients["viewer"]
    for name, message in (
        ("Mutation.createSnapshot", "Creating snapshots of Vms requires the right vm:create."),
        ("Mutation.createSnapshots", "Creating snapshots of Vms requires the right vm:create."),
        ("Mutation.deleteSnapshots", "Deleting snapshots of Vms requires the right vm:delete."),
        ("Mutation.revertVmSnapshot", "Reverting Vms requires the right vm:revert."),
        ("Mutation.updateSnapshot", "Updating snapshots of Vms requires the right vm:update."),
        (
            "Mutation.refreshMachine",
            "Refreshing Vms requires one of the rights vm:create, vm:revert, vm:delete, vm:update.",
        ),
        (
            "Mutation.refreshProvider",
            "Refreshing provider 'lab' requires one of the rights vm:create, vm:revert, vm:delete, vm:update.",
        ),
    ):
        probe = probe_of(name, MachineKind.VM, BUILT_IN[0])
        response = viewer.request(probe.method, probe.path, **probe.options).text
        assert f'"message":"{message}"' in response


class Subscriber(NamedTuple):
    """The argument of `subscribe_by_sse`."""

    http: httpx2.Client


def test_events_of_operations_and_machines(probed: ProbedGateway) -> None:
    """All callers subscribe at once. The streams are closed after the expected events, to detect further ones."""
    wanted: dict[tuple[str, str], list[str]] = {
        (name, caller.name): [
            event_id(kind) for kind in MachineKind if expected(GRAPHQL[name], kind, caller) == ALLOWED
        ]
        for name, (_, event_id) in _TESTED_BY_EVENTS.items()
        for caller in probed.callers
        if caller is not ANONYMOUS
    }
    with ExitStack() as stack:
        streams = {
            (name, caller): stack.enter_context(
                subscribe_by_sse(Subscriber(probed.clients[caller]), _TESTED_BY_EVENTS[name][0])
            )
            for name, caller in wanted
        }
        for kind in MachineKind:
            execute_sql(probed.gateway, f"UPDATE operation SET phase = 'changed' WHERE id = {operation(kind)}")
            execute_sql(probed.gateway, f"UPDATE machine SET description = 'new' WHERE id = {_MACHINES[kind]}")
        received = {key: [_id(next(streams[key])) for _ in ids] for key, ids in wanted.items()}
        probed.gateway.run(probed.gateway.gateway.streams.close())
        for key, stream in streams.items():
            received[key] += [_id(body) for body in stream]
    assert received == wanted


def _id(body: dict[str, Any]) -> str:
    (change,) = body["data"].values()
    id_: str = change["id"]
    return id_


# ---- documentation

_CELLS = {ALLOWED: "yes", NOT_FOUND: "not found", FORBIDDEN: "forbidden", UNAUTHENTICATED: "401"}


def test_the_documented_table_has_the_outcomes(probed: ProbedGateway) -> None:
    assert table(ROOT / "docs/rights.md", "Operation") == _table(probed.outcomes)


def _table(outcomes: Outcomes) -> list[str]:
    columns = [*BUILT_IN, OTHER_TENANT_ADMIN, ANONYMOUS]
    heads = [caller.name for caller in columns]
    rows = [f"| Operation | Requires | {' | '.join(heads)} |", "| --- " * (len(heads) + 2) + "|"]
    for name, rule in TABLE.items():
        cells = [_cell(outcomes, name, rule, caller) for caller in columns]
        rows.append(f"| `{name}` | {_requires(rule)} | {' | '.join(cells)} |")
    return rows


def _cell(outcomes: Outcomes, name: str, rule: Rule, caller: RoleCaller) -> str:
    # The rows without outcomes have their own test, `test_events_of_operations_and_machines`.
    found = {outcomes.get((name, kind, caller.name), expected(rule, kind, caller)) for kind in rule.kinds}
    (outcome,) = found
    return _CELLS[outcome]


def _requires(rule: Rule) -> str:
    if rule.administers:
        return "`administration`" + (", `read`" if rule.bound else "")
    if not rule.bound:
        return "nothing" if rule.public else "authentication"
    actions: Sequence[str] = [f"`{action.lower()}`" for action in rule.actions]
    return "`read`" + (f", {' or '.join(actions)}" if actions else "")


if __name__ == "__main__":  # prints the table of docs/rights.md
    print("\n".join(_table({})))
