"""The `qcow2` driver: the images in a folder are machines, which `qemu-img` changes while they are off. No daemon.

While a `qemu-img` of ours is at work it holds a lock of ours on the image, whatever becomes of the gateway. So nothing
is done twice, recovery waits for what a killed gateway has left running, and our work is not taken for a machine's.
"""

import asyncio
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

from gateway.drivers.base import (
    CreateCommand,
    DeleteCommand,
    Driver,
    DriverCommand,
    Matrix,
    Recovery,
    ReportedMachine,
    ReportedSnapshot,
    ReportedSnapshots,
    RevertCommand,
    Work,
)
from gateway.drivers.operation_tags import mark
from gateway.drivers.options import option
from gateway.drivers.qcow2 import images
from gateway.drivers.threads import Threads
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
from gateway.models import MachineKind, PowerState, SnapshotAction

_LOOK = 0.1  # seconds between looks at work that an earlier gateway has left running
_LONGEST_TAG = 255  # bytes; QEMU cuts off the rest without a word

# What a tag cannot have, or would spoil a list of tags: control characters, halves of characters, and no characters.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")

_OFF_ONLY = {
    PowerState.ON: "the machine is running, and its image can be changed only while it is off; shut it down first",
    PowerState.UNKNOWN: "the image cannot be read, so nobody can tell whether the machine is running",
}
_MATRIX = Matrix(
    {
        SnapshotAction.CREATE: _OFF_ONLY,
        SnapshotAction.CREATE_WITH_MEMORY: "only disks can be saved here, not memory",
        SnapshotAction.REVERT: _OFF_ONLY,
        SnapshotAction.DELETE: _OFF_ONLY,
    },
    tree=False,
)

# What `qemu-img` says when it fails, and what that means.
_COMPLAINTS: tuple[tuple[str, type[ProviderError], str], ...] = (
    ("Is another process using the image", ProviderBusy, "another program is using the image"),
    ("No space left on device", ProviderFull, "the disk that holds the image is full"),
    ("Disk quota exceeded", ProviderFull, "the disk quota of the gateway's user is reached"),
    ("Permission denied", ProviderDenied, "the gateway may not change the image"),
    ("Read-only file system", ProviderDenied, "the folder of images is read-only"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a folder of images is configured by."""

    directory: str = option("the folder of the images; each file in it whose name ends in .qcow2 is a machine")
    program: str = option("qemu-img, or the path of the program to use in its place", "qemu-img")

    def __post_init__(self) -> None:
        if not self.directory:
            raise ValueError("has an empty 'directory'")


class _HalfDone(OutcomeUnknown):
    """A revert was stopped when the disk had its content already, but what guards the snapshot was missing.

    What the machine writes then goes into the snapshot as well. Reverting again changes no content, and sets it right.
    """


class Qcow2Driver(Driver):
    """One folder of images. `patience`: seconds until a question is given up on."""

    name = "qcow2"

    def __init__(self, options: Options, concurrency: int, patience: float = 30.0) -> None:
        self._directory = Path(options.directory).absolute()  # so that no file's name is taken for an option or a URL
        self._program = options.program
        self._patience = patience
        self._asking = Threads(4, patience)
        self._working = Threads(concurrency, inf)  # changes are never interrupted; operations have their own deadline

    def matrix(self, kind: MachineKind) -> Matrix:
        return _MATRIX

    async def machines(self) -> Sequence[ReportedMachine]:
        return await self._asking.ask(self._machines)

    async def machine(self, machine_ref: str) -> ReportedMachine:
        return await self._asking.ask(self._machine, machine_ref)

    async def snapshots(self, machine_ref: str) -> ReportedSnapshots:
        return await self._asking.ask(self._snapshots, machine_ref)

    async def create(self, work: Work, wish: CreateCommand) -> ReportedSnapshot:
        made = await self._do(work, wish)
        assert isinstance(made, ReportedSnapshot)
        return made

    async def revert(self, work: Work, wish: RevertCommand) -> None:
        await self._do(work, wish)

    async def delete(self, work: Work, wish: DeleteCommand) -> None:
        await self._do(work, wish)

    async def recover(self, work: Work, wish: DriverCommand) -> ReportedSnapshot | Recovery:
        try:
            while True:
                found = await self._asking.ask(self._look_back, work, wish)
                if found is not None:
                    return found
                await asyncio.sleep(_LOOK)
        except _HalfDone as half:
            before = work.task_ref
            assert before is not None
            # The trace of before stays, or what this does would be taken for the beginning.
            again = Work(work.token, checkpoint=lambda _: work.checkpoint(before))
            try:
                return await self._do(again, wish)
            except ProviderUnavailable:  # somebody else is at the image: it is asked again
                raise
            except ProviderError as error:
                words = error.provider_message or error.message
                raise OutcomeUnknown(half.message, provider_message=words) from None

    async def health(self) -> None:
        await self._asking.ask(self._check)

    async def close(self) -> None:
        return None

    async def _do(self, work: Work, wish: DriverCommand) -> ReportedSnapshot | Recovery:
        loop = asyncio.get_running_loop()

        async def commit(trace: str) -> None:
            await work.checkpoint(trace)
            work.task_ref = trace  # for who recovers with the same work

        def checkpoint(trace: str) -> None:
            asyncio.run_coroutine_threadsafe(commit(trace), loop).result()

        return await self._working.tell(self._change, work.token, wish, checkpoint)

    # ---- what runs in threads

    def _machines(self) -> list[ReportedMachine]:
        seen = []
        for name in images.names(self._directory):
            try:
                seen.append(self._see(name))
            except ProviderMissing:  # gone since
                continue
        return seen

    def _machine(self, ref: str) -> ReportedMachine:
        if ref not in images.names(self._directory):
            raise images.no_machine()
        return self._see(ref)

    def _see(self, ref: str) -> ReportedMachine:
        try:
            with images.opened(self._directory, ref) as image:
                power = images.power(image)
        except ProviderMissing:
            raise
        except ProviderError:  # a bad image does not hide the others; who asks for its snapshots is told what is wrong
            power = PowerState.UNKNOWN
        return ReportedMachine(ref=ref, kind=MachineKind.VM, name=Path(ref).stem, power_state=power)

    def _snapshots(self, ref: str) -> ReportedSnapshots:
        with images.opened(self._directory, ref) as image:
            return ReportedSnapshots([entry.seen for entry in images.read(image).entries])

    def _check(self) -> None:
        images.names(self._directory)
        code, out, words = _run([self._found_program(), "--version"], patience=self._patience)
        if code != 0 or not out.startswith("qemu-img version "):
            raise ProviderUnavailable("the program does not answer as qemu-img does", provider_message=words or out)

    def _change(
        self, token: str, wish: DriverCommand, checkpoint: Callable[[str], None]
    ) -> ReportedSnapshot | Recovery:
        """Has an image changed, and sees for itself what became of that.

        The lock comes before the checkpoint. So a worker that was frozen, and has lost its lease meanwhile, either has
        the lock, which recovery waits for, or cannot commit the checkpoint.
        """
        program = self._found_program()
        with images.opened(self._directory, wish.machine_ref, os.O_RDWR) as image:
            images.hold(image)
            before = images.read(image)
            if isinstance(wish, CreateCommand) and (made := before.made_by(token)) is not None:
                return made
            power = PowerState.ON if images.is_written(image) else PowerState.OFF
            arguments = _arguments(wish, token, before, power)
            disk = images.words(image, before.disk)
            checkpoint(images.trace(image, disk))
            path = self._directory / wish.machine_ref
            code, _, words = _run([program, "snapshot", *arguments, "--", path], image)
            words = words.replace(str(path), path.name)
            if code == 0 and isinstance(wish, RevertCommand):  # who starts the machine now may write before it is seen
                return Recovery.DONE
            try:
                became = _became(image, token, wish, lambda now: now == disk)
            except ProviderError as error:
                raise OutcomeUnknown(error.message, provider_message=words or error.provider_message) from None
            if became is Recovery.NOT_BEGUN:
                raise _complaint(code, words)
            return became

    def _look_back(self, work: Work, wish: DriverCommand) -> ReportedSnapshot | Recovery | None:
        """What became of an earlier attempt; None while it is at it."""
        try:
            with images.opened(self._directory, wish.machine_ref) as image:
                if images.is_held(image):
                    return None
                if isinstance(wish, RevertCommand) and work.task_ref is None:  # nothing runs before the checkpoint
                    return Recovery.NOT_BEGUN
                return _became(image, work.token, wish, lambda disk: images.trace(image, disk) == work.task_ref)
        except (ProviderRefused, ProviderDenied) as error:
            raise OutcomeUnknown(error.message, provider_message=error.provider_message) from None

    def _found_program(self) -> str:
        program = shutil.which(self._program)
        if program is None:
            raise ProviderUnavailable("qemu-img is not installed where the gateway runs")
        return program


def make(provider: str, options: Options, concurrency: int) -> Qcow2Driver:
    """The driver of one folder."""
    return Qcow2Driver(options, concurrency)


def _arguments(wish: DriverCommand, token: str, image: images.Image, power: PowerState) -> list[str | bytes]:
    """What `qemu-img snapshot` is told. Raises ProviderMissing, and ProviderRefused for what it cannot do."""
    match wish:
        case CreateCommand():
            _refuse(SnapshotAction.CREATE_WITH_MEMORY if wish.memory else SnapshotAction.CREATE, power)
            return ["-c", _tag(wish.name, token)]
        case RevertCommand():
            _refuse(SnapshotAction.REVERT, power)
            return ["-a", _entry(image, wish.snapshot_ref).id]  # an id goes before a tag that looks like it
        case DeleteCommand():
            entry = _entry(image, wish.snapshot_ref)
            _refuse(SnapshotAction.DELETE, power)
            if next(other for other in image.entries if other.tag == entry.tag) is not entry:
                raise ProviderRefused(
                    "the machine has an older snapshot with the same tag, and qemu-img deletes that one first"
                )
            return ["-d", entry.tag]  # which takes no id


def _entry(image: images.Image, ref: str) -> images.Entry:
    entry = image.find(ref)
    if entry is None:
        raise ProviderMissing("the image has no such snapshot")
    return entry


def _refuse(action: SnapshotAction, power: PowerState) -> None:
    if reason := _MATRIX.reason_against(action, power):
        raise ProviderRefused(reason)


def _tag(name: str, token: str) -> bytes:
    """The user's name, as far as a tag has room for it, and the operation's token."""
    end = f" {mark(None, token)}".encode()
    start = _UNFIT.sub(" ", name).encode()[: _LONGEST_TAG - len(end)]
    return start.decode(errors="ignore").rstrip().encode() + end


def _became(
    image: int, token: str, wish: DriverCommand, is_unchanged: Callable[[Sequence[int]], bool]
) -> ReportedSnapshot | Recovery:
    """What has become of a wish that nobody is at any more. `is_unchanged` is asked of the disk's map.

    One write at the very end puts a snapshot into the table, and one at the beginning takes it out. A disk with the
    map of a snapshot has its content, because what a snapshot's map leads to is not written to again.
    """
    now = images.read(image)
    match wish:
        case CreateCommand():
            return now.made_by(token) or Recovery.NOT_BEGUN
        case DeleteCommand():
            return Recovery.NOT_BEGUN if now.find(wish.snapshot_ref) else Recovery.DONE
        case RevertCommand():
            disk = images.words(image, now.disk)
            if is_unchanged(disk):
                return Recovery.NOT_BEGUN
            entry = now.find(wish.snapshot_ref)
            if entry is None or not images.are_same(disk, images.words(image, entry.disk)):
                raise OutcomeUnknown("the disk has changed since, so nobody can tell whether it was reverted before")
            if not images.is_guarded(disk):
                raise _HalfDone("the revert was stopped half-way; revert again before the machine is started")
            return Recovery.DONE


def _complaint(code: int, words: str) -> ProviderError:
    """Why `qemu-img` has left an image as it was."""
    if code == 0:
        return ProviderRefused("qemu-img reported success, but has not changed the image", provider_message=words)
    if code < 0:
        return ProviderUnavailable("qemu-img was stopped before it was done")
    for text, kind, message in _COMPLAINTS:
        if text in words:
            return kind(message, provider_message=words)
    return ProviderRefused("qemu-img refused", provider_message=words)


def _run(words: Sequence[str | bytes | Path], *kept: int, patience: float | None = None) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a program that keeps the descriptors `kept`.

    It has a session of its own, so that it goes on when the gateway is stopped from a terminal, and nothing of the
    gateway's environment.
    """
    try:
        process = subprocess.Popen(  # noqa: S603 - the words are arguments, and no shell reads them
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=kept,
            start_new_session=True,
            env={"LC_ALL": "C", "PATH": os.defpath},
        )
    except OSError as error:
        raise ProviderUnavailable("qemu-img could not be started", provider_message=error.strerror) from None
    with process:
        try:
            out, err = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise ProviderUnavailable("qemu-img did not answer in time") from None
    return process.returncode, out.decode(errors="replace").strip(), err.decode(errors="replace").strip()
