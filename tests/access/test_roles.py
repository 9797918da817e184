"""The rights of the built-in roles, and reading custom roles from GATEWAY_ROLES."""

import pytest

from gateway.access.caller import Caller, right_name
from gateway.access.roles import Grant, Roles
from gateway.errors import InvalidInput, StartupError
from gateway.models import MachineKind, SnapshotAction

ALL_NAMES = (
    "instance:create, instance:delete, instance:read, instance:update, vm:create, vm:delete, vm:read, vm:revert,"
    " vm:update, administration"
)


def names(granted: Grant) -> list[str]:
    return sorted(right_name(*right) for right in granted.rights)


def test_the_built_in_roles() -> None:
    roles = Roles.read("")
    assert names(roles.rights(["viewer"])) == ["instance:read", "vm:read"]
    operator = [f"{kind}:{action}" for kind in ("instance", "vm") for action in ("create", "delete", "read", "update")]
    assert names(roles.rights(["operator"])) == operator
    assert names(roles.rights(["admin"])) == sorted([*operator, "vm:revert"])
    assert [roles.rights([name]).administers for name in ("viewer", "operator", "admin")] == [False, False, True]


def test_custom_roles_and_several_roles() -> None:
    roles = Roles.read('backup = ["vm:read", "vm:create"]\nauditor = ["administration"]\nempty = []')
    assert roles.rights(["backup"]) == Grant(roles.rights(["backup"]).rights, administers=False)
    assert names(roles.rights(["backup"])) == ["vm:create", "vm:read"]
    assert roles.rights(["auditor"]) == (frozenset(), True)
    assert names(roles.rights(["viewer", "backup"])) == ["instance:read", "vm:create", "vm:read"]
    assert roles.rights(["auditor", "viewer"]).administers
    assert roles.rights(["empty"]) == roles.rights([]) == roles.rights(["unknown"]) == (frozenset(), False)
    roles.check(["backup", "viewer"])
    with pytest.raises(InvalidInput) as raised:
        roles.check(["backup", "unknown"])
    known = "viewer, operator, admin, backup, auditor, empty"
    assert raised.value.message == f"Role 'unknown' does not exist. The roles are: {known}."


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("backup = [", ["GATEWAY_ROLES is not valid TOML: "]),
        (
            'viewer = ["vm:read"]\nx = "vm:read"\n"a b" = []\ny = ["vm:read", "vm:fly", 1, ["vm:read"]]',
            [
                "Role 'viewer' in GATEWAY_ROLES has the name of a built-in role. Choose another name.",
                'Role \'x\' in GATEWAY_ROLES must be a list of rights, such as x = ["vm:read", "vm:create"].',
                "Role 'a b' in GATEWAY_ROLES must have a name of 1 to 63 letters, digits, '.', '_' and '-' that ",
                f"Role 'y' in GATEWAY_ROLES has the unknown right 'vm:fly'. The rights are: {ALL_NAMES}.",
                f"Role 'y' in GATEWAY_ROLES has the unknown right 1. The rights are: {ALL_NAMES}.",
                f"Role 'y' in GATEWAY_ROLES has the unknown right ['vm:read']. The rights are: {ALL_NAMES}.",
            ],
        ),
        (
            'x = ["instance:revert"]',
            ["Role 'x' in GATEWAY_ROLES has the unknown right 'instance:revert'. The rights are: "],
        ),
    ],
    ids=["invalid TOML", "one line per problem", "no revert for Instances"],
)
def test_invalid_roles(text: str, problems: list[str]) -> None:
    with pytest.raises(StartupError) as raised:
        Roles.read(text)
    assert len(raised.value.problems) == len(problems)
    assert all(found.startswith(problem) for found, problem in zip(raised.value.problems, problems, strict=True))


def test_readable_kinds_of_a_caller() -> None:
    everything = Caller("a", "t")
    assert everything.readable_kinds == (MachineKind.VM, MachineKind.INSTANCE)
    assert Caller("a", "t", rights=frozenset({(SnapshotAction.READ, MachineKind.INSTANCE)})).readable_kinds == (
        MachineKind.INSTANCE,
    )
    assert Caller("a", "t", rights=frozenset({(SnapshotAction.CREATE, MachineKind.VM)})).readable_kinds == ()
    assert everything.has_right(SnapshotAction.CREATE_WITH_MEMORY, MachineKind.VM)
    assert not everything.has_right(SnapshotAction.REVERT, MachineKind.INSTANCE)
