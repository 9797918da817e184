"""The ec2 driver where all goes well, or slowly: what it reports, what it makes and leaves, and what it finds again."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from gateway.drivers.base import Canceled, Recovery, Work
from gateway.errors import OutcomeUnknown, ProviderError, ProviderFull, ProviderMissing, ProviderRefused
from gateway.models import MachineKind, PowerState
from tests.hypervisors.ec2 import NO_IMAGES, PENDING, alter, refuse
from tests.hypervisors.ec2_lab import Lab, ec2_lab


def failed(code: str, words: str) -> str:
    """What stands where an image was available."""
    return f"failed</imageState><stateReason><code>{code}</code><message>{words}</message></stateReason>"


@pytest.fixture
def lab() -> Iterator[Lab]:
    with ec2_lab() as made:
        yield made


# ---- machines


def test_what_is_said_of_instances(lab: Lab) -> None:
    [seen] = lab.run(lab.driver.machines())
    assert seen.created_at is not None
    assert abs(datetime.now(UTC) - seen.created_at) < timedelta(hours=1)
    assert (seen.ref, seen.kind, seen.name, seen.power_state) == (
        lab.machine,
        MachineKind.INSTANCE,
        "web",
        PowerState.ON,
    )
    assert (seen.flavor, seen.availability_zone, seen.host, seen.obstacle) == ("t3.micro", "eu-central-1a", None, None)
    lab.cloud.aws.delete_tags(Resources=[lab.machine], Tags=[{"Key": "Name"}])
    assert lab.run(lab.driver.machine(lab.machine)).name == lab.machine


@pytest.mark.parametrize(
    ("state", "power"),
    [
        ("pending", PowerState.UNKNOWN),
        ("running", PowerState.ON),
        ("stopping", PowerState.UNKNOWN),
        ("stopped", PowerState.OFF),
        ("shutting-down", PowerState.UNKNOWN),
    ],
)
def test_power_states(lab: Lab, state: str, power: PowerState) -> None:
    lab.cloud.on("DescribeInstances", alter(("<name>running</name>", f"<name>{state}</name>")), times=2)
    assert lab.run(lab.driver.machine(lab.machine)).power_state is power
    if power is PowerState.UNKNOWN:
        with pytest.raises(ProviderRefused) as refused:
            lab.create()
        assert refused.value.provider_message == (
            "the instance is starting or stopping; wait until it runs or is stopped"
        )
        assert lab.cloud.told == []


def test_a_hibernated_instance_is_suspended(lab: Lab) -> None:
    lab.cloud.aws.stop_instances(InstanceIds=[lab.machine])
    asleep = alter(("<code>Client.UserInitiatedShutdown<", "<code>Client.UserInitiatedHibernate<"))
    lab.cloud.on("DescribeInstances", asleep)
    assert lab.run(lab.driver.machine(lab.machine)).power_state is PowerState.SUSPENDED
    assert lab.run(lab.driver.machine(lab.machine)).power_state is PowerState.OFF


def test_an_instance_store_is_an_obstacle(lab: Lab) -> None:
    store = alter(("<rootDeviceType>ebs<", "<rootDeviceType>instance-store<"))
    lab.cloud.on("DescribeInstances", store, times=2)
    obstacle = "its root disk is an instance store, which EC2 makes no image of"
    assert lab.run(lab.driver.machine(lab.machine)).obstacle == obstacle
    with pytest.raises(ProviderRefused) as refused:
        lab.create()
    assert refused.value.provider_message == obstacle


def test_terminated_instances_are_gone(lab: Lab) -> None:
    lab.create()
    lab.cloud.aws.terminate_instances(InstanceIds=[lab.machine])
    assert lab.run(lab.driver.machines()) == []
    for call in (lab.driver.machine(lab.machine), lab.driver.snapshots(lab.machine)):
        with pytest.raises(ProviderMissing):
            lab.run(call)
    assert len(lab.cloud.images()) == 1


def test_every_page_is_read(lab: Lab) -> None:
    refs = {lab.machine, *(lab.cloud.launch() for _ in range(2))}
    lab.cloud.on("DescribeInstances", lambda form, forward: forward({**form, "MaxResults": "1"}), times=3)
    assert {seen.ref for seen in lab.run(lab.driver.machines())} == refs
    assert [form.get("NextToken") is None for form in lab.cloud.forms] == [True, False, False]


# ---- snapshots


def test_what_is_left_on_the_cloud(lab: Lab) -> None:
    made = lab.create("Vor dem Umzug", description="warum → darum")
    [image] = lab.cloud.aws.describe_images(Owners=["self"])["Images"]
    assert (image["ImageId"], image["Name"], image["Description"]) == (made.ref, "Vor dem Umzug", "warum ? darum")
    tags = {
        "Name": "Vor dem Umzug",
        "snapshot-gateway:token": "token",
        "snapshot-gateway:description": "warum → darum",
    }
    [disk] = lab.cloud.disks()
    assert (lab.tags("image", made.ref), lab.tags("disk", disk)) == (tags, tags)
    [form] = [form for form in lab.cloud.forms if form["Action"] == "CreateImage"]
    assert form["NoReboot"] == "true"
    assert (made.description, made.memory, made.ready, made.size_bytes) == ("warum → darum", False, True, None)
    assert made.created_at.tzinfo is UTC
    lab.delete(made.ref)
    assert (lab.cloud.images(), lab.cloud.disks()) == ([], [])
    assert lab.cloud.told == ["CreateImage", "DeregisterImage", "DeleteSnapshot"]


def test_names_that_images_cannot_have(lab: Lab) -> None:
    names = ["ab", "x" * 129, "später", "a,b", "v1.0 (old) [x] it's/a-b_c@d"]
    for number, name in enumerate(names):
        assert lab.create(name, token=f"{number}0123456789").name == name
    images = {image["Name"] for image in lab.cloud.aws.describe_images(Owners=["self"])["Images"]}
    assert images == {"ab-00123456", f"{'x' * 119}-10123456", "sp-ter-20123456", "a-b-30123456", names[4]}


def test_a_name_that_somebody_else_has(lab: Lab) -> None:
    other = lab.cloud.launch("other")
    lab.cloud.aws.create_image(InstanceId=other, Name="before")
    made = lab.create("before", token="0123456789")
    [image] = lab.cloud.aws.describe_images(ImageIds=[made.ref])["Images"]
    assert (made.name, image["Name"]) == ("before", "before-01234567")
    assert lab.snapshots() == [made]


def test_what_cannot_be_said_in_tags_is_cut(lab: Lab) -> None:
    assert lab.create(description="x" * 300).description == "x" * 256


def test_sizes_are_what_the_disks_hold(lab: Lab) -> None:
    lab.create()
    sized = alter(("<volumeSize>", "<fullSnapshotSizeInBytes>12345</fullSnapshotSizeInBytes><volumeSize>"))
    lab.cloud.on("DescribeSnapshots", sized)
    assert [seen.size_bytes for seen in lab.snapshots()] == [12345]


def test_what_others_do_is_seen(lab: Lab) -> None:
    theirs = lab.cloud.aws.create_image(InstanceId=lab.machine, Name="theirs", Description="by hand")["ImageId"]
    copy = lab.cloud.aws.copy_image(SourceImageId=theirs, SourceRegion="eu-central-1", Name="copy")["ImageId"]
    [seen] = lab.snapshots()
    assert (seen.ref, seen.name, seen.description, seen.token, seen.ready) == (theirs, "theirs", "by hand", None, True)
    lab.cloud.on("DescribeImages", PENDING)
    assert [(seen.ref, seen.ready) for seen in lab.snapshots()] == [(theirs, False)]
    lab.cloud.on("DescribeImages", alter(("available</imageState>", failed("Server.InternalError", "no"))))
    assert lab.snapshots() == []
    lab.delete(theirs)
    assert (lab.snapshots(), lab.cloud.images()) == ([], [copy])


def test_a_copy_is_not_taken_for_what_was_copied(lab: Lab) -> None:
    made = lab.create()
    copy = lab.cloud.aws.copy_image(SourceImageId=made.ref, SourceRegion="eu-central-1", Name="copy")["ImageId"]
    lab.cloud.aws.create_tags(Resources=[copy], Tags=[{"Key": "snapshot-gateway:token", "Value": "token"}])
    assert lab.snapshots() == [made]
    lab.delete(made.ref)
    assert lab.recover() is Recovery.NOT_BEGUN
    with pytest.raises(ProviderMissing):
        lab.delete(copy)
    assert lab.cloud.images() == [copy]


# ---- work that takes its time


def test_progress_is_that_of_the_disks(lab: Lab) -> None:
    lab.cloud.on("DescribeImages", PENDING, times=3)
    for percent in ("", "40%", "100%"):
        lab.cloud.on("DescribeSnapshots", alter(("<progress>100%<", f"<progress>{percent}<")))
    told = []

    async def progress(percent: int | None, phase: str | None) -> None:
        told.append((percent, phase))

    made = lab.run(lab.driver.create(Work("token", progress=progress), lab.wish()))
    assert made.ready
    assert told == [(None, "Copying the disks"), (40, "Copying the disks"), (99, "Copying the disks")]


def test_an_image_that_does_not_show_at_once(lab: Lab) -> None:
    lab.cloud.on("DescribeImages", NO_IMAGES, times=3)
    assert lab.create().ref == lab.cloud.images()[0]


def test_an_image_that_never_shows(lab: Lab) -> None:
    lab.driver.patience = 0
    lab.cloud.on("DescribeImages", NO_IMAGES, times=1000)
    with pytest.raises(OutcomeUnknown, match="does not show the image that it has begun to make"):
        lab.create()
    with pytest.raises(OutcomeUnknown):
        lab.recover(task_ref=lab.cloud.images()[0])


@pytest.mark.parametrize(
    ("code", "error"), [("Client.SnapshotLimitExceeded", ProviderFull), ("Server.InternalError", ProviderRefused)]
)
def test_an_image_that_fails_is_cleared_away(lab: Lab, code: str, error: type[ProviderError]) -> None:
    lab.cloud.on("DescribeImages", PENDING)
    lab.cloud.on("DescribeImages", alter(("available</imageState>", failed(code, "it went wrong"))))
    with pytest.raises(error) as refused:
        lab.create()
    assert refused.value.provider_message == f"it went wrong ({code.rpartition('.')[2]})"
    assert (lab.cloud.images(), lab.cloud.disks(), lab.recover()) == ([], [], Recovery.NOT_BEGUN)


@pytest.mark.parametrize("refused", [False, True])
def test_cancellation(lab: Lab, refused: bool) -> None:
    lab.cloud.on("DescribeImages", PENDING, times=2)
    work = Work("token", cancelled=lambda: True)
    if refused:
        lab.cloud.on("DeregisterImage", refuse("InvalidRequest"))
        made = lab.run(lab.driver.create(work, lab.wish()))
        assert lab.snapshots() == [made]
        return
    with pytest.raises(Canceled):
        lab.run(lab.driver.create(work, lab.wish()))
    assert (lab.cloud.images(), lab.cloud.disks()) == ([], [])
