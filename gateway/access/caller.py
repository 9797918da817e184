"""The caller of a request: its name, roles, rights, and the tenant whose data it may read."""

from contextvars import ContextVar
from dataclasses import dataclass, field

from gateway.models import MachineKind, SnapshotAction

# The name of the authenticated caller, for log lines; "-" before authentication.
CALLER: ContextVar[str] = ContextVar("CALLER", default="-")

Right = tuple[SnapshotAction, MachineKind]

# Every right that exists. Instances cannot be reverted, and the right CREATE includes CREATE_WITH_MEMORY.
ALL_RIGHTS: frozenset[Right] = frozenset(
    (action, kind)
    for action in SnapshotAction
    for kind in MachineKind
    if action is not SnapshotAction.CREATE_WITH_MEMORY
    and (action, kind) != (SnapshotAction.REVERT, MachineKind.INSTANCE)
)


def right_name(action: SnapshotAction, kind: MachineKind) -> str:
    """Return the name of a right in settings and messages, such as `vm:read`."""
    return f"{kind.lower()}:{action.lower()}"


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request. Every SQL statement for a caller is restricted to `tenant` and `readable_kinds`."""

    name: str  # for display; not unique
    tenant: str
    roles: tuple[str, ...] = ("admin",)
    rights: frozenset[Right] = ALL_RIGHTS
    administers: bool = False  # has the right `administration`: may read the audit log
    key: str = ""  # unique identifier: no two callers share one, even with equal names; empty for the local caller
    expires_at: float | None = None  # Unix time at which the credentials expire; None: never
    # The kinds of machines that the caller may read, in the order of the enum.
    readable_kinds: tuple[MachineKind, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        readable = tuple(kind for kind in MachineKind if (SnapshotAction.READ, kind) in self.rights)
        object.__setattr__(self, "readable_kinds", readable)  # computed once, because every statement needs it

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups, in ManageIQ's terms, that the caller may act for: its tenant."""
        return (self.tenant,)

    def has_right(self, action: SnapshotAction, kind: MachineKind) -> bool:
        """Return whether the caller has the right for `action` on machines of `kind`."""
        if action is SnapshotAction.CREATE_WITH_MEMORY:
            action = SnapshotAction.CREATE
        return (action, kind) in self.rights


def local_caller(tenant: str) -> Caller:
    """Return the caller of every request while authentication is not required: it has all rights in one tenant."""
    return Caller(name="local", tenant=tenant, administers=True)
