"""Clients of one gateway with different callers, and readers of the audit entries that they cause."""

from collections.abc import Mapping
from itertools import count
from typing import Any

from starlette.routing import Mount, Route
from starlette.types import Scope

from gateway.access.admission import Admission
from gateway.access.caller import ALL_RIGHTS, Caller, Right
from gateway.access.origin import origin_of
from gateway.access.quotas import Quotas
from gateway.access.roles import BUILT_IN_ROLES
from gateway.app import opened_drivers
from gateway.changes.change_feed import ChangeFeed
from gateway.config import Settings
from gateway.errors import Unauthenticated
from gateway.graphql.execution.executor import GraphQLExecutor
from gateway.graphql.transports.http import GraphQLEndpoint
from gateway.graphql.transports.sse import EventStreams
from gateway.http.load_shedding import LoopTurns
from gateway.models import MachineKind, Surface
from gateway.operations.audit_refusals import RefusalLog
from gateway.operations.service import Operations
from gateway.rest.endpoint import rest_routes
from tests.rest.authenticators import FixedCaller
from tests.serving import Served

ENTRIES = """query ($filter: AuditEntryFilter, $sort: [AuditEntrySort!], $first: Int, $after: String) {
    auditEntries(filter: $filter, sort: $sort, first: $first, after: $after) { totalCount nodes { id createdAt action
    outcome code message repeats callerName callerKey callerRoles address surface requestId machineId machineName
    snapshotId snapshotName operationId subject } pageInfo { endCursor hasNextPage } } }"""


def rights_of(kind: MachineKind) -> frozenset[Right]:
    """All rights to machines of one kind."""
    return frozenset(right for right in ALL_RIGHTS if right[1] is kind)


ADMIN = Caller("ada", "default", ("admin",), ALL_RIGHTS, administers=True, key="t-1")
OPERATOR = Caller("oskar", "default", ("operator",), ALL_RIGHTS, key="t-2")
VIEWER = Caller("vera", "default", ("viewer",), BUILT_IN_ROLES["viewer"].rights, key="t-3")
# Administrators with the rights to one kind of machine, and to none.
VM_ADMIN = Caller("vic", "default", ("vm-admin",), rights_of(MachineKind.VM), administers=True, key="t-6")
INSTANCE_ADMIN = Caller("ina", "default", ("i-admin",), rights_of(MachineKind.INSTANCE), administers=True, key="t-7")
AUDITOR = Caller("aud", "default", ("auditor",), frozenset(), administers=True, key="t-8")
NO_RIGHTS = Caller("blaise", "default", ("nothing",), frozenset(), key="t-5")
OTHER_TENANT_ADMIN = Caller("zoe", "elsewhere", ("admin",), ALL_RIGHTS, administers=True, key="t-4")

Entry = tuple[Any, ...]

_request_numbers, _client_numbers = count(1), count(1)


class _RecordingAuthenticator(FixedCaller):
    """Records refused authentications in the audit log, as the gateway does."""

    def __init__(self, caller: Caller | None, refusals: RefusalLog) -> None:
        super().__init__(caller)
        self._refusals = refusals

    async def authenticate(self, scope: Scope, payload: Mapping[str, Any]) -> Caller:
        try:
            return await super().authenticate(scope, payload)
        except Unauthenticated as error:
            surface = Surface.REST if "/api" in scope["path"] else Surface.GRAPHQL
            await self._refusals.record_login(origin_of(scope, surface), error)
            raise


class CallerClient:
    """A client whose requests have one caller; None: its requests are refused as unauthenticated.

    Its GraphQL and REST endpoints are mounted in the gateway's application, under a path of their own.
    """

    def __init__(self, gateway: Served, caller: Caller | None) -> None:
        self.gateway = gateway
        self.mount_path = f"/caller-{next(_client_numbers)}"
        self.request_id = ""
        gateway.run(self._mount(caller))

    async def _mount(self, caller: Caller | None) -> None:
        database, worker = self.gateway.gateway.database, self.gateway.gateway.worker
        self.refusals = RefusalLog(database, "default")
        settings = Settings()
        async with opened_drivers(database, []) as drivers:  # simulated drivers need not be closed
            operations = Operations(database, drivers, settings, wake=worker.wake, refusals=self.refusals)

        authenticator = _RecordingAuthenticator(caller, self.refusals)
        executor = GraphQLExecutor(database, operations, ChangeFeed(database), LoopTurns(), settings)
        events = EventStreams(self.gateway.gateway.streams)
        admission = Admission(Quotas(settings))
        limits: Any = {
            "max_body_bytes": settings.max_body_bytes,
            "body_timeout": settings.body_timeout,
            "turns": self.gateway.gateway.turns,
        }
        http = GraphQLEndpoint(executor, authenticator.authenticate, admission, events, **limits)
        limits["max_cost"] = settings.max_cost
        rest = rest_routes(database, operations, authenticator, admission, public_url=None, **limits)
        self.gateway.gateway.app.router.routes.append(
            Mount(self.mount_path, routes=[Route("/graphql", admission.wrap(http)), *rest])
        )

    def post(self, query: str, **variables: Any) -> dict[str, Any]:
        """The body of a GraphQL response."""
        response = self._send("POST", "/graphql", {"query": query, "variables": variables})
        body: dict[str, Any] = response.json()
        return body

    def mutate(self, mutation: str, **arguments: Any) -> Any:
        """The payload of a mutation with this input."""
        body = self.post(mutation, input=arguments)
        assert "errors" not in body, body
        (payload,) = body["data"].values()
        return payload

    def rest(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """The status and body of a REST response."""
        response = self._send(method, f"/api{path}", body, **headers)
        return response.status_code, response.json() if response.content else None

    def _send(self, method: str, path: str, body: Any, **headers: str) -> Any:
        self.request_id = f"request-{next(_request_numbers)}"
        headers = {"x-request-id": self.request_id} | {name.replace("_", "-"): text for name, text in headers.items()}
        return self.gateway.http.request(method, self.mount_path + path, json=body, headers=headers)


def entries(administrator: CallerClient, **arguments: Any) -> list[dict[str, Any]]:
    """All entries that the administrator finds, the oldest first unless sorted otherwise."""
    arguments = {"sort": [{"field": "ID"}], "first": 1000} | arguments
    request_id = administrator.request_id
    body = administrator.post(ENTRIES, **arguments)
    administrator.request_id = request_id  # tests look for the request before this one
    assert "errors" not in body, body
    nodes: list[dict[str, Any]] = body["data"]["auditEntries"]["nodes"]
    assert body["data"]["auditEntries"]["totalCount"] == len(nodes)
    return nodes


def entries_of_last_request(administrator: CallerClient, caller: CallerClient) -> list[Entry]:
    """The entries of the caller's last request as (action, outcome, code, machine, snapshot, operation).

    In their order, except that the outcomes of operations come last, because their time is not deterministic.
    """
    found = entries(administrator, filter={"requestId": {"eq": caller.request_id}})
    by_outcome = sorted(found, key=lambda node: node["outcome"] not in ("ACCEPTED", "REFUSED"))
    return [
        (
            *(node[name] for name in ("action", "outcome", "code")),
            _named(node, "machine"),
            _named(node, "snapshot"),
            node["operationId"],
        )
        for node in by_outcome
    ]


def _named(node: dict[str, Any], noun: str) -> str | None:
    """Id and name, such as `vm-11 web-01`."""
    number, name = node[f"{noun}Id"], node[f"{noun}Name"]
    return number if name is None else f"{number} {name}"
