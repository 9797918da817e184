"""Reads libvirt's domains and their snapshots, and describes snapshots to libvirt. All functions block.

libvirt does not report two facts that the driver needs, so this module derives them.

**Whether a domain was reverted.** `run_state` is a text of four values: the id of the domain's process (-1 if it is
off), its state, the reason of the state, and the name of its current snapshot. The driver checkpoints it before a
revert, and `was_reverted` compares it with a later one. libvirt moves *current* to the snapshot as the last step of a
revert. A domain that runs after the revert has a new process. The revert is proved if the snapshot is current now, and

* another snapshot was current before; or
* the process, state or reason differs, and the reason now is "from snapshot".

Example, a revert to `a`: "7 1 1 b" before and "9 1 4 a" after is a proof by *current*; "7 1 1 a" and "9 1 4 a" is a
proof by the new process. "-1 5 7 a" before and after is no proof: a domain that is off and was last reverted to `a`
looks the same after another revert to `a`. That outcome is unknown.

**Whether a snapshot is complete.** libvirt lists a snapshot while its memory is still being written.
`_mark_incomplete` identifies it: the domain is paused for a job, and the snapshot is the newest one without children
on top of the current snapshot. *Current* moves to it when it is complete.

**How a description is changed.** libvirt has no call for that. Like `virsh snapshot-edit`, `prepare_redefinition` sends
the XML of the snapshot back with another description. libvirt then replaces its own record of the snapshot, a file, and
touches neither the machine nor the disks. The snapshot keeps its parent and children, and remains current if it is. The
XML must be complete, with passwords (`XML_SECURE`), and otherwise unchanged, so it is edited as text: a parser would,
for example, rename the namespaces in the domain's metadata. A snapshot that another client deletes between the two
calls would be listed again, without data.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import TypeVar

import libvirt

from gateway.drivers.base import (
    OddValue,
    ReportedMachine,
    ReportedSnapshot,
    ReportedSnapshots,
    parse_timestamp,
    report_each,
    report_machine,
    report_snapshot,
    snapshot_depths,
    unreadable_machine,
)
from gateway.drivers.libvirt.connection import translate_error
from gateway.drivers.operation_tags import add_tag, split_tag
from gateway.errors import ProviderBusy, ProviderMissing, ProviderRefused, ProviderUnavailable
from gateway.models import MachineKind, PowerState

T = TypeVar("T")

MAX_NAME_LENGTH = 40  # libvirt does not check the length; a longer name fails only after QEMU has written the snapshot

_ILLEGAL_CHARACTERS = {"/", '"', "\\"}
_MAX_QEMU_ID_DIGITS = 6
_UEFI_SNAPSHOT_VERSION = 10_010_000  # libvirt 10.10 may be able to snapshot machines with UEFI flash

# The start of a snapshot's XML: libvirt writes its name and then its description, if it has one.
_NAME_AND_DESCRIPTION = re.compile(r"\A(<domainsnapshot>\s*<name>[^<]*</name>)(?:\s*<description>[^<]*</description>)?")

_POWER_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: PowerState.ON,
    libvirt.VIR_DOMAIN_BLOCKED: PowerState.ON,
    libvirt.VIR_DOMAIN_SHUTDOWN: PowerState.ON,  # still shutting down
    libvirt.VIR_DOMAIN_PAUSED: PowerState.SUSPENDED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: PowerState.SUSPENDED,
    libvirt.VIR_DOMAIN_SHUTOFF: PowerState.OFF,
    libvirt.VIR_DOMAIN_CRASHED: PowerState.OFF,
}
_FROM_SNAPSHOT = {
    (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_FROM_SNAPSHOT),
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_FROM_SNAPSHOT),
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_FROM_SNAPSHOT),
}


# ---- the state of a domain


def control_state(domain: libvirt.virDomain) -> int:
    """What libvirt is doing with the domain (VIR_DOMAIN_CONTROL_*). Returns at once, also while a job runs."""
    try:
        return int(domain.controlInfo(0)[0])
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:  # the domain is off
            return int(libvirt.VIR_DOMAIN_CONTROL_OK)
        raise


def run_state(domain: libvirt.virDomain) -> str:
    """The id of the domain's process, its state, the reason of the state, and its current snapshot, as one text."""
    return f"{domain.ID()} {' '.join(map(str, domain.state(0)))} {_current(domain) or ''}"


def was_reverted(before: str, now: str, name: str) -> bool:
    """Whether two run states, one before a revert and a later one, prove that the domain was reverted to `name`."""
    (*process_before, current_before), (*process, current) = before.split(" ", 3), now.split(" ", 3)
    if current != name:
        return False
    return current_before != name or (
        process != process_before and (int(process[1]), int(process[2])) in _FROM_SNAPSHOT
    )


def resume_if_left_paused(domain: libvirt.virDomain) -> None:
    """Resumes a domain that is paused because libvirtd died while it saved the memory. Call it only without a job."""
    if domain.state(0) == [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_SAVE]:
        domain.resume()


# ---- machines


def _call(function: Callable[..., T], *arguments: object) -> T:
    """Calls the library for one record. Raises OddValue for an error that may concern this record alone.

    Raises ProviderMissing if the machine or snapshot no longer exists, and ProviderUnavailable if the connection is
    lost or the machine is busy.
    """
    try:
        return function(*arguments)
    except libvirt.libvirtError as error:
        translated = translate_error(error, sent=False)
        if isinstance(translated, ProviderMissing | ProviderUnavailable):
            raise translated from None
        raise OddValue(f"cannot be read: {translated.provider_message}") from None


def list_machines(connection: libvirt.virConnect, host: str, version: int) -> list[ReportedMachine]:
    """All machines, sorted by name. `version` is the version of the host's libvirt."""
    found = []
    for domain in connection.listAllDomains(0):
        try:
            found.append(read_machine(domain, host, version))
        except ProviderMissing:  # undefined since the listing
            continue
        except ProviderBusy as error:
            found.append(unreadable_machine(domain.UUIDString(), MachineKind.VM, error.message))
    return sorted(found, key=lambda machine: (machine.name, machine.ref))


def read_machine(domain: libvirt.virDomain, host: str, version: int) -> ReportedMachine:
    """One machine. `version` is the version of the host's libvirt."""

    @cache
    def xml() -> ET.Element:
        return ET.fromstring(_call(domain.XMLDesc, 0))  # noqa: S314 - generated by the library

    return report_machine(
        domain.UUIDString(),
        MachineKind.VM,
        name=lambda: _call(domain.name),
        power_state=lambda: _POWER_STATES.get(_call(domain.state, 0)[0], PowerState.UNKNOWN),
        description=lambda: xml().findtext("description") or None,
        host=lambda: host,
        snapshot_blocker=lambda: None if xml().get("type") == "test" else _snapshot_blocker(xml(), version),
    )


def _snapshot_blocker(xml: ET.Element, version: int) -> str | None:
    """Why QEMU cannot create an internal snapshot of the domain. libvirt reports it only when a snapshot is created."""
    disks = [
        disk
        for disk in xml.iterfind("devices/disk[source]")
        if disk.get("device") != "cdrom" and disk.find("readonly") is None
    ]
    for disk in disks:
        target, driver = disk.find("target"), disk.find("driver")
        name = "A disk of the machine" if target is None else f"The disk {target.get('dev')}"
        kind = "raw" if driver is None else driver.get("type", "raw")
        if kind != "qcow2":
            return f"{name} has the format {kind}, which cannot store snapshots. Convert it to qcow2."
        if disk.get("snapshot", "internal") != "internal":
            return f"{name} is excluded from internal snapshots, which always include all disks."
        if disk.find("source/dataStore") is not None:
            return f"{name} has an external data file, of which QEMU cannot create internal snapshots."
    if not disks:
        return "The machine has no disk that can store a snapshot."
    loader = xml.find("os/loader")
    if loader is not None and loader.get("type") == "pflash" and version < _UEFI_SNAPSHOT_VERSION:
        return "The machine boots from UEFI flash, of which this version of libvirt cannot create internal snapshots."
    return None


# ---- snapshots


def list_snapshots(domain: libvirt.virDomain) -> ReportedSnapshots:
    """All snapshots of a domain at one time. Raises ProviderBusy if they changed during each of three attempts."""
    for _ in range(3):
        try:
            found, omitted = report_each(domain.listAllSnapshots(0), read_snapshot)
        except ProviderMissing:  # one was deleted since the listing
            continue
        current = _current(domain)
        if current is None or omitted or any(snapshot.ref == current for snapshot in found):
            return ReportedSnapshots(_mark_incomplete(domain, _parents_first(found), current), current, omitted)
    raise ProviderBusy("The machine's snapshots are changing.")


def read_snapshot(snapshot: libvirt.virDomainSnapshot) -> ReportedSnapshot:
    """One snapshot. Its ref is its name, the only identifier that libvirt has. Raises OddValue if that is not valid."""

    @cache
    def xml() -> ET.Element:
        return ET.fromstring(_call(snapshot.getXMLDesc, 0))  # noqa: S314 - generated by the library

    return report_snapshot(
        snapshot.getName(),
        name=snapshot.getName,
        created_at=lambda: parse_timestamp(xml().findtext("creationTime")),
        description=lambda: split_tag(xml().findtext("description"))[0],
        memory=lambda: _memory_kind(xml()) in {"internal", "external"},
        parent_ref=lambda: xml().findtext("parent/name"),
        token=lambda: split_tag(xml().findtext("description"))[1],
    )


def _memory_kind(xml: ET.Element) -> str:
    """Where a snapshot has the memory: "internal", "external" or "no"."""
    memory = xml.find("memory")
    return "no" if memory is None else memory.get("snapshot", "no")


def raise_if_delete_loses_data(snapshot: libvirt.virDomainSnapshot) -> None:
    """Raises ProviderRefused for an external snapshot of a machine that also has internal ones.

    If such a machine was reverted to an internal snapshot, its disk is the file on which the external one is based, and
    libvirt 10.10 removes this file instead of the external snapshot's (virt-manager issue 811). The gateway itself
    creates internal snapshots only.
    """
    xml = ET.fromstring(snapshot.getXMLDesc(0))  # noqa: S314 - generated by the library
    disks = {disk.get("snapshot") for disk in xml.iterfind("disks/disk")}
    if _memory_kind(xml) != "external" and "external" not in disks:
        return
    if snapshot.getDomain().snapshotNum(libvirt.VIR_DOMAIN_SNAPSHOT_LIST_INTERNAL):
        raise ProviderRefused(
            "The snapshot is an external one, created by another client, and the machine also has internal snapshots,"
            " whose data libvirt may lose when it deletes this one. Delete the internal snapshots first."
        )


def _current(domain: libvirt.virDomain) -> str | None:
    try:
        return str(domain.snapshotCurrent(0).getName())
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT:
            return None
        raise


def _parents_first(snapshots: list[ReportedSnapshot]) -> list[ReportedSnapshot]:
    """Sorted by depth, time and name. libvirt's topological listing fails while a snapshot is being written."""
    depths = snapshot_depths({snapshot.ref: snapshot.parent_ref for snapshot in snapshots})
    return sorted(snapshots, key=lambda snapshot: (depths[snapshot.ref], snapshot.created_at, snapshot.ref))


def _mark_incomplete(
    domain: libvirt.virDomain, snapshots: list[ReportedSnapshot], current: str | None
) -> list[ReportedSnapshot]:
    """The snapshots, with `ready=False` for the one that is being written; see the module's description."""
    if control_state(domain) != libvirt.VIR_DOMAIN_CONTROL_JOB:
        return snapshots
    state, reason = domain.state(0)
    if state != libvirt.VIR_DOMAIN_PAUSED or reason == libvirt.VIR_DOMAIN_PAUSED_STARTING_UP:  # the job is a revert
        return snapshots
    parents = {snapshot.parent_ref for snapshot in snapshots}
    candidates = [snapshot for snapshot in snapshots if snapshot.parent_ref == current and snapshot.ref not in parents]
    newest = max(candidates, key=lambda snapshot: snapshot.created_at, default=None)
    return [replace(snapshot, ready=False) if snapshot is newest else snapshot for snapshot in snapshots]


# ---- the XML of snapshots


def snapshot_xml(name: str, description: str, memory: bool) -> str:
    """The XML of a new snapshot. It states `memory` explicitly: libvirt then refuses if the power state has changed."""
    root = ET.Element("domainsnapshot")
    ET.SubElement(root, "name").text = name
    ET.SubElement(root, "description").text = description
    ET.SubElement(root, "memory", snapshot="internal" if memory else "no")
    return ET.tostring(root, "unicode")


def prepare_redefinition(snapshot: libvirt.virDomainSnapshot, description: str) -> Callable[[], object]:
    """Reads a snapshot. Returns the call that gives it another description and the same token; see the module."""
    xml = snapshot.getXMLDesc(libvirt.VIR_DOMAIN_SNAPSHOT_XML_SECURE)
    root = ET.fromstring(xml)  # noqa: S314 - generated by the library
    element = ET.Element("description")
    element.text = add_tag(description, split_tag(root.findtext("description"))[1])
    text = ET.tostring(element, "unicode")
    xml, replaced = _NAME_AND_DESCRIPTION.subn(lambda head: f"{head[1]}{text}", xml)
    if not replaced:
        raise ProviderRefused("The provider describes the snapshot in an unknown format.")
    flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE
    if root.findtext("state") == "disk-snapshot":  # an external snapshot of a running machine, without its memory
        flags |= libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    domain = snapshot.getDomain()
    return lambda: domain.snapshotCreateXML(xml, flags)


def is_legal_name(name: str) -> bool:
    """Whether libvirt and QEMU handle a snapshot of this name correctly.

    If a name has a quote or a backslash, libvirt reports success although the memory was not saved, and a revert kills
    the machine. Names that are numbers are ambiguous; see `is_ambiguous_id`.
    """
    return not (name.startswith(".") or name.isdecimal() or _ILLEGAL_CHARACTERS & {*name}) and name.isprintable()


def is_ambiguous_id(name: str) -> bool:
    """Whether QEMU could mistake the name for the id of another snapshot, because it looks for ids before names.

    QEMU numbers the snapshots of each disk from 1. Names made by virsh are Unix times, which have more digits.
    """
    return name.isdecimal() and len(name) <= _MAX_QEMU_ID_DIGITS
