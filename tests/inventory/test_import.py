"""`gateway import`: the contents of the database after the first and after further imports."""

import asyncio
import os
import pwd
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.columns import now
from gateway.inventory.counts import ImportProgress
from gateway.inventory.imports.importer import import_files
from gateway.models import Machine, MachineKind, PowerState, Snapshot, SnapshotState
from gateway.store.database import Transaction
from gateway.store.statements import insert
from tests.databases import SLOW_KINDS
from tests.examples import EXAMPLES
from tests.inventory.files import collection, execute, import_pages, select, snapshot, vm
from tests.make_dump import write_dump

TREE = (
    "SELECT machine_id, id, parent_id, name, CASE WHEN is_current THEN 1 ELSE 0 END, size_bytes, provider_ref"
    " FROM snapshot ORDER BY machine_id, id"
)


def test_import_writes_machines_and_snapshots(url: str, tmp_path: Path) -> None:
    counts = import_pages(
        url,
        tmp_path,
        collection(
            vm(
                11,
                snapshot(5, parent_id="3", current=1, ems_ref="snapshot-5"),  # before its parent
                snapshot(3, total_size="1024", description="First"),
                uid_ems="4221",
                power_state="on",
                host={"name": "esx-01"},
                tags=[{"name": "x"}],
            ),
            vm(12),
        ),
        collection(
            {"href": "http://h/api/instances/201", "name": None, "flavor": {"name": "m1.small"}}, name="instances"
        ),
    )
    assert str(counts) == ("machines: 3 created, 0 updated, 0 unchanged; snapshots: 2 created, 0 updated, 0 unchanged")
    assert select(url, TREE) == [
        (11, 3, None, "snapshot 3", 0, 1024, "3"),
        (11, 5, 3, "snapshot 5", 1, None, "snapshot-5"),
    ]
    assert select(
        url,
        "SELECT id, tenant, kind, name, provider, provider_ref, provider_uid, power_state, host, flavor,"
        " snapshot_count FROM machine ORDER BY id",
    ) == [
        (11, "default", "VM", "vm 11", "manageiq", "vm-11", "4221", "ON", "esx-01", None, 2),
        (12, "default", "VM", "vm 12", "manageiq", "vm-12", None, "UNKNOWN", None, None, 0),
        (201, "default", "INSTANCE", "", "manageiq", "201", None, "UNKNOWN", None, "m1.small", 0),
    ]
    assert select(url, "SELECT name, tenant, driver FROM provider") == [("manageiq", "default", "none")]
    assert select(url, "SELECT description_folded, state FROM snapshot WHERE id = 3") == [("first", "READY")]
    assert select(url, "SELECT noun, change, subject_id, subject_name FROM event ORDER BY subject_id") == [
        ("provider", "CREATED", 0, "manageiq"),
        ("snapshot", "CREATED", 3, None),
        ("snapshot", "CREATED", 5, None),
        ("machine", "CREATED", 11, None),
        ("machine", "CREATED", 12, None),
        ("machine", "CREATED", 201, None),
    ]


def test_import_of_a_list_without_a_collection(url: str, tmp_path: Path) -> None:
    import_pages(url, tmp_path, [vm(11, snapshot(3)), {"href": "/api/instances/201", "name": None, "snapshots": None}])
    assert select(url, "SELECT id, kind FROM machine ORDER BY id") == [(11, "VM"), (201, "INSTANCE")]


def test_import_is_audited(url: str, tmp_path: Path) -> None:
    counts = import_pages(url, tmp_path, collection(vm(11, snapshot(3))), provider="lab")
    columns = "tenant, caller_name, caller_roles, address, surface, action, outcome, subject, message, repeats"
    user = pwd.getpwuid(os.getuid()).pw_name
    assert select(url, f"SELECT {columns} FROM audit_entry") == [
        ("default", user, "[]", None, "COMMAND_LINE", "IMPORT", "SUCCEEDED", "lab", str(counts), 0)
    ]


def test_import_of_an_empty_collection(url: str, tmp_path: Path) -> None:
    assert str(import_pages(url, tmp_path, collection())).startswith("machines: 0 created")


def test_byte_order_mark_is_accepted(url: str, tmp_path: Path) -> None:
    path = tmp_path / "vms.json"
    path.write_bytes(b'\xef\xbb\xbf{"name": "vms", "resources": [{"id": 11}]}')
    assert import_files(url, [path], tenant="default").machines.created == 1


def test_repeated_import_changes_nothing(url: str, tmp_path: Path) -> None:
    file = collection(vm(11, snapshot(3), snapshot(4, parent_id=3, current=1, create_time=None)), vm(12, name=None))
    import_pages(url, tmp_path, file)
    snapshots, events = (
        select(url, "SELECT * FROM snapshot ORDER BY id"),
        select(url, "SELECT * FROM event ORDER BY id"),
    )
    assert str(import_pages(url, tmp_path, file)) == (
        "machines: 0 created, 0 updated, 2 unchanged; snapshots: 0 created, 0 updated, 2 unchanged"
    )
    assert select(url, "SELECT * FROM snapshot ORDER BY id") == snapshots
    assert select(url, "SELECT * FROM event ORDER BY id") == events


def test_second_import_applies_changes(url: str, tmp_path: Path) -> None:
    import_pages(
        url,
        tmp_path,
        collection(
            vm(11, snapshot(3), snapshot(4, parent_id=3), snapshot(5, parent_id=4, current=1), snapshot(6)),
            vm(12, snapshot(7)),
            vm(13, snapshot(8)),
        ),
    )
    without_list = vm(12, name="renamed")
    del without_list["snapshots"]
    counts = import_pages(
        url,
        tmp_path,
        collection(
            # 4 is missing; the parent of 5 is the new 9; 3 is current; 6 is unchanged.
            vm(11, snapshot(3, current=1), snapshot(9, parent_id=3), snapshot(5, parent_id=9), snapshot(6)),
            without_list,
        ),
    )
    assert str(counts) == (
        "machines: 0 created, 1 updated, 1 unchanged; snapshots: 1 created, 2 updated, 1 unchanged, 1 removed"
    )
    assert [row[:5] for row in select(url, TREE)] == [
        (11, 3, None, "snapshot 3", 1),
        (11, 5, 9, "snapshot 5", 0),
        (11, 6, None, "snapshot 6", 0),
        (11, 9, 3, "snapshot 9", 0),
        (12, 7, None, "snapshot 7", 0),
        (13, 8, None, "snapshot 8", 0),
    ]
    assert select(url, "SELECT id, name, snapshot_count FROM machine ORDER BY id") == [
        (11, "vm 11", 4),
        (12, "renamed", 1),
        (13, "vm 13", 1),
    ]


def test_machine_without_references_is_matched_by_id(url: str, tmp_path: Path) -> None:
    import_pages(url, tmp_path, collection(vm(11, ems_ref=None)))
    assert import_pages(url, tmp_path, collection(vm(11, uid_ems="4221"))).machines.updated == 1
    assert select(url, "SELECT id, provider_ref, provider_uid FROM machine") == [(11, "vm-11", "4221")]


def test_machines_managed_by_a_driver_are_skipped(url: str, tmp_path: Path) -> None:
    import_pages(url, tmp_path, collection(vm(11, snapshot(3)), vm(12, snapshot(4))))
    execute(url, "INSERT INTO provider (name, tenant, driver) VALUES ('lab', 'default', 'simulated')")
    execute(url, "UPDATE machine SET imported = FALSE, provider = 'lab' WHERE id = 11")
    counts = import_pages(url, tmp_path, collection(vm(11, name="other"), vm(12, snapshot(4, name="other"))))
    assert str(counts) == (
        "machines: 0 created, 0 updated, 1 unchanged, 1 skipped (managed by a driver);"
        " snapshots: 0 created, 1 updated, 0 unchanged"
    )
    assert select(url, "SELECT id, name, snapshot_count FROM machine ORDER BY id") == [
        (11, "vm 11", 1),
        (12, "vm 12", 1),
    ]


NEW_MACHINE = insert(
    Machine,
    *("tenant", "kind", "name", "provider", "provider_ref", "power_state", "created_at", "updated_at", "observed_at"),
)
NEW_SNAPSHOT = insert(Snapshot, "tenant", "machine_id", "name", "state", "created_at")


def test_imported_ids_are_not_assigned_again(url: str, tmp_path: Path, opened_database: Callable[[], Any]) -> None:
    import_pages(url, tmp_path, collection(vm(5_000, snapshot(70_000))))
    import_pages(url, tmp_path, collection(vm(4_000, snapshot(60_000))))
    assert next_ids(opened_database) == (5_001, 70_001)


def next_ids(opened_database: Callable[[], Any], provider: str = "manageiq") -> tuple[int, int]:
    async def run() -> tuple[int, int]:
        async def work(tx: Transaction) -> tuple[int, int]:
            moment = now()
            (machine,) = await tx.all(
                NEW_MACHINE,
                tenant="default",
                kind=MachineKind.VM,
                name="new",
                provider=provider,
                provider_ref="new",
                power_state=PowerState.ON,
                created_at=moment,
                updated_at=moment,
                observed_at=moment,
            )
            (row,) = await tx.all(
                NEW_SNAPSHOT,
                tenant="default",
                machine_id=machine.id,
                name="new",
                state=SnapshotState.READY,
                created_at=moment,
            )
            return machine.id, row.id

        async with opened_database() as database:
            numbers: tuple[int, int] = await database.write(work)
            return numbers

    return asyncio.run(run())


def test_import_while_a_gateway_is_open(url: str, tmp_path: Path, opened_database: Callable[[], Any]) -> None:
    async def run() -> list[Any]:
        async with opened_database() as database:
            await database.read(lambda tx: tx.rows("SELECT 1"))
            await asyncio.to_thread(import_pages, url, tmp_path, collection(vm(11, snapshot(3))))
            rows: list[Any] = await database.read(lambda tx: tx.rows("SELECT id FROM snapshot"))
            return [tuple(row) for row in rows]

    assert asyncio.run(run()) == [(3,)]


def test_no_lock_is_held_while_the_file_is_read(url: str, tmp_path: Path) -> None:
    """Another process writes in the middle of a long import."""
    path = tmp_path / "many.json"
    with path.open("w") as out:
        write_dump(out, 3, 6_000, 3_000)  # more than one batch
    written = 0

    def write_meanwhile(progress: ImportProgress) -> None:
        nonlocal written
        if progress.merging:
            execute(url, f"INSERT INTO provider (name, tenant, driver) VALUES ('p{written}', 'default', 'none')")
            written += 1

    import_files(url, [path], tenant="default", report=write_meanwhile)
    assert written == 1
    assert select(url, "SELECT count(*) FROM snapshot") == [(6_000,)]


def test_dump_with_every_format_variant(url: str, tmp_path: Path) -> None:
    for name, seed in (("vms", 1), ("instances", 2)):
        path = tmp_path / f"{name}.json"
        with path.open("w", encoding="utf-8") as out:
            write_dump(out, 7, 300, 100, name, seed)
        if name == "vms":
            import_files(url, [path], tenant="default")
    assert select(url, "SELECT count(*), min(snapshot_count), max(snapshot_count) FROM machine") == [(7, 33, 100)]
    assert select(url, "SELECT count(*) FROM snapshot WHERE is_current") == [(7,)]
    assert select(url, "SELECT count(*) FROM snapshot WHERE parent_id IS NULL") == [(7,)]


@st.composite
def forests(draw: st.DrawFn) -> list[dict[str, Any]]:
    """The snapshots of one machine in any order, with any tree, and at most one current."""
    numbers = draw(st.lists(st.integers(1, 10**15), unique=True, max_size=12))
    current = draw(st.sampled_from([None, *numbers]))
    snapshots = [
        snapshot(
            number,
            name=draw(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)),
            parent_id=draw(st.sampled_from([None, *numbers[:index]])),
            current=int(number == current),
            total_size=draw(st.none() | st.integers(0, 2**63 - 1)),
        )
        for index, number in enumerate(numbers)
    ]
    return draw(st.permutations(snapshots))


@pytest.mark.parametrize("url", SLOW_KINDS, indirect=True)
@settings(max_examples=EXAMPLES // 2)  # of two imports each
@given(first=forests(), second=forests())
def test_any_tree_is_imported_unchanged(url: str, tmp_path: Path, first: Any, second: Any) -> None:
    for snapshots in (first, second):
        import_pages(url, tmp_path, collection(vm(11, *snapshots)))
        assert select(url, TREE) == sorted(
            (11, int(s["id"]), s["parent_id"], s["name"], s["current"], s["total_size"], s["id"]) for s in snapshots
        )
        assert select(url, "SELECT snapshot_count FROM machine") == [(len(snapshots),)]
