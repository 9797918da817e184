"""What goes on record of a request that was refused before any operation has seen it."""

import re

from gateway.errors import Forbidden, NotFound
from gateway.models import AuditAction
from gateway.operations.audit_log import AuditContext, AuditSubject
from gateway.operations.audit_refusals import RefusalLog, Refused
from gateway.rest import bodies
from gateway.rest.classes import COLLECTIONS, SNAPSHOTS
from gateway.rest.errors import RestError
from gateway.rest.requests import Request

_REFUSALS = {403: Forbidden, 404: NotFound}  # by status; other faults say that the request was no wish at all
_WRITES = {
    "create": AuditAction.CREATE_SNAPSHOT,
    "delete": AuditAction.DELETE_SNAPSHOT,
    "revert": AuditAction.REVERT_VM_SNAPSHOT,
}
_NUMBER = re.compile(r"\d{1,18}")


async def record_fault(refusals: RefusalLog, request: Request, fault: RestError) -> None:
    """Records a fault that says what the caller may not do, or that what they want to change is not there."""
    kind, action = _REFUSALS.get(fault.status), _action(request)
    if kind is not None and action is not None:
        asked = AuditContext(request.asker.caller, request.asker.origin, action)
        await refusals.record(asked, [Refused(_about(request), kind(fault.message))])


def _action(request: Request) -> AuditAction | None:
    """None for a write of something that cannot be written."""
    if request.method in ("GET", "OPTIONS"):
        return AuditAction.READ
    if SNAPSHOTS.collection not in request.segments[2:3]:
        return None
    return _WRITES.get("delete" if request.method == "DELETE" else bodies.action_of(request.members))


def _about(request: Request) -> AuditSubject:
    """By the segments of `vms/11/snapshots/3`, as far as it goes."""
    class_ = COLLECTIONS.get(request.segments[0]) if request.segments else None
    if class_ is None or class_.kind is None:
        return AuditSubject()
    machine, snapshot = _number(request.segments[1:2]), _number(request.segments[3:4])
    return AuditSubject(machine_kind=class_.kind, machine_id=machine, snapshot_id=snapshot, subject=class_.collection)


def _number(segment: tuple[str, ...]) -> int | None:
    return int(segment[0]) if segment and _NUMBER.fullmatch(segment[0]) else None
