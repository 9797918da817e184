"""The `simulated` driver: a complete provider whose machines live in tables of the gateway's own database.

Its work takes time and goes on whether or not anybody waits, as on a real provider, so a gateway that was killed finds
it again by its token. A machine's `fault` is JSON: {"on": "create" | "revert" | "delete" | "any" | "read",
"kind": "refuse" | "unavailable" | "busy" | "lost" | "hang", "message": text, "times": number, null for ever}.
Imports errors, models and the port; where the tables are is the business of the `Storage` it is handed.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import uuid4

import orjson

from gateway.columns import now
from gateway.drivers.base import (
    Canceled,
    CreateCommand,
    DeleteCommand,
    Driver,
    DriverCommand,
    Matrix,
    Recovery,
    ReportedMachine,
    ReportedSnapshot,
    ReportedSnapshots,
    RevertCommand,
    Work,
)
from gateway.drivers.simulator.tables import SimulatedMachine, SimulatedSnapshot, SimulatedTask
from gateway.errors import OutcomeUnknown, ProviderBusy, ProviderMissing, ProviderRefused, ProviderUnavailable
from gateway.models import MachineKind, PowerState, SnapshotAction

_LOOK = 0.25  # seconds between looks at work in progress

_NO_MEMORY = {
    PowerState.OFF: "the machine is off, so it has no memory to save",
    PowerState.SUSPENDED: "the machine is suspended, so its memory cannot be saved",
    PowerState.UNKNOWN: "the machine's power state is unknown, so its memory cannot be saved",
}

_MATRICES = {
    MachineKind.VM: Matrix({SnapshotAction.CREATE_WITH_MEMORY: _NO_MEMORY}),
    MachineKind.INSTANCE: Matrix(
        {
            SnapshotAction.CREATE_WITH_MEMORY: "this cloud does not save the memory of instances",
            SnapshotAction.REVERT: "this cloud cannot revert instances",
        },
        tree=False,
    ),
}

_PHASES = {
    "create": "Copying the disks",
    "revert": "Putting the disks back",
    "delete": "Merging the disks",
}


@dataclass(frozen=True, slots=True)
class Options:
    """Nothing: its world is in the gateway's own database."""


class Storage(Protocol):
    """Where the simulated world is. Everything is answered as of now: work whose time has come is done."""

    async def machines(self, provider: str) -> Sequence[SimulatedMachine]: ...

    async def contents(self, machine_ref: str) -> tuple[SimulatedMachine, Sequence[SimulatedSnapshot]] | None:
        """A machine and its snapshots, parents before children; None when there is no such machine."""
        ...

    async def begin(self, task: SimulatedTask, subject: str | None) -> SimulatedTask:
        """Hands work over; it takes the machine's latency. What was handed over before under the same token is
        answered instead. Raises ProviderMissing when the machine or the snapshot `subject` is missing, and
        ProviderBusy.
        """
        ...

    async def task(self, token: str, verb: str) -> SimulatedTask | None: ...

    async def progressed(self, task: SimulatedTask) -> SimulatedTask | None:
        """The task as it is by now; None when it was abandoned."""
        ...

    async def abandon(self, task_ref: str) -> bool:
        """Stops work that is not done yet, as if it had never been handed over; whether that was still possible."""
        ...

    async def take_fault(self, machine_ref: str, verb: str) -> dict[str, Any] | None:
        """The machine's fault if it concerns `verb`; one that was to strike so many times has struck once more."""
        ...


@dataclass(slots=True)
class SimulatedDriver(Driver):
    """One simulated provider."""

    provider: str
    storage: Storage
    name: str = "simulated"

    def matrix(self, kind: MachineKind) -> Matrix:
        return _MATRICES[kind]

    async def machines(self) -> Sequence[ReportedMachine]:
        return [_machine(row) for row in await self.storage.machines(self.provider)]

    async def machine(self, machine_ref: str) -> ReportedMachine:
        await self._suffer(machine_ref, "read")
        return _machine((await self._contents(machine_ref))[0])

    async def snapshots(self, machine_ref: str) -> ReportedSnapshots:
        await self._suffer(machine_ref, "read")
        machine, snapshots = await self._contents(machine_ref)
        return ReportedSnapshots([_snapshot(row, machine.kind) for row in snapshots], machine.current_ref)

    async def create(self, work: Work, wish: CreateCommand) -> ReportedSnapshot:
        machine, _ = await self._contents(wish.machine_ref)
        action = SnapshotAction.CREATE_WITH_MEMORY if wish.memory else SnapshotAction.CREATE
        self._check(machine, action)
        argument = {"name": wish.name, "description": wish.description, "memory": wish.memory}
        await self._do(work, "create", wish.machine_ref, argument, None)
        return await self._made(work, wish)

    async def revert(self, work: Work, wish: RevertCommand) -> None:
        machine, _ = await self._contents(wish.machine_ref)
        self._check(machine, SnapshotAction.REVERT)
        await self._do(work, "revert", wish.machine_ref, {"ref": wish.snapshot_ref}, wish.snapshot_ref)

    async def delete(self, work: Work, wish: DeleteCommand) -> None:
        await self._do(work, "delete", wish.machine_ref, {"ref": wish.snapshot_ref}, wish.snapshot_ref)

    async def recover(self, work: Work, wish: DriverCommand) -> ReportedSnapshot | Recovery:
        verb = _verb(wish)
        await self._suffer(wish.machine_ref, verb, looking=True)
        task = await self.storage.task(work.token, verb)
        if task is None:  # certain: work is recorded before it begins
            return Recovery.NOT_BEGUN
        await self._wait(work, task)
        return await self._made(work, wish) if isinstance(wish, CreateCommand) else Recovery.DONE

    async def health(self) -> None:
        await self.storage.machines(self.provider)

    async def close(self) -> None:
        return None

    # ---- work

    def _check(self, machine: SimulatedMachine, action: SnapshotAction) -> None:
        if reason := self.matrix(machine.kind).reason_against(action, machine.power_state):
            raise ProviderRefused("the provider refused", provider_message=reason)

    async def _do(self, work: Work, verb: str, machine_ref: str, argument: dict[str, Any], subject: str | None) -> None:
        fault = await self._suffer(machine_ref, verb)
        task = await self.storage.begin(
            SimulatedTask(
                ref=f"task-{uuid4().hex}",
                machine_ref=machine_ref,
                token=work.token,
                verb=verb,
                argument=orjson.dumps(argument).decode(),
                started_at=now(),
                done_at=now(),
                error=_words(fault) if fault and fault["kind"] == "refuse" else None,
            ),
            subject,
        )
        await work.checkpoint(task.ref)
        if fault and fault["kind"] == "hang":
            await asyncio.Event().wait()
        await self._wait(work, task)
        if fault and fault["kind"] == "lost":
            raise OutcomeUnknown("the provider's answer was lost", provider_message=_words(fault))

    async def _wait(self, work: Work, task: SimulatedTask) -> None:
        """Returns when the work is done. Raises ProviderRefused when it ended badly, Canceled when it was stopped."""
        whole = (task.done_at - task.started_at).total_seconds()
        found: SimulatedTask | None = task
        while found is not None and not found.applied:
            left = (found.done_at - now()).total_seconds()
            if work.cancelled() and task.verb != "revert" and await self.storage.abandon(task.ref):
                raise Canceled
            if left > 0:
                await work.progress(min(99, int(100 * (1 - left / whole))), _PHASES[task.verb])
                await asyncio.sleep(min(left, _LOOK))
            found = await self.storage.progressed(found)
        if found is None:
            raise OutcomeUnknown("the provider no longer knows the task")
        if found.error is not None:
            raise ProviderRefused("the provider reported an error", provider_message=found.error)

    async def _made(self, work: Work, wish: CreateCommand) -> ReportedSnapshot:
        machine, snapshots = await self._contents(wish.machine_ref)
        for row in snapshots:
            if row.token == work.token:
                return _snapshot(row, machine.kind)
        raise ProviderMissing("the snapshot was made, but is no longer there")

    async def _contents(self, machine_ref: str) -> tuple[SimulatedMachine, Sequence[SimulatedSnapshot]]:
        contents = await self.storage.contents(machine_ref)
        if contents is None or contents[0].provider != self.provider:
            raise ProviderMissing("the provider has no such machine")
        return contents

    async def _suffer(self, machine_ref: str, verb: str, *, looking: bool = False) -> dict[str, Any] | None:
        """Raises what the machine's fault makes of a call; the fault when the call has to see to it.

        `looking`: the call only asks what became of earlier work, and so cannot be refused or too early.
        """
        fault = await self.storage.take_fault(machine_ref, verb)
        if fault is None:
            return None
        match fault:
            case {"kind": "unavailable"}:
                raise ProviderUnavailable("the provider does not answer", provider_message=_words(fault))
            case {"kind": "busy"} if not looking:
                raise ProviderBusy("the provider is doing other work on this machine", provider_message=_words(fault))
            case {"kind": "lost"} if looking:
                raise OutcomeUnknown("the provider's answer was lost", provider_message=_words(fault))
            case {"kind": "hang"} if looking or verb == "read":
                await asyncio.Event().wait()
            case {"kind": "refuse"} if verb == "read":
                raise ProviderRefused("the provider refused", provider_message=_words(fault))
        return fault


def _verb(wish: DriverCommand) -> str:
    match wish:
        case CreateCommand():
            return "create"
        case RevertCommand():
            return "revert"
        case DeleteCommand():
            return "delete"


def _words(fault: dict[str, Any]) -> str:
    return fault.get("message") or f"simulated fault: {fault['kind']}"


def _machine(row: SimulatedMachine) -> ReportedMachine:
    return ReportedMachine(
        ref=row.ref,
        kind=row.kind,
        name=row.name,
        power_state=row.power_state,
        description=row.description,
        host=row.host,
        flavor=row.flavor,
        availability_zone=row.availability_zone,
        created_at=row.created_at,
    )


def _snapshot(row: SimulatedSnapshot, kind: MachineKind) -> ReportedSnapshot:
    return ReportedSnapshot(
        ref=row.ref,
        name=row.name,
        created_at=row.created_at,
        description=row.description,
        memory=row.memory,
        parent_ref=row.parent_ref if _MATRICES[kind].tree else None,
        size_bytes=row.size_bytes,
        token=row.token,
    )
