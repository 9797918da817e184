"""Decides on `refreshMachine` and records it when accepted."""

from gateway.access.caller import Caller
from gateway.access.capabilities import NOUNS, Matrices, operation_refusal
from gateway.errors import Unsupported
from gateway.models import OperationKind
from gateway.operations.admission import Backlog, Queues, Wished, enqueue
from gateway.operations.commands.base import MachineTarget, Outcome
from gateway.operations.targets import lock_machines, machine_of
from gateway.store.database import Transaction


async def refresh_machine(
    tx: Transaction, caller: Caller, target: MachineTarget, matrices: Matrices, backlog: Backlog
) -> Outcome:
    """Raises the refusal. A machine that is gone may be refreshed: it may be back."""
    machine = machine_of(target, await lock_machines(tx, caller, [target]))
    deed = f"refresh {NOUNS[machine.kind]}"
    if refusal := operation_refusal(OperationKind.REFRESH_MACHINE, machine.kind, caller, deed):
        raise refusal
    if (machine.provider, machine.kind) not in matrices:
        raise Unsupported(f"no driver is configured for provider {machine.provider!r}, so it cannot be asked")
    queues = await Queues.load(tx, backlog, [machine.id])
    if full := queues.take(machine):
        raise full
    (operation_id,) = await enqueue(tx, caller, OperationKind.REFRESH_MACHINE, [Wished(machine)])
    return Outcome(operation_id, None, machine.id)
