"""Operations as ManageIQ's tasks, with the states and messages of a MiqTask.

Attributes that ManageIQ derives from other columns are SQL expressions, so that they can be filtered and sorted by.
"""

from typing import Any

from gateway.models import MachineKind, OperationKind, OperationState
from gateway.operations.operation_records import deletion_refusal
from gateway.reads.sources import Computed
from gateway.rest.attributes import (
    Attribute,
    Attributes,
    RestContext,
    always_null,
    enum_text,
    id_of,
    number,
    opaque,
    text,
    timestamp,
)

HREF_COLUMNS = ("id",)
ACTION_COLUMNS = ("id", "kind", "machine_kind", "finished_at")
_KINDS = OperationKind.__members__


def href(context: RestContext, id: int) -> str:
    """The URL of a task."""
    return f"{context.base}/tasks/{id}"


def actions(context: RestContext, id: int, kind: str, machine_kind: str, finished_at: Any) -> list[dict[str, str]]:
    """The actions that the caller can perform on a task now: `delete`, or none."""
    has_ended = finished_at is not None
    if deletion_refusal(context.caller, id, _KINDS.get(kind), MachineKind(machine_kind), has_ended=has_ended):
        return []
    return [{"name": "delete", "method": "post", "href": href(context, id)}]


def context_data(context: RestContext, snapshot_id: int | None, machine_id: int | None, kind: str) -> Any:
    """The snapshot of the task. Its link is a 404 once the snapshot is deleted."""
    if snapshot_id is None:
        return {}
    link = f"{context.machine_url(machine_id, kind)}/snapshots/{snapshot_id}"
    return {"snapshot_id": str(snapshot_id), "snapshot_href": link}


def task_results(
    context: RestContext, kind: str, state: str, snapshot_id: int | None, machine_id: int | None, machine_kind: str
) -> Any:
    """What a task that succeeded has made: the snapshot of a create. Null for all others, as in ManageIQ."""
    if kind != OperationKind.CREATE_SNAPSHOT or state != OperationState.SUCCEEDED:
        return None
    return context_data(context, snapshot_id, machine_id, machine_kind)


_TARGET = (
    "CASE WHEN {t}.machine_kind = 'VM' THEN 'Virtual Machine' ELSE 'Instance' END || ' id:'"
    " || coalesce(CAST({t}.machine_id AS text), '') || ' name:''' || {t}.machine_name || ''''"
)
_SNAPSHOT = "CASE WHEN {t}.snapshot_id IS NULL THEN '' ELSE coalesce({t}.snapshot_name, '') || ' for ' END"
_CASES = "".join(f" WHEN {{t}}.kind = '{kind}' THEN '{kind.activity} ' || {_SNAPSHOT}" for kind in OperationKind)
_NAME = f"(CASE{_CASES} ELSE 'Unknown operation on ' END || {_TARGET})"

# A state that this version does not know is final if the operation has an end. It is not reported as a success.
_KNOWN_STATES = ", ".join(f"'{state}'" for state in OperationState)
_IS_ACTIVE = f"({{t}}.state = 'RUNNING' OR ({{t}}.state NOT IN ({_KNOWN_STATES}) AND {{t}}.finished_at IS NULL))"
_MESSAGE = (
    f"(CASE WHEN {{t}}.state = 'QUEUED' THEN 'Queued the action: [' || {_NAME} || '] being run for user: ['"
    " || coalesce({t}.requested_by, 'system') || ']'"
    f" WHEN {_IS_ACTIVE} THEN coalesce({{t}}.phase, 'In process')"
    " WHEN {t}.state = 'SUCCEEDED' THEN 'Task completed successfully'"
    " WHEN {t}.state = 'CANCELED' THEN 'Task was canceled'"
    " ELSE coalesce({t}.error_message, 'Task did not complete successfully') END)"
)
_STATE = f"CASE WHEN {{t}}.state = 'QUEUED' THEN 'Queued' WHEN {_IS_ACTIVE} THEN 'Active' ELSE 'Finished' END"
_STATUS = f"CASE WHEN {{t}}.state IN ('QUEUED', 'SUCCEEDED') OR {_IS_ACTIVE} THEN 'Ok' ELSE 'Error' END"
_PERCENT = "CASE WHEN {t}.state = 'SUCCEEDED' THEN 100 ELSE coalesce({t}.progress_percent, 0) END"

TASK: Attributes = {
    "id": id_of("id"),
    "name": Attribute("text", _NAME),
    "state": enum_text(_STATE),
    "status": enum_text(_STATUS),
    "message": Attribute("text", _MESSAGE),
    "userid": text("requested_by", nullable=True),
    "created_on": timestamp("created_at"),
    "updated_on": timestamp("coalesce({t}.finished_at, {t}.started_at, {t}.created_at)"),
    "started_on": timestamp("started_at", nullable=True),
    "finished_on": timestamp("finished_at", nullable=True),
    "pct_complete": number(_PERCENT),
    "context_data": opaque(("snapshot_id", "machine_id", "machine_kind"), context_data),
    "results": always_null(),
    "task_results": Attribute(
        "opaque",
        virtual=True,
        source=Computed(("kind", "state", "snapshot_id", "machine_id", "machine_kind"), task_results),
    ),
    "miq_server_id": always_null(),
    "identifier": id_of("machine_id", nullable=True),
    "zone": always_null(),
    "href_slug": enum_text("('tasks/' || CAST({t}.id AS text))", virtual=True),
    "state_or_status": enum_text(f"CASE WHEN ({_STATE}) = 'Finished' THEN {_STATUS} ELSE {_STATE} END", virtual=True),
    # Not in ManageIQ:
    "snapshot_id": id_of("snapshot_id", nullable=True),
    "vm_or_template_id": id_of("machine_id", nullable=True),
}
