"""The openstack driver without faults: servers, images, volume snapshots, options."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.drivers.base import Canceled, CreateCommand, Recovery, ReportedMachine, ReportedSnapshot, Work
from gateway.drivers.openstack.driver import Options, make
from gateway.drivers.options import Secret, read_options
from gateway.errors import ProviderDenied, ProviderMissing
from gateway.models import MachineKind, PowerState
from tests.hypervisors.openstack_lab import Lab, openstack_lab
from tests.hypervisors.openstack_services import PASSWORD


@pytest.fixture
def lab() -> Iterator[Lab]:
    with openstack_lab() as made:
        yield made


# ---- reading


def test_attributes_of_a_machine(lab: Lab) -> None:
    lab.cloud.servers[lab.machine] |= {"OS-EXT-SRV-ATTR:host": "node-7", "description": "the shop"}
    assert lab.run(lab.driver.machine(lab.machine)) == ReportedMachine(
        ref=lab.machine,
        kind=MachineKind.INSTANCE,
        name="machine",
        power_state=PowerState.ON,
        description="the shop",
        host="node-7",
        flavor="small",
        availability_zone="nova",
        created_at=datetime(2026, 11, 25, 6, 0, 0, tzinfo=UTC),
    )


def test_power_states(lab: Lab) -> None:
    states = {"active": "ON", "stopped": "OFF", "suspended": "SUSPENDED", "paused": "SUSPENDED", "building": "UNKNOWN"}
    for state in states:
        lab.cloud.boot(state, state)
    seen = {machine.name: machine.power_state.value for machine in lab.run(lab.driver.machines())}
    assert seen == states | {"machine": "ON"}


def test_a_deleted_server_is_not_reported(lab: Lab) -> None:
    """Nova lists soft-deleted servers for some time, so that they can be restored."""
    lab.cloud.servers[lab.machine]["status"] = "SOFT_DELETED"
    assert lab.run(lab.driver.machines()) == []
    with pytest.raises(ProviderMissing):
        lab.run(lab.driver.machine(lab.machine))


def test_all_pages_are_read(lab: Lab) -> None:
    """A page has 500 servers or images."""
    servers = [lab.machine, *(lab.cloud.boot(str(place)) for place in range(1_000))]
    images = [lab.cloud.snap(lab.machine, str(place)) for place in range(1_001)]
    lab.cloud.snap(servers[1])
    assert [machine.ref for machine in lab.run(lab.driver.machines())] == servers
    assert [snapshot.ref for snapshot in lab.snapshots()] == images


def test_images_of_other_clients(lab: Lab) -> None:
    ref = lab.cloud.snap(lab.machine, "by hand")
    assert lab.snapshots() == [
        ReportedSnapshot(
            ref=ref, name="by hand", created_at=datetime(2026, 11, 25, 6, 0, 1, tzinfo=UTC), size_bytes=393_216
        )
    ]
    for status, ready in (("queued", False), ("saving", False), ("active", True), ("deactivated", True)):
        lab.cloud.images[ref]["status"] = status
        assert [snapshot.ready for snapshot in lab.snapshots()] == [ready]
    for status in ("killed", "deleted", "pending_delete"):
        lab.cloud.images[ref]["status"] = status
        assert lab.snapshots() == []


def test_a_glance_without_filters(lab: Lab) -> None:
    ref = lab.cloud.snap(lab.machine)
    lab.cloud.snap(lab.cloud.boot())
    lab.cloud.on("GET image/images", lambda forward: (200, {"images": [*lab.cloud.images.values()]}))
    assert [snapshot.ref for snapshot in lab.snapshots()] == [ref]


# ---- creating


def test_properties_and_progress_of_a_new_image(lab: Lab) -> None:
    reports: list[Any] = []

    async def report(*arguments: Any) -> None:
        reports.append(arguments)

    work = Work("token", checkpoint=report, progress=report)
    made = lab.create(work, name='vor/"dem" Umzug: ☃ <&> 100 %', description="why\nnot ☃")
    image = lab.cloud.images[made.ref]
    assert (image["name"], image["instance_uuid"], image["image_type"]) == (made.name, lab.machine, "snapshot")
    assert image["snapshot_gateway_token"] == f"{lab.machine} token"
    assert made == ReportedSnapshot(
        ref=made.ref,
        name='vor/"dem" Umzug: ☃ <&> 100 %',
        created_at=datetime(2026, 11, 25, 6, 0, 1, tzinfo=UTC),
        description="why\nnot ☃",
        size_bytes=393_216,
        token="token",
    )
    # OpenStack reports no percentage. The checkpoint precedes the first poll.
    assert reports == [
        (made.ref,),
        (None, "Taking the snapshot"),
        (None, "Preparing the upload"),
        (None, "Uploading the image"),
        (None, "Uploading the image"),
    ]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("x" * 255, "x" * 255),
        ("smile \N{GRINNING FACE}", "smile-cafe"),
        ("two\nlines", "two-lines-cafe"),
        ("-n", "-n"),
    ],
)
def test_illegal_image_names_are_replaced(lab: Lab, name: str, shown: str) -> None:
    assert lab.create(Work("cafe"), name=name).name == shown


def test_illegal_descriptions_are_changed(lab: Lab) -> None:
    assert lab.create(Work("a"), description="\N{GRINNING FACE}!").description == "\N{REPLACEMENT CHARACTER}!"
    assert lab.create(Work("b"), description="x" * 300).description == "x" * 255


def test_inherited_properties_are_ignored(lab: Lab) -> None:
    """Nova copies the properties of the image that a server was created from to the images of the server."""
    first = lab.create(description="the first")
    child = lab.cloud.boot("child", image=first.ref)
    by_hand = lab.cloud.snap(child)
    assert lab.cloud.images[by_hand]["snapshot_gateway_description"] == "the first"
    assert [(seen.ref, seen.token, seen.description) for seen in lab.snapshots(child)] == [(by_hand, None, None)]
    command = CreateCommand(child, "ours", None, False)
    made = lab.run(lab.driver.create(Work("other"), command))
    assert (made.token, made.description) == ("other", None)
    # Recovery still finds the operation's own image.
    assert lab.recover("token") == first
    assert lab.run(lab.driver.recover(Work("other"), command)) == made
    lab.delete(first.ref)
    assert lab.recover("token") is Recovery.NOT_STARTED


def test_stopped_and_suspended_servers_can_be_snapshotted(lab: Lab) -> None:
    for state in ("stopped", "suspended", "paused"):
        command = CreateCommand(lab.cloud.boot(state, state), "n", None, False)
        assert lab.run(lab.driver.create(Work(state), command)).ready


# ---- servers that run from volumes


def test_volume_snapshots_are_awaited_and_deleted() -> None:
    with openstack_lab(volumes=2) as lab:
        made = lab.create(description="why")
        assert (made.name, made.description, made.size_bytes, made.token) == ("before", "why", None, "token")
        assert [row["status"] for row in lab.cloud.volume_snapshots.values()] == ["available"] * 2
        assert lab.snapshots() == [made]
        assert lab.writes() == ["POST compute servers"]
        lab.delete(made.ref)
        assert (lab.cloud.images, lab.cloud.volume_snapshots) == ({}, {})
        assert lab.writes() == ["DELETE image images", "DELETE volume snapshots", "DELETE volume snapshots"]


def test_images_of_servers_created_from_a_snapshot_are_not_snapshots_of_its_machine() -> None:
    """If a server runs from volumes, Nova does not set the server's id in the image, and the inherited id is wrong."""
    with openstack_lab(volumes=1) as lab:
        made = lab.create()
        child = lab.cloud.boot("child", volumes=1, image=made.ref)
        by_hand = lab.cloud.images[lab.cloud.snap(child)]
        assert (by_hand["instance_uuid"], by_hand["size"]) == (lab.machine, 0)
        assert (lab.snapshots(), lab.snapshots(child)) == ([made], [])
        assert lab.recover() == made
        ours = lab.run(lab.driver.create(Work("other"), CreateCommand(child, "ours", None, False)))
        assert (lab.snapshots(), lab.snapshots(child)) == ([made], [ours])


def test_inherited_volume_snapshots_are_not_deleted() -> None:
    """An image that contains data may name volume snapshots, if its server was created from an image with them."""
    with openstack_lab() as lab:
        base = lab.cloud.snap(lab.cloud.boot(volumes=1))
        lab.machine = lab.cloud.boot(image=base)
        named = lab.cloud.images[base]["block_device_mapping"]
        lab.cloud.servers[lab.machine]["double:inherited"]["block_device_mapping"] = named
        made = lab.create()
        assert lab.cloud.images[made.ref]["block_device_mapping"] == named
        lab.delete(made.ref)
        with pytest.raises(Canceled):
            lab.create(Work("token", cancel_requested=lambda: True))
        assert [*lab.cloud.images] == [base]
        assert len(lab.cloud.volume_snapshots) == 1
        assert not any("volume" in line for line in lab.cloud.writes)


# ---- configuration


def reveal(_: str, value: Any) -> Secret:
    return Secret(value)


USER = {"user": "u", "password": "p", "project": "q"}
CREDENTIAL = {"application_credential_id": "i", "application_credential_secret": "s"}
ADDRESS = {"address": "https://cloud.example:5000/v3"}
EITHER = (
    "Set either the options 'user', 'password' and 'project', or 'application_credential_id' and"
    " 'application_credential_secret'."
)


@pytest.mark.parametrize(
    ("table", "faults"),
    [
        (ADDRESS | USER, []),
        (ADDRESS | CREDENTIAL, []),
        ({"cloud": "ours"}, []),
        ({"cloud": "ours", "clouds_file": "clouds.yaml", "region": "R"}, []),
        ({}, ["Option 'address' must start with https:// or http://, not None."]),
        ({"address": "cloud"} | USER, ["Option 'address' must start with https:// or http://, not 'cloud'."]),
        (ADDRESS, [EITHER]),
        (ADDRESS | USER | CREDENTIAL, [EITHER]),
        (ADDRESS | USER | {"application_credential_id": "i"}, [EITHER]),
        (ADDRESS | {"user": "u", "password": "p"}, [EITHER]),
        ({"cloud": "ours"} | ADDRESS, ["Option 'cloud' cannot be combined with an address or credentials."]),
        (ADDRESS | USER | {"clouds_file": "f"}, ["Option 'clouds_file' requires the option 'cloud'."]),
        (ADDRESS | USER | {"timeout": 0}, ["Option 'timeout' must be greater than 0, not 0."]),
        (ADDRESS | USER | {"usr": "u"}, ["The driver has no option 'usr'."]),
    ],
)
def test_options(table: dict[str, Any], faults: list[str]) -> None:
    options, found = read_options(Options, table, reveal)
    assert found == faults
    assert (options is None) == bool(faults)
    assert "Secret('" not in repr(options)


def test_an_application_credential(lab: Lab) -> None:
    secret = Secret(PASSWORD)
    login = {"user": None, "password": None, "project": None}
    driver = lab.cloud.driver(application_credential_id="i", application_credential_secret=secret, **login)
    assert [machine.ref for machine in lab.run(driver.machines())] == [lab.machine]
    lab.run(driver.close())


def test_a_cloud_of_clouds_yaml(lab: Lab, tmp_path: Path) -> None:
    login = {"auth_url": f"{lab.cloud.url}/identity/v3", "username": "gateway", "password": PASSWORD}
    login |= {"project_name": "ours", "user_domain_name": "Default", "project_domain_name": "Default"}
    # The driver ignores the cache, because it must see changes at once.
    kept = {"compute.servers": 3600, "compute.servers.detail": 3600}
    cache = {"class": "dogpile.cache.memory", "expiration_time": 3600, "expiration": kept}
    text = {"clouds": {"ours": {"auth": login}}, "cache": cache}
    file = tmp_path / "clouds.yaml"
    file.write_text(json.dumps(text))
    driver = make("cloud", Options(cloud="ours", clouds_file=str(file)), 4)
    for name in ("one", "two"):
        lab.cloud.servers[lab.machine]["name"] = name
        assert [machine.name for machine in lab.run(driver.machines())] == [name]
    lab.run(driver.close())
    broken = tmp_path / "broken.yaml"
    broken.write_text("clouds: {")
    for cloud, path, words in (
        ("theirs", file, "Cloud theirs was not found."),
        ("ours", tmp_path / "none.yaml", "Cloud ours was not found."),
        ("ours", broken, "Cloud ours was not found."),
    ):
        driver = make("cloud", Options(cloud=cloud, clouds_file=str(path)), 4)
        with pytest.raises(ProviderDenied) as raised:
            lab.run(driver.health())
        assert raised.value.message == "The configuration of the cloud is invalid."
        assert raised.value.provider_message == words
