"""The `proxmox` driver: the QEMU machines of a Proxmox VE cluster.

Every change is a task that goes on whether or not anybody waits, and how it ended is told in words, never by HTTP.
Machines move between nodes, so a machine is its vmid; names come again, so a snapshot is its name and its time.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from proxmoxer.backends.https import Backend

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
from gateway.drivers.operation_tags import mark, wire_name
from gateway.drivers.options import Secret, option
from gateway.drivers.proxmox.api import (
    Client,
    Listing,
    NameUsed,
    TaskForgotten,
    begun_at,
    explained,
    is_well,
    nonsense,
    read_listing,
    read_machine,
    read_progress,
    row,
    rows,
    was_killed,
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

_MATRIX = Matrix(
    {
        SnapshotAction.CREATE_WITH_MEMORY: {
            PowerState.OFF: "the machine is off, so it has no memory to save",
            PowerState.UNKNOWN: "the machine's power state is unknown, so its memory cannot be saved",
        }
    }
)
_LEGAL = re.compile(r"(?!(?i:current|pending)\Z)[A-Za-z][A-Za-z0-9_-]+")
_LONGEST = 40  # characters of a snapshot's name
_TASKS: dict[type[DriverCommand], str] = {
    CreateCommand: "qmsnapshot",
    RevertCommand: "qmrollback",
    DeleteCommand: "qmdelsnapshot",
}
_QUESTIONS = 4  # at once
_SOONEST, _LATEST = 0.1, 2.0  # seconds between looks at a task

_Found = ReportedSnapshot | Recovery | ProviderError


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where the cluster is, and who the gateway is there: a user with a password or with an API token."""

    address: str = option("a node of the cluster, such as https://pve.example:8006")
    user: str = option("the user and its realm, such as gateway@pve")
    password: Secret | None = option("the user's password, unless there is an API token", None)
    token_name: str | None = option("the name of the user's API token", None)
    token_value: Secret | None = option("the secret of the API token", None)
    ca_file: str | None = option("a PEM file of the authority that has signed the nodes' certificates", None)
    timeout: float = option("seconds to wait for an answer", 30.0)

    def __post_init__(self) -> None:
        _endpoint(self.address)
        if "@" not in self.user:
            raise ValueError(f"has 'user' {self.user!r}, which must name its realm too, such as gateway@pve")
        token = self.token_name is not None
        if token != (self.token_value is not None) or token == (self.password is not None):
            raise ValueError("needs either 'password', or 'token_name' and 'token_value'")
        if self.timeout <= 0:
            raise ValueError(f"has 'timeout' {self.timeout!r}, which must be more than 0")


def make(provider: str, options: Options, concurrency: int) -> "ProxmoxDriver":
    """The driver of a provider."""
    host, port = _endpoint(options.address)

    def enter() -> Backend:
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

    patience = 3 * options.timeout  # a call may have to log in first
    client = Client(enter, _QUESTIONS + concurrency, renews=options.password is not None)
    return ProxmoxDriver(client, Threads(_QUESTIONS, patience), Threads(concurrency, patience))


def _endpoint(address: str) -> tuple[str, int]:
    url = urlsplit(address if "://" in address else f"https://{address}")
    try:
        host, port = url.hostname or "", url.port or 8006
    except ValueError:
        host, port = "", 0
    if url.scheme != "https" or not host or url.path.strip("/") or url.query or url.username:
        raise ValueError(f"has 'address' {address!r}, which must be one such as https://pve.example:8006")
    return f"[{host}]" if ":" in host else host, port


class ProxmoxDriver(Driver):
    """One Proxmox VE cluster. `telling` are the threads for calls that change something."""

    name = "proxmox"

    def __init__(self, client: Client, asking: Threads, telling: Threads) -> None:
        self._client = client
        self._asking = asking
        self._telling = telling
        self._nodes: dict[str, str] = {}  # where each machine was when it was last looked for

    def matrix(self, kind: MachineKind) -> Matrix:
        return _MATRIX

    async def machines(self) -> Sequence[ReportedMachine]:
        found, away = await self._resources()
        self._nodes = {ref: entry["node"] for ref, entry in found.items()}
        nodes = sorted({*self._nodes.values()} - away)
        states = dict(zip(nodes, await asyncio.gather(*map(self._states, nodes)), strict=True))
        seen = []
        for ref, entry in found.items():
            of_node = states.get(entry["node"])
            state = {**entry, "status": "unknown"} if of_node is None else of_node.get(ref, entry)
            seen.append(read_machine(state, ref, entry["node"]))
        return seen

    async def machine(self, machine_ref: str) -> ReportedMachine:
        try:
            node, state = await self._at(machine_ref, "status/current")
        except ProviderUnavailable:
            entry = await self._find(machine_ref)
            if entry.get("status") != "unknown":
                raise
            return read_machine(entry, machine_ref, entry["node"])
        return read_machine(row(state), machine_ref, node)

    async def snapshots(self, machine_ref: str) -> ReportedSnapshots:
        return (await self._listing(machine_ref)).seen

    async def create(self, work: Work, wish: CreateCommand) -> ReportedSnapshot:
        if wish.memory:  # without any, Proxmox VE would leave it out and not tell
            power = (await self.machine(wish.machine_ref)).power_state
            if reason := _MATRIX.reason_against(SnapshotAction.CREATE_WITH_MEMORY, power):
                raise ProviderRefused(reason)
        listing = await self._listing(wish.machine_ref)
        taken = {snapshot.name for snapshot in listing.seen.snapshots}
        more = {"description": mark(wish.description, work.token), "vmstate": int(wish.memory)}
        name = wire_name(wish.name, work.token, _LEGAL.fullmatch, taken, _LONGEST)
        found = await self._do(work, wish, listing, "post", "snapshot", snapname=name, **more)
        if isinstance(found, NameUsed):
            name = wire_name(wish.name, work.token, _LEGAL.fullmatch, {name}, _LONGEST)
            found = await self._do(work, wish, listing, "post", "snapshot", snapname=name, **more)
        seen = _settled(found)
        if not isinstance(seen, ReportedSnapshot):
            raise OutcomeUnknown("the provider no longer knows the task")
        return seen

    async def revert(self, work: Work, wish: RevertCommand) -> None:
        listing = await self._listing(wish.machine_ref)
        snapshot = _there(_of(wish, listing))
        # A revert shows in nothing but its task, so recovery has to know which tasks there were before it.
        last = max(await self._tasks(listing.node, wish), key=begun_at, default="")
        await self._keep(work, f"after:{listing.node}:{last}")
        _settled(await self._do(work, wish, listing, "post", f"snapshot/{snapshot.name}/rollback"))

    async def delete(self, work: Work, wish: DeleteCommand) -> None:
        listing = await self._listing(wish.machine_ref)
        snapshot = _there(_of(wish, listing))
        # Not every disk has a snapshot that was half-made; Proxmox VE itself clears it away like this.
        force = 1 if snapshot.ref in listing.half_made else None
        _settled(await self._do(work, wish, listing, "delete", f"snapshot/{snapshot.name}", force=force))

    async def recover(self, work: Work, wish: DriverCommand) -> ReportedSnapshot | Recovery:
        kind, _, rest = (work.task_ref or "").partition(":")
        try:
            if kind == "UPID":
                found = await self._outcome(work, wish, await self._follow(work, f"UPID:{rest}"))
            elif isinstance(wish, RevertCommand):
                found = await self._trace(work, wish, *rest.split(":", 1))
            else:  # what is under way may be it, and has locked the machine anyway
                await self._wait(work, wish, (await self._listing(wish.machine_ref)).node)
                found = await self._outcome(work, wish, None)
        except ProviderDenied as error:
            raise OutcomeUnknown(error.message, provider_message=error.provider_message) from None
        return Recovery.NOT_BEGUN if isinstance(found, ProviderUnavailable) else _settled(found)

    async def health(self) -> None:
        rights = row(await self._ask("access/permissions"))
        if not any("VM.Audit" in privileges for privileges in rights.values()):
            raise ProviderDenied("the gateway's user may see no machines on the provider: it lacks the right VM.Audit")

    async def close(self) -> None:
        self._client.close()

    # ---- work. An error that is returned, not raised, says that the wish was not fulfilled, and why.

    async def _do(
        self, work: Work, wish: DriverCommand, listing: Listing, method: str, path: str, **parameters: Any
    ) -> _Found:
        """Begins a task, and waits for it."""
        path = f"nodes/{listing.node}/qemu/{wish.machine_ref}/{path}"
        try:
            upid = await self._telling.tell(self._client.call, True, method, path, parameters)
        except ProviderMissing:
            await self._find(wish.machine_ref)
            raise ProviderUnavailable("the machine is just moving to another node") from None
        if not isinstance(upid, str) or not upid.startswith("UPID:"):
            raise nonsense(change=True)
        await self._keep(work, upid)
        try:
            return await self._outcome(work, wish, await self._follow(work, upid))
        except (ProviderUnavailable, ProviderDenied) as error:
            raise OutcomeUnknown(error.message, provider_message=error.provider_message) from None

    async def _keep(self, work: Work, task_ref: str) -> None:
        work.task_ref = task_ref
        await work.checkpoint(task_ref)

    async def _follow(self, work: Work, upid: str) -> str | None:
        """The words that the task ends with; None when the provider no longer knows it."""
        task = f"nodes/{upid.split(':')[1]}/tasks/{upid}"
        pause, seen = _SOONEST, 0
        try:
            while (state := row(await self._ask(f"{task}/status"))).get("status") != "stopped":
                lines = rows(await self._ask(f"{task}/log", start=seen, limit=500))
                if lines:
                    seen += len(lines)
                    await work.progress(*read_progress(lines[-1]))
                await asyncio.sleep(pause)
                pause = min(_LATEST, pause * 1.5)
        except TaskForgotten:
            return None
        return str(state.get("exitstatus"))

    async def _wait(self, work: Work, wish: DriverCommand, node: str) -> None:
        """Waits for what the provider is doing of the wish's kind on the machine."""
        for upid in await self._tasks(node, wish, running=True):
            await self._follow(work, upid)

    async def _outcome(self, work: Work, wish: DriverCommand, words: str | None) -> _Found:
        """What became of a wish, by its task's last words, None when it has none, and by what can be seen now."""
        if isinstance(wish, RevertCommand):
            return await self._reverted(wish, words)
        listing = await self._listing(wish.machine_ref)
        seen = _of(wish, listing, work.token)
        if seen is not None and not seen.ready:  # it may be at the work of an answer that was lost
            await self._wait(work, wish, listing.node)
            seen = _of(wish, await self._listing(wish.machine_ref), work.token)
        create = isinstance(wish, CreateCommand)
        if seen is None and not create:
            return Recovery.DONE
        if seen is not None and seen.ready and create:
            return seen
        if seen is not None and not seen.ready and (create or words is not None):
            return _half_way(words)
        if words is None:
            return Recovery.NOT_BEGUN
        if not is_well(words):
            return explained(words)
        if create:
            return ProviderMissing("the snapshot was made, but is no longer there")
        return OutcomeUnknown("the provider says that the snapshot is deleted, but still has it")

    async def _reverted(self, wish: RevertCommand, words: str | None) -> _Found:
        if words is None:
            return OutcomeUnknown("the provider no longer knows whether it has reverted the machine")
        if is_well(words):
            return Recovery.DONE
        _, state = await self._at(wish.machine_ref, "status/current")
        if row(state).get("lock") == "rollback":
            return _half_way(words)
        if was_killed(words):
            return OutcomeUnknown("the provider's task was ended from outside", provider_message=words)
        return explained(words)

    async def _trace(self, work: Work, wish: RevertCommand, node: str = "", last: str = "") -> _Found:
        """What became of a revert whose answer was lost, if it was asked for: of the only task after `last`."""
        if not node:
            return Recovery.NOT_BEGUN  # the tasks before it are written down before anything is asked for
        known = await self._tasks(node, wish)
        tasks = [upid for upid in known if upid != last and begun_at(upid) >= begun_at(last)]
        if not tasks:
            return Recovery.NOT_BEGUN
        words = [await self._follow(work, upid) for upid in tasks]
        found = await self._reverted(wish, words[0])
        if len(tasks) == 1:
            listing = await self._listing(wish.machine_ref)
            if found is Recovery.DONE and listing.seen.current_ref == wish.snapshot_ref:
                return found
            if isinstance(found, ProviderUnavailable):  # nothing was begun, whoever asked for it
                return found
        return OutcomeUnknown("it cannot be told which task of the provider's was this one", provider_message=words[0])

    # ---- questions

    async def _ask(self, path: str, **parameters: Any) -> Any:
        return await self._asking.ask(self._client.call, False, "get", path, parameters)

    async def _resources(self) -> tuple[dict[str, dict[str, Any]], set[str]]:
        """What the cluster knows of its machines, by vmid, and the nodes that are away."""
        entries = rows(await self._ask("cluster/resources"))
        machines = [entry for entry in entries if entry.get("type") == "qemu" and {"vmid", "node"} <= entry.keys()]
        found = {str(entry["vmid"]): entry for entry in machines}
        if not found:  # a user without rights is shown an empty cluster
            await self.health()
        away = [entry for entry in entries if entry.get("type") == "node" and entry.get("status") == "offline"]
        return found, {str(entry.get("node")) for entry in away}

    async def _find(self, machine_ref: str) -> dict[str, Any]:
        found, _ = await self._resources()
        if machine_ref not in found:
            raise ProviderMissing("the provider has no such machine")
        self._nodes[machine_ref] = found[machine_ref]["node"]
        return found[machine_ref]

    async def _at(self, machine_ref: str, path: str) -> tuple[str, Any]:
        """Asks about a machine where it is by now; the node, and the answer."""
        node = self._nodes.get(machine_ref) or (await self._find(machine_ref))["node"]
        try:
            return node, await self._ask(f"nodes/{node}/qemu/{machine_ref}/{path}")
        except (ProviderMissing, ProviderUnavailable):
            moved = (await self._find(machine_ref))["node"]
            if moved == node:
                raise
            return moved, await self._ask(f"nodes/{moved}/qemu/{machine_ref}/{path}")

    async def _states(self, node: str) -> dict[str, dict[str, Any]] | None:
        """The states of the machines of a node; None when it does not answer."""
        try:
            states = rows(await self._ask(f"nodes/{node}/qemu", full=1))
        except ProviderUnavailable:
            return None
        return {str(state.get("vmid")): state for state in states}

    async def _listing(self, machine_ref: str) -> Listing:
        node, answer = await self._at(machine_ref, "snapshot")
        return read_listing(answer, node)

    async def _tasks(self, node: str, wish: DriverCommand, *, running: bool = False) -> list[str]:
        """The machine's tasks of the wish's kind that the node remembers."""
        kind, ref = _TASKS[type(wish)], wish.machine_ref
        found = rows(await self._ask(f"nodes/{node}/tasks", vmid=ref, typefilter=kind, source="all", limit=500))
        return [
            str(task.get("upid"))
            for task in found
            if (task.get("type"), task.get("id")) == (kind, ref) and not (running and "endtime" in task)
        ]


def _of(wish: DriverCommand, listing: Listing, token: str = "") -> ReportedSnapshot | None:
    """The snapshot that the wish is about."""
    for seen in listing.seen.snapshots:
        if seen.token == token if isinstance(wish, CreateCommand) else seen.ref == wish.snapshot_ref:
            return seen
    return None


def _there(snapshot: ReportedSnapshot | None) -> ReportedSnapshot:
    if snapshot is None:
        raise ProviderMissing("the provider has no such snapshot")
    return snapshot


def _settled(found: _Found) -> ReportedSnapshot | Recovery:
    if isinstance(found, ProviderError):
        raise found
    return found


def _half_way(words: str | None) -> ProviderError:
    message = "the provider stopped half-way, so its administrator has to look at the machine"
    return ProviderRefused(message, provider_message=words)
