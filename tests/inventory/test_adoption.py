"""A refresh adopts an imported machine when the provider reports the same machine."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.drivers.base import ReportedSnapshots
from gateway.inventory.refresh import InventoryRefresher
from gateway.models import MachineKind
from gateway.store.database import Database
from tests.inventory.files import MACHINES, SNAPSHOTS, collection, execute, import_pages, select, vm
from tests.inventory.files import snapshot as imported
from tests.inventory.scripted import Scenario, ScriptedDriver, machine

IDENTITY = "SELECT id, provider, gone_at IS NOT NULL FROM machine ORDER BY id"


def import_machine(url: str, directory: Path, **attributes: Any) -> None:
    snapshots = (imported(30, ems_ref="a", current=1), imported(31, ems_ref="gone"))
    import_pages(url, directory, collection(vm(11, *snapshots, **attributes)))


@pytest.mark.parametrize(
    ("attributes", "uid"),
    [
        ({"ems_ref": "m1"}, None),
        ({"ems_ref": "m1", "uid_ems": "4221"}, "4221"),
        ({"ems_ref": "m1", "uid_ems": "4221"}, None),
        ({"ems_ref": "elsewhere", "uid_ems": "4221"}, "4221"),
        ({"ems_ref": None, "uid_ems": "4221"}, "4221"),
    ],
)
def test_imported_machine_is_adopted(
    url: str, tmp_path: Path, run_scenario: Callable[[Scenario], None], attributes: dict[str, Any], uid: str | None
) -> None:
    import_machine(url, tmp_path, **attributes)

    async def scenario(_: Database, driver: ScriptedDriver, inventory: InventoryRefresher) -> None:
        [(reported, snapshots)] = driver.world.items()
        driver.world = {replace(reported, uid=uid): snapshots}
        await inventory.refresh_provider("lab")
        await inventory.refresh_provider("lab")

    run_scenario(scenario)
    assert select(url, MACHINES) == [(11, "name of m1", "lab", "m1", "ON", 1)]
    assert [row[:6] for row in select(url, SNAPSHOTS)] == [
        (30, 11, "a", "name of a", None, 0),
        (32, 11, "b", "name of b", 30, 0),
        (33, 11, "c", "name of c", 32, 1),
    ]
    assert str(import_pages(url, tmp_path, collection(vm(11, **attributes))).machines) == (
        "0 created, 0 updated, 0 unchanged, 1 skipped (managed by a driver)"
    )


@pytest.mark.parametrize("order", [["vms", "instances"], ["instances", "vms"]])
def test_instance_of_both_collections_is_adopted_once(
    url: str, tmp_path: Path, run_scenario: Callable[[Scenario], None], order: list[str]
) -> None:
    """ManageIQ's `vms` contains all instances too."""
    instance = vm(201, cloud=True, uid_ems="i-0abc", ems_ref="i-0abc")
    vms = collection(vm(11, cloud=False, ems_ref="vm-11"), instance)
    pages = {"vms": vms, "instances": collection(instance, name="instances")}
    for name in order:
        import_pages(url, tmp_path, pages[name])

    async def scenario(_: Database, driver: ScriptedDriver, inventory: InventoryRefresher) -> None:
        reported = machine("i-0abc", uid="i-0abc", kind=MachineKind.INSTANCE)
        driver.world = {reported: ReportedSnapshots([])}
        await inventory.refresh_provider("lab")
        await inventory.refresh_provider("lab")

    run_scenario(scenario)
    assert select(url, "SELECT id, kind, provider, provider_ref FROM machine ORDER BY id") == [
        (11, "VM", "manageiq", "vm-11"),
        (201, "INSTANCE", "lab", "i-0abc"),
    ]
    for name in order:
        assert import_pages(url, tmp_path, pages[name]).machines.skipped == 1
    assert select(url, "SELECT count(*) FROM machine") == [(2,)]


def test_archived_machine_does_not_prevent_adoption(
    url: str, tmp_path: Path, run_scenario: Callable[[Scenario], None]
) -> None:
    """ManageIQ keeps a removed machine as archived. The same machine may be registered again, with a new id."""
    archived = vm(11, imported(30), uid_ems="4221", ems_ref="m1", ems_id=None)
    import_pages(url, tmp_path, collection(archived, vm(12, uid_ems="4221", ems_ref="m1", ems_id="7")))

    async def scenario(_: Database, driver: ScriptedDriver, inventory: InventoryRefresher) -> None:
        driver.world = {machine("m1", uid="4221"): ReportedSnapshots([])}
        await inventory.refresh_provider("lab")

    run_scenario(scenario)
    assert [(*row[:2], bool(row[2])) for row in select(url, IDENTITY)] == [(11, "manageiq", True), (12, "lab", False)]


UUID, EC2 = "6b2a7c1e-2f0d-4a57-9a3b-0d6f1e2c3b4a", "i-0abc12345678def90"


@pytest.mark.parametrize(
    ("ref", "attributes", "uid", "source", "other_tenant", "adopted"),
    [
        ("100", {"ems_ref": "100"}, None, "manageiq", "default", False),
        ("100", {"ems_ref": "100"}, None, "manageiq", "elsewhere", True),
        ("100", {"ems_ref": "100"}, None, "lab", "default", True),
        ("100", {"ems_ref": "7", "uid_ems": "4221"}, "4221", "manageiq", "default", True),
        (UUID, {"ems_ref": UUID}, None, "manageiq", "default", True),
        (EC2, {"ems_ref": EC2}, None, "manageiq", "default", True),
    ],
    ids=["another provider", "another tenant's provider", "imported by name", "second identity", "UUID", "EC2"],
)
def test_reference_that_another_provider_may_use_is_not_enough(
    url: str,
    tmp_path: Path,
    run_scenario: Callable[[Scenario], None],
    ref: str,
    attributes: dict[str, Any],
    uid: str | None,
    source: str,
    other_tenant: str,
    adopted: bool,
) -> None:
    """Two clusters of Proxmox VE have a machine 100 each. One must not take over the other's, with its snapshots."""
    import_pages(url, tmp_path, collection(vm(11, imported(30, ems_ref="a"), **attributes)), provider=source)
    execute(url, f"INSERT INTO provider (name, tenant, driver) VALUES ('other', '{other_tenant}', 'proxmox')")

    async def scenario(_: Database, driver: ScriptedDriver, inventory: InventoryRefresher) -> None:
        driver.world = {machine(ref, uid=uid): ReportedSnapshots([])}
        await inventory.refresh_provider("lab")

    run_scenario(scenario)
    assert select(url, "SELECT id FROM machine WHERE provider = 'lab' AND NOT imported") == [(11 if adopted else 12,)]
    assert select(url, "SELECT id FROM snapshot") == ([] if adopted else [(30,)])


@pytest.mark.parametrize(
    ("machines", "uid"),
    [
        ([vm(11, ems_ref="other")], None),
        ([vm(11, ems_ref="m1", uid_ems="4221")], "9999"),
        ([vm(11, ems_ref="m1"), vm(12, ems_ref="m1")], None),
        ([vm(11, uid_ems="4221"), vm(12, uid_ems="4221")], "4221"),
    ],
)
def test_ambiguous_imported_machine_is_not_adopted(
    url: str, tmp_path: Path, run_scenario: Callable[[Scenario], None], machines: list[Any], uid: str | None
) -> None:
    import_pages(url, tmp_path, collection(*machines))

    async def scenario(_: Database, driver: ScriptedDriver, inventory: InventoryRefresher) -> None:
        driver.world = {machine("m1", uid=uid): ReportedSnapshots([])}
        await inventory.refresh_provider("lab")

    run_scenario(scenario)
    assert select(url, "SELECT count(*) FROM machine WHERE imported") == [(len(machines),)]
    assert select(url, "SELECT count(*) FROM machine WHERE provider = 'lab'") == [(1,)]
