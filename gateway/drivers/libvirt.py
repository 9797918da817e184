"""The `libvirt` driver: machines of one libvirt connection, and their internal snapshots.

The library blocks, so it is called in threads; all share one connection, which is made again when it is dead. A
snapshot has no identifier but its name. It is listed while it is still being written, and the domain's control
interface tells, without waiting, whether anything is at work. Current moves at the very end of a revert.
"""

import asyncio
import contextlib
import math
import threading
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
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
from gateway.drivers.marks import mark, unmark, wire_name
from gateway.drivers.options import Secret, option
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

T = TypeVar("T")

_LOOK = 0.2  # seconds between looks at a domain at work
_LOOKS = 5  # that it takes to call it busy; a question of somebody else's is a short job
_ASKING = 4  # questions at a time
_KEEPALIVE = (5, 3)  # a probe after so many silent seconds; dead after so many without an answer
_LONGEST_NAME = 40  # libvirt does not check, and what is too long fails after QEMU has written it
_SNAPSHOTS_OF_FLASH = 10_010_000  # the version of libvirt from which it may know how

_POWER = {
    libvirt.VIR_DOMAIN_RUNNING: PowerState.ON,
    libvirt.VIR_DOMAIN_BLOCKED: PowerState.ON,
    libvirt.VIR_DOMAIN_SHUTDOWN: PowerState.ON,  # it is still shutting down
    libvirt.VIR_DOMAIN_PAUSED: PowerState.SUSPENDED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: PowerState.SUSPENDED,
    libvirt.VIR_DOMAIN_SHUTOFF: PowerState.OFF,
    libvirt.VIR_DOMAIN_CRASHED: PowerState.OFF,
}
# How a domain stands that a revert has put there.
_FROM_SNAPSHOT = {
    (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_FROM_SNAPSHOT),
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_FROM_SNAPSHOT),
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_FROM_SNAPSHOT),
}

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

_MEANINGS: dict[int, tuple[type[ProviderError], str]] = {
    libvirt.VIR_ERR_NO_DOMAIN: (ProviderMissing, "the provider has no such machine"),
    libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT: (ProviderMissing, "the machine has no such snapshot"),
    # Nothing was begun: it is what waiting for the domain ends with.
    libvirt.VIR_ERR_OPERATION_TIMEOUT: (ProviderBusy, "the provider is doing other work on this machine"),
    libvirt.VIR_ERR_RESOURCE_BUSY: (ProviderBusy, "the provider is doing other work on this machine"),
    **dict.fromkeys(
        (
            libvirt.VIR_ERR_AUTH_FAILED,
            libvirt.VIR_ERR_AUTH_CANCELLED,
            libvirt.VIR_ERR_AUTH_UNAVAILABLE,
            libvirt.VIR_ERR_ACCESS_DENIED,
            libvirt.VIR_ERR_OPERATION_DENIED,
        ),
        (ProviderDenied, "the provider does not accept the gateway's credentials, or they lack the right"),
    ),
}
_OF_THE_LINE = {libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE}
_FULL = ("No space left on device", "Disk quota exceeded")
_NOT_WRITTEN = "while writing VM state"  # QEMU says no more than that, and takes it back


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
    """One libvirt connection. A machine's ref is its UUID, a snapshot's its name."""

    name = "libvirt"

    def __init__(self, options: Options, concurrency: int) -> None:
        self._options = options
        self._asking = Threads(_ASKING)
        self._working = Threads(concurrency, patience=math.inf)  # memory is saved for as long as it takes
        self._lock = threading.Lock()
        self._open: _Line | None = None
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
        return await self._ask(lambda: _snapshots(self._domain(machine_ref)))

    async def create(self, work: Work, wish: CreateWish) -> SeenSnapshot:
        domain = await self._idle_domain(wish.machine_ref)
        machine = await self._ask(lambda: self._machine(domain))
        action = SnapshotAction.CREATE_WITH_MEMORY if wish.memory else SnapshotAction.CREATE
        if reason := machine.obstacle or _MATRIX.reason_against(action, machine.power_state):
            raise ProviderRefused("the provider would refuse", provider_message=reason)
        taken = await self._ask(lambda: {snapshot.getName() for snapshot in domain.listAllSnapshots(0)})
        name = wire_name(wish.name, work.token, _is_legal, taken, _LONGEST_NAME)
        wanted = _xml(name, mark(wish.description, work.token), wish.memory)
        await work.progress(None, "Saving the memory of the paused machine" if wish.memory else "Saving the disks")
        return await self._tell(lambda: _snapshot(domain.snapshotCreateXML(wanted, 0).getXMLDesc(0)))

    async def revert(self, work: Work, wish: RevertWish) -> None:
        domain = await self._idle_domain(wish.machine_ref)
        snapshot = await self._ask(lambda: domain.snapshotLookupByName(wish.snapshot_ref, 0))
        await work.checkpoint(str(await self._ask(lambda: _Stand.of(domain))))
        await self._tell(lambda: domain.revertToSnapshot(snapshot, 0))

    async def delete(self, work: Work, wish: DeleteWish) -> None:
        domain = await self._idle_domain(wish.machine_ref)
        snapshot = await self._ask(lambda: domain.snapshotLookupByName(wish.snapshot_ref, 0))
        await self._tell(lambda: snapshot.delete(0))

    async def recover(self, work: Work, wish: Wish) -> SeenSnapshot | Recovery:
        domain = await self._ask(lambda: self._domain(wish.machine_ref))
        while await self._ask(lambda: _control(domain)) in _AT_WORK:
            await asyncio.sleep(_LOOK)
        match wish:
            case CreateWish():
                return await self._recover_create(work, domain)
            case DeleteWish():
                there = await self._ask(lambda: _snapshots(domain))
                found = any(seen.ref == wish.snapshot_ref for seen in there.snapshots)
                return Recovery.NOT_BEGUN if found else Recovery.DONE
            case RevertWish():
                return await self._recover_revert(work, domain, wish)

    async def health(self) -> None:
        await self._ask(lambda: self._line().connection.getLibVersion())

    async def close(self) -> None:
        with contextlib.suppress(ProviderUnavailable):  # it hangs: it ends with the process
            await self._asking.ask(self._hang_up, patience=5)

    # ---- recovery

    async def _recover_create(self, work: Work, domain: Any) -> SeenSnapshot | Recovery:
        """QEMU writes on when libvirtd dies, but nobody then lets the domain go on, and libvirt knows of no snapshot.

        What QEMU wrote is replaced when the snapshot is made again: its name follows from the wish and the token.
        """
        there = await self._ask(lambda: _snapshots(domain))
        for seen in there.snapshots:
            if seen.token == work.token:
                return seen
        if await self._ask(lambda: tuple(domain.state(0))) == _LEFT_PAUSED:
            await self._ask(domain.resume)  # when it does not answer, recovery begins again
        return Recovery.NOT_BEGUN

    async def _recover_revert(self, work: Work, domain: Any, wish: RevertWish) -> Recovery:
        if work.task_ref is None:  # certain: how the domain stood is committed before it is handed over
            return Recovery.NOT_BEGUN
        before, now = _Stand.read(work.task_ref), await self._ask(lambda: _Stand.of(domain))
        moved = before.current != wish.snapshot_ref or (now.run != before.run and now.is_from_snapshot)
        if now.current == wish.snapshot_ref and moved:
            return Recovery.DONE
        raise OutcomeUnknown("the provider does not show that the machine was reverted")

    # ---- calls

    async def _ask(self, function: Callable[[], T]) -> T:
        """Calls what changes nothing."""
        try:
            return await self._asking.ask(function)
        except libvirt.libvirtError as error:
            raise _failure(error, handed_over=False) from None

    async def _tell(self, function: Callable[[], T]) -> T:
        """Calls what changes something, once."""
        try:
            return await self._working.tell(function)
        except libvirt.libvirtError as error:
            raise _failure(error, handed_over=True) from None

    def _line(self) -> "_Line":
        with self._lock:
            if self._open is not None and not self._open.is_alive():
                self._open.close()
                self._open = None
            if self._open is None:
                self._open = _Line(self._options, self._hear)
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
            if await self._ask(lambda: _control(domain)) != libvirt.VIR_DOMAIN_CONTROL_JOB:
                return domain
            await asyncio.sleep(_LOOK)
        raise ProviderBusy("the provider is doing other work on this machine")

    def _machine(self, domain: Any) -> SeenMachine:
        xml, line = ET.fromstring(domain.XMLDesc(0)), self._line()  # noqa: S314 - the library has written it
        return SeenMachine(
            ref=domain.UUIDString(),
            kind=MachineKind.VM,
            name=domain.name(),
            power_state=_POWER.get(domain.state(0)[0], PowerState.UNKNOWN),
            description=xml.findtext("description") or None,
            host=line.host,
            obstacle=_obstacle(xml, line.version),
        )

    def _all_machines(self) -> list[SeenMachine]:
        found = []
        for domain in self._line().connection.listAllDomains(0):
            try:
                found.append(self._machine(domain))
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:  # it went away since it was listed
                    raise
        return sorted(found, key=lambda machine: (machine.name, machine.ref))


# ---- the connection


_events = threading.Lock()
_events_begun = False


def _begin_events() -> None:
    """Runs libvirt's event loop, once in a process and before any connection: it keeps connections alive."""
    global _events_begun  # noqa: PLW0603 - the library has one for the process
    with _events:
        if not _events_begun:
            libvirt.registerErrorHandler(lambda *_: None, None)  # errors are raised; it would print them as well
            libvirt.virEventRegisterDefaultImpl()
            threading.Thread(target=_run_events, name="libvirt events", daemon=True).start()
            _events_begun = True


def _run_events() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


class _Line:
    """A connection that is heard. `hear` is told the ref of a domain that something happened to, None at the end."""

    def __init__(self, options: Options, hear: Callable[[str | None], None]) -> None:
        _begin_events()

        def answer(questions: list[list[Any]], _: Any) -> int:
            for question in questions:
                asks_name = question[0] in {libvirt.VIR_CRED_USERNAME, libvirt.VIR_CRED_AUTHNAME}
                question[4] = options.user if asks_name else options.password and options.password.value
            return 0 if options.user else -1

        try:
            self.connection = libvirt.openAuth(options.address, [_CREDENTIALS, answer, None], 0)
        except libvirt.libvirtError as error:
            failure = _failure(error, handed_over=False)
            if isinstance(failure, ProviderDenied):
                raise failure from None
            raise ProviderUnavailable("the provider cannot be reached", provider_message=_words(error)) from None
        self.host, self.version = self.connection.getHostname(), self.connection.getLibVersion()
        with contextlib.suppress(libvirt.libvirtError):  # a driver within this process has no line to keep alive
            self.connection.setKeepAlive(*_KEEPALIVE)
        self.connection.registerCloseCallback(lambda *_: hear(None), None)
        self._handle = self.connection.domainEventRegisterAny(
            None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lambda _, domain, *__: hear(domain.UUIDString()), None
        )

    def is_alive(self) -> bool:
        return bool(self.connection.isAlive())

    def close(self) -> None:
        """What is registered holds the connection open."""
        for let_go in (
            lambda: self.connection.domainEventDeregisterAny(self._handle),
            self.connection.unregisterCloseCallback,
            self.connection.close,
        ):
            with contextlib.suppress(libvirt.libvirtError):
                let_go()


_CREDENTIALS = [
    libvirt.VIR_CRED_USERNAME,
    libvirt.VIR_CRED_AUTHNAME,
    libvirt.VIR_CRED_PASSPHRASE,
    libvirt.VIR_CRED_NOECHOPROMPT,
]


def _failure(error: Any, *, handed_over: bool) -> ProviderError:
    words = _words(error)
    if error.get_error_code() in _MEANINGS:
        kind, message = _MEANINGS[error.get_error_code()]
        return kind(message, provider_message=words)
    if error.get_error_domain() in _OF_THE_LINE:
        if handed_over:
            return OutcomeUnknown("the connection to the provider was lost", provider_message=words)
        return ProviderUnavailable("the connection to the provider was lost", provider_message=words)
    if any(full in words for full in _FULL):
        return ProviderFull("the provider has no room for it", provider_message=words)
    if _NOT_WRITTEN in words:
        return ProviderRefused(
            "the memory could not be written to the machine's disk: see whether its storage is full",
            provider_message=words,
        )
    return ProviderRefused("the provider reported an error", provider_message=words)


def _words(error: Any) -> str:
    return str(error.get_error_message() or error)


# ---- what is seen


_AT_WORK = {libvirt.VIR_DOMAIN_CONTROL_JOB, libvirt.VIR_DOMAIN_CONTROL_OCCUPIED}
_LEFT_PAUSED = (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_SAVE)


def _control(domain: Any) -> int:
    """What libvirt is doing with the domain, without waiting for it."""
    try:
        return int(domain.controlInfo(0)[0])
    except libvirt.libvirtError as error:  # a domain that is off is not controlled; the test driver knows no control
        if error.get_error_code() in {libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_SUPPORT}:
            return int(libvirt.VIR_DOMAIN_CONTROL_OK)
        raise


@dataclass(frozen=True, slots=True)
class _Stand:
    """How a domain stands: its run (the number of its process, its state and the reason), and its current snapshot."""

    run: tuple[int, int, int]
    current: str

    @classmethod
    def of(cls, domain: Any) -> "_Stand":
        return cls((domain.ID(), *domain.state(0)), _current(domain) or "")

    @classmethod
    def read(cls, text: str) -> "_Stand":
        number, state, reason, current = text.split(" ", 3)
        return cls((int(number), int(state), int(reason)), current)

    def __str__(self) -> str:
        return f"{self.run[0]} {self.run[1]} {self.run[2]} {self.current}"

    @property
    def is_from_snapshot(self) -> bool:
        return self.run[1:] in _FROM_SNAPSHOT


def _current(domain: Any) -> str | None:
    try:
        return str(domain.snapshotCurrent(0).getName())
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT:
            return None
        raise


def _obstacle(xml: ET.Element, version: int) -> str | None:
    """Why QEMU cannot make an internal snapshot of such a domain, which libvirt would only say when it is tried."""
    if xml.get("type") == "test":
        return None
    disks = [disk for disk in xml.iterfind("devices/disk") if disk.find("source") is not None]
    disks = [disk for disk in disks if disk.get("device") != "cdrom" and disk.find("readonly") is None]
    for disk in disks:
        target, driver = disk.find("target"), disk.find("driver")
        name = "one of its disks" if target is None else f"its disk {target.get('dev')}"
        kind = "raw" if driver is None else driver.get("type", "raw")
        if kind != "qcow2":
            return f"{name} is {kind}, which cannot hold snapshots: convert it to qcow2"
        if disk.get("snapshot", "internal") != "internal":
            return (
                f"{name} is left out of internal snapshots by its configuration, and libvirt makes them of all or none"
            )
    if not disks:
        return "the machine has no disk that could hold a snapshot"
    loader = xml.find("os/loader")
    if loader is not None and loader.get("type") == "pflash" and version < _SNAPSHOTS_OF_FLASH:
        return "the machine boots from UEFI flash, of which this libvirt makes no internal snapshots"
    return None


def _snapshots(domain: Any) -> SeenSnapshots:
    for _ in range(3):
        try:
            found = domain.listAllSnapshots(libvirt.VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL)
            seen, current = [_snapshot(snapshot.getXMLDesc(0)) for snapshot in found], _current(domain)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT:  # one went away since it was listed
                raise
            continue
        if current is None or any(snapshot.ref == current for snapshot in seen):
            return SeenSnapshots(_half_made(domain, seen, current), current)
    raise ProviderBusy("the machine's snapshots are changing")


def _half_made(domain: Any, seen: list[SeenSnapshot], current: str | None) -> list[SeenSnapshot]:
    """The same; the youngest on top of the current one is not ready while the domain is held for a job."""
    if _control(domain) != libvirt.VIR_DOMAIN_CONTROL_JOB:
        return seen
    state, reason = domain.state(0)
    if state != libvirt.VIR_DOMAIN_PAUSED or reason == libvirt.VIR_DOMAIN_PAUSED_STARTING_UP:  # that is a revert
        return seen
    parents = {snapshot.parent_ref for snapshot in seen}
    young = [snapshot for snapshot in seen if snapshot.parent_ref == current and snapshot.ref not in parents]
    youngest = max(young, key=lambda snapshot: snapshot.created_at, default=None)
    return [replace(snapshot, ready=False) if snapshot is youngest else snapshot for snapshot in seen]


def _snapshot(text: str) -> SeenSnapshot:
    xml = ET.fromstring(text)  # noqa: S314 - as above
    name = xml.findtext("name", "")
    description, token = unmark(xml.findtext("description"))
    memory = xml.find("memory")
    return SeenSnapshot(
        ref=name,
        name=name,
        created_at=datetime.fromtimestamp(int(xml.findtext("creationTime", "0")), UTC),
        description=description,
        memory=memory is not None and memory.get("snapshot") in {"internal", "external"},
        parent_ref=xml.findtext("parent/name"),
        token=token,
    )


def _xml(name: str, description: str, memory: bool) -> str:
    """What is wished for is said, so that libvirt refuses when the machine has been started or stopped meanwhile."""
    root = ET.Element("domainsnapshot")
    ET.SubElement(root, "name").text = name
    ET.SubElement(root, "description").text = description
    ET.SubElement(root, "memory", snapshot="internal" if memory else "no")
    return ET.tostring(root, "unicode")


def _is_legal(name: str) -> bool:
    """Also for QEMU: it takes digits for the number of another snapshot. With a quote or a backslash libvirt saves the
    memory nowhere, calls that done, and a revert kills the machine.
    """
    return name.isprintable() and not name.startswith(".") and not name.isdecimal() and not _ILLEGAL & {*name}


_ILLEGAL = {"/", '"', "\\"}
