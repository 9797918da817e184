"""A flood of refusals: the number of entries is limited, the rest is counted, and other callers are unaffected."""

from itertools import count
from typing import Any

import pytest

from gateway.access.caller import Caller
from gateway.access.origin import RequestOrigin
from gateway.errors import Conflict, GatewayError, NotFound, Unauthenticated
from gateway.models import AuditAction, Surface
from gateway.operations.audit_log import AuditContext, AuditSubject
from gateway.operations.audit_refusals import RefusalLog, Refused
from tests.audit.world import ADMIN, OPERATOR, CallerClient, entries, entries_of_last_request
from tests.graphql.client import CREATE, REVERT, await_final_state
from tests.serving import Served

# Entries without a delay: for one unauthenticated address, for all of them together, and for one caller.
ADDRESS, ADDRESSES, CALLER = 20, 1_000, 1_000
MAX_SOURCES = 1_000  # sources that are counted separately

UNAUTHENTICATED = Unauthenticated("The credentials are not valid.")

_tenants = count(1)


class Flood:
    """Causes refusals in a tenant of its own, with a clock that tests move forward."""

    def __init__(self, gateway: Served) -> None:
        self.now = 0.0
        self.tenant = f"flood-{next(_tenants)}"
        self._gateway = gateway
        self.refusals = RefusalLog(gateway.gateway.database, self.tenant, clock=lambda: self.now)

    def fail_logins(self, *addresses: str) -> None:
        async def work() -> None:
            for number, address in enumerate(addresses):
                origin = RequestOrigin(Surface.REST, address, f"r-{number}")
                await self.refusals.record_login(origin, UNAUTHENTICATED)

        self._gateway.run(work())

    def context_of(self, name: str, key: str) -> AuditContext:
        caller = Caller(name, self.tenant, ("operator",), frozenset(), key=key)
        return AuditContext(caller, RequestOrigin(Surface.GRAPHQL, "10.0.0.1", "r"), AuditAction.REVERT_VM_SNAPSHOT)

    def refuse(self, context: AuditContext, error: GatewayError, times: int) -> None:
        refused = [Refused(AuditSubject(snapshot_id=100_000 + number), error) for number in range(times)]
        self._gateway.run(self.refusals.record(context, refused))

    def record_counts(self) -> None:
        self._gateway.run(self.refusals.record_counts())

    def counts(self) -> list[Any]:
        """The number of ordinary entries, then the address, caller, code and `repeats` of each entry with a count."""
        sql = f"SELECT address, caller_name, code, repeats FROM audit_entry WHERE tenant = '{self.tenant}' ORDER BY id"
        rows = [tuple(row) for row in self._gateway.run(self._gateway.gateway.database.read(lambda tx: tx.rows(sql)))]
        counting = [row for row in rows if row[3]]
        return [len(rows) - len(counting), *counting]


@pytest.fixture
def flood(gateway: Served) -> Flood:
    return Flood(gateway)


def test_one_address(flood: Flood) -> None:
    flood.fail_logins(*["10.0.0.1"] * 500, "10.0.0.2")
    assert flood.counts() == [ADDRESS + 1]
    flood.record_counts()
    counting = ("10.0.0.1", None, "UNAUTHENTICATED", 500 - ADDRESS)
    assert flood.counts() == [ADDRESS + 1, counting]
    flood.record_counts()
    assert flood.counts() == [ADDRESS + 1, counting]  # written once
    flood.now = 110.0  # one further entry in 50 seconds
    flood.fail_logins(*["10.0.0.1"] * 5)
    flood.record_counts()
    assert flood.counts() == [ADDRESS + 3, counting, (*counting[:3], 3)]


def test_many_addresses(flood: Flood) -> None:
    """Addresses share a limit, and `MAX_SOURCES` are counted separately. Authenticated callers have their own limit."""
    for number in range(ADDRESSES // ADDRESS):
        flood.refuse(
            AuditContext(None, RequestOrigin(Surface.REST, f"10.0.0.{number}"), AuditAction.LOG_IN),
            UNAUTHENTICATED,
            ADDRESS,
        )
    assert flood.counts() == [ADDRESSES]
    flood.fail_logins(*(f"10.1.{number // 250}.{number % 250}" for number in range(1_500)))
    flood.refuse(flood.context_of("one", "k1"), NotFound("The snapshot was not found."), 1)
    flood.record_counts()
    assert flood.counts() == [ADDRESSES + 1]  # the shared limit does not allow entries with counts yet
    flood.now = 16.0  # one further entry in 5 seconds
    flood.record_counts()
    assert flood.counts() == [
        ADDRESSES + 1,
        *((f"10.1.0.{number}", None, "UNAUTHENTICATED", 1) for number in range(3)),
    ]
    flood.now = 10_000.0
    flood.record_counts()
    _, *counting = flood.counts()
    separate = MAX_SOURCES - ADDRESSES // ADDRESS
    assert [row[3] for row in counting] == [1] * separate + [1_500 - separate]
    assert counting[-1] == (None, None, "UNAUTHENTICATED", 1_500 - separate)


def test_one_caller(flood: Flood) -> None:
    """Refusals are counted by error code, and another caller is unaffected."""
    one, other = flood.context_of("one", "k1"), flood.context_of("one", "k2")
    flood.refuse(one, NotFound("The snapshot was not found."), CALLER + 10)
    flood.refuse(one, Conflict("The snapshot is being deleted."), 5)
    flood.refuse(other, NotFound("The snapshot was not found."), 7)
    assert flood.counts() == [CALLER + 7]
    flood.record_counts()
    assert flood.counts() == [CALLER + 7, ("10.0.0.1", "one", "NOT_FOUND", 10), ("10.0.0.1", "one", "CONFLICT", 5)]


def test_a_flood_over_http(gateway: Served) -> None:
    """The count is written when the gateway stops. Meanwhile, commands of others are accepted and recorded."""
    admin, operator, anonymous = (
        CallerClient(gateway, ADMIN),
        CallerClient(gateway, OPERATOR),
        CallerClient(gateway, None),
    )
    known = {node["id"] for node in entries(admin, filter={"action": {"eq": "LOG_IN"}})}
    for _ in range(ADDRESS + 15):
        assert anonymous.rest("GET", "/vms")[0] == 401
    operation = operator.mutate(CREATE, machineId="vm-27", name="in between")["operation"]["id"]
    assert await_final_state(gateway, operation) == ("SUCCEEDED", None)
    operator.mutate(REVERT, snapshotId="snapshot-99995")
    assert [entry[:3] for entry in entries_of_last_request(admin, operator)] == [
        ("REVERT_VM_SNAPSHOT", "REFUSED", "NOT_FOUND")
    ]

    gateway.run(anonymous.refusals.stop())
    found = [node for node in entries(admin, filter={"action": {"eq": "LOG_IN"}}) if node["id"] not in known]
    assert [node["repeats"] for node in found] == [0] * ADDRESS + [15]
    assert (found[-1]["address"], found[-1]["code"], found[-1]["requestId"]) == ("127.0.0.1", "UNAUTHENTICATED", None)
