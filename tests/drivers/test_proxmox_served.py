"""Tests the proxmox driver behind a gateway, through GraphQL only."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Settings
from tests.databases import Databases
from tests.drivers.worlds.proxmox import Cluster
from tests.serving import Served, served

pytestmark = pytest.mark.thorough

CREATE = """
mutation ($input: CreateSnapshotInput!) {
  createSnapshot(input: $input) { operation { id } snapshot { id } errors { code message } }
}"""
REVERT = """
mutation ($id: ID!) {
  revertVmSnapshot(input: { snapshotId: $id }) { operation { id } errors { code message } }
}"""
DELETE = """
mutation ($ids: [ID!]!) {
  deleteSnapshots(input: { ids: $ids }) { results { operation { id } } errors { code message } }
}"""
UPDATE = """
mutation ($input: UpdateSnapshotInput!) {
  updateSnapshot(input: $input) { operation { id } snapshot { name description } errors { code message path } }
}"""
REFRESH = """
mutation ($id: ID!) {
  refreshMachine(input: { machineId: $id }) { operation { id } errors { code message } }
}"""
VMS = "{ vms { nodes { id name powerState host provider providerRef } } }"
TREE = """
query ($id: ID!) {
  vm(id: $id) {
    powerState
    snapshots(sort: [{ field: NAME }]) {
      nodes { name description state memory isCurrent providerRef parent { name } }
    }
  }
}"""


@pytest.fixture
def gateway(pve: Cluster, databases: Databases, tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "secret").write_text("secret\n")
    (tmp_path / "providers.toml").write_text(
        f"""
        [pve]
        driver = "proxmox"
        address = "{pve.address}"
        user = "gateway@pve"
        password = {{ file = "{tmp_path}/secret" }}
        ca_file = "{pve.ca_file}"
        """
    )
    settings = Settings(database_url=databases.new("sqlite"), providers_file=str(tmp_path / "providers.toml"))
    with served(settings) as gateway:
        gateway.run(gateway.gateway.inventory.refresh_provider("pve"))
        yield gateway


def ended(gateway: Served, operation: dict[str, Any]) -> tuple[str, str | None, str | None]:
    """Waits until an operation has ended; its state, error code and provider message."""
    end = gateway.await_operation(operation["id"])
    error = end["error"] or {"code": None, "providerMessage": None}
    return end["state"], error["code"], error["providerMessage"]


def create(gateway: Served, machine: str, name: str, **more: Any) -> dict[str, Any]:
    payload: dict[str, Any] = gateway.ask(CREATE, input={"machineId": machine, "name": name, **more})["createSnapshot"]
    return payload


def tree(gateway: Served, machine: str) -> list[tuple[str, bool, str | None]]:
    """Name, whether it is current, and the parent's name of each snapshot."""
    nodes = gateway.ask(TREE, id=machine)["vm"]["snapshots"]["nodes"]
    return [(node["name"], node["isCurrent"], (node["parent"] or {}).get("name")) for node in nodes]


def test_create_list_revert_and_delete(pve: Cluster, gateway: Served) -> None:
    done = ("SUCCEEDED", None, None)
    vms = {vm["name"]: vm for vm in gateway.ask(VMS)["vms"]["nodes"]}
    web = vms["web"]["id"]
    assert list(vms) == ["elsewhere", "golden", "hibernated", "off", "paused", "web"]
    assert tuple(vms["web"].values()) == (web, "web", "ON", "pve1", "pve", "100")
    base = create(gateway, web, "Vor dem Umzug", description="why")
    assert ended(gateway, base["operation"]) == done
    later = create(gateway, web, "later", memory=True)
    assert ended(gateway, later["operation"]) == done
    vm = gateway.ask(TREE, id=web)["vm"]
    refs = [node.pop("providerRef") for node in vm["snapshots"]["nodes"]]
    columns = ("name", "description", "state", "memory", "isCurrent", "parent")
    assert [[*node] for node in vm["snapshots"]["nodes"]] == [[*columns]] * 2
    assert [tuple(node.values()) for node in vm["snapshots"]["nodes"]] == [
        ("Vor dem Umzug", "why", "READY", False, False, None),
        ("later", None, "READY", True, True, {"name": "Vor dem Umzug"}),
    ]
    assert [ref.rpartition("@")[0][:13] for ref in refs] == ["Vor-dem-Umzug", "later"]

    revert = gateway.ask(REVERT, id=base["snapshot"]["id"])["revertVmSnapshot"]
    assert ended(gateway, revert["operation"]) == done
    assert tree(gateway, web) == [("Vor dem Umzug", True, None), ("later", False, "Vor dem Umzug")]

    gone = gateway.ask(DELETE, ids=[base["snapshot"]["id"]])["deleteSnapshots"]
    assert ended(gateway, gone["results"][0]["operation"]) == done
    assert tree(gateway, web) == [("later", False, None)]
    refreshed = gateway.ask(REFRESH, id=web)["refreshMachine"]
    assert ended(gateway, refreshed["operation"]) == done
    assert tree(gateway, web) == [("later", False, None)]
    # The snapshot has no memory, so the revert stopped the machine.
    assert gateway.ask(TREE, id=web)["vm"]["powerState"] == "OFF"
    assert [*pve.do("vm_snapshots", 100)] == ["later"]


def test_update(pve: Cluster, gateway: Served) -> None:
    web = {vm["name"]: vm for vm in gateway.ask(VMS)["vms"]["nodes"]}["web"]["id"]
    made = create(gateway, web, "before", description="why")
    assert ended(gateway, made["operation"])[0] == "SUCCEEDED"
    pve.do("lose", "PUT", "/config")  # and the second attempt changes nothing
    change = {"snapshotId": made["snapshot"]["id"], "description": "because"}
    assert ended(gateway, gateway.ask(UPDATE, input=change)["updateSnapshot"]["operation"])[0] == "SUCCEEDED"
    assert len(pve.do("paths", "PUT")) == 2
    (node,) = gateway.ask(TREE, id=web)["vm"]["snapshots"]["nodes"]
    assert (node["name"], node["description"], node["state"]) == ("before", "because", "READY")
    for fixed in ({"name": "new"}, {"name": "new", "description": "new"}):
        refused = gateway.ask(UPDATE, input=change | fixed)["updateSnapshot"]
        (error,) = refused["errors"]
        assert (error["code"], error["message"], refused["operation"]) == (
            "UNSUPPORTED",
            "Proxmox VE cannot rename a snapshot.",
            None,
        )
    refreshed = gateway.ask(REFRESH, id=web)["refreshMachine"]
    assert ended(gateway, refreshed["operation"])[0] == "SUCCEEDED"
    assert gateway.ask(TREE, id=web)["vm"]["snapshots"]["nodes"] == [node]
    assert pve.do("vm_snapshots", 100)["before"]["description"].startswith("because\n\n[snapshot-gateway:")
    assert len(pve.do("paths", "PUT")) == 2


def test_refusals_by_the_gateway_and_by_the_provider(pve: Cluster, gateway: Served) -> None:
    ids = {vm["name"]: vm["id"] for vm in gateway.ask(VMS)["vms"]["nodes"]}
    for machine, memory, message in (
        ("off", True, "The machine is off, so it has no memory to save."),
        ("golden", False, "The machine is a template, which cannot be snapshotted."),
        ("hibernated", False, "The machine is hibernated. Start it first."),
    ):
        payload = create(gateway, ids[machine], "never", memory=memory)
        assert payload == {
            "operation": None,
            "snapshot": None,
            "errors": [{"code": "UNSUPPORTED", "message": message}],
        }
    pve.do("end", "qmsnapshot", "snapshot feature is not available")
    failed = create(gateway, ids["off"], "never")
    assert ended(gateway, failed["operation"]) == ("FAILED", "PROVIDER_FAILED", "snapshot feature is not available")
    pve.do("end", "qmsnapshot", "zfs error: out of space")
    failed = create(gateway, ids["paused"], "never")
    assert ended(gateway, failed["operation"]) == ("FAILED", "LIMIT_EXCEEDED", "zfs error: out of space")
    assert pve.do("vm_snapshots", 101) == pve.do("vm_snapshots", 102) == {}
