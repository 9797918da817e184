"""Snapshots in ManageIQ's words: their attributes, links and actions."""

from typing import Any

from gateway.access.capabilities import FACTS, MachineFacts, snapshot_refusal
from gateway.models import MachineKind, SnapshotAction, SnapshotState
from gateway.rest.attributes import (
    Attribute,
    Attributes,
    RestContext,
    fixed_text,
    flag,
    id_of,
    moment,
    no_text,
    number,
    opaque,
    text,
    word,
)

HREF_COLUMNS = ("id", "machine_id", "machine.kind")
ACTION_COLUMNS = (
    *HREF_COLUMNS,
    *("state", "provider_ref"),
    *(f"machine.{column}" for column in FACTS),
)


def href(context: RestContext, id: int, machine_id: int, kind: str) -> str:
    collection = "vms" if kind == MachineKind.VM else "instances"
    return f"{context.base}/{collection}/{machine_id}/snapshots/{id}"


def actions(
    context: RestContext,
    id: int,
    machine_id: int,
    kind: str,
    state: str,
    provider_ref: str | None,
    *columns: Any,
) -> list[dict[str, str]]:
    """What the caller can do with it now. Clients do what they find here, the first method first."""
    facts = MachineFacts.of(*columns)

    def can(action: SnapshotAction) -> bool:
        on_provider = provider_ref is not None
        matrices, caller = context.matrices, context.caller
        return snapshot_refusal(action, SnapshotState(state), on_provider, facts, matrices, caller) is None

    here = href(context, id, machine_id, kind)
    found = []
    if can(SnapshotAction.REVERT):
        found.append({"name": "revert", "method": "post", "href": here})
    if can(SnapshotAction.DELETE):
        found += [{"name": "delete", "method": method, "href": here} for method in ("post", "delete")]
    return found


def no_disks(_context: RestContext) -> list[Any]:
    return []


def _reference() -> Attribute:
    return text("provider_ref", nullable=True)


SNAPSHOT: Attributes = {
    "id": id_of("id"),
    "name": text("name"),
    "description": text("description", nullable=True),
    "uid": _reference(),
    "uid_ems": _reference(),
    "ems_ref": _reference(),
    "ems_ref_type": no_text(),
    "type": fixed_text("Snapshot"),
    "parent_uid": Attribute(
        "text", "(SELECT p.provider_ref FROM snapshot p WHERE p.id = {t}.parent_id)", nullable=True
    ),
    "parent_id": id_of("parent_id", nullable=True),
    "vm_or_template_id": id_of("machine_id"),
    "current": number("CASE WHEN {t}.is_current THEN 1 ELSE 0 END"),
    "total_size": Attribute("integer", "size_bytes", nullable=True),
    "filename": no_text(),
    "disks": opaque((), no_disks),
    "create_time": moment("created_at"),
    "created_on": moment("created_at"),
    "updated_on": moment("coalesce({t}.observed_at, {t}.created_at)"),
    # What ManageIQ has no words for:
    "state": word("lower({t}.state)"),
    "memory": flag("memory"),
    "created_by": text("created_by", nullable=True),
}
