"""Pairs of clients with the same caller: of a gateway with all data, and of one with only the readable data."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx2

from gateway.access.roles import Roles
from gateway.access.tokens import NewToken, create_token
from gateway.config import Settings
from gateway.models import MachineKind
from tests.access.issuer import AUDIENCE, ISSUER, SECRET
from tests.databases import Databases
from tests.rights.world import ACME, BOLT, PARTS, Part, World, insert_parts
from tests.serving import Served, http_client, served

_VM_RIGHTS = '"vm:read", "vm:create", "vm:revert", "vm:delete", "vm:update"'
_INSTANCE_RIGHTS = '"instance:read", "instance:create", "instance:delete", "instance:update"'
_ALL_RIGHTS = f"[{_VM_RIGHTS}, {_INSTANCE_RIGHTS}]"
_ROLES = {
    "everything": _ALL_RIGHTS,
    "vms": f"[{_VM_RIGHTS}]",
    "instances": f"[{_INSTANCE_RIGHTS}]",
    "unprivileged": "[]",
}


class Scope(NamedTuple):
    """A caller with one role in one tenant, and the parts of the world that it may read."""

    role: str
    tenant: str
    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        return f"{self.role}-{self.tenant}"


_ACME = tuple(part for part in PARTS if part.tenant == ACME)
SCOPES = [
    Scope("everything", ACME, _ACME),
    Scope("vms", ACME, tuple(part for part in _ACME if part.kind is MachineKind.VM)),
    Scope("instances", ACME, tuple(part for part in _ACME if part.kind is MachineKind.INSTANCE)),
    Scope("unprivileged", ACME, ()),
    Scope("everything", "nowhere", ()),
]
BOLT_SCOPE = Scope("everything", BOLT, tuple(part for part in PARTS if part.tenant == BOLT))


@dataclass(frozen=True)
class View:
    """One caller at two gateways: `mixed` has all data; `alone` has only the readable data and grants all rights."""

    scope: Scope
    mixed: httpx2.Client
    alone: httpx2.Client

    def same(self, method: str, path: str, **request: Any) -> httpx2.Response:
        """The response, which must be identical from both gateways."""
        one, other = (client.request(method, path, **request) for client in (self.mixed, self.alone))
        assert one.text == other.text, (self.scope.name, method, path, request)
        assert one.status_code == other.status_code < 500
        assert b"INTERNAL" not in one.content
        return one

    def same_rows(self, path: str, **request: Any) -> None:
        """Asserts that a REST list is identical from both gateways but for its actions, which depend on all rights."""
        one, other = (client.get(path, **request) for client in (self.mixed, self.alone))
        lists = [answer.json() for answer in (one, other)]
        for each in lists:
            each.pop("actions", None)
        assert lists[0] == lists[1], (self.scope.name, path, request)
        assert one.status_code == other.status_code < 500

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The body of a GraphQL response, including errors."""
        body: dict[str, Any] = self.same("POST", "/graphql", json={"query": query, "variables": variables}).json()
        return body


@dataclass(frozen=True)
class Views:
    """The views of all callers of one world."""

    world: World
    gateways: Sequence[Served]  # the first has all data
    views: Sequence[View]
    others: Sequence[httpx2.Client]  # of callers that may read everything of their tenant


def _settings(url: str, roles: dict[str, str]) -> Settings:
    """The same links in the responses of all gateways, and no cleanup by age."""
    return Settings(
        database_url=url,
        roles="\n".join(f"{name} = {rights}" for name, rights in roles.items()),
        public_url="https://gateway.example",
        jwt_issuer=ISSUER,  # a public URL requires authentication, and there are no tokens yet
        jwt_audience=(AUDIENCE,),
        jwt_secret=SECRET,
        credentials_trusted=3_600,
        keep_operations=1e9,
        keep_gone=1e9,
    )


def client(gateway: Served, settings: Settings, name: str, roles: Sequence[str], tenant: str) -> httpx2.Client:
    """A client with an API token of its own."""
    database = gateway.gateway.database
    token = gateway.run(create_token(database, Roles.read(settings.roles), NewToken(name, roles, tenant)))
    return http_client(gateway.url, headers={"authorization": f"Bearer {token}"})


@contextmanager
def viewed(databases: Databases, kind: str, world: World) -> Iterator[Views]:
    """Serves all data from a database of this kind, and the readable data of each scope from SQLite."""
    with ExitStack() as stack:

        def serve(kind: str, parts: Sequence[Part], roles: dict[str, str]) -> tuple[Served, Settings]:
            settings = _settings(databases.new(kind), roles)
            asyncio.run(insert_parts(settings, world, parts))  # before the start, so that no subscriber sees it
            return stack.enter_context(served(settings)), settings

        mixed = serve(kind, PARTS, _ROLES)
        alone: dict[tuple[Part, ...], tuple[Served, Settings]] = {}
        views = []
        for scope in SCOPES:
            if scope.parts not in alone:
                alone[scope.parts] = serve("sqlite", scope.parts, dict.fromkeys(_ROLES, _ALL_RIGHTS))
            clients = [
                stack.enter_context(client(*gateway, scope.name, [scope.role], scope.tenant))
                for gateway in (mixed, alone[scope.parts])
            ]
            views.append(View(scope, *clients))
        bolts = stack.enter_context(client(*mixed, BOLT_SCOPE.name, [BOLT_SCOPE.role], BOLT_SCOPE.tenant))
        gateways = [mixed[0], *(gateway for gateway, _ in alone.values())]
        yield Views(world, gateways, views, [views[0].mixed, bolts])
