"""One incomplete answer removes nothing: a machine or a snapshot is gone when two readings in a row lack it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.drivers.base import ReportedMachine, ReportedSnapshots
from gateway.errors import ProviderError, ProviderMissing, ProviderUnavailable
from gateway.inventory.refresh import InventoryRefresher
from gateway.store.database import Database
from gateway.store.database_url import open_database
from tests.databases import Databases
from tests.examples import EXAMPLES
from tests.inventory.files import MACHINES, SNAPSHOTS, select
from tests.inventory.scripted import LATER, ScriptedDriver, inventory, machine, snapshot

Answer = set[str] | ProviderError  # the refs that an answer lacks, or an error

PROBLEM = "SELECT problem FROM provider"
OBSERVED = "SELECT observed_at FROM provider"
TREE = [
    (1, 1, "a", "name of a", None, 0, "READY"),
    (2, 1, "b", "name of b", 1, 0, "READY"),
    (3, 1, "c", "name of c", 2, 1, "READY"),
]
DELETED = "SELECT noun, subject_id FROM event WHERE change = 'DELETED' ORDER BY id"
GONE = "SELECT provider_ref FROM machine WHERE gone_at IS NOT NULL ORDER BY id"


class IncompleteDriver(ScriptedDriver):
    """Its answers to `machines`, `machine` and `snapshots` lack what the lists of these names have for each call."""

    def __init__(self) -> None:
        super().__init__()
        self.lacking: dict[str, list[Answer]] = {}
        self.answered: Callable[[], Awaitable[None]] | None = None  # runs after each answer to `snapshots`

    def _lack(self, call: str) -> set[str]:
        answers = self.lacking.get(call)
        answer = answers.pop(0) if answers else set()
        if isinstance(answer, ProviderError):
            raise answer
        return answer

    async def machines(self) -> Sequence[ReportedMachine]:
        lacked = self._lack("machines")
        return [found for found in await super().machines() if found.ref not in lacked]

    async def machine(self, machine_ref: str) -> ReportedMachine:
        if machine_ref in self._lack("machine"):
            raise ProviderMissing("The provider has no such machine.")
        return await super().machine(machine_ref)

    async def snapshots(self, machine_ref: str) -> ReportedSnapshots:
        lacked = self._lack("snapshots")
        answer = next(answer for found, answer in self.world.items() if found.ref == machine_ref)
        assert isinstance(answer, ReportedSnapshots)
        if self.answered is not None:
            await self.answered()
        return ReportedSnapshots([each for each in answer.snapshots if each.ref not in lacked], answer.current_ref)


def _driver() -> IncompleteDriver:
    driver = IncompleteDriver()
    driver.put(machine("m1"), snapshot("a"), snapshot("b", parent_ref="a"), snapshot("c", parent_ref="b"), current="c")
    return driver


Scenario = Callable[[Database, IncompleteDriver, InventoryRefresher], Awaitable[None]]


@pytest.fixture
def run(opened_database: Callable[[], Any]) -> Callable[[Scenario], None]:
    """Runs a scenario with a provider that has been read completely."""

    def run_it(scenario: Scenario) -> None:
        async def run_all() -> None:
            driver = _driver()
            async with opened_database() as database:
                refresher = inventory(database, driver)
                await refresher.refresh_provider("lab")  # before the other machine, so that their ids are known
                driver.put(machine("m2"))
                await refresher.refresh_provider("lab")
                await scenario(database, driver, refresher)

        asyncio.run(run_all())

    return run_it


# ---- machines


def test_machine_that_one_listing_lacks_is_read_alone(url: str, run: Callable[[Scenario], None]) -> None:
    """It is shown as it is now, and the provider's problem states that its listing is incomplete."""

    async def scenario(_: Database, driver: IncompleteDriver, refresher: InventoryRefresher) -> None:
        observed = select(url, OBSERVED)
        driver.put(machine("m1", name="renamed"), snapshot("a"))
        driver.lacking = {"machines": [{"m1"}]}
        counts = await refresher.refresh_provider("lab")
        assert (counts.machines.removed, counts.snapshots.removed) == (0, 2)
        assert select(url, MACHINES) == [
            (1, "renamed", "lab", "m1", "ON", 1),
            (2, "name of m2", "lab", "m2", "ON", 1),
        ]
        assert [row[2] for row in select(url, SNAPSHOTS)] == ["a"]
        assert select(url, PROBLEM) == [("The list of machines lacked 1 that exist: Machine 'm1'.",)]
        assert select(url, OBSERVED) == observed
        await refresher.refresh_provider("lab")
        assert select(url, PROBLEM) == [(None,)]
        assert select(url, OBSERVED) > observed

    run(scenario)


def test_machines_of_an_empty_answer_remain(url: str, run: Callable[[Scenario], None]) -> None:
    async def scenario(_: Database, driver: IncompleteDriver, refresher: InventoryRefresher) -> None:
        driver.lacking = {"machines": [{"m1", "m2"}]}
        await refresher.refresh_provider("lab")
        assert select(url, GONE) == []
        assert select(url, SNAPSHOTS) == TREE

    run(scenario)


def test_machine_that_both_readings_lack_is_gone(url: str, run: Callable[[Scenario], None]) -> None:
    async def scenario(_: Database, driver: IncompleteDriver, refresher: InventoryRefresher) -> None:
        driver.drop("m1")
        counts = await refresher.refresh_provider("lab")
        assert counts.machines.removed == 1
        assert select(url, GONE) == [("m1",)]
        assert select(url, PROBLEM) == [(None,)]

    run(scenario)


def test_machine_whose_second_reading_fails_remains(url: str, run: Callable[[Scenario], None]) -> None:
    async def scenario(_: Database, driver: IncompleteDriver, refresher: InventoryRefresher) -> None:
        driver.drop("m1")
        driver.lacking = {"machine": [ProviderUnavailable("No answer.")]}
        await refresher.refresh_provider("lab")
        assert select(url, GONE) == []
        assert select(url, PROBLEM) == [("1 of 2 machines could not be read: Machine 'm1': No answer.",)]

    run(scenario)


def test_machine_that_is_deleted_after_the_listing_is_gone(url: str, run: Callable[[Scenario], None]) -> None:
    """It is no problem of the provider."""

    async def scenario(_: Database, driver: IncompleteDriver, refresher: InventoryRefresher) -> None:
        driver.lacking = {"snapshots": [ProviderMissing("It has been deleted.")], "machine": [{"m1"}]}
        await refresher.refresh_provider("lab")
        assert select(url, GONE) == [("m1",)]
        assert select(url, PROBLEM) == [(None,)]

    run(scenario)


def test_machine_without_a_list_of_snapshots_is_not_gone(url: str, run: Callable[[Scenario], None]) -> None:
    """The provider has the machine, and has no snapshots of it: that is an error of the provider."""

    async def scenario(_: Database, driver: IncompleteDriver, refresher: InventoryRefresher) -> None:
        driver.lacking = {"snapshots": [ProviderMissing("No list."), set(), ProviderMissing("No list.")]}
        await refresher.refresh_provider("lab")
        assert select(url, GONE) == []
        assert select(url, PROBLEM) == [("1 of 2 machines could not be read: Machine 'name of m1' ('m1'): No list.",)]
        driver.lacking = {"snapshots": [ProviderMissing("No list.")]}
        with pytest.raises(ProviderUnavailable, match="No list"):
            await refresher.refresh_machine(1)
        assert select(url, GONE) == []

    run(scenario)


@pytest.mark.parametrize("hinted", [False, True], ids=["on request", "after a hint"])
@pytest.mark.parametrize(("readings", "gone"), [(1, []), (2, [("m1",)])])
def test_machine_that_readings_of_it_lack(
    url: str, run: Callable[[Scenario], None], hinted: bool, readings: int, gone: list[Any]
) -> None:
    async def scenario(_: Database, driver: IncompleteDriver, refresher: InventoryRefresher) -> None:
        driver.lacking = {"machine": [{"m1"}] * readings}
        await (refresher.refresh_machines("lab", ["m1"]) if hinted else refresher.refresh_machine(1))
        assert select(url, GONE) == gone
        assert select(url, SNAPSHOTS) == TREE

    run(scenario)


# ---- snapshots


@pytest.mark.parametrize("lacked", [{"a"}, {"b"}, {"c"}, {"a", "b", "c"}], ids=["root", "middle", "current", "all"])
def test_snapshots_that_one_listing_lacks_remain(url: str, run: Callable[[Scenario], None], lacked: set[str]) -> None:
    """With their parents and children, in all refreshes. The next answer of one that is incomplete has them."""

    async def scenario(_: Database, driver: IncompleteDriver, refresher: InventoryRefresher) -> None:
        driver.lacking = {"snapshots": [lacked]}
        await refresher.refresh_machine(1)
        assert select(url, SNAPSHOTS) == TREE
        driver.lacking = {"snapshots": [lacked]}
        await refresher.refresh_machines("lab", ["m1"])
        assert select(url, SNAPSHOTS) == TREE
        driver.lacking = {"snapshots": [lacked]}
        await refresher.refresh_provider("lab")
        assert select(url, SNAPSHOTS) == TREE
        assert select(url, DELETED) == []

    run(scenario)


def test_snapshots_that_different_listings_lack_remain(url: str, run: Callable[[Scenario], None]) -> None:
    async def scenario(_: Database, driver: IncompleteDriver, refresher: InventoryRefresher) -> None:
        driver.lacking = {"snapshots": [{"b"}, {"c"}]}
        await refresher.refresh_machine(1)
        assert select(url, SNAPSHOTS) == TREE
        await refresher.refresh_machine(1)
        assert select(url, SNAPSHOTS) == TREE

    run(scenario)


def test_snapshot_whose_second_reading_fails_remains(url: str, run: Callable[[Scenario], None]) -> None:
    """Also when another gateway, or this one after a restart, then reads an incomplete answer once."""

    async def scenario(database: Database, driver: IncompleteDriver, refresher: InventoryRefresher) -> None:
        driver.lacking = {"snapshots": [{"b"}, ProviderUnavailable("No answer.")]}
        with pytest.raises(ProviderUnavailable):
            await refresher.refresh_machine(1)
        assert select(url, SNAPSHOTS) == TREE
        driver.lacking = {"snapshots": [{"b"}]}
        await inventory(database, driver).refresh_machine(1)
        assert select(url, SNAPSHOTS) == TREE

    run(scenario)


def test_snapshot_with_another_time_in_one_listing_remains(url: str, run: Callable[[Scenario], None]) -> None:
    """With the same time in the second one it is the same snapshot. With another it is a new one of the same name."""

    async def scenario(_: Database, driver: IncompleteDriver, refresher: InventoryRefresher) -> None:
        complete = driver.world

        async def later_once() -> None:
            driver.world = complete

        driver.put(
            machine("m1"),
            *(snapshot("a"), snapshot("b", parent_ref="a", created_at=LATER), snapshot("c", parent_ref="b")),
            current="c",
        )
        recreated = driver.world
        driver.answered = later_once
        await refresher.refresh_machine(1)
        assert select(url, SNAPSHOTS) == TREE
        driver.answered, driver.world = None, recreated
        await refresher.refresh_machine(1)
        assert select(url, SNAPSHOTS) == [
            TREE[0],
            (3, 1, "c", "name of c", 4, 1, "READY"),
            (4, 1, "b", "name of b", 1, 0, "READY"),
        ]

    run(scenario)


_refs = st.sets(st.sampled_from("abcd"))


@settings(max_examples=max(3, EXAMPLES // 5))
@given(refreshes=st.lists(st.tuples(_refs, _refs), min_size=1, max_size=3))
def test_a_snapshot_is_deleted_when_two_readings_in_a_row_lack_it(
    databases: Databases, refreshes: list[tuple[set[str], set[str]]]
) -> None:
    """Else it keeps its row. The second reading is made when the first lacks one that the inventory has."""
    url = databases.new("sqlite")
    names = set("abcd")

    async def scenario() -> None:
        driver = IncompleteDriver()
        driver.put(machine("m1"), *map(snapshot, sorted(names)))
        database = open_database(url, read_connections=1, write_connections=1, read_timeout=30)
        try:
            refresher = inventory(database, driver)
            await refresher.refresh_provider("lab")
            known = dict(select(url, "SELECT provider_ref, id FROM snapshot"))
            for first, second in refreshes:
                answers: list[Answer] = [first, second]
                driver.lacking = {"snapshots": answers}
                await refresher.refresh_machine(1)
                expected = known.keys() | names - first
                asked = bool(known.keys() & first)
                if asked:
                    expected = (expected - (known.keys() & first & second)) | (names - second)
                assert len(answers) == (0 if asked else 1)
                rows = dict(select(url, "SELECT provider_ref, id FROM snapshot"))
                assert rows.keys() == expected
                lost = {ref for ref in known if rows.get(ref) != known[ref]}
                assert lost <= first & second
                known = rows
        finally:
            await database.close()

    asyncio.run(scenario())
