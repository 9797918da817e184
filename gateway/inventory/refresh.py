"""Reads providers again and again, and brings the inventory up to date with what they say.

An error is never read as an empty list: what could not be read stays as it was, and the provider's row says why.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Mapping, Sequence
from datetime import timedelta
from math import inf
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy import bindparam
from sqlmodel import col

from gateway.columns import now
from gateway.config import Settings
from gateway.drivers.base import Driver, ReportedMachine
from gateway.errors import (
    GatewayError,
    ProviderError,
    ProviderMissing,
    ProviderUnavailable,
    Unavailable,
    Unconfirmed,
)
from gateway.inventory.columns import assignments
from gateway.inventory.counts import Counts
from gateway.inventory.machines import KNOWN, mark_absent, mark_gone, merge_machine
from gateway.inventory.snapshots import merge_snapshots
from gateway.models import Machine, Provider
from gateway.store.database import Database, Transaction
from gateway.store.retry import Backoff
from gateway.store.statements import Statement, insert

log = logging.getLogger(__name__)

T = TypeVar("T")

_AT_ONCE = 8  # machines of one provider that are read at the same time
_PATIENCE = 60.0  # seconds that one question to a provider may take

_WHERE_IT_IS = Statement(
    sa.select(col(Machine.provider), col(Machine.provider_ref)).where(col(Machine.id) == bindparam("machine_id"))
)
_PROVIDER = Statement(sa.select(col(Provider.tenant)).where(col(Provider.name) == bindparam("of")))
_INSERT_PROVIDER = insert(Provider, "name", "tenant", "driver")
_OF = col(Provider.name) == bindparam("of")
_READ_WHOLE = Statement(sa.update(Provider).where(_OF).values(problem=None, **assignments(Provider, "observed_at")))
_PROBLEM = Statement(sa.update(Provider).where(_OF).values(**assignments(Provider, "problem")))


class Inventory:
    """Keeps the inventory in step with the providers that have a driver here."""

    worked_at = inf  # it is never stuck: a provider may take as long as it likes

    def __init__(self, database: Database, drivers: Mapping[str, Driver], settings: Settings) -> None:
        self._database = database
        self._drivers = drivers
        self._settings = settings
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def ended(self) -> bool:
        """Whether a provider is not refreshed any more."""
        return any(task.done() for task in self._tasks)

    # ---- one machine

    async def refresh_machine(self, machine_id: int) -> None:
        """Reads one machine and its snapshots again. One that its provider does not have is marked as gone.

        Raises ProviderError, with nothing changed, when that cannot be found out.
        """
        place = await self._database.read(lambda tx: tx.first(_WHERE_IT_IS, machine_id=machine_id), single=True)
        if place is None:
            raise ProviderMissing("the machine is no longer in the inventory")
        if place.provider not in self._drivers:
            raise ProviderUnavailable(f"no driver is configured for provider {place.provider!r}")
        try:
            await self._read_machine(place.provider, place.provider_ref)
        except ProviderMissing:
            await self._mark_gone([machine_id])

    async def read_again(self, places: Sequence[tuple[str, str]]) -> None:
        """Reads the machines at these providers and refs again, if that can be done now."""

        async def read(provider: str, machine_ref: str) -> None:
            async with limit:
                try:
                    await self._read_again(provider, machine_ref)
                except (ProviderError, Unavailable, Unconfirmed) as error:
                    log.info("a machine of provider %s could not be read: %s", provider, error.message)
                except Exception:
                    log.exception("a machine of provider %s could not be refreshed", provider)

        limit = asyncio.Semaphore(_AT_ONCE)
        await asyncio.gather(*(read(*place) for place in places))

    async def _read_again(self, provider: str, machine_ref: str) -> None:
        try:
            await self._read_machine(provider, machine_ref)
        except ProviderMissing:
            row = await self._database.read(lambda tx: tx.first(KNOWN, of=provider, ref=machine_ref), single=True)
            await self._mark_gone([] if row is None else [row.id])

    async def _read_machine(self, provider: str, machine_ref: str) -> None:
        """Raises ProviderMissing when the provider does not have it."""
        driver = self._drivers[provider]
        seen = await _answer(driver.machine(machine_ref))
        tenant = await self._tenant(provider, driver)
        await self._read_snapshots(provider, tenant, driver, seen, Counts())

    async def _mark_gone(self, ids: Sequence[int]) -> None:
        moment = now()
        await self._database.write(lambda tx: mark_gone(tx, ids, moment))

    # ---- one provider

    async def refresh_provider(self, name: str) -> Counts:
        """Reads every machine of a provider again; what changed.

        Raises ProviderError when the machines cannot be listed, and what the database raises. Those whose snapshots
        cannot be read stay as they are and are told of in the provider's `problem`.
        """
        driver = self._drivers[name]
        tenant = await self._tenant(name, driver)
        begun = now()
        try:
            listed = await _answer(driver.machines())
        except ProviderError as error:
            await self._report(name, error.message)
            raise
        counts = Counts()
        places = asyncio.Semaphore(_AT_ONCE)

        async def read(seen: ReportedMachine) -> GatewayError | None:
            async with places:
                try:
                    await self._read_snapshots(name, tenant, driver, seen, counts)
                except (ProviderError, Unavailable, Unconfirmed) as error:
                    return error
                return None

        async with asyncio.TaskGroup() as group:
            reads = [group.create_task(read(seen)) for seen in listed]
        problems = [problem for task in reads if (problem := task.result()) is not None]
        for problem in problems:
            if not isinstance(problem, ProviderError):
                raise problem  # nothing can be said of the provider
        refs, moment = {seen.ref for seen in listed}, now()
        counts.machines.removed = await self._database.write(lambda tx: mark_absent(tx, name, refs, begun, moment))
        if problems:
            await self._report(name, f"{len(problems)} of {len(listed)} machines: {problems[0].message}")
        else:
            await self._database.write(lambda tx: tx.run(_READ_WHOLE, of=name, observed_at=begun))
        return counts

    async def _read_snapshots(
        self, provider: str, tenant: str, driver: Driver, seen: ReportedMachine, counts: Counts
    ) -> None:
        """Asks for the snapshots and merges them with their machine."""
        begun = now()
        snapshots = await _answer(driver.snapshots(seen.ref))

        async def work(tx: Transaction) -> Counts:
            moment, done = now(), Counts()
            machine = await merge_machine(
                tx, seen, provider=provider, tenant=tenant, moment=moment, tally=done.machines
            )
            await merge_snapshots(
                tx,
                machine.id,
                snapshots,
                tenant=tenant,
                begun=begun,
                moment=moment,
                tally=done.snapshots,
                stuck_after=timedelta(seconds=self._settings.operation_deadline),
                adopted=machine.adopted,
            )
            return done

        done = await self._database.write(work)
        counts.machines.add(done.machines)
        counts.snapshots.add(done.snapshots)

    async def _tenant(self, name: str, driver: Driver) -> str:
        """Whose the provider is. One that is met for the first time gets its row."""

        async def work(tx: Transaction) -> str:
            if await tx.first(_PROVIDER, of=name) is None:
                await tx.run(_INSERT_PROVIDER, name=name, tenant=self._settings.tenant, driver=driver.name)
            tenant: str = (await tx.first(_PROVIDER, of=name)).tenant
            return tenant

        row = await self._database.read(lambda tx: tx.first(_PROVIDER, of=name), single=True)
        return await self._database.write(work) if row is None else str(row.tenant)

    async def _report(self, name: str, problem: str) -> None:
        await self._database.write(lambda tx: tx.run(_PROBLEM, of=name, problem=problem))

    # ---- in the background

    async def start(self) -> None:
        """Refreshes every provider from now on, each at its own pace."""
        self._tasks = [
            asyncio.create_task(self._refresh_forever(name), name=f"refresh {name}") for name in self._drivers
        ]

    async def stop(self) -> None:
        """Lets go; a merge that is on its way to the database is done or not done."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _refresh_forever(self, name: str) -> None:
        backoff = Backoff(1.0, self._settings.refresh_interval)
        while True:
            try:
                log.info("refreshed %s: %s", name, await self.refresh_provider(name))
                backoff.reset()
            except (Unavailable, Unconfirmed) as error:
                log.info("provider %s cannot be refreshed now: %s", name, error.message)
                await asyncio.sleep(backoff.next())
                continue
            except ProviderError as error:
                log.warning("provider %s could not be read: %s", name, error.message)
            except Exception:
                log.exception("provider %s could not be refreshed", name)
                with contextlib.suppress(Unavailable, Unconfirmed):
                    await self._report(name, "the gateway made a mistake when it read the provider; the log has it")
            # Jitter, so that gateways and providers do not fall into step.
            await asyncio.sleep(self._settings.refresh_interval * random.uniform(0.9, 1.1))  # noqa: S311


async def _answer(question: Awaitable[T]) -> T:
    """A provider that says nothing for too long is unavailable: reading changes nothing, so nothing is in doubt."""
    try:
        async with asyncio.timeout(_PATIENCE):
            return await question
    except TimeoutError:
        raise ProviderUnavailable(f"the provider did not answer within {_PATIENCE:g} seconds") from None
