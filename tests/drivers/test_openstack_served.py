"""The openstack driver behind a served gateway: configuration from a file, snapshots, errors, cancellation."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Settings
from tests.databases import Databases
from tests.hypervisors.openstack_double import Cloud, cloud, drop, lose, refuse
from tests.hypervisors.openstack_services import ABANDONED, NEVER_ENDS, PASSWORD, PROJECT, fault
from tests.serving import Served, served

pytestmark = pytest.mark.thorough

CREATE = """mutation ($id: ID!, $name: String!, $memory: Boolean! = false) {
  createSnapshot(input: {machineId: $id, name: $name, memory: $memory, description: "why"}) {
    operation { id } errors { code message }
  }
}"""
DELETE = """mutation ($id: ID!) {
  deleteSnapshots(input: {ids: [$id]}) { results { operation { id } errors { code message } } }
}"""
UPDATE = """mutation ($id: ID!, $name: String, $description: String) {
  updateSnapshot(input: {snapshotId: $id, name: $name, description: $description}) {
    operation { id } errors { code message }
  }
}"""
CANCEL = "mutation ($id: ID!) { cancelOperation(input: {operationId: $id}) { errors { code message } } }"
REVERT = "mutation ($id: ID!) { revertVmSnapshot(input: {snapshotId: $id}) { errors { code message } } }"
INSTANCES = """{ instances { nodes {
  id name powerState provider providerRef flavor availabilityZone goneAt
  snapshots { nodes { id name description state providerRef } }
} } }"""


@dataclass
class Scene:
    """A served gateway that has imported a cloud with one server. Only explicit refreshes run."""

    cloud: Cloud
    gateway: Served
    machine: str

    @property
    def instance(self) -> dict[str, Any]:
        """The instance, as the gateway returns it."""
        [instance] = self.gateway.ask(INSTANCES)["instances"]["nodes"]
        return dict(instance)

    @property
    def snapshots(self) -> list[tuple[str, str, str | None]]:
        """The name, state and provider ref of each snapshot."""
        return [(node["name"], node["state"], node["providerRef"]) for node in self.instance["snapshots"]["nodes"]]

    def start_create(self, name: str) -> str:
        """Requests a snapshot. Returns the operation's id."""
        payload = self.gateway.ask(CREATE, id=self.instance["id"], name=name)["createSnapshot"]
        assert payload["errors"] == []
        return str(payload["operation"]["id"])

    def create(self, name: str) -> dict[str, Any]:
        """The operation after it has ended."""
        return self.gateway.await_operation(self.start_create(name))

    def delete(self, snapshot_id: str) -> dict[str, Any]:
        """The operation after it has ended."""
        [result] = self.gateway.ask(DELETE, id=snapshot_id)["deleteSnapshots"]["results"]
        assert result["errors"] == []
        return self.gateway.await_operation(result["operation"]["id"])

    def refresh(self) -> None:
        self.gateway.run(self.gateway.gateway.inventory.refresh_provider("cloud"))

    def writes(self) -> list[str]:
        return [line.split("/")[0] for line in self.cloud.writes]


@pytest.fixture
def scene(databases: Databases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr("gateway.drivers.openstack.api.POLL_INTERVAL", 0.001)
    with cloud() as made:
        machine = made.boot("web")
        (tmp_path / "secret").write_text(f"{PASSWORD}\n")
        file = tmp_path / "providers.toml"
        file.write_text(
            f'[cloud]\ndriver = "openstack"\naddress = "{made.url}/identity/v3"\nuser = "gateway"\n'
            f'project = "{PROJECT}"\npassword = {{file = "{tmp_path}/secret"}}\n'
        )
        with served(Settings(database_url=databases.new("sqlite"), providers_file=str(file))) as gateway:
            gateway.run(gateway.gateway.jobs.stop())
            scene = Scene(made, gateway, machine)
            scene.refresh()
            yield scene


def test_a_snapshot_of_an_instance(scene: Scene) -> None:
    instance = scene.instance
    assert {key: value for key, value in instance.items() if key not in {"id", "snapshots"}} == {
        "name": "web",
        "powerState": "ON",
        "provider": "cloud",
        "providerRef": scene.machine,
        "flavor": "small",
        "availabilityZone": "nova",
        "goneAt": None,
    }
    done = scene.create("vor dem Umzug: 100 % ☃")
    assert (done["state"], done["error"]) == ("SUCCEEDED", None)
    [image] = scene.cloud.images
    assert scene.snapshots == [("vor dem Umzug: 100 % ☃", "READY", image)]

    [error] = scene.gateway.ask(REVERT, id=done["snapshotId"])["revertVmSnapshot"]["errors"]
    assert error["code"] == "UNSUPPORTED"
    [error] = scene.gateway.ask(CREATE, id=instance["id"], name="m", memory=True)["createSnapshot"]["errors"]
    assert error == {"code": "UNSUPPORTED", "message": "OpenStack images do not include the memory of an Instance."}
    scene.refresh()
    assert scene.snapshots == [("vor dem Umzug: 100 % ☃", "READY", image)]

    assert scene.delete(done["snapshotId"])["state"] == "SUCCEEDED"
    assert (scene.snapshots, scene.cloud.images) == ([], {})
    assert scene.writes() == ["POST compute", "DELETE image"]


def test_lost_responses(scene: Scene) -> None:
    scene.cloud.on("POST compute", lose)
    done = scene.create("before")
    assert done["state"] == "SUCCEEDED"
    assert scene.snapshots == [("before", "READY", next(iter(scene.cloud.images)))]
    scene.cloud.on("DELETE", lose)
    assert scene.delete(done["snapshotId"])["state"] == "SUCCEEDED"
    assert (scene.snapshots, scene.cloud.images) == ([], {})
    assert scene.writes() == ["POST compute", "DELETE image"]


def test_an_update(scene: Scene) -> None:
    done = scene.create("before")
    [image] = scene.cloud.images
    scene.cloud.on("PATCH image", lose)  # and the second attempt changes nothing
    payload = scene.gateway.ask(
        UPDATE, id=done["snapshotId"], name="nach dem Umzug \N{GRINNING FACE}", description=None
    )
    assert payload["updateSnapshot"]["errors"] == []
    operation = scene.gateway.await_operation(payload["updateSnapshot"]["operation"]["id"])
    assert (operation["state"], operation["error"]) == ("SUCCEEDED", None)
    assert scene.writes() == ["POST compute", "PATCH image", "PATCH image"]
    for _ in range(2):
        assert scene.snapshots == [("nach dem Umzug \N{GRINNING FACE}", "READY", image)]
        assert scene.instance["snapshots"]["nodes"][0]["description"] is None
        scene.refresh()
    stored = scene.cloud.images[image]
    assert (stored["name"][:15], stored["snapshot_gateway_description"]) == ("nach-dem-Umzug-", "")


def test_a_lost_request_is_repeated(scene: Scene) -> None:
    scene.cloud.on("POST compute", drop)
    assert scene.create("before")["state"] == "SUCCEEDED"
    assert (len(scene.cloud.images), scene.writes()) == (1, ["POST compute"] * 2)


@pytest.mark.parametrize(
    ("name", "code", "words", "error"),
    [
        ("forbidden", 403, "Policy doesn't allow it.", "PROVIDER_FAILED"),
        ("forbidden", 403, "Quota exceeded for resources: snapshots", "LIMIT_EXCEEDED"),
        ("conflictingRequest", 409, "while it is in vm_state error", "PROVIDER_FAILED"),
    ],
)
def test_errors_of_failed_operations(scene: Scene, name: str, code: int, words: str, error: str) -> None:
    scene.cloud.on("POST compute", refuse(*fault(name, code, words)))
    failed = scene.create("before")
    assert (failed["state"], failed["error"]["code"], failed["error"]["retryable"]) == (
        "FAILED",
        error,
        error == "LIMIT_EXCEEDED",
    )
    assert failed["error"]["providerMessage"] == words
    scene.refresh()
    assert scene.snapshots == [("before", "ERROR", None)]


def test_a_full_image_storage(scene: Scene) -> None:
    scene.cloud.steps = ABANDONED
    failed = scene.create("before")
    assert (failed["state"], failed["error"]["code"]) == ("FAILED", "PROVIDER_FAILED")
    scene.refresh()
    assert (scene.snapshots, scene.cloud.images) == ([("before", "ERROR", None)], {})


def test_a_canceled_create(scene: Scene) -> None:
    scene.cloud.steps = NEVER_ENDS
    id_ = scene.start_create("before")
    assert scene.gateway.ask(CANCEL, id=id_)["cancelOperation"]["errors"] == []
    assert scene.gateway.await_operation(id_)["state"] == "CANCELED"
    assert (scene.snapshots, scene.cloud.images) == ([], {})


def test_changes_of_other_clients(scene: Scene) -> None:
    theirs = scene.cloud.snap(scene.machine, "theirs")
    scene.refresh()
    assert scene.snapshots == [("theirs", "READY", theirs)]
    del scene.cloud.images[theirs]
    scene.refresh()
    assert scene.snapshots == []
    del scene.cloud.servers[scene.machine]
    scene.refresh()
    assert scene.instance["goneAt"] is not None


def test_a_wrong_address_of_glance_removes_no_snapshots(scene: Scene) -> None:
    scene.create("before")
    before = scene.instance
    scene.cloud.on("GET image/images", refuse(404, "<h1>404 Not Found</h1>nginx"))
    scene.refresh()
    assert scene.instance == before
