"""From what a vCenter or ESXi host says of machines and snapshots to what the `vsphere` driver reports. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC
from typing import Any

from pyVmomi import vim

from gateway.drivers.base import ReportedMachine, ReportedSnapshot, ReportedSnapshots
from gateway.drivers.operation_tags import unmark
from gateway.drivers.vsphere.session import Found, Query, ref_of
from gateway.models import MachineKind, PowerState

LONGEST_NAME = 80  # characters

HOSTS = Query.TraversalSpec(type=vim.VirtualMachine, path="runtime.host", skip=False)
TASKS = Query.TraversalSpec(type=vim.VirtualMachine, path="recentTask", skip=False)
VIEW = Query.TraversalSpec(type=vim.view.ContainerView, path="view", skip=False)
VIEW_AND_HOSTS = Query.TraversalSpec(type=vim.view.ContainerView, path="view", skip=False, selectSet=[HOSTS])

HOST = (vim.HostSystem, ("name",))
MACHINE = (
    vim.VirtualMachine,
    (
        "name",
        "runtime.powerState",
        "runtime.connectionState",
        "runtime.host",
        "summary.config.uuid",
        "summary.config.template",
        "summary.config.annotation",
        "config.createDate",
    ),
)
NAME = (vim.VirtualMachine, ("name",))
# Asked for alone, an unset `snapshot` would look like no answer at all.
SNAPSHOTS = (vim.VirtualMachine, ("name", "snapshot", "layoutEx"))
TASK = (vim.Task, ("info",))
WATCHED = (
    vim.VirtualMachine,
    ("name", "runtime.powerState", "runtime.connectionState", "runtime.host", "snapshot"),
)

_POWER = {"poweredOn": PowerState.ON, "poweredOff": PowerState.OFF, "suspended": PowerState.SUSPENDED}

# The provider's clients write these in names as %25, %2f and %5c, and show them as they were.
_ESCAPES = str.maketrans({"%": "%25", "/": "%2f", "\\": "%5c"})
_ESCAPED = re.compile("%(25|2f|5c)", re.IGNORECASE)
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def escaped(name: str) -> str:
    """A name as the provider's clients write it."""
    return name.translate(_ESCAPES)


def unescaped(name: str) -> str:
    """A name as the provider's clients show it."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), name)


def is_legal(name: str) -> bool:
    """Whether a snapshot can have this name."""
    return name.isprintable() and len(escaped(name)) <= LONGEST_NAME


def sendable(text: str) -> str:
    """The text with a sign in the place of each character that XML cannot carry."""
    return _NOT_XML.sub("\ufffd", text)


def machines(found: Sequence[Found]) -> list[ReportedMachine]:
    """The machines. A template is none: it can neither run nor have snapshots made."""
    hosts = {
        thing.ref: unescaped(thing.values["name"])
        for thing in found
        if thing.type is vim.HostSystem and "name" in thing.values
    }
    return [
        _machine(thing.ref, thing.values, hosts)
        for thing in found
        if thing.type is vim.VirtualMachine and not thing.values.get("summary.config.template")
    ]


def _machine(ref: str, values: Mapping[str, Any], hosts: Mapping[str, str]) -> ReportedMachine:
    host, created = values.get("runtime.host"), values.get("config.createDate")
    # Out of the provider's reach its power state is an old one, and it does not say since when.
    reached = values["runtime.connectionState"] == "connected"
    return ReportedMachine(
        ref=ref,
        kind=MachineKind.VM,
        name=unescaped(values["name"]),
        power_state=_POWER.get(values["runtime.powerState"], PowerState.UNKNOWN) if reached else PowerState.UNKNOWN,
        uid=(values.get("summary.config.uuid") or "").lower() or None,  # what ManageIQ knows it by
        description=values.get("summary.config.annotation") or None,
        host=None if host is None else hosts.get(ref_of(host)),
        # A machine that is older than this property has the year 1970.
        created_at=created.astimezone(UTC) if created is not None and created.year > 1970 else None,
    )


def snapshots(values: Mapping[str, Any]) -> ReportedSnapshots:
    """A machine's snapshots, from its properties `snapshot` and `layoutEx`."""
    info = values.get("snapshot")
    if info is None:
        return ReportedSnapshots([])
    nodes: list[tuple[Any, str | None]] = [(node, None) for node in info.rootSnapshotList]
    for node, _ in nodes:  # which grows meanwhile
        nodes += [(child, ref_of(node.snapshot)) for child in node.childSnapshotList]
    current = None if info.currentSnapshot is None else ref_of(info.currentSnapshot)
    parents = {ref_of(node.snapshot): parent for node, parent in nodes}
    files = _Files(values.get("layoutEx"), parents, current)
    return ReportedSnapshots([_snapshot(node, parent, files) for node, parent in nodes], current)


def _snapshot(node: Any, parent: str | None, files: "_Files") -> ReportedSnapshot:
    ref = ref_of(node.snapshot)
    description, token = unmark(node.description)
    return ReportedSnapshot(
        ref=ref,
        name=unescaped(node.name),
        created_at=node.createTime.astimezone(UTC),
        description=description,
        memory=files.has_memory(ref, node.state),
        parent_ref=parent,
        size_bytes=files.size(ref),
        token=token,
    )


class _Files:
    """What a machine's files say of its snapshots; nothing of those that they do not know yet."""

    def __init__(self, layout: Any, parents: Mapping[str, str | None], current: str | None) -> None:
        self._sizes = {} if layout is None else {file.key: file.size for file in layout.file}
        self._of = {} if layout is None else {ref_of(snapshot.key): snapshot for snapshot in layout.snapshot}
        disks = {ref: _disk_files(snapshot.disk) for ref, snapshot in self._of.items()}
        # What the machine, or the next snapshot, has and this one has not: written since it was made.
        self._since: dict[str, set[int]] = {ref: set() for ref in disks}
        ends = [(parents.get(ref), keys) for ref, keys in disks.items()]
        ends.append((current, _disk_files(() if layout is None else layout.disk)))
        for ref, keys in ends:
            if ref in disks:
                self._since[ref] |= keys - disks[ref]

    def has_memory(self, ref: str, state: str) -> bool:
        """By its file, or else by its state: with memory the machine would be on again after a revert."""
        snapshot = self._of.get(ref)
        return state == "poweredOn" if snapshot is None else snapshot.memoryKey not in (None, -1)

    def size(self, ref: str) -> int | None:
        """Bytes of what was saved with it, and of what was written to the disks since."""
        snapshot = self._of.get(ref)
        if snapshot is None:
            return None
        keys = {snapshot.dataKey, snapshot.memoryKey, *self._since[ref]}
        return sum(self._sizes.get(key, 0) for key in keys) or None


def _disk_files(disks: Iterable[Any]) -> set[int]:
    return {key for disk in disks for link in disk.chain for key in link.fileKey}
