"""The real server, in a process that kills itself with SIGKILL when a number of operations have reached one step.

The code in `gateway` is unchanged: in that process, functions of the worker are replaced by ones that count and wait.
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
from gateway.operations.commands import create_snapshot, delete_snapshots, revert_vm_snapshot, update_snapshot
from gateway.operations.execution import Execution
from gateway.store.database import Database
from tests.forked_gateway import ForkedGateway

STEPS = ("queued", "claimed", "dispatched", "sent", "checkpointed", "done", "recorded")


def start(settings: Settings, step: str, operations: int = 4) -> ForkedGateway:
    """Starts a server that kills itself when `operations` operations have reached `step`."""
    return ForkedGateway(settings, partial(_arm, step, operations))


async def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class _Barrier:
    """Operations wait here for each other. The last one kills the process."""

    def __init__(self, operations: int) -> None:
        self._missing = operations

    async def wait(self) -> None:
        self._missing -= 1
        if self._missing == 0:
            await _die()
        await asyncio.Event().wait()


# The functions of the gateway after which an operation has reached the step. An update has no task to checkpoint.
_AFTER: dict[str, list[tuple[type, str]]] = {
    "dispatched": [(Claim, "mark_dispatched")],
    "sent": [(SimulatedWorld, "begin"), (SimulatedWorld, "update_snapshot")],
    "checkpointed": [(Claim, "checkpoint"), (SimulatedWorld, "update_snapshot")],
    "recorded": [(Claim, "end")],
}
# The function that is replaced when an operation has reached the step.
_INSTEAD = {"claimed": (Execution, "run"), "done": (Claim, "end")}


def _arm(step: str, operations: int) -> None:
    patch = pytest.MonkeyPatch()  # never undone: the process is killed
    barrier = _Barrier(operations)
    if step == "accepting":
        for module in (create_snapshot, revert_vm_snapshot, delete_snapshots, update_snapshot):
            patch.setattr(module, "enqueue", _then(_die, admission.enqueue))
    elif step == "queued":
        patch.setattr(worker, "claim", _die_when_queued(operations))
    elif step in _INSTEAD:
        owner, name = _INSTEAD[step]
        patch.setattr(owner, name, lambda *_arguments, **_named: barrier.wait())
    else:
        for owner, name in _AFTER[step]:
            patch.setattr(owner, name, _then(barrier.wait, getattr(owner, name)))


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
