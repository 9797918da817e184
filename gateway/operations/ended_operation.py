"""The end of an operation, which is logged once it is committed."""

import logging
from dataclasses import dataclass
from datetime import datetime

from gateway.columns import now
from gateway.models import MachineKind, OperationKind, OperationState

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedOperation:
    """An operation that has ended in the final state `state`. `started_at` is null if it was canceled while QUEUED."""

    id: int
    kind: OperationKind
    state: OperationState
    machine_kind: MachineKind
    machine_id: int | None
    snapshot_id: int | None
    requested_by: str | None
    started_at: datetime | None
    code: str | None = None
    message: str | None = None
    provider_message: str | None = None

    def log(self) -> None:
        """Writes a line: a warning for a failure, because a person may have to act."""
        seconds = 0.0 if self.started_at is None else max(0.0, (now() - self.started_at).total_seconds())
        fields = {
            "operation": f"operation-{self.id}",
            "kind": self.kind.value,
            "state": self.state.value,
            "machine": None if self.machine_id is None else f"{self.machine_kind.lower()}-{self.machine_id}",
            "snapshot": None if self.snapshot_id is None else f"snapshot-{self.snapshot_id}",
            "requestedBy": self.requested_by,
            "seconds": round(seconds, 3),
            "code": self.code,
            "error": self.message,
            "providerMessage": self.provider_message,
        }
        level = logging.WARNING if self.state is OperationState.FAILED else logging.INFO
        log.log(level, "Operation ended", extra={"fields": fields})
