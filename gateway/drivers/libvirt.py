"""The `libvirt` driver: machines of one libvirt connection, and their internal snapshots.

The library blocks, so it is called in threads; all share one connection, which is made again when it is dead. A
snapshot has no identifier but its name. It is listed while it is still being written, and the domain's control
interface tells, without waiting, whether anything is at work. Current moves at the very end of a revert.
"""

import asyncio
import contextlib
import math
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

import libvirt

from gateway.drivers.base import (
    CreateWish,
    DeleteWish,
    Driver,
    Matrix,
    Recovery,
    RevertWish,
    SeenMachine,
    SeenSnapshot,
    SeenSnapshots,
    Wish,
    Work,
)
from gateway.drivers.libvirt_domains import (
    LONGEST_NAME,
    control,
    is_left_paused,
    is_legal,
    machine_of,
    snapshot_of,
    snapshots_of,
    stand,
    wanted_xml,
    was_reverted,
)
from gateway.drivers.libvirt_line import Line, failure
from gateway.drivers.marks import mark, wire_name
from gateway.drivers.options import Secret, option
from gateway.drivers.threads import Threads
from gateway.errors import OutcomeUnknown, ProviderBusy, ProviderMissing, ProviderRefused, ProviderUnavailable
from gateway.models import MachineKind, PowerState, SnapshotAction

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
    password: Secret | None = option("its password", None)  # noqa: RUF009

    def __post_init__(self) -> None:
        if ":" not in self.address:
            raise ValueError(f"has an address {self.address!r}, which must be a connection URI, such as qemu:///system")
        if (self.user is None) != (self.password is None):
            raise ValueError("must have both 'user' and 'password', or neither")


def make(provider: str, options: Options, concurrency: int) -> "LibvirtDriver":
    """A driver that has not connected yet."""
    return LibvirtDriver(options, concurrency)


class LibvirtDriver(Driver):
    """One libvirt connection. A machine's ref is its UUID, a snapshot's its name."""

    name = "libvirt"

    def __init__(self, options: Options, concurrency: int) -> None:
        self._options = options
        self._asking = Threads(_ASKING)
        self._working = Threads(concurrency, patience=math.inf)  # memory is saved for as long as it takes
        self._lock = threading.Lock()
        self._open: Line | None = None
        self._hearers: set[Callable[[str | None], None]] = set()

    def matrix(self, kind: MachineKind) -> Matrix:
        return _MATRIX

    async def machines(self) -> Sequence[SeenMachine]:
        return await self._ask(self._all_machines)

    async def hints(self) -> AsyncIterator[str]:
        loop = asyncio.get_running_loop()
        heard: asyncio.Queue[str | None] = asyncio.Queue()

        def hear(machine_ref: str | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                loop.call_soon_threadsafe(heard.put_nowait, machine_ref)

        self._hearers.add(hear)
        try:
            await self._ask(self._line)
            while (machine_ref := await heard.get()) is not None:
                yield machine_ref
        finally:
            self._hearers.discard(hear)

    async def machine(self, machine_ref: str) -> SeenMachine:
        return await self._ask(lambda: self._machine(self._domain(machine_ref)))

    async def snapshots(self, machine_ref: str) -> SeenSnapshots:
        return await self._ask(lambda: snapshots_of(self._domain(machine_ref)))

    async def create(self, work: Work, wish: CreateWish) -> SeenSnapshot:
        domain = await self._idle_domain(wish.machine_ref)
        machine = await self._ask(lambda: self._machine(domain))
        action = SnapshotAction.CREATE_WITH_MEMORY if wish.memory else SnapshotAction.CREATE
        if reason := machine.obstacle or _MATRIX.reason_against(action, machine.power_state):
            raise ProviderRefused("the provider would refuse", provider_message=reason)
        taken = await self._ask(lambda: {snapshot.getName() for snapshot in domain.listAllSnapshots(0)})
        name = wire_name(wish.name, work.token, is_legal, taken, LONGEST_NAME)
        wanted = wanted_xml(name, mark(wish.description, work.token), wish.memory)
        await work.progress(None, "Saving the memory of the paused machine" if wish.memory else "Saving the disks")
        return await self._tell(lambda: snapshot_of(domain.snapshotCreateXML(wanted, 0)))

    async def revert(self, work: Work, wish: RevertWish) -> None:
        domain = await self._idle_domain(wish.machine_ref)
        snapshot = await self._ask(lambda: domain.snapshotLookupByName(wish.snapshot_ref, 0))
        await work.checkpoint(await self._ask(lambda: stand(domain)))
        await self._tell(lambda: domain.revertToSnapshot(snapshot, 0))

    async def delete(self, work: Work, wish: DeleteWish) -> None:
        domain = await self._idle_domain(wish.machine_ref)
        snapshot = await self._ask(lambda: domain.snapshotLookupByName(wish.snapshot_ref, 0))
        await self._tell(lambda: snapshot.delete(0))

    async def recover(self, work: Work, wish: Wish) -> SeenSnapshot | Recovery:
        domain = await self._ask(lambda: self._domain(wish.machine_ref))
        while await self._ask(lambda: control(domain)) in _AT_WORK:  # noqa: ASYNC110 - it is libvirt that knows
            await asyncio.sleep(_LOOK)
        match wish:
            case CreateWish():
                return await self._recover_create(work, domain)
            case DeleteWish():
                there = await self._ask(lambda: snapshots_of(domain))
                found = any(seen.ref == wish.snapshot_ref for seen in there.snapshots)
                return Recovery.NOT_BEGUN if found else Recovery.DONE
            case RevertWish():
                return await self._recover_revert(work, domain, wish)

    async def health(self) -> None:
        await self._ask(lambda: self._line().connection.getLibVersion())  # noqa: PLW0108 - connects in the thread

    async def close(self) -> None:
        with contextlib.suppress(ProviderUnavailable):  # it hangs: it ends with the process
            await self._asking.ask(self._hang_up, patience=5)

    # ---- recovery

    async def _recover_create(self, work: Work, domain: Any) -> SeenSnapshot | Recovery:
        """QEMU writes on when libvirtd dies, but nobody then lets the domain go on, and libvirt knows of no snapshot.

        What QEMU wrote is replaced when the snapshot is made again: its name follows from the wish and the token.
        """
        there = await self._ask(lambda: snapshots_of(domain))
        for seen in there.snapshots:
            if seen.token == work.token:
                return seen
        if await self._ask(lambda: is_left_paused(domain)):
            await self._ask(domain.resume)  # when it does not answer, recovery begins again
        return Recovery.NOT_BEGUN

    async def _recover_revert(self, work: Work, domain: Any, wish: RevertWish) -> Recovery:
        if work.task_ref is None:  # certain: how the domain stood is committed before it is handed over
            return Recovery.NOT_BEGUN
        if was_reverted(work.task_ref, await self._ask(lambda: stand(domain)), wish.snapshot_ref):
            return Recovery.DONE
        raise OutcomeUnknown("the provider does not show whether the machine was reverted")

    # ---- calls

    async def _ask(self, function: Callable[[], T]) -> T:
        """Calls what changes nothing."""
        try:
            return await self._asking.ask(function)
        except libvirt.libvirtError as error:
            raise failure(error, handed_over=False) from None

    async def _tell(self, function: Callable[[], T]) -> T:
        """Calls what changes something, once."""
        try:
            return await self._working.tell(function)
        except libvirt.libvirtError as error:
            raise failure(error, handed_over=True) from None

    def _line(self) -> Line:
        with self._lock:
            if self._open is not None and not self._open.is_alive():
                self._open.close()
                self._open = None
            if self._open is None:
                given = self._options
                password = given.password.value if given.password else None
                self._open = Line(given.address, given.user, password, self._hear)
            return self._open

    def _hang_up(self) -> None:
        with self._lock:
            line, self._open = self._open, None
        if line is not None:
            line.close()
        self._hear(None)

    def _hear(self, machine_ref: str | None) -> None:
        for hear in list(self._hearers):
            hear(machine_ref)

    # ---- domains

    def _domain(self, machine_ref: str) -> Any:
        try:
            known = str(UUID(machine_ref)) == machine_ref
        except ValueError:
            known = False
        if not known:
            raise ProviderMissing("the provider has no such machine")
        return self._line().connection.lookupByUUIDString(machine_ref)

    async def _idle_domain(self, machine_ref: str) -> Any:
        """A domain that nobody is at work on. libvirt itself would wait for half a minute, and do it then."""
        domain = await self._ask(lambda: self._domain(machine_ref))
        for _ in range(_LOOKS):
            if await self._ask(lambda: control(domain)) != libvirt.VIR_DOMAIN_CONTROL_JOB:
                return domain
            await asyncio.sleep(_LOOK)
        raise ProviderBusy("the provider is doing other work on this machine")

    def _machine(self, domain: Any) -> SeenMachine:
        line = self._line()
        return machine_of(domain, line.host, line.version)

    def _all_machines(self) -> list[SeenMachine]:
        found = []
        for domain in self._line().connection.listAllDomains(0):
            try:
                found.append(self._machine(domain))
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:  # it went away since it was listed
                    raise
        return sorted(found, key=lambda machine: (machine.name, machine.ref))
