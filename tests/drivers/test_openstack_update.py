"""Updates of snapshots by the openstack driver: the properties of the image, and errors."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

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
from tests.hypervisors.openstack_double import Fault, drop, garble, lose, refuse
from tests.hypervisors.openstack_lab import Lab, openstack_lab
from tests.hypervisors.openstack_services import page

TOKEN, DESCRIPTION = "snapshot_gateway_token", "snapshot_gateway_description"


@pytest.fixture
def lab() -> Iterator[Lab]:
    with openstack_lab() as made:
        yield made


def update(lab: Lab, ref: str, token: str = "cafe0123", **change: str) -> None:
    lab.run(lab.driver.update(Work(token), UpdateCommand(lab.machine, ref, **change)))


def test_name_and_description_are_changed_in_one_request(lab: Lab) -> None:
    made = lab.create(description="why")
    image = lab.cloud.images[made.ref]
    before = dict(image)
    lab.cloud.writes.clear()
    for _ in range(2):
        update(lab, made.ref, name='vor/"dem" Umzug: ☃', description="new\nlines")
        assert image == before | {"name": 'vor/"dem" Umzug: ☃', DESCRIPTION: "new\nlines"}
        assert lab.snapshots() == [replace(made, name='vor/"dem" Umzug: ☃', description="new\nlines")]
    assert lab.writes() == ["PATCH image images"] * 2
    update(lab, made.ref, name="before")
    assert image == before | {DESCRIPTION: "new\nlines"}
    update(lab, made.ref, description="")
    assert image == before | {DESCRIPTION: ""}
    assert lab.snapshots() == [replace(made, description=None)]


@pytest.mark.parametrize(
    ("name", "shown"),
    [("x" * 255, "x" * 255), ("smile \N{GRINNING FACE}", "smile-cafe0123"), ("two\nlines", "two-lines-cafe0123")],
)
def test_illegal_image_names_are_replaced(lab: Lab, name: str, shown: str) -> None:
    made = lab.create()
    for _ in range(2):
        update(lab, made.ref, name=name)
        assert lab.snapshots() == [replace(made, name=shown)]


def test_illegal_descriptions_are_changed(lab: Lab) -> None:
    made = lab.create()
    for description, shown in (("\N{GRINNING FACE}!", "\N{REPLACEMENT CHARACTER}!"), ("x" * 300, "x" * 255)):
        update(lab, made.ref, description=description)
        assert lab.snapshots() == [replace(made, description=shown)]


def test_an_image_of_another_client_gets_no_token(lab: Lab) -> None:
    lab.cloud.snap(lab.machine, "by hand")
    [theirs] = lab.snapshots()
    update(lab, theirs.ref, name="ours")
    assert TOKEN not in lab.cloud.images[theirs.ref]
    assert lab.snapshots() == [replace(theirs, name="ours")]
    for description in ("why", "", "why"):
        update(lab, theirs.ref, description=description)
        assert lab.cloud.images[theirs.ref][TOKEN] == lab.machine
        assert lab.snapshots() == [replace(theirs, name="ours", description=description or None)]
    child = lab.cloud.boot("child", image=theirs.ref)  # Nova copies the properties to the images of this server
    by_hand = lab.cloud.snap(child)
    assert lab.cloud.images[by_hand][DESCRIPTION] == "why"
    assert [(seen.description, seen.token) for seen in lab.snapshots(child)] == [(None, None)]


def test_the_image_of_a_server_that_runs_from_volumes() -> None:
    with openstack_lab(volumes=2) as lab:
        made = lab.create(description="why")
        volume_snapshots = [*map(dict, lab.cloud.volume_snapshots.values())]
        update(lab, made.ref, name="new", description="because")
        assert lab.snapshots() == [replace(made, name="new", description="because")]
        assert [*lab.cloud.volume_snapshots.values()] == volume_snapshots
        lab.delete(made.ref)
        assert (lab.cloud.images, lab.cloud.volume_snapshots) == ({}, {})


def test_an_image_of_another_server_is_missing(lab: Lab) -> None:
    other = lab.cloud.snap(lab.cloud.boot("other"))
    before = dict(lab.cloud.images[other])
    for ref in (other, "none"):
        with pytest.raises(ProviderMissing):
            update(lab, ref, name="new")
    assert (lab.cloud.images, lab.writes()) == ({other: before}, [])


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (page(403, "You are not permitted to modify 'name' on this image."), ProviderDenied),
        (page(404, "No image found with ID 7"), ProviderMissing),
        (page(409, "Property name does not exist."), ProviderRefused),
        (page(413, "The limit has been exceeded on the number of allowed image properties."), ProviderFull),
        ((429, "slow down"), ProviderUnavailable),
        ((500, "<h1>500</h1>"), OutcomeUnknown),
        ((503, "<h1>503</h1>"), OutcomeUnknown),
    ],
)
def test_refused_updates(lab: Lab, answer: tuple[int, Any], error: type[ProviderError]) -> None:
    made = lab.create()
    lab.cloud.on("PATCH image", refuse(*answer))
    with pytest.raises(ProviderError) as raised:
        update(lab, made.ref, name="new")
    assert type(raised.value) is error
    assert lab.snapshots() == [made]


@pytest.mark.parametrize(("fault", "executed"), [(lose, True), (garble, True), (drop, False)])
def test_an_update_without_a_response_is_unknown_and_can_be_repeated(lab: Lab, fault: Fault, executed: bool) -> None:
    made = lab.create()
    lab.cloud.writes.clear()
    lab.cloud.on("PATCH image", fault)
    with pytest.raises(OutcomeUnknown):
        update(lab, made.ref, name="new")
    assert lab.writes() == ["PATCH image images"]
    assert lab.snapshots() == [replace(made, name="new") if executed else made]
    update(lab, made.ref, name="new")
    assert lab.snapshots() == [replace(made, name="new")]


def test_an_update_that_was_not_sent_is_unavailable(lab: Lab) -> None:
    made = lab.create()
    lab.cloud.writes.clear()
    lab.cloud.on("GET image/images", drop)
    with pytest.raises(ProviderUnavailable):
        update(lab, made.ref, name="new")
    assert lab.writes() == []
    lab.cloud.expire_tokens()
    update(lab, made.ref, name="new")
    assert lab.snapshots() == [replace(made, name="new")]
