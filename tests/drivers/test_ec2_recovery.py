"""Recovery of the ec2 driver: after crashes and lost responses it finds images and completes interrupted deletes."""

from collections.abc import Iterator

import pytest

from gateway.drivers.base import Canceled, DeleteCommand, Recovery, RevertCommand, Work
from gateway.errors import (
    OutcomeUnknown,
    ProviderDenied,
    ProviderError,
    ProviderMissing,
    ProviderRefused,
    ProviderUnavailable,
)
from tests.hypervisors.ec2 import NO_EBS_SNAPSHOTS, NO_IMAGES, PENDING, Answer, Form, Forward, alter, drop, lose, refuse
from tests.hypervisors.ec2_lab import Lab, ec2_lab

pytestmark = pytest.mark.thorough


class Crash(Exception):
    """Stands for a crash of the gateway."""


async def crash(*_: object) -> None:
    raise Crash


@pytest.fixture
def lab() -> Iterator[Lab]:
    with ec2_lab() as made:
        yield made


def checkpointed(lab: Lab, work: Work, ref: str) -> str:
    """The checkpoint of a delete after which the gateway crashes at once."""
    checkpoints: list[str] = []

    async def checkpoint(task_ref: str) -> None:
        checkpoints.append(task_ref)
        raise Crash

    work.checkpoint = checkpoint
    with pytest.raises(Crash):
        lab.delete(ref, work)
    return checkpoints[0]


# ---- creates


def test_a_crash_before_the_call(lab: Lab) -> None:
    for _ in range(2):
        assert lab.recover() is Recovery.NOT_STARTED
    assert lab.cloud.writes == []


def test_a_crash_before_the_checkpoint(lab: Lab) -> None:
    with pytest.raises(Crash):
        lab.run(lab.driver.create(Work("token", checkpoint=crash), lab.create_command()))
    lab.cloud.on("DescribeImages", PENDING, times=3)
    made = lab.recover()
    assert (made.ready, [made]) == (True, lab.snapshots())
    assert lab.recover("another") is Recovery.NOT_STARTED


def test_a_crash_while_the_image_is_created(lab: Lab) -> None:
    lab.cloud.on("DescribeImages", PENDING, times=4)
    with pytest.raises(Crash):
        lab.run(lab.driver.create(Work("token", progress=crash), lab.create_command()))
    [ref] = lab.cloud.images()
    for task_ref in (ref, None):
        made = lab.recover(task_ref=task_ref)
        assert (made.ref, made.ready) == (ref, True)
    assert lab.cloud.writes == ["CreateImage"]


def test_a_lost_response(lab: Lab) -> None:
    lab.cloud.on("CreateImage", lose)
    with pytest.raises(OutcomeUnknown):
        lab.create()
    assert [lab.recover()] == lab.snapshots()


def test_a_lost_call(lab: Lab) -> None:
    lab.cloud.on("CreateImage", drop)
    with pytest.raises(OutcomeUnknown):
        lab.create()
    assert lab.recover() is Recovery.NOT_STARTED
    assert lab.cloud.writes == ["CreateImage"]


@pytest.mark.parametrize("name", ["before", "später", "taken"])
def test_an_image_that_is_not_listed_yet_is_not_created_twice(lab: Lab, name: str) -> None:
    lab.cloud.aws.create_image(InstanceId=lab.cloud.launch("other"), Name="taken")
    if name == "taken":
        lab.cloud.on("CreateImage", alter())  # the refusal is not lost
    lab.cloud.on("CreateImage", lose)
    with pytest.raises(OutcomeUnknown):
        lab.create(name)
    lab.cloud.on("DescribeImages", NO_IMAGES)
    assert lab.recover() is Recovery.NOT_STARTED  # so `create` is called again
    assert [lab.create(name)] == lab.snapshots()
    assert len(lab.cloud.images()) == 2


def test_a_name_taken_by_an_image_that_is_never_listed(lab: Lab) -> None:
    lab.driver.visibility_timeout = 0
    lab.cloud.aws.create_image(InstanceId=lab.machine, Name="before")

    def hidden(form: Form, forward: Forward) -> Answer:
        return NO_IMAGES(form, forward) if "name" in form.values() else forward(form)  # type: ignore[return-value]

    lab.cloud.on("DescribeImages", hidden, times=1000)
    made = lab.create(token="0123456789")
    assert [image["Name"] for image in lab.cloud.aws.describe_images(ImageIds=[made.ref])["Images"]] == [
        "before-01234567"
    ]


def test_errors_while_waiting_for_an_image(lab: Lab) -> None:
    """The outcome is unknown, not failed. A later recovery finds it, or is postponed if the provider is unavailable."""
    for fault in (
        refuse("RequestLimitExceeded", http=503),
        refuse("UnauthorizedOperation"),
        refuse("InvalidParameter"),
    ):
        lab.cloud.on("DescribeImages", fault, times=3)
        with pytest.raises(OutcomeUnknown):
            lab.create()
        lab.cloud.faults.clear()
        assert [lab.recover()] == lab.snapshots()
        lab.delete(lab.cloud.images()[0])
    ref = lab.create().ref
    for code, error in (("UnauthorizedOperation", OutcomeUnknown), ("RequestLimitExceeded", ProviderUnavailable)):
        for task_ref in (ref, None):
            lab.cloud.on("DescribeImages", refuse(code), times=3)
            with pytest.raises(error):
                lab.recover(task_ref=task_ref)
            lab.cloud.faults.clear()


def test_an_interrupted_cancellation(lab: Lab) -> None:
    lab.cloud.on("DescribeImages", PENDING, times=1)
    lab.cloud.on("DeleteSnapshot", drop)
    tasks: list[str] = []

    async def checkpoint(task_ref: str) -> None:
        tasks.append(task_ref)

    with pytest.raises(OutcomeUnknown):
        lab.run(
            lab.driver.create(Work("token", checkpoint=checkpoint, cancel_requested=lambda: True), lab.create_command())
        )
    assert (lab.cloud.images(), len(lab.cloud.ebs_snapshots())) == ([], 1)
    lab.driver.visibility_timeout = 0
    with pytest.raises(Canceled):
        lab.run(lab.driver.recover(Work("token", tasks[0], cancel_requested=lambda: True), lab.create_command()))
    assert lab.cloud.ebs_snapshots() == []


# ---- reverts


def test_a_revert_is_refused(lab: Lab) -> None:
    command = RevertCommand(lab.machine, lab.create().ref)
    with pytest.raises(ProviderRefused) as refused:
        lab.run(lab.driver.revert(Work("r"), command))
    assert refused.value.provider_message == (
        "EC2 cannot revert an instance to an image. Launch another instance from the image."
    )
    assert lab.run(lab.driver.recover(Work("r"), command)) is Recovery.NOT_STARTED
    assert lab.cloud.writes == ["CreateImage"]


# ---- deletes


def test_a_crash_before_an_image_is_deregistered(lab: Lab) -> None:
    ref = lab.create().ref
    task_ref = checkpointed(lab, Work("d"), ref)
    assert task_ref == " ".join([ref, *lab.cloud.ebs_snapshots()])
    for task in (task_ref, None):
        assert lab.recover_delete(ref, task) is Recovery.NOT_STARTED
    assert [seen.ref for seen in lab.snapshots()] == [ref]


@pytest.mark.parametrize(
    ("action", "fault"),
    [
        ("DeregisterImage", lose),
        ("DeleteSnapshot", drop),
        ("DeleteSnapshot", lose),
        pytest.param("DeleteSnapshot", refuse("RequestLimitExceeded", http=503), id="throttled"),
        pytest.param("DeleteSnapshot", refuse("IncorrectState"), id="busy"),
    ],
)
@pytest.mark.parametrize("has_checkpoint", [False, True])
def test_an_interrupted_delete(lab: Lab, action: str, fault: object, has_checkpoint: bool) -> None:
    ref = lab.create().ref
    task_ref = " ".join([ref, *lab.cloud.ebs_snapshots()]) if has_checkpoint else None
    lab.cloud.on(action, fault)  # type: ignore[arg-type]
    with pytest.raises(OutcomeUnknown):
        lab.delete(ref)
    assert lab.cloud.images() == []
    for _ in range(2):
        assert lab.recover_delete(ref, task_ref) is Recovery.DONE
    assert lab.cloud.ebs_snapshots() == []


def test_a_repeated_delete_deletes_the_remaining_ebs_snapshots(lab: Lab) -> None:
    ref = lab.create().ref
    lab.cloud.on("DeleteSnapshot", refuse("UnauthorizedOperation"))
    with pytest.raises(
        ProviderDenied, match=r"The image was deregistered, but one of its EBS snapshots could not be deleted\."
    ):
        lab.delete(ref)
    assert (lab.cloud.images(), len(lab.cloud.ebs_snapshots())) == ([], 1)
    lab.delete(ref)
    assert lab.cloud.ebs_snapshots() == []
    with pytest.raises(ProviderMissing):
        lab.delete(ref)


def test_a_concurrent_delete_by_another_client(lab: Lab) -> None:
    ref = lab.create().ref
    for code in ("InvalidAMIID.Unavailable", "InvalidAMIID.NotFound"):

        def delete_first(form: Form, forward: Forward, code: str = code) -> Answer:
            forward(form)
            return refuse(code)(form, forward)  # type: ignore[return-value]

        lab.cloud.on("DeregisterImage", delete_first)
        lab.delete(ref)
        assert (lab.cloud.images(), lab.cloud.ebs_snapshots()) == ([], [])
        ref = lab.create().ref
    lab.cloud.aws.deregister_image(ImageId=ref)
    lab.delete(ref)
    assert lab.cloud.ebs_snapshots() == []


@pytest.mark.parametrize("stale_answers", [3, 1000])
def test_a_delete_ends_when_nothing_is_listed(lab: Lab, stale_answers: int) -> None:
    lab.driver.visibility_timeout = 0 if stale_answers == 1000 else 30
    ref = lab.create().ref
    before: list[Answer] = []

    def stale(form: Form, forward: Forward) -> Answer:
        before.append(before[0] if before else forward(form))
        return before[0]

    lab.cloud.on("DescribeImages", stale, times=stale_answers)
    if stale_answers == 3:
        lab.delete(ref)
        assert len(before) == 3
    else:
        with pytest.raises(OutcomeUnknown, match=r"EC2 still lists the deleted image or its EBS snapshots\."):
            lab.delete(ref)
    assert (lab.cloud.images(), lab.cloud.ebs_snapshots()) == ([], [])


def test_ebs_snapshots_that_another_image_uses(lab: Lab) -> None:
    ref = lab.create().ref
    [ebs_ref] = lab.cloud.ebs_snapshots()
    lab.cloud.on("DeleteSnapshot", refuse("InvalidSnapshot.InUse", f"{ebs_ref} is in use by {ref}"))  # temporarily
    lab.delete(ref)
    assert lab.cloud.ebs_snapshots() == []

    ref = lab.create().ref
    lab.cloud.on("DeleteSnapshot", refuse("InvalidSnapshot.InUse", "it is in use by ami-another"))
    lab.delete(ref)
    assert (lab.cloud.images(), len(lab.cloud.ebs_snapshots())) == ([], 1)


def test_ebs_snapshots_that_were_not_created_with_the_image(lab: Lab) -> None:
    volume = lab.cloud.aws.create_volume(Size=1, AvailabilityZone="eu-central-1a")["VolumeId"]
    golden = lab.cloud.aws.create_snapshot(VolumeId=volume, Description="golden")["SnapshotId"]
    ref = lab.create().ref
    mapping = f"<item><deviceName>/dev/sdf</deviceName><ebs><snapshotId>{golden}</snapshotId></ebs></item>"
    lab.cloud.on("DescribeImages", alter(("</blockDeviceMapping>", f"{mapping}</blockDeviceMapping>")))
    lab.delete(ref)
    assert (lab.cloud.images(), lab.cloud.ebs_snapshots()) == ([], [golden])


def test_images_of_other_instances_are_not_deleted(lab: Lab) -> None:
    other = lab.cloud.launch("other")
    theirs = lab.cloud.aws.create_image(InstanceId=other, Name="theirs")["ImageId"]
    for ref in (theirs, "none", "ami-00000000"):
        with pytest.raises(ProviderMissing):
            lab.delete(ref)
    assert lab.cloud.writes == []


@pytest.mark.parametrize(
    ("code", "error"), [("UnauthorizedOperation", OutcomeUnknown), ("RequestLimitExceeded", ProviderUnavailable)]
)
def test_errors_in_the_recovery_of_a_delete(lab: Lab, code: str, error: type[ProviderError]) -> None:
    ref = lab.create().ref
    lab.cloud.on("DescribeImages", refuse(code), times=3)
    with pytest.raises(error):
        lab.run(lab.driver.recover(Work("d"), DeleteCommand(lab.machine, ref)))
    assert lab.cloud.images() == [ref]


def test_a_protected_image(lab: Lab) -> None:
    ref = lab.create().ref
    lab.cloud.on("DeregisterImage", refuse("OperationNotPermitted", "it is protected"))
    with pytest.raises(ProviderRefused) as refused:
        lab.delete(ref)
    assert refused.value.provider_message == "it is protected (OperationNotPermitted)"
    assert [seen.ref for seen in lab.snapshots()] == [ref]


def test_ebs_snapshots_without_a_matching_description(lab: Lab) -> None:
    """Only those that were checkpointed are deleted."""

    def hidden(form: Form, forward: Forward) -> Answer:
        return NO_EBS_SNAPSHOTS(form, forward) if "description" in form.values() else forward(form)  # type: ignore[return-value]

    ref = lab.create().ref
    [ebs_ref] = lab.cloud.ebs_snapshots()
    lab.cloud.aws.deregister_image(ImageId=ref)
    lab.cloud.on("DescribeSnapshots", hidden, times=1000)
    assert lab.recover_delete(ref) is Recovery.DONE
    assert lab.cloud.ebs_snapshots() == [ebs_ref]
    assert lab.recover_delete(ref, f"{ref} {ebs_ref}") is Recovery.DONE
    assert lab.cloud.ebs_snapshots() == []
