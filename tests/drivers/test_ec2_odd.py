"""The ec2 driver on a cloud whose data is odd: each oddity costs its own field, and the record states it."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from gateway.drivers.base import UNKNOWN_TIME, CreateCommand, ReportedMachine, ReportedSnapshot, Work
from gateway.errors import ProviderUnavailable
from gateway.models import PowerState
from tests.hypervisors.ec2 import Form, Forward, alter, respond
from tests.hypervisors.ec2_lab import Lab, ec2_lab

LONG = "x" * 2**20
Change = Callable[[str], str]


@pytest.fixture
def lab() -> Iterator[Lab]:
    with ec2_lab() as made:
        yield made


def after(item: str, change: Change) -> Callable[[Form, Forward], tuple[int, str]]:
    """A fault that changes the XML of the response after the last occurrence of a text."""

    def fault(form: Form, forward: Forward) -> tuple[int, str]:
        http, body = forward(form)
        assert item in body, body
        head, _, tail = body.rpartition(item)
        changed = change(tail)
        assert changed != tail, body
        return http, head + item + changed

    return fault


def text(old: str, new: str) -> Change:
    return lambda xml: xml.replace(old, new, 1)


MACHINES: list[tuple[str, Change, dict[str, object], str]] = [
    ("a launch time that is no time", text("<launchTime>", "<launchTime>yesterday"), {}, ""),
    (
        "an attach time in milliseconds",
        lambda xml: between(xml, "<attachment><attachTime>", "1700000000000"),
        {"created_at": None},
        "The creation time '1700000000000' is not a time of ISO 8601.",
    ),
    (
        "an attach time without an offset",
        lambda xml: between(xml, "<attachment><attachTime>", "2026-01-02T03:04:05"),
        {"created_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)},
        "",
    ),
    (
        "an attach time in the year 1",
        lambda xml: between(xml, "<attachment><attachTime>", "0001-01-01T00:00:00Z"),
        {"created_at": None},
        "The creation time 0001-01-01T00:00:00+00:00 is out of range.",
    ),
    (
        "no state",
        text("<name>running</name>", ""),
        {"power_state": PowerState.UNKNOWN},
        "The power state is missing or malformed.",
    ),
    ("a state code that is no number", text("<code>16</code>", "<code>on</code>"), {"power_state": PowerState.ON}, ""),
    (
        "a name of 1 MB",
        text("<value>odd</value>", f"<value>{LONG}</value>"),
        {"name": LONG[:1_024]},
        "The name was changed, because it is too long or contains invalid characters.",
    ),
    ("a name with a control character", text("<value>odd<", "<value>o&#1;d<"), {"name": "o\ufffdd"}, ""),
    ("a name tag without a value", text("<value>odd</value>", ""), {"name": None}, ""),
    (
        "two types",
        text("<instanceType>", "<instanceType>a</instanceType><instanceType>"),
        {"flavor": None},
        "The flavor is not text: list.",
    ),
]


def between(xml: str, start: str, value: str) -> str:
    """The XML with another text in the first element that starts with `start`."""
    head, _, tail = xml.partition(start)
    return f"{head}{start}{value}<{tail.partition('<')[2]}"


@pytest.mark.parametrize(
    ("change", "fields", "problem"), [row[1:] for row in MACHINES], ids=[row[0] for row in MACHINES]
)
def test_an_odd_instance(lab: Lab, change: Change, fields: dict[str, object], problem: str) -> None:
    odd = lab.cloud.launch("odd")
    [neighbor, usual] = lab.run(lab.driver.machines())
    lab.cloud.on("DescribeInstances", after("<instancesSet>", change))
    expected = {name: odd if name == "name" and value is None else value for name, value in fields.items()}
    [same, found] = lab.run(lab.driver.machines())
    assert same == neighbor
    assert values(found) == values(usual) | expected | {"problem": problem or None}


def values(record: ReportedMachine | ReportedSnapshot) -> dict[str, object]:
    return {name: getattr(record, name) for name in record.__slots__}


def test_instances_that_cannot_be_identified(lab: Lab) -> None:
    """They may be any, so they are listed, without a ref."""
    odd = lab.cloud.launch("odd")
    lab.cloud.on("DescribeInstances", alter((f"<instanceId>{odd}</instanceId>", "")))
    [usual, unknown] = lab.run(lab.driver.machines())
    assert (usual.ref, unknown.ref, unknown.unreadable) == (
        lab.machine,
        "",
        "The provider's identifier None is not valid.",
    )
    lab.cloud.on("DescribeInstances", alter(("<instancesSet>", "<instances>"), ("</instancesSet>", "</instances>")))
    assert [seen.ref for seen in lab.run(lab.driver.machines())] == ["", ""]
    body = "<DescribeInstancesResponse><reservationSet><item/></reservationSet></DescribeInstancesResponse>"
    lab.cloud.on("DescribeInstances", respond(body))
    assert [seen.ref for seen in lab.run(lab.driver.machines())] == [""]


def test_odd_images(lab: Lab) -> None:
    usual, odd = lab.create("usual", "t1"), lab.create("odd", "t2")
    changes: list[tuple[Change, dict[str, object], str]] = [
        (
            lambda xml: xml.replace("<creationDate>", "<creation>").replace("</creationDate>", "</creation>"),
            {"created_at": UNKNOWN_TIME},
            "The creation time is missing.",
        ),
        (
            lambda xml: between(xml, "<creationDate>", "2026-01-02T03:04:05"),
            {"created_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)},
            "",
        ),
        (
            lambda xml: between(xml, "<creationDate>", "1700000000000"),
            {"created_at": UNKNOWN_TIME},
            "The creation time '1700000000000' is not a time of ISO 8601.",
        ),
        (text("<imageState>available</imageState>", ""), {}, "The state is missing or malformed."),
        (text("<snapshotId>", "<snapshot/><snapshotId>a</snapshotId><snapshotId>"), {"size_bytes": None}, ""),
    ]
    for change, fields, problem in changes:
        lab.cloud.on("DescribeImages", after(f"<imageId>{odd.ref}</imageId>", change))
        found = {seen.ref: seen for seen in lab.snapshots()}
        assert found[usual.ref] == usual
        assert values(found[odd.ref]) == values(odd) | fields | {"problem": problem or None}


def test_an_image_without_a_name(lab: Lab) -> None:
    ref = lab.cloud.aws.create_image(InstanceId=lab.machine, Name="by hand")["ImageId"]
    lab.cloud.on("DescribeImages", alter(("<name>by hand</name>", "")))
    [seen] = lab.snapshots()
    assert (seen.ref, seen.name, seen.problem) == (ref, ref, None)


def test_an_image_without_an_id_may_be_any(lab: Lab) -> None:
    made = lab.create()
    without_id = alter((f"<imageId>{made.ref}</imageId>", ""))
    lab.cloud.on("DescribeImages", without_id)
    listing = lab.run(lab.driver.snapshots(lab.machine))
    reason = "A snapshot was left out. The provider's identifier None is not valid."
    assert ([*listing.snapshots], [*listing.omitted]) == ([], [reason])
    for call in (lambda: lab.delete(made.ref), lab.recover):
        lab.cloud.on("DescribeImages", without_id)
        with pytest.raises(ProviderUnavailable, match=reason):
            call()
    assert lab.cloud.images() == [made.ref]


@pytest.mark.parametrize(
    ("progress", "percent"),
    [("99.5%", 99), ("", None), ("n/a", None), ("50", 50), ("120%", 99), ("1e999%", None), ("-5%", 0)],
)
def test_odd_progress(lab: Lab, progress: str, percent: int | None) -> None:
    """An image is created although the progress of its EBS snapshots is odd."""
    reported: list[int | None] = []
    work = Work("t", progress=lambda done, _: _append(reported, done))
    pending = alter(("available</imageState>", "pending</imageState>"))
    lab.cloud.on("DescribeImages", pending)
    lab.cloud.on("DescribeSnapshots", after("<snapshotSet>", lambda xml: between(xml, "<progress>", progress)))
    made = lab.run(lab.driver.create(work, CreateCommand(lab.machine, "before", None, False)))
    assert (reported, made.ready) == ([percent], True)


async def _append(reported: list[int | None], done: int | None) -> None:
    reported.append(done)


def test_an_image_whose_state_is_unknown_is_not_complete(lab: Lab) -> None:
    lab.cloud.on("DescribeImages", alter(("<imageState>available</imageState>", "")), times=3)
    made = lab.create()
    assert made.ready
    assert lab.cloud.faults == []
