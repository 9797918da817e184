"""The callers of the authorization tests: anonymous, built-in roles, single rights, and another tenant."""

from collections.abc import Sequence
from typing import NamedTuple

from gateway.access.caller import Right
from gateway.access.roles import ADMINISTRATION, BUILT_IN_ROLES, RIGHTS_BY_NAME, Roles
from gateway.models import SnapshotAction

TENANT = "default"  # of the demo world


def role_of(right: str) -> str:
    """The custom role with only this right."""
    return "only-" + right.replace(":", "-")


# The value of GATEWAY_ROLES.
CUSTOM_ROLES = "\n".join(
    [*(f'{role_of(right)} = ["{right}"]' for right in [*RIGHTS_BY_NAME, ADMINISTRATION]), "nothing = []"]
)
ROLES = Roles.read(CUSTOM_ROLES)


class RoleCaller(NamedTuple):
    """A caller with these roles; without roles it is anonymous."""

    name: str
    roles: Sequence[str]
    tenant: str = TENANT

    @property
    def rights(self) -> frozenset[Right]:
        return ROLES.rights(self.roles).rights

    @property
    def administers(self) -> bool:
        return ROLES.rights(self.roles).administers


def _with_read(right: str) -> RoleCaller:
    read = f"{right.partition(':')[0]}:read"
    return RoleCaller(f"{read} and {right}", [role_of(read), role_of(right)])


ANONYMOUS = RoleCaller("anonymous", [])
OTHER_TENANT_ADMIN = RoleCaller("another tenant's admin", ["admin"], "elsewhere")
BUILT_IN = [RoleCaller(name, [name]) for name in BUILT_IN_ROLES]
WITHOUT_RIGHTS = RoleCaller("nothing", ["nothing"])  # authenticated, without rights
CALLERS = [
    ANONYMOUS,
    *BUILT_IN,
    WITHOUT_RIGHTS,
    *(RoleCaller(right, [role_of(right)]) for right in [*RIGHTS_BY_NAME, ADMINISTRATION]),
    *(_with_read(name) for name, (action, _) in RIGHTS_BY_NAME.items() if action is not SnapshotAction.READ),
    OTHER_TENANT_ADMIN,
]
