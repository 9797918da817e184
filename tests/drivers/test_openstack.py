"""The openstack driver on good days: what it reads of servers and images, and what it has made of them."""

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


def test_a_machine(lab: Lab) -> None:
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


def test_a_deleted_server_is_no_machine(lab: Lab) -> None:
    """Nova shows those for a while where deletes can be taken back."""
    lab.cloud.servers[lab.machine]["status"] = "SOFT_DELETED"
    assert lab.run(lab.driver.machines()) == []
    with pytest.raises(ProviderMissing):
        lab.run(lab.driver.machine(lab.machine))


def test_lists_longer_than_a_page(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.drivers.openstack.driver._PAGE", 2)
    servers = [lab.machine, *(lab.cloud.boot(str(place)) for place in range(4))]
    images = [lab.cloud.snap(lab.machine, str(place)) for place in range(5)]
    lab.cloud.snap(servers[1])
    assert [machine.ref for machine in lab.run(lab.driver.machines())] == servers
    assert [snapshot.ref for snapshot in lab.snapshots()] == images


def test_what_others_make_and_delete_is_seen(lab: Lab) -> None:
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


def test_a_glance_that_does_not_filter(lab: Lab) -> None:
    ref = lab.cloud.snap(lab.machine)
    lab.cloud.snap(lab.cloud.boot())
    lab.cloud.on("GET image/images", lambda forward: (200, {"images": [*lab.cloud.images.values()]}))
    assert [snapshot.ref for snapshot in lab.snapshots()] == [ref]


# ---- making


def test_what_is_made_is_marked(lab: Lab) -> None:
    told: list[Any] = []

    async def tell(*what: Any) -> None:
        told.append(what)

    work = Work("token", checkpoint=tell, progress=tell)
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
    # No percentage, because nobody knows one; and the checkpoint before anything was waited for.
    assert told == [
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
def test_names_that_nova_does_not_take(lab: Lab, name: str, shown: str) -> None:
    assert lab.create(Work("cafe"), name=name).name == shown


def test_descriptions_that_nova_does_not_take(lab: Lab) -> None:
    assert lab.create(Work("a"), description="\N{GRINNING FACE}!").description == "\N{REPLACEMENT CHARACTER}!"
    assert lab.create(Work("b"), description="x" * 300).description == "x" * 255


def test_what_is_inherited_is_not_believed(lab: Lab) -> None:
    """Nova gives the image of a server the properties of the image that the server was made from."""
    first = lab.create(description="the first")
    child = lab.cloud.boot("child", image=first.ref)
    by_hand = lab.cloud.snap(child)
    assert lab.cloud.images[by_hand]["snapshot_gateway_description"] == "the first"
    assert [(seen.ref, seen.token, seen.description) for seen in lab.snapshots(child)] == [(by_hand, None, None)]
    wish = CreateCommand(child, "ours", None, False)
    made = lab.run(lab.driver.create(Work("other"), wish))
    assert (made.token, made.description) == ("other", None)
    # And an operation's own is found all the same.
    assert lab.recover("token") == first
    assert lab.run(lab.driver.recover(Work("other"), wish)) == made
    lab.delete(first.ref)
    assert lab.recover("token") is Recovery.NOT_BEGUN


def test_servers_that_are_stopped_or_suspended(lab: Lab) -> None:
    for state in ("stopped", "suspended", "paused"):
        wish = CreateCommand(lab.cloud.boot(state, state), "n", None, False)
        assert lab.run(lab.driver.create(Work(state), wish)).ready


# ---- servers that run from volumes


def test_the_snapshots_of_volumes_are_waited_for_and_deleted() -> None:
    with openstack_lab(volumes=2) as lab:
        made = lab.create(description="why")
        assert (made.name, made.description, made.size_bytes, made.token) == ("before", "why", None, "token")
        assert [row["status"] for row in lab.cloud.volume_snapshots.values()] == ["available"] * 2
        assert lab.snapshots() == [made]
        assert lab.told() == ["POST compute servers"]
        lab.delete(made.ref)
        assert (lab.cloud.images, lab.cloud.volume_snapshots) == ({}, {})
        assert lab.told() == ["DELETE image images", "DELETE volume snapshots", "DELETE volume snapshots"]


def test_images_of_servers_that_were_made_from_one_are_not_taken_for_it() -> None:
    """Where a server runs from volumes Nova does not say whose an image is, and what is inherited says it wrongly."""
    with openstack_lab(volumes=1) as lab:
        made = lab.create()
        child = lab.cloud.boot("child", volumes=1, image=made.ref)
        by_hand = lab.cloud.images[lab.cloud.snap(child)]
        assert (by_hand["instance_uuid"], by_hand["size"]) == (lab.machine, 0)
        assert (lab.snapshots(), lab.snapshots(child)) == ([made], [])
        assert lab.recover() == made
        ours = lab.run(lab.driver.create(Work("other"), CreateCommand(child, "ours", None, False)))
        assert (lab.snapshots(), lab.snapshots(child)) == ([made], [ours])


def test_snapshots_of_volumes_that_an_image_has_inherited_are_left_alone() -> None:
    """An image with bytes may name some in its properties; then its server was made from an image that did."""
    with openstack_lab() as lab:
        base = lab.cloud.snap(lab.cloud.boot(volumes=1))
        lab.machine = lab.cloud.boot(image=base)
        named = lab.cloud.images[base]["block_device_mapping"]
        lab.cloud.servers[lab.machine]["double:inherited"]["block_device_mapping"] = named
        made = lab.create()
        assert lab.cloud.images[made.ref]["block_device_mapping"] == named
        lab.delete(made.ref)
        with pytest.raises(Canceled):
            lab.create(Work("token", cancelled=lambda: True))
        assert [*lab.cloud.images] == [base]
        assert len(lab.cloud.volume_snapshots) == 1
        assert not any("volume" in line for line in lab.cloud.told)


# ---- configuration


def reveal(_: str, value: Any) -> Secret:
    return Secret(value)


PERSON = {"user": "u", "password": "p", "project": "q"}
CREDENTIAL = {"application_credential_id": "i", "application_credential_secret": "s"}
PLACE = {"address": "https://cloud.example:5000/v3"}
EITHER = (
    "needs either 'user', 'password' and 'project', or 'application_credential_id' and 'application_credential_secret'"
)


@pytest.mark.parametrize(
    ("table", "faults"),
    [
        (PLACE | PERSON, []),
        (PLACE | CREDENTIAL, []),
        ({"cloud": "ours"}, []),
        ({"cloud": "ours", "clouds_file": "clouds.yaml", "region": "R"}, []),
        ({}, ["has 'address' None, which must begin with https:// or http://"]),
        ({"address": "cloud"} | PERSON, ["has 'address' 'cloud', which must begin with https:// or http://"]),
        (PLACE, [EITHER]),
        (PLACE | PERSON | CREDENTIAL, [EITHER]),
        (PLACE | PERSON | {"application_credential_id": "i"}, [EITHER]),
        (PLACE | {"user": "u", "password": "p"}, [EITHER]),
        ({"cloud": "ours"} | PLACE, ["has 'cloud', and so needs neither an address nor credentials"]),
        (PLACE | PERSON | {"clouds_file": "f"}, ["has 'clouds_file', and so needs 'cloud'"]),
        (PLACE | PERSON | {"timeout": 0}, ["has 'timeout' 0, which must be more than 0"]),
        (PLACE | PERSON | {"usr": "u"}, ["has an option 'usr' that its driver does not know"]),
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
    # A cache is of no use to somebody who waits for changes.
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
        assert raised.value.message == "the configuration of the cloud makes no sense"
        assert raised.value.provider_message == words
