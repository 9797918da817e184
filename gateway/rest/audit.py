"""Audit entries for requests that the REST API refuses before they reach `operations`."""

import re

from gateway.errors import Forbidden, NotFound
from gateway.models import AuditAction
from gateway.operations.audit_log import AuditContext, AuditSubject
from gateway.operations.audit_refusals import RefusalLog, Refused
from gateway.rest import bodies
from gateway.rest.classes import COLLECTIONS, SNAPSHOTS
from gateway.rest.errors import RestError
from gateway.rest.requests import Request

_REFUSALS = {403: Forbidden, 404: NotFound}  # by HTTP status; other errors mean that the request was malformed
_WRITES = {
    "create": AuditAction.CREATE_SNAPSHOT,
    "delete": AuditAction.DELETE_SNAPSHOT,
    "revert": AuditAction.REVERT_VM_SNAPSHOT,
}
_NUMBER = re.compile(r"\d{1,18}")


async def record_refusal(refusals: RefusalLog, request: Request, error: RestError) -> None:
    """Records a refusal: a missing right, or a row that does not exist. Other errors are not recorded."""
    kind, action = _REFUSALS.get(error.status), _action(request)
    if kind is not None and action is not None:
        audit_context = AuditContext(request.requester.caller, request.requester.origin, action)
        await refusals.record(audit_context, [Refused(_subject(request), kind(error.message))])


def _action(request: Request) -> AuditAction | None:
    """The action to record. None for a write of something other than snapshots and tasks, which no request can do."""
    if request.method in ("GET", "OPTIONS"):
        return AuditAction.READ
    action = "delete" if request.method == "DELETE" else bodies.action_of(request.members)
    if action == "query":
        return AuditAction.READ
    if SNAPSHOTS.collection in request.segments[2:3]:
        return _WRITES.get(action)
    return None


def _subject(request: Request) -> AuditSubject:
    """The subject, from the segments of a path such as `vms/11/snapshots/3`, as far as they are valid."""
    class_ = COLLECTIONS.get(request.segments[0]) if request.segments else None
    if class_ is None or class_.kind is None:
        return AuditSubject()
    machine, snapshot = _number(request.segments[1:2]), _number(request.segments[3:4])
    return AuditSubject(machine_kind=class_.kind, machine_id=machine, snapshot_id=snapshot, subject=class_.collection)


def _number(segment: tuple[str, ...]) -> int | None:
    return int(segment[0]) if segment and _NUMBER.fullmatch(segment[0]) else None
