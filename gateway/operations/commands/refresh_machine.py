"""The mutation `refreshMachine`, and the operations of kind REFRESH_MACHINE."""

from dataclasses import dataclass

from gateway.access.capabilities import KIND_PLURALS, queue_refusal, right_refusal
from gateway.errors import Unsupported
from gateway.models import AuditAction, OperationKind, SnapshotAction
from gateway.operations.admission import NewOperation, QueueAdmission, enqueue
from gateway.operations.attempt import Attempt, Effect, OperationType
from gateway.operations.commands.base import CommandContext, MachineCommand, Outcome
from gateway.operations.targets import find_machine, lock_machines
from gateway.store.database import Transaction


@dataclass(frozen=True, kw_only=True)
class RefreshMachine(MachineCommand):
    """Refreshes a machine from its provider.

    A machine that is gone can be refreshed, because its provider may report it again.
    """

    mutation = "refreshMachine"
    action = AuditAction.REFRESH_MACHINE

    async def decide_one(self, tx: Transaction, context: CommandContext) -> Outcome:
        caller = context.caller
        machine = find_machine(self.machine, await lock_machines(tx, caller, [self.machine]))
        activity = f"Refreshing {KIND_PLURALS[machine.kind]}"
        if refusal := right_refusal(RefreshMachineOperation.actions, machine.kind, caller, activity):
            raise refusal
        if (machine.provider, machine.kind) not in context.rules.matrices:
            raise Unsupported(
                f"No driver is configured for provider {machine.provider!r}, so the machine cannot be refreshed."
            )
        kind = OperationKind.REFRESH_MACHINE
        admission = await QueueAdmission.load(tx, context.limit, [machine.id])
        if busy := queue_refusal(kind, admission.facts(machine), context.rules) or admission.admit(machine):
            raise busy
        (operation_id,) = await enqueue(tx, caller, kind, [NewOperation(machine)], key=context.idempotency_key)
        return Outcome(operation_id, None, machine.id)


class RefreshMachineOperation(OperationType):
    """Reads the machine. It changes nothing on the provider, so it can be repeated without recovery.

    A refresh occupies its machine, so it requires a right to change machines of the kind.
    """

    actions = (SnapshotAction.CREATE, SnapshotAction.REVERT, SnapshotAction.DELETE, SnapshotAction.UPDATE)

    async def run(self, attempt: Attempt) -> Effect:
        await attempt.refresh(attempt.row.machine_id)
        return _no_effect


async def _no_effect(_: Transaction) -> None:
    return None
