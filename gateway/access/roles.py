"""Roles: named sets of rights. Three are built in; `GATEWAY_ROLES` defines others. Callers are assigned elsewhere."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from gateway.access.caller import ALL_RIGHTS, Caller, Right, right_name
from gateway.errors import InvalidInput, StartupError
from gateway.models import SnapshotAction

ADMINISTRATION = "administration"  # the right to read the audit log


class Grant(NamedTuple):
    """The rights of a role, or the union of the rights of several roles."""

    rights: frozenset[Right]
    administers: bool

    @property
    def names(self) -> list[str]:
        """The names of the rights, such as `vm:read`, in alphabetical order."""
        return sorted([right_name(*right) for right in self.rights] + ([ADMINISTRATION] if self.administers else []))


NO_RIGHTS = Grant(frozenset(), administers=False)

_OPERATOR = (SnapshotAction.READ, SnapshotAction.CREATE, SnapshotAction.DELETE, SnapshotAction.UPDATE)

# Reverting discards the current state of a machine, so of the built-in roles only `admin` may do it.
BUILT_IN_ROLES: Mapping[str, Grant] = {
    "viewer": Grant(frozenset(right for right in ALL_RIGHTS if right[0] is SnapshotAction.READ), administers=False),
    "operator": Grant(frozenset(right for right in ALL_RIGHTS if right[0] in _OPERATOR), administers=False),
    "admin": Grant(ALL_RIGHTS, administers=True),
}

RIGHTS_BY_NAME: Mapping[str, Right] = dict(sorted((right_name(*right), right) for right in ALL_RIGHTS))

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


class Roles:
    """The built-in and the custom roles."""

    def __init__(self, custom: Mapping[str, Grant]) -> None:
        self._roles = {**BUILT_IN_ROLES, **custom}

    @classmethod
    def read(cls, text: str) -> "Roles":
        """Return the built-in roles and those in `text`, the value of GATEWAY_ROLES.

        Raises StartupError with one message per invalid role or right.
        """
        try:
            tables = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise StartupError(f"GATEWAY_ROLES is not valid TOML: {error}.") from None
        problems: list[str] = []
        custom = {}
        for name, rights in tables.items():
            found = _problems(name, rights)
            problems += found
            if not found:
                granted = frozenset(RIGHTS_BY_NAME[right] for right in rights if right != ADMINISTRATION)
                custom[name] = Grant(granted, ADMINISTRATION in rights)
        if problems:
            raise StartupError(*problems)
        return cls(custom)

    def rights(self, names: Iterable[str]) -> Grant:
        """Return the union of the rights of these roles. An unknown name has no rights."""
        found = [self._roles.get(name, NO_RIGHTS) for name in names]
        return Grant(frozenset().union(*(one.rights for one in found)), any(one.administers for one in found))

    def caller(self, name: str, tenant: str, roles: tuple[str, ...], *, key: str, expires_at: float | None) -> Caller:
        """Return the caller with the rights of these roles."""
        rights, administers = self.rights(roles)
        return Caller(name, tenant, roles, rights, administers=administers, key=key, expires_at=expires_at)

    def check(self, names: Iterable[str]) -> None:
        """Raises InvalidInput for the first unknown role."""
        if unknown := [name for name in names if name not in self._roles]:
            raise InvalidInput(f"Role {unknown[0]!r} does not exist. The roles are: {', '.join(self._roles)}.")


def _problems(name: str, rights: Any) -> list[str]:
    role = f"Role {name!r} in GATEWAY_ROLES"
    if not _NAME.fullmatch(name):
        return [
            f"{role} must have a name of 1 to 63 letters, digits, '.', '_' and '-' that begins with a letter or digit."
        ]
    if name in BUILT_IN_ROLES:
        return [f"{role} has the name of a built-in role. Choose another name."]
    if not isinstance(rights, list):
        return [f'{role} must be a list of rights, such as {name} = ["vm:read", "vm:create"].']
    known = ", ".join([*RIGHTS_BY_NAME, ADMINISTRATION])
    return [
        f"{role} has the unknown right {right!r}. The rights are: {known}."
        for right in rights
        if not isinstance(right, str) or (right not in RIGHTS_BY_NAME and right != ADMINISTRATION)
    ]
