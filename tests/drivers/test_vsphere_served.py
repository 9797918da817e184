"""Tests the vsphere driver behind a gateway, through GraphQL only."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Settings
from gateway.drivers.base import CreateCommand, DeleteCommand, ReportedSnapshots, RevertCommand, Work
from tests.databases import Databases
from tests.hypervisors.vcenter import VCenter, named
from tests.inventory.files import collection, import_pages, snapshot, vm
from tests.serving import Served, served
from tests.waiting import until

pytestmark = pytest.mark.thorough

CREATE = """
mutation ($input: CreateSnapshotInput!) {
  createSnapshot(input: $input) { operation { id } errors { code message } }
}"""
REVERT = """
mutation ($id: ID!) {
  revertVmSnapshot(input: { snapshotId: $id }) { operation { id } errors { code message } }
}"""
DELETE = """
mutation ($id: ID!) {
  deleteSnapshots(input: { ids: [$id] }) { results { operation { id } } errors { code message } }
}"""
UPDATE = """
mutation ($input: UpdateSnapshotInput!) {
  updateSnapshot(input: $input) { operation { id } errors { code message } }
}"""
VMS = "{ vms { nodes { id name description powerState host provider providerRef } } }"
TREE = """
query ($id: ID!) {
  vm(id: $id) {
    name powerState provider
    snapshots(sort: [{ field: NAME }]) {
      nodes { id name description state memory isCurrent providerRef parent { name } }
    }
  }
}"""
DONE = ("SUCCEEDED", None, None)


@pytest.fixture
def url(databases: Databases) -> str:
    return databases.new("sqlite")


@pytest.fixture
def gateway(vc: VCenter, url: str, tmp_path: Path) -> Iterator[Served]:
    with serving(vc, url, tmp_path) as gateway:
        yield gateway


def serving(vc: VCenter, url: str, directory: Path) -> Any:
    (directory / "secret").write_text(f"{vc.password}\n")
    (directory / "providers.toml").write_text(
        f"""
        [vc]
        driver = "vsphere"
        address = "{vc.address}"
        user = "{vc.user}"
        password = {{ file = "{directory}/secret" }}
        ca_file = "{vc.ca_file}"
        timeout = 10.0
        """
    )
    return served(Settings(database_url=url, providers_file=str(directory / "providers.toml")))


def machine(gateway: Served, name: str) -> dict[str, Any]:
    """Refreshes the provider, and returns a machine."""
    gateway.run(gateway.gateway.inventory.refresh_provider("vc"))
    (found,) = [vm for vm in gateway.ask(VMS)["vms"]["nodes"] if vm["name"] == name]
    return dict(found)


def create(gateway: Served, id_: str, name: str, **more: Any) -> tuple[str, str | None, str | None]:
    """Creates a snapshot and waits until the operation has ended; its state, error code and provider message."""
    payload = gateway.ask(CREATE, input={"machineId": id_, "name": name, **more})["createSnapshot"]
    assert payload["errors"] == []
    return ended(gateway, payload["operation"])


def ended(gateway: Served, operation: dict[str, Any]) -> tuple[str, str | None, str | None]:
    end = gateway.await_operation(operation["id"])
    error = end["error"] or {"code": None, "providerMessage": None}
    return end["state"], error["code"], error["providerMessage"]


def tree(gateway: Served, id_: str) -> list[tuple[str, str, bool, str | None]]:
    """Name, state, whether it is current, and the parent's name of each snapshot."""
    nodes = gateway.ask(TREE, id=id_)["vm"]["snapshots"]["nodes"]
    return [(node["name"], node["state"], node["isCurrent"], (node["parent"] or {}).get("name")) for node in nodes]


def reported(vc: VCenter, name: str) -> ReportedSnapshots:
    """The snapshots of a machine, read by another client."""

    async def inside() -> ReportedSnapshots:
        other = vc.driver()
        try:
            return await other.snapshots(await named(other, name))
        finally:
            await other.close()

    return asyncio.run(inside())


def test_create_list_revert_and_delete(vc: VCenter, gateway: Served) -> None:
    on = machine(gateway, "on")
    assert [vm["name"] for vm in gateway.ask(VMS)["vms"]["nodes"]] == ["off", "on", "suspended"]
    assert {key: on[key] for key in ("description", "powerState", "host", "provider")} == {
        "description": "this is on",
        "powerState": "ON",
        "host": "DC0_C0_H0",
        "provider": "vc",
    }
    assert create(gateway, on["id"], "8/23 100 %", description="why", memory=True) == DONE
    assert create(gateway, on["id"], "later") == DONE
    nodes = gateway.ask(TREE, id=on["id"])["vm"]["snapshots"]["nodes"]
    first, later = nodes
    refs = [each.ref for each in reported(vc, "on").snapshots]
    assert [list(node.values())[1:] for node in nodes] == [
        ["8/23 100 %", "why", "READY", True, False, refs[0], None],
        ["later", None, "READY", False, True, refs[1], {"name": "8/23 100 %"}],
    ]
    revert = gateway.ask(REVERT, id=later["id"])["revertVmSnapshot"]
    assert ended(gateway, revert["operation"]) == DONE
    until(lambda: machine(gateway, "on")["powerState"] == "OFF")  # a snapshot without memory
    revert = gateway.ask(REVERT, id=first["id"])["revertVmSnapshot"]
    assert ended(gateway, revert["operation"]) == DONE
    until(lambda: machine(gateway, "on")["powerState"] == "ON")
    assert [(name, current) for name, _, current, _ in tree(gateway, on["id"])] == [
        ("8/23 100 %", True),
        ("later", False),
    ]

    deleted = gateway.ask(DELETE, id=first["id"])["deleteSnapshots"]["results"][0]
    assert ended(gateway, deleted["operation"]) == DONE
    assert tree(gateway, on["id"]) == [("later", "READY", False, None)]
    assert [(each.name, each.parent_ref) for each in reported(vc, "on").snapshots] == [("later", None)]


def test_update(vc: VCenter, gateway: Served) -> None:
    on = machine(gateway, "on")
    assert create(gateway, on["id"], "before", description="why") == DONE
    (node,) = gateway.ask(TREE, id=on["id"])["vm"]["snapshots"]["nodes"]
    vc.rule("RenameSnapshot", "lose")  # and the second attempt changes nothing
    vc.calls()
    change = {"snapshotId": node["id"], "name": "8/23 100 %", "description": None}
    update = gateway.ask(UPDATE, input=change)["updateSnapshot"]
    assert update["errors"] == []
    assert ended(gateway, update["operation"]) == DONE
    assert vc.calls("RenameSnapshot") == ["RenameSnapshot"] * 2
    machine(gateway, "on")
    assert gateway.ask(TREE, id=on["id"])["vm"]["snapshots"]["nodes"] == [
        node | {"name": "8/23 100 %", "description": None}
    ]
    (stored,) = reported(vc, "on").snapshots
    assert (stored.name, stored.description, stored.token is None) == ("8/23 100 %", None, False)
    vc.rule("RenameSnapshot", "fault", fault="NoPermission")
    update = gateway.ask(UPDATE, input={"snapshotId": node["id"], "name": "denied"})["updateSnapshot"]
    assert ended(gateway, update["operation"]) == ("FAILED", "PROVIDER_FAILED", "this is a NoPermission")
    assert [name for name, _, _, _ in tree(gateway, on["id"])] == ["8/23 100 %"]


def test_refusals_by_the_gateway_and_by_the_provider(vc: VCenter, gateway: Served) -> None:
    on, off = machine(gateway, "on"), machine(gateway, "off")
    refused = gateway.ask(CREATE, input={"machineId": off["id"], "name": "never", "memory": True})["createSnapshot"]
    assert refused["errors"] == [{"code": "UNSUPPORTED", "message": "The machine is off, so it has no memory to save."}]
    for fault, code in (("SnapshotFault", "PROVIDER_FAILED"), ("NoDiskSpace", "LIMIT_EXCEEDED")):
        vc.rule("CreateSnapshot_Task", "fail", fault=fault)
        assert create(gateway, on["id"], fault) == ("FAILED", code, f"*types.{fault}")
    vc.rule("CreateSnapshot_Task", "fault", fault="NoPermission")
    assert create(gateway, on["id"], "denied") == ("FAILED", "PROVIDER_FAILED", "this is a NoPermission")
    assert {state for _, state, _, _ in tree(gateway, on["id"])} == {"ERROR"}
    assert reported(vc, "on").snapshots == []


def test_busy_machines_and_lost_answers_are_retried(vc: VCenter, gateway: Served) -> None:
    on = machine(gateway, "on")
    vc.rule("CreateSnapshot_Task", "fail", fault="TaskInProgress")  # the first attempt
    vc.rule("CreateSnapshot_Task", "lose")  # the second
    vc.calls()
    assert create(gateway, on["id"], "patient") == DONE
    assert len(vc.calls("CreateSnapshot_Task")) == 2
    assert [each.name for each in reported(vc, "on").snapshots] == ["patient"]
    (shown,) = gateway.ask(TREE, id=on["id"])["vm"]["snapshots"]["nodes"]
    vc.rule("RevertToSnapshot_Task", "drop")
    revert = gateway.ask(REVERT, id=shown["id"])["revertVmSnapshot"]
    assert ended(gateway, revert["operation"]) == ("FAILED", "OUTCOME_UNKNOWN", None)
    assert vc.calls("RevertToSnapshot_Task") == ["RevertToSnapshot_Task"]


def test_changes_by_other_clients_appear_without_a_refresh(vc: VCenter, gateway: Served) -> None:
    on = machine(gateway, "on")

    async def change() -> None:
        other = vc.driver()
        made = await other.create(Work("t"), CreateCommand(on["providerRef"], "theirs", None, True))
        await asyncio.to_thread(until, lambda: tree(gateway, on["id"]) == [("theirs", "READY", True, None)])
        child = await other.create(Work("u"), CreateCommand(on["providerRef"], "upper", None, True))
        await other.revert(Work("t"), RevertCommand(on["providerRef"], made.ref))
        await asyncio.to_thread(
            until,
            lambda: tree(gateway, on["id"]) == [("theirs", "READY", True, None), ("upper", "READY", False, "theirs")],
        )
        await other.delete(Work("t"), DeleteCommand(on["providerRef"], made.ref))
        await other.delete(Work("t"), DeleteCommand(on["providerRef"], child.ref))
        await asyncio.to_thread(until, lambda: tree(gateway, on["id"]) == [])
        await other.close()

    asyncio.run(change())


def test_a_machine_imported_from_manageiq_keeps_its_id_and_its_snapshots(vc: VCenter, url: str, tmp_path: Path) -> None:
    async def before() -> tuple[str | None, str]:
        other = vc.driver()
        ref = await named(other, "on")
        made = await other.create(Work("t"), CreateCommand(ref, "old", None, False))
        uid = (await other.machine(ref)).uid
        await other.close()
        return uid, made.ref

    uid, ref = asyncio.run(before())
    known = snapshot(7, name="old", ems_ref=ref, create_time="2026-01-01T00:00:00Z")
    # The moref differs, as after the machine was removed from the inventory and registered again.
    import_pages(url, tmp_path, collection(vm(42, known, name="on", uid_ems=uid, ems_ref="vm-9999")))
    with serving(vc, url, tmp_path) as gateway:
        assert machine(gateway, "on")["id"] == "vm-42"
        (shown,) = gateway.ask(TREE, id="vm-42")["vm"]["snapshots"]["nodes"]
        assert (shown["id"], shown["providerRef"], shown["isCurrent"]) == ("snapshot-7", ref, True)
        deleted = gateway.ask(DELETE, id="snapshot-7")["deleteSnapshots"]["results"][0]
        assert ended(gateway, deleted["operation"]) == DONE
    assert reported(vc, "on").snapshots == []
