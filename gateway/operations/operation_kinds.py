"""How the operations of each kind are executed. A process claims operations of these kinds and of no others."""

from collections.abc import Mapping

from gateway.models import OperationKind
from gateway.operations.attempt import OperationType
from gateway.operations.commands.create_snapshot import CreateSnapshotOperation
from gateway.operations.commands.delete_snapshots import DeleteSnapshotOperation
from gateway.operations.commands.refresh_machine import RefreshMachineOperation
from gateway.operations.commands.revert_vm_snapshot import RevertVmSnapshotOperation
from gateway.operations.commands.update_snapshot import UpdateSnapshotOperation

OPERATION_TYPES: Mapping[OperationKind, OperationType] = {
    OperationKind.CREATE_SNAPSHOT: CreateSnapshotOperation(),
    OperationKind.REVERT_VM_SNAPSHOT: RevertVmSnapshotOperation(),
    OperationKind.DELETE_SNAPSHOT: DeleteSnapshotOperation(),
    OperationKind.REFRESH_MACHINE: RefreshMachineOperation(),
    OperationKind.UPDATE_SNAPSHOT: UpdateSnapshotOperation(),
}
