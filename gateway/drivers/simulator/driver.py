"""The `simulated` driver: a complete provider whose machines are rows of the gateway's own database.

As at a real provider, a task takes time and completes whether or not the driver waits for it. After a crash, recovery
finds the task by the operation's token.

A machine may have a fault, a JSON object with these members:

* `on`: the calls that meet the fault: "create", "revert", "delete", "update", "read", or "any" (all but "read"; the
  default).
* `kind`: the effect. "refuse": the task ends with an error, a read is refused. "unavailable": the call raises
  ProviderUnavailable. "busy": the call raises ProviderBusy. "lost": the task completes, but the call raises
  OutcomeUnknown. "hang": the call does not return.
* `message`: the provider's message; optional.
* `times`: the number of calls that meet the fault; null or absent for no limit.

The module imports errors, models and the port. It reaches the tables through the `Storage` that it is given.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, assert_never
from uuid import uuid4

import orjson

from gateway.columns import now
from gateway.drivers.base import (
    Canceled,
    CreateCommand,
    DeleteCommand,
    Driver,
    Matrix,
    RecoverableCommand,
    Recovery,
    ReportedMachine,
    ReportedSnapshot,
    ReportedSnapshots,
    RevertCommand,
    UpdateCommand,
    Work,
)
from gateway.drivers.simulator.tables import MachineRow, SnapshotRow, TaskRow, Verb
from gateway.errors import OutcomeUnknown, ProviderBusy, ProviderMissing, ProviderRefused, ProviderUnavailable
from gateway.models import MachineKind, PowerState, SnapshotAction

_NO_MEMORY = {
    PowerState.OFF: "The machine is off, so it has no memory to save.",
    PowerState.SUSPENDED: "The machine is suspended, so its memory cannot be saved.",
    PowerState.UNKNOWN: "The machine's power state is unknown, so its memory cannot be saved.",
}

_MATRICES = {
    MachineKind.VM: Matrix(
        {
            SnapshotAction.CREATE,
            SnapshotAction.CREATE_WITH_MEMORY,
            SnapshotAction.REVERT,
            SnapshotAction.DELETE,
            SnapshotAction.UPDATE,
        },
        {SnapshotAction.CREATE_WITH_MEMORY: _NO_MEMORY},
    ),
    MachineKind.INSTANCE: Matrix(
        {SnapshotAction.CREATE, SnapshotAction.DELETE, SnapshotAction.UPDATE},
        {
            SnapshotAction.CREATE_WITH_MEMORY: "This cloud does not save the memory of instances.",
            SnapshotAction.REVERT: "This cloud cannot revert instances.",
        },
        tree=False,
    ),
}

_PHASES = {
    Verb.CREATE: "Copying the disks",
    Verb.REVERT: "Restoring the disks",
    Verb.DELETE: "Merging the disks",
}


@dataclass(frozen=True, slots=True)
class Options:
    """No options: the simulated world is in the gateway's own database."""


class Storage(Protocol):
    """The storage of the simulated world. Every method returns the present state: due tasks are applied first."""

    async def machines(self, provider: str) -> Sequence[MachineRow]:
        """All machines of a provider."""
        ...

    async def contents(self, machine_ref: str) -> tuple[MachineRow, Sequence[SnapshotRow]] | None:
        """A machine and its snapshots, parents before children; None if there is no such machine."""
        ...

    async def begin(self, task: TaskRow, snapshot_ref: str | None) -> TaskRow:
        """Starts a task, which takes the machine's latency, or returns an earlier task with the same token and verb.

        A completed delete is not returned: its snapshot is missing. Raises ProviderMissing if the machine or the
        snapshot `snapshot_ref` does not exist, and ProviderBusy if the machine has a pending task.
        """
        ...

    async def task(self, token: str, verb: Verb) -> TaskRow | None:
        """The task with this token and verb; None if there is none."""
        ...

    async def refresh_task(self, task: TaskRow) -> TaskRow | None:
        """The present state of a task; None if it was abandoned."""
        ...

    async def abandon(self, task_ref: str) -> bool:
        """Deletes a task, as if it had not been started. Returns False if the task has already been applied."""
        ...

    async def update_snapshot(
        self, machine_ref: str, snapshot_ref: str, name: str | None, description: str | None
    ) -> None:
        """Sets the name and the description of a snapshot, except those that are None. Raises ProviderMissing."""
        ...

    async def take_fault(self, machine_ref: str, verb: str) -> dict[str, Any] | None:
        """The machine's fault if it applies to `verb`, else None. Decrements the fault's `times`."""
        ...


@dataclass(slots=True)
class SimulatedDriver(Driver):
    """One simulated provider."""

    provider: str
    storage: Storage
    name: str = "simulated"
    poll_interval: ClassVar[float] = 0.25  # seconds, while a task is in progress

    def matrix(self, kind: MachineKind) -> Matrix:
        return _MATRICES[kind]

    async def machines(self) -> Sequence[ReportedMachine]:
        return [_machine(row) for row in await self.storage.machines(self.provider)]

    async def machine(self, machine_ref: str) -> ReportedMachine:
        await self._apply_fault(machine_ref, "read")
        return _machine((await self._contents(machine_ref))[0])

    async def snapshots(self, machine_ref: str) -> ReportedSnapshots:
        await self._apply_fault(machine_ref, "read")
        machine, snapshots = await self._contents(machine_ref)
        return ReportedSnapshots([_snapshot(row, machine.kind) for row in snapshots], machine.current_ref)

    async def create(self, work: Work, command: CreateCommand) -> ReportedSnapshot:
        machine, _ = await self._contents(command.machine_ref)
        action = SnapshotAction.CREATE_WITH_MEMORY if command.memory else SnapshotAction.CREATE
        self._check(machine, action)
        argument = {"name": command.name, "description": command.description, "memory": command.memory}
        await self._run_task(work, Verb.CREATE, command.machine_ref, argument, None)
        return await self._created(work, command)

    async def revert(self, work: Work, command: RevertCommand) -> None:
        machine, _ = await self._contents(command.machine_ref)
        self._check(machine, SnapshotAction.REVERT)
        await self._run_task(
            work, Verb.REVERT, command.machine_ref, {"ref": command.snapshot_ref}, command.snapshot_ref
        )

    async def delete(self, work: Work, command: DeleteCommand) -> None:
        await self._run_task(
            work, Verb.DELETE, command.machine_ref, {"ref": command.snapshot_ref}, command.snapshot_ref
        )

    async def update(self, work: Work, command: UpdateCommand) -> None:
        await self._contents(command.machine_ref)
        fault = await self._apply_fault(command.machine_ref, "update")
        if fault and fault["kind"] == "refuse":
            raise ProviderRefused("The provider reported an error.", provider_message=_fault_message(fault))
        await self.storage.update_snapshot(command.machine_ref, command.snapshot_ref, command.name, command.description)
        if fault and fault["kind"] == "hang":
            await asyncio.Event().wait()
        if fault and fault["kind"] == "lost":
            raise OutcomeUnknown("The provider's response was lost.", provider_message=_fault_message(fault))

    async def recover(self, work: Work, command: RecoverableCommand) -> ReportedSnapshot | Recovery:
        verb = _verb(command)
        await self._apply_fault(command.machine_ref, verb, recovering=True)
        task = await self.storage.task(work.token, verb)
        if task is None:  # this is certain, because a task is stored before it starts
            return Recovery.NOT_STARTED
        await self._wait(work, task)
        return await self._created(work, command) if isinstance(command, CreateCommand) else Recovery.DONE

    async def health(self) -> None:
        await self.storage.machines(self.provider)

    async def close(self) -> None:
        return None

    # ---- work

    def _check(self, machine: MachineRow, action: SnapshotAction) -> None:
        if reason := self.matrix(machine.kind).unsupported_reason(action, machine.power_state):
            raise ProviderRefused("The provider refused the request.", provider_message=reason)

    async def _run_task(
        self, work: Work, verb: Verb, machine_ref: str, argument: dict[str, Any], snapshot_ref: str | None
    ) -> None:
        fault = await self._apply_fault(machine_ref, verb)
        task = await self.storage.begin(
            TaskRow(
                ref=f"task-{uuid4().hex}",
                machine_ref=machine_ref,
                token=work.token,
                verb=verb,
                argument=orjson.dumps(argument).decode(),
                started_at=now(),
                done_at=now(),
                error=_fault_message(fault) if fault and fault["kind"] == "refuse" else None,
            ),
            snapshot_ref,
        )
        await work.checkpoint(task.ref)
        if fault and fault["kind"] == "hang":
            await asyncio.Event().wait()
        await self._wait(work, task)
        if fault and fault["kind"] == "lost":
            raise OutcomeUnknown("The provider's response was lost.", provider_message=_fault_message(fault))

    async def _wait(self, work: Work, task: TaskRow) -> None:
        """Waits until a task is applied. Raises ProviderRefused if the task failed, and Canceled if it was canceled."""
        whole = (task.done_at - task.started_at).total_seconds()
        found: TaskRow | None = task
        while found is not None and not found.applied:
            remaining = (found.done_at - now()).total_seconds()
            if work.cancel_requested() and task.verb != Verb.REVERT and await self.storage.abandon(task.ref):
                raise Canceled
            if remaining > 0:
                # More remains than the whole after the clock was set back.
                percent = 0 if remaining >= whole else min(99, int(100 * (1 - remaining / whole)))
                await work.progress(percent, _PHASES[Verb(task.verb)])
                await asyncio.sleep(min(remaining, self.poll_interval))
            found = await self.storage.refresh_task(found)
        if found is None:
            raise OutcomeUnknown("The provider no longer has the task.")
        if found.error is not None:
            raise ProviderRefused("The provider reported an error.", provider_message=found.error)

    async def _created(self, work: Work, command: CreateCommand) -> ReportedSnapshot:
        machine, snapshots = await self._contents(command.machine_ref)
        for row in snapshots:
            if row.token == work.token:
                return _snapshot(row, machine.kind)
        raise ProviderMissing("The snapshot was created, but it no longer exists.")

    async def _contents(self, machine_ref: str) -> tuple[MachineRow, Sequence[SnapshotRow]]:
        contents = await self.storage.contents(machine_ref)
        if contents is None or contents[0].provider != self.provider:
            raise ProviderMissing("The provider has no such machine.")
        return contents

    async def _apply_fault(self, machine_ref: str, verb: str, *, recovering: bool = False) -> dict[str, Any] | None:
        """Raises the error that the machine's fault causes in this call, or returns the fault for the caller to handle.

        `recovering`: the call queries the outcome of an earlier command, so it cannot be refused or find the machine
        busy.
        """
        fault = await self.storage.take_fault(machine_ref, verb)
        if fault is None:
            return None
        match fault:
            case {"kind": "unavailable"}:
                raise ProviderUnavailable("The provider does not answer.", provider_message=_fault_message(fault))
            case {"kind": "busy"} if not recovering:
                raise ProviderBusy(
                    "The provider is executing another task on this machine.", provider_message=_fault_message(fault)
                )
            case {"kind": "lost"} if recovering:
                raise OutcomeUnknown("The provider's response was lost.", provider_message=_fault_message(fault))
            case {"kind": "hang"} if recovering or verb == "read":
                await asyncio.Event().wait()
            case {"kind": "refuse"} if verb == "read":
                raise ProviderRefused("The provider refused the request.", provider_message=_fault_message(fault))
        return fault


def _verb(command: RecoverableCommand) -> Verb:
    match command:
        case CreateCommand():
            return Verb.CREATE
        case RevertCommand():
            return Verb.REVERT
        case DeleteCommand():
            return Verb.DELETE
        case _:
            assert_never(command)


def _fault_message(fault: dict[str, Any]) -> str:
    return fault.get("message") or f"simulated fault: {fault['kind']}"


def _machine(row: MachineRow) -> ReportedMachine:
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


def _snapshot(row: SnapshotRow, kind: MachineKind) -> ReportedSnapshot:
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
