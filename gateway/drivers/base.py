"""The contract between the gateway and whatever runs machines. Drivers import this, `errors` and the enums of `models`.

A driver says what is true and does what it is told; it decides nothing and stores nothing, and never reads an error
as an empty list. What it cannot place it calls OutcomeUnknown once the work was handed over, and ProviderUnavailable
before. Doing things twice: `create` comes again only after `recover` found nothing under the operation's
token, `delete` of what is missing raises ProviderMissing, and `revert` never comes again after an unknown outcome.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Protocol

from gateway.models import MachineKind, PowerState, SnapshotAction


@dataclass(frozen=True, slots=True)
class Matrix:
    """What a driver can do with machines of one kind: everything but what `unsupported` gives a reason for.

    A reason is for people, either for the action as such or by the machine's power state.
    """

    unsupported: Mapping[SnapshotAction, str | Mapping[PowerState, str]] = field(default_factory=dict)
    tree: bool = True  # snapshots have parents, and the machine runs on a current one

    def reason_against(self, action: SnapshotAction, power_state: PowerState) -> str | None:
        """Why `action` cannot be done in `power_state`; None when it can."""
        reason = self.unsupported.get(action)
        return reason if isinstance(reason, str) or reason is None else reason.get(power_state)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedSnapshot:
    """A snapshot as the provider reports it. `ref` is the provider's own identifier of it."""

    ref: str
    name: str
    created_at: datetime
    description: str | None = None
    memory: bool = False
    parent_ref: str | None = None
    size_bytes: int | None = None
    token: str | None = None  # of the operation that made it, where the provider keeps one for us
    ready: bool = True  # False while the provider is still making or deleting it


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedMachine:
    """A machine as the provider reports it, without its snapshots."""

    ref: str
    kind: MachineKind
    name: str
    power_state: PowerState
    uid: str | None = None  # a second identity that other systems know it by
    description: str | None = None
    host: str | None = None
    flavor: str | None = None
    availability_zone: str | None = None
    created_at: datetime | None = None
    obstacle: str | None = None  # why no snapshot can be made of it, whatever its power state: for people


@dataclass(frozen=True, slots=True)
class ReportedSnapshots:
    """All snapshots of one machine at one time, parents before children, and the ref of the current one."""

    snapshots: Sequence[ReportedSnapshot]
    current_ref: str | None = None


@dataclass(frozen=True, slots=True)
class CreateCommand:
    """Make a snapshot."""

    machine_ref: str
    name: str
    description: str | None
    memory: bool


@dataclass(frozen=True, slots=True)
class RevertCommand:
    """Take the machine back to a snapshot."""

    machine_ref: str
    snapshot_ref: str


@dataclass(frozen=True, slots=True)
class DeleteCommand:
    """Delete a snapshot; its children become its parent's."""

    machine_ref: str
    snapshot_ref: str


DriverCommand = CreateCommand | RevertCommand | DeleteCommand


async def _nothing(*_: object) -> None:
    return None


@dataclass(slots=True)
class Work:
    """What a driver is given with each wish."""

    token: str  # of the operation: to be put where recovery can find it again
    task_ref: str | None = None  # the provider's own task, when an earlier attempt has checkpointed one
    # Commits the provider's task before it is waited for, so that a restart can ask about it.
    checkpoint: Callable[[str], Awaitable[None]] = _nothing
    # Percent done, None unless the provider reports it, and what is being done, for people.
    progress: Callable[[int | None, str | None], Awaitable[None]] = _nothing
    cancelled: Callable[[], bool] = lambda: False  # somebody wishes it to stop; a driver that cannot ignores it


class Recovery(Enum):
    """What became of a wish that an earlier attempt had handed over."""

    DONE = "DONE"
    NOT_BEGUN = "NOT_BEGUN"  # it is safe to hand it over again


class Canceled(Exception):
    """The provider stopped the work as wished, and nothing of it is left."""


class Driver(Protocol):
    """One configured provider. Every method but `matrix` and `close` may raise any ProviderError.

    Drivers inherit from this, for what is optional. Making one neither connects nor fails: a provider that is away
    when the gateway starts is one that is away.
    """

    name: str  # of the kind of driver, such as "libvirt"

    def matrix(self, kind: MachineKind) -> Matrix:
        """What it can do with machines of `kind`. Pure."""
        ...

    async def machines(self) -> Sequence[ReportedMachine]:
        """Every machine there is."""
        ...

    def hints(self) -> AsyncIterator[str] | None:
        """Refs of machines at which something may have happened, for as long as it is iterated; None without events.

        A hint is never the news itself: the machine is read again. What ends or fails is begun again later.
        """
        return None

    async def machine(self, machine_ref: str) -> ReportedMachine:
        """One machine. Raises ProviderMissing."""
        ...

    async def snapshots(self, machine_ref: str) -> ReportedSnapshots:
        """Every snapshot of one machine. Raises ProviderMissing when there is no such machine."""
        ...

    async def create(self, work: Work, wish: CreateCommand) -> ReportedSnapshot:
        """Makes a snapshot and returns it when the provider has confirmed it."""
        ...

    async def revert(self, work: Work, wish: RevertCommand) -> None:
        """Reverts and returns when the provider has confirmed it."""
        ...

    async def delete(self, work: Work, wish: DeleteCommand) -> None:
        """Deletes and returns when the provider has confirmed it. Raises ProviderMissing when it is gone already."""
        ...

    async def recover(self, work: Work, wish: DriverCommand) -> ReportedSnapshot | Recovery:
        """What became of `wish` after an earlier attempt handed it over; waits while the provider is still at it.

        A snapshot for a create that is done. Raises OutcomeUnknown when the provider cannot tell.
        """
        ...

    async def health(self) -> None:
        """Returns when the provider answers."""
        ...

    async def close(self) -> None:
        """Lets go of connections and threads."""
        ...
