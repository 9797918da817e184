"""The database rows of configured providers."""

from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col

from gateway.errors import StartupError
from gateway.models import Machine, Provider
from gateway.store.database import Database, Transaction
from gateway.store.statements import Query, RowId, Statement, assignments, insert


class ProviderName(NamedTuple):
    """The name of a provider that has a row."""

    name: str


class RegisteredProvider(NamedTuple):
    """The driver of a provider that has a row, and the tenant that it belongs to."""

    driver: str
    tenant: str


_OF = col(Provider.name) == bindparam("of")
_LOCK_PROVIDER = Query(
    sa.select(col(Provider.driver), col(Provider.tenant)).where(_OF).with_for_update(), RegisteredProvider
)
_INSERT = insert(Provider, "name", "tenant", "driver")
_UPDATE = Statement(sa.update(Provider).where(_OF).values(**assignments(Provider, "tenant", "driver")))
_HAS_MACHINES = Query(
    sa.select(col(Machine.id))
    .where(col(Machine.provider) == bindparam("of"), sa.text("NOT machine.imported"))
    .limit(1),
    RowId,
)


async def register_provider(database: Database, name: str, driver: str, tenant: str) -> None:
    """Inserts the row of a configured provider, or updates its driver and tenant.

    Raises StartupError when the provider already has machines from another driver or of another tenant: their
    references would have another meaning, or the machines would move to another tenant.
    """

    async def work(tx: Transaction) -> None:
        row = await tx.first(_LOCK_PROVIDER, of=name)
        if row is None:
            await tx.run(_INSERT, name=name, tenant=tenant, driver=driver)
            return
        if (row.driver, row.tenant) == (driver, tenant):
            return
        if await tx.first(_HAS_MACHINES, of=name) is not None:
            before = f"driver {row.driver!r}" if row.driver != driver else f"tenant {row.tenant!r}"
            raise StartupError(f"Provider {name!r} already has machines with the {before}. Use another provider name.")
        await tx.run(_UPDATE, of=name, tenant=tenant, driver=driver)

    await database.write(work)
