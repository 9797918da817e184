"""Mistakes to seed into gateways, to show that the checks find them. Each is called in the process that makes it."""

from types import SimpleNamespace
from typing import Any

import pytest

from gateway.operations import idempotency, leases, worker
from gateway.operations.admission import Queues
from gateway.store.database import Transaction
from gateway.store.statements import Statement

_FENCED = ("BEAT", "SHOW", "ISSUE", "CHECKPOINT", "PUT_OFF", "END")


def forget_keys() -> None:
    """A key that has been used is taken for a new one."""

    async def begin(self: idempotency.Use, tx: Transaction) -> Any:
        await first(self, tx)

    first = idempotency.Use.begin
    pytest.MonkeyPatch().setattr(idempotency.Use, "begin", begin)


def drop_the_fence() -> None:
    """Whoever had claimed an operation once may write about it for ever, and does not look at the clock."""
    patch = pytest.MonkeyPatch()
    patch.setattr(worker, "time", SimpleNamespace(monotonic=lambda: 0.0))
    for name in _FENCED:
        clause = getattr(leases, name)._clause._clone()
        clause._where_criteria = clause._where_criteria[:1]  # the operation's id alone
        patch.setattr(leases, name, Statement(clause))


def revert_at_any_time() -> None:
    """A revert is accepted while other work on the machine is unfinished."""
    pytest.MonkeyPatch().setattr(Queues, "conflict", lambda *_: None)
