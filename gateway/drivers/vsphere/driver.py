"""The `vsphere` driver: the virtual machines of a vCenter, or of a single ESXi host.

Work is a task of the provider's, which is checkpointed and then looked at until it has ended. The operation's token is
at the end of the snapshot's description.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pyVmomi import vim, vmodl

from gateway.drivers.base import (
    Canceled,
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
from gateway.drivers.operation_tags import mark, wire_name
from gateway.drivers.options import Secret, option
from gateway.drivers.threads import Threads
from gateway.drivers.vsphere import parsing
from gateway.drivers.vsphere.session import Login, Query, Session, Stub, meaning, placing, ref_of, selection
from gateway.errors import (
    OutcomeUnknown,
    ProviderDenied,
    ProviderError,
    ProviderMissing,
    ProviderRefused,
    ProviderUnavailable,
)
from gateway.models import MachineKind, PowerState, SnapshotAction

T = TypeVar("T")

_QUESTIONS = 4  # at a time
_LOOK, _LONGEST_LOOK = 0.1, 2.0  # seconds between looks at a task, which grow
_WATCH = 20  # seconds that one wait for changes takes at most
_FAREWELL = 2.0  # seconds that closing waits for

_NO_MEMORY = {
    PowerState.OFF: "the machine is off, so it has no memory to save",
    PowerState.SUSPENDED: "the machine is suspended, so its memory cannot be saved",
    PowerState.UNKNOWN: "the machine's power state is unknown, so its memory cannot be saved",
}
_MATRIX = Matrix({SnapshotAction.CREATE_WITH_MEMORY: _NO_MEMORY})

_AT_WORK = ("queued", "running")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where the vCenter or ESXi host is, and who the gateway is there."""

    address: str = option("where it is, such as https://vcenter.example.org")
    user: str = option("who the gateway is there, such as gateway@vsphere.local")
    password: Secret = option("the user's password")
    ca_file: str | None = option("a file of the certificates to trust, instead of the system's", None)
    thumbprint: str | None = option("the SHA-256 fingerprint of the only certificate to trust", None)
    timeout: float = option("seconds until a call is given up on", 60.0)

    def __post_init__(self) -> None:
        _endpoint(self.address)
        if self.thumbprint is not None and not re.fullmatch("[0-9a-f]{64}", _digits(self.thumbprint)):
            raise ValueError("has a 'thumbprint' that is not the SHA-256 of a certificate, 64 hexadecimal digits")
        if self.timeout < 1:
            raise ValueError("has a 'timeout' of less than one second")


def make(provider: str, options: Options, concurrency: int) -> "VsphereDriver":
    """A driver that has not connected yet."""
    return VsphereDriver(options, concurrency)


class VsphereDriver(Driver):
    """One vCenter or ESXi host. `settle`: seconds until a task shows whose beginning was not answered."""

    name = "vsphere"

    def __init__(self, options: Options, concurrency: int, settle: float = 1.0) -> None:
        self._settle = settle
        host, port = _endpoint(options.address)
        thumbprint = None if options.thumbprint is None else _digits(options.thumbprint)

        def stub() -> Stub:
            return Stub(
                host,
                port,
                ca_file=options.ca_file,
                thumbprint=thumbprint,
                timeout=options.timeout,
                connections=_QUESTIONS + concurrency + 1,
            )

        self._session = Session(stub, options.user, options.password.value)
        self._asking = Threads(_QUESTIONS, options.timeout)
        self._working = Threads(concurrency, options.timeout)
        self._watching = Threads(1, options.timeout)
        self._watch = max(1, min(_WATCH, int(options.timeout / 2)))

    def matrix(self, kind: MachineKind) -> Matrix:
        return _MATRIX

    async def machines(self) -> Sequence[ReportedMachine]:
        wanted = (parsing.VIEW_AND_HOSTS, parsing.MACHINE, parsing.HOST)
        return await self._ask(lambda login: parsing.machines(login.collect(login.view, *wanted)))

    async def hints(self) -> AsyncIterator[str]:
        collector = await self._ask(_collector)
        version, known = "", False  # the first answers say how everything is, which is no news
        try:
            while True:
                changes = await self._watching.ask(_changes, collector, version, self._watch)
                if changes is None:
                    continue
                if known:
                    for ref in _changed(changes):
                        yield ref
                version, known = changes.version, known or not changes.truncated
        finally:
            with contextlib.suppress(ProviderError):  # it ends with the session, too
                await self._asking.ask(_destroy, collector, patience=_FAREWELL)

    async def machine(self, machine_ref: str) -> ReportedMachine:
        wanted = (parsing.HOSTS, parsing.MACHINE, parsing.HOST)
        for machine in await self._ask(
            lambda login: parsing.machines(login.collect(login.machine(machine_ref), *wanted))
        ):
            return machine
        raise ProviderMissing("the machine is gone, or has become a template")

    async def snapshots(self, machine_ref: str) -> ReportedSnapshots:
        return await self._ask(
            lambda login: parsing.snapshots(login.values(login.machine(machine_ref), parsing.SNAPSHOTS))
        )

    async def create(self, work: Work, wish: CreateCommand) -> ReportedSnapshot:
        machine = await self.machine(wish.machine_ref)
        action = SnapshotAction.CREATE_WITH_MEMORY if wish.memory else SnapshotAction.CREATE
        if reason := _MATRIX.reason_against(action, machine.power_state):
            # The provider would make one without memory instead.
            raise ProviderRefused("the snapshot cannot have memory", provider_message=reason)
        name = parsing.escaped(wire_name(wish.name, work.token, parsing.is_legal, (), parsing.LONGEST_NAME))
        description = parsing.sendable(mark(wish.description, work.token))

        def begin(login: Login) -> Any:
            return login.machine(wish.machine_ref).CreateSnapshot_Task(name, description, wish.memory, False)

        info = await self._carry_out(work, wish, begin)
        with _handed_over():
            seen = await self.snapshots(wish.machine_ref)
        return _made(seen, work.token, info)

    async def revert(self, work: Work, wish: RevertCommand) -> None:
        await self._check(wish)
        await self._carry_out(work, wish, lambda login: login.snapshot(wish.snapshot_ref).RevertToSnapshot_Task())

    async def delete(self, work: Work, wish: DeleteCommand) -> None:
        await self._check(wish)
        await self._carry_out(work, wish, lambda login: login.snapshot(wish.snapshot_ref).RemoveSnapshot_Task(False))

    async def recover(self, work: Work, wish: DriverCommand) -> ReportedSnapshot | Recovery:
        try:
            info = await self._ended(work, wish, work.task_ref) if work.task_ref else None
            if info is None:  # the provider forgets a task some minutes after its end
                return await self._look(work, wish)
            fault = _fault(work, info)
            if isinstance(fault, ProviderUnavailable):
                return Recovery.NOT_BEGUN
            if fault is not None:
                raise fault
            if not isinstance(wish, CreateCommand):
                return Recovery.DONE
            return _made(await self.snapshots(wish.machine_ref), work.token, info)
        except ProviderDenied as error:
            raise OutcomeUnknown(error.message, provider_message=error.provider_message) from error

    async def health(self) -> None:
        await self._ask(lambda login: vim.ServiceInstance("ServiceInstance", login.stub).CurrentTime())

    async def close(self) -> None:
        with contextlib.suppress(ProviderError):
            await self._asking.ask(self._session.end, patience=_FAREWELL)

    # ---- work

    async def _ask(self, question: Callable[[Login], T]) -> T:
        return await self._asking.ask(self._session.ask, question)

    async def _check(self, wish: RevertCommand | DeleteCommand) -> None:
        """Raises ProviderMissing unless the snapshot is one of this machine's."""
        seen = await self.snapshots(wish.machine_ref)
        if wish.snapshot_ref not in {snapshot.ref for snapshot in seen.snapshots}:
            raise ProviderMissing("the machine has no such snapshot")

    async def _carry_out(self, work: Work, wish: DriverCommand, begin: Callable[[Login], Any]) -> Any:
        """Hands work over and waits; what is known of its task at its end. Raises what the task failed with."""
        try:
            task_ref = ref_of(await self._working.tell(self._session.tell, begin))
        except OutcomeUnknown:
            await asyncio.sleep(self._settle)
            raise
        work.task_ref = task_ref  # for a recovery that needs no restart
        await work.checkpoint(task_ref)
        with _handed_over():
            info = await self._ended(work, wish, task_ref)
        if info is None:
            raise OutcomeUnknown("the provider no longer knows the task")
        if fault := _fault(work, info):
            raise fault
        return info

    async def _ended(self, work: Work, wish: DriverCommand, task_ref: str) -> Any:
        """What is known of a task at its end; None when the provider no longer knows it."""
        pause, stopping = _LOOK, False
        while True:
            try:
                info = await self._ask(lambda login: login.values(login.task(task_ref), parsing.TASK)["info"])
            except ProviderMissing:
                return None
            if info.state not in _AT_WORK:
                return info
            await work.progress(info.progress, _phase(wish, info))
            # A revert or delete that is stopped half-way would leave something else than there was.
            if isinstance(wish, CreateCommand) and work.cancelled() and info.cancelable and not stopping:
                stopping = True
                with contextlib.suppress(ProviderError):  # the task says what has become of it
                    await self._working.tell(self._session.tell, lambda login: login.task(task_ref).CancelTask())
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_LOOK)

    async def _look(self, work: Work, wish: DriverCommand) -> ReportedSnapshot | Recovery:
        """What can be seen of work whose task is not known, after all work on the machine's snapshots has ended."""
        pause = _LOOK
        while infos := await self._at_work(wish.machine_ref):
            await work.progress(infos[0].progress, _phase(wish, infos[0]))
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_LOOK)
        snapshots = (await self.snapshots(wish.machine_ref)).snapshots
        match wish:
            case CreateCommand():
                return next((made for made in snapshots if made.token == work.token), Recovery.NOT_BEGUN)
            case DeleteCommand():
                there = any(snapshot.ref == wish.snapshot_ref for snapshot in snapshots)
                return Recovery.NOT_BEGUN if there else Recovery.DONE
            case RevertCommand():
                raise OutcomeUnknown("the provider no longer knows whether it has reverted the machine")

    async def _at_work(self, machine_ref: str) -> list[Any]:
        """The machine's tasks that make snapshots, delete them or revert to them, and have not ended."""
        wanted = (parsing.TASKS, parsing.NAME, parsing.TASK)
        found = await self._ask(lambda login: login.collect(login.machine(machine_ref), *wanted))
        infos = [thing.values["info"] for thing in found if "info" in thing.values]
        return [info for info in infos if info.state in _AT_WORK and "snapshot" in info.descriptionId.lower()]


@contextlib.contextmanager
def _handed_over() -> Iterator[None]:
    """What keeps the gateway from asking about work says nothing about the work."""
    try:
        yield
    except (ProviderUnavailable, ProviderDenied, ProviderMissing) as error:
        raise OutcomeUnknown(error.message, provider_message=error.provider_message) from error


# ---- options


def _endpoint(address: str) -> tuple[str, int]:
    """Host and port. Raises ValueError."""
    parts = urlsplit(address if "://" in address else f"https://{address}")
    with contextlib.suppress(ValueError):  # a port that is none
        if parts.scheme == "https" and parts.hostname and parts.username is None and parts.path in ("", "/", "/sdk"):
            return parts.hostname, parts.port or 443
    raise ValueError(f"has the 'address' {address!r}, which must be like https://vcenter.example.org:443")


def _digits(thumbprint: str) -> str:
    return thumbprint.replace(":", "").lower()


# ---- tasks


def _phase(wish: DriverCommand, info: Any) -> str:
    if info.state == "queued":
        return "Waiting in the provider's queue"
    match wish:
        case CreateCommand():
            return "Making the snapshot"
        case RevertCommand():
            return "Reverting to the snapshot"
        case DeleteCommand():
            return "Deleting the snapshot"


def _fault(work: Work, info: Any) -> Exception | None:
    """What a task failed with; None when it has succeeded."""
    if info.state == "success":
        return None
    fault = info.error
    if fault is None:
        return OutcomeUnknown("the provider does not say how the work ended")
    if isinstance(fault, vmodl.fault.RequestCanceled) and work.cancelled():
        return Canceled()
    error = meaning(fault)
    if isinstance(fault, vmodl.fault.HostCommunication) and not isinstance(fault, vmodl.fault.HostNotConnected):
        return OutcomeUnknown(error.message, provider_message=error.provider_message)  # the host may be at it still
    return error


def _made(seen: ReportedSnapshots, token: str, info: Any) -> ReportedSnapshot:
    """The snapshot that a task has made, even if its description has been changed since."""
    ref = None if info.result is None else ref_of(info.result)
    for snapshot in seen.snapshots:
        if snapshot.ref == ref or snapshot.token == token:
            return snapshot
    raise ProviderMissing("the snapshot was made, but is no longer there")


# ---- changes


def _collector(login: Login) -> Any:
    collector = login.content.propertyCollector.CreatePropertyCollector()
    collector.CreateFilter(selection(login.view, parsing.VIEW, parsing.WATCHED), False)
    return collector


def _changes(collector: Any, version: str, seconds: int) -> Any:
    with placing(ProviderUnavailable):
        return collector.WaitForUpdatesEx(version, Query.WaitOptions(maxWaitSeconds=seconds))


def _changed(changes: Any) -> list[str]:
    return [ref_of(change.obj) for part in changes.filterSet for change in part.objectSet]


def _destroy(collector: Any) -> None:
    with placing(ProviderUnavailable):
        collector.DestroyPropertyCollector()
