"""The openstack driver on bad days: what the cloud and the way to it can say has the class that callers act on."""

import asyncio
import socket
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.drivers.base import CreateCommand, DeleteCommand, Recovery, RevertCommand, Work
from gateway.errors import (
    OutcomeUnknown,
    ProviderBusy,
    ProviderDenied,
    ProviderError,
    ProviderFull,
    ProviderMissing,
    ProviderRefused,
    ProviderUnavailable,
)
from tests.hypervisors.openstack_double import Fault, drop, garble, lose, refuse
from tests.hypervisors.openstack_lab import Lab, openstack_lab
from tests.hypervisors.openstack_services import GIVES_UP, LEAVES_IT, fault, page

DENIED = "the provider does not accept the gateway's credentials"
UNREACHABLE = "the provider cannot be reached, or does not answer"
NONSENSE = "the provider's answer cannot be understood"
OWN = "the provider reported an error of its own"

# As Nova says it to createImage: what it means, the gateway's words, and whether anything may have been begun.
REFUSALS: list[tuple[int, Any, type[ProviderError], str, str]] = [
    (400, "badRequest", ProviderRefused, "the provider refused", "Invalid input for field/attribute name."),
    (401, "error", ProviderDenied, DENIED, "The request you have made requires authentication."),
    (403, "forbidden", ProviderDenied, "the gateway's user lacks a right on the provider", "Policy doesn't allow it."),
    (403, "forbidden", ProviderFull, "a quota of the project is reached", "Quota exceeded for resources: snapshots"),
    (413, "overLimit", ProviderFull, "a quota of the project is reached", "Quota exceeded or out of space."),
    (404, "itemNotFound", ProviderMissing, "the provider has no such machine or snapshot", "Instance could not be."),
    (406, "computeFault", ProviderRefused, "the provider refused", "Version 2.47 is not supported by the API."),
    (
        409,
        "conflictingRequest",
        ProviderBusy,
        "the provider is doing other work on this machine",
        "Cannot 'createImage' instance while it is in task_state image_uploading",
    ),
    (
        409,
        "conflictingRequest",
        ProviderRefused,
        "the provider refused",
        "Cannot 'createImage' instance while it is in vm_state error",
    ),
    (429, "overLimit", ProviderUnavailable, "the provider's service does not answer", "This request was rate-limited."),
    (500, "computeFault", OutcomeUnknown, OWN, "Unexpected API Error."),
    (503, "serviceUnavailable", OutcomeUnknown, OWN, "Service is not available."),
    (504, "gatewayTimeout", OutcomeUnknown, OWN, "The server didn't respond in time."),
]


@pytest.fixture
def lab() -> Iterator[Lab]:
    with openstack_lab() as made:
        yield made


def caught(lab: Lab, work: Coroutine[Any, Any, Any]) -> tuple[type[ProviderError], str]:
    with pytest.raises(ProviderError) as raised:
        lab.run(work)
    return type(raised.value), raised.value.message


def create(lab: Lab) -> tuple[type[ProviderError], str]:
    """What creating raises."""
    return caught(lab, lab.driver.create(Work("token"), lab.wish()))


def test_what_nova_refuses_with(lab: Lab) -> None:
    for code, name, error, message, words in REFUSALS:
        lab.cloud.on("POST compute", refuse(*fault(name, code, words)), times=2 if code == 401 else 1)
        with pytest.raises(ProviderError) as raised:
            lab.create()
        assert (type(raised.value), raised.value.message, raised.value.provider_message) == (error, message, words)
        assert lab.recover() is Recovery.NOT_BEGUN
    assert lab.cloud.images == {}
    assert len(lab.told()) == len(REFUSALS) + 1  # a token that is no longer good is renewed, and that is all


def test_what_glance_refuses_with(lab: Lab) -> None:
    made = lab.create()
    lab.cloud.images[made.ref]["protected"] = True
    words = f"403 Forbidden 403 Forbidden Image {made.ref} is protected and cannot be deleted."
    for answer, error, said in (
        (None, ProviderRefused, words),
        (page(409, "Image is in use."), ProviderRefused, "409 Conflict 409 Conflict Image is in use."),
        (page(403, "You may not."), ProviderDenied, "403 Forbidden 403 Forbidden You may not."),
        (page(404, "The resource could not be found."), ProviderUnavailable, None),
        ((503, "<h1>No server is available</h1>"), OutcomeUnknown, "No server is available"),
    ):
        lab.cloud.on("DELETE", *([refuse(*answer)] if answer else []))
        with pytest.raises(ProviderError) as raised:
            lab.delete(made.ref)
        assert type(raised.value) is error
        assert said is None or raised.value.provider_message == said
    assert lab.snapshots() == [made]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refuse(500), (ProviderUnavailable, OWN)),
        (refuse(503), (ProviderUnavailable, OWN)),
        (refuse(*page(404, "The resource could not be found.")), (ProviderUnavailable, None)),
        (refuse(404, "<h1>404 Not Found</h1>nginx"), (ProviderUnavailable, None)),
        (refuse(400), (ProviderUnavailable, "the provider did not answer the question")),
        (refuse(413, "Quota exceeded"), (ProviderUnavailable, "the provider did not answer the question")),
        (refuse(403), (ProviderDenied, "the gateway's user lacks a right on the provider")),
        (refuse(200, {}), (ProviderUnavailable, NONSENSE)),
        (refuse(200, []), (ProviderUnavailable, NONSENSE)),
        (refuse(200, {"servers": None, "images": None}), (ProviderUnavailable, NONSENSE)),
        (refuse(200, {"servers": [{}], "images": [{}]}), (ProviderUnavailable, NONSENSE)),
        (garble, (ProviderUnavailable, NONSENSE)),
        (drop, (ProviderUnavailable, UNREACHABLE)),
    ],
)
def test_an_error_is_never_an_empty_list(
    lab: Lab, answer: Fault, error: tuple[type[ProviderError], str | None]
) -> None:
    lab.cloud.snap(lab.machine)
    for start, work in (
        ("GET compute/servers", lab.driver.machines),
        ("GET compute/servers", lambda: lab.driver.machine(lab.machine)),
        ("GET image/images", lambda: lab.driver.snapshots(lab.machine)),
        ("GET image/images", lab.driver.health),
    ):
        lab.cloud.on(start, answer)
        found = caught(lab, work())
        assert found == (error[0], error[1] or found[1])
    assert len(lab.snapshots()) == 1


@pytest.mark.parametrize("missing", ["id", "created_at"])
def test_what_lacks_something_is_nonsense(lab: Lab, missing: str) -> None:
    server = dict(lab.cloud.servers[lab.machine])
    server.pop({"created_at": "created"}.get(missing, missing))
    image = dict(lab.cloud.images[lab.cloud.snap(lab.machine)])
    image.pop(missing)
    for start, answer, work in (
        ("GET compute/servers", {"servers": [server]}, lab.driver.machines),
        ("GET compute/servers", {"server": server}, lambda: lab.driver.machine(lab.machine)),
        ("GET image/images", {"images": [image]}, lambda: lab.driver.snapshots(lab.machine)),
    ):
        lab.cloud.on(start, refuse(200, answer))
        assert caught(lab, work()) == (ProviderUnavailable, NONSENSE)


def test_a_cloud_that_is_away(lab: Lab) -> None:
    with socket.socket() as bound:  # and so nobody else's, and refused
        bound.bind(("127.0.0.1", 0))
        for address in (f"http://127.0.0.1:{bound.getsockname()[1]}/v3", "http://cloud.invalid/v3"):
            driver = lab.cloud.driver(address=address)
            for work in (driver.health(), driver.machines(), driver.create(Work("t"), lab.wish())):
                assert caught(lab, work) == (ProviderUnavailable, UNREACHABLE)
            lab.run(driver.close())
    # It is asked again when it is back.
    lab.cloud.on("GET identity", drop)
    lab.cloud.on("POST identity", drop)
    assert caught(lab, lab.driver.health())[0] is ProviderUnavailable
    lab.cloud._faults.clear()
    lab.run(lab.driver.health())


def test_a_certificate_that_cannot_be_trusted(lab: Lab, tmp_path: Path) -> None:
    driver = lab.cloud.driver(address=lab.cloud.url.replace("http:", "https:"), ca_file=str(tmp_path / "none.pem"))
    words = "the provider's certificate cannot be trusted; see 'ca_file'"
    assert caught(lab, driver.health()) == (ProviderUnavailable, words)


def test_credentials(lab: Lab) -> None:
    lab.run(lab.driver.health())
    lab.cloud.forget_tokens()
    lab.run(lab.driver.health())  # a token is renewed without a word
    lab.cloud.forget_tokens()
    lab.cloud.password = "changed"
    for work in (lab.driver.health, lab.driver.machines, lambda: lab.driver.create(Work("t"), lab.wish())):
        assert caught(lab, work()) == (ProviderDenied, DENIED)
    assert (lab.told(), lab.cloud.images) == ([], {})


def test_credentials_that_expire_at_the_last_moment(lab: Lab) -> None:
    def expire(_: Any) -> tuple[int, Any]:
        lab.cloud.password = "changed"
        return fault("error", 401, "The request you have made requires authentication.")

    lab.cloud.on("POST compute", expire)
    assert create(lab) == (ProviderDenied, DENIED)
    assert (lab.told(), lab.cloud.images) == (["POST compute servers"], {})


def test_a_cloud_without_cinder() -> None:
    with openstack_lab(volumes=1) as lab:
        made = lab.create()
        lab.run(lab.driver.close())
        lab.cloud.with_volumes = False
        assert caught(lab, lab.driver.delete(Work("d"), DeleteCommand(lab.machine, made.ref))) == (
            OutcomeUnknown,
            "the provider's catalog does not name its block_storage service",
        )
        [ref] = lab.cloud.volume_snapshots
        lab.cloud.with_volumes = True
        assert lab.recover_delete(made.ref, f'["{ref}"]') is Recovery.DONE
        assert lab.cloud.volume_snapshots == {}


def test_answers_that_come_too_late() -> None:
    with openstack_lab(timeout=1.0) as lab:
        made = lab.create(Work("first"))
        for start in ("GET compute/servers/detail", "POST compute", "DELETE"):
            lab.cloud.on(start, lab.cloud.hang)

        async def all_at_once() -> list[Any]:
            calls: list[Coroutine[Any, Any, Any]] = [
                lab.driver.machines(),
                lab.driver.create(Work("t"), lab.wish()),
                lab.driver.delete(Work("t"), DeleteCommand(lab.machine, made.ref)),
            ]
            return await asyncio.gather(*calls, return_exceptions=True)

        assert [(type(error), error.message) for error in lab.run(all_at_once())] == [
            (ProviderUnavailable, UNREACHABLE),
            (OutcomeUnknown, "the provider did not answer"),
            (OutcomeUnknown, "the provider did not answer"),
        ]
        # None of it is told twice.
        assert sorted(lab.told()) == ["DELETE image images", "POST compute servers", "POST compute servers"]


def test_answers_that_are_lost_or_nonsense(lab: Lab) -> None:
    for answer, words in ((lose, "the provider did not answer"), (garble, NONSENSE)):
        lab.cloud.on("POST compute", answer)
        assert create(lab) == (OutcomeUnknown, words)
        made = lab.recover()
        assert [made] == lab.snapshots()
        lab.cloud.on("DELETE", answer)
        assert caught(lab, lab.driver.delete(Work("d"), DeleteCommand(lab.machine, made.ref))) == (
            OutcomeUnknown,
            words,
        )
        assert lab.recover_delete(made.ref) is Recovery.DONE
        assert lab.told() == ["POST compute servers", "DELETE image images"]
    lab.cloud.on("POST compute", refuse(202, {}))
    assert create(lab) == (OutcomeUnknown, NONSENSE)


def test_a_nova_that_gives_up(lab: Lab) -> None:
    """It says nowhere why: its own record of the action reads Success when the storage of images is full."""
    lab.cloud.steps = GIVES_UP
    words = "the provider gave up making the image, and has none of it; a quota or its storage may be full"
    assert create(lab) == (ProviderRefused, words)
    lab.run(lab.driver.machine(lab.machine))  # a moment later Nova has done with it
    lab.cloud.steps = LEAVES_IT
    assert create(lab) == (ProviderRefused, words)
    assert lab.cloud.images == {}


def test_while_another_image_is_made(lab: Lab) -> None:
    lab.cloud.servers[lab.machine]["OS-EXT-STS:task_state"] = "image_uploading"
    assert create(lab) == (ProviderBusy, "the provider is doing other work on this machine")
    assert lab.cloud.images == {}


def test_what_cannot_be_asked_once_it_is_begun(lab: Lab) -> None:
    """An image that is in the making may yet be made, whatever keeps the gateway from seeing it."""
    lab.cloud.on("GET image/images/", refuse(403))
    assert create(lab)[0] is OutcomeUnknown
    lab.cloud.on("GET image/images", refuse(403))
    with pytest.raises(OutcomeUnknown):
        lab.recover()
    lab.cloud.on("GET image/images", refuse(500))
    with pytest.raises(ProviderUnavailable):  # asked again later
        lab.recover()
    assert [lab.recover()] == lab.snapshots()
    assert lab.told() == ["POST compute servers"]


def test_hiccups_are_sat_out(lab: Lab) -> None:
    lab.cloud.on("GET image/images/", refuse(503), drop, garble)
    work = Work("token")

    async def checkpoint(_: str) -> None:
        lab.cloud.on("GET compute/servers/", refuse(500), drop)

    work.checkpoint = checkpoint
    made = lab.create(work)
    assert (made.ready, lab.told()) == (True, ["POST compute servers"])
    assert lab.cloud._faults == []


def test_snapshots_of_volumes_that_fail() -> None:
    with openstack_lab(volumes=2) as lab:
        lab.cloud.on("GET volume/snapshots", lambda forward: (200, {"snapshot": {"id": "x", "status": "error"}}))
        assert create(lab) == (ProviderRefused, "the provider could not make a snapshot of a volume")
        assert (lab.cloud.images, lab.cloud.volume_snapshots) == ({}, {})
        made = lab.create()
        words = "the image is deleted, but the snapshot of a volume could not be"
        lab.cloud.on("DELETE volume", refuse(*fault("badRequest", 400, "Snapshot is in use.")))
        assert caught(lab, lab.driver.delete(Work("d"), DeleteCommand(lab.machine, made.ref))) == (
            ProviderRefused,
            words,
        )
        stuck = [*lab.cloud.volume_snapshots]
        lab.cloud.on("GET volume", lambda forward: (200, {"snapshot": {"id": "x", "status": "error_deleting"}}))
        with pytest.raises(ProviderRefused, match=words):
            lab.recover_delete(made.ref, f'["{stuck[0]}"]')
        assert lab.snapshots() == []


def test_what_it_cannot_do(lab: Lab) -> None:
    made = lab.create()
    for work, words in (
        (
            lab.driver.create(Work("m"), CreateCommand(lab.machine, "n", None, True)),
            "OpenStack's images do not hold the memory of an Instance",
        ),
        (
            lab.driver.revert(Work("r"), RevertCommand(lab.machine, made.ref)),
            "OpenStack cannot revert an Instance: make a new one from the snapshot's image",
        ),
    ):
        assert caught(lab, work) == (ProviderRefused, words)
    assert lab.run(lab.driver.recover(Work("r"), RevertCommand(lab.machine, made.ref))) is Recovery.NOT_BEGUN
    theirs = lab.cloud.snap(lab.cloud.boot())
    assert caught(lab, lab.driver.delete(Work("d"), DeleteCommand(lab.machine, theirs)))[0] is ProviderMissing
    assert len(lab.cloud.images) == 2
