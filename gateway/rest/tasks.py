"""Tasks in ManageIQ's words: the operations that GraphQL shows, with the states and messages of a MiqTask.

What ManageIQ makes up from other columns is an SQL expression here, so that it can be filtered and sorted by.
"""

from typing import Any

from gateway.rest.attributes import (
    Attribute,
    Attributes,
    RestContext,
    id_of,
    moment,
    no_text,
    number,
    opaque,
    text,
    word,
)

HREF_COLUMNS = ("id",)


def href(context: RestContext, id: int) -> str:
    return f"{context.base}/tasks/{id}"


def actions(_context: RestContext) -> list[Any]:
    return []


def context_data(context: RestContext, snapshot_id: int | None, machine_id: int | None, kind: str) -> Any:
    """The snapshot it is about, whose link leads nowhere once the snapshot is deleted."""
    if snapshot_id is None:
        return {}
    collection = "vms" if kind == "VM" else "instances"
    link = f"{context.base}/{collection}/{machine_id}/snapshots/{snapshot_id}"
    return {"snapshot_id": str(snapshot_id), "snapshot_href": link}


_TARGET = (
    "CASE WHEN {t}.machine_kind = 'VM' THEN 'Virtual Machine' ELSE 'Instance' END || ' id:'"
    " || coalesce(CAST({t}.machine_id AS text), '') || ' name:''' || {t}.machine_name || ''''"
)
_SNAPSHOT = "coalesce({t}.snapshot_name, '')"
_NAME = (
    f"(CASE WHEN {{t}}.kind = 'CREATE_SNAPSHOT' THEN 'Creating snapshot ' || {_SNAPSHOT} || ' for '"
    f" WHEN {{t}}.kind = 'REVERT_VM_SNAPSHOT' THEN 'Reverting to snapshot ' || {_SNAPSHOT} || ' for '"
    f" WHEN {{t}}.kind = 'DELETE_SNAPSHOT' THEN 'Deleting snapshot ' || {_SNAPSHOT} || ' for '"
    f" ELSE 'Refreshing ' END || {_TARGET})"
)
_MESSAGE = (
    f"(CASE {{t}}.state WHEN 'QUEUED' THEN 'Queued the action: [' || {_NAME} || '] being run for user: ['"
    " || coalesce({t}.requested_by, 'system') || ']'"
    " WHEN 'RUNNING' THEN coalesce({t}.phase, 'In process')"
    " WHEN 'SUCCEEDED' THEN 'Task completed successfully'"
    " WHEN 'CANCELED' THEN 'Task was canceled'"
    " ELSE coalesce({t}.error_message, 'Task did not complete successfully') END)"
)
_STATE = "CASE {t}.state WHEN 'QUEUED' THEN 'Queued' WHEN 'RUNNING' THEN 'Active' ELSE 'Finished' END"
_STATUS = "CASE WHEN {t}.state IN ('FAILED', 'CANCELED') THEN 'Error' ELSE 'Ok' END"
_PERCENT = "CASE WHEN {t}.state = 'SUCCEEDED' THEN 100 ELSE coalesce({t}.progress_percent, 0) END"

TASK: Attributes = {
    "id": id_of("id"),
    "name": Attribute("text", _NAME),
    "state": word(_STATE),
    "status": word(_STATUS),
    "message": Attribute("text", _MESSAGE),
    "userid": text("requested_by", nullable=True),
    "created_on": moment("created_at"),
    "updated_on": moment("coalesce({t}.finished_at, {t}.started_at, {t}.created_at)"),
    "started_on": moment("started_at", nullable=True),
    "finished_on": moment("finished_at", nullable=True),
    "pct_complete": number(_PERCENT),
    "context_data": opaque(("snapshot_id", "machine_id", "machine_kind"), context_data),
    "results": no_text(),
    "miq_server_id": no_text(),
    "identifier": id_of("machine_id", nullable=True),
    "zone": no_text(),
    # What ManageIQ has no words for:
    "snapshot_id": id_of("snapshot_id", nullable=True),
    "vm_or_template_id": id_of("machine_id", nullable=True),
}
