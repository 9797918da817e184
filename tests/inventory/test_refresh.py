"""Refresh: the inventory is updated to what the provider reports, and nothing else is changed."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any
from unittest.mock import ANY

import pytest

from gateway.columns import now
from gateway.config import Settings
from gateway.errors import ProviderUnavailable
from gateway.inventory import refresh
from gateway.inventory.refresh import InventoryRefresher
from gateway.jobs.periodic_job import PeriodicJob, Scope
from gateway.jobs.runner import JobRunner
from gateway.models import OperationKind, OperationState
from gateway.store.database import Database
from tests.databases import SLOW_KINDS
from tests.inventory.files import MACHINES, SNAPSHOTS, all_rows, execute, select
from tests.inventory.scripted import LATER, Scenario, ScriptedDriver, machine, put_operation, snapshot
from tests.waiting import until_async

EVENTS = "SELECT noun, change, subject_id FROM event ORDER BY id"

TREE = [
    (1, 1, "a", "name of a", None, 0, "READY"),
    (2, 1, "b", "name of b", 1, 0, "READY"),
    (3, 1, "c", "name of c", 2, 1, "READY"),
]


def test_first_refresh_inserts_machines_and_snapshots(url: str, run_scenario: Callable[[Scenario], None]) -> None:
    async def scenario(_: Database, __: ScriptedDriver, inventory: InventoryRefresher) -> None:
        counts = await inventory.refresh_provider("lab")
        assert str(counts) == (
            "machines: 1 created, 0 updated, 0 unchanged; snapshots: 3 created, 0 updated, 0 unchanged"
        )

    run_scenario(scenario)
    assert select(url, MACHINES) == [(1, "name of m1", "lab", "m1", "ON", 1)]
    assert select(url, SNAPSHOTS) == TREE
    assert select(url, "SELECT name, tenant, driver, observed_at IS NOT NULL, problem FROM provider") == [
        ("lab", "default", "scripted", 1, None)
    ]


def test_second_refresh_changes_only_observed_at(url: str, run_scenario: Callable[[Scenario], None]) -> None:
    async def scenario(_: Database, __: ScriptedDriver, inventory: InventoryRefresher) -> None:
        await inventory.refresh_provider("lab")
        events, updated = select(url, EVENTS), select(url, "SELECT updated_at FROM machine")
        first = select(url, "SELECT observed_at FROM snapshot WHERE id = 1")
        counts = await inventory.refresh_provider("lab")
        assert str(counts) == (
            "machines: 0 created, 0 updated, 1 unchanged; snapshots: 0 created, 0 updated, 3 unchanged"
        )
        assert select(url, EVENTS) == events
        assert select(url, "SELECT updated_at FROM machine") == updated
        assert select(url, "SELECT observed_at FROM snapshot WHERE id = 1") > first

    run_scenario(scenario)


def test_changes_at_the_provider_are_applied(url: str, run_scenario: Callable[[Scenario], None]) -> None:
    async def scenario(_: Database, driver: ScriptedDriver, inventory: InventoryRefresher) -> None:
        await inventory.refresh_provider("lab")
        # b was deleted, so the parent of c is a. a was reverted to and renamed. e and its child d are new.
        driver.put(
            machine("m1", host="esx-02"),
            snapshot("a", name="new name"),
            snapshot("c", parent_ref="a"),
            snapshot("e"),
            snapshot("d", parent_ref="e"),
            current="a",
        )
        await inventory.refresh_machine(1)

    run_scenario(scenario)
    assert select(url, SNAPSHOTS) == [
        (1, 1, "a", "new name", None, 1, "READY"),
        (3, 1, "c", "name of c", 1, 0, "READY"),
        (4, 1, "e", "name of e", None, 0, "READY"),
        (5, 1, "d", "name of d", 4, 0, "READY"),
    ]
    assert select(url, "SELECT host, snapshot_count FROM machine") == [("esx-02", 4)]


def test_recreated_snapshot_with_the_same_ref_is_a_new_one(url: str, run_scenario: Callable[[Scenario], None]) -> None:
    async def scenario(_: Database, driver: ScriptedDriver, inventory: InventoryRefresher) -> None:
        await inventory.refresh_provider("lab")
        recreated = snapshot("b", parent_ref="a", created_at=LATER)
        driver.put(machine("m1"), snapshot("a"), recreated, snapshot("c", parent_ref="b"), current="b")
        await inventory.refresh_provider("lab")

    run_scenario(scenario)
    assert select(url, SNAPSHOTS) == [
        TREE[0],
        (3, 1, "c", "name of c", 4, 0, "READY"),
        (4, 1, "b", "name of b", 1, 1, "READY"),
    ]


def test_snapshot_created_by_the_gateway_keeps_its_name(url: str, run_scenario: Callable[[Scenario], None]) -> None:
    async def scenario(_: Database, driver: ScriptedDriver, inventory: InventoryRefresher) -> None:
        await inventory.refresh_provider("lab")
        execute(url, "UPDATE snapshot SET name = 'Ärger?', name_folded = 'ärger?' WHERE id = 1")
        driver.put(machine("m1"), snapshot("a", name="rger-1f3a", token="1f3a"))
        await inventory.refresh_provider("lab")

    run_scenario(scenario)
    assert select(url, SNAPSHOTS) == [(1, 1, "a", "Ärger?", None, 0, "READY")]


def test_snapshot_without_provider_ref_is_unchanged(url: str, run_scenario: Callable[[Scenario], None]) -> None:
    async def scenario(_: Database, driver: ScriptedDriver, inventory: InventoryRefresher) -> None:
        await inventory.refresh_provider("lab")
        execute(url, "UPDATE snapshot SET provider_ref = NULL, state = 'ERROR' WHERE id = 3")
        driver.put(machine("m1"), snapshot("a"))
        await inventory.refresh_provider("lab")

    run_scenario(scenario)
    assert [row[:5] for row in select(url, SNAPSHOTS)] == [(1, 1, "a", "name of a", None), (3, 1, None, "name of c", 1)]


def test_incomplete_snapshot_is_creating(url: str, run_scenario: Callable[[Scenario], None]) -> None:
    async def scenario(_: Database, driver: ScriptedDriver, inventory: InventoryRefresher) -> None:
        created_at = now()
        driver.put(machine("m1"), snapshot("a", ready=False, created_at=created_at))
        await inventory.refresh_provider("lab")
        assert select(url, "SELECT state FROM snapshot") == [("CREATING",)]
        driver.put(machine("m1"), snapshot("a", created_at=created_at))
        await inventory.refresh_provider("lab")

    run_scenario(scenario)
    assert select(url, "SELECT state FROM snapshot") == [("READY",)]


def test_snapshot_that_is_never_completed_becomes_error(url: str, run_scenario: Callable[[Scenario], None]) -> None:
    """After the operation deadline. It becomes READY if the provider completes it later."""

    async def scenario(_: Database, driver: ScriptedDriver, inventory: InventoryRefresher) -> None:
        deadline = timedelta(seconds=Settings().operation_deadline)
        young, old = now() - deadline / 2, now() - deadline
        for created_at, state in ((young, "CREATING"), (old, "ERROR")):
            driver.put(machine("m1"), snapshot("a", ready=False, created_at=created_at))
            await inventory.refresh_provider("lab")
            assert select(url, "SELECT state FROM snapshot") == [(state,)]
        driver.put(machine("m1"), snapshot("a", created_at=old))
        await inventory.refresh_provider("lab")

    run_scenario(scenario)
    assert select(url, "SELECT state FROM snapshot") == [("READY",)]


@pytest.mark.parametrize(("before", "after"), [("ERROR", "READY"), ("DELETING", "DELETING")])
def test_snapshot_of_a_create_that_was_recorded_as_failed(
    before: str, after: str, url: str, run_scenario: Callable[[Scenario], None]
) -> None:
    """The row gets the provider_ref and keeps it in the next refresh. One that is DELETING stays so."""

    async def scenario(database: Database, driver: ScriptedDriver, inventory: InventoryRefresher) -> None:
        await inventory.refresh_provider("lab")
        execute(url, f"UPDATE snapshot SET provider_ref = NULL, state = '{before}', is_current = FALSE WHERE id = 3")
        kind, state = OperationKind.CREATE_SNAPSHOT, OperationState.FAILED
        await put_operation(database, state, kind=kind, snapshot_id=3, finished_at=now() - timedelta(seconds=1))
        late = snapshot("late", name="wire name", parent_ref="b", token="t", size_bytes=17, created_at=LATER)
        driver.put(machine("m1"), snapshot("a"), snapshot("b", parent_ref="a"), late, current="late")
        await inventory.refresh_provider("lab")
        await inventory.refresh_provider("lab")

    run_scenario(scenario)
    assert select(url, SNAPSHOTS) == [*TREE[:2], (3, 1, "late", "name of c", 2, 1, after)]


# ---- machines that are gone


def test_machine_is_marked_gone_and_unmarked_when_reported_again(
    url: str, run_scenario: Callable[[Scenario], None]
) -> None:
    async def scenario(_: Database, driver: ScriptedDriver, inventory: InventoryRefresher) -> None:
        await inventory.refresh_provider("lab")
        world = driver.world
        driver.world = {}
        assert (await inventory.refresh_provider("lab")).machines.removed == 1
        assert select(url, MACHINES) == [(1, "name of m1", "lab", "m1", "ON", 0)]
        assert select(url, SNAPSHOTS) == TREE
        driver.world = world
        await inventory.refresh_machine(1)

    run_scenario(scenario)
    assert select(url, MACHINES) == [(1, "name of m1", "lab", "m1", "ON", 1)]


def test_many_machines_are_marked_gone_in_several_transactions(
    url: str, run_scenario: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other writes wait for one of them at most. On SQLite events do not name their transaction."""
    monkeypatch.setattr(refresh, "MARKED_AT_ONCE", 2)

    async def scenario(_: Database, driver: ScriptedDriver, inventory: InventoryRefresher) -> None:
        for number in range(2, 6):
            driver.put(machine(f"m{number}"))
        await inventory.refresh_provider("lab")
        execute(url, "DELETE FROM event")
        driver.world = {}
        counts = await inventory.refresh_provider("lab")
        assert counts.machines.removed == 5

    run_scenario(scenario)
    assert select(url, "SELECT count(*) FROM machine WHERE gone_at IS NOT NULL") == [(5,)]
    if url.startswith("postgresql"):
        assert select(url, "SELECT count(*) FROM event GROUP BY xid ORDER BY xid") == [(2,), (2,), (1,)]


class CountingDatabase:
    """A database that counts the writes that run or wait at the same time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._running = self.most = 0

    async def write(self, work: Any) -> Any:
        self._running += 1
        self.most = max(self.most, self._running)
        try:
            return await self._database.write(work)
        finally:
            self._running -= 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


@pytest.mark.parametrize(("snapshots", "most"), [(100, 4), (101, 1)])
@pytest.mark.parametrize("url", SLOW_KINDS, indirect=True)
def test_large_merges_wait_for_each_other(run_scenario: Callable[[Scenario], None], snapshots: int, most: int) -> None:
    """So that another write waits for one of them, and not for as many as are read at the same time."""

    async def scenario(database: Database, driver: ScriptedDriver, _: InventoryRefresher) -> None:
        driver.world = {}
        for number in range(4):
            driver.put(machine(f"m{number}"), *(snapshot(str(each)) for each in range(snapshots)))
        barrier = asyncio.Barrier(4)

        async def meet() -> None:
            await barrier.wait()

        driver.during = meet  # all have been read before the first is merged
        counting: Any = CountingDatabase(database)
        inventory = InventoryRefresher(counting, {"lab": driver}, Settings())
        await inventory.refresh_provider("lab")
        assert counting.most == most

    run_scenario(scenario)


def test_snapshot_blocker_is_updated(url: str, run_scenario: Callable[[Scenario], None]) -> None:
    async def scenario(_: Database, driver: ScriptedDriver, inventory: InventoryRefresher) -> None:
        stored = []
        for blocker in (None, "it is a template", "its disk is raw", None):
            driver.put(machine("m1", snapshot_blocker=blocker))
            await inventory.refresh_provider("lab")
            stored += select(url, "SELECT obstacle FROM machine")
        assert stored == [(None,), ("it is a template",), ("its disk is raw",), (None,)]

    run_scenario(scenario)


def test_missing_machine_is_marked_gone(url: str, run_scenario: Callable[[Scenario], None]) -> None:
    async def scenario(_: Database, driver: ScriptedDriver, inventory: InventoryRefresher) -> None:
        await inventory.refresh_provider("lab")
        driver.world = {}
        await inventory.refresh_machine(1)

    run_scenario(scenario)
    assert select(url, MACHINES) == [(1, "name of m1", "lab", "m1", "ON", 0)]


def test_error_is_not_taken_for_an_empty_list(url: str, run_scenario: Callable[[Scenario], None]) -> None:
    async def scenario(_: Database, driver: ScriptedDriver, inventory: InventoryRefresher) -> None:
        await inventory.refresh_provider("lab")
        _providers, machines, snapshots, operations, events, entries = all_rows(url)
        driver.problem = ProviderUnavailable("The provider does not answer.")
        with pytest.raises(ProviderUnavailable):
            await inventory.refresh_provider("lab")
        with pytest.raises(ProviderUnavailable):
            await inventory.refresh_machine(1)
        _providers, *rows = all_rows(url)
        assert rows == [machines, snapshots, operations, [*events, ANY], entries]
        assert select(url, EVENTS)[-1] == ("provider", "UPDATED", 0)
        assert select(url, "SELECT problem FROM provider") == [("The provider does not answer.",)]
        driver.problem = None
        await inventory.refresh_provider("lab")
        assert select(url, "SELECT problem FROM provider") == [(None,)]

    run_scenario(scenario)


def test_other_machines_are_refreshed_when_one_fails(
    url: str, run_scenario: Callable[[Scenario], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(_: Database, driver: ScriptedDriver, inventory: InventoryRefresher) -> None:
        await inventory.refresh_provider("lab")
        [reported] = driver.world
        driver.world[reported] = ProviderUnavailable("No answer.")
        driver.put(machine("m2"), snapshot("x"))
        await inventory.refresh_provider("lab")

    run_scenario(scenario)
    assert [row[0] for row in select(url, SNAPSHOTS)] == [1, 2, 3, 4]
    assert [row[-1] for row in select(url, MACHINES)] == [1, 1]
    assert select(url, "SELECT problem FROM provider") == [
        ("1 of 2 machines could not be read: Machine 'name of m1' ('m1'): No answer.",)
    ]
    (line,) = [record for record in caplog.records if record.name == "gateway.inventory.refresh"]
    expected = "Machine could not be read provider=lab machine=m1 error=No answer."
    assert (line.levelname, line.getMessage()) == ("WARNING", expected)


def test_lines_about_machines_that_cannot_be_read_are_bounded(
    run_scenario: Callable[[Scenario], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(_: Database, driver: ScriptedDriver, inventory: InventoryRefresher) -> None:
        driver.world.clear()
        for number in range(30):
            driver.world[machine(f"m{number:02}")] = ProviderUnavailable("No answer.")
        await inventory.refresh_provider("lab")

    run_scenario(scenario)
    lines = [record.getMessage() for record in caplog.records if record.name == "gateway.inventory.refresh"]
    named = [f"Machine could not be read provider=lab machine=m{number:02} error=No answer." for number in range(20)]
    assert lines == [*named, "Further machines could not be read provider=lab number=10"]


# ---- concurrent operations


@pytest.mark.parametrize(
    ("state", "dispatched", "kind", "merged"),
    [
        (OperationState.RUNNING, True, OperationKind.DELETE_SNAPSHOT, False),
        (OperationState.RUNNING, False, OperationKind.CREATE_SNAPSHOT, False),
        (OperationState.QUEUED, True, OperationKind.CREATE_SNAPSHOT, False),
        (OperationState.QUEUED, False, OperationKind.CREATE_SNAPSHOT, True),
        (OperationState.RUNNING, True, OperationKind.REFRESH_MACHINE, True),
        (OperationState.SUCCEEDED, True, OperationKind.DELETE_SNAPSHOT, True),
    ],
)
def test_running_operation_prevents_the_merge(
    url: str,
    run_scenario: Callable[[Scenario], None],
    state: OperationState,
    dispatched: bool,
    kind: OperationKind,
    merged: bool,
) -> None:
    async def scenario(database: Database, driver: ScriptedDriver, inventory: InventoryRefresher) -> None:
        await inventory.refresh_provider("lab")
        finished = now() - timedelta(seconds=1) if state is OperationState.SUCCEEDED else None
        await put_operation(database, state, kind=kind, dispatched=dispatched, finished_at=finished)
        driver.put(machine("m1"), snapshot("a"))
        await inventory.refresh_provider("lab")

    run_scenario(scenario)
    assert [row[0] for row in select(url, SNAPSHOTS)] == ([1] if merged else [1, 2, 3])


def test_operation_that_ends_during_the_listing_prevents_the_merge(
    url: str, run_scenario: Callable[[Scenario], None]
) -> None:
    """The listing may predate the operation, so it must not restore a snapshot that was deleted meanwhile."""

    async def scenario(database: Database, driver: ScriptedDriver, inventory: InventoryRefresher) -> None:
        await inventory.refresh_provider("lab")

        async def delete_meanwhile() -> None:
            execute(url, "DELETE FROM snapshot WHERE id = 3")
            await put_operation(database, OperationState.SUCCEEDED, finished_at=now())

        driver.during = delete_meanwhile
        await inventory.refresh_machine(1)

    run_scenario(scenario)
    assert [row[0] for row in select(url, SNAPSHOTS)] == [1, 2]


# ---- periodic refresh


def test_refresh_runs_periodically(url: str, run_scenario: Callable[[Scenario], None]) -> None:
    async def scenario(database: Database, driver: ScriptedDriver, inventory: InventoryRefresher) -> None:
        calls = 0

        async def record() -> None:
            nonlocal calls
            calls += 1

        driver.during = record
        job = PeriodicJob("refresh:lab", 0.0, partial(inventory.keep_fresh, "lab"), Scope.CLUSTER)
        jobs = JobRunner(database, [job], owner="test", lease=10.0)
        await jobs.start()
        await until_async(lambda: calls >= 3)
        await jobs.stop()

    run_scenario(scenario)


def test_an_unexpected_error_about_one_machine_costs_that_machine_alone(
    url: str, run_scenario: Callable[[Scenario], None]
) -> None:
    async def scenario(_: Database, driver: ScriptedDriver, inventory: InventoryRefresher) -> None:
        driver.put(machine("m2"), snapshot("d"))
        fails = iter([True])

        async def fail_once() -> None:
            if next(fails, False):
                raise ValueError("unexpected")

        driver.during = fail_once
        with pytest.raises(ExceptionGroup) as raised:
            await inventory.refresh_provider("lab")
        assert [str(error) for error in raised.value.exceptions] == ["unexpected"]
        assert select(url, "SELECT provider_ref FROM machine") == [("m2",)]
        await inventory.refresh_provider("lab")
        assert select(url, "SELECT provider_ref FROM machine ORDER BY provider_ref") == [("m1",), ("m2",)]

    run_scenario(scenario)


def test_names_that_an_index_cannot_hold_are_truncated(url: str, run_scenario: Callable[[Scenario], None]) -> None:
    """A row of an index of PostgreSQL has at most 2,704 bytes, compressed: the names must not be compressible."""
    odd = "".join(map(chr, range(0x20000, 0x20000 + 1_024)))
    folded = "".join(map(chr, [*range(0x1F80, 0x1FB0)] * 22))[:1_024]  # each of them is folded to two

    async def scenario(_: Database, driver: ScriptedDriver, inventory: InventoryRefresher) -> None:
        driver.put(machine("m1", name=odd), snapshot("a", name=odd), snapshot("b", name=folded))
        await inventory.refresh_provider("lab")

    run_scenario(scenario)
    assert select(url, "SELECT name FROM machine") == [(odd[:500],)]
    assert select(url, "SELECT name, length(name_folded) FROM snapshot ORDER BY id") == [
        (odd[:500], 500),
        (folded[:400], 800),
    ]


def test_an_identifier_that_an_index_cannot_hold_is_refused() -> None:
    assert machine("m" * 1_024).ref == "m" * 1_024
    for ref in ("", "m" * 1_025, "\U00020000" * 501, "a\0", "\ud800"):
        with pytest.raises(ValueError, match="identifier"):
            machine(ref)


def test_errors_of_the_provider_are_no_failures_of_the_job(url: str, run_scenario: Callable[[Scenario], None]) -> None:
    """They are shown as the provider's problem. An error that is not the provider's is a failure of the job too."""

    async def scenario(_: Database, driver: ScriptedDriver, inventory: InventoryRefresher) -> None:
        driver.problem = ProviderUnavailable("The provider does not answer.")
        await inventory.keep_fresh("lab")
        assert select(url, "SELECT problem FROM provider") == [("The provider does not answer.",)]
        driver.problem = None

        async def fail() -> None:
            raise ValueError("unexpected")

        driver.during = fail
        with pytest.raises(ExceptionGroup) as raised:
            await inventory.keep_fresh("lab")
        assert [str(error) for error in raised.value.exceptions] == ["unexpected"]
        assert select(url, "SELECT problem FROM provider") == [
            ("An internal error occurred during the refresh. See the gateway's log.",)
        ]

    run_scenario(scenario)
