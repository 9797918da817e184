"""Roles: names for sets of rights, as settings and credentials give them to callers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gateway.access.caller import ALL_RIGHTS, Right
from gateway.errors import InvalidInput
from gateway.models import SnapshotAction


@dataclass(frozen=True, slots=True)
class Role:
    """What whoever has it may do."""

    rights: frozenset[Right]
    administers: bool = False


BUILT_IN: Mapping[str, Role] = {
    "viewer": Role(frozenset(right for right in ALL_RIGHTS if right[0] is SnapshotAction.READ)),
    "operator": Role(ALL_RIGHTS),
    "admin": Role(ALL_RIGHTS, administers=True),
}


class Roles:
    """The roles that there are."""

    def __init__(self, roles: Mapping[str, Role] = BUILT_IN) -> None:
        self._roles = roles

    def rights(self, names: Iterable[str]) -> tuple[frozenset[Right], bool]:
        """What the named roles allow together, and whether they administer. A name that is no role allows nothing."""
        known = [self._roles[name] for name in names if name in self._roles]
        return frozenset[Right]().union(*(role.rights for role in known)), any(role.administers for role in known)

    def check(self, names: Iterable[str]) -> None:
        """Raises InvalidInput for a name that is no role."""
        if unknown := [name for name in names if name not in self._roles]:
            raise InvalidInput(f"there is no role {unknown[0]!r}; there are: {', '.join(self._roles)}")
