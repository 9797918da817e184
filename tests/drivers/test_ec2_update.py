"""Updates of snapshots by the ec2 driver: the tags of the image and of its EBS snapshots, and errors."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from gateway.drivers.base import UpdateCommand, Work
from gateway.errors import (
    OutcomeUnknown,
    ProviderDenied,
    ProviderError,
    ProviderFull,
    ProviderMissing,
    ProviderRefused,
    ProviderUnavailable,
)
from tests.hypervisors.ec2 import Fault, drop, lose, refuse
from tests.hypervisors.ec2_lab import Lab, ec2_lab

TOKEN, DESCRIPTION = "snapshot-gateway:token", "snapshot-gateway:description"


@pytest.fixture
def lab() -> Iterator[Lab]:
    with ec2_lab() as made:
        yield made


def update(lab: Lab, ref: str, **change: str) -> None:
    lab.run(lab.driver.update(Work("u"), UpdateCommand(lab.machine, ref, **change)))


def test_the_image_and_its_ebs_snapshots_are_tagged(lab: Lab) -> None:
    made = lab.create("before", description="why")
    [ebs_ref] = lab.cloud.ebs_snapshots()
    tags = {"Name": "before", TOKEN: "token", DESCRIPTION: "why"}
    [image] = lab.cloud.aws.describe_images(ImageIds=[made.ref])["Images"]
    lab.cloud.forms.clear()
    for change, changed in (
        ({"name": "nach dem Umzug ☃"}, {"Name": "nach dem Umzug ☃"}),
        ({"description": "warum → darum\n2"}, {DESCRIPTION: "warum → darum\n2"}),
        ({"description": ""}, {DESCRIPTION: ""}),
        ({"name": "x", "description": "y" * 300}, {"Name": "x", DESCRIPTION: "y" * 256}),
    ):
        tags |= changed
        for _ in range(2):
            update(lab, made.ref, **change)
            assert lab.tags("image", made.ref) == lab.tags("ebs_snapshot", ebs_ref) == tags
            assert lab.snapshots() == [replace(made, name=tags["Name"], description=tags[DESCRIPTION] or None)]
    assert lab.cloud.writes == ["CreateTags"] * 8
    [updated] = lab.cloud.aws.describe_images(ImageIds=[made.ref])["Images"]
    assert (updated["Name"], updated["Description"]) == (image["Name"], image["Description"])  # EC2's own


def test_an_image_of_another_client_gets_no_token(lab: Lab) -> None:
    theirs = lab.cloud.aws.create_image(InstanceId=lab.machine, Name="theirs", Description="by hand")["ImageId"]
    [seen] = lab.snapshots()
    update(lab, theirs, name="ours")
    assert lab.tags("image", theirs) == {"Name": "ours"}
    assert lab.snapshots() == [replace(seen, name="ours")]
    update(lab, theirs, description="")
    assert lab.snapshots() == [replace(seen, name="ours", description=None)]
    update(lab, theirs, description="why")
    assert lab.snapshots() == [replace(seen, name="ours", description="why")]
    [other] = lab.cloud.aws.describe_images(ImageIds=[theirs])["Images"]
    assert (other["Name"], other["Description"]) == ("theirs", "by hand")


def test_images_of_other_instances_and_copies_are_missing(lab: Lab) -> None:
    made = lab.create()
    other = lab.cloud.aws.create_image(InstanceId=lab.cloud.launch("other"), Name="other")["ImageId"]
    copy = lab.cloud.aws.copy_image(SourceImageId=made.ref, SourceRegion="eu-central-1", Name="copy")["ImageId"]
    lab.cloud.forms.clear()
    for ref in (other, copy, "ami-00000000", "none"):
        with pytest.raises(ProviderMissing):
            update(lab, ref, name="new")
    assert lab.cloud.writes == []


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("UnauthorizedOperation", ProviderDenied),
        ("InvalidAMIID.NotFound", ProviderMissing),
        ("TagLimitExceeded", ProviderFull),
        ("InvalidParameterValue", ProviderRefused),
        ("RequestLimitExceeded", ProviderUnavailable),
    ],
)
def test_refused_updates(lab: Lab, code: str, error: type[ProviderError]) -> None:
    made = lab.create()
    lab.cloud.on("CreateTags", refuse(code, "message of EC2"))
    with pytest.raises(ProviderError) as raised:
        update(lab, made.ref, name="new")
    assert (type(raised.value), raised.value.provider_message) == (error, f"message of EC2 ({code})")
    assert lab.snapshots() == [made]


@pytest.mark.parametrize(
    ("fault", "executed"), [(lose, True), (drop, False), (refuse("InternalError", http=500), False)]
)
def test_an_update_without_a_response_is_unknown_and_can_be_repeated(lab: Lab, fault: Fault, executed: bool) -> None:
    made = lab.create()
    lab.cloud.forms.clear()
    lab.cloud.on("CreateTags", fault)
    with pytest.raises(OutcomeUnknown):
        update(lab, made.ref, name="new")
    assert lab.cloud.writes == ["CreateTags"]
    assert lab.snapshots() == [replace(made, name="new") if executed else made]
    update(lab, made.ref, name="new")
    assert lab.snapshots() == [replace(made, name="new")]


def test_an_update_that_was_not_sent_is_unavailable(lab: Lab) -> None:
    made = lab.create()
    lab.cloud.forms.clear()
    lab.cloud.on("DescribeImages", drop, times=3)
    with pytest.raises(ProviderUnavailable):
        update(lab, made.ref, name="new")
    assert lab.cloud.writes == []
