"""Converts objects of a vCenter or ESXi host to the machines and snapshots that the `vsphere` driver reports. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pyVmomi import vim, vmodl

from gateway.drivers.base import (
    MachineFields,
    ReportedMachine,
    ReportedSnapshot,
    ReportedSnapshots,
    is_ref,
    report_each,
    report_machine,
    report_snapshot,
    unreadable_machine,
)
from gateway.drivers.operation_tags import split_tag
from gateway.drivers.vsphere.session import CollectedObject, PropertyCollector, ref_of, translate_fault
from gateway.errors import ProviderUnavailable
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
        each.ref: unescaped(name)
        for each in found
        if each.type is vim.HostSystem and isinstance(name := each.values.get("name"), str)
    }
    return [
        _parse_machine(each, hosts)
        for each in found
        if each.type in (vim.VirtualMachine, None) and each.values.get("summary.config.template") is not True
    ]


def _parse_machine(found: CollectedObject, hosts: Mapping[str, str]) -> ReportedMachine:
    if found.fault is not None:
        error = translate_fault(found.fault)
        return unreadable_machine(found.ref, MachineKind.VM, f"{error.message} ({error.provider_message})")
    values = found.values
    host, created = values.get("runtime.host"), values.get("config.createDate")
    fields: MachineFields = {
        "name": lambda: unescaped(values["name"]),
        "power_state": lambda: _power_state(values),
        # The BIOS UUID, which is ManageIQ's `uid_ems`.
        "uid": lambda: (values.get("summary.config.uuid") or "").lower() or None,
        "description": lambda: values.get("summary.config.annotation") or None,
        "host": lambda: None if host is None else hosts.get(ref_of(host)),
    }
    # vSphere reports 1970 for machines created before it had this property.
    if created is not None and getattr(created, "year", None) != 1970:
        fields["created_at"] = lambda: created
    return report_machine(found.ref, MachineKind.VM, **fields)


def _power_state(values: Mapping[str, Any]) -> PowerState:
    state = _POWER_STATES[values["runtime.powerState"]]
    # The power state of a disconnected machine may be outdated.
    return state if values["runtime.connectionState"] == "connected" else PowerState.UNKNOWN


def parse_snapshots(values: Mapping[str, Any], skipped: Sequence[str] = ()) -> ReportedSnapshots:
    """Converts a machine's snapshots, from its properties SNAPSHOTS. `skipped`: the elements that could not be read."""
    info = values.get("snapshot")
    omitted = tuple(f"The provider did not report {name!r}, or in a malformed way." for name in skipped)
    if info is None:
        return ReportedSnapshots([], omitted=omitted)
    nodes: list[tuple[Any, str | None]] = [(node, None) for node in info.rootSnapshotList]
    for node, parent in nodes:  # the loop appends to the list that it iterates over
        ref = _ref(node.snapshot)
        nodes += [(child, parent if ref is None else ref) for child in node.childSnapshotList]
    current = _ref(info.currentSnapshot)
    parents = {ref: parent for node, parent in nodes if (ref := _ref(node.snapshot)) is not None}
    layout, oddity = values.get("layoutEx"), None
    try:
        files = _FileLayout(layout, parents, current)
    except (AttributeError, TypeError):
        files, oddity = _FileLayout(None, parents, current), "The list of the machine's files is malformed."
    snapshots, without_ref = report_each(nodes, lambda each: _parse_snapshot(*each, files))
    return ReportedSnapshots(snapshots, current, (*omitted, *without_ref), oddity)


def _parse_snapshot(node: Any, parent: str | None, files: "_FileLayout") -> ReportedSnapshot:
    ref = _ref(node.snapshot) or ""
    return report_snapshot(
        ref,
        name=lambda: unescaped(node.name),
        created_at=lambda: node.createTime,
        description=lambda: split_tag(node.description)[0],
        token=lambda: split_tag(node.description)[1],
        memory=lambda: files.has_memory(ref, node.state),
        parent_ref=lambda: parent,
        size_bytes=lambda: files.size(ref),
    )


def _ref(managed: Any) -> str | None:
    """The ref of a managed object; None if it is missing or malformed."""
    ref = ref_of(managed) if isinstance(managed, vim.ManagedObject) else None
    return ref if is_ref(ref) else None


def task_info(found: CollectedObject) -> Any:
    """The `info` of a task. Raises ProviderUnavailable if its state or its error is malformed."""
    info = found.values.get("info")
    if (
        not isinstance(info, vim.TaskInfo)
        or not isinstance(info.state, vim.TaskInfo.State)
        or not isinstance(info.error, vmodl.MethodFault | None)
    ):
        raise ProviderUnavailable("The provider's response is malformed.")
    return info


def percent(info: Any) -> int | None:
    """The progress of a task, in percent; None if vSphere does not report it or it is malformed."""
    return info.progress if isinstance(info.progress, int) else None


def created_ref(info: Any) -> str | None:
    """The ref of the snapshot that a task has created; None if it is missing or malformed."""
    return _ref(info.result)


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
