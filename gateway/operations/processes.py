"""Registers the processes that run operations, so that none is accepted which one of them does not know.

During an upgrade, processes of two versions share the database. An older one leaves operations of new kinds alone, and
after a rollback it may be the only one left, so such an operation might never run. Therefore a process accepts a kind
only when every registered process knows it. A process renews its registration every third of the operation lease, and
reads those of the others at the same time. It has ended when its registration is not renewed for a whole lease.

Release 0.1.0 does not register, and stops working at a kind that it does not know. One row, "unregistered", stands for
all its processes. The migration inserts it for a minute. On PostgreSQL it is renewed while such a process is connected,
which the application name of its connections shows. SQLite has no such sign: stop all processes before the upgrade.
"""

import logging
from contextlib import suppress
from typing import NamedTuple

import orjson
import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlalchemy.dialects.postgresql import insert as upsert  # SQLite understands the same ON CONFLICT
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlmodel import col

from gateway.errors import Unavailable, Unconfirmed, Unsupported
from gateway.models import OperationKind, Process
from gateway.operations.operation_kinds import OPERATION_TYPES
from gateway.store.clock import DatabaseNow, FromNow
from gateway.store.database import Database, Transaction
from gateway.store.statements import Query, Statement
from gateway.version import VERSION

log = logging.getLogger(__name__)

# The same row as in migration 0011.
_UNREGISTERED = {
    "name": "unregistered",
    "version": "0.1",
    "kinds": '["CREATE_SNAPSHOT","REVERT_VM_SNAPSHOT","DELETE_SNAPSHOT","REFRESH_MACHINE"]',
}
RENEWALS_PER_LEASE = 3  # of them two may fail before the registration ends


class _Registration(NamedTuple):
    name: str
    version: str
    kinds: str


class _Connections(NamedTuple):
    number: int


class _OldConnections(sa.ColumnElement[int]):
    """Number of connections of versions that do not register. Always 0 on SQLite."""

    inherit_cache = False
    type = sa.BigInteger()


@compiles(_OldConnections, "sqlite")
def _old_connections_sqlite(element: _OldConnections, compiler: SQLCompiler, **kw: object) -> str:
    return "0"


@compiles(_OldConnections, "postgresql")
def _old_connections_postgresql(element: _OldConnections, compiler: SQLCompiler, **kw: object) -> str:
    return (
        "(SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND application_name = 'snapshot-gateway')"
    )


_OLD_CONNECTIONS = Query(sa.select(_OldConnections().label("number")), _Connections)
_REGISTER = Statement(
    upsert(Process)
    .values(
        name=bindparam("name"), version=bindparam("version"), kinds=bindparam("kinds"), lease_until=FromNow("lease")
    )
    .on_conflict_do_update(index_elements=["name"], set_={"lease_until": FromNow("lease")})
)
_DELETE_EXPIRED = Statement(sa.delete(Process).where(col(Process.lease_until) < DatabaseNow()))
_DELETE = Statement(sa.delete(Process).where(col(Process.name) == bindparam("of")))
_REGISTRATIONS = Query(
    sa.select(col(Process.name), col(Process.version), col(Process.kinds)).order_by(col(Process.name)), _Registration
)


class Processes:
    """The registered processes, as seen by the process `name`. `lease` is in seconds."""

    def __init__(self, database: Database, name: str, lease: float) -> None:
        self._database = database
        self._name = name
        self._lease = lease
        self._ignorant: dict[OperationKind, str] = {}  # by kind, the version of a process that does not know it

    async def start(self) -> None:
        """Registers this process, before it claims or accepts anything."""
        await self.renew()

    async def renew(self) -> None:
        """Renews the registration of this process, and reads those of the others."""
        own = {"name": self._name, "version": VERSION, "kinds": orjson.dumps(list(OPERATION_TYPES)).decode()}

        async def work(tx: Transaction) -> list[_Registration]:
            await tx.run(_REGISTER, **own, lease=self._lease)
            (old,) = await tx.all(_OLD_CONNECTIONS)
            if old.number:
                await tx.run(_REGISTER, **_UNREGISTERED, lease=self._lease)
            await tx.run(_DELETE_EXPIRED)
            return await tx.all(_REGISTRATIONS)

        known = [(row.version, set(orjson.loads(row.kinds))) for row in await self._database.write(work)]
        ignorant = {kind: version for kind in OperationKind for version, kinds in known if kind not in kinds}
        for kind in ignorant.keys() - self._ignorant.keys():
            log.info("Not accepted while a process of version %s is running kind=%s", ignorant[kind], kind)
        self._ignorant = ignorant

    async def stop(self) -> None:
        """Ends the registration, so that the others need not wait until it expires."""
        with suppress(Unavailable, Unconfirmed):
            await self._database.write(lambda tx: tx.run(_DELETE, of=self._name))

    def refusal(self, kind: OperationKind) -> Unsupported | None:
        """Why operations of this kind are not accepted; None if all processes know it."""
        version = self._ignorant.get(kind)
        if version is None:
            return None
        return Unsupported(
            f"A gateway process of version {version} is still running, which cannot execute {kind}."
            " Retry when the upgrade is complete."
        )
