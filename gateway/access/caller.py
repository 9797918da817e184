"""The caller of a request: a name, roles, rights and the tenant whose data it may see."""

from contextvars import ContextVar
from dataclasses import dataclass, field

from gateway.models import MachineKind, OperationKind, SnapshotAction

# The name of who asks, once that is known, for the log.
CALLER: ContextVar[str] = ContextVar("CALLER", default="-")

LONGEST_NAME = 255  # characters, of a caller and of a tenant

Right = tuple[SnapshotAction, MachineKind]

# What there is to be allowed. Nobody can revert an Instance, and CREATE_WITH_MEMORY comes with CREATE.
ALL_RIGHTS: frozenset[Right] = frozenset(
    (action, kind)
    for action in (SnapshotAction.READ, SnapshotAction.CREATE, SnapshotAction.REVERT, SnapshotAction.DELETE)
    for kind in MachineKind
    if (action, kind) != (SnapshotAction.REVERT, MachineKind.INSTANCE)
)

# Any one of these allows to ask for such an operation, and to cancel it, whoever asked. A refresh changes nothing on
# the provider, but keeps its machine busy, so it is for those who work on the machine.
NEEDS: dict[OperationKind, tuple[SnapshotAction, ...]] = {
    OperationKind.CREATE_SNAPSHOT: (SnapshotAction.CREATE,),
    OperationKind.REVERT_VM_SNAPSHOT: (SnapshotAction.REVERT,),
    OperationKind.DELETE_SNAPSHOT: (SnapshotAction.DELETE,),
    OperationKind.REFRESH_MACHINE: (SnapshotAction.CREATE, SnapshotAction.REVERT, SnapshotAction.DELETE),
}


def right_name(action: SnapshotAction, kind: MachineKind) -> str:
    """How a right is called in settings and messages: `vm:read`."""
    return f"{kind.lower()}:{action.lower()}"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking. `tenant` and `kinds` bound every statement that is made for this caller."""

    name: str  # for people
    tenant: str
    roles: tuple[str, ...] = ("admin",)
    rights: frozenset[Right] = ALL_RIGHTS
    administers: bool = False  # may read the record of who did what
    key: str = ""  # for programs: two callers never share one, whatever their names are; empty for the local caller
    expires_at: float | None = None  # Unix time at which the credentials end; None for never
    kinds: tuple[MachineKind, ...] = field(init=False, compare=False)  # of machines that it may see, in their order

    def __post_init__(self) -> None:
        seen = tuple(kind for kind in MachineKind if (SnapshotAction.READ, kind) in self.rights)
        object.__setattr__(self, "kinds", seen)  # once and not per statement

    def may(self, action: SnapshotAction, kind: MachineKind) -> bool:
        if action is SnapshotAction.CREATE_WITH_MEMORY:
            action = SnapshotAction.CREATE
        return (action, kind) in self.rights


def is_name(text: str) -> bool:
    """Whether it can name a caller or a tenant."""
    return 1 <= len(text) <= LONGEST_NAME and text.isprintable()


def local_caller(tenant: str) -> Caller:
    """Whoever reaches a gateway without identities, which listens on loopback only: all rights in one tenant."""
    return Caller(name="local", tenant=tenant, administers=True)
