"""Bugs that are seeded into gateways to show that the checks find them. Each is called in the gateway's process."""

from types import SimpleNamespace
from typing import Any

import pytest

from gateway.access import capabilities
from gateway.operations import idempotency, leases, worker
from gateway.store.database import Transaction
from gateway.store.statements import Query

_FENCED = ("HEARTBEAT", "REPORT_PROGRESS", "MARK_DISPATCHED", "CHECKPOINT", "RESCHEDULE", "END")


def forget_keys() -> None:
    """An idempotency key that was used is taken for a new one."""

    async def begin(self: idempotency.Use, tx: Transaction) -> Any:
        await original(self, tx)

    original = idempotency.Use.begin
    pytest.MonkeyPatch().setattr(idempotency.Use, "begin", begin)


def drop_the_fence() -> None:
    """A worker whose lease has expired continues to write, because writes check neither the fence nor the clock."""
    patch = pytest.MonkeyPatch()
    patch.setattr(worker, "time", SimpleNamespace(monotonic=lambda: 0.0))
    for name in _FENCED:
        clause = getattr(leases, name)._clause._clone()  # noqa: SLF001 - SQLAlchemy can only add conditions
        clause._where_criteria = clause._where_criteria[:1]  # noqa: SLF001 - the operation's id alone
        patch.setattr(leases, name, Query(clause, leases.FencedWrite))


def revert_at_any_time() -> None:
    """A revert is accepted while the machine has unfinished operations."""
    pytest.MonkeyPatch().setattr(capabilities, "queue_refusal", lambda *_: None)
