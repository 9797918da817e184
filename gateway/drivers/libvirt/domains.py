"""Libvirt's domains and their snapshots as the `libvirt` driver sees and words them. Blocks."""

import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import libvirt

from gateway.drivers.base import ReportedMachine, ReportedSnapshot, ReportedSnapshots
from gateway.drivers.operation_tags import unmark
from gateway.errors import ProviderBusy
from gateway.models import MachineKind, PowerState

LONGEST_NAME = 40  # libvirt does not check, and what is too long fails after QEMU has written it

_ILLEGAL = {"/", '"', "\\"}
_DIGITS = 6
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
_REVERTED = {
    (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_FROM_SNAPSHOT),
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_FROM_SNAPSHOT),
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_FROM_SNAPSHOT),
}


# ---- how a domain stands


def control(domain: libvirt.virDomain) -> int:
    """What libvirt is doing with the domain, without waiting until it has done it."""
    try:
        return int(domain.controlInfo(0)[0])
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:  # it is off
            return int(libvirt.VIR_DOMAIN_CONTROL_OK)
        raise


def stand(domain: libvirt.virDomain) -> str:
    """The number of its process, its state, the reason of that, and its current snapshot."""
    return f"{domain.ID()} {' '.join(map(str, domain.state(0)))} {_current(domain) or ''}"


def was_reverted(before: str, now: str, name: str) -> bool:
    """Whether one stand and a later one prove that the domain was taken to the snapshot in between."""
    (*run_before, current_before), (*run, current) = before.split(" ", 3), now.split(" ", 3)
    if current != name:
        return False
    return current_before != name or (run != run_before and (int(run[1]), int(run[2])) in _REVERTED)


def resume_if_left_paused(domain: libvirt.virDomain) -> None:
    """Lets a domain go on that is as a libvirtd leaves it that dies while it saves the memory. Nothing is at work."""
    if domain.state(0) == [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_SAVE]:
        domain.resume()


# ---- machines


def machines_of(connection: libvirt.virConnect, host: str, version: int) -> list[ReportedMachine]:
    """By name."""
    found = []
    for domain in connection.listAllDomains(0):
        try:
            found.append(machine_of(domain, host, version))
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:  # it went away since it was listed
                raise
    return sorted(found, key=lambda machine: (machine.name, machine.ref))


def machine_of(domain: libvirt.virDomain, host: str, version: int) -> ReportedMachine:
    """`version` is that of the host's libvirt."""
    xml = ET.fromstring(domain.XMLDesc(0))  # noqa: S314 - the library has written it
    return ReportedMachine(
        ref=domain.UUIDString(),
        kind=MachineKind.VM,
        name=domain.name(),
        power_state=_POWER.get(domain.state(0)[0], PowerState.UNKNOWN),
        description=xml.findtext("description") or None,
        host=host,
        obstacle=None if xml.get("type") == "test" else _obstacle(xml, version),
    )


def _obstacle(xml: Any, version: int) -> str | None:
    """Why QEMU cannot make an internal snapshot of such a domain, which libvirt would only say when it is tried."""
    disks = [
        disk
        for disk in xml.iterfind("devices/disk[source]")
        if disk.get("device") != "cdrom" and disk.find("readonly") is None
    ]
    for disk in disks:
        target, driver = disk.find("target"), disk.find("driver")
        name = "one of its disks" if target is None else f"its disk {target.get('dev')}"
        kind = "raw" if driver is None else driver.get("type", "raw")
        if kind != "qcow2":
            return f"{name} is {kind}, which cannot hold snapshots: convert it to qcow2"
        if disk.get("snapshot", "internal") != "internal":
            return f"{name} is configured to be left out of internal snapshots, which are of all disks or none"
    if not disks:
        return "the machine has no disk that could hold a snapshot"
    loader = xml.find("os/loader")
    if loader is not None and loader.get("type") == "pflash" and version < _SNAPSHOTS_OF_FLASH:
        return "the machine boots from UEFI flash, of which this libvirt makes no internal snapshots"
    return None


# ---- snapshots


def snapshots_of(domain: libvirt.virDomain) -> ReportedSnapshots:
    """All of them at one time. Raises ProviderBusy when they do not hold still."""
    for _ in range(3):
        try:
            seen, current = [snapshot_of(snapshot) for snapshot in domain.listAllSnapshots(0)], _current(domain)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT:  # one went away since it was listed
                raise
            continue
        if current is None or any(snapshot.ref == current for snapshot in seen):
            return ReportedSnapshots(_half_made(domain, _parents_first(seen), current), current)
    raise ProviderBusy("the machine's snapshots are changing")


def snapshot_of(snapshot: libvirt.virDomainSnapshot) -> ReportedSnapshot:
    """Its name is all that identifies it."""
    xml = ET.fromstring(snapshot.getXMLDesc(0))  # noqa: S314 - as above
    description, token = unmark(xml.findtext("description"))
    memory = xml.find("memory")
    return ReportedSnapshot(
        ref=snapshot.getName(),
        name=snapshot.getName(),
        created_at=datetime.fromtimestamp(int(xml.findtext("creationTime", "0")), UTC),
        description=description,
        memory=memory is not None and memory.get("snapshot") in {"internal", "external"},
        parent_ref=xml.findtext("parent/name"),
        token=token,
    )


def _current(domain: libvirt.virDomain) -> str | None:
    try:
        return str(domain.snapshotCurrent(0).getName())
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_SNAPSHOT:
            return None
        raise


def _parents_first(seen: list[ReportedSnapshot]) -> list[ReportedSnapshot]:
    """By depth, time and name. libvirt's own order of this kind fails while a snapshot is being written."""
    depths: dict[str | None, int] = {None: 0}
    parents = {snapshot.ref: snapshot.parent_ref for snapshot in seen}
    for ref in parents:
        path: list[str | None] = []
        above: str | None = ref
        while above not in depths:
            path.insert(0, above)
            above = parents.get(above or "")
        depths |= {below: depth for depth, below in enumerate(path, depths[above] + 1)}
    return sorted(seen, key=lambda snapshot: (depths[snapshot.ref], snapshot.created_at, snapshot.ref))


def _half_made(domain: libvirt.virDomain, seen: list[ReportedSnapshot], current: str | None) -> list[ReportedSnapshot]:
    """The same; the youngest on top of the current one is not ready while the domain is paused for a job."""
    if control(domain) != libvirt.VIR_DOMAIN_CONTROL_JOB:
        return seen
    state, reason = domain.state(0)
    if state != libvirt.VIR_DOMAIN_PAUSED or reason == libvirt.VIR_DOMAIN_PAUSED_STARTING_UP:  # that is a revert
        return seen
    parents = {snapshot.parent_ref for snapshot in seen}
    young = [snapshot for snapshot in seen if snapshot.parent_ref == current and snapshot.ref not in parents]
    youngest = max(young, key=lambda snapshot: snapshot.created_at, default=None)
    return [replace(snapshot, ready=False) if snapshot is youngest else snapshot for snapshot in seen]


# ---- what a new one is to be


def wanted_xml(name: str, description: str, memory: bool) -> str:
    """What is wished for is said, so that libvirt refuses when the machine was started or stopped meanwhile."""
    root = ET.Element("domainsnapshot")
    ET.SubElement(root, "name").text = name
    ET.SubElement(root, "description").text = description
    ET.SubElement(root, "memory", snapshot="internal" if memory else "no")
    return ET.tostring(root, "unicode")


def is_legal(name: str) -> bool:
    """Whether libvirt and QEMU take the name for what it is.

    With a quote or a backslash libvirt reports success although the memory is saved nowhere, and a revert kills the
    machine.
    """
    return not (name.startswith(".") or name.isdecimal() or _ILLEGAL & {*name}) and name.isprintable()


def is_number(name: str) -> bool:
    """Whether a revert to that name could be one to another snapshot: QEMU looks for its own numbers first.

    They count from 1 on each disk; what virsh names by the time is far above.
    """
    return name.isdecimal() and len(name) <= _DIGITS
