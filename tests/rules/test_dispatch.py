"""Dispatch is closed: a kind of operation, an action or a command that was forgotten somewhere is an error.

A `match` on one of them ends in `assert_never`, so that mypy reports a missing case. A table keyed by one of them has
a row for each, or is listed in `PARTIAL` with the reason.
"""

import ast
from collections.abc import Iterator
from typing import NamedTuple, get_args

import pytest

from gateway.drivers.base import DriverCommand
from gateway.drivers.simulator.tables import Verb
from gateway.models import AuditAction, MachineKind, OperationKind, SnapshotAction
from gateway.operations.operation_kinds import OPERATION_TYPES
from tests.rules.modules import modules

# By the name in the source: the members of each enum, and the classes of the union of commands.
MEMBERS: dict[str, set[str]] = {
    enum.__name__: set(enum.__members__) for enum in (AuditAction, MachineKind, OperationKind, SnapshotAction, Verb)
}
COMMANDS = {command.__name__ for command in get_args(DriverCommand)}

_UNSUPPORTED = "a capability matrix names what is unsupported"
PARTIAL = {
    ("gateway/drivers/ec2/driver.py", "SnapshotAction"): _UNSUPPORTED,
    ("gateway/drivers/libvirt/driver.py", "SnapshotAction"): _UNSUPPORTED,
    ("gateway/drivers/openstack/driver.py", "SnapshotAction"): _UNSUPPORTED,
    ("gateway/drivers/proxmox/driver.py", "SnapshotAction"): _UNSUPPORTED,
    ("gateway/drivers/proxmox/driver.py", "DriverCommand"): "an update starts no task",
    ("gateway/drivers/qcow2/driver.py", "SnapshotAction"): _UNSUPPORTED,
    ("gateway/drivers/simulator/driver.py", "SnapshotAction"): _UNSUPPORTED,
    ("gateway/drivers/vsphere/driver.py", "SnapshotAction"): _UNSUPPORTED,
}


class Table(NamedTuple):
    """A dict display whose keys are members of one enum, or commands."""

    line: int
    keyed_by: str
    missing: set[str]


def tables(tree: ast.AST) -> Iterator[Table]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict) and node.keys and all(_subject(key) for key in node.keys):
            subjects = [subject for key in node.keys if (subject := _subject(key))]
            (keyed_by,) = {name for name, _ in subjects}
            yield Table(node.lineno, keyed_by, _members(keyed_by) - {member for _, member in subjects})


def open_matches(tree: ast.AST) -> Iterator[int]:
    """The lines of each `match` on an enum or a command that does not end in `case _: assert_never(...)`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Match) and any(_is_dispatch(case.pattern) for case in node.cases):
            last = node.cases[-1]
            if not _is_wildcard(last) or not ast.unparse(last.body[-1]).startswith("assert_never("):
                yield node.lineno


def _subject(node: ast.expr | None) -> tuple[str, str] | None:
    """The enum and member, or "DriverCommand" and the class, that an expression names."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in MEMBERS:
        return node.value.id, node.attr
    if isinstance(node, ast.Name) and node.id in COMMANDS:
        return "DriverCommand", node.id
    return None


def _members(keyed_by: str) -> set[str]:
    return COMMANDS if keyed_by == "DriverCommand" else MEMBERS[keyed_by]


def _is_dispatch(pattern: ast.pattern) -> bool:
    return any(
        (isinstance(node, ast.MatchValue) and _subject(node.value) is not None)
        or (isinstance(node, ast.MatchClass) and _subject(node.cls) is not None)
        for node in ast.walk(pattern)
    )


def _is_wildcard(case: ast.match_case) -> bool:
    return isinstance(case.pattern, ast.MatchAs) and case.pattern.pattern is None and case.guard is None


def test_tables_have_a_row_for_every_member() -> None:
    incomplete = [
        (module.place, table.line, table.keyed_by, sorted(table.missing))
        for module in modules().values()
        for table in tables(module.tree)
        if table.missing and (module.place, table.keyed_by) not in PARTIAL
    ]
    assert incomplete == []


def test_exceptions_are_needed() -> None:
    partial = {
        (module.place, table.keyed_by)
        for module in modules().values()
        for table in tables(module.tree)
        if table.missing
    }
    assert set(PARTIAL) - partial == set()


def test_matches_end_in_assert_never() -> None:
    assert [(m.place, line) for m in modules().values() for line in open_matches(m.tree)] == []


def test_rules_apply_to_the_code_that_dispatches() -> None:
    """Guards against a rule that finds nothing, for example after a rename."""
    found = {table.keyed_by for module in modules().values() for table in tables(module.tree)}
    assert found == {"DriverCommand", "MachineKind", "OperationKind", "SnapshotAction", "Verb"}
    matches = [node for node in ast.walk(modules()["gateway.drivers.base"].tree) if isinstance(node, ast.Match)]
    assert sum(any(_is_dispatch(case.pattern) for case in node.cases) for node in matches) == 1


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        ("{OperationKind.REFRESH_MACHINE: 1, OperationKind.CREATE_SNAPSHOT: 2, OperationKind.DELETE_SNAPSHOT: 3}", 2),
        ("{CreateCommand: 1, DeleteCommand: 2}", 2),
        ("{Verb.CREATE: 1, Verb.REVERT: 2, Verb.DELETE: 3}", 0),
    ],
)
def test_incomplete_table_is_found(source: str, missing: int) -> None:
    (table,) = tables(ast.parse(source))
    assert len(table.missing) == missing


@pytest.mark.parametrize(
    ("end", "found"),
    [
        ("case Verb.DELETE: delete()", [1]),
        ("case _: delete()", [1]),
        ("case _ if other: assert_never(verb)", [1]),
        ("case _: assert_never(verb)", []),
    ],
)
def test_open_match_is_found(end: str, found: list[int]) -> None:
    source = f"match verb:\n    case Verb.CREATE | Verb.REVERT: other()\n    {end}\n"
    assert list(open_matches(ast.parse(source))) == found


def test_forgotten_kind_of_operation_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind that is only added to the enum. `tests/operations/test_unknown_kinds.py` shows that it does nothing."""
    monkeypatch.setitem(MEMBERS, "OperationKind", {*OperationKind.__members__, "ARCHIVE_SNAPSHOT"})
    module = modules()["gateway.operations.operation_kinds"]
    assert [table.missing for table in tables(module.tree)] == [{"ARCHIVE_SNAPSHOT"}]
    assert OPERATION_TYPES.keys() == set(OperationKind)


def test_every_kind_of_operation_is_an_audited_action() -> None:
    """A trigger records the end of an operation with its kind as the action."""
    assert set(OperationKind.__members__) - set(AuditAction.__members__) == set()
