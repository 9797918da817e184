"""Converts objects of a vCenter or ESXi host to the machines and snapshots that the `vsphere` driver reports. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC
from functools import partial
from typing import Any

from pyVmomi import vim

from gateway.drivers.base import ReportedMachine, ReportedSnapshot, ReportedSnapshots, read_listed_machine
from gateway.drivers.operation_tags import split_tag
from gateway.drivers.vsphere.session import CollectedObject, PropertyCollector, ref_of
from gateway.models import MachineKind, PowerState

MAX_NAME_LENGTH = 80

# Traversals
MACHINE_TO_HOST = PropertyCollector.TraversalSpec(type=vim.VirtualMachine, path="runtime.host", skip=False)
MACHINE_TO_TASKS = PropertyCollector.TraversalSpec(type=vim.VirtualMachine, path="recentTask", skip=False)
VIEW_TO_MACHINES = PropertyCollector.TraversalSpec(type=vim.view.ContainerView, path="view", skip=False)
VIEW_TO_MACHINES_AND_HOSTS = PropertyCollector.TraversalSpec(
    type=vim.view.ContainerView, path="view", skip=False, selectSet=[MACHINE_TO_HOST]
)

# Properties
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
VIEW = (vim.view.ContainerView, ("type",))
MACHINE_NAME = (vim.VirtualMachine, ("name",))
# Includes `name`, because without it the answer for a machine without snapshots has no object.
SNAPSHOTS = (vim.VirtualMachine, ("name", "snapshot", "layoutEx"))
TASK = (vim.Task, ("info",))
WATCHED = (
    vim.VirtualMachine,
    ("name", "runtime.powerState", "runtime.connectionState", "runtime.host", "snapshot"),
)

_POWER_STATES = {"poweredOn": PowerState.ON, "poweredOff": PowerState.OFF, "suspended": PowerState.SUSPENDED}

# vSphere clients store these characters in names as %25, %2f and %5c, and show them unescaped.
_ESCAPES = str.maketrans({"%": "%25", "/": "%2f", "\\": "%5c"})
_ESCAPED = re.compile("%(25|2f|5c)", re.IGNORECASE)
_NOT_XML = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def escaped(name: str) -> str:
    """A name as vSphere clients store it."""
    return name.translate(_ESCAPES)


def unescaped(name: str) -> str:
    """A name as vSphere clients show it."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), name)


def is_legal_name(name: str) -> bool:
    """Whether a snapshot can have this name."""
    return name.isprintable() and len(escaped(name)) <= MAX_NAME_LENGTH


def xml_safe(text: str) -> str:
    """The text, with each character that XML cannot represent replaced by U+FFFD."""
    return _NOT_XML.sub("\ufffd", text)


def parse_machines(found: Sequence[CollectedObject]) -> list[ReportedMachine]:
    """Converts machines. Templates are left out: they can neither run nor be snapshotted."""
    hosts = {
        each.ref: unescaped(each.values["name"])
        for each in found
        if each.type is vim.HostSystem and "name" in each.values
    }
    return [
        read_listed_machine(each.ref, MachineKind.VM, partial(_parse_machine, each.ref, each.values, hosts))
        for each in found
        if each.type is vim.VirtualMachine and not each.values.get("summary.config.template")
    ]


def _parse_machine(ref: str, values: Mapping[str, Any], hosts: Mapping[str, str]) -> ReportedMachine:
    host, created = values.get("runtime.host"), values.get("config.createDate")
    # The power state of a disconnected machine may be outdated.
    connected = values["runtime.connectionState"] == "connected"
    return ReportedMachine(
        ref=ref,
        kind=MachineKind.VM,
        name=unescaped(values["name"]),
        power_state=_POWER_STATES.get(values["runtime.powerState"], PowerState.UNKNOWN)
        if connected
        else PowerState.UNKNOWN,
        uid=(values.get("summary.config.uuid") or "").lower() or None,  # the BIOS UUID, which is ManageIQ's `uid_ems`
        description=values.get("summary.config.annotation") or None,
        host=None if host is None else hosts.get(ref_of(host)),
        # vSphere reports 1970 for machines created before it had this property.
        created_at=created.astimezone(UTC) if created is not None and created.year > 1970 else None,
    )


def parse_snapshots(values: Mapping[str, Any]) -> ReportedSnapshots:
    """Converts a machine's snapshots, from its properties SNAPSHOTS."""
    info = values.get("snapshot")
    if info is None:
        return ReportedSnapshots([])
    nodes: list[tuple[Any, str | None]] = [(node, None) for node in info.rootSnapshotList]
    for node, _ in nodes:  # the loop appends to the list that it iterates over
        nodes += [(child, ref_of(node.snapshot)) for child in node.childSnapshotList]
    current = None if info.currentSnapshot is None else ref_of(info.currentSnapshot)
    parents = {ref_of(node.snapshot): parent for node, parent in nodes}
    files = _FileLayout(values.get("layoutEx"), parents, current)
    return ReportedSnapshots([_parse_snapshot(node, parent, files) for node, parent in nodes], current)


def _parse_snapshot(node: Any, parent: str | None, files: "_FileLayout") -> ReportedSnapshot:
    ref = ref_of(node.snapshot)
    description, token = split_tag(node.description)
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


class _FileLayout:
    """The files of a machine's snapshots, from its property `layoutEx`.

    vSphere updates that property with a delay, so a new snapshot may be missing.

    The disk of a machine is a chain of files: each snapshot starts a new file, into which the machine writes from then
    on. A file that the machine, or a child snapshot, has and the snapshot has not, was therefore written since the
    snapshot was created.
    """

    def __init__(self, layout: Any, parents: Mapping[str, str | None], current: str | None) -> None:
        self._sizes = {} if layout is None else {file.key: file.size for file in layout.file}
        self._layouts = {} if layout is None else {ref_of(snapshot.key): snapshot for snapshot in layout.snapshot}
        disks = {ref: _disk_files(snapshot.disk) for ref, snapshot in self._layouts.items()}
        self._written_since: dict[str, set[int]] = {ref: set() for ref in disks}
        ends = [(parents.get(ref), keys) for ref, keys in disks.items()]
        ends.append((current, _disk_files(() if layout is None else layout.disk)))
        for ref, keys in ends:
            if ref in disks:
                self._written_since[ref] |= keys - disks[ref]

    def has_memory(self, ref: str, state: str) -> bool:
        """Whether the snapshot has a memory file. If it is not in the layout: whether a revert turns the machine on."""
        snapshot = self._layouts.get(ref)
        return state == "poweredOn" if snapshot is None else snapshot.memoryKey not in (None, -1)

    def size(self, ref: str) -> int | None:
        """Bytes of the snapshot's own files, and of the disk files written since; None if it is not in the layout."""
        snapshot = self._layouts.get(ref)
        if snapshot is None:
            return None
        keys = {snapshot.dataKey, snapshot.memoryKey, *self._written_since[ref]}
        return sum(self._sizes.get(key, 0) for key in keys) or None


def _disk_files(disks: Iterable[Any]) -> set[int]:
    return {key for disk in disks for link in disk.chain for key in link.fileKey}
