"""The ec2 driver after crashes and lost answers: what was made is found, and what was half deleted is deleted."""

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
from tests.hypervisors.ec2 import NO_DISKS, NO_IMAGES, PENDING, Answer, Form, Forward, alter, drop, lose, refuse
from tests.hypervisors.ec2_lab import Lab, ec2_lab

pytestmark = pytest.mark.thorough


class Crash(Exception):
    """The gateway is no more."""


async def crash(*_: object) -> None:
    raise Crash


@pytest.fixture
def lab() -> Iterator[Lab]:
    with ec2_lab() as made:
        yield made


def checkpointed(lab: Lab, work: Work, ref: str) -> str:
    """What a delete has checkpointed when the gateway crashes right after it."""
    told: list[str] = []

    async def checkpoint(task_ref: str) -> None:
        told.append(task_ref)
        raise Crash

    work.checkpoint = checkpoint
    with pytest.raises(Crash):
        lab.delete(ref, work)
    return told[0]


# ---- creates


def test_a_crash_before_the_call(lab: Lab) -> None:
    for _ in range(2):
        assert lab.recover() is Recovery.NOT_BEGUN
    assert lab.cloud.told == []


def test_a_crash_before_the_checkpoint(lab: Lab) -> None:
    with pytest.raises(Crash):
        lab.run(lab.driver.create(Work("token", checkpoint=crash), lab.wish()))
    lab.cloud.on("DescribeImages", PENDING, times=3)
    made = lab.recover()
    assert (made.ready, [made]) == (True, lab.snapshots())
    assert lab.recover("another") is Recovery.NOT_BEGUN


def test_a_crash_while_the_image_is_made(lab: Lab) -> None:
    lab.cloud.on("DescribeImages", PENDING, times=4)
    with pytest.raises(Crash):
        lab.run(lab.driver.create(Work("token", progress=crash), lab.wish()))
    [ref] = lab.cloud.images()
    for task_ref in (ref, None):
        made = lab.recover(task_ref=task_ref)
        assert (made.ref, made.ready) == (ref, True)
    assert lab.cloud.told == ["CreateImage"]


def test_a_lost_answer(lab: Lab) -> None:
    lab.cloud.on("CreateImage", lose)
    with pytest.raises(OutcomeUnknown):
        lab.create()
    assert [lab.recover()] == lab.snapshots()


def test_a_call_that_was_lost(lab: Lab) -> None:
    lab.cloud.on("CreateImage", drop)
    with pytest.raises(OutcomeUnknown):
        lab.create()
    assert lab.recover() is Recovery.NOT_BEGUN
    assert lab.cloud.told == ["CreateImage"]


@pytest.mark.parametrize("name", ["before", "später", "taken"])
def test_nothing_is_made_twice_because_it_does_not_show_yet(lab: Lab, name: str) -> None:
    lab.cloud.aws.create_image(InstanceId=lab.cloud.launch("other"), Name="taken")
    if name == "taken":
        lab.cloud.on("CreateImage", alter())  # the refusal is not lost
    lab.cloud.on("CreateImage", lose)
    with pytest.raises(OutcomeUnknown):
        lab.create(name)
    lab.cloud.on("DescribeImages", NO_IMAGES)
    assert lab.recover() is Recovery.NOT_BEGUN  # so it is begun again
    assert [lab.create(name)] == lab.snapshots()
    assert len(lab.cloud.images()) == 2


def test_a_name_that_is_taken_by_what_never_shows(lab: Lab) -> None:
    lab.driver.patience = 0
    lab.cloud.aws.create_image(InstanceId=lab.machine, Name="before")

    def hidden(form: Form, forward: Forward) -> Answer:
        return NO_IMAGES(form, forward) if "name" in form.values() else forward(form)  # type: ignore[return-value]

    lab.cloud.on("DescribeImages", hidden, times=1000)
    made = lab.create(token="0123456789")
    assert [image["Name"] for image in lab.cloud.aws.describe_images(ImageIds=[made.ref])["Images"]] == [
        "before-01234567"
    ]


def test_trouble_while_it_is_waited_for(lab: Lab) -> None:
    """The fate is unknown, not failed; asked again it is known, or the question is put off."""
    for fault in (
        refuse("RequestLimitExceeded", http=503),
        refuse("UnauthorizedOperation"),
        refuse("InvalidParameter"),
    ):
        lab.cloud.on("DescribeImages", fault, times=3)
        with pytest.raises(OutcomeUnknown):
            lab.create()
        lab.cloud._faults.clear()
        assert [lab.recover()] == lab.snapshots()
        lab.delete(lab.cloud.images()[0])
    ref = lab.create().ref
    for code, error in (("UnauthorizedOperation", OutcomeUnknown), ("RequestLimitExceeded", ProviderUnavailable)):
        for task_ref in (ref, None):
            lab.cloud.on("DescribeImages", refuse(code), times=3)
            with pytest.raises(error):
                lab.recover(task_ref=task_ref)
            lab.cloud._faults.clear()


def test_a_cancellation_that_was_interrupted(lab: Lab) -> None:
    lab.cloud.on("DescribeImages", PENDING, times=1)
    lab.cloud.on("DeleteSnapshot", drop)
    tasks: list[str] = []

    async def checkpoint(task_ref: str) -> None:
        tasks.append(task_ref)

    with pytest.raises(OutcomeUnknown):
        lab.run(lab.driver.create(Work("token", checkpoint=checkpoint, cancelled=lambda: True), lab.wish()))
    assert (lab.cloud.images(), len(lab.cloud.disks())) == ([], 1)
    lab.driver.patience = 0
    with pytest.raises(Canceled):
        lab.run(lab.driver.recover(Work("token", tasks[0], cancelled=lambda: True), lab.wish()))
    assert lab.cloud.disks() == []


# ---- reverts


def test_a_revert_never_begins(lab: Lab) -> None:
    wish = RevertCommand(lab.machine, lab.create().ref)
    with pytest.raises(ProviderRefused) as refused:
        lab.run(lab.driver.revert(Work("r"), wish))
    assert refused.value.provider_message == (
        "EC2 cannot take an instance back to an image; launch another instance from it"
    )
    assert lab.run(lab.driver.recover(Work("r"), wish)) is Recovery.NOT_BEGUN
    assert lab.cloud.told == ["CreateImage"]


# ---- deletes


def test_a_crash_before_an_image_is_deregistered(lab: Lab) -> None:
    ref = lab.create().ref
    task_ref = checkpointed(lab, Work("d"), ref)
    assert task_ref == " ".join([ref, *lab.cloud.disks()])
    for task in (task_ref, None):
        assert lab.recover_delete(ref, task) is Recovery.NOT_BEGUN
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
@pytest.mark.parametrize("told", [False, True])
def test_what_was_deleted_by_half(lab: Lab, action: str, fault: object, told: bool) -> None:
    ref = lab.create().ref
    task_ref = " ".join([ref, *lab.cloud.disks()]) if told else None
    lab.cloud.on(action, fault)  # type: ignore[arg-type]
    with pytest.raises(OutcomeUnknown):
        lab.delete(ref)
    assert lab.cloud.images() == []
    for _ in range(2):
        assert lab.recover_delete(ref, task_ref) is Recovery.DONE
    assert lab.cloud.disks() == []


def test_a_delete_that_comes_again_is_done_to_the_end(lab: Lab) -> None:
    ref = lab.create().ref
    lab.cloud.on("DeleteSnapshot", refuse("UnauthorizedOperation"))
    with pytest.raises(ProviderDenied, match="the image is deregistered, but the snapshot of a disk could not be"):
        lab.delete(ref)
    assert (lab.cloud.images(), len(lab.cloud.disks())) == ([], 1)
    lab.delete(ref)
    assert lab.cloud.disks() == []
    with pytest.raises(ProviderMissing):
        lab.delete(ref)


def test_a_delete_that_others_were_faster_with(lab: Lab) -> None:
    ref = lab.create().ref
    for code in ("InvalidAMIID.Unavailable", "InvalidAMIID.NotFound"):

        def faster(form: Form, forward: Forward, code: str = code) -> Answer:
            forward(form)
            return refuse(code)(form, forward)  # type: ignore[return-value]

        lab.cloud.on("DeregisterImage", faster)
        lab.delete(ref)
        assert (lab.cloud.images(), lab.cloud.disks()) == ([], [])
        ref = lab.create().ref
    lab.cloud.aws.deregister_image(ImageId=ref)
    lab.delete(ref)
    assert lab.cloud.disks() == []


@pytest.mark.parametrize("shows", [3, 1000])
def test_a_delete_is_done_when_nothing_shows_any_more(lab: Lab, shows: int) -> None:
    lab.driver.patience = 0 if shows == 1000 else 30
    ref = lab.create().ref
    before: list[Answer] = []

    def stale(form: Form, forward: Forward) -> Answer:
        before.append(before[0] if before else forward(form))
        return before[0]

    lab.cloud.on("DescribeImages", stale, times=shows)
    if shows == 3:
        lab.delete(ref)
        assert len(before) == 3
    else:
        with pytest.raises(OutcomeUnknown, match="still shows what was deleted"):
            lab.delete(ref)
    assert (lab.cloud.images(), lab.cloud.disks()) == ([], [])


def test_disks_that_are_not_the_images_alone(lab: Lab) -> None:
    ref = lab.create().ref
    [disk] = lab.cloud.disks()
    lab.cloud.on("DeleteSnapshot", refuse("InvalidSnapshot.InUse", f"{disk} is in use by {ref}"))  # not for long
    lab.delete(ref)
    assert lab.cloud.disks() == []

    ref = lab.create().ref
    lab.cloud.on("DeleteSnapshot", refuse("InvalidSnapshot.InUse", "it is in use by ami-another"))
    lab.delete(ref)
    assert (lab.cloud.images(), len(lab.cloud.disks())) == ([], 1)


def test_disks_of_others_that_an_image_has(lab: Lab) -> None:
    volume = lab.cloud.aws.create_volume(Size=1, AvailabilityZone="eu-central-1a")["VolumeId"]
    golden = lab.cloud.aws.create_snapshot(VolumeId=volume, Description="golden")["SnapshotId"]
    ref = lab.create().ref
    mapping = f"<item><deviceName>/dev/sdf</deviceName><ebs><snapshotId>{golden}</snapshotId></ebs></item>"
    lab.cloud.on("DescribeImages", alter(("</blockDeviceMapping>", f"{mapping}</blockDeviceMapping>")))
    lab.delete(ref)
    assert (lab.cloud.images(), lab.cloud.disks()) == ([], [golden])


def test_images_of_others_are_left_alone(lab: Lab) -> None:
    other = lab.cloud.launch("other")
    theirs = lab.cloud.aws.create_image(InstanceId=other, Name="theirs")["ImageId"]
    for ref in (theirs, "none", "ami-00000000"):
        with pytest.raises(ProviderMissing):
            lab.delete(ref)
    assert lab.cloud.told == []


@pytest.mark.parametrize(
    ("code", "error"), [("UnauthorizedOperation", OutcomeUnknown), ("RequestLimitExceeded", ProviderUnavailable)]
)
def test_what_became_of_a_delete_cannot_be_asked(lab: Lab, code: str, error: type[ProviderError]) -> None:
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


def test_disks_that_their_description_does_not_give_away(lab: Lab) -> None:
    """Then they are those that were checkpointed, or nobody knows of them."""

    def hidden(form: Form, forward: Forward) -> Answer:
        return NO_DISKS(form, forward) if "description" in form.values() else forward(form)  # type: ignore[return-value]

    ref = lab.create().ref
    [disk] = lab.cloud.disks()
    lab.cloud.aws.deregister_image(ImageId=ref)
    lab.cloud.on("DescribeSnapshots", hidden, times=1000)
    assert lab.recover_delete(ref) is Recovery.DONE
    assert lab.cloud.disks() == [disk]
    assert lab.recover_delete(ref, f"{ref} {disk}") is Recovery.DONE
    assert lab.cloud.disks() == []
