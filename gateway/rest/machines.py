"""Vms and Instances as ManageIQ's classes: their attributes, associations, links and actions."""

from collections.abc import Mapping
from typing import Any

from gateway.access.capabilities import MACHINE_COLUMNS, MachineFacts, machine_refusal
from gateway.models import MachineKind, SnapshotAction
from gateway.reads.conditions import Condition, compare, comparison
from gateway.reads.sources import Computed, Inline, ToMany
from gateway.rest import manageiq_attributes, snapshots
from gateway.rest.attributes import (
    Association,
    Attribute,
    Attributes,
    RestContext,
    boolean,
    enum_text,
    exists,
    id_of,
    number,
    text,
    timestamp,
    unknown_association,
)


def href(context: RestContext, id: int, kind: str) -> str:
    """The URL of a machine."""
    return context.machine_url(id, kind)


def actions(_context: RestContext) -> list[Any]:
    """Always empty: the API has no actions on machines."""
    return []


def refusals(context: RestContext, *columns: Any) -> dict[SnapshotAction, str]:
    """The reason, for each action that the caller cannot perform on the machine now."""
    facts = MachineFacts.of(*columns)
    found = {action: machine_refusal(action, facts, context.rules, context.caller) for action in SnapshotAction}
    return {action: refusal.message for action, refusal in found.items() if refusal is not None}


# Fields that requests for a machine's snapshots read. Responses do not contain them.
REFUSALS: Mapping[str, Computed] = {"refusals": Computed(MACHINE_COLUMNS, refusals)}


def _snapshot_column(column: str, end: str) -> str:
    """A column of the machine's oldest or newest snapshot."""
    return (
        f"(SELECT s.{column} FROM snapshot s WHERE s.machine_id = {{t}}.id"
        f" ORDER BY s.created_at {end}, s.id {end} LIMIT 1)"
    )


def _virtual_attributes() -> dict[str, Attribute]:
    found = {"v_total_snapshots": number("snapshot_count", virtual=True)}
    for age, end in (("oldest", "ASC"), ("newest", "DESC")):
        prefix = f"v_snapshot_{age}"
        for name in ("name", "description"):
            found[f"{prefix}_{name}"] = Attribute("text", _snapshot_column(name, end), nullable=True, virtual=True)
        found[f"{prefix}_total_size"] = number(_snapshot_column("size_bytes", end), nullable=True, virtual=True)
        found[f"{prefix}_timestamp"] = timestamp(_snapshot_column("created_at", end), nullable=True, virtual=True)
    return found


# ManageIQ's vendors, with their names, by driver. Other drivers have no counterpart in ManageIQ.
_VENDORS = {
    "ec2": ("amazon", "Amazon"),
    "openstack": ("openstack", "OpenStack"),
    "proxmox": ("proxmox", "Proxmox VE"),
    "vsphere": ("vmware", "VMware"),
}


def _vendor(position: int, otherwise: str) -> str:
    """The vendor of the machine's provider, or its name."""
    cases = " ".join(f"WHEN '{driver}' THEN '{names[position]}'" for driver, names in _VENDORS.items())
    return f"(SELECT CASE p.driver {cases} ELSE '{otherwise}' END FROM provider p WHERE p.name = {{t}}.provider)"


def href_slug(context: RestContext, id: int, kind: str) -> str:
    """The path of a machine, such as `vms/11`."""
    return context.machine_path(id, kind)


_HREF_SLUG = "(CASE {t}.kind WHEN 'VM' THEN 'vms/' ELSE 'instances/' END || CAST({t}.id AS text))"

# ManageIQ's classes of machines: that of a kind, and below it those of the providers that have a driver here.
BASE_CLASSES: Mapping[MachineKind, str] = {
    MachineKind.VM: "ManageIQ::Providers::InfraManager::Vm",
    MachineKind.INSTANCE: "ManageIQ::Providers::CloudManager::Vm",
}
_DRIVER_CLASSES: Mapping[tuple[MachineKind, str], str] = {
    (MachineKind.VM, "vsphere"): "ManageIQ::Providers::Vmware::InfraManager::Vm",
    (MachineKind.INSTANCE, "openstack"): "ManageIQ::Providers::Openstack::CloudManager::Vm",
    (MachineKind.INSTANCE, "ec2"): "ManageIQ::Providers::Amazon::CloudManager::Vm",
}
_DRIVER = "(SELECT p.driver FROM provider p WHERE p.name = {t}.provider)"
_TYPE = (
    "CASE"
    + "".join(
        f" WHEN {{t}}.kind = '{kind}' AND {_DRIVER} = '{driver}' THEN '{name}'"
        for (kind, driver), name in _DRIVER_CLASSES.items()
    )
    + "".join(f" WHEN {{t}}.kind = '{kind}' THEN '{name}'" for kind, name in BASE_CLASSES.items())
    + " END"
)


def subclasses(kind: MachineKind) -> dict[str, Condition]:
    """The classes of the providers' machines of this kind, each with the condition on its rows."""
    return {name: _of_class(name) for (own, _), name in _DRIVER_CLASSES.items() if own is kind}


def _of_class(name: str) -> Condition:
    return compare(_TYPE, comparison("=", name), nullable=False, negated=False)


# Vms and Instances have the same attributes; they differ in their associations.
MACHINE: Attributes = {
    "id": id_of("id"),
    "name": text("name"),
    "description": text("description", nullable=True),
    "type": enum_text(_TYPE),
    "uid_ems": text("provider_uid", nullable=True, folds=False),
    "ems_ref": text("provider_ref"),
    "power_state": enum_text("lower({t}.power_state)"),
    "created_on": timestamp("created_at"),
    "updated_on": timestamp("updated_at"),
    "last_sync_on": timestamp("observed_at"),
    "archived": boolean("({t}.gone_at IS NOT NULL)"),
    "gone_on": timestamp("gone_at", nullable=True),
    # ManageIQ's guid is its own. The gateway has the second identity that providers and imports give.
    "guid": text("provider_uid", nullable=True, folds=False),
    "vendor": enum_text(_vendor(0, "unknown")),
    "raw_power_state": enum_text("lower({t}.power_state)"),
    "cloud": boolean("({t}.kind = 'INSTANCE')"),
    "template": boolean("({t}.id IS NULL)"),
    # The gateway's providers have names, not numbers. As in ManageIQ, a machine that is gone has no provider.
    "ems_id": Attribute("text", "CASE WHEN {t}.gone_at IS NULL THEN {t}.provider END", nullable=True),
    "active": boolean("({t}.gone_at IS NULL)", virtual=True),
    "orphaned": boolean("({t}.id IS NULL)", virtual=True),
    "disconnected": boolean("({t}.id IS NULL)", virtual=True),
    "normalized_state": enum_text(
        "CASE WHEN {t}.gone_at IS NULL THEN lower({t}.power_state) ELSE 'archived' END", virtual=True
    ),
    "vendor_display": Attribute("text", _vendor(1, "Unknown"), virtual=True),
    "v_is_a_template": enum_text("CASE WHEN {t}.id IS NOT NULL THEN 'False' END", virtual=True),
    "host_name": text("host", nullable=True, virtual=True),
    "href_slug": Attribute(
        "text", _HREF_SLUG, folded_column=_HREF_SLUG, virtual=True, source=Computed(("id", "kind"), href_slug)
    ),
    "region_number": number("({t}.id / 1000000000000)", virtual=True),
    **_virtual_attributes(),
    **manageiq_attributes.VM,
}

# Associations of one kind of machine, which ManageIQ has for both.
VM: Attributes = {**MACHINE, **dict.fromkeys(("availability_zone", "flavor"), unknown_association(None))}
INSTANCE: Attributes = {**MACHINE, "host": unknown_association(None)}

# Associated objects of which only the name is stored, in a column of the machine.
NAMED_OBJECTS: Mapping[str, Attribute] = {
    "ExtManagementSystem": text("provider"),
    "Host": text("host", nullable=True),
    "Flavor": text("flavor", nullable=True, folds=False),
    "AvailabilityZone": text("availability_zone", nullable=True, folds=False),
}


def _named_object(type_name: str) -> Association:
    attribute = NAMED_OBJECTS[type_name]
    return Association(
        class_name=type_name,
        noun="machine",
        attributes=lambda: {"name": attribute},
        source=Inline(attribute.column),
        types=(type_name,),
    )


_SNAPSHOTS = Association(
    class_name="Snapshot",
    noun="snapshot",
    attributes=lambda: snapshots.SNAPSHOT,
    source=ToMany("snapshot", match="machine_id"),
    types=("Snapshot",),
    scope=exists("snapshot", "{s}.machine_id = {t}.id"),
)

VM_ASSOCIATIONS: Mapping[str, Association] = {
    "ext_management_system": _named_object("ExtManagementSystem"),
    "host": _named_object("Host"),
    "snapshots": _SNAPSHOTS,
}
INSTANCE_ASSOCIATIONS: Mapping[str, Association] = {
    "ext_management_system": _named_object("ExtManagementSystem"),
    "flavor": _named_object("Flavor"),
    "availability_zone": _named_object("AvailabilityZone"),
    "snapshots": _SNAPSHOTS,
}
