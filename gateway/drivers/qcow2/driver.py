"""The `qcow2` driver: each qcow2 image in a directory is a machine, changed by `qemu-img` while it is off.

The driver needs no daemon. How it executes a command (`_execute`):

1. Open the image and lock the gateway's byte (see `images`). `qemu-img` inherits the lock, so it exists until both the
   gateway and `qemu-img` have closed the image, even if the gateway is killed.
2. Read the image and check the command against it. A create whose snapshot exists already ends here.
3. Checkpoint a fingerprint of the active L1 table. The order matters: a worker that was suspended and has lost its
   lease either holds the lock, for which recovery waits, or can no longer commit the checkpoint and does nothing.
4. Run `qemu-img snapshot`.
5. Read the image again to determine the outcome. The exit code decides only in one case: a revert with exit code 0 is
   done, because a machine that starts now may write to the disk before it is read.

Recovery (`_inspect_earlier_attempt`) waits until the lock is free, and then determines the outcome from the image:

* create: QEMU adds the snapshot to the snapshot table in its last write. It is done if the table has a snapshot with
  the operation's token, else not started.
* delete: QEMU removes the snapshot from the table in its first write. It is done if the table has no such snapshot.
* revert: compares the active L1 table with the checkpoint and with the snapshot's L1 table.

      active L1 table                           outcome
      has the checkpointed fingerprint          not started
      as the snapshot's, without COPIED flags   done
      as the snapshot's, with COPIED flags      incomplete: the content is right, but the next write to the disk would
                                                change the snapshot too
      other                                     unknown: the disk has been written to since

  `recover` completes an incomplete revert by reverting again. This changes no content and clears the flags. It keeps
  the first checkpoint: with a new one, a second recovery would take the incomplete state for the state before the
  revert.

Invariants: at most one `qemu-img` of the gateway works on an image, and the gateway's own `qemu-img` is never reported
as a running machine.
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
from typing import assert_never

from gateway.drivers.base import (
    CreateCommand,
    DeleteCommand,
    Driver,
    Matrix,
    RecoverableCommand,
    Recovery,
    ReportedMachine,
    ReportedSnapshot,
    ReportedSnapshots,
    RevertCommand,
    Work,
    parsing,
    report_machine,
    unreadable_machine,
)
from gateway.drivers.operation_tags import add_tag
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

_POLL_INTERVAL = 0.1  # seconds between checks whether an earlier qemu-img has ended
_MAX_TAG_SIZE = 255  # bytes; QEMU truncates longer tags without an error

# Characters that a tag cannot contain or that would corrupt a listing: control characters, surrogates, noncharacters.
_ILLEGAL_TAG_CHARACTERS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")

_OFF_ONLY = {
    PowerState.ON: "The machine is running, and its image can be changed only while it is off. Shut it down first.",
    PowerState.UNKNOWN: "The image cannot be read, so it is unknown whether the machine is running.",
}
_MATRIX = Matrix(
    {SnapshotAction.CREATE, SnapshotAction.REVERT, SnapshotAction.DELETE},
    {
        SnapshotAction.CREATE: _OFF_ONLY,
        SnapshotAction.CREATE_WITH_MEMORY: "This driver can save disks only, not memory.",
        SnapshotAction.UPDATE: "qemu-img cannot rename a snapshot, and a qcow2 image has no descriptions of snapshots.",
        SnapshotAction.REVERT: _OFF_ONLY,
        SnapshotAction.DELETE: _OFF_ONLY,
    },
    tree=False,
)

# Texts in the error output of `qemu-img`, and the errors that they stand for.
_ERRORS: tuple[tuple[str, type[ProviderError], str], ...] = (
    ("Is another process using the image", ProviderBusy, "Another program is using the image."),
    ("No space left on device", ProviderFull, "The file system of the image is full."),
    ("Disk quota exceeded", ProviderFull, "The disk quota of the gateway's user is reached."),
    ("Permission denied", ProviderDenied, "The gateway may not change the image."),
    ("Read-only file system", ProviderDenied, "The image directory is on a read-only file system."),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of a provider with this driver."""

    directory: str = option("Image directory; each file in it whose name ends in .qcow2 is a machine.")
    program: str = option("Name or path of the qemu-img program.", "qemu-img")

    def __post_init__(self) -> None:
        if not self.directory:
            raise ValueError("Option 'directory' must not be empty.")


class _RevertIncomplete(OutcomeUnknown):
    """A revert was stopped after the disk had the snapshot's content, but before the COPIED flags were cleared.

    The next write to the disk would change the snapshot as well. Reverting again changes no content and clears the
    flags.
    """


class Qcow2Driver(Driver):
    """One image directory. `timeout`: timeout of a read, in seconds. Changes have none; operations have a deadline."""

    name = "qcow2"

    def __init__(self, options: Options, concurrency: int, timeout: float = 30.0) -> None:
        self._directory = Path(options.directory).absolute()  # a relative name could look like an option or a URL
        self._program = options.program
        self._timeout = timeout
        self._read_threads = Threads(4, timeout)
        self._write_threads = Threads(concurrency, inf)  # a change is never interrupted

    def matrix(self, kind: MachineKind) -> Matrix:
        return _MATRIX

    async def machines(self) -> Sequence[ReportedMachine]:
        return await self._read_threads.read(self._list_machines)

    async def machine(self, machine_ref: str) -> ReportedMachine:
        return await self._read_threads.read(self._read_machine, machine_ref)

    async def snapshots(self, machine_ref: str) -> ReportedSnapshots:
        return await self._read_threads.read(self._read_snapshots, machine_ref)

    async def create(self, work: Work, command: CreateCommand) -> ReportedSnapshot:
        made = await self._run_command(work, command)
        assert isinstance(made, ReportedSnapshot)
        return made

    async def revert(self, work: Work, command: RevertCommand) -> None:
        await self._run_command(work, command)

    async def delete(self, work: Work, command: DeleteCommand) -> None:
        await self._run_command(work, command)

    async def recover(self, work: Work, command: RecoverableCommand) -> ReportedSnapshot | Recovery:
        try:
            while True:
                found = await self._read_threads.read(self._inspect_earlier_attempt, work, command)
                if found is not None:
                    return found
                await asyncio.sleep(_POLL_INTERVAL)
        except _RevertIncomplete as incomplete:
            before = work.task_ref
            assert before is not None
            # Keep the first fingerprint. A new one would declare the incomplete state the state before the revert.
            retry = Work(work.token, checkpoint=lambda _: work.checkpoint(before))
            try:
                return await self._run_command(retry, command)
            except ProviderUnavailable:  # another program uses the image; recovery is retried later
                raise
            except ProviderError as error:
                reason = error.provider_message or error.message
                raise OutcomeUnknown(incomplete.message, provider_message=reason) from None

    async def health(self) -> None:
        await self._read_threads.read(self._check_health)

    async def close(self) -> None:
        return None

    async def _run_command(self, work: Work, command: RecoverableCommand) -> ReportedSnapshot | Recovery:
        loop = asyncio.get_running_loop()

        async def commit(fingerprint: str) -> None:
            await work.checkpoint(fingerprint)
            work.task_ref = fingerprint  # for a recovery with the same Work

        def checkpoint(fingerprint: str) -> None:
            asyncio.run_coroutine_threadsafe(commit(fingerprint), loop).result()

        return await self._write_threads.write(self._execute, work.token, command, checkpoint)

    # ---- functions that run in threads

    def _list_machines(self) -> list[ReportedMachine]:
        machines = [
            unreadable_machine("", MachineKind.VM, f"The file name {name!r} contains invalid characters.")
            for name in images.list_unusable_images(self._directory)
        ]
        for name in images.list_images(self._directory):
            try:
                machines.append(self._report_machine(name))
            except ProviderMissing:  # deleted since the listing
                continue
        return machines

    def _read_machine(self, ref: str) -> ReportedMachine:
        if ref not in images.list_images(self._directory):
            raise images.missing_image()
        return self._report_machine(ref)

    def _report_machine(self, ref: str) -> ReportedMachine:
        power, blocker = PowerState.UNKNOWN, None
        try:
            with images.open_image(self._directory, ref) as fd:
                power, blocker = images.power_state(fd), images.snapshot_blocker(fd, self._directory)
        except ProviderMissing:
            raise
        except ProviderError:  # a damaged image must not hide the others; reading its snapshots raises the error
            pass
        return report_machine(
            ref,
            MachineKind.VM,
            name=lambda: Path(ref).stem,
            power_state=lambda: power,
            snapshot_blocker=lambda: blocker,
        )

    def _read_snapshots(self, ref: str) -> ReportedSnapshots:
        with parsing(), images.open_image(self._directory, ref) as fd:
            return images.read_snapshots(fd)

    def _check_health(self) -> None:
        images.list_images(self._directory)
        code, out, err = _run_program([self._find_program(), "--version"], timeout=self._timeout)
        if code != 0 or not out.startswith("qemu-img version "):
            raise ProviderUnavailable("The configured program is not qemu-img.", provider_message=err or out)

    def _execute(
        self, token: str, command: RecoverableCommand, checkpoint: Callable[[str], None]
    ) -> ReportedSnapshot | Recovery:
        """Executes a command with `qemu-img` and determines the outcome from the image, as the module describes.

        The lock is acquired before the checkpoint. A worker that was suspended and has lost its lease therefore either
        holds the lock, for which recovery waits, or cannot commit the checkpoint.
        """
        program = self._find_program()
        with images.open_image(self._directory, command.machine_ref, os.O_RDWR) as fd:
            images.acquire_lock(fd)
            before = images.read_image(fd)
            if isinstance(command, CreateCommand) and (made := before.find_by_token(token)) is not None:
                return made
            if blocker := images.snapshot_blocker(fd, self._directory):
                raise ProviderRefused(blocker)
            power = PowerState.ON if images.is_open_for_writing(fd) else PowerState.OFF
            arguments = _snapshot_arguments(command, token, before, power)
            disk = images.read_l1_table(fd, before.disk)
            checkpoint(images.fingerprint(fd, disk))
            image = self._image_options(fd)
            code, _, err = _run_program([program, "snapshot", *arguments, "--image-opts", "--", image], fd)
            err = err.replace(os.fsdecode(image), command.machine_ref).replace(_fd_path(fd), command.machine_ref)
            if code == 0 and isinstance(command, RevertCommand):  # a machine that starts now may write before the check
                return Recovery.DONE
            try:
                outcome = _determine_outcome(fd, token, command, lambda now: now == disk)
            except ProviderError as error:
                raise OutcomeUnknown(error.message, provider_message=err or error.provider_message) from None
            if outcome is Recovery.NOT_STARTED:
                raise _translate_failure(code, err)
            return outcome

    def _image_options(self, fd: int) -> bytes:
        """The image for `qemu-img --image-opts`.

        It is the file that was opened and checked, and not its name: by now that may be a link to the image of another
        provider. QEMU would look for a base image with a relative name next to the descriptor, so it is named too.
        """
        options = f"driver=qcow2,file.driver=file,file.filename={_fd_path(fd)}".encode()
        if (base := images.relative_base(fd)) is not None:
            path = os.fsencode(self._directory / os.fsdecode(base))
            options += b",backing.file.driver=file,backing.file.filename=" + path.replace(b",", b",,")
        return options

    def _inspect_earlier_attempt(self, work: Work, command: RecoverableCommand) -> ReportedSnapshot | Recovery | None:
        """The outcome of an earlier attempt; None while its `qemu-img` still runs."""
        try:
            with images.open_image(self._directory, command.machine_ref) as fd:
                if images.is_locked(fd):
                    return None
                if isinstance(command, RevertCommand) and work.task_ref is None:  # qemu-img starts after the checkpoint
                    return Recovery.NOT_STARTED
                return _determine_outcome(
                    fd, work.token, command, lambda disk: images.fingerprint(fd, disk) == work.task_ref
                )
        except (ProviderRefused, ProviderDenied) as error:
            raise OutcomeUnknown(error.message, provider_message=error.provider_message) from None

    def _find_program(self) -> str:
        program = shutil.which(self._program)
        if program is None:
            raise ProviderUnavailable("qemu-img is not installed on the gateway's host.")
        return program


def make(provider: str, options: Options, concurrency: int) -> Qcow2Driver:
    """Makes the driver of one image directory."""
    return Qcow2Driver(options, concurrency)


def _fd_path(fd: int) -> str:
    """The path of an open file for a program that has inherited the descriptor."""
    return f"/proc/self/fd/{fd}"


def _snapshot_arguments(
    command: RecoverableCommand, token: str, image: images.Image, power: PowerState
) -> list[str | bytes]:
    """The arguments of `qemu-img snapshot`. Raises ProviderMissing, and ProviderRefused for an impossible command."""
    match command:
        case CreateCommand():
            _raise_if_unsupported(SnapshotAction.CREATE_WITH_MEMORY if command.memory else SnapshotAction.CREATE, power)
            return ["-c", _make_tag(command.name, token)]
        case RevertCommand():
            _raise_if_unsupported(SnapshotAction.REVERT, power)
            return ["-a", _require_entry(image, command.snapshot_ref).id]  # qemu-img looks for an id before a tag
        case DeleteCommand():
            entry = _require_entry(image, command.snapshot_ref)
            _raise_if_unsupported(SnapshotAction.DELETE, power)
            if next(other for other in image.entries if other.tag == entry.tag) is not entry:
                raise ProviderRefused(
                    "An older snapshot of the machine has the same tag, and qemu-img deletes that one first."
                    " Delete the older snapshot first."
                )
            return ["-d", entry.tag]  # -d accepts no id
        case _:
            assert_never(command)


def _require_entry(image: images.Image, ref: str) -> images.SnapshotEntry:
    entry = image.find(ref)
    if entry is None:
        raise ProviderMissing("The image has no such snapshot.")
    return entry


def _raise_if_unsupported(action: SnapshotAction, power: PowerState) -> None:
    if reason := _MATRIX.unsupported_reason(action, power):
        raise ProviderRefused(reason)


def _make_tag(name: str, token: str) -> bytes:
    """The snapshot's name, truncated to what fits into a tag, followed by the operation's token."""
    end = f" {add_tag(None, token)}".encode()
    start = _ILLEGAL_TAG_CHARACTERS.sub(" ", name).encode()[: _MAX_TAG_SIZE - len(end)]
    return start.decode(errors="ignore").rstrip().encode() + end


def _determine_outcome(
    fd: int, token: str, command: RecoverableCommand, is_unchanged: Callable[[Sequence[int]], bool]
) -> ReportedSnapshot | Recovery:
    """The outcome of a command on which no `qemu-img` works any more, as the module describes.

    `is_unchanged` returns whether the active L1 table is the one from before the command.
    """
    now = images.read_image(fd)
    match command:
        case CreateCommand():
            return now.find_by_token(token) or Recovery.NOT_STARTED
        case DeleteCommand():
            return Recovery.NOT_STARTED if now.find(command.snapshot_ref) else Recovery.DONE
        case RevertCommand():
            disk = images.read_l1_table(fd, now.disk)
            if is_unchanged(disk):
                return Recovery.NOT_STARTED
            entry = now.find(command.snapshot_ref)
            if entry is None or not images.has_same_content(disk, images.read_l1_table(fd, entry.disk)):
                raise OutcomeUnknown("The disk has changed since, so it is unknown whether it was reverted before.")
            if not images.is_copy_on_write(disk):
                raise _RevertIncomplete("The revert was interrupted. Revert again before you start the machine.")
            return Recovery.DONE
        case _:
            assert_never(command)


def _translate_failure(code: int, err: str) -> ProviderError:
    """The error for a `qemu-img` that has not changed the image, from its exit code and its error output."""
    if code == 0:
        return ProviderRefused("qemu-img reported success but did not change the image.", provider_message=err)
    if code < 0:
        return ProviderUnavailable("qemu-img was killed before it changed the image.")
    for text, kind, message in _ERRORS:
        if text in err:
            return kind(message, provider_message=err)
    return ProviderRefused("qemu-img reported an error.", provider_message=err)


def _run_program(
    arguments: Sequence[str | bytes | Path], *inherited: int, timeout: float | None = None
) -> tuple[int, str, str]:
    """Runs a program that inherits the descriptors `inherited`; its exit code, standard output and standard error.

    The program gets its own session, so that a signal from the gateway's terminal does not stop it. It does not inherit
    the gateway's environment.
    """
    try:
        process = subprocess.Popen(  # noqa: S603 - an argument list, not a shell command
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=inherited,
            start_new_session=True,
            env={"LC_ALL": "C", "PATH": os.defpath},
        )
    except OSError as error:
        raise ProviderUnavailable("qemu-img could not be started.", provider_message=error.strerror) from None
    with process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise ProviderUnavailable("qemu-img did not answer in time.") from None
    return process.returncode, out.decode(errors="replace").strip(), err.decode(errors="replace").strip()
