"""Decides which actions are possible on a machine or snapshot, and the reason for those that are not.

Pure functions of the stored rows, the driver's capability matrix and the caller's rights. Reads return the result as
`capabilities`; commands raise the same refusals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gateway.access.caller import ALL_RIGHTS, Caller, right_name
from gateway.drivers.base import Matrix
from gateway.errors import Conflict, Forbidden, Refusal, Unsupported
from gateway.models import MachineKind, PowerState, SnapshotAction, SnapshotState

# The capability matrix of every provider with a configured driver, by provider name and machine kind.
Matrices = Mapping[tuple[str, MachineKind], Matrix]

_CREATES = (SnapshotAction.CREATE, SnapshotAction.CREATE_WITH_MEMORY)
# The actions on one snapshot; the others are on the machine.
SNAPSHOT_ACTIONS = tuple(action for action in SnapshotAction if action not in (SnapshotAction.READ, *_CREATES))
KIND_PLURALS = {MachineKind.VM: "Vms", MachineKind.INSTANCE: "Instances"}

_BUSY = {
    SnapshotState.CREATING: "The snapshot is still being created.",
    SnapshotState.DELETING: "The snapshot is being deleted.",
    SnapshotState.REVERTING: "The machine is being reverted to the snapshot.",
}


# The columns that the decisions depend on, in the order of the parameters of `MachineFacts.of` and `SnapshotFacts.of`.
MACHINE_COLUMNS = ("kind", "provider", "power_state", "gone_at", "obstacle")
SNAPSHOT_COLUMNS = ("state", "provider_ref", *(f"machine.{column}" for column in MACHINE_COLUMNS))


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """The columns of a machine that the decision depends on."""

    kind: MachineKind
    provider: str
    power_state: PowerState
    gone_at: datetime | str | None  # is only compared with None
    snapshot_blocker: str | None

    @classmethod
    def of(
        cls, kind: str, provider: str, power_state: str, gone_at: Any, snapshot_blocker: str | None
    ) -> "MachineFacts":
        """Convert the values of `MACHINE_COLUMNS` as they are stored."""
        power = PowerState.__members__.get(power_state, PowerState.UNKNOWN)
        return cls(MachineKind(kind), provider, power, gone_at, snapshot_blocker)


@dataclass(frozen=True, slots=True)
class SnapshotFacts:
    """The columns of a snapshot and its machine that the decision depends on."""

    state: SnapshotState | None  # None: a state that this version does not know
    on_provider: bool  # whether the snapshot has a `providerRef`
    machine: MachineFacts

    @classmethod
    def of(cls, state: str, provider_ref: str | None, *machine: Any) -> "SnapshotFacts":
        """Convert the values of `SNAPSHOT_COLUMNS` as they are stored."""
        return cls(SnapshotState.__members__.get(state), provider_ref is not None, MachineFacts.of(*machine))


def right_refusal(
    actions: Sequence[SnapshotAction], kind: MachineKind, caller: Caller, activity: str
) -> Forbidden | None:
    """Return why `caller` may not do what requires a right for any one of `actions`, or None if the caller has one.

    `activity` is the subject of the message, for example "Refreshing Vms".
    """
    if any(caller.has_right(action, kind) for action in actions):
        return None
    return _forbidden(activity, actions, kind)


def _forbidden(activity: str, needed: Sequence[SnapshotAction], kind: MachineKind) -> Forbidden:
    rights = [right_name(action, kind) for action in needed if (action, kind) in ALL_RIGHTS]
    which = "the right" if len(rights) == 1 else "one of the rights"
    return Forbidden(f"{activity} requires {which} {', '.join(rights)}.")


def machine_refusal(
    action: SnapshotAction, machine: MachineFacts, matrices: Matrices, caller: Caller
) -> Refusal | None:
    """Return why `caller` cannot do `action` on the machine in its current state, or None if it is possible."""
    if action is SnapshotAction.REVERT and machine.kind is not MachineKind.VM:
        return Unsupported("Only Vms can be reverted to a snapshot, not Instances.")  # has no right to name
    if not caller.has_right(action, machine.kind):
        needed = SnapshotAction.CREATE if action in _CREATES else action
        return _forbidden(f"{action.activity} {KIND_PLURALS[machine.kind]}", [needed], machine.kind)
    if action is SnapshotAction.READ:
        return None
    if machine.gone_at is not None:
        return Unsupported("The machine is gone: its provider no longer reports it.")
    matrix = matrices.get((machine.provider, machine.kind))
    if matrix is None:
        return Unsupported(
            f"No driver is configured for provider {machine.provider!r}, so the machine can only be read."
        )
    if reason := matrix.unsupported_reason(action, machine.power_state):
        return Unsupported(reason)
    if machine.snapshot_blocker is not None and action in _CREATES:
        return Unsupported(machine.snapshot_blocker)
    return None


def snapshot_refusal(
    action: SnapshotAction, snapshot: SnapshotFacts, matrices: Matrices, caller: Caller
) -> Refusal | None:
    """Return why `caller` cannot do `action` on the snapshot in its current state, or None if it is possible.

    An ERROR snapshot that is not on the provider, which a failed creation leaves, can always be deleted by a caller
    with the right.
    """
    state, refusal = snapshot.state, machine_refusal(action, snapshot.machine, matrices, caller)
    if isinstance(refusal, Forbidden):
        return refusal
    leftover = action is SnapshotAction.DELETE and state is SnapshotState.ERROR and not snapshot.on_provider
    if refusal is not None and not leftover:
        return refusal
    if state is None:
        return Conflict("The snapshot is in a state that this version of the gateway does not know.")
    if state in _BUSY:
        return Conflict(_BUSY[state])
    if action is not SnapshotAction.DELETE and state is SnapshotState.ERROR:
        return Unsupported("The snapshot was never created, because its creation failed. It can only be deleted.")
    return None
