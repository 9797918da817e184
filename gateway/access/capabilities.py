"""What can be done with a machine's snapshots, and why not. Pure: from what is stored, the driver's matrix and rights.

Reads show the answer as `capabilities`; operations refuse by the same answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gateway.access.caller import ALL_RIGHTS, NEEDS, Caller, right_name
from gateway.drivers.base import Matrix
from gateway.errors import Conflict, Forbidden, Refusal, Unsupported
from gateway.models import MachineKind, OperationKind, PowerState, SnapshotAction, SnapshotState

# The matrix of each provider that has a driver here, for each kind of machine.
Matrices = Mapping[tuple[str, MachineKind], Matrix]

_VERBS = {
    SnapshotAction.READ: "read snapshots of",
    SnapshotAction.CREATE: "create snapshots of",
    SnapshotAction.CREATE_WITH_MEMORY: "create snapshots of",
    SnapshotAction.REVERT: "revert",
    SnapshotAction.DELETE: "delete snapshots of",
}
_CREATES = (SnapshotAction.CREATE, SnapshotAction.CREATE_WITH_MEMORY)
NOUNS = {MachineKind.VM: "Vms", MachineKind.INSTANCE: "Instances"}

_BUSY = {
    SnapshotState.CREATING: "the snapshot is still being created",
    SnapshotState.DELETING: "the snapshot is being deleted",
    SnapshotState.REVERTING: "the machine is being reverted to the snapshot",
}


# The machine's columns that the answer depends on, in the order of `MachineFacts`.
FACTS = ("kind", "provider", "power_state", "gone_at", "obstacle")


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """What the answer depends on."""

    kind: MachineKind
    provider: str
    power_state: PowerState
    gone_at: datetime | str | None  # only whether it is set matters
    obstacle: str | None

    @classmethod
    def of(cls, kind: str, provider: str, power_state: str, gone_at: Any, obstacle: str | None) -> "MachineFacts":
        """From the columns as they are stored."""
        return cls(MachineKind(kind), provider, PowerState(power_state), gone_at, obstacle)


def operation_refusal(operation: OperationKind, kind: MachineKind, caller: Caller, deed: str) -> Forbidden | None:
    """Why `caller` cannot do `deed`, which takes the right to ask for such an operation; None when they can."""
    needed = NEEDS[operation]
    return None if any(caller.may(action, kind) for action in needed) else _forbidden(deed, needed, kind)


def _forbidden(deed: str, needed: Sequence[SnapshotAction], kind: MachineKind) -> Forbidden:
    rights = [right_name(action, kind) for action in needed if (action, kind) in ALL_RIGHTS]
    takes = "the right" if len(rights) == 1 else "one of the rights"
    return Forbidden(f"you may not {deed}: that takes {takes} {', '.join(rights)}")


def machine_refusal(
    action: SnapshotAction, machine: MachineFacts, matrices: Matrices, caller: Caller
) -> Refusal | None:
    """Why `caller` cannot do `action` on this machine now; None when they can."""
    if action is SnapshotAction.REVERT and machine.kind is not MachineKind.VM:
        return Unsupported("only Vms can be reverted to a snapshot; an Instance cannot")  # so there is no such right
    if not caller.may(action, machine.kind):
        needed = SnapshotAction.CREATE if action in _CREATES else action
        return _forbidden(f"{_VERBS[action]} {NOUNS[machine.kind]}", [needed], machine.kind)
    if action is SnapshotAction.READ:
        return None
    if machine.gone_at is not None:
        return Unsupported("the machine is gone: its provider no longer reports it")
    matrix = matrices.get((machine.provider, machine.kind))
    if matrix is None:
        return Unsupported(
            f"no driver is configured for provider {machine.provider!r}, so the machine can only be read"
        )
    if reason := matrix.reason_against(action, machine.power_state):
        return Unsupported(reason)
    if machine.obstacle is not None and action in _CREATES:
        return Unsupported(machine.obstacle)
    return None


def snapshot_refusal(
    action: SnapshotAction,
    state: SnapshotState,
    on_provider: bool,
    machine: MachineFacts,
    matrices: Matrices,
    caller: Caller,
) -> Refusal | None:
    """Why `caller` cannot REVERT to or DELETE this snapshot now; None when they can.

    `on_provider`: the snapshot has a `providerRef`. What a failed create left without one can always be deleted.
    """
    refusal = machine_refusal(action, machine, matrices, caller)
    if isinstance(refusal, Forbidden):
        return refusal
    leftover = action is SnapshotAction.DELETE and state is SnapshotState.ERROR and not on_provider
    if refusal is not None and not leftover:
        return refusal
    if state in _BUSY:
        return Conflict(_BUSY[state])
    if action is SnapshotAction.REVERT and state is SnapshotState.ERROR:
        return Unsupported("the snapshot was never made: its creation failed; it can only be deleted")
    return None
