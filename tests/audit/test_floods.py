"""A flood of refusals fills no disk: so many are recorded, the others counted, and who is rightful loses nothing."""

from itertools import count
from typing import Any

import pytest

from gateway.access.caller import Caller
from gateway.access.origin import RequestOrigin
from gateway.errors import Conflict, GatewayError, NotFound, Unauthenticated
from gateway.models import AuditAction, Surface
from gateway.operations.audit_log import AuditContext, AuditSubject
from gateway.operations.audit_refusals import RefusalLog, Refused
from tests.audit.world import ADMIN, OPERATOR, As, entries, record
from tests.graphql.asking import CREATE, REVERT, ended
from tests.serving import Served

# So many at once: of one address, of all addresses that nobody knows, and of one caller.
ADDRESS, ADDRESSES, CALLER = 20, 1_000, 1_000
TOLD_APART = 1_000  # addresses

UNKNOWN = Unauthenticated("the credentials are not valid")

_tenants = count(1)


class Flood:
    """Refusals in a tenant of their own, whose time stands still unless it is told to go on."""

    def __init__(self, gateway: Served) -> None:
        self.now = 0.0
        self.tenant = f"flood-{next(_tenants)}"
        self._gateway = gateway
        self.refusals = RefusalLog(gateway.gateway.database, self.tenant, clock=lambda: self.now)

    def log_in(self, *addresses: str) -> None:
        async def work() -> None:
            for number, address in enumerate(addresses):
                origin = RequestOrigin(Surface.REST, address, f"r-{number}")
                await self.refusals.log_in(origin, UNKNOWN)

        self._gateway.run(work())

    def asked(self, name: str, key: str) -> AuditContext:
        caller = Caller(name, self.tenant, ("operator",), frozenset(), key=key)
        return AuditContext(caller, RequestOrigin(Surface.GRAPHQL, "10.0.0.1", "r"), AuditAction.REVERT_VM_SNAPSHOT)

    def refuse(self, asked: AuditContext, error: GatewayError, times: int) -> None:
        refused = [Refused(AuditSubject(snapshot_id=100_000 + number), error) for number in range(times)]
        self._gateway.run(self.refusals.record(asked, refused))

    def tell(self) -> None:
        self._gateway.run(self.refusals.tell())

    def counts(self) -> list[Any]:
        """Address, caller, code and how many were left out, of each entry that says so; and how many say nothing."""
        sql = f"SELECT address, caller_name, code, repeats FROM audit_entry WHERE tenant = '{self.tenant}' ORDER BY id"
        rows = [tuple(row) for row in self._gateway.run(self._gateway.gateway.database.read(lambda tx: tx.rows(sql)))]
        told = [row for row in rows if row[3]]
        return [len(rows) - len(told), *told]


@pytest.fixture
def flood(gateway: Served) -> Flood:
    return Flood(gateway)


def test_one_address(flood: Flood) -> None:
    flood.log_in(*["10.0.0.1"] * 500, "10.0.0.2")
    assert flood.counts() == [ADDRESS + 1]
    flood.tell()
    told = ("10.0.0.1", None, "UNAUTHENTICATED", 500 - ADDRESS)
    assert flood.counts() == [ADDRESS + 1, told]
    flood.tell()
    assert flood.counts() == [ADDRESS + 1, told]  # told once
    flood.now = 110.0  # one more in fifty seconds
    flood.log_in(*["10.0.0.1"] * 5)
    flood.tell()
    assert flood.counts() == [ADDRESS + 3, told, (*told[:3], 3)]


def test_many_addresses(flood: Flood) -> None:
    """They share what there is, and are told apart up to a limit; callers who are known have their own."""
    for number in range(ADDRESSES // ADDRESS):
        flood.refuse(
            AuditContext(None, RequestOrigin(Surface.REST, f"10.0.0.{number}"), AuditAction.LOG_IN), UNKNOWN, ADDRESS
        )
    assert flood.counts() == [ADDRESSES]
    flood.log_in(*(f"10.1.{number // 250}.{number % 250}" for number in range(1_500)))
    flood.refuse(flood.asked("one", "k1"), NotFound("there is no such snapshot"), 1)
    flood.tell()
    assert flood.counts() == [ADDRESSES + 1]  # there is no room to tell of it yet
    flood.now = 16.0  # one in five seconds
    flood.tell()
    assert flood.counts() == [
        ADDRESSES + 1,
        *((f"10.1.0.{number}", None, "UNAUTHENTICATED", 1) for number in range(3)),
    ]
    flood.now = 10_000.0
    flood.tell()
    _, *told = flood.counts()
    apart = TOLD_APART - ADDRESSES // ADDRESS
    assert [row[3] for row in told] == [1] * apart + [1_500 - apart]
    assert told[-1] == (None, None, "UNAUTHENTICATED", 1_500 - apart)


def test_one_caller(flood: Flood) -> None:
    """Counted by what was refused, and another caller loses nothing."""
    one, other = flood.asked("one", "k1"), flood.asked("one", "k2")
    flood.refuse(one, NotFound("there is no such snapshot"), CALLER + 10)
    flood.refuse(one, Conflict("the snapshot is being deleted"), 5)
    flood.refuse(other, NotFound("there is no such snapshot"), 7)
    assert flood.counts() == [CALLER + 7]
    flood.tell()
    assert flood.counts() == [CALLER + 7, ("10.0.0.1", "one", "NOT_FOUND", 10), ("10.0.0.1", "one", "CONFLICT", 5)]


def test_a_flood_over_http(gateway: Served) -> None:
    """What is left is told when the gateway stops; meanwhile others write, and are recorded."""
    admin, operator, nobody = As(gateway, ADMIN), As(gateway, OPERATOR), As(gateway, None)
    known = {node["id"] for node in entries(admin, filter={"action": {"eq": "LOG_IN"}})}
    for _ in range(ADDRESS + 15):
        assert nobody.rest("GET", "/vms")[0] == 401
    operation = operator.wish(CREATE, machineId="vm-27", name="in between")["operation"]["id"]
    assert ended(gateway, operation) == ("SUCCEEDED", None)
    operator.wish(REVERT, snapshotId="snapshot-99995")
    assert [entry[:3] for entry in record(admin, operator)] == [("REVERT_VM_SNAPSHOT", "REFUSED", "NOT_FOUND")]

    async def start_and_stop() -> None:
        await nobody.refusals.start()
        await nobody.refusals.stop()

    gateway.run(start_and_stop())
    found = [node for node in entries(admin, filter={"action": {"eq": "LOG_IN"}}) if node["id"] not in known]
    assert [node["repeats"] for node in found] == [0] * ADDRESS + [15]
    assert (found[-1]["address"], found[-1]["code"], found[-1]["requestId"]) == ("127.0.0.1", "UNAUTHENTICATED", None)
