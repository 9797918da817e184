"""The ec2 driver without faults: machines, snapshots, progress, eventual consistency, cancellation."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from gateway.drivers.base import Canceled, Recovery, Work
from gateway.errors import OutcomeUnknown, ProviderError, ProviderFull, ProviderMissing, ProviderRefused
from gateway.models import MachineKind, PowerState
from tests.hypervisors.ec2 import NO_IMAGES, PENDING, alter, refuse
from tests.hypervisors.ec2_lab import Lab, ec2_lab


def failed(code: str, words: str) -> str:
    """The XML of a failed image, in place of `available</imageState>`."""
    return f"failed</imageState><stateReason><code>{code}</code><message>{words}</message></stateReason>"


@pytest.fixture
def lab() -> Iterator[Lab]:
    with ec2_lab() as made:
        yield made


# ---- machines


def test_attributes_of_instances(lab: Lab) -> None:
    [seen] = lab.run(lab.driver.machines())
    assert seen.created_at is not None
    assert abs(datetime.now(UTC) - seen.created_at) < timedelta(hours=1)
    assert (seen.ref, seen.kind, seen.name, seen.power_state) == (
        lab.machine,
        MachineKind.INSTANCE,
        "web",
        PowerState.ON,
    )
    assert (seen.flavor, seen.availability_zone, seen.host, seen.snapshot_blocker) == (
        "t3.micro",
        "eu-central-1a",
        None,
        None,
    )
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
            "The instance is starting or stopping. Wait until it is running or stopped."
        )
        assert lab.cloud.writes == []


def test_a_hibernated_instance_is_suspended(lab: Lab) -> None:
    lab.cloud.aws.stop_instances(InstanceIds=[lab.machine])
    hibernated = alter(("<code>Client.UserInitiatedShutdown<", "<code>Client.UserInitiatedHibernate<"))
    lab.cloud.on("DescribeInstances", hibernated)
    assert lab.run(lab.driver.machine(lab.machine)).power_state is PowerState.SUSPENDED
    assert lab.run(lab.driver.machine(lab.machine)).power_state is PowerState.OFF


def test_an_instance_store_blocks_snapshots(lab: Lab) -> None:
    store = alter(("<rootDeviceType>ebs<", "<rootDeviceType>instance-store<"))
    lab.cloud.on("DescribeInstances", store, times=2)
    snapshot_blocker = "The root disk is an instance store, of which EC2 cannot create an image."
    assert lab.run(lab.driver.machine(lab.machine)).snapshot_blocker == snapshot_blocker
    with pytest.raises(ProviderRefused) as refused:
        lab.create()
    assert refused.value.provider_message == snapshot_blocker


def test_terminated_instances_are_not_reported(lab: Lab) -> None:
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


def test_stored_image_and_tags(lab: Lab) -> None:
    made = lab.create("Vor dem Umzug", description="warum → darum")
    [image] = lab.cloud.aws.describe_images(Owners=["self"])["Images"]
    assert (image["ImageId"], image["Name"], image["Description"]) == (made.ref, "Vor dem Umzug", "warum ? darum")
    tags = {
        "Name": "Vor dem Umzug",
        "snapshot-gateway:token": "token",
        "snapshot-gateway:description": "warum → darum",
    }
    [ebs_ref] = lab.cloud.ebs_snapshots()
    assert (lab.tags("image", made.ref), lab.tags("ebs_snapshot", ebs_ref)) == (tags, tags)
    [form] = [form for form in lab.cloud.forms if form["Action"] == "CreateImage"]
    assert form["NoReboot"] == "true"
    assert (made.description, made.memory, made.ready, made.size_bytes) == ("warum → darum", False, True, None)
    assert made.created_at.tzinfo is UTC
    lab.delete(made.ref)
    assert (lab.cloud.images(), lab.cloud.ebs_snapshots()) == ([], [])
    assert lab.cloud.writes == ["CreateImage", "DeregisterImage", "DeleteSnapshot"]


def test_illegal_image_names_are_replaced(lab: Lab) -> None:
    names = ["ab", "x" * 129, "später", "a,b", "v1.0 (old) [x] it's/a-b_c@d"]
    for number, name in enumerate(names):
        assert lab.create(name, token=f"{number}0123456789").name == name
    images = {image["Name"] for image in lab.cloud.aws.describe_images(Owners=["self"])["Images"]}
    assert images == {"ab-00123456", f"{'x' * 119}-10123456", "sp-ter-20123456", "a-b-30123456", names[4]}


def test_a_name_taken_by_another_image(lab: Lab) -> None:
    other = lab.cloud.launch("other")
    lab.cloud.aws.create_image(InstanceId=other, Name="before")
    made = lab.create("before", token="0123456789")
    [image] = lab.cloud.aws.describe_images(ImageIds=[made.ref])["Images"]
    assert (made.name, image["Name"]) == ("before", "before-01234567")
    assert lab.snapshots() == [made]


def test_a_long_description_is_truncated(lab: Lab) -> None:
    assert lab.create(description="x" * 300).description == "x" * 256


def test_size_is_the_sum_of_the_ebs_snapshots(lab: Lab) -> None:
    lab.create()
    sized = alter(("<volumeSize>", "<fullSnapshotSizeInBytes>12345</fullSnapshotSizeInBytes><volumeSize>"))
    lab.cloud.on("DescribeSnapshots", sized)
    assert [seen.size_bytes for seen in lab.snapshots()] == [12345]


def test_images_of_other_clients(lab: Lab) -> None:
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


def test_a_copy_of_an_image_is_not_a_snapshot(lab: Lab) -> None:
    made = lab.create()
    copy = lab.cloud.aws.copy_image(SourceImageId=made.ref, SourceRegion="eu-central-1", Name="copy")["ImageId"]
    lab.cloud.aws.create_tags(Resources=[copy], Tags=[{"Key": "snapshot-gateway:token", "Value": "token"}])
    assert lab.snapshots() == [made]
    lab.delete(made.ref)
    assert lab.recover() is Recovery.NOT_STARTED
    with pytest.raises(ProviderMissing):
        lab.delete(copy)
    assert lab.cloud.images() == [copy]


# ---- long operations


def test_progress_is_the_mean_of_the_ebs_snapshots(lab: Lab) -> None:
    lab.cloud.on("DescribeImages", PENDING, times=3)
    for percent in ("", "40%", "100%"):
        lab.cloud.on("DescribeSnapshots", alter(("<progress>100%<", f"<progress>{percent}<")))
    reported = []

    async def progress(percent: int | None, phase: str | None) -> None:
        reported.append((percent, phase))

    made = lab.run(lab.driver.create(Work("token", progress=progress), lab.create_command()))
    assert made.ready
    assert reported == [(None, "Copying the disks"), (40, "Copying the disks"), (99, "Copying the disks")]


def test_an_image_that_is_listed_late(lab: Lab) -> None:
    lab.cloud.on("DescribeImages", NO_IMAGES, times=3)
    assert lab.create().ref == lab.cloud.images()[0]


def test_an_image_that_is_never_listed(lab: Lab) -> None:
    lab.driver.visibility_timeout = 0
    lab.cloud.on("DescribeImages", NO_IMAGES, times=1000)
    with pytest.raises(OutcomeUnknown, match=r"EC2 accepted the creation of the image, but does not list the image\."):
        lab.create()
    with pytest.raises(OutcomeUnknown):
        lab.recover(task_ref=lab.cloud.images()[0])


@pytest.mark.parametrize(
    ("code", "error"), [("Client.SnapshotLimitExceeded", ProviderFull), ("Server.InternalError", ProviderRefused)]
)
def test_a_failed_image_is_deleted(lab: Lab, code: str, error: type[ProviderError]) -> None:
    lab.cloud.on("DescribeImages", PENDING)
    lab.cloud.on("DescribeImages", alter(("available</imageState>", failed(code, "it went wrong"))))
    with pytest.raises(error) as refused:
        lab.create()
    assert refused.value.provider_message == f"it went wrong ({code.rpartition('.')[2]})"
    assert (lab.cloud.images(), lab.cloud.ebs_snapshots(), lab.recover()) == ([], [], Recovery.NOT_STARTED)


@pytest.mark.parametrize("refused", [False, True])
def test_cancellation(lab: Lab, refused: bool) -> None:
    lab.cloud.on("DescribeImages", PENDING, times=2)
    work = Work("token", cancel_requested=lambda: True)
    if refused:
        lab.cloud.on("DeregisterImage", refuse("InvalidRequest"))
        made = lab.run(lab.driver.create(work, lab.create_command()))
        assert lab.snapshots() == [made]
        return
    with pytest.raises(Canceled):
        lab.run(lab.driver.create(work, lab.create_command()))
    assert (lab.cloud.images(), lab.cloud.ebs_snapshots()) == ([], [])
