"""Snapshots as ManageIQ's class: their attributes, links and actions."""

from typing import Any

from gateway.access.capabilities import SNAPSHOT_COLUMNS, SnapshotFacts, snapshot_refusal
from gateway.models import SnapshotAction
from gateway.rest.attributes import (
    Attribute,
    Attributes,
    RestContext,
    always_null,
    boolean,
    constant_text,
    enum_text,
    id_of,
    number,
    opaque,
    text,
    timestamp,
)

HREF_COLUMNS = ("id", "machine_id", "machine.kind")
ACTION_COLUMNS = (*HREF_COLUMNS, *SNAPSHOT_COLUMNS)


def href(context: RestContext, id: int, machine_id: int, kind: str) -> str:
    """The URL of a snapshot. `kind` is that of its machine."""
    return f"{context.machine_url(machine_id, kind)}/snapshots/{id}"


def actions(context: RestContext, id: int, machine_id: int, kind: str, *columns: Any) -> list[dict[str, str]]:
    """The actions that the caller can perform on a snapshot now. `columns`: the values of `SNAPSHOT_COLUMNS`.

    Each has one method, as in ManageIQ: `delete` is a POST, although DELETE works too.
    """
    facts = SnapshotFacts.of(*columns)

    def can(action: SnapshotAction) -> bool:
        return snapshot_refusal(action, facts, context.rules, context.caller) is None

    here = href(context, id, machine_id, kind)
    names = {"revert": SnapshotAction.REVERT, "delete": SnapshotAction.DELETE}
    return [{"name": name, "method": "post", "href": here} for name, action in names.items() if can(action)]


def no_disks(_context: RestContext) -> list[Any]:
    """Always empty: the gateway stores no disks."""
    return []


def _provider_ref() -> Attribute:
    return text("provider_ref", nullable=True)


SNAPSHOT: Attributes = {
    "id": id_of("id"),
    "name": text("name"),
    "description": text("description", nullable=True),
    "uid": _provider_ref(),
    "uid_ems": _provider_ref(),
    "ems_ref": _provider_ref(),
    "ems_ref_type": always_null(),
    "type": constant_text("Snapshot"),
    "parent_uid": Attribute(
        "text", "(SELECT p.provider_ref FROM snapshot p WHERE p.id = {t}.parent_id)", nullable=True
    ),
    "parent_id": id_of("parent_id", nullable=True),
    "vm_or_template_id": id_of("machine_id"),
    "current": number("CASE WHEN {t}.is_current THEN 1 ELSE 0 END"),
    "total_size": Attribute("integer", "size_bytes", nullable=True),
    "filename": always_null(),
    "disks": opaque((), no_disks),
    "create_time": timestamp("created_at"),
    "created_on": timestamp("created_at"),
    "updated_on": timestamp("coalesce({t}.observed_at, {t}.created_at)"),
    "href_slug": enum_text("('snapshots/' || CAST({t}.id AS text))", virtual=True),
    # Not in ManageIQ:
    "state": enum_text("lower({t}.state)"),
    "memory": boolean("memory"),
    "created_by": text("created_by", nullable=True),
}
