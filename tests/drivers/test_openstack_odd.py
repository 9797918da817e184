"""The openstack driver on a cloud whose data is odd: each oddity costs its own field, and the record states it."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.drivers.base import UNKNOWN_TIME, DeleteCommand, Recovery, Work
from gateway.errors import ProviderError, ProviderUnavailable
from gateway.models import PowerState
from tests.hypervisors.openstack_double import Fault, Forward, refuse
from tests.hypervisors.openstack_lab import Lab, openstack_lab

LONG = "x" * 2**20
NO_TIME = "is not a time of ISO 8601."
CHANGED = "was changed, because it is too long or contains invalid characters."


@pytest.fixture
def lab() -> Iterator[Lab]:
    with openstack_lab() as made:
        yield made


def raw(answer: Any, old: str, new: str) -> Fault:
    """A response whose JSON has a text that is replaced."""
    text = json.dumps(answer)
    assert old in text
    return lambda forward: (200, text.replace(old, new))


def values(record: object) -> dict[str, Any]:
    return {name: getattr(record, name) for name in type(record).__slots__}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "fields", "problem"),
    [
        ({"created": 1_700_000_000_000}, {"created_at": None}, "The creation time is not text: 1700000000000."),
        ({"created": "2026-13-01"}, {"created_at": None}, f"The creation time '2026-13-01' {NO_TIME}"),
        ({"created": None}, {"created_at": None}, "The creation time is missing."),
        ({"created": "2026-01-02T03:04:05"}, {"created_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)}, None),
        ({"created": "9999-12-31T23:59:59-14:00"}, {"created_at": None}, "The creation time is missing or malformed."),
        ({"name": {"a": [1]}}, {"name": None}, "The name is not text: dict."),
        ({"name": 7}, {"name": "7"}, None),
        ({"name": None}, {"name": ""}, None),
        ({"name": LONG}, {"name": LONG[:1_024]}, f"The name {CHANGED}"),
        ({"name": "a\0\ud800b"}, {"name": "a\ufffd\ufffdb"}, f"The name {CHANGED}"),
        ({"OS-EXT-STS:power_state": {"a": 1}}, {"power_state": PowerState.UNKNOWN}, "The power state is malformed."),
        ({"OS-EXT-STS:power_state": None}, {"power_state": PowerState.UNKNOWN}, None),
        ({"OS-EXT-STS:power_state": 99}, {"power_state": PowerState.UNKNOWN}, None),
        ({"status": ["ACTIVE"]}, {}, None),
        ({"flavor": "small"}, {"flavor": None}, "The flavor is missing or malformed."),
        ({"flavor": None, "description": 7}, {"flavor": None, "description": "7"}, None),
        ({"description": ["a"]}, {"description": None}, "The description is not text: list."),
    ],
    ids=str,
)  # fmt: skip
def test_an_odd_server(lab: Lab, change: dict[str, Any], fields: dict[str, Any], problem: str | None) -> None:
    ref = lab.cloud.boot("odd")
    [neighbor, usual] = lab.run(lab.driver.machines())
    lab.cloud.servers[ref] |= change
    expected = values(usual) | {
        name: ref if value is None and name == "name" else value for name, value in fields.items()
    }
    [same, found] = lab.run(lab.driver.machines())
    assert same == neighbor
    assert values(found) == expected | {"problem": problem}
    assert lab.run(lab.driver.machine(ref)) == found


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"odd"', '"o\\ud800d"'),
        ('"odd"', '"o\x01d"'),
        ('"odd"', f"{'[' * 5_000}{']' * 5_000}"),
        ('"odd"', "NaN"),
        ('"odd"', "7" * 100_000),
    ],
    ids=["half a surrogate", "a control character", "deep", "NaN", "a number of 100,000 digits"],
)
def test_json_that_is_not_strict_costs_no_other_server(lab: Lab, old: str, new: str) -> None:
    lab.cloud.boot("odd")
    usual = lab.run(lab.driver.machines())
    lab.cloud.on("GET compute/servers/detail", raw({"servers": [*lab.cloud.servers.values()]}, old, new))
    [same, found] = lab.run(lab.driver.machines())
    assert same == usual[0]
    assert found.ref == usual[1].ref


def test_servers_that_cannot_be_identified(lab: Lab) -> None:
    """They may be any, so they are listed, without a ref, and the next page is still read."""
    usual = lab.cloud.servers[lab.machine]
    unidentified: list[Any] = [{}, [], 7, None, usual | {"id": 7}, usual | {"id": ""}]
    for odd in unidentified:
        lab.cloud.on("GET compute/servers/detail", refuse(200, {"servers": [usual, odd], "servers_links": [1]}))
        lab.cloud.on("GET compute/servers/detail", refuse(200, {"servers": [usual | {"id": "next"}]}))
        found = lab.run(lab.driver.machines())
        assert [(seen.ref, seen.unreadable is None) for seen in found] == [
            (lab.machine, True),
            ("", False),
            ("next", True),
        ]


@pytest.mark.parametrize(
    ("change", "fields", "problem"),
    [
        ({"created_at": None}, {"created_at": UNKNOWN_TIME}, "The creation time is missing."),
        ({"created_at": 1.5}, {"created_at": UNKNOWN_TIME}, "The creation time is not text: 1.5."),
        ({"created_at": "2026-01-02T03:04:05"}, {"created_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)}, None),
        ({"name": None}, {"name": ""}, None),
        ({"name": ["a"]}, {"name": None}, "The name is not text: list."),
        ({"size": "1 GB"}, {"size_bytes": None}, "The size is not a number of bytes: '1 GB'."),
        ({"size": -1}, {"size_bytes": None}, "The size is not a number of bytes: -1."),
        ({"status": ["active"]}, {"ready": True}, "The state is missing or malformed."),
        ({"status": "importing"}, {"ready": False}, None),
        (
            {"size": 0, "block_device_mapping": "{"},
            {"size_bytes": None},
            "The list of the volume snapshots that it consists of is malformed.",
        ),
    ],
    ids=str,
)
def test_an_odd_image(lab: Lab, change: dict[str, Any], fields: dict[str, Any], problem: str | None) -> None:
    lab.cloud.snap(lab.machine)
    ref = lab.cloud.snap(lab.machine)
    before = {seen.ref: seen for seen in lab.snapshots()}
    images = [image | change if image["id"] == ref else image for image in lab.cloud.images.values()]
    lab.cloud.on("GET image/images", refuse(200, {"images": images}))
    after = {seen.ref: seen for seen in lab.snapshots()}
    expected = values(before[ref]) | {
        name: ref if value is None and name == "name" else value for name, value in fields.items()
    }
    assert values(after.pop(ref)) == expected | {"problem": problem}
    assert before | after == before
    assert len(after) == 1


def test_an_image_without_an_id_may_be_any(lab: Lab) -> None:
    made = lab.create()
    reason = "A snapshot was left out. The provider's identifier None is not valid."
    for odd in ({}, 7, None, lab.cloud.images[made.ref] | {"id": None}):
        lab.cloud.on("GET image/images", refuse(200, {"images": [odd]}))
        listing = lab.run(lab.driver.snapshots(lab.machine))
        assert ([*listing.snapshots], [*listing.omitted]) == ([], [reason])
        lab.cloud.on("GET image/images", refuse(200, {"images": [odd]}))
        with pytest.raises(ProviderUnavailable, match=reason):
            lab.recover()
    assert lab.recover() == made


def test_an_image_whose_parts_are_unknown_is_not_deleted(lab: Lab) -> None:
    """Its volume snapshots would remain."""
    made = lab.create()
    lab.cloud.images[made.ref] |= {"size": 0, "block_device_mapping": "[7]"}
    with pytest.raises(ProviderUnavailable):
        lab.run(lab.driver.delete(Work("d"), DeleteCommand(lab.machine, made.ref)))
    assert [*lab.cloud.images] == [made.ref]


def test_an_image_whose_status_is_unknown_is_neither_complete_nor_failed(lab: Lab) -> None:
    def odd(forward: Forward) -> Any:
        code, image = forward()
        return code, image | {"status": None}

    lab.cloud.on("GET image/images/", odd, times=3)
    made = lab.create()
    assert [made] == lab.snapshots()
    assert lab.cloud.faults == []


@pytest.mark.parametrize(
    "body", ["<" * 50_000, "x" * 10_000_000, '{"a": ' * 5_000, '["message"]', '{"a": {"message": [7]}}']
)
def test_odd_errors_are_read_in_linear_time(lab: Lab, body: str) -> None:
    lab.cloud.on("GET compute/servers/detail", refuse(500, body))
    with pytest.raises(ProviderError) as error:
        lab.run(lab.driver.machines())
    assert len(error.value.provider_message or "") <= 500


def test_a_create_survives_odd_answers(lab: Lab) -> None:
    """Half a surrogate in the name of the image, which another client has changed."""
    lab.cloud.on("GET image/images/", raw(lab.cloud.images.get("", {"id": "x", "status": "queued"}), "x", "\\ud800"))
    made = lab.create()
    assert [made] == lab.snapshots()
    assert lab.recover() == made
    assert lab.recover_delete(made.ref) is Recovery.NOT_STARTED
