"""The rows of configured providers."""

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col

from gateway.errors import StartupError
from gateway.inventory.columns import assignments
from gateway.models import Machine, Provider
from gateway.store.database import Database, Transaction
from gateway.store.statements import Statement, insert

_OF = col(Provider.name) == bindparam("of")
_ROW = Statement(sa.select(col(Provider.driver), col(Provider.tenant)).where(_OF).with_for_update())
_INSERT = insert(Provider, "name", "tenant", "driver")
_UPDATE = Statement(sa.update(Provider).where(_OF).values(**assignments(Provider, "tenant", "driver")))
_HAS_MACHINES = Statement(
    sa.select(col(Machine.id)).where(col(Machine.provider) == bindparam("of"), sa.text("NOT machine.imported")).limit(1)
)


async def register_provider(database: Database, name: str, driver: str, tenant: str) -> None:
    """Gives a configured provider its row, or brings the row up to date.

    Raises StartupError when the provider has machines that another kind of driver, or another tenant, has met:
    their references would mean something else, or they would change hands.
    """

    async def work(tx: Transaction) -> None:
        row = await tx.first(_ROW, of=name)
        if row is None:
            await tx.run(_INSERT, name=name, tenant=tenant, driver=driver)
            return
        if (row.driver, row.tenant) == (driver, tenant):
            return
        if await tx.first(_HAS_MACHINES, of=name) is not None:
            before = f"driver {row.driver}" if row.driver != driver else f"tenant {row.tenant}"
            raise StartupError(f"provider {name!r} has machines of the {before}: give the new one another name")
        await tx.run(_UPDATE, of=name, tenant=tenant, driver=driver)

    await database.write(work)
