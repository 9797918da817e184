"""Every field of the schema and every route, asked for by everybody, is answered as the table says."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import httpx2
import pytest
from graphql import GraphQLInterfaceType, get_named_type, is_leaf_type

from gateway.access.roles import Roles
from gateway.access.tokens import create_token
from gateway.config import Settings
from gateway.graphql.schema.build import build_schema, executable
from gateway.models import MachineKind, SnapshotAction
from gateway.rest.classes import COLLECTIONS
from tests.databases import SLOW_KINDS, Databases
from tests.graphql.asking import execute, latency
from tests.graphql.following import by_sse
from tests.rights.callers import ANONYMOUS, BUILT, CALLERS, OWN_ROLES, STRANGER, TENANT, Asking
from tests.rights.table import GRAPHQL, PAGES, REST, TABLE, Rule
from tests.rights.walking import FORBIDDEN, NOT_THERE, UNKNOWN, YES, ask, machine, operation, prepare
from tests.rules.markdown import ROOT, table
from tests.serving import Served, served

Outcomes = Mapping[tuple[str, MachineKind, str], str]  # by row, kind and caller

SCHEMA = executable(build_schema())


class Walked(NamedTuple):
    gateway: Served
    clients: Mapping[str, httpx2.Client]
    outcomes: Outcomes


@pytest.fixture(scope="module", params=SLOW_KINDS)
def walked(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Walked]:
    """The demo world, where everybody has asked for everything once."""
    settings = Settings(
        database_url=databases.new(request.param), roles=OWN_ROLES, drain_timeout=0.01, keep_operations=1e9
    )
    with served(settings, demo=True) as gateway, ExitStack() as stack:
        latency(gateway, 0)
        prepare(gateway)
        roles = Roles.read(settings.roles)
        clients = {}
        for caller in CALLERS:
            headers = {}
            if caller is not ANONYMOUS:
                made = create_token(gateway.gateway.database, roles, caller.name, caller.roles, caller.tenant, None)
                headers = {"authorization": f"Bearer {gateway.run(made)}"}
            clients[caller.name] = stack.enter_context(httpx2.Client(base_url=gateway.url, timeout=30, headers=headers))
        yield Walked(gateway, clients, _walk(clients))


def _walk(clients: Mapping[str, httpx2.Client]) -> Outcomes:
    return {
        (name, kind, caller.name): ask(name, kind, caller).outcome(clients[caller.name])
        for name, rule in TABLE.items()
        for kind in rule.kinds
        for caller in CALLERS
        if name != _FOLLOWED or caller is ANONYMOUS
    }


_FOLLOWED = "Subscription.operationChanged"


def expected(rule: Rule, kind: MachineKind, caller: Asking) -> str:
    """What the rule means for one caller."""
    if rule.opened:
        return YES
    if caller is ANONYMOUS:
        return UNKNOWN
    sees = caller.tenant == TENANT and (SnapshotAction.READ, kind) in caller.rights
    if rule.administers and not caller.administers:
        return NOT_THERE if rule.bound else FORBIDDEN
    needed = rule.acts or ([SnapshotAction.READ] if rule.bound else [])
    lacks = bool(needed) and not any((action, kind) in caller.rights for action in needed)
    if lacks and (rule.early or sees):
        return FORBIDDEN
    return NOT_THERE if rule.bound and not sees else YES


def test_everybody_is_answered_as_the_table_says(walked: Walked) -> None:
    wrong = {
        (name, str(kind), caller.name): (found, wanted)
        for name, rule in TABLE.items()
        for kind in rule.kinds
        for caller in CALLERS
        if (found := walked.outcomes.get((name, kind, caller.name))) is not None
        if found != (wanted := expected(rule, kind, caller))
    }
    assert wrong == {}


# ---- nothing is without a row


def test_every_field_has_a_row() -> None:
    """Of the roots every one, and of whatever can be fetched by its id what leads on from it."""
    roots = [SCHEMA.query_type, SCHEMA.mutation_type, SCHEMA.subscription_type]
    fields = {f"{root.name}.{name}" for root in roots if root is not None for name in root.fields}
    node = SCHEMA.type_map["Node"]
    assert isinstance(node, GraphQLInterfaceType)
    for type_ in SCHEMA.get_possible_types(node):
        leads = (name for name, field in type_.fields.items() if not is_leaf_type(get_named_type(field.type)))
        fields |= {f"{type_.name}.{name}" for name in leads}
    assert {name.partition(" ")[0] for name in GRAPHQL} == fields


def test_every_route_has_a_row(walked: Walked) -> None:
    """What is no route says so; whatever else a method and a path come to has a row."""
    admin = walked.clients["admin"]
    paths = {"/api": "/api", "/api/auth": "/api/auth"}
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


def _is_no_route(answer: httpx2.Response) -> bool:
    return answer.status_code >= 400 and answer.json()["error"]["message"].startswith(
        ("No route matches", "Unsupported Action")
    )


def test_every_page_has_a_row(walked: Walked) -> None:
    paths = {getattr(route, "path", "") for route in walked.gateway.gateway.app.routes}
    assert paths - {"/graphql", "/api", "/api/{path:path}"} == {name.removeprefix("GET ") for name in PAGES}


# ---- the same, told in other ways

CAPABILITIES = "query ($id: ID!) { node(id: $id) { ... on Machine { capabilities { action supported reason } } } }"


def test_capabilities_say_the_same(walked: Walked) -> None:
    asked = {"CREATE": "createSnapshot", "REVERT": "revertVmSnapshot", "DELETE": "deleteSnapshots"}
    for caller in CALLERS:
        for kind in MachineKind:
            if walked.outcomes["Query.node", kind, caller.name] != YES:
                continue
            body = {"query": CAPABILITIES, "variables": {"id": machine(kind)}}
            answer = walked.clients[caller.name].post("/graphql", json=body).json()["data"]["node"]["capabilities"]
            told = {row["action"]: row["supported"] for row in answer}
            lacking = {row["action"]: row["reason"].rpartition(" ")[2] for row in answer if not row["supported"]}
            for action, mutation in asked.items():
                outcome = walked.outcomes.get((f"Mutation.{mutation}", kind, caller.name))
                assert told[action] is (outcome == YES), (caller.name, kind, action)
                if outcome == FORBIDDEN:
                    assert lacking[action] == f"{kind.lower()}:{action.lower()}"


def test_a_refusal_names_the_right(walked: Walked) -> None:
    viewer = walked.clients["viewer"]
    for name, words in (
        ("Mutation.createSnapshot", "you may not create snapshots of Vms: that takes the right vm:create"),
        ("Mutation.createSnapshots", "you may not create snapshots of Vms: that takes the right vm:create"),
        ("Mutation.deleteSnapshots", "you may not delete snapshots of Vms: that takes the right vm:delete"),
        ("Mutation.revertVmSnapshot", "you may not revert Vms: that takes the right vm:revert"),
        (
            "Mutation.refreshMachine",
            "you may not refresh Vms: that takes one of the rights vm:create, vm:revert, vm:delete",
        ),
    ):
        sent = ask(name, MachineKind.VM, BUILT[0])
        answer = viewer.request(sent.method, sent.path, **sent.more).text
        assert f'"message":"{words}"' in answer


class Subscriber(NamedTuple):
    """As `by_sse` wants one."""

    http: httpx2.Client


def test_changes_of_operations(walked: Walked) -> None:
    """Everybody follows all of them at once; the streams are ended when those who are told have been told."""
    query = "subscription { operationChanged(filter: {state: {eq: FAILED}}) { id } }"
    known = [caller for caller in CALLERS if caller is not ANONYMOUS]
    wanted: dict[str, list[str]] = {
        caller.name: [
            f"operation-{operation(kind)}"
            for kind in MachineKind
            if expected(GRAPHQL[_FOLLOWED], kind, caller) == YES
        ]
        for caller in known
    }  # fmt: skip
    with ExitStack() as stack:
        streams = {
            caller.name: stack.enter_context(by_sse(Subscriber(walked.clients[caller.name]), query)) for caller in known
        }
        for kind in MachineKind:
            execute(walked.gateway, f"UPDATE operation SET phase = 'told' WHERE id = {operation(kind)}")
        told = {name: [_id(next(streams[name])) for _ in ids] for name, ids in wanted.items()}
        walked.gateway.run(walked.gateway.gateway.streams.close())
        for name, stream in streams.items():
            told[name] += [_id(body) for body in stream]
    assert told == wanted


def _id(body: dict[str, Any]) -> str:
    id_: str = body["data"]["operationChanged"]["id"]
    return id_


# ---- the document

_SHOWN = {YES: "yes", NOT_THERE: "not there", FORBIDDEN: "no", UNKNOWN: "401"}


def test_the_document_says_what_came_out(walked: Walked) -> None:
    assert table(ROOT / "docs/rights.md", "What") == _table(walked.outcomes)


def _table(outcomes: Outcomes) -> list[str]:
    columns = [*BUILT, STRANGER, ANONYMOUS]
    heads = [caller.name for caller in columns]
    rows = [f"| What | Takes | {' | '.join(heads)} |", "| --- " * (len(heads) + 2) + "|"]
    for name, rule in TABLE.items():
        cells = [_cell(outcomes, name, rule, caller) for caller in columns]
        rows.append(f"| `{name}` | {_takes(rule)} | {' | '.join(cells)} |")
    return rows


def _cell(outcomes: Outcomes, name: str, rule: Rule, caller: Asking) -> str:
    # What is only followed has been, by its own test.
    found = {outcomes.get((name, kind, caller.name), expected(rule, kind, caller)) for kind in rule.kinds}
    (outcome,) = found
    return _SHOWN[outcome]


def _takes(rule: Rule) -> str:
    if rule.administers:
        return "`administration`" + (", `read`" if rule.bound else "")
    if not rule.bound:
        return "nothing" if rule.opened else "to be known"
    acts: Sequence[str] = [f"`{action.lower()}`" for action in rule.acts]
    return "`read`" + (f", {' or '.join(acts)}" if acts else "")


if __name__ == "__main__":  # the document's table as it has to be, to be pasted
    print("\n".join(_table({})))
