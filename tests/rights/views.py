"""What somebody sees of a database with everybody's data, beside the same asked where there is nothing else."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import httpx2

from gateway.access.roles import Roles
from gateway.access.tokens import create_token
from gateway.config import Settings
from gateway.models import MachineKind
from tests.databases import Databases
from tests.rights.world import ACME, BOLT, PARTS, Part, World, plant
from tests.serving import Served, served

_EVERYTHING = (
    '["vm:read", "vm:create", "vm:revert", "vm:delete", "instance:read", "instance:create", "instance:delete"]'
)
_LIMITED = {
    "everything": _EVERYTHING,
    "vms": '["vm:read", "vm:create", "vm:revert", "vm:delete"]',
    "instances": '["instance:read", "instance:create", "instance:delete"]',
    "blind": "[]",
}


class Seen(NamedTuple):
    """Who asks with one role in one tenant, and the parts of the world that they may see."""

    role: str
    tenant: str
    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        return f"{self.role}-{self.tenant}"


_ACME = tuple(part for part in PARTS if part.tenant == ACME)
EYES = [
    Seen("everything", ACME, _ACME),
    Seen("vms", ACME, tuple(part for part in _ACME if part.kind is MachineKind.VM)),
    Seen("instances", ACME, tuple(part for part in _ACME if part.kind is MachineKind.INSTANCE)),
    Seen("blind", ACME, ()),
    Seen("everything", "nowhere", ()),
]
BOLTS = Seen("everything", BOLT, tuple(part for part in PARTS if part.tenant == BOLT))


@dataclass(frozen=True)
class View:
    """The same caller at two gateways: `mixed` has all parts, `alone` only theirs, and lets them do everything."""

    seen: Seen
    mixed: httpx2.Client
    alone: httpx2.Client

    def same(self, method: str, path: str, **request: Any) -> httpx2.Response:
        """The answer, which both give, to the byte."""
        one, other = (client.request(method, path, **request) for client in (self.mixed, self.alone))
        assert one.text == other.text, (self.seen.name, method, path, request)
        assert one.status_code == other.status_code < 500
        assert b"INTERNAL" not in one.content
        return one

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The answer to a GraphQL request, errors included."""
        body: dict[str, Any] = self.same("POST", "/graphql", json={"query": query, "variables": variables}).json()
        return body


@dataclass(frozen=True)
class Views:
    """Everybody's view of one world."""

    world: World
    gateways: Sequence[Served]  # the first one has all parts
    views: Sequence[View]
    others: Sequence[httpx2.Client]  # who see what these may not: everything of each tenant


def _settings(url: str, roles: dict[str, str]) -> Settings:
    """Links in answers name no port, and nothing is old enough to be cleared away."""
    return Settings(
        database_url=url,
        roles="\n".join(f"{name} = {rights}" for name, rights in roles.items()),
        public_url="https://gateway.example",
        credentials_trusted=3_600,
        keep_operations=1e9,
        keep_gone=1e9,
    )


def client(gateway: Served, settings: Settings, name: str, roles: Sequence[str], tenant: str) -> httpx2.Client:
    """Somebody with an API token of their own."""
    database = gateway.gateway.database
    token = gateway.run(create_token(database, Roles.read(settings.roles), name, roles, tenant, None))
    return httpx2.Client(base_url=gateway.url, timeout=30, headers={"authorization": f"Bearer {token}"})


@contextmanager
def viewed(databases: Databases, kind: str, world: World) -> Iterator[Views]:
    """Serves all parts from a database of this kind, and beside it each part alone, from SQLite."""
    with ExitStack() as stack:

        def serve(kind: str, parts: Sequence[Part], roles: dict[str, str]) -> tuple[Served, Settings]:
            settings = _settings(databases.new(kind), roles)
            gateway = stack.enter_context(served(settings))
            gateway.run(plant(settings, world, parts))
            return gateway, settings

        mixed = serve(kind, PARTS, _LIMITED)
        alone: dict[tuple[Part, ...], tuple[Served, Settings]] = {}
        views = []
        for eyes in EYES:
            if eyes.parts not in alone:
                alone[eyes.parts] = serve("sqlite", eyes.parts, dict.fromkeys(_LIMITED, _EVERYTHING))
            clients = [
                stack.enter_context(client(*gateway, eyes.name, [eyes.role], eyes.tenant))
                for gateway in (mixed, alone[eyes.parts])
            ]
            views.append(View(eyes, *clients))
        bolts = stack.enter_context(client(*mixed, BOLTS.name, [BOLTS.role], BOLTS.tenant))
        gateways = [mixed[0], *(gateway for gateway, _ in alone.values())]
        yield Views(world, gateways, views, [views[0].mixed, bolts])
