"""The capability matrices of all drivers: opt-in, and true to the methods that a driver has."""

import asyncio
import pkgutil
from collections.abc import Awaitable, Callable, Iterator
from importlib import import_module
from typing import Any

import pytest

from gateway import drivers
from gateway.drivers.base import CreateCommand, DeleteCommand, Driver, Matrix, RevertCommand, UpdateCommand, Work
from gateway.errors import ProviderRefused
from gateway.inventory.provider_configuration import SIMULATED
from gateway.models import MachineKind, PowerState, SnapshotAction
from tests.databases import required
from tests.rules.markdown import ROOT, table

PACKAGES = sorted(module.name for module in pkgutil.iter_modules(drivers.__path__) if module.ispkg)

# The method of a driver that executes each action.
METHODS = {
    SnapshotAction.CREATE: "create",
    SnapshotAction.CREATE_WITH_MEMORY: "create",
    SnapshotAction.REVERT: "revert",
    SnapshotAction.DELETE: "delete",
    SnapshotAction.UPDATE: "update",
}
FIELDS = {"name", "description"}  # what UPDATE can change


def class_of(package: str) -> type[Driver]:
    """The driver of a package."""
    try:
        module: Any = import_module(f"gateway.drivers.{package}.driver")
    except ModuleNotFoundError as error:
        (pytest.fail if required(package) else pytest.skip)(f"{error.name} is not installed")
    (found,) = [
        each
        for each in vars(module).values()
        if isinstance(each, type) and Driver in each.__mro__ and each.__module__ == module.__name__
    ]
    return found


def matrices(driver: type[Driver]) -> dict[MachineKind, Matrix]:
    """The matrix of each kind of machine. It does not depend on the driver's configuration, so there is none."""
    return {kind: driver.matrix(driver.__new__(driver), kind) for kind in MachineKind}


@pytest.fixture(params=PACKAGES)
def driver(request: pytest.FixtureRequest) -> type[Driver]:
    return class_of(request.param)


def test_every_action_but_read_has_a_method() -> None:
    assert set(METHODS) == set(SnapshotAction) - {SnapshotAction.READ}
    assert PACKAGES == ["ec2", "libvirt", "openstack", "proxmox", "qcow2", "simulator", "vsphere"]


def test_supported_actions_have_a_method_of_the_driver(driver: type[Driver]) -> None:
    for matrix in matrices(driver).values():
        inherited = [
            action
            for action in sorted(matrix.supported)
            if getattr(driver, METHODS[action]) is getattr(Driver, METHODS[action])
        ]
        assert inherited == []


def test_unsupported_actions_have_a_reason(driver: type[Driver]) -> None:
    """A supported action has reasons for some power states alone. Reading is never listed: every driver supports it."""
    for matrix in matrices(driver).values():
        assert SnapshotAction.READ not in {*matrix.supported, *matrix.reasons}
        for action in METHODS:
            reason = matrix.reasons.get(action)
            if action in matrix.supported:
                assert reason is None or (reason and {*reason} < set(PowerState)), action
            else:
                assert isinstance(reason, str), action


def test_reasons_are_sentences(driver: type[Driver]) -> None:
    for matrix in matrices(driver).values():
        texts = [*matrix.fixed.values()]
        for reason in matrix.reasons.values():
            texts += [reason] if isinstance(reason, str) else reason.values()
        assert [text for text in texts if not text.endswith(".") or text != text.strip() or "  " in text] == []


def test_only_a_supported_update_has_fixed_fields(driver: type[Driver]) -> None:
    for matrix in matrices(driver).values():
        assert {*matrix.fixed} < FIELDS  # it can change at least one
        assert not matrix.fixed or SnapshotAction.UPDATE in matrix.supported


def documented_rows(package: str) -> list[str]:
    """The rows of the table in `docs/providers.md`: one, or one per kind of machine if these differ."""
    driver = SIMULATED if package == "simulator" else package
    by_kind = {kind: " | ".join(_cells(matrix)) for kind, matrix in matrices(class_of(package)).items()}
    if len({*by_kind.values()}) == 1:
        return [f"| `{driver}` | {by_kind[MachineKind.VM]} |"]
    return [f"| `{driver}`, {kind.value.capitalize()}s | {cells} |" for kind, cells in by_kind.items()]


def _cells(matrix: Matrix) -> Iterator[str]:
    for action in METHODS:
        states = [power for power in PowerState if matrix.unsupported_reason(action, power) is None]
        possible = "yes" if len(states) == len(PowerState) else ", ".join(states) or "no"
        if action is not SnapshotAction.UPDATE:
            yield possible
    for field in ("name", "description"):
        yield "no" if field in matrix.fixed else possible


def test_supported_actions_are_documented() -> None:
    _, _, *rows = table(ROOT / "docs/providers.md", "Driver")
    assert rows == [row for package in PACKAGES for row in documented_rows(package)]


class Silent(Driver):
    """A driver that declares nothing and has no method."""

    name = "silent"

    def matrix(self, kind: MachineKind) -> Matrix:
        return Matrix(frozenset())


def test_a_driver_that_declares_nothing_supports_nothing() -> None:
    silent = Silent()  # type: ignore[abstract]  # the other methods are not called
    text = "The driver of the machine's provider does not support this action."
    for action in METHODS:
        for power in PowerState:
            assert silent.matrix(MachineKind.VM).unsupported_reason(action, power) == text
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: silent.create(Work("t"), CreateCommand("m", "n", None, False)),
        lambda: silent.revert(Work("t"), RevertCommand("m", "s")),
        lambda: silent.delete(Work("t"), DeleteCommand("m", "s")),
        lambda: silent.update(Work("t"), UpdateCommand("m", "s", "n")),
    ]

    async def inside() -> None:
        for call in calls:
            with pytest.raises(ProviderRefused) as refused:
                await call()
            assert refused.value.message == text

    asyncio.run(inside())
