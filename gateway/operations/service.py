"""The entry for every surface that changes something: decide, record in one transaction, wake the worker.

Nothing here knows of GraphQL or REST. A refusal points into the mutation's input by the names of its arguments.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cached_property

from gateway.access.caller import Caller
from gateway.access.capabilities import Matrices
from gateway.access.origin import RequestOrigin
from gateway.config import Settings
from gateway.drivers.base import Driver
from gateway.errors import Refusal, Unconfirmed
from gateway.models import AuditAction, MachineKind
from gateway.operations import idempotency
from gateway.operations.admission import Backlog
from gateway.operations.audit_log import AuditContext, AuditSubject, record_accepted
from gateway.operations.audit_refusals import RefusalLog, Refused
from gateway.operations.commands.base import MachineId, MachineTarget, Outcome, Target, check_count, given, new_snapshot
from gateway.operations.commands.cancel_operation import cancel_operation
from gateway.operations.commands.create_snapshot import create_snapshots
from gateway.operations.commands.delete_snapshots import Manner, delete_snapshots
from gateway.operations.commands.refresh_machine import refresh_machine
from gateway.operations.commands.revert_vm_snapshot import revert_vm_snapshot
from gateway.store.database import Database, Transaction

__all__ = ["MachineId", "MachineTarget", "Operations", "Outcome", "Target", "machine_subject"]

Decision = Callable[[Transaction], Awaitable[list[Outcome]]]


class _NothingAccepted(Exception):
    """Takes the transaction back, so that a request that was refused whole leaves no trace, not even its key."""

    def __init__(self, outcomes: list[Outcome]) -> None:
        super().__init__()
        self.outcomes = outcomes


class Operations:
    """What can be asked for, by whom and from where.

    `wake` is called when there may be something new to run, `accepted` before that.
    """

    def __init__(
        self,
        database: Database,
        drivers: Mapping[str, Driver],
        settings: Settings,
        wake: Callable[[], None],
        refusals: RefusalLog,
        accepted: Callable[[Sequence[Outcome]], None] = lambda _outcomes: None,
    ) -> None:
        self._database = database
        self._drivers = drivers
        self._backlog = Backlog(settings)
        self._wake = wake
        self._accepted = accepted
        self.refusals = refusals  # also for what a surface refuses by itself

    @cached_property
    def matrices(self) -> Matrices:
        """What each provider that has a driver here can do, by kind of machine."""
        return {(name, kind): driver.matrix(kind) for name, driver in self._drivers.items() for kind in MachineKind}

    async def create_snapshot(
        self,
        caller: Caller,
        origin: RequestOrigin,
        machine: MachineTarget,
        name: str,
        description: str | None,
        memory: bool,
        key: str | None,
    ) -> Outcome:
        """Raises the refusal."""
        asked, about = AuditContext(caller, origin, AuditAction.CREATE_SNAPSHOT), machine_subject(machine)
        async with self.refusals.of(asked, about):
            if isinstance(machine, Refusal):
                raise machine.at("machineId")
            new = new_snapshot(name, description, memory)
            arguments = {"machine": given([machine]), "name": new.name, "description": description, "memory": memory}
            use = idempotency.use(caller, "createSnapshot", key, arguments)

            async def decide(tx: Transaction) -> list[Outcome]:
                return await create_snapshots(tx, caller, [machine], new, self.matrices, self._backlog)

            outcomes = await self._accept(asked, [about], decide, use)
        return _single(outcomes, "machineId")

    async def create_snapshots(
        self,
        caller: Caller,
        origin: RequestOrigin,
        machines: Sequence[MachineTarget],
        name: str,
        description: str | None,
        memory: bool,
        key: str | None,
    ) -> list[Outcome]:
        """One outcome per machine, in order. Raises the refusal of the request as a whole."""
        asked = AuditContext(caller, origin, AuditAction.CREATE_SNAPSHOT)
        async with self.refusals.of(asked, AuditSubject()):
            check_count(machines, "machineIds")
            new = new_snapshot(name, description, memory)
            arguments = {"machines": given(machines), "name": new.name, "description": description, "memory": memory}
            use = idempotency.use(caller, "createSnapshots", key, arguments)

            async def decide(tx: Transaction) -> list[Outcome]:
                outcomes = await create_snapshots(tx, caller, machines, new, self.matrices, self._backlog)
                for index, outcome in enumerate(outcomes):
                    if outcome.refusal is not None:
                        outcome.refusal.at("machineIds", index)
                return outcomes

            return await self._accept(asked, [machine_subject(machine) for machine in machines], decide, use)

    async def revert_vm_snapshot(
        self, caller: Caller, origin: RequestOrigin, snapshot: Target, *, dry_run: bool, key: str | None
    ) -> Outcome:
        """Raises the refusal."""
        asked, about = _asked(caller, origin, AuditAction.REVERT_VM_SNAPSHOT, dry_run), _about_snapshot(snapshot)
        async with self.refusals.of(asked, about):
            if isinstance(snapshot, Refusal):
                raise snapshot.at("snapshotId")

            async def decide(tx: Transaction) -> list[Outcome]:
                try:
                    return [await revert_vm_snapshot(tx, caller, snapshot, dry_run, self.matrices, self._backlog)]
                except Refusal as refusal:
                    raise refusal.at("snapshotId") from None

            use = None if dry_run else idempotency.use(caller, "revertVmSnapshot", key, {"snapshot": snapshot})
            outcomes = await self._accept(asked, [about], decide, use)
        return _single(outcomes, "snapshotId")

    async def delete_snapshots(
        self,
        caller: Caller,
        origin: RequestOrigin,
        snapshots: Sequence[Target],
        *,
        with_descendants: bool,
        all_or_nothing: bool,
        dry_run: bool,
        key: str | None,
    ) -> list[Outcome]:
        """One outcome per snapshot, in order, then those pulled in. Raises the refusal of the request as a whole."""
        asked = _asked(caller, origin, AuditAction.DELETE_SNAPSHOT, dry_run)
        async with self.refusals.of(asked, AuditSubject()):
            check_count(snapshots, "ids")
            manner = Manner(with_descendants=with_descendants, all_or_nothing=all_or_nothing, dry_run=dry_run)
            arguments = {
                "snapshots": given(snapshots),
                "with_descendants": with_descendants,
                "all_or_nothing": all_or_nothing,
            }

            async def decide(tx: Transaction) -> list[Outcome]:
                return await delete_snapshots(tx, caller, snapshots, manner, self.matrices, self._backlog)

            use = None if dry_run else idempotency.use(caller, "deleteSnapshots", key, arguments)
            return await self._accept(asked, [_about_snapshot(snapshot) for snapshot in snapshots], decide, use)

    async def refresh_machine(
        self, caller: Caller, origin: RequestOrigin, machine: MachineTarget, key: str | None
    ) -> Outcome:
        """Raises the refusal."""
        asked, about = AuditContext(caller, origin, AuditAction.REFRESH_MACHINE), machine_subject(machine)
        async with self.refusals.of(asked, about):
            if isinstance(machine, Refusal):
                raise machine.at("machineId")

            async def decide(tx: Transaction) -> list[Outcome]:
                try:
                    return [await refresh_machine(tx, caller, machine, self.matrices, self._backlog)]
                except Refusal as refusal:
                    raise refusal.at("machineId") from None

            use = idempotency.use(caller, "refreshMachine", key, {"machine": given([machine])})
            outcomes = await self._accept(asked, [about], decide, use)
        return _single(outcomes, "machineId")

    async def cancel_operation(self, caller: Caller, origin: RequestOrigin, operation: Target) -> Outcome:
        """Raises the refusal."""
        asked, about = AuditContext(caller, origin, AuditAction.CANCEL_OPERATION), _about_operation(operation)
        async with self.refusals.of(asked, about):
            if isinstance(operation, Refusal):
                raise operation.at("operationId")

            async def decide(tx: Transaction) -> list[Outcome]:
                try:
                    return [await cancel_operation(tx, caller, operation)]
                except Refusal as refusal:
                    raise refusal.at("operationId") from None

            outcomes = await self._accept(asked, [about], decide, None)
        return _single(outcomes, "operationId")

    async def _accept(
        self, asked: AuditContext, about: Sequence[AuditSubject], decide: Decision, use: idempotency.Use | None
    ) -> list[Outcome]:
        """`about` is of each target. A replay changes nothing, and goes on no record."""

        async def work(tx: Transaction) -> tuple[list[Outcome], list[Outcome]]:
            if use is not None and (answered := await use.begin(tx)) is not None:
                return answered, []
            outcomes = await decide(tx)
            if all(outcome.refusal is not None for outcome in outcomes):
                raise _NothingAccepted(outcomes)
            numbers = dict.fromkeys(outcome.operation_id for outcome in outcomes)
            await record_accepted(tx, asked, [number for number in numbers if number is not None])
            if use is not None:
                await use.end(tx, outcomes)
            return outcomes, outcomes

        try:
            try:
                outcomes, decided = await self._database.write(work)
            except Unconfirmed:
                if use is None:
                    raise
                outcomes, decided = await self._database.write(work)  # the key tells whether it was accepted
        except _NothingAccepted as nothing:
            outcomes = decided = nothing.outcomes
        else:
            self._accepted(outcomes)
            self._wake()
        await self.refusals.record(asked, _refused(about, decided))
        return outcomes


def machine_subject(target: MachineTarget) -> AuditSubject:
    """A machine as far as it is named: what is no id at all stands in the refusal's message."""
    match target:
        case MachineId():
            return AuditSubject(machine_kind=target.kind, machine_id=target.number)
        case Refusal():
            return AuditSubject()
        case _:
            return AuditSubject(machine_id=target)


def _about_snapshot(target: Target) -> AuditSubject:
    """A snapshot as far as it is named."""
    return AuditSubject() if isinstance(target, Refusal) else AuditSubject(snapshot_id=target)


def _about_operation(target: Target) -> AuditSubject:
    return AuditSubject() if isinstance(target, Refusal) else AuditSubject(operation_id=target)


def _asked(caller: Caller, origin: RequestOrigin, action: AuditAction, dry_run: bool) -> AuditContext:
    """A dry run only asks."""
    return AuditContext(caller, origin, AuditAction.READ if dry_run else action)


def _refused(about: Sequence[AuditSubject], outcomes: Sequence[Outcome]) -> list[Refused]:
    """The refusals among outcomes, which are those of the targets first."""
    return [
        Refused(
            about[number] if number < len(about) else AuditSubject(snapshot_id=outcome.snapshot_id), outcome.refusal
        )
        for number, outcome in enumerate(outcomes)
        if outcome.refusal is not None
    ]


def _single(outcomes: Sequence[Outcome], argument: str) -> Outcome:
    outcome = outcomes[0]
    if outcome.refusal is not None:
        raise outcome.refusal.at(argument)
    return outcome
