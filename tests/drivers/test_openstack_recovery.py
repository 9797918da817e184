"""Recovery of the openstack driver after crashes, lost responses and cancellations; no image is created twice."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gateway.drivers.base import Canceled, Recovery, ReportedSnapshot, Work
from gateway.errors import OutcomeUnknown, ProviderMissing, ProviderRefused, ProviderUnavailable
from tests.hypervisors.openstack_double import drop, lose, refuse
from tests.hypervisors.openstack_lab import Crash, Lab, crash, openstack_lab
from tests.hypervisors.openstack_services import ABANDONED, LEFT_QUEUED, NEVER_ENDS, fault
from tests.waiting import at_most

pytestmark = pytest.mark.thorough

CREATE, DELETE = "POST compute servers", "DELETE image images"


@pytest.fixture
def lab() -> Iterator[Lab]:
    with openstack_lab() as made:
        yield made


@pytest.fixture
def volumes() -> Iterator[Lab]:
    with openstack_lab(volumes=2) as made:
        yield made


def crashed(lab: Lab, **work: Any) -> str:
    """Starts a create that crashes. Returns the ref of the image that is left."""
    with pytest.raises(Crash):
        lab.create(Work("token", **work))
    [ref] = lab.cloud.images
    return ref


def checkpointed(lab: Lab, ref: str) -> str:
    """The checkpoint of a delete after which the gateway crashes at once."""
    checkpoints: list[str] = []

    async def checkpoint(task_ref: str) -> None:
        checkpoints.append(task_ref)
        raise Crash

    with pytest.raises(Crash):
        lab.delete(ref, Work("d", checkpoint=checkpoint))
    return checkpoints[0]


# ---- creates


def test_a_crash_before_the_call(lab: Lab) -> None:
    for _ in range(2):
        assert lab.recover() is Recovery.NOT_STARTED
    assert lab.writes() == []


def test_a_crash_before_the_checkpoint(lab: Lab) -> None:
    ref = crashed(lab, checkpoint=crash)
    assert lab.cloud.images[ref]["status"] == "queued"
    made = lab.recover()
    assert ((made.ref, made.ready), [made]) == ((ref, True), lab.snapshots())
    assert lab.recover("another") is Recovery.NOT_STARTED
    assert lab.writes() == [CREATE]


def test_a_crash_while_the_image_is_created(lab: Lab) -> None:
    ref = crashed(lab, progress=crash)
    for task_ref in (ref, None):
        made = lab.recover(task_ref=task_ref)
        assert (made.ref, made.ready) == (ref, True)
    assert lab.writes() == [CREATE]


def test_a_crash_after_the_image_is_complete(lab: Lab) -> None:
    made = lab.create()
    for task_ref in (made.ref, None):
        for _ in range(2):
            assert lab.recover(task_ref=task_ref) == made
    assert lab.writes() == [CREATE]


def test_a_snapshot_is_not_ready_until_its_image_is_active(lab: Lab) -> None:
    ref = crashed(lab, progress=crash)
    seen: list[list[bool]] = []
    for _ in at_most(100):
        seen.append([snapshot.ready for snapshot in lab.snapshots()])
        if seen[-1][0]:
            break
    assert seen[:-1] == [[False]] * (len(seen) - 1)
    assert [snapshot.ref for snapshot in lab.snapshots()] == [ref]


@pytest.mark.parametrize("steps", [ABANDONED, LEFT_QUEUED], ids=["deleted", "left queued"])
def test_an_abandoned_image_can_be_created_again(lab: Lab, steps: Any) -> None:
    lab.cloud.steps = steps
    ref = crashed(lab, checkpoint=crash)
    assert lab.recover(task_ref=ref) is Recovery.NOT_STARTED
    assert lab.cloud.images == {}


def test_nova_drops_one_of_two_concurrent_requests(lab: Lab) -> None:
    """By then Nova has created the record of its image. It answers with an internal error."""

    def race(forward: Callable[[], Any]) -> Any:
        forward()
        lab.cloud.tasks.clear()  # Nova continues the other request
        return fault("computeFault", 500, "UnexpectedTaskStateError")

    lab.cloud.on("POST compute", race)
    with pytest.raises(OutcomeUnknown):
        lab.create()
    [ref] = lab.cloud.images
    server = lab.cloud.servers[lab.machine]

    def done(_: Callable[[], Any]) -> Any:
        server["OS-EXT-STS:task_state"] = None
        return 503, "too busy"

    lab.cloud.on("GET image/images/", refuse(503), done)
    assert lab.recover() is Recovery.NOT_STARTED
    assert ref not in lab.cloud.images
    assert lab.create().ready


def test_a_request_that_is_executed_after_its_recovery(lab: Lab) -> None:
    late: list[Callable[[], Any]] = []

    def delay(forward: Callable[[], Any]) -> None:
        late.append(forward)

    lab.cloud.on("POST compute", delay)
    with pytest.raises(OutcomeUnknown):
        lab.create()
    assert lab.recover() is Recovery.NOT_STARTED
    late[0]()
    made = lab.create()
    assert ([made], lab.writes()) == (lab.snapshots(), [CREATE])


def test_recovery_waits_for_a_task_that_may_be_the_create(lab: Lab) -> None:
    """The server has a task, but no image is listed yet."""
    server = lab.cloud.servers[lab.machine]
    server["OS-EXT-STS:task_state"] = "image_snapshot_pending"

    def done(_: Callable[[], Any]) -> Any:
        server["OS-EXT-STS:task_state"] = None
        return 200, {"images": []}

    lab.cloud.on("GET image/images", lambda forward: (200, {"images": []}), done)
    assert lab.recover() is Recovery.NOT_STARTED
    assert lab.cloud.faults == []


def test_a_server_deleted_during_a_create(lab: Lab) -> None:
    async def delete(*_: object) -> None:
        del lab.cloud.servers[lab.machine]

    with pytest.raises(ProviderRefused):
        lab.create(Work("token", checkpoint=delete))
    assert lab.cloud.images == {}
    with pytest.raises(ProviderMissing):
        lab.create()


def test_an_image_that_completes_between_two_polls(lab: Lab) -> None:
    """The image is polled as incomplete, then its server as idle. The driver must not treat the image as abandoned."""
    lab.cloud.steps = (("image_uploading", "saving"), (None, "active"))
    assert [lab.create()] == lab.snapshots()
    assert lab.writes() == [CREATE]


def test_a_server_that_does_not_become_idle(lab: Lab) -> None:
    """It may already have a task for another client's image."""
    lab.cloud.steps = (("image_uploading", "active"),)
    made = lab.create()
    assert ([made], made.ready) == (lab.snapshots(), True)


# ---- creates from volumes


def test_a_crash_while_volumes_are_snapshotted(volumes: Lab) -> None:
    ref = crashed(volumes, checkpoint=crash)
    assert [row["status"] for row in volumes.cloud.volume_snapshots.values()] == ["creating"] * 2
    made: ReportedSnapshot = volumes.recover()
    assert (made.ref, made.token) == (ref, "token")
    assert [row["status"] for row in volumes.cloud.volume_snapshots.values()] == ["available"] * 2
    assert volumes.writes() == [CREATE]


# ---- cancellation


def test_a_canceled_create_leaves_nothing(lab: Lab) -> None:
    lab.cloud.steps = NEVER_ENDS
    with pytest.raises(Canceled):
        lab.create(Work("token", cancel_requested=lambda: True))
    assert lab.cloud.images == {}
    assert lab.writes() == [CREATE, DELETE]
    assert lab.run(lab.driver.machine(lab.machine))  # advances Nova, which makes the server idle
    assert lab.cloud.servers[lab.machine]["OS-EXT-STS:task_state"] is None


def test_a_canceled_create_from_volumes_leaves_nothing(volumes: Lab) -> None:
    volumes.cloud.on("GET volume", lambda forward: (200, {"snapshot": {"id": "x", "status": "creating"}}))
    with pytest.raises(Canceled):
        volumes.create(Work("token", cancel_requested=lambda: True))
    assert (volumes.cloud.images, volumes.cloud.volume_snapshots) == ({}, {})


def test_a_create_that_cannot_be_canceled_continues(lab: Lab) -> None:
    lab.cloud.on("DELETE", refuse(403))
    assert lab.create(Work("token", cancel_requested=lambda: True)).ready
    assert lab.writes() == [CREATE, DELETE]


def test_a_crash_during_a_cancellation(lab: Lab) -> None:
    lab.cloud.steps = NEVER_ENDS
    lab.cloud.on("DELETE", lose)
    with pytest.raises(OutcomeUnknown):
        lab.create(Work("token", cancel_requested=lambda: True))
    assert lab.recover() is Recovery.NOT_STARTED


def test_a_canceled_create_whose_image_another_client_deletes(lab: Lab) -> None:
    async def delete(ref: str) -> None:
        del lab.cloud.images[ref]

    with pytest.raises(Canceled):
        lab.create(Work("token", checkpoint=delete, cancel_requested=lambda: True))


def test_a_complete_image_is_not_canceled(lab: Lab) -> None:
    made = lab.create()
    assert (
        lab.run(lab.driver.recover(Work("token", made.ref, cancel_requested=lambda: True), lab.create_command()))
        == made
    )


# ---- deletes


def test_a_crash_before_the_delete(volumes: Lab) -> None:
    made = volumes.create()
    task_ref = checkpointed(volumes, made.ref)
    assert volumes.recover_delete(made.ref) is Recovery.NOT_STARTED
    assert volumes.recover_delete(made.ref, task_ref) is Recovery.NOT_STARTED
    assert volumes.snapshots() == [made]


def test_a_crash_between_the_image_and_its_volumes(volumes: Lab) -> None:
    made = volumes.create()
    task_ref = checkpointed(volumes, made.ref)
    volumes.cloud.on("DELETE volume", drop)
    with pytest.raises(OutcomeUnknown):
        volumes.delete(made.ref)
    volumes.cloud.on("DELETE volume", refuse(429))
    with pytest.raises(ProviderUnavailable):  # so the recovery is retried later
        volumes.recover_delete(made.ref, task_ref)
    for _ in range(2):
        assert volumes.recover_delete(made.ref, task_ref) is Recovery.DONE
    assert (volumes.cloud.images, volumes.cloud.volume_snapshots) == ({}, {})


def test_a_delete_that_is_not_confirmed(lab: Lab) -> None:
    made = lab.create()
    lab.cloud.on("DELETE", refuse(204, ""))
    with pytest.raises(OutcomeUnknown):
        lab.delete(made.ref)
    assert lab.recover_delete(made.ref) is Recovery.NOT_STARTED
    lab.delete(made.ref)
    assert lab.snapshots() == []


def test_an_image_deleted_by_another_client(lab: Lab) -> None:
    made = lab.create()
    del lab.cloud.images[made.ref]
    assert lab.snapshots() == []
    with pytest.raises(ProviderMissing):
        lab.delete(made.ref)
    assert lab.recover_delete(made.ref) is Recovery.DONE
