"""Decides which actions are possible on a machine or snapshot, and the reason for those that are not.

Pure functions of the stored rows, unfinished operations included, the driver's capability matrix and the caller's
rights. Reads return the result as `capabilities` and as the actions of REST; commands raise the same refusals. So what
is shown as supported is accepted, and what is not is refused with the same message, as long as the rows do not change.
Limits that are not those of a machine, such as the number of operations in all queues, are not part of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from gateway.access.caller import ALL_RIGHTS, Caller, right_name
from gateway.drivers.base import Matrix
from gateway.errors import Conflict, Forbidden, LimitExceeded, Reference, Refusal, Unsupported
from gateway.models import (
    UNFINISHED_SQL,
    MachineKind,
    OperationKind,
    PowerState,
    SnapshotAction,
    SnapshotState,
)

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


# The kind of operation that an action queues. Reading queues none.
_OPERATION_KINDS = {
    SnapshotAction.READ: None,
    SnapshotAction.CREATE: OperationKind.CREATE_SNAPSHOT,
    SnapshotAction.CREATE_WITH_MEMORY: OperationKind.CREATE_SNAPSHOT,
    SnapshotAction.REVERT: OperationKind.REVERT_VM_SNAPSHOT,
    SnapshotAction.DELETE: OperationKind.DELETE_SNAPSHOT,
    SnapshotAction.UPDATE: OperationKind.UPDATE_SNAPSHOT,
}

_QUEUE = "count(*) || ' ' || min(o.id)"  # in one value, because two need two subqueries


def _unfinished(value: str, match: str) -> str:
    """SQL of a value computed from the unfinished operations for which `match` holds."""
    return f"(SELECT {value} FROM operation o WHERE {match} AND o.{UNFINISHED_SQL})"


def _queue(number: str) -> str:
    """SQL of the queue of a machine, as `MachineQueue.of` reads it; `number` is the column with the machine's number.

    The list of all busy machines is made once for a statement. So an idle machine costs 0.6 us on SQLite, and not the
    3 us of a subquery that depends on the row; 500 unfinished operations cost 40 us.
    """
    busy = f"{{t}}.{number} IN {_unfinished('o.machine_id', 'o.machine_id IS NOT NULL')}"
    return f"(CASE WHEN {busy} THEN {_unfinished(_QUEUE, f'o.machine_id = {{t}}.{number}')} END)"


_OWN_COLUMNS = ("kind", "provider", "power_state", "gone_at", "obstacle")
# What put a snapshot into its state. It is not read for most snapshots.
_CAUSE = (
    "(CASE WHEN {t}.state NOT IN ('READY', 'ERROR') THEN "
    + _unfinished("min(o.id)", "o.snapshot_id = {t}.id")
    + " END)"
)

# The columns that the decisions depend on, in the order of the parameters of `MachineFacts.of` and `SnapshotFacts.of`,
# as `reads.conditions.Frame` reads them.
MACHINE_COLUMNS = (*_OWN_COLUMNS, "id", _queue("id"))
SNAPSHOT_COLUMNS = (
    *("state", "provider_ref", _CAUSE),
    *(f"machine.{column}" for column in _OWN_COLUMNS),
    *("machine_id", _queue("machine_id")),
)


@dataclass(frozen=True, slots=True)
class CapabilityRules:
    """What decisions depend on besides the rows and the caller.

    `refuse_kind` returns why operations of a kind are not accepted at present.
    """

    matrices: Matrices
    max_unfinished: int  # operations in the queue of a machine
    refuse_kind: Callable[[OperationKind], Refusal | None] = lambda _kind: None


class MachineQueue(NamedTuple):
    """The unfinished operations of a machine: how many there are, and the number of the first."""

    unfinished: int
    first: int

    @classmethod
    def of(cls, text: str | None) -> "MachineQueue | None":
        """Convert the last value of `MACHINE_COLUMNS`. None: the machine has no unfinished operations."""
        return None if text is None else cls(*map(int, text.split()))


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """The columns of a machine that the decision depends on."""

    kind: MachineKind
    provider: str
    power_state: PowerState
    gone_at: datetime | str | None  # is only compared with None
    snapshot_blocker: str | None
    number: int
    queue: MachineQueue | None  # None: no unfinished operations

    @classmethod
    def of(
        cls,
        kind: str,
        provider: str,
        power_state: str,
        gone_at: Any,
        snapshot_blocker: str | None,
        number: int,
        queue: str | None,
    ) -> "MachineFacts":
        """Convert the values of `MACHINE_COLUMNS` as they are stored."""
        power = PowerState.__members__.get(power_state, PowerState.UNKNOWN)
        return cls(MachineKind(kind), provider, power, gone_at, snapshot_blocker, number, MachineQueue.of(queue))


@dataclass(frozen=True, slots=True)
class SnapshotFacts:
    """The columns of a snapshot and its machine that the decision depends on."""

    state: SnapshotState | None  # None: a state that this version does not know
    on_provider: bool  # whether the snapshot has a `providerRef`
    cause: int | None  # the number of the unfinished operation that has put the snapshot into its state
    machine: MachineFacts

    @classmethod
    def of(cls, state: str, provider_ref: str | None, cause: int | None, *machine: Any) -> "SnapshotFacts":
        """Convert the values of `SNAPSHOT_COLUMNS` as they are stored."""
        known = SnapshotState.__members__.get(state)
        return cls(known, provider_ref is not None, cause, MachineFacts.of(*machine))


def decisive(columns: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values of `MACHINE_COLUMNS` without those that make no difference, so that many machines share a decision.

    The number of a machine is only part of messages about its queue.
    """
    return columns if columns[-1] is not None else columns[: len(_OWN_COLUMNS)]


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
    action: SnapshotAction, machine: MachineFacts, rules: CapabilityRules, caller: Caller
) -> Refusal | None:
    """Return why `caller` cannot do `action` on the machine in its current state, or None if it is possible."""
    refusal = _refusal_without_queue(action, machine, rules, caller)
    return _action_queue_refusal(action, machine, rules) if refusal is None else refusal


def _refusal_without_queue(
    action: SnapshotAction, machine: MachineFacts, rules: CapabilityRules, caller: Caller
) -> Refusal | None:
    if action is SnapshotAction.REVERT and machine.kind is not MachineKind.VM:
        return Unsupported("Only Vms can be reverted to a snapshot, not Instances.")  # has no right to name
    if not caller.has_right(action, machine.kind):
        needed = SnapshotAction.CREATE if action in _CREATES else action
        return _forbidden(f"{action.activity} {KIND_PLURALS[machine.kind]}", [needed], machine.kind)
    if action is SnapshotAction.READ:
        return None
    if machine.gone_at is not None:
        return Unsupported("The machine is gone: its provider no longer reports it.")
    matrix = rules.matrices.get((machine.provider, machine.kind))
    if matrix is None:
        return Unsupported(
            f"No driver is configured for provider {machine.provider!r}, so the machine can only be read."
        )
    if reason := matrix.unsupported_reason(action, machine.power_state):
        return Unsupported(reason)
    if machine.snapshot_blocker is not None and action in _CREATES:
        return Unsupported(machine.snapshot_blocker)
    return None


def _action_queue_refusal(action: SnapshotAction, machine: MachineFacts, rules: CapabilityRules) -> Refusal | None:
    kind = _OPERATION_KINDS[action]
    return None if kind is None else queue_refusal(kind, machine, rules)


def queue_refusal(kind: OperationKind, machine: MachineFacts, rules: CapabilityRules) -> Refusal | None:
    """Return why an operation of this kind cannot be added to the machine's queue, or None if it is possible."""
    if (refusal := rules.refuse_kind(kind)) is not None:
        return refusal
    queue = machine.queue
    if queue is None:
        return None
    name = f"{machine.kind.lower()}-{machine.number}"
    if kind is OperationKind.REVERT_VM_SNAPSHOT:
        # Refused, not queued: the caller means the machine as it is now, not as it is after operations of other
        # callers.
        return Conflict(
            f"Machine '{name}' has an unfinished operation: operation-{queue.first}.",
            conflict=Reference("operation", queue.first),
        )
    if queue.unfinished < rules.max_unfinished:
        return None
    return LimitExceeded(
        f"Machine '{name}' has {queue.unfinished} unfinished operations, which is the limit. Retry later."
    )


def snapshot_refusal(
    action: SnapshotAction, snapshot: SnapshotFacts, rules: CapabilityRules, caller: Caller
) -> Refusal | None:
    """Return why `caller` cannot do `action` on the snapshot in its current state, or None if it is possible.

    An ERROR snapshot that is not on the provider, which a failed creation leaves, can always be deleted by a caller
    with the right.
    """
    state, refusal = snapshot.state, _refusal_without_queue(action, snapshot.machine, rules, caller)
    if isinstance(refusal, Forbidden):
        return refusal
    leftover = action is SnapshotAction.DELETE and state is SnapshotState.ERROR and not snapshot.on_provider
    if refusal is not None and not leftover:
        return refusal
    if state is None:
        return _busy("The snapshot is in a state that this version of the gateway does not know.", snapshot.cause)
    if state in _BUSY:
        return _busy(_BUSY[state], snapshot.cause)
    if action is not SnapshotAction.DELETE and state is SnapshotState.ERROR:
        return Unsupported("The snapshot was never created, because its creation failed. It can only be deleted.")
    return _action_queue_refusal(action, snapshot.machine, rules)


def _busy(message: str, cause: int | None) -> Conflict:
    if cause is None:
        return Conflict(message)
    return Conflict(f"{message} Wait for operation-{cause}.", conflict=Reference("operation", cause))
