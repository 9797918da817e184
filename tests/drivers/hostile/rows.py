"""Refreshes an inventory from hostile providers, and measures what the gateway does meanwhile: one `Row` per attack."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlmodel import col

from gateway.config import Settings
from gateway.drivers.base import Driver
from gateway.errors import ProviderError
from gateway.inventory.refresh import InventoryRefresher
from gateway.models import Machine, Provider, Snapshot
from gateway.store.database import Database
from gateway.store.database_url import open_database
from gateway.store.statements import Query
from tests.drivers.hostile.kinds import Case, Kind
from tests.inventory.scripted import ScriptedDriver, machine, snapshot

T = TypeVar("T")

_PROVIDER, _OTHER = "hostile", "other"
_TICK = 0.005  # seconds between two looks at the event loop


@dataclass(frozen=True, slots=True)
class Row:
    """What the gateway did about one attack.

    `result` is the provider's problem, or what was listed. `blocked` is the longest time for which the event loop did
    nothing else, in seconds; `growth` the memory that was used at most during the attack, in bytes. `lost` is what the
    inventory had before and has no more. `leaked` is what another host received.
    """

    kind: str
    attack: str
    result: str
    seconds: float
    growth: int
    blocked: float
    other_refreshed: bool
    lost: Sequence[tuple[str, str]]
    leaked: bytes
    recovered: bool = True
    again: str = ""  # the result of the refresh after the attack

    @property
    def faults(self) -> list[str]:
        """What must not happen, as text for people."""
        found = {
            "the other provider was not refreshed": not self.other_refreshed,
            f"lost {self.lost}": bool(self.lost),
            f"sent elsewhere: {self.leaked[:80]!r}": bool(self.leaked),
            f"afterwards: {self.again}": self.again != "2 machines listed" or not self.recovered,
            "an internal error": "internal error" in self.result,
        }
        return [fault for fault, is_true in found.items() if is_true]


class _Stored(NamedTuple):
    provider_ref: str
    snapshot_ref: str | None


class _Problem(NamedTuple):
    problem: str | None


_STORED = Query(
    sa.select(col(Machine.provider_ref), col(Snapshot.provider_ref).label("snapshot_ref"))
    .select_from(Machine)
    .outerjoin(Snapshot, col(Snapshot.machine_id) == col(Machine.id))
    .where(col(Machine.provider) == _PROVIDER, col(Machine.gone_at).is_(None)),
    _Stored,
)
_PROBLEM = Query(sa.select(col(Provider.problem)).where(col(Provider.name) == _PROVIDER), _Problem)


class Inventory:
    """A database with the machines of the hostile provider, as it listed them before, and of another provider."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._drivers: dict[str, Driver] = {_OTHER: _other_provider()}
        self._refresher = InventoryRefresher(database, self._drivers, Settings())

    async def start(self, usual: Driver) -> None:
        """Reads the machines of the provider before it is hostile."""
        await self._refresh(usual)
        await usual.close()
        stored = await self._stored()
        assert len(stored) == 2, stored

    async def measure(self, kind: Kind, case: Case) -> Row:
        """Refreshes the provider during the attack and after it, and the other provider during it."""
        before, received = await self._stored(), len(kind.elsewhere.received)
        driver = case.begin()
        base, started = _reset_peak(), time.monotonic()
        ended = asyncio.Event()
        pausing = asyncio.create_task(_longest_pause(ended))
        refreshing = asyncio.create_task(self._refresh(driver))
        refreshed = await self._refresh_other()
        result = await refreshing
        seconds, growth = time.monotonic() - started, _peak() - base
        ended.set()
        blocked = await pausing
        lost = [] if case.gone else sorted(before - await self._stored())
        leaked = kind.elsewhere.received[received:]
        row = Row(kind.name, case.attack, result, seconds, growth, blocked, refreshed, lost, leaked)
        usual = case.end(driver)
        again = await self._refresh(usual)
        await driver.close()
        if usual is not driver:
            await usual.close()
        return replace(row, recovered=await self._stored() == before, again=again)

    async def _refresh(self, driver: Driver) -> str:
        self._drivers[_PROVIDER] = driver
        try:
            counts = await self._refresher.refresh_provider(_PROVIDER)
        except ProviderError as error:
            return f"{type(error).__name__}: {error.message}"
        except Exception as error:  # noqa: BLE001 - a fault, which the table shows
            return f"internal error: {error!r}"
        row = await self._database.read(lambda tx: tx.first(_PROBLEM), single=True)
        if row is not None and row.problem:
            return row.problem
        machines = counts.machines.created + counts.machines.updated + counts.machines.unchanged
        return f"{machines} machines listed"

    async def _refresh_other(self) -> bool:
        counts = await self._refresher.refresh_provider(_OTHER)
        return counts.machines.created + counts.machines.unchanged == 1

    async def _stored(self) -> set[tuple[str, str]]:
        rows = await self._database.read(lambda tx: tx.all(_STORED))
        return {(row.provider_ref, str(row.snapshot_ref)) for row in rows}


def _other_provider() -> Driver:
    driver = ScriptedDriver()
    driver.put(machine("m1"), snapshot("a"))
    return driver


async def _longest_pause(ended: asyncio.Event) -> float:
    """The longest time for which the event loop did not return to this task, in seconds."""
    longest, last = 0.0, time.monotonic()
    while not ended.is_set():
        await asyncio.sleep(_TICK)
        now = time.monotonic()
        longest, last = max(longest, now - last - _TICK), now
    return longest


def _reset_peak() -> int:
    """Resets the peak of this process's resident memory. Returns the present size in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1_024


def rows(kind: Kind, url: str, wanted: Callable[[str], bool] = lambda _: True) -> Iterator[Row]:
    """A row for each attack of a kind of provider that is `wanted`. `url`: of a migrated, empty database."""

    async def opened() -> Database:
        return open_database(url, read_connections=2, write_connections=2, read_timeout=30)

    with asyncio.Runner() as runner:

        def run(work: Coroutine[Any, Any, T]) -> T:
            return runner.run(work)

        database = run(opened())
        try:
            inventory = Inventory(database)
            run(inventory.start(kind.usual()))
            for case in kind.cases:
                if wanted(case.attack):
                    yield run(inventory.measure(kind, case))
        finally:
            run(database.close())
