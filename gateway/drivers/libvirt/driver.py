"""The `libvirt` driver: the machines of one libvirt host, and their internal snapshots.

Connections. The library blocks, so it is called in threads. All reads share one connection and take turns; each write
in progress has its own connection, taken from a list of idle ones. Two threads never use one connection at the same
time, because libvirt before 10.0 then delays answers by seconds. A dead connection is replaced at its next use. A
hypervisor driver that runs in this process, such as `test:///` and `qemu:///embed`, is the exception: reads and writes
share one connection, because each connection to `test:///` has its own machines.

Identity. libvirt identifies a snapshot by its name alone, so a snapshot's ref is its name.

Busy machines. libvirt runs one job per domain. `control_state` returns without waiting whether a job runs. Writes raise
ProviderBusy while it does, and recovery waits until it has ended.

Recovery:

* create: done if a snapshot has the operation's token. Otherwise the domain is resumed if libvirtd died while it saved
  the memory, and the create is reported as not started.
* delete: done if the snapshot is no longer listed.
* revert: see `domains`. Without proof that it was executed, the outcome is unknown.
"""

import asyncio
import contextlib
import math
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar, assert_never

import libvirt

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
    UpdateCommand,
    Work,
    parsing,
)
from gateway.drivers.libvirt.connection import PARTIAL_FAILURE, LibvirtConnection, translate_error
from gateway.drivers.libvirt.domains import (
    MAX_NAME_LENGTH,
    control_state,
    is_ambiguous_id,
    is_legal_name,
    list_machines,
    list_snapshots,
    prepare_redefinition,
    raise_if_delete_loses_data,
    read_machine,
    read_snapshot,
    resume_if_left_paused,
    run_state,
    snapshot_xml,
    was_reverted,
)
from gateway.drivers.operation_tags import add_tag, provider_snapshot_name
from gateway.drivers.options import Secret, option
from gateway.drivers.threads import Threads
from gateway.errors import OutcomeUnknown, ProviderBusy, ProviderError, ProviderRefused, ProviderUnavailable
from gateway.models import MachineKind, PowerState, SnapshotAction

S = TypeVar("S")
T = TypeVar("T")

_POLL_INTERVAL = 0.2  # seconds between checks of a domain with a job
_BUSY_POLLS = 5  # checks until the domain counts as busy; a query by another client is also a job, but a short one
_READ_THREADS = 4

_NOT_READ = "The provider executed the operation, but its result could not be read."

_BUSY_STATES = {libvirt.VIR_DOMAIN_CONTROL_JOB, libvirt.VIR_DOMAIN_CONTROL_OCCUPIED}

_MATRIX = Matrix(
    {
        SnapshotAction.CREATE,
        SnapshotAction.CREATE_WITH_MEMORY,
        SnapshotAction.REVERT,
        SnapshotAction.DELETE,
        SnapshotAction.UPDATE,
    },
    {
        SnapshotAction.CREATE: {
            PowerState.ON: "A running machine can be saved only with its memory. Include the memory, or shut the"
            " machine down.",
            PowerState.SUSPENDED: "A suspended machine can be saved only with its memory. Include the memory, or shut"
            " the machine down.",
        },
        SnapshotAction.CREATE_WITH_MEMORY: {
            PowerState.OFF: "The machine is off, so it has no memory to save. Exclude the memory, or start the"
            " machine.",
        },
    },
    fixed={"name": "libvirt cannot rename a snapshot, because QEMU finds its data by the name."},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of a provider with this driver."""

    address: str = option("Connection URI of libvirt, such as qemu:///system.")
    user: str | None = option("User to log in as, if libvirt requires a login.", None)
    password: Secret | None = option("Password of the user.", None)

    def __post_init__(self) -> None:
        if ":" not in self.address:
            raise ValueError(f"Option 'address' must be a connection URI such as qemu:///system, not {self.address!r}.")
        if (self.user is None) != (self.password is None):
            raise ValueError("Options 'user' and 'password' must be set together.")


def make(provider: str, options: Options, concurrency: int) -> "LibvirtDriver":
    """Makes a driver, without connecting."""
    return LibvirtDriver(options, concurrency)


class LibvirtDriver(Driver):
    """One libvirt host. The ref of a machine is its UUID, the ref of a snapshot its name. Reads may take a minute."""

    name = "libvirt"

    def __init__(self, options: Options, concurrency: int, *, read_timeout: float = 60.0) -> None:
        self._options = options
        self._read_threads = Threads(_READ_THREADS, read_timeout)
        self._write_threads = Threads(concurrency, timeout=math.inf)  # saving memory has no time limit
        self._read_connection: LibvirtConnection | None = None  # used by one read at a time
        self._read_lock = threading.Lock()
        self._idle_connections: list[LibvirtConnection] = []  # for writes
        self._listeners: set[Callable[[str | None], None]] = set()

    def matrix(self, kind: MachineKind) -> Matrix:
        return _MATRIX

    async def machines(self) -> Sequence[ReportedMachine]:
        return await self._read(lambda conn: list_machines(conn.connection, conn.host, conn.version))

    async def change_hints(self) -> AsyncIterator[str]:
        loop = asyncio.get_running_loop()
        events: asyncio.Queue[str | None] = asyncio.Queue()

        def listener(machine_ref: str | None) -> None:
            with contextlib.suppress(RuntimeError):  # the event loop is closed, so the iterator is no longer used
                loop.call_soon_threadsafe(events.put_nowait, machine_ref)

        self._listeners.add(listener)
        try:
            await self.health()
            while (machine_ref := await events.get()) is not None:
                yield machine_ref
        finally:
            self._listeners.discard(listener)

    async def machine(self, machine_ref: str) -> ReportedMachine:
        return await self._read(lambda conn: read_machine(conn.domain(machine_ref), conn.host, conn.version))

    async def snapshots(self, machine_ref: str) -> ReportedSnapshots:
        return await self._read(lambda conn: list_snapshots(conn.domain(machine_ref)))

    async def create(self, work: Work, command: CreateCommand) -> ReportedSnapshot:
        ref = command.machine_ref
        await self._await_idle(ref)
        machine = await self.machine(ref)
        action = SnapshotAction.CREATE_WITH_MEMORY if command.memory else SnapshotAction.CREATE
        if reason := machine.snapshot_blocker or _MATRIX.unsupported_reason(action, machine.power_state):
            raise ProviderRefused("The provider cannot create this snapshot.", provider_message=reason)
        existing = {snapshot.ref: snapshot for snapshot in (await self.snapshots(ref)).snapshots}
        for snapshot in existing.values():
            if snapshot.token == work.token:  # an earlier call reached libvirt only after recovery had looked for it
                return snapshot
        name = provider_snapshot_name(command.name, work.token, is_legal_name, existing, MAX_NAME_LENGTH)
        xml = snapshot_xml(name, add_tag(command.description, work.token), command.memory)
        await work.progress(None, "Saving the memory of the paused machine" if command.memory else "Saving the disks")
        made = await self._write(
            lambda conn: conn.domain(ref), lambda domain: read_snapshot(domain.snapshotCreateXML(xml, 0))
        )
        if made.token != work.token:
            raise OutcomeUnknown(_NOT_READ, provider_message=made.problem)
        return made

    async def revert(self, work: Work, command: RevertCommand) -> None:
        ref, name = command.machine_ref, command.snapshot_ref
        await self._await_idle(ref)
        await self._read(lambda conn: conn.domain(ref).snapshotLookupByName(name, 0))
        if is_ambiguous_id(name):
            raise ProviderRefused(
                "QEMU could mistake the snapshot's name for the id of another snapshot, and revert to that one."
            )
        before = await self._read(lambda conn: run_state(conn.domain(ref)))
        await work.checkpoint(before)
        try:
            await self._write(
                lambda conn: conn.domain(ref).snapshotLookupByName(name, 0),
                lambda snapshot: snapshot.getDomain().revertToSnapshot(snapshot, 0),
                may_be_partial=True,
            )
        except (ProviderRefused, ProviderBusy) as error:
            if await self._is_unchanged(ref, before):
                raise
            raise OutcomeUnknown(PARTIAL_FAILURE, provider_message=error.provider_message) from None

    async def delete(self, work: Work, command: DeleteCommand) -> None:
        await self._await_idle(command.machine_ref)
        await self._read(
            lambda conn: raise_if_delete_loses_data(
                conn.domain(command.machine_ref).snapshotLookupByName(command.snapshot_ref, 0)
            )
        )
        await self._write(
            lambda conn: conn.domain(command.machine_ref).snapshotLookupByName(command.snapshot_ref, 0),
            lambda snapshot: snapshot.delete(0),
        )

    async def update(self, work: Work, command: UpdateCommand) -> None:
        name, description = command.snapshot_ref, command.description
        if command.name is not None or description is None:
            raise ProviderRefused(_MATRIX.fixed["name"])
        await self._await_idle(command.machine_ref)
        await self._write(
            lambda conn: prepare_redefinition(
                conn.domain(command.machine_ref).snapshotLookupByName(name, 0), description
            ),
            lambda redefine: redefine(),
        )

    async def recover(self, work: Work, command: RecoverableCommand) -> ReportedSnapshot | Recovery:
        ref = command.machine_ref
        while await self._read(lambda conn: control_state(conn.domain(ref))) in _BUSY_STATES:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_INTERVAL)
        match command:
            case CreateCommand():
                return await self._recover_create(work, command)
            case DeleteCommand():
                reported = await self.snapshots(ref)
                exists = any(snapshot.ref == command.snapshot_ref for snapshot in reported.snapshots)
                return Recovery.NOT_STARTED if exists else Recovery.DONE
            case RevertCommand():
                return await self._recover_revert(work, command)
            case _:
                assert_never(command)

    async def health(self) -> None:
        await self._read(lambda conn: conn.connection.getLibVersion())

    async def close(self) -> None:
        with contextlib.suppress(ProviderUnavailable):  # a connection that hangs ends with the process
            await self._read_threads.read(self._close_connections, time_limit=5)

    # ---- recovery

    async def _recover_create(self, work: Work, command: CreateCommand) -> ReportedSnapshot | Recovery:
        """The snapshot with the operation's token, or NOT_STARTED.

        If libvirtd dies while the memory is saved, QEMU completes its part of the snapshot, but libvirt does not list
        it and the domain stays paused. The domain is resumed here. The next attempt replaces what QEMU wrote, because
        it uses the same name, which depends only on the command and the token.
        """
        made = (await self.snapshots(command.machine_ref)).find_token(work.token)
        if made is not None:
            return made
        await self._read(lambda conn: resume_if_left_paused(conn.domain(command.machine_ref)))
        return Recovery.NOT_STARTED

    async def _recover_revert(self, work: Work, command: RevertCommand) -> Recovery:
        if work.task_ref is None:  # the run state is committed before the revert is sent, so it was not sent
            return Recovery.NOT_STARTED
        now = await self._read(lambda conn: run_state(conn.domain(command.machine_ref)))
        if was_reverted(work.task_ref, now, command.snapshot_ref):
            return Recovery.DONE
        raise OutcomeUnknown("The provider does not show whether the machine was reverted.")

    async def _is_unchanged(self, machine_ref: str, before: str) -> bool:
        """Whether the machine is certainly in the run state `before`, so that the failed revert did nothing."""
        try:
            return await self._read(lambda conn: run_state(conn.domain(machine_ref))) == before
        except ProviderError:
            return False

    async def _await_idle(self, machine_ref: str) -> None:
        """Returns if the machine has no job, and raises ProviderBusy if it has one for a second.

        Without this check libvirt would wait up to 30 seconds for the job, and act on the state that it finds then.
        """
        for _ in range(_BUSY_POLLS):
            if await self._read(lambda conn: control_state(conn.domain(machine_ref))) != libvirt.VIR_DOMAIN_CONTROL_JOB:
                return
            await asyncio.sleep(_POLL_INTERVAL)
        raise ProviderBusy("The provider is executing another task on this machine.")

    # ---- calls of the library

    async def _read(self, function: Callable[[LibvirtConnection], T]) -> T:
        """Runs a function that changes nothing, with the connection for reads."""

        def call() -> T:
            with self._read_lock:
                if self._read_connection is None or not self._read_connection.is_alive():
                    old, self._read_connection = self._read_connection, None
                    self._read_connection = self._connect(old, self._publish_event)
                with parsing():
                    return function(self._read_connection)

        try:
            return await self._read_threads.read(call)
        except libvirt.libvirtError as error:
            raise translate_error(error, sent=False) from None

    async def _write(
        self, find: Callable[[LibvirtConnection], S], function: Callable[[S], T], *, may_be_partial: bool = False
    ) -> T:
        """Runs a function that changes something, once, on the object that `find` returns.

        An error of `find` means that nothing was sent. `may_be_partial`: see `translate_error`.
        """
        shared = await self._read(lambda conn: None if conn.is_remote else conn)

        def act(conn: LibvirtConnection) -> T:
            sent = False
            try:
                found = find(conn)
                sent = True
                return function(found)
            except libvirt.libvirtError as error:
                raise translate_error(error, sent=sent, may_be_partial=may_be_partial) from None
            except ProviderError as error:
                if not sent:
                    raise
                raise OutcomeUnknown(_NOT_READ, provider_message=error.provider_message) from None

        def call() -> T:
            with self._write_connection() if shared is None else contextlib.nullcontext(shared) as conn:
                return act(conn)

        return await self._write_threads.write(call)

    @contextlib.contextmanager
    def _write_connection(self) -> Iterator[LibvirtConnection]:
        try:
            conn = self._idle_connections.pop()
        except IndexError:
            conn = self._connect(None)
        if not conn.is_alive():
            conn = self._connect(conn)
        try:
            yield conn
        finally:
            self._idle_connections.append(conn)

    def _connect(
        self, old: LibvirtConnection | None, on_event: Callable[[str | None], None] | None = None
    ) -> LibvirtConnection:
        """Opens a connection, after closing the one that it replaces."""
        if old is not None:
            old.close()
        password = self._options.password
        return LibvirtConnection(
            self._options.address, self._options.user, password.value if password else None, on_event
        )

    def _publish_event(self, machine_ref: str | None) -> None:
        for listener in list(self._listeners):
            listener(machine_ref)

    def _close_connections(self) -> None:
        with self._read_lock:
            connections = [self._read_connection, *self._idle_connections]
            self._read_connection, self._idle_connections = None, []
        for connection in connections:
            if connection is not None:
                connection.close()
        self._publish_event(None)
