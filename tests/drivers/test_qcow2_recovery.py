"""What the qcow2 driver makes of work that was left: at every point where a gateway, or `qemu-img`, can be killed."""

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
    DriverCommand,
    Recovery,
    ReportedSnapshot,
    RevertCommand,
    Work,
)
from gateway.drivers.operation_tags import unmark
from gateway.drivers.qcow2 import images
from gateway.drivers.qcow2.driver import Options, Qcow2Driver
from gateway.errors import OutcomeUnknown, ProviderBusy, ProviderMissing, ProviderUnavailable
from gateway.models import PowerState
from tests.drivers import image_files

pytestmark = pytest.mark.thorough

image_files.need()

VM = "vm.qcow2"
KINDS = ("create", "revert", "delete")


class Killed(Exception):
    """The gateway is no more."""


def wish(kind: str, name: str, ref: str) -> DriverCommand:
    match kind:
        case "create":
            return CreateCommand(VM, name, None, False)
        case "revert":
            return RevertCommand(VM, ref)
    return DeleteCommand(VM, ref)


class Scene:
    """A machine whose disk holds 0x22, with a snapshot of when it held 0x11; and a wish, with what it checkpointed."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.vm = image_files.image(folder / VM)
        self.kind = kind
        image_files.write(self.vm, 0x11)
        self.a = asyncio.run(self.driver().create(Work("a"), CreateCommand(VM, "a", None, False)))
        image_files.write(self.vm, 0x22)
        self.wish = wish(kind, "b", self.a.ref)
        self.task: str | None = None

    def driver(self, program: str = "qemu-img") -> Qcow2Driver:
        return Qcow2Driver(Options(directory=str(self.vm.parent), program=program), 2)

    def do(self, program: str = "qemu-img", *, killed: bool = False) -> Coroutine[Any, Any, Any]:
        """Hands the wish over; `killed`: no further than the checkpoint, which is committed."""

        async def checkpoint(task: str) -> None:
            self.task = task
            if killed:
                raise Killed

        driver: Any = self.driver(program)
        doing: Coroutine[Any, Any, Any] = getattr(driver, self.kind)(Work("w", self.task, checkpoint), self.wish)
        return doing

    async def recover(self) -> ReportedSnapshot | Recovery:
        """Asks twice, which changes nothing."""
        found = await self.driver().recover(Work("w", self.task), self.wish)
        assert await self.driver().recover(Work("w", self.task), self.wish) == found
        return found

    def is_done(self) -> bool:
        """Whether the wish has come true, by what is on the disk and in the list; nothing else has changed."""
        names = [unmark(tag)[0] for tag in image_files.tags(self.vm)]
        disk = 0x11 if image_files.holds(self.vm, 0x11) else 0x22 if image_files.holds(self.vm, 0x22) else None
        assert image_files.is_whole(self.vm)
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


def test_killed_before_anything_was_asked(scene: Scene) -> None:
    assert asyncio.run(scene.recover()) is Recovery.NOT_BEGUN
    assert not scene.is_done()


def test_killed_before_the_program_was_started(scene: Scene) -> None:
    async def test() -> None:
        with pytest.raises(Killed):
            await scene.do(killed=True)
        assert scene.task is not None
        assert await scene.recover() is Recovery.NOT_BEGUN
        assert not scene.is_done()
        scene.task = None
        await scene.do()

    asyncio.run(test())
    assert scene.is_done()


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_the_program_was_at_it(scene: Scene, when: str) -> None:
    """It goes on without the gateway; until it has ended, recovery waits and nothing else is begun."""

    async def test(gate: image_files.Gate) -> ReportedSnapshot | Recovery:
        doing = asyncio.ensure_future(scene.do(gate.program))
        await asyncio.to_thread(gate.wait)
        doing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await doing
        assert (await scene.driver().machine(VM)).power_state is PowerState.OFF  # our own work is no machine that runs
        task = scene.task
        with pytest.raises(ProviderBusy, match="earlier work on the image has not ended yet"):
            await scene.do()
        assert scene.task == task
        recovering = asyncio.ensure_future(scene.recover())
        for _ in range(3):
            await scene.driver().snapshots(VM)
            assert not recovering.done()
        gate.open()
        return await recovering

    with image_files.Gate(scene.vm.parent, when) as gate:
        scene.check_done(asyncio.run(test(gate)))


def test_killed_before_the_end_was_recorded(scene: Scene) -> None:
    asyncio.run(scene.do())
    scene.check_done(asyncio.run(scene.recover()))


def test_a_frozen_worker_that_has_lost_its_lease_does_nothing(scene: Scene) -> None:
    """It looked before another has done the work, and comes to its checkpoint after that."""
    asyncio.run(scene.do())
    if scene.kind == "revert":
        image_files.write(scene.vm, 0x22)
    content = scene.vm.read_bytes()
    expected = {"create": None, "revert": Killed, "delete": ProviderMissing}[scene.kind]
    if expected is None:
        assert asyncio.run(scene.do(killed=True)) == asyncio.run(scene.recover())
    else:
        with pytest.raises(expected):
            asyncio.run(scene.do(killed=True))
    assert scene.vm.read_bytes() == content


def test_a_revert_is_in_doubt_once_the_machine_has_run(tmp_path: Path) -> None:
    """Though the map of its disk is what it was before the revert: the machine's room was freed and used again."""
    scene = Scene(tmp_path, "revert")
    before = disk(scene.vm)
    asyncio.run(scene.do())
    image_files.write(scene.vm, 0x33)
    assert disk(scene.vm) == before
    for _ in range(2):
        with pytest.raises(OutcomeUnknown, match="the disk has changed since"):
            asyncio.run(scene.recover())
    assert image_files.holds(scene.vm, 0x33)


def disk(vm: Path) -> tuple[int, ...]:
    with images.opened(vm.parent, vm.name) as image:
        return images.words(image, images.read(image).disk)


def test_a_revert_is_done_when_the_machine_runs_and_has_not_written(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "revert")
    asyncio.run(scene.do())
    with image_files.opened(scene.vm):
        assert asyncio.run(scene.recover()) is Recovery.DONE


def test_a_machine_that_was_started_does_not_keep_recovery_waiting(scene: Scene) -> None:
    with pytest.raises(Killed):
        asyncio.run(scene.do(killed=True))
    with image_files.opened(scene.vm):
        assert asyncio.run(scene.recover()) is Recovery.NOT_BEGUN


def test_what_cannot_be_looked_at_is_not_judged(scene: Scene) -> None:
    with pytest.raises(Killed):
        asyncio.run(scene.do(killed=True))
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


def test_without_the_drivers_care_a_torn_revert_harms_the_snapshot(tmp_path: Path) -> None:
    """What QEMU does, so that the next tests are known to be about something."""
    scene = Scene(tmp_path, "revert")
    image_files.qemu_img("snapshot", "-a", "1", scene.vm)
    subprocess.run(["sh", "-c", image_files.tearing(scene.vm)], check=True)
    image_files.write(scene.vm, 0x33)
    image_files.qemu_img("snapshot", "-a", "1", scene.vm)
    assert image_files.holds(scene.vm, 0x33)


def test_a_torn_revert_is_set_right(tmp_path: Path) -> None:
    scene = Scene(tmp_path, "revert")
    program = image_files.script(tmp_path / "torn", f'$QEMU_IMG "$@"; {image_files.tearing(scene.vm)}; kill -9 $$')
    with pytest.raises(OutcomeUnknown, match="the revert was stopped half-way; revert again before"):
        asyncio.run(scene.do(program))
    hasty = image_files.script(tmp_path / "hasty", "kill -9 $$")
    for _ in range(2):  # once more before anything is done
        with pytest.raises(ProviderUnavailable):
            asyncio.run(scene.driver(hasty).recover(Work("w", scene.task), scene.wish))
    with image_files.opened(scene.vm), pytest.raises(OutcomeUnknown, match="the revert was stopped half-way") as caught:
        asyncio.run(scene.recover())
    assert "shut it down first" in (caught.value.provider_message or "")
    with image_files.opened(scene.vm, "-r"), pytest.raises(ProviderBusy):
        asyncio.run(scene.recover())
    scene.check_done(asyncio.run(scene.recover()))
    image_files.write(scene.vm, 0x33)
    image_files.qemu_img("snapshot", "-a", "1", scene.vm)
    assert image_files.holds(scene.vm, 0x11)


@pytest.fixture(scope="module")
def fragmented(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of so many clusters that work on it takes a while: 0x22, with snapshots of when it was 0x11 and 0x12."""
    path = image_files.image(tmp_path_factory.mktemp("fragmented") / VM, "4M", "-o", "cluster_size=512")
    for tag, pattern in (("a", 0x11), ("b", 0x12)):
        image_files.write(path, pattern, size="1M")
        image_files.qemu_img("snapshot", "-c", tag, path)
    image_files.write(path, 0x22, size="1M")
    return path


@pytest.mark.parametrize("milliseconds", [0, 7, 9, 12])
@pytest.mark.parametrize("kind", KINDS)
def test_a_program_that_is_killed_harms_no_snapshot(
    fragmented: Path, kind: str, milliseconds: int, tmp_path: Path
) -> None:
    """Whenever it is killed: once the driver has said what became of it, snapshots stay as they were, come what may."""
    vm = Path(shutil.copy(fragmented, tmp_path))
    asked = wish(kind, "c", read(vm).entries[0].ref)
    killing = f'$QEMU_IMG "$@" & sleep 0.{milliseconds:03}; kill -9 $!; wait $!; [ $? = 137 ] && kill -9 $$; exit 0'

    async def hand_over(program: str) -> bool:
        """Whether it was done, as the gateway goes about it."""
        driver = Qcow2Driver(Options(directory=str(tmp_path), program=program), 1)
        try:
            await getattr(driver, kind)(Work("w"), asked)
        except ProviderUnavailable:
            return False
        except OutcomeUnknown:
            recovering = Qcow2Driver(Options(directory=str(tmp_path)), 1)
            return await recovering.recover(Work("w", "trace"), asked) is Recovery.DONE
        return True

    done = asyncio.run(hand_over(image_files.script(tmp_path / "killing", killing)))
    ids = {entry.tag[:1]: entry.id for entry in read(vm).entries}
    assert {*ids} == (
        {"create": {b"a", b"b", b"c"}, "delete": {b"b"}}.get(kind, {b"a", b"b"}) if done else {b"a", b"b"}
    )
    assert image_files.holds(vm, 0x11 if kind == "revert" and done else 0x22, size="1M")
    for tag, id_ in ids.items():
        image_files.write(vm, 0x55, size="1M")
        image_files.qemu_img("snapshot", "-a", id_, vm)
        assert image_files.holds(vm, {b"a": 0x11, b"b": 0x12, b"c": 0x22}[tag], size="1M")


def read(vm: Path) -> images.Image:
    with images.opened(vm.parent, vm.name) as image:
        return images.read(image)
