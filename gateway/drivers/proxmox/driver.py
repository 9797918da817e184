"""The `proxmox` driver: the QEMU machines of a Proxmox VE cluster.

Identity. Machines move between nodes, so the ref of a machine is its vmid. If a call fails, the driver looks up the
machine's node again. Snapshot names can be reused, so the ref of a snapshot is its name and its creation time.

Tasks. Each change starts a task, which runs to its end whether or not a client waits. The HTTP response contains only
the id of the task (UPID). Its outcome is its *exit status*, a text: OK, WARNINGS, or an error message. The driver
checkpoints the UPID, polls the task until it has stopped (`_await_task`), and then determines the outcome. An update is
the exception: it is executed before the response.

Outcome of a create or delete (`_determine_outcome`). The exit status alone is not reliable: a task can report an error
after it has done its work, and a node keeps only its latest tasks. So the snapshot itself is checked first. A create is
identified by the operation's token at the end of the description, a delete by the snapshot's ref. Proxmox VE writes a
snapshot into the machine's configuration before it snapshots the disks, with `snapstate: prepare`, and sets
`snapstate: delete` while it deletes one. In both cases `ready` is False. Such a snapshot may belong to a task whose
UPID was lost, so the driver waits for running tasks of that kind on the machine, and reads the snapshots again.

    exit status    create: the snapshot     delete: the snapshot     outcome
    any or none    exists, ready            does not exist           done
    any            exists, not ready        exists, not ready        stopped halfway: refused
    none           exists, not ready        -                        stopped halfway: refused
    none           does not exist           exists                   not started
    error          does not exist           exists, ready            the error
    OK, WARNINGS   does not exist           -                        missing: deleted since
    OK, WARNINGS   -                        exists, ready            unknown

Outcome of a revert. A revert changes no snapshot, and *current* proves nothing if the machine was on that snapshot
before. So only the task shows the outcome; if the node no longer has the task, the outcome is unknown.

A revert whose response is lost has no checkpointed UPID. Therefore the driver checkpoints the machine's latest revert
task as "after:NODE:UPID" before it sends the revert, and recovery looks for revert tasks that started after that one
(`_recover_lost_revert`). None: not started. Exactly one, successful, and the machine is on the snapshot: done. Exactly
one, and its error means that nothing was changed: not started. Else the outcome is unknown, because a task may be
another client's.
"""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, assert_never
from urllib.parse import urlsplit

from proxmoxer.backends.https import Backend

from gateway.drivers.base import (
    CreateCommand,
    DeleteCommand,
    Driver,
    DriverCommand,
    Matrix,
    RecoverableCommand,
    Recovery,
    ReportedMachine,
    ReportedSnapshot,
    ReportedSnapshots,
    RevertCommand,
    UpdateCommand,
    Work,
)
from gateway.drivers.operation_tags import add_tag, provider_snapshot_name
from gateway.drivers.options import Secret, option
from gateway.drivers.proxmox.api import (
    Client,
    Cluster,
    Listing,
    NameTaken,
    TaskNotFound,
    is_success,
    malformed_response,
    parse_cluster,
    parse_listing,
    parse_machine,
    parse_node,
    parse_progress,
    require_list,
    require_object,
    started_at,
    translate_message,
    was_interrupted,
)
from gateway.drivers.threads import Threads
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

_MATRIX = Matrix(
    {
        SnapshotAction.CREATE,
        SnapshotAction.CREATE_WITH_MEMORY,
        SnapshotAction.REVERT,
        SnapshotAction.DELETE,
        SnapshotAction.UPDATE,
    },
    {
        SnapshotAction.CREATE_WITH_MEMORY: {
            PowerState.OFF: "The machine is off, so it has no memory to save.",
            PowerState.UNKNOWN: "The machine's power state is unknown, so its memory cannot be saved.",
        }
    },
    fixed={"name": "Proxmox VE cannot rename a snapshot."},
)
_LEGAL_NAME = re.compile(r"(?!(?i:current|pending)\Z)[A-Za-z][A-Za-z0-9_-]+")
_MAX_NAME_LENGTH = 40
_TASK_TYPES: dict[type[RecoverableCommand], str] = {
    CreateCommand: "qmsnapshot",
    RevertCommand: "qmrollback",
    DeleteCommand: "qmdelsnapshot",
}
_READ_THREADS = 4
_MAX_NODES = 1_000  # of a cluster; each is asked for its machines
_MIN_POLL_INTERVAL, _MAX_POLL_INTERVAL = 0.1, 2.0  # seconds between polls of a task; grows by half each time

_Outcome = ReportedSnapshot | Recovery | ProviderError


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of a provider with this driver: an endpoint, and a user with a password or an API token."""

    address: str = option("Address of a node of the cluster, such as https://pve.example:8006.")
    user: str = option("User and its realm, such as gateway@pve.")
    password: Secret | None = option("Password of the user; not with an API token.", None)
    token_name: str | None = option("Name of the user's API token.", None)
    token_value: Secret | None = option("Secret of the API token.", None)
    ca_file: str | None = option("PEM file of the certificate authority that signed the nodes' certificates.", None)
    timeout: float = option("Timeout of an API call, in seconds.", 30.0)

    def __post_init__(self) -> None:
        endpoint(self.address)
        if "@" not in self.user:
            raise ValueError(f"Option 'user' must include the realm, such as gateway@pve, not {self.user!r}.")
        token = self.token_name is not None
        if token != (self.token_value is not None) or token == (self.password is not None):
            raise ValueError("Either option 'password' or options 'token_name' and 'token_value' are required.")
        if self.timeout <= 0:
            raise ValueError(f"Option 'timeout' must be greater than 0, not {self.timeout!r}.")


def make(provider: str, options: Options, concurrency: int) -> "ProxmoxDriver":
    """Makes a driver, without connecting."""
    host, port = endpoint(options.address)

    def log_in() -> Backend:
        return Backend(
            host,
            port=port,
            user=options.user,
            password=options.password and options.password.value,
            token_name=options.token_name,
            token_value=options.token_value and options.token_value.value,
            verify_ssl=options.ca_file or True,
            timeout=options.timeout,
        )

    timeout = 3 * options.timeout  # a call may include a failed attempt and a login
    client = Client(log_in, _READ_THREADS + concurrency, login_expires=options.password is not None)
    return ProxmoxDriver(client, Threads(_READ_THREADS, timeout), Threads(concurrency, timeout))


def endpoint(address: str) -> tuple[str, int]:
    """Host and port of an address. Raises ValueError."""
    url = urlsplit(address if "://" in address else f"https://{address}")
    try:
        host, port = url.hostname or "", url.port or 8006
    except ValueError:
        host, port = "", 0
    if url.scheme != "https" or not host or url.path.strip("/") or url.query or url.username:
        raise ValueError(f"Option 'address' must be a URL such as https://pve.example:8006, not {address!r}.")
    return f"[{host}]" if ":" in host else host, port


class ProxmoxDriver(Driver):
    """One Proxmox VE cluster. `write_threads` run the calls that change something."""

    name = "proxmox"

    def __init__(self, client: Client, read_threads: Threads, write_threads: Threads) -> None:
        self._client = client
        self._read_threads = read_threads
        self._write_threads = write_threads
        self._nodes: dict[str, str] = {}  # the last known node of each machine
        self._names: dict[str, str] = {}  # the last known name of each machine

    def matrix(self, kind: MachineKind) -> Matrix:
        return _MATRIX

    async def machines(self) -> Sequence[ReportedMachine]:
        cluster = await self._get_cluster()
        known = {ref: cluster.node(ref) for ref in cluster.entries}
        self._nodes = {ref: node for ref, node in known.items() if node is not None}
        nodes = sorted({*self._nodes.values()} - cluster.offline)
        if len(nodes) > _MAX_NODES:
            raise ProviderUnavailable(f"The provider lists more than {_MAX_NODES:,} nodes.")
        states = dict(zip(nodes, await asyncio.gather(*map(self._node_machines, nodes)), strict=True))

        def parse() -> list[ReportedMachine]:
            machines = [*cluster.unreadable]
            for ref, entry in cluster.entries.items():
                node = known[ref]
                on_node = None if node is None else states.get(node)
                state = {**entry, "status": "unknown"} if on_node is None else on_node.get(ref, entry)
                machines.append(parse_machine(state, ref, node, self._names.get(ref)))
            return machines

        machines = await self._read_threads.read(parse)
        self._names = {machine.ref: machine.name for machine in machines}
        return machines

    async def machine(self, machine_ref: str) -> ReportedMachine:
        try:
            node, state = await self._get_from_machine(machine_ref, "status/current")
        except ProviderUnavailable:
            entry, node = await self._find_machine(machine_ref)
            if entry.get("status") != "unknown":
                raise
            return parse_machine(entry, machine_ref, node, self._names.get(machine_ref))
        return parse_machine(require_object(state), machine_ref, node, self._names.get(machine_ref))

    async def snapshots(self, machine_ref: str) -> ReportedSnapshots:
        return (await self._get_listing(machine_ref)).reported

    async def create(self, work: Work, command: CreateCommand) -> ReportedSnapshot:
        if command.memory:  # if the machine has no memory, Proxmox VE silently creates a snapshot without memory
            power = (await self.machine(command.machine_ref)).power_state
            if reason := _MATRIX.unsupported_reason(SnapshotAction.CREATE_WITH_MEMORY, power):
                raise ProviderRefused(reason)
        listing = await self._get_listing(command.machine_ref)
        taken = {snapshot.name for snapshot in listing.reported.snapshots}
        more = {"description": add_tag(command.description, work.token), "vmstate": int(command.memory)}
        name = provider_snapshot_name(command.name, work.token, _LEGAL_NAME.fullmatch, taken, _MAX_NAME_LENGTH)
        outcome = await self._run_task(work, command, listing, "post", "snapshot", snapname=name, **more)
        if isinstance(outcome, NameTaken):
            name = provider_snapshot_name(command.name, work.token, _LEGAL_NAME.fullmatch, {name}, _MAX_NAME_LENGTH)
            outcome = await self._run_task(work, command, listing, "post", "snapshot", snapname=name, **more)
        created = _raise_or_return(outcome)
        if not isinstance(created, ReportedSnapshot):
            raise OutcomeUnknown("The provider no longer has the task.")
        return created

    async def revert(self, work: Work, command: RevertCommand) -> None:
        listing = await self._get_listing(command.machine_ref)
        snapshot = _require(_find_target(command, listing))
        # Only its task shows a revert, so recovery needs to know which revert tasks existed before it.
        last = max(await self._list_tasks(listing.node, command), key=started_at, default="")
        await self._checkpoint(work, f"after:{listing.node}:{last}")
        _raise_or_return(await self._run_task(work, command, listing, "post", f"snapshot/{snapshot.name}/rollback"))

    async def delete(self, work: Work, command: DeleteCommand) -> None:
        listing = await self._get_listing(command.machine_ref)
        snapshot = _require(_find_target(command, listing))
        # An incomplete snapshot may be missing on some disks. Proxmox VE itself also deletes it with `force`.
        force = 1 if snapshot.ref in listing.incomplete else None
        _raise_or_return(
            await self._run_task(work, command, listing, "delete", f"snapshot/{snapshot.name}", force=force)
        )

    async def update(self, work: Work, command: UpdateCommand) -> None:
        if command.name is not None or command.description is None:
            raise ProviderRefused(_MATRIX.fixed["name"])
        listing = await self._get_listing(command.machine_ref)
        snapshot = _require(_find_target(command, listing))
        # Proxmox VE ignores an empty parameter, and reports success. Trailing blanks are not part of a description.
        description = add_tag(command.description, snapshot.token) or " "
        path = f"snapshot/{snapshot.name}/config"
        if await self._write(command, listing, "put", path, description=description) is not None:
            raise malformed_response(change=True)

    async def recover(self, work: Work, command: RecoverableCommand) -> ReportedSnapshot | Recovery:
        kind, _, rest = (work.task_ref or "").partition(":")
        try:
            if kind == "UPID":
                outcome = await self._determine_outcome(work, command, await self._await_task(work, f"UPID:{rest}"))
            elif isinstance(command, RevertCommand):
                outcome = await self._recover_lost_revert(work, command, *rest.split(":", 1))
            else:  # a running task of this kind may be the command's; it has locked the machine in any case
                await self._await_running_tasks(work, command, (await self._get_listing(command.machine_ref)).node)
                outcome = await self._determine_outcome(work, command, None)
        except ProviderDenied as error:
            raise OutcomeUnknown(error.message, provider_message=error.provider_message) from None
        return Recovery.NOT_STARTED if isinstance(outcome, ProviderUnavailable) else _raise_or_return(outcome)

    async def health(self) -> None:
        permissions = require_object(await self._get("access/permissions"))
        may_list = any("VM.Audit" in granted for granted in permissions.values() if isinstance(granted, dict))
        if not may_list:
            raise ProviderDenied(
                "The gateway's user cannot list machines at the provider, because it lacks the privilege VM.Audit."
            )

    async def close(self) -> None:
        self._client.close()

    # ---- tasks. An _Outcome that is a ProviderError is returned, not raised: the provider did not execute the command.

    async def _run_task(
        self, work: Work, command: RecoverableCommand, listing: Listing, method: str, path: str, **parameters: Any
    ) -> _Outcome:
        """Starts a task, checkpoints it, waits for its end, and determines the outcome of the command."""
        upid = await self._write(command, listing, method, path, **parameters)
        if not isinstance(upid, str) or not upid.startswith("UPID:"):
            raise malformed_response(change=True)
        await self._checkpoint(work, upid)
        try:
            return await self._determine_outcome(work, command, await self._await_task(work, upid))
        except (ProviderUnavailable, ProviderDenied) as error:
            raise OutcomeUnknown(error.message, provider_message=error.provider_message) from None

    async def _write(self, command: DriverCommand, listing: Listing, method: str, path: str, **parameters: Any) -> Any:
        """Sends a change to a path below a machine. Returns the data of the response.

        Raises ProviderUnavailable if the machine is no longer on this node, or if the snapshot of an update has just
        been deleted. The next attempt finds either.
        """
        path = f"nodes/{listing.node}/qemu/{command.machine_ref}/{path}"
        try:
            return await self._write_threads.write(self._client.call, True, method, path, parameters)
        except ProviderMissing:
            await self._find_machine(command.machine_ref)
            raise ProviderUnavailable("The machine is being migrated to another node.") from None

    async def _checkpoint(self, work: Work, task_ref: str) -> None:
        work.task_ref = task_ref
        await work.checkpoint(task_ref)

    async def _await_task(self, work: Work, upid: str) -> str | None:
        """Waits until a task has stopped, and reports its progress. Its exit status; None if the task is not found."""
        task = f"nodes/{upid.split(':')[1]}/tasks/{upid}"
        interval, lines_read = _MIN_POLL_INTERVAL, 0
        try:
            while (state := require_object(await self._get(f"{task}/status"))).get("status") != "stopped":
                lines = require_list(await self._get(f"{task}/log", start=lines_read, limit=500))
                if lines:
                    lines_read += len(lines)
                    await work.progress(*parse_progress(lines[-1]))
                await asyncio.sleep(interval)
                interval = min(_MAX_POLL_INTERVAL, interval * 1.5)
        except TaskNotFound:
            return None
        return str(state.get("exitstatus"))

    async def _await_running_tasks(self, work: Work, command: RecoverableCommand, node: str) -> None:
        """Waits for all running tasks on the machine of the command's type."""
        for upid in await self._list_tasks(node, command, running=True):
            await self._await_task(work, upid)

    async def _determine_outcome(self, work: Work, command: RecoverableCommand, exit_status: str | None) -> _Outcome:
        """The outcome of a command, as the module describes. `exit_status`: of its task; None if there is no task."""
        match command:
            case RevertCommand():
                return await self._revert_outcome(command, exit_status)
            case CreateCommand() | DeleteCommand():
                return await self._existence_outcome(work, command, exit_status)
            case _:
                assert_never(command)

    async def _existence_outcome(
        self, work: Work, command: CreateCommand | DeleteCommand, exit_status: str | None
    ) -> _Outcome:
        """The outcome of a create or delete, from whether the snapshot exists."""
        listing = await self._get_listing(command.machine_ref)
        target = _find_target(command, listing, work.token)
        if target is not None and not target.ready:  # a task whose response was lost may be working on it
            await self._await_running_tasks(work, command, listing.node)
            target = _find_target(command, await self._get_listing(command.machine_ref), work.token)
        create = isinstance(command, CreateCommand)
        if target is None and not create:
            return Recovery.DONE
        if target is not None and target.ready and create:
            return target
        if target is not None and not target.ready and (create or exit_status is not None):
            return _stopped_halfway(exit_status)
        if exit_status is None:
            return Recovery.NOT_STARTED
        if not is_success(exit_status):
            return translate_message(exit_status)
        if create:
            return ProviderMissing("The snapshot was created, but it no longer exists.")
        return OutcomeUnknown("The provider reported that the snapshot was deleted, but still lists it.")

    async def _revert_outcome(self, command: RevertCommand, exit_status: str | None) -> _Outcome:
        if exit_status is None:
            return OutcomeUnknown(
                "The provider no longer has the task, so it is unknown whether it reverted the machine."
            )
        if is_success(exit_status):
            return Recovery.DONE
        _, state = await self._get_from_machine(command.machine_ref, "status/current")
        if require_object(state).get("lock") == "rollback":
            return _stopped_halfway(exit_status)
        if was_interrupted(exit_status):
            return OutcomeUnknown("The provider's task was interrupted.", provider_message=exit_status)
        return translate_message(exit_status)

    async def _recover_lost_revert(
        self, work: Work, command: RevertCommand, node: str = "", last: str = ""
    ) -> _Outcome:
        """The outcome of a revert without a checkpointed UPID: that of the only revert task after the task `last`."""
        if not node:
            return Recovery.NOT_STARTED  # the latest task is checkpointed before the revert is sent
        known = await self._list_tasks(node, command)
        tasks = [upid for upid in known if upid != last and started_at(upid) >= started_at(last)]
        if not tasks:
            return Recovery.NOT_STARTED
        statuses = [await self._await_task(work, upid) for upid in tasks]
        outcome = await self._revert_outcome(command, statuses[0])
        if len(tasks) == 1:
            listing = await self._get_listing(command.machine_ref)
            if outcome is Recovery.DONE and listing.reported.current_ref == command.snapshot_ref:
                return outcome
            if isinstance(outcome, ProviderUnavailable):  # the task changed nothing, whichever client started it
                return outcome
        return OutcomeUnknown(
            "It is unknown which of the provider's tasks executed this revert.", provider_message=statuses[0]
        )

    # ---- reads

    async def _get(self, path: str, **parameters: Any) -> Any:
        return await self._read_threads.read(self._client.call, False, "get", path, parameters)

    async def _get_parsed(self, parse: Callable[[Any], T], path: str, **parameters: Any) -> T:
        """Gets a path and parses the response in the same thread, which may take long."""
        return await self._read_threads.read(lambda: parse(self._client.call(False, "get", path, parameters)))

    async def _get_cluster(self) -> Cluster:
        cluster = await self._get_parsed(parse_cluster, "cluster/resources")
        if not cluster.entries:  # a user without permissions gets an empty list, for which health() raises an error
            await self.health()
        return cluster

    async def _find_machine(self, machine_ref: str) -> tuple[Mapping[str, Any], str]:
        """The cluster's entry of a machine, and its node. Raises ProviderMissing."""
        cluster = await self._get_cluster()
        if machine_ref not in cluster.entries:
            if cluster.unreadable:  # one of which may be the machine
                raise ProviderUnavailable("The provider lists machines without a valid vmid.")
            raise ProviderMissing("The provider has no such machine.")
        node = cluster.node(machine_ref)
        if node is None:
            raise ProviderUnavailable("The provider does not state on which node the machine is.")
        self._nodes[machine_ref] = node
        return cluster.entries[machine_ref], node

    async def _get_from_machine(self, machine_ref: str, path: str) -> tuple[str, Any]:
        """Gets a path below a machine, on its new node if it has moved. The node, and the response."""
        node = self._nodes.get(machine_ref) or (await self._find_machine(machine_ref))[1]
        try:
            return node, await self._get(f"nodes/{node}/qemu/{machine_ref}/{path}")
        except (ProviderMissing, ProviderUnavailable):
            _, moved = await self._find_machine(machine_ref)
            if moved == node:
                raise
            return moved, await self._get(f"nodes/{moved}/qemu/{machine_ref}/{path}")

    async def _node_machines(self, node: str) -> dict[str, Mapping[str, Any]] | None:
        """A node's entries of its machines, by vmid; None if the node does not answer."""
        try:
            return await self._get_parsed(parse_node, f"nodes/{node}/qemu", full=1)
        except ProviderUnavailable:
            return None

    async def _get_listing(self, machine_ref: str) -> Listing:
        node, answer = await self._get_from_machine(machine_ref, "snapshot")
        return await self._read_threads.read(parse_listing, answer, node)

    async def _list_tasks(self, node: str, command: RecoverableCommand, *, running: bool = False) -> list[str]:
        """The UPIDs of the machine's tasks of the command's type that the node still has."""
        kind, ref = _TASK_TYPES[type(command)], command.machine_ref
        found = require_list(await self._get(f"nodes/{node}/tasks", vmid=ref, typefilter=kind, source="all", limit=500))
        return [
            str(task.get("upid"))
            for task in found
            if (task.get("type"), task.get("id")) == (kind, ref) and not (running and "endtime" in task)
        ]


def _find_target(command: DriverCommand, listing: Listing, token: str = "") -> ReportedSnapshot | None:
    """The snapshot that a command creates (found by its token), reverts to, deletes or updates (found by its ref)."""
    if isinstance(command, CreateCommand):
        return listing.reported.find_token(token)
    return next((each for each in listing.reported.snapshots if each.ref == command.snapshot_ref), None)


def _require(snapshot: ReportedSnapshot | None) -> ReportedSnapshot:
    if snapshot is None:
        raise ProviderMissing("The provider has no such snapshot.")
    return snapshot


def _raise_or_return(outcome: _Outcome) -> ReportedSnapshot | Recovery:
    if isinstance(outcome, ProviderError):
        raise outcome
    return outcome


def _stopped_halfway(exit_status: str | None) -> ProviderError:
    message = "The provider's task stopped halfway. An administrator of the provider must check the machine."
    return ProviderRefused(message, provider_message=exit_status)
