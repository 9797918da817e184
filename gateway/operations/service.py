"""Entry point of all commands: decides and records in one transaction, then wakes the worker.

Used by GraphQL and REST and independent of both. The `path` of a refusal consists of argument names of the mutation.
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
from gateway.operations.admission import QueueLimits
from gateway.operations.audit_log import AuditContext, AuditSubject, record_accepted
from gateway.operations.audit_refusals import RefusalLog, Refused
from gateway.operations.commands.base import (
    CommandContext,
    MachineId,
    MachineTarget,
    Outcome,
    Target,
    check_count,
    fingerprint_data,
    new_snapshot,
)
from gateway.operations.commands.cancel_operation import cancel_operation
from gateway.operations.commands.create_snapshot import create_snapshots
from gateway.operations.commands.delete_snapshots import DeleteOptions, delete_snapshots
from gateway.operations.commands.refresh_machine import refresh_machine
from gateway.operations.commands.revert_vm_snapshot import revert_vm_snapshot
from gateway.store.database import Database, Transaction

__all__ = ["MachineId", "MachineTarget", "Operations", "Outcome", "Target", "machine_subject"]

Decision = Callable[[Transaction], Awaitable[list[Outcome]]]


class _AllRefused(Exception):
    """Rolls the transaction back when all items were refused, so that the request's key is not recorded either."""

    def __init__(self, outcomes: list[Outcome]) -> None:
        super().__init__()
        self.outcomes = outcomes


class Operations:
    """The commands. Each method takes the caller and the origin of the request, and records what it refuses.

    After a request was accepted, `on_accepted` is called with its outcomes, then `wake`.
    """

    def __init__(
        self,
        database: Database,
        drivers: Mapping[str, Driver],
        settings: Settings,
        *,
        wake: Callable[[], None],
        refusals: RefusalLog,
        on_accepted: Callable[[Sequence[Outcome]], None] = lambda _outcomes: None,
    ) -> None:
        self._database = database
        self._drivers = drivers
        self._limits = QueueLimits(settings)
        self._wake = wake
        self._on_accepted = on_accepted
        self.refusals = refusals  # public, because surfaces record the requests that they refuse themselves

    @cached_property
    def matrices(self) -> Matrices:
        """Capability matrix of each provider with a driver in this process, by kind of machine."""
        return {(name, kind): driver.matrix(kind) for name, driver in self._drivers.items() for kind in MachineKind}

    async def create_snapshot(
        self,
        caller: Caller,
        origin: RequestOrigin,
        machine: MachineTarget,
        *,
        name: str,
        description: str | None,
        memory: bool,
        key: str | None,
    ) -> Outcome:
        """Creates a snapshot of one machine. Raises the refusal."""
        context, subject = AuditContext(caller, origin, AuditAction.CREATE_SNAPSHOT), machine_subject(machine)
        async with self.refusals.recording(context, subject):
            if isinstance(machine, Refusal):
                raise machine.at("machineId")
            new = new_snapshot(name, description, memory)
            arguments = {
                "machine": fingerprint_data([machine]),
                "name": new.name,
                "description": description,
                "memory": memory,
            }
            use = idempotency.use(caller, "createSnapshot", key, arguments)

            async def decide(tx: Transaction) -> list[Outcome]:
                return await create_snapshots(tx, self._command_context(caller), [machine], new)

            outcomes = await self._accept(context, [subject], decide, use)
        return _single(outcomes, "machineId")

    async def create_snapshots(
        self,
        caller: Caller,
        origin: RequestOrigin,
        machines: Sequence[MachineTarget],
        *,
        name: str,
        description: str | None,
        memory: bool,
        key: str | None,
    ) -> list[Outcome]:
        """One outcome per machine, in order. Raises the refusal of the request as a whole."""
        context = AuditContext(caller, origin, AuditAction.CREATE_SNAPSHOT)
        async with self.refusals.recording(context, AuditSubject()):
            check_count(machines, "machineIds")
            new = new_snapshot(name, description, memory)
            arguments = {
                "machines": fingerprint_data(machines),
                "name": new.name,
                "description": description,
                "memory": memory,
            }
            use = idempotency.use(caller, "createSnapshots", key, arguments)

            async def decide(tx: Transaction) -> list[Outcome]:
                outcomes = await create_snapshots(tx, self._command_context(caller), machines, new)
                for index, outcome in enumerate(outcomes):
                    if outcome.refusal is not None:
                        outcome.refusal.at("machineIds", index)
                return outcomes

            return await self._accept(context, [machine_subject(machine) for machine in machines], decide, use)

    async def revert_vm_snapshot(
        self, caller: Caller, origin: RequestOrigin, snapshot: Target, *, dry_run: bool, key: str | None
    ) -> Outcome:
        """Reverts a Vm to a snapshot. Raises the refusal."""
        context = _context(caller, origin, AuditAction.REVERT_VM_SNAPSHOT, dry_run)
        subject = _snapshot_subject(snapshot)
        async with self.refusals.recording(context, subject):
            if isinstance(snapshot, Refusal):
                raise snapshot.at("snapshotId")

            async def decide(tx: Transaction) -> list[Outcome]:
                try:
                    return [await revert_vm_snapshot(tx, self._command_context(caller), snapshot, dry_run=dry_run)]
                except Refusal as refusal:
                    raise refusal.at("snapshotId") from None

            use = None if dry_run else idempotency.use(caller, "revertVmSnapshot", key, {"snapshot": snapshot})
            outcomes = await self._accept(context, [subject], decide, use)
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
        """One outcome per snapshot, in order, then those of added descendants.

        Raises the refusal of the request as a whole.
        """
        context = _context(caller, origin, AuditAction.DELETE_SNAPSHOT, dry_run)
        async with self.refusals.recording(context, AuditSubject()):
            check_count(snapshots, "ids")
            options = DeleteOptions(with_descendants=with_descendants, all_or_nothing=all_or_nothing, dry_run=dry_run)
            arguments = {
                "snapshots": fingerprint_data(snapshots),
                "with_descendants": with_descendants,
                "all_or_nothing": all_or_nothing,
            }

            async def decide(tx: Transaction) -> list[Outcome]:
                return await delete_snapshots(tx, self._command_context(caller), snapshots, options)

            use = None if dry_run else idempotency.use(caller, "deleteSnapshots", key, arguments)
            return await self._accept(context, [_snapshot_subject(snapshot) for snapshot in snapshots], decide, use)

    async def refresh_machine(
        self, caller: Caller, origin: RequestOrigin, machine: MachineTarget, key: str | None
    ) -> Outcome:
        """Refreshes a machine from its provider. Raises the refusal."""
        context, subject = AuditContext(caller, origin, AuditAction.REFRESH_MACHINE), machine_subject(machine)
        async with self.refusals.recording(context, subject):
            if isinstance(machine, Refusal):
                raise machine.at("machineId")

            async def decide(tx: Transaction) -> list[Outcome]:
                try:
                    return [await refresh_machine(tx, self._command_context(caller), machine)]
                except Refusal as refusal:
                    raise refusal.at("machineId") from None

            use = idempotency.use(caller, "refreshMachine", key, {"machine": fingerprint_data([machine])})
            outcomes = await self._accept(context, [subject], decide, use)
        return _single(outcomes, "machineId")

    async def cancel_operation(self, caller: Caller, origin: RequestOrigin, operation: Target) -> Outcome:
        """Cancels an operation, or requests its cancellation while it is running. Raises the refusal."""
        context, subject = AuditContext(caller, origin, AuditAction.CANCEL_OPERATION), _operation_subject(operation)
        async with self.refusals.recording(context, subject):
            if isinstance(operation, Refusal):
                raise operation.at("operationId")

            async def decide(tx: Transaction) -> list[Outcome]:
                try:
                    return [await cancel_operation(tx, caller, operation)]
                except Refusal as refusal:
                    raise refusal.at("operationId") from None

            outcomes = await self._accept(context, [subject], decide, None)
        return _single(outcomes, "operationId")

    def _command_context(self, caller: Caller) -> CommandContext:
        return CommandContext(caller, self.matrices, self._limits)

    async def _accept(
        self, context: AuditContext, subjects: Sequence[AuditSubject], decide: Decision, use: idempotency.Use | None
    ) -> list[Outcome]:
        """Runs `decide` and records the result. `subjects` are those of the targets, in order.

        A replay of an idempotency key returns the recorded outcomes, changes nothing and is not audited.
        """

        async def work(tx: Transaction) -> tuple[list[Outcome], list[Outcome]]:
            if use is not None and (recorded := await use.begin(tx)) is not None:
                return recorded, []
            outcomes = await decide(tx)
            if all(outcome.refusal is not None for outcome in outcomes):
                raise _AllRefused(outcomes)
            ids = dict.fromkeys(outcome.operation_id for outcome in outcomes)
            await record_accepted(tx, context, [id_ for id_ in ids if id_ is not None])
            if use is not None:
                await use.end(tx, outcomes)
            return outcomes, outcomes

        try:
            try:
                outcomes, decided = await self._database.write(work)
            except Unconfirmed:
                if use is None:
                    raise
                # Safe to repeat: the key shows whether the first attempt was committed.
                outcomes, decided = await self._database.write(work)
        except _AllRefused as all_refused:
            outcomes = decided = all_refused.outcomes
        else:
            self._on_accepted(outcomes)
            self._wake()
        await self.refusals.record(context, _refused(subjects, decided))
        return outcomes


def machine_subject(target: MachineTarget) -> AuditSubject:
    """Audit subject of a machine target. Empty if the target is a refusal, whose message quotes the malformed id."""
    match target:
        case MachineId():
            return AuditSubject(machine_kind=target.kind, machine_id=target.number)
        case Refusal():
            return AuditSubject()
        case _:
            return AuditSubject(machine_id=target)


def _snapshot_subject(target: Target) -> AuditSubject:
    """Audit subject of a snapshot target. Empty if the target is a refusal."""
    return AuditSubject() if isinstance(target, Refusal) else AuditSubject(snapshot_id=target)


def _operation_subject(target: Target) -> AuditSubject:
    """Audit subject of an operation target. Empty if the target is a refusal."""
    return AuditSubject() if isinstance(target, Refusal) else AuditSubject(operation_id=target)


def _context(caller: Caller, origin: RequestOrigin, action: AuditAction, dry_run: bool) -> AuditContext:
    """Audit context. A dry run is audited as a READ."""
    return AuditContext(caller, origin, AuditAction.READ if dry_run else action)


def _refused(subjects: Sequence[AuditSubject], outcomes: Sequence[Outcome]) -> list[Refused]:
    """The refusals among the outcomes. The outcomes begin with those of the targets, in the order of `subjects`."""
    return [
        Refused(
            subjects[index] if index < len(subjects) else AuditSubject(snapshot_id=outcome.snapshot_id), outcome.refusal
        )
        for index, outcome in enumerate(outcomes)
        if outcome.refusal is not None
    ]


def _single(outcomes: Sequence[Outcome], argument: str) -> Outcome:
    outcome = outcomes[0]
    if outcome.refusal is not None:
        raise outcome.refusal.at(argument)
    return outcome
