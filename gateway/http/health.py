"""Whether the gateway is well, and what is wrong when it is not.

That is the database, its schema, and what runs beside the requests.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from gateway.store.database import Database, Transaction

log = logging.getLogger(__name__)

_OK = "ok"
_PATIENCE = 5.0  # seconds that the database has to answer


class Part(Protocol):
    """What runs beside the requests. `ended`: it will do nothing more. `worked_at`: last, by the monotonic clock."""

    @property
    def ended(self) -> bool: ...

    @property
    def worked_at(self) -> float: ...


class Health:
    """Looks when it is asked. `late`: seconds after which a part that has not worked is stuck."""

    def __init__(self, database: Database, parts: Mapping[str, Part], revisions: Sequence[str], *, late: float) -> None:
        self._database = database
        self._parts = parts
        self._revisions = revisions
        self._late = late
        self.stopping = False

    def alive(self) -> dict[str, str]:
        """What each part is; all are ok unless only a new start of the process can help."""
        return {name: "has ended" if part.ended else _OK for name, part in self._parts.items()}

    async def ready(self) -> dict[str, str]:
        """What everything is that serving needs; all are ok, or requests should go elsewhere."""
        found = {"gateway": "is stopping" if self.stopping else _OK, **await self._stored()}
        for name, part in self._parts.items():
            idle = time.monotonic() - part.worked_at
            found[name] = "has ended" if part.ended else _OK if idle <= self._late else f"is stuck for {idle:.0f} s"
        return found

    async def _stored(self) -> dict[str, str]:
        try:
            async with asyncio.timeout(_PATIENCE):
                revision = await self._database.read(_revision, single=True)
        except Exception:
            log.warning("the database does not answer", exc_info=True)
            return {"database": "does not answer"}
        # Unknown is newer: then this version was left to serve until the newer one does (docs/operating.md).
        behind = revision in self._revisions[:-1]
        return {"database": _OK, "schema": f"is at {revision}, and not migrated" if behind else _OK}


async def _revision(transaction: Transaction) -> str:
    rows = await transaction.rows("SELECT version_num FROM alembic_version")
    return str(rows[0][0])


def well(found: Mapping[str, str]) -> bool:
    """Whether all is ok."""
    return all(state == _OK for state in found.values())
