"""The `vsphere` driver: the virtual machines of a vCenter, or of a single ESXi host.

Commands. Each change starts a task at the provider. The driver checkpoints the task's ref, polls the task until it has
ended, and takes the outcome from it (`_run_task`). The operation's token is at the end of the snapshot's description.
An update is the exception: it is a single call, which returns when the provider has executed it.

Recovery. If a task was checkpointed and the provider still has it, its result is the outcome. Otherwise its ref was
lost with the answer, or vSphere has deleted it, as it does some minutes after the end of a task. Then the driver waits
until no task on the machine's snapshots runs, and looks at the snapshots (`_recover_without_task`): a create is done if
a snapshot has the token, a delete is done if the snapshot does not exist, and the outcome of a revert is unknown. A
task may become visible only some time after its lost answer, so `_run_task` waits `settle` seconds before it raises
OutcomeUnknown, which starts a recovery.

Change hints. Each iterator of `change_hints` has its own property collector, which watches a few properties of all
machines (`parsing.WATCHED`). `WaitForUpdatesEx` takes the version of the last update that was received. It returns the
objects that have changed since and a new version, or None after `maxWaitSeconds` without a change. The first updates
describe all machines, not changes. They may come in several parts, all but the last with `truncated` set; no hints are
yielded until the last part has been read. The wait occupies a thread, so it has its own pool of threads. A collector
ends with the session: the wait then raises, and the caller starts new change hints, which create a new collector.
"""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, assert_never
from urllib.parse import urlsplit

from pyVmomi import vim, vmodl

from gateway.drivers.base import (
    Canceled,
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
    UpdateCommand,
    Work,
    require_readable,
)
from gateway.drivers.operation_tags import add_tag, provider_snapshot_name
from gateway.drivers.options import Secret, option
from gateway.drivers.threads import Threads
from gateway.drivers.vsphere import parsing
from gateway.drivers.vsphere.session import (
    Login,
    PropertyCollector,
    Session,
    Stub,
    filter_spec,
    ref_of,
    translate_fault,
    translated_errors,
)
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

_READ_THREADS = 4
_MIN_POLL_INTERVAL, _MAX_POLL_INTERVAL = 0.1, 2.0  # seconds between polls of a task; grows by half each time
_MAX_UPDATE_WAIT = 20  # seconds; maximum duration of one WaitForUpdatesEx
_CLOSE_TIMEOUT = 2.0  # seconds

_NO_MEMORY = {
    PowerState.OFF: "The machine is off, so it has no memory to save.",
    PowerState.SUSPENDED: "The machine is suspended, so its memory cannot be saved.",
    PowerState.UNKNOWN: "The machine's power state is unknown, so its memory cannot be saved.",
}
_MATRIX = Matrix(
    {
        SnapshotAction.CREATE,
        SnapshotAction.CREATE_WITH_MEMORY,
        SnapshotAction.REVERT,
        SnapshotAction.DELETE,
        SnapshotAction.UPDATE,
    },
    {SnapshotAction.CREATE_WITH_MEMORY: _NO_MEMORY},
)

_UNFINISHED = ("queued", "running")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of a provider with this driver."""

    address: str = option("Address of the vCenter or ESXi host, such as https://vcenter.example.org.")
    user: str = option("User to log in as, such as gateway@vsphere.local.")
    password: Secret = option("Password of the user.")
    ca_file: str | None = option("PEM file of the certificates to trust, instead of the system's.", None)
    thumbprint: str | None = option("SHA-256 fingerprint of the only certificate to trust, instead of a chain.", None)
    timeout: float = option("Timeout of an API call, in seconds.", 60.0)

    def __post_init__(self) -> None:
        _endpoint(self.address)
        if self.thumbprint is not None and not re.fullmatch("[0-9a-f]{64}", _hex_digits(self.thumbprint)):
            raise ValueError(
                "Option 'thumbprint' must be the SHA-256 fingerprint of a certificate, 64 hexadecimal digits."
            )
        if self.timeout < 1:
            raise ValueError(f"Option 'timeout' must be at least 1, not {self.timeout!r}.")


def make(provider: str, options: Options, concurrency: int) -> "VsphereDriver":
    """Makes a driver, without connecting."""
    return VsphereDriver(options, concurrency)


class VsphereDriver(Driver):
    """One vCenter or ESXi host. `settle`: seconds until a task is visible for which the answer was lost."""

    name = "vsphere"

    def __init__(self, options: Options, concurrency: int, settle: float = 1.0) -> None:
        self._settle = settle
        host, port = _endpoint(options.address)
        thumbprint = None if options.thumbprint is None else _hex_digits(options.thumbprint)

        def stub() -> Stub:
            return Stub(
                host,
                port,
                ca_file=options.ca_file,
                thumbprint=thumbprint,
                timeout=options.timeout,
                connections=_READ_THREADS + concurrency + 1,
            )

        self._session = Session(stub, options.user, options.password.value)
        self._read_threads = Threads(_READ_THREADS, options.timeout)
        self._write_threads = Threads(concurrency, options.timeout)
        self._update_threads = Threads(1, options.timeout)
        self._update_wait = max(1, min(_MAX_UPDATE_WAIT, int(options.timeout / 2)))

    def matrix(self, kind: MachineKind) -> Matrix:
        return _MATRIX

    async def machines(self) -> Sequence[ReportedMachine]:
        selected = (parsing.VIEW_TO_MACHINES_AND_HOSTS, parsing.VIEW, parsing.MACHINE, parsing.HOST)
        return await self._read(lambda login: parsing.parse_machines(login.list_all(login.view, *selected)))

    async def change_hints(self) -> AsyncIterator[str]:
        collector = await self._read(_create_collector)
        version, initialized = "", False  # the first updates describe all machines and are not changes
        try:
            while True:
                updates = await self._update_threads.read(_wait_for_updates, collector, version, self._update_wait)
                if updates is None:
                    continue
                if initialized:
                    for ref in _updated_refs(updates):
                        yield ref
                version, initialized = updates.version, initialized or not updates.truncated
        finally:
            with contextlib.suppress(ProviderError):  # a collector that is not destroyed ends with the session
                await self._read_threads.read(_destroy_collector, collector, time_limit=_CLOSE_TIMEOUT)

    async def machine(self, machine_ref: str) -> ReportedMachine:
        selected = (parsing.MACHINE_TO_HOST, parsing.MACHINE, parsing.HOST)
        for machine in await self._read(
            lambda login: parsing.parse_machines(login.collect(login.machine(machine_ref), *selected))
        ):
            return require_readable(machine)
        raise ProviderMissing("The machine does not exist or is a template.")

    async def snapshots(self, machine_ref: str) -> ReportedSnapshots:
        def read(login: Login) -> ReportedSnapshots:
            found = login.values(login.machine(machine_ref), parsing.SNAPSHOTS)
            return parsing.parse_snapshots(found.values, found.skipped)

        return await self._read(read)

    async def create(self, work: Work, command: CreateCommand) -> ReportedSnapshot:
        machine = await self.machine(command.machine_ref)
        action = SnapshotAction.CREATE_WITH_MEMORY if command.memory else SnapshotAction.CREATE
        if reason := _MATRIX.unsupported_reason(action, machine.power_state):
            # The provider would create a snapshot without memory instead.
            raise ProviderRefused("The snapshot cannot include memory.", provider_message=reason)
        name = parsing.escaped(
            provider_snapshot_name(command.name, work.token, parsing.is_legal_name, (), parsing.MAX_NAME_LENGTH)
        )
        description = parsing.xml_safe(add_tag(command.description, work.token))

        def start(login: Login) -> Any:
            return login.machine(command.machine_ref).CreateSnapshot_Task(name, description, command.memory, False)

        info = await self._run_task(work, command, start)
        with _errors_as_unknown_outcome():
            reported = await self.snapshots(command.machine_ref)
        return _find_created(reported, work.token, info)

    async def revert(self, work: Work, command: RevertCommand) -> None:
        await self._require_snapshot(command)
        await self._run_task(work, command, lambda login: login.snapshot(command.snapshot_ref).RevertToSnapshot_Task())

    async def delete(self, work: Work, command: DeleteCommand) -> None:
        await self._require_snapshot(command)
        await self._run_task(
            work, command, lambda login: login.snapshot(command.snapshot_ref).RemoveSnapshot_Task(False)
        )

    async def update(self, work: Work, command: UpdateCommand) -> None:
        snapshot = await self._require_snapshot(command)
        name = command.name and parsing.escaped(
            provider_snapshot_name(command.name, work.token, parsing.is_legal_name, (), parsing.MAX_NAME_LENGTH)
        )
        description = command.description
        if description is not None:
            description = parsing.xml_safe(add_tag(description, snapshot.token))

        def rename(login: Login) -> None:
            try:
                login.snapshot(command.snapshot_ref).RenameSnapshot(name, description)
            except vmodl.fault.HostCommunication as fault:
                raise _host_error(fault) from None

        await self._write_threads.write(self._session.write, rename)

    async def recover(self, work: Work, command: RecoverableCommand) -> ReportedSnapshot | Recovery:
        try:
            info = await self._await_task(work, command, work.task_ref) if work.task_ref else None
            if info is None:  # the provider deletes a task some minutes after its end
                return await self._recover_without_task(work, command)
            error = _task_error(work, info)
            if isinstance(error, ProviderUnavailable):
                return Recovery.NOT_STARTED
            if error is not None:
                raise error
            if not isinstance(command, CreateCommand):
                return Recovery.DONE
            return _find_created(await self.snapshots(command.machine_ref), work.token, info)
        except ProviderDenied as denied:
            raise OutcomeUnknown(denied.message, provider_message=denied.provider_message) from denied

    async def health(self) -> None:
        await self._read(lambda login: vim.ServiceInstance("ServiceInstance", login.stub).CurrentTime())

    async def close(self) -> None:
        with contextlib.suppress(ProviderError):
            await self._read_threads.read(self._session.log_out, time_limit=_CLOSE_TIMEOUT)

    # ---- calls and tasks

    async def _read(self, function: Callable[[Login], T]) -> T:
        return await self._read_threads.read(self._session.read, function)

    async def _require_snapshot(self, command: RevertCommand | DeleteCommand | UpdateCommand) -> ReportedSnapshot:
        """The snapshot. Raises ProviderMissing if it is not one of this machine's."""
        reported = await self.snapshots(command.machine_ref)
        for snapshot in reported.snapshots:
            if snapshot.ref == command.snapshot_ref:
                return snapshot
        if reported.omitted:  # one of these may be the snapshot
            raise ProviderUnavailable(reported.omitted[0])
        raise ProviderMissing("The machine has no such snapshot.")

    async def _run_task(self, work: Work, command: RecoverableCommand, start: Callable[[Login], Any]) -> Any:
        """Starts a task, checkpoints it and waits for its end; its `info`. Raises the error with which it failed."""
        try:
            task_ref = ref_of(await self._write_threads.write(self._session.write, start))
        except OutcomeUnknown:
            await asyncio.sleep(self._settle)
            raise
        work.task_ref = task_ref  # for a recovery with the same Work
        await work.checkpoint(task_ref)
        with _errors_as_unknown_outcome():
            info = await self._await_task(work, command, task_ref)
        if info is None:
            raise OutcomeUnknown("The provider no longer has the task.")
        if error := _task_error(work, info):
            raise error
        return info

    async def _await_task(self, work: Work, command: RecoverableCommand, task_ref: str) -> Any:
        """Waits until a task has ended, and reports its progress; its `info`, or None if the provider has no such task.

        Cancels the task if cancellation is requested and the provider allows it.
        """
        interval, cancel_sent = _MIN_POLL_INTERVAL, False
        while True:
            try:
                info = await self._read(
                    lambda login: parsing.task_info(login.values(login.task(task_ref), parsing.TASK))
                )
            except ProviderMissing:
                return None
            if info.state not in _UNFINISHED:
                return info
            await work.progress(parsing.percent(info), _phase(command, info))
            # Only creates are canceled. A canceled revert or delete would leave the machine in an intermediate state.
            if isinstance(command, CreateCommand) and work.cancel_requested() and info.cancelable and not cancel_sent:
                cancel_sent = True
                with contextlib.suppress(ProviderError):  # the state of the task shows whether it was canceled
                    await self._write_threads.write(
                        self._session.write, lambda login: login.task(task_ref).CancelTask()
                    )
            await asyncio.sleep(interval)
            interval = min(interval * 1.5, _MAX_POLL_INTERVAL)

    async def _recover_without_task(self, work: Work, command: RecoverableCommand) -> ReportedSnapshot | Recovery:
        """The outcome of a command without a task, once no task on the machine's snapshots runs."""
        interval = _MIN_POLL_INTERVAL
        while infos := await self._unfinished_tasks(command.machine_ref):
            await work.progress(parsing.percent(infos[0]), _phase(command, infos[0]))
            await asyncio.sleep(interval)
            interval = min(interval * 1.5, _MAX_POLL_INTERVAL)
        reported = await self.snapshots(command.machine_ref)
        match command:
            case CreateCommand():
                return reported.find_token(work.token) or Recovery.NOT_STARTED
            case DeleteCommand():
                if any(snapshot.ref == command.snapshot_ref for snapshot in reported.snapshots):
                    return Recovery.NOT_STARTED
                if reported.omitted:  # one of these may be the snapshot
                    raise OutcomeUnknown(f"It is unknown whether the snapshot was deleted. {reported.omitted[0]}")
                return Recovery.DONE
            case RevertCommand():
                raise OutcomeUnknown(
                    "The provider no longer has the task, so it is unknown whether it reverted the machine."
                )
            case _:
                assert_never(command)

    async def _unfinished_tasks(self, machine_ref: str) -> list[Any]:
        """The `info` of the machine's unfinished tasks that create, delete or revert to snapshots."""
        selected = (parsing.MACHINE_TO_TASKS, parsing.MACHINE_NAME, parsing.TASK)
        found = await self._read(lambda login: login.collect(login.machine(machine_ref), *selected))
        infos = [parsing.task_info(each) for each in found if "info" in each.values]
        return [info for info in infos if info.state in _UNFINISHED and "snapshot" in info.descriptionId.lower()]


@contextlib.contextmanager
def _errors_as_unknown_outcome() -> Iterator[None]:
    """Raises errors of reads as OutcomeUnknown. Use it after a task was started: they do not mean that it failed."""
    try:
        yield
    except (ProviderUnavailable, ProviderDenied, ProviderMissing) as error:
        raise OutcomeUnknown(error.message, provider_message=error.provider_message) from error


# ---- options


def _endpoint(address: str) -> tuple[str, int]:
    """Host and port of an address. Raises ValueError."""
    parts = urlsplit(address if "://" in address else f"https://{address}")
    with contextlib.suppress(ValueError):  # an invalid port
        if parts.scheme == "https" and parts.hostname and parts.username is None and parts.path in ("", "/", "/sdk"):
            return parts.hostname, parts.port or 443
    raise ValueError(f"Option 'address' must be a URL such as https://vcenter.example.org:443, not {address!r}.")


def _hex_digits(thumbprint: str) -> str:
    return thumbprint.replace(":", "").lower()


# ---- tasks


def _phase(command: RecoverableCommand, info: Any) -> str:
    """The phase of a task, as text for people."""
    if info.state == "queued":
        return "Waiting in the provider's queue"
    match command:
        case CreateCommand():
            return "Creating the snapshot"
        case RevertCommand():
            return "Reverting to the snapshot"
        case DeleteCommand():
            return "Deleting the snapshot"
        case _:
            assert_never(command)


def _task_error(work: Work, info: Any) -> Exception | None:
    """The error with which a task failed; None if it succeeded."""
    if info.state == "success":
        return None
    fault = info.error
    if fault is None:
        return OutcomeUnknown("The provider did not report the outcome of the task.")
    if isinstance(fault, vmodl.fault.RequestCanceled) and work.cancel_requested():
        return Canceled()
    return _host_error(fault)


def _host_error(fault: Any) -> ProviderError:
    """The error for a fault that the provider reports after it has passed the work on to the machine's host."""
    error = translate_fault(fault)
    if isinstance(fault, vmodl.fault.HostCommunication) and not isinstance(fault, vmodl.fault.HostNotConnected):
        return OutcomeUnknown(error.message, provider_message=error.provider_message)  # the host may still execute it
    return error


def _find_created(reported: ReportedSnapshots, token: str, info: Any) -> ReportedSnapshot:
    """The snapshot that a task created: by the task's result, or by the token. Its description may have been edited."""
    ref = parsing.created_ref(info)
    made = next((snapshot for snapshot in reported.snapshots if snapshot.ref == ref), None) or reported.find_token(
        token
    )
    if made is None:
        raise ProviderMissing("The snapshot was created, but it no longer exists.")
    return made


# ---- change hints


def _create_collector(login: Login) -> Any:
    collector = login.content.propertyCollector.CreatePropertyCollector()
    collector.CreateFilter(filter_spec(login.view, parsing.VIEW_TO_MACHINES, parsing.WATCHED), False)
    return collector


def _wait_for_updates(collector: Any, version: str, seconds: int) -> Any:
    with translated_errors(ProviderUnavailable):
        return collector.WaitForUpdatesEx(version, PropertyCollector.WaitOptions(maxWaitSeconds=seconds))


def _updated_refs(updates: Any) -> list[str]:
    found = [update.obj for part in updates.filterSet for update in part.objectSet]
    return [ref_of(machine) for machine in found if isinstance(machine, vim.VirtualMachine)]


def _destroy_collector(collector: Any) -> None:
    with translated_errors(ProviderUnavailable):
        collector.DestroyPropertyCollector()
