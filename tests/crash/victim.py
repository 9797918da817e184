"""The real server, in a process that kills itself with SIGKILL as soon as so many operations have come to one step.

Nothing in `gateway` knows of it: functions of the worker are replaced in that process by ones that count and wait.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from gateway.config import Settings
from gateway.drivers.simulator.world import SimulatedWorld
from gateway.operations import admission, worker
from gateway.operations.claims import Claim
from gateway.operations.commands import create_snapshot, delete_snapshots, revert_vm_snapshot
from gateway.operations.execution import Execution
from gateway.store.database import Database
from tests.forked import Forked

STEPS = ("queued", "claimed", "issued", "handed over", "checkpointed", "done", "recorded")


def start(settings: Settings, step: str, operations: int = 3) -> Forked:
    """A server that dies at `step`."""
    return Forked(settings, partial(_arm, step, operations))


async def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class _Gathering:
    """Operations wait here for each other; the last one to come kills the process."""

    def __init__(self, operations: int) -> None:
        self._missing = operations

    async def wait(self) -> None:
        self._missing -= 1
        if self._missing == 0:
            await _die()
        await asyncio.Event().wait()


# After which function of the gateway an operation has come to the step.
_AFTER = {
    "issued": (Claim, "issue"),
    "handed over": (SimulatedWorld, "begin"),
    "checkpointed": (Claim, "checkpoint"),
    "recorded": (Claim, "end"),
}
# And instead of which.
_INSTEAD = {"claimed": (Execution, "run"), "done": (Claim, "end")}


def _arm(step: str, operations: int) -> None:
    patch = pytest.MonkeyPatch()  # for good: it is never undone
    gathering = _Gathering(operations)
    if step == "accepting":
        for module in (create_snapshot, revert_vm_snapshot, delete_snapshots):
            patch.setattr(module, "enqueue", _then(_die, admission.enqueue))
    elif step == "queued":
        patch.setattr(worker, "claim", _die_when_queued(operations))
    elif step in _INSTEAD:
        owner, name = _INSTEAD[step]
        patch.setattr(owner, name, lambda *_arguments, **_named: gathering.wait())
    else:
        owner, name = _AFTER[step]
        patch.setattr(owner, name, _then(gathering.wait, getattr(owner, name)))


def _then(end: Callable[[], Awaitable[None]], function: Callable[..., Awaitable[Any]]) -> Any:
    async def replaced(*arguments: Any, **named: Any) -> Any:
        await function(*arguments, **named)
        await end()

    return replaced


def _die_when_queued(operations: int) -> Any:
    async def replaced(database: Database, *_arguments: Any, **_named: Any) -> list[Any]:
        count = "SELECT count(*) FROM operation WHERE state = 'QUEUED'"
        rows = await database.read(lambda tx: tx.rows(count), single=True)
        if rows[0][0] == operations:
            await _die()
        return []

    return replaced
