"""Tests recovery in the qcow2 driver: the gateway or `qemu-img` is killed at each point of a command."""

import asyncio
import shutil
import subprocess
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from gateway.drivers.base import (
    CreateCommand,
    DeleteCommand,
    RecoverableCommand,
    Recovery,
    ReportedSnapshot,
    RevertCommand,
    Work,
)
from gateway.drivers.operation_tags import split_tag
from gateway.drivers.qcow2 import images
from gateway.drivers.qcow2.driver import Options, Qcow2Driver
from gateway.errors import OutcomeUnknown, ProviderBusy, ProviderMissing, ProviderUnavailable
from gateway.models import PowerState
from tests.drivers import image_files

pytestmark = pytest.mark.thorough

image_files.skip_without_qemu()

VM = "vm.qcow2"
KINDS = ("create", "revert", "delete")


class Killed(Exception):
    """The gateway was killed."""


def command(kind: str, name: str, ref: str) -> RecoverableCommand:
    match kind:
        case "create":
            return CreateCommand(VM, name, None, False)
        case "revert":
            return RevertCommand(VM, ref)
    return DeleteCommand(VM, ref)


class Scene:
    """A machine whose disk holds 0x22, with a snapshot `a` of 0x11, and a command with its checkpoint."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.vm = image_files.create_image(folder / VM)
        self.kind = kind
        image_files.write(self.vm, 0x11)
        self.a = asyncio.run(self.driver().create(Work("a"), CreateCommand(VM, "a", None, False)))
        image_files.write(self.vm, 0x22)
        self.command = command(kind, "b", self.a.ref)
        self.task: str | None = None

    def driver(self, program: str = "qemu-img") -> Qcow2Driver:
        return Qcow2Driver(Options(directory=str(self.vm.parent), program=program), 2)

    def execute(self, program: str = "qemu-img", *, killed: bool = False) -> Coroutine[Any, Any, Any]:
        """Executes the command. `killed`: only up to the checkpoint, which is committed."""

        async def checkpoint(task: str) -> None:
            self.task = task
            if killed:
                raise Killed

        driver: Any = self.driver(program)
        call: Coroutine[Any, Any, Any] = getattr(driver, self.kind)(Work("w", self.task, checkpoint), self.command)
        return call

    async def recover(self) -> ReportedSnapshot | Recovery:
        """Recovers twice, and asserts that both return the same."""
        found = await self.driver().recover(Work("w", self.task), self.command)
        assert await self.driver().recover(Work("w", self.task), self.command) == found
        return found

    def is_done(self) -> bool:
        """Whether the command was executed, by disk content and snapshot tags. Asserts that nothing else changed."""
        names = [split_tag(tag)[0] for tag in image_files.tags(self.vm)]
        disk = 0x11 if image_files.contains(self.vm, 0x11) else 0x22 if image_files.contains(self.vm, 0x22) else None
        assert image_files.is_intact(self.vm)
        undone = (["a"], 0x22)
        done = {"create": (["a", "b"], 0x22), "revert": (["a"], 0x11), "delete": ([], 0x22)}[self.kind]
        assert (names, disk) in (done, undone)
        return (names, disk) == done

    def check_done(self, found: ReportedSnapshot | Recovery) -> None:
        assert self.is_done()
        if self.kind == "create":
            listed = asyncio.run(self.driver().snapshots(VM)).snapshots
            assert found == listed[-1]
            assert (listed[-1].name, listed[-1].token) == ("b", "w")
        else:
            assert found is Recovery.DONE


@pytest.fixture(params=KINDS)
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    return Scene(tmp_path, request.param)


def test_killed_before_the_command(scene: Scene) -> None:
    assert asyncio.run(scene.recover()) is Recovery.NOT_STARTED
    assert not scene.is_done()


def test_killed_before_the_program_was_started(scene: Scene) -> None:
    async def test() -> None:
        with pytest.raises(Killed):
            await scene.execute(killed=True)
        assert scene.task is not None
        assert await scene.recover() is Recovery.NOT_STARTED
        assert not scene.is_done()
        scene.task = None
        await scene.execute()

    asyncio.run(test())
    assert scene.is_done()


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_the_program_runs(scene: Scene, when: str) -> None:
    """The program continues without the gateway. Until it has ended, recovery waits and no other command starts."""

    async def test(gate: image_files.Gate) -> ReportedSnapshot | Recovery:
        call = asyncio.ensure_future(scene.execute(gate.program))
        await asyncio.to_thread(gate.wait)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert (
            await scene.driver().machine(VM)
        ).power_state is PowerState.OFF  # the gateway's own qemu-img is not a running machine
        task = scene.task
        with pytest.raises(ProviderBusy, match="An earlier operation on the image has not ended yet"):
            await scene.execute()
        assert scene.task == task
        recovering = asyncio.ensure_future(scene.recover())
        for _ in range(3):
            await scene.driver().snapshots(VM)
            assert not recovering.done()
        gate.open()
        return await recovering

    with image_files.Gate(scene.vm.parent, when) as gate:
        scene.check_done(asyncio.run(test(gate)))


def test_killed_before_the_outcome_was_stored(scene: Scene) -> None:
    asyncio.run(scene.execute())
    scene.check_done(asyncio.run(scene.recover()))


def test_a_suspended_worker_without_its_lease_changes_nothing(scene: Scene) -> None:
    """It resumes after another worker has executed the command, and fails at its checkpoint."""
    asyncio.run(scene.execute())
    if scene.kind == "revert":
        image_files.write(scene.vm, 0x22)
    content = scene.vm.read_bytes()
    expected = {"create": None, "revert": Killed, "delete": ProviderMissing}[scene.kind]
    if expected is None:
        assert asyncio.run(scene.execute(killed=True)) == asyncio.run(scene.recover())
    else:
        with pytest.raises(expected):
            asyncio.run(scene.execute(killed=True))
    assert scene.vm.read_bytes() == content


def test_a_revert_is_unknown_after_the_machine_has_written(tmp_path: Path) -> None:
    """Even if the L1 table equals the one from before the revert, because freed clusters were used again."""
    scene = Scene(tmp_path, "revert")
    before = active_l1_table(scene.vm)
    asyncio.run(scene.execute())
    image_files.write(scene.vm, 0x33)
    assert active_l1_table(scene.vm) == before
    for _ in range(2):
        with pytest.raises(OutcomeUnknown, match="The disk has changed since"):
            asyncio.run(scene.recover())
    assert image_files.contains(scene.vm, 0x33)


def active_l1_table(vm: Path) -> tuple[int, ...]:
    with images.open_image(vm.parent, vm.name) as fd:
        return images.read_l1_table(fd, images.read_image(fd).disk)


def test_a_revert_is_done_while_the_machine_runs_without_writing(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "revert")
    asyncio.run(scene.execute())
    with image_files.held_open(scene.vm):
        assert asyncio.run(scene.recover()) is Recovery.DONE


def test_recovery_does_not_wait_for_a_running_machine(scene: Scene) -> None:
    with pytest.raises(Killed):
        asyncio.run(scene.execute(killed=True))
    with image_files.held_open(scene.vm):
        assert asyncio.run(scene.recover()) is Recovery.NOT_STARTED


def test_an_unreadable_image_has_no_known_outcome(scene: Scene) -> None:
    with pytest.raises(Killed):
        asyncio.run(scene.execute(killed=True))
    content = scene.vm.read_bytes()
    scene.vm.write_bytes(content[:100])
    with pytest.raises(OutcomeUnknown):
        asyncio.run(scene.recover())
    scene.vm.unlink()
    with pytest.raises(ProviderMissing):
        asyncio.run(scene.recover())
    folder = scene.vm.parent
    folder.rename(folder.with_name(f"{folder.name}-away"))
    with pytest.raises(ProviderUnavailable):
        asyncio.run(scene.recover())


# ---- `qemu-img` itself is killed


def test_an_incomplete_revert_harms_the_snapshot_in_qemu(tmp_path: Path) -> None:
    """Shows the behavior of QEMU that the following tests protect against."""
    scene = Scene(tmp_path, "revert")
    image_files.qemu_img("snapshot", "-a", "1", scene.vm)
    subprocess.run(["sh", "-c", image_files.interrupted_revert(scene.vm)], check=True)
    image_files.write(scene.vm, 0x33)
    image_files.qemu_img("snapshot", "-a", "1", scene.vm)
    assert image_files.contains(scene.vm, 0x33)


def test_an_incomplete_revert_is_completed(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "revert")
    program = image_files.fake_qemu_img(
        tmp_path / "torn", f'$QEMU_IMG "$@"; {image_files.interrupted_revert(scene.vm)}; kill -9 $$'
    )
    with pytest.raises(OutcomeUnknown, match=r"The revert was interrupted\. Revert again before"):
        asyncio.run(scene.execute(program))
    killed = image_files.fake_qemu_img(tmp_path / "killed", "kill -9 $$")
    for _ in range(2):  # qemu-img is killed again, before it changes anything
        with pytest.raises(ProviderUnavailable):
            asyncio.run(scene.driver(killed).recover(Work("w", scene.task), scene.command))
    with image_files.held_open(scene.vm), pytest.raises(OutcomeUnknown, match="The revert was interrupted") as caught:
        asyncio.run(scene.recover())
    assert "Shut it down first" in (caught.value.provider_message or "")
    with image_files.held_open(scene.vm, "-r"), pytest.raises(ProviderBusy):
        asyncio.run(scene.recover())
    scene.check_done(asyncio.run(scene.recover()))
    image_files.write(scene.vm, 0x33)
    image_files.qemu_img("snapshot", "-a", "1", scene.vm)
    assert image_files.contains(scene.vm, 0x11)


@pytest.fixture(scope="module")
def fragmented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with many clusters, so that qemu-img takes a while: 0x22, with snapshots of 0x11 and 0x12."""
    path = image_files.create_image(tmp_path_factory.mktemp("fragmented") / VM, "4M", "-o", "cluster_size=512")
    for tag, pattern in (("a", 0x11), ("b", 0x12)):
        image_files.write(path, pattern, size="1M")
        image_files.qemu_img("snapshot", "-c", tag, path)
    image_files.write(path, 0x22, size="1M")
    return path


@pytest.mark.parametrize("milliseconds", [0, 7, 9, 12])
@pytest.mark.parametrize("kind", KINDS)
def test_killing_the_program_harms_no_snapshot(fragmented: Path, kind: str, milliseconds: int, tmp_path: Path) -> None:
    """At any time: once the driver has determined the outcome, later writes to the disk change no snapshot."""
    vm = Path(shutil.copy(fragmented, tmp_path))
    sent = command(kind, "c", read(vm).entries[0].ref)
    killing = f'$QEMU_IMG "$@" & sleep 0.{milliseconds:03}; kill -9 $!; wait $!; [ $? = 137 ] && kill -9 $$; exit 0'

    async def execute(program: str) -> bool:
        """Executes the command and recovers it as the gateway does. Returns whether it was executed."""
        driver = Qcow2Driver(Options(directory=str(tmp_path), program=program), 1)
        try:
            await getattr(driver, kind)(Work("w"), sent)
        except ProviderUnavailable:
            return False
        except OutcomeUnknown:
            recovering = Qcow2Driver(Options(directory=str(tmp_path)), 1)
            return await recovering.recover(Work("w", "fingerprint"), sent) is Recovery.DONE
        return True

    done = asyncio.run(execute(image_files.fake_qemu_img(tmp_path / "killing", killing)))
    ids = {entry.tag[:1]: entry.id for entry in read(vm).entries}
    assert {*ids} == (
        {"create": {b"a", b"b", b"c"}, "delete": {b"b"}}.get(kind, {b"a", b"b"}) if done else {b"a", b"b"}
    )
    assert image_files.contains(vm, 0x11 if kind == "revert" and done else 0x22, size="1M")
    for tag, id_ in ids.items():
        image_files.write(vm, 0x55, size="1M")
        image_files.qemu_img("snapshot", "-a", id_, vm)
        assert image_files.contains(vm, {b"a": 0x11, b"b": 0x12, b"c": 0x22}[tag], size="1M")


def read(vm: Path) -> images.Image:
    with images.open_image(vm.parent, vm.name) as fd:
        return images.read_image(fd)
