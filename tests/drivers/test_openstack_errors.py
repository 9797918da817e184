"""Errors of the openstack driver: classification of errors and connection failures, failed images, retried polls."""

import asyncio
import socket
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.drivers.base import (
    CreateCommand,
    DeleteCommand,
    Recovery,
    RevertCommand,
    Work,
)
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
from tests.hypervisors.openstack_services import ABANDONED, LEFT_QUEUED, fault, page

DENIED = "The provider does not accept the gateway's credentials."
UNREACHABLE = "The provider cannot be reached or does not answer."
MALFORMED = "The provider's response is malformed."
INTERNAL = "The provider reported an internal error."

# Nova's responses to createImage: status, name, the driver's error and message, and Nova's message.
REFUSALS: list[tuple[int, Any, type[ProviderError], str, str]] = [
    (
        400,
        "badRequest",
        ProviderRefused,
        "The provider refused the request.",
        "Invalid input for field/attribute name.",
    ),
    (401, "error", ProviderDenied, DENIED, "The request you have made requires authentication."),
    (
        403,
        "forbidden",
        ProviderDenied,
        "The gateway's user lacks a permission at the provider.",
        "Policy doesn't allow it.",
    ),
    (
        403,
        "forbidden",
        ProviderFull,
        "A quota of the project has been reached.",
        "Quota exceeded for resources: snapshots",
    ),
    (413, "overLimit", ProviderFull, "A quota of the project has been reached.", "Quota exceeded or out of space."),
    (404, "itemNotFound", ProviderMissing, "The provider has no such machine or snapshot.", "Instance could not be."),
    (
        406,
        "computeFault",
        ProviderRefused,
        "The provider refused the request.",
        "Version 2.47 is not supported by the API.",
    ),
    (
        409,
        "conflictingRequest",
        ProviderBusy,
        "The provider is executing another task on this machine.",
        "Cannot 'createImage' instance while it is in task_state image_uploading",
    ),
    (
        409,
        "conflictingRequest",
        ProviderRefused,
        "The provider refused the request.",
        "Cannot 'createImage' instance while it is in vm_state error",
    ),
    (
        429,
        "overLimit",
        ProviderUnavailable,
        "The provider is throttling the gateway's requests.",
        "This request was rate-limited.",
    ),
    (500, "computeFault", OutcomeUnknown, INTERNAL, "Unexpected API Error."),
    (503, "serviceUnavailable", OutcomeUnknown, INTERNAL, "Service is not available."),
    (504, "gatewayTimeout", OutcomeUnknown, INTERNAL, "The server didn't respond in time."),
]


@pytest.fixture
def lab() -> Iterator[Lab]:
    with openstack_lab() as made:
        yield made


def error_of(lab: Lab, work: Coroutine[Any, Any, Any]) -> tuple[type[ProviderError], str]:
    """The type and message of the error that a call raises."""
    with pytest.raises(ProviderError) as raised:
        lab.run(work)
    return type(raised.value), raised.value.message


def create_error(lab: Lab) -> tuple[type[ProviderError], str]:
    """The type and message of the error that a create raises."""
    return error_of(lab, lab.driver.create(Work("token"), lab.create_command()))


def test_errors_of_nova(lab: Lab) -> None:
    for code, name, error, message, words in REFUSALS:
        lab.cloud.on("POST compute", refuse(*fault(name, code, words)), times=2 if code == 401 else 1)
        with pytest.raises(ProviderError) as raised:
            lab.create()
        assert (type(raised.value), raised.value.message, raised.value.provider_message) == (error, message, words)
        assert lab.recover() is Recovery.NOT_STARTED
    assert lab.cloud.images == {}
    assert (
        len(lab.writes()) == len(REFUSALS) + 1
    )  # after a 401 the token is renewed and the request repeated once; the others are not repeated


def test_errors_of_glance(lab: Lab) -> None:
    made = lab.create()
    lab.cloud.images[made.ref]["protected"] = True
    words = f"403 Forbidden 403 Forbidden Image {made.ref} is protected and cannot be deleted."
    for answer, error, message in (
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
        assert message is None or raised.value.provider_message == message
    assert lab.snapshots() == [made]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refuse(500), (ProviderUnavailable, INTERNAL)),
        (refuse(503), (ProviderUnavailable, INTERNAL)),
        (refuse(*page(404, "The resource could not be found.")), (ProviderUnavailable, None)),
        (refuse(404, "<h1>404 Not Found</h1>nginx"), (ProviderUnavailable, None)),
        (refuse(400), (ProviderUnavailable, "The provider did not return the requested data.")),
        (refuse(413, "Quota exceeded"), (ProviderUnavailable, "The provider did not return the requested data.")),
        (refuse(403), (ProviderDenied, "The gateway's user lacks a permission at the provider.")),
        (refuse(200, {}), (ProviderUnavailable, MALFORMED)),
        (refuse(200, []), (ProviderUnavailable, MALFORMED)),
        (refuse(200, {"servers": None, "images": None}), (ProviderUnavailable, MALFORMED)),
        (garble, (ProviderUnavailable, MALFORMED)),
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
        found = error_of(lab, work())
        assert found == (error[0], error[1] or found[1])
    assert len(lab.snapshots()) == 1


def test_responses_without_an_id_are_malformed(lab: Lab) -> None:
    """Of one entry in a listing this is no error of the listing; see test_openstack_odd.py."""
    server = dict(lab.cloud.servers[lab.machine])
    server.pop("id")
    for start, answer, work in (
        ("GET compute/servers", {"server": server}, lambda: lab.driver.machine(lab.machine)),
        ("GET compute/servers", {"server": server}, lambda: lab.driver.snapshots(lab.machine)),
        ("GET compute/servers", {"servers": [server]}, lab.driver.health),
        ("GET image/images", {"images": [{}]}, lab.driver.health),
    ):
        lab.cloud.on(start, refuse(200, answer))
        assert error_of(lab, work()) == (ProviderUnavailable, MALFORMED)


def test_an_unreachable_cloud(lab: Lab) -> None:
    with socket.socket() as bound:  # reserves the port; without listen(), connections are refused
        bound.bind(("127.0.0.1", 0))
        for address in (f"http://127.0.0.1:{bound.getsockname()[1]}/v3", "http://cloud.invalid/v3"):
            driver = lab.cloud.driver(address=address)
            for work in (driver.health(), driver.machines(), driver.create(Work("t"), lab.create_command())):
                assert error_of(lab, work) == (ProviderUnavailable, UNREACHABLE)
            lab.run(driver.close())
    # The driver works again once the cloud is reachable.
    lab.cloud.on("GET identity", drop)
    lab.cloud.on("POST identity", drop)
    assert error_of(lab, lab.driver.health())[0] is ProviderUnavailable
    lab.cloud.faults.clear()
    lab.run(lab.driver.health())


def test_an_untrusted_certificate(lab: Lab, tmp_path: Path) -> None:
    driver = lab.cloud.driver(address=lab.cloud.url.replace("http:", "https:"), ca_file=str(tmp_path / "none.pem"))
    words = "The provider's certificate is not trusted. Check the option 'ca_file'."
    assert error_of(lab, driver.health()) == (ProviderUnavailable, words)


def test_credentials(lab: Lab) -> None:
    lab.run(lab.driver.health())
    lab.cloud.expire_tokens()
    lab.run(lab.driver.health())  # an expired token is renewed
    lab.cloud.expire_tokens()
    lab.cloud.password = "changed"
    for work in (lab.driver.health, lab.driver.machines, lambda: lab.driver.create(Work("t"), lab.create_command())):
        assert error_of(lab, work()) == (ProviderDenied, DENIED)
    assert (lab.writes(), lab.cloud.images) == ([], {})


def test_credentials_that_become_invalid_during_a_request(lab: Lab) -> None:
    def expire(_: Any) -> tuple[int, Any]:
        lab.cloud.password = "changed"
        return fault("error", 401, "The request you have made requires authentication.")

    lab.cloud.on("POST compute", expire)
    assert create_error(lab) == (ProviderDenied, DENIED)
    assert (lab.writes(), lab.cloud.images) == (["POST compute servers"], {})


def test_a_cloud_without_cinder() -> None:
    with openstack_lab(volumes=1) as lab:
        made = lab.create()
        lab.run(lab.driver.close())
        lab.cloud.with_volumes = False
        assert error_of(lab, lab.driver.delete(Work("d"), DeleteCommand(lab.machine, made.ref))) == (
            OutcomeUnknown,
            "The provider's catalog has no block_storage service.",
        )
        [ref] = lab.cloud.volume_snapshots
        lab.cloud.with_volumes = True
        assert lab.recover_delete(made.ref, f'["{ref}"]') is Recovery.DONE
        assert lab.cloud.volume_snapshots == {}


@pytest.mark.thorough  # waits for real timeouts
def test_timeouts() -> None:
    with openstack_lab(timeout=2.0) as lab:
        made = lab.create(Work("first"))
        for start in ("GET compute/servers/detail", "POST compute", "DELETE"):
            lab.cloud.on(start, lab.cloud.hang)

        async def all_at_once() -> list[Any]:
            calls: list[Coroutine[Any, Any, Any]] = [
                lab.driver.machines(),
                lab.driver.create(Work("t"), lab.create_command()),
                lab.driver.delete(Work("t"), DeleteCommand(lab.machine, made.ref)),
            ]
            return await asyncio.gather(*calls, return_exceptions=True)

        assert [(type(error), error.message) for error in lab.run(all_at_once())] == [
            (ProviderUnavailable, UNREACHABLE),
            (OutcomeUnknown, "The provider did not answer."),
            (OutcomeUnknown, "The provider did not answer."),
        ]
        # No request is sent twice.
        assert sorted(lab.writes()) == ["DELETE image images", "POST compute servers", "POST compute servers"]


def test_lost_and_malformed_responses(lab: Lab) -> None:
    for answer, words in ((lose, "The provider did not answer."), (garble, MALFORMED)):
        lab.cloud.on("POST compute", answer)
        assert create_error(lab) == (OutcomeUnknown, words)
        made = lab.recover()
        assert [made] == lab.snapshots()
        lab.cloud.on("DELETE", answer)
        assert error_of(lab, lab.driver.delete(Work("d"), DeleteCommand(lab.machine, made.ref))) == (
            OutcomeUnknown,
            words,
        )
        assert lab.recover_delete(made.ref) is Recovery.DONE
        assert lab.writes() == ["POST compute servers", "DELETE image images"]
    lab.cloud.on("POST compute", refuse(202, {}))
    assert create_error(lab) == (OutcomeUnknown, MALFORMED)


def test_images_that_nova_abandons(lab: Lab) -> None:
    """Nova does not report the reason: if the image storage is full, its record of the action reads Success."""
    lab.cloud.steps = ABANDONED
    words = "The provider abandoned the image, and nothing of it remains. A quota may be exhausted or its storage full."
    assert create_error(lab) == (ProviderRefused, words)
    lab.run(lab.driver.machine(lab.machine))  # advances Nova to its last step
    lab.cloud.steps = LEFT_QUEUED
    assert create_error(lab) == (ProviderRefused, words)
    assert lab.cloud.images == {}


def test_a_concurrent_image_makes_the_machine_busy(lab: Lab) -> None:
    lab.cloud.servers[lab.machine]["OS-EXT-STS:task_state"] = "image_uploading"
    assert create_error(lab) == (ProviderBusy, "The provider is executing another task on this machine.")
    assert lab.cloud.images == {}


def test_errors_while_waiting_for_an_image(lab: Lab) -> None:
    """An image may still be completed after the driver has failed to read it, so the outcome is unknown."""
    lab.cloud.on("GET image/images/", refuse(403))
    assert create_error(lab)[0] is OutcomeUnknown
    lab.cloud.on("GET image/images", refuse(403))
    with pytest.raises(OutcomeUnknown):
        lab.recover()
    lab.cloud.on("GET image/images", refuse(500))
    with pytest.raises(ProviderUnavailable):  # the recovery is retried later
        lab.recover()
    assert [lab.recover()] == lab.snapshots()
    assert lab.writes() == ["POST compute servers"]


def test_temporary_errors_while_polling_are_retried(lab: Lab) -> None:
    lab.cloud.on("GET image/images/", refuse(503), drop, garble)
    work = Work("token")

    async def checkpoint(_: str) -> None:
        lab.cloud.on("GET compute/servers/", refuse(500), drop)

    work.checkpoint = checkpoint
    made = lab.create(work)
    assert (made.ready, lab.writes()) == (True, ["POST compute servers"])
    assert lab.cloud.faults == []


def test_failed_volume_snapshots() -> None:
    with openstack_lab(volumes=2) as lab:
        lab.cloud.on("GET volume/snapshots", lambda forward: (200, {"snapshot": {"id": "x", "status": "error"}}))
        assert create_error(lab) == (ProviderRefused, "The provider could not create a snapshot of a volume.")
        assert (lab.cloud.images, lab.cloud.volume_snapshots) == ({}, {})
        made = lab.create()
        words = "The image was deleted, but the snapshot of a volume could not be deleted."
        lab.cloud.on("DELETE volume", refuse(*fault("badRequest", 400, "Snapshot is in use.")))
        assert error_of(lab, lab.driver.delete(Work("d"), DeleteCommand(lab.machine, made.ref))) == (
            ProviderRefused,
            words,
        )
        stuck = [*lab.cloud.volume_snapshots]
        lab.cloud.on("GET volume", lambda forward: (200, {"snapshot": {"id": "x", "status": "error_deleting"}}))
        with pytest.raises(ProviderRefused, match=words):
            lab.recover_delete(made.ref, f'["{stuck[0]}"]')
        assert lab.snapshots() == []


def test_unsupported_actions(lab: Lab) -> None:
    made = lab.create()
    for work, words in (
        (
            lab.driver.create(Work("m"), CreateCommand(lab.machine, "n", None, True)),
            "OpenStack images do not include the memory of an Instance.",
        ),
        (
            lab.driver.revert(Work("r"), RevertCommand(lab.machine, made.ref)),
            "OpenStack cannot revert an Instance. Create a new one from the snapshot's image.",
        ),
    ):
        assert error_of(lab, work) == (ProviderRefused, words)
    assert lab.run(lab.driver.recover(Work("r"), RevertCommand(lab.machine, made.ref))) is Recovery.NOT_STARTED
    theirs = lab.cloud.snap(lab.cloud.boot())
    assert error_of(lab, lab.driver.delete(Work("d"), DeleteCommand(lab.machine, theirs)))[0] is ProviderMissing
    assert len(lab.cloud.images) == 2
