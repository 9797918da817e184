"""Roles: names for sets of rights. Three are built in, others come from a setting. Knows nothing of who has which."""

import re
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from gateway.access.caller import ALL_RIGHTS, Caller, Right, right_name
from gateway.errors import InvalidInput, StartupError
from gateway.models import SnapshotAction

ADMINISTRATION = "administration"  # to read the record of who did what


class Granted(NamedTuple):
    """What a role allows, or several together."""

    rights: frozenset[Right]
    administers: bool


NOTHING = Granted(frozenset(), administers=False)

_OPERATOR = (SnapshotAction.READ, SnapshotAction.CREATE, SnapshotAction.DELETE)

# To revert throws the present state of a machine away, so no role has it by the way.
BUILT_IN: Mapping[str, Granted] = {
    "viewer": Granted(frozenset(right for right in ALL_RIGHTS if right[0] is SnapshotAction.READ), administers=False),
    "operator": Granted(frozenset(right for right in ALL_RIGHTS if right[0] in _OPERATOR), administers=False),
    "admin": Granted(ALL_RIGHTS, administers=True),
}

RIGHTS: Mapping[str, Right] = dict(sorted((right_name(*right), right) for right in ALL_RIGHTS))

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


class Roles:
    """The roles that there are."""

    def __init__(self, own: Mapping[str, Granted]) -> None:
        self._roles = {**BUILT_IN, **own}

    @classmethod
    def read(cls, text: str) -> "Roles":
        """The built-in ones and those of GATEWAY_ROLES. Raises StartupError with a message per fault."""
        try:
            tables = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise StartupError(f"GATEWAY_ROLES is not TOML: {error}") from None
        faults: list[str] = []
        own = {}
        for name, rights in tables.items():
            wrong = _faults(name, rights)
            faults += [f"role {name!r} {fault}" for fault in wrong]
            if not wrong:
                granted = frozenset(RIGHTS[right] for right in rights if right != ADMINISTRATION)
                own[name] = Granted(granted, ADMINISTRATION in rights)
        if faults:
            raise StartupError(*faults)
        return cls(own)

    def rights(self, names: Iterable[str]) -> Granted:
        """What these roles allow together. A name that is no role allows nothing."""
        found = [self._roles.get(name, NOTHING) for name in names]
        return Granted(frozenset().union(*(one.rights for one in found)), any(one.administers for one in found))

    def caller(self, name: str, tenant: str, roles: tuple[str, ...], *, key: str, expires_at: float | None) -> Caller:
        """Whoever has these roles."""
        rights, administers = self.rights(roles)
        return Caller(name, tenant, roles, rights, administers, key, expires_at)

    def check(self, names: Iterable[str]) -> None:
        """Raises InvalidInput for a name that is no role."""
        if unknown := [name for name in names if name not in self._roles]:
            raise InvalidInput(f"there is no role {unknown[0]!r}; there are: {', '.join(self._roles)}")


def _faults(name: str, rights: Any) -> list[str]:
    if not _NAME.fullmatch(name):
        return ["must have a name of 1 to 63 letters, digits, '.', '_' and '-', beginning with one of the first two"]
    if name in BUILT_IN:
        return ["is built in: give yours another name"]
    if not isinstance(rights, list):
        return [f'must be a list of rights, such as {name} = ["vm:read", "vm:create"]']
    known = ", ".join([*RIGHTS, ADMINISTRATION])
    return [
        f"has a right {right!r} that is not known; it may be one of {known}"
        for right in rights
        if not isinstance(right, str) or (right not in RIGHTS and right != ADMINISTRATION)
    ]
