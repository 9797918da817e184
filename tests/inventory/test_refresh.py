"""A refresh: what the provider says becomes what the inventory shows, and nothing else does."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest

from gateway.columns import now
from gateway.config import Settings
from gateway.errors import ProviderUnavailable
from gateway.inventory.refresh import Inventory
from gateway.models import OperationKind, OperationState
from gateway.store.database import Database
from tests.inventory.files import MACHINES, SNAPSHOTS, change, everything, select
from tests.inventory.scripted import LATER, ScriptedDriver, Story, machine, put_operation, snapshot

EVENTS = "SELECT noun, change, subject_id FROM event ORDER BY id"

TREE = [
    (1, 1, "a", "name of a", None, 0, "READY"),
    (2, 1, "b", "name of b", 1, 0, "READY"),
    (3, 1, "c", "name of c", 2, 1, "READY"),
]


def test_what_is_there_is_found(url: str, tell: Callable[[Story], None]) -> None:
    async def story(_: Database, __: ScriptedDriver, inventory: Inventory) -> None:
        counts = await inventory.refresh_provider("lab")
        assert str(counts) == (
            "machines: 1 created, 0 updated, 0 unchanged; snapshots: 3 created, 0 updated, 0 unchanged"
        )

    tell(story)
    assert select(url, MACHINES) == [(1, "name of m1", "lab", "m1", "ON", 1)]
    assert select(url, SNAPSHOTS) == TREE
    assert select(url, "SELECT name, tenant, driver, observed_at IS NOT NULL, problem FROM provider") == [
        ("lab", "default", "scripted", 1, None)
    ]


def test_a_second_refresh_only_looks(url: str, tell: Callable[[Story], None]) -> None:
    async def story(_: Database, __: ScriptedDriver, inventory: Inventory) -> None:
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

    tell(story)


def test_changes_are_followed(url: str, tell: Callable[[Story], None]) -> None:
    async def story(_: Database, driver: ScriptedDriver, inventory: Inventory) -> None:
        await inventory.refresh_provider("lab")
        # b is gone, c hangs on a; somebody reverted to a and renamed it; d is new below the new e.
        driver.put(
            machine("m1", host="esx-02"),
            snapshot("a", name="new name"),
            snapshot("c", parent_ref="a"),
            snapshot("e"),
            snapshot("d", parent_ref="e"),
            current="a",
        )
        await inventory.refresh_machine(1)

    tell(story)
    assert select(url, SNAPSHOTS) == [
        (1, 1, "a", "new name", None, 1, "READY"),
        (3, 1, "c", "name of c", 1, 0, "READY"),
        (4, 1, "e", "name of e", None, 0, "READY"),
        (5, 1, "d", "name of d", 4, 0, "READY"),
    ]
    assert select(url, "SELECT host, snapshot_count FROM machine") == [("esx-02", 4)]


def test_the_same_name_made_again_is_another_snapshot(url: str, tell: Callable[[Story], None]) -> None:
    async def story(_: Database, driver: ScriptedDriver, inventory: Inventory) -> None:
        await inventory.refresh_provider("lab")
        again = snapshot("b", parent_ref="a", created_at=LATER)
        driver.put(machine("m1"), snapshot("a"), again, snapshot("c", parent_ref="b"), current="b")
        await inventory.refresh_provider("lab")

    tell(story)
    assert select(url, SNAPSHOTS) == [
        TREE[0],
        (3, 1, "c", "name of c", 4, 0, "READY"),
        (4, 1, "b", "name of b", 1, 1, "READY"),
    ]


def test_what_the_gateway_made_keeps_its_name(url: str, tell: Callable[[Story], None]) -> None:
    async def story(_: Database, driver: ScriptedDriver, inventory: Inventory) -> None:
        await inventory.refresh_provider("lab")
        change(url, "UPDATE snapshot SET name = 'Ärger?', name_folded = 'ärger?' WHERE id = 1")
        driver.put(machine("m1"), snapshot("a", name="rger-1f3a", token="1f3a"))
        await inventory.refresh_provider("lab")

    tell(story)
    assert select(url, SNAPSHOTS) == [(1, 1, "a", "Ärger?", None, 0, "READY")]


def test_what_is_not_made_yet_is_left_alone(url: str, tell: Callable[[Story], None]) -> None:
    async def story(_: Database, driver: ScriptedDriver, inventory: Inventory) -> None:
        await inventory.refresh_provider("lab")
        change(url, "UPDATE snapshot SET provider_ref = NULL, state = 'ERROR' WHERE id = 3")
        driver.put(machine("m1"), snapshot("a"))
        await inventory.refresh_provider("lab")

    tell(story)
    assert [row[:5] for row in select(url, SNAPSHOTS)] == [(1, 1, "a", "name of a", None), (3, 1, None, "name of c", 1)]


def test_what_the_provider_is_still_making(url: str, tell: Callable[[Story], None]) -> None:
    async def story(_: Database, driver: ScriptedDriver, inventory: Inventory) -> None:
        begun = now()
        driver.put(machine("m1"), snapshot("a", ready=False, created_at=begun))
        await inventory.refresh_provider("lab")
        assert select(url, "SELECT state FROM snapshot") == [("CREATING",)]
        driver.put(machine("m1"), snapshot("a", created_at=begun))
        await inventory.refresh_provider("lab")

    tell(story)
    assert select(url, "SELECT state FROM snapshot") == [("READY",)]


def test_what_the_provider_never_finishes_is_an_error_that_can_be_deleted(
    url: str, tell: Callable[[Story], None]
) -> None:
    """After as long as an operation may take. Should it be finished after all, that is seen."""

    async def story(_: Database, driver: ScriptedDriver, inventory: Inventory) -> None:
        deadline = timedelta(seconds=Settings().operation_deadline)
        young, old = now() - deadline / 2, now() - deadline
        for begun, state in ((young, "CREATING"), (old, "ERROR")):
            driver.put(machine("m1"), snapshot("a", ready=False, created_at=begun))
            await inventory.refresh_provider("lab")
            assert select(url, "SELECT state FROM snapshot") == [(state,)]
        driver.put(machine("m1"), snapshot("a", created_at=old))
        await inventory.refresh_provider("lab")

    tell(story)
    assert select(url, "SELECT state FROM snapshot") == [("READY",)]


@pytest.mark.parametrize(("before", "after"), [("ERROR", "READY"), ("DELETING", "DELETING")])
def test_a_create_that_seemed_to_fail_but_did_not(
    before: str, after: str, url: str, tell: Callable[[Story], None]
) -> None:
    """One that waits to be deleted goes on waiting, and stays the same snapshot for the next refresh."""

    async def story(database: Database, driver: ScriptedDriver, inventory: Inventory) -> None:
        await inventory.refresh_provider("lab")
        change(url, f"UPDATE snapshot SET provider_ref = NULL, state = '{before}', is_current = FALSE WHERE id = 3")
        kind, state = OperationKind.CREATE_SNAPSHOT, OperationState.FAILED
        await put_operation(database, state, kind=kind, snapshot_id=3, finished_at=now() - timedelta(seconds=1))
        made = snapshot("late", name="wire name", parent_ref="b", token="t", size_bytes=17, created_at=LATER)
        driver.put(machine("m1"), snapshot("a"), snapshot("b", parent_ref="a"), made, current="late")
        await inventory.refresh_provider("lab")
        await inventory.refresh_provider("lab")

    tell(story)
    assert select(url, SNAPSHOTS) == [*TREE[:2], (3, 1, "late", "name of c", 2, 1, after)]


# ---- gone


def test_a_machine_goes_and_comes_back(url: str, tell: Callable[[Story], None]) -> None:
    async def story(_: Database, driver: ScriptedDriver, inventory: Inventory) -> None:
        await inventory.refresh_provider("lab")
        world = driver.world
        driver.world = {}
        assert (await inventory.refresh_provider("lab")).machines.removed == 1
        assert select(url, MACHINES) == [(1, "name of m1", "lab", "m1", "ON", 0)]
        assert select(url, SNAPSHOTS) == TREE
        driver.world = world
        await inventory.refresh_machine(1)

    tell(story)
    assert select(url, MACHINES) == [(1, "name of m1", "lab", "m1", "ON", 1)]


def test_what_stands_in_the_way_of_snapshots_comes_and_goes(url: str, tell: Callable[[Story], None]) -> None:
    async def story(_: Database, driver: ScriptedDriver, inventory: Inventory) -> None:
        seen = []
        for obstacle in (None, "it is a template", "its disk is raw", None):
            driver.put(machine("m1", obstacle=obstacle))
            await inventory.refresh_provider("lab")
            seen += select(url, "SELECT obstacle FROM machine")
        assert seen == [(None,), ("it is a template",), ("its disk is raw",), (None,)]

    tell(story)


def test_a_machine_that_is_found_missing_is_gone(url: str, tell: Callable[[Story], None]) -> None:
    async def story(_: Database, driver: ScriptedDriver, inventory: Inventory) -> None:
        await inventory.refresh_provider("lab")
        driver.world = {}
        await inventory.refresh_machine(1)

    tell(story)
    assert select(url, MACHINES) == [(1, "name of m1", "lab", "m1", "ON", 0)]


def test_an_error_is_no_empty_list(url: str, tell: Callable[[Story], None]) -> None:
    async def story(_: Database, driver: ScriptedDriver, inventory: Inventory) -> None:
        await inventory.refresh_provider("lab")
        before = everything(url)[1:]
        driver.problem = ProviderUnavailable("the provider does not answer")
        with pytest.raises(ProviderUnavailable):
            await inventory.refresh_provider("lab")
        with pytest.raises(ProviderUnavailable):
            await inventory.refresh_machine(1)
        assert everything(url)[1:] == before
        assert select(url, "SELECT problem FROM provider") == [("the provider does not answer",)]
        driver.problem = None
        await inventory.refresh_provider("lab")
        assert select(url, "SELECT problem FROM provider") == [(None,)]

    tell(story)


def test_one_machine_that_cannot_be_read(url: str, tell: Callable[[Story], None]) -> None:
    async def story(_: Database, driver: ScriptedDriver, inventory: Inventory) -> None:
        await inventory.refresh_provider("lab")
        [seen] = driver.world
        driver.world[seen] = ProviderUnavailable("no answer")
        driver.put(machine("m2"), snapshot("x"))
        await inventory.refresh_provider("lab")

    tell(story)
    assert [row[0] for row in select(url, SNAPSHOTS)] == [1, 2, 3, 4]
    assert [row[-1] for row in select(url, MACHINES)] == [1, 1]
    assert select(url, "SELECT problem FROM provider") == [("1 of 2 machines: no answer",)]


# ---- beside operations


@pytest.mark.parametrize(
    ("state", "issued", "kind", "merged"),
    [
        (OperationState.RUNNING, True, OperationKind.DELETE_SNAPSHOT, False),
        (OperationState.RUNNING, False, OperationKind.CREATE_SNAPSHOT, False),
        (OperationState.QUEUED, True, OperationKind.CREATE_SNAPSHOT, False),
        (OperationState.QUEUED, False, OperationKind.CREATE_SNAPSHOT, True),
        (OperationState.RUNNING, True, OperationKind.REFRESH_MACHINE, True),
        (OperationState.SUCCEEDED, True, OperationKind.DELETE_SNAPSHOT, True),
    ],
)
def test_an_operation_at_work_has_the_say(
    url: str,
    tell: Callable[[Story], None],
    state: OperationState,
    issued: bool,
    kind: OperationKind,
    merged: bool,
) -> None:
    async def story(database: Database, driver: ScriptedDriver, inventory: Inventory) -> None:
        await inventory.refresh_provider("lab")
        finished = now() - timedelta(seconds=1) if state is OperationState.SUCCEEDED else None
        await put_operation(database, state, kind=kind, issued=issued, finished_at=finished)
        driver.put(machine("m1"), snapshot("a"))
        await inventory.refresh_provider("lab")

    tell(story)
    assert [row[0] for row in select(url, SNAPSHOTS)] == ([1] if merged else [1, 2, 3])


def test_an_operation_that_ends_while_the_provider_is_asked(url: str, tell: Callable[[Story], None]) -> None:
    """The listing may be from before: it must not bring back what was deleted meanwhile."""

    async def story(database: Database, driver: ScriptedDriver, inventory: Inventory) -> None:
        await inventory.refresh_provider("lab")

        async def delete_meanwhile() -> None:
            change(url, "DELETE FROM snapshot WHERE id = 3")
            await put_operation(database, OperationState.SUCCEEDED, finished_at=now())

        driver.during = delete_meanwhile
        await inventory.refresh_machine(1)

    tell(story)
    assert [row[0] for row in select(url, SNAPSHOTS)] == [1, 2]


# ---- in the background


def test_it_goes_on_by_itself(url: str, tell: Callable[[Story], None]) -> None:
    async def story(_: Database, driver: ScriptedDriver, inventory: Inventory) -> None:
        asked = asyncio.Event()

        async def note() -> None:
            asked.set()

        driver.during = note
        await inventory.start()
        await asyncio.wait_for(asked.wait(), 10)
        await inventory.stop()

    tell(story)
