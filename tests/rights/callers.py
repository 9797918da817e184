"""Everybody who may ask: nobody known, the built-in roles, each right alone and with READ, and another tenant."""

from collections.abc import Sequence
from typing import NamedTuple

from gateway.access.caller import Right
from gateway.access.roles import ADMINISTRATION, BUILT_IN, RIGHTS, Roles
from gateway.models import SnapshotAction

TENANT = "default"  # of the demo world


def role_of(right: str) -> str:
    """The role that has this right and nothing else."""
    return "only-" + right.replace(":", "-")


# For GATEWAY_ROLES.
OWN_ROLES = "\n".join([*(f'{role_of(right)} = ["{right}"]' for right in [*RIGHTS, ADMINISTRATION]), "nothing = []"])


class Asking(NamedTuple):
    """Somebody with these roles; with none at all they are not known."""

    name: str
    roles: Sequence[str]
    tenant: str = TENANT

    @property
    def rights(self) -> frozenset[Right]:
        return Roles.read(OWN_ROLES).rights(self.roles).rights


def _with_read(right: str) -> Asking:
    read = f"{right.partition(':')[0]}:read"
    return Asking(f"{read} and {right}", [role_of(read), role_of(right)])


ANONYMOUS = Asking("anonymous", [])
STRANGER = Asking("another tenant's admin", ["admin"], "elsewhere")
BUILT = [Asking(name, [name]) for name in BUILT_IN]
CALLERS = [
    ANONYMOUS,
    *BUILT,
    Asking("nothing", ["nothing"]),
    *(Asking(right, [role_of(right)]) for right in [*RIGHTS, ADMINISTRATION]),
    *(_with_read(name) for name, (action, _) in RIGHTS.items() if action is not SnapshotAction.READ),
    STRANGER,
]
