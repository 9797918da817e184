"""The caller of a request: a name, roles, rights and the tenant whose data it may see."""

from dataclasses import dataclass

from gateway.models import MachineKind, SnapshotAction

Right = tuple[SnapshotAction, MachineKind]

ALL_RIGHTS: frozenset[Right] = frozenset(
    (action, kind)
    for action in SnapshotAction
    for kind in MachineKind
    if action is not SnapshotAction.CREATE_WITH_MEMORY  # comes with CREATE
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking. `tenant` bounds every statement that is made for this caller."""

    name: str  # for people
    tenant: str
    roles: tuple[str, ...] = ("admin",)
    rights: frozenset[Right] = ALL_RIGHTS
    administers: bool = False  # may read the record of who did what
    key: str = ""  # for programs: two callers never share one, whatever their names are; empty for the local caller
    expires_at: float | None = None  # Unix time at which the credentials end; None for never

    def may(self, action: SnapshotAction, kind: MachineKind) -> bool:
        if action is SnapshotAction.CREATE_WITH_MEMORY:
            action = SnapshotAction.CREATE
        return (action, kind) in self.rights


def local_caller(tenant: str) -> Caller:
    """Whoever reaches a gateway without identities, which listens on loopback only: all rights in one tenant."""
    return Caller(name="local", tenant=tenant, administers=True)
