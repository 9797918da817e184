"""Vms and Instances in ManageIQ's words: their attributes, associations, links and actions."""

from collections.abc import Mapping
from typing import Any

from gateway.access.capabilities import FACTS, MachineFacts, machine_refusal
from gateway.models import MachineKind, SnapshotAction
from gateway.reads.sources import Computed, Inline, Many
from gateway.rest import snapshots
from gateway.rest.attributes import (
    Association,
    Attribute,
    Attributes,
    RestContext,
    flag,
    id_of,
    moment,
    number,
    some,
    text,
    word,
)

COLLECTIONS = {MachineKind.VM: "vms", MachineKind.INSTANCE: "instances"}


def href(context: RestContext, id: int, kind: str) -> str:
    return f"{context.base}/{COLLECTIONS[MachineKind(kind)]}/{id}"


def actions(_context: RestContext) -> list[Any]:
    """The gateway changes snapshots, not machines."""
    return []


def refusals(context: RestContext, *columns: Any) -> dict[SnapshotAction, str]:
    """Why the caller cannot, for each action that they cannot do now."""
    facts = MachineFacts.of(*columns)
    found = {action: machine_refusal(action, facts, context.matrices, context.caller) for action in SnapshotAction}
    return {action: refusal.message for action, refusal in found.items() if refusal is not None}


# What a request about one machine needs to know of it; never shown as it is.
REFUSALS: Mapping[str, Computed] = {"refusals": Computed(FACTS, refusals)}


def _of_snapshot(column: str, end: str) -> str:
    """A column of the machine's oldest or newest snapshot."""
    return (
        f"(SELECT s.{column} FROM snapshot s WHERE s.machine_id = {{t}}.id"
        f" ORDER BY s.created_at {end}, s.id {end} LIMIT 1)"
    )


def _virtual() -> dict[str, Attribute]:
    found = {"v_total_snapshots": number("snapshot_count", virtual=True)}
    for word_, end in (("oldest", "ASC"), ("newest", "DESC")):
        prefix = f"v_snapshot_{word_}"
        for name in ("name", "description"):
            found[f"{prefix}_{name}"] = Attribute("text", _of_snapshot(name, end), nullable=True, virtual=True)
        found[f"{prefix}_total_size"] = number(_of_snapshot("size_bytes", end), nullable=True, virtual=True)
        found[f"{prefix}_timestamp"] = moment(_of_snapshot("created_at", end), nullable=True, virtual=True)
    return found


_TYPE = (
    "CASE {t}.kind WHEN 'VM' THEN 'ManageIQ::Providers::InfraManager::Vm'"
    " ELSE 'ManageIQ::Providers::CloudManager::Vm' END"
)

# Both have the same; what only one of them has is an association.
MACHINE: Attributes = {
    "id": id_of("id"),
    "name": text("name"),
    "description": text("description", nullable=True),
    "type": word(_TYPE),
    "uid_ems": text("provider_uid", nullable=True, folds=False),
    "ems_ref": text("provider_ref"),
    "power_state": word("lower({t}.power_state)"),
    "created_on": moment("created_at"),
    "updated_on": moment("updated_at"),
    "last_sync_on": moment("observed_at"),
    "archived": flag("({t}.gone_at IS NOT NULL)"),
    "gone_on": moment("gone_at", nullable=True),
    **_virtual(),
}

# Types of objects that are columns of the machine itself: a name, and nothing more is known.
NAMED: Mapping[str, Attribute] = {
    "ExtManagementSystem": text("provider"),
    "Host": text("host", nullable=True),
    "Flavor": text("flavor", nullable=True, folds=False),
    "AvailabilityZone": text("availability_zone", nullable=True, folds=False),
}


def _named(type_name: str) -> Association:
    attribute = NAMED[type_name]
    return Association(type_name, "machine", lambda: {"name": attribute}, Inline(attribute.column), (type_name,))


_SNAPSHOTS = Association(
    "Snapshot",
    "snapshot",
    lambda: snapshots.SNAPSHOT,
    Many("snapshot", match="machine_id"),
    ("Snapshot",),
    some("snapshot", "{s}.machine_id = {t}.id"),
)

VM_ASSOCIATIONS: Mapping[str, Association] = {
    "ext_management_system": _named("ExtManagementSystem"),
    "host": _named("Host"),
    "snapshots": _SNAPSHOTS,
}
INSTANCE_ASSOCIATIONS: Mapping[str, Association] = {
    "ext_management_system": _named("ExtManagementSystem"),
    "flavor": _named("Flavor"),
    "availability_zone": _named("AvailabilityZone"),
    "snapshots": _SNAPSHOTS,
}
