"""What is odd about one machine costs that machine, or a part of it: the others are read, and deletions are noticed."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.drivers.base import ReportedSnapshot, ReportedSnapshots
from gateway.errors import ProviderUnavailable
from gateway.inventory.listing import arrange_snapshots
from gateway.inventory.refresh import InventoryRefresher
from gateway.store.database import Database
from gateway.store.database_url import open_database
from tests.databases import Databases
from tests.inventory.files import select
from tests.inventory.scripted import EARLIER, LATER, Scenario, ScriptedDriver, inventory, machine, snapshot

PROBLEM = "SELECT problem FROM provider"
IS_OBSERVED = "SELECT observed_at IS NOT NULL FROM provider"
TREE = "SELECT provider_ref, name, parent_id FROM snapshot WHERE machine_id = 1 ORDER BY id"
CREATED = "SELECT created_at FROM snapshot WHERE machine_id = 1 ORDER BY id"
GONE = "SELECT provider_ref FROM machine WHERE gone_at IS NOT NULL"

_EAST, _WEST = timezone(timedelta(hours=14)), timezone(timedelta(hours=-12))


def odd(ref: str, **fields: Any) -> ReportedSnapshot:
    """A snapshot as a driver reports it that has forgotten to check a field."""
    return snapshot(ref, **fields)


ODD_SNAPSHOTS: dict[str, tuple[list[ReportedSnapshot], list[tuple[Any, ...]], str]] = {
    "no time": (
        [odd("a", created_at=None)],
        [("a", "name of a", None)],
        "Snapshot 'a': The creation time cannot be stored.",
    ),
    "a time that is text": (
        [odd("a", created_at="yesterday"), odd("b")],
        [("a", "name of a", None), ("b", "name of b", None)],
        "Snapshot 'a': The creation time cannot be stored.",
    ),
    "a time that is out of range in UTC": (
        [
            odd("a", created_at=datetime.max.replace(tzinfo=_WEST)),
            odd("b", created_at=datetime.min.replace(tzinfo=_EAST)),
        ],
        [("a", "name of a", None), ("b", "name of b", None)],
        "Snapshot 'a': The creation time cannot be stored. Snapshot 'b': The creation time cannot be stored.",
    ),
    "flags that are text": (
        [odd("a", memory="0", ready=None)],
        [("a", "name of a", None)],
        "Snapshot 'a': The memory flag and the state cannot be stored.",
    ),
    "no name": (
        [odd("a", name=None)],
        [("a", "a", None)],
        "Snapshot 'a': The name cannot be stored.",
    ),
    "one ref twice": (
        [odd("a"), odd("a", name="other"), odd("b", parent_ref="a")],
        [("a", "name of a", None), ("b", "name of b", 1)],
        "Snapshot 'a': It is listed more than once, with different data.",
    ),
    "a parent that is not listed": (
        [odd("a", parent_ref="z"), odd("b", parent_ref="a")],
        [("a", "name of a", None), ("b", "name of b", 1)],
        "Snapshot 'a': Its parent 'z' is not listed.",
    ),
    "its own parent": (
        [odd("a", parent_ref="a")],
        [("a", "name of a", None)],
        "Snapshot 'a': It is listed as its own ancestor.",
    ),
    "each other's parents": (
        [odd("a", parent_ref="c"), odd("b", parent_ref="a"), odd("c", parent_ref="b"), odd("d", parent_ref="c")],
        [("b", "name of b", None), ("c", "name of c", 1), ("a", "name of a", 2), ("d", "name of d", 2)],
        "Snapshot 'b': It is listed as its own ancestor.",
    ),
    "many": (
        [odd(ref, created_at=None) for ref in "abcdef"],
        [(ref, f"name of {ref}", None) for ref in "abcdef"],
        (
            "Snapshot 'a': The creation time cannot be stored. Snapshot 'b': The creation time cannot be stored."
            " Snapshot 'c': The creation time cannot be stored. And 3 more."
        ),
    ),
}


@pytest.mark.parametrize("case", ODD_SNAPSHOTS)
def test_odd_snapshots(url: str, run_scenario: Callable[[Scenario], None], case: str) -> None:
    """They are shown, the problem names the machine and the reason, and all that is there has been read."""
    snapshots, expected, reason = ODD_SNAPSHOTS[case]

    async def scenario(_: Database, driver: ScriptedDriver, inventory: InventoryRefresher) -> None:
        driver.world = {}
        driver.put(machine("m1", name="web"), *snapshots)
        await inventory.refresh_provider("lab")  # before the other machines, so that the ids are known
        for number in range(2, 5):
            driver.put(machine(f"m{number}"), snapshot("x"))
        for _attempt in range(2):  # the second time nothing has changed
            counts = await inventory.refresh_provider("lab")
            assert select(url, TREE) == expected
            assert select(url, PROBLEM) == [
                (f"1 of 4 machines have data that could not be read: Machine 'web' ('m1'): {reason}",)
            ]
            assert select(url, IS_OBSERVED) == [(1,)]
        assert (counts.snapshots.created, counts.snapshots.updated, counts.snapshots.removed) == (0, 0, 0)
        driver.drop("m4")
        await inventory.refresh_provider("lab")

    run_scenario(scenario)
    assert select(url, GONE) == [("m4",)]


def test_time_that_cannot_be_read_keeps_the_snapshot(url: str, run_scenario: Callable[[Scenario], None]) -> None:
    """It is no sign that another snapshot has the ref. The time that is known remains."""

    async def scenario(_: Database, driver: ScriptedDriver, inventory: InventoryRefresher) -> None:
        for created_at, shown in [(LATER, LATER), (None, LATER), (EARLIER, EARLIER)]:
            driver.put(machine("m1"), odd("a", created_at=created_at), odd("b", created_at=None))
            counts = (await inventory.refresh_provider("lab")).snapshots
            [(number, time), (_number, unknown)] = select(
                url, "SELECT id, created_at FROM snapshot ORDER BY provider_ref"
            )
            assert str(time).startswith(shown.date().isoformat())
            assert str(unknown).startswith("1970-01-01")
            if shown is LATER:
                assert (number, counts.removed) == (1, 0)

    run_scenario(scenario)


def test_equal_records_are_one(url: str, run_scenario: Callable[[Scenario], None]) -> None:
    """Such as those of a machine that was on two pages of a listing."""

    class Repeating(ScriptedDriver):
        async def machines(self) -> Any:
            return [*await super().machines(), *await super().machines()]

    async def scenario(database: Database, _: ScriptedDriver, __: InventoryRefresher) -> None:
        driver = Repeating()
        driver.put(machine("m1"), snapshot("a"), snapshot("a"))
        counts = await inventory(database, driver).refresh_provider("lab")
        assert (counts.machines.created, counts.machines.unchanged, counts.snapshots.created) == (1, 0, 1)

    run_scenario(scenario)
    assert select(url, PROBLEM) == [(None,)]


def test_time_without_an_offset_is_utc(url: str, run_scenario: Callable[[Scenario], None]) -> None:
    async def scenario(_: Database, driver: ScriptedDriver, inventory: InventoryRefresher) -> None:
        naive = EARLIER.replace(tzinfo=None)
        driver.put(machine("m1", created_at=naive), odd("a", created_at=naive + timedelta(days=1)))
        await inventory.refresh_provider("lab")
        [(created,)], [(machine_created,)] = select(url, CREATED), select(url, "SELECT created_at FROM machine")
        assert str(created).startswith("2026-01-02")
        assert str(machine_created).startswith("2026-01-01")

    run_scenario(scenario)
    assert select(url, PROBLEM) == [(None,)]


def test_odd_machines(url: str, run_scenario: Callable[[Scenario], None]) -> None:
    """Among sixty: what is known of them is shown, the problem names them, and those that are gone are noticed."""

    class Odd(ScriptedDriver):
        async def machines(self) -> Any:
            return [*await super().machines(), machine("m2", name="other"), *extra]

    extra: list[Any] = []

    async def scenario(database: Database, _: ScriptedDriver, __: InventoryRefresher) -> None:
        driver = Odd()
        for number in range(1, 61):
            driver.put(machine(f"m{number}"), snapshot("x"))
        await inventory(database, driver).refresh_provider("lab")
        before = select(url, "SELECT observed_at FROM provider")
        driver.put(machine("m3", name=None, power_state="molten", created_at="yesterday"), snapshot("x"))
        driver.put(machine("m4", name="m4", unreadable="The entry is no object."), snapshot("y"))
        driver.put(machine("m5"))
        [fifth] = (found for found in driver.world if found.ref == "m5")
        driver.world[fifth] = ProviderUnavailable("No answer.")
        driver.drop("m60")
        driver.put(machine("m61"), snapshot("x"))
        extra.append(machine("", unreadable="The provider's identifier 7 is not valid."))
        counts = await inventory(database, driver).refresh_provider("lab")
        assert (counts.machines.created, counts.machines.removed) == (1, 1)
        assert select(url, "SELECT observed_at FROM provider") == before  # not all could be read

    run_scenario(scenario)
    expected = (
        "3 of 61 machines could not be read: Machine 'm4': The entry is no object."
        " Machine 'name of m5' ('m5'): No answer. The provider's identifier 7 is not valid."
        " 2 of 61 machines have data that could not be read:"
        " Machine 'name of m2' ('m2'): It is listed more than once, with different data."
        " Machine 'm3': The name and the power state and the creation time cannot be stored."
    )
    assert select(url, PROBLEM) == [(expected,)]
    assert select(url, GONE) == [("m60",)]
    rows = "SELECT provider_ref, name, power_state FROM machine WHERE provider_ref IN ('m2', 'm3', 'm4') ORDER BY name"
    assert select(url, rows) == [
        ("m3", "m3", "UNKNOWN"),
        ("m2", "name of m2", "ON"),
        ("m4", "name of m4", "ON"),
    ]
    assert select(url, "SELECT DISTINCT provider_ref FROM snapshot") == [("x",)]


def test_an_unexpected_error_about_one_machine_hides_no_deletion(
    url: str, run_scenario: Callable[[Scenario], None]
) -> None:
    async def scenario(_: Database, driver: ScriptedDriver, inventory: InventoryRefresher) -> None:
        driver.put(machine("m2"))
        driver.put(machine("m3"))
        await inventory.refresh_provider("lab")
        driver.drop("m3")
        fails = iter([True])

        async def fail_once() -> None:
            if next(fails, False):
                raise ValueError("unexpected")

        driver.during = fail_once
        with pytest.raises(ExceptionGroup) as raised:
            await inventory.refresh_provider("lab")
        assert [error.__notes__ for error in raised.value.exceptions] == [["Machine 'm1'"]]

    run_scenario(scenario)
    assert select(url, GONE) == [("m3",)]


_times = st.sampled_from([EARLIER, None, "yesterday", 7, datetime.max.replace(tzinfo=_WEST)])
_names = st.sampled_from(["x", "", None, 7, "\ud800", "\0", "x" * 2_000, "\x1b[31m", {"a": [1]}])
_refs = st.sampled_from("abcde")
_snapshots = st.lists(
    st.builds(
        odd,
        _refs,
        name=_names,
        created_at=_times,
        parent_ref=st.none() | _refs,
        memory=st.sampled_from([True, False, "0", None]),
        size_bytes=st.sampled_from([None, 1, -1, 2**70, "7", float("nan")]),
    ),
    max_size=8,
)


@given(listing=_snapshots)
def test_whatever_is_reported_of_a_machine_becomes_a_tree(listing: list[ReportedSnapshot]) -> None:
    """Of the first snapshot of each ref, with parents before children; and it is one already when arranged again."""
    arranged = arrange_snapshots(ReportedSnapshots(listing))
    assert arranged.snapshots.keys() == {each.ref for each in listing}
    placed: set[str] = set()
    for ref, found in arranged.snapshots.items():
        assert found.parent_ref not in arranged.snapshots.keys() - placed
        assert found.created_at.utcoffset() == timedelta()
        placed.add(ref)
    again = arrange_snapshots(ReportedSnapshots([*arranged.snapshots.values()]))
    assert again.snapshots == arranged.snapshots


@pytest.mark.thorough
@given(listings=st.lists(_snapshots, min_size=1, max_size=3), current=st.none() | _refs)
def test_whatever_is_reported_of_a_machine_is_merged(
    databases: Databases, listings: list[list[ReportedSnapshot]], current: str | None
) -> None:
    """The rows are the first of each ref, in a tree; the current one is current; a second refresh changes nothing."""
    url = databases.new("sqlite")

    async def scenario() -> None:
        driver = ScriptedDriver()
        database = open_database(url, read_connections=1, write_connections=1, read_timeout=30)
        try:
            refresher = inventory(database, driver)
            for listing in listings:
                driver.put(machine("m1"), *listing, current=current)
                await refresher.refresh_provider("lab")
                rows = select(url, "SELECT provider_ref, id, parent_id, is_current FROM snapshot")
                refs = {each.ref for each in listing}
                assert sorted(row[0] for row in rows) == sorted(refs)
                assert {row[0] for row in rows if row[3]} == {current} & refs
                parents = {row[1]: row[2] for row in rows}
                steps = {*parents}
                for _ in parents:  # as many steps as a tree has at most
                    steps = {parents[number] for number in steps if parents[number] is not None}
                assert steps == set()
                counts = (await refresher.refresh_provider("lab")).snapshots
                assert (counts.created, counts.updated, counts.removed) == (0, 0, 0)
        finally:
            await database.close()

    asyncio.run(scenario())
