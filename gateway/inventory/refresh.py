"""Reads machines and snapshots from the providers and updates the inventory, periodically and on request.

Errors
    An error is never taken for an empty list: rows that could not be read again stay unchanged, and the `problem` of
    the provider's row states the reason. An error, or odd data, of one machine costs that machine only.

Absence
    One answer without a machine or a snapshot does not remove it either, because the answer may be incomplete. What a
    reading lacks is read again at once: a machine alone (`Driver.machine`), the snapshots of a machine together. It is
    gone if the second reading lacks it too. So nothing is stored between the two, and after a restart, or in another
    gateway, the first of two readings is the next one.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col

from gateway.columns import now
from gateway.config import Settings
from gateway.drivers.base import Driver, ReportedMachine, require_readable
from gateway.errors import (
    ProviderError,
    ProviderMissing,
    ProviderUnavailable,
    Unavailable,
    Unconfirmed,
)
from gateway.inventory.counts import MergeCounts, RowCounts
from gateway.inventory.listing import SnapshotListing, arrange_machines, arrange_snapshots, quoted
from gateway.inventory.machines import (
    FIND_MACHINE,
    MAX_MACHINES,
    MachineAllowance,
    PresentMachine,
    absent_machines,
    mark_gone,
    merge_machine,
)
from gateway.inventory.provider_reading import ProviderReading
from gateway.inventory.snapshots import MergedSnapshots, SnapshotMerge, merge_at_once, merge_in_slices
from gateway.models import Machine, Provider
from gateway.store.database import Database, Transaction
from gateway.store.statements import Query, Statement, assignments, insert

log = logging.getLogger(__name__)

T = TypeVar("T")
Reported = TypeVar("Reported")

_CONCURRENT_READS = 8  # machines of one provider that are read at the same time
_LARGE_MERGE = 100  # snapshots of a machine above which its merge is not concurrent with others of this size
MARKED_AT_ONCE = 500  # machines marked as gone in one transaction, for which other writes wait
_ARRANGED_INLINE = 500  # records of a listing that are arranged on the event loop, in some milliseconds
_TIMEOUT = 60.0  # seconds, for each request to a provider
_LOGGED_MACHINES = 20  # of those that could not be read in one refresh; their number is logged too


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
_SET_REFRESHED = Statement(sa.update(Provider).where(_OF).values(**assignments(Provider, "problem", "observed_at")))
_SET_PROBLEM = Statement(sa.update(Provider).where(_OF).values(**assignments(Provider, "problem")))


@dataclass(frozen=True, slots=True)
class _Source:
    """A provider that is read, for one refresh."""

    name: str
    tenant: str
    driver: Driver
    allowance: MachineAllowance


class InventoryRefresher:
    """Refreshes the inventory from the providers for which this process has a driver.

    `max_machines`: how many machines a provider may have in the inventory, those that are gone included.
    """

    def __init__(
        self,
        database: Database,
        drivers: Mapping[str, Driver],
        settings: Settings,
        *,
        max_machines: int = MAX_MACHINES,
    ) -> None:
        self._database = database
        self._drivers = drivers
        self._settings = settings
        self._max_machines = max_machines
        self._large_merges = asyncio.Lock()

    # ---- one machine

    async def refresh_machine(self, machine_id: int) -> None:
        """Reads one machine and its snapshots from the provider. Marks it as gone when two readings lack it.

        Raises ProviderError, with nothing changed, when the machine cannot be read.
        """
        machine = await self._database.read(lambda tx: tx.first(_MACHINE_REF, machine_id=machine_id), single=True)
        if machine is None:
            raise ProviderMissing("The machine is no longer in the inventory.")
        if machine.provider not in self._drivers:
            raise ProviderUnavailable(f"No driver is configured for provider {machine.provider!r}.")
        if await self._is_gone(await self._source(machine.provider), machine.provider_ref):
            await self._mark_gone([machine_id])

    async def refresh_machines(self, provider: str, refs: Iterable[str]) -> None:
        """Reads the machines of a provider with these refs. Failures are logged and not raised."""
        failures: dict[str, str] = {}

        async def read(machine_ref: str) -> None:
            try:
                await self._refresh_by_ref(source, machine_ref)
            except (ProviderError, Unavailable, Unconfirmed) as error:
                failures[machine_ref] = error.message
            except Exception:
                log.exception("Machine refresh failed provider=%s machine=%s", provider, machine_ref)

        try:
            source = await self._source(provider)
        except (Unavailable, Unconfirmed) as error:
            log.info("Machine refresh failed provider=%s error=%s", provider, error.message)
            return
        except Exception:
            log.exception("Machine refresh failed provider=%s", provider)
            return
        await _for_each(refs, read)
        _log_unreadable(provider, failures, logging.INFO)

    async def _refresh_by_ref(self, source: _Source, machine_ref: str) -> None:
        if await self._is_gone(source, machine_ref):
            row = await self._database.read(
                lambda tx: tx.first(FIND_MACHINE, of=source.name, ref=machine_ref), single=True
            )
            await self._mark_gone([] if row is None else [row.id])

    async def _is_gone(self, source: _Source, machine_ref: str) -> bool:
        """Reads a machine and merges it. Returns whether two readings lacked it."""
        reading = ProviderReading()
        return await self._is_missing(source, machine_ref, reading) and await self._is_missing(
            source, machine_ref, reading
        )

    async def _is_missing(self, source: _Source, machine_ref: str, reading: ProviderReading) -> bool:
        """Reads a machine, alone, and merges it. Returns whether the provider does not have it."""
        try:
            machine = await _with_timeout(source.driver.machine(machine_ref))
        except ProviderMissing:
            return True
        listing = arrange_machines([require_readable(machine)])
        if machine_ref not in listing.machines:
            raise ProviderUnavailable(f"The provider answered with machine {quoted(machine.ref)}.")
        reading.note(machine_ref, listing.problems.get(machine_ref))
        try:
            await self._read_snapshots(source, listing.machines[machine_ref], reading)
        except ProviderMissing as error:  # the machine was there before, so this is not about the machine
            raise ProviderUnavailable(error.message, provider_message=error.provider_message) from error
        return False

    async def _mark_gone(self, ids: Sequence[int]) -> None:
        moment = now()
        if ids:
            await self._database.write(lambda tx: mark_gone(tx, ids, moment))

    # ---- one provider

    async def refresh_provider(self, name: str) -> MergeCounts:
        """Reads all machines of a provider and their snapshots, and returns the numbers of changed rows.

        Raises ProviderError when the machines cannot be listed, and any error of the database. Machines that cannot be
        read stay unchanged; the provider's `problem` names them. An error that is not the provider's is raised, in a
        group, when all other machines have been read.
        """
        source = await self._source(name)
        started_at = now()
        try:
            listed = await _with_timeout(source.driver.machines())
            reading = ProviderReading(await _arranged(arrange_machines, listed, len(listed)))
        except ProviderError as error:
            await self._set_problem(name, error.message)
            raise
        machines = reading.listing.machines
        await _for_each(machines.values(), partial(self._read_listed, source, reading))
        reading.raise_database_error()
        absent = await absent_machines(self._database, name, machines.keys() - reading.missing, started_at)
        await _for_each(absent, partial(self._read_absent, source, reading))
        reading.raise_database_error()
        await self._mark_gone_in_slices(reading, started_at)
        problem = reading.problem
        _log_unreadable(name, reading.failures)
        if reading.is_complete:
            await self._database.write(
                lambda tx: tx.run(_SET_REFRESHED, of=name, problem=problem, observed_at=started_at)
            )
        else:
            await self._set_problem(name, problem)
        reading.raise_bugs()
        return reading.counts

    async def _read_listed(self, source: _Source, reading: ProviderReading, machine: ReportedMachine) -> None:
        """Reads a machine of the listing. Its error is raised later, or becomes a part of the provider's problem."""
        try:
            await self._read_snapshots(source, require_readable(machine), reading)
        except ProviderMissing:
            reading.missing.add(machine.ref)
        except Exception as error:  # noqa: BLE001 - handled when the other machines have been read
            reading.errors[machine.ref] = error

    async def _read_absent(self, source: _Source, reading: ProviderReading, machine: PresentMachine) -> None:
        """Reads a machine that a first reading lacked."""
        try:
            if await self._is_missing(source, machine.provider_ref, reading):
                reading.gone.append(machine.id)
            elif machine.provider_ref not in reading.listing.machines:
                reading.unlisted.add(machine.provider_ref)
        except Exception as error:  # noqa: BLE001 - handled when the other machines have been read
            reading.errors[machine.provider_ref] = error

    async def _mark_gone_in_slices(self, reading: ProviderReading, started_at: datetime) -> None:
        """Marks the machines as gone, unless another refresh has read them since `started_at`."""
        moment = now()
        for start in range(0, len(reading.gone), MARKED_AT_ONCE):
            ids = reading.gone[start : start + MARKED_AT_ONCE]
            reading.counts.machines.removed += await self._database.write(
                partial(mark_gone, ids=ids, moment=moment, before=started_at)
            )

    async def _read_snapshots(self, source: _Source, reported: ReportedMachine, reading: ProviderReading) -> None:
        """Reads the snapshots of a machine and merges both into the inventory. Twice, if the first reading lacks some.

        A large merge occupies the writer of SQLite, or a connection of PostgreSQL, several times. So there is one at a
        time, and other writes get in between.
        """
        absent: Set[int] = frozenset()
        oddity: str | None = None
        for is_first in (True, False):
            listed_at = now()
            found = await _with_timeout(source.driver.snapshots(reported.ref))
            listing = await _arranged(arrange_snapshots, found, len(found.snapshots))
            large = len(listing.snapshots) > _LARGE_MERGE
            async with self._large_merges if large else contextlib.nullcontext():
                machines, snapshots = await self._merge(source, reported, listing, listed_at, absent)
            if is_first:
                reading.counts.machines.add(machines)
            else:
                snapshots.counts.unchanged = 0  # counted by the first reading
            reading.counts.snapshots.add(snapshots.counts)
            absent, oddity = snapshots.absent, listing.problem
            if not absent:
                break
        reading.note(reported.ref, oddity)

    async def _merge(
        self,
        source: _Source,
        reported: ReportedMachine,
        listing: SnapshotListing,
        listed_at: datetime,
        absent_before: Set[int],
    ) -> tuple[RowCounts, MergedSnapshots]:
        """Merges a machine and its snapshots, in one transaction unless there are many."""

        async def work(tx: Transaction) -> tuple[RowCounts, SnapshotMerge, MergedSnapshots | None]:
            moment, counts = now(), RowCounts()
            machine = await merge_machine(
                tx,
                reported,
                provider=source.name,
                tenant=source.tenant,
                moment=moment,
                counts=counts,
                allowance=source.allowance,
            )
            merge = SnapshotMerge(
                machine_id=machine.id,
                tenant=source.tenant,
                listing=listing,
                listed_at=listed_at,
                moment=moment,
                stuck_after=timedelta(seconds=self._settings.operation_deadline),
                adopted=machine.adopted,
                absent_before=absent_before,
            )
            return counts, merge, await merge_at_once(tx, merge)

        counts, merge, merged = await self._database.write(work)
        if merged is None:
            merged = await merge_in_slices(self._database, merge)
        return counts, merged

    async def _source(self, name: str) -> _Source:
        driver = self._drivers[name]
        tenant = await self._provider_tenant(name, driver)
        return _Source(name, tenant, driver, MachineAllowance(self._max_machines))

    async def _provider_tenant(self, name: str, driver: Driver) -> str:
        """The tenant of the provider. Inserts the provider's row if it does not exist."""

        async def work(tx: Transaction) -> str:
            if (row := await tx.first(_PROVIDER_TENANT, of=name)) is not None:
                return row.tenant
            await tx.run(_INSERT_PROVIDER, name=name, tenant=self._settings.tenant, driver=driver.name)
            return self._settings.tenant

        row = await self._database.read(lambda tx: tx.first(_PROVIDER_TENANT, of=name), single=True)
        return await self._database.write(work) if row is None else row.tenant

    async def _set_problem(self, name: str, problem: str | None) -> None:
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


def _log_unreadable(provider: str, errors: Mapping[str, str], level: int = logging.WARNING) -> None:
    """Writes a line for each machine that could not be read, by its ref, up to `_LOGGED_MACHINES`."""
    for ref in list(errors)[:_LOGGED_MACHINES]:
        log.log(level, "Machine could not be read provider=%s machine=%s error=%s", provider, ref, errors[ref])
    if (more := len(errors) - _LOGGED_MACHINES) > 0:
        log.log(level, "Further machines could not be read provider=%s number=%d", provider, more)


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


async def _arranged(arrange: Callable[[Reported], T], reported: Reported, size: int) -> T:
    """What `arrange` makes of a listing of `size` records. A large one is arranged in a thread."""
    return arrange(reported) if size <= _ARRANGED_INLINE else await asyncio.to_thread(arrange, reported)


async def _with_timeout(request: Awaitable[T]) -> T:
    """Awaits a read of a provider. A timeout is ProviderUnavailable, not OutcomeUnknown, as a read changes nothing."""
    try:
        async with asyncio.timeout(_TIMEOUT):
            return await request
    except TimeoutError:
        raise ProviderUnavailable(f"The provider did not answer within {_TIMEOUT:g} seconds.") from None
