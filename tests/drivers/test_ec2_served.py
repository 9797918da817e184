"""The ec2 driver behind a served gateway: configuration from a file, snapshots, errors, changes of other clients."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.config import Settings
from tests.databases import Databases
from tests.hypervisors.ec2 import Cloud, cloud, lose, refuse
from tests.serving import Served, served

pytestmark = pytest.mark.thorough

CREATE = """mutation ($id: ID!, $name: String!, $memory: Boolean! = false) {
  createSnapshot(input: {machineId: $id, name: $name, memory: $memory}) { operation { id } errors { code message } }
}"""
DELETE = """mutation ($id: ID!) {
  deleteSnapshots(input: {ids: [$id]}) { results { operation { id } errors { code message } } }
}"""
REVERT = "mutation ($id: ID!) { revertVmSnapshot(input: {snapshotId: $id}) { errors { code message } } }"
UPDATE = """mutation ($id: ID!, $name: String, $description: String) {
  updateSnapshot(input: {snapshotId: $id, name: $name, description: $description}) {
    operation { id } errors { code message }
  }
}"""
REFRESH = "mutation ($id: ID!) { refreshMachine(input: {machineId: $id}) { operation { id } } }"
INSTANCES = """{ instances { nodes {
  id name powerState provider providerRef flavor snapshots { nodes { id name state providerRef } }
} } }"""


@dataclass
class Scene:
    """A served gateway that has imported a cloud with one instance."""

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

    def create(self, name: str) -> dict[str, Any]:
        """The operation after it has ended."""
        payload = self.gateway.ask(CREATE, id=self.instance["id"], name=name)["createSnapshot"]
        assert payload["errors"] == []
        return self.gateway.await_operation(payload["operation"]["id"])

    def delete(self, snapshot_id: str) -> dict[str, Any]:
        """The operation after it has ended."""
        [result] = self.gateway.ask(DELETE, id=snapshot_id)["deleteSnapshots"]["results"]
        assert result["errors"] == []
        return self.gateway.await_operation(result["operation"]["id"])

    def refresh(self) -> None:
        """Refreshes the machine with the mutation."""
        payload = self.gateway.ask(REFRESH, id=self.instance["id"])["refreshMachine"]
        assert self.gateway.await_operation(payload["operation"]["id"])["state"] == "SUCCEEDED"


@pytest.fixture
def scene(databases: Databases, tmp_path: Path) -> Iterator[Scene]:
    with cloud() as made:
        machine = made.launch()
        (tmp_path / "secret").write_text("secret\n")
        file = tmp_path / "providers.toml"
        file.write_text(
            f'[aws]\ndriver = "ec2"\nregion = "eu-central-1"\naddress = "{made.address}"\naccess_key_id = "key"\n'
            f'secret_access_key = {{file = "{tmp_path}/secret"}}\n'
        )
        with served(Settings(database_url=databases.new("sqlite"), providers_file=str(file))) as gateway:
            gateway.run(gateway.gateway.jobs.stop())  # only explicit refreshes run
            gateway.run(gateway.gateway.inventory.refresh_provider("aws"))
            yield Scene(made, gateway, machine)


def test_a_snapshot_of_an_instance(scene: Scene) -> None:
    instance = scene.instance
    assert {key: instance[key] for key in ("name", "powerState", "provider", "providerRef", "flavor")} == {
        "name": "web",
        "powerState": "ON",
        "provider": "aws",
        "providerRef": scene.machine,
        "flavor": "t3.micro",
    }
    done = scene.create("vor dem Umzug: 100 %")
    assert (done["state"], done["error"]) == ("SUCCEEDED", None)
    [image] = scene.cloud.images()
    assert scene.snapshots == [("vor dem Umzug: 100 %", "READY", image)]

    [error] = scene.gateway.ask(REVERT, id=done["snapshotId"])["revertVmSnapshot"]["errors"]
    assert error["code"] == "UNSUPPORTED"
    [error] = scene.gateway.ask(CREATE, id=instance["id"], name="m", memory=True)["createSnapshot"]["errors"]
    assert error == {"code": "UNSUPPORTED", "message": "EC2 does not save the memory of instances."}
    scene.refresh()
    assert scene.snapshots == [("vor dem Umzug: 100 %", "READY", image)]

    assert scene.delete(done["snapshotId"])["state"] == "SUCCEEDED"
    assert (scene.snapshots, scene.cloud.images(), scene.cloud.ebs_snapshots()) == ([], [], [])
    assert scene.cloud.writes == ["CreateImage", "DeregisterImage", "DeleteSnapshot"]


def test_lost_responses(scene: Scene) -> None:
    scene.cloud.on("CreateImage", lose)
    done = scene.create("before")
    assert done["state"] == "SUCCEEDED"
    assert scene.snapshots == [("before", "READY", scene.cloud.images()[0])]
    scene.cloud.on("DeregisterImage", lose)
    assert scene.delete(done["snapshotId"])["state"] == "SUCCEEDED"
    assert (scene.snapshots, scene.cloud.images(), scene.cloud.ebs_snapshots()) == ([], [], [])
    assert scene.cloud.writes == ["CreateImage", "DeregisterImage", "DeleteSnapshot"]


def test_an_update(scene: Scene) -> None:
    done = scene.create("before")
    [image] = scene.cloud.images()
    scene.cloud.on("CreateTags", lose)  # and the second attempt changes nothing
    payload = scene.gateway.ask(UPDATE, id=done["snapshotId"], name="nach dem Umzug", description="why")
    assert payload["updateSnapshot"]["errors"] == []
    operation = scene.gateway.await_operation(payload["updateSnapshot"]["operation"]["id"])
    assert (operation["state"], operation["error"]) == ("SUCCEEDED", None)
    assert scene.cloud.writes == ["CreateImage", "CreateTags", "CreateTags"]
    for _ in range(2):
        assert scene.snapshots == [("nach dem Umzug", "READY", image)]
        scene.refresh()
    [listed] = scene.cloud.aws.describe_images(Owners=["self"])["Images"]
    tags = {tag["Key"]: tag["Value"] for tag in listed["Tags"]}
    assert (tags["Name"], tags["snapshot-gateway:description"]) == ("nach dem Umzug", "why")


@pytest.mark.parametrize(
    ("code", "error"), [("UnauthorizedOperation", "PROVIDER_FAILED"), ("SnapshotLimitExceeded", "LIMIT_EXCEEDED")]
)
def test_errors_of_failed_operations(scene: Scene, code: str, error: str) -> None:
    scene.cloud.on("CreateImage", refuse(code, "you may not"))
    failed = scene.create("before")
    assert (failed["state"], failed["error"]["code"], failed["error"]["retryable"]) == (
        "FAILED",
        error,
        error == "LIMIT_EXCEEDED",
    )
    assert failed["error"]["providerMessage"] == f"you may not ({code})"
    scene.refresh()
    assert scene.snapshots == [("before", "ERROR", None)]


def test_changes_of_other_clients(scene: Scene) -> None:
    theirs = scene.cloud.aws.create_image(InstanceId=scene.machine, Name="theirs")["ImageId"]
    scene.refresh()
    assert scene.snapshots == [("theirs", "READY", theirs)]
    scene.cloud.aws.deregister_image(ImageId=theirs)
    scene.refresh()
    assert scene.snapshots == []
