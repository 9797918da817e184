"""Capabilities agree with refusals, on both surfaces, while operations are queued, running and done.

The only slot of the worker is taken by an operation that does not end, so no other operation starts: what a step
reads is what its mutation meets.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Settings
from gateway.models import (
    Machine,
    MachineKind,
    Operation,
    OperationKind,
    OperationState,
    PowerState,
    Provider,
    Snapshot,
    SnapshotState,
)
from gateway.store.database import Transaction
from gateway.store.statements import insert
from tests.databases import SLOW_KINDS, Databases
from tests.graphql.client import CREATE, DELETE, REVERT, UPDATE, await_running, mutate, stalled
from tests.serving import Served, served, without_refreshes

LIMIT = 3  # unfinished operations of a machine
START = datetime(2026, 1, 1, tzinfo=UTC)

_PROVIDER = insert(Provider, "name", "tenant", "driver")
_MACHINE = insert(
    Machine,
    *("tenant", "kind", "name", "provider", "provider_ref", "power_state", "gone_at", "snapshot_blocker"),
    *("created_at", "updated_at", "observed_at"),
)
_SNAPSHOT = insert(Snapshot, "tenant", "machine_id", "name", "state", "memory", "provider_ref", "created_at")
_OPERATION = insert(
    Operation,
    *("tenant", "kind", "state", "machine_id", "machine_kind", "machine_name", "snapshot_id", "created_at"),
    *("token", "payload", "owner", "lease_until"),
)

_refs = count(1)


class PlannedOperation(NamedTuple):
    kind: OperationKind
    ended: OperationState | None
    snapshot: int | None  # the place of its snapshot


class Plan(NamedTuple):
    """A machine with two snapshots and some operations in any states, and the actions to try, in order."""

    kind: MachineKind
    provider: str
    power_state: PowerState
    gone_at: datetime | None
    snapshot_blocker: str | None
    snapshots: list[tuple[SnapshotState, bool]]  # the state, and whether it is on the provider
    operations: list[PlannedOperation]
    running: bool  # whether the first unfinished operation is, on another host
    steps: list[tuple[str, int]]  # an action, and the place of its snapshot


PLANS = st.builds(
    Plan,
    st.sampled_from(MachineKind),
    st.sampled_from(["lab", "lab", "lab", "old"]),
    st.sampled_from(PowerState),
    st.sampled_from([None, None, None, START]),
    st.sampled_from([None, None, None, "The machine is a template."]),
    st.lists(st.tuples(st.sampled_from(SnapshotState), st.booleans()), min_size=2, max_size=2),
    st.lists(
        st.builds(
            PlannedOperation,
            st.sampled_from(OperationKind),
            st.sampled_from([None, None, None, OperationState.SUCCEEDED, OperationState.FAILED]),
            st.sampled_from([None, 0, 1]),
        ),
        max_size=LIMIT,
    ),
    st.booleans(),
    st.lists(
        st.tuples(st.sampled_from(["CREATE", "CREATE_WITH_MEMORY", "REVERT", "DELETE", "UPDATE"]), st.integers(0, 1)),
        min_size=2,
        max_size=4,
    ),
)


@pytest.fixture(scope="module", params=SLOW_KINDS)
def stuck(request: pytest.FixtureRequest, databases: Databases) -> Iterator[Served]:
    """A gateway whose worker is occupied. The provider `old` has no driver."""
    settings = Settings(
        database_url=databases.new(request.param, demo=True),
        operation_slots=1,
        operation_queue_per_machine=LIMIT,
        drain_timeout=0.01,
    )
    with served(settings, jobs=without_refreshes) as gateway:
        write = gateway.gateway.database.write(
            lambda tx: tx.run(_PROVIDER, name="old", tenant="default", driver="none")
        )
        gateway.run(write)
        with stalled(gateway, "vm-36"):
            await_running(gateway, mutate(gateway, CREATE, machineId="vm-36", name="slow")["operation"]["id"])
            yield gateway


async def plant(tx: Transaction, plan: Plan) -> tuple[int, list[int]]:
    """Inserts the machine of a plan. Returns the numbers of the machine and its snapshots."""
    ref = f"planned-{next(_refs)}"
    (machine,) = await tx.all(
        _MACHINE,
        tenant="default",
        kind=plan.kind,
        name=ref,
        provider=plan.provider,
        provider_ref=ref,
        power_state=plan.power_state,
        gone_at=plan.gone_at,
        snapshot_blocker=plan.snapshot_blocker,
        **dict.fromkeys(("created_at", "updated_at", "observed_at"), START),
    )
    snapshots = []
    for place, (state, on_provider) in enumerate(plan.snapshots):
        provider_ref = f"{ref}-{place}" if on_provider else None
        row = {"state": state, "provider_ref": provider_ref, "created_at": START, "memory": False}
        (snapshot,) = await tx.all(_SNAPSHOT, tenant="default", machine_id=machine.id, name=f"s{place}", **row)
        snapshots.append(snapshot.id)
    running = plan.running
    for place, operation in enumerate(plan.operations):
        operation_state, lease = operation.ended or OperationState.QUEUED, None
        if running and operation.ended is None:
            operation_state, lease, running = OperationState.RUNNING, datetime.now(UTC) + timedelta(days=1), False
        await tx.all(
            _OPERATION,
            tenant="default",
            kind=operation.kind,
            state=operation_state,
            machine_id=machine.id,
            machine_kind=plan.kind,
            machine_name=ref,
            snapshot_id=None if operation.snapshot is None else snapshots[operation.snapshot],
            created_at=START,
            token=f"{ref}-{place}",
            payload="{}",
            owner=lease and "elsewhere",
            lease_until=lease,
        )
    return machine.id, snapshots


CAPABILITIES = """query ($machine: ID!, $snapshot: ID!) {
    machine(id: $machine) { capabilities { action supported reason } }
    snapshot(id: $snapshot) { capabilities { action supported reason } } }"""

Shown = dict[str, str | None]  # by action, the reason why it is not supported


def shown(gateway: Served, machine: str, snapshot: str) -> tuple[Shown, Shown]:
    """The capabilities of a machine and of a snapshot."""
    found = gateway.ask(CAPABILITIES, machine=machine, snapshot=snapshot)
    of_machine, of_snapshot = (
        {row["action"]: row["reason"] for row in found[name]["capabilities"]} for name in ("machine", "snapshot")
    )
    supported = [row["supported"] is (row["reason"] is None) for name in found for row in found[name]["capabilities"]]
    assert all(supported), found
    return of_machine, of_snapshot


def offered(gateway: Served, kind: MachineKind, machine: int, snapshot: int) -> tuple[set[str], set[str]]:
    """The actions that REST offers on a machine's snapshots, and on one snapshot."""
    collection = {MachineKind.VM: "vms", MachineKind.INSTANCE: "instances"}[kind]
    path = f"/api/{collection}/{machine}/snapshots"
    listed = gateway.http.get(path, params={"expand": "resources"}).json()
    (row,) = [one for one in listed["resources"] if one["id"] == str(snapshot)]
    return tuple({action["name"] for action in one.get("actions", [])} for one in (listed, row))  # type: ignore[return-value]


def tried(gateway: Served, action: str, machine: str, snapshot: str) -> str | None:
    """Performs the action. Returns the message of its refusal, or None if it was accepted."""
    match action:
        case "CREATE" | "CREATE_WITH_MEMORY":
            payload = mutate(gateway, CREATE, machineId=machine, name="n", memory=action != "CREATE")
        case "REVERT":
            payload = mutate(gateway, REVERT, snapshotId=snapshot)
        case "DELETE":
            (payload,) = mutate(gateway, DELETE, ids=[snapshot])["results"]
        case _:
            payload = mutate(gateway, UPDATE, snapshotId=snapshot, description="changed")
    if not payload["errors"]:
        assert payload["operation"]["state"] == "QUEUED"
        return None
    (error,) = payload["errors"]
    assert payload["operation"] is None
    message: str = error["message"]
    return message


@given(PLANS)
def test_what_is_shown_is_what_happens(stuck: Served, plan: Plan) -> None:
    planted = stuck.run(stuck.gateway.database.write(lambda tx: plant(tx, plan)))
    number, snapshots = planted
    machine = f"{plan.kind.lower()}-{number}"
    for action, place in plan.steps:
        snapshot = f"snapshot-{snapshots[place]}"
        of_machine, of_snapshot = shown(stuck, machine, snapshot)
        on_list, on_snapshot = offered(stuck, plan.kind, number, snapshots[place])
        assert on_list == {name for name in ("create", "delete") if of_machine[name.upper()] is None}
        assert on_snapshot == {name for name in ("revert", "delete") if of_snapshot[name.upper()] is None}
        reason = (of_machine if action.startswith("CREATE") else of_snapshot)[action]
        assert tried(stuck, action, machine, snapshot) == reason


def test_revert_is_not_shown_as_supported_during_a_create(stuck: Served) -> None:
    """It was, and was then refused with CONFLICT."""
    of_machine, of_snapshot = shown(stuck, "vm-36", "snapshot-419")
    reason = tried(stuck, "REVERT", "vm-36", "snapshot-419")
    assert reason is not None
    assert reason.startswith("Machine 'vm-36' has an unfinished operation: operation-")
    assert (of_machine["REVERT"], of_snapshot["REVERT"]) == (reason, reason)
    assert "revert" not in offered(stuck, MachineKind.VM, 36, 419)[1]
