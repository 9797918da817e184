"""Liveness and readiness of the process: the database, its schema, and the background parts (feed, worker, ...).

Anyone may check the health, and its reads precede those of callers. So checks share their reads of the database: at
most one of each kind runs at a time, and checks that arrive meanwhile wait for its result.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol

from gateway.store.database import Database, Transaction

log = logging.getLogger(__name__)

HEALTH_PATHS = frozenset({"/healthz", "/readyz"})

_OK = "ok"
_DATABASE_TIMEOUT = 5.0  # seconds


class Part(Protocol):
    """A background loop of the process."""

    @property
    def ended(self) -> bool:
        """Whether the loop has ended, which only a restart of the process can repair."""

    @property
    def worked_at(self) -> float:
        """When the loop last completed an iteration, by `time.monotonic()`."""


class Health:
    """Checks the parts of the process on demand. A part that has not worked for `stuck_after` seconds is not ready."""

    def __init__(
        self,
        database: Database,
        parts: Mapping[str, Part],
        revisions: Sequence[str],
        *,
        stuck_after: float,
        job_problems: Callable[[], Awaitable[Mapping[str, str]]],
    ) -> None:
        """`revisions` are the schema revisions that this version knows, oldest first. `job_problems` returns the jobs
        that need attention, by name.
        """
        self._database = database
        self._parts = parts
        self._revisions = revisions
        self._stuck_after = stuck_after
        self._job_problems = job_problems
        self._reads: dict[str, asyncio.Task[Mapping[str, str]]] = {}  # that run now
        self.stopping = False

    def liveness(self) -> dict[str, str]:
        """Returns the state of each part. A state other than "ok" means that the process must be restarted."""
        return {name: "has ended" if part.ended else _OK for name, part in self._parts.items()}

    async def readiness(self) -> dict[str, str]:
        """Returns the state of everything that serving needs. A state other than "ok" means: send no requests now."""
        states = await self._share("database", self._database_states)
        found = {"gateway": "is stopping" if self.stopping else _OK, **states}
        for name, part in self._parts.items():
            idle = time.monotonic() - part.worked_at
            stuck = f"has been stuck for {idle:.0f} s"
            found[name] = "has ended" if part.ended else _OK if idle <= self._stuck_after else stuck
        return found

    async def job_problems(self) -> Mapping[str, str]:
        """Returns what is wrong with jobs, by `job NAME`. It does not affect readiness: another process would fail too.

        Empty when the database does not answer, which `readiness` reports.
        """
        return await self._share("jobs", self._read_job_problems)

    async def _share(self, name: str, read: Callable[[], Coroutine[Any, Any, Mapping[str, str]]]) -> Mapping[str, str]:
        """The result of `read`, or of the one with this name that runs already."""
        if name not in self._reads:
            self._reads[name] = asyncio.create_task(read(), name=f"health {name}")
            self._reads[name].add_done_callback(lambda _: self._reads.pop(name))
        return await asyncio.shield(self._reads[name])  # others may wait for it when this check is canceled

    async def _read_job_problems(self) -> Mapping[str, str]:
        try:
            async with asyncio.timeout(_DATABASE_TIMEOUT):
                return {f"job {name}": problem for name, problem in (await self._job_problems()).items()}
        except Exception:
            log.warning("Health check could not read the state of jobs", exc_info=True)
            return {}

    async def _database_states(self) -> Mapping[str, str]:
        try:
            async with asyncio.timeout(_DATABASE_TIMEOUT):
                revision = await self._database.read(_revision, single=True)
        except Exception:
            log.warning("Health check could not read the database", exc_info=True)
            return {"database": "does not answer"}
        # An unknown revision is newer: this version keeps serving while a newer one is rolled out (docs/operating.md).
        behind = revision in self._revisions[:-1]
        return {"database": _OK, "schema": f"is at revision {revision} and must be migrated" if behind else _OK}


async def _revision(transaction: Transaction) -> str:
    rows = await transaction.rows("SELECT version_num FROM alembic_version")
    return str(rows[0][0])


def all_ok(states: Mapping[str, str]) -> bool:
    """Whether every state is "ok"."""
    return all(state == _OK for state in states.values())
