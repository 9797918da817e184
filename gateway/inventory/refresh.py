"""Reads machines and snapshots from the providers and updates the inventory, periodically and on request.

An error is never taken for an empty list: rows that could not be read again stay unchanged, and the `problem` of the
provider's row states the reason.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col

from gateway.columns import now
from gateway.config import Settings
from gateway.drivers.base import Driver, ReportedMachine
from gateway.errors import (
    ProviderError,
    ProviderMissing,
    ProviderUnavailable,
    Unavailable,
    Unconfirmed,
)
from gateway.inventory.counts import MergeCounts
from gateway.inventory.machines import FIND_MACHINE, absent_machines, mark_gone, merge_machine
from gateway.inventory.snapshots import merge_snapshots
from gateway.models import Machine, Provider
from gateway.store.database import Database, Transaction
from gateway.store.statements import Query, Statement, assignments, insert

log = logging.getLogger(__name__)

T = TypeVar("T")

_CONCURRENT_READS = 8  # machines of one provider that are read at the same time
_LARGE_MERGE = 100  # snapshots of a machine above which its merge is not concurrent with others of this size
MARKED_AT_ONCE = 500  # machines marked as gone in one transaction, for which other writes wait
_TIMEOUT = 60.0  # seconds, for each request to a provider


class _MachineRef(NamedTuple):
    provider: str
    provider_ref: str


class _ProviderTenant(NamedTuple):
    tenant: str


_MACHINE_REF = Query(
    sa.select(col(Machine.provider), col(Machine.provider_ref)).where(col(Machine.id) == bindparam("machine_id")),
    _MachineRef,
)
_PROVIDER_TENANT = Query(sa.select(col(Provider.tenant)).where(col(Provider.name) == bindparam("of")), _ProviderTenant)
_INSERT_PROVIDER = insert(Provider, "name", "tenant", "driver")
_OF = col(Provider.name) == bindparam("of")
_SET_REFRESHED = Statement(sa.update(Provider).where(_OF).values(problem=None, **assignments(Provider, "observed_at")))
_SET_PROBLEM = Statement(sa.update(Provider).where(_OF).values(**assignments(Provider, "problem")))


class InventoryRefresher:
    """Refreshes the inventory from the providers for which this process has a driver."""

    def __init__(self, database: Database, drivers: Mapping[str, Driver], settings: Settings) -> None:
        self._database = database
        self._drivers = drivers
        self._settings = settings
        self._large_merges = asyncio.Lock()

    # ---- one machine

    async def refresh_machine(self, machine_id: int) -> None:
        """Reads one machine and its snapshots from the provider. Marks it as gone when the provider does not have it.

        Raises ProviderError, with nothing changed, when the machine cannot be read.
        """
        machine = await self._database.read(lambda tx: tx.first(_MACHINE_REF, machine_id=machine_id), single=True)
        if machine is None:
            raise ProviderMissing("The machine is no longer in the inventory.")
        if machine.provider not in self._drivers:
            raise ProviderUnavailable(f"No driver is configured for provider {machine.provider!r}.")
        try:
            await self._read_machine(machine.provider, machine.provider_ref)
        except ProviderMissing:
            await self._mark_gone([machine_id])

    async def refresh_machines(self, provider: str, refs: Iterable[str]) -> None:
        """Reads the machines of a provider with these refs. Failures are logged, as one line, and not raised."""
        failures: list[str] = []

        async def read(machine_ref: str) -> None:
            try:
                await self._refresh_by_ref(provider, machine_ref)
            except (ProviderError, Unavailable, Unconfirmed) as error:
                failures.append(f"machine={machine_ref} error={error.message}")
            except Exception:
                log.exception("Machine refresh failed provider=%s machine=%s", provider, machine_ref)

        await _for_each(refs, read)
        if failures:
            log.info("Machine refresh failed provider=%s machines=%d first: %s", provider, len(failures), failures[0])

    async def _refresh_by_ref(self, provider: str, machine_ref: str) -> None:
        try:
            await self._read_machine(provider, machine_ref)
        except ProviderMissing:
            row = await self._database.read(
                lambda tx: tx.first(FIND_MACHINE, of=provider, ref=machine_ref), single=True
            )
            await self._mark_gone([] if row is None else [row.id])

    async def _read_machine(self, provider: str, machine_ref: str) -> None:
        """Raises ProviderMissing when the provider does not have the machine."""
        driver = self._drivers[provider]
        machine = await _with_timeout(driver.machine(machine_ref))
        tenant = await self._provider_tenant(provider, driver)
        await self._read_snapshots(provider, tenant, driver, machine, MergeCounts())

    async def _mark_gone(self, ids: Sequence[int]) -> None:
        moment = now()
        if ids:
            await self._database.write(lambda tx: mark_gone(tx, ids, moment))

    # ---- one provider

    async def refresh_provider(self, name: str) -> MergeCounts:
        """Reads all machines of a provider and their snapshots, and returns the numbers of changed rows.

        Raises ProviderError when the machines cannot be listed, and any error of the database. Machines whose snapshots
        cannot be read stay unchanged; their number and the first error are stored in the provider's `problem`.
        """
        driver = self._drivers[name]
        tenant = await self._provider_tenant(name, driver)
        started_at = now()
        try:
            listed = await _with_timeout(driver.machines())
        except ProviderError as error:
            await self._set_problem(name, error.message)
            raise
        counts = MergeCounts()
        errors: dict[int, Exception] = {}  # by the machine's place in the listing

        async def read(listed_machine: tuple[int, ReportedMachine]) -> None:
            place, machine = listed_machine
            if machine.unreadable is not None:
                errors[place] = ProviderUnavailable(f"Machine {machine.ref!r}: {machine.unreadable}")
                return
            try:
                await self._read_snapshots(name, tenant, driver, machine, counts)
            except Exception as error:  # noqa: BLE001 - raised when the other machines have been read
                errors[place] = error

        await _for_each(enumerate(listed), read)
        results = [errors[place] for place in sorted(errors)]
        for result in results:
            if isinstance(result, Unavailable | Unconfirmed):
                raise result  # the database failed, which says nothing about the provider
        failures = [result for result in results if isinstance(result, ProviderError)]
        if bugs := [result for result in results if not isinstance(result, ProviderError)]:
            raise ExceptionGroup("Some machines could not be read.", bugs)
        refs, moment = {machine.ref for machine in listed}, now()
        absent = await self._database.read(lambda tx: absent_machines(tx, name, refs, started_at), single=True)
        for start in range(0, len(absent), MARKED_AT_ONCE):
            ids = absent[start : start + MARKED_AT_ONCE]
            counts.machines.removed += await self._database.write(
                partial(mark_gone, ids=ids, moment=moment, before=started_at)
            )
        if failures:
            problem = f"{len(failures)} of {len(listed)} machines could not be read: {failures[0].message}"
            await self._set_problem(name, problem)
        else:
            await self._database.write(lambda tx: tx.run(_SET_REFRESHED, of=name, observed_at=started_at))
        return counts

    async def _read_snapshots(
        self, provider: str, tenant: str, driver: Driver, reported: ReportedMachine, counts: MergeCounts
    ) -> None:
        """Reads the snapshots of a machine and merges both into the inventory, in one transaction.

        A large merge occupies the writer of SQLite, or a connection of PostgreSQL, for as long as it runs. So there is
        one at a time, after which other writes are next.
        """
        listed_at = now()
        snapshots = await _with_timeout(driver.snapshots(reported.ref))

        async def work(tx: Transaction) -> MergeCounts:
            moment, done = now(), MergeCounts()
            machine = await merge_machine(
                tx, reported, provider=provider, tenant=tenant, moment=moment, counts=done.machines
            )
            await merge_snapshots(
                tx,
                machine.id,
                snapshots,
                tenant=tenant,
                listed_at=listed_at,
                moment=moment,
                counts=done.snapshots,
                stuck_after=timedelta(seconds=self._settings.operation_deadline),
                adopted=machine.adopted,
            )
            return done

        large = len(snapshots.snapshots) > _LARGE_MERGE
        async with self._large_merges if large else contextlib.nullcontext():
            done = await self._database.write(work)
        counts.machines.add(done.machines)
        counts.snapshots.add(done.snapshots)

    async def _provider_tenant(self, name: str, driver: Driver) -> str:
        """The tenant of the provider. Inserts the provider's row if it does not exist."""

        async def work(tx: Transaction) -> str:
            if (row := await tx.first(_PROVIDER_TENANT, of=name)) is not None:
                return row.tenant
            await tx.run(_INSERT_PROVIDER, name=name, tenant=self._settings.tenant, driver=driver.name)
            return self._settings.tenant

        row = await self._database.read(lambda tx: tx.first(_PROVIDER_TENANT, of=name), single=True)
        return await self._database.write(work) if row is None else row.tenant

    async def _set_problem(self, name: str, problem: str) -> None:
        await self._database.write(lambda tx: tx.run(_SET_PROBLEM, of=name, problem=problem))

    # ---- periodically

    async def keep_fresh(self, name: str) -> None:
        """Refreshes a provider as a job: errors of the provider are recorded in its row and not raised, others are.

        It may be canceled at any time: a merge whose transaction has been sent is either committed or not.
        """
        try:
            log.info("Refreshed provider %s: %s", name, await self.refresh_provider(name))
        except ProviderError as error:
            log.warning("Provider refresh failed provider=%s error=%s", name, error.message)
        except (Unavailable, Unconfirmed):
            raise  # the database failed, which says nothing about the provider
        except Exception:
            with contextlib.suppress(Unavailable, Unconfirmed):
                await self._set_problem(name, "An internal error occurred during the refresh. See the gateway's log.")
            raise


async def _for_each(items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Calls `work` for each item, for `_CONCURRENT_READS` of them at a time.

    There is a task per concurrent call and not per item: 50,000 tasks that start at once would block the event loop.
    """
    remaining = iter(items)

    async def work_off() -> None:
        for item in remaining:
            await work(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(_CONCURRENT_READS):
            group.create_task(work_off())


async def _with_timeout(request: Awaitable[T]) -> T:
    """Awaits a read of a provider. A timeout is ProviderUnavailable, not OutcomeUnknown, as a read changes nothing."""
    try:
        async with asyncio.timeout(_TIMEOUT):
            return await request
    except TimeoutError:
        raise ProviderUnavailable(f"The provider did not answer within {_TIMEOUT:g} seconds.") from None
