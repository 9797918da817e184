"""Roles: what the built-in ones allow, and how own ones are read."""

import pytest

from gateway.access.caller import Caller, right_name
from gateway.access.roles import Granted, Roles
from gateway.errors import InvalidInput, StartupError
from gateway.models import MachineKind, SnapshotAction

KNOWN = "instance:create, instance:delete, instance:read, vm:create, vm:delete, vm:read, vm:revert, administration"


def names(granted: Granted) -> list[str]:
    return sorted(right_name(*right) for right in granted.rights)


def test_the_built_in_roles() -> None:
    roles = Roles.read("")
    assert names(roles.rights(["viewer"])) == ["instance:read", "vm:read"]
    kept = ["instance:create", "instance:delete", "instance:read", "vm:create", "vm:delete", "vm:read"]
    assert names(roles.rights(["operator"])) == kept
    assert names(roles.rights(["admin"])) == sorted([*kept, "vm:revert"])
    assert [roles.rights([name]).administers for name in ("viewer", "operator", "admin")] == [False, False, True]


def test_own_roles_and_several_together() -> None:
    roles = Roles.read('backup = ["vm:read", "vm:create"]\nauditor = ["administration"]\nnobody = []')
    assert roles.rights(["backup"]) == Granted(roles.rights(["backup"]).rights, administers=False)
    assert names(roles.rights(["backup"])) == ["vm:create", "vm:read"]
    assert roles.rights(["auditor"]) == (frozenset(), True)
    assert names(roles.rights(["viewer", "backup"])) == ["instance:read", "vm:create", "vm:read"]
    assert roles.rights(["auditor", "viewer"]).administers
    assert roles.rights(["nobody"]) == roles.rights([]) == roles.rights(["unknown"]) == (frozenset(), False)
    roles.check(["backup", "viewer"])
    with pytest.raises(InvalidInput) as raised:
        roles.check(["backup", "unknown"])
    known = "viewer, operator, admin, backup, auditor, nobody"
    assert raised.value.message == f"there is no role 'unknown'; there are: {known}"


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("backup = [", ["GATEWAY_ROLES is not TOML: "]),
        (
            'viewer = ["vm:read"]\nx = "vm:read"\n"a b" = []\ny = ["vm:read", "vm:fly", 1, ["vm:read"]]',
            [
                "role 'viewer' is built in: give yours another name",
                'role \'x\' must be a list of rights, such as x = ["vm:read", "vm:create"]',
                "role 'a b' must have a name of 1 to 63 letters, digits, '.', '_' and '-', beginning with one of ",
                f"role 'y' has a right 'vm:fly' that is not known; it may be one of {KNOWN}",
                f"role 'y' has a right 1 that is not known; it may be one of {KNOWN}",
                f"role 'y' has a right ['vm:read'] that is not known; it may be one of {KNOWN}",
            ],
        ),
        ('x = ["instance:revert"]', ["role 'x' has a right 'instance:revert' that is not known; it may be one of "]),
    ],
    ids=["no TOML", "a line per fault", "no revert for Instances"],
)
def test_mistakes(text: str, faults: list[str]) -> None:
    with pytest.raises(StartupError) as raised:
        Roles.read(text)
    assert len(raised.value.faults) == len(faults)
    assert all(found.startswith(fault) for found, fault in zip(raised.value.faults, faults, strict=True))


def test_a_caller_knows_the_kinds_it_may_see() -> None:
    everything = Caller("a", "t")
    assert everything.kinds == (MachineKind.VM, MachineKind.INSTANCE)
    assert Caller("a", "t", rights=frozenset({(SnapshotAction.READ, MachineKind.INSTANCE)})).kinds == (
        MachineKind.INSTANCE,
    )
    assert Caller("a", "t", rights=frozenset({(SnapshotAction.CREATE, MachineKind.VM)})).kinds == ()
    assert everything.may(SnapshotAction.CREATE_WITH_MEMORY, MachineKind.VM)
    assert not everything.may(SnapshotAction.REVERT, MachineKind.INSTANCE)
