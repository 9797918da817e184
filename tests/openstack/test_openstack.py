"""Snapshots of a real instance, through GraphQL: the images contain the guest's disk."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Settings
from tests.databases import Databases
from tests.openstack.cloud import URL, admin, delete_server, disk_count, has_image, make_image, make_server
from tests.serving import Served, served

pytestmark = pytest.mark.skipif(not URL, reason="No real OpenStack is running. Start it with: make openstack-test")

SNAPSHOTS = """query ($id: ID!) { instance(id: $id) { powerState flavor availabilityZone snapshots {
    totalCount nodes { id name description state sizeBytes providerRef memory isCurrent } } } }"""
CREATE = """mutation ($id: ID!, $name: String!) {
    createSnapshot(input: {machineId: $id, name: $name, description: "by the gateway"})
    { operation { id } snapshot { id } errors { code message } } }"""
DELETE = """mutation ($ids: [ID!]!) { deleteSnapshots(input: {ids: $ids})
    { results { operation { id } errors { code message } } } }"""


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[str]:
    ref = make_server("web", tmp_path)
    yield ref
    delete_server(ref)


@pytest.fixture
def gateway(instance: str, databases: Databases, tmp_path: Path) -> Iterator[Served]:
    secret = tmp_path / "password"
    secret.write_text("pw\n")
    text = (
        f'[cloud]\ndriver = "openstack"\naddress = "{URL}"\nuser = "admin"\nproject = "admin"\nregion = "RegionOne"\n'
        f'password = {{ file = "{secret}" }}\n'
    )
    with served(Settings(database_url=databases.new("sqlite"), providers=text)) as serving:
        serving.run(serving.gateway.inventory.refresh_provider("cloud"), timeout=120)
        yield serving


def machine_id(gateway: Served, ref: str) -> str:
    query = "query ($ref: String!) { instances(filter: {providerRef: {eq: $ref}}) { nodes { id } } }"
    [found] = gateway.ask(query, ref=ref)["instances"]["nodes"]
    return str(found["id"])


def create(gateway: Served, machine: str, name: str) -> tuple[str, dict[str, Any]]:
    """Creates a snapshot. Returns its id, and the operation after it has ended."""
    answer = gateway.ask(CREATE, id=machine, name=name)["createSnapshot"]
    assert answer["errors"] == []
    return answer["snapshot"]["id"], gateway.await_operation(answer["operation"]["id"])


def test_create_list_and_delete(gateway: Served, instance: str, tmp_path: Path) -> None:
    machine = machine_id(gateway, instance)
    ids = []
    for name in ("before the move", "nach dem Umzug ☃"):
        id_, operation = create(gateway, machine, name)
        assert (operation["state"], operation["error"]) == ("SUCCEEDED", None)
        ids.append(id_)
    shown = gateway.ask(SNAPSHOTS, id=machine)["instance"]
    assert (shown["powerState"], shown["flavor"], shown["availabilityZone"]) == ("ON", "small", "nova")
    newest, oldest = shown["snapshots"]["nodes"]
    assert [(s["id"], s["name"], s["state"], s["memory"], s["isCurrent"]) for s in (oldest, newest)] == [
        (ids[0], "before the move", "READY", False, False),
        (ids[1], "nach dem Umzug ☃", "READY", False, False),
    ]
    # Glance has the images with these names and sizes. They contain the disk of the counting guest.
    images = [admin().image.get_image(snapshot["providerRef"]) for snapshot in (oldest, newest)]
    assert [(image.name, image.size) for image in images] == [
        (snapshot["name"], int(snapshot["sizeBytes"])) for snapshot in (oldest, newest)
    ]
    first, second = [disk_count(image.id, tmp_path) for image in images]
    print(f"the guest had counted to {first} and to {second} on its disk")
    assert 0 < first < second
    for id_ in ids:
        [result] = gateway.ask(DELETE, ids=[id_])["deleteSnapshots"]["results"]
        assert gateway.await_operation(result["operation"]["id"])["state"] == "SUCCEEDED"
    assert gateway.ask(SNAPSHOTS, id=machine)["instance"]["snapshots"]["totalCount"] == 0
    assert [has_image(image.id) for image in images] == [False, False]


def test_a_concurrent_image_of_another_client(gateway: Served, instance: str) -> None:
    """Nova answers 409 to a second request. The operation waits, and finally both images exist."""
    machine = machine_id(gateway, instance)
    admin().compute.create_server_image(instance, name="by hand")
    _, operation = create(gateway, machine, "queued behind")
    assert (operation["state"], operation["error"]) == ("SUCCEEDED", None)
    gateway.run(gateway.gateway.inventory.refresh_provider("cloud"), timeout=120)
    nodes = gateway.ask(SNAPSHOTS, id=machine)["instance"]["snapshots"]["nodes"]
    assert {(node["name"], node["state"]) for node in nodes} == {("by hand", "READY"), ("queued behind", "READY")}


def test_an_image_deleted_by_another_client(gateway: Served, instance: str) -> None:
    machine = machine_id(gateway, instance)
    create(gateway, machine, "to be lost")
    [snapshot] = gateway.ask(SNAPSHOTS, id=machine)["instance"]["snapshots"]["nodes"]
    admin().image.delete_image(snapshot["providerRef"])
    gateway.run(gateway.gateway.inventory.refresh_provider("cloud"), timeout=120)
    assert gateway.ask(SNAPSHOTS, id=machine)["instance"]["snapshots"]["nodes"] == []


def test_revert_is_unsupported(gateway: Served, instance: str) -> None:
    machine = machine_id(gateway, instance)
    id_, _ = create(gateway, machine, "one way")
    revert = "mutation ($id: ID!) { revertVmSnapshot(input: {snapshotId: $id}) { errors { code } } }"
    assert gateway.ask(revert, id=id_)["revertVmSnapshot"]["errors"] == [{"code": "UNSUPPORTED"}]


def test_characters_that_nova_rejects(gateway: Served, instance: str) -> None:
    machine = machine_id(gateway, instance)
    _, operation = create(gateway, machine, "smile \N{GRINNING FACE}")
    assert (operation["state"], operation["error"]) == ("SUCCEEDED", None)
    [snapshot] = gateway.ask(SNAPSHOTS, id=machine)["instance"]["snapshots"]["nodes"]
    assert snapshot["name"] == "smile \N{GRINNING FACE}"
    assert admin().image.get_image(snapshot["providerRef"]).name.startswith("smile-")


def test_properties_inherited_from_an_image_are_ignored(gateway: Served, instance: str, tmp_path: Path) -> None:
    """Nova copies the tags of the image that an instance was created from to all images of the instance."""
    machine = machine_id(gateway, instance)
    create(gateway, machine, "parent")
    [parent] = gateway.ask(SNAPSHOTS, id=machine)["instance"]["snapshots"]["nodes"]
    child = make_server("child", tmp_path, parent["providerRef"])
    try:
        image = make_image(child, "by hand")
        assert (image["snapshot_gateway_description"], image["instance_uuid"]) == ("by the gateway", child)
        gateway.run(gateway.gateway.inventory.refresh_provider("cloud"), timeout=120)
        nodes = gateway.ask(SNAPSHOTS, id=machine_id(gateway, child))["instance"]["snapshots"]["nodes"]
        assert [(node["name"], node["description"]) for node in nodes] == [("by hand", None)]
        assert gateway.ask(SNAPSHOTS, id=machine)["instance"]["snapshots"]["nodes"] == [parent]
    finally:
        delete_server(child)
