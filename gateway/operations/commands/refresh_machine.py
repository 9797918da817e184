"""Decides on `refreshMachine` and records it if accepted."""

from gateway.access.capabilities import KIND_PLURALS, operation_refusal
from gateway.errors import Unsupported
from gateway.models import OperationKind
from gateway.operations.admission import NewOperation, QueueAdmission, enqueue
from gateway.operations.commands.base import CommandContext, MachineTarget, Outcome
from gateway.operations.targets import find_machine, lock_machines
from gateway.store.database import Transaction


async def refresh_machine(tx: Transaction, context: CommandContext, target: MachineTarget) -> Outcome:
    """Raises the refusal. A machine that is gone can be refreshed, because its provider may report it again."""
    caller = context.caller
    machine = find_machine(target, await lock_machines(tx, caller, [target]))
    activity = f"Refreshing {KIND_PLURALS[machine.kind]}"
    if refusal := operation_refusal(OperationKind.REFRESH_MACHINE, machine.kind, caller, activity):
        raise refusal
    if (machine.provider, machine.kind) not in context.matrices:
        raise Unsupported(
            f"No driver is configured for provider {machine.provider!r}, so the machine cannot be refreshed."
        )
    admission = await QueueAdmission.load(tx, context.limits, [machine.id])
    if queue_refusal := admission.admit(machine):
        raise queue_refusal
    (operation_id,) = await enqueue(tx, caller, OperationKind.REFRESH_MACHINE, [NewOperation(machine)])
    return Outcome(operation_id, None, machine.id)
