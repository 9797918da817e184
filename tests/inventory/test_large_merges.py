"""A large merge is written in slices: other writes get in between, and each slice leaves a consistent inventory."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from gateway.config import Settings
from gateway.drivers.base import ReportedSnapshot, ReportedSnapshots
from gateway.errors import ProviderUnavailable, Unavailable
from gateway.inventory import snapshots
from gateway.inventory.listing import MAX_TEXT, arrange_machines, arrange_snapshots
from gateway.inventory.refresh import InventoryRefresher
from gateway.models import OperationState
from gateway.store.database import Database
from tests.inventory.files import execute, import_pages, select, vm
from tests.inventory.files import snapshot as imported
from tests.inventory.scripted import ScriptedDriver, inventory, machine, put_operation, snapshot

SLICE, NUMBER = 5, 23
TREE = """
    SELECT s.provider_ref, s.name, p.provider_ref, CASE WHEN s.is_current THEN 1 ELSE 0 END, s.state
    FROM snapshot s LEFT JOIN snapshot p ON p.id = s.parent_id ORDER BY s.provider_ref
"""
COUNTS = "SELECT m.snapshot_count, (SELECT count(*) FROM snapshot) FROM machine m"


def chain(number: int = NUMBER, prefix: str = "", step: int = 1) -> list[ReportedSnapshot]:
    """A chain of snapshots. With a `step`, one of that number of the longest chain."""
    refs = [f"s{each:04}" for each in range(0, number, step)]
    return [
        snapshot(ref, name=prefix + ref, parent_ref=parent) for ref, parent in zip(refs, [None, *refs], strict=False)
    ]


def expected(listing: list[ReportedSnapshot]) -> list[tuple[Any, ...]]:
    """The rows of `TREE` after a merge of the listing, whose last snapshot is current."""
    current = listing[-1]
    return [
        (each.ref, each.name, each.parent_ref, int(each is current), "READY")
        for each in sorted(listing, key=lambda each: each.ref)
    ]


class WatchedDatabase:
    """Calls `after` with the number of a write when it is committed."""

    def __init__(self, database: Database, after: Callable[[int], Awaitable[None]]) -> None:
        self._database = database
        self._after = after
        self.writes = 0

    async def write(self, work: Any) -> Any:
        result = await self._database.write(work)
        self.writes += 1
        await self._after(self.writes)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


Scenario = Callable[[Database, ScriptedDriver], Awaitable[None]]


@pytest.fixture
def run(opened_database: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> Callable[[Scenario], None]:
    """Runs a scenario with a provider whose only machine has a chain of snapshots. Slices have five rows."""
    monkeypatch.setattr(snapshots, "SLICE", SLICE)

    def run_it(scenario: Scenario) -> None:
        async def run_all() -> None:
            driver = ScriptedDriver()
            put(driver, chain())
            async with opened_database() as database:
                await scenario(database, driver)

        asyncio.run(run_all())

    return run_it


def put(driver: ScriptedDriver, listing: list[ReportedSnapshot]) -> None:
    driver.put(machine("m1"), *listing, current=listing[-1].ref if listing else None)


def watched(database: Database, driver: ScriptedDriver, after: Callable[[int], Awaitable[None]]) -> InventoryRefresher:
    watching: Any = WatchedDatabase(database, after)
    return InventoryRefresher(watching, {"lab": driver}, Settings())


CHANGES = {
    "renamed": chain(prefix="new "),
    "every other one deleted": chain(step=2),
    "all but one deleted": chain(1),
    "more": chain(40),
    "all replaced": [snapshot(f"t{each:04}") for each in range(NUMBER)],
    "reversed": [
        snapshot(each.ref, name=each.name, parent_ref=after.ref if after else None)
        for each, after in zip(chain(), [*chain()[1:], None], strict=True)
    ][::-1],
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_slice_leaves_a_consistent_inventory(url: str, run: Callable[[Scenario], None], change: str) -> None:
    """With few changed rows, a count that is right, one current snapshot at most, and no parent that is missing."""

    async def scenario(database: Database, driver: ScriptedDriver) -> None:
        seen: list[list[tuple[Any, ...]]] = [[]]

        async def check(_: int) -> None:
            rows = select(url, TREE)
            assert select(url, COUNTS) in ([], [(len(rows), len(rows))])
            assert sum(row[3] for row in rows) <= 1
            # A deletion may detach children, which are deleted next.
            changed = [row for row in rows if row not in seen[-1] and row[2] is not None]
            assert len(changed) <= SLICE
            assert len(seen[-1]) - len(rows) <= SLICE
            seen.append(rows)

        await watched(database, driver, check).refresh_provider("lab")
        assert select(url, TREE) == expected(chain())
        assert [len(rows) for rows in seen][:7] == [0, 0, 0, 5, 10, 15, 20]
        put(driver, CHANGES[change])
        counts = (await watched(database, driver, check).refresh_provider("lab")).snapshots
        assert select(url, TREE) == expected(CHANGES[change])
        refs = {each.ref for each in CHANGES[change]}
        known = {each.ref for each in chain()}
        assert (counts.created, counts.removed) == (len(refs - known), len(known - refs))

    run(scenario)


_QUICK = "every other one deleted"


@pytest.mark.parametrize(
    ("change", "stops"),
    [(_QUICK, [3]), *(pytest.param(each, range(1, 30), marks=pytest.mark.thorough) for each in CHANGES)],
)
def test_a_merge_that_ends_between_two_slices_is_completed_by_the_next(
    url: str, run: Callable[[Scenario], None], change: str, stops: Sequence[int]
) -> None:
    """After each of its writes. Rows of snapshots that remain keep their ids."""
    remaining = {each.ref for each in CHANGES[change]} & {each.ref for each in chain()}

    def ids() -> dict[str, int]:
        rows = select(url, "SELECT provider_ref, id FROM snapshot")
        return {ref: number for ref, number in rows if ref in remaining}

    async def scenario(database: Database, driver: ScriptedDriver) -> None:
        ended = True
        for stop in stops:
            put(driver, chain())
            await inventory(database, driver).refresh_provider("lab")
            before = ids()
            put(driver, CHANGES[change])

            async def end(writes: int, stop: int = stop) -> None:
                if writes == stop:
                    raise Unavailable("The process has ended.")

            try:
                await watched(database, driver, end).refresh_machine(1)
            except Unavailable:
                pass
            else:
                ended = False
            assert ids() == before
            await inventory(database, driver).refresh_machine(1)
            assert ids() == before
            assert select(url, TREE) == expected(CHANGES[change])
            if not ended:
                break
        assert ended == (change == _QUICK and len(stops) == 1)

    run(scenario)


def test_an_operation_that_begins_between_two_slices_ends_the_merge(url: str, run: Callable[[Scenario], None]) -> None:
    async def scenario(database: Database, driver: ScriptedDriver) -> None:
        async def begin(writes: int) -> None:
            if writes == 4:  # the provider's row, the machine, and two slices
                await put_operation(database, OperationState.RUNNING)

        await watched(database, driver, begin).refresh_provider("lab")
        assert select(url, TREE) == expected(chain(11))[:-1]
        await inventory(database, driver).refresh_provider("lab")
        assert select(url, TREE) == expected(chain(11))[:-1]
        execute(url, "UPDATE operation SET state = 'SUCCEEDED', finished_at = created_at")
        await inventory(database, driver).refresh_provider("lab")

    run(scenario)
    assert select(url, TREE) == expected(chain())


def test_a_merge_that_begins_between_two_slices_of_another_completes_it(
    url: str, run: Callable[[Scenario], None]
) -> None:
    """Such as one of another gateway. It has read the provider later."""

    async def scenario(database: Database, driver: ScriptedDriver) -> None:
        async def begin(writes: int) -> None:
            if writes == 4:
                put(driver, chain(40, "new "))
                await inventory(database, driver).refresh_machine(1)

        counts = (await watched(database, driver, begin).refresh_provider("lab")).snapshots
        assert counts.created == 2 * SLICE

    run(scenario)
    assert select(url, TREE) == expected(chain(40, "new "))


def test_a_snapshot_that_is_accepted_for_deletion_between_two_slices_stays_so(
    url: str, run: Callable[[Scenario], None]
) -> None:
    """Its state is not overwritten with the one that it had when the rows were read."""

    async def scenario(database: Database, driver: ScriptedDriver) -> None:
        await inventory(database, driver).refresh_provider("lab")
        put(driver, chain(prefix="new "))

        async def accept(writes: int) -> None:
            if writes == 2:  # the machine, and the first slice
                execute(url, "UPDATE snapshot SET state = 'DELETING' WHERE provider_ref = 's0020'")

        await watched(database, driver, accept).refresh_machine(1)
        states = "SELECT provider_ref FROM snapshot WHERE state = 'DELETING'"
        assert select(url, states) == [("s0020",)]
        assert select(url, "SELECT count(*) FROM snapshot WHERE name LIKE 'new %'") == [(NUMBER - 1,)]
        await inventory(database, driver).refresh_machine(1)
        assert select(url, states) == [("s0020",)]
        assert select(url, "SELECT count(*) FROM snapshot WHERE name LIKE 'new %'") == [(NUMBER,)]

    run(scenario)


def test_adopted_snapshots_are_merged_in_one_transaction(
    url: str, run: Callable[[Scenario], None], tmp_path: Any
) -> None:
    """Their imported times may be inexact. They are not compared in this merge, and they are in the next one."""
    ids = range(30, 30 + NUMBER)
    listed = [imported(number, ems_ref=each.ref) for number, each in zip(ids, chain(), strict=True)]
    import_pages(url, tmp_path, {"name": "vms", "count": 1, "resources": [vm(11, *listed, ems_ref="m1")]})

    async def scenario(database: Database, driver: ScriptedDriver) -> None:
        async def count(writes: int) -> None:
            assert writes <= 3

        await watched(database, driver, count).refresh_provider("lab")
        assert select(url, TREE) == expected(chain())
        assert select(url, "SELECT id FROM snapshot ORDER BY id") == [(number,) for number in ids]

    run(scenario)


# ---- bounds


def test_a_listing_with_too_much_text_is_an_error_of_its_machine(url: str, opened_database: Callable[[], Any]) -> None:
    """64 MiB in UTF-8. Nothing is deleted because of it, and other machines are read."""
    text = "€" * 8_192
    large = [snapshot(f"s{number}", description=text) for number in range(MAX_TEXT // len(text.encode()) + 1)]

    async def scenario() -> None:
        driver = ScriptedDriver()
        driver.put(machine("m1"), snapshot("a"))
        async with opened_database() as database:
            await inventory(database, driver).refresh_provider("lab")
            driver.put(machine("m1"), *large)
            driver.put(machine("m2"))
            await inventory(database, driver).refresh_provider("lab")

    asyncio.run(scenario())
    [(problem,)] = select(url, "SELECT problem FROM provider")
    assert problem.startswith(
        "1 of 2 machines could not be read: Machine 'name of m1' ('m1'): The provider's listing has "
    )
    assert select(url, "SELECT provider_ref FROM snapshot") == [("a",)]
    assert select(url, "SELECT provider_ref FROM machine WHERE gone_at IS NULL ORDER BY id") == [("m1",), ("m2",)]


def test_the_bound_of_text_is_exact() -> None:
    one = snapshot("a", name="€", description="xy")
    size = len("a") + len("€".encode()) + len("xy")
    assert arrange_snapshots(ReportedSnapshots([one]), size).snapshots == {"a": one}
    with pytest.raises(ProviderUnavailable, match=f"has {size} bytes of text; at most {size - 1} are read"):
        arrange_snapshots(ReportedSnapshots([one]), size - 1)
    reported = machine("m1", name="€", host="h")
    size = len("m1") + len("€".encode()) + len("h")
    assert arrange_machines([reported], size).machines == {"m1": reported}
    with pytest.raises(ProviderUnavailable):
        arrange_machines([reported], size - 1)


def test_a_provider_that_invents_machines_is_bounded(url: str, opened_database: Callable[[], Any]) -> None:
    """Its new machines are refused with a problem; the others are refreshed, and the gone ones are noticed."""

    async def scenario() -> None:
        driver = ScriptedDriver()
        async with opened_database() as database:
            refresher = InventoryRefresher(database, {"lab": driver}, Settings(), max_machines=3)
            for reading in range(3):
                driver.world = {}
                driver.put(machine("m1", name=f"reading {reading}"))
                for number in range(2):
                    driver.put(machine(f"invented-{reading}-{number}"), snapshot("x"))
                await refresher.refresh_provider("lab")
            await refresher.refresh_machines("lab", ["invented-2-0"])  # as after a hint

    asyncio.run(scenario())
    assert select(url, "SELECT provider_ref, name, gone_at IS NULL FROM machine ORDER BY name") == [
        ("invented-0-0", "name of invented-0-0", 0),
        ("invented-0-1", "name of invented-0-1", 0),
        ("m1", "reading 2", 1),
    ]
    reason = (
        "The machine is new, and the inventory has 3 machines of the provider already, which is the maximum. Machines"
        " that are gone count until they are deleted."
    )
    problem = (
        f"2 of 3 machines could not be read: Machine 'name of invented-2-0' ('invented-2-0'): {reason}"
        f" Machine 'name of invented-2-1' ('invented-2-1'): {reason}"
    )
    assert select(url, "SELECT problem FROM provider") == [(problem,)]
