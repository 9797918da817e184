"""Refreshes an inventory from a fleet with odd machines: one `Row` per oddity, and one for all of them at once."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlmodel import col

from gateway.config import Settings
from gateway.drivers.base import Driver
from gateway.inventory.refresh import InventoryRefresher
from gateway.models import Machine, Provider, Snapshot
from gateway.store.database import Database
from gateway.store.database_url import open_database
from gateway.store.statements import Query
from tests.drivers.odd_fleet.fleets import NEW_SNAPSHOT, SNAPSHOTS, Fleet, FleetModule, Oddity, machine_name

_PROVIDER = "fleet"
_ODD, _REMOVED = 1, 2  # numbers of machines; the last one gets another snapshot


@dataclass(frozen=True, slots=True)
class Row:
    """What the inventory has after a refresh in which a machine was odd, one was gone, and the last one had changed.

    `listed` is the number of other machines that were read, `expected` the number that should be.
    """

    oddity: str
    shown: str
    listed: int
    expected: int
    gone_noticed: bool
    problem: str | None
    faults: Sequence[str]


class _Stored(NamedTuple):
    provider_ref: str
    name: str
    is_gone: bool
    snapshot: str | None


class _Problem(NamedTuple):
    problem: str | None


_STORED = Query(
    sa.select(
        col(Machine.provider_ref),
        col(Machine.name),
        col(Machine.gone_at).is_not(None).label("is_gone"),
        col(Snapshot.name).label("snapshot"),
    )
    .select_from(Machine)
    .outerjoin(Snapshot, col(Snapshot.machine_id) == col(Machine.id))
    .where(col(Machine.provider) == _PROVIDER)
    .order_by(col(Snapshot.name)),
    _Stored,
)
_PROBLEM = Query(sa.select(col(Provider.problem)).where(col(Provider.name) == _PROVIDER), _Problem)


@dataclass(frozen=True, slots=True)
class _Machine:
    name: str
    snapshots: tuple[str, ...]
    is_gone: bool = False


class _Inventory:
    def __init__(self, database: Database, fleet: Fleet, size: int) -> None:
        self._database = database
        self._fleet = fleet
        self._size = size
        self._drivers: dict[str, Driver] = {}
        self._refresher = InventoryRefresher(database, self._drivers, Settings())
        self._usual = {fleet.ref(number): _Machine(machine_name(number), SNAPSHOTS) for number in range(size)}

    async def start(self) -> None:
        """Reads the fleet without oddities."""
        assert await self._refresh({}) is None
        assert await self._stored() == self._usual

    async def measure(self, title: str, odd: Mapping[int, str], oddities: Mapping[str, Oddity]) -> Row:
        """Reads the fleet with these oddities, by machine, and then without them."""
        removed = max(odd, default=_ODD) + 1
        extended = self._size - 1
        problem = await self._refresh(odd, removed, extended)
        stored = await self._stored()
        expected = dict(self._usual)
        for number, name in odd.items():
            ref, oddity = self._fleet.ref(number), oddities[name]
            shown = (oddity.name or machine_name(number)).replace("{ref}", ref)
            expected[ref] = _Machine(shown, tuple(oddity.snapshots))
        gone = self._fleet.ref(removed)
        notices = all(oddities[name].gone_noticed for name in odd.values())
        expected[gone] = _Machine(machine_name(removed), SNAPSHOTS, is_gone=notices)
        expected[self._fleet.ref(extended)] = _Machine(machine_name(extended), (*SNAPSHOTS, NEW_SNAPSHOT))
        faults = [
            f"{ref}: {_describe(stored.get(ref))}, expected {_describe(expected.get(ref))}"
            for ref in sorted({*stored, *expected})
            if stored.get(ref) != expected.get(ref)
        ]
        faults += self._faults_of(problem, odd, oddities)
        others = {self._fleet.ref(number) for number in range(self._size) if number not in odd} - {gone}
        await self._refresh({})
        if await self._stored() != self._usual:
            faults.append("not as before afterwards")
        return Row(
            title,
            "; ".join(_describe(stored.get(self._fleet.ref(number))) for number in odd) if len(odd) == 1 else "",
            sum(stored.get(ref) == expected[ref] for ref in others),
            len(others),
            stored[gone].is_gone,
            problem,
            faults,
        )

    def _faults_of(self, problem: str | None, odd: Mapping[int, str], oddities: Mapping[str, Oddity]) -> list[str]:
        """What is wrong with a problem. Of several odd machines, it names one that could not be read, and one other."""
        reported = {number: oddities[name] for number, name in odd.items() if oddities[name].reason is not None}
        if problem is None or not reported:
            return [] if problem is None and not reported else [f"the problem is {problem!r}"]
        named = [
            number
            for number, oddity in reported.items()
            if (oddity.reason or "") in problem and (repr(self._fleet.ref(number)) in problem or not oddity.identified)
        ]
        return [] if named else [f"the problem names neither the machine nor the reason: {problem}"]

    async def _refresh(
        self, odd: Mapping[int, str], removed: int | None = None, extended: int | None = None
    ) -> str | None:
        driver = self._drivers[_PROVIDER] = self._fleet.driver(odd, removed, extended)
        try:
            await self._refresher.refresh_provider(_PROVIDER)
        except Exception as error:  # noqa: BLE001 - a fault, which the table shows
            return f"{type(error).__name__}: {error}"
        finally:
            await driver.close()
        row = await self._database.read(lambda tx: tx.first(_PROBLEM), single=True)
        return None if row is None else row.problem

    async def _stored(self) -> dict[str, _Machine]:
        found: dict[str, _Machine] = {}
        for row in await self._database.read(lambda tx: tx.all(_STORED)):
            before = found[row.provider_ref].snapshots if row.provider_ref in found else ()
            more = () if row.snapshot is None else (row.snapshot,)
            found[row.provider_ref] = _Machine(row.name, (*before, *more), row.is_gone)
        return found


def _describe(machine: _Machine | None) -> str:
    if machine is None:
        return "nothing"
    name = machine.name if len(machine.name) <= 20 else f"{machine.name[:12]}... ({len(machine.name)} characters)"
    return f"{name!r} [{', '.join(machine.snapshots)}]{' gone' if machine.is_gone else ''}"


def rows(
    module: FleetModule, directory: Path, url: str, size: int, wanted: Callable[[str], bool] = lambda _: True
) -> Iterator[Row]:
    """A row for each oddity that is `wanted`, alone. `url`: of a migrated, empty database."""
    with _inventory(module, directory, url, size) as (inventory, run):
        for name in filter(wanted, module.ODDITIES):
            yield run(inventory.measure(name, {_ODD: name}, module.ODDITIES))


def row_of_all(module: FleetModule, directory: Path, url: str, size: int) -> Row:
    """The row of a fleet with each oddity once. `size`: of the fleet, which is larger if it has more oddities."""
    together = dict(enumerate(module.ODDITIES, start=_ODD))
    with _inventory(module, directory, url, max(size, len(together) + 3)) as (inventory, run):
        return run(inventory.measure("each of these", together, module.ODDITIES))


@contextmanager
def _inventory(
    module: FleetModule, directory: Path, url: str, size: int
) -> Iterator[tuple[_Inventory, Callable[[Coroutine[Any, Any, Row]], Row]]]:
    """An inventory that has read the fleet without oddities, and what runs a coroutine on its event loop."""

    async def opened() -> Database:
        return open_database(url, read_connections=2, write_connections=2, read_timeout=30)

    with module.fleet(directory, size) as fleet, asyncio.Runner() as runner:
        database = runner.run(opened())
        try:
            inventory = _Inventory(database, fleet, size)
            runner.run(inventory.start())
            yield inventory, runner.run
        finally:
            runner.run(database.close())
