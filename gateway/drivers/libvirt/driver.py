"""The `libvirt` driver: machines of one libvirt connection, and their internal snapshots.

The library blocks, so it is called in threads, over connections that are made again when they are dead. A snapshot
has no identifier but its name. It is listed while it is still being written, and the domain's control interface tells,
without waiting, whether anything is at work. Current moves at the very end of a revert.
"""

import asyncio
import contextlib
import math
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import libvirt

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
from gateway.drivers.libvirt.connection import FAILED_MIDWAY, LibvirtConnection, failure
from gateway.drivers.libvirt.domains import (
    LONGEST_NAME,
    control,
    is_legal,
    is_number,
    machine_of,
    machines_of,
    resume_if_left_paused,
    snapshot_of,
    snapshots_of,
    stand,
    wanted_xml,
    was_reverted,
)
from gateway.drivers.operation_tags import mark, wire_name
from gateway.drivers.options import Secret, option
from gateway.drivers.threads import Threads
from gateway.errors import OutcomeUnknown, ProviderBusy, ProviderError, ProviderRefused, ProviderUnavailable
from gateway.models import MachineKind, PowerState, SnapshotAction

S = TypeVar("S")
T = TypeVar("T")

_LOOK = 0.2  # seconds between looks at a domain at work
_LOOKS = 5  # that it takes to call it busy; a question of somebody else's is a short job
_ASKING = 4  # questions at a time

_AT_WORK = {libvirt.VIR_DOMAIN_CONTROL_JOB, libvirt.VIR_DOMAIN_CONTROL_OCCUPIED}

_MATRIX = Matrix(
    {
        SnapshotAction.CREATE: {
            PowerState.ON: "a running machine can only be saved with its memory: include it, or shut the machine down",
            PowerState.SUSPENDED: "a suspended machine can only be saved with its memory: include it, or shut the"
            " machine down",
        },
        SnapshotAction.CREATE_WITH_MEMORY: {
            PowerState.OFF: "the machine is off, so it has no memory to save: leave it out, or start the machine",
        },
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a provider of this kind is configured by."""

    address: str = option("libvirt's connection URI, such as qemu:///system")
    user: str | None = option("name to log in with, where libvirt asks for one", None)
    password: Secret | None = option("its password", None)

    def __post_init__(self) -> None:
        if ":" not in self.address:
            raise ValueError(f"has an address {self.address!r}, which must be a connection URI, such as qemu:///system")
        if (self.user is None) != (self.password is None):
            raise ValueError("must have both 'user' and 'password', or neither")


def make(provider: str, options: Options, concurrency: int) -> "LibvirtDriver":
    """A driver that has not connected yet."""
    return LibvirtDriver(options, concurrency)


class LibvirtDriver(Driver):
    """One libvirt. A machine's ref is its UUID, a snapshot's its name."""

    name = "libvirt"

    def __init__(self, options: Options, concurrency: int) -> None:
        self._options = options
        self._asking = Threads(_ASKING)
        self._working = Threads(concurrency, patience=math.inf)  # memory is saved for as long as it takes
        self._line: LibvirtConnection | None = None  # for questions, one at a time
        self._turn = threading.Lock()
        self._spare: list[LibvirtConnection] = []  # for work
        self._hearers: set[Callable[[str | None], None]] = set()

    def matrix(self, kind: MachineKind) -> Matrix:
        return _MATRIX

    async def machines(self) -> Sequence[ReportedMachine]:
        return await self._ask(lambda line: machines_of(line.connection, line.host, line.version))

    async def hints(self) -> AsyncIterator[str]:
        loop = asyncio.get_running_loop()
        heard: asyncio.Queue[str | None] = asyncio.Queue()

        def hear(machine_ref: str | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(heard.put_nowait, machine_ref)

        self._hearers.add(hear)
        try:
            await self.health()
            while (machine_ref := await heard.get()) is not None:
                yield machine_ref
        finally:
            self._hearers.discard(hear)

    async def machine(self, machine_ref: str) -> ReportedMachine:
        return await self._ask(lambda line: machine_of(line.domain(machine_ref), line.host, line.version))

    async def snapshots(self, machine_ref: str) -> ReportedSnapshots:
        return await self._ask(lambda line: snapshots_of(line.domain(machine_ref)))

    async def create(self, work: Work, wish: CreateCommand) -> ReportedSnapshot:
        ref = wish.machine_ref
        await self._await_idle(ref)
        machine = await self.machine(ref)
        action = SnapshotAction.CREATE_WITH_MEMORY if wish.memory else SnapshotAction.CREATE
        if reason := machine.obstacle or _MATRIX.reason_against(action, machine.power_state):
            raise ProviderRefused("the provider would refuse", provider_message=reason)
        there = {seen.ref: seen for seen in (await self.snapshots(ref)).snapshots}
        for seen in there.values():
            if seen.token == work.token:  # an earlier call was still on its way when recovery looked for it
                return seen
        name = wire_name(wish.name, work.token, is_legal, there, LONGEST_NAME)
        wanted = wanted_xml(name, mark(wish.description, work.token), wish.memory)
        await work.progress(None, "Saving the memory of the paused machine" if wish.memory else "Saving the disks")
        return await self._tell(
            lambda line: line.domain(ref), lambda domain: snapshot_of(domain.snapshotCreateXML(wanted, 0))
        )

    async def revert(self, work: Work, wish: RevertCommand) -> None:
        ref, name = wish.machine_ref, wish.snapshot_ref
        await self._await_idle(ref)
        await self._ask(lambda line: line.domain(ref).snapshotLookupByName(name, 0))
        if is_number(name):
            raise ProviderRefused("QEMU could take the snapshot's name for the number of another, and put that back")
        before = await self._ask(lambda line: stand(line.domain(ref)))
        await work.checkpoint(before)
        try:
            await self._tell(
                lambda line: line.domain(ref).snapshotLookupByName(name, 0),
                lambda snapshot: snapshot.getDomain().revertToSnapshot(snapshot, 0),
                harmful=True,
            )
        except (ProviderRefused, ProviderBusy) as error:
            if await self._stands(ref, before):
                raise
            raise OutcomeUnknown(FAILED_MIDWAY, provider_message=error.provider_message) from None

    async def delete(self, work: Work, wish: DeleteCommand) -> None:
        await self._await_idle(wish.machine_ref)
        await self._tell(
            lambda line: line.domain(wish.machine_ref).snapshotLookupByName(wish.snapshot_ref, 0),
            lambda snapshot: snapshot.delete(0),
        )

    async def recover(self, work: Work, wish: DriverCommand) -> ReportedSnapshot | Recovery:
        ref = wish.machine_ref
        while await self._ask(lambda line: control(line.domain(ref))) in _AT_WORK:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK)
        match wish:
            case CreateCommand():
                return await self._recover_create(work, wish)
            case DeleteCommand():
                seen = await self.snapshots(ref)
                there = any(snapshot.ref == wish.snapshot_ref for snapshot in seen.snapshots)
                return Recovery.NOT_BEGUN if there else Recovery.DONE
            case RevertCommand():
                return await self._recover_revert(work, wish)

    async def health(self) -> None:
        await self._ask(lambda line: line.connection.getLibVersion())

    async def close(self) -> None:
        with contextlib.suppress(ProviderUnavailable):  # it hangs: it ends with the process
            await self._asking.ask(self._hang_up, patience=5)

    # ---- recovery

    async def _recover_create(self, work: Work, wish: CreateCommand) -> ReportedSnapshot | Recovery:
        """QEMU writes on when libvirtd dies, but nobody then lets the domain go on, and libvirt knows of no snapshot.

        What QEMU wrote is replaced when the snapshot is made again: its name follows from the wish and the token.
        """
        for seen in (await self.snapshots(wish.machine_ref)).snapshots:
            if seen.token == work.token:
                return seen
        await self._ask(lambda line: resume_if_left_paused(line.domain(wish.machine_ref)))
        return Recovery.NOT_BEGUN

    async def _recover_revert(self, work: Work, wish: RevertCommand) -> Recovery:
        if work.task_ref is None:  # certain: how the domain stood is committed before it is handed over
            return Recovery.NOT_BEGUN
        now = await self._ask(lambda line: stand(line.domain(wish.machine_ref)))
        if was_reverted(work.task_ref, now, wish.snapshot_ref):
            return Recovery.DONE
        raise OutcomeUnknown("the provider does not show whether the machine was reverted")

    async def _stands(self, machine_ref: str, before: str) -> bool:
        """Whether the machine certainly stands as it stood before, so that nothing was done to it."""
        try:
            return await self._ask(lambda line: stand(line.domain(machine_ref))) == before
        except ProviderError:
            return False

    async def _await_idle(self, machine_ref: str) -> None:
        """Raises ProviderBusy. libvirt itself would wait for half a minute, and act on what it finds then."""
        for _ in range(_LOOKS):
            if await self._ask(lambda line: control(line.domain(machine_ref))) != libvirt.VIR_DOMAIN_CONTROL_JOB:
                return
            await asyncio.sleep(_LOOK)
        raise ProviderBusy("the provider is doing other work on this machine")

    # ---- calls. No two threads use one line at the same time: libvirt before 10.0 then loses answers for seconds.

    async def _ask(self, function: Callable[[LibvirtConnection], T]) -> T:
        """Calls what changes nothing."""

        def call() -> T:
            with self._turn:
                if self._line is None or not self._line.is_alive():
                    old, self._line = self._line, None
                    self._line = self._connect(old, self._hear)
                return function(self._line)

        try:
            return await self._asking.ask(call)
        except libvirt.libvirtError as error:
            raise failure(error, handed_over=False) from None

    async def _tell(
        self, find: Callable[[LibvirtConnection], S], function: Callable[[S], T], *, harmful: bool = False
    ) -> T:
        """Calls what changes something, once, on what it finds. A `harmful` one may fail half done."""
        shared = await self._ask(lambda line: None if line.is_remote else line)

        def act(line: LibvirtConnection) -> T:
            handed_over = False
            try:
                found = find(line)
                handed_over = True
                return function(found)
            except libvirt.libvirtError as error:
                raise failure(error, handed_over=handed_over, harmful=harmful) from None

        def call() -> T:
            with self._spare_line() if shared is None else contextlib.nullcontext(shared) as line:
                return act(line)

        return await self._working.tell(call)

    @contextlib.contextmanager
    def _spare_line(self) -> Iterator[LibvirtConnection]:
        try:
            line = self._spare.pop()
        except IndexError:
            line = self._connect(None)
        if not line.is_alive():
            line = self._connect(line)
        try:
            yield line
        finally:
            self._spare.append(line)

    def _connect(
        self, old: LibvirtConnection | None, hear: Callable[[str | None], None] | None = None
    ) -> LibvirtConnection:
        """A new one in the place of the old."""
        if old is not None:
            old.close()
        password = self._options.password
        return LibvirtConnection(self._options.address, self._options.user, password.value if password else None, hear)

    def _hear(self, machine_ref: str | None) -> None:
        for hear in list(self._hearers):
            hear(machine_ref)

    def _hang_up(self) -> None:
        with self._turn:
            lines, self._line, self._spare = [self._line, *self._spare], None, []
        for line in lines:
            if line is not None:
                line.close()
        self._hear(None)
